// SPDX-License-Identifier: Apache-2.0
// The set of feeders and the epoch: makes links, renews leases, measures, drains. Implements what
// attachments see of feeders (FeederDirectory).
import type { Clock, Timer } from '../../proto/base/clock.js';
import { GbError } from '../../proto/base/errors.js';
import {
  LEASE_RENEW_INTERVAL_MS,
  LINKS_MAX,
  PENDING_RELEASES_MAX,
} from '../../proto/base/limits.js';
import { keyFingerprint, type PairingKey } from '../../security/pairing.js';
import type { FeederDirectory, FeederView } from '../attachments/feeder-budget.js';
import type { AttachmentRegistry } from '../attachments/registry.js';
import type { EventLog } from '../control/events.js';
import type { MeasuredCost } from '../placement/policy.js';
import type { AgentState, SavedLink } from '../state.js';
import { normalizeAddress, sameAddress } from './address.js';
import type { Connector, FeederConnection } from './connection.js';
import { deviceKey, type DeviceKey, type FeederCalls, type LeaseHandle } from './feeder-client.js';
import type { LinkAudit } from './link-audit.js';
import { Link, type LinkHooks, type LinkStateName } from './link.js';

export interface LinkManagerDeps {
  readonly clock: Clock;
  readonly events: EventLog;
  readonly audit: LinkAudit;
  readonly connector: Connector;
  readonly random: () => number;
  /** The key of that id in the keyring. @throws GbError NOT_FOUND. */
  readonly findKey: (keyId: string) => PairingKey;
  readonly registry: () => AttachmentRegistry;
  readonly persist: () => Promise<void>;
  readonly touch: () => void;
  readonly onBug: (error: unknown, where: string) => void;
}

interface ManagedLink {
  readonly link: Link;
  readonly keyId: string;
  /** The measurement under way or done; undefined: never tried. */
  measuring: Promise<void> | undefined;
}

const UNMEASURED: MeasuredCost = { readBytesPerSecond: 0, latencyMicros: 0 };

export class LinkManager implements FeederDirectory, LinkHooks {
  private readonly managed: ManagedLink[] = [];
  private readonly pendingReleases = new Map<string, LeaseHandle[]>();
  private readonly waiters = new Set<() => void>();
  private readonly releasing = new Set<Promise<void>>();
  private timer: Timer | undefined;
  /** Raised whenever the set of feeders or leases changes. */
  epoch = 1n;

  constructor(private readonly deps: LinkManagerDeps) {}

  get links(): readonly Link[] {
    return this.managed.map(({ link }) => link);
  }

  /** Begins renewals and connects what the state file names. */
  start(saved: AgentState): void {
    for (const { feederId, leaseId, fencingToken } of saved.pendingReleases) {
      this.addPending(feederId, { leaseId, fencingToken: BigInt(fencingToken) });
    }
    for (const entry of saved.links) this.restore(entry);
    this.timer = this.deps.clock.every(LEASE_RENEW_INTERVAL_MS, () => this.renewAll());
  }

  /** Ends all connections; leases stay, for the next agent. */
  async stop(): Promise<void> {
    this.timer?.cancel();
    await Promise.allSettled(this.releasing);
    for (const { link } of this.managed) link.close('the agent stops');
  }

  save(): Pick<AgentState, 'links' | 'pendingReleases'> {
    const links = this.managed
      .filter(({ link }) => link.incarnation !== undefined)
      .map(({ link, keyId }) => ({
        address: link.options.address,
        feederId: link.feederId,
        keyId,
        name: link.name.slice(0, 200),
        incarnation: link.incarnation ?? '',
      }));
    const pendingReleases = [...this.pendingReleases].flatMap(([feederId, handles]) =>
      handles.map(({ leaseId, fencingToken }) => ({
        feederId,
        leaseId,
        fencingToken: fencingToken.toString(),
      })),
    );
    return { links, pendingReleases };
  }

