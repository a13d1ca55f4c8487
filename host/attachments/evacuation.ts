// SPDX-License-Identifier: Apache-2.0
// Everything one program has on one feeder goes to others: extent by extent, several at a time, then
// what was leased and not used. It can be given up at any time; what has moved stays moved.
import { GbError } from '../../proto/base/errors.js';
import { MOVES_IN_FLIGHT_MAX } from '../../proto/base/limits.js';
import type { Copy, Extent } from '../placement/residency.js';
import { isOn, type Copies } from './copies.js';
import type { FeederBudget } from './feeder-budget.js';
import { freeOf, sumHolds } from './holds.js';
import type { Mover } from './mover.js';

export interface EvacuationWatch {
  readonly signal: AbortSignal;
  /** Bytes pulled more. */
  readonly onPulled: (bytes: number) => void;
  /** Bytes that are elsewhere for good. */
  readonly onMoved: (bytes: number) => void;
}

export interface EvacuationParts {
  readonly budget: FeederBudget;
  readonly copies: Copies;
  readonly mover: Mover;
}

/** Bytes of the program that lie on a feeder. */
export function bytesOn({ budget }: Pick<EvacuationParts, 'budget'>, feederId: string): number {
  const holds = budget.holds.filter((hold) => hold.feederId === feederId && hold.state !== 'lost');
  return sumHolds(holds, ({ usedBytes }) => usedBytes);
}

/** Moves everything off `feederId`, which takes nothing new meanwhile. Returns the bytes moved.
 *  @throws GbError WRONG_STATE or CAPACITY_EXHAUSTED for the first extent that could not be moved,
 *  after all others were tried; CANCELED. */
export async function evacuate(
  parts: EvacuationParts,
  feederId: string,
  watch: EvacuationWatch,
): Promise<number> {
  const { budget, copies } = parts;
  const queue = copies.residency.all.filter((extent) => isOn(extent, feederId));
  let movedBytes = 0;
  const failures: GbError[] = [];
  const work = async (): Promise<void> => {
    for (let extent = queue.shift(); extent; extent = queue.shift()) {
      if (watch.signal.aborted) return;
      const moved = await moveOff(parts, extent, feederId, watch).catch((reason: unknown) => {
        failures.push(GbError.from(reason));
        return 0;
      });
      movedBytes += moved;
      if (moved > 0) watch.onMoved(moved);
    }
  };
  await Promise.all(Array.from({ length: MOVES_IN_FLIGHT_MAX }, work));
  watch.signal.throwIfAborted();
  if (failures[0]) throw failures[0];
  for (const hold of budget.holds.filter((h) => h.feederId === feederId && h.state === 'held')) {
    if (freeOf(hold) > 0 && !(await budget.moveFree(hold)))
      throw new GbError('CAPACITY_EXHAUSTED', 'no other feeder has room for what was granted');
  }
  return movedBytes;
}

/** An extent the program drops meanwhile needs no move. */
async function moveOff(
  { mover, copies }: EvacuationParts,
  extent: Extent,
  feederId: string,
  { signal, onPulled }: EvacuationWatch,
): Promise<number> {
  const from = extent.copies.find((copy: Copy) => copy.feederId === feederId && !copy.lost);
  if (!from || !copies.residency.all.includes(extent)) return 0;
  try {
    return await mover.move(extent, from, { signal, onBytes: onPulled });
  } catch (reason) {
    if (GbError.from(reason).code === 'NOT_FOUND') return 0;
    throw reason;
  }
}
