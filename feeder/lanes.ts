// SPDX-License-Identifier: Apache-2.0
// Tickets for lanes: given out over a session, used once at the door, taken back with their lease
// or their key. The bytes of lanes never pass through here, nor through this process.
//
//   granting -> granted (its time runs) -> open -> ended
//   from each of them to ended: the lane closed, CloseLane, the lease ended, its executor died,
//   the key was removed
import { randomBytes } from 'node:crypto';
import type { Clock, Timer } from '../proto/base/clock.js';
import { GbError } from '../proto/base/errors.js';
import type { HostId, LeaseId, SessionId } from '../proto/base/ids.js';
import {
  KEY_SWEEP_INTERVAL_MS,
  LANES_PER_LEASE_MAX,
  LANES_PER_SESSION_MAX,
  LANE_ACTIVE_RATE,
  LANE_COUNTS_PER_SECOND_MAX,
  LANE_LAST_COUNT_MS,
  LANE_SAMPLE_INTERVAL_MS,
  LANE_TICKET_MARGIN_MS,
  LANE_TICKET_MS,
} from '../proto/base/limits.js';
import type { Logger } from '../proto/base/log.js';
import { deriveLaneSecret, LANE_TICKET_ID_BYTES } from '../security/derive.js';
import type { LaneEvent, LaneGrant, LaneStat } from '../driver/executor/lanes.js';
import { laneError } from '../driver/lane/library.js';
import { LANE_VERSION, laneRefusalName, laneStatusName } from '../driver/lane/names.js';
import type { AuditedLane, FeederAudit } from './audit.js';
import { FairShare } from './fair-share.js';
import type { Session } from './sessions.js';

/** A process that serves lanes: an executor. */
export interface LaneHolder {
  /** Over which the door passes it connections. */
  readonly doorFd: number;
  grant(grant: LaneGrant): Promise<void>;
  /** Afterwards the lane touches nothing. */
  revoke(ticketId: Uint8Array): Promise<void>;
  /** Each way, from now on. */
  limit(ticketId: Uint8Array, bytesPerSecond: number): Promise<void>;
  lane(ticketId: Uint8Array): Promise<LaneStat>;
}

/** The one TCP port of all lanes. */
export interface LaneDoor {
  readonly port: number;
  route(ticketId: Uint8Array, fd: number): void;
  forget(ticketId: Uint8Array): unknown;
}

export interface LaneWish {
  readonly holder: LaneHolder;
  /** Undefined: a probe. */
  readonly leaseId: LeaseId | undefined;
  readonly offset: bigint;
  readonly length: bigint;
  readonly rights: LaneGrant['rights'];
  readonly connections: number;
  /** Drawn by the host, for a lane between feeders; undefined: derived from the session. */
  readonly brokeredSecret: Uint8Array | undefined;
  /** Called once, when nothing of the lane is left. */
  readonly onEnd?: () => void;
}

export interface LaneFacts {
  readonly ticketId: string;
  readonly leaseId: LeaseId | undefined;
  readonly hostName: string;
  readonly keyFingerprint: string;
  /** Empty: not opened yet. */
  readonly peer: string;
  readonly stat: LaneStat | undefined;
  readonly readRate: number;
  readonly writeRate: number;
}

interface Ticket {
  readonly id: Buffer;
  readonly hex: string;
  readonly wish: LaneWish;
  readonly hostId: HostId;
  readonly hostName: string;
  readonly sessionId: SessionId;
  readonly keyFingerprint: string;
  state: 'granting' | 'granted' | 'open' | 'ended';
  timer: Timer | undefined;
  peer: string;
  bytesPerSecond: number;
  /** Undefined: not opened yet. */
  stat: LaneStat | undefined;
  /** From when on, and from what, the rates are. */
  rateBase: { readonly ms: number; readonly readBytes: number; readonly writeBytes: number };
  readRate: number;
  writeRate: number;
  counting: Promise<void> | undefined;
  ending: Promise<void> | undefined;
}

export interface LanesOptions {
  readonly door: LaneDoor;
  /** Fingerprints of the keys that are valid now; undefined when they cannot be had: then none is
   *  ended. */
  readonly keys: () => ReadonlySet<string> | undefined;
  /** Bytes per second, each way, of all lanes of one host; undefined: no limit. */
  readonly hostRate: number | undefined;
  readonly clock: Clock;
  readonly log: Logger;
  readonly audit: Pick<FeederAudit, 'laneTicket' | 'laneOpened' | 'laneClosed' | 'laneRefused'>;
}

export class Lanes {
  private readonly tickets = new Map<string, Ticket>();
  private readonly sweep: Timer;
  private readonly sampler: Timer;
  private readonly fair = new FairShare<HostId>();
  /** Bytes per second of hosts that would leave too little to others. */
  private caps: ReadonlyMap<HostId, number> = new Map();
  private restUntilMs = 0;
  private stopped = false;

