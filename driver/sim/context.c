/* SPDX-License-Identifier: Apache-2.0 */
/* context.c: contexts, the primary one of each device, and each thread's stack of current ones. */
#include "sim.h"

#define CONTEXTS_MAX 256

static struct sim_context *contexts[CONTEXTS_MAX]; /* alive; locks: sim_lock */
static size_t context_count;
static struct sim_context
    *primaries[GBSIM_DEVICE_MAX]; /* the handle stays the same for the life of the process */
static unsigned primary_flags[GBSIM_DEVICE_MAX];
static uint64_t next_context_id = 1;

static _Thread_local struct sim_context *stack[SIM_CONTEXT_STACK_MAX]
    __attribute__((tls_model("initial-exec")));
static _Thread_local size_t depth __attribute__((tls_model("initial-exec")));

struct sim_context *sim_current(void) {
  struct sim_context *context = depth == 0 ? NULL : stack[depth - 1];
  return context != NULL && __atomic_load_n(&context->alive, __ATOMIC_ACQUIRE) ? context : NULL;
}

struct sim_context *sim_context_at(size_t index) {
  return index < context_count ? contexts[index] : NULL;
}

/* locks: held. */
static CUresult context_start(struct sim_context *context) {
  if (context_count == CONTEXTS_MAX) return CUDA_ERROR_OUT_OF_MEMORY;
  context->streams = NULL;
  context->legacy = sim_stream_create(context, CU_STREAM_DEFAULT, 0);
  if (context->legacy == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
  context->legacy->legacy = true;
  context->id = next_context_id++;
  contexts[context_count++] = context;
  __atomic_store_n(&context->alive, true, __ATOMIC_RELEASE);
  sim_fault_handler_install();
  return CUDA_SUCCESS;
}

/* Waits for its work, then frees all that it owns. locks: held, dropped while waiting. */
static void context_end(struct sim_context *context) {
  sim_context_wait(context);
  __atomic_store_n(&context->alive, false, __ATOMIC_RELEASE);
  while (context->streams != NULL) sim_stream_close(context->streams);
  context->legacy = context->marks = NULL;
  sim_context_free_memory(context);
  for (size_t i = 0; i < context_count; i++)
    if (contexts[i] == context) {
      contexts[i] = contexts[--context_count];
      break;
    }
  if (!context->primary) sim_handle_remove(context);
}

static bool context_is(CUcontext handle) {
  return sim_handle_is(SIM_CONTEXT, handle) && ((struct sim_context *)handle)->alive;
}

static CUresult create(CUcontext *handle, unsigned flags, CUdevice device) {
  if (handle == NULL) return CUDA_ERROR_INVALID_VALUE;
  if (device < 0 || device >= sim_config.devices) return CUDA_ERROR_INVALID_DEVICE;
  if (depth == SIM_CONTEXT_STACK_MAX) return CUDA_ERROR_OUT_OF_MEMORY;
  struct sim_context *context = calloc(1, sizeof *context);
  if (context == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
  context->device = device;
  context->flags = flags;
  pthread_mutex_lock(&sim_lock);
  const CUresult result = context_start(context);
  pthread_mutex_unlock(&sim_lock);
  if (result != CUDA_SUCCESS) {
    free(context);
    return result;
  }
  sim_handle_add(SIM_CONTEXT, context);
  stack[depth++] = context;
  *handle = (CUcontext)context;
  return CUDA_SUCCESS;
}

CUresult cuCtxCreate_v2(CUcontext *handle, unsigned flags, CUdevice device) {
  SIM_ENTER(SIM_NEED_INIT);
  return create(handle, flags, device);
}

CUresult cuCtxCreate(CUcontext *handle, unsigned flags, CUdevice device) {
  return cuCtxCreate_v2(handle, flags, device);
}

CUresult cuCtxCreate_v4(CUcontext *handle, CUctxCreateParams *params, unsigned flags,
                        CUdevice device) {
  SIM_ENTER(SIM_NEED_INIT);
  if (params != NULL && (params->numExecAffinityParams != 0 || params->cigParams != NULL))
    return CUDA_ERROR_NOT_SUPPORTED;
  return create(handle, flags, device);
}

CUresult cuCtxDestroy_v2(CUcontext handle) {
  SIM_ENTER(SIM_NEED_INIT);
  pthread_mutex_lock(&sim_lock);
  CUresult result = CUDA_SUCCESS;
  if (!context_is(handle) || ((struct sim_context *)handle)->primary)
    result = sim_strict(CUDA_ERROR_INVALID_CONTEXT, "destroy of context %p", (void *)handle);
  else context_end((struct sim_context *)handle);
  pthread_mutex_unlock(&sim_lock);
  if (result == CUDA_SUCCESS && depth != 0 && stack[depth - 1] == (struct sim_context *)handle)
    depth--;
  return result;
}

CUresult cuCtxDestroy(CUcontext handle) { return cuCtxDestroy_v2(handle); }

CUresult cuCtxPushCurrent_v2(CUcontext handle) {
  SIM_ENTER(SIM_NEED_INIT);
  pthread_mutex_lock(&sim_lock);
  const bool good = context_is(handle) && depth < SIM_CONTEXT_STACK_MAX;
  pthread_mutex_unlock(&sim_lock);
  if (!good) return sim_strict(CUDA_ERROR_INVALID_CONTEXT, "push of context %p", (void *)handle);
  stack[depth++] = (struct sim_context *)handle;
  return CUDA_SUCCESS;
}

CUresult cuCtxPushCurrent(CUcontext handle) { return cuCtxPushCurrent_v2(handle); }

CUresult cuCtxPopCurrent_v2(CUcontext *handle) {
  SIM_ENTER(SIM_NEED_INIT);
  if (depth == 0) return CUDA_ERROR_INVALID_CONTEXT;
  depth--;
  if (handle != NULL) *handle = (CUcontext)stack[depth];
  return CUDA_SUCCESS;
}

CUresult cuCtxPopCurrent(CUcontext *handle) { return cuCtxPopCurrent_v2(handle); }

CUresult cuCtxSetCurrent(CUcontext handle) {
  SIM_ENTER(SIM_NEED_INIT);
  if (handle == NULL) {
    if (depth != 0) depth--;
    return CUDA_SUCCESS;
  }
  pthread_mutex_lock(&sim_lock);
  const bool good = context_is(handle);
  pthread_mutex_unlock(&sim_lock);
  if (!good)
    return sim_strict(CUDA_ERROR_INVALID_CONTEXT, "context %p made current is not alive",
                      (void *)handle);
  if (depth == 0) depth = 1;
  stack[depth - 1] = (struct sim_context *)handle;
  return CUDA_SUCCESS;
}

CUresult cuCtxGetCurrent(CUcontext *handle) {
  SIM_ENTER(SIM_NEED_INIT);
  if (handle == NULL) return CUDA_ERROR_INVALID_VALUE;
  *handle = depth == 0 ? NULL : (CUcontext)stack[depth - 1];
  return CUDA_SUCCESS;
}

/* The current context, or the given one where a later ABI passes it. */
static struct sim_context *context_or_current(CUcontext handle) {
  if (handle == NULL) return sim_current();
  return context_is(handle) ? (struct sim_context *)handle : NULL;
}

CUresult cuCtxGetDevice(CUdevice *device) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  if (device == NULL) return CUDA_ERROR_INVALID_VALUE;
  *device = sim_current()->device;
  return CUDA_SUCCESS;
}

CUresult cuCtxGetDevice_v2(CUdevice *device, CUcontext handle) {
  SIM_ENTER(SIM_NEED_INIT);
  const struct sim_context *context = context_or_current(handle);
  if (device == NULL) return CUDA_ERROR_INVALID_VALUE;
  if (context == NULL) return CUDA_ERROR_INVALID_CONTEXT;
  *device = context->device;
  return CUDA_SUCCESS;
}

static CUresult synchronize(struct sim_context *context) {
  if (context == NULL) return CUDA_ERROR_INVALID_CONTEXT;
  pthread_mutex_lock(&sim_lock);
  CUresult result = sim_capture_forbidden();
  if (result == CUDA_SUCCESS) result = sim_context_wait(context);
  pthread_mutex_unlock(&sim_lock);
  return result;
}

CUresult cuCtxSynchronize(void) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  return synchronize(sim_current());
}

