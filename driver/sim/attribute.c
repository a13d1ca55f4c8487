/* SPDX-License-Identifier: Apache-2.0 */
/* attribute.c: what the driver says about a pointer. */
#include "sim.h"

static bool is_host(const struct sim_region *region) {
  if (region->kind == SIM_REGION_MAPPING) return sim_chunk_on_host(region->chunk);
  return region->kind == SIM_REGION_HOST || region->kind == SIM_REGION_REGISTERED;
}

/* Memory mapped into a reservation: the driver's range is the whole reservation. */
static struct sim_span range_of(const struct sim_region *region) {
  struct sim_span range = {region->base, region->bytes};
  if (region->kind == SIM_REGION_MAPPING) sim_reservation_find(region->base, region->bytes, &range);
  return range;
}

/* Allocations are cut from larger blocks, which is what is mapped. */
static size_t mapped_bytes(const struct sim_region *region) {
  if (region->kind != SIM_REGION_DEVICE) return region->bytes;
  return (region->bytes + SIM_GRANULARITY - 1) / SIM_GRANULARITY * SIM_GRANULARITY;
}

static CUresult answer(const struct sim_region *region, CUpointer_attribute attribute,
                       uint64_t pointer, void *data) {
  const bool mapping = region->kind == SIM_REGION_MAPPING;
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
      *(CUcontext *)data = mapping ? NULL : (CUcontext)region->context;
      break;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
      *(unsigned *)data = is_host(region) ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
      break;
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER: *(CUdeviceptr *)data = pointer; break;
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
      if (!is_host(region) && region->kind != SIM_REGION_MANAGED) return CUDA_ERROR_INVALID_VALUE;
      *(void **)data = (void *)pointer;
      break;
    case CU_POINTER_ATTRIBUTE_P2P_TOKENS: return CUDA_ERROR_INVALID_VALUE;
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS: *(unsigned *)data = (region->flags >> 31) & 1u; break;
    case CU_POINTER_ATTRIBUTE_BUFFER_ID: *(unsigned long long *)data = region->buffer_id; break;
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
      *(unsigned *)data = region->kind == SIM_REGION_MANAGED;
      break;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: *(int *)data = region->device; break;
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
      *(int *)data = region->kind == SIM_REGION_DEVICE;
      break;
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR: *(CUdeviceptr *)data = range_of(region).base; break;
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE: *(size_t *)data = range_of(region).bytes; break;
    case CU_POINTER_ATTRIBUTE_MAPPED: *(int *)data = 1; break;
    case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
      *(int *)data = mapping ? (int)sim_chunk_handle_types(region->chunk) : 0;
      break;
    case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE: *(int *)data = 0; break;
    case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS: *(unsigned *)data = region->device_access; break;
    case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
      *(CUmemoryPool *)data = (CUmemoryPool)region->pool;
      break;
    case CU_POINTER_ATTRIBUTE_MAPPING_SIZE: *(size_t *)data = mapped_bytes(region); break;
    case CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR: *(CUdeviceptr *)data = region->base; break;
    case CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID:
      *(unsigned long long *)data = region->buffer_id;
      break;
    case CU_POINTER_ATTRIBUTE_IS_HW_DECOMPRESS_CAPABLE: *(int *)data = 0; break;
    default: return CUDA_ERROR_INVALID_VALUE;
  }
  return CUDA_SUCCESS;
}

CUresult cuPointerGetAttribute(void *data, CUpointer_attribute attribute, CUdeviceptr pointer) {
  SIM_ENTER(SIM_NEED_INIT);
  if (data == NULL) return CUDA_ERROR_INVALID_VALUE;
  pthread_mutex_lock(&sim_lock);
  const struct sim_region *region = sim_region_find(pointer);
  const CUresult result =
      region == NULL ? CUDA_ERROR_INVALID_VALUE : answer(region, attribute, pointer, data);
  pthread_mutex_unlock(&sim_lock);
  return result;
}

static size_t answer_bytes(CUpointer_attribute attribute) {
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
    case CU_POINTER_ATTRIBUTE_BUFFER_ID:
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
    case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
    case CU_POINTER_ATTRIBUTE_MAPPING_SIZE:
    case CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR:
    case CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID: return 8;
    default: return 4;
  }
}

/* Unlike the single form, memory unknown to the driver is no error here: every answer is zero. */
CUresult cuPointerGetAttributes(unsigned count, CUpointer_attribute *list, void **data,
                                CUdeviceptr pointer) {
  SIM_ENTER(SIM_NEED_INIT);
  if (list == NULL || data == NULL) return CUDA_ERROR_INVALID_VALUE;
  pthread_mutex_lock(&sim_lock);
  const struct sim_region *region = sim_region_find(pointer);
  for (unsigned i = 0; i < count; i++) {
    if (region != NULL && answer(region, list[i], pointer, data[i]) == CUDA_SUCCESS) continue;
    memset(data[i], 0, answer_bytes(list[i]));
    if (list[i] == CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL) *(int *)data[i] = -2;
  }
  pthread_mutex_unlock(&sim_lock);
  return CUDA_SUCCESS;
}

CUresult cuPointerSetAttribute(const void *value, CUpointer_attribute attribute,
                               CUdeviceptr pointer) {
  SIM_ENTER(SIM_NEED_INIT);
  if (value == NULL || attribute != CU_POINTER_ATTRIBUTE_SYNC_MEMOPS)
    return CUDA_ERROR_INVALID_VALUE;
  pthread_mutex_lock(&sim_lock);
  struct sim_region *region = sim_region_find(pointer);
  if (region != NULL)
    region->flags =
        (region->flags & 0x7fffffffu) | (*(const unsigned *)value != 0 ? 0x80000000u : 0u);
  pthread_mutex_unlock(&sim_lock);
  return region == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}
