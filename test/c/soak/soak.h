/* SPDX-License-Identifier: Apache-2.0 */
/* soak.h: what the soak programs share: the device's primary context, their kernels, time, and words
 * that host and device know alike. Each ends by itself: an alarm ends one that hangs. */
#ifndef GB_TEST_SOAK_H
#define GB_TEST_SOAK_H

#include <cuda.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../core/check.h"

#define MIB (1ull << 20)

static CUcontext soak_context;
static CUfunction soak_mix, soak_table, soak_poke, soak_gather;

#define OK(call) soak_ok((call), #call, __LINE__)

static inline int soak_ok(CUresult result, const char *call, int line) {
  CHECK(result == CUDA_SUCCESS, "line %d: %s: %d", line, call, result);
  return result == CUDA_SUCCESS;
}

static inline double soak_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static inline void soak_sleep_us(uint64_t micros) {
  const struct timespec time = {.tv_sec = (time_t)(micros / 1000000),
                                .tv_nsec = (long)(micros % 1000000) * 1000};
  nanosleep(&time, NULL);
}

static inline uint64_t soak_below(uint64_t *random, uint64_t limit) {
  return limit == 0 ? 0 : check_random(random) % limit;
}

/* alarm_seconds: SIGALRM ends the process after so long, which its caller reports as a hang. */
static inline void soak_open(const char *module_path, unsigned alarm_seconds) {
  CUdevice device;
  CUmodule module;
  alarm(alarm_seconds);
  if (!OK(cuInit(0)) || !OK(cuDeviceGet(&device, 0)) ||
      !OK(cuDevicePrimaryCtxRetain(&soak_context, device)) || !OK(cuCtxSetCurrent(soak_context)) ||
      !OK(cuModuleLoad(&module, module_path)))
    exit(1);
  OK(cuModuleGetFunction(&soak_mix, module, "soak_mix"));
  OK(cuModuleGetFunction(&soak_table, module, "soak_table"));
  OK(cuModuleGetFunction(&soak_poke, module, "soak_poke"));
  OK(cuModuleGetFunction(&soak_gather, module, "soak_gather"));
}

static inline CUresult soak_launch(CUfunction function, CUstream stream, void **params) {
  return cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, stream, params, NULL);
}

static inline CUresult soak_launch_mix(CUdeviceptr to, CUdeviceptr from, uint64_t words,
                                       uint64_t seed, CUstream stream) {
  void *params[] = {&to, &from, &words, &seed};
  return soak_launch(soak_mix, stream, params);
}

static inline void soak_mix_host(uint64_t *to, const uint64_t *from, uint64_t words,
                                 uint64_t seed) {
  for (uint64_t i = 0; i < words; i++) to[i] = to[i] * 3 + from[i] + seed;
}

#endif
