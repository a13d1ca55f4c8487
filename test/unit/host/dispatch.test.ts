// SPDX-License-Identifier: Apache-2.0
// Kernels that run where ranges lie: which feeder takes what, and the room for copies beside it; over feeders in
// memory.
import { describe, expect, test } from '@jest/globals';
import type { Attachment } from '../../../host/attachments/attachment.js';
import { explain } from '../../../host/control/dispatch.js';
import {
  isWhole,
  orderForDispatch,
  planDispatch,
  type DispatchOffer,
  type Reach,
} from '../../../host/placement/dispatch.js';
import { gbReport, UNDISPATCHED } from '../../../host/shim/abi.js';
import { PlacedKind } from '../../../proto/gen/greenboost/v1/control_pb.js';
import { attachmentOf, CHUNK, factsOf, RAM, VRAM, WATCH } from './bench.js';
import { FakeDirectory, FakeFeeder } from './fake-feeder.js';

const offer = (
  feederId: string,
  reach: Reach,
  free: number,
  over: Partial<DispatchOffer> = {},
): DispatchOffer => ({
  key: `${feederId}/${reach}`,
  feederId,
  reach,
  freeBytes: free * CHUNK,
  rank: reach === 'gpu' ? 1 : 0,
  lane: undefined,
  readBytesPerSecond: 1e9,
  latencyMicros: 100,
  ...over,
});

const keys = (offers: readonly DispatchOffer[]): string[] => offers.map(({ key }) => key);
const parts = (offers: readonly DispatchOffer[], granules: number): [string, number][] =>
  planDispatch(offers, granules * CHUNK, CHUNK).parts.map(({ key, bytes }) => [key, bytes / CHUNK]);

describe('the order of room', () => {
  const cheap = { readBytesPerSecond: 9e9 };

  test('kernels first, VRAM before RAM, the oldest lease before a new one, the rest by cost', () => {
    const offers = [
      offer('far', 'none', 1),
      offer('near', 'none', 1, cheap),
      offer('new', 'gpu', 1),
      offer('cheap', 'gpu', 1, cheap),
      offer('second', 'gpu', 1, { lane: 2, ...cheap }),
      offer('first', 'gpu', 1, { lane: 1 }),
      offer('first', 'host', 1, { lane: 1 }),
    ];
    const expected = ['first/gpu', 'second/gpu', 'cheap/gpu', 'new/gpu', 'first/host'];
    expect(keys(orderForDispatch(offers))).toEqual([...expected, 'near/none', 'far/none']);
    expect(keys(orderForDispatch([...offers].reverse()))).toEqual([
      ...expected,
      'near/none',
      'far/none',
    ]);
  });

  test('a range stays whole behind one lane as long as any feeder takes all of it', () => {
    const first = [offer('a', 'gpu', 3, { lane: 1 }), offer('a', 'host', 4, { lane: 1 })];
    const second = offer('b', 'gpu', 5, { lane: 2 });
    const rest = offer('c', 'none', 99);
    const offers = [rest, second, ...first];
    expect(parts(offers, 3)).toEqual([['a/gpu', 3]]);
    expect(parts(offers, 5)).toEqual([['b/gpu', 5]]);
    expect(parts(offers, 7)).toEqual([
      ['a/gpu', 3],
      ['a/host', 4],
    ]);
    expect(isWhole(planDispatch(offers, 7 * CHUNK, CHUNK), offers)).toBe(true);
    // Kernels cannot use it in pieces: the room they can use stays for others.
    expect(parts(offers, 9)).toEqual([['c/none', 9]]);
    expect(isWhole(planDispatch(offers, 9 * CHUNK, CHUNK), offers)).toBe(false);
    expect(parts([second, ...first], 9)).toEqual([
      ['a/gpu', 3],
      ['b/gpu', 5],
      ['a/host', 1],
    ]);
    expect(planDispatch(offers, 200 * CHUNK, CHUNK).missingBytes).toBe((200 - 111) * CHUNK);
    expect(isWhole(planDispatch([rest], CHUNK, CHUNK), [rest])).toBe(false);
  });
});

interface Made {
  readonly a: FakeFeeder;
  readonly b: FakeFeeder;
  readonly c: FakeFeeder;
  readonly directory: FakeDirectory;
  readonly attachment: Attachment;
  readonly lost: never[];
  readonly told: string[];
  readonly onPersist: () => void;
}

