/* SPDX-License-Identifier: Apache-2.0 */
/*
 * call_end_test.c: ends of regions, tickets, lanes and servers while calls are open, and peers that do not keep to what
 * a call is.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "callee.h"

/* ---- ends of regions, lanes and servers ---- */

/* Starts one and lets the callee have it. */
static struct held held_call(gb_lane *lane, uint64_t *id) {
  static const uint8_t body = 7;
  struct held held = {0};
  if (start_call(lane, &body, 1, GB_LANE_DEMAND, id) == GB_LANE_OK) held = callee_take();
  return held;
}

static void regions_leave_without_waiting_for_the_callee(void) {
  struct gb_lane_ticket ticket = callee_grant(1, 0);
  gb_lane *lane = callee_lane(&ticket, (struct gb_lane_options){0});
  uint64_t id;
  callee_hold(true);
  struct held held = held_call(lane, &id);
  REQUIRE(held.called != NULL);
  uint32_t before = callee_calls();
  uint64_t start = now_ms();
  CHECK_EQUAL(gb_lane_unexport(callee_server(), ticket.id, REGION), GB_LANE_OK);
  CHECK(now_ms() - start < 500);
  CHECK_EQUAL(gb_lane_wait(lane, id, 2000), GB_LANE_REVOKED);
  CHECK_EQUAL(start_call(lane, "x", 1, GB_LANE_DEMAND, &id), GB_LANE_OK);
  CHECK_EQUAL(gb_lane_wait(lane, id, 2000), GB_LANE_NOT_FOUND);
  CHECK_EQUAL(callee_calls(), before);
  callee_answer(&held);
  /* One that takes its place is another one. */
  CHECK_EQUAL(callee_export(&ticket, REGION, GB_LANE_MAY_CALL), GB_LANE_OK);
  held = held_call(lane, &id);
  REQUIRE(held.called != NULL);
  CHECK_EQUAL(callee_export(&ticket, REGION, GB_LANE_MAY_CALL), GB_LANE_OK);
  CHECK_EQUAL(gb_lane_wait(lane, id, 2000), GB_LANE_REVOKED);
  callee_answer(&held);
  /* Another region's coming and going is nothing to it. */
  held = held_call(lane, &id);
  REQUIRE(held.called != NULL);
  CHECK_EQUAL(callee_export(&ticket, REGION + 1, GB_LANE_MAY_CALL), GB_LANE_OK);
  CHECK_EQUAL(gb_lane_unexport(callee_server(), ticket.id, REGION + 1), GB_LANE_OK);
  CHECK_EQUAL(gb_lane_wait(lane, id, 100), GB_LANE_TIMEOUT);
  free(held.body);
  gb_lane_answer(held.called, GB_LANE_OK, NULL, 0);
  CHECK_EQUAL(gb_lane_wait(lane, id, 2000), GB_LANE_OK);
  CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
  callee_hold(false);
}

static void tickets_are_revoked_without_waiting_for_the_callee(void) {
  struct gb_lane_ticket ticket = callee_grant(1, 0);
  gb_lane *lane = callee_lane(&ticket, (struct gb_lane_options){0});
  uint64_t id;
  callee_hold(true);
  const struct held held = held_call(lane, &id);
  REQUIRE(held.called != NULL);
  uint64_t start = now_ms();
  CHECK_EQUAL(gb_lane_grant_revoke(callee_server(), ticket.id), GB_LANE_OK);
  CHECK(now_ms() - start < 500);
  CHECK_EQUAL(gb_lane_wait(lane, id, 2000), GB_LANE_REVOKED);
  CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
  callee_answer(&held);
  callee_hold(false);
}

static void lanes_end_while_calls_are_open(void) {
  uint64_t id;
  callee_hold(true);
  for (uint32_t round = 0; round < 6; round++) {
    struct gb_lane_ticket ticket = callee_grant(1, 0);
    gb_lane *lane = callee_lane(&ticket, (struct gb_lane_options){0});
    const struct held held = held_call(lane, &id);
    REQUIRE(held.called != NULL);
    if (round % 3 == 0) callee_answer(&held); /* as the lane ends */
    CHECK_EQUAL(gb_lane_end(lane), GB_LANE_OK);
    if (round % 3 == 1) callee_answer(&held);
    int status = gb_lane_wait(lane, id, 2000);
    CHECK(status == GB_LANE_CLOSED || (round % 3 == 0 && status == GB_LANE_LIMIT));
    CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
    CHECK_EQUAL(callee_ended(&ticket), GB_LANE_CLOSED);
    if (round % 3 == 2) callee_answer(&held); /* long after */
  }
  callee_hold(false);
}

