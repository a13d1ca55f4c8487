/* SPDX-License-Identifier: Apache-2.0 */
/* replica.c: rooms of replicas, and which span has which. */
#include "replica.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "client.h"
#include "context.h"
#include "lock.h"
#include "remote.h"
#include "replica_part.h"
#include "run.h"

/* ---- counters ---- */

static pthread_mutex_t count_lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
  uint32_t lane;
  struct gb_crossings crossings;
} counted[GB_ABI_LANES_MAX]; /* under count_lock */
static uint32_t counted_next;

/* pre: count_lock. returns: the lane's, the oldest made anew when there are too many lanes. */
static struct gb_crossings *counters_of(uint32_t lane) {
  for (uint32_t i = 0; i < GB_ABI_LANES_MAX; i++) {
    if (counted[i].lane == lane) return &counted[i].crossings;
  }
  uint32_t at = counted_next++ % GB_ABI_LANES_MAX;
  counted[at].lane = lane;
  counted[at].crossings = (struct gb_crossings){0};
  return &counted[at].crossings;
}

void gb_replica_count(uint32_t lane, uint64_t bytes_out, uint64_t bytes_in) {
  pthread_mutex_lock(&count_lock);
  struct gb_crossings *crossings = counters_of(lane);
  crossings->count++;
  crossings->bytes_out += bytes_out;
  crossings->bytes_in += bytes_in;
  pthread_mutex_unlock(&count_lock);
}

/* One more, or with a negative number one less. */
static void count_room(uint32_t lane, int64_t bytes) {
  pthread_mutex_lock(&count_lock);
  struct gb_crossings *crossings = counters_of(lane);
  crossings->replica_bytes += (uint64_t)bytes;
  crossings->replica_count += bytes > 0 ? 1 : (uint64_t)-1;
  pthread_mutex_unlock(&count_lock);
}

struct gb_crossings gb_replica_counted(uint32_t lane) {
  struct gb_crossings crossings = {0};
  pthread_mutex_lock(&count_lock);
  for (uint32_t i = 0; i < GB_ABI_LANES_MAX; i++) {
    if (counted[i].lane == lane && lane != 0) crossings = counted[i].crossings;
  }
  pthread_mutex_unlock(&count_lock);
  return crossings;
}

/* ---- rooms ---- */

static enum gb_status ask_room(const struct gb_span *span, uint32_t lane, bool drop) {
  struct gb_room_request request = {.offset = span->base - gb_arena_base_address,
                                    .length = span->bytes,
                                    .lane = lane,
                                    .drop = drop};
  return gb_client_room(&request, GB_REPLICA_TIMEOUT_MS);
}

static enum gb_undispatched why_not(enum gb_status status) {
  bool away = status == GB_STATUS_UNREACHABLE || status == GB_STATUS_DATA_LOSS || status == GB_STATUS_NOT_FOUND;
  return away ? GB_UNDISPATCHED_AWAY : GB_UNDISPATCHED_ROOM;
}

struct gb_replica *gb_replica_find(const struct gb_span *span, uint32_t lane) {
  for (uint32_t i = 0; i < span->replica_count; i++) {
    if (span->replicas[i].lane == lane) return &span->replicas[i];
  }
  return NULL;
}

/* Enters it in the list, which others look at under gb_index_lock. returns: NULL without a place for it. */
static struct gb_replica *enter(struct gb_span *span, const struct gb_replica *replica) {
  uint32_t count = span->replica_count;
  struct gb_replica *grown = count < GB_REPLICAS_MAX ? calloc(count + 1, sizeof *grown) : NULL;
  if (grown == NULL) return NULL;
  for (uint32_t i = 0; i < count; i++) grown[i] = span->replicas[i];
  grown[count] = *replica;
  struct gb_replica *before = span->replicas;
  pthread_rwlock_wrlock(&gb_index_lock);
  span->replicas = grown;
  span->replica_count = count + 1;
  pthread_rwlock_unlock(&gb_index_lock);
  free(before);
  return &grown[count];
}

