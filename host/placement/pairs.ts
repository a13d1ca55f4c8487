// SPDX-License-Identifier: Apache-2.0
// Two copies of every byte, on two different feeders. Pure: what fits, and which two next. As long as
// no feeder has more free bytes than all others together, everything that is free can be used in
// pairs; each step here keeps it so.
import { assert } from '../../proto/base/assert.js';

export interface PairOffer {
  readonly key: string;
  readonly freeBytes: number;
}

export interface Pair {
  readonly first: string;
  readonly second: string;
  /** The same bytes on both. */
  readonly bytes: number;
}

/** How many bytes find room twice. */
export function pairCapacity(offers: readonly PairOffer[]): number {
  const total = sum(offers);
  const largest = Math.max(0, ...offers.map(({ freeBytes }) => freeBytes));
  return Math.max(0, Math.min(total / 2, total - largest));
}

/** Pairs for `bytes`, always of the two that have most; among equals the earlier is first. undefined
 *  when there is not room enough. pre: everything is in whole granules. */
export function pairUp(
  offers: readonly PairOffer[],
  bytes: number,
  granuleBytes: number,
): Pair[] | undefined {
  assert(bytes > 0 && bytes % granuleBytes === 0, 'a placement has whole granules');
  const left = offers.map(({ key, freeBytes }) => ({ key, freeBytes }));
  const pairs: Pair[] = [];
  let missing = bytes;
  while (missing > 0) {
    left.sort((a, b) => b.freeBytes - a.freeBytes);
    const [first, second, third] = left;
    if (!first || !second || second.freeBytes < granuleBytes) return undefined;
    const half = Math.floor(sum(left) / 2 / granuleBytes) * granuleBytes;
    const untilThird = half - (third?.freeBytes ?? 0);
    const step = Math.min(missing, second.freeBytes, Math.max(granuleBytes, untilThird));
    first.freeBytes -= step;
    second.freeBytes -= step;
    pairs.push({ first: first.key, second: second.key, bytes: step });
    missing -= step;
  }
  return pairs;
}

const sum = (offers: readonly PairOffer[]): number =>
  offers.reduce((total, { freeBytes }) => total + freeBytes, 0);
