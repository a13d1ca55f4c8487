/* SPDX-License-Identifier: Apache-2.0 */
/*
 * core.h: what the wrappers (hooks_*.c) may ask of the core (arena, tiers, gate, identity, agent
 * link).
 *
 * The wrappers know the CUDA API and nothing of tiers; the core knows tiers and calls the driver
 * only through gb_real (real.h). Nothing here prints, exits or aborts. Every function may be called
 * from any thread unless it says so; none is async-signal-safe.
 */
#ifndef GB_CORE_H
#define GB_CORE_H

#ifndef GB_CUDA_NO_ALIASES
#define GB_CUDA_NO_ALIASES /* names are concrete symbols here */
#endif
#include <cuda.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gb_abi.h"

/* ---- life ---- */

/* True when the shim works in this process: not GREENBOOST_DISABLE=1, cuInit has succeeded, not a
 * forked child. */
bool gb_core_active(void);
/* After every successful real cuInit: reads the configuration, starts the agent link. Idempotent,
 * once per process. */
void gb_core_start(void);
/* A context exists (created or primary retained) or is about to go (destroyed, reset, last
 * release). Going drops the context's allocations after a drain, as the driver does. pre: the real
 * call has not been made yet when going. */
void gb_core_context_created(CUcontext context, CUdevice device);
void gb_core_context_going(CUcontext context);
/* Streams of the program, so that a drain knows whom to ask (drivers without cuCtxRecordEvent).
 * created: after the real call; going: before it. blocking: false for CU_STREAM_NON_BLOCKING.
 * Unknown streams are ignored. */
void gb_core_stream_created(CUstream stream, bool blocking);
void gb_core_stream_going(CUstream stream);
/* A module or library is about to be unloaded: function handles may be reused, what is cached about
 * them is dropped. */
void gb_core_functions_unloaded(void);

/* ---- ranges of the arena ---- */

/* One subtract and compare; base and size never change after the first allocation (0, 0 before). */
extern uint64_t gb_arena_base_address;
extern uint64_t gb_arena_size_bytes;
static inline bool gb_owns(CUdeviceptr pointer) {
  return (uint64_t)pointer - gb_arena_base_address < gb_arena_size_bytes;
}

/* True for every pointer gb_alloc gave: in the arena, or (where HOST_NUMA or the arena does not
 * work) a whole allocation of pinned host memory or of the real driver kept in a table. gb_free,
 * gb_pointer_attribute and gb_address_range take any managed pointer; launches and copies need only
 * gb_owns. */
extern _Atomic uint32_t gb_plain_count;
bool gb_plain_find(CUdeviceptr pointer);
static inline bool gb_manages(CUdeviceptr pointer) {
  return gb_owns(pointer) || (atomic_load_explicit(&gb_plain_count, memory_order_acquire) != 0 &&
                              gb_plain_find(pointer));
}

/* True for addresses the program has reserved in the arena where no memory of ours is mapped: nothing,
 * or what it made with the driver. There the driver answers. */
extern _Atomic uint32_t gb_area_count;
bool gb_area_hole_slow(CUdeviceptr pointer);
static inline bool gb_area_hole(CUdeviceptr pointer) {
  return atomic_load_explicit(&gb_area_count, memory_order_acquire) != 0 && gb_owns(pointer) &&
         gb_area_hole_slow(pointer);
}
/* Who answers for the pointer: we, or the driver. */
static inline bool gb_answers(CUdeviceptr pointer) {
  return gb_manages(pointer) && !gb_area_hole(pointer);
}

/* cuMemAlloc on the current context. returns: the driver's codes; CUDA_ERROR_OUT_OF_MEMORY when no
 * tier may hold it. */
CUresult gb_alloc(CUdeviceptr *pointer, size_t bytes);
/* Same with a row pitch as the driver would choose. */
CUresult gb_alloc_pitch(CUdeviceptr *pointer, size_t *pitch, size_t width_bytes, size_t height,
                        unsigned element_bytes);
/* pre: gb_manages(pointer). Implies synchronisation like cuMemFree. Interior pointers:
 * CUDA_ERROR_INVALID_VALUE. */
CUresult gb_free(CUdeviceptr pointer);

/* ---- what cannot live in the arena: counted against T1 (or T2), refused beyond the budget ---- */

