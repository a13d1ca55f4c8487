/* SPDX-License-Identifier: Apache-2.0 */
/* hints.c: the one symbol of greenboost.h. Programs find it with dlsym; it may be called from any
 * thread, also before cuInit and in a forked child, where no range is ours. */
#include "core.h"

__attribute__((visibility("default"))) int greenboost_hint_v1(uint64_t address, size_t bytes,
                                                              int hint);

/* hint: enum greenboost_hint, whose values are those of enum gb_hint. returns: a CUresult. */
int greenboost_hint_v1(uint64_t address, size_t bytes, int hint) {
  if (hint < GB_HINT_NONE || hint > GB_HINT_PINNED) return CUDA_ERROR_INVALID_VALUE;
  if (!gb_core_active() || bytes == 0 || !gb_owns(address)) return CUDA_ERROR_INVALID_VALUE;
  CUresult result = gb_hint_range(address, bytes, (enum gb_hint)hint);
  if (result == CUDA_SUCCESS) {
    gb_log(GB_LOG_DEBUG, "hint %d for %zu bytes at 0x%llx", hint, bytes,
           (unsigned long long)address);
  }
  return result;
}
