// SPDX-License-Identifier: Apache-2.0
// Measures local tiers with `gb-executor --probe`: GPU calls never run in the agent's own process.
import { execFile } from 'node:child_process';
import { z } from 'zod';
import { driverEnv, type GpuDriver } from '../../driver/library.js';
import { GbError } from '../../proto/base/errors.js';
import { nativePath } from '../../proto/base/paths.js';
import { MIB } from '../../proto/base/units.js';

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
}

const PROBE_TIMEOUT_MS = 20_000;

const figure = z.number().nonnegative().nullable();
const outputSchema = z.object({
  schema_version: z.literal(1),
  ram: z.object({ copy_bytes_per_second: figure, latency_nanos: figure }),
  gpus: z
    .array(
      z.object({
        index: z.number().int().nonnegative(),
        vram_copy_bytes_per_second: figure,
        h2d_bytes_per_second: figure,
        d2h_bytes_per_second: figure,
        host_numa_read_bytes_per_second: figure,
        copy_latency_micros: figure,
        error: z.string().nullable(),
      }),
    )
    .max(64),
  error: z.string().nullable(),
});

/** Reads what the probe printed. @throws GbError PROTOCOL_VIOLATION when it is no such object. */
export function parseProbe(text: string): ProbeFigures {
  let output: z.infer<typeof outputSchema>;
  try {
    output = outputSchema.parse(JSON.parse(text));
  } catch (reason) {
    throw new GbError('PROTOCOL_VIOLATION', 'the probe printed something else', { cause: reason });
  }
  const [gpu] = output.gpus;
  const cpu = output.ram;
  if (!gpu) {
    const rate = cpu.copy_bytes_per_second ?? 0;
    const latencyMicros = (cpu.latency_nanos ?? 0) / 1000;
    return { vram: undefined, ram: { readBytesPerSecond: rate, writeBytesPerSecond: rate, latencyMicros } };
  }
  const vramRate = gpu.vram_copy_bytes_per_second ?? 0;
  return {
    vram: { readBytesPerSecond: vramRate, writeBytesPerSecond: vramRate, latencyMicros: 0 },
    ram: {
      // What a kernel gets that reads host memory in place; where that does not work, what a copy gets.
      readBytesPerSecond: gpu.host_numa_read_bytes_per_second ?? gpu.h2d_bytes_per_second ?? 0,
      writeBytesPerSecond: gpu.d2h_bytes_per_second ?? 0,
      latencyMicros: gpu.copy_latency_micros ?? 0,
    },
  };
}

/** Measures one GPU and its way to RAM, or RAM alone (undefined). Takes up to a few seconds; cancelled by `signal`.
 *  @throws GbError NOT_FOUND when the executor is not built, DRIVER_ERROR with its words when the GPU cannot be used. */
export async function runProbe(driver: GpuDriver, gpuIndex: number | undefined, signal: AbortSignal): Promise<ProbeFigures> {
  const args = gpuIndex === undefined ? ['--probe'] : ['--probe', '--gpu', `${gpuIndex}`];
  const env = driverEnv(driver, process.env);
  const options = { env, timeout: PROBE_TIMEOUT_MS, killSignal: 'SIGKILL' as const, maxBuffer: MIB, signal };
  const text = await new Promise<string>((resolve, reject) => {
    execFile(nativePath('bin', 'gb-executor'), args, options, (error, stdout, stderr) => {
      if (!error) return resolve(stdout);
      const why = stderr.trim().split('\n').at(-1) || error.message;
      reject(new GbError('DRIVER_ERROR', why.slice(0, 200), { cause: error }));
    });
  });
  return parseProbe(text);
}
