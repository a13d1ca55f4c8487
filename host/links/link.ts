// SPDX-License-Identifier: Apache-2.0
// The state machine of one feeder. It owns the connection, the attempts to get one, and the clocks
// of silence and TTL; what a feeder's loss means for leases is told through LinkHooks.
//
//   connecting -> handshaking -> ready -> draining -> closed
//       ^              |          |  ^        |
//       '--- failed ---'          v  |        v
//                                stale -----> lost -> (attempts go on) -> ready
//   any -> closed: disconnected by the user, or the key was refused (no further attempt)
import type { Clock, Timer } from '../../proto/base/clock.js';
import { assertNever } from '../../proto/base/assert.js';
import { GbError } from '../../proto/base/errors.js';
import {
  HOST_NAME_CHARACTERS_MAX,
  LEASE_TTL_MS,
  REFUSED_MS_MAX,
  SILENCE_CONFIRM_MS,
  SILENCE_MAX_MS,
  SILENCE_RECONNECT_MS,
} from '../../proto/base/limits.js';
import {
  FeederState,
  type FeederPause,
  type LentDevice,
  type WatchStatsResponse,
} from '../../proto/gen/greenboost/v1/feeder_pb.js';
import { plainText } from '../control/events.js';
import { samePairingKey, type PairingKey } from '../../security/pairing.js';
import { keepTrying, type Attempts } from './attempts.js';
import type { Connector, FeederConnection } from './connection.js';
import type { FeederCalls, Traffic } from './feeder-client.js';
import type { LinkMeasurement } from './measure.js';
import { devicesTold, pausesTold } from './told.js';

interface Connecting {
  readonly t: 'connecting';
}
interface Handshaking {
  readonly t: 'handshaking';
}
interface Ready {
  readonly t: 'ready';
  readonly connection: FeederConnection;
}
interface Draining {
  readonly t: 'draining';
  readonly connection: FeederConnection;
}
interface Stale {
  readonly t: 'stale';
  /** Still open but silent; undefined: broken, attempts run. */
  readonly connection: FeederConnection | undefined;
  /** The other end's system has ended the connection; else it fell silent. */
  readonly ended: boolean;
}
interface Lost {
  readonly t: 'lost';
}
interface Closed {
  readonly t: 'closed';
}
export type LinkState = Connecting | Handshaking | Ready | Draining | Stale | Lost | Closed;
export type LinkStateName = LinkState['t'];

type Entered<S extends LinkState> = S & {
  /** Undoes what the state set up: its timers and its connection unless `next` takes it over. */
  onExit(next: LinkState): void;
};

export interface LinkHooks {
  /** A connection stands and Hello said who it is. Adopts leases; a rejection drops the connection.
   *  */
  adopt(link: Link, connection: FeederConnection, restarted: boolean): Promise<void>;
  /** Leases of this feeder are gone with their bytes. */
  leasesLost(link: Link, why: string): void;
  /** After every transition. */
  stateChanged(link: Link, from: LinkStateName): void;
  statsChanged(link: Link): void;
}

export interface LinkOptions {
  readonly address: string;
  readonly key: PairingKey;
  /** The key to use from now on, looked up before each attempt; undefined: none is known, go on with the last. */
  readonly freshKey?: (() => PairingKey | undefined) | undefined;
  /** Known from an earlier run; the feeder's leases are only good for this incarnation. */
  readonly incarnation?: string | undefined;
  readonly name?: string | undefined;
  /** Overrides `key.feederId` for shared keys. */
  readonly feederId?: string | undefined;
  readonly paused?: boolean | undefined;
  readonly connector: Connector;
  readonly hooks: LinkHooks;
  readonly clock: Clock;
  /** In [0, 1): spreads reconnects of many hosts. */
  readonly random: () => number;
}

