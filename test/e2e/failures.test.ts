// SPDX-License-Identifier: Apache-2.0
// The failure matrix: faults x times, each cell with real daemons and programs behind delay links.
// `make test` plays some cells, `make test-matrix` all of them; GB_MATRIX names others, as
// `kill/idle` or `cut`.
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { ROOT } from '../arch/files.js';
import { playCell, type CellResult } from './matrix/cell.js';
import { Stage } from './matrix/stage.js';
import { CELLS, cellName, QUICK, type Cell } from './matrix/table.js';

const wanted = (process.env['GB_MATRIX'] ?? 'quick').split(/[ ,]+/);
const RESULTS = join(ROOT, 'build', 'test', 'matrix.json');

function isWanted({ fault, time }: Cell): boolean {
  const name = cellName(fault, time);
  return wanted.some(
    (word) =>
      word === 'all' ||
      word === fault ||
      word === time ||
      word === name ||
      (word === 'quick' && QUICK.has(name)),
  );
}

const cells = CELLS.filter(isWanted);

describe('the failure matrix', () => {
  let stage: Stage | undefined;
  const results: (CellResult | { fault: string; time: string; failure: string })[] = [];

  beforeAll(async () => {
    stage = await Stage.open();
  }, 120_000);

  afterEach(() => {
    mkdirSync(dirname(RESULTS), { recursive: true });
    writeFileSync(RESULTS, JSON.stringify({ date: new Date().toISOString(), results }, null, 2));
  });
  afterAll(async () => stage?.close(), 120_000);

  test.each(cells.map((cell) => [cellName(cell.fault, cell.time), cell] as const))(
    '%s',
    async (_, { fault, time, expected }) => {
      stage ??= await Stage.open();
      try {
        results.push(await playCell(stage, fault, time, expected));
      } catch (error) {
        const failure = error instanceof Error ? error.message : String(error);
        results.push({ fault, time, failure });
        // What a failed cell leaves behind is no start for the next one.
        const broken = stage;
        stage = undefined;
        await broken.close().catch(() => undefined);
        throw error;
      }
      expect(results.at(-1)).toMatchObject({ fault, time });
    },
    300_000,
  );
});
