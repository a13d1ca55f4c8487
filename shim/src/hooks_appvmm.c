/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hooks_appvmm.c: programs that map memory by themselves (PyTorch's expandable segments, JAX,
 * NCCL). Their device memory counts against the VRAM budget; when that, or the card, is full, host
 * memory of the same size stands in where nobody can tell except by the clock.
 */
#include "appvmm.h"
#include "hooks_counted.h"

/* ---- creation ---- */

/* Memory that other devices or fabrics address physically cannot be replaced. A POSIX handle can:
 * host memory is shared between processes in the same way. */
static bool replaceable(const CUmemAllocationProp *properties) {
  return properties->type == CU_MEM_ALLOCATION_TYPE_PINNED &&
         (properties->requestedHandleTypes == CU_MEM_HANDLE_TYPE_NONE ||
          properties->requestedHandleTypes == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) &&
         properties->allocFlags.compressionType == 0 && properties->allocFlags.usage == 0 &&
         gb_host_numa_node() >= 0;
}

/* Creates memory whose room is reserved already and enters it. `asked` is what the program will be
 * told it has. */
static CUresult create_counted(CUmemGenericAllocationHandle *handle, size_t bytes,
                               const CUmemAllocationProp *made, const CUmemAllocationProp *asked,
                               unsigned long long flags, enum gb_side_kind kind) {
  CUresult result = gb_real.cuMemCreate(handle, bytes, made, flags);
  if (result != CUDA_SUCCESS) {
    gb_side_abort(kind, bytes);
    return result;
  }
  if (gb_appvmm_add(*handle, kind, bytes, asked)) return CUDA_SUCCESS;
  if (gb_real.cuMemRelease != NULL) (void)gb_real.cuMemRelease(*handle);
  gb_side_abort(kind, bytes);
  return CUDA_ERROR_OUT_OF_MEMORY;
}

static CUresult create_as_asked(CUmemGenericAllocationHandle *handle, size_t bytes,
                                const CUmemAllocationProp *properties, unsigned long long flags,
                                enum gb_side_kind kind) {
  CUresult result = gb_side_reserve(kind, bytes);
  if (result != CUDA_SUCCESS) return result;
  return create_counted(handle, bytes, properties, properties, flags, kind);
}

static CUresult create_in_host(CUmemGenericAllocationHandle *handle, size_t bytes,
                               const CUmemAllocationProp *asked, unsigned long long flags) {
  if (!replaceable(asked) || gb_side_reserve(GB_SIDE_APP_VMM_HOST, bytes) != CUDA_SUCCESS)
    return CUDA_ERROR_OUT_OF_MEMORY;
  CUmemAllocationProp made = *asked, told = *asked;
  made.location.type = CU_MEM_LOCATION_TYPE_HOST_NUMA;
  made.location.id = gb_host_numa_node();
  made.allocFlags.gpuDirectRDMACapable = 0;
  told.allocFlags.gpuDirectRDMACapable = 0;
  CUresult result = create_counted(handle, bytes, &made, &told, flags, GB_SIDE_APP_VMM_HOST);
  return result == CUDA_SUCCESS ? result : CUDA_ERROR_OUT_OF_MEMORY;
}

GB_WRAP(cuMemCreate, CUmemGenericAllocationHandle *handle, size_t bytes,
        const CUmemAllocationProp *properties, unsigned long long flags) {
  if (handle == NULL || properties == NULL || bytes == 0)
    return real(handle, bytes, properties, flags);
  /* Host memory is the program's own choice: shown as pinned. */
  bool device = properties->location.type == CU_MEM_LOCATION_TYPE_DEVICE;
  enum gb_side_kind kind = device ? GB_SIDE_APP_VMM : GB_SIDE_PINNED;
  CUresult result = create_as_asked(handle, bytes, properties, flags, kind);
  if (!device || result != CUDA_ERROR_OUT_OF_MEMORY) return result;
  if (gb_relieve()) result = create_as_asked(handle, bytes, properties, flags, kind);
  if (result == CUDA_ERROR_OUT_OF_MEMORY) result = create_in_host(handle, bytes, properties, flags);
  if (result != CUDA_ERROR_OUT_OF_MEMORY) return result;
  return GB_REFUSE(result, "app_memory_refused",
                   "cuMemCreate of %zu bytes fits neither into the VRAM nor into the RAM this "
                   "program may use: raise --vram or --ram",
                   bytes);
}

/* ---- life ---- */

