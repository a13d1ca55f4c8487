/* SPDX-License-Identifier: Apache-2.0 */
/* event.c: the stream and event entry points. */
#include "sim.h"

static struct sim_event *event_of(CUevent handle) {
  if (sim_handle_is(SIM_EVENT, handle)) return (struct sim_event *)handle;
  sim_strict(CUDA_ERROR_INVALID_HANDLE, "event %p is not alive", (void *)handle);
  return NULL;
}

/* ---- streams ---- */

CUresult cuStreamCreateWithPriority(CUstream *stream, unsigned flags, int priority) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  if (stream == NULL || flags > CU_STREAM_NON_BLOCKING) return CUDA_ERROR_INVALID_VALUE;
  pthread_mutex_lock(&sim_lock);
  *stream = (CUstream)sim_stream_create(sim_current(), flags,
                                        priority > 0    ? 0
                                        : priority < -5 ? -5
                                                        : priority);
  pthread_mutex_unlock(&sim_lock);
  return *stream == NULL ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
}

CUresult cuStreamCreate(CUstream *stream, unsigned flags) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  if (stream == NULL || flags > CU_STREAM_NON_BLOCKING) return CUDA_ERROR_INVALID_VALUE;
  pthread_mutex_lock(&sim_lock);
  *stream = (CUstream)sim_stream_create(sim_current(), flags, 0);
  pthread_mutex_unlock(&sim_lock);
  return *stream == NULL ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
}

CUresult cuStreamDestroy_v2(CUstream stream) {
  SIM_ENTER(SIM_NEED_INIT);
  CUresult result = CUDA_SUCCESS;
  pthread_mutex_lock(&sim_lock);
  if (!sim_handle_is(SIM_STREAM, stream))
    result = sim_strict(CUDA_ERROR_INVALID_HANDLE, "destroy of stream %p", (void *)stream);
  else if (((struct sim_stream *)stream)->capture != NULL)
    result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  else sim_stream_close((struct sim_stream *)stream);
  pthread_mutex_unlock(&sim_lock);
  return result;
}

CUresult cuStreamDestroy(CUstream stream) { return cuStreamDestroy_v2(stream); }

/* locks: held. A live capture on the stream forbids asking about it; one in global mode forbids
 * asking about any. */
static CUresult stream_settled(struct sim_stream *stream) {
  if (stream == NULL) return CUDA_ERROR_INVALID_HANDLE;
  if (stream->capture == NULL) return sim_capture_guard();
  stream->capture->invalid = true;
  return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

static CUresult synchronize(CUstream handle, CUstream fallback) {
  pthread_mutex_lock(&sim_lock);
  struct sim_stream *stream = SIM_S(handle);
  CUresult result = stream_settled(stream);
  if (result == CUDA_SUCCESS && stream->legacy) { /* it also waits for what it would wait for */
    for (struct sim_stream *other = stream->context->streams; other != NULL; other = other->next)
      if (other->capture != NULL && !(other->flags & CU_STREAM_NON_BLOCKING))
        result = CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
    if (result == CUDA_SUCCESS) result = sim_submit(stream, sim_op_new(SIM_OP_EMPTY), NULL);
  }
  if (result == CUDA_SUCCESS) result = sim_stream_wait(stream, stream->submitted);
  pthread_mutex_unlock(&sim_lock);
  return result;
}

CUresult cuStreamSynchronize(CUstream stream) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  return synchronize(stream, CU_STREAM_LEGACY);
}
CUresult cuStreamSynchronize_ptsz(CUstream stream) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  return synchronize(stream, CU_STREAM_PER_THREAD);
}

static CUresult query(CUstream handle, CUstream fallback) {
  pthread_mutex_lock(&sim_lock);
  struct sim_stream *stream = SIM_S(handle);
  CUresult result = stream_settled(stream);
  if (result == CUDA_SUCCESS && stream->completed < stream->submitted)
    result = CUDA_ERROR_NOT_READY;
  for (struct sim_stream *other =
           result == CUDA_SUCCESS && stream->legacy ? stream->context->streams : NULL;
       other != NULL; other = other->next)
    if (!(other->flags & CU_STREAM_NON_BLOCKING) && other->completed < other->submitted)
      result = CUDA_ERROR_NOT_READY;
  pthread_mutex_unlock(&sim_lock);
  return result;
}

