// SPDX-License-Identifier: Apache-2.0
// What the feeders of one attachment still have to be told: ranges that were given up and limits that fell while a
// feeder was away, or between its adoption and its first call, or when it refused. Tried again until it is done, with
// growing delays while a feeder refuses; a feeder that is back is told at once.
import type { Clock, Timer } from '../../proto/base/clock.js';
import type { GbError } from '../../proto/base/errors.js';
import { ARREARS_DELAY_MS_MAX, ARREARS_DELAY_MS_MIN } from '../../proto/base/limits.js';
import type { Copies } from './copies.js';
import type { FeederBudget } from './feeder-budget.js';

export interface ArrearsDeps {
  readonly clock: Clock;
  readonly budget: FeederBudget;
  readonly copies: Copies;
  /** Ends it. */
  readonly signal: AbortSignal;
  /** A feeder that is there does not take back what it is told to; undefined: it has. */
  readonly onRefused: (feederName: string, why: GbError | undefined) => void;
  readonly onBug: (error: unknown, where: string) => void;
}

/** Refusals one after the other before people are told. */
const TOLD_AFTER = 3;

export class Arrears {
  private running = false;
  private again = false;
  private timer: Timer | undefined;
  private delayMs = ARREARS_DELAY_MS_MIN;
  /** How often each feeder has refused since it last did what it was told. */
  private readonly refusals = new Map<string, number>();

  constructor(private readonly deps: ArrearsDeps) {
    deps.signal.addEventListener('abort', () => this.timer?.cancel(), { once: true });
  }

  /** A feeder could not be told something: it is tried again soon. */
  later(): void {
    this.again = true;
    if (this.timer || this.running || this.deps.signal.aborted) return;
    this.timer = this.deps.clock.after(this.delayMs, () => this.run());
    this.delayMs = Math.min(ARREARS_DELAY_MS_MAX, this.delayMs * 2);
  }

  /** A feeder is back: what it has to be told is tried now. */
  now(): void {
    this.delayMs = ARREARS_DELAY_MS_MIN;
    if (this.running) this.again = true;
    else this.run();
  }

  private run(): void {
    this.timer?.cancel();
    this.timer = undefined;
    if (this.running || this.deps.signal.aborted) return;
    this.running = true;
    this.again = false;
    this.pass()
      .then((done) => {
        this.running = false;
        if (done) this.delayMs = ARREARS_DELAY_MS_MIN;
        if (!done || this.again) this.later();
      })
      .catch((reason: unknown) => {
        this.running = false;
        this.deps.onBug(reason, 'what feeders have to be told');
      });
  }

  /** Returns true when nothing is left that a feeder which is there could be told. */
  private async pass(): Promise<boolean> {
    const { budget, copies, signal } = this.deps;
    let done = true;
    for (const hold of budget.holds.filter(({ state }) => state === 'held')) {
      if (signal.aborted) return true;
      const left = (await copies.freeOwed(hold)) ?? (await budget.settleLimits(hold));
      if (left) done = false;
      this.note(hold.feederName, left);
    }
    return done;
  }

  private note(feederName: string, left: GbError | undefined): void {
    const before = this.refusals.get(feederName) ?? 0;
    if (!left) {
      this.refusals.delete(feederName);
      if (before >= TOLD_AFTER) this.deps.onRefused(feederName, undefined);
      return;
    }
    // Its link tells of one that is away.
    if (left.code === 'FEEDER_UNREACHABLE') return;
    this.refusals.set(feederName, before + 1);
    if (before + 1 === TOLD_AFTER) this.deps.onRefused(feederName, left);
  }
}
