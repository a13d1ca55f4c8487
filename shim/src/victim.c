/* SPDX-License-Identifier: Apache-2.0 */
/* victim.c: learned intervals and the choice of a victim. */
#include <stdatomic.h>

#include "victim.h"

static _Atomic uint64_t ticks;

uint64_t gb_tick(void) {
  return 1 + atomic_fetch_add_explicit(&ticks, 1, memory_order_relaxed);
}

uint64_t gb_now_tick(void) {
  return atomic_load_explicit(&ticks, memory_order_relaxed);
}

void gb_used_at(struct gb_span *span, uint64_t tick) {
  uint64_t last = atomic_exchange_explicit(&span->last_use, tick, memory_order_relaxed);
  /* Uses right after each other belong to one visit; the interval is from visit to visit. */
  if (last != 0 && tick > last + 1)
    atomic_store_explicit(&span->interval, tick - last, memory_order_relaxed);
}

uint64_t gb_predict(const struct gb_span *span, uint64_t now) {
  uint64_t last = atomic_load_explicit(&span->last_use, memory_order_relaxed);
  uint64_t interval = atomic_load_explicit(&span->interval, memory_order_relaxed);
  if (interval == 0) {
    /* Used in one visit only, typically its upload: of those the latest is needed last when the
     * program then works through them in order. One used just now is likely to be used again at
     * once. */
    return last + 2 >= now ? now + 1 : (1ull << 62) + last;
  }
  uint64_t next = last + interval;
  /* Overdue: the pattern has changed, and the longer it stays away the less is it expected. */
  return next > now ? next : now + (now - last);
}

struct gb_span *gb_victim(CUdevice device, const uint64_t *keep, uint32_t keep_count) {
  struct gb_span *best = NULL;
  uint64_t best_next = 0;
  uint64_t now = gb_now_tick();
  for (struct gb_span *span = gb_span_next(NULL); span != NULL; span = gb_span_next(span)) {
    if (span->slab != NULL || span->app || span->going || gb_residency(span) != GB_RESIDENT ||
        span->device != device || (span->chunk_count > 0 && span->chunks[0].exported))
      continue;
    bool kept = false;
    for (uint32_t i = 0; i < keep_count && !kept; i++) kept = keep[i] == span->base;
    uint64_t next = gb_predict(span, now);
    if (kept || (best != NULL && next <= best_next)) continue;
    best = span;
    best_next = next;
  }
  return best;
}
