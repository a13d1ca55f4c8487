// SPDX-License-Identifier: Apache-2.0
// How a feeder starts and how it ends: goodbye first, leases next, executors and sockets last, nothing left over.
import { afterEach, expect, test } from '@jest/globals';
import { existsSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createLogger } from '../../../proto/base/log.js';
import { FeederState } from '../../../proto/gen/greenboost/v1/feeder_pb.js';
import { startFeeder } from '../../../feeder/main.js';
import { codeOf, executorsOf, MIB, openFeeder, until, type TestFeeder } from './harness.js';

const open: TestFeeder[] = [];
const start = async (...args: Parameters<typeof openFeeder>): Promise<TestFeeder> => {
  const feeder = await openFeeder(...args);
  open.push(feeder);
  return feeder;
};

afterEach(async () => {
  for (const feeder of open.splice(0)) await feeder.stop();
  expect(executorsOf(process.pid)).toEqual([]);
});

test('a stop says STOPPING to every watcher, then ends leases and executors within a bound', async () => {
  const feeder = await start();
  const host = await feeder.connect();
  const lease = await host.lease({ ram: 64 * MIB });
  await host.allocate(lease, 0, 32 * MIB);
  expect(executorsOf(process.pid)).toHaveLength(1);
  const states: number[] = [];
  const ended = (async () => {
    for await (const message of host.client.watchStats({ intervalMs: 100 }))
      states.push((message as { state: number }).state);
  })().catch(() => undefined);
  await until('a first message', () => states.length > 0);
  const begin = Date.now();
  await feeder.feeder.stop();
  expect(Date.now() - begin).toBeLessThan(4_000);
  await ended;
  expect(states[0]).toBe(FeederState.LENDING);
  expect(states.at(-1)).toBe(FeederState.STOPPING);
  expect(executorsOf(process.pid)).toEqual([]);
  expect(existsSync(feeder.socketPath)).toBe(false);
  expect(await codeOf(host.client.ping({}, { timeoutMs: 1_000 }))).not.toBe('OK');
}, 15_000);

test('with a grace, hosts may read and release but nothing new is lent; the last release ends the wait', async () => {
  const feeder = await start();
  const host = await feeder.connect();
  const lease = await host.lease({ ram: 8 * MIB });
  await host.allocate(lease, 0, 2 * MIB);
  await feeder.control().stopFeed({ graceMs: 20_000 });
  await until(
    'it is stopping',
    async () => (await codeOf(host.lease({ ram: 2 * MIB }))) === 'WRONG_STATE',
  );
  expect(await codeOf(host.allocate(lease, 2 * MIB, 2 * MIB))).toBe('WRONG_STATE');
  expect(await host.read(lease, 0, 2 * MIB)).toHaveLength(2 * MIB);
  const begin = Date.now();
  await host.client.releaseLease({ lease });
  await feeder.feeder.stopped;
  expect(Date.now() - begin).toBeLessThan(4_000);
}, 15_000);

test('a grace that nobody uses ends, and a second stop ends it at once', async () => {
  const feeder = await start();
  const host = await feeder.connect();
  await host.lease({ ram: 2 * MIB });
  const first = feeder.feeder.stop(60_000);
  await new Promise((resolve) => setTimeout(resolve, 100));
  const begin = Date.now();
  await feeder.feeder.stop(0);
  await first;
  expect(Date.now() - begin).toBeLessThan(4_000);
}, 15_000);

test('a restart keeps the identity and is a new incarnation', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'greenboost-restart-'));
  const tell = async () => {
    const feeder = await openFeeder({ configDir: join(folder, 'config') });
    try {
      return (await feeder.control().getFeedStatus({})).feederId;
    } finally {
      await feeder.stop();
    }
  };
  expect(await tell()).toBe(await tell());
  rmSync(folder, { recursive: true });
});

test('the control socket is private, and a second feeder of the same user is refused', async () => {
  const feeder = await start();
  expect(statSync(feeder.socketPath).mode & 0o777).toBe(0o600);
  expect(statSync(join(feeder.socketPath, '..')).mode & 0o777).toBe(0o700);
  const log = createLogger({ name: 'feeder', level: 'silent' });
  const again = startFeeder(
    {
      ramBytes: 2 * MIB,
      port: 0,
      bind: ['127.0.0.1'],
      configDir: join(feeder.folder, 'other'),
      controlSocket: feeder.socketPath,
    },
    { log },
  );
  expect(await codeOf(again)).toBe('ALREADY_EXISTS');
});

test('what cannot be lent is refused before anything is started', async () => {
  const log = createLogger({ name: 'feeder', level: 'silent' });
  const attempt = (options: Parameters<typeof startFeeder>[0]) =>
    codeOf(
      startFeeder({ port: 0, bind: ['127.0.0.1'], controlSocket: false, ...options }, { log }),
    );
  expect(await attempt({ ramBytes: 2 ** 50 })).toBe('CAPACITY_EXHAUSTED');
  expect(await attempt({ ramBytes: 0 })).toBe('INVALID_ARGUMENT');
  expect(await attempt({ ramBytes: 4096 })).toBe('INVALID_ARGUMENT');
  expect(await attempt({ vramBytes: new Map([[0, 2 ** 30]]), gpu: 'none' })).toBe(
    'INVALID_ARGUMENT',
  );
  expect(await attempt({ ramBytes: 2 * MIB, bind: ['203.0.113.9'] })).toBe('INVALID_ARGUMENT');
  expect(await attempt({ ramBytes: 2 * MIB, bind: ['0.0.0.0'] })).toBe('PERMISSION_DENIED');
});

test('a port that is taken is told, and the failed start leaves nothing behind', async () => {
  const feeder = await start();
  const port = Number(feeder.feeder.addresses[0]!.split(':')[1]);
  const folder = mkdtempSync(join(tmpdir(), 'greenboost-taken-'));
  const log = createLogger({ name: 'feeder', level: 'silent' });
  const socket = join(folder, 'run', 'feed.sock');
  const options = {
    ramBytes: 2 * MIB,
    bind: ['127.0.0.1'],
    configDir: join(folder, 'config'),
    controlSocket: socket,
  };
  expect(await codeOf(startFeeder({ ...options, port }, { log }))).toBe('ALREADY_EXISTS');
  expect(existsSync(socket)).toBe(false);
  const works = await startFeeder({ ...options, port: 0 }, { log });
  await works.stop();
  rmSync(folder, { recursive: true });
});
