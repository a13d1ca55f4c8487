// SPDX-License-Identifier: Apache-2.0
// Room on feeders for copies of what lies with the program (docs/adr/0013): kernels that run there use it at the same
// addresses. The program alone knows what is in it; here are only the ranges, leased beyond what it was granted.
//   (none) --add--> there --drop, PLACE of its bytes, end of its lease--> (none)
// On disk from before a range is allocated until after it was freed, so that a later agent does not take it for the
// program's own bytes.
import { GbError } from '../../proto/base/errors.js';
import { RANGES_PER_LEASE_MAX } from '../../proto/base/limits.js';
import { overlaps, type ByteRange, type Copy } from '../placement/residency.js';
import type { DeviceKey } from '../links/feeder-client.js';
import type { Copies } from './copies.js';
import type { FeederBudget } from './feeder-budget.js';
import { isOf, isVram, type FeederDirectory, type Hold, type Reservation } from './holds.js';
import { lossOf, rangeKey } from './pieces.js';

/** A replica of an earlier agent's. */
export interface SavedReplica extends ByteRange {
  readonly feederId: string;
  readonly leaseId: string;
  readonly deviceKey: string;
}

export interface ReplicasDeps {
  readonly budget: FeederBudget;
  readonly copies: Copies;
  readonly directory: FeederDirectory;
  readonly persist: () => Promise<void>;
  /** They are the only memory of a device, not copies: in VRAM, or nowhere. */
  readonly vramOnly: () => boolean;
}

export class Replicas {
  private readonly held = new Set<Copy>();
  /** Being allocated, or freed. */
  private readonly passing = new Set<Copy>();
  /** Not seen on their feeders yet. */
  private readonly saved: SavedReplica[] = [];

  constructor(private readonly deps: ReplicasDeps) {}

  get all(): readonly Copy[] {
    return [...this.held];
  }

  /** For the state file. */
  save(): SavedReplica[] {
    return [...this.saved, ...this.held, ...this.passing].map(
      ({ feederId, leaseId, deviceKey, offset, length }) => ({
        feederId,
        leaseId,
        deviceKey,
        offset,
        length,
      }),
    );
  }

  restore(replicas: readonly SavedReplica[]): void {
    this.saved.push(...replicas);
    this.deps.budget.restoreExtra(bytesOf(replicas));
  }

  /** Room of zeroes for the range on the lease of that lane, on its GPU if there is room. One that overlaps it there is
   *  given back first: the program knows of none. @throws GbError NOT_FOUND, DATA_LOSS, FEEDER_UNREACHABLE,
   *  CAPACITY_EXHAUSTED; INVALID_ARGUMENT where the program's own bytes lie. */
  async add(range: ByteRange, lane: number): Promise<void> {
    const { budget, copies, directory, vramOnly } = this.deps;
    const hold = this.holdOf(lane);
    if (hold.state === 'unadopted') throw away(hold.feederName);
    if (copies.residency.within(range).some((extent) => extent.copies.some((c) => isOf(c, hold))))
      throw new GbError('INVALID_ARGUMENT', 'bytes of the program lie there already');
    await this.giveBack([...this.held].filter((copy) => isOf(copy, hold) && overlaps(copy, range)));
    const reached = directory.computeOf(hold.feederId)?.deviceKeys ?? [];
    const deviceKeys = reached
      .filter((key) => isVram(key) || !vramOnly())
      .sort((a, b) => rank(a) - rank(b));
    this.checkCount();
    const place = await budget.leaseOn(hold, deviceKeys, range.length);
    if (!place) throw noRoomOn(hold.feederName);
    await this.allocate(range, place);
  }

  /** The first range of a device of the feeder's, on a lease of its own if there is none. The same again: nothing.
   *  @throws GbError as add. */
  async open(feederId: string, deviceKey: DeviceKey, range: ByteRange): Promise<void> {
    const wanted = rangeKey({ ...range, deviceKey });
    if ([...this.held].some((copy) => copy.feederId === feederId && rangeKey(copy) === wanted))
      return;
    const { budget } = this.deps;
    const gone = budget.holds.find((hold) => hold.feederId === feederId && hold.state !== 'held');
    if (gone) throw gone.state === 'lost' ? lossOf(gone) : away(gone.feederName);
    this.checkCount();
    const place = await budget.leaseFirst(feederId, deviceKey, range.length);
    if (!place) throw noRoomOn(feederId);
    await this.allocate(range, place);
  }

