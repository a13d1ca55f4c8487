// SPDX-License-Identifier: Apache-2.0
// Whatever a key file may hold: keys within the limits, or DATA_LOSS that quotes nothing.
import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { GbError } from '../../proto/base/errors.js';
import { createId } from '../../proto/base/ids.js';
import { FEEDER_KEYS_MAX, KEYRING_ENTRIES_MAX } from '../../proto/base/limits.js';
import { parseFeederKeys } from '../../security/key-file.js';
import { parseKeyring } from '../../security/keyring.js';
import { createPairingKey, formatPairingKey } from '../../security/pairing.js';
import { fuzz, FUZZ_TIMEOUT_MS } from './run.js';

const feederId = createId('feeder');
const pairing = formatPairingKey(createPairingKey(feederId));
const strange = fc.oneof(
  fc.jsonValue(),
  fc.constantFrom(1, -1, 2 ** 60, '', pairing, feederId, null, []),
);
const entry = fc.record(
  {
    pairing: fc.oneof(fc.constant(pairing), strange),
    createdUnixMs: fc.oneof(fc.nat(), strange),
    importedUnixMs: fc.oneof(fc.nat(), strange),
  },
  { requiredKeys: [] },
);
const shaped = fc.record(
  {
    version: fc.oneof(fc.constant(1), strange),
    feederId: fc.oneof(fc.constant(feederId), strange),
    keys: fc.oneof(fc.array(entry, { maxLength: 4 }), strange),
  },
  { requiredKeys: [] },
);
const good = JSON.stringify({ version: 1, feederId, keys: [{ pairing, createdUnixMs: 5 }] });
const spliced = fc
  .tuple(fc.nat(good.length), fc.nat(30), fc.oneof(fc.string(), fc.json()))
  .map(([start, count, text]) => good.slice(0, start) + text + good.slice(start + count));
const text = fc.oneof(
  shaped.map((value) => JSON.stringify(value)),
  spliced,
  fc.json(),
  fc.string({ unit: 'binary' }),
);

test.each([
  ['the feeder keys', (input: string) => parseFeederKeys(input, '/keys').keys, FEEDER_KEYS_MAX],
  ['the keyring', (input: string) => parseKeyring(input, '/keys'), KEYRING_ENTRIES_MAX],
])(
  '%s',
  (_, parse, countMax) => {
    const property = fc.property(text, (input) => {
      try {
        const keys = parse(input);
        expect(keys.length).toBeLessThanOrEqual(countMax);
        for (const key of keys) expect(key.secret).toHaveLength(32);
      } catch (reason) {
        if (!(reason instanceof GbError) || reason.code !== 'DATA_LOSS') throw reason;
        expect(reason.message).not.toContain('gb1-');
        expect(reason.cause).toBeUndefined();
      }
    });
    expect(fuzz(property)).toBeGreaterThan(100);
  },
  FUZZ_TIMEOUT_MS,
);
