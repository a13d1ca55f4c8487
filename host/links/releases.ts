// SPDX-License-Identifier: Apache-2.0
// Leases that are to end: at once, or when their feeder is back, or with one of the renewals after that.
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

  /** Ends a lease now, or when the feeder is back. Ownership: `lease` is kept until then; a renewal that was under way
   *  when it was given up may still change its token. */
  release(feederId: string, lease: LeaseHandle): void {
    this.run(this.tryNow(feederId, lease));
  }

  /** Resolves when every call under way has ended. */
  async settled(): Promise<void> {
    await Promise.allSettled(this.running);
  }

  /** The feeder is gone with its leases. */
  forget(feederId: string): void {
    this.pending.delete(feederId);
  }

  /** Ends what could not be ended before. pre: calls to the feeder may be made. */
  catchUp(feederId: string): void {
    const waiting = this.pending.get(feederId) ?? [];
    this.pending.delete(feederId);
    if (waiting.length > 0) this.run(this.endAll(feederId, waiting));
  }

  private run(calls: Promise<void>): void {
    const work = calls.finally(() => {
      this.running.delete(work);
      this.onChange();
    });
    this.running.add(work);
  }

  /** Tokens may have changed since: a renewal tells those of leases that still are. */
  private async endAll(feederId: string, handles: readonly LeaseHandle[]): Promise<void> {
    try {
      const renewals = await this.client(feederId).renew(handles);
      const standing = renewals.filter(({ outcome }) => outcome === 'ok');
      await Promise.all(standing.map((lease) => this.tryNow(feederId, lease)));
    } catch {
      for (const handle of handles) this.postpone(feederId, handle);
    }
  }

  private async tryNow(feederId: string, lease: LeaseHandle): Promise<void> {
    const { leaseId, fencingToken } = lease;
    try {
      await this.client(feederId).release({ leaseId, fencingToken });
    } catch (reason) {
      const { code } = GbError.from(reason);
      if (lease.fencingToken !== fencingToken) return this.tryNow(feederId, lease);
      // An expired lease is released already; anything else is tried again with the next renewal.
      if (code !== 'LEASE_EXPIRED' && code !== 'NOT_FOUND') this.postpone(feederId, lease);
    }
  }

  private postpone(feederId: string, lease: LeaseHandle): void {
    const waiting = this.pending.get(feederId) ?? [];
    // Beyond the limit the feeder's own TTL ends the oldest.
    if (waiting.length >= PENDING_RELEASES_MAX) waiting.shift();
    waiting.push(lease);
    this.pending.set(feederId, waiting);
  }
}
