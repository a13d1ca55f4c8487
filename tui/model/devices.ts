// SPDX-License-Identifier: Apache-2.0
// The memory a feeder lends, as people's scripts and our own screens read it.
import { bytesFromWire } from '../../proto/base/units.js';
import { DeviceKind, type LentDevice } from '../../proto/gen/greenboost/v1/feeder_pb.js';

export interface DeviceJson {
  kind: 'ram' | 'gpu' | 'unknown';
  index: number;
  name: string;
  uuid: string | null;
  capacityBytes: number;
  leasedBytes: number;
  usedBytes: number;
  lockedBytes: number;
  computeCapability: number | null;
  /** Kernels of hosts use its memory: the feeder lends compute. */
  compute: boolean;
  simulated: boolean;
}

/** 0 is "not measured". */
export function measured(value: number): number | null {
  return Number.isFinite(value) && value > 0 ? value : null;
}

/** What a feeder lends. @throws GbError PROTOCOL_VIOLATION on a counter above 2^53. */
export function deviceJson(device: LentDevice): DeviceJson {
  const kind = device.id?.kind;
  return {
    kind: kind === DeviceKind.RAM ? 'ram' : kind === DeviceKind.GPU ? 'gpu' : 'unknown',
    index: device.id?.index ?? 0,
    name: device.name,
    uuid: device.uuid === '' ? null : device.uuid,
    capacityBytes: bytesFromWire(device.capacityBytes),
    leasedBytes: bytesFromWire(device.leasedBytes),
    usedBytes: bytesFromWire(device.usedBytes),
    lockedBytes: bytesFromWire(device.lockedBytes),
    computeCapability: device.computeCapability === 0 ? null : device.computeCapability,
    compute: device.compute,
    simulated: device.simulated,
  };
}
