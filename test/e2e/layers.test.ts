// SPDX-License-Identifier: Apache-2.0
// The decode loop of gb_layers gives the same tokens, logits and weights on a GPU that holds all of it and on a host
// that keeps two thirds of it on feeders, however it is written.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { createDispatchCluster, decoded, type DispatchCluster } from './dispatch-cluster.js';
import { MIB } from './machine.js';

let cluster: DispatchCluster;

beforeAll(async () => {
  cluster = await createDispatchCluster();
}, 90_000);
afterAll(async () => (cluster as DispatchCluster | undefined)?.close(), 60_000);

/** One allocation of all weights has to fit the host's own memory while it is used. */
const ROOM_FOR_ONE = { vramBudgetBytes: 48 * MIB, ramBudgetBytes: 16 * MIB };

test.each([
  [[], {}],
  [['--one-buffer'], ROOM_FOR_ONE],
  [['--extra'], {}],
  [['--ex', '--struct'], {}],
  [['--symbol'], {}],
  [['--streams'], {}],
  [['--hostfunc'], {}],
  [['--fill'], {}],
])(
  'gb_layers %j is the same natively and with bytes on feeders',
  async (program, room) => {
    const wanted = await cluster.native(program);
    const got = await decoded(cluster.start({ program, ...room }));
    const { tokens, tokens_sum, logits, weights } = wanted;
    expect(wanted.mismatches).toBe(0);
    expect(got).toMatchObject({ tokens, tokens_sum, logits, weights, mismatches: 0 });
  },
  120_000,
);

test.each([[['--table']], [['--graph']]])(
  'gb_layers %j may touch all of it at once: right where that fits, refused by name where it does not',
  async (program) => {
    const wanted = await cluster.native(program);
    const fits = { vramBudgetBytes: 96 * MIB, ramBudgetBytes: 16 * MIB };
    const { tokens_sum, logits, weights } = wanted;
    const got = await decoded(cluster.start({ program, ...fits }));
    expect(got).toMatchObject({ tokens_sum, logits, weights, mismatches: 0 });
    const refused = await cluster.start({ program }).finished;
    expect(refused.code).toBe(3);
    expect(refused.stderr).toContain('launch_refused');
    expect(refused.stderr).toContain('2 CUDA_ERROR_OUT_OF_MEMORY');
  },
  120_000,
);
