/* SPDX-License-Identifier: Apache-2.0 */
/*
 * call_test.c: calls to what is behind a region: sizes, order, the window, cancelled and late ones, answers from other
 * threads, refusals.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "callee.h"

#define ANY 0xffffffffu

/* ---- what works ---- */

static void sizes_and_priorities(void) {
  static const uint32_t sizes[] = {1,     8,      63,     64,     65,     4096,  65535,      65536,
                                   65537, 262143, 262144, 262145, 300001, 999999, RECORD - 1, RECORD};
  static uint8_t body[RECORD], answer[RECORD + 1];
  for (uint32_t express = 0; express < 2; express++) {
    struct gb_lane_ticket ticket = callee_grant(3, 0);
    gb_lane *lane = callee_lane(&ticket, (struct gb_lane_options){.connections = 3, .no_express = express == 0});
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
      for (uint32_t priority = GB_LANE_DEMAND; priority <= GB_LANE_BACKGROUND; priority++) {
        uint64_t came = ANY;
        const struct gb_lane_call call = {.size = sizeof call,
                                          .region = REGION,
                                          .priority = priority,
                                          .body = body,
                                          .body_bytes = sizes[i],
                                          .result = answer,
                                          .result_room = sizes[i],
                                          .result_bytes = &came};
        fill_pattern(body, i * 3 + priority, 0, sizes[i]);
        memset(answer, 0xee, sizeof answer);
        CHECK_EQUAL(call_whole(lane, &call), GB_LANE_OK);
        CHECK_EQUAL(came, sizes[i]);
        CHECK(is_answer(answer, body, sizes[i]));
        CHECK_EQUAL(answer[sizes[i]], 0xee);
      }
    }
    struct gb_lane_counters here, there;
    gb_lane_counters(lane, &here);
    CHECK_EQUAL(here.bytes_read, here.bytes_written);
    CHECK_EQUAL(here.requests, 3 * sizeof sizes / sizeof sizes[0]);
    CHECK_EQUAL(gb_lane_grant_counters(callee_server(), ticket.id, &there), GB_LANE_OK);
    CHECK_EQUAL(there.bytes_read, here.bytes_written);
    CHECK_EQUAL(there.requests, here.requests);
    CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
  }
}

/* Numbers of calls in the order in which they came; answers whatever comes. */
static void take_numbers(uint32_t *numbers, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) {
    const struct held held = callee_take();
    numbers[i] = ANY;
    if (held.called == NULL) return;
    memcpy(&numbers[i], held.body, sizeof numbers[i]);
    callee_answer(&held);
  }
}

/* Small and large ones of one priority, more than a window of them, from several connections' lane. */
static void they_arrive_in_order(void) {
  enum { COUNT = 300 };
  static uint8_t bodies[COUNT][70000];
  static uint32_t numbers[COUNT];
  uint64_t ids[COUNT];
  for (uint32_t express = 0; express < 2; express++) {
    for (uint32_t priority = GB_LANE_DEMAND; priority <= GB_LANE_BACKGROUND; priority++) {
      struct gb_lane_ticket ticket = callee_grant(4, 0);
      gb_lane *lane = callee_lane(&ticket, (struct gb_lane_options){.connections = 4, .no_express = express == 0});
      callee_hold(true);
      for (uint32_t i = 0; i < COUNT; i++) {
        memcpy(bodies[i], &i, sizeof i);
        uint64_t bytes = i % 3 == 0 ? sizeof bodies[i] : 4 + i;
        CHECK_EQUAL(start_call(lane, bodies[i], bytes, priority, &ids[i]), GB_LANE_OK);
      }
      take_numbers(numbers, COUNT);
      for (uint32_t i = 0; i < COUNT; i++) {
        CHECK_EQUAL(numbers[i], i);
        CHECK_EQUAL(gb_lane_wait(lane, ids[i], 5000), GB_LANE_LIMIT); /* its answer has no room, and went nowhere */
      }
      CHECK_EQUAL(gb_lane_state(lane), GB_LANE_OK);
      CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
      callee_hold(false);
    }
  }
}

