// SPDX-License-Identifier: Apache-2.0
// Kernels run on the feeders that hold their data (docs/adr/0013-dispatch.md): a decode loop with a third of its layers
// on each of three machines gives what it gives natively, and what it costs is counted.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import {
  createDispatchCluster,
  decoded,
  LAYER_BYTES,
  TOKENS,
  untilToken,
  type DispatchCluster,
  type Stats,
} from './dispatch-cluster.js';
import { attachmentOf, lentUsedBytes, waitFor, type Machine } from './machine.js';

/** A crossing with a launch that names more of the activations than those before it is one more. */
const CROSSINGS_OF_TWO = 12;

let cluster: DispatchCluster;

beforeAll(async () => {
  cluster = await createDispatchCluster();
}, 90_000);
afterAll(async () => (cluster as DispatchCluster | undefined)?.close(), 60_000);

const sum = (values: readonly number[]): number =>
  values.reduce((total, value) => total + value, 0);

const undispatched = (stats: Stats): number =>
  sum(
    Object.entries(stats)
      .filter(([name]) => name.startsWith('undispatched'))
      .map(([, count]) => count as number),
  );

const crossings = (stats: Stats): number =>
  sum(stats.launchOwners.map((owner) => owner.crossingCount));

/** Bytes that this machine's link has carried, both ways, with their headers. */
async function wireBytes(machine: Machine): Promise<number> {
  const { stdout } = await machine.start(['cat', '/proc/net/dev']).finished;
  const counts = /gb0:\s*(.*)/.exec(stdout)![1]!.split(/\s+/).map(Number);
  return counts[0]! + counts[8]!;
}

test('a third of the layers on each machine: native results, launches where the data lie', async () => {
  const native = await cluster.native();
  const short = await cluster.merged();
  const { tokens, tokens_sum, logits, weights } = native;
  expect(short.result).toMatchObject({ tokens, tokens_sum, logits, weights, mismatches: 0 });
  const { dispatchedCount, launchOwners, fetchBytes, refusedLaunchCount } = short.stats;
  expect(launchOwners.map(({ feederName }) => feederName).sort()).toEqual(['feeder1', 'feeder2']);
  for (const owner of launchOwners) expect(owner.launchCount).toBeGreaterThan(0);
  expect(dispatchedCount / (dispatchedCount + undispatched(short.stats))).toBeGreaterThan(0.95);
  expect({ fetchBytes, refusedLaunchCount }).toEqual({ fetchBytes: 0, refusedLaunchCount: 0 });

  // Loading costs the same in both, so what 20 more tokens cost is the difference.
  const long = await cluster.merged({ program: ['--tokens', String(TOKENS + 20)] });
  expect(long.result.mismatches).toBe(0);
  expect((crossings(long.stats) - crossings(short.stats)) / 20).toBeLessThanOrEqual(
    CROSSINGS_OF_TWO,
  );
}, 120_000);

test('after the load no weight crosses, and the host says what ran where', async () => {
  const program = ['--tokens', '60', '--token-ms', '60'];
  const running = cluster.start({ run: ['--remote', 'merged'], program });
  await untilToken(running, 8);
  const before = await Promise.all(cluster.feeders.map(wireBytes));
  await untilToken(running, 38);
  const after = await Promise.all(cluster.feeders.map(wireBytes));
  // 30 tokens read each of at least three layers 30 times.
  for (const [index, bytes] of after.entries())
    expect((bytes - before[index]!) / 30).toBeLessThan(LAYER_BYTES / 20);
  const { dispatch } = attachmentOf(await cluster.host.status())!;
  expect(dispatch).toMatchObject({ on: true, undispatched: {} });
  expect(dispatch.dispatchedCount).toBeGreaterThan(0);
  expect(dispatch.owners.map(({ feederName }) => feederName).sort()).toEqual([
    'feeder1',
    'feeder2',
  ]);
  const held = await Promise.all(
    cluster.feeders.map(async (f) => lentUsedBytes(await f.feedStatus())),
  );
  expect(sum(held)).toBeGreaterThanOrEqual(8 * LAYER_BYTES);
  expect((await decoded(running)).mismatches).toBe(0);
  await waitFor('everything is released', async () => {
    const feeders = await Promise.all(cluster.feeders.map((feeder) => feeder.feedStatus()));
    return feeders.every((feeder) => lentUsedBytes(feeder) + feeder.leaseCount === 0);
  });
}, 120_000);

test.each([
  ['arguments in a buffer', ['--extra']],
  ['cuLaunchKernelEx and pointers in a structure', ['--ex', '--struct']],
  ['a variable of the module written for each token', ['--symbol']],
  ['two streams and events', ['--streams']],
  ['host callbacks', ['--hostfunc']],
  ['fills, and copies between layers of all machines', ['--fill']],
])(
  '%s: dispatched, and the same as natively',
  async (_, program) => {
    const native = await cluster.native(program);
    const { result, stats } = await cluster.merged({ program });
    const { tokens_sum, logits, weights } = native;
    expect(result).toMatchObject({ tokens_sum, logits, weights, mismatches: 0 });
    expect(stats.dispatchedCount).toBeGreaterThan(native.weight_launches / 2);
  },
  120_000,
);

test.each([['--table'], ['--graph']])(
  "%s beyond the host's memory is refused by name",
  async (flag) => {
    const running = cluster.start({ run: ['--remote', 'merged'], program: [flag] });
    const refused = await running.finished;
    expect(refused.code).toBe(3);
    expect(refused.stderr).toContain('launch_refused');
    expect(refused.stderr).toContain('2 CUDA_ERROR_OUT_OF_MEMORY');
  },
  60_000,
);
