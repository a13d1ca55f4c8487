// SPDX-License-Identifier: Apache-2.0
// The failure matrix: faults x times, each cell with real daemons and programs behind delay links.
// `make test` plays some cells, `make test-matrix` all of them; GB_MATRIX names others, as
// `kill/idle` or `cut`.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { playCell } from './matrix/cell.js';
import { killOnce } from './matrix/kills.js';
import { writeReport } from './matrix/report.js';
import { forgetPlayed, keep, played } from './matrix/results.js';
import { Stage } from './matrix/stage.js';
import { CELLS, cellName, QUICK, type Cell } from './matrix/table.js';

const wanted = (process.env['GB_MATRIX'] ?? 'quick').split(/[ ,]+/);
const isAll = wanted.includes('all');
/** Seeds of the repeated kills: 20 of them in the full form, or those of GB_MATRIX_KILLS. */
const KILLS = Number(process.env['GB_MATRIX_KILLS'] ?? (isAll ? '20' : '0'));
const seeds = Array.from({ length: KILLS }, (_, index) => index + 1);

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
const CELL_MS = 600_000;

describe('the failure matrix', () => {
  let stage: Stage | undefined;

  /** What fails leaves no start for what follows: that gets a new stage. */
  async function onStage<T>(play: (on: Stage) => Promise<T>): Promise<T> {
    const on = (stage ??= await Stage.open());
    const fromMs = Date.now();
    try {
      return await play(on);
    } catch (error) {
      stage = undefined;
      const told = on.story(fromMs);
      await on.close().catch(() => undefined);
      throw new Error(`${error instanceof Error ? error.message : String(error)}\n${told}`);
    }
  }

  beforeAll(async () => {
    if (isAll) forgetPlayed();
    stage = await Stage.open();
  });
  afterAll(async () => {
    if (isAll || process.env['GB_MATRIX_PAGE'] === '1') writeReport(played());
    await stage?.close();
  }, 300_000);

  if (cells.length > 0)
    test.each(cells.map((cell) => [cellName(cell.fault, cell.time), cell] as const))(
      '%s',
      async (_, { fault, time, expected }) => {
        try {
          const result = await onStage((on) => playCell(on, fault, time, expected));
          if (expected.everybody) {
            await stage?.close();
            stage = undefined;
          }
          keep({ results: [result] });
          expect(result).toMatchObject({ fault, time });
        } catch (error) {
          const failure = error instanceof Error ? error.message : String(error);
          keep({ results: [{ fault, time, failure }] });
          throw error;
        }
      },
      CELL_MS,
    );

  if (seeds.length > 0)
    test.each(seeds)(
      'kill -9 of the feeder at a random moment, %i',
      async (seed) => {
        const result = await onStage((on) => killOnce(on, seed));
        keep({ kills: [result] });
        expect(['911', 'right bytes']).toContain(result.result);
      },
      CELL_MS,
    );
});
