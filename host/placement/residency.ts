// SPDX-License-Identifier: Apache-2.0
// Which feeder holds which range of one attachment's arena: disjoint extents in order of offset. No
// I/O.
import { assert } from '../../proto/base/assert.js';
import { GbError } from '../../proto/base/errors.js';

export interface ByteRange {
  readonly offset: number;
  readonly length: number;
}

/** A run of bytes on one device of one feeder, as it was allocated there. */
export interface Extent extends ByteRange {
  readonly feederId: string;
  readonly feederName: string;
  /** `kind:index` of the feeder's device. */
  readonly deviceKey: string;
  readonly leaseId: string;
  /** The feeder is gone with the bytes. */
  readonly lost: boolean;
}

/** The part of an extent that a transfer concerns. */
export interface Segment extends ByteRange {
  readonly extent: Extent;
}

export const rangeEnd = (range: ByteRange): number => range.offset + range.length;

export const overlaps = (a: ByteRange, b: ByteRange): boolean =>
  a.offset < rangeEnd(b) && b.offset < rangeEnd(a);

export class Residency {
  private readonly extents: Extent[] = [];

  get all(): readonly Extent[] {
    return this.extents;
  }

  /** Extents that share bytes with `range`, in order. */
  within(range: ByteRange): Extent[] {
    const found: Extent[] = [];
    for (let index = this.firstEndingAfter(range.offset); index < this.extents.length; index++) {
      const extent = this.extents[index] as Extent;
      if (extent.offset >= rangeEnd(range)) break;
      found.push(extent);
    }
    return found;
  }

  /** pre: the bytes are free. */
  insert(extent: Extent): void {
    assert(extent.length > 0, 'an extent has bytes');
    const index = this.firstEndingAfter(extent.offset);
    const next = this.extents[index];
    assert(!next || next.offset >= rangeEnd(extent), 'extents do not overlap');
    this.extents.splice(index, 0, extent);
  }

  /** pre: `extent` is one of ours. */
  remove(extent: Extent): void {
    const index = this.extents.indexOf(extent);
    assert(index >= 0, 'only a known extent is removed');
    this.extents.splice(index, 1);
  }

  /** Puts `next` in the place of `extent`. pre: same range. */
  replace(extent: Extent, next: Extent): void {
    assert(
      extent.offset === next.offset && extent.length === next.length,
      'a replacement covers the same range',
    );
    const index = this.extents.indexOf(extent);
    assert(index >= 0, 'only a known extent is replaced');
    this.extents[index] = next;
  }

  /** The pieces that make up `range`. @throws GbError NOT_FOUND when any byte of it was never
   *  placed. */
  cover(range: ByteRange): Segment[] {
    const segments: Segment[] = [];
    let offset = range.offset;
    for (const extent of this.within(range)) {
      if (extent.offset > offset) break;
      const end = Math.min(rangeEnd(extent), rangeEnd(range));
      segments.push({ offset, length: end - offset, extent });
      offset = end;
    }
    if (offset !== rangeEnd(range)) {
      throw new GbError('NOT_FOUND', `offset ${offset} of the arena is on no feeder`);
    }
    return segments;
  }

  /** Extents that `range` covers wholly. @throws GbError NOT_FOUND when there is none,
   *  INVALID_ARGUMENT when one is only covered in part. */
  wholeExtents(range: ByteRange): Extent[] {
    const found = this.within(range);
    if (found.length === 0) throw new GbError('NOT_FOUND', 'the range is on no feeder');
    for (const extent of found) {
      if (extent.offset < range.offset || rangeEnd(extent) > rangeEnd(range)) {
        throw new GbError('INVALID_ARGUMENT', 'the range cuts through an extent as it was placed');
      }
    }
    return found;
  }

  /** Marks extents lost and returns what they are now. */
  lose(predicate: (extent: Extent) => boolean): Extent[] {
    const lost: Extent[] = [];
    for (const [index, extent] of this.extents.entries()) {
      if (extent.lost || !predicate(extent)) continue;
      const next = { ...extent, lost: true };
      this.extents[index] = next;
      lost.push(next);
    }
    return lost;
  }

  private firstEndingAfter(offset: number): number {
    let low = 0;
    let high = this.extents.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (rangeEnd(this.extents[middle] as Extent) > offset) high = middle;
      else low = middle + 1;
    }
    return low;
  }
}
