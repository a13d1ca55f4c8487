// SPDX-License-Identifier: Apache-2.0
// The one account people read: agent, tiers, links, programs, recent events. Builds messages,
// decides nothing.
import type { MessageInitShape } from '@bufbuild/protobuf';
import { laneClientBytes } from '../../driver/lane/client.js';
import { LaneStatus } from '../../driver/lane/names.js';
import { SNAPSHOT_EVENTS_MAX } from '../../proto/base/limits.js';
import {
  LinkState,
  TierKind,
  type AttachmentSchema,
  type DrainStatusSchema,
  type LinkSchema,
  type SnapshotSchema,
  type TierSchema,
} from '../../proto/gen/greenboost/v1/control_pb.js';
import { DeviceKind } from '../../proto/gen/greenboost/v1/feeder_pb.js';
import { keyFingerprint } from '../../security/pairing.js';
import type { VramArbiter } from '../attachments/arbiter.js';
import type { Attachment } from '../attachments/attachment.js';
import type { AttachmentRegistry } from '../attachments/registry.js';
import type { LaneFacts } from '../attachments/lanes.js';
import type { Ledger } from '../ledger.js';
import type { DrainProgress, Drains } from '../links/drains.js';
import type { Link, LinkStateName } from '../links/link.js';
import type { LinkManager } from '../links/manager.js';
import { pauseWords } from '../links/pauses.js';
import { AbiTier, PHASES, STAGING, type LaneReport, type Report } from '../shim/abi.js';
import type { LocalTiers } from '../tiers/local.js';
import { dispatchFacts } from './dispatch.js';
import { plainText, type EventLog } from './events.js';

export type SnapshotInit = MessageInitShape<typeof SnapshotSchema>;
type TierInit = MessageInitShape<typeof TierSchema>;
type LinkInit = MessageInitShape<typeof LinkSchema>;

export interface SnapshotSources {
  readonly software: string;
  readonly hostId: string;
  readonly hostName: string;
  readonly startedUnixMs: number;
  readonly unixMs: () => number;
  readonly links: LinkManager;
  readonly registry: AttachmentRegistry;
  readonly ledger: Ledger;
  readonly local: LocalTiers;
  readonly arbiter: VramArbiter;
  readonly events: EventLog;
}

const LINK_STATES: Readonly<Record<LinkStateName, LinkState>> = {
  connecting: LinkState.CONNECTING,
  handshaking: LinkState.HANDSHAKING,
  ready: LinkState.READY,
  draining: LinkState.DRAINING,
  stale: LinkState.STALE,
  lost: LinkState.LOST,
  closed: LinkState.CLOSED,
};

export function buildSnapshot(sources: SnapshotSources): SnapshotInit {
  const { links, registry, ledger, local, events } = sources;
  const attachments = registry.all;
  return {
    software: sources.software,
    agentPid: process.pid,
    startedUnixMs: BigInt(Math.floor(sources.startedUnixMs)),
    unixMs: BigInt(Math.floor(sources.unixMs())),
    epoch: links.epoch,
    hostId: sources.hostId,
    hostName: sources.hostName,
    tiers: [
      ...local.vram((uuid) => {
        const here = attachments.filter(({ facts }) => facts.deviceUuid === uuid);
        return {
          grantedBytes: sum(here, (a) => a.t1HeldBytes),
          usedBytes: sum(here, (a) => used(a, AbiTier.T1)),
        };
      }),
      local.ram({ ledger, usedBytes: sum(attachments, (a) => used(a, AbiTier.T2)) }),
      ...links.links.flatMap((link) => feederTiers(link, attachments)),
    ],
    links: links.links.map((link) => linkMessage(link, registry, links.drains)),
    attachments: attachments.map((attachment) => attachmentMessage(attachment, sources)),
    recentEvents: events.recent(SNAPSHOT_EVENTS_MAX),
    memoryAvailableBytes: BigInt(local.memory.availableBytes),
    memoryReserveBytes: BigInt(ledger.reserveBytes),
    memoryPressureSomeAvg10: local.memory.pressurePercent,
    probeBytes: BigInt(laneClientBytes()),
  };
}

