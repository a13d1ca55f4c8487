/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stage.c: a switch from its start to its settlement.
 *
 *   call names absent chunks -> plan -> frames and homes made -> gate closed (microseconds)
 *   -> submitted -> gate open, epoch raised: streams wait -> worker remaps -> settled by whoever
 *   holds gb_lock next
 *
 * The books (tier, handle, accounts) are changed when a switch is submitted and put right for what
 * did not happen when it is settled; at most one is between the two.
 */
#include "stage.h"

#include <stdlib.h>
#include <string.h>

#include "chunk.h"
#include "config.h"
#include "context.h"
#include "gate.h"
#include "gated.h"
#include "ipc.h"
#include "lock.h"
#include "order.h"
#include "report.h"
#include "share.h"
#include "tier.h"

static struct gb_switch current;     /* under gb_lock */
static bool unsettled;               /* under gb_lock */
static _Atomic uint64_t quiet_until; /* ns: no switch before, after abandoned ones */
static uint32_t abandoned_in_a_row;

#define QUIET_TIMES 4
#define QUIET_DOUBLINGS 5
#define QUIET_NS_MAX (4ull * 1000000000)
/* What belongs in VRAM found nothing to take its place from. */
#define NOTHING_NS (100ull * 1000000)


/* ---- on or off ---- */

void gb_stage_start(void) {
  bool supported = gb_arena_size_bytes != 0 && gb_config()->staging != GB_STAGING_NEVER &&
                   gb_real.cuCtxRecordEvent != NULL && gb_real.cuStreamWaitValue32_v2 != NULL &&
                   gb_real.cuStreamWriteValue32_v2 != NULL && gb_stage_order() != NULL;
  if (!supported || !gb_stage_worker_start()) gb_stage_set_unsupported();
}

uint64_t gb_stage_segment_bytes(void) {
  if (gb_stage_state() != GB_STAGING_ON || gb_arena_device_count() == 0) return 0;
  return gb_stage_frames_wanted(gb_arena_device(0)) / 2;
}

/* ---- learning ---- */

struct seen {
  bool missing; /* something the call names is in host memory */
  bool belongs; /* and belongs in VRAM in any case */
};

static void touch_chunk(struct gb_span *span, uint32_t chunk, void *context) {
  struct seen *seen = context;
  gb_stage_touch(span, chunk);
  seen->missing |= span->chunks[chunk].tier == GB_TIER_T2 && !span->still;
  seen->belongs |= gb_stage_belongs(&span->chunks[chunk]) && !span->still;
}

bool gb_stage_wants(const struct gb_touch *touch) {
  struct seen seen = {false, false};
  if (touch->named_count == 0) return false;
  pthread_mutex_lock(&gb_stage_lock);
  pthread_rwlock_rdlock(&gb_index_lock);
  for (uint32_t i = 0; i < touch->named_count; i++) {
    struct gb_span *span = gb_span_at(touch->named[i].address);
    if (span != NULL && gb_residency(span) == GB_RESIDENT)
      gb_stage_cover(span, touch->named[i].address, touch->named[i].bytes, true, touch_chunk,
                     &seen);
  }
  pthread_rwlock_unlock(&gb_index_lock);
  struct gb_order *order = gb_stage_order();
  gb_stage_step(gb_now_ns(), gb_order_hit_percent(order), gb_order_cycle(order),
                gb_order_rounds(order));
  bool on = gb_stage_state() == GB_STAGING_ON;
  pthread_mutex_unlock(&gb_stage_lock);
  return (on ? seen.missing : seen.belongs) && gb_live_captures == 0 && gb_now_ns() >= quiet_until;
}

/* ---- the books ---- */

static void move_accounts(CUdevice device, const struct gb_remap *remap, int64_t direction) {
  int64_t bytes = direction * (int64_t)remap->bytes * (remap->arrives ? 1 : -1);
  gb_tier_move(GB_TIER_T1, device, GB_ACCOUNT_STAGE, GB_ACCOUNT_USED, bytes);
  gb_tier_move(GB_TIER_T2, device, GB_ACCOUNT_USED, GB_ACCOUNT_STAGE, bytes);
}

