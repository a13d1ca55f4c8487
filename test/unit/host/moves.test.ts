// SPDX-License-Identifier: Apache-2.0
// Copies that move under a running program, two copies of everything, and agents that die meanwhile;
// over feeders in memory, every byte looked at.
import { describe, expect, test } from '@jest/globals';
import type { Attachment } from '../../../host/attachments/attachment.js';
import { sleep } from '../../../proto/base/clock.js';
import { GbError } from '../../../proto/base/errors.js';
import {
  attachmentOf,
  bench,
  CHUNK,
  fetched,
  full,
  RAM,
  store,
  WATCH,
  type Bench,
} from './bench.js';
import type { FakeFeeder } from './fake-feeder.js';

/** Leased and allocated granules of feeders. */
const use = (...feeders: FakeFeeder[]): number[][] =>
  feeders.map((feeder) => [feeder.leased(RAM) / CHUNK, feeder.allocated(RAM) / CHUNK]);

async function placed(ramA: number, ramB: number, granules: number): Promise<Bench> {
  const made = bench(ramA, ramB);
  await made.attachment.budget.grow(granules * CHUNK);
  await made.program.place({ offset: 0, length: granules * CHUNK });
  await store(made, 0, 1, granules * CHUNK);
  return made;
}

async function until(check: () => boolean): Promise<void> {
  for (let tries = 0; tries < 400 && !check(); tries++) await sleep(5);
  expect(check()).toBe(true);
}

