/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stream.c: streams that run asynchronously, and events.
 *
 * Every stream is a queue with a thread (started by its first operation). An operation waits for
 * (stream, sequence) pairs fixed when it was submitted: the legacy default stream waits for every
 * blocking stream of its context and they for it, which is the driver's barrier. Waits name earlier
 * submissions only, so they cannot form a cycle.
 */
#include "sim.h"

#include <signal.h>

static uint64_t next_stream_id = 1;
static _Thread_local struct sim_stream
    *thread_streams[SIM_CONTEXT_STACK_MAX]; /* per-thread default streams */
static pthread_key_t thread_key;
static pthread_once_t thread_once = PTHREAD_ONCE_INIT;
static size_t waiters; /* threads in sim_progress; locks: sim_lock */

/* ---- operations ---- */

struct sim_op *sim_op_new(enum sim_op_kind kind) {
  struct sim_op *op = calloc(1, sizeof *op);
  if (op == NULL) abort();
  op->kind = kind;
  return op;
}

/* Out of line: the compiler mistakes two streams of one loop for the same freed one. */
__attribute__((noinline)) void sim_stream_release(struct sim_stream *stream) {
  if (--stream->refs != 0) return;
  pthread_cond_destroy(&stream->work);
  free(stream);
}

static void event_release(struct sim_event *event) {
  if (--event->refs == 0) free(event);
}

void sim_op_free(struct sim_op *op) {
  for (size_t i = 0; i < op->wait_count; i++) sim_stream_release(op->waits[i].stream);
  if (op->kind == SIM_OP_RECORD || op->kind == SIM_OP_WAIT) event_release(op->event.event);
  if (op->kind == SIM_OP_GRAPH) sim_exec_release(op->graph.exec);
  free(op->waits);
  free(op->spans);
  free(op->bytes);
  free(op);
}

void sim_op_span(struct sim_op *op, uint64_t base, uint64_t bytes) {
  for (size_t i = 0; i < op->span_count; i++)
    if (op->spans[i].base == base && op->spans[i].bytes == bytes) return;
  struct sim_span *spans = realloc(op->spans, (op->span_count + 1) * sizeof *spans);
  if (spans == NULL) abort();
  spans[op->span_count++] = (struct sim_span){base, bytes};
  op->spans = spans;
}

void sim_op_wait_for(struct sim_op *op, struct sim_stream *stream, uint64_t seq) {
  if (stream->completed >= seq) return;
  struct sim_wait *waits = realloc(op->waits, (op->wait_count + 1) * sizeof *waits);
  if (waits == NULL) abort();
  stream->refs++;
  waits[op->wait_count++] = (struct sim_wait){stream, seq};
  op->waits = waits;
}

static bool op_has_span(const struct sim_op *op, uint64_t base, uint64_t bytes) {
  for (size_t i = 0; op != NULL && i < op->span_count; i++)
    if (op->spans[i].base < base + bytes && base < op->spans[i].base + op->spans[i].bytes)
      return true;
  return false;
}

static bool closed(const struct sim_op *op) {
  return op->kind == SIM_OP_VALUE_WAIT && sim_range_known(op->value.address, 4) &&
         !sim_value_due(op);
}

static bool behind_closed(const struct sim_op *op, int depth);

/* True when the stream, up to that operation, waits for a value that is not there. */
static bool stream_closed(const struct sim_stream *stream, uint64_t seq, int depth) {
  if (stream->current != NULL && stream->current->seq <= seq && closed(stream->current))
    return true;
  for (const struct sim_op *op = stream->head; op != NULL && op->seq <= seq; op = op->next)
    if (closed(op) || behind_closed(op, depth)) return true;
  return false;
}

