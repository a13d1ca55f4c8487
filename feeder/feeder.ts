// SPDX-License-Identifier: Apache-2.0
// The feeder itself: leases, their bytes and their time, brought together. Must not know gRPC.
//   lending <-> paused, draining (by its owner or his rules, rules/) -> stopping -> stopped
import type { Clock, Timer } from '../proto/base/clock.js';
import { GbError } from '../proto/base/errors.js';
import type { LeaseId, SessionId } from '../proto/base/ids.js';
import {
  ARENA_BYTES_MAX,
  ARENA_WINDOW_BASE,
  ARENA_WINDOW_END,
  LEASES_PER_SESSION_MAX,
  LEASE_SWEEP_INTERVAL_MS,
  RANGE_ALIGN_BYTES,
} from '../proto/base/limits.js';
import type { Logger } from '../proto/base/log.js';
import { formatBytes } from '../proto/base/units.js';
import { FeederState, PauseCause } from '../proto/gen/greenboost/v1/feeder_pb.js';
import type { ExecutorPriority } from '../driver/executor/client.js';
import type { GpuDriver } from '../driver/library.js';
import { Attachments, type LaneKeeper } from './attachments.js';
import type { BlockCacheFolder } from './block-cache.js';
import type { LentGpu } from './config.js';
import {
  LeaseTable,
  type Caller,
  type Lease,
  type LeaseRequest,
  type RenewOutcome,
} from './lease.js';
import { MemoryGuard } from './memory-guard.js';
import { gpuKey, Pool, RAM_KEY, type DeviceBytes, type DeviceKey } from './pool.js';
import { CAUSE_WORDS, Pauses, type Pause } from './rules/pauses.js';
import { StatsHub } from './stats.js';

export interface FeederSettings {
  readonly ramBytes: number;
  readonly ramReserveBytes: number;
  readonly gpus: readonly LentGpu[];
  readonly gpu: GpuDriver;
  readonly leaseTtlMs: number;
  /** Bytes that all leases of one host may promise together; undefined: as much as there is. */
  readonly hostBytesMax: number | undefined;
  /** Hosts may run kernels on the first GPU. */
  readonly compute: boolean;
  /** Of executors; undefined: the daemon's own. */
  readonly priority?: ExecutorPriority | undefined;
  /** How long a kernel of a host may run; undefined: the executor's default. */
  readonly kernelMs?: number | undefined;
}

export interface LeaseFacts {
  readonly lease: Lease;
  readonly limits: DeviceBytes;
  readonly usedBytes: number;
  readonly ttlRemainingMs: number;
  readonly adopted: boolean;
  /** As they were counted last. */
  readonly readBytes: number;
  readonly writeBytes: number;
}

export class Feeder {
  readonly pool: Pool;
  readonly hub: StatsHub;
  readonly attachments: Attachments;
  readonly gpus: readonly LentGpu[];
  readonly guard: MemoryGuard;
  private readonly table: LeaseTable;
  private readonly opening = new Set<Promise<unknown>>();
  private readonly sweep: Timer;
  private readonly held = new Pauses();
  private stopping = false;
  private onEmpty: (() => void) | undefined;

  constructor(
    private readonly settings: FeederSettings,
    private readonly clock: Clock,
    private readonly log: Logger,
    lanes: LaneKeeper,
  ) {
    const ram: [DeviceKey, number][] = settings.ramBytes > 0 ? [[RAM_KEY, settings.ramBytes]] : [];
    this.pool = new Pool(
      new Map([
        ...ram,
        ...settings.gpus.map(({ gpu, bytes }) => [gpuKey(gpu.index), bytes] as const),
      ]),
    );
    this.hub = new StatsHub(clock);
    this.gpus = settings.gpus;
    this.guard = new MemoryGuard(settings.ramReserveBytes);
    this.table = new LeaseTable(settings.leaseTtlMs);
    this.attachments = new Attachments({
      pool: this.pool,
      gpu: settings.gpu,
      gpuOrdinals: settings.gpus.map(({ gpu }) => gpu.index),
      priority: settings.priority,
      kernelMs: settings.kernelMs,
      guard: this.guard,
      lanes,
      clock,
      log,
      onChange: () => this.changed(),
    });
    this.sweep = clock.every(LEASE_SWEEP_INTERVAL_MS, () => this.expire());
  }

  get state(): FeederState {
    return this.stopping ? FeederState.STOPPING : this.held.state;
  }

  /** Why it lends nothing new; empty: it lends, or stops. */
  get pauses(): readonly Pause[] {
    return this.stopping ? [] : this.held.all();
  }

  /** Kernels of hosts may run here. */
  get lendsCompute(): boolean {
    return this.settings.compute;
  }

  get leaseTtlMs(): number {
    return this.table.ttlMs;
  }

  get leaseCount(): number {
    return this.table.size;
  }

