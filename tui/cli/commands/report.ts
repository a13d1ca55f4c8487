// SPDX-License-Identifier: Apache-2.0
// `greenboost report`: a run after the fact, prediction and measurement side by side.
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { systemClock } from '../../../proto/base/clock.js';
import { GbError } from '../../../proto/base/errors.js';
import { formatAge, formatBytes, formatRate, MIB } from '../../../proto/base/units.js';
import { withAgent } from '../../control/client.js';
import {
  compare,
  programJson,
  programOfStats,
  workSeconds,
  type Comparison,
  type PlannedJson,
  type ProgramJson,
  type Unit,
} from '../../model/report.js';
import { SCHEMA_VERSION } from '../../model/snapshot.js';
import { softwareVersion } from '../../../proto/base/version.js';
import type { Table } from '../../view/plain.js';
import { reportHtml } from '../../view/report-page.js';
import { cleanText } from '../../view/text.js';
import { note, painters, tableLines, writeJson, writeLine } from '../output.js';
import { loadPlan, readPlan } from '../plans.js';

const CALL_TIMEOUT_MS = 5_000;
const STATS_BYTES_MAX = 1 * MIB;

async function recorded(): Promise<ProgramJson[]> {
  const { programs } = await withAgent((client) =>
    client.getPrograms({}, { timeoutMs: CALL_TIMEOUT_MS }),
  );
  return programs.map(programJson);
}

function fromFile(path: string): ProgramJson {
  const size = statSync(path).size;
  const program = size <= STATS_BYTES_MAX ? programOfStats(readFileSync(path, 'utf8')) : undefined;
  if (program) return program;
  throw new GbError('INVALID_ARGUMENT', `${path} is no statistics file`, {
    details: { hint: 'one is written by: greenboost run --stats-file FILE -- CMD' },
  });
}

/** The newest is the last; one that holds memory goes before helpers that hold none. */
function newest(programs: readonly ProgramJson[]): ProgramJson | undefined {
  const byStart = [...programs].sort((a, b) => (b.startedUnixMs ?? 0) - (a.startedUnixMs ?? 0));
  return byStart.find(({ launchCount }) => launchCount > 0) ?? byStart[0];
}

async function wantedProgram(which: string | undefined): Promise<ProgramJson> {
  const isPid = which !== undefined && /^\d{1,10}$/.test(which);
  if (which !== undefined && !isPid) {
    if (!statSync(which, { throwIfNoEntry: false })?.isFile())
      throw new GbError('NOT_FOUND', `${which} is neither a pid nor a statistics file`);
    return fromFile(which);
  }
  const programs = await recorded();
  const found = newest(isPid ? programs.filter(({ pid }) => pid === Number(which)) : programs);
  if (found) return found;
  throw new GbError(
    'NOT_FOUND',
    isPid ? `the agent knows no program with pid ${which}` : 'no program has run yet',
    { details: { hint: 'run one: greenboost run --plan MODEL -- CMD' } },
  );
}

const FORMATS: Readonly<Record<Unit, (value: number) => string>> = {
  bytes: formatBytes,
  bytesPerSecond: formatRate,
  seconds: (value) => (value >= 1 ? `${value.toFixed(2)} s` : `${(value * 1000).toFixed(1)} ms`),
  perSecond: (value) => value.toPrecision(3),
  count: (value) => (value >= 100 || Number.isInteger(value) ? value.toFixed(0) : value.toFixed(1)),
  percent: (value) => `${value.toFixed(1)} %`,
};

function comparisonTable(rows: readonly Comparison[]): Table {
  const cell = (value: number | null, unit: Unit): string =>
    value === null ? '-' : FORMATS[unit](value);
  return {
    columns: [
      { title: 'FIGURE' },
      { title: 'PREDICTED', align: 'right' },
      { title: 'MEASURED', align: 'right' },
      { title: 'NOTE', optional: true },
    ],
    rows: rows
      .filter(({ predicted, measured }) => (predicted ?? 0) > 0 || (measured ?? 0) > 0)
      .map(({ name, unit, predicted, measured, note }) => [
        name,
        cell(predicted, unit),
        cell(measured, unit),
        note,
      ]),
  };
}

function headlines(program: ProgramJson, plan: PlannedJson | null): string[] {
  const { startedUnixMs, endedUnixMs, phaseMs } = program;
  const life =
    startedUnixMs === null
      ? ''
      : endedUnixMs === null
        ? ', running'
        : `, ended after ${formatAge(endedUnixMs - startedUnixMs)}`;
  const phases = Object.entries(phaseMs ?? {})
    .filter(([, ms]) => ms > 0)
    .map(([name, ms]) => `${name} ${(ms / 1000).toFixed(1)} s`);
  const error = program.stickyCudaError
    ? `; it was given CUDA error ${program.stickyCudaError}`
    : '';
  return [
    `pid ${program.pid}${program.command ? `  ${program.command}` : ''}${life}${error}`,
    ...(phases.length > 0 ? [`phases: ${phases.join(', ')}`] : []),
    `staging: ${program.staging.replaceAll('_', ' ')}`,
    plan
      ? `prediction: ${plan.model.name}, context of ${plan.contextTokens} tokens`
      : 'no prediction: start with greenboost run --plan MODEL, or give --plan FILE',
  ];
}

/** @throws GbError PERMISSION_DENIED when the file cannot be written. */
function writePage(
  path: string,
  program: ProgramJson,
  lines: readonly string[],
  table: Table,
): void {
  const page = reportHtml({
    program,
    headlines: lines.map(cleanText),
    table,
    software: softwareVersion(),
    createdUnixMs: systemClock.unixMs(),
    simulated: /simulated/i.test(program.deviceName),
  });
  try {
    writeFileSync(path, page);
  } catch (reason) {
    const { code } = reason as NodeJS.ErrnoException;
    throw new GbError('PERMISSION_DENIED', `${path} cannot be written (${code ?? 'unknown'})`, {
      cause: reason,
    });
  }
  note(`written: ${path}`);
}

/** Prints one run, or writes it as a page. @throws GbError NOT_FOUND for a program or file that is not there,
 *  AGENT_UNREACHABLE when a pid is asked for and no agent runs. */
export async function showReport(
  which: string | undefined,
  options: { plan?: string; json?: boolean; html?: string },
): Promise<void> {
  const program = await wantedProgram(which);
  const plan =
    (options.plan === undefined
      ? program.runId === null
        ? undefined
        : loadPlan(program.runId)
      : readPlan(options.plan)) ?? null;
  const comparison = compare(program, plan);
  if (options.html !== undefined) {
    writePage(options.html, program, headlines(program, plan), comparisonTable(comparison));
    return;
  }
  if (options.json) {
    const times = { workSeconds: workSeconds(program) };
    writeJson<'report'>({ schemaVersion: SCHEMA_VERSION, program, plan, ...times, comparison });
    return;
  }
  const paint = painters(process.stdout);
  for (const [index, line] of headlines(program, plan).entries())
    writeLine(index === 0 ? paint.bold(cleanText(line)) : cleanText(line));
  writeLine();
  for (const line of tableLines(comparisonTable(comparison))) writeLine(line);
}
