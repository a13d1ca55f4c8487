// SPDX-License-Identifier: Apache-2.0
// Small pure things about ranges, extents and the errors that concern them.
import { GbError } from '../../proto/base/errors.js';
import { TRANSFER_BYTES_MAX } from '../../proto/base/limits.js';
import { rangeEnd, type ByteRange, type Extent, type Segment } from '../placement/residency.js';
import { isOf, type Hold, type Reservation } from './feeder-budget.js';

/** A range that a feeder may hold for us and that has to be freed there. */
export interface Discard extends ByteRange {
  readonly feederId: string;
  readonly leaseId: string;
}

/** The extents that reserved room becomes, side by side from `offset` on. */
export function extentsOf(offset: number, parts: readonly Reservation[]): Extent[] {
  let position = offset;
  return parts.map(({ hold: { feederId, feederName, leaseId }, deviceKey, bytes }) => {
    const extent = { offset: position, length: bytes, feederId, feederName, deviceKey, leaseId };
    position += bytes;
    return { ...extent, lost: false };
  });
}

export function discardOf({ feederId, leaseId, offset, length }: Extent): Discard {
  return { feederId, leaseId, offset, length };
}

/** True when `discard` means that extent. */
export function isDiscarded(discard: Discard, extent: Extent): boolean {
  const { feederId, leaseId, offset, length } = discard;
  const sameLease = feederId === extent.feederId && leaseId === extent.leaseId;
  return sameLease && offset === extent.offset && length === extent.length;
}

/** All of an extent as a segment. */
export function wholeSegment(extent: Extent): Segment {
  return { offset: extent.offset, length: extent.length, extent };
}

/** The bytes of an extent or lease are gone with its feeder. */
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
export const extentKey = (extent: ByteRange & { deviceKey: string }): string =>
  `${extent.deviceKey}/${extent.offset}/${extent.length}`;

/** True when our extent is that range of the feeder's. */
export function isSame(
  extent: Extent,
  range: ByteRange & { deviceKey: string },
  hold: Hold,
): boolean {
  return isOf(extent, hold) && extentKey(extent) === extentKey(range);
}

/** What a lease may hold on all its devices. */
export function holdLimit(hold: Hold): number {
  return [...hold.devices.values()].reduce((sum, { limitBytes }) => sum + limitBytes, 0);
}

/** Pieces of at most `bytesMax`, in order. */
export function splitSegments(
  segments: readonly Segment[],
  bytesMax = TRANSFER_BYTES_MAX,
): Segment[] {
  return segments.flatMap(({ offset, length, extent }) => {
    const pieces: Segment[] = [];
    for (let at = 0; at < length; at += bytesMax) {
      pieces.push({ offset: offset + at, length: Math.min(bytesMax, length - at), extent });
    }
    return pieces;
  });
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
