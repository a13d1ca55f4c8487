// SPDX-License-Identifier: Apache-2.0
// Kernels run on the feeders that hold their data (docs/adr/0013-dispatch.md): a decode loop with a third of its layers
// on each of three machines gives what it gives natively, and what it costs is counted.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ExplainJson } from '../../tui/model/dispatch.js';
import {
  createDispatchCluster,
  decoded,
  LAYER_BYTES,
  OVER_ACTIVATION_MAX,
  TOKENS,
  total,
  untilToken,
  type DispatchCluster,
  type Stats,
} from './dispatch-cluster.js';
import { attachmentOf, lentUsedBytes, MIB, waitFor } from './machine.js';

/** There and back, for each of two feeders that hold layers which follow each other. */
const CROSSINGS_OF_TWO = 4;
/** Of a step, those that name a range beside small allocations: all but the reduction. */
const LAUNCHES_OF_RANGES = 12 * 7 + 2;

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

/** Of a launch and what belongs to it, in a batch and in the record around that. */
const COMMAND_BYTES_MAX = 256;
/** Of a batch: its record, and the commands that bring blocks. */
const BATCH_BYTES_MAX = 2048;

type Run = Awaited<ReturnType<DispatchCluster['merged']>>;

/** Two runs that differ by 20 tokens, long after owners have been learned. How many steps that takes, and what crosses
 *  meanwhile, differs from run to run: of some pairs, one in which it did not, if there is one. */
async function twentyMoreTokens(): Promise<{ before: Run; after: Run }> {
  const decode = (tokens: number): Promise<Run> =>
    cluster.merged({ program: ['--tokens', String(TOKENS + tokens)] });
  const crossings = ({ stats }: Run): number => total(stats, 'crossingCount');
  for (let pair = 1; ; pair++) {
    const [before, after] = [await decode(40), await decode(60)];
    expect([before.result.mismatches, after.result.mismatches]).toEqual([0, 0]);
    const same = crossings(after) - crossings(before) === 20 * CROSSINGS_OF_TWO;
    if (same || pair === 10) return { before, after };
  }
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

  // What 20 more tokens cost is the difference, where loading and learning took the same.
  const { before, after } = await twentyMoreTokens();
  const more = (name: Parameters<typeof total>[1]): number =>
    total(after.stats, name) - total(before.stats, name);
  expect(more('crossingCount') / 20).toBe(CROSSINGS_OF_TWO);
  const crossed = more('crossingSentBytes') + more('crossingReceivedBytes');
  expect(crossed / more('crossingCount')).toBeLessThanOrEqual(
    OVER_ACTIVATION_MAX * after.result.activation_bytes,
  );

  // Not one byte of a weight: nothing goes beside the batches, and they hold crossings and commands.
  const evictedBytes = after.stats.evictBytes - before.stats.evictBytes;
  expect(more('laneSentBytes') - more('batchSentBytes') - evictedBytes).toBe(0);
  expect(more('laneReceivedBytes') - more('batchReceivedBytes')).toBe(0);
  const commandBytes =
    more('launchCount') * COMMAND_BYTES_MAX + more('batchCount') * BATCH_BYTES_MAX;
  expect(commandBytes).toBeLessThan(20 * LAYER_BYTES);
  const sentBytes = more('wireSentBytes') - more('crossingSentBytes');
  const receivedBytes = more('wireReceivedBytes') - more('crossingReceivedBytes');
  expect(sentBytes).toBeGreaterThan(0);
  expect(sentBytes).toBeLessThan(commandBytes);
  expect(receivedBytes).toBeGreaterThan(0);
  expect(receivedBytes).toBeLessThan(commandBytes);
}, 240_000);

test('the host says what ran where, what it learned, and what it moved for it', async () => {
  const until = join(cluster.host.folder, 'until');
  const program = ['--tokens', '100000', '--token-ms', '20', '--until-file', until];
  const running = cluster.start({ run: ['--remote', 'merged'], program });
  await untilToken(running, 8);
  const { pid, dispatch } = attachmentOf(await cluster.host.status())!;
  const told = JSON.parse(
    await cluster.host.call(['explain', String(pid), '--json']),
  ) as ExplainJson;
  expect(told.step).toMatchObject({
    launchCount: LAUNCHES_OF_RANGES,
    crossingNowCount: CROSSINGS_OF_TWO,
    crossingPlannedCount: CROSSINGS_OF_TWO,
  });
  expect(told.step!.crossingBeforeCount).toBeGreaterThan(CROSSINGS_OF_TWO);
  expect(told.step!.movedCount).toBeGreaterThan(0);
  expect(told.ranges.some(({ why }) => /; used by launch/.test(why))).toBe(true);
  expect(dispatch).toMatchObject({ on: true, undispatched: {} });
  expect(dispatch.dispatchedCount).toBeGreaterThan(0);
  expect(dispatch.owners.map(({ feederName }) => feederName).sort()).toEqual([
    'feeder1',
    'feeder2',
  ]);
  const held = await Promise.all(
    cluster.feeders.map(async (f) => lentUsedBytes(await f.feedStatus())),
  );
  writeFileSync(until, '');
  // What the ends of a run need may have come home for it: at most two ranges.
  expect(sum(held)).toBeGreaterThanOrEqual(8 * LAYER_BYTES - 4 * MIB);
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
