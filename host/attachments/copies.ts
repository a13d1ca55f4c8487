// SPDX-License-Identifier: Apache-2.0
// Where the bytes of one attachment lie: allocates and frees ranges on feeders, remembers what a
// feeder could not be told, and brings our account and a feeder's to one after a reconnect or a
// restart of the agent.
import { GbError } from '../../proto/base/errors.js';
import type { DeviceKey, FeederCalls, LeaseFacts } from '../links/feeder-client.js';
import {
  overlaps,
  Residency,
  type ByteRange,
  type Copy,
  type Extent,
} from '../placement/residency.js';
import type { FeederBudget } from './feeder-budget.js';
import { isOf, type DeviceHold, type FeederDirectory, type Hold } from './holds.js';
import {
  discardOf,
  isSame,
  isSameDiscard,
  lossOf,
  mergeRanges,
  rangeKey,
  without,
  withFeeder,
  type Discard,
} from './pieces.js';

/** A feeder that cannot be asked now, or whose lease is being adopted, is asked later. */
const AWAY: ReadonlySet<string> = new Set([
  'FEEDER_UNREACHABLE',
  'WRONG_STATE',
  'EPOCH_STALE',
  'CANCELED',
  'DEADLINE_EXCEEDED',
  'DATA_LOSS',
]);

/** How a feeder refuses where something else still is. */
const IN_THE_WAY: ReadonlySet<string> = new Set(['ALREADY_EXISTS', 'CAPACITY_EXHAUSTED']);

export interface CopiesOwner {
  arenaBytes(): number;
  persist(): Promise<void>;
  /** A feeder has to be told something that it could not be told now: see Arrears. */
  owes(): void;
  /** These bytes are gone with their last copy. */
  onGone(range: ByteRange, feederName: string): void;
  /** These bytes have lost one of two copies. */
  onBare(range: ByteRange, feederName: string): void;
  /** The agent died while it moved this range here: it is no copy until the program has said so.
   *  True when it was taken. */
  claims(copy: Copy): boolean;
  /** Room for kernels that run there, with no bytes of the program's own. */
  readonly replicas: ReplicaBook;
}

/** What replicas have to do with a lease that comes back, or does not. */
export interface ReplicaBook {
  all(): readonly Copy[];
  claims(copy: Copy): boolean;
  settle(hold: Hold): boolean;
  lose(hold: Hold): void;
}

export class Copies {
  readonly residency = new Residency();
  /** Ranges that feeders may still hold and that are not the program's any more. Kept on disk: a
   *  later agent must free them, not take them for the program's bytes. */
  readonly discards: Discard[] = [];
  /** Allocated, and not yet where the program's bytes are. */
  private readonly pending = new Set<Copy>();
  /** Of those, the targets of moves. */
  private readonly expected = new WeakSet<Copy>();
  /** Frees under way of what was given up earlier: nothing is allocated there meanwhile. */
  private readonly clearing = new Map<Discard, Promise<unknown>>();

  constructor(
    private readonly budget: FeederBudget,
    private readonly directory: FeederDirectory,
    private readonly owner: CopiesOwner,
  ) {}

  /** Allocates zeroed memory for each copy. pre: room is reserved. On failure nothing stays reserved
   *  or, as far as it can be said, there. */
  async allocate(copies: readonly Copy[]): Promise<void> {
    const tried: Copy[] = [];
    try {
      for (const copy of copies) {
        tried.push(copy);
        this.pending.add(copy);
        await this.allocateOne(copy);
      }
    } catch (reason) {
      for (const copy of copies) {
        if (tried.includes(copy) && !this.isInUse(copy)) await this.freeOrDiscard(copy);
        else this.undiscard(discardOf(copy, copy));
        this.settle(copy);
      }
      throw reason;
    }
  }

  private async allocateOne(copy: Copy): Promise<void> {
    const { deviceKey, offset, length } = copy;
    const allocate = (): Promise<void> =>
      this.onLease(this.liveHold(copy), (client, hold) =>
        client.allocate(hold, deviceKey, offset, length),
      );
    await this.isClear(copy);
    try {
      await allocate();
    } catch (reason) {
      if (!IN_THE_WAY.has(GbError.from(reason).code)) throw reason;
      // What was given up while the feeder could not be asked is still there.
      if (await this.freeOwed(this.liveHold(copy), copy)) throw reason;
      await allocate();
    }
    // Nothing else can be there any more. A copy that is expected is itself to be discarded until it counts.
    this.undiscard(...this.discards.filter((discard) => isWithin(discard, copy)));
    if (this.expected.has(copy)) this.discard(discardOf(copy, copy));
  }

