// SPDX-License-Identifier: Apache-2.0
// The ranges of one lease, sorted by offset, never overlapping. Pure.
import { GbError } from '../proto/base/errors.js';
import type { DeviceKey } from './pool.js';

export interface HeldRange {
  readonly device: DeviceKey;
  readonly offset: number;
  readonly length: number;
  lockedBytes: number;
  /** False while it is being mapped or freed: it keeps its place, and no transfer may touch it. */
  ready: boolean;
}

export class RangeSet {
  private readonly sorted: HeldRange[] = [];

  get count(): number {
    return this.sorted.length;
  }

  all(): readonly HeldRange[] {
    return this.sorted;
  }

  /** @throws GbError ALREADY_EXISTS when it overlaps another range of the lease. */
  add(range: HeldRange): void {
    const index = this.firstEndingAfter(range.offset);
    const next = this.sorted[index];
    if (next && this.overlaps(range.offset, range.length)) {
      throw new GbError(
        'ALREADY_EXISTS',
        `the range overlaps one at offset ${next.offset} of ${next.length} bytes`,
      );
    }
    this.sorted.splice(index, 0, range);
  }

  overlaps(offset: number, length: number): boolean {
    const next = this.sorted[this.firstEndingAfter(offset)];
    return next !== undefined && next.offset < offset + length;
  }

  find(device: DeviceKey, offset: number, length: number): HeldRange | undefined {
    const range = this.sorted[this.firstEndingAfter(offset)];
    return range?.offset === offset && range.length === length && range.device === device
      ? range
      : undefined;
  }

  remove(range: HeldRange): void {
    const index = this.firstEndingAfter(range.offset);
    if (this.sorted[index] === range) this.sorted.splice(index, 1);
  }

  private firstEndingAfter(offset: number): number {
    let low = 0;
    let high = this.sorted.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const range = this.sorted[middle] as HeldRange;
      if (range.offset + range.length > offset) high = middle;
      else low = middle + 1;
    }
    return low;
  }
}
