/* SPDX-License-Identifier: Apache-2.0 */
/* moving.c: MOVE notices, answered and carried out. */
#include "moving.h"

#include <pthread.h>
#include <stdatomic.h>

#include "arena.h"
#include "client.h"
#include "dispatch.h"
#include "extents.h"
#include "lock.h"
#include "remote.h"

enum state { FREE = 0, WATCHED, COMMITTED };

struct watch {
  struct gb_move move;
  enum state state;
  bool written;
};

static pthread_mutex_t notice_lock = PTHREAD_MUTEX_INITIALIZER;
static struct gb_move notices[GB_MOVE_NOTICES_MAX]; /* a ring, under notice_lock */
static uint32_t notice_first;
static _Atomic uint32_t notice_count;
/* Under gb_lock; the oldest is overwritten. */
static struct watch watches[GB_MOVES_MAX];
static uint32_t watch_next;
/* The range that the program waits for: nothing is written to it. length 0: none. Under gb_lock. */
static struct gb_place_request shifting;

void gb_moving_note(const struct gb_move *move) {
  pthread_mutex_lock(&notice_lock);
  if (notice_count < GB_MOVE_NOTICES_MAX)
    notices[(notice_first + notice_count++) % GB_MOVE_NOTICES_MAX] = *move;
  pthread_mutex_unlock(&notice_lock);
}

bool gb_moving_waiting(void) {
  return atomic_load_explicit(&notice_count, memory_order_relaxed) > 0;
}

static bool next_notice(struct gb_move *move) {
  pthread_mutex_lock(&notice_lock);
  bool any = notice_count > 0;
  if (any) {
    *move = notices[notice_first];
    notice_first = (notice_first + 1) % GB_MOVE_NOTICES_MAX;
    notice_count--;
  }
  pthread_mutex_unlock(&notice_lock);
  return any;
}

static struct watch *find(uint64_t sequence) {
  for (uint32_t i = 0; i < GB_MOVES_MAX; i++) {
    if (watches[i].state != FREE && watches[i].move.sequence == sequence) return &watches[i];
  }
  return NULL;
}

/* ---- the extents of a span ---- */

/* The span whose extent holds the moved bytes behind from_lane. */
static struct gb_span *span_of(const struct gb_move *move, uint32_t *index) {
  bool inside = move->offset < gb_arena_size_bytes && move->length > 0 &&
                move->length <= gb_arena_size_bytes - move->offset &&
                (move->offset | move->length) % GB_ABI_RANGE_ALIGN == 0;
  struct gb_span *span = inside ? gb_span_at(gb_arena_base_address + move->offset) : NULL;
  if (span == NULL || !gb_on_feeder(span)) return NULL;
  for (*index = 0; *index < span->extent_count; ++*index) {
    struct gb_extent *extent = &span->extents[*index];
    bool holds = extent->offset <= move->offset &&
                 move->offset + move->length <= extent->offset + extent->length;
    if (holds && gb_extent_slot(extent, move->from_lane) != NULL) return span;
  }
  return NULL;
}

/* A copy pulled from a stale one is as stale, one pulled from a fresh one is not. */
static void inherit_staleness(struct gb_span *span, const struct gb_move *move, uint32_t to,
                              uint32_t from) {
  uint64_t base = span->base - gb_arena_base_address;
  for (uint64_t at = move->offset; at < move->offset + move->length; at += GB_GRANULE) {
    struct gb_piece *piece = &span->pieces[(at - base) / GB_PIECE_BYTES];
    uint8_t bit = (uint8_t)(1u << ((at - base) % GB_PIECE_BYTES / GB_GRANULE));
    uint8_t *stale = &piece->stale[to];
    *stale = (uint8_t)((*stale & ~bit) | (piece->stale[from] & bit));
  }
}

