// SPDX-License-Identifier: Apache-2.0
// The block cache behind real leases: what one host sent, the next one need not send, for as long
// as the pairing key lives.
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createId } from '../../../proto/base/ids.js';
import { revokeFeederKey, rotateFeederKey } from '../../../security/key-file.js';
import { FeatureBit, type LeaseRef } from '../../../proto/gen/greenboost/v1/feeder_pb.js';
import {
  hello,
  MIB,
  openFeeder,
  pattern,
  until,
  type TestFeeder,
  type TestHost,
} from './harness.js';

const CONTENT_CACHE = 1n << BigInt(FeatureBit.CONTENT_CACHE - 1);
const BLOCKS = 12;
const BYTES = BLOCKS * MIB;
const content = pattern(BYTES, 77);
const blockAt = (index: number): Buffer => content.subarray(index * MIB, (index + 1) * MIB);
const digests = Array.from({ length: BLOCKS }, (_, index) =>
  createHash('sha256').update(blockAt(index)).digest(),
);

let folder: string;
let open: TestFeeder[];
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'gb-blocks-'));
  open = [];
});
afterEach(async () => {
  for (const feeder of open) await feeder.stop();
  rmSync(folder, { recursive: true, force: true });
});

async function start(options: Parameters<typeof openFeeder>[0] = {}): Promise<TestFeeder> {
  const cache = { cacheDir: join(folder, 'blocks'), cacheBytes: 256 * MIB };
  const feeder = await openFeeder({ configDir: join(folder, 'config'), ...cache, ...options });
  open.push(feeder);
  return feeder;
}

async function hostOf(feeder: TestFeeder, features = CONTENT_CACHE): Promise<TestHost> {
  return feeder.connect(createId('host'), features);
}

/** Offers all blocks, sends those that are not there, and reads everything back. Returns how many
 *  were sent. */
async function store(host: TestHost, keep = true): Promise<number> {
  const lease: LeaseRef = await host.lease({ ram: BYTES });
  await host.allocate(lease, 0, BYTES);
  const lane = await host.lane(lease, { length: BYTES });
  const have = await lane.offer(0, 0, MIB, digests);
  for (let index = 0; index < BLOCKS; index++)
    if (!have[index]) await lane.write(0, index * MIB, blockAt(index));
  const back = Buffer.alloc(BYTES);
  await lane.read(0, 0, back);
  expect(back.equals(content)).toBe(true);
  const missing = have.filter((one) => !one).length;
  expect(Number((await host.client.statLease({ lease })).writeBytes)).toBe(missing * MIB);
  await lane.close();
  if (keep) await untilKept(); // An executor that goes keeps no more.
  await host.client.releaseLease({ lease });
  return missing;
}

const filesBelow = (path: string): string[] =>
  readdirSync(path, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
const bytesBelow = (path: string): number =>
  filesBelow(path).reduce((sum, file) => sum + statSync(file).size, 0);

async function untilKept(): Promise<void> {
  await until('all blocks are kept', () => bytesBelow(join(folder, 'blocks')) >= BYTES);
}

test('what was sent once is not sent again: by another host, after a restart, and never shown on disk', async () => {
  const first = await start();
  expect(await store(await hostOf(first))).toBe(BLOCKS);
  expect(await store(await hostOf(first))).toBe(0);
  await first.stop();
  const second = await start();
  expect(await store(await hostOf(second))).toBe(0);
  const { cacheDir, cacheBudgetBytes } = await second.control().getFeedStatus({});
  expect([cacheDir, cacheBudgetBytes]).toEqual([join(folder, 'blocks'), BigInt(256 * MIB)]);
  for (const file of filesBelow(cacheDir)) {
    const bytes = readFileSync(file);
    expect(statSync(file).mode & 0o077).toBe(0);
    expect(bytes.includes(content.subarray(4096, 4128))).toBe(false);
    for (const digest of digests) expect(file).not.toContain(digest.toString('hex'));
  }
});

test('without the feature nothing is found and nothing kept', async () => {
  const feeder = await start();
  const plain = await hostOf(feeder, 0n);
  expect(await store(plain, false)).toBe(BLOCKS);
  expect(await store(plain, false)).toBe(BLOCKS);
  expect(bytesBelow(join(folder, 'blocks'))).toBe(0);
});

test('a feeder without cache does not agree to the feature', async () => {
  const none = await start({ cacheBytes: 0 });
  const client = none.connectSilently();
  const told = await client.hello({ ...hello(createId('host')), featuresOffered: CONTENT_CACHE });
  expect(told.features).toBe(0n);
  const other = none.connectSilently();
  const asked = { ...hello(createId('host')), featuresRequired: CONTENT_CACHE };
  await expect(other.hello(asked)).rejects.toMatchObject({ code: 'UNSUPPORTED' });
  expect(existsSync(join(folder, 'blocks'))).toBe(false);
});

test('a key that is gone takes its blocks along', async () => {
  const feeder = await start();
  const { keyFingerprint } = feeder.feeder.facts;
  await store(await hostOf(feeder));
  rotateFeederKey(join(folder, 'config'));
  revokeFeederKey(join(folder, 'config'), keyFingerprint);
  const old = join(folder, 'blocks', keyFingerprint);
  await until('the folder is gone', () => !existsSync(old));
  expect(await store(await hostOf(feeder))).toBe(BLOCKS);
});
