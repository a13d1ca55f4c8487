// SPDX-License-Identifier: Apache-2.0
// An executor as its daemon has it: a process of its own with lent RAM, lanes that end in it, pulls
// between two of them, what happens meanwhile, and what is left afterwards.
import { afterEach, describe, expect, test } from '@jest/globals';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Executor } from '../../../driver/executor/client.js';
import type { LaneEvent, LaneGrant } from '../../../driver/executor/lanes.js';
import { LaneClient } from '../../../driver/lane/client.js';
import { Door } from '../../../driver/lane/door.js';
import { LaneStatus } from '../../../driver/lane/names.js';
import { systemClock } from '../../../proto/base/clock.js';
import { createLogger } from '../../../proto/base/log.js';
import { PATIENCE_MS } from '../../patience.js';

const MIB = 2 ** 20;
const ends: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

interface Place {
  readonly executor: Executor;
  readonly door: Door;
  readonly events: LaneEvent[];
  readonly give: (more?: Partial<LaneGrant>) => Promise<LaneGrant>;
  readonly open: (grant: LaneGrant) => Promise<LaneClient>;
}

const quiet = createLogger({ name: 'feeder', level: 'silent' });

async function place(): Promise<Place> {
  const events: LaneEvent[] = [];
  const executor = await Executor.start({
    arenaBase: 0x5100_0000_0000n,
    arenaBytes: 2n ** 36n,
    gpuOrdinals: [],
    gpu: 'none',
    log: quiet,
    clock: systemClock,
    onLaneEvent: (event) => events.push(event),
  });
  ends.push(() => executor.stop());
  const door = Door.open({ lanOnly: true });
  ends.push(() => door.close());
  door.listen('127.0.0.1', 0);
  const give = async (more: Partial<LaneGrant> = {}): Promise<LaneGrant> => {
    const grant = {
      ticketId: randomBytes(16),
      secret: randomBytes(32),
      offset: 0n,
      length: BigInt(16 * MIB),
      rights: { read: true, write: true },
      connections: 2,
      tag: 9n,
      ...more,
    };
    await executor.grant(grant);
    door.route(grant.ticketId, executor.doorFd);
    return grant;
  };
  const open = async ({ ticketId, secret }: LaneGrant): Promise<LaneClient> => {
    const ticket = { id: ticketId, secret };
    const port = door.port as number;
    const lane = await LaneClient.open({ address: '127.0.0.1', port, ticket, connections: 2 });
    ends.push(() => lane.close());
    return lane;
  };
  return { executor, door, events, give, open };
}

async function until(condition: () => boolean): Promise<void> {
  for (let waited = 0; !condition() && waited < PATIENCE_MS; waited += 10) await sleep(10);
  expect(condition()).toBe(true);
}

const refusal = (code: string): object => expect.objectContaining({ code }) as object;
const ram = (offset: number, length: number): { offset: bigint; length: bigint } => ({
  offset: BigInt(offset),
  length: BigInt(length),
});

describe('lanes of an executor', () => {
  test('bytes land in lent memory, are counted and told of', async () => {
    const { executor, events, give, open } = await place();
    await executor.allocate(ram(0, 16 * MIB));
    const grant = await give();
    expect((await executor.lane(grant.ticketId)).state).toBe(LaneStatus.PENDING);
    const lane = await open(grant);
    const sent = randomBytes(5 * MIB + 1);
    await lane.write(0, 4097, sent);
    const back = Buffer.alloc(sent.length);
    await lane.read(0, 4097, back);
    expect(back.equals(sent)).toBe(true);
    expect(await executor.lane(grant.ticketId)).toMatchObject({
      state: LaneStatus.OK,
      connections: 3,
      bytesRead: sent.length,
      bytesWritten: sent.length,
      cachedBytes: 0,
    });
    const { readBytes, writeBytes } = await executor.stat();
    expect([readBytes, writeBytes]).toEqual([sent.length, sent.length]);
    await lane.close();
    await until(() => events.length === 2);
    expect(events.map(({ kind, tag, status }) => [kind, tag, status])).toEqual([
      ['opened', 9n, LaneStatus.OK],
      ['closed', 9n, LaneStatus.CLOSED],
    ]);
    expect(Buffer.from(events[0]?.ticketId ?? []).equals(grant.ticketId)).toBe(true);
    await executor.revoke(grant.ticketId);
    await expect(executor.lane(grant.ticketId)).rejects.toEqual(refusal('NOT_FOUND'));
    await expect(executor.limit(grant.ticketId, 0)).rejects.toEqual(refusal('NOT_FOUND'));
  });

  test('what a ticket may not, it cannot; what is freed is gone', async () => {
    const { executor, give, open } = await place();
    await executor.allocate(ram(0, 4 * MIB));
    const lane = await open(await give({ rights: { read: true, write: false } }));
    await expect(lane.write(0, 0, Buffer.alloc(10))).rejects.toEqual(refusal('PERMISSION_DENIED'));
    await lane.read(0, 0, Buffer.alloc(10));
    await executor.free(ram(0, 4 * MIB));
    await expect(lane.read(0, 0, Buffer.alloc(10))).rejects.toEqual(refusal('DRIVER_ERROR'));
    await expect(give({ length: 0n })).rejects.toEqual(refusal('INVALID_ARGUMENT'));
  });

  test('many ranges are freed at once, and come back as zeroes', async () => {
    const { executor, give, open } = await place();
    const ranges = Array.from({ length: 40 }, (_, index) => ram(index * 2 * MIB, 2 * MIB));
    for (const range of ranges) await executor.allocate(range);
    const lane = await open(await give());
    await lane.write(0, 0, Buffer.alloc(16 * MIB, 7));
    await Promise.all(ranges.map((range) => executor.free(range)));
    expect(await executor.stat()).toMatchObject({ ramBytes: 0, rangeCount: 0 });
    await executor.allocate(ram(0, 2 * MIB));
    const back = Buffer.alloc(2 * MIB, 1);
    await lane.read(0, 0, back);
    expect(back.equals(Buffer.alloc(2 * MIB))).toBe(true);
  });
});