/** Two feeders that run kernels, and the cheapest of all, which does not. */
function made(vram = 9, ram = 0): Made {
  const cost = (readBytesPerSecond: number) => ({ readBytesPerSecond, latencyMicros: 100 });
  const memory = (): Map<string, number> =>
    new Map([[VRAM, vram * CHUNK], ...(ram > 0 ? [[RAM, ram * CHUNK] as const] : [])]);
  const a = new FakeFeeder('F-000000000000000a', 'alpha', memory(), cost(2e9));
  const b = new FakeFeeder('F-000000000000000b', 'beta', memory(), cost(1e9));
  const c = new FakeFeeder('F-000000000000000c', 'gamma', new Map([[RAM, 64 * CHUNK]]), cost(9e9));
  for (const feeder of [a, b])
    feeder.compute = { capability: 90, deviceKeys: ram > 0 ? [RAM, VRAM] : [VRAM] };
  const directory = new FakeDirectory([a, b, c]);
  const parts = { a, b, c, directory, lost: [], told: [], onPersist: () => undefined };
  return { ...parts, attachment: attachmentOf(parts, { ...factsOf(1), dispatch: true }) };
}

async function place({ attachment }: Made, at: number, granules: number): Promise<string[]> {
  await attachment.budget.grow(granules * CHUNK);
  const range = { offset: at * CHUNK, length: granules * CHUNK };
  const extents = await attachment.place(range);
  return extents.map(({ copies, length }) => `${copies[0]?.feederName} ${length / CHUNK}`);
}

async function room(
  { attachment }: { attachment: Attachment },
  at: number,
  granules: number,
  { lane = 1, drop = false } = {},
): Promise<void> {
  await attachment.room({ offset: at * CHUNK, length: granules * CHUNK }, { lane, drop });
}

const account = ({ attachment: { budget } }: { attachment: Attachment }): number[] =>
  [budget.heldBytes, budget.usedBytes].map((bytes) => bytes / CHUNK);

describe('placing', () => {
  test('fills one feeder that runs kernels after the other, cheaper or not, and leaves room for copies', async () => {
    const it = made();
    expect(await place(it, 0, 3)).toEqual(['alpha 3']);
    expect(await place(it, 3, 3)).toEqual(['alpha 3']);
    // Two of its nine are kept for copies, so one is left: the range goes whole to the next one.
    expect(await place(it, 6, 3)).toEqual(['beta 3']);
    expect(await place(it, 9, 1)).toEqual(['alpha 1']);
    expect(await place(it, 10, 5)).toEqual(['gamma 5']);
    expect(it.attachment.budget.limitBytes / CHUNK).toBe(7 + 7 + 64);
  });

  test('brings room together that was granted in pieces', async () => {
    const it = made(24);
    const { a, b, attachment } = it;
    await place(it, 0, 6);
    await attachment.budget.grow(10 * CHUNK);
    a.draining = true;
    await attachment.budget.grow(6 * CHUNK);
    a.draining = false;
    await place(it, 6, 2).then(() => attachment.budget.shrink(2 * CHUNK));
    const before = account(it);
    const extents = await attachment.place({ offset: 8 * CHUNK, length: 11 * CHUNK });
    expect(extents.map(({ copies, length }) => [copies[0]?.feederName, length / CHUNK])).toEqual([
      ['alpha', 11],
    ]);
    expect(account(it)[0]).toBe(before[0]);
    expect((a.leased(VRAM) + b.leased(VRAM)) / CHUNK).toBe(before[0]);
  });

  test('without dispatch the cheapest feeder comes first, as ever', async () => {
    const it = made();
    it.attachment.facts = { ...it.attachment.facts, dispatch: false };
    expect(await place(it, 0, 3)).toEqual(['gamma 3']);
    expect(it.attachment.budget.limitBytes / CHUNK).toBe(9 + 9 + 64);
  });
});

