// SPDX-License-Identifier: Apache-2.0
// A feeder's front door and a host's channel on loopback, and foreign clients to knock with.
import { spawn } from 'node:child_process';
import { connect, type Socket } from 'node:net';
import { PassThrough } from 'node:stream';
import * as grpc from '@grpc/grpc-js';
import { pino } from 'pino';
import { systemClock } from '../../../proto/base/clock.js';
import { createId } from '../../../proto/base/ids.js';
import { REDACTED_KEYS } from '../../../proto/base/log.js';
import {
  createPskChannelCredentials,
  type PskChannelCredentials,
} from '../../../security/channel.js';
import type { PskChannelOptions } from '../../../security/channel.js';
import { deriveTlsPsk } from '../../../security/derive.js';
import {
  listenPsk,
  type AuthenticatedSession,
  type AuthFailure,
} from '../../../security/listener.js';
import type { ListenPskOptions, PskListener } from '../../../security/listener.js';
import { createPairingKey, type PairingKey } from '../../../security/pairing.js';
import { PATIENCE_MS } from '../../patience.js';

const bytes = { serialize: (value: Buffer) => value, deserialize: (value: Buffer) => value };

/** One unary method: answers `peer|request`. */
const echo = {
  echo: {
    path: '/test.Echo/Echo',
    requestStream: false,
    responseStream: false,
    requestSerialize: bytes.serialize,
    requestDeserialize: bytes.deserialize,
    responseSerialize: bytes.serialize,
    responseDeserialize: bytes.deserialize,
  },
} as const;

export interface FrontDoor {
  readonly key: PairingKey;
  readonly keys: PairingKey[];
  readonly listener: PskListener;
  readonly host: string;
  readonly port: number;
  readonly failures: AuthFailure[];
  readonly opened: AuthenticatedSession[];
  readonly ended: AuthenticatedSession[];
  /** Everything the log holds so far. */
  logText(): string;
  logLines(): Record<string, unknown>[];
  stop(): Promise<void>;
}

/** Starts a listener with one key on `host` (default 127.0.0.1), port chosen by the system. */
export async function openFrontDoor(
  options: Partial<ListenPskOptions> & { host?: string } = {},
): Promise<FrontDoor> {
  const { host = '127.0.0.1', ...rest } = options;
  const key = createPairingKey(createId('feeder'));
  const keys = [key];
  const failures: AuthFailure[] = [];
  const opened: AuthenticatedSession[] = [];
  const ended: AuthenticatedSession[] = [];
  let text = '';
  const stream = new PassThrough();
  stream.on('data', (chunk: Buffer) => (text += chunk.toString()));
  const paths = REDACTED_KEYS.flatMap((name) => [name, `*.${name}`, `*.*.${name}`]);
  const log = pino({ level: 'trace', redact: { paths, censor: '[redacted]' } }, stream);
  const server = new grpc.Server();
  server.addService(echo as unknown as grpc.ServiceDefinition, {
    echo: (call: grpc.ServerUnaryCall<Buffer, Buffer>, done: grpc.sendUnaryData<Buffer>) =>
      done(null, Buffer.from(`${call.getPeer()}|${call.request.toString()}`)),
  });
  const listener = await listenPsk({
    server,
    keys: () => keys,
    binds: [{ host, port: 0 }],
    log,
    clock: systemClock,
    onSession: (session) => opened.push(session),
    onSessionEnd: (session) => ended.push(session),
    onFailure: (failure) => failures.push(failure),
    ...rest,
  });
  const port = listener.addresses[0]?.port as number;
  return {
    key,
    keys,
    listener,
    host,
    port,
    failures,
    opened,
    ended,
    logText: () => text,
    logLines: () =>
      text
        .split('\n')
        .filter(Boolean)
        .map((line) => JSON.parse(line) as Record<string, unknown>),
    async stop() {
      await listener.stop();
      server.forceShutdown();
    },
  };
}

export interface EchoClient {
  readonly credentials: PskChannelCredentials;
  /** The answer to `text`, or the call's error. */
  echo(text: string, timeoutMs?: number): Promise<string>;
  close(): void;
}

export function openClient(
  door: { host: string; port: number },
  options: PskChannelOptions,
): EchoClient {
  const credentials = createPskChannelCredentials(options);
  const address = door.host.includes(':')
    ? `[${door.host}]:${door.port}`
    : `${door.host}:${door.port}`;
  const client = new grpc.Client(address, credentials, { 'grpc.enable_http_proxy': 0 });
  return {
    credentials,
    echo: (text, timeoutMs = PATIENCE_MS) =>
      new Promise((resolve, reject) => {
        const deadline = Date.now() + timeoutMs;
        client.makeUnaryRequest(
          echo.echo.path,
          bytes.serialize,
          bytes.deserialize,
          Buffer.from(text),
          { deadline },
          (error, answer) => (error ? reject(error) : resolve(String(answer))),
        );
      }),
    close: () => client.close(),
  };
}

/** Runs `openssl s_client`; answers all it printed. Ends its input, which ends it when its handshake is over, once it
 *  has shown the ticket that ends every handshake of ours. */
export function sClient(port: number, args: readonly string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn('openssl', ['s_client', '-connect', `127.0.0.1:${port}`, ...args]);
    let output = '';
    child.stdout.on('data', (chunk: Buffer) => {
      output += chunk.toString();
      if (output.includes('Max Early Data')) child.stdin.end();
    });
    child.stderr.on('data', (chunk: Buffer) => (output += chunk.toString()));
    child.stdin.on('error', () => undefined);
    child.on('error', reject);
    const timer = setTimeout(() => child.stdin.end(), PATIENCE_MS);
    child.on('close', () => {
      clearTimeout(timer);
      resolve(output);
    });
  });
}

/** The arguments by which s_client presents `key`, with parts of it replaced. */
export function pskArguments(
  key: PairingKey,
  change: { identity?: string; psk?: Buffer } = {},
): string[] {
  const { identity, psk } = deriveTlsPsk(key);
  return [
    '-tls1_3',
    '-alpn',
    'h2',
    '-msg',
    '-psk_identity',
    change.identity ?? identity,
    '-psk',
    Buffer.from(change.psk ?? psk).toString('hex'),
  ];
}

/** What a raw peer saw: the bytes it got, and whether the other side closed within `waitMs`. */
export interface RawResult {
  readonly received: Buffer;
  readonly closed: boolean;
}

/** Connects, writes `chunks`, optionally ends, and waits for the other side to close. */
export function knock(
  door: { host: string; port: number },
  chunks: readonly Buffer[],
  options: { waitMs?: number; end?: boolean } = {},
): Promise<RawResult> {
  return new Promise((resolve) => {
    const received: Buffer[] = [];
    const socket: Socket = connect(door.port, door.host, () => {
      for (const chunk of chunks) socket.write(chunk);
      if (options.end) socket.end();
    });
    const finish = (closed: boolean): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve({ received: Buffer.concat(received), closed });
    };
    const timer = setTimeout(() => finish(false), options.waitMs ?? 3_000);
    socket.on('data', (chunk) => received.push(chunk));
    socket.on('error', () => undefined);
    socket.on('close', () => finish(true));
  });
}

/** Waits until `condition` holds. */
export async function until(condition: () => boolean, timeoutMs = PATIENCE_MS): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  while (!condition()) {
    if (Date.now() > deadline)
      throw new Error(`not within ${timeoutMs} ms: ${condition.toString()}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