  private checkCount(): void {
    if (this.save().length >= RANGES_PER_LEASE_MAX)
      throw new GbError('CAPACITY_EXHAUSTED', `a program has ${RANGES_PER_LEASE_MAX} copies`);
  }

  private async allocate(range: ByteRange, { hold, deviceKey }: Reservation): Promise<void> {
    const { budget, copies, persist } = this.deps;
    const { feederId, feederName, leaseId, lane } = hold;
    const copy: Copy = {
      ...range,
      ...{ feederId, feederName, leaseId, lane, deviceKey, lost: false },
    };
    this.passing.add(copy);
    try {
      await persist();
      await copies.allocate([copy]);
    } catch (reason) {
      this.passing.delete(copy);
      await budget.lower(hold, deviceKey, copy.length);
      throw reason;
    }
    copies.adopt(copy);
    this.passing.delete(copy);
    this.held.add(copy);
  }

  /** Frees exactly that range of the lease. @throws GbError NOT_FOUND, DATA_LOSS. */
  async drop(range: ByteRange, lane: number): Promise<void> {
    const hold = this.holdOf(lane);
    const copy = [...this.held].find(
      ({ offset, length, ...other }) =>
        isOf(other, hold) && offset === range.offset && length === range.length,
    );
    if (!copy) throw new GbError('NOT_FOUND', 'there is no such copy');
    await this.giveBack([copy]);
  }

  /** The program places these bytes: its copies of them end. */
  async placing(range: ByteRange): Promise<void> {
    await this.giveBack([...this.held].filter((copy) => overlaps(copy, range)));
  }

  /** The lease is gone with them. */
  lose(hold: Hold): void {
    for (const copy of [...this.held].filter((candidate) => isOf(candidate, hold))) {
      this.held.delete(copy);
      this.deps.budget.forfeit(hold, copy.deviceKey, copy.length);
    }
    const gone = this.saved.filter((replica) => isOf(replica, hold));
    for (const replica of gone) this.saved.splice(this.saved.indexOf(replica), 1);
    // A lease that was not adopted counts them in its limits, and nothing as used.
    for (const { deviceKey, length } of gone) {
      const device = hold.devices.get(deviceKey);
      if (device) device.limitBytes = Math.max(0, device.limitBytes - length);
    }
    this.deps.budget.restoreExtra(-bytesOf(gone));
  }

  /** After a restart: a range that a feeder holds. True when it is one of these. */
  claims(copy: Copy): boolean {
    const index = this.saved.findIndex(
      (replica) => isOf(replica, copy) && rangeKey(replica) === rangeKey(copy),
    );
    if (index < 0) return false;
    this.saved.splice(index, 1);
    this.held.add(copy);
    return true;
  }

  /** What a feeder that has come back does not hold of these was never allocated, or freed. pre: what it holds was
   *  claimed. Returns true when limits of the lease fell. */
  settle(hold: Hold): boolean {
    const missing = this.saved.filter((replica) => isOf(replica, hold));
    for (const replica of missing) {
      this.saved.splice(this.saved.indexOf(replica), 1);
      const device = hold.devices.get(replica.deviceKey);
      const freeBytes = device ? device.limitBytes - device.usedBytes : 0;
      if (device) device.limitBytes -= Math.min(freeBytes, replica.length);
    }
    this.deps.budget.restoreExtra(-bytesOf(missing));
    return missing.length > 0;
  }

  private async giveBack(gone: readonly Copy[]): Promise<void> {
    const { budget, copies } = this.deps;
    for (const copy of gone) {
      if (!this.held.delete(copy)) continue;
      const hold = budget.holdOf(copy);
      this.passing.add(copy);
      await copies.abandon(copy).finally(() => this.passing.delete(copy));
      if (hold) await budget.lower(hold, copy.deviceKey, copy.length);
    }
  }

  private holdOf(lane: number): Hold {
    const hold = this.deps.budget.holds.find((other) => other.lane === lane && lane !== 0);
    if (!hold) throw new GbError('NOT_FOUND', `lane ${lane} is none of this program's`);
    if (hold.state === 'lost') throw lossOf(hold);
    return hold;
  }
}

const away = (feeder: string): GbError =>
  new GbError('FEEDER_UNREACHABLE', `feeder ${feeder} is not back yet`);

const noRoomOn = (feeder: string): GbError =>
  new GbError('CAPACITY_EXHAUSTED', `no room on feeder ${feeder}`, { details: { feeder } });

const rank = (key: string): number => (isVram(key) ? 0 : 1);

const bytesOf = (ranges: readonly ByteRange[]): number =>
  ranges.reduce((sum, { length }) => sum + length, 0);