describe('room for copies', () => {
  test('is leased beyond what was granted, zeroed, and given back', async () => {
    const it = made();
    await place(it, 0, 7);
    expect(account(it)).toEqual([7, 7]);
    await room(it, 20, 2);
    expect(account(it)).toEqual([7, 9]);
    expect([it.a.leased(VRAM), it.a.allocated(VRAM)]).toEqual([9 * CHUNK, 9 * CHUNK]);
    await expect(room(it, 30, 1)).rejects.toThrow(/CAPACITY/);
    expect(it.attachment.replicas.all).toHaveLength(1);
    await room(it, 20, 2, { drop: true });
    expect([it.a.leased(VRAM), it.a.allocated(VRAM)]).toEqual([7 * CHUNK, 7 * CHUNK]);
    expect(account(it)).toEqual([7, 7]);
    await expect(room(it, 20, 2, { drop: true })).rejects.toThrow(/NOT_FOUND/);
    expect(await it.attachment.budget.shrink(CHUNK)).toBe(0);
  });

  test('lies on the GPU as long as that has room, then in RAM that it reads', async () => {
    const it = made(3, 4);
    await place(it, 0, 1);
    await room(it, 20, 2);
    await room(it, 22, 3);
    expect(it.attachment.replicas.all.map(({ deviceKey }) => deviceKey)).toEqual([VRAM, RAM]);
    expect([it.a.allocated(VRAM), it.a.allocated(RAM)]).toEqual([3 * CHUNK, 3 * CHUNK]);
  });

  test('asked for again begins anew: the program knows of none', async () => {
    const it = made();
    await place(it, 0, 1);
    await room(it, 20, 2);
    it.a.ranges.find(({ offset }) => offset === 20 * CHUNK)!.bytes.fill(7);
    await room(it, 21, 2);
    const [copy] = it.attachment.replicas.all;
    expect([copy?.offset, it.attachment.replicas.all.length]).toEqual([21 * CHUNK, 1]);
    const there = it.a.ranges.find(({ offset }) => offset === 21 * CHUNK)!;
    expect(there.bytes.every((byte) => byte === 0)).toBe(true);
    expect(account(it)).toEqual([1, 3]);
  });

  test('ends when the program places the same bytes', async () => {
    const it = made();
    await place(it, 0, 1);
    await room(it, 4, 2);
    expect(await place(it, 4, 2)).toEqual(['alpha 2']);
    expect(it.attachment.replicas.all).toEqual([]);
    expect(account(it)).toEqual([3, 3]);
  });

  test('is refused where it makes no sense', async () => {
    const it = made();
    await place(it, 0, 2);
    await expect(room(it, 1, 1)).rejects.toThrow(/INVALID_ARGUMENT/);
    await expect(room(it, 20, 1, { lane: 9 })).rejects.toThrow(/NOT_FOUND/);
    await expect(room(it, 20, 0)).rejects.toThrow(/INVALID_ARGUMENT/);
    await expect(room(it, 64, 1)).rejects.toThrow(/INVALID_ARGUMENT/);
    it.attachment.facts = { ...it.attachment.facts, dispatch: false };
    await expect(room(it, 20, 1)).rejects.toThrow(/PERMISSION_DENIED/);
    expect(account(it)).toEqual([2, 2]);
  });

  test('finds none on a feeder that runs no kernels', async () => {
    const it = made(2);
    await place(it, 0, 9);
    expect(it.attachment.copies.residency.all[0]?.copies[0]?.feederName).toBe('gamma');
    await expect(room(it, 20, 1)).rejects.toThrow(/CAPACITY/);
  });

  // Full is also what a place is that holds what was given up unheard: that is tried again once it is freed.
  test.each([
    ['allocate', 'WRONG_STATE'],
    ['resize', 'CAPACITY_EXHAUSTED'],
  ] as const)('a feeder that fails %s with %s leaves the account as it was', async (call, code) => {
    const it = made();
    await place(it, 0, 2);
    it.a.failNext = { call, code };
    await expect(room(it, 20, 2)).rejects.toThrow(code);
    expect(account(it)).toEqual([2, 2]);
    expect([it.a.leased(VRAM), it.a.allocated(VRAM)]).toEqual([2 * CHUNK, 2 * CHUNK]);
    expect(it.attachment.replicas.save()).toEqual([]);
    await room(it, 20, 2);
  });

  test('goes with its lease', async () => {
    const it = made();
    await place(it, 0, 2);
    await room(it, 20, 2);
    it.attachment.loseFeeder(it.a.feederId);
    expect(it.attachment.replicas.all).toEqual([]);
    expect(account(it)).toEqual([2, 2]);
    await expect(room(it, 20, 2)).rejects.toThrow(/DATA_LOSS/);
    await expect(room(it, 20, 2, { drop: true })).rejects.toThrow(/DATA_LOSS/);
  });

  test('is lost in the middle of being allocated: nothing is counted twice', async () => {
    const it = made();
    await place(it, 0, 2);
    it.a.failNext = { call: 'allocate', code: 'DATA_LOSS' };
    await expect(room(it, 20, 2)).rejects.toThrow(/DATA_LOSS/);
    expect(account(it)).toEqual([2, 2]);
    expect(it.attachment.replicas.save()).toEqual([]);
  });

  test('dropped while its feeder is away: freed when that is back', async () => {
    const it = made();
    await place(it, 0, 2);
    await room(it, 20, 2);
    it.a.away = true;
    await room(it, 20, 2, { drop: true });
    expect(account(it)).toEqual([2, 2]);
    it.a.away = false;
    const [hold] = it.attachment.budget.holds;
    await it.attachment.reconcile(hold!, it.a.client);
    expect([it.a.leased(VRAM), it.a.allocated(VRAM)]).toEqual([2 * CHUNK, 2 * CHUNK]);
  });

  test('stays over a reconnect of its feeder', async () => {
    const it = made();
    await place(it, 0, 2);
    await room(it, 20, 2);
    const [hold] = it.attachment.budget.holds;
    await it.attachment.reconcile(hold!, it.a.client);
    expect(it.a.allocated(VRAM)).toBe(4 * CHUNK);
    expect(account(it)).toEqual([2, 4]);
  });
});

