// SPDX-License-Identifier: Apache-2.0
// One program's ranges over feeders in memory: random steps against a model, and each failure on
// its own.
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { closeSync, readSync, writeSync } from 'node:fs';
import fc from 'fast-check';
import { Attachment } from '../../../host/attachments/attachment.js';
import { Staging } from '../../../host/attachments/staging.js';
import type { ByteRange } from '../../../host/placement/residency.js';
import { MIB } from '../../../proto/base/units.js';
import { createStaging } from '../../integration/host/shim-peer.js';
import { FakeDirectory, FakeFeeder } from './fake-feeder.js';

const CHUNK = 2 * MIB;
const RAM = '1:0';
const VRAM = '2:0';
const STAGING_BYTES = 8 * CHUNK;

const fast = { readBytesPerSecond: 2e9, latencyMicros: 100 };
const slow = { readBytesPerSecond: 1e9, latencyMicros: 100 };

function capacity(ram: number, vram = 0): Map<string, number> {
  return new Map([[RAM, ram * CHUNK], ...(vram > 0 ? [[VRAM, vram * CHUNK] as const] : [])]);
}

interface Bench {
  /** Runs whenever the attachment wants its state on disk. */
  onPersist: () => void;
  readonly a: FakeFeeder;
  readonly b: FakeFeeder;
  readonly attachment: Attachment;
  readonly lost: (ByteRange & { feeder: string })[];
}

let stagingFd: number;
let staging: Staging;

beforeEach(async () => {
  stagingFd = createStaging(STAGING_BYTES);
  staging = await Staging.open(process.pid, stagingFd, STAGING_BYTES);
});

afterEach(async () => {
  await staging.close();
  closeSync(stagingFd);
});

function bench(ramA = 8, ramB = 8, vramB = 0): Bench {
  const a = new FakeFeeder('F-000000000000000a', 'alpha', capacity(ramA), fast);
  const b = new FakeFeeder('F-000000000000000b', 'beta', capacity(ramB, vramB), slow);
  const lost: (ByteRange & { feeder: string })[] = [];
  const facts = {
    attachmentId: '00'.repeat(16),
    identity: { pid: process.pid, startTicks: 1 },
    command: 'test',
    deviceUuid: '',
    deviceTotalBytes: 0,
    deviceName: 'GPU',
    arenaBase: 0x500000000000n,
    arenaBytes: 64 * CHUNK,
    gated: true,
    vramBudgetBytes: undefined,
    ramBudgetBytes: undefined,
    startedUnixMs: 0,
    runId: '',
  };
  const attachment = new Attachment(facts, {
    directory: new FakeDirectory([a, b]),
    persist: async () => made.onPersist(),
    onLost: (_attachment, range, feeder) => void lost.push({ ...range, feeder }),
  });
  attachment.staging = staging;
  const made: Bench = { a, b, attachment, lost, onPersist: () => undefined };
  return made;
}

async function store(
  attachment: Attachment,
  offset: number,
  fill: number,
  length = CHUNK,
): Promise<void> {
  writeSync(stagingFd, Buffer.alloc(length, fill), 0, length, 0);
  await attachment.store({ offset, length, stagingOffset: 0 });
}

async function fetched(attachment: Attachment, offset: number, length: number): Promise<Buffer> {
  await attachment.fetch({ offset, length, stagingOffset: 0 });
  const bytes = Buffer.alloc(length);
  readSync(stagingFd, bytes, 0, length, 0);
  return bytes;
}

