/* SPDX-License-Identifier: Apache-2.0 */
/*
 * blocks.h: what has changed in a range of device memory since two machines last agreed on its content
 * (docs/adr/0013-dispatch.md), found by hashing it on the GPU. Linked into the shim and the executor; each side
 * keeps its own digests, with its own key, so nothing of them travels.
 *
 * An engine keeps the agreement with one other side: a shim has one for each lane and context. The agreement of a
 * tracked range begins with zeroes. gb_blocks_collect says which blocks differ from it, and what it has said counts
 * as agreed from then on; gb_blocks_arrived says that the other side's bytes have been written; gb_blocks_disagree
 * takes back what has been said and did not reach the other side.
 *
 * Blocks of GB_BLOCK_BYTES, digests of 128 bits: two blocks that differ are taken for equal with a chance of 2^-64 or
 * less for who does not know the key. Everything runs on the caller's stream, in its order; functions return when it
 * has, and wait for what was on the stream before. Nothing else may write to the memory meanwhile. locks: none. One
 * engine, with its ranges, is used by one thread at a time. pre of every call: the engine's context is current.
 *
 * What a call asks of the driver does not depend on the number of ranges or runs, and is constant up to a limit:
 *   collect             4 calls (a copy each way, a launch, a wait) for 15.5 GiB of ranges, or 4096 of them
 *   arrived, disagree   3 calls for 15.5 GiB of runs, or 4096 of them
 *   copy_out, copy_in   4 calls for 3.875 MiB of small runs; 1 for each run of GB_BLOCKS_COPY_BLOCKS or more, which
 *                       ends a group of small ones, and 1 to wait for the last
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
/* Of one engine: ranges, and the bytes of all of them. */
#define GB_BLOCKS_RANGES_MAX 65536u
#define GB_BLOCKS_BYTES_MAX (1ull << 40)
/* Device memory, and pinned memory, of an engine, besides the digests: 16 bytes for each tracked block. */
#define GB_BLOCKS_WORK_BYTES (4u << 20)
/* From here on a run is copied by itself, by the DMA engines. */
#define GB_BLOCKS_COPY_BLOCKS 256u

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
  /* Device memory, aligned to 256 bytes: GB_BLOCKS_WORK_BYTES once, then digests for each range. The owner accounts
   * for it. */
  CUresult (*allocate)(void *context, CUdeviceptr *address, size_t bytes);
  void (*release)(void *context, CUdeviceptr address, size_t bytes);
  void *context;
  uint8_t key[16]; /* random */
  /* A word (8 bytes, at every fourth byte) in [arena_base, arena_base + arena_bytes) makes a block hidden. */
  uint64_t arena_base;
  uint64_t arena_bytes;
};

struct gb_blocks;       /* an engine */
struct gb_blocks_range; /* a tracked range */

/* Blocks that lie behind each other. */
struct gb_blocks_run {
  uint64_t address; /* a multiple of GB_BLOCK_BYTES */
  uint32_t blocks;
  uint32_t hidden; /* 1: one of them holds an address of the arena */
};

/* owns: gb_blocks_close. returns: CUresult; *engine is NULL on failure. CUDA_ERROR_INVALID_VALUE: no such arena. */
CUresult gb_blocks_open(const struct gb_blocks_options *options, struct gb_blocks **engine);
/* Drops every range. NULL: nothing. */
void gb_blocks_close(struct gb_blocks *engine);

/* Whether it has any range. */
bool gb_blocks_tracks(const struct gb_blocks *engine);

/* address and bytes: multiples of GB_BLOCK_BYTES, mapped; no two ranges of an engine overlap. The memory is not
 * touched: it need not be zeroes, the agreement is. owns: gb_blocks_untrack. returns: CUresult;
 * CUDA_ERROR_INVALID_VALUE: not such a range, or over a limit; CUDA_ERROR_ALREADY_MAPPED: overlaps another. */
CUresult gb_blocks_track(struct gb_blocks *engine, CUdeviceptr address, uint64_t bytes,
                         struct gb_blocks_range **range);
/* NULL: nothing. */
void gb_blocks_untrack(struct gb_blocks *engine, struct gb_blocks_range *range);

/* What has changed in `count` parts of ranges, whole ranges or less, since the agreement: runs in the order of the
 * parts, then by address, each within one range, as long as can be. Parts of one range are named by address, and do not
 * overlap (CUDA_ERROR_INVALID_VALUE); their `hidden` is not looked at. hidden: a word that lies in two blocks of the
 * range is seen if one of them has changed, and marks the run of one that has. owns: *runs, released with free; NULL
 * when there is none. returns: CUresult. On failure nothing is agreed: the next call says all of it, and perhaps more,
 * up to whole ranges. */
CUresult gb_blocks_collect(struct gb_blocks *engine, const struct gb_blocks_run *parts, uint32_t count,
                           struct gb_blocks_run **runs, uint32_t *run_count);

/* These blocks hold what the other side holds. pre: each run lies in one tracked range (CUDA_ERROR_INVALID_VALUE
 * otherwise, and nothing happened). On another failure nothing is agreed about their ranges, as above. */
CUresult gb_blocks_arrived(struct gb_blocks *engine, const struct gb_blocks_run *runs, uint32_t run_count);

/* The other side does not have these blocks: the next collect says them, whatever they hold. pre: as above; what does
 * not lie in one tracked range is left out. Cannot fail: when the driver does, the next collect says more. */
void gb_blocks_disagree(struct gb_blocks *engine, const struct gb_blocks_run *runs, uint32_t run_count);

/* Copies runs to `memory` one behind the other, or back. The agreement stays as it is: gb_blocks_arrived comes after
 * copy_in. pre: `memory` holds all of them; pinned memory is faster. returns: CUresult; on failure some may have been
 * copied. */
CUresult gb_blocks_copy_out(struct gb_blocks *engine, const struct gb_blocks_run *runs, uint32_t run_count,
                            void *memory);
CUresult gb_blocks_copy_in(struct gb_blocks *engine, const struct gb_blocks_run *runs, uint32_t run_count,
                           const void *memory);

#endif
