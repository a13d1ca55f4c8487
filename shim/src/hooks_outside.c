/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hooks_outside.c: memory that cannot live in the arena, because the driver alone can make it:
 * pinned host memory, managed memory, arrays. All of it is counted; what occupies VRAM is refused
 * beyond the budget, so that no allocator walks around it.
 */
#include "devices.h"
#include "hooks_counted.h"

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
  return gb_answers(pointer) || gb_appvmm_substituted(pointer);
}
GB_WRAP(cuMemHostGetDevicePointer_v2, CUdeviceptr *pointer, void *host, unsigned flags) {
  return is_device_memory(host) ? CUDA_ERROR_INVALID_VALUE : real(pointer, host, flags);
}
GB_WRAP(cuMemHostGetFlags, unsigned *flags, void *host) {
  return is_device_memory(host) ? CUDA_ERROR_INVALID_VALUE : real(flags, host);
}

/* ---- managed memory, and hints, which mean nothing to memory we place ---- */

GB_WRAP(cuMemAllocManaged, CUdeviceptr *pointer, size_t bytes, unsigned flags) {
  GB_NOT_ON_DEVICE(CUDA_ERROR_NOT_SUPPORTED, "managed memory: use cudaMalloc");
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
  GB_NOT_ON_DEVICE(CUDA_ERROR_NOT_SUPPORTED, "arrays: use cudaMalloc");
  if (array == NULL || descriptor == NULL) return real(array, descriptor);
  CUDA_ARRAY3D_DESCRIPTOR flat = {.Width = descriptor->Width,
                                  .Height = descriptor->Height,
                                  .Format = descriptor->Format,
                                  .NumChannels = descriptor->NumChannels};
  uint64_t bytes = array_bytes(&flat, 1);
  GB_COUNTED(GB_SIDE_ARRAY, bytes, *array, real(array, descriptor));
}
GB_WRAP(cuArray3DCreate_v2, CUarray *array, const CUDA_ARRAY3D_DESCRIPTOR *descriptor) {
  GB_NOT_ON_DEVICE(CUDA_ERROR_NOT_SUPPORTED, "arrays: use cudaMalloc");
  if (array == NULL || descriptor == NULL) return real(array, descriptor);
  uint64_t bytes = array_bytes(descriptor, 1);
  GB_COUNTED(GB_SIDE_ARRAY, bytes, *array, real(array, descriptor));
}
GB_WRAP(cuMipmappedArrayCreate, CUmipmappedArray *array, const CUDA_ARRAY3D_DESCRIPTOR *descriptor,
        unsigned levels) {
  GB_NOT_ON_DEVICE(CUDA_ERROR_NOT_SUPPORTED, "arrays: use cudaMalloc");
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
