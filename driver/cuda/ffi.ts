// SPDX-License-Identifier: Apache-2.0
// koffi declarations of the few driver functions a daemon needs to know its GPUs. No context is ever made here: memory
// is held by executors. Every call that may block runs on a worker thread.
import koffi from 'koffi';
import { GbError } from '../../proto/base/errors.js';
import { driverLibrary } from '../library.js';
import { errorFromCuResult } from './errors.js';

/** A driver function, called on a worker thread; rejects with a GbError unless it answers CUDA_SUCCESS. */
export type CuCall = (...args: readonly unknown[]) => Promise<void>;

export interface CudaFfi {
  readonly cuInit: CuCall;
  readonly cuDriverGetVersion: CuCall;
  readonly cuDeviceGetCount: CuCall;
  readonly cuDeviceGet: CuCall;
  readonly cuDeviceGetName: CuCall;
  readonly cuDeviceGetUuid: CuCall;
  readonly cuDeviceGetAttribute: CuCall;
  readonly cuDeviceTotalMem: CuCall;
}

/** Name here -> C declaration. Out parameters are buffers of the caller. */
const DECLARATIONS: Readonly<Record<keyof CudaFfi, string>> = {
  cuInit: 'int cuInit(unsigned int flags)',
  cuDriverGetVersion: 'int cuDriverGetVersion(void *version)',
  cuDeviceGetCount: 'int cuDeviceGetCount(void *count)',
  cuDeviceGet: 'int cuDeviceGet(void *device, int ordinal)',
  cuDeviceGetName: 'int cuDeviceGetName(void *name, int length, int device)',
  cuDeviceGetUuid: 'int cuDeviceGetUuid(void *uuid, int device)',
  cuDeviceGetAttribute: 'int cuDeviceGetAttribute(void *value, int attribute, int device)',
  cuDeviceTotalMem: 'int cuDeviceTotalMem_v2(void *bytes, int device)',
};

type Async = { async(...args: unknown[]): void };

function wrap(name: string, fn: Async): CuCall {
  return (...args) =>
    new Promise((resolve, reject) => {
      fn.async(...args, (error: Error | null, result: number) => {
        if (error) reject(GbError.from(error));
        else if (result !== 0) reject(errorFromCuResult(name, result));
        else resolve();
      });
    });
}

const loaded = new Map<string, CudaFfi>();

/** Loads the driver library once. @throws GbError NOT_FOUND when this machine has none. */
export function loadCuda(gpu: 'cuda' | 'sim'): CudaFfi {
  const path = driverLibrary(gpu, 'libcuda.so.1');
  const before = loaded.get(path);
  if (before) return before;
  try {
    const library = koffi.load(path);
    const entries = Object.entries(DECLARATIONS).map(([name, text]) => [
      name,
      wrap(name, library.func(text)),
    ]);
    const ffi = Object.fromEntries(entries) as CudaFfi;
    loaded.set(path, ffi);
    return ffi;
  } catch (reason) {
    throw new GbError(
      'NOT_FOUND',
      `no CUDA driver on this machine (${GbError.from(reason).rawMessage})`,
      {
        cause: reason,
      },
    );
  }
}
