// SPDX-License-Identifier: Apache-2.0
// What the machine that runs programs can be told: greenboost.toml, `greenboost agent`, `greenboost run` and the
// commands that look. What stands in [run] may also stand in a program's profile.
import { choice, many, NVME, REPORT, SIZE, whole, words } from './kinds.js';
import { LOG_LEVEL } from './log-level.js';
import { settings, type Values } from './setting.js';

export const AGENT = settings({
  gpu: {
    section: '',
    name: 'gpu',
    kind: choice('driver', 'none', 'cuda', 'sim'),
    flag: 'gpu',
    env: 'GREENBOOST_GPU',
    about: 'whose driver lists and measures local GPUs',
    fallback: 'cuda',
    example: '"cuda"',
  },
  logLevel: LOG_LEVEL,
  ramBudgetBytes: {
    section: 'agent',
    name: 'ram_budget',
    kind: SIZE,
    flag: 'ram-budget',
    env: 'GREENBOOST_AGENT_RAM_BUDGET',
    about: 'local RAM that all programs get together',
    fallback: 'what is available less the reserve',
    example: '"48GiB"',
  },
});

export const RUN = settings({
  vramBudget: {
    section: 'run',
    name: 'vram_budget',
    kind: SIZE,
    flag: 'vram-budget',
    env: 'GREENBOOST_VRAM_BUDGET',
    about: 'use at most this much VRAM',
    fallback: 'what the GPU has',
    example: '"8GiB"',
  },
  ramBudget: {
    section: 'run',
    name: 'ram_budget',
    kind: SIZE,
    flag: 'ram-budget',
    env: 'GREENBOOST_RAM_BUDGET',
    about: 'use at most this much local RAM',
    fallback: 'what the agent grants',
    example: '"32GiB"',
  },
  overcommit: {
    section: 'run',
    name: 'overcommit',
    kind: choice('how', 'gated', 'off'),
    flag: 'overcommit',
    env: 'GREENBOOST_OVERCOMMIT',
    about: 'let ranges live on feeders, fetched before launches that need them',
    fallback: 'off',
    example: '"off"',
  },
  replicas: {
    section: 'run',
    name: 'replicas',
    kind: whole('count', 1, 2),
    flag: 'replicas',
    env: 'GREENBOOST_REPLICAS',
    about:
      'copies of what lies on feeders; with 2, each on another one, nothing is lost with a feeder',
    fallback: '1',
    example: '1',
  },
  remote: {
    section: 'run',
    name: 'remote',
    kind: choice('how', 'merged', 'devices', 'off'),
    flag: 'remote',
    env: 'GREENBOOST_REMOTE',
    about:
      'feeders with a GPU: part of this one (merged: kernels run where their data lie), or further GPUs (devices)',
    fallback: 'off',
    example: '"off"',
  },
  nvme: {
    section: 'run',
    name: 'nvme',
    kind: NVME,
    flag: 'nvme',
    env: 'GREENBOOST_NVME_DIR',
    about:
      'as overcommit, with an encrypted file in this folder of a local drive (size: half of what is free, ' +
      'at most 64GiB)',
    fallback: 'none',
    example: '"/mnt/nvme:200GiB"',
  },
  nvmeWritesPerDay: {
    section: 'run',
    name: 'nvme_writes_per_day',
    kind: SIZE,
    flag: 'nvme-writes-per-day',
    env: 'GREENBOOST_NVME_WRITES_PER_DAY',
    about: 'bytes that all programs may write there in a day, UTC',
    fallback: 'three tenths of the file system',
    example: '"100GiB"',
  },
  report: {
    section: 'run',
    name: 'report',
    kind: REPORT,
    flag: 'report',
    env: 'GREENBOOST_REPORT',
    about: 'GPU memory size the program is told: honest, extend, or extend=SIZE',
    fallback: 'its profile',
    example: '"extend"',
  },
  staging: {
    section: 'run',
    name: 'staging',
    kind: choice('when', 'auto', 'off', 'always'),
    flag: 'staging',
    env: 'GREENBOOST_STAGING',
    about: 'copy what lies in RAM to VRAM ahead of its use: where it is faster, never, or always',
    fallback: 'auto',
    example: '"auto"',
  },
  frames: {
    section: 'run',
    name: 'frames',
    kind: SIZE,
    flag: 'frames',
    env: 'GREENBOOST_FRAMES',
    about: 'VRAM set aside for staging',
    fallback: 'an eighth, 64MiB to 512MiB',
    example: '"256MiB"',
  },
});

export const METRICS = settings({
  listen: {
    section: 'metrics',
    name: 'listen',
    kind: words('address:port', 64),
    flag: 'listen',
    env: 'GREENBOOST_METRICS_LISTEN',
    about: 'where Prometheus finds them, on loopback',
    fallback: '127.0.0.1:9742',
    example: '"127.0.0.1:9742"',
  },
});

/** A key of a profile that tells of the program, not of its memory. */
export interface ProfileKey {
  readonly name: 'programs' | 'modules' | 'env' | 'why';
  readonly about: string;
  readonly example: string;
}

/** Beside what may stand in [run]. */
export const PROFILE_KEYS: readonly ProfileKey[] = [
  {
    name: 'programs',
    about: 'base names of programs it is for, * at the end for any rest',
    example: '["my-server", "train-*"]',
  },
  { name: 'modules', about: 'modules after python -m, with all below', example: '["my_server"]' },
  {
    name: 'env',
    about: 'variables it sets, unless you have',
    example: '{ XLA_PYTHON_CLIENT_PREALLOCATE = "false" }',
  },
  { name: 'why', about: 'a note for `greenboost profiles`', example: '"takes what it needs"' },
];

export const PROFILES_MAX = 256;
export const PROFILE_WORDS: ReturnType<typeof words> = words('text', 200);
export const PROFILE_LIST = many(PROFILE_WORDS);

export type AgentValues = Values<typeof AGENT>;
export type RunValues = Values<typeof RUN>;
