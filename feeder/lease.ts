// SPDX-License-Identifier: Apache-2.0
// Who may use what a lease holds, and until when. Pure: time is an argument, nothing is freed here.
//
//           acquire             its session ends               TTL over
//   (none) ---------> adopted ------------------> orphaned ---------------> expired
//                      ^   |                          |
//                      |   +---- TTL over without a renewal -> expired
//                      +------- renew (fencing token + 1) ----+
//   release: adopted -> released
//
// An adopted lease lives as long as it is renewed; a session's end starts a fresh TTL. A renewal from
// another session of the same host with the newest token takes the lease over; the token grows, and
// older ones are refused. One exception: as long as nobody has presented the newest token, its answer
// may have been lost with the session that asked, so an orphaned lease also takes the one before.
import { GbError } from '../proto/base/errors.js';
import {
  createId,
  type AttachmentId,
  type HostId,
  type LeaseId,
  type SessionId,
} from '../proto/base/ids.js';

export type LeaseState =
  | { readonly t: 'adopted'; readonly sessionId: SessionId; readonly deadlineMs: number }
  | { readonly t: 'orphaned'; readonly deadlineMs: number };

export interface Lease {
  readonly id: LeaseId;
  readonly hostId: HostId;
  readonly hostName: string;
  readonly attachmentId: AttachmentId;
  readonly arenaBase: bigint;
  readonly arenaBytes: bigint;
  readonly fencingToken: bigint;
  /** Somebody has presented `fencingToken`: its holder knows it. */
  readonly tokenKnown: boolean;
  readonly state: LeaseState;
}

/** Who calls. */
export interface Caller {
  readonly sessionId: SessionId;
  readonly hostId: HostId;
}

export type RenewOutcome =
  | { readonly t: 'ok'; readonly lease: Lease; readonly adopted: boolean }
  | { readonly t: 'fenced' }
  | { readonly t: 'expired' };

export interface LeaseRequest {
  readonly hostName: string;
  readonly attachmentId: AttachmentId;
  readonly arenaBase: bigint;
  readonly arenaBytes: bigint;
}

export class LeaseTable {
  private readonly leases = new Map<LeaseId, Lease>();

  /** `makeId` for tests. */
  constructor(
    readonly ttlMs: number,
    private readonly makeId: () => LeaseId = () => createId('lease'),
  ) {}

  get size(): number {
    return this.leases.size;
  }

  all(): readonly Lease[] {
    return [...this.leases.values()];
  }

  get(id: string): Lease | undefined {
    return this.leases.get(id as LeaseId);
  }

  countOf(hostId: HostId): number {
    let count = 0;
    for (const lease of this.leases.values()) if (lease.hostId === hostId) count += 1;
    return count;
  }

  acquire(caller: Caller, request: LeaseRequest, nowMs: number): Lease {
    const state: LeaseState = {
      t: 'adopted',
      sessionId: caller.sessionId,
      deadlineMs: nowMs + this.ttlMs,
    };
    const lease: Lease = {
      ...request,
      id: this.makeId(),
      hostId: caller.hostId,
      fencingToken: 1n,
      tokenKnown: false,
      state,
    };
    this.leases.set(lease.id, lease);
    return lease;
  }

  /** The lease, if `caller` may use it now. A stranger's lease and one that ended look the same.
   *  @throws GbError LEASE_EXPIRED; EPOCH_STALE when a newer session holds it; WRONG_STATE when it
   *  has to be adopted with RenewLeases first; PROTOCOL_VIOLATION for a token never given out. */
  authorize(caller: Caller, id: string, fencingToken: bigint, nowMs: number): Lease {
    const lease = this.visible(caller, id, nowMs);
    if (!lease)
      throw new GbError('LEASE_EXPIRED', `lease ${id.slice(0, 40)} is unknown or has ended`);
    if (fencingToken < lease.fencingToken) throw fenced(lease);
    if (fencingToken > lease.fencingToken) {
      throw new GbError(
        'PROTOCOL_VIOLATION',
        `the fencing token of lease ${lease.id} was never given out`,
      );
    }
    if (lease.state.t !== 'adopted' || lease.state.sessionId !== caller.sessionId) {
      throw new GbError(
        'WRONG_STATE',
        `lease ${lease.id} belongs to an earlier session; renew it first`,
      );
    }
    if (!lease.tokenKnown) this.leases.set(lease.id, { ...lease, tokenKnown: true });
    return lease;
  }

  /** Renews, and adopts into the caller's session if it was not there. */
  renew(caller: Caller, id: string, fencingToken: bigint, nowMs: number): RenewOutcome {
    const lease = this.visible(caller, id, nowMs);
    if (!lease) return { t: 'expired' };
    if (!isCurrent(lease, fencingToken)) return { t: 'fenced' };
    const adopted = lease.state.t !== 'adopted' || lease.state.sessionId !== caller.sessionId;
    const renewed: Lease = {
      ...lease,
      fencingToken: lease.fencingToken + (adopted ? 1n : 0n),
      tokenKnown: !adopted,
      state: { t: 'adopted', sessionId: caller.sessionId, deadlineMs: nowMs + this.ttlMs },
    };
    this.leases.set(lease.id, renewed);
    return { t: 'ok', lease: renewed, adopted };
  }

  /** A session is gone: its leases are orphaned, their TTL runs. Returns them. */
  orphan(sessionId: SessionId, nowMs: number): readonly Lease[] {
    const orphaned: Lease[] = [];
    for (const lease of this.leases.values()) {
      if (lease.state.t !== 'adopted' || lease.state.sessionId !== sessionId) continue;
      const changed: Lease = { ...lease, state: { t: 'orphaned', deadlineMs: nowMs + this.ttlMs } };
      this.leases.set(lease.id, changed);
      orphaned.push(changed);
    }
    return orphaned;
  }

  /** Removes every lease whose time is over, and returns them. */
  expire(nowMs: number): readonly Lease[] {
    const over = this.all().filter((lease) => nowMs >= lease.state.deadlineMs);
    for (const lease of over) this.leases.delete(lease.id);
    return over;
  }

  /** Removes one lease: released, or the feeder stops. */
  remove(id: LeaseId): boolean {
    return this.leases.delete(id);
  }

  private visible(caller: Caller, id: string, nowMs: number): Lease | undefined {
    const lease = this.leases.get(id as LeaseId);
    return lease && lease.hostId === caller.hostId && nowMs < lease.state.deadlineMs
      ? lease
      : undefined;
  }
}

function isCurrent(lease: Lease, token: bigint): boolean {
  if (token === lease.fencingToken) return true;
  const answerLost = lease.state.t === 'orphaned' && !lease.tokenKnown;
  return answerLost && token === lease.fencingToken - 1n && token > 0n;
}

function fenced(lease: Lease): GbError {
  return new GbError('EPOCH_STALE', `lease ${lease.id} was adopted by a newer session (fenced)`, {
    details: { fenced: true, fencingToken: String(lease.fencingToken) },
  });
}
