// SPDX-License-Identifier: Apache-2.0
// The GPUs of this machine, as the tiers see them: listed once, then asked how full they are.
import { listGpus, type Gpu } from '../../driver/cuda/memory.js';
import type { GpuDriver } from '../../driver/library.js';
import { listGpuLoad, type GpuLoad } from '../../driver/nvml/load.js';
import { GbError } from '../../proto/base/errors.js';

export interface LocalGpu {
  readonly index: number;
  readonly name: string;
  /** `GPU-` and a UUID. */
  readonly uuid: string;
  readonly totalBytes: number;
  /** Used by everybody on this machine; undefined when NVML cannot tell. */
  readonly usedBytes: number | undefined;
  /** undefined: NVML cannot tell. */
  readonly load: GpuLoad | undefined;
  readonly simulated: boolean;
}

export interface GpuSource {
  /** Driver calls run on worker threads. Empty on a machine without a driver or a GPU.
   *  @throws GbError DRIVER_ERROR when the driver does not answer as it should. */
  list(): Promise<readonly LocalGpu[]>;
}

/** The GPUs that `driver` shows; `none` shows none. */
export function openGpuSource(driver: GpuDriver): GpuSource {
  let known: readonly Gpu[] | undefined;
  return {
    async list() {
      if (driver === 'none') return [];
      known ??= await listOrNone(driver);
      if (known.length === 0) return [];
      const loads = await listGpuLoad(driver).catch(() => []);
      const now = new Map(loads.map((load) => [load.uuid, load]));
      return known.map(({ index, name, totalBytes, uuid, simulated }) => ({
        index,
        name,
        uuid,
        totalBytes,
        usedBytes: now.get(uuid)?.usedBytes,
        load: now.get(uuid),
        simulated,
      }));
    },
  };
}

async function listOrNone(driver: 'cuda' | 'sim'): Promise<readonly Gpu[]> {
  try {
    return (await listGpus(driver)).gpus;
  } catch (reason) {
    if (GbError.from(reason).code === 'NOT_FOUND') return [];
    throw reason;
  }
}
