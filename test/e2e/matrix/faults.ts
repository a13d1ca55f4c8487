// SPDX-License-Identifier: Apache-2.0
// The faults of the matrix: how each is planted, how long it lasts, and how we know that it was
// really there. All strike the victim's machine or its line, but for two that strike the host.
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import type { Side } from '../lines.js';
import { waitFor } from '../machine.js';
import type { Namespace } from '../namespaces.js';
import { TTL_SECONDS, VICTIM, type Stage } from './stage.js';

export interface Planted {
  /** Ends it. */
  lift(): Promise<void>;
  /** Evidence that it happened, taken before it is lifted. @throws when there is none. */
  proof(): Promise<string>;
}

export interface Fault {
  readonly title: string;
  /** From plant to lift; undefined: until the program has ended. */
  readonly holdMs: number | undefined;
  /** Every byte takes long while it lasts. */
  readonly slow?: boolean;
  plant(stage: Stage): Promise<Planted>;
}

/** Longer than a feeder waits for its host. */
const PAST_TTL_MS = (TTL_SECONDS + 4) * 1000;
const SHORT_MS = 4_000;

function require(condition: boolean, what: string): asserts condition {
  if (!condition) throw new Error(`the fault was not there: ${what}`);
}

/** `comm` and state of a process; undefined: it is gone. */
function processOf(pid: number): { name: string; state: string } | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    const end = text.lastIndexOf(')');
    return { name: text.slice(text.indexOf('(') + 1, end), state: text[end + 2] ?? '?' };
  } catch {
    return undefined;
  }
}

const isGone = (pid: number): boolean => {
  const found = processOf(pid);
  return found === undefined || found.state === 'Z';
};

function signalAll(pids: readonly number[], signal: NodeJS.Signals): void {
  for (const pid of pids) {
    try {
      process.kill(pid, signal);
    } catch {
      // It has ended meanwhile.
    }
  }
}

const nothing = async (): Promise<void> => undefined;

function executors(stage: Stage): number[] {
  return stage.victim.namespace.pids().filter((pid) => processOf(pid)?.name === 'gb-executor');
}

async function killDaemon(stage: Stage): Promise<Planted> {
  const { child } = stage.daemons[VICTIM]!;
  const held = executors(stage).length;
  process.kill(child.pid!, 'SIGKILL');
  return {
    async proof() {
      // Our own process hears of it a moment after the kernel has ended it.
      await waitFor(
        'the daemon is gone',
        () => child.signalCode !== null || child.exitCode !== null,
      );
      await waitFor('its executors are gone', () => executors(stage).length === 0);
      require(child.signalCode === 'SIGKILL', `it ended by ${child.signalCode}`);
      return `pid ${child.pid} ended by SIGKILL, its ${held} executors with it`;
    },
    lift: () => stage.startFeeder(VICTIM),
  };
}

async function killExecutors(stage: Stage): Promise<Planted> {
  const pids = executors(stage);
  require(pids.length > 0, 'no executor runs');
  signalAll(pids, 'SIGKILL');
  return {
    async proof() {
      await waitFor('the executors are gone', () => pids.every(isGone));
      return `executor ${pids.join(', ')} gone`;
    },
    lift: nothing,
  };
}

/** Stops all processes of a machine. */
async function freeze(namespace: Namespace): Promise<Planted> {
  const pids = namespace.pids();
  signalAll(pids, 'SIGSTOP');
  const states = (): string[] => pids.map((pid) => processOf(pid)?.state ?? '').filter(Boolean);
  return {
    async proof() {
      const seen = states();
      require(seen.length > 0 && seen.every((state) => state === 'T'), `states ${seen.join('')}`);
      return `${seen.length} processes in state T`;
    },
    async lift() {
      signalAll(pids, 'SIGCONT');
    },
  };
}

