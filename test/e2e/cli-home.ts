// SPDX-License-Identifier: Apache-2.0
// A home of its own for the real `greenboost` command: folders, a simulated GPU of its own name, and an end to
// everything that was started in it.
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ROOT } from '../arch/files.js';
import type { FeedStatusJson } from '../../tui/model/feed-status.js';
import type { SnapshotJson } from '../../tui/model/snapshot.js';
import { PATIENCE_MS } from '../patience.js';

export const LAUNCHER = join(ROOT, 'greenboost');
const COMMAND_TIMEOUT_MS = 60_000;

export interface Result {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export class Home {
  readonly folder: string;
  readonly env: Record<string, string>;

  constructor(extra: Readonly<Record<string, string>> = {}) {
    this.folder = mkdtempSync(join(tmpdir(), 'greenboost-cli-'));
    this.env = {
      PATH: process.env['PATH'] ?? '',
      HOME: this.folder,
      LANG: 'C.UTF-8',
      GREENBOOST_GPU: 'sim',
      GBSIM_GPU: `cli-${randomBytes(4).toString('hex')}`,
      GBSIM_VRAM: '128MiB',
      ...extra,
    };
    const folders = {
      XDG_CONFIG_HOME: 'config',
      XDG_STATE_HOME: 'state',
      XDG_CACHE_HOME: 'cache',
      XDG_RUNTIME_DIR: 'run',
    };
    for (const [variable, folder] of Object.entries(folders)) {
      const path = join(this.folder, folder);
      mkdirSync(path, { mode: 0o700 });
      this.env[variable] = path;
    }
  }

  /** Runs a command to its end; never throws for its exit code. */
  run(args: readonly string[], env: Readonly<Record<string, string>> = {}, input = ''): Result {
    const done = spawnSync(LAUNCHER, args, {
      env: { ...this.env, ...env },
      input,
      encoding: 'utf8',
      timeout: COMMAND_TIMEOUT_MS,
    });
    return { code: done.status, stdout: done.stdout, stderr: done.stderr };
  }

  /** Runs a command that must succeed. */
  call(args: readonly string[], env: Readonly<Record<string, string>> = {}): string {
    const { code, stdout, stderr } = this.run(args, env);
    if (code !== 0)
      throw new Error(`greenboost ${args.join(' ')} ended with ${code}: ${stderr}${stdout}`);
    return stdout;
  }

  start(args: readonly string[], env: Readonly<Record<string, string>> = {}): ChildProcess {
    return spawn(LAUNCHER, args, {
      env: { ...this.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
  }

  status(): SnapshotJson {
    return JSON.parse(this.call(['status', '--json'])) as SnapshotJson;
  }

  feedStatus(): FeedStatusJson {
    return JSON.parse(this.call(['feed', 'status', '--json'])) as FeedStatusJson;
  }

  close(): void {
    this.run(['agent', 'stop', '--force']);
    this.run(['feed', 'stop', '--grace', '0']);
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** A TCP port of the loopback address that nobody uses at this moment. */
export function freePort(): Promise<string> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() =>
        resolve(String(typeof address === 'object' && address ? address.port : 0)),
      );
    });
  });
}

/** Collects what a child writes. */
export function outputOf(child: ChildProcess): () => string {
  let text = '';
  child.stdout?.on('data', (chunk: Buffer) => (text += String(chunk)));
  child.stderr?.on('data', (chunk: Buffer) => (text += String(chunk)));
  return () => text;
}

/** How a child ended. */
export function endOf(
  child: ChildProcess,
): Promise<{ code: number | null; signal: NodeJS.Signals | null }> {
  return new Promise((resolve) => child.once('close', (code, signal) => resolve({ code, signal })));
}

/** Waits until `probe` gives something; polls every 50 ms. */
export async function until<T>(
  what: string,
  probe: () => T | undefined | false,
  timeoutMs = PATIENCE_MS,
): Promise<T> {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    const value = probe();
    if (value !== undefined && value !== false) return value;
    if (Date.now() > deadline) throw new Error(`not within ${timeoutMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