const full = (fill: number, length = CHUNK): Buffer => Buffer.alloc(length, fill);

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
    const { a, b, attachment } = bench(3, 8);
    await attachment.budget.grow(5 * CHUNK);
    const placed = await attachment.place({ offset: CHUNK, length: 5 * CHUNK });
    expect(placed.feederName).toBe('alpha');
    expect([a.allocated(RAM), b.allocated(RAM)]).toEqual([3 * CHUNK, 2 * CHUNK]);
    await store(attachment, 2 * CHUNK + 5, 7, 3 * CHUNK);
    const bytes = await fetched(attachment, 2 * CHUNK, 4 * CHUNK);
    expect(bytes.subarray(0, 5)).toEqual(full(0, 5));
    expect(bytes.subarray(5, 3 * CHUNK + 5).equals(full(7, 3 * CHUNK))).toBe(true);
    expect(bytes.subarray(3 * CHUNK + 5).every((byte) => byte === 0)).toBe(true);
    await attachment.drop({ offset: CHUNK, length: 5 * CHUNK });
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
    expect(attachment.residency.all).toEqual([]);
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
    await made.attachment.place({ offset: 0, length: 4 * CHUNK });
    await store(made.attachment, 0, 1, 4 * CHUNK);
    return made;
  }

  test('away for a moment: unreachable, drop works, and adoption frees what was dropped', async () => {
    const { a, attachment } = await twoFeeders();
    a.away = true;
    await expect(fetched(attachment, 0, CHUNK)).rejects.toThrow(/FEEDER_UNREACHABLE/);
    expect((await fetched(attachment, 2 * CHUNK, 2 * CHUNK)).equals(full(1, 2 * CHUNK))).toBe(true);
    await attachment.drop({ offset: 0, length: 2 * CHUNK });
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
    const { a, attachment, lost } = await twoFeeders();
    a.restart();
    attachment.loseFeeder(a.feederId);
    expect(lost).toEqual([{ offset: 0, length: 2 * CHUNK, feeder: 'alpha' }]);
    await expect(fetched(attachment, 0, 3 * CHUNK)).rejects.toThrow(/DATA_LOSS/);
    await expect(store(attachment, 0, 2)).rejects.toThrow(/DATA_LOSS/);
    expect((await fetched(attachment, 2 * CHUNK, 2 * CHUNK)).equals(full(1, 2 * CHUNK))).toBe(true);
    expect(attachment.budget.heldBytes).toBe(4 * CHUNK);
    await attachment.drop({ offset: 0, length: 2 * CHUNK });
    expect(await attachment.budget.shrink(2 * CHUNK)).toBe(2 * CHUNK);
    expect(attachment.budget.heldBytes).toBe(2 * CHUNK);
    expect(attachment.budget.usedBytes).toBe(2 * CHUNK);
  });

  test('a lease the feeder does not know is a loss at first use', async () => {
    const { a, attachment, lost } = await twoFeeders();
    a.restart();
    await expect(fetched(attachment, 0, CHUNK)).rejects.toThrow(/DATA_LOSS/);
    expect(lost).toHaveLength(1);
  });

  test('evacuation moves every byte and the whole grant, or refuses and loses nothing', async () => {
    const { a, b, attachment } = await twoFeeders();
    a.draining = true;
    expect(await attachment.evacuate(a.feederId)).toBe(2 * CHUNK);
    expect([a.leases.size, b.leased(RAM), b.allocated(RAM)]).toEqual([0, 4 * CHUNK, 4 * CHUNK]);
    expect((await fetched(attachment, 0, 4 * CHUNK)).equals(full(1, 4 * CHUNK))).toBe(true);
    a.draining = false;
    b.draining = true;
    await expect(attachment.evacuate(b.feederId)).rejects.toThrow(/WRONG_STATE/);
    b.draining = false;
    expect((await fetched(attachment, 0, 4 * CHUNK)).equals(full(1, 4 * CHUNK))).toBe(true);
    expect(attachment.budget.heldBytes).toBe(4 * CHUNK);
  });

  test('the end of a program releases every lease', async () => {
    const { a, b, attachment } = await twoFeeders();
    attachment.staging = undefined;
    await attachment.end();
    expect([a.leases.size, b.leases.size]).toEqual([0, 0]);
    expect(attachment.budget.heldBytes).toBe(0);
  });
});