/** A feeder's devices as tiers: its capacity, what this host was promised and uses there. */
export function feederTiers(link: Link, attachments: readonly Attachment[]): TierInit[] {
  return link.devices.map((device) => {
    const key = `${device.id?.kind ?? 0}:${device.id?.index ?? 0}`;
    let grantedBytes = 0;
    let usedBytes = 0;
    for (const attachment of attachments) {
      for (const hold of attachment.budget.holds) {
        const held =
          hold.feederId === link.feederId && hold.state !== 'lost'
            ? hold.devices.get(key)
            : undefined;
        grantedBytes += held?.limitBytes ?? 0;
        usedBytes += held?.usedBytes ?? 0;
      }
    }
    const { measurement } = link;
    const notes = [
      link.state === 'ready' ? '' : `feeder is ${link.state}`,
      link.paused ? 'paused: nothing new is placed there' : '',
      pauseWords(link.pauses),
      link.laneDetail || (measurement ? '' : 'link not measured yet'),
    ];
    return {
      kind: device.id?.kind === DeviceKind.GPU ? TierKind.FEEDER_VRAM : TierKind.FEEDER_RAM,
      name: `${link.name}: ${device.name}`,
      feederId: link.feederId,
      ...(device.id ? { device: device.id } : {}),
      capacityBytes: device.capacityBytes,
      grantedBytes: BigInt(grantedBytes),
      usedBytes: BigInt(usedBytes),
      readBytesPerSecond: measurement?.downloadBytesPerSecond ?? 0,
      writeBytesPerSecond: measurement?.uploadBytesPerSecond ?? 0,
      latencyMicros: measurement?.rttMicros ?? 0,
      simulated: device.simulated,
      note: notes.filter((note) => note !== '').join('; '),
    };
  });
}

export function linkMessage(link: Link, registry: AttachmentRegistry, drains: Drains): LinkInit {
  const drain = drains.progressOf(link.feederId);
  const calls = link.callTraffic;
  const { measurement, traffic } = link;
  return {
    feederId: link.feederId,
    feederName: link.name,
    address: link.options.address,
    state: LINK_STATES[link.state],
    detail: link.detail,
    rttMicros: measurement?.rttMicros ?? 0,
    uploadBytesPerSecond: measurement?.uploadBytesPerSecond ?? 0,
    downloadBytesPerSecond: measurement?.downloadBytesPerSecond ?? 0,
    cipher: link.cipher,
    sessionId: link.sessionId,
    sentBytes: BigInt(traffic.sentBytes),
    receivedBytes: BigInt(traffic.receivedBytes),
    errorCount: link.errorCount,
    lastSeenUnixMs: BigInt(Math.floor(link.lastSeenUnixMs)),
    devices: link.devices,
    leaseCount: registry.leasesOn(link.feederId).length,
    keyFingerprint: keyFingerprint(link.key),
    keyAddedUnixMs: BigInt(link.key.createdUnixMs),
    paused: link.paused,
    feederPauses: [...link.pauses],
    ...(drain ? { drain: drainMessage(drain, false) } : {}),
    ...laneFacts(registry.all.flatMap((attachment) => attachment.lanesTo(link.feederId))),
    laneDetail: link.laneDetail,
    callSentBytes: BigInt(calls.sentBytes),
    callReceivedBytes: BigInt(calls.receivedBytes),
    ...(link.clockSkewMs === undefined ? {} : { clockSkewMs: BigInt(link.clockSkewMs) }),
  };
}

/** How far a drain is. */
export function drainMessage(
  progress: DrainProgress,
  done: boolean,
): MessageInitShape<typeof DrainStatusSchema> {
  const { totalBytes, movedBytes, bytesPerSecond, etaMs, elapsedMs, waitsFor } = progress;
  return {
    totalBytes: BigInt(totalBytes),
    movedBytes: BigInt(movedBytes),
    bytesPerSecond,
    etaMs: BigInt(etaMs === undefined ? -1 : Math.round(etaMs)),
    elapsedMs: BigInt(Math.round(elapsedMs)),
    waitsFor,
    done,
  };
}

