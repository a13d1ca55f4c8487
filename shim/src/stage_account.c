/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stage_account.c: the account of a window, which proves copies that run while kernels run.
 *
 * What runs while a switch waits for the GPU was all submitted since the switch before (the window):
 * later work is behind the gate. A chunk may be copied meanwhile, and the copy taken for the chunk,
 * if nothing in the window can have written to it: every call was accounted for (all its operands are
 * known), none named the chunk's span, and no operand held an address of the arena. The last is asked
 * on the GPU, in the call's own stream and before it, once for each operand and window. So the first
 * kernel of the window that reached the chunk would have had its address from an argument (then the
 * span was named), from the host (a copy: its target is asked again), or from an operand (then the
 * scan found it): there is none.
 *
 * Where the account fails the chunk is copied with the gate closed; what the scans find is known on
 * the GPU only, which then copies again by itself (stage_gpu.c).
 */
#include <stdatomic.h>
#include <string.h>

#include "lock.h"
#include "stage.h"

#define SMALL_MAX 1024u /* small operands scanned in a window; more: unaccounted */

static _Atomic uint32_t window; /* the epoch that began it */
static _Atomic bool accounting; /* the calls of this window are looked at */
static _Atomic bool unaccounted;

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
}

void gb_stage_account_open(uint32_t epoch, bool on) {
  window = epoch;
  accounting = on;
  unaccounted = false;
}

bool gb_stage_proven(const struct gb_span *span) {
  return accounting && !unaccounted && span->named_window != window;
}

uint32_t gb_stage_window(void) {
  return window;
}
