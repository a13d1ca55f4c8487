/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hooks_counted.h: for wrappers of the driver's own allocators: room is promised before the call
 * and entered or given back after it. When the driver is out of memory, what we hold of VRAM without
 * need goes back to it, and the call is made once more.
 */
#ifndef GB_HOOKS_COUNTED_H
#define GB_HOOKS_COUNTED_H

#include "hooks.h"
#include "pools.h"
#include "refuse.h"
#include "side.h"

/* The call, and when it found no memory, once more after giving back what can be. The expression is
 * evaluated up to two times. */
#define GB_RETRIED(call)                                                \
  ({                                                                    \
    CUresult first = (call);                                            \
    first == CUDA_ERROR_OUT_OF_MEMORY && gb_relieve() ? (call) : first; \
  })

/* What the driver alone can make cannot live in RAM. Pinned memory has no budget of ours: an error
 * is the driver's own. */
static inline CUresult gb_counted_refused(enum gb_side_kind kind, uint64_t bytes, CUresult result) {
  if (result != CUDA_ERROR_OUT_OF_MEMORY || kind == GB_SIDE_PINNED) return result;
  if (kind == GB_SIDE_MANAGED)
    return GB_REFUSE(result, "managed_memory_refused",
                     "managed memory of %llu bytes does not fit into the VRAM budget: raise "
                     "--vram, or let the program use cudaMalloc",
                     (unsigned long long)bytes);
  return GB_REFUSE(result, "array_refused",
                   "an array of %llu bytes does not fit into the VRAM budget, and arrays cannot "
                   "live in RAM: raise --vram",
                   (unsigned long long)bytes);
}

/* Runs `call` between the promise and the entry in the account; `key` is read after the call. */
#define GB_COUNTED(kind, bytes, key, call)                               \
  do {                                                                   \
    CUresult counted = gb_side_reserve(kind, bytes);                     \
    if (counted != CUDA_SUCCESS) (void)gb_pools_trim();                  \
    if (counted != CUDA_SUCCESS) counted = gb_side_reserve(kind, bytes); \
    if (counted != CUDA_SUCCESS)                                         \
      return gb_counted_refused(kind, bytes, counted);                   \
    counted = GB_RETRIED(call);                                          \
    if (counted == CUDA_SUCCESS)                                         \
      gb_side_commit(kind, (uint64_t)(uintptr_t)(key), bytes);           \
    else                                                                 \
      gb_side_abort(kind, bytes);                                        \
    return gb_counted_refused(kind, bytes, counted);                     \
  } while (0)

/* Runs the call that frees; the account is settled when the driver has let go. */
#define GB_UNCOUNTED(kind, key, call)                                            \
  do {                                                                           \
    CUresult freed = (call);                                                     \
    if (freed == CUDA_SUCCESS) gb_side_remove(kind, (uint64_t)(uintptr_t)(key)); \
    return freed;                                                                \
  } while (0)

#endif
