// SPDX-License-Identifier: Apache-2.0
// A host before feeders of other versions: what is refused is refused with both versions, what is only new is borne.
import { afterEach, expect, test } from '@jest/globals';
import * as grpc from '@grpc/grpc-js';
import { pino } from 'pino';
import { createConnector, type FeederConnection } from '../../../host/links/connection.js';
import { systemClock } from '../../../proto/base/clock.js';
import { GbError } from '../../../proto/base/errors.js';
import { createId } from '../../../proto/base/ids.js';
import { FeederService } from '../../../proto/gen/greenboost/v1/feeder_pb.js';
import { serviceDefinition, statusFromError } from '../../../proto/grpc.js';
import { listenPsk } from '../../../security/listener.js';
import { createPairingKey } from '../../../security/pairing.js';

const key = createPairingKey(createId('feeder'));
const cleanups: (() => void | Promise<void>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

/** A feeder behind a real front door, that answers Hello as it is told. */
async function connectTo(answer: () => object): Promise<FeederConnection> {
  const server = new grpc.Server();
  server.addService(serviceDefinition(FeederService), {
    hello(_call: unknown, done: grpc.sendUnaryData<unknown>) {
      try {
        const base = {
          feederId: key.feederId,
          feederName: 'other',
          incarnation: 'x',
          leaseTtlMs: 30_000,
        };
        done(null, { ...base, ...answer() });
      } catch (reason) {
        done(statusFromError(reason));
      }
    },
    watchStats(call: grpc.ServerWritableStream<unknown, unknown>) {
      call.write({});
    },
  });
  const listener = await listenPsk({
    server,
    keys: () => [key],
    binds: [{ host: '127.0.0.1', port: 0 }],
    log: pino({ level: 'silent' }),
    clock: systemClock,
  });
  cleanups.push(async () => {
    await listener.stop();
    server.forceShutdown();
  });
  const connector = createConnector({ hostId: createId('host'), hostName: 'host' }, systemClock);
  const connection = await connector({
    address: `127.0.0.1:${listener.addresses[0]!.port}`,
    key,
    signal: new AbortController().signal,
    onSecured: () => undefined,
    onStats: () => undefined,
    onEnd: () => undefined,
  });
  cleanups.push(() => connection.close());
  return connection;
}

test.each([
  [{ version: { major: 2, minor: 3 } }, /protocol 2\.3, this host 1\.0; update the older one/],
  [{ version: { major: 0, minor: 1 } }, /protocol 0\.1, this host 1\.0/],
  [{}, /this host 1\.0/],
])('a feeder that answers %j is refused with both versions', async (answer, words) => {
  await expect(connectTo(() => answer)).rejects.toMatchObject({
    code: 'PROTOCOL_VIOLATION',
    rawMessage: expect.stringMatching(words) as unknown,
  });
});

test('a feeder that refuses this host says both versions to whoever asked', async () => {
  const text = 'the host speaks protocol 1.0, this feeder 2.1; update the older one';
  const refusing = connectTo(() => {
    throw new GbError('UNSUPPORTED', text);
  });
  await expect(refusing).rejects.toMatchObject({ code: 'UNSUPPORTED', rawMessage: text });
});

test('a feeder of a later minor version with features nobody asked for is connected', async () => {
  const { hello } = await connectTo(() => ({
    version: { major: 1, minor: 8 },
    features: 1n << 50n,
  }));
  expect(hello.feederName).toBe('other');
});

test('a feeder tells its clock, and how far it is off is known; one that tells none is not guessed at', async () => {
  const version = { major: 1, minor: 0 };
  const off = await connectTo(() => ({ version, unixMs: BigInt(Date.now() - 600_000) }));
  expect(Math.abs((off.clockSkewMs ?? 0) + 600_000)).toBeLessThan(30_000);
  const silent = await connectTo(() => ({ version }));
  expect(silent.clockSkewMs).toBeUndefined();
});
