// SPDX-License-Identifier: Apache-2.0
// Whatever a stranger sends first: a verdict without an exception, the same one however the bytes
// are cut into packets, and views that lie inside the input.
import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { inspectClientHello } from '../../security/client-hello.js';
import { buildHello, wrapHello, wrapRecord } from '../unit/security/hello-builder.js';
import { fuzz, FUZZ_TIMEOUT_MS } from './run.js';

const MAX = 2_048;
const buffer = (maxLength: number): fc.Arbitrary<Buffer> =>
  fc.uint8Array({ maxLength }).map((bytes) => Buffer.from(bytes));

/** A good hello with some bytes overwritten. */
const mutated = fc
  .array(fc.tuple(fc.nat(buildHello().length - 1), fc.nat(255)), { maxLength: 4 })
  .map((changes) => {
    const hello = buildHello();
    for (const [index, value] of changes) hello[index] = value;
    return hello;
  });
const extensions = fc.array(
  fc.tuple(fc.oneof(fc.constantFrom(16, 41, 43, 45), fc.nat(65_535)), buffer(80)),
  { maxLength: 8 },
);
const assembled = fc
  .tuple(fc.uint8Array({ minLength: 32, maxLength: 32 }), extensions)
  .map(([random, list]) => wrapHello(Buffer.from(random), list));
const input = fc.oneof(
  mutated,
  assembled,
  buffer(400).map((body) => wrapRecord(Buffer.concat([Buffer.of(1), body]))),
  buffer(MAX + 100).map((body) => Buffer.concat([Buffer.of(22, 3, 1), body])),
  buffer(600),
);

test(
  'the first message of a connection',
  () => {
    const property = fc.property(input, fc.nat(700), (bytes, cut) => {
      const whole = inspectClientHello(bytes, MAX);
      const part = inspectClientHello(bytes.subarray(0, cut), MAX);
      // A verdict on a part is final: more bytes do not change it.
      if (part.t !== 'incomplete') expect(part).toEqual(whole);
      if (whole.t === 'accepted') {
        expect(whole.random).toHaveLength(32);
        expect(whole.identity.buffer).toBe(bytes.buffer);
        expect(whole.identity.length).toBeLessThanOrEqual(128);
      }
      if (bytes.length > MAX) expect(whole.t).not.toBe('incomplete');
    });
    expect(fuzz(property)).toBeGreaterThan(100);
  },
  FUZZ_TIMEOUT_MS,
);
