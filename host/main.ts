// SPDX-License-Identifier: Apache-2.0
// Composition root of the host agent: one per user, holds the lock, makes every part and stops them
// in order.
import { rmSync } from 'node:fs';
import { probeMemory, type MemoryProbe } from '../driver/executor/probe.js';
import { tryLockFile } from '../driver/os/unix.js';
import { systemClock } from '../proto/base/clock.js';
import { GbError } from '../proto/base/errors.js';
import type { FeederId } from '../proto/base/ids.js';
import { createLogger, type Logger } from '../proto/base/log.js';
import { ensurePrivateDir } from '../proto/base/paths.js';
import { softwareVersion } from '../proto/base/version.js';
import { openAudit, type AuditLog } from '../security/audit.js';
import { findKey, listKeyring } from '../security/keyring.js';
import { VramArbiter } from './attachments/arbiter.js';
import type { Attachment } from './attachments/attachment.js';
import { GrantDesk } from './attachments/grants.js';
import { AttachmentRegistry } from './attachments/registry.js';
import { resolveConfig, type AgentConfig, type AgentOptions } from './config.js';
import { Actions } from './control/actions.js';
import { explain } from './control/dispatch.js';
import { EventLog } from './control/events.js';
import { ControlServer } from './control/server.js';
import { ProgramHistory } from './control/history.js';
import { attachmentMessage, buildSnapshot, type SnapshotInit } from './control/snapshot.js';
import { ChangeBus } from './control/stream.js';
import { Ledger } from './ledger.js';
import { createConnector } from './links/connection.js';
import { LinkAudit } from './links/link-audit.js';
import { LinkManager } from './links/manager.js';
import { ShimSocket } from './shim/socket.js';
import { freshState, loadState, StateWriter, type AgentState } from './state.js';
import { openGpuSource } from './tiers/gpu.js';
import { LocalTiers } from './tiers/local.js';
import { readMemInfo, reserveBytes } from './tiers/memory.js';

export type { AgentOptions } from './config.js';

export interface RunningAgent {
  readonly config: AgentConfig;
  /** What `greenboost status` would show. */
  snapshot(): SnapshotInit;
  /** Resolves when the agent has ended, by stop or by a Shutdown call. */
  readonly ended: Promise<void>;
  /** Stops in order; leases and programs stay for the next agent. Idempotent. */
  stop(): Promise<void>;
}

/** Starts the agent of this user. Ownership: the caller stops it.
 *  @throws GbError ALREADY_EXISTS when one runs; INVALID_ARGUMENT for a bad option;
 *  PERMISSION_DENIED when the runtime folder is somebody else's. */
export async function startAgent(options: AgentOptions = {}): Promise<RunningAgent> {
  const config = await resolveConfig(options);
  const log = createLogger({ name: 'agent', level: config.logLevel });
  ensurePrivateDir(config.runtimeDir);
  ensurePrivateDir(config.stateDir);
  const lock = tryLockFile(config.lockPath);
  if (!lock) throw new GbError('ALREADY_EXISTS', 'an agent of this user is running already');
  try {
    // The lock is ours, so whoever made these sockets is gone.
    rmSync(config.agentSocketPath, { force: true });
    rmSync(config.shimSocketPath, { force: true });
    const agent = new Agent(config, log);
    await agent.start();
    void agent.ended.then(() => lock.release());
    return agent;
  } catch (reason) {
    lock.release();
    throw reason;
  }
}

/** Runs the agent until SIGTERM, SIGINT or a Shutdown call. For `greenboost agent`. @throws as
 *  startAgent. */
export async function runAgent(options: AgentOptions = {}): Promise<void> {
  const agent = await startAgent(options);
  const stop = (): void => void agent.stop();
  process.once('SIGTERM', stop);
  process.once('SIGINT', stop);
  await agent.ended;
  process.removeListener('SIGTERM', stop);
  process.removeListener('SIGINT', stop);
}

class Agent implements RunningAgent {
  readonly ended: Promise<void>;
  private readonly startedUnixMs = systemClock.unixMs();
  private readonly changes = new ChangeBus();
  private readonly events: EventLog;
  private readonly audit: AuditLog;
  private readonly ledger: Ledger;
  private readonly saved: AgentState;
  private readonly writer: StateWriter;
  private readonly links: LinkManager;
  private readonly registry: AttachmentRegistry;
  private readonly local: LocalTiers;
  private readonly arbiter: VramArbiter;
  private readonly history: ProgramHistory;
  private readonly shim: ShimSocket;
  private readonly control: ControlServer;
  private stopping: Promise<void> | undefined;
  private markEnded: () => void = () => undefined;

