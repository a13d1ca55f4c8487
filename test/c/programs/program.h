/* SPDX-License-Identifier: Apache-2.0 */
/*
 * program.h: what the driver-API programs share: one context, errors that end the program, options,
 * time. They compile against our cuda.h or the toolkit's and link with -lcuda, like any program.
 */
#ifndef GB_TEST_PROGRAM_H
#define GB_TEST_PROGRAM_H

#include <cuda.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { EXIT_WRONG = 1, EXIT_USAGE = 2, EXIT_DRIVER = 3 };

/* Ends the program when the driver refuses. */
#define CU(call) check_result((call), #call, __FILE__, __LINE__)

static inline void check_result(CUresult result, const char *call, const char *file, int line) {
  if (result == CUDA_SUCCESS) return;
  const char *name = NULL;
  cuGetErrorName(result, &name);
  fprintf(stderr, "%s:%d: %s: %d %s\n", file, line, call, (int)result, name == NULL ? "?" : name);
  exit(EXIT_DRIVER);
}

static inline double now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static inline void sleep_ms(double ms) {
  const struct timespec time = {.tv_sec = (time_t)(ms / 1e3),
                                .tv_nsec = (long)(ms * 1e6) % 1000000000L};
  nanosleep(&time, NULL);
}

/* "64MiB", "3GiB", "4096". Ends the program on anything else. */
static inline uint64_t parse_bytes(const char *text) {
  char *end = NULL;
  const double number = strtod(text, &end);
  const uint64_t unit = strcmp(end, "") == 0      ? 1
                        : strcmp(end, "KiB") == 0 ? 1ull << 10
                        : strcmp(end, "MiB") == 0 ? 1ull << 20
                        : strcmp(end, "GiB") == 0 ? 1ull << 30
                                                  : 0;
  if (end == text || unit == 0 || number < 0) {
    fprintf(stderr, "not a size: %s (write 64MiB, 3GiB or bytes)\n", text);
    exit(EXIT_USAGE);
  }
  return (uint64_t)(number * (double)unit);
}

/* The value of option `name` at *i, which is moved on; ends the program when it is missing. */
static inline const char *option_value(int argc, char **argv, int *i) {
  if (*i + 1 >= argc) {
    fprintf(stderr, "%s needs a value\n", argv[*i]);
    exit(EXIT_USAGE);
  }
  return argv[++*i];
}

/* The device's primary context, made current. */
static inline CUcontext open_context(int ordinal) {
  CUdevice device;
  CUcontext context;
  CU(cuInit(0));
  CU(cuDeviceGet(&device, ordinal));
  CU(cuDevicePrimaryCtxRetain(&context, device));
  CU(cuCtxSetCurrent(context));
  return context;
}

static inline CUfunction load_kernel(CUmodule module, const char *name) {
  CUfunction function;
  CU(cuModuleGetFunction(&function, module, name));
  return function;
}

static inline uint64_t mix64(uint64_t value) {
  value *= 0x9E3779B97F4A7C15ull;
  return value ^ (value >> 32);
}

#endif
