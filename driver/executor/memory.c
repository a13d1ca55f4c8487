/* SPDX-License-Identifier: Apache-2.0 */
/* memory.c: see memory.h. */
#define _GNU_SOURCE
#include "memory.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define ARENA_BYTES_MAX (4ull << 40)
#define ADDRESS_END (1ull << 47)

static const struct gbx_result ok = {GBX_OK, 0};

static struct gbx_result failed(enum gbx_status_code status, int detail) {
  return (struct gbx_result){status, detail};
}

static struct gbx_result from_cuda(CUresult result) {
  if (result == CUDA_SUCCESS)
    return ok;
  return failed(result == CUDA_ERROR_OUT_OF_MEMORY ? GBX_CAPACITY : GBX_DRIVER, (int)result);
}

static struct gbx_result from_errno(int error) {
  return failed(error == ENOMEM || error == EAGAIN ? GBX_CAPACITY : GBX_SYSTEM, error);
}

static void (*_Atomic end_by)(void *context, int cuda_error);
static void *end_context; /* set before */

void gbx_end_by(void (*end)(void *context, int cuda_error), void *context) {
  end_context = context;
  atomic_store(&end_by, end);
}

bool gbx_is_fatal(int cuda_error) {
  return cuda_error == CUDA_ERROR_DEINITIALIZED || cuda_error == CUDA_ERROR_ECC_UNCORRECTABLE ||
         cuda_error == CUDA_ERROR_ILLEGAL_ADDRESS || cuda_error == CUDA_ERROR_CONTEXT_IS_DESTROYED ||
         cuda_error == CUDA_ERROR_NVLINK_UNCORRECTABLE || cuda_error == CUDA_ERROR_LAUNCH_TIMEOUT ||
         (cuda_error >= CUDA_ERROR_ASSERT && cuda_error <= CUDA_ERROR_LAUNCH_FAILED);
}

void gbx_end_if_fatal(struct gbx_result result) {
  if (result.status != GBX_DRIVER || !gbx_is_fatal(result.detail))
    return;
  void (*end)(void *context, int cuda_error) = atomic_load(&end_by);
  if (end) {
    end(end_context, result.detail);
    return;
  }
  fprintf(stderr, "gb-executor: the GPU context has failed with CUresult %d; ending\n", result.detail);
  _exit(3);
}

static bool is_sane(const struct gbx_init *init) {
  return init->arena_base % GBX_RANGE_ALIGN == 0 && init->arena_bytes % GBX_RANGE_ALIGN == 0 &&
         init->arena_base >= GBX_RANGE_ALIGN && init->arena_bytes > 0 && init->arena_bytes <= ARENA_BYTES_MAX &&
         init->arena_base <= ADDRESS_END - init->arena_bytes && init->gpu_count <= GBX_GPUS_MAX;
}

static struct gbx_result reserve_anonymous(uint64_t base, uint64_t bytes) {
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
  void *reserved = mmap((void *)base, bytes, PROT_NONE, flags, -1, 0);
  if (reserved == MAP_FAILED)
    return failed(GBX_ARENA_UNAVAILABLE, errno);
  if ((uint64_t)reserved != base) { /* A kernel before 4.17 takes the address as a hint. */
    munmap(reserved, bytes);
    return failed(GBX_ARENA_UNAVAILABLE, EEXIST);
  }
  return ok;
}

static struct gbx_result reserve_by_driver(const struct gbx_driver *driver, uint64_t base, uint64_t bytes) {
  CUdeviceptr reserved = 0;
  CUresult result = driver->cuMemAddressReserve(&reserved, bytes, GBX_RANGE_ALIGN, base, 0);
  if (result != CUDA_SUCCESS)
    return failed(GBX_ARENA_UNAVAILABLE, (int)result);
  if (reserved != base) {
    driver->cuMemAddressFree(reserved, bytes);
    return failed(GBX_ARENA_UNAVAILABLE, 0);
  }
  return ok;
}

