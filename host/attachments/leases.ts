// SPDX-License-Identifier: Apache-2.0
// The leases of one attachment as its feeders are told of them: made, made larger and smaller, ended. Decides nothing.
import { GbError } from '../../proto/base/errors.js';
import type { DeviceKey, FeederCalls } from '../links/feeder-client.js';
import {
  deviceOf,
  limitsOf,
  setLimit,
  type FeederDirectory,
  type Hold,
  type Reservation,
} from './holds.js';

export interface LeasesOwner {
  facts(): {
    readonly attachmentId: string;
    readonly arenaBase: bigint;
    readonly arenaBytes: number;
  };
  /** A number that no lease of this attachment had before. */
  nextLane(): number;
  /** A feeder has to be told something that it could not be told now: see Arrears. */
  owes(): void;
}

/** Answers that mean "not on this feeder now", not a fault of ours. */
const REFUSALS: ReadonlySet<string> = new Set([
  'CAPACITY_EXHAUSTED',
  'WRONG_STATE',
  'EPOCH_STALE',
  'FEEDER_UNREACHABLE',
  'LEASE_EXPIRED',
  'DEADLINE_EXCEEDED',
  'CANCELED',
  'DRIVER_ERROR',
]);

export class Leases {
  readonly held: Hold[] = [];
  /** Their feeders have not been told how far the limits fell. */
  private readonly behind = new Set<Hold>();

  constructor(
    private readonly owner: LeasesOwner,
    private readonly directory: FeederDirectory,
  ) {}

  /** Leases more on one feeder; with `reserved` the room is used from the moment it is there.
   *  @throws GbError as the feeder; noRoom tells refusals from faults. */
  async extend(
    feederId: string,
    additions: ReadonlyMap<DeviceKey, number>,
    reserved: boolean,
  ): Promise<Reservation[]> {
    const client = this.directory.client(feederId);
    const held = this.held.find((other) => other.feederId === feederId && other.state === 'held');
    // Noted before the feeder's own count can tell of it: afterwards it would be counted twice.
    this.note(feederId, additions, 1);
    const hold = await (
      held ? this.enlarge(held, additions, client) : this.acquire(feederId, additions, client)
    ).catch((reason: unknown) => {
      this.note(feederId, additions, -1);
      throw reason;
    });
    return [...additions].map(([deviceKey, bytes]) => {
      if (reserved) deviceOf(hold, deviceKey).usedBytes += bytes;
      return { hold, deviceKey, bytes };
    });
  }

  private note(feederId: string, bytes: ReadonlyMap<DeviceKey, number>, sign: 1 | -1): void {
    for (const [key, count] of bytes) this.directory.noteLeased(feederId, key, sign * count);
  }

  private async enlarge(
    hold: Hold,
    additions: ReadonlyMap<DeviceKey, number>,
    client: FeederCalls,
  ): Promise<Hold> {
    const limits = limitsOf(hold);
    for (const [key, bytes] of additions) limits.set(key, (limits.get(key) ?? 0) + bytes);
    await client.resize(hold, limits);
    this.behind.delete(hold);
    for (const [key, limit] of limits) setLimit(hold, key, limit);
    return hold;
  }

  private async acquire(
    feederId: string,
    limits: ReadonlyMap<DeviceKey, number>,
    client: FeederCalls,
  ): Promise<Hold> {
    const { attachmentId, arenaBase, arenaBytes } = this.owner.facts();
    const lease = await client.acquire({ attachmentId, arenaBase, arenaBytes, limits });
    const view = this.directory.usable().find((candidate) => candidate.feederId === feederId);
    const devices = new Map(
      [...limits].map(([key, limitBytes]) => [key, { limitBytes, usedBytes: 0 }]),
    );
    const feederName = view?.name ?? feederId;
    const lane = this.owner.nextLane();
    const hold: Hold = { feederId, feederName, ...lease, lane, state: 'held', devices };
    this.held.push(hold);
    return hold;
  }

  /** Takes back what extend gave. */
  async undo(grown: readonly Reservation[], reserved: boolean): Promise<void> {
    const touched = new Set<Hold>();
    for (const { hold, deviceKey, bytes } of grown) {
      const device = deviceOf(hold, deviceKey);
      if (reserved) device.usedBytes -= bytes;
      device.limitBytes -= bytes;
      touched.add(hold);
    }
    await this.applyLimits(touched);
  }

  /** Tells feeders the limits that fell. One that is away or refuses is told again later. */
  async applyLimits(holds: ReadonlySet<Hold>): Promise<void> {
    for (const hold of holds) {
      const limits = limitsOf(hold);
      if ([...limits.values()].every((limit) => limit === 0)) {
        const index = this.held.indexOf(hold);
        if (index >= 0) this.held.splice(index, 1);
        this.endLease(hold);
      } else if (hold.state === 'held') {
        await this.lowered(hold);
      }
    }
  }

  /** Tells a feeder that limits of a lease fell, over `client` if its link is not ready yet; later if that cannot
   *  be. */
  async lowered(hold: Hold, client?: FeederCalls): Promise<void> {
    this.behind.add(hold);
    if (await this.settle(hold, client)) this.owner.owes();
  }

  /** Tells a feeder how far the limits of a lease fell, if it has not been told. Returns why that cannot be now. */
  async settle(hold: Hold, client?: FeederCalls): Promise<GbError | undefined> {
    if (!this.behind.has(hold)) return undefined;
    this.behind.delete(hold);
    if (hold.state !== 'held' || !this.held.includes(hold)) return undefined;
    try {
      await (client ?? this.directory.client(hold.feederId)).resize(hold, limitsOf(hold));
      return undefined;
    } catch (reason) {
      const error = GbError.from(reason);
      if (!REFUSALS.has(error.code)) throw reason;
      this.behind.add(hold);
      return error;
    }
  }

  /** Ends a lease at its feeder. */
  endLease(hold: Hold): void {
    if (hold.state === 'lost' || hold.leaseId === '') return;
    this.note(hold.feederId, limitsOf(hold), -1);
    this.directory.releaseLease(hold.feederId, hold);
  }
}

/** What a feeder gave that has refused: nothing. @throws GbError what is a fault of ours. */
export function noRoom(reason: unknown): Reservation[] {
  const error = GbError.from(reason);
  if (!REFUSALS.has(error.code)) throw error;
  return [];
}
