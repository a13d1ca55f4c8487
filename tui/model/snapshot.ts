// SPDX-License-Identifier: Apache-2.0
// The one place where messages of control.proto become the plain objects that people's scripts (`--json`) and our own
// screens read: bigint becomes a checked number, 0 for "not measured" becomes null, enums become words.
// The shapes are documented in docs/operating.md; a change of a field is a change of `schemaVersion`.
import { bytesFromWire } from '../../proto/base/units.js';
import {
  LinkState,
  TierKind,
  type Attachment,
  type DrainStatus,
  type Event,
  type FeedStatus,
  type LaneTraffic,
  type Link,
  type Snapshot,
  type Tier,
} from '../../proto/gen/greenboost/v1/control_pb.js';
import {
  DeviceKind,
  FeederState,
  type LentDevice,
} from '../../proto/gen/greenboost/v1/feeder_pb.js';
import { dispatchJson, type DispatchJson } from './dispatch.js';
import { feedLaneJson, type FeedLaneJson } from './feed-lanes.js';

export const SCHEMA_VERSION = 1;

export type TierKindJson = 'local_vram' | 'local_ram' | 'feeder_vram' | 'feeder_ram' | 'unknown';
export type LinkStateJson =
  'connecting' | 'handshaking' | 'ready' | 'draining' | 'stale' | 'lost' | 'closed' | 'unknown';

const TIER_KINDS: Readonly<Record<TierKind, TierKindJson>> = {
  [TierKind.UNSPECIFIED]: 'unknown',
  [TierKind.LOCAL_VRAM]: 'local_vram',
  [TierKind.LOCAL_RAM]: 'local_ram',
  [TierKind.FEEDER_VRAM]: 'feeder_vram',
  [TierKind.FEEDER_RAM]: 'feeder_ram',
};

const LINK_STATES: Readonly<Record<LinkState, LinkStateJson>> = {
  [LinkState.UNSPECIFIED]: 'unknown',
  [LinkState.CONNECTING]: 'connecting',
  [LinkState.HANDSHAKING]: 'handshaking',
  [LinkState.READY]: 'ready',
  [LinkState.DRAINING]: 'draining',
  [LinkState.STALE]: 'stale',
  [LinkState.LOST]: 'lost',
  [LinkState.CLOSED]: 'closed',
};

const FEEDER_STATES: Readonly<Record<FeederState, string>> = {
  [FeederState.UNSPECIFIED]: 'unknown',
  [FeederState.LENDING]: 'lending',
  [FeederState.PAUSED]: 'paused',
  [FeederState.STOPPING]: 'stopping',
  [FeederState.DRAINING]: 'draining',
};

const SEVERITIES = ['info', 'warning', 'error'] as const;

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
}

/** How far a drain is. */
export interface DrainJson {
  totalBytes: number;
  movedBytes: number;
  bytesPerSecond: number;
  etaMs: number | null;
  elapsedMs: number;
  waitsFor: string | null;
  done: boolean;
}

/** All lanes of programs to one feeder. */
export interface LaneTrafficJson {
  connectionCount: number;
  sentBytes: number;
  receivedBytes: number;
  wireSentBytes: number;
  wireReceivedBytes: number;
  cachedBytes: number;
  rttMicros: number | null;
  provider: string | null;
  brokenCount: number;
}

export interface LinkJson {
  feederId: string;
  feederName: string;
  address: string;
  state: LinkStateJson;
  detail: string;
  rttMicros: number | null;
  uploadBytesPerSecond: number | null;
  downloadBytesPerSecond: number | null;
  cipher: string;
  sessionId: string;
  sentBytes: number;
  receivedBytes: number;
  errorCount: number;
  lastSeenUnixMs: number | null;
  /** The feeder's clock less ours. */
  clockSkewMs: number | null;
  leaseCount: number;
  keyFingerprint: string;
  /** When the present key came into the keyring. */
  keyAddedUnixMs: number | null;
  /** Open lanes of programs; their cipher and the age of their oldest key. */
  laneCount: number;
  laneCipher: string | null;
  laneKeyAgeMs: number | null;
  laneTraffic: LaneTrafficJson;
  /** Why lanes cannot be opened; empty: they can. */
  laneDetail: string;
  /** Of gRPC, sealed; never application bytes. */
  callSentBytes: number;
  callReceivedBytes: number;
  /** By the user, or after a drain: nothing new is placed there. */
  paused: boolean;
  drain: DrainJson | null;
  devices: DeviceJson[];
}

