// SPDX-License-Identifier: Apache-2.0
// The host's keys, one per feeder id: `keyring.json` in the configuration folder, under the rules of private-file.ts.
import { join } from 'node:path';
import { z } from 'zod';
import { systemClock, type Clock } from '../proto/base/clock.js';
import { GbError } from '../proto/base/errors.js';
import type { FeederId } from '../proto/base/ids.js';
import { KEYRING_ENTRIES_MAX } from '../proto/base/limits.js';
import {
  createPairingKey,
  formatPairingKey,
  parsePairingKey,
  samePairingKey,
  type PairingKey,
} from './pairing.js';
import { readPrivateFile, withPrivateFileLock, writePrivateFile } from './private-file.js';

const schema = z.strictObject({
  version: z.literal(1),
  keys: z
    .array(
      z.strictObject({
        pairing: z.string().max(512),
        importedUnixMs: z.number().int().nonnegative(),
      }),
    )
    .max(KEYRING_ENTRIES_MAX),
});

/** What importKey did. */
export type ImportOutcome = 'added' | 'replaced' | 'unchanged';

export function keyringPath(configDir: string): string {
  return join(configDir, 'keyring.json');
}

/** All keys in the order of their import; `createdUnixMs` is when they were imported. Empty without a file.
 *  @throws GbError PERMISSION_DENIED when the file is not private; DATA_LOSS when it is damaged. */
export function listKeyring(configDir: string): readonly PairingKey[] {
  const path = keyringPath(configDir);
  const text = readPrivateFile(path);
  return text === undefined ? [] : parseKeyring(text, path);
}

/** The key for a feeder (or for the group of a shared key), or undefined. */
export function findKey(configDir: string, feederId: FeederId): PairingKey | undefined {
  return listKeyring(configDir).find((key) => key.feederId === feederId);
}

/** Adds `key`; it replaces an older one of the same feeder.
 *  @throws GbError CAPACITY_EXHAUSTED when the keyring is full. */
export function importKey(
  configDir: string,
  key: PairingKey,
  clock: Pick<Clock, 'unixMs'> = systemClock,
): ImportOutcome {
  return withPrivateFileLock(keyringPath(configDir), () => {
    const keys = listKeyring(configDir);
    const present = keys.find(({ feederId }) => feederId === key.feederId);
    if (present && samePairingKey(present, key) && present.shared === key.shared)
      return 'unchanged';
    const others = keys.filter((other) => other !== present);
    if (others.length >= KEYRING_ENTRIES_MAX) {
      throw new GbError(
        'CAPACITY_EXHAUSTED',
        `the keyring holds ${others.length} keys; remove those no longer used`,
      );
    }
    const { feederId, secret, shared } = key;
    const added = createPairingKey(feederId, { secret, shared, createdUnixMs: clock.unixMs() });
    store(configDir, [...others, added]);
    return present ? 'replaced' : 'added';
  });
}

/** Removes a feeder's key; false when there was none. */
export function removeKey(configDir: string, feederId: FeederId): boolean {
  return withPrivateFileLock(keyringPath(configDir), () => {
    const keys = listKeyring(configDir);
    const others = keys.filter((key) => key.feederId !== feederId);
    if (others.length === keys.length) return false;
    store(configDir, others);
    return true;
  });
}

/** Reads the text of a keyring. `path` is for messages. @throws GbError DATA_LOSS without any of the text in it. */
export function parseKeyring(text: string, path: string): readonly PairingKey[] {
  let keys: readonly PairingKey[];
  try {
    const parsed = schema.parse(JSON.parse(text));
    keys = parsed.keys.map(({ pairing, importedUnixMs }) =>
      parsePairingKey(pairing, importedUnixMs),
    );
  } catch {
    // No cause: it may quote the text, and the text holds secrets.
    throw new GbError(
      'DATA_LOSS',
      `${path} is damaged; restore it, or remove it and import the keys again`,
    );
  }
  if (new Set(keys.map(({ feederId }) => feederId)).size !== keys.length) {
    throw new GbError('DATA_LOSS', `${path} names a feeder twice; remove one of the entries`);
  }
  return keys;
}

function store(configDir: string, keys: readonly PairingKey[]): void {
  const entries = keys.map((key) => ({
    pairing: formatPairingKey(key),
    importedUnixMs: key.createdUnixMs,
  }));
  writePrivateFile(
    keyringPath(configDir),
    `${JSON.stringify({ version: 1, keys: entries }, undefined, 2)}\n`,
  );
}
