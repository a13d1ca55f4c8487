// SPDX-License-Identifier: Apache-2.0
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { mergeRanges, without } from '../../../host/attachments/pieces.js';
import { parseProcStat } from '../../../host/attachments/process.js';
import { RangeQueue } from '../../../host/attachments/range-queue.js';
import { Ledger } from '../../../host/ledger.js';
import { normalizeAddress } from '../../../host/links/address.js';
import { pairCapacity, pairUp } from '../../../host/placement/pairs.js';
import {
  costMicros,
  orderByCost,
  planPlacement,
  type TierOffer,
} from '../../../host/placement/policy.js';
import {
  isLost,
  mainCopy,
  overlaps,
  Residency,
  type Copy,
  type Extent,
} from '../../../host/placement/residency.js';
import { parseState } from '../../../host/state.js';
import { parseMemInfo, parsePressure, reserveBytes } from '../../../host/tiers/memory.js';
import { GbError } from '../../../proto/base/errors.js';
import { GIB, MIB } from '../../../proto/base/units.js';

const GRANULE = 2 * MIB;

const offers = fc.uniqueArray(
  fc.record({
    key: fc.string({ minLength: 1, maxLength: 6 }),
    freeBytes: fc.integer({ min: -GRANULE, max: 40 * GRANULE }),
    rank: fc.integer({ min: 0, max: 1 }),
    readBytesPerSecond: fc.constantFrom(0, 1e8, 1.1e9, 5.5e10),
    latencyMicros: fc.constantFrom(0, 1, 120, 4000),
  }),
  { selector: (offer: TierOffer) => offer.key, maxLength: 8 },
);

describe('planPlacement', () => {
  test('never over-commits, accounts for every byte, and uses whole granules', () => {
    fc.assert(
      fc.property(offers, fc.integer({ min: 1, max: 200 }), (tiers, granules) => {
        const bytes = granules * GRANULE;
        const plan = planPlacement(tiers, bytes, GRANULE);
        const placed = plan.parts.reduce((sum, part) => sum + part.bytes, 0);
        expect(placed + plan.missingBytes).toBe(bytes);
        expect(new Set(plan.parts.map(({ key }) => key)).size).toBe(plan.parts.length);
        for (const { key, bytes: partBytes } of plan.parts) {
          expect(partBytes % GRANULE).toBe(0);
          expect(partBytes).toBeGreaterThan(0);
          expect(partBytes).toBeLessThanOrEqual(tiers.find((tier) => tier.key === key)!.freeBytes);
        }
      }),
    );
  });

  test('something is missing only when every tier is full', () => {
    fc.assert(
      fc.property(offers, fc.integer({ min: 1, max: 200 }), (tiers, granules) => {
        const plan = planPlacement(tiers, granules * GRANULE, GRANULE);
        const room = tiers.reduce(
          (sum, tier) => sum + Math.floor(Math.max(0, tier.freeBytes) / GRANULE) * GRANULE,
          0,
        );
        expect(plan.missingBytes).toBe(Math.max(0, granules * GRANULE - room));
      }),
    );
  });

  test('a dearer tier gets bytes only when every cheaper one is full', () => {
    fc.assert(
      fc.property(offers, fc.integer({ min: 1, max: 200 }), (tiers, granules) => {
        const plan = planPlacement(tiers, granules * GRANULE, GRANULE);
        const taken = new Map(plan.parts.map(({ key, bytes }) => [key, bytes]));
        for (const { key } of plan.parts) {
          const cost = costMicros(tiers.find((tier) => tier.key === key)!);
          for (const other of tiers) {
            if (costMicros(other) >= cost) continue;
            const left = Math.max(0, other.freeBytes) - (taken.get(other.key) ?? 0);
            expect(left).toBeLessThan(GRANULE);
          }
        }
      }),
    );
  });

  test('the order depends on the facts alone, not on the order they come in', () => {
    fc.assert(
      fc.property(offers, (tiers) => {
        expect(orderByCost([...tiers].reverse())).toEqual(orderByCost(tiers));
      }),
    );
  });

  test('a link of low latency goes first when bandwidths are equal, unmeasured tiers go last', () => {
    const tier = (key: string, readBytesPerSecond: number, latencyMicros: number): TierOffer => ({
      key,
      freeBytes: GRANULE,
      rank: 0,
      readBytesPerSecond,
      latencyMicros,
    });
    const order = orderByCost([
      tier('unknown', 0, 0),
      tier('far', 1e9, 4000),
      tier('near', 1e9, 100),
      tier('slow', 1e8, 1),
    ]);
    expect(order.map(({ key }) => key)).toEqual(['near', 'far', 'slow', 'unknown']);
  });
});

