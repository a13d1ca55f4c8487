// SPDX-License-Identifier: Apache-2.0
// Waiting until a link is ready, or will not be.
import type { Clock } from '../../proto/base/clock.js';
import { GbError } from '../../proto/base/errors.js';
import type { Link } from './link.js';

/** Wakes everybody who waits for something to change. */
export class News {
  private readonly waiters = new Set<() => void>();

  tell(): void {
    for (const waiter of [...this.waiters]) waiter();
  }

  /** Resolves at the next `tell`. */
  next(): Promise<void> {
    return new Promise((resolve) => {
      const waiter = (): void => {
        this.waiters.delete(waiter);
        resolve();
      };
      this.waiters.add(waiter);
    });
  }
}

/** Resolves when the link is ready. Cancel: `signal`. @throws GbError FEEDER_UNREACHABLE after
 *  `timeoutMs`; what the link was refused for; CANCELED. */
export async function awaitReady(
  link: Link,
  options: { timeoutMs: number; signal: AbortSignal; clock: Clock; news: News },
): Promise<void> {
  const { timeoutMs, signal, clock, news } = options;
  let late = false;
  const timer = clock.after(timeoutMs, () => {
    late = true;
    news.tell();
  });
  const onAbort = (): void => news.tell();
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    for (;;) {
      if (link.state === 'ready') return;
      if (link.refusal) throw link.refusal;
      if (link.state === 'closed') throw new GbError('CANCELED', link.detail);
      if (signal.aborted) throw new GbError('CANCELED', 'the caller gave up');
      if (late) {
        const why = link.detail || 'no answer';
        throw new GbError('FEEDER_UNREACHABLE', `no connection to ${link.options.address}: ${why}`);
      }
      await news.next();
    }
  } finally {
    timer.cancel();
    signal.removeEventListener('abort', onAbort);
  }
}

/** Resolves when every link is ready and measured, or is not on its way to that, or after `timeoutMs`. */
export async function awaitSettled(
  links: () => readonly Link[],
  options: { timeoutMs: number; clock: Clock; news: News },
): Promise<void> {
  const { timeoutMs, clock, news } = options;
  let late = false;
  const timer = clock.after(timeoutMs, () => {
    late = true;
    news.tell();
  });
  const isOnItsWay = ({ state }: Link): boolean =>
    state === 'connecting' || state === 'handshaking';
  try {
    while (!late && links().some(isOnItsWay)) await news.next();
  } finally {
    timer.cancel();
  }
}
