// SPDX-License-Identifier: Apache-2.0
// All programs of this agent: who may attach, who came back, who is gone. A broken socket ends
// nothing; the end of the process does.
import { randomInt } from 'node:crypto';
import { laneStatusName } from '../../driver/lane/names.js';
import type { Clock, Timer } from '../../proto/base/clock.js';
import { GbError } from '../../proto/base/errors.js';
import {
  ATTACHMENTS_MAX,
  LEASE_TTL_MS,
  PROCESS_POLL_INTERVAL_MS,
  RANGES_PER_LEASE_MAX,
  READOPT_WINDOW_MS,
} from '../../proto/base/limits.js';
import { formatBytes } from '../../proto/base/units.js';
import type { EventLog, Severity } from '../control/events.js';
import type { Ledger } from '../ledger.js';
import type { FeederCalls, LeaseHandle } from '../links/feeder-client.js';
import type { ByteRange } from '../placement/residency.js';
import type { LaneReport } from '../shim/abi.js';
import type { SavedAttachment } from '../state.js';
import { Attachment } from './attachment.js';
import type { AttachmentFacts, ShimPeer } from './facts.js';
import { limitsOf, type FeederDirectory, type Hold } from './holds.js';
import { isSameProcess } from './process.js';

export interface RegistryDeps {
  readonly clock: Clock;
  readonly events: EventLog;
  readonly ledger: Ledger;
  readonly directory: FeederDirectory;
  readonly persist: () => Promise<void>;
  /** Something that people see has changed. */
  readonly touch: () => void;
  readonly onBug: (error: unknown, where: string) => void;
  /** An attachment is about to end: its last account can still be taken. */
  readonly onEnding: (attachment: Attachment) => void;
}

/** What a program says it holds from before, per tier. */
export interface HeldBefore {
  readonly t1Bytes: number;
  readonly t2Bytes: number;
  readonly t3Bytes: number;
  readonly feederBytes: number;
}

/** Above every number an agent counts up to. */
const FORGOTTEN_LANES = 2 ** 30;

export class AttachmentRegistry {
  private readonly attachments = new Map<string, Attachment>();
  private readonly ending = new Set<Promise<void>>();
  private readonly timers: Timer[] = [];
  private polling = false;

  constructor(private readonly deps: RegistryDeps) {}

  get all(): Attachment[] {
    return [...this.attachments.values()];
  }

  /** Begins to watch processes, and gives restored attachments their time to come back. */
  start(): void {
    const { clock } = this.deps;
    this.timers.push(clock.every(PROCESS_POLL_INTERVAL_MS, () => this.pollSoon()));
    const restored = this.all;
    if (restored.length === 0) return;
    this.timers.push(
      clock.after(READOPT_WINDOW_MS, () => {
        for (const attachment of restored)
          if (!attachment.peer) this.end(attachment, 'it did not come back');
      }),
      // A feeder that was not back within the TTL has ended the leases.
      clock.after(LEASE_TTL_MS, () => {
        for (const attachment of this.all) attachment.loseUnadopted();
      }),
    );
  }

  /** Stops watching; attachments and their leases stay, for the next agent. Resolves when ends
   *  under way are done. */
  async stop(): Promise<void> {
    this.timers.splice(0).forEach((timer) => timer.cancel());
    for (const attachment of this.all) attachment.peer?.close('the agent stops');
    await Promise.allSettled(this.ending);
  }