describe('Ledger', () => {
  const commands = fc.array(
    fc.oneof(
      fc.record({
        t: fc.constant('grant' as const),
        who: fc.constantFrom('a', 'b', 'c'),
        bytes: fc.integer({ min: 0, max: 3 * GIB }),
      }),
      fc.record({
        t: fc.constant('release' as const),
        who: fc.constantFrom('a', 'b', 'c'),
        bytes: fc.integer({ min: 0, max: 3 * GIB }),
      }),
      fc.record({
        t: fc.constant('report' as const),
        who: fc.constantFrom('a', 'b', 'c'),
        bytes: fc.integer({ min: 0, max: 3 * GIB }),
      }),
      fc.record({
        t: fc.constant('close' as const),
        who: fc.constantFrom('a', 'b', 'c'),
        bytes: fc.constant(0),
      }),
    ),
    { maxLength: 60 },
  );

  test("the sum of grants never passes a fixed budget, and every byte is somebody's", () => {
    fc.assert(
      fc.property(commands, fc.integer({ min: 0, max: 8 * GIB }), (steps, budget) => {
        const ledger = new Ledger({ reserveBytes: GIB, fixedBudgetBytes: budget });
        const model = new Map<string, number>();
        for (const { t, who, bytes } of steps) {
          const held = model.get(who) ?? 0;
          if (t === 'grant') {
            const granted = ledger.grant(who, bytes);
            const total = [...model.values()].reduce((sum, value) => sum + value, 0);
            expect(granted).toBe(total + bytes <= budget);
            if (granted) model.set(who, held + bytes);
          } else if (t === 'release') {
            expect(ledger.release(who, bytes)).toBe(Math.min(bytes, held));
            model.set(who, held - Math.min(bytes, held));
          } else if (t === 'report') ledger.report(who, bytes);
          else {
            ledger.close(who);
            model.delete(who);
          }
          expect(ledger.grantedBytes).toBe(
            [...model.values()].reduce((sum, value) => sum + value, 0),
          );
          expect(ledger.grantedBytes).toBeLessThanOrEqual(budget);
          for (const [name, value] of model) expect(ledger.heldBytes(name)).toBe(value);
        }
      }),
    );
  });

  test('by MemAvailable: what was granted but not created yet is not granted twice', () => {
    const ledger = new Ledger({ reserveBytes: 2 * GIB });
    ledger.observe({ availableBytes: 10 * GIB, pressurePercent: 0 });
    expect(ledger.headroomBytes).toBe(8 * GIB);
    expect(ledger.grant('a', 5 * GIB)).toBe(true);
    expect(ledger.headroomBytes).toBe(3 * GIB);
    expect(ledger.grant('b', 4 * GIB)).toBe(false);
    // Created now: MemAvailable has fallen by as much, and the report says so.
    ledger.observe({ availableBytes: 5 * GIB, pressurePercent: 0 });
    ledger.report('a', 5 * GIB);
    expect(ledger.headroomBytes).toBe(3 * GIB);
    ledger.close('a');
    ledger.observe({ availableBytes: 10 * GIB, pressurePercent: 0 });
    expect(ledger.headroomBytes).toBe(8 * GIB);
  });

  test('grants nothing while the machine stalls for memory', () => {
    const ledger = new Ledger({ reserveBytes: GIB, fixedBudgetBytes: 8 * GIB });
    ledger.observe({ availableBytes: 16 * GIB, pressurePercent: 35 });
    expect(ledger.grant('a', MIB)).toBe(false);
    ledger.observe({ availableBytes: 16 * GIB, pressurePercent: 3 });
    expect(ledger.grant('a', MIB)).toBe(true);
  });

  test('what a returning program holds is booked even beyond the budget', () => {
    const ledger = new Ledger({ reserveBytes: GIB, fixedBudgetBytes: GIB });
    ledger.adopt('a', 2 * GIB);
    expect(ledger.grantedBytes).toBe(2 * GIB);
    expect(ledger.headroomBytes).toBe(0);
    expect(ledger.release('a', 2 * GIB)).toBe(2 * GIB);
    expect(ledger.headroomBytes).toBe(GIB);
  });
});