  constructor(private readonly options: LanesOptions) {
    this.sweep = options.clock.every(KEY_SWEEP_INTERVAL_MS / 2, () => this.endRevoked());
    this.sampler = options.clock.every(LANE_SAMPLE_INTERVAL_MS, () => void this.turn());
  }

  get port(): number {
    return this.options.door.port;
  }

  get size(): number {
    return this.tickets.size;
  }

  /** Makes a ticket valid. Returns its id. Cancel: it is taken back.
   *  @throws GbError CAPACITY_EXHAUSTED, WRONG_STATE after stop, and as the holder; then there is
   *  none. */
  async open(session: Session, wish: LaneWish, signal: AbortSignal): Promise<Buffer> {
    if (this.stopped) throw new GbError('WRONG_STATE', 'the feeder is stopping');
    this.checkRoom(session.sessionId, wish.leaseId);
    const ticket = this.makeTicket(session, wish);
    const secret = wish.brokeredSecret
      ? Uint8Array.from(wish.brokeredSecret)
      : secretOf(session, ticket.id);
    this.tickets.set(ticket.hex, ticket);
    ticket.bytesPerSecond = this.shareOf(ticket.hostId);
    const { offset, length, rights, connections } = wish;
    try {
      const { id: ticketId, bytesPerSecond } = ticket;
      const grant = { ticketId, secret, offset, length, rights, connections, bytesPerSecond };
      await wish.holder.grant({ ...grant, ttlMs: LANE_TICKET_MS });
      if (!ticket.ending) this.options.door.route(ticket.id, wish.holder.doorFd);
    } catch (reason) {
      await this.end(ticket, 'not_granted');
      throw withLaneStatus(reason, 'this feeder cannot open a lane');
    } finally {
      secret.fill(0);
    }
    if (ticket.ending || signal.aborted) await this.undo(ticket);
    ticket.state = 'granted';
    const waitMs = LANE_TICKET_MS + LANE_TICKET_MARGIN_MS;
    ticket.timer = this.options.clock.after(waitMs, () => void this.end(ticket, 'unused'));
    this.options.audit.laneTicket(session.auth, auditedLane(ticket));
    this.tell('lane_granted', ticket, 'a host may open a lane');
    return ticket.id;
  }

  /** Takes back a ticket of this host. @throws GbError NOT_FOUND. */
  async close(session: Session, ticketId: Uint8Array): Promise<void> {
    const ticket = this.tickets.get(Buffer.from(ticketId).toString('hex'));
    if (!ticket || ticket.hostId !== session.hostId)
      throw new GbError('NOT_FOUND', 'no such ticket; its lane has ended');
    await this.end(ticket, 'closed_by_host');
  }

  hasOpen(leaseId: LeaseId): boolean {
    return this.ofLease(leaseId).some(({ state }) => state === 'open');
  }

  /** Ends the lanes of a lease that ends; waits for them a moment, so that they are counted to the
   *  last byte. */
  async endLease(leaseId: LeaseId): Promise<void> {
    const ends = this.ofLease(leaseId).map((ticket) => this.end(ticket, 'lease_ended'));
    if (ends.length === 0) return;
    await new Promise<void>((resolve) => {
      const timer = this.options.clock.after(LANE_LAST_COUNT_MS, resolve);
      void Promise.allSettled(ends).then(() => {
        timer.cancel();
        resolve();
      });
    });
  }

  /** Forgets the lanes of a lease whose executor is gone. */
  loseLease(leaseId: LeaseId): void {
    for (const ticket of this.ofLease(leaseId)) void this.end(ticket, 'executor_died', true);
  }

  /** What the executor of a lease tells of its lanes. */
  onEvent(leaseId: LeaseId | undefined, event: LaneEvent): void {
    const ticketId = Buffer.from(event.ticketId).toString('hex');
    const ticket = this.tickets.get(ticketId);
    if (event.kind === 'refused') {
      this.onStranger({ ...event, reason: laneRefusalName(event.reason) });
    } else if (!ticket || ticket.ending || ticket.wish.leaseId !== leaseId) {
      return; // It ended meanwhile.
    } else if (event.kind === 'closed') {
      void this.end(ticket, laneStatusName(event.status));
    } else {
      ticket.timer?.cancel();
      ticket.state = 'open';
      ticket.peer = event.address;
      ticket.rateBase = { ms: this.options.clock.nowMs(), readBytes: 0, writeBytes: 0 };
      this.options.audit.laneOpened(auditedLane(ticket));
      this.tell('lane_opened', ticket, 'a peer proved a ticket; its lane is open');
    }
  }

