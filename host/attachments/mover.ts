// SPDX-License-Identifier: Apache-2.0
// Moves one copy of a range to another feeder under a running program: allocate at the target, BEGIN,
// the target pulls, COMMIT. The program decides whether it was written to meanwhile; until it has
// answered COMMIT nobody knows which copy counts, and both stay. At every moment the state file names
// what a later agent has to discard, or to ask the program about.
import { randomBytes } from 'node:crypto';
import { sleep, type Clock } from '../../proto/base/clock.js';
import { GbError } from '../../proto/base/errors.js';
import {
  MOVE_ATTEMPTS_MAX,
  MOVE_PAUSE_MS_MAX,
  MOVE_PAUSE_MS_MIN,
} from '../../proto/base/limits.js';
import { LaneRight } from '../../proto/gen/greenboost/v1/feeder_pb.js';
import type { LaneTicket } from '../links/feeder-client.js';
import { overlaps, type ByteRange, type Copy, type Extent } from '../placement/residency.js';
import type { Copies } from './copies.js';
import type { MoveOutcomeName, MoveWish, ShimPeer } from './facts.js';
import type { FeederBudget } from './feeder-budget.js';
import { isVram, type FeederDirectory, type Hold, type Reservation } from './holds.js';
import { discardOf, extentsOf } from './pieces.js';
import { takeFree } from './rooms.js';

/** A move whose COMMIT the program was asked for and has not answered. */
export interface Undecided {
  readonly wish: MoveWish;
  /** undefined after a restart of the agent until its feeder is back. */
  to: Copy | undefined;
}

export interface MoverDeps {
  readonly clock: Clock;
  readonly budget: FeederBudget;
  readonly copies: Copies;
  readonly directory: FeederDirectory;
  /** The connected program; waits for it. Cancel: `signal`. */
  readonly peer: (signal: AbortSignal) => Promise<ShimPeer>;
  readonly persist: () => Promise<void>;
  /** The program's bytes went to a feeder that is gone. */
  readonly onGone: (range: ByteRange, feederName: string) => void;
}

export interface MoveOptions {
  readonly signal: AbortSignal;
  /** Bytes pulled more; a repeated pull counts again. */
  readonly onBytes: (bytes: number) => void;
  /** The lease that it moves to; undefined: whoever has room. */
  readonly to?: Hold;
}

interface Running extends ByteRange {
  readonly controller: AbortController;
  /** Where it goes, once that is known. */
  readonly targets: Set<Copy>;
  done: Promise<unknown>;
}

const PULL_CONNECTIONS = 1;

export class Mover {
  readonly undecided: Undecided[] = [];
  private readonly running = new Set<Running>();
  /** Whose program is being asked, until the answer is carried out. One question at a time each. */
  private readonly asking = new Map<Undecided, Promise<unknown>>();
  /** Whose answer is being carried out: not undecided any more, and not yet true of the residency. */
  private readonly settling = new Map<Undecided, Promise<void>>();
  /** Targets with room that was granted to the program before: what the source had is then free in its lease. */
  private readonly granted = new WeakSet<Copy>();
  private serial = 0n;

  constructor(private readonly deps: MoverDeps) {}

  /** Moves one copy of an extent elsewhere; its bytes come from that copy or, when it is lost, from
   *  the other one. Returns the bytes moved. What was moved of it before a failure stays moved.
   *  @throws GbError CAPACITY_EXHAUSTED when no other feeder has room; WRONG_STATE when the program
   *  writes to it all the time; NOT_FOUND when the program has dropped it. Cancel: `signal`. */
  move(extent: Extent, from: Copy, options: MoveOptions): Promise<number> {
    const controller = new AbortController();
    const signal = AbortSignal.any([options.signal, controller.signal]);
    const { offset, length } = extent;
    const entry: Running = {
      offset,
      length,
      controller,
      targets: new Set(),
      done: Promise.resolve(),
    };
    const done = this.moveExtent(extent, from, { ...options, signal }, entry.targets);
    entry.done = done;
    this.running.add(entry);
    return done.finally(() => this.running.delete(entry));
  }

