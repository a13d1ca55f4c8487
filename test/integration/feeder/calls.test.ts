// SPDX-License-Identifier: Apache-2.0
// Every call a host may get wrong: refused with its code, and nothing has changed afterwards.
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { createId } from '../../../proto/base/ids.js';
import { LEASES_PER_SESSION_MAX } from '../../../proto/base/limits.js';
import type { LeaseRef } from '../../../proto/gen/greenboost/v1/feeder_pb.js';
import {
  ARENA_BASE,
  ARENA_BYTES,
  codeOf,
  GPU,
  hello,
  MIB,
  openFeeder,
  pattern,
  RAM,
} from './harness.js';
import type { Client, TestFeeder, TestHost } from './harness.js';

let feeder: TestFeeder;
let host: TestHost;
let lease: LeaseRef;

beforeAll(async () => {
  feeder = await openFeeder();
  host = await feeder.connect();
  lease = await host.lease({ ram: 16 * MIB });
  await host.allocate(lease, 4 * MIB, 4 * MIB);
  await host.write(lease, 4 * MIB, pattern(4 * MIB, 1));
});
afterAll(() => feeder.stop());

afterEach(async () => {
  // What every refused call has to leave behind.
  expect(await host.account()).toEqual({ capacity: 256 * MIB, leased: 16 * MIB, used: 4 * MIB });
  expect((await host.read(lease, 4 * MIB, 4 * MIB)).equals(pattern(4 * MIB, 1))).toBe(true);
});

const attachment = { attachmentId: '0'.repeat(32), arenaBase: ARENA_BASE, arenaBytes: ARENA_BYTES };
const range = (offset: number, length: number, device = RAM) => ({
  device,
  offset: BigInt(offset),
  length: BigInt(length),
});

const BAD: readonly (readonly [string, string, (client: Client) => Promise<unknown>])[] = [
  [
    'an attachment id that is none',
    'INVALID_ARGUMENT',
    (c) => c.acquireLease({ ...attachment, attachmentId: '../x' }),
  ],
  ['an arena at zero', 'INVALID_ARGUMENT', (c) => c.acquireLease({ ...attachment, arenaBase: 0n })],
  [
    'an unaligned arena',
    'INVALID_ARGUMENT',
    (c) => c.acquireLease({ ...attachment, arenaBase: ARENA_BASE + 4096n }),
  ],
  [
    'an arena beyond the window',
    'INVALID_ARGUMENT',
    (c) => c.acquireLease({ ...attachment, arenaBytes: 1n << 45n }),
  ],
  [
    'an arena that wraps around',
    'INVALID_ARGUMENT',
    (c) => c.acquireLease({ ...attachment, arenaBytes: (1n << 64n) - (1n << 21n) }),
  ],
  [
    'more RAM than is left',
    'CAPACITY_EXHAUSTED',
    (c) => c.acquireLease({ ...attachment, devices: [{ device: RAM, bytes: BigInt(241 * MIB) }] }),
  ],
  [
    'a device that is not lent',
    'NOT_FOUND',
    (c) => c.acquireLease({ ...attachment, devices: [{ device: GPU, bytes: 1n }] }),
  ],
  [
    'a device named twice',
    'INVALID_ARGUMENT',
    (c) =>
      c.acquireLease({
        ...attachment,
        devices: [
          { device: RAM, bytes: 1n },
          { device: RAM, bytes: 1n },
        ],
      }),
  ],
  [
    'no device',
    'INVALID_ARGUMENT',
    (c) => c.acquireLease({ ...attachment, devices: [{ bytes: 1n }] }),
  ],
  [
    'a size beyond 2^53',
    'PROTOCOL_VIOLATION',
    (c) => c.acquireLease({ ...attachment, devices: [{ device: RAM, bytes: 1n << 60n }] }),
  ],
  [
    'resize below what is used',
    'WRONG_STATE',
    (c) => c.resizeLease({ lease, devices: [{ device: RAM, bytes: BigInt(2 * MIB) }] }),
  ],
  [
    'resize beyond what there is',
    'CAPACITY_EXHAUSTED',
    (c) => c.resizeLease({ lease, devices: [{ device: RAM, bytes: BigInt(512 * MIB) }] }),
  ],
  ['allocate without a lease', 'INVALID_ARGUMENT', (c) => c.allocate({ range: range(0, 2 * MIB) })],
  ['allocate without a range', 'INVALID_ARGUMENT', (c) => c.allocate({ lease })],
  [
    'allocate beyond the quota',
    'CAPACITY_EXHAUSTED',
    (c) => c.allocate({ lease, range: range(16 * MIB, 14 * MIB) }),
  ],
  [
    'allocate unaligned',
    'INVALID_ARGUMENT',
    (c) => c.allocate({ lease, range: range(4096, 2 * MIB) }),
  ],
  ['allocate nothing', 'INVALID_ARGUMENT', (c) => c.allocate({ lease, range: range(0, 0) })],
  [
    'allocate outside the arena',
    'INVALID_ARGUMENT',
    (c) => c.allocate({ lease, range: range(Number(ARENA_BYTES), 2 * MIB) }),
  ],
  [
    'allocate over what is there',
    'ALREADY_EXISTS',
    (c) => c.allocate({ lease, range: range(6 * MIB, 4 * MIB) }),
  ],
  [
    'allocate on a GPU that is not lent',
    'CAPACITY_EXHAUSTED',
    (c) => c.allocate({ lease, range: range(0, 2 * MIB, GPU) }),
  ],
  ['free a part', 'NOT_FOUND', (c) => c.free({ lease, range: range(4 * MIB, 2 * MIB) })],
  ['free nothing', 'NOT_FOUND', (c) => c.free({ lease, range: range(0, 2 * MIB) })],
  [
    'free of another device',
    'NOT_FOUND',
    (c) => c.free({ lease, range: range(4 * MIB, 4 * MIB, GPU) }),
  ],
  [
    'a ping that is too long',
    'INVALID_ARGUMENT',
    (c) => c.ping({ payload: new Uint8Array(65_537) }),
  ],
  [
    'a token from the future',
    'PROTOCOL_VIOLATION',
    (c) => c.statLease({ lease: { ...lease, fencingToken: 7n } }),
  ],
  [
    'a lease that never was',
    'LEASE_EXPIRED',
    (c) => c.statLease({ lease: { leaseId: createId('lease'), fencingToken: 1n } }),
  ],
  [
    'too many renewals at once',
    'INVALID_ARGUMENT',
    (c) =>
      c.renewLeases({ leases: Array.from({ length: LEASES_PER_SESSION_MAX + 1 }, () => lease) }),
  ],
];

