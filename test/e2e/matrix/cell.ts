// SPDX-License-Identifier: Apache-2.0
// Plays one cell of the failure matrix: brings the stage to a time, plants the fault, and compares
// what the event log, the program and the accounts say with what the cell expects.
import { setTimeout as sleep } from 'node:timers/promises';
import type { HeardEvent } from '../follow.js';
import { waitFor, within } from '../machine.js';
import { FAULTS, type Fault, type FaultName, type Planted } from './faults.js';
import { LIGHT_BYTES, PROGRAM_BYTES, TTL_SECONDS, type Stage } from './stage.js';
import { REACH, type Act, type TimeName } from './times.js';

/** What the program gets: its right result; 911 with feeder and range named; `lost`: the same, or no memory, while no
 *  feeder is there for anybody; and of a connect or a drain alone, whether it was done. */
export type Result = 'right' | '911' | 'lost' | 'none';

export interface Expected {
  readonly result: Result;
  /** Events of which one must be the first to tell of the fault, and within how long. */
  readonly noticed?: { readonly by: readonly string[]; readonly withinMs: number };
  /** How long after the fault other events may come, in milliseconds. */
  readonly deadlines?: Readonly<Record<string, number>>;
  /** Events that must come, in any order. */
  readonly events?: readonly string[];
  /** Events that must not come. */
  readonly never?: readonly string[];
  /** Every program of the host loses what feeders hold, the bystander too: the stage has had its last cell. */
  readonly everybody?: boolean;
}

export interface CellResult {
  readonly fault: FaultName;
  readonly time: TimeName;
  readonly reached: string;
  readonly planted: string;
  /** Events from the fault on, in order, repeated ones once. */
  readonly transition: readonly string[];
  /** Until the first event of `noticed`; null: nothing had to be noticed. */
  readonly noticedMs: number | null;
  /** Until the program's own lane ended; null: it did not. */
  readonly laneMs: number | null;
  readonly result: string;
  /** From the fault to the program's end. */
  readonly endedMs: number;
  /** Until the victim's memory was back, after the program had ended. */
  readonly returnedMs: number;
}

/** A program that has not ended by then hangs. */
export const PROGRAM_MS = 240_000;
const RETURN_MS = 5_000;
/** Of our own hearing: a process that prints. Where other suites use the same cores, daemons hear
 *  late, too. */
const HEARING_MS = process.env['GB_MATRIX'] === 'all' ? 1_000 : 4_000;

/** Events about programs that come and go say nothing about a fault. */
const NOT_TOLD = new Set(['attachment_started', 'attachment_ended', 'vram_shared']);

const LOST = /\b911 CUDA_ERROR_EXTERNAL_DEVICE/;
const NO_MEMORY = /\b2 CUDA_ERROR_OUT_OF_MEMORY/;

async function outcome(act: Act, expected: Result, victimName: string): Promise<string> {
  const { program } = act;
  if (!program) return 'no program';
  const done = await within(program.run.finished, PROGRAM_MS);
  if (!done) throw new Error(`the program hangs: ${program.run.output()}`);
  const text = done.stdout + done.stderr;
  if (expected === 'right') {
    if (done.code !== 0) throw new Error(`the program ended with ${done.code}: ${text}`);
    if (!/"mismatches":0,/.test(text)) throw new Error(`wrong bytes: ${text}`);
    return 'right bytes';
  }
  if (done.code !== 0 && LOST.test(text)) return '911';
  if (done.code !== 0 && expected === 'lost' && NO_MEMORY.test(text)) return 'out of memory';
  throw new Error(`no 911 of ${victimName} but ${done.code} ${done.signal}: ${text}`);
}

/** @throws unless the event log names the victim and a range that is lost. */
export function namesLoss(stage: Stage, fromMs: number): void {
  const texts = stage.events.all
    .filter((event) => event.heardMs >= fromMs && event.name === 'data_lost')
    .map(({ text }) => text);
  const { name } = stage.victim;
  if (!texts.some((text) => /0x[0-9a-f]{9,}/.test(text) && text.includes(name)))
    throw new Error(`no data_lost names ${name} and a range: ${texts.join('; ')}`);
}

async function noticed(stage: Stage, expected: Expected, fromMs: number): Promise<number | null> {
  if (!expected.noticed) return null;
  const { by, withinMs } = expected.noticed;
  const event = await stage.events.wait(
    by.join(' or '),
    ({ name }) => by.includes(name),
    fromMs,
    withinMs + 20_000,
  );
  const ms = event.heardMs - fromMs;
  if (ms > withinMs + HEARING_MS)
    throw new Error(`${event.name} came after ${ms} ms, not within ${withinMs}`);
  return ms;
}

