// SPDX-License-Identifier: Apache-2.0
// Lanes to nothing, by which hosts measure a link: each leads to scratch memory of an executor of
// its own, which lives as long as the lane. So a probe is what a lane of a lease is, with its
// limits, and no host reads another's bytes.
import type { Clock } from '../proto/base/clock.js';
import { GbError } from '../proto/base/errors.js';
import { ARENA_WINDOW_BASE, LANE_PROBE_BYTES, LANE_PROBES_MAX } from '../proto/base/limits.js';
import type { Logger } from '../proto/base/log.js';
import { Executor } from '../driver/executor/client.js';
import type { LaneGrant } from '../driver/executor/lanes.js';
import type { Lanes } from './lanes.js';
import type { MemoryGuard } from './memory-guard.js';
import type { Session } from './sessions.js';

export interface ProbeLanesOptions {
  readonly lanes: Lanes;
  readonly guard: MemoryGuard;
  readonly clock: Clock;
  readonly log: Logger;
}

export class ProbeLanes {
  private readonly executors = new Set<Executor>();
  private starting = 0;
  private stopped = false;

  constructor(private readonly options: ProbeLanesOptions) {}

  /** Returns the id of a ticket to `length` bytes of scratch memory. `release` is called once, when
   *  the probe is over or could not begin. @throws GbError CAPACITY_EXHAUSTED when too many are
   *  measuring. */
  async open(
    session: Session,
    wish: { length: bigint; rights: LaneGrant['rights']; connections: number },
    signal: AbortSignal,
    release: () => void,
  ): Promise<Buffer> {
    let executor: Executor | undefined;
    let over = false;
    const end = (): void => {
      if (over) return;
      over = true;
      void executor?.stop();
      release();
    };
    try {
      executor = await this.start();
      const lane = { holder: executor, leaseId: undefined, offset: 0n, brokeredSecret: undefined };
      return await this.options.lanes.open(session, { ...lane, ...wish, onEnd: end }, signal);
    } catch (reason) {
      end();
      throw reason;
    }
  }

  async stop(): Promise<void> {
    this.stopped = true;
    await Promise.all([...this.executors].map((executor) => executor.stop()));
  }

  private async start(): Promise<Executor> {
    if (this.stopped) throw new GbError('WRONG_STATE', 'the feeder is stopping');
    if (this.executors.size + this.starting >= LANE_PROBES_MAX)
      throw new GbError('CAPACITY_EXHAUSTED', `${LANE_PROBES_MAX} hosts measure their links now`);
    this.starting += 1;
    let undoGuard: (() => void) | undefined;
    try {
      undoGuard = await this.options.guard.admit(LANE_PROBE_BYTES);
      return await this.startNow();
    } finally {
      this.starting -= 1;
      undoGuard?.();
    }
  }

  private async startNow(): Promise<Executor> {
    const { clock, log, lanes } = this.options;
    const executor = await Executor.start({
      arenaBase: ARENA_WINDOW_BASE,
      arenaBytes: BigInt(LANE_PROBE_BYTES),
      gpuOrdinals: [],
      gpu: 'none',
      clock,
      log,
      onLaneEvent: (event) => lanes.onEvent(undefined, event),
    });
    this.executors.add(executor);
    void executor.ended.then(() => this.executors.delete(executor));
    try {
      await executor.allocate({ offset: 0n, length: BigInt(LANE_PROBE_BYTES) });
      if (this.stopped) throw new GbError('WRONG_STATE', 'the feeder is stopping');
      return executor;
    } catch (reason) {
      await executor.stop();
      throw reason;
    }
  }
}
