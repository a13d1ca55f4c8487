// SPDX-License-Identifier: Apache-2.0
// One program under the shim: its arena, where its ranges lie on feeders, what it was granted, and
// the moves of its bytes. Outlives its socket; knows no frames (host/shim) and no connections
// (host/links).
import { GbError } from '../../proto/base/errors.js';
import type { FeederCalls, LeaseFacts } from '../links/feeder-client.js';
import {
  rangeEnd,
  Residency,
  type ByteRange,
  type Extent,
  type Segment,
} from '../placement/residency.js';
import { RANGE_ALIGN, type Report } from '../shim/abi.js';
import {
  FeederBudget,
  isOf,
  isVram,
  type DeviceHold,
  type FeederDirectory,
  type Hold,
} from './feeder-budget.js';
import type { AttachmentFacts, ShimPeer } from './facts.js';
import {
  discardOf,
  extentKey,
  extentsOf,
  holdLimit,
  isDiscarded,
  isSame,
  lossOf,
  mergeRanges,
  splitSegments,
  wholeSegment,
  withFeeder,
  type Discard,
} from './pieces.js';
import { RangeQueue } from './range-queue.js';
import type { Staging } from './staging.js';

/** One copy between feeders passes through the agent in pieces of this size. */
const COPY_BYTES = 8 * 2 ** 20;

/** A feeder that cannot be asked now is asked at adoption. */
const AWAY: ReadonlySet<string> = new Set([
  'FEEDER_UNREACHABLE',
  'CANCELED',
  'DEADLINE_EXCEEDED',
  'DATA_LOSS',
]);

export interface AttachmentDeps {
  readonly directory: FeederDirectory;
  readonly persist: () => Promise<void>;
  /** Bytes of this attachment are gone. */
  readonly onLost: (attachment: Attachment, range: ByteRange, feederName: string) => void;
}

export interface Placed {
  readonly deviceKey: string;
  readonly feederName: string;
}

export interface Transfer extends ByteRange {
  readonly stagingOffset: number;
}

type Direction = 'store' | 'fetch';

export class Attachment {
  readonly residency = new Residency();
  readonly budget: FeederBudget;
  /** The connected session; undefined while the socket is broken. */
  peer: ShimPeer | undefined;
  staging: Staging | undefined;
  report: Report | undefined;
  /** Most bytes ever placed on feeders, by kind. */
  readonly peaks = { vramBytes: 0, ramBytes: 0 };
  /** Ranges that feeders may still hold and that are not ours any more. Kept on disk: a later agent
   *  must free them, not take them for the program's bytes. */
  readonly discards: Discard[] = [];
  /** Granted by GRANT; accounting only: T3 is a file of the program's own. */
  t1HeldBytes = 0;
  t3HeldBytes = 0;
  /** The agent knows less than the program: what it cannot find was lost with an earlier agent. */
  forgetful = false;
  private readonly queue = new RangeQueue();
  private readonly ended = new AbortController();

  constructor(
    public facts: AttachmentFacts,
    private readonly deps: AttachmentDeps,
  ) {
    this.budget = new FeederBudget(
      { facts: () => this.facts, persist: deps.persist },
      deps.directory,
    );
  }

  get id(): string {
    return this.facts.attachmentId;
  }

  /** Allocates room for the range where it was granted. The same range again is answered alike.
   *  @throws GbError CAPACITY_EXHAUSTED, FEEDER_UNREACHABLE, INVALID_ARGUMENT. */
  place(range: ByteRange): Promise<Placed> {
    this.checkRange(range);
    return this.queue.run(range, async () => {
      if (this.residency.within(range).length > 0) return this.placedAlready(range);
      const parts = this.budget.reserve(range.length);
      const extents = extentsOf(range.offset, parts);
      await this.allocate(extents);
      extents.forEach((extent) => this.residency.insert(extent));
      this.notePeaks();
      const first = extents[0] as Extent;
      return { deviceKey: first.deviceKey, feederName: first.feederName };
    });
  }

  /** Staging to feeders. @throws GbError NOT_FOUND, DATA_LOSS, FEEDER_UNREACHABLE,
   *  INVALID_ARGUMENT. */
  store(transfer: Transfer): Promise<void> {
    return this.queue.run(transfer, () => this.transfer('store', transfer));
  }

  /** Feeders to staging. @throws as store. */
  fetch(transfer: Transfer): Promise<void> {
    return this.queue.run(transfer, () => this.transfer('fetch', transfer));
  }

  /** Frees the whole extents of the range. Feeders that are away free theirs at adoption.
   *  @throws GbError NOT_FOUND, INVALID_ARGUMENT. */
  drop(range: ByteRange): Promise<void> {
    this.checkRange(range);
    return this.queue.run(range, async () => {
      const extents = this.orUnknown(() => this.residency.wholeExtents(range));
      for (const extent of extents) await this.freeExtent(extent);
    });
  }

