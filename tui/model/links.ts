// SPDX-License-Identifier: Apache-2.0
// A link to a feeder, its lanes, and a drain of it, as people's scripts and our own screens read them.
import { bytesFromWire } from '../../proto/base/units.js';
import {
  LinkState,
  type DrainStatus,
  type LaneTraffic,
  type Link,
} from '../../proto/gen/greenboost/v1/control_pb.js';
import { pauseJson, type PauseJson } from './pauses.js';
import { deviceJson, measured, type DeviceJson } from './devices.js';

export type LinkStateJson =
  'connecting' | 'handshaking' | 'ready' | 'draining' | 'stale' | 'lost' | 'closed' | 'unknown';

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
  /** Why the feeder lends nothing new, as it told; empty: it lends. */
  feederPauses: PauseJson[];
  drain: DrainJson | null;
  devices: DeviceJson[];
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
    feederPauses: link.feederPauses.map(pauseJson),
    drain: link.drain ? drainJson(link.drain) : null,
    devices: link.devices.map(deviceJson),
  };
}
