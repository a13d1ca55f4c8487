// SPDX-License-Identifier: Apache-2.0
// Real grpc-js client and server over loopback TCP: what a key opens, what another does not.
import { afterEach, describe, expect, test } from '@jest/globals';
import { createServer } from 'node:net';
import * as grpc from '@grpc/grpc-js';
import type { GbError } from '../../../proto/base/errors.js';
import { createId } from '../../../proto/base/ids.js';
import type { SecureInfo } from '../../../security/channel.js';
import { EXPORTER_LABELS } from '../../../security/derive.js';
import { createPairingKey, keyFingerprint } from '../../../security/pairing.js';
import { openClient, openFrontDoor, until, type EchoClient, type FrontDoor } from './harness.js';

let door: FrontDoor;
const clients: EchoClient[] = [];

function client(...args: Parameters<typeof openClient>): EchoClient {
  const opened = openClient(...args);
  clients.push(opened);
  return opened;
}

afterEach(async () => {
  for (const opened of clients.splice(0)) opened.close();
  await door.stop();
});

describe('the right key', () => {
  test.each(['127.0.0.1', '::1'])(
    'opens a session over %s whose facts are equal on both sides',
    async (host) => {
      door = await openFrontDoor({ host });
      const infos: SecureInfo[] = [];
      const host1 = client(door, { key: door.key, onSecure: (info) => infos.push(info) });
      const answer = await host1.echo('hello');
      const [session] = door.opened;
      const [info] = infos;
      expect(answer).toBe(`${session?.peer}|hello`);
      expect(session?.remoteAddress).toBe(host);
      expect(session?.feederId).toBe(door.key.feederId);
      expect(session?.keyFingerprint).toBe(keyFingerprint(door.key));
      expect(info).toMatchObject({
        cipher: 'TLS_AES_128_GCM_SHA256',
        protocol: 'TLSv1.3',
        keyExchange: 'X25519',
      });
      expect(info?.sessionId).toBe(session?.sessionId);
      expect(info?.sessionId).toMatch(/^S-[0-9a-f]{16}$/);
      const ours = Buffer.from(info?.exporter(EXPORTER_LABELS.lane, 32) as Uint8Array);
      expect(
        ours.equals(Buffer.from(session?.exporter(EXPORTER_LABELS.lane, 32) as Uint8Array)),
      ).toBe(true);
      expect(ours.equals(Buffer.from(info?.exporter('EXPORTER-other', 32) as Uint8Array))).toBe(
        false,
      );
      expect(door.failures).toEqual([]);
    },
  );

  test('gives every connection a session id and exporter of its own', async () => {
    door = await openFrontDoor();
    await client(door, { key: door.key }).echo('a');
    await client(door, { key: door.key }).echo('b');
    expect(new Set(door.opened.map(({ sessionId }) => sessionId)).size).toBe(2);
    expect(new Set(door.opened.map(({ peer }) => peer)).size).toBe(2);
  });

  test('carries a megabyte each way', async () => {
    door = await openFrontDoor();
    const text = 'x'.repeat(1 << 20);
    const answer = await client(door, { key: door.key }).echo(text, 10_000);
    expect(answer.endsWith(`|${text}`)).toBe(true);
  });

  test('still works beside a newer key after a rotation', async () => {
    door = await openFrontDoor();
    door.keys.unshift(createPairingKey(door.key.feederId));
    await client(door, { key: door.key }).echo('old');
    await client(door, { key: door.keys[0] as typeof door.key }).echo('new');
    expect(new Set(door.opened.map((session) => session.keyFingerprint)).size).toBe(2);
  });

  test('ends a session when the client closes', async () => {
    door = await openFrontDoor();
    const host = client(door, { key: door.key });
    await host.echo('x');
    host.close();
    await until(() => door.ended.length === 1);
    expect(door.listener.stats()).toMatchObject({ sessionCount: 0, handshakeCount: 0 });
  });
});

