/* SPDX-License-Identifier: Apache-2.0 */
/* order_test.c: order.c against a model without any index, and on the sequences of real programs.
 * argv[1]: a seed, for one more random run. */
#include "order.h"

#include <string.h>

#include "../check.h"

/* xorshift64*: seeded, so that a failure can be run again. */
static uint64_t check_random(uint64_t *state) {
  *state ^= *state >> 12;
  *state ^= *state << 25;
  *state ^= *state >> 27;
  return *state * 0x2545f4914f6cdd1dull;
}

/* ---- the model: the whole history in an array, every question by looking through it ---- */

#define HISTORY_MAX 400000u
#define FORGOTTEN UINT32_MAX

static struct {
  uint32_t unit[HISTORY_MAX];
  bool hit[HISTORY_MAX];
  uint64_t count, cursor, base; /* places in unit[]; cursor, base -1: none */
  uint32_t streak, base_worth, base_age, newest;
} model;
#define NOWHERE UINT64_MAX

static void model_reset(void) {
  memset(&model, 0, sizeof model);
  model.cursor = model.base = NOWHERE;
  model.newest = FORGOTTEN;
}

static uint64_t model_oldest(void) {
  return model.count > GB_ORDER_LENGTH ? model.count - GB_ORDER_LENGTH : 0;
}

static int64_t model_worth(uint64_t place) {
  int64_t fits = 0;
  while (fits < 32 && place - fits > model_oldest() &&
         model.unit[place - fits - 1] == model.unit[model.count - fits - 1])
    fits++;
  if (model.base == NOWHERE || place < model.base || place - model.base >= 32) return fits;
  const int64_t near =
      (int64_t)model.base_worth / 2 - (int64_t)(place - model.base) - (int64_t)model.base_age;
  return near > fits ? near : fits;
}

static void model_place(uint32_t unit) {
  if (model.cursor != NOWHERE && model.streak >= 4) {
    model.base = model.cursor;
    model.base_worth = model.streak < 32 ? model.streak : 32;
    model.base_age = 0;
  } else if (model.base != NOWHERE && ++model.base_age > 16) {
    model.base = NOWHERE;
  }
  model.streak = 0;
  model.cursor = model.base;
  int64_t best = -1;
  uint32_t seen = 0;
  for (uint64_t place = model.count; place-- > model_oldest() && seen < 64;) {
    if (model.unit[place] != unit) continue;
    seen++;
    const int64_t worth = model_worth(place);
    if (worth <= best) continue;
    best = worth;
    model.cursor = place + 1;
  }
}

static uint64_t model_settle(uint64_t place) {
  if (place == NOWHERE || place < model_oldest()) return NOWHERE;
  while (place < model.count && model.unit[place] == FORGOTTEN) place++;
  return place < model.count ? place : NOWHERE;
}

static void model_touch(uint32_t unit) {
  if (unit == model.newest) return;
  const bool hit = model.cursor != NOWHERE && model.unit[model.cursor] == unit;
  if (!hit) {
    model_place(unit);
  } else {
    model.cursor++;
    if (++model.streak >= 4) model.base = NOWHERE;
  }
  model.hit[model.count] = hit;
  model.unit[model.count++] = model.newest = unit;
  model.cursor = model_settle(model.cursor);
  model.base = model_settle(model.base);
}

static void model_forget(uint32_t unit) {
  for (uint64_t i = 0; i < model.count; i++)
    if (model.unit[i] == unit) model.unit[i] = FORGOTTEN;
  if (model.newest == unit) model.newest = FORGOTTEN;
  model.cursor = model_settle(model.cursor);
  model.base = model_settle(model.base);
}

static uint32_t model_distance(uint32_t unit) {
  if (model.cursor == NOWHERE) return GB_ORDER_NEVER;
  for (uint64_t place = model.cursor; place < model.count; place++)
    if (model.unit[place] == unit) return (uint32_t)(place - model.cursor);
  return GB_ORDER_NEVER;
}

static uint32_t model_hit_percent(void) {
  uint32_t of = 0, hits = 0;
  for (uint64_t i = model.count; i-- > 0 && of < 1000; of++) hits += model.hit[i];
  return of == 0 ? 0 : hits * 100 / of;
}

/* ---- comparing ---- */

