// SPDX-License-Identifier: Apache-2.0
// Programs of random shapes, one after the other, each of which compares every byte of its own.
import { setTimeout as sleep } from 'node:timers/promises';
import { MIB, within } from '../e2e/machine.js';
import { PROGRAM_MS } from '../e2e/matrix/cell.js';
import type { Stage } from '../e2e/matrix/stage.js';
import type { Random } from './random.js';

/** From when on and until when a fault may cost programs bytes or room. */
export interface Period {
  readonly name: string;
  readonly fromMs: number;
  untilMs: number;
  /** Bytes that were only on the feeder are lost. */
  readonly deadly: boolean;
}

export interface Tally {
  right: number;
  lost: number;
  /** Found no room while a feeder was away. */
  refused: number;
  killed: number;
}

const shape = (random: Random): { bytes: number; rounds: number; options: string[] } => ({
  bytes: random.from([56, 64, 80, 96, 128]) * MIB,
  rounds: 1 + random.below(4),
  options: [
    ...['--order', random.from(['sequential', 'random'])],
    ...['--pause-seconds', String(random.below(3))],
  ],
});

/** One program from start to end. @throws Error unless it ended as it may. */
async function one(
  stage: Stage,
  random: Random,
  faults: readonly Period[],
  tally: Tally,
): Promise<void> {
  const startMs = Date.now();
  const spec = shape(random);
  const program = stage.program(spec);
  const killAfterMs = random.below(10) === 0 ? 1_000 + random.below(8_000) : 0;
  const killing = killAfterMs > 0 ? sleep(killAfterMs).then(() => kill(stage, program.run)) : false;
  const done = await within(program.run.finished, 2 * PROGRAM_MS);
  const words = `${JSON.stringify(spec)}: `;
  if (!done) throw new Error(`${words}hangs: ${program.run.output()}`);
  const text = done.stdout + done.stderr;
  if (done.code === 0 && text.includes('"mismatches":0,')) {
    tally.right++;
    return;
  }
  if ((await killing) && done.code === 128 + 9) {
    tally.killed++;
    return;
  }
  const during = faults.filter(({ untilMs }) => untilMs >= startMs);
  if (/\b911 CUDA_ERROR_EXTERNAL_DEVICE/.test(text) && during.some(({ deadly }) => deadly))
    tally.lost++;
  else if (/\b2 CUDA_ERROR_OUT_OF_MEMORY/.test(text) && during.length > 0) tally.refused++;
  else {
    const names = during.map(({ name }) => name).join(', ') || 'no fault';
    throw new Error(`${words}${done.code} ${done.signal} during ${names}: ${text}`);
  }
}

/** kill -9 of the program itself, not of the `run` above it. Returns whether it was there. */
function kill(stage: Stage, run: Parameters<Stage['started']>[0]): boolean {
  if (run.child.exitCode !== null) return false;
  const pid = stage.started(run).at(-1);
  if (pid === undefined || pid === run.child.pid) return false;
  try {
    process.kill(pid, 'SIGKILL');
    return true;
  } catch {
    return false; // It has ended just now.
  }
}

/** Programs one after the other until `untilMs`. */
export async function load(
  stage: Stage,
  random: Random,
  faults: readonly Period[],
  tally: Tally,
  untilMs: number,
): Promise<void> {
  while (Date.now() < untilMs) await one(stage, random, faults, tally);
}
