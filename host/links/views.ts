// SPDX-License-Identifier: Apache-2.0
// A link as attachments see its feeder: what it costs, what it has, what runs there.
import { DeviceKind, type LentDevice } from '../../proto/gen/greenboost/v1/feeder_pb.js';
import type { ComputeFacts, FeederView, GpuFacts } from '../attachments/holds.js';
import type { MeasuredCost } from '../placement/policy.js';
import { deviceKey } from './feeder-client.js';
import type { Link } from './link.js';

export const UNMEASURED: MeasuredCost = { readBytesPerSecond: 0, latencyMicros: 0 };

export function viewOf(link: Link): FeederView {
  return {
    feederId: link.feederId,
    name: link.name,
    cost: costOf(link),
    devices: link.devices.map(({ id, capacityBytes, leasedBytes }) => ({
      key: deviceKey(id),
      freeBytes: Number(capacityBytes - leasedBytes),
      capacityBytes: Number(capacityBytes),
    })),
  };
}

export function costOf({ measurement }: Link): MeasuredCost {
  if (!measurement) return UNMEASURED;
  return {
    readBytesPerSecond: measurement.downloadBytesPerSecond,
    latencyMicros: measurement.rttMicros,
  };
}

/** Where kernels of programs may run on a feeder; undefined: it lends memory only. */
export function computeFacts(devices: readonly LentDevice[]): ComputeFacts | undefined {
  const reached = devices.filter(({ compute }) => compute);
  const runner = runnerOf(devices);
  if (!runner) return undefined;
  const deviceKeys = reached.map(({ id }) => deviceKey(id));
  return { capability: runner.computeCapability, deviceKeys };
}

/** The GPU of a feeder that runs kernels. */
export function gpuFacts(devices: readonly LentDevice[]): GpuFacts | undefined {
  const runner = runnerOf(devices);
  if (!runner) return undefined;
  const { id, name, uuid, computeCapability: capability, attributes } = runner;
  return { key: deviceKey(id), name, uuid, capability, attributes };
}

function runnerOf(devices: readonly LentDevice[]): LentDevice | undefined {
  return devices.find(({ compute, id }) => compute && id?.kind === DeviceKind.GPU);
}