CUresult cuCtxSynchronize_v2(CUcontext handle) {
  SIM_ENTER(SIM_NEED_INIT);
  return synchronize(context_or_current(handle));
}

CUresult cuCtxGetFlags(unsigned *flags) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  if (flags == NULL) return CUDA_ERROR_INVALID_VALUE;
  *flags = sim_current()->flags;
  return CUDA_SUCCESS;
}

CUresult cuCtxSetFlags(unsigned flags) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  sim_current()->flags = flags;
  return CUDA_SUCCESS;
}

CUresult cuCtxGetId(CUcontext handle, unsigned long long *id) {
  SIM_ENTER(SIM_NEED_INIT);
  const struct sim_context *context = context_or_current(handle);
  if (id == NULL) return CUDA_ERROR_INVALID_VALUE;
  if (context == NULL) return CUDA_ERROR_INVALID_CONTEXT;
  *id = context->id;
  return CUDA_SUCCESS;
}

CUresult cuCtxGetApiVersion(CUcontext handle, unsigned *version) {
  SIM_ENTER(SIM_NEED_INIT);
  if (version == NULL) return CUDA_ERROR_INVALID_VALUE;
  if (context_or_current(handle) == NULL) return CUDA_ERROR_INVALID_CONTEXT;
  *version = 3020;
  return CUDA_SUCCESS;
}

