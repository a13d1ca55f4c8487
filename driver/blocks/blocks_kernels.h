/* SPDX-License-Identifier: Apache-2.0 */
/*
 * blocks_kernels.h: the two kernels of changed blocks, as PTX text (sm_70 and later), and their parameters;
 * driver/sim/twins/blocks.c does the same on the CPU. Both work on a table of pieces of memory; the blocks of all
 * pieces are counted through, one warp takes one block, any number of warps takes all of them (grid stride).
 *
 *   gb_blocks_hash(const struct gb_blocks_piece *table, u32 pieces, u32 blocks, u64 seed0, u64 seed1, u64 arena_base,
 *                  u64 arena_bytes, u8 *flags)
 *     hashes each block, compares with its digest, makes the new digest the digest, and writes its byte of flags:
 *     GB_BLOCKS_FLAG_CHANGED, and with it GB_BLOCKS_FLAG_HIDDEN where a word of 8 bytes, less arena_base, is below
 *     arena_bytes; looked at are those that begin at every fourth byte, from 4 bytes before the block to its last 4.
 *     The memory before and behind a piece is touched only where GB_BLOCKS_PIECE_BEFORE and _AFTER say so.
 *     GB_BLOCKS_PIECE_CHANGED: every block of the piece has changed. GB_BLOCKS_PIECE_DISAGREE: the memory is not read;
 *     the digests become all ones, which no content has (but with a chance of 2^-128).
 *
 *     The digest: each of 32 lanes takes 16 bytes of every 512 of the block, 128 in all, as four sums of 32-bit NH
 *     (UMAC, RFC 4418, section 5.2: products of keyed pairs of 32-bit words, each sum with the keys one pair further
 *     on; keys drawn from the seeds by SplitMix64). The four sums and the lane are mixed to 128 bits, those of the
 *     lanes are added up, and the same of a block of zeroes is taken away: the digest of zeroes is 0, so that an
 *     agreement begins with a memset.
 *
 *   gb_blocks_copy(const struct gb_blocks_piece *table, u32 pieces, u32 blocks, u8 *area, u32 out)
 *     copies the blocks to area, one behind the other (out != 0), or back.
 *
 * GB_BLOCKS_THREADS to a block. `pieces` is 1 or more; the first one's `first` is 0, none is empty.
 */
#ifndef GB_BLOCKS_KERNELS_H
#define GB_BLOCKS_KERNELS_H

#include <stdint.h>

#define GB_BLOCKS_HASH_NAME "gb_blocks_hash"
#define GB_BLOCKS_COPY_NAME "gb_blocks_copy"
#define GB_BLOCKS_THREADS 256u
#define GB_BLOCKS_WARPS (GB_BLOCKS_THREADS / 32u)

enum gb_blocks_piece_flag {
  GB_BLOCKS_PIECE_BEFORE = 1, /* the 4 bytes before the piece belong to its range */
  GB_BLOCKS_PIECE_AFTER = 2,  /* the 4 bytes behind it do */
  GB_BLOCKS_PIECE_CHANGED = 4,
  GB_BLOCKS_PIECE_DISAGREE = 8,
};

enum gb_blocks_flag {
  GB_BLOCKS_FLAG_CHANGED = 1,
  GB_BLOCKS_FLAG_HIDDEN = 2,
};

struct gb_blocks_piece {
  uint64_t address; /* of its first block, aligned to 16 bytes */
  uint64_t digests; /* of its first block: 16 bytes each, aligned to them; not of a copy */
  uint32_t first;   /* blocks of all pieces before it */
  uint32_t blocks;
  uint32_t flags; /* enum gb_blocks_piece_flag */
  uint32_t reserved;
};

_Static_assert(sizeof(struct gb_blocks_piece) == 32, "gb_blocks_piece");

extern const char gb_blocks_ptx[];

#endif
