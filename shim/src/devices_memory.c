/* SPDX-License-Identifier: Apache-2.0 */
/*
 * devices_memory.c: memory of a feeder's device: ranges of its window that the agent has the feeder allocate, and the
 * program's allocations in them. Small ones share a range.
 */
#include <stdlib.h>
#include <string.h>

#include "arena.h"
#include "client.h"
#include "devices_part.h"
#include "lock.h"
#include "tier.h"

#define SMALL_BYTES_MAX (1ull << 20)
#define SMALL_UNIT 512ull
#define PITCH_BYTES 512ull

struct gb_device_range {
  struct gb_device_range *next;
  uint64_t base;
  uint64_t bytes;
  CUcontext context;
  uint32_t users; /* blocks in it */
  bool shared;    /* by small blocks */
  struct gb_va va; /* of these */
};

static uint64_t rounded(uint64_t bytes, uint64_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

static uint64_t offset_of(uint64_t address) {
  return address - gb_arena_base_address;
}

/* ---- opening ---- */

/* The first granule of the window opens the device, and is never given to the program. */
bool gb_device_memory_start(struct gb_device *device) {
  uint64_t first = GB_GRANULE + GB_GUARD_BYTES;
  return gb_va_create(&device->va, device->window + first, gb_arena_remote_window_bytes() - first);
}

CUresult gb_device_open(struct gb_device *device) {
  if (gb_device_lane(device) != 0) return CUDA_SUCCESS;
  struct gb_device_request request = {
      .index = device->index, .offset = offset_of(device->window), .length = GB_GRANULE};
  struct gb_device_reply reply;
  uint64_t until = gb_now_ns() + GB_DEVICE_PATIENCE_NS;
  enum gb_status status;
  for (;;) {
    status = gb_client_device(&request, &reply, GB_DEVICE_TIMEOUT_MS);
    bool opened = status == GB_STATUS_OK && reply.lane != 0 && gb_run_can(reply.lane);
    if (opened) break;
    if ((status != GB_STATUS_UNREACHABLE && status != GB_STATUS_OK) || gb_now_ns() > until) {
      gb_event(GB_LOG_ERROR, CUDA_ERROR_DEVICE_UNAVAILABLE, "device_unavailable",
               "device %d cannot be used: feeder %.60s %s", device->ordinal, device->feeder,
               status == GB_STATUS_CAPACITY ? "lends nothing now" : "does not answer");
      return CUDA_ERROR_DEVICE_UNAVAILABLE;
    }
    gb_sleep_ns(100 * GB_MS);
  }
  atomic_store_explicit(&device->lane, reply.lane, memory_order_release);
  return CUDA_SUCCESS;
}

/* ---- ranges ---- */

/* pre: lock. Waits for who may come back. */
static enum gb_status ask_room(struct gb_device *device, uint64_t base, uint64_t bytes, bool drop) {
  struct gb_room_request request = {
      .offset = offset_of(base), .length = bytes, .lane = gb_device_lane(device), .drop = drop};
  uint64_t until = gb_now_ns() + GB_DEVICE_PATIENCE_NS;
  for (;;) {
    enum gb_status status = gb_client_room(&request, GB_DEVICE_TIMEOUT_MS);
    if (status != GB_STATUS_UNREACHABLE || gb_now_ns() > until) return status;
    gb_sleep_ns(100 * GB_MS);
  }
}

static CUresult error_of(enum gb_status status) {
  switch (status) {
  case GB_STATUS_OK: return CUDA_SUCCESS;
  case GB_STATUS_CAPACITY: return CUDA_ERROR_OUT_OF_MEMORY;
  case GB_STATUS_UNREACHABLE: return CUDA_ERROR_SYSTEM_NOT_READY;
  default: return CUDA_ERROR_EXTERNAL_DEVICE;
  }
}

/* pre: lock. */
static CUresult make_range(struct gb_device *device, CUcontext context, uint64_t bytes, struct gb_device_range **out) {
  struct gb_device_range *range = calloc(1, sizeof *range);
  uint64_t base = range != NULL ? gb_va_take(&device->va, bytes + GB_GUARD_BYTES) : 0;
  if (base == 0) {
    free(range);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  enum gb_status status = ask_room(device, base, bytes, false);
  if (status != GB_STATUS_OK) {
    /* An answer that never came may have been a yes: its addresses are not used again. */
    if (status != GB_STATUS_UNREACHABLE) gb_va_give(&device->va, base, bytes + GB_GUARD_BYTES);
    free(range);
    return error_of(status);
  }
  *range = (struct gb_device_range){.next = device->ranges, .base = base, .bytes = bytes, .context = context};
  device->ranges = range;
  gb_tier_add_away(GB_TIER_T1R, (int64_t)bytes);
  *out = range;
  return CUDA_SUCCESS;
}

/* pre: lock, nothing there uses it. */
static void drop_range(struct gb_device *device, struct gb_device_range *range) {
  struct gb_device_range **at = &device->ranges;
  while (*at != range) at = &(*at)->next;
  *at = range->next;
  enum gb_status status = ask_room(device, range->base, range->bytes, true);
  if (status == GB_STATUS_UNREACHABLE)
    gb_log(GB_LOG_WARN, "feeder %s keeps %llu bytes of this program until it ends", device->feeder,
           (unsigned long long)range->bytes);
  else
    gb_va_give(&device->va, range->base, range->bytes + GB_GUARD_BYTES);
  gb_tier_add_away(GB_TIER_T1R, -(int64_t)range->bytes);
  if (range->shared) gb_va_destroy(&range->va);
  free(range);
}

/* ---- blocks ---- */

/* The first block that ends behind the address. pre: lock or blocks_lock. */
static uint32_t block_after(const struct gb_device *device, uint64_t address) {
  uint32_t low = 0;
  for (uint32_t high = device->block_count; low < high;) {
    uint32_t middle = (low + high) / 2;
    if (device->blocks[middle].base + device->blocks[middle].bytes > address)
      high = middle;
    else
      low = middle + 1;
  }
  return low;
}

/* pre: lock. */
static bool enter_block(struct gb_device *device, const struct gb_device_block *block) {
  bool entered = true;
  pthread_rwlock_wrlock(&device->blocks_lock);
  if (device->block_count == device->block_capacity) {
    uint32_t capacity = device->block_capacity == 0 ? 256 : 2 * device->block_capacity;
    struct gb_device_block *grown = realloc(device->blocks, capacity * sizeof *grown);
    entered = grown != NULL;
    if (entered) {
      device->blocks = grown;
      device->block_capacity = capacity;
    }
  }
  if (entered) {
    uint32_t at = block_after(device, block->base);
    memmove(&device->blocks[at + 1], &device->blocks[at], (device->block_count - at) * sizeof *block);
    device->blocks[at] = *block;
    device->block_count++;
    block->range->users++;
  }
  pthread_rwlock_unlock(&device->blocks_lock);
  return entered;
}

/* pre: lock. */
static struct gb_device_block take_block(struct gb_device *device, uint32_t at) {
  struct gb_device_block block = device->blocks[at];
  pthread_rwlock_wrlock(&device->blocks_lock);
  device->block_count--;
  memmove(&device->blocks[at], &device->blocks[at + 1], (device->block_count - at) * sizeof block);
  pthread_rwlock_unlock(&device->blocks_lock);
  return block;
}

/* Of ranges for small blocks, one that is empty stays in each context. pre: lock. */
static bool is_spare(const struct gb_device *device, const struct gb_device_range *range) {
  for (const struct gb_device_range *other = device->ranges; other != NULL; other = other->next) {
    if (other != range && other->shared && other->users == 0 && other->context == range->context) return true;
  }
  return !range->shared;
}

/* pre: lock. */
static void end_block(struct gb_device *device, const struct gb_device_block *block) {
  struct gb_device_range *range = block->range;
  range->users--;
  if (range->shared) gb_va_give(&range->va, block->base, rounded(block->bytes, SMALL_UNIT));
  if (range->users == 0 && is_spare(device, range)) drop_range(device, range);
}

void gb_device_memory_drop(struct gb_device *device, CUcontext context) {
  (void)gb_device_wait(device);
  for (uint32_t at = device->block_count; at-- > 0;) {
    if (device->blocks[at].context != context) continue;
    struct gb_device_block block = take_block(device, at);
    end_block(device, &block);
  }
  struct gb_device_range *next = NULL;
  for (struct gb_device_range *range = device->ranges; range != NULL; range = next) {
    next = range->next;
    if (range->context == context && range->users == 0) drop_range(device, range);
  }
}

/* ---- allocations ---- */

/* pre: lock. */
static CUresult take_small(struct gb_device *device, CUcontext context, uint64_t bytes, struct gb_device_block *block) {
  uint64_t wanted = rounded(bytes, SMALL_UNIT);
  for (struct gb_device_range *range = device->ranges; range != NULL; range = range->next) {
    if (!range->shared || range->context != context) continue;
    block->base = gb_va_take(&range->va, wanted);
    block->range = range;
    if (block->base != 0) return CUDA_SUCCESS;
  }
  CUresult result = make_range(device, context, GB_GRANULE, &block->range);
  if (result != CUDA_SUCCESS) return result;
  block->range->shared = gb_va_create(&block->range->va, block->range->base, GB_GRANULE);
  block->base = block->range->shared ? gb_va_take(&block->range->va, wanted) : 0;
  if (block->base != 0) return CUDA_SUCCESS;
  drop_range(device, block->range);
  return CUDA_ERROR_OUT_OF_MEMORY;
}

/* pre: lock. */
static CUresult take(struct gb_device *device, CUcontext context, uint64_t bytes, CUdeviceptr *pointer) {
  struct gb_device_block block = {.bytes = bytes, .context = context, .buffer_id = gb_buffer_id()};
  CUresult result;
  if (bytes < SMALL_BYTES_MAX) {
    result = take_small(device, context, bytes, &block);
  } else {
    result = make_range(device, context, rounded(bytes, GB_GRANULE), &block.range);
    if (result == CUDA_SUCCESS) block.base = block.range->base;
  }
  if (result != CUDA_SUCCESS) return result;
  if (!enter_block(device, &block)) {
    block.range->users++;
    end_block(device, &block);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  *pointer = block.base;
  return CUDA_SUCCESS;
}

CUresult gb_device_alloc(struct gb_device *device, CUdeviceptr *pointer, size_t bytes) {
  CUcontext context = NULL;
  if (pointer == NULL || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  CUresult result = gb_real.cuCtxGetCurrent(&context);
  if (result != CUDA_SUCCESS) return result;
  if (bytes > gb_arena_remote_window_bytes()) return CUDA_ERROR_OUT_OF_MEMORY;
  pthread_mutex_lock(&device->lock);
  result = take(device, context, bytes, pointer);
  pthread_mutex_unlock(&device->lock);
  gb_log(GB_LOG_DEBUG, "alloc %zu on device %d: %d at 0x%llx", bytes, device->ordinal, (int)result,
         result == CUDA_SUCCESS ? (unsigned long long)*pointer : 0);
  return result;
}

CUresult gb_device_alloc_pitch(struct gb_device *device, CUdeviceptr *pointer, size_t *pitch, size_t width_bytes,
                               size_t height, unsigned element_bytes) {
  bool sized = element_bytes == 4 || element_bytes == 8 || element_bytes == 16;
  if (pointer == NULL || pitch == NULL || !sized || width_bytes == 0 || height == 0) return CUDA_ERROR_INVALID_VALUE;
  uint64_t row = rounded(width_bytes, PITCH_BYTES);
  if (row > gb_arena_remote_window_bytes() / height) return CUDA_ERROR_OUT_OF_MEMORY;
  CUresult result = gb_device_alloc(device, pointer, row * height);
  if (result == CUDA_SUCCESS) *pitch = row;
  return result;
}

CUresult gb_devices_free(CUdeviceptr pointer) {
  struct gb_device *device = gb_devices_of_address(pointer);
  if (device == NULL) return CUDA_ERROR_INVALID_VALUE;
  CUresult waited = gb_device_wait(device);
  pthread_mutex_lock(&device->lock);
  uint32_t at = block_after(device, pointer);
  bool found = at < device->block_count && device->blocks[at].base == pointer;
  if (found) {
    struct gb_device_block block = take_block(device, at);
    end_block(device, &block);
  }
  pthread_mutex_unlock(&device->lock);
  return found ? waited : CUDA_ERROR_INVALID_VALUE;
}

CUresult gb_device_memory(struct gb_device *device, size_t *free_bytes, size_t *total_bytes) {
  struct gb_device_request request = {.index = device->index};
  struct gb_device_reply reply;
  enum gb_status status = gb_client_device(&request, &reply, GB_DEVICE_TIMEOUT_MS);
  if (status == GB_STATUS_OK) {
    uint64_t room = reply.free_bytes < device->total_bytes ? reply.free_bytes : device->total_bytes;
    if (free_bytes != NULL) *free_bytes = room;
    if (total_bytes != NULL) *total_bytes = device->total_bytes;
  }
  return error_of(status);
}

/* ---- what a pointer is ---- */

static bool look_up(CUdeviceptr pointer, struct gb_device **device, struct gb_device_block *block) {
  *device = gb_devices_of_address(pointer);
  if (*device == NULL) return false;
  pthread_rwlock_rdlock(&(*device)->blocks_lock);
  uint32_t at = block_after(*device, pointer);
  bool found = at < (*device)->block_count && (*device)->blocks[at].base <= pointer;
  if (found) *block = (*device)->blocks[at];
  pthread_rwlock_unlock(&(*device)->blocks_lock);
  return found;
}

bool gb_device_holds(struct gb_device *device, CUdeviceptr pointer, uint64_t bytes) {
  struct gb_device *owner;
  struct gb_device_block block;
  return look_up(pointer, &owner, &block) && owner == device && bytes <= block.bytes - (pointer - block.base);
}

CUresult gb_devices_address_range(CUdeviceptr *base, size_t *bytes, CUdeviceptr pointer) {
  struct gb_device *device;
  struct gb_device_block block;
  if (!look_up(pointer, &device, &block)) return CUDA_ERROR_NOT_FOUND;
  if (base != NULL) *base = block.base;
  if (bytes != NULL) *bytes = block.bytes;
  return CUDA_SUCCESS;
}

static CUresult answer(void *data, const void *value, size_t bytes) {
  memcpy(data, value, bytes);
  return CUDA_SUCCESS;
}
#define ANSWER(type, value) answer(data, &(const type){value}, sizeof(type))

/* As cuMemAlloc's memory of a device that shares nothing. */
CUresult gb_devices_pointer_attribute(void *data, CUpointer_attribute attribute, CUdeviceptr pointer) {
  struct gb_device *device;
  struct gb_device_block block;
  if (data == NULL || !look_up(pointer, &device, &block)) return CUDA_ERROR_INVALID_VALUE;
  switch (attribute) {
  case CU_POINTER_ATTRIBUTE_CONTEXT: return ANSWER(CUcontext, block.context);
  case CU_POINTER_ATTRIBUTE_MEMORY_TYPE: return ANSWER(unsigned, CU_MEMORYTYPE_DEVICE);
  case CU_POINTER_ATTRIBUTE_DEVICE_POINTER: return ANSWER(CUdeviceptr, pointer);
  case CU_POINTER_ATTRIBUTE_BUFFER_ID:
  case CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID: return ANSWER(uint64_t, block.buffer_id);
  case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: return ANSWER(int, device->ordinal);
  case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
  case CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR: return ANSWER(CUdeviceptr, block.base);
  case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
  case CU_POINTER_ATTRIBUTE_MAPPING_SIZE: return ANSWER(size_t, block.bytes);
  case CU_POINTER_ATTRIBUTE_MAPPED: return ANSWER(unsigned, true);
  case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
  case CU_POINTER_ATTRIBUTE_IS_MANAGED:
  case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
  case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
  case CU_POINTER_ATTRIBUTE_IS_HW_DECOMPRESS_CAPABLE: return ANSWER(unsigned, false);
  case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
  case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE: return ANSWER(uint64_t, 0);
  case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS: return ANSWER(unsigned, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
  default: return CUDA_ERROR_INVALID_VALUE; /* device memory has none */
  }
}