static void answers_come_in_any_order_and_may_be_empty(void) {
  struct gb_lane_ticket ticket = callee_grant(1, 0);
  gb_lane *lane = callee_lane(&ticket, (struct gb_lane_options){0});
  struct held held[8];
  uint64_t ids[8], came[8];
  uint8_t answers[8][4];
  callee_hold(true);
  for (uint32_t i = 0; i < 8; i++) {
    came[i] = ANY;
    const struct gb_lane_call call = {.size = sizeof call,
                                      .region = REGION,
                                      .body = &i,
                                      .body_bytes = sizeof i,
                                      .result = answers[i],
                                      .result_room = sizeof answers[i],
                                      .result_bytes = &came[i]};
    REQUIRE(gb_lane_call(lane, &call, &ids[i]) == GB_LANE_OK);
    held[i] = callee_take();
    REQUIRE(held[i].called != NULL);
  }
  for (uint32_t i = 8; i-- > 0;) {
    CHECK_EQUAL(gb_lane_wait(lane, ids[i], 0), GB_LANE_TIMEOUT);
    free(held[i].body);
    uint8_t *result = i % 2 == 0 ? malloc(i % 4 + 1) : NULL;
    if (result != NULL) memset(result, (int)i, i % 4 + 1);
    gb_lane_answer(held[i].called, GB_LANE_OK, result, result != NULL ? i % 4 + 1 : 0);
    CHECK_EQUAL(gb_lane_wait(lane, ids[i], 2000), GB_LANE_OK);
    CHECK_EQUAL(came[i], i % 2 == 0 ? i % 4 + 1 : 0);
    if (i % 2 == 0) CHECK_EQUAL(answers[i][i % 4], i);
  }
  CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
  callee_hold(false);
}

static void the_window_bounds_them(void) {
  enum { COUNT = 20, WINDOW = 5 };
  struct gb_lane_ticket ticket = callee_grant(1, WINDOW);
  gb_lane *lane = callee_lane(&ticket, (struct gb_lane_options){0});
  uint64_t ids[COUNT];
  uint32_t body = 0;
  callee_hold(true);
  uint32_t before = callee_calls();
  for (uint32_t i = 0; i < COUNT; i++)
    CHECK_EQUAL(start_call(lane, &body, sizeof body, GB_LANE_DEMAND, &ids[i]), GB_LANE_OK);
  callee_wait(WINDOW);
  sleep_ms(50);
  CHECK_EQUAL(callee_calls() - before, WINDOW);
  uint64_t nanoseconds;
  CHECK_EQUAL(gb_lane_ping(lane, 1000, &nanoseconds), GB_LANE_OK); /* the lane goes on */
  struct held held = callee_take();
  callee_answer(&held);
  callee_wait(WINDOW);
  CHECK_EQUAL(callee_calls() - before, WINDOW + 1);
  for (uint32_t done = 1; done < COUNT;) done += callee_answer_all();
  for (uint32_t i = 0; i < COUNT; i++) CHECK_EQUAL(gb_lane_wait(lane, ids[i], 2000), GB_LANE_LIMIT);
  CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
  callee_hold(false);
}

/* ---- early ends ---- */

static void cancelled_ones_end_at_once_and_their_answers_are_dropped(void) {
  struct gb_lane_ticket ticket = callee_grant(1, 0);
  gb_lane *lane = callee_lane(&ticket, (struct gb_lane_options){0});
  uint64_t ids[3];
  struct held held[3];
  uint8_t body[3] = {1, 2, 3};
  callee_hold(true);
  for (uint32_t i = 0; i < 3; i++) {
    REQUIRE(start_call(lane, &body[i], 1, GB_LANE_DEMAND, &ids[i]) == GB_LANE_OK);
    held[i] = callee_take();
    REQUIRE(held[i].called != NULL);
  }
  CHECK_EQUAL(gb_lane_cancel(lane, ids[1]), GB_LANE_OK);
  CHECK_EQUAL(gb_lane_wait(lane, ids[1], 200), GB_LANE_CANCELED);
  struct gb_lane_counters counters = {0};
  for (uint64_t until = now_ms() + 2000; counters.requests_canceled == 0 && now_ms() < until; sleep_ms(1))
    gb_lane_grant_counters(callee_server(), ticket.id, &counters);
  CHECK_EQUAL(counters.requests_canceled, 1); /* while the callee has it still */
  callee_answer(&held[1]); /* nobody waits for it */
  free(held[0].body);
  free(held[2].body);
  gb_lane_answer(held[2].called, GB_LANE_OK, NULL, 0);
  gb_lane_answer(held[0].called, GB_LANE_OK, NULL, 0);
  CHECK_EQUAL(gb_lane_wait(lane, ids[0], 2000), GB_LANE_OK);
  CHECK_EQUAL(gb_lane_wait(lane, ids[2], 2000), GB_LANE_OK);
  gb_lane_counters(lane, &counters);
  CHECK_EQUAL(counters.requests_canceled, 1);
  CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
  callee_hold(false);
}

