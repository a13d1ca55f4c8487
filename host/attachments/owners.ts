// SPDX-License-Identifier: Apache-2.0
// Which feeder should hold which range of one program whose kernels run on feeders, learned from one step of it: takes
// the step in parts, plans (host/placement/owners.ts), and moves single ranges from lease to lease while the program
// waits.
//   part ... part --last--> plan, told to the program --SHIFT of a range--> moved
import { GbError } from '../../proto/base/errors.js';
import {
  costOf,
  planOwners,
  type OwnerPlace,
  type Step,
  type StepRange,
} from '../placement/owners.js';
import type { ByteRange } from '../placement/residency.js';
import { OWNERS_MAX, STEP_TOUCHES_MAX } from '../shim/abi.js';
import type { Copies } from './copies.js';
import type { FeederBudget } from './feeder-budget.js';
import type { FeederDirectory, Hold } from './holds.js';
import type { Mover } from './mover.js';

/** A launch of the step names a range. */
export interface Touch extends ByteRange {
  /** The launch's number in the step. */
  readonly launch: number;
  /** Where the range lies whole; 0: with the program. */
  readonly lane: number;
}

/** Some touches of one step. */
export interface StepPart {
  readonly first: number;
  readonly total: number;
  readonly launchCount: number;
  /** What the program's own tiers can hold of the ranges. */
  readonly localBytes: number;
  readonly touches: readonly Touch[];
}

/** A range that should lie elsewhere. */
export interface OwnerWish extends ByteRange {
  readonly lane: number;
}

export interface StepAnswer {
  readonly wishes: readonly OwnerWish[];
  readonly crossingsBefore: number;
  readonly crossingsAfter: number;
}

/** What was learned last, for people. */
export interface LearnedStep {
  readonly launchCount: number;
  /** Crossings of one step, as everything lay when the step was seen first, as it lies now, and as it should. */
  readonly crossingsBefore: number;
  readonly crossingsNow: number;
  readonly crossingsPlanned: number;
  /** Ranges that have moved for it. */
  readonly movedCount: number;
  readonly movedBytes: number;
  /** By the range's offset. */
  readonly ranges: ReadonlyMap<number, LearnedRange>;
}

export interface LearnedRange extends ByteRange {
  readonly lane: number;
  /** First and last launch of the step that names it. */
  readonly first: number;
  readonly last: number;
}

/** So many steps to come a crossing is taken to be paid for. */
const STEPS_AHEAD = 10_000;
/** Of a crossing, besides the link's latency: hashing, queues, waking up. */
const CROSSING_MICROS = 300;
/** A link that was not measured yet. */
const ASSUMED_BYTES_PER_SECOND = 1e9;

export interface OwnersDeps {
  readonly budget: FeederBudget;
  readonly copies: Copies;
  readonly mover: Mover;
  readonly directory: FeederDirectory;
}

const NOTHING: StepAnswer = { wishes: [], crossingsBefore: 0, crossingsAfter: 0 };

export class Owners {
  /** undefined: no step of the program was seen to repeat. */
  learned: LearnedStep | undefined;
  private readonly touches: Touch[] = [];

  constructor(private readonly deps: OwnersDeps) {}

  /** Takes a part; with the last one plans. @throws GbError INVALID_ARGUMENT for a part that does not follow. */
  step(part: StepPart): StepAnswer {
    if (part.first === 0) this.touches.splice(0);
    const isNext = part.first === this.touches.length && part.total <= STEP_TOUCHES_MAX;
    if (!isNext || part.first + part.touches.length > part.total || part.touches.length === 0)
      throw new GbError('INVALID_ARGUMENT', 'a part of a step that does not follow the others');
    this.touches.push(...part.touches);
    if (this.touches.length < part.total) return NOTHING;
    return this.plan(this.touches.splice(0), part);
  }

  /** Moves the whole range to the lease of that lane. Cancel: `signal`; what has moved stays moved.
   *  @throws GbError NOT_FOUND, CAPACITY_EXHAUSTED, WRONG_STATE; as Mover. */
  async shift(range: ByteRange, lane: number, signal: AbortSignal): Promise<void> {
    const { budget, copies, mover } = this.deps;
    const hold = budget.holds.find((other) => other.lane === lane && other.state === 'held');
    if (!hold || lane === 0) throw new GbError('NOT_FOUND', `lane ${lane} takes no ranges`);
    for (const extent of copies.residency.wholeExtents(range)) {
      const [from, second] = extent.copies;
      if (!from || second) throw new GbError('WRONG_STATE', 'ranges with two copies stay');
      if (from.lane !== lane)
        await mover.move(extent, from, { signal, onBytes: () => undefined, to: hold });
    }
  }

