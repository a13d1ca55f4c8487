/* SPDX-License-Identifier: Apache-2.0 */
/*
 * offer_test.c: blocks that a server has already: only the others are written; servers and clients that know nothing of
 * it; slow ones, wrong ones; digests.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "harness.h"

#define BLOCK 65536u
#define BLOCKS 64u /* of the region, and of the cache behind it */
#define WORLD ((size_t)BLOCKS * BLOCK)

static struct host host;
static uint8_t local[WORLD], digests[BLOCKS][GB_LANE_DIGEST_BYTES], have[BLOCKS / 8];

static bool has(const uint8_t *bitmap, uint32_t i) {
  return (bitmap[i / 8] >> i % 8 & 1) != 0;
}

static void fill_block(uint8_t *at, uint32_t number) {
  fill_pattern(at, number, 0, BLOCK);
  memcpy(at, &number, sizeof number); /* patterns of two numbers may be the same */
}

/* Block i of the cache, and of what is to be stored: every third is not in the cache, and they lie elsewhere. */
static void make_world(void) {
  for (uint32_t i = 0; i < BLOCKS; i++) {
    fill_block(host.memory + WORLD + (size_t)i * BLOCK, i);
    fill_block(local + (size_t)i * BLOCK, i % 3 == 0 ? i + 1000 : (i * 7) % BLOCKS);
  }
  memset(host.memory, 0xee, WORLD);
  CHECK_EQUAL(gb_lane_digests(local, BLOCK, BLOCKS, digests[0], 0), GB_LANE_OK);
}

static gb_lane *lane_offering(uint32_t connections, uint32_t delay_us, uint32_t silence_ms,
                              struct gb_lane_ticket *ticket) {
  struct gb_lane_tuning tuning = {.silence_ms = silence_ms};
  *ticket = host_grant(&host, connections, 0, 0, 0);
  if (host_export_offering(&host, ticket, REGION, WORLD, BLOCK, delay_us) != GB_LANE_OK) abort();
  return lane_to(&host, ticket, connections, &tuning);
}

static void only_what_is_not_there_is_written(void) {
  make_world();
  struct gb_lane_ticket ticket;
  gb_lane *lane = lane_offering(1, 0, 0, &ticket);
  CHECK_EQUAL(gb_lane_offer(lane, REGION, 0, BLOCK, digests[0], BLOCKS, have, 0), GB_LANE_OK);
  for (uint32_t i = 0; i < BLOCKS; i++) {
    CHECK_EQUAL(has(have, i), i % 3 != 0);
    if (!has(have, i)) {
      CHECK(host.memory[(size_t)i * BLOCK] == 0xee);
      CHECK_EQUAL(gb_lane_write(lane, REGION, (uint64_t)i * BLOCK, local + (size_t)i * BLOCK, BLOCK, GB_LANE_NORMAL, 0),
                  GB_LANE_OK);
    }
  }
  CHECK(memcmp(host.memory, local, WORLD) == 0);
  struct gb_lane_counters counters;
  gb_lane_counters(lane, &counters);
  CHECK(counters.wire_bytes_out < WORLD / 2);
  /* A few in the middle; the bits beyond them stay 0. */
  memset(host.memory, 0xee, WORLD);
  memset(have, 0xff, sizeof have);
  CHECK_EQUAL(gb_lane_offer(lane, REGION, 5 * BLOCK, BLOCK, digests[5], 11, have, 0), GB_LANE_OK);
  for (uint32_t i = 0; i < 16; i++) CHECK_EQUAL(has(have, i), i < 11 && (i + 5) % 3 != 0);
  CHECK(memcmp(host.memory + 7 * BLOCK, local + 7 * BLOCK, 2 * BLOCK) == 0);
  CHECK(host.memory[4 * BLOCK] == 0xee && host.memory[16 * BLOCK] == 0xee);
  CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
}