static void a_deadline_ends_them(void) {
  struct gb_lane_ticket ticket = callee_grant(1, 0);
  gb_lane *lane = callee_lane(&ticket, (struct gb_lane_options){0});
  uint8_t body = 1, answer = 0;
  struct gb_lane_call call = {.size = sizeof call,
                              .region = REGION,
                              .deadline_ms = 100,
                              .body = &body,
                              .body_bytes = 1,
                              .result = &answer,
                              .result_room = 1};
  callee_hold(true);
  uint64_t start = now_ms();
  CHECK_EQUAL(call_whole(lane, &call), GB_LANE_DEADLINE);
  CHECK(now_ms() - start >= 99 && now_ms() - start < 1000);
  struct held held = callee_take();
  REQUIRE(held.called != NULL);
  callee_answer(&held);
  callee_hold(false);
  CHECK_EQUAL(call_whole(lane, &call), GB_LANE_OK);
  CHECK_EQUAL(answer, 1 ^ 0x5a);
  CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
}

/* Who cancels and calls again cannot make the callee hold more than the limit. */
static void a_callee_that_never_answers_is_not_given_more_than_the_limit(void) {
  struct gb_lane_ticket ticket = callee_grant(1, 0);
  gb_lane *lane = callee_lane(&ticket, (struct gb_lane_options){0});
  uint8_t body = 1;
  uint64_t id;
  callee_hold(true);
  uint32_t before = callee_calls();
  for (uint32_t i = 0; i < GB_LANE_CALLS_MAX; i++) {
    REQUIRE(start_call(lane, &body, 1, GB_LANE_DEMAND, &id) == GB_LANE_OK);
    callee_wait(i + 1);
    CHECK_EQUAL(gb_lane_cancel(lane, id), GB_LANE_OK);
    CHECK_EQUAL(gb_lane_wait(lane, id, 1000), GB_LANE_CANCELED);
  }
  CHECK_EQUAL(start_call(lane, &body, 1, GB_LANE_DEMAND, &id), GB_LANE_OK);
  CHECK_EQUAL(gb_lane_wait(lane, id, 2000), GB_LANE_LIMIT);
  CHECK_EQUAL(callee_calls() - before, GB_LANE_CALLS_MAX);
  CHECK_EQUAL(callee_answer_all(), GB_LANE_CALLS_MAX);
  callee_hold(false);
  uint8_t answer;
  const struct gb_lane_call again = {.size = sizeof again,
                                     .region = REGION,
                                     .body = &body,
                                     .body_bytes = 1,
                                     .result = &answer,
                                     .result_room = 1};
  CHECK_EQUAL(call_whole(lane, &again), GB_LANE_OK);
  CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
}

/* ---- refusals ---- */

static void what_is_not_allowed_is_refused(void) {
  struct gb_lane_ticket ticket = callee_grant(1, 0);
  static uint8_t memory[4096];
  struct gb_lane_region plain = {
      .size = sizeof plain, .id = 3, .rights = GB_LANE_MAY_READ | GB_LANE_MAY_WRITE, .bytes = 4096, .base = memory};
  CHECK_EQUAL(gb_lane_export(callee_server(), ticket.id, &plain), GB_LANE_OK);
  plain.id = 4;
  plain.rights |= GB_LANE_MAY_CALL; /* with nobody behind it */
  CHECK_EQUAL(gb_lane_export(callee_server(), ticket.id, &plain), GB_LANE_OK);
  plain.rights = 8;
  CHECK_EQUAL(gb_lane_export(callee_server(), ticket.id, &plain), GB_LANE_INVALID);
  CHECK_EQUAL(callee_export(&ticket, 5, GB_LANE_MAY_READ | GB_LANE_MAY_CALL), GB_LANE_INVALID); /* no bytes to read */
  gb_lane *lane = callee_lane(&ticket, (struct gb_lane_options){0});
  uint32_t before = callee_calls();
  struct gb_lane_call call = {.size = sizeof call, .region = 3, .body = memory, .body_bytes = 64};
  CHECK_EQUAL(call_whole(lane, &call), GB_LANE_DENIED);
  call.region = 4;
  CHECK_EQUAL(call_whole(lane, &call), GB_LANE_INVALID);
  call.region = 6;
  CHECK_EQUAL(call_whole(lane, &call), GB_LANE_NOT_FOUND);
  call.region = REGION;
  uint8_t byte;
  CHECK_EQUAL(gb_lane_read(lane, REGION, 0, &byte, 1, GB_LANE_DEMAND, 0), GB_LANE_DENIED);
  CHECK_EQUAL(gb_lane_write(lane, REGION, 0, &byte, 1, GB_LANE_DEMAND, 0), GB_LANE_DENIED);
  const struct gb_lane_call wrong[] = {
      {.size = sizeof call, .region = REGION, .body_bytes = 1},
      {.size = sizeof call, .region = REGION, .body = memory},
      {.size = sizeof call, .region = REGION, .body = memory, .body_bytes = RECORD + 1},
      {.size = sizeof call, .region = REGION, .body = memory, .body_bytes = 1, .result_room = 1},
      {.size = sizeof call, .region = REGION, .body = memory, .body_bytes = 1, .priority = 3},
      {.size = sizeof call + 1, .region = REGION, .body = memory, .body_bytes = 1},
  };
  uint64_t id;
  for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
    CHECK_EQUAL(gb_lane_call(lane, &wrong[i], &id), GB_LANE_INVALID);
  CHECK_EQUAL(gb_lane_call(NULL, &call, &id), GB_LANE_INVALID);
  CHECK_EQUAL(gb_lane_call(lane, &call, NULL), GB_LANE_INVALID);
  CHECK_EQUAL(callee_calls(), before);
  CHECK_EQUAL(gb_lane_state(lane), GB_LANE_OK);
  CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
  CHECK_EQUAL(gb_lane_call(NULL, NULL, NULL), GB_LANE_INVALID);
}

