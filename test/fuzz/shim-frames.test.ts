// SPDX-License-Identifier: Apache-2.0
// Whatever a program sends to the agent's socket, and whatever the state file holds: frames, values
// or a named refusal.
import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import * as abi from '../../host/shim/abi.js';
import { parseState } from '../../host/state.js';
import { GbError } from '../../proto/base/errors.js';
import { fuzz, FUZZ_TIMEOUT_MS } from './run.js';

/** Frames that are nearly right: real types, payloads of about the right length. */
const frame = fc
  .tuple(
    fc.integer({ min: 0, max: 16 }),
    fc.integer({ min: 0, max: 3 }),
    fc.bigInt({ min: 0n, max: abi.UINT64_MAX }),
    fc.uint8Array({ maxLength: 340 }),
  )
  .map(([type, flags, id, payload]) => abi.encodeFrame(type, flags, id, payload));
const noise = fc.uint8Array({ maxLength: 64 }).map((bytes) => Buffer.from(bytes));

test(
  'a stream of bytes becomes the same frames however it is cut, or is refused',
  () => {
    const runs = fuzz(
      fc.property(
        fc.array(fc.oneof({ weight: 4, arbitrary: frame }, noise), { maxLength: 8 }),
        fc.integer({ min: 1, max: 400 }),
        (parts, step) => {
          const bytes = Buffer.concat(parts);
          expect(decodeAll(bytes, step)).toEqual(decodeAll(bytes, bytes.length + 1));
        },
      ),
    );
    expect(runs).toBeGreaterThan(0);
  },
  FUZZ_TIMEOUT_MS,
);

test(
  'any payload of any struct is decoded within its bounds or refused as too short',
  () => {
    const structs = Object.values(abi.LAYOUTS);
    fuzz(
      fc.property(
        fc.constantFrom(...structs),
        fc.uint8Array({ maxLength: 400 }),
        (struct, bytes) => {
          if (bytes.length < struct.size) expect(() => struct.decode(bytes)).toThrow(GbError);
          else expect(Object.keys(struct.decode(bytes))).toEqual(Object.keys(struct.offsets));
        },
      ),
    );
  },
  FUZZ_TIMEOUT_MS,
);

test(
  'a state file is taken whole or refused as damaged',
  () => {
    const good = {
      version: 1,
      hostId: 'H-0123456789abcdef',
      links: [],
      attachments: [],
      pendingReleases: [],
    };
    const changed = fc
      .tuple(fc.constantFrom(...Object.keys(good), 'more'), fc.jsonValue())
      .map(([key, value]) => JSON.stringify({ ...good, [key]: value }));
    fuzz(
      fc.property(fc.oneof(changed, fc.json(), fc.string()), (text) => {
        try {
          expect(parseState(text).version).toBe(1);
        } catch (reason) {
          expect(GbError.from(reason).code).toBe('DATA_LOSS');
        }
      }),
    );
  },
  FUZZ_TIMEOUT_MS,
);

/** Every frame as comparable text; a refusal is the last entry. */
function decodeAll(bytes: Buffer, step: number): string[] {
  const decoder = new abi.FrameDecoder();
  const found: string[] = [];
  try {
    for (let at = 0; at < bytes.length; at += step) {
      for (const { type, flags, requestId, payload } of decoder.push(
        bytes.subarray(at, at + step),
      )) {
        found.push(`${type} ${flags} ${requestId} ${payload.toString('hex')}`);
      }
    }
  } catch (reason) {
    // How many frames came before it depends on the cut; that it comes does not.
    return [GbError.from(reason).code];
  }
  return found;
}