static void what_makes_no_sense_is_refused(void) {
  make_world();
  struct gb_lane_ticket ticket;
  gb_lane *lane = lane_offering(1, 0, 0, &ticket);
  const uint8_t *first = digests[0];
  CHECK_EQUAL(gb_lane_offer(lane, REGION, 0, BLOCK, first, 0, have, 0), GB_LANE_INVALID);
  CHECK_EQUAL(gb_lane_offer(lane, REGION, 0, BLOCK, first, GB_LANE_OFFER_BLOCKS_MAX + 1, have, 0), GB_LANE_INVALID);
  CHECK_EQUAL(gb_lane_offer(lane, REGION, 0, GB_LANE_BLOCK_BYTES_MIN - 1, first, 1, have, 0), GB_LANE_INVALID);
  CHECK_EQUAL(gb_lane_offer(lane, REGION, 0, GB_LANE_BLOCK_BYTES_MAX + 1, first, 1, have, 0), GB_LANE_INVALID);
  CHECK_EQUAL(gb_lane_offer(lane, REGION, UINT64_MAX - BLOCK + 1, BLOCK, first, 1, have, 0), GB_LANE_INVALID);
  CHECK_EQUAL(gb_lane_offer(lane, REGION, 1, BLOCK, first, BLOCKS, have, 0), GB_LANE_RANGE);
  CHECK_EQUAL(gb_lane_offer(lane, REGION + 1, 0, BLOCK, first, 1, have, 0), GB_LANE_NOT_FOUND);
  CHECK_EQUAL(host_export(&host, &ticket, 3, 0, WORLD, GB_LANE_MAY_READ), GB_LANE_OK);
  CHECK_EQUAL(gb_lane_offer(lane, 3, 0, BLOCK, first, 1, have, 0), GB_LANE_DENIED);
  /* Memory without a cache, and a backing without one, have nothing. */
  CHECK_EQUAL(host_export(&host, &ticket, 4, 0, WORLD, GB_LANE_MAY_WRITE), GB_LANE_OK);
  CHECK_EQUAL(host_export_backed(&host, &ticket, 5, 0, 0), GB_LANE_OK);
  for (uint32_t region = 4; region <= 5; region++) {
    memset(have, 0xff, sizeof have);
    CHECK_EQUAL(gb_lane_offer(lane, region, 0, BLOCK, first, BLOCKS, have, 0), GB_LANE_OK);
    for (uint32_t i = 0; i < BLOCKS; i++) CHECK(!has(have, i));
  }
  CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
  CHECK_EQUAL(gb_lane_offer(NULL, 4, 0, BLOCK, first, 1, have, 0), GB_LANE_INVALID);
}

struct asker {
  gb_lane *lane;
  _Atomic int status; /* -1: not answered */
  pthread_t thread;
};

static void *ask_all(void *argument) {
  struct asker *asker = argument;
  static uint8_t bits[BLOCKS / 8];
  asker->status = gb_lane_offer(asker->lane, REGION, 0, BLOCK, digests[0], BLOCKS, bits, 0);
  return NULL;
}

static void begin_asking(struct asker *asker, gb_lane *lane) {
  asker->lane = lane;
  asker->status = -1;
  pthread_create(&asker->thread, NULL, ask_all, asker);
  sleep_ms(100);
}

static int end_asking(struct asker *asker) {
  pthread_join(asker->thread, NULL);
  return asker->status;
}

/* Four calls of 300 ms each, where a peer that is silent for 800 ms is lost: the lane goes on beside them. */
static void a_slow_cache_does_not_hold_up_the_lane(void) {
  make_world();
  struct gb_lane_ticket ticket;
  struct asker asker;
  struct gb_lane_options options = {.size = sizeof options, .no_express = 1, .tuning = {.silence_ms = 800}};
  gb_lane *lane = NULL;
  ticket = host_grant(&host, 1, 0, 0, 0);
  REQUIRE(host_export_offering(&host, &ticket, REGION, WORLD, BLOCK, 300000) == GB_LANE_OK);
  REQUIRE(gb_lane_open("127.0.0.1", host.port, &ticket, &options, &lane) == GB_LANE_OK);
  begin_asking(&asker, lane);
  static uint8_t page[4096];
  CHECK_EQUAL(gb_lane_read(lane, REGION, WORLD - sizeof page, page, sizeof page, GB_LANE_NORMAL, 0), GB_LANE_OK);
  CHECK_EQUAL(asker.status, -1); /* the read has passed it */
  CHECK_EQUAL(end_asking(&asker), GB_LANE_OK);
  CHECK_EQUAL(gb_lane_state(lane), GB_LANE_OK);
  /* A deadline ends it; the next one is answered again, once the server is done with the first. */
  begin_asking(&asker, lane);
  CHECK_EQUAL(gb_lane_offer(lane, REGION, 0, BLOCK, digests[0], BLOCKS, have, 150), GB_LANE_DEADLINE);
  CHECK_EQUAL(end_asking(&asker), GB_LANE_OK);
  CHECK_EQUAL(gb_lane_offer(lane, REGION, 0, BLOCK, digests[0], BLOCKS, have, 150), GB_LANE_DEADLINE);
  CHECK_EQUAL(gb_lane_offer(lane, REGION, 0, BLOCK, digests[0], 1, have, 0), GB_LANE_OK);
  CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
}

