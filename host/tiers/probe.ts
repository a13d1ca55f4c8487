// SPDX-License-Identifier: Apache-2.0
// What the executor's probe measured, in the words of tiers.
import type { MemoryProbe } from '../../driver/executor/probe.js';

export interface TierFigures {
  /** 0: not measured. */
  readonly readBytesPerSecond: number;
  readonly writeBytesPerSecond: number;
  readonly latencyMicros: number;
}

export interface ProbeFigures {
  /** A GPU's own memory, as its kernels see it; undefined without a GPU. */
  readonly vram: TierFigures | undefined;
  /** Host memory as that GPU sees it, or as the CPU does without one. */
  readonly ram: TierFigures;
  /** What could not be measured, or empty. */
  readonly note: string;
}

/** Tiers out of a probe of one GPU, or of RAM alone. */
export function figuresFromProbe({ ram, gpus }: MemoryProbe): ProbeFigures {
  const [gpu] = gpus;
  if (!gpu) {
    const rate = ram.copy_bytes_per_second ?? 0;
    const latencyMicros = (ram.latency_nanos ?? 0) / 1000;
    return {
      vram: undefined,
      ram: { readBytesPerSecond: rate, writeBytesPerSecond: rate, latencyMicros },
      note: '',
    };
  }
  const vramRate = gpu.vram_copy_bytes_per_second ?? 0;
  return {
    vram: { readBytesPerSecond: vramRate, writeBytesPerSecond: vramRate, latencyMicros: 0 },
    ram: {
      // What a kernel gets that reads host memory in place; where that does not work, what a copy
      // gets.
      readBytesPerSecond: gpu.host_numa_read_bytes_per_second ?? gpu.h2d_bytes_per_second ?? 0,
      writeBytesPerSecond: gpu.d2h_bytes_per_second ?? 0,
      latencyMicros: gpu.copy_latency_micros ?? 0,
    },
    note: gpu.error ?? '',
  };
}
