/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gate.h: launches and copies go through shared, a move has it alone. Readers are counted in
 * shards, so that threads on different cores do not meet. open -> closing (newcomers wait) ->
 * closed (no reader inside) -> open.
 */
#ifndef GB_GATE_H
#define GB_GATE_H

#include <stdbool.h>
#include <stdint.h>

/* Bits of gb_slow_path: why calls pass the gate. */
enum gb_slow {
  GB_SLOW_GATED = 1,
  GB_SLOW_STICKY = 2,  /* every call is refused */
  GB_SLOW_STAGING = 4, /* something overflows */
  GB_SLOW_EXPORT = 8,  /* an allocation is about to be moved once (ipc_export.c) */
  GB_SLOW_FIXING = 16, /* so is the program's own memory (appspan_fix.c) */
  GB_SLOW_DISPATCH = 32, /* calls may be made on feeders (dispatch.h) */
};

/* Turns a bit of gb_slow_path on or off. Calls that found it off are readers too: until they have
 * ended, the gate does not close. pre of raising: gb_lock, or before the first call. */
void gb_slow_raise(enum gb_slow bit);
void gb_slow_lower(enum gb_slow bit);
/* Once, at the start. returns: false when the kernel has no membarrier: raising then takes 50 ms. */
bool gb_slow_start(void);

/* Waits while the gate is closed, then counts this thread in. */
void gb_gate_enter(void);
void gb_gate_leave(void);
/* pre: gb_lock; this thread is not inside. returns: false when readers were still inside at the
 * deadline; open again. */
bool gb_gate_close(uint64_t deadline_ns);
/* pre: closed by this thread. */
void gb_gate_open(void);
/* Opens with this thread already inside, so that nothing it brought back can be taken before it is
 * used. */
void gb_gate_open_inside(void);

#endif