function firstMs(
  stage: Stage,
  wanted: (event: HeardEvent) => boolean,
  fromMs: number,
): number | null {
  const found = stage.events.all.find((event) => event.heardMs >= fromMs && wanted(event));
  return found ? found.heardMs - fromMs : null;
}

function checkDeadlines(stage: Stage, expected: Expected, fromMs: number): void {
  for (const [wanted, withinMs] of Object.entries(expected.deadlines ?? {})) {
    const ms = firstMs(stage, ({ name }) => name === wanted, fromMs);
    if (ms === null || ms > withinMs + HEARING_MS)
      throw new Error(`${wanted} came after ${ms ?? 'no'} ms, not within ${withinMs}`);
  }
}

function checkEvents(stage: Stage, expected: Expected, fromMs: number): string[] {
  checkDeadlines(stage, expected, fromMs);
  const names = stage.events.all
    .filter((event) => event.heardMs >= fromMs && !NOT_TOLD.has(event.name))
    .map((event) => event.name);
  for (const name of expected.events ?? [])
    if (!names.includes(name)) throw new Error(`no ${name} among ${names.join(', ')}`);
  for (const name of expected.never ?? [])
    if (names.includes(name)) throw new Error(`${name} among ${names.join(', ')}`);
  return names.filter((name, index) => names.indexOf(name) === index);
}

/** Ends what is still under way, so that the next cell starts clean. */
async function finishCommand(act: Act): Promise<string> {
  if (!act.command) return '';
  const done = await within(act.command.finished, 60_000);
  if (!done) throw new Error(`the command hangs: ${act.command.output()}`);
  const words = (done.stdout + done.stderr).trim().split('\n').at(-1) ?? '';
  return done.code === 0 ? 'command done' : `command refused: ${words}`;
}

/** @throws Error naming what was not as expected. */
export async function playCell(
  stage: Stage,
  faultName: FaultName,
  time: TimeName,
  expected: Expected,
): Promise<CellResult> {
  const fault: Fault = FAULTS[faultName];
  stage.programBytes = fault.slow ? LIGHT_BYTES : PROGRAM_BYTES;
  const act = await REACH[time](stage);
  const rounds = stage.bystanderRounds();
  const fromMs = Date.now();
  const planted = await fault.plant(stage);
  const noticing = noticed(stage, expected, fromMs);
  noticing.catch(() => undefined); // Awaited below.
  const proof = fault.holdMs === undefined ? '' : await lasting(fault, planted);
  // What was slow so that the fault could strike in the middle of it need not be slow now.
  if (time !== 'handshaking') await stage.line.set({ rate: '800Mbit' });
  else await stage.line.set({ delay: '0.2ms' });
  const result = await outcome(act, expected.result, stage.victim.name);
  const command = await finishCommand(act);
  const endedMs = Date.now();
  const late = fault.holdMs === undefined ? await lasting(fault, planted) : '';
  const noticedMs = await noticing;
  const loses = expected.result === '911' || expected.result === 'lost';
  if (loses) namesLoss(stage, fromMs);
  await victimIsEmpty(stage, loses);
  const returnedMs = Date.now() - endedMs;
  if (expected.everybody) {
    await stage.bystanderLost(LOST, NO_MEMORY);
  } else {
    await stage.restore();
    await waitFor('the bystander works on', () => stage.bystanderRounds() > rounds, 30_000);
  }
  return {
    fault: faultName,
    time,
    reached: act.proof,
    planted: proof + late,
    transition: checkEvents(stage, expected, fromMs),
    noticedMs,
    laneMs: firstMs(stage, ({ name }) => name === 'lane_ended' || name === 'lane_broken', fromMs),
    result: [result, command].filter((word) => word && word !== 'no program').join('; '),
    endedMs: endedMs - fromMs,
    returnedMs,
  };
}

async function lasting(fault: Fault, planted: Planted): Promise<string> {
  await sleep(fault.holdMs ?? 0);
  const proof = await planted.proof();
  await planted.lift();
  return proof;
}

/** The leases of a program that has ended are given back at once; those of one that `lost` its
 *  feeder at the latest by the TTL. @throws when they are not. */
export async function victimIsEmpty(stage: Stage, lost: boolean): Promise<void> {
  await waitFor(
    'the victim has its memory back',
    async () => (await stage.victimBytes()) === 0,
    RETURN_MS + (lost ? TTL_SECONDS * 1000 : 0),
    300,
  );
}
