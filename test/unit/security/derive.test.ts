// SPDX-License-Identifier: Apache-2.0
import { describe, expect, test } from '@jest/globals';
import { hkdfSync } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { expand, extract } from '@noble/hashes/hkdf.js';
import { sha256 } from '@noble/hashes/sha2.js';
import { parseId } from '../../../proto/base/ids.js';
import {
  deriveBlockCacheKey,
  deriveFingerprint,
  deriveLaneSecret,
  deriveSessionId,
  deriveTlsPsk,
  EXPORTER_LABELS,
} from '../../../security/derive.js';
import { createPairingKey } from '../../../security/pairing.js';

const read = (name: string): unknown =>
  JSON.parse(readFileSync(new URL(`../../vectors/${name}`, import.meta.url), 'utf8'));
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
const bytes = (text: string): Buffer => Buffer.from(text, 'hex');

interface Rfc5869 {
  readonly cases: readonly Record<'name' | 'ikm' | 'salt' | 'info' | 'prk' | 'okm', string>[];
}

interface Derivations {
  readonly cases: readonly Record<
    'feederId' | 'secret' | 'identity' | 'psk' | 'fingerprint' | 'blockCacheKey',
    string
  >[];
}

interface LaneTickets {
  readonly cases: readonly Record<'exported' | 'ticketId' | 'secret', string>[];
}

describe('HKDF-SHA256', () => {
  test.each((read('rfc5869.json') as Rfc5869).cases)(
    'gives the RFC 5869 vector $name',
    (vector) => {
      const prk = extract(sha256, bytes(vector.ikm), bytes(vector.salt));
      expect(hex(prk)).toBe(vector.prk);
      expect(hex(expand(sha256, prk, bytes(vector.info), vector.okm.length / 2))).toBe(vector.okm);
    },
  );
});

describe('what comes from a pairing key', () => {
  const cases = (read('derive-v1.json') as Derivations).cases;

  test.each(cases)('for $feederId never changes within protocol version 1', (vector) => {
    const key = createPairingKey(parseId('feeder', vector.feederId), {
      secret: bytes(vector.secret),
    });
    const { identity, psk } = deriveTlsPsk(key);
    expect({ identity, psk: hex(psk) }).toEqual({ identity: vector.identity, psk: vector.psk });
    expect(deriveFingerprint(key)).toBe(vector.fingerprint);
    expect(hex(deriveBlockCacheKey(key))).toBe(vector.blockCacheKey);
  });

  test('is what another implementation of HKDF gives for the documented labels', () => {
    const [vector] = cases;
    const field = (text: string): Buffer =>
      Buffer.concat([Buffer.of(0, text.length), Buffer.from(text)]);
    const info = Buffer.concat([
      field('tls psk, host connects to feeder'),
      field(vector?.feederId as string),
      field('TLS 1.3, SHA-256'),
    ]);
    const psk = hkdfSync(
      'sha256',
      bytes(vector?.secret as string),
      'greenboost pairing key, version 1',
      info,
      32,
    );
    expect(hex(new Uint8Array(psk))).toBe(vector?.psk);
  });

  test('differs by feeder, by secret and by purpose, and never shows the secret', () => {
    const secret = Buffer.alloc(32, 7);
    const one = createPairingKey(parseId('feeder', 'F-0000000000000001'), { secret });
    const two = createPairingKey(parseId('feeder', 'F-0000000000000002'), { secret });
    const three = createPairingKey(one.feederId, { secret: Buffer.alloc(32, 8) });
    const all = [one, two, three].flatMap((key) => {
      const { identity, psk } = deriveTlsPsk(key);
      const cache = hex(deriveBlockCacheKey(key));
      const fingerprint = deriveFingerprint(key).replaceAll('-', '');
      return [identity.slice(4), hex(psk).slice(0, 32), fingerprint, cache];
    });
    expect(new Set(all.map((text) => text.slice(0, 16))).size).toBe(12);
    expect(all.join()).not.toContain('0707070707');
  });

  test('is the same whether the key is marked shared or not, and whenever it was made', () => {
    const id = parseId('feeder', 'F-0000000000000001');
    const secret = Buffer.alloc(32, 7);
    const plain = createPairingKey(id, { secret });
    const marked = createPairingKey(id, { secret, shared: true, createdUnixMs: 5 });
    expect(deriveTlsPsk(plain)).toEqual(deriveTlsPsk(marked));
  });
});

test('a session id is eight exported bytes under its own label', () => {
  const asked: [string, number][] = [];
  const id = deriveSessionId((label, length) => {
    asked.push([label, length]);
    return Buffer.from('0123456789abcdef', 'hex');
  });
  expect(id).toBe('S-0123456789abcdef');
  expect(asked).toEqual([[EXPORTER_LABELS.sessionId, 8]]);
  expect(EXPORTER_LABELS.lane).not.toBe(EXPORTER_LABELS.sessionId);
});

describe("the secret of a lane's ticket", () => {
  const { cases } = read('lane-ticket-v1.json') as LaneTickets;

  test.each(cases)('for ticket $ticketId is what the formula gives', (vector) => {
    const asked: [string, number][] = [];
    const exporter = (label: string, length: number): Buffer => {
      asked.push([label, length]);
      return bytes(vector.exported);
    };
    expect(hex(deriveLaneSecret(exporter, bytes(vector.ticketId)))).toBe(vector.secret);
    expect(asked).toEqual([['EXPORTER-greenboost-1-lane', 32]]);
  });

  test('is another for another session and another ticket', () => {
    const of = (session: number, ticket: number): string =>
      hex(deriveLaneSecret(() => Buffer.alloc(32, session), Buffer.alloc(16, ticket)));
    expect(new Set([of(1, 1), of(1, 2), of(2, 1), of(2, 2)]).size).toBe(4);
  });

  test('needs a whole ticket id', () => {
    const exporter = (): Buffer => Buffer.alloc(32);
    expect(() => deriveLaneSecret(exporter, Buffer.alloc(15))).toThrow(RangeError);
  });
});
