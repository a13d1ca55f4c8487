/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hooks.h: what the files of wrappers and the resolver share. A call travels
 *
 *   program -> exported entry (route.c) -> slot -> gb_hook_X -> wrap_X -> core and gb_real.X
 *
 * The exported entry is one load and one jump. Its slot holds the wrapper, or the real driver's
 * function once the shim has been told to stay out of the way (GREENBOOST_DISABLE=1, a forked
 * child): then nothing of ours runs at all.
 */
#ifndef GB_HOOKS_H
#define GB_HOOKS_H

#include <stdint.h>

#include "core.h"
#include "real.h"

/* ---- NVML, as far as we answer for it; layouts are NVML's ---- */

typedef int nvmlReturn_t;
typedef struct nvmlDevice_st *nvmlDevice_t;
enum {
  GB_NVML_SUCCESS = 0,
  GB_NVML_ERROR_NOT_SUPPORTED = 3,
  GB_NVML_ERROR_FUNCTION_NOT_FOUND = 13,
};
struct gb_nvml_memory {
  unsigned long long total_bytes;
  unsigned long long free_bytes;
  unsigned long long used_bytes;
};
struct gb_nvml_memory_v2 {
  unsigned version;
  unsigned long long total_bytes;
  unsigned long long reserved_bytes;
  unsigned long long free_bytes;
  unsigned long long used_bytes; /* includes reserved_bytes */
};
struct gb_nvml_process_v1 {
  unsigned pid;
  unsigned long long used_bytes;
};
struct gb_nvml_process {
  unsigned pid;
  unsigned long long used_bytes;
  unsigned gpu_instance;
  unsigned compute_instance;
};
struct gb_nvml_process_detail {
  unsigned pid;
  unsigned long long used_bytes;
  unsigned gpu_instance;
  unsigned compute_instance;
  unsigned long long protected_bytes;
};
struct gb_nvml_process_details {
  unsigned version;
  unsigned mode;
  unsigned count;
  struct gb_nvml_process_detail *list;
};
struct gb_nvml_attributes {
  unsigned counts[8]; /* processors, slices and engines */
  unsigned long long memory_mib;
};
_Static_assert(sizeof(struct gb_nvml_process_detail) == 32, "nvmlProcessDetail_v1_t");
_Static_assert(sizeof(struct gb_nvml_attributes) == 40, "nvmlDeviceAttributes_t");
_Static_assert(sizeof(struct gb_nvml_memory_v2) == 40, "nvmlMemory_v2_t");
_Static_assert(sizeof(struct gb_nvml_process) == 24, "nvmlProcessInfo_v2_t");

struct gb_nvml_table {
#define GB_SECTIONS GB_SECTION_NVML
#define GB_NVML(symbol, parameters, arguments) nvmlReturn_t(*symbol) parameters;
#include "hooks.def"
  nvmlReturn_t (*nvmlDeviceGetUUID)(nvmlDevice_t device, char *uuid, unsigned length);
};
extern struct gb_nvml_table gb_nvml;
/* Fills gb_nvml when it is empty. returns: false when the process cannot reach libnvidia-ml.so.1.
 */
bool gb_nvml_load(void);

/* ---- rows ---- */

enum gb_stream { GB_ANY, GB_LEGACY, GB_THREAD };
enum gb_weight { GB_MAY, GB_MUST };
enum gb_library { GB_LIBRARY_CUDA, GB_LIBRARY_NVML };

struct gb_row {
  const char *base;   /* what cuGetProcAddress is asked for; NULL for NVML */
  const char *symbol; /* concrete exported name */
  int since;
  uint8_t stream;  /* enum gb_stream */
  uint8_t weight;  /* enum gb_weight */
  uint8_t library; /* enum gb_library */
  void **real;     /* member of gb_real or gb_nvml */
  void **slot;     /* NULL when the symbol is only recognised, never wrapped */
  void *entry;     /* our exported function; NULL likewise */
};

