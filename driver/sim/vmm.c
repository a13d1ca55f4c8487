/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vmm.c: virtual memory management with real mappings. A chunk is a memfd; mapping it shares its
 * pages at the chosen address; without access, or unmapped, the addresses are PROT_NONE and a touch
 * is a fault.
 */
#include "sim.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define RESERVATIONS_MAX 4096

struct sim_chunk {
  int fd;
  uint64_t bytes;
  uint64_t charged; /* 0 for host memory and for imported chunks */
  CUmemAllocationProp prop;
  unsigned held; /* references of the program */
  unsigned mapped;
};

static struct sim_span reservations[RESERVATIONS_MAX]; /* locks: sim_lock */
static size_t reservation_count;

bool sim_chunk_on_host(const struct sim_chunk *chunk) {
  return chunk->prop.location.type != CU_MEM_LOCATION_TYPE_DEVICE;
}
CUmemAllocationHandleType sim_chunk_handle_types(const struct sim_chunk *chunk) {
  return chunk->prop.requestedHandleTypes;
}

bool sim_reservation_find(uint64_t base, uint64_t bytes, struct sim_span *reservation) {
  for (size_t i = 0; i < reservation_count; i++) {
    const struct sim_span *it = &reservations[i];
    if (base < it->base || base - it->base > it->bytes) continue;
    if (bytes > it->bytes - (base - it->base)) continue;
    if (reservation != NULL) *reservation = *it;
    return true;
  }
  return false;
}

void sim_vmm_report_leaks(void) {
  if (reservation_count != 0)
    sim_strict(CUDA_SUCCESS, "%zu address reservations alive at exit", reservation_count);
}

/* ---- reservations ---- */

static void *reserve_at(uint64_t hint, uint64_t bytes) {
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void *pages = mmap((void *)hint, bytes, PROT_NONE, flags | MAP_FIXED_NOREPLACE, -1, 0);
  if (pages == MAP_FAILED) return NULL;
  if ((uint64_t)pages == hint) return pages;
  munmap(pages, bytes);
  return NULL;
}

static void *reserve_anywhere(uint64_t bytes, uint64_t align) {
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  uint8_t *pages = mmap(NULL, bytes + align, PROT_NONE, flags, -1, 0);
  if (pages == MAP_FAILED) return NULL;
  const uint64_t skip = (align - (uint64_t)pages % align) % align;
  if (skip != 0) munmap(pages, skip);
  munmap(pages + skip + bytes, align - skip);
  return pages + skip;
}

