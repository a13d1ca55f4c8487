// SPDX-License-Identifier: Apache-2.0
// Many small changes, few messages: watchers get the newest whole state, never a backlog.
import type { Clock } from '../../proto/base/clock.js';

/** Says that something people see has changed. Carries nothing: the state is read when it is sent.
 *  */
export class ChangeBus {
  private readonly listeners = new Set<() => void>();

  touch(): void {
    for (const listener of this.listeners) listener();
  }

  /** Returns how to stop. */
  listen(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => void this.listeners.delete(listener);
  }
}

interface Drainable {
  once(event: 'drain', listener: () => void): unknown;
  removeListener(event: 'drain', listener: () => void): unknown;
}

interface Sink<T> extends Drainable {
  write(message: T): boolean;
}

/** Resolves when what `arm` armed calls back, or when `signal` is aborted; disarms it either way.
 *  pre: the callback does not come before `arm` has returned how to disarm. */
export function until(signal: AbortSignal, arm: (done: () => void) => () => void): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const done = (): void => {
      disarm();
      signal.removeEventListener('abort', done);
      resolve();
    };
    const disarm = arm(done);
    signal.addEventListener('abort', done, { once: true });
  });
}

/** Resolves when the stream takes more, or ends. */
export function untilDrained(stream: Drainable, signal: AbortSignal): Promise<void> {
  return until(signal, (done) => {
    stream.once('drain', done);
    return () => void stream.removeListener('drain', done);
  });
}

/** Writes `message()` now and after changes, at most once per interval and only while the sink
 *  takes it. Resolves when `signal` is aborted. */
export async function newestOnly<T>(
  sink: Sink<T>,
  options: {
    changes: ChangeBus;
    clock: Clock;
    intervalMs: number;
    signal: AbortSignal;
    message: () => T;
  },
): Promise<void> {
  const { changes, clock, intervalMs, signal, message } = options;
  let dirty = true;
  const stop = changes.listen(() => (dirty = true));
  try {
    while (!signal.aborted) {
      if (!dirty) await until(signal, (done) => changes.listen(done));
      dirty = false;
      if (signal.aborted) return;
      if (!sink.write(message())) await untilDrained(sink, signal);
      await until(signal, (done) => {
        const timer = clock.after(intervalMs, done);
        return () => timer.cancel();
      });
    }
  } finally {
    stop();
  }
}
