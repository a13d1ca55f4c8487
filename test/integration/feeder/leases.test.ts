// SPDX-License-Identifier: Apache-2.0
// Leases under loss: sessions that end, tokens that are old, hosts that are strangers, executors
// that are killed.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { createId } from '../../../proto/base/ids.js';
import { ErrorCodeOrOk } from '../../../proto/gen/greenboost/v1/feeder_pb.js';
import {
  codeOf,
  executorsOf,
  MIB,
  openFeeder,
  pattern,
  until,
  type TestFeeder,
  type TestHost,
} from './harness.js';

let feeder: TestFeeder;

beforeAll(async () => {
  feeder = await openFeeder();
});
afterAll(() => feeder.stop());

const TTL_MS = 3_000;

/** With a feeder whose leases end so soon. */
async function withBriefLeases(use: (brief: TestFeeder) => Promise<void>): Promise<void> {
  const brief = await openFeeder({ leaseTtlMs: TTL_MS });
  try {
    await use(brief);
  } finally {
    await brief.stop();
  }
}

async function adoptedOf(leaseId: string): Promise<boolean | undefined> {
  const { leases } = await feeder.control().getFeedStatus({});
  return leases.find((lease) => lease.leaseId === leaseId)?.adopted;
}

async function renew(host: TestHost, lease: { leaseId: string; fencingToken: bigint }) {
  const { leases } = await host.client.renewLeases({ leases: [lease] });
  return leases[0]!;
}

test('re-adoption: bytes survive a lost connection, the token grows, the old one is fenced', async () => {
  const hostId = createId('host');
  const first = await feeder.connect(hostId);
  const lease = await first.lease({ ram: 8 * MIB });
  await first.allocate(lease, 0, 4 * MIB);
  const data = pattern(4 * MIB, 11);
  await first.write(lease, 0, data);
  first.close();
  await until('the lease is orphaned', async () => (await adoptedOf(lease.leaseId)) === false);

  const second = await feeder.connect(hostId);
  expect(await codeOf(second.read(lease, 0, 4))).toBe('WRONG_STATE'); // not before it is renewed
  const renewed = await renew(second, lease);
  expect(renewed.status).toBe(ErrorCodeOrOk.OK);
  const current = renewed.lease!;
  expect(current.fencingToken).toBe(lease.fencingToken + 1n);
  expect((await second.read(current, 0, data.length)).equals(data)).toBe(true);
  expect(await codeOf(second.read(lease, 0, 4))).toBe('EPOCH_STALE');
  expect((await renew(second, lease)).status).toBe(ErrorCodeOrOk.FENCED);
  expect(await codeOf(second.read({ ...current, fencingToken: 99n } as typeof current, 0, 4))).toBe(
    'PROTOCOL_VIOLATION',
  );
  await second.client.releaseLease({ lease: current });
});

test('a newer session of the same host takes a lease over while the old one still lives', async () => {
  const hostId = createId('host');
  const old = await feeder.connect(hostId);
  const lease = await old.lease({ ram: 2 * MIB });
  const young = await feeder.connect(hostId);
  const { lease: current } = await renew(young, lease);
  expect(await codeOf(old.allocate(lease, 0, 2 * MIB))).toBe('EPOCH_STALE');
  expect(await codeOf(young.allocate(current!, 0, 2 * MIB))).toBe('OK');
  old.close(); // Its end must not orphan what it no longer holds.
  await new Promise((resolve) => setTimeout(resolve, 200));
  expect(await adoptedOf(lease.leaseId)).toBe(true);
  await young.client.releaseLease({ lease: current! });
});

test('another host can neither use, renew nor release a lease, and cannot tell that it exists', async () => {
  const owner = await feeder.connect();
  const lease = await owner.lease({ ram: 2 * MIB });
  const stranger = await feeder.connect();
  const range = {
    lease,
    range: { device: { kind: 1, index: 0 }, offset: 0n, length: BigInt(2 * MIB) },
  };
  const attempts = {
    allocate: stranger.client.allocate(range),
    free: stranger.client.free(range),
    read: stranger.read(lease, 0, 4),
    write: stranger.write(lease, 0, Buffer.alloc(4)),
    resize: stranger.client.resizeLease({ lease, devices: [] }),
    stat: stranger.client.statLease({ lease }),
    release: stranger.client.releaseLease({ lease }),
  };
  for (const [name, attempt] of Object.entries(attempts)) {
    expect({ name, code: await codeOf(attempt) }).toEqual({ name, code: 'LEASE_EXPIRED' });
  }
  expect((await renew(stranger, lease)).status).toBe(ErrorCodeOrOk.LEASE_EXPIRED);
  expect(await codeOf(owner.client.statLease({ lease }))).toBe('OK');
  await owner.client.releaseLease({ lease });
});

