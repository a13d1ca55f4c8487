/* SPDX-License-Identifier: Apache-2.0 */
/* owners.c: a learned step to the agent, and ranges to where it wants them. */
#include "owners.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "client.h"
#include "context.h"
#include "dispatch.h"
#include "gate.h"
#include "lock.h"
#include "move.h"
#include "moving.h"
#include "nvme.h"
#include "period.h"
#include "remote.h"
#include "replica.h"
#include "report.h"
#include "room.h"
#include "stage.h"

#define ASK_TIMEOUT_MS 15000u
/* Named to the agent for what lies on no lane that runs kernels. */
#define NO_LANE UINT32_MAX

static pthread_mutex_t watch_lock = PTHREAD_MUTEX_INITIALIZER;
static struct gb_period *period; /* under watch_lock */
static _Atomic bool found;       /* a step waits to be planned */
static uint32_t steps, tries;    /* under gb_lock */

void gb_owners_start(void) {
  period = gb_period_create();
}

void gb_owners_forked(void) {
  pthread_mutex_init(&watch_lock, NULL);
  found = false;
}

/* ---- the step as the agent is told of it ---- */

static uint32_t lane_of(const struct gb_span *span) {
  if (gb_residency(span) == GB_RESIDENT) return 0;
  return span->owner != 0 ? span->owner : NO_LANE;
}

/* Movable, and not only admitted. */
static bool counts(const struct gb_span *span, uint64_t base) {
  return span != NULL && span->base == base && !span->app && !span->going && span->slab == NULL &&
         gb_residency(span) != GB_UNWRITTEN;
}

/* returns: touches of ranges that exist; 0: nothing can be said. */
static uint32_t list_touches(struct gb_step_touch *touches) {
  struct gb_period_touch *named = calloc(GB_ABI_STEP_TOUCHES_MAX, sizeof *named);
  if (named == NULL) return 0;
  pthread_mutex_lock(&watch_lock);
  uint32_t all = gb_period_touches(period, named, GB_ABI_STEP_TOUCHES_MAX);
  pthread_mutex_unlock(&watch_lock);
  uint32_t count = 0;
  for (uint32_t i = 0; i < all; i++) {
    const struct gb_span *span = gb_span_at(named[i].range);
    if (!counts(span, named[i].range)) continue;
    touches[count++] = (struct gb_step_touch){.offset = span->base - gb_arena_base_address,
                                              .length = span->bytes,
                                              .launch = named[i].launch,
                                              .lane = lane_of(span)};
  }
  free(named);
  return count;
}

static bool is_named(const struct gb_step_touch *touches, uint32_t count, const struct gb_span *span) {
  for (uint32_t i = 0; i < count; i++) {
    if (touches[i].offset == span->base - gb_arena_base_address) return true;
  }
  return false;
}

/* What the local tiers can hold of the ranges of the step. */
static uint64_t local_bytes(const struct gb_step_touch *touches, uint32_t count) {
  const struct gb_span *any = gb_span_at(gb_arena_base_address + touches[0].offset);
  uint64_t bytes = gb_local_bytes(any->device);
  for (const struct gb_span *span = gb_span_next(NULL); span != NULL; span = gb_span_next(span)) {
    if (span->slab != NULL || span->app || gb_residency(span) != GB_RESIDENT || span->device != any->device) continue;
    if (!is_named(touches, count, span)) bytes -= span->bytes < bytes ? span->bytes : bytes;
  }
  return bytes;
}

/* Sends all parts. returns: whether *reply is the answer to the last one. */
static bool ask(const struct gb_step_touch *touches, uint32_t count, struct gb_step_reply *reply) {
  struct gb_step part = {.total = count, .local_bytes = local_bytes(touches, count)};
  pthread_mutex_lock(&watch_lock);
  part.launch_count = gb_period_length(period);
  pthread_mutex_unlock(&watch_lock);
  enum gb_status status = GB_STATUS_OK;
  for (uint32_t at = 0; at < count && status == GB_STATUS_OK; at += part.count) {
    part.first = at;
    part.count = count - at < GB_ABI_TOUCHES_MAX ? count - at : GB_ABI_TOUCHES_MAX;
    memset(part.touches, 0, sizeof part.touches);
    memcpy(part.touches, touches + at, part.count * sizeof *touches);
    status = gb_client_step(&part, reply, ASK_TIMEOUT_MS);
  }
  return status == GB_STATUS_OK && reply->count <= GB_ABI_OWNERS_MAX;
}

/* ---- moves; pre: gb_lock, the gate closed, everything idle ---- */

static bool is_still(const struct gb_span *span) {
  for (uint32_t i = 0; i < span->chunk_count; i++) {
    if (span->chunks[i].pinned || span->chunks[i].exported) return true;
  }
  return gb_on_nvme(span);
}

