/* SPDX-License-Identifier: Apache-2.0 */
/* check.h: CHECK(condition, format...) counts and prints failures; main ends with CHECK_RESULT().
 * Thread-safe. */
#ifndef GB_TEST_CHECK_H
#define GB_TEST_CHECK_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static _Atomic unsigned check_failures;
static _Atomic unsigned check_count;

#define CHECK(condition, ...)                                           \
  do {                                                                  \
    check_count++;                                                      \
    if (!(condition)) {                                                 \
      if (check_failures++ < 20) {                                      \
        fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition); \
        fprintf(stderr, __VA_ARGS__);                                   \
        fputc('\n', stderr);                                            \
      }                                                                 \
    }                                                                   \
  } while (0)

#define CHECK_RESULT() \
  (printf("%u checks, %u failures\n", check_count, check_failures), check_failures == 0 ? 0 : 1)

/* xorshift64*: seeded, so that a failure can be run again. */
static inline uint64_t check_random(uint64_t *state) {
  *state ^= *state >> 12;
  *state ^= *state << 25;
  *state ^= *state >> 27;
  return *state * 0x2545f4914f6cdd1dull;
}

#endif
