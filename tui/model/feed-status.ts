// SPDX-License-Identifier: Apache-2.0
// What a feeder daemon says of itself to its own user.
import { bytesFromWire } from '../../proto/base/units.js';
import type { FeedStatus } from '../../proto/gen/greenboost/v1/control_pb.js';
import { FeederState } from '../../proto/gen/greenboost/v1/feeder_pb.js';
import { deviceJson, type DeviceJson } from './devices.js';
import { feedLaneJson, type FeedLaneJson } from './feed-lanes.js';
import { pauseJson, type PauseJson } from './pauses.js';
import { SCHEMA_VERSION } from './snapshot.js';

const FEEDER_STATES: Readonly<Record<FeederState, string>> = {
  [FeederState.UNSPECIFIED]: 'unknown',
  [FeederState.LENDING]: 'lending',
  [FeederState.PAUSED]: 'paused',
  [FeederState.STOPPING]: 'stopping',
  [FeederState.DRAINING]: 'draining',
};

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
  /** Why nothing new is lent; empty: it lends, or stops. */
  pauses: PauseJson[];
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
    pauses: (stats?.pauses ?? []).map(pauseJson),
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
