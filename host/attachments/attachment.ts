// SPDX-License-Identifier: Apache-2.0
// One program under the shim: its arena, where its ranges lie on feeders, what it was granted, and
// the moves of its bytes. Outlives its socket; knows no frames (host/shim) and no connections
// (host/links).
import type { Clock, Timer } from '../../proto/base/clock.js';
import { GbError } from '../../proto/base/errors.js';
import { REPAIR_INTERVAL_MS } from '../../proto/base/limits.js';
import type { FeederCalls } from '../links/feeder-client.js';
import { isLost, mainCopy, rangeEnd, type ByteRange, type Extent } from '../placement/residency.js';
import { EXTENTS_MAX, RANGE_ALIGN, type LaneReport, type Report } from '../shim/abi.js';
import { Arrears } from './arrears.js';
import { Copies } from './copies.js';
import { Devices, type DeviceFacts } from './devices.js';
import { bytesOn, evacuate, type EvacuationWatch } from './evacuation.js';
import { FeederBudget } from './feeder-budget.js';
import { isVram, type FeederDirectory, type Hold } from './holds.js';
import type { AttachmentFacts, MoveWish, ShimPeer } from './facts.js';
import { LaneBook, type LaneFacts, type LaneOpening } from './lanes.js';
import { Mover } from './mover.js';
import { Owners, type StepAnswer, type StepPart } from './owners.js';
import { extentsOf, lossOf, type Discard } from './pieces.js';
import { RangeQueue } from './range-queue.js';
import { Repair } from './repair.js';
import { Replicas } from './replicas.js';

export interface AttachmentDeps {
  readonly clock: Clock;
  readonly directory: FeederDirectory;
  readonly persist: () => Promise<void>;
  /** Bytes of this attachment are gone. */
  readonly onLost: (attachment: Attachment, range: ByteRange, feederName: string) => void;
  /** Bytes have lost one of their two copies. */
  readonly onBare: (attachment: Attachment, range: ByteRange, feederName: string) => void;
  /** They have two again. */
  readonly onWhole: (attachment: Attachment, bytes: number) => void;
  readonly onLaneBroken: (attachment: Attachment, hold: Hold, report: LaneReport) => void;
  /** A feeder does not take back what the program gave up, again and again; undefined: it has. */
  readonly onRefused: (
    attachment: Attachment,
    feederName: string,
    why: GbError | undefined,
  ) => void;
  readonly onBug: (error: unknown, where: string) => void;
}

export class Attachment {
  readonly budget: FeederBudget;
  readonly copies: Copies;
  readonly lanes: LaneBook;
  readonly replicas: Replicas;
  readonly devices: Devices;
  report: Report | undefined;
  /** Most bytes ever placed on feeders, by kind. */
  readonly peaks = { vramBytes: 0, ramBytes: 0 };
  /** Granted by GRANT; accounting only: T3 is a file of the program's own. */
  t1HeldBytes = 0;
  t3HeldBytes = 0;
  /** The agent knows less than the program: what it cannot find was lost with an earlier agent. */
  forgetful = false;
  /** The number of the next lease. Kept on disk: a number is never used twice. */
  nextLane = 1;
  readonly mover: Mover;
  readonly owners: Owners;
  private readonly repair: Repair;
  private readonly arrears: Arrears;
  private connected: ShimPeer | undefined;
  private settleTimer: Timer | undefined;
  private readonly waiters = new Set<() => void>();
  private readonly queue = new RangeQueue();
  private readonly ended = new AbortController();

