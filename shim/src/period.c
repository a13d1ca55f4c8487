/* SPDX-License-Identifier: Apache-2.0 */
/*
 * period.c: rings of launches and of the ranges they name. A launch that was made before, at distance d, ends a step of
 * d launches when the d launches before it equal the d before those.
 */
#include "period.h"

#include <stdlib.h>

#define SEEN 4096u /* the last launch of each hash, by its low bits */

struct launch {
  uint64_t hash;        /* of the ranges it names */
  uint64_t first_touch; /* counted from the first one on */
  uint32_t touch_count;
};

struct gb_period {
  uint64_t launches; /* so far */
  uint64_t touches;
  uint32_t length; /* of the step said last */
  uint64_t end;    /* launches so far when it ended */
  uint64_t said;   /* sum of its hashes */
  uint64_t seen[SEEN]; /* number of the launch, + 1 */
  struct launch ring[GB_PERIOD_LAUNCHES];
  uint64_t ranges[GB_PERIOD_TOUCHES];
};

struct gb_period *gb_period_create(void) {
  return calloc(1, sizeof(struct gb_period));
}

void gb_period_destroy(struct gb_period *period) {
  free(period);
}

static const struct launch *launch_at(const struct gb_period *period, uint64_t number) {
  return &period->ring[number % GB_PERIOD_LAUNCHES];
}

static uint64_t mix(uint64_t hash, uint64_t word) {
  hash = (hash ^ word) * 0x9e3779b97f4a7c15ull;
  return hash ^ hash >> 29;
}

/* Whether the `distance` launches up to `last` equal those before them. */
static bool repeats(const struct gb_period *period, uint64_t last, uint64_t distance) {
  if (distance < 2 || last + 1 < 2 * distance || 2 * distance > GB_PERIOD_LAUNCHES) return false;
  for (uint64_t k = 0; k < distance; k++) {
    if (launch_at(period, last - k)->hash != launch_at(period, last - k - distance)->hash) return false;
  }
  return true;
}

static bool has_ranges(const struct gb_period *period, uint64_t last, uint64_t distance) {
  uint64_t found[GB_PERIOD_RANGES_MIN];
  uint32_t count = 0;
  uint64_t first = launch_at(period, last - distance + 1)->first_touch;
  uint64_t end = launch_at(period, last)->first_touch + launch_at(period, last)->touch_count;
  if (period->touches - first > GB_PERIOD_TOUCHES) return false;
  for (uint64_t at = first; at < end && count < GB_PERIOD_RANGES_MIN; at++) {
    uint64_t range = period->ranges[at % GB_PERIOD_TOUCHES];
    bool known = false;
    for (uint32_t i = 0; i < count; i++) known |= found[i] == range;
    if (!known) found[count++] = range;
  }
  return count == GB_PERIOD_RANGES_MIN;
}

/* The same for every rotation of the same launches. */
static uint64_t sum_of(const struct gb_period *period, uint64_t last, uint64_t distance) {
  uint64_t sum = distance;
  for (uint64_t k = 0; k < distance; k++) sum += launch_at(period, last - k)->hash;
  return sum;
}

static void append(struct gb_period *period, const uint64_t *ranges, uint32_t count) {
  struct launch *launch = &period->ring[period->launches % GB_PERIOD_LAUNCHES];
  *launch = (struct launch){.hash = count, .first_touch = period->touches, .touch_count = count};
  for (uint32_t i = 0; i < count; i++) {
    launch->hash = mix(launch->hash, ranges[i]);
    period->ranges[period->touches++ % GB_PERIOD_TOUCHES] = ranges[i];
  }
  period->launches++;
}

bool gb_period_launch(struct gb_period *period, const uint64_t *ranges, uint32_t count) {
  if (count == 0 || count > GB_PERIOD_TOUCHES) return false;
  uint64_t last = period->launches;
  append(period, ranges, count);
  uint64_t *seen = &period->seen[launch_at(period, last)->hash % SEEN];
  uint64_t before = *seen;
  *seen = last + 1;
  if (before == 0 || !repeats(period, last, last + 1 - before)) return false;
  uint64_t distance = last + 1 - before;
  uint64_t sum = sum_of(period, last, distance);
  if (sum == period->said || !has_ranges(period, last, distance)) return false;
  period->said = sum;
  period->length = (uint32_t)distance;
  period->end = last + 1;
  return true;
}

uint32_t gb_period_length(const struct gb_period *period) {
  return period->length;
}

uint32_t gb_period_touches(const struct gb_period *period, struct gb_period_touch *touches, uint32_t max) {
  uint32_t count = 0;
  if (period->length == 0 || period->launches - (period->end - period->length) > GB_PERIOD_LAUNCHES) return 0;
  const struct launch *first = launch_at(period, period->end - period->length);
  if (period->touches - first->first_touch > GB_PERIOD_TOUCHES) return 0;
  for (uint32_t i = 0; i < period->length; i++) {
    const struct launch *launch = launch_at(period, period->end - period->length + i);
    for (uint32_t k = 0; k < launch->touch_count; k++) {
      if (count == max) return 0;
      touches[count++] =
          (struct gb_period_touch){period->ranges[(launch->first_touch + k) % GB_PERIOD_TOUCHES], i};
    }
  }
  return count;
}