enum gb_side_kind {
  GB_SIDE_ARRAY,
  GB_SIDE_POOL, /* stream-ordered allocations */
  GB_SIDE_MANAGED,
  GB_SIDE_APP_VMM,      /* cuMemCreate by the program, device memory */
  GB_SIDE_APP_VMM_HOST, /* the same, backed by HOST_NUMA because VRAM was out: counts as T2 */
  GB_SIDE_PINNED,       /* host memory the program pins: shown, not limited */
  GB_SIDE_KIND_COUNT,
};

/* Promise room before the real call. returns: CUDA_SUCCESS or CUDA_ERROR_OUT_OF_MEMORY. owns: on
 * success the caller must call gb_side_commit or gb_side_abort. GB_SIDE_APP_VMM_HOST asks the agent
 * for a T2 grant. */
CUresult gb_side_reserve(enum gb_side_kind kind, uint64_t bytes);
void gb_side_commit(enum gb_side_kind kind, uint64_t key, uint64_t bytes);
void gb_side_abort(enum gb_side_kind kind, uint64_t bytes);
/* Unknown keys are ignored (memory from before the shim worked). returns: bytes released. */
uint64_t gb_side_remove(enum gb_side_kind kind, uint64_t key);
/* The NUMA node HOST_NUMA chunks live on, or -1 where HOST_NUMA VMM does not work (probed in a
 * child process). */
int gb_host_numa_node(void);

/* ---- accesses: launches, copies, fills ----
 *
 * Every call that lets the device touch memory is bracketed: begin, real call, end. begin fetches
 * what must be back (gated mode), waits while a remap is under way, and returns the sticky error if
 * there is one; on anything but CUDA_SUCCESS the real call must not be made and end must not be
 * called. Cheap when the attachment is not gated: a relaxed load and a branch.
 */
struct gb_operand {
  CUdeviceptr address;
  uint64_t bytes;
};

enum gb_unknown { GB_UNKNOWN_GRAPH, GB_UNKNOWN_LEGACY_LAUNCH, GB_UNKNOWN_COPY, GB_UNKNOWN_TEXTURE };

/* Whose order the call joins. A stream the program passed, with its NULL named: gb_stream. SYNC: the
 * call blocks the caller anyway (or its stream is not known), so a remap under way is waited for on
 * the CPU. */
#define GB_STREAM_SYNC ((CUstream)UINTPTR_MAX)
static inline CUstream gb_stream(CUstream stream, bool thread) {
  if (stream != NULL) return stream;
  return thread ? CU_STREAM_PER_THREAD : CU_STREAM_LEGACY;
}

struct gb_touch;
struct gb_run_request;
CUresult gb_begin_launch_slow(const struct gb_run_request *launch, CUstream stream);
CUresult gb_begin_copy_slow(const struct gb_operand *operands, size_t count, CUstream stream);
CUresult gb_begin_unknown_slow(enum gb_unknown what, CUstream stream);
/* Operands found beforehand (scan.h): a graph, or a piece of one. The touch is changed. */
CUresult gb_begin_touch_slow(struct gb_touch *touch, CUstream stream);
/* Before the end: the launch was refused. What it would have written is what it was. */
void gb_failed_slow(void);
void gb_end_slow(void);
/* Distinct bytes a piece of a graph should name at most; 0: graphs need not be split. */
uint64_t gb_stage_segment_bytes(void);

extern _Atomic uint32_t gb_slow_path; /* not 0: gated, staging, an export, or a sticky error */
/* Counters of this thread, summed by the core for the report; the first count of a thread registers
 * it. inside: calls between begin and end that found the slow path off; they are not in the gate, and
 * whoever turns the slow path on waits for them (gate.h). */
struct gb_counters {
  uint64_t launches;
  uint64_t copies;
  uint32_t inside;
  bool registered;
};
extern _Thread_local struct gb_counters gb_counters;
void gb_counters_register(void);
static inline void gb_count(uint64_t *counter) {
  if (__builtin_expect(!gb_counters.registered, 0)) gb_counters_register();
  __atomic_store_n(counter, *counter + 1, __ATOMIC_RELAXED);
}

#define GB_SLOW() \
  __builtin_expect(atomic_load_explicit(&gb_slow_path, memory_order_acquire) != 0, 0)

static inline void gb_step_inside(uint32_t step) {
  __atomic_store_n(&gb_counters.inside, gb_counters.inside + step, __ATOMIC_RELEASE);
}
/* Steps inside, unless the slow path is on. The processor's fence between the store and the load is
 * membarrier(2), paid by who turns the path on. returns: true when the call must go the slow way. */
static inline bool gb_slow_begin(void) {
  gb_step_inside(1);
  atomic_signal_fence(memory_order_seq_cst);
  if (!GB_SLOW()) return false;
  gb_step_inside(-1u);
  return true;
}

