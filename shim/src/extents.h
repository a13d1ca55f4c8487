/* SPDX-License-Identifier: Apache-2.0 */
/*
 * extents.h: which lanes hold which part of a span: the list the agent gave with PLACE, and what moves make of it.
 *
 * Invariant: in order, side by side, covering the span; offsets and lengths are multiples of GB_ABI_RANGE_ALIGN; every
 * extent has a lane, and a mirror that is another one, or 0. pre of everything: gb_lock.
 */
#ifndef GB_EXTENTS_H
#define GB_EXTENTS_H

#include "arena.h"

/* Takes the agent's answer for a span. returns: false when it breaks the invariant, or without memory; then nothing
 * has changed. */
bool gb_extents_take(struct gb_span *span, const struct gb_range *range,
                     const struct gb_place_reply *reply);
void gb_extents_drop(struct gb_span *span);
/* Where the extent names this lane; NULL: nowhere. */
uint32_t *gb_extent_slot(struct gb_extent *extent, uint32_t lane);
/* Makes a part of an extent one of its own. pre: it lies inside extent `index`. returns: it, until the list changes
 * again; NULL without memory. */
struct gb_extent *gb_extents_cut(struct gb_span *span, uint32_t index, uint64_t offset,
                                 uint64_t length);

#endif
