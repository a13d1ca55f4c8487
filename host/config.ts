// SPDX-License-Identifier: Apache-2.0
// What the agent was told: options of the command line over the environment over the file over
// defaults. Resolved once.
import { hostname } from 'node:os';
import { join } from 'node:path';
import type { GpuDriver } from '../driver/library.js';
import type { LogLevel } from '../proto/base/log-levels.js';
import {
  agentSocketPath,
  configDir,
  runtimeDir,
  shimSocketPath,
  stateDir,
} from '../proto/base/paths.js';
import { AGENT, type AgentValues } from '../proto/settings/host.js';
import { settle } from '../proto/settings/settle.js';

/** What is given here goes before the environment, and that before the file (proto/settings/host.ts). */
export interface AgentOptions extends AgentValues {
  /** A file of settings; one that is not there tells nothing. Default: none is read. */
  readonly configFile?: string;
  /** Default: process.env. XDG_* decide where everything lies. */
  readonly env?: Readonly<Record<string, string | undefined>>;
}

export interface AgentConfig {
  readonly ramBudgetBytes: number | undefined;
  readonly gpu: GpuDriver;
  readonly logLevel: LogLevel;
  readonly hostName: string;
  readonly configDir: string;
  readonly runtimeDir: string;
  readonly stateDir: string;
  readonly statePath: string;
  readonly lockPath: string;
  readonly agentSocketPath: string;
  readonly shimSocketPath: string;
}

/** @throws GbError INVALID_ARGUMENT naming the option, variable or line that is wrong. */
export async function resolveConfig(options: AgentOptions): Promise<AgentConfig> {
  const env = options.env ?? process.env;
  const { configFile } = options;
  const file =
    configFile === undefined
      ? undefined
      : (await import('../proto/settings/file.js')).readFile('host', configFile);
  const told = settle(AGENT, { flags: options, env, file }).values;
  const runtime = runtimeDir(env);
  return {
    ramBudgetBytes: told.ramBudgetBytes,
    gpu: told.gpu ?? 'cuda',
    logLevel: told.logLevel ?? 'info',
    hostName: hostname(),
    configDir: configDir(env),
    runtimeDir: runtime,
    stateDir: stateDir(env),
    statePath: join(stateDir(env), 'agent.json'),
    lockPath: join(runtime, 'agent.lock'),
    agentSocketPath: agentSocketPath(env),
    shimSocketPath: shimSocketPath(env),
  };
}
