// SPDX-License-Identifier: Apache-2.0
// Which machine should hold which range of a program whose kernels run where their data are: a cut of one observed
// step (launches in order, each with the ranges it names) into runs of launches on one machine, under what each can
// hold. Few crossings first, then few moved bytes. Pure: no clock, no I/O; the same facts give the same plan.
import { assert } from '../../proto/base/assert.js';

export interface StepRange {
  readonly bytes: number;
  /** Index of its place now. */
  readonly at: number;
}

/** Where ranges can lie. The first place is the program's own machine. */
export interface OwnerPlace {
  readonly capacityBytes: number;
  /** Of the ranges it holds at least so much: what is free here is not lent elsewhere. */
  readonly floorBytes: number;
  /** A crossing to or from it, in each step to come, costs as much as moving so many bytes once. Of the first place
   *  0. */
  readonly crossingBytes: number;
}

export interface Step {
  readonly ranges: readonly StepRange[];
  /** In order; each names ranges by their index. After the last comes the first again. */
  readonly launches: readonly (readonly number[])[];
}

/** What an assignment costs: in each step, and once. */
export interface OwnerCost {
  readonly crossings: number;
  /** Launches whose ranges lie on several feeders: they would have to be brought together each time. */
  readonly conflicts: number;
  readonly movedBytes: number;
  /** All of it, in bytes; Infinity: beyond a capacity, or below a floor. */
  readonly total: number;
}

export interface OwnerPlan extends OwnerCost {
  /** Of each range: the index of its place. */
  readonly owners: readonly number[];
}

/** So many assignments are tried one by one; beyond them cuts are looked for. */
const EXACT_ASSIGNMENTS_MAX = 4096;
/** Ranges that a cut is looked for among; more are taken together with their neighbours. */
const CUT_ITEMS_MAX = 192;
/** Places in every order up to here; beyond, in the order in which the step reaches them. */
const PERMUTED_PLACES_MAX = 4;
const ROTATIONS_MAX = 6;
/** Visits of launches that single moves of ranges are tried with. */
const REFINE_WORK_MAX = 40e6;
/** Costs more than any number of crossings. */
const CONFLICT_BYTES = 2 ** 46;

/** Named by launches all over the step: activations and scratch, which every machine needs a copy of. They lie with the
 *  program. */
export function sharedRanges({ ranges, launches }: Step): boolean[] {
  const firsts = ranges.map((): number[] => []);
  launches.forEach((named, position) => {
    for (const range of new Set(named)) (firsts[range] as number[]).push(position);
  });
  const others = (from: number, to: number, self: number): number =>
    new Set(launches.slice(from, to + 1).flat()).size - (launches[from]?.includes(self) ? 1 : 0);
  return firsts.map((positions, self) => {
    if (positions.length < 3 || ranges.length < 4) return false;
    const arc = launches.length - longestGap(positions, launches.length);
    if (arc * 2 <= launches.length) return false;
    // Named often, with more than half of what there is in between.
    return others(positions[0] as number, positions.at(-1) as number, self) * 2 > ranges.length;
  });
}

function longestGap(positions: readonly number[], length: number): number {
  return positions.reduce((longest, position, index) => {
    const next = positions[index + 1] ?? (positions[0] as number) + length;
    return Math.max(longest, next - position);
  }, 0);
}

/** What `owners` costs. */
export function costOf(
  step: Step,
  places: readonly OwnerPlace[],
  owners: readonly number[],
  shared: readonly boolean[] = sharedRanges(step),
): OwnerCost {
  const used = places.map(() => 0);
  let movedBytes = 0;
  step.ranges.forEach(({ bytes, at }, index) => {
    const owner = owners[index] as number;
    used[owner] = (used[owner] ?? 0) + bytes;
    if (owner !== at) movedBytes += bytes;
  });
  const over = places.some(({ capacityBytes, floorBytes }, index) => {
    const bytes = used[index] ?? 0;
    return bytes > capacityBytes || bytes < floorBytes;
  });
  const { crossings, crossingBytes, conflicts } = crossingsOf(step, places, owners, shared);
  const total = over
    ? Number.POSITIVE_INFINITY
    : crossingBytes + conflicts * CONFLICT_BYTES + movedBytes;
  return { crossings, conflicts, movedBytes, total };
}

