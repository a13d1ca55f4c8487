// SPDX-License-Identifier: Apache-2.0
// A TLS implementation that is not ours knocks: openssl s_client with the right key, wrong ones, other protocols, and
// with a ticket it was given.
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer as createTlsServer } from 'node:tls';
import { connect as connectHttp2 } from 'node:http2';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { deriveTlsPsk } from '../../../security/derive.js';
import {
  openClient,
  openFrontDoor,
  pskArguments,
  sClient,
  until,
  type FrontDoor,
} from './harness.js';

let door: FrontDoor;
let folder: string;

beforeEach(async () => {
  door = await openFrontDoor();
  folder = mkdtempSync(join(tmpdir(), 'gb-security-'));
});

afterEach(async () => {
  await door.stop();
  rmSync(folder, { recursive: true });
});

/** What the peer got on the wire, without what differs by chance: directions, lengths and first bytes of messages. */
function shapeOf(output: string): string[] {
  const lines = output.split('\n');
  return lines.flatMap((line, index) =>
    line.startsWith('<<<')
      ? [`${line} ${line.includes('Alert') ? lines[index + 1]?.trim() : ''}`]
      : [],
  );
}

describe('openssl s_client', () => {
  test('with the right key gets TLS 1.3, an ephemeral exchange and h2', async () => {
    const output = await sClient(door.port, pskArguments(door.key));
    expect(output).toContain('Cipher is TLS_AES_128_GCM_SHA256');
    expect(output).toContain('Server Temp Key: X25519');
    expect(output).toContain('ALPN protocol: h2');
    expect(output).toContain('no peer certificate available');
    expect(door.opened).toHaveLength(1);
    expect(door.failures).toEqual([]);
  });

  test('that also offers psk_ke still gets the ephemeral exchange', async () => {
    const output = await sClient(door.port, [...pskArguments(door.key), '-allow_no_dhe_kex']);
    expect(output).toContain('Server Temp Key: X25519');
    expect(door.opened).toHaveLength(1);
  });

  test('with a wrong key and with a wrong identity sees the same: one alert, and the end', async () => {
    const wrongKey = await sClient(door.port, pskArguments(door.key, { psk: randomBytes(32) }));
    const identity = `gb1.${'0'.repeat(32)}`;
    const wrongIdentity = await sClient(door.port, pskArguments(door.key, { identity }));
    const both = await sClient(
      door.port,
      pskArguments(door.key, { identity, psk: randomBytes(32) }),
    );
    expect(shapeOf(wrongKey)).toEqual(shapeOf(wrongIdentity));
    expect(shapeOf(wrongKey)).toEqual(shapeOf(both));
    expect(shapeOf(wrongKey).some((line) => line.includes('illegal_parameter'))).toBe(true);
    for (const output of [wrongKey, wrongIdentity, both]) {
      expect(output).toContain('SSL handshake has read 7 bytes');
      expect(output).toContain('SSL alert number 47');
      expect(output).toContain('Cipher is (NONE)');
    }
    expect(door.failures.map(({ reason }) => reason)).toEqual([
      'wrong_key',
      'unknown_identity',
      'unknown_identity',
    ]);
    expect(door.opened).toEqual([]);
  });

  test.each([
    ['TLS 1.2', ['-tls1_2'], 'not_tls13'],
    ['TLS 1.2 with the PSK', ['-tls1_2', '-psk', '00'.repeat(32)], 'not_tls13'],
    ['TLS 1.3 without a PSK', ['-tls1_3', '-alpn', 'h2'], 'no_psk'],
  ])('with %s is closed without a byte', async (_, args, reason) => {
    const output = await sClient(door.port, args);
    expect(output).toContain('SSL handshake has read 0 bytes');
    expect(door.failures).toEqual([{ address: '127.0.0.1', reason }]);
  });

  test.each([['http/1.1'], [undefined]])(
    'with ALPN %s is closed without a byte',
    async (protocol) => {
      const args = pskArguments(door.key);
      const index = args.indexOf('-alpn');
      args.splice(index, 2, ...(protocol ? ['-alpn', protocol] : []));
      const output = await sClient(door.port, args);
      expect(output).toContain('SSL handshake has read 0 bytes');
      expect(door.failures).toEqual([{ address: '127.0.0.1', reason: 'no_h2' }]);
    },
  );

  test.each(['TLS_AES_256_GCM_SHA384', 'TLS_CHACHA20_POLY1305_SHA256'])(
    'with %s alone gets no session',
    async (suite) => {
      const output = await sClient(door.port, [...pskArguments(door.key), '-ciphersuites', suite]);
      expect(output).toContain('Cipher is (NONE)');
      expect(door.opened).toEqual([]);
      expect(door.failures).toHaveLength(1);
    },
  );

  test('resumes nothing with what it was given: a ticket is worth no session', async () => {
    const file = join(folder, 'ticket.pem');
    const first = await sClient(door.port, [...pskArguments(door.key), '-sess_out', file]);
    expect(first).toContain('Cipher is TLS_AES_128_GCM_SHA256');
    door.keys.splice(0); // Revoked: the only thing the peer still holds is the ticket.
    const second = await sClient(door.port, ['-tls1_3', '-alpn', 'h2', '-sess_in', file]);
    expect(second).toContain('SSL handshake has read 0 bytes');
    expect(second).not.toContain('Reused');
    expect(door.opened).toHaveLength(1);
    expect(door.failures).toEqual([{ address: '127.0.0.1', reason: 'no_psk' }]);
  });

  test('resumes nothing while its key is still valid either', async () => {
    const file = join(folder, 'ticket.pem');
    await sClient(door.port, [...pskArguments(door.key), '-sess_out', file]);
    const second = await sClient(door.port, ['-tls1_3', '-alpn', 'h2', '-sess_in', file]);
    expect(second).toContain('SSL handshake has read 0 bytes');
    expect(door.opened).toHaveLength(1);
  });

  test('has its early data ignored', async () => {
    const output = await sClient(door.port, pskArguments(door.key));
    expect(output).toContain('Early data was not sent');
    expect(output).toContain('Max Early Data: 0');
  });
});

