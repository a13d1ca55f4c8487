// SPDX-License-Identifier: Apache-2.0
// What each cell of the failure matrix expects. docs/failures.md explains it in words.
import type { Expected } from './cell.js';
import type { FaultName } from './faults.js';
import { TTL_SECONDS } from './stage.js';
import { TIMES, type TimeName } from './times.js';

const AT_ONCE_MS = 1_000;
/** Silence is 2 s without a word; the last word was at most this long before. */
const SILENCE_MS = 2_000;
const TTL_MS = TTL_SECONDS * 1000;

const RIGHT: Expected = { result: 'right' };
const UNNOTICED: Expected = { result: 'right', never: ['feeder_lost', 'data_lost'] };

/** Silent, and back before anybody gave it up. */
const BACK: Expected = {
  result: 'right',
  noticed: { by: ['feeder_stale'], withinMs: SILENCE_MS },
  events: ['feeder_ready'],
  never: ['feeder_lost', 'data_lost'],
};
/** Gone, with what it held. */
const GONE: Expected = {
  result: '911',
  noticed: { by: ['feeder_stale', 'feeder_lost'], withinMs: AT_ONCE_MS },
  events: ['feeder_lost', 'data_lost', 'feeder_ready'],
};
/** Silent for longer than its TTL. */
const GIVEN_UP: Expected = {
  result: '911',
  noticed: { by: ['feeder_stale'], withinMs: SILENCE_MS },
  deadlines: { feeder_lost: TTL_MS + SILENCE_MS },
  events: ['feeder_lost', 'data_lost', 'feeder_ready'],
};
/** The program may take the bytes along, one way or another. */
const LEFT: Expected = {
  result: 'right',
  noticed: { by: ['feeder_stopping', 'feeder_draining'], withinMs: AT_ONCE_MS },
  never: ['data_lost'],
};
/** A connect under way: the program of the cell does not exist yet. */
const none = (expected: Partial<Expected> = {}): Expected => ({ result: 'none', ...expected });

/** For all times but handshaking, then that one; undefined: cannot be. */
type Row = Partial<Record<TimeName, Expected>>;

function row(running: Expected, connecting: Expected | undefined, other: Row = {}): Row {
  const cells: Row = {};
  for (const time of TIMES) {
    const expected = time === 'handshaking' ? connecting : running;
    if (expected) cells[time] = expected;
  }
  return { ...cells, ...other };
}

const CONNECTED = none({ events: ['feeder_ready'] });

export const TABLE: Readonly<Record<FaultName, Row>> = {
  kill: row(GONE, CONNECTED),
  killExecutor: row(
    { result: '911', noticed: { by: ['data_lost'], withinMs: AT_ONCE_MS } },
    undefined,
    // Nobody needs the lane; its program tells of lanes every 2 s.
    { idle: { result: '911', noticed: { by: ['data_lost'], withinMs: 2_000 } } },
  ),
  freeze: row(BACK, CONNECTED),
  freezeLong: row(GIVEN_UP, CONNECTED),
  stop: row(LEFT, CONNECTED, {
    // It was leaving already.
    draining: { result: 'right', events: ['feeder_lost', 'feeder_ready'], never: ['data_lost'] },
  }),
  cut: row(BACK, CONNECTED),
  cutLong: row(GIVEN_UP, CONNECTED),
  halfOpenTo: row(BACK, CONNECTED),
  halfOpenFrom: row(BACK, CONNECTED),
  loss: row(UNNOTICED, CONNECTED),
  jitter: row(UNNOTICED, CONNECTED),
  disk: row(UNNOTICED, CONNECTED),
  clock: row(UNNOTICED, CONNECTED),
  memory: row(RIGHT, undefined),
  agent: row({ result: 'right', events: ['lease_adopted'], never: ['data_lost'] }, none()),
  suspend: row({ result: 'right', events: ['feeder_ready'], never: ['data_lost'] }, none()),
  suspendLong: row(
    { result: 'lost', events: ['data_lost'], everybody: true },
    none({ events: ['data_lost'], everybody: true }),
  ),
};

/** A cell by its name, `kill/idle`. */
export const cellName = (fault: FaultName, time: TimeName): string => `${fault}/${time}`;

export interface Cell {
  readonly fault: FaultName;
  readonly time: TimeName;
  readonly expected: Expected;
}

export const CELLS: readonly Cell[] = (Object.keys(TABLE) as FaultName[]).flatMap((fault) =>
  TIMES.flatMap((time) => {
    const expected = TABLE[fault][time];
    return expected ? [{ fault, time, expected }] : [];
  }),
);

/** Those that `make test` plays: one of each kind of end, at each time. */
export const QUICK: ReadonlySet<string> = new Set([
  'kill/fetching',
  'freeze/uploading',
  'stop/idle',
  'agent/draining',
  'loss/handshaking',
]);
