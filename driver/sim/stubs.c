/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stubs.c: every entry point of gb_cuda/functions.def exists. Those without a simulation are these
 * weak ones; a strong definition in another file takes their place. They take no arguments, which
 * every ABI we build for allows callers to ignore, and each is a symbol of its own.
 */
#include <stddef.h>

int sim_not_simulated(const char *name);

#define STUB(name)                                             \
  __attribute__((weak, visibility("default"))) int name(void); \
  int name(void) { return sim_not_simulated(#name); }
#define GB_CU(name, since, parameters) STUB(name)
#define GB_CU_PT(name, suffix, since, since_per_thread, parameters) STUB(name) STUB(name##suffix)
#define GB_CU_OPAQUE(name, since) STUB(name)
#define GB_CU_OPAQUE_PT(name, suffix, since, since_per_thread) STUB(name) STUB(name##suffix)
#include "gb_cuda/functions.def"
