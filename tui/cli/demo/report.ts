// SPDX-License-Identifier: Apache-2.0
// What the demo says while it works, and the checks it ends with.
import { systemClock } from '../../../proto/base/clock.js';
import { formatBytes } from '../../../proto/base/units.js';
import { painters, writeLine } from '../output.js';

/** A finished fact: what was wanted, what was found. */
export interface Check {
  readonly name: string;
  readonly ok: boolean;
  readonly found: string;
}

/** Steps and checks for people; silent with --json. */
export class DemoReport {
  readonly checks: Check[] = [];
  readonly #paint = painters(process.stdout);
  readonly #live: boolean;
  #startedMs = systemClock.nowMs();

  constructor(readonly silent: boolean) {
    this.#live = !silent && process.stdout.isTTY === true;
  }

  line(text = ''): void {
    if (!this.silent) writeLine(text);
  }

  title(text: string): void {
    this.line();
    this.line(this.#paint.bold(text));
  }

  /** Does one step and says how long it took. */
  async step<T>(text: string, work: () => Promise<T>): Promise<T> {
    const startMs = systemClock.nowMs();
    this.progress(text);
    const result = await work();
    this.#clear();
    this.line(
      `  ${text.padEnd(66)} ${this.#paint.dim(`${((systemClock.nowMs() - startMs) / 1000).toFixed(1)} s`)}`,
    );
    return result;
  }

  /** A line that the next one replaces; nothing where there is no terminal. */
  progress(text: string): void {
    if (!this.#live) return;
    const width = Math.max(20, (process.stdout.columns || 80) - 1);
    process.stdout.write(`\r\u001b[K  ${text.slice(0, width - 2)}`);
  }

  #clear(): void {
    if (this.#live) process.stdout.write('\r\u001b[K');
  }

  /** Ends a run of progress lines. */
  endProgress(): void {
    this.#clear();
  }

  check(name: string, ok: boolean, found: string): void {
    this.checks.push({ name, ok, found });
    const mark = ok ? this.#paint.green('ok  ') : this.#paint.red('FAIL');
    this.line(`  ${mark} ${name.padEnd(56)} ${found}`);
  }

  get allOk(): boolean {
    return this.checks.length > 0 && this.checks.every((check) => check.ok);
  }

  get seconds(): number {
    return Math.round((systemClock.nowMs() - this.#startedMs) / 100) / 10;
  }
}

/** `at least 256 MiB: 262 MiB` */
export function atLeast(found: number, wanted: number): { ok: boolean; found: string } {
  return { ok: found >= wanted, found: `${formatBytes(found)} (at least ${formatBytes(wanted)})` };
}

export function atMost(found: number, wanted: number): { ok: boolean; found: string } {
  return { ok: found <= wanted, found: `${formatBytes(found)} (at most ${formatBytes(wanted)})` };
}
