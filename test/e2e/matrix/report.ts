// SPDX-License-Identifier: Apache-2.0
// The tables of docs/failures.md that a full run writes: what was seen, not what was expected.
import { readFileSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { ROOT } from '../../arch/files.js';
import type { CellResult } from './cell.js';
import { FAULTS, type FaultName } from './faults.js';
import type { KillResult } from './kills.js';
import type { FailedCell, Played } from './results.js';
import { TTL_SECONDS } from './stage.js';
import { CELLS } from './table.js';
import { TIMES, type TimeName } from './times.js';

const PAGE = join(ROOT, 'docs', 'failures.md');
const BEGIN = '<!-- begin: written by make test-matrix -->';
const END = '<!-- end: written by make test-matrix -->';

const seconds = (ms: number): string => `${(ms / 1000).toFixed(1)} s`;
const cell = (text: string): string => text.replaceAll('|', '\\|').replaceAll('\n', ' ');
const row = (cells: readonly string[]): string => `| ${cells.map(cell).join(' | ')} |`;

function resultRow(result: CellResult | FailedCell): string {
  const name = [FAULTS[result.fault].title, result.time];
  if ('failure' in result)
    return row([...name, '', '', '', '', `**failed**: ${result.failure}`, '']);
  const { planted, transition, noticedMs, laneMs, returnedMs } = result;
  return row([
    ...name,
    planted,
    transition.join(', ') || 'none',
    noticedMs === null ? '' : seconds(noticedMs),
    laneMs === null ? '' : seconds(laneMs),
    result.result,
    seconds(returnedMs),
  ]);
}

function overview(results: readonly (CellResult | FailedCell)[]): string[] {
  const faults = [...new Set(results.map(({ fault }) => fault))];
  const short = (fault: FaultName, time: TimeName): string => {
    const found = results.find((result) => result.fault === fault && result.time === time);
    if (!found) return '—';
    if ('failure' in found) return '**failed**';
    return found.result.split(';')[0] as string;
  };
  return [
    row(['fault', ...TIMES]),
    row(['---', ...TIMES.map(() => '---')]),
    ...faults.map((fault) =>
      row([FAULTS[fault].title, ...TIMES.map((time) => short(fault, time))]),
    ),
  ];
}

function killLines(kills: readonly KillResult[]): string[] {
  if (kills.length === 0) return [];
  const count = (wanted: string): number => kills.filter(({ result }) => result === wanted).length;
  const slowest = Math.max(...kills.map(({ returnedMs }) => returnedMs));
  return [
    '',
    `kill -9 of the feeder at a random moment, ${kills.length} times: ${count('911')} programs got 911 with feeder ` +
      `and range named, ${count('right bytes')} had nothing there at that moment and ended right; no abort, no hang, ` +
      `no wrong byte; the slowest return of memory took ${seconds(slowest)}.`,
  ];
}

/** Replaces the written part of the page. */
export function writeReport({ commits, results, kills }: Played): void {
  const page = readFileSync(PAGE, 'utf8');
  const [before, rest] = page.split(BEGIN);
  const after = rest?.split(END)[1];
  if (before === undefined || after === undefined) throw new Error(`${PAGE}: no marks`);
  const right = results.filter((result) => !('failure' in result)).length;
  const lines = [
    BEGIN,
    '',
    `${new Date().toISOString().slice(0, 10)}, at ${commits.join(', ')}, on ${cpus().length} cores: ${right} of ` +
      `${results.length} cells as expected, of ${CELLS.length} that there are. Feeders with a TTL of ${TTL_SECONDS} s.`,
    '',
    'What the program (or, while shaking hands, the command) got; a dash: it was not played, or cannot be:',
    '',
    ...overview(results),
    ...killLines(kills),
    '',
    'What was seen in each cell. *agent* and *lane*: how long after the fault the agent, and the program by the end ' +
      'of its lane, noticed it; *memory back*: after the end of the program.',
    '',
    row(['fault', 'time', 'really there', 'event log', 'agent', 'lane', 'result', 'memory back']),
    row(Array.from({ length: 8 }, () => '---')),
    ...results.map(resultRow),
    '',
    END,
  ];
  writeFileSync(PAGE, before + lines.join('\n') + after);
}
