/* SPDX-License-Identifier: Apache-2.0 */
/* next.c: built twice, as libfirst.so and libsecond.so: what comes after the first is the second.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>

void gb_test_here(void);
void *gb_test_next(void);

void gb_test_here(void) {}
void *gb_test_next(void) {
  void *found = dlsym(RTLD_NEXT, "gb_test_here");
  __asm__ volatile("" : : "r"(found)); /* not a tail call: the look-up must return here */
  return found;
}
