// SPDX-License-Identifier: Apache-2.0
// The lanes of a feeder as its own user is shown them.
import { bytesFromWire } from '../../proto/base/units.js';
import type { FeedLane } from '../../proto/gen/greenboost/v1/control_pb.js';

export interface FeedLaneJson {
  ticketId: string;
  /** Null: a probe of the link. */
  leaseId: string | null;
  hostName: string;
  /** Null: not opened yet. */
  peer: string | null;
  cipher: string | null;
  provider: string | null;
  keyAgeMs: number | null;
  keyFingerprint: string;
  connections: number;
  readBytes: number;
  writeBytes: number;
  readBytesPerSecond: number;
  writeBytesPerSecond: number;
  cachedBytes: number;
  roundTripMicros: number | null;
}

export function feedLaneJson(lane: FeedLane): FeedLaneJson {
  return {
    ticketId: lane.ticketId,
    leaseId: lane.leaseId || null,
    hostName: lane.hostName,
    peer: lane.peer || null,
    cipher: lane.cipher || null,
    provider: lane.provider || null,
    keyAgeMs: lane.peer ? bytesFromWire(lane.keyAgeMs) : null,
    keyFingerprint: lane.keyFingerprint,
    connections: lane.connections,
    readBytes: bytesFromWire(lane.readBytes),
    writeBytes: bytesFromWire(lane.writeBytes),
    readBytesPerSecond: lane.readBytesPerSecond,
    writeBytesPerSecond: lane.writeBytesPerSecond,
    cachedBytes: bytesFromWire(lane.cachedBytes),
    roundTripMicros: lane.roundTripMicros > 0 ? lane.roundTripMicros : null,
  };
}