describe('evacuation', () => {
  test('moves every byte and the whole grant by pulls alone, and tells how far it is', async () => {
    const made = await placed(4, 8, 4);
    const { a, b, attachment, program } = made;
    await attachment.budget.grow(2 * CHUNK);
    let pulled = 0;
    let moved = 0;
    a.draining = true;
    const watch = {
      ...WATCH,
      onPulled: (bytes: number) => void (pulled += bytes),
      onMoved: (bytes: number) => void (moved += bytes),
    };
    expect(await attachment.evacuate(a.feederId, watch)).toBe(4 * CHUNK);
    expect([pulled, moved]).toEqual([4 * CHUNK, 4 * CHUNK]);
    expect(program.asked).toEqual(['begin', 'commit']);
    expect(use(a, b)).toEqual([
      [0, 0],
      [6, 4],
    ]);
    expect(attachment.budget.heldBytes).toBe(6 * CHUNK);
    expect((await fetched(made, 0, 4 * CHUNK)).equals(full(1, 4 * CHUNK))).toBe(true);
    expect(attachment.discards).toEqual([]);
  });

  test('splits an extent over several feeders, and puts it together again', async () => {
    const made = bench(6, 4, 0, { ramC: 4 });
    const { a, b, c, attachment, program } = made;
    await attachment.budget.grow(6 * CHUNK);
    await program.place({ offset: 0, length: 6 * CHUNK });
    for (let at = 0; at < 6; at++) await store(made, at * CHUNK, at + 1);
    a.draining = true;
    expect(await attachment.evacuate(a.feederId, WATCH)).toBe(6 * CHUNK);
    expect(use(a, b, c)).toEqual([
      [0, 0],
      [4, 4],
      [2, 2],
    ]);
    a.draining = false;
    b.draining = true;
    expect(await attachment.evacuate(b.feederId, WATCH)).toBe(4 * CHUNK);
    for (let at = 0; at < 6; at++)
      expect((await fetched(made, at * CHUNK, CHUNK)).equals(full(at + 1))).toBe(true);
    expect(attachment.budget.heldBytes).toBe(6 * CHUNK);
  });

  test('too little room elsewhere: what has moved stays moved, nothing is lost, the account is even', async () => {
    const made = bench(4, 1);
    const { a, b, attachment, program } = made;
    await attachment.budget.grow(2 * CHUNK);
    await program.place({ offset: 0, length: CHUNK });
    await program.place({ offset: CHUNK, length: CHUNK });
    await store(made, 0, 1, 2 * CHUNK);
    a.draining = true;
    await expect(attachment.evacuate(a.feederId, WATCH)).rejects.toThrow(/CAPACITY_EXHAUSTED/);
    expect(use(a, b)).toEqual([
      [1, 1],
      [1, 1],
    ]);
    expect(attachment.budget.heldBytes).toBe(2 * CHUNK);
    expect((await fetched(made, 0, 2 * CHUNK)).equals(full(1, 2 * CHUNK))).toBe(true);
  });

  test('bytes written meanwhile are pulled again until nothing was', async () => {
    const made = await placed(4, 8, 2);
    const { a, b, attachment, program } = made;
    let writes = 0;
    b.onPull = async () => {
      if (writes++ < 3) await store(made, CHUNK / 2, 10 + writes, CHUNK);
    };
    expect(await attachment.evacuate(a.feederId, WATCH)).toBe(2 * CHUNK);
    expect(program.asked).toEqual([...Array(4)].flatMap(() => ['begin', 'commit']));
    expect((await fetched(made, CHUNK / 2, CHUNK)).equals(full(13, CHUNK))).toBe(true);
    expect((await fetched(made, 0, CHUNK / 2)).equals(full(1, CHUNK / 2))).toBe(true);
  });

  test.each(['allocate', 'pull'])('a target that fails at %s changes nothing', async (call) => {
    const made = await placed(4, 8, 2);
    const { a, b, attachment, program } = made;
    b.failNext = { call, code: 'DRIVER_ERROR' };
    await expect(attachment.evacuate(a.feederId, WATCH)).rejects.toThrow(/DRIVER_ERROR/);
    expect(use(a, b)).toEqual([
      [2, 2],
      [0, 0],
    ]);
    expect(program.asked.includes('cancel')).toBe(call === 'pull');
    expect(attachment.discards).toEqual([]);
    expect((await fetched(made, 0, 2 * CHUNK)).equals(full(1, 2 * CHUNK))).toBe(true);
  });

  test('cancelled in a pull: the target is free again, the program goes on as before', async () => {
    const made = await placed(4, 8, 2);
    const { a, b, attachment } = made;
    const controller = new AbortController();
    b.onPull = () => controller.abort(new GbError('CANCELED', 'enough'));
    const watch = { ...WATCH, signal: controller.signal };
    await expect(attachment.evacuate(a.feederId, watch)).rejects.toThrow(/CANCELED/);
    expect(use(a, b)).toEqual([
      [2, 2],
      [0, 0],
    ]);
    expect(attachment.budget.heldBytes).toBe(2 * CHUNK);
  });

  test('a range that is dropped in the middle of its move is not waited for', async () => {
    const made = await placed(4, 8, 2);
    const { a, b, attachment, program } = made;
    let dropped: Promise<void> | undefined;
    b.onPull = () => void (dropped ??= program.drop({ offset: 0, length: 2 * CHUNK }));
    expect(await attachment.evacuate(a.feederId, WATCH)).toBe(0);
    await dropped;
    expect(use(a, b).map(([, allocated]) => allocated)).toEqual([0, 0]);
    expect(attachment.budget.usedBytes).toBe(0);
    expect(attachment.budget.heldBytes).toBe(2 * CHUNK);
  });

  test('a program that is away is waited for', async () => {
    const made = await placed(4, 8, 2);
    const { a, attachment, program } = made;
    program.close();
    const moving = attachment.evacuate(a.feederId, WATCH);
    await sleep(30);
    expect(program.asked).toEqual([]);
    program.connect();
    expect(await moving).toBe(2 * CHUNK);
  });
});

describe('an answer to COMMIT that is lost', () => {
  /** The connection breaks when the program is asked; it has switched or not. */
  async function undecided(switched: boolean): Promise<Bench> {
    const made = await placed(4, 8, 2);
    const { a, program, attachment } = made;
    let broken = false;
    const answer = program.move.bind(program);
    program.move = async (wish, phase) => {
      if (broken || phase === 'begin') return answer(wish, phase);
      broken = true;
      if (switched) await answer(wish, phase);
      program.close();
      throw new GbError('WRONG_STATE', 'the program is not connected');
    };
    await expect(attachment.evacuate(a.feederId, WATCH)).rejects.toThrow(/WRONG_STATE/);
    expect(attachment.mover.undecided).toHaveLength(1);
    // Both copies stay: nobody knows which one counts.
    expect(use(made.a, made.b).map(([, allocated]) => allocated)).toEqual([2, 2]);
    return made;
  }

  test.each([true, false])(
    'is asked for again when it is back (it had switched: %s)',
    async (had) => {
      const made = await undecided(had);
      const { a, b, attachment, program } = made;
      program.connect();
      await until(() => attachment.mover.undecided.length === 0);
      await until(() => a.allocated(RAM) + b.allocated(RAM) === 2 * CHUNK);
      // Nothing was written since: the program switches when it is asked a second time.
      expect(b.allocated(RAM)).toBe(2 * CHUNK);
      expect(attachment.budget.heldBytes).toBe(2 * CHUNK);
      expect((await fetched(made, 0, 2 * CHUNK)).equals(full(1, 2 * CHUNK))).toBe(true);
      expect(attachment.discards).toEqual([]);
    },
  );

  test.each([true, false])('is asked for by the next agent (it had switched: %s)', async (had) => {
    const made = await undecided(had);
    const { a, b, program } = made;
    const later = await nextAgent(made);
    // The program has changed its bytes since: the other copy is old.
    await program.attachment.ticket(1).catch(() => undefined);
    program.connect(later);
    await until(() => later.mover.undecided.length === 0);
    await until(() => a.allocated(RAM) + b.allocated(RAM) === 2 * CHUNK);
    expect((await program.fetched(0, 2 * CHUNK)).equals(full(1, 2 * CHUNK))).toBe(true);
    expect(later.budget.usedBytes).toBe(2 * CHUNK);
    expect(later.discards).toEqual([]);
  });
});

