// SPDX-License-Identifier: Apache-2.0
// The account: whatever is asked in whatever order, sums are exact, limits hold, and a refusal changes nothing.
import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { GbError } from '../../../proto/base/errors.js';
import { gpuKey, Pool, RAM_KEY, type DeviceKey } from '../../../feeder/pool.js';
import { RangeSet, type HeldRange } from '../../../feeder/ranges.js';

const DEVICES: readonly DeviceKey[] = [RAM_KEY, gpuKey(0), gpuKey(1)];
const CAPACITIES = new Map<DeviceKey, number>([
  [RAM_KEY, 100],
  [gpuKey(0), 50],
]);

const limits = fc
  .array(fc.tuple(fc.constantFrom(...DEVICES), fc.integer({ min: -1, max: 120 })), { maxLength: 3 })
  .map((pairs) => new Map(pairs));
const lease = fc.constantFrom('a', 'b', 'c');
const step = fc.oneof(
  fc.record({ t: fc.constant('open' as const), lease, limits }),
  fc.record({ t: fc.constant('resize' as const), lease, limits }),
  fc.record({
    t: fc.constant('take' as const),
    lease,
    device: fc.constantFrom(...DEVICES),
    bytes: fc.integer({ min: 1, max: 60 }),
  }),
  fc.record({ t: fc.constant('give' as const), lease, pick: fc.nat() }),
  fc.record({ t: fc.constant('close' as const), lease }),
);

test('every history keeps the invariants, and every refusal leaves the account as it was', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 120 }), (steps) => {
      const pool = new Pool(CAPACITIES);
      const taken = new Map<string, [DeviceKey, number][]>();
      const shape = (): unknown => [
        DEVICES.map((device) => pool.account(device)),
        [...taken.keys()].map((id) =>
          [...pool.holding(id)].map(([device, held]) => [device, { ...held }]),
        ),
      ];
      for (const act of steps) {
        const open = taken.has(act.lease);
        const before = shape();
        try {
          if (act.t === 'open' && !open) {
            pool.open(act.lease, act.limits);
            taken.set(act.lease, []);
          } else if (act.t === 'resize' && open) {
            pool.resize(act.lease, act.limits);
          } else if (act.t === 'take' && open) {
            pool.take(act.lease, act.device, act.bytes);
            taken.get(act.lease)!.push([act.device, act.bytes]);
          } else if (act.t === 'give' && open && taken.get(act.lease)!.length > 0) {
            const list = taken.get(act.lease)!;
            const [[device, bytes]] = list.splice(act.pick % list.length, 1) as [
              [DeviceKey, number],
            ];
            pool.give(act.lease, device, bytes);
          } else if (act.t === 'close' && open) {
            const sum = taken.get(act.lease)!.reduce((total, [, bytes]) => total + bytes, 0);
            expect(pool.close(act.lease)).toBe(sum);
            taken.delete(act.lease);
          }
        } catch (reason) {
          expect(reason).toBeInstanceOf(GbError);
          expect(shape()).toEqual(before);
        }
        expect(pool.isValid()).toBe(true);
        for (const device of DEVICES) {
          const used = [...taken.values()]
            .flat()
            .filter(([key]) => key === device)
            .reduce((sum, [, bytes]) => sum + bytes, 0);
          expect(pool.account(device).usedBytes).toBe(used);
        }
      }
    }),
    { numRuns: 500 },
  );
});

test('giving back what was never taken is a bug, not an answer', () => {
  const pool = new Pool(CAPACITIES);
  pool.open('a', new Map([[RAM_KEY, 10]]));
  expect(() => pool.give('a', RAM_KEY, 1)).toThrow(/invariant/);
  expect(() => pool.take('unknown', RAM_KEY, 1)).toThrow(/invariant/);
});

const SLOTS = 20;

test('ranges: overlap, exact find and coverage agree with a model of slots', () => {
  const act = fc.record({
    add: fc.boolean(),
    start: fc.nat(SLOTS - 1),
    length: fc.integer({ min: 1, max: 5 }),
    device: fc.constantFrom(RAM_KEY, gpuKey(0)),
  });
  fc.assert(
    fc.property(fc.array(act, { maxLength: 60 }), (acts) => {
      const set = new RangeSet();
      const slots = new Array<HeldRange | undefined>(SLOTS + 5).fill(undefined);
      for (const { add, start, length, device } of acts) {
        if (add) {
          const range: HeldRange = { device, offset: start, length, lockedBytes: 0, ready: true };
          const free = slots.slice(start, start + length).every((slot) => slot === undefined);
          if (free) {
            set.add(range);
            slots.fill(range, start, start + length);
          } else {
            expect(() => set.add(range)).toThrow(/overlaps/);
          }
        } else {
          const range = set.find(device, start, length);
          const slot = slots[start];
          expect(range).toBe(
            slot?.offset === start && slot.length === length && slot.device === device
              ? slot
              : undefined,
          );
          if (range) {
            set.remove(range);
            slots.fill(undefined, start, start + length);
          }
        }
        const wanted = slots.slice(start, start + length);
        expect(set.overlaps(start, length)).toBe(wanted.some((slot) => slot !== undefined));
        expect(set.count).toBe(new Set(slots.filter(Boolean)).size);
      }
    }),
    { numRuns: 400 },
  );
});