async function stopCleanly(stage: Stage): Promise<Planted> {
  const { child } = stage.daemons[VICTIM]!;
  const stop = stage.victim.greenboost(['feed', 'stop', '--grace', '30']);
  return {
    async proof() {
      const done = await stop.finished;
      require(done.code === 0, `feed stop: ${done.stdout}${done.stderr}`);
      await waitFor('the daemon has ended', () => child.exitCode !== null);
      require(child.exitCode === 0, `the daemon ended with ${child.exitCode}`);
      return 'feed stop said done, the daemon ended with 0';
    },
    lift: () => stage.startFeeder(VICTIM),
  };
}

async function cut(stage: Stage, side?: Side): Promise<Planted> {
  await stage.line.cut(side);
  const before = await stage.line.stats();
  return {
    async proof() {
      const after = await stage.line.stats();
      const count = (each: Side, what: 'packets' | 'cutDropped'): number =>
        after[each][what] - before[each][what];
      for (const each of ['host', 'feeder'] as const) {
        if (side === undefined || side === each)
          require(count(each, 'packets') === 0, `packets of the ${each} arrived`);
        else require(count(each, 'cutDropped') === 0, `packets of the ${each} were cut`);
      }
      const dropped = count('host', 'cutDropped') + count('feeder', 'cutDropped');
      require(dropped > 0, 'nobody sent anything');
      return `${count('host', 'cutDropped')} packets of the host cut, ${count('feeder', 'cutDropped')} of the feeder`;
    },
    lift: () => stage.line.join(),
  };
}

async function lose(stage: Stage): Promise<Planted> {
  const before = await stage.line.stats();
  await stage.line.set({ loss: '5%' });
  return {
    async proof() {
      const after = await stage.line.stats();
      const lost = after.host.lost - before.host.lost + after.feeder.lost - before.feeder.lost;
      require(lost > 0, 'nothing was lost');
      return `${lost} packets lost`;
    },
    lift: () => stage.line.set({ loss: '0' }),
  };
}

/** Milliseconds until a closed port of the victim refuses. */
function knockMs(stage: Stage): number {
  const script = `exec 3<>/dev/tcp/${stage.victim.namespace.address}/9`;
  const [command, args] = stage.network.host.wrap(['timeout', '5', 'bash', '-c', script]);
  const start = performance.now();
  try {
    execFileSync(command, args, { stdio: 'ignore' });
  } catch {
    // Refused, as it should be.
  }
  return performance.now() - start;
}

async function shake(stage: Stage): Promise<Planted> {
  await stage.line.set({ jitter: '200ms' });
  return {
    async proof() {
      const knocks: number[] = [];
      for (let i = 0; i < 8; i++) knocks.push(Math.round(knockMs(stage)));
      const spread = Math.max(...knocks) - Math.min(...knocks);
      require(spread > 30, `knocks took ${knocks.join(', ')} ms`);
      return `knocks took ${knocks.join(', ')} ms`;
    },
    lift: () => stage.line.set({ jitter: '0' }),
  };
}

async function slowDisk(stage: Stage): Promise<Planted> {
  const { host, feeders } = stage.troubles;
  const all = [host, feeders[VICTIM]!];
  const before = all.reduce((sum, trouble) => sum + trouble.slowed(), 0);
  for (const trouble of all) trouble.set('diskMs', 1_500);
  return {
    async proof() {
      const slowed = await waitFor('a write was held up', () => {
        const sum = all.reduce((most, trouble) => most + trouble.slowed(), 0) - before;
        return sum > 0 && sum;
      });
      return `${slowed} writes and syncs of daemons were held up`;
    },
    async lift() {
      for (const trouble of all) trouble.set('diskMs', 0);
    },
  };
}

const HOUR_MS = 3_600_000;

/** The victim's wall clock leaps an hour ahead, the agent's an hour back, and both think they were
 *  suspended for a minute. */