  /** Takes an attachment over from the state file. Its leases wait for their feeders. */
  restore(saved: SavedAttachment): void {
    const facts: AttachmentFacts = {
      attachmentId: saved.attachmentId,
      identity: { pid: saved.pid, startTicks: saved.startTicks },
      command: saved.command,
      deviceName: saved.deviceName,
      deviceUuid: '',
      deviceTotalBytes: 0,
      arenaBase: BigInt(saved.arenaBase),
      arenaBytes: saved.arenaBytes,
      gated: saved.gated,
      copies: saved.copies,
      dispatch: saved.dispatch,
      devices: saved.devices,
      vramBudgetBytes: undefined,
      ramBudgetBytes: undefined,
      startedUnixMs: saved.startedUnixMs,
      runId: '',
    };
    const attachment = this.create(facts);
    attachment.copies.discard(...saved.discards);
    attachment.restoreMoves(
      saved.moves.map(({ sequence, ...move }) => ({ ...move, sequence: BigInt(sequence) })),
    );
    attachment.nextLane = saved.nextLane;
    for (const { feederId, feederName, leaseId, lane, fencingToken, limits } of saved.leases) {
      const devices = new Map(
        limits.map(([key, limitBytes]) => [key, { limitBytes, usedBytes: 0 }]),
      );
      const token = BigInt(fencingToken);
      if (lane !== 0) attachment.lanes.inherit(lane);
      attachment.budget.restore({
        feederId,
        feederName,
        leaseId,
        lane: lane || attachment.nextLane++,
        fencingToken: token,
        state: 'unadopted',
        devices,
      });
    }
    attachment.replicas.restore(saved.replicas);
    attachment.devices.restore(saved.deviceFeeders);
    this.attachments.set(attachment.id, attachment);
  }

  save(): SavedAttachment[] {
    return this.all.map((attachment) => {
      const { facts } = attachment;
      return {
        attachmentId: attachment.id,
        pid: facts.identity.pid,
        startTicks: facts.identity.startTicks,
        command: facts.command,
        deviceName: facts.deviceName,
        arenaBase: facts.arenaBase.toString(),
        arenaBytes: facts.arenaBytes,
        gated: facts.gated,
        copies: facts.copies,
        dispatch: facts.dispatch,
        devices: facts.devices,
        deviceFeeders: attachment.devices.save(),
        replicas: attachment.replicas.save(),
        startedUnixMs: facts.startedUnixMs,
        nextLane: attachment.nextLane,
        discards: attachment.discards.slice(-RANGES_PER_LEASE_MAX),
        moves: attachment.mover.undecided.map(({ wish }) => ({
          ...wish,
          sequence: wish.sequence.toString(),
        })),
        leases: attachment.budget.holds
          .filter(({ state }) => state !== 'lost')
          .map((hold) => ({
            feederId: hold.feederId,
            feederName: hold.feederName,
            leaseId: hold.leaseId,
            lane: hold.lane,
            fencingToken: hold.fencingToken.toString(),
            limits: [...limitsOf(hold)] as [string, number][],
          })),
      };
    });
  }

  /** A shim said HELLO: a new attachment, or one that came back. The older socket of the same one
   *  is closed.
   *  @throws GbError PERMISSION_DENIED for the id of another process, CAPACITY_EXHAUSTED beyond
   *  ATTACHMENTS_MAX, INVALID_ARGUMENT for another arena than before. */
  async attach(facts: AttachmentFacts, held: HeldBefore, peer: ShimPeer): Promise<Attachment> {
    const known = this.attachments.get(facts.attachmentId);
    if (known) this.checkReturn(known.facts, facts);
    else if (this.attachments.size >= ATTACHMENTS_MAX) {
      throw new GbError('CAPACITY_EXHAUSTED', `${ATTACHMENTS_MAX} programs are attached already`);
    }
    for (const other of this.all) {
      // The same process with a new id: it called exec, and what it held is gone.
      const replaced =
        other.facts.identity.pid === facts.identity.pid &&
        other.id !== facts.attachmentId &&
        !other.peer;
      if (replaced) this.end(other, 'the process started another program');
    }
    const attachment = known ?? this.create(facts);
    attachment.peer?.close('a newer connection of the same program');
    attachment.facts = {
      ...facts,
      startedUnixMs: known?.facts.startedUnixMs ?? facts.startedUnixMs,
    };
    this.attachments.set(attachment.id, attachment);
    this.settleHeld(attachment, held);
    attachment.peer = peer;
    if (!known) {
      const text = `${facts.command || 'a program'} attached with ${facts.deviceName || 'its GPU'}`;
      this.deps.events.add('info', 'attachment_started', `pid ${facts.identity.pid}`, text);
    } else {
      this.deps.events.add(
        'info',
        'attachment_returned',
        `pid ${facts.identity.pid}`,
        'the program is connected again',
      );
    }
    await this.deps.persist();
    this.deps.touch();
    return attachment;
  }

