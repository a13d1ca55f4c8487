// SPDX-License-Identifier: Apache-2.0
// Leases that are to end: at once, or when their feeder is back.
import { GbError } from '../../proto/base/errors.js';
import { PENDING_RELEASES_MAX } from '../../proto/base/limits.js';
import type { AgentState } from '../state.js';
import type { FeederCalls, LeaseHandle } from './feeder-client.js';

export class Releases {
  private readonly pending = new Map<string, LeaseHandle[]>();
  private readonly running = new Set<Promise<void>>();

  /** `client` gives the feeder's calls; @throws GbError FEEDER_UNREACHABLE. */
  constructor(
    private readonly client: (feederId: string) => FeederCalls,
    private readonly onChange: () => void,
  ) {}

  restore(saved: AgentState['pendingReleases']): void {
    for (const { feederId, leaseId, fencingToken } of saved)
      this.postpone(feederId, { leaseId, fencingToken: BigInt(fencingToken) });
  }

  save(): AgentState['pendingReleases'] {
    return [...this.pending].flatMap(([feederId, handles]) =>
      handles.map(({ leaseId, fencingToken }) => ({
        feederId,
        leaseId,
        fencingToken: fencingToken.toString(),
      })),
    );
  }

  /** Ends a lease now, or when the feeder is back. */
  release(feederId: string, { leaseId, fencingToken }: LeaseHandle): void {
    const handle = { leaseId, fencingToken };
    const work = this.tryNow(feederId, handle).finally(() => {
      this.running.delete(work);
      this.onChange();
    });
    this.running.add(work);
  }

  /** Resolves when every call under way has ended. */
  async settled(): Promise<void> {
    await Promise.allSettled(this.running);
  }

  /** The feeder is gone with its leases. */
  forget(feederId: string): void {
    this.pending.delete(feederId);
  }

  /** The feeder is back: ends what waited for it. */
  async catchUp(feederId: string, client: FeederCalls): Promise<void> {
    const waiting = this.pending.get(feederId) ?? [];
    this.pending.delete(feederId);
    if (waiting.length === 0) return;
    for (const lease of await client.renew(waiting))
      if (lease.outcome === 'ok') await client.release(lease);
  }

  private async tryNow(feederId: string, handle: LeaseHandle): Promise<void> {
    try {
      await this.client(feederId).release(handle);
    } catch (reason) {
      const { code } = GbError.from(reason);
      // An expired lease is released already; anything else is tried again when the feeder is back.
      if (code !== 'LEASE_EXPIRED' && code !== 'NOT_FOUND') this.postpone(feederId, handle);
    }
  }

  private postpone(feederId: string, handle: LeaseHandle): void {
    const waiting = this.pending.get(feederId) ?? [];
    // Beyond the limit the feeder's own TTL ends the oldest.
    if (waiting.length >= PENDING_RELEASES_MAX) waiting.shift();
    waiting.push(handle);
    this.pending.set(feederId, waiting);
  }
}
