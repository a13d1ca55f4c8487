// SPDX-License-Identifier: Apache-2.0
import { describe, expect, test } from '@jest/globals';
import { Duplex } from 'node:stream';
import { connect } from 'node:tls';
import { inspectClientHello } from '../../../security/client-hello.js';
import { TLS_PARAMETERS } from '../../../security/tls-parameters.js';
import {
  buildHello,
  IDENTITY,
  vector,
  wrapHello,
  wrapRecord,
  type HelloParts,
} from './hello-builder.js';

const MAX = 16 * 1024;
const verdict = (bytes: Buffer, max = MAX): ReturnType<typeof inspectClientHello> =>
  inspectClientHello(bytes, max);
const flaw = (bytes: Buffer, max = MAX): string => {
  const result = verdict(bytes, max);
  return result.t === 'refused' ? result.flaw : result.t;
};

/** The first bytes OpenSSL sends for a client of ours. */
function opensslHello(identity: string): Promise<Buffer> {
  return new Promise((resolve) => {
    const wire = new Duplex({
      read: () => undefined,
      write: (chunk: Buffer, _encoding, done) => {
        resolve(chunk);
        done();
      },
    });
    const pskCallback = (): { psk: Buffer; identity: string } => ({
      psk: Buffer.alloc(32, 1),
      identity,
    });
    const socket = connect({
      ...TLS_PARAMETERS,
      socket: wire,
      pskCallback,
      checkServerIdentity: () => undefined,
    });
    socket.on('error', () => undefined);
  });
}

test('what OpenSSL sends for our client is accepted, with its identity and random', async () => {
  const hello = await opensslHello(IDENTITY.toString());
  const result = verdict(hello);
  expect(result.t).toBe('accepted');
  if (result.t !== 'accepted') return;
  expect(Buffer.from(result.identity)).toEqual(IDENTITY);
  expect(Buffer.from(result.random)).toEqual(hello.subarray(11, 43));
});

test('a good hello stays incomplete until its last byte, and may be followed by more', () => {
  const hello = buildHello();
  for (let length = 0; length < hello.length; length += 1)
    expect(flaw(hello.subarray(0, length))).toBe('incomplete');
  expect(flaw(hello)).toBe('accepted');
  expect(flaw(Buffer.concat([hello, Buffer.alloc(100, 20)]))).toBe('accepted');
});

describe('the record', () => {
  test.each([
    ['of another content type', Buffer.of(21), 'not_tls'],
    ['of HTTP/2', Buffer.from('PRI * HTTP/2.0'), 'not_tls'],
    ['of SSL 2', Buffer.of(0x80, 0x2e, 1), 'not_tls'],
    ['of another major version', Buffer.of(22, 2), 'not_tls'],
    ['with another handshake message', Buffer.of(22, 3, 1, 0, 4, 2), 'not_tls'],
    ['of no bytes', Buffer.of(22, 3, 1, 0, 0), 'malformed'],
    ['longer than allowed, judged by its header', Buffer.of(22, 3, 1, 0x40, 0), 'oversized'],
  ])('%s is refused', (_, bytes, expected) => expect(flaw(bytes)).toBe(expected));

  test('as long as allowed is read, a byte more is not', () => {
    const hello = buildHello();
    expect(flaw(hello, hello.length)).toBe('accepted');
    expect(flaw(hello.subarray(0, 5), hello.length - 1)).toBe('oversized');
  });

  test('with part of a message, or with two, is malformed', () => {
    const handshake = buildHello().subarray(5);
    expect(flaw(wrapRecord(handshake.subarray(0, -1)))).toBe('malformed');
    expect(flaw(wrapRecord(Buffer.concat([handshake, Buffer.of(0)])))).toBe('malformed');
    expect(flaw(wrapRecord(Buffer.concat([handshake, handshake])))).toBe('malformed');
  });

  test('with the message cut anywhere inside, its lengths mended, is never accepted', () => {
    const hello = buildHello().subarray(9);
    for (let length = 0; length < hello.length; length += 1) {
      const cut = wrapRecord(Buffer.concat([Buffer.of(1), vector(3, hello.subarray(0, length))]));
      expect(['malformed', 'not_tls13']).toContain(flaw(cut));
    }
  });
});

describe('the offer', () => {
  const cases: [string, HelloParts, string][] = [
    ['without supported_versions', { versions: undefined }, 'not_tls13'],
    ['of TLS 1.2 alone', { versions: [0x0303] }, 'not_tls13'],
    ['of TLS 1.3 among others', { versions: [0x7a7a, 0x0304, 0x0303] }, 'accepted'],
    ['without a PSK', { identities: undefined }, 'no_psk'],
    ['without PSK modes', { modes: undefined }, 'no_psk'],
    ['of a PSK without key exchange alone', { modes: [0] }, 'no_psk'],
    ['of both PSK modes', { modes: [0, 1] }, 'accepted'],
    ['without ALPN', { protocols: undefined }, 'no_h2'],
    ['of other protocols', { protocols: ['http/1.1', 'h2c', 'h'] }, 'no_h2'],
    ['of h2 among others', { protocols: ['http/1.1', 'h2'] }, 'accepted'],
    ['of no identity', { identities: [] }, 'malformed'],
    ['of an empty identity', { identities: [Buffer.alloc(0)] }, 'malformed'],
    [
      'of two identities',
      { identities: [IDENTITY, IDENTITY], binders: [Buffer.alloc(32), Buffer.alloc(32)] },
      'malformed',
    ],
    ['of two binders', { binders: [Buffer.alloc(32), Buffer.alloc(32)] }, 'malformed'],
    ['of no binder', { binders: [] }, 'malformed'],
    ['of a SHA-384 binder', { binders: [Buffer.alloc(48)] }, 'malformed'],
    ['of the longest identity', { identities: [Buffer.alloc(128, 'a')] }, 'accepted'],
    ['of one byte more', { identities: [Buffer.alloc(129, 'a')] }, 'malformed'],
    ['of a binary identity, such as a ticket', { identities: [Buffer.alloc(32, 0x80)] }, 'no_psk'],
    ['of an identity with a zero byte', { identities: [Buffer.from('gb1.\0')] }, 'no_psk'],
    ['with an extension after the PSK', { trailing: [[0, Buffer.alloc(0)]] }, 'malformed'],
    ['with an extension twice', { trailing: [[43, vector(1, Buffer.of(3, 4))]] }, 'malformed'],
  ];
  test.each(cases)('%s', (_, parts, expected) => expect(flaw(buildHello(parts))).toBe(expected));

  test('without any extension is not TLS 1.3', () => {
    expect(flaw(wrapHello(Buffer.alloc(32), []))).toBe('not_tls13');
  });
});
