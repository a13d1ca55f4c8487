// SPDX-License-Identifier: Apache-2.0
// Which CUDA driver this process and its children use: the machine's, the simulated one, or none.
import { join } from 'node:path';
import { GbError } from '../proto/base/errors.js';
import { nativePath } from '../proto/base/paths.js';

export type GpuDriver = 'none' | 'cuda' | 'sim';

type Env = Readonly<Record<string, string | undefined>>;

/** What GREENBOOST_GPU says, or `fallback`. @throws GbError INVALID_ARGUMENT for anything but cuda,
 *  sim and none. */
export function gpuDriverFromEnv(env: Env, fallback: GpuDriver): GpuDriver {
  const text = env['GREENBOOST_GPU'];
  if (text === undefined || text === '') return fallback;
  if (text === 'none' || text === 'cuda' || text === 'sim') return text;
  throw new GbError(
    'INVALID_ARGUMENT',
    `GREENBOOST_GPU=${text.slice(0, 40)}: write cuda, sim or none`,
  );
}

/** What to give to dlopen for `libcuda.so.1` or `libnvidia-ml.so.1`. */
export function driverLibrary(
  gpu: 'cuda' | 'sim',
  name: 'libcuda.so.1' | 'libnvidia-ml.so.1',
): string {
  return gpu === 'sim' ? nativePath('lib', 'sim', name) : name;
}

/** Variables a child needs that talks to the driver; everything else, secrets among it, stays here. */
const PASSED = /^(PATH|HOME|LANG|LC_ALL|TMPDIR|LD_LIBRARY_PATH|GBSIM_.*|CUDA_.*|NVIDIA_.*)$/;

/** The environment of a native child: few variables, never the shim, the simulated driver first if
 *  it is wanted. */
export function driverEnv(gpu: GpuDriver, env: Env): Record<string, string> {
  const passed: Record<string, string> = {};
  for (const [name, value] of Object.entries(env))
    if (value !== undefined && PASSED.test(name)) passed[name] = value;
  if (gpu === 'sim') {
    const folder = join(nativePath('lib', 'sim', 'libcuda.so.1'), '..');
    passed['LD_LIBRARY_PATH'] = [folder, passed['LD_LIBRARY_PATH']].filter(Boolean).join(':');
  }
  return passed;
}
