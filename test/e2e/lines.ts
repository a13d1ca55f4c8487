// SPDX-License-Identifier: Apache-2.0
// A line of the delay link (test/net/delaylink.c) between the host's network namespace and a
// feeder's: rate, delay, jitter, loss and cuts, changed while it runs, and counters of what passed.
import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { ROOT } from '../arch/files.js';

const PROGRAM = join(ROOT, 'build', 'test', 'net', 'delaylink');
const ANSWER_TIMEOUT_MS = 10_000;

/** As the delay link takes them: `1Gbit`, `0.5ms`, `5%`, `2MiB`. */
export interface LineSettings {
  readonly rate?: string;
  /** One way. */
  readonly delay?: string;
  readonly jitter?: string;
  readonly reorder?: '0' | '1';
  readonly loss?: string;
  readonly queue?: string;
}

export const PLAIN: LineSettings = {
  rate: '0',
  delay: '0',
  jitter: '0',
  reorder: '0',
  loss: '0',
  queue: '0',
};

/** What one direction carried: packets and bytes of the wire. */
export interface Carried {
  readonly packets: number;
  readonly bytes: number;
  readonly lost: number;
  readonly queueDropped: number;
  readonly cutDropped: number;
  readonly overflowed: number;
  readonly writeFailed: number;
  readonly queuePeakBytes: number;
}

/** By who sends. */
export type Side = 'host' | 'feeder';
export type LineStats = Readonly<Record<Side, Carried>>;

const LETTER: Readonly<Record<Side, string>> = { host: 'a', feeder: 'b' };

export class Line {
  private readonly answers: string[] = [];
  private wake: () => void = () => undefined;
  private turn: Promise<unknown> = Promise.resolve();

  private constructor(private readonly child: ChildProcess) {
    child.stdin?.on('error', () => undefined); // It has ended; the next answer says so.
    createInterface({ input: child.stdout! }).on('line', (line) => {
      this.answers.push(line);
      this.wake();
    });
    child.on('exit', () => this.wake());
  }

  /** Joins the namespaces of two processes by devices called `device`. `enter` is a command that
   *  has rights over both. */
  static async open(
    enter: readonly string[],
    host: number,
    feeder: number,
    device: string,
    settings: LineSettings,
  ): Promise<Line> {
    if (!existsSync(PROGRAM)) throw new Error(`${PROGRAM} is not built: make natives`);
    const words = Object.entries({ ...PLAIN, ...settings }).flat() as string[];
    const [command, ...args] = [
      ...enter,
      PROGRAM,
      ...['--a', String(host), '--b', String(feeder), '--name', device],
      ...words,
    ];
    const child = spawn(command as string, args, { stdio: ['pipe', 'pipe', 'inherit'] });
    const line = new Line(child);
    const ready = await line.answer();
    if (ready !== 'ready') throw new Error(`delaylink: ${ready}`);
    return line;
  }

  /** For what one side sends, or both. */
  async set(settings: LineSettings, side?: Side): Promise<void> {
    const words = Object.entries(settings).flat();
    await this.order(['set', ...(side ? [LETTER[side]] : []), ...words]);
  }

  /** Nothing that `side` (or anybody) sends arrives from now on, nor what is under way. */
  async cut(side?: Side): Promise<void> {
    await this.order(['cut', ...(side ? [LETTER[side]] : [])]);
  }

  async join(side?: Side): Promise<void> {
    await this.order(['join', ...(side ? [LETTER[side]] : [])]);
  }

  async stats(): Promise<LineStats> {
    const { a, b } = JSON.parse(await this.ask('stats')) as { a: Carried; b: Carried };
    return { host: a, feeder: b };
  }

  /** Bytes per second that each side sends, measured over `ms`. */
  async rates(ms = 200): Promise<Readonly<Record<Side, number>>> {
    const start = performance.now();
    const before = await this.stats();
    await sleep(ms);
    const after = await this.stats();
    const seconds = (performance.now() - start) / 1000;
    const rate = (side: Side): number => (after[side].bytes - before[side].bytes) / seconds;
    return { host: rate('host'), feeder: rate('feeder') };
  }

  close(): void {
    this.child.stdin?.end();
  }

  private async order(words: readonly string[]): Promise<void> {
    const answer = await this.ask(words.join(' '));
    if (answer !== 'ok') throw new Error(`delaylink ${words.join(' ')}: ${answer}`);
  }

  /** One question at a time; answers come in order. */
  private ask(line: string): Promise<string> {
    const asked = this.turn.then(() => {
      this.child.stdin?.write(`${line}\n`);
      return this.answer();
    });
    this.turn = asked.catch(() => undefined);
    return asked;
  }

  private async answer(): Promise<string> {
    const deadline = Date.now() + ANSWER_TIMEOUT_MS;
    for (;;) {
      const line = this.answers.shift();
      if (line !== undefined) return line;
      if (this.child.exitCode !== null) throw new Error('the delay link has ended');
      const left = deadline - Date.now();
      if (left <= 0) throw new Error('the delay link does not answer');
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, Math.min(left, 1_000));
        this.wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }
}
