/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check.h: the helper of the C tests. CHECK notes a failure and goes on, REQUIRE ends the test
 * function, and the program ends with `return check_done();`, which prints "N passed, N failed" of
 * the test functions.
 */
#ifndef GB_CHECK_H
#define GB_CHECK_H

#include <stdio.h>
#include <stdlib.h>

static int check_passed, check_failed, check_errors;

#define CHECK(condition)                                                        \
  do {                                                                          \
    if (!(condition)) {                                                         \
      check_errors++;                                                           \
      fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
    }                                                                           \
  } while (0)

#define REQUIRE(condition)                                                      \
  do {                                                                          \
    if (!(condition)) {                                                         \
      check_errors++;                                                           \
      fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
      return;                                                                   \
    }                                                                           \
  } while (0)

/* Compares two integers and prints both. */
#define CHECK_EQUAL(got, want)                                                                 \
  do {                                                                                         \
    const long long got_ = (long long)(got), want_ = (long long)(want);                        \
    if (got_ != want_) {                                                                       \
      check_errors++;                                                                          \
      fprintf(stderr, "%s:%d: %s is %lld, not %lld\n", __FILE__, __LINE__, #got, got_, want_); \
    }                                                                                          \
  } while (0)

#define RUN(test) check_run(#test, test)

static inline void check_run(const char *name, void (*test)(void)) {
  const int before = check_errors;
  test();
  if (check_errors == before) check_passed++;
  else check_failed++;
  fprintf(stderr, "%s %s\n", check_errors == before ? "ok  " : "FAIL", name);
}

static inline int check_done(void) {
  printf("%d passed, %d failed\n", check_passed, check_failed);
  return check_failed != 0;
}

#endif