static enum gb_move_outcome use_new_lane(const struct gb_move *move) {
  uint32_t index = 0;
  struct gb_span *span = span_of(move, &index);
  if (span == NULL) return GB_MOVE_UNKNOWN;
  struct gb_extent *extent = gb_extents_cut(span, index, move->offset, move->length);
  if (extent == NULL) return GB_MOVE_UNKNOWN;
  uint32_t *slot = gb_extent_slot(extent, move->from_lane);
  if (slot == NULL || move->to_lane == 0 || gb_extent_slot(extent, move->to_lane) != NULL)
    return GB_MOVE_UNKNOWN;
  uint32_t to = slot == &extent->lane ? 0 : 1;
  uint32_t from = move->source_lane == 0 || move->source_lane == move->from_lane ? to : 1 - to;
  inherit_staleness(span, move, to, from);
  *slot = move->to_lane;
  return GB_MOVE_OK;
}

/* ---- notices ---- */

/* Kernels there write at any time, but to a range that the program waits for. */
static bool may_be_written(const struct gb_move *move) {
  bool waits = move->offset >= shifting.offset && move->length <= shifting.length &&
               move->offset - shifting.offset <= shifting.length - move->length;
  return gb_dispatch_on() && !waits;
}

static enum gb_move_outcome begin(const struct gb_move *move) {
  uint32_t index = 0;
  if (span_of(move, &index) == NULL) return GB_MOVE_UNKNOWN;
  if (may_be_written(move)) return GB_MOVE_DIRTY;
  struct watch *watch = find(move->sequence);
  if (watch == NULL) watch = &watches[watch_next++ % GB_MOVES_MAX];
  *watch = (struct watch){.move = *move, .state = WATCHED};
  return GB_MOVE_OK;
}

static enum gb_move_outcome commit(const struct gb_move *move) {
  struct watch *watch = find(move->sequence);
  if (watch == NULL) return GB_MOVE_UNKNOWN;
  if (watch->state == COMMITTED) return GB_MOVE_OK;
  bool dirty = watch->written || may_be_written(&watch->move);
  enum gb_move_outcome outcome = dirty ? GB_MOVE_DIRTY : use_new_lane(&watch->move);
  watch->state = outcome == GB_MOVE_OK ? COMMITTED : FREE;
  return outcome;
}

/* An answer that is lost with the link is asked for again. */
static void carry_out(const struct gb_move *move) {
  struct gb_move_reply reply = {.sequence = move->sequence, .phase = move->phase};
  struct watch *watch = find(move->sequence);
  switch (move->phase) {
    case GB_MOVE_BEGIN: reply.outcome = begin(move); break;
    case GB_MOVE_COMMIT: reply.outcome = commit(move); break;
    default:
      if (watch != NULL && watch->state == WATCHED) watch->state = FREE;
      return;
  }
  gb_client_tell(GB_MSG_MOVED, &reply, sizeof reply, sizeof(struct gb_status_reply));
}

void gb_moving_run(void) {
  struct gb_move move;
  while (gb_moving_waiting() && next_notice(&move)) carry_out(&move);
}

void gb_moving_try(void) {
  if (!gb_moving_waiting() || pthread_mutex_trylock(&gb_lock) != 0) return;
  gb_moving_run();
  pthread_mutex_unlock(&gb_lock);
}

/* At least the agent's own limit of one question, and what a slow link takes for the bytes. */
static uint32_t shift_timeout_ms(uint64_t bytes) {
  return 60000u + (uint32_t)(bytes >> 13);
}

enum gb_status gb_moving_shift(const struct gb_place_request *wish) {
  struct gb_status_reply reply = {0};
  struct gb_call call = {.reply = &reply, .reply_bytes = sizeof reply};
  uint64_t until = gb_now_ns() + shift_timeout_ms(wish->length) * GB_MS;
  shifting = *wish;
  gb_client_send(&call, GB_MSG_SHIFT, wish, sizeof *wish);
  while (gb_now_ns() < until && !gb_client_wait_a_while(&call, 2)) gb_moving_run();
  enum gb_status status = gb_client_wait(&call, 1);
  gb_moving_run();
  shifting.length = 0;
  gb_moving_written(wish->offset, wish->length); /* what the agent has not brought to an end is too old from now on */
  return status;
}

void gb_moving_written(uint64_t offset, uint64_t length) {
  for (uint32_t i = 0; i < GB_MOVES_MAX; i++) {
    struct watch *watch = &watches[i];
    bool apart = watch->move.offset + watch->move.length <= offset ||
                 offset + length <= watch->move.offset;
    if (watch->state == WATCHED && !apart) watch->written = true;
  }
}
