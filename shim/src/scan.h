/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scan.h: what a launch may touch: the addresses among its arguments, and whether what they point
 * to holds addresses itself.
 */
#ifndef GB_SCAN_H
#define GB_SCAN_H

#include "gated.h"

#define GB_TOUCH_REACH_MAX 48u

/* Addresses. overwritten: all of them are written, and none is read. */
struct gb_touch_reach {
  uint64_t from, to;
  bool overwritten;
};

/* The operands of one access. */
struct gb_touch {
  bool accounted; /* every argument was seen */
  uint32_t count;
  uint64_t bases[GB_OPERANDS_MAX]; /* of distinct spans */
  uint32_t named_count; /* places inside those spans, as the call names them: hints for staging */
  struct gb_operand named[GB_OPERANDS_MAX]; /* bytes 0: how much is touched is not known */
  uint32_t content_count; /* what a kernel may read addresses from and is not a whole span */
  struct gb_operand
      content[GB_OPERANDS_MAX]; /* small allocations; pools, managed and pinned memory */
  /* Where dispatch is on (docs/adr/0016). exact: all it touches of the arena is in `reach`. */
  bool exact;
  uint32_t reach_count;
  struct gb_touch_reach reach[GB_TOUCH_REACH_MAX];
  uint32_t lane; /* the access happens there (dispatch.h); 0: here */
  uint32_t why;  /* enum gb_undispatched: why that did not work */
};

/* Adds the span of an address. bytes: how much of it, 0 when that is not known. Takes gb_index_lock.
 */
void gb_touch_address(struct gb_touch *touch, uint64_t address, uint64_t bytes);
/* All arguments of a launch, 8-byte words at every fourth byte. Thread-safe. */
void gb_touch_launch(struct gb_touch *touch, CUfunction function, void **params, void **extra);

struct gb_run_request;
/* What is proved of a launch whose operands are in the touch (reach_launch.c); touch->exact: whether anything is. */
void gb_touch_reach(struct gb_touch *touch, const struct gb_run_request *launch);
/* An exact touch reads or writes these bytes, too. */
void gb_touch_exactly(struct gb_touch *touch, uint64_t address, uint64_t bytes);
/* In a forked child. */
void gb_reach_forked(void);

/* Calls the function with the bytes of each argument; it must not ask about functions. returns: false
 * when not every argument can be seen. */
typedef void (*gb_visit)(void *context, const void *bytes, size_t length);
bool gb_arguments_visit(CUfunction function, void **params, void **extra, gb_visit visit,
                        void *context);
/* True when both lists are known to hold the same values. */
bool gb_arguments_equal(CUfunction function, void **a, void **b);

/* True when any 8-byte word (at every fourth byte) lies in the arena. */
bool gb_holds_addresses(const void *bytes, uint64_t length);
/* Scans the content of the operands on the GPU, as far as no verdict is known. pre: gb_lock, gate
 * closed, drained. returns: true when none holds an address of the arena. Verdicts of spans are
 * kept in span->scan. */
bool gb_scan_contents(const struct gb_touch *touch);

#endif
