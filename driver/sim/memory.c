/* SPDX-License-Identifier: Apache-2.0 */
/* memory.c: the table of what lies where, and plain, managed, pinned and registered memory. */
#include "sim.h"

#include <stdio.h>
#include <sys/mman.h>

static struct sim_region *regions; /* sorted by base */
static size_t region_count, region_capacity;
static uint64_t next_buffer_id = 1;

/* ---- the table ---- */

static size_t first_after(uint64_t address) {
  size_t low = 0, high = region_count;
  while (low < high) {
    const size_t middle = (low + high) / 2;
    if (regions[middle].base <= address) low = middle + 1;
    else high = middle;
  }
  return low;
}

struct sim_region *sim_region_find(uint64_t address) {
  const size_t i = first_after(address);
  if (i == 0 || address - regions[i - 1].base >= regions[i - 1].bytes) return NULL;
  return &regions[i - 1];
}

bool sim_region_overlaps(uint64_t base, uint64_t bytes) {
  const size_t i = first_after(base);
  return (i > 0 && base - regions[i - 1].base < regions[i - 1].bytes) ||
         (i < region_count && regions[i].base - base < bytes);
}

struct sim_region *sim_region_add(struct sim_region region) {
  if (region_count == region_capacity) {
    region_capacity = region_capacity == 0 ? 256 : region_capacity * 2;
    regions = realloc(regions, region_capacity * sizeof *regions);
    if (regions == NULL) abort();
  }
  const size_t i = first_after(region.base);
  memmove(&regions[i + 1], &regions[i], (region_count - i) * sizeof *regions);
  regions[i] = region;
  regions[i].buffer_id = next_buffer_id++;
  region_count++;
  return &regions[i];
}

void sim_region_remove(uint64_t base) {
  const size_t i = first_after(base);
  if (i == 0 || regions[i - 1].base != base) return;
  memmove(&regions[i - 1], &regions[i], (region_count - i) * sizeof *regions);
  region_count--;
}

size_t sim_region_count(void) { return region_count; }
struct sim_region *sim_region_index(size_t index) { return &regions[index]; }

bool sim_in_vram(uint64_t address) {
  const struct sim_region *region = sim_region_find(address);
  if (region == NULL) return false;
  if (region->kind == SIM_REGION_MAPPING) return !sim_chunk_on_host(region->chunk);
  return region->kind == SIM_REGION_DEVICE || region->kind == SIM_REGION_POOL ||
         region->kind == SIM_REGION_GLOBAL;
}

bool sim_range_known(uint64_t base, uint64_t bytes) {
  const uint64_t end = base + bytes;
  while (base < end) {
    const struct sim_region *region = sim_region_find(base);
    if (region == NULL) return false;
    base = region->base + region->bytes;
  }
  return true;
}

/* ---- pages ---- */

static uint64_t page_round(uint64_t bytes) { return (bytes + SIM_PAGE - 1) & ~(SIM_PAGE - 1); }

