// SPDX-License-Identifier: Apache-2.0
// The main path of a feeder: Hello, lease, allocate, write, read, free, release, exact at each
// step.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { FeederState } from '../../../proto/gen/greenboost/v1/feeder_pb.js';
import { codeOf, hello, MIB, openFeeder, pattern, until, type TestFeeder } from './harness.js';

let feeder: TestFeeder;

beforeAll(async () => {
  feeder = await openFeeder({ leaseTtlMs: 30_000 });
});
afterAll(() => feeder.stop());

test('what a host is told: identity, devices, one session id on both sides', async () => {
  const client = feeder.connectSilently();
  const told = await client.hello(hello('H-0123456789abcdef'));
  expect(told.feederId).toBe(feeder.feeder.feederId);
  expect(told.feederName).toBe('test');
  expect(told.leaseTtlMs).toBe(30_000);
  expect(told.sessionId).toMatch(/^S-[0-9a-f]{16}$/);
  expect(told.incarnation).toMatch(/^[0-9a-f]{16}$/);
  expect(told.devices.map(({ name, capacityBytes }) => [name, capacityBytes])).toEqual([
    ['RAM', BigInt(256 * MIB)],
  ]);
});

test('bytes come back as they were written, and every counter is exact', async () => {
  const host = await feeder.connect();
  expect(await host.account()).toEqual({ capacity: 256 * MIB, leased: 0, used: 0 });
  const lease = await host.lease({ ram: 64 * MIB });
  expect(await host.account()).toEqual({ capacity: 256 * MIB, leased: 64 * MIB, used: 0 });
  await host.allocate(lease, 0, 32 * MIB);
  await host.allocate(lease, 32 * MIB, 4 * MIB);
  expect(await host.account()).toEqual({ capacity: 256 * MIB, leased: 64 * MIB, used: 36 * MIB });

  const data = pattern(20 * MIB + 12, 7);
  await host.write(lease, 14 * MIB + 4, data);
  expect((await host.read(lease, 14 * MIB + 4, data.length)).equals(data)).toBe(true);
  expect((await host.read(lease, 0, 14 * MIB + 4)).every((byte) => byte === 0)).toBe(true);

  const stat = await host.client.statLease({ lease });
  expect(stat.ranges.map(({ offset, length }) => [offset, length])).toEqual([
    [0n, BigInt(32 * MIB)],
    [BigInt(32 * MIB), BigInt(4 * MIB)],
  ]);
  expect(stat.writeBytes).toBe(BigInt(data.length));
  expect(stat.readBytes).toBe(BigInt(data.length + 14 * MIB + 4));
  expect(stat.limits[0]?.bytes).toBe(BigInt(64 * MIB));

  await host.free(lease, 32 * MIB, 4 * MIB);
  expect(await codeOf(host.read(lease, 33 * MIB, 4))).toBe('DRIVER_ERROR'); // IO
  await until('it is scrubbed', async () => (await host.account()).used === 32 * MIB);
  const { freedBytes } = await host.client.releaseLease({ lease });
  expect(freedBytes).toBe(BigInt(32 * MIB));
  expect(await host.account()).toEqual({ capacity: 256 * MIB, leased: 0, used: 0 });
  expect(await codeOf(host.client.statLease({ lease }))).toBe('LEASE_EXPIRED');
});

test('memory is scrubbed: what is allocated again reads zero', async () => {
  const host = await feeder.connect();
  const lease = await host.lease({ ram: 8 * MIB });
  for (let round = 0; round < 3; round++) {
    await host.allocate(lease, 2 * MIB, 4 * MIB);
    expect((await host.read(lease, 2 * MIB, 4 * MIB)).every((byte) => byte === 0)).toBe(true);
    await host.write(lease, 2 * MIB, Buffer.alloc(4 * MIB, 0xa5));
    await host.free(lease, 2 * MIB, 4 * MIB);
  }
  await host.client.releaseLease({ lease });
});

test('what was freed counts until it is scrubbed; who needs its place or its bytes waits', async () => {
  const host = await feeder.connect();
  const lease = await host.lease({ ram: 64 * MIB });
  await host.allocate(lease, 0, 64 * MIB);
  const lane = await host.lane(lease);
  await lane.write(0, 0, Buffer.alloc(64 * MIB, 0xa5));
  await host.free(lease, 0, 64 * MIB);
  expect(await codeOf(host.free(lease, 0, 64 * MIB))).toBe('NOT_FOUND');
  // The same place, another one with all of the lease's bytes, and a smaller lease.
  await host.allocate(lease, 0, 32 * MIB);
  const zeroes = Buffer.alloc(32 * MIB, 1);
  await lane.read(0, 0, zeroes);
  expect(zeroes.every((byte) => byte === 0)).toBe(true);
  await host.free(lease, 0, 32 * MIB);
  await host.allocate(lease, 128 * MIB, 64 * MIB);
  await host.free(lease, 128 * MIB, 64 * MIB);
  const devices = [{ device: { kind: 1, index: 0 }, bytes: BigInt(2 * MIB) }];
  expect(await codeOf(host.client.resizeLease({ lease, devices }))).toBe('OK');
  expect(await host.account()).toMatchObject({ leased: 2 * MIB, used: 0 });
  await host.client.releaseLease({ lease });
});

test('a ping brings back what it said', async () => {
  const host = await feeder.connect();
  const payload = new Uint8Array([1, 2, 3]);
  expect((await host.client.ping({ payload })).payload).toEqual(payload);
});

test('the owner of the machine sees the same through the control socket', async () => {
  const host = await feeder.connect();
  const lease = await host.lease({ ram: 16 * MIB });
  await host.allocate(lease, 0, 2 * MIB);
  const status = await feeder.control().getFeedStatus({});
  expect(status.feederId).toBe(feeder.feeder.feederId);
  expect(status.pid).toBe(process.pid);
  expect(status.addresses).toEqual(feeder.feeder.addresses);
  expect(status.stats?.state).toBe(FeederState.LENDING);
  const shown = status.leases.find(({ leaseId }) => leaseId === lease.leaseId);
  expect(shown).toMatchObject({
    hostName: 'testhost',
    grantedBytes: BigInt(16 * MIB),
    usedBytes: BigInt(2 * MIB),
    adopted: true,
  });
  await host.client.releaseLease({ lease });
});

test('a closed connection orphans its lease, nobody else’s', async () => {
  const first = await feeder.connect();
  const second = await feeder.connect();
  await first.lease({ ram: 4 * MIB });
  const kept = await second.lease({ ram: 4 * MIB });
  first.close();
  const control = feeder.control();
  await until('one lease is orphaned', async () => {
    const { leases } = await control.getFeedStatus({});
    return leases.length === 2 && leases.filter(({ adopted }) => !adopted).length === 1;
  });
  expect(await codeOf(second.client.statLease({ lease: kept }))).toBe('OK');
});