CUresult cuStreamQuery(CUstream stream) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  return query(stream, CU_STREAM_LEGACY);
}
CUresult cuStreamQuery_ptsz(CUstream stream) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  return query(stream, CU_STREAM_PER_THREAD);
}

/* One property of a stream; the four entry points differ in which. */
enum property { STREAM_FLAGS, STREAM_PRIORITY, STREAM_ID, STREAM_CONTEXT, STREAM_DEVICE };

static CUresult property(CUstream handle, CUstream fallback, enum property what, void *value) {
  if (value == NULL) return CUDA_ERROR_INVALID_VALUE;
  pthread_mutex_lock(&sim_lock);
  struct sim_stream *stream = SIM_S(handle);
  if (stream != NULL) {
    switch (what) {
      case STREAM_FLAGS: *(unsigned *)value = stream->flags; break;
      case STREAM_PRIORITY: *(int *)value = stream->priority; break;
      case STREAM_ID: *(unsigned long long *)value = stream->id; break;
      case STREAM_CONTEXT: *(CUcontext *)value = (CUcontext)stream->context; break;
      case STREAM_DEVICE: *(CUdevice *)value = stream->context->device; break;
    }
  }
  pthread_mutex_unlock(&sim_lock);
  return stream == NULL ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS;
}

#define PROPERTY(name, type, what)                              \
  CUresult name(CUstream stream, type *value) {                 \
    SIM_ENTER(SIM_NEED_CONTEXT);                                \
    return property(stream, CU_STREAM_LEGACY, what, value);     \
  }                                                             \
  CUresult name##_ptsz(CUstream stream, type *value) {          \
    SIM_ENTER(SIM_NEED_CONTEXT);                                \
    return property(stream, CU_STREAM_PER_THREAD, what, value); \
  }
PROPERTY(cuStreamGetFlags, unsigned, STREAM_FLAGS)
PROPERTY(cuStreamGetPriority, int, STREAM_PRIORITY)
PROPERTY(cuStreamGetId, unsigned long long, STREAM_ID)
PROPERTY(cuStreamGetCtx, CUcontext, STREAM_CONTEXT)
PROPERTY(cuStreamGetDevice, CUdevice, STREAM_DEVICE)

/* ---- events ---- */

CUresult cuEventCreate(CUevent *event, unsigned flags) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  if (event == NULL) return CUDA_ERROR_INVALID_VALUE;
  struct sim_event *made = calloc(1, sizeof *made);
  if (made == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
  made->context = sim_current();
  made->flags = flags;
  made->refs = 1;
  sim_handle_add(SIM_EVENT, made);
  *event = (CUevent)made;
  return CUDA_SUCCESS;
}

CUresult cuEventDestroy_v2(CUevent event) {
  SIM_ENTER(SIM_NEED_INIT);
  CUresult result = CUDA_SUCCESS;
  pthread_mutex_lock(&sim_lock);
  if (!sim_handle_is(SIM_EVENT, event)) {
    result = sim_strict(CUDA_ERROR_INVALID_HANDLE, "destroy of event %p", (void *)event);
  } else {
    struct sim_event *dying = (struct sim_event *)event;
    sim_handle_remove(dying);
    if (--dying->refs == 0) free(dying);
  }
  pthread_mutex_unlock(&sim_lock);
  return result;
}

CUresult cuEventDestroy(CUevent event) { return cuEventDestroy_v2(event); }