  /** The socket of `peer` has ended. Looks at once whether the process has too. */
  detach(attachment: Attachment, peer: ShimPeer): void {
    if (attachment.peer !== peer) return;
    attachment.peer = undefined;
    this.deps.touch();
    this.pollSoon();
  }

  /** Ends an attachment for good: memory granted to it is free again, its leases are released. */
  end(attachment: Attachment, why: string): void {
    if (!this.attachments.has(attachment.id)) return;
    this.deps.onEnding(attachment);
    this.attachments.delete(attachment.id);
    const { pid } = attachment.facts.identity;
    const heldBytes = attachment.budget.heldBytes + this.deps.ledger.heldBytes(attachment.id);
    this.deps.ledger.close(attachment.id);
    const work = attachment
      .end()
      .then(() => {
        const text = `${why}; ${formatBytes(heldBytes)} of RAM and feeder memory given back`;
        this.deps.events.add('info', 'attachment_ended', `pid ${pid}`, text);
      })
      .catch((reason: unknown) => this.deps.onBug(reason, 'end of an attachment'))
      .finally(() => {
        this.ending.delete(work);
        this.deps.touch();
      });
    this.ending.add(work);
  }

  /** All leases on a feeder that still count, for renewal and adoption. */
  leasesOn(feederId: string): { attachment: Attachment; hold: Hold }[] {
    return this.all.flatMap((attachment) =>
      attachment.budget.holds
        .filter((hold) => hold.feederId === feederId && hold.state !== 'lost')
        .map((hold) => ({ attachment, hold })),
    );
  }

  loseFeeder(feederId: string): void {
    for (const attachment of this.all) attachment.loseFeeder(feederId);
  }

  /** After a (re)connect: one message renews all leases of the feeder and makes them ours again;
   *  those that stood are compared with what the feeder holds. Returns how many were adopted. */
  async adopt(feederId: string, client: FeederCalls): Promise<number> {
    const leases = this.leasesOn(feederId);
    if (leases.length === 0) return 0;
    await this.renewWith(leases, client);
    let adopted = 0;
    for (const { attachment, hold } of leases) {
      if (hold.state === 'lost') continue;
      await attachment.reconcile(hold, client);
      adopted++;
    }
    await this.deps.persist();
    return adopted;
  }

  /** The periodic renewal. */
  async renew(feederId: string, client: FeederCalls): Promise<void> {
    const leases = this.leasesOn(feederId).filter(({ hold }) => hold.state === 'held');
    if (leases.length === 0) return;
    if (await this.renewWith(leases, client)) await this.deps.persist();
  }

  private async renewWith(
    leases: readonly { attachment: Attachment; hold: Hold }[],
    client: FeederCalls,
  ): Promise<boolean> {
    const handles: LeaseHandle[] = leases.map(({ hold }) => hold);
    const renewals = new Map(
      (await client.renew(handles)).map((renewal) => [renewal.leaseId, renewal]),
    );
    let changed = false;
    for (const { attachment, hold } of leases) {
      const renewal = renewals.get(hold.leaseId);
      if (renewal?.outcome === 'ok') {
        changed ||= hold.fencingToken !== renewal.fencingToken;
        hold.fencingToken = renewal.fencingToken;
      } else if (this.attachments.has(attachment.id) && attachment.budget.holds.includes(hold)) {
        attachment.copies.loseLease(hold);
        changed = true;
      }
    }
    return changed;
  }

