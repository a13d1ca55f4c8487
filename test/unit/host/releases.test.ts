// SPDX-License-Identifier: Apache-2.0
import { expect, test } from '@jest/globals';
import type { FeederCalls, LeaseHandle, Renewal } from '../../../host/links/feeder-client.js';
import { Releases } from '../../../host/links/releases.js';
import { GbError } from '../../../proto/base/errors.js';

const FEEDER = 'F-0000000000000001';
const lease = (leaseId: string, fencingToken = 1n): LeaseHandle => ({ leaseId, fencingToken });

/** A feeder with leases; each renewal gives them new tokens. */
class Feeder {
  away = true;
  failure: GbError | undefined;
  readonly tokens = new Map<string, bigint>();

  readonly calls = {
    renew: async (handles: readonly LeaseHandle[]): Promise<Renewal[]> => {
      if (this.failure) throw this.failure;
      return handles.map(({ leaseId, fencingToken }) => {
        const token = this.tokens.get(leaseId);
        if (token === undefined) return { leaseId, fencingToken: 0n, outcome: 'expired' };
        if (token !== fencingToken) return { leaseId, fencingToken: 0n, outcome: 'fenced' };
        this.tokens.set(leaseId, token + 1n);
        return { leaseId, fencingToken: token + 1n, outcome: 'ok' };
      }) as Renewal[];
    },
    release: async ({ leaseId, fencingToken }: LeaseHandle): Promise<void> => {
      if (this.failure) throw this.failure;
      expect(fencingToken).toBe(this.tokens.get(leaseId));
      this.tokens.delete(leaseId);
    },
  } as FeederCalls;

  readonly client = (): FeederCalls => {
    if (this.away) throw new GbError('FEEDER_UNREACHABLE', 'away');
    return this.calls;
  };
}

function opened(...leases: readonly string[]): { feeder: Feeder; releases: Releases } {
  const feeder = new Feeder();
  for (const leaseId of leases) feeder.tokens.set(leaseId, 1n);
  return { feeder, releases: new Releases(feeder.client, () => undefined) };
}

test('a lease ends at once while its feeder is there', async () => {
  const { feeder, releases } = opened('L-1');
  feeder.away = false;
  releases.release(FEEDER, lease('L-1'));
  await releases.settled();
  expect(feeder.tokens.size).toBe(0);
  expect(releases.save()).toEqual([]);
});

test('one that ends while calls cannot be made ends as soon as they can, however late that was', async () => {
  const { feeder, releases } = opened('L-1', 'L-2');
  releases.release(FEEDER, lease('L-1'));
  releases.release(FEEDER, lease('L-2'));
  // At once, so that no moment lies between the place of a lease here and the feeder's return.
  expect(releases.save()).toHaveLength(2);
  feeder.away = false;
  releases.catchUp(FEEDER);
  await releases.settled();
  expect(feeder.tokens.size).toBe(0);
  expect(releases.save()).toEqual([]);
});

test('a renewal that was under way when its program ended changes the token that is used', async () => {
  const { feeder, releases } = opened('L-1');
  const hold = { leaseId: 'L-1', fencingToken: 1n };
  releases.release(FEEDER, hold);
  feeder.tokens.set('L-1', 2n);
  hold.fencingToken = 2n;
  feeder.away = false;
  releases.catchUp(FEEDER);
  await releases.settled();
  expect(feeder.tokens.size).toBe(0);
});

test('what fails again waits for the next time; what has expired meanwhile is forgotten', async () => {
  const { feeder, releases } = opened('L-1');
  releases.release(FEEDER, lease('L-1'));
  releases.release(FEEDER, lease('L-expired'));
  feeder.away = false;
  feeder.failure = new GbError('FEEDER_UNREACHABLE', 'broke off');
  releases.catchUp(FEEDER);
  await releases.settled();
  expect(releases.save().map(({ leaseId }) => leaseId)).toEqual(['L-1', 'L-expired']);
  feeder.failure = undefined;
  releases.catchUp(FEEDER);
  await releases.settled();
  expect(feeder.tokens.size).toBe(0);
  expect(releases.save()).toEqual([]);
});
