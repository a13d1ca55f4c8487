/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool.c: stream-ordered allocation. Memory is there at once (the order of a stream can only be
 * later); a free takes effect when the stream reaches it. Freed memory goes back to the GPU at
 * once: release thresholds are accepted and kept, nothing is cached.
 */
#include "sim.h"

#include <stdio.h>

struct sim_pool {
  int device;
  CUmemPoolProps props;
  uint64_t used, used_high;
  uint64_t release_threshold;
  int reuse[3];
};

static struct sim_pool *defaults[GBSIM_DEVICE_MAX],
    *current[GBSIM_DEVICE_MAX]; /* locks: sim_lock */

static struct sim_pool *pool_new(int device) {
  struct sim_pool *pool = calloc(1, sizeof *pool);
  if (pool == NULL) abort();
  pool->device = device;
  pool->props = (CUmemPoolProps){.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
                                 .location = {CU_MEM_LOCATION_TYPE_DEVICE, device}};
  for (int i = 0; i < 3; i++) pool->reuse[i] = 1;
  sim_handle_add(SIM_POOL, pool);
  return pool;
}

static struct sim_pool *pool_default(int device) {
  if (defaults[device] == NULL) defaults[device] = current[device] = pool_new(device);
  return defaults[device];
}

static CUresult alloc_async(CUdeviceptr *pointer, size_t bytes, CUmemoryPool from, CUstream handle,
                            CUstream fallback) {
  if (pointer == NULL || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  pthread_mutex_lock(&sim_lock);
  struct sim_context *context = sim_current();
  struct sim_stream *stream = SIM_S(handle);
  pool_default(context->device);
  struct sim_pool *pool = from == NULL ? current[context->device] : (struct sim_pool *)from;
  uint64_t address = 0;
  CUresult result =
      stream == NULL || !sim_handle_is(SIM_POOL, pool) ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
  if (result == CUDA_SUCCESS && stream->capture != NULL) {
    stream->capture->invalid = true;
    result = sim_not_simulated("stream-ordered allocation inside a capture");
  }
  if (result == CUDA_SUCCESS) result = sim_capture_guard();
  if (result == CUDA_SUCCESS) result = sim_device_alloc(context, SIM_REGION_POOL, bytes, &address);
  if (result == CUDA_SUCCESS) {
    sim_region_find(address)->pool = pool;
    pool->used += bytes;
    if (pool->used > pool->used_high) pool->used_high = pool->used;
    *pointer = address;
  }
  pthread_mutex_unlock(&sim_lock);
  return result;
}

/* Runs on a worker, in stream order. */
static void free_now(void *argument) {
  const uint64_t address = (uint64_t)argument;
  pthread_mutex_lock(&sim_lock);
  struct sim_region *region = sim_region_find(address);
  if (region == NULL || region->base != address || region->kind > SIM_REGION_POOL) {
    sim_strict(CUDA_ERROR_INVALID_VALUE, "0x%llx was freed twice", (unsigned long long)address);
  } else {
    if (region->pool != NULL) region->pool->used -= region->bytes;
    sim_region_free(region);
  }
  pthread_mutex_unlock(&sim_lock);
}

static CUresult free_async(CUdeviceptr pointer, CUstream handle, CUstream fallback) {
  if (pointer == 0) return CUDA_SUCCESS;
  pthread_mutex_lock(&sim_lock);
  struct sim_stream *stream = SIM_S(handle);
  const struct sim_region *region = sim_region_find(pointer);
  CUresult result = stream == NULL ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS;
  if (result == CUDA_SUCCESS && stream->capture == NULL) result = sim_capture_guard();
  if (result == CUDA_SUCCESS &&
      (region == NULL || region->base != pointer || region->kind > SIM_REGION_POOL))
    result = sim_strict(CUDA_ERROR_INVALID_VALUE,
                        "cuMemFreeAsync of 0x%llx, which is not an allocation", pointer);
  if (result == CUDA_SUCCESS) {
    struct sim_op *op = sim_op_new(SIM_OP_HOST);
    op->host.run = free_now;
    op->host.data = (void *)(uintptr_t)pointer;
    result = sim_submit(stream, op, NULL);
  }
  pthread_mutex_unlock(&sim_lock);
  return result;
}

#define POOL_CALLS(suffix, fallback)                                                              \
  CUresult cuMemAllocAsync##suffix(CUdeviceptr *pointer, size_t bytes, CUstream stream) {         \
    SIM_ENTER(SIM_NEED_CONTEXT);                                                                  \
    return alloc_async(pointer, bytes, NULL, stream, fallback);                                   \
  }                                                                                               \
  CUresult cuMemAllocFromPoolAsync##suffix(CUdeviceptr *pointer, size_t bytes, CUmemoryPool pool, \
                                           CUstream stream) {                                     \
    SIM_ENTER(SIM_NEED_CONTEXT);                                                                  \
    return pool == NULL ? CUDA_ERROR_INVALID_VALUE                                                \
                        : alloc_async(pointer, bytes, pool, stream, fallback);                    \
  }                                                                                               \
  CUresult cuMemFreeAsync##suffix(CUdeviceptr pointer, CUstream stream) {                         \
    SIM_ENTER(SIM_NEED_CONTEXT);                                                                  \
    return free_async(pointer, stream, fallback);                                                 \
  }