static struct gbx_result open_gpus(struct gbx_memory *memory, const struct gbx_init *init) {
  struct gbx_driver *driver = &memory->driver;
  const char *why = "";
  int loaded = gbx_driver_load(driver, &why);
  if (loaded != 0) {
    fprintf(stderr, "gb-executor: the CUDA driver cannot be used: %s\n", why);
    return failed(GBX_DRIVER, loaded);
  }
  for (uint32_t index = 0; index < init->gpu_count; index++) {
    CUresult result = driver->cuDeviceGet(&memory->devices[index], init->gpu_ordinals[index]);
    if (result == CUDA_SUCCESS)
      result = driver->cuDevicePrimaryCtxRetain(&memory->contexts[index], memory->devices[index]);
    if (result != CUDA_SUCCESS)
      return from_cuda(result);
  }
  CUdevice first = memory->devices[0];
  memory->peers = 1;
  for (uint32_t index = 1; index < init->gpu_count; index++) {
    int reached = 0;
    if (driver->cuDeviceCanAccessPeer(&reached, first, memory->devices[index]) == CUDA_SUCCESS && reached)
      memory->peers |= 1u << index;
  }
  CUresult result = driver->cuCtxSetCurrent(memory->contexts[0]);
  memory->host_numa = gbx_driver_host_numa(driver, first);
  int node = gbx_driver_attribute(driver, CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID, first);
  memory->numa_node = node > 0 ? node : 0; /* -1: the system has no NUMA nodes */
  memory->gpu_count = init->gpu_count;
  return from_cuda(result);
}

struct gbx_result gbx_memory_open(struct gbx_memory *memory, const struct gbx_init *init) {
  if (!is_sane(init))
    return failed(GBX_INVALID, 0);
  struct gbx_result result = ok;
  if (init->gpu_count > 0)
    result = open_gpus(memory, init);
  if (result.status != GBX_OK) {
    memory->gpu_count = 0;
    return result;
  }
  bool by_driver = memory->gpu_count > 0;
  result = by_driver ? reserve_by_driver(&memory->driver, init->arena_base, init->arena_bytes)
                     : reserve_anonymous(init->arena_base, init->arena_bytes);
  if (result.status == GBX_OK) {
    memory->arena_base = init->arena_base;
    memory->arena_bytes = init->arena_bytes;
    gbx_ram_init(&memory->ram);
  }
  return result;
}

/* ---- anonymous RAM ---- */

static struct gbx_result map_anonymous(struct gbx_memory *memory, struct gbx_entry *entry) {
  bool in_arena = memory->gpu_count == 0;
  void *wanted = in_arena ? (void *)(memory->arena_base + entry->range.offset) : NULL;
  struct gbx_ram_piece piece;
  int error = gbx_ram_map(&memory->ram, wanted, entry->range.length, in_arena ? -1 : memory->numa_node, &piece);
  if (error != 0)
    return from_errno(error);
  entry->cpu = piece.address;
  entry->locked_bytes = piece.locked_bytes;
  entry->mlocked_bytes = piece.mlocked_bytes;
  return ok;
}

static void unmap_anonymous(struct gbx_memory *memory, struct gbx_entry *entry) {
  const struct gbx_ram_piece piece = {.address = entry->cpu,
                                      .length = entry->range.length,
                                      .locked_bytes = entry->locked_bytes,
                                      .mlocked_bytes = entry->mlocked_bytes};
  gbx_ram_unmap(&memory->ram, &piece, memory->gpu_count == 0);
  entry->cpu = NULL;
  entry->locked_bytes = entry->mlocked_bytes = 0;
}

/* ---- chunks of the driver: VRAM, and RAM as HOST_NUMA ---- */

static CUresult make_current(struct gbx_memory *memory, uint32_t gpu) {
  return memory->driver.cuCtxSetCurrent(memory->contexts[gpu]);
}