extern const struct gb_row gb_rows[];
extern const size_t gb_row_count;
/* The row of exactly this symbol, or NULL. */
const struct gb_row *gb_row_find(const char *symbol);

/* ---- routing ---- */

enum gb_routing {
  GB_ROUTING_UNRESOLVED, /* no CUDA call yet */
  GB_ROUTING_READY,      /* gb_real is filled, cuInit has not succeeded yet */
  GB_ROUTING_LIVE,       /* wrappers work */
  GB_ROUTING_PASS,       /* disabled, or a forked child: slots hold the real functions */
};
extern uint32_t gb_routing_state;

static inline enum gb_routing gb_routing(void) {
  return (enum gb_routing)__atomic_load_n(&gb_routing_state, __ATOMIC_ACQUIRE);
}
static inline bool gb_live(void) { return __builtin_expect(gb_routing() == GB_ROUTING_LIVE, 1); }
/* cuInit has succeeded and the core works. */
void gb_route_live(void);
/* Puts the real functions into every slot. async-signal-safe: yes. */
void gb_route_pass(void);
/* GREENBOOST_DISABLE=1 is set. */
bool gb_disabled(void);
/* What dlsym should answer for `name`, given the real answer. */
void *gb_route_symbol(const char *name, void *found);
/* The real dlsym, of the C library or of the next interposer. */
void *(*gb_dlsym(void))(void *handle, const char *name);

/* ---- writing wrappers ----
 *
 * A file of wrappers defines wrap_X for each X of its section, GB_WRAP(X, parameters) { ...
 * real(arguments) ... }, and then includes hooks_define.h, which makes gb_hook_X of them. Of a pair
 * only the legacy name is written; `real` is then the function of the flavour that was called.
 */
#define GB_WRAP(symbol, ...) \
  static inline CUresult wrap_##symbol(typeof(gb_real.symbol) real, ##__VA_ARGS__)

#define GB_STRIP(...) __VA_ARGS__
#define GB_APPLY_2(function, first, ...) function(first __VA_OPT__(, ) __VA_ARGS__)
#define GB_APPLY(function, first, ...) GB_APPLY_2(function, first, __VA_ARGS__)

#define GB_DECLARE(symbol, parameters) CUresult gb_hook_##symbol parameters;
#define GB_HOOK(base, symbol, since, stream, weight, parameters, arguments) \
  GB_DECLARE(symbol, parameters)
#define GB_PAIR(base, legacy, thread, since, since_thread, weight, parameters, arguments) \
  GB_DECLARE(legacy, parameters)                                                          \
  GB_DECLARE(thread, parameters)
#define GB_NVML(symbol, parameters, arguments) nvmlReturn_t gb_hook_##symbol parameters;
#include "hooks.def"

/* What a copy writes and reads; bytes 0 for arrays and copies of nothing. */
void gb_copy_operands(const CUDA_MEMCPY3D *copy, struct gb_operand operands[2]);

/* What the program has done with memory of its own making (appvmm.c). */
/* Rewrites an attribute of a pointer into host memory that stands in for VRAM, or into a reservation
 * that is part of the arena. returns: true when `data` was set. */
bool gb_appvmm_attribute(void *data, CUpointer_attribute attribute, CUdeviceptr pointer);
/* True when the pointer lies in such memory. */
bool gb_appvmm_substituted(CUdeviceptr pointer);
/* Base and size of a mapping of which the driver would say something else. returns: false for any
 * other pointer. */
bool gb_appvmm_address_range(CUdeviceptr *base, size_t *bytes, CUdeviceptr pointer);

/* True when a call on `stream` is recorded into a graph instead of run. thread: NULL means the
 * thread's own stream. */
bool gb_recording_slow(CUstream stream, bool thread);
static inline bool gb_recording(CUstream stream, bool thread) {
  return __builtin_expect(__atomic_load_n(&gb_live_captures, __ATOMIC_ACQUIRE) != 0, 0) &&
         gb_recording_slow(stream, thread);
}

#endif
