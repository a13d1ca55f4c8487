// SPDX-License-Identifier: Apache-2.0
// This machine's figures for a plan: measured where that takes a second or two, else assumed and
// said so.
import { gpuFlops } from '../../driver/cuda/compute.js';
import { probeMemory, type MemoryProbe } from '../../driver/executor/probe.js';
import { gpuDriverFromEnv, type GpuDriver } from '../../driver/library.js';
import { GbError } from '../../proto/base/errors.js';
import { readMemInfo, reserveBytes } from '../tiers/memory.js';
import { usableVram, type Figure, type Machine } from './predict.js';
import { measureDirectRead } from './disk-rate.js';
import { measureRamRead } from './ram-rate.js';

/** A middling card on PCIe 4, for what cannot be measured. */
const ASSUMED = {
  vramRead: 600e9,
  hostToDevice: 24e9,
  gpuFlops: 100e12,
  nvmeRead: 3e9,
} as const;
const NVME_TIMEOUT_MS = 10_000;

export interface MachineOptions {
  /** Default: GREENBOOST_GPU, else cuda. */
  readonly gpu?: GpuDriver | undefined;
  readonly gpuIndex: number;
  /** A budget instead of what the GPU has; needed where there is no GPU. */
  readonly vramBytes?: number | undefined;
  readonly ramBytes?: number | undefined;
  /** A large file on the disk that would be read. */
  readonly diskFile?: string | undefined;
  readonly feederBytes?: number | undefined;
  readonly feederRead?: number | undefined;
}

/** @throws GbError INVALID_ARGUMENT when there is no GPU and no budget to plan for. */
export async function readMachine(options: MachineOptions): Promise<Machine> {
  const { gpuIndex } = options;
  const gpu = options.gpu ?? gpuDriverFromEnv(process.env, 'cuda');
  const probe = await probeMemory({ gpu, gpuIndex }).catch(() => undefined);
  const card = probe?.gpus.find(({ index }) => index === gpuIndex) ?? probe?.gpus[0];
  if (!card && options.vramBytes === undefined) {
    throw new GbError('INVALID_ARGUMENT', 'no GPU is found here', {
      details: { hint: 'give the VRAM to plan for: greenboost plan --vram 24GiB MODEL' },
    });
  }
  const flops = gpu === 'none' || !card ? undefined : await flopsOf(gpu, gpuIndex);
  const memory = readMemInfo();
  const available = Math.max(0, memory.availableBytes - reserveBytes(memory.totalBytes));
  const ram = await measureRamRead(available / 4);
  const file = options.diskFile;
  const nvme = file === undefined ? undefined : await measureDirectRead(file, NVME_TIMEOUT_MS);
  return {
    gpuName: card?.name ?? 'an assumed GPU',
    simulated: gpu === 'sim',
    vramBytes:
      options.vramBytes === undefined
        ? measured(usableVram(card?.total_bytes ?? 0))
        : given(options.vramBytes),
    vramRead: vramRead(card),
    hostToDevice: figure(card?.h2d_bytes_per_second, ASSUMED.hostToDevice),
    ramBytes: options.ramBytes === undefined ? measured(available) : given(options.ramBytes),
    ramRead: measured(ram.rate),
    cores: ram.cores,
    gpuFlops: assumed(flops ?? ASSUMED.gpuFlops),
    nvmeRead: figure(nvme, ASSUMED.nvmeRead),
    feederBytes: options.feederBytes ?? 0,
    feederRead: options.feederRead === undefined ? undefined : measured(options.feederRead),
  };
}

/** A copy inside VRAM reads and writes every byte. */
function vramRead(card: MemoryProbe['gpus'][number] | undefined): Figure {
  const copy = card?.vram_copy_bytes_per_second ?? null;
  return figure(copy === null ? undefined : 2 * copy, ASSUMED.vramRead);
}

async function flopsOf(gpu: 'cuda' | 'sim', index: number): Promise<number | undefined> {
  return gpuFlops(gpu, index).catch(() => undefined);
}

function figure(value: number | null | undefined, otherwise: number): Figure {
  return value !== null && value !== undefined && value > 0 ? measured(value) : assumed(otherwise);
}

const measured = (value: number): Figure => ({ value, source: 'measured' });
const assumed = (value: number): Figure => ({ value, source: 'assumed' });
const given = (value: number): Figure => ({ value, source: 'given' });