/* The program is about to wait for the GPU, or has just waited for all of it: a good moment to bring
 * what comes next. Does not wait. */
void gb_idle_slow(void);
static inline void gb_idle(void) {
  if (GB_SLOW()) gb_idle_slow();
}

/* Wrappers use these; a call that is only recorded into a capturing stream is not bracketed (it
 * does not run, and the graph's launch is GB_UNKNOWN_GRAPH). The flag at *slow remembers which way
 * was taken, for gb_end. */
static inline CUresult gb_begin_launch(const struct gb_run_request *launch, CUstream stream, bool *slow) {
  gb_count(&gb_counters.launches);
  *slow = gb_slow_begin();
  return *slow ? gb_begin_launch_slow(launch, stream) : CUDA_SUCCESS;
}
static inline CUresult gb_begin_copy(const struct gb_operand *operands, size_t count,
                                     CUstream stream, bool *slow) {
  gb_count(&gb_counters.copies);
  *slow = gb_slow_begin();
  return *slow ? gb_begin_copy_slow(operands, count, stream) : CUDA_SUCCESS;
}
static inline CUresult gb_begin_unknown(enum gb_unknown what, CUstream stream, bool *slow) {
  gb_count(&gb_counters.launches);
  *slow = gb_slow_begin();
  return *slow ? gb_begin_unknown_slow(what, stream) : CUDA_SUCCESS;
}
static inline void gb_end(bool slow) {
  if (slow)
    gb_end_slow();
  else
    gb_step_inside(-1u);
}

/* A host-to-device copy writes to memory outside the arena (a module global, a pool, an array): if
 * the source holds an arena address, hidden pointers exist and every later launch counts as
 * unaccounted. No-op unless gated. */
void gb_note_copy_outside(const void *host_source, uint64_t bytes);
/* Live stream captures in the process; while not 0 nothing is remapped. began: before the driver
 * knows of it; waits until remaps under way are done. */
extern _Atomic uint32_t gb_live_captures;
void gb_capture_began(void);
void gb_capture_ended(void);

/* From now on work on the GPU may wait for work that is submitted later, or for a thread of the
 * program: stream memory operations, collectives. Remaps then wait little for it. */
void gb_note_waits(void);
/* The program's own code runs in the middle of a stream. It could wait for a thread that waits for us,
 * but most does not: remaps wait for it, and less with each time that was in vain. */
void gb_note_callback(void);

/* ---- residency: what the program may say of its ranges ---- */

/* Keeps the range in VRAM for good, where it is now or at the next chance: memory that others reach
 * by physical address (IPC, dma-buf, collectives, stream memory operations). A pin never fails the
 * caller. pre: gb_owns(address). */
void gb_pin(CUdeviceptr address, uint64_t bytes);
/* Hints of greenboost.h; they steer, they promise nothing. */
enum gb_hint { GB_HINT_NONE, GB_HINT_HOT, GB_HINT_COLD, GB_HINT_PINNED };
/* returns: CUDA_ERROR_INVALID_VALUE when the range is not ours. */
CUresult gb_hint_range(CUdeviceptr address, uint64_t bytes, enum gb_hint hint);

/* The error every call of this process must return from now on, or CUDA_SUCCESS. */
CUresult gb_sticky_error(void);

/* ---- identity: one answer everywhere ---- */

/* Rewrites what the driver said: free and total of the virtual device. Either pointer may be NULL.
 */
void gb_identity_memory(CUdevice device, uint64_t real_free, uint64_t real_total,
                        uint64_t *free_bytes, uint64_t *total_bytes);
/* pre: gb_manages(pointer). Same prototype and errors as cuPointerGetAttribute. */
CUresult gb_pointer_attribute(void *data, CUpointer_attribute attribute, CUdeviceptr pointer);
/* pre: gb_manages(pointer). Base and size of the allocation; either out-pointer may be NULL. */
CUresult gb_address_range(CUdeviceptr *base, size_t *size, CUdeviceptr pointer);

/* ---- log: GREENBOOST_LOG=error|warn|info|debug to stderr or GREENBOOST_LOG_FILE; silent by
 * default ---- */
enum gb_log_level { GB_LOG_ERROR, GB_LOG_WARN, GB_LOG_INFO, GB_LOG_DEBUG };
void gb_log(enum gb_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Also tells the agent (shown by `greenboost events`). name: stable snake_case. */
void gb_event(enum gb_log_level level, CUresult error, const char *name, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

#endif