export class Link {
  /** Application bytes, over programs' lanes. */
  readonly traffic: Traffic = { sentBytes: 0, receivedBytes: 0 };
  /** Calls over connections that have ended. */
  private readonly pastCalls: Traffic = { sentBytes: 0, receivedBytes: 0 };
  feederId: string;
  name: string;
  /** Of the present connection, or of the next. */
  key: PairingKey;
  incarnation: string | undefined;
  /** Last failure in words; empty while all is well. */
  detail = '';
  /** Why the link is closed for good, when it is. */
  refusal: GbError | undefined;
  cipher = '';
  sessionId = '';
  ttlMs = LEASE_TTL_MS;
  errorCount = 0;
  /** Monotonic; 0 before the first contact. */
  lastSeenMs = 0;
  lastSeenUnixMs = 0;
  /** See FeederConnection. */
  clockSkewMs: number | undefined;
  devices: LentDevice[] = [];
  lending = true;
  stopping = false;
  /** Why it lends nothing new, as it told. */
  pauses: readonly FeederPause[] = [];
  /** It wants its memory back, but stays. */
  asksBack = false;
  /** No new placements by the user's wish, until resumed. */
  paused: boolean;
  measurement: LinkMeasurement | undefined;
  /** Why lanes to the feeder cannot be opened; empty: they can, or nobody has tried. */
  laneDetail = '';
  private current: Entered<LinkState>;
  private attempts: Attempts | undefined;
  /** Monotonic, of the first of the present attempts that were refused one after the other. */
  private refusedSinceMs: number | undefined;
  /** Its calls may still be under way; see useKey. */
  private retired: FeederConnection | undefined;

  constructor(readonly options: LinkOptions) {
    this.key = options.key;
    this.feederId = options.feederId ?? options.key.feederId;
    this.name = options.name ?? options.address;
    this.incarnation = options.incarnation;
    this.paused = options.paused ?? false;
    this.current = { t: 'closed', onExit: () => undefined };
  }

  get state(): LinkStateName {
    return this.current.t;
  }

  /** Bytes of all calls to the feeder. */
  get callTraffic(): Traffic {
    const { current, pastCalls } = this;
    const now = 'connection' in current ? current.connection?.traffic() : undefined;
    return {
      sentBytes: pastCalls.sentBytes + (now?.sentBytes ?? 0),
      receivedBytes: pastCalls.receivedBytes + (now?.receivedBytes ?? 0),
    };
  }

  /** Begins to connect. pre: called once. */
  start(): void {
    this.enter(this.connecting());
  }

  /** The client while calls may be made. @throws GbError FEEDER_UNREACHABLE otherwise, naming the
   *  feeder. */
  client(): FeederCalls {
    const { current } = this;
    if (current.t === 'ready' || current.t === 'draining') return current.connection.client;
    throw new GbError('FEEDER_UNREACHABLE', `feeder ${this.name} is ${current.t}`, {
      details: { feeder: this.name },
    });
  }

  /** Measures round trip and bandwidth again. @throws GbError FEEDER_UNREACHABLE when not
   *  connected. */
  async measure(): Promise<LinkMeasurement> {
    const { current } = this;
    if (current.t !== 'ready' && current.t !== 'draining') this.client();
    const { connection } = current as Ready;
    try {
      this.measurement = await connection.measure();
      this.laneDetail = '';
      return this.measurement;
    } catch (reason) {
      const error = GbError.from(reason);
      if (error.details['noLanes'] === true && !connection.signal.aborted)
        this.laneDetail = error.rawMessage;
      throw error;
    } finally {
      this.options.hooks.statsChanged(this);
    }
  }

  /** No new leases from now on. @throws GbError WRONG_STATE unless ready. */
  drain(): void {
    if (this.current.t !== 'ready')
      throw new GbError('WRONG_STATE', `feeder ${this.name} is ${this.current.t}`);
    this.enter(this.holding('draining', this.current.connection));
  }

  /** Takes drain back; nothing when the link has left that state. */
  undrain(): void {
    if (this.current.t === 'draining') this.enter(this.holding('ready', this.current.connection));
  }

  /** Goes on with another key of the same feeder. A connection with it takes over the leases before the old one is
   *  retired, so that nothing is lost and nobody waits. Without a connection it is used for the next.
   *  @throws as Connector, WRONG_STATE when the feeder is another by now; the link then stays as it was. */
  async useKey(key: PairingKey): Promise<void> {
    const { current } = this;
    if (samePairingKey(key, this.key)) return;
    if (current.t !== 'ready' && current.t !== 'draining') {
      this.key = key;
      return;
    }
    const { connection: old } = current;
    const { connection, endedEarly } = await this.open(key, old.signal, () => undefined);
    try {
      const { feederId, incarnation } = connection.hello;
      if (feederId !== this.feederId || incarnation !== this.incarnation)
        throw new GbError('WRONG_STATE', `feeder ${this.name} is another by now`);
      await this.options.hooks.adopt(this, connection, false);
      old.signal.throwIfAborted();
      const ended = endedEarly();
      if (ended) throw ended;
    } catch (reason) {
      connection.close();
      throw GbError.from(reason, 'FEEDER_UNREACHABLE');
    }
    this.key = key;
    this.acceptHello(connection);
    const t = this.current.t === 'draining' ? 'draining' : 'ready';
    this.retired = old;
    old.retire();
    this.enter(this.holding(t, connection));
  }

