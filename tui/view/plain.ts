// SPDX-License-Identifier: Apache-2.0
// The cluster as plain tables for `status`, `cluster --once` and `feed status`: no escapes, one fact per cell.
import { formatAge, formatBytes, formatMicros, formatRate } from '../../proto/base/units.js';
import type { AttachmentJson } from '../model/attachments.js';
import type { DeviceJson } from '../model/devices.js';
import type { FeedStatusJson } from '../model/feed-status.js';
import type { LinkJson } from '../model/links.js';
import type { PauseCauseJson } from '../model/pauses.js';
import { attachmentIdentity, linkIdentity, type Picture } from '../model/state.js';
import { sortedTiers } from '../model/tiers.js';
import type { EventJson, SnapshotJson, TierJson } from '../model/snapshot.js';

export interface TableColumn {
  readonly title: string;
  readonly align?: 'left' | 'right';
  /** Gives way, down to six cells, when the terminal is narrow. */
  readonly shrinks?: boolean;
  /** Left out first, from the right, when the terminal is narrow. */
  readonly optional?: boolean;
}

export interface Table {
  readonly columns: readonly TableColumn[];
  readonly rows: readonly (readonly string[])[];
}

export const left = (title: string): TableColumn => ({ title });
export const right = (title: string): TableColumn => ({ title, align: 'right' });
export const shrinking = (title: string): TableColumn => ({ title, shrinks: true });
const optional = (column: TableColumn): TableColumn => ({ ...column, optional: true });

const TIER_WORDS: Readonly<Record<TierJson['kind'], string>> = {
  local_vram: 'vram local',
  local_ram: 'ram local',
  feeder_vram: 'vram feeder',
  feeder_ram: 'ram feeder',
  local_nvme: 'nvme local',
  unknown: 'unknown',
};

/** The word for a tier's kind, as on every screen. */
export function tierWord(kind: TierJson['kind']): string {
  return TIER_WORDS[kind];
}

export function tierTable(tiers: readonly TierJson[]): Table {
  return {
    columns: [
      left('TIER'),
      shrinking('NAME'),
      right('USED'),
      right('CAPACITY'),
      right('READ'),
      optional(right('WRITE')),
      optional(right('LATENCY')),
      left('NOTE'),
    ],
    rows: sortedTiers(tiers).map((tier) => [
      tierWord(tier.kind),
      tier.name,
      formatBytes(tier.usedBytes),
      tier.capacityBytes === 0 ? '-' : formatBytes(tier.capacityBytes),
      formatRate(tier.readBytesPerSecond ?? 0),
      formatRate(tier.writeBytesPerSecond ?? 0),
      formatMicros(tier.latencyMicros ?? 0),
      [tier.simulated ? 'simulated' : '', tier.note].filter(Boolean).join('; '),
    ]),
  };
}

function sumOf(link: LinkJson, kind: 'ram' | 'gpu', field: 'usedBytes' | 'capacityBytes'): number {
  return link.devices
    .filter((device) => device.kind === kind)
    .reduce((sum, device) => sum + device[field], 0);
}

/** `1.20 / 24.0 GiB`, or `-` when the feeder lends none of it. */
export function usedOfLent(link: LinkJson, kind: 'ram' | 'gpu'): string {
  const capacity = sumOf(link, kind, 'capacityBytes');
  if (capacity === 0) return '-';
  return `${formatBytes(sumOf(link, kind, 'usedBytes'))} / ${formatBytes(capacity)}`;
}

/** `2 AES-256-GCM, key 3 min`: open lanes of programs and how long their oldest key is in use. */
function lanesText({ laneCount, laneCipher, laneKeyAgeMs }: LinkJson): string {
  if (laneCount === 0) return '-';
  return `${laneCount} ${laneCipher ?? ''}, key ${formatAge(laneKeyAgeMs ?? 0)}`;
}

/** `4s`, `3m20s`, `2h14m`: how long something takes. */
export function durationText(ms: number): string {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 60 || seconds >= 3600) return formatAge(seconds * 1000);
  return `${Math.floor(seconds / 60)}m${String(seconds % 60).padStart(2, '0')}s`;
}

/** What holds a feeder by its owner's will: his word, his hours, himself at the GPU. */
const PAUSE_STATES: Readonly<Record<PauseCauseJson, string>> = {
  owner: 'withheld',
  hours: 'off hours',
  local_use: 'in use',
  unknown: 'withheld',
};

/** The word for a link's state: `ready`, `paused`, `in use`, `draining 41%`. */
export function linkStateWord({ state, paused, drain, feederPauses }: LinkJson): string {
  if (drain && drain.totalBytes > 0)
    return `${state} ${Math.floor((100 * drain.movedBytes) / drain.totalBytes)}%`;
  if (state !== 'ready') return state;
  if (paused) return 'paused';
  const [first] = feederPauses;
  return first ? PAUSE_STATES[first.cause] : state;
}