describe('a move whose answer is being carried out', () => {
  /** The program has switched; what that means is not on disk yet. */
  async function settling(): Promise<{ made: Bench; kept: () => void }> {
    const made = await placed(4, 8, 2);
    const { a, attachment, program } = made;
    const answer = program.move.bind(program);
    program.move = async (wish, phase) => {
      if (phase === 'begin') return answer(wish, phase);
      program.move = answer;
      program.close();
      throw new GbError('WRONG_STATE', 'the program is not connected');
    };
    a.draining = true;
    await expect(attachment.evacuate(a.feederId, WATCH)).rejects.toThrow(/WRONG_STATE/);
    let kept = (): void => undefined;
    const disk = new Promise<void>((resolve) => (kept = resolve));
    made.onPersist = () => disk;
    program.connect();
    await until(() => attachment.mover.undecided.length === 0);
    return { made, kept };
  }

  test('is waited for by the next one: its copy is not taken for a leftover', async () => {
    const { made, kept } = await settling();
    const { a, b, attachment } = made;
    const again = attachment.evacuate(a.feederId, WATCH);
    await sleep(20);
    kept();
    await again;
    expect(use(a, b)).toEqual([
      [0, 0],
      [2, 2],
    ]);
    expect(attachment.budget.heldBytes).toBe(2 * CHUNK);
    expect((await fetched(made, 0, 2 * CHUNK)).equals(full(1, 2 * CHUNK))).toBe(true);
    expect(attachment.discards).toEqual([]);
  });

  test('is waited for by a drop of the range: both copies are freed', async () => {
    const { made, kept } = await settling();
    const { a, b, attachment, program } = made;
    const dropped = program.drop({ offset: 0, length: 2 * CHUNK });
    await sleep(20);
    kept();
    await dropped;
    expect(use(a, b).map(([, allocated]) => allocated)).toEqual([0, 0]);
    expect(attachment.budget.usedBytes).toBe(0);
    expect(attachment.discards).toEqual([]);
  });
});

test('a range that could not be allocated because a copy lies there leaves that copy alone', async () => {
  const made = await placed(4, 8, 2);
  const { a, attachment } = made;
  const copy = attachment.copies.residency.copies[0]!;
  await attachment.budget.grow(2 * CHUNK);
  attachment.budget.reserve(2 * CHUNK);
  await expect(attachment.copies.allocate([{ ...copy }])).rejects.toThrow(/ALREADY_EXISTS/);
  expect(a.allocated(RAM)).toBe(2 * CHUNK);
  expect((await fetched(made, 0, 2 * CHUNK)).equals(full(1, 2 * CHUNK))).toBe(true);
});

/** What the next agent makes of the state file and the feeders. */
async function nextAgent(made: Bench): Promise<Attachment> {
  const { attachment } = made;
  const later = attachmentOf(made, attachment.facts);
  later.nextLane = attachment.nextLane;
  later.copies.discard(...attachment.discards);
  later.restoreMoves(attachment.mover.undecided.map(({ wish }) => wish));
  for (const hold of attachment.budget.holds) {
    if (hold.state === 'lost') continue;
    later.budget.restore({ ...hold, state: 'unadopted', devices: new Map(hold.devices) });
  }
  const clients = [made.a, made.b, made.c];
  for (const hold of later.budget.holds) {
    const { client } = clients.find(({ feederId }) => feederId === hold.feederId)!;
    const [renewal] = await client.renew([hold]);
    hold.fencingToken = renewal!.fencingToken;
    await later.reconcile(hold, client);
  }
  return later;
}

