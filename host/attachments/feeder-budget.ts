// SPDX-License-Identifier: Apache-2.0
// What one attachment may hold on feeders, and on which: its leases, byte-exact. A grant is backed
// by leases before it is given, so that placing a granted range cannot fail for lack of room. Knows
// bytes, not ranges. The program counts its bytes once; with replicas each of them is leased twice.
import { assert } from '../../proto/base/assert.js';
import { GbError } from '../../proto/base/errors.js';
import type { DeviceKey, FeederCalls } from '../links/feeder-client.js';
import { pairCapacity, pairUp } from '../placement/pairs.js';
import { isWhole, type DispatchOffer } from '../placement/dispatch.js';
import { orderByCost, planPlacement, type PlacementPart } from '../placement/policy.js';
import { RANGE_ALIGN } from '../shim/abi.js';
import {
  deviceOf,
  freeOf,
  isOf,
  sumHolds,
  type FeederDirectory,
  type Hold,
  type Reservation,
  type Room,
} from './holds.js';
import { Leases, noRoom, type LeasesOwner } from './leases.js';
import { Offers } from './offers.js';
import { Mutex } from './range-queue.js';
import { byFeeder, giveUp, planGrowth, wholeGranules, zipRooms } from './rooms.js';

export interface BudgetOwner extends LeasesOwner {
  /** Of every byte: 1 or 2. */
  copies(): number;
  /** Its kernels run where its ranges are. */
  dispatch(): boolean;
  /** Leases changed: must be on disk when this resolves. */
  persist(): Promise<void>;
}

interface Growth {
  /** Feeders that take none of it. */
  readonly exclude: ReadonlySet<string>;
  /** The room is used from the moment it is there. */
  readonly reserved: boolean;
  /** What one feeder may take more; undefined: any. */
  readonly roomOf?: (feederId: string) => number;
}

const NOBODY: ReadonlySet<string> = new Set();

export class FeederBudget {
  private readonly mutex = new Mutex();
  /** Leased beyond what the program was granted: for copies that move, twice there until they have moved, and for
   *  replicas. */
  private extraBytes = 0;
  readonly offers: Offers;
  private readonly leases: Leases;

  constructor(
    private readonly owner: BudgetOwner,
    private readonly directory: FeederDirectory,
  ) {
    this.offers = new Offers(directory, () => owner.dispatch());
    this.leases = new Leases(owner, directory);
  }

  /** Of every byte: 1 or 2. */
  get copies(): number {
    return this.owner.copies();
  }

  private get held(): Hold[] {
    return this.leases.held;
  }

  get holds(): readonly Hold[] {
    return this.held;
  }

  /** All limits, lost ones too: what the program believes to hold. */
  get heldBytes(): number {
    const leasedBytes = sumHolds(this.held, (device) => device.limitBytes) - this.extraBytes;
    return Math.max(0, Math.floor(leasedBytes / this.owner.copies()));
  }

  get usedBytes(): number {
    return Math.floor(sumHolds(this.held, (device) => device.usedBytes) / this.owner.copies());
  }

  /** What could be held in all at this moment. */
  get limitBytes(): number {
    const perFeeder = new Map<string, number>();
    const add = (feederId: string, bytes: number): void =>
      void perFeeder.set(feederId, (perFeeder.get(feederId) ?? 0) + bytes);
    for (const hold of this.held)
      add(
        hold.feederId,
        sumHolds([hold], ({ limitBytes }) => limitBytes),
      );
    for (const { feederId, freeBytes } of this.offers.ofFeeders(this.held, NOBODY))
      add(feederId, wholeGranules(freeBytes));
    const offers = [...perFeeder].map(([key, freeBytes]) => ({ key, freeBytes }));
    if (this.owner.copies() === 2) return wholeGranules(pairCapacity(offers));
    return Math.max(0, offers.reduce((sum, { freeBytes }) => sum + freeBytes, 0) - this.extraBytes);
  }

  /** A feeder that it has a lease on cannot be asked now: it may have room when it is back. */
  get waits(): boolean {
    return this.held.some(({ state, feederId }) => {
      if (state !== 'held') return state === 'unadopted';
      try {
        this.directory.client(feederId);
        return false;
      } catch {
        return true;
      }
    });
  }

