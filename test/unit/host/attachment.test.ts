// SPDX-License-Identifier: Apache-2.0
// One program's ranges over feeders in memory: random steps against a model, and each failure on
// its own.
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { VramArbiter } from '../../../host/attachments/arbiter.js';
import { GrantDesk, type BudgetAnswer } from '../../../host/attachments/grants.js';
import { EventLog } from '../../../host/control/events.js';
import { Ledger } from '../../../host/ledger.js';
import { AbiTier } from '../../../host/shim/abi.js';
import { createLogger } from '../../../proto/base/log.js';
import { bench, CHUNK, fetched, full, RAM, store, VRAM, type Bench } from './bench.js';
import { FakeClock } from './fake-clock.js';

describe('grants', () => {
  test('fill the cheapest feeder first, byte-exact, and give back the dearest first', async () => {
    const { a, b, attachment } = bench(4, 8);
    expect(await attachment.budget.grow(6 * CHUNK)).toBe(true);
    expect([a.leased(RAM), b.leased(RAM)]).toEqual([4 * CHUNK, 2 * CHUNK]);
    expect(await attachment.budget.shrink(3 * CHUNK)).toBe(3 * CHUNK);
    expect([a.leased(RAM), b.leased(RAM)]).toEqual([3 * CHUNK, 0]);
    expect(b.leases.size).toBe(0);
    expect(attachment.budget.heldBytes).toBe(3 * CHUNK);
  });

  test('are all or nothing', async () => {
    const { a, b, attachment } = bench(2, 2);
    expect(await attachment.budget.grow(5 * CHUNK)).toBe(false);
    expect([a.leases.size, b.leases.size, attachment.budget.heldBytes]).toEqual([0, 0, 0]);
  });

  test('go elsewhere when a feeder refuses after all, and roll back when nobody takes them', async () => {
    const { a, b, attachment } = bench(4, 4);
    a.failNext = { call: 'acquire', code: 'CAPACITY_EXHAUSTED' };
    expect(await attachment.budget.grow(3 * CHUNK)).toBe(true);
    expect([a.leased(RAM), b.leased(RAM)]).toEqual([0, 3 * CHUNK]);
    b.failNext = { call: 'resize', code: 'FEEDER_UNREACHABLE' };
    expect(await attachment.budget.grow(5 * CHUNK)).toBe(false);
    expect([a.leased(RAM), b.leased(RAM), attachment.budget.heldBytes]).toEqual([
      0,
      3 * CHUNK,
      3 * CHUNK,
    ]);
  });

  test('at equal cost RAM of a feeder comes before its VRAM', async () => {
    const { b, attachment } = bench(0, 2, 4);
    expect(await attachment.budget.grow(3 * CHUNK)).toBe(true);
    expect([b.leased(RAM), b.leased(VRAM)]).toEqual([2 * CHUNK, CHUNK]);
    expect(attachment.budget.limitBytes).toBe(6 * CHUNK);
  });

  test('are not refused while a feeder with a lease is away: it may have room when it is back', async () => {
    const { a, attachment } = bench(4, 2);
    const clock = new FakeClock();
    const events = new EventLog(clock, createLogger({ name: 'test' }));
    const arbiter = new VramArbiter({ clock, events, attachments: () => [] });
    const desk = new GrantDesk(new Ledger({ reserveBytes: 0 }), arbiter);
    const ask = (chunks: number): Promise<BudgetAnswer> =>
      desk.grant(attachment, AbiTier.T2R, chunks * CHUNK);
    expect((await ask(2)).granted).toBe(true);
    expect((await ask(5)).granted).toBe(false);
    a.away = true;
    await expect(ask(3)).rejects.toThrow(/FEEDER_UNREACHABLE/);
    expect((await ask(2)).granted).toBe(true);
    attachment.loseFeeder(a.feederId);
    expect((await ask(1)).granted).toBe(false);
  });

  test('used bytes are never given back', async () => {
    const { attachment } = bench();
    await attachment.budget.grow(3 * CHUNK);
    await attachment.place({ offset: 0, length: 2 * CHUNK });
    expect(await attachment.budget.shrink(3 * CHUNK)).toBe(CHUNK);
    expect(attachment.budget.heldBytes).toBe(2 * CHUNK);
  });
});

