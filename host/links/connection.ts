// SPDX-License-Identifier: Apache-2.0
// One authenticated connection to a feeder, from TCP to its end: TLS with the pairing key, Hello,
// heartbeat stream. Knows nothing of leases or of earlier connections; links/link.ts decides what
// an end means.
import { setMaxListeners } from 'node:events';
import type * as grpc from '@grpc/grpc-js';
import type { Clock } from '../../proto/base/clock.js';
import { GbError } from '../../proto/base/errors.js';
import {
  CONNECT_TIMEOUT_MS,
  HEARTBEAT_INTERVAL_MS,
  MESSAGE_BYTES_MAX,
  PROTOCOL_MAJOR,
  PROTOCOL_MINOR,
  RETIRE_MS,
} from '../../proto/base/limits.js';
import { softwareVersion } from '../../proto/base/version.js';
import {
  FeatureBit,
  FeederService,
  type HelloResponse,
  type WatchStatsResponse,
} from '../../proto/gen/greenboost/v1/feeder_pb.js';
import { createClient } from '../../proto/grpc.js';
import { createPskChannelCredentials, type SecureInfo } from '../../security/channel.js';
import type { PairingKey } from '../../security/pairing.js';
import {
  FeederClient,
  fromStream,
  type FeederCalls,
  type RawFeederClient,
  type SessionFacts,
  type Traffic,
} from './feeder-client.js';
import { measureLink, type LinkMeasurement } from './measure.js';

export interface FeederConnection {
  readonly hello: HelloResponse;
  /** The feeder's clock less ours, to within half a round trip; undefined: it does not tell. */
  readonly clockSkewMs: number | undefined;
  readonly cipher: string;
  readonly client: FeederCalls;
  /** Bytes of calls so far. */
  traffic(): Traffic;
  /** Ended when the connection is given up or broke. */
  readonly signal: AbortSignal;
  measure(): Promise<LinkMeasurement>;
  /** Another connection takes its place: calls under way may end, within RETIRE_MS, then it closes. Idempotent. */
  retire(): void;
  /** Idempotent; calls under way end with CANCELED. */
  close(): void;
}

export interface OpenRequest {
  readonly address: string;
  readonly key: PairingKey;
  readonly signal: AbortSignal;
  /** TLS stands, Hello comes next. */
  readonly onSecured: () => void;
  readonly onStats: (stats: WatchStatsResponse) => void;
  /** Once, unless close was called before. */
  readonly onEnd: (reason: GbError) => void;
}

/** Opens a connection. @throws GbError UNAUTHENTICATED: another key is needed, do not try again;
 *  PROTOCOL_VIOLATION: a feeder of another version; FEEDER_UNREACHABLE or DEADLINE_EXCEEDED: try
 *  again later. */
export type Connector = (request: OpenRequest) => Promise<FeederConnection>;

export interface HostIdentity {
  readonly hostId: string;
  readonly hostName: string;
}

export function createConnector(host: HostIdentity, clock: Clock): Connector {
  return (request) => openConnection(host, clock, request);
}

async function openConnection(
  host: HostIdentity,
  clock: Clock,
  request: OpenRequest,
): Promise<FeederConnection> {
  const controller = new AbortController();
  const signal = AbortSignal.any([controller.signal, request.signal]);
  // Every call under way listens to it.
  setMaxListeners(0, signal);
  let secured: SecureInfo | undefined;
  const credentials = createPskChannelCredentials({
    key: request.key,
    clock,
    onSecure: (info) => {
      secured = info;
      request.onSecured();
    },
  });
  const raw = createClient(
    FeederService,
    request.address,
    credentials,
    CHANNEL_OPTIONS,
    'FEEDER_UNREACHABLE',
  );
  const close = (): void => {
    controller.abort(new GbError('CANCELED', 'the connection was given up'));
    raw.close();
  };
  try {
    const askedUnixMs = clock.unixMs();
    const hello = await raw
      .hello(helloRequest(host), { timeoutMs: CONNECT_TIMEOUT_MS, signal })
      .catch((reason: unknown) => {
        throw credentials.refusal ?? reason;
      });
    const answeredUnixMs = clock.unixMs();
    checkHello(hello, request.key);
    if (!secured) throw new GbError('PROTOCOL_VIOLATION', 'the session has no keys');
    const session: SessionFacts = { ...secured, features: hello.features };
    watch(raw, signal, request, close);
    const underWay = new CallCounter();
    const client = underWay.counting(new FeederClient(raw, signal, session));
    return {
      hello,
      clockSkewMs: skewOf(hello, (askedUnixMs + answeredUnixMs) / 2),
      cipher: secured.cipher,
      client,
      traffic: secured.traffic,
      signal,
      retire() {
        underWay.whenIdle(close);
        clock.after(RETIRE_MS, close);
      },
      measure: () => measureLink(client, { clock, signal }),
      close,
    };
  } catch (reason) {
    close();
    throw inPlainWords(GbError.from(reason, 'FEEDER_UNREACHABLE'));
  }
}

