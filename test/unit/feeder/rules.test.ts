// SPDX-License-Identifier: Apache-2.0
// The owner's rules of a feeder: hours by the clock on the wall, and the GPU only while nobody else uses it.
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import type { GpuUse } from '../../../driver/nvml/use.js';
import { isOpen, nextChange } from '../../../feeder/rules/hours.js';
import { LocalUse, type Identify } from '../../../feeder/rules/local-use.js';
import { Pauses } from '../../../feeder/rules/pauses.js';
import { Rules, type LendingRules } from '../../../feeder/rules/rules.js';
import { createLogger } from '../../../proto/base/log.js';
import { FeederState, PauseCause } from '../../../proto/gen/greenboost/v1/feeder_pb.js';
import { parseHours } from '../../../proto/settings/hours.js';
import { FakeClock } from '../host/fake-clock.js';

const windows = (...texts: string[]) => texts.map(parseHours);
/** 2026-03-02 is a Monday; local time, as owners write it. */
const at = (day: number, hour: number, minute = 0) => new Date(2026, 2, 2 + day, hour, minute);
const [MON, TUE, FRI, SAT, SUN] = [0, 1, 4, 5, 6];

describe('hours', () => {
  test('a window over midnight belongs to the day on which it begins', () => {
    const night = windows('22:00-07:00');
    expect(isOpen(night, at(MON, 21, 59))).toBe(false);
    expect(isOpen(night, at(MON, 22))).toBe(true);
    expect(isOpen(night, at(TUE, 6, 59))).toBe(true);
    expect(isOpen(night, at(TUE, 7))).toBe(false);
    const friday = windows('fri 22:00-07:00');
    expect(isOpen(friday, at(FRI, 6))).toBe(false);
    expect(isOpen(friday, at(FRI, 23))).toBe(true);
    expect(isOpen(friday, at(SAT, 6))).toBe(true);
    expect(isOpen(friday, at(SAT, 23))).toBe(false);
  });

  test('days by name, in lists and in ranges, also over the end of the week', () => {
    const open = windows('sat,sun 00:00-24:00', 'Mon-Fri 18:00-24:00');
    expect([SAT, SUN].map((day) => isOpen(open, at(day, 12)))).toEqual([true, true]);
    expect([MON, FRI].map((day) => isOpen(open, at(day, 12)))).toEqual([false, false]);
    expect(isOpen(open, at(FRI, 18))).toBe(true);
    const over = windows('fri-mon 08:00-09:00');
    expect([MON, TUE, FRI, SAT, SUN].map((day) => isOpen(over, at(day, 8, 30)))).toEqual([
      true,
      false,
      true,
      true,
      true,
    ]);
  });

  test('the next change is told to the minute; there is none when it is always so', () => {
    expect(nextChange(windows('22:00-07:00'), at(MON, 12))).toEqual(at(MON, 22));
    expect(nextChange(windows('22:00-07:00'), at(MON, 23))).toEqual(at(TUE, 7));
    expect(nextChange(windows('sat 10:00-11:00'), at(SUN, 0))).toEqual(at(SAT + 7, 10));
    expect(nextChange(windows('00:00-24:00'), at(MON, 12))).toBeUndefined();
  });

  test('at its next change, and not before, it is the other way round', () => {
    const clock = fc
      .tuple(fc.nat(23), fc.nat(59))
      .map(([hour, minute]) => `${hour}:${String(minute).padStart(2, '0')}`);
    const text = fc
      .tuple(clock, clock)
      .filter(([from, to]) => from !== to)
      .map(([from, to]) => `${from}-${to}`);
    fc.assert(
      fc.property(
        fc.array(text, { minLength: 1, maxLength: 3 }),
        fc.nat(7 * 1_440),
        (texts, minute) => {
          const open = windows(...texts);
          const now = at(MON, 0, minute);
          const change = nextChange(open, now);
          if (!change) return;
          expect(isOpen(open, change)).toBe(!isOpen(open, now));
          expect(isOpen(open, new Date(change.getTime() - 60_000))).toBe(isOpen(open, now));
        },
      ),
      { numRuns: 60 },
    );
  });
});

const OWN = 10;
const GAME = { pid: 20, name: 'game' };
const identify: Identify = (pid) => {
  if (pid === OWN) return undefined;
  return pid === GAME.pid ? GAME : { pid, name: undefined };
};
const gpu = (use: Partial<GpuUse>): GpuUse => ({
  uuid: 'GPU-1',
  computing: [],
  percents: new Map(),
  percent: 0,
  ...use,
});

