// SPDX-License-Identifier: Apache-2.0
// Several programs on one GPU: how much of its VRAM each may hold. Pure: no clock, no I/O.
import { MIB } from '../../proto/base/units.js';

/** Limits are whole multiples of this. */
export const SHARE_GRANULE_BYTES = 2 * MIB;
/** Every program may hold this much, so that one that has just begun is not at nothing. */
const FLOOR_BYTES = 256 * MIB;
/** Floors together never take more than this part of the GPU. */
const FLOOR_PART = 4;
/** A limit moves only for a gain of this size or of this part of the GPU, whichever is smaller. */
const STEP_BYTES = 256 * MIB;
const STEP_PART = 32;

export interface ShareMember {
  readonly key: string;
  /** What it would hold in VRAM if it could: what it holds there, and what lies elsewhere. */
  readonly demandBytes: number;
  /** Its own budget; undefined: none set. */
  readonly ceilingBytes: number | undefined;
  /** It has done nothing for a while: it keeps only what nobody else wants. */
  readonly idle: boolean;
}

export type Shares = ReadonlyMap<string, number>;

/** Raises each share towards its `upTo`, the smallest first, until `left` granules are given out.
 *  Returns what is left. */
function pour(shares: Map<string, number>, upTo: Shares, left: number): number {
  const keys = [...upTo.keys()].sort();
  const rise = (key: string, level: number): number =>
    Math.max(0, Math.min(upTo.get(key) ?? 0, level) - (shares.get(key) ?? 0));
  const cost = (level: number): number => keys.reduce((sum, key) => sum + rise(key, level), 0);
  // The highest level that `left` pays for; above `high` nothing rises any more.
  let low = 0;
  let high = Math.max(0, ...upTo.values());
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (cost(middle) <= left) low = middle;
    else high = middle - 1;
  }
  let rest = left;
  for (const key of keys) {
    const risen = rise(key, low);
    rest -= risen;
    shares.set(key, (shares.get(key) ?? 0) + risen);
  }
  // Less than one granule each: the first few get it.
  for (const key of keys) {
    if (rest === 0) break;
    if (rise(key, low + 1) === 0) continue;
    shares.set(key, (shares.get(key) ?? 0) + 1);
    rest--;
  }
  return rest;
}

/** The limit of each member, max-min fair by demand: first a floor for everybody, then what active
 *  members want, then what idle ones want; what nobody wants is shared out as room to grow. Nobody
 *  gets more than its ceiling, and the sum is at most `capacityBytes`. */
export function fairShares(capacityBytes: number, members: readonly ShareMember[]): Shares {
  const granules = (bytes: number): number =>
    Math.max(0, Math.floor(Math.min(bytes, capacityBytes) / SHARE_GRANULE_BYTES));
  const capacity = granules(capacityBytes);
  const floor = Math.min(
    granules(FLOOR_BYTES),
    Math.floor(capacity / (FLOOR_PART * Math.max(1, members.length))),
  );
  const ceiling = (member: ShareMember): number => granules(member.ceilingBytes ?? capacityBytes);
  const wants = (member: ShareMember): number =>
    Math.min(ceiling(member), Math.ceil(member.demandBytes / SHARE_GRANULE_BYTES), capacity);
  const targets = (
    chosen: readonly ShareMember[],
    value: (member: ShareMember) => number,
  ): Shares => new Map(chosen.map((member) => [member.key, value(member)]));
  const shares = new Map<string, number>(members.map(({ key }) => [key, 0]));
  let left = pour(
    shares,
    targets(members, (m) => Math.min(floor, ceiling(m))),
    capacity,
  );
  left = pour(
    shares,
    targets(
      members.filter(({ idle }) => !idle),
      wants,
    ),
    left,
  );
  left = pour(
    shares,
    targets(
      members.filter(({ idle }) => idle),
      wants,
    ),
    left,
  );
  pour(shares, targets(members, ceiling), left);
  return new Map([...shares].map(([key, count]) => [key, count * SHARE_GRANULE_BYTES]));
}

/** The limits to have from now on: those of before while they are good enough, so that limits do not
 *  flutter with every allocation. They change when a member came or went, when they are more than
 *  there is, or when somebody who needs it would gain a step. */
export function nextShares(
  before: Shares,
  capacityBytes: number,
  members: readonly ShareMember[],
): Shares {
  const fair = fairShares(capacityBytes, members);
  if (before.size !== fair.size) return fair;
  let sum = 0;
  const stepBytes = Math.min(STEP_BYTES, capacityBytes / STEP_PART);
  for (const { key, demandBytes, ceilingBytes } of members) {
    const had = before.get(key);
    if (had === undefined) return fair;
    sum += had;
    if (had > (ceilingBytes ?? capacityBytes)) return fair;
    if (demandBytes > had && (fair.get(key) ?? 0) - had >= stepBytes) return fair;
  }
  return sum > capacityBytes ? fair : before;
}
