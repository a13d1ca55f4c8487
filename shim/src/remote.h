/* SPDX-License-Identifier: Apache-2.0 */
/*
 * remote.h: room on feeders. Granted before a span is admitted, placed before it is first stored,
 * kept after a fetch as long as the grant allows (an unchanged span then leaves again without
 * traffic). pre of everything: gb_lock.
 */
#ifndef GB_REMOTE_H
#define GB_REMOTE_H

#include "arena.h"
#include "client.h"
#include "move_part.h"

#define GB_REMOTE_TIMEOUT_MS 15000u

static inline bool gb_on_feeder(const struct gb_span *span) {
  return span->placed && span->keeper != GB_TIER_T3;
}

/* So many bytes granted in all. returns: false when feeders have not that much. */
bool gb_remote_reserve(uint64_t wanted);
/* Gives back what is granted beyond wanted and not in use. */
void gb_remote_shrink(uint64_t wanted);
/* Room for the span; drops copies that resident spans keep if that is needed. pre: span->pieces, not
 * kept by the NVMe file. returns: GB_STATUS_OK, GB_STATUS_CAPACITY, GB_STATUS_UNREACHABLE or GB_STATUS_DATA_LOSS. */
enum gb_status gb_remote_place(struct gb_span *span);
/* Drops the feeder's room. returns: false when nobody answered (the span still counts as placed).
 */
bool gb_remote_drop(struct gb_span *span);
/* Drops and releases a span without chunks; when nobody answers it waits, out of the index, its
 * address kept. */
void gb_remote_end(struct gb_span *span);
/* Ends spans whose drop nobody answered before. returns: whether there was one. */
bool gb_remote_drop_waiting(void);
/* Every piece of the span to its feeder, or back, through pinned memory. pre: a context is current,
 * placed. On failure of a store what is here is whole. */
enum gb_moved gb_remote_store(struct gb_span *span, CUstream stream, struct gb_seen *seen);
enum gb_moved gb_remote_load(struct gb_span *span, CUstream stream);
/* Feeder bytes granted. Any thread. */
uint64_t gb_remote_held(void);

#endif
