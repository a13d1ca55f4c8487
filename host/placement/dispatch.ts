// SPDX-License-Identifier: Apache-2.0
// Where the bytes of a program go whose kernels run where the bytes are: on few feeders, one filled after the other in
// the order of calls, so that layers which follow each other lie together, and each range whole behind one lane, as
// kernels run only where all of it is. Pure: no clock, no I/O.
import { assert } from '../../proto/base/assert.js';
import { costMicros, type PlacementPart, type PlacementPlan, type TierOffer } from './policy.js';

/** How kernels of its feeder use a device: it is the memory of their GPU, the GPU reads it over PCIe, or none run. */
export type Reach = 'gpu' | 'host' | 'none';

export interface DispatchOffer extends TierOffer {
  readonly feederId: string;
  readonly reach: Reach;
  /** The program's number of its lease there, in the order they were made; undefined: none yet. */
  readonly lane: number | undefined;
}

const REACH_ORDER: Readonly<Record<Reach, number>> = { gpu: 0, host: 1, none: 2 };

/** The wanted lane first (0: none is); then feeders that run kernels: their VRAM, then their RAM; among them those that
 *  hold something already, the oldest first; new ones, and those that run none, by cost. The same facts give the same
 *  order. */
export function orderForDispatch<T extends DispatchOffer>(
  offers: readonly T[],
  wantedLane = 0,
): T[] {
  const keyOf = (offer: T): (number | string)[] => [
    wantedLane !== 0 && offer.lane === wantedLane ? 0 : 1,
    REACH_ORDER[offer.reach],
    offer.reach === 'none' ? 0 : (offer.lane ?? Number.POSITIVE_INFINITY),
    costMicros(offer),
    offer.rank,
    offer.feederId,
    offer.key,
  ];
  return [...offers].sort((a, b) => {
    const [left, right] = [keyOf(a), keyOf(b)];
    for (const [index, value] of left.entries()) {
      const other = right[index] as number | string;
      if (value !== other) return value < other ? -1 : 1;
    }
    return 0;
  });
}

/** Room for `bytes`: on the first feeder whose VRAM takes all of it, else on the first that takes all of it in VRAM and
 *  RAM, else on one that runs no kernels, which loses nothing by it, else wherever there is some, in order. Each time
 *  the feeder of the wanted lane is asked first.
 *  pre: `bytes` is a positive multiple of `granuleBytes`. */
export function planDispatch(
  offers: readonly DispatchOffer[],
  bytes: number,
  granuleBytes: number,
  wantedLane = 0,
): PlacementPlan {
  assert(
    granuleBytes > 0 && bytes > 0 && bytes % granuleBytes === 0,
    'a placement has whole granules',
  );
  const ordered = orderForDispatch(offers, wantedLane);
  const feeders = [...new Set(ordered.map(({ feederId }) => feederId))];
  const of = (feederId: string, reaches: readonly Reach[]): DispatchOffer[] =>
    ordered.filter((offer) => offer.feederId === feederId && reaches.includes(offer.reach));
  for (const reaches of [['gpu'], ['gpu', 'host'], ['none']] as const) {
    for (const feederId of feeders) {
      const plan = fill(of(feederId, reaches), bytes, granuleBytes);
      if (plan.missingBytes === 0) return plan;
    }
  }
  return fill(ordered, bytes, granuleBytes);
}

/** True when kernels can use all of it behind one lane; `wantedLane`: behind that one, unless it is 0. */
export function isWhole(
  plan: PlacementPlan,
  offers: readonly DispatchOffer[],
  wantedLane = 0,
): boolean {
  const used = offers.filter(({ key }) => plan.parts.some((part) => part.key === key));
  const [first] = used;
  return (
    plan.missingBytes === 0 &&
    first !== undefined &&
    (wantedLane === 0 || first.lane === wantedLane) &&
    used.every(({ feederId, reach }) => feederId === first.feederId && reach !== 'none')
  );
}

function fill(
  offers: readonly DispatchOffer[],
  bytes: number,
  granuleBytes: number,
): PlacementPlan {
  const parts: PlacementPart[] = [];
  let missingBytes = bytes;
  for (const { key, freeBytes } of offers) {
    const usableBytes = Math.floor(Math.max(0, freeBytes) / granuleBytes) * granuleBytes;
    const taken = Math.min(usableBytes, missingBytes);
    if (taken > 0) parts.push({ key, bytes: taken });
    missingBytes -= taken;
  }
  return { parts, missingBytes };
}