function skewOf({ unixMs }: HelloResponse, ownUnixMs: number): number | undefined {
  return unixMs === 0n ? undefined : Math.round(Number(unixMs) - ownUnixMs);
}

/** Counts the calls of a client, to know when the last one has ended. */
class CallCounter {
  private count = 0;
  private onIdle: (() => void) | undefined;

  /** `client`, with its calls counted. */
  counting(client: FeederCalls): FeederCalls {
    return new Proxy(client, {
      get: (target, name) => {
        const member: unknown = Reflect.get(target, name, target);
        if (typeof member !== 'function') return member;
        return (...args: readonly unknown[]): unknown =>
          this.counted(Reflect.apply(member, target, args));
      },
    });
  }

  /** Calls back once when none is under way; at once if so. */
  whenIdle(callback: () => void): void {
    this.onIdle = callback;
    this.left(0);
  }

  private counted(result: unknown): unknown {
    if (!(result instanceof Promise)) return result;
    this.count += 1;
    return result.finally(() => this.left(1));
  }

  private left(calls: number): void {
    this.count -= calls;
    if (this.count > 0 || !this.onIdle) return;
    this.onIdle();
    this.onIdle = undefined;
  }
}

const CHANNEL_OPTIONS: grpc.ClientOptions = {
  'grpc.max_receive_message_length': MESSAGE_BYTES_MAX,
  // A LAN link uses no proxy, and a new connection is a new channel.
  'grpc.enable_http_proxy': 0,
  'grpc.use_local_subchannel_pool': 1,
  'grpc.initial_reconnect_backoff_ms': CONNECT_TIMEOUT_MS,
};

function helloRequest(host: HostIdentity): Parameters<RawFeederClient['hello']>[0] {
  return {
    version: { major: PROTOCOL_MAJOR, minor: PROTOCOL_MINOR },
    featuresOffered: FEATURES,
    featuresRequired: 0n,
    hostId: host.hostId,
    hostName: host.hostName,
    software: softwareVersion(),
  };
}

/** Optional features of the protocol that this host knows. */
const FEATURES = BigInt(FeatureBit.CONTENT_CACHE);

const INCARNATION_CHARACTERS_MAX = 100;

const REFUSED = /ECONNREFUSED/;

/** Node's error codes, for people. */
const WORDS: readonly (readonly [RegExp, string])[] = [
  [REFUSED, 'nothing listens at that address'],
  [/EHOSTUNREACH|ENETUNREACH/, 'there is no route to that address'],
  [/ENOTFOUND|EAI_AGAIN|Name resolution failed/, 'that name is unknown'],
  [/ETIMEDOUT|DEADLINE|Deadline exceeded/, 'no answer in time'],
  [/ECONNRESET|EPIPE|Connection dropped/, 'the connection broke'],
];

/** grpc-js tells how a connection failed as text around Node's error; the text stays in the cause. details: refused,
 *  when the other end's system said that nothing listens. */
function inPlainWords(error: GbError): GbError {
  if (error.code !== 'FEEDER_UNREACHABLE' && error.code !== 'DEADLINE_EXCEEDED') return error;
  const words = WORDS.find(([pattern]) => pattern.test(error.rawMessage))?.[1];
  if (!words) return error;
  const refused = REFUSED.test(error.rawMessage);
  return new GbError(error.code, words, { cause: error, ...(refused && { details: { refused } }) });
}

function checkHello(hello: HelloResponse, key: PairingKey): void {
  if (hello.version?.major !== PROTOCOL_MAJOR) {
    const theirs = `${hello.version?.major ?? '?'}.${hello.version?.minor ?? '?'}`;
    const ours = `${PROTOCOL_MAJOR}.${PROTOCOL_MINOR}`;
    throw new GbError(
      'PROTOCOL_VIOLATION',
      `the feeder speaks protocol ${theirs}, this host ${ours}; update the older one`,
    );
  }
  if (!/^F-[0-9a-f]{16}$/.test(hello.feederId))
    throw new GbError('PROTOCOL_VIOLATION', 'the feeder has no id');
  if (hello.incarnation === '' || hello.incarnation.length > INCARNATION_CHARACTERS_MAX) {
    throw new GbError('PROTOCOL_VIOLATION', 'the feeder does not say which start of it this is');
  }
  if (!key.shared && hello.feederId !== key.feederId) {
    throw new GbError(
      'UNAUTHENTICATED',
      `the feeder is ${hello.feederId}, the key is that of ${key.feederId}`,
    );
  }
}

function watch(
  raw: RawFeederClient,
  signal: AbortSignal,
  request: OpenRequest,
  close: () => void,
): void {
  const stream = raw.watchStats({ intervalMs: HEARTBEAT_INTERVAL_MS }, { signal });
  let ended = false;
  const end = (reason: GbError): void => {
    if (ended || signal.aborted) return;
    ended = true;
    close();
    request.onEnd(inPlainWords(reason));
  };
  stream.on('data', (stats: WatchStatsResponse) => request.onStats(stats));
  stream.on('error', (reason: unknown) => end(fromStream(reason)));
  stream.on('end', () => end(new GbError('FEEDER_UNREACHABLE', 'the feeder ended the connection')));
}