  /** Ends every move of these bytes: they are about to be freed. Resolves when none is left. */
  async abandon(range: ByteRange): Promise<void> {
    const hits = [...this.running].filter((entry) => overlaps(entry, range));
    for (const { controller } of hits)
      controller.abort(new GbError('NOT_FOUND', 'the program has dropped the range'));
    await Promise.allSettled(hits.map(({ done }) => done));
    for (const entry of this.undecided.filter(({ wish }) => overlaps(wish, range)))
      await this.settle(entry, false);
    await Promise.allSettled(under(this.settling, range));
  }

  /** Resolves when no move is under way. pre: their signals are aborted. */
  async stop(): Promise<void> {
    await Promise.allSettled([...this.running].map(({ done }) => done));
  }

  /** Asks the program about every move it has not answered, as far as it is known what became of
   *  both leases. */
  async decide(signal: AbortSignal): Promise<void> {
    for (const entry of [...this.undecided]) {
      const { fromLane, toLane } = entry.wish;
      const waits = this.deps.budget.holds.some(
        ({ lane, state }) => state === 'unadopted' && (lane === fromLane || lane === toLane),
      );
      const free = !this.asking.has(entry) && !this.isRunning(entry);
      if (!waits && free && this.undecided.includes(entry)) await this.ask(entry, signal);
    }
  }

  /** After a restart: the copies of undecided moves, as their feeders come back. */
  claims(copy: Copy): boolean {
    const entry = this.undecided.find(
      ({ wish, to }) =>
        !to &&
        wish.toLane === copy.lane &&
        wish.offset === copy.offset &&
        wish.length === copy.length,
    );
    if (entry) entry.to = copy;
    return entry !== undefined;
  }

  /** Whoever began it still sees to it. */
  private isRunning({ to }: Undecided): boolean {
    return to !== undefined && [...this.running].some(({ targets }) => targets.has(to));
  }

  private async moveExtent(
    extent: Extent,
    from: Copy,
    options: MoveOptions,
    underWay: Set<Copy>,
  ): Promise<number> {
    const { budget, copies } = this.deps;
    await this.decideUnder(extent, options.signal);
    if (!copies.residency.all.includes(extent)) return 0;
    const source = from.lost ? extent.copies.find(({ lost }) => !lost) : from;
    if (!source) throw new GbError('DATA_LOSS', 'no copy of the range is left');
    // A feeder that has any of these bytes already cannot take them a second time.
    const exclude = new Set(copies.under(extent).map(({ feederId }) => feederId));
    const room = options.to
      ? await this.roomOn(options.to, extent, exclude)
      : await budget.lease(extent.length, exclude).then((places) => ({ places, leased: true }));
    const { places } = room ?? {};
    if (!room || !places)
      throw new GbError(
        'CAPACITY_EXHAUSTED',
        `no other feeder has room for ${extent.length} bytes`,
      );
    const targets = this.targetsOf(extent, places);
    if (!room.leased) for (const target of targets) this.granted.add(target);
    targets.forEach((target) => underWay.add(target));
    copies.expect(targets);
    const moved = new Set<Copy>();
    try {
      await this.deps.persist();
      await copies.allocate(targets).catch(async (reason: unknown) => {
        for (const target of targets.splice(0)) await this.lower(target, target);
        throw reason;
      });
      for (const target of targets) {
        await this.movePiece({ from, source, target }, options);
        moved.add(target);
      }
    } catch (reason) {
      for (const target of targets) if (!moved.has(target)) await this.giveUp(target);
      throw reason;
    }
    return extent.length;
  }

  private targetsOf(extent: ByteRange, places: readonly Reservation[]): Copy[] {
    const rooms = places.map((place) => ({ bytes: place.bytes, places: [place] }));
    return extentsOf(extent.offset, rooms).map(({ copies }) => copies[0] as Copy);
  }

  /** Frees a target and its lease, unless the program may be using it already. */
  private async giveUp(target: Copy): Promise<void> {
    if (this.undecided.some(({ to }) => to === target)) return;
    await this.deps.copies.abandon(target);
    await this.lower(target, target);
  }

  /** Gives up what was leased for a move, where `copy` was, unless `target` has taken room that was granted before. */
  private async lower(target: Copy, copy: Copy): Promise<void> {
    const { budget } = this.deps;
    const hold = budget.holdOf(copy);
    if (!this.granted.delete(target) && hold) await budget.lower(hold, copy.deviceKey, copy.length);
  }