/* The record that an event wait is for, and its stream. */
static const struct sim_op *record_of(const struct sim_op *wait, const struct sim_stream **on) {
  struct sim_context *context;
  for (size_t i = 0; (context = sim_context_at(i)) != NULL; i++)
    for (*on = context->streams; *on != NULL; *on = (*on)->next)
      for (const struct sim_op *op = (*on)->head; op != NULL; op = op->next)
        if (op->kind == SIM_OP_RECORD && op->event.event == wait->event.event &&
            op->event.serial == wait->event.serial)
          return op;
  return NULL;
}

/* True when something the operation waits for is itself behind such a wait. Waits name earlier
 * submissions only; the depth bounds how far back that is followed. */
static bool behind_closed(const struct sim_op *op, int depth) {
  if (depth == 0) return false;
  for (size_t i = 0; i < op->wait_count; i++)
    if (op->waits[i].stream->completed < op->waits[i].seq &&
        stream_closed(op->waits[i].stream, op->waits[i].seq, depth - 1))
      return true;
  if (op->kind != SIM_OP_WAIT || op->event.event->done >= op->event.serial) return false;
  const struct sim_stream *on = NULL;
  const struct sim_op *record = record_of(op, &on);
  return record != NULL && stream_closed(on, record->seq, depth - 1);
}

static const struct sim_op *stream_user(const struct sim_stream *stream, uint64_t base,
                                        uint64_t bytes) {
  if (op_has_span(stream->current, base, bytes)) return stream->current;
  if (stream->current != NULL && closed(stream->current)) return NULL;
  for (const struct sim_op *op = stream->head; op != NULL; op = op->next) {
    if (closed(op) || behind_closed(op, 4)) return NULL;
    if (op_has_span(op, base, bytes)) return op;
  }
  return NULL;
}

const struct sim_op *sim_range_user(uint64_t base, uint64_t bytes) {
  const struct sim_op *user = NULL;
  struct sim_context *context;
  for (size_t i = 0; user == NULL && (context = sim_context_at(i)) != NULL; i++)
    for (const struct sim_stream *stream = context->streams; user == NULL && stream != NULL;
         stream = stream->next)
      user = stream_user(stream, base, bytes);
  return user;
}

/* ---- workers ---- */

static void progress_wait(void) {
  waiters++;
  pthread_cond_wait(&sim_progress, &sim_lock);
  waiters--;
}

static bool op_ready(const struct sim_op *op) {
  if (atomic_load(&sim_sticky) != 0) return true;
  for (size_t i = 0; i < op->wait_count; i++)
    if (op->waits[i].stream->completed < op->waits[i].seq) return false;
  return op->kind != SIM_OP_WAIT || op->event.event->done >= op->event.serial;
}

static void op_finish(struct sim_op *op) {
  if (op->kind != SIM_OP_RECORD) return;
  struct sim_event *event = op->event.event;
  if (event->done < op->event.serial) {
    event->done = op->event.serial;
    event->time_ns = sim_now_ns();
  }
}

static void *worker(void *argument) {
  struct sim_stream *stream = argument;
  pthread_mutex_lock(&sim_lock);
  for (;;) {
    while (stream->head == NULL && !stream->closing) pthread_cond_wait(&stream->work, &sim_lock);
    struct sim_op *op = stream->head;
    if (op == NULL) break;
    while (!op_ready(op)) progress_wait();
    stream->head = op->next;
    if (stream->head == NULL) stream->tail = NULL;
    stream->queued--;
    stream->current = op;
    sim_strict_begin(op);
    if (op->kind != SIM_OP_RECORD && op->kind != SIM_OP_WAIT && op->kind != SIM_OP_EMPTY &&
        atomic_load(&sim_sticky) == 0) {
      pthread_mutex_unlock(&sim_lock);
      sim_strict_enter(op);
      sim_op_run(op);
      sim_strict_leave();
      pthread_mutex_lock(&sim_lock);
    }
    op_finish(op);
    stream->current = NULL;
    stream->completed = op->seq;
    sim_op_free(op);
    if (waiters != 0) pthread_cond_broadcast(&sim_progress);
  }
  sim_stream_release(stream);
  pthread_mutex_unlock(&sim_lock);
  return NULL;
}

