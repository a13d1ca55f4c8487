// SPDX-License-Identifier: Apache-2.0
// How a feeder starts and how it ends: goodbye first, leases next, executors and sockets last,
// nothing left over.
import { afterEach, expect, test } from '@jest/globals';
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createId } from '../../../proto/base/ids.js';
import { createLogger } from '../../../proto/base/log.js';
import {
  ErrorCodeOrOk,
  FeederService,
  FeederState,
} from '../../../proto/gen/greenboost/v1/feeder_pb.js';
import { createClient } from '../../../proto/grpc.js';
import { createPskChannelCredentials } from '../../../security/channel.js';
import { loadOrCreateFeederKeys } from '../../../security/key-file.js';
import { startFeeder } from '../../../feeder/main.js';
import { ROOT } from '../../arch/files.js';
import {
  ARENA_BASE,
  ARENA_BYTES,
  codeOf,
  executorsOf,
  hello,
  MIB,
  openFeeder,
  RAM,
  until,
} from './harness.js';
import type { TestFeeder } from './harness.js';

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
});

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
});

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
});

test('a restart keeps the identity and is a new incarnation, to which old leases are unknown', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'greenboost-restart-'));
  const hostId = createId('host');
  const options = { configDir: join(folder, 'config'), stateDir: join(folder, 'state') };
  const first = await start(options);
  const before = await first.connectSilently().hello(hello(hostId));
  const lease = await (await first.connect(hostId)).lease({ ram: 2 * MIB });
  await first.feeder.stop();
  const second = await start(options);
  const client = second.connectSilently();
  const after = await client.hello(hello(hostId));
  expect(after.feederId).toBe(before.feederId);
  expect(after.incarnation).not.toBe(before.incarnation);
  const { leases } = await client.renewLeases({ leases: [lease] });
  expect(leases[0]!.status).toBe(ErrorCodeOrOk.LEASE_EXPIRED);
  await second.feeder.stop();
  rmSync(folder, { recursive: true });
});

test('kill -9 of the daemon: its executors go with it, and the next feeder starts in its place', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'greenboost-killed-'));
  const options = {
    ramBytes: 64 * MIB,
    port: 0,
    bind: ['127.0.0.1'],
    configDir: join(folder, 'config'),
    stateDir: join(folder, 'state'),
  };
  const script = `
    import { startFeeder } from ${JSON.stringify(join(ROOT, 'build/js/feeder/main.js'))};
    const options = ${JSON.stringify({ ...options, controlSocket: join(folder, 'run', 'feed.sock') })};
    const feeder = await startFeeder(options);
    process.stdout.write(feeder.addresses[0]);
    setInterval(() => undefined, 1000);`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'ignore'],
    env: { ...process.env, GREENBOOST_LOG: 'silent' },
  });
  const address = await new Promise<string>((resolve) => {
    child.stdout.once('data', (chunk: Buffer) => resolve(chunk.toString().trim()));
  });
  const key = loadOrCreateFeederKeys(options.configDir).keys[0]!;
  const credentials = createPskChannelCredentials({ key });
  const client = createClient(FeederService, address, credentials, {}, 'FEEDER_UNREACHABLE');
  await client.hello(hello(createId('host')));
  const devices = [{ device: RAM, bytes: BigInt(32 * MIB) }];
  const request = { attachmentId: '0'.repeat(32), arenaBase: ARENA_BASE, arenaBytes: ARENA_BYTES };
  const { lease } = await client.acquireLease({ ...request, devices });
  await client.allocate({
    lease: lease!,
    range: { device: RAM, offset: 0n, length: BigInt(32 * MIB) },
  });
  const [executor] = executorsOf(child.pid!);
  expect(executor).toBeGreaterThan(0);
  process.kill(child.pid!, 'SIGKILL');
  await until('the executor is gone', () => !existsSync(`/proc/${executor}`));
  client.close();
  const log = createLogger({ name: 'feeder', level: 'silent' });
  const next = await startFeeder(
    { ...options, controlSocket: join(folder, 'run', 'feed.sock') },
    { log },
  );
  await next.stop();
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
      stateDir: join(feeder.folder, 'state'),
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
    stateDir: join(folder, 'state'),
    controlSocket: socket,
  };
  expect(await codeOf(startFeeder({ ...options, port }, { log }))).toBe('ALREADY_EXISTS');
  expect(existsSync(socket)).toBe(false);
  const works = await startFeeder({ ...options, port: 0 }, { log });
  await works.stop();
  rmSync(folder, { recursive: true });
});
