// SPDX-License-Identifier: Apache-2.0
// The few driver functions a daemon needs to know its GPUs. No context is ever made here: memory is held by executors.
import { loadForeign, type ForeignCall } from '../foreign.js';
import { driverLibrary } from '../library.js';
import { errorFromCuResult } from './errors.js';

const DECLARATIONS = {
  cuInit: 'int cuInit(unsigned int flags)',
  cuDriverGetVersion: 'int cuDriverGetVersion(void *version)',
  cuDeviceGetCount: 'int cuDeviceGetCount(void *count)',
  cuDeviceGet: 'int cuDeviceGet(void *device, int ordinal)',
  cuDeviceGetName: 'int cuDeviceGetName(void *name, int length, int device)',
  cuDeviceGetUuid: 'int cuDeviceGetUuid(void *uuid, int device)',
  cuDeviceGetAttribute: 'int cuDeviceGetAttribute(void *value, int attribute, int device)',
  cuDeviceTotalMem: 'int cuDeviceTotalMem_v2(void *bytes, int device)',
} as const;

/** Each rejects with a GbError unless the driver answers CUDA_SUCCESS. */
export type CudaFfi = Readonly<Record<keyof typeof DECLARATIONS, ForeignCall>>;

/** Loads the driver library once. @throws GbError NOT_FOUND when this machine has none. */
export function loadCuda(gpu: 'cuda' | 'sim'): CudaFfi {
  return loadForeign(driverLibrary(gpu, 'libcuda.so.1'), {
    declarations: DECLARATIONS,
    errorFrom: errorFromCuResult,
    missing: 'no CUDA driver on this machine',
  });
}
