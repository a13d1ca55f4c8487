// SPDX-License-Identifier: Apache-2.0
// Where cells of the failure matrix are played: a host and two feeders behind delay links. The
// nearer feeder, `victim`, takes what programs of a cell cannot hold; the other one was there
// first and holds the bytes of a bystander that works through everything.
import { randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { AttachmentJson } from '../../../tui/model/attachments.js';
import { EventLog, StateWatch } from '../follow.js';
import type { Line, LineSettings } from '../lines.js';
import { attachmentOf, leasedBytes, Machine, MIB, PROGRAMS, waitFor, within } from '../machine.js';
import type { Running } from '../machine.js';
import { createNetwork, type Network } from '../namespaces.js';
import { Trouble } from '../trouble.js';

export const PORT = '9740';
/** Of both feeders: the shortest that a feeder takes; the usual one is 30. */
export const TTL_SECONDS = Number(process.env['GB_MATRIX_TTL'] ?? '15');
export const VICTIM = 0;
export const OTHER = 1;
/** As the lines are unless a cell says otherwise. The victim is the cheaper one. */
export const LINES: readonly [LineSettings, LineSettings] = [
  { rate: '800Mbit', delay: '0.2ms', queue: '1MiB' },
  { rate: '400Mbit', delay: '0.5ms', queue: '1MiB' },
];
/** Of a feeder line on which transfers are to last: bytes per second and the setting. */
export const SLOW = { bytesPerSecond: 5e6, settings: { rate: '40Mbit' } } as const;

/** Of a program: a few times more than it may hold locally. */
const VRAM_BYTES = 32 * MIB;
const RAM_BYTES = 16 * MIB;
const BUFFER_BYTES = 4 * MIB;
/** Of a program that only just needs a feeder, where every byte takes long. */
export const LIGHT_BYTES = 56 * MIB;
export const PROGRAM_BYTES = 80 * MIB;
const BYSTANDER_BYTES = LIGHT_BYTES;
/** It repeats all its rounds on the CPU before it ends. */
const PROOF_MS = 180_000;

export interface Program {
  readonly run: Running;
  readonly phaseFile: string;
  readonly untilFile: string;
  readonly startedMs: number;
}

export class Stage {
  readonly daemons: Running[] = [];
  readonly events: EventLog;
  readonly state: StateWatch;
  readonly troubles: { readonly host: Trouble; readonly feeders: readonly Trouble[] };
  bystander: Program | undefined;
  /** Of the next program. */
  programBytes = PROGRAM_BYTES;
  private count = 0;

  private constructor(
    readonly network: Network,
    readonly host: Machine,
    readonly feeders: readonly Machine[],
    private readonly roundSeconds: number,
  ) {
    this.troubles = {
      host: new Trouble(host),
      feeders: feeders.map((feeder) => new Trouble(feeder)),
    };
    this.events = new EventLog(host);
    this.state = new StateWatch(host);
  }

  /** `roundSeconds`: of the bystander, which works for a thousand of them. */
  static async open(roundSeconds = 1): Promise<Stage> {
    const network = await createNetwork(2, LINES);
    const host = new Machine('host', network.host, {
      GREENBOOST_GPU: 'sim',
      GBSIM_GPU: `matrix-${randomBytes(4).toString('hex')}`,
      GBSIM_VRAM: '256MiB',
      GBSIM_STRICT: '1',
    });
    const feeders = network.feeders.map(
      (namespace, index) =>
        new Machine(index === VICTIM ? 'victim' : 'other', namespace, {
          GREENBOOST_LEASE_TTL: String(TTL_SECONDS),
        }),
    );
    const stage = new Stage(network, host, feeders, roundSeconds);
    try {
      await stage.begin();
    } catch (error) {
      await stage.close();
      throw error;
    }
    return stage;
  }

  private async begin(): Promise<void> {
    await this.startAgent();
    await this.startFeeder(OTHER);
    // Measured while it is slow, it stays the dearer one.
    await this.network.lines[OTHER]!.set({ rate: '10Mbit', delay: '20ms' });
    await this.connect(OTHER);
    await this.network.lines[OTHER]!.set(LINES[OTHER]);
    this.bystander = this.startBystander();
    const { pid } = await this.spilled(this.bystander);
    await this.startFeeder(VICTIM);
    await this.connect(VICTIM);
    await waitFor('the bystander has its round', () => this.bystanderRounds() > 0);
    const { attachmentId } = attachmentOf(this.state.latest!, (a) => a.pid === pid)!;
    const strangers = (await this.feeders[VICTIM]!.feedStatus()).leases;
    if (strangers.some((lease) => lease.attachmentId === attachmentId))
      throw new Error('the bystander has bytes on the victim');
  }

  get line(): Line {
    return this.network.lines[VICTIM]!;
  }

  get victim(): Machine {
    return this.feeders[VICTIM]!;
  }

  /** In the foreground, so that its clocks and its disk can be troubled. */
  async startAgent(): Promise<void> {
    const agent = this.host.greenboost(['agent'], this.troubles.host.env);
    await waitFor('the agent answers', async () => {
      if (agent.child.exitCode !== null) throw new Error(`the agent: ${agent.output()}`);
      return this.state.fresh(Date.now() - 1_000);
    });
  }

  async startFeeder(index: number): Promise<void> {
    const options = ['--ram', '256MiB', '--gpu', 'none', '--port', PORT];
    const { env } = this.troubles.feeders[index]!;
    this.daemons[index] = await this.feeders[index]!.startFeeder(options, env);
  }

  address(index: number): string {
    return `${this.feeders[index]!.namespace.address}:${PORT}`;
  }

  async key(index: number): Promise<string> {
    return (await this.feeders[index]!.call(['key', 'show'])).trim().split('\n').at(-1) as string;
  }

  async connect(index: number): Promise<void> {
    await this.host.call(['connect', this.address(index)], {
      GREENBOOST_KEY: await this.key(index),
    });
  }

  program({
    bytes = this.programBytes,
    rounds = 1,
    options = [],
  }: {
    bytes?: number;
    rounds?: number;
    options?: readonly string[];
  } = {}): Program {
    const name = `program${this.count++}`;
    const phaseFile = join(this.host.folder, `${name}.phase`);
    const untilFile = join(this.host.folder, `${name}.until`);
    const budgets = ['--vram-budget', String(VRAM_BYTES), '--ram-budget', String(RAM_BYTES)];
    const command = [
      join(PROGRAMS, 'gb_workset'),
      ...['--bytes', String(bytes), '--buffer-bytes', String(BUFFER_BYTES)],
      ...['--rounds', String(rounds), '--seed', String(this.count)],
      ...['--phase-file', phaseFile, '--until-file', untilFile],
      ...options,
    ];
    const run = this.host.greenboost([
      'run',
      ...['--gpu', 'sim', ...budgets, '--overcommit', 'gated'],
      '--',
      ...command,
    ]);
    return { run, phaseFile, untilFile, startedMs: Date.now() };
  }

  /** `started`, `allocated`, `filled`, `round 1`, `pausing`, `verifying`, `verified`, `done`. */
  phase({ phaseFile, run }: Program): string {
    if (run.child.exitCode !== null || run.child.signalCode !== null)
      throw new Error(`the program has ended: ${run.output()}`);
    try {
      return readFileSync(phaseFile, 'utf8').trim();
    } catch {
      return '';
    }
  }

  async inPhase(program: Program, wanted: string, timeoutMs = 60_000): Promise<void> {
    await waitFor(`phase ${wanted}`, () => this.phase(program) === wanted, timeoutMs);
  }

  /** The attachment of a program once bytes of it lie on feeders. */
  async spilled({ run }: Program): Promise<AttachmentJson> {
    return waitFor(
      'the program keeps bytes on feeders',
      () => {
        if (run.child.exitCode !== null) throw new Error(`the program: ${run.output()}`);
        const started = this.started(run);
        return (
          this.state.latest &&
          attachmentOf(
            this.state.latest,
            (a) => a.feederRamUsedBytes > 0 && started.includes(a.pid),
          )
        );
      },
      60_000,
    );
  }

  /** `greenboost run` and what it started. */
  started(run: Running): number[] {
    const all = this.network.host.pids();
    const found = [run.child.pid!];
    for (const parent of found) {
      for (const pid of all) if (parentOf(pid) === parent && !found.includes(pid)) found.push(pid);
    }
    return found;
  }

  bystanderRounds(): number {
    const { run } = this.bystander!;
    if (run.child.exitCode !== null || run.child.signalCode !== null)
      throw new Error(`the bystander has ended: ${run.output()}`);
    return [...run.output().matchAll(/^round \d+ of/gm)].length;
  }

  linkState(): string {
    const address = this.address(VICTIM);
    return this.state.latest?.links.find((link) => link.address === address)?.state ?? 'none';
  }

  /** Bytes that others than the bystander hold on the victim, and leased. */
  async victimBytes(): Promise<number> {
    return leasedBytes(await this.victim.feedStatus());
  }

  /** After a cell: lines as they were, both feeders there and connected, nothing left on the
   *  victim. Returns how long that took to become true. */
  async restore(): Promise<void> {
    for (const [index, line] of this.network.lines.entries()) {
      await line.join();
      await line.set({ jitter: '0', loss: '0', reorder: '0', ...LINES[index]! });
    }
    for (const index of [OTHER, VICTIM]) {
      const daemon = this.daemons[index];
      if (!daemon || daemon.child.exitCode !== null || daemon.child.signalCode !== null)
        await this.startFeeder(index);
    }
    const fromMs = Date.now();
    const { links } = await waitFor('the agent', () => this.state.fresh(fromMs));
    const known = links.some(
      (link) => link.address === this.address(VICTIM) && link.state !== 'closed',
    );
    if (!known) await this.connect(VICTIM);
    await waitFor(
      'both links are ready again',
      () => {
        const now = this.state.fresh(fromMs)?.links ?? [];
        return now.length === 2 && now.every((link) => link.state === 'ready');
      },
      40_000,
    );
    await this.preferVictim();
  }

  /** An agent that came in the middle of a cell has measured lines as they were then. */
  private async preferVictim(): Promise<void> {
    const rate = (index: number): number =>
      this.state.latest?.links.find((link) => link.address === this.address(index))
        ?.downloadBytesPerSecond ?? 0;
    if (rate(VICTIM) > rate(OTHER)) return;
    const line = this.network.lines[OTHER]!;
    await line.set({ rate: '10Mbit', delay: '20ms' });
    await waitFor(
      'the victim is the cheaper one again',
      async () => {
        await this.host.call(['status', '--probe']);
        return rate(VICTIM) > rate(OTHER);
      },
      60_000,
      1_000,
    );
    await line.set(LINES[OTHER]);
  }

  /** What agent and feeders have said since `fromMs`, for a failure's report. */
  story(fromMs: number): string {
    const events = this.events.all
      .filter(({ heardMs }) => heardMs >= fromMs)
      .map(({ heardMs, name, subject, text }) => ({ ms: heardMs, text: [name, subject, text] }));
    const logs = this.daemons.flatMap((daemon, index) =>
      daemon
        .output()
        .split('\n')
        .filter((line) => line.startsWith('{'))
        .map((line) => JSON.parse(line) as { time: string | number; event?: string })
        .map(({ time, event, ...rest }) => ({
          ms: new Date(time).getTime(),
          text: [this.feeders[index]!.name, event, JSON.stringify(rest)],
        }))
        .filter(({ ms }) => ms >= fromMs),
    );
    return [...events, ...logs]
      .sort((a, b) => a.ms - b.ms)
      .map(({ ms, text }) => `${((ms - fromMs) / 1000).toFixed(2)} ${text.join(': ')}`)
      .join('\n');
  }

  private startBystander(): Program {
    return this.program({
      bytes: BYSTANDER_BYTES,
      rounds: 1000,
      options: ['--round-seconds', String(this.roundSeconds)],
    });
  }

  /** @throws unless it ends, and right. */
  async endBystander(): Promise<void> {
    const { bystander } = this;
    if (!bystander) return;
    this.bystander = undefined;
    writeFileSync(bystander.untilFile, '');
    const done = await within(bystander.run.finished, PROOF_MS);
    if (done?.code !== 0) throw new Error(`the bystander: ${bystander.run.output()}`);
  }

  /** @throws unless the bystander fails with one of these. */
  async bystanderLost(...errors: readonly RegExp[]): Promise<void> {
    const { run } = this.bystander!;
    const done = await within(run.finished, PROOF_MS);
    if (!done || done.code === 0 || !errors.some((error) => error.test(done.stderr)))
      throw new Error(`the bystander has lost nothing: ${run.output()}`);
    this.bystander = undefined;
  }

  /** Ends everything. @throws when the bystander was not right. */
  async close(): Promise<void> {
    try {
      await this.endBystander();
    } finally {
      await this.events.close();
      await this.state.close();
      await this.host.close();
      for (const feeder of this.feeders) await feeder.close();
      this.network.close();
    }
  }
}

function parentOf(pid: number): number {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return Number(text.slice(text.lastIndexOf(')') + 2).split(' ')[1]);
  } catch {
    return 0;
  }
}
