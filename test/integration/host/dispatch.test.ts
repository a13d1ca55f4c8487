// SPDX-License-Identifier: Apache-2.0
// A program whose kernels run on feeders, as its agent sees it: what HELLO agrees to, where PLACE goes, tickets that
// carry calls, room for copies, and what people are told; on the simulated driver, with real feeders and executors.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { promisify } from 'node:util';
import * as abi from '../../../host/shim/abi.js';
import { PlacedKind } from '../../../proto/gen/greenboost/v1/control_pb.js';
import { useSimulatedGpu } from '../simulated-gpu.js';
import { CLI, startTestFeeder, type TestFeeder } from './feeders.js';
import { eventNames, eventually, TestHost } from './harness.js';
import { CHUNK, ShimPeer, type HelloOverrides } from './shim-peer.js';

const DISPATCH = abi.FEATURE_GATED | abi.FEATURE_DISPATCH;

let host: TestHost;
let runner: TestFeeder;
let keeper: TestFeeder;

beforeAll(async () => {
  useSimulatedGpu();
  host = new TestHost();
  await host.start();
  runner = await startTestFeeder(host, 'runner', 0, 0, {
    gpu: 'sim',
    vramBytes: new Map([[0, 16 * CHUNK]]),
  });
  // Memory only, though it has a GPU.
  keeper = await startTestFeeder(host, 'keeper', 16 * CHUNK, 0, {
    gpu: 'sim',
    vramBytes: new Map([[0, 16 * CHUNK]]),
    compute: false,
  });
  const client = host.client();
  for (const { address, feederId } of [keeper, runner])
    await client.connect({ address, feederId, timeoutMs: 15_000 });
}, 60_000);

afterAll(async () => {
  await host.stopAgent();
  await runner.feeder.stop();
  await keeper.feeder.stop();
  await host.stop();
}, 30_000);

const attach = (features: bigint, over: HelloOverrides = {}): Promise<ShimPeer> =>
  ShimPeer.attach(host.shimSocket, { hello: { features, ...over } });

async function devicesOf(feeder: TestFeeder): Promise<{ used: number; leased: number }> {
  const { links } = await host.status();
  const link = links.find(({ feederId }) => feederId === feeder.feederId)!;
  const sum = (value: (device: (typeof link.devices)[number]) => bigint): number =>
    link.devices.reduce((total, device) => total + Number(value(device)), 0) / CHUNK;
  return { used: sum((device) => device.usedBytes), leased: sum((d) => d.leasedBytes) };
}

const settledAt = (feeder: TestFeeder, used: number, leased: number): Promise<unknown> =>
  eventually(`${used} of ${leased} chunks in use`, 20_000, async () => {
    const now = await devicesOf(feeder);
    return now.used === used && now.leased === leased;
  });

describe('HELLO', () => {
  test.each([
    ['gated', DISPATCH, DISPATCH],
    ['without gated', abi.FEATURE_DISPATCH, 0n],
    ['with two copies', DISPATCH | abi.FEATURE_REPLICAS, abi.FEATURE_GATED | abi.FEATURE_REPLICAS],
  ])('agrees to dispatch only gated and with one copy: %s', async (_name, asked, agreed) => {
    const peer = await ShimPeer.open(host.shimSocket);
    const ack = await peer.hello({ features: asked });
    expect([ack.status, ack.features]).toEqual([abi.Status.OK, agreed]);
    await peer.end();
  });

  test('refuses a program that requires it where it cannot be', async () => {
    const peer = await ShimPeer.open(host.shimSocket);
    const features = DISPATCH | abi.FEATURE_REPLICAS;
    const ack = await peer.hello({ features, features_required: abi.FEATURE_DISPATCH });
    expect(ack.status).toBe(abi.Status.VERSION);
    await peer.end();
  });
});