static void servers_end_while_calls_are_open(void) {
  uint64_t ids[2];
  struct gb_lane_ticket ticket = callee_grant(1, 0);
  gb_lane *lane = callee_lane(&ticket, (struct gb_lane_options){0});
  callee_hold(true);
  const struct held first = held_call(lane, &ids[0]), second = held_call(lane, &ids[1]);
  REQUIRE(first.called != NULL && second.called != NULL);
  CHECK_EQUAL(callee_close(), GB_LANE_OK);
  for (uint32_t i = 0; i < 2; i++) CHECK_EQUAL(gb_lane_wait(lane, ids[i], 2000), GB_LANE_CLOSED);
  CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
  callee_answer(&second);
  callee_answer(&first);
  callee_hold(false);
  callee_open();
}

/* ---- clients that do not keep to it ---- */

static void calls_that_break_the_rules_end_the_lane(void) {
  static const struct {
    uint32_t features, body, length;
    uint64_t offset, value;
    int times;
    bool same;
  } rows[] = {
      {LANE_FEATURE_OFFERS, 64, 64, 0, 0, 1, false}, /* the feature is not in use */
      {LANE_FEATURE_CALLS, 64, 63, 0, 0, 1, false},
      {LANE_FEATURE_CALLS, 0, 64, 0, 0, 1, false},
      {LANE_FEATURE_CALLS, 0, 0, 0, 0, 1, false},
      {LANE_FEATURE_CALLS, 64, 64, 1, 0, 1, false},
      {LANE_FEATURE_CALLS, 64, 64, 0, 1, 1, false},
      {LANE_FEATURE_CALLS, RECORD + 1, RECORD + 1, 0, 0, 1, false},
      {LANE_FEATURE_CALLS, 64, 64, 0, 0, 2, true},   /* one request twice */
      {LANE_FEATURE_CALLS, 64, 64, 0, 0, 5, false},  /* beyond the window of 4 */
  };
  static uint8_t body[RECORD + 1];
  callee_hold(true);
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    struct gb_lane_ticket ticket = callee_grant(1, 4);
    struct peer peer;
    REQUIRE(peer_open_with(&peer, callee_port(), &ticket, 0, rows[i].features));
    struct lane_head head = {.type = LANE_CALL,
                             .region = REGION,
                             .offset = rows[i].offset,
                             .body_bytes = rows[i].body,
                             .length = rows[i].length,
                             .value = rows[i].value};
    for (int k = 0; k < rows[i].times; k++) {
      head.request = rows[i].same ? 1 : (uint64_t)k + 1;
      peer_say(&peer, &head, rows[i].body > 0 ? body : NULL);
    }
    CHECK(!peer_hear(&peer, &head, body));
    CHECK_EQUAL(callee_ended(&ticket), GB_LANE_PROTOCOL);
    peer_close(&peer);
    callee_answer_all();
  }
  callee_hold(false);
}

/* What a client of another make sees: CANCEL, deadlines that the server keeps, refusals of what has a body. */
static void a_peer_by_hand_is_answered_once_for_each(void) {
  struct gb_lane_ticket ticket = callee_grant(1, 0);
  struct peer peer;
  struct lane_head answer;
  uint8_t body[64] = {9}, back[64];
  REQUIRE(peer_open_with(&peer, callee_port(), &ticket, 0, LANE_FEATURE_CALLS));
  struct lane_head head = {.type = LANE_CALL, .region = REGION, .body_bytes = 64, .length = 64, .request = 1};
  CHECK(peer_say(&peer, &head, body) && peer_hear(&peer, &answer, back));
  CHECK_EQUAL(answer.type, LANE_RESULT);
  CHECK(answer.request == 1 && answer.body_bytes == 64 && is_answer(back, body, 64));
  callee_hold(true);
  CHECK(peer_say(&peer, &head, body));
  struct held held = callee_take();
  const struct lane_head cancel = {.type = LANE_CANCEL, .request = 1};
  CHECK(peer_say(&peer, &cancel, NULL) && peer_hear(&peer, &answer, back));
  CHECK(answer.type == LANE_ERROR && answer.request == 1 && answer.status == GB_LANE_CANCELED);
  callee_answer(&held);
  head.deadline_ms = 50;
  CHECK(peer_say(&peer, &head, body) && peer_hear(&peer, &answer, back));
  CHECK(answer.type == LANE_ERROR && answer.request == 1 && answer.status == GB_LANE_DEADLINE);
  held = callee_take();
  callee_answer(&held);
  head.deadline_ms = 0;
  head.region = REGION + 1;
  CHECK(peer_say(&peer, &head, body) && peer_hear(&peer, &answer, back));
  CHECK(answer.type == LANE_ERROR && answer.request == 1 && answer.status == GB_LANE_NOT_FOUND);
  /* Half a body, then the end. */
  head.region = REGION;
  head.length = head.body_bytes = RECORD;
  uint32_t before = callee_calls();
  CHECK(peer_say(&peer, &head, NULL) && send_whole(peer.fd, body, sizeof body));
  peer_close(&peer);
  CHECK_EQUAL(callee_ended(&ticket), GB_LANE_DISCONNECTED);
  CHECK_EQUAL(callee_calls(), before);
  callee_hold(false);
}

