// SPDX-License-Identifier: Apache-2.0
// One feeder with contiguous layers: how often a token crosses, how often it waits for the other machine, and what
// runs here after all.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import {
  createDispatchCluster,
  OVER_ACTIVATION_MAX,
  total,
  type DispatchCluster,
} from './dispatch-cluster.js';
import { MIB } from './machine.js';

/** Six layers, of which four and the head lie on the feeder. */
const LAYERS = ['--layers', '6'];
const LIMITS = { vramBudgetBytes: 18 * MIB, ramBudgetBytes: 0 };

let cluster: DispatchCluster;

beforeAll(async () => {
  cluster = await createDispatchCluster(1, { lentBytes: 160 * MIB });
}, 90_000);
afterAll(async () => (cluster as DispatchCluster | undefined)?.close(), 60_000);

/** What one token more costs in crossings, and in answers of the feeder that the program stands still for. */
async function perToken(options: readonly string[] = []) {
  const counts = async (tokens: number) => {
    const program = [...LAYERS, ...options, '--tokens', String(tokens)];
    const { result, stats } = await cluster.merged({ program, ...LIMITS });
    expect(result.mismatches).toBe(0);
    return {
      crossings: total(stats, 'crossingCount'),
      waits: total(stats, 'waitCount'),
      bytes: total(stats, 'crossingSentBytes') + total(stats, 'crossingReceivedBytes'),
      activation: result.activation_bytes,
    };
  };
  const [short, long] = [await counts(8), await counts(24)];
  return {
    crossings: (long.crossings - short.crossings) / 16,
    waits: (long.waits - short.waits) / 16,
    overActivation:
      (long.bytes - short.bytes) / (long.crossings - short.crossings) / long.activation,
  };
}

test('a token crosses there once and back once, and waits twice: for the blocks, and for the result', async () => {
  const { crossings, waits, overActivation } = await perToken();
  expect({ crossings, waits }).toEqual({ crossings: 2, waits: 2 });
  expect(overActivation).toBeLessThanOrEqual(OVER_ACTIVATION_MAX);
}, 240_000);

test('two streams with events between them cross as often, and wait no more than once more', async () => {
  const { crossings, waits } = await perToken(['--streams']);
  expect(crossings).toBe(2);
  expect(waits).toBeLessThanOrEqual(3);
}, 240_000);

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