static CUresult record(CUevent handle, CUstream on, CUstream fallback) {
  pthread_mutex_lock(&sim_lock);
  struct sim_event *event = event_of(handle);
  struct sim_stream *stream = SIM_S(on);
  CUresult result = event == NULL || stream == NULL ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS;
  if (result == CUDA_SUCCESS && event->context != stream->context)
    result = sim_strict(CUDA_ERROR_INVALID_HANDLE, "event and stream belong to different contexts");
  if (result == CUDA_SUCCESS &&
      stream->capture != NULL) { /* marks a place in the graph, records nothing */
    event->capture = stream->capture;
    event->capture_id = stream->capture->id;
    event->node_count = stream->tail_count;
    memcpy(event->nodes, stream->tail_nodes, sizeof event->nodes);
  } else if (result == CUDA_SUCCESS) {
    struct sim_op *op = sim_op_new(SIM_OP_RECORD);
    event->capture = NULL;
    event->refs++;
    op->event.event = event;
    op->event.serial = ++event->recorded;
    result = sim_submit(stream, op, NULL);
    if (result != CUDA_SUCCESS) event->recorded--;
  }
  pthread_mutex_unlock(&sim_lock);
  return result;
}

CUresult cuEventRecord(CUevent event, CUstream stream) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  return record(event, stream, CU_STREAM_LEGACY);
}
CUresult cuEventRecord_ptsz(CUevent event, CUstream stream) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  return record(event, stream, CU_STREAM_PER_THREAD);
}
CUresult cuEventRecordWithFlags(CUevent event, CUstream stream, unsigned flags) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  return flags > CU_EVENT_RECORD_EXTERNAL ? CUDA_ERROR_INVALID_VALUE
                                          : record(event, stream, CU_STREAM_LEGACY);
}
CUresult cuEventRecordWithFlags_ptsz(CUevent event, CUstream stream, unsigned flags) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  return flags > CU_EVENT_RECORD_EXTERNAL ? CUDA_ERROR_INVALID_VALUE
                                          : record(event, stream, CU_STREAM_PER_THREAD);
}

/* Behind everything that was submitted to the context so far. Captures of the context forbid it. */
CUresult cuCtxRecordEvent(CUcontext handle, CUevent of) {
  SIM_ENTER(SIM_NEED_INIT);
  pthread_mutex_lock(&sim_lock);
  struct sim_event *event = event_of(of);
  struct sim_context *context = sim_handle_is(SIM_CONTEXT, handle)
                                    ? (struct sim_context *)handle
                                    : NULL;
  CUresult result = event == NULL || context == NULL || !context->alive ||
                            event->context != context
                        ? CUDA_ERROR_INVALID_HANDLE
                        : CUDA_SUCCESS;
  struct sim_stream *stream = result == CUDA_SUCCESS ? context->streams : NULL;
  for (; stream != NULL; stream = stream->next) {
    if (stream->capture == NULL) continue;
    stream->capture->invalid = true;
    result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  }
  if (result == CUDA_SUCCESS && context->marks == NULL)
    context->marks = sim_stream_create(context, CU_STREAM_NON_BLOCKING, 0);
  if (result == CUDA_SUCCESS && context->marks == NULL) result = CUDA_ERROR_OUT_OF_MEMORY;
  if (result == CUDA_SUCCESS) {
    struct sim_op *op = sim_op_new(SIM_OP_RECORD);
    for (stream = context->streams; stream != NULL; stream = stream->next)
      if (stream != context->marks) sim_op_wait_for(op, stream, stream->submitted);
    event->capture = NULL;
    event->refs++;
    op->event.event = event;
    op->event.serial = ++event->recorded;
    result = sim_submit(context->marks, op, NULL);
    if (result != CUDA_SUCCESS) event->recorded--;
  }
  pthread_mutex_unlock(&sim_lock);
  return result;
}

/* A wait on an event of a capture draws the stream into that capture. */
static CUresult capture_join(struct sim_stream *stream, struct sim_event *event) {
  if (stream->capture == NULL) {
    if (stream->legacy) return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
    stream->capture = event->capture;
    stream->capture->streams++;
    stream->tail_count = 0;
  }
  if (stream->capture != event->capture) return CUDA_ERROR_STREAM_CAPTURE_MERGE;
  for (size_t i = 0; i < event->node_count; i++) {
    bool known = false;
    for (size_t j = 0; j < stream->tail_count; j++)
      known |= stream->tail_nodes[j] == event->nodes[i];
    if (!known && stream->tail_count < SIM_TAIL_MAX)
      stream->tail_nodes[stream->tail_count++] = event->nodes[i];
  }
  return CUDA_SUCCESS;
}

