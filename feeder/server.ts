// SPDX-License-Identifier: Apache-2.0
// The gRPC edge of a feeder: takes messages apart, asks the feeder, puts answers together. Nothing
// is decided here.
import { GbError } from '../proto/base/errors.js';
import { parseAttachmentId, parseId } from '../proto/base/ids.js';
import {
  HEARTBEAT_INTERVAL_MS,
  LEASES_PER_SESSION_MAX,
  PING_PAYLOAD_BYTES_MAX,
  PROTOCOL_MAJOR,
  PROTOCOL_MINOR,
  STATS_WATCHERS_PER_SESSION_MAX,
  WATCH_INTERVAL_MS_MIN,
} from '../proto/base/limits.js';
import { agree, type Terms } from '../proto/base/negotiation.js';
import { softwareVersion } from '../proto/base/version.js';
import type { FeederService } from '../proto/gen/greenboost/v1/feeder_pb.js';
import {
  ErrorCodeOrOk,
  FeatureBit,
  type HelloRequest,
  type LeaseRef,
} from '../proto/gen/greenboost/v1/feeder_pb.js';
import type { ServerCallInfo, ServiceHandlers } from '../proto/grpc.js';
import type { AuthenticatedSession } from '../security/listener.js';
import { keyFingerprint, type PairingKey } from '../security/pairing.js';
import type { FeederAudit } from './audit.js';
import type { BlockCache, BlockCacheFolder } from './block-cache.js';
import { cleanName } from './config.js';
import type { Feeder } from './feeder.js';
import { laneHandlers, type LaneCallsOptions } from './lane-calls.js';
import { authorized, limitsOf, rangeFrom, refFrom, refOf } from './messages.js';
import type { Pause } from './rules/pauses.js';
import type { Session } from './sessions.js';
import { describedDevices, deviceIdOf, lentDevices, type LentDeviceFacts } from './stats.js';
import { callSignal } from './streams.js';

export interface ServerOptions extends LaneCallsOptions {
  readonly feederId: string;
  readonly feederName: string;
  /** Random per start: leases of another incarnation are gone. */
  readonly incarnation: string;
  readonly authFailureCount: () => number;
  /** This machine's clock. */
  readonly unixMs: () => number;
  readonly audit: Pick<FeederAudit, 'helloRefused'>;
  /** Undefined: none is kept. */
  readonly cache: BlockCache | undefined;
  /** The pairing keys that are valid now. */
  readonly keys: () => readonly PairingKey[];
  /** Aborts when the feeder says goodbye: open streams end in order. */
  readonly goodbye: AbortSignal;
}

type Handlers = ServiceHandlers<typeof FeederService>;

/** What a feeder agrees to in Hello. */
const TERMS: Terms = {
  contract: 'protocol',
  peer: 'the host',
  self: 'this feeder',
  version: { major: PROTOCOL_MAJOR, minor: PROTOCOL_MINOR },
  features: 0n,
};
/** Bit 0 of the features: FEATURE_BIT_CONTENT_CACHE. */
const CONTENT_CACHE = 1n << BigInt(FeatureBit.CONTENT_CACHE - 1);
const WATCH_INTERVAL_MS_MAX = 60_000;

export function lentNow({ feeder }: Pick<ServerOptions, 'feeder'>): LentDeviceFacts[] {
  return lentDevices(feeder.pool, feeder.gpus, feeder.attachments.lockedBytes, feeder.lendsCompute);
}

/** The present state, as WatchStats and `feed status` show it. */
export function statsNow(options: Pick<ServerOptions, 'feeder' | 'sessions' | 'authFailureCount'>) {
  const { feeder, sessions, authFailureCount } = options;
  const { readBytes, writeBytes } = feeder.attachments.traffic;
  return {
    devices: lentNow(options),
    state: feeder.state,
    leaseCount: feeder.leaseCount,
    sessionCount: sessions.size,
    readBytes: BigInt(readBytes),
    writeBytes: BigInt(writeBytes),
    authFailureCount: BigInt(authFailureCount()),
    // Hosts are told that, not what, somebody does on this machine.
    pauses: feeder.pauses.map((pause) => ({ ...pauseMessage(pause), text: '' })),
  };
}