  /** Ends the link for good. Idempotent. */
  close(detail: string): void {
    if (this.current.t === 'closed' && !this.attempts) return;
    this.detail = detail;
    this.retired?.close();
    this.enter({ t: 'closed', onExit: () => undefined });
  }

  // Every transition.
  private enter(next: Entered<LinkState>): void {
    const from = this.current;
    from.onExit(next);
    this.current = next;
    this.refusedSinceMs = undefined;
    if (this.wantsConnection(next)) {
      this.attempts ??= keepTrying(
        this.options,
        (signal) => this.attempt(signal),
        (error) => this.attemptFailed(error),
      );
    } else {
      this.stopAttempts();
    }
    this.options.hooks.stateChanged(this, from.t);
  }

  private wantsConnection(state: LinkState): boolean {
    switch (state.t) {
      case 'connecting':
      case 'handshaking':
      case 'lost':
        return true;
      case 'stale':
        return state.connection === undefined;
      case 'ready':
      case 'draining':
      case 'closed':
        return false;
      default:
        return assertNever(state);
    }
  }

  private connecting(): Entered<Connecting> {
    return { t: 'connecting', onExit: () => undefined };
  }

  private handshaking(): Entered<Handshaking> {
    return { t: 'handshaking', onExit: () => undefined };
  }

  private holding(
    t: 'ready' | 'draining',
    connection: FeederConnection,
  ): Entered<Ready | Draining> {
    const watch = this.watchSilence(() => {
      this.errorCount++;
      this.detail = `silent for more than ${SILENCE_MAX_MS / 1000} s`;
      this.enter(this.stale(connection));
    });
    return {
      t,
      connection,
      onExit: (next) => {
        watch.cancel();
        this.leave(connection, next);
      },
    };
  }

  /** Calls `onSilent` when nothing was heard for SILENCE_MAX_MS. */
  private watchSilence(onSilent: () => void): Timer {
    const { clock } = this.options;
    const untilMs = (): number => this.lastSeenMs + SILENCE_MAX_MS - clock.nowMs();
    let timer: Timer;
    const look = (): void => {
      const leftMs = untilMs() - SILENCE_CONFIRM_MS;
      timer = leftMs > 0 ? clock.after(leftMs, look) : clock.after(SILENCE_CONFIRM_MS, confirm);
    };
    const confirm = (): void => (untilMs() > 0 ? look() : onSilent());
    look();
    return { cancel: () => timer.cancel() };
  }

  private stale(connection: FeederConnection | undefined, ended = false): Entered<Stale> {
    const { clock } = this.options;
    const timers: Timer[] = [];
    const ttlLeftMs = Math.max(0, this.lastSeenMs + this.ttlMs - clock.nowMs());
    timers.push(clock.after(ttlLeftMs, () => this.enter(this.lost('its time to live is over'))));
    if (connection) {
      timers.push(clock.after(SILENCE_RECONNECT_MS, () => this.enter(this.stale(undefined))));
    }
    return {
      t: 'stale',
      connection,
      ended,
      onExit: (next) => {
        timers.forEach((timer) => timer.cancel());
        if (connection) this.leave(connection, next);
      },
    };
  }

  /** Closes a connection that the next state does not hold; one that was replaced closes by itself. */
  private leave(connection: FeederConnection, next: LinkState): void {
    const held = 'connection' in next && next.connection === connection;
    if (held) return;
    const { sentBytes, receivedBytes } = connection.traffic();
    this.pastCalls.sentBytes += sentBytes;
    this.pastCalls.receivedBytes += receivedBytes;
    if (connection !== this.retired) connection.close();
  }

  private lost(why: string): Entered<Lost> {
    this.options.hooks.leasesLost(this, why);
    return { t: 'lost', onExit: () => undefined };
  }

  private stopAttempts(): void {
    this.attempts?.cancel();
    this.attempts = undefined;
  }

  private attemptFailed(error: GbError): void {
    this.errorCount++;
    this.detail = error.rawMessage;
    if (error.code === 'UNAUTHENTICATED' || error.code === 'PROTOCOL_VIOLATION') {
      this.refusal = error;
      const hadLeases = this.current.t === 'stale';
      if (hadLeases) this.options.hooks.leasesLost(this, error.rawMessage);
      this.close(error.rawMessage);
    } else if (this.current.t === 'handshaking') {
      this.enter(this.connecting());
    } else if (this.hasExited(error)) {
      this.enter(this.lost('its daemon has ended: nothing listens at its address any more'));
    } else {
      this.options.hooks.statsChanged(this);
    }
  }

