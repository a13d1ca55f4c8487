/* SPDX-License-Identifier: Apache-2.0 */
/*
 * noop_driver.c: a libcuda.so.1 whose entry points do nothing and succeed, to price what the shim
 * adds to a call. Every entry point of the driver is a weak no-op; noop_answers.c overrides the few
 * that must answer something.
 */
#define NOOP(name)                            \
  __attribute__((weak)) int name(void);       \
  int name(void) { return 0; }
#define GB_CU(name, since, parameters) NOOP(name)
#define GB_CU_PT(name, suffix, since, since_per_thread, parameters) NOOP(name) NOOP(name##suffix)
#define GB_CU_OPAQUE(name, since) NOOP(name)
#define GB_CU_OPAQUE_PT(name, suffix, since, since_per_thread) NOOP(name) NOOP(name##suffix)
#include "gb_cuda/functions.def"
