// SPDX-License-Identifier: Apache-2.0
// The simulated GPU of a test process: one for all of its test files, as the driver is loaded once.
import koffi from 'koffi';

/** For children and for libraries in this process; jest keeps its own copy of the environment. */
export function useSimulatedGpu(): void {
  const setenv = koffi
    .load('libc.so.6')
    .func('int setenv(const char *name, const char *value, int overwrite)');
  for (const [name, value] of [
    ['GBSIM_GPU', `integration-${process.pid}`],
    ['GBSIM_VRAM', '512MiB'],
  ] as const) {
    process.env[name] = value;
    setenv(name, value, 1);
  }
}
