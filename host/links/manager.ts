// SPDX-License-Identifier: Apache-2.0
// The set of feeders and the epoch: makes links, renews leases, measures, drains. Implements what
// attachments see of feeders (FeederDirectory).
import type { Clock, Timer } from '../../proto/base/clock.js';
import { GbError } from '../../proto/base/errors.js';
import { LEASE_RENEW_INTERVAL_MS, LINK_REMEASURE_MS, LINKS_MAX } from '../../proto/base/limits.js';
import { keyFingerprint, type PairingKey } from '../../security/pairing.js';
import type { ComputeFacts, FeederDirectory, FeederView, GpuFacts } from '../attachments/holds.js';
import type { AttachmentRegistry } from '../attachments/registry.js';
import type { EventLog } from '../control/events.js';
import type { MeasuredCost } from '../placement/policy.js';
import type { AgentState, SavedLink } from '../state.js';
import { normalizeAddress, sameAddress } from './address.js';
import type { Connector, FeederConnection } from './connection.js';
import { Drains } from './drains.js';
import { deviceKey, type DeviceKey, type FeederCalls, type LeaseHandle } from './feeder-client.js';
import type { LinkAudit } from './link-audit.js';
import { Link, type LinkHooks, type LinkStateName } from './link.js';
import { PauseNews } from './pauses.js';
import { awaitReady, awaitSettled, News } from './ready.js';
import { Releases } from './releases.js';
import { computeFacts, costOf, gpuFacts, UNMEASURED, viewOf } from './views.js';

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
  /** When it was last emptied by its own wish. */
  leftMs: number;
}

/** A feeder that asks for its memory back is emptied again, as long as something is left. */
const LEAVE_AGAIN_MS = 10_000;

export class LinkManager implements FeederDirectory, LinkHooks {
  private readonly managed: ManagedLink[] = [];
  private readonly releases: Releases;
  private readonly news = new News();
  private readonly pauses: PauseNews;
  private readonly renewing = new Set<string>();
  readonly drains: Drains;
  private timer: Timer | undefined;
  /** Raised whenever the set of feeders or leases changes. */
  epoch = 1n;

  constructor(private readonly deps: LinkManagerDeps) {
    const { clock, registry, touch } = deps;
    this.releases = new Releases(
      (feederId) => this.client(feederId),
      () => this.changed(),
    );
    this.pauses = new PauseNews(deps.events);
    this.drains = new Drains({ clock, registry, touch, usable: () => this.usable() });
  }

  get links(): readonly Link[] {
    return this.managed.map(({ link }) => link);
  }

  /** Begins renewals and connects what the state file names. */
  start(saved: AgentState): void {
    this.releases.restore(saved.pendingReleases);
    for (const entry of saved.links) this.restore(entry);
    this.timer = this.deps.clock.every(LEASE_RENEW_INTERVAL_MS, () => this.renewAll());
  }

