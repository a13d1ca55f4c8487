/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dispatch.h: where a launch runs (docs/adr/0013-dispatch.md). gated.c asks for each launch, copy and fill that
 * names a span with bytes on a feeder, or whose newest bytes are there.
 */
#ifndef GB_DISPATCH_H
#define GB_DISPATCH_H

#include "gated.h"
#include "run.h"
#include "scan.h"

/* GREENBOOST_REMOTE=merged, gated, agreed to by the agent. Any thread. */
bool gb_dispatch_on(void);

/* The lane on which the access runs, or 0: here. Reads states only. pre: inside the gate, or gb_lock with the gate
 * closed. *ready: everything it names is where it has to be; otherwise gb_dispatch_settle does it. *why: enum
 * gb_undispatched of a launch that names a feeder's span and runs here all the same; GB_UNDISPATCHED_COUNT: it names
 * none. */
uint32_t gb_dispatch_where(const struct gb_touch *touch, const struct gb_run_request *launch, bool *ready,
                           uint32_t *why);

/* Makes everything current there (lane) or here (0): changed blocks cross. pre: gb_lock, the gate closed, drained, a
 * context is current. returns: CUDA_SUCCESS; CUDA_ERROR_NOT_SUPPORTED: not there, for this launch or for good;
 * CUDA_ERROR_EXTERNAL_DEVICE. */
CUresult gb_dispatch_settle(uint32_t lane, const struct gb_touch *touch);

/* The access happens on the lane: newest of what it names is there from now on. pre: inside the gate, ready. */
CUresult gb_dispatch_launch(uint32_t lane, const struct gb_touch *touch, const struct gb_run_request *launch);

#endif
