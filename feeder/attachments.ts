// SPDX-License-Identifier: Apache-2.0
// What leases hold: one executor per lease, its ranges, and the account kept exact around every
// step.
//   held -> ended (released, expired, stopped)        held -> failed (its executor died) -> ended
// Must not know gRPC, sessions or TTLs.
import type { Clock, Timer } from '../proto/base/clock.js';
import { GbError } from '../proto/base/errors.js';
import type { LeaseId } from '../proto/base/ids.js';
import {
  LANE_COUNTS_PER_SECOND_MAX,
  LANE_LAST_COUNT_MS,
  LANE_SAMPLE_INTERVAL_MS,
  RANGE_ALIGN_BYTES,
  RANGES_PER_LEASE_MAX,
} from '../proto/base/limits.js';
import type { Logger } from '../proto/base/log.js';
import { Executor, type ExecutorPriority, type ExecutorRange } from '../driver/executor/client.js';
import type { LaneEvent } from '../driver/executor/lanes.js';
import type { GpuDriver } from '../driver/library.js';
import type { BlockCacheFolder } from './block-cache.js';
import type { Lease } from './lease.js';
import type { MemoryGuard } from './memory-guard.js';
import { RAM_KEY, type DeviceKey, type Pool } from './pool.js';
import { RangeSet, type HeldRange } from './ranges.js';

export interface Attachment {
  readonly leaseId: LeaseId;
  readonly executor: Executor;
  readonly ranges: RangeSet;
  /** Served to its host, and come from it, as the executor counted them last. */
  readBytes: number;
  writeBytes: number;
  counting: Promise<void> | undefined;
  /** RAM bytes locked against swapping. */
  lockedBytes: number;
  /** Ranges that are being scrubbed; each resolves, never rejects. */
  readonly leaving: Set<Promise<void>>;
  /** Why its bytes are gone, once they are. */
  failure: GbError | undefined;
  /** Set when the lease ends; nothing new starts from then on. */
  ending: Promise<number> | undefined;
}

/** Who knows the lanes of leases. */
export interface LaneKeeper {
  onEvent(leaseId: LeaseId, event: LaneEvent): void;
  hasOpen(leaseId: LeaseId): boolean;
  /** Takes their tickets back; never waits for long. */
  endLease(leaseId: LeaseId): Promise<void>;
  /** Their executor is gone. */
  loseLease(leaseId: LeaseId): void;
}

export interface AttachmentsOptions {
  readonly pool: Pool;
  readonly gpu: GpuDriver;
  /** CUDA ordinals every executor opens. */
  readonly gpuOrdinals: readonly number[];
  readonly priority: ExecutorPriority | undefined;
  readonly kernelMs: number | undefined;
  readonly guard: MemoryGuard;
  readonly lanes: LaneKeeper;
  readonly clock: Clock;
  readonly log: Logger;
  readonly onChange: () => void;
}

export class Attachments {
  private readonly held = new Map<LeaseId, Attachment>();
  private readTotal = 0;
  private writeTotal = 0;
  private readonly sampler: Timer;
  private restUntilMs = 0;

  constructor(private readonly options: AttachmentsOptions) {
    this.sampler = options.clock.every(LANE_SAMPLE_INTERVAL_MS, () => this.countInTurn());
  }

  /** Bytes served to hosts since start, and taken from them. */
  get traffic(): { readonly readBytes: number; readonly writeBytes: number } {
    return { readBytes: this.readTotal, writeBytes: this.writeTotal };
  }

  /** RAM locked against swapping, of all leases. */
  get lockedBytes(): number {
    let locked = 0;
    for (const attachment of this.held.values()) locked += attachment.lockedBytes;
    return locked;
  }

