// SPDX-License-Identifier: Apache-2.0
// Who uses each GPU now: processes that compute on it, and the share of it that each process takes.
import { GbError } from '../../proto/base/errors.js';
import type { NvmlFfi } from './ffi.js';
import { eachGpu } from './gpus.js';
import { percentOf } from './load.js';

export interface GpuUse {
  readonly uuid: string;
  /** Process ids that hold a compute context. */
  readonly computing: readonly number[];
  /** Percent of the time in which a process's kernels or pictures ran, by its id; undefined: not told. */
  readonly percents: ReadonlyMap<number, number> | undefined;
  /** The same of all processes together. */
  readonly percent: number;
}

const PROCESSES_MAX = 2_048;
/** nvmlProcessInfo_t: pid, used bytes, two instances. */
const PROCESS_BYTES = 24;
/** nvmlProcessUtilizationSample_t: pid, time stamp, four shares. */
const SAMPLE_BYTES = 32;
const SAMPLE_PERCENT_AT = 16;

/** nvmlReturn_t. */
const NOT_SUPPORTED = 3;
const NOT_FOUND = 6;

/** Reads every GPU. Shares are of the time since `sinceUnixMs`, or of the driver's last samples.
 *  @throws GbError NOT_FOUND without NVML; DRIVER_ERROR. */
export function listGpuUse(gpu: 'cuda' | 'sim', sinceUnixMs: number): Promise<GpuUse[]> {
  return eachGpu(gpu, async (ffi, handle, uuid) => ({
    uuid,
    computing: await computingOn(ffi, handle),
    percents: await percentsOn(ffi, handle, sinceUnixMs),
    percent: (await percentOf(ffi.getUtilization, handle)) ?? 0,
  }));
}

async function computingOn(ffi: NvmlFfi, handle: bigint): Promise<number[]> {
  const count = Buffer.alloc(4);
  const infos = Buffer.alloc(PROCESSES_MAX * PROCESS_BYTES);
  count.writeUInt32LE(PROCESSES_MAX);
  await ffi.getComputeProcesses(handle, count, infos);
  return Array.from({ length: count.readUInt32LE() }, (_, index) =>
    infos.readUInt32LE(index * PROCESS_BYTES),
  );
}

async function percentsOn(
  ffi: NvmlFfi,
  handle: bigint,
  sinceUnixMs: number,
): Promise<ReadonlyMap<number, number> | undefined> {
  const count = Buffer.alloc(4);
  const samples = Buffer.alloc(PROCESSES_MAX * SAMPLE_BYTES);
  count.writeUInt32LE(PROCESSES_MAX);
  try {
    await ffi.getProcessUtilization(
      handle,
      samples,
      count,
      BigInt(Math.floor(sinceUnixMs * 1_000)),
    );
  } catch (reason) {
    const result = GbError.from(reason).details['nvmlReturn'];
    if (result === NOT_FOUND) return new Map(); // Nobody since then.
    if (result === NOT_SUPPORTED) return undefined;
    throw reason;
  }
  const percents = new Map<number, number>();
  for (let index = 0; index < count.readUInt32LE(); index++) {
    const at = index * SAMPLE_BYTES;
    const pid = samples.readUInt32LE(at);
    const percent = samples.readUInt32LE(at + SAMPLE_PERCENT_AT);
    percents.set(pid, Math.max(percent, percents.get(pid) ?? 0));
  }
  return percents;
}
