// SPDX-License-Identifier: Apache-2.0
// The agent's whole state as the plain objects that people's scripts (`--json`) and our own screens read: bigint
// becomes a checked number, 0 for "not measured" becomes null, enums become words. Its parts are in the files
// beside this one. The shapes are documented in docs/operating.md; a change of a field is a change of `schemaVersion`.
import { bytesFromWire } from '../../proto/base/units.js';
import {
  TierKind,
  type Event,
  type GpuLoad,
  type Snapshot,
  type Tier,
} from '../../proto/gen/greenboost/v1/control_pb.js';
import { attachmentJson, type AttachmentJson } from './attachments.js';
import { measured } from './devices.js';
import { linkJson, type LinkJson } from './links.js';

export const SCHEMA_VERSION = 1;

export type TierKindJson =
  'local_vram' | 'local_ram' | 'feeder_vram' | 'feeder_ram' | 'local_nvme' | 'unknown';

const TIER_KINDS: Readonly<Record<TierKind, TierKindJson>> = {
  [TierKind.UNSPECIFIED]: 'unknown',
  [TierKind.LOCAL_VRAM]: 'local_vram',
  [TierKind.LOCAL_RAM]: 'local_ram',
  [TierKind.FEEDER_VRAM]: 'feeder_vram',
  [TierKind.FEEDER_RAM]: 'feeder_ram',
};

const SEVERITIES = ['info', 'warning', 'error'] as const;

export interface TierJson {
  kind: TierKindJson;
  name: string;
  feederId: string | null;
  capacityBytes: number;
  grantedBytes: number;
  usedBytes: number;
  readBytesPerSecond: number | null;
  writeBytesPerSecond: number | null;
  latencyMicros: number | null;
  simulated: boolean;
  note: string;
  /** Of local VRAM's GPU; null of others, and where NVML does not tell. */
  load: GpuLoadJson | null;
}

/** As NVML tells; null: this GPU does not. */
export interface GpuLoadJson {
  percent: number | null;
  temperatureCelsius: number | null;
  powerMilliwatts: number | null;
}

export interface EventJson {
  sequence: number;
  unixMs: number;
  severity: 'info' | 'warning' | 'error';
  name: string;
  subject: string;
  text: string;
}

export interface SnapshotJson {
  schemaVersion: number;
  software: string;
  agentPid: number;
  startedUnixMs: number;
  unixMs: number;
  epoch: number;
  hostId: string;
  hostName: string;
  memoryAvailableBytes: number;
  memoryReserveBytes: number;
  memoryPressurePercent: number | null;
  /** That the agent itself moved over lanes, to measure links. */
  probeBytes: number;
  tiers: TierJson[];
  links: LinkJson[];
  attachments: AttachmentJson[];
  events: EventJson[];
}

function tierJson(tier: Tier): TierJson {
  return {
    kind: TIER_KINDS[tier.kind] ?? 'unknown',
    name: tier.name,
    feederId: tier.feederId === '' ? null : tier.feederId,
    capacityBytes: bytesFromWire(tier.capacityBytes),
    grantedBytes: bytesFromWire(tier.grantedBytes),
    usedBytes: bytesFromWire(tier.usedBytes),
    readBytesPerSecond: measured(tier.readBytesPerSecond),
    writeBytesPerSecond: measured(tier.writeBytesPerSecond),
    latencyMicros: measured(tier.latencyMicros),
    simulated: tier.simulated,
    note: tier.note,
    load: tier.load ? loadJson(tier.load) : null,
  };
}

function loadJson({ percent, temperatureCelsius, powerMilliwatts }: GpuLoad): GpuLoadJson {
  return {
    percent: percent ?? null,
    temperatureCelsius: temperatureCelsius ?? null,
    powerMilliwatts: powerMilliwatts ?? null,
  };
}

/** The tiers a connect call answered with. */
export function tiersJson(tiers: readonly Tier[]): TierJson[] {
  return tiers.map(tierJson);
}

/** One event of the agent. */
export function eventJson(event: Event): EventJson {
  return {
    sequence: bytesFromWire(event.sequence),
    unixMs: Number(event.unixMs),
    severity: SEVERITIES[event.severity] ?? 'error',
    name: event.name,
    subject: event.subject,
    text: event.text,
  };
}

/** The agent's whole state. Ownership: nothing of `snapshot` is shared with the result. */
export function snapshotJson(snapshot: Snapshot): SnapshotJson {
  return {
    schemaVersion: SCHEMA_VERSION,
    software: snapshot.software,
    agentPid: snapshot.agentPid,
    startedUnixMs: Number(snapshot.startedUnixMs),
    unixMs: Number(snapshot.unixMs),
    epoch: bytesFromWire(snapshot.epoch),
    hostId: snapshot.hostId,
    hostName: snapshot.hostName,
    memoryAvailableBytes: bytesFromWire(snapshot.memoryAvailableBytes),
    memoryReserveBytes: bytesFromWire(snapshot.memoryReserveBytes),
    memoryPressurePercent:
      snapshot.memoryPressureSomeAvg10 < 0 ? null : snapshot.memoryPressureSomeAvg10,
    probeBytes: bytesFromWire(snapshot.probeBytes),
    tiers: snapshot.tiers.map(tierJson),
    links: snapshot.links.map(linkJson),
    attachments: snapshot.attachments.map(attachmentJson),
    events: snapshot.recentEvents.map(eventJson),
  };
}
