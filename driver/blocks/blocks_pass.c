/* SPDX-License-Identifier: Apache-2.0 */
/* blocks_pass.c: passes, see blocks_part.h, and the copies that are made of them. */
#include "blocks_part.h"

/* Thread blocks of a launch: more than any GPU holds at once, so that all of it is busy to the end. */
#define GRID_MAX 1024u
#define AREA_BLOCKS (GB_BLOCKS_AREA_BYTES / GB_BLOCK_BYTES)

_Static_assert(AREA_BLOCKS <= GB_BLOCKS_PIECES_MAX, "the table has room for a piece of each block of the area");
_Static_assert(GB_BLOCKS_COPY_BLOCKS <= AREA_BLOCKS, "a run that is not copied by itself fits the area");

uint32_t gb_blocks_pass_add(const struct gb_blocks *engine, struct gb_blocks_pass *pass, uint32_t blocks_max,
                            struct gb_blocks_piece piece) {
  const uint32_t room = blocks_max - pass->blocks;
  if (piece.blocks > room) piece.blocks = room;
  if (pass->pieces == GB_BLOCKS_PIECES_MAX || piece.blocks == 0) return 0;
  piece.first = pass->blocks;
  gb_blocks_table(engine)[pass->pieces++] = piece;
  pass->blocks += piece.blocks;
  return piece.blocks;
}

CUresult gb_blocks_table_send(struct gb_blocks *engine, const struct gb_blocks_pass *pass) {
  return engine->options.driver.cuMemcpyHtoDAsync_v2(engine->work, engine->pinned,
                                                     pass->pieces * sizeof(struct gb_blocks_piece),
                                                     engine->options.stream);
}

CUresult gb_blocks_launch(struct gb_blocks *engine, CUfunction function, const struct gb_blocks_pass *pass,
                          void **params) {
  const uint32_t wanted = (pass->blocks + GB_BLOCKS_WARPS - 1) / GB_BLOCKS_WARPS;
  const uint32_t grid = wanted < GRID_MAX ? wanted : GRID_MAX;
  return engine->options.driver.cuLaunchKernel(function, grid, 1, 1, GB_BLOCKS_THREADS, 1, 1, 0,
                                               engine->options.stream, params, NULL);
}

CUresult gb_blocks_finish(struct gb_blocks *engine, CUresult result) {
  const CUresult waited = engine->options.driver.cuStreamSynchronize(engine->options.stream);
  return result != CUDA_SUCCESS ? result : waited;
}

/* ---- copies ---- */

struct copies {
  struct gb_blocks *engine;
  unsigned char *memory; /* of the next run */
  bool out;              /* to memory */
};

/* Device memory that lies in one piece, to or from the next bytes of memory. */
static CUresult copy_piece(struct copies *copies, CUdeviceptr address, uint64_t bytes) {
  const struct gb_blocks_options *options = &copies->engine->options;
  unsigned char *memory = copies->memory;
  copies->memory += bytes;
  return copies->out ? options->driver.cuMemcpyDtoHAsync_v2(memory, address, bytes, options->stream)
                     : options->driver.cuMemcpyHtoDAsync_v2(address, memory, bytes, options->stream);
}

/* The pieces of the table, by way of the area; waits: the table and the area are free again. */
static CUresult copy_pass(struct copies *copies, const struct gb_blocks_pass *pass) {
  struct gb_blocks *engine = copies->engine;
  CUdeviceptr area = engine->work + GB_BLOCKS_TABLE_BYTES;
  uint32_t pieces = pass->pieces, blocks = pass->blocks, out = copies->out;
  const uint64_t bytes = (uint64_t)blocks * GB_BLOCK_BYTES;
  void *params[] = {&engine->work, &pieces, &blocks, &area, &out};
  CUresult result = gb_blocks_table_send(engine, pass);
  if (result == CUDA_SUCCESS && !copies->out) result = copy_piece(copies, area, bytes);
  if (result == CUDA_SUCCESS) result = gb_blocks_launch(engine, engine->copy, pass, params);
  if (result == CUDA_SUCCESS && copies->out) result = copy_piece(copies, area, bytes);
  return gb_blocks_finish(engine, result);
}

/* As many of the small runs as fit one pass. returns: how many. */
static uint32_t small_runs(const struct gb_blocks *engine, const struct gb_blocks_run *runs, uint32_t run_count,
                           struct gb_blocks_pass *pass) {
  uint32_t taken = 0;
  for (; taken < run_count && runs[taken].blocks < GB_BLOCKS_COPY_BLOCKS; taken++) {
    if (runs[taken].blocks == 0) continue;
    if (runs[taken].blocks > AREA_BLOCKS - pass->blocks) break;
    const struct gb_blocks_piece piece = {.address = runs[taken].address, .blocks = runs[taken].blocks};
    gb_blocks_pass_add(engine, pass, AREA_BLOCKS, piece);
  }
  return taken;
}

static CUresult copy_runs(struct copies *copies, const struct gb_blocks_run *runs, uint32_t run_count) {
  for (uint32_t i = 0; i < run_count; i++)
    if (runs[i].address % GB_BLOCK_BYTES != 0) return CUDA_ERROR_INVALID_VALUE;
  CUresult result = CUDA_SUCCESS;
  bool waiting = false;
  for (uint32_t i = 0; i < run_count && result == CUDA_SUCCESS;) {
    struct gb_blocks_pass pass = {0};
    const uint32_t small = small_runs(copies->engine, runs + i, run_count - i, &pass);
    if (pass.pieces > 1) {
      result = copy_pass(copies, &pass);
      waiting = false;
      i += small;
      continue;
    }
    /* One alone, small or large, with those around it that are empty. */
    const uint32_t end = small == 0 ? i + 1 : i + small;
    for (; i < end && result == CUDA_SUCCESS; i++) {
      if (runs[i].blocks == 0) continue;
      result = copy_piece(copies, runs[i].address, (uint64_t)runs[i].blocks * GB_BLOCK_BYTES);
      waiting = true;
    }
  }
  return waiting ? gb_blocks_finish(copies->engine, result) : result;
}

CUresult gb_blocks_copy_out(struct gb_blocks *engine, const struct gb_blocks_run *runs, uint32_t run_count,
                            void *memory) {
  struct copies copies = {.engine = engine, .memory = memory, .out = true};
  return copy_runs(&copies, runs, run_count);
}

CUresult gb_blocks_copy_in(struct gb_blocks *engine, const struct gb_blocks_run *runs, uint32_t run_count,
                           const void *memory) {
  struct copies copies = {.engine = engine, .memory = (unsigned char *)memory, .out = false};
  return copy_runs(&copies, runs, run_count);
}
