// SPDX-License-Identifier: Apache-2.0
// nvmlReturn in words, and as GbError.
import { GbError, type GbErrorCode } from '../../proto/base/errors.js';

const NAMES: Readonly<Record<number, readonly [string, GbErrorCode]>> = {
  1: ['NVML_ERROR_UNINITIALIZED', 'DRIVER_ERROR'],
  2: ['NVML_ERROR_INVALID_ARGUMENT', 'INVALID_ARGUMENT'],
  3: ['NVML_ERROR_NOT_SUPPORTED', 'UNSUPPORTED'],
  4: ['NVML_ERROR_NO_PERMISSION', 'PERMISSION_DENIED'],
  6: ['NVML_ERROR_NOT_FOUND', 'NOT_FOUND'],
  7: ['NVML_ERROR_INSUFFICIENT_SIZE', 'DRIVER_ERROR'],
  9: ['NVML_ERROR_DRIVER_NOT_LOADED', 'NOT_FOUND'],
  10: ['NVML_ERROR_TIMEOUT', 'DEADLINE_EXCEEDED'],
  12: ['NVML_ERROR_LIBRARY_NOT_FOUND', 'NOT_FOUND'],
  15: ['NVML_ERROR_GPU_IS_LOST', 'DRIVER_ERROR'],
  18: ['NVML_ERROR_LIB_RM_VERSION_MISMATCH', 'DRIVER_ERROR'],
  999: ['NVML_ERROR_UNKNOWN', 'DRIVER_ERROR'],
};

/** A failed NVML call. `call` names the function. */
export function errorFromNvml(call: string, result: number): GbError {
  const [name, code] = NAMES[result] ?? [`nvmlReturn ${result}`, 'DRIVER_ERROR' as const];
  return new GbError(code, `${call}: ${name}`, { details: { nvmlReturn: result } });
}