CUresult cuMemAddressReserve(CUdeviceptr *pointer, size_t bytes, size_t align, CUdeviceptr hint,
                             unsigned long long flags) {
  SIM_ENTER(SIM_NEED_INIT);
  if (pointer == NULL || bytes == 0 || bytes % SIM_GRANULARITY != 0 || flags != 0)
    return CUDA_ERROR_INVALID_VALUE;
  if ((align & (align - 1)) != 0 || bytes > 1ull << 46) return CUDA_ERROR_INVALID_VALUE;
  if (align < SIM_GRANULARITY) align = SIM_GRANULARITY;
  pthread_mutex_lock(&sim_lock);
  void *pages = NULL;
  if (reservation_count < RESERVATIONS_MAX) {
    if (hint != 0 && hint % align == 0 && bytes >= SIM_HINT_BYTES_MIN)
      pages = reserve_at(hint, bytes);
    if (pages == NULL) pages = reserve_anywhere(bytes, align);
  }
  if (pages != NULL) reservations[reservation_count++] = (struct sim_span){(uint64_t)pages, bytes};
  pthread_mutex_unlock(&sim_lock);
  if (pages == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
  *pointer = (uint64_t)pages;
  return CUDA_SUCCESS;
}

CUresult cuMemAddressFree(CUdeviceptr base, size_t bytes) {
  SIM_ENTER(SIM_NEED_INIT);
  CUresult result = CUDA_SUCCESS;
  pthread_mutex_lock(&sim_lock);
  size_t i = 0;
  while (i < reservation_count && (reservations[i].base != base || reservations[i].bytes != bytes))
    i++;
  if (i == reservation_count)
    result = sim_strict(CUDA_ERROR_INVALID_VALUE,
                        "cuMemAddressFree(0x%llx, %zu) names no reservation", base, bytes);
  else if (sim_region_overlaps(base, bytes))
    result = sim_strict(CUDA_ERROR_INVALID_VALUE,
                        "reservation 0x%llx is freed while parts are mapped", base);
  if (result == CUDA_SUCCESS) {
    munmap((void *)base, bytes);
    reservations[i] = reservations[--reservation_count];
  }
  pthread_mutex_unlock(&sim_lock);
  return result;
}

/* ---- chunks ---- */

static CUresult prop_check(const CUmemAllocationProp *prop) {
  if (prop == NULL || prop->type != CU_MEM_ALLOCATION_TYPE_PINNED) return CUDA_ERROR_INVALID_VALUE;
  if (prop->requestedHandleTypes & ~(CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR))
    return CUDA_ERROR_NOT_SUPPORTED;
  switch (prop->location.type) {
    case CU_MEM_LOCATION_TYPE_DEVICE:
      return prop->location.id >= 0 && prop->location.id < sim_config.devices
                 ? CUDA_SUCCESS
                 : CUDA_ERROR_INVALID_DEVICE;
    case CU_MEM_LOCATION_TYPE_HOST:
      if (prop->requestedHandleTypes != 0) return CUDA_ERROR_INVALID_VALUE;
      return sim_config.host_numa ? CUDA_SUCCESS : CUDA_ERROR_NOT_SUPPORTED;
    case CU_MEM_LOCATION_TYPE_HOST_NUMA:
      if (!sim_config.host_numa) return CUDA_ERROR_NOT_SUPPORTED;
      return prop->location.id == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    default: return CUDA_ERROR_INVALID_VALUE;
  }
}

CUresult cuMemGetAllocationGranularity(size_t *bytes, const CUmemAllocationProp *prop,
                                       CUmemAllocationGranularity_flags option) {
  SIM_ENTER(SIM_NEED_INIT);
  if (bytes == NULL || (unsigned)option > CU_MEM_ALLOC_GRANULARITY_RECOMMENDED)
    return CUDA_ERROR_INVALID_VALUE;
  const CUresult result = prop_check(prop);
  if (result == CUDA_SUCCESS) *bytes = SIM_GRANULARITY;
  return result;
}

static struct sim_chunk *chunk_new(int fd, uint64_t bytes, const CUmemAllocationProp *prop) {
  struct sim_chunk *chunk = calloc(1, sizeof *chunk);
  if (chunk == NULL) abort();
  chunk->fd = fd;
  chunk->bytes = bytes;
  chunk->prop = *prop;
  chunk->held = 1;
  sim_handle_add(SIM_CHUNK, chunk);
  return chunk;
}

CUresult cuMemCreate(CUmemGenericAllocationHandle *handle, size_t bytes,
                     const CUmemAllocationProp *prop, unsigned long long flags) {
  SIM_ENTER(SIM_NEED_INIT);
  if (handle == NULL || bytes == 0 || bytes % SIM_GRANULARITY != 0 || flags != 0)
    return CUDA_ERROR_INVALID_VALUE;
  const CUresult checked = prop_check(prop);
  if (checked != CUDA_SUCCESS) return checked;
  const bool device = prop->location.type == CU_MEM_LOCATION_TYPE_DEVICE;
  if (device && gbsim_gpu_charge(prop->location.id, bytes) != 0) return CUDA_ERROR_OUT_OF_MEMORY;
  char name[64];
  snprintf(name, sizeof name, "gbsim-%d-%d", (int)prop->location.type, prop->location.id);
  const int fd = memfd_create(name, MFD_CLOEXEC);
  if (fd < 0 || ftruncate(fd, (off_t)bytes) != 0) {
    if (fd >= 0) close(fd);
    if (device) gbsim_gpu_uncharge(prop->location.id, bytes);
    sim_log(1, "memfd of %zu bytes: %s", bytes, strerror(errno));
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  struct sim_chunk *chunk = chunk_new(fd, bytes, prop);
  chunk->charged = device ? bytes : 0;
  *handle = (CUmemGenericAllocationHandle)chunk;
  return CUDA_SUCCESS;
}

/* locks: held. */
static void chunk_drop(struct sim_chunk *chunk) {
  if (chunk->held != 0 || chunk->mapped != 0) return;
  close(chunk->fd);
  if (chunk->charged != 0) gbsim_gpu_uncharge(chunk->prop.location.id, chunk->charged);
  sim_handle_remove(chunk);
  free(chunk);
}

/* The chunk if the program holds it. locks: held. */
static struct sim_chunk *chunk_of(CUmemGenericAllocationHandle handle, const char *function) {
  struct sim_chunk *chunk = (struct sim_chunk *)handle;
  if (sim_handle_is(SIM_CHUNK, chunk) && chunk->held != 0) return chunk;
  sim_strict(CUDA_ERROR_INVALID_VALUE, "%s: memory handle 0x%llx is not alive", function, handle);
  return NULL;
}

CUresult cuMemRelease(CUmemGenericAllocationHandle handle) {
  SIM_ENTER(SIM_NEED_INIT);
  pthread_mutex_lock(&sim_lock);
  struct sim_chunk *chunk = chunk_of(handle, __func__);
  if (chunk != NULL) {
    chunk->held--;
    chunk_drop(chunk);
  }
  pthread_mutex_unlock(&sim_lock);
  return chunk == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *handle, void *address) {
  SIM_ENTER(SIM_NEED_INIT);
  if (handle == NULL) return CUDA_ERROR_INVALID_VALUE;
  pthread_mutex_lock(&sim_lock);
  const struct sim_region *region = sim_region_find((uint64_t)address);
  const bool found = region != NULL && region->kind == SIM_REGION_MAPPING;
  if (found) {
    region->chunk->held++;
    *handle = (CUmemGenericAllocationHandle)region->chunk;
  }
  pthread_mutex_unlock(&sim_lock);
  return found ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp *prop,
                                                CUmemGenericAllocationHandle handle) {
  SIM_ENTER(SIM_NEED_INIT);
  if (prop == NULL) return CUDA_ERROR_INVALID_VALUE;
  pthread_mutex_lock(&sim_lock);
  const struct sim_chunk *chunk = chunk_of(handle, __func__);
  if (chunk != NULL) *prop = chunk->prop;
  pthread_mutex_unlock(&sim_lock);
  return chunk == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult cuMemExportToShareableHandle(void *shareable, CUmemGenericAllocationHandle handle,
                                      CUmemAllocationHandleType type, unsigned long long flags) {
  SIM_ENTER(SIM_NEED_INIT);
  if (shareable == NULL || flags != 0 || type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
    return CUDA_ERROR_INVALID_VALUE;
  pthread_mutex_lock(&sim_lock);
  const struct sim_chunk *chunk = chunk_of(handle, __func__);
  int fd = -1;
  if (chunk != NULL && (chunk->prop.requestedHandleTypes & type))
    fd = fcntl(chunk->fd, F_DUPFD_CLOEXEC, 0);
  pthread_mutex_unlock(&sim_lock);
  if (fd < 0) return CUDA_ERROR_INVALID_VALUE;
  *(int *)shareable = fd;
  return CUDA_SUCCESS;
}

CUresult cuMemImportFromShareableHandle(CUmemGenericAllocationHandle *handle, void *shareable,
                                        CUmemAllocationHandleType type) {
  SIM_ENTER(SIM_NEED_INIT);
  if (handle == NULL || type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
    return CUDA_ERROR_INVALID_VALUE;
  const int given = (int)(intptr_t)shareable;
  char path[64], link[256];
  snprintf(path, sizeof path, "/proc/self/fd/%d", given);
  const ssize_t length = readlink(path, link, sizeof link - 1);
  if (length < 0) return CUDA_ERROR_INVALID_VALUE;
  link[length] = '\0';
  CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED, .requestedHandleTypes = type};
  int location = 0;
  struct stat status;
  if (sscanf(link, "/memfd:gbsim-%d-%d", &location, &prop.location.id) != 2 ||
      fstat(given, &status) != 0)
    return CUDA_ERROR_INVALID_VALUE;
  prop.location.type = (CUmemLocationType)location;
  const int fd = fcntl(given, F_DUPFD_CLOEXEC, 0);
  if (fd < 0) return CUDA_ERROR_OPERATING_SYSTEM;
  *handle = (CUmemGenericAllocationHandle)chunk_new(fd, (uint64_t)status.st_size, &prop);
  return CUDA_SUCCESS;
}

/* ---- mappings ---- */

CUresult cuMemMap(CUdeviceptr base, size_t bytes, size_t offset,
                  CUmemGenericAllocationHandle handle, unsigned long long flags) {
  SIM_ENTER(SIM_NEED_INIT);
  if (base % SIM_GRANULARITY != 0 || bytes == 0 || bytes % SIM_GRANULARITY != 0 || offset != 0 ||
      flags != 0)
    return CUDA_ERROR_INVALID_VALUE;
  CUresult result = CUDA_SUCCESS;
  const struct sim_op *user;
  pthread_mutex_lock(&sim_lock);
  struct sim_chunk *chunk = chunk_of(handle, __func__);
  if (chunk == NULL) result = CUDA_ERROR_INVALID_VALUE;
  else if (bytes != chunk->bytes) result = CUDA_ERROR_NOT_SUPPORTED;
  else if (!sim_reservation_find(base, bytes, NULL))
    result = sim_strict(CUDA_ERROR_INVALID_VALUE, "map at 0x%llx, which is not reserved", base);
  else if (sim_region_overlaps(base, bytes))
    result = sim_strict(CUDA_ERROR_INVALID_VALUE, "map at 0x%llx, which is mapped", base);
  else if ((user = sim_range_user(base, bytes)) != NULL)
    result = sim_strict(CUDA_ERROR_ILLEGAL_STATE, "map of 0x%llx+%zu, which %s was given", base,
                        bytes, sim_op_name(user));
  else if (mmap((void *)base, bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, chunk->fd, 0) == MAP_FAILED)
    result = CUDA_ERROR_MAP_FAILED;
  if (result == CUDA_SUCCESS) {
    chunk->mapped++;
    sim_region_add((struct sim_region){
        .base = base,
        .bytes = bytes,
        .kind = SIM_REGION_MAPPING,
        .device =
            chunk->prop.location.type == CU_MEM_LOCATION_TYPE_DEVICE ? chunk->prop.location.id : 0,
        .chunk = chunk,
        .changed = sim_strict_mapped(base, bytes)});
  }
  pthread_mutex_unlock(&sim_lock);
  return result;
}

/* True when the range is whole mappings, one after the other. locks: held. */
static bool whole_mappings(uint64_t base, uint64_t bytes) {
  const uint64_t end = base + bytes;
  while (base < end) {
    const struct sim_region *region = sim_region_find(base);
    if (region == NULL || region->kind != SIM_REGION_MAPPING || region->base != base ||
        region->bytes > end - base)
      return false;
    base += region->bytes;
  }
  return true;
}

CUresult cuMemUnmap(CUdeviceptr base, size_t bytes) {
  SIM_ENTER(SIM_NEED_INIT);
  if (bytes == 0 || base + bytes < base) return CUDA_ERROR_INVALID_VALUE;
  CUresult result = CUDA_SUCCESS;
  const struct sim_op *user;
  pthread_mutex_lock(&sim_lock);
  if (!whole_mappings(base, bytes))
    result = sim_strict(CUDA_ERROR_INVALID_VALUE,
                        "unmap of 0x%llx+%zu, which is not whole mappings", base, bytes);
  else if ((user = sim_range_user(base, bytes)) != NULL)
    result = sim_strict(CUDA_ERROR_ILLEGAL_STATE, "unmap of 0x%llx+%zu, which %s was given", base,
                        bytes, sim_op_name(user));
  else if (mmap((void *)base, bytes, PROT_NONE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
    result = CUDA_ERROR_UNMAP_FAILED;
  if (result == CUDA_SUCCESS) sim_strict_unmapped(base, bytes);
  for (uint64_t at = base; result == CUDA_SUCCESS && at < base + bytes;) {
    const struct sim_region region = *sim_region_find(at);
    sim_region_remove(at);
    region.chunk->mapped--;
    chunk_drop(region.chunk);
    at += region.bytes;
  }
  pthread_mutex_unlock(&sim_lock);
  return result;
}

static CUresult access_check(const CUmemAccessDesc *desc, size_t count) {
  for (size_t i = 0; i < count; i++) {
    const CUmemLocation at = desc[i].location;
    if (desc[i].flags != 0 && desc[i].flags != CU_MEM_ACCESS_FLAGS_PROT_READ &&
        desc[i].flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE)
      return CUDA_ERROR_INVALID_VALUE;
    if (at.type == CU_MEM_LOCATION_TYPE_DEVICE && (at.id < 0 || at.id >= sim_config.devices))
      return CUDA_ERROR_INVALID_DEVICE;
    if (at.type != CU_MEM_LOCATION_TYPE_DEVICE && at.type != CU_MEM_LOCATION_TYPE_HOST &&
        at.type != CU_MEM_LOCATION_TYPE_HOST_NUMA)
      return CUDA_ERROR_INVALID_VALUE;
  }
  return CUDA_SUCCESS;
}

CUresult cuMemSetAccess(CUdeviceptr base, size_t bytes, const CUmemAccessDesc *desc, size_t count) {
  SIM_ENTER(SIM_NEED_INIT);
  if (desc == NULL || count == 0 || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  CUresult result = access_check(desc, count);
  if (result != CUDA_SUCCESS) return result;
  pthread_mutex_lock(&sim_lock);
  if (!whole_mappings(base, bytes))
    result = sim_strict(CUDA_ERROR_INVALID_VALUE,
                        "access to 0x%llx+%zu, which is not whole mappings", base, bytes);
  for (uint64_t at = base; result == CUDA_SUCCESS && at < base + bytes;) {
    struct sim_region *region = sim_region_find(at);
    for (size_t i = 0; i < count && result == CUDA_SUCCESS; i++) {
      if (desc[i].location.type == CU_MEM_LOCATION_TYPE_DEVICE)
        region->device_access = desc[i].flags;
      else if (!sim_chunk_on_host(region->chunk))
        result = CUDA_ERROR_NOT_SUPPORTED; /* the CPU cannot reach VRAM */
      else region->host_access = desc[i].flags;
    }
    const int access = (int)(region->device_access | region->host_access);
    const int protection = access & 2 ? PROT_READ | PROT_WRITE : access & 1 ? PROT_READ : PROT_NONE;
    if (result == CUDA_SUCCESS &&
        mprotect((void *)at, region->bytes, sim_strict_veil(region, protection)) != 0)
      result = CUDA_ERROR_MAP_FAILED;
    at += region->bytes;
  }
  pthread_mutex_unlock(&sim_lock);
  return result;
}

CUresult cuMemGetAccess(unsigned long long *flags, const CUmemLocation *location,
                        CUdeviceptr pointer) {
  SIM_ENTER(SIM_NEED_INIT);
  if (flags == NULL || location == NULL) return CUDA_ERROR_INVALID_VALUE;
  pthread_mutex_lock(&sim_lock);
  const struct sim_region *region = sim_region_find(pointer);
  const bool found = region != NULL && region->kind == SIM_REGION_MAPPING;
  if (found)
    *flags =
        location->type == CU_MEM_LOCATION_TYPE_DEVICE ? region->device_access : region->host_access;
  pthread_mutex_unlock(&sim_lock);
  return found ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
