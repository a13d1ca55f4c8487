/* SPDX-License-Identifier: Apache-2.0 */
/* replica_part.h: what replica.c, crossing.c and agreement.c share. Nobody else includes it. pre: gb_lock. */
#ifndef GB_REPLICA_PART_H
#define GB_REPLICA_PART_H

#include "replica.h"

/* ---- agreement.c: engines of driver/blocks, one for each lane and context ---- */

/* pre: the context is current. returns: NULL when it cannot be made. */
struct gb_blocks *gb_agreement(uint32_t lane, CUcontext context, CUdevice device);
/* The one that is there, or NULL. */
struct gb_blocks *gb_agreement_find(uint32_t lane, CUcontext context);
/* Closes those of the context. pre: it is current. */
void gb_agreement_forget(CUcontext context);

/* ---- crossing.c: changed blocks; the gate closed, everything idle ---- */

/* Blocks that go from one place to another: offsets in the span. */
struct gb_crossing {
  struct gb_span *span;
  uint64_t from, to;
  uint32_t lane; /* where they are; 0: here */
};

/* Of these blocks, which are here, those that have changed go to the lane, where each span has a replica. returns:
 * CUDA_ERROR_NOT_SUPPORTED with *why: none has gone. */
CUresult gb_crossing_send(uint32_t lane, const struct gb_crossing *moves, uint32_t count, uint32_t *why);
/* And from the lane. The moves: by address, apart from each other. */
CUresult gb_crossing_collect(uint32_t lane, const struct gb_crossing *moves, uint32_t count);

/* ---- replica.c ---- */

/* The replica of the span on the lane, made if need be. returns: NULL with *why. *error: the lane's error instead. */
struct gb_replica *gb_replica_make(struct gb_span *span, uint32_t lane, uint32_t *why, CUresult *error);
struct gb_replica *gb_replica_find(const struct gb_span *span, uint32_t lane);
/* So many bytes have gone, or come, with one crossing. */
void gb_replica_count(uint32_t lane, uint64_t bytes_out, uint64_t bytes_in);

#endif
