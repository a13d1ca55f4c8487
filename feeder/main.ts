// SPDX-License-Identifier: Apache-2.0
// Composition root of the feeder daemon: builds the parts, starts them in order, stops them in the
// reverse one.
import { randomBytes } from 'node:crypto';
import * as grpc from '@grpc/grpc-js';
import { systemClock, type Clock } from '../proto/base/clock.js';
import {
  GOODBYE_MS,
  KEEPALIVE_INTERVAL_MS,
  KEEPALIVE_TIMEOUT_MS,
  MESSAGE_BYTES_MAX,
  STREAMS_PER_SESSION_MAX,
} from '../proto/base/limits.js';
import { createLogger, type Logger } from '../proto/base/log.js';
import { formatBytes } from '../proto/base/units.js';
import { FeederService } from '../proto/gen/greenboost/v1/feeder_pb.js';
import { addService } from '../proto/grpc.js';
import { formatEndpoint } from './address.js';
import { Announcer } from './announce.js';
import { FeederAudit } from './audit.js';
import { BlockCache } from './block-cache.js';
import { resolveConfig, type FeederConfig, type FeederOptions } from './config.js';
import { openControl, type ControlServer } from './control.js';
import { FeederDoor, type FeederDoorOptions } from './door.js';
import { Feeder } from './feeder.js';
import { Lanes } from './lanes.js';
import { lockNote } from './lock-note.js';
import { ProbeLanes } from './probe-lanes.js';
import { Rules } from './rules/rules.js';
import { feederHandlers, type ServerOptions } from './server.js';
import { Sessions } from './sessions.js';
import { feedHandlers, type StatusOptions } from './status.js';
import { listGpuUse } from '../driver/nvml/use.js';
import { openAudit } from '../security/audit.js';
import { openFeederKeys, type FeederKeyStore } from '../security/key-file.js';
import { listenPsk, type PskListener } from '../security/listener.js';
import { keyFingerprint, type PairingKey } from '../security/pairing.js';

export type { FeederOptions } from './config.js';

/** What to tell the person who started it. */
export interface FeedFacts {
  readonly feederId: string;
  readonly name: string;
  /** `host:port`, IPv6 in brackets. */
  readonly addresses: readonly string[];
  /** TCP, at each of the addresses. */
  readonly lanePort: number;
  /** `4.00 GiB of RAM`, one per device. */
  readonly lends: readonly string[];
  /** Empty, or why RAM may be swapped out. */
  readonly lockNote: string;
  readonly keyFingerprint: string;
  /** What to type on the host. */
  readonly connectLine: string;
}

export interface RunningFeeder {
  readonly feederId: string;
  /** Where it listens, with the ports that were given for port 0. */
  readonly addresses: readonly string[];
  readonly facts: FeedFacts;
  /** Resolves when the feeder has stopped, whoever asked for it. */
  readonly stopped: Promise<void>;
  /** Says goodbye, waits up to `graceMs` (default 0) for hosts to give their leases back, ends the
   *  rest, scrubs and closes. May be called again; a shorter grace then applies. */
  stop(graceMs?: number): Promise<void>;
}

export interface FeederDependencies {
  readonly clock?: Clock;
  readonly log?: Logger;
}

/** Starts lending. @throws GbError as resolveConfig; ALREADY_EXISTS when a port or the control
 *  socket is taken; then nothing is left running. */
export async function startFeeder(
  options: FeederOptions = {},
  dependencies: FeederDependencies = {},
): Promise<RunningFeeder> {
  const config = await resolveConfig(options);
  const log = dependencies.log ?? createLogger({ name: 'feeder', level: config.logLevel });
  return openFeeder(config, dependencies.clock ?? systemClock, log);
}

async function openFeeder(config: FeederConfig, clock: Clock, log: Logger): Promise<Daemon> {
  const daemon = new Daemon(config, clock, log);
  try {
    await daemon.open();
  } catch (reason) {
    await daemon.stop(0);
    throw reason;
  }
  return daemon;
}

class Daemon implements RunningFeeder {
  readonly feederId: string;
  addresses: readonly string[] = [];
  readonly stopped: Promise<void>;
  private readonly keys: FeederKeyStore;
  private readonly feeder: Feeder;
  private readonly door: FeederDoor;
  private readonly lanes: Lanes;
  private readonly probes: ProbeLanes;
  private readonly cache: BlockCache | undefined;
  private readonly rules: Rules;
  private readonly audit: FeederAudit;
  private readonly sessions: Sessions;
  private readonly server: grpc.Server;
  private readonly goodbye = new AbortController();
  private readonly startedUnixMs: number;
  private readonly incarnation = randomBytes(8).toString('hex');
  private authFailureCount = 0;
  private listener: PskListener | undefined;
  private announcer: Announcer | undefined;
  private control: ControlServer | undefined;
  private stopping: Promise<void> | undefined;
  private resolveStopped: () => void = () => undefined;