describe('Residency', () => {
  const copyOf = (offset: number, length: number, leaseId = 'L'): Copy => ({
    offset,
    length,
    feederId: 'F',
    feederName: 'f',
    deviceKey: '1:0',
    leaseId,
    lane: 1,
    lost: false,
  });
  const extent = (offset: number, length: number, leaseId = 'L'): Extent => ({
    offset,
    length,
    copies: [copyOf(offset, length, leaseId)],
  });

  test('agrees with a map of granules after any inserts, removals and losses', () => {
    const step = fc.record({
      act: fc.constantFrom('insert', 'remove', 'lose'),
      at: fc.integer({ min: 0, max: 40 }),
      count: fc.integer({ min: 1, max: 6 }),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const residency = new Residency();
        const model = new Map<number, { id: string; lost: boolean }>();
        let serial = 0;
        for (const { act, at, count } of steps) {
          const range = { offset: at, length: count };
          if (act === 'insert') {
            if (residency.within(range).length > 0) continue;
            const id = `L${serial++}`;
            residency.insert(extent(at, count, id));
            for (let g = at; g < at + count; g++) model.set(g, { id, lost: false });
          } else if (act === 'remove') {
            for (const found of residency.within(range)) {
              residency.remove(found);
              for (let g = found.offset; g < found.offset + found.length; g++) model.delete(g);
            }
          } else {
            for (const found of residency.lose((copy) => overlaps(copy, range)).gone) {
              for (let g = found.offset; g < found.offset + found.length; g++)
                model.get(g)!.lost = true;
            }
          }
          const seen = new Map<number, { id: string; lost: boolean }>();
          for (const e of residency.all) {
            for (let g = e.offset; g < e.offset + e.length; g++)
              seen.set(g, { id: mainCopy(e).leaseId, lost: isLost(e) });
          }
          expect([...seen].sort((a, b) => a[0] - b[0])).toEqual(
            [...model].sort((a, b) => a[0] - b[0]),
          );
        }
      }),
    );
  });

  test('cover gives the pieces in order and refuses gaps', () => {
    const residency = new Residency();
    residency.insert(extent(10, 5));
    residency.insert(extent(15, 5));
    residency.insert(extent(30, 5));
    expect(
      residency.cover({ offset: 12, length: 6 }).map(({ offset, length }) => [offset, length]),
    ).toEqual([
      [12, 3],
      [15, 3],
    ]);
    for (const [offset, length] of [
      [8, 4],
      [18, 4],
      [20, 2],
      [18, 14],
    ] as const) {
      expect(() => residency.cover({ offset, length })).toThrow(/NOT_FOUND/);
    }
    expect(() => residency.wholeExtents({ offset: 10, length: 6 })).toThrow(/INVALID_ARGUMENT/);
    expect(() => residency.insert(extent(14, 2))).toThrow(/invariant/);
  });

  test('a part of an extent changes its copy, the rest keeps it, and it is needed until the last', () => {
    const residency = new Residency();
    residency.insert(extent(10, 10, 'A'));
    const [a] = residency.copies;
    const [b, c] = [copyOf(12, 3, 'B'), copyOf(10, 10, 'C')];
    residency.swap({ offset: 12, length: 3 }, a!, b!);
    const seen = (): unknown[] =>
      residency.all.map((e) => [e.offset, e.length, ...e.copies.map(({ leaseId }) => leaseId)]);
    expect(seen()).toEqual([
      [10, 2, 'A'],
      [12, 3, 'B'],
      [15, 5, 'A'],
    ]);
    residency.add({ offset: 10, length: 10 }, c!);
    expect(seen()).toEqual([
      [10, 2, 'A', 'C'],
      [12, 3, 'B', 'C'],
      [15, 5, 'A', 'C'],
    ]);
    expect(residency.lose((copy) => copy === a).gone).toEqual([]);
    expect(residency.lose((copy) => copy === c).bare.map(({ offset }) => offset)).toEqual([12]);
    residency.forget(c!);
    expect(residency.needs(a!)).toBe(true);
    residency.forget(a!);
    expect(seen()).toEqual([[12, 3, 'B']]);
    residency.add({ offset: 8, length: 12 }, copyOf(8, 12, 'D'));
    expect(seen()).toEqual([
      [8, 4, 'D'],
      [12, 3, 'B', 'D'],
      [15, 5, 'D'],
    ]);
  });

  test('pairs: what can be placed twice is placed twice, on two different ones, in any order', () => {
    const sizes = fc.array(fc.integer({ min: 0, max: 30 }), { minLength: 2, maxLength: 6 });
    fc.assert(
      fc.property(
        sizes,
        fc.array(fc.integer({ min: 1, max: 9 }), { maxLength: 40 }),
        (free, asks) => {
          const offers = free.map((count, index) => ({
            key: `${index}`,
            freeBytes: count * GRANULE,
          }));
          for (const ask of asks) {
            const room = Math.floor(pairCapacity(offers) / GRANULE);
            const pairs = pairUp(offers, ask * GRANULE, GRANULE);
            expect(pairs !== undefined).toBe(ask <= room);
            for (const { first, second, bytes } of pairs ?? []) {
              expect(first).not.toBe(second);
              for (const key of [first, second]) {
                const offer = offers.find((candidate) => candidate.key === key)!;
                offer.freeBytes -= bytes;
                expect(offer.freeBytes).toBeGreaterThanOrEqual(0);
              }
            }
            expect(Math.floor(pairCapacity(offers) / GRANULE)).toBe(pairs ? room - ask : room);
          }
        },
      ),
    );
  });

  test('without leaves what is in no other range', () => {
    const range = { offset: 10, length: 10 };
    expect(without(range, [])).toEqual([range]);
    expect(without(range, [{ offset: 0, length: 30 }])).toEqual([]);
    expect(
      without(range, [
        { offset: 16, length: 2 },
        { offset: 5, length: 7 },
        { offset: 11, length: 2 },
      ]),
    ).toEqual([
      { offset: 13, length: 3 },
      { offset: 18, length: 2 },
    ]);
  });

  test('mergeRanges joins neighbours only', () => {
    expect(mergeRanges([extent(4, 2), extent(0, 2), extent(2, 2), extent(8, 1)])).toEqual([
      { offset: 0, length: 6 },
      { offset: 8, length: 1 },
    ]);
  });
});

