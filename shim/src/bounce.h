/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bounce.h: pinned host memory through which spans leave and come back, cut into pieces. pre of everything:
 * gb_lock, and a context is current.
 */
#ifndef GB_BOUNCE_H
#define GB_BOUNCE_H

#include "arena.h"
#include "pinned.h"

/* So many pieces are on their way at once. */
#define GB_BOUNCE_PIECES 4u

struct gb_bounce {
  unsigned char *map; /* NULL: not open */
  struct gb_pinned *memory;
  uint32_t pieces; /* places of GB_PIECE_BYTES */
};

/* The memory, which a fork does not copy; GB_BOUNCE_PIECES of it. returns: NULL without memory. */
struct gb_bounce *gb_bounce_get(void);
/* Somebody may still write into it: never used again, nor unmapped. */
void gb_bounce_abandon(struct gb_bounce *bounce);

static inline unsigned char *gb_bounce_piece(const struct gb_bounce *bounce, uint32_t piece) {
  return bounce->map + (piece % bounce->pieces) * GB_PIECE_BYTES;
}

#endif
