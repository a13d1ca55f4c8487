// SPDX-License-Identifier: Apache-2.0
// How full each GPU is, over all processes. CUDA numbers GPUs its own way: match by UUID.
import { loadNvml } from './ffi.js';

export interface NvmlMemory {
  readonly uuid: string;
  readonly totalBytes: number;
  readonly freeBytes: number;
  readonly usedBytes: number;
}

/** NVML_DEVICE_UUID_V2_BUFFER_SIZE. */
const UUID_BYTES = 96;
/** nvmlMemory_t: total, free, used. */
const MEMORY_BYTES = 24;
const GPUS_MAX = 64;

/** @throws GbError NOT_FOUND without NVML; DRIVER_ERROR. */
export async function listNvmlMemory(gpu: 'cuda' | 'sim'): Promise<NvmlMemory[]> {
  const ffi = loadNvml(gpu);
  await ffi.init();
  try {
    const count = Buffer.alloc(4);
    await ffi.getCount(count);
    const found: NvmlMemory[] = [];
    for (let index = 0; index < Math.min(count.readUInt32LE(0), GPUS_MAX); index++) {
      const out = Buffer.alloc(8);
      await ffi.getHandle(index, out);
      const handle = out.readBigUInt64LE(0);
      const uuid = Buffer.alloc(UUID_BYTES);
      await ffi.getUuid(handle, uuid, UUID_BYTES);
      const memory = Buffer.alloc(MEMORY_BYTES);
      await ffi.getMemoryInfo(handle, memory);
      found.push({
        uuid: uuid.toString('utf8', 0, Math.max(0, uuid.indexOf(0))),
        totalBytes: Number(memory.readBigUInt64LE(0)),
        freeBytes: Number(memory.readBigUInt64LE(8)),
        usedBytes: Number(memory.readBigUInt64LE(16)),
      });
    }
    return found;
  } finally {
    await ffi.shutdown();
  }
}
