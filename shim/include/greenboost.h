/* SPDX-License-Identifier: Apache-2.0 */
/*
 * greenboost.h: what a program may tell GreenBoost about its device memory. Optional: programs run
 * unmodified without it, and without GreenBoost a call does nothing and returns GREENBOOST_ABSENT.
 *
 * Header only. The functions find the preloaded shim with dlsym, so nothing has to be linked but
 * libdl (part of glibc since 2.34).
 */
#ifndef GREENBOOST_H
#define GREENBOOST_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum greenboost_hint {
  GREENBOOST_NONE = 0,   /* take an earlier hint back */
  GREENBOOST_HOT = 1,    /* keep in VRAM as long as there is room */
  GREENBOOST_COLD = 2,   /* first to leave VRAM */
  GREENBOOST_PINNED = 3, /* never leaves VRAM once there */
};

#define GREENBOOST_ABSENT (-1)

/* Hints for [address, address + bytes) of device memory. returns: 0; GREENBOOST_ABSENT without the
 * shim; 1 (CUDA_ERROR_INVALID_VALUE) when the range is not one of the shim's. */
static inline int greenboost_hint(uint64_t address, size_t bytes, enum greenboost_hint hint) {
  typedef int (*function)(uint64_t, size_t, int);
  void *symbol = dlsym(RTLD_DEFAULT, "greenboost_hint_v1");
  function call;
  *(void **)&call = symbol;
  return symbol == NULL ? GREENBOOST_ABSENT : call(address, bytes, (int)hint);
}

#ifdef __cplusplus
}
#endif
#endif
