// SPDX-License-Identifier: Apache-2.0
// koffi declarations of the NVML functions a daemon uses. NVML may block on the kernel driver: worker threads only.
import koffi from 'koffi';
import { GbError } from '../../proto/base/errors.js';
import { driverLibrary } from '../library.js';
import { errorFromNvml } from './errors.js';

export type NvmlCall = (...args: readonly unknown[]) => Promise<void>;

export interface NvmlFfi {
  readonly init: NvmlCall;
  readonly shutdown: NvmlCall;
  readonly getCount: NvmlCall;
  readonly getHandle: NvmlCall;
  readonly getUuid: NvmlCall;
  readonly getMemoryInfo: NvmlCall;
}

const DECLARATIONS: Readonly<Record<keyof NvmlFfi, string>> = {
  init: 'int nvmlInit_v2()',
  shutdown: 'int nvmlShutdown()',
  getCount: 'int nvmlDeviceGetCount_v2(void *count)',
  getHandle: 'int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void *device)',
  getUuid: 'int nvmlDeviceGetUUID(void *device, void *uuid, unsigned int length)',
  getMemoryInfo: 'int nvmlDeviceGetMemoryInfo(void *device, void *memory)',
};

type Async = { async(...args: unknown[]): void };

function wrap(name: string, fn: Async): NvmlCall {
  return (...args) =>
    new Promise((resolve, reject) => {
      fn.async(...args, (error: Error | null, result: number) => {
        if (error) reject(GbError.from(error));
        else if (result !== 0) reject(errorFromNvml(name, result));
        else resolve();
      });
    });
}

const loaded = new Map<string, NvmlFfi>();

/** Loads the library once. @throws GbError NOT_FOUND when this machine has none. */
export function loadNvml(gpu: 'cuda' | 'sim'): NvmlFfi {
  const path = driverLibrary(gpu, 'libnvidia-ml.so.1');
  const before = loaded.get(path);
  if (before) return before;
  try {
    const library = koffi.load(path);
    const entries = Object.entries(DECLARATIONS).map(([name, text]) => [
      name,
      wrap(functionName(text), library.func(text)),
    ]);
    const ffi = Object.fromEntries(entries) as NvmlFfi;
    loaded.set(path, ffi);
    return ffi;
  } catch (reason) {
    throw new GbError('NOT_FOUND', 'no NVML on this machine', { cause: reason });
  }
}

function functionName(declaration: string): string {
  return /(\w+)\(/.exec(declaration)?.[1] ?? declaration;
}
