// SPDX-License-Identifier: Apache-2.0
// Programs with two copies of everything get a second one back after a feeder was lost: pulled in
// the background from the one that is left, as soon as some feeder has room.
import type { Clock, Timer } from '../../proto/base/clock.js';
import { GbError } from '../../proto/base/errors.js';
import { REPAIR_INTERVAL_MS } from '../../proto/base/limits.js';
import { isLost, type Copy, type Extent } from '../placement/residency.js';
import type { EvacuationParts } from './evacuation.js';
import { freeOf } from './holds.js';

export interface RepairDeps extends EvacuationParts {
  readonly clock: Clock;
  readonly signal: AbortSignal;
  /** Every byte has two copies again. */
  readonly onWhole: (bytes: number) => void;
  readonly onBug: (error: unknown, where: string) => void;
}

export class Repair {
  private running = false;
  private again = false;
  private timer: Timer | undefined;
  private repairedBytes = 0;

  constructor(private readonly deps: RepairDeps) {}

  /** Looks for bytes with one copy where there should be two, now and until there are none. */
  start(): void {
    this.again = true;
    if (this.running || this.deps.signal.aborted) return;
    this.running = true;
    this.run()
      .catch((reason: unknown) => this.deps.onBug(reason, 'repair of mirrors'))
      .finally(() => (this.running = false));
  }

  private async run(): Promise<void> {
    while (this.again && !this.deps.signal.aborted) {
      this.again = false;
      const whole = await this.pass();
      if (whole && this.repairedBytes > 0) {
        this.deps.onWhole(this.repairedBytes);
        this.repairedBytes = 0;
      }
      if (!whole) this.later();
    }
  }

  /** Returns true when nothing is left to do. */
  private async pass(): Promise<boolean> {
    const { copies, budget } = this.deps;
    let whole = true;
    for (const extent of [...copies.residency.all]) {
      const lost = extent.copies.find((copy) => copy.lost);
      if (!lost || isLost(extent) || !copies.residency.all.includes(extent)) continue;
      const moved = await this.mirror(extent, lost);
      if (moved === undefined) whole = false;
      else this.repairedBytes += moved;
    }
    for (const hold of budget.holds.filter((h) => h.state === 'lost' && h.leaseId !== '')) {
      if (freeOf(hold) > 0 && !(await budget.moveFree(hold))) whole = false;
    }
    return whole;
  }

  /** undefined: not now. */
  private async mirror(extent: Extent, lost: Copy): Promise<number | undefined> {
    const { mover, signal } = this.deps;
    try {
      return await mover.move(extent, lost, { signal, onBytes: () => undefined });
    } catch (reason) {
      if (!(reason instanceof GbError)) throw reason;
      return reason.code === 'NOT_FOUND' ? 0 : undefined;
    }
  }

  private later(): void {
    this.timer?.cancel();
    this.timer = this.deps.clock.after(REPAIR_INTERVAL_MS, () => this.start());
  }
}