  /** Allocated copies begin to hold the program's bytes. */
  insert(extents: readonly Extent[]): void {
    for (const extent of extents) {
      this.residency.insert(extent);
      for (const copy of extent.copies) this.pending.delete(copy);
    }
  }

  /** An allocated copy is kept elsewhere than in extents. */
  adopt(copy: Copy): void {
    this.pending.delete(copy);
  }

  /** The program uses `to` instead of `from`; `from` is freed once nothing of it is needed. */
  async swap(range: ByteRange, from: Copy, to: Copy): Promise<void> {
    this.residency.swap(range, from, to);
    this.pending.delete(to);
    if (this.residency.needs(from)) return;
    await this.freeOrDiscard(from);
    this.settle(from);
    const inFrom = this.discards.filter((discard) => isWithin(discard, from));
    this.undiscard(...inFrom.filter((discard) => !isSameDiscard(discard, discardOf(from, from))));
  }

  /** Gives up a copy that never held the program's bytes. */
  async abandon(copy: Copy): Promise<void> {
    await this.freeOrDiscard(copy);
    this.settle(copy);
  }

  /** Frees whole extents everywhere. */
  async drop(extents: readonly Extent[]): Promise<void> {
    const copies = new Set(extents.flatMap((extent) => extent.copies));
    const others = new Set(
      this.residency.all.filter((e) => !extents.includes(e)).flatMap((e) => e.copies),
    );
    const orphans = [...copies].filter((copy) => !others.has(copy));
    for (const copy of orphans) await this.freeOrDiscard(copy);
    for (const extent of extents) this.residency.remove(extent);
    for (const copy of orphans) this.settle(copy);
  }

  /** Copies that are about to be allocated and hold nothing of the program until it says so: a later agent frees
   *  them. */
  expect(copies: readonly Copy[]): void {
    for (const copy of copies) {
      this.pending.add(copy);
      this.expected.add(copy);
    }
    this.discard(...copies.map((copy) => discardOf(copy, copy)));
  }

  discard(...discards: Discard[]): void {
    this.discards.push(...discards);
  }

  undiscard(...discards: Discard[]): void {
    for (const discard of discards) {
      const index = this.discards.findIndex((other) => isSameDiscard(other, discard));
      if (index >= 0) this.discards.splice(index, 1);
    }
  }

  /** The lease a copy lies on. @throws GbError DATA_LOSS. */
  liveHold(copy: Copy): Hold {
    const hold = this.budget.holdOf(copy);
    if (!hold) throw lossOf(copy);
    return hold;
  }

  /** A call for a lease; when the feeder does not know the lease any more, or what held its bytes has
   *  died there, they are gone. */
  async onLease<T>(hold: Hold, call: (client: FeederCalls, hold: Hold) => Promise<T>): Promise<T> {
    if (hold.state === 'lost') throw lossOf(hold);
    if (hold.state === 'unadopted')
      throw new GbError('FEEDER_UNREACHABLE', `feeder ${hold.feederName} is not back yet`);
    try {
      return await call(this.directory.client(hold.feederId), hold);
    } catch (reason) {
      const error = GbError.from(reason);
      if (error.code === 'LEASE_EXPIRED' || error.code === 'DATA_LOSS') {
        this.loseLease(hold);
        throw lossOf(hold);
      }
      throw withFeeder(error, hold.feederName);
    }
  }

  /** A lease is gone with what lay there. */
  loseLease(hold: Hold): void {
    if (hold.state === 'lost') return;
    hold.state = 'lost';
    for (const copy of this.pending) if (isOf(copy, hold)) copy.lost = true;
    this.owner.replicas.lose(hold);
    this.tellLoss(hold, (copy) => isOf(copy, hold));
  }