/* Makes the GPU's context current and its stream exist. */
static CUresult use_stream(struct gbx_memory *memory, struct gbx_streams *streams, uint32_t gpu) {
  CUresult result = make_current(memory, gpu);
  if (result == CUDA_SUCCESS && !streams->of[gpu])
    result = memory->driver.cuStreamCreate(&streams->of[gpu], CU_STREAM_NON_BLOCKING);
  return result;
}

bool gbx_memory_is_reached(const struct gbx_memory *memory, const struct gbx_entry *entry) {
  if (entry->range.device_kind == GBX_DEVICE_GPU)
    return (memory->peers & 1u << entry->range.device_index) != 0;
  return entry->handle != 0;
}

static CUresult set_access(struct gbx_memory *memory, const struct gbx_entry *entry) {
  CUmemAccessDesc access[GBX_GPUS_MAX + 1];
  memset(access, 0, sizeof(access));
  size_t count = 0;
  for (uint32_t index = 0; index < memory->gpu_count; index++) {
    bool peer = index == 0 && gbx_memory_is_reached(memory, entry);
    if (entry->range.device_kind == GBX_DEVICE_GPU && (uint32_t)entry->range.device_index != index && !peer)
      continue;
    access[count].location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    access[count].location.id = memory->devices[index];
    access[count++].flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  }
  if (entry->range.device_kind == GBX_DEVICE_RAM) {
    access[count].location.type = CU_MEM_LOCATION_TYPE_HOST_NUMA;
    access[count].location.id = memory->numa_node;
    access[count++].flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  }
  CUdeviceptr address = memory->arena_base + entry->range.offset;
  return memory->driver.cuMemSetAccess(address, entry->range.length, access, count);
}

static struct gbx_result zero_chunk(struct gbx_memory *memory, struct gbx_streams *streams,
                                    const struct gbx_entry *entry) {
  if (entry->cpu) {
    memset(entry->cpu, 0, entry->range.length);
    return ok;
  }
  uint32_t gpu = (uint32_t)entry->range.device_index;
  CUdeviceptr address = memory->arena_base + entry->range.offset;
  CUresult result = use_stream(memory, streams, gpu);
  if (result == CUDA_SUCCESS)
    result = memory->driver.cuMemsetD8Async(address, 0, entry->range.length, streams->of[gpu]);
  if (result == CUDA_SUCCESS)
    result = memory->driver.cuStreamSynchronize(streams->of[gpu]);
  return from_cuda(result);
}

static void drop_chunk(struct gbx_memory *memory, struct gbx_entry *entry, bool mapped) {
  if (mapped)
    memory->driver.cuMemUnmap(memory->arena_base + entry->range.offset, entry->range.length);
  memory->driver.cuMemRelease(entry->handle);
  entry->handle = 0;
  entry->cpu = NULL;
  entry->locked_bytes = 0;
}

static struct gbx_result map_chunk(struct gbx_memory *memory, struct gbx_streams *streams, struct gbx_entry *entry) {
  bool ram = entry->range.device_kind == GBX_DEVICE_RAM;
  CUmemAllocationProp prop;
  memset(&prop, 0, sizeof(prop));
  prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  prop.location.type = ram ? CU_MEM_LOCATION_TYPE_HOST_NUMA : CU_MEM_LOCATION_TYPE_DEVICE;
  prop.location.id = ram ? memory->numa_node : memory->devices[entry->range.device_index];

  CUmemGenericAllocationHandle handle = 0;
  CUresult result = memory->driver.cuMemCreate(&handle, entry->range.length, &prop, 0);
  if (result != CUDA_SUCCESS)
    return from_cuda(result);
  entry->handle = handle;
  CUdeviceptr address = memory->arena_base + entry->range.offset;
  result = memory->driver.cuMemMap(address, entry->range.length, 0, handle, 0);
  bool mapped = result == CUDA_SUCCESS;
  if (mapped)
    result = set_access(memory, entry);
  if (result == CUDA_SUCCESS && ram) {
    entry->cpu = (void *)address;
    entry->locked_bytes = entry->range.length; /* the driver pins it */
  }
  struct gbx_result zeroed = from_cuda(result);
  if (result == CUDA_SUCCESS)
    zeroed = zero_chunk(memory, streams, entry);
  if (zeroed.status != GBX_OK)
    drop_chunk(memory, entry, mapped);
  return zeroed;
}

