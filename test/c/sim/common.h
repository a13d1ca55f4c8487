/* SPDX-License-Identifier: Apache-2.0 */
/* common.h: what the tests of the simulated driver share. */
#ifndef GB_TEST_SIM_COMMON_H
#define GB_TEST_SIM_COMMON_H

#include <cuda.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../check.h"
#include "../programs/kernels.h"

#define MIB (1ull << 20)
#define GIB (1ull << 30)

static CUmodule module;

static inline uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

/* Device 0's primary context, current. */
static inline CUcontext start(void) {
  CUcontext context = NULL;
  CHECK_EQUAL(cuInit(0), CUDA_SUCCESS);
  CHECK_EQUAL(cuDevicePrimaryCtxRetain(&context, 0), CUDA_SUCCESS);
  CHECK_EQUAL(cuCtxSetCurrent(context), CUDA_SUCCESS);
  return context;
}

static inline CUfunction kernel(const char *name) {
  CUfunction function = NULL;
  if (module == NULL) CHECK_EQUAL(cuModuleLoadData(&module, test_kernels), CUDA_SUCCESS);
  CHECK_EQUAL(cuModuleGetFunction(&function, module, name), CUDA_SUCCESS);
  return function;
}

static inline CUresult spin(CUstream stream, uint64_t nanoseconds) {
  void *params[] = {&nanoseconds};
  return cuLaunchKernel(kernel("gb_spin"), 1, 1, 1, 1, 1, 1, 0, stream, params, NULL);
}

static inline CUresult fill(CUdeviceptr pointer, uint64_t words, uint64_t seed, CUstream stream) {
  void *params[] = {&pointer, &words, &seed};
  return cuLaunchKernel(kernel("gb_fill"), 4, 1, 1, 64, 1, 1, 0, stream, params, NULL);
}

/* word[i] = word[i] * 3 + key + i: changes in stream order give sums that no other order gives. */
static inline CUresult update(CUdeviceptr pointer, uint64_t words, uint64_t key, CUstream stream) {
  void *params[] = {&pointer, &words, &key};
  return cuLaunchKernel(kernel("gb_update"), 4, 1, 1, 64, 1, 1, 0, stream, params, NULL);
}

static inline CUmemAllocationProp place(CUmemLocationType type) {
  CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED};
  prop.location.type = type;
  prop.location.id = 0;
  return prop;
}

static inline CUresult allow(CUdeviceptr base, size_t bytes, CUmemAccess_flags flags) {
  CUmemAccessDesc desc = {.flags = flags};
  desc.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  return cuMemSetAccess(base, bytes, &desc, 1);
}

/* A chunk of `type`, mapped at `base` with access. returns: its handle. */
static inline CUmemGenericAllocationHandle map_chunk(CUdeviceptr base, size_t bytes,
                                                     CUmemLocationType type) {
  const CUmemAllocationProp prop = place(type);
  CUmemGenericAllocationHandle handle = 0;
  CHECK_EQUAL(cuMemCreate(&handle, bytes, &prop, 0), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemMap(base, bytes, 0, handle, 0), CUDA_SUCCESS);
  CHECK_EQUAL(allow(base, bytes, CU_MEM_ACCESS_FLAGS_PROT_READWRITE), CUDA_SUCCESS);
  return handle;
}

/* Runs the test in a process of its own (the driver must not have been used before). returns: its
 * exit status. */
static inline int in_child(void (*test)(void)) {
  fflush(NULL);
  const pid_t child = fork();
  if (child == 0) {
    const int before = check_errors;
    test();
    fflush(NULL);
    _exit(check_errors - before > 100 ? 100 : check_errors - before);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static inline size_t free_bytes(void) {
  size_t bytes = 0;
  CHECK_EQUAL(cuMemGetInfo(&bytes, NULL), CUDA_SUCCESS);
  return bytes;
}

#endif