export function pauseMessage({ cause, drain, sinceUnixMs, untilUnixMs, text }: Pause) {
  const until = untilUnixMs === undefined ? 0n : BigInt(Math.floor(untilUnixMs));
  return { cause, drain, sinceUnixMs: BigInt(Math.floor(sinceUnixMs)), untilUnixMs: until, text };
}

/** The handlers of FeederService. */
export function feederHandlers(options: ServerOptions): Handlers {
  return {
    ...sessionHandlers(options),
    ...leaseHandlers(options),
    ...memoryHandlers(options),
    ...laneHandlers(options),
  };
}

type SessionCalls = 'hello' | 'ping' | 'watchStats';

function sessionHandlers(options: ServerOptions): Pick<Handlers, SessionCalls> {
  const { feeder, sessions } = options;
  return {
    async hello(request, { peer }) {
      const auth = sessions.authenticated(peer);
      const { features, sessionId } = greet(options, auth, request);
      return {
        version: TERMS.version,
        features,
        feederId: options.feederId,
        feederName: options.feederName,
        software: softwareVersion(),
        sessionId,
        incarnation: options.incarnation,
        devices: describedDevices(lentNow(options), feeder.gpus),
        leaseTtlMs: feeder.leaseTtlMs,
        lanePort: options.lanes.port,
        unixMs: BigInt(Math.floor(options.unixMs())),
      };
    },
    async ping({ payload }, { peer }) {
      sessions.get(peer);
      if (payload.length > PING_PAYLOAD_BYTES_MAX) {
        throw new GbError(
          'INVALID_ARGUMENT',
          `a ping carries at most ${PING_PAYLOAD_BYTES_MAX} bytes`,
        );
      }
      return { payload };
    },
    async watchStats(call) {
      const release = sessions
        .get(call.getPeer())
        .count('watchers', STATS_WATCHERS_PER_SESSION_MAX);
      const asked = call.request.intervalMs || HEARTBEAT_INTERVAL_MS;
      const intervalMs = Math.min(WATCH_INTERVAL_MS_MAX, Math.max(WATCH_INTERVAL_MS_MIN, asked));
      const watcher = {
        send: () => call.write(statsNow(options)),
        resume: (callback: () => void) => call.once('drain', callback),
      };
      const end = feeder.hub.watch(watcher, intervalMs);
      await aborted(AbortSignal.any([callSignal(call), options.goodbye]));
      end();
      release();
    },
  };
}

type LeaseCalls = 'acquireLease' | 'resizeLease' | 'renewLeases' | 'releaseLease' | 'statLease';