describe('an agent that is killed', () => {
  /** What the next agent makes of the state file and the feeders. */
  async function next({ a, b, attachment }: Bench): Promise<Attachment> {
    const { facts } = attachment;
    const persist = (): Promise<void> => Promise.resolve();
    const directory = new FakeDirectory([a, b]);
    const later = new Attachment(facts, { directory, persist, onLost: () => undefined });
    later.discards.push(...attachment.discards);
    for (const hold of attachment.budget.holds) {
      later.budget.restore({ ...hold, state: 'unadopted', devices: new Map(hold.devices) });
    }
    for (const hold of later.budget.holds) {
      const { client } = hold.feederId === a.feederId ? a : b;
      const [renewal] = await client.renew([hold]);
      hold.fencingToken = renewal!.fencingToken;
      await later.reconcile(hold, client);
    }
    later.staging = staging;
    return later;
  }

  test('leaves ranges that the next one takes over byte for byte', async () => {
    const made = bench(2, 8);
    await made.attachment.budget.grow(4 * CHUNK);
    await made.attachment.place({ offset: 0, length: 4 * CHUNK });
    await store(made.attachment, 0, 5, 4 * CHUNK);
    const later = await next(made);
    expect((await fetched(later, 0, 4 * CHUNK)).equals(full(5, 4 * CHUNK))).toBe(true);
    expect(later.budget.usedBytes).toBe(4 * CHUNK);
  });

  test('has told the next one what was dropped while a feeder was away', async () => {
    const made = bench(2, 8);
    const { a, attachment } = made;
    await attachment.budget.grow(4 * CHUNK);
    await attachment.place({ offset: 0, length: 2 * CHUNK });
    a.away = true;
    await attachment.drop({ offset: 0, length: 2 * CHUNK });
    await attachment.place({ offset: 0, length: 2 * CHUNK });
    await store(attachment, 0, 8, 2 * CHUNK);
    expect(attachment.discards).toHaveLength(1);
    a.away = false;
    const later = await next(made);
    expect(later.discards).toEqual([]);
    expect(a.allocated(RAM)).toBe(0);
    expect((await fetched(later, 0, 2 * CHUNK)).equals(full(8, 2 * CHUNK))).toBe(true);
  });

  test('during an evacuation leaves exactly one good copy of every byte, whenever it is', async () => {
    const made = bench(4, 8);
    const { a, b, attachment } = made;
    await attachment.budget.grow(4 * CHUNK);
    await attachment.place({ offset: 0, length: 3 * CHUNK });
    await attachment.place({ offset: 3 * CHUNK, length: CHUNK });
    await store(attachment, 0, 1, 4 * CHUNK);
    let looks = 0;
    made.onPersist = () => {
      const copies = new Array<number>(4).fill(0);
      for (const feeder of [a, b]) {
        for (const { leaseId, offset, bytes } of feeder.ranges) {
          const given = attachment.discards.some(
            (d) => d.feederId === feeder.feederId && d.leaseId === leaseId && d.offset === offset,
          );
          if (given) continue;
          expect(bytes.every((byte) => byte === 1)).toBe(true);
          for (let at = 0; at < bytes.length; at += CHUNK) copies[(offset + at) / CHUNK]!++;
        }
      }
      expect(copies).toEqual([1, 1, 1, 1]);
      looks++;
    };
    a.draining = true;
    expect(await attachment.evacuate(a.feederId)).toBe(4 * CHUNK);
    expect(looks).toBeGreaterThanOrEqual(5);
    expect(attachment.discards).toEqual([]);
    expect((await fetched(attachment, 0, 4 * CHUNK)).equals(full(1, 4 * CHUNK))).toBe(true);
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
        const { a, b, attachment } = bench(5, 6);
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
            const placed = await attachment.place(range).then(
              () => true,
              () => false,
            );
            expect(placed).toBe(range.length <= room);
            if (placed) granules.forEach((g) => model.set(g, 0));
          } else if (act === 'drop') {
            const dropped = await attachment.drop(range).then(
              () => true,
              () => false,
            );
            if (dropped) granules.forEach((g) => model.delete(g));
          } else if (act === 'store') {
            const done = await store(attachment, range.offset, fill, range.length).then(
              () => true,
              () => false,
            );
            expect(done).toBe(granules.every((g) => model.has(g)));
            if (done) granules.forEach((g) => model.set(g, fill));
          } else if (act === 'fetch' && granules.every((g) => model.has(g))) {
            const bytes = await fetched(attachment, range.offset, range.length);
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
        attachment.staging = undefined;
        await attachment.end();
        expect(a.leases.size + b.leases.size).toBe(0);
      }),
      { numRuns: 80 },
    );
  }, 60_000);
});
