/* SPDX-License-Identifier: Apache-2.0 */
/*
 * crossing_plan.c: which blocks cross before a call is made somewhere (docs/adr/0016): those it may read, or write in
 * part, that are newest elsewhere; with them, in the same crossing, what was missed there before. What the call
 * overwrites does not cross: it becomes newest where the call is made, and the two sides agree on nothing about it.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "context.h"
#include "dispatch.h"
#include "replica_part.h"
#include "run.h"

/* Spans that cross besides those that the call names. */
#define MORE_MAX 64u
/* Pieces that a call here overwrites; what is beyond that crosses. */
#define UNDO_MAX 64u

struct plan {
  uint32_t side; /* where the call is made; 0: here */
  const struct gb_need *needs;
  uint32_t need_count;
  struct gb_crossing *moves;
  uint32_t count, capacity;
  bool full; /* no memory */
};

/* ---- lists ---- */

static void push(struct plan *plan, const struct gb_crossing *move) {
  if (plan->count == plan->capacity) {
    uint32_t capacity = plan->capacity == 0 ? 64 : plan->capacity * 2;
    struct gb_crossing *grown = realloc(plan->moves, capacity * sizeof *grown);
    plan->full |= grown == NULL;
    if (grown == NULL) return;
    plan->moves = grown;
    plan->capacity = capacity;
  }
  plan->moves[plan->count++] = *move;
}

/* Whether one of the first moves is from this lane. */
static bool is_asked(const struct plan *plan, uint32_t lane, uint32_t first_count) {
  for (uint32_t i = 0; i < first_count; i++) {
    if (plan->moves[i].lane == lane) return true;
  }
  return false;
}

/* What of it is newest elsewhere. first_count: 0; or so many moves are needed, and no lane is asked for the sake of
 * what only comes along. */
static void add(struct plan *plan, struct gb_span *span, uint64_t from, uint64_t to, uint32_t first_count) {
  while (from < to) {
    uint64_t end;
    uint32_t lane = gb_newest_at(span, from, &end);
    if (end > to) end = to;
    bool free_of_charge = first_count == 0 || lane == 0 || is_asked(plan, lane, first_count);
    if (lane != plan->side && free_of_charge) push(plan, &(struct gb_crossing){span, from, end, lane});
    from = end;
  }
}

/* The same without what the call overwrites. */
static void add_besides(struct plan *plan, struct gb_span *span, uint64_t from, uint64_t to, uint32_t first_count) {
  for (uint32_t i = 0; i < plan->need_count; i++) {
    const struct gb_need *need = &plan->needs[i];
    if (!need->overwritten || need->span != span || need->from >= to || need->to <= from) continue;
    if (need->from > from) add_besides(plan, span, from, need->from, first_count);
    if (need->to >= to) return;
    from = need->to;
  }
  add(plan, span, from, to, first_count);
}

static int by_place(const void *a, const void *b) {
  const struct gb_crossing *x = a, *y = b;
  if (x->lane != y->lane) return x->lane < y->lane ? -1 : 1;
  uint64_t left = x->span->base + x->from, right = y->span->base + y->from;
  return left < right ? -1 : left > right;
}

/* By lane and address; what overlaps or touches becomes one. */
static void put_in_order(struct plan *plan) {
  uint32_t kept = 0;
  if (plan->count > 1) qsort(plan->moves, plan->count, sizeof *plan->moves, by_place);
  for (uint32_t i = 0; i < plan->count; i++) {
    struct gb_crossing *last = kept > 0 ? &plan->moves[kept - 1] : NULL;
    const struct gb_crossing *move = &plan->moves[i];
    if (last != NULL && last->lane == move->lane && last->span == move->span && move->from <= last->to) {
      if (move->to > last->to) last->to = move->to;
    } else {
      plan->moves[kept++] = *move;
    }
  }
  plan->count = kept;
}

/* ---- what crosses ---- */

/* What calls have missed there. returns: NULL: it crosses as a whole. */
static struct gb_wants *missed_of(const struct plan *plan, const struct gb_span *span) {
  struct gb_replica *replica = plan->side != 0 ? gb_replica_find(span, plan->side) : NULL;
  if (span->coarse || span->parts == NULL || gb_newest_crowded(span)) return NULL;
  return plan->side == 0 ? &span->parts->missed : replica != NULL ? &replica->missed : NULL;
}

