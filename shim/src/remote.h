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

#define GB_REMOTE_TIMEOUT_MS 15000u

/* Grants so much that any swap among the live spans can proceed. local_bytes: what the
 * local tiers can hold of them. returns: false when feeders have not that much. */
bool gb_remote_grant(uint64_t local_bytes);
/* Gives back what the live spans no longer need. */
void gb_remote_shrink(uint64_t local_bytes);
/* Room for the span; drops copies that resident spans keep if that is needed. returns:
 * GB_STATUS_OK, GB_STATUS_CAPACITY, GB_STATUS_UNREACHABLE or GB_STATUS_DATA_LOSS. */
enum gb_status gb_remote_place(struct gb_span *span);
/* Drops the feeder's room. returns: false when nobody answered (the span still counts as placed).
 */
bool gb_remote_drop(struct gb_span *span);
/* Drops and releases a span without chunks; when nobody answers it waits, out of the index, its
 * address kept. */
void gb_remote_end(struct gb_span *span);
/* Ends spans whose drop nobody answered before. */
void gb_remote_drop_waiting(void);
/* Feeder bytes granted. Any thread. */
uint64_t gb_remote_held(void);

#endif