  /** Adds a lease known from the state file. */
  restore(hold: Hold): void {
    this.held.push(hold);
  }

  /** The program says it holds more than we know of: those bytes are gone. */
  addLost(bytes: number): void {
    for (let copy = 0; copy < this.owner.copies(); copy++) {
      this.held.push({
        feederId: '',
        feederName: '',
        leaseId: '',
        lane: 0,
        fencingToken: 0n,
        state: 'lost',
        devices: new Map([['lost', { limitBytes: bytes, usedBytes: bytes }]]),
      });
    }
  }

  /** Leases `bytes` more, cheapest feeders first; all or nothing. Returns false when there is not
   *  enough room.
   *  @throws GbError when the state could not be kept; nothing was granted then. */
  grow(bytes: number): Promise<boolean> {
    assert(bytes > 0 && bytes % RANGE_ALIGN === 0, 'a grant has whole granules');
    const copies = this.owner.copies();
    return this.mutex.run(async () => {
      const roomOf = this.pairedRoom(bytes);
      const growth = { exclude: NOBODY, reserved: false, ...(roomOf ? { roomOf } : {}) };
      return (await this.growNow(bytes * copies, growth)) !== undefined;
    });
  }

  /** Gives up to `bytes` back that no range uses, costliest first. Returns what was given back. */
  shrink(bytes: number): Promise<number> {
    return this.mutex.run(() =>
      this.owner.copies() === 2 ? this.shrinkPairs(bytes) : this.shrinkNow(bytes),
    );
  }

  /** Leases `bytes` more outside of `exclude` and sets them aside, for one copy that moves there.
   *  undefined: not enough room. @throws as grow. */
  lease(bytes: number, exclude: ReadonlySet<string>): Promise<Reservation[] | undefined> {
    return this.mutex.run(async () => {
      const grown = await this.growNow(bytes, { exclude, reserved: true });
      if (grown) this.extraBytes += bytes;
      return grown;
    });
  }

  /** Leases `bytes` more on one lease and sets them aside, for a replica; on the first of `deviceKeys` that has room.
   *  undefined: none has. @throws as grow. */
  leaseOn(
    hold: Hold,
    deviceKeys: readonly DeviceKey[],
    bytes: number,
  ): Promise<Reservation | undefined> {
    return this.mutex.run(async () => {
      for (const key of deviceKeys) {
        const view = this.directory.usable().find(({ feederId }) => feederId === hold.feederId);
        const device = view?.devices.find((candidate) => candidate.key === key);
        if (hold.state !== 'held' || !device || device.freeBytes < bytes) continue;
        const added = await this.leaseExtra(hold.feederId, key, bytes);
        if (added) return added;
      }
      return undefined;
    });
  }

  /** The same on the lease of that feeder, made if there is none. */
  leaseFirst(feederId: string, key: DeviceKey, bytes: number): Promise<Reservation | undefined> {
    return this.mutex.run(() => this.leaseExtra(feederId, key, bytes));
  }

  private async leaseExtra(
    feederId: string,
    key: DeviceKey,
    bytes: number,
  ): Promise<Reservation | undefined> {
    const limits = new Map([[key, bytes]]);
    const [added] = await this.leases.extend(feederId, limits, true).catch(noRoom);
    if (added) this.extraBytes += bytes;
    return added;
  }

  /** Room for a range whose kernels run where it lies: brought together on one feeder that runs them (that of `lane`
   *  first), if it was granted in pieces. What that one leases, others give back. @throws as grow. */
  gather(bytes: number, lane = 0): Promise<void> {
    return this.mutex.run(async () => {
      const offers = this.offersOf((hold) => this.takes(hold));
      const plan = this.offers.plan(offers, bytes, lane);
      if (!this.owner.dispatch() || plan.missingBytes > 0 || isWhole(plan, offers, lane)) return;
      const whole = isWhole(plan, offers);
      const beyond = this.offers.ofFeeders(this.held, NOBODY);
      const wanted = whole ? beyond.filter((offer) => offer.lane === lane) : beyond;
      for (const feederId of runnersOf(this.offers.order(wanted, lane))) {
        const isOwn = (offer: DispatchOffer): boolean => offer.feederId === feederId;
        const own = offers.filter((offer) => isOwn(offer) && offer.reach !== 'none');
        const missingBytes = bytes - own.reduce((sum, { freeBytes }) => sum + freeBytes, 0);
        if (await this.widen(wanted.filter(isOwn), missingBytes)) {
          await this.giveUpFrom(
            offers.filter((offer) => !isOwn(offer)),
            missingBytes,
          );
          return;
        }
      }
    });
  }

