/* SPDX-License-Identifier: Apache-2.0 */
/* frame_kernels.c: the C twins of the staging engine's kernels (shim/src/frame_kernels.c). */
#include "../gbsim_kernel.h"

#define SEGMENT_WORDS 4096u
#define LANES 256u
#define KEYS 38u
#define PLACE 0x9e3779b97f4a7c15ull

static uint64_t mix(uint64_t x) {
  x = (x ^ x >> 33) * 0xff51afd7ed558ccdull;
  x = (x ^ x >> 29) * 0xc4ceb9fe1a85ec53ull;
  return x ^ x >> 32;
}

static void keys_draw(uint64_t seed0, uint64_t seed1, uint32_t keys[KEYS]) {
  const uint64_t gamma = seed1 | 1;
  for (uint32_t i = 0; i < KEYS; i += 2) {
    seed0 += gamma;
    const uint64_t drawn = mix(seed0);
    keys[i] = (uint32_t)drawn;
    keys[i + 1] = (uint32_t)(drawn >> 32);
  }
}

/* The four sums of one lane: 16 bytes, and the next 4 KiB further on. */
static void lane_sums(const unsigned char *at, const uint32_t keys[KEYS], uint64_t sums[4]) {
  memset(sums, 0, 4 * sizeof *sums);
  for (uint32_t load = 0; load < 8; load++, at += LANES * 16) {
    uint32_t word[4];
    memcpy(word, at, sizeof word);
    for (uint32_t sum = 0; sum < 4; sum++) {
      const uint32_t *key = keys + 4 * load + 2 * sum;
      sums[sum] += (uint64_t)(word[0] + key[0]) * (word[1] + key[1]);
      sums[sum] += (uint64_t)(word[2] + key[2]) * (word[3] + key[3]);
    }
  }
}

GBSIM_KERNEL_BOUNDED(gb_frame_hash, 5, {8, 8, 8, 8, 8}) {
  const unsigned char *bytes;
  uint64_t words, seed0, seed1, *result, low = 0, high = 0;
  gbsim_param(launch, 0, &bytes);
  gbsim_param(launch, 1, &words);
  gbsim_param(launch, 2, &seed0);
  gbsim_param(launch, 3, &seed1);
  gbsim_param(launch, 4, &result);
  uint32_t keys[KEYS];
  keys_draw(seed0, seed1, keys);
  for (uint64_t i = 0; i < words / SEGMENT_WORDS * LANES; i++) {
    uint64_t sums[4];
    lane_sums(bytes + i / LANES * SEGMENT_WORDS * 8 + i % LANES * 16, keys, sums);
    low += mix((sums[0] + i * PLACE) ^ mix(sums[1] + seed0));
    high += mix((sums[2] + i * PLACE) ^ mix(sums[3] + seed1));
  }
  __atomic_fetch_add(&result[0], low, __ATOMIC_RELAXED);
  __atomic_fetch_add(&result[1], high, __ATOMIC_RELAXED);
}

GBSIM_KERNEL_BOUNDED(gb_frame_write_back, 8, {8, 8, 8, 8, 8, 8, 4, 8}) {
  const uint64_t *frame, *now, *then;
  uint64_t *host, words, *written;
  const volatile uint32_t *cancelled;
  uint32_t epoch;
  gbsim_param(launch, 0, &frame);
  gbsim_param(launch, 1, &host);
  gbsim_param(launch, 2, &words);
  gbsim_param(launch, 3, &now);
  gbsim_param(launch, 4, &then);
  gbsim_param(launch, 5, &cancelled);
  gbsim_param(launch, 6, &epoch);
  gbsim_param(launch, 7, &written);
  if (*cancelled == epoch || (now[0] == then[0] && now[1] == then[1])) return;
  for (uint64_t i = 0; i < words; i++) host[i] = frame[i];
  *(volatile uint64_t *)written += words * 8;
}
