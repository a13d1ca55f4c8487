/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hooks_memory.c: the allocations the arena serves, and every question about a pointer. Arena
 * pointers are answered by the core; everything else is the driver's, with two exceptions: memory
 * sizes are those of the virtual device, and host memory that stands in for VRAM says it is VRAM.
 */
#include "devices.h"
#include "green.h"
#include "hooks.h"
#include "ipc.h"
#include "pools.h"
#include "refuse.h"

/* Programs probe: an allocation that fails may well be tried again smaller. */
static CUresult allocated(CUresult result, size_t bytes) {
  if (result != CUDA_ERROR_OUT_OF_MEMORY) return result;
  return GB_REFUSE(result, "memory_refused",
                   "%zu bytes fit neither into the VRAM nor into the RAM this program may use: "
                   "raise --vram or --ram, or add a feeder",
                   bytes);
}

/* What is allocated under a green context belongs to the primary one. */
GB_WRAP(cuMemAlloc_v2, CUdeviceptr *pointer, size_t bytes) {
  (void)real;
  if (pointer == NULL) return CUDA_ERROR_INVALID_VALUE;
  GB_ON_CURRENT_DEVICE(gb_device_alloc(device, pointer, bytes));
  bool green = gb_green_enter();
  CUresult result = gb_alloc(pointer, bytes);
  if (green) gb_green_leave();
  return allocated(result, bytes);
}

GB_WRAP(cuMemAllocPitch_v2, CUdeviceptr *pointer, size_t *pitch, size_t width_bytes, size_t height,
        unsigned element_bytes) {
  (void)real;
  if (pointer == NULL || pitch == NULL) return CUDA_ERROR_INVALID_VALUE;
  GB_ON_CURRENT_DEVICE(gb_device_alloc_pitch(device, pointer, pitch, width_bytes, height, element_bytes));
  bool green = gb_green_enter();
  CUresult result = gb_alloc_pitch(pointer, pitch, width_bytes, height, element_bytes);
  if (green) gb_green_leave();
  return allocated(result, width_bytes * height);
}

/* cuMemFree also ends managed and stream-ordered allocations. Their account is settled after the
 * driver has let go. */
GB_WRAP(cuMemFree_v2, CUdeviceptr pointer) {
  if (gb_devices_owns(pointer)) return gb_devices_free(pointer);
  if (gb_manages(pointer)) return gb_free(pointer);
  CUresult result = real(pointer);
  if (result == CUDA_SUCCESS && pointer != 0 && gb_side_remove(GB_SIDE_MANAGED, pointer) == 0 &&
      gb_side_remove(GB_SIDE_POOL, pointer) != 0)
    gb_pools_refresh();
  return result;
}

GB_WRAP(cuMemGetInfo_v2, size_t *free_bytes, size_t *total_bytes) {
  size_t real_free = 0, real_total = 0;
  GB_ON_CURRENT_DEVICE(gb_device_memory(device, free_bytes, total_bytes));
  gb_pools_refresh(); /* a synchronisation may have given memory back since */
  CUresult result = real(&real_free, &real_total);
  if (result != CUDA_SUCCESS) return result;
  uint64_t virtual_free = real_free, virtual_total = real_total;
  CUdevice device;
  if (gb_real.cuCtxGetDevice != NULL && gb_real.cuCtxGetDevice(&device) == CUDA_SUCCESS)
    gb_identity_memory(device, real_free, real_total, &virtual_free, &virtual_total);
  if (free_bytes != NULL) *free_bytes = virtual_free;
  if (total_bytes != NULL) *total_bytes = virtual_total;
  return CUDA_SUCCESS;
}

GB_WRAP(cuMemGetAddressRange_v2, CUdeviceptr *base, size_t *bytes, CUdeviceptr pointer) {
  struct gb_ipc_range range;
  if (gb_devices_owns(pointer)) return gb_devices_address_range(base, bytes, pointer);
  if (gb_answers(pointer)) return gb_address_range(base, bytes, pointer);
  if (gb_appvmm_address_range(base, bytes, pointer)) return CUDA_SUCCESS;
  if (!gb_ipc_find(pointer, &range)) return real(base, bytes, pointer);
  if (base != NULL) *base = range.base;
  if (bytes != NULL) *bytes = range.bytes;
  return CUDA_SUCCESS;
}

/* Memory of a peer is mapped memory to the driver; to the program it is that allocation, opened by
 * this context. returns: true when `data` was set. */
