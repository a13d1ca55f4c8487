/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stage_ahead.c: copies that run while kernels run, and the account that proves them.
 *
 * Between two switches (a window) the chunks that come next are copied into free frames. At the next
 * switch such a copy is taken for the chunk only if nothing in the window can have written to the
 * chunk meanwhile: every call was accounted for (all its operands are known), none named the chunk's
 * span, and no operand held an address of the arena. The last is asked on the GPU, in the call's own
 * stream and before it, once for each operand and window. So the first kernel of the window that
 * reached the chunk would have had its address from an argument (then the span was named), from the
 * host (a copy: its target is asked again), or from an operand (then the scan found it): there is
 * none.
 *
 * Where the account fails the chunk is copied again with the gate closed; what the scans find is
 * known on the GPU only, which then copies again by itself (stage_gpu.c).
 */
#include <stdatomic.h>
#include <string.h>

#include "chunk.h"
#include "config.h"
#include "lock.h"
#include "order.h"
#include "slab.h"
#include "stage.h"

#define NEXT_MAX 1024u
#define SMALL_MAX 1024u /* small operands scanned in a window; more: unaccounted */

static struct gb_ahead list[GB_STAGE_CHUNKS_MAX]; /* under gb_lock */
static uint32_t list_count;
static _Atomic uint32_t window; /* the epoch that began it */
static _Atomic bool accounting; /* the calls of this window are looked at */
static _Atomic bool unaccounted;
static _Atomic bool begun; /* the copies of this window */

static pthread_mutex_t small_lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
  uint64_t address;
  uint32_t window;
} small[SMALL_MAX]; /* small operands scanned, under small_lock */

bool gb_stage_accounting(void) {
  return accounting;
}

/* ---- the account ---- */

/* returns: whether the operand has been scanned in this window already; enters it if not. *full: no
 * place for it. */
static bool small_scanned(uint64_t address, uint32_t now, bool *full) {
  uint32_t at = (uint32_t)((address >> 8) * 0x9e3779b1u) % SMALL_MAX;
  bool known = false;
  *full = true;
  pthread_mutex_lock(&small_lock);
  for (uint32_t i = 0; i < 8; i++) {
    uint32_t place = (at + i) % SMALL_MAX;
    known = small[place].address == address && small[place].window == now;
    if (!known && small[place].window == now) continue;
    small[place].address = address;
    small[place].window = now;
    *full = false;
    break;
  }
  pthread_mutex_unlock(&small_lock);
  return known;
}

/* What a window must know of one span before a call may use it. */
struct look {
  uint64_t base;
  uint64_t bytes;
  bool scan;  /* not scanned yet */
  bool known; /* all of it lies in VRAM: it can be scanned */
};

static bool in_vram(const struct gb_span *span) {
  for (uint32_t i = 0; i < span->chunk_count; i++) {
    if (span->chunks[i].tier != GB_TIER_T1) return false;
  }
  return span->chunk_count > 0;
}

static struct look look_at(uint64_t base, uint32_t now, bool launch) {
  struct look look = {.known = true};
  pthread_mutex_lock(&gb_stage_lock);
  pthread_rwlock_rdlock(&gb_index_lock);
  struct gb_span *span = gb_span_at(base);
  if (span != NULL) {
    span->named_window = now;
    look.base = span->base;
    look.bytes = span->bytes;
    look.scan = launch && span->scanned_window != now;
    look.known = !launch || in_vram(span);
    /* A copy may bring addresses: the next call that names the span asks again. */
    span->scanned_window = launch && look.known ? now : 0;
  }
  pthread_rwlock_unlock(&gb_index_lock);
  pthread_mutex_unlock(&gb_stage_lock);
  return look;
}

