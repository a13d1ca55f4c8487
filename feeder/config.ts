// SPDX-License-Identifier: Apache-2.0
// What a feeder is told, checked against what the machine has. The only file of the feeder that
// reads its environment and its file of settings.
import { hostname } from 'node:os';
import { join } from 'node:path';
import { GbError } from '../proto/base/errors.js';
import {
  DEFAULT_PORT,
  HOST_NAME_CHARACTERS_MAX,
  LEASE_TTL_MS,
  LOCAL_USE_IDLE_MS,
  RANGE_ALIGN_BYTES,
} from '../proto/base/limits.js';
import type { LogLevel } from '../proto/base/log-levels.js';
import { cacheDir, configDir, feedSocketPath, stateDir } from '../proto/base/paths.js';
import { formatBytes } from '../proto/base/units.js';
import { FEEDER, type FeederValues } from '../proto/settings/feeder.js';
import { settle } from '../proto/settings/settle.js';
import { listGpus, type Gpu } from '../driver/cuda/memory.js';
import type { ExecutorPriority } from '../driver/executor/client.js';
import type { GpuDriver } from '../driver/library.js';
import { chooseBinds, type Bind } from '../security/bind.js';
import { defaultCacheBytes } from './block-cache.js';
import type { LendingRules } from './rules/rules.js';
import { defaultReserveBytes, readMemory, type MemoryFacts } from './memory-guard.js';

type Env = Readonly<Record<string, string | undefined>>;

/** What may be asked for; everything has a default (proto/settings/feeder.ts). What is given here goes before the
 *  environment, and that before the file. */
export interface FeederOptions extends FeederValues {
  /** A file of settings; one that is not there tells nothing. Default: none is read. */
  readonly configFile?: string;
  /** Folder of the pairing keys. Default: the user's configuration folder. */
  readonly configDir?: string;
  /** Folder of the audit log. Default: the user's state folder. */
  readonly stateDir?: string;
  /** Where `feed status` and `feed stop` ask; false: nowhere. Default: feed.sock in the runtime
   *  folder. */
  readonly controlSocket?: string | false;
}

export interface LentGpu {
  readonly gpu: Gpu;
  readonly bytes: number;
}

/** Checked and complete. */
export interface FeederConfig {
  readonly ramBytes: number;
  readonly ramReserveBytes: number;
  readonly gpus: readonly LentGpu[];
  readonly gpu: GpuDriver;
  readonly binds: readonly Bind[];
  readonly lanePort: number;
  readonly allowWan: boolean;
  readonly name: string;
  readonly leaseTtlMs: number;
  readonly hostBytesMax: number | undefined;
  readonly hostRate: number | undefined;
  readonly cacheDir: string;
  /** 0: no cache. */
  readonly cacheBytes: number;
  readonly configDir: string;
  readonly stateDir: string;
  /** False without a GPU. */
  readonly compute: boolean;
  readonly announce: boolean;
  readonly controlSocket: string | false;
  readonly logLevel: LogLevel;
  readonly rules: LendingRules;
  readonly priority: ExecutorPriority | undefined;
  readonly kernelMs: number | undefined;
}

/** Share of MemAvailable that is lent unless the user says otherwise. */
const DEFAULT_RAM_SHARE = 0.5;
/** VRAM that a GPU keeps: contexts of executors, and a desktop. */
const VRAM_RESERVE_BYTES = 512 * 2 ** 20;
const PORT_MAX = 65_535;

const alignDown = (bytes: number): number => bytes - (bytes % RANGE_ALIGN_BYTES);

/** @throws GbError INVALID_ARGUMENT, CAPACITY_EXHAUSTED when more is asked for than can be spared,
 *  NOT_FOUND without the GPU that was named; the message says what to do. */
export async function resolveConfig(
  options: FeederOptions,
  env: Env = process.env,
): Promise<FeederConfig> {
  const told = await settledValues(options, env);
  const vram = new Map([...(told.vramBytes ?? [])].filter(([, bytes]) => bytes > 0));
  const gpu = told.gpu ?? (vram.size > 0 ? 'cuda' : 'none');
  const memory = readMemory();
  const ramReserveBytes = told.ramReserveBytes ?? defaultReserveBytes(memory);
  const port = told.port ?? DEFAULT_PORT;
  const allowWan = told.allowWan ?? false;
  const blocks = told.cacheDir ?? join(cacheDir(env), 'blocks');
  const gpus = await chooseGpus(vram, gpu);
  const config: FeederConfig = {
    ramBytes: chooseRam(told.ramBytes, memory, ramReserveBytes),
    ramReserveBytes,
    gpus,
    gpu,
    binds: chooseBinds({ ...(told.bind?.length ? { bind: told.bind } : {}), allowWan, port }),
    lanePort: chooseLanePort(told.lanePort, port),
    allowWan,
    name: cleanName(told.name ?? hostname()),
    leaseTtlMs: told.leaseTtlMs ?? LEASE_TTL_MS,
    hostBytesMax: told.hostBytesMax,
    hostRate: told.hostRate,
    cacheDir: blocks,
    cacheBytes: told.cacheBytes ?? defaultCacheBytes(blocks),
    configDir: options.configDir ?? configDir(env),
    stateDir: options.stateDir ?? stateDir(env),
    compute: gpus.length > 0 && (told.compute ?? true),
    announce: told.announce ?? true,
    controlSocket: options.controlSocket ?? feedSocketPath(env),
    logLevel: told.logLevel ?? 'info',
    rules: rulesOf(told, gpus),
    priority: told.nice === undefined && !told.io ? undefined : { nice: told.nice, io: told.io },
    kernelMs: told.kernelMs,
  };
  if (config.ramBytes === 0 && config.gpus.length === 0) {
    throw new GbError('INVALID_ARGUMENT', 'nothing to lend; give --ram 4GiB or --vram 0=4GiB');
  }
  return config;
}