  /** Starts the executor of a lease whose bytes are promised already. @throws GbError when it
   *  cannot start. */
  async open(lease: Lease, cache?: BlockCacheFolder): Promise<void> {
    const { arenaBase, arenaBytes, id } = lease;
    const { gpu, gpuOrdinals, priority, kernelMs, log, clock, lanes } = this.options;
    const executor = await Executor.start({
      arenaBase,
      arenaBytes,
      gpu,
      gpuOrdinals,
      priority,
      kernelMs,
      log,
      clock,
      onLaneEvent: (event) => lanes.onEvent(id, event),
    });
    if (cache) await this.useCache(executor, cache);
    const attachment: Attachment = {
      leaseId: id,
      executor,
      ranges: new RangeSet(),
      readBytes: 0,
      writeBytes: 0,
      counting: undefined,
      lockedBytes: 0,
      leaving: new Set(),
      failure: undefined,
      ending: undefined,
    };
    this.held.set(id, attachment);
    void executor.ended.then(({ reason, expected }) => {
      if (!expected) this.onExecutorDeath(attachment, reason);
    });
    log.info(
      { event: 'executor_started', lease: id, pid: executor.pid },
      'an executor holds this lease',
    );
  }

  /** Without its block cache a feeder is slower, not useless. */
  private async useCache(executor: Executor, cache: BlockCacheFolder): Promise<void> {
    try {
      const { key, path, budgetBytes } = cache;
      await executor.cache({ key, path, budgetBytes: BigInt(budgetBytes) });
    } catch (err) {
      this.options.log.warn(
        { event: 'cache_unusable', err },
        'an executor runs without block cache',
      );
    } finally {
      cache.key.fill(0);
    }
  }

  /** Asks an executor what it has served and taken, one question at a time; what is known
   *  afterwards is from after the call. Never rejects. */
  count(attachment: Attachment): Promise<void> {
    const before = attachment.counting ?? Promise.resolve();
    const counting = before.then(() => this.countNow(attachment));
    attachment.counting = counting;
    void counting.then(() => {
      if (attachment.counting === counting) attachment.counting = undefined;
    });
    return counting;
  }

  private async countNow(attachment: Attachment): Promise<void> {
    const stat = await attachment.executor.stat().catch(() => undefined);
    if (!stat) return;
    const { readBytes, writeBytes } = stat;
    this.readTotal += Math.max(0, readBytes - attachment.readBytes);
    this.writeTotal += Math.max(0, writeBytes - attachment.writeBytes);
    attachment.readBytes = Math.max(attachment.readBytes, readBytes);
    attachment.writeBytes = Math.max(attachment.writeBytes, writeBytes);
  }

  /** An executor that hangs is not asked again and again. */
  private countInTurn(): void {
    const nowMs = this.options.clock.nowMs();
    if (nowMs < this.restUntilMs) return;
    this.restUntilMs = nowMs + (this.held.size * 1000) / LANE_COUNTS_PER_SECOND_MAX;
    for (const attachment of this.moving()) if (!attachment.counting) void this.count(attachment);
  }

  /** Counts every lease whose bytes may have moved. */
  async countAll(): Promise<void> {
    await Promise.all(this.moving().map((attachment) => this.count(attachment)));
  }

  private moving(): Attachment[] {
    return [...this.held.values()].filter(
      ({ leaseId, ending, failure }) => !ending && !failure && this.options.lanes.hasOpen(leaseId),
    );
  }

  /** Its executor died, and its bytes with it. */
  hasFailed(leaseId: LeaseId): boolean {
    return this.held.get(leaseId)?.failure !== undefined;
  }

  /** @throws GbError DATA_LOSS when its executor died; LEASE_EXPIRED when it is ending. */
  get(leaseId: LeaseId): Attachment {
    const attachment = this.held.get(leaseId);
    if (!attachment || attachment.ending)
      throw new GbError('LEASE_EXPIRED', `lease ${leaseId} has ended`);
    if (attachment.failure) throw attachment.failure;
    return attachment;
  }