static bool same_next(struct gb_order *order, uint32_t max) {
  static uint32_t got[4096];
  static bool named[GB_ORDER_UNITS_MAX];
  const uint32_t count = gb_order_next(order, got, max);
  uint32_t expected = 0;
  bool same = true;
  memset(named, 0, sizeof named);
  for (uint64_t i = model.cursor; model.cursor != NOWHERE && i < model.count; i++) {
    const uint32_t unit = model.unit[i];
    if (expected == max) break;
    if (unit == FORGOTTEN || named[unit]) continue;
    named[unit] = true;
    same = same && expected < count && got[expected] == unit;
    expected++;
  }
  return same && expected == count;
}

static bool same_state(struct gb_order *order, uint32_t units, uint64_t *random) {
  const uint32_t max = (uint32_t)(check_random(random) % 300);
  if (!same_next(order, max)) return false;
  for (uint32_t i = 0; i < 20; i++) {
    const uint32_t unit = (uint32_t)(check_random(random) % units);
    if (gb_order_distance(order, unit) != model_distance(unit)) return false;
  }
  return gb_order_hit_percent(order) == model_hit_percent();
}

/* A mixture of what programs do: a loop, noise in it, jumps, units that go. */
static uint32_t mixed_unit(uint64_t *random, uint64_t step, uint32_t units, uint32_t noise) {
  const uint64_t at = step % (units + units / 2);
  const uint32_t loop = at < units ? (uint32_t)at : (uint32_t)(at % 7);
  return check_random(random) % 100 < noise ? (uint32_t)(check_random(random) % units) : loop;
}

static bool run_random(uint64_t seed, uint32_t units, uint32_t noise, uint32_t touches,
                       uint32_t look_every) {
  uint64_t random = seed;
  struct gb_order *order = gb_order_create();
  bool same = order != NULL;
  model_reset();
  for (uint32_t step = 0; same && step < touches; step++) {
    const uint32_t unit = mixed_unit(&random, step, units, noise);
    if (check_random(&random) % 400 == 0 && touches <= 20000) {
      gb_order_forget(order, unit);
      model_forget(unit);
    } else {
      gb_order_touch(order, unit);
      model_touch(unit);
    }
    if (check_random(&random) % look_every == 0) same = same_state(order, units, &random);
    if (!same) fprintf(stderr, "seed %#llx: differs at step %u\n", (unsigned long long)seed, step);
  }
  gb_order_destroy(order);
  return same;
}

static uint64_t extra_seed;

static void model_small(void) {
  for (uint64_t seed = 1; seed <= 60; seed++)
    REQUIRE(run_random(seed * 0x9e3779b97f4a7c15ull, 2 + (uint32_t)(seed % 40),
                       (uint32_t)(seed % 5) * 12, 4000, 5));
  if (extra_seed != 0) CHECK(run_random(extra_seed, 50, 10, 20000, 5));
}

static void model_large(void) {
  REQUIRE(run_random(77, 1000, 1, 20000, 50));
  REQUIRE(run_random(78, 300, 100, 20000, 50));
}

/* More touches than are remembered. */
static void model_wraps(void) {
  REQUIRE(run_random(79, 3000, 0, 200000, 2000));
  REQUIRE(run_random(80, 500, 3, 150000, 3000));
}

/* ---- sequences of programs ---- */

static uint32_t hits_of_round, touches_of_round;

static void touch(struct gb_order *order, uint32_t unit) {
  static uint32_t newest = FORGOTTEN;
  uint32_t next;
  if (unit == newest) return; /* No touch at all. */
  newest = unit;
  touches_of_round++;
  hits_of_round += gb_order_next(order, &next, 1) == 1 && next == unit;
  gb_order_touch(order, unit);
}

static void round_begin(void) { hits_of_round = touches_of_round = 0; }

#define ACTIVATIONS 5000u
#define CACHE 6000u

/* A decode step: each layer touches its weights, two activation units, and its part of the cache. */
static void decode(struct gb_order *order, uint32_t layers) {
  for (uint32_t layer = 0; layer < layers; layer++) {
    touch(order, ACTIVATIONS);
    touch(order, layer);
    touch(order, ACTIVATIONS + 1);
    touch(order, CACHE + layer / 4);
  }
}

