// SPDX-License-Identifier: Apache-2.0
// `greenboost cluster`: full-screen on a terminal, plain tables elsewhere, JSON on request.
import { sleep, systemClock } from '../../../proto/base/clock.js';
import { GbError } from '../../../proto/base/errors.js';
import { messagesOf, withAgent, type AgentClient } from '../../control/client.js';
import { reduce } from '../../model/reducer.js';
import { snapshotJson, type SnapshotJson } from '../../model/snapshot.js';
import { initialState, type Picture } from '../../model/state.js';
import { rateTable } from '../../view/plain.js';
import { parseSeconds } from '../numbers.js';
import { tableLines, writeJson, writeJsonLine, writeLine } from '../output.js';
import { writeStatus } from './status.js';

export interface ClusterOptions {
  readonly once?: boolean;
  readonly watch?: boolean;
  readonly json?: boolean;
  readonly interval: string;
  readonly ascii?: boolean;
  readonly color: boolean;
  readonly readonly?: boolean;
  readonly rates: boolean;
}

const CALL_TIMEOUT_MS = 5_000;
const INTERVAL_SECONDS = { least: 0.25, most: 10 };

async function watchJson(intervalMs: number): Promise<void> {
  await withAgent(async (client) => {
    for await (const message of messagesOf(client.watch({ intervalMs })))
      writeJsonLine<'cluster'>(snapshotJson(message));
  });
}

async function ask(client: AgentClient): Promise<{ snapshot: SnapshotJson; atMs: number }> {
  const snapshot = snapshotJson(await client.getStatus({}, { timeoutMs: CALL_TIMEOUT_MS }));
  return { snapshot, atMs: systemClock.nowMs() };
}

/** Two samples, so that there are rates. They are measured as on the screen. */
async function twoSamples(intervalMs: number): Promise<Picture | null> {
  return withAgent(async (client) => {
    const first = await ask(client);
    await sleep(intervalMs);
    const second = await ask(client);
    const start = initialState({ cols: 80, rows: 24 }, first.atMs, systemClock.unixMs());
    const state = [first, second].reduce(
      (before, sample) => reduce(before, { t: 'snapshot', ...sample }),
      start,
    );
    return state.latest;
  });
}

async function writeOnce(options: ClusterOptions, intervalMs: number): Promise<void> {
  if (options.json || !options.rates) {
    const { snapshot } = await withAgent(ask);
    if (options.json) writeJson<'cluster'>(snapshot);
    else writeStatus(snapshot);
    return;
  }
  const picture = await twoSamples(intervalMs);
  if (!picture) return;
  writeStatus(picture.snapshot);
  const table = rateTable(picture);
  if (table.rows.length === 0) return;
  writeLine();
  writeLine(`Rates, measured over ${(intervalMs / 1000).toFixed(2)} s`);
  for (const line of tableLines(table)) writeLine(line);
}

function isReadonly(options: ClusterOptions): boolean {
  const word = process.env['GREENBOOST_READONLY'] ?? '';
  return options.readonly === true || (word !== '' && word !== '0');
}

/** True when no screen can be drawn: a pipe, a dumb terminal, or none named. */
function screenless(): boolean {
  const term = process.env['TERM'] ?? '';
  const isTerminal = process.stdout.isTTY === true && process.stdin.isTTY === true;
  return !isTerminal || term === '' || term === 'dumb';
}

/** Shows the cluster in the form asked for. @throws GbError AGENT_UNREACHABLE in the forms without a screen. */
export async function showCluster(options: ClusterOptions): Promise<void> {
  const intervalMs = parseSeconds('--interval', options.interval, INTERVAL_SECONDS);
  if (options.watch && !options.json) {
    throw new GbError('INVALID_ARGUMENT', '--watch goes with --json', {
      details: { hint: 'without --json, the full screen is live by itself' },
    });
  }
  if (options.watch && options.json) return watchJson(intervalMs);
  if (options.json || options.once || screenless()) return writeOnce(options, intervalMs);
  const { runApp } = await import('../../term/app.js');
  process.exitCode = await runApp({
    intervalMs,
    ascii: options.ascii === true,
    color: options.color,
    readonly: isReadonly(options),
  });
}
