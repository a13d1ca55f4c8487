// SPDX-License-Identifier: Apache-2.0
// From feeder to feeder: two real feeders, a host that brings the ticket and sees no byte of it.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { randomBytes } from 'node:crypto';
import type * as grpc from '@grpc/grpc-js';
import { LaneRight, type LeaseRef } from '../../../proto/gen/greenboost/v1/feeder_pb.js';
import { errorFromStatus } from '../../../proto/grpc.js';
import {
  codeOf,
  MIB,
  openFeeder,
  pattern,
  until,
  type TestFeeder,
  type TestHost,
} from './harness.js';

/** So slow that a transfer of 16 MiB can be looked at, and does not hold up a test. */
const SLOW_RATE = 8e6;
const BYTES = 16 * MIB;

let source: TestFeeder;
let slow: TestFeeder;
let target: TestFeeder;
let to: TestHost;
let lease: LeaseRef;

beforeAll(async () => {
  source = await openFeeder({ name: 'source' });
  slow = await openFeeder({ name: 'slow', hostRate: SLOW_RATE });
  target = await openFeeder({ name: 'target' });
  to = await target.connect();
  lease = await to.lease({ ram: 32 * MIB });
  await to.allocate(lease, 0, 2 * BYTES);
});
afterAll(async () => {
  for (const feeder of [source, slow, target]) await feeder.stop();
});

interface Offer {
  readonly host: TestHost;
  readonly lease: LeaseRef;
  readonly ticketId: Uint8Array;
  readonly secret: Uint8Array;
  readonly port: number;
}

/** Memory on a feeder with known bytes in it, and a ticket for another feeder. */
async function offerOf(feeder: TestFeeder, filled = BYTES): Promise<Offer> {
  const host = await feeder.connect();
  const held = await host.lease({ ram: BYTES });
  await host.allocate(held, 8 * MIB, BYTES);
  if (filled > 0) {
    const lane = await host.lane(held, { offset: 8 * MIB, length: BYTES });
    await lane.write(0, 0, pattern(filled, 3));
    await lane.close();
  }
  const secret = randomBytes(32);
  const span = { offset: BigInt(8 * MIB), length: BigInt(BYTES), rights: LaneRight.READ };
  const asked = await host.client.openLane({ lease: held, ...span, brokeredSecret: secret });
  return { host, lease: held, secret, ...asked };
}

function pull(offer: Pick<Offer, 'ticketId' | 'secret' | 'port'>, more: object = {}) {
  const { ticketId, secret, port } = offer;
  const from = { address: '127.0.0.1', port, ticketId, secret, sourceOffset: 0n };
  return to.client.pull({ lease, offset: 0n, length: BigInt(BYTES), ...from, ...more });
}

/** Every progress of a pull, in bytes. @throws GbError. */
async function bytesOf(call: ReturnType<typeof pull>, seen: number[] = []): Promise<number[]> {
  try {
    for await (const message of call) seen.push(Number((message as { bytes: bigint }).bytes));
  } catch (reason) {
    throw errorFromStatus(reason as grpc.ServiceError, 'FEEDER_UNREACHABLE');
  }
  return seen;
}

async function bytesAt(offset: number, length: number): Promise<Buffer> {
  const lane = await to.lane(lease);
  const bytes = Buffer.alloc(length);
  await lane.read(0, offset, bytes);
  await lane.close();
  return bytes;
}

test('bytes go over, any part to any place, and both feeders count them', async () => {
  const offer = await offerOf(source);
  const before = await to.client.statLease({ lease });
  const part = { sourceOffset: 3n, offset: BigInt(MIB + 1), length: BigInt(12 * MIB + 5) };
  const seen = await bytesOf(pull(offer, part));
  expect(seen.at(-1)).toBe(12 * MIB + 5);
  const expected = pattern(BYTES, 3).subarray(3, 3 + 12 * MIB + 5);
  expect((await bytesAt(MIB + 1, expected.length)).equals(expected)).toBe(true);
  const after = await to.client.statLease({ lease });
  expect(after.writeBytes - before.writeBytes).toBe(BigInt(expected.length));
  expect((await offer.host.client.statLease({ lease: offer.lease })).readBytes).toBe(
    BigInt(expected.length),
  );
  await offer.host.client.releaseLease({ lease: offer.lease });
});

