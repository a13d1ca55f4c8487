/* SPDX-License-Identifier: Apache-2.0 */
/*
 * callee.c: see callee.h.
 */
#include "callee.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#define HELD_MAX 512u

static struct {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  bool holds;
  struct held held[HELD_MAX]; /* in the order of arrival */
  uint32_t first, count;
  _Atomic uint32_t calls;
} callee = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static gb_lane_server *server;

/* ---- the callee ---- */

void callee_answer(const struct held *held) {
  for (uint64_t i = 0; i < held->bytes; i++) held->body[i] ^= 0x5a;
  gb_lane_answer(held->called, GB_LANE_OK, held->body, held->bytes);
}

bool is_answer(const uint8_t *answer, const uint8_t *body, uint64_t bytes) {
  for (uint64_t i = 0; i < bytes; i++) {
    if (answer[i] != (body[i] ^ 0x5a)) return false;
  }
  return true;
}

static void on_call(void *context, struct gb_lane_called *called, uint8_t *body, uint64_t bytes) {
  struct held held = {called, body, bytes};
  if (context != &callee) abort();
  pthread_mutex_lock(&callee.lock);
  bool holds = callee.holds;
  if (holds && callee.count == HELD_MAX) abort();
  if (holds) callee.held[(callee.first + callee.count++) % HELD_MAX] = held;
  callee.calls++;
  pthread_cond_broadcast(&callee.changed);
  pthread_mutex_unlock(&callee.lock);
  if (!holds) callee_answer(&held);
}

static const struct gb_lane_backing backing = {.call = on_call};

void callee_hold(bool holds) {
  pthread_mutex_lock(&callee.lock);
  callee.holds = holds;
  pthread_mutex_unlock(&callee.lock);
}

uint32_t callee_calls(void) {
  return callee.calls;
}

uint32_t callee_held(void) {
  pthread_mutex_lock(&callee.lock);
  uint32_t count = callee.count;
  pthread_mutex_unlock(&callee.lock);
  return count;
}

/* Waits until there are `count`. locks: the callee's lock is held. */
static void wait_for(uint32_t count, uint32_t timeout_ms) {
  struct timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec += timeout_ms / 1000;
  until.tv_nsec += timeout_ms % 1000 * 1000000l;
  if (until.tv_nsec >= 1000000000l) until.tv_sec++, until.tv_nsec -= 1000000000l;
  while (callee.count < count && pthread_cond_timedwait(&callee.changed, &callee.lock, &until) == 0) continue;
}

void callee_wait(uint32_t count) {
  pthread_mutex_lock(&callee.lock);
  wait_for(count, 4000);
  pthread_mutex_unlock(&callee.lock);
}

struct held callee_take_within(uint32_t timeout_ms) {
  struct held held = {0};
  pthread_mutex_lock(&callee.lock);
  wait_for(1, timeout_ms);
  if (callee.count > 0) {
    held = callee.held[callee.first++ % HELD_MAX];
    callee.count--;
  }
  pthread_mutex_unlock(&callee.lock);
  return held;
}

struct held callee_take(void) {
  return callee_take_within(4000);
}

uint32_t callee_answer_all(void) {
  uint32_t answered = 0;
  for (struct held held; (held = callee_take_within(0)).called != NULL; answered++) callee_answer(&held);
  return answered;
}

/* ---- server and lanes ---- */

void callee_open(void) {
  const struct gb_lane_server_options options = {.size = sizeof options, .fd = -1, .address = "127.0.0.1"};
  if (gb_lane_server_open(&options, &server) != GB_LANE_OK) abort();
}

int callee_close(void) {
  return gb_lane_server_close(server);
}

void nothing_is_left(void) {
  CHECK_EQUAL(callee_held(), 0);
  CHECK_EQUAL(callee_close(), GB_LANE_OK);
  CHECK_EQUAL(threads(), 1);
}

gb_lane_server *callee_server(void) {
  return server;
}

uint16_t callee_port(void) {
  return (uint16_t)gb_lane_server_port(server);
}

int callee_export(const struct gb_lane_ticket *ticket, uint32_t region, uint32_t rights) {
  const struct gb_lane_region called = {
      .size = sizeof called, .id = region, .rights = rights, .bytes = 1, .backing = &backing, .context = &callee};
  return gb_lane_export(server, ticket->id, &called);
}

struct gb_lane_ticket callee_grant(uint32_t connections, uint32_t window) {
  struct gb_lane_grant wanted = {.size = sizeof wanted, .connections = connections, .window = window};
  lane_random(&wanted.ticket, sizeof wanted.ticket);
  if (gb_lane_grant_add(server, &wanted) != GB_LANE_OK) abort();
  if (callee_export(&wanted.ticket, REGION, GB_LANE_MAY_CALL) != GB_LANE_OK) abort();
  return wanted.ticket;
}

gb_lane *callee_lane(const struct gb_lane_ticket *ticket, struct gb_lane_options options) {
  gb_lane *lane = NULL;
  options.size = sizeof options;
  if (gb_lane_open("127.0.0.1", callee_port(), ticket, &options, &lane) != GB_LANE_OK) abort();
  return lane;
}

int callee_ended(const struct gb_lane_ticket *ticket) {
  struct gb_lane_event event;
  for (uint64_t until = now_ms() + 4000; now_ms() < until;) {
    if (gb_lane_server_events(server, &event, 1) == 0) sleep_ms(2);
    else if (event.kind == GB_LANE_EVENT_CLOSED && memcmp(event.ticket, ticket->id, sizeof event.ticket) == 0)
      return (int)event.status;
  }
  return -1;
}

int start_call(gb_lane *lane, const void *body, uint64_t bytes, uint32_t priority, uint64_t *id) {
  const struct gb_lane_call call = {
      .size = sizeof call, .region = REGION, .priority = priority, .body = body, .body_bytes = bytes};
  return gb_lane_call(lane, &call, id);
}

int call_whole(gb_lane *lane, const struct gb_lane_call *call) {
  uint64_t id = 0;
  int status = gb_lane_call(lane, call, &id);
  return status == GB_LANE_OK ? gb_lane_wait(lane, id, 20000) : status;
}
