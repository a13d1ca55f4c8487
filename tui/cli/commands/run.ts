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
import type { SettingsFile } from '../../../proto/settings/file.js';
import { AGENT, RUN, type RunValues } from '../../../proto/settings/host.js';
import { settle } from '../../../proto/settings/settle.js';
import { ensureAgent, isAlive } from '../daemon.js';
import { EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, EXIT_SIGNAL_BASE } from '../exit.js';
import { note } from '../output.js';
import { savePlan } from '../plans.js';
import { fileOfProfile, profileFor, profileNamed, profilesOf, type Profile } from '../profiles.js';
import { flagsOf, settingsFile, type GivenOptions } from '../settings.js';

/** As commander gives them: the options of RUN, and these. */
export interface RunOptions extends GivenOptions {
  readonly config?: string;
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

/** What lies in a file or on feeders is unmapped: what admits that goes with it.
 *  @throws GbError INVALID_ARGUMENT for what does not go together. */
function memoryEnvironment(values: RunValues): NodeJS.ProcessEnv {
  const { nvme, replicas, remote } = values;
  if (remote === 'merged' && replicas === 2) {
    throw new GbError('INVALID_ARGUMENT', '--remote merged works with one copy on feeders', {
      details: { hint: 'leave out --replicas 2, and GREENBOOST_REPLICAS' },
    });
  }
  if (
    remote === 'devices' &&
    (replicas === 2 || nvme !== undefined || values.overcommit === 'gated')
  ) {
    throw new GbError('INVALID_ARGUMENT', '--remote devices works without gated and two copies', {
      details: { hint: 'leave out --overcommit, --nvme and --replicas 2, and their variables' },
    });
  }
  const gated = nvme !== undefined || replicas === 2 || remote === 'merged';
  const overcommit = gated ? 'gated' : values.overcommit;
  return told({
    GREENBOOST_OVERCOMMIT: overcommit,
    GREENBOOST_REPLICAS: replicas,
    GREENBOOST_REMOTE: remote,
    GREENBOOST_NVME_DIR: nvme?.directory,
    GREENBOOST_NVME_BUDGET: nvme?.bytes,
    GREENBOOST_NVME_WRITES_PER_DAY: values.nvmeWritesPerDay,
    GREENBOOST_VRAM_BUDGET: values.vramBudget,
    GREENBOOST_RAM_BUDGET: values.ramBudget,
    GREENBOOST_STAGING: values.staging,
    GREENBOOST_FRAMES: values.frames,
  });
}

/** Variables of what was told; sizes as the shim reads them, in bytes. */
function told(
  values: Readonly<Record<string, string | number | undefined>>,
): Record<string, string> {
  const set = Object.entries(values).filter(([, value]) => value !== undefined);
  return Object.fromEntries(set.map(([name, value]) => [name, String(value)]));
}

function prependPath(first: string, rest: string | undefined): string {
  return rest ? `${first}${delimiter}${rest}` : first;
}

function appendPath(first: string | undefined, last: string): string {
  return first ? `${first}${delimiter}${last}` : last;
}

/** What the profile sets: nothing that the user has set already. */
function profileEnvironment(profile: Profile, base: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(profile.env).filter(([name]) => !base[name]));
}

/** The environment of the program: what the user has, plus the shim and its settings. Python finds
 *  the module `greenboost` behind everything else.
 *  @throws GbError NOT_FOUND when natives are not built, INVALID_ARGUMENT on a size that is none. */
export function runEnvironment(
  options: RunOptions,
  base: NodeJS.ProcessEnv,
  profile: Profile,
  file?: SettingsFile,
): NodeJS.ProcessEnv {
  const flags = flagsOf(RUN, options);
  const { values } = settle(RUN, { flags, env: base, file: fileOfProfile(profile, file) });
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
  Object.assign(env, memoryEnvironment(values));
  env['GREENBOOST_REPORT'] = values.report ?? profile.report;
  if (options.statsFile) env['GREENBOOST_STATS_FILE'] = resolve(options.statsFile);
  const gpu = options.gpu ?? settle(AGENT, { env: base, file }).values.gpu;
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
  gpu: RunOptions['gpu'],
  env: NodeJS.ProcessEnv,
): Promise<void> {
  const { GREENBOOST_VRAM_BUDGET: vramBudget, GREENBOOST_RAM_BUDGET: ramBudget } = env;
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
  const file = await settingsFile('host', options.config);
  const profiles = profilesOf(file);
  const profile = options.profile
    ? profileNamed(options.profile, profiles)
    : profileFor(argv, profiles);
  const env = runEnvironment(options, process.env, profile, file);
  // For the agent that this may start.
  if (options.config !== undefined) process.env['GREENBOOST_CONFIG'] = resolve(options.config);
  const chosen = options['report'] ?? process.env['GREENBOOST_REPORT'] ?? '';
  if (env['GREENBOOST_REPORT'] === 'honest' && chosen === '')
    note(
      `greenboost: ${command} is told the GPU's own size (profile ${profile.name}: ${profile.why})`,
    );
  if (options.gpu) process.env['GREENBOOST_GPU'] = options.gpu;
  if (options.plan !== undefined) await keepPlan(options.plan, options.gpu, env);
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
