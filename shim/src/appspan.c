/* SPDX-License-Identifier: Apache-2.0 */
/* appspan.c: application memory: made, mapped, granted, unmapped, destroyed. */
#include "appspan.h"

#include "area.h"
#include "away.h"
#include "chunk.h"
#include "context.h"
#include "gated.h"
#include "lock.h"
#include "report.h"
#include "room.h"
#include "slab.h"
#include "stage.h"

/* Of span->access, beside the driver's flags. */
#define ACCESS_UNSET 0u
#define ACCESS_WITHDRAWN 4u

bool gb_app_ordinary(const CUmemAllocationProp *properties, size_t bytes,
                     unsigned long long flags) {
  unsigned types = (unsigned)properties->requestedHandleTypes;
  bool special = properties->allocFlags.compressionType != 0 ||
                 properties->allocFlags.gpuDirectRDMACapable != 0 ||
                 properties->allocFlags.usage != 0 || properties->win32HandleMetaData != NULL;
  return flags == 0 && bytes != 0 && bytes % GB_GRANULE == 0 && bytes <= gb_arena_size_bytes &&
         properties->type == CU_MEM_ALLOCATION_TYPE_PINNED &&
         properties->location.type == CU_MEM_LOCATION_TYPE_DEVICE &&
         (types & ~(unsigned)CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) == 0 && !special;
}

/* ---- life ---- */

CUcontext gb_app_context(CUdevice device) {
  CUcontext context = NULL;
  CUdevice current = 0;
  if (gb_real.cuCtxGetCurrent(&context) == CUDA_SUCCESS && context != NULL &&
      gb_real.cuCtxGetDevice(&current) == CUDA_SUCCESS && current == device)
    return gb_context_get(context, device) != NULL ? context : NULL;
  return gb_context_on(device);
}

/* Ranges beyond the local tiers were admitted for the room there was: as much must be secured for
 * them elsewhere. pre: gb_lock, a context of the device current. */
static bool leaves_room(CUdevice device) {
  return !gb_gated_on() || gb_away_grant(gb_local_bytes(device));
}