uint64_t sim_pages(uint64_t bytes) {
  if (bytes == 0 || bytes > UINT64_MAX - SIM_PAGE) return 0;
  void *pages = mmap(NULL, page_round(bytes), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return pages == MAP_FAILED ? 0 : (uint64_t)pages;
}

CUresult sim_device_alloc(struct sim_context *context, enum sim_region_kind kind, uint64_t bytes,
                          uint64_t *address) {
  if (bytes > UINT64_MAX / 2) return CUDA_ERROR_OUT_OF_MEMORY;
  const uint64_t charged = (bytes + SIM_ALLOC_ALIGN - 1) & ~(SIM_ALLOC_ALIGN - 1);
  if (gbsim_gpu_charge(context->device, charged) != 0) return CUDA_ERROR_OUT_OF_MEMORY;
  *address = sim_pages(bytes);
  if (*address == 0) {
    gbsim_gpu_uncharge(context->device, charged);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  sim_region_add((struct sim_region){.base = *address,
                                     .bytes = bytes,
                                     .kind = kind,
                                     .device = context->device,
                                     .charged = charged,
                                     .context = context,
                                     .device_access = CU_MEM_ACCESS_FLAGS_PROT_READWRITE});
  return CUDA_SUCCESS;
}

void sim_region_free(struct sim_region *region) {
  const struct sim_region copy = *region;
  sim_region_remove(copy.base);
  if (copy.kind != SIM_REGION_REGISTERED && copy.kind != SIM_REGION_GLOBAL)
    munmap((void *)copy.base, page_round(copy.bytes));
  if (copy.charged != 0) gbsim_gpu_uncharge(copy.device, copy.charged);
}

void sim_context_free_memory(struct sim_context *context) {
  for (size_t i = region_count; i > 0; i--) {
    struct sim_region *region = &regions[i - 1];
    if (region->context == context && region->kind != SIM_REGION_MAPPING) sim_region_free(region);
  }
}

/* ---- device memory ---- */

CUresult cuMemAlloc_v2(CUdeviceptr *pointer, size_t bytes) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  if (pointer == NULL || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  pthread_mutex_lock(&sim_lock);
  CUresult result = sim_capture_guard();
  uint64_t address = 0;
  if (result == CUDA_SUCCESS)
    result = sim_device_alloc(sim_current(), SIM_REGION_DEVICE, bytes, &address);
  pthread_mutex_unlock(&sim_lock);
  if (result == CUDA_SUCCESS) *pointer = address;
  return result;
}

CUresult cuMemAllocPitch_v2(CUdeviceptr *pointer, size_t *pitch, size_t width, size_t height,
                            unsigned element) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  if (pointer == NULL || pitch == NULL || width == 0 || height == 0)
    return CUDA_ERROR_INVALID_VALUE;
  if (element != 4 && element != 8 && element != 16) return CUDA_ERROR_INVALID_VALUE;
  if (width > (1ull << 40) || height > (1ull << 40) / width) return CUDA_ERROR_INVALID_VALUE;
  const size_t row = (width + 511) & ~(size_t)511;
  uint64_t address = 0;
  pthread_mutex_lock(&sim_lock);
  CUresult result = sim_capture_guard();
  if (result == CUDA_SUCCESS)
    result = sim_device_alloc(sim_current(), SIM_REGION_DEVICE, row * height, &address);
  pthread_mutex_unlock(&sim_lock);
  if (result != CUDA_SUCCESS) return result;
  *pointer = address;
  *pitch = row;
  return CUDA_SUCCESS;
}

/* As the driver: waits for everything of the owner's context first. */
CUresult cuMemFree_v2(CUdeviceptr pointer) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  if (pointer == 0) return CUDA_SUCCESS;
  pthread_mutex_lock(&sim_lock);
  CUresult result = sim_capture_guard();
  struct sim_region *region = result == CUDA_SUCCESS ? sim_region_find(pointer) : NULL;
  if (result == CUDA_SUCCESS &&
      (region == NULL || region->base != pointer || region->kind > SIM_REGION_MANAGED))
    result = sim_strict(CUDA_ERROR_INVALID_VALUE, "cuMemFree of 0x%llx, which is not an allocation",
                        pointer);
  if (result == CUDA_SUCCESS) result = sim_context_wait(region->context);
  region = result == CUDA_SUCCESS ? sim_region_find(pointer) : NULL; /* the wait dropped the lock */
  if (region != NULL && region->base == pointer) sim_region_free(region);
  else if (result == CUDA_SUCCESS)
    result = sim_strict(CUDA_ERROR_INVALID_VALUE, "0x%llx was freed twice", pointer);
  pthread_mutex_unlock(&sim_lock);
  return result;
}

CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total_bytes) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  struct gbsim_usage usage;
  if (gbsim_gpu_usage(sim_current()->device, &usage) != 0) return CUDA_ERROR_SYSTEM_NOT_READY;
  if (free_bytes != NULL) *free_bytes = usage.total_bytes - usage.used_bytes;
  if (total_bytes != NULL) *total_bytes = usage.total_bytes;
  return CUDA_SUCCESS;
}

