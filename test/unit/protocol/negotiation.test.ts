// SPDX-License-Identifier: Apache-2.0
import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { LANE_VERSION } from '../../../driver/lane/names.js';
import { agree, type Terms } from '../../../proto/base/negotiation.js';
import { compilerConstants } from '../../vectors/protocol/frames.js';

const TERMS: Terms = {
  contract: 'protocol',
  peer: 'the host',
  self: 'this feeder',
  version: { major: 1, minor: 3 },
  features: 0b1011n,
};
const VERSION = { major: 1, minor: 7 };

test('what both know and one wants is in force, whatever else is offered', () => {
  expect(agree({ version: VERSION, offered: 0b1111_0010n, required: 0b1n }, TERMS)).toBe(0b11n);
  expect(agree({ version: VERSION, offered: 0n, required: 0n }, TERMS)).toBe(0n);
});

test.each([
  [
    { major: 2, minor: 0 },
    0n,
    'the host speaks protocol 2.0, this feeder 1.3; update the older one',
  ],
  [
    { major: 0, minor: 9 },
    0n,
    'the host speaks protocol 0.9, this feeder 1.3; update the older one',
  ],
  [undefined, 0n, 'the host speaks protocol none, this feeder 1.3; update the older one'],
  [
    VERSION,
    0b101n,
    'the host (protocol 1.7) requires features (0x4) that this feeder (protocol 1.3) does not have; update this feeder',
  ],
])('%p is refused with both versions', (version, required, rawMessage) => {
  expect(() => agree({ version, offered: 0n, required }, TERMS)).toThrow(
    expect.objectContaining({ code: 'UNSUPPORTED', rawMessage }),
  );
});

test('the version of lanes that refusals name is that of the library', () => {
  const names = ['GB_LANE_VERSION_MAJOR', 'GB_LANE_VERSION_MINOR'];
  expect(compilerConstants('driver/lane/lane.h', names)).toEqual({
    GB_LANE_VERSION_MAJOR: String(LANE_VERSION.major),
    GB_LANE_VERSION_MINOR: String(LANE_VERSION.minor),
  });
});

test('never more than both know, and all that is required', () => {
  const bits = fc.bigInt({ min: 0n, max: 0xffn });
  fc.assert(
    fc.property(bits, bits, bits, (offered, required, features) => {
      const terms = { ...TERMS, features };
      if ((required & ~features) !== 0n) {
        expect(() => agree({ version: VERSION, offered, required }, terms)).toThrow();
        return;
      }
      const inForce = agree({ version: VERSION, offered, required }, terms);
      expect(inForce & ~features).toBe(0n);
      expect(inForce & ~(offered | required)).toBe(0n);
      expect(inForce & required).toBe(required);
    }),
  );
});