  /** Promises bytes and starts the executor that will hold them. Cancel: a lease nobody waits for
   *  is released.
   *  @throws GbError CAPACITY_EXHAUSTED, INVALID_ARGUMENT, WRONG_STATE unless lending; then nothing
   * has changed. */
  async acquire(
    caller: Caller,
    request: LeaseRequest,
    limits: DeviceBytes,
    signal: AbortSignal,
    cache?: BlockCacheFolder,
  ): Promise<Lease> {
    this.assertLending();
    checkArena(request);
    if (this.table.countOf(caller.hostId) >= LEASES_PER_SESSION_MAX) {
      throw new GbError(
        'CAPACITY_EXHAUSTED',
        `a host holds at most ${LEASES_PER_SESSION_MAX} leases`,
      );
    }
    this.checkHostBytes(caller, limits, undefined);
    const lease = this.table.acquire(caller, request, this.clock.nowMs());
    try {
      this.pool.open(lease.id, limits);
    } catch (reason) {
      this.table.remove(lease.id);
      throw reason;
    }
    const opened = this.attachments.open(lease, cache);
    this.opening.add(opened);
    try {
      await opened;
    } catch (reason) {
      this.pool.close(lease.id);
      this.table.remove(lease.id);
      throw reason;
    } finally {
      this.opening.delete(opened);
      this.changed();
    }
    if (signal.aborted || !this.table.get(lease.id)) {
      this.table.remove(lease.id);
      await this.attachments.end(lease.id);
      throw new GbError('CANCELED', 'nobody waits for this lease any more');
    }
    const { id, attachmentId, hostName } = lease;
    this.log.info(
      {
        event: 'lease_acquired',
        lease: id,
        attachment: attachmentId,
        host: hostName,
        limits: Object.fromEntries(limits),
      },
      'bytes are promised',
    );
    return lease;
  }

  /** @throws GbError as LeaseTable.authorize; CAPACITY_EXHAUSTED; WRONG_STATE below what is used,
   *  and for more than before unless lending. */
  async resize(
    caller: Caller,
    id: string,
    fencingToken: bigint,
    limits: DeviceBytes,
  ): Promise<void> {
    await this.attachments.settle(this.authorize(caller, id, fencingToken).id);
    const lease = this.authorize(caller, id, fencingToken);
    const holding = this.pool.holding(lease.id);
    if ([...limits].some(([device, bytes]) => bytes > (holding.get(device)?.limitBytes ?? 0))) {
      this.assertLending();
      this.checkHostBytes(caller, limits, lease.id);
    }
    this.attachments.get(lease.id);
    this.pool.resize(lease.id, limits);
    this.changed();
  }

  renew(caller: Caller, id: string, fencingToken: bigint): RenewOutcome {
    const outcome = this.table.renew(caller, id, fencingToken, this.clock.nowMs());
    // What a dead executor held is gone: the next renewal tells its owner.
    if (outcome.t === 'ok' && this.attachments.hasFailed(outcome.lease.id)) return { t: 'expired' };
    if (outcome.t === 'ok' && outcome.adopted) {
      this.log.info(
        { event: 'lease_adopted', lease: id, session: caller.sessionId },
        'a session took over a lease',
      );
      this.changed();
    }
    return outcome;
  }

  /** Frees everything a lease holds, at once. Returns how many bytes. */
  async release(caller: Caller, id: string, fencingToken: bigint): Promise<number> {
    const lease = this.authorize(caller, id, fencingToken);
    this.table.remove(lease.id);
    const freedBytes = await this.attachments.end(lease.id);
    this.log.info({ event: 'lease_released', lease: lease.id, freedBytes }, 'a lease was released');
    return freedBytes;
  }

  authorize(caller: Caller, id: string, fencingToken: bigint): Lease {
    return this.table.authorize(caller, id, fencingToken, this.clock.nowMs());
  }

  allocate(
    lease: Lease,
    range: { device: DeviceKey; offset: number; length: number },
    signal: AbortSignal,
  ): Promise<number> {
    if (this.stopping) this.assertLending();
    return this.attachments.allocate(lease, range.device, range.offset, range.length, signal);
  }

  /** A connection has ended: the TTL of its leases starts. */
  onSessionEnd(sessionId: SessionId): void {
    for (const { id } of this.table.orphan(sessionId, this.clock.nowMs())) {
      const { leaseTtlMs } = this;
      this.log.warn(
        { event: 'lease_orphaned', lease: id, leaseTtlMs },
        'its session has ended; the TTL runs',
      );
    }
    this.changed();
  }

  leaseFacts(): LeaseFacts[] {
    const nowMs = this.clock.nowMs();
    return this.table.all().map((lease) => {
      const holding = this.pool.holding(lease.id);
      let usedBytes = 0;
      for (const held of holding.values()) usedBytes += held.usedBytes;
      return {
        lease,
        limits: new Map([...holding].map(([device, { limitBytes }]) => [device, limitBytes])),
        usedBytes,
        ttlRemainingMs: Math.max(0, Math.round(lease.state.deadlineMs - nowMs)),
        adopted: lease.state.t === 'adopted',
        ...this.attachments.trafficOf(lease.id),
      };
    });
  }

