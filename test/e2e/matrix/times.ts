// SPDX-License-Identifier: Apache-2.0
// When a fault strikes: what the cluster is brought to do, and how a test knows that it does it:
// by the program's own phase, the agent's link states, and what the line carries.
import { waitFor } from '../machine.js';
import type { Running } from '../machine.js';
import { SLOW, VICTIM, type Program, type Stage } from './stage.js';
import { PATIENCE_MS } from '../../patience.js';

export const TIMES = ['idle', 'uploading', 'fetching', 'draining', 'handshaking'] as const;
export type TimeName = (typeof TIMES)[number];

/** What is under way when the fault strikes. */
export interface Act {
  readonly program?: Program;
  /** `greenboost drain` or `connect`. */
  readonly command?: Running;
  /** Why we know that this was under way. */
  readonly proof: string;
}

/** Bytes per second that count as a transfer, and as quiet. */
const BUSY = SLOW.bytesPerSecond / 2;
const QUIET = 100e3;
/** Some buffers of a program. */
const UPLOADED_BYTES = 9e6;

const rate = (bytesPerSecond: number): string => `${(bytesPerSecond / 1e6).toFixed(1)} MB/s`;

/** Waits until the line to the victim is busy with what `side` sends. */
async function busy(stage: Stage, side: 'host' | 'feeder', check: () => void): Promise<string> {
  const seen = await waitFor(`the ${side} sends`, async () => {
    check();
    const rates = await stage.line.rates(200);
    return rates[side] > BUSY && rates;
  });
  return `${rate(seen.host)} to the feeder, ${rate(seen.feeder)} from it`;
}

/** A program that rests with bytes on the victim. `atOnce`: what has to be done before it goes on. */
async function resting(
  stage: Stage,
  seconds: number,
  atOnce: () => Promise<void> = async () => undefined,
): Promise<Program> {
  const program = stage.program({ options: ['--pause-seconds', String(seconds)] });
  await stage.inPhase(program, 'pausing');
  await atOnce();
  const lies = async (): Promise<boolean> => (await stage.victimBytes()) > 0;
  await waitFor('bytes lie on the victim', lies, PATIENCE_MS, 300);
  return program;
}

async function idle(stage: Stage): Promise<Act> {
  const program = await resting(stage, 8);
  const rates = await waitFor('the line is quiet', async () => {
    const seen = await stage.line.rates(300);
    return seen.host < QUIET && seen.feeder < QUIET && seen;
  });
  return { program, proof: `the program rests; ${rate(rates.host)} to the feeder` };
}

async function uploading(stage: Stage): Promise<Act> {
  await stage.line.set(SLOW.settings, 'host');
  const before = (await stage.line.stats()).host.bytes;
  const program = stage.program();
  let phase = '';
  // Some of it is there already, and only there.
  await waitFor('some buffers were sent', async () => {
    phase = stage.phase(program);
    return (await stage.line.stats()).host.bytes - before > UPLOADED_BYTES;
  });
  const carried = await busy(stage, 'host', () => (phase = stage.phase(program)));
  return { program, proof: `phase ${phase}; ${carried}` };
}

async function fetching(stage: Stage): Promise<Act> {
  const program = await resting(stage, 2, () => stage.line.set(SLOW.settings, 'feeder'));
  await stage.inPhase(program, 'verifying');
  const carried = await busy(stage, 'feeder', () => stage.phase(program));
  return { program, proof: `phase verifying; ${carried}` };
}

async function draining(stage: Stage): Promise<Act> {
  const program = await resting(stage, 20, () => stage.line.set(SLOW.settings, 'feeder'));
  const command = stage.host.greenboost(['disconnect', stage.address(VICTIM)]);
  const carried = await busy(stage, 'feeder', () => {
    if (command.child.exitCode !== null) throw new Error(`the drain is over: ${command.output()}`);
  });
  const state = await waitFor('the link drains', () => stage.linkState() === 'draining');
  return { program, command, proof: `link draining: ${state}; ${carried}` };
}

async function handshaking(stage: Stage): Promise<Act> {
  await stage.host.call(['disconnect', stage.address(VICTIM)]);
  await stage.line.set({ delay: '400ms' });
  const command = stage.host.greenboost(['connect', stage.address(VICTIM), '--timeout', '30'], {
    GREENBOOST_KEY: await stage.key(VICTIM),
  });
  await waitFor('the link shakes hands', () => stage.linkState() === 'handshaking');
  return { command, proof: 'link handshaking' };
}

export const REACH: Readonly<Record<TimeName, (stage: Stage) => Promise<Act>>> = {
  idle,
  uploading,
  fetching,
  draining,
  handshaking,
};
