/* SPDX-License-Identifier: Apache-2.0 */
/* dispatch.c: where a launch runs, and making it run there. */
#include "dispatch.h"

#include <stdlib.h>
#include <string.h>

#include "away.h"
#include "client.h"
#include "config.h"
#include "context.h"
#include "lock.h"
#include "owners.h"
#include "replica.h"
#include "report.h"
#include "victim.h"

static _Atomic bool on;

bool gb_dispatch_on(void) {
  return atomic_load_explicit(&on, memory_order_relaxed);
}

void gb_dispatch_start(void) {
  if (!gb_config()->merged) return;
  if (gb_config()->replicas || (gb_client_features() & GB_FEATURE_DISPATCH) == 0) {
    gb_event(GB_LOG_WARN, CUDA_SUCCESS, "dispatch_refused", "kernels run here only: %s",
             gb_config()->replicas ? "--remote merged works without --replicas"
                                   : "the agent has not agreed to --remote merged");
    return;
  }
  on = true;
  gb_owners_start();
  gb_slow_raise(GB_SLOW_DISPATCH);
}

/* ---- failures ---- */

/* What a lane failed with stays with the program: nothing that comes after is executed there. */
static CUresult fail(CUresult error) {
  char feeder[64] = "";
  char function[128] = "";
  CUresult latched = gb_run_error(feeder, function);
  if (latched != CUDA_SUCCESS) error = latched;
  if (gb_sticky_set(error))
    gb_event(GB_LOG_ERROR, error, "dispatch_failed", "feeder %s, %s: error %d; this program cannot go on", feeder,
             function[0] != '\0' ? function : "what was dispatched to it", (int)error);
  return gb_sticky_error();
}

void gb_dispatch_wait_slow(void) {
  CUresult result = gb_run_sync_all();
  if (result != CUDA_SUCCESS) fail(result);
}

/* ---- reasons ---- */

static bool undispatched(enum gb_undispatched why, const char *what) {
  static const char *const names[GB_UNDISPATCHED_COUNT] = {
      "ranges of several feeders, or of one that does not run kernels", "code that is not known there",
      "a kind of launch that only runs here", "memory outside the arena", "operands that hold addresses",
      "no room for a replica", "the feeder does not answer", ""};
  static _Atomic uint32_t said;
  gb_report_add((enum gb_counter)(GB_COUNT_UNDISPATCHED + why), 1);
  uint32_t bit = 1u << why;
  if ((atomic_fetch_or_explicit(&said, bit, memory_order_relaxed) & bit) == 0)
    gb_event(GB_LOG_INFO, CUDA_SUCCESS, "not_dispatched",
             "a launch runs here, and its ranges come here for it: %s (%.80s)", names[why], what);
  gb_log(GB_LOG_DEBUG, "not dispatched, %s: %s", what, names[why]);
  return false;
}

static const char *name_of(CUfunction function) {
  const struct gb_code *code = gb_code_of(function);
  return code != NULL ? code->name : "a kernel";
}

/* ---- what a call names ---- */

#define SPANS_MAX (2 * GB_OPERANDS_MAX)

struct operands {
  struct gb_span *spans[SPANS_MAX];
  uint32_t count;
  bool outside; /* other memory, too */
};

static void add_span(struct operands *operands, uint64_t address) {
  struct gb_span *span = gb_span_at(address);
  operands->outside |= span == NULL;
  for (uint32_t i = 0; i < operands->count && span != NULL; i++) {
    if (operands->spans[i] == span) return;
  }
  if (span != NULL) operands->spans[operands->count++] = span;
}

/* Spans, and slabs that hold small allocations. pre: gb_lock or gb_index_lock. */
static void find_operands(const struct gb_touch *touch, struct operands *operands) {
  operands->count = 0;
  operands->outside = false;
  for (uint32_t i = 0; i < touch->count; i++) add_span(operands, touch->bases[i]);
  for (uint32_t i = 0; i < touch->content_count; i++) add_span(operands, touch->content[i].address);
}

/* Others may change it, or find it, without asking us. */
static bool is_shared(const struct gb_span *span) {
  if (span->app || span->area != NULL || span->handle_types != 0) return true;
  for (uint32_t i = 0; i < span->chunk_count; i++) {
    if (span->chunks[i].pinned || span->chunks[i].exported) return true;
  }
  return false;
}