describe('a program whose kernels run on feeders', () => {
  test('has its ranges where they run, room beside them, and lanes that carry calls', async () => {
    const peer = await attach(DISPATCH);
    await peer.grant(abi.AbiTier.T2R, 6 * CHUNK);
    const placed = await peer.place(0, 4 * CHUNK);
    expect([placed.feeder, placed.tier]).toEqual(['runner', abi.AbiTier.T1R]);
    const [lane] = peer.extents[0]!.lanes;
    const ticket = await peer.ticket(lane!);
    expect(ticket.features & abi.LANE_FEATURE_RUN).toBe(abi.LANE_FEATURE_RUN);
    expect(ticket.compute_capability).toBeGreaterThanOrEqual(70);

    expect(await peer.room(32 * CHUNK, 2 * CHUNK, lane!)).toBe(abi.Status.OK);
    await settledAt(runner, 6, 8);
    expect(await peer.room(0, CHUNK, lane!)).toBe(abi.Status.INVALID);
    expect(await peer.room(40 * CHUNK, CHUNK, 99)).toBe(abi.Status.NOT_FOUND);
    expect(await peer.room(40 * CHUNK, 32 * CHUNK, lane!)).toBe(abi.Status.CAPACITY);
    expect(await peer.room(32 * CHUNK, CHUNK, lane!, true)).toBe(abi.Status.NOT_FOUND);
    expect(await peer.room(32 * CHUNK, 2 * CHUNK, lane!, true)).toBe(abi.Status.OK);
    await settledAt(runner, 4, 6);
    // What the program was granted is as it was.
    expect((await peer.grant(abi.AbiTier.T2R, 0)).heldBytes).toBe(6 * CHUNK);
    await peer.end();
  }, 60_000);

  test('a lease that ends frees them, too', async () => {
    const peer = await attach(DISPATCH);
    await peer.grant(abi.AbiTier.T2R, CHUNK);
    await peer.place(0, CHUNK);
    const [lane] = peer.extents[0]!.lanes;
    expect(await peer.room(8 * CHUNK, CHUNK, lane!)).toBe(abi.Status.OK);
    await peer.drop(0, CHUNK);
    await peer.giveBack(abi.AbiTier.T2R, CHUNK);
    await settledAt(runner, 1, 1);
    expect(await peer.room(8 * CHUNK, CHUNK, lane!, true)).toBe(abi.Status.OK);
    await settledAt(runner, 0, 0);
    expect(await peer.room(8 * CHUNK, CHUNK, lane!)).toBe(abi.Status.NOT_FOUND);
    await peer.end();
  }, 60_000);

  test('another program has neither', async () => {
    const peer = await attach(abi.FEATURE_GATED);
    await peer.grant(abi.AbiTier.T2R, 2 * CHUNK);
    await peer.place(0, 2 * CHUNK);
    const [lane] = peer.extents[0]!.lanes;
    const ticket = await peer.ticket(lane!);
    expect([ticket.features & abi.LANE_FEATURE_RUN, ticket.compute_capability]).toEqual([0n, 0]);
    expect(await peer.room(8 * CHUNK, CHUNK, lane!)).toBe(abi.Status.REFUSED);
    await peer.drop(0, 2 * CHUNK);
    await peer.giveBack(abi.AbiTier.T2R, 2 * CHUNK);
    await peer.end();
  }, 60_000);
});

