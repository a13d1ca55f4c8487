/* SPDX-License-Identifier: Apache-2.0 */
/* run.c: C twins of the PTX kernels in test/c/executor/run_kernels.h. */
#include <gbsim_kernel.h>
#include <time.h>

/* (pointer, words): adds the module's variable gb_bias to every word. */
GBSIM_KERNEL(gb_biased, 2, {8, 8}) {
  uint64_t *word, words;
  size_t bytes = 0;
  gbsim_param(launch, 0, &word);
  gbsim_param(launch, 1, &words);
  const uint64_t *bias = launch->global(launch, "gb_bias", &bytes);
  for (uint64_t i = 0; i < words; i++) word[i] += *bias;
}

/* (pointer, nanoseconds): waits that long, then writes 1. */
GBSIM_KERNEL_BOUNDED(gb_held, 2, {8, 8}) {
  uint64_t *word, nanoseconds;
  gbsim_param(launch, 0, &word);
  gbsim_param(launch, 1, &nanoseconds);
  const struct timespec time = {.tv_sec = (time_t)(nanoseconds / 1000000000u),
                                .tv_nsec = (long)(nanoseconds % 1000000000u)};
  nanosleep(&time, NULL);
  *word = 1;
}
