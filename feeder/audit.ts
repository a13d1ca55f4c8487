// SPDX-License-Identifier: Apache-2.0
// What of a feeder's life goes into the audit log (security/audit.ts), and in which words.
import type { Clock, Timer } from '../proto/base/clock.js';
import { GbError } from '../proto/base/errors.js';
import { KEY_SWEEP_INTERVAL_MS } from '../proto/base/limits.js';
import type { AuditFacts, AuditLog } from '../security/audit.js';
import type { AuthenticatedSession, AuthFailure, SessionEnd } from '../security/listener.js';
import { keyFingerprint, type PairingKey } from '../security/pairing.js';
import type { HostIdentity } from './sessions.js';

/** A lane as it is named in the log; the id of a ticket is public. */
export interface AuditedLane {
  readonly ticketId: Uint8Array;
  readonly lease?: string;
  readonly address?: string;
}

export class FeederAudit {
  private accepted: readonly string[] = [];
  private keySweep: Timer | undefined;
  /** When sessions began, to say how long they were. Entries end with their session. */
  private readonly openedMs = new Map<string, number>();

  constructor(
    private readonly audit: AuditLog,
    private readonly clock: Clock,
  ) {}

  /** From now on the keys are looked at once a second. */
  started(feeder: string, addresses: readonly string[], keys: () => readonly PairingKey[]): void {
    const fingerprints = (): string[] => keys().map(keyFingerprint);
    this.accepted = fingerprints();
    this.audit.record('feeder_started', { feeder, addresses, fingerprints: this.accepted });
    this.keySweep = this.clock.every(KEY_SWEEP_INTERVAL_MS, () => {
      const now = fingerprints();
      if (now.join() === this.accepted.join()) return;
      this.accepted = now;
      this.audit.record('keys_changed', { fingerprints: now });
    });
  }

  /** Also after a start that failed. */
  stopped(feeder: string): void {
    this.keySweep?.cancel();
    if (this.keySweep) this.audit.record('feeder_stopped', { feeder });
    this.audit.close();
  }

  sessionOpened(session: AuthenticatedSession): void {
    this.openedMs.set(session.sessionId, this.clock.nowMs());
    this.audit.record('session_opened', factsOf(session));
  }

  sessionNamed(session: AuthenticatedSession, { hostId, hostName }: HostIdentity): void {
    this.audit.record('session_named', { ...factsOf(session), host: hostId, hostName });
  }

  /** Authenticated, and yet turned away: another version, a bad name. */
  helloRefused(session: AuthenticatedSession, reason: unknown): void {
    const { code, rawMessage } = GbError.from(reason);
    this.audit.refused('session_refused', {
      ...factsOf(session),
      address: session.remoteAddress,
      reason: code.toLowerCase(),
      text: rawMessage,
    });
  }

  sessionClosed(session: AuthenticatedSession, reason: SessionEnd): void {
    const openedMs = this.openedMs.get(session.sessionId) ?? this.clock.nowMs();
    this.openedMs.delete(session.sessionId);
    const seconds = Math.round(this.clock.nowMs() - openedMs) / 1000;
    this.audit.record('session_closed', { ...factsOf(session), reason, seconds });
  }

  failed({ address, reason, keyFingerprint: fingerprint }: AuthFailure): void {
    this.audit.refused('session_refused', { address, reason, fingerprint });
  }

  laneTicket(session: AuthenticatedSession, lane: AuditedLane): void {
    this.audit.record('lane_ticket', { ...factsOf(session), ...laneFacts(lane) });
  }

  laneOpened(lane: AuditedLane): void {
    this.audit.record('lane_opened', laneFacts(lane));
  }

  laneClosed(lane: AuditedLane, reason: string): void {
    this.audit.record('lane_closed', { ...laneFacts(lane), reason });
  }

  laneRefused(address: string, reason: string, text?: string): void {
    this.audit.refused('lane_refused', { address: withoutPort(address), reason, text });
  }
}

function factsOf(session: AuthenticatedSession): AuditFacts {
  const { sessionId, peer, keyFingerprint: fingerprint } = session;
  return { session: sessionId, address: peer, fingerprint };
}

/** Before a lane is opened nobody is at its other end. */
function laneFacts({ ticketId, lease, address }: AuditedLane): AuditFacts {
  const ticket = Buffer.from(ticketId).toString('hex');
  return {
    ticket,
    ...(lease === undefined ? {} : { lease }),
    ...(address === undefined ? {} : { address }),
  };
}

/** `192.168.1.7:51234`, `[fe80::1%eth0]:51234`: a stranger has another port each time. */
function withoutPort(address: string): string {
  return address.replace(/:\d+$/, '').replace(/^\[(.*)\]$/, '$1');
}
