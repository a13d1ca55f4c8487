/* SPDX-License-Identifier: Apache-2.0 */
/*
 * appspan_fix.c: application memory that others will reach physically becomes one handle, as the
 * program asked for it, which never moves again.
 *
 *   one chunk in VRAM, made as asked -> stays
 *   else: one new handle -> (mapped: every call passes the gate, gate closed, drained) -> content
 *   copied -> mapped in place of the old chunks -> those given back
 */
#include <stdatomic.h>
#include <stdlib.h>

#include "appspan.h"
#include "chunk.h"
#include "context.h"
#include "frame.h"
#include "gate.h"
#include "gated.h"
#include "lock.h"
#include "refuse.h"
#include "stage.h"
#include "tier.h"

#define COPY_LIMIT_NS (60ull * 1000000000)

static _Atomic bool fixing; /* chunks of a mapped span are about to be replaced */

void gb_app_settle_for_capture(void) {
  if (!fixing) return;
  pthread_mutex_lock(&gb_lock);
  pthread_mutex_unlock(&gb_lock);
}

/* ---- the new handle ---- */

/* VRAM first; what staging keeps free, and what it can take away, gives way. pre: gb_lock, a context
 * of the device current. */
static bool make_in_vram(const struct gb_span *span, struct gb_chunk *chunk) {
  CUdevice device = span->device;
  uint64_t bytes = span->bytes;
  if (gb_t1_room(device) < bytes) gb_pool_drop(GB_TIER_T1);
  uint64_t room = gb_t1_room(device);
  if (room < bytes && gb_frames_drop(device, bytes - room) < bytes - room) {
    room = gb_t1_room(device);
    gb_stage_vacate(device, bytes - room);
    gb_frames_drop(device, bytes - room);
  }
  *chunk = (struct gb_chunk){.bytes = bytes, .tier = GB_TIER_T1, .own = true};
  return gb_t1_room(device) >= bytes &&
         gb_handle_create_as(GB_TIER_T1, device, span->handle_types, bytes, &chunk->handle) ==
             CUDA_SUCCESS;
}

