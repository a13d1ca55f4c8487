// SPDX-License-Identifier: Apache-2.0
// The Unix socket programs attach to: accepts, bounds strangers, counts and logs those who break
// the rules.
import { chmodSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import type { Timer } from '../../proto/base/clock.js';
import type { GbError } from '../../proto/base/errors.js';
import {
  ATTACHMENTS_MAX,
  LIMITS_NOTICE_INTERVAL_MS,
  SHIM_REFUSALS_PER_MINUTE_MAX,
  SHIM_STRANGERS_MAX,
} from '../../proto/base/limits.js';
import { ShimSession, type SessionDeps } from './session.js';

export class ShimSocket {
  private readonly sessions = new Set<ShimSession>();
  private readonly server: Server;
  private timer: Timer | undefined;
  /** Peers closed for breaking the rules since the start. */
  violationCount = 0;
  private readonly violationsSeen = new Set<string>();
  private refusals = { startMs: 0, count: 0 };

  constructor(private readonly deps: Omit<SessionDeps, 'onViolation' | 'onRefusal'>) {
    this.server = createServer((socket) => this.accept(socket));
  }

  /** pre: nothing listens on `path`. */
  async listen(path: string): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.server.once('error', reject);
      this.server.listen(path, resolve);
    });
    chmodSync(path, 0o600);
    this.timer = this.deps.clock.every(LIMITS_NOTICE_INTERVAL_MS, () => {
      this.deps.arbiter.update();
      for (const session of this.sessions) session.noticeLimits();
    });
  }

  /** Stops accepting; open sessions stay until their attachments are closed. */
  async close(): Promise<void> {
    this.timer?.cancel();
    const closed = new Promise<void>((resolve) => this.server.close(() => resolve()));
    for (const session of this.sessions) session.close('the agent stops');
    await closed;
  }

  private accept(socket: Socket): void {
    const strangers = [...this.sessions].filter((session) => !session.greeted).length;
    if (
      strangers >= SHIM_STRANGERS_MAX ||
      this.sessions.size >= ATTACHMENTS_MAX + SHIM_STRANGERS_MAX
    ) {
      socket.destroy();
      return;
    }
    const deps: SessionDeps = {
      ...this.deps,
      onViolation: (reason) => this.onViolation(reason),
      onRefusal: (reason) => this.onRefusal(reason),
    };
    this.sessions.add(new ShimSession(socket, deps, (session) => this.sessions.delete(session)));
  }

  /** Each kind of violation is told once; all are counted. */
  private onViolation(reason: GbError): void {
    this.violationCount++;
    const kind = reason.rawMessage.replace(/\d+/g, 'N');
    if (this.violationsSeen.has(kind) || this.violationsSeen.size > 64) return;
    this.violationsSeen.add(kind);
    this.deps.events.add('warning', 'shim_peer_closed', 'a program', reason.rawMessage);
  }

  /** People want to know why a program was not let in, but not a hundred times a second. */
  private onRefusal(reason: GbError): void {
    const nowMs = this.deps.clock.nowMs();
    if (nowMs - this.refusals.startMs >= 60_000) this.refusals = { startMs: nowMs, count: 0 };
    if (++this.refusals.count > SHIM_REFUSALS_PER_MINUTE_MAX) return;
    this.deps.events.add('warning', 'attachment_refused', 'a program', reason.rawMessage);
  }
}