/* What the call reads. A part that it missed comes along next time. */
static void add_needs(struct plan *plan) {
  for (uint32_t i = 0; i < plan->need_count; i++) {
    const struct gb_need *need = &plan->needs[i];
    bool whole = need->from == 0 && need->to == need->span->bytes;
    struct gb_wants *missed = whole ? NULL : missed_of(plan, need->span);
    uint32_t before = plan->count;
    if (!need->overwritten) add(plan, need->span, need->from, need->to, 0);
    for (uint32_t k = before; k < plan->count && missed != NULL; k++)
      gb_wants_add(missed, plan->moves[k].from, plan->moves[k].to);
  }
}

static bool is_needed(const struct plan *plan, const struct gb_span *span) {
  for (uint32_t i = 0; i < plan->need_count; i++) {
    if (plan->needs[i].span == span) return true;
  }
  return false;
}

/* Used there, or by the program here, since it crossed last. Looked at once. */
static bool take_used(const struct plan *plan, struct gb_span *span) {
  if (plan->side == 0) return atomic_exchange_explicit(&span->used_here, false, memory_order_relaxed);
  struct gb_replica *replica = gb_replica_find(span, plan->side);
  if (replica == NULL || replica->range == NULL || span->scan == GB_SCAN_HIDDEN) return false;
  return atomic_exchange_explicit(&replica->used, false, memory_order_relaxed);
}

/* What was missed there before, of spans that were used there, and of those that the call names. */
static void add_more(struct plan *plan) {
  uint32_t first_count = plan->count, more = 0;
  for (struct gb_span *span = gb_span_next(NULL); span != NULL && more < MORE_MAX; span = gb_span_next(span)) {
    if (span->newest == plan->side || gb_residency(span) != GB_RESIDENT) continue;
    if (!take_used(plan, span) && !is_needed(plan, span)) continue;
    more++;
    const struct gb_wants *missed = missed_of(plan, span);
    if (missed == NULL && !is_needed(plan, span)) add_besides(plan, span, 0, span->bytes, first_count);
    for (uint32_t i = 0; missed != NULL && i < missed->count; i++)
      add_besides(plan, span, missed->pieces[i].from, missed->pieces[i].to, first_count);
  }
}

/* ---- carrying it out ---- */

static void set_newest(struct gb_span *span, uint64_t from, uint64_t to, uint32_t lane) {
  if (from == 0 && to == span->bytes) gb_newest_set_all(span, lane);
  else gb_newest_set(span, from, to, lane);
}

static CUresult make_replicas(struct plan *plan, uint32_t *why) {
  CUresult result = CUDA_SUCCESS;
  for (uint32_t i = 0; i < plan->need_count && result == CUDA_SUCCESS; i++) {
    if (gb_replica_make(plan->needs[i].span, plan->side, why, &result) != NULL) continue;
    if (result == CUDA_SUCCESS) result = CUDA_ERROR_NOT_SUPPORTED;
  }
  return result;
}

/* What is on lanes comes here. */
static CUresult collect(struct plan *plan) {
  CUresult result = CUDA_SUCCESS;
  for (uint32_t at = 0, count; at < plan->count && result == CUDA_SUCCESS; at += count) {
    uint32_t lane = plan->moves[at].lane;
    for (count = 0; at + count < plan->count && plan->moves[at + count].lane == lane;) count++;
    if (lane == 0) continue;
    result = gb_crossing_collect(lane, plan->moves + at, count);
    for (uint32_t i = at; i < at + count && result == CUDA_SUCCESS; i++) {
      const struct gb_crossing *move = &plan->moves[i];
      set_newest(move->span, move->from, move->to, 0);
      if (plan->side == 0) atomic_store_explicit(&move->span->used_here, false, memory_order_relaxed);
    }
  }
  return result;
}

/* And all of it goes to where the call is made. */
static CUresult send(struct plan *plan, uint32_t *why) {
  if (plan->side == 0 || plan->count == 0) return CUDA_SUCCESS;
  for (uint32_t i = 0; i < plan->count; i++) plan->moves[i].lane = 0;
  put_in_order(plan);
  CUresult result = gb_crossing_send(plan->side, plan->moves, plan->count, why);
  for (uint32_t i = 0; i < plan->count && result == CUDA_SUCCESS; i++)
    set_newest(plan->moves[i].span, plan->moves[i].from, plan->moves[i].to, plan->side);
  return result;
}

/* Neither side holds what was agreed on any more, if the lane has had these blocks to itself. */
static CUresult disagree_here(const struct gb_span *span, uint32_t lane, uint64_t from, uint64_t to) {
  struct gb_blocks *engine = gb_agreement_find(lane, span->context);
  const struct gb_blocks_run run = {span->base + from, (uint32_t)((to - from) / GB_BLOCK_BYTES), 0};
  if (engine == NULL) return CUDA_SUCCESS;
  CUresult result = gb_context_push(span->context);
  if (result != CUDA_SUCCESS) return result;
  gb_blocks_disagree(engine, &run, 1);
  gb_context_pop();
  return CUDA_SUCCESS;
}