/* Swaps what is mapped with what is not. pre: gb_stage_lock. */
static void arrive(struct gb_chunk *chunk, const struct gb_stage_frame *frame, bool hashed) {
  chunk->home = chunk->handle;
  chunk->home_alias = chunk->alias;
  chunk->handle = frame->handle;
  chunk->alias = frame->alias;
  chunk->slot = frame->slot;
  chunk->hashed = hashed;
  chunk->tier = GB_TIER_T1;
  gb_stage_set_fresh(chunk, true);
}

static struct gb_stage_frame leave(struct gb_chunk *chunk) {
  struct gb_stage_frame frame = {chunk->handle, chunk->bytes, chunk->alias, chunk->slot};
  chunk->handle = chunk->home;
  chunk->alias = chunk->home_alias;
  chunk->home_alias = 0;
  chunk->slot = 0;
  chunk->away = 0;
  chunk->hashed = false;
  chunk->own = false;
  gb_stage_set_fresh(chunk, false);
  chunk->tier = GB_TIER_T2;
  return frame;
}

static void enter_books(struct gb_switch *work) {
  pthread_mutex_lock(&gb_stage_lock);
  for (uint32_t i = 0; i < work->count; i++) {
    struct gb_remap *remap = &work->remaps[i];
    struct gb_chunk *chunk = &remap->span->chunks[remap->chunk];
    remap->address = remap->span->base + chunk->offset;
    remap->from = chunk->handle;
    remap->hashed = chunk->hashed;
    remap->copied = !remap->arrives && (!chunk->hashed || chunk->dirty > 0);
    if (remap->arrives)
      arrive(chunk, &remap->frame, true);
    else
      remap->frame = leave(chunk);
    remap->to = chunk->handle;
    move_accounts(work->device, remap, 1);
  }
  pthread_mutex_unlock(&gb_stage_lock);
}

/* What turned out to be changed will be again. */
static void note_left(const struct gb_remap *remap, struct gb_chunk *chunk, uint64_t written) {
  if (remap->copied)
    chunk->dirty = (uint8_t)(chunk->dirty - (chunk->dirty > 0));
  else
    chunk->dirty = written > 0 ? GB_STAGE_DIRTY_TIMES : 0;
  gb_report_add(written > 0 ? GB_COUNT_STAGE_OUT_BYTES : GB_COUNT_STAGE_CLEAN_BYTES, remap->bytes);
}

static void settle_one(CUdevice device, struct gb_remap *remap) {
  struct gb_chunk *chunk = &remap->span->chunks[remap->chunk];
  uint64_t written = 0; /* to the home, whatever became of the switch */
  if (!remap->arrives)
    written = remap->copied ? remap->bytes : gb_stage_written(remap->frame.slot);
  if (remap->done) {
    gb_report_add(GB_COUNT_REMAPS, 1);
    if (remap->arrives) return;
    note_left(remap, chunk, written);
    gb_frame_give(device, &remap->frame);
    return;
  }
  /* The home is not what the hash was taken of any more. */
  remap->hashed &= written == 0;
  move_accounts(device, remap, -1);
  pthread_mutex_lock(&gb_stage_lock);
  struct gb_stage_frame frame = remap->frame;
  if (remap->arrives)
    frame = leave(chunk);
  else
    arrive(chunk, &remap->frame, remap->hashed);
  pthread_mutex_unlock(&gb_stage_lock);
  if (remap->arrives) gb_frame_give(device, &frame);
}