/* ---- servers that do not keep to it ---- */

struct false_server {
  int listener;
  uint16_t port;
  struct gb_lane_ticket ticket;
  uint32_t features;
  void (*serve)(struct peer *peer, const struct lane_head *call);
  size_t heard; /* bytes before the end, of one that serves nothing */
};

/* Answers an opening, then the first CALL in its own way. */
static void *serve_falsely(void *argument) {
  struct false_server *false_server = argument;
  uint8_t frame[LANE_OPENING_BYTES], reply[LANE_OPENING_BYTES], sealed[LANE_SEALED_HEAD_BYTES];
  struct lane_answer answer = {.major = 1,
                               .cipher = GB_LANE_CIPHER_AES_256_GCM,
                               .record_bytes = GB_LANE_RECORD_BYTES_MIN,
                               .window = 8,
                               .features = false_server->features};
  const struct lane_aead *aead = lane_crypt_find(GB_LANE_CIPHER_AES_256_GCM, GB_LANE_PROVIDER_OPENSSL);
  const uint8_t *secret = false_server->ticket.secret;
  struct peer peer = {.fd = accept(false_server->listener, NULL, NULL)};
  struct lane_head head;
  memcpy(answer.ticket, false_server->ticket.id, sizeof answer.ticket);
  if (receive_whole(peer.fd, frame, sizeof frame) != sizeof frame ||
      !lane_answer_write(reply, &answer, frame, secret) || !send_whole(peer.fd, reply, sizeof reply) ||
      !lane_key_first(&peer.seal, aead, true, false, secret, frame, reply) ||
      !lane_key_first(&peer.open, aead, false, true, secret, frame, reply))
    abort();
  if (false_server->serve == NULL) {
    uint8_t rest[1024];
    false_server->heard = receive_whole(peer.fd, rest, sizeof rest);
  } else if (receive_whole(peer.fd, sealed, sizeof sealed) == sizeof sealed &&
             lane_head_open(&peer.open, sealed, &head, GB_LANE_RECORD_BYTES_MIN, true) == GB_LANE_OK) {
    false_server->serve(&peer, &head);
    while (receive_whole(peer.fd, sealed, sizeof sealed) == sizeof sealed) continue; /* until the client ends it */
  }
  peer_close(&peer);
  return NULL;
}

/* Its body, however it is sealed. */
static void swallow(struct peer *peer, const struct lane_head *call) {
  static uint8_t bytes[GB_LANE_RECORD_BYTES_MIN + LANE_TAG_BYTES];
  receive_whole(peer->fd, bytes, call->body_bytes + LANE_TAG_BYTES);
}

static uint8_t lots[GB_LANE_RECORD_BYTES_MIN + 64];

static void answer_larger_than_a_record(struct peer *peer, const struct lane_head *call) {
  swallow(peer, call);
  const struct lane_head head = {.type = LANE_RESULT, .request = call->request, .body_bytes = sizeof lots};
  peer_say(peer, &head, lots);
}

static void answer_what_was_not_asked(struct peer *peer, const struct lane_head *call) {
  swallow(peer, call);
  const struct lane_head head = {.type = LANE_RESULT, .request = call->request + 64, .body_bytes = 4};
  peer_say(peer, &head, lots);
}