  /** Leases so much more on one feeder, or nothing. */
  private async widen(beyond: readonly DispatchOffer[], bytes: number): Promise<boolean> {
    const plan = this.offers.plan(beyond, bytes);
    if (plan.missingBytes > 0) return false;
    for (const [feederId, additions] of byFeeder(plan.parts)) {
      const added = await this.leases.extend(feederId, additions, false).catch(noRoom);
      if (added.length === 0) return false;
    }
    return true;
  }

  /** Bytes of replicas that an earlier agent leased beyond what was granted. */
  restoreExtra(bytes: number): void {
    this.extraBytes += bytes;
  }

  /** A replica is gone with its lease. pre: the lease is lost. */
  forfeit(hold: Hold, deviceKey: DeviceKey, bytes: number): void {
    this.extraBytes -= bytes;
    const device = deviceOf(hold, deviceKey);
    device.usedBytes -= bytes;
    device.limitBytes -= bytes;
  }

  /** Gives up `bytes` of one device that no range uses any more: where a copy was, or did not come. */
  lower(hold: Hold, deviceKey: DeviceKey, bytes: number): Promise<void> {
    return this.mutex.run(async () => {
      this.extraBytes -= bytes;
      if (!this.held.includes(hold)) return;
      const device = deviceOf(hold, deviceKey);
      device.limitBytes -= Math.min(bytes, device.limitBytes - device.usedBytes);
      await this.leases.applyLimits(new Set([hold]));
      await this.owner.persist();
    });
  }

  /** Tells a feeder how far the limits of a lease fell, if it has not been told. Returns why that cannot be now. */
  settleLimits(hold: Hold): Promise<GbError | undefined> {
    return this.mutex.run(() => this.leases.settle(hold));
  }

  /** The feeder's limits of a lease that is adopted with `client` are not ours: it is told. */
  differs(hold: Hold, client: FeederCalls): Promise<void> {
    return this.leases.lowered(hold, client);
  }

  /** Leases elsewhere what one lease has free, and gives that up. Returns false when nobody has
   *  room for it. */
  moveFree(hold: Hold): Promise<boolean> {
    return this.mutex.run(async () => {
      const bytes = freeOf(hold);
      if (bytes === 0 || !this.held.includes(hold)) return true;
      const roomOf = this.pairedRoom(hold.state === 'lost' ? bytes / 2 : 0);
      const growth = {
        exclude: new Set([hold.feederId]),
        reserved: false,
        ...(roomOf ? { roomOf } : {}),
      };
      if (!(await this.growNow(bytes, growth))) return false;
      for (const device of hold.devices.values()) device.limitBytes = device.usedBytes;
      await this.leases.applyLimits(new Set([hold]));
      await this.owner.persist();
      return true;
    });
  }

  /** Ends all leases. Feeders that are away are told when they are back. */
  releaseAll(): Promise<void> {
    return this.mutex.run(async () => {
      for (const hold of this.held.splice(0)) this.leases.endLease(hold);
      await this.owner.persist();
    });
  }