test.each(BAD)('%s is refused with %s', async (_name, code, call) => {
  expect(await codeOf(call(host.client))).toBe(code);
});

describe('Hello', () => {
  test('every call before it is refused', async () => {
    const client = feeder.connectSilently();
    expect(await codeOf(client.ping({}))).toBe('WRONG_STATE');
    expect(await codeOf(client.acquireLease({ ...attachment }))).toBe('WRONG_STATE');
    expect(await codeOf(client.statLease({ lease }))).toBe('WRONG_STATE');
    expect(await codeOf(client.renewLeases({ leases: [lease] }))).toBe('WRONG_STATE');
  });

  test('another major version is refused, both are named', async () => {
    const client = feeder.connectSilently();
    const call = client.hello({ ...hello(createId('host')), version: { major: 2, minor: 5 } });
    await expect(call).rejects.toMatchObject({
      code: 'UNSUPPORTED',
      rawMessage: expect.stringMatching(/2\.5.*1\.0/) as unknown,
    });
    expect(await codeOf(client.ping({}))).toBe('WRONG_STATE');
    expect(
      await codeOf(client.hello({ ...hello(createId('host')), version: { major: 1, minor: 9 } })),
    ).toBe('OK');
  });

  test('a required feature nobody knows is refused, an offered one is ignored', async () => {
    const client = feeder.connectSilently();
    const hostId = createId('host');
    const version = { major: 1, minor: 9 };
    const call = client.hello({ ...hello(hostId), version, featuresRequired: 1n << 40n });
    await expect(call).rejects.toMatchObject({
      code: 'UNSUPPORTED',
      rawMessage: expect.stringMatching(/protocol 1\.9.*0x10000000000.*protocol 1\.0/) as unknown,
    });
    expect(await codeOf(client.ping({}))).toBe('WRONG_STATE');
    expect((await client.hello({ ...hello(hostId), featuresOffered: 1n << 40n })).features).toBe(
      0n,
    );
  });

  test('a session cannot become another host', async () => {
    const client = feeder.connectSilently();
    await client.hello(hello(createId('host')));
    expect(await codeOf(client.hello(hello(createId('host'))))).toBe('WRONG_STATE');
    expect(await codeOf(feeder.connectSilently().hello(hello('H-nonsense')))).toBe(
      'INVALID_ARGUMENT',
    );
  });
});