  /** Maps zeroed memory. Returns its locked bytes. Cancel: an allocation whose caller went away is
   *  undone.
   *  @throws GbError INVALID_ARGUMENT, CAPACITY_EXHAUSTED, DATA_LOSS; then nothing has changed. */
  async allocate(
    lease: Lease,
    device: DeviceKey,
    offset: number,
    length: number,
    signal: AbortSignal,
  ): Promise<number> {
    const attachment = this.get(lease.id);
    checkRange(lease, offset, length);
    if (attachment.ranges.count >= RANGES_PER_LEASE_MAX) {
      throw new GbError(
        'CAPACITY_EXHAUSTED',
        `a lease holds at most ${RANGES_PER_LEASE_MAX} ranges`,
      );
    }
    if (!this.fits(attachment, device, offset, length)) await this.settle(lease.id);
    const range: HeldRange = { device, offset, length, lockedBytes: 0, ready: false };
    attachment.ranges.add(range);
    const undoGuard =
      device === RAM_KEY ? await this.guardOrForget(attachment, range) : () => undefined;
    try {
      this.take(attachment, range);
      try {
        range.lockedBytes = await attachment.executor.allocate(executorRange(range));
      } catch (reason) {
        this.giveBack(attachment, range);
        throw reason;
      }
    } catch (reason) {
      attachment.ranges.remove(range);
      throw reason;
    } finally {
      undoGuard();
    }
    range.ready = true;
    attachment.lockedBytes += device === RAM_KEY ? range.lockedBytes : 0;
    this.options.onChange();
    if (signal.aborted) {
      if (!attachment.ending && !attachment.failure) this.free(lease, device, offset, length);
      throw new GbError('CANCELED', 'the caller went away; the range was freed again');
    }
    return range.lockedBytes;
  }

  /** Gives back exactly one allocated range. It is scrubbed in the background and counts as used
   *  until then; who needs its place or its bytes meanwhile waits for that.
   *  @throws GbError NOT_FOUND, DATA_LOSS. */
  free(lease: Lease, device: DeviceKey, offset: number, length: number): void {
    const attachment = this.get(lease.id);
    const range = attachment.ranges.find(device, offset, length);
    if (!range?.ready)
      throw new GbError(
        'NOT_FOUND',
        `no range of ${length} bytes was allocated at offset ${offset}`,
      );
    range.ready = false; // A second Free, and new transfers, do not find it.
    const left = this.scrub(attachment, range);
    attachment.leaving.add(left);
    void left.then(() => attachment.leaving.delete(left));
  }

  /** Resolves when everything that was freed until now is scrubbed. */
  async settle(leaseId: LeaseId): Promise<void> {
    await Promise.all([...(this.held.get(leaseId)?.leaving ?? [])]);
  }

  /** Never rejects: what cannot be scrubbed is lent to nobody again. */
  private async scrub(attachment: Attachment, range: HeldRange): Promise<void> {
    try {
      await attachment.executor.free(executorRange(range));
    } catch (err) {
      if (attachment.failure || attachment.ending) return; // It went with its executor.
      const { leaseId: lease } = attachment;
      const text = 'a range could not be scrubbed; it stays with its lease';
      this.options.log.error({ event: 'scrub_failed', lease, err, ...range }, text);
      return;
    }
    attachment.ranges.remove(range);
    attachment.lockedBytes -= range.device === RAM_KEY ? range.lockedBytes : 0;
    this.giveBack(attachment, range);
    this.options.onChange();
  }

  private fits(
    { leaseId, ranges }: Attachment,
    device: DeviceKey,
    offset: number,
    length: number,
  ): boolean {
    const held = this.options.pool.holding(leaseId).get(device);
    const room = held ? held.limitBytes - held.usedBytes : 0;
    return length <= room && !ranges.overlaps(offset, length);
  }

  /** Ends what a lease holds: the executor scrubs and goes, then the account is closed. Returns the
   *  freed bytes.
   *  May be called again; every call answers the same. */
  end(leaseId: LeaseId): Promise<number> {
    const attachment = this.held.get(leaseId);
    if (!attachment) return Promise.resolve(0);
    attachment.ending ??= this.endNow(attachment);
    return attachment.ending;
  }

