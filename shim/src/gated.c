/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gated.c: the bracket around every launch and copy, as far as it is not the fast path.
 *
 *   enter -> everything there? -> yes: the call is made inside the gate
 *         -> no: leave, take gb_lock, close, drain, (scan), bring back, open with this thread
 * inside not idle by the deadline, or a feeder away: open, pause, again, until a named limit.
 */
#include "gated.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "away.h"
#include "config.h"
#include "context.h"
#include "dispatch.h"
#include "gate.h"
#include "lock.h"
#include "nvme.h"
#include "replica.h"
#include "report.h"
#include "stage.h"
#include "room.h"
#include "store.h"
#include "victim.h"

static _Atomic bool mode_on;
static _Atomic bool hidden_outside; /* memory we do not scan holds arena addresses: no launch is
                                       accounted any more */
static _Atomic uint32_t sticky;     /* CUresult */

/* ---- state ---- */

void gb_gated_start(void) {
  if (!gb_config()->gated) {
    if (gb_config()->nvme_dir[0] != '\0')
      gb_log(GB_LOG_WARN, "GREENBOOST_NVME_DIR works with GREENBOOST_OVERCOMMIT=gated only: ignored");
    return;
  }
  bool agreed = (gb_client_features() & GB_FEATURE_GATED) != 0;
  bool away = gb_arena_size_bytes != 0 && (gb_away_start() || agreed);
  if (!away || !gb_move_start()) {
    gb_event(GB_LOG_WARN, CUDA_SUCCESS, "gated_refused", "overcommit is not in force: %s",
             gb_arena_size_bytes == 0 ? "there is no arena"
                                      : "no agent agreed to it and there is no NVMe file");
    return;
  }
  mode_on = true;
  gb_slow_raise(GB_SLOW_GATED);
  gb_dispatch_start();
}

bool gb_gated_on(void) {
  return mode_on;
}

uint64_t gb_gated_held(void) {
  return gb_away_held();
}

uint64_t gb_gated_capacity(void) {
  return gb_away_capacity();
}

CUresult gb_sticky_error(void) {
  return (CUresult)atomic_load_explicit(&sticky, memory_order_acquire);
}

bool gb_sticky_set(CUresult error) {
  uint32_t none = CUDA_SUCCESS;
  bool first = atomic_compare_exchange_strong_explicit(&sticky, &none, (uint32_t)error, memory_order_acq_rel,
                                                       memory_order_acquire);
  if (first) gb_slow_raise(GB_SLOW_STICKY);
  return first;
}

bool gb_launches_accounted(void) {
  return !hidden_outside;
}

/* The owner of lost bytes gets 911 from here on; the first range names the cause. */
static CUresult set_lost(const struct gb_span *span) {
  if (gb_sticky_set(CUDA_ERROR_EXTERNAL_DEVICE)) {
    const char *feeder = span->lost_feeder[0] != '\0' ? span->lost_feeder : span->feeder;
    bool nvme = gb_on_nvme(span);
    gb_event(GB_LOG_ERROR, CUDA_ERROR_EXTERNAL_DEVICE, "data_lost",
             "%s %.60s %s %llu bytes at 0x%llx: this program cannot go on",
             nvme ? "the NVMe file in" : "feeder", nvme ? gb_store_directory() : feeder,
             nvme ? "does not give back" : "is gone with",
             (unsigned long long)span->bytes, (unsigned long long)span->base);
  }
  return gb_sticky_error();
}

static CUresult refuse(const char *why) {
  gb_report_add(GB_COUNT_REFUSED, 1);
  gb_event(GB_LOG_WARN, CUDA_ERROR_OUT_OF_MEMORY, "launch_refused", "%s", why);
  return CUDA_ERROR_OUT_OF_MEMORY;
}

/* ---- inside the gate ---- */

/* Every operand is resident, and nothing else is needed. pre: inside the gate (residency stands
 * still). */
