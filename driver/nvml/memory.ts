// SPDX-License-Identifier: Apache-2.0
// How full each GPU is, over all processes. CUDA numbers GPUs its own way: match by UUID.
import type { NvmlFfi } from './ffi.js';
import { eachGpu } from './gpus.js';

export interface NvmlMemory {
  readonly uuid: string;
  readonly totalBytes: number;
  readonly freeBytes: number;
  readonly usedBytes: number;
}

/** nvmlMemory_t: total, free, used. */
const MEMORY_BYTES = 24;

/** @throws GbError NOT_FOUND without NVML; DRIVER_ERROR. */
export function listNvmlMemory(gpu: 'cuda' | 'sim'): Promise<NvmlMemory[]> {
  return eachGpu(gpu, async (ffi, handle, uuid) => ({ uuid, ...(await memoryOf(ffi, handle)) }));
}

/** Of one GPU. */
export async function memoryOf(ffi: NvmlFfi, handle: bigint): Promise<Omit<NvmlMemory, 'uuid'>> {
  const memory = Buffer.alloc(MEMORY_BYTES);
  await ffi.getMemoryInfo(handle, memory);
  return {
    totalBytes: Number(memory.readBigUInt64LE(0)),
    freeBytes: Number(memory.readBigUInt64LE(8)),
    usedBytes: Number(memory.readBigUInt64LE(16)),
  };
}
