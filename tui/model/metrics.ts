// SPDX-License-Identifier: Apache-2.0
// Every Prometheus metric: its name, what it means, and where in the snapshots it comes from. docs/metrics.md
// lists them, and a test compares. Units are in the names: bytes, seconds, ratio; counters end in _total.
import type { LaunchOwnerJson } from './dispatch.js';
import type { AttachmentJson } from './attachments.js';
import type { FeedStatusJson } from './feed-status.js';
import type { LinkJson } from './links.js';
import type { SnapshotJson, TierJson } from './snapshot.js';

export type Labels = Readonly<Record<string, string>>;
export type Sample = readonly [labels: Labels, value: number];

export interface Metric<From> {
  readonly name: string;
  readonly kind: 'gauge' | 'counter';
  readonly help: string;
  readonly labels: readonly string[];
  /** Values that are not known are left out. */
  samples(from: From): Sample[];
}

const MICROS = 1e-6;
const MILLIS = 1e-3;

/** One sample for each item; `value` null: not known. */
function each<From, Item>(
  items: (from: From) => readonly Item[],
  labels: (item: Item) => Labels,
  value: (item: Item) => number | null,
): (from: From) => Sample[] {
  return (from) =>
    items(from).flatMap((item) => {
      const known = value(item);
      return known === null ? [] : [[labels(item), known] as const];
    });
}

function family<From, Item>(
  prefix: string,
  items: (from: From) => readonly Item[],
  labelNames: readonly string[],
  labels: (item: Item) => Labels,
) {
  return (
    name: string,
    kind: 'gauge' | 'counter',
    help: string,
    value: (item: Item) => number | null,
  ): Metric<From> => ({
    name: `greenboost_${prefix}${name}`,
    kind,
    help,
    labels: labelNames,
    samples: each(items, labels, value),
  });
}

const host = family<SnapshotJson, SnapshotJson>(
  '',
  (snapshot) => [snapshot],
  [],
  () => ({}),
);

const tier = family<SnapshotJson, TierJson & { readonly feeder: string }>(
  'tier_',
  ({ tiers, links }) =>
    tiers.map((one) => ({
      ...one,
      feeder: links.find(({ feederId }) => feederId === one.feederId)?.feederName ?? '',
    })),
  ['kind', 'name', 'feeder', 'simulated'],
  ({ kind, name, feeder, simulated }) => ({ kind, name, feeder, simulated: String(simulated) }),
);

const link = family<SnapshotJson, LinkJson>(
  'feeder_',
  ({ links }) => links,
  ['feeder', 'address'],
  ({ feederName, address }) => ({ feeder: feederName, address }),
);

const program = family<SnapshotJson, AttachmentJson>(
  'program_',
  ({ attachments }) => attachments,
  ['pid', 'command'],
  ({ pid, command }) => ({ pid: String(pid), command }),
);

function owners({ dispatch }: AttachmentJson, value: (owner: LaunchOwnerJson) => number): number {
  return dispatch.owners.reduce((sum, owner) => sum + value(owner), 0);
}

const works = ({ state }: LinkJson): number => (state === 'ready' || state === 'draining' ? 1 : 0);

