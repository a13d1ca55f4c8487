/* SPDX-License-Identifier: Apache-2.0 */
/* blocks.c: the C twins of the kernels of changed blocks (driver/blocks/blocks_kernels.c). */
#include "../../blocks/blocks_kernels.h"
#include "../gbsim_kernel.h"
#include "hash.h"

#define BLOCK_BYTES 4096u
#define LANES 32u
#define LANE_BYTES 16u

struct task {
  struct hash hash;
  uint64_t zero[2]; /* what is taken away */
  uint64_t arena_base, arena_bytes;
};

static void block_sum(const struct hash *hash, const unsigned char *block, uint64_t digest[2]) {
  digest[0] = digest[1] = 0;
  for (uint32_t lane = 0; lane < LANES; lane++)
    hash_lane(hash, block + lane * LANE_BYTES, LANES * LANE_BYTES, lane, digest);
}

/* Whether a word that begins in `bytes` bytes from `at`, four bytes each time, lies in the arena. */
static int holds_address(const struct task *task, const unsigned char *at, uint32_t bytes) {
  for (uint32_t i = 0; i < bytes; i += 4) {
    uint64_t word;
    memcpy(&word, at + i, sizeof word);
    if (word - task->arena_base < task->arena_bytes) return 1;
  }
  return 0;
}

static uint8_t hash_block(const struct task *task, const struct gb_blocks_piece *piece, uint32_t i) {
  const unsigned char *block = (const unsigned char *)piece->address + (uint64_t)i * BLOCK_BYTES;
  uint64_t *stored = (uint64_t *)piece->digests + 2ull * i, digest[2];
  if (piece->flags & GB_BLOCKS_PIECE_DISAGREE) {
    stored[0] = stored[1] = UINT64_MAX;
    return GB_BLOCKS_FLAG_CHANGED;
  }
  block_sum(&task->hash, block, digest);
  digest[0] -= task->zero[0];
  digest[1] -= task->zero[1];
  if (!(piece->flags & GB_BLOCKS_PIECE_CHANGED) && stored[0] == digest[0] && stored[1] == digest[1]) return 0;
  memcpy(stored, digest, sizeof digest);
  const uint32_t before = i > 0 || (piece->flags & GB_BLOCKS_PIECE_BEFORE) ? 4 : 0;
  const uint32_t after = i + 1 < piece->blocks || (piece->flags & GB_BLOCKS_PIECE_AFTER) ? 4 : 0;
  const int hidden = holds_address(task, block - before, before + BLOCK_BYTES - 4 + after);
  return hidden ? GB_BLOCKS_FLAG_CHANGED | GB_BLOCKS_FLAG_HIDDEN : GB_BLOCKS_FLAG_CHANGED;
}

GBSIM_KERNEL(gb_blocks_hash, 8, {8, 4, 4, 8, 8, 8, 8, 8}) {
  static const unsigned char zeroes[BLOCK_BYTES];
  const struct gb_blocks_piece *table;
  uint32_t pieces, blocks;
  struct task task;
  uint8_t *flags;
  gbsim_param(launch, 0, &table);
  gbsim_param(launch, 1, &pieces);
  gbsim_param(launch, 2, &blocks);
  gbsim_param(launch, 3, &task.hash.seed0);
  gbsim_param(launch, 4, &task.hash.seed1);
  gbsim_param(launch, 5, &task.arena_base);
  gbsim_param(launch, 6, &task.arena_bytes);
  gbsim_param(launch, 7, &flags);
  hash_keys_draw(&task.hash);
  block_sum(&task.hash, zeroes, task.zero);
  for (uint32_t block = 0, piece = 0; block < blocks; block++) {
    while (piece + 1 < pieces && table[piece + 1].first <= block) piece++;
    flags[block] = hash_block(&task, &table[piece], block - table[piece].first);
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
