// SPDX-License-Identifier: Apache-2.0
// Kinds of settings: what is written is read again as it was, and what is wrong is refused in words.
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import {
  GPU_SIZES,
  HOURS,
  IO_PRIORITY,
  many,
  NVME,
  PATH,
  PORT,
  rate,
  REPORT,
  seconds,
  SIZE,
  SWITCH,
  whole,
  words,
  type Kind,
} from '../../../proto/settings/kinds.js';
import { parseHours } from '../../../proto/settings/hours.js';

const bytes = fc.maxSafeNat();
const folder = fc
  .array(fc.stringMatching(/^[a-z0-9._ -]{1,8}$/), { minLength: 1, maxLength: 4 })
  .filter((parts) => !parts.some((part) => /^\.+$/.test(part)))
  .map((parts) => `/${parts.join('/')}`);
const clock = fc.tuple(fc.nat(23), fc.nat(59)).map(([hour, minute]) => {
  return `${String(hour).padStart(2, '0')}:${String(minute).padStart(2, '0')}`;
});
const day = fc.constantFrom('sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat');
const windowText = fc
  .tuple(clock, clock, fc.array(day, { maxLength: 3 }))
  .filter(([from, to]) => from !== to)
  .map(([from, to, days]) => `${days.length ? `${days.join(',')} ` : ''}${from}-${to}`);

function returns<T>(kind: Kind<T>, values: fc.Arbitrary<T>): void {
  fc.assert(
    fc.property(values, (value) => {
      expect(kind.read([kind.write(value)], undefined)).toEqual(value);
    }),
  );
}

describe('what is written is read again', () => {
  test('sizes, rates, seconds, ports, numbers', () => {
    returns(SIZE, bytes);
    returns(rate(1), fc.integer({ min: 1, max: 2 ** 40 }));
    returns(seconds(0, 1_000), fc.nat(1_000_000));
    returns(PORT, fc.nat(65_535));
    returns(whole('nice', -5, 19), fc.integer({ min: -5, max: 19 }));
  });
  test('switches, reports, folders, texts', () => {
    returns(SWITCH, fc.boolean());
    returns(
      REPORT,
      fc.oneof(
        fc.constant('honest'),
        bytes.map((size) => `extend=${size}`),
      ),
    );
    returns(PATH, folder);
    returns(many(words('text', 8)), fc.array(fc.stringMatching(/^[^,\s]{1,8}$/)));
  });
  test('a folder and its size', () => {
    const room = fc.record({ directory: folder, bytes }, { requiredKeys: ['directory'] });
    returns(NVME, room);
  });
  test('VRAM by GPU, windows, I/O priorities', () => {
    const gpus = fc.uniqueArray(fc.tuple(fc.nat(63), bytes), { selector: ([gpu]) => gpu });
    returns(
      GPU_SIZES,
      gpus.map((list) => new Map(list)),
    );
    returns(HOURS, fc.array(windowText.map(parseHours), { maxLength: 4 }));
    const level = fc.nat(7).map((number) => ({ class: 'best-effort' as const, level: number }));
    returns(IO_PRIORITY, fc.oneof(level, fc.constant({ class: 'idle' as const, level: 0 })));
  });
});

describe('what is wrong is refused', () => {
  const everyKind: readonly (readonly [string, Kind<unknown>])[] = [
    ['size', SIZE],
    ['rate', rate(1_000_000)],
    ['port', PORT],
    ['seconds', seconds(1, 60)],
    ['number', whole('count', 1, 2)],
    ['switch', SWITCH],
    ['report', REPORT],
    ['GPU sizes', GPU_SIZES],
    ['hours', HOURS],
    ['I/O priority', IO_PRIORITY],
  ];
  test.each(everyKind)('%s: every text gives a value or INVALID_ARGUMENT', (_name, kind) => {
    fc.assert(
      fc.property(fc.string({ maxLength: 40 }), (text) => {
        try {
          kind.read([text], undefined);
        } catch (reason) {
          expect(reason).toMatchObject({ code: 'INVALID_ARGUMENT' });
        }
      }),
    );
  });
  test.each([
    [GPU_SIZES, '0=1GiB,0=2GiB', /named twice/],
    [GPU_SIZES, '64=1GiB', /is not GPU=SIZE/],
    [PATH, 'here', /full path/],
    [NVME, ':64GiB', /write a folder/],
    [HOURS, '25:00-07:00', /write hours/],
    [HOURS, '07:00-07:00', /write hours/],
    [HOURS, 'caturday 07:00-08:00', /write hours/],
    [IO_PRIORITY, 'best-effort:8', /best-effort:7/],
    [rate(1_000_000), '10kB', /too little/],
  ] as const)('%p refuses %s', (kind: Kind<unknown>, text, why) => {
    expect(() => kind.read([text], undefined)).toThrow(why);
  });
});