static CUresult wait_event(CUstream on, CUstream fallback, CUevent handle) {
  pthread_mutex_lock(&sim_lock);
  struct sim_event *event = event_of(handle);
  struct sim_stream *stream = SIM_S(on);
  CUresult result = event == NULL || stream == NULL ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS;
  if (result == CUDA_SUCCESS && event->capture != NULL) {
    result = capture_join(stream, event);
  } else if (result == CUDA_SUCCESS && stream->capture != NULL) {
    stream->capture->invalid = true;
    result = CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
  } else if (result == CUDA_SUCCESS && event->done < event->recorded) {
    struct sim_op *op = sim_op_new(SIM_OP_WAIT);
    event->refs++;
    op->event.event = event;
    op->event.serial = event->recorded;
    result = sim_submit(stream, op, NULL);
  }
  pthread_mutex_unlock(&sim_lock);
  return result;
}

CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned flags) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  return flags > CU_EVENT_WAIT_EXTERNAL ? CUDA_ERROR_INVALID_VALUE
                                        : wait_event(stream, CU_STREAM_LEGACY, event);
}
CUresult cuStreamWaitEvent_ptsz(CUstream stream, CUevent event, unsigned flags) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  return flags > CU_EVENT_WAIT_EXTERNAL ? CUDA_ERROR_INVALID_VALUE
                                        : wait_event(stream, CU_STREAM_PER_THREAD, event);
}

/* locks: held. */
static CUresult event_settled(struct sim_event *event) {
  if (event == NULL) return CUDA_ERROR_INVALID_HANDLE;
  return event->capture == NULL ? sim_capture_guard() : CUDA_ERROR_CAPTURED_EVENT;
}

CUresult cuEventQuery(CUevent handle) {
  SIM_ENTER(SIM_NEED_INIT);
  pthread_mutex_lock(&sim_lock);
  struct sim_event *event = event_of(handle);
  CUresult result = event_settled(event);
  if (result == CUDA_SUCCESS && event->done < event->recorded) result = CUDA_ERROR_NOT_READY;
  pthread_mutex_unlock(&sim_lock);
  return result;
}

CUresult cuEventSynchronize(CUevent handle) {
  SIM_ENTER(SIM_NEED_INIT);
  pthread_mutex_lock(&sim_lock);
  struct sim_event *event = event_of(handle);
  CUresult result = event_settled(event);
  if (result == CUDA_SUCCESS) result = sim_event_wait(event);
  pthread_mutex_unlock(&sim_lock);
  return result;
}

static CUresult elapsed(float *milliseconds, CUevent from, CUevent to) {
  if (milliseconds == NULL) return CUDA_ERROR_INVALID_VALUE;
  pthread_mutex_lock(&sim_lock);
  struct sim_event *start = event_of(from), *end = event_of(to);
  CUresult result = start == NULL || end == NULL ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS;
  if (result == CUDA_SUCCESS && (((start->flags | end->flags) & CU_EVENT_DISABLE_TIMING) ||
                                 !start->recorded || !end->recorded))
    result = CUDA_ERROR_INVALID_HANDLE;
  if (result == CUDA_SUCCESS && (start->done < start->recorded || end->done < end->recorded))
    result = CUDA_ERROR_NOT_READY;
  if (result == CUDA_SUCCESS)
    *milliseconds = (float)((double)(int64_t)(end->time_ns - start->time_ns) / 1e6);
  pthread_mutex_unlock(&sim_lock);
  return result;
}

CUresult cuEventElapsedTime(float *milliseconds, CUevent from, CUevent to) {
  SIM_ENTER(SIM_NEED_INIT);
  return elapsed(milliseconds, from, to);
}
CUresult cuEventElapsedTime_v2(float *milliseconds, CUevent from, CUevent to) {
  SIM_ENTER(SIM_NEED_INIT);
  return elapsed(milliseconds, from, to);
}

/* ---- host functions, memory values ---- */