static size_t limits[CU_LIMIT_MAX] = {[CU_LIMIT_STACK_SIZE] = 1024,
                                      [CU_LIMIT_PRINTF_FIFO_SIZE] = 1 << 20,
                                      [CU_LIMIT_MALLOC_HEAP_SIZE] = 8 << 20};

CUresult cuCtxGetLimit(size_t *value, CUlimit limit) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  if (value == NULL || (unsigned)limit >= CU_LIMIT_MAX) return CUDA_ERROR_INVALID_VALUE;
  *value = limits[limit];
  return CUDA_SUCCESS;
}

CUresult cuCtxSetLimit(CUlimit limit, size_t value) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  if ((unsigned)limit >= CU_LIMIT_MAX) return CUDA_ERROR_INVALID_VALUE;
  limits[limit] = value;
  return CUDA_SUCCESS;
}

CUresult cuCtxGetStreamPriorityRange(int *least, int *greatest) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  if (least != NULL) *least = 0;
  if (greatest != NULL) *greatest = -5;
  return CUDA_SUCCESS;
}

CUresult cuCtxGetCacheConfig(CUfunc_cache *config) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  if (config == NULL) return CUDA_ERROR_INVALID_VALUE;
  *config = CU_FUNC_CACHE_PREFER_NONE;
  return CUDA_SUCCESS;
}

CUresult cuCtxSetCacheConfig(CUfunc_cache config) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  return (unsigned)config > CU_FUNC_CACHE_PREFER_EQUAL ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult cuCtxGetSharedMemConfig(CUsharedconfig *config) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  if (config == NULL) return CUDA_ERROR_INVALID_VALUE;
  *config = CU_SHARED_MEM_CONFIG_FOUR_BYTE_BANK_SIZE;
  return CUDA_SUCCESS;
}

CUresult cuCtxSetSharedMemConfig(CUsharedconfig config) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  return (unsigned)config > CU_SHARED_MEM_CONFIG_EIGHT_BYTE_BANK_SIZE ? CUDA_ERROR_INVALID_VALUE
                                                                      : CUDA_SUCCESS;
}

CUresult cuCtxResetPersistingL2Cache(void) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  return CUDA_SUCCESS;
}

