/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hooks_pool.c: stream-ordered memory. The driver's pools serve it; what they take of VRAM is
 * counted, and refused beyond the budget after everything unused has been given back. While its
 * stream captures, an allocation becomes a node of the graph and owns nothing yet.
 */
#include "devices.h"
#include "hooks_counted.h"
#include "pools.h"

static CUresult refused(CUresult result, size_t bytes) {
  if (result != CUDA_ERROR_OUT_OF_MEMORY) return result;
  return GB_REFUSE(result, "pool_memory_refused",
                   "a stream-ordered allocation of %zu bytes does not fit into the VRAM budget and "
                   "cannot live in RAM: raise --vram, or let the program use cudaMalloc",
                   bytes);
}

#define GB_FROM_POOL(pool, call)                               \
  do {                                                         \
    uint64_t reserved = 0;                                     \
    CUresult result = gb_pools_reserve(pool, bytes, &reserved); \
    if (result != CUDA_SUCCESS) return refused(result, bytes); \
    result = GB_RETRIED(call);                                 \
    bool given = result == CUDA_SUCCESS;                       \
    if (given) gb_side_commit(GB_SIDE_POOL, (uint64_t)*pointer, bytes); \
    gb_side_abort(GB_SIDE_POOL, given ? reserved - bytes : reserved); \
    gb_pools_refresh();                                        \
    return refused(result, bytes);                             \
  } while (0)

GB_WRAP(cuMemAllocAsync, CUdeviceptr *pointer, size_t bytes, CUstream stream) {
  GB_ON_CURRENT_DEVICE(gb_device_alloc(device, pointer, bytes)); /* at once */
  if (pointer == NULL || gb_recording(stream, real != gb_real.cuMemAllocAsync))
    return real(pointer, bytes, stream);
  CUmemoryPool pool = gb_pools_current();
  if (pool != NULL && gb_pools_is_host(pool)) return real(pointer, bytes, stream);
  GB_FROM_POOL(pool, real(pointer, bytes, stream));
}
GB_WRAP(cuMemAllocFromPoolAsync, CUdeviceptr *pointer, size_t bytes, CUmemoryPool pool,
        CUstream stream) {
  bool recording = gb_recording(stream, real != gb_real.cuMemAllocFromPoolAsync);
  if (pointer == NULL || pool == NULL || recording || gb_pools_is_host(pool))
    return real(pointer, bytes, pool, stream);
  GB_FROM_POOL(pool, real(pointer, bytes, pool, stream));
}

/* Memory of cuMemAlloc may not be freed this way: the driver refuses an address that its pools do
 * not know. */
GB_WRAP(cuMemFreeAsync, CUdeviceptr pointer, CUstream stream) {
  if (gb_devices_owns(pointer)) return gb_devices_free(pointer); /* at once, when all before is done */
  if (gb_manages(pointer))
    return GB_REFUSE(CUDA_ERROR_INVALID_VALUE, "free_async_refused",
                     "cuMemFreeAsync of 0x%llx, which cuMemAlloc gave: free it with cuMemFree",
                     (unsigned long long)pointer);
  if (gb_recording(stream, real != gb_real.cuMemFreeAsync)) return real(pointer, stream);
  CUresult result = real(pointer, stream);
  if (result == CUDA_SUCCESS && gb_side_remove(GB_SIDE_POOL, pointer) != 0) gb_pools_refresh();
  return result;
}

static bool is_host(const CUmemLocation *location) {
  return location->type == CU_MEM_LOCATION_TYPE_HOST ||
         location->type == CU_MEM_LOCATION_TYPE_HOST_NUMA ||
         location->type == CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT;
}

static void learn(const CUmemoryPool *pool, const CUmemLocation *location) {
  if (pool == NULL || location == NULL) return;
  bool device = location->type == CU_MEM_LOCATION_TYPE_DEVICE;
  if (device || is_host(location)) gb_pools_enter(*pool, device ? location->id : 0, !device);
}

GB_WRAP(cuMemPoolCreate, CUmemoryPool *pool, const CUmemPoolProps *properties) {
  CUresult result = GB_RETRIED(real(pool, properties));
  if (result == CUDA_SUCCESS) learn(pool, &properties->location);
  return result;
}
GB_WRAP(cuMemPoolDestroy, CUmemoryPool pool) {
  CUresult result = real(pool);
  if (result == CUDA_SUCCESS) gb_pools_leave(pool);
  return result;
}
GB_WRAP(cuMemPoolTrimTo, CUmemoryPool pool, size_t bytes) {
  CUresult result = real(pool, bytes);
  gb_pools_refresh();
  return result;
}
GB_WRAP(cuMemGetDefaultMemPool, CUmemoryPool *pool, CUmemLocation *location,
        CUmemAllocationType type) {
  CUresult result = real(pool, location, type);
  if (result == CUDA_SUCCESS) learn(pool, location);
  return result;
}
GB_WRAP(cuMemGetMemPool, CUmemoryPool *pool, CUmemLocation *location, CUmemAllocationType type) {
  CUresult result = real(pool, location, type);
  if (result == CUDA_SUCCESS) learn(pool, location);
  return result;
}

#define GB_SECTIONS GB_SECTION_POOL
#include "hooks_define.h"
