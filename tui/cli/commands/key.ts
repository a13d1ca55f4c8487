// SPDX-License-Identifier: Apache-2.0
// `greenboost key …`: this feeder's own keys and the keyring of a host. Secrets are printed by `key show` alone.
import { GbError } from '../../../proto/base/errors.js';
import { parseId } from '../../../proto/base/ids.js';
import { configDir } from '../../../proto/base/paths.js';
import {
  importFeederKey,
  loadFeederKeys,
  loadOrCreateFeederKeys,
  revokeFeederKey,
  rotateFeederKey,
} from '../../../security/key-file.js';
import { resolveKeyInput } from '../../../security/key-input.js';
import {
  findKey,
  importKey,
  listKeyring,
  removeKey,
  type ImportOutcome,
} from '../../../security/keyring.js';
import {
  formatPairingKey,
  keyFingerprint,
  parsePairingKey,
  samePairingKey,
  type PairingKey,
} from '../../../security/pairing.js';
import { SCHEMA_VERSION } from '../../model/snapshot.js';
import { noteKeyAdded, noteKeyRemoved } from '../key-audit.js';
import type { KeyJson } from '../outputs.js';
import { note, tableLines, writeJson, writeLine } from '../output.js';
import { canPrompt, promptSecret, readSecretFromStdin } from '../prompt.js';

function keyJson(key: PairingKey): KeyJson {
  return {
    feederId: key.feederId,
    fingerprint: keyFingerprint(key),
    shared: key.shared,
    createdUnixMs: key.createdUnixMs === 0 ? null : key.createdUnixMs,
  };
}

function dateText(unixMs: number | null): string {
  return unixMs === null ? '-' : new Date(unixMs).toISOString().slice(0, 16).replace('T', ' ');
}

function keyRows(keys: readonly PairingKey[]): string[] {
  const columns = [
    { title: 'FEEDER' },
    { title: 'FINGERPRINT' },
    { title: 'KIND' },
    { title: 'SINCE (UTC)' },
  ];
  const rows = keys
    .map(keyJson)
    .map((key) => [
      key.feederId,
      key.fingerprint,
      key.shared ? 'shared' : 'own',
      dateText(key.createdUnixMs),
    ]);
  return tableLines({ columns, rows });
}

/** Where a key may come from: --key-file, GREENBOOST_KEY, a prompt, and for `import` standard input.
 *  @throws GbError as resolveKeyInput; CANCELED when the person gives up. */
export async function readKey(options: {
  keyFile?: string;
  question: string;
  stdin?: boolean;
}): Promise<PairingKey> {
  const env = process.env;
  const given = options.keyFile !== undefined || (env['GREENBOOST_KEY'] ?? '') !== '';
  if (!given && options.stdin && process.stdin.isTTY !== true) {
    return parsePairingKey(await readSecretFromStdin());
  }
  const prompt = canPrompt() ? () => promptSecret(options.question) : undefined;
  return resolveKeyInput({ keyFile: options.keyFile, env, prompt });
}

/** Puts a key into the keyring and names in the audit log what came and what it replaced. */
export function addToKeyring(key: PairingKey, how: string): ImportOutcome {
  const before = findKey(configDir(), key.feederId);
  const outcome = importKey(configDir(), key);
  if (outcome === 'unchanged') return outcome;
  if (before && !samePairingKey(before, key)) noteKeyRemoved('keyring', before, how);
  noteKeyAdded('keyring', key, how);
  return outcome;
}

/** Makes this feeder's key unless there is one; prints the fingerprint, not the key. */
export async function keyGenerate(): Promise<void> {
  const existed = loadFeederKeys(configDir()) !== undefined;
  const { feederId, keys } = loadOrCreateFeederKeys(configDir());
  const [newest] = keys;
  if (newest && !existed) noteKeyAdded('own', newest, 'generate');
  if (!newest) {
    throw new GbError('NOT_FOUND', 'every key of this feeder was revoked', {
      details: { hint: 'make a new one: greenboost key rotate' },
    });
  }
  writeLine(
    `${existed ? 'this feeder already has a key' : 'made a key'}: ${feederId} ${keyFingerprint(newest)}`,
  );
  note('print it with: greenboost key show');
}