static void answer_with_data(struct peer *peer, const struct lane_head *call) {
  swallow(peer, call);
  const struct lane_head head = {.type = LANE_DATA, .request = call->request, .body_bytes = 4};
  peer_say(peer, &head, lots);
}

static void answer_with_ack(struct peer *peer, const struct lane_head *call) {
  swallow(peer, call);
  const struct lane_head head = {.type = LANE_ACK, .request = call->request};
  peer_say(peer, &head, NULL);
}

static void answer_with_a_forged_body(struct peer *peer, const struct lane_head *call) {
  swallow(peer, call);
  const struct lane_head head = {.type = LANE_RESULT, .request = call->request, .body_bytes = 4};
  peer_say(peer, &head, NULL);
  send_whole(peer->fd, lots, 4 + LANE_TAG_BYTES);
}

typedef void (*false_serve)(struct peer *peer, const struct lane_head *call);

static struct false_server false_server_start(uint32_t features, false_serve serve) {
  struct false_server made = {
      .listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), .features = features, .serve = serve};
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof address;
  lane_random(&made.ticket, sizeof made.ticket);
  if (bind(made.listener, (struct sockaddr *)&address, length) != 0 || listen(made.listener, 4) != 0 ||
      getsockname(made.listener, (struct sockaddr *)&address, &length) != 0)
    abort();
  made.port = ntohs(address.sin_port);
  return made;
}

static gb_lane *lane_to_false(const struct false_server *false_server) {
  const struct gb_lane_options options = {
      .size = sizeof options, .no_express = 1, .tuning = {.heartbeat_ms = 5000, .silence_ms = 20000}};
  gb_lane *lane = NULL;
  if (gb_lane_open("127.0.0.1", false_server->port, &false_server->ticket, &options, &lane) != GB_LANE_OK) abort();
  return lane;
}

static void false_results_end_the_lane(void) {
  static const struct {
    false_serve serve;
    int status;
  } rows[] = {
      {answer_larger_than_a_record, GB_LANE_PROTOCOL}, {answer_what_was_not_asked, GB_LANE_PROTOCOL},
      {answer_with_data, GB_LANE_PROTOCOL},            {answer_with_ack, GB_LANE_PROTOCOL},
      {answer_with_a_forged_body, GB_LANE_FORGED},
  };
  uint8_t body[4] = {0}, answer[8];
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    struct false_server false_server = false_server_start(LANE_FEATURE_CALLS, rows[i].serve);
    pthread_t thread;
    pthread_create(&thread, NULL, serve_falsely, &false_server);
    gb_lane *lane = lane_to_false(&false_server);
    memset(answer, 0xee, sizeof answer);
    const struct gb_lane_call call = {.size = sizeof call,
                                      .region = REGION,
                                      .body = body,
                                      .body_bytes = sizeof body,
                                      .result = answer,
                                      .result_room = 4};
    CHECK_EQUAL(call_whole(lane, &call), rows[i].status);
    CHECK_EQUAL(gb_lane_state(lane), rows[i].status);
    CHECK_EQUAL(answer[4], 0xee);
    gb_lane_close(lane, 0);
    pthread_join(thread, NULL);
    close(false_server.listener);
  }
}

/* Before it has heard the body. */
static void answer_early(struct peer *peer, const struct lane_head *call) {
  const struct lane_head head = {.type = LANE_RESULT, .request = call->request};
  peer_say(peer, &head, NULL);
  sleep_ms(50);
  swallow(peer, call);
}

/* Whether the body has been sealed whole by then or not, nobody reads it after the call has ended. */
static void an_answer_before_the_body_frees_nothing_too_soon(void) {
  for (int round = 0; round < 20; round++) {
    struct false_server false_server = false_server_start(LANE_FEATURE_CALLS, answer_early);
    pthread_t thread;
    pthread_create(&thread, NULL, serve_falsely, &false_server);
    gb_lane *lane = lane_to_false(&false_server);
    uint8_t *body = calloc(1, GB_LANE_RECORD_BYTES_MIN);
    const struct gb_lane_call call = {
        .size = sizeof call, .region = REGION, .body = body, .body_bytes = GB_LANE_RECORD_BYTES_MIN};
    int status = call_whole(lane, &call);
    CHECK(status == GB_LANE_OK || status == GB_LANE_PROTOCOL);
    free(body);
    gb_lane_close(lane, 0);
    pthread_join(thread, NULL);
    close(false_server.listener);
  }
}

