/* SPDX-License-Identifier: Apache-2.0 */
/* store.c: see store.h. */
#define _GNU_SOURCE
#include "store.h"

#include <errno.h>
#include <string.h>
#include <time.h>

struct gbx_result gbx_store_open(struct gbx_store *store, const struct gbx_init *init) {
  struct gbx_result result = gbx_memory_open(&store->memory, init);
  if (result.status != GBX_OK)
    return result;
  pthread_condattr_t monotonic;
  pthread_condattr_init(&monotonic);
  pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
  pthread_cond_init(&store->changed, &monotonic);
  pthread_condattr_destroy(&monotonic);
  pthread_mutex_init(&store->lock, NULL);
  store->ranges.arena_bytes = init->arena_bytes;
  store->ranges.gpu_count = init->gpu_count;
  return result;
}

void gbx_store_close(struct gbx_store *store) {
  struct gbx_streams streams = {0};
  for (size_t index = 0; index < store->ranges.count; index++) {
    struct gbx_entry *entry = store->ranges.entries[index];
    if (entry->state == GBX_RANGE_READY && entry->range.device_kind == GBX_DEVICE_GPU)
      gbx_memory_scrub(&store->memory, &streams, entry);
  }
}

/* ---- ranges; the store's lock is held in the helpers ---- */

static void account(struct gbx_store *store, const struct gbx_entry *entry, int sign) {
  uint64_t length = entry->range.length;
  uint64_t *used = entry->range.device_kind == GBX_DEVICE_RAM ? &store->stat.ram_bytes
                                                              : &store->stat.vram_bytes[entry->range.device_index];
  *used += (uint64_t)sign * length;
  store->stat.ram_locked_bytes += (uint64_t)sign * entry->locked_bytes;
}

struct gbx_result gbx_store_allocate(struct gbx_store *store, struct gbx_streams *streams,
                                     const struct gbx_range *range, uint64_t *locked) {
  struct gbx_entry *entry = NULL;
  *locked = 0;
  pthread_mutex_lock(&store->lock);
  enum gbx_status_code claimed = gbx_ranges_claim(&store->ranges, range, &entry);
  pthread_mutex_unlock(&store->lock);
  if (claimed != GBX_OK)
    return (struct gbx_result){claimed, 0};

  struct gbx_result result = gbx_memory_map(&store->memory, streams, entry);
  pthread_mutex_lock(&store->lock);
  if (result.status == GBX_OK) {
    entry->state = GBX_RANGE_READY;
    *locked = entry->locked_bytes;
    account(store, entry, 1);
  } else {
    gbx_ranges_remove(&store->ranges, entry);
  }
  pthread_mutex_unlock(&store->lock);
  return result;
}

/* Waits until nobody has the entry pinned or touches it otherwise. locks: held at the call and at the return. */
static void wait_unpinned(struct gbx_store *store, struct gbx_entry *entry) {
  bool by_force = false, touched = false;
  do {
    pthread_mutex_unlock(&store->lock);
    touched = store->let_go && store->let_go(store->let_go_context, &entry->range, by_force);
    pthread_mutex_lock(&store->lock);
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += GBX_LET_GO_MS / 1000;
    int waited = 0;
    while (entry->pins > 0 && waited != ETIMEDOUT)
      waited = pthread_cond_timedwait(&store->changed, &store->lock, &until);
    by_force = true;
  } while (entry->pins > 0 || touched);
}

struct gbx_result gbx_store_free(struct gbx_store *store, struct gbx_streams *streams, const struct gbx_range *range) {
  pthread_mutex_lock(&store->lock);
  struct gbx_entry *entry = gbx_ranges_find(&store->ranges, range);
  if (!entry) {
    pthread_mutex_unlock(&store->lock);
    return (struct gbx_result){GBX_NOT_FOUND, 0};
  }
  entry->state = GBX_RANGE_LEAVING;
  wait_unpinned(store, entry);
  account(store, entry, -1);
  pthread_mutex_unlock(&store->lock);

