// SPDX-License-Identifier: Apache-2.0
// What dispatch does when machines come and go in the middle of decoding: a feeder paused by its user, another agent.
// dispatch-kills.test.ts kills feeders.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import {
  createDispatchCluster,
  decoded,
  untilToken,
  type DispatchCluster,
} from './dispatch-cluster.js';
import { attachmentOf, leasedBytes, lentUsedBytes, waitFor, type Running } from './machine.js';

let cluster: DispatchCluster;

beforeAll(async () => {
  cluster = await createDispatchCluster();
}, 90_000);
afterAll(async () => (cluster as DispatchCluster | undefined)?.close(), 60_000);

const merged = (program: readonly string[]): Running =>
  cluster.start({ run: ['--remote', 'merged'], program });

async function feedersEmpty(): Promise<void> {
  await waitFor(
    'feeders are empty',
    async () => {
      const feeders = await Promise.all(cluster.feeders.map((feeder) => feeder.feedStatus()));
      return feeders.every((feeder) => lentUsedBytes(feeder) + leasedBytes(feeder) === 0);
    },
    6_000,
  );
}

/** Feeders on which kernels of the program have run. */
async function owners(): Promise<string[]> {
  const attachment = await waitFor('the program is attached', async () =>
    attachmentOf(await cluster.host.status(), (a) =>
      a.dispatch.owners.some((o) => o.launchCount > 0),
    ),
  );
  return attachment.dispatch.owners
    .filter((owner) => owner.launchCount > 0)
    .map((owner) => owner.feederName)
    .sort();
}

test('a feeder paused by its user: what runs goes on there, what starts does not', async () => {
  const running = merged(['--tokens', '100', '--token-ms', '30']);
  await untilToken(running, 10);
  await cluster.feeders[0]!.call(['feed', 'pause']);
  const at = Number(/token (\d+)\n$/.exec(running.output())?.[1] ?? 10);
  await untilToken(running, at + 20);
  expect((await decoded(running)).mismatches).toBe(0);
  const next = merged(['--layers', '6', '--tokens', '60', '--token-ms', '30']);
  await untilToken(next, 20);
  expect(await owners()).toEqual(['feeder2']);
  expect((await decoded(next)).mismatches).toBe(0);
  await cluster.feeders[0]!.call(['feed', 'resume']);
  await feedersEmpty();
}, 120_000);

test('another agent in the middle: the program goes on, kernels still run on both feeders', async () => {
  const running = merged(['--tokens', '300', '--token-ms', '30']);
  await untilToken(running, 10);
  const { agentPid } = await cluster.host.status();
  process.kill(agentPid, 'SIGKILL');
  await waitFor(
    'another agent has the program',
    async () => {
      const status = await cluster.host.status().catch(() => undefined);
      return status?.agentPid !== agentPid && status?.attachments.some((a) => a.connected);
    },
    25_000,
  );
  const before = attachmentOf(await cluster.host.status())!.dispatch.dispatchedCount;
  await waitFor(
    'more kernels run there',
    async () => (attachmentOf(await cluster.host.status())?.dispatch.dispatchedCount ?? 0) > before,
  );
  const result = await decoded(running);
  expect(result).toMatchObject({ mismatches: 0, steps: 300 });
  await feedersEmpty();
}, 180_000);
