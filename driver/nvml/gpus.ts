// SPDX-License-Identifier: Apache-2.0
// The GPUs that NVML knows, one after the other.
import { loadNvml, type NvmlFfi } from './ffi.js';

/** NVML_DEVICE_UUID_V2_BUFFER_SIZE. */
const UUID_BYTES = 96;
const GPUS_MAX = 64;

/** Asks about every GPU. NVML is open for that long. @throws GbError NOT_FOUND without NVML; DRIVER_ERROR. */
export async function eachGpu<T>(
  gpu: 'cuda' | 'sim',
  ask: (ffi: NvmlFfi, handle: bigint, uuid: string) => Promise<T>,
): Promise<T[]> {
  const ffi = loadNvml(gpu);
  await ffi.init();
  try {
    const count = Buffer.alloc(4);
    await ffi.getCount(count);
    const answers: T[] = [];
    for (let index = 0; index < Math.min(count.readUInt32LE(0), GPUS_MAX); index++) {
      const out = Buffer.alloc(8);
      await ffi.getHandle(index, out);
      const handle = out.readBigUInt64LE(0);
      const uuid = Buffer.alloc(UUID_BYTES);
      await ffi.getUuid(handle, uuid, UUID_BYTES);
      answers.push(await ask(ffi, handle, uuid.toString('utf8', 0, Math.max(0, uuid.indexOf(0)))));
    }
    return answers;
  } finally {
    await ffi.shutdown();
  }
}
