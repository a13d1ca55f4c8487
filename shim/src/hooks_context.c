/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hooks_context.c: contexts come and go (their allocations with them), device sizes, and the calls
 * that wait, which must return the sticky error of a process that has lost bytes.
 */
#include <pthread.h>

#include "devices.h"
#include "dispatch.h"
#include "green.h"
#include "hooks_counted.h"

#define GB_PRIMARIES_MAX 64

/* Primary contexts are counted: the last release destroys one. The lock is held over the driver's
 * call so that count and context cannot part; the driver calls nobody back from there. */
static struct primary {
  CUcontext context; /* NULL: no primary context that we know of */
  bool announced;    /* the core knows it: not between a reset and the next retain */
  unsigned retained;
} primaries[GB_PRIMARIES_MAX];
static pthread_mutex_t primaries_lock = PTHREAD_MUTEX_INITIALIZER;

static struct primary *primary_of(CUdevice device) {
  return device >= 0 && device < GB_PRIMARIES_MAX ? &primaries[device] : NULL;
}

static CUresult created(CUresult result, const CUcontext *context, CUdevice device) {
  if (result == CUDA_SUCCESS && context != NULL) gb_core_context_created(*context, device);
  return result;
}

/* A call that waits or asks whether work is done: a process that lost bytes must hear of it here.
 */
static inline CUresult waited(CUresult result) {
  CUresult sticky = gb_sticky_error();
  return __builtin_expect(sticky != CUDA_SUCCESS, 0) ? sticky : result;
}

/* A feeder's device (devices.h) goes its own way. */
#define GB_BY_ORDINAL(call) GB_ON_DEVICE(gb_devices_by_ordinal(ordinal), call)
/* Its work is waited for first; what it has failed with is the answer. */
#define GB_WAIT_DEVICE(which)                                        \
  do {                                                               \
    struct gb_device *awaited = gb_devices_on() ? (which) : NULL;    \
    CUresult done = awaited != NULL ? gb_device_wait(awaited) : CUDA_SUCCESS; \
    if (done != CUDA_SUCCESS) return done;                           \
  } while (0)

static CUresult total_of(const struct gb_device *device, size_t *bytes) {
  if (bytes == NULL) return CUDA_ERROR_INVALID_VALUE;
  *bytes = gb_device_total_bytes(device);
  return CUDA_SUCCESS;
}
GB_WRAP(cuDeviceTotalMem_v2, size_t *bytes, CUdevice ordinal) {
  GB_BY_ORDINAL(total_of(device, bytes));
  CUresult result = real(bytes, ordinal);
  if (result != CUDA_SUCCESS || bytes == NULL) return result;
  uint64_t total = *bytes;
  gb_identity_memory(ordinal, *bytes, *bytes, NULL, &total);
  *bytes = total;
  return result;
}

/* Arena memory may move, so a network card must not be given its physical place. */
GB_WRAP(cuDeviceGetAttribute, int *value, CUdevice_attribute attribute, CUdevice ordinal) {
  GB_BY_ORDINAL(gb_device_attribute(device, attribute, value));
  CUresult result = real(value, attribute, ordinal);
  if (result == CUDA_SUCCESS && value != NULL &&
      (attribute == CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED ||
       attribute == CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED))
    *value = 0;
  return result;
}

GB_WRAP(cuCtxCreate_v2, CUcontext *context, unsigned flags, CUdevice ordinal) {
  GB_BY_ORDINAL(GB_RETRIED(gb_device_context_create(device, context, flags)));
  return created(GB_RETRIED(real(context, flags, ordinal)), context, ordinal);
}
GB_WRAP(cuCtxCreate_v3, CUcontext *context, void *affinity, int affinity_count, unsigned flags,
        CUdevice ordinal) {
  GB_BY_ORDINAL(GB_RETRIED(gb_device_context_create(device, context, flags)));
  return created(GB_RETRIED(real(context, affinity, affinity_count, flags, ordinal)), context,
                 ordinal);
}
GB_WRAP(cuCtxCreate_v4, CUcontext *context, CUctxCreateParams *create_params, unsigned flags,
        CUdevice ordinal) {
  GB_BY_ORDINAL(GB_RETRIED(gb_device_context_create(device, context, flags)));
  return created(GB_RETRIED(real(context, create_params, flags, ordinal)), context, ordinal);
}

/* NULL destroys nothing: the driver says which error that is. */
#define GB_OF_CONTEXT(call) \
  if (context != NULL) GB_ON_DEVICE(gb_devices_of_context(context), call)