static CUresult worker_start(struct sim_stream *stream) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attributes, 1 << 20);
  sigset_t all, old;
  sigfillset(&all);
  sigdelset(&all, SIGSEGV);
  sigdelset(&all, SIGBUS);
  sigdelset(&all, SIGABRT);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  stream->refs++;
  const int error = pthread_create(&stream->thread, &attributes, worker, stream);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  pthread_attr_destroy(&attributes);
  if (error != 0) {
    stream->refs--;
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  stream->started = true;
  return CUDA_SUCCESS;
}

/* ---- submission ---- */

static void barriers(struct sim_stream *stream, struct sim_op *op) {
  struct sim_context *context = stream->context;
  if (stream->legacy) {
    for (struct sim_stream *other = context->streams; other != NULL; other = other->next)
      if (other != stream && !(other->flags & CU_STREAM_NON_BLOCKING))
        sim_op_wait_for(op, other, other->submitted);
  } else if (!(stream->flags & CU_STREAM_NON_BLOCKING)) {
    sim_op_wait_for(op, context->legacy, context->legacy->submitted);
  }
}

/* The legacy stream cannot be used while a stream that synchronises with it is captured. */
static bool legacy_forbidden(struct sim_stream *stream) {
  if (!stream->legacy) return false;
  for (struct sim_stream *other = stream->context->streams; other != NULL; other = other->next)
    if (other->capture != NULL && !(other->flags & CU_STREAM_NON_BLOCKING)) {
      other->capture->invalid = true;
      return true;
    }
  return false;
}

CUresult sim_submit(struct sim_stream *stream, struct sim_op *op, uint64_t *seq) {
  if (stream->capture != NULL) return sim_capture_add(stream, op);
  CUresult result = legacy_forbidden(stream) ? CUDA_ERROR_STREAM_CAPTURE_IMPLICIT : CUDA_SUCCESS;
  while (result == CUDA_SUCCESS && stream->queued >= SIM_QUEUE_MAX && atomic_load(&sim_sticky) == 0)
    progress_wait();
  if (result == CUDA_SUCCESS && !stream->started) result = worker_start(stream);
  if (result == CUDA_SUCCESS) result = (CUresult)atomic_load(&sim_sticky);
  if (result != CUDA_SUCCESS) {
    sim_op_free(op);
    return result;
  }
  barriers(stream, op);
  op->seq = ++stream->submitted;
  if (seq != NULL) *seq = op->seq;
  if (stream->tail == NULL) stream->head = op;
  else stream->tail->next = op;
  stream->tail = op;
  stream->queued++;
  if (stream->head == op) pthread_cond_signal(&stream->work);
  return CUDA_SUCCESS;
}

/* pre: the caller holds a reference. */
static void wait_completed(const struct sim_stream *stream, uint64_t seq) {
  while (stream->completed < seq && atomic_load(&sim_sticky) == 0) progress_wait();
}

CUresult sim_stream_wait(struct sim_stream *stream, uint64_t seq) {
  stream->refs++;
  wait_completed(stream, seq);
  sim_stream_release(stream);
  return (CUresult)atomic_load(&sim_sticky);
}

CUresult sim_event_wait(struct sim_event *event) {
  const uint64_t serial = event->recorded;
  event->refs++;
  while (event->done < serial && atomic_load(&sim_sticky) == 0) progress_wait();
  event_release(event);
  return (CUresult)atomic_load(&sim_sticky);
}

