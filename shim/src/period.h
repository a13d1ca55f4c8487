/* SPDX-License-Identifier: Apache-2.0 */
/*
 * period.h: one step of the program, learned from its launches: which ranges they name, in which order, once they
 * repeat. Pure bookkeeping: no driver call, no clock, no lock; ranges are any numbers but 0.
 *
 * pre of every function: the caller's lock.
 */
#ifndef GB_PERIOD_H
#define GB_PERIOD_H

#include <stdbool.h>
#include <stdint.h>

/* Launches remembered: a step of more than half of them is never recognised. And the ranges they name. */
#define GB_PERIOD_LAUNCHES (1u << 14)
#define GB_PERIOD_TOUCHES (1u << 15)
/* A step names at least so many ranges. */
#define GB_PERIOD_RANGES_MIN 3u

struct gb_period;

struct gb_period_touch {
  uint64_t range;
  uint32_t launch; /* number in the step */
};

/* returns: NULL when memory is out. owns: gb_period_destroy. */
struct gb_period *gb_period_create(void);
void gb_period_destroy(struct gb_period *period);

/* A launch names these ranges; one that names none changes nothing. returns: true when the last launches are those of
 * the step before once more, and it is another step than the one that was said last. */
bool gb_period_launch(struct gb_period *period, const uint64_t *ranges, uint32_t count);
/* Launches of the step that was said last; 0: none was. */
uint32_t gb_period_length(const struct gb_period *period);
/* What it names: each launch's ranges once, in order. returns: how many; 0 when there are more than max, or when the
 * step is forgotten. */
uint32_t gb_period_touches(const struct gb_period *period, struct gb_period_touch *touches, uint32_t max);

#endif