describe('who uses the GPU', () => {
  const judge = (use: Partial<GpuUse>) => new LocalUse(identify).judge([gpu(use)]);

  test('its own executors do not, however much they compute', () => {
    expect(
      judge({ computing: [OWN], percents: new Map([[OWN, 100]]), percent: 100 }),
    ).toBeUndefined();
    expect(judge({ computing: [OWN], percents: undefined, percent: 100 })).toBeUndefined();
  });

  test('a program that computes does, whatever it takes; a desktop only from ten percent', () => {
    expect(judge({ computing: [OWN, GAME.pid] })).toBe('game (pid 20) computes on it');
    expect(judge({ percents: new Map([[GAME.pid, 9]]) })).toBeUndefined();
    expect(
      judge({
        percents: new Map([
          [GAME.pid, 30],
          [OWN, 70],
        ]),
      }),
    ).toBe('game (pid 20) takes 30 % of it');
    expect(judge({ percents: undefined, percent: 40 })).toBe('programs take 40 % of it');
  });

  test('a process nobody knows counts when it is told twice', () => {
    const use = new LocalUse(identify);
    const stranger = gpu({ computing: [77] });
    expect(use.judge([stranger])).toBeUndefined();
    expect(use.judge([stranger])).toMatch(/pid 77 of another container/);
    expect(use.judge([gpu({})])).toBeUndefined();
    expect(use.judge([stranger])).toBeUndefined();
  });
});

/** Rules over a clock that stands still, and a GPU that the test uses. */
class Bench {
  readonly clock = new FakeClock();
  readonly pauses = new Pauses();
  use: Partial<GpuUse> | 'silence' | Error = {};
  readonly rules: Rules;

  constructor(rules: Partial<LendingRules>) {
    this.rules = new Rules({
      rules: { hours: [], idleGpus: [], idleMs: 60_000, ...rules },
      clock: this.clock,
      log: createLogger({ name: 'feeder', level: 'silent' }),
      hold: (pause) => void this.pauses.hold(pause),
      lift: (cause) => void this.pauses.lift(cause),
      look: () => {
        if (this.use instanceof Error) return Promise.reject(this.use);
        return this.use === 'silence'
          ? new Promise(() => undefined)
          : Promise.resolve([gpu(this.use)]);
      },
      identify,
    });
  }

  get causes(): PauseCause[] {
    return this.pauses.all().map(({ cause }) => cause);
  }
}

describe('rules', () => {
  const idle = { idleGpus: ['GPU-1'] };

  test('it yields within ten seconds of the first foreign work, and lends after a minute without', async () => {
    const bench = new Bench(idle);
    await bench.rules.start();
    expect(bench.pauses.state).toBe(FeederState.LENDING);
    bench.use = { computing: [GAME.pid] };
    await bench.clock.advance(10_000);
    expect(bench.pauses.state).toBe(FeederState.DRAINING);
    expect(bench.causes).toEqual([PauseCause.LOCAL_USE]);
    bench.use = {};
    await bench.clock.advance(50_000);
    expect(bench.pauses.state).toBe(FeederState.DRAINING);
    await bench.clock.advance(15_000);
    expect(bench.pauses.state).toBe(FeederState.LENDING);
    bench.rules.stop();
    expect(bench.clock.armed).toBe(0);
  });

  test.each<[string, Bench['use']]>([
    ['does not answer', 'silence'],
    ['answers with an error', new Error('NVML_ERROR_GPU_IS_LOST')],
    ['does not know the GPU any more', { uuid: 'GPU-2' }],
  ])('a driver that %s counts as use', async (_name, use) => {
    const bench = new Bench(idle);
    await bench.rules.start();
    bench.use = use;
    await bench.clock.advance(10_000);
    expect(bench.pauses.state).toBe(FeederState.DRAINING);
    bench.rules.stop();
  });

  test('a feeder whose GPU is in use when it starts lends nothing from its first moment', async () => {
    const bench = new Bench(idle);
    bench.use = { computing: [GAME.pid] };
    await bench.rules.start();
    expect(bench.pauses.state).toBe(FeederState.DRAINING);
    bench.rules.stop();
  });

  test('hours hold and let go by the clock; each reason holds by itself', async () => {
    const bench = new Bench({});
    const now = new Date(bench.clock.unixMs());
    const hour = (ahead: number): string =>
      `${String((now.getHours() + ahead) % 24).padStart(2, '0')}:00`;
    const timed = new Bench({ hours: windows(`${hour(2)}-${hour(3)}`) });
    await timed.rules.start();
    expect(timed.causes).toEqual([PauseCause.HOURS]);
    const until = timed.pauses.all()[0]?.untilUnixMs ?? 0;
    expect(until).toBeGreaterThan(timed.clock.unixMs());
    expect(timed.pauses.reason).toMatch(/other hours, again from \w{3} \d\d:00/);
    timed.pauses.hold({ cause: PauseCause.OWNER, drain: false, sinceUnixMs: 0, text: '' });
    await timed.clock.advance(until - timed.clock.unixMs() + 1_000);
    expect(timed.causes).toEqual([PauseCause.OWNER]);
    expect(timed.pauses.state).toBe(FeederState.PAUSED);
    await timed.clock.advance(3_600_000);
    expect(timed.causes).toEqual([PauseCause.OWNER, PauseCause.HOURS]);
    expect(timed.pauses.state).toBe(FeederState.DRAINING);
    timed.rules.stop();
  });
});
