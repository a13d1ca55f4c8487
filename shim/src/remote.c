/* SPDX-License-Identifier: Apache-2.0 */
/* remote.c: grants, placements and drops on feeders; spans to them and back. */
#include "remote.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "away.h"
#include "bounce.h"
#include "copies.h"
#include "dispatch.h"
#include "extents.h"
#include "lock.h"
#include "moving.h"
#include "replica.h"
#include "report.h"
#include "tier.h"

static _Atomic uint64_t granted;
static uint64_t placed_bytes;
static uint32_t waiting_count; /* spans with `going` set */

uint64_t gb_remote_held(void) {
  return granted;
}

static bool budget(uint16_t type, uint64_t bytes, bool *unreachable) {
  struct gb_budget request = {.tier = GB_TIER_T2R, .bytes = bytes};
  struct gb_budget_reply reply;
  enum gb_status status = gb_client_budget(type, &request, &reply, GB_REMOTE_TIMEOUT_MS);
  *unreachable = status == GB_STATUS_UNREACHABLE;
  return status == GB_STATUS_OK;
}

bool gb_remote_reserve(uint64_t wanted) {
  bool unreachable = false;
  if (wanted <= granted) return true;
  if (!budget(GB_MSG_GRANT, wanted - granted, &unreachable)) return false;
  granted = wanted;
  return true;
}

/* Drops the copies that resident spans keep, except one's, until `bytes` more fit into the grant.
 */
static void drop_copies(const struct gb_span *except, uint64_t bytes) {
  for (struct gb_span *span = gb_span_next(NULL); span != NULL; span = gb_span_next(span)) {
    if (placed_bytes + bytes <= granted) return;
    if (span == except || !gb_on_feeder(span) || gb_residency(span) != GB_RESIDENT) continue;
    gb_remote_drop(span);
  }
}

void gb_remote_shrink(uint64_t wanted) {
  bool unreachable = false;
  uint64_t before = granted;
  if (wanted >= before) return;
  granted = wanted;
  drop_copies(NULL, 0);
  if (placed_bytes > granted)
    granted = placed_bytes; /* stored, or the agent is away: kept until later */
  if (granted < before && !budget(GB_MSG_RETURN, before - granted, &unreachable) && !unreachable)
    granted = before;
}

static enum gb_status ask_place(struct gb_span *span) {
  struct gb_range range = {.offset = span->base - gb_arena_base_address, .length = span->bytes};
  struct gb_place_request wish = {.offset = range.offset, .length = range.length, .lane = span->wanted_lane};
  struct gb_place_reply reply;
  enum gb_status status = gb_client_place(&wish, &reply, GB_REMOTE_TIMEOUT_MS);
  if (status != GB_STATUS_OK) return status;
  if (!gb_extents_take(span, &range, &reply)) {
    gb_log(GB_LOG_ERROR, "the agent's placement of 0x%llx makes no sense: not used",
           (unsigned long long)span->base);
    gb_client_drop(&range, GB_REMOTE_TIMEOUT_MS);
    return GB_STATUS_INTERNAL;
  }
  span->placed = true;
  span->keeper = reply.tier == GB_TIER_T1R ? GB_TIER_T1R : GB_TIER_T2R;
  memcpy(span->feeder, reply.feeder, sizeof span->feeder);
  placed_bytes += span->bytes;
  gb_tier_add_away(span->keeper, (int64_t)span->bytes);
  return status;
}

/* A lost copy still occupies its place in the agent's book: it is dropped there first. */
static void settle_loss(struct gb_span *span) {
  if (!atomic_load_explicit(&span->lost, memory_order_acquire) || !gb_on_feeder(span)) return;
  if (!gb_remote_drop(span)) return;
  atomic_store_explicit(&span->lost, 0, memory_order_release);
}

enum gb_status gb_remote_place(struct gb_span *span) {
  bool unreachable = false;
  settle_loss(span);
  if (span->placed) return GB_STATUS_OK;
  gb_remote_drop_waiting();
  drop_copies(span, span->bytes);
  enum gb_status status = ask_place(span);
  if (status != GB_STATUS_CAPACITY) return status;
  /* Some of the grant went with a lost feeder: what is missing is asked for again. */
  if (!budget(GB_MSG_GRANT, span->bytes, &unreachable))
    return unreachable ? GB_STATUS_UNREACHABLE : status;
  granted += span->bytes;
  return ask_place(span);
}

bool gb_remote_drop(struct gb_span *span) {
  struct gb_range range = {.offset = span->base - gb_arena_base_address, .length = span->bytes};
  if (!span->placed) return true;
  enum gb_status status = gb_client_drop(&range, GB_REMOTE_TIMEOUT_MS);
  if (status == GB_STATUS_UNREACHABLE) return false;
  /* Any other answer means that the agent holds nothing for it any more. */
  span->placed = false;
  placed_bytes -= span->bytes;
  gb_tier_add_away(span->keeper, -(int64_t)span->bytes);
  gb_extents_drop(span);
  for (uint32_t i = 0; i < gb_piece_count(span); i++) {
    span->pieces[i].valid = false;
    memset(span->pieces[i].stale, 0, sizeof span->pieces[i].stale);
  }
  return true;
}

