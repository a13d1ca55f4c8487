/* SPDX-License-Identifier: Apache-2.0 */
/* probe.c: see probe.h. */
#define _GNU_SOURCE
#include "probe.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "driver.h"

#define BLOCK_BYTES (64ull << 20)
#define MEASURE_SECONDS 0.06
#define LATENCY_LOADS 150000
#define LATENCY_COPIES 64
/* A driver that hangs must not hang whoever waits for our answer. */
#define ALARM_SECONDS 10

struct gpu_facts {
  int index;
  char name[128];
  char uuid[48];
  size_t total_bytes, free_bytes;
  int compute_capability;
  bool vmm, host_numa_vmm;
  double vram_copy, h2d, d2h, host_numa_read; /* bytes per second; 0: not measured */
  double copy_latency_micros;
  const char *error;
};

static double now_seconds(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

/* ---- RAM ---- */

static void *map_block(void) {
  void *block = mmap(NULL, BLOCK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (block == MAP_FAILED)
    return NULL;
  madvise(block, BLOCK_BYTES, MADV_HUGEPAGE);
  memset(block, 1, BLOCK_BYTES);
  return block;
}

static double measure_ram_copy(void *to, const void *from) {
  double best = 0, start = now_seconds();
  do {
    double begin = now_seconds();
    memcpy(to, from, BLOCK_BYTES);
    __asm__ volatile("" ::"r"(to) : "memory");
    double rate = (double)BLOCK_BYTES / (now_seconds() - begin);
    if (rate > best)
      best = rate;
  } while (now_seconds() - start < MEASURE_SECONDS);
  return best;
}

/* One dependent load after another along a random ring of cache lines (Sattolo's shuffle). */
static double measure_ram_latency_nanos(uint32_t *block) {
  const uint32_t lines = BLOCK_BYTES / 64, step = 64 / sizeof(uint32_t);
  uint64_t random = 88172645463325252ull;
  for (uint32_t line = 0; line < lines; line++)
    block[line * step] = line;
  for (uint32_t line = lines - 1; line > 0; line--) {
    random ^= random << 13, random ^= random >> 7, random ^= random << 17;
    uint32_t other = (uint32_t)(random % line), kept = block[line * step];
    block[line * step] = block[other * step];
    block[other * step] = kept;
  }
  uint32_t at = 0;
  double begin = now_seconds();
  for (int load = 0; load < LATENCY_LOADS; load++)
    at = ((volatile uint32_t *)block)[at * step];
  double elapsed = now_seconds() - begin;
  __asm__ volatile("" ::"r"(at));
  return elapsed * 1e9 / LATENCY_LOADS;
}

static uint64_t meminfo_bytes(const char *field) {
  FILE *file = fopen("/proc/meminfo", "re");
  char line[256];
  unsigned long long kib = 0;
  size_t length = strlen(field);
  while (file && fgets(line, sizeof(line), file)) {
    if (strncmp(line, field, length) == 0 && line[length] == ':' && sscanf(line + length + 1, "%llu", &kib) == 1)
      break;
  }
  if (file)
    fclose(file);
  return kib * 1024;
}

/* ---- GPU ---- */

struct copier {
  const struct gbx_driver *driver;
  CUstream stream;
  void *host;
  CUdeviceptr to, from;
};

enum copy_kind { COPY_H2D, COPY_D2H, COPY_D2D };

static CUresult copy_once(const struct copier *copier, enum copy_kind kind, size_t bytes) {
  const struct gbx_driver *driver = copier->driver;
  CUresult result = kind == COPY_H2D   ? driver->cuMemcpyHtoDAsync_v2(copier->to, copier->host, bytes, copier->stream)
                    : kind == COPY_D2H ? driver->cuMemcpyDtoHAsync_v2(copier->host, copier->from, bytes, copier->stream)
                                       : driver->cuMemcpyDtoDAsync_v2(copier->to, copier->from, bytes, copier->stream);
  return result == CUDA_SUCCESS ? driver->cuStreamSynchronize(copier->stream) : result;
}

/* Bytes per second, the best of what fits into MEASURE_SECONDS; 0 when a copy fails. */
static double measure_copy(const struct copier *copier, enum copy_kind kind) {
  if (copy_once(copier, kind, BLOCK_BYTES) != CUDA_SUCCESS) /* The first one meets pages that are not there yet. */
    return 0;
  double best = 0, start = now_seconds();
  do {
    double begin = now_seconds();
    if (copy_once(copier, kind, BLOCK_BYTES) != CUDA_SUCCESS)
      return 0;
    double rate = (double)BLOCK_BYTES / (now_seconds() - begin);
    if (rate > best)
      best = rate;
  } while (now_seconds() - start < MEASURE_SECONDS);
  return best;
}

static double measure_copy_latency_micros(const struct copier *copier) {
  double best = 0;
  for (int count = 0; count < LATENCY_COPIES; count++) {
    double begin = now_seconds();
    if (copy_once(copier, COPY_H2D, 8) != CUDA_SUCCESS)
      return 0;
    double elapsed = now_seconds() - begin;
    if (best == 0 || elapsed < best)
      best = elapsed;
  }
  return best * 1e6;
}

/* Really makes, maps and reads a chunk; attributes alone have been wrong in containers. If it works and it is host
 * memory, *read_rate is how fast the GPU copies out of it. */
static bool try_chunk(struct copier copier, CUdevice device, bool host, double *read_rate) {
  const struct gbx_driver *driver = copier.driver;
  CUmemAllocationProp prop;
  memset(&prop, 0, sizeof(prop));
  prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  int node = gbx_driver_attribute(driver, CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID, device);
  prop.location.type = host ? CU_MEM_LOCATION_TYPE_HOST_NUMA : CU_MEM_LOCATION_TYPE_DEVICE;
  prop.location.id = host ? (node > 0 ? node : 0) : device;
  CUdeviceptr address = 0;
  CUmemGenericAllocationHandle handle = 0;
  if (driver->cuMemAddressReserve(&address, BLOCK_BYTES, 0, 0, 0) != CUDA_SUCCESS)
    return false;
  bool works = false;
  if (driver->cuMemCreate(&handle, BLOCK_BYTES, &prop, 0) == CUDA_SUCCESS) {
    if (driver->cuMemMap(address, BLOCK_BYTES, 0, handle, 0) == CUDA_SUCCESS) {
      CUmemAccessDesc access[2];
      memset(access, 0, sizeof(access));
      access[0].location.type = CU_MEM_LOCATION_TYPE_DEVICE;
      access[0].location.id = device;
      access[1].location = prop.location;
      access[0].flags = access[1].flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
      copier.from = address;
      works = driver->cuMemSetAccess(address, BLOCK_BYTES, access, host ? 2 : 1) == CUDA_SUCCESS &&
              copy_once(&copier, COPY_D2D, 4096) == CUDA_SUCCESS;
      if (works && host)
        *read_rate = measure_copy(&copier, COPY_D2D);
      driver->cuMemUnmap(address, BLOCK_BYTES);
    }
    driver->cuMemRelease(handle);
  }
  driver->cuMemAddressFree(address, BLOCK_BYTES);
  return works;
}

static void format_uuid(char *text, size_t bytes, const CUuuid *uuid) {
  const unsigned char *b = (const unsigned char *)uuid->bytes;
  snprintf(text, bytes, "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1], b[2],
           b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
}

static CUresult describe(const struct gbx_driver *driver, struct gpu_facts *facts, CUdevice *device) {
  CUresult result = driver->cuDeviceGet(device, facts->index);
  if (result != CUDA_SUCCESS)
    return result;
  CUuuid uuid;
  memset(&uuid, 0, sizeof(uuid));
  driver->cuDeviceGetName(facts->name, sizeof(facts->name), *device);
  driver->cuDeviceGetUuid(&uuid, *device);
  format_uuid(facts->uuid, sizeof(facts->uuid), &uuid);
  facts->compute_capability = 10 * gbx_driver_attribute(driver, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, *device) +
                              gbx_driver_attribute(driver, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, *device);
  return driver->cuDeviceTotalMem_v2(&facts->total_bytes, *device);
}

static void probe_gpu(const struct gbx_driver *driver, struct gpu_facts *facts) {
  CUdevice device = 0;
  CUcontext context = NULL;
  struct copier copier = {.driver = driver};
  CUresult result = describe(driver, facts, &device);
  if (result == CUDA_SUCCESS)
    result = driver->cuDevicePrimaryCtxRetain(&context, device);
  if (result == CUDA_SUCCESS)
    result = driver->cuCtxSetCurrent(context);
  if (result == CUDA_SUCCESS)
    result = driver->cuMemGetInfo_v2(&facts->free_bytes, &facts->total_bytes);
  if (result == CUDA_SUCCESS)
    result = driver->cuStreamCreate(&copier.stream, CU_STREAM_NON_BLOCKING);
  if (result == CUDA_SUCCESS)
    result = driver->cuMemHostAlloc(&copier.host, BLOCK_BYTES, 0);
  if (result == CUDA_SUCCESS)
    result = driver->cuMemAlloc_v2(&copier.to, BLOCK_BYTES);
  if (result == CUDA_SUCCESS) {
    copier.from = copier.to;
    facts->copy_latency_micros = measure_copy_latency_micros(&copier);
    facts->h2d = measure_copy(&copier, COPY_H2D);
    facts->d2h = measure_copy(&copier, COPY_D2H);
    facts->vmm = try_chunk(copier, device, false, NULL);
    facts->host_numa_vmm = gbx_driver_host_numa(driver, device) &&
                           try_chunk(copier, device, true, &facts->host_numa_read);
    if (driver->cuMemAlloc_v2(&copier.from, BLOCK_BYTES) == CUDA_SUCCESS)
      facts->vram_copy = measure_copy(&copier, COPY_D2D);
  }
  if (result != CUDA_SUCCESS)
    facts->error = gbx_driver_error(driver, result);
}

/* ---- output ---- */

static void print_string(const char *text) {
  if (!text) {
    fputs("null", stdout);
    return;
  }
  putchar('"');
  for (; *text; text++) {
    unsigned char character = (unsigned char)*text;
    if (character == '"' || character == '\\')
      printf("\\%c", character);
    else if (character < 0x20 || character > 0x7e)
      printf("\\u%04x", character);
    else
      putchar(character);
  }
  putchar('"');
}

static void print_figure(const char *key, double value) {
  if (value > 0)
    printf(",\"%s\":%.3f", key, value);
  else
    printf(",\"%s\":null", key);
}

static void print_gpu(const struct gpu_facts *facts) {
  printf("{\"index\":%d,\"name\":", facts->index);
  print_string(facts->name);
  fputs(",\"uuid\":", stdout);
  print_string(facts->uuid);
  printf(",\"total_bytes\":%zu,\"free_bytes\":%zu,\"compute_capability\":%d,\"vmm\":%s,\"host_numa_vmm\":%s",
         facts->total_bytes, facts->free_bytes, facts->compute_capability, facts->vmm ? "true" : "false",
         facts->host_numa_vmm ? "true" : "false");
  print_figure("vram_copy_bytes_per_second", facts->vram_copy);
  print_figure("h2d_bytes_per_second", facts->h2d);
  print_figure("d2h_bytes_per_second", facts->d2h);
  print_figure("host_numa_read_bytes_per_second", facts->host_numa_read);
  print_figure("copy_latency_micros", facts->copy_latency_micros);
  fputs(",\"error\":", stdout);
  print_string(facts->error);
  putchar('}');
}

static void print_ram(void) {
  struct rlimit locked = {0, 0};
  getrlimit(RLIMIT_MEMLOCK, &locked);
  long long memlock = locked.rlim_max == RLIM_INFINITY ? -1 : (long long)locked.rlim_max;
  printf("\"ram\":{\"total_bytes\":%llu,\"available_bytes\":%llu,\"memlock_bytes\":%lld",
         (unsigned long long)meminfo_bytes("MemTotal"), (unsigned long long)meminfo_bytes("MemAvailable"), memlock);
  void *to = map_block(), *from = map_block();
  bool mapped = to && from;
  print_figure("copy_bytes_per_second", mapped ? measure_ram_copy(to, from) : 0);
  print_figure("latency_nanos", mapped ? measure_ram_latency_nanos(to) : 0);
  if (to)
    munmap(to, BLOCK_BYTES);
  if (from)
    munmap(from, BLOCK_BYTES);
  putchar('}');
}

int gbx_probe(int gpu) {
  alarm(ALARM_SECONDS);
  fputs("{\"schema_version\":1,", stdout);
  print_ram();
  struct gbx_driver driver;
  struct gpu_facts facts = {.index = gpu};
  const char *why = NULL;
  int version = 0, count = 0;
  bool loaded = gpu >= 0 && gbx_driver_load(&driver, &why) == 0;
  if (loaded) {
    driver.cuDriverGetVersion(&version);
    driver.cuDeviceGetCount(&count);
    probe_gpu(&driver, &facts);
    printf(",\"driver_version\":%d,\"gpu_count\":%d,\"gpus\":[", version, count);
    print_gpu(&facts);
    fputs("],\"error\":null}\n", stdout);
  } else {
    fputs(",\"driver_version\":null,\"gpu_count\":0,\"gpus\":[],\"error\":", stdout);
    print_string(why);
    fputs("}\n", stdout);
  }
  fflush(stdout);
  /* No destructors: a driver in trouble can block in them. */
  _exit(gpu >= 0 && (!loaded || facts.error) ? 1 : 0);
}
