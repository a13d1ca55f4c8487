// SPDX-License-Identifier: Apache-2.0
// The GPUs of this machine and their memory, as the driver and NVML tell it.
import { listNvmlMemory } from '../nvml/memory.js';
import { allAttributes, attribute, int } from './attributes.js';
import { loadCuda, type CudaFfi } from './ffi.js';
import { formatUuid } from './uuid.js';

export interface Gpu {
  /** CUDA ordinal. */
  readonly index: number;
  readonly name: string;
  /** `GPU-` and a UUID. */
  readonly uuid: string;
  readonly totalBytes: number;
  /** Unused by any process now; undefined when NVML cannot tell. */
  readonly freeBytes: number | undefined;
  /** Major * 10 + minor. */
  readonly computeCapability: number;
  /** The driver can map memory at addresses of choice; without it nothing of this GPU can be lent. */
  readonly vmm: boolean;
  /** The same for host memory. */
  readonly hostNumaVmm: boolean;
  readonly simulated: boolean;
  /** Of CUdevice_attribute, each at its number; -2^31 where the driver knows none. */
  readonly attributes: readonly number[];
}

export interface GpuList {
  /** 12040 for CUDA 12.4. */
  readonly driverVersion: number;
  readonly gpus: readonly Gpu[];
}

const ATTRIBUTE_MAJOR = 75;
const ATTRIBUTE_MINOR = 76;
const ATTRIBUTE_VMM = 102;
const ATTRIBUTE_HOST_NUMA_VMM = 141;
const NAME_BYTES = 256;
const GPUS_MAX = 64;

async function describe(
  ffi: CudaFfi,
  index: number,
  gpu: 'cuda' | 'sim',
  free: ReadonlyMap<string, number>,
): Promise<Gpu> {
  const device = await int((out) => ffi.cuDeviceGet(out, index));
  const name = Buffer.alloc(NAME_BYTES);
  await ffi.cuDeviceGetName(name, NAME_BYTES, device);
  const uuidBytes = Buffer.alloc(16);
  await ffi.cuDeviceGetUuid(uuidBytes, device);
  const uuid = formatUuid(uuidBytes);
  const total = Buffer.alloc(8);
  await ffi.cuDeviceTotalMem(total, device);
  const major = await attribute(ffi, ATTRIBUTE_MAJOR, device);
  const minor = await attribute(ffi, ATTRIBUTE_MINOR, device);
  return {
    index,
    name: name.toString('utf8', 0, Math.max(0, name.indexOf(0))),
    uuid,
    totalBytes: Number(total.readBigUInt64LE(0)),
    freeBytes: free.get(uuid),
    computeCapability: major * 10 + minor,
    vmm: (await attribute(ffi, ATTRIBUTE_VMM, device)) !== 0,
    hostNumaVmm: (await attribute(ffi, ATTRIBUTE_HOST_NUMA_VMM, device)) !== 0,
    simulated: gpu === 'sim',
    attributes: await allAttributes(ffi, device),
  };
}

/** Every GPU CUDA shows this process. @throws GbError NOT_FOUND without a driver or a GPU, DRIVER_ERROR. */
export async function listGpus(gpu: 'cuda' | 'sim'): Promise<GpuList> {
  const ffi = loadCuda(gpu);
  await ffi.cuInit(0);
  const driverVersion = await int((out) => ffi.cuDriverGetVersion(out));
  const count = Math.min(await int((out) => ffi.cuDeviceGetCount(out)), GPUS_MAX);
  const memory = await listNvmlMemory(gpu).catch(() => []);
  const free = new Map(memory.map(({ uuid, freeBytes }) => [uuid, freeBytes]));
  const gpus: Gpu[] = [];
  for (let index = 0; index < count; index++) gpus.push(await describe(ffi, index, gpu, free));
  return { driverVersion, gpus };
}