describe('a later agent', () => {
  /** What it makes of the state file and the feeder. */
  async function nextAgent(it: Made): Promise<Attachment> {
    const { attachment, a } = it;
    const later = attachmentOf(it, attachment.facts);
    later.nextLane = attachment.nextLane;
    later.copies.discard(...attachment.discards);
    for (const hold of attachment.budget.holds) {
      const devices = [...hold.devices].map(
        ([key, { limitBytes }]) => [key, { limitBytes, usedBytes: 0 }] as const,
      );
      later.budget.restore({ ...hold, state: 'unadopted', devices: new Map(devices) });
    }
    later.replicas.restore(attachment.replicas.save());
    // The program says HELLO before the feeder is back: the accounts agree already.
    expect(later.budget.heldBytes).toBe(attachment.budget.heldBytes);
    const [hold] = later.budget.holds;
    const [renewal] = await a.client.renew([hold!]);
    hold!.fencingToken = renewal!.fencingToken;
    await later.reconcile(hold!, a.client);
    return later;
  }

  test('keeps copies as copies, and the bytes of the program as its bytes', async () => {
    const it = made();
    await place(it, 0, 2);
    await room(it, 20, 2);
    const later = await nextAgent(it);
    expect(later.copies.residency.all.map(({ offset }) => offset)).toEqual([0]);
    expect(later.replicas.all.map(({ offset }) => offset)).toEqual([20 * CHUNK]);
    expect(account({ attachment: later })).toEqual([2, 4]);
    await room({ attachment: later }, 20, 2, { drop: true });
    expect(it.a.allocated(VRAM)).toBe(2 * CHUNK);
    expect(account({ attachment: later })).toEqual([2, 2]);
  });

  test('gives back room that was never used, or whose end it did not live to note', async () => {
    const it = made();
    await place(it, 0, 2);
    await room(it, 20, 2);
    const [lease] = [...it.a.leases.values()];
    lease!.ranges.delete(20 * CHUNK);
    const later = await nextAgent(it);
    expect(later.replicas.save()).toEqual([]);
    expect(account({ attachment: later })).toEqual([2, 2]);
    expect(it.a.leased(VRAM)).toBe(2 * CHUNK);
  });
});

describe('emptying a feeder', () => {
  test('leaves a program alone whose kernels run there, and says so; nothing moves', async () => {
    const it = made();
    await place(it, 0, 2);
    await room(it, 20, 2);
    it.a.draining = true;
    await expect(it.attachment.evacuate(it.a.feederId, WATCH)).rejects.toThrow(
      /runs kernels on it.*until it ends/,
    );
    expect(it.a.allocated(VRAM)).toBe(4 * CHUNK);
    expect(account(it)).toEqual([2, 4]);
  });
});

describe('explain', () => {
  test('tells each range, where kernels ran and why some did not, from the account of the agent', async () => {
    const it = made();
    await place(it, 0, 2);
    await place(it, 2, 9);
    await room(it, 20, 2);
    const counts = UNDISPATCHED.map((name) => (name === 'code' ? 3n : name === 'room' ? 5n : 0n));
    const report = gbReport.decode(Buffer.alloc(gbReport.size));
    it.attachment.report = { ...report, dispatched_count: 40n, undispatched_count: counts };
    const told = explain(process.pid, [it.attachment], {
      computes: it.directory,
      message: () => ({}),
    });
    const rows = told.ranges?.map(({ offset, feederName, kind, why }) => [
      Number(offset) / CHUNK,
      feederName,
      kind,
      why,
    ]);
    expect(rows).toEqual([
      [0, 'alpha', PlacedKind.OWNED, 'kernels that name it run there'],
      [2, 'gamma', PlacedKind.OWNED, expect.stringMatching(/runs no kernels: it is brought back/)],
      [20, 'alpha', PlacedKind.REPLICA, expect.stringMatching(/only blocks that changed travel/)],
    ]);
    expect(told.reasons?.map(({ name, count }) => [name, count])).toEqual([
      ['room', 5n],
      ['code', 3n],
    ]);
    expect(told.reasons?.every(({ text }) => (text ?? '').length > 20)).toBe(true);
    expect(() =>
      explain(1, [it.attachment], { computes: it.directory, message: () => ({}) }),
    ).toThrow(/NOT_FOUND/);
  });
});
