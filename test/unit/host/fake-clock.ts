// SPDX-License-Identifier: Apache-2.0
// A clock that stands still until told to go on.
import type { Clock, Timer } from '../../../proto/base/clock.js';

interface Due {
  atMs: number;
  readonly everyMs: number | undefined;
  readonly callback: () => void;
}

export class FakeClock implements Clock {
  private timeMs = 1_000_000;
  private readonly due = new Set<Due>();

  nowMs(): number {
    return this.timeMs;
  }

  unixMs(): number {
    return 1_760_000_000_000 + this.timeMs;
  }

  after(delayMs: number, callback: () => void): Timer {
    return this.arm({ atMs: this.timeMs + delayMs, everyMs: undefined, callback });
  }

  every(intervalMs: number, callback: () => void): Timer {
    return this.arm({ atMs: this.timeMs + intervalMs, everyMs: intervalMs, callback });
  }

  /** Timers that are armed; a stopped thing leaves none. */
  get armed(): number {
    return this.due.size;
  }

  /** Lets time pass, timer by timer, with everything promised in between. */
  async advance(ms: number): Promise<void> {
    const end = this.timeMs + ms;
    await settle();
    for (;;) {
      const next = [...this.due]
        .filter(({ atMs }) => atMs <= end)
        .sort((a, b) => a.atMs - b.atMs)[0];
      if (!next) break;
      this.timeMs = Math.max(this.timeMs, next.atMs);
      if (next.everyMs === undefined) this.due.delete(next);
      else next.atMs += next.everyMs;
      next.callback();
      await settle();
    }
    this.timeMs = end;
  }

  private arm(entry: Due): Timer {
    this.due.add(entry);
    return { cancel: () => void this.due.delete(entry) };
  }
}

/** Lets all promises that can go on go on. */
export async function settle(): Promise<void> {
  for (let turn = 0; turn < 4; turn++) await new Promise((resolve) => setImmediate(resolve));
}