/** All lanes of programs to one feeder together; programs tell of them twice a second. */
function laneFacts(
  lanes: readonly LaneFacts[],
): Pick<LinkInit, 'laneCount' | 'laneCipher' | 'laneKeyAgeMs' | 'laneTraffic'> {
  const open = lanes.map(({ report }) => report).filter(({ state }) => state === LaneStatus.OK);
  const total = (value: (report: LaneReport) => bigint): bigint =>
    lanes.reduce((sum, { report }) => sum + value(report), 0n);
  const words = (value: (report: LaneReport) => string): string =>
    [...new Set(open.map(value).map((word) => plainText(word, 24)))].join(', ');
  const trips = open.map(({ round_trip_ns }) => Number(round_trip_ns)).filter((ns) => ns > 0);
  const traffic = {
    connectionCount: open.reduce((sum, { connections }) => sum + connections, 0),
    sentBytes: total((report) => report.bytes_written),
    receivedBytes: total((report) => report.bytes_read),
    wireSentBytes: total((report) => report.wire_bytes_out),
    wireReceivedBytes: total((report) => report.wire_bytes_in),
    cachedBytes: total((report) => report.cached_bytes),
    roundTripMicros: trips.length > 0 ? Math.min(...trips) / 1000 : 0,
    provider: words(({ provider }) => provider),
    brokenCount: lanes.length - open.length,
  };
  return {
    laneCount: open.length,
    laneCipher: words(({ cipher }) => cipher),
    laneKeyAgeMs: open.reduce((oldest, { key_age_ms: age }) => (age > oldest ? age : oldest), 0n),
    laneTraffic: traffic,
  };
}

/** One program as it is now. */
export function attachmentMessage(
  attachment: Attachment,
  { ledger, arbiter, links }: Pick<SnapshotSources, 'ledger' | 'arbiter' | 'links'>,
): MessageInitShape<typeof AttachmentSchema> {
  const { facts, report, budget } = attachment;
  const placed = attachment.placedBytes;
  const peak = (tier: number): bigint => report?.peak_bytes[tier] ?? 0n;
  return {
    attachmentId: attachment.id,
    pid: facts.identity.pid,
    command: facts.command,
    deviceName: facts.deviceName,
    deviceUuid: facts.deviceUuid,
    vramUsedBytes: BigInt(used(attachment, AbiTier.T1)),
    ramUsedBytes: BigInt(used(attachment, AbiTier.T2)),
    feederVramUsedBytes: BigInt(placed.vramBytes),
    feederRamUsedBytes: BigInt(placed.ramBytes),
    vramPeakBytes: peak(AbiTier.T1),
    ramPeakBytes: peak(AbiTier.T2),
    nvmeUsedBytes: BigInt(used(attachment, AbiTier.T3)),
    nvmePeakBytes: peak(AbiTier.T3),
    feederVramPeakBytes: BigInt(attachment.peaks.vramBytes),
    feederRamPeakBytes: BigInt(attachment.peaks.ramBytes),
    ramGrantedBytes: BigInt(ledger.heldBytes(attachment.id)),
    feederGrantedBytes: BigInt(budget.heldBytes),
    ...counters(report),
    startedUnixMs: BigInt(Math.floor(facts.startedUnixMs)),
    connected: attachment.peer !== undefined,
    vramBudgetBytes: BigInt(facts.vramBudgetBytes ?? 0),
    vramLimitBytes: BigInt(arbiter.limitOf(attachment) ?? 0),
    gated: facts.gated,
    ...dispatchFacts(attachment, links),
  };
}

function counters(report: Report | undefined) {
  if (!report) return { phase: PHASES[0], staging: STAGING[0] };
  return {
    allocationCount: report.allocation_count,
    allocatedBytes: report.allocated_bytes,
    launchCount: report.launch_count,
    copyCount: report.copy_count,
    fetchBytes: report.fetch_bytes,
    evictBytes: report.evict_bytes,
    cleanDropBytes: report.clean_drop_bytes,
    unaccountedLaunchCount: report.unaccounted_launch_count,
    refusedLaunchCount: report.refused_launch_count,
    stallMicros: report.stall_micros,
    nvmeReadBytes: report.nvme_read_bytes,
    nvmeWriteBytes: report.nvme_write_bytes,
    staging: STAGING[report.staging] ?? `staging ${report.staging}`,
    orderPercent: report.order_percent,
    stageInBytes: report.stage_in_bytes,
    stageOutBytes: report.stage_out_bytes,
    stageCleanBytes: report.stage_clean_bytes,
    remapCount: report.remap_count,
    switchCount: report.switch_count,
    switchAbandonedCount: report.switch_abandoned_count,
    switchMicros: report.switch_micros,
    frameBytes: report.frame_bytes,
    graphSplitCount: report.graph_split_count,
    phase: PHASES[report.phase] ?? `phase ${report.phase}`,
    stickyCudaError: report.sticky_error,
  };
}

function used(attachment: Attachment, tier: number): number {
  return Number(attachment.report?.used_bytes[tier] ?? 0n);
}

function sum(
  attachments: readonly Attachment[],
  value: (attachment: Attachment) => number,
): number {
  return attachments.reduce((total, attachment) => total + value(attachment), 0);
}
