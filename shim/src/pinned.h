/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pinned.h: host memory of ours that the GPU reads and writes, seen by every context. The memory is the process's
 * and outlives contexts; what the driver registered ends with the context it was registered in, and is registered
 * again in the next. pre of everything: gb_lock.
 */
#ifndef GB_PINNED_H
#define GB_PINNED_H

#include <stdbool.h>
#include <stddef.h>

#include "real.h"

struct gb_pinned {
  void *host; /* zeroed pages, for good; NULL: never made */
  size_t bytes;
  CUdeviceptr device;
  CUcontext context; /* registered there; NULL: not registered */
  struct gb_pinned *next;
};

/* Makes the memory the first time, of `bytes`, and registers it where it is not. pinned: lives as long as the process,
 * zeroed before its first use. pre: a context is current. returns: false: the GPU does not reach it now (host may be
 * NULL). */
bool gb_pinned_ready(struct gb_pinned *pinned, size_t bytes);
/* Whether any is registered in this context. */
bool gb_pinned_in(CUcontext context);
/* Takes the registrations back that end with this context. pre: it is current, and no work of any context that
 * names the memory is left. */
void gb_pinned_context_going(CUcontext context);

#endif