function crossingsOf(
  { launches }: Step,
  places: readonly OwnerPlace[],
  owners: readonly number[],
  shared: readonly boolean[],
): { crossings: number; crossingBytes: number; conflicts: number } {
  let [first, last, crossings, crossingBytes, conflicts] = [-1, -1, 0, 0, 0];
  const go = (from: number, to: number): void => {
    if (from === to) return;
    for (const place of [from, to]) {
      if (place !== 0) crossings++;
      crossingBytes += places[place]?.crossingBytes ?? 0;
    }
  };
  for (const named of launches) {
    let here = -1;
    for (const range of named) {
      const owner = owners[range] as number;
      if (shared[range] === true && owner === 0) continue;
      if (owner !== 0 && here > 0 && owner !== here) conflicts++;
      if (here <= 0) here = owner;
    }
    if (here < 0) continue; // It follows what it names.
    if (last >= 0) go(last, here);
    else first = here;
    last = here;
  }
  if (last >= 0) go(last, first);
  return { crossings, crossingBytes, conflicts };
}

/** The cheapest assignment that is found: of few ranges the cheapest there is.
 *  pre: where everything lies now is within capacities and floors. */
export function planOwners(step: Step, places: readonly OwnerPlace[]): OwnerPlan {
  const free = sharedRanges(step).filter((shared) => !shared).length;
  return places.length ** free <= EXACT_ASSIGNMENTS_MAX
    ? bestOwners(step, places)
    : cutOwners(step, places);
}

/** The cheapest of all assignments; the fewest moved bytes among equals. Exponential in the ranges. */
export function bestOwners(step: Step, places: readonly OwnerPlace[]): OwnerPlan {
  const shared = sharedRanges(step);
  let best = asItIs(step, places, shared);
  const owners = best.owners.slice();
  const choose = (index: number): void => {
    if (index === owners.length) {
      best = better(best, planOf(step, places, owners.slice(), shared));
      return;
    }
    for (let place = 0; place < places.length; place++) {
      if (shared[index] === true && place !== 0 && place !== step.ranges[index]?.at) continue;
      owners[index] = place;
      choose(index + 1);
    }
  };
  choose(0);
  return best;
}

/** A cheap assignment: every place gets one run of the step, then single ranges are moved while that helps. */
export function cutOwners(step: Step, places: readonly OwnerPlace[]): OwnerPlan {
  const shared = sharedRanges(step);
  let best = asItIs(step, places, shared);
  const order = orderOfUse(step, shared);
  const fixed = heldNow(step, shared);
  for (const start of rotationsOf(step, order)) {
    const items = together([...order.slice(start), ...order.slice(0, start)]);
    for (const sequence of sequencesOf(step, places, order)) {
      const owners = cut(step, places, { items, sequence, fixed });
      if (owners) best = better(best, planOf(step, places, owners, shared));
    }
  }
  return refine(step, places, best, shared);
}

/** Shared ranges with the program, the others where they are. */
const heldNow = (step: Step, shared: readonly boolean[]): number[] =>
  step.ranges.map(({ at }, index) => (shared[index] === true ? 0 : at));

/** Nothing moves, or only what is shared does. */
function asItIs(step: Step, places: readonly OwnerPlace[], shared: readonly boolean[]): OwnerPlan {
  const now = step.ranges.map(({ at }) => at);
  const home = planOf(step, places, heldNow(step, shared), shared);
  return better(planOf(step, places, now, shared), home);
}

function planOf(
  step: Step,
  places: readonly OwnerPlace[],
  owners: readonly number[],
  shared: readonly boolean[],
): OwnerPlan {
  return { owners, ...costOf(step, places, owners, shared) };
}

const better = (a: OwnerPlan, b: OwnerPlan): OwnerPlan => (b.total < a.total ? b : a);

/** Ranges that are not shared, by their first use. */
function orderOfUse({ launches }: Step, shared: readonly boolean[]): number[] {
  return [...new Set(launches.flat())].filter((range) => shared[range] !== true);
}

/** Where the cycle may be cut open: at its beginning, and where another place begins now. */
function rotationsOf({ ranges }: Step, order: readonly number[]): number[] {
  const at = (index: number): number | undefined => ranges[order[index] as number]?.at;
  const changes = order.map((_, index) => index).filter((i) => i > 0 && at(i) !== at(i - 1));
  return [0, ...changes].slice(0, ROTATIONS_MAX);
}

