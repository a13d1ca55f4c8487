/* SPDX-License-Identifier: Apache-2.0 */
/* workset.c: C twins of the PTX kernels in test/c/programs/kernels.h. */
#include <gbsim_kernel.h>

static uint64_t mix64(uint64_t value) {
  value *= 0x9E3779B97F4A7C15ull;
  return value ^ (value >> 32);
}

/* (pointer, words, seed) */
GBSIM_KERNEL(gb_fill, 3, {8, 8, 8}) {
  uint64_t *word, words, seed;
  gbsim_param(launch, 0, &word);
  gbsim_param(launch, 1, &words);
  gbsim_param(launch, 2, &seed);
  for (uint64_t i = 0; i < words; i++) word[i] = mix64(i + seed);
}

/* (pointer, words, key) */
GBSIM_KERNEL(gb_update, 3, {8, 8, 8}) {
  uint64_t *word, words, key;
  gbsim_param(launch, 0, &word);
  gbsim_param(launch, 1, &words);
  gbsim_param(launch, 2, &key);
  for (uint64_t i = 0; i < words; i++) word[i] = word[i] * 3 + key + i;
}

/* (struct of two pointers, words and key) */
GBSIM_KERNEL(gb_mix, 1, {32}) {
  struct {
    uint64_t *dst;
    const uint64_t *src;
    uint64_t words, key;
  } args;
  gbsim_param(launch, 0, &args);
  for (uint64_t i = 0; i < args.words; i++)
    args.dst[i] = args.dst[i] * 5 + (args.src[i] ^ args.key);
}

/* (pointer, words, result) */
GBSIM_KERNEL(gb_checksum, 3, {8, 8, 8}) {
  const uint64_t *word;
  uint64_t words, *result, sum = 0;
  gbsim_param(launch, 0, &word);
  gbsim_param(launch, 1, &words);
  gbsim_param(launch, 2, &result);
  for (uint64_t i = 0; i < words; i++) sum += mix64(word[i] + i);
  __atomic_fetch_add(result, sum, __ATOMIC_RELAXED);
}