  /** Leases of a feeder are gone: tells the program exactly which ranges went with them. */
  loseLease(hold: Hold): void {
    if (hold.state === 'lost') return;
    hold.state = 'lost';
    const lost = this.residency.lose((extent) => isOf(extent, hold));
    for (const range of mergeRanges(lost)) {
      this.peer?.lost(range, hold.feederName);
      this.deps.onLost(this, range, hold.feederName);
    }
  }

  /** Leases of an earlier agent whose feeder did not come back in time. */
  loseUnadopted(): void {
    for (const hold of this.budget.holds) {
      if (hold.state !== 'unadopted') continue;
      this.forgetful = true;
      this.loseLease(hold);
    }
  }

  loseFeeder(feederId: string): void {
    for (const hold of this.budget.holds) if (hold.feederId === feederId) this.loseLease(hold);
  }

  /** Brings our account and the feeder's to one after a reconnect. What only the feeder has is
   *  freed there (or, after a restart of the agent, taken over); what only we have is lost. */
  async reconcile(hold: Hold, client: FeederCalls): Promise<void> {
    const facts = await client.stat(hold);
    if (hold.state === 'unadopted') {
      await this.takeOver(hold, facts, client);
      this.forgetDiscards(hold);
      return;
    }
    const wanted = new Set(facts.ranges.map(extentKey));
    for (const range of facts.ranges) {
      const known = this.residency.within(range).some((extent) => isSame(extent, range, hold));
      if (!known) await client.free(hold, range.deviceKey, range.offset, range.length);
    }
    const missing = this.residency.lose((e) => isOf(e, hold) && !wanted.has(extentKey(e)));
    for (const range of mergeRanges(missing)) {
      this.peer?.lost(range, hold.feederName);
      this.deps.onLost(this, range, hold.feederName);
    }
    const differs = [...hold.devices].some(
      ([key, { limitBytes }]) => (facts.limits.get(key) ?? 0) !== limitBytes,
    );
    if (differs) {
      await client.resize(
        hold,
        new Map([...hold.devices].map(([key, { limitBytes }]) => [key, limitBytes])),
      );
    }
    this.forgetDiscards(hold);
  }

  /** Moves everything a feeder holds for this attachment to others that have room. Returns the
   *  bytes moved.
   *  @throws GbError WRONG_STATE when there is not enough room elsewhere; what was moved stays
   *  moved. */
  async evacuate(feederId: string): Promise<number> {
    // The feeder takes no new ranges any more; those under way land first.
    await this.queue.settled();
    const holds = this.budget.holds.filter(
      (hold) => hold.feederId === feederId && hold.state === 'held',
    );
    const limitBytes = holds.reduce((sum, hold) => sum + holdLimit(hold), 0);
    if (limitBytes === 0) return 0;
    if (!(await this.budget.grow(limitBytes, feederId))) {
      throw new GbError(
        'WRONG_STATE',
        `no other feeder has room for ${limitBytes} bytes of pid ${this.facts.identity.pid}`,
      );
    }
    let movedBytes = 0;
    for (const extent of this.residency.all.filter((e) => e.feederId === feederId && !e.lost)) {
      movedBytes += await this.queue.run(extent, () => this.moveExtent(extent, feederId));
    }
    await this.budget.releaseFeeder(feederId);
    return movedBytes;
  }

  /** The program is gone. Ends transfers and leases. */
  async end(): Promise<void> {
    this.ended.abort(new GbError('CANCELED', 'the program has ended'));
    this.peer?.close('the program has ended');
    await this.queue.idle();
    await this.staging?.close();
    this.staging = undefined;
    await this.budget.releaseAll();
  }

  /** Bytes placed now, by kind of device. */
  get placedBytes(): { vramBytes: number; ramBytes: number } {
    const placed = { vramBytes: 0, ramBytes: 0 };
    for (const { deviceKey, length, lost } of this.residency.all) {
      if (lost) continue;
      if (isVram(deviceKey)) placed.vramBytes += length;
      else placed.ramBytes += length;
    }
    return placed;
  }

  private notePeaks(): void {
    const placed = this.placedBytes;
    this.peaks.vramBytes = Math.max(this.peaks.vramBytes, placed.vramBytes);
    this.peaks.ramBytes = Math.max(this.peaks.ramBytes, placed.ramBytes);
  }

  private placedAlready(range: ByteRange): Placed {
    const extents = this.residency.wholeExtents(range);
    if (extents.some(({ lost }) => lost)) throw lossOf(extents.find(({ lost }) => lost) as Extent);
    this.residency.cover(range);
    const first = extents[0] as Extent;
    return { deviceKey: first.deviceKey, feederName: first.feederName };
  }

