/* SPDX-License-Identifier: Apache-2.0 */
/* frame_kernels.c: the C twins of the staging engine's kernels (shim/src/frame_kernels.c). */
#include "../gbsim_kernel.h"
#include "hash.h"

#define SEGMENT_WORDS 4096u
#define LANES 256u
#define LANE_BYTES 16u

GBSIM_KERNEL_BOUNDED(gb_frame_hash, 5, {8, 8, 8, 8, 8}) {
  const unsigned char *bytes;
  uint64_t words, *result, digest[2] = {0};
  struct hash hash;
  gbsim_param(launch, 0, &bytes);
  gbsim_param(launch, 1, &words);
  gbsim_param(launch, 2, &hash.seed0);
  gbsim_param(launch, 3, &hash.seed1);
  gbsim_param(launch, 4, &result);
  hash_keys_draw(&hash);
  for (uint64_t i = 0; i < words / SEGMENT_WORDS * LANES; i++)
    hash_lane(&hash, bytes + i / LANES * SEGMENT_WORDS * 8 + i % LANES * LANE_BYTES, LANES * LANE_BYTES, i, digest);
  __atomic_fetch_add(&result[0], digest[0], __ATOMIC_RELAXED);
  __atomic_fetch_add(&result[1], digest[1], __ATOMIC_RELAXED);
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
