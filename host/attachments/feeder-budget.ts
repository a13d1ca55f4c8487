// SPDX-License-Identifier: Apache-2.0
// What one attachment may hold on feeders, and on which: its leases, byte-exact. A grant is backed
// by leases before it is given, so that placing a granted range cannot fail for lack of room. Knows
// bytes, not ranges. The program counts its bytes once; with replicas each of them is leased twice.
import { assert } from '../../proto/base/assert.js';
import { GbError } from '../../proto/base/errors.js';
import type { DeviceKey } from '../links/feeder-client.js';
import { pairCapacity, pairUp } from '../placement/pairs.js';
import { orderByCost, planPlacement, type TierOffer } from '../placement/policy.js';
import { RANGE_ALIGN } from '../shim/abi.js';
import {
  deviceOf,
  freeOf,
  isOf,
  limitsOf,
  rankOf,
  setLimit,
  sumHolds,
  type FeederDirectory,
  type Hold,
  type Reservation,
  type Room,
} from './holds.js';
import { Mutex } from './range-queue.js';
import { byFeeder, giveUp, planGrowth, wholeGranules, zipRooms } from './rooms.js';

export interface BudgetOwner {
  facts(): {
    readonly attachmentId: string;
    readonly arenaBase: bigint;
    readonly arenaBytes: number;
  };
  /** Of every byte: 1 or 2. */
  copies(): number;
  /** A number that no lease of this attachment had before. */
  nextLane(): number;
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

/** Answers that mean "not on this feeder now", not a fault of ours. */
const REFUSALS: ReadonlySet<string> = new Set([
  'CAPACITY_EXHAUSTED',
  'WRONG_STATE',
  'FEEDER_UNREACHABLE',
  'LEASE_EXPIRED',
  'DEADLINE_EXCEEDED',
  'CANCELED',
  'DRIVER_ERROR',
]);

const NOBODY: ReadonlySet<string> = new Set();

export class FeederBudget {
  private readonly held: Hold[] = [];
  private readonly mutex = new Mutex();
  /** Leased for copies that move: twice there until they have moved. */
  private movingBytes = 0;

  constructor(
    private readonly owner: BudgetOwner,
    private readonly directory: FeederDirectory,
  ) {}

  /** Of every byte: 1 or 2. */
  get copies(): number {
    return this.owner.copies();
  }

  get holds(): readonly Hold[] {
    return this.held;
  }

