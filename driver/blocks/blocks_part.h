/* SPDX-License-Identifier: Apache-2.0 */
/*
 * blocks_part.h: what the files of blocks share. Work is done in passes: a table of pieces of memory, filled in pinned
 * memory, goes to the GPU, one launch works on all of them, and what it says comes back. The next pass, or the next
 * call, fills the same table: so every pass is waited for, failed ones too.
 */
#ifndef GB_BLOCKS_PART_H
#define GB_BLOCKS_PART_H

#include "blocks.h"
#include "blocks_kernels.h"

#define GB_BLOCKS_PIECES_MAX 4096u
#define GB_BLOCKS_TABLE_BYTES (GB_BLOCKS_PIECES_MAX * (uint32_t)sizeof(struct gb_blocks_piece))
/* Behind the table: a byte for each block that is hashed, or the blocks that are copied. */
#define GB_BLOCKS_AREA_BYTES (GB_BLOCKS_WORK_BYTES - GB_BLOCKS_TABLE_BYTES)

struct gb_blocks_range {
  uint64_t address;
  uint32_t blocks;
  bool doubtful; /* a call failed: its digests may be of what nobody was told */
  uint64_t seen;    /* the last collect that named it */
  uint64_t seen_to; /* and up to where */
  CUdeviceptr digests;
};

struct gb_blocks {
  struct gb_blocks_options options;
  uint64_t seed[2];
  CUmodule module;
  CUfunction hash, copy;
  CUdeviceptr work;                /* GB_BLOCKS_WORK_BYTES: the table, the area */
  unsigned char *pinned;           /* laid out as work */
  struct gb_blocks_range **ranges; /* by address */
  uint32_t range_count, range_capacity;
  uint64_t bytes;    /* of all ranges */
  uint64_t collects; /* so far */
  /* Hashed by one launch: what the area has flags for. A test makes it smaller. */
  uint32_t pass_blocks;
};

/* What one launch works on; begins as zeroes. The pieces are in the pinned table. */
struct gb_blocks_pass {
  uint32_t pieces;
  uint32_t blocks;
};

static inline struct gb_blocks_piece *gb_blocks_table(const struct gb_blocks *engine) {
  return (struct gb_blocks_piece *)engine->pinned;
}

/* Adds as much of a piece as the pass has room for, with blocks_max blocks in all. returns: how many of its blocks;
 * 0: the pass is full. */
uint32_t gb_blocks_pass_add(const struct gb_blocks *engine, struct gb_blocks_pass *pass, uint32_t blocks_max,
                            struct gb_blocks_piece piece);
/* Puts the table's copy to the GPU on the stream. */
CUresult gb_blocks_table_send(struct gb_blocks *engine, const struct gb_blocks_pass *pass);
/* Puts one of the kernels on the stream, with a warp for each block of the pass, up to a limit. */
CUresult gb_blocks_launch(struct gb_blocks *engine, CUfunction function, const struct gb_blocks_pass *pass,
                          void **params);
/* Waits, also for what a call that failed has left on the stream. returns: the first failure. */
CUresult gb_blocks_finish(struct gb_blocks *engine, CUresult result);

#endif