GB_WRAP(cuMemRelease, CUmemGenericAllocationHandle handle) {
  gb_appvmm_lock();
  CUresult result = real(handle);
  if (result == CUDA_SUCCESS) gb_appvmm_release(handle);
  gb_appvmm_unlock();
  return result;
}

/* The arena is one reservation of ours: the program may not map, unmap or free inside it. */
GB_WRAP(cuMemMap, CUdeviceptr pointer, size_t bytes, size_t offset,
        CUmemGenericAllocationHandle handle, unsigned long long flags) {
  if (gb_owns(pointer)) return CUDA_ERROR_INVALID_VALUE;
  gb_appvmm_lock();
  CUresult result = real(pointer, bytes, offset, handle, flags);
  if (result == CUDA_SUCCESS) gb_appvmm_map(pointer, bytes, handle);
  gb_appvmm_unlock();
  return result;
}
GB_WRAP(cuMemUnmap, CUdeviceptr pointer, size_t bytes) {
  if (gb_owns(pointer)) return CUDA_ERROR_INVALID_VALUE;
  gb_appvmm_lock();
  CUresult result = real(pointer, bytes);
  if (result == CUDA_SUCCESS) gb_appvmm_unmap(pointer, bytes);
  gb_appvmm_unlock();
  return result;
}
GB_WRAP(cuMemAddressFree, CUdeviceptr pointer, size_t bytes) {
  return gb_owns(pointer) ? CUDA_ERROR_INVALID_VALUE : real(pointer, bytes);
}
GB_WRAP(cuMemSetAccess, CUdeviceptr pointer, size_t bytes, const CUmemAccessDesc *descriptors,
        size_t count) {
  return gb_owns(pointer) ? CUDA_ERROR_INVALID_VALUE : real(pointer, bytes, descriptors, count);
}

/* ---- questions ---- */

GB_WRAP(cuMemGetAllocationPropertiesFromHandle, CUmemAllocationProp *properties,
        CUmemGenericAllocationHandle handle) {
  if (properties != NULL && gb_appvmm_properties(handle, properties)) return CUDA_SUCCESS;
  return real(properties, handle);
}

/* Arena memory looks like memory of cuMemAlloc, which has no handle; NCCL chooses its path by this
 * answer. */
GB_WRAP(cuMemRetainAllocationHandle, CUmemGenericAllocationHandle *handle, void *address) {
  if (gb_manages((CUdeviceptr)(uintptr_t)address)) return CUDA_ERROR_INVALID_VALUE;
  gb_appvmm_lock();
  CUresult result = real(handle, address);
  if (result == CUDA_SUCCESS) gb_appvmm_retain(*handle);
  gb_appvmm_unlock();
  return result;
}

/* A dma-buf is one physical allocation that never moves: arena and stand-in memory are not. */
GB_WRAP(cuMemGetHandleForAddressRange, void *handle, CUdeviceptr pointer, size_t bytes,
        CUmemRangeHandleType type, unsigned long long flags) {
  if (gb_manages(pointer) || gb_appvmm_substituted(pointer))
    return GB_REFUSE(CUDA_ERROR_NOT_SUPPORTED, "dma_buf_refused",
                     "a dma-buf of memory that may move: let the program use host memory for its "
                     "network card, or cuMemCreate with gpuDirectRDMACapable");
  return real(handle, pointer, bytes, type, flags);
}

static CUresult multicast_refused(void) {
  return GB_REFUSE(CUDA_ERROR_NOT_SUPPORTED, "multicast_refused",
                   "a multicast object on memory that is not VRAM, or may move: raise --vram, or "
                   "run with NCCL_NVLS_ENABLE=0");
}

/* A multicast object keeps the physical memory it was bound to, whatever is mapped at the address
 * later. */
GB_WRAP(cuMulticastBindAddr, CUmemGenericAllocationHandle multicast, size_t offset,
        CUdeviceptr pointer, size_t bytes, unsigned long long flags) {
  if (gb_manages(pointer) || gb_appvmm_substituted(pointer))
    return multicast_refused();
  return real(multicast, offset, pointer, bytes, flags);
}
GB_WRAP(cuMulticastBindMem, CUmemGenericAllocationHandle multicast, size_t offset,
        CUmemGenericAllocationHandle handle, size_t handle_offset, size_t bytes,
        unsigned long long flags) {
  if (gb_appvmm_stands_in(handle)) return multicast_refused();
  return real(multicast, offset, handle, handle_offset, bytes, flags);
}

#define GB_SECTIONS GB_SECTION_APPVMM
#include "hooks_define.h"
