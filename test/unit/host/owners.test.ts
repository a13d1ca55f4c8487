// SPDX-License-Identifier: Apache-2.0
// Which machine should hold which range: the cut of a step against the best of all assignments, on random small steps;
// layers at scale.
import { describe, expect, test } from '@jest/globals';
import {
  bestOwners,
  costOf,
  cutOwners,
  planOwners,
  sharedRanges,
  type OwnerPlace,
  type OwnerPlan,
  type Step,
} from '../../../host/placement/owners.js';

/** Numbers from a seed, the same every time. */
function randomOf(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

const HOME = (capacityBytes: number, floorBytes = 0): OwnerPlace => ({
  capacityBytes,
  floorBytes,
  crossingBytes: 0,
});
const FEEDER = (capacityBytes: number): OwnerPlace => ({
  capacityBytes,
  floorBytes: 0,
  crossingBytes: 1e6,
});

/** A step that reads its ranges in an order of its own, some of them twice or together. */
function randomStep(random: (below: number) => number, placeCount: number): Step {
  const count = 3 + random(5);
  const ranges = Array.from({ length: count }, () => ({
    bytes: 1 + random(4),
    at: random(placeCount),
  }));
  const launches = Array.from({ length: count + random(5) }, (_, index) => {
    const first = index < count ? index : random(count);
    return random(4) === 0 ? [first, random(count)] : [first];
  });
  return { ranges, launches };
}

const usedBy = ({ ranges }: Step, { owners }: OwnerPlan, place: number): number =>
  ranges.reduce((sum, { bytes }, index) => sum + (owners[index] === place ? bytes : 0), 0);

const nowCost = (step: Step, places: readonly OwnerPlace[]): number =>
  costOf(
    step,
    places,
    step.ranges.map(({ at }) => at),
  ).total;

describe('random small steps', () => {
  const cases = Array.from({ length: 150 }, (_, seed) => {
    const random = randomOf(seed + 1);
    const placeCount = 2 + random(2);
    const step = randomStep(random, placeCount);
    const places = Array.from({ length: placeCount }, (_p, index) => {
      const heldBytes = step.ranges.reduce((sum, r) => sum + (r.at === index ? r.bytes : 0), 0);
      const capacityBytes = heldBytes + random(8);
      return index === 0 ? HOME(capacityBytes, Math.max(0, heldBytes - 4)) : FEEDER(capacityBytes);
    });
    return { step, places };
  });

  test('no assignment is cheaper than the best, and none goes beyond a capacity', () => {
    for (const { step, places } of cases) {
      const best = bestOwners(step, places);
      const cut = cutOwners(step, places);
      expect(best.total).toBeLessThanOrEqual(cut.total);
      expect(cut.total).toBeLessThanOrEqual(nowCost(step, places));
      for (const [index, { capacityBytes, floorBytes }] of places.entries()) {
        for (const plan of [best, cut]) {
          expect(usedBy(step, plan, index)).toBeLessThanOrEqual(capacityBytes);
          expect(usedBy(step, plan, index)).toBeGreaterThanOrEqual(floorBytes);
        }
      }
    }
  });

  test('the cut finds the best crossings in nine of ten, and never more than two feeders more', () => {
    const found = cases.map(({ step, places }) => {
      const best = bestOwners(step, places);
      const cut = cutOwners(step, places);
      expect(cut.conflicts).toBe(best.conflicts);
      expect(cut.crossings).toBeLessThanOrEqual(best.crossings + 4);
      return cut.crossings === best.crossings;
    });
    expect(found.filter(Boolean).length).toBeGreaterThanOrEqual(cases.length * 0.9);
  });

  test('of few ranges the plan is the best one', () => {
    for (const { step, places } of cases.slice(0, 60))
      expect(planOwners(step, places).total).toBe(bestOwners(step, places).total);
  });
});

/** Layers of two matrices and a buffer, used in the order matrix, buffer, matrix; scratch in every launch. */
function layers(count: number, at: (layer: number, which: number) => number): Step {
  const ranges = [{ bytes: 2, at: 0 }];
  const launches: number[][] = [];
  for (let layer = 0; layer < count; layer++) {
    for (const which of [0, 1, 2]) ranges.push({ bytes: 2, at: at(layer, which) });
    const first = 1 + layer * 3;
    launches.push([0], [0, first], [0, first + 2], [0], [0, first + 1]);
  }
  return { ranges, launches };
}

describe('layers', () => {
  test('a layer that was cut by the order of allocation is put together: two crossings for each feeder', () => {
    // Allocated as matrix, matrix, buffer: both ends of the first feeder cut a layer.
    const step = layers(12, (layer, which) => {
      const position = layer * 3 + which;
      return position < 13 ? 0 : position < 26 ? 1 : 2;
    });
    const places = [HOME(30, 24), FEEDER(30), FEEDER(40)];
    expect(nowCost(step, places)).toBeGreaterThan(6e6);
    const plan = planOwners(step, places);
    expect(plan).toMatchObject({ crossings: 4, conflicts: 0 });
    expect(plan.movedBytes).toBeLessThanOrEqual(6);
  });

  test('buffers that were allocated last, all on one feeder, go to their layers', () => {
    const step = layers(32, (layer, which) => (which === 2 ? 2 : layer < 16 ? 0 : 1));
    const places = [HOME(110, 60), FEEDER(110), FEEDER(110)];
    const plan = planOwners(step, places);
    expect(plan.crossings).toBeLessThanOrEqual(4);
    expect(plan.conflicts).toBe(0);
    const again = planOwners(
      { ...step, ranges: step.ranges.map((r, i) => ({ ...r, at: plan.owners[i] as number })) },
      places,
    );
    expect(again.movedBytes).toBe(0);
  });

  test('hundreds of layers over five places stay two crossings for each feeder', () => {
    const step = layers(200, (layer) => Math.floor(layer / 40));
    const places = [HOME(260, 200), ...[0, 1, 2, 3].map(() => FEEDER(260))];
    expect(planOwners(step, places)).toMatchObject({ crossings: 8, conflicts: 0, movedBytes: 0 });
  });

  test('scratch is shared, a matrix used twice at both ends of the step is not', () => {
    const step = layers(8, () => 1);
    const tied = { ...step, launches: [[1], ...step.launches, [1]] };
    expect(sharedRanges(tied).map((shared, index) => (shared ? index : -1))).toContain(0);
    expect(sharedRanges(tied)[1]).toBe(false);
  });

  test('what is worth less than moving it stays', () => {
    const step = layers(4, (layer) => layer % 2);
    const dear = { ...FEEDER(100), crossingBytes: 0.1 };
    expect(planOwners(step, [HOME(100), dear]).movedBytes).toBe(0);
    expect(planOwners(step, [HOME(100), FEEDER(100)]).crossings).toBe(0);
  });
});
