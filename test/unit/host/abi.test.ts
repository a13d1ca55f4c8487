// SPDX-License-Identifier: Apache-2.0
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import * as abi from '../../../host/shim/abi.js';
import { GbError } from '../../../proto/base/errors.js';
import { packageRoot } from '../../../proto/base/paths.js';

describe('constants and layouts', () => {
  let folder: string;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'gb-abi-'));
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  test('every constant equals what the C compiler sees in gb_abi.h', () => {
    const constants: Record<string, bigint> = {
      GB_ABI_MAJOR: BigInt(abi.ABI_MAJOR),
      GB_ABI_MINOR: BigInt(abi.ABI_MINOR),
      GB_ABI_MAGIC: BigInt(abi.ABI_MAGIC),
      GB_ABI_PAYLOAD_BYTES_MAX: BigInt(abi.PAYLOAD_BYTES_MAX),
      GB_ABI_REQUESTS_MAX: BigInt(abi.REQUESTS_MAX),
      GB_ABI_RANGE_ALIGN: BigInt(abi.RANGE_ALIGN),
      GB_ARENA_WINDOW_BASE: abi.ARENA_WINDOW_BASE,
      GB_ARENA_WINDOW_END: abi.ARENA_WINDOW_END,
      GB_TIER_COUNT: BigInt(abi.TIER_COUNT),
      GB_FEATURE_GATED: abi.FEATURE_GATED,
      GB_FRAME_REPLY: BigInt(abi.FRAME_REPLY),
      GB_FRAME_OPTIONAL: BigInt(abi.FRAME_OPTIONAL),
      ...prefixed('GB_MSG_', abi.Msg),
      ...prefixed('GB_STATUS_', abi.Status),
      ...prefixed('GB_TIER_', abi.AbiTier),
      ...prefixed(
        'GB_PHASE_',
        Object.fromEntries(abi.PHASES.map((name, value) => [name.toUpperCase(), value])),
      ),
    };
    const lines = Object.keys(constants).map(
      (name) => `printf("${name} %llu\\n", (unsigned long long)${name});`,
    );
    const source = `#include <stdio.h>\n#include "gb_abi.h"\nint main(void) {\n${lines.join('\n')}\nreturn 0;\n}\n`;
    writeFileSync(join(folder, 'abi.c'), source);
    const include = join(packageRoot(), 'shim', 'include');
    execFileSync('gcc', [
      '-std=gnu11',
      '-I',
      include,
      '-o',
      join(folder, 'abi'),
      join(folder, 'abi.c'),
    ]);
    const printed = execFileSync(join(folder, 'abi'), { encoding: 'utf8' }).trim().split('\n');
    const expected = Object.entries(constants).map(([name, value]) => `${name} ${value}`);
    expect(printed).toEqual(expected);
  });
});

function prefixed(
  prefix: string,
  values: Readonly<Record<string, number>>,
): Record<string, bigint> {
  return Object.fromEntries(
    Object.entries(values).map(([name, value]) => [`${prefix}${name}`, BigInt(value)]),
  );
}

describe('codec', () => {
  const u64 = fc.bigInt({ min: 0n, max: abi.UINT64_MAX });
  const u32 = fc.integer({ min: 0, max: 0xffff_ffff });

  test('what is encoded is decoded again', () => {
    fc.assert(
      fc.property(u64, u64, u32, u32, (offset, length, lane, mirror) => {
        const value = { offset, length, lane, mirror };
        expect(abi.gbExtent.decode(abi.gbExtent.encode(value))).toEqual(value);
      }),
    );
    fc.assert(
      fc.property(
        u32,
        u32,
        fc.string({ maxLength: 100, unit: 'binary' }),
        (status, tier, feeder) => {
          const decoded = abi.gbStatusReply.decode(
            abi.gbStatusReply.encode({ status, tier, feeder }),
          );
          expect(decoded.status).toBe(status);
          expect(Buffer.byteLength(decoded.feeder)).toBeLessThan(64);
          const head = feeder.split('\0')[0] as string;
          expect(head.startsWith(decoded.feeder.replace(/\ufffd+$/, ''))).toBe(true);
        },
      ),
    );
  });

  test.each(Object.entries(abi.LAYOUTS))(
    '%s: any bytes are decoded or refused, never anything else',
    (_name, struct) => {
      fc.assert(
        fc.property(fc.uint8Array({ maxLength: 400 }), (bytes) => {
          if (bytes.length >= struct.size) {
            expect(() => struct.decode(bytes)).not.toThrow();
          } else {
            expect(() => struct.decode(bytes)).toThrow(GbError);
          }
        }),
      );
    },
  );

  test('a longer payload of a newer peer is read as far as it is known', () => {
    const bytes = Buffer.concat([
      abi.gbRange.encode({ offset: 1n, length: 2n }),
      Buffer.alloc(64, 0xff),
    ]);
    expect(abi.gbRange.decode(bytes)).toEqual({ offset: 1n, length: 2n });
  });
});

describe('FrameDecoder', () => {
  const frame = fc.record({
    type: fc.integer({ min: 0, max: 0xffff }),
    flags: fc.integer({ min: 0, max: 0xffff }),
    requestId: fc.bigInt({ min: 0n, max: abi.UINT64_MAX }),
    payload: fc.uint8Array({ maxLength: abi.PAYLOAD_BYTES_MAX }),
  });

  test('finds the frames again however the stream was cut', () => {
    fc.assert(
      fc.property(
        fc.array(frame, { maxLength: 5 }),
        fc.integer({ min: 1, max: 700 }),
        (frames, step) => {
          const bytes = Buffer.concat(
            frames.map((f) => abi.encodeFrame(f.type, f.flags, f.requestId, f.payload)),
          );
          const decoder = new abi.FrameDecoder();
          const found: abi.Frame[] = [];
          for (let at = 0; at < bytes.length; at += step)
            found.push(...decoder.push(bytes.subarray(at, at + step)));
          expect(found.map((f) => ({ ...f, payload: Uint8Array.from(f.payload) }))).toEqual(frames);
        },
      ),
      { numRuns: 60 },
    );
  });

  test('refuses an oversized payload as soon as its length is known', () => {
    const head = abi.gbFrame.encode({
      payload_bytes: abi.PAYLOAD_BYTES_MAX + 1,
      type: 1,
      flags: 0,
      request_id: 1n,
    });
    expect(() => new abi.FrameDecoder().push(head)).toThrow(/PROTOCOL_VIOLATION/);
  });

  test('any bytes give frames or a refusal', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 200 }), { maxLength: 20 }), (chunks) => {
        const decoder = new abi.FrameDecoder();
        try {
          for (const chunk of chunks) decoder.push(chunk);
        } catch (reason) {
          expect(GbError.from(reason).code).toBe('PROTOCOL_VIOLATION');
        }
      }),
    );
  });
});
