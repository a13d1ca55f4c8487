/* SPDX-License-Identifier: Apache-2.0 */
/*
 * replica.h: spans that are resident here and have a second copy on feeders, so that kernels can run there (docs/adr/
 * 0013). Room for a replica is the agent's (ROOM); both sides keep digests of what they agreed on (driver/blocks).
 *
 *   none --cross--> newest there --collect--> newest here, the replica as old as the last visit --drop--> none
 *
 * pre of everything, unless it says otherwise: gb_lock. What reads or changes content: the gate closed, drained.
 */
#ifndef GB_REPLICA_H
#define GB_REPLICA_H

#include "arena.h"
#include "blocks.h"

/* Of one span. */
#define GB_REPLICAS_MAX 16u
#define GB_REPLICA_TIMEOUT_MS 15000u

struct gb_replica {
  uint32_t lane;
  struct gb_blocks_range *range; /* what both sides agreed on; NULL: only the room is left to drop */
  _Atomic bool used;             /* by a launch there, since the span crossed last */
};

/* Spans whose newest content is elsewhere. Any thread. */
extern _Atomic uint32_t gb_elsewhere_count;

/* Makes the lane's replicas of these spans hold the newest content, which is there from then on: rooms are made,
 * changed blocks cross, with those of others that were used there since they crossed last. pre: resident. returns:
 * CUDA_SUCCESS; CUDA_ERROR_NOT_SUPPORTED with *why (enum gb_undispatched): not there; else the lane's error. */
CUresult gb_replica_cross(uint32_t lane, struct gb_span *const *spans, uint32_t count, uint32_t *why);
/* Brings the newest content of these spans here, and in the same round trip that of others of their lanes which the
 * program has used here since their last visit. returns: CUDA_SUCCESS, the lane's error, or the driver's. */
CUresult gb_replica_collect(struct gb_span *const *spans, uint32_t count);
/* The same for every span. */
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
