// SPDX-License-Identifier: Apache-2.0
// Statuses and refusals of lane.h in words, for who only hears of lanes (an executor's notices) and has no need of the
// library. A test compares them with the library's own.

/** Of the protocol that lanes speak: GB_LANE_VERSION_*. */
export const LANE_VERSION = { major: 1, minor: 0 } as const;

export const LaneStatus = {
  OK: 0,
  BUSY: 1,
  INVALID: 2,
  NO_MEMORY: 3,
  NO_CRYPTO: 4,
  UNREACHABLE: 5,
  REFUSED: 6,
  TIMEOUT: 7,
  DEADLINE: 8,
  CANCELED: 9,
  LOST: 10,
  DISCONNECTED: 11,
  CLOSED: 12,
  FORGED: 13,
  PROTOCOL: 14,
  NOT_FOUND: 15,
  DENIED: 16,
  RANGE: 17,
  REVOKED: 18,
  FORKED: 19,
  IO: 20,
  LIMIT: 21,
  PENDING: 22,
} as const;
export type LaneStatusName = keyof typeof LaneStatus;

export const LaneRefusal = {
  NONE: 0,
  SHORT: 1,
  FORMAT: 2,
  VERSION: 3,
  UNKNOWN: 4,
  MAC: 5,
  USED: 6,
  EXPIRED: 7,
  CIPHER: 8,
  LIMIT: 9,
  ADDRESS: 10,
  GONE: 11,
} as const;
export type LaneRefusalName = keyof typeof LaneRefusal;

const STATUS_NAMES = namesOf(LaneStatus);
const REFUSAL_NAMES = namesOf(LaneRefusal);

function namesOf<Name extends string>(
  values: Readonly<Record<Name, number>>,
): ReadonlyMap<number, Name> {
  const entries = Object.entries(values) as [Name, number][];
  return new Map(entries.map(([name, value]) => [value, name]));
}

/** "DISCONNECTED"; of a newer library perhaps UNKNOWN_STATUS. */
export function laneStatusName(status: number): LaneStatusName | 'UNKNOWN_STATUS' {
  return STATUS_NAMES.get(status) ?? 'UNKNOWN_STATUS';
}

/** "UNKNOWN" (a ticket that nobody knows), "SHORT" and so on; else UNKNOWN_REFUSAL. */
export function laneRefusalName(reason: number): LaneRefusalName | 'UNKNOWN_REFUSAL' {
  return REFUSAL_NAMES.get(reason) ?? 'UNKNOWN_REFUSAL';
}