describe('an agent that is killed', () => {
  test('leaves ranges and lane numbers that the next one takes over', async () => {
    const made = await placed(2, 8, 4);
    const { program } = made;
    const later = await nextAgent(made);
    program.connect(later);
    expect((await program.fetched(0, 4 * CHUNK)).equals(full(1, 4 * CHUNK))).toBe(true);
    expect(later.budget.usedBytes).toBe(4 * CHUNK);
    expect(later.budget.holds.map(({ lane }) => lane)).toEqual([1, 2]);
    expect(later.nextLane).toBe(3);
  });

  test('has told the next one what was dropped while a feeder was away', async () => {
    const made = bench(2, 8);
    const { a, attachment, program } = made;
    await attachment.budget.grow(4 * CHUNK);
    await program.place({ offset: 0, length: 2 * CHUNK });
    a.away = true;
    await program.drop({ offset: 0, length: 2 * CHUNK });
    await program.place({ offset: 0, length: 2 * CHUNK });
    await store(made, 0, 8, 2 * CHUNK);
    expect(attachment.discards).toHaveLength(1);
    a.away = false;
    const later = await nextAgent(made);
    expect(later.discards).toEqual([]);
    expect(a.allocated(RAM)).toBe(0);
    program.connect(later);
    expect((await program.fetched(0, 2 * CHUNK)).equals(full(8, 2 * CHUNK))).toBe(true);
  });

  test('during an evacuation leaves every byte to one copy or to the word of the program', async () => {
    const made = bench(4, 8);
    const { a, b, attachment, program } = made;
    await attachment.budget.grow(4 * CHUNK);
    await program.place({ offset: 0, length: 3 * CHUNK });
    await program.place({ offset: 3 * CHUNK, length: CHUNK });
    await store(made, 0, 1, 4 * CHUNK);
    let looks = 0;
    made.onPersist = () => {
      const copies = new Array<number>(4).fill(0);
      const asked = attachment.mover.undecided.map(({ wish }) => wish);
      for (const feeder of [a, b]) {
        for (const { leaseId, offset, bytes } of feeder.ranges) {
          const given = attachment.discards.some(
            (d) => d.feederId === feeder.feederId && d.leaseId === leaseId && d.offset === offset,
          );
          if (given) continue;
          expect(bytes.every((byte) => byte === 1)).toBe(true);
          const both = asked.some((wish) => wish.offset === offset);
          for (let at = 0; at < bytes.length; at += CHUNK)
            copies[(offset + at) / CHUNK]! += both ? 0.5 : 1;
        }
      }
      expect(copies).toEqual([1, 1, 1, 1]);
      looks++;
    };
    a.draining = true;
    expect(await attachment.evacuate(a.feederId, WATCH)).toBe(4 * CHUNK);
    expect(looks).toBeGreaterThanOrEqual(6);
    expect(attachment.discards).toEqual([]);
    expect((await fetched(made, 0, 4 * CHUNK)).equals(full(1, 4 * CHUNK))).toBe(true);
  });
});

