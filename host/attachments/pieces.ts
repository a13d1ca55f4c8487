// SPDX-License-Identifier: Apache-2.0
// Small pure things about ranges, copies and the errors that concern them.
import { GbError } from '../../proto/base/errors.js';
import {
  overlaps,
  rangeEnd,
  type ByteRange,
  type Copy,
  type Extent,
} from '../placement/residency.js';
import { isOf, type Hold, type Room } from './holds.js';

/** A range that a feeder may hold for us and that is not the program's any more. */
export interface Discard extends ByteRange {
  readonly feederId: string;
  readonly leaseId: string;
}

/** The extents that reserved room becomes, side by side from `offset` on. */
export function extentsOf(offset: number, rooms: readonly Room[]): Extent[] {
  let position = offset;
  return rooms.map(({ bytes, places }) => {
    const range = { offset: position, length: bytes };
    position += bytes;
    const copies = places.map(({ hold, deviceKey }) => {
      const { feederId, feederName, leaseId, lane } = hold;
      return { ...range, feederId, feederName, deviceKey, leaseId, lane, lost: false };
    });
    return { ...range, copies };
  });
}

export function discardOf({ feederId, leaseId }: Copy, { offset, length }: ByteRange): Discard {
  return { feederId, leaseId, offset, length };
}

/** True when `discard` means exactly that. */
export function isSameDiscard(a: Discard, b: Discard): boolean {
  const sameLease = a.feederId === b.feederId && a.leaseId === b.leaseId;
  return sameLease && a.offset === b.offset && a.length === b.length;
}

/** What of `range` is in none of `taken`; in order. */
export function without(range: ByteRange, taken: readonly ByteRange[]): ByteRange[] {
  const left: ByteRange[] = [];
  let { offset } = range;
  const hits = taken.filter((other) => overlaps(other, range));
  for (const hit of [...hits].sort((a, b) => a.offset - b.offset)) {
    if (hit.offset > offset) left.push({ offset, length: hit.offset - offset });
    offset = Math.max(offset, rangeEnd(hit));
  }
  if (offset < rangeEnd(range)) left.push({ offset, length: rangeEnd(range) - offset });
  return left;
}

/** The bytes of a copy or lease are gone with its feeder. */
export function lossOf(of: { readonly feederName: string }): GbError {
  return new GbError('DATA_LOSS', `the bytes are gone with feeder ${of.feederName}`, {
    details: { feeder: of.feederName },
  });
}

/** The same error, naming the feeder for the program. */
export function withFeeder(error: GbError, feeder: string): GbError {
  return new GbError(error.code, error.rawMessage, {
    cause: error,
    details: { ...error.details, feeder },
  });
}

/** Equal for equal ranges of one device. */
export const rangeKey = (range: ByteRange & { deviceKey: string }): string =>
  `${range.deviceKey}/${range.offset}/${range.length}`;

/** True when our copy is that range of the feeder's. */
export function isSame(copy: Copy, range: ByteRange & { deviceKey: string }, hold: Hold): boolean {
  return isOf(copy, hold) && rangeKey(copy) === rangeKey(range);
}

/** Adjacent ranges as one; in order. */
export function mergeRanges(ranges: readonly ByteRange[]): ByteRange[] {
  const merged: { offset: number; length: number }[] = [];
  for (const { offset, length } of [...ranges].sort((a, b) => a.offset - b.offset)) {
    const last = merged.at(-1);
    if (last && rangeEnd(last) === offset) last.length += length;
    else merged.push({ offset, length });
  }
  return merged;
}
