/* SPDX-License-Identifier: Apache-2.0 */
/*
 * blocks.h: what has changed in a range of device memory since two machines last agreed on its content
 * (docs/adr/0013-dispatch.md), found by hashing it on the GPU. Linked into the shim and the executor; each side
 * keeps its own digests, with its own key, so nothing of them travels.
 *
 * The agreement of a tracked range begins with zeroes. gb_blocks_collect says which blocks differ from it, and what
 * it has said counts as agreed from then on; gb_blocks_arrived says that the other side's bytes have been written.
 *
 * Blocks of GB_BLOCK_BYTES, digests of 128 bits: two blocks that differ are taken for equal with a chance of 2^-64 or
 * less for who does not know the key. Everything runs on the caller's stream, in its order; functions return when it
 * has. locks: none. One engine, with its ranges, is used by one thread at a time. pre of every call: the engine's
 * context is current.
 */
#ifndef GB_BLOCKS_H
#define GB_BLOCKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef GB_CUDA_NO_ALIASES
#define GB_CUDA_NO_ALIASES
#endif
#include "cuda.h"

#define GB_BLOCK_BYTES 4096u
/* Of one tracked range. */
#define GB_BLOCKS_RANGE_BYTES_MAX (64ull << 30)

/* The driver's functions, so that the shim calls the real ones. */
#define GB_BLOCKS_FUNCTIONS(X) \
  X(cuModuleLoadData)          \
  X(cuModuleUnload)            \
  X(cuModuleGetFunction)       \
  X(cuLaunchKernel)            \
  X(cuMemHostAlloc)            \
  X(cuMemFreeHost)             \
  X(cuMemcpyDtoHAsync_v2)      \
  X(cuMemcpyHtoDAsync_v2)      \
  X(cuMemsetD8Async)           \
  X(cuStreamSynchronize)

struct gb_blocks_driver {
#define GB_BLOCKS_FIELD(name) __typeof__(name) *name;
  GB_BLOCKS_FUNCTIONS(GB_BLOCKS_FIELD)
#undef GB_BLOCKS_FIELD
};

struct gb_blocks_options {
  struct gb_blocks_driver driver;
  CUstream stream;
  /* Device memory for digests: 16 bytes for each block, and some for lists. The owner accounts for it. */
  CUresult (*allocate)(void *context, CUdeviceptr *address, size_t bytes);
  void (*release)(void *context, CUdeviceptr address, size_t bytes);
  void *context;
  uint8_t key[16]; /* random */
  /* A word (at every fourth byte) in [arena_base, arena_base + arena_bytes) makes a block hidden. */
  uint64_t arena_base;
  uint64_t arena_bytes;
};

struct gb_blocks;       /* an engine */
struct gb_blocks_range; /* a tracked range */

/* Changed blocks that lie behind each other. */
struct gb_blocks_run {
  uint64_t address;
  uint32_t blocks;
  uint32_t hidden; /* 1: one of them holds an address of the arena */
};

/* owns: gb_blocks_close. returns: CUresult. */
CUresult gb_blocks_open(const struct gb_blocks_options *options, struct gb_blocks **engine);
/* Drops every range. */
void gb_blocks_close(struct gb_blocks *engine);

/* address and bytes: multiples of GB_BLOCK_BYTES, mapped. The memory is not touched: it need not be zeroes, the
 * agreement is. owns: gb_blocks_untrack. */
CUresult gb_blocks_track(struct gb_blocks *engine, CUdeviceptr address, uint64_t bytes,
                         struct gb_blocks_range **range);
void gb_blocks_untrack(struct gb_blocks *engine, struct gb_blocks_range *range);

/* What has changed in `count` ranges since the agreement, as runs sorted by range and address, each within one range.
 * owns: *runs, released with free; NULL when there is none. On failure nothing is agreed. */
CUresult gb_blocks_collect(struct gb_blocks *engine, struct gb_blocks_range *const *ranges, uint32_t count,
                           struct gb_blocks_run **runs, uint32_t *run_count);

/* The blocks that these bytes touch hold what the other side holds. pre: inside the range. */
CUresult gb_blocks_arrived(struct gb_blocks *engine, struct gb_blocks_range *range, CUdeviceptr address,
                           uint64_t bytes);

/* Copies runs to `memory` one behind the other, or back. pre: `memory` holds all of them; pinned memory is faster. */
CUresult gb_blocks_copy_out(struct gb_blocks *engine, const struct gb_blocks_run *runs, uint32_t run_count,
                            void *memory);
CUresult gb_blocks_copy_in(struct gb_blocks *engine, const struct gb_blocks_run *runs, uint32_t run_count,
                           const void *memory);

#endif