/* For host chunks the driver answers their size and a base of zero. */
CUresult cuMemGetAddressRange_v2(CUdeviceptr *base, size_t *bytes, CUdeviceptr pointer) {
  SIM_ENTER(SIM_NEED_INIT);
  pthread_mutex_lock(&sim_lock);
  const struct sim_region *region = sim_region_find(pointer);
  const bool found =
      region != NULL && region->kind != SIM_REGION_HOST && region->kind != SIM_REGION_REGISTERED;
  if (found && base != NULL) {
    const bool host = region->kind == SIM_REGION_MAPPING && sim_chunk_on_host(region->chunk);
    *base = host ? 0 : region->base;
  }
  if (found && bytes != NULL) *bytes = region->bytes;
  pthread_mutex_unlock(&sim_lock);
  return found ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

/* ---- managed memory: host pages that both sides may touch ---- */

CUresult cuMemAllocManaged(CUdeviceptr *pointer, size_t bytes, unsigned flags) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  if (pointer == NULL || bytes == 0 ||
      (flags != CU_MEM_ATTACH_GLOBAL && flags != CU_MEM_ATTACH_HOST))
    return CUDA_ERROR_INVALID_VALUE;
  const uint64_t address = sim_pages(bytes);
  if (address == 0) return CUDA_ERROR_OUT_OF_MEMORY;
  pthread_mutex_lock(&sim_lock);
  sim_region_add((struct sim_region){.base = address,
                                     .bytes = bytes,
                                     .kind = SIM_REGION_MANAGED,
                                     .device = sim_current()->device,
                                     .flags = flags,
                                     .context = sim_current()});
  pthread_mutex_unlock(&sim_lock);
  *pointer = address;
  return CUDA_SUCCESS;
}

/* Hints: right for managed memory, refused for any other as by the driver. */
static CUresult managed_hint(CUdeviceptr pointer, size_t bytes) {
  pthread_mutex_lock(&sim_lock);
  const struct sim_region *region = sim_region_find(pointer);
  const bool good = region != NULL && region->kind == SIM_REGION_MANAGED && bytes != 0 &&
                    bytes <= region->base + region->bytes - pointer;
  pthread_mutex_unlock(&sim_lock);
  return good ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuMemAdvise(CUdeviceptr pointer, size_t bytes, CUmem_advise advice, CUdevice device) {
  SIM_ENTER(SIM_NEED_INIT);
  (void)advice;
  (void)device;
  return managed_hint(pointer, bytes);
}
CUresult cuMemAdvise_v2(CUdeviceptr pointer, size_t bytes, CUmem_advise advice,
                        CUmemLocation location) {
  SIM_ENTER(SIM_NEED_INIT);
  (void)advice;
  (void)location;
  return managed_hint(pointer, bytes);
}
#define PREFETCH_V1(name)                                                              \
  CUresult name(CUdeviceptr pointer, size_t bytes, CUdevice device, CUstream stream) { \
    SIM_ENTER(SIM_NEED_CONTEXT);                                                       \
    (void)device;                                                                      \
    (void)stream;                                                                      \
    return managed_hint(pointer, bytes);                                               \
  }
#define PREFETCH_V2(name)                                                                  \
  CUresult name(CUdeviceptr pointer, size_t bytes, CUmemLocation location, unsigned flags, \
                CUstream stream) {                                                         \
    SIM_ENTER(SIM_NEED_CONTEXT);                                                           \
    (void)location;                                                                        \
    (void)stream;                                                                          \
    return flags != 0 ? CUDA_ERROR_INVALID_VALUE : managed_hint(pointer, bytes);           \
  }
PREFETCH_V1(cuMemPrefetchAsync)
PREFETCH_V1(cuMemPrefetchAsync_ptsz)
PREFETCH_V2(cuMemPrefetchAsync_v2)
PREFETCH_V2(cuMemPrefetchAsync_v2_ptsz)

/* ---- host memory ---- */

CUresult cuMemHostAlloc(void **pointer, size_t bytes, unsigned flags) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  if (pointer == NULL || bytes == 0 || flags > 7) return CUDA_ERROR_INVALID_VALUE;
  pthread_mutex_lock(&sim_lock);
  CUresult result = sim_capture_guard();
  const uint64_t address = result == CUDA_SUCCESS ? sim_pages(bytes) : 0;
  if (result == CUDA_SUCCESS && address == 0) result = CUDA_ERROR_OUT_OF_MEMORY;
  if (result == CUDA_SUCCESS)
    sim_region_add((struct sim_region){.base = address,
                                       .bytes = bytes,
                                       .kind = SIM_REGION_HOST,
                                       .device = sim_current()->device,
                                       .flags = flags,
                                       .context = sim_current()});
  pthread_mutex_unlock(&sim_lock);
  if (result == CUDA_SUCCESS) *pointer = (void *)address;
  return result;
}

