// SPDX-License-Identifier: Apache-2.0
// What this machine's memory can do, measured by `gb-executor --probe` in a process of its own (probe.h).
import { execFile } from 'node:child_process';
import { z } from 'zod';
import { GbError } from '../../proto/base/errors.js';
import { PROBE_OUTPUT_BYTES_MAX, PROBE_PROCESS_TIMEOUT_MS } from '../../proto/base/limits.js';
import { nativePath } from '../../proto/base/paths.js';
import { driverEnv, type GpuDriver } from '../library.js';

const rate = z.number().positive().nullable();

const schema = z.object({
  schema_version: z.literal(1),
  ram: z.object({
    total_bytes: z.number().nonnegative(),
    available_bytes: z.number().nonnegative(),
    memlock_bytes: z.number(),
    copy_bytes_per_second: rate,
    latency_nanos: rate,
  }),
  driver_version: z.number().nullable(),
  gpu_count: z.number(),
  gpus: z.array(
    z.object({
      index: z.number(),
      name: z.string(),
      uuid: z.string(),
      total_bytes: z.number(),
      free_bytes: z.number(),
      compute_capability: z.number(),
      vmm: z.boolean(),
      host_numa_vmm: z.boolean(),
      vram_copy_bytes_per_second: rate,
      h2d_bytes_per_second: rate,
      d2h_bytes_per_second: rate,
      host_numa_read_bytes_per_second: rate,
      copy_latency_micros: rate,
      error: z.string().nullable(),
    }),
  ),
  error: z.string().nullable(),
});

/** Figures that could not be measured are null. Units are in the names. */
export type MemoryProbe = z.infer<typeof schema>;

/** Measures RAM, and with `gpuIndex` that GPU too; takes well under two seconds. A GPU that cannot be used is told in
 *  `error` fields. @throws GbError NOT_FOUND when gb-executor is not built; DRIVER_ERROR when it fails or hangs. */
export function probeMemory(options: {
  gpu: GpuDriver;
  gpuIndex?: number;
  signal?: AbortSignal;
}): Promise<MemoryProbe> {
  const { gpu, gpuIndex, signal } = options;
  const args = [
    '--probe',
    ...(gpu !== 'none' && gpuIndex !== undefined ? ['--gpu', String(gpuIndex)] : []),
  ];
  const settings = {
    env: driverEnv(gpu, process.env),
    timeout: PROBE_PROCESS_TIMEOUT_MS,
    killSignal: 'SIGKILL' as const,
    maxBuffer: PROBE_OUTPUT_BYTES_MAX,
    ...(signal ? { signal } : {}),
  };
  return new Promise((resolve, reject) => {
    execFile(nativePath('bin', 'gb-executor'), args, settings, (error, stdout) => {
      try {
        resolve(schema.parse(JSON.parse(stdout)));
      } catch (reason) {
        reject(
          signal?.aborted
            ? GbError.from(signal.reason, 'CANCELED')
            : new GbError(
                'DRIVER_ERROR',
                `measuring memory failed${error ? `: ${error.message}` : ''}`,
                { cause: reason },
              ),
        );
      }
    });
  });
}
