// SPDX-License-Identifier: Apache-2.0
// What one attachment may hold on feeders, and on which: its leases, byte-exact. A grant is backed
// by leases before it is given, so that placing a granted range cannot fail for lack of room. Knows
// bytes, not ranges.
import { assert } from '../../proto/base/assert.js';
import { GbError } from '../../proto/base/errors.js';
import { DeviceKind } from '../../proto/gen/greenboost/v1/feeder_pb.js';
import type { DeviceKey, FeederCalls, LeaseHandle } from '../links/feeder-client.js';
import {
  orderByCost,
  planPlacement,
  type MeasuredCost,
  type TierOffer,
} from '../placement/policy.js';
import { RANGE_ALIGN } from '../shim/abi.js';
import { Mutex } from './range-queue.js';

export interface FeederView {
  readonly feederId: string;
  readonly name: string;
  readonly cost: MeasuredCost;
  readonly devices: readonly { readonly key: DeviceKey; readonly freeBytes: number }[];
}

/** The feeders as an attachment sees them; the link manager is one. */
export interface FeederDirectory {
  /** Feeders that take new leases now. */
  usable(): readonly FeederView[];
  costOf(feederId: string): MeasuredCost;
  /** True when new ranges may go to leases held there: connected and not draining. */
  accepts(feederId: string): boolean;
  /** @throws GbError FEEDER_UNREACHABLE. */
  client(feederId: string): FeederCalls;
  /** Room changed by us before the feeder's next report says so. */
  noteLeased(feederId: string, key: DeviceKey, deltaBytes: number): void;
  /** Releases the lease now, or when the feeder is back. */
  releaseLease(feederId: string, lease: LeaseHandle): void;
}

export interface DeviceHold {
  limitBytes: number;
  usedBytes: number;
}

/** One lease. `unadopted`: known from the state file, the feeder was not asked yet. `lost`: gone
 *  with its bytes; kept until the program has returned them, so that its account and ours agree. */
export interface Hold {
  readonly feederId: string;
  readonly feederName: string;
  readonly leaseId: string;
  fencingToken: bigint;
  state: 'held' | 'unadopted' | 'lost';
  readonly devices: Map<DeviceKey, DeviceHold>;
}

export interface Reservation {
  readonly hold: Hold;
  readonly deviceKey: DeviceKey;
  readonly bytes: number;
}

export interface BudgetOwner {
  facts(): {
    readonly attachmentId: string;
    readonly arenaBase: bigint;
    readonly arenaBytes: number;
  };
  /** Leases changed: must be on disk when this resolves. */
  persist(): Promise<void>;
}

/** RAM before VRAM at equal cost: a read of feeder VRAM crosses one bus more. */
const rankOf = (key: DeviceKey): number => (key.startsWith(`${DeviceKind.RAM}:`) ? 0 : 1);

export const isVram = (key: DeviceKey): boolean => key.startsWith(`${DeviceKind.GPU}:`);

export class FeederBudget {
  private readonly held: Hold[] = [];
  private readonly mutex = new Mutex();

  constructor(
    private readonly owner: BudgetOwner,
    private readonly directory: FeederDirectory,
  ) {}

  get holds(): readonly Hold[] {
    return this.held;
  }

  /** All limits, lost ones too: what the program believes to hold. */
  get heldBytes(): number {
    return sumHolds(this.held, (device) => device.limitBytes);
  }

  get usedBytes(): number {
    return sumHolds(this.held, (device) => device.usedBytes);
  }

  /** What could be held in all at this moment. */
  get limitBytes(): number {
    let freeBytes = 0;
    for (const { devices } of this.directory.usable()) {
      for (const device of devices) freeBytes += wholeGranules(device.freeBytes);
    }
    return this.heldBytes + freeBytes;
  }

  /** Adds a lease known from the state file. */
  restore(hold: Hold): void {
    this.held.push(hold);
  }

  /** The program says it holds more than we know of: those bytes are gone. */
  addLost(bytes: number): void {
    const devices = new Map([['lost', { limitBytes: bytes, usedBytes: bytes }]]);
    const hold: Hold = {
      feederId: '',
      feederName: '',
      leaseId: '',
      fencingToken: 0n,
      state: 'lost',
      devices,
    };
    this.held.push(hold);
  }

  /** Leases `bytes` more, cheapest feeders first; all or nothing. Returns false when there is not
   *  enough room.
   *  @throws GbError when the state could not be kept; nothing was granted then. */
  grow(bytes: number, exclude?: string): Promise<boolean> {
    assert(bytes > 0 && bytes % RANGE_ALIGN === 0, 'a grant has whole granules');
    return this.mutex.run(() => this.growNow(bytes, exclude));
  }

  /** Gives up to `bytes` back that no range uses, costliest first. Returns what was given back. */
  shrink(bytes: number): Promise<number> {
    return this.mutex.run(() => this.shrinkNow(bytes));
  }