/** @throws GbError INVALID_ARGUMENT for a GPU that is not lent. */
function rulesOf(told: FeederValues, gpus: readonly LentGpu[]): LendingRules {
  if (told.idleOnly && gpus.length === 0)
    throw new GbError('INVALID_ARGUMENT', '--idle-only is about VRAM, and none is lent', {
      details: { hint: 'lend some: --vram 0=8GiB; or leave it out: --no-idle-only' },
    });
  return {
    hours: told.hours ?? [],
    idleGpus: told.idleOnly ? gpus.map(({ gpu }) => gpu.uuid) : [],
    idleMs: told.idleMs ?? LOCAL_USE_IDLE_MS,
  };
}

/** Options before the environment before the file. */
async function settledValues(options: FeederOptions, env: Env): Promise<FeederValues> {
  const { configFile } = options;
  const file =
    configFile === undefined
      ? undefined
      : (await import('../proto/settings/file.js')).readFile('feeder', configFile);
  return settle(FEEDER, { flags: options, env, file }).values;
}

/** The port after gRPC's, so that a firewall needs one rule for both. */
export function chooseLanePort(wanted: number | undefined, port: number): number {
  const lanePort = wanted ?? (port === 0 ? 0 : port + 1);
  if (lanePort > PORT_MAX)
    throw new GbError(
      'INVALID_ARGUMENT',
      `there is no port after ${port}; name one with --lane-port`,
    );
  if (lanePort === port && port !== 0)
    throw new GbError('INVALID_ARGUMENT', `--lane-port ${port} is the port of the feeder itself`);
  return lanePort;
}

/** Whole chunks of RAM. */
export function chooseRam(
  wanted: number | undefined,
  memory: MemoryFacts,
  reserveBytes: number,
): number {
  const spare = alignDown(Math.max(0, memory.availableBytes - reserveBytes));
  if (wanted === undefined)
    return Math.min(spare, alignDown(Math.floor(memory.availableBytes * DEFAULT_RAM_SHARE)));
  const bytes = alignDown(wanted);
  if (wanted > 0 && bytes === 0) {
    throw new GbError(
      'INVALID_ARGUMENT',
      `--ram: at least ${formatBytes(RANGE_ALIGN_BYTES)}, or 0 for none`,
    );
  }
  if (bytes > spare) {
    throw new GbError(
      'CAPACITY_EXHAUSTED',
      `--ram ${formatBytes(wanted)} is more than this machine can spare: ${formatBytes(memory.availableBytes)} are ` +
        `available and ${formatBytes(reserveBytes)} stay for its own user; lend at most ${formatBytes(spare)}, ` +
        'or lower the reserve with --ram-reserve SIZE',
    );
  }
  return bytes;
}

async function chooseGpus(
  vram: ReadonlyMap<number, number>,
  driver: GpuDriver,
): Promise<LentGpu[]> {
  if (vram.size === 0) return [];
  if (driver === 'none')
    throw new GbError('INVALID_ARGUMENT', '--vram needs a driver; --gpu none lends RAM only');
  const { gpus } = await listGpus(driver);
  return [...vram]
    .sort(([a], [b]) => a - b)
    .map(([index, wanted]) => {
      const gpu = gpus.find((candidate) => candidate.index === index);
      if (!gpu) {
        throw new GbError(
          'NOT_FOUND',
          `--vram ${index}=…: this machine has GPUs 0 to ${gpus.length - 1}`,
        );
      }
      return { gpu, bytes: checkVram(gpu, alignDown(wanted)) };
    });
}

function checkVram(gpu: Gpu, bytes: number): number {
  if (bytes === 0)
    throw new GbError(
      'INVALID_ARGUMENT',
      `--vram: at least ${formatBytes(RANGE_ALIGN_BYTES)} of a GPU`,
    );
  if (!gpu.vmm) {
    throw new GbError(
      'UNSUPPORTED',
      `GPU ${gpu.index} (${gpu.name}) cannot map memory at chosen addresses`,
    );
  }
  const free = Math.min(gpu.freeBytes ?? gpu.totalBytes, gpu.totalBytes);
  const spare = Math.max(0, free - (gpu.simulated ? 0 : VRAM_RESERVE_BYTES));
  if (bytes > spare) {
    throw new GbError(
      'CAPACITY_EXHAUSTED',
      `GPU ${gpu.index} (${gpu.name}) can spare ${formatBytes(alignDown(spare))} of ${formatBytes(gpu.totalBytes)} now`,
    );
  }
  return bytes;
}

/** Names travel to other machines' terminals: printable characters only. */
export function cleanName(text: string): string {
  const clean = text
    .replace(/[^\p{L}\p{N} ._-]/gu, '')
    .trim()
    .slice(0, HOST_NAME_CHARACTERS_MAX);
  return clean === '' ? 'feeder' : clean;
}