  /** All limits, lost ones too: what the program believes to hold. */
  get heldBytes(): number {
    const leasedBytes = sumHolds(this.held, (device) => device.limitBytes) - this.movingBytes;
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
    for (const { feederId, devices } of this.directory.usable()) {
      for (const device of devices) add(feederId, wholeGranules(device.freeBytes));
    }
    const offers = [...perFeeder].map(([key, freeBytes]) => ({ key, freeBytes }));
    if (this.owner.copies() === 2) return wholeGranules(pairCapacity(offers));
    return offers.reduce((sum, { freeBytes }) => sum + freeBytes, 0);
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
      if (grown) this.movingBytes += bytes;
      return grown;
    });
  }

  /** Gives up `bytes` of one device that no range uses any more: where a copy was, or did not come. */
  lower(hold: Hold, deviceKey: DeviceKey, bytes: number): Promise<void> {
    return this.mutex.run(async () => {
      this.movingBytes -= bytes;
      if (!this.held.includes(hold)) return;
      const device = deviceOf(hold, deviceKey);
      device.limitBytes -= Math.min(bytes, device.limitBytes - device.usedBytes);
      await this.applyLimits(new Set([hold]));
      await this.owner.persist();
    });
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
      await this.applyLimits(new Set([hold]));
      await this.owner.persist();
      return true;
    });
  }

  /** Ends all leases. Feeders that are away are told when they are back. */
  releaseAll(): Promise<void> {
    return this.mutex.run(async () => {
      for (const hold of this.held.splice(0)) this.endLease(hold);
      await this.owner.persist();
    });
  }

  /** Sets room of held leases aside for `bytes`, split at granules only where it must be. The
   *  caller uses or unreserves it.
   *  @throws GbError CAPACITY_EXHAUSTED beyond what was granted; FEEDER_UNREACHABLE when the room
   *  is on a feeder that is away, or was until it was lost. */
  reserve(bytes: number): Room[] {
    const copies = this.owner.copies();
    const rooms = copies === 2 ? this.reservePairs(bytes) : this.reserveSingle(bytes);
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

  private reserveSingle(bytes: number): Room[] | undefined {
    const plan = planPlacement(
      this.offersOf((hold) => this.takes(hold)),
      bytes,
      RANGE_ALIGN,
    );
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

  /** Free bytes of leases, device by device; `key` is the index of the lease and the device. */
  private offersOf(wanted: (hold: Hold) => boolean): TierOffer[] {
    return this.held.flatMap((hold, index) =>
      wanted(hold)
        ? [...hold.devices].map(([deviceKey, device]) => ({
            key: `${index}/${deviceKey}`,
            freeBytes: device.limitBytes - device.usedBytes,
            rank: rankOf(deviceKey),
            ...this.directory.costOf(hold.feederId),
          }))
        : [],
    );
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
        const parts = planGrowth(this.growthOffers(refused), missingBytes, growth.roomOf);
        if (!parts) {
          await this.undo(grown, growth.reserved);
          return undefined;
        }
        for (const [feederId, additions] of byFeeder(parts)) {
          const added = await this.extend(feederId, additions, growth.reserved).catch(
            (reason: unknown) => {
              const error = GbError.from(reason);
              if (!REFUSALS.has(error.code)) throw error;
              refused.add(feederId);
              return [];
            },
          );
          for (const part of added) missingBytes -= part.bytes;
          grown.push(...added);
        }
      }
      await this.owner.persist();
      return grown;
    } catch (reason) {
      await this.undo(grown, growth.reserved);
      throw reason;
    }
  }

  private growthOffers(refused: ReadonlySet<string>): TierOffer[] {
    return this.directory
      .usable()
      .filter(({ feederId }) => !refused.has(feederId))
      .flatMap(({ feederId, cost, devices }) =>
        devices.map(({ key, freeBytes }) => ({
          key: `${feederId}/${key}`,
          freeBytes,
          rank: rankOf(key),
          ...cost,
        })),
      );
  }

  private async extend(
    feederId: string,
    additions: ReadonlyMap<DeviceKey, number>,
    reserved: boolean,
  ): Promise<Reservation[]> {
    const client = this.directory.client(feederId);
    let hold = this.held.find((other) => other.feederId === feederId && other.state === 'held');
    if (hold) {
      const limits = limitsOf(hold);
      for (const [key, bytes] of additions) limits.set(key, (limits.get(key) ?? 0) + bytes);
      await client.resize(hold, limits);
      for (const [key, limit] of limits) setLimit(hold, key, limit);
    } else {
      const { attachmentId, arenaBase, arenaBytes } = this.owner.facts();
      const request = { attachmentId, arenaBase, arenaBytes, limits: additions };
      const lease = await client.acquire(request);
      const view = this.directory.usable().find((candidate) => candidate.feederId === feederId);
      const devices = new Map(
        [...additions].map(([key, bytes]) => [key, { limitBytes: bytes, usedBytes: 0 }]),
      );
      const feederName = view?.name ?? feederId;
      const lane = this.owner.nextLane();
      hold = { feederId, feederName, ...lease, lane, state: 'held', devices };
      this.held.push(hold);
    }
    for (const [key, bytes] of additions) {
      this.directory.noteLeased(feederId, key, bytes);
      if (reserved) deviceOf(hold, key).usedBytes += bytes;
    }
    const holder = hold;
    return [...additions].map(([deviceKey, bytes]) => ({ hold: holder, deviceKey, bytes }));
  }

  private async undo(grown: readonly Reservation[], reserved: boolean): Promise<void> {
    const touched = new Set<Hold>();
    for (const { hold, deviceKey, bytes } of grown) {
      const device = deviceOf(hold, deviceKey);
      if (reserved) device.usedBytes -= bytes;
      device.limitBytes -= bytes;
      touched.add(hold);
    }
    await this.applyLimits(touched);
  }

  private async shrinkNow(bytes: number): Promise<number> {
    let leftBytes = wholeGranules(bytes);
    const touched = new Set<Hold>();
    for (const hold of this.held.filter(({ state }) => state === 'lost')) {
      const taken = giveUp(hold, leftBytes);
      leftBytes -= taken;
      if (taken > 0) touched.add(hold);
    }
    const offers = orderByCost(this.offersOf(({ state }) => state !== 'lost')).reverse();
    for (const { key, freeBytes } of offers) {
      const taken = Math.min(freeBytes, leftBytes);
      if (taken === 0) continue;
      const [index, deviceKey] = key.split('/') as [string, string];
      const hold = this.held[Number(index)] as Hold;
      deviceOf(hold, deviceKey).limitBytes -= taken;
      leftBytes -= taken;
      touched.add(hold);
    }
    await this.applyLimits(touched);
    await this.owner.persist();
    return wholeGranules(bytes) - leftBytes;
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
    await this.applyLimits(touched);
    await this.owner.persist();
    return taken;
  }

  /** Tells feeders the limits that fell. One that is away learns it at the next adoption, which
   *  compares them. */
  private async applyLimits(holds: ReadonlySet<Hold>): Promise<void> {
    for (const hold of holds) {
      const limits = limitsOf(hold);
      if ([...limits.values()].every((limit) => limit === 0)) {
        const index = this.held.indexOf(hold);
        if (index >= 0) this.held.splice(index, 1);
        this.endLease(hold);
      } else if (hold.state === 'held') {
        await this.resizeQuietly(hold, limits);
      }
    }
  }

  private async resizeQuietly(hold: Hold, limits: ReadonlyMap<DeviceKey, number>): Promise<void> {
    try {
      await this.directory.client(hold.feederId).resize(hold, limits);
    } catch (reason) {
      // Away, or gone: adoption compares limits when it is back, and its end makes them moot.
      if (!REFUSALS.has(GbError.from(reason).code)) throw reason;
    }
  }

  private endLease(hold: Hold): void {
    if (hold.state === 'lost' || hold.leaseId === '') return;
    for (const [key, bytes] of limitsOf(hold))
      this.directory.noteLeased(hold.feederId, key, -bytes);
    this.directory.releaseLease(hold.feederId, hold);
  }
}