static bool is_ready(const struct gb_touch *touch, bool launch) {
  bool anything_unmapped = gb_unmapped_count != 0;
  bool ready = true;
  bool current = gb_dispatch_ready(touch);
  if (touch->lane != 0 || !current) return current;
  if (anything_unmapped && (!touch->accounted || (launch && touch->content_count > 0)))
    return false;
  pthread_rwlock_rdlock(&gb_index_lock);
  for (uint32_t i = 0; i < touch->count && ready; i++) {
    const struct gb_span *span = gb_span_at(touch->bases[i]);
    if (span == NULL) continue;
    ready = gb_residency(span) == GB_RESIDENT;
    if (launch && anything_unmapped)
      ready &= atomic_load_explicit(&span->scan, memory_order_relaxed) == GB_SCAN_CLEAN;
  }
  pthread_rwlock_unlock(&gb_index_lock);
  return ready;
}

/* What is about to run may write its operands: their verdicts end, their use is noted. pre: inside
 * the gate. */
static void note_use(const struct gb_touch *touch) {
  uint64_t tick = gb_tick();
  pthread_rwlock_rdlock(&gb_index_lock);
  for (uint32_t i = 0; i < touch->count; i++) {
    struct gb_span *span = gb_span_at(touch->bases[i]);
    if (span == NULL) continue;
    atomic_store_explicit(&span->scan, (uint32_t)GB_SCAN_UNKNOWN, memory_order_relaxed);
    gb_used_at(span, tick);
  }
  pthread_rwlock_unlock(&gb_index_lock);
}

/* Whatever may be touched may be written. */
static void note_unknown_use(void) {
  pthread_rwlock_rdlock(&gb_index_lock);
  for (struct gb_span *span = gb_span_next(NULL); span != NULL; span = gb_span_next(span)) {
    atomic_store_explicit(&span->scan, (uint32_t)GB_SCAN_UNKNOWN, memory_order_relaxed);
  }
  pthread_rwlock_unlock(&gb_index_lock);
}

/* ---- with the gate closed and everything idle ---- */

struct plan {
  struct gb_span **wanted; /* owned */
  uint32_t count;
  uint64_t resident_bytes; /* operands already there, for the sum that must fit */
  uint64_t wanted_bytes;
};

static bool plan_add(struct plan *plan, struct gb_span *span) {
  if (span->app) return true; /* always there, and no part of what the tiers hold of ranges */
  if (gb_residency(span) == GB_RESIDENT) {
    plan->resident_bytes += span->bytes;
    return true;
  }
  struct gb_span **grown = realloc(plan->wanted, (plan->count + 1) * sizeof(*grown));
  if (grown == NULL) return false;
  plan->wanted = grown;
  plan->wanted[plan->count++] = span;
  plan->wanted_bytes += span->bytes;
  return true;
}

static bool make_plan(const struct gb_touch *touch, struct plan *plan) {
  bool made = true;
  if (touch->accounted) {
    for (uint32_t i = 0; i < touch->count && made; i++) {
      struct gb_span *span = gb_span_at(touch->bases[i]);
      if (span != NULL) made = plan_add(plan, span);
    }
    return made;
  }
  for (struct gb_span *span = gb_span_next(NULL); span != NULL && made; span = gb_span_next(span)) {
    if (span->slab == NULL && !span->going) made = plan_add(plan, span);
  }
  return made;
}

static CUresult from_moved(const struct plan *plan, enum gb_moved moved, bool *again) {
  const struct gb_span *span = plan->count > 0 ? plan->wanted[0] : NULL;
  for (uint32_t i = 0; i < plan->count; i++) {
    if (gb_residency(plan->wanted[i]) != GB_RESIDENT) {
      span = plan->wanted[i];
      break;
    }
  }
  switch (moved) {
    case GB_MOVED: return CUDA_SUCCESS;
    case GB_MOVE_LOST: return set_lost(span);
    case GB_MOVE_UNREACHABLE: *again = true; return CUDA_ERROR_SYSTEM_NOT_READY;
    case GB_MOVE_FAILED:
      return gb_move_error() != CUDA_SUCCESS ? gb_move_error() : CUDA_ERROR_UNKNOWN;
    default: return refuse("no tier has room for what this call needs");
  }
}

