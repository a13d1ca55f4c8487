// SPDX-License-Identifier: Apache-2.0
import { describe, expect, test } from '@jest/globals';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inspect } from 'node:util';
import { createId, parseId } from '../../../proto/base/ids.js';
import { createLogger } from '../../../proto/base/log.js';
import { createPairingKey, formatPairingKey, keyFingerprint } from '../../../security/pairing.js';
import { parsePairingKey, samePairingKey } from '../../../security/pairing.js';

const ALPHABET = '0123456789ABCDEFGHJKMNPQRSTVWXYZ';

describe('the pairing string', () => {
  test.each([false, true])('comes back the same, shared: %s', (shared) => {
    const key = createPairingKey(createId('feeder'), { shared });
    const text = formatPairingKey(key);
    expect(text).toMatch(/^gb1(-[0-9A-HJKMNP-TV-Z]{8}){9}$/);
    const back = parsePairingKey(text, 42);
    expect(samePairingKey(back, key)).toBe(true);
    expect(back).toMatchObject({ feederId: key.feederId, shared, createdUnixMs: 42 });
    expect(keyFingerprint(back)).toBe(keyFingerprint(key));
  });

  test('is this for a known key', () => {
    const key = createPairingKey(parseId('feeder', 'F-0123456789abcdef'), {
      secret: Buffer.alloc(32, 0xa5),
    });
    expect(formatPairingKey(key)).toBe(
      (
        JSON.parse(
          readFileSync(new URL('../../vectors/pairing-v1.json', import.meta.url), 'utf8'),
        ) as { text: string }
      ).text,
    );
  });

  test('does not mind case, spaces, line ends, dashes and look-alike letters', () => {
    const key = createPairingKey(createId('feeder'));
    const text = formatPairingKey(key);
    const body = text.slice(4);
    for (const variant of [
      text.toLowerCase(),
      `  ${text}\r\n`,
      text.replaceAll('-', ''),
      text.replaceAll('-', ' - '),
      `gb1-${body.replaceAll('0', 'o').replaceAll('1', 'l')}`,
      `GB1-${body.replaceAll('0', 'O').replaceAll('1', 'I')}`,
      text.match(/.{1,20}/g)?.join('\n') as string,
    ]) {
      expect(samePairingKey(parsePairingKey(variant), key)).toBe(true);
    }
  });

  test('with any one character replaced is refused', () => {
    const text = formatPairingKey(createPairingKey(createId('feeder'))).replaceAll('-', '');
    for (let index = 0; index < text.length; index += 1) {
      for (const character of ALPHABET) {
        if (character === text[index]?.toUpperCase()) continue;
        const wrong = text.slice(0, index) + character + text.slice(index + 1);
        expect(() => parsePairingKey(wrong)).toThrow(/^\[INVALID_ARGUMENT\] the pairing key/);
      }
    }
  });

  test('with any two neighbours swapped is refused', () => {
    const text = formatPairingKey(createPairingKey(createId('feeder'))).replaceAll('-', '');
    for (let index = 3; index + 1 < text.length; index += 1) {
      const [a, b] = [text[index] as string, text[index + 1] as string];
      if (a === b) continue;
      const wrong = text.slice(0, index) + b + a + text.slice(index + 2);
      expect(() => parsePairingKey(wrong)).toThrow('wrong checksum');
    }
  });

  test('cut at every place is refused', () => {
    const text = formatPairingKey(createPairingKey(createId('feeder')));
    for (let length = 0; length < text.length; length += 1) {
      if (text[length - 1] !== '-' && length > 0)
        expect(() => parsePairingKey(text.slice(0, length))).toThrow();
    }
  });

  const good = formatPairingKey(createPairingKey(createId('feeder')));
  test.each([
    ['', 'is empty'],
    [' - \n', 'is empty'],
    ['hello', 'does not begin with "gb1-"'],
    [good.replace('gb1', 'gb2'), 'version this greenboost does not know'],
    [good.slice(0, -1), 'wrong length (1 missing)'],
    [`${good}AB`, 'wrong length (2 too many)'],
    [`${good.slice(0, -1)}U`, 'a character that no pairing key has'],
    [`${good.slice(0, -1)}é`, 'a character that no pairing key has'],
    ['gb1-'.padEnd(4096, 'A'), 'far too long'],
  ])('%p is refused and the message says why', (text, why) => {
    expect(() => parsePairingKey(text)).toThrow(why);
  });

  test('is never quoted in an error', () => {
    const wrong = `${good.slice(0, -1)}${good.endsWith('0') ? '1' : '0'}`;
    let message = '';
    try {
      parsePairingKey(wrong);
    } catch (reason) {
      message = String(reason) + inspect(reason);
    }
    expect(message).toContain('checksum');
    for (const group of wrong.split('-').slice(1)) expect(message).not.toContain(group);
  });
});

describe('a pairing key', () => {
  test('is 32 fresh random bytes', () => {
    const id = createId('feeder');
    const secrets = Array.from({ length: 100 }, () =>
      Buffer.from(createPairingKey(id).secret).toString('hex'),
    );
    expect(new Set(secrets).size).toBe(100);
    expect(secrets.every((secret) => secret.length === 64)).toBe(true);
  });

  test.each([0, 31, 33])('of %i bytes is refused', (length) => {
    expect(() => createPairingKey(createId('feeder'), { secret: new Uint8Array(length) })).toThrow(
      '32 bytes',
    );
  });

  test('does not change with the buffer it was made from', () => {
    const secret = Buffer.alloc(32, 1);
    const key = createPairingKey(createId('feeder'), { secret });
    const before = keyFingerprint(key);
    secret.fill(2);
    expect(keyFingerprint(key)).toBe(before);
  });

  test('shows its feeder and not its secret, in JSON, inspect and every log line', () => {
    const folder = mkdtempSync(join(tmpdir(), 'gb-pairing-'));
    const file = join(folder, 'log');
    const log = createLogger({ name: 'test', level: 'trace', file });
    const key = createPairingKey(createId('feeder'));
    log.info({ key, value: key, deep: { deep: { deep: { deep: key } } }, list: [key] }, 'here');
    log.info(
      { secret: Buffer.from(key.secret).toString('hex'), nested: { psk: key.secret } },
      'there',
    );
    log.info(key);
    log.error({ err: new Error('x', { cause: key }) });
    const text =
      readFileSync(file, 'utf8') +
      JSON.stringify(key) +
      inspect(key, { depth: 9, showHidden: true });
    rmSync(folder, { recursive: true });
    expect(text).toContain(key.feederId);
    expect(text).toContain('[redacted]');
    const secret = Buffer.from(key.secret);
    expect(Object.keys(key)).toEqual(['feederId', 'createdUnixMs', 'shared']);
    const asObject = JSON.stringify(Object.fromEntries([...secret].entries())).slice(1); // How JSON shows bytes.
    for (const form of [
      secret.toString('hex'),
      secret.toString('base64'),
      [...secret].join(','),
      asObject,
    ]) {
      expect(text).not.toContain(form.slice(0, 14));
    }
    expect(text).not.toContain(formatPairingKey(key).slice(22, 60));
  });
});
