/* SPDX-License-Identifier: Apache-2.0 */
/*
 * victim.h: who leaves first. Every span remembers its last use and the interval it learned; the
 * one whose next use is predicted latest goes (Belady's choice, exact when the program runs in a
 * cycle). Time is counted in accesses.
 */
#ifndef GB_VICTIM_H
#define GB_VICTIM_H

#include "arena.h"

/* Next tick; every bracketed access is one. Any thread. */
uint64_t gb_tick(void);
/* The present tick. Any thread. */
uint64_t gb_now_tick(void);
/* The span is used at the tick. Any thread inside the gate. */
void gb_used_at(struct gb_span *span, uint64_t tick);
/* Predicted tick of the next use, given the present one. */
uint64_t gb_predict(const struct gb_span *span, uint64_t now);
/* The resident large span to evict, none of `keep` (bases). pre: gb_lock. returns: NULL when there
 * is none. */
struct gb_span *gb_victim(CUdevice device, const uint64_t *keep, uint32_t keep_count);

#endif
