// SPDX-License-Identifier: Apache-2.0
// Lanes from the ticket to their end: real sessions, a real door, real executors, bytes moved by
// the real client.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { createId } from '../../../proto/base/ids.js';
import {
  LANES_PER_LEASE_MAX,
  LANE_PROBE_BYTES,
  LANE_PROBES_PER_SESSION_MAX,
} from '../../../proto/base/limits.js';
import { LaneRight } from '../../../proto/gen/greenboost/v1/feeder_pb.js';
import { revokeFeederKey, rotateFeederKey } from '../../../security/key-file.js';
import {
  codeOf,
  executorsOf,
  MIB,
  openFeeder,
  openTicket,
  pattern,
  until,
  type TestFeeder,
} from './harness.js';

let feeder: TestFeeder;

beforeAll(async () => {
  feeder = await openFeeder();
});
afterAll(() => feeder.stop());

const laneLines = (event: string): { ticket: string; reason?: string }[] =>
  readFileSync(join(feeder.folder, 'feeder.log'), 'utf8')
    .split('\n')
    .filter((line) => line.includes(`"${event}"`))
    .map((line) => JSON.parse(line) as { ticket: string; reason?: string });

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

describe('a lane of a lease', () => {
  test('moves bytes both ways, is counted to the byte, shown and remembered', async () => {
    const host = await feeder.connect();
    const lease = await host.lease({ ram: 32 * MIB });
    await host.allocate(lease, 4 * MIB, 16 * MIB);
    const ticket = await host.ticket(lease, { offset: 4 * MIB, length: 16 * MIB });
    const lane = await openTicket(ticket);
    const data = pattern(10 * MIB + 3, 5);
    await lane.write(0, 2 * MIB + 1, data);
    const back = Buffer.alloc(data.length);
    await lane.read(0, 2 * MIB + 1, back);
    expect(back.equals(data)).toBe(true);

    const stat = await host.client.statLease({ lease });
    expect([stat.readBytes, stat.writeBytes]).toEqual([BigInt(data.length), BigInt(data.length)]);
    const status = await feeder.control().getFeedStatus({});
    expect(status.lanePort).toBe(ticket.port);
    expect(status.lanes).toHaveLength(1);
    expect(status.lanes[0]).toMatchObject({
      ticketId: hex(ticket.id),
      leaseId: lease.leaseId,
      hostName: 'testhost',
      peer: expect.stringMatching(/^127\.0\.0\.1:\d+$/) as unknown,
      cipher: expect.stringMatching(/^(AES-256-GCM|ChaCha20-Poly1305)$/) as unknown,
      readBytes: BigInt(data.length),
      writeBytes: BigInt(data.length),
      keyFingerprint: feeder.feeder.facts.keyFingerprint,
    });
    expect(status.leases[0]).toMatchObject({
      readBytes: BigInt(data.length),
      writeBytes: BigInt(data.length),
    });
    expect(Number(status.stats!.writeBytes)).toBeGreaterThanOrEqual(data.length);

    await lane.close();
    await until('the lane is forgotten', async () => {
      return (await feeder.control().getFeedStatus({})).lanes.length === 0;
    });
    for (const event of ['lane_granted', 'lane_opened', 'lane_closed']) {
      const [line] = laneLines(event).filter((one) => one.ticket === hex(ticket.id));
      expect(line).toMatchObject({ lease: lease.leaseId, host: 'testhost' });
    }
    await host.client.releaseLease({ lease });
  });

  test('begins where its range begins and has the rights it was given', async () => {
    const host = await feeder.connect();
    const lease = await host.lease({ ram: 8 * MIB });
    await host.allocate(lease, 0, 8 * MIB);
    const whole = await host.lane(lease);
    await whole.write(0, 0, pattern(8 * MIB, 9));
    const part = { offset: 2 * MIB, length: 4 * MIB, rights: LaneRight.READ };
    const reader = await host.lane(lease, part);
    const got = Buffer.alloc(4 * MIB);
    await reader.read(0, 0, got);
    expect(got.equals(pattern(8 * MIB, 9).subarray(2 * MIB, 6 * MIB))).toBe(true);
    expect(await codeOf(reader.read(0, 4 * MIB - 1, Buffer.alloc(2)))).toBe('INVALID_ARGUMENT');
    expect(await codeOf(reader.write(0, 0, Buffer.alloc(2)))).toBe('PERMISSION_DENIED');
    const writer = await host.lane(lease, { ...part, rights: LaneRight.WRITE });
    await writer.write(0, 0, Buffer.alloc(16, 1));
    expect(await codeOf(writer.read(0, 0, Buffer.alloc(2)))).toBe('PERMISSION_DENIED');
    await host.client.releaseLease({ lease });
  });

  test('reaches only what is allocated', async () => {
    const host = await feeder.connect();
    const lease = await host.lease({ ram: 8 * MIB });
    await host.allocate(lease, 0, 4 * MIB);
    const lane = await host.lane(lease);
    const beyond = lane.read(0, 4 * MIB - 2, Buffer.alloc(4));
    expect(await codeOf(beyond)).toBe('DRIVER_ERROR'); // IO: nothing lies there.
    expect(await codeOf(lane.read(0, 0, Buffer.alloc(4 * MIB)))).toBe('OK');
    await host.free(lease, 0, 4 * MIB); // Answered before the executor has heard of it.
    await until(
      'it is gone',
      async () => (await codeOf(lane.read(0, 0, Buffer.alloc(4)))) === 'DRIVER_ERROR',
    );
    await host.allocate(lease, 0, 2 * MIB);
    const again = Buffer.alloc(2 * MIB, 1);
    await lane.read(0, 0, again);
    expect(again.every((byte) => byte === 0)).toBe(true);
    await host.client.releaseLease({ lease });
  });

  test('outlives its session, and is not fenced off by the next one', async () => {
    const hostId = createId('host');
    const first = await feeder.connect(hostId);
    const lease = await first.lease({ ram: 4 * MIB });
    await first.allocate(lease, 0, 4 * MIB);
    const lane = await first.lane(lease);
    const unused = await first.ticket(lease);
    first.close();
    const second = await feeder.connect(hostId);
    const renewed = await second.client.renewLeases({ leases: [lease] });
    const current = renewed.leases[0]!.lease!;
    await lane.write(0, 0, Buffer.alloc(MIB, 7));
    expect(await codeOf(second.ticket(lease))).toBe('EPOCH_STALE');
    const stranger = await feeder.connect();
    expect(await codeOf(stranger.client.closeLane({ ticketId: unused.id }))).toBe('NOT_FOUND');
    expect(await codeOf(second.client.closeLane({ ticketId: unused.id }))).toBe('OK');
    expect(await codeOf(openTicket(unused))).toBe('PERMISSION_DENIED');
    await lane.close();
    await second.client.releaseLease({ lease: current });
  });

  test('ends with its lease at once, and nothing of it is left', async () => {
    const host = await feeder.connect();
    const lease = await host.lease({ ram: 8 * MIB });
    await host.allocate(lease, 0, 8 * MIB);
    const lane = await host.lane(lease);
    const ticket = await host.ticket(lease);
    await lane.write(0, 0, Buffer.alloc(MIB, 7));
    const before = (await feeder.control().getFeedStatus({})).stats!.writeBytes;
    await lane.write(0, MIB, Buffer.alloc(3 * MIB, 7));
    await host.client.releaseLease({ lease });
    await until('the lane knows', () => lane.state !== 'OK');
    expect(await codeOf(lane.read(0, 0, Buffer.alloc(4)))).toMatch(/UNREACHABLE|EXPIRED/);
    expect(await codeOf(openTicket(ticket))).toBe('PERMISSION_DENIED');
    const status = await feeder.control().getFeedStatus({});
    expect(status.lanes).toEqual([]);
    expect(status.stats!.writeBytes - before).toBe(BigInt(3 * MIB)); // Counted before it went.
  });

  test('ends with its executor, and its lease says so', async () => {
    const host = await feeder.connect();
    const before = new Set(executorsOf(process.pid));
    const lease = await host.lease({ ram: 4 * MIB });
    const [pid] = executorsOf(process.pid).filter((candidate) => !before.has(candidate));
    await host.allocate(lease, 0, 4 * MIB);
    const lane = await host.lane(lease);
    process.kill(pid!, 'SIGKILL');
    await until('the lane knows', () => lane.state !== 'OK');
    expect(await codeOf(host.ticket(lease))).toBe('DATA_LOSS');
    await until('it is forgotten', async () => {
      return (await feeder.control().getFeedStatus({})).lanes.length === 0;
    });
    await host.client.releaseLease({ lease });
  });
});

