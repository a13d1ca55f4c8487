// SPDX-License-Identifier: Apache-2.0
// `greenboost run -- CMD`: an ordinary child process with the shim preloaded. Signals go through, the exit code comes
// back, and while the program lives its agent is kept alive.
import { spawn, type ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { delimiter, join, resolve } from 'node:path';
import { systemClock, type Timer } from '../../../proto/base/clock.js';
import { GbError } from '../../../proto/base/errors.js';
import {
  agentSocketPath,
  nativePath,
  packageRoot,
  shimSocketPath,
} from '../../../proto/base/paths.js';
import { parseBytes } from '../../../proto/base/units.js';
import { ensureAgent, isAlive } from '../daemon.js';
import { EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, EXIT_SIGNAL_BASE } from '../exit.js';
import { note } from '../output.js';
import { savePlan } from '../plans.js';
import { checkedReport, profileFor, profileNamed, type Profile } from '../profiles.js';

export interface RunOptions {
  readonly vramBudget?: string;
  readonly ramBudget?: string;
  readonly overcommit?: 'gated';
  /** Of what lies on feeders. */
  readonly replicas?: '1' | '2';
  /** Where kernels run whose data lie on feeders. */
  readonly remote?: 'merged' | 'off';
  readonly nvme?: string;
  readonly report?: string;
  readonly profile?: string;
  /** A model: its plan is kept for `report`. */
  readonly plan?: string;
  readonly gpu?: 'cuda' | 'sim';
  readonly statsFile?: string;
}

const AGENT_CHECK_INTERVAL_MS = 500;
/** After a failed restart the next try waits this long, so that a broken agent costs nothing. */
const AGENT_RETRY_INTERVAL_MS = 10_000;
const FORWARDED: readonly NodeJS.Signals[] = [
  'SIGTERM',
  'SIGHUP',
  'SIGUSR2',
  'SIGINT',
  'SIGQUIT',
  'SIGUSR1',
];
/** These the terminal itself sends to every process in the foreground, the program included. */
const FROM_TERMINAL: ReadonlySet<NodeJS.Signals> = new Set(['SIGINT', 'SIGQUIT']);

function checkedSize(value: string, option: string): string {
  try {
    parseBytes(value);
  } catch (reason) {
    throw new GbError('INVALID_ARGUMENT', `${option}: ${GbError.from(reason).rawMessage}`);
  }
  return value;
}

/** `DIR` or `DIR:SIZE`. Ranges in a file are unmapped: the mode that admits them goes with it.
 *  @throws GbError INVALID_ARGUMENT without a folder. */
function nvmeEnvironment(value: string): NodeJS.ProcessEnv {
  const [, directory = '', size] = /^(.*?)(?::(\d[^:/]*))?$/s.exec(value) ?? [];
  if (directory === '') {
    throw new GbError(
      'INVALID_ARGUMENT',
      '--nvme: write a folder, as /mnt/nvme or /mnt/nvme:64GiB',
    );
  }
  return {
    GREENBOOST_OVERCOMMIT: 'gated',
    GREENBOOST_NVME_DIR: resolve(directory),
    ...(size ? { GREENBOOST_NVME_BUDGET: String(parseBytes(checkedSize(size, '--nvme'))) } : {}),
  };
}

/** Kernels run on feeders only where ranges may live there, and in one copy.
 *  @throws GbError INVALID_ARGUMENT together with two copies. */
function remoteEnvironment(remote: 'merged' | 'off', env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  if (remote === 'off') return { GREENBOOST_REMOTE: 'off' };
  if (env['GREENBOOST_REPLICAS'] === '2') {
    throw new GbError('INVALID_ARGUMENT', '--remote merged works with one copy on feeders', {
      details: { hint: 'leave out --replicas 2, and GREENBOOST_REPLICAS' },
    });
  }
  return { GREENBOOST_REMOTE: 'merged', GREENBOOST_OVERCOMMIT: 'gated' };
}

function prependPath(first: string, rest: string | undefined): string {
  return rest ? `${first}${delimiter}${rest}` : first;
}

function appendPath(first: string | undefined, last: string): string {
  return first ? `${first}${delimiter}${last}` : last;
}

/** What the profile sets: nothing that the user has set already. */
function profileEnvironment(profile: Profile, base: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const wanted = { ...profile.env, GREENBOOST_REPORT: profile.report };
  return Object.fromEntries(Object.entries(wanted).filter(([name]) => !base[name]));
}

/** The environment of the program: what the user has, plus the shim and its settings. Python finds
 *  the module `greenboost` behind everything else.
 *  @throws GbError NOT_FOUND when natives are not built, INVALID_ARGUMENT on a size that is none. */
export function runEnvironment(
  options: RunOptions,
  base: NodeJS.ProcessEnv,
  profile: Profile,
): NodeJS.ProcessEnv {
  const shim = nativePath('lib', 'libgreenboost_cuda.so');
  if (/[\s:]/.test(shim)) {
    throw new GbError(
      'UNSUPPORTED',
      `the loader cannot preload from a path with a space or colon: ${shim}`,
      {
        details: { hint: 'move greenboost to a folder without them' },
      },
    );
  }
  const env: NodeJS.ProcessEnv = { ...base, ...profileEnvironment(profile, base) };
  env['PYTHONPATH'] = appendPath(base['PYTHONPATH'], join(packageRoot(), 'shim', 'python'));
  env['LD_PRELOAD'] = prependPath(shim, base['LD_PRELOAD']);
  env['GREENBOOST_RUN_ID'] = randomBytes(8).toString('hex');
  env['GREENBOOST_SOCKET'] = shimSocketPath(base);
  if (options.vramBudget)
    env['GREENBOOST_VRAM_BUDGET'] = checkedSize(options.vramBudget, '--vram-budget');
  if (options.ramBudget)
    env['GREENBOOST_RAM_BUDGET'] = checkedSize(options.ramBudget, '--ram-budget');
  if (options.overcommit) env['GREENBOOST_OVERCOMMIT'] = options.overcommit;
  if (options.replicas) {
    env['GREENBOOST_REPLICAS'] = options.replicas;
    // Copies of what lies on feeders: the mode that admits that goes with them.
    if (options.replicas === '2') env['GREENBOOST_OVERCOMMIT'] = 'gated';
  }
  const remote = options.remote ?? (base['GREENBOOST_REMOTE'] === 'merged' ? 'merged' : undefined);
  if (remote) Object.assign(env, remoteEnvironment(remote, env));
  if (options.nvme) Object.assign(env, nvmeEnvironment(options.nvme));
  if (options.report) env['GREENBOOST_REPORT'] = checkedReport(options.report);
  if (options.statsFile) env['GREENBOOST_STATS_FILE'] = resolve(options.statsFile);
  const gpu = options.gpu ?? base['GREENBOOST_GPU'];
  if (gpu === 'sim') {
    const driver = nativePath('lib', 'sim', 'libcuda.so.1');
    env['LD_LIBRARY_PATH'] = prependPath(join(driver, '..'), base['LD_LIBRARY_PATH']);
  }
  if (options.gpu) env['GREENBOOST_GPU'] = options.gpu;
  return env;
}

/** True when Ctrl-C in the terminal reaches the program without us: we share the terminal's foreground group. */
function inForegroundGroup(): boolean {
  try {
    const stat = readFileSync('/proc/self/stat', 'latin1');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    // After the command name: state, ppid, pgrp, session, tty_nr, tpgid.
    return fields[2] !== undefined && fields[2] === fields[5];
  } catch {
    return false;
  }
}

function forwardSignals(child: ChildProcess): () => void {
  const handlers = FORWARDED.map((signal) => {
    const handler = (): void => {
      if (FROM_TERMINAL.has(signal) && inForegroundGroup()) return;
      child.kill(signal);
    };
    process.on(signal, handler);
    return [signal, handler] as const;
  });
  return () => {
    for (const [signal, handler] of handlers) process.off(signal, handler);
  };
}

/** Starts the agent again when it dies under a running program; says so once each time. */
function keepAgentAlive(firstPid: number): () => void {
  let pid = firstPid;
  let busy = false;
  let nextTryMs = 0;
  const check = async (): Promise<void> => {
    if (busy || isAlive(pid) || systemClock.nowMs() < nextTryMs) return;
    busy = true;
    try {
      const agent = await ensureAgent();
      pid = agent.snapshot.agentPid;
      note(
        `greenboost: the agent had ended; ${agent.started ? 'started it again' : 'found a new one'} (pid ${pid})`,
      );
    } catch (reason) {
      nextTryMs = systemClock.nowMs() + AGENT_RETRY_INTERVAL_MS;
      note(
        `greenboost: the agent had ended and does not start: ${GbError.from(reason).rawMessage}`,
      );
    } finally {
      busy = false;
    }
  };
  const timer: Timer = systemClock.every(AGENT_CHECK_INTERVAL_MS, () => void check());
  return () => timer.cancel();
}

/** An agent, now and as long as the program runs. Returns what ends that; without an agent says so and does nothing. */
async function keepAgent(): Promise<() => void> {
  try {
    const agent = await ensureAgent();
    return keepAgentAlive(agent.snapshot.agentPid);
  } catch (reason) {
    const why = GbError.from(reason).rawMessage.replaceAll('\n', ': ');
    note(`greenboost: ${why}; this program gets local memory only`);
    return () => undefined;
  }
}

function exitCodeOfSignal(signal: NodeJS.Signals): number {
  return EXIT_SIGNAL_BASE + constants.signals[signal];
}

function launch(command: string, args: readonly string[], env: NodeJS.ProcessEnv): Promise<number> {
  return new Promise((done) => {
    const child = spawn(command, [...args], { stdio: 'inherit', env });
    const stopForwarding = forwardSignals(child);
    child.once('error', (error: NodeJS.ErrnoException) => {
      stopForwarding();
      const missing = error.code === 'ENOENT' || error.code === 'ENOTDIR';
      note(
        `greenboost: ${command}: ${missing ? 'no such program' : `cannot be run (${error.code ?? error.message})`}`,
      );
      done(missing ? EXIT_NOT_FOUND : EXIT_NOT_EXECUTABLE);
    });
    child.once('exit', (code, signal) => {
      stopForwarding();
      done(signal ? exitCodeOfSignal(signal) : (code ?? 1));
    });
  });
}

/** Predicts before the program takes anything of the machine. */
async function keepPlan(
  model: string,
  { vramBudget, ramBudget, gpu }: RunOptions,
  env: NodeJS.ProcessEnv,
): Promise<void> {
  const { makePlan } = await import('../planning.js');
  const plan = await makePlan(model, {
    ...(vramBudget === undefined ? {} : { vram: vramBudget }),
    ...(ramBudget === undefined ? {} : { ram: ramBudget }),
    ...(gpu === undefined ? {} : { gpu }),
  });
  savePlan(env['GREENBOOST_RUN_ID'] ?? '', plan);
}

/** Runs the program. Returns the exit code to end with: the program's own, 128 + signal, 126 or 127. */
export async function runCommand(argv: readonly string[], options: RunOptions): Promise<number> {
  const [command, ...args] = argv;
  if (command === undefined) {
    throw new GbError('INVALID_ARGUMENT', 'no program to run', {
      details: { hint: 'example: greenboost run -- python serve.py' },
    });
  }
  const profile = options.profile ? profileNamed(options.profile) : profileFor(argv);
  const env = runEnvironment(options, process.env, profile);
  if (env['GREENBOOST_REPORT'] === 'honest' && !options.report && !process.env['GREENBOOST_REPORT'])
    note(
      `greenboost: ${command} is told the GPU's own size (profile ${profile.name}: ${profile.why})`,
    );
  if (options.gpu) process.env['GREENBOOST_GPU'] = options.gpu;
  if (options.plan !== undefined) await keepPlan(options.plan, options, env);
  // An agent that seems to be there is asked while the program starts already: the shim looks for it by itself, and
  // waits a moment where it matters.
  const keeping = keepAgent();
  if (!existsSync(agentSocketPath())) await keeping;
  try {
    return await launch(command, args, env);
  } finally {
    (await keeping)();
  }
}