static bool account_for(const struct gb_touch *touch, bool launch, CUstream stream) {
  uint32_t now = window;
  if (!touch->accounted || gb_live_captures != 0) return false;
  /* A kernel that is given nothing reaches what it writes through something we do not see. */
  if (launch && touch->count + touch->content_count == 0) return false;
  for (uint32_t i = 0; i < touch->count; i++) {
    struct look look = look_at(touch->bases[i], now, launch);
    if (!look.known) return false;
    if (look.scan && !gb_stage_scan(stream, look.base, look.bytes, now)) return false;
  }
  for (uint32_t i = 0; launch && i < touch->content_count; i++) {
    const struct gb_operand *operand = &touch->content[i];
    bool full = false;
    if (!gb_owns(operand->address)) return false; /* memory outside: not ours to read */
    if (small_scanned(operand->address, now, &full)) continue;
    if (full || !gb_stage_scan(stream, operand->address & ~3ull, operand->bytes, now)) return false;
  }
  return true;
}

void gb_stage_account(const struct gb_touch *touch, bool launch, CUstream stream) {
  if (!accounting || unaccounted) return;
  if (!account_for(touch, launch, stream)) unaccounted = true;
  if (!begun && !unaccounted && !gb_stage_worker_busy()) gb_stage_ahead_begin();
}

void gb_stage_account_open(uint32_t epoch, bool on) {
  window = epoch;
  accounting = on;
  unaccounted = false;
  begun = false;
}

bool gb_stage_proven(const struct gb_span *span) {
  return accounting && !unaccounted && span->named_window != window;
}

uint32_t gb_stage_window(void) {
  return window;
}

/* ---- the copies; pre: gb_lock ---- */

static bool choose(CUdevice device, struct gb_ahead *ahead, uint32_t *next, uint32_t count,
                   uint32_t *at) {
  for (; *at < count; (*at)++) {
    struct gb_span *span = NULL;
    uint32_t chunk = 0;
    if (!gb_stage_unit(next[*at], &span, &chunk) || span->device != device) continue;
    const struct gb_chunk *c = &span->chunks[chunk];
    if (c->tier != GB_TIER_T2 || c->hint == GB_HINT_COLD || span->named_window == window) continue;
    *ahead = (struct gb_ahead){.span = span, .chunk = chunk};
    (*at)++;
    return true;
  }
  return false;
}

void gb_stage_ahead_fill(CUdevice device) {
  static uint32_t next[NEXT_MAX];
  if (begun || list_count > 0) return;
  begun = true;
  pthread_mutex_lock(&gb_stage_lock);
  uint32_t count = gb_order_next(gb_stage_order(), next, NEXT_MAX);
  uint32_t at = 0;
  uint32_t chosen = 0;
  while (chosen < GB_STAGE_CHUNKS_MAX && choose(device, &list[chosen], next, count, &at)) chosen++;
  pthread_mutex_unlock(&gb_stage_lock);
  for (uint32_t i = 0; i < chosen; i++) {
    struct gb_ahead *ahead = &list[list_count];
    *ahead = list[i];
    struct gb_chunk *chunk = &ahead->span->chunks[ahead->chunk];
    if (chunk->bytes > gb_frames_free(device)) break;
    if (chunk->alias == 0 && !gb_alias_map(device, chunk->handle, chunk->bytes, &chunk->alias))
      break;
    if (!gb_frame_take(device, chunk->bytes, &ahead->frame)) break;
    if (!gb_stage_copy_ahead(device, &ahead->frame, chunk->alias)) {
      gb_frame_give(device, &ahead->frame);
      break;
    }
    list_count++;
  }
}

uint64_t gb_stage_ahead_bytes(void) {
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < list_count; i++) bytes += list[i].frame.bytes;
  return bytes;
}

bool gb_stage_ahead_take(const struct gb_span *span, uint32_t chunk,
                         struct gb_stage_frame *frame) {
  for (uint32_t i = 0; i < list_count; i++) {
    if (list[i].span != span || list[i].chunk != chunk) continue;
    *frame = list[i].frame;
    list[i] = list[--list_count];
    return true;
  }
  return false;
}

void gb_stage_ahead_drop(CUdevice device) {
  while (list_count > 0) gb_frame_give(device, &list[--list_count].frame);
}
