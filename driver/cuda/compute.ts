// SPDX-License-Identifier: Apache-2.0
// What a GPU can compute, out of the figures its driver tells: nothing is run.
import { attribute, int } from './attributes.js';
import { loadCuda } from './ffi.js';

const ATTRIBUTE_CLOCK_KHZ = 13;
const ATTRIBUTE_MULTIPROCESSORS = 16;
const ATTRIBUTE_MAJOR = 75;
const ATTRIBUTE_MINOR = 76;

/** Dense f16 operations of one multiprocessor per clock, by compute capability times 10. */
const OPERATIONS_PER_CLOCK: readonly (readonly [from: number, operations: number])[] = [
  [120, 1024],
  [100, 8192],
  [90, 4096],
  [86, 1024],
  [80, 2048],
  [70, 1024],
  [0, 128],
];

/** Dense f16 operations per second at the driver's clock; undefined when it does not tell.
 *  @throws GbError NOT_FOUND without a driver; DRIVER_ERROR. */
export async function gpuFlops(gpu: 'cuda' | 'sim', index: number): Promise<number | undefined> {
  const ffi = loadCuda(gpu);
  await ffi.cuInit(0);
  const device = await int((out) => ffi.cuDeviceGet(out, index));
  const read = (which: number): Promise<number> => attribute(ffi, which, device);
  const capability = (await read(ATTRIBUTE_MAJOR)) * 10 + (await read(ATTRIBUTE_MINOR));
  const hertz = (await read(ATTRIBUTE_CLOCK_KHZ)) * 1000;
  const multiprocessors = await read(ATTRIBUTE_MULTIPROCESSORS);
  const each = OPERATIONS_PER_CLOCK.find(([from]) => capability >= from)?.[1] ?? 0;
  const flops = hertz * multiprocessors * each;
  return flops > 0 ? flops : undefined;
}
