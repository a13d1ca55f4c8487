/* SPDX-License-Identifier: Apache-2.0 */
/* frame.c: aliases, free frames and homes. */
#include "frame.h"

#include <stdlib.h>
#include <string.h>

#include "chunk.h"
#include "config.h"
#include "lock.h"
#include "tier.h"

#define FRAMES_MAX 1024u
#define ALIAS_BYTES_MAX (1ull << 40)

static struct {
  struct gb_stage_frame frames[FRAMES_MAX];
  uint32_t count;
  uint64_t bytes;
  uint64_t slots[GB_FRAME_SLOTS_MAX / 64]; /* bit set: taken */
} pools[GB_DEVICES_MAX];

static struct {
  bool tried;
  uint64_t bytes;
  struct gb_va va;
} window;

/* ---- aliases ---- */

static bool reserve_window(void) {
  if (window.tried) return window.bytes != 0;
  window.tried = true;
  uint64_t bytes = gb_arena_size_bytes < ALIAS_BYTES_MAX ? gb_arena_size_bytes : ALIAS_BYTES_MAX;
  CUdeviceptr base = 0;
  CUresult result = gb_real.cuMemAddressReserve(&base, bytes, GB_GRANULE, 0, 0);
  if (result != CUDA_SUCCESS) {
    gb_event(GB_LOG_WARN, result, "staging_refused",
             "the driver reserves no %llu bytes more: overflow is read in place",
             (unsigned long long)bytes);
    return false;
  }
  if (!gb_va_create(&window.va, base, bytes)) {
    gb_real.cuMemAddressFree(base, bytes);
    return false;
  }
  window.bytes = bytes;
  return true;
}