export interface AttachmentJson {
  attachmentId: string;
  pid: number;
  command: string;
  deviceName: string;
  deviceUuid: string | null;
  vramUsedBytes: number;
  ramUsedBytes: number;
  feederVramUsedBytes: number;
  feederRamUsedBytes: number;
  vramPeakBytes: number;
  ramPeakBytes: number;
  feederVramPeakBytes: number;
  feederRamPeakBytes: number;
  vramBudgetBytes: number | null;
  vramLimitBytes: number | null;
  ramGrantedBytes: number;
  feederGrantedBytes: number;
  allocationCount: number;
  allocatedBytes: number;
  launchCount: number;
  copyCount: number;
  fetchBytes: number;
  evictBytes: number;
  cleanDropBytes: number;
  unaccountedLaunchCount: number;
  refusedLaunchCount: number;
  stallMicros: number;
  nvmeUsedBytes: number;
  nvmePeakBytes: number;
  nvmeReadBytes: number;
  nvmeWriteBytes: number;
  stagedInBytes: number;
  stageOutBytes: number;
  stageCleanBytes: number;
  remapCount: number;
  switchCount: number;
  switchAbandonedCount: number;
  switchMicros: number;
  frameBytes: number;
  graphSplitCount: number;
  staging: string;
  orderPercent: number;
  phase: string;
  stickyCudaError: number;
  startedUnixMs: number;
  connected: boolean;
  gated: boolean;
  dispatch: DispatchJson;
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

export interface FeedLeaseJson {
  leaseId: string;
  hostName: string;
  attachmentId: string;
  grantedBytes: number;
  usedBytes: number;
  ttlRemainingMs: number;
  adopted: boolean;
  readBytes: number;
  writeBytes: number;
}

export interface FeedStatusJson {
  schemaVersion: number;
  software: string;
  pid: number;
  startedUnixMs: number;
  feederId: string;
  feederName: string;
  addresses: string[];
  lanePort: number;
  keyFingerprint: string;
  state: string;
  lockNote: string;
  sessionCount: number;
  leaseCount: number;
  readBytes: number;
  writeBytes: number;
  authFailureCount: number;
  devices: DeviceJson[];
  leases: FeedLeaseJson[];
  lanes: FeedLaneJson[];
  /** Null: no block cache. */
  cacheDir: string | null;
  cacheBudgetBytes: number;
}

function measured(value: number): number | null {
  return Number.isFinite(value) && value > 0 ? value : null;
}

function deviceJson(device: LentDevice): DeviceJson {
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
  };
}

function laneTrafficJson(traffic: LaneTraffic | undefined): LaneTrafficJson {
  const bytes = (value: bigint | undefined): number => bytesFromWire(value ?? 0n);
  return {
    connectionCount: traffic?.connectionCount ?? 0,
    sentBytes: bytes(traffic?.sentBytes),
    receivedBytes: bytes(traffic?.receivedBytes),
    wireSentBytes: bytes(traffic?.wireSentBytes),
    wireReceivedBytes: bytes(traffic?.wireReceivedBytes),
    cachedBytes: bytes(traffic?.cachedBytes),
    rttMicros: measured(traffic?.roundTripMicros ?? 0),
    provider: traffic?.provider || null,
    brokenCount: traffic?.brokenCount ?? 0,
  };
}

/** How far a drain is. @throws as linkJson. */
export function drainJson(drain: DrainStatus): DrainJson {
  return {
    totalBytes: bytesFromWire(drain.totalBytes),
    movedBytes: bytesFromWire(drain.movedBytes),
    bytesPerSecond: drain.bytesPerSecond,
    etaMs: drain.etaMs < 0n ? null : Number(drain.etaMs),
    elapsedMs: Number(drain.elapsedMs),
    waitsFor: drain.waitsFor || null,
    done: drain.done,
  };
}

/** One link. @throws GbError PROTOCOL_VIOLATION on a counter above 2^53, as all functions here. */
export function linkJson(link: Link): LinkJson {
  return {
    feederId: link.feederId,
    feederName: link.feederName,
    address: link.address,
    state: LINK_STATES[link.state] ?? 'unknown',
    detail: link.detail,
    rttMicros: measured(link.rttMicros),
    uploadBytesPerSecond: measured(link.uploadBytesPerSecond),
    downloadBytesPerSecond: measured(link.downloadBytesPerSecond),
    cipher: link.cipher,
    sessionId: link.sessionId,
    sentBytes: bytesFromWire(link.sentBytes),
    receivedBytes: bytesFromWire(link.receivedBytes),
    errorCount: link.errorCount,
    lastSeenUnixMs: link.lastSeenUnixMs === 0n ? null : Number(link.lastSeenUnixMs),
    clockSkewMs: link.clockSkewMs === undefined ? null : Number(link.clockSkewMs),
    leaseCount: link.leaseCount,
    keyFingerprint: link.keyFingerprint,
    keyAddedUnixMs: link.keyAddedUnixMs === 0n ? null : Number(link.keyAddedUnixMs),
    laneCount: link.laneCount,
    laneCipher: link.laneCipher || null,
    laneKeyAgeMs: link.laneCount === 0 ? null : bytesFromWire(link.laneKeyAgeMs),
    laneTraffic: laneTrafficJson(link.laneTraffic),
    laneDetail: link.laneDetail,
    callSentBytes: bytesFromWire(link.callSentBytes),
    callReceivedBytes: bytesFromWire(link.callReceivedBytes),
    paused: link.paused,
    drain: link.drain ? drainJson(link.drain) : null,
    devices: link.devices.map(deviceJson),
  };
}

