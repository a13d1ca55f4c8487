// SPDX-License-Identifier: Apache-2.0
// The exact account of what this feeder lends: per device what there is, what is promised to
// leases, what they use.
// Pure: no I/O, no clock. Invariants, checked by isValid:
//   leased(device) = sum of the limits of all leases;  used(device) = sum of what they use
//   used(lease, device) <= limit(lease, device);  leased(device) <= capacity(device)
import { assert } from '../proto/base/assert.js';
import { GbError } from '../proto/base/errors.js';
import { formatBytes } from '../proto/base/units.js';

/** `ram:0`, `gpu:1`. */
export type DeviceKey = string & { readonly deviceKey?: never };

export const RAM_KEY: DeviceKey = 'ram:0';

export function gpuKey(ordinal: number): DeviceKey {
  return `gpu:${ordinal}`;
}

export interface DeviceAccount {
  readonly capacityBytes: number;
  readonly leasedBytes: number;
  readonly usedBytes: number;
}

interface Holding {
  limitBytes: number;
  usedBytes: number;
}

/** Bytes per device; devices that are left out count as 0. */
export type DeviceBytes = ReadonlyMap<DeviceKey, number>;

export class Pool {
  private readonly leased = new Map<DeviceKey, number>();
  private readonly used = new Map<DeviceKey, number>();
  private readonly holdings = new Map<string, Map<DeviceKey, Holding>>();

  /** `capacities`: every device that lends, in bytes. */
  constructor(private readonly capacities: DeviceBytes) {}

  get devices(): readonly DeviceKey[] {
    return [...this.capacities.keys()];
  }

  account(device: DeviceKey): DeviceAccount {
    return {
      capacityBytes: this.capacities.get(device) ?? 0,
      leasedBytes: this.leased.get(device) ?? 0,
      usedBytes: this.used.get(device) ?? 0,
    };
  }

  /** What one lease may hold and holds. Empty for an unknown lease. */
  holding(leaseId: string): ReadonlyMap<DeviceKey, Readonly<Holding>> {
    return this.holdings.get(leaseId) ?? new Map();
  }

  /** Promises `limits` to a new lease. @throws GbError CAPACITY_EXHAUSTED, NOT_FOUND for an unknown
   *  device; then nothing has changed. */
  open(leaseId: string, limits: DeviceBytes): void {
    assert(!this.holdings.has(leaseId), 'a lease is opened once');
    this.check(new Map(), limits);
    this.holdings.set(leaseId, new Map());
    this.apply(leaseId, limits);
  }

  /** Replaces what is promised to a lease. @throws GbError as open; WRONG_STATE below what it uses. */
  resize(leaseId: string, limits: DeviceBytes): void {
    const holding = this.holdingOf(leaseId);
    for (const [device, { usedBytes }] of holding) {
      if ((limits.get(device) ?? 0) < usedBytes) {
        throw new GbError(
          'WRONG_STATE',
          `the lease uses ${formatBytes(usedBytes)} of ${device}; free some first`,
        );
      }
    }
    this.check(holding, limits);
    this.apply(leaseId, limits);
  }

  /** Counts an allocation before it is made. @throws GbError CAPACITY_EXHAUSTED beyond the lease's
   *  limit. */
  take(leaseId: string, device: DeviceKey, bytes: number): void {
    assert(Number.isSafeInteger(bytes) && bytes > 0, 'allocations have a size');
    const held = this.holdingOf(leaseId).get(device);
    const room = held ? held.limitBytes - held.usedBytes : 0;
    if (!held || bytes > room) {
      throw new GbError(
        'CAPACITY_EXHAUSTED',
        `the lease has ${formatBytes(room)} left on ${device}`,
        {
          details: { leaseId, device, bytes, room },
        },
      );
    }
    held.usedBytes += bytes;
    this.used.set(device, (this.used.get(device) ?? 0) + bytes);
  }

  /** Undoes take, when the allocation failed or was freed. */
  give(leaseId: string, device: DeviceKey, bytes: number): void {
    const held = this.holdingOf(leaseId).get(device);
    assert(held !== undefined && held.usedBytes >= bytes, 'no more is freed than was allocated');
    held.usedBytes -= bytes;
    this.used.set(device, (this.used.get(device) ?? 0) - bytes);
  }

  /** Forgets a lease; whatever it used counts as free from now on. Returns those bytes. */
  close(leaseId: string): number {
    let freed = 0;
    for (const [device, { limitBytes, usedBytes }] of this.holdingOf(leaseId)) {
      this.leased.set(device, (this.leased.get(device) ?? 0) - limitBytes);
      this.used.set(device, (this.used.get(device) ?? 0) - usedBytes);
      freed += usedBytes;
    }
    this.holdings.delete(leaseId);
    return freed;
  }

  /** The invariants above; for tests and debug builds. */
  isValid(): boolean {
    for (const device of this.capacities.keys()) {
      const held = [...this.holdings.values()].map((holding) => holding.get(device));
      const sum = (pick: (h: Holding) => number): number =>
        held.reduce((total, h) => total + (h ? pick(h) : 0), 0);
      const { capacityBytes, leasedBytes, usedBytes } = this.account(device);
      const bounded = held.every((h) => !h || (h.usedBytes >= 0 && h.usedBytes <= h.limitBytes));
      const exact =
        sum((h) => h.limitBytes) === leasedBytes && sum((h) => h.usedBytes) === usedBytes;
      if (!bounded || !exact || leasedBytes > capacityBytes) return false;
    }
    return true;
  }

  private holdingOf(leaseId: string): Map<DeviceKey, Holding> {
    const holding = this.holdings.get(leaseId);
    assert(holding !== undefined, 'only open leases are counted');
    return holding;
  }

  private check(holding: ReadonlyMap<DeviceKey, Holding>, limits: DeviceBytes): void {
    for (const [device, bytes] of limits) {
      const capacity = this.capacities.get(device);
      if (capacity === undefined)
        throw new GbError('NOT_FOUND', `this feeder does not lend ${device}`);
      const others = (this.leased.get(device) ?? 0) - (holding.get(device)?.limitBytes ?? 0);
      if (!Number.isSafeInteger(bytes) || bytes < 0 || bytes > capacity - others) {
        throw new GbError(
          'CAPACITY_EXHAUSTED',
          `${formatBytes(capacity - others)} of ${device} are not leased yet`,
          {
            details: { device, wantedBytes: bytes, freeBytes: capacity - others },
          },
        );
      }
    }
  }

  private apply(leaseId: string, limits: DeviceBytes): void {
    const holding = this.holdingOf(leaseId);
    for (const device of this.capacities.keys()) {
      const limitBytes = limits.get(device) ?? 0;
      const before = holding.get(device);
      this.leased.set(
        device,
        (this.leased.get(device) ?? 0) + limitBytes - (before?.limitBytes ?? 0),
      );
      if (before) before.limitBytes = limitBytes;
      else if (limitBytes > 0) holding.set(device, { limitBytes, usedBytes: 0 });
    }
  }
}