CUresult sim_context_wait(struct sim_context *context) {
  const size_t max = 4096;
  struct sim_wait *waits = malloc(max * sizeof *waits);
  if (waits == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
  size_t count = 0;
  for (struct sim_stream *stream = context->streams; stream != NULL && count < max;
       stream = stream->next) {
    if (stream->completed >= stream->submitted) continue;
    stream->refs++;
    waits[count++] = (struct sim_wait){stream, stream->submitted};
  }
  for (size_t i = 0; i < count; i++) {
    wait_completed(waits[i].stream, waits[i].seq);
    sim_stream_release(waits[i].stream);
  }
  free(waits);
  return (CUresult)atomic_load(&sim_sticky);
}

/* ---- handles ---- */

struct sim_stream *sim_stream_create(struct sim_context *context, unsigned flags, int priority) {
  struct sim_stream *stream = calloc(1, sizeof *stream);
  if (stream == NULL) return NULL;
  stream->context = context;
  stream->flags = flags;
  stream->priority = priority;
  stream->refs = 1;
  stream->id = next_stream_id++;
  pthread_cond_init(&stream->work, NULL);
  stream->next = context->streams;
  context->streams = stream;
  sim_handle_add(SIM_STREAM, stream);
  return stream;
}

/* What was submitted still runs; the handle is dead at once. */
void sim_stream_close(struct sim_stream *stream) {
  for (struct sim_stream **link = &stream->context->streams; *link != NULL; link = &(*link)->next)
    if (*link == stream) {
      *link = stream->next;
      break;
    }
  sim_handle_remove(stream);
  stream->closing = true;
  pthread_cond_signal(&stream->work);
  sim_stream_release(stream);
}

static void thread_streams_close(void *unused) {
  (void)unused;
  pthread_mutex_lock(&sim_lock);
  for (size_t i = 0; i < SIM_CONTEXT_STACK_MAX; i++) {
    struct sim_stream *stream = thread_streams[i];
    if (stream != NULL && sim_handle_is(SIM_STREAM, stream)) {
      while (stream->completed < stream->submitted && atomic_load(&sim_sticky) == 0)
        progress_wait();
      sim_stream_close(stream);
    }
    if (stream != NULL) sim_stream_release(stream);
    thread_streams[i] = NULL;
  }
  pthread_mutex_unlock(&sim_lock);
}

static void thread_key_create(void) { pthread_key_create(&thread_key, thread_streams_close); }

static struct sim_stream *thread_stream(struct sim_context *context) {
  struct sim_stream **vacant = NULL;
  for (size_t i = 0; i < SIM_CONTEXT_STACK_MAX; i++) {
    struct sim_stream *stream = thread_streams[i];
    if (stream != NULL && !sim_handle_is(SIM_STREAM, stream)) { /* its context was destroyed */
      sim_stream_release(stream);
      thread_streams[i] = stream = NULL;
    }
    if (stream != NULL && stream->context == context) return stream;
    if (stream == NULL && vacant == NULL) vacant = &thread_streams[i];
  }
  if (vacant == NULL) return NULL;
  pthread_once(&thread_once, thread_key_create);
  pthread_setspecific(thread_key, context);
  *vacant = sim_stream_create(context, CU_STREAM_DEFAULT, 0);
  if (*vacant == NULL) return NULL;
  (*vacant)->per_thread = true;
  (*vacant)->refs++;
  return *vacant;
}

struct sim_stream *sim_stream_of(CUstream handle, CUstream fallback) {
  struct sim_context *context = sim_current();
  if (handle == NULL) handle = fallback;
  if (handle == CU_STREAM_LEGACY) return context == NULL ? NULL : context->legacy;
  if (handle == CU_STREAM_PER_THREAD) return context == NULL ? NULL : thread_stream(context);
  if (!sim_handle_is(SIM_STREAM, handle)) {
    sim_strict(CUDA_ERROR_INVALID_HANDLE, "stream %p is not alive", (void *)handle);
    return NULL;
  }
  return (struct sim_stream *)handle;
}

/* Worker threads do not exist in a forked child; nothing there may use the driver. */
void sim_streams_fork_child(void) { memset(thread_streams, 0, sizeof thread_streams); }
