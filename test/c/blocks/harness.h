/* SPDX-License-Identifier: Apache-2.0 */
/* harness.h: an engine on a context of its own, whose calls of the driver are counted, and a byte-wise reference of
 * what it has to say. Needs nothing but a driver: the simulated one, or that of a GPU. */
#ifndef GB_BLOCKS_HARNESS_H
#define GB_BLOCKS_HARNESS_H

#include <string.h>
#include <unistd.h>

#include "../check.h"
#include "blocks.h"
#include "blocks_part.h"

/* Not a multiple of 4 GiB: a half alone, with zeroes, is no address of it. */
#define ARENA_BASE 0x5a0010000000ull
#define ARENA_BYTES (64ull << 30)

static unsigned driver_calls;
static int64_t driver_bytes; /* allocated and not released */

#define COUNTED(name, parameters, arguments) \
  static CUresult counted_##name parameters { \
    driver_calls++;                           \
    return name arguments;                    \
  }
COUNTED(cuModuleLoadData, (CUmodule *module, const void *image), (module, image))
COUNTED(cuModuleUnload, (CUmodule module), (module))
COUNTED(cuModuleGetFunction, (CUfunction *function, CUmodule module, const char *name), (function, module, name))
COUNTED(cuLaunchKernel,
        (CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
         unsigned shared, CUstream stream, void **params, void **extra),
        (function, gx, gy, gz, bx, by, bz, shared, stream, params, extra))
COUNTED(cuMemHostAlloc, (void **memory, size_t bytes, unsigned flags), (memory, bytes, flags))
COUNTED(cuMemFreeHost, (void *memory), (memory))
COUNTED(cuMemcpyDtoHAsync_v2, (void *to, CUdeviceptr from, size_t bytes, CUstream stream), (to, from, bytes, stream))
COUNTED(cuMemcpyHtoDAsync_v2, (CUdeviceptr to, const void *from, size_t bytes, CUstream stream),
        (to, from, bytes, stream))
COUNTED(cuMemsetD8Async, (CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream),
        (to, value, bytes, stream))
COUNTED(cuStreamSynchronize, (CUstream stream), (stream))

static CUresult allocate(void *context, CUdeviceptr *address, size_t bytes) {
  const CUresult result = cuMemAlloc_v2(address, bytes);
  if (result == CUDA_SUCCESS) *(int64_t *)context += (int64_t)bytes;
  return result;
}

static void release(void *context, CUdeviceptr address, size_t bytes) {
  *(int64_t *)context -= (int64_t)bytes;
  cuMemFree_v2(address);
}

static inline CUcontext context_open(CUstream *stream) {
  CUcontext context = NULL;
  CUdevice device = 0;
  if (cuInit(0) != CUDA_SUCCESS || cuDeviceGet(&device, 0) != CUDA_SUCCESS ||
      cuDevicePrimaryCtxRetain(&context, device) != CUDA_SUCCESS || cuCtxSetCurrent(context) != CUDA_SUCCESS ||
      cuStreamCreate(stream, CU_STREAM_NON_BLOCKING) != CUDA_SUCCESS) {
    fprintf(stderr, "there is no GPU, and no simulated one\n");
    exit(1);
  }
  return context;
}

static inline struct gb_blocks_options options_of(CUstream stream, uint8_t key) {
  struct gb_blocks_options options = {.stream = stream,
                                      .allocate = allocate,
                                      .release = release,
                                      .context = &driver_bytes,
                                      .arena_base = ARENA_BASE,
                                      .arena_bytes = ARENA_BYTES};
#define GIVE(name) options.driver.name = counted_##name;
  GB_BLOCKS_FUNCTIONS(GIVE)
#undef GIVE
  for (uint32_t i = 0; i < sizeof options.key; i++) options.key[i] = (uint8_t)(key * 37 + i * 101);
  return options;
}

/* xorshift64*: seeded, so that a failure can be run again. */
static inline uint64_t random_next(uint64_t *state) {
  *state ^= *state >> 12;
  *state ^= *state << 25;
  *state ^= *state >> 27;
  return *state * 0x2545f4914f6cdd1dull;
}
static inline uint32_t random_below(uint64_t *state, uint32_t limit) {
  return (uint32_t)((random_next(state) >> 32) * limit >> 32);
}

/* What the kernel is compared with: any word of `bytes`, at every fourth byte, that touches block i. */
static inline bool reference_hidden(const unsigned char *bytes, uint32_t blocks, uint32_t i) {
  for (uint64_t at = i == 0 ? 0 : (uint64_t)i * GB_BLOCK_BYTES - 4;
       at < (uint64_t)(i + 1) * GB_BLOCK_BYTES && at + 8 <= (uint64_t)blocks * GB_BLOCK_BYTES; at += 4) {
    uint64_t word = 0;
    for (uint32_t byte = 8; byte-- > 0;) word = word << 8 | bytes[at + byte];
    if (word >= ARENA_BASE && word < ARENA_BASE + ARENA_BYTES) return true;
  }
  return false;
}

/* Appends the runs of one range: blocks whose bytes are not the agreed ones, or that are said to differ. */
static inline uint32_t reference_runs(const unsigned char *bytes, const unsigned char *agreed,
                                      const unsigned char *differs, uint32_t blocks, uint64_t address,
                                      struct gb_blocks_run *runs) {
  uint32_t count = 0, last = UINT32_MAX;
  for (uint32_t i = 0; i < blocks; i++) {
    const uint64_t at = (uint64_t)i * GB_BLOCK_BYTES;
    if (!differs[i] && memcmp(bytes + at, agreed + at, GB_BLOCK_BYTES) == 0) continue;
    if (count == 0 || last + 1 != i) runs[count++] = (struct gb_blocks_run){.address = address + at};
    runs[count - 1].blocks++;
    runs[count - 1].hidden |= reference_hidden(bytes, blocks, i);
    last = i;
  }
  return count;
}

static inline uint64_t runs_bytes(const struct gb_blocks_run *runs, uint32_t count) {
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < count; i++) bytes += (uint64_t)runs[i].blocks * GB_BLOCK_BYTES;
  return bytes;
}

static inline bool runs_equal(const struct gb_blocks_run *one, uint32_t one_count, const struct gb_blocks_run *other,
                              uint32_t other_count) {
  for (uint32_t i = 0; i < one_count && i < other_count; i++)
    if (one[i].address != other[i].address || one[i].blocks != other[i].blocks || one[i].hidden != other[i].hidden) {
      fprintf(stderr, "run %u: %#llx %u hidden %u, not %#llx %u hidden %u\n", i, (unsigned long long)one[i].address,
              one[i].blocks, one[i].hidden, (unsigned long long)other[i].address, other[i].blocks, other[i].hidden);
      return false;
    }
  if (one_count != other_count) fprintf(stderr, "%u runs, not %u\n", one_count, other_count);
  return one_count == other_count;
}

/* What has changed in whole ranges. */
static inline CUresult collect_whole(struct gb_blocks *engine, struct gb_blocks_range *const *ranges, uint32_t count,
                                     struct gb_blocks_run **runs, uint32_t *run_count) {
  struct gb_blocks_run *parts = calloc(count + 1, sizeof *parts);
  for (uint32_t i = 0; i < count; i++) parts[i] = (struct gb_blocks_run){ranges[i]->address, ranges[i]->blocks, 0};
  const CUresult result = gb_blocks_collect(engine, parts, count, runs, run_count);
  free(parts);
  return result;
}

#endif