  constructor(
    private readonly config: FeederConfig,
    private readonly clock: Clock,
    private readonly log: Logger,
  ) {
    this.startedUnixMs = clock.unixMs();
    const file = openAudit({ stateDir: config.stateDir, by: 'feeder', clock, log });
    this.audit = new FeederAudit(file, clock);
    this.sessions = new Sessions((session, host) => this.audit.sessionNamed(session, host));
    this.keys = openFeederKeys(config.configDir, log, clock);
    this.feederId = this.keys.current().feederId;
    const { allowWan, hostRate, cacheBytes } = config;
    const onStranger: FeederDoorOptions['onStranger'] = (event) => this.lanes.onStranger(event);
    this.door = new FeederDoor({ allowWan, clock, log, onStranger });
    const fingerprints = (): ReadonlySet<string> => new Set(this.keyList().map(keyFingerprint));
    const { door, audit } = this;
    this.lanes = new Lanes({ door, keys: fingerprints, hostRate, clock, log, audit });
    this.feeder = new Feeder(config, clock, log, this.lanes);
    this.rules = new Rules({
      rules: config.rules,
      clock,
      log,
      hold: (pause) => this.feeder.hold(pause),
      lift: (cause) => this.feeder.lift(cause),
      look: (sinceUnixMs) => listGpuUse(config.gpu === 'sim' ? 'sim' : 'cuda', sinceUnixMs),
    });
    this.probes = new ProbeLanes({ lanes: this.lanes, guard: this.feeder.guard, clock, log });
    if (cacheBytes > 0) this.cache = new BlockCache(config.cacheDir, cacheBytes, log);
    this.cache?.watch(() => this.keyList(), clock);
    this.stopped = new Promise((resolve) => (this.resolveStopped = resolve));
    this.server = new grpc.Server({
      'grpc.max_receive_message_length': MESSAGE_BYTES_MAX,
      'grpc.max_concurrent_streams': STREAMS_PER_SESSION_MAX,
      'grpc.keepalive_time_ms': KEEPALIVE_INTERVAL_MS,
      'grpc.keepalive_timeout_ms': KEEPALIVE_TIMEOUT_MS,
    });
  }

  async open(): Promise<void> {
    const { config, log } = this;
    await this.rules.start();
    if (config.controlSocket !== false) {
      this.control = await openControl({
        socketPath: config.controlSocket,
        handlers: feedHandlers(this.statusOptions()),
        clock: this.clock,
        log,
      });
    }
    addService(this.server, FeederService, feederHandlers(this.serverOptions()), {
      onBug: (err, method) => log.error({ event: 'bug', err, method }, 'a handler failed'),
    });
    this.listener = await listenPsk({
      server: this.server,
      keys: () => this.keyList(),
      binds: config.binds,
      allowWan: config.allowWan,
      log,
      clock: this.clock,
      onSession: (session) => {
        this.sessions.add(session);
        this.audit.sessionOpened(session);
        this.feeder.hub.changed();
      },
      onSessionEnd: (session, why) => {
        this.sessions.remove(session);
        this.audit.sessionClosed(session, why);
        this.feeder.onSessionEnd(session.sessionId);
      },
      onFailure: (failure) => {
        this.audit.failed(failure);
        this.authFailureCount += 1;
        this.feeder.hub.changed();
      },
    });
    this.addresses = this.listener.addresses.map(formatEndpoint);
    await this.door.open(this.listener.addresses, config.lanePort);
    const { feederId, addresses } = this;
    this.audit.started(feederId, addresses, () => this.keyList());
    log.info(
      {
        event: 'feeder_started',
        feeder: feederId,
        addresses,
        lanePort: this.door.port,
        lends: this.facts.lends,
      },
      'lending memory',
    );
    if (config.announce) {
      this.announcer = new Announcer({
        endpoints: this.listener.addresses,
        keyFingerprint: () => this.facts.keyFingerprint,
        clock: this.clock,
        log,
      });
    }
    if (this.facts.lockNote) log.warn({ event: 'ram_not_locked' }, this.facts.lockNote);
  }