/** Of the host agent. */
export const AGENT_METRICS: readonly Metric<SnapshotJson>[] = [
  host(
    'start_time_seconds',
    'gauge',
    'When the agent started, Unix time',
    (s) => s.startedUnixMs * MILLIS,
  ),
  host(
    'memory_available_bytes',
    'gauge',
    'MemAvailable of this machine',
    (s) => s.memoryAvailableBytes,
  ),
  host('memory_reserve_bytes', 'gauge', 'RAM that is never granted', (s) => s.memoryReserveBytes),
  host(
    'memory_pressure_ratio',
    'gauge',
    'Share of time some task waited for memory, 10 s (PSI)',
    (s) => (s.memoryPressurePercent === null ? null : s.memoryPressurePercent / 100),
  ),
  tier('capacity_bytes', 'gauge', 'What the tier has', (t) => t.capacityBytes),
  tier('granted_bytes', 'gauge', 'What programs were promised of it', (t) => t.grantedBytes),
  tier('used_bytes', 'gauge', 'What programs use of it', (t) => t.usedBytes),
  tier('read_bytes_per_second', 'gauge', 'Measured read bandwidth', (t) => t.readBytesPerSecond),
  tier('write_bytes_per_second', 'gauge', 'Measured write bandwidth', (t) => t.writeBytesPerSecond),
  tier('latency_seconds', 'gauge', 'Measured latency', (t) =>
    t.latencyMicros === null ? null : t.latencyMicros * MICROS,
  ),
  link('up', 'gauge', '1: the feeder is ready or draining', works),
  link('paused', 'gauge', '1: nothing new is placed there', (l) => Number(l.paused)),
  link('round_trip_seconds', 'gauge', 'Round trip of a call', (l) =>
    l.rttMicros === null ? null : l.rttMicros * MICROS,
  ),
  link('lanes', 'gauge', 'Open lanes of programs', (l) => l.laneCount),
  link('leases', 'gauge', 'Leases of programs', (l) => l.leaseCount),
  link('sent_bytes_total', 'counter', 'Bytes of programs to the feeder', (l) => l.sentBytes),
  link(
    'received_bytes_total',
    'counter',
    'Bytes of programs from the feeder',
    (l) => l.receivedBytes,
  ),
  link(
    'cached_bytes_total',
    'counter',
    'Not sent because the feeder had them',
    (l) => l.laneTraffic.cachedBytes,
  ),
  link('errors_total', 'counter', 'Failed calls and broken lanes', (l) => l.errorCount),
  program(
    'allocated_bytes',
    'gauge',
    'Live allocations as the program made them',
    (p) => p.allocatedBytes,
  ),
  program('vram_bytes', 'gauge', 'In local VRAM', (p) => p.vramUsedBytes),
  program('ram_bytes', 'gauge', 'In local RAM', (p) => p.ramUsedBytes),
  program('feeder_vram_bytes', 'gauge', 'In VRAM of feeders', (p) => p.feederVramUsedBytes),
  program('feeder_ram_bytes', 'gauge', 'In RAM of feeders', (p) => p.feederRamUsedBytes),
  program('nvme_bytes', 'gauge', 'In the NVMe file', (p) => p.nvmeUsedBytes),
  program('launches_total', 'counter', 'Kernel launches', (p) => p.launchCount),
  program(
    'dispatched_launches_total',
    'counter',
    'Of them, made on feeders',
    (p) => p.dispatch.dispatchedCount,
  ),
  program(
    'undispatched_launches_total',
    'counter',
    "That name a feeder's range and ran here",
    (p) => Object.values(p.dispatch.undispatched).reduce((sum, count) => sum + count, 0),
  ),
  program('crossings_total', 'counter', 'Times changed blocks went to a feeder or came back', (p) =>
    owners(p, ({ crossingCount }) => crossingCount),
  ),
  program('crossing_sent_bytes_total', 'counter', 'Changed blocks that went to feeders', (p) =>
    owners(p, ({ crossingSentBytes }) => crossingSentBytes),
  ),
  program('crossing_received_bytes_total', 'counter', 'Changed blocks that came back', (p) =>
    owners(p, ({ crossingReceivedBytes }) => crossingReceivedBytes),
  ),
  program('replica_bytes', 'gauge', 'Room on feeders for copies of what lies here', (p) =>
    owners(p, ({ replicaBytes }) => replicaBytes),
  ),
  program('copies_total', 'counter', 'Copies and fills', (p) => p.copyCount),
  program('fetched_bytes_total', 'counter', 'Brought back from feeders', (p) => p.fetchBytes),
  program('evicted_bytes_total', 'counter', 'Moved out to feeders', (p) => p.evictBytes),
  program('staged_in_bytes_total', 'counter', 'RAM to VRAM by staging', (p) => p.stagedInBytes),
  program('staged_out_bytes_total', 'counter', 'VRAM to RAM by staging', (p) => p.stageOutBytes),
  program('nvme_read_bytes_total', 'counter', 'Read from the NVMe file', (p) => p.nvmeReadBytes),
  program(
    'nvme_written_bytes_total',
    'counter',
    'Written to the NVMe file',
    (p) => p.nvmeWriteBytes,
  ),
  program(
    'stall_seconds_total',
    'counter',
    'Calls of the program waited behind the gate',
    (p) => p.stallMicros * MICROS,
  ),
  program(
    'refused_launches_total',
    'counter',
    'Launches that got CUDA_ERROR_OUT_OF_MEMORY',
    (p) => p.refusedLaunchCount,
  ),
  program(
    'sticky_error',
    'gauge',
    'CUresult the program gets for good, or 0',
    (p) => p.stickyCudaError,
  ),
];

type Device = FeedStatusJson['devices'][number];

const feed = family<FeedStatusJson, FeedStatusJson>(
  'feed_',
  (status) => [status],
  [],
  () => ({}),
);
const device = family<FeedStatusJson, Device>(
  'feed_device_',
  ({ devices }) => devices,
  ['kind', 'index', 'name', 'simulated'],
  ({ kind, index, name, simulated }) => ({
    kind,
    index: String(index),
    name,
    simulated: String(simulated),
  }),
);

/** Of the feeder on this machine. */
export const FEED_METRICS: readonly Metric<FeedStatusJson>[] = [
  feed(
    'start_time_seconds',
    'gauge',
    'When the feeder started, Unix time',
    (f) => f.startedUnixMs * MILLIS,
  ),
  feed('lending', 'gauge', '1: it takes new leases', (f) => Number(f.state === 'lending')),
  feed('sessions', 'gauge', 'Hosts that are connected', (f) => f.sessionCount),
  feed('leases', 'gauge', 'Leases of their programs', (f) => f.leaseCount),
  feed('lanes', 'gauge', 'Open lanes', (f) => f.lanes.length),
  feed('read_bytes_total', 'counter', 'Sent to hosts', (f) => f.readBytes),
  feed('written_bytes_total', 'counter', 'Taken from hosts', (f) => f.writeBytes),
  feed(
    'refused_handshakes_total',
    'counter',
    'Peers that proved no key',
    (f) => f.authFailureCount,
  ),
  device('capacity_bytes', 'gauge', 'What is lent of the device', (d) => d.capacityBytes),
  device('leased_bytes', 'gauge', 'What hosts were promised', (d) => d.leasedBytes),
  device('used_bytes', 'gauge', 'What they use', (d) => d.usedBytes),
];
