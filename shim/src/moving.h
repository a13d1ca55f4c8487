/* SPDX-License-Identifier: Apache-2.0 */
/*
 * moving.h: copies that the agent moves from one feeder to another while the program runs (docs/adr/0012).
 *
 *   (none) --BEGIN--> watched --COMMIT, not written to--> committed, the span uses the new lane
 *                        |------COMMIT, written to------> (none), the span keeps the old lane
 *                        +------CANCEL------------------> (none)
 *
 * Notices come on the link's thread, which must not wait for gb_lock; they are carried out by whoever holds it next.
 */
#ifndef GB_MOVING_H
#define GB_MOVING_H

#include <stdbool.h>
#include <stdint.h>

#include "gb_abi.h"

/* Moves watched at once; the oldest makes room, and its COMMIT is answered with GB_MOVE_UNKNOWN. */
#define GB_MOVES_MAX 64u
/* Notices waiting for gb_lock; more are dropped, and the agent asks again. */
#define GB_MOVE_NOTICES_MAX 256u

/* Takes a notice. Any thread, no lock needed. */
void gb_moving_note(const struct gb_move *move);
/* Whether notices wait. Any thread. */
bool gb_moving_waiting(void);
/* Carries out what waits. pre: gb_lock; no request on any copy is under way. */
void gb_moving_run(void);
/* The same when gb_lock is free at this moment. pre: not gb_lock. */
void gb_moving_try(void);
/* Has the agent move a placed range to another lane, and answers what it asks meanwhile. pre: gb_lock, the gate closed,
 * everything idle, on the lanes too. returns: GB_STATUS_OK: it lies there; else the agent's answer, and its extents say
 * where it lies. */
enum gb_status gb_moving_shift(const struct gb_place_request *wish);
/* These bytes are about to be stored. pre: gb_lock. */
void gb_moving_written(uint64_t offset, uint64_t length);

#endif
