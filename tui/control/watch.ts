// SPDX-License-Identifier: Apache-2.0
// Keeps a view fed with snapshots for as long as it lives, through agents that die, hang or come back. Never throws:
// what goes wrong is a message. This is the only place with timers besides term/.
import { sleep, systemClock } from '../../proto/base/clock.js';
import { GbError } from '../../proto/base/errors.js';
import { snapshotJson } from '../model/snapshot.js';
import type { Message } from '../model/reducer.js';
import { messagesOf, openAgent, type AgentClient } from './client.js';

const RETRY_DELAY_MS_MIN = 500;
const RETRY_DELAY_MS_MAX = 8_000;
/** A stream that says nothing for this long is asked; no answer means the agent hangs. */
const SILENCE_MS_MAX = 2_500;
const PING_TIMEOUT_MS = 2_000;

export interface WatchOptions {
  readonly intervalMs: number;
  readonly signal: AbortSignal;
  readonly onMessage: (message: Message) => void;
}

async function answers(client: AgentClient, options: WatchOptions): Promise<boolean> {
  try {
    const snapshot = await client.getStatus(
      {},
      { timeoutMs: PING_TIMEOUT_MS, signal: options.signal },
    );
    options.onMessage({
      t: 'snapshot',
      snapshot: snapshotJson(snapshot),
      atMs: systemClock.nowMs(),
    });
    return true;
  } catch {
    return false;
  }
}

/** Watches one connection until it breaks; `onAlive` is told of every sign of life. @throws GbError why it ended. */
async function watchOnce(options: WatchOptions, onAlive: () => void): Promise<void> {
  const client = openAgent();
  const hung = new AbortController();
  const signal = AbortSignal.any([options.signal, hung.signal]);
  let heardAtMs = systemClock.nowMs();
  let asking = false;
  const heard = (): void => {
    heardAtMs = systemClock.nowMs();
    onAlive();
  };
  const guard = systemClock.every(SILENCE_MS_MAX / 5, () => {
    if (asking || systemClock.nowMs() - heardAtMs < SILENCE_MS_MAX) return;
    asking = true;
    void answers(client, options).then((alive) => {
      asking = false;
      if (alive) heard();
      else hung.abort();
    });
  });
  try {
    for await (const message of messagesOf(
      client.watch({ intervalMs: options.intervalMs }, { signal }),
    )) {
      heard();
      options.onMessage({ t: 'snapshot', snapshot: snapshotJson(message), atMs: heardAtMs });
    }
    throw new GbError('AGENT_UNREACHABLE', 'the agent ended the stream');
  } catch (reason) {
    if (hung.signal.aborted) throw new GbError('AGENT_UNREACHABLE', 'the agent does not answer');
    throw reason;
  } finally {
    guard.cancel();
    client.close();
  }
}

function causeOf(reason: unknown): string {
  const text = GbError.from(reason).rawMessage;
  return /ENOENT|ECONNREFUSED|No connection established/.test(text) ? 'no agent is running' : text;
}

/** Runs until `signal` is aborted. Retries half a second after a break, then doubling to 8 s, with jitter. */
export async function watchAgent(options: WatchOptions): Promise<void> {
  let delayMs = RETRY_DELAY_MS_MIN;
  while (!options.signal.aborted) {
    try {
      await watchOnce(options, () => (delayMs = RETRY_DELAY_MS_MIN));
    } catch (reason) {
      if (options.signal.aborted) return;
      const waitMs = delayMs * (0.8 + 0.4 * Math.random());
      const atMs = systemClock.nowMs();
      options.onMessage({ t: 'away', cause: causeOf(reason), atMs, retryAtMs: atMs + waitMs });
      delayMs = Math.min(RETRY_DELAY_MS_MAX, delayMs * 2);
      await sleep(waitMs, options.signal).catch(() => undefined);
    }
  }
}
