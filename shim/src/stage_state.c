/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stage_state.c: whether to stage, decided by what was measured.
 *
 *   off -> learning            something overflows
 *   learning -> on             the order repeats and a round was timed in place
 *   on -> learning             the order is lost
 *   on -> in place             rounds with staging are slower than those without, or it is not known how long those are
 *   in place -> on             they are slower without: what they were compared with was another phase's
 *   in place -> learning       after a while, each time twice as long
 *   any -> off                 nothing overflows any more
 */
#include <stdatomic.h>

#include "config.h"
#include "lock.h"
#include "stage.h"

/* Rounds that are timed in each way; the best of them counts. */
#define ROUNDS_IN_PLACE 1u
#define ROUNDS_WARM_UP 2u
#define ROUNDS_STAGED 4u
/* Rounds in place after which staging's are looked at again: the first still finds frames filled. Once is enough for
 * what takes so many times as long. */
#define ROUNDS_BACK 2u
#define FAR_SLOWER 3u
/* Staged rounds after which a loop that was never timed in place is: it may have changed its shape with staging (graphs
 * are split). */
#define ROUNDS_UNTRIED 16u
/* Staging may be this much slower (in 1000) before it is given up: noise, and what it saves elsewhere. */
#define TOLERANCE 1040u
#define HITS_MIN 50u
#define RETRY_ROUNDS_MAX 4096u
/* A loop shorter than this is part of a longer one. */
#define ROUND_NS_MIN 1000000ull

static _Atomic uint32_t state;
static _Atomic uint32_t order_percent;
static struct {
  uint64_t rounds;       /* of the order, at the last step */
  uint64_t round_began;  /* ns */
  uint32_t cycle;        /* the cycle the figures below belong to */
  uint64_t in_place_ns;  /* best round, 0: none */
  uint64_t staged_ns;
  uint32_t in_state;     /* rounds completed in this state */
  uint32_t retry_rounds; /* how long to stay in place */
} timing;

uint32_t gb_stage_state(void) {
  return atomic_load_explicit(&state, memory_order_relaxed);
}

uint32_t gb_stage_order_percent(void) {
  return atomic_load_explicit(&order_percent, memory_order_relaxed);
}

static void enter(enum gb_staging next) {
  static const char *const words[] = {"off", "learning", "on", "in place", "unsupported"};
  if (state == (uint32_t)next) return;
  gb_log(GB_LOG_INFO, "staging: %s -> %s (in place %llu us, staged %llu us a round)", words[state],
         words[next], (unsigned long long)(timing.in_place_ns / 1000),
         (unsigned long long)(timing.staged_ns / 1000));
  state = (uint32_t)next;
  timing.in_state = 0;
}

void gb_stage_set_unsupported(void) {
  enter(GB_STAGING_UNSUPPORTED);
}

void gb_stage_set_overflow(bool overflow) {
  if (state == GB_STAGING_UNSUPPORTED) return;
  if (!overflow)
    enter(GB_STAGING_OFF);
  else if (state == GB_STAGING_OFF)
    enter(GB_STAGING_LEARNING);
}

static void note_best(uint64_t *best, uint64_t ns) {
  if (*best == 0 || ns < *best) *best = ns;
}

/* A round has ended. */
static void judge(uint64_t ns) {
  timing.in_state++;
  switch ((enum gb_staging)state) {
    case GB_STAGING_LEARNING:
      note_best(&timing.in_place_ns, ns);
      if (timing.in_state >= ROUNDS_IN_PLACE) enter(GB_STAGING_ON);
      break;
    case GB_STAGING_ON:
      if (timing.in_state <= ROUNDS_WARM_UP) break;
      note_best(&timing.staged_ns, ns);
      if (timing.in_state < ROUNDS_WARM_UP + ROUNDS_STAGED) break;
      if (timing.in_place_ns == 0 ? timing.in_state >= ROUNDS_UNTRIED
                                  : timing.staged_ns * 1000 > timing.in_place_ns * TOLERANCE) {
        timing.retry_rounds = timing.retry_rounds == 0 ? 64 : 2 * timing.retry_rounds;
        if (timing.retry_rounds > RETRY_ROUNDS_MAX) timing.retry_rounds = RETRY_ROUNDS_MAX;
        enter(GB_STAGING_IN_PLACE);
        timing.in_place_ns = 0;
      }
      break;
    case GB_STAGING_IN_PLACE:
      note_best(&timing.in_place_ns, ns);
      if ((timing.in_state == ROUNDS_BACK && timing.in_place_ns * 1000 > timing.staged_ns * TOLERANCE) ||
          (timing.in_state < ROUNDS_BACK && timing.in_place_ns > FAR_SLOWER * timing.staged_ns)) {
        timing.retry_rounds /= 2;
        enter(GB_STAGING_ON);
        timing.staged_ns = 0;
        break;
      }
      if (timing.in_state < timing.retry_rounds) break;
      timing.in_place_ns = timing.staged_ns = 0;
      enter(GB_STAGING_LEARNING);
      break;
    default: break;
  }
}

void gb_stage_step(uint64_t now, uint32_t hits, uint32_t cycle, uint64_t rounds) {
  bool always = gb_config()->staging == GB_STAGING_ALWAYS;
  order_percent = hits;
  if (always && state == GB_STAGING_LEARNING && (cycle > 0 || hits >= HITS_MIN))
    enter(GB_STAGING_ON);
  if (state == GB_STAGING_ON && hits < HITS_MIN / 2 && cycle == 0) enter(GB_STAGING_LEARNING);
  if (rounds == timing.rounds) return;
  bool whole = cycle > 0 && rounds == timing.rounds + 1 && timing.round_began != 0;
  uint64_t ns = now - timing.round_began;
  timing.rounds = rounds;
  timing.round_began = now;
  if (cycle > timing.cycle + timing.cycle / 8 || cycle + cycle / 8 < timing.cycle) {
    /* Another loop of the program: what was measured belongs to the one before. */
    timing.cycle = cycle;
    timing.in_place_ns = timing.staged_ns = 0;
    timing.in_state = 0;
    return;
  }
  if (whole && ns >= ROUND_NS_MIN && !always) judge(ns);
}
