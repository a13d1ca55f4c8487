// SPDX-License-Identifier: Apache-2.0
// One pretended machine of the demo: folders of its own, the real `greenboost` command in them, and a list of what was
// started, so that everything can be ended.
import { spawn, type ChildProcess } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { GbError } from '../../../proto/base/errors.js';
import { withAgent, withFeed } from '../../control/client.js';
import { feedStatusJson, type FeedStatusJson } from '../../model/feed-status.js';
import { snapshotJson, type SnapshotJson } from '../../model/snapshot.js';
import { isAlive, waitForExit } from '../daemon.js';

const CLI = fileURLToPath(new URL('../main.js', import.meta.url));
const CALL_TIMEOUT_MS = 5_000;
const STOP_TIMEOUT_MS = 10_000;
const KILL_TIMEOUT_MS = 2_000;
/** Variables of the user's own greenboost would leak into the demo. */
const FOREIGN_VARIABLES = /^(GREENBOOST_|GBSIM_|LD_PRELOAD$)/;

export interface Finished {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** A started child: `child` to signal it, `finished` for its end. */
export interface Started {
  readonly child: ChildProcess;
  readonly finished: Promise<Finished>;
}

export class DemoMachine {
  readonly env: Record<string, string>;
  #daemonPid: number | undefined;

  constructor(
    readonly name: string,
    readonly folder: string,
    extra: Readonly<Record<string, string>> = {},
  ) {
    const kept = Object.entries(process.env).filter(
      ([key, value]) => value !== undefined && !FOREIGN_VARIABLES.test(key),
    );
    this.env = { ...(Object.fromEntries(kept) as Record<string, string>), NO_COLOR: '1', ...extra };
    for (const [variable, name] of [
      ['XDG_CONFIG_HOME', 'config'],
      ['XDG_STATE_HOME', 'state'],
      ['XDG_CACHE_HOME', 'cache'],
      ['XDG_RUNTIME_DIR', 'run'],
    ] as const) {
      const path = join(folder, name);
      mkdirSync(path, { recursive: true, mode: 0o700 });
      this.env[variable] = path;
    }
  }

  /** Starts a `greenboost` command; output is kept, not shown. */
  start(args: readonly string[], env: Readonly<Record<string, string>> = {}): Started {
    const child = spawn(process.execPath, [CLI, ...args], {
      env: { ...this.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let stdout = '';
    let stderr = '';
    child.stdout?.on('data', (chunk: Buffer) => (stdout += String(chunk)));
    child.stderr?.on('data', (chunk: Buffer) => (stderr += String(chunk)));
    const finished = new Promise<Finished>((resolve, reject) => {
      child.once('error', reject);
      child.once('close', (code) => resolve({ code, stdout, stderr }));
    });
    return { child, finished };
  }

  /** Runs a `greenboost` command to its end. @throws GbError with the command's own words when it fails. */
  async call(args: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<string> {
    const done = await this.start(args, env).finished;
    if (done.code === 0) return done.stdout;
    const words = done.stderr.replace(/^greenboost: /, '').trim();
    throw new GbError(
      'DRIVER_ERROR',
      `on ${this.name}, greenboost ${args.join(' ')} failed (${done.code}): ${words}`,
      {
        details: { exitCode: done.code ?? 10 },
      },
    );
  }

  async feedStatus(): Promise<FeedStatusJson> {
    const status = await withFeed(
      (client) => client.getFeedStatus({}, { timeoutMs: CALL_TIMEOUT_MS }),
      this.env,
    );
    this.#daemonPid = status.pid;
    return feedStatusJson(status);
  }

  async status(): Promise<SnapshotJson> {
    const snapshot = await withAgent(
      (client) => client.getStatus({}, { timeoutMs: CALL_TIMEOUT_MS }),
      this.env,
    );
    this.#daemonPid = snapshot.agentPid;
    return snapshotJson(snapshot);
  }

  /** Ends this machine's daemon: asks first, then by signal. True when nothing is left. */
  async stop(): Promise<boolean> {
    await this.feedStatus().catch(() => undefined);
    await this.status().catch(() => undefined);
    const pid = this.#daemonPid;
    if (pid === undefined) return true;
    const args =
      this.name === 'host' ? ['agent', 'stop', '--force'] : ['feed', 'stop', '--grace', '0'];
    if (isAlive(pid)) await this.start(args).finished.catch(() => undefined);
    if (await waitForExit(pid, STOP_TIMEOUT_MS)) return true;
    for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
      if (isAlive(pid)) process.kill(pid, signal);
      if (await waitForExit(pid, KILL_TIMEOUT_MS)) return signal === 'SIGTERM';
    }
    return false;
  }
}