  /** Brings our account and the feeder's to one after a reconnect. What only the feeder has is
   *  freed there (or, after a restart of the agent, taken over); what only we have is lost. */
  async reconcile(hold: Hold, client: FeederCalls): Promise<void> {
    const facts = await client.stat(hold);
    if (hold.state === 'unadopted') {
      await this.takeOver(hold, facts, client);
      this.forgetDiscards(hold);
      return;
    }
    const wanted = new Set(facts.ranges.map(rangeKey));
    const ours = [...this.residency.copies, ...this.pending, ...this.owner.replicas.all()];
    for (const range of facts.ranges) {
      const known = ours.some((copy) => isSame(copy, range, hold));
      if (!known) await client.free(hold, range.deviceKey, range.offset, range.length);
    }
    this.tellLoss(hold, (copy) => isOf(copy, hold) && !wanted.has(rangeKey(copy)));
    const differs = [...hold.devices].some(
      ([key, { limitBytes }]) => (facts.limits.get(key) ?? 0) !== limitBytes,
    );
    if (differs) await this.budget.differs(hold, client);
    this.forgetDiscards(hold);
  }

  /** Frees what was given up on a lease when its feeder could not be asked. `copy`: not allocated there yet, for want
   *  of that. Returns why that cannot be now. */
  async freeOwed(hold: Hold, copy?: Copy): Promise<GbError | undefined> {
    const owed = this.discards.filter((discard) => isOf(discard, hold));
    if (!owed.some((discard) => !this.isTaken(discard, copy))) return undefined;
    try {
      const { ranges } = await this.onLease(hold, (client) => client.stat(hold));
      for (const discard of owed) {
        if (this.isTaken(discard, copy) || !this.discards.includes(discard)) continue;
        const hits = ranges.filter((range) => overlaps(range, discard));
        const range = hits.find((hit) => isSameSpan(hit, discard));
        if (range) await this.clear(discard, hold, range.deviceKey);
        if (copy === undefined && (range || hits.length === 0)) this.undiscard(discard);
      }
      await this.owner.persist();
      return undefined;
    } catch (reason) {
      const error = GbError.from(reason);
      if (error.code === 'DATA_LOSS') return undefined; // They went with the lease.
      return error;
    }
  }

  private async clear(discard: Discard, hold: Hold, deviceKey: DeviceKey): Promise<void> {
    const { offset, length } = discard;
    const done = this.onLease(hold, (client) => client.free(hold, deviceKey, offset, length));
    this.clearing.set(discard, done);
    try {
      await done;
    } catch (reason) {
      if (GbError.from(reason).code !== 'NOT_FOUND') throw reason;
    } finally {
      this.clearing.delete(discard);
    }
  }

  /** Resolves when no free is under way where a copy is to be. */
  private async isClear(copy: Copy): Promise<void> {
    const hits = [...this.clearing].filter(([discard]) => isWithin(discard, copy));
    await Promise.allSettled(hits.map(([, done]) => done));
  }

  /** Something of ours lies there, or is about to, on the same lease. */
  private isTaken(discard: Discard, except?: Copy): boolean {
    return this.under(discard).some((copy) => copy !== except && isSameLease(copy, discard));
  }

  /** Copies of any of these bytes that are not lost, allocated ones that hold nothing yet and replicas among them. */
  under(range: ByteRange): Copy[] {
    const all = [...this.residency.copies, ...this.pending, ...this.owner.replicas.all()];
    return all.filter((copy) => !copy.lost && overlaps(copy, range));
  }

  /** True when another copy lies where this one was to be: what is there is not to be freed. */
  private isInUse(copy: Copy): boolean {
    return this.under(copy).some((other) => other !== copy && isSameLease(other, copy));
  }

  /** Its room may be used again. */
  private settle(copy: Copy): void {
    this.pending.delete(copy);
    const hold = this.budget.holdOf(copy);
    if (hold) this.budget.unreserve({ hold, deviceKey: copy.deviceKey, bytes: copy.length });
  }

  private tellLoss(hold: Hold, predicate: (copy: Copy) => boolean): void {
    const { gone, bare } = this.residency.lose(predicate);
    for (const range of mergeRanges(gone)) this.owner.onGone(range, hold.feederName);
    for (const range of mergeRanges(bare)) this.owner.onBare(range, hold.feederName);
  }

