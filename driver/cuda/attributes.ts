// SPDX-License-Identifier: Apache-2.0
// Integers the driver tells of a device.
import { GbError } from '../../proto/base/errors.js';
import type { CudaFfi } from './ffi.js';

/** Attributes a driver does not know yet count as absent. */
const INVALID_VALUE = 1;

/** The integer that `call` writes. */
export async function int(call: (out: Buffer) => Promise<void>): Promise<number> {
  const out = Buffer.alloc(4);
  await call(out);
  return out.readInt32LE(0);
}

/** What CUdevice_attribute may be, at most, and what stands for one that a driver does not know. */
const ATTRIBUTES_MAX = 160;
const UNKNOWN = -(2 ** 31);

/** All attributes, each at its number. */
export async function allAttributes(ffi: CudaFfi, device: number): Promise<number[]> {
  const values = [UNKNOWN];
  for (let which = 1; which < ATTRIBUTES_MAX; which++) {
    try {
      values.push(await int((out) => ffi.cuDeviceGetAttribute(out, which, device)));
    } catch (reason) {
      if (!(reason instanceof GbError) || reason.details['cuResult'] !== INVALID_VALUE)
        throw reason;
      values.push(UNKNOWN);
    }
  }
  return values;
}

/** One attribute; 0 when the driver does not know it. */
export async function attribute(ffi: CudaFfi, which: number, device: number): Promise<number> {
  try {
    return await int((out) => ffi.cuDeviceGetAttribute(out, which, device));
  } catch (reason) {
    if (reason instanceof GbError && reason.details['cuResult'] === INVALID_VALUE) return 0;
    throw reason;
  }
}