static bool is_chunk(const struct gbx_memory *memory, const struct gbx_entry *entry) {
  return entry->range.device_kind == GBX_DEVICE_GPU || (memory->gpu_count > 0 && memory->host_numa);
}

static uint32_t gpu_of(const struct gbx_entry *entry) {
  return entry->range.device_kind == GBX_DEVICE_GPU ? (uint32_t)entry->range.device_index : 0;
}

struct gbx_result gbx_memory_map(struct gbx_memory *memory, struct gbx_streams *streams, struct gbx_entry *entry) {
  if (!is_chunk(memory, entry))
    return map_anonymous(memory, entry);
  CUresult current = make_current(memory, gpu_of(entry));
  return current == CUDA_SUCCESS ? map_chunk(memory, streams, entry) : from_cuda(current);
}

struct gbx_result gbx_memory_scrub(struct gbx_memory *memory, struct gbx_streams *streams,
                                   const struct gbx_entry *entry) {
  CUresult current = is_chunk(memory, entry) ? make_current(memory, gpu_of(entry)) : CUDA_SUCCESS;
  return current == CUDA_SUCCESS ? zero_chunk(memory, streams, entry) : from_cuda(current);
}

struct gbx_result gbx_memory_unmap(struct gbx_memory *memory, struct gbx_streams *streams, struct gbx_entry *entry) {
  if (!is_chunk(memory, entry)) {
    unmap_anonymous(memory, entry);
    return ok;
  }
  struct gbx_result scrubbed = gbx_memory_scrub(memory, streams, entry);
  drop_chunk(memory, entry, true);
  return scrubbed;
}

struct gbx_result gbx_memory_copy(struct gbx_memory *memory, struct gbx_streams *streams, const struct gbx_entry *entry,
                                  uint64_t entry_offset, void *host, uint64_t length, bool to_host) {
  if (entry->cpu) {
    uint8_t *bytes = (uint8_t *)entry->cpu + entry_offset;
    memcpy(to_host ? host : bytes, to_host ? bytes : host, length);
    return ok;
  }
  uint32_t gpu = gpu_of(entry);
  CUdeviceptr address = memory->arena_base + entry->range.offset + entry_offset;
  CUresult result = use_stream(memory, streams, gpu);
  if (result != CUDA_SUCCESS)
    return from_cuda(result);
  result = to_host ? memory->driver.cuMemcpyDtoHAsync_v2(host, address, length, streams->of[gpu])
                   : memory->driver.cuMemcpyHtoDAsync_v2(address, host, length, streams->of[gpu]);
  streams->busy |= 1u << gpu;
  return from_cuda(result);
}

struct gbx_result gbx_memory_wait(struct gbx_memory *memory, struct gbx_streams *streams) {
  struct gbx_result worst = ok;
  while (streams->busy != 0) {
    uint32_t gpu = (uint32_t)__builtin_ctz(streams->busy);
    streams->busy &= streams->busy - 1;
    CUresult result = make_current(memory, gpu);
    if (result == CUDA_SUCCESS)
      result = memory->driver.cuStreamSynchronize(streams->of[gpu]);
    if (result != CUDA_SUCCESS)
      worst = from_cuda(result);
  }
  return worst;
}

void *gbx_memory_pinned(struct gbx_memory *memory, uint64_t bytes) {
  void *made = NULL;
  if (memory->gpu_count > 0) {
    if (make_current(memory, 0) != CUDA_SUCCESS ||
        memory->driver.cuMemHostAlloc(&made, bytes, CU_MEMHOSTALLOC_PORTABLE) != CUDA_SUCCESS)
      return NULL;
    return made;
  }
  made = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (made == MAP_FAILED)
    return NULL;
  madvise(made, bytes, MADV_DONTDUMP);
  return made;
}