  /** Frees a range on its feeder; one that cannot be asked now is told when it is back. */
  private async freeOrDiscard(copy: Copy): Promise<void> {
    if (await this.isFreed(copy)) {
      this.undiscard(discardOf(copy, copy));
      return;
    }
    if (!this.discards.some((other) => isSameDiscard(other, discardOf(copy, copy))))
      this.discard(discardOf(copy, copy));
    this.owner.owes();
    await this.owner.persist();
  }

  private async isFreed(copy: Copy): Promise<boolean> {
    const hold = this.budget.holdOf(copy);
    if (!hold || hold.state === 'lost') return true;
    const { deviceKey, offset, length } = copy;
    try {
      await this.onLease(hold, (client) => client.free(hold, deviceKey, offset, length));
      return true;
    } catch (reason) {
      const { code } = GbError.from(reason);
      if (code === 'NOT_FOUND' || code === 'DATA_LOSS') return true;
      if (!AWAY.has(code)) throw reason;
      return false;
    }
  }

  /** Parts of a range that is still there stay given up, and so does what is being filled. */
  private forgetDiscards(hold: Hold): void {
    const copies = [...this.residency.copies, ...this.pending];
    const kept = this.discards.filter(
      (discard) => !isOf(discard, hold) || copies.some((copy) => isWithin(discard, copy)),
    );
    this.discards.splice(0, this.discards.length, ...kept);
  }

  /** What an earlier agent left on the feeder becomes ours; what it had given up is freed. The same
   *  bytes on two feeders are two copies, if the program has two of each. */
  private async takeOver(hold: Hold, facts: LeaseFacts, client: FeederCalls): Promise<void> {
    const { feederId, feederName, leaseId, lane } = hold;
    const copies = facts.ranges.map(({ deviceKey, offset, length }) => {
      if (!facts.limits.has(deviceKey) || offset + length > this.owner.arenaBytes() || length === 0)
        throw new GbError('PROTOCOL_VIOLATION', 'the feeder names a range that cannot be');
      return { offset, length, feederId, feederName, deviceKey, leaseId, lane, lost: false };
    });
    // An attempt that broke off has left a part.
    for (const copy of this.residency.copies.filter((other) => isOf(other, hold)))
      this.residency.forget(copy);
    hold.devices.clear();
    for (const [key, limitBytes] of facts.limits) {
      hold.devices.set(key, { limitBytes, usedBytes: 0 });
    }
    for (const copy of copies) {
      if (this.keeps(copy, hold)) {
        (hold.devices.get(copy.deviceKey) as DeviceHold).usedBytes += copy.length;
      } else {
        await client.free(hold, copy.deviceKey, copy.offset, copy.length);
      }
    }
    hold.state = 'held';
    if (this.owner.replicas.settle(hold)) await this.budget.differs(hold, client);
  }

  /** Takes a range of an earlier agent's, as far as it still holds bytes of the program. */
  private keeps(copy: Copy, hold: Hold): boolean {
    if (this.owner.claims(copy)) {
      this.pending.add(copy);
      return true;
    }
    const given = this.discards.filter((discard) => isOf(discard, hold));
    const isGiven = given.some((discard) => isSameDiscard(discard, discardOf(copy, copy)));
    if (!isGiven && this.owner.replicas.claims(copy)) return true;
    const full = this.residency
      .within(copy)
      .filter(({ copies }) => copies.length >= this.budget.copies);
    const kept = without(copy, [...given, ...full]);
    for (const range of kept) this.residency.add(range, copy);
    return kept.length > 0;
  }
}

/** True for a given up part of that copy. */
function isWithin(discard: Discard, copy: Copy): boolean {
  return isSameLease(discard, copy) && overlaps(discard, copy);
}

const isSameSpan = (one: ByteRange, other: ByteRange): boolean =>
  one.offset === other.offset && one.length === other.length;

function isSameLease(one: Pick<Copy, 'feederId' | 'leaseId'>, other: typeof one): boolean {
  return one.feederId === other.feederId && one.leaseId === other.leaseId;
}

/** A copy of it lies on that feeder. */
export function isOn(extent: Extent, feederId: string): boolean {
  return extent.copies.some((copy) => copy.feederId === feederId && !copy.lost);
}
