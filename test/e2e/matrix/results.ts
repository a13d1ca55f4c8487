// SPDX-License-Identifier: Apache-2.0
// What was played of the matrix, kept in build/test/matrix-cells.json: a run in pieces, one after the other, adds to
// it.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { ROOT } from '../../arch/files.js';
import type { CellResult } from './cell.js';
import type { FaultName } from './faults.js';
import type { KillResult } from './kills.js';
import { CELLS, cellName } from './table.js';
import type { TimeName } from './times.js';

export interface FailedCell {
  readonly fault: FaultName;
  readonly time: TimeName;
  readonly failure: string;
}

export interface Played {
  /** What was built when it was played, without repetition. */
  readonly commits: readonly string[];
  /** In the order of the table; the last of each cell. */
  readonly results: readonly (CellResult | FailedCell)[];
  /** In the order of their seeds; the last of each. */
  readonly kills: readonly KillResult[];
}

const FILE = join(ROOT, 'build', 'test', 'matrix-cells.json');
const NONE: Played = { commits: [], results: [], kills: [] };

export function forgetPlayed(): void {
  rmSync(FILE, { force: true });
}

export function played(): Played {
  return existsSync(FILE) ? (JSON.parse(readFileSync(FILE, 'utf8')) as Played) : NONE;
}

/** The commit, and whether there is more in the tree than this and what runs before have written. */
function describe(): string {
  const git = (...words: string[]): string =>
    execFileSync('git', words, { cwd: ROOT, encoding: 'utf8' }).trim();
  const changed = git('status', '--porcelain', '--untracked-files=no', ':!docs/failures.md');
  return git('rev-parse', '--short', 'HEAD') + (changed === '' ? '' : '-dirty');
}

/** Adds to what was played. One run at a time: of two that add at the same moment one is lost. */
export function keep({ results = [], kills = [] }: Partial<Played>): void {
  const before = played();
  const commit = describe();
  const cells = new Map(
    [...before.results, ...results].map((one) => [cellName(one.fault, one.time), one] as const),
  );
  const bySeed = new Map([...before.kills, ...kills].map((kill) => [kill.seed, kill] as const));
  const now: Played = {
    commits: [...new Set([...before.commits, commit])],
    results: CELLS.flatMap(({ fault, time }) => cells.get(cellName(fault, time)) ?? []),
    kills: [...bySeed.values()].sort((a, b) => a.seed - b.seed),
  };
  mkdirSync(dirname(FILE), { recursive: true });
  writeFileSync(FILE, JSON.stringify(now, null, 2));
}
