// SPDX-License-Identifier: Apache-2.0
// What a feeder is told, checked against what the machine has. The only file of the feeder that
// reads its environment.
import { hostname } from 'node:os';
import { join } from 'node:path';
import { GbError } from '../proto/base/errors.js';
import {
  DEFAULT_PORT,
  HOST_NAME_CHARACTERS_MAX,
  LEASE_TTL_MS,
  RANGE_ALIGN_BYTES,
} from '../proto/base/limits.js';
import { cacheDir, configDir, feedSocketPath, stateDir } from '../proto/base/paths.js';
import { formatBytes, parseBytes } from '../proto/base/units.js';
import { listGpus, type Gpu } from '../driver/cuda/memory.js';
import { gpuDriverFromEnv, type GpuDriver } from '../driver/library.js';
import { chooseBinds, type Bind } from '../security/bind.js';
import { defaultCacheBytes } from './block-cache.js';
import { defaultReserveBytes, readMemory, type MemoryFacts } from './memory-guard.js';

type Env = Readonly<Record<string, string | undefined>>;

/** What may be asked for; everything has a default. Sizes in bytes, times in milliseconds. */
export interface FeederOptions {
  /** RAM to lend. Default: half of what is available now, and never into the reserve. 0: none. */
  readonly ramBytes?: number;
  /** VRAM to lend by CUDA ordinal. Default: none; a GPU is only lent when its owner says how much. */
  readonly vramBytes?: ReadonlyMap<number, number>;
  /** TCP port; 0: any free one. Default: 9740. */
  readonly port?: number;
  /** TCP port of all lanes, at the same addresses; 0: any free one. Default: GREENBOOST_LANE_PORT,
   *  else `port` + 1, and any free one for port 0. */
  readonly lanePort?: number;
  /** Addresses or interface names. Default: every LAN address. */
  readonly bind?: readonly string[];
  readonly allowWan?: boolean;
  /** Default: the host name. */
  readonly name?: string;
  /** Default: GREENBOOST_GPU, else `cuda` when VRAM is to be lent, else `none`. */
  readonly gpu?: GpuDriver;
  /** RAM kept for this machine's user. Default: GREENBOOST_RAM_RESERVE, else the larger of 1 GiB
   *  and a tenth. */
  readonly ramReserveBytes?: number;
  /** Default: GREENBOOST_LEASE_TTL in seconds, else 30 s. */
  readonly leaseTtlMs?: number;
  /** Bytes that all leases of one host may promise together. Default: as much as there is. */
  readonly hostBytesMax?: number;
  /** Bytes per second, each way, of all lanes of one host together. Default: no limit. */
  readonly hostRate?: number;
  /** Where blocks are kept that hosts sent before. Default: `blocks` in the user's cache folder. */
  readonly cacheDir?: string;
  /** How many bytes of them; 0: none. Default: a tenth of the free disk, 64 GiB at most. */
  readonly cacheBytes?: number;
  /** Folder of the pairing keys. Default: the user's configuration folder. */
  readonly configDir?: string;
  /** Folder of the audit log. Default: the user's state folder. */
  readonly stateDir?: string;
  /** Hosts may run kernels on the first GPU that is lent. Default: GREENBOOST_COMPUTE, else they may. */
  readonly compute?: boolean;
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
  readonly controlSocket: string | false;
}

/** Share of MemAvailable that is lent unless the user says otherwise. */
const DEFAULT_RAM_SHARE = 0.5;
/** VRAM that a GPU keeps: contexts of executors, and a desktop. */
const VRAM_RESERVE_BYTES = 512 * 2 ** 20;
const PORT_MAX = 65_535;

/** Hosts renew every 5 s and look for a new connection after 6 s of silence: less does not bear one of either lost. */
const LEASE_TTL_SECONDS_MIN = 15;
const LEASE_TTL_SECONDS_MAX = 3_600;

const alignDown = (bytes: number): number => bytes - (bytes % RANGE_ALIGN_BYTES);

