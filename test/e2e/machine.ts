// SPDX-License-Identifier: Apache-2.0
// One "machine" of an end-to-end test: folders of its own, a network namespace, and the real
// `greenboost` command in it.
import { spawn, type ChildProcess } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { AttachmentJson } from '../../tui/model/attachments.js';
import type { FeedStatusJson } from '../../tui/model/feed-status.js';
import type { EventJson, SnapshotJson } from '../../tui/model/snapshot.js';
import { ROOT } from '../arch/files.js';
import type { Namespace } from './namespaces.js';
import { PATIENCE_MS } from '../patience.js';

export const CLI = join(ROOT, 'build', 'js', 'tui', 'cli', 'main.js');
export const PROGRAMS = join(ROOT, 'build', 'bin');
export const MIB = 1 << 20;

export interface Finished {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface Running {
  readonly child: ChildProcess;
  /** What it has written so far. */
  output(): string;
  readonly finished: Promise<Finished>;
}

/** Waits until `probe` returns something; `what` is for the message. A probe that starts a command
 *  is asked less often: it costs a few tenths of a second of a core. */
export async function waitFor<T>(
  what: string,
  probe: () => Promise<T | undefined | false> | T | undefined | false,
  timeoutMs = PATIENCE_MS,
  intervalMs = 50,
): Promise<T> {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    const value = await probe();
    if (value !== undefined && value !== false) return value;
    if (Date.now() > deadline) throw new Error(`not within ${timeoutMs} ms: ${what}`);
    await sleep(intervalMs);
  }
}

/** What `promise` gives, or undefined after `timeoutMs`; leaves no timer behind. */
export async function within<T>(promise: Promise<T>, timeoutMs: number): Promise<T | undefined> {
  const ended = new AbortController();
  const late = sleep(timeoutMs, undefined, { signal: ended.signal }).catch(() => undefined);
  try {
    return await Promise.race([promise, late]);
  } finally {
    ended.abort();
  }
}

export class Machine {
  readonly folder: string;
  readonly env: Record<string, string>;
  private readonly running = new Set<ChildProcess>();

  constructor(
    readonly name: string,
    readonly namespace: Namespace,
    extra: Readonly<Record<string, string>> = {},
  ) {
    this.folder = mkdtempSync(join(tmpdir(), `greenboost-e2e-${name}-`));
    const folders = {
      XDG_CONFIG_HOME: 'config',
      XDG_STATE_HOME: 'state',
      XDG_CACHE_HOME: 'cache',
      XDG_RUNTIME_DIR: 'run',
    };
    this.env = {
      ...(process.env as Record<string, string>),
      GREENBOOST_LOG: 'info',
      NO_COLOR: '1',
      ...extra,
    };
    for (const [variable, folder] of Object.entries(folders)) {
      const path = join(this.folder, folder);
      mkdirSync(path, { mode: 0o700 });
      this.env[variable] = path;
    }
  }

  /** Starts any command on this machine, in a process group of its own. */
  start(command: readonly string[], env: Readonly<Record<string, string>> = {}): Running {
    const [file, args] = this.namespace.wrap(command);
    const child = spawn(file, args, {
      env: { ...this.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
    });
    this.running.add(child);
    let stdout = '';
    let stderr = '';
    child.stdout?.on('data', (chunk: Buffer) => (stdout += String(chunk)));
    child.stderr?.on('data', (chunk: Buffer) => (stderr += String(chunk)));
    const finished = new Promise<Finished>((resolve) => {
      child.on('close', (code, signal) => {
        this.running.delete(child);
        resolve({ code, signal, stdout, stderr });
      });
    });
    return { child, output: () => stdout + stderr, finished };
  }

  greenboost(args: readonly string[], env: Readonly<Record<string, string>> = {}): Running {
    return this.start([process.execPath, CLI, ...args], env);
  }

  /** Runs a `greenboost` command to its end and returns its standard output. */
  async call(args: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<string> {
    const done = await this.greenboost(args, env).finished;
    if (done.code !== 0) {
      throw new Error(
        `${this.name}: greenboost ${args.join(' ')} ended with ${done.code}: ${done.stdout}${done.stderr}`,
      );
    }
    return done.stdout;
  }

  async status(): Promise<SnapshotJson> {
    return JSON.parse(await this.call(['status', '--json'])) as SnapshotJson;
  }

  async feedStatus(): Promise<FeedStatusJson> {
    return JSON.parse(await this.call(['feed', 'status', '--json'])) as FeedStatusJson;
  }

  /** Events the agent still remembers, oldest first. */
  async events(): Promise<EventJson[]> {
    const text = await this.call(['events', '--json']);
    const trimmed = text.trim();
    if (trimmed === '') return [];
    if (trimmed.startsWith('[')) return JSON.parse(trimmed) as EventJson[];
    return trimmed.split('\n').map((line) => JSON.parse(line) as EventJson);
  }

  /** The key that a feeder here would print, for a host to connect with. */
  async key(): Promise<string> {
    return (await this.call(['key', 'show'])).trim().split('\n').at(-1) as string;
  }

  /** Connects the agent here to another machine's feeder. */
  async connect(feeder: Machine, port: string): Promise<void> {
    const address = `${feeder.namespace.address}:${port}`;
    await this.call(['connect', address], { GREENBOOST_KEY: await feeder.key() });
  }

  async startFeeder(
    options: readonly string[],
    env: Readonly<Record<string, string>> = {},
  ): Promise<Running> {
    const args = ['feed', 'start', '--foreground', '--name', this.name, ...options];
    const feeder = this.greenboost(args, env);
    await waitFor(`${this.name} lends`, async () => {
      if (feeder.child.exitCode !== null) throw new Error(`${this.name} ended: ${feeder.output()}`);
      return this.feedStatus().catch(() => undefined);
    });
    return feeder;
  }

  /** Ends everything that was started here and removes the folders. */
  async close(): Promise<void> {
    await this.greenboost(['agent', 'stop', '--force']).finished;
    await this.greenboost(['feed', 'stop', '--grace', '0']).finished;
    for (const child of this.running) {
      try {
        process.kill(-(child.pid as number), 'SIGKILL');
      } catch {
        // The group has ended by itself.
      }
    }
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** The first attached program of a snapshot that satisfies `wanted`. */
export function attachmentOf(
  snapshot: SnapshotJson,
  wanted: (attachment: AttachmentJson) => boolean = () => true,
): AttachmentJson | undefined {
  return snapshot.attachments.find(wanted);
}

/** Bytes programs hold on a feeder, by its own account. */
export function lentUsedBytes(status: FeedStatusJson): number {
  return status.devices.reduce((sum, device) => sum + device.usedBytes, 0);
}

export function leasedBytes(status: FeedStatusJson): number {
  return status.devices.reduce((sum, device) => sum + device.leasedBytes, 0);
}