test('a slow one tells how far it is at least every second', async () => {
  const offer = await offerOf(slow, 0);
  const times: number[] = [];
  const call = pull(offer);
  call.on('data', () => times.push(Date.now()));
  const begin = Date.now();
  await new Promise((resolve) => call.once('end', resolve));
  expect(Date.now() - begin).toBeGreaterThan((BYTES / SLOW_RATE) * 500);
  const gaps = times.map((time, index) => time - (times[index - 1] ?? begin));
  expect(Math.max(...gaps)).toBeLessThan(1_500);
  expect(times.length).toBeGreaterThanOrEqual(2);
  await offer.host.client.releaseLease({ lease: offer.lease });
});

test('cancelling the call ends the transfer, and the next one begins', async () => {
  const before = await to.client.statLease({ lease });
  const offer = await offerOf(slow, 0);
  const call = pull(offer);
  const seen: number[] = [];
  const ended = codeOf(bytesOf(call, seen));
  await until('it runs', () => seen.length > 0);
  call.cancel();
  expect(await ended).toBe('CANCELED');
  const lanes = async () => (await slow.control().getFeedStatus({})).lanes;
  await until('its lane is gone', async () => (await lanes()).length === 0);
  const after = await to.client.statLease({ lease });
  expect(Number(after.writeBytes - before.writeBytes)).toBeLessThan(BYTES);
  const next = await offerOf(source);
  expect((await bytesOf(pull(next))).at(-1)).toBe(BYTES);
  expect((await bytesAt(0, BYTES)).equals(pattern(BYTES, 3))).toBe(true);
  for (const { host, lease: held } of [offer, next])
    await host.client.releaseLease({ lease: held });
});

describe('it fails with', () => {
  test('FEEDER_UNREACHABLE when the source goes meanwhile', async () => {
    const offer = await offerOf(slow, 0);
    const seen: number[] = [];
    const ended = codeOf(bytesOf(pull(offer), seen));
    await until('it runs', () => seen.length > 0);
    await offer.host.client.releaseLease({ lease: offer.lease });
    expect(await ended).toBe('FEEDER_UNREACHABLE');
  });

  test('NOT_FOUND when the destination goes meanwhile, and the source lives', async () => {
    const offer = await offerOf(slow, 0);
    const seen: number[] = [];
    const ended = codeOf(bytesOf(pull(offer), seen));
    await until('it runs', () => seen.length > 0);
    await to.free(lease, 0, 2 * BYTES);
    expect(await ended).toBe('NOT_FOUND');
    await to.allocate(lease, 0, 2 * BYTES);
    expect(await codeOf(offer.host.client.statLease({ lease: offer.lease }))).toBe('OK');
    await offer.host.client.releaseLease({ lease: offer.lease });
  });

  test.each([
    ['FEEDER_UNREACHABLE', 'a ticket that nobody knows', { ticketId: randomBytes(16) }],
    ['FEEDER_UNREACHABLE', 'a wrong secret', { secret: randomBytes(32) }],
    ['FEEDER_UNREACHABLE', 'a port where nobody is', { port: 1 }],
    ['PERMISSION_DENIED', 'an address beyond the LAN', { address: '203.0.113.1' }],
    ['INVALID_ARGUMENT', 'a name for an address', { address: 'localhost' }],
    ['INVALID_ARGUMENT', 'no port', { port: 0 }],
    ['INVALID_ARGUMENT', 'half a ticket', { ticketId: randomBytes(8) }],
    ['INVALID_ARGUMENT', 'no secret', { secret: new Uint8Array() }],
    ['INVALID_ARGUMENT', 'no bytes', { length: 0n }],
    ['INVALID_ARGUMENT', 'a place outside the arena', { offset: 1n << 34n }],
    ['NOT_FOUND', 'a place that is not allocated', { offset: BigInt(64 * MIB) }],
    ['INVALID_ARGUMENT', 'more than the source has', { sourceOffset: 1n }],
  ])(
    '%s for %s',
    async (code, _name, wrong) => {
      const offer = await offerOf(source, 0);
      expect(await codeOf(bytesOf(pull(offer, wrong)))).toBe(code);
      await offer.host.client.releaseLease({ lease: offer.lease });
    },
    20_000,
  );

  test('LEASE_EXPIRED for a lease of somebody else', async () => {
    const offer = await offerOf(source, 0);
    const stranger = await target.connect();
    const { ticketId, secret, port } = offer;
    const from = { address: '127.0.0.1', port, ticketId, secret };
    const call = stranger.client.pull({ lease, length: 4096n, ...from });
    expect(await codeOf(bytesOf(call))).toBe('LEASE_EXPIRED');
    await offer.host.client.releaseLease({ lease: offer.lease });
  });
});
