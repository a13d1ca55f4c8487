// SPDX-License-Identifier: Apache-2.0
// One feeder with contiguous layers, behind a line: how often a token crosses, how often it waits for the
// other machine, and what runs here after all.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { createDispatchCluster, type DispatchCluster, type Stats } from './dispatch-cluster.js';
import { PLAIN } from './lines.js';
import { MIB } from './machine.js';

/** One way, so that everything else a token takes is less than one round trip; one of 200 us is shorter than what the
 *  scheduler of a busy machine does to a token. */
const DELAY = '30ms';
const ROUND_TRIP_MS = 60;
/** Six layers, of which four and the head lie on the feeder. */
const LAYERS = ['--layers', '6'];
const LIMITS = { vramBudgetBytes: 18 * MIB, ramBudgetBytes: 0 };

let cluster: DispatchCluster;

beforeAll(async () => {
  cluster = await createDispatchCluster(1, { lines: [PLAIN], lentBytes: 160 * MIB });
}, 90_000);
afterAll(async () => (cluster as DispatchCluster | undefined)?.close(), 60_000);

const crossings = (stats: Stats): number =>
  stats.launchOwners.reduce((total, { crossingCount }) => total + crossingCount, 0);

async function decode(tokens: number) {
  const program = [...LAYERS, '--tokens', String(tokens)];
  const { result, stats } = await cluster.merged({ program, ...LIMITS });
  expect(result.mismatches).toBe(0);
  return { ms: result.token_milliseconds, crossings: crossings(stats) };
}

test('a token crosses there in two launches and back once; it waits for the feeder at most twice', async () => {
  const short = await decode(8);
  const near = await decode(24);
  expect((near.crossings - short.crossings) / 16).toBeLessThanOrEqual(3);
  await cluster.network.lines[0]!.set({ delay: DELAY });
  const far = await decode(24);
  await cluster.network.lines[0]!.set(PLAIN);
  const waits = (far.ms - near.ms) / ROUND_TRIP_MS;
  expect(waits).toBeGreaterThan(0.5);
  expect(waits).toBeLessThan(4);
}, 120_000);

test('all weights in one buffer on the feeder: dispatched, and the same as natively', async () => {
  const program = ['--one-buffer', '--layers', '4'];
  const native = await cluster.native(program);
  const limits = { vramBudgetBytes: 16 * MIB, ramBudgetBytes: 8 * MIB };
  const { result, stats } = await cluster.merged({ program, ...limits });
  const { tokens_sum, logits, weights } = native;
  expect(result).toMatchObject({ tokens_sum, logits, weights, mismatches: 0 });
  expect(stats.dispatchedCount).toBeGreaterThan(0);
}, 60_000);

test.each([
  ['a table of pointers in device memory', '--table'],
  ['a graph', '--graph'],
])(
  '%s may touch everything: all of it comes home, and it runs here, counted',
  async (_, flag) => {
    const native = await cluster.native([flag]);
    // What the ballast has driven away fits once it is gone.
    const limits = { vramBudgetBytes: 72 * MIB, ramBudgetBytes: 32 * MIB };
    const { result, stats } = await cluster.merged({
      program: [flag, '--ballast', '64MiB'],
      ...limits,
    });
    const { tokens_sum, logits, weights } = native;
    expect(result).toMatchObject({ tokens_sum, logits, weights, mismatches: 0 });
    expect(stats.fetchBytes).toBeGreaterThan(0);
    expect(stats.unaccountedLaunchCount).toBeGreaterThan(0);
  },
  60_000,
);