describe('RangeQueue', () => {
  test('keeps the order of what overlaps and lets the rest overtake', async () => {
    const queue = new RangeQueue();
    const order: string[] = [];
    let open = (): void => undefined;
    const gate = new Promise<void>((resolve) => (open = resolve));
    const first = queue.run({ offset: 0, length: 10 }, async () => {
      await gate;
      order.push('first');
    });
    const second = queue.run({ offset: 5, length: 10 }, async () => void order.push('second'));
    const third = queue.run({ offset: 14, length: 2 }, async () => void order.push('third'));
    await queue.run({ offset: 20, length: 1 }, async () => void order.push('other'));
    expect(order).toEqual(['other']);
    open();
    await Promise.all([first, second, third]);
    expect(order).toEqual(['other', 'first', 'second', 'third']);
    await queue.idle();
  });

  test('a failure lets the next one run', async () => {
    const queue = new RangeQueue();
    const failed = queue.run({ offset: 0, length: 1 }, () => Promise.reject(new Error('broken')));
    const next = queue.run({ offset: 0, length: 1 }, () => Promise.resolve('fine'));
    await expect(failed).rejects.toThrow('broken');
    await expect(next).resolves.toBe('fine');
  });
});

describe('parsers of what the system says', () => {
  const anyText = fc.oneof(
    fc.string({ maxLength: 300 }),
    fc.string({ maxLength: 300, unit: 'binary' }),
  );

  test('parseProcStat finds state and start time behind any command name', () => {
    const tail = Array.from({ length: 50 }, (_, index) => `${index}`).join(' ');
    fc.assert(
      fc.property(fc.string({ maxLength: 20 }), (name) => {
        expect(parseProcStat(`42 (${name}) S ${tail}`)).toEqual({ state: 'S', startTicks: 18 });
      }),
    );
    fc.assert(fc.property(anyText, (text) => void parseProcStat(text)));
  });

  test('parseMemInfo and parsePressure give figures or say that there are none', () => {
    expect(parseMemInfo('MemTotal:       100 kB\nMemFree: 1 kB\nMemAvailable:    50 kB\n')).toEqual(
      {
        totalBytes: 102_400,
        availableBytes: 51_200,
      },
    );
    expect(parsePressure('some avg10=12.50 avg60=0.00 avg300=0.00 total=0\n')).toBe(12.5);
    expect(parsePressure('')).toBe(-1);
    fc.assert(
      fc.property(anyText, (text) => {
        expect(() => parseMemInfo(text)).toThrow(GbError);
        expect(Number.isFinite(parsePressure(text))).toBe(true);
      }),
    );
    expect(reserveBytes(64 * GIB)).toBe(Math.floor(6.4 * GIB));
    expect(reserveBytes(2 * GIB)).toBe(GIB);
  });

  test('parseState refuses everything that is not a state file', () => {
    const good = {
      version: 1,
      hostId: 'H-0123456789abcdef',
      links: [],
      attachments: [],
      pendingReleases: [],
    };
    expect(parseState(JSON.stringify(good))).toEqual(good);
    fc.assert(
      fc.property(fc.oneof(anyText, fc.json()), (text) => {
        expect(() => parseState(text)).toThrow(/DATA_LOSS/);
      }),
    );
    const wrong = [
      { ...good, version: 2 },
      { ...good, hostId: 'F-0123456789abcdef' },
      { ...good, extra: 1 },
    ];
    for (const state of wrong) expect(() => parseState(JSON.stringify(state))).toThrow(/DATA_LOSS/);
  });

  test('normalizeAddress adds the port and refuses what is no address', () => {
    expect(normalizeAddress('box')).toBe('box:9740');
    expect(normalizeAddress('10.0.0.5:1234')).toBe('10.0.0.5:1234');
    expect(normalizeAddress('fe80::1%eth0')).toBe('[fe80::1%eth0]:9740');
    expect(normalizeAddress('[::1]:77')).toBe('[::1]:77');
    for (const text of ['', 'a b', 'box:0', 'box:70000', 'http://box', 'box:']) {
      expect(() => normalizeAddress(text)).toThrow(/INVALID_ARGUMENT/);
    }
  });
});
