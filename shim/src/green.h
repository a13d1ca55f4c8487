/* SPDX-License-Identifier: Apache-2.0 */
/*
 * green.h: green contexts (12.4): a part of a device's processors with a context of its own, and
 * the memory of the primary context. What is allocated while one is current belongs to the primary
 * context and outlives it; its streams and work count in drains. Thread-safe.
 */
#ifndef GB_GREEN_H
#define GB_GREEN_H

#include "core.h"

/* More green contexts than this are passed through: memory allocated under one is then freed with
 * the context that is current. */
#define GB_GREEN_MAX 64

void gb_green_created(CUgreenCtx green, CUdevice device);
/* The context that stands for it. */
void gb_green_context(CUgreenCtx green, CUcontext context);
/* pre: it still works. */
void gb_green_going(CUgreenCtx green);
/* Makes the primary context current in place of a green one, for an allocation. returns: true, then
 * gb_green_leave must follow. One load where there are none. */
bool gb_green_enter(void);
void gb_green_leave(void);

#endif
