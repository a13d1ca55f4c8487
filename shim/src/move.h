/* SPDX-License-Identifier: Apache-2.0 */
/*
 * move.h: one span between its chunks and a feeder or NVMe, piece by piece through pinned memory. pre
 * of everything: gb_lock, the gate closed, every context drained: the content stands still.
 */
#ifndef GB_MOVE_H
#define GB_MOVE_H

#include "arena.h"

enum gb_moved {
  GB_MOVED = 0,
  GB_MOVE_NO_ROOM,     /* nobody away (evict) or no local tier (fetch) takes it */
  GB_MOVE_UNREACHABLE, /* may work later; nothing changed */
  GB_MOVE_LOST,        /* the bytes are gone for good */
  GB_MOVE_FAILED,      /* the driver failed; nothing changed */
};

/* Resident -> stored. Only when every piece is safe elsewhere is the span unmapped; on failure it
 * stays as it was. */
enum gb_moved gb_evict(struct gb_span *span);
/* Stored or unwritten -> resident. On failure it stays as it was. */
enum gb_moved gb_fetch(struct gb_span *span);
/* The driver's error behind GB_MOVE_FAILED. */
CUresult gb_move_error(void);
/* A random key for the digests. Once, at the start. */
bool gb_move_start(void);

#endif