/* ---- where ---- */

/* A launch that names nothing a lane owns follows its operands there only when all of them have been there before: a
 * matrix of here does not leave because of what it is multiplied with. */
static bool know_lane(const struct operands *operands, uint32_t lane) {
  bool known = true;
  for (uint32_t i = 0; i < operands->count && known; i++) {
    const struct gb_span *span = operands->spans[i];
    known = false;
    for (uint32_t k = 0; k < span->replica_count && !known; k++) known = span->replicas[k].lane == lane;
  }
  return known;
}

/* ---- blocks of a span ---- */

#define BLOCK ((uint64_t)GB_BLOCK_BYTES)

/* Of what the call touches, that part of it which lies in this span, in whole blocks. returns: false: none. */
static bool find_blocks(const struct gb_span *span, const struct gb_touch_reach *reach, uint64_t *from, uint64_t *to) {
  if (reach->to <= span->base || reach->from >= span->base + span->bytes) return false;
  *from = reach->from > span->base ? (reach->from - span->base) / BLOCK * BLOCK : 0;
  *to = (reach->to - span->base + BLOCK - 1) / BLOCK * BLOCK;
  if (*to > span->bytes) *to = span->bytes;
  return true;
}

static bool as_a_whole(const struct gb_span *span, const struct gb_touch *touch) {
  return !touch->exact || atomic_load_explicit(&span->coarse, memory_order_relaxed);
}

/* A lane that has the newest of what the call reads of the span; 0: none has. pre: gb_lock or gb_index_lock. */
static uint32_t newest_read(const struct gb_span *span, const struct gb_touch *touch) {
  const struct gb_touch_reach all = {span->base, span->base + span->bytes, false};
  uint32_t count = as_a_whole(span, touch) ? 1 : touch->reach_count;
  for (uint32_t i = 0; i < count; i++) {
    const struct gb_touch_reach *reach = as_a_whole(span, touch) ? &all : &touch->reach[i];
    uint64_t from, to;
    if (reach->overwritten || !find_blocks(span, reach, &from, &to)) continue;
    while (from < to) {
      uint32_t lane = gb_newest_at(span, from, &from);
      if (lane != 0) return lane;
    }
  }
  return 0;
}

/* All that the call touches of the span is newest there. pre: gb_lock or gb_index_lock. */
static bool is_newest(const struct gb_span *span, const struct gb_touch *touch, uint32_t lane) {
  uint32_t newest = atomic_load_explicit(&span->newest, memory_order_acquire);
  if (newest == lane || as_a_whole(span, touch)) return newest == lane;
  for (uint32_t i = 0; i < touch->reach_count; i++) {
    uint64_t from, to;
    if (find_blocks(span, &touch->reach[i], &from, &to) && gb_newest_of(span, from, to) != lane) return false;
  }
  return true;
}

/* pre: gb_lock or gb_index_lock. returns: the lane that owns what the operands name, or has the newest of it; 0: none.
 * *why: the reason why it will not run there, or GB_UNDISPATCHED_COUNT. */
static uint32_t lane_of(const struct operands *operands, const struct gb_touch *touch, uint32_t *why) {
  uint32_t owner = 0;
  uint32_t newest = 0;
  bool away = false;
  *why = GB_UNDISPATCHED_COUNT;
  for (uint32_t i = 0; i < operands->count; i++) {
    const struct gb_span *span = operands->spans[i];
    if (gb_residency(span) == GB_STORED) {
      uint32_t lane = atomic_load_explicit(&span->owner, memory_order_relaxed);
      if (lane == 0 || (owner != 0 && lane != owner)) *why = GB_UNDISPATCHED_OWNERS;
      owner = lane;
      away = true;
    } else if (gb_residency(span) == GB_RESIDENT && newest_read(span, touch) != 0) {
      newest = newest_read(span, touch);
      away = true;
    }
  }
  if (owner == 0 && *why == GB_UNDISPATCHED_COUNT && !know_lane(operands, newest)) return 0;
  for (uint32_t i = 0; i < operands->count && away; i++) {
    const struct gb_span *span = operands->spans[i];
    if (atomic_load_explicit(&span->scan, memory_order_relaxed) == GB_SCAN_HIDDEN) *why = GB_UNDISPATCHED_HIDDEN;
    if (is_shared(span)) *why = GB_UNDISPATCHED_OUTSIDE;
  }
  if (away && operands->outside) *why = GB_UNDISPATCHED_OUTSIDE;
  return owner != 0 ? owner : newest;
}