  /** A daemon whose connections its system ended, and whose address refuses new ones for a while, has exited, and what
   *  its executors held is gone. A firewall that refuses leaves the connection open and silent. */
  private hasExited(error: GbError): boolean {
    const now = this.options.clock.nowMs();
    const refused = error.details['refused'] === true;
    if (this.current.t !== 'stale' || !this.current.ended || !refused) {
      this.refusedSinceMs = undefined;
      return false;
    }
    this.refusedSinceMs ??= now;
    return now - this.refusedSinceMs >= REFUSED_MS_MAX;
  }

  /** Opens a connection; `signal` ends the opening, not what was opened. */
  private async open(
    key: PairingKey,
    signal: AbortSignal,
    onSecured: () => void,
  ): Promise<{ connection: FeederConnection; endedEarly: () => GbError | undefined }> {
    let opened: FeederConnection | undefined;
    let endedEarly: GbError | undefined;
    const opening = new AbortController();
    const giveUp = (): void => opening.abort(signal.reason);
    signal.addEventListener('abort', giveUp, { once: true });
    const opens = this.options.connector({
      address: this.options.address,
      key,
      signal: opening.signal,
      onSecured,
      onStats: (stats) => this.onStats(opened, stats),
      onEnd: (reason) => {
        endedEarly = reason;
        if (opened) this.onEnd(opened, reason);
      },
    });
    const connection = await opens.finally(() => signal.removeEventListener('abort', giveUp));
    opened = connection;
    return { connection, endedEarly: () => endedEarly };
  }

  private async attempt(signal: AbortSignal): Promise<void> {
    const { options } = this;
    this.key = options.freshKey?.() ?? this.key;
    const { connection, endedEarly } = await this.open(this.key, signal, () => {
      if (!signal.aborted && this.current.t === 'connecting') this.enter(this.handshaking());
    });
    try {
      signal.throwIfAborted();
      const { hello } = connection;
      const restarted = this.incarnation !== undefined && this.incarnation !== hello.incarnation;
      if (restarted && this.current.t !== 'lost')
        options.hooks.leasesLost(this, 'it was restarted');
      this.acceptHello(connection);
      await options.hooks.adopt(this, connection, restarted);
      signal.throwIfAborted();
      const ended = endedEarly();
      if (ended) throw ended;
    } catch (reason) {
      connection.close();
      throw reason;
    }
    this.detail = '';
    this.seen();
    this.enter(this.holding('ready', connection));
  }

  private acceptHello({ hello, cipher, clockSkewMs }: FeederConnection): void {
    this.clockSkewMs = clockSkewMs;
    this.feederId = hello.feederId;
    this.name = plainText(hello.feederName, HOST_NAME_CHARACTERS_MAX) || this.options.address;
    this.incarnation = hello.incarnation;
    this.sessionId = hello.sessionId;
    this.cipher = cipher;
    this.devices = devicesTold(hello.devices, []);
    this.ttlMs = hello.leaseTtlMs || LEASE_TTL_MS;
    this.stopping = false;
    this.asksBack = false;
    this.pauses = [];
    this.seen();
  }

  private seen(): void {
    this.lastSeenMs = this.options.clock.nowMs();
    this.lastSeenUnixMs = this.options.clock.unixMs();
  }

  private onStats(connection: FeederConnection | undefined, stats: WatchStatsResponse): void {
    if (connection && connection === this.retired) return;
    this.seen();
    this.devices = devicesTold(stats.devices, this.devices);
    this.lending = stats.state === FeederState.LENDING;
    this.stopping = stats.state === FeederState.STOPPING;
    this.asksBack = stats.state === FeederState.DRAINING;
    this.pauses = pausesTold(stats.pauses);
    if (connection && this.current.t === 'stale' && this.current.connection === connection) {
      this.detail = '';
      this.enter(this.holding('ready', connection));
    }
    this.options.hooks.statsChanged(this);
  }

  private onEnd(connection: FeederConnection, reason: GbError): void {
    const { current } = this;
    if (!('connection' in current) || current.connection !== connection) return;
    this.errorCount++;
    this.detail = reason.rawMessage;
    this.enter(this.stopping ? this.lost('it was stopped') : this.stale(undefined, true));
  }
}