test('expiry: TTL after its session ended everything is free, the executor is gone', () =>
  withBriefLeases(async (brief) => {
    const host = await brief.connect();
    const lease = await host.lease({ ram: 16 * MIB });
    await host.allocate(lease, 0, 8 * MIB);
    const watcher = await brief.connect();
    expect((await watcher.account()).used).toBe(8 * MIB);
    host.close();
    const start = Date.now();
    await until(
      'the bytes are free',
      async () => (await watcher.account()).used === 0,
      TTL_MS + 5_000,
    );
    expect(Date.now() - start).toBeGreaterThan(TTL_MS - 200);
    expect(await watcher.account()).toMatchObject({ leased: 0, used: 0 });
    const again = await brief.connect(host.hostId);
    expect((await renew(again, lease)).status).toBe(ErrorCodeOrOk.LEASE_EXPIRED);
  }));

test('renewals keep a lease alive far beyond its TTL; without them it ends even though the session lives', () =>
  withBriefLeases(async (brief) => {
    const host = await brief.connect();
    const kept = await host.lease({ ram: 2 * MIB });
    const forgotten = await host.lease({ ram: 2 * MIB });
    for (let round = 0; round < 8; round++) {
      await new Promise((resolve) => setTimeout(resolve, TTL_MS / 4));
      expect((await renew(host, kept)).status).toBe(ErrorCodeOrOk.OK);
    }
    expect(await codeOf(host.client.statLease({ lease: kept }))).toBe('OK');
    expect(await codeOf(host.client.statLease({ lease: forgotten }))).toBe('LEASE_EXPIRED');
    await host.client.releaseLease({ lease: kept });
  }));

test('kill -9 of an executor: its lease fails with DATA_LOSS, every other one is untouched', async () => {
  const host = await feeder.connect();
  const pids = new Set(executorsOf(process.pid));
  const victim = await host.lease({ ram: 8 * MIB });
  const [pid] = executorsOf(process.pid).filter((candidate) => !pids.has(candidate));
  const other = await host.lease({ ram: 8 * MIB });
  for (const lease of [victim, other]) await host.allocate(lease, 0, 4 * MIB);
  const data = pattern(4 * MIB, 3);
  await host.write(other, 0, data);
  process.kill(pid!, 'SIGKILL');
  await until('the account is closed', async () => (await host.account()).used === 4 * MIB);
  expect(await codeOf(host.read(victim, 0, 4))).toBe('DATA_LOSS');
  expect(await codeOf(host.allocate(victim, 4 * MIB, 2 * MIB))).toBe('DATA_LOSS');
  expect(await codeOf(host.client.statLease({ lease: victim }))).toBe('DATA_LOSS');
  expect((await renew(host, victim)).status).toBe(ErrorCodeOrOk.LEASE_EXPIRED);
  expect((await renew(host, other)).status).toBe(ErrorCodeOrOk.OK);
  expect((await host.read(other, 0, data.length)).equals(data)).toBe(true);
  expect((await host.client.releaseLease({ lease: victim })).freedBytes).toBe(0n);
  expect((await host.client.releaseLease({ lease: other })).freedBytes).toBe(BigInt(4 * MIB));
  expect(await host.account()).toMatchObject({ leased: 0, used: 0 });
});

test('an executor killed during a write fails that write, and nothing hangs', async () => {
  const host = await feeder.connect();
  const before = new Set(executorsOf(process.pid));
  const lease = await host.lease({ ram: 64 * MIB });
  const [pid] = executorsOf(process.pid).filter((candidate) => !before.has(candidate));
  await host.allocate(lease, 0, 64 * MIB);
  const write = codeOf(host.write(lease, 0, Buffer.alloc(64 * MIB)));
  setTimeout(() => process.kill(pid!, 'SIGKILL'), 15);
  // Refused: on a busy machine it dies before its lane is open.
  expect(['DATA_LOSS', 'FEEDER_UNREACHABLE', 'PERMISSION_DENIED', 'OK']).toContain(await write);
  await until('its bytes are gone', async () => (await host.account()).leased === 0);
  expect(await codeOf(host.read(lease, 0, 4))).toBe('DATA_LOSS');
  await host.client.releaseLease({ lease });
});
