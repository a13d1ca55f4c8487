/* SPDX-License-Identifier: Apache-2.0 */
/* context.c: contexts and streams of the program, and drains. */
#include "context.h"

#include <stdlib.h>
#include <string.h>

#include "appspan.h"
#include "lock.h"
#include "stage.h"

#define POLL_NS_MIN 2000ull
#define POLL_NS_MAX 200000ull

static struct gb_context contexts[GB_CONTEXTS_MAX];
static uint32_t context_count;

CUresult gb_context_push(CUcontext context) {
  return gb_real.cuCtxPushCurrent_v2(context);
}

void gb_context_pop(void) {
  CUcontext popped = NULL;
  gb_real.cuCtxPopCurrent_v2(&popped);
}

static struct gb_context *find(CUcontext handle) {
  for (uint32_t i = 0; i < context_count; i++) {
    if (contexts[i].handle == handle) return &contexts[i];
  }
  return NULL;
}

struct gb_context *gb_context_get(CUcontext handle, CUdevice device) {
  struct gb_context *context = find(handle);
  if (context != NULL || handle == NULL || context_count == GB_CONTEXTS_MAX) return context;
  context = &contexts[context_count++];
  *context = (struct gb_context){.handle = handle, .device = device};
  return context;
}

bool gb_context_is_known(CUcontext handle) {
  pthread_mutex_lock(&gb_lock);
  bool known = find(handle) != NULL;
  pthread_mutex_unlock(&gb_lock);
  return known;
}

CUstreamCaptureMode gb_capture_relax(void) {
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
  if (gb_live_captures != 0 && gb_real.cuThreadExchangeStreamCaptureMode != NULL)
    gb_real.cuThreadExchangeStreamCaptureMode(&mode);
  return mode;
}

void gb_capture_restore(CUstreamCaptureMode mode) {
  if (mode != CU_STREAM_CAPTURE_MODE_RELAXED) gb_real.cuThreadExchangeStreamCaptureMode(&mode);
}

CUcontext gb_context_on(CUdevice device) {
  for (uint32_t i = 0; i < context_count; i++) {
    if (contexts[i].device == device) return contexts[i].handle;
  }
  return NULL;
}

CUstream gb_context_stream(struct gb_context *context) {
  if (context->stream == NULL) gb_real.cuStreamCreate(&context->stream, CU_STREAM_NON_BLOCKING);
  return context->stream;
}

void gb_core_context_created(CUcontext handle, CUdevice device) {
  if (!gb_core_active()) return;
  pthread_mutex_lock(&gb_lock);
  if (gb_context_get(handle, device) == NULL)
    gb_log(GB_LOG_ERROR, "more than %d contexts", GB_CONTEXTS_MAX);
  gb_app_contexts_changed();
  pthread_mutex_unlock(&gb_lock);
}

void gb_context_forget(CUcontext handle) {
  struct gb_context *context = find(handle);
  if (context == NULL) return;
  if (context->stream != NULL) gb_real.cuStreamDestroy_v2(context->stream);
  if (context->event != NULL) gb_real.cuEventDestroy_v2(context->event);
  if (context->mark != NULL) gb_real.cuEventDestroy_v2(context->mark);
  for (uint32_t i = 0; i < context->stream_count; i++) {
    if (context->streams[i].event != NULL) gb_real.cuEventDestroy_v2(context->streams[i].event);
  }
  free(context->streams);
  *context = contexts[--context_count];
}

/* ---- streams of the program ---- */

static struct gb_context *current(void) {
  CUcontext handle = NULL;
  CUdevice device = 0;
  if (gb_real.cuCtxGetCurrent(&handle) != CUDA_SUCCESS || handle == NULL) return NULL;
  if (gb_real.cuCtxGetDevice(&device) != CUDA_SUCCESS) return NULL;
  return gb_context_get(handle, device);
}

void gb_core_stream_created(CUstream stream, bool blocking) {
  if (!gb_core_active()) return;
  pthread_mutex_lock(&gb_lock);
  struct gb_context *context = current();
  if (context != NULL && context->stream_count == context->stream_capacity &&
      context->stream_capacity < GB_STREAMS_MAX) {
    uint32_t capacity = context->stream_capacity == 0 ? 16 : 2 * context->stream_capacity;
    struct gb_app_stream *grown = realloc(context->streams, capacity * sizeof *grown);
    if (grown != NULL) {
      context->streams = grown;
      context->stream_capacity = capacity;
    }
  }
  if (context != NULL && context->stream_count < context->stream_capacity) {
    context->streams[context->stream_count++] =
        (struct gb_app_stream){.handle = stream, .blocking = blocking};
  }
  pthread_mutex_unlock(&gb_lock);
}

void gb_core_stream_going(CUstream stream) {
  if (!gb_core_active()) return;
  gb_stage_stream_going(stream);
  pthread_mutex_lock(&gb_lock);
  for (uint32_t c = 0; c < context_count; c++) {
    for (uint32_t i = 0; i < contexts[c].stream_count; i++) {
      struct gb_app_stream *known = &contexts[c].streams[i];
      if (known->handle != stream) continue;
      if (known->event != NULL) gb_real.cuEventDestroy_v2(known->event);
      *known = contexts[c].streams[--contexts[c].stream_count];
      break;
    }
  }
  pthread_mutex_unlock(&gb_lock);
}

