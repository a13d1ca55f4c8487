// SPDX-License-Identifier: Apache-2.0
// What lanes of several hosts get of one feeder: a limit per host holds over all of its lanes, and
// a host with many connections does not starve one with few.
import { expect, test } from '@jest/globals';
import { setTimeout as sleep } from 'node:timers/promises';
import type { LaneClient } from '../../../driver/lane/client.js';
import { MIB, openFeeder, type TestFeeder, type TestHost } from './harness.js';

const BYTES = 16 * MIB;

interface Reader {
  readonly host: TestHost;
  /** Moved so far, as its feeder counts them. */
  moved(): Promise<number>;
}

async function withFeeder(
  options: Parameters<typeof openFeeder>[0],
  use: (feeder: TestFeeder) => Promise<void>,
): Promise<void> {
  const feeder = await openFeeder(options);
  try {
    await use(feeder);
  } finally {
    await feeder.stop();
  }
}

/** A host whose lanes read as fast as they can until `stop`. */
async function startReading(
  feeder: TestFeeder,
  lanes: number,
  connections: number,
  stop: AbortSignal,
): Promise<Reader> {
  const host = await feeder.connect();
  const lease = await host.lease({ ram: BYTES });
  await host.allocate(lease, 0, BYTES);
  const read = async (lane: LaneClient): Promise<void> => {
    const into = Buffer.alloc(BYTES);
    while (!stop.aborted) await lane.read(0, 0, into);
  };
  for (let count = 0; count < lanes; count++) {
    const lane = await host.lane(lease, { length: BYTES, connections });
    void read(lane).catch(() => undefined); // Its lane is closed at the end.
  }
  const moved = async (): Promise<number> =>
    Number((await host.client.statLease({ lease })).readBytes);
  return { host, moved };
}

/** Bytes per second of each reader during `ms`. */
async function ratesOf(readers: readonly Reader[], ms: number): Promise<number[]> {
  const before = await Promise.all(readers.map((reader) => reader.moved()));
  const begin = Date.now();
  await sleep(ms);
  const after = await Promise.all(readers.map((reader) => reader.moved()));
  const seconds = (Date.now() - begin) / 1000;
  return after.map((bytes, index) => (bytes - before[index]!) / seconds);
}

test('two busy hosts are within a factor of two, whatever their lanes and connections', async () => {
  await withFeeder({}, async (feeder) => {
    const stop = new AbortController();
    const few = await startReading(feeder, 1, 1, stop.signal);
    const many = await startReading(feeder, 2, 8, stop.signal);
    await sleep(4_000); // Shares are found within seconds.
    const [a, b] = await ratesOf([few, many], 6_000);
    stop.abort();
    expect(a).toBeGreaterThan(1e6);
    expect(b! / a!).toBeLessThan(2);
    expect(a! / b!).toBeLessThan(2);
  });
});

test('the limit of a host holds for all of its lanes together, and another host has its own', async () => {
  const hostRate = 20e6;
  await withFeeder({ hostRate }, async (feeder) => {
    const stop = new AbortController();
    const one = await startReading(feeder, 1, 1, stop.signal);
    const two = await startReading(feeder, 2, 2, stop.signal);
    await sleep(2_000);
    for (const rate of await ratesOf([one, two], 4_000)) {
      expect(rate).toBeLessThan(hostRate * 1.2);
      expect(rate).toBeGreaterThan(hostRate * 0.6);
    }
    stop.abort();
  });
});
