// SPDX-License-Identifier: Apache-2.0
// Where bytes go: a pure decision over tiers with free bytes and measured cost. No clock, no I/O.
// The caller holds the result to its accounts; nothing here remembers anything.
import { assert } from '../../proto/base/assert.js';
import { MIB } from '../../proto/base/units.js';

/** The size a fetch usually has; costs are compared for it, so that latency and bandwidth both
 *  count. */
const REFERENCE_BYTES = 32 * MIB;

export interface MeasuredCost {
  /** Bytes per second towards the host; 0: not measured. */
  readonly readBytesPerSecond: number;
  readonly latencyMicros: number;
}

export interface TierOffer extends MeasuredCost {
  readonly key: string;
  readonly freeBytes: number;
  /** Decides between equal costs: the smaller goes first. */
  readonly rank: number;
}

export interface PlacementPart {
  readonly key: string;
  readonly bytes: number;
}

export interface PlacementPlan {
  /** In order of cost; each key at most once. */
  readonly parts: readonly PlacementPart[];
  /** What found no room; 0 when the plan is complete. */
  readonly missingBytes: number;
}

/** Microseconds to bring REFERENCE_BYTES to the host; Infinity when nothing was measured. */
export function costMicros(cost: MeasuredCost): number {
  if (!(cost.readBytesPerSecond > 0)) return Number.POSITIVE_INFINITY;
  return cost.latencyMicros + (REFERENCE_BYTES / cost.readBytesPerSecond) * 1e6;
}

/** Cheapest first; unmeasured tiers last; equal ones by rank and key, so that the same facts give
 *  the same order. */
export function orderByCost<T extends TierOffer>(offers: readonly T[]): T[] {
  return [...offers].sort((a, b) => {
    const costA = costMicros(a);
    const costB = costMicros(b);
    if (costA !== costB) return costA < costB ? -1 : 1;
    if (a.rank !== b.rank) return a.rank - b.rank;
    return a.key < b.key ? -1 : a.key > b.key ? 1 : 0;
  });
}

/** Fills the offers in order of cost, in whole granules, never beyond what is free.
 *  pre: `bytes` is a positive multiple of `granuleBytes`. */
export function planPlacement(
  offers: readonly TierOffer[],
  bytes: number,
  granuleBytes: number,
): PlacementPlan {
  assert(
    granuleBytes > 0 && bytes > 0 && bytes % granuleBytes === 0,
    'a placement has whole granules',
  );
  const parts: PlacementPart[] = [];
  let missingBytes = bytes;
  for (const offer of orderByCost(offers)) {
    if (missingBytes === 0) break;
    const usableBytes = Math.floor(Math.max(0, offer.freeBytes) / granuleBytes) * granuleBytes;
    const taken = Math.min(usableBytes, missingBytes);
    if (taken === 0) continue;
    parts.push({ key: offer.key, bytes: taken });
    missingBytes -= taken;
  }
  return { parts, missingBytes };
}