  /** Sets room of held leases aside for `bytes`, split at granules only where it must be; with dispatch, on the lease
   *  of `lane` first. The caller uses or unreserves it.
   *  @throws GbError CAPACITY_EXHAUSTED beyond what was granted; FEEDER_UNREACHABLE when the room
   *  is on a feeder that is away, or was until it was lost. */
  reserve(bytes: number, lane = 0): Room[] {
    const copies = this.owner.copies();
    const rooms = copies === 2 ? this.reservePairs(bytes) : this.reserveSingle(bytes, lane);
    if (rooms) return rooms;
    const freeIn = (wanted: (hold: Hold) => boolean): number =>
      this.held.filter(wanted).reduce((sum, hold) => sum + freeOf(hold), 0);
    const missingBytes = bytes - freeIn((hold) => this.takes(hold));
    // A lost lease of a program with replicas is leased again elsewhere soon.
    const awayBytes = freeIn(
      (hold) => !this.takes(hold) && (copies === 2 || hold.state !== 'lost'),
    );
    const away = copies === 2 ? awayBytes > 0 : missingBytes <= awayBytes;
    throw away
      ? new GbError('FEEDER_UNREACHABLE', 'the feeder that holds the room is away')
      : new GbError('CAPACITY_EXHAUSTED', `${bytes} bytes are more than were granted`);
  }

  /** Takes a reservation back, or says that its range was freed. */
  unreserve({ hold, deviceKey, bytes }: Reservation): void {
    const device = deviceOf(hold, deviceKey);
    assert(device.usedBytes >= bytes, 'no more is freed than was used');
    device.usedBytes -= bytes;
  }

  holdOf(of: { readonly feederId: string; readonly leaseId: string }): Hold | undefined {
    return this.held.find((hold) => isOf(of, hold));
  }

  private takes(hold: Hold): boolean {
    return hold.state === 'held' && this.directory.accepts(hold.feederId);
  }

  private reserveSingle(bytes: number, lane: number): Room[] | undefined {
    const offers = this.offersOf((hold) => this.takes(hold));
    const plan = this.offers.plan(offers, bytes, lane);
    if (plan.missingBytes > 0) return undefined;
    return plan.parts.map((part) => ({ bytes: part.bytes, places: [this.take(part)] }));
  }

  /** The two copies may be split differently over the devices of their feeders: rooms end where
   *  either of them does. */
  private reservePairs(bytes: number): Room[] | undefined {
    const takers = this.byCost(this.held.filter((hold) => this.takes(hold)));
    const offers = takers.map((hold, rank) => ({ key: String(rank), freeBytes: freeOf(hold) }));
    const pairs = pairUp(offers, bytes, RANGE_ALIGN);
    return pairs?.flatMap((pair) => {
      const ranks = [Number(pair.first), Number(pair.second)].sort((a, b) => a - b);
      const [near, far] = ranks.map((rank) => this.takeFrom(takers[rank] as Hold, pair.bytes));
      return zipRooms(near as Reservation[], far as Reservation[]);
    });
  }

  /** pre: the lease has so much free. */
  private takeFrom(hold: Hold, bytes: number): Reservation[] {
    const plan = planPlacement(
      this.offersOf((other) => other === hold),
      bytes,
      RANGE_ALIGN,
    );
    assert(plan.missingBytes === 0, 'the lease has room');
    return plan.parts.map((part) => this.take(part));
  }

  private take({ key, bytes }: { key: string; bytes: number }): Reservation {
    const [index, deviceKey] = key.split('/') as [string, string];
    const hold = this.held[Number(index)] as Hold;
    deviceOf(hold, deviceKey).usedBytes += bytes;
    return { hold, deviceKey, bytes };
  }

  private offersOf(wanted: (hold: Hold) => boolean): DispatchOffer[] {
    return this.offers.ofLeases(this.held, wanted);
  }

  private byCost(holds: readonly Hold[]): Hold[] {
    const offers = holds.map((hold, index) => ({
      key: String(index),
      freeBytes: 0,
      rank: 0,
      ...this.directory.costOf(hold.feederId),
    }));
    return orderByCost(offers).map(({ key }) => holds[Number(key)] as Hold);
  }

  /** With replicas: what each feeder may take so that all that is free can be used in pairs, once
   *  the program has `bytes` more. */
  private pairedRoom(bytes: number): ((feederId: string) => number) | undefined {
    if (this.owner.copies() !== 2) return undefined;
    const live = this.held.filter(({ state }) => state !== 'lost');
    const half = live.reduce((sum, hold) => sum + freeOf(hold), 0) / 2 + bytes;
    return (feederId) => {
      const own = this.held.filter((hold) => hold.feederId === feederId && hold.state !== 'lost');
      return wholeGranules(half - own.reduce((sum, hold) => sum + freeOf(hold), 0));
    };
  }

