/* SPDX-License-Identifier: Apache-2.0 */
/* chunk.c: cuMemCreate, cuMemMap and cuMemSetAccess, and the pool of handles between them. */
#include "chunk.h"

#include <stdlib.h>

#include "ipc.h"
#include "lock.h"
#include "room.h"
#include "stage.h"
#include "tier.h"

struct pooled {
  struct gb_chunk chunk;
  CUdevice device; /* T2 handles serve every device: CU_DEVICE_INVALID */
};

static struct pooled pool[GB_POOL_HANDLES_MAX];
static size_t pool_count;

/* ---- handles ---- */

CUresult gb_handle_create(enum gb_tier tier, CUdevice device, uint64_t bytes,
                          CUmemGenericAllocationHandle *handle) {
  return gb_handle_create_as(tier, device, 0, bytes, handle);
}

CUresult gb_handle_create_as(enum gb_tier tier, CUdevice device, uint32_t types, uint64_t bytes,
                             CUmemGenericAllocationHandle *handle) {
  CUmemAllocationProp properties = {.type = CU_MEM_ALLOCATION_TYPE_PINNED};
  properties.requestedHandleTypes = (CUmemAllocationHandleType)types;
  properties.location.type =
      tier == GB_TIER_T1 ? CU_MEM_LOCATION_TYPE_DEVICE : CU_MEM_LOCATION_TYPE_HOST_NUMA;
  properties.location.id = tier == GB_TIER_T1 ? device : gb_host_numa_node();
  return gb_real.cuMemCreate(handle, bytes, &properties, 0);
}

CUresult gb_handle_create_shared(CUdevice device, uint64_t bytes,
                                 CUmemGenericAllocationHandle *handle) {
  uint32_t types = (uint32_t)CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  return gb_handle_create_as(GB_TIER_T1, device, types, bytes, handle);
}

/* What the program may want to export is made so that it can be: in VRAM, where it stays then. */
static CUresult create_chunk(enum gb_tier tier, const struct gb_span *span, uint64_t bytes,
                             struct gb_chunk *chunk) {
  uint32_t types = tier == GB_TIER_T1 ? span->handle_types : 0;
  *chunk = (struct gb_chunk){.bytes = bytes, .tier = tier, .own = types != 0};
  return gb_handle_create_as(tier, span->device, types, bytes, &chunk->handle);
}

static void take_from_pool(size_t index, struct gb_chunk *chunk) {
  *chunk = pool[index].chunk;
  gb_tier_add(chunk->tier, pool[index].device, GB_ACCOUNT_POOLED, -(int64_t)chunk->bytes);
  pool[index] = pool[--pool_count];
}

static bool find_pooled(enum gb_tier tier, CUdevice device, uint64_t bytes,
                        struct gb_chunk *chunk) {
  for (size_t i = pool_count; i-- > 0;) {
    const struct pooled *p = &pool[i];
    if (p->chunk.tier != tier || p->chunk.bytes != bytes) continue;
    if (tier == GB_TIER_T1 && p->device != device) continue;
    take_from_pool(i, chunk);
    return true;
  }
  return false;
}

uint64_t gb_pool_drop(enum gb_tier tier) {
  uint64_t bytes = 0;
  for (size_t i = pool_count; i-- > 0;) {
    struct gb_chunk chunk;
    if (pool[i].chunk.tier != tier) continue;
    take_from_pool(i, &chunk);
    gb_real.cuMemRelease(chunk.handle);
    bytes += chunk.bytes;
  }
  if (tier == GB_TIER_T2) gb_t2_return();
  return bytes;
}

/* While spans are unmapped, one evicted makes room for one fetched: every handle is wanted again at
 * once. */
static bool pool_has_room(const struct gb_chunk *chunk) {
  if (pool_count == GB_POOL_HANDLES_MAX || chunk->exported) return false;
  if (gb_unmapped_count != 0) return true;
  uint64_t limit = chunk->tier == GB_TIER_T1 ? GB_POOL_T1_BYTES_MAX : GB_POOL_T2_BYTES_MAX;
  return gb_tier_account(chunk->tier, GB_ACCOUNT_POOLED) + chunk->bytes <= limit;
}

void gb_pool_relieve(void) {
  if (gb_tier_account(GB_TIER_T2, GB_ACCOUNT_POOLED) == 0) return;
  if (gb_t2_held() > gb_t2_capacity()) gb_pool_drop(GB_TIER_T2);
}

void gb_pool_trim(void) {
  if (gb_tier_account(GB_TIER_T1, GB_ACCOUNT_POOLED) > GB_POOL_T1_BYTES_MAX)
    gb_pool_drop(GB_TIER_T1);
  if (gb_tier_account(GB_TIER_T2, GB_ACCOUNT_POOLED) > GB_POOL_T2_BYTES_MAX)
    gb_pool_drop(GB_TIER_T2);
}

