// SPDX-License-Identifier: Apache-2.0
// kill -9 of each part while the main job runs. Every test asserts that the fault really happened,
// which event the agent logged, that nobody hangs, and that memory is back in the documented times.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createCluster, type Cluster } from './cluster.js';
import { leasedBytes, lentUsedBytes, waitFor } from './machine.js';

const RELEASE_MS = 5_000;

let cluster: Cluster;

beforeAll(async () => {
  cluster = await createCluster();
});
afterAll(async () => (cluster as Cluster | undefined)?.close());

async function feederBytes(): Promise<number> {
  const feeders = await Promise.all(cluster.feeders.map((feeder) => feeder.feedStatus()));
  return feeders.reduce((sum, feeder) => sum + lentUsedBytes(feeder) + leasedBytes(feeder), 0);
}

const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};

test('program killed: its memory is back on both feeders within 5 s', async () => {
  const run = cluster.startWorkload(['--rounds', '50']);
  const attachment = await cluster.spilled();
  process.kill(attachment.pid, 'SIGKILL');
  const start = Date.now();
  const done = await run.finished;
  expect(done.code).toBe(128 + 9);
  await waitFor('feeders are empty', async () => (await feederBytes()) === 0, RELEASE_MS);
  expect(Date.now() - start).toBeLessThan(RELEASE_MS + 1_000);
  const ended = (await cluster.host.events()).filter((event) => event.name === 'attachment_ended');
  expect(ended.at(-1)?.subject).toContain(String(attachment.pid));
});

test('agent killed: the program runs on, a new agent re-adopts its leases, the result is right', async () => {
  const until = join(cluster.host.folder, 'readopted');
  const run = cluster.startWorkload(['--rounds', '100000', '--until-file', until]);
  const attachment = await cluster.spilled();
  const agentPid = (await cluster.host.status()).agentPid;
  process.kill(agentPid, 'SIGKILL');
  await waitFor('the agent is dead', () => !isAlive(agentPid));
  const back = await waitFor('a new agent has the program again', async () => {
    const status = await cluster.host.status().catch(() => undefined);
    return (
      status?.agentPid !== agentPid &&
      status?.attachments.find((a) => a.pid === attachment.pid && a.connected)
    );
  });
  expect(back.attachmentId).toBe(attachment.attachmentId);
  const names = (await cluster.host.events()).map((event) => event.name);
  expect(names).toContain('lease_adopted');
  writeFileSync(until, '');
  const done = await run.finished;
  expect({ code: done.code, stderr: done.code === 0 ? '' : done.stderr }).toEqual({
    code: 0,
    stderr: '',
  });
  await waitFor('feeders are empty', async () => (await feederBytes()) === 0, RELEASE_MS);
});

test('feeder killed: the owner gets 911 with the feeder named, the other feeder and programs carry on', async () => {
  const run = cluster.startWorkload(['--rounds', '50']);
  await cluster.spilled();
  const holding = await Promise.all(
    cluster.feeders.map(async (feeder) => lentUsedBytes(await feeder.feedStatus())),
  );
  const victim = holding[0]! >= holding[1]! ? 0 : 1;
  expect(holding[victim]).toBeGreaterThan(0);
  const daemonPid = (await cluster.feeders[victim]!.feedStatus()).pid;
  process.kill(daemonPid, 'SIGKILL');
  await waitFor('the feeder is dead', () => !isAlive(daemonPid));
  // Back as a new incarnation: what the old one held is gone for good, and the agent says so.
  await cluster.startFeeder(victim);
  const done = await run.finished;
  expect(done.code).not.toBe(0);
  expect(done.stdout + done.stderr).toContain('911');
  const events = await cluster.host.events();
  const lost = events.filter((event) => event.name === 'data_lost');
  expect(lost.length).toBeGreaterThan(0);
  expect(lost.at(-1)?.text).toContain(cluster.feeders[victim]!.name);
  expect(events.map((event) => event.name)).toContain('feeder_lost');
  await waitFor('feeders are empty', async () => (await feederBytes()) === 0, RELEASE_MS);

  const again = await cluster.startWorkload(['--rounds', '1']).finished;
  expect(again.code).toBe(0);
});

test('program and agent killed together: the feeders free everything within TTL + 5 s', async () => {
  const run = cluster.startWorkload(['--rounds', '50']);
  const attachment = await cluster.spilled();
  const agentPid = (await cluster.host.status()).agentPid;
  // The supervisor goes first, so that it cannot start a new agent.
  run.child.kill('SIGKILL');
  process.kill(agentPid, 'SIGKILL');
  process.kill(attachment.pid, 'SIGKILL');
  await waitFor('both are dead', () => !isAlive(agentPid) && !isAlive(attachment.pid));
  expect(await feederBytes()).toBeGreaterThan(0);
  await waitFor('feeders are empty', async () => (await feederBytes()) === 0, 36_000);
});