static void ends_do_not_wait_for_a_slow_cache(void) {
  struct gb_lane_ticket ticket;
  struct asker asker;
  make_world();
  gb_lane *lane = lane_offering(1, 150000, 0, &ticket);
  begin_asking(&asker, lane);
  uint64_t start = now_ms();
  CHECK_EQUAL(host_unexport(&host, &ticket, REGION), GB_LANE_OK); /* at most one call of it is waited for */
  CHECK(now_ms() - start < 400);
  CHECK_EQUAL(end_asking(&asker), GB_LANE_REVOKED);
  REQUIRE(host_export_offering(&host, &ticket, REGION, WORLD, BLOCK, 150000) == GB_LANE_OK);
  begin_asking(&asker, lane);
  start = now_ms();
  CHECK_EQUAL(host_revoke(&host, &ticket), GB_LANE_OK);
  CHECK(now_ms() - start < 400);
  CHECK_EQUAL(end_asking(&asker), GB_LANE_REVOKED);
  CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
  lane = lane_offering(1, 150000, 0, &ticket);
  begin_asking(&asker, lane);
  CHECK_EQUAL(gb_lane_end(lane), GB_LANE_OK);
  CHECK_EQUAL(end_asking(&asker), GB_LANE_CLOSED);
  CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
  CHECK_EQUAL(host_ended(&host, &ticket), GB_LANE_CLOSED);
}

/* ---- several at once ---- */

#define WORKERS 4

struct worker {
  gb_lane *lane;
  uint32_t index, wrong;
};

/* Stores its own blocks again and again: offers, writes what is not there, reads back. */
static void *work(void *argument) {
  struct worker *worker = argument;
  uint32_t share = BLOCKS / WORKERS, first = worker->index * share;
  uint8_t bits[BLOCKS / 8];
  static uint8_t back[WORKERS][BLOCK];
  for (int round = 0; round < 5; round++) {
    uint64_t start = (uint64_t)first * BLOCK;
    int status = gb_lane_offer(worker->lane, REGION, start, BLOCK, digests[first], share, bits, 0);
    worker->wrong += status != GB_LANE_OK;
    for (uint32_t i = 0; i < share; i++) {
      uint64_t at = (uint64_t)(first + i) * BLOCK;
      worker->wrong += has(bits, i) != ((first + i) % 3 != 0);
      if (!has(bits, i)) gb_lane_write(worker->lane, REGION, at, local + at, BLOCK, GB_LANE_NORMAL, 0);
      gb_lane_read(worker->lane, REGION, at, back[worker->index], BLOCK, GB_LANE_DEMAND, 0);
      worker->wrong += memcmp(back[worker->index], local + at, BLOCK) != 0;
    }
  }
  return NULL;
}

static void many_threads_offer_at_once(void) {
  make_world();
  struct gb_lane_ticket ticket;
  gb_lane *lane = lane_offering(2, 0, 0, &ticket);
  struct worker workers[WORKERS];
  pthread_t threads_of[WORKERS];
  for (uint32_t i = 0; i < WORKERS; i++) {
    workers[i] = (struct worker){.lane = lane, .index = i};
    pthread_create(&threads_of[i], NULL, work, &workers[i]);
  }
  for (uint32_t i = 0; i < WORKERS; i++) {
    pthread_join(threads_of[i], NULL);
    CHECK_EQUAL(workers[i].wrong, 0);
  }
  CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
}

/* ---- peers that do not keep to it, or know nothing of it ---- */

static void offers_that_break_the_rules_end_the_lane(void) {
  static const struct {
    uint32_t features, body, length;
    uint64_t value;
    int times;
  } rows[] = {
      {0, 64, 64, BLOCK, 1},                                      /* the feature is not in use */
      {LANE_FEATURE_OFFERS, 64, 64, BLOCK, 2},                    /* two at once */
      {LANE_FEATURE_OFFERS, 63, 63, BLOCK, 1},                    /* no whole digests */
      {LANE_FEATURE_OFFERS, 64, 96, BLOCK, 1},
      {LANE_FEATURE_OFFERS, 64, 64, GB_LANE_BLOCK_BYTES_MIN - 1, 1},
      {LANE_FEATURE_OFFERS, 64, 64, UINT64_MAX, 1},
      {LANE_FEATURE_OFFERS, (GB_LANE_OFFER_BLOCKS_MAX + 1) * 32, (GB_LANE_OFFER_BLOCKS_MAX + 1) * 32, BLOCK, 1},
  };
  static uint8_t body[(GB_LANE_OFFER_BLOCKS_MAX + 1) * 32];
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    struct gb_lane_ticket ticket = host_grant(&host, 1, 0, 0, 0);
    struct peer peer;
    REQUIRE(host_export_offering(&host, &ticket, REGION, WORLD, BLOCK, 50000) == GB_LANE_OK);
    REQUIRE(peer_open_with(&peer, host.port, &ticket, 0, rows[i].features));
    struct lane_head head = {.type = LANE_OFFER,
                             .region = REGION,
                             .body_bytes = rows[i].body,
                             .length = rows[i].length,
                             .value = rows[i].value};
    for (int k = 0; k < rows[i].times; k++) {
      head.request = (uint64_t)k + 1;
      peer_say(&peer, &head, body);
    }
    CHECK(!peer_hear(&peer, &head, body));
    CHECK_EQUAL(host_ended(&host, &ticket), GB_LANE_PROTOCOL);
    peer_close(&peer);
  }
}

