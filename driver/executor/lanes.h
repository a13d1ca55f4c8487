/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lanes.h: the lanes that end in this executor. Each ticket leads to one part of the arena; its bytes are read and
 * written by the lane library's threads, RAM where it lies, VRAM through pinned buffers (backing.c).
 *
 *   granted --opened--> open --closed--> ended --GBX_TICKET_KEPT_MS--> forgotten          revoke: gone at once
 *
 * locks: the lanes' lock, before the lane library's, which calls backing.c with none of its own held. The store's is
 * taken without it.
 */
#ifndef GBX_LANES_H
#define GBX_LANES_H

#include "ahead.h"
#include "cache.h"
#include "lane.h"
#include "run.h"

/* A ticket whose lane has ended, or that nobody opened in time, can be asked about for so long. */
#define GBX_TICKET_KEPT_MS 60000u

struct gbx_lanes;
struct gbx_filling;

/* One ticket. */
struct gbx_granted {
  struct gbx_granted *next;
  struct gbx_lanes *lanes;
  struct gbx_grant is; /* without the secret */
  bool ending;         /* somebody revokes it */
  uint64_t forget_ms;  /* monotonic; 0: it lives */
  uint64_t unopened_until_ms;
  uint64_t cached_bytes; /* found in the block cache */
};

/* RAM that a connection works on in place, or the buffer it works on instead. */
struct gbx_piece {
  struct gbx_piece *next, *previous; /* pieces in place */
  struct gbx_granted *granted;
  struct gbx_span span;
  struct gbx_buffer *buffer; /* NULL: in place */
  bool for_write;
};

struct gbx_lanes {
  struct gbx_store *store;
  struct gbx_block_cache *cache;
  struct gbx_run *run;
  gb_lane_server *server; /* NULL: `status` says why */
  int status;             /* enum gb_lane_status */
  struct gbx_buffers buffers;
  struct gbx_aheads aheads;
  pthread_t events;
  int stop; /* eventfd */
  void (*notice)(void *context, const struct gbx_lane_event *event);
  void *notice_context;
  pthread_mutex_t lock; /* protects what is below */
  pthread_cond_t changed; /* a ticket is ending, or gone; a block was put in place */
  struct gbx_granted *granted;
  struct gbx_piece *pieces; /* in place */
  struct gbx_filling *fillings; /* offers that are being answered */
};

/* Starts serving connections that arrive over `door_fd`, which is taken over. Without one, or without libcrypto, there
 * are no lanes and gbx_lanes_grant says why. `notice` is called by a thread of its own. Calls go to `run`, which is
 * started by the first grant that allows them. */
void gbx_lanes_open(struct gbx_lanes *lanes, struct gbx_store *store, struct gbx_block_cache *cache,
                    struct gbx_run *run, int door_fd,
                    void (*notice)(void *context, const struct gbx_lane_event *event), void *notice_context);

/* Ends every lane. After the return nothing is touched or pinned by them. */
void gbx_lanes_close(struct gbx_lanes *lanes);

struct gbx_result gbx_lanes_grant(struct gbx_lanes *lanes, const struct gbx_grant *grant);

/* Another rate for a ticket, from now on. */
struct gbx_result gbx_lanes_limit(struct gbx_lanes *lanes, const struct gbx_limit *limit);

/* After the return that lane touches nothing. */
struct gbx_result gbx_lanes_revoke(struct gbx_lanes *lanes, const uint8_t *ticket_id);

struct gbx_lane_stat gbx_lanes_stat(struct gbx_lanes *lanes, const uint8_t *ticket_id);

/* For gbx_store.let_go: by force ends the lanes that work on the range. */
void gbx_lanes_let_go(struct gbx_lanes *lanes, const struct gbx_range *range, bool by_force);

/* ---- backing.c ---- */

/* What lies behind region 0 of a ticket; the context is a struct gbx_granted. */
extern const struct gb_lane_backing gbx_backing;

#endif
