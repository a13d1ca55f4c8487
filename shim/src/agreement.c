/* SPDX-License-Identifier: Apache-2.0 */
/* agreement.c: engines of driver/blocks, and the memory of their digests. */
#include <stdlib.h>
#include <sys/random.h>

#include "context.h"
#include "replica_part.h"
#include "tier.h"

/* Lanes that run code, times contexts. */
#define ENGINES_MAX 64u

static struct engine {
  uint32_t lane;
  CUcontext context;
  struct gb_blocks *blocks; /* NULL: free */
} engines[ENGINES_MAX];

/* ---- digests ---- */

/* In VRAM where T1 has room; else in pinned memory, of which a hash of the range reads 1 byte in 256. */
struct digests {
  CUdeviceptr address;
  void *host; /* NULL: VRAM */
  CUdevice device;
  struct digests *next;
};
static struct digests *all_digests;

static CUresult take_vram(struct digests *one, size_t bytes) {
  if (gb_t1_side_room(one->device, bytes) < bytes) return CUDA_ERROR_OUT_OF_MEMORY;
  CUresult result = gb_real.cuMemAlloc_v2(&one->address, bytes);
  if (result == CUDA_SUCCESS) gb_tier_add(GB_TIER_T1, one->device, GB_ACCOUNT_SIDE, (int64_t)bytes);
  return result;
}

static CUresult take_pinned(struct digests *one, size_t bytes) {
  unsigned flags = CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP;
  CUresult result = gb_real.cuMemHostAlloc(&one->host, bytes, flags);
  if (result != CUDA_SUCCESS) return result;
  result = gb_real.cuMemHostGetDevicePointer_v2(&one->address, one->host, 0);
  if (result != CUDA_SUCCESS) gb_real.cuMemFreeHost(one->host);
  return result;
}

static CUresult allocate(void *context, CUdeviceptr *address, size_t bytes) {
  struct digests *one = calloc(1, sizeof *one);
  if (one == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
  one->device = (CUdevice)(intptr_t)context;
  CUresult result = take_vram(one, bytes);
  if (result != CUDA_SUCCESS) result = take_pinned(one, bytes);
  if (result != CUDA_SUCCESS) {
    free(one);
    return result;
  }
  one->next = all_digests;
  all_digests = one;
  *address = one->address;
  return CUDA_SUCCESS;
}

static void release(void *context, CUdeviceptr address, size_t bytes) {
  (void)context;
  for (struct digests **at = &all_digests; *at != NULL; at = &(*at)->next) {
    struct digests *one = *at;
    if (one->address != address) continue;
    if (one->host != NULL) {
      gb_real.cuMemFreeHost(one->host);
    } else {
      gb_real.cuMemFree_v2(address);
      gb_tier_add(GB_TIER_T1, one->device, GB_ACCOUNT_SIDE, -(int64_t)bytes);
    }
    *at = one->next;
    free(one);
    return;
  }
}

/* ---- engines ---- */

struct gb_blocks *gb_agreement_find(uint32_t lane, CUcontext context) {
  for (uint32_t i = 0; i < ENGINES_MAX; i++) {
    if (engines[i].blocks != NULL && engines[i].lane == lane && engines[i].context == context)
      return engines[i].blocks;
  }
  return NULL;
}

static struct gb_blocks *open_engine(CUcontext context, CUdevice device) {
  struct gb_blocks_options options = {
      .allocate = allocate,
      .release = release,
      .context = (void *)(intptr_t)device,
      .arena_base = gb_arena_base_address,
      .arena_bytes = gb_arena_size_bytes,
  };
#define GB_TAKE(name) options.driver.name = gb_real.name;
  GB_BLOCKS_FUNCTIONS(GB_TAKE)
#undef GB_TAKE
  options.stream = gb_context_stream(gb_context_get(context, device));
  struct gb_blocks *blocks = NULL;
  if (options.stream == NULL || getrandom(options.key, sizeof options.key, 0) != sizeof options.key) return NULL;
  CUresult result = gb_blocks_open(&options, &blocks);
  if (result == CUDA_SUCCESS) return blocks;
  gb_event(GB_LOG_WARN, result, "dispatch_off", "changed blocks cannot be found on this GPU: nothing is dispatched");
  return NULL;
}

/* A place for one more: a free one, or that of an engine that tracks nothing: its lane may be gone for good, and the
 * next one has another number. returns: NULL: all are in use. */
static struct engine *find_place(void) {
  for (uint32_t i = 0; i < ENGINES_MAX; i++) {
    if (engines[i].blocks == NULL) return &engines[i];
  }
  for (uint32_t i = 0; i < ENGINES_MAX; i++) {
    if (gb_blocks_tracks(engines[i].blocks) || gb_context_push(engines[i].context) != CUDA_SUCCESS) continue;
    gb_blocks_close(engines[i].blocks);
    gb_context_pop();
    engines[i].blocks = NULL;
    return &engines[i];
  }
  return NULL;
}

struct gb_blocks *gb_agreement(uint32_t lane, CUcontext context, CUdevice device) {
  struct gb_blocks *blocks = gb_agreement_find(lane, context);
  if (blocks != NULL) return blocks;
  struct engine *place = find_place();
  blocks = place != NULL ? open_engine(context, device) : NULL;
  if (blocks != NULL) *place = (struct engine){lane, context, blocks};
  return blocks;
}

void gb_agreement_forget(CUcontext context) {
  for (uint32_t i = 0; i < ENGINES_MAX; i++) {
    if (engines[i].blocks == NULL || engines[i].context != context) continue;
    gb_blocks_close(engines[i].blocks);
    engines[i].blocks = NULL;
  }
}
