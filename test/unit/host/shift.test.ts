// SPDX-License-Identifier: Apache-2.0
// A learned step of one program, and ranges that move to where it wants them; over feeders in memory, every byte looked
// at.
import { describe, expect, test } from '@jest/globals';
import type { Attachment } from '../../../host/attachments/attachment.js';
import type { StepAnswer, Touch } from '../../../host/attachments/owners.js';
import { attachmentOf, CHUNK, factsOf, full, VRAM } from './bench.js';
import { FakeDirectory, FakeFeeder } from './fake-feeder.js';
import { FakeProgram } from './fake-program.js';

interface Made {
  readonly a: FakeFeeder;
  readonly b: FakeFeeder;
  readonly attachment: Attachment;
  readonly program: FakeProgram;
}

/** Two feeders that run kernels. */
function made(vramA = 9, vramB = 9): Made {
  const cost = { readBytesPerSecond: 1e9, latencyMicros: 100 };
  const memory = (granules: number) => new Map([[VRAM, granules * CHUNK]]);
  const a = new FakeFeeder('F-000000000000000a', 'alpha', memory(vramA), cost);
  const b = new FakeFeeder('F-000000000000000b', 'beta', memory(vramB), cost);
  for (const feeder of [a, b]) feeder.compute = { capability: 90, deviceKeys: [VRAM] };
  const directory = new FakeDirectory([a, b]);
  const parts = { directory, lost: [], told: [], onPersist: () => undefined };
  const attachment = attachmentOf(parts, { ...factsOf(1), dispatch: true });
  return { a, b, attachment, program: new FakeProgram(attachment) };
}

const rangeAt = (at: number) => ({ offset: at * CHUNK, length: CHUNK });

/** Grants and places so many ranges of one granule, filled with their number, wherever they come to lie. */
async function placed(it: Made, count: number): Promise<void> {
  await it.attachment.budget.grow(count * CHUNK);
  for (let at = 0; at < count; at++) {
    await it.program.place(rangeAt(at));
    await it.program.store(at * CHUNK, at + 1, CHUNK);
  }
}

const laneOf = ({ program }: Made, at: number): number =>
  program.lanesOf.find(({ offset }) => offset === at * CHUNK)?.lanes[0] ?? 0;

/** Launches that name one range each, as they lie now. */
function stepOf(it: Made, order: readonly number[]): StepAnswer {
  const touches = order.map((at, launch): Touch => ({
    ...rangeAt(at),
    launch,
    lane: laneOf(it, at),
  }));
  const { length } = order;
  return it.attachment.step({
    ...{ first: 0, total: length, launchCount: length, touches },
    localBytes: 0,
  });
}

describe('a step', () => {
  test('says which ranges should lie elsewhere; once they do, nothing more, and what moved is known', async () => {
    const it = made();
    await placed(it, 10);
    expect([0, 6, 7, 9].map((at) => laneOf(it, at))).toEqual([1, 1, 2, 2]);
    // What is used last but one lies on the other feeder.
    const order = [0, 1, 2, 7, 3, 4, 5, 6, 8, 9];
    const answer = stepOf(it, order);
    expect(answer).toMatchObject({ crossingsBefore: 8, crossingsAfter: 4 });
    expect(answer.wishes.length).toBeGreaterThan(0);
    for (const { lane, ...range } of answer.wishes) await it.attachment.shift(range, lane);
    expect(stepOf(it, order)).toEqual({ wishes: [], crossingsBefore: 4, crossingsAfter: 4 });
    expect(it.attachment.owners.learned).toMatchObject({
      crossingsBefore: 8,
      crossingsNow: 4,
      movedCount: answer.wishes.length,
      movedBytes: answer.wishes.length * CHUNK,
    });
    for (let at = 0; at < 10; at++)
      expect((await it.program.fetched(at * CHUNK, CHUNK)).equals(full(at + 1))).toBe(true);
  });

  test('comes in parts that follow each other, and only with dispatch', async () => {
    const it = made();
    await placed(it, 3);
    const part = (first: number, at: number, total = 2) => ({
      ...{ first, total, launchCount: 2, localBytes: 0 },
      touches: [{ ...rangeAt(at), launch: first, lane: 1 }],
    });
    expect(it.attachment.step(part(0, 0)).wishes).toEqual([]);
    expect(() => it.attachment.step(part(5, 1))).toThrow(/does not follow/);
    expect(() => it.attachment.step(part(0, 0, 1e9))).toThrow(/does not follow/);
    expect(() => it.attachment.step({ ...part(0, 0), touches: [] })).toThrow(/does not follow/);
    it.attachment.facts = { ...it.attachment.facts, dispatch: false };
    expect(() => it.attachment.step(part(0, 0))).toThrow(/needs --remote merged/);
    expect(() => it.attachment.shift(rangeAt(0), 1)).toThrow(/needs --remote merged/);
  });
});

describe('a range moves to a lease', () => {
  test('by a pull, into room that was granted or is leased for it; the account stays even', async () => {
    const it = made();
    await placed(it, 9);
    const before = it.attachment.budget.heldBytes;
    expect(laneOf(it, 0)).toBe(1);
    await it.attachment.shift(rangeAt(0), 2);
    expect(laneOf(it, 0)).toBe(2);
    expect(it.program.asked).toEqual(['begin', 'commit']);
    expect((await it.program.fetched(0, CHUNK)).equals(full(1))).toBe(true);
    expect(it.attachment.budget.heldBytes).toBe(before);
    // Its place is granted still: the next range fits without asking anybody.
    await it.attachment.shift(rangeAt(0), 1);
    expect([it.attachment.budget.heldBytes, it.attachment.budget.usedBytes]).toEqual([
      before,
      before,
    ]);
    expect([it.a, it.b].map((f) => f.allocated(VRAM) / CHUNK)).toEqual([7, 2]);
    expect(it.attachment.discards).toEqual([]);
    await it.attachment.shift(rangeAt(0), 1);
    expect(it.program.asked.length).toBe(4);
  });

  test('refused without room or such a lease, and while the program writes to it: it lies as before', async () => {
    const it = made(9, 3);
    await placed(it, 9);
    await expect(it.attachment.shift(rangeAt(0), 7)).rejects.toMatchObject({ code: 'NOT_FOUND' });
    await it.attachment.shift(rangeAt(0), 2);
    await expect(it.attachment.shift(rangeAt(1), 2)).rejects.toMatchObject({
      code: 'CAPACITY_EXHAUSTED',
    });
    it.program.onAsked = async (_wish, phase) => {
      if (phase === 'commit') await it.program.store(0, 9, CHUNK);
    };
    await expect(it.attachment.shift(rangeAt(0), 1)).rejects.toMatchObject({ code: 'WRONG_STATE' });
    expect(laneOf(it, 0)).toBe(2);
    expect((await it.program.fetched(0, CHUNK)).equals(full(9))).toBe(true);
    expect(it.attachment.budget.heldBytes).toBe(9 * CHUNK);
    expect(it.attachment.discards).toEqual([]);
  });

  test('placing asks for a lane, and gets another when that has no room', async () => {
    const it = made();
    await it.attachment.budget.grow(9 * CHUNK);
    await placed(it, 1);
    const lanes: (number | undefined)[] = [];
    for (let at = 1; at < 5; at++)
      lanes.push((await it.attachment.place(rangeAt(at), 2))[0]?.copies[0]?.lane);
    expect(lanes.slice(0, 2)).toEqual([2, 2]);
    expect(laneOf(it, 0)).toBe(1);
  });
});
