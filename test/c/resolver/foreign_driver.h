/* SPDX-License-Identifier: Apache-2.0 */
/* foreign_driver.h: the names of the foreign driver, between its two files. */
#ifndef GB_FOREIGN_DRIVER_H
#define GB_FOREIGN_DRIVER_H

#include <stddef.h>

/* The CUDA version of names that the shim cannot know. */
#define NEWER_VERSION 14000

struct foreign_name {
  const char *symbol;
  const char *suffix; /* "" for the legacy flavour */
  int since;
  void *internal; /* what cuGetProcAddress answers */
};
extern const struct foreign_name foreign_names[];
extern const size_t foreign_name_count;

/* The body of the names that the shim cannot know. */
int foreign_newer(void);

#endif