/* All devices are memory of one process: peers need no work, only the bookkeeping. */
CUresult cuCtxEnablePeerAccess(CUcontext peer, unsigned flags) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  struct sim_context *context = sim_current();
  if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
  if (!context_is(peer) || ((struct sim_context *)peer)->device == context->device)
    return CUDA_ERROR_INVALID_CONTEXT;
  const uint64_t bit = 1ull << ((struct sim_context *)peer)->device;
  if (context->peers & bit) return CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED;
  context->peers |= bit;
  return CUDA_SUCCESS;
}

CUresult cuCtxDisablePeerAccess(CUcontext peer) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  struct sim_context *context = sim_current();
  if (!context_is(peer)) return CUDA_ERROR_INVALID_CONTEXT;
  const uint64_t bit = 1ull << ((struct sim_context *)peer)->device;
  if (!(context->peers & bit)) return CUDA_ERROR_PEER_ACCESS_NOT_ENABLED;
  context->peers &= ~bit;
  return CUDA_SUCCESS;
}

/* ---- primary contexts ---- */

#define DEVICE_CHECK(device)                                                           \
  if ((device) < 0 || (device) >= sim_config.devices) return CUDA_ERROR_INVALID_DEVICE

CUresult cuDevicePrimaryCtxRetain(CUcontext *handle, CUdevice device) {
  SIM_ENTER(SIM_NEED_INIT);
  if (handle == NULL) return CUDA_ERROR_INVALID_VALUE;
  DEVICE_CHECK(device);
  pthread_mutex_lock(&sim_lock);
  struct sim_context *context = primaries[device];
  CUresult result = CUDA_SUCCESS;
  if (context == NULL) {
    context = calloc(1, sizeof *context);
    if (context == NULL) abort();
    context->device = device;
    context->primary = true;
    primaries[device] = context;
    sim_handle_add(SIM_CONTEXT, context);
  }
  if (!context->alive) {
    context->flags = primary_flags[device];
    result = context_start(context);
  }
  if (result == CUDA_SUCCESS) context->retained++;
  pthread_mutex_unlock(&sim_lock);
  *handle = (CUcontext)context;
  return result;
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
  SIM_ENTER(SIM_NEED_INIT);
  DEVICE_CHECK(device);
  pthread_mutex_lock(&sim_lock);
  struct sim_context *context = primaries[device];
  CUresult result = CUDA_SUCCESS;
  if (context == NULL || context->retained == 0)
    result =
        sim_strict(CUDA_ERROR_INVALID_CONTEXT, "release of a primary context that is not retained");
  else if (--context->retained == 0) context_end(context);
  pthread_mutex_unlock(&sim_lock);
  return result;
}

CUresult cuDevicePrimaryCtxRelease(CUdevice device) { return cuDevicePrimaryCtxRelease_v2(device); }

CUresult cuDevicePrimaryCtxReset_v2(CUdevice device) {
  SIM_ENTER(SIM_NEED_INIT);
  DEVICE_CHECK(device);
  pthread_mutex_lock(&sim_lock);
  struct sim_context *context = primaries[device];
  if (context != NULL && context->alive) {
    const unsigned retained = context->retained;
    context_end(context);
    context->retained = retained;
    if (retained != 0) context_start(context);
  }
  pthread_mutex_unlock(&sim_lock);
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxReset(CUdevice device) { return cuDevicePrimaryCtxReset_v2(device); }

CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice device, unsigned flags) {
  SIM_ENTER(SIM_NEED_INIT);
  DEVICE_CHECK(device);
  primary_flags[device] = flags;
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxSetFlags(CUdevice device, unsigned flags) {
  return cuDevicePrimaryCtxSetFlags_v2(device, flags);
}

CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active) {
  SIM_ENTER(SIM_NEED_INIT);
  DEVICE_CHECK(device);
  if (flags != NULL) *flags = primary_flags[device];
  if (active != NULL) *active = primaries[device] != NULL && primaries[device]->alive;
  return CUDA_SUCCESS;
}