  /** Ends all connections; leases stay, for the next agent. */
  async stop(): Promise<void> {
    this.timer?.cancel();
    await this.releases.settled();
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
        paused: link.paused,
      }));
    return { links, pendingReleases: this.releases.save() };
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
      await awaitReady(entry.link, { ...request, clock: this.deps.clock, news: this.news });
    } catch (reason) {
      if (!kept) this.drop(entry, 'it could not be connected');
      throw reason;
    }
    await entry.measuring;
    await this.deps.persist();
    return entry.link;
  }

  /** Moves what the feeder holds to others and forgets it. Returns the bytes moved and, with
   *  `force`, lost. Cancel: `signal`; what has moved stays moved.
   *  @throws GbError NOT_FOUND; WRONG_STATE when bytes would be lost and `force` is not set. */
  async disconnect(
    feeder: string,
    force: boolean,
    signal: AbortSignal,
  ): Promise<{ movedBytes: number; lostBytes: number }> {
    const entry = this.find(feeder);
    const { link } = entry;
    const registry = this.deps.registry();
    const movedBytes =
      link.state === 'ready' ? await this.drains.empty(link, { signal, tolerant: force }) : 0;
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
    await this.releases.settled();
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

  /** Moves what the feeder holds to others and places nothing new there until it is resumed. Returns
   *  the bytes moved. Cancel: `signal`; what has moved stays moved.
   *  @throws GbError NOT_FOUND; WRONG_STATE when it is away or others have too little room. */
  async drain(feeder: string, signal: AbortSignal): Promise<number> {
    const { link } = this.find(feeder);
    const movedBytes = await this.drains.empty(link, { signal, tolerant: false });
    link.paused = true;
    link.undrain();
    this.deps.events.add('info', 'feeder_drained', link.name, `${movedBytes} bytes moved`);
    await this.deps.persist();
    return movedBytes;
  }

  /** Places nothing new on a feeder (true), or does again (false); what lies there stays.
   *  @throws GbError NOT_FOUND. */
  async setPaused(feeder: string, paused: boolean): Promise<Link> {
    const { link } = this.find(feeder);
    if (link.paused !== paused) {
      link.paused = paused;
      const text = paused ? 'nothing new is placed there' : 'it takes placements again';
      this.deps.events.add('info', paused ? 'feeder_paused' : 'feeder_resumed', link.name, text);
      this.changed();
      await this.deps.persist();
    }
    if (!paused) this.wakeAll();
    return link;
  }

  /** The link of that name, id or address. @throws GbError NOT_FOUND. */
  named(feeder: string): Link {
    return this.find(feeder).link;
  }

  /** Measures every ready link again. */
  async measureAll(): Promise<void> {
    await Promise.all(
      this.managed.filter(({ link }) => link.state === 'ready').map((entry) => this.measure(entry)),
    );
  }

  // ---- FeederDirectory

  usable(): FeederView[] {
    return this.links.filter((link) => this.takes(link) && link.lending).map(viewOf);
  }

  costOf(feederId: string): MeasuredCost {
    const link = this.byFeederId(feederId);
    return link ? costOf(link) : UNMEASURED;
  }

  computeOf(feederId: string): ComputeFacts | undefined {
    const link = this.byFeederId(feederId);
    return link && computeFacts(link.devices);
  }

  gpuOf(feederId: string): GpuFacts | undefined {
    const link = this.byFeederId(feederId);
    return link && gpuFacts(link.devices);
  }

  settled(timeoutMs: number): Promise<void> {
    return awaitSettled(() => this.links, { timeoutMs, clock: this.deps.clock, news: this.news });
  }

  accepts(feederId: string): boolean {
    const link = this.byFeederId(feederId);
    return link !== undefined && this.takes(link);
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

  noteTraffic(feederId: string, sentBytes: number, receivedBytes: number): void {
    const traffic = this.byFeederId(feederId)?.traffic;
    if (!traffic) return;
    traffic.sentBytes += sentBytes;
    traffic.receivedBytes += receivedBytes;
  }

  /** A renewal tells at once which leases are still there; a feeder that does not answer it is silent
   *  on its heartbeat, too. */
  suspect(feederId: string): void {
    const link = this.byFeederId(feederId);
    if (link) this.renew(link);
  }

  releaseLease(feederId: string, lease: LeaseHandle): void {
    this.releases.release(feederId, lease);
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
    if (restarted) this.releases.forget(link.feederId);
    await this.deps.persist();
  }

  leasesLost(link: Link, why: string): void {
    this.deps.events.add('error', 'feeder_lost', link.name, why);
    this.deps.registry().loseFeeder(link.feederId);
    this.releases.forget(link.feederId);
    this.changed();
  }

  stateChanged(link: Link, from: LinkStateName): void {
    const { events, audit } = this.deps;
    audit.changed(link, from);
    if (link.state === 'ready') this.releases.catchUp(link.feederId);
    const entry = this.managed.find((other) => other.link === link);
    if (link.state === from && (from === 'ready' || from === 'draining')) {
      events.add('info', 'feeder_key_changed', link.name, `now ${keyFingerprint(link.key)}`);
      this.wakeAll();
    } else if (link.state === 'ready') {
      if (from !== 'draining')
        events.add('info', 'feeder_ready', link.name, `at ${link.options.address}`);
      if (entry && !link.measurement) void this.measure(entry);
      if (from !== 'draining') this.wakeAll();
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
    if (this.pauses.tell(link)) this.wakeAll();
    if (entry && link.state === 'ready' && (link.stopping || link.asksBack)) void this.leave(entry);
    this.deps.touch();
  }

  // ---- internals

  /** A feeder says goodbye, or asks for its memory back: what it holds goes to others while it waits.
   *  What finds no room is lost when it goes. */
  private async leave(entry: ManagedLink): Promise<void> {
    const { link } = entry;
    const nowMs = this.deps.clock.nowMs();
    const holds = this.deps.registry().leasesOn(link.feederId).length > 0;
    if (!link.stopping && (!holds || nowMs - entry.leftMs < LEAVE_AGAIN_MS)) return;
    entry.leftMs = nowMs;
    const text = link.stopping ? 'it says goodbye' : 'it asks for its memory back';
    this.deps.events.add(
      'warning',
      link.stopping ? 'feeder_stopping' : 'feeder_asks',
      link.name,
      text,
    );
    link.drain();
    const { signal } = new AbortController();
    const failed = (reason: unknown): void => {
      const { rawMessage } = GbError.from(reason);
      this.deps.events.add('warning', 'evacuation_failed', link.name, rawMessage);
    };
    await this.drains.run(link, { signal, tolerant: true }).then(({ failure }) => {
      if (failure) failed(failure);
    }, failed);
    // One that only pauses stays; what was left there is tried again.
    if (!link.stopping) link.undrain();
  }

  /** A feeder whose lanes cannot be opened is of no use to programs. */
  private takes({ state, paused, asksBack, laneDetail }: Link): boolean {
    return state === 'ready' && !paused && !asksBack && laneDetail === '';
  }

  private wakeAll(): void {
    for (const attachment of this.deps.registry().all) attachment.wake();
  }

  private changed(): void {
    this.epoch++;
    this.news.tell();
    this.deps.touch();
  }

  private restore(saved: SavedLink): void {
    try {
      const key = this.deps.findKey(saved.keyId);
      const { address, keyId, name, incarnation, feederId, paused } = saved;
      this.add({ address, key, keyId, name, incarnation, feederId, paused });
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
    paused?: boolean;
  }): ManagedLink {
    const { connector, clock, random } = this.deps;
    const { keyId, ...rest } = options;
    const freshKey = (): PairingKey | undefined => this.keyOf(keyId);
    const link = new Link({ ...rest, connector, hooks: this, clock, random, freshKey });
    const entry: ManagedLink = { link, keyId, measuring: undefined, leftMs: -LEAVE_AGAIN_MS };
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

  /** Measures until it is measured; meanwhile the link is the last choice, or none if its lanes do
   *  not open. */
  private measure(entry: ManagedLink): Promise<void> {
    const { link } = entry;
    const told = link.laneDetail;
    entry.measuring ??= link
      .measure()
      .then(() => this.wakeAll())
      .catch((reason: unknown) => {
        if (link.state !== 'ready') return;
        const { rawMessage } = GbError.from(reason);
        if (told === '' || told !== link.laneDetail)
          this.deps.events.add('warning', 'link_unmeasured', link.name, rawMessage);
        this.deps.clock.after(LINK_REMEASURE_MS, () => {
          if (link.state === 'ready') void this.measure(entry);
        });
      })
      .finally(() => (entry.measuring = undefined));
    return entry.measuring;
  }

  private renewAll(): void {
    for (const link of this.links) this.renew(link);
  }

  private renew(link: Link): void {
    if (link.state !== 'ready' && link.state !== 'draining') return;
    this.releases.catchUp(link.feederId);
    if (this.renewing.has(link.feederId)) return;
    this.renewing.add(link.feederId);
    const work = this.deps.registry().renew(link.feederId, link.client());
    work
      .catch((reason: unknown) => {
        const { code, rawMessage } = GbError.from(reason);
        if (code === 'CANCELED' || code === 'FEEDER_UNREACHABLE') return;
        this.deps.events.add('warning', 'renewal_failed', link.name, rawMessage);
      })
      .finally(() => this.renewing.delete(link.feederId));
  }
}

function usedOf(hold: { devices: ReadonlyMap<string, { usedBytes: number }> }): number {
  return [...hold.devices.values()].reduce((sum, { usedBytes }) => sum + usedBytes, 0);
}