static void count_end(const struct gb_switch *work, enum gb_stage_end end) {
  for (uint32_t i = 0; i < work->count; i++) {
    if (work->remaps[i].done && work->remaps[i].arrives)
      gb_report_add(GB_COUNT_STAGE_IN_BYTES, work->remaps[i].bytes);
  }
  gb_report_add(end == GB_STAGE_DONE ? GB_COUNT_SWITCHES : GB_COUNT_SWITCHES_ABANDONED, 1);
  if (end == GB_STAGE_DONE) {
    abandoned_in_a_row /= 2;
    return;
  }
  /* What it cost is paid back first: a program whose streams wait for what it does later loses a
   * fifth of its time at most. */
  uint64_t pause = QUIET_TIMES * work->lost_ns << abandoned_in_a_row;
  if (abandoned_in_a_row < QUIET_DOUBLINGS) abandoned_in_a_row++;
  quiet_until = gb_now_ns() + (pause < QUIET_NS_MAX ? pause : QUIET_NS_MAX);
}

/* pre: gb_lock, the switch is over, the device's context current. */
static void settle(enum gb_stage_end end) {
  for (uint32_t i = 0; i < current.count; i++) settle_one(current.device, &current.remaps[i]);
  count_end(&current, end);
  unsettled = false;
}

/* out: even for the copies of an abandoned switch, which may wait for the program itself. */
static bool settle_within(uint64_t deadline_ns, bool out) {
  if (!unsettled) return true;
  enum gb_stage_end end = gb_stage_worker_wait(deadline_ns, out);
  if (end == GB_STAGE_UNDER_WAY || end == GB_STAGE_RUNS_OUT) return false;
  if (gb_context_push(gb_stage_gpu_context(current.device)) != CUDA_SUCCESS) return false;
  settle(end);
  gb_context_pop();
  return true;
}

void gb_stage_update(void) {
  /* While chunks change their place no call may pass by, although nothing lies in host memory any
   * more by the books. */
  bool overflow = !settle_within(0, false) || gb_tier_account(GB_TIER_T2, GB_ACCOUNT_USED) > 0 ||
                  gb_share_shrinking() || gb_ipc_exporting();
  pthread_mutex_lock(&gb_stage_lock);
  gb_stage_set_overflow(overflow);
  bool interested = gb_stage_state() != GB_STAGING_OFF &&
                    gb_stage_state() != GB_STAGING_UNSUPPORTED;
  pthread_mutex_unlock(&gb_stage_lock);
  if (interested)
    gb_slow_raise(GB_SLOW_STAGING);
  else
    gb_slow_lower(GB_SLOW_STAGING);
}

void gb_stage_finish(void) {
  if (!settle_within(gb_now_ns() + GB_STAGE_WAIT_NS, true))
    gb_log(GB_LOG_ERROR, "a remap does not end: the GPU is stuck or the context is broken");
}

void gb_stage_release(const struct gb_span *span) {
  bool moves = false;
  for (uint32_t i = 0; unsettled && i < current.count; i++) moves |= current.remaps[i].span == span;
  if (moves) gb_stage_finish();
}

void gb_stage_settle_for_capture(void) {
  gb_stage_worker_wait(gb_now_ns() + GB_STAGE_WAIT_NS, false);
}

/* ---- a switch ---- */

static void give_back(const struct gb_switch *work) {
  for (uint32_t i = 0; i < work->count; i++) {
    if (work->remaps[i].arrives) gb_frame_give(work->device, &work->remaps[i].frame);
  }
}

/* Frames for what comes, homes for what goes; what gets none is left out. */
static void prepare(struct gb_switch *work) {
  uint32_t kept = 0;
  for (uint32_t i = 0; i < work->count; i++) {
    struct gb_remap remap = work->remaps[i];
    struct gb_chunk *chunk = &remap.span->chunks[remap.chunk];
    bool ready = false;
    if (remap.arrives) {
      ready = chunk->alias != 0 ||
              gb_alias_map(work->device, chunk->handle, chunk->bytes, &chunk->alias);
      ready = ready && gb_frame_take(work->device, chunk->bytes, &remap.frame);
    } else {
      ready = gb_home_make(remap.span, chunk);
    }
    if (ready) work->remaps[kept++] = remap;
  }
  work->count = kept;
}

