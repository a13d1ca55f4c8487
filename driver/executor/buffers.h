/* SPDX-License-Identifier: Apache-2.0 */
/*
 * buffers.h: a bounded pool of pinned buffers between lanes and memory that the CPU does not see in one piece. Each
 * has streams of its own, so that waiting for its copies waits for no others'.
 */
#ifndef GBX_BUFFERS_H
#define GBX_BUFFERS_H

#include "store.h"

/* A writer waits this long for one; then its request fails rather than holding up its connection's heartbeat. */
#define GBX_BUFFER_WAIT_MS 1000u

struct gbx_buffer {
  struct gbx_buffer *next; /* idle ones */
  uint8_t *memory;
  struct gbx_streams streams;
};

struct gbx_buffers {
  struct gbx_memory *memory;
  uint64_t bytes; /* of each */
  unsigned most;
  pthread_mutex_t lock;
  pthread_cond_t returned;
  struct gbx_buffer *idle;
  unsigned idle_count;
  unsigned made;
};

/* Makes a pool of up to `most`; their memory is taken when it is needed, and kept. */
void gbx_buffers_open(struct gbx_buffers *buffers, struct gbx_memory *memory, uint64_t bytes, unsigned most);

/* Takes a buffer if `keep` others stay available, and waits for that up to wait_ms. NULL: no. */
struct gbx_buffer *gbx_buffers_take(struct gbx_buffers *buffers, unsigned keep, unsigned wait_ms);

/* Gives one back. pre: no copy on its streams is under way. */
void gbx_buffers_return(struct gbx_buffers *buffers, struct gbx_buffer *buffer);

#endif
