// SPDX-License-Identifier: Apache-2.0
// Starting a daemon in the background and knowing that it is ready, or why it is not. Logs go to the state folder.
import { spawn } from 'node:child_process';
import {
  closeSync,
  existsSync,
  fstatSync,
  openSync,
  readFileSync,
  renameSync,
  statSync,
} from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { sleep, systemClock } from '../../proto/base/clock.js';
import { GbError } from '../../proto/base/errors.js';
import {
  agentSocketPath,
  ensurePrivateDir,
  feedSocketPath,
  stateDir,
} from '../../proto/base/paths.js';
import type { Snapshot } from '../../proto/gen/greenboost/v1/control_pb.js';
import { cleanText } from '../view/text.js';

/** A log that grew past this starts afresh at the next start; one older file is kept. */
const LOG_BYTES_MAX = 8 * 1024 * 1024;
const START_TIMEOUT_MS = 15_000;
const POLL_INTERVAL_MS = 40;
const PROBE_TIMEOUT_MS = 2_000;

export type DaemonName = 'agent' | 'feeder';

/** Where a background daemon's log lies. */
export function daemonLogPath(name: DaemonName): string {
  return join(stateDir(), `${name}.log`);
}

function openLog(path: string): { fd: number; startBytes: number } {
  ensurePrivateDir(stateDir());
  if (existsSync(path) && statSync(path).size > LOG_BYTES_MAX) renameSync(path, `${path}.1`);
  const fd = openSync(path, 'a', 0o600);
  return { fd, startBytes: fstatSync(fd).size };
}

/** What the daemon itself wrote for people: the last `greenboost: …` block of its log, else the last lines. */
function reasonFromLog(path: string, startBytes: number): string {
  const text = readFileSync(path).subarray(startBytes).toString('utf8');
  const lines = text.split('\n').filter((line) => line.trim() !== '');
  const start = lines.findLastIndex((line) => line.startsWith('greenboost: '));
  const kept = start >= 0 ? lines.slice(start) : lines.slice(-5);
  return kept.map((line) => cleanText(line.replace(/^greenboost: /, '')).trim()).join('\n');
}

function daemonEnv(): NodeJS.ProcessEnv {
  const env = { ...process.env };
  // The shim belongs into programs, never into our own daemons.
  delete env['LD_PRELOAD'];
  return env;
}

export interface DaemonStart<T> {
  readonly name: DaemonName;
  /** Arguments after `greenboost`; never secrets. */
  readonly args: readonly string[];
  readonly socketPath: string;
  /** Asks the daemon behind the socket; rejects while it is not ready. */
  readonly probe: () => Promise<T>;
}

/** Starts the daemon detached and waits until it answers.
 *  @throws GbError DRIVER_ERROR with the daemon's own words and exit code when it ended, DEADLINE_EXCEEDED when it is
 *  silent for 15 s (it is stopped then). */
export async function startDaemon<T>(start: DaemonStart<T>): Promise<T> {
  const logPath = daemonLogPath(start.name);
  const log = openLog(logPath);
  const main = fileURLToPath(new URL('./main.js', import.meta.url));
  const child = spawn(process.execPath, [main, ...start.args], {
    cwd: '/',
    detached: true,
    env: daemonEnv(),
    stdio: ['ignore', log.fd, log.fd],
  });
  closeSync(log.fd);
  let ended: { code: number | null; signal: NodeJS.Signals | null } | undefined;
  let failure: Error | undefined;
  child.once('error', (error) => (failure = error));
  child.once('exit', (code, signal) => (ended = { code, signal }));
  const deadline = systemClock.nowMs() + START_TIMEOUT_MS;
  while (systemClock.nowMs() < deadline) {
    if (failure)
      throw new GbError('DRIVER_ERROR', `cannot start the ${start.name}: ${failure.message}`);
    const answer = existsSync(start.socketPath)
      ? await start.probe().catch(() => undefined)
      : undefined;
    if (answer !== undefined) {
      child.unref();
      return answer;
    }
    if (ended) {
      throw new GbError(
        'DRIVER_ERROR',
        `the ${start.name} did not start\n${reasonFromLog(logPath, log.startBytes)}`,
        {
          details: { hint: `its log: ${logPath}`, exitCode: ended.code || 10 },
        },
      );
    }
    await sleep(POLL_INTERVAL_MS);
  }
  child.kill('SIGTERM');
  child.unref();
  throw new GbError(
    'DEADLINE_EXCEEDED',
    `the ${start.name} was not ready within ${START_TIMEOUT_MS / 1000} s`,
    {
      details: { hint: `its log: ${logPath}` },
    },
  );
}

async function probeAgent(): Promise<Snapshot> {
  const { withAgent } = await import('../control/client.js');
  return withAgent((client) => client.getStatus({}, { timeoutMs: PROBE_TIMEOUT_MS }));
}

export interface RunningAgent {
  readonly snapshot: Snapshot;
  /** True when this call started it. */
  readonly started: boolean;
}

/** The agent of this user, started when there is none. Two callers at once get the same one: the second daemon finds
 *  the first one's socket and ends, and both callers ask the socket. @throws GbError as startDaemon. */
export async function ensureAgent(): Promise<RunningAgent> {
  const socketPath = agentSocketPath();
  if (existsSync(socketPath)) {
    const running = await probeAgent().catch(() => undefined);
    if (running) return { snapshot: running, started: false };
  }
  try {
    const snapshot = await startDaemon({
      name: 'agent',
      args: ['agent'],
      socketPath,
      probe: probeAgent,
    });
    return { snapshot, started: true };
  } catch (reason) {
    const other = await probeAgent().catch(() => undefined);
    if (other) return { snapshot: other, started: false };
    throw reason;
  }
}

/** Starts the feeder daemon with `args` (of `feed start`) and waits until it answers. @throws as startDaemon. */
export async function startFeedDaemon(args: readonly string[]) {
  const { withFeed } = await import('../control/client.js');
  return startDaemon({
    name: 'feeder',
    args: ['feed', 'start', '--foreground', ...args],
    socketPath: feedSocketPath(),
    probe: () => withFeed((client) => client.getFeedStatus({}, { timeoutMs: PROBE_TIMEOUT_MS })),
  });
}

/** Waits until `pid` is gone. Returns false when it is still there after `timeoutMs`. */
export async function waitForExit(pid: number, timeoutMs: number): Promise<boolean> {
  const deadline = systemClock.nowMs() + timeoutMs;
  while (isAlive(pid)) {
    if (systemClock.nowMs() >= deadline) return false;
    await sleep(POLL_INTERVAL_MS);
  }
  return true;
}

/** True while a process with this id exists (also somebody else's). */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