static CUresult bring_back(struct gb_touch *touch, bool *again) {
  struct plan plan = {NULL, 0, 0, 0};
  CUresult result = CUDA_SUCCESS;
  if (!make_plan(touch, &plan)) {
    result = refuse("no memory for bookkeeping");
  } else if (plan.count > 0) {
    uint64_t keep[GB_OPERANDS_MAX];
    uint32_t keep_count = touch->accounted ? touch->count : 0;
    memcpy(keep, touch->bases, keep_count * sizeof *keep);
    uint64_t local = gb_local_bytes(plan.wanted[0]->device);
    if (plan.resident_bytes + plan.wanted_bytes > local) {
      result = refuse(
          touch->accounted
              ? "its ranges together exceed the local tiers"
              : "not every range it may touch is known, and all of them exceed the local tiers");
    } else {
      result = from_moved(&plan, gb_bring(plan.wanted, plan.count, keep, keep_count), again);
    }
  }
  free(plan.wanted);
  return result;
}

/* Everything here, as far as the call may touch it. */
static CUresult bring_here(struct gb_touch *touch, bool launch, bool *unreachable) {
  CUresult result = gb_dispatch_settle(touch, !touch->accounted);
  if (result == CUDA_SUCCESS && launch && touch->accounted && gb_unmapped_count != 0) {
    touch->accounted = gb_scan_contents(touch);
    if (!touch->accounted) result = gb_dispatch_settle(touch, true);
  }
  return result == CUDA_SUCCESS ? bring_back(touch, unreachable) : result;
}

/* Closes, drains, decides, moves. returns: CUDA_SUCCESS with this thread inside the gate. *again:
 * try later. */
static CUresult exclusive(struct gb_touch *touch, bool launch, uint64_t patience_ns, bool *again,
                          bool *unreachable) {
  bool idle = false;
  uint64_t deadline = gb_now_ns() + patience_ns;
  *again = false;
  *unreachable = false;
  gb_stage_finish();
  if (!gb_gate_close(deadline)) {
    *again = true;
    return CUDA_ERROR_NOT_READY;
  }
  CUresult result = gb_drain(deadline, &idle);
  if (result == CUDA_SUCCESS && !idle) {
    *again = true;
    result = CUDA_ERROR_NOT_READY;
  }
  if (result == CUDA_SUCCESS) {
    result = touch->lane != 0 ? gb_dispatch_settle(touch, false) : bring_here(touch, launch, unreachable);
    *again = *unreachable;
  }
  if (result == CUDA_SUCCESS) {
    gb_gate_open_inside();
  } else {
    gb_replica_undo();
    gb_gate_open();
  }
  return result;
}

/* Repeats until it worked, must not work, or has waited too long. */
static CUresult wait_for(struct gb_touch *touch, bool launch) {
  uint64_t started = gb_now_ns();
  uint64_t pause = 100000;
  uint64_t patience = GB_DRAIN_DEADLINE_NS;
  bool again = false;
  bool unreachable = false;
  bool accounted = touch->accounted;
  CUresult result;
  for (;;) {
    if (gb_live_captures != 0) return refuse("a stream capture is live: nothing may be remapped");
    touch->accounted = accounted;
    pthread_mutex_lock(&gb_lock);
    result = exclusive(touch, launch, patience, &again, &unreachable);
    pthread_mutex_unlock(&gb_lock);
    uint64_t waited = gb_now_ns() - started;
    if (!again) break;
    if (unreachable && waited > GB_UNREACHABLE_TOTAL_NS) break;
    if (!unreachable && waited > GB_DRAIN_TOTAL_NS) return refuse("the GPU never became idle");
    gb_sleep_ns(pause);
    if (pause < GB_DRAIN_BACKOFF_NS_MAX) pause *= 2;
    if (patience < GB_DRAIN_DEADLINE_NS_MAX)
      patience *= 2; /* a deep queue of short kernels needs longer to run dry */
  }
  gb_report_add(GB_COUNT_STALL_NS, gb_now_ns() - started);
  if (unreachable) {
    gb_event(GB_LOG_WARN, result, "feeder_unreachable",
             "a range did not come back within %llu s: the call fails",
             GB_UNREACHABLE_TOTAL_NS / 1000000000ull);
  }
  return result;
}