export function linkTable(snapshot: SnapshotJson): Table {
  return {
    columns: [
      shrinking('FEEDER'),
      optional(left('ADDRESS')),
      left('STATE'),
      right('RTT'),
      optional(right('UP')),
      optional(right('DOWN')),
      right('VRAM'),
      right('RAM'),
      optional(right('SENT')),
      optional(right('RECEIVED')),
      optional(right('ERRORS')),
      right('SEEN'),
      optional(left('CIPHER')),
      optional(left('KEY')),
      optional(right('KEY AGE')),
      optional(left('LANES')),
      optional(left('KERNELS')),
    ],
    rows: snapshot.links.map((link) => [
      link.feederName || link.feederId,
      link.address,
      linkStateWord(link),
      formatMicros(link.rttMicros ?? 0),
      formatRate(link.uploadBytesPerSecond ?? 0),
      formatRate(link.downloadBytesPerSecond ?? 0),
      usedOfLent(link, 'gpu'),
      usedOfLent(link, 'ram'),
      formatBytes(link.sentBytes),
      formatBytes(link.receivedBytes),
      String(link.errorCount),
      link.lastSeenUnixMs === null
        ? '-'
        : `${formatAge(snapshot.unixMs - link.lastSeenUnixMs)} ago`,
      link.cipher || '-',
      link.keyFingerprint,
      link.keyAddedUnixMs === null ? '-' : formatAge(snapshot.unixMs - link.keyAddedUnixMs),
      lanesText(link),
      link.devices.some(({ compute }) => compute) ? 'yes' : 'no',
    ]),
  };
}

/** What the staging engine does for a program: `on 98%` (touches that came as predicted),
 *  `learning`, `in place`, `unsupported`, or `-` while nothing lies beyond VRAM. */
export function stagingText(from: AttachmentJson): string {
  if (from.staging === 'off') return '-';
  const word = from.staging.replaceAll('_', ' ');
  return from.staging === 'on' || from.staging === 'learning'
    ? `${word} ${from.orderPercent}%`
    : word;
}

export function attachmentTable(attachments: readonly AttachmentJson[], unixMs: number): Table {
  return {
    columns: [
      right('PID'),
      shrinking('COMMAND'),
      right('ALLOC'),
      right('VRAM'),
      right('RAM'),
      right('F-VRAM'),
      right('F-RAM'),
      optional(right('NVME')),
      left('PHASE'),
      left('STAGING'),
      optional(right('STAGED')),
      optional(right('FETCHED')),
      optional(right('EVICTED')),
      right('AGE'),
    ],
    rows: attachments.map((from) => [
      String(from.pid),
      from.command,
      formatBytes(from.allocatedBytes),
      formatBytes(from.vramUsedBytes),
      formatBytes(from.ramUsedBytes),
      formatBytes(from.feederVramUsedBytes),
      formatBytes(from.feederRamUsedBytes),
      formatBytes(from.nvmeUsedBytes),
      from.connected ? from.phase : 'gone',
      stagingText(from),
      formatBytes(from.stagedInBytes),
      formatBytes(from.fetchBytes),
      formatBytes(from.evictBytes),
      formatAge(unixMs - from.startedUnixMs),
    ]),
  };
}

/** Unlike a rate that was never measured, one of nothing is 0. */
function measuredRate(rate: number | undefined): string {
  if (rate === undefined) return '-';
  return rate > 0 ? formatRate(rate) : '0';
}

/** Growth a second of programs and feeders between two samples. */
export function rateTable({ snapshot, rates }: Picture): Table {
  const rows = [
    ...snapshot.attachments.map((from) => {
      const rate = rates?.processes.get(attachmentIdentity(from));
      return [
        `pid ${from.pid}`,
        measuredRate(rate?.fetchBytesPerSecond),
        measuredRate(rate?.evictBytesPerSecond),
        measuredRate(rate?.stageBytesPerSecond),
        rate ? `${rate.stallPercent.toFixed(1)}%` : '-',
        rate ? rate.launchesPerSecond.toFixed(0) : '-',
        rate ? rate.dispatchedPerSecond.toFixed(0) : '-',
        rate ? rate.crossingsPerSecond.toFixed(1) : '-',
      ];
    }),
    ...snapshot.links.map((link) => {
      const rate = rates?.links.get(linkIdentity(link));
      return [
        link.feederName || link.feederId,
        measuredRate(rate?.inBytesPerSecond),
        measuredRate(rate?.outBytesPerSecond),
        '-',
        '-',
        '-',
        rate ? rate.launchesPerSecond.toFixed(0) : '-',
        rate ? rate.crossingsPerSecond.toFixed(1) : '-',
      ];
    }),
  ];
  const titles = [
    'FETCH/IN',
    'EVICT/OUT',
    'STAGED',
    'STALL',
    'LAUNCHES',
    'ON FEEDERS',
    'CROSSINGS',
  ];
  return { columns: [shrinking('WHO'), ...titles.map(right)], rows };
}