static void a_decode_loop(void) {
  struct gb_order *order = gb_order_create();
  for (uint32_t step = 0; step < 3; step++) decode(order, 64);
  round_begin();
  for (uint32_t step = 0; step < 20; step++) {
    const uint64_t rounds = gb_order_rounds(order);
    decode(order, 64);
    CHECK_EQUAL(gb_order_rounds(order), rounds + 1);
  }
  CHECK_EQUAL(hits_of_round, touches_of_round);
  CHECK_EQUAL(gb_order_hit_percent(order), 100);
  CHECK_EQUAL(gb_order_cycle(order), 4 * 64);
  CHECK_EQUAL(gb_order_distance(order, 0), 1);
  CHECK_EQUAL(gb_order_distance(order, 63), 1 + 63 * 4);
  CHECK_EQUAL(gb_order_distance(order, ACTIVATIONS), 0);
  CHECK_EQUAL(gb_order_distance(order, 4000), GB_ORDER_NEVER);
  uint32_t next[200];
  CHECK_EQUAL(gb_order_next(order, next, 200), 64 + 2 + 16);
  CHECK(next[0] == ACTIVATIONS && next[1] == 0 && next[2] == ACTIVATIONS + 1 && next[3] == CACHE);
  gb_order_destroy(order);
}

/* A prefill touches the weights with other activations; decode steps follow, then another. */
static void a_prefill_between(void) {
  struct gb_order *order = gb_order_create();
  for (uint32_t request = 0; request < 4; request++) {
    for (uint32_t layer = 0; layer < 48; layer++) {
      touch(order, ACTIVATIONS + 100);
      touch(order, layer);
      touch(order, ACTIVATIONS + 101 + layer % 3);
    }
    for (uint32_t step = 0; step < 6; step++) {
      round_begin();
      decode(order, 48);
      if (step >= 2) CHECK_EQUAL(hits_of_round, touches_of_round);
      if (request >= 1) CHECK(hits_of_round + 6 >= touches_of_round);
    }
    CHECK_EQUAL(gb_order_cycle(order), 4 * 48);
  }
  gb_order_destroy(order);
}

/* Forward, backward, optimizer: every weight comes three times, in two directions. */
static void a_training_loop(void) {
  struct gb_order *order = gb_order_create();
  for (uint32_t step = 0; step < 12; step++) {
    round_begin();
    for (uint32_t layer = 0; layer < 100; layer++) touch(order, layer), touch(order, 1000 + layer);
    for (uint32_t layer = 100; layer-- > 0;) touch(order, 1000 + layer), touch(order, layer);
    for (uint32_t layer = 0; layer < 100; layer++) touch(order, layer), touch(order, 2000 + layer);
    if (step >= 3) CHECK_EQUAL(hits_of_round, touches_of_round);
    if (step == 1) CHECK(hits_of_round + 10 >= touches_of_round);
  }
  /* The last activation forward is the first one backward, and layer 0 ends one part and begins
   * the next: touched again at once, which is one touch. */
  CHECK_EQUAL(gb_order_cycle(order), 600 - 2);
  gb_order_destroy(order);
}

/* Accumulated gradients: forward and backward four times for one optimizer step. */
static void a_nested_loop(void) {
  struct gb_order *order = gb_order_create();
  for (uint32_t step = 0; step < 10; step++) {
    round_begin();
    for (uint32_t part = 0; part < 4; part++) {
      for (uint32_t layer = 0; layer < 60; layer++) touch(order, layer);
      for (uint32_t layer = 59; layer-- > 1;) touch(order, layer);
    }
    for (uint32_t state = 0; state < 60; state++) touch(order, 3000 + state);
    if (step >= 3) CHECK_EQUAL(hits_of_round, touches_of_round);
  }
  CHECK_EQUAL(gb_order_cycle(order), 4 * (60 + 58) + 60);
  gb_order_destroy(order);
}

