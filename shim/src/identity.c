/* SPDX-License-Identifier: Apache-2.0 */
/* identity.c: what the virtual device says of itself and of pointers: one answer everywhere. */
#include <string.h>

#include "area.h"
#include "client.h"
#include "config.h"
#include "gated.h"
#include "ipc.h"
#include "lock.h"
#include "plain.h"
#include "slab.h"
#include "tier.h"

/* What one pointer belongs to, whatever its form. */
struct subject {
  uint64_t base;
  uint64_t bytes;
  uint64_t buffer_id;
  CUcontext context;
  CUdevice device;
  /* Of memory that the program maps itself: */
  uint64_t area_base; /* 0: other memory */
  uint64_t area_bytes;
  uint32_t handle_types;
  unsigned access; /* the owner's */
};

static void look_at_area(const struct gb_span *span, struct subject *out) {
  int index = gb_arena_device_index(span->device);
  out->context = NULL; /* it belongs to none */
  out->area_base = span->area->base;
  out->area_bytes = span->area->bytes;
  out->handle_types = span->handle_types;
  out->access = span->access[index] & CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
}

static bool look_up(uint64_t pointer, struct subject *out) {
  struct gb_plain plain;
  bool found = false;
  if (!gb_owns(pointer)) {
    if (!gb_plain_read(pointer, &plain)) return false;
    *out = (struct subject){.base = plain.address,
                            .bytes = plain.bytes,
                            .buffer_id = plain.buffer_id,
                            .context = plain.context,
                            .device = plain.device};
    return true;
  }
  pthread_rwlock_rdlock(&gb_index_lock);
  const struct gb_span *span = gb_span_at(pointer);
  if (span != NULL) {
    *out = (struct subject){.base = span->base,
                            .bytes = span->request_bytes,
                            .buffer_id = span->buffer_id,
                            .context = span->context,
                            .device = span->device};
    found = pointer - span->base < span->request_bytes;
    if (span->area != NULL) look_at_area(span, out);
    if (span->slab != NULL) {
      const struct gb_small *small = gb_slab_find(span, pointer, &out->base);
      found = small != NULL && pointer - out->base < small->bytes;
      if (found) {
        out->bytes = small->bytes;
        out->buffer_id = small->buffer_id;
      }
    }
  }
  pthread_rwlock_unlock(&gb_index_lock);
  return found;
}

CUresult gb_address_range(CUdeviceptr *base, size_t *size, CUdeviceptr pointer) {
  struct subject subject;
  if (!look_up(pointer, &subject)) return CUDA_ERROR_NOT_FOUND;
  if (base != NULL) *base = subject.base;
  if (size != NULL) *size = subject.bytes;
  return CUDA_SUCCESS;
}

static CUresult answer_unsigned(void *data, unsigned value) {
  memcpy(data, &value, sizeof value);
  return CUDA_SUCCESS;
}

/* The driver writes a whole word, and cudart reads one (cudaPointerGetAttributes). */
static CUresult answer_flag(void *data, bool value) {
  return answer_unsigned(data, value);
}

static CUresult answer_word(void *data, uint64_t value) {
  memcpy(data, &value, sizeof value);
  return CUDA_SUCCESS;
}

/* Sizes of the answers are the driver's (cuda.h, CUpointer_attribute); the values are those of a
 * plain cuMemAlloc. */
CUresult gb_pointer_attribute(void *data, CUpointer_attribute attribute, CUdeviceptr pointer) {
  struct subject subject;
  if (data == NULL) return CUDA_ERROR_INVALID_VALUE;
  if (!look_up(pointer, &subject)) return CUDA_ERROR_INVALID_VALUE;
  bool in_area = subject.area_base != 0;
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
      return answer_word(data, (uint64_t)(uintptr_t)subject.context);
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE: return answer_unsigned(data, CU_MEMORYTYPE_DEVICE);
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER: return answer_word(data, pointer);
    case CU_POINTER_ATTRIBUTE_HOST_POINTER: /* device memory has none: NULL, and an error in the single form */
      (void)answer_word(data, 0);
      return CUDA_ERROR_INVALID_VALUE;
    case CU_POINTER_ATTRIBUTE_P2P_TOKENS: return CUDA_ERROR_INVALID_VALUE;
    case CU_POINTER_ATTRIBUTE_BUFFER_ID: return answer_word(data, subject.buffer_id);
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
      return answer_unsigned(data, (unsigned)subject.device);
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
      return answer_word(data, in_area ? subject.area_base : subject.base);
    case CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR: return answer_word(data, subject.base);
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
      return answer_word(data, in_area ? subject.area_bytes : subject.bytes);
    case CU_POINTER_ATTRIBUTE_MAPPING_SIZE: return answer_word(data, subject.bytes);
    case CU_POINTER_ATTRIBUTE_MAPPED: return answer_flag(data, true);
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
      if (gb_ipc_is_drivers(pointer)) return gb_real.cuPointerGetAttribute(data, attribute, pointer);
      return answer_flag(data, gb_ipc_capable(pointer));
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
    case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
    case CU_POINTER_ATTRIBUTE_IS_HW_DECOMPRESS_CAPABLE: return answer_flag(data, false);
    case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES: return answer_word(data, subject.handle_types);
    case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
      return answer_unsigned(data, in_area ? subject.access : CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
    case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE: return answer_word(data, 0);
    case CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID: return answer_word(data, subject.buffer_id);
    default: return CUDA_ERROR_INVALID_VALUE;
  }
}

static uint64_t less(uint64_t a, uint64_t b) {
  return a > b ? a - b : 0;
}

/* Room in VRAM, and with a budget of its own the size of it. What the agent grants this process of
 * a shared GPU moves: it is room, never size. */
static void vram_seen(CUdevice device, uint64_t *room, uint64_t *total) {
  uint64_t granted = UINT64_MAX;
  bool limited = gb_config()->vram_budget < *total;
  limited = (gb_client_limit(GB_TIER_T1, &granted) && granted < *total) || limited;
  if (!limited) return;
  uint64_t used = gb_t1_account(device, GB_ACCOUNT_USED) + gb_t1_account(device, GB_ACCOUNT_SIDE) +
                  gb_t1_account(device, GB_ACCOUNT_PLAIN);
  uint64_t left = less(gb_t1_capacity(device), used);
  if (left < *room) *room = left;
  if (gb_config()->vram_budget < *total) *total = gb_config()->vram_budget;
}

void gb_identity_memory(CUdevice device, uint64_t real_free, uint64_t real_total,
                        uint64_t *free_bytes, uint64_t *total_bytes) {
  uint64_t total = real_total;
  uint64_t room = real_free;
  if (gb_core_active()) {
    vram_seen(device, &room, &total);
    if (!gb_config()->honest) {
      uint64_t gated = gb_gated_on() ? gb_gated_capacity() : 0;
      uint64_t capacity = gb_t2_capacity() + gated;
      uint64_t used = gb_tier_used(GB_TIER_T2) + (gated > 0 ? gb_gated_held() : 0);
      if (capacity > gb_config()->extend_bytes) capacity = gb_config()->extend_bytes;
      total += capacity;
      room += less(capacity, used);
    }
  }
  if (free_bytes != NULL) *free_bytes = room < total ? room : total;
  if (total_bytes != NULL) *total_bytes = total;
}