POOL_CALLS(, CU_STREAM_LEGACY)
POOL_CALLS(_ptsz, CU_STREAM_PER_THREAD)

/* ---- pools ---- */

CUresult cuMemPoolCreate(CUmemoryPool *pool, const CUmemPoolProps *props) {
  SIM_ENTER(SIM_NEED_INIT);
  if (pool == NULL || props == NULL || props->allocType != CU_MEM_ALLOCATION_TYPE_PINNED)
    return CUDA_ERROR_INVALID_VALUE;
  if (props->location.type != CU_MEM_LOCATION_TYPE_DEVICE || props->handleTypes != 0)
    return CUDA_ERROR_NOT_SUPPORTED;
  if (props->location.id < 0 || props->location.id >= sim_config.devices)
    return CUDA_ERROR_INVALID_DEVICE;
  struct sim_pool *made = pool_new(props->location.id);
  made->props = *props;
  *pool = (CUmemoryPool)made;
  return CUDA_SUCCESS;
}

CUresult cuMemPoolDestroy(CUmemoryPool handle) {
  SIM_ENTER(SIM_NEED_INIT);
  pthread_mutex_lock(&sim_lock);
  struct sim_pool *pool = (struct sim_pool *)handle;
  CUresult result = CUDA_SUCCESS;
  if (!sim_handle_is(SIM_POOL, pool) || defaults[pool->device] == pool) {
    result = sim_strict(CUDA_ERROR_INVALID_VALUE, "destroy of pool %p", (void *)handle);
  } else {
    if (current[pool->device] == pool) current[pool->device] = pool_default(pool->device);
    for (size_t i = 0; i < sim_region_count(); i++)
      if (sim_region_index(i)->pool == pool) sim_region_index(i)->pool = NULL;
    sim_handle_remove(pool);
    free(pool);
  }
  pthread_mutex_unlock(&sim_lock);
  return result;
}