  /** Connects a feeder and waits until it is ready and measured. An existing link to it is awaited
   *  instead.
   *  @throws GbError NOT_FOUND without a key; UNAUTHENTICATED for a wrong one; FEEDER_UNREACHABLE
   *  after `timeoutMs`. */
  async connect(request: {
    address: string;
    keyId: string;
    timeoutMs: number;
    signal: AbortSignal;
  }): Promise<Link> {
    const address = normalizeAddress(request.address);
    const key = this.deps.findKey(request.keyId);
    const existing = this.managed.find(
      ({ link, keyId }) =>
        keyId === request.keyId && (!key.shared || link.options.address === address),
    );
    if (existing && existing.link.options.address !== address && existing.link.state !== 'closed') {
      throw new GbError(
        'ALREADY_EXISTS',
        `feeder ${existing.link.name} is connected at ${existing.link.options.address}`,
        {
          details: { hint: `disconnect it first: greenboost disconnect ${existing.link.name}` },
        },
      );
    }
    if (existing?.link.state === 'closed') this.remove(existing);
    else await existing?.link.useKey(key);
    const kept = existing && existing.link.state !== 'closed' ? existing : undefined;
    if (!kept && this.managed.length >= LINKS_MAX)
      throw new GbError('CAPACITY_EXHAUSTED', `${LINKS_MAX} feeders are connected`);
    const entry = kept ?? this.add({ address, key, keyId: request.keyId });
    try {
      await this.awaitReady(entry, request.timeoutMs, request.signal);
    } catch (reason) {
      if (!kept) this.drop(entry, 'it could not be connected');
      throw reason;
    }
    await entry.measuring;
    await this.deps.persist();
    return entry.link;
  }

  /** Moves what the feeder holds to others and forgets it. Returns the bytes moved and, with
   *  `force`, lost.
   *  @throws GbError NOT_FOUND; WRONG_STATE when bytes would be lost and `force` is not set. */
  async disconnect(
    feeder: string,
    force: boolean,
  ): Promise<{ movedBytes: number; lostBytes: number }> {
    const entry = this.find(feeder);
    const { link } = entry;
    const registry = this.deps.registry();
    let movedBytes = 0;
    if (link.state === 'ready') {
      link.drain();
      for (const attachment of registry.all) {
        try {
          movedBytes += await attachment.evacuate(link.feederId);
        } catch (reason) {
          if (force) continue;
          link.undrain();
          throw asWrongState(reason, link.name);
        }
      }
    }
    const left = registry.leasesOn(link.feederId);
    if (left.length > 0 && !force) {
      link.undrain();
      throw new GbError(
        'WRONG_STATE',
        `feeder ${link.name} is ${link.state} and holds bytes of running programs`,
        {
          details: { hint: 'wait until it is back, or add --force and lose them' },
        },
      );
    }
    const lostBytes = left.reduce((sum, { hold }) => sum + usedOf(hold), 0);
    registry.loseFeeder(link.feederId);
    for (const { hold } of left) this.releaseLease(link.feederId, hold);
    await Promise.allSettled(this.releasing);
    this.drop(entry, 'disconnected');
    this.deps.events.add(
      'info',
      'feeder_disconnected',
      link.name,
      `${movedBytes} bytes moved, ${lostBytes} lost`,
    );
    await this.deps.persist();
    return { movedBytes, lostBytes };
  }

  /** Measures every ready link again. */
  async measureAll(): Promise<void> {
    await Promise.all(
      this.managed.filter(({ link }) => link.state === 'ready').map((entry) => this.measure(entry)),
    );
  }

  // ---- FeederDirectory

  usable(): FeederView[] {
    return this.links
      .filter((link) => link.state === 'ready' && link.lending)
      .map((link) => ({
        feederId: link.feederId,
        name: link.name,
        cost: costOf(link),
        devices: link.devices.map(({ id, capacityBytes, leasedBytes }) => ({
          key: deviceKey(id),
          freeBytes: Number(capacityBytes - leasedBytes),
        })),
      }));
  }

  costOf(feederId: string): MeasuredCost {
    const link = this.byFeederId(feederId);
    return link ? costOf(link) : UNMEASURED;
  }

  accepts(feederId: string): boolean {
    return this.byFeederId(feederId)?.state === 'ready';
  }

  client(feederId: string): FeederCalls {
    const link = this.byFeederId(feederId);
    if (!link) throw new GbError('FEEDER_UNREACHABLE', `feeder ${feederId} is not connected`);
    return link.client();
  }

  noteLeased(feederId: string, key: DeviceKey, deltaBytes: number): void {
    const device = this.byFeederId(feederId)?.devices.find(({ id }) => deviceKey(id) === key);
    if (!device) return;
    const leased = device.leasedBytes + BigInt(deltaBytes);
    device.leasedBytes = leased < 0n ? 0n : leased;
    this.changed();
  }