static void leave_last(struct gb_span *span) {
  pthread_rwlock_wrlock(&gb_index_lock);
  span->replica_count--;
  pthread_rwlock_unlock(&gb_index_lock);
}

/* The copy that was kept of it when it came home lies at the same address. */
static bool clear_place(struct gb_span *span, uint32_t lane) {
  for (uint32_t i = 0; gb_on_feeder(span) && i < span->extent_count; i++) {
    if (span->extents[i].lane == lane || span->extents[i].mirror == lane) return gb_remote_drop(span);
  }
  return true;
}

/* Here and there. On failure neither is tracked. */
static CUresult track(struct gb_span *span, uint32_t lane, struct gb_blocks_range **range, CUresult *error) {
  CUresult result = gb_context_push(span->context);
  if (result != CUDA_SUCCESS) return result;
  struct gb_blocks *engine = gb_agreement(lane, span->context, span->device);
  result = engine == NULL ? CUDA_ERROR_OUT_OF_MEMORY : gb_blocks_track(engine, span->base, span->bytes, range);
  if (result == CUDA_SUCCESS) {
    *error = gb_run_track(lane, span->base - gb_arena_base_address, span->bytes, true);
    if (*error != CUDA_SUCCESS) {
      gb_blocks_untrack(engine, *range);
      result = *error;
    }
  }
  gb_context_pop();
  return result;
}

/* What has been asked of the lane is done, or never will be: then the agent may take the memory away. returns: false
 * when it does not answer. */
static bool drop_last(struct gb_span *span) {
  uint32_t lane = span->replicas[span->replica_count - 1].lane;
  (void)gb_run_sync(lane);
  if (ask_room(span, lane, true) == GB_STATUS_UNREACHABLE) return false;
  count_room(lane, -(int64_t)span->bytes);
  leave_last(span);
  return true;
}

struct gb_replica *gb_replica_make(struct gb_span *span, uint32_t lane, uint32_t *why, CUresult *error) {
  struct gb_replica *known = gb_replica_find(span, lane);
  *why = GB_UNDISPATCHED_ROOM;
  if (known != NULL) return known->range != NULL ? known : NULL;
  if (gb_replica_counted(lane).replica_count >= GB_RUN_RANGES_MAX) return NULL;
  if (!clear_place(span, lane)) {
    *why = GB_UNDISPATCHED_AWAY;
    return NULL;
  }
  enum gb_status status = ask_room(span, lane, false);
  if (status != GB_STATUS_OK) {
    *why = why_not(status);
    return NULL;
  }
  const struct gb_replica room = {.lane = lane};
  struct gb_replica *made = enter(span, &room);
  if (made == NULL) {
    ask_room(span, lane, true); /* else it goes with the lease */
    return NULL;
  }
  count_room(lane, (int64_t)span->bytes);
  if (track(span, lane, &made->range, error) == CUDA_SUCCESS) return made;
  drop_last(span);
  return NULL;
}

/* ---- dropping ---- */

static void untrack(struct gb_span *span, struct gb_replica *replica) {
  if (replica->range == NULL) return;
  struct gb_blocks *engine = gb_agreement_find(replica->lane, span->context);
  if (engine != NULL && gb_context_push(span->context) == CUDA_SUCCESS) {
    gb_blocks_untrack(engine, replica->range);
    gb_context_pop();
  }
  replica->range = NULL;
  gb_run_track(replica->lane, span->base - gb_arena_base_address, span->bytes, false);
}

bool gb_replica_drop(struct gb_span *span) {
  gb_newest_set_all(span, 0);
  for (uint32_t i = 0; i < span->replica_count; i++) untrack(span, &span->replicas[i]);
  while (span->replica_count > 0 && drop_last(span)) continue;
  return span->replica_count == 0;
}

void gb_replica_context_going(CUcontext context) {
  gb_agreement_forget(context);
}