  /** A connection was turned away: at the door, or by an executor to whose ticket it has no secret. */
  onStranger(stranger: Stranger): void {
    const { address: peer, reason } = stranger;
    const ticket = Buffer.from(stranger.ticketId).toString('hex');
    this.options.audit.laneRefused(peer, reason, versionText(stranger));
    this.options.log.debug(
      { event: 'lane_refused', ticket, peer, reason },
      'a peer was turned away',
    );
  }

  /** Counts all open lanes now. */
  async sample(): Promise<void> {
    const open = [...this.tickets.values()].filter(({ state }) => state === 'open');
    await Promise.all(open.map((ticket) => this.countOne(ticket)));
  }

  facts(): LaneFacts[] {
    return [...this.tickets.values()].map((ticket) => ({
      ticketId: ticket.hex,
      leaseId: ticket.wish.leaseId,
      hostName: ticket.hostName,
      keyFingerprint: ticket.keyFingerprint,
      peer: ticket.peer,
      stat: ticket.stat,
      readRate: ticket.readRate,
      writeRate: ticket.writeRate,
    }));
  }

  /** Takes every ticket back, and gives out no more. */
  async stop(): Promise<void> {
    this.stopped = true;
    this.sweep.cancel();
    this.sampler.cancel();
    await Promise.all([...this.tickets.values()].map((ticket) => this.end(ticket, 'stopping')));
  }

  private makeTicket(session: Session, wish: LaneWish): Ticket {
    const id = randomBytes(LANE_TICKET_ID_BYTES);
    return {
      id,
      hex: id.toString('hex'),
      wish,
      hostId: session.hostId,
      hostName: session.hostName,
      sessionId: session.sessionId,
      keyFingerprint: session.auth.keyFingerprint,
      state: 'granting',
      timer: undefined,
      peer: '',
      bytesPerSecond: 0,
      stat: undefined,
      rateBase: { ms: this.options.clock.nowMs(), readBytes: 0, writeBytes: 0 },
      readRate: 0,
      writeRate: 0,
      counting: undefined,
      ending: undefined,
    };
  }

  private async undo(ticket: Ticket): Promise<never> {
    const ended = ticket.ending !== undefined;
    await this.end(ticket, 'canceled');
    // An end that came while the ticket was being granted may have been too early to find it.
    if (ended) await ticket.wish.holder.revoke(ticket.id).catch(() => undefined);
    if (ended) throw new GbError('LEASE_EXPIRED', 'what the lane was for has ended meanwhile');
    throw new GbError('CANCELED', 'nobody waits for this ticket any more');
  }

  /** One end for each ticket, whoever asks for it first. */
  private end(ticket: Ticket, reason: string, holderIsGone = false): Promise<void> {
    ticket.ending ??= this.endNow(ticket, reason, holderIsGone);
    return ticket.ending;
  }

  private async endNow(ticket: Ticket, reason: string, holderIsGone: boolean): Promise<void> {
    const { wish, state } = ticket;
    ticket.timer?.cancel();
    this.options.door.forget(ticket.id);
    if (!holderIsGone) {
      if (state === 'open') await this.countOne(ticket);
      await wish.holder.revoke(ticket.id).catch(() => undefined); // It may have ended by itself.
    }
    ticket.state = 'ended';
    this.tickets.delete(ticket.hex);
    wish.onEnd?.();
    if (state !== 'granting') {
      this.options.audit.laneClosed(auditedLane(ticket), reason);
      this.tell('lane_closed', ticket, 'a lane has ended', reason);
    }
  }

  /** One question at a time for each lane; what is known afterwards is from after the call. */
  private countOne(ticket: Ticket): Promise<void> {
    const before = ticket.counting ?? Promise.resolve();
    const counting = before.then(() => this.countNow(ticket));
    ticket.counting = counting;
    void counting.then(() => {
      if (ticket.counting === counting) ticket.counting = undefined;
    });
    return counting;
  }

  private async countNow(ticket: Ticket): Promise<void> {
    const stat = await ticket.wish.holder.lane(ticket.id).catch(() => undefined);
    if (!stat) return;
    const { bytesWritten: readBytes, bytesRead: writeBytes } = stat; // It counts from its side.
    const ms = this.options.clock.nowMs();
    const { rateBase } = ticket;
    ticket.stat = stat;
    // Counts that follow each other closely say nothing about a rate.
    if (ms - rateBase.ms < LANE_SAMPLE_INTERVAL_MS / 2) return;
    const seconds = (ms - rateBase.ms) / 1000;
    ticket.readRate = (readBytes - rateBase.readBytes) / seconds;
    ticket.writeRate = (writeBytes - rateBase.writeBytes) / seconds;
    ticket.rateBase = { ms, readBytes, writeBytes };
  }

