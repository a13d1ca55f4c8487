/* SPDX-License-Identifier: Apache-2.0 */
/* alloc.c: cuMemAlloc and cuMemFree: which form an allocation takes, and taking it apart again. */
#include <string.h>

#include "appspan.h"
#include "chunk.h"
#include "config.h"
#include "context.h"
#include "dispatch.h"
#include "gated.h"
#include "graph.h"
#include "ipc.h"
#include "lock.h"
#include "pinned.h"
#include "plain.h"
#include "replica.h"
#include "report.h"
#include "slab.h"
#include "stage.h"
#include "tier.h"

/* Frees asked for while a capture is live: nothing may be drained or unmapped then. */
#define DEFERRED_MAX 4096

static CUdeviceptr deferred[DEFERRED_MAX];
static _Atomic uint32_t deferred_count;

/* Live allocations and the bytes asked for; the differences may be negative. */
static void count(uint64_t allocations, uint64_t bytes) {
  gb_report_add(GB_COUNT_ALLOCATIONS, allocations);
  gb_report_add(GB_COUNT_ALLOCATED_BYTES, bytes);
}

/* ---- allocation; pre: gb_lock, context current ---- */

static CUresult take_span(CUcontext context, CUdevice device, uint64_t bytes, uint64_t *address) {
  uint64_t rounded = (bytes + GB_GRANULE - 1) & ~(GB_GRANULE - 1);
  struct gb_span *span = gb_span_create(device, context, rounded, bytes);
  if (span == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
  CUresult result = gb_chunks_cover(span);
  if (result != CUDA_SUCCESS && gb_slab_drop_empty()) result = gb_chunks_cover(span);
  if (result == CUDA_SUCCESS) {
    result = gb_chunks_map(span);
    if (result != CUDA_SUCCESS) gb_chunks_give(span);
  } else if (gb_gated_admit(span)) {
    result = CUDA_SUCCESS;
  }
  if (result != CUDA_SUCCESS) {
    gb_span_release(span);
    return result;
  }
  *address = span->base;
  return CUDA_SUCCESS;
}

/* A slab must be resident: when spans fill every local tier, one of them leaves. gb_lock is given
 * up between tries. */
static CUresult take_small(CUcontext context, CUdevice device, uint64_t bytes, uint64_t *address) {
  uint64_t until = gb_now_ns() + GB_DRAIN_TOTAL_NS;
  uint64_t patience = GB_DRAIN_DEADLINE_NS;
  for (;;) {
    CUresult result = gb_slab_take(context, device, bytes, address);
    if (result != CUDA_ERROR_OUT_OF_MEMORY) return result;
    enum gb_room room = gb_gated_make_room(device, GB_GRANULE, patience);
    if (room == GB_ROOM_NONE || (room == GB_ROOM_AGAIN && gb_now_ns() > until)) return result;
    if (room == GB_ROOM_MADE) continue;
    pthread_mutex_unlock(&gb_lock);
    gb_sleep_ns(patience);
    pthread_mutex_lock(&gb_lock);
    if (patience < GB_DRAIN_DEADLINE_NS_MAX) patience *= 2;
  }
}

static CUresult take(CUcontext context, CUdevice device, uint64_t bytes, uint64_t *address) {
  bool arena = gb_arena_size_bytes != 0 && gb_arena_device_index(device) >= 0;
  CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
  if (arena) {
    result = bytes < GB_SMALL_BYTES_MAX ? take_small(context, device, bytes, address)
                                        : take_span(context, device, bytes, address);
  } else {
    result = gb_plain_take(GB_TIER_T1, context, device, bytes, address);
  }
  if (result == CUDA_ERROR_OUT_OF_MEMORY && (!arena || gb_host_numa_node() < 0)) {
    result = gb_plain_take(GB_TIER_T2, context, device, bytes, address);
  }
  return result;
}

static void free_deferred(void);

CUresult gb_alloc(CUdeviceptr *pointer, size_t bytes) {
  CUcontext context = NULL;
  CUdevice device = 0;
  uint64_t address = 0;
  if (pointer == NULL || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  if (gb_sticky_error() != CUDA_SUCCESS) return gb_sticky_error();
  CUresult result = gb_real.cuCtxGetCurrent(&context);
  if (result == CUDA_SUCCESS && context == NULL) result = CUDA_ERROR_INVALID_CONTEXT;
  if (result == CUDA_SUCCESS) result = gb_real.cuCtxGetDevice(&device);
  if (result != CUDA_SUCCESS) return result;
  if (bytes > (1ull << 46)) return CUDA_ERROR_OUT_OF_MEMORY;
  free_deferred();
  CUstreamCaptureMode mode = gb_capture_relax();
  pthread_mutex_lock(&gb_lock);
  gb_context_get(context, device);
  gb_pool_relieve();
  gb_gated_settle(device);
  result = take(context, device, bytes, &address);
  gb_stage_update();
  pthread_mutex_unlock(&gb_lock);
  gb_capture_restore(mode);
  if (result == CUDA_SUCCESS) {
    *pointer = address;
    count(1, bytes);
  }
  gb_log(GB_LOG_DEBUG, "alloc %zu: %d at 0x%llx", bytes, result, (unsigned long long)address);
  return result;
}

CUresult gb_alloc_pitch(CUdeviceptr *pointer, size_t *pitch, size_t width_bytes, size_t height,
                        unsigned element_bytes) {
  const size_t align = GB_SLAB_UNIT; /* the driver's pitch granule */
  bool element = element_bytes == 4 || element_bytes == 8 || element_bytes == 16;
  if (pointer == NULL || pitch == NULL || !element || width_bytes == 0 || height == 0)
    return CUDA_ERROR_INVALID_VALUE;
  size_t row = (width_bytes + align - 1) & ~(align - 1);
  size_t bytes = 0;
  if (row < width_bytes || __builtin_mul_overflow(row, height, &bytes))
    return CUDA_ERROR_INVALID_VALUE;
  CUresult result = gb_alloc(pointer, bytes);
  if (result == CUDA_SUCCESS) *pitch = row;
  return result;
}

/* ---- free ---- */

struct found {
  uint64_t buffer_id;
  uint64_t bytes;
  CUcontext context;
};

/* The allocation that begins at the pointer. pre: gb_lock or gb_index_lock. */
static bool find_base(uint64_t pointer, struct found *found) {
  const struct gb_span *span = gb_span_at(pointer);
  uint64_t base = 0;
  if (span == NULL || span->app) return false;
  *found = (struct found){span->buffer_id, span->request_bytes, span->context};
  if (span->slab == NULL) return span->base == pointer;
  const struct gb_small *small = gb_slab_find(span, pointer, &base);
  if (small != NULL) {
    found->buffer_id = small->buffer_id;
    found->bytes = small->bytes;
  }
  return small != NULL && base == pointer;
}

static bool find(uint64_t pointer, struct found *found) {
  struct gb_plain plain;
  if (gb_plain_read(pointer, &plain)) {
    *found = (struct found){plain.buffer_id, plain.bytes, plain.context};
    return plain.address == pointer;
  }
  pthread_rwlock_rdlock(&gb_index_lock);
  bool is_base = find_base(pointer, found);
  pthread_rwlock_unlock(&gb_index_lock);
  return is_base;
}

/* pre: gb_lock, the span's context current, nothing runs that may touch it. */
static CUresult drop_span(struct gb_span *span) {
  gb_stage_finish();
  if (gb_residency(span) == GB_RESIDENT) {
    CUresult result = gb_chunks_unmap(span);
    if (result != CUDA_SUCCESS) return result;
    gb_chunks_give(span);
  }
  gb_gated_forget(span);
  return CUDA_SUCCESS;
}

static CUresult drop_found(uint64_t pointer, const struct found *found) {
  struct gb_plain plain;
  struct found again;
  if (gb_plain_read(pointer, &plain)) {
    return plain.buffer_id == found->buffer_id ? gb_plain_give(pointer) : CUDA_ERROR_INVALID_VALUE;
  }
  if (!find_base(pointer, &again) || again.buffer_id != found->buffer_id)
    return CUDA_ERROR_INVALID_VALUE;
  struct gb_span *span = gb_span_at(pointer);
  if (span->slab == NULL) return drop_span(span);
  gb_slab_give(span, pointer);
  return CUDA_SUCCESS;
}

static CUresult defer(CUdeviceptr pointer) {
  pthread_mutex_lock(&gb_lock);
  bool kept = deferred_count < DEFERRED_MAX;
  if (kept) deferred[deferred_count++] = pointer;
  pthread_mutex_unlock(&gb_lock);
  return kept ? CUDA_SUCCESS : CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

/* Waits for all work of the current context, as cuMemFree does; nothing of ours is held meanwhile.
 * Not by cuCtxSynchronize where the driver can do without: it ends captures that other threads begin
 * meanwhile. returns: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED when one is live already. */
static CUresult wait_for_context(CUcontext context) {
  CUevent event = NULL;
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
  if (gb_real.cuCtxRecordEvent == NULL || gb_real.cuThreadExchangeStreamCaptureMode == NULL)
    return gb_real.cuCtxSynchronize();
  CUresult result = gb_real.cuEventCreate(&event, CU_EVENT_DISABLE_TIMING);
  if (result != CUDA_SUCCESS) return gb_real.cuCtxSynchronize();
  gb_real.cuThreadExchangeStreamCaptureMode(&mode);
  result = gb_context_record(context, event);
  if (result == CUDA_SUCCESS) result = gb_real.cuEventSynchronize(event);
  gb_real.cuThreadExchangeStreamCaptureMode(&mode);
  gb_real.cuEventDestroy_v2(event);
  return result == CUDA_ERROR_NOT_SUPPORTED ? gb_real.cuCtxSynchronize() : result;
}

CUresult gb_free(CUdeviceptr pointer) {
  struct found found;
  if (gb_sticky_error() != CUDA_SUCCESS) return gb_sticky_error();
  if (!find(pointer, &found)) return CUDA_ERROR_INVALID_VALUE;
  if (gb_live_captures != 0) return defer(pointer);
  gb_dispatch_wait();
  CUresult result = gb_context_push(found.context);
  if (result != CUDA_SUCCESS) return result;
  result = wait_for_context(found.context);
  if (result == CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED) {
    gb_context_pop();
    return defer(pointer);
  }
  if (result == CUDA_SUCCESS) {
    pthread_mutex_lock(&gb_lock);
    result = drop_found(pointer, &found);
    gb_pool_relieve();
    gb_stage_update();
    pthread_mutex_unlock(&gb_lock);
    if (result == CUDA_SUCCESS) count(-1ull, -found.bytes);
  }
  gb_context_pop();
  return result;
}

static void free_deferred(void) {
  if (deferred_count == 0 || gb_live_captures != 0) return;
  for (;;) {
    pthread_mutex_lock(&gb_lock);
    CUdeviceptr pointer = deferred_count > 0 ? deferred[--deferred_count] : 0;
    pthread_mutex_unlock(&gb_lock);
    if (pointer == 0) return;
    gb_free(pointer);
  }
}

/* ---- a context goes with all that is its ---- */

/* Streams of other contexts may still have to pass what they wait for in our memory. */
static void leave_pinned(CUcontext handle) {
  if (!gb_pinned_in(handle)) return;
  uint64_t deadline = gb_now_ns() + GB_DRAIN_DEADLINE_NS_MAX;
  bool idle = false;
  bool closed = gb_gate_close(deadline);
  if (closed) (void)gb_drain(deadline, &idle);
  gb_pinned_context_going(handle);
  if (closed) gb_gate_open();
}

void gb_core_context_going(CUcontext handle) {
  if (!gb_core_active() || !gb_context_is_known(handle)) return;
  if (gb_context_push(handle) != CUDA_SUCCESS) return;
  gb_dispatch_wait();
  gb_real.cuCtxSynchronize(); /* a broken context says so here; its memory goes all the same */
  gb_graph_context_going(handle);
  gb_ipc_context_going(handle);
  uint64_t allocations = 0;
  uint64_t bytes = 0;
  pthread_mutex_lock(&gb_lock);
  gb_stage_finish();
  struct gb_span *next = NULL;
  for (struct gb_span *span = gb_span_next(NULL); span != NULL; span = next) {
    next = gb_span_next(span);
    if (span->context != handle || span->going || span->app) continue;
    if (span->slab == NULL) {
      allocations++;
      bytes += span->request_bytes;
    } else {
      gb_slab_sum(span, &allocations, &bytes);
      gb_slab_forget(span);
    }
    drop_span(span);
  }
  gb_stage_context_going(handle);
  leave_pinned(handle);
  gb_stage_update();
  gb_plain_context_going(handle, &allocations, &bytes);
  gb_replica_context_going(handle);
  gb_context_forget(handle);
  gb_app_contexts_changed();
  pthread_mutex_unlock(&gb_lock);
  count(-allocations, -bytes);
  gb_context_pop();
}