GB_WRAP(cuCtxDestroy, CUcontext context) {
  GB_OF_CONTEXT(gb_device_context_destroy(device, context));
  if (context != NULL) gb_core_context_going(context);
  return real(context);
}
GB_WRAP(cuCtxDestroy_v2, CUcontext context) {
  GB_OF_CONTEXT(gb_device_context_destroy(device, context));
  if (context != NULL) gb_core_context_going(context);
  return real(context);
}

/* Contexts of cuCtxCreate with more than one reference; the last cuCtxDetach destroys. */
#define GB_ATTACHED_MAX 16
static struct attached {
  CUcontext context;
  unsigned references; /* beyond the first */
} attached[GB_ATTACHED_MAX];
static pthread_mutex_t attached_lock = PTHREAD_MUTEX_INITIALIZER;

/* change: +1 or -1. returns: whether the context had, or got, a reference beyond the first. */
static bool attach(CUcontext context, int change) {
  bool counted = false;
  pthread_mutex_lock(&attached_lock);
  for (int pass = 0; pass < 2 && !counted; pass++) {
    for (size_t i = 0; i < GB_ATTACHED_MAX && !counted; i++) {
      struct attached *one = &attached[i];
      bool fresh = pass == 1 && change > 0 && one->references == 0;
      if (!fresh && (one->context != context || one->references == 0)) continue;
      one->context = context;
      one->references += change;
      counted = true;
    }
  }
  pthread_mutex_unlock(&attached_lock);
  return counted;
}

GB_WRAP(cuCtxAttach, CUcontext *context, unsigned flags) {
  CUresult result = real(context, flags);
  if (result == CUDA_SUCCESS && context != NULL) (void)attach(*context, 1);
  return result;
}

/* The driver detaches nothing but the current context, and no primary one. */
GB_WRAP(cuCtxDetach, CUcontext context) {
  CUcontext current = NULL;
  if (context == NULL || gb_real.cuCtxGetCurrent(&current) != CUDA_SUCCESS || current != context)
    return real(context);
  for (CUdevice i = 0; i < GB_PRIMARIES_MAX; i++)
    if (primaries[i].context == context) return real(context);
  if (!attach(context, -1)) gb_core_context_going(context);
  return real(context);
}

GB_WRAP(cuDevicePrimaryCtxRetain, CUcontext *context, CUdevice ordinal) {
  GB_BY_ORDINAL(GB_RETRIED(gb_device_primary_retain(device, context)));
  struct primary *primary = primary_of(ordinal);
  if (primary == NULL) return real(context, ordinal);
  pthread_mutex_lock(&primaries_lock);
  CUresult result = GB_RETRIED(real(context, ordinal));
  if (result == CUDA_SUCCESS && context != NULL) {
    primary->retained++;
    if (primary->context != *context || !primary->announced) {
      primary->context = *context;
      primary->announced = true;
      gb_core_context_created(*context, ordinal);
    }
  }
  pthread_mutex_unlock(&primaries_lock);
  return result;
}

static CUresult primary_release(CUresult (*real)(CUdevice), CUdevice ordinal) {
  GB_BY_ORDINAL(gb_device_primary_release(device));
  struct primary *primary = primary_of(ordinal);
  if (primary == NULL) return real(ordinal);
  pthread_mutex_lock(&primaries_lock);
  if (primary->retained == 1 && primary->context != NULL) {
    gb_core_context_going(primary->context);
    primary->context = NULL;
  }
  CUresult result = real(ordinal);
  if (result == CUDA_SUCCESS && primary->retained > 0) primary->retained--;
  pthread_mutex_unlock(&primaries_lock);
  return result;
}
GB_WRAP(cuDevicePrimaryCtxRelease, CUdevice device) { return primary_release(real, device); }
GB_WRAP(cuDevicePrimaryCtxRelease_v2, CUdevice device) { return primary_release(real, device); }

/* A reset destroys what the context holds but keeps it retained; the driver builds it anew when it is
 * retained again, perhaps at the same address. Until then there is nothing in which to work. */