  /** Room on one lease, on its GPU if that can be: what it has free, else leased beyond. */
  private async roomOn(
    hold: Hold,
    extent: Extent,
    exclude: ReadonlySet<string>,
  ): Promise<{ places: Reservation[]; leased: boolean } | undefined> {
    const { budget, directory } = this.deps;
    const keys = directory.computeOf(hold.feederId)?.deviceKeys ?? [];
    const ordered = [...keys.filter(isVram), ...keys.filter((key) => !isVram(key))];
    if (exclude.has(hold.feederId)) return undefined;
    const own = takeFree(hold, ordered, extent.length);
    if (own) return { places: [own], leased: false };
    const beyond = await budget.leaseOn(hold, ordered, extent.length);
    return beyond && { places: [beyond], leased: true };
  }

  private async movePiece(
    piece: { from: Copy; source: Copy; target: Copy },
    { signal, onBytes }: MoveOptions,
  ): Promise<void> {
    const { from, source, target } = piece;
    const { offset, length } = target;
    let unknownCount = 0;
    for (let attempt = 0; attempt < MOVE_ATTEMPTS_MAX; attempt++) {
      await this.pause(attempt, signal);
      const wish: MoveWish = {
        offset,
        length,
        sequence: this.nextSequence(),
        fromLane: from.lane,
        toLane: target.lane,
        sourceLane: source.lane,
      };
      const outcome = await this.attempt({ wish, to: target }, source, { signal, onBytes });
      if (outcome === 'ok') return;
      // Once is a program that has connected again in between.
      if (outcome === 'unknown' && ++unknownCount > 1)
        throw new GbError('NOT_FOUND', 'the program knows no such range');
    }
    throw new GbError('WRONG_STATE', 'the program writes to the range all the time');
  }

  private async attempt(
    entry: { readonly wish: MoveWish; readonly to: Copy },
    source: Copy,
    { signal, onBytes }: MoveOptions,
  ): Promise<MoveOutcomeName> {
    const { wish, to } = entry;
    const peer = await this.deps.peer(signal);
    try {
      const begun = await until(peer.move(wish, 'begin'), signal);
      if (begun !== 'ok') return begun;
      await this.pull(wish, source, to, { signal, onBytes });
    } catch (reason) {
      peer.cancelMove(wish);
      throw reason;
    }
    // From now on the program decides.
    this.undecided.push(entry);
    this.deps.copies.undiscard(discardOf(to, to));
    await this.deps.persist();
    return this.ask(entry, signal);
  }

  /** Resolves when no earlier move of these bytes is open: one that was given up while the program was
   *  asked is decided, and what was decided is carried out. @throws as ask. Cancel: `signal`. */
  private async decideUnder(range: ByteRange, signal: AbortSignal): Promise<void> {
    for (;;) {
      const busy = [...under(this.asking, range), ...under(this.settling, range)];
      const entry = this.undecided.find(({ wish }) => overlaps(wish, range));
      if (busy.length > 0) await until(Promise.allSettled(busy), signal);
      else if (entry) await this.ask(entry, signal);
      else return;
    }
  }

  /** Whether the program uses the new copy; asked again until it says so, which it does alike. When
   *  it cannot be asked the move stays undecided, until `decide`. pre: it is not being asked. */
  private ask(entry: Undecided, signal: AbortSignal): Promise<MoveOutcomeName> {
    const asked = this.askNow(entry, signal).finally(() => this.asking.delete(entry));
    this.asking.set(entry, asked);
    return asked;
  }

  private async askNow(entry: Undecided, signal: AbortSignal): Promise<MoveOutcomeName> {
    const peer = await this.deps.peer(signal);
    const answer = await until(peer.move(entry.wish, 'commit'), signal);
    const switched = answer === 'unknown' && (await this.hasSwitched(peer, entry.wish, signal));
    const outcome = switched ? 'ok' : answer;
    if (this.undecided.includes(entry)) await this.settle(entry, outcome === 'ok');
    return outcome;
  }

  /** A program remembers so many moves; whether an older one was carried out shows in its extents:
   *  only what lies behind the new lane could be moved back. */
  private async hasSwitched(peer: ShimPeer, wish: MoveWish, signal: AbortSignal): Promise<boolean> {
    const sequence = this.nextSequence();
    const { fromLane, toLane } = wish;
    const back = { ...wish, sequence, fromLane: toLane, toLane: fromLane, sourceLane: toLane };
    const outcome = await until(peer.move(back, 'begin'), signal);
    peer.cancelMove(back);
    return outcome === 'ok';
  }

