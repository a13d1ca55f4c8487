// SPDX-License-Identifier: Apache-2.0
// The owner's rules, looked at every second: hours, and the GPU only while nobody else uses it. They hold a feeder and
// let it go; what that means is the feeder's own affair.
import type { Clock, Timer } from '../../proto/base/clock.js';
import { GbError } from '../../proto/base/errors.js';
import {
  LOCAL_USE_LOOK_INTERVAL_MS,
  LOCAL_USE_LOOK_TIMEOUT_MS,
  RULES_INTERVAL_MS,
} from '../../proto/base/limits.js';
import type { Logger } from '../../proto/base/log.js';
import { PauseCause } from '../../proto/gen/greenboost/v1/feeder_pb.js';
import type { HoursWindow } from '../../proto/settings/hours.js';
import type { GpuUse } from '../../driver/nvml/use.js';
import { isOpen, nextChange } from './hours.js';
import { identifyProcess, LocalUse, type Identify } from './local-use.js';
import { clockText, type Pause } from './pauses.js';

export interface LendingRules {
  /** Empty: always. */
  readonly hours: readonly HoursWindow[];
  /** GPUs that are lent only while nobody else uses them, by UUID; empty: the rule does not hold. */
  readonly idleGpus: readonly string[];
  /** How long nobody must have used them before they are lent again. */
  readonly idleMs: number;
}

export interface RulesOptions {
  readonly rules: LendingRules;
  readonly clock: Clock;
  readonly log: Logger;
  readonly hold: (pause: Pause) => void;
  readonly lift: (cause: PauseCause) => void;
  /** Reads all GPUs; may take its time, and fail. */
  readonly look: (sinceUnixMs: number) => Promise<readonly GpuUse[]>;
  readonly identify?: Identify;
}

export class Rules {
  private readonly use: LocalUse;
  private timer: Timer | undefined;
  private openUntil: { readonly open: boolean; readonly change: Date | undefined } | undefined;
  private looking: { readonly sinceMs: number } | undefined;
  private lookedMs = Number.NEGATIVE_INFINITY;
  private lookedUnixMs: number;
  private usedMs: number | undefined;

  constructor(private readonly options: RulesOptions) {
    this.use = new LocalUse(options.identify ?? identifyProcess);
    this.lookedUnixMs = options.clock.unixMs() - LOCAL_USE_LOOK_INTERVAL_MS;
  }

  /** Resolves when each rule was looked at once: whoever asks for memory afterwards is told right.
   *  @throws GbError when nobody can say who uses the GPU. */
  async start(): Promise<void> {
    this.checkHours();
    if (this.options.rules.idleGpus.length > 0) await this.lookOnce();
    this.timer = this.options.clock.every(RULES_INTERVAL_MS, () => this.check());
  }

  stop(): void {
    this.timer?.cancel();
  }

  private check(): void {
    this.checkHours();
    if (this.options.rules.idleGpus.length > 0) this.checkUse();
  }

  private checkHours(): void {
    const { rules, clock, hold, lift } = this.options;
    if (rules.hours.length === 0) return;
    const now = new Date(clock.unixMs());
    const open = isOpen(rules.hours, now);
    if (this.openUntil?.open === open) return;
    const change = nextChange(rules.hours, now);
    this.openUntil = { open, change };
    if (open) lift(PauseCause.HOURS);
    else
      hold({
        cause: PauseCause.HOURS,
        drain: true,
        sinceUnixMs: clock.unixMs(),
        untilUnixMs: change?.getTime(),
        text:
          `outside of its hours (${rules.hours.map(({ text }) => text).join('; ')})` +
          (change ? `, until ${clockText(change)}` : ''),
      });
  }

  private checkUse(): void {
    const nowMs = this.options.clock.nowMs();
    if (this.looking) {
      // An answer that does not come says nothing good: the owner goes first.
      if (nowMs - this.looking.sinceMs >= LOCAL_USE_LOOK_TIMEOUT_MS)
        this.used('the driver does not say who uses the GPU');
      return;
    }
    if (nowMs - this.lookedMs < LOCAL_USE_LOOK_INTERVAL_MS) return;
    void this.lookOnce().catch((reason: unknown) => {
      const { rawMessage } = GbError.from(reason);
      this.options.log.warn({ event: 'local_use_unknown', err: reason }, rawMessage);
      this.used(`nobody can say who uses the GPU (${rawMessage})`);
    });
  }

  private async lookOnce(): Promise<void> {
    const { clock, rules, look } = this.options;
    this.lookedMs = clock.nowMs();
    this.looking = { sinceMs: this.lookedMs };
    const sinceUnixMs = this.lookedUnixMs;
    this.lookedUnixMs = clock.unixMs();
    try {
      const uses = await look(sinceUnixMs);
      const ours = uses.filter(({ uuid }) => rules.idleGpus.includes(uuid));
      if (ours.length < rules.idleGpus.length)
        throw new GbError('NOT_FOUND', 'NVML does not know a GPU that is lent');
      const who = this.use.judge(ours);
      if (who === undefined) this.unused();
      else this.used(who);
    } finally {
      this.looking = undefined;
    }
  }

  private used(text: string): void {
    const { clock, hold } = this.options;
    this.usedMs = clock.nowMs();
    const [cause, sinceUnixMs] = [PauseCause.LOCAL_USE, clock.unixMs()];
    hold({ cause, drain: true, sinceUnixMs, text: `its GPU is in use: ${text}` });
  }

  private unused(): void {
    const { clock, rules, lift } = this.options;
    if (this.usedMs === undefined || clock.nowMs() - this.usedMs < rules.idleMs) return;
    this.usedMs = undefined;
    lift(PauseCause.LOCAL_USE);
  }
}