function ownKey(): PairingKey {
  const newest = loadFeederKeys(configDir())?.keys[0];
  if (newest) return newest;
  throw new GbError('NOT_FOUND', 'this machine has no feeder key yet', {
    details: { hint: 'make one: greenboost key generate' },
  });
}

/** Prints the key itself: the only place where a secret reaches standard output. */
export async function keyShow(options: { json?: boolean }): Promise<void> {
  const key = ownKey();
  if (options.json) {
    writeJson<'key show'>({
      schemaVersion: SCHEMA_VERSION,
      ...keyJson(key),
      pairingKey: formatPairingKey(key),
    });
    return;
  }
  writeLine(formatPairingKey(key));
  if (process.stdout.isTTY)
    note('whoever has this line can use the memory this feeder lends; give it to hosts only');
}

/** Puts a key into the keyring, or with --as-own in front of this feeder's own keys. */
export async function keyImport(options: { keyFile?: string; asOwn?: boolean }): Promise<void> {
  const key = await readKey({ ...options, question: 'Pairing key: ', stdin: true });
  if (options.asOwn) {
    importFeederKey(configDir(), key);
    noteKeyAdded('own', key, 'import --as-own');
    writeLine(`this feeder now uses the shared key ${keyFingerprint(key)}`);
    note('whoever holds a shared key can pass for any feeder that uses it (docs/security.md)');
    return;
  }
  const outcome = addToKeyring(key, 'import');
  writeLine(`${outcome}: ${key.feederId} ${keyFingerprint(key)}`);
}

/** Adds a new key in front; the old ones work until they are revoked. */
export async function keyRotate(): Promise<void> {
  const { keys } = rotateFeederKey(configDir());
  const [newest, ...older] = keys;
  if (newest) noteKeyAdded('own', newest, 'rotate');
  if (newest) writeLine(`new key: ${newest.feederId} ${keyFingerprint(newest)}`);
  note('give hosts the new key: greenboost key show');
  for (const key of older)
    note(
      `still valid: ${keyFingerprint(key)}; end it with: greenboost key revoke ${keyFingerprint(key)}`,
    );
}

/** Takes one of this feeder's keys out of use; a running feeder closes its sessions within seconds. */
export async function keyRevoke(fingerprint: string): Promise<void> {
  const before = loadFeederKeys(configDir())?.keys ?? [];
  const { keys } = revokeFeederKey(configDir(), fingerprint);
  const gone = before.filter((key) => !keys.some((left) => samePairingKey(left, key)));
  for (const key of gone) noteKeyRemoved('own', key, 'revoke');
  writeLine(`revoked ${fingerprint}; ${keys.length} left`);
  if (keys.length === 0)
    note('this feeder accepts nobody now; make a new key: greenboost key rotate');
}

/** Both sides' keys: the keyring of this host, and the keys of this feeder if it is one. Never a secret. */
export async function keyList(options: { json?: boolean }): Promise<void> {
  const keyring = listKeyring(configDir());
  const own = loadFeederKeys(configDir())?.keys ?? [];
  if (options.json) {
    writeJson<'key list'>({
      schemaVersion: SCHEMA_VERSION,
      keyring: keyring.map(keyJson),
      own: own.map(keyJson),
    });
    return;
  }
  if (keyring.length === 0) writeLine('keyring: empty');
  else ['keyring:', ...keyRows(keyring)].forEach((line) => writeLine(line));
  if (own.length > 0)
    ['', 'keys of this feeder, newest first:', ...keyRows(own)].forEach((line) => writeLine(line));
}

/** Forgets the key of a feeder. @throws GbError NOT_FOUND when the keyring does not hold it. */
export async function keyRemove(feeder: string): Promise<void> {
  const feederId = parseId('feeder', feeder);
  const key = findKey(configDir(), feederId);
  if (!key || !removeKey(configDir(), feederId)) {
    throw new GbError('NOT_FOUND', `the keyring holds no key of ${feederId}`, {
      details: { hint: 'see which it holds: greenboost key list' },
    });
  }
  noteKeyRemoved('keyring', key, 'remove');
  writeLine(
    `removed the key of ${feederId}; an open link ends with: greenboost disconnect ${feederId}`,
  );
}