  /** Ends all leases. Feeders that are away are told when they are back. */
  releaseAll(): Promise<void> {
    return this.mutex.run(async () => {
      for (const hold of this.held.splice(0)) this.endLease(hold);
      await this.owner.persist();
    });
  }

  /** Ends the lease on one feeder. pre: nothing of it is used. */
  releaseFeeder(feederId: string): Promise<void> {
    return this.mutex.run(async () => {
      for (const hold of this.held.filter(
        (hold) => hold.feederId === feederId && hold.state !== 'lost',
      )) {
        this.held.splice(this.held.indexOf(hold), 1);
        this.endLease(hold);
      }
      await this.owner.persist();
    });
  }

  /** Sets room of held leases aside for `bytes`, split at granules only where it must be. The
   *  caller uses or unreserves it.
   *  @throws GbError CAPACITY_EXHAUSTED beyond what was granted; FEEDER_UNREACHABLE when the room
   *  is on a feeder that is away. */
  reserve(bytes: number, exclude?: string): Reservation[] {
    const offers: (TierOffer & { hold: Hold; deviceKey: DeviceKey })[] = [];
    let awayBytes = 0;
    for (const [index, hold] of this.held.entries()) {
      if (hold.state === 'lost' || hold.feederId === exclude) continue;
      const reachable = hold.state === 'held' && this.directory.accepts(hold.feederId);
      for (const [deviceKey, device] of hold.devices) {
        const freeBytes = device.limitBytes - device.usedBytes;
        if (!reachable) awayBytes += freeBytes;
        else {
          const key = `${index}/${deviceKey}`;
          offers.push({
            key,
            freeBytes,
            rank: rankOf(deviceKey),
            ...this.directory.costOf(hold.feederId),
            hold,
            deviceKey,
          });
        }
      }
    }
    const plan = planPlacement(offers, bytes, RANGE_ALIGN);
    if (plan.missingBytes > 0) {
      const away = plan.missingBytes <= awayBytes;
      throw away
        ? new GbError('FEEDER_UNREACHABLE', 'the feeder that holds the room is away')
        : new GbError('CAPACITY_EXHAUSTED', `${plan.missingBytes} bytes more than were granted`);
    }
    return plan.parts.map(({ key, bytes: partBytes }) => {
      const { hold, deviceKey } = offers.find((offer) => offer.key === key)!;
      deviceOf(hold, deviceKey).usedBytes += partBytes;
      return { hold, deviceKey, bytes: partBytes };
    });
  }

  /** Takes a reservation back, or says that its range was freed. */
  unreserve({ hold, deviceKey, bytes }: Reservation): void {
    const device = deviceOf(hold, deviceKey);
    assert(device.usedBytes >= bytes, 'no more is freed than was used');
    device.usedBytes -= bytes;
  }

  /** Lease ids are the feeder's choice: only with its own id do they name a lease. */
  holdOf(of: { readonly feederId: string; readonly leaseId: string }): Hold | undefined {
    return this.held.find((hold) => isOf(of, hold));
  }

  private async growNow(bytes: number, exclude: string | undefined): Promise<boolean> {
    const grown: Reservation[] = [];
    const refused = new Set<string>();
    let missingBytes = bytes;
    try {
      while (missingBytes > 0) {
        const plan = planPlacement(this.offers(refused, exclude), missingBytes, RANGE_ALIGN);
        if (plan.missingBytes > 0) {
          await this.undo(grown);
          return false;
        }
        for (const [feederId, additions] of byFeeder(plan.parts)) {
          const hold = await this.extend(feederId, additions).catch((reason: unknown) => {
            const error = GbError.from(reason);
            if (!REFUSALS.has(error.code)) throw error;
            refused.add(feederId);
            return undefined;
          });
          if (!hold) continue;
          for (const [deviceKey, added] of additions) {
            grown.push({ hold, deviceKey, bytes: added });
            missingBytes -= added;
          }
        }
      }
      await this.owner.persist();
      return true;
    } catch (reason) {
      await this.undo(grown);
      throw reason;
    }
  }

  private offers(refused: ReadonlySet<string>, exclude: string | undefined): TierOffer[] {
    return this.directory
      .usable()
      .filter(({ feederId }) => !refused.has(feederId) && feederId !== exclude)
      .flatMap(({ feederId, cost, devices }) =>
        devices.map(({ key, freeBytes }) => ({
          key: `${feederId}/${key}`,
          freeBytes,
          rank: rankOf(key),
          ...cost,
        })),
      );
  }

