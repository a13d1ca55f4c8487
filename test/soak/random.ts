// SPDX-License-Identifier: Apache-2.0
// Chance that can be repeated.
export class Random {
  private state: number;

  constructor(seed: number) {
    this.state = seed >>> 0;
  }

  /** In [0, limit). */
  below(limit: number): number {
    this.state = (this.state + 0x6d2b79f5) >>> 0;
    let value = Math.imul(this.state ^ (this.state >>> 15), this.state | 1);
    value ^= value + Math.imul(value ^ (value >>> 7), value | 61);
    return ((value ^ (value >>> 14)) >>> 0) % limit;
  }

  from<T>(items: readonly T[]): T {
    return items[this.below(items.length)] as T;
  }

  /** Another sequence, for somebody who runs at the same time. */
  fork(): Random {
    return new Random(this.below(2 ** 31));
  }
}
