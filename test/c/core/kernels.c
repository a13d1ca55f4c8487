/* SPDX-License-Identifier: Apache-2.0 */
/* kernels.c: kernels of the model test for the simulated driver. */
#include "gbsim_kernel.h"

/* to[i] = to[i] * 3 + from[i] + seed, over 4-byte words */
GBSIM_KERNEL(mix, 4, {8, 8, 8, 4}) {
  uint32_t *to;
  const uint32_t *from;
  uint64_t words;
  uint32_t seed;
  gbsim_param(launch, 0, &to);
  gbsim_param(launch, 1, &from);
  gbsim_param(launch, 2, &words);
  gbsim_param(launch, 3, &seed);
  for (uint64_t i = 0; i < words; i++) to[i] = to[i] * 3 + from[i] + seed;
}

/* to[i] = from[i] * 5 + seed: all of it is overwritten. */
GBSIM_KERNEL(fresh, 4, {8, 8, 8, 4}) {
  uint32_t *to;
  const uint32_t *from;
  uint64_t words;
  uint32_t seed;
  gbsim_param(launch, 0, &to);
  gbsim_param(launch, 1, &from);
  gbsim_param(launch, 2, &words);
  gbsim_param(launch, 3, &seed);
  for (uint64_t i = 0; i < words; i++) to[i] = from[i] * 5 + seed;
}

/* Reaches its operands through a table in device memory, as batched routines do: table[0] +=
 * table[1]. */
GBSIM_KERNEL(mix_table, 3, {8, 8, 4}) {
  uint32_t **table;
  uint64_t words;
  uint32_t seed;
  gbsim_param(launch, 0, &table);
  gbsim_param(launch, 1, &words);
  gbsim_param(launch, 2, &seed);
  for (uint64_t i = 0; i < words; i++) table[0][i] = table[0][i] * 3 + table[1][i] + seed;
}