CUresult cuMemAllocHost_v2(void **pointer, size_t bytes) {
  return cuMemHostAlloc(pointer, bytes, 0);
}

/* Takes away a region of `kind` that starts at `pointer`, after its context's work. */
static CUresult host_remove(const void *pointer, enum sim_region_kind kind, CUresult error) {
  pthread_mutex_lock(&sim_lock);
  struct sim_region *region = sim_region_find((uint64_t)pointer);
  CUresult result = CUDA_SUCCESS;
  if (region == NULL || region->base != (uint64_t)pointer || region->kind != kind)
    result = sim_strict(error, "%p is not %s memory", pointer,
                        kind == SIM_REGION_HOST ? "pinned" : "registered");
  if (result == CUDA_SUCCESS) result = sim_context_wait(region->context);
  region = result == CUDA_SUCCESS ? sim_region_find((uint64_t)pointer) : NULL;
  if (region != NULL && region->base == (uint64_t)pointer) sim_region_free(region);
  pthread_mutex_unlock(&sim_lock);
  return result;
}

CUresult cuMemFreeHost(void *pointer) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  return host_remove(pointer, SIM_REGION_HOST, CUDA_ERROR_INVALID_VALUE);
}

CUresult cuMemHostRegister_v2(void *pointer, size_t bytes, unsigned flags) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  if (pointer == NULL || bytes == 0 || flags > 15) return CUDA_ERROR_INVALID_VALUE;
  pthread_mutex_lock(&sim_lock);
  CUresult result = sim_capture_guard();
  if (result == CUDA_SUCCESS && sim_region_overlaps((uint64_t)pointer, bytes))
    result = CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
  if (result == CUDA_SUCCESS)
    sim_region_add((struct sim_region){.base = (uint64_t)pointer,
                                       .bytes = bytes,
                                       .kind = SIM_REGION_REGISTERED,
                                       .device = sim_current()->device,
                                       .flags = flags,
                                       .context = sim_current()});
  pthread_mutex_unlock(&sim_lock);
  return result;
}

CUresult cuMemHostUnregister(void *pointer) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  return host_remove(pointer, SIM_REGION_REGISTERED, CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
}

static CUresult host_region(const void *pointer, struct sim_region *out) {
  pthread_mutex_lock(&sim_lock);
  const struct sim_region *region = sim_region_find((uint64_t)pointer);
  const bool found =
      region != NULL && (region->kind == SIM_REGION_HOST || region->kind == SIM_REGION_REGISTERED);
  if (found) *out = *region;
  pthread_mutex_unlock(&sim_lock);
  return found ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr *device_pointer, void *pointer, unsigned flags) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  struct sim_region region;
  if (device_pointer == NULL || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  const CUresult result = host_region(pointer, &region);
  if (result == CUDA_SUCCESS) *device_pointer = (uint64_t)pointer;
  return result;
}

CUresult cuMemHostGetFlags(unsigned *flags, void *pointer) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  struct sim_region region;
  if (flags == NULL) return CUDA_ERROR_INVALID_VALUE;
  const CUresult result = host_region(pointer, &region);
  if (result == CUDA_SUCCESS) *flags = region.flags;
  return result;
}