static bool staging(void) {
  return (atomic_load_explicit(&gb_slow_path, memory_order_relaxed) & GB_SLOW_STAGING) != 0;
}

/* post: on CUDA_SUCCESS inside the gate, everything is where the call needs it. */
static CUresult enter(struct gb_touch *touch, bool launch) {
  gb_replica_undo_nothing();
  gb_gate_enter();
  if (!gb_gated_on() || is_ready(touch, launch)) return CUDA_SUCCESS;
  gb_gate_leave();
  bool known = touch->accounted;
  CUresult result = wait_for(touch, launch);
  if (launch && touch->lane == 0 && (!known || !touch->accounted)) gb_report_add(GB_COUNT_UNACCOUNTED, 1);
  return result;
}

static CUresult begin(struct gb_touch *touch, bool launch, CUstream stream) {
  if (gb_sticky_error() != CUDA_SUCCESS) return gb_sticky_error();
  CUresult result = enter(touch, launch);
  if (result == CUDA_SUCCESS && staging() && gb_stage_wants(touch) && launch) {
    gb_replica_undo();
    gb_gate_leave();
    gb_stage_switch(touch);
    result = enter(touch, launch);
  }
  if (result != CUDA_SUCCESS) return result;
  result = gb_stage_join(stream);
  if (result != CUDA_SUCCESS) {
    gb_replica_undo();
    gb_gate_leave();
    return result;
  }
  if (gb_gated_on()) {
    if (touch->accounted)
      note_use(touch);
    else
      note_unknown_use();
    if (gb_dispatch_on()) gb_dispatch_note_here(touch);
  }
  return CUDA_SUCCESS;
}

CUresult gb_begin_there(struct gb_touch *touch) {
  return gb_sticky_error() != CUDA_SUCCESS ? gb_sticky_error() : enter(touch, true);
}

/* ---- the bracket ---- */

CUresult gb_begin_launch_slow(const struct gb_run_request *launch, CUstream stream) {
  struct gb_touch touch = {.accounted = !hidden_outside};
  if (gb_gated_on() || staging()) gb_touch_launch(&touch, launch->function, launch->params, launch->extra);
  if (gb_dispatching()) gb_touch_reach(&touch, launch);
  return begin(&touch, true, stream);
}

CUresult gb_begin_copy_slow(const struct gb_operand *operands, size_t count, CUstream stream) {
  struct gb_touch touch = {.accounted = true, .exact = true};
  for (size_t i = 0; i < count; i++) {
    if (operands[i].bytes == 0 || !gb_owns(operands[i].address)) continue;
    gb_touch_address(&touch, operands[i].address, operands[i].bytes);
    gb_touch_address(&touch, operands[i].address + operands[i].bytes - 1, 1);
    gb_touch_exactly(&touch, operands[i].address, operands[i].bytes);
  }
  /* A launch hands addresses on, a copy or fill looks them up at once: in the middle of a remap the
   * driver finds nothing there (580.159 answers INVALID_VALUE, or crashes). */
  return begin(&touch, false, touch.named_count > 0 ? GB_STREAM_SYNC : stream);
}

CUresult gb_begin_touch_slow(struct gb_touch *touch, CUstream stream) {
  if (gb_dispatching()) gb_dispatch_cannot(touch);
  return begin(touch, true, stream);
}

CUresult gb_begin_unknown_slow(enum gb_unknown what, CUstream stream) {
  struct gb_touch touch = {.accounted = false};
  if (what == GB_UNKNOWN_TEXTURE)
    hidden_outside = true; /* kernels reach it without naming it, for good */
  return begin(&touch, true, what == GB_UNKNOWN_COPY ? GB_STREAM_SYNC : stream);
}

void gb_failed_slow(void) {
  gb_replica_undo();
}

void gb_end_slow(void) {
  gb_gate_leave();
}

void gb_note_copy_outside(const void *host_source, uint64_t bytes) {
  if (!gb_gated_on() || hidden_outside || !gb_holds_addresses(host_source, bytes)) return;
  hidden_outside = true;
  gb_event(GB_LOG_WARN, CUDA_SUCCESS, "hidden_pointers",
           "memory outside the arena holds pointers into it: every launch counts as unaccounted "
           "from here on");
}