/** @throws GbError INVALID_ARGUMENT, CAPACITY_EXHAUSTED when more is asked for than can be spared,
 *  NOT_FOUND without the GPU that was named; the message says what to do. */
export async function resolveConfig(
  options: FeederOptions,
  env: Env = process.env,
): Promise<FeederConfig> {
  const vram = new Map([...(options.vramBytes ?? [])].filter(([, bytes]) => bytes > 0));
  const gpu = options.gpu ?? gpuDriverFromEnv(env, vram.size > 0 ? 'cuda' : 'none');
  const memory = readMemory();
  const ramReserveBytes =
    options.ramReserveBytes ?? reserveFromEnv(env) ?? defaultReserveBytes(memory);
  const port = options.port ?? DEFAULT_PORT;
  const blocks = options.cacheDir ?? join(cacheDir(env), 'blocks');
  const gpus = await chooseGpus(vram, gpu);
  const config: FeederConfig = {
    ramBytes: chooseRam(options.ramBytes, memory, ramReserveBytes),
    ramReserveBytes,
    gpus,
    gpu,
    binds: chooseBinds({
      ...(options.bind?.length ? { bind: options.bind } : {}),
      allowWan: options.allowWan ?? false,
      port,
    }),
    lanePort: chooseLanePort(options.lanePort ?? lanePortFromEnv(env), port),
    allowWan: options.allowWan ?? false,
    name: cleanName(options.name ?? hostname()),
    leaseTtlMs: options.leaseTtlMs ?? ttlFromEnv(env),
    hostBytesMax: options.hostBytesMax,
    hostRate: options.hostRate,
    cacheDir: blocks,
    cacheBytes: options.cacheBytes ?? defaultCacheBytes(blocks),
    configDir: options.configDir ?? configDir(env),
    stateDir: options.stateDir ?? stateDir(env),
    compute: gpus.length > 0 && (options.compute ?? computeFromEnv(env)),
    controlSocket: options.controlSocket ?? feedSocketPath(env),
  };
  if (config.ramBytes === 0 && config.gpus.length === 0) {
    throw new GbError('INVALID_ARGUMENT', 'nothing to lend; give --ram 4GiB or --vram 0=4GiB');
  }
  return config;
}

function reserveFromEnv(env: Env): number | undefined {
  const text = env['GREENBOOST_RAM_RESERVE'];
  return text === undefined || text === '' ? undefined : parseBytes(text);
}

/** @throws GbError INVALID_ARGUMENT outside its bounds. */
function ttlFromEnv(env: Env): number {
  const text = env['GREENBOOST_LEASE_TTL'];
  if (text === undefined || text === '') return LEASE_TTL_MS;
  const seconds = Number(text);
  if (!/^\d{1,4}$/.test(text) || seconds < LEASE_TTL_SECONDS_MIN || seconds > LEASE_TTL_SECONDS_MAX)
    throw new GbError(
      'INVALID_ARGUMENT',
      `GREENBOOST_LEASE_TTL=${text}: give ${LEASE_TTL_SECONDS_MIN} to ${LEASE_TTL_SECONDS_MAX} seconds`,
    );
  return seconds * 1_000;
}

/** @throws GbError INVALID_ARGUMENT for anything but on and off. */
function computeFromEnv(env: Env): boolean {
  const text = env['GREENBOOST_COMPUTE'] ?? '';
  if (text === '' || text === 'on') return true;
  if (text === 'off') return false;
  throw new GbError('INVALID_ARGUMENT', `GREENBOOST_COMPUTE=${text.slice(0, 40)}: give on or off`);
}

function lanePortFromEnv(env: Env): number | undefined {
  const text = env['GREENBOOST_LANE_PORT'];
  if (text === undefined || text === '') return undefined;
  if (/^\d{1,5}$/.test(text) && Number(text) <= PORT_MAX) return Number(text);
  throw new GbError('INVALID_ARGUMENT', `GREENBOOST_LANE_PORT=${text.slice(0, 40)} is not a port`);
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
        'or lower the reserve with GREENBOOST_RAM_RESERVE=SIZE',
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