  constructor(
    public facts: AttachmentFacts,
    private readonly deps: AttachmentDeps,
  ) {
    const { clock, directory, persist } = deps;
    const owner = {
      facts: () => this.facts,
      copies: () => this.facts.copies,
      dispatch: () => this.facts.dispatch,
      nextLane: () => this.nextLane++,
      persist,
      owes: () => this.arrears.later(),
    };
    this.budget = new FeederBudget(owner, directory);
    this.copies = new Copies(this.budget, directory, {
      arenaBytes: () => this.facts.arenaBytes,
      persist,
      owes: () => this.arrears.later(),
      onGone: (range, feederName) => this.onGone(range, feederName),
      onBare: (range, feederName) => this.onBare(range, feederName),
      claims: (copy) => this.mover.claims(copy),
      replicas: {
        all: () => this.replicas.all,
        claims: (copy) => this.replicas.claims(copy),
        settle: (hold) => this.replicas.settle(hold),
        lose: (hold) => this.replicas.lose(hold),
      },
    });
    const { budget, copies } = this;
    const vramOnly = (): boolean => this.facts.devices;
    this.replicas = new Replicas({ budget, copies, directory, persist, vramOnly });
    this.devices = new Devices({ budget, replicas: this.replicas, directory, persist });
    this.mover = new Mover({
      clock,
      budget,
      copies,
      directory,
      persist,
      peer: (signal) => this.awaitPeer(signal),
      onGone: (range, feederName) => this.onGone(range, feederName),
    });
    this.owners = new Owners({ budget, copies, mover: this.mover, directory });
    this.repair = new Repair({
      clock,
      budget,
      copies,
      mover: this.mover,
      signal: this.ended.signal,
      onWhole: (bytes) => deps.onWhole(this, bytes),
      onBug: deps.onBug,
    });
    this.arrears = new Arrears({
      clock,
      budget,
      copies,
      signal: this.ended.signal,
      onRefused: (feederName, why) => deps.onRefused(this, feederName, why),
      onBug: deps.onBug,
    });
    this.lanes = new LaneBook(
      budget,
      copies,
      directory,
      () => this.facts,
      (hold, report) => deps.onLaneBroken(this, hold, report),
    );
  }

  get id(): string {
    return this.facts.attachmentId;
  }

  /** The connected session; undefined while the socket is broken. */
  get peer(): ShimPeer | undefined {
    return this.connected;
  }

  set peer(peer: ShimPeer | undefined) {
    this.connected = peer;
    if (!peer) return;
    for (const waiter of [...this.waiters]) waiter();
    this.settleMoves();
  }

  /** Allocates room for the range where it was granted; on the lease of `lane` (0: any) if that has room. The same
   *  range again is answered alike. Returns its extents, in order, side by side.
   *  @throws GbError CAPACITY_EXHAUSTED, FEEDER_UNREACHABLE, INVALID_ARGUMENT. */
  place(range: ByteRange, lane = 0): Promise<Extent[]> {
    this.checkRange(range);
    return this.queue.run(range, async () => {
      if (this.copies.residency.within(range).length > 0) return this.placedAlready(range);
      await this.replicas.placing(range);
      if (this.facts.dispatch) await this.budget.gather(range.length, lane);
      const rooms = this.budget.reserve(range.length, lane);
      const extents = extentsOf(range.offset, rooms);
      if (extents.length > EXTENTS_MAX) {
        for (const { places } of rooms) for (const place of places) this.budget.unreserve(place);
        throw new GbError('CAPACITY_EXHAUSTED', `its room lies in more than ${EXTENTS_MAX} pieces`);
      }
      await this.copies.allocate(extents.flatMap(({ copies }) => copies));
      this.copies.insert(extents);
      this.notePeaks();
      return extents;
    });
  }

  /** Frees the whole extents of the range. Feeders that are away free theirs at adoption.
   *  @throws GbError NOT_FOUND, INVALID_ARGUMENT. */
  drop(range: ByteRange): Promise<void> {
    this.checkRange(range);
    return this.queue.run(range, async () => {
      await this.mover.abandon(range);
      await this.copies.drop(this.orUnknown(() => this.copies.residency.wholeExtents(range)));
    });
  }

  /** Room for a copy of a range on the lease of a lane, for kernels that run there; or (`drop`) back.
   *  @throws GbError PERMISSION_DENIED unless kernels of it run on feeders; INVALID_ARGUMENT; as Replicas. */
  room(range: ByteRange, { lane, drop }: { lane: number; drop: boolean }): Promise<void> {
    this.checkRange(range);
    this.checkDispatch('room for copies');
    return this.queue.run(range, () =>
      this.orUnknownLane(() =>
        drop ? this.replicas.drop(range, lane) : this.replicas.add(range, lane),
      ),
    );
  }