  /** pre: room is reserved. On failure nothing stays reserved or, as far as it can be said, there. */
  private async allocate(extents: readonly Extent[]): Promise<void> {
    const tried: Extent[] = [];
    try {
      for (const extent of extents) {
        tried.push(extent);
        const { deviceKey, offset, length } = extent;
        await this.onLease(this.liveHold(extent), (client, hold) =>
          client.allocate(hold, deviceKey, offset, length),
        );
      }
    } catch (reason) {
      for (const extent of tried) await this.freeOrDiscard(extent);
      this.unreserve(extents);
      throw reason;
    }
  }

  private unreserve(extents: readonly Extent[]): void {
    for (const extent of extents) {
      const hold = this.budget.holdOf(extent);
      if (hold) this.budget.unreserve({ hold, deviceKey: extent.deviceKey, bytes: extent.length });
    }
  }

  private liveHold(extent: Extent): Hold {
    const hold = this.budget.holdOf(extent);
    if (!hold) throw lossOf(extent);
    return hold;
  }

  private async freeExtent(extent: Extent): Promise<void> {
    if (!extent.lost) await this.freeOrDiscard(extent);
    // A lease lost meanwhile has replaced the extent by its lost twin.
    const now = this.residency.within(extent).find((other) => other.offset === extent.offset);
    if (!now) return;
    this.residency.remove(now);
    this.unreserve([now]);
  }

  /** Frees a range on its feeder; one that cannot be asked now is told when it is back. */
  private async freeOrDiscard(extent: Extent): Promise<void> {
    const hold = this.budget.holdOf(extent);
    if (!hold || hold.state === 'lost') return;
    const { deviceKey, offset, length } = extent;
    try {
      await this.onLease(hold, (client) => client.free(hold, deviceKey, offset, length));
    } catch (reason) {
      const { code } = GbError.from(reason);
      if (code === 'NOT_FOUND' || code === 'DATA_LOSS') return;
      if (!AWAY.has(code)) throw reason;
      this.discards.push(discardOf(extent));
      await this.deps.persist();
    }
  }

  private forgetDiscards(hold: Hold): void {
    const kept = this.discards.filter((discard) => !isOf(discard, hold));
    this.discards.splice(0, this.discards.length, ...kept);
  }

  private async transfer(direction: Direction, transfer: Transfer): Promise<void> {
    const staging = this.staging;
    if (!staging) throw new GbError('WRONG_STATE', 'the program is not connected');
    if (transfer.length <= 0 || rangeEnd(transfer) > this.facts.arenaBytes) {
      throw new GbError('INVALID_ARGUMENT', 'the transfer lies outside the arena');
    }
    staging.check(transfer.stagingOffset, transfer.length);
    const segments = this.orUnknown(() => this.residency.cover(transfer));
    const lost = segments.find(({ extent }) => extent.lost);
    if (lost) throw lossOf(lost.extent);
    const failed = new AbortController();
    const signal = AbortSignal.any([this.ended.signal, failed.signal]);
    const delta = transfer.stagingOffset - transfer.offset;
    const moves = splitSegments(segments).map((segment) =>
      this.move(direction, segment, staging, segment.offset + delta, signal).catch(
        (reason: unknown) => {
          failed.abort(reason);
          throw reason;
        },
      ),
    );
    const failures = (await Promise.allSettled(moves)).filter(
      (result) => result.status === 'rejected',
    );
    const first =
      failures.find(({ reason }) => GbError.from(reason).code !== 'CANCELED') ?? failures[0];
    if (first) throw first.reason;
  }

  private async move(
    direction: Direction,
    segment: Segment,
    staging: Staging,
    stagingOffset: number,
    signal: AbortSignal,
  ): Promise<void> {
    const hold = this.budget.holdOf(segment.extent);
    if (!hold) throw lossOf(segment.extent);
    await this.onLease(hold, (client) =>
      direction === 'store'
        ? client.write(
            hold,
            segment,
            (at, frame) => staging.read(stagingOffset + at, frame),
            signal,
          )
        : client.read(
            hold,
            segment,
            (at, frame) => staging.write(stagingOffset + at, frame),
            signal,
          ),
    );
  }

