/* SPDX-License-Identifier: Apache-2.0 */
/* ahead.c: see ahead.h. */
#define _GNU_SOURCE
#include "ahead.h"

#include <stdlib.h>
#include <string.h>

struct item {
  uint64_t offset, bytes;
  unsigned passed;
  struct gbx_buffer *buffer; /* NULL: its copy has not begun */
  struct gbx_span span;      /* pinned with the buffer */
};

struct gbx_ahead {
  struct gbx_aheads *of;
  struct gbx_ahead *next, *previous;
  pthread_mutex_t lock;
  unsigned count, begun;
  struct item items[GBX_AHEAD_ITEMS_MAX]; /* oldest first */
};

/* ---- one item ---- */

/* Begins its copy. returns: whether it did; then item->buffer is set. *gone: its bytes are not there. */
static bool begin(struct gbx_aheads *aheads, struct item *item, unsigned keep, unsigned wait_ms, bool *gone) {
  struct gbx_buffer *buffer = gbx_buffers_take(aheads->buffers, keep, wait_ms);
  *gone = false;
  if (!buffer)
    return false;
  *gone = gbx_store_pin(aheads->store, item->offset, item->bytes, &item->span) != GBX_OK;
  if (!*gone) {
    struct gbx_result result = gbx_span_copy(aheads->store, &item->span, &buffer->streams, buffer->memory, true);
    if (result.status == GBX_OK) {
      item->buffer = buffer;
      return true;
    }
    gbx_end_if_fatal(result);
    gbx_memory_wait(&aheads->store->memory, &buffer->streams);
    gbx_store_unpin(aheads->store, &item->span, 0, 0);
    *gone = true;
  }
  gbx_buffers_return(aheads->buffers, buffer);
  return false;
}

/* Waits for its copy. returns: the buffer, which is the caller's; NULL: the copy failed. */
static struct gbx_buffer *finish(struct gbx_aheads *aheads, struct item *item) {
  struct gbx_buffer *buffer = item->buffer;
  struct gbx_result result = gbx_memory_wait(&aheads->store->memory, &buffer->streams);
  gbx_store_unpin(aheads->store, &item->span, 0, 0);
  item->buffer = NULL;
  if (result.status == GBX_OK)
    return buffer;
  gbx_buffers_return(aheads->buffers, buffer);
  gbx_end_if_fatal(result);
  return NULL;
}

/* ---- one connection; its lock is held ---- */

static void drop(struct gbx_ahead *ahead, unsigned at) {
  if (ahead->items[at].buffer) {
    struct gbx_buffer *buffer = finish(ahead->of, &ahead->items[at]);
    if (buffer)
      gbx_buffers_return(ahead->of->buffers, buffer);
    ahead->begun--;
  }
  ahead->count--;
  memmove(&ahead->items[at], &ahead->items[at + 1], (ahead->count - at) * sizeof(*ahead->items));
}

/* The place of an announcement; ahead->count when there is none. */
static unsigned place_of(const struct gbx_ahead *ahead, uint64_t offset, uint64_t bytes) {
  unsigned at = 0;
  while (at < ahead->count && (ahead->items[at].offset != offset || ahead->items[at].bytes != bytes))
    at++;
  return at;
}

/* Begins copies until enough are under way. */
static void go_on(struct gbx_ahead *ahead) {
  for (unsigned at = 0; at < ahead->count && ahead->begun < GBX_AHEAD_DEPTH;) {
    bool gone = false;
    if (ahead->items[at].buffer) {
      at++;
    } else if (begin(ahead->of, &ahead->items[at], GBX_AHEAD_RESERVE, 0, &gone)) {
      ahead->begun++;
      at++;
    } else if (gone) {
      drop(ahead, at);
    } else {
      return;
    }
  }
}

/* ---- threads ---- */

static void end_of_thread(void *argument) {
  struct gbx_ahead *ahead = argument;
  struct gbx_aheads *aheads = ahead->of;
  pthread_mutex_lock(&aheads->lock);
  if (ahead->previous)
    ahead->previous->next = ahead->next;
  else
    aheads->first = ahead->next;
  if (ahead->next)
    ahead->next->previous = ahead->previous;
  pthread_mutex_unlock(&aheads->lock);
  while (ahead->count > 0)
    drop(ahead, ahead->count - 1);
  pthread_mutex_destroy(&ahead->lock);
  free(ahead);
}