static bool move_away(struct gb_span *span, uint32_t lane) {
  if (is_still(span) || !gb_dispatch_withdraw(span) || !gb_remote_drop(span)) return false;
  span->wanted_lane = lane;
  enum gb_moved moved = gb_evict(span);
  span->wanted_lane = 0;
  if (moved == GB_MOVED) gb_unmapped_count++;
  return moved == GB_MOVED;
}

/* Where there is room without another one leaving. */
static bool move_home(struct gb_span *span) {
  if (gb_fetch(span) != GB_MOVED) return false;
  gb_unmapped_count--;
  return true;
}

static bool move_across(struct gb_span *span, uint32_t lane) {
  const struct gb_place_request wish = {
      .offset = span->base - gb_arena_base_address, .length = span->bytes, .lane = lane};
  enum gb_status status = gb_moving_shift(&wish);
  gb_dispatch_stored(span); /* whatever became of it: its extents say where it lies */
  return status == GB_STATUS_OK;
}

static bool move_to(const struct gb_owner *owner) {
  struct gb_span *span = gb_span_at(gb_arena_base_address + owner->offset);
  if (owner->offset >= gb_arena_size_bytes || !counts(span, gb_arena_base_address + owner->offset)) return false;
  if (span->bytes != owner->length || lane_of(span) == owner->lane) return false;
  if (gb_residency(span) == GB_RESIDENT) return move_away(span, owner->lane);
  return owner->lane == 0 ? move_home(span) : move_across(span, owner->lane);
}

/* First what makes room here, then what needs none, then what needs it. */
static uint32_t carry_out(const struct gb_step_reply *reply) {
  uint32_t moved = 0;
  for (int turn = 0; turn < 3; turn++) {
    for (uint32_t i = 0; i < reply->count; i++) {
      const struct gb_owner *owner = &reply->owners[i];
      const struct gb_span *span = gb_span_at(gb_arena_base_address + owner->offset);
      bool leaves = span != NULL && gb_residency(span) == GB_RESIDENT;
      if (turn == (leaves ? 0 : owner->lane != 0 ? 1 : 2)) moved += move_to(owner);
    }
  }
  return moved;
}

static void plan(void) {
  struct gb_step_touch *touches = calloc(GB_ABI_STEP_TOUCHES_MAX, sizeof *touches);
  struct gb_step_reply reply = {0};
  uint32_t moved = 0;
  for (uint32_t round = 0; round < GB_OWNERS_ROUNDS_MAX && touches != NULL; round++) {
    uint32_t count = list_touches(touches);
    bool asked = count > 0 && ask(touches, count, &reply);
    uint32_t now = asked ? carry_out(&reply) : 0;
    moved += now;
    if (now == 0) break;
  }
  if (moved > 0) gb_replica_forget_missed();
  if (moved > 0)
    gb_event(GB_LOG_INFO, CUDA_SUCCESS, "owners_learned",
             "%u ranges moved between machines: one step crosses %u times", moved, reply.crossings_before);
  free(touches);
}

/* ---- when ---- */

/* returns: whether the step has been dealt with. */
static bool plan_idle(void) {
  bool idle = false;
  uint64_t deadline = gb_now_ns() + GB_DRAIN_DEADLINE_NS;
  gb_stage_finish();
  if (gb_live_captures != 0 || !gb_gate_close(deadline)) return false;
  bool drained = gb_drain(deadline, &idle) == CUDA_SUCCESS && idle;
  if (drained && gb_run_sync_all() == CUDA_SUCCESS && gb_sticky_error() == CUDA_SUCCESS) plan();
  gb_gate_open();
  return drained;
}

static void settle(void) {
  pthread_mutex_lock(&gb_lock);
  if (atomic_load_explicit(&found, memory_order_relaxed)) {
    bool needed = gb_unmapped_count > 0 && steps < GB_OWNERS_STEPS_MAX;
    bool done = !needed || plan_idle();
    if (done || ++tries > GB_OWNERS_TRIES_MAX) {
      steps += needed;
      tries = 0;
      atomic_store_explicit(&found, false, memory_order_relaxed);
    }
  }
  pthread_mutex_unlock(&gb_lock);
}

void gb_owners_launch(const struct gb_touch *touch) {
  if (period == NULL || !touch->accounted) return;
  if (atomic_load_explicit(&found, memory_order_relaxed)) settle();
  pthread_mutex_lock(&watch_lock);
  bool repeats = gb_period_launch(period, touch->bases, touch->count);
  pthread_mutex_unlock(&watch_lock);
  if (repeats) atomic_store_explicit(&found, true, memory_order_relaxed);
}