  /** The program has said which copy counts; the other one is given up, on disk first. */
  private settle(entry: Undecided, committed: boolean): Promise<void> {
    this.undecided.splice(this.undecided.indexOf(entry), 1);
    const settled = this.settleNow(entry, committed).finally(() => this.settling.delete(entry));
    this.settling.set(entry, settled);
    return settled;
  }

  private async settleNow(entry: Undecided, committed: boolean): Promise<void> {
    const { wish, to } = entry;
    const { copies, persist } = this.deps;
    if (!committed) {
      if (to) copies.discard(discardOf(to, to));
      await persist();
      if (to && !this.isRunning(entry)) await this.giveUp(to);
      return;
    }
    const target = to ?? this.lostTarget(wish);
    const from = copies.residency
      .within(wish)
      .flatMap((extent) => extent.copies)
      .find(({ lane }) => lane === wish.fromLane);
    if (from) {
      if (!from.lost) copies.discard(discardOf(from, wish));
      await persist();
      await this.replace(wish, from, target);
    } else {
      // The source went with an earlier agent.
      copies.residency.add(wish, target);
      await persist();
    }
    if (target.lost) this.deps.onGone(wish, target.feederName);
  }

  private async replace(wish: MoveWish, from: Copy, to: Copy): Promise<void> {
    const { copies } = this.deps;
    await copies.swap(wish, from, to);
    if (!copies.residency.needs(from)) await this.lower(to, from);
  }

  /** The program has switched to a feeder that is gone since; it lies on no lease of ours. */
  private lostTarget({ offset, length, toLane }: MoveWish): Copy {
    const hold = this.deps.budget.holds.find(({ lane }) => lane === toLane);
    const feederName = hold?.feederName ?? 'that is gone';
    const nowhere = { feederId: '', leaseId: 'gone', deviceKey: '' };
    return { offset, length, feederName, ...nowhere, lane: toLane, lost: true };
  }

  private async pull(
    range: ByteRange,
    source: Copy,
    target: Copy,
    { signal, onBytes }: MoveOptions,
  ): Promise<void> {
    const { copies, directory, clock } = this.deps;
    const secret = new Uint8Array(randomBytes(32));
    const { offset, length } = range;
    const wish = { offset, length, rights: LaneRight.READ, connections: PULL_CONNECTIONS, secret };
    try {
      const ticket = await copies.onLease(copies.liveHold(source), (client, hold) =>
        client.openLane(hold, wish),
      );
      try {
        await copies.onLease(copies.liveHold(target), (client, hold) => {
          const address = addressFor(ticket, client.localAddress);
          const from = { ...ticket, address, offset: 0 };
          return client.pull(hold, range, from, { signal, clock, onBytes });
        });
      } finally {
        const close = async (): Promise<void> =>
          directory.client(source.feederId).closeLane(ticket.ticketId);
        // It has ended by itself, or ends with its time to live.
        close().catch(() => undefined);
      }
    } finally {
      secret.fill(0);
    }
  }

  private pause(attempt: number, signal: AbortSignal): Promise<void> {
    if (attempt < 2) {
      signal.throwIfAborted();
      return Promise.resolve();
    }
    return sleep(Math.min(MOVE_PAUSE_MS_MAX, MOVE_PAUSE_MS_MIN * 2 ** (attempt - 2)), signal);
  }

  /** Not used by any agent before: time is in it. */
  private nextSequence(): bigint {
    return (BigInt(Math.floor(this.deps.clock.unixMs())) << 20n) + ++this.serial;
  }
}

/** A feeder on this very machine is known here by an address that others cannot use. */
function addressFor(ticket: LaneTicket, hostAddressThere: string): string {
  const isOwn = (address: string): boolean => /^(127\.|::1$|::ffff:127\.)/.test(address);
  return isOwn(ticket.address) && !isOwn(hostAddressThere) ? hostAddressThere : ticket.address;
}

/** What is under way for moves of these bytes. */
function under<T>(work: ReadonlyMap<Undecided, T>, range: ByteRange): T[] {
  return [...work].filter(([{ wish }]) => overlaps(wish, range)).map(([, one]) => one);
}

/** `work`, or the reason of `signal` if that comes first. */
function until<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  work.catch(() => undefined);
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(signal.reason as Error);
    if (signal.aborted) return onAbort();
    signal.addEventListener('abort', onAbort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort));
  });
}