static struct gbx_ahead *mine(struct gbx_aheads *aheads) {
  struct gbx_ahead *ahead = pthread_getspecific(aheads->mine);
  if (ahead)
    return ahead;
  ahead = calloc(1, sizeof(*ahead));
  if (!ahead || pthread_setspecific(aheads->mine, ahead) != 0) {
    free(ahead);
    return NULL;
  }
  ahead->of = aheads;
  pthread_mutex_init(&ahead->lock, NULL);
  pthread_mutex_lock(&aheads->lock);
  ahead->next = aheads->first;
  if (ahead->next)
    ahead->next->previous = ahead;
  aheads->first = ahead;
  pthread_mutex_unlock(&aheads->lock);
  return ahead;
}

bool gbx_aheads_open(struct gbx_aheads *aheads, struct gbx_store *store, struct gbx_buffers *buffers) {
  *aheads = (struct gbx_aheads){.store = store, .buffers = buffers};
  pthread_mutex_init(&aheads->lock, NULL);
  return pthread_key_create(&aheads->mine, end_of_thread) == 0;
}

void gbx_ahead_announce(struct gbx_aheads *aheads, uint64_t offset, uint64_t bytes) {
  struct gbx_span span;
  if (aheads->store->memory.gpu_count == 0 || gbx_store_pin(aheads->store, offset, bytes, &span) != GBX_OK)
    return;
  bool direct = gbx_span_direct(&span) != NULL;
  gbx_store_unpin(aheads->store, &span, 0, 0);
  struct gbx_ahead *ahead = direct ? NULL : mine(aheads);
  if (!ahead)
    return;
  pthread_mutex_lock(&ahead->lock);
  unsigned at = place_of(ahead, offset, bytes);
  if (at < ahead->count)
    drop(ahead, at);
  if (ahead->count == GBX_AHEAD_ITEMS_MAX)
    drop(ahead, 0);
  ahead->items[ahead->count++] = (struct item){.offset = offset, .bytes = bytes};
  go_on(ahead);
  pthread_mutex_unlock(&ahead->lock);
}

/* Takes an announcement out of the list. returns: whether there was one. */
static bool take(struct gbx_ahead *ahead, uint64_t offset, uint64_t bytes, struct item *item) {
  unsigned at = place_of(ahead, offset, bytes);
  if (at == ahead->count)
    return false;
  *item = ahead->items[at];
  if (item->buffer)
    ahead->begun--;
  ahead->count--;
  memmove(&ahead->items[at], &ahead->items[at + 1], (ahead->count - at) * sizeof(*ahead->items));
  while (at-- > 0) {
    if (++ahead->items[at].passed > GBX_AHEAD_PASSED_MAX)
      drop(ahead, at);
  }
  return true;
}

struct gbx_buffer *gbx_ahead_fetch(struct gbx_aheads *aheads, uint64_t offset, uint64_t bytes) {
  struct gbx_ahead *ahead = mine(aheads);
  struct item item = {.offset = offset, .bytes = bytes};
  bool gone = false;
  if (!ahead)
    return NULL;
  pthread_mutex_lock(&ahead->lock);
  take(ahead, offset, bytes, &item);
  pthread_mutex_unlock(&ahead->lock);
  if (!item.buffer && !begin(aheads, &item, 0, GBX_BUFFER_WAIT_MS, &gone))
    return NULL;
  pthread_mutex_lock(&ahead->lock);
  go_on(ahead);
  pthread_mutex_unlock(&ahead->lock);
  return finish(aheads, &item);
}

void gbx_ahead_forget(struct gbx_aheads *aheads, const struct gbx_range *range) {
  pthread_mutex_lock(&aheads->lock);
  for (struct gbx_ahead *ahead = aheads->first; ahead; ahead = ahead->next) {
    pthread_mutex_lock(&ahead->lock);
    for (unsigned at = ahead->count; at-- > 0;) {
      if (ahead->items[at].buffer && gbx_span_touches(&ahead->items[at].span, range))
        drop(ahead, at);
    }
    pthread_mutex_unlock(&ahead->lock);
  }
  pthread_mutex_unlock(&aheads->lock);
}