describe('a ticket', () => {
  test('is for one lane, once, and only with its secret', async () => {
    const host = await feeder.connect();
    const lease = await host.lease({ ram: 2 * MIB });
    await host.allocate(lease, 0, 2 * MIB);
    const ticket = await host.ticket(lease);
    const wrong = { ...ticket, secret: randomBytes(32) };
    expect(await codeOf(openTicket(wrong))).toBe('PERMISSION_DENIED');
    const other = { ...ticket, id: randomBytes(16) };
    expect(await codeOf(openTicket(other))).toBe('PERMISSION_DENIED');
    const lane = await openTicket(ticket); // Those who failed did not use it up.
    expect(await codeOf(openTicket(ticket))).toBe('PERMISSION_DENIED');
    await lane.close();
    expect(await codeOf(openTicket(ticket))).toBe('PERMISSION_DENIED');
    await until('strangers are noticed', () => {
      const reasons = laneLines('lane_refused').map(({ reason }) => reason);
      return ['MAC', 'UNKNOWN'].every((reason) => reasons.includes(reason));
    });
    await host.client.releaseLease({ lease });
  });

  test('with a secret that the host drew opens with that one', async () => {
    const host = await feeder.connect();
    const lease = await host.lease({ ram: 2 * MIB });
    await host.allocate(lease, 0, 2 * MIB);
    const secret = randomBytes(32);
    const span = { lease, length: BigInt(2 * MIB), rights: LaneRight.READ };
    const { ticketId: id, port } = await host.client.openLane({ ...span, brokeredSecret: secret });
    const lane = await openTicket({ id, secret, address: '127.0.0.1', port });
    await lane.read(0, 0, Buffer.alloc(MIB));
    await lane.close();
    await host.client.releaseLease({ lease });
  });

  test('of another host, of a stranger, or with an old token is not given', async () => {
    const owner = await feeder.connect();
    const lease = await owner.lease({ ram: 2 * MIB });
    const other = await feeder.connect();
    expect(await codeOf(other.ticket(lease))).toBe('LEASE_EXPIRED');
    expect(await codeOf(feeder.connectSilently().openLane({ lease, length: 1n, rights: 1 }))).toBe(
      'WRONG_STATE',
    );
    expect(await codeOf(owner.client.openLane({ rights: 1, length: 1n }))).toBe('INVALID_ARGUMENT');
    await owner.client.releaseLease({ lease });
  });

  test.each([
    ['of no length', { length: 0n }, 'INVALID_ARGUMENT'],
    ['beyond the arena', { offset: 1n << 34n, length: 1n }, 'INVALID_ARGUMENT'],
    ['that wraps around', { offset: 1n << 33n, length: (1n << 64n) - 1n }, 'INVALID_ARGUMENT'],
    ['without rights', { rights: 0 }, 'INVALID_ARGUMENT'],
    ['with unknown rights', { rights: 5 }, 'INVALID_ARGUMENT'],
    ['of too many connections', { connections: 9 }, 'INVALID_ARGUMENT'],
    ['with half a secret', { brokeredSecret: new Uint8Array(16) }, 'INVALID_ARGUMENT'],
    ['that is a probe as well', { probe: true }, 'INVALID_ARGUMENT'],
  ])('%s is refused', async (_name, wrong, code) => {
    const host = await feeder.connect();
    const lease = await host.lease({ ram: 2 * MIB });
    const asked = host.client.openLane({ lease, length: 4096n, rights: 3, ...wrong });
    expect(await codeOf(asked)).toBe(code);
    expect((await feeder.control().getFeedStatus({})).lanes).toEqual([]);
    await host.client.releaseLease({ lease });
  });

  test('is one of a few for each lease', async () => {
    const host = await feeder.connect();
    const lease = await host.lease({ ram: 2 * MIB });
    const tickets = await Promise.all(
      Array.from({ length: LANES_PER_LEASE_MAX }, () => host.ticket(lease)),
    );
    expect(await codeOf(host.ticket(lease))).toBe('CAPACITY_EXHAUSTED');
    await host.client.closeLane({ ticketId: tickets[0]!.id });
    expect(await codeOf(host.ticket(lease))).toBe('OK');
    await host.client.releaseLease({ lease });
    expect((await feeder.control().getFeedStatus({})).lanes).toEqual([]);
  });
});