describe('pulls', () => {
  test('bring bytes over, tell how far they are, and can be told to stop', async () => {
    const from = await place();
    const to = await place();
    await from.executor.allocate(ram(0, 32 * MIB));
    await to.executor.allocate(ram(0, 32 * MIB));
    const content = randomBytes(32 * MIB);
    const length = BigInt(32 * MIB);
    const source = await from.open(await from.give({ length }));
    await source.write(0, 0, content);
    const ticket = async (bytesPerSecond?: number): Promise<LaneGrant> =>
      from.give({
        length,
        rights: { read: true, write: false },
        ...(bytesPerSecond && { bytesPerSecond }),
      });
    const pullBy = ({ ticketId, secret }: LaneGrant) => ({
      ticketId,
      secret,
      address: '127.0.0.1',
      port: from.door.port as number,
      connections: 2,
      sourceOffset: 0n,
      offset: 0n,
      length,
    });
    const seen: number[] = [];
    const slow = pullBy(await ticket(16 * MIB));
    await to.executor.pull(slow, { onProgress: (bytes) => seen.push(bytes) });
    expect(seen.length).toBeGreaterThan(1);
    expect(seen).toEqual([...seen].sort((a, b) => a - b));
    expect(seen.at(-1)).toBe(32 * MIB);
    const lane = await to.open(await to.give({ length }));
    const back = Buffer.alloc(32 * MIB);
    await lane.read(0, 0, back);
    expect(back.equals(content)).toBe(true);

    const controller = new AbortController();
    const stopped = to.executor.pull(pullBy(await ticket(MIB)), { signal: controller.signal });
    setTimeout(() => controller.abort(), 100);
    await expect(stopped).rejects.toEqual(refusal('CANCELED'));
    const wrong = { ...pullBy(await ticket()), secret: randomBytes(32) };
    await expect(to.executor.pull(wrong)).rejects.toMatchObject({
      details: { laneStatus: LaneStatus.REFUSED },
    });
    const gone = expect(to.executor.pull(pullBy(await ticket(MIB)))).rejects.toMatchObject({
      message: expect.stringMatching(/CLOSED|DISCONNECTED/) as unknown,
    });
    await sleep(200);
    await from.executor.stop();
    await gone;
  });
});

test('a folder for blocks is taken once, and one that is not there is refused', async () => {
  const path = mkdtempSync(join(tmpdir(), 'gb-blocks-'));
  ends.push(async () => rmSync(path, { recursive: true }));
  const { executor } = await place();
  const key = randomBytes(32);
  await executor.cache({ key, path, budgetBytes: 64n * BigInt(MIB) });
  await expect(executor.cache({ key, path, budgetBytes: 64n * BigInt(MIB) })).rejects.toEqual(
    refusal('INVALID_ARGUMENT'),
  );
  const other = await place();
  await expect(
    other.executor.cache({ key, path: '/nonexistent', budgetBytes: 64n * BigInt(MIB) }),
  ).rejects.toEqual(refusal('DRIVER_ERROR'));
});

test('an executor that ends leaves no descriptor behind', async () => {
  const count = (): number => readdirSync('/proc/self/fd').length;
  const start = async (): Promise<void> => {
    const { executor } = await place();
    await executor.stop();
    for (const end of ends.splice(0).reverse()) await end();
    await sleep(20);
  };
  await start();
  const before = count();
  for (let round = 0; round < 5; round++) await start();
  expect(count()).toBeLessThanOrEqual(before);
});
