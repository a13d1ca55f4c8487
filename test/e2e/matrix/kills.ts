// SPDX-License-Identifier: Apache-2.0
// kill -9 of a feeder at any moment of a program's life, again and again: no abort, no hang, no
// wrong byte, and all memory back.
import { setTimeout as sleep } from 'node:timers/promises';
import { waitFor, within } from '../machine.js';
import { namesLoss, PROGRAM_MS, victimIsEmpty } from './cell.js';
import { FAULTS } from './faults.js';
import type { Stage } from './stage.js';

export interface KillResult {
  readonly seed: number;
  readonly afterMs: number;
  readonly phase: string;
  readonly result: '911' | 'right bytes';
  readonly returnedMs: number;
}

/** Seeded, so that a failure can be played again. */
function randomBelow(limit: number, seed: number): number {
  let value = (seed * 0x9e3779b1) >>> 0;
  value = Math.imul(value ^ (value >>> 15), 0x85ebca6b) >>> 0;
  return (value ^ (value >>> 13)) % limit;
}

/** One life and its kill. @throws Error naming what was wrong. */
export async function killOnce(stage: Stage, seed: number): Promise<KillResult> {
  const rounds = stage.bystanderRounds();
  const startMs = Date.now();
  const program = stage.program({ rounds: 2, options: ['--order', 'random'] });
  await waitFor('the program has a phase', () => stage.phase(program) !== '', 60_000);
  await stage.line.set({ rate: '200Mbit' });
  await sleep(randomBelow(6_000, seed));
  const phase = program.run.child.exitCode === null ? stage.phase(program) : 'ended';
  const fromMs = Date.now();
  const planted = await FAULTS.kill.plant(stage);
  await planted.proof();
  await sleep(500);
  await planted.lift();
  const done = await within(program.run.finished, PROGRAM_MS);
  if (!done) throw new Error(`seed ${seed}: the program hangs: ${program.run.output()}`);
  const endedMs = Date.now();
  const text = done.stdout + done.stderr;
  const right = done.code === 0 && text.includes('"mismatches":0,');
  const lost = done.code === 3 && /\b911 CUDA_ERROR_EXTERNAL_DEVICE/.test(text);
  if (!right && !lost) throw new Error(`seed ${seed}: ${done.code} ${done.signal}: ${text}`);
  if (lost) namesLoss(stage, fromMs);
  await victimIsEmpty(stage, lost);
  const returnedMs = Date.now() - endedMs;
  await stage.restore();
  await waitFor('the bystander works on', () => stage.bystanderRounds() > rounds, 30_000);
  const result = right ? 'right bytes' : '911';
  return { seed, afterMs: fromMs - startMs, phase, result, returnedMs };
}