  releaseLease(feederId: string, { leaseId, fencingToken }: LeaseHandle): void {
    const handle = { leaseId, fencingToken };
    const link = this.byFeederId(feederId);
    const work = (async () => {
      try {
        if (!link) throw new GbError('FEEDER_UNREACHABLE', 'no link');
        await link.client().release(handle);
      } catch (reason) {
        const { code } = GbError.from(reason);
        // An expired lease is released already; anything else is tried again when the feeder is
        // back.
        if (code !== 'LEASE_EXPIRED' && code !== 'NOT_FOUND') this.addPending(feederId, handle);
      }
    })().finally(() => {
      this.releasing.delete(work);
      this.changed();
    });
    this.releasing.add(work);
  }

  // ---- LinkHooks

  async adopt(link: Link, connection: FeederConnection, restarted: boolean): Promise<void> {
    const twin = this.managed.find(
      (other) => other.link !== link && other.link.feederId === link.feederId,
    );
    if (twin)
      throw new GbError(
        'UNAUTHENTICATED',
        `feeder ${link.feederId} is connected already at ${twin.link.options.address}`,
      );
    const adopted = await this.deps.registry().adopt(link.feederId, connection.client);
    if (adopted > 0)
      this.deps.events.add('info', 'lease_adopted', link.name, `${adopted} leases taken over`);
    const pending = this.pendingReleases.get(link.feederId) ?? [];
    this.pendingReleases.delete(link.feederId);
    if (!restarted && pending.length > 0) {
      const renewed = await connection.client.renew(pending);
      for (const lease of renewed)
        if (lease.outcome === 'ok') await connection.client.release(lease);
    }
    await this.deps.persist();
  }

  leasesLost(link: Link, why: string): void {
    this.deps.events.add('error', 'feeder_lost', link.name, why);
    this.deps.registry().loseFeeder(link.feederId);
    this.pendingReleases.delete(link.feederId);
    this.changed();
  }

  stateChanged(link: Link, from: LinkStateName): void {
    const { events, audit } = this.deps;
    audit.changed(link, from);
    const entry = this.managed.find((other) => other.link === link);
    if (link.state === from && (from === 'ready' || from === 'draining')) {
      events.add('info', 'feeder_key_changed', link.name, `now ${keyFingerprint(link.key)}`);
    } else if (link.state === 'ready') {
      if (from !== 'draining')
        events.add('info', 'feeder_ready', link.name, `at ${link.options.address}`);
      if (entry && !link.measurement) void this.measure(entry);
    } else if (link.state === 'stale' && from !== 'stale') {
      events.add('warning', 'feeder_stale', link.name, link.detail);
    } else if (link.state === 'closed' && link.refusal) {
      events.add('error', 'feeder_refused', link.name, link.refusal.rawMessage);
    } else if (link.state === 'draining') {
      events.add('info', 'feeder_draining', link.name, 'its bytes are moved to other feeders');
    }
    this.changed();
  }

  statsChanged(link: Link): void {
    const entry = this.managed.find((other) => other.link === link);
    if (entry && link.stopping && link.state === 'ready') void this.leave(entry);
    this.deps.touch();
  }

  // ---- internals

  /** A feeder says goodbye: what it holds goes to others while it waits. What finds no room is lost
   *  when it goes. */
  private async leave({ link }: ManagedLink): Promise<void> {
    link.drain();
    this.deps.events.add('warning', 'feeder_stopping', link.name, 'it says goodbye');
    for (const attachment of this.deps.registry().all) {
      await attachment.evacuate(link.feederId).catch((reason: unknown) => {
        const { rawMessage } = GbError.from(reason);
        this.deps.events.add('warning', 'evacuation_failed', link.name, rawMessage);
      });
    }
  }

  private changed(): void {
    this.epoch++;
    for (const waiter of this.waiters) waiter();
    this.deps.touch();
  }

  private restore(saved: SavedLink): void {
    try {
      const key = this.deps.findKey(saved.keyId);
      const { address, keyId, name, incarnation, feederId } = saved;
      this.add({ address, key, keyId, name, incarnation, feederId });
    } catch (reason) {
      this.deps.events.add('error', 'feeder_refused', saved.name, GbError.from(reason).rawMessage);
    }
  }

  private add(options: {
    address: string;
    key: PairingKey;
    keyId: string;
    name?: string;
    incarnation?: string;
    feederId?: string;
  }): ManagedLink {
    const { connector, clock, random } = this.deps;
    const { keyId, ...rest } = options;
    const freshKey = (): PairingKey | undefined => this.keyOf(keyId);
    const link = new Link({ ...rest, connector, hooks: this, clock, random, freshKey });
    const entry: ManagedLink = { link, keyId, measuring: undefined };
    this.managed.push(entry);
    link.start();
    return entry;
  }

