/* SPDX-License-Identifier: Apache-2.0 */
/*
 * probe.c: does HOST_NUMA memory work here? Only trying tells: the attributes that should say so
 * are missing on drivers where it works. Drivers r560 to r575 (CUDA 12.6 to 12.9) can crash inside
 * cuMemCreate on machines with an asymmetric NUMA layout (NCCL 1838, 2106), so there a helper
 * process tries first (gb-probe beside this library); on all others the attempt is made here, where
 * it can only fail.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "arena.h"
#include "lock.h"

#define CRASHING_SINCE 12060
#define CRASHING_BEFORE 13000
#define PROBE_LIMIT_NS (10ull * 1000000000)

static int node = -1;
static pthread_once_t probe_once = PTHREAD_ONCE_INIT;

static bool helper_path(char *path, size_t bytes) {
  Dl_info info;
  if (dladdr((void *)(uintptr_t)helper_path, &info) == 0 || info.dli_fname == NULL) return false;
  const char *slash = strrchr(info.dli_fname, '/');
  int directory = slash == NULL ? 1 : (int)(slash - info.dli_fname);
  int length = snprintf(path, bytes, "%.*s/../bin/gb-probe", directory,
                        slash == NULL ? "." : info.dli_fname);
  return length > 0 && (size_t)length < bytes && access(path, X_OK) == 0;
}

/* Waits for the helper without ever hanging on it. */
static bool helper_succeeded(pid_t pid) {
  uint64_t until = gb_now_ns() + PROBE_LIMIT_NS;
  int status = 0;
  while (gb_now_ns() < until) {
    pid_t done = waitpid(pid, &status, WNOHANG);
    if (done == pid) return WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (done < 0) return false; /* reaped by the program itself: unknown, so no */
    gb_sleep_ns(5 * GB_MS);
  }
  kill(pid, SIGKILL);
  waitpid(pid, &status, 0);
  return false;
}

/* The environment without LD_PRELOAD: the helper is not to be shimmed. owns: the array is the
 * caller's. */
static char **clean_environment(void) {
  size_t count = 0;
  size_t kept = 0;
  while (environ[count] != NULL) count++;
  char **clean = malloc((count + 1) * sizeof(*clean));
  for (size_t i = 0; clean != NULL && i < count; i++) {
    if (strncmp(environ[i], "LD_PRELOAD=", 11) != 0) clean[kept++] = environ[i];
  }
  if (clean != NULL) clean[kept] = NULL;
  return clean;
}

static bool try_in_child(int numa_node) {
  char path[512];
  char number[16];
  pid_t pid = 0;
  if (!helper_path(path, sizeof path)) {
    gb_log(GB_LOG_WARN,
           "no gb-probe beside the library and a driver that may crash: host memory is pinned");
    return false;
  }
  snprintf(number, sizeof number, "%d", numa_node);
  char *arguments[] = {path, number, NULL};
  char **environment = clean_environment();
  bool started =
      environment != NULL && posix_spawn(&pid, path, NULL, NULL, arguments, environment) == 0;
  free(environment);
  return started && helper_succeeded(pid);
}

/* Creates, maps, grants and takes away one granule. */
static bool try_here(int numa_node) {
  CUmemAllocationProp properties = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                    .location = {CU_MEM_LOCATION_TYPE_HOST_NUMA, numa_node}};
  CUmemGenericAllocationHandle handle = 0;
  CUdeviceptr address = 0;
  if (gb_real.cuMemCreate(&handle, GB_GRANULE, &properties, 0) != CUDA_SUCCESS) return false;
  bool works = false;
  if (gb_real.cuMemAddressReserve(&address, GB_GRANULE, 0, 0, 0) == CUDA_SUCCESS) {
    if (gb_real.cuMemMap(address, GB_GRANULE, 0, handle, 0) == CUDA_SUCCESS) {
      CUmemAccessDesc device_access = {{CU_MEM_LOCATION_TYPE_DEVICE, gb_arena_device(0)},
                                       CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
      works = gb_real.cuMemSetAccess(address, GB_GRANULE, &device_access, 1) == CUDA_SUCCESS;
      gb_real.cuMemUnmap(address, GB_GRANULE);
    }
    gb_real.cuMemAddressFree(address, GB_GRANULE);
  }
  gb_real.cuMemRelease(handle);
  return works;
}

static void probe(void) {
  int version = 0;
  int wanted = -1;
  if (gb_arena_size_bytes == 0) return;
  gb_real.cuDriverGetVersion(&version);
  CUdevice device = gb_arena_device(0);
  CUresult asked = gb_real.cuDeviceGetAttribute(&wanted, CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID, device);
  if (asked != CUDA_SUCCESS || wanted < 0) wanted = 0; /* a machine without NUMA has node 0 */
  bool crashing = version >= CRASHING_SINCE && version < CRASHING_BEFORE;
  bool works = (!crashing || try_in_child(wanted)) && try_here(wanted);
  if (works)
    node = wanted;
  else
    gb_event(
        GB_LOG_WARN, CUDA_SUCCESS, "host_numa_missing",
        "HOST_NUMA memory does not work here: local RAM holds whole allocations and nothing moves");
}

int gb_host_numa_node(void) {
  pthread_once(&probe_once, probe);
  return node;
}