  private async growNow(bytes: number, growth: Growth): Promise<Reservation[] | undefined> {
    const grown: Reservation[] = [];
    const refused = new Set(growth.exclude);
    let missingBytes = bytes;
    try {
      while (missingBytes > 0) {
        const parts = this.planGrowth(refused, missingBytes, growth.roomOf);
        if (!parts) {
          await this.leases.undo(grown, growth.reserved);
          return undefined;
        }
        for (const [feederId, additions] of byFeeder(parts)) {
          const added = await this.leases
            .extend(feederId, additions, growth.reserved)
            .catch((reason: unknown) => {
              refused.add(feederId);
              return noRoom(reason);
            });
          for (const part of added) missingBytes -= part.bytes;
          grown.push(...added);
        }
      }
      await this.owner.persist();
      return grown;
    } catch (reason) {
      await this.leases.undo(grown, growth.reserved);
      throw reason;
    }
  }

  private planGrowth(
    refused: ReadonlySet<string>,
    bytes: number,
    roomOf: Growth['roomOf'],
  ): readonly PlacementPart[] | undefined {
    const offers = this.offers.ofFeeders(this.held, refused);
    if (!this.owner.dispatch()) return planGrowth(offers, bytes, roomOf);
    const plan = this.offers.plan(offers, bytes);
    return plan.missingBytes === 0 ? plan.parts : undefined;
  }

  private async shrinkNow(bytes: number): Promise<number> {
    let leftBytes = wholeGranules(bytes);
    const touched = new Set<Hold>();
    for (const hold of this.held.filter(({ state }) => state === 'lost')) {
      const taken = giveUp(hold, leftBytes);
      leftBytes -= taken;
      if (taken > 0) touched.add(hold);
    }
    const offers = this.offersOf(({ state }) => state !== 'lost');
    leftBytes -= await this.giveUpFrom(offers, leftBytes, touched);
    return wholeGranules(bytes) - leftBytes;
  }

  /** Takes up to `bytes` back where nothing uses them, costliest first. Returns how many. */
  private async giveUpFrom(
    offers: readonly DispatchOffer[],
    bytes: number,
    touched = new Set<Hold>(),
  ): Promise<number> {
    let leftBytes = bytes;
    for (const { key, freeBytes } of this.offers.order(offers).reverse()) {
      const taken = Math.min(freeBytes, leftBytes);
      if (taken === 0) continue;
      const [index, deviceKey] = key.split('/') as [string, string];
      const hold = this.held[Number(index)] as Hold;
      deviceOf(hold, deviceKey).limitBytes -= taken;
      leftBytes -= taken;
      touched.add(hold);
    }
    await this.leases.applyLimits(touched);
    await this.owner.persist();
    return bytes - leftBytes;
  }

  /** Both copies of what is given back go, so that what stays can still be used in pairs. */
  private async shrinkPairs(bytes: number): Promise<number> {
    const offers = this.held.map((hold, index) => ({
      key: String(index),
      freeBytes: hold.leaseId === '' ? sumHolds([hold], (d) => d.limitBytes) : freeOf(hold),
    }));
    const taken = wholeGranules(Math.min(bytes, pairCapacity(offers)));
    const touched = new Set<Hold>();
    for (const pair of taken > 0 ? (pairUp(offers, taken, RANGE_ALIGN) ?? []) : []) {
      for (const key of [pair.first, pair.second]) {
        const hold = this.held[Number(key)] as Hold;
        giveUp(hold, pair.bytes);
        touched.add(hold);
      }
    }
    await this.leases.applyLimits(touched);
    await this.owner.persist();
    return taken;
  }
}

/** Feeders that run kernels, in the order of their offers. */
function runnersOf(offers: readonly DispatchOffer[]): Set<string> {
  return new Set(offers.filter(({ reach }) => reach !== 'none').map(({ feederId }) => feederId));
}