  /** Undefined when the keyring lacks it or cannot be read. */
  private keyOf(keyId: string): PairingKey | undefined {
    try {
      return this.deps.findKey(keyId);
    } catch {
      return undefined;
    }
  }

  private drop(entry: ManagedLink, why: string): void {
    entry.link.close(why);
    this.remove(entry);
    this.changed();
  }

  private remove(entry: ManagedLink): void {
    const index = this.managed.indexOf(entry);
    if (index >= 0) this.managed.splice(index, 1);
  }

  private find(feeder: string): ManagedLink {
    const matches = this.managed.filter(
      ({ link }) =>
        link.feederId === feeder ||
        link.name === feeder ||
        sameAddress(link.options.address, feeder),
    );
    if (matches.length === 1) return matches[0] as ManagedLink;
    const text =
      matches.length === 0
        ? `no feeder "${feeder}" is connected`
        : `"${feeder}" names several feeders; use the id`;
    throw new GbError(matches.length === 0 ? 'NOT_FOUND' : 'INVALID_ARGUMENT', text);
  }

  private byFeederId(feederId: string): Link | undefined {
    return this.links.find((link) => link.feederId === feederId && link.state !== 'closed');
  }

  private measure(entry: ManagedLink): Promise<void> {
    entry.measuring ??= entry.link
      .measure()
      .then(() => undefined)
      .catch((reason: unknown) => {
        const { code, rawMessage } = GbError.from(reason);
        const away = code === 'CANCELED' || code === 'FEEDER_UNREACHABLE';
        if (!away) this.deps.events.add('warning', 'link_unmeasured', entry.link.name, rawMessage);
      })
      .finally(() => (entry.measuring = undefined));
    return entry.measuring;
  }

  private async awaitReady(
    { link }: ManagedLink,
    timeoutMs: number,
    signal: AbortSignal,
  ): Promise<void> {
    let late = false;
    const timer = this.deps.clock.after(timeoutMs, () => {
      late = true;
      this.changed();
    });
    const onAbort = (): void => this.changed();
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      for (;;) {
        if (link.state === 'ready') return;
        if (link.refusal) throw link.refusal;
        if (link.state === 'closed') throw new GbError('CANCELED', link.detail);
        if (signal.aborted) throw new GbError('CANCELED', 'the caller gave up');
        if (late) {
          const why = link.detail || 'no answer';
          throw new GbError(
            'FEEDER_UNREACHABLE',
            `no connection to ${link.options.address}: ${why}`,
          );
        }
        await new Promise<void>((resolve) => {
          const waiter = (): void => {
            this.waiters.delete(waiter);
            resolve();
          };
          this.waiters.add(waiter);
        });
      }
    } finally {
      timer.cancel();
      signal.removeEventListener('abort', onAbort);
    }
  }

  private renewAll(): void {
    for (const link of this.links) {
      if (link.state !== 'ready' && link.state !== 'draining') continue;
      const work = this.deps.registry().renew(link.feederId, link.client());
      work.catch((reason: unknown) => {
        const { code, rawMessage } = GbError.from(reason);
        if (code === 'CANCELED' || code === 'FEEDER_UNREACHABLE') return;
        this.deps.events.add('warning', 'renewal_failed', link.name, rawMessage);
      });
    }
  }

  private addPending(feederId: string, handle: LeaseHandle): void {
    const pending = this.pendingReleases.get(feederId) ?? [];
    // Beyond the limit the feeder's own TTL ends the oldest.
    if (pending.length >= PENDING_RELEASES_MAX) pending.shift();
    pending.push(handle);
    this.pendingReleases.set(feederId, pending);
  }
}

function costOf({ measurement }: Link): MeasuredCost {
  if (!measurement) return UNMEASURED;
  return {
    readBytesPerSecond: measurement.downloadBytesPerSecond,
    latencyMicros: measurement.rttMicros,
  };
}

function usedOf(hold: { devices: ReadonlyMap<string, { usedBytes: number }> }): number {
  return [...hold.devices.values()].reduce((sum, { usedBytes }) => sum + usedBytes, 0);
}

function asWrongState(reason: unknown, name: string): GbError {
  const error = GbError.from(reason);
  if (error.code === 'WRONG_STATE') {
    return new GbError('WRONG_STATE', `feeder ${name} cannot be drained: ${error.rawMessage}`, {
      cause: error,
      details: {
        hint: 'connect another feeder, end the programs, or add --force and lose the bytes',
      },
    });
  }
  return error;
}
