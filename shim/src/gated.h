/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gated.h: beyond T1 + T2 (GREENBOOST_OVERCOMMIT=gated): spans are resident whole, stored whole on
 * a feeder or NVMe, or never written; before anything may touch one that is not resident it comes back, with
 * the gate closed.
 */
#ifndef GB_GATED_H
#define GB_GATED_H

#include "arena.h"

/* Named limits of waiting behind the gate. */
#define GB_DRAIN_DEADLINE_NS (5ull * 1000000)       /* the first try to find everything idle */
#define GB_DRAIN_DEADLINE_NS_MAX (320ull * 1000000) /* later tries */
#define GB_DRAIN_BACKOFF_NS_MAX (50ull * 1000000)   /* between tries, with the gate open */
#define GB_DRAIN_TOTAL_NS (30ull * 1000000000)      /* then the launch is refused */
#define GB_UNREACHABLE_TOTAL_NS \
  (45ull * 1000000000)      /* for a feeder or an agent that may come back */
#define GB_OPERANDS_MAX 128 /* distinct ranges of one launch; more: unaccounted */

/* True when the mode is in force: asked for, an arena, an agent that agreed or an NVMe file. Any
 * thread. */
bool gb_gated_on(void);

/* A span without chunks is admitted if feeders and NVMe have room for what does not fit locally.
 * pre: gb_lock. post: on true the span is GB_UNWRITTEN. */
bool gb_gated_admit(struct gb_span *span);
/* Makes local room by evicting, for memory that must be resident (slabs). pre: gb_lock. One try:
 * GB_ROOM_AGAIN when the GPU was not idle or a feeder did not answer. */
enum gb_room { GB_ROOM_MADE, GB_ROOM_NONE, GB_ROOM_AGAIN };
enum gb_room gb_gated_make_room(CUdevice device, uint64_t bytes, uint64_t patience_ns);
/* Ends spans that could not be ended before, and gives back what was granted for them. pre: gb_lock. */
void gb_gated_settle(CUdevice device);
/* Ends a span that has no chunks any more: drops the room that keeps it and releases it (later, when no
 * agent answers). pre: gb_lock. */
void gb_gated_forget(struct gb_span *span);

/* The error is what every call of the process returns from now on, unless there is one already. Any thread. returns:
 * whether it is the first. */
bool gb_sticky_set(CUresult error);
/* No memory that we do not look at holds addresses of the arena, as far as is known. Any thread. */
bool gb_launches_accounted(void);
struct gb_touch;
/* post: on CUDA_SUCCESS inside the gate, and what the call names is on touch->lane (dispatch.h). */
CUresult gb_begin_there(struct gb_touch *touch);

/* Enters the mode when it was asked for and the agent agrees or there is an NVMe file. After the first
 * HELLO. */
void gb_gated_start(void);
/* Bytes beyond the local tiers secured for this process. Any thread. */
uint64_t gb_gated_held(void);
/* Bytes beyond the local tiers the virtual device counts with: the agent's limit and the NVMe file.
 * Any thread. */
uint64_t gb_gated_capacity(void);

#endif
