/* SPDX-License-Identifier: Apache-2.0 */
/* basic.c: twins of kernels that any test may use: nothing at all, and something that takes a
 * while. */
#include <gbsim_kernel.h>
#include <time.h>

/* .visible .entry gb_empty() */
GBSIM_KERNEL(gb_empty, 0, {0}) { (void)launch; }

/* .visible .entry gb_spin(.param .u64 nanoseconds): one thread waits that long on the device's
 * clock. */
GBSIM_KERNEL(gb_spin, 1, {8}) {
  uint64_t nanoseconds;
  gbsim_param(launch, 0, &nanoseconds);
  const struct timespec time = {.tv_sec = (time_t)(nanoseconds / 1000000000u),
                                .tv_nsec = (long)(nanoseconds % 1000000000u)};
  nanosleep(&time, NULL);
}
