/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hooks_outside.c: memory that cannot live in the arena, because the driver alone can make it:
 * pinned host memory, managed memory, stream-ordered pools, arrays. All of it is counted; what
 * occupies VRAM is refused beyond the budget, so that no allocator walks around it.
 */
#include <pthread.h>
#include <string.h>

#include "hooks.h"

/* ---- account ---- */

/* Runs `call` between the promise and the entry in the account; `key` is read after the call. */
#define GB_COUNTED(kind, bytes, key, call)                     \
  do {                                                         \
    CUresult result = gb_side_reserve(kind, bytes);            \
    if (result != CUDA_SUCCESS) return result;                 \
    result = (call);                                           \
    if (result == CUDA_SUCCESS)                                \
      gb_side_commit(kind, (uint64_t)(uintptr_t)(key), bytes); \
    else                                                       \
      gb_side_abort(kind, bytes);                              \
    return result;                                             \
  } while (0)
/* Runs the call that frees; the account is settled when the driver has let go. */
#define GB_UNCOUNTED(kind, key, call)                                             \
  do {                                                                            \
    CUresult result = (call);                                                     \
    if (result == CUDA_SUCCESS) gb_side_remove(kind, (uint64_t)(uintptr_t)(key)); \
    return result;                                                                \
  } while (0)

/* ---- pinned host memory: shown, not limited ---- */

GB_WRAP(cuMemAllocHost_v2, void **pointer, size_t bytes) {
  if (pointer == NULL) return real(pointer, bytes);
  GB_COUNTED(GB_SIDE_PINNED, bytes, *pointer, real(pointer, bytes));
}
GB_WRAP(cuMemHostAlloc, void **pointer, size_t bytes, unsigned flags) {
  if (pointer == NULL) return real(pointer, bytes, flags);
  GB_COUNTED(GB_SIDE_PINNED, bytes, *pointer, real(pointer, bytes, flags));
}
GB_WRAP(cuMemFreeHost, void *pointer) { GB_UNCOUNTED(GB_SIDE_PINNED, pointer, real(pointer)); }
GB_WRAP(cuMemHostRegister, void *pointer, size_t bytes, unsigned flags) {
  GB_COUNTED(GB_SIDE_PINNED, bytes, pointer, real(pointer, bytes, flags));
}
GB_WRAP(cuMemHostRegister_v2, void *pointer, size_t bytes, unsigned flags) {
  GB_COUNTED(GB_SIDE_PINNED, bytes, pointer, real(pointer, bytes, flags));
}
GB_WRAP(cuMemHostUnregister, void *pointer) {
  GB_UNCOUNTED(GB_SIDE_PINNED, pointer, real(pointer));
}

/* Arena memory is device memory to the program, also where host memory backs it. */
static bool is_device_memory(const void *host) {
  CUdeviceptr pointer = (CUdeviceptr)(uintptr_t)host;
  return gb_manages(pointer) || gb_appvmm_substituted(pointer);
}
GB_WRAP(cuMemHostGetDevicePointer_v2, CUdeviceptr *pointer, void *host, unsigned flags) {
  return is_device_memory(host) ? CUDA_ERROR_INVALID_VALUE : real(pointer, host, flags);
}
GB_WRAP(cuMemHostGetFlags, unsigned *flags, void *host) {
  return is_device_memory(host) ? CUDA_ERROR_INVALID_VALUE : real(flags, host);
}

/* ---- managed memory, and hints, which mean nothing to memory we place ---- */

GB_WRAP(cuMemAllocManaged, CUdeviceptr *pointer, size_t bytes, unsigned flags) {
  if (pointer == NULL) return real(pointer, bytes, flags);
  GB_COUNTED(GB_SIDE_MANAGED, bytes, *pointer, real(pointer, bytes, flags));
}