describe('ranges', () => {
  test('a granted range always finds room, split over feeders where it must be, and keeps its bytes', async () => {
    const made = bench(3, 8);
    const { a, b, attachment, program } = made;
    await attachment.budget.grow(5 * CHUNK);
    expect(await program.place({ offset: CHUNK, length: 5 * CHUNK })).toBe('alpha');
    expect([a.allocated(RAM), b.allocated(RAM)]).toEqual([3 * CHUNK, 2 * CHUNK]);
    await store(made, 2 * CHUNK + 5, 7, 3 * CHUNK);
    const bytes = await fetched(made, 2 * CHUNK, 4 * CHUNK);
    expect(bytes.subarray(0, 5)).toEqual(full(0, 5));
    expect(bytes.subarray(5, 3 * CHUNK + 5).equals(full(7, 3 * CHUNK))).toBe(true);
    expect(bytes.subarray(3 * CHUNK + 5).every((byte) => byte === 0)).toBe(true);
    await program.drop({ offset: CHUNK, length: 5 * CHUNK });
    expect([a.allocated(RAM), b.allocated(RAM)]).toEqual([0, 0]);
    expect(attachment.budget.usedBytes).toBe(0);
  });

  test('PLACE twice is one placement; beyond the grant and across others it is refused', async () => {
    const { attachment } = bench();
    await attachment.budget.grow(2 * CHUNK);
    await attachment.place({ offset: 0, length: CHUNK });
    await attachment.place({ offset: 0, length: CHUNK });
    expect(attachment.budget.usedBytes).toBe(CHUNK);
    await expect(attachment.place({ offset: 0, length: 2 * CHUNK })).rejects.toThrow(
      /NOT_FOUND|INVALID/,
    );
    await expect(attachment.place({ offset: 4 * CHUNK, length: 2 * CHUNK })).rejects.toThrow(
      /CAPACITY/,
    );
    await attachment.place({ offset: CHUNK, length: CHUNK });
    await expect(attachment.drop({ offset: 0, length: 3 * CHUNK })).resolves.toBeUndefined();
    expect(attachment.copies.residency.all).toEqual([]);
  });

  test('a failed Allocate leaves nothing behind', async () => {
    const { a, b, attachment } = bench(2, 4);
    await attachment.budget.grow(4 * CHUNK);
    b.failNext = { call: 'allocate', code: 'DRIVER_ERROR' };
    await expect(attachment.place({ offset: 0, length: 4 * CHUNK })).rejects.toThrow(
      /DRIVER_ERROR/,
    );
    expect([a.allocated(RAM), b.allocated(RAM), attachment.budget.usedBytes]).toEqual([0, 0, 0]);
    await attachment.place({ offset: 0, length: 4 * CHUNK });
  });
});

