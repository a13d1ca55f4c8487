// SPDX-License-Identifier: Apache-2.0
// The leases of one attachment as plain data, and what attachments see of feeders.
import { assert } from '../../proto/base/assert.js';
import { DeviceKind } from '../../proto/gen/greenboost/v1/feeder_pb.js';
import type { DeviceKey, FeederCalls, LeaseHandle } from '../links/feeder-client.js';
import type { MeasuredCost } from '../placement/policy.js';

export interface FeederView {
  readonly feederId: string;
  readonly name: string;
  readonly cost: MeasuredCost;
  readonly devices: readonly {
    readonly key: DeviceKey;
    readonly freeBytes: number;
    readonly capacityBytes: number;
  }[];
}

/** Kernels of programs may run on a feeder. */
export interface ComputeFacts {
  /** Of the GPU that runs them: major * 10 + minor. */
  readonly capability: number;
  /** Devices whose memory they can use. */
  readonly deviceKeys: readonly DeviceKey[];
}

/** The GPU that runs kernels of programs on a feeder. */
export interface GpuFacts {
  readonly key: DeviceKey;
  readonly name: string;
  /** `GPU-` and a UUID. */
  readonly uuid: string;
  /** Major * 10 + minor. */
  readonly capability: number;
  /** Of CUdevice_attribute, each at its number. */
  readonly attributes: readonly number[];
}

/** The feeders as an attachment sees them; the link manager is one. */
export interface FeederDirectory {
  /** Feeders that take new leases now. */
  usable(): readonly FeederView[];
  costOf(feederId: string): MeasuredCost;
  /** undefined: it lends memory only. */
  computeOf(feederId: string): ComputeFacts | undefined;
  /** undefined: it lends memory only, or no VRAM of that GPU. */
  gpuOf(feederId: string): GpuFacts | undefined;
  /** Resolves when no link is on its way to being ready any more, or after `timeoutMs`. */
  settled(timeoutMs: number): Promise<void>;
  /** True when new ranges may go to leases held there: connected, not paused, not draining. */
  accepts(feederId: string): boolean;
  /** @throws GbError FEEDER_UNREACHABLE. */
  client(feederId: string): FeederCalls;
  /** Room changed by us before the feeder's next report says so. */
  noteLeased(feederId: string, key: DeviceKey, deltaBytes: number): void;
  /** Application bytes that crossed a program's lanes to this feeder. */
  noteTraffic(feederId: string, sentBytes: number, receivedBytes: number): void;
  /** A lane to this feeder has broken: its link is looked at, at once. */
  suspect(feederId: string): void;
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
  /** The program's name for it: never 0, never used twice by one attachment. */
  readonly lane: number;
  fencingToken: bigint;
  state: 'held' | 'unadopted' | 'lost';
  readonly devices: Map<DeviceKey, DeviceHold>;
}

export interface Reservation {
  readonly hold: Hold;
  readonly deviceKey: DeviceKey;
  readonly bytes: number;
}

/** Room for the same bytes on one feeder, or on two. */
export interface Room {
  readonly bytes: number;
  readonly places: readonly Reservation[];
}

/** RAM before VRAM at equal cost: a read of feeder VRAM crosses one bus more. */
export const rankOf = (key: DeviceKey): number => (key.startsWith(`${DeviceKind.RAM}:`) ? 0 : 1);

export const isVram = (key: DeviceKey): boolean => key.startsWith(`${DeviceKind.GPU}:`);

/** Lease ids are the feeder's choice: only with its own id do they name a lease. */
export function isOf(
  of: { readonly feederId: string; readonly leaseId: string },
  hold: { readonly feederId: string; readonly leaseId: string },
): boolean {
  return of.feederId === hold.feederId && of.leaseId === hold.leaseId;
}

export function limitsOf(hold: Hold): Map<DeviceKey, number> {
  return new Map([...hold.devices].map(([key, { limitBytes }]) => [key, limitBytes]));
}

export function setLimit(hold: Hold, key: DeviceKey, limitBytes: number): void {
  const device = hold.devices.get(key);
  if (device) device.limitBytes = limitBytes;
  else hold.devices.set(key, { limitBytes, usedBytes: 0 });
}

export function deviceOf(hold: Hold, key: DeviceKey): DeviceHold {
  const device = hold.devices.get(key);
  assert(device !== undefined, 'the lease holds the device');
  return device;
}

export function sumHolds(holds: readonly Hold[], value: (device: DeviceHold) => number): number {
  let total = 0;
  for (const hold of holds) for (const device of hold.devices.values()) total += value(device);
  return total;
}

/** Leased and not used. */
export function freeOf(hold: Hold): number {
  return sumHolds([hold], (device) => device.limitBytes - device.usedBytes);
}