  get facts(): FeedFacts {
    const { config, addresses } = this;
    const ram = config.ramBytes > 0 ? [`${formatBytes(config.ramBytes)} of RAM`] : [];
    const gpus = config.gpus.map(({ gpu, bytes }) => {
      return `${formatBytes(bytes)} of VRAM of GPU ${gpu.index} (${gpu.name}${gpu.simulated ? ', simulated' : ''})`;
    });
    const outside = addresses.find((address) => !/^(127\.|\[::1\]|\[fe80:)/.test(address));
    const [key] = this.keyList();
    const [runner] = config.compute ? config.gpus : [];
    const compute = runner ? [`kernels on GPU ${runner.gpu.index}`] : [];
    return {
      feederId: this.feederId,
      name: config.name,
      addresses,
      lanePort: this.door.port,
      lends: [...ram, ...gpus, ...compute],
      lockNote: this.ramIsPinned ? '' : lockNote(config.ramBytes),
      keyFingerprint: key ? keyFingerprint(key) : '',
      connectLine: `greenboost connect ${outside ?? addresses[0] ?? ''}`,
    };
  }

  stop(graceMs = 0): Promise<void> {
    if (this.stopping && graceMs <= 0) this.feeder.endGrace();
    this.stopping ??= this.stopNow(graceMs);
    return this.stopping;
  }

  /** HOST_NUMA chunks are pinned by the driver whatever the limits say. */
  private get ramIsPinned(): boolean {
    return this.config.gpus.length > 0 && this.config.gpus[0]!.gpu.hostNumaVmm;
  }

  private async stopNow(graceMs: number): Promise<void> {
    const { log } = this;
    log.info(
      { event: 'feeder_stopping', graceMs, leaseCount: this.feeder.leaseCount },
      'saying goodbye to hosts',
    );
    this.rules.stop();
    await this.announcer?.close();
    await this.feeder.drain(graceMs);
    this.goodbye.abort(); // Watch streams end after their last message, which says STOPPING.
    if (this.sessions.size > 0) await this.wait(GOODBYE_MS);
    await this.feeder.stop();
    await this.lanes.stop();
    await this.probes.stop();
    await this.door.close();
    this.cache?.close();
    await this.listener?.stop();
    this.server.forceShutdown();
    await this.control?.stop();
    this.audit.stopped(this.feederId);
    log.info(
      { event: 'feeder_stopped', feeder: this.feederId },
      'everything lent is scrubbed and free',
    );
    this.resolveStopped();
  }

  private wait(delayMs: number): Promise<void> {
    return new Promise((resolve) => this.clock.after(delayMs, resolve));
  }

  private serverOptions(): ServerOptions {
    return {
      feeder: this.feeder,
      sessions: this.sessions,
      feederId: this.feederId,
      feederName: this.config.name,
      incarnation: this.incarnation,
      authFailureCount: () => this.authFailureCount,
      unixMs: () => this.clock.unixMs(),
      audit: this.audit,
      goodbye: this.goodbye.signal,
      lanes: this.lanes,
      probes: this.probes,
      allowWan: this.config.allowWan,
      cache: this.cache,
      keys: () => this.keyList(),
    };
  }

  private statusOptions(): StatusOptions {
    return {
      ...this.serverOptions(),
      startedUnixMs: this.startedUnixMs,
      facts: () => this.facts,
      stop: (graceMs) => void this.stop(graceMs),
    };
  }

  private keyList(): readonly PairingKey[] {
    return this.keys.current().keys;
  }
}

/** Grace for hosts when the daemon is told to end by a signal; a second signal ends it. */
const SIGNAL_GRACE_MS = 5_000;

/** Runs a feeder in this process until it was stopped by `feed stop` or a signal. @throws GbError
 *  as startFeeder. */
export async function runFeeder(options: FeederOptions = {}): Promise<void> {
  const config = await resolveConfig(options);
  const log = createLogger({ name: 'feeder', level: config.logLevel });
  const feeder = await openFeeder(config, systemClock, log);
  for (const line of factLines(feeder.facts)) process.stdout.write(`${line}\n`);
  const alive = setInterval(() => undefined, 60_000); // The clock's timers do not keep a process alive.
  let signals = 0;
  const onSignal = (signal: NodeJS.Signals): void => {
    log.info({ event: 'signal', signal }, 'stopping');
    void feeder.stop(signals++ === 0 ? SIGNAL_GRACE_MS : 0);
  };
  const names = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
  for (const name of names) process.on(name, onSignal);
  await feeder.stopped;
  for (const name of names) process.removeListener(name, onSignal);
  clearInterval(alive);
}

/** The facts as lines for people. */
export function factLines(facts: FeedFacts): string[] {
  return [
    `lending ${facts.lends.join(' and ')} as "${facts.name}" (${facts.feederId})`,
    `listening on ${facts.addresses.join(', ')}, lanes on port ${facts.lanePort}`,
    ...(facts.lockNote ? [`note: ${facts.lockNote}`] : []),
    `on the host, once: ${facts.connectLine}`,
    `it asks for the pairing key, which "greenboost key show" prints here (fingerprint ${facts.keyFingerprint})`,
  ];
}