function leaseHandlers(options: ServerOptions): Pick<Handlers, LeaseCalls> {
  const { feeder, sessions } = options;
  return {
    async acquireLease(request, { peer, signal }) {
      const session = sessions.get(peer);
      const { arenaBase, arenaBytes } = request;
      const attachmentId = parseAttachmentId(request.attachmentId);
      const wanted = { hostName: session.hostName, attachmentId, arenaBase, arenaBytes };
      const limits = limitsOf(request.devices);
      const cache = cacheOf(options, session);
      const lease = await feeder.acquire(session, wanted, limits, signal, cache);
      return { lease: refOf(lease), ttlMs: feeder.leaseTtlMs };
    },
    async resizeLease(request, { peer }) {
      const { leaseId, fencingToken } = refFrom(request.lease);
      await feeder.resize(sessions.get(peer), leaseId, fencingToken, limitsOf(request.devices));
      return {};
    },
    async renewLeases(request, { peer }) {
      const session = sessions.get(peer);
      if (request.leases.length > LEASES_PER_SESSION_MAX) {
        throw new GbError(
          'INVALID_ARGUMENT',
          `at most ${LEASES_PER_SESSION_MAX} leases are renewed at once`,
        );
      }
      return { leases: request.leases.map((ref) => renewOne(feeder, session, ref)) };
    },
    async releaseLease(request, { peer }) {
      const { leaseId, fencingToken } = refFrom(request.lease);
      return {
        freedBytes: BigInt(await feeder.release(sessions.get(peer), leaseId, fencingToken)),
      };
    },
    async statLease(request, { peer }) {
      const lease = authorized(feeder, sessions.get(peer), request.lease);
      const attachment = feeder.attachments.get(lease.id);
      await feeder.attachments.count(attachment);
      const { readBytes, writeBytes } = attachment;
      const facts = feeder.leaseFacts().find((candidate) => candidate.lease.id === lease.id);
      return {
        limits: [...(facts?.limits ?? [])].map(([key, bytes]) => ({
          device: deviceIdOf(key),
          bytes: BigInt(bytes),
        })),
        ranges: feeder.attachments
          .rangesOf(lease.id)
          .filter((range) => range.ready)
          .map(({ device, offset, length }) => ({
            device: deviceIdOf(device),
            offset: BigInt(offset),
            length: BigInt(length),
          })),
        readBytes: BigInt(readBytes),
        writeBytes: BigInt(writeBytes),
        ttlRemainingMs: BigInt(facts?.ttlRemainingMs ?? 0),
      };
    },
  };
}

function memoryHandlers({ feeder, sessions }: ServerOptions): Pick<Handlers, 'allocate' | 'free'> {
  const { attachments } = feeder;
  return {
    async allocate(request, { peer, signal }: ServerCallInfo) {
      const lease = authorized(feeder, sessions.get(peer), request.lease);
      return {
        lockedBytes: BigInt(await feeder.allocate(lease, rangeFrom(request.range), signal)),
      };
    },
    async free(request, { peer }) {
      const lease = authorized(feeder, sessions.get(peer), request.lease);
      const { device, offset, length } = rangeFrom(request.range);
      attachments.free(lease, device, offset, length);
      return {};
    },
  };
}

function greet(
  { sessions, audit, cache }: ServerOptions,
  auth: AuthenticatedSession,
  request: HelloRequest,
): { features: bigint; sessionId: string } {
  const { version, featuresOffered: offered, featuresRequired: required } = request;
  try {
    const terms = { ...TERMS, features: cache ? CONTENT_CACHE : 0n };
    const features = agree({ version, offered, required }, terms);
    const hostId = parseId('host', request.hostId);
    sessions.hello(auth.peer, { hostId, hostName: cleanName(request.hostName) }, features);
    return { features, sessionId: auth.sessionId };
  } catch (reason) {
    audit.helloRefused(auth, reason);
    throw reason;
  }
}

/** Where blocks of this session's key are kept, if both sides want that. */
function cacheOf(
  { cache, keys }: ServerOptions,
  { features, auth }: Session,
): BlockCacheFolder | undefined {
  if (!cache || (features & CONTENT_CACHE) === 0n) return undefined;
  const key = keys().find((candidate) => keyFingerprint(candidate) === auth.keyFingerprint);
  return key && cache.folderOf(key);
}

function renewOne(feeder: Feeder, session: Session, ref: LeaseRef) {
  const outcome = feeder.renew(session, ref.leaseId, ref.fencingToken);
  if (outcome.t === 'ok') {
    return { lease: refOf(outcome.lease), status: ErrorCodeOrOk.OK, ttlMs: feeder.leaseTtlMs };
  }
  const status = outcome.t === 'fenced' ? ErrorCodeOrOk.FENCED : ErrorCodeOrOk.LEASE_EXPIRED;
  return { lease: { leaseId: ref.leaseId, fencingToken: ref.fencingToken }, status, ttlMs: 0 };
}

function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) =>
    signal.addEventListener('abort', () => resolve(), { once: true }),
  );
}
