// SPDX-License-Identifier: Apache-2.0
// What the agent was told: options of the command line over the environment over defaults. Resolved
// once.
import { hostname } from 'node:os';
import { join } from 'node:path';
import { gpuDriverFromEnv, type GpuDriver } from '../driver/library.js';
import { GbError } from '../proto/base/errors.js';
import {
  agentSocketPath,
  configDir,
  runtimeDir,
  shimSocketPath,
  stateDir,
} from '../proto/base/paths.js';
import { parseBytes } from '../proto/base/units.js';

export interface AgentOptions {
  /** T2 for all programs together, whatever MemAvailable says, as `16GiB` or in bytes.
   *  Default: GREENBOOST_AGENT_RAM_BUDGET, else MemAvailable less the reserve. */
  readonly ramBudget?: string | number | undefined;
  /** Whose driver lists and measures local GPUs. Default: GREENBOOST_GPU, else cuda. */
  readonly gpu?: GpuDriver | undefined;
  /** Default: process.env. XDG_* decide where everything lies. */
  readonly env?: Readonly<Record<string, string | undefined>>;
}

export interface AgentConfig {
  readonly ramBudgetBytes: number | undefined;
  readonly gpu: GpuDriver;
  readonly hostName: string;
  readonly configDir: string;
  readonly runtimeDir: string;
  readonly stateDir: string;
  readonly statePath: string;
  readonly lockPath: string;
  readonly agentSocketPath: string;
  readonly shimSocketPath: string;
}

/** @throws GbError INVALID_ARGUMENT naming the option or variable that is wrong. */
export function resolveConfig(options: AgentOptions): AgentConfig {
  const env = options.env ?? process.env;
  const runtime = runtimeDir(env);
  return {
    ramBudgetBytes: ramBudget(options.ramBudget ?? env['GREENBOOST_AGENT_RAM_BUDGET']),
    gpu: options.gpu ?? gpuDriverFromEnv(env, 'cuda'),
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

function ramBudget(value: string | number | undefined): number | undefined {
  if (value === undefined || value === '') return undefined;
  if (typeof value === 'string') return parseBytes(value);
  if (!Number.isSafeInteger(value) || value < 0)
    throw new GbError('INVALID_ARGUMENT', 'the RAM budget is no byte count');
  return value;
}