describe('two copies', () => {
  async function twice(ramA: number, ramB: number, ramC: number, granules: number): Promise<Bench> {
    const made = bench(ramA, ramB, 0, { ramC, copies: 2 });
    expect(await made.attachment.budget.grow(granules * CHUNK)).toBe(true);
    await made.program.place({ offset: 0, length: granules * CHUNK });
    await store(made, 0, 7, granules * CHUNK);
    return made;
  }

  test('lie on two feeders, and the budget counts both', async () => {
    const made = bench(4, 4, 0, { ramC: 4, copies: 2 });
    const { a, b, c, attachment, program } = made;
    expect(attachment.budget.limitBytes).toBe(6 * CHUNK);
    expect(await attachment.budget.grow(7 * CHUNK)).toBe(false);
    expect(use(a, b, c).flat()).toEqual([0, 0, 0, 0, 0, 0]);
    expect(await attachment.budget.grow(5 * CHUNK)).toBe(true);
    expect(attachment.budget.heldBytes).toBe(5 * CHUNK);
    expect(a.leased(RAM) + b.leased(RAM) + c.leased(RAM)).toBe(10 * CHUNK);
    for (let at = 0; at < 5; at++) await program.place({ offset: at * CHUNK, length: CHUNK });
    await store(made, 0, 7, 5 * CHUNK);
    for (const { lanes } of program.lanesOf) expect(new Set(lanes).size).toBe(2);
    expect(attachment.budget.usedBytes).toBe(5 * CHUNK);
    for (let at = 0; at < 5; at++) await program.drop({ offset: at * CHUNK, length: CHUNK });
    expect(await attachment.budget.shrink(2 * CHUNK)).toBe(2 * CHUNK);
    await program.place({ offset: 0, length: 3 * CHUNK });
    expect(await attachment.budget.shrink(9 * CHUNK)).toBe(0);
    expect(attachment.budget.heldBytes).toBe(3 * CHUNK);
  });

  test('one feeder alone is not enough', async () => {
    const { attachment } = bench(8, 0, 0, { copies: 2 });
    expect(attachment.budget.limitBytes).toBe(0);
    expect(await attachment.budget.grow(CHUNK)).toBe(false);
  });

  test('a feeder is lost: no byte is, and a third one takes its place in the background', async () => {
    const made = await twice(2, 2, 4, 2);
    const { a, b, c, attachment, program, lost, told } = made;
    const [first, second] = [a, b, c].filter((feeder) => feeder.allocated(RAM) > 0);
    first!.restart();
    first!.away = true;
    attachment.loseFeeder(first!.feederId);
    expect((await fetched(made, 0, 2 * CHUNK)).equals(full(7, 2 * CHUNK))).toBe(true);
    await until(() => told.includes('whole'));
    expect(lost).toEqual([]);
    expect(told).toEqual(['bare', 'whole']);
    expect(attachment.budget.heldBytes).toBe(2 * CHUNK);
    expect(attachment.budget.holds.every(({ state }) => state === 'held')).toBe(true);
    // The one that was left goes, too: the new copy holds the same.
    second!.restart();
    second!.away = true;
    attachment.loseFeeder(second!.feederId);
    expect((await fetched(made, 0, 2 * CHUNK)).equals(full(7, 2 * CHUNK))).toBe(true);
    expect(program.lostRanges).toEqual([]);
    await attachment.end();
  });

  test('without a third feeder they wait for one, and both gone is a loss', async () => {
    const made = await twice(4, 4, 0, 2);
    const { a, b, attachment, lost, told } = made;
    a.restart();
    a.away = true;
    attachment.loseFeeder(a.feederId);
    await sleep(20);
    expect(told).toEqual(['bare']);
    a.away = false;
    attachment.wake();
    await until(() => told.includes('whole'));
    expect(use(a, b)).toEqual([
      [2, 2],
      [2, 2],
    ]);
    for (const feeder of [a, b]) {
      feeder.restart();
      feeder.away = true;
      attachment.loseFeeder(feeder.feederId);
    }
    expect(lost).toEqual([{ offset: 0, length: 2 * CHUNK, feeder: 'beta' }]);
    await attachment.end();
  });

  test('a drain moves one of the two and never onto the feeder of the other', async () => {
    const made = await twice(2, 4, 4, 2);
    const { a, b, c, attachment, program } = made;
    a.draining = true;
    expect(await attachment.evacuate(a.feederId, WATCH)).toBe(2 * CHUNK);
    expect(use(a, b, c)).toEqual([
      [0, 0],
      [2, 2],
      [2, 2],
    ]);
    for (const { lanes } of program.lanesOf) expect(new Set(lanes).size).toBe(2);
    expect((await fetched(made, 0, 2 * CHUNK)).equals(full(7, 2 * CHUNK))).toBe(true);
  });

  test('the next agent finds both', async () => {
    const made = await twice(4, 4, 0, 3);
    const { program, a } = made;
    const later = await nextAgent(made);
    program.connect(later);
    expect(later.copies.residency.all.map(({ copies }) => copies.length)).toEqual([2]);
    expect(later.budget.usedBytes).toBe(3 * CHUNK);
    a.restart();
    a.away = true;
    later.loseFeeder(a.feederId);
    expect((await program.fetched(0, 3 * CHUNK)).equals(full(7, 3 * CHUNK))).toBe(true);
    await later.end();
  });
});