async function jump(stage: Stage): Promise<Planted> {
  const { host, feeders } = stage.troubles;
  const all = [host, feeders[VICTIM]!];
  host.set('wallMs', -HOUR_MS);
  feeders[VICTIM]!.set('wallMs', HOUR_MS);
  for (const trouble of all) trouble.set('suspendedMs', 60_000);
  return {
    async proof() {
      const agent = (await stage.host.status()).unixMs - Date.now();
      require(Math.abs(agent + HOUR_MS) < 60_000, `the agent's clock is off by ${agent} ms`);
      return `the agent's clock is ${Math.round(agent / 1000)} s off`;
    },
    async lift() {
      for (const trouble of all) {
        trouble.set('wallMs', 0);
        trouble.set('suspendedMs', 0);
      }
    },
  };
}

/** No process of the victim gets more address space than it has: it has no memory left to lend,
 *  whatever it promised. */
async function fillMemory(stage: Stage): Promise<Planted> {
  const pids = executors(stage);
  require(pids.length > 0, 'no executor runs');
  for (const pid of pids) {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    const bytes = Number(/^VmSize:\s+(\d+) kB/m.exec(status)?.[1] ?? 0) * 1024;
    execFileSync('prlimit', ['--pid', String(pid), `--as=${bytes}:${bytes}`]);
    const limits = readFileSync(`/proc/${pid}/limits`, 'utf8');
    require(limits.includes(` ${bytes} `), `no limit on ${pid}`);
  }
  return {
    proof: async () => `${pids.length} executors at the end of their address space`,
    lift: nothing,
  };
}

async function restartAgent(stage: Stage): Promise<Planted> {
  const { agentPid } = stage.state.latest!;
  process.kill(agentPid, 'SIGKILL');
  return {
    async proof() {
      await waitFor('the agent is gone', () => isGone(agentPid));
      const next = await waitFor(
        'another agent answers',
        () => stage.state.latest?.agentPid !== agentPid && stage.state.latest?.agentPid,
      );
      return `agent ${agentPid} killed, agent ${next} answers`;
    },
    lift: nothing,
  };
}

async function suspendHost(stage: Stage): Promise<Planted> {
  const frozen = await freeze(stage.network.host);
  for (const line of stage.network.lines) await line.cut();
  return {
    proof: () => frozen.proof(),
    async lift() {
      for (const line of stage.network.lines) await line.join();
      await frozen.lift();
    },
  };
}

const fault = (
  title: string,
  holdMs: number | undefined,
  plant: (stage: Stage) => Promise<Planted>,
): Fault => ({ title, holdMs, plant });

export const FAULTS = {
  kill: fault('kill -9 of the feeder, started again after 1 s', 1_000, killDaemon),
  killExecutor: fault('kill -9 of the executor', 0, killExecutors),
  freeze: fault('SIGSTOP of the feeder for 4 s', SHORT_MS, (stage) =>
    freeze(stage.victim.namespace),
  ),
  freezeLong: fault('SIGSTOP of the feeder past its TTL', PAST_TTL_MS, (stage) =>
    freeze(stage.victim.namespace),
  ),
  stop: fault('clean stop', 0, stopCleanly),
  cut: fault('network cut for 4 s', SHORT_MS, (stage) => cut(stage)),
  cutLong: fault('network cut past the TTL', PAST_TTL_MS, (stage) => cut(stage)),
  halfOpenTo: fault('half-open for 6 s: nothing reaches the feeder', 6_000, (stage) =>
    cut(stage, 'host'),
  ),
  halfOpenFrom: fault('half-open for 6 s: nothing comes from the feeder', 6_000, (stage) =>
    cut(stage, 'feeder'),
  ),
  loss: { ...fault('5 % loss', undefined, lose), slow: true },
  jitter: { ...fault('200 ms jitter', undefined, shake), slow: true },
  disk: fault('slow disk', undefined, slowDisk),
  clock: fault('clock jump', SHORT_MS, jump),
  memory: fault('full memory', undefined, fillMemory),
  agent: fault('agent restart', 0, restartAgent),
  suspend: fault('host suspend for 5 s', 5_000, suspendHost),
  suspendLong: fault('host suspend past the TTL', PAST_TTL_MS, suspendHost),
} as const satisfies Record<string, Fault>;
export type FaultName = keyof typeof FAULTS;
