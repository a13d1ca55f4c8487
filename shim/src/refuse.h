/* SPDX-License-Identifier: Apache-2.0 */
/*
 * refuse.h: every call the shim refuses leaves one line that says what to do. Programs probe for
 * memory and for features, often thousands of times: each place speaks once (an event, so that the
 * agent shows it too), and after that only at GREENBOOST_LOG=debug.
 */
#ifndef GB_REFUSE_H
#define GB_REFUSE_H

#include "core.h"

/* told: one per place, starts at 0. name: stable snake_case. returns: error. Thread-safe. */
CUresult gb_refused(uint32_t *told, CUresult error, const char *name, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

#define GB_REFUSE(error, name, ...)              \
  ({                                             \
    static uint32_t told;                        \
    gb_refused(&told, error, name, __VA_ARGS__); \
  })

#endif