static int by_address(const void *a, const void *b) {
  const struct gb_remap *x = a;
  const struct gb_remap *y = b;
  uint64_t at = x->span->base + x->span->chunks[x->chunk].offset;
  uint64_t bt = y->span->base + y->span->chunks[y->chunk].offset;
  return (at > bt) - (at < bt);
}

/* The gate is closed for the moment in which the switch is submitted. */
static bool submit(void) {
  if (!gb_gate_close(gb_now_ns() + GB_STAGE_IDLE_NS)) {
    give_back(&current);
    return false;
  }
  bool submitted = false;
  /* A capture that begins from here on finds the switch posted, and waits for its end. */
  pthread_mutex_lock(&gb_capture_lock);
  if (gb_live_captures != 0) {
    give_back(&current);
  } else {
    enter_books(&current);
    current.patient = !gb_stage_take_several();
    submitted = gb_stage_submit(&current);
    unsettled = true;
    if (submitted)
      gb_stage_worker_post(&current);
    else
      settle(GB_STAGE_ABANDONED); /* nothing is done: the books go back */
  }
  pthread_mutex_unlock(&gb_capture_lock);
  gb_gate_open();
  return submitted;
}

static CUdevice device_of(const struct gb_touch *touch) {
  const struct gb_span *span = touch->named_count > 0 ? gb_span_at(touch->named[0].address) : NULL;
  return span != NULL ? span->device : gb_arena_device(0);
}

static CUcontext context_of(const struct gb_touch *touch) {
  const struct gb_span *span = touch->named_count > 0 ? gb_span_at(touch->named[0].address) : NULL;
  return span != NULL ? span->context : NULL;
}

/* pre: gb_lock, the context current. returns: whether a second switch makes sense (this one only
 * made room). */
static bool switch_once(const struct gb_touch *touch, CUdevice device) {
  pthread_mutex_lock(&gb_stage_lock);
  bool on = gb_stage_state() == GB_STAGING_ON;
  bool planned = gb_stage_plan(touch, device, on, &current);
  pthread_mutex_unlock(&gb_stage_lock);
  if (!planned) {
    if (!on) quiet_until = gb_now_ns() + NOTHING_NS;
    return false;
  }
  prepare(&current);
  if (current.count == 0) return false;
  bool arrives = false;
  for (uint32_t i = 0; i < current.count; i++) arrives |= current.remaps[i].arrives;
  qsort(current.remaps, current.count, sizeof current.remaps[0], by_address);
  return submit() && !arrives;
}

/* Used up: the frames hold little that has not been touched yet. */
static bool used_up(void) {
  pthread_mutex_lock(&gb_stage_lock);
  bool on = gb_stage_state() == GB_STAGING_ON;
  bool little = gb_stage_unused() * 4 <= gb_stage_frames_wanted(current.device);
  pthread_mutex_unlock(&gb_stage_lock);
  return on && little;
}

void gb_idle_slow(void) {
  static const struct gb_touch nothing;
  if (gb_live_captures != 0 || gb_stage_worker_busy() || gb_now_ns() < quiet_until) return;
  if (pthread_mutex_trylock(&gb_lock) != 0) return;
  CUcontext context = gb_stage_gpu_context(current.device);
  if (context != NULL && used_up() && settle_within(0, false) &&
      gb_context_push(context) == CUDA_SUCCESS) {
    switch_once(&nothing, current.device);
    gb_context_pop();
  }
  pthread_mutex_unlock(&gb_lock);
}