  /** A feeder's GPU as a device of the program. @throws GbError PERMISSION_DENIED without --remote devices. */
  async device(index: number): Promise<DeviceFacts> {
    this.checkDevices();
    return this.devices.describe(index);
  }

  /** The same, with its first range. @throws GbError INVALID_ARGUMENT; as Devices.open. */
  async openDevice(index: number, range: ByteRange): Promise<DeviceFacts> {
    this.checkDevices();
    this.checkRange(range);
    return this.queue.run(range, () => this.devices.open(index, range));
  }

  private checkDevices(): void {
    if (!this.facts.devices)
      throw new GbError('PERMISSION_DENIED', 'devices of feeders need --remote devices');
  }

  /** A part of a step of the program, and after the last one what should lie elsewhere. @throws GbError
   *  PERMISSION_DENIED unless kernels of it run on feeders; INVALID_ARGUMENT. */
  step(part: StepPart): StepAnswer {
    this.checkDispatch('a learned step');
    for (const range of part.touches) this.checkRange(range);
    return this.owners.step(part);
  }

  /** Moves a placed range to the lease of a lane. @throws GbError as step; as Owners.shift. */
  shift(range: ByteRange, lane: number): Promise<void> {
    this.checkRange(range);
    this.checkDispatch('a range that moves');
    return this.queue.run(range, () =>
      this.orUnknownLane(() => this.owners.shift(range, lane, this.ended.signal)),
    );
  }

  /** What opens the lane of that number. @throws GbError FEEDER_UNREACHABLE, DATA_LOSS, NOT_FOUND. */
  async ticket(lane: number): Promise<LaneOpening> {
    return this.orUnknownLane(() => this.lanes.ticket(lane));
  }

  /** Lanes to a feeder, as the program last told of them. */
  lanesTo(feederId: string): LaneFacts[] {
    return this.lanes.all.filter((lane) => lane.feederId === feederId);
  }

  /** Leases of an earlier agent whose feeder did not come back in time. */
  loseUnadopted(): void {
    for (const hold of this.budget.holds) {
      if (hold.state !== 'unadopted') continue;
      this.forgetful = true;
      this.copies.loseLease(hold);
    }
    this.settleMoves();
  }

  loseFeeder(feederId: string): void {
    for (const hold of this.budget.holds)
      if (hold.feederId === feederId) this.copies.loseLease(hold);
    if (this.facts.copies === 2) this.repair.start();
  }

  /** Brings our account and the feeder's to one after a reconnect. */
  async reconcile(hold: Hold, client: FeederCalls): Promise<void> {
    await this.copies.reconcile(hold, client);
    this.notePeaks();
    this.settleMoves();
  }

  /** Feeders are back or have room, or a program is back: what waits for that is tried. */
  wake(): void {
    this.arrears.now();
    if (this.facts.copies === 2 && this.connected) this.repair.start();
  }

  /** Bytes it has on a feeder. */
  bytesOn(feederId: string): number {
    return bytesOn(this, feederId);
  }

  /** Moves everything a feeder holds for this attachment to others that have room. Returns the
   *  bytes moved. @throws as evacuate. */
  async evacuate(feederId: string, watch: EvacuationWatch): Promise<number> {
    if (this.facts.dispatch && this.deps.directory.computeOf(feederId))
      throw new GbError(
        'WRONG_STATE',
        `pid ${this.facts.identity.pid} runs kernels on it (--remote): its bytes stay there until it ends`,
      );
    // The feeder takes no new ranges any more; those under way land first.
    await this.queue.settled();
    const signal = AbortSignal.any([watch.signal, this.ended.signal]);
    return evacuate(this, feederId, { ...watch, signal }).finally(() => this.settleMoves());
  }

  /** The program is gone. Ends transfers, moves and leases. */
  async end(): Promise<void> {
    this.ended.abort(new GbError('CANCELED', 'the program has ended'));
    this.connected?.close('the program has ended');
    await this.mover.stop();
    await this.queue.idle();
    await this.budget.releaseAll();
  }