/* pre: gb_lock, a context of the device current. */
static CUresult cover(struct gb_span *span) {
  CUresult result = gb_chunks_cover(span);
  if (result != CUDA_SUCCESS && gb_slab_drop_empty()) result = gb_chunks_cover(span);
  if (result != CUDA_SUCCESS || leaves_room(span->device)) return result;
  gb_chunks_give(span);
  return CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult gb_app_create(const CUmemAllocationProp *properties, uint64_t bytes,
                       struct gb_span **out) {
  CUdevice device = properties->location.id;
  if (!gb_core_active() || gb_arena_device_index(device) < 0) return CUDA_ERROR_NOT_SUPPORTED;
  if (gb_sticky_error() != CUDA_SUCCESS) return gb_sticky_error();
  CUstreamCaptureMode mode = gb_capture_relax();
  pthread_mutex_lock(&gb_lock);
  CUresult result = CUDA_ERROR_NOT_SUPPORTED;
  CUcontext context = gb_app_context(device);
  if (context != NULL && gb_context_push(context) == CUDA_SUCCESS) {
    struct gb_span *span = gb_span_new(device, context, bytes);
    result = span == NULL ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
    if (span != NULL) {
      span->app = true;
      span->still = true;
      span->handle_types = (uint32_t)properties->requestedHandleTypes;
      gb_pool_relieve();
      result = cover(span);
      if (result != CUDA_SUCCESS) gb_span_discard(span);
    }
    if (result == CUDA_SUCCESS) *out = span;
    gb_stage_update();
    gb_context_pop();
  }
  pthread_mutex_unlock(&gb_lock);
  gb_capture_restore(mode);
  if (result == CUDA_SUCCESS) {
    gb_report_add(GB_COUNT_ALLOCATIONS, 1);
    gb_report_add(GB_COUNT_ALLOCATED_BYTES, bytes);
  }
  return result;
}

void gb_app_destroy(struct gb_span *span) {
  CUstreamCaptureMode mode = gb_capture_relax();
  uint64_t bytes = span->bytes;
  pthread_mutex_lock(&gb_lock);
  CUdevice device = span->device;
  CUcontext context = gb_app_context(device);
  bool pushed = context != NULL && gb_context_push(context) == CUDA_SUCCESS;
  gb_chunks_give(span);
  gb_span_discard(span);
  if (gb_gated_on() && pushed) gb_away_shrink(gb_local_bytes(device));
  gb_pool_relieve();
  gb_stage_update();
  if (pushed) gb_context_pop();
  pthread_mutex_unlock(&gb_lock);
  gb_capture_restore(mode);
  gb_report_add(GB_COUNT_ALLOCATIONS, -1ull);
  gb_report_add(GB_COUNT_ALLOCATED_BYTES, -bytes);
}

void gb_app_contexts_changed(void) {
  for (struct gb_span *span = gb_span_next(NULL); span != NULL; span = gb_span_next(span)) {
    if (!span->app) continue;
    pthread_rwlock_wrlock(&gb_index_lock);
    span->context = gb_context_on(span->device);
    pthread_rwlock_unlock(&gb_index_lock);
  }
}

/* ---- mapping ---- */

void gb_app_set_still(struct gb_span *span, bool still) {
  pthread_mutex_lock(&gb_stage_lock);
  span->still = still;
  pthread_mutex_unlock(&gb_stage_lock);
}

CUresult gb_app_map(struct gb_span *span, uint64_t address) {
  if (gb_sticky_error() != CUDA_SUCCESS) return gb_sticky_error();
  CUstreamCaptureMode mode = gb_capture_relax();
  pthread_mutex_lock(&gb_lock);
  struct gb_area *area = gb_area_at(address);
  CUresult result = span->chunk_count == 0 ? cover(span) : CUDA_SUCCESS;
  for (int i = 0; i < GB_DEVICES_MAX; i++) span->access[i] = ACCESS_UNSET;
  span->base = address;
  span->context = gb_app_context(span->device);
  if (result == CUDA_SUCCESS) result = gb_chunks_place(span);
  if (result == CUDA_SUCCESS && !gb_span_enter(span, area, address)) {
    gb_chunks_unmap(span);
    result = CUDA_ERROR_OUT_OF_MEMORY;
  }
  if (result == CUDA_SUCCESS) span->filled = true;
  pthread_mutex_unlock(&gb_lock);
  gb_capture_restore(mode);
  return result;
}

CUresult gb_app_unmap(struct gb_span *span) {
  CUstreamCaptureMode mode = gb_capture_relax();
  pthread_mutex_lock(&gb_lock);
  gb_stage_release(span);
  CUresult result = gb_chunks_unmap(span);
  if (result == CUDA_SUCCESS) {
    pthread_mutex_lock(&gb_stage_lock);
    span->still = true;
    for (uint32_t i = 0; i < span->chunk_count; i++) gb_stage_forget(span, &span->chunks[i]);
    pthread_mutex_unlock(&gb_stage_lock);
    gb_span_leave(span);
    gb_stage_update();
  }
  pthread_mutex_unlock(&gb_lock);
  gb_capture_restore(mode);
  return result;
}

/* ---- access ---- */

bool gb_app_is_granted(const struct gb_span *span) {
  for (int i = 0; i < gb_arena_device_count(); i++) {
    bool owner = gb_arena_device(i) == span->device;
    bool all = span->access[i] == CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    if (!all && (owner || span->access[i] != ACCESS_UNSET)) return false;
  }
  return true;
}

CUresult gb_app_grant(const struct gb_span *span) {
  CUmemAccessDesc list[GB_DEVICES_MAX];
  size_t count = gb_access_list(span->device, list);
  for (size_t i = 0; i < count; i++) {
    uint8_t access = span->access[gb_arena_device_index(list[i].location.id)];
    list[i].flags = (CUmemAccess_flags)(access & CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
  }
  return gb_real.cuMemSetAccess(span->base, span->bytes, list, count);
}

static void note_access(struct gb_span *span, const CUmemAccessDesc *list, size_t count) {
  pthread_rwlock_wrlock(&gb_index_lock);
  for (size_t i = 0; i < count; i++) {
    int index = gb_arena_device_index(list[i].location.id);
    if (index < 0) continue;
    span->access[index] = list[i].flags == CU_MEM_ACCESS_FLAGS_PROT_NONE
                              ? (uint8_t)ACCESS_WITHDRAWN
                              : (uint8_t)list[i].flags;
  }
  pthread_rwlock_unlock(&gb_index_lock);
  gb_app_set_still(span, span->fixed || !gb_app_is_granted(span));
}

/* The next span of application memory at or after the address, or NULL. pre: gb_lock. */
static struct gb_span *next_span(uint64_t *at, uint64_t end) {
  while (*at < end) {
    struct gb_span *span = gb_span_at(*at);
    *at = span != NULL ? span->base + span->bytes : *at + GB_GRANULE;
    if (span != NULL) return span;
  }
  return NULL;
}

static bool devices_only(const CUmemAccessDesc *list, size_t count) {
  for (size_t i = 0; list != NULL && i < count; i++) {
    if (list[i].location.type != CU_MEM_LOCATION_TYPE_DEVICE) return false;
  }
  return true;
}

/* The driver is asked first, for exactly what the program wants: its answer is the answer. VRAM is
 * never the host's, so chunks in host memory are not either. */
CUresult gb_app_access(uint64_t address, uint64_t bytes, const CUmemAccessDesc *list,
                       size_t count) {
  struct gb_span *span = NULL;
  uint64_t end = address + bytes;
  uint64_t at = address;
  CUresult result = CUDA_SUCCESS;
  pthread_mutex_lock(&gb_lock);
  while ((span = next_span(&at, end)) != NULL) {
    gb_stage_release(span);
    if (!devices_only(list, count)) result = CUDA_ERROR_NOT_SUPPORTED;
  }
  if (result == CUDA_SUCCESS) result = gb_real.cuMemSetAccess(address, bytes, list, count);
  at = address;
  while (result == CUDA_SUCCESS && (span = next_span(&at, end)) != NULL)
    note_access(span, list, count);
  pthread_mutex_unlock(&gb_lock);
  return result;
}

bool gb_app_access_of(uint64_t address, const CUmemLocation *location,
                      unsigned long long *flags) {
  pthread_rwlock_rdlock(&gb_index_lock);
  const struct gb_span *span = gb_span_at(address);
  bool found = span != NULL && span->area != NULL;
  if (found) {
    int index = location->type == CU_MEM_LOCATION_TYPE_DEVICE
                    ? gb_arena_device_index(location->id)
                    : -1;
    *flags = index < 0 ? 0 : span->access[index] & CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  }
  pthread_rwlock_unlock(&gb_index_lock);
  return found;
}
