/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hooks_appvmm.c: programs that map memory by themselves (PyTorch's expandable segments, JAX,
 * NCCL). Ordinary device memory is ours behind a virtual handle, mapped in a reservation that is part
 * of the arena, and moves like any other (docs/adr/0009). Handles of the driver's count against the
 * VRAM budget; when that, or the card, is full, host memory of the same size stands in where nobody
 * can tell except by the clock.
 */
#include "area.h"
#include "appvmm.h"
#include "hooks_counted.h"
#include "ipc.h"

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

static CUresult create_refused(size_t bytes) {
  return GB_REFUSE(CUDA_ERROR_OUT_OF_MEMORY, "app_memory_refused",
                   "cuMemCreate of %zu bytes fits neither into the VRAM nor into the RAM this "
                   "program may use: raise --vram or --ram",
                   bytes);
}

/* returns: CUDA_ERROR_NOT_SUPPORTED when the driver has to make it. */
static CUresult create_virtual(CUmemGenericAllocationHandle *handle, size_t bytes,
                               const CUmemAllocationProp *properties) {
  struct gb_span *span = NULL;
  CUresult result = gb_app_create(properties, bytes, &span);
  if (result == CUDA_ERROR_OUT_OF_MEMORY && gb_relieve())
    result = gb_app_create(properties, bytes, &span);
  if (result == CUDA_ERROR_OUT_OF_MEMORY) return create_refused(bytes);
  if (result != CUDA_SUCCESS) return result;
  CUmemGenericAllocationHandle made = gb_appvmm_add_span(span, properties);
  if (made == 0) {
    gb_app_destroy(span);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  *handle = made;
  return CUDA_SUCCESS;
}

/* The driver makes memory of this size: for any other the error is its own. */
static bool is_whole_size(size_t bytes, const CUmemAllocationProp *properties) {
  size_t granularity = 0;
  if (bytes % GB_GRANULE == 0 || gb_real.cuMemGetAllocationGranularity == NULL) return bytes != 0;
  return gb_real.cuMemGetAllocationGranularity(&granularity, properties,
                                               CU_MEM_ALLOC_GRANULARITY_MINIMUM) == CUDA_SUCCESS &&
         bytes % granularity == 0;
}

GB_WRAP(cuMemCreate, CUmemGenericAllocationHandle *handle, size_t bytes,
        const CUmemAllocationProp *properties, unsigned long long flags) {
  if (handle == NULL || properties == NULL || !is_whole_size(bytes, properties))
    return real(handle, bytes, properties, flags);
  if (gb_app_ordinary(properties, bytes, flags)) {
    CUresult made = create_virtual(handle, bytes, properties);
    if (made != CUDA_ERROR_NOT_SUPPORTED) return made;
  }
  /* Host memory is the program's own choice: shown as pinned. */
  bool device = properties->location.type == CU_MEM_LOCATION_TYPE_DEVICE;
  enum gb_side_kind kind = device ? GB_SIDE_APP_VMM : GB_SIDE_PINNED;
  CUresult result = create_as_asked(handle, bytes, properties, flags, kind);
  if (!device || result != CUDA_ERROR_OUT_OF_MEMORY) return result;
  if (gb_relieve()) result = create_as_asked(handle, bytes, properties, flags, kind);
  if (result == CUDA_ERROR_OUT_OF_MEMORY) result = create_in_host(handle, bytes, properties, flags);
  return result == CUDA_ERROR_OUT_OF_MEMORY ? create_refused(bytes) : result;
}

GB_WRAP(cuMemRelease, CUmemGenericAllocationHandle handle) {
  gb_appvmm_lock();
  CUresult result = CUDA_SUCCESS;
  if (gb_appvmm_is_virtual(handle)) {
    if (!gb_appvmm_release(handle)) result = CUDA_ERROR_INVALID_VALUE;
  } else {
    result = real(handle);
    if (result == CUDA_SUCCESS) (void)gb_appvmm_release(handle);
  }
  gb_appvmm_unlock();
  return result;
}

/* ---- addresses ---- */

/* A program that names an address outside gets it if the driver grants it; else any will do. Inside
 * the arena addresses are ours to give. */
GB_WRAP(cuMemAddressReserve, CUdeviceptr *pointer, size_t bytes, size_t alignment,
        CUdeviceptr address, unsigned long long flags) {
  if (pointer == NULL || bytes == 0 || bytes % GB_GRANULE != 0 || flags != 0 ||
      (alignment & (alignment - 1)) != 0)
    return real(pointer, bytes, alignment, address, flags);
  CUdeviceptr granted = 0;
  if (address != 0 && !gb_owns(address)) {
    CUresult result = real(&granted, bytes, alignment, address, flags);
    if (result != CUDA_SUCCESS) return result;
  }
  if (granted == 0 || granted != address) {
    CUdeviceptr base = gb_area_reserve(bytes, alignment);
    if (base != 0 && granted != 0 && gb_real.cuMemAddressFree(granted, bytes) != CUDA_SUCCESS)
      gb_log(GB_LOG_WARN, "the driver keeps a reservation of %zu bytes", bytes);
    if (base != 0) granted = base;
  }
  if (granted == 0) return real(pointer, bytes, alignment, address, flags);
  *pointer = granted;
  return CUDA_SUCCESS;
}

GB_WRAP(cuMemAddressFree, CUdeviceptr pointer, size_t bytes) {
  struct gb_mapped mapped;
  if (!gb_owns(pointer)) return real(pointer, bytes);
  gb_appvmm_lock();
  bool empty = gb_area_holds(pointer, bytes) && !gb_appvmm_next(pointer, bytes, &mapped);
  bool freed = empty && gb_area_free(pointer, bytes);
  gb_appvmm_unlock();
  return freed ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

/* ---- mappings ---- */

/* The driver's checks, in its order. pre: gb_appvmm_lock. */
static CUresult check_map(CUdeviceptr pointer, size_t bytes, size_t offset,
                          const struct gb_span *span, unsigned long long flags) {
  struct gb_mapped mapped;
  if (pointer % GB_GRANULE != 0 || bytes == 0 || bytes % GB_GRANULE != 0 || offset != 0 ||
      flags != 0 || span == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  if (bytes != span->bytes) return CUDA_ERROR_NOT_SUPPORTED; /* as 580.159 says to a part */
  if (gb_owns(pointer) && gb_appvmm_next(pointer, bytes, &mapped)) return CUDA_ERROR_INVALID_VALUE;
  return CUDA_SUCCESS;
}

/* Where it is mapped already, or outside the arena, the driver maps it: it moves no more then. pre:
 * gb_appvmm_lock. */
static CUresult map_virtual(CUdeviceptr pointer, size_t bytes, size_t offset,
                            CUmemGenericAllocationHandle handle, unsigned long long flags) {
  struct gb_span *span = gb_appvmm_span(handle);
  CUresult result = check_map(pointer, bytes, offset, span, flags);
  if (result != CUDA_SUCCESS) return result;
  if (!gb_appvmm_has_room()) return CUDA_ERROR_OUT_OF_MEMORY;
  bool as_span = gb_owns(pointer) && !gb_appvmm_is_mapped(handle);
  if (as_span) {
    result = gb_app_map(span, pointer);
  } else {
    CUmemGenericAllocationHandle made = 0;
    result = gb_appvmm_fix(handle, &made);
    if (result == CUDA_SUCCESS) result = gb_real.cuMemMap(pointer, bytes, 0, made, 0);
  }
  if (result == CUDA_SUCCESS) gb_appvmm_map(pointer, bytes, handle, as_span);
  return result;
}

/* Of the arena only the program's own reservations are its to map. */
GB_WRAP(cuMemMap, CUdeviceptr pointer, size_t bytes, size_t offset,
        CUmemGenericAllocationHandle handle, unsigned long long flags) {
  if (gb_owns(pointer) && !gb_area_holds(pointer, bytes)) return CUDA_ERROR_INVALID_VALUE;
  gb_appvmm_lock();
  CUresult result = CUDA_SUCCESS;
  if (gb_appvmm_is_virtual(handle)) {
    result = map_virtual(pointer, bytes, offset, handle, flags);
  } else if (!gb_appvmm_has_room()) {
    result = CUDA_ERROR_OUT_OF_MEMORY;
  } else {
    result = real(pointer, bytes, offset, handle, flags);
    if (result == CUDA_SUCCESS) gb_appvmm_map(pointer, bytes, handle, false);
  }
  gb_appvmm_unlock();
  return result;
}

/* Whole mappings only, as in the driver; what is not mapped is passed over. pre: gb_appvmm_lock. */
static CUresult unmap_area(CUdeviceptr pointer, size_t bytes) {
  struct gb_mapped mapped;
  CUdeviceptr end = pointer + bytes;
  if (bytes == 0 || pointer % GB_GRANULE != 0 || !gb_area_holds(pointer, bytes))
    return CUDA_ERROR_INVALID_VALUE;
  if (gb_appvmm_next(pointer, bytes, &mapped) && mapped.pointer < pointer)
    return CUDA_ERROR_INVALID_VALUE;
  if (gb_appvmm_next(end - 1, 1, &mapped) && mapped.pointer + mapped.bytes > end)
    return CUDA_ERROR_INVALID_VALUE;
  while (gb_appvmm_next(pointer, bytes, &mapped)) {
    CUresult result = mapped.span != NULL ? gb_app_unmap(mapped.span)
                                          : gb_real.cuMemUnmap(mapped.pointer, mapped.bytes);
    if (result != CUDA_SUCCESS) return result;
    gb_appvmm_unmap(mapped.pointer, mapped.bytes);
  }
  return CUDA_SUCCESS;
}

GB_WRAP(cuMemUnmap, CUdeviceptr pointer, size_t bytes) {
  gb_appvmm_lock();
  CUresult result = CUDA_SUCCESS;
  if (gb_owns(pointer)) {
    result = unmap_area(pointer, bytes);
  } else {
    result = real(pointer, bytes);
    if (result == CUDA_SUCCESS) gb_appvmm_unmap(pointer, bytes);
  }
  gb_appvmm_unlock();
  return result;
}

GB_WRAP(cuMemSetAccess, CUdeviceptr pointer, size_t bytes, const CUmemAccessDesc *descriptors,
        size_t count) {
  if (!gb_owns(pointer)) return real(pointer, bytes, descriptors, count);
  gb_appvmm_lock();
  bool whole = gb_area_holds(pointer, bytes) && gb_appvmm_is_whole(pointer, bytes);
  CUresult result = whole ? gb_app_access(pointer, bytes, descriptors, count)
                          : CUDA_ERROR_INVALID_VALUE;
  gb_appvmm_unlock();
  return result;
}

/* Memory of cuMemAlloc has no access to ask for. */
GB_WRAP(cuMemGetAccess, unsigned long long *flags, const CUmemLocation *location,
        CUdeviceptr pointer) {
  if (!gb_answers(pointer) || flags == NULL || location == NULL)
    return real(flags, location, pointer);
  return gb_app_access_of(pointer, location, flags) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

/* ---- questions ---- */

GB_WRAP(cuMemGetAllocationPropertiesFromHandle, CUmemAllocationProp *properties,
        CUmemGenericAllocationHandle handle) {
  if (properties != NULL && gb_appvmm_properties(handle, properties)) return CUDA_SUCCESS;
  return gb_appvmm_is_virtual(handle) ? CUDA_ERROR_INVALID_VALUE : real(properties, handle);
}

/* Memory of cuMemAlloc, a peer's too, has no handle; NCCL chooses its path by this answer. */
GB_WRAP(cuMemRetainAllocationHandle, CUmemGenericAllocationHandle *handle, void *address) {
  CUdeviceptr pointer = (CUdeviceptr)(uintptr_t)address;
  struct gb_ipc_range peers;
  if (handle == NULL) return real(handle, address);
  if (gb_ipc_find(pointer, &peers)) return CUDA_ERROR_INVALID_VALUE;
  gb_appvmm_lock();
  CUresult result = CUDA_SUCCESS;
  if (!gb_appvmm_retain_virtual(pointer, handle)) {
    result = gb_answers(pointer) ? CUDA_ERROR_INVALID_VALUE : real(handle, address);
    if (result == CUDA_SUCCESS) gb_appvmm_retain(pointer, *handle);
  }
  gb_appvmm_unlock();
  return result;
}

/* ---- what others reach physically ---- */

GB_WRAP(cuMemExportToShareableHandle, void *shareable, CUmemGenericAllocationHandle handle,
        CUmemAllocationHandleType type, unsigned long long flags) {
  CUmemAllocationProp asked;
  if (!gb_appvmm_is_virtual(handle)) return real(shareable, handle, type, flags);
  if (shareable == NULL || !gb_appvmm_properties(handle, &asked) ||
      ((unsigned)asked.requestedHandleTypes & (unsigned)type) == 0)
    return CUDA_ERROR_INVALID_VALUE;
  gb_appvmm_lock();
  CUmemGenericAllocationHandle made = 0;
  CUresult result = gb_appvmm_fix(handle, &made);
  if (result == CUDA_SUCCESS) result = real(shareable, made, type, flags);
  gb_appvmm_unlock();
  return result;
}

/* CUarrayMapInfo of CUDA 11.1 and later; only the handle is of interest. */
struct array_map {
  unsigned char place[64];
  CUmemGenericAllocationHandle handle; /* 0 in what unmaps */
  unsigned char rest[24];
};
_Static_assert(sizeof(struct array_map) == 96, "CUarrayMapInfo");
#define GB_ARRAY_MAPS_ONCE 32u

/* Tiles of sparse arrays, in pieces; the stream keeps their order. */
GB_WRAP(cuMemMapArrayAsync, void *list, unsigned count, CUstream stream) {
  const struct array_map *maps = list;
  bool any = false;
  for (unsigned i = 0; maps != NULL && i < count; i++) any |= gb_appvmm_is_virtual(maps[i].handle);
  if (!any) return real(list, count, stream);
  CUresult result = CUDA_SUCCESS;
  gb_appvmm_lock();
  for (unsigned first = 0; first < count && result == CUDA_SUCCESS; first += GB_ARRAY_MAPS_ONCE) {
    struct array_map piece[GB_ARRAY_MAPS_ONCE];
    unsigned length = count - first < GB_ARRAY_MAPS_ONCE ? count - first : GB_ARRAY_MAPS_ONCE;
    for (unsigned i = 0; i < length && result == CUDA_SUCCESS; i++) {
      piece[i] = maps[first + i];
      if (gb_appvmm_is_virtual(piece[i].handle))
        result = gb_appvmm_fix(maps[first + i].handle, &piece[i].handle);
    }
    if (result == CUDA_SUCCESS) result = real(piece, length, stream);
  }
  gb_appvmm_unlock();
  return result;
}

/* A dma-buf is one physical allocation that never moves: what is ours and stand-in memory are not. */
GB_WRAP(cuMemGetHandleForAddressRange, void *handle, CUdeviceptr pointer, size_t bytes,
        CUmemRangeHandleType type, unsigned long long flags) {
  if (gb_answers(pointer) || gb_appvmm_substituted(pointer))
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
  if (gb_answers(pointer) || gb_appvmm_substituted(pointer)) return multicast_refused();
  return real(multicast, offset, pointer, bytes, flags);
}
GB_WRAP(cuMulticastBindMem, CUmemGenericAllocationHandle multicast, size_t offset,
        CUmemGenericAllocationHandle handle, size_t handle_offset, size_t bytes,
        unsigned long long flags) {
  if (!gb_appvmm_is_virtual(handle)) {
    if (gb_appvmm_stands_in(handle)) return multicast_refused();
    return real(multicast, offset, handle, handle_offset, bytes, flags);
  }
  gb_appvmm_lock();
  CUmemGenericAllocationHandle made = 0;
  CUresult result = gb_appvmm_fix(handle, &made);
  if (result == CUDA_SUCCESS)
    result = gb_appvmm_stands_in(handle)
                 ? multicast_refused()
                 : real(multicast, offset, made, handle_offset, bytes, flags);
  gb_appvmm_unlock();
  return result;
}

#define GB_SECTIONS GB_SECTION_APPVMM
#include "hooks_define.h"