/* What this thread's last call here was to overwrite, and where it was: until the call has been made. */
static _Thread_local struct {
  uint32_t count;
  struct gb_crossing list[UNDO_MAX];
} undo;
static pthread_mutex_t undo_lock = PTHREAD_MUTEX_INITIALIZER;

/* Here: the lane's copy stays as it is, should the call fail. */
static CUresult take_over(const struct gb_crossing *part) {
  if (undo.count == UNDO_MAX) return gb_crossing_collect(part->lane, part, 1);
  undo.list[undo.count++] = *part;
  return disagree_here(part->span, part->lane, part->from, part->to);
}

static CUresult overwrite(const struct plan *plan, const struct gb_need *need) {
  CUresult result = CUDA_SUCCESS;
  for (uint64_t from = need->from; from < need->to && result == CUDA_SUCCESS;) {
    uint64_t end;
    uint32_t lane = gb_newest_at(need->span, from, &end);
    if (end > need->to) end = need->to;
    if (lane != plan->side && plan->side == 0)
      result = take_over(&(struct gb_crossing){need->span, from, end, lane});
    else if (lane != plan->side && lane != 0)
      result = disagree_here(need->span, lane, from, end);
    if (lane != plan->side && plan->side != 0 && result == CUDA_SUCCESS)
      result = gb_run_disagree(plan->side, need->span->base - gb_arena_base_address + from, end - from);
    if (lane != plan->side && result == CUDA_SUCCESS) set_newest(need->span, from, end, plan->side);
    from = end;
  }
  return result;
}

static CUresult settle(struct plan *plan, bool more, uint32_t *why) {
  CUresult result = plan->side != 0 ? make_replicas(plan, why) : CUDA_SUCCESS;
  if (result != CUDA_SUCCESS) return result;
  add_needs(plan);
  if (more && plan->count > 0) add_more(plan);
  if (plan->full) return CUDA_ERROR_OUT_OF_MEMORY;
  put_in_order(plan);
  result = collect(plan);
  if (result == CUDA_SUCCESS) result = send(plan, why);
  for (uint32_t i = 0; i < plan->need_count && result == CUDA_SUCCESS; i++) {
    if (plan->needs[i].overwritten) result = overwrite(plan, &plan->needs[i]);
  }
  return result;
}

/* ---- for others ---- */

CUresult gb_replica_settle(uint32_t side, const struct gb_need *needs, uint32_t count, uint32_t *why) {
  CUresult result = CUDA_ERROR_NOT_SUPPORTED;
  /* Addresses in what comes along are no reason against this call. */
  for (int more = 1; more >= 0 && result == CUDA_ERROR_NOT_SUPPORTED; more--) {
    struct plan plan = {.side = side, .needs = needs, .need_count = count};
    result = settle(&plan, more == 1, why);
    free(plan.moves);
  }
  return result;
}

void gb_replica_undo(void) {
  pthread_mutex_lock(&undo_lock);
  for (; undo.count > 0; undo.count--) {
    const struct gb_crossing *part = &undo.list[undo.count - 1];
    set_newest(part->span, part->from, part->to, part->lane);
  }
  pthread_mutex_unlock(&undo_lock);
}

void gb_replica_undo_nothing(void) {
  undo.count = 0;
}

void gb_replica_forked(void) {
  pthread_mutex_init(&undo_lock, NULL);
  undo.count = 0;
}

void gb_replica_forget_missed(void) {
  for (struct gb_span *span = gb_span_next(NULL); span != NULL; span = gb_span_next(span)) {
    if (span->parts != NULL) span->parts->missed.count = 0;
    for (uint32_t i = 0; i < span->replica_count; i++) span->replicas[i].missed.count = 0;
  }
}

CUresult gb_replica_collect(struct gb_span *span) {
  const struct gb_need all = {span, 0, span->bytes, false};
  uint32_t why = 0;
  return gb_replica_settle(0, &all, 1, &why);
}

CUresult gb_replica_collect_all(void) {
  CUresult result = CUDA_SUCCESS;
  for (struct gb_span *span = gb_span_next(NULL); span != NULL && result == CUDA_SUCCESS; span = gb_span_next(span)) {
    if (!gb_is_here(span)) result = gb_replica_collect(span);
  }
  return result;
}