  private checkRoom(sessionId: SessionId, leaseId: LeaseId | undefined): void {
    let ofSession = 0;
    for (const ticket of this.tickets.values()) if (ticket.sessionId === sessionId) ofSession += 1;
    if (ofSession >= LANES_PER_SESSION_MAX)
      throw new GbError(
        'CAPACITY_EXHAUSTED',
        `a session has at most ${LANES_PER_SESSION_MAX} lanes`,
      );
    if (leaseId !== undefined && this.ofLease(leaseId).length >= LANES_PER_LEASE_MAX)
      throw new GbError('CAPACITY_EXHAUSTED', `a lease has at most ${LANES_PER_LEASE_MAX} lanes`);
  }

  private ofLease(leaseId: LeaseId): Ticket[] {
    return [...this.tickets.values()].filter(({ wish }) => wish.leaseId === leaseId);
  }

  private ofHost(hostId: HostId): Ticket[] {
    return [...this.tickets.values()].filter(
      (ticket) => ticket.hostId === hostId && !ticket.ending,
    );
  }

  /** Counts, and shares out anew what the machine can carry. */
  private async turn(): Promise<void> {
    const nowMs = this.options.clock.nowMs();
    if (nowMs < this.restUntilMs) return;
    this.restUntilMs = nowMs + (this.tickets.size * 1000) / LANE_COUNTS_PER_SECOND_MAX;
    // An executor that hangs is not asked again and again.
    const open = [...this.tickets.values()].filter(
      ({ state, counting }) => state === 'open' && !counting,
    );
    await Promise.all(open.map((ticket) => this.countOne(ticket)));
    const rates = new Map<HostId, number>();
    for (const { hostId, readRate, writeRate } of this.tickets.values())
      rates.set(hostId, (rates.get(hostId) ?? 0) + Math.max(readRate, writeRate));
    this.caps = this.fair.turn(rates, this.options.clock.nowMs());
    for (const hostId of rates.keys()) this.shareOut(hostId);
  }

  /** What one lane of a host may move per second, each way: the host's limit, split over the lanes
   *  that move something. 0: no limit. */
  private shareOf(hostId: HostId): number {
    const limit = Math.min(this.options.hostRate ?? Infinity, this.caps.get(hostId) ?? Infinity);
    if (limit === Infinity) return 0;
    const active = this.ofHost(hostId).filter(
      ({ readRate, writeRate }) => Math.max(readRate, writeRate) >= LANE_ACTIVE_RATE,
    );
    return Math.ceil(limit / Math.max(1, active.length));
  }

  private shareOut(hostId: HostId): void {
    const share = this.shareOf(hostId);
    for (const ticket of this.ofHost(hostId)) {
      if (ticket.state === 'granting' || ticket.bytesPerSecond === share) continue;
      ticket.bytesPerSecond = share;
      void ticket.wish.holder.limit(ticket.id, share).catch(() => undefined); // It has ended.
    }
  }

  /** Lanes outlive their session, but not the key it was opened with. */
  private endRevoked(): void {
    if (this.tickets.size === 0) return;
    const valid = this.options.keys();
    if (!valid) return;
    for (const ticket of this.tickets.values())
      if (!valid.has(ticket.keyFingerprint)) void this.end(ticket, 'key_removed');
  }

  private tell(event: string, ticket: Ticket, text: string, reason?: string): void {
    const { hex, hostName: host, wish, peer, stat } = ticket;
    const bytes = stat && { readBytes: stat.bytesWritten, writeBytes: stat.bytesRead };
    const facts = { event, ticket: hex, host, lease: wish.leaseId, peer: peer || undefined };
    this.options.log.info({ ...facts, reason, ...bytes }, text);
  }
}

function auditedLane({ id, wish, peer }: Ticket): AuditedLane {
  const lease = wish.leaseId === undefined ? {} : { lease: wish.leaseId };
  return { ticketId: id, ...lease, ...(peer ? { address: peer } : {}) };
}

/** A peer whose lane was refused. */
interface Stranger {
  readonly ticketId: Uint8Array;
  readonly address: string;
  readonly reason: string;
  /** Of lanes, as it says. */
  readonly version?: string;
}

/** Both versions, where they are the reason. */
function versionText({ reason, version }: Stranger): string | undefined {
  if (reason !== 'VERSION') return undefined;
  const ours = `${LANE_VERSION.major}.${LANE_VERSION.minor}`;
  return `it speaks lanes ${version}, this feeder ${ours}, or requires a feature that is unknown; update the older one`;
}

function secretOf(session: Session, ticketId: Uint8Array): Uint8Array {
  try {
    return deriveLaneSecret(session.auth.exporter, ticketId);
  } catch (reason) {
    throw new GbError('CANCELED', 'the session has ended', { cause: reason });
  }
}

/** What an executor says of a lane, in words. */
export function withLaneStatus(reason: unknown, what: string): unknown {
  const status = reason instanceof GbError ? reason.details['laneStatus'] : undefined;
  return typeof status === 'number' ? laneError(status, what) : reason;
}