  /** Bytes placed now, by kind of device; each copy counts. */
  get placedBytes(): { vramBytes: number; ramBytes: number } {
    const placed = { vramBytes: 0, ramBytes: 0 };
    for (const { copies, length } of this.copies.residency.all) {
      for (const { deviceKey, lost } of copies) {
        if (lost) continue;
        if (isVram(deviceKey)) placed.vramBytes += length;
        else placed.ramBytes += length;
      }
    }
    return placed;
  }

  /** What a later agent has to free. */
  get discards(): readonly Discard[] {
    return this.copies.discards;
  }

  /** Takes moves over that an earlier agent began and the program has not decided. */
  restoreMoves(wishes: readonly MoveWish[]): void {
    for (const wish of wishes) this.mover.undecided.push({ wish, to: undefined });
  }

  /** Asks about moves that were not decided, now and until they are. */
  private settleMoves(): void {
    this.settleTimer?.cancel();
    if (this.mover.undecided.length === 0 || this.ended.signal.aborted) return;
    this.settleTimer = this.deps.clock.after(REPAIR_INTERVAL_MS, () => this.settleMoves());
    if (!this.connected) return;
    this.mover.decide(this.ended.signal).catch((reason: unknown) => {
      if (!(reason instanceof GbError)) this.deps.onBug(reason, 'a move that was not decided');
    });
  }

  private async awaitPeer(signal: AbortSignal): Promise<ShimPeer> {
    const either = AbortSignal.any([signal, this.ended.signal]);
    for (;;) {
      either.throwIfAborted();
      if (this.connected) return this.connected;
      await new Promise<void>((resolve) => {
        const waiter = (): void => {
          this.waiters.delete(waiter);
          either.removeEventListener('abort', waiter);
          resolve();
        };
        this.waiters.add(waiter);
        either.addEventListener('abort', waiter, { once: true });
      });
    }
  }

  private onGone(range: ByteRange, feederName: string): void {
    this.connected?.lost(range, feederName);
    this.deps.onLost(this, range, feederName);
  }

  private onBare(range: ByteRange, feederName: string): void {
    this.deps.onBare(this, range, feederName);
    this.repair.start();
  }

  private notePeaks(): void {
    const placed = this.placedBytes;
    this.peaks.vramBytes = Math.max(this.peaks.vramBytes, placed.vramBytes);
    this.peaks.ramBytes = Math.max(this.peaks.ramBytes, placed.ramBytes);
  }

  private placedAlready(range: ByteRange): Extent[] {
    const extents = this.copies.residency.wholeExtents(range);
    const lost = extents.find(isLost);
    if (lost) throw lossOf(mainCopy(lost));
    this.copies.residency.cover(range);
    return extents;
  }

  private orUnknown<T>(look: () => T): T {
    try {
      return look();
    } catch (reason) {
      throw this.unknown(reason);
    }
  }

  private async orUnknownLane<T>(ask: () => Promise<T>): Promise<T> {
    try {
      return await ask();
    } catch (reason) {
      throw this.unknown(reason);
    }
  }

  /** What was not found may only be away, or have been lost with an earlier agent. */
  private unknown(reason: unknown): unknown {
    if (GbError.from(reason).code !== 'NOT_FOUND') return reason;
    if (this.budget.holds.some(({ state }) => state === 'unadopted'))
      return new GbError('FEEDER_UNREACHABLE', 'a feeder that may hold it is not back yet');
    if (this.forgetful) return new GbError('DATA_LOSS', 'it was lost with an earlier agent');
    return reason;
  }

  private checkDispatch(what: string): void {
    if (!this.facts.dispatch)
      throw new GbError('PERMISSION_DENIED', `${what} needs --remote merged or devices`);
  }

  private checkRange(range: ByteRange): void {
    const { offset, length } = range;
    const whole = offset % RANGE_ALIGN === 0 && length % RANGE_ALIGN === 0 && length > 0;
    if (!whole || rangeEnd(range) > this.facts.arenaBytes)
      throw new GbError('INVALID_ARGUMENT', `no such range of the arena: ${offset} + ${length}`);
  }
}