void gb_stage_switch(const struct gb_touch *touch) {
  uint64_t began = gb_now_ns();
  pthread_mutex_lock(&gb_lock);
  CUcontext context = context_of(touch);
  CUdevice device = device_of(touch);
  for (int i = 0; i < 2; i++) {
    if (gb_live_captures != 0 || !settle_within(gb_now_ns() + GB_STAGE_WAIT_NS, false)) break;
    if (context == NULL || gb_context_push(context) != CUDA_SUCCESS) break;
    bool again = gb_stage_gpu_ready(device, context) && switch_once(touch, device);
    gb_context_pop();
    if (!again) break;
  }
  pthread_mutex_unlock(&gb_lock);
  gb_report_add(GB_COUNT_STALL_NS, gb_now_ns() - began);
}

uint64_t gb_stage_frame_bytes(void) {
  uint64_t bytes = 0;
  for (int i = 0; i < gb_arena_device_count() && gb_stage_state() == GB_STAGING_ON; i++)
    bytes += gb_stage_frames_wanted(gb_arena_device(i));
  uint64_t free_bytes = gb_tier_account(GB_TIER_T1, GB_ACCOUNT_STAGE);
  return free_bytes > bytes ? free_bytes : bytes;
}

bool gb_stage_vacate(CUdevice device, uint64_t bytes) {
  CUcontext context = NULL;
  bool staging = (gb_slow_path & GB_SLOW_STAGING) != 0 && gb_live_captures == 0;
  if (!staging || gb_real.cuCtxGetCurrent(&context) != CUDA_SUCCESS || context == NULL) return false;
  if (!settle_within(gb_now_ns() + GB_STAGE_WAIT_NS, false) || !gb_stage_gpu_ready(device, context))
    return false;
  pthread_mutex_lock(&gb_stage_lock);
  bool planned = gb_stage_plan_room(device, bytes, &current);
  pthread_mutex_unlock(&gb_stage_lock);
  if (!planned) return false;
  prepare(&current);
  qsort(current.remaps, current.count, sizeof current.remaps[0], by_address);
  if (current.count == 0 || !submit()) return false;
  return settle_within(gb_now_ns() + GB_STAGE_WAIT_NS, false);
}

/* ---- pins and hints ---- */

static void mark_hint(struct gb_span *span, uint32_t chunk, void *context) {
  span->chunks[chunk].hint = *(const enum gb_hint *)context;
}

static void mark_pinned(struct gb_span *span, uint32_t chunk, void *context) {
  (void)context;
  span->chunks[chunk].pinned = true;
}

/* The whole range is memory of ours: in one span, or in mapped neighbours of one area. */
static bool is_covered(const struct gb_span *span, CUdeviceptr address, uint64_t bytes) {
  uint64_t end = 0;
  if (span == NULL || bytes == 0 || __builtin_add_overflow(address, bytes, &end)) return false;
  while (address < span->base + span->bytes) {
    uint64_t next = span->base + span->bytes;
    if (end <= next) return true;
    const struct gb_span *after = span->area == NULL ? NULL : gb_span_at(next);
    if (after == NULL || after->area != span->area) return false;
    address = next;
    span = after;
  }
  return false;
}

/* For each chunk of a range. returns: false when not all of it is ours. */
static bool mark_range(CUdeviceptr address, uint64_t bytes,
                       void (*mark)(struct gb_span *, uint32_t, void *), void *context) {
  bool found = false;
  pthread_mutex_lock(&gb_stage_lock);
  pthread_rwlock_rdlock(&gb_index_lock);
  struct gb_span *span = gb_span_at(address);
  if (is_covered(span, address, bytes)) {
    found = true;
    gb_stage_cover(span, address, bytes, false, mark, context);
  }
  pthread_rwlock_unlock(&gb_index_lock);
  pthread_mutex_unlock(&gb_stage_lock);
  return found;
}

CUresult gb_hint_range(CUdeviceptr address, uint64_t bytes, enum gb_hint hint) {
  return mark_range(address, bytes, mark_hint, &hint) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

void gb_pin(CUdeviceptr address, uint64_t bytes) {
  gb_note_waits();
  mark_range(address, bytes, mark_pinned, NULL);
}