  constructor(
    readonly config: AgentConfig,
    private readonly log: Logger,
  ) {
    this.ended = new Promise((resolve) => (this.markEnded = resolve));
    const clock = systemClock;
    const touch = (): void => this.changes.touch();
    const persist = (): Promise<void> => this.writer.save();
    const onBug = (error: unknown, where: string): void =>
      this.log.error({ event: 'bug', where, err: error }, 'bug');
    this.events = new EventLog(clock, log);
    const memory = readMemInfo();
    this.ledger = new Ledger({
      reserveBytes: reserveBytes(memory.totalBytes),
      fixedBudgetBytes: config.ramBudgetBytes,
    });
    this.saved = this.load();
    this.writer = new StateWriter(config.statePath, () => this.collect());
    const { events, ledger } = this;
    this.audit = openAudit({ stateDir: config.stateDir, by: 'agent', clock, log });
    this.links = new LinkManager({
      clock,
      events,
      audit: new LinkAudit(this.audit),
      connector: createConnector({ hostId: this.saved.hostId, hostName: config.hostName }, clock),
      random: Math.random,
      findKey: (keyId) => this.findKey(keyId),
      registry: () => this.registry,
      persist,
      touch,
      onBug,
    });
    this.registry = new AttachmentRegistry({
      clock,
      events,
      ledger,
      directory: this.links,
      persist,
      touch,
      onBug,
      onEnding: (attachment) => this.history.end(attachment),
    });
    const runProbe = (gpuIndex: number | undefined, signal: AbortSignal): Promise<MemoryProbe> =>
      probeMemory({ gpu: config.gpu, signal, ...(gpuIndex === undefined ? {} : { gpuIndex }) });
    this.local = new LocalTiers({
      clock,
      events,
      ledger,
      gpus: openGpuSource(config.gpu),
      runProbe,
      touch,
      onGpus: (gpus) => this.arbiter.observe(gpus),
    });
    this.arbiter = new VramArbiter({ clock, events, attachments: () => this.registry.all });
    this.history = new ProgramHistory(clock, (attachment) => this.tell(attachment));
    const desk = new GrantDesk(ledger, this.arbiter);
    this.shim = new ShimSocket({
      registry: this.registry,
      desk,
      arbiter: this.arbiter,
      history: this.history,
      ledger,
      events,
      clock,
      touch,
      onBug,
    });
    const actions = new Actions({
      links: this.links,
      registry: this.registry,
      local: this.local,
      ledger,
      arbiter: this.arbiter,
      changes: this.changes,
      clock,
      keyIds: () => listKeyring(config.configDir).map(({ feederId }) => feederId),
      // After the answer is on its way.
      stopSoon: () => void clock.after(50, () => void this.stop()),
    });
    const snapshot = (): SnapshotInit => this.snapshot();
    this.control = new ControlServer({
      clock,
      changes: this.changes,
      events,
      actions,
      snapshot,
      programs: () => ({ programs: this.history.programs(this.registry.all) }),
      explain: (pid) =>
        explain(pid, this.registry.all, {
          computes: this.links,
          message: (attachment) => this.tell(attachment),
        }),
      onBug,
    });
  }

  async start(): Promise<void> {
    const { config, saved } = this;
    // Nothing is saved before all of it is restored: a crash in between must not shorten the file.
    for (const attachment of saved.attachments) this.registry.restore(attachment);
    this.local.start();
    this.links.start(saved);
    this.registry.start();
    await this.writer.save();
    await this.shim.listen(config.shimSocketPath);
    await this.control.listen(config.agentSocketPath);
    this.events.add('info', 'agent_started', '', `${softwareVersion()}, pid ${process.pid}`);
  }

  private tell(attachment: Attachment): ReturnType<typeof attachmentMessage> {
    const { ledger, arbiter, links } = this;
    return attachmentMessage(attachment, { ledger, arbiter, links });
  }

  snapshot(): SnapshotInit {
    const { links, registry, ledger, local, arbiter, events, config, startedUnixMs } = this;
    return buildSnapshot({
      software: softwareVersion(),
      hostId: this.saved.hostId,
      hostName: config.hostName,
      startedUnixMs,
      unixMs: () => systemClock.unixMs(),
      links,
      registry,
      ledger,
      local,
      arbiter,
      events,
    });
  }

  stop(): Promise<void> {
    this.stopping ??= this.stopNow().finally(() => this.markEnded());
    return this.stopping;
  }

  /** First nobody new, then the programs, then the feeders, last those who watch. */
  private async stopNow(): Promise<void> {
    this.events.add('info', 'agent_stopping', '', 'programs keep their local memory');
    await this.writer.save();
    const closed = this.shim.close();
    await this.registry.stop();
    await closed;
    await this.links.stop();
    this.audit.close();
    await this.local.stop();
    await this.control.close();
    rmSync(this.config.shimSocketPath, { force: true });
    rmSync(this.config.agentSocketPath, { force: true });
  }

  private load(): AgentState {
    try {
      return loadState(this.config.statePath);
    } catch (reason) {
      const error = GbError.from(reason);
      this.events.add('error', 'state_lost', '', `${error.rawMessage}; starting afresh`);
      return freshState();
    }
  }

  private collect(): AgentState {
    const { links, pendingReleases } = this.links.save();
    return {
      version: 1,
      hostId: this.saved.hostId,
      links,
      attachments: this.registry.save(),
      pendingReleases,
    };
  }

  private findKey(keyId: string) {
    const key = findKey(this.config.configDir, keyId as FeederId);
    if (key) return key;
    throw new GbError('NOT_FOUND', `the keyring holds no key of feeder ${keyId}`, {
      details: { hint: 'import it: greenboost key import' },
    });
  }
}
