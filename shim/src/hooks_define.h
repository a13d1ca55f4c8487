/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hooks_define.h: makes gb_hook_X from wrap_X for the section named by GB_SECTIONS; included last
 * in a file of wrappers. Until the shim is live (and for ever when it is disabled) the wrapper is
 * skipped. No include guard on purpose.
 */
#define GB_DEFINE(symbol, wrap, parameters, arguments)                            \
  CUresult gb_hook_##symbol parameters {                                          \
    if (!gb_live()) {                                                             \
      if (!gb_real_load() || gb_real.symbol == NULL) return CUDA_ERROR_NOT_FOUND; \
      return gb_real.symbol arguments;                                            \
    }                                                                             \
    if (__builtin_expect(gb_real.symbol == NULL, 0)) return CUDA_ERROR_NOT_FOUND; \
    return GB_APPLY(wrap, gb_real.symbol, GB_STRIP arguments);                    \
  }
#define GB_HOOK(base, symbol, since, stream, weight, parameters, arguments) \
  GB_DEFINE(symbol, wrap_##symbol, parameters, arguments)
#define GB_PAIR(base, legacy, thread, since, since_thread, weight, parameters, arguments) \
  GB_DEFINE(legacy, wrap_##legacy, parameters, arguments)                                 \
  GB_DEFINE(thread, wrap_##legacy, parameters, arguments)
#include "hooks.def"
#undef GB_DEFINE
