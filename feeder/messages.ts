// SPDX-License-Identifier: Apache-2.0
// Parts that many messages of FeederService have, taken apart and put together. Whatever is missing
// or makes no sense is INVALID_ARGUMENT.
import { GbError } from '../proto/base/errors.js';
import { bytesFromWire } from '../proto/base/units.js';
import {
  DeviceKind,
  type DeviceBytes as WireDeviceBytes,
  type DeviceId,
  type LeaseRef,
  type Range,
} from '../proto/gen/greenboost/v1/feeder_pb.js';
import type { Feeder } from './feeder.js';
import type { Lease } from './lease.js';
import { gpuKey, RAM_KEY, type DeviceBytes, type DeviceKey } from './pool.js';
import type { Session } from './sessions.js';

const DEVICES_PER_LEASE_MAX = 64;

/** The lease a call names, if its session may use it. @throws GbError as LeaseTable.authorize. */
export function authorized(feeder: Feeder, session: Session, ref: LeaseRef | undefined): Lease {
  const { leaseId, fencingToken } = refFrom(ref);
  return feeder.authorize(session, leaseId, fencingToken);
}

export function refFrom(ref: LeaseRef | undefined): LeaseRef {
  if (!ref) throw new GbError('INVALID_ARGUMENT', 'the call names no lease');
  return ref;
}

export function refOf({ id, fencingToken }: Lease): { leaseId: string; fencingToken: bigint } {
  return { leaseId: id, fencingToken };
}

export function limitsOf(devices: readonly WireDeviceBytes[]): DeviceBytes {
  const limits = new Map<DeviceKey, number>();
  if (devices.length > DEVICES_PER_LEASE_MAX)
    throw new GbError('INVALID_ARGUMENT', 'too many devices');
  for (const { device, bytes } of devices) {
    const key = keyFrom(device);
    if (limits.has(key)) throw new GbError('INVALID_ARGUMENT', `${key} is named twice`);
    limits.set(key, bytesFromWire(bytes));
  }
  return limits;
}

export function rangeFrom(range: Range | undefined): {
  device: DeviceKey;
  offset: number;
  length: number;
} {
  if (!range) throw new GbError('INVALID_ARGUMENT', 'the call names no range');
  const { device, offset, length } = range;
  return { device: keyFrom(device), offset: bytesFromWire(offset), length: bytesFromWire(length) };
}

function keyFrom(device: DeviceId | undefined): DeviceKey {
  if (device?.kind === DeviceKind.GPU) return gpuKey(device.index);
  if (device?.kind === DeviceKind.RAM && device.index === 0) return RAM_KEY;
  throw new GbError('INVALID_ARGUMENT', 'the call names no device of this feeder');
}
