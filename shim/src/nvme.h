/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme.h: spans in the encrypted store (store.h): slots for their pieces, moving them, and reading
 * ahead what is predicted to come back next. pre of everything: gb_lock.
 */
#ifndef GB_NVME_H
#define GB_NVME_H

#include "move_part.h"

static inline bool gb_on_nvme(const struct gb_span *span) {
  return span->placed && span->keeper == GB_TIER_T3;
}

/* Slots for every piece; copies that resident spans keep are given up for it. pre: span->pieces, not
 * placed. returns: false when the store has not the room; nothing was taken then. */
bool gb_nvme_place(struct gb_span *span);
/* Gives the slots back. pre: gb_on_nvme. */
void gb_nvme_drop(struct gb_span *span);
/* Writes what the store does not hold already. pre: gb_on_nvme, its chunks are mapped, a context is
 * current. */
enum gb_moved gb_nvme_store(struct gb_span *span, CUstream stream, struct gb_seen *seen);
/* Reads everything into the mapped chunks. */
enum gb_moved gb_nvme_load(struct gb_span *span, CUstream stream);
/* Begins reading what is predicted to be wanted next. */
void gb_nvme_ahead(void);

#endif
