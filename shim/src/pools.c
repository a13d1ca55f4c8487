/* SPDX-License-Identifier: Apache-2.0 */
/* pools.c: which pools there are and what they keep. */
#include "pools.h"

#include <pthread.h>

#include "real.h"
#include "side.h"

static struct pool {
  CUmemoryPool handle;
  CUdevice device;
  bool host;
  uint64_t idle; /* counted: reserved and not used */
} pools[GB_POOLS_MAX];
static uint32_t pool_count;
/* Taken before gb_lock. */
static pthread_mutex_t pools_lock = PTHREAD_MUTEX_INITIALIZER;

/* pre: pools_lock. */
static struct pool *find(CUmemoryPool handle) {
  for (uint32_t i = 0; i < pool_count; i++)
    if (pools[i].handle == handle) return &pools[i];
  return NULL;
}

static void set_idle(struct pool *pool, uint64_t bytes) {
  if (bytes == pool->idle) return;
  gb_side_adjust(pool->device, (int64_t)(bytes - pool->idle));
  pool->idle = bytes;
}

void gb_pools_enter(CUmemoryPool handle, CUdevice device, bool host) {
  pthread_mutex_lock(&pools_lock);
  if (handle != NULL && pool_count < GB_POOLS_MAX && find(handle) == NULL)
    pools[pool_count++] = (struct pool){.handle = handle, .device = device, .host = host};
  pthread_mutex_unlock(&pools_lock);
}

void gb_pools_leave(CUmemoryPool handle) {
  pthread_mutex_lock(&pools_lock);
  struct pool *pool = find(handle);
  if (pool != NULL) {
    set_idle(pool, 0);
    *pool = pools[--pool_count];
  }
  pthread_mutex_unlock(&pools_lock);
}

bool gb_pools_is_host(CUmemoryPool handle) {
  pthread_mutex_lock(&pools_lock);
  const struct pool *pool = find(handle);
  bool host = pool != NULL && pool->host;
  pthread_mutex_unlock(&pools_lock);
  return host;
}

CUmemoryPool gb_pools_current(void) {
  CUmemoryPool handle = NULL;
  CUdevice device = 0;
  if (gb_real.cuDeviceGetMemPool == NULL || gb_real.cuCtxGetDevice(&device) != CUDA_SUCCESS ||
      gb_real.cuDeviceGetMemPool(&handle, device) != CUDA_SUCCESS)
    return NULL;
  gb_pools_enter(handle, device, false);
  return handle;
}

/* pre: pools_lock. */
static uint64_t attribute_of(const struct pool *pool, CUmemPool_attribute attribute) {
  cuuint64_t bytes = 0;
  if (gb_real.cuMemPoolGetAttribute == NULL ||
      gb_real.cuMemPoolGetAttribute(pool->handle, attribute, &bytes) != CUDA_SUCCESS)
    return 0;
  return bytes;
}

/* While captures are live nothing is asked of the driver: what was known stands. */
static uint64_t refresh(void) {
  uint64_t idle = 0;
  for (uint32_t i = 0; i < pool_count; i++) {
    idle += pools[i].idle;
    if (pools[i].host || gb_live_captures != 0) continue;
    idle -= pools[i].idle;
    uint64_t reserved = attribute_of(&pools[i], CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT);
    uint64_t used = attribute_of(&pools[i], CU_MEMPOOL_ATTR_USED_MEM_CURRENT);
    set_idle(&pools[i], reserved > used ? reserved - used : 0);
    idle += pools[i].idle;
  }
  return idle;
}

void gb_pools_refresh(void) {
  pthread_mutex_lock(&pools_lock);
  (void)refresh();
  pthread_mutex_unlock(&pools_lock);
}

uint64_t gb_pools_trim(void) {
  if (gb_live_captures != 0) return 0;
  pthread_mutex_lock(&pools_lock);
  uint64_t before = refresh();
  for (uint32_t i = 0; i < pool_count; i++) {
    if (pools[i].idle != 0 && gb_real.cuMemPoolTrimTo != NULL)
      (void)gb_real.cuMemPoolTrimTo(pools[i].handle, 0);
  }
  uint64_t after = refresh();
  pthread_mutex_unlock(&pools_lock);
  CUdevice device = 0;
  if (gb_real.cuDeviceGraphMemTrim != NULL && gb_real.cuCtxGetDevice(&device) == CUDA_SUCCESS)
    (void)gb_real.cuDeviceGraphMemTrim(device);
  return before > after ? before - after : 0;
}

/* The pool itself has it: it changes from unused to used. */
static bool use_idle(CUmemoryPool handle, uint64_t bytes) {
  pthread_mutex_lock(&pools_lock);
  (void)refresh();
  struct pool *pool = find(handle);
  bool has = pool != NULL && pool->idle >= bytes;
  if (has) set_idle(pool, pool->idle - bytes);
  pthread_mutex_unlock(&pools_lock);
  return has;
}

/* A pool that grows takes whole steps, for which room is made as long as there is any to be made. */
CUresult gb_pools_reserve(CUmemoryPool handle, uint64_t bytes, uint64_t *reserved) {
  *reserved = bytes;
  if (use_idle(handle, bytes)) return gb_side_reserve(GB_SIDE_POOL, bytes);
  if (__builtin_add_overflow(bytes, GB_POOL_STEP_BYTES - 1, reserved)) return CUDA_ERROR_OUT_OF_MEMORY;
  *reserved -= *reserved % GB_POOL_STEP_BYTES;
  CUresult result = gb_side_reserve(GB_SIDE_POOL, *reserved);
  if (result == CUDA_SUCCESS) return CUDA_SUCCESS;
  (void)gb_pools_trim();
  *reserved = bytes;
  return gb_side_reserve(GB_SIDE_POOL, bytes);
}
