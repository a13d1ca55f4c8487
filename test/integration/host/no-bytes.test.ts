// SPDX-License-Identifier: Apache-2.0
// A real program moves hundreds of megabytes to feeders and back, and none of them passes through
// JavaScript: the agent's calls, its own lanes, what its and the feeders' processes read and write at
// all, and its memory are counted meanwhile.
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { MIB } from '../../../proto/base/units.js';
import { packageRoot } from '../../../proto/base/paths.js';
import type { Snapshot } from '../../../proto/gen/greenboost/v1/control_pb.js';
import { CLI, killHard, spawnFeeder, type FeederProcess } from './feeders.js';
import { eventually, TestHost } from './harness.js';
import { PATIENCE_MS } from '../../patience.js';

const PROGRAM = join(packageRoot(), 'build', 'bin', 'gb_workset');
const MOVED_BYTES_MIN = 256 * MIB;
/** Calls, heartbeats, reports, state files: of every process together a small part of that. */
const CONTROL_BYTES_MAX = 8 * MIB;
/** Garbage of a busy control plane; a tenth of the bytes would be more. */
const GROWTH_BYTES_MAX = 48 * MIB;

let host: TestHost;
let agent: ChildProcess;
let feeders: FeederProcess[];

beforeEach(async () => {
  host = new TestHost();
  feeders = [];
  if (!existsSync(PROGRAM)) throw new Error('not built: run make first');
  agent = spawn(process.execPath, [CLI, 'agent'], {
    env: { ...process.env, ...host.env },
    stdio: 'ignore',
  });
  await eventually('the agent answers', PATIENCE_MS, async () => {
    const snapshot = await host.status().catch(() => undefined);
    return snapshot?.agentPid === agent.pid;
  });
});

afterEach(async () => {
  await killHard(agent);
  for (const { child } of feeders) await killHard(child);
  await host.stop();
});

/** Every byte the threads of a process have read or written with a system call on any descriptor,
 *  sockets too; not those of its children that have ended. */
function ioBytes(pid: number): number {
  const value = (text: string, name: string): number =>
    Number(new RegExp(`${name}: (\\d+)`).exec(text)?.[1]);
  return readdirSync(`/proc/${pid}/task`).reduce((sum, thread) => {
    const text = readFileSync(`/proc/${pid}/task/${thread}/io`, 'utf8');
    return sum + value(text, 'rchar') + value(text, 'wchar');
  }, 0);
}

function rssBytes(pid: number): number {
  return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) * 1024;
}

const total = (snapshot: Snapshot, ...names: ('sentBytes' | 'callSentBytes')[]): number =>
  snapshot.links.reduce(
    (sum, link) =>
      sum +
      names.reduce((bytes, name) => {
        const back = name === 'sentBytes' ? link.receivedBytes : link.callReceivedBytes;
        return bytes + Number(link[name]) + Number(back);
      }, 0),
    0,
  );

async function runProgram(): Promise<{ code: number | null; output: string }> {
  const simulation = join(host.folder, 'sim');
  mkdirSync(simulation, { mode: 0o700 });
  const run = ['run', '--gpu', 'sim', '--vram-budget', '64MiB', '--ram-budget', '32MiB'];
  const sizes = ['--bytes', `${192 * MIB}`, '--buffer-bytes', `${8 * MIB}`, '--rounds', '3'];
  const child = spawn(
    process.execPath,
    [CLI, ...run, '--overcommit', 'gated', '--', PROGRAM, ...sizes],
    {
      env: {
        ...process.env,
        ...host.env,
        GBSIM_GPU: 'no-bytes',
        GBSIM_DIR: simulation,
        GBSIM_VRAM: `${64 * MIB}`,
      },
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  );
  let output = '';
  child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (output += chunk.toString()));
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
  return { code, output };
}

test('hundreds of megabytes cross to feeders and back; no daemon reads or writes them', async () => {
  for (const name of ['alpha', 'beta']) {
    const feeder = await spawnFeeder(host, name, '96MiB', 0);
    feeders.push(feeder);
    const { address, feederId } = feeder;
    await host
      .client()
      .connect({ address, feederId, timeoutMs: PATIENCE_MS }, { timeoutMs: 2 * PATIENCE_MS });
  }
  const pids = [agent.pid!, ...feeders.map(({ child }) => child.pid!)];
  const before = await host.status();
  const ioBefore = pids.map(ioBytes);
  const rssBefore = rssBytes(agent.pid!);
  let rssMost = rssBefore;
  const sampler = setInterval(() => (rssMost = Math.max(rssMost, rssBytes(agent.pid!))), 50);
  const { code, output } = await runProgram();
  clearInterval(sampler);
  expect({ code, output }).toMatchObject({ code: 0 });
  expect(output).toContain('"mismatches":0');
  const after = await host.status();

  const moved = total(after, 'sentBytes') - total(before, 'sentBytes');
  expect(moved).toBeGreaterThan(MOVED_BYTES_MIN);
  expect(total(after, 'callSentBytes') - total(before, 'callSentBytes')).toBeLessThan(
    CONTROL_BYTES_MAX,
  );
  expect(total(after, 'callSentBytes')).toBeGreaterThan(0);
  expect(after.probeBytes).toBe(before.probeBytes);
  const io = pids.map((pid, index) => ioBytes(pid) - ioBefore[index]!);
  for (const bytes of io) expect(bytes).toBeLessThan(CONTROL_BYTES_MAX);
  expect(rssMost - rssBefore).toBeLessThan(GROWTH_BYTES_MAX);
});
