/* SPDX-License-Identifier: Apache-2.0 */
/*
 * foreign_driver.c: a libcuda.so.1 that does nothing but resolve. It differs from the simulated
 * driver where drivers may differ: cuGetProcAddress answers with internal addresses that no
 * exported name has, and it knows versions of two names (cuMemAlloc, cuEventQuery) newer than the
 * shim does. gb_foreign_internal tells the test what it answered.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "foreign_driver.h"

#define EXPORT __attribute__((visibility("default")))

int foreign_newer(void) { return 1; }

/* "cuMemAlloc_v2" is "cuMemAlloc" in its second version. */
static int is_version_of(const char *symbol, const char *base) {
  size_t length = strlen(base);
  if (strncmp(symbol, base, length) != 0) return 0;
  const char *rest = symbol + length;
  return *rest == '\0' ||
         (rest[0] == '_' && rest[1] == 'v' && rest[2] >= '1' && rest[2] <= '9' && rest[3] == '\0');
}

EXPORT int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags,
                               int *status) {
  if (name == NULL || function == NULL) return 1;
  int best = -1, newest = 0;
  *function = NULL;
  for (size_t i = 0; i < foreign_name_count; i++) {
    if (!is_version_of(foreign_names[i].symbol, name)) continue;
    newest = 1;
    if (foreign_names[i].since > version ||
        (foreign_names[i].suffix[0] != '\0' && (flags & 2) == 0))
      continue;
    if (best >= 0 && foreign_names[i].since < foreign_names[best].since) continue;
    if (best >= 0 && foreign_names[i].since == foreign_names[best].since &&
        foreign_names[i].suffix[0] == '\0')
      continue;
    best = (int)i;
  }
  if (status != NULL) *status = best >= 0 ? 0 : newest ? 2 : 1;
  if (best >= 0) *function = foreign_names[best].internal;
  return best >= 0 || status != NULL || name[0] == '\0' ? 0 : 500;
}

EXPORT int cuGetProcAddress(const char *name, void **function, int version, uint64_t flags) {
  return cuGetProcAddress_v2(name, function, version, flags, NULL);
}

EXPORT int cuDriverGetVersion(int *version) {
  *version = NEWER_VERSION;
  return 0;
}

EXPORT int cuDeviceGetCount(int *count) {
  *count = 0;
  return 0;
}

/* Without a device nothing of the shim needs to start. */
EXPORT int cuInit(unsigned flags) {
  (void)flags;
  return 100; /* CUDA_ERROR_NO_DEVICE */
}

/* The internal address of an exported symbol. */
EXPORT void *gb_foreign_internal(const char *symbol) {
  char whole[128];
  for (size_t i = 0; i < foreign_name_count; i++) {
    if (strlen(foreign_names[i].symbol) + strlen(foreign_names[i].suffix) >= sizeof whole) continue;
    strcpy(whole, foreign_names[i].symbol);
    strcat(whole, foreign_names[i].suffix);
    if (strcmp(whole, symbol) == 0) return foreign_names[i].internal;
  }
  return NULL;
}
