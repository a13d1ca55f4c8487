/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pull.h: fetches bytes from another feeder over a lane of which this executor is the client. A few pulls run at once,
 * each with a thread of its own; the others wait their turn in order.
 *
 *   queued --> running --> ended (all bytes in place, or why not)        cancel: from either
 *
 * locks: the pulls' lock; the store's is taken without it.
 */
#ifndef GBX_PULL_H
#define GBX_PULL_H

#include "buffers.h"

#define GBX_PULLS_AT_ONCE 2u
/* Queued and running; more are refused. */
#define GBX_PULLS_MAX 64u
#define GBX_PULL_PIECES 8u /* of GBX_SPAN_BYTES_MAX, on the way at once */
/* A piece that has not come by then ends its pull: all of them on the way need half a megabyte per second. */
#define GBX_PULL_PIECE_MS 60000u

struct gbx_pull_job;

struct gbx_pulls {
  struct gbx_store *store;
  struct gbx_buffers buffers;
  void (*ended)(void *context, uint64_t request_id, struct gbx_result result, uint64_t bytes);
  void *context;
  pthread_t threads[GBX_PULLS_AT_ONCE];
  unsigned thread_count;
  pthread_mutex_t lock; /* protects what is below */
  pthread_cond_t wake;
  struct gbx_pull_job *first; /* running ones too, in the order they came */
  unsigned count;
  bool closing;
};

/* `ended` is called once for each pull that was begun, by any thread. */
void gbx_pulls_open(struct gbx_pulls *pulls, struct gbx_store *store,
                    void (*ended)(void *context, uint64_t request_id, struct gbx_result result, uint64_t bytes),
                    void *context);

/* Ends every pull, and its threads. */
void gbx_pulls_close(struct gbx_pulls *pulls);

/* Queues a pull under the id of its request. returns: GBX_OK, and `ended` will be called; else it will not. */
struct gbx_result gbx_pulls_begin(struct gbx_pulls *pulls, uint64_t request_id, const struct gbx_pull *pull);

/* *bytes: in place so far. returns: GBX_OK or GBX_NOT_FOUND. */
struct gbx_result gbx_pulls_progress(struct gbx_pulls *pulls, uint64_t request_id, uint64_t *bytes);

/* It ends soon, with GBX_CANCELED. returns: GBX_OK or GBX_NOT_FOUND. */
struct gbx_result gbx_pulls_cancel(struct gbx_pulls *pulls, uint64_t request_id);

/* Ends the pulls into a range that is being freed, with GBX_NOT_FOUND. */
void gbx_pulls_let_go(struct gbx_pulls *pulls, const struct gbx_range *range);

#endif