/** `14:22:06 W kiln  heartbeat missed` */
export function eventLine(event: EventJson): string {
  const time = clockText(event.unixMs);
  const letter = event.severity === 'info' ? 'I' : event.severity === 'warning' ? 'W' : 'E';
  return `${time} ${letter} ${event.subject ? `${event.subject}  ` : ''}${event.text}`;
}

/** Local time of day, `14:22:06`. */
export function clockText(unixMs: number): string {
  const date = new Date(unixMs);
  return [date.getHours(), date.getMinutes(), date.getSeconds()]
    .map((part) => String(part).padStart(2, '0'))
    .join(':');
}

export interface Totals {
  readonly usedBytes: number;
  readonly capacityBytes: number;
  readonly feederBytes: number;
}

/** What the tiers hold together; a tier of a feeder that is away is not counted. */
export function totalsOf(snapshot: SnapshotJson): Totals {
  const away = new Set(
    snapshot.links
      .filter((link) => link.state !== 'ready' && link.state !== 'draining')
      .map((link) => link.feederId),
  );
  let usedBytes = 0;
  let capacityBytes = 0;
  let feederBytes = 0;
  for (const tier of snapshot.tiers) {
    if (tier.feederId !== null && away.has(tier.feederId)) continue;
    usedBytes += tier.usedBytes;
    capacityBytes += tier.capacityBytes;
    if (tier.feederId !== null) feederBytes += tier.capacityBytes;
  }
  return { usedBytes, capacityBytes, feederBytes };
}

/** The first line of `status`. */
export function statusHeadline(snapshot: SnapshotJson): string {
  const totals = totalsOf(snapshot);
  return (
    `${snapshot.hostName}: ${formatBytes(totals.capacityBytes)} in all, ${formatBytes(totals.usedBytes)} used; ` +
    `${formatBytes(totals.feederBytes)} of it from feeders (agent pid ${snapshot.agentPid}, ` +
    `up ${formatAge(snapshot.unixMs - snapshot.startedUnixMs)}, epoch ${snapshot.epoch})`
  );
}

function kernelsNote({ kind, compute }: DeviceJson): string {
  if (kind !== 'gpu') return '';
  return compute ? 'runs kernels of hosts' : 'memory only';
}

export function feedDeviceTable(status: FeedStatusJson): Table {
  return {
    columns: [
      left('LENT'),
      shrinking('NAME'),
      right('CAPACITY'),
      right('LEASED'),
      right('USED'),
      optional(right('LOCKED')),
      left('NOTE'),
    ],
    rows: status.devices.map((device) => [
      device.kind === 'gpu' ? `vram ${device.index}` : 'ram',
      device.name,
      formatBytes(device.capacityBytes),
      formatBytes(device.leasedBytes),
      formatBytes(device.usedBytes),
      device.kind === 'ram' ? formatBytes(device.lockedBytes) : '-',
      [device.simulated ? 'simulated' : '', kernelsNote(device)].filter(Boolean).join('; '),
    ]),
  };
}

export function feedLeaseTable(status: FeedStatusJson): Table {
  return {
    columns: [
      left('LEASE'),
      shrinking('HOST'),
      right('GRANTED'),
      right('USED'),
      optional(right('SERVED')),
      optional(right('TAKEN')),
      left('STATE'),
    ],
    rows: status.leases.map((lease) => [
      lease.leaseId,
      lease.hostName,
      formatBytes(lease.grantedBytes),
      formatBytes(lease.usedBytes),
      formatBytes(lease.readBytes),
      formatBytes(lease.writeBytes),
      lease.adopted ? 'held' : `host away, ends in ${Math.ceil(lease.ttlRemainingMs / 1000)} s`,
    ]),
  };
}

export function feedLaneTable(status: FeedStatusJson): Table {
  return {
    columns: [
      left('LANE OF'),
      shrinking('HOST'),
      left('PEER'),
      right('READ'),
      right('WRITE'),
      optional(right('CONNS')),
      optional(right('RTT')),
      left('CIPHER'),
      right('KEY AGE'),
      optional(left('KEY')),
    ],
    rows: status.lanes.map((lane) => [
      lane.leaseId ?? 'probe',
      lane.hostName,
      lane.peer ?? 'not opened yet',
      formatRate(lane.readBytesPerSecond),
      formatRate(lane.writeBytesPerSecond),
      String(lane.connections),
      formatMicros(lane.roundTripMicros ?? 0),
      lane.cipher ?? '-',
      lane.keyAgeMs === null ? '-' : formatAge(lane.keyAgeMs),
      lane.keyFingerprint,
    ]),
  };
}
