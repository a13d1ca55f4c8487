/* SPDX-License-Identifier: Apache-2.0 */
/*
 * order.h: the order in which extents are touched, learned from the touches; says what comes next
 * and how far away the next use of each is. Pure bookkeeping: no driver call, no clock, no lock.
 *
 * Units (extents) are small integers chosen by the caller, below GB_ORDER_UNITS_MAX. A touch repeats
 * an earlier touch of the same unit, and the sequence that followed then is the prediction; which
 * one, say the touches before it. A cycle (decode step, training step) predicts itself from its
 * second round on.
 *
 * pre of every function: the caller's lock.
 */
#ifndef GB_ORDER_H
#define GB_ORDER_H

#include <stdbool.h>
#include <stdint.h>

#define GB_ORDER_UNITS_MAX (1u << 17)
/* Touches remembered; a cycle longer than this is never recognised. */
#define GB_ORDER_LENGTH (1u << 16)
#define GB_ORDER_NEVER UINT32_MAX

struct gb_order;

/* returns: NULL when memory is out. owns: gb_order_destroy. */
struct gb_order *gb_order_create(void);
void gb_order_destroy(struct gb_order *order);

/* The unit is touched now. Touching the unit that was touched last again changes nothing. */
void gb_order_touch(struct gb_order *order, uint32_t unit);
/* The unit does not exist any more. */
void gb_order_forget(struct gb_order *order, uint32_t unit);

/* Fills units[] with the distinct units predicted to be touched next, nearest first, none twice.
 * returns: how many, at most max; 0 when nothing is predicted. */
uint32_t gb_order_next(struct gb_order *order, uint32_t *units, uint32_t max);
/* Touches before the unit's predicted next use, 0 when it is the very next one; forgotten ones in
 * between count. GB_ORDER_NEVER when none is predicted. O(1) amortised while predictions hold; after
 * a wrong one, once per unit, the unit's touches since the place that the prediction goes on at. */
uint32_t gb_order_distance(struct gb_order *order, uint32_t unit);
/* Of the last 1000 touches, how many in 100 were the predicted ones. */
uint32_t gb_order_hit_percent(const struct gb_order *order);
/* Length of the cycle in touches, of its last round; 0 when none is recognised. One is, when some
 * unit comes again and again after as many touches, give or take an eighth, of which three in four
 * were the predicted ones. */
uint32_t gb_order_cycle(const struct gb_order *order);
/* Rounds of the recognised cycle completed; changes at the first touch of a new round. */
uint64_t gb_order_rounds(const struct gb_order *order);

#endif