/** One program. */
export function attachmentJson(from: Attachment): AttachmentJson {
  return {
    attachmentId: from.attachmentId,
    pid: from.pid,
    command: from.command,
    deviceName: from.deviceName,
    deviceUuid: from.deviceUuid === '' ? null : from.deviceUuid,
    vramUsedBytes: bytesFromWire(from.vramUsedBytes),
    ramUsedBytes: bytesFromWire(from.ramUsedBytes),
    feederVramUsedBytes: bytesFromWire(from.feederVramUsedBytes),
    feederRamUsedBytes: bytesFromWire(from.feederRamUsedBytes),
    vramPeakBytes: bytesFromWire(from.vramPeakBytes),
    ramPeakBytes: bytesFromWire(from.ramPeakBytes),
    feederVramPeakBytes: bytesFromWire(from.feederVramPeakBytes),
    feederRamPeakBytes: bytesFromWire(from.feederRamPeakBytes),
    vramBudgetBytes: from.vramBudgetBytes === 0n ? null : bytesFromWire(from.vramBudgetBytes),
    vramLimitBytes: from.vramLimitBytes === 0n ? null : bytesFromWire(from.vramLimitBytes),
    ramGrantedBytes: bytesFromWire(from.ramGrantedBytes),
    feederGrantedBytes: bytesFromWire(from.feederGrantedBytes),
    allocationCount: bytesFromWire(from.allocationCount),
    allocatedBytes: bytesFromWire(from.allocatedBytes),
    launchCount: bytesFromWire(from.launchCount),
    copyCount: bytesFromWire(from.copyCount),
    fetchBytes: bytesFromWire(from.fetchBytes),
    evictBytes: bytesFromWire(from.evictBytes),
    cleanDropBytes: bytesFromWire(from.cleanDropBytes),
    unaccountedLaunchCount: bytesFromWire(from.unaccountedLaunchCount),
    refusedLaunchCount: bytesFromWire(from.refusedLaunchCount),
    stallMicros: bytesFromWire(from.stallMicros),
    nvmeUsedBytes: bytesFromWire(from.nvmeUsedBytes),
    nvmePeakBytes: bytesFromWire(from.nvmePeakBytes),
    nvmeReadBytes: bytesFromWire(from.nvmeReadBytes),
    nvmeWriteBytes: bytesFromWire(from.nvmeWriteBytes),
    stagedInBytes: bytesFromWire(from.stageInBytes),
    stageOutBytes: bytesFromWire(from.stageOutBytes),
    stageCleanBytes: bytesFromWire(from.stageCleanBytes),
    remapCount: bytesFromWire(from.remapCount),
    switchCount: bytesFromWire(from.switchCount),
    switchAbandonedCount: bytesFromWire(from.switchAbandonedCount),
    switchMicros: bytesFromWire(from.switchMicros),
    frameBytes: bytesFromWire(from.frameBytes),
    graphSplitCount: bytesFromWire(from.graphSplitCount),
    staging: from.staging,
    orderPercent: from.orderPercent,
    phase: from.phase,
    stickyCudaError: from.stickyCudaError,
    startedUnixMs: Number(from.startedUnixMs),
    connected: from.connected,
    gated: from.gated,
    dispatch: dispatchJson(from),
  };
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

/** The tiers a connect call answered with. */
export function tiersJson(tiers: readonly Tier[]): TierJson[] {
  return tiers.map(tierJson);
}

/** What a feeder daemon says of itself to its own user. */
export function feedStatusJson(status: FeedStatus): FeedStatusJson {
  const stats = status.stats;
  return {
    schemaVersion: SCHEMA_VERSION,
    software: status.software,
    pid: status.pid,
    startedUnixMs: Number(status.startedUnixMs),
    feederId: status.feederId,
    feederName: status.feederName,
    addresses: [...status.addresses],
    lanePort: status.lanePort,
    keyFingerprint: status.keyFingerprint,
    state: FEEDER_STATES[stats?.state ?? FeederState.UNSPECIFIED] ?? 'unknown',
    lockNote: status.lockNote,
    sessionCount: stats?.sessionCount ?? 0,
    leaseCount: stats?.leaseCount ?? 0,
    readBytes: bytesFromWire(stats?.readBytes ?? 0n),
    writeBytes: bytesFromWire(stats?.writeBytes ?? 0n),
    authFailureCount: bytesFromWire(stats?.authFailureCount ?? 0n),
    devices: (stats?.devices ?? []).map(deviceJson),
    leases: status.leases.map((lease) => ({
      leaseId: lease.leaseId,
      hostName: lease.hostName,
      attachmentId: lease.attachmentId,
      grantedBytes: bytesFromWire(lease.grantedBytes),
      usedBytes: bytesFromWire(lease.usedBytes),
      ttlRemainingMs: bytesFromWire(lease.ttlRemainingMs),
      adopted: lease.adopted,
      readBytes: bytesFromWire(lease.readBytes),
      writeBytes: bytesFromWire(lease.writeBytes),
    })),
    lanes: status.lanes.map(feedLaneJson),
    cacheDir: status.cacheDir || null,
    cacheBudgetBytes: bytesFromWire(status.cacheBudgetBytes),
  };
}
