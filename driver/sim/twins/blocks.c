/* SPDX-License-Identifier: Apache-2.0 */
/* blocks.c: the C twins of the kernels of changed blocks (driver/blocks/blocks_kernels.c). */
#include "../../blocks/blocks_kernels.h"
#include "../gbsim_kernel.h"

#define BLOCK_BYTES 4096u
#define LANES 32u
#define LOADS 8u
#define KEYS 38u
#define PLACE 0x9e3779b97f4a7c15ull

struct hash {
  uint64_t seed0, seed1;
  uint32_t keys[KEYS];
  uint64_t zero[2]; /* what is taken away */
  uint64_t arena_base, arena_bytes;
};

static uint64_t mix(uint64_t x) {
  x = (x ^ x >> 33) * 0xff51afd7ed558ccdull;
  x = (x ^ x >> 29) * 0xc4ceb9fe1a85ec53ull;
  return x ^ x >> 32;
}

static void keys_draw(struct hash *hash) {
  uint64_t state = hash->seed0;
  for (uint32_t i = 0; i < KEYS; i += 2) {
    state += hash->seed1 | 1;
    const uint64_t drawn = mix(state);
    hash->keys[i] = (uint32_t)drawn;
    hash->keys[i + 1] = (uint32_t)(drawn >> 32);
  }
}

static void block_sum(const struct hash *hash, const unsigned char *block, uint64_t digest[2]) {
  digest[0] = digest[1] = 0;
  for (uint32_t lane = 0; lane < LANES; lane++) {
    uint64_t sums[4] = {0};
    for (uint32_t load = 0; load < LOADS; load++) {
      uint32_t word[4];
      memcpy(word, block + (load * LANES + lane) * sizeof word, sizeof word);
      for (uint32_t sum = 0; sum < 4; sum++) {
        const uint32_t *key = hash->keys + 4 * load + 2 * sum;
        sums[sum] += (uint64_t)(word[0] + key[0]) * (word[1] + key[1]);
        sums[sum] += (uint64_t)(word[2] + key[2]) * (word[3] + key[3]);
      }
    }
    digest[0] += mix((sums[0] + lane * PLACE) ^ mix(sums[1] + hash->seed0));
    digest[1] += mix((sums[2] + lane * PLACE) ^ mix(sums[3] + hash->seed1));
  }
}

/* Whether a word that begins in `bytes` bytes from `at`, four bytes each time, lies in the arena. */
static int holds_address(const struct hash *hash, const unsigned char *at, uint32_t bytes) {
  for (uint32_t i = 0; i < bytes; i += 4) {
    uint64_t word;
    memcpy(&word, at + i, sizeof word);
    if (word - hash->arena_base < hash->arena_bytes) return 1;
  }
  return 0;
}

static uint8_t hash_block(const struct hash *hash, const struct gb_blocks_piece *piece, uint32_t i) {
  const unsigned char *block = (const unsigned char *)piece->address + (uint64_t)i * BLOCK_BYTES;
  uint64_t *stored = (uint64_t *)piece->digests + 2ull * i, digest[2];
  if (piece->flags & GB_BLOCKS_PIECE_DISAGREE) {
    stored[0] = stored[1] = UINT64_MAX;
    return GB_BLOCKS_FLAG_CHANGED;
  }
  block_sum(hash, block, digest);
  digest[0] -= hash->zero[0];
  digest[1] -= hash->zero[1];
  if (!(piece->flags & GB_BLOCKS_PIECE_CHANGED) && stored[0] == digest[0] && stored[1] == digest[1]) return 0;
  memcpy(stored, digest, sizeof digest);
  const uint32_t before = i > 0 || (piece->flags & GB_BLOCKS_PIECE_BEFORE) ? 4 : 0;
  const uint32_t after = i + 1 < piece->blocks || (piece->flags & GB_BLOCKS_PIECE_AFTER) ? 4 : 0;
  const int hidden = holds_address(hash, block - before, before + BLOCK_BYTES - 4 + after);
  return hidden ? GB_BLOCKS_FLAG_CHANGED | GB_BLOCKS_FLAG_HIDDEN : GB_BLOCKS_FLAG_CHANGED;
}

GBSIM_KERNEL(gb_blocks_hash, 8, {8, 4, 4, 8, 8, 8, 8, 8}) {
  static const unsigned char zeroes[BLOCK_BYTES];
  const struct gb_blocks_piece *table;
  uint32_t pieces, blocks;
  struct hash hash;
  uint8_t *flags;
  gbsim_param(launch, 0, &table);
  gbsim_param(launch, 1, &pieces);
  gbsim_param(launch, 2, &blocks);
  gbsim_param(launch, 3, &hash.seed0);
  gbsim_param(launch, 4, &hash.seed1);
  gbsim_param(launch, 5, &hash.arena_base);
  gbsim_param(launch, 6, &hash.arena_bytes);
  gbsim_param(launch, 7, &flags);
  keys_draw(&hash);
  block_sum(&hash, zeroes, hash.zero);
  for (uint32_t block = 0, piece = 0; block < blocks; block++) {
    while (piece + 1 < pieces && table[piece + 1].first <= block) piece++;
    flags[block] = hash_block(&hash, &table[piece], block - table[piece].first);
  }
}

GBSIM_KERNEL(gb_blocks_copy, 5, {8, 4, 4, 8, 4}) {
  const struct gb_blocks_piece *table;
  uint32_t pieces, blocks, out;
  unsigned char *area;
  gbsim_param(launch, 0, &table);
  gbsim_param(launch, 1, &pieces);
  gbsim_param(launch, 2, &blocks);
  gbsim_param(launch, 3, &area);
  gbsim_param(launch, 4, &out);
  for (uint32_t block = 0, piece = 0; block < blocks; block++, area += BLOCK_BYTES) {
    while (piece + 1 < pieces && table[piece + 1].first <= block) piece++;
    unsigned char *memory =
        (unsigned char *)table[piece].address + (uint64_t)(block - table[piece].first) * BLOCK_BYTES;
    memcpy(out ? area : memory, out ? memory : area, BLOCK_BYTES);
  }
}
