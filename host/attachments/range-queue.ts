// SPDX-License-Identifier: Apache-2.0
// Keeps the order of requests that share bytes, and lets all others run side by side.
import { overlaps, type ByteRange } from '../placement/residency.js';

interface Pending {
  readonly range: ByteRange;
  readonly done: Promise<void>;
}

export class RangeQueue {
  private readonly pending = new Set<Pending>();

  /** Runs `work` after everything queued earlier for overlapping bytes has ended, well or not. */
  async run<T>(range: ByteRange, work: () => Promise<T>): Promise<T> {
    const before = [...this.pending]
      .filter((other) => overlaps(other.range, range))
      .map(({ done }) => done);
    let finish = (): void => undefined;
    const entry: Pending = { range, done: new Promise<void>((resolve) => (finish = resolve)) };
    this.pending.add(entry);
    try {
      await Promise.all(before);
      return await work();
    } finally {
      this.pending.delete(entry);
      finish();
    }
  }

  /** Resolves when everything queued before this call has ended. */
  async settled(): Promise<void> {
    await Promise.all([...this.pending].map(({ done }) => done));
  }

  /** Resolves when nothing is queued or running. */
  async idle(): Promise<void> {
    while (this.pending.size > 0) await Promise.all([...this.pending].map(({ done }) => done));
  }
}

/** Runs tasks one after the other; a failure does not stop the next. */
export class Mutex {
  private tail: Promise<unknown> = Promise.resolve();

  run<T>(work: () => Promise<T>): Promise<T> {
    const result = this.tail.then(work);
    this.tail = result.catch(() => undefined);
    return result;
  }
}
