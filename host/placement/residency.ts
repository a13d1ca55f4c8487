// SPDX-License-Identifier: Apache-2.0
// Which feeder holds which range of one attachment's arena: disjoint extents in order of offset. No
// I/O.
import { assert } from '../../proto/base/assert.js';
import { GbError } from '../../proto/base/errors.js';

export interface ByteRange {
  readonly offset: number;
  readonly length: number;
}

/** A range as it was allocated on one device of one feeder. Compared by identity: extents that were
 *  cut from one range share it, and it is freed when none of them needs it any more. */
export interface Copy extends ByteRange {
  readonly feederId: string;
  readonly feederName: string;
  /** `kind:index` of the feeder's device. */
  readonly deviceKey: string;
  readonly leaseId: string;
  /** The number by which the program knows the lease. */
  readonly lane: number;
  /** The feeder is gone with the bytes. */
  lost: boolean;
}

/** A run of bytes of the arena and where it lies: one copy, or two on two feeders. */
export interface Extent extends ByteRange {
  readonly copies: readonly Copy[];
}

/** No copy of it is left. */
export const isLost = ({ copies }: Extent): boolean => copies.every(({ lost }) => lost);

/** The copy that is read first. */
export const mainCopy = ({ copies }: Extent): Copy =>
  copies.find(({ lost }) => !lost) ?? (copies[0] as Copy);

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

  /** Puts `to` in the place of `from` for exactly the bytes of `range`, cutting extents at its ends.
   *  pre: extents with `from` cover the range. */
  swap(range: ByteRange, from: Copy, to: Copy): void {
    this.cut(range);
    this.update(range, (copies) => {
      assert(copies.includes(from), 'only a copy that is there is replaced');
      return copies.map((copy) => (copy === from ? to : copy));
    });
  }

  /** Notes that `range` lies in `copy` too, or only there. pre: `range` lies within the copy's. */
  add(range: ByteRange, copy: Copy): void {
    this.cut(range);
    this.update(range, (copies) => [...copies, copy]);
    let offset = range.offset;
    for (const extent of [...this.within(range), { offset: rangeEnd(range), length: 0 }]) {
      const length = extent.offset - offset;
      if (length > 0) this.insert({ offset, length, copies: [copy] });
      offset = rangeEnd(extent);
    }
  }

  /** Takes `copy` out of every extent; extents without another are forgotten. */
  forget(copy: Copy): void {
    for (const extent of this.extents.filter(({ copies }) => copies.includes(copy))) {
      const copies = extent.copies.filter((other) => other !== copy);
      this.remove(extent);
      if (copies.length > 0) this.insert({ ...extent, copies });
    }
  }

  /** True while an extent lies in it. */
  needs(copy: Copy): boolean {
    return this.extents.some(({ copies }) => copies.includes(copy));
  }

  /** Every copy, each once. */
  get copies(): Copy[] {
    return [...new Set(this.extents.flatMap(({ copies }) => copies))];
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

  /** Marks copies lost. Returns the extents that have lost their last one, and those that have lost
   *  one of two. */
  lose(predicate: (copy: Copy) => boolean): { gone: Extent[]; bare: Extent[] } {
    const hit = new Set(this.copies.filter((copy) => !copy.lost && predicate(copy)));
    for (const copy of hit) copy.lost = true;
    const touched = this.extents.filter(({ copies }) => copies.some((copy) => hit.has(copy)));
    return { gone: touched.filter(isLost), bare: touched.filter((extent) => !isLost(extent)) };
  }

  /** Cuts extents so that none reaches across an end of `range`. */
  private cut(range: ByteRange): void {
    for (const at of [range.offset, rangeEnd(range)]) {
      const extent = this.within({ offset: at, length: 1 })[0];
      if (!extent || extent.offset === at) continue;
      this.remove(extent);
      this.insert({ ...extent, length: at - extent.offset });
      this.insert({ ...extent, offset: at, length: rangeEnd(extent) - at });
    }
  }

  /** pre: extents are cut at the ends of `range`. */
  private update(range: ByteRange, next: (copies: readonly Copy[]) => readonly Copy[]): void {
    for (const extent of this.within(range)) {
      this.extents[this.extents.indexOf(extent)] = { ...extent, copies: next(extent.copies) };
    }
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