static CUresult primary_reset(CUresult (*real)(CUdevice), CUdevice ordinal) {
  GB_BY_ORDINAL(gb_device_primary_reset(device));
  struct primary *primary = primary_of(ordinal);
  if (primary == NULL) return real(ordinal);
  pthread_mutex_lock(&primaries_lock);
  if (primary->context != NULL) gb_core_context_going(primary->context);
  CUresult result = real(ordinal);
  primary->announced = false;
  if (primary->retained == 0) primary->context = NULL;
  pthread_mutex_unlock(&primaries_lock);
  return result;
}
GB_WRAP(cuDevicePrimaryCtxReset, CUdevice device) { return primary_reset(real, device); }
GB_WRAP(cuDevicePrimaryCtxReset_v2, CUdevice device) { return primary_reset(real, device); }

/* ---- green contexts ---- */

GB_WRAP(cuGreenCtxCreate, CUgreenCtx *green, void *description, CUdevice device, unsigned flags) {
  CUresult result = GB_RETRIED(real(green, description, device, flags));
  if (result == CUDA_SUCCESS) gb_green_created(*green, device);
  return result;
}
GB_WRAP(cuCtxFromGreenCtx, CUcontext *context, CUgreenCtx green) {
  CUresult result = real(context, green);
  if (result == CUDA_SUCCESS) gb_green_context(green, *context);
  return result;
}
GB_WRAP(cuGreenCtxDestroy, CUgreenCtx green) {
  if (green != NULL) gb_green_going(green);
  return real(green);
}

/* ---- waits, streams, events ---- */

/* Staging uses the time in which the program waits, and the time after it: a remap may still have been
 * under way before. */
#define GB_WAIT(call)                \
  do {                               \
    gb_idle();                       \
    gb_dispatch_wait();              \
    CUresult result = waited(call);  \
    gb_idle();                       \
    return result;                   \
  } while (0)

/* The whole context is waited for, our own streams too: they get work only afterwards. */
GB_WRAP(cuCtxSynchronize) {
  GB_WAIT_DEVICE(gb_devices_current_slow());
  gb_dispatch_wait();
  CUresult result = waited(real());
  gb_idle();
  return result;
}
GB_WRAP(cuCtxSynchronize_v2, CUcontext context) {
  GB_WAIT_DEVICE(gb_devices_of_context(context));
  gb_dispatch_wait();
  CUresult result = waited(real(context));
  gb_idle();
  return result;
}
/* A drain asks the program's streams whether they are idle. */
static CUresult stream_created(CUresult result, const CUstream *stream, unsigned flags) {
  if (result == CUDA_SUCCESS && stream != NULL && gb_devices_current() == NULL)
    gb_core_stream_created(*stream, (flags & CU_STREAM_NON_BLOCKING) == 0);
  return result;
}
GB_WRAP(cuStreamCreate, CUstream *stream, unsigned flags) {
  return stream_created(GB_RETRIED(real(stream, flags)), stream, flags);
}
GB_WRAP(cuStreamCreateWithPriority, CUstream *stream, unsigned flags, int priority) {
  return stream_created(GB_RETRIED(real(stream, flags, priority)), stream, flags);
}
GB_WRAP(cuGreenCtxStreamCreate, CUstream *stream, CUgreenCtx context, unsigned flags,
        int priority) {
  return stream_created(GB_RETRIED(real(stream, context, flags, priority)), stream, flags);
}
GB_WRAP(cuStreamDestroy, CUstream stream) {
  gb_core_stream_going(stream);
  return real(stream);
}
GB_WRAP(cuStreamDestroy_v2, CUstream stream) {
  gb_core_stream_going(stream);
  return real(stream);
}

GB_WRAP(cuStreamSynchronize, CUstream stream) {
  GB_WAIT_DEVICE(gb_devices_of_stream(stream));
  GB_WAIT(real(stream));
}
/* Programs ask again and again, which sends nothing: a question waits for what was dispatched. */
GB_WRAP(cuStreamQuery, CUstream stream) {
  GB_WAIT_DEVICE(gb_devices_of_stream(stream));
  gb_dispatch_wait();
  return waited(real(stream));
}
GB_WRAP(cuEventCreate, CUevent *event, unsigned flags) {
  CUresult result = GB_RETRIED(real(event, flags));
  if (result == CUDA_SUCCESS) gb_devices_event_created(*event);
  return result;
}
GB_WRAP(cuEventSynchronize, CUevent event) {
  GB_WAIT_DEVICE(gb_devices_of_event(event));
  GB_WAIT(real(event));
}
GB_WRAP(cuEventQuery, CUevent event) {
  GB_WAIT_DEVICE(gb_devices_of_event(event));
  gb_dispatch_wait();
  return waited(real(event));
}

#define GB_SECTIONS GB_SECTION_CONTEXT
#include "hooks_define.h"