  private create(facts: AttachmentFacts): Attachment {
    const { clock, directory, persist, onBug } = this.deps;
    return new Attachment(facts, {
      clock,
      directory,
      persist,
      onBug,
      onLost: (...lost) => this.onLost(...lost),
      onBare: (attachment, range, feederName) =>
        this.tell(attachment, 'warning', 'replica_lost', {
          text: `${formatBytes(range.length)} have one copy only since feeder ${feederName} is gone`,
        }),
      onWhole: (attachment, bytes) =>
        this.tell(attachment, 'info', 'replica_restored', {
          text: `${formatBytes(bytes)} have two copies again`,
        }),
      onLaneBroken: (attachment, hold, report) => this.onLaneBroken(attachment, hold, report),
      onRefused: (attachment, feederName, why) => {
        if (why)
          this.tell(attachment, 'warning', 'return_refused', {
            text: `feeder ${feederName} does not take back what was given up, and is asked again: ${why.rawMessage}`,
          });
        else
          this.tell(attachment, 'info', 'return_taken', {
            text: `feeder ${feederName} has taken back what was given up`,
          });
      },
    });
  }

  private onLost(attachment: Attachment, range: ByteRange, feederName: string): void {
    const base = attachment.facts.arenaBase + BigInt(range.offset);
    const text = `${formatBytes(range.length)} at 0x${base.toString(16)} are gone with feeder ${feederName}`;
    this.tell(attachment, 'error', 'data_lost', { text });
  }

  private onLaneBroken(attachment: Attachment, hold: Hold, report: LaneReport): void {
    const why = laneStatusName(report.state).toLowerCase();
    const text = `the lane to ${hold.feederName} ended: ${why}`;
    this.tell(attachment, 'warning', 'lane_broken', { text });
  }

  private tell(
    { facts }: Attachment,
    severity: Severity,
    name: string,
    { text }: { text: string },
  ): void {
    this.deps.events.add(severity, name, `pid ${facts.identity.pid}`, text);
    this.deps.touch();
  }

  private checkReturn(known: AttachmentFacts, facts: AttachmentFacts): void {
    const sameProcess =
      known.identity.pid === facts.identity.pid &&
      known.identity.startTicks === facts.identity.startTicks;
    if (!sameProcess)
      throw new GbError('PERMISSION_DENIED', 'the attachment belongs to another process');
    if (
      known.arenaBytes !== 0 &&
      (known.arenaBase !== facts.arenaBase || known.arenaBytes !== facts.arenaBytes)
    ) {
      throw new GbError('INVALID_ARGUMENT', 'the arena is another than before');
    }
  }

  /** The program knows best what it holds: a reply of ours may have been lost with the old socket
   *  or agent. */
  private settleHeld(attachment: Attachment, held: HeldBefore): void {
    this.deps.ledger.adopt(attachment.id, held.t2Bytes);
    attachment.t1HeldBytes = held.t1Bytes;
    attachment.t3HeldBytes = held.t3Bytes;
    const { budget } = attachment;
    const difference = held.feederBytes - budget.heldBytes;
    if (difference > 0) {
      budget.addLost(difference);
      attachment.forgetful = true;
      // It may know lanes of an earlier agent's by number; no new lease must look like one of them.
      if (attachment.nextLane < FORGOTTEN_LANES)
        attachment.nextLane = FORGOTTEN_LANES + randomInt(2 ** 30);
    } else if (difference < 0) {
      budget
        .shrink(-difference)
        .catch((reason: unknown) => this.deps.onBug(reason, 'settling of what is held'));
    }
  }

  private pollSoon(): void {
    if (this.polling) return;
    this.polling = true;
    this.poll()
      .catch((reason: unknown) => this.deps.onBug(reason, 'process watch'))
      .finally(() => (this.polling = false));
  }

  private async poll(): Promise<void> {
    for (const attachment of this.all) {
      if (!(await isSameProcess(attachment.facts.identity)))
        this.end(attachment, 'the process has ended');
    }
  }
}
