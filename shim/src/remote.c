/* SPDX-License-Identifier: Apache-2.0 */
/* remote.c: grants, placements and drops on feeders. */
#include "remote.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lock.h"
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
  struct gb_status_reply reply;
  enum gb_status status = gb_client_range(GB_MSG_PLACE, &range, &reply, GB_REMOTE_TIMEOUT_MS);
  if (status != GB_STATUS_OK) return status;
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
  struct gb_status_reply reply;
  if (!span->placed) return true;
  enum gb_status status = gb_client_range(GB_MSG_DROP, &range, &reply, GB_REMOTE_TIMEOUT_MS);
  if (status == GB_STATUS_UNREACHABLE) return false;
  /* Any other answer means that the agent holds nothing for it any more. */
  span->placed = false;
  placed_bytes -= span->bytes;
  gb_tier_add_away(span->keeper, -(int64_t)span->bytes);
  for (uint32_t i = 0; i < gb_piece_count(span); i++) span->pieces[i].valid = false;
  return true;
}

void gb_remote_drop_waiting(void) {
  struct gb_span *next = NULL;
  for (struct gb_span *span = waiting_count > 0 ? gb_span_next(NULL) : NULL; span != NULL;
       span = next) {
    next = gb_span_next(span);
    if (!span->going) continue;
    if (!gb_remote_drop(span)) return;
    waiting_count--;
    gb_span_release(span);
  }
}

void gb_remote_end(struct gb_span *span) {
  if (gb_remote_drop(span)) {
    gb_span_release(span);
    return;
  }
  gb_span_hide(span);
  span->going = true;
  waiting_count++;
}