static uint32_t look(const struct gb_touch *touch, uint32_t *why, bool *away) {
  struct operands operands;
  pthread_mutex_lock(&gb_stage_lock); /* the chunks */
  pthread_rwlock_rdlock(&gb_index_lock);
  find_operands(touch, &operands);
  uint32_t lane = lane_of(&operands, touch, why);
  pthread_rwlock_unlock(&gb_index_lock);
  pthread_mutex_unlock(&gb_stage_lock);
  if (lane == 0 && *why == GB_UNDISPATCHED_HIDDEN) *why = GB_UNDISPATCHED_COUNT; /* nobody would have it there */
  *away = lane != 0 || *why != GB_UNDISPATCHED_COUNT;
  return lane;
}

static bool is_there(const struct gb_span *span, const struct gb_touch *touch, uint32_t lane) {
  if (gb_residency(span) == GB_STORED) return span->owner == lane;
  return gb_residency(span) == GB_RESIDENT && is_newest(span, touch, lane);
}

bool gb_dispatch_ready(const struct gb_touch *touch) {
  struct operands operands;
  bool ready = true;
  if (touch->lane == 0 && gb_elsewhere_count == 0) return true;
  if (touch->lane == 0 && !touch->accounted) return false;
  pthread_rwlock_rdlock(&gb_index_lock);
  find_operands(touch, &operands);
  for (uint32_t i = 0; i < operands.count && ready; i++) {
    const struct gb_span *span = operands.spans[i];
    ready = touch->lane == 0 ? is_newest(span, touch, 0) : is_there(span, touch, touch->lane);
  }
  pthread_rwlock_unlock(&gb_index_lock);
  return ready;
}

void gb_dispatch_note_here(const struct gb_touch *touch) {
  struct operands operands;
  pthread_rwlock_rdlock(&gb_index_lock);
  find_operands(touch, &operands);
  for (uint32_t i = 0; i < operands.count; i++) {
    atomic_store_explicit(&operands.spans[i]->used_here, true, memory_order_relaxed);
    if (!touch->exact) atomic_store_explicit(&operands.spans[i]->coarse, true, memory_order_relaxed);
    atomic_store_explicit(&operands.spans[i]->scan, (uint32_t)GB_SCAN_UNKNOWN, memory_order_relaxed);
  }
  pthread_rwlock_unlock(&gb_index_lock);
}

/* ---- the gate closed, everything idle ---- */

/* Room for a span that has no content yet, which is written there from then on: on that lane, if it has any. */
static void place_there(struct gb_span *span, uint32_t lane) {
  if (gb_residency(span) != GB_UNWRITTEN) return;
  span->wanted_lane = lane == GB_LANE_ANY ? 0 : lane;
  enum gb_status placed = gb_away_place(span);
  span->wanted_lane = 0;
  if (placed != GB_STATUS_OK) return;
  gb_dispatch_stored(span);
  if (span->owner == 0) return;
  atomic_store_explicit(&span->changed_there, true, memory_order_relaxed);
  atomic_store_explicit(&span->residency, (uint32_t)GB_STORED, memory_order_release);
  gb_log(GB_LOG_DEBUG, "0x%llx is written on feeder %s", (unsigned long long)span->base, span->feeder);
}

struct needs {
  struct gb_need *list; /* owned */
  uint32_t count;
};

static void add_need(struct needs *needs, struct gb_span *span, uint64_t from, uint64_t to, bool overwritten) {
  if (from < to) needs->list[needs->count++] = (struct gb_need){span, from, to, overwritten};
}

/* What the call touches of one span. Of what is overwritten, blocks at the ends hold something else, too. */
static void add_needs(struct needs *needs, struct gb_span *span, const struct gb_touch *touch) {
  if (as_a_whole(span, touch) || gb_newest_crowded(span) || !gb_newest_begin(span)) {
    add_need(needs, span, 0, span->bytes, false);
    return;
  }
  for (uint32_t i = 0; i < touch->reach_count; i++) {
    const struct gb_touch_reach *reach = &touch->reach[i];
    uint64_t from, to;
    if (!find_blocks(span, reach, &from, &to)) continue;
    uint64_t first = reach->from > span->base + from ? from + BLOCK : from;
    uint64_t end = reach->to < span->base + to ? to - BLOCK : to;
    if (!reach->overwritten || first >= end) {
      add_need(needs, span, from, to, false);
      continue;
    }
    add_need(needs, span, from, first, false);
    add_need(needs, span, first, end, true);
    add_need(needs, span, end, to, false);
  }
}

