// SPDX-License-Identifier: Apache-2.0
// Room of a feeder as it is counted while a lease is made: by us at once, and by the feeder's own reports.
import { expect, test } from '@jest/globals';
import { Leases } from '../../../host/attachments/leases.js';
import type { FeederDirectory } from '../../../host/attachments/holds.js';
import type { FeederCalls } from '../../../host/links/feeder-client.js';
import { GbError } from '../../../proto/base/errors.js';
import { MIB } from '../../../proto/base/units.js';

const FEEDER = 'F-1';

/** A feeder that reports what it has leased before it answers. */
class Reporting {
  leasedBytes = 0;
  refuses = false;

  leases(): Leases {
    const directory = {
      usable: () => [],
      client: () => this.calls(),
      noteLeased: (_feeder: string, _key: string, bytes: number) => (this.leasedBytes += bytes),
    } as unknown as FeederDirectory;
    const facts = () => ({ attachmentId: 'A-1', arenaBase: 0n, arenaBytes: 0 });
    return new Leases({ facts, nextLane: () => 1, owes: () => undefined }, directory);
  }

  private calls(): FeederCalls {
    const report = (limits: ReadonlyMap<string, number>): Promise<{ leaseId: string }> => {
      if (this.refuses) return Promise.reject(new GbError('CAPACITY_EXHAUSTED', 'it is full'));
      this.leasedBytes = [...limits.values()].reduce((sum, bytes) => sum + bytes, 0);
      return Promise.resolve({ leaseId: 'L-1' });
    };
    return {
      acquire: ({ limits }: { limits: ReadonlyMap<string, number> }) => report(limits),
      resize: (_lease: unknown, limits: ReadonlyMap<string, number>) => report(limits),
    } as unknown as FeederCalls;
  }
}

test('room is counted once when the feeder reports it before it answers', async () => {
  const feeder = new Reporting();
  const leases = feeder.leases();
  await leases.extend(FEEDER, new Map([['ram', 12 * MIB]]), false);
  expect(feeder.leasedBytes).toBe(12 * MIB);
  await leases.extend(FEEDER, new Map([['ram', 4 * MIB]]), false);
  expect(feeder.leasedBytes).toBe(16 * MIB);
});

test('room that the feeder refuses is not counted', async () => {
  const feeder = new Reporting();
  feeder.refuses = true;
  const refused = feeder.leases().extend(FEEDER, new Map([['ram', 12 * MIB]]), false);
  await expect(refused).rejects.toMatchObject({ code: 'CAPACITY_EXHAUSTED' });
  expect(feeder.leasedBytes).toBe(0);
});