static void give(struct gb_span *span, struct gb_chunk *chunks, uint32_t count) {
  bool released_t2 = false;
  for (uint32_t i = 0; i < count; i++) {
    struct gb_chunk *chunk = &chunks[i];
    pthread_mutex_lock(&gb_stage_lock);
    gb_stage_forget(span, chunk);
    pthread_mutex_unlock(&gb_stage_lock);
    if (chunk->exported) gb_ipc_forget(span->base);
    CUdevice device = chunk->tier == GB_TIER_T1 ? span->device : CU_DEVICE_INVALID;
    gb_tier_add(chunk->tier, span->device, GB_ACCOUNT_USED, -(int64_t)chunk->bytes);
    if (!span->fixed && !chunk->own && pool_has_room(chunk)) {
      struct gb_chunk bare = {.handle = chunk->handle, .bytes = chunk->bytes, .tier = chunk->tier};
      pool[pool_count++] = (struct pooled){bare, device};
      gb_tier_add(chunk->tier, device, GB_ACCOUNT_POOLED, (int64_t)chunk->bytes);
    } else {
      gb_real.cuMemRelease(chunk->handle);
      released_t2 |= chunk->tier == GB_TIER_T2;
    }
  }
  if (released_t2) gb_t2_return();
}

/* The chunks of a span, taken out; the new ones in. */
static struct gb_chunk *exchange(struct gb_span *span, struct gb_chunk *chunks, uint32_t *count) {
  pthread_mutex_lock(&gb_stage_lock);
  struct gb_chunk *before = span->chunks;
  uint32_t count_before = span->chunk_count;
  span->chunks = chunks;
  span->chunk_count = *count;
  pthread_mutex_unlock(&gb_stage_lock);
  *count = count_before;
  return before;
}

void gb_chunks_give(struct gb_span *span) {
  give(span, span->chunks, span->chunk_count);
  uint32_t count = 0;
  free(exchange(span, NULL, &count));
}

/* ---- covering a span ---- */

static bool take_t1(struct gb_span *span, uint64_t want, struct gb_chunk *chunk) {
  if (span->handle_types == 0 && find_pooled(GB_TIER_T1, span->device, want, chunk)) return true;
  uint64_t room = gb_t1_room(span->device);
  if (room < want && gb_t1_account(span->device, GB_ACCOUNT_POOLED) > 0) {
    gb_pool_drop(GB_TIER_T1);
    room = gb_t1_room(span->device);
  }
  uint64_t bytes = room < want ? room : want;
  return bytes > 0 && create_chunk(GB_TIER_T1, span, bytes, chunk) == CUDA_SUCCESS;
}

static bool take_t2(struct gb_span *span, uint64_t want, struct gb_chunk *chunk) {
  if (gb_host_numa_node() < 0) return false;
  if (find_pooled(GB_TIER_T2, span->device, want, chunk)) return true;
  if (!gb_t2_acquire(want)) {
    if (gb_pool_drop(GB_TIER_T2) == 0 || !gb_t2_acquire(want)) return false;
  }
  if (create_chunk(GB_TIER_T2, span, want, chunk) == CUDA_SUCCESS) return true;
  gb_t2_return();
  return false;
}

static bool append(struct gb_span *span, const struct gb_chunk *chunk) {
  pthread_mutex_lock(&gb_stage_lock);
  struct gb_chunk *grown = realloc(span->chunks, (span->chunk_count + 1) * sizeof *grown);
  if (grown != NULL) {
    uint64_t offset = 0;
    if (span->chunk_count > 0) {
      const struct gb_chunk *last = &grown[span->chunk_count - 1];
      offset = last->offset + last->bytes;
    }
    span->chunks = grown;
    grown[span->chunk_count] = *chunk;
    grown[span->chunk_count++].offset = offset;
  }
  pthread_mutex_unlock(&gb_stage_lock);
  if (grown == NULL) return false;
  gb_tier_add(chunk->tier, span->device, GB_ACCOUNT_USED, (int64_t)chunk->bytes);
  return true;
}

/* Before the program is refused, VRAM set aside for staging is the program's. */
static bool take_frames(struct gb_span *span, uint64_t want, struct gb_chunk *chunk) {
  return gb_frames_drop(span->device, want) > 0 && take_t1(span, want, chunk);
}

/* Host memory is slow to make, so a request that cannot succeed must fail before any is made. */
static bool could_fit(const struct gb_span *span) {
  uint64_t t1 = gb_t1_room(span->device) + gb_t1_account(span->device, GB_ACCOUNT_POOLED) +
                gb_frames_free(span->device);
  if (span->bytes <= t1) return true;
  return gb_host_numa_node() >= 0 && span->bytes - t1 <= gb_t2_headroom();
}

/* Chunks of one span are alike, and so are those of spans of one size: a frame that one leaves fits
 * the next. */
static uint64_t chunk_bytes(const struct gb_span *span) {
  uint64_t count = (span->bytes + GB_CHUNK_BYTES_MAX - 1) / GB_CHUNK_BYTES_MAX;
  uint64_t each = (span->bytes + count - 1) / count;
  return (each + GB_GRANULE - 1) & ~(GB_GRANULE - 1);
}