bool gb_remote_drop_waiting(void) {
  bool any = false;
  struct gb_span *next = NULL;
  for (struct gb_span *span = waiting_count > 0 ? gb_span_next(NULL) : NULL; span != NULL;
       span = next) {
    next = gb_span_next(span);
    if (!span->going) continue;
    if (!gb_replica_drop(span) || !gb_remote_drop(span)) return any;
    waiting_count--;
    gb_span_release(span);
    any = true;
  }
  return any;
}

void gb_remote_end(struct gb_span *span) {
  (void)gb_dispatch_finish(span); /* nothing may write to it there any more */
  bool alone = gb_replica_drop(span);
  if (alone && gb_remote_drop(span)) {
    gb_span_release(span);
    return;
  }
  gb_span_hide(span);
  span->going = true;
  waiting_count++;
}

/* ---- out ---- */

static struct gb_transit transits[GB_BOUNCE_PIECES];

/* Waits for whatever still uses the memory. */
static void settle_all(void) {
  for (uint32_t i = 0; i < GB_BOUNCE_PIECES; i++) {
    if (transits[i].busy) gb_transit_end(&transits[i]);
  }
}

static enum gb_moved end_store(struct gb_transit *transit) {
  if (!transit->busy) return GB_MOVED;
  struct gb_span *span = transit->span;
  enum gb_moved result = gb_moved_from(gb_transit_end(transit));
  if (result != GB_MOVED) return result;
  span->pieces[transit->piece].valid = true;
  gb_report_add(GB_COUNT_EVICT_BYTES, gb_piece_bytes(span, transit->piece));
  return result;
}

/* One piece out of its chunk; stored unless the feeder's copy is the same. */
static enum gb_moved store_piece(struct gb_span *span, uint32_t piece,
                                 const struct gb_bounce *bounce, CUstream stream,
                                 struct gb_seen *seen) {
  struct gb_transit *transit = &transits[piece % bounce->pieces];
  unsigned char *memory = gb_bounce_piece(bounce, piece);
  enum gb_moved before = end_store(transit);
  if (before != GB_MOVED) return before;
  if (!gb_piece_copy_out(span, piece, memory, stream) || !gb_piece_copied(stream))
    return GB_MOVE_FAILED;
  if (!gb_piece_is_kept(span, piece, memory, seen))
    gb_transit_store(transit, span, piece, memory);
  return GB_MOVED;
}

enum gb_moved gb_remote_store(struct gb_span *span, CUstream stream, struct gb_seen *seen) {
  const struct gb_bounce *bounce = gb_bounce_get();
  enum gb_moved result = bounce == NULL ? GB_MOVE_UNREACHABLE : GB_MOVED;
  gb_moving_run();
  for (uint32_t piece = 0; piece < gb_piece_count(span) && result == GB_MOVED; piece++) {
    result = store_piece(span, piece, bounce, stream, seen);
  }
  for (uint32_t i = 0; i < GB_BOUNCE_PIECES && result == GB_MOVED; i++) {
    result = end_store(&transits[i]);
  }
  settle_all();
  return result;
}

/* ---- in ---- */

/* The piece as it was stored, from one of its copies. */
static enum gb_moved end_load(struct gb_transit *transit, const unsigned char *bytes) {
  struct gb_span *span = transit->span;
  enum gb_status status = gb_transit_end(transit);
  uint8_t differs = 0;
  while (status == GB_STATUS_OK && span->pieces[transit->piece].valid &&
         (differs = gb_piece_differs(span, transit->piece, bytes)) != 0) {
    gb_event(GB_LOG_ERROR, CUDA_ERROR_EXTERNAL_DEVICE, "content_mismatch",
             "feeder %s returned other bytes for 0x%llx", gb_transit_source(transit, differs),
             (unsigned long long)(span->base + transit->piece * GB_PIECE_BYTES));
    status = gb_transit_reject(transit, differs);
  }
  return gb_moved_from(status);
}

static enum gb_moved load_piece(struct gb_span *span, uint32_t piece,
                                const struct gb_bounce *bounce, CUstream stream) {
  const unsigned char *bytes = gb_bounce_piece(bounce, piece);
  enum gb_moved result = end_load(&transits[piece % bounce->pieces], bytes);
  if (result != GB_MOVED) return result;
  gb_report_add(GB_COUNT_FETCH_BYTES, gb_piece_bytes(span, piece));
  bool copied = gb_piece_copy_in(span, piece, bytes, stream) && gb_piece_copied(stream);
  return copied ? GB_MOVED : GB_MOVE_FAILED;
}

enum gb_moved gb_remote_load(struct gb_span *span, CUstream stream) {
  const struct gb_bounce *bounce = gb_bounce_get();
  enum gb_moved result = bounce == NULL ? GB_MOVE_UNREACHABLE : GB_MOVED;
  uint64_t started = gb_now_ns();
  uint32_t sent = 0;
  gb_moving_run();
  for (uint32_t piece = 0; piece < gb_piece_count(span) && result == GB_MOVED; piece++) {
    for (; sent < gb_piece_count(span) && sent < piece + bounce->pieces; sent++) {
      gb_transit_load(&transits[sent % bounce->pieces], span, sent, gb_bounce_piece(bounce, sent));
    }
    result = load_piece(span, piece, bounce, stream);
  }
  settle_all();
  if (result == GB_MOVED) gb_away_note_fetch(span->bytes, gb_now_ns() - started);
  return result;
}