describe('people are told', () => {
  test('what runs where and why, by status and explain, in words and as JSON', async () => {
    const peer = await attach(DISPATCH);
    await peer.grant(abi.AbiTier.T2R, 2 * CHUNK);
    await peer.place(0, 2 * CHUNK);
    const [lane] = peer.extents[0]!.lanes;
    await peer.room(8 * CHUNK, CHUNK, lane!);
    const why = abi.UNDISPATCHED.map((name) => (name === 'hidden' ? 7n : 0n));
    peer.report({ launch_count: 2_050n, dispatched_count: 2_000n, undispatched_count: why });
    const crossings = {
      crossing_count: 40n,
      crossing_bytes_out: 4_096n,
      crossing_bytes_in: 8_192n,
    };
    peer.reportLane(lane!, { launch_count: 2_000n, ...crossings });
    const told = await eventually('the report', 5_000, async () => {
      const { attachments } = await host.status();
      const of = attachments.find(({ dispatch }) => dispatch);
      return of?.launchOwners[0]?.launchCount === 2_000n ? of : undefined;
    });
    expect(told).toMatchObject({ dispatchedCount: 2_000n, undispatched: { hidden: 7n } });
    expect(told.launchOwners).toMatchObject([
      {
        feederName: 'runner',
        lane: lane!,
        crossingCount: 40n,
        crossingSentBytes: 4_096n,
        crossingReceivedBytes: 8_192n,
        replicaBytes: BigInt(CHUNK),
      },
    ]);
    const explained = await host.client().explain({ pid: process.pid });
    expect(explained.ranges.map(({ kind, feederName }) => [kind, feederName])).toEqual([
      [PlacedKind.OWNED, 'runner'],
      [PlacedKind.REPLICA, 'runner'],
    ]);
    await expect(host.client().explain({ pid: 1 })).rejects.toMatchObject({ code: 'NOT_FOUND' });

    // The agent is in this process: it has to go on.
    const cli = async (...args: string[]): Promise<string> => {
      const env = { ...process.env, ...host.env };
      return (await promisify(execFile)(process.execPath, [CLI, ...args], { env })).stdout;
    };
    const text = await cli('explain', `${process.pid}`);
    expect(text).toMatch(/50 launches here, 2,000 on runner \(40 crossings/);
    expect(text).toMatch(/7 ran here although .* \(hidden\): one of its operands holds addresses/);
    expect(text).toMatch(/0x500000000000 +4\.00 MiB +owned +runner +vram 0 +kernels that name it/);
    const { reasons, ranges } = JSON.parse(await cli('explain', `${process.pid}`, '--json'));
    expect(reasons).toMatchObject([{ name: 'hidden', count: 7 }]);
    expect(ranges).toHaveLength(2);
    const status = JSON.parse(await cli('status', '--json'));
    expect(status.attachments[0].dispatch).toMatchObject({
      on: true,
      hereCount: 50,
      undispatched: { hidden: 7 },
    });
    expect(await cli('status')).toMatch(/run here, by reason: hidden 7/);
    await peer.end();
  }, 60_000);
});

describe('what may not be lost', () => {
  test('a feeder where kernels of a program run is not emptied; whoever asks is told why', async () => {
    const peer = await attach(DISPATCH);
    await peer.grant(abi.AbiTier.T2R, 2 * CHUNK);
    await peer.place(0, 2 * CHUNK);
    const bytes = randomBytes(2 * CHUNK);
    expect(await peer.store(0, bytes)).toBe(abi.Status.OK);
    const drain = async (): Promise<void> => {
      const call = host.client().drain({ feeder: 'runner' });
      for await (const _progress of call);
    };
    await expect(drain()).rejects.toThrow(/runs kernels on it.*until it ends/);
    expect(peer.moves).toEqual([]);
    expect((await peer.fetch(0, 2 * CHUNK)).bytes.equals(bytes)).toBe(true);
    // It takes ranges again.
    await peer.grant(abi.AbiTier.T2R, CHUNK);
    expect((await peer.place(8 * CHUNK, CHUNK)).feeder).toBe('runner');
    await peer.end();
  }, 60_000);

  test('a new agent keeps bytes as bytes and copies as copies', async () => {
    const peer = await attach(DISPATCH);
    await peer.grant(abi.AbiTier.T2R, 2 * CHUNK);
    await peer.place(0, 2 * CHUNK);
    const [lane] = peer.extents[0]!.lanes;
    const bytes = randomBytes(2 * CHUNK);
    expect(await peer.store(0, bytes)).toBe(abi.Status.OK);
    expect(await peer.room(8 * CHUNK, CHUNK, lane!)).toBe(abi.Status.OK);
    await host.stopAgent();
    await host.start();
    const held_bytes = [0n, 0n, 0n, BigInt(2 * CHUNK), 0n];
    const back = await ShimPeer.attach(host.shimSocket, {
      like: peer,
      hello: { features: DISPATCH, held_bytes },
    });
    await eventually('the feeder', 15_000, async () =>
      eventNames(await host.status()).includes('lease_adopted'),
    );
    await settledAt(runner, 3, 3);
    expect((await back.fetch(0, 2 * CHUNK)).bytes.equals(bytes)).toBe(true);
    const { ranges } = await host.client().explain({ pid: process.pid });
    expect(ranges.map(({ kind, offset }) => [kind, Number(offset) / CHUNK])).toEqual([
      [PlacedKind.OWNED, 0],
      [PlacedKind.REPLICA, 8],
    ]);
    expect(await back.room(8 * CHUNK, CHUNK, lane!, true)).toBe(abi.Status.OK);
    await settledAt(runner, 2, 2);
    await back.end();
  }, 60_000);
});
