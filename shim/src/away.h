/* SPDX-License-Identifier: Apache-2.0 */
/*
 * away.h: room beyond the local tiers: feeders' RAM (remote.h) and the NVMe file (nvme.h), either or
 * both. A span is kept whole by one of them. pre of everything, unless it says otherwise: gb_lock.
 *
 * Which comes first is measured: the store's reads (tried when it was opened) against what feeders
 * have given so far, and until they have given anything against 1 GB/s, the most that their path
 * does. When the first has no room the other is asked.
 */
#ifndef GB_AWAY_H
#define GB_AWAY_H

#include "remote.h"

/* Opens the NVMe file if GREENBOOST_NVME_DIR asks for one. Once, without a lock. returns: whether
 * there is one. */
bool gb_away_start(void);
/* At the end of the process: closes the file unless a range lies in it. Any thread. */
void gb_away_stop(void);

/* Secures so much that any swap among the live spans can proceed. local_bytes: what the local tiers
 * can hold of them. returns: false when there is not that much. */
bool gb_away_grant(uint64_t local_bytes);
/* Gives back what the live spans no longer need. */
void gb_away_shrink(uint64_t local_bytes);
/* Room for the span; copies that resident spans keep are dropped if that is needed. returns:
 * GB_STATUS_OK, GB_STATUS_CAPACITY, GB_STATUS_UNREACHABLE or GB_STATUS_DATA_LOSS. */
enum gb_status gb_away_place(struct gb_span *span);
/* The NVMe file took the span's bytes no longer: feeders are asked. pre: kept by the file. */
enum gb_status gb_away_replace(struct gb_span *span);
/* Drops and releases a span without chunks; when no feeder answers it waits, out of the index, its
 * address kept. */
void gb_away_end(struct gb_span *span);
/* Bytes secured, of gb_away_capacity. Any thread. */
uint64_t gb_away_held(void);
uint64_t gb_away_capacity(void);
/* Bytes came from feeders in so much time. */
void gb_away_note_fetch(uint64_t bytes, uint64_t nanoseconds);

#endif