describe('feeders that go', () => {
  async function twoFeeders(): Promise<Bench> {
    const made = bench(2, 8);
    await made.attachment.budget.grow(4 * CHUNK);
    await made.program.place({ offset: 0, length: 4 * CHUNK });
    await store(made, 0, 1, 4 * CHUNK);
    return made;
  }

  test('away for a moment: unreachable, drop works, and adoption frees what was dropped', async () => {
    const made = await twoFeeders();
    const { a, attachment, program } = made;
    a.away = true;
    await expect(fetched(made, 0, CHUNK)).rejects.toThrow(/FEEDER_UNREACHABLE/);
    expect((await fetched(made, 2 * CHUNK, 2 * CHUNK)).equals(full(1, 2 * CHUNK))).toBe(true);
    await program.drop({ offset: 0, length: 2 * CHUNK });
    expect(await attachment.budget.shrink(2 * CHUNK)).toBe(2 * CHUNK);
    expect(a.allocated(RAM)).toBe(2 * CHUNK);
  });

  test('a grant that waits on an away feeder says unreachable, not full', async () => {
    const { a, attachment } = bench(2, 0);
    await attachment.budget.grow(2 * CHUNK);
    a.away = true;
    await expect(attachment.place({ offset: 0, length: CHUNK })).rejects.toThrow(
      /FEEDER_UNREACHABLE/,
    );
  });

  test('lost: exactly the ranges concerned are named, the rest stays, and the account comes out even', async () => {
    const made = await twoFeeders();
    const { a, attachment, program, lost } = made;
    a.restart();
    attachment.loseFeeder(a.feederId);
    expect(lost).toEqual([{ offset: 0, length: 2 * CHUNK, feeder: 'alpha' }]);
    expect(program.lostRanges).toEqual(lost);
    await expect(fetched(made, 0, 3 * CHUNK)).rejects.toThrow(/DATA_LOSS/);
    await expect(store(made, 0, 2)).rejects.toThrow(/DATA_LOSS/);
    expect((await fetched(made, 2 * CHUNK, 2 * CHUNK)).equals(full(1, 2 * CHUNK))).toBe(true);
    expect(attachment.budget.heldBytes).toBe(4 * CHUNK);
    await program.drop({ offset: 0, length: 2 * CHUNK });
    expect(await attachment.budget.shrink(2 * CHUNK)).toBe(2 * CHUNK);
    expect(attachment.budget.heldBytes).toBe(2 * CHUNK);
    expect(attachment.budget.usedBytes).toBe(2 * CHUNK);
  });

  test('a lease the feeder does not know is a loss when its lane is asked for', async () => {
    const made = await twoFeeders();
    made.a.restart();
    await expect(fetched(made, 0, CHUNK)).rejects.toThrow(/DATA_LOSS/);
    expect(made.lost).toHaveLength(1);
  });

  test('the end of a program releases every lease', async () => {
    const { a, b, attachment } = await twoFeeders();
    await attachment.end();
    expect([a.leases.size, b.leases.size]).toEqual([0, 0]);
    expect(attachment.budget.heldBytes).toBe(0);
  });
});

describe('lanes', () => {
  test('have numbers of their own that are never used again, and lead to their lease only', async () => {
    const made = bench(2, 8);
    const { attachment, program } = made;
    await attachment.budget.grow(4 * CHUNK);
    await program.place({ offset: 0, length: 4 * CHUNK });
    expect(program.lanesOf.map(({ lanes }) => lanes)).toEqual([[1], [2]]);
    await program.drop({ offset: 0, length: 4 * CHUNK });
    await attachment.budget.shrink(4 * CHUNK);
    await expect(attachment.ticket(1)).rejects.toThrow(/NOT_FOUND/);
    await expect(attachment.ticket(0)).rejects.toThrow(/NOT_FOUND/);
    await attachment.budget.grow(2 * CHUNK);
    await program.place({ offset: 0, length: CHUNK });
    expect(program.lanesOf.map(({ lanes }) => lanes)).toEqual([[3]]);
  });

  test('are counted for their feeder, each byte once; a broken one is looked into', async () => {
    const { a, attachment, directory, told } = bench();
    await attachment.budget.grow(CHUNK);
    const report = (bytes: bigint, state = 0) => ({
      lane: 1,
      state,
      bytes_read: bytes,
      bytes_written: 2n * bytes,
      wire_bytes_in: bytes,
      wire_bytes_out: bytes,
      cached_bytes: 0n,
      round_trip_ns: 1n,
      key_age_ms: 1n,
      connections: 2,
      opened_count: 1,
      cipher: 'AES-256-GCM',
      provider: 'test',
      launch_count: 0n,
      crossing_count: 0n,
      crossing_bytes_out: 0n,
      crossing_bytes_in: 0n,
      replica_bytes: 0n,
    });
    attachment.lanes.note(report(5n));
    attachment.lanes.note(report(8n));
    attachment.lanes.note({ ...report(100n), lane: 9 });
    expect(directory.traffic.get(a.feederId)).toEqual({ sent: 16, received: 8 });
    expect(told).toEqual([]);
    attachment.lanes.note(report(8n, 11));
    attachment.lanes.note(report(8n, 11));
    expect([told, directory.suspects]).toEqual([['lane broken'], [a.feederId]]);
    // Opened again, its counters begin anew.
    attachment.lanes.note(report(3n));
    expect(directory.traffic.get(a.feederId)).toEqual({ sent: 22, received: 11 });
    expect(attachment.lanesTo(a.feederId)).toHaveLength(1);
    // What an earlier agent has counted is not counted again.
    const later = bench();
    await later.attachment.budget.grow(CHUNK);
    later.attachment.lanes.inherit(1);
    later.attachment.lanes.note(report(50n));
    later.attachment.lanes.note(report(52n));
    expect(later.directory.traffic.get(later.a.feederId)).toEqual({ sent: 4, received: 2 });
  });
});