/* A loop with something else in every round: caches that grow, allocations that come and go. */
static void a_loop_with_noise(void) {
  uint64_t random = 5;
  struct gb_order *order = gb_order_create();
  uint32_t fresh = 10000;
  for (uint32_t step = 0; step < 60; step++) {
    round_begin();
    const uint64_t rounds = gb_order_rounds(order);
    for (uint32_t layer = 0; layer < 80; layer++) {
      touch(order, layer);
      touch(order, ACTIVATIONS + layer % 3);
      const uint64_t dice = check_random(&random) % 100;
      if (dice < 2) touch(order, fresh++);
      else if (dice < 4) touch(order, ACTIVATIONS + 3 + (uint32_t)(check_random(&random) % 5));
    }
    if (step >= 5) {
      CHECK(hits_of_round * 100 >= touches_of_round * 85);
      CHECK(gb_order_cycle(order) >= 150 && gb_order_cycle(order) <= 180);
      CHECK_EQUAL(gb_order_rounds(order), rounds + 1);
    }
  }
  gb_order_destroy(order);
}

static void random_is_not_predicted(void) {
  uint64_t random = 9;
  struct gb_order *order = gb_order_create();
  for (uint32_t i = 0; i < 100000; i++) {
    gb_order_touch(order, (uint32_t)(check_random(&random) % 200));
    CHECK(gb_order_cycle(order) == 0);
  }
  CHECK(gb_order_hit_percent(order) <= 5);
  gb_order_destroy(order);
}

/* Units that go (a model unloaded) are never named again; a number given anew starts afresh. */
static void forgotten_units(void) {
  struct gb_order *order = gb_order_create();
  for (uint32_t step = 0; step < 5; step++) decode(order, 40);
  for (uint32_t layer = 0; layer < 40; layer += 2) gb_order_forget(order, layer);
  uint32_t next[200];
  const uint32_t count = gb_order_next(order, next, 200);
  CHECK_EQUAL(count, 20 + 2 + 10);
  for (uint32_t i = 0; i < count; i++) CHECK(next[i] >= 40 || next[i] % 2 == 1);
  CHECK_EQUAL(gb_order_distance(order, 0), GB_ORDER_NEVER);
  for (uint32_t step = 0; step < 3; step++) decode(order, 40);
  round_begin();
  decode(order, 40);
  CHECK_EQUAL(hits_of_round, touches_of_round);
  for (uint32_t unit = 0; unit < 8000; unit++) gb_order_forget(order, unit);
  CHECK_EQUAL(gb_order_next(order, next, 200), 0);
  gb_order_destroy(order);
}

static void the_edges(void) {
  struct gb_order *order = gb_order_create();
  uint32_t next;
  CHECK_EQUAL(gb_order_next(order, &next, 1), 0);
  CHECK_EQUAL(gb_order_distance(order, 3), GB_ORDER_NEVER);
  CHECK_EQUAL(gb_order_hit_percent(order), 0);
  gb_order_forget(order, 3);
  gb_order_forget(order, UINT32_MAX);
  gb_order_touch(order, GB_ORDER_UNITS_MAX);
  CHECK_EQUAL(gb_order_distance(order, GB_ORDER_UNITS_MAX), GB_ORDER_NEVER);
  for (uint32_t i = 0; i < 100; i++) gb_order_touch(order, GB_ORDER_UNITS_MAX - 1);
  CHECK_EQUAL(gb_order_next(order, &next, 1), 0);
  for (uint32_t i = 0; i < 100; i++) gb_order_touch(order, i % 2);
  CHECK_EQUAL(gb_order_cycle(order), 2);
  CHECK_EQUAL(gb_order_distance(order, 0), 0);
  CHECK_EQUAL(gb_order_distance(order, 1), 1);
  gb_order_destroy(order);
}

/* A loop longer than what is remembered is not one. */
static void a_loop_too_long(void) {
  struct gb_order *order = gb_order_create();
  for (uint32_t i = 0; i < 3 * GB_ORDER_UNITS_MAX; i++) gb_order_touch(order, i % 70000);
  CHECK_EQUAL(gb_order_cycle(order), 0);
  gb_order_destroy(order);
}

int main(int count, char **arguments) {
  if (count > 1) extra_seed = strtoull(arguments[1], NULL, 0);
  RUN(the_edges);
  RUN(model_small);
  RUN(model_large);
  RUN(model_wraps);
  RUN(a_decode_loop);
  RUN(a_prefill_between);
  RUN(a_training_loop);
  RUN(a_nested_loop);
  RUN(a_loop_with_noise);
  RUN(random_is_not_predicted);
  RUN(forgotten_units);
  RUN(a_loop_too_long);
  return check_done();
}
