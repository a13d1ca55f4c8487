// SPDX-License-Identifier: Apache-2.0
// Whether a feeder lends compute, and to whom: what it tells of its devices, who gets a lane with the right CALL, and
// what such a lane may do, on the simulated driver.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { LaneStatus } from '../../../driver/lane/names.js';
import { resolveConfig } from '../../../feeder/config.js';
import { LaneRight } from '../../../proto/gen/greenboost/v1/feeder_pb.js';
import { useSimulatedGpu } from '../simulated-gpu.js';
import {
  ARENA_BYTES,
  codeOf,
  firstStats,
  GPU,
  MIB,
  openFeeder,
  RAM,
  type TestFeeder,
} from './harness.js';
import { batch, callOver, Command, words } from './run-batch.js';

/** `length` bytes of `value`. */
function fill(offset: number, length: number, value: number): [number, Buffer] {
  const element = Buffer.alloc(8);
  element.writeUInt32LE(1, 0);
  element.writeUInt32LE(value, 4);
  return [Command.FILL, Buffer.concat([words(offset, length, length, 1), element])];
}

const STATUS = 0;
const RESULT_BYTES = 40;
const CALL = LaneRight.READ_WRITE_CALL;
const vram = new Map([[0, 64 * MIB]]);

let feeder: TestFeeder;
let memoryOnly: TestFeeder;

beforeAll(async () => {
  useSimulatedGpu();
  feeder = await openFeeder({ gpu: 'sim', vramBytes: vram });
  memoryOnly = await openFeeder({ gpu: 'sim', vramBytes: vram, compute: false });
}, 30_000);
afterAll(async () => {
  await feeder?.stop();
  await memoryOnly?.stop();
}, 20_000);

describe('a feeder tells', () => {
  test('which devices kernels of hosts can use, in Hello, in its statistics and to its owner', async () => {
    for (const [it, expected] of [
      [feeder, [true, true]],
      [memoryOnly, [false, false]],
    ] as const) {
      const host = await it.connect();
      const { devices } = await firstStats(host.client);
      const told = devices as unknown as { compute: boolean; computeCapability: number }[];
      expect(told.map(({ compute }) => compute)).toEqual(expected);
      expect(told[1]!.computeCapability).toBeGreaterThan(0);
      const status = await it.control().getFeedStatus({});
      expect(status.stats!.devices.map(({ compute }) => compute)).toEqual(expected);
    }
  });

  test('that it lends none without a GPU, and what its environment says otherwise', async () => {
    const base = { ramBytes: 4 * MIB, ramReserveBytes: 0, port: 0, bind: ['127.0.0.1'] };
    const lent = { ...base, gpu: 'sim' as const, vramBytes: vram };
    const computeOf = async (options: typeof base, env: Record<string, string>) =>
      (await resolveConfig(options, { ...process.env, ...env })).compute;
    expect(await computeOf(base, {})).toBe(false);
    expect(await computeOf(lent, {})).toBe(true);
    expect(await computeOf(lent, { GREENBOOST_COMPUTE: 'off' })).toBe(false);
    expect(await computeOf({ ...lent, ...{ compute: true } }, { GREENBOOST_COMPUTE: 'off' })).toBe(
      true,
    );
    expect(await codeOf(computeOf(lent, { GREENBOOST_COMPUTE: 'maybe' }))).toBe('INVALID_ARGUMENT');
  });
});

describe('a lane with the right CALL', () => {
  test('has the executor work on VRAM, and on RAM that its GPU maps, in order', async () => {
    const host = await feeder.connect();
    const lease = await host.lease({ ram: 2 * MIB, gpu: 2 * MIB });
    await host.allocate(lease, 0, 2 * MIB, GPU);
    await host.allocate(lease, 2 * MIB, 2 * MIB, RAM);
    const ticket = await host.ticket(lease, { rights: CALL });
    const read: [number, Buffer] = [Command.READ, words(2 * MIB - 8, 16)];
    const { status, answer } = await callOver(
      ticket,
      batch(1, fill(0, 2 * MIB, 0x11), fill(2 * MIB, 2 * MIB, 0x22), fill(8, 8, 0x33), read),
    );
    expect(status).toBe(LaneStatus.OK);
    expect(answer.readUInt32LE(STATUS)).toBe(0);
    expect(answer.subarray(RESULT_BYTES).toString('hex')).toBe('11'.repeat(8) + '22'.repeat(8));
    expect((await host.read(lease, 0, 24)).toString('hex')).toBe(
      '11'.repeat(8) + '33'.repeat(8) + '11'.repeat(8),
    );
    await host.client.releaseLease({ lease });
  }, 20_000);

  test('can touch nothing that its lease does not hold', async () => {
    const host = await feeder.connect();
    const lease = await host.lease({ gpu: 2 * MIB });
    await host.allocate(lease, 0, 2 * MIB, GPU);
    const ticket = await host.ticket(lease, { rights: CALL });
    const { answer } = await callOver(
      ticket,
      batch(1, fill(MIB, 2 * MIB, 1), [Command.SYNC, Buffer.alloc(0)]),
    );
    expect(answer.readUInt32LE(STATUS)).not.toBe(0);
    expect((await host.read(lease, 0, 2 * MIB)).every((byte) => byte === 0)).toBe(true);
    await host.client.releaseLease({ lease });
  }, 20_000);

  test('is what it takes: one that reads and writes runs nothing', async () => {
    const host = await feeder.connect();
    const lease = await host.lease({ gpu: 2 * MIB });
    await host.allocate(lease, 0, 2 * MIB, GPU);
    const ticket = await host.ticket(lease, { rights: LaneRight.READ_WRITE });
    const { status } = await callOver(ticket, batch(1, fill(0, MIB, 1)));
    expect(status).toBe(LaneStatus.DENIED);
    expect((await host.read(lease, 0, MIB)).every((byte) => byte === 0)).toBe(true);
    await host.client.releaseLease({ lease });
  }, 20_000);

  test('is not given by a feeder that lends memory only', async () => {
    const host = await memoryOnly.connect();
    const lease = await host.lease({ gpu: 2 * MIB });
    expect(await codeOf(host.ticket(lease, { rights: CALL }))).toBe('PERMISSION_DENIED');
    expect(await codeOf(host.ticket(lease, { rights: LaneRight.READ_WRITE }))).toBe('OK');
    await host.client.releaseLease({ lease });
  });

  test.each([
    ['to a part of the arena', { length: ARENA_BYTES - 4096n }],
    ['from beyond its beginning', { offset: 4096n, length: ARENA_BYTES - 4096n }],
    ['for another feeder', { brokeredSecret: new Uint8Array(32).fill(1) }],
  ])('is not given %s', async (_name, wrong) => {
    const host = await feeder.connect();
    const lease = await host.lease({ gpu: 2 * MIB });
    const asked = host.client.openLane({ lease, length: ARENA_BYTES, rights: CALL, ...wrong });
    expect(await codeOf(asked)).toBe('INVALID_ARGUMENT');
    await host.client.releaseLease({ lease });
  });

  test('is nothing for a probe', async () => {
    const host = await feeder.connect();
    expect(await codeOf(host.ticket(undefined, { rights: CALL }))).toBe('INVALID_ARGUMENT');
  });
});
