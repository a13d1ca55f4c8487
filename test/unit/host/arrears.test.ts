// SPDX-License-Identifier: Apache-2.0
// What a feeder could not be told, or refused, when it was told: it learns it as soon as it can, and nothing of the
// program's own is ever freed by that.
import { expect, test } from '@jest/globals';
import { ARREARS_DELAY_MS_MAX, ARREARS_DELAY_MS_MIN } from '../../../proto/base/limits.js';
import { bench, CHUNK, fetched, full, RAM, store, type Bench } from './bench.js';
import { FakeClock, settle } from './fake-clock.js';

const range = { offset: 0, length: CHUNK };

async function onOneFeeder(): Promise<Bench & { clock: FakeClock }> {
  const clock = new FakeClock();
  const made = bench(8, 0, 0, { clock });
  await made.attachment.budget.grow(4 * CHUNK);
  await made.program.place(range);
  await made.program.place({ offset: CHUNK, length: CHUNK });
  await store(made, 0, 7, 2 * CHUNK);
  return Object.assign(made, { clock });
}

test('a feeder that refuses a lower limit is told again', async () => {
  const { a, attachment, clock, told } = await onOneFeeder();
  a.failNext = { call: 'resize', code: 'WRONG_STATE' };
  expect(await attachment.budget.shrink(2 * CHUNK)).toBe(2 * CHUNK);
  expect([a.leased(RAM), attachment.budget.heldBytes]).toEqual([4 * CHUNK, 2 * CHUNK]);
  await clock.advance(ARREARS_DELAY_MS_MIN);
  expect(a.leased(RAM)).toBe(2 * CHUNK);
  expect([told, clock.armed]).toEqual([[], 0]);
});

test('with longer and longer pauses, and people are told once', async () => {
  const { a, attachment, clock, told } = await onOneFeeder();
  let asked = 0;
  const resize = a.client.resize;
  const refusing = async (...wish: Parameters<typeof resize>): Promise<void> => {
    asked++;
    a.failNext = { call: 'resize', code: 'WRONG_STATE' };
    return resize(...wish);
  };
  Object.assign(a.client, { resize: refusing });
  await attachment.budget.shrink(2 * CHUNK);
  await clock.advance(10 * ARREARS_DELAY_MS_MAX);
  expect(asked).toBeGreaterThan(10);
  expect(asked).toBeLessThan(25);
  expect(told).toEqual(['alpha refuses: WRONG_STATE']);
  Object.assign(a.client, { resize });
  await clock.advance(ARREARS_DELAY_MS_MAX);
  expect([a.leased(RAM), clock.armed]).toEqual([2 * CHUNK, 0]);
  expect(told).toEqual(['alpha refuses: WRONG_STATE', 'alpha has taken it back']);
});

test('what was dropped and given back before a feeder took calls is told when it does', async () => {
  const { a, attachment, clock, program } = await onOneFeeder();
  // Its leases are compared already, its link is not ready yet.
  const [hold] = attachment.budget.holds;
  await attachment.reconcile(hold!, a.client);
  a.away = true;
  await program.drop(range);
  expect(await attachment.budget.shrink(3 * CHUNK)).toBe(3 * CHUNK);
  await clock.advance(ARREARS_DELAY_MS_MAX);
  a.away = false;
  attachment.wake();
  await settle();
  expect([a.allocated(RAM), a.leased(RAM)]).toEqual([CHUNK, CHUNK]);
  expect([attachment.discards, clock.armed]).toEqual([[], 0]);
});

test('the same place is used again at once, and keeps its bytes', async () => {
  const made = await onOneFeeder();
  const { a, attachment, clock, program } = made;
  a.away = true;
  await program.drop(range);
  a.away = false;
  await program.place(range);
  await store(made, 0, 9, CHUNK);
  attachment.wake();
  await clock.advance(ARREARS_DELAY_MS_MAX);
  expect((await fetched(made, 0, CHUNK)).equals(full(9))).toBe(true);
  expect([a.allocated(RAM), attachment.discards]).toEqual([2 * CHUNK, []]);
});

test('a free under way is waited for by who wants the place', async () => {
  const made = await onOneFeeder();
  const { a, attachment, clock, program } = made;
  a.away = true;
  await program.drop(range);
  a.away = false;
  const free = a.client.free;
  let go = (): void => undefined;
  const held = new Promise<void>((resolve) => (go = resolve));
  const slow = async (...what: Parameters<typeof free>): Promise<void> => {
    await free(...what);
    await held;
  };
  Object.assign(a.client, { free: slow });
  attachment.wake();
  await settle();
  const placing = program.place(range);
  await settle();
  expect(a.allocated(RAM)).toBe(CHUNK);
  go();
  await placing;
  await store(made, 0, 9, CHUNK);
  await clock.advance(ARREARS_DELAY_MS_MAX);
  expect((await fetched(made, 0, CHUNK)).equals(full(9))).toBe(true);
});

test('nothing is tried any more when the program has ended', async () => {
  const { a, attachment, clock } = await onOneFeeder();
  a.failNext = { call: 'resize', code: 'WRONG_STATE' };
  await attachment.budget.shrink(2 * CHUNK);
  expect(clock.armed).toBe(1);
  await attachment.end();
  expect([clock.armed, a.leases.size]).toEqual([0, 0]);
});
