/* SPDX-License-Identifier: Apache-2.0 */
/*
 * context.h: the contexts of the program, their streams, and the drain: knowing, without an
 * uncancellable wait, that nothing of the process runs on any device. pre of everything but the
 * scope: gb_lock.
 */
#ifndef GB_CONTEXT_H
#define GB_CONTEXT_H

#include "real.h"
#include "core.h"

#define GB_CONTEXTS_MAX 64
#define GB_STREAMS_MAX 65536

struct gb_context {
  CUcontext handle;
  CUdevice device;
  CUstream stream; /* our own, non-blocking; NULL until needed */
  CUevent event;   /* for drains; NULL until needed */
  CUevent mark;    /* of a switch (stage.h); NULL until needed */
  CUmodule scan_module;
  CUfunction scan_function;
  bool scan_refused; /* the content scan does not load here */
  struct gb_app_stream {
    CUstream handle;
    bool blocking;
    CUevent event;
  } *streams;
  uint32_t stream_count;
  uint32_t stream_capacity;
};

/* Makes a context current for a while. returns: CUDA_SUCCESS, then gb_context_pop must follow. */
CUresult gb_context_push(CUcontext context);
void gb_context_pop(void);

/* Our own driver calls must not invalidate a capture of the calling thread: between the two they do
 * not. No lock needed. */
CUstreamCaptureMode gb_capture_relax(void);
void gb_capture_restore(CUstreamCaptureMode mode);

/* The record of a context, entered when it is new. returns: NULL when there are too many. */
struct gb_context *gb_context_get(CUcontext handle, CUdevice device);
/* Anything of the process is in this context. Takes gb_lock. */
bool gb_context_is_known(CUcontext handle);
/* A context of the device, or NULL. */
CUcontext gb_context_on(CUdevice device);
/* Destroys what is ours in a context and forgets it. pre: it is current and still alive. */
void gb_context_forget(CUcontext handle);
/* Our own stream of the context. pre: it is current. returns: NULL when the driver makes none. */
CUstream gb_context_stream(struct gb_context *context);

/* Records an event behind all work of the context, unless a capture is live, which that would end.
 * pre: not gb_capture_lock. returns: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED then;
 * CUDA_ERROR_NOT_SUPPORTED before CUDA 12.5. */
CUresult gb_context_record(CUcontext context, CUevent event);
/* Records an event behind all work of every context. pre: the gate is closed, cuCtxRecordEvent
 * exists, gb_capture_lock, no capture is live. Fills marks[] (GB_CONTEXTS_MAX) and their count. */
CUresult gb_contexts_mark(CUevent *marks, uint32_t *count);
/* Asks whether every context is idle, until the deadline; none is while a capture is live. pre: the
 * gate is closed. returns: an error when a context is broken (the program's own fault shows here
 * first); *idle otherwise tells. */
CUresult gb_drain(uint64_t deadline_ns, bool *idle);
/* Waits for our own stream by polling. returns: CUDA_ERROR_NOT_READY when the limit passed. */
CUresult gb_stream_wait(CUstream stream, uint64_t limit_ns);

#endif
