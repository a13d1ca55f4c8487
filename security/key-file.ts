// SPDX-License-Identifier: Apache-2.0
// The feeder's own keys: `feeder-keys.json` in the configuration folder. The first key is the one to hand out; older
// ones stay valid until they are revoked, so that a rotation never cuts a host off by surprise.
import { join } from 'node:path';
import { z } from 'zod';
import { systemClock, type Clock } from '../proto/base/clock.js';
import { GbError } from '../proto/base/errors.js';
import { createId, parseId, type FeederId } from '../proto/base/ids.js';
import { FEEDER_KEYS_MAX } from '../proto/base/limits.js';
import type { Logger } from '../proto/base/log.js';
import {
  createPairingKey,
  formatPairingKey,
  keyFingerprint,
  parsePairingKey,
  samePairingKey,
} from './pairing.js';
import type { PairingKey } from './pairing.js';
import {
  privateFileVersion,
  readPrivateFile,
  withPrivateFileLock,
  writePrivateFile,
} from './private-file.js';

/** What the file holds. */
export interface FeederKeys {
  /** The feeder's own id. Keys it made carry it; an imported shared key carries the id of its group instead. */
  readonly feederId: FeederId;
  /** Newest first; never empty except after the last key was revoked. */
  readonly keys: readonly PairingKey[];
}

/** The running feeder's view of the file; see openFeederKeys. */
export interface FeederKeyStore {
  /** The keys of the file as it is now: its version is looked at each time, so that a new key works at once. */
  current(): FeederKeys;
}

const schema = z.strictObject({
  version: z.literal(1),
  feederId: z.string().max(40),
  keys: z
    .array(
      z.strictObject({
        pairing: z.string().max(512),
        createdUnixMs: z.number().int().nonnegative(),
      }),
    )
    .max(FEEDER_KEYS_MAX),
});

export function feederKeysPath(configDir: string): string {
  return join(configDir, 'feeder-keys.json');
}

/** The keys, or undefined when there is no file yet.
 *  @throws GbError PERMISSION_DENIED when the file is not private; DATA_LOSS when it is damaged. */
export function loadFeederKeys(configDir: string): FeederKeys | undefined {
  const path = feederKeysPath(configDir);
  const text = readPrivateFile(path);
  return text === undefined ? undefined : parseFeederKeys(text, path);
}

/** The keys; makes the file with one key when there is none. */
export function loadOrCreateFeederKeys(configDir: string, clock: Clock = systemClock): FeederKeys {
  const existing = loadFeederKeys(configDir);
  if (existing) return existing;
  return withPrivateFileLock(feederKeysPath(configDir), () => {
    const meanwhile = loadFeederKeys(configDir);
    if (meanwhile) return meanwhile;
    const feederId = createId('feeder');
    return store(configDir, {
      feederId,
      keys: [createPairingKey(feederId, { createdUnixMs: clock.unixMs() })],
    });
  });
}

/** Adds a new key in front; the old ones work until they are revoked.
 *  @throws GbError CAPACITY_EXHAUSTED when there are too many; revoke old ones first. */
export function rotateFeederKey(configDir: string, clock: Clock = systemClock): FeederKeys {
  return addKey(configDir, clock, (feederId) =>
    createPairingKey(feederId, { createdUnixMs: clock.unixMs() }),
  );
}

/** Adds a key made elsewhere, to be shared by several feeders. Whoever holds it can pass for any of them. */
export function importFeederKey(
  configDir: string,
  key: PairingKey,
  clock: Clock = systemClock,
): FeederKeys {
  const { feederId, secret } = key;
  return addKey(configDir, clock, () =>
    createPairingKey(feederId, { secret, shared: true, createdUnixMs: clock.unixMs() }),
  );
}

/** Removes the key whose fingerprint begins with `fingerprint`; a running feeder closes its sessions within seconds.
 *  @throws GbError NOT_FOUND when none or more than one matches. */
export function revokeFeederKey(configDir: string, fingerprint: string): FeederKeys {
  return withPrivateFileLock(feederKeysPath(configDir), () => {
    const current = loadFeederKeys(configDir);
    const wanted = fingerprint.trim().toLowerCase();
    const matching =
      current?.keys.filter((key) => wanted !== '' && keyFingerprint(key).startsWith(wanted)) ?? [];
    const [match] = matching;
    if (!current || !match || matching.length > 1) {
      const known = current?.keys.map(keyFingerprint).join(', ') || 'none';
      throw new GbError(
        'NOT_FOUND',
        `no single key begins with "${wanted.slice(0, 40)}"; keys: ${known}`,
      );
    }
    return store(configDir, {
      feederId: current.feederId,
      keys: current.keys.filter((key) => key !== match),
    });
  });
}

/** Watches the file for the running feeder. A file that becomes unreadable is logged once and the keys last read stay
 *  valid; a file that is gone means no keys. @throws GbError as loadOrCreateFeederKeys. */
export function openFeederKeys(
  configDir: string,
  log: Logger,
  clock: Clock = systemClock,
): FeederKeyStore {
  const path = feederKeysPath(configDir);
  let keys = loadOrCreateFeederKeys(configDir, clock);
  let version = privateFileVersion(path);
  const refresh = (): void => {
    try {
      const now = privateFileVersion(path);
      if (now === version) return;
      version = now;
      keys = loadFeederKeys(configDir) ?? { feederId: keys.feederId, keys: [] };
      log.info(
        { event: 'feeder_keys_loaded', keyCount: keys.keys.length },
        'the feeder keys have changed',
      );
    } catch (err) {
      log.error(
        { event: 'feeder_keys_unreadable', err, path },
        'the feeder keys cannot be read; the old ones stay',
      );
    }
  };
  return {
    current() {
      refresh();
      return keys;
    },
  };
}

/** Reads the text of a key file. `path` is for messages. @throws GbError DATA_LOSS without any of the text in it. */
export function parseFeederKeys(text: string, path: string): FeederKeys {
  try {
    const parsed = schema.parse(JSON.parse(text));
    return {
      feederId: parseId('feeder', parsed.feederId),
      keys: parsed.keys.map(({ pairing, createdUnixMs }) =>
        parsePairingKey(pairing, createdUnixMs),
      ),
    };
  } catch {
    // No cause: it may quote the text, and the text holds secrets.
    throw new GbError(
      'DATA_LOSS',
      `${path} is damaged; restore it from a backup, or remove it to start anew`,
    );
  }
}

function addKey(
  configDir: string,
  clock: Clock,
  make: (feederId: FeederId) => PairingKey,
): FeederKeys {
  const path = feederKeysPath(configDir);
  return withPrivateFileLock(path, () => {
    const current = loadFeederKeys(configDir) ?? { feederId: createId('feeder'), keys: [] };
    const added = make(current.feederId);
    const others = current.keys.filter((key) => !samePairingKey(key, added));
    if (others.length >= FEEDER_KEYS_MAX) {
      throw new GbError(
        'CAPACITY_EXHAUSTED',
        `${path} holds ${others.length} keys; revoke those no longer used`,
      );
    }
    return store(configDir, { feederId: current.feederId, keys: [added, ...others] });
  });
}

function store(configDir: string, { feederId, keys }: FeederKeys): FeederKeys {
  const entries = keys.map((key) => ({
    pairing: formatPairingKey(key),
    createdUnixMs: key.createdUnixMs,
  }));
  const text = JSON.stringify({ version: 1, feederId, keys: entries }, undefined, 2);
  writePrivateFile(feederKeysPath(configDir), `${text}\n`);
  return { feederId, keys };
}
