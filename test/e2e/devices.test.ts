// SPDX-License-Identifier: Apache-2.0
// Feeders' GPUs as further CUDA devices (docs/adr/0014-devices-mode.md): an ordinary program with several GPUs, two of
// them on other machines, gets the bytes it would get on its own; what it had there is free afterwards.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { join } from 'node:path';
import { createDispatchCluster, type DispatchCluster } from './dispatch-cluster.js';
import { lentUsedBytes, MIB, PROGRAMS, waitFor } from './machine.js';

interface Told {
  readonly devices: readonly { readonly name: string; readonly totalBytes: number }[];
  readonly checks: number;
  readonly failures: number;
}

const LENT_BYTES = 128 * MIB;
const FEEDERS = 2;

let cluster: DispatchCluster;

beforeAll(async () => {
  cluster = await createDispatchCluster(FEEDERS, { lentBytes: LENT_BYTES });
}, 240_000);
afterAll(async () => (cluster as DispatchCluster | undefined)?.close(), 120_000);

test('a program that copies, computes and waits across devices finds two of them on feeders', async () => {
  const count = String(1 + FEEDERS);
  const run = ['run', '--gpu', 'sim', '--remote', 'devices', '--report', 'honest', '--'];
  const program = [join(PROGRAMS, 'gb_devices'), '--count', count, '--far', String(FEEDERS)];
  const done = await cluster.host.greenboost([...run, ...program]).finished;
  const told = JSON.parse(done.stdout.trim().split('\n').at(-1) as string) as Told;
  expect({ failures: told.failures, code: done.code, said: done.stderr }).toMatchObject({
    failures: 0,
    code: 0,
  });
  expect(told.devices.map(({ totalBytes }) => totalBytes).slice(1)).toEqual([
    LENT_BYTES,
    LENT_BYTES,
  ]);
  await waitFor('everything is released', async () => {
    const feeders = await Promise.all(cluster.feeders.map((feeder) => feeder.feedStatus()));
    return feeders.every((feeder) => lentUsedBytes(feeder) + feeder.leaseCount === 0);
  });
}, 240_000);

test('it does not go with gated, and says so', async () => {
  const run = ['run', '--gpu', 'sim', '--remote', 'devices', '--overcommit', 'gated', '--', 'true'];
  const done = await cluster.host.greenboost(run).finished;
  expect(done.code).toBe(2);
  expect(done.stderr).toContain('--remote devices works without gated');
}, 60_000);