static CUresult submit(CUstream handle, CUstream fallback, struct sim_op *op) {
  pthread_mutex_lock(&sim_lock);
  struct sim_stream *stream = SIM_S(handle);
  CUresult result = CUDA_ERROR_INVALID_HANDLE;
  if (stream == NULL) sim_op_free(op);
  else result = sim_submit(stream, op, NULL);
  pthread_mutex_unlock(&sim_lock);
  return result;
}

static CUresult host_function(CUstream stream, CUstream fallback, CUhostFn run, void *data) {
  if (run == NULL) return CUDA_ERROR_INVALID_VALUE;
  struct sim_op *op = sim_op_new(SIM_OP_HOST);
  op->host.run = run;
  op->host.data = data;
  return submit(stream, fallback, op);
}

CUresult cuLaunchHostFunc(CUstream stream, CUhostFn run, void *data) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  return host_function(stream, CU_STREAM_LEGACY, run, data);
}
CUresult cuLaunchHostFunc_ptsz(CUstream stream, CUhostFn run, void *data) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  return host_function(stream, CU_STREAM_PER_THREAD, run, data);
}

static CUresult callback(CUstream stream, CUstream fallback, CUstreamCallback run, void *data) {
  if (run == NULL) return CUDA_ERROR_INVALID_VALUE;
  struct sim_op *op = sim_op_new(SIM_OP_CALLBACK);
  op->callback.run = run;
  op->callback.data = data;
  op->callback.stream = stream;
  return submit(stream, fallback, op);
}

CUresult cuStreamAddCallback(CUstream stream, CUstreamCallback run, void *data, unsigned flags) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  return flags != 0 ? CUDA_ERROR_INVALID_VALUE : callback(stream, CU_STREAM_LEGACY, run, data);
}
CUresult cuStreamAddCallback_ptsz(CUstream stream, CUstreamCallback run, void *data,
                                  unsigned flags) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  return flags != 0 ? CUDA_ERROR_INVALID_VALUE : callback(stream, CU_STREAM_PER_THREAD, run, data);
}

static CUresult value(CUstream stream, CUstream fallback, enum sim_op_kind kind,
                      CUdeviceptr address, uint64_t number, unsigned flags, bool wide) {
  struct sim_op *op = sim_op_new(kind);
  op->value.address = address;
  op->value.value = number;
  op->value.flags = flags;
  op->value.wide = wide;
  sim_op_span(op, address, wide ? 8 : 4);
  return submit(stream, fallback, op);
}

#define VALUE(name, type, kind, wide)                                                       \
  CUresult name(CUstream stream, CUdeviceptr address, type number, unsigned flags) {        \
    SIM_ENTER(SIM_NEED_CONTEXT);                                                            \
    return value(stream, CU_STREAM_LEGACY, kind, address, number, flags, wide);             \
  }                                                                                         \
  CUresult name##_ptsz(CUstream stream, CUdeviceptr address, type number, unsigned flags) { \
    SIM_ENTER(SIM_NEED_CONTEXT);                                                            \
    return value(stream, CU_STREAM_PER_THREAD, kind, address, number, flags, wide);         \
  }
VALUE(cuStreamWaitValue32, cuuint32_t, SIM_OP_VALUE_WAIT, false)
VALUE(cuStreamWaitValue32_v2, cuuint32_t, SIM_OP_VALUE_WAIT, false)
VALUE(cuStreamWaitValue64, cuuint64_t, SIM_OP_VALUE_WAIT, true)
VALUE(cuStreamWaitValue64_v2, cuuint64_t, SIM_OP_VALUE_WAIT, true)
VALUE(cuStreamWriteValue32, cuuint32_t, SIM_OP_VALUE_WRITE, false)
VALUE(cuStreamWriteValue32_v2, cuuint32_t, SIM_OP_VALUE_WRITE, false)
VALUE(cuStreamWriteValue64, cuuint64_t, SIM_OP_VALUE_WRITE, true)
VALUE(cuStreamWriteValue64_v2, cuuint64_t, SIM_OP_VALUE_WRITE, true)