static void what_the_callee_answers_instead_is_told(void) {
  struct gb_lane_ticket ticket = callee_grant(1, 0);
  gb_lane *lane = callee_lane(&ticket, (struct gb_lane_options){0});
  static const struct {
    int status, told;
    uint64_t bytes;
  } rows[] = {
      {GB_LANE_IO, GB_LANE_IO, 4},       {GB_LANE_DENIED, GB_LANE_DENIED, 0}, {GB_LANE_PENDING, GB_LANE_IO, 0},
      {-1, GB_LANE_IO, 4},               {GB_LANE_OK, GB_LANE_LIMIT, 5},      {GB_LANE_OK, GB_LANE_LIMIT, RECORD + 1},
      {GB_LANE_OK, GB_LANE_OK, 4},
  };
  uint8_t body = 1, answer[4];
  uint64_t id;
  const struct gb_lane_call call = {.size = sizeof call,
                                    .region = REGION,
                                    .body = &body,
                                    .body_bytes = 1,
                                    .result = answer,
                                    .result_room = sizeof answer};
  callee_hold(true);
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    REQUIRE(gb_lane_call(lane, &call, &id) == GB_LANE_OK);
    const struct held held = callee_take();
    REQUIRE(held.called != NULL);
    free(held.body);
    gb_lane_answer(held.called, rows[i].status, rows[i].bytes > 0 ? calloc(1, rows[i].bytes) : NULL, rows[i].bytes);
    CHECK_EQUAL(gb_lane_wait(lane, id, 2000), rows[i].told);
  }
  REQUIRE(gb_lane_call(lane, &call, &id) == GB_LANE_OK);
  const struct held held = callee_take();
  REQUIRE(held.called != NULL);
  free(held.body);
  gb_lane_answer(held.called, GB_LANE_OK, NULL, 4); /* of nothing */
  CHECK_EQUAL(gb_lane_wait(lane, id, 2000), GB_LANE_IO);
  CHECK_EQUAL(gb_lane_state(lane), GB_LANE_OK);
  CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
  callee_hold(false);
}

/* ---- many at once ---- */

enum { CALLERS = 4, CALLS_EACH = 200, ANSWERERS = 3 };

struct caller {
  gb_lane *lane;
  uint32_t index, wrong;
};