  private plan(touches: readonly Touch[], { launchCount, localBytes }: StepPart): StepAnswer {
    const holds = this.deps.budget.holds.filter((hold) => this.runs(hold));
    const lanes = [0, ...holds.map(({ lane }) => lane)];
    const { used, step } = digest(touches, lanes);
    if (step.ranges.some(({ at }) => at < 0)) return NOTHING; // It lies where no kernel runs.
    const places = [
      homeOf(step.ranges, localBytes),
      ...holds.map((hold, index) => this.placeOf(hold, bytesAt(step.ranges, index + 1))),
    ];
    const now = costOf(
      step,
      places,
      step.ranges.map(({ at }) => at),
    );
    const plan = planOwners(step, places);
    if (!Number.isFinite(plan.total)) return NOTHING;
    this.note(used, { launchCount, crossingsNow: now.crossings, crossingsPlanned: plan.crossings });
    const wishes = used.flatMap(({ offset, length }, index): OwnerWish[] => {
      const owner = plan.owners[index] as number;
      return owner === step.ranges[index]?.at
        ? []
        : [{ offset, length, lane: lanes[owner] as number }];
    });
    return {
      wishes: wishes.slice(0, OWNERS_MAX),
      crossingsBefore: now.crossings,
      crossingsAfter: plan.crossings,
    };
  }

  private runs(hold: Hold): boolean {
    const { directory } = this.deps;
    return (
      hold.state === 'held' &&
      directory.accepts(hold.feederId) &&
      directory.computeOf(hold.feederId) !== undefined
    );
  }

  private placeOf(hold: Hold, heldBytes: number): OwnerPlace {
    const { budget, directory } = this.deps;
    const { readBytesPerSecond, latencyMicros } = directory.costOf(hold.feederId);
    const rate = readBytesPerSecond > 0 ? readBytesPerSecond : ASSUMED_BYTES_PER_SECOND;
    const micros = latencyMicros + CROSSING_MICROS;
    return {
      capacityBytes: heldBytes + budget.offers.roomOn(budget.holds, hold),
      floorBytes: 0,
      crossingBytes: Math.round((micros / 1e6) * rate * STEPS_AHEAD),
    };
  }

  /** What has moved since the step was looked at last was moved for it. */
  private note(
    used: readonly LearnedRange[],
    facts: Pick<LearnedStep, 'launchCount' | 'crossingsNow' | 'crossingsPlanned'>,
  ): void {
    const before = this.learned;
    const isSame =
      before?.launchCount === facts.launchCount &&
      before.ranges.size === used.length &&
      used.every(({ offset }) => before.ranges.has(offset));
    const moved = isSame
      ? used.filter(({ offset, lane }) => before.ranges.get(offset)?.lane !== lane)
      : [];
    this.learned = {
      ...facts,
      crossingsBefore: isSame ? before.crossingsBefore : facts.crossingsNow,
      movedCount: (isSame ? before.movedCount : 0) + moved.length,
      movedBytes: moved.reduce((sum, { length }) => sum + length, isSame ? before.movedBytes : 0),
      ranges: new Map(used.map((range) => [range.offset, range])),
    };
  }
}

/** The touches as ranges by their first use, and launches that name them; `lanes`: of each place. */
function digest(
  touches: readonly Touch[],
  lanes: readonly number[],
): { used: LearnedRange[]; step: Step } {
  const used: LearnedRange[] = [];
  const indices = new Map<number, number>();
  const launches = new Map<number, number[]>();
  for (const { offset, length, launch, lane } of touches) {
    const index = indices.get(offset) ?? used.length;
    indices.set(offset, index);
    used[index] = { offset, length, lane, first: used[index]?.first ?? launch, last: launch };
    launches.set(launch, [...(launches.get(launch) ?? []), index]);
  }
  const ranges = used.map(({ length, lane }) => ({ bytes: length, at: lanes.indexOf(lane) }));
  return { used, step: { ranges, launches: [...launches.values()] } };
}

/** The program's own machine stays as full as it is, but for what the ends of a run may need: two ranges. */
function homeOf(ranges: readonly StepRange[], localBytes: number): OwnerPlace {
  const heldBytes = bytesAt(ranges, 0);
  const largestBytes = Math.max(...ranges.map(({ bytes }) => bytes));
  return {
    capacityBytes: Math.max(localBytes, heldBytes),
    floorBytes: Math.max(0, heldBytes - 2 * largestBytes),
    crossingBytes: 0,
  };
}

const bytesAt = (ranges: readonly StepRange[], place: number): number =>
  ranges.reduce((sum, { bytes, at }) => sum + (at === place ? bytes : 0), 0);