static CUresult settle(struct gb_touch *touch, const struct operands *operands) {
  struct needs needs = {calloc(operands->count + GB_TOUCH_REACH_MAX * 3ull + 1, sizeof *needs.list), 0};
  if (needs.list == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
  for (uint32_t i = 0; i < operands->count; i++) {
    if (gb_residency(operands->spans[i]) == GB_RESIDENT) add_needs(&needs, operands->spans[i], touch);
  }
  CUresult result = gb_replica_settle(touch->lane, needs.list, needs.count, &touch->why);
  free(needs.list);
  return result;
}

static CUresult settle_there(struct gb_touch *touch, const struct operands *operands) {
  for (uint32_t i = 0; i < operands->count; i++) place_there(operands->spans[i], touch->lane);
  if (touch->lane == GB_LANE_ANY) return CUDA_SUCCESS;
  uint32_t lane = lane_of(operands, touch, &touch->why);
  if (touch->why != GB_UNDISPATCHED_COUNT || lane != touch->lane) {
    if (touch->why == GB_UNDISPATCHED_COUNT) touch->why = GB_UNDISPATCHED_OWNERS;
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  for (uint32_t i = 0; i < operands->count; i++) {
    if (gb_residency(operands->spans[i]) != GB_UNWRITTEN) continue;
    touch->why = GB_UNDISPATCHED_OWNERS;
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  CUresult result = settle(touch, operands);
  return result == CUDA_SUCCESS || result == CUDA_ERROR_NOT_SUPPORTED ? result : fail(result);
}

CUresult gb_dispatch_settle(struct gb_touch *touch, bool all) {
  struct operands operands;
  if (gb_sticky_error() != CUDA_SUCCESS) return gb_sticky_error();
  find_operands(touch, &operands);
  if (touch->lane != 0) return settle_there(touch, &operands);
  if (gb_elsewhere_count == 0) return CUDA_SUCCESS;
  CUresult result = all ? gb_replica_collect_all() : settle(touch, &operands);
  return result == CUDA_SUCCESS ? result : fail(result);
}

bool gb_dispatch_withdraw(struct gb_span *span) {
  if (!gb_is_here(span)) {
    CUresult result = gb_replica_collect(span);
    if (result != CUDA_SUCCESS) fail(result);
    if (result != CUDA_SUCCESS) return false;
  }
  return gb_replica_drop(span);
}

/* One lane holds all of it, and no other a second copy. */
static uint32_t only_lane(const struct gb_span *span) {
  uint32_t lane = gb_on_feeder(span) && span->extent_count > 0 ? span->extents[0].lane : 0;
  for (uint32_t i = 0; i < span->extent_count && lane != 0; i++) {
    if (span->extents[i].lane != lane || span->extents[i].mirror != 0) lane = 0;
  }
  return lane;
}

void gb_dispatch_stored(struct gb_span *span) {
  if (!gb_dispatch_on()) return;
  uint32_t lane = only_lane(span);
  if (lane != 0 && !gb_run_can(lane)) lane = 0;
  atomic_store_explicit(&span->owner, lane, memory_order_relaxed);
}

bool gb_dispatch_finish(struct gb_span *span) {
  uint32_t lane = span->owner;
  if (lane == 0) return true;
  CUresult result = gb_run_sync(lane);
  if (result != CUDA_SUCCESS) fail(result);
  if (span->changed_there) {
    for (uint32_t i = 0; i < gb_piece_count(span); i++) span->pieces[i].valid = false;
    span->changed_there = false;
  }
  return result == CUDA_SUCCESS;
}

/* ---- launches ---- */

struct outside {
  bool found;
};

/* Memory that the driver knows and that is not in the arena: the lane's kernel would not find it. */
static void find_outside(void *context, const void *bytes, size_t length) {
  struct outside *outside = context;
  for (size_t at = 0; at + 8 <= length && !outside->found; at += 4) {
    uint64_t word;
    unsigned type = 0;
    memcpy(&word, (const unsigned char *)bytes + at, sizeof word);
    if (word < (1ull << 16) || word >= (1ull << 57)) continue;
    outside->found = gb_area_hole(word);
    if (gb_owns(word)) continue;
    outside->found = gb_real.cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, word) == CUDA_SUCCESS;
  }
}

static uint32_t refusal(uint32_t lane, const struct gb_touch *touch, const struct gb_run_request *launch) {
  struct outside outside = {false};
  if (!touch->accounted) return GB_UNDISPATCHED_CODE;
  if (!gb_arguments_visit(launch->function, launch->params, launch->extra, find_outside, &outside))
    return GB_UNDISPATCHED_CODE;
  if (outside.found) return GB_UNDISPATCHED_OUTSIDE;
  CUresult prepared = gb_run_prepare(lane, launch);
  if (prepared == CUDA_SUCCESS) prepared = gb_dispatch_variables(lane, gb_code_of(launch->function)->image);
  switch (prepared) {
    case CUDA_SUCCESS: return GB_UNDISPATCHED_COUNT;
    case CUDA_ERROR_NOT_SUPPORTED: return GB_UNDISPATCHED_CODE;
    default: return GB_UNDISPATCHED_AWAY;
  }
}

/* pre: gb_index_lock. */
static void note_replica(const struct gb_span *span, uint32_t lane) {
  for (uint32_t i = 0; i < span->replica_count; i++) {
    if (span->replicas[i].lane == lane)
      atomic_store_explicit(&span->replicas[i].used, true, memory_order_relaxed);
  }
}

/* Kernels may write to whatever they are given. */
static void note_there(const struct gb_touch *touch, bool writes) {
  struct operands operands;
  uint64_t tick = gb_tick();
  pthread_rwlock_rdlock(&gb_index_lock);
  find_operands(touch, &operands);
  for (uint32_t i = 0; i < operands.count; i++) {
    struct gb_span *span = operands.spans[i];
    gb_used_at(span, tick);
    note_replica(span, touch->lane);
    if (!touch->exact) atomic_store_explicit(&span->coarse, true, memory_order_relaxed);
    if (writes && gb_residency(span) == GB_STORED)
      atomic_store_explicit(&span->changed_there, true, memory_order_relaxed);
  }
  pthread_rwlock_unlock(&gb_index_lock);
}

bool gb_dispatch_begin(struct gb_touch *touch, bool writes, CUresult *result) {
  *result = gb_begin_there(touch);
  if (*result == CUDA_ERROR_NOT_SUPPORTED) return false;
  if (*result == CUDA_SUCCESS) note_there(touch, writes);
  return true;
}

CUresult gb_dispatch_end(CUresult result) {
  gb_end_slow();
  return result == CUDA_SUCCESS ? result : fail(result);
}

void gb_dispatch_cannot(const struct gb_touch *touch) {
  uint32_t why;
  bool away;
  look(touch, &why, &away);
  if (away) undispatched(GB_UNDISPATCHED_KIND, "a graph or a cooperative kernel");
}

bool gb_dispatch_launch(const struct gb_run_request *launch, CUresult *result) {
  struct gb_touch touch = {.accounted = gb_launches_accounted()};
  uint32_t why;
  bool away;
  if (gb_sticky_error() != CUDA_SUCCESS) return false;
  gb_touch_launch(&touch, launch->function, launch->params, launch->extra);
  gb_touch_reach(&touch, launch);
  gb_owners_launch(&touch);
  touch.lane = look(&touch, &why, &away);
  if (!away) return false;
  if (why == GB_UNDISPATCHED_COUNT) why = refusal(touch.lane, &touch, launch);
  if (why != GB_UNDISPATCHED_COUNT) return undispatched((enum gb_undispatched)why, name_of(launch->function));
  touch.why = GB_UNDISPATCHED_OWNERS;
  if (!gb_dispatch_begin(&touch, true, result))
    return undispatched((enum gb_undispatched)touch.why, name_of(launch->function));
  if (*result != CUDA_SUCCESS) return true;
  *result = gb_dispatch_end(gb_run_launch(touch.lane, launch));
  gb_count(&gb_counters.launches);
  gb_report_add(GB_COUNT_DISPATCHED, 1);
  return true;
}