struct plain_server {
  int listener;
  struct gb_lane_ticket ticket;
  size_t heard;
};

/* A server of before offers: answers an opening without any feature, then only listens. */
static void *serve_plainly(void *argument) {
  struct plain_server *server = argument;
  uint8_t frame[LANE_OPENING_BYTES], reply[LANE_OPENING_BYTES], rest[1024];
  struct lane_answer answer = {.major = 1,
                               .cipher = GB_LANE_CIPHER_AES_256_GCM,
                               .record_bytes = GB_LANE_RECORD_BYTES,
                               .window = 8};
  memcpy(answer.ticket, server->ticket.id, sizeof answer.ticket);
  int fd = accept(server->listener, NULL, NULL);
  if (receive_whole(fd, frame, sizeof frame) == sizeof frame &&
      lane_answer_write(reply, &answer, frame, server->ticket.secret) && send_whole(fd, reply, sizeof reply))
    server->heard = receive_whole(fd, rest, sizeof rest);
  close(fd);
  return NULL;
}

static void a_server_without_the_feature_is_never_asked(void) {
  struct plain_server server = {.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof address;
  pthread_t thread;
  lane_random(&server.ticket, sizeof server.ticket);
  REQUIRE(bind(server.listener, (struct sockaddr *)&address, length) == 0 && listen(server.listener, 4) == 0 &&
          getsockname(server.listener, (struct sockaddr *)&address, &length) == 0);
  pthread_create(&thread, NULL, serve_plainly, &server);
  struct gb_lane_options options = {
      .size = sizeof options, .no_express = 1, .tuning = {.heartbeat_ms = 5000, .silence_ms = 20000}};
  gb_lane *lane = NULL;
  REQUIRE(gb_lane_open("127.0.0.1", ntohs(address.sin_port), &server.ticket, &options, &lane) == GB_LANE_OK);
  memset(have, 0xff, sizeof have);
  CHECK_EQUAL(gb_lane_offer(lane, REGION, 0, BLOCK, digests[0], BLOCKS, have, 0), GB_LANE_OK);
  for (uint32_t i = 0; i < BLOCKS; i++) CHECK(!has(have, i));
  gb_lane_close(lane, 0);
  pthread_join(thread, NULL);
  CHECK(server.heard <= LANE_SEALED_HEAD_BYTES); /* a goodbye at most */
  close(server.listener);
}

static void digests_are_sha_256(void) {
  static const uint8_t empty[4] = {0xe3, 0xb0, 0xc4, 0x42}, abc[4] = {0xba, 0x78, 0x16, 0xbf};
  uint8_t one[GB_LANE_DIGEST_BYTES], many[BLOCKS][GB_LANE_DIGEST_BYTES];
  CHECK_EQUAL(gb_lane_digest(NULL, 0, one), GB_LANE_OK);
  CHECK(memcmp(one, empty, sizeof empty) == 0);
  CHECK_EQUAL(gb_lane_digest("abc", 3, one), GB_LANE_OK);
  CHECK(memcmp(one, abc, sizeof abc) == 0);
  CHECK_EQUAL(gb_lane_digest(NULL, 3, one), GB_LANE_INVALID);
  fill_pattern(local, 3, 0, sizeof local);
  for (uint32_t count = 1; count <= 5; count += 2) {
    CHECK_EQUAL(gb_lane_digests(local, BLOCK, BLOCKS, many[0], count), GB_LANE_OK);
    for (uint32_t i = 0; i < BLOCKS; i++) {
      gb_lane_digest(local + (size_t)i * BLOCK, BLOCK, one);
      CHECK(memcmp(one, many[i], sizeof one) == 0);
    }
  }
  CHECK_EQUAL(gb_lane_digests(local, BLOCK, 0, many[0], 0), GB_LANE_OK);
  CHECK_EQUAL(gb_lane_digests(local, 0, 1, many[0], 0), GB_LANE_INVALID);
}

static void the_server_ends_in_order(void) {
  host_stop(&host);
}

int main(void) {
  host = host_start("127.0.0.1", 2 * WORLD, NULL);
  RUN(only_what_is_not_there_is_written);
  RUN(what_makes_no_sense_is_refused);
  RUN(a_slow_cache_does_not_hold_up_the_lane);
  RUN(ends_do_not_wait_for_a_slow_cache);
  RUN(many_threads_offer_at_once);
  RUN(offers_that_break_the_rules_end_the_lane);
  RUN(a_server_without_the_feature_is_never_asked);
  RUN(digests_are_sha_256);
  RUN(the_server_ends_in_order);
  return check_done();
}