describe('a probe', () => {
  test('moves bytes to nobody: zeroes first, gone with its lane, no lease involved', async () => {
    const host = await feeder.connect();
    const lane = await host.lane(undefined);
    const data = Buffer.alloc(LANE_PROBE_BYTES / 4, 1);
    await lane.read(0, 0, data);
    expect(data.every((byte) => byte === 0)).toBe(true);
    await lane.write(0, LANE_PROBE_BYTES - MIB, pattern(MIB, 2));
    const other = await host.lane(undefined);
    const seen = Buffer.alloc(MIB, 1);
    await other.read(0, LANE_PROBE_BYTES - MIB, seen);
    expect(seen.every((byte) => byte === 0)).toBe(true); // Not the other probe's bytes.
    expect(executorsOf(process.pid)).toHaveLength(LANE_PROBES_PER_SESSION_MAX);
    expect(await codeOf(host.ticket(undefined))).toBe('CAPACITY_EXHAUSTED');
    await Promise.all([lane.close(), other.close()]);
    await until('their memory is gone', () => executorsOf(process.pid).length === 0);
    await (await host.lane(undefined)).close();
    await until('so is the third', () => executorsOf(process.pid).length === 0);
  });
});

test('a stranger at the lane port hears nothing and is closed', async () => {
  const { lanePort } = await feeder.control().getFeedStatus({});
  const socket = connect(lanePort, '127.0.0.1');
  let heard = 0;
  socket.on('data', (chunk) => (heard += chunk.length));
  socket.on('error', () => undefined); // 'close' follows.
  socket.write(Buffer.concat([Buffer.from('GBLANE-C'), randomBytes(104)]));
  await new Promise((resolve) => socket.once('close', resolve));
  expect(heard).toBe(0);
}, 5_000);

test('the lane of a key that was removed ends within two seconds, its ticket too', async () => {
  const own = await openFeeder();
  try {
    const host = await own.connect();
    const lease = await host.lease({ ram: 4 * MIB });
    await host.allocate(lease, 0, 4 * MIB);
    const lane = await host.lane(lease);
    const ticket = await host.ticket(lease);
    const folder = join(own.folder, 'config');
    const old = own.feeder.facts.keyFingerprint;
    rotateFeederKey(folder);
    await lane.write(0, 0, Buffer.alloc(MIB, 1)); // Another key beside it changes nothing.
    const begin = Date.now();
    revokeFeederKey(folder, old);
    await until('the lane knows', () => lane.state !== 'OK');
    expect(Date.now() - begin).toBeLessThan(2_500);
    expect(await codeOf(openTicket(ticket))).toBe('PERMISSION_DENIED');
  } finally {
    await own.stop();
  }
});