uint32_t gb_chunk_at(const struct gb_span *span, uint64_t offset) {
  uint32_t low = 0;
  uint32_t high = span->chunk_count;
  while (high - low > 1) {
    uint32_t middle = low + (high - low) / 2;
    if (span->chunks[middle].offset <= offset)
      low = middle;
    else
      high = middle;
  }
  return low;
}

CUresult gb_chunks_cover(struct gb_span *span) {
  bool t1_open = true;
  uint64_t remaining = span->bytes;
  uint64_t each = chunk_bytes(span);
  if (!could_fit(span)) return CUDA_ERROR_OUT_OF_MEMORY;
  while (remaining > 0) {
    struct gb_chunk chunk;
    uint64_t want = remaining < each ? remaining : each;
    bool taken = t1_open && take_t1(span, want, &chunk);
    if (!taken) {
      t1_open = false;
      taken = take_t2(span, want, &chunk) || take_frames(span, want, &chunk);
    }
    if (!taken || !append(span, &chunk)) {
      if (taken) gb_real.cuMemRelease(chunk.handle);
      gb_chunks_give(span);
      return CUDA_ERROR_OUT_OF_MEMORY;
    }
    remaining -= chunk.bytes;
  }
  return CUDA_SUCCESS;
}

/* ---- mapping ---- */

/*
 * Devices only, never the host: with CPU access on a HOST_NUMA chunk, driver 580.159 answers a fill
 * that crosses from one chunk to the next with CUDA_ERROR_INVALID_VALUE and crashes the process in
 * copies that cross between VRAM and host chunks; without it all of them work (H200, 26 kinds of
 * access over 5 layouts). Who needs the bytes on the CPU copies.
 */
size_t gb_access_list(CUdevice owner, CUmemAccessDesc list[GB_DEVICES_MAX]) {
  size_t count = 0;
  for (int i = 0; i < gb_arena_device_count(); i++) {
    CUdevice device = gb_arena_device(i);
    int peer = device == owner;
    if (!peer && gb_real.cuDeviceCanAccessPeer != NULL)
      gb_real.cuDeviceCanAccessPeer(&peer, device, owner);
    if (!peer) continue;
    list[count++] = (CUmemAccessDesc){{CU_MEM_LOCATION_TYPE_DEVICE, device},
                                      CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  }
  return count;
}

static CUresult grant_access(const struct gb_span *span) {
  CUmemAccessDesc list[GB_DEVICES_MAX];
  return gb_real.cuMemSetAccess(span->base, span->bytes, list, gb_access_list(span->device, list));
}

/* Undoes the maps of the first count chunks. */
static void unmap_first(const struct gb_span *span, uint32_t count) {
  uint64_t address = span->base;
  for (uint32_t i = 0; i < count; i++) {
    gb_real.cuMemUnmap(address, span->chunks[i].bytes);
    address += span->chunks[i].bytes;
  }
}

CUresult gb_chunks_place(struct gb_span *span) {
  uint64_t address = span->base;
  for (uint32_t i = 0; i < span->chunk_count; i++) {
    CUresult result =
        gb_real.cuMemMap(address, span->chunks[i].bytes, 0, span->chunks[i].handle, 0);
    if (result != CUDA_SUCCESS) {
      unmap_first(span, i);
      return result;
    }
    address += span->chunks[i].bytes;
  }
  return CUDA_SUCCESS;
}

CUresult gb_chunks_map(struct gb_span *span) {
  CUresult result = gb_chunks_place(span);
  if (result != CUDA_SUCCESS) return result;
  result = grant_access(span);
  if (result != CUDA_SUCCESS) unmap_first(span, span->chunk_count);
  return result;
}

CUresult gb_chunks_unmap(struct gb_span *span) {
  return gb_real.cuMemUnmap(span->base, span->bytes);
}

CUresult gb_chunks_replace(struct gb_span *span, const struct gb_chunk *whole) {
  struct gb_chunk *list = malloc(sizeof *list);
  if (list == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
  *list = *whole;
  uint32_t count = 1;
  CUresult result = gb_chunks_unmap(span);
  if (result != CUDA_SUCCESS) {
    free(list);
    return result;
  }
  list = exchange(span, list, &count);
  result = gb_chunks_map(span);
  if (result == CUDA_SUCCESS) {
    give(span, list, count);
    free(list);
    return result;
  }
  free(exchange(span, list, &count));
  CUresult back = gb_chunks_map(span);
  gb_event(back == CUDA_SUCCESS ? GB_LOG_WARN : GB_LOG_ERROR, result, "remap_refused",
           "the driver refuses to map %llu bytes at 0x%llx%s", (unsigned long long)span->bytes,
           (unsigned long long)span->base,
           back == CUDA_SUCCESS ? ": they stay where they were" : " and the old ones again");
  return result;
}
