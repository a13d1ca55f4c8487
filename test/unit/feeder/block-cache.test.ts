// SPDX-License-Identifier: Apache-2.0
// Folders of the block cache: whose they are, how large they may get, and when they go.
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock, type Clock } from '../../../proto/base/clock.js';
import { createId } from '../../../proto/base/ids.js';
import { CACHE_BYTES_MAX_DEFAULT } from '../../../proto/base/limits.js';
import { createLogger } from '../../../proto/base/log.js';
import { createPairingKey, keyFingerprint } from '../../../security/pairing.js';
import { BlockCache, defaultCacheBytes } from '../../../feeder/block-cache.js';
import { chooseLanePort } from '../../../feeder/config.js';

const log = createLogger({ name: 'test', level: 'silent' });
const id = createId('feeder');
let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'gb-cache-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

test('the default is a tenth of what is free, bounded, also before there is a folder', () => {
  const bytes = defaultCacheBytes(join(folder, 'not', 'there', 'yet'));
  expect(bytes).toBe(defaultCacheBytes(folder));
  expect(bytes).toBeGreaterThan(0);
  expect(bytes).toBeLessThanOrEqual(CACHE_BYTES_MAX_DEFAULT);
  expect(existsSync(join(folder, 'not'))).toBe(false);
});

test('every key has a folder and a secret of its own, closed to others', () => {
  const path = join(folder, 'blocks');
  const cache = new BlockCache(path, 1e9, log);
  const [one, two] = [createPairingKey(id), createPairingKey(id)];
  const places = [cache.folderOf(one), cache.folderOf(two), cache.folderOf(one)];
  expect(places.map((place) => place.path)).toEqual(
    [one, two, one].map((key) => join(path, keyFingerprint(key))),
  );
  expect(places[0]!.key).toEqual(places[2]!.key);
  expect(places[0]!.key).not.toEqual(places[1]!.key);
  for (const place of [path, places[0]!.path]) expect(statSync(place).mode & 0o777).toBe(0o700);
});

test('blocks of a key that is gone are removed, at the start and while it runs', () => {
  const path = join(folder, 'blocks');
  const [one, two, gone] = [createPairingKey(id), createPairingKey(id), createPairingKey(id)];
  const before = new BlockCache(path, 1e9, log);
  for (const key of [one, two, gone])
    writeFileSync(join(before.folderOf(key).path, 'block'), 'sealed');
  writeFileSync(join(path, 'a note of its owner'), '');
  let tick: () => void = () => undefined;
  const clock: Clock = {
    ...systemClock,
    every(_ms, callback) {
      tick = callback;
      return { cancel: () => (tick = () => undefined) };
    },
  };
  let keys = [one, two];
  const cache = new BlockCache(path, 1e9, log);
  cache.watch(() => keys, clock);
  const kept = (): boolean[] =>
    [one, two, gone].map((key) => existsSync(join(path, keyFingerprint(key), 'block')));
  expect(kept()).toEqual([true, true, false]);
  keys = [two];
  tick();
  expect(kept()).toEqual([false, true, false]);
  expect(existsSync(join(path, 'a note of its owner'))).toBe(true);
  cache.close();
  keys = [];
  tick();
  expect(kept()).toEqual([false, true, false]);
});

test('a folder that is a link, a file, or too deep is refused with what to do', () => {
  mkdirSync(join(folder, 'real'));
  symlinkSync(join(folder, 'real'), join(folder, 'link'));
  writeFileSync(join(folder, 'file'), '');
  for (const name of ['link', 'file']) {
    expect(() => new BlockCache(join(folder, name), 1e9, log)).toThrow(/--cache-dir/);
  }
  expect(() => new BlockCache(join(folder, 'x'.repeat(240)), 1e9, log)).toThrow(/too long/);
  mkdirSync(join(folder, 'open'));
  chmodSync(join(folder, 'open'), 0o755);
  expect(new BlockCache(join(folder, 'open'), 1e9, log).budgetBytes).toBe(1e9);
  expect(statSync(join(folder, 'open')).mode & 0o777).toBe(0o700); // Its owner's: closed.
});

test('the lane port is the one after the feeder’s own unless another is named', () => {
  expect(chooseLanePort(undefined, 9740)).toBe(9741);
  expect(chooseLanePort(undefined, 0)).toBe(0);
  expect(chooseLanePort(0, 9740)).toBe(0);
  expect(chooseLanePort(9000, 9740)).toBe(9000);
  expect(() => chooseLanePort(undefined, 65_535)).toThrow(/--lane-port/);
  expect(() => chooseLanePort(9740, 9740)).toThrow(/--lane-port/);
});