GB_WRAP(cuMemAdvise, CUdeviceptr pointer, size_t bytes, CUmem_advise advice, CUdevice device) {
  return gb_manages(pointer) ? CUDA_SUCCESS : real(pointer, bytes, advice, device);
}
GB_WRAP(cuMemAdvise_v2, CUdeviceptr pointer, size_t bytes, CUmem_advise advice,
        CUmemLocation location) {
  return gb_manages(pointer) ? CUDA_SUCCESS : real(pointer, bytes, advice, location);
}
GB_WRAP(cuMemPrefetchAsync, CUdeviceptr pointer, size_t bytes, CUdevice device, CUstream stream) {
  return gb_manages(pointer) ? CUDA_SUCCESS : real(pointer, bytes, device, stream);
}
GB_WRAP(cuMemPrefetchAsync_v2, CUdeviceptr pointer, size_t bytes, CUmemLocation location,
        unsigned flags, CUstream stream) {
  return gb_manages(pointer) ? CUDA_SUCCESS : real(pointer, bytes, location, flags, stream);
}

/* A batch that names managed memory only goes to the driver; one of our ranges in it makes the
 * whole batch a hint that is not followed, which both calls allow (a discard permits to lose
 * contents, it does not demand it). */
static bool batch_is_ours(const CUdeviceptr *pointers, size_t count) {
  for (size_t i = 0; pointers != NULL && i < count; i++)
    if (gb_manages(pointers[i])) return true;
  return false;
}
GB_WRAP(cuMemPrefetchBatchAsync, CUdeviceptr *pointers, size_t *bytes, size_t count,
        CUmemLocation *locations, size_t *indices, size_t location_count, unsigned long long flags,
        CUstream stream) {
  if (batch_is_ours(pointers, count)) return CUDA_SUCCESS;
  return real(pointers, bytes, count, locations, indices, location_count, flags, stream);
}
GB_WRAP(cuMemDiscardBatchAsync, CUdeviceptr *pointers, size_t *bytes, size_t count,
        unsigned long long flags, CUstream stream) {
  if (batch_is_ours(pointers, count)) return CUDA_SUCCESS;
  return real(pointers, bytes, count, flags, stream);
}
GB_WRAP(cuMemDiscardAndPrefetchBatchAsync, CUdeviceptr *pointers, size_t *bytes, size_t count,
        CUmemLocation *locations, size_t *indices, size_t location_count, unsigned long long flags,
        CUstream stream) {
  if (batch_is_ours(pointers, count)) return CUDA_SUCCESS;
  return real(pointers, bytes, count, locations, indices, location_count, flags, stream);
}

/* ---- stream-ordered memory ---- */

/* Pools of host memory, which no VRAM budget concerns; more of them than this are counted like the
 * others. */
#define GB_HOST_POOLS_MAX 32
static CUmemoryPool host_pools[GB_HOST_POOLS_MAX];
static pthread_mutex_t host_pools_lock = PTHREAD_MUTEX_INITIALIZER;

static bool host_pool_exchange(CUmemoryPool from, CUmemoryPool to) {
  bool found = false;
  pthread_mutex_lock(&host_pools_lock);
  for (size_t i = 0; i < GB_HOST_POOLS_MAX && !found; i++) {
    if (host_pools[i] != from) continue;
    host_pools[i] = to;
    found = true;
  }
  pthread_mutex_unlock(&host_pools_lock);
  return found;
}

GB_WRAP(cuMemPoolCreate, CUmemoryPool *pool, const CUmemPoolProps *properties) {
  CUresult result = real(pool, properties);
  if (result == CUDA_SUCCESS && properties->location.type != CU_MEM_LOCATION_TYPE_DEVICE)
    (void)host_pool_exchange(NULL, *pool);
  return result;
}
GB_WRAP(cuMemPoolDestroy, CUmemoryPool pool) {
  CUresult result = real(pool);
  if (result == CUDA_SUCCESS && pool != NULL) (void)host_pool_exchange(pool, NULL);
  return result;
}

/* While its stream captures, an allocation becomes a node of the graph and owns nothing yet. */
GB_WRAP(cuMemAllocAsync, CUdeviceptr *pointer, size_t bytes, CUstream stream) {
  if (pointer == NULL || gb_recording(stream, real != gb_real.cuMemAllocAsync))
    return real(pointer, bytes, stream);
  GB_COUNTED(GB_SIDE_POOL, bytes, *pointer, real(pointer, bytes, stream));
}
GB_WRAP(cuMemAllocFromPoolAsync, CUdeviceptr *pointer, size_t bytes, CUmemoryPool pool,
        CUstream stream) {
  bool recording = gb_recording(stream, real != gb_real.cuMemAllocFromPoolAsync);
  if (pointer == NULL || pool == NULL || recording || host_pool_exchange(pool, pool))
    return real(pointer, bytes, pool, stream);
  GB_COUNTED(GB_SIDE_POOL, bytes, *pointer, real(pointer, bytes, pool, stream));
}
/* Memory of cuMemAlloc may not be freed this way: the driver refuses an address that its pools do
 * not know. */