CUresult cuMemPoolTrimTo(CUmemoryPool pool, size_t keep) {
  SIM_ENTER(SIM_NEED_INIT);
  (void)keep;
  return sim_handle_is(SIM_POOL, pool) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuMemPoolGetAttribute(CUmemoryPool handle, CUmemPool_attribute attribute, void *value) {
  SIM_ENTER(SIM_NEED_INIT);
  if (value == NULL || !sim_handle_is(SIM_POOL, handle)) return CUDA_ERROR_INVALID_VALUE;
  pthread_mutex_lock(&sim_lock);
  const struct sim_pool *pool = (const struct sim_pool *)handle;
  CUresult result = CUDA_SUCCESS;
  switch (attribute) {
    case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES:
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC:
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES:
      *(int *)value = pool->reuse[attribute - 1];
      break;
    case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD: *(cuuint64_t *)value = pool->release_threshold; break;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT:
    case CU_MEMPOOL_ATTR_USED_MEM_CURRENT: *(cuuint64_t *)value = pool->used; break;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH: *(cuuint64_t *)value = pool->used_high; break;
    default: result = CUDA_ERROR_INVALID_VALUE; break;
  }
  pthread_mutex_unlock(&sim_lock);
  return result;
}

CUresult cuMemPoolSetAttribute(CUmemoryPool handle, CUmemPool_attribute attribute, void *value) {
  SIM_ENTER(SIM_NEED_INIT);
  if (value == NULL || !sim_handle_is(SIM_POOL, handle)) return CUDA_ERROR_INVALID_VALUE;
  pthread_mutex_lock(&sim_lock);
  struct sim_pool *pool = (struct sim_pool *)handle;
  CUresult result = CUDA_SUCCESS;
  switch (attribute) {
    case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES:
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC:
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES:
      pool->reuse[attribute - 1] = *(const int *)value;
      break;
    case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
      pool->release_threshold = *(const cuuint64_t *)value;
      break;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH: pool->used_high = pool->used; break;
    default: result = CUDA_ERROR_INVALID_VALUE; break;
  }
  pthread_mutex_unlock(&sim_lock);
  return result;
}

CUresult cuMemPoolSetAccess(CUmemoryPool pool, const CUmemAccessDesc *map, size_t count) {
  SIM_ENTER(SIM_NEED_INIT);
  return map == NULL || count == 0 || !sim_handle_is(SIM_POOL, pool) ? CUDA_ERROR_INVALID_VALUE
                                                                     : CUDA_SUCCESS;
}

CUresult cuMemPoolGetAccess(CUmemAccess_flags *flags, CUmemoryPool pool, CUmemLocation *location) {
  SIM_ENTER(SIM_NEED_INIT);
  if (flags == NULL || location == NULL || !sim_handle_is(SIM_POOL, pool))
    return CUDA_ERROR_INVALID_VALUE;
  *flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  return CUDA_SUCCESS;
}

#define DEVICE_CHECK(device)                                                           \
  if ((device) < 0 || (device) >= sim_config.devices) return CUDA_ERROR_INVALID_DEVICE

CUresult cuDeviceGetDefaultMemPool(CUmemoryPool *pool, CUdevice device) {
  SIM_ENTER(SIM_NEED_INIT);
  if (pool == NULL) return CUDA_ERROR_INVALID_VALUE;
  DEVICE_CHECK(device);
  pthread_mutex_lock(&sim_lock);
  *pool = (CUmemoryPool)pool_default(device);
  pthread_mutex_unlock(&sim_lock);
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetMemPool(CUmemoryPool *pool, CUdevice device) {
  SIM_ENTER(SIM_NEED_INIT);
  if (pool == NULL) return CUDA_ERROR_INVALID_VALUE;
  DEVICE_CHECK(device);
  pthread_mutex_lock(&sim_lock);
  pool_default(device);
  *pool = (CUmemoryPool)current[device];
  pthread_mutex_unlock(&sim_lock);
  return CUDA_SUCCESS;
}

CUresult cuDeviceSetMemPool(CUdevice device, CUmemoryPool pool) {
  SIM_ENTER(SIM_NEED_INIT);
  DEVICE_CHECK(device);
  if (!sim_handle_is(SIM_POOL, pool)) return CUDA_ERROR_INVALID_VALUE;
  pthread_mutex_lock(&sim_lock);
  pool_default(device);
  current[device] = (struct sim_pool *)pool;
  pthread_mutex_unlock(&sim_lock);
  return CUDA_SUCCESS;
}
