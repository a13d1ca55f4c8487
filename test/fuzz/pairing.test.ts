// SPDX-License-Identifier: Apache-2.0
// Whatever somebody pastes as a pairing key: a key that prints as the same text, or INVALID_ARGUMENT without a quote.
import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { GbError } from '../../proto/base/errors.js';
import { idFromBytes } from '../../proto/base/ids.js';
import {
  createPairingKey,
  formatPairingKey,
  parsePairingKey,
  samePairingKey,
} from '../../security/pairing.js';
import { fuzz, FUZZ_TIMEOUT_MS } from './run.js';

const key = fc
  .tuple(
    fc.uint8Array({ minLength: 8, maxLength: 8 }),
    fc.uint8Array({ minLength: 32, maxLength: 32 }),
    fc.boolean(),
  )
  .map(([id, secret, shared]) => createPairingKey(idFromBytes('feeder', id), { secret, shared }));

/** Strings near a real one: spliced, repeated, re-cased, spaced. */
const nearly = fc
  .tuple(
    key,
    fc.nat(90),
    fc.nat(20),
    fc.oneof(fc.string(), fc.constantFrom('', '-', ' ', '\n', 'U', 'gb1-', '\u0130', 'ß')),
  )
  .map(([real, start, count, inserted]) => {
    const text = formatPairingKey(real);
    return text.slice(0, start) + inserted + text.slice(start + count);
  });

test(
  'any text is a key that prints alike, or INVALID_ARGUMENT',
  () => {
    const property = fc.property(
      fc.oneof(nearly, nearly, fc.string({ maxLength: 600, unit: 'binary' })),
      (text) => {
        let parsed;
        try {
          parsed = parsePairingKey(text);
        } catch (reason) {
          if (!(reason instanceof GbError) || reason.code !== 'INVALID_ARGUMENT') throw reason;
          const body = text.slice(4, 40);
          if (body.length === 36 && reason.message.includes(body))
            throw new Error('the error quotes the input');
          return;
        }
        const canonical = formatPairingKey(parsed).toUpperCase().replaceAll('-', '');
        const given = text.toUpperCase().replace(/[\s-]/g, '');
        const body = given.slice(3).replaceAll('O', '0').replaceAll('I', '1').replaceAll('L', '1');
        expect(given.slice(0, 3) + body).toBe(canonical);
      },
    );
    expect(fuzz(property)).toBeGreaterThan(100);
  },
  FUZZ_TIMEOUT_MS,
);

test(
  'every key comes back from its text, however it is spaced',
  () => {
    const property = fc.property(
      key,
      fc.infiniteStream(fc.constantFrom('', '', ' ', '-', '\n', '\t')),
      (real, gaps) => {
        const text = [...formatPairingKey(real)]
          .map((character) => character + String(gaps.next().value))
          .join('');
        expect(samePairingKey(parsePairingKey(text), real)).toBe(true);
      },
    );
    expect(fuzz(property)).toBeGreaterThan(100);
  },
  FUZZ_TIMEOUT_MS,
);
