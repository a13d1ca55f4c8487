// SPDX-License-Identifier: Apache-2.0
// What the owner of a feeder says about lending while it runs, and how much one host may have of
// it.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { FeederState } from '../../../proto/gen/greenboost/v1/feeder_pb.js';
import { codeOf, firstStats, MIB, openFeeder, RAM, type TestFeeder } from './harness.js';

let feeder: TestFeeder;

beforeAll(async () => {
  feeder = await openFeeder({ hostBytesMax: 64 * MIB });
});
afterAll(() => feeder.stop());

const ram = (bytes: number) => [{ device: RAM, bytes: BigInt(bytes) }];

test('a paused feeder lends nothing new; what is lent goes on, and shrinks', async () => {
  const host = await feeder.connect();
  const lease = await host.lease({ ram: 8 * MIB });
  const control = feeder.control();
  await control.pauseFeed({ drain: false });
  expect((await firstStats(host.client)).state).toBe(FeederState.PAUSED);
  await expect(host.lease({ ram: 2 * MIB })).rejects.toMatchObject({
    code: 'WRONG_STATE',
    rawMessage: expect.stringContaining('greenboost feed resume') as unknown,
  });
  const resize = (bytes: number) => host.client.resizeLease({ lease, devices: ram(bytes) });
  expect(await codeOf(resize(16 * MIB))).toBe('WRONG_STATE');
  expect(await codeOf(host.allocate(lease, 0, 2 * MIB))).toBe('OK');
  expect(await codeOf(resize(4 * MIB))).toBe('OK');
  expect(await host.account()).toEqual({ capacity: 256 * MIB, leased: 4 * MIB, used: 2 * MIB });
  await control.resumeFeed({});
  expect((await firstStats(host.client)).state).toBe(FeederState.LENDING);
  expect(await codeOf(resize(16 * MIB))).toBe('OK');
  await host.client.releaseLease({ lease });
});

test('watchers are told at once that hosts shall move away, and that they need not any more', async () => {
  const host = await feeder.connect();
  const control = feeder.control();
  const states: number[] = [];
  const call = host.client.watchStats({ intervalMs: 60_000 });
  const watched = (async () => {
    for await (const message of call) {
      const { state } = message as { state: number };
      if (states.at(-1) !== state) states.push(state);
      if (states.length === 1) await control.pauseFeed({ drain: true });
      if (states.length === 2) await control.pauseFeed({ drain: false });
      if (states.length === 3) await control.resumeFeed({});
      if (states.length === 4) break;
    }
  })();
  await watched;
  const { LENDING, DRAINING, PAUSED } = FeederState;
  expect(states).toEqual([LENDING, DRAINING, PAUSED, LENDING]);
}, 5_000);

test('one host has at most its quota over all of its leases; another has its own', async () => {
  const host = await feeder.connect();
  const first = await host.lease({ ram: 40 * MIB });
  await expect(host.lease({ ram: 26 * MIB })).rejects.toMatchObject({
    code: 'CAPACITY_EXHAUSTED',
    rawMessage: expect.stringMatching(/at most 64\.0 MiB, 40\.0 MiB are promised/) as unknown,
  });
  const second = await host.lease({ ram: 24 * MIB });
  const resize = (bytes: number) => host.client.resizeLease({ lease: first, devices: ram(bytes) });
  expect(await codeOf(resize(42 * MIB))).toBe('CAPACITY_EXHAUSTED');
  expect(await codeOf(resize(32 * MIB))).toBe('OK');
  expect(await codeOf(resize(40 * MIB))).toBe('OK');
  const again = await feeder.connect(host.hostId); // Another session of the same host.
  expect(await codeOf(again.lease({ ram: 2 * MIB }))).toBe('CAPACITY_EXHAUSTED');
  const other = await feeder.connect();
  const theirs = await other.lease({ ram: 64 * MIB });
  await host.client.releaseLease({ lease: second });
  expect(await codeOf(host.lease({ ram: 24 * MIB }))).toBe('OK');
  await other.client.releaseLease({ lease: theirs });
});

test('a feeder that stops neither pauses nor resumes', async () => {
  const stopping = await openFeeder();
  const host = await stopping.connect();
  await host.lease({ ram: 2 * MIB });
  const control = stopping.control();
  await control.stopFeed({ graceMs: 20_000 });
  expect(await codeOf(control.pauseFeed({}))).toBe('WRONG_STATE');
  expect(await codeOf(control.resumeFeed({}))).toBe('WRONG_STATE');
  await stopping.stop();
});