/* ---- the drain ---- */

static CUresult record(CUevent *event, CUstream stream) {
  CUresult result = CUDA_SUCCESS;
  if (*event == NULL) result = gb_real.cuEventCreate(event, CU_EVENT_DISABLE_TIMING);
  return result == CUDA_SUCCESS ? gb_real.cuEventRecord(*event, stream) : result;
}

CUresult gb_context_record(CUcontext context, CUevent event) {
  if (gb_real.cuCtxRecordEvent == NULL) return CUDA_ERROR_NOT_SUPPORTED;
  pthread_mutex_lock(&gb_capture_lock);
  CUresult result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  if (gb_live_captures == 0) result = gb_real.cuCtxRecordEvent(context, event);
  pthread_mutex_unlock(&gb_capture_lock);
  return result;
}

/* Marks all work of the current context. cuCtxRecordEvent (12.5) does it without touching a stream.
 * Older drivers: an event on the legacy stream follows every blocking stream (per-thread default
 * streams too), and each other stream gets its own. That places a barrier between the blocking
 * streams, which is why the deadline matters. */
static CUresult mark(struct gb_context *context) {
  if (gb_real.cuCtxRecordEvent != NULL) {
    CUresult result = CUDA_SUCCESS;
    if (context->event == NULL)
      result = gb_real.cuEventCreate(&context->event, CU_EVENT_DISABLE_TIMING);
    if (result == CUDA_SUCCESS) result = gb_context_record(context->handle, context->event);
    if (result != CUDA_ERROR_NOT_SUPPORTED) return result;
  }
  CUresult result = record(&context->event, CU_STREAM_LEGACY);
  for (uint32_t i = 0; i < context->stream_count && result == CUDA_SUCCESS; i++) {
    struct gb_app_stream *stream = &context->streams[i];
    if (!stream->blocking) result = record(&stream->event, stream->handle);
  }
  return result;
}

static CUresult mark_context(struct gb_context *context) {
  CUresult result = gb_context_push(context->handle);
  if (result != CUDA_SUCCESS) return result;
  if (context->mark == NULL)
    result = gb_real.cuEventCreate(&context->mark, CU_EVENT_DISABLE_TIMING);
  if (result == CUDA_SUCCESS) result = gb_real.cuCtxRecordEvent(context->handle, context->mark);
  gb_context_pop();
  return result;
}

CUresult gb_contexts_mark(CUevent *marks, uint32_t *count) {
  *count = 0;
  for (uint32_t i = 0; i < context_count; i++) {
    CUresult result = mark_context(&contexts[i]);
    if (result != CUDA_SUCCESS) return result;
    marks[(*count)++] = contexts[i].mark;
  }
  return CUDA_SUCCESS;
}

static CUresult poll_event(CUevent event, uint64_t deadline_ns, bool *idle) {
  uint64_t pause = POLL_NS_MIN;
  for (;;) {
    CUresult result = gb_real.cuEventQuery(event);
    if (result != CUDA_ERROR_NOT_READY) return result;
    if (gb_now_ns() >= deadline_ns) {
      *idle = false;
      return CUDA_SUCCESS;
    }
    gb_sleep_ns(pause);
    if (pause < POLL_NS_MAX) pause *= 2;
  }
}

static CUresult poll_context(struct gb_context *context, uint64_t deadline_ns, bool *idle) {
  CUresult result = poll_event(context->event, deadline_ns, idle);
  for (uint32_t i = 0; i < context->stream_count && result == CUDA_SUCCESS && *idle; i++) {
    CUevent event = context->streams[i].event;
    if (event != NULL) result = poll_event(event, deadline_ns, idle);
  }
  return result;
}

CUresult gb_drain(uint64_t deadline_ns, bool *idle) {
  *idle = true;
  CUresult result = CUDA_SUCCESS;
  for (uint32_t i = 0; i < context_count && result == CUDA_SUCCESS && *idle; i++) {
    result = gb_context_push(contexts[i].handle);
    if (result != CUDA_SUCCESS) break;
    result = mark(&contexts[i]);
    if (result == CUDA_SUCCESS) result = poll_context(&contexts[i], deadline_ns, idle);
    gb_context_pop();
    if (result == CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED) {
      *idle = false;
      result = CUDA_SUCCESS;
    }
  }
  return result;
}

CUresult gb_stream_wait(CUstream stream, uint64_t limit_ns) {
  uint64_t until = gb_now_ns() + limit_ns;
  uint64_t pause = POLL_NS_MIN;
  for (;;) {
    CUresult result = gb_real.cuStreamQuery(stream);
    if (result != CUDA_ERROR_NOT_READY || gb_now_ns() >= until) return result;
    gb_sleep_ns(pause);
    if (pause < POLL_NS_MAX) pause *= 2;
  }
}
