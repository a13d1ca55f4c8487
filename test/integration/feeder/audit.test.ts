// SPDX-License-Identifier: Apache-2.0
// What a real feeder writes into its audit log, and what it never writes.
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createId } from '../../../proto/base/ids.js';
import { FeederService } from '../../../proto/gen/greenboost/v1/feeder_pb.js';
import { createClient } from '../../../proto/grpc.js';
import { AuditReader, type AuditLine } from '../../../security/audit-reader.js';
import { auditPath } from '../../../security/audit.js';
import { createPskChannelCredentials } from '../../../security/channel.js';
import { deriveTlsPsk } from '../../../security/derive.js';
import { loadOrCreateFeederKeys, rotateFeederKey } from '../../../security/key-file.js';
import { createPairingKey, formatPairingKey, keyFingerprint } from '../../../security/pairing.js';
import { codeOf, hello, openFeeder, until, type TestFeeder } from './harness.js';

let feeder: TestFeeder;
beforeEach(async () => {
  feeder = await openFeeder();
});
afterEach(() => feeder.stop());

const stateDir = (): string => join(feeder.folder, 'state');
const lines = (): AuditLine[] => new AuditReader(stateDir()).next();
const configDir = (): string => join(feeder.folder, 'config');
const last = (event: string): AuditLine | undefined =>
  lines()
    .filter((line) => line.event === event)
    .at(-1);

test('a session from its first byte to its last', async () => {
  const [key] = loadOrCreateFeederKeys(configDir()).keys;
  const fingerprint = keyFingerprint(key!);
  const host = await feeder.connect();
  await until('named', () => last('session_named') !== undefined);
  const opened = last('session_opened')!;
  expect(opened).toMatchObject({
    by: 'feeder',
    fingerprint,
    address: expect.stringMatching(/^127\.0\.0\.1:\d+$/),
  });
  expect(last('session_named')).toMatchObject({
    session: opened['session'],
    host: host.hostId,
    hostName: 'testhost',
  });
  host.close();
  await until('closed', () => last('session_closed') !== undefined);
  expect(last('session_closed')).toMatchObject({
    session: opened['session'],
    reason: 'ended',
    fingerprint,
  });
  await feeder.connect();
  await feeder.feeder.stop();
  expect(last('session_closed')).toMatchObject({ reason: 'stopped' });
  expect(lines().map(({ event }) => event)).toEqual([
    'feeder_started',
    ...['session_opened', 'session_named', 'session_closed'],
    ...['session_opened', 'session_named', 'session_closed'],
    'feeder_stopped',
  ]);
});

test('who is turned away, and why: before the proof and after it', async () => {
  const stranger = createClient(
    FeederService,
    feeder.feeder.addresses[0] as string,
    createPskChannelCredentials({ key: createPairingKey(createId('feeder')) }),
    {},
    'FEEDER_UNREACHABLE',
  );
  expect(await codeOf(stranger.hello(hello(createId('host'))))).not.toBe('OK');
  stranger.close();
  await until('refused', () => last('session_refused') !== undefined);
  expect(last('session_refused')).toMatchObject({
    address: '127.0.0.1',
    reason: 'unknown_identity',
    count: 1,
  });
  const client = feeder.connectSilently();
  const old = { ...hello(createId('host')), version: { major: 9, minor: 4 } };
  expect(await codeOf(client.hello(old))).toBe('UNSUPPORTED');
  expect(last('session_refused')).toMatchObject({
    reason: 'unsupported',
    text: expect.stringMatching(/9\.4.*1\.0/),
    session: last('session_opened')!['session'],
  });
});

test('keys that come and go, and no secret of any of them', async () => {
  await feeder.connect();
  const [first] = loadOrCreateFeederKeys(configDir()).keys;
  const [second] = rotateFeederKey(configDir()).keys;
  const both = [second!, first!];
  await until('noticed', () => last('keys_changed') !== undefined);
  expect(last('keys_changed')).toMatchObject({ fingerprints: both.map(keyFingerprint) });
  await feeder.connect();
  expect(last('session_opened')).toMatchObject({ fingerprint: keyFingerprint(second!) });
  const text = readFileSync(auditPath(stateDir()), 'utf8');
  for (const key of both) {
    for (const secret of [key.secret, deriveTlsPsk(key).psk]) {
      expect(text).not.toContain(Buffer.from(secret).toString('hex'));
      expect(text).not.toContain(Buffer.from(secret).toString('base64').slice(0, 40));
    }
    expect(text).not.toContain(formatPairingKey(key));
    expect(text).not.toContain(deriveTlsPsk(key).identity);
  }
});
