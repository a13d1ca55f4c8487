/* SPDX-License-Identifier: Apache-2.0 */
/*
 * route.c: the exported entries, their slots, the rows that describe them, and the table of real
 * functions. Knows the loader and nothing of memory. No lock is held over a loader call: threads
 * that fill the table at once store the same values.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "hooks.h"

struct gb_real_table gb_real;
struct gb_nvml_table gb_nvml;
uint32_t gb_routing_state = GB_ROUTING_UNRESOLVED;

/* ---- rows and slots ---- */

enum {
#define GB_HOOK(base, symbol, since, stream, weight, parameters, arguments) GB_ROW_##symbol,
#define GB_PAIR(base, legacy, thread, since, since_thread, weight, parameters, arguments) \
  GB_ROW_##legacy, GB_ROW_##thread,
#define GB_NVML(symbol, parameters, arguments) GB_ROW_##symbol,
#include "hooks.def"
  GB_SLOT_COUNT
};

static void *slots[GB_SLOT_COUNT] = {
#define GB_HOOK(base, symbol, since, stream, weight, parameters, arguments) \
  (void *)gb_hook_##symbol,
#define GB_PAIR(base, legacy, thread, since, since_thread, weight, parameters, arguments) \
  (void *)gb_hook_##legacy, (void *)gb_hook_##thread,
#define GB_NVML(symbol, parameters, arguments) (void *)gb_hook_##symbol,
#include "hooks.def"
};