static bool peer_attribute(void *data, CUpointer_attribute attribute, CUdeviceptr pointer) {
  struct gb_ipc_range range;
  if (attribute != CU_POINTER_ATTRIBUTE_CONTEXT &&
      attribute != CU_POINTER_ATTRIBUTE_RANGE_START_ADDR &&
      attribute != CU_POINTER_ATTRIBUTE_RANGE_SIZE)
    return false;
  if (!gb_ipc_find(pointer, &range)) return false;
  if (attribute == CU_POINTER_ATTRIBUTE_CONTEXT)
    *(CUcontext *)data = range.context;
  else if (attribute == CU_POINTER_ATTRIBUTE_RANGE_START_ADDR)
    *(CUdeviceptr *)data = range.base;
  else
    *(size_t *)data = range.bytes;
  return true;
}

/* Triton asks for DEVICE_POINTER once per argument and launch: the arena test comes first. */
GB_WRAP(cuPointerGetAttribute, void *data, CUpointer_attribute attribute, CUdeviceptr pointer) {
  if (gb_answers(pointer)) return gb_pointer_attribute(data, attribute, pointer);
  if (gb_devices_owns(pointer)) return gb_devices_pointer_attribute(data, attribute, pointer);
  if (data != NULL && gb_appvmm_attribute(data, attribute, pointer))
    return attribute == CU_POINTER_ATTRIBUTE_HOST_POINTER ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
  if (data != NULL && peer_attribute(data, attribute, pointer)) return CUDA_SUCCESS;
  return real(data, attribute, pointer);
}

/* The list form never fails for attributes a pointer does not have: those are zero. */
static CUresult attributes_by(CUresult (*ask)(void *, CUpointer_attribute, CUdeviceptr), unsigned count,
                              const CUpointer_attribute *attributes, void **data, CUdeviceptr pointer) {
  if (count == 0 || attributes == NULL || data == NULL) return CUDA_ERROR_INVALID_VALUE;
  for (unsigned i = 0; i < count; i++) {
    if (data[i] == NULL) return CUDA_ERROR_INVALID_VALUE;
    CUresult result = ask(data[i], attributes[i], pointer);
    if (result == CUDA_ERROR_INVALID_VALUE && attributes[i] == CU_POINTER_ATTRIBUTE_HOST_POINTER)
      *(void **)data[i] = NULL;
    else if (result != CUDA_SUCCESS)
      return result;
  }
  return CUDA_SUCCESS;
}

GB_WRAP(cuPointerGetAttributes, unsigned count, CUpointer_attribute *attributes, void **data,
        CUdeviceptr pointer) {
  if (gb_answers(pointer)) return attributes_by(gb_pointer_attribute, count, attributes, data, pointer);
  if (gb_devices_owns(pointer) && gb_devices_address_range(NULL, NULL, pointer) == CUDA_SUCCESS)
    return attributes_by(gb_devices_pointer_attribute, count, attributes, data, pointer);
  CUresult result = real(count, attributes, data, pointer);
  bool rewritten = result == CUDA_SUCCESS && gb_appvmm_address_range(NULL, NULL, pointer);
  bool peers = result == CUDA_SUCCESS && gb_ipc_open_count != 0;
  for (unsigned i = 0; i < count && (rewritten || peers); i++) {
    if (!rewritten || !gb_appvmm_attribute(data[i], attributes[i], pointer))
      (void)peer_attribute(data[i], attributes[i], pointer);
  }
  return result;
}

/* SYNC_MEMOPS is the only attribute that can be set; copies of the arena are ordered by their
 * streams already. */
GB_WRAP(cuPointerSetAttribute, const void *value, CUpointer_attribute attribute,
        CUdeviceptr pointer) {
  if (!gb_answers(pointer)) return real(value, attribute, pointer);
  return value != NULL && attribute == CU_POINTER_ATTRIBUTE_SYNC_MEMOPS ? CUDA_SUCCESS
                                                                        : CUDA_ERROR_INVALID_VALUE;
}

/* Managed memory only: for anything else the driver says INVALID_VALUE, and so do we for ours. */
GB_WRAP(cuMemRangeGetAttribute, void *data, size_t data_bytes, CUmem_range_attribute attribute,
        CUdeviceptr pointer, size_t bytes) {
  return gb_manages(pointer) ? CUDA_ERROR_INVALID_VALUE
                             : real(data, data_bytes, attribute, pointer, bytes);
}
GB_WRAP(cuMemRangeGetAttributes, void **data, size_t *data_bytes, CUmem_range_attribute *attributes,
        size_t count, CUdeviceptr pointer, size_t bytes) {
  return gb_manages(pointer) ? CUDA_ERROR_INVALID_VALUE
                             : real(data, data_bytes, attributes, count, pointer, bytes);
}

#define GB_SECTIONS GB_SECTION_MEMORY
#include "hooks_define.h"
