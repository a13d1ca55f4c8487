// SPDX-License-Identifier: Apache-2.0
// What a stranger may cost a feeder, and what is remembered of him: concurrent handshakes, first
// messages already seen, failures counted by reason and logged once per address and interval. Every
// table here has a limit.
import type { Clock } from '../proto/base/clock.js';
import {
  AUTH_FAILURE_ADDRESSES_MAX,
  AUTH_FAILURE_LOG_INTERVAL_MS,
  HANDSHAKE_BYTES_MAX,
  HANDSHAKE_TIMEOUT_MS,
  HANDSHAKES_PER_ADDRESS_MAX,
  HANDSHAKES_TOTAL_MAX,
  REPLAY_RECORDS_MAX,
  SESSIONS_MAX,
} from '../proto/base/limits.js';
import type { Logger } from '../proto/base/log.js';
import type { HelloFlaw } from './client-hello.js';

/** Why a connection was not authenticated. The peer is told none of it. */
export type AuthFailureReason =
  | HelloFlaw
  | 'not_lan' // the peer's address is beyond the LAN
  | 'address_busy' // too many handshakes of this address at once
  | 'crowded_out' // the oldest handshake made room when there were too many of all addresses
  | 'timeout' // the handshake took too long
  | 'cut' // the peer closed before the end
  | 'replayed' // a first message that was already seen
  | 'unknown_identity' // no key has this identity
  | 'wrong_key' // a known identity, but the binder does not verify
  | 'tls' // anything else OpenSSL refused
  | 'sessions_full'; // authenticated, but there are too many sessions

export interface AuthLimits {
  readonly handshakeTimeoutMs: number;
  readonly handshakeBytesMax: number;
  readonly handshakesPerAddressMax: number;
  readonly handshakesTotalMax: number;
  readonly sessionsMax: number;
  readonly failureLogIntervalMs: number;
}

export const DEFAULT_AUTH_LIMITS: AuthLimits = {
  handshakeTimeoutMs: HANDSHAKE_TIMEOUT_MS,
  handshakeBytesMax: HANDSHAKE_BYTES_MAX,
  handshakesPerAddressMax: HANDSHAKES_PER_ADDRESS_MAX,
  handshakesTotalMax: HANDSHAKES_TOTAL_MAX,
  sessionsMax: SESSIONS_MAX,
  failureLogIntervalMs: AUTH_FAILURE_LOG_INTERVAL_MS,
};

/** Counts failures and writes the log line. */
export class FailureLog {
  readonly #counts = new Map<AuthFailureReason, number>();
  readonly #addresses = new Map<string, { count: number; quietUntilMs: number }>();

  constructor(
    private readonly log: Logger,
    private readonly clock: Clock,
    private readonly intervalMs: number,
  ) {}

  /** Counts since start, by reason. */
  counts(): Readonly<Partial<Record<AuthFailureReason, number>>> {
    return Object.fromEntries(this.#counts);
  }

  record(address: string, reason: AuthFailureReason): void {
    this.#counts.set(reason, (this.#counts.get(reason) ?? 0) + 1);
    const nowMs = this.clock.nowMs();
    const entry = this.#addresses.get(address) ?? { count: 0, quietUntilMs: -Infinity };
    entry.count += 1;
    this.#addresses.delete(address); // Put back as the newest.
    this.#addresses.set(address, entry);
    if (this.#addresses.size > AUTH_FAILURE_ADDRESSES_MAX) {
      this.#addresses.delete(this.#addresses.keys().next().value as string);
    }
    if (nowMs < entry.quietUntilMs) return;
    this.log.warn(
      { event: 'auth_failure', address, reason, failureCount: entry.count },
      'a peer was not authenticated; its connection was closed',
    );
    entry.count = 0;
    entry.quietUntilMs = nowMs + this.intervalMs;
  }
}

/** Remembers the newest first messages by their random. An older copy than the table holds still cannot finish a
 *  handshake: the answer to it depends on a key exchange whose secret only the first sender had. */
export class ReplayGuard {
  readonly #seen = new Set<string>();

  /** True the first time. */
  admit(random: Uint8Array): boolean {
    const key = Buffer.from(random).toString('latin1');
    if (this.#seen.has(key)) return false;
    this.#seen.add(key);
    if (this.#seen.size > REPLAY_RECORDS_MAX)
      this.#seen.delete(this.#seen.values().next().value as string);
    return true;
  }
}