  private async endNow(attachment: Attachment): Promise<number> {
    await this.options.lanes.endLease(attachment.leaseId);
    await this.countLast(attachment);
    await attachment.executor.stop();
    const freed = attachment.failure ? 0 : this.options.pool.close(attachment.leaseId);
    this.held.delete(attachment.leaseId);
    this.options.onChange();
    return freed;
  }

  /** An executor that does not answer is not waited for. */
  private countLast(attachment: Attachment): Promise<void> {
    return new Promise((resolve) => {
      const timer = this.options.clock.after(LANE_LAST_COUNT_MS, resolve);
      void this.count(attachment).then(() => {
        timer.cancel();
        resolve();
      });
    });
  }

  /** The bytes are gone at once; the lease stays known, so that its owner is told DATA_LOSS and not
   *  "unknown". */
  private onExecutorDeath(attachment: Attachment, reason: string): void {
    const { leaseId } = attachment;
    const text = `the executor of lease ${leaseId} ${reason}; what it held is gone`;
    attachment.failure = new GbError('DATA_LOSS', text, { details: { leaseId } });
    attachment.lockedBytes = 0;
    this.options.lanes.loseLease(leaseId);
    this.options.pool.close(leaseId);
    this.options.log.error(
      { event: 'executor_died', lease: leaseId, pid: attachment.executor.pid, reason },
      text,
    );
    this.options.onChange();
  }

  private async guardOrForget(attachment: Attachment, range: HeldRange): Promise<() => void> {
    try {
      return await this.options.guard.admit(range.length);
    } catch (reason) {
      attachment.ranges.remove(range);
      throw reason;
    }
  }

  private take(attachment: Attachment, range: HeldRange): void {
    if (attachment.failure) throw attachment.failure;
    if (attachment.ending)
      throw new GbError('LEASE_EXPIRED', `lease ${attachment.leaseId} has ended`);
    this.options.pool.take(attachment.leaseId, range.device, range.length);
  }

  /** Nothing to give back once the account was closed by the executor's death or the lease's end. */
  private giveBack(attachment: Attachment, range: HeldRange): void {
    if (attachment.failure || !this.options.pool.holding(attachment.leaseId).has(range.device))
      return;
    this.options.pool.give(attachment.leaseId, range.device, range.length);
  }

  /** Ends everything, all leases at once. */
  async stop(): Promise<void> {
    this.sampler.cancel();
    await Promise.all([...this.held.keys()].map((leaseId) => this.end(leaseId)));
  }

  trafficOf(leaseId: LeaseId): { readonly readBytes: number; readonly writeBytes: number } {
    const { readBytes, writeBytes } = this.held.get(leaseId) ?? { readBytes: 0, writeBytes: 0 };
    return { readBytes, writeBytes };
  }

  /** For the account of one lease. */
  rangesOf(leaseId: LeaseId): readonly HeldRange[] {
    return this.held.get(leaseId)?.ranges.all() ?? [];
  }
}

function executorRange(range: HeldRange): ExecutorRange {
  const { device, offset, length } = range;
  const place = { offset: BigInt(offset), length: BigInt(length) };
  return device === RAM_KEY ? place : { gpuOrdinal: Number(device.slice('gpu:'.length)), ...place };
}

function checkRange(lease: Lease, offset: number, length: number): void {
  const aligned = offset % RANGE_ALIGN_BYTES === 0 && length % RANGE_ALIGN_BYTES === 0;
  if (!aligned || length === 0) {
    throw new GbError(
      'INVALID_ARGUMENT',
      `ranges start and end at multiples of ${RANGE_ALIGN_BYTES} bytes`,
    );
  }
  if (BigInt(offset) + BigInt(length) > lease.arenaBytes) {
    throw new GbError(
      'INVALID_ARGUMENT',
      `offset ${offset} + ${length} bytes is outside the arena`,
    );
  }
}