bool gb_alias_map(CUdevice device, CUmemGenericAllocationHandle handle, uint64_t bytes,
                  uint64_t *alias) {
  if (!reserve_window()) return false;
  uint64_t address = gb_va_take(&window.va, bytes);
  if (address == 0) return false;
  CUmemAccessDesc access = {{CU_MEM_LOCATION_TYPE_DEVICE, device},
                            CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  CUresult result = gb_real.cuMemMap(address, bytes, 0, handle, 0);
  if (result == CUDA_SUCCESS) {
    result = gb_real.cuMemSetAccess(address, bytes, &access, 1);
    if (result != CUDA_SUCCESS) gb_real.cuMemUnmap(address, bytes);
  }
  if (result != CUDA_SUCCESS) {
    gb_va_give(&window.va, address, bytes);
    return false;
  }
  *alias = address;
  return true;
}

void gb_alias_unmap(uint64_t alias, uint64_t bytes) {
  if (alias == 0) return;
  gb_real.cuMemUnmap(alias, bytes);
  gb_va_give(&window.va, alias, bytes);
}

/* ---- slots ---- */

uint32_t gb_frame_slot_take(CUdevice device) {
  uint64_t *slots = pools[gb_arena_device_index(device)].slots;
  for (uint32_t i = 0; i < GB_FRAME_SLOTS_MAX / 64; i++) {
    if (slots[i] == UINT64_MAX) continue;
    uint32_t bit = (uint32_t)__builtin_ctzll(~slots[i]);
    slots[i] |= 1ull << bit;
    return i * 64 + bit + 1;
  }
  return 0;
}

void gb_frame_slot_give(CUdevice device, uint32_t slot) {
  if (slot == 0) return;
  pools[gb_arena_device_index(device)].slots[(slot - 1) / 64] &= ~(1ull << ((slot - 1) % 64));
}

/* ---- frames ---- */

uint64_t gb_frames_free(CUdevice device) {
  int index = gb_arena_device_index(device);
  return index < 0 ? 0 : pools[index].bytes;
}

static void remove_at(CUdevice device, uint32_t i) {
  int index = gb_arena_device_index(device);
  pools[index].bytes -= pools[index].frames[i].bytes;
  pools[index].frames[i] = pools[index].frames[--pools[index].count];
}

static void release(CUdevice device, const struct gb_stage_frame *frame) {
  gb_alias_unmap(frame->alias, frame->bytes);
  gb_frame_slot_give(device, frame->slot);
  gb_real.cuMemRelease(frame->handle);
  gb_tier_add(GB_TIER_T1, device, GB_ACCOUNT_STAGE, -(int64_t)frame->bytes);
}

uint64_t gb_frames_drop(CUdevice device, uint64_t bytes) {
  int index = gb_arena_device_index(device);
  uint64_t dropped = 0;
  while (index >= 0 && dropped < bytes && pools[index].count > 0) {
    struct gb_stage_frame frame = pools[index].frames[pools[index].count - 1];
    remove_at(device, pools[index].count - 1);
    release(device, &frame);
    dropped += frame.bytes;
  }
  return dropped;
}

void gb_frame_give(CUdevice device, const struct gb_stage_frame *frame) {
  int index = gb_arena_device_index(device);
  if (pools[index].count == FRAMES_MAX) {
    release(device, frame);
    return;
  }
  pools[index].frames[pools[index].count++] = *frame;
  pools[index].bytes += frame->bytes;
}

static bool find(CUdevice device, uint64_t bytes, struct gb_stage_frame *frame) {
  int index = gb_arena_device_index(device);
  for (uint32_t i = pools[index].count; i-- > 0;) {
    if (pools[index].frames[i].bytes != bytes) continue;
    *frame = pools[index].frames[i];
    remove_at(device, i);
    return true;
  }
  return false;
}

bool gb_frame_take(CUdevice device, uint64_t bytes, struct gb_stage_frame *frame) {
  if (find(device, bytes, frame)) return true;
  uint64_t room = gb_t1_room(device);
  if (room < bytes) {
    if (room + gb_frames_free(device) < bytes) return false;
    gb_frames_drop(device, bytes - room);
    if (gb_t1_room(device) < bytes) return false;
  }
  *frame = (struct gb_stage_frame){.bytes = bytes, .slot = gb_frame_slot_take(device)};
  if (frame->slot != 0 &&
      gb_handle_create(GB_TIER_T1, device, bytes, &frame->handle) == CUDA_SUCCESS) {
    if (gb_alias_map(device, frame->handle, bytes, &frame->alias)) {
      gb_tier_add(GB_TIER_T1, device, GB_ACCOUNT_STAGE, (int64_t)bytes);
      return true;
    }
    gb_real.cuMemRelease(frame->handle);
  }
  gb_frame_slot_give(device, frame->slot);
  return false;
}

/* ---- homes ---- */

bool gb_home_make(struct gb_span *span, struct gb_chunk *chunk) {
  CUdevice device = span->device;
  if (chunk->slot == 0) chunk->slot = gb_frame_slot_take(device);
  if (chunk->slot == 0) return false;
  if (chunk->alias == 0 && !gb_alias_map(device, chunk->handle, chunk->bytes, &chunk->alias))
    return false;
  if (chunk->home_alias != 0) return true;
  if (gb_host_numa_node() < 0 || !gb_t2_acquire(chunk->bytes)) return false;
  if (gb_handle_create(GB_TIER_T2, device, chunk->bytes, &chunk->home) != CUDA_SUCCESS) {
    gb_t2_return();
    return false;
  }
  if (!gb_alias_map(device, chunk->home, chunk->bytes, &chunk->home_alias)) {
    gb_real.cuMemRelease(chunk->home);
    gb_t2_return();
    return false;
  }
  gb_tier_add(GB_TIER_T2, device, GB_ACCOUNT_STAGE, (int64_t)chunk->bytes);
  return true;
}

void gb_home_drop(struct gb_span *span, struct gb_chunk *chunk) {
  gb_alias_unmap(chunk->alias, chunk->bytes);
  chunk->alias = 0;
  gb_frame_slot_give(span->device, chunk->slot);
  chunk->slot = 0;
  chunk->hashed = false; /* the next home, and what the next slot holds, are not of this content */
  if (chunk->home_alias == 0) return;
  gb_alias_unmap(chunk->home_alias, chunk->bytes);
  chunk->home_alias = 0;
  gb_real.cuMemRelease(chunk->home);
  gb_tier_add(GB_TIER_T2, span->device, GB_ACCOUNT_STAGE, -(int64_t)chunk->bytes);
  gb_t2_return();
}
