/* SPDX-License-Identifier: Apache-2.0 */
/* collective.c: which functions belong to NCCL, and what their launches name. */
#include "collective.h"

#include <string.h>

#include "real.h"
#include "scan.h"

/* One word for each function: its handle, the lowest bit set for a collective. Two functions that
 * share a place are asked for again and again, which only costs time. */
#define GB_COLLECTIVE_PLACES 4096u
static _Atomic uint64_t places[GB_COLLECTIVE_PLACES];

/* Since 12.3 the driver says names; before, nothing is known and nothing pinned. A handle may be a
 * CUkernel, of which only the other call knows. The names are mangled: _Z40ncclDevKernel_... */
static bool ask(CUfunction function) {
  const char *name = NULL;
  CUresult result = CUDA_ERROR_NOT_FOUND;
  if (gb_real.cuFuncGetName != NULL) result = gb_real.cuFuncGetName(&name, function);
  if (result != CUDA_SUCCESS && gb_real.cuKernelGetName != NULL)
    result = gb_real.cuKernelGetName(&name, (CUkernel)function);
  return result == CUDA_SUCCESS && name != NULL &&
         (strstr(name, "ncclDevKernel") != NULL || strstr(name, "ncclKernel") != NULL);
}

bool gb_collective(CUfunction function) {
  uint64_t handle = (uint64_t)(uintptr_t)function;
  if (handle == 0 || (handle & 1) != 0) return false;
  uint64_t hash = handle * 0x9e3779b97f4a7c15ull;
  _Atomic uint64_t *place = &places[hash >> 52];
  uint64_t known = atomic_load_explicit(place, memory_order_relaxed);
  if ((known & ~1ull) == handle) return (known & 1) != 0;
  bool collective = ask(function);
  atomic_store_explicit(place, handle | collective, memory_order_relaxed);
  return collective;
}

void gb_collective_pin(CUfunction function, void **params, void **extra) {
  struct gb_touch touch = {.accounted = true};
  gb_touch_launch(&touch, function, params, extra);
  for (uint32_t i = 0; i < touch.count; i++) {
    CUdeviceptr base = 0;
    size_t bytes = 0;
    if (gb_address_range(&base, &bytes, touch.bases[i]) == CUDA_SUCCESS) gb_pin(base, bytes);
  }
}

void gb_collective_forget(void) {
  for (uint32_t i = 0; i < GB_COLLECTIVE_PLACES; i++)
    atomic_store_explicit(&places[i], 0, memory_order_relaxed);
}
