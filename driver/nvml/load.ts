// SPDX-License-Identifier: Apache-2.0
// How full and how busy each GPU is, as nvidia-smi tells.
import { GbError } from '../../proto/base/errors.js';
import type { ForeignCall } from '../foreign.js';
import { eachGpu } from './gpus.js';
import { memoryOf, type NvmlMemory } from './memory.js';

/** undefined: this GPU does not tell. */
export interface GpuLoad {
  /** Of the last sampling period in which some kernel ran. */
  readonly percent: number | undefined;
  readonly temperatureCelsius: number | undefined;
  readonly powerMilliwatts: number | undefined;
}

/** nvmlReturn_t. */
const NOT_SUPPORTED = 3;
/** NVML_TEMPERATURE_GPU. */
const SENSOR_GPU = 0;

/** @throws GbError NOT_FOUND without NVML; DRIVER_ERROR. */
export function listGpuLoad(gpu: 'cuda' | 'sim'): Promise<(NvmlMemory & GpuLoad)[]> {
  return eachGpu(gpu, async (ffi, handle, uuid) => ({
    uuid,
    ...(await memoryOf(ffi, handle)),
    percent: await percentOf(ffi.getUtilization, handle),
    temperatureCelsius: await figure((out) => ffi.getTemperature(handle, SENSOR_GPU, out)),
    powerMilliwatts: await figure((out) => ffi.getPower(handle, out)),
  }));
}

/** nvmlUtilization_t: GPU, memory. */
export function percentOf(
  getUtilization: ForeignCall,
  handle: bigint,
): Promise<number | undefined> {
  return figure((out) => getUtilization(handle, out));
}

/** The first unsigned int that a call writes. */
async function figure(ask: (out: Buffer) => Promise<unknown>): Promise<number | undefined> {
  const out = Buffer.alloc(8);
  try {
    await ask(out);
  } catch (reason) {
    if (GbError.from(reason).details['nvmlReturn'] === NOT_SUPPORTED) return undefined;
    throw reason;
  }
  return out.readUInt32LE();
}
