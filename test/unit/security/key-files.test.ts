// SPDX-License-Identifier: Apache-2.0
import { describe, expect, test } from '@jest/globals';
import { chmodSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { pino } from 'pino';
import type { Clock } from '../../../proto/base/clock.js';
import { createId } from '../../../proto/base/ids.js';
import { FEEDER_KEYS_MAX, KEYRING_ENTRIES_MAX } from '../../../proto/base/limits.js';
import {
  feederKeysPath,
  importFeederKey,
  loadFeederKeys,
  loadOrCreateFeederKeys,
} from '../../../security/key-file.js';
import { openFeederKeys, revokeFeederKey, rotateFeederKey } from '../../../security/key-file.js';
import {
  findKey,
  importKey,
  keyringPath,
  listKeyring,
  removeKey,
} from '../../../security/keyring.js';
import { createPairingKey, formatPairingKey, keyFingerprint } from '../../../security/pairing.js';
import { samePairingKey, type PairingKey } from '../../../security/pairing.js';
import { temporaryFolder } from './temporary.js';

const folder = temporaryFolder();
const fingerprints = (keys: readonly PairingKey[] = []): string[] => keys.map(keyFingerprint);

/** Time that stands still. */
function manualClock(): Clock {
  const none = { cancel: () => undefined };
  return {
    nowMs: () => 1_000,
    unixMs: () => 1_700_000_001_000,
    after: () => none,
    every: () => none,
  };
}

describe('the feeder keys', () => {
  test('are made once, 0600, and read back the same', () => {
    expect(loadFeederKeys(folder())).toBeUndefined();
    const clock = manualClock();
    const made = loadOrCreateFeederKeys(folder(), clock);
    const again = loadOrCreateFeederKeys(folder());
    expect(made.keys).toHaveLength(1);
    expect(made.keys[0]).toMatchObject({
      feederId: made.feederId,
      shared: false,
      createdUnixMs: clock.unixMs(),
    });
    expect(again.feederId).toBe(made.feederId);
    expect(again.keys[0]?.createdUnixMs).toBe(clock.unixMs());
    expect(samePairingKey(again.keys[0] as PairingKey, made.keys[0] as PairingKey)).toBe(true);
    expect(statSync(feederKeysPath(folder())).mode & 0o777).toBe(0o600);
  });

  test('of a rotation stand in front; the old key stays until it is revoked', () => {
    const first = loadOrCreateFeederKeys(folder());
    const second = rotateFeederKey(folder());
    expect(second.feederId).toBe(first.feederId);
    expect(fingerprints(second.keys).slice(1)).toEqual(fingerprints(first.keys));
    const old = keyFingerprint(first.keys[0] as PairingKey);
    const third = revokeFeederKey(folder(), old.slice(0, 9));
    expect(fingerprints(third.keys)).toEqual(fingerprints(second.keys.slice(0, 1)));
    expect(fingerprints(loadFeederKeys(folder())?.keys)).toEqual(fingerprints(third.keys));
  });

  test.each(['', 'ffff-ffff', '.*', '-'])('are not revoked by "%s"', (fingerprint) => {
    rotateFeederKey(folder());
    rotateFeederKey(folder());
    expect(() => revokeFeederKey(folder(), fingerprint)).toThrow('NOT_FOUND');
    expect(loadFeederKeys(folder())?.keys).toHaveLength(2);
  });

  test('may all be revoked; the id stays', () => {
    const { feederId, keys } = loadOrCreateFeederKeys(folder());
    expect(revokeFeederKey(folder(), keyFingerprint(keys[0] as PairingKey)).keys).toEqual([]);
    expect(loadOrCreateFeederKeys(folder())).toEqual({ feederId, keys: [] });
    expect(rotateFeederKey(folder())).toMatchObject({ feederId });
  });

  test('take an imported key as shared, under the id of its group, once', () => {
    const { feederId } = loadOrCreateFeederKeys(folder());
    const group = createPairingKey(createId('feeder'));
    importFeederKey(folder(), group);
    const { feederId: mine, keys } = importFeederKey(folder(), group);
    expect(mine).toBe(feederId);
    expect(keys).toHaveLength(2);
    expect(keys[0]).toMatchObject({ feederId: group.feederId, shared: true });
    expect(keyFingerprint(keys[0] as PairingKey)).toBe(keyFingerprint(group));
  });

  test('are limited in number', () => {
    for (let count = 0; count < FEEDER_KEYS_MAX; count += 1) rotateFeederKey(folder());
    expect(() => rotateFeederKey(folder())).toThrow('CAPACITY_EXHAUSTED');
    expect(loadFeederKeys(folder())?.keys).toHaveLength(FEEDER_KEYS_MAX);
  });

  test('of a damaged file are refused without quoting it', () => {
    const { feederId, keys } = loadOrCreateFeederKeys(folder());
    const pairing = formatPairingKey(keys[0] as PairingKey);
    const good = { version: 1, feederId, keys: [{ pairing, createdUnixMs: 1 }] };
    for (const text of [
      '',
      '{',
      'null',
      '[]',
      '{"version":1}',
      JSON.stringify({ ...good, version: 2 }),
      JSON.stringify({ ...good, extra: 1 }),
      JSON.stringify({ ...good, feederId: 'F-1' }),
      JSON.stringify({
        ...good,
        keys: [{ pairing: `${pairing.slice(0, -1)}U`, createdUnixMs: 1 }],
      }),
      JSON.stringify({ ...good, keys: [{ pairing, createdUnixMs: -1 }] }),
      JSON.stringify({
        ...good,
        keys: Array(FEEDER_KEYS_MAX + 1).fill({ pairing, createdUnixMs: 1 }),
      }),
      JSON.stringify(good).slice(0, -9),
    ]) {
      writeFileSync(feederKeysPath(folder()), text);
      expect(() => loadFeederKeys(folder())).toThrow(
        /^\[DATA_LOSS\] (?!.*gb1-).*is damaged; restore it/,
      );
      expect(() => rotateFeederKey(folder())).toThrow('DATA_LOSS');
      expect(readFileSync(feederKeysPath(folder()), 'utf8')).toBe(text); // Never overwritten: it may be mended.
    }
  });
});

describe('the running feeder', () => {
  test('sees changes at once, keeps its keys when the file turns bad, has none when it is gone', () => {
    const lines: string[] = [];
    const log = pino({ level: 'info' }, { write: (line: string) => void lines.push(line) });
    const clock = manualClock();
    const running = openFeederKeys(folder(), log, clock);
    const first = keyFingerprint(running.current().keys[0] as PairingKey);
    expect(running.current()).toBe(running.current()); // The same objects: what is derived from them is kept.
    rotateFeederKey(folder());
    expect(running.current().keys).toHaveLength(2);
    revokeFeederKey(folder(), first);
    expect(fingerprints(running.current().keys)).not.toContain(first);
    chmodSync(feederKeysPath(folder()), 0o644);
    for (let round = 0; round < 3; round += 1) {
      expect(running.current().keys).toHaveLength(1);
    }
    expect(lines.filter((line) => line.includes('feeder_keys_unreadable'))).toHaveLength(1);
    rmSync(feederKeysPath(folder()));
    expect(running.current().keys).toEqual([]);
    expect(lines.join()).not.toContain('gb1-');
  });
});

describe('the keyring', () => {
  test('holds one key per feeder', () => {
    const key = createPairingKey(createId('feeder'));
    const other = createPairingKey(createId('feeder'), { shared: true });
    const clock = manualClock();
    expect(listKeyring(folder())).toEqual([]);
    expect(importKey(folder(), key, clock)).toBe('added');
    expect(importKey(folder(), other, clock)).toBe('added');
    expect(importKey(folder(), key, clock)).toBe('unchanged');
    const newer = createPairingKey(key.feederId);
    expect(importKey(folder(), newer, clock)).toBe('replaced');
    expect(keyFingerprint(findKey(folder(), key.feederId) as PairingKey)).toBe(
      keyFingerprint(newer),
    );
    expect(findKey(folder(), other.feederId)).toMatchObject({
      shared: true,
      createdUnixMs: clock.unixMs(),
    });
    expect(statSync(keyringPath(folder())).mode & 0o777).toBe(0o600);
    expect(removeKey(folder(), key.feederId)).toBe(true);
    expect(removeKey(folder(), key.feederId)).toBe(false);
    expect(listKeyring(folder())).toHaveLength(1);
    expect(findKey(folder(), key.feederId)).toBeUndefined();
  });

  test('learns that a key it has is shared', () => {
    const key = createPairingKey(createId('feeder'));
    importKey(folder(), key);
    const shared = createPairingKey(key.feederId, { secret: key.secret, shared: true });
    expect(importKey(folder(), shared)).toBe('replaced');
    expect(findKey(folder(), key.feederId)).toMatchObject({ shared: true });
  });

  test('is limited in size', () => {
    const keys = Array.from({ length: KEYRING_ENTRIES_MAX }, () =>
      createPairingKey(createId('feeder')),
    );
    importKey(folder(), keys[0] as PairingKey);
    const entries = keys.map((key) => ({ pairing: formatPairingKey(key), importedUnixMs: 1 }));
    writeFileSync(keyringPath(folder()), JSON.stringify({ version: 1, keys: entries }));
    expect(listKeyring(folder())).toHaveLength(KEYRING_ENTRIES_MAX);
    expect(() => importKey(folder(), createPairingKey(createId('feeder')))).toThrow(
      'CAPACITY_EXHAUSTED',
    );
    expect(importKey(folder(), createPairingKey((keys[3] as PairingKey).feederId))).toBe(
      'replaced',
    );
  });

  test('that names a feeder twice or is damaged or open to others is refused', () => {
    const key = createPairingKey(createId('feeder'));
    importKey(folder(), key);
    const entry = { pairing: formatPairingKey(key), importedUnixMs: 1 };
    writeFileSync(keyringPath(folder()), JSON.stringify({ version: 1, keys: [entry, entry] }));
    expect(() => listKeyring(folder())).toThrow('names a feeder twice');
    writeFileSync(keyringPath(folder()), 'gb1-oops');
    expect(() => listKeyring(folder())).toThrow(/DATA_LOSS/);
    chmodSync(keyringPath(folder()), 0o660);
    expect(() => findKey(folder(), key.feederId)).toThrow('PERMISSION_DENIED');
    expect(() => importKey(folder(), key)).toThrow('PERMISSION_DENIED');
  });
});