#define GB_EXPORT __attribute__((visibility("default")))
#define GB_ENTRY(result, symbol, parameters, arguments)                        \
  GB_EXPORT result symbol parameters;                                          \
  result symbol parameters {                                                   \
    return ((result(*) parameters)__atomic_load_n(&slots[GB_ROW_##symbol],     \
                                                  __ATOMIC_RELAXED))arguments; \
  }
#define GB_HOOK(base, symbol, since, stream, weight, parameters, arguments) \
  GB_ENTRY(CUresult, symbol, parameters, arguments)
#define GB_PAIR(base, legacy, thread, since, since_thread, weight, parameters, arguments) \
  GB_ENTRY(CUresult, legacy, parameters, arguments)                                       \
  GB_ENTRY(CUresult, thread, parameters, arguments)
#define GB_NVML(symbol, parameters, arguments) GB_ENTRY(nvmlReturn_t, symbol, parameters, arguments)
#include "hooks.def"

#define GB_ROW(base, symbol, since, stream, weight) \
  {base,                                            \
   #symbol,                                         \
   since,                                           \
   stream,                                          \
   weight,                                          \
   GB_LIBRARY_CUDA,                                 \
   (void **)&gb_real.symbol,                        \
   &slots[GB_ROW_##symbol],                         \
   (void *)symbol},
const struct gb_row gb_rows[] = {
#define GB_HOOK(base, symbol, since, stream, weight, parameters, arguments) \
  GB_ROW(#base, symbol, since, stream, weight)
#define GB_PAIR(base, legacy, thread, since, since_thread, weight, parameters, arguments) \
  GB_ROW(#base, legacy, since, GB_LEGACY, weight)                                         \
  GB_ROW(#base, thread, since_thread, GB_THREAD, weight)
#define GB_KNOWN(base, symbol, since, stream) \
  {#base, #symbol, since, stream, GB_MAY, GB_LIBRARY_CUDA, &gb_real.symbol, NULL, NULL},
#define GB_NVML(symbol, parameters, arguments) \
  {NULL,                                       \
   #symbol,                                    \
   0,                                          \
   GB_ANY,                                     \
   GB_MAY,                                     \
   GB_LIBRARY_NVML,                            \
   (void **)&gb_nvml.symbol,                   \
   &slots[GB_ROW_##symbol],                    \
   (void *)symbol},
#include "hooks.def"
};
const size_t gb_row_count = sizeof gb_rows / sizeof gb_rows[0];

const struct gb_row *gb_row_find(const char *symbol) {
  for (size_t i = 0; i < gb_row_count; i++)
    if (strcmp(gb_rows[i].symbol, symbol) == 0) return &gb_rows[i];
  return NULL;
}

/* ---- real functions ---- */

/* Answers for functions this driver lacks, whatever their parameters. */
static int missing_cuda(void) { return CUDA_ERROR_NOT_FOUND; }
static int missing_nvml(void) { return GB_NVML_ERROR_FUNCTION_NOT_FOUND; }

void gb_route_pass(void) {
  for (size_t i = 0; i < gb_row_count; i++) {
    const struct gb_row *row = &gb_rows[i];
    if (row->slot == NULL) continue;
    void *real = __atomic_load_n(row->real, __ATOMIC_RELAXED);
    if (real == NULL && row->library == GB_LIBRARY_CUDA) real = (void *)missing_cuda;
    /* NVML may not have been looked for yet: its wrappers pass by themselves. */
    if (real != NULL) __atomic_store_n(row->slot, real, __ATOMIC_RELAXED);
  }
  __atomic_store_n(&gb_routing_state, GB_ROUTING_PASS, __ATOMIC_RELEASE);
}

void gb_route_live(void) {
  uint32_t expected = GB_ROUTING_READY;
  __atomic_compare_exchange_n(&gb_routing_state, &expected, GB_ROUTING_LIVE, false,
                              __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

bool gb_disabled(void) {
  static uint32_t known; /* 0: not read yet, 1: no, 2: yes */
  uint32_t state = __atomic_load_n(&known, __ATOMIC_RELAXED);
  if (state == 0) {
    const char *value = getenv("GREENBOOST_DISABLE");
    state = value != NULL && strcmp(value, "1") == 0 ? 2 : 1;
    __atomic_store_n(&known, state, __ATOMIC_RELAXED);
  }
  return state == 2;
}

static void *open_library(const char *soname) {
  void *handle = dlopen(soname, RTLD_LAZY | RTLD_NOLOAD);
  return handle != NULL ? handle : dlopen(soname, RTLD_LAZY | RTLD_LOCAL);
}

static void fill(void *handle, const char *symbol, void **member) {
  __atomic_store_n(member, gb_dlsym()(handle, symbol), __ATOMIC_RELAXED);
}

static void fill_cuda(void *handle) {
  for (size_t i = 0; i < gb_row_count; i++)
    if (gb_rows[i].library == GB_LIBRARY_CUDA) fill(handle, gb_rows[i].symbol, gb_rows[i].real);
#define GB_REAL(symbol, parameters) fill(handle, #symbol, (void **)&gb_real.symbol);
#define GB_SECTIONS GB_SECTION_REAL
#include "hooks.def"
}

bool gb_real_load(void) {
  if (gb_routing() != GB_ROUTING_UNRESOLVED) return true;
  void *handle = open_library("libcuda.so.1");
  if (handle == NULL) return false;
  fill_cuda(handle);
  uint32_t expected = GB_ROUTING_UNRESOLVED;
  __atomic_compare_exchange_n(&gb_routing_state, &expected, GB_ROUTING_READY, false,
                              __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
  if (gb_disabled()) gb_route_pass();
  return true;
}

bool gb_nvml_load(void) {
  static uint32_t loaded;
  if (__atomic_load_n(&loaded, __ATOMIC_ACQUIRE) != 0) return true;
  void *handle = open_library("libnvidia-ml.so.1");
  if (handle == NULL) return false;
  for (size_t i = 0; i < gb_row_count; i++) {
    const struct gb_row *row = &gb_rows[i];
    if (row->library != GB_LIBRARY_NVML) continue;
    fill(handle, row->symbol, row->real);
    void *real = *row->real != NULL ? *row->real : (void *)missing_nvml;
    if (gb_disabled()) __atomic_store_n(row->slot, real, __ATOMIC_RELAXED);
  }
  fill(handle, "nvmlDeviceGetUUID", (void **)&gb_nvml.nvmlDeviceGetUUID);
  __atomic_store_n(&loaded, 1, __ATOMIC_RELEASE);
  return true;
}

/* ---- dlsym on a handle ---- */

static bool file_is(const char *path, const char *soname) {
  if (path == NULL) return false;
  const char *slash = strrchr(path, '/');
  return strncmp(slash != NULL ? slash + 1 : path, soname, strlen(soname)) == 0;
}

/* Does `found` belong to the library the row speaks of? Compares with the table where it is filled
 * already and asks the loader's own records otherwise, so that a look-up never loads or starts
 * anything. */
static bool row_owns(const struct gb_row *row, void *found) {
  void *real = __atomic_load_n(row->real, __ATOMIC_RELAXED);
  if (real != NULL) return found == real;
  Dl_info info;
  if (dladdr(found, &info) == 0) return false;
  return file_is(info.dli_fname,
                 row->library == GB_LIBRARY_CUDA ? "libcuda.so" : "libnvidia-ml.so");
}

void *gb_route_symbol(const char *name, void *found) {
  if (found == NULL || name == NULL) return found;
  if (strncmp(name, "cu", 2) != 0 && strncmp(name, "nvml", 4) != 0) return found;
  if (gb_disabled()) return found;
  const struct gb_row *row = gb_row_find(name);
  if (row == NULL || row->entry == NULL || found == row->entry) return found;
  return row_owns(row, found) ? row->entry : found;
}
