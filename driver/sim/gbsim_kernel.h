/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gbsim_kernel.h: how a C function becomes a kernel of the simulated driver.
 *
 * A kernel lives in a shared object: either one a program loads with cuModuleLoad /
 * cuModuleLoadData, or libgbsim_twins.so, where the simulated driver looks for the C twin of every
 * `.entry` of a PTX text it is given. The function gets the whole launch and loops over its threads
 * itself:
 *
 *   GBSIM_KERNEL(fill, 3, {8, 4, 4}) { ... gbsim_param(launch, 0, &pointer) ... }
 *
 * Device pointers are addresses of this process; touching unmapped ones ends the launch with
 * ILLEGAL_ADDRESS. A module variable is an exported object named gbsim_global_NAME.
 */
#ifndef GBSIM_KERNEL_H
#define GBSIM_KERNEL_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define GBSIM_KERNEL_VERSION 2u
#define GBSIM_PARAM_COUNT_MAX 64u

struct gbsim_kernel;

struct gbsim_launch {
  uint32_t grid[3];
  uint32_t block[3];
  uint32_t shared_bytes;
  uint32_t param_bytes;
  const unsigned char
      *params; /* laid out as a C struct of the parameters; valid until the kernel returns */
  const struct gbsim_kernel *kernel;
  void *module;
  /* Address and size of a variable of the kernel's module, or NULL. */
  void *(*global)(const struct gbsim_launch *launch, const char *name, size_t *bytes);
};

struct gbsim_kernel {
  uint32_t version;
  uint32_t param_count;
  void (*run)(const struct gbsim_launch *launch);
  uint32_t param_bytes[GBSIM_PARAM_COUNT_MAX]; /* sizes in order */
  uint32_t param_align[GBSIM_PARAM_COUNT_MAX]; /* 0: as large as the parameter, at most 8 */
  uint32_t bounded; /* touches nothing but what its arguments point at */
};

/* Threads of the whole launch, and of one block. */
static inline uint64_t gbsim_block_threads(const struct gbsim_launch *launch) {
  return (uint64_t)launch->block[0] * launch->block[1] * launch->block[2];
}
static inline uint64_t gbsim_threads(const struct gbsim_launch *launch) {
  return gbsim_block_threads(launch) * launch->grid[0] * launch->grid[1] * launch->grid[2];
}

static inline uint32_t gbsim_param_align(const struct gbsim_kernel *kernel, uint32_t index) {
  uint32_t align = kernel->param_align[index];
  if (align != 0) return align;
  align = 1;
  while (align < 8 && kernel->param_bytes[index] % (align * 2) == 0) align *= 2;
  return align;
}

/* Where parameter `index` lies in the argument bytes. */
static inline uint32_t gbsim_param_offset(const struct gbsim_kernel *kernel, uint32_t index) {
  uint32_t offset = 0;
  for (uint32_t i = 0;; i++) {
    const uint32_t align = gbsim_param_align(kernel, i);
    offset = (offset + align - 1) / align * align;
    if (i == index) return offset;
    offset += kernel->param_bytes[i];
  }
}

/* Copies parameter `index` out. pre: `value` has its declared size. */
static inline void gbsim_param(const struct gbsim_launch *launch, uint32_t index, void *value) {
  memcpy(value, launch->params + gbsim_param_offset(launch->kernel, index),
         launch->kernel->param_bytes[index]);
}

/* Sizes in braces: GBSIM_KERNEL(name, 2, {8, 4}) { body using `launch` }. */
#define GBSIM_KERNEL(name, count, ...) GBSIM_KERNEL_OF(name, count, 0, __VA_ARGS__)
/* The same for one that touches nothing but what its arguments point at: other memory may be
 * remapped while it runs (GBSIM_STRICT). */
#define GBSIM_KERNEL_BOUNDED(name, count, ...) GBSIM_KERNEL_OF(name, count, 1, __VA_ARGS__)

#define GBSIM_KERNEL_OF(name, count, is_bounded, ...)                                          \
  static void gbsim_run_##name(const struct gbsim_launch *launch);                             \
  __attribute__((visibility("default"))) extern const struct gbsim_kernel gbsim_kernel_##name; \
  const struct gbsim_kernel gbsim_kernel_##name = {.version = GBSIM_KERNEL_VERSION,            \
                                                   .param_count = (count),                     \
                                                   .run = gbsim_run_##name,                    \
                                                   .bounded = (is_bounded),                    \
                                                   .param_bytes = __VA_ARGS__};                \
  static void gbsim_run_##name(const struct gbsim_launch *launch)

#endif