  struct gbx_result result = gbx_memory_unmap(&store->memory, streams, entry);
  pthread_mutex_lock(&store->lock);
  gbx_ranges_remove(&store->ranges, entry);
  pthread_cond_broadcast(&store->changed);
  pthread_mutex_unlock(&store->lock);
  return result;
}

struct gbx_stat gbx_store_stat(struct gbx_store *store) {
  pthread_mutex_lock(&store->lock);
  struct gbx_stat stat = store->stat;
  stat.range_count = store->ranges.count;
  pthread_mutex_unlock(&store->lock);
  return stat;
}

/* ---- spans ---- */

enum gbx_status_code gbx_store_pin(struct gbx_store *store, uint64_t offset, uint64_t length, struct gbx_span *span) {
  size_t first = 0, count = 0;
  *span = (struct gbx_span){.offset = offset, .length = length};
  if (length > GBX_SPAN_BYTES_MAX)
    return GBX_INVALID;
  pthread_mutex_lock(&store->lock);
  enum gbx_status_code code = gbx_ranges_cover(&store->ranges, offset, length, &first, &count);
  if (code == GBX_OK) {
    span->count = (unsigned)count;
    for (size_t index = 0; index < count; index++) {
      span->entries[index] = store->ranges.entries[first + index];
      span->entries[index]->pins++;
    }
  }
  pthread_mutex_unlock(&store->lock);
  return code;
}

void gbx_store_unpin(struct gbx_store *store, struct gbx_span *span, uint64_t read_bytes, uint64_t write_bytes) {
  bool leaving = false;
  pthread_mutex_lock(&store->lock);
  for (unsigned index = 0; index < span->count; index++) {
    span->entries[index]->pins--;
    leaving |= span->entries[index]->state == GBX_RANGE_LEAVING;
  }
  span->count = 0;
  store->stat.read_bytes += read_bytes;
  store->stat.write_bytes += write_bytes;
  if (leaving)
    pthread_cond_broadcast(&store->changed);
  pthread_mutex_unlock(&store->lock);
}

enum gbx_status_code gbx_store_reach(struct gbx_store *store, uint64_t offset, uint64_t length, bool *leaving) {
  const struct gbx_ranges *ranges = &store->ranges;
  size_t first = 0, count = 0;
  *leaving = false;
  pthread_mutex_lock(&store->lock);
  enum gbx_status_code code = gbx_ranges_mapped(ranges, offset, length, &first, &count);
  for (size_t index = first; index < first + count && code == GBX_OK; index++) {
    if (!gbx_memory_is_reached(&store->memory, ranges->entries[index]))
      code = GBX_NOT_FOUND;
    *leaving |= ranges->entries[index]->state == GBX_RANGE_LEAVING;
  }
  pthread_mutex_unlock(&store->lock);
  return code;
}

bool gbx_span_touches(const struct gbx_span *span, const struct gbx_range *range) {
  return span->offset < range->offset + range->length && range->offset < span->offset + span->length;
}

void *gbx_span_direct(const struct gbx_span *span) {
  const struct gbx_entry *first = span->entries[0];
  if (!first->cpu)
    return NULL;
  const uint8_t *reached = (const uint8_t *)first->cpu + first->range.length;
  for (unsigned index = 1; index < span->count; index++) {
    if (span->entries[index]->cpu != reached)
      return NULL;
    reached += span->entries[index]->range.length;
  }
  return (uint8_t *)first->cpu + (span->offset - first->range.offset);
}

struct gbx_result gbx_span_copy(struct gbx_store *store, const struct gbx_span *span, struct gbx_streams *streams,
                                void *host, bool to_host) {
  uint64_t done = 0;
  for (unsigned index = 0; index < span->count; index++) {
    const struct gbx_entry *entry = span->entries[index];
    uint64_t inner = span->offset + done - entry->range.offset;
    uint64_t piece = entry->range.length - inner;
    if (piece > span->length - done)
      piece = span->length - done;
    struct gbx_result result =
        gbx_memory_copy(&store->memory, streams, entry, inner, (uint8_t *)host + done, piece, to_host);
    if (result.status != GBX_OK)
      return result;
    done += piece;
  }
  return (struct gbx_result){GBX_OK, 0};
}
