// SPDX-License-Identifier: Apache-2.0
// Crockford's base32 (no I, L, O, U; I and L read as 1, O as 0), five bits a character, most significant first.
const ALPHABET = '0123456789ABCDEFGHJKMNPQRSTVWXYZ';

const VALUES: ReadonlyMap<string, number> = new Map([
  ...[...ALPHABET].map((character, value) => [character, value] as const),
  ['I', 1],
  ['L', 1],
  ['O', 0],
]);

/** Upper case, no padding. pre: the length of `bytes` is a multiple of five, so that no bits are left over. */
export function encodeBase32(bytes: Uint8Array): string {
  if (bytes.length % 5 !== 0) throw new RangeError('base32 here takes multiples of five bytes');
  let text = '';
  let bits = 0;
  let value = 0;
  for (const byte of bytes) {
    value = ((value << 8) | byte) & 0xfff;
    bits += 8;
    while (bits >= 5) {
      bits -= 5;
      text += ALPHABET[(value >> bits) & 31];
    }
  }
  return text;
}

/** The bytes of `text` (upper case, a multiple of eight characters), or undefined when a character is none of ours. */
export function decodeBase32(text: string): Uint8Array | undefined {
  if (text.length % 8 !== 0)
    throw new RangeError('base32 here takes multiples of eight characters');
  const bytes = new Uint8Array((text.length / 8) * 5);
  let used = 0;
  let bits = 0;
  let value = 0;
  for (const character of text) {
    const digit = VALUES.get(character);
    if (digit === undefined) return undefined;
    value = ((value << 5) | digit) & 0xfff;
    bits += 5;
    if (bits >= 8) {
      bits -= 8;
      bytes[used++] = (value >> bits) & 0xff;
    }
  }
  return bytes;
}
