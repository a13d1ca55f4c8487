/* SPDX-License-Identifier: Apache-2.0 */
/* broken.c: gb_update as a driver would run it that loses the last word of every launch. */
#include <gbsim_kernel.h>

GBSIM_KERNEL(gb_update, 3, {8, 8, 8}) {
  uint64_t *word, words, key;
  gbsim_param(launch, 0, &word);
  gbsim_param(launch, 1, &words);
  gbsim_param(launch, 2, &key);
  for (uint64_t i = 0; i + 1 < words; i++) word[i] = word[i] * 3 + key + i;
}