test('reconciliation frees what only the feeder has, and loses what only we have', async () => {
  const { a, attachment, lost } = bench();
  await attachment.budget.grow(4 * CHUNK);
  await attachment.place({ offset: 0, length: CHUNK });
  await attachment.place({ offset: CHUNK, length: CHUNK });
  const [hold] = attachment.budget.holds;
  await a.client.allocate(hold!, RAM, 10 * CHUNK, CHUNK);
  await a.client.free(hold!, RAM, 0, CHUNK);
  await attachment.reconcile(hold!, a.client);
  expect(a.allocated(RAM)).toBe(CHUNK);
  expect(lost).toEqual([{ offset: 0, length: CHUNK, feeder: 'alpha' }]);
});

describe('random steps', () => {
  const step = fc.record({
    act: fc.constantFrom(
      'grow',
      'grow',
      'shrink',
      'place',
      'place',
      'drop',
      'store',
      'store',
      'fetch',
      'fail',
    ),
    at: fc.integer({ min: 0, max: 12 }),
    count: fc.integer({ min: 1, max: 4 }),
    fill: fc.integer({ min: 1, max: 255 }),
  });

  test('bytes and accounts stay exact against a model', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 10, maxLength: 60 }), async (steps) => {
        const made = bench(5, 6);
        const { a, b, attachment, program } = made;
        const model = new Map<number, number>();
        for (const { act, at, count, fill } of steps) {
          const range = { offset: at * CHUNK, length: count * CHUNK };
          const held = attachment.budget.heldBytes;
          const granules = Array.from({ length: count }, (_, index) => at + index);
          if (act === 'grow') {
            const granted = await attachment.budget.grow(range.length);
            expect(granted).toBe(held + range.length <= 11 * CHUNK);
          } else if (act === 'shrink') {
            const freeBytes = held - attachment.budget.usedBytes;
            expect(await attachment.budget.shrink(range.length)).toBe(
              Math.min(range.length, freeBytes),
            );
          } else if (act === 'place') {
            const room = held - attachment.budget.usedBytes;
            if (granules.some((g) => model.has(g))) continue;
            const placed = await program.place(range).then(
              () => true,
              () => false,
            );
            expect(placed).toBe(range.length <= room);
            if (placed) granules.forEach((g) => model.set(g, 0));
          } else if (act === 'drop') {
            const dropped = await program.drop(range).then(
              () => true,
              () => false,
            );
            if (dropped) granules.forEach((g) => model.delete(g));
          } else if (act === 'store') {
            const done = await store(made, range.offset, fill, range.length).then(
              () => true,
              () => false,
            );
            expect(done).toBe(granules.every((g) => model.has(g)));
            if (done) granules.forEach((g) => model.set(g, fill));
          } else if (act === 'fetch' && granules.every((g) => model.has(g))) {
            const bytes = await fetched(made, range.offset, range.length);
            granules.forEach((g, index) => {
              expect(bytes[index * CHUNK]).toBe(model.get(g));
              expect(bytes[(index + 1) * CHUNK - 1]).toBe(model.get(g));
            });
          } else if (act === 'fail') {
            a.failNext = { call: 'acquire', code: 'CAPACITY_EXHAUSTED' };
            await attachment.budget.grow(CHUNK);
            a.failNext = undefined;
          }
          expect(attachment.budget.usedBytes).toBe(model.size * CHUNK);
          expect(a.allocated(RAM) + b.allocated(RAM)).toBe(model.size * CHUNK);
          expect(a.leased(RAM) + b.leased(RAM)).toBe(attachment.budget.heldBytes);
        }
        await attachment.end();
        expect(a.leases.size + b.leases.size).toBe(0);
      }),
      { numRuns: 80 },
    );
  }, 60_000);
});
