// SPDX-License-Identifier: Apache-2.0
// Where kernels of a program ran, and where its ranges lie, as people's scripts and our own screens read it.
import { bytesFromWire } from '../../proto/base/units.js';
import {
  PlacedKind,
  type Attachment,
  type ExplainResponse,
  type LaunchOwner,
  type LearnedStep,
  type PlacedRange,
  type RemoteDevice,
} from '../../proto/gen/greenboost/v1/control_pb.js';
import { DeviceKind } from '../../proto/gen/greenboost/v1/feeder_pb.js';

/** Kernels of a program on one feeder. */
export interface LaunchOwnerJson {
  feederId: string;
  feederName: string;
  lane: number;
  launchCount: number;
  /** Times that changed blocks went there or came back. */
  crossingCount: number;
  crossingSentBytes: number;
  crossingReceivedBytes: number;
  /** Room there for copies of what lies with the program. */
  replicaBytes: number;
}

/** A feeder's GPU that a program sees as a CUDA device of its own. */
export interface RemoteDeviceJson {
  /** Among these; the program counts its local GPUs first. */
  index: number;
  feederId: string;
  feederName: string;
  name: string;
  /** 0: the program has not used it. */
  lane: number;
  capacityBytes: number;
  /** By this program. */
  usedBytes: number;
}

export interface DispatchJson {
  /** `--remote merged` or `--remote devices` is in force. */
  on: boolean;
  hereCount: number;
  dispatchedCount: number;
  /** Launches that name a range of a feeder and ran here, by reason; without zeroes. */
  undispatched: Record<string, number>;
  owners: LaunchOwnerJson[];
  /** With `--remote devices`. */
  devices: RemoteDeviceJson[];
}

export interface PlacedRangeJson {
  /** In the program, as `0x…`. */
  address: string;
  bytes: number;
  feederId: string;
  feederName: string;
  /** `ram`, `vram 0`; null: not known. */
  device: string | null;
  lane: number;
  kind: 'owned' | 'replica' | 'device' | 'unknown';
  lost: boolean;
  why: string;
}

export interface ReasonJson {
  name: string;
  count: number;
  text: string;
}

/** A step of the program that repeats, and what was moved for it. */
export interface LearnedStepJson {
  launchCount: number;
  /** Ranges that its launches name. */
  rangeCount: number;
  /** Of one step: when it was seen first, as everything lies now, and as it should. */
  crossingBeforeCount: number;
  crossingNowCount: number;
  crossingPlannedCount: number;
  movedCount: number;
  movedBytes: number;
}

export interface ExplainJson {
  schemaVersion: number;
  pid: number;
  command: string;
  dispatch: DispatchJson;
  ranges: PlacedRangeJson[];
  /** Of ranges; more than are listed when there are very many. */
  rangeCount: number;
  reasons: ReasonJson[];
  /** null: its launches were not seen to repeat. */
  step: LearnedStepJson | null;
}

const KINDS: Readonly<Record<PlacedKind, PlacedRangeJson['kind']>> = {
  [PlacedKind.UNSPECIFIED]: 'unknown',
  [PlacedKind.OWNED]: 'owned',
  [PlacedKind.REPLICA]: 'replica',
  [PlacedKind.DEVICE]: 'device',
};

/** @throws GbError PROTOCOL_VIOLATION on a counter above 2^53, as all functions here. */
export function dispatchJson(from: Attachment): DispatchJson {
  const dispatchedCount = bytesFromWire(from.dispatchedCount);
  return {
    on: from.dispatch,
    hereCount: Math.max(0, bytesFromWire(from.launchCount) - dispatchedCount),
    dispatchedCount,
    undispatched: Object.fromEntries(
      Object.entries(from.undispatched).map(([name, count]) => [name, bytesFromWire(count)]),
    ),
    owners: from.launchOwners.map(ownerJson),
    devices: from.remoteDevices.map(deviceJson),
  };
}

export function explainJson(from: ExplainResponse, schemaVersion: number): ExplainJson {
  const { attachment } = from;
  return {
    schemaVersion,
    pid: attachment?.pid ?? 0,
    command: attachment?.command ?? '',
    dispatch: attachment
      ? dispatchJson(attachment)
      : { on: false, hereCount: 0, dispatchedCount: 0, undispatched: {}, owners: [], devices: [] },
    ranges: from.ranges.map((range) => placedJson(range, from.arenaBase)),
    rangeCount: bytesFromWire(from.totalCount),
    reasons: from.reasons.map(({ name, count, text }) => ({
      name,
      count: bytesFromWire(count),
      text,
    })),
    step: from.step ? stepJson(from.step) : null,
  };
}

function stepJson(step: LearnedStep): LearnedStepJson {
  return {
    launchCount: bytesFromWire(step.launchCount),
    rangeCount: bytesFromWire(step.rangeCount),
    crossingBeforeCount: bytesFromWire(step.crossingBeforeCount),
    crossingNowCount: bytesFromWire(step.crossingNowCount),
    crossingPlannedCount: bytesFromWire(step.crossingPlannedCount),
    movedCount: bytesFromWire(step.movedCount),
    movedBytes: bytesFromWire(step.movedBytes),
  };
}

function ownerJson(owner: LaunchOwner): LaunchOwnerJson {
  return {
    feederId: owner.feederId,
    feederName: owner.feederName,
    lane: owner.lane,
    launchCount: bytesFromWire(owner.launchCount),
    crossingCount: bytesFromWire(owner.crossingCount),
    crossingSentBytes: bytesFromWire(owner.crossingSentBytes),
    crossingReceivedBytes: bytesFromWire(owner.crossingReceivedBytes),
    replicaBytes: bytesFromWire(owner.replicaBytes),
  };
}

function deviceJson(device: RemoteDevice): RemoteDeviceJson {
  return {
    index: device.index,
    feederId: device.feederId,
    feederName: device.feederName,
    name: device.name,
    lane: device.lane,
    capacityBytes: bytesFromWire(device.capacityBytes),
    usedBytes: bytesFromWire(device.usedBytes),
  };
}

function placedJson(range: PlacedRange, arenaBase: bigint): PlacedRangeJson {
  const { device } = range;
  const isGpu = device?.kind === DeviceKind.GPU;
  return {
    address: `0x${(arenaBase + range.offset).toString(16)}`,
    bytes: bytesFromWire(range.length),
    feederId: range.feederId,
    feederName: range.feederName,
    device: device ? (isGpu ? `vram ${device.index}` : 'ram') : null,
    lane: range.lane,
    kind: KINDS[range.kind] ?? 'unknown',
    lost: range.lost,
    why: range.why,
  };
}