  private async extend(feederId: string, additions: ReadonlyMap<DeviceKey, number>): Promise<Hold> {
    const client = this.directory.client(feederId);
    const hold = this.held.find((other) => other.feederId === feederId && other.state === 'held');
    if (hold) {
      const limits = limitsOf(hold);
      for (const [key, bytes] of additions) limits.set(key, (limits.get(key) ?? 0) + bytes);
      await client.resize(hold, limits);
      for (const [key, limit] of limits) setLimit(hold, key, limit);
      this.note(feederId, additions, 1);
      return hold;
    }
    const { attachmentId, arenaBase, arenaBytes } = this.owner.facts();
    const lease = await client.acquire({ attachmentId, arenaBase, arenaBytes, limits: additions });
    const name =
      this.directory.usable().find((view) => view.feederId === feederId)?.name ?? feederId;
    const devices = new Map(
      [...additions].map(([key, bytes]) => [key, { limitBytes: bytes, usedBytes: 0 }]),
    );
    const acquired: Hold = { feederId, feederName: name, ...lease, state: 'held', devices };
    this.held.push(acquired);
    this.note(feederId, additions, 1);
    return acquired;
  }

  private note(feederId: string, changes: ReadonlyMap<DeviceKey, number>, sign: 1 | -1): void {
    for (const [key, bytes] of changes) this.directory.noteLeased(feederId, key, sign * bytes);
  }

  private async undo(grown: readonly Reservation[]): Promise<void> {
    const touched = new Set<Hold>();
    for (const { hold, deviceKey, bytes } of grown) {
      deviceOf(hold, deviceKey).limitBytes -= bytes;
      touched.add(hold);
    }
    await this.applyLimits(touched);
  }

  private async shrinkNow(bytes: number): Promise<number> {
    let leftBytes = wholeGranules(bytes);
    const touched = new Set<Hold>();
    const lostFirst = this.held.filter((hold) => hold.state === 'lost');
    for (const hold of lostFirst) {
      for (const device of hold.devices.values()) {
        const isForgotten = hold.leaseId === '';
        const freeBytes = isForgotten ? device.limitBytes : device.limitBytes - device.usedBytes;
        const taken = Math.min(freeBytes, leftBytes);
        device.limitBytes -= taken;
        if (isForgotten) device.usedBytes -= taken;
        leftBytes -= taken;
        if (taken > 0) touched.add(hold);
      }
    }
    for (const { hold, deviceKey } of this.costliestFirst()) {
      const device = deviceOf(hold, deviceKey);
      const taken = Math.min(device.limitBytes - device.usedBytes, leftBytes);
      if (taken === 0) continue;
      device.limitBytes -= taken;
      leftBytes -= taken;
      touched.add(hold);
    }
    await this.applyLimits(touched);
    await this.owner.persist();
    return wholeGranules(bytes) - leftBytes;
  }

  private costliestFirst(): { hold: Hold; deviceKey: DeviceKey }[] {
    const offers = this.held
      .filter((hold) => hold.state !== 'lost')
      .flatMap((hold, index) =>
        [...hold.devices.keys()].map((deviceKey) => ({
          key: `${index}/${deviceKey}`,
          freeBytes: 0,
          rank: rankOf(deviceKey),
          ...this.directory.costOf(hold.feederId),
          hold,
          deviceKey,
        })),
      );
    return orderByCost(offers).reverse();
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
    this.note(hold.feederId, limitsOf(hold), -1);
    this.directory.releaseLease(hold.feederId, hold);
  }
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

export function isOf(
  of: { readonly feederId: string; readonly leaseId: string },
  hold: Hold,
): boolean {
  return of.feederId === hold.feederId && of.leaseId === hold.leaseId;
}

export function limitsOf(hold: Hold): Map<DeviceKey, number> {
  return new Map([...hold.devices].map(([key, { limitBytes }]) => [key, limitBytes]));
}

function setLimit(hold: Hold, key: DeviceKey, limitBytes: number): void {
  const device = hold.devices.get(key);
  if (device) device.limitBytes = limitBytes;
  else hold.devices.set(key, { limitBytes, usedBytes: 0 });
}

function deviceOf(hold: Hold, key: DeviceKey): DeviceHold {
  const device = hold.devices.get(key);
  assert(device !== undefined, 'the lease holds the device');
  return device;
}

function wholeGranules(bytes: number): number {
  return Math.floor(Math.max(0, bytes) / RANGE_ALIGN) * RANGE_ALIGN;
}

function sumHolds(holds: readonly Hold[], value: (device: DeviceHold) => number): number {
  let total = 0;
  for (const hold of holds) for (const device of hold.devices.values()) total += value(device);
  return total;
}

function byFeeder(
  parts: readonly { key: string; bytes: number }[],
): Map<string, Map<DeviceKey, number>> {
  const result = new Map<string, Map<DeviceKey, number>>();
  for (const { key, bytes } of parts) {
    const [feederId, device] = key.split('/') as [string, string];
    const entry = result.get(feederId) ?? new Map<DeviceKey, number>();
    entry.set(device, bytes);
    result.set(feederId, entry);
  }
  return result;
}
