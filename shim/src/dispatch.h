/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dispatch.h: calls that are made on a feeder instead of here (docs/adr/0013-dispatch.md). Wrappers try these first;
 * what they do not take goes the way it always went, through the bracket of gated.c.
 *
 *   look (no gate) -> a lane? -> inside the gate, everything current there -> appended to the lane's queue
 *                             -> not current: gate closed, drained, gb_dispatch_settle, inside
 */
#ifndef GB_DISPATCH_H
#define GB_DISPATCH_H

#include "gate.h"
#include "gated.h"
#include "run.h"
#include "scan.h"

/* Some lane: where there is room for what has no content yet. */
#define GB_LANE_ANY UINT32_MAX

/* GREENBOOST_REMOTE=merged, gated, agreed to by the agent. Any thread. */
bool gb_dispatch_on(void);
/* Once, when the mode of gated.c is in force. */
void gb_dispatch_start(void);

static inline bool gb_dispatching(void) {
  return __builtin_expect(
      (atomic_load_explicit(&gb_slow_path, memory_order_relaxed) & GB_SLOW_DISPATCH) != 0, 0);
}

/* ---- for the wrappers; any thread, no lock ---- */

/* The call is made on a lane. returns: true: *result is its result, nothing is left to do; false: not by dispatch.
 * pre: the stream is not being captured. */
bool gb_dispatch_launch(const struct gb_run_request *launch, CUresult *result);
/* Bytes between host and device memory, or within the latter. stream: as for gb_begin_copy; a call that blocks the
 * caller names GB_STREAM_SYNC. */
bool gb_dispatch_copy(CUdeviceptr to, CUdeviceptr from, uint64_t bytes, CUstream stream, CUresult *result);
bool gb_dispatch_fill(const struct gb_run_fill *fill, CUdeviceptr to, CUstream stream, CUresult *result);
/* A launch of a kind that only runs here: counted if it names what is on a feeder. */
void gb_dispatch_cannot(const struct gb_touch *touch);

/* All that was dispatched is done afterwards, or has failed: then gb_sticky_error says so. */
void gb_dispatch_wait_slow(void);
static inline void gb_dispatch_wait(void) {
  if (gb_dispatching() && gb_run_busy()) gb_dispatch_wait_slow();
}

/* ---- variables of modules (dispatch_variables.c); any thread ---- */

/* The host writes these bytes to the address. returns: whether a variable is there. */
bool gb_dispatch_variable_written(uint64_t address, const void *host, uint64_t bytes);
/* The address is read, or written to in another way: if it is a variable's, its image runs here only from now on. */
void gb_dispatch_variable_used(uint64_t address);
/* What has been written to variables of the image is there, too, before what is appended to the lane next. returns:
 * CUDA_ERROR_NOT_SUPPORTED when the image runs here only, or the lane's error. */
CUresult gb_dispatch_variables(uint32_t lane, const struct gb_image *image);
/* In a forked child. */
void gb_dispatch_forked(void);

/* ---- for gated.c ---- */

/* Everything the call names is where it runs: on touch->lane, or here. pre: inside the gate. */
bool gb_dispatch_ready(const struct gb_touch *touch);
/* Makes it so. all: every span, not only what is named (here only). pre: gb_lock, the gate closed, drained. returns:
 * CUDA_SUCCESS; CUDA_ERROR_NOT_SUPPORTED: not on that lane (touch->why); a sticky error. */
CUresult gb_dispatch_settle(struct gb_touch *touch, bool all);
/* The program uses here what the call names. pre: inside the gate. */
void gb_dispatch_note_here(const struct gb_touch *touch);

/* ---- between dispatch.c and dispatch_copy.c ---- */

/* Inside the gate, with what the call names on touch->lane. writes: not only reads it. returns: false: not there
 * (touch->why); else *result, and on CUDA_SUCCESS gb_dispatch_end must follow. */
bool gb_dispatch_begin(struct gb_touch *touch, bool writes, CUresult *result);
/* Leaves; a lane's error stays with the program. */
CUresult gb_dispatch_end(CUresult result);

/* ---- for whoever moves spans; pre: gb_lock, the gate closed, drained ---- */

/* The content is here, and nothing of the span is on any lane. returns: false when that cannot be done now. */
bool gb_dispatch_withdraw(struct gb_span *span);
/* A span has been stored, or placed: who can run what names it. */
void gb_dispatch_stored(struct gb_span *span);
/* Before the bytes of a stored span are read: what writes them there is done. returns: false when they are lost. */
bool gb_dispatch_finish(struct gb_span *span);

#endif
