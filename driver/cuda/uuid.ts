// SPDX-License-Identifier: Apache-2.0
// How CUDA, NVML and people write the UUID of a GPU.

/** `GPU-` and the 16 bytes in groups of 4, 2, 2, 2 and 6. */
export function formatUuid(bytes: Uint8Array): string {
  const hex = Buffer.from(bytes).toString('hex');
  const parts = [
    hex.slice(0, 8),
    hex.slice(8, 12),
    hex.slice(12, 16),
    hex.slice(16, 20),
    hex.slice(20, 32),
  ];
  return `GPU-${parts.join('-')}`;
}

/** The 16 bytes of what formatUuid wrote; zeroes for anything else. */
export function parseUuid(text: string): Uint8Array {
  const isOne = /^GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(text);
  const hex = text.slice('GPU-'.length).replaceAll('-', '');
  return isOne ? Uint8Array.from(Buffer.from(hex, 'hex')) : new Uint8Array(16);
}