/** At most CUT_ITEMS_MAX groups of neighbours. */
function together(order: readonly number[]): number[][] {
  const size = Math.ceil(order.length / CUT_ITEMS_MAX);
  const groups: number[][] = [];
  for (let index = 0; index < order.length; index += Math.max(1, size))
    groups.push(order.slice(index, index + size));
  return groups;
}

/** Orders in which the places may take their runs. */
function sequencesOf(
  { ranges }: Step,
  places: readonly OwnerPlace[],
  order: readonly number[],
): number[][] {
  const all = places.map((_, index) => index);
  if (places.length <= PERMUTED_PLACES_MAX) return permutations(all);
  const reached = new Set(order.map((range) => (ranges[range] as StepRange).at));
  return [[...reached, ...all.filter((place) => !reached.has(place))]];
}

function permutations(items: readonly number[]): number[][] {
  if (items.length <= 1) return [[...items]];
  return items.flatMap((item) =>
    permutations(items.filter((other) => other !== item)).map((rest) => [item, ...rest]),
  );
}

/** Divides the items, in order, among the places of `sequence`, each one run or nothing, for the least crossings and
 *  moved bytes. undefined: they do not fit so. */
function cut(
  { ranges }: Step,
  places: readonly OwnerPlace[],
  task: { items: readonly number[][]; sequence: readonly number[]; fixed: readonly number[] },
): number[] | undefined {
  const { items, sequence, fixed } = task;
  const sizes = items.map((group) => sum(group.map((range) => (ranges[range] as StepRange).bytes)));
  const inPlace = new Set(items.flat());
  /** Cheapest way to give the first `end` items to the places so far; and where the last of them begins. */
  let costs = [0, ...items.map(() => Number.POSITIVE_INFINITY)];
  const begins: number[][] = [];
  for (const place of sequence) {
    const { capacityBytes, floorBytes, crossingBytes } = places[place] as OwnerPlace;
    const takenBytes = sum(
      ranges.map(({ bytes }, index) => (!inPlace.has(index) && fixed[index] === place ? bytes : 0)),
    );
    const next =
      takenBytes < floorBytes ? costs.map(() => Number.POSITIVE_INFINITY) : costs.slice();
    const begin = costs.map((_, end) => end);
    for (let end = 1; end <= items.length; end++) {
      let [bytes, moved] = [takenBytes, 0];
      for (let from = end - 1; from >= 0; from--) {
        bytes += sizes[from] as number;
        if (bytes > capacityBytes) break;
        moved += movedTo(ranges, items[from] as number[], place);
        const cost = (costs[from] as number) + moved + 2 * crossingBytes;
        if (bytes < floorBytes || cost >= (next[end] as number)) continue;
        next[end] = cost;
        begin[end] = from;
      }
    }
    costs = next;
    begins.push(begin);
  }
  if (costs[items.length] === Number.POSITIVE_INFINITY) return undefined;
  const owners = fixed.slice();
  let end = items.length;
  for (let index = sequence.length - 1; index >= 0; index--) {
    const from = (begins[index] as number[])[end] as number;
    for (const range of items.slice(from, end).flat()) owners[range] = sequence[index] as number;
    end = from;
  }
  return owners;
}

const movedTo = (ranges: readonly StepRange[], group: readonly number[], place: number): number =>
  sum(group.map((range) => (ranges[range]?.at === place ? 0 : (ranges[range]?.bytes ?? 0))));

const sum = (values: readonly number[]): number =>
  values.reduce((total, value) => total + value, 0);

/** Moves single ranges to where a neighbour in the step lies, while that is cheaper. */
function refine(
  step: Step,
  places: readonly OwnerPlace[],
  from: OwnerPlan,
  shared: readonly boolean[],
): OwnerPlan {
  const order = orderOfUse(step, shared);
  const touches = sum(step.launches.map(({ length }) => length + 1));
  let rounds = Math.floor(REFINE_WORK_MAX / Math.max(1, touches * order.length * places.length));
  let best = from;
  for (let improved = true; improved && rounds > 0; rounds--) {
    improved = false;
    for (const range of order) {
      for (let place = 0; place < places.length; place++) {
        if (best.owners[range] === place) continue;
        const owners = best.owners.slice();
        owners[range] = place;
        const plan = planOf(step, places, owners, shared);
        if (plan.total < best.total) [best, improved] = [plan, true];
      }
    }
  }
  assert(best.total <= from.total, 'a plan only becomes cheaper');
  return best;
}
