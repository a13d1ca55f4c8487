// SPDX-License-Identifier: Apache-2.0
// Attempts to get a connection, one after the other, with growing delays.
import type { Clock, Timer } from '../../proto/base/clock.js';
import { GbError } from '../../proto/base/errors.js';
import { RECONNECT_DELAY_MS_MAX, RECONNECT_DELAY_MS_MIN } from '../../proto/base/limits.js';

export interface Attempts {
  cancel(): void;
}

/** Calls `attempt` until it resolves or `cancel`; `failed` hears of each that threw. The first one starts after the
 *  caller is done. random: in [0, 1), spreads the attempts of many hosts. */
export function keepTrying(
  { clock, random }: { readonly clock: Clock; readonly random: () => number },
  attempt: (signal: AbortSignal) => Promise<void>,
  failed: (error: GbError) => void,
): Attempts {
  const controller = new AbortController();
  const { signal } = controller;
  let delayMs = RECONNECT_DELAY_MS_MIN;
  const once = (): void => {
    attempt(signal).catch((reason: unknown) => {
      if (signal.aborted) return;
      failed(GbError.from(reason, 'FEEDER_UNREACHABLE'));
      if (signal.aborted) return;
      timer = clock.after(delayMs * (0.75 + random() / 2), once);
      delayMs = Math.min(RECONNECT_DELAY_MS_MAX, delayMs * 2);
    });
  };
  let timer: Timer = clock.after(0, once);
  return {
    cancel() {
      timer.cancel();
      controller.abort(new GbError('CANCELED', 'no longer wanted'));
    },
  };
}