/* Counted as used. */
static CUresult make(const struct gb_span *span, struct gb_chunk *chunk) {
  if (!make_in_vram(span, chunk)) {
    *chunk = (struct gb_chunk){.bytes = span->bytes, .tier = GB_TIER_T2, .own = true};
    if (gb_host_numa_node() < 0 || !gb_t2_acquire(span->bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
    if (gb_handle_create_as(GB_TIER_T2, span->device, span->handle_types, span->bytes,
                            &chunk->handle) != CUDA_SUCCESS) {
      gb_t2_return();
      return CUDA_ERROR_OUT_OF_MEMORY;
    }
  }
  gb_tier_add(chunk->tier, span->device, GB_ACCOUNT_USED, (int64_t)chunk->bytes);
  return CUDA_SUCCESS;
}

static void unmake(const struct gb_span *span, const struct gb_chunk *chunk) {
  gb_real.cuMemRelease(chunk->handle);
  gb_tier_add(chunk->tier, span->device, GB_ACCOUNT_USED, -(int64_t)chunk->bytes);
  if (chunk->tier == GB_TIER_T2) gb_t2_return();
}

/* ---- content ---- */

/* Copies one chunk to its place in the new handle. */
static CUresult copy_chunk(const struct gb_span *span, const struct gb_chunk *chunk, uint64_t to,
                           CUstream stream) {
  uint64_t from = chunk->alias;
  if (from == 0 && !gb_alias_map(span->device, chunk->handle, chunk->bytes, &from))
    return CUDA_ERROR_OUT_OF_MEMORY;
  CUresult result =
      gb_real.cuMemcpyDtoDAsync_v2(to + chunk->offset, from, chunk->bytes, stream);
  if (result == CUDA_SUCCESS) result = gb_stream_wait(stream, COPY_LIMIT_NS);
  if (chunk->alias == 0) gb_alias_unmap(from, chunk->bytes);
  return result;
}

/* pre: gb_lock, the context current, nothing touches the content. */
static CUresult copy_content(const struct gb_span *span, const struct gb_chunk *made,
                             CUcontext context) {
  uint64_t alias = 0;
  CUstream stream = gb_context_stream(gb_context_get(context, span->device));
  if (stream == NULL || !gb_alias_map(span->device, made->handle, made->bytes, &alias))
    return CUDA_ERROR_OUT_OF_MEMORY;
  CUresult result = CUDA_SUCCESS;
  for (uint32_t i = 0; i < span->chunk_count && result == CUDA_SUCCESS; i++)
    result = copy_chunk(span, &span->chunks[i], alias, stream);
  gb_alias_unmap(alias, made->bytes);
  return result;
}

/* ---- in place of the old chunks ---- */

/* pre: gb_lock. */
static void set_fixed(struct gb_span *span) {
  pthread_mutex_lock(&gb_stage_lock);
  span->fixed = true;
  pthread_mutex_unlock(&gb_stage_lock);
}

/* pre: gb_lock, the span is not mapped. */
static bool install(struct gb_span *span, const struct gb_chunk *made) {
  struct gb_chunk *chunks = malloc(sizeof *chunks);
  if (chunks == NULL) return false;
  gb_chunks_give(span);
  *chunks = *made;
  pthread_mutex_lock(&gb_stage_lock);
  span->chunks = chunks;
  span->chunk_count = 1;
  pthread_mutex_unlock(&gb_stage_lock);
  set_fixed(span);
  return true;
}

/* pre: gb_lock, gate closed, drained. returns: an error: the old chunks are mapped as before. */
static CUresult remap(struct gb_span *span, const struct gb_chunk *made) {
  CUresult result = gb_chunks_replace(span, made);
  if (result == CUDA_SUCCESS) set_fixed(span);
  if (gb_app_is_granted(span)) return result;
  CUresult granted = gb_app_grant(span); /* less than what all chunks are mapped with */
  return result == CUDA_SUCCESS ? granted : result;
}

/* One try with the gate closed. pre: gb_lock. *again: the GPU was not idle in time. */
static CUresult try_mapped(struct gb_span *span, const struct gb_chunk *made, CUcontext context,
                           uint64_t patience_ns, bool *again) {
  bool idle = false;
  uint64_t deadline = gb_now_ns() + patience_ns;
  *again = true;
  gb_stage_finish();
  if (!gb_gate_close(deadline)) return CUDA_ERROR_NOT_READY;
  CUresult result = gb_drain(deadline, &idle);
  if (result == CUDA_SUCCESS && !idle) result = CUDA_ERROR_NOT_READY;
  if (result != CUDA_ERROR_NOT_READY) *again = false;
  if (result == CUDA_SUCCESS && gb_live_captures != 0)
    result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  if (result == CUDA_SUCCESS) result = copy_content(span, made, context);
  if (result == CUDA_SUCCESS) result = remap(span, made);
  gb_gate_open();
  return result;
}

/* pre: gb_lock; given up between tries. */
static CUresult replace_mapped(struct gb_span *span, const struct gb_chunk *made,
                               CUcontext context) {
  uint64_t until = gb_now_ns() + GB_DRAIN_TOTAL_NS;
  uint64_t patience = GB_DRAIN_DEADLINE_NS;
  bool again = true;
  CUresult result = CUDA_ERROR_NOT_READY;
  fixing = true;
  gb_slow_raise(GB_SLOW_FIXING);
  while (again && gb_now_ns() < until) {
    result = gb_live_captures != 0 ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
                                   : try_mapped(span, made, context, patience, &again);
    if (result == CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED || !again) break;
    pthread_mutex_unlock(&gb_lock);
    gb_sleep_ns(patience);
    pthread_mutex_lock(&gb_lock);
    if (patience < GB_DRAIN_DEADLINE_NS_MAX) patience *= 2;
  }
  gb_slow_lower(GB_SLOW_FIXING);
  fixing = false;
  return result;
}

/* What nobody has mapped yet has no content, and needs no room for two. pre: gb_lock, the context
 * current. */
static CUresult replace_empty(struct gb_span *span) {
  struct gb_chunk made;
  gb_chunks_give(span);
  CUresult result = make(span, &made);
  if (result == CUDA_SUCCESS && install(span, &made)) return CUDA_SUCCESS;
  if (result == CUDA_SUCCESS) unmake(span, &made);
  gb_chunks_cover(span); /* if even that fails, mapping it will say so */
  return CUDA_ERROR_OUT_OF_MEMORY;
}

/* pre: gb_lock, the context current. */
static CUresult replace(struct gb_span *span, CUcontext context) {
  struct gb_chunk made;
  if (!span->filled) return replace_empty(span);
  CUresult result = make(span, &made);
  if (result != CUDA_SUCCESS) return result;
  if (span->area != NULL) {
    result = replace_mapped(span, &made, context);
  } else {
    result = copy_content(span, &made, context);
    if (result == CUDA_SUCCESS && !install(span, &made)) result = CUDA_ERROR_OUT_OF_MEMORY;
  }
  if (result != CUDA_SUCCESS) unmake(span, &made);
  return result;
}

/* ---- the whole ---- */

static bool is_as_asked(const struct gb_span *span) {
  return span->chunk_count == 1 && span->chunks[0].tier == GB_TIER_T1 &&
         (span->handle_types == 0 || span->chunks[0].own);
}

/* pre: gb_lock. */
static CUresult fix(struct gb_span *span) {
  CUcontext context = gb_app_context(span->device);
  if (span->fixed) return CUDA_SUCCESS;
  gb_app_set_still(span, true);
  gb_stage_release(span);
  if (is_as_asked(span)) {
    pthread_mutex_lock(&gb_stage_lock);
    gb_stage_forget(span, &span->chunks[0]); /* its home is of no use any more */
    pthread_mutex_unlock(&gb_stage_lock);
    set_fixed(span);
    return CUDA_SUCCESS;
  }
  CUresult result = CUDA_ERROR_INVALID_CONTEXT;
  if (context != NULL && gb_context_push(context) == CUDA_SUCCESS) {
    result = replace(span, context);
    gb_context_pop();
  }
  if (!span->fixed) gb_app_set_still(span, span->area == NULL || !gb_app_is_granted(span));
  return result;
}

CUresult gb_app_fix(struct gb_span *span) {
  CUstreamCaptureMode mode = gb_capture_relax();
  pthread_mutex_lock(&gb_lock);
  CUresult result = fix(span);
  gb_stage_update();
  pthread_mutex_unlock(&gb_lock);
  gb_capture_restore(mode);
  if (result == CUDA_SUCCESS) return result;
  return GB_REFUSE(result, "app_memory_moves",
                   "%llu bytes of cuMemCreate were to be shared or mapped again and could not be "
                   "kept in one place: raise --vram, or share them while the GPU is idle",
                   (unsigned long long)span->bytes);
}
