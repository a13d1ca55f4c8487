/* SPDX-License-Identifier: Apache-2.0 */
/*
 * foreign_names.c: every name of the driver with an exported body that does nothing (weak:
 * foreign_driver.c has the few that matter) and an internal twin of another address.
 */
#include "foreign_driver.h"

#define GB_CU_OPAQUE(name, since)                                           \
  __attribute__((visibility("default"), weak)) int name(void) { return 0; } \
  int internal_##name(void);                                                \
  __asm__(".text\ninternal_" #name ": jmp " #name "\n");
#define GB_CU_OPAQUE_PT(name, suffix, since, since_per_thread) \
  GB_CU_OPAQUE(name, since)                                    \
  GB_CU_OPAQUE(name##suffix, since_per_thread)
#define GB_CU(name, since, parameters) GB_CU_OPAQUE(name, since)
#define GB_CU_PT(name, suffix, since, since_per_thread, parameters) \
  GB_CU_OPAQUE_PT(name, suffix, since, since_per_thread)
#include "gb_cuda/functions.def"

const struct foreign_name foreign_names[] = {
#define GB_CU_OPAQUE(name, since) {#name, "", since, (void *)internal_##name},
#define GB_CU_OPAQUE_PT(name, suffix, since, since_per_thread) \
  {#name, "", since, (void *)internal_##name},                 \
      {#name, #suffix, since_per_thread, (void *)internal_##name##suffix},
#define GB_CU(name, since, parameters) GB_CU_OPAQUE(name, since)
#define GB_CU_PT(name, suffix, since, since_per_thread, parameters) \
  GB_CU_OPAQUE_PT(name, suffix, since, since_per_thread)
#include "gb_cuda/functions.def"
    {"cuMemAlloc_v3", "", NEWER_VERSION, (void *)foreign_newer},
    {"cuEventQuery_v2", "", NEWER_VERSION, (void *)foreign_newer},
};
const size_t foreign_name_count = sizeof foreign_names / sizeof foreign_names[0];