/* Calls of any size and priority, a few at once; some are cancelled. */
static void *call_often(void *argument) {
  struct caller *caller = argument;
  static uint8_t bodies[CALLERS][4][100000], answers[CALLERS][4][100000];
  uint64_t state = caller->index, ids[4], bytes[4], came[4];
  for (uint32_t round = 0; round < CALLS_EACH / 4; round++) {
    for (uint32_t k = 0; k < 4; k++) {
      uint64_t dice = random_next(&state);
      bytes[k] = 1 + dice % (dice % 5 == 0 ? sizeof bodies[0][0] : 500);
      fill_pattern(bodies[caller->index][k], dice, 0, bytes[k]);
      const struct gb_lane_call call = {.size = sizeof call,
                                        .region = REGION,
                                        .priority = dice >> 40 & 1,
                                        .body = bodies[caller->index][k],
                                        .body_bytes = bytes[k],
                                        .result = answers[caller->index][k],
                                        .result_room = bytes[k],
                                        .result_bytes = &came[k]};
      caller->wrong += gb_lane_call(caller->lane, &call, &ids[k]) != GB_LANE_OK;
    }
    bool cancels = random_next(&state) % 8 == 0;
    if (cancels) gb_lane_cancel(caller->lane, ids[1]);
    for (uint32_t k = 0; k < 4; k++) {
      int status = gb_lane_wait(caller->lane, ids[k], 20000);
      bool right = status == GB_LANE_OK && came[k] == bytes[k] &&
                   is_answer(answers[caller->index][k], bodies[caller->index][k], bytes[k]);
      caller->wrong += !right && !(cancels && k == 1 && status == GB_LANE_CANCELED);
    }
  }
  return NULL;
}

static _Atomic bool answering;

static void *answer_often(void *argument) {
  (void)argument;
  while (answering) {
    const struct held held = callee_take_within(50);
    if (held.called != NULL) callee_answer(&held);
  }
  return NULL;
}

static void call_from_many_threads(uint32_t window) {
  struct gb_lane_ticket ticket = callee_grant(2, window);
  gb_lane *lane = callee_lane(&ticket, (struct gb_lane_options){.connections = 2});
  struct caller callers[CALLERS];
  pthread_t calling[CALLERS], answerers[ANSWERERS];
  callee_hold(true);
  answering = true;
  for (uint32_t i = 0; i < ANSWERERS; i++) pthread_create(&answerers[i], NULL, answer_often, NULL);
  for (uint32_t i = 0; i < CALLERS; i++) {
    callers[i] = (struct caller){.lane = lane, .index = i};
    pthread_create(&calling[i], NULL, call_often, &callers[i]);
  }
  for (uint32_t i = 0; i < CALLERS; i++) {
    pthread_join(calling[i], NULL);
    CHECK_EQUAL(callers[i].wrong, 0);
  }
  answering = false;
  for (uint32_t i = 0; i < ANSWERERS; i++) pthread_join(answerers[i], NULL);
  callee_answer_all();
  CHECK_EQUAL(gb_lane_state(lane), GB_LANE_OK);
  CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
  callee_hold(false);
}

/* With a narrow window each answer makes room for a call at once, whoever has sent it. */
static void many_threads_call_and_many_answer(void) {
  call_from_many_threads(0);
  call_from_many_threads(1);
  call_from_many_threads(3);
}

/* A limit delays bodies and answers, and nothing is lost. */
static void a_limited_rate_holds_for_them(void) {
  struct gb_lane_ticket ticket = callee_grant(1, 0);
  gb_lane *lane = callee_lane(&ticket, (struct gb_lane_options){0});
  static uint8_t body[RECORD], answer[RECORD];
  const struct gb_lane_call call = {.size = sizeof call,
                                    .region = REGION,
                                    .priority = GB_LANE_NORMAL,
                                    .body = body,
                                    .body_bytes = sizeof body,
                                    .result = answer,
                                    .result_room = sizeof answer};
  CHECK_EQUAL(gb_lane_grant_rate(callee_server(), ticket.id, 8 * MIB), GB_LANE_OK);
  uint64_t start = now_ms();
  for (uint32_t i = 0; i < 3; i++) {
    fill_pattern(body, i, 0, sizeof body);
    CHECK_EQUAL(call_whole(lane, &call), GB_LANE_OK);
    CHECK(is_answer(answer, body, sizeof body));
  }
  CHECK(now_ms() - start >= 300); /* three times 125 ms for the body; the last answer is owed */
  CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
}

int main(void) {
  if (!lane_crypt_ready()) return 3;
  int descriptors = open_descriptors();
  callee_open();
  RUN(sizes_and_priorities);
  RUN(they_arrive_in_order);
  RUN(answers_come_in_any_order_and_may_be_empty);
  RUN(the_window_bounds_them);
  RUN(cancelled_ones_end_at_once_and_their_answers_are_dropped);
  RUN(a_deadline_ends_them);
  RUN(a_callee_that_never_answers_is_not_given_more_than_the_limit);
  RUN(what_is_not_allowed_is_refused);
  RUN(what_the_callee_answers_instead_is_told);
  RUN(many_threads_call_and_many_answer);
  RUN(a_limited_rate_holds_for_them);
  RUN(nothing_is_left);
  CHECK_EQUAL(open_descriptors(), descriptors);
  return check_done();
}