describe('plain HTTP/2', () => {
  test('is closed without a byte', async () => {
    const client = connectHttp2(`http://127.0.0.1:${door.port}`);
    const failed = await new Promise<boolean>((resolve) => {
      client.on('error', () => resolve(true));
      client.on('close', () => resolve(true));
      client.on('remoteSettings', () => resolve(false));
    });
    expect(failed).toBe(true);
    await until(() => door.failures.length === 1);
    expect(door.failures).toEqual([{ address: '127.0.0.1', reason: 'not_tls' }]);
  });
});

describe('our client meets a foreign server', () => {
  /** A server of openssl's, on a port of the system's choice. */
  async function sServer(args: readonly string[]): Promise<{ port: number; stop(): void }> {
    const probe = createTlsServer();
    await new Promise<void>((resolve) => probe.listen(0, '127.0.0.1', resolve));
    const { port } = probe.address() as { port: number };
    await new Promise<void>((resolve) => probe.close(() => resolve()));
    const child = spawn('openssl', [
      's_server',
      '-accept',
      `127.0.0.1:${port}`,
      '-naccept',
      '1',
      ...args,
    ]);
    let output = '';
    child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()));
    await until(() => output.includes('ACCEPT'));
    return { port, stop: () => void child.kill('SIGKILL') };
  }

  const identityHex = (): string => Buffer.from(deriveTlsPsk(door.key).psk).toString('hex');

  test('that has no key but a certificate: UNAUTHENTICATED, whoever signed it', async () => {
    const certificate = join(folder, 'cert.pem');
    const privateKey = join(folder, 'key.pem');
    await run('openssl', [
      'req',
      '-x509',
      '-newkey',
      'ec',
      '-pkeyopt',
      'ec_paramgen_curve:P-256',
      '-nodes',
      '-days',
      '1',
      '-subj',
      '/CN=127.0.0.1',
      '-addext',
      'subjectAltName=IP:127.0.0.1',
      '-keyout',
      privateKey,
      '-out',
      certificate,
    ]);
    const server = await sServer([
      '-cert',
      certificate,
      '-key',
      privateKey,
      '-tls1_3',
      '-alpn',
      'h2',
    ]);
    const client = openClient({ host: '127.0.0.1', port: server.port }, { key: door.key });
    await expect(client.echo('x')).rejects.toBeDefined();
    expect(client.credentials.refusal).toMatchObject({ code: 'UNAUTHENTICATED' });
    client.close();
    server.stop();
  });

  test('that has another key: UNAUTHENTICATED', async () => {
    const { identity } = deriveTlsPsk(door.key);
    const server = await sServer([
      '-nocert',
      '-psk',
      '11'.repeat(32),
      '-psk_identity',
      identity,
      '-tls1_3',
    ]);
    const client = openClient({ host: '127.0.0.1', port: server.port }, { key: door.key });
    await expect(client.echo('x')).rejects.toBeDefined();
    expect(client.credentials.refusal).toMatchObject({ code: 'UNAUTHENTICATED' });
    client.close();
    server.stop();
  });

  test('that has the key but offers no h2: UNAUTHENTICATED', async () => {
    const { identity } = deriveTlsPsk(door.key);
    const server = await sServer([
      '-nocert',
      '-psk',
      identityHex(),
      '-psk_identity',
      identity,
      '-tls1_3',
    ]);
    const client = openClient({ host: '127.0.0.1', port: server.port }, { key: door.key });
    await expect(client.echo('x')).rejects.toBeDefined();
    expect(client.credentials.refusal?.message).toContain('not HTTP/2');
    client.close();
    server.stop();
  });

  test('that only speaks TLS 1.2 with the key: UNAUTHENTICATED', async () => {
    const server = await sServer(['-nocert', '-psk', identityHex(), '-tls1_2', '-cipher', 'PSK']);
    const client = openClient({ host: '127.0.0.1', port: server.port }, { key: door.key });
    await expect(client.echo('x')).rejects.toBeDefined();
    expect(client.credentials.refusal).toMatchObject({ code: 'UNAUTHENTICATED' });
    client.close();
    server.stop();
  });
});

function run(command: string, args: readonly string[]): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: 'ignore' });
    child.on('error', reject);
    child.on('close', (code) =>
      code === 0 ? resolve() : reject(new Error(`${command} answered ${code}`)),
    );
  });
}