  /** At every moment the state file names the copy that a later agent has to discard. */
  private async moveExtent(extent: Extent, feederId: string): Promise<number> {
    if (!this.residency.all.includes(extent)) return 0;
    const source = this.liveHold(extent);
    const targets = extentsOf(extent.offset, this.budget.reserve(extent.length, feederId));
    this.discards.push(...targets.map(discardOf));
    await this.deps.persist();
    await this.allocate(targets).catch((reason: unknown) => {
      this.removeDiscards(targets);
      throw reason;
    });
    try {
      for (const piece of splitSegments(targets.map(wholeSegment), COPY_BYTES)) {
        await this.copyPiece(source, piece);
      }
      if (!this.residency.all.includes(extent)) throw lossOf(extent);
      this.removeDiscards(targets);
      this.discards.push(discardOf(extent));
      await this.deps.persist();
    } catch (reason) {
      this.removeDiscards([...targets, extent]);
      for (const target of targets) await this.freeOrDiscard(target);
      this.unreserve(targets);
      throw reason;
    }
    await this.freeExtent(extent);
    this.removeDiscards([extent]);
    targets.forEach((target) => this.residency.insert(target));
    return extent.length;
  }

  private removeDiscards(extents: readonly Extent[]): void {
    for (const extent of extents) {
      const index = this.discards.findIndex((discard) => isDiscarded(discard, extent));
      if (index >= 0) this.discards.splice(index, 1);
    }
  }

  private async copyPiece(source: Hold, piece: Segment): Promise<void> {
    const target = this.budget.holdOf(piece.extent) as Hold;
    const buffer = Buffer.allocUnsafe(piece.length);
    const { signal } = this.ended;
    await this.onLease(source, (client) =>
      client.read(source, piece, async (at, frame) => void buffer.set(frame, at), signal),
    );
    await this.onLease(target, (client) =>
      client.write(
        target,
        piece,
        async (at, frame) => void buffer.copy(frame, 0, at, at + frame.length),
        signal,
      ),
    );
  }

  /** A call for a lease; when the feeder does not know the lease any more, its bytes are gone. */
  private async onLease<T>(
    hold: Hold,
    call: (client: FeederCalls, hold: Hold) => Promise<T>,
  ): Promise<T> {
    if (hold.state === 'lost') throw lossOf(hold);
    if (hold.state === 'unadopted')
      throw new GbError('FEEDER_UNREACHABLE', `feeder ${hold.feederName} is not back yet`);
    try {
      return await call(this.deps.directory.client(hold.feederId), hold);
    } catch (reason) {
      const error = GbError.from(reason);
      if (error.code === 'LEASE_EXPIRED') {
        this.loseLease(hold);
        throw lossOf(hold);
      }
      throw withFeeder(error, hold.feederName);
    }
  }

  /** What an earlier agent left on the feeder becomes ours; what it had given up, and what another
   *  feeder holds already, is freed. */
  private async takeOver(hold: Hold, facts: LeaseFacts, client: FeederCalls): Promise<void> {
    const { feederId, feederName, leaseId } = hold;
    const extents = facts.ranges.map(({ deviceKey, offset, length }) => {
      if (!facts.limits.has(deviceKey) || offset + length > this.facts.arenaBytes || length === 0) {
        throw new GbError('PROTOCOL_VIOLATION', 'the feeder names a range that cannot be');
      }
      return { offset, length, feederId, feederName, deviceKey, leaseId, lost: false };
    });
    // An attempt that broke off has left a part.
    for (const extent of this.residency.all.filter((other) => isOf(other, hold))) {
      this.residency.remove(extent);
    }
    hold.devices.clear();
    for (const [key, limitBytes] of facts.limits) {
      hold.devices.set(key, { limitBytes, usedBytes: 0 });
    }
    for (const extent of extents) {
      const given = this.discards.some((discard) => isDiscarded(discard, extent));
      if (given || this.residency.within(extent).length > 0) {
        await client.free(hold, extent.deviceKey, extent.offset, extent.length);
        continue;
      }
      this.residency.insert(extent);
      (hold.devices.get(extent.deviceKey) as DeviceHold).usedBytes += extent.length;
    }
    hold.state = 'held';
    this.notePeaks();
  }

  private orUnknown<T>(look: () => T): T {
    try {
      return look();
    } catch (reason) {
      if (GbError.from(reason).code !== 'NOT_FOUND') throw reason;
      if (this.budget.holds.some(({ state }) => state === 'unadopted')) {
        throw new GbError('FEEDER_UNREACHABLE', 'a feeder that may hold the range is not back yet');
      }
      if (this.forgetful)
        throw new GbError('DATA_LOSS', 'the range was lost with an earlier agent');
      throw reason;
    }
  }

  private checkRange(range: ByteRange): void {
    const { offset, length } = range;
    const whole = offset % RANGE_ALIGN === 0 && length % RANGE_ALIGN === 0 && length > 0;
    if (!whole || rangeEnd(range) > this.facts.arenaBytes) {
      throw new GbError('INVALID_ARGUMENT', `no such range of the arena: ${offset} + ${length}`);
    }
  }
}