describe('another key', () => {
  test.each([
    [
      'of another feeder (unknown identity)',
      () => createPairingKey(createId('feeder')),
      'unknown_identity',
    ],
    ['of the same feeder id', () => createPairingKey(door.key.feederId), 'unknown_identity'],
  ])('%s ends in UNAUTHENTICATED and one connection', async (_, make, reason) => {
    door = await openFrontDoor();
    const failures: GbError[] = [];
    const host = client(door, { key: make(), onFailure: (error) => failures.push(error) });
    await expect(host.echo('x')).rejects.toMatchObject({ code: grpc.status.UNAVAILABLE });
    expect(host.credentials.refusal).toMatchObject({ code: 'UNAUTHENTICATED', retryable: false });
    await expect(host.echo('again')).rejects.toBeDefined();
    await new Promise((resolve) => setTimeout(resolve, 2_500)); // Two of grpc-js's backoffs.
    expect(failures).toHaveLength(1);
    expect(failures[0]?.message).toContain('refused the pairing key');
    expect(door.listener.stats()).toMatchObject({
      acceptedCount: 1,
      sessionCount: 0,
      authenticatedCount: 0,
    });
    expect(door.failures).toEqual([{ address: '127.0.0.1', reason }]);
  });

  test('that was revoked opens nothing, and its open sessions close within two seconds', async () => {
    door = await openFrontDoor();
    const host = client(door, { key: door.key });
    await host.echo('x');
    door.keys.splice(0);
    await until(() => door.ended.length === 1, 2_000);
    await expect(host.echo('y')).rejects.toBeDefined();
    expect(host.credentials.refusal?.code).toBe('UNAUTHENTICATED');
    expect(door.opened).toHaveLength(1);
  });

  test('revoke() closes the sessions of that key at once and leaves the others', async () => {
    door = await openFrontDoor();
    const second = createPairingKey(door.key.feederId);
    door.keys.push(second);
    await client(door, { key: door.key }).echo('x');
    const other = client(door, { key: second });
    await other.echo('x');
    expect(door.listener.revoke(keyFingerprint(door.key))).toBe(1);
    await until(() => door.ended.length === 1);
    await other.echo('still here');
    expect(door.listener.sessions().map((session) => session.keyFingerprint)).toEqual([
      keyFingerprint(second),
    ]);
  });
});

describe('the host', () => {
  test('says FEEDER_UNREACHABLE, not refused, when nobody listens', async () => {
    door = await openFrontDoor();
    const { port } = door;
    await door.stop();
    const host = client({ host: '127.0.0.1', port }, { key: door.key });
    await expect(host.echo('x')).rejects.toMatchObject({ code: grpc.status.UNAVAILABLE });
    expect(host.credentials.refusal).toBeUndefined();
  });

  test('refuses a peer that speaks something else', async () => {
    door = await openFrontDoor();
    const web = createServer((socket) => {
      socket.on('error', () => undefined);
      socket.end('HTTP/1.1 400 Bad Request\r\n\r\n');
    });
    await new Promise<void>((resolve) => web.listen(0, '127.0.0.1', resolve));
    const { port } = web.address() as { port: number };
    const host = client({ host: '127.0.0.1', port }, { key: door.key });
    await expect(host.echo('x')).rejects.toBeDefined();
    expect(host.credentials.refusal).toMatchObject({ code: 'UNAUTHENTICATED' });
    web.close();
  });

  test('gives up on a peer that never answers', async () => {
    door = await openFrontDoor();
    const silent = createServer((socket) => void socket.on('error', () => undefined));
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
    const { port } = silent.address() as { port: number };
    const failures: GbError[] = [];
    const host = client(
      { host: '127.0.0.1', port },
      { key: door.key, handshakeTimeoutMs: 200, onFailure: (error) => failures.push(error) },
    );
    await expect(host.echo('x')).rejects.toBeDefined();
    expect(failures[0]).toMatchObject({ code: 'FEEDER_UNREACHABLE' });
    expect(failures[0]?.message).toContain('200 ms');
    silent.close();
  });
});

describe('stop', () => {
  test('closes sessions, pending handshakes and the port, and may be called twice', async () => {
    door = await openFrontDoor();
    await client(door, { key: door.key }).echo('x');
    await Promise.all([door.listener.stop(), door.listener.stop()]);
    expect(door.ended).toHaveLength(1);
    expect(door.listener.stats()).toMatchObject({ sessionCount: 0, handshakeCount: 0 });
    const again = await openFrontDoor({ binds: [{ host: '127.0.0.1', port: door.port }] });
    expect(again.port).toBe(door.port);
    await again.stop();
  });

  test('says which address is taken', async () => {
    door = await openFrontDoor();
    await expect(
      openFrontDoor({ binds: [{ host: '127.0.0.1', port: door.port }] }),
    ).rejects.toMatchObject({
      code: 'ALREADY_EXISTS',
    });
  });
});
