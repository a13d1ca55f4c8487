/* SPDX-License-Identifier: Apache-2.0 */
/* kernels.c: kernels of the soak programs for the simulated driver. Words are 64 bits. */
#include <time.h>

#include "gbsim_kernel.h"

static void linger(uint64_t nanoseconds) {
  const struct timespec time = {.tv_nsec = (long)(nanoseconds % 1000000000u)};
  if (nanoseconds != 0) nanosleep(&time, NULL);
}

/* (to, from, words, seed): to = to * 3 + from + seed */
GBSIM_KERNEL(soak_mix, 4, {8, 8, 8, 8}) {
  uint64_t *to, words, seed;
  const uint64_t *from;
  gbsim_param(launch, 0, &to);
  gbsim_param(launch, 1, &from);
  gbsim_param(launch, 2, &words);
  gbsim_param(launch, 3, &seed);
  for (uint64_t i = 0; i < words; i++) to[i] = to[i] * 3 + from[i] + seed;
}

/* (table, words, seed): the same on what the table's two rows point at. */
GBSIM_KERNEL(soak_table, 3, {8, 8, 8}) {
  uint64_t **table, words, seed;
  gbsim_param(launch, 0, &table);
  gbsim_param(launch, 1, &words);
  gbsim_param(launch, 2, &seed);
  for (uint64_t i = 0; i < words; i++) table[0][i] = table[0][i] * 3 + table[1][i] + seed;
}

/* (table, list, count, out): list holds pairs of row and word; out gets what is there. */
GBSIM_KERNEL(soak_gather, 4, {8, 8, 8, 8}) {
  uint64_t **table, count, *out;
  const uint64_t *list;
  gbsim_param(launch, 0, &table);
  gbsim_param(launch, 1, &list);
  gbsim_param(launch, 2, &count);
  gbsim_param(launch, 3, &out);
  for (uint64_t i = 0; i < count; i++) out[i] = table[list[2 * i]][list[2 * i + 1]];
}

/* (table, row, word, amount, nanoseconds): adds to one word of what the row points at, reading it,
 * lingering, and writing it: what moves in between loses the sum. */
GBSIM_KERNEL(soak_poke, 5, {8, 8, 8, 8, 8}) {
  uint64_t **table, row, word, amount, nanoseconds;
  gbsim_param(launch, 0, &table);
  gbsim_param(launch, 1, &row);
  gbsim_param(launch, 2, &word);
  gbsim_param(launch, 3, &amount);
  gbsim_param(launch, 4, &nanoseconds);
  const uint64_t was = ((volatile uint64_t *)table[row])[word];
  linger(nanoseconds);
  ((volatile uint64_t *)table[row])[word] = was + amount;
  linger(nanoseconds / 2);
}
