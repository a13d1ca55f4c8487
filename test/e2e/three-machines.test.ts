// SPDX-License-Identifier: Apache-2.0
// The main job across machines: an unmodified driver-API program three times larger than its VRAM
// runs on a host with two feeders, each in a network namespace of its own. Every byte is accounted
// for while it runs, and none is left after.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import {
  createCluster,
  RAM_BUDGET_BYTES,
  VRAM_BUDGET_BYTES,
  WORKING_SET_BYTES,
  type Cluster,
} from './cluster.js';
import { leasedBytes, lentUsedBytes, waitFor } from './machine.js';

let cluster: Cluster;

beforeAll(async () => {
  cluster = await createCluster();
});
afterAll(async () => (cluster as Cluster | undefined)?.close());

test('connect measures the links and status shows every tier', async () => {
  const status = await cluster.host.status();
  expect(status.links.map((link) => link.state)).toEqual(['ready', 'ready']);
  for (const link of status.links) {
    expect(link.rttMicros).toBeGreaterThan(0);
    expect(link.uploadBytesPerSecond).toBeGreaterThan(1e6);
    expect(link.downloadBytesPerSecond).toBeGreaterThan(1e6);
    expect(link.cipher).toContain('TLS_AES_128_GCM_SHA256');
  }
  const kinds = status.tiers.map((tier) => tier.kind).sort();
  expect(kinds).toEqual(['feeder_ram', 'feeder_ram', 'local_ram', 'local_vram']);
});

test('a program three times its VRAM is right, and all three machines agree on its bytes', async () => {
  const run = cluster.startWorkload(['--rounds', '2', '--hold-seconds', '4']);
  await cluster.spilled();
  // The account is taken while the program holds still: its own bytes, the agent's view, the
  // feeders' own counters.
  const agreed = await waitFor(
    'host and feeders agree',
    async () => {
      const attachment = (await cluster.host.status()).attachments[0];
      if (!attachment || attachment.allocatedBytes < WORKING_SET_BYTES) return undefined;
      const feeders = await Promise.all(cluster.feeders.map((feeder) => feeder.feedStatus()));
      const held = feeders.reduce((sum, feeder) => sum + lentUsedBytes(feeder), 0);
      return held === attachment.feederRamUsedBytes ? { attachment, feeders, held } : undefined;
    },
    60_000,
  );
  const { attachment, feeders, held } = agreed;
  expect(attachment.vramUsedBytes).toBeLessThanOrEqual(VRAM_BUDGET_BYTES);
  expect(attachment.ramUsedBytes).toBeLessThanOrEqual(RAM_BUDGET_BYTES);
  expect(attachment.vramUsedBytes + attachment.ramUsedBytes + held).toBeGreaterThanOrEqual(
    WORKING_SET_BYTES,
  );
  expect(held).toBeGreaterThanOrEqual(WORKING_SET_BYTES - VRAM_BUDGET_BYTES - RAM_BUDGET_BYTES);
  const granted = feeders.reduce((sum, feeder) => sum + leasedBytes(feeder), 0);
  expect(granted).toBe(attachment.feederGrantedBytes);

  const done = await run.finished;
  expect({ code: done.code, stderr: done.code === 0 ? '' : done.stderr }).toEqual({
    code: 0,
    stderr: '',
  });
  const result = JSON.parse(done.stdout.trim().split('\n').at(-1) as string) as {
    mismatches: number;
  };
  expect(result.mismatches).toBe(0);
});

test('afterwards every counter is zero on all three machines', async () => {
  await waitFor(
    'everything is released',
    async () => {
      const status = await cluster.host.status();
      const feeders = await Promise.all(cluster.feeders.map((feeder) => feeder.feedStatus()));
      const left = [
        status.attachments.length,
        ...status.tiers
          .filter((tier) => tier.kind !== 'local_vram')
          .map((tier) => tier.usedBytes + tier.grantedBytes),
        ...feeders.map((feeder) => lentUsedBytes(feeder) + leasedBytes(feeder) + feeder.leaseCount),
      ];
      return left.every((value) => value === 0);
    },
    6_000,
  );
});
