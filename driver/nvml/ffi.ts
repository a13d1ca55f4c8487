// SPDX-License-Identifier: Apache-2.0
// The NVML functions a daemon uses.
import { loadForeign, type ForeignCall } from '../foreign.js';
import { driverLibrary } from '../library.js';
import { errorFromNvml } from './errors.js';

const DECLARATIONS = {
  init: 'int nvmlInit_v2()',
  shutdown: 'int nvmlShutdown()',
  getCount: 'int nvmlDeviceGetCount_v2(void *count)',
  getHandle: 'int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void *device)',
  getUuid: 'int nvmlDeviceGetUUID(void *device, void *uuid, unsigned int length)',
  getMemoryInfo: 'int nvmlDeviceGetMemoryInfo(void *device, void *memory)',
  getUtilization: 'int nvmlDeviceGetUtilizationRates(void *device, void *utilization)',
  getTemperature: 'int nvmlDeviceGetTemperature(void *device, int sensor, void *celsius)',
  getPower: 'int nvmlDeviceGetPowerUsage(void *device, void *milliwatts)',
  getComputeProcesses:
    'int nvmlDeviceGetComputeRunningProcesses_v3(void *device, void *count, void *infos)',
  getProcessUtilization:
    'int nvmlDeviceGetProcessUtilization(void *device, void *samples, void *count, uint64_t since)',
} as const;

/** Each rejects with a GbError unless NVML answers success. */
export type NvmlFfi = Readonly<Record<keyof typeof DECLARATIONS, ForeignCall>>;

/** Loads the library once. @throws GbError NOT_FOUND when this machine has none. */
export function loadNvml(gpu: 'cuda' | 'sim'): NvmlFfi {
  return loadForeign(driverLibrary(gpu, 'libnvidia-ml.so.1'), {
    declarations: DECLARATIONS,
    errorFrom: errorFromNvml,
    missing: 'no NVML on this machine',
  });
}
