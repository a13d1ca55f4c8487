/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bounce.h: pinned host memory through which spans leave and come back, cut into pieces. The feeders'
 * belongs to the connection with the agent, the NVMe file's to this process. pre of everything:
 * gb_lock, and a context is current.
 */
#ifndef GB_BOUNCE_H
#define GB_BOUNCE_H

#include "arena.h"

struct gb_bounce {
  unsigned char *map; /* NULL: not open */
  uint64_t bytes;
  uint64_t generation; /* of the connection it belongs to */
  bool pinned;
  uint32_t pieces; /* places of GB_PIECE_BYTES */
};

/* The staging memory of the present connection. returns: NULL when there is none. */
struct gb_bounce *gb_bounce_agent(void);
/* Memory of our own, which a fork does not copy. returns: NULL without memory. */
struct gb_bounce *gb_bounce_own(void);
/* Somebody may still write into it: never used again, nor unmapped. */
void gb_bounce_abandon(struct gb_bounce *bounce);

static inline unsigned char *gb_bounce_piece(const struct gb_bounce *bounce, uint32_t piece) {
  return bounce->map + (piece % bounce->pieces) * GB_PIECE_BYTES;
}

#endif