GB_WRAP(cuMemFreeAsync, CUdeviceptr pointer, CUstream stream) {
  if (gb_manages(pointer)) return CUDA_ERROR_INVALID_VALUE;
  if (gb_recording(stream, real != gb_real.cuMemFreeAsync)) return real(pointer, stream);
  GB_UNCOUNTED(GB_SIDE_POOL, pointer, real(pointer, stream));
}

/* ---- arrays ---- */

/* Memory of sparse and deferred arrays is mapped later, from handles that are counted themselves.
 */
enum { GB_ARRAY_SPARSE = 0x40, GB_ARRAY_DEFERRED = 0x80 };

static uint64_t element_bytes(CUarray_format format) {
  switch ((int)format) {
    case 0x01: /* unsigned and signed 8-bit */
    case 0x08:
      return 1;
    case 0x02: /* 16-bit, half */
    case 0x09:
    case 0x10:
      return 2;
    default: /* 32-bit, float; block and planar formats are smaller: counted high rather than low */
      return 4;
  }
}

static uint64_t or_one(uint64_t extent) { return extent == 0 ? 1 : extent; }

static uint64_t array_bytes(const CUDA_ARRAY3D_DESCRIPTOR *descriptor, unsigned levels) {
  if ((descriptor->Flags & (GB_ARRAY_SPARSE | GB_ARRAY_DEFERRED)) != 0) return 0;
  uint64_t width = descriptor->Width, height = or_one(descriptor->Height),
           depth = or_one(descriptor->Depth);
  bool layered = (descriptor->Flags & CUDA_ARRAY3D_LAYERED) != 0;
  uint64_t total = 0;
  for (unsigned level = 0; level < levels && level < 32; level++) {
    total += width * height * depth * or_one(descriptor->NumChannels) *
             element_bytes(descriptor->Format);
    width = or_one(width / 2);
    height = or_one(height / 2);
    depth = layered ? depth : or_one(depth / 2);
  }
  return total;
}

GB_WRAP(cuArrayCreate_v2, CUarray *array, const CUDA_ARRAY_DESCRIPTOR *descriptor) {
  if (array == NULL || descriptor == NULL) return real(array, descriptor);
  CUDA_ARRAY3D_DESCRIPTOR flat = {.Width = descriptor->Width,
                                  .Height = descriptor->Height,
                                  .Format = descriptor->Format,
                                  .NumChannels = descriptor->NumChannels};
  uint64_t bytes = array_bytes(&flat, 1);
  GB_COUNTED(GB_SIDE_ARRAY, bytes, *array, real(array, descriptor));
}
GB_WRAP(cuArray3DCreate_v2, CUarray *array, const CUDA_ARRAY3D_DESCRIPTOR *descriptor) {
  if (array == NULL || descriptor == NULL) return real(array, descriptor);
  uint64_t bytes = array_bytes(descriptor, 1);
  GB_COUNTED(GB_SIDE_ARRAY, bytes, *array, real(array, descriptor));
}
GB_WRAP(cuMipmappedArrayCreate, CUmipmappedArray *array, const CUDA_ARRAY3D_DESCRIPTOR *descriptor,
        unsigned levels) {
  if (array == NULL || descriptor == NULL) return real(array, descriptor, levels);
  uint64_t bytes = array_bytes(descriptor, levels);
  GB_COUNTED(GB_SIDE_ARRAY, bytes, *array, real(array, descriptor, levels));
}
GB_WRAP(cuArrayDestroy, CUarray array) { GB_UNCOUNTED(GB_SIDE_ARRAY, array, real(array)); }
GB_WRAP(cuMipmappedArrayDestroy, CUmipmappedArray array) {
  GB_UNCOUNTED(GB_SIDE_ARRAY, array, real(array));
}

#define GB_SECTIONS GB_SECTION_OUTSIDE
#include "hooks_define.h"
