/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ahead.h: reads of VRAM begin before their turn comes: while one record of a connection is sealed and sent, the next
 * is on its way from the GPU into a pinned buffer.
 *
 * A connection is one thread of the lane library; what it has announced is kept with that thread. An announcement holds
 * a buffer and pins only once its copy has begun, which is so for GBX_AHEAD_DEPTH of a connection at a time.
 * Bytes are always fetched after their read was announced: an equal announcement replaces an older one.
 * locks: the list of all, then one connection's; both before the store's and the pool's.
 */
#ifndef GBX_AHEAD_H
#define GBX_AHEAD_H

#include "buffers.h"

#define GBX_AHEAD_DEPTH 2u
/* Announced by one connection: GB_LANE_WINDOW_MAX of lane.h. The oldest makes room. */
#define GBX_AHEAD_ITEMS_MAX 64u
/* An announcement that so many later ones have passed was cancelled. */
#define GBX_AHEAD_PASSED_MAX 64u
/* Buffers of all lanes together, and how many of them are not taken in advance. */
#define GBX_LANE_BUFFERS_MAX 32u
#define GBX_AHEAD_RESERVE (GBX_LANE_BUFFERS_MAX / 2)

struct gbx_ahead;

struct gbx_aheads {
  struct gbx_store *store;
  struct gbx_buffers *buffers;
  pthread_key_t mine;
  pthread_mutex_t lock; /* protects the list */
  struct gbx_ahead *first;
};

/* returns: whether there is room for one more key of threads. */
bool gbx_aheads_open(struct gbx_aheads *aheads, struct gbx_store *store, struct gbx_buffers *buffers);

/* The calling connection will be asked for these bytes of the arena. Does nothing for RAM. */
void gbx_ahead_announce(struct gbx_aheads *aheads, uint64_t offset, uint64_t bytes);

/* A buffer that holds these bytes. NULL: they are not allocated, the copy failed, or there is no buffer.
 * owns: the caller returns it to the pool. */
struct gbx_buffer *gbx_ahead_fetch(struct gbx_aheads *aheads, uint64_t offset, uint64_t bytes);

/* Lets go of what lies in `range`, of every connection. */
void gbx_ahead_forget(struct gbx_aheads *aheads, const struct gbx_range *range);

#endif
