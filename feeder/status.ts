// SPDX-License-Identifier: Apache-2.0
// What the owner of a feeder sees and says (FeedService): its state, who holds what, which lanes
// there are; pause, resume, stop.
import { softwareVersion } from '../proto/base/version.js';
import type { FeedService } from '../proto/gen/greenboost/v1/control_pb.js';
import type { ServiceHandlers } from '../proto/grpc.js';
import type { LeaseFacts } from './feeder.js';
import type { LaneFacts } from './lanes.js';
import { pauseMessage, statsNow, type ServerOptions } from './server.js';

export interface StatusOptions extends ServerOptions {
  readonly startedUnixMs: number;
  /** Asked at each call. */
  readonly facts: () => {
    readonly addresses: readonly string[];
    readonly keyFingerprint: string;
    readonly lockNote: string;
  };
  readonly stop: (graceMs: number) => void;
}

export function feedHandlers(options: StatusOptions): ServiceHandlers<typeof FeedService> {
  const { feeder, lanes, cache } = options;
  return {
    async getFeedStatus() {
      await Promise.all([feeder.attachments.countAll(), lanes.sample()]);
      const { addresses, keyFingerprint, lockNote } = options.facts();
      return {
        software: softwareVersion(),
        pid: process.pid,
        startedUnixMs: BigInt(options.startedUnixMs),
        feederId: options.feederId,
        feederName: options.feederName,
        addresses: [...addresses],
        keyFingerprint,
        stats: { ...statsNow(options), pauses: feeder.pauses.map(pauseMessage) },
        leases: feeder.leaseFacts().map(leaseMessage),
        lockNote,
        lanePort: lanes.port,
        lanes: lanes.facts().map(laneMessage),
        cacheDir: cache?.path ?? '',
        cacheBudgetBytes: BigInt(cache?.budgetBytes ?? 0),
      };
    },
    async pauseFeed({ drain }) {
      feeder.pause(drain);
      return {};
    },
    async resumeFeed() {
      feeder.resume();
      return {};
    },
    async stopFeed({ graceMs }) {
      options.stop(graceMs);
      return {};
    },
  };
}

function leaseMessage(facts: LeaseFacts) {
  const { lease, limits, usedBytes, ttlRemainingMs, adopted, readBytes, writeBytes } = facts;
  return {
    leaseId: lease.id,
    hostName: lease.hostName,
    attachmentId: lease.attachmentId,
    grantedBytes: BigInt([...limits.values()].reduce((sum, bytes) => sum + bytes, 0)),
    usedBytes: BigInt(usedBytes),
    ttlRemainingMs: BigInt(ttlRemainingMs),
    adopted,
    readBytes: BigInt(readBytes),
    writeBytes: BigInt(writeBytes),
  };
}

function laneMessage({ stat, ...facts }: LaneFacts) {
  return {
    ticketId: facts.ticketId,
    leaseId: facts.leaseId ?? '',
    hostName: facts.hostName,
    peer: facts.peer,
    keyFingerprint: facts.keyFingerprint,
    readBytesPerSecond: facts.readRate,
    writeBytesPerSecond: facts.writeRate,
    cipher: stat?.cipher ?? '',
    provider: stat?.provider ?? '',
    keyAgeMs: BigInt(stat?.keyAgeMs ?? 0),
    connections: stat?.connections ?? 0,
    readBytes: BigInt(stat?.bytesWritten ?? 0), // The executor counts from its side.
    writeBytes: BigInt(stat?.bytesRead ?? 0),
    cachedBytes: BigInt(stat?.cachedBytes ?? 0),
    roundTripMicros: (stat?.roundTripNanos ?? 0) / 1000,
  };
}
