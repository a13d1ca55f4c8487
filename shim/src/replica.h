/* SPDX-License-Identifier: Apache-2.0 */
/*
 * replica.h: spans that are resident here and have a second copy on feeders, so that kernels can run there (docs/adr/
 * 0013). Room for a replica is the agent's (ROOM); both sides keep digests of what they agreed on (driver/blocks).
 *
 *   none --crossing--> newest there --crossing--> newest here, the replica as old as the last visit --drop--> none
 *
 * and that for each block (newest.h).
 *
 * pre of everything, unless it says otherwise: gb_lock. What reads or changes content: the gate closed, drained.
 */
#ifndef GB_REPLICA_H
#define GB_REPLICA_H

#include "arena.h"
#include "blocks.h"
#include "newest.h"

/* Of one span. */
#define GB_REPLICAS_MAX 16u
#define GB_REPLICA_TIMEOUT_MS 15000u

struct gb_replica {
  uint32_t lane;
  struct gb_blocks_range *range; /* what both sides agreed on; NULL: only the room is left to drop */
  _Atomic bool used;             /* by a launch there, since the span crossed last */
  struct gb_wants missed;        /* there; it comes along with the next crossing */
};

/* What a call needs of a resident span where it is made: whole blocks, offsets in the span. overwritten: only that what
 * it leaves there is the newest from then on (the call is proved to write all of it, and to read none). */
struct gb_need {
  struct gb_span *span;
  uint64_t from, to;
  bool overwritten;
};

/* Makes these blocks the newest on the side, a lane or 0 for here: changed ones cross, with those of others that were
 * missed there before. Needs do not overlap; of a span that has no gb_newest, all of it. returns: CUDA_SUCCESS;
 * CUDA_ERROR_NOT_SUPPORTED with *why (enum gb_undispatched): not on that lane; the lane's error, or the driver's. */
CUresult gb_replica_settle(uint32_t side, const struct gb_need *needs, uint32_t count, uint32_t *why);
/* A call here was not made after all: what it was to overwrite is newest where it was. pre: inside the gate since this
 * thread's last gb_replica_settle; gb_lock is not needed. Or: the next one has nothing to do with the last. */
void gb_replica_undo(void);
void gb_replica_undo_nothing(void);
/* In a forked child. */
void gb_replica_forked(void);
/* Launches are made elsewhere from here on: what was missed before says nothing. pre: the gate closed. */
void gb_replica_forget_missed(void);
/* Brings all of the span here, or of every span. */
CUresult gb_replica_collect(struct gb_span *span);
CUresult gb_replica_collect_all(void);

/* Drops every replica of the span, and what is newest there with it. returns: false when the agent did not answer for
 * some: ask again later. */
bool gb_replica_drop(struct gb_span *span);
/* The context goes, after all of its spans. pre: it is current. */
void gb_replica_context_going(CUcontext context);

struct gb_crossings {
  uint64_t count;
  uint64_t bytes_out, bytes_in;
  uint64_t replica_count; /* now */
  uint64_t replica_bytes;
};
/* Any thread. */
struct gb_crossings gb_replica_counted(uint32_t lane);

#endif
