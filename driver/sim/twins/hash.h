/* SPDX-License-Identifier: Apache-2.0 */
/* hash.h: the C twin of the hash of device memory (driver/include/gb_hash_ptx.h). */
#ifndef GBSIM_TWINS_HASH_H
#define GBSIM_TWINS_HASH_H

#include <stdint.h>
#include <string.h>

#define HASH_LOADS 8u
#define HASH_KEYS 38u
#define HASH_PLACE 0x9e3779b97f4a7c15ull

struct hash {
  uint64_t seed0, seed1;
  uint32_t keys[HASH_KEYS]; /* hash_keys_draw */
};

static inline uint64_t hash_mix(uint64_t x) {
  x = (x ^ x >> 33) * 0xff51afd7ed558ccdull;
  x = (x ^ x >> 29) * 0xc4ceb9fe1a85ec53ull;
  return x ^ x >> 32;
}

/* Every key from the two seeds. */
static inline void hash_keys_draw(struct hash *hash) {
  uint64_t state = hash->seed0;
  for (uint32_t i = 0; i < HASH_KEYS; i += 2) {
    state += hash->seed1 | 1;
    const uint64_t drawn = hash_mix(state);
    hash->keys[i] = (uint32_t)drawn;
    hash->keys[i + 1] = (uint32_t)(drawn >> 32);
  }
}

/* Adds to the digest what one lane takes: 16 bytes from `at`, and from every `stride` bytes further on. */
static inline void hash_lane(const struct hash *hash, const unsigned char *at, uint32_t stride, uint64_t lane,
                             uint64_t digest[2]) {
  uint64_t sums[4] = {0};
  for (uint32_t load = 0; load < HASH_LOADS; load++) {
    uint32_t word[4];
    memcpy(word, at + load * stride, sizeof word);
    for (uint32_t sum = 0; sum < 4; sum++) {
      const uint32_t *key = hash->keys + 4 * load + 2 * sum;
      sums[sum] += (uint64_t)(word[0] + key[0]) * (word[1] + key[1]);
      sums[sum] += (uint64_t)(word[2] + key[2]) * (word[3] + key[3]);
    }
  }
  digest[0] += hash_mix((sums[0] + lane * HASH_PLACE) ^ hash_mix(sums[1] + hash->seed0));
  digest[1] += hash_mix((sums[2] + lane * HASH_PLACE) ^ hash_mix(sums[3] + hash->seed1));
}

#endif
