/* SPDX-License-Identifier: Apache-2.0 */
/* period_test.c: a step is known from its second round on, whatever came before, and only then. */
#include <stdbool.h>

#include "../check.h"
#include "period.h"

#define LAYERS 40u
#define SCRATCH 1000000u

/* A decode step: scratch in every launch, two matrices and a buffer for each layer. returns: launches that ended a
 * step. */
static unsigned step(struct gb_period *period, uint64_t first_range, uint32_t layers) {
  unsigned found = 0;
  for (uint64_t layer = 0; layer < layers; layer++) {
    const uint64_t launches[][2] = {{SCRATCH, first_range + layer * 3},
                                    {SCRATCH, first_range + layer * 3 + 2},
                                    {SCRATCH, 0},
                                    {SCRATCH, first_range + layer * 3 + 1}};
    for (unsigned i = 0; i < 4; i++) found += gb_period_launch(period, launches[i], launches[i][1] == 0 ? 1 : 2);
  }
  return found;
}

static void the_second_round_is_a_step(void) {
  struct gb_period *period = gb_period_create();
  struct gb_period_touch touches[LAYERS * 8];
  REQUIRE(period != NULL);
  CHECK_EQUAL(gb_period_touches(period, touches, LAYERS * 8), 0);
  CHECK_EQUAL(step(period, 5000, 7), 0);
  CHECK_EQUAL(step(period, 1, LAYERS), 0);
  CHECK_EQUAL(step(period, 1, LAYERS), 1);
  CHECK_EQUAL(gb_period_length(period), LAYERS * 4);
  uint32_t count = gb_period_touches(period, touches, LAYERS * 8);
  CHECK_EQUAL(count, LAYERS * 7);
  bool in_order = true;
  for (uint32_t i = 1; i < count; i++) in_order &= touches[i].launch >= touches[i - 1].launch;
  CHECK(in_order);
  CHECK_EQUAL(touches[count - 1].launch, LAYERS * 4 - 1);
  CHECK_EQUAL(gb_period_touches(period, touches, LAYERS * 7 - 1), 0);
  gb_period_destroy(period);
}

/* The same step is said once, however often it comes and wherever it is taken to begin; another one is said again. */
static void a_step_is_said_once(void) {
  struct gb_period *period = gb_period_create();
  unsigned found = 0;
  REQUIRE(period != NULL);
  for (unsigned round = 0; round < 20; round++) found += step(period, 1, LAYERS);
  CHECK_EQUAL(found, 1);
  for (unsigned round = 0; round < 5; round++) found += step(period, 3000, LAYERS + 1);
  CHECK_EQUAL(found, 2);
  CHECK_EQUAL(gb_period_length(period), (LAYERS + 1) * 4);
  gb_period_destroy(period);
}

static void what_never_repeats_is_no_step(void) {
  struct gb_period *period = gb_period_create();
  unsigned found = 0;
  uint64_t seed = 1;
  REQUIRE(period != NULL);
  for (unsigned i = 0; i < 200000; i++) {
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    const uint64_t ranges[] = {1 + (seed >> 33) % 500, 1 + (seed >> 45) % 500};
    found += gb_period_launch(period, ranges, 2);
  }
  CHECK_EQUAL(found, 0);
  gb_period_destroy(period);
}

/* Few ranges, none, more launches than are remembered, a step that has left the ring. */
static void the_edges(void) {
  struct gb_period *period = gb_period_create();
  struct gb_period_touch touches[16];
  const uint64_t two[] = {1, 2};
  unsigned found = 0;
  REQUIRE(period != NULL);
  for (unsigned i = 0; i < 100; i++) {
    found += gb_period_launch(period, &two[i % 2], 1);
    found += gb_period_launch(period, two, 0);
  }
  CHECK_EQUAL(found, 0);
  for (unsigned round = 0; round < 3; round++) {
    for (uint64_t i = 1; i <= GB_PERIOD_LAUNCHES; i++) found += gb_period_launch(period, &i, 1);
  }
  CHECK_EQUAL(found, 0);
  CHECK_EQUAL(gb_period_launch(period, two, GB_PERIOD_TOUCHES + 1), 0);
  CHECK_EQUAL(step(period, 1, 2) + step(period, 1, 2), 1);
  CHECK_EQUAL(gb_period_touches(period, touches, 16), 14);
  for (uint64_t i = 1; i <= GB_PERIOD_LAUNCHES; i++) gb_period_launch(period, &i, 1);
  CHECK_EQUAL(gb_period_touches(period, touches, 16), 0);
  gb_period_destroy(period);
}

int main(void) {
  RUN(the_second_round_is_a_step);
  RUN(a_step_is_said_once);
  RUN(what_never_repeats_is_no_step);
  RUN(the_edges);
  return check_done();
}