  /** No new leases and no larger ones, until resume. With `drain` hosts are asked to move away what
   *  they hold.
   *  @throws GbError WRONG_STATE when stopping. */
  pause(drain: boolean): void {
    this.assertNotStopping();
    const [cause, sinceUnixMs] = [PauseCause.OWNER, this.clock.unixMs()];
    this.hold({ cause, drain, sinceUnixMs, text: 'by its owner, until "greenboost feed resume"' });
  }

  /** Takes back what pause said; its rules may still hold it. @throws GbError WRONG_STATE when stopping. */
  resume(): void {
    this.assertNotStopping();
    this.lift(PauseCause.OWNER);
  }

  /** Lends nothing new while `pause` holds. */
  hold(pause: Pause): void {
    if (!this.held.hold(pause)) return;
    const { cause, drain, text } = pause;
    this.log.info(
      { event: 'feeder_paused', by: CAUSE_WORDS[cause], drain, why: text },
      'lends nothing new',
    );
    this.hub.flush();
  }

  /** That reason is over. */
  lift(cause: PauseCause): void {
    if (!this.held.lift(cause)) return;
    const state = this.held.state === FeederState.LENDING ? 'lends again' : 'is still held';
    this.log.info({ event: 'feeder_resumed', by: CAUSE_WORDS[cause] }, state);
    this.hub.flush();
  }

  /** No new leases and allocations; waits until hosts gave theirs back, at most `graceMs`. */
  async drain(graceMs: number): Promise<void> {
    this.stopping = true;
    this.hub.flush();
    if (this.table.size === 0 || graceMs <= 0) return;
    await new Promise<void>((resolve) => {
      const timer = this.clock.after(graceMs, resolve);
      this.onEmpty = () => {
        timer.cancel();
        resolve();
      };
    });
    this.onEmpty = undefined;
  }

  /** Whoever waits in drain waits no longer. */
  endGrace(): void {
    this.onEmpty?.();
  }

  /** Ends every lease: executors scrub and go. */
  async stop(): Promise<void> {
    this.stopping = true;
    this.sweep.cancel();
    for (const lease of this.table.all()) this.table.remove(lease.id);
    await Promise.allSettled(this.opening);
    await this.attachments.stop();
  }

  private changed(): void {
    this.hub.changed();
    if (this.table.size === 0) this.endGrace();
  }

  private expire(): void {
    for (const { id } of this.table.expire(this.clock.nowMs())) void this.endExpired(id);
  }

  private async endExpired(id: LeaseId): Promise<void> {
    const freedBytes = await this.attachments.end(id);
    this.log.warn(
      { event: 'lease_expired', lease: id, freedBytes },
      'nobody renewed a lease; it was freed',
    );
  }

  private assertLending(): void {
    this.assertNotStopping();
    if (this.state !== FeederState.LENDING) throw new GbError('WRONG_STATE', this.held.reason);
  }

  private assertNotStopping(): void {
    if (this.stopping)
      throw new GbError('WRONG_STATE', 'the feeder is stopping; it lends nothing new');
  }

  /** `except`: the lease whose limits are replaced. @throws GbError CAPACITY_EXHAUSTED. */
  private checkHostBytes(caller: Caller, limits: DeviceBytes, except: LeaseId | undefined): void {
    const { hostBytesMax } = this.settings;
    if (hostBytesMax === undefined) return;
    let promised = 0;
    for (const { id, hostId } of this.table.all()) {
      if (hostId !== caller.hostId || id === except) continue;
      for (const { limitBytes } of this.pool.holding(id).values()) promised += limitBytes;
    }
    const wanted = [...limits.values()].reduce((sum, bytes) => sum + bytes, 0);
    if (promised + wanted <= hostBytesMax) return;
    throw new GbError(
      'CAPACITY_EXHAUSTED',
      `this feeder lends a host at most ${formatBytes(hostBytesMax)}, ${formatBytes(promised)} are promised already`,
      { details: { hostBytesMax, promisedBytes: promised, wantedBytes: wanted } },
    );
  }
}

function checkArena({ arenaBase, arenaBytes }: LeaseRequest): void {
  const align = BigInt(RANGE_ALIGN_BYTES);
  const aligned = arenaBase % align === 0n && arenaBytes % align === 0n;
  const sized = arenaBytes > 0n && arenaBytes <= ARENA_BYTES_MAX;
  if (
    !aligned ||
    !sized ||
    arenaBase < ARENA_WINDOW_BASE ||
    arenaBase + arenaBytes > ARENA_WINDOW_END
  ) {
    throw new GbError(
      'INVALID_ARGUMENT',
      `the arena must be aligned to ${RANGE_ALIGN_BYTES} bytes, at most ${ARENA_BYTES_MAX} bytes, and lie between ` +
        `0x${ARENA_WINDOW_BASE.toString(16)} and 0x${ARENA_WINDOW_END.toString(16)}`,
    );
  }
}
