// SPDX-License-Identifier: Apache-2.0
// What people ask the agent to do. Each action is complete when it answers.
import type { MessageInitShape } from '@bufbuild/protobuf';
import type { Clock } from '../../proto/base/clock.js';
import { GbError } from '../../proto/base/errors.js';
import { parseId } from '../../proto/base/ids.js';
import { DRAIN_PROGRESS_INTERVAL_MS } from '../../proto/base/limits.js';
import type {
  ConnectResponseSchema,
  DisconnectResponseSchema,
  DrainStatusSchema,
} from '../../proto/gen/greenboost/v1/control_pb.js';
import type { AttachmentRegistry } from '../attachments/registry.js';
import type { VramArbiter } from '../attachments/arbiter.js';
import type { Ledger } from '../ledger.js';
import type { DrainProgress } from '../links/drains.js';
import type { Link } from '../links/link.js';
import type { LinkManager } from '../links/manager.js';
import { pingFeeder, type PingPart } from '../links/ping.js';
import type { LocalTiers } from '../tiers/local.js';
import { evict, type EvictionRequest } from './evictions.js';
import { plan } from './plans.js';
import type { ChangeBus } from './stream.js';
import { drainMessage, feederTiers, linkMessage } from './snapshot.js';

type DrainInit = MessageInitShape<typeof DrainStatusSchema>;

export interface ActionDeps {
  readonly links: LinkManager;
  readonly registry: AttachmentRegistry;
  readonly local: LocalTiers;
  readonly ledger: Ledger;
  readonly arbiter: VramArbiter;
  readonly changes: ChangeBus;
  readonly clock: Clock;
  /** Feeder ids of all keys in the keyring. */
  readonly keyIds: () => readonly string[];
  /** Ends the agent soon after this returns. */
  readonly stopSoon: () => void;
}

export class Actions {
  constructor(private readonly deps: ActionDeps) {}

  /** Opens the link and waits until it is ready and measured. Without an id the only key of the
   *  keyring is taken.
   *  @throws GbError NOT_FOUND, UNAUTHENTICATED, FEEDER_UNREACHABLE, INVALID_ARGUMENT,
   *  ALREADY_EXISTS. */
  async connect(request: {
    address: string;
    feederId: string;
    timeoutMs: number;
    signal: AbortSignal;
  }): Promise<MessageInitShape<typeof ConnectResponseSchema>> {
    const keyId = this.keyIdFor(request.feederId);
    const { address, timeoutMs, signal } = request;
    const link = await this.deps.links.connect({ address, keyId, timeoutMs, signal });
    const { registry } = this.deps;
    return { link: this.message(link), tiers: feederTiers(link, registry.all) };
  }

  /** What an action would do now. @throws GbError NOT_FOUND, INVALID_ARGUMENT. */
  plan(request: Parameters<typeof plan>[0]): ReturnType<typeof plan> {
    return plan(request, this.deps);
  }

  /** Moves bytes of a program from VRAM to RAM. @throws as evict. */
  evict(request: EvictionRequest): ReturnType<typeof evict> {
    return evict(request, this.deps);
  }

  /** An action that was planned in one epoch is not carried out in another; 0: it was not planned.
   *  @throws GbError EPOCH_STALE. */
  inEpoch(epoch: bigint): void {
    const now = this.deps.links.epoch;
    if (epoch === 0n || epoch === now) return;
    const text = `planned in epoch ${epoch}, and the cluster has changed since (now ${now})`;
    throw new GbError('EPOCH_STALE', text, { details: { hint: 'look at the plan again' } });
  }

  /** Empties a feeder; `onProgress` at most every DRAIN_PROGRESS_INTERVAL_MS. Cancel: `signal`; what
   *  has moved stays moved. @throws GbError NOT_FOUND, WRONG_STATE, CANCELED. */
  async drain(
    feeder: string,
    options: { signal: AbortSignal; clock: Clock; onProgress: (status: DrainInit) => void },
  ): Promise<DrainInit> {
    const { links } = this.deps;
    const { feederId } = links.named(feeder);
    let last: DrainProgress | undefined;
    const tell = (): void => {
      last = links.drains.progressOf(feederId) ?? last;
      if (last) options.onProgress(drainMessage(last, false));
    };
    const timer = options.clock.every(DRAIN_PROGRESS_INTERVAL_MS, tell);
    const begin = options.clock.nowMs();
    try {
      const work = links.drain(feeder, options.signal);
      last = links.drains.progressOf(feederId);
      const movedBytes = await work;
      const elapsedMs = options.clock.nowMs() - begin;
      const bytesPerSecond = elapsedMs > 0 ? (movedBytes * 1000) / elapsedMs : 0;
      const totals = { totalBytes: movedBytes, movedBytes, bytesPerSecond, elapsedMs };
      return drainMessage({ ...totals, etaMs: 0, waitsFor: '' }, true);
    } finally {
      timer.cancel();
    }
  }

  /** @throws GbError NOT_FOUND. */
  async setPaused(
    feeder: string,
    paused: boolean,
  ): Promise<{ link: ReturnType<typeof linkMessage> }> {
    return { link: this.message(await this.deps.links.setPaused(feeder, paused)) };
  }

  /** @throws GbError NOT_FOUND, FEEDER_UNREACHABLE. */
  ping(
    feeder: string,
    options: { count: number; intervalMs: number; clock: Clock; signal: AbortSignal },
  ): AsyncGenerator<PingPart, void, void> {
    return pingFeeder(this.deps.links.named(feeder), options);
  }

  /** @throws GbError NOT_FOUND; WRONG_STATE when bytes would be lost. */
  async disconnect(
    feeder: string,
    force: boolean,
    signal: AbortSignal,
  ): Promise<MessageInitShape<typeof DisconnectResponseSchema>> {
    const { movedBytes, lostBytes } = await this.deps.links.disconnect(feeder, force, signal);
    return { movedBytes: BigInt(movedBytes), lostBytes: BigInt(lostBytes) };
  }

  /** Measures local tiers and links again. */
  async probe(): Promise<void> {
    await Promise.all([this.deps.links.measureAll(), this.deps.local.probe()]);
  }

  /** @throws GbError WRONG_STATE while programs run, unless `force`: they keep their local memory
   *  then, and what they have on feeders lives until its time to live. */
  shutdown(force: boolean): void {
    const running = this.deps.registry.all.length;
    if (running > 0 && !force) {
      throw new GbError('WRONG_STATE', `${running} programs use this agent`, {
        details: { hint: 'end them first, or add --force' },
      });
    }
    this.deps.stopSoon();
  }

  private message(link: Link): ReturnType<typeof linkMessage> {
    return linkMessage(link, this.deps.registry, this.deps.links.drains);
  }

  private keyIdFor(feederId: string): string {
    if (feederId !== '') return parseId('feeder', feederId);
    const ids = this.deps.keyIds();
    if (ids.length === 1) return ids[0] as string;
    const text =
      ids.length === 0
        ? 'the keyring holds no key'
        : 'the keyring holds several keys; name the feeder id';
    throw new GbError(ids.length === 0 ? 'NOT_FOUND' : 'INVALID_ARGUMENT', text);
  }
}