static void a_server_without_the_feature_is_never_asked(void) {
  struct false_server false_server = false_server_start(LANE_FEATURE_OFFERS, NULL);
  pthread_t thread;
  uint64_t id;
  pthread_create(&thread, NULL, serve_falsely, &false_server);
  gb_lane *lane = lane_to_false(&false_server);
  CHECK_EQUAL(start_call(lane, "x", 1, GB_LANE_DEMAND, &id), GB_LANE_INVALID);
  gb_lane_close(lane, 0);
  pthread_join(thread, NULL);
  CHECK(false_server.heard <= LANE_SEALED_HEAD_BYTES); /* a goodbye at most */
  close(false_server.listener);
}

/* ---- between the two ---- */

struct flip {
  int to_server;
  uint64_t at;
};

static size_t flip_a_bit(void *context, int connection, int to_server, uint64_t offset, uint8_t *bytes, size_t count) {
  const struct flip *flip = context;
  (void)connection;
  if (to_server == flip->to_server && flip->at >= offset && flip->at < offset + count) bytes[flip->at - offset] ^= 4;
  return count;
}

/* Makes calls through an attacked relay: the callee sees only what was sent, the caller only what was answered.
 * returns: how the last of them ended. */
static int call_under_attack(gb_lane *lane) {
  static uint8_t body[3000], answer[3000];
  int status = GB_LANE_OK;
  for (uint32_t i = 0; i < 20 && status == GB_LANE_OK; i++) {
    uint64_t id, came;
    const struct gb_lane_call call = {.size = sizeof call,
                                      .region = REGION,
                                      .body = body,
                                      .body_bytes = sizeof body,
                                      .result = answer,
                                      .result_room = sizeof answer,
                                      .result_bytes = &came};
    fill_pattern(body, i, 0, sizeof body);
    status = gb_lane_call(lane, &call, &id);
    if (status != GB_LANE_OK) break;
    while ((status = gb_lane_wait(lane, id, 1)) == GB_LANE_TIMEOUT) {
      const struct held held = callee_take_within(20);
      if (held.called == NULL) continue;
      CHECK(held.bytes == sizeof body && is_pattern(held.body, i, 0, sizeof body));
      callee_answer(&held);
    }
    if (status == GB_LANE_OK) CHECK(came == sizeof body && is_answer(answer, body, sizeof body));
  }
  return status;
}

static void what_is_changed_on_the_way_reaches_nobody(void) {
  uint64_t random = 11;
  callee_hold(true);
  for (int i = 0; i < 12; i++) {
    struct flip flip = {i % 2, LANE_OPENING_BYTES + random_next(&random) % 40000};
    uint16_t port;
    struct gb_lane_ticket ticket = callee_grant(1, 0);
    struct relay *relay = relay_start(callee_port(), flip_a_bit, &flip, &port);
    const struct gb_lane_options options = {.size = sizeof options, .no_express = 1};
    gb_lane *lane = NULL;
    REQUIRE(gb_lane_open("127.0.0.1", port, &ticket, &options, &lane) == GB_LANE_OK);
    int status = call_under_attack(lane);
    CHECK(status == GB_LANE_FORGED || status == GB_LANE_DISCONNECTED);
    if (flip.to_server) CHECK_EQUAL(callee_ended(&ticket), GB_LANE_FORGED);
    else CHECK_EQUAL(status, GB_LANE_FORGED);
    gb_lane_close(lane, 100);
    relay_stop(relay);
  }
  callee_answer_all();
  callee_hold(false);
}

int main(void) {
  if (!lane_crypt_ready()) return 3;
  int descriptors = open_descriptors();
  callee_open();
  RUN(regions_leave_without_waiting_for_the_callee);
  RUN(tickets_are_revoked_without_waiting_for_the_callee);
  RUN(lanes_end_while_calls_are_open);
  RUN(servers_end_while_calls_are_open);
  RUN(calls_that_break_the_rules_end_the_lane);
  RUN(a_peer_by_hand_is_answered_once_for_each);
  RUN(false_results_end_the_lane);
  RUN(an_answer_before_the_body_frees_nothing_too_soon);
  RUN(a_server_without_the_feature_is_never_asked);
  RUN(what_is_changed_on_the_way_reaches_nobody);
  RUN(nothing_is_left);
  CHECK_EQUAL(open_descriptors(), descriptors);
  return check_done();
}
