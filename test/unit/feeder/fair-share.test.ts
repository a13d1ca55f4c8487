// SPDX-License-Identifier: Apache-2.0
// Shares of busy hosts on a machine of which only this test knows what it can carry: every host
// gets what it asks for in proportion to its connections, up to its limit.
import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { FairShare } from '../../../feeder/fair-share.js';

const TURN_MS = 500;
const MB = 1e6;

interface Model {
  /** Asks for at most this much; Infinity: for all there is. */
  demand: number;
  connections: number;
}

/** What everybody gets of `capacity`, filled up by weight. */
function carry(
  capacity: number,
  hosts: readonly Model[],
  caps: ReadonlyMap<number, number>,
): Map<number, number> {
  const most = hosts.map(({ demand }, host) => Math.min(demand, caps.get(host) ?? Infinity));
  const rates = new Map<number, number>();
  let left = capacity;
  let open = hosts.map((_, host) => host);
  while (open.length > 0) {
    const weight = open.reduce((sum, host) => sum + hosts[host]!.connections, 0);
    const share = (host: number): number => (left * hosts[host]!.connections) / weight;
    const full = open.filter((host) => most[host]! <= share(host));
    for (const host of full.length > 0 ? full : open)
      rates.set(host, full.length > 0 ? most[host]! : share(host));
    if (full.length === 0) break;
    left -= full.reduce((sum, host) => sum + most[host]!, 0);
    open = open.filter((host) => !full.includes(host));
  }
  return rates;
}

/** Max-min fair rates. */
function fairRates(capacity: number, hosts: readonly Model[]): Map<number, number> {
  const equal = hosts.map(({ demand }) => ({ demand, connections: 1 }));
  return carry(capacity, equal, new Map());
}

/** Mean rates of the second half of `turns`. */
function play(capacity: number, hosts: readonly Model[], turns = 240): number[] {
  const fair = new FairShare<number>();
  const sums = hosts.map(() => 0);
  let caps: ReadonlyMap<number, number> = new Map();
  for (let turn = 0; turn < turns; turn++) {
    const rates = carry(capacity, hosts, caps);
    if (turn >= turns / 2) hosts.forEach((_, host) => (sums[host]! += rates.get(host) ?? 0));
    caps = fair.turn(rates, turn * TURN_MS);
  }
  return sums.map((sum) => sum / (turns / 2));
}

test.each([
  ['one connection against eight', 1000, [1, 8], [Infinity, Infinity]],
  ['one against thirty-two', 3000, [1, 32], [Infinity, Infinity]],
  ['three hosts', 1000, [1, 4, 16], [Infinity, Infinity, Infinity]],
  ['one that wants little', 1000, [1, 8], [100, Infinity]],
  ['one that wants a fifth, of many connections', 1000, [8, 1], [200, Infinity]],
  ['all content', 1000, [1, 8], [200, 300]],
])('%s: nobody gets less than two thirds of a fair share', (_name, capacity, counts, demands) => {
  const hosts = counts.map((connections, host) => ({
    connections,
    demand: demands[host]! * MB,
  }));
  const fair = fairRates(capacity * MB, hosts);
  const rates = play(capacity * MB, hosts);
  rates.forEach((rate, host) => expect(rate).toBeGreaterThan(fair.get(host)! * 0.66));
  const used = rates.reduce((sum, rate) => sum + rate, 0);
  const possible = [...fair.values()].reduce((sum, rate) => sum + rate, 0);
  expect(used).toBeGreaterThan(possible * 0.8);
});

test('a host alone has no limit, from its first turn on and when the other has left', () => {
  const fair = new FairShare<string>();
  expect(fair.turn(new Map([['a', 900 * MB]]), 0).size).toBe(0);
  const both = new Map([
    ['a', 900 * MB],
    ['b', 10 * MB],
  ]);
  expect(fair.turn(both, 500).get('a')).toBe(455 * MB);
  expect(fair.turn(new Map([['a', 450 * MB]]), 1_000).size).toBe(0);
  expect(fair.turn(new Map(), 1_500).size).toBe(0);
});

test('whatever they want and however many connections they have, nobody gets less than half', () => {
  const model = fc.record({
    connections: fc.integer({ min: 1, max: 32 }),
    demand: fc.constantFrom(Infinity, 50 * MB, 400 * MB, 2_000 * MB),
  });
  const hosts = fc.array(model, { minLength: 2, maxLength: 5 });
  const capacity = fc.integer({ min: 100, max: 10_000 }).map((rate) => rate * MB);
  fc.assert(
    fc.property(hosts, capacity, (models, total) => {
      const fair = fairRates(total, models);
      play(total, models).forEach((rate, host) => {
        expect(rate).toBeGreaterThan(fair.get(host)! / 2);
      });
    }),
    { numRuns: 300 },
  );
});
