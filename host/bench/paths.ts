// SPDX-License-Identifier: Apache-2.0
// What each path of this machine carries, one after the other: VRAM, PCIe both ways, RAM, the disk.
import { closeSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { probeMemory, type MemoryProbe } from '../../driver/executor/probe.js';
import { gpuDriverFromEnv, type GpuDriver } from '../../driver/library.js';
import { GbError } from '../../proto/base/errors.js';
import { MIB } from '../../proto/base/units.js';
import { DISK_RATE_BYTES, measureDirect, measureDirectRead } from '../plan/disk-rate.js';
import { measureRamRead } from '../plan/ram-rate.js';

export interface PathFigure {
  /** Stable, snake_case. */
  readonly path: string;
  readonly name: string;
  /** Null: could not be measured; `note` says why. */
  readonly bytesPerSecond: number | null;
  readonly latencyMicros: number | null;
  readonly simulated: boolean;
  /** How it was measured. */
  readonly note: string;
}

export interface BenchOptions {
  /** Default: GREENBOOST_GPU, else cuda. */
  readonly gpu?: GpuDriver | undefined;
  /** A folder on the disk to measure; absent: no disk. */
  readonly disk?: string | undefined;
}

const RAM_BYTES = 256 * MIB;
const DISK_TIMEOUT_MS = 60_000;

type Gpu = MemoryProbe['gpus'][number];

function gpuFigures(card: Gpu, simulated: boolean): PathFigure[] {
  const note = (how: string): string => card.error ?? how;
  const row = (path: string, what: string, rate: number | null, how: string): PathFigure => ({
    path,
    name: `GPU ${card.index} ${what}`,
    bytesPerSecond: rate,
    latencyMicros: path === 'host_to_device' ? card.copy_latency_micros : null,
    simulated,
    note: note(how),
  });
  return [
    row(
      'vram_copy',
      'VRAM, copy inside',
      card.vram_copy_bytes_per_second,
      'bytes copied, each read and written',
    ),
    row('host_to_device', 'PCIe, to the GPU', card.h2d_bytes_per_second, 'pinned copies'),
    row('device_to_host', 'PCIe, from the GPU', card.d2h_bytes_per_second, 'pinned copies'),
    row(
      'host_in_place',
      'RAM read in place',
      card.host_numa_read_bytes_per_second,
      'HOST_NUMA memory, copied by the GPU',
    ),
  ];
}

async function diskFigures(folder: string): Promise<PathFigure[]> {
  let scratch: string;
  try {
    scratch = mkdtempSync(join(folder, '.greenboost-bench-'));
  } catch (reason) {
    throw new GbError('PERMISSION_DENIED', `${folder}: nothing can be written there`, {
      cause: reason,
    });
  }
  try {
    const file = join(scratch, 'blocks');
    closeSync(openSync(file, 'w', 0o600));
    const write = await measureDirect(
      ['if=/dev/zero', `of=${file}`, 'oflag=direct', 'conv=fsync,notrunc'],
      DISK_RATE_BYTES,
      DISK_TIMEOUT_MS,
    );
    const read = write === undefined ? undefined : await measureDirectRead(file, DISK_TIMEOUT_MS);
    const row = (path: string, name: string, rate: number | undefined): PathFigure => ({
      path,
      name,
      bytesPerSecond: rate ?? null,
      latencyMicros: null,
      simulated: false,
      note: rate === undefined ? 'this disk takes no direct I/O' : `direct I/O in ${folder}`,
    });
    return [row('disk_write', 'disk, written', write), row('disk_read', 'disk, read', read)];
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

/** Measures for some seconds; nothing else should run meanwhile. Yields each path's figures as they are there.
 *  @throws GbError PERMISSION_DENIED when the folder for the disk cannot be written to. */
export async function* measurePaths(options: BenchOptions): AsyncGenerator<PathFigure, void, void> {
  const gpu = options.gpu ?? gpuDriverFromEnv(process.env, 'cuda');
  const first = await probeMemory({ gpu, gpuIndex: 0 });
  for (let index = 0; index < (gpu === 'none' ? 0 : first.gpu_count); index++) {
    const probe = index === 0 ? first : await probeMemory({ gpu, gpuIndex: index });
    for (const card of probe.gpus) yield* gpuFigures(card, gpu === 'sim');
  }
  const ram = await measureRamRead(RAM_BYTES);
  const base = { latencyMicros: null, simulated: false };
  yield {
    ...base,
    path: 'ram_read',
    name: `RAM, read by ${ram.cores} cores`,
    bytesPerSecond: ram.rate,
    note: 'memchr',
  };
  yield {
    ...base,
    path: 'ram_copy',
    name: 'RAM, copied by one core',
    bytesPerSecond: first.ram.copy_bytes_per_second,
    latencyMicros: first.ram.latency_nanos === null ? null : first.ram.latency_nanos / 1000,
    note: 'memcpy',
  };
  if (options.disk !== undefined) yield* await diskFigures(options.disk);
}
