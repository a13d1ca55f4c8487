// SPDX-License-Identifier: Apache-2.0
// The GPUs of this machine, as the tiers see them. Where the figures come from is decided once, at the start.

export interface LocalGpu {
  readonly index: number;
  readonly name: string;
  readonly totalBytes: number;
  /** Used by everybody on this machine. */
  readonly usedBytes: number;
  readonly simulated: boolean;
}

export interface GpuSource {
  /** @throws GbError DRIVER_ERROR when the driver does not answer. */
  list(): readonly LocalGpu[];
  close(): void;
}

/** A machine whose GPUs the agent is not to look at, or that has none. */
export const noGpus: GpuSource = { list: () => [], close: () => undefined };

export function openGpuSource(_choice: 'auto' | 'none'): GpuSource {
  return noGpus;
}
