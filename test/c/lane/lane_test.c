/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lane_test.c: what a lane does for its users: bytes of any size and alignment against a model, several threads,
 * connections and priorities, cancellation and deadlines, windows, backings, rekeying, ciphers, IPv6.
 *
 * usage: lane_test [seed]
 */
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "harness.h"

static uint64_t seed = 1;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SLOWER 8
#else
#define SLOWER 1
#endif

static const uint32_t both = GB_LANE_MAY_READ | GB_LANE_MAY_WRITE;

/* ---- against a model ---- */

#define WORLD (8 * MIB)

/* A request of up to eight pieces, none of which overlap. */
struct plan {
  struct gb_lane_segment segments[8];
  struct gb_lane_request request;
};

static uint64_t some_size(uint64_t *random, uint64_t most) {
  uint64_t size = 1ull << random_next(random) % 23;
  size = random_next(random) % size + random_next(random) % 3;
  return size < most ? size : most;
}

static void make_plan(struct plan *plan, uint64_t *random, uint8_t *local, uint64_t local_bytes) {
  uint32_t count = 1 + (uint32_t)(random_next(random) % 8);
  uint64_t stripe = WORLD / count, at = random_next(random) % 64;
  for (uint32_t i = 0; i < count; i++) {
    uint64_t bytes = some_size(random, stripe / 2);
    if (bytes > local_bytes - at) bytes = local_bytes - at;
    plan->segments[i] = (struct gb_lane_segment){
        .offset = i * stripe + random_next(random) % (stripe / 2), .bytes = bytes, .memory = local + at};
    at += bytes + random_next(random) % 3;
    if (at > local_bytes) at = local_bytes;
  }
  plan->request = (struct gb_lane_request){.size = sizeof plan->request,
                                           .operation = 1 + (uint32_t)(random_next(random) % 2),
                                           .region = REGION,
                                           .priority = (uint32_t)(random_next(random) % 3),
                                           .segment_count = count,
                                           .segments = plan->segments};
}

/* One at a time: every byte of the server's memory is the model's after each write, and each read brings it. */
static void random_requests_against_a_model(void) {
  static const struct gb_lane_tuning tunings[] = {
      {.record_bytes = 65536}, {.record_bytes = 1048576, .rekey_bytes = 3000000}, {.record_bytes = 262144}};
  static uint8_t model[WORLD], local[WORLD];
  for (uint32_t round = 0; round < 3; round++) {
    struct host host = host_start("127.0.0.1", WORLD, NULL);
    struct gb_lane_ticket ticket = host_grant(&host, round + 1, 0, 0, both);
    gb_lane *lane = lane_to(&host, &ticket, round + 1, &tunings[round]);
    uint64_t random = seed * 1000 + round;
    fill_pattern(model, seed, 0, WORLD);
    memcpy(host.memory, model, WORLD);
    for (int i = 0; i < 300 / SLOWER; i++) {
      struct plan plan;
      uint64_t id;
      make_plan(&plan, &random, local, WORLD);
      bool writes = plan.request.operation == GB_LANE_WRITE;
      for (uint32_t k = 0; k < plan.request.segment_count; k++) {
        const struct gb_lane_segment *segment = &plan.segments[k];
        if (writes) fill_pattern(segment->memory, random, segment->offset, segment->bytes);
        if (writes) memcpy(model + segment->offset, segment->memory, segment->bytes);
        else memset(segment->memory, 0xaa, segment->bytes);
      }
      REQUIRE(gb_lane_submit(lane, &plan.request, &id) == GB_LANE_OK);
      REQUIRE(gb_lane_wait(lane, id, 30000) == GB_LANE_OK);
      for (uint32_t k = 0; k < plan.request.segment_count && !writes; k++)
        REQUIRE(memcmp(plan.segments[k].memory, model + plan.segments[k].offset, plan.segments[k].bytes) == 0);
      if (writes) REQUIRE(memcmp(host.memory, model, WORLD) == 0);
    }
    CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
    CHECK_EQUAL(host_ended(&host, &ticket), GB_LANE_CLOSED);
    host_stop(&host);
  }
}

struct worker {
  gb_lane *lane;
  uint64_t random;
  uint32_t index, wrong;
};

#define WORKERS 4
#define SHARE (2 * MIB)

/* Each has a quarter of the region, writes and reads it, several requests at once. */
static void *work(void *argument) {
  struct worker *worker = argument;
  uint8_t *local = malloc(SHARE), *model = calloc(1, SHARE);
  uint64_t base = worker->index * SHARE;
  for (int i = 0; i < 60 / SLOWER; i++) {
    uint64_t ids[8], at = 0;
    uint32_t count = 0;
    bool writes = i % 2 == 0;
    if (writes) fill_pattern(model, worker->random, 0, SHARE);
    if (writes) memcpy(local, model, SHARE);
    else memset(local, 0, SHARE);
    while (at < SHARE && count < 8) {
      uint64_t bytes = count == 7 ? SHARE - at : some_size(&worker->random, SHARE - at);
      struct gb_lane_segment segment = {.offset = base + at, .bytes = bytes, .memory = local + at};
      struct gb_lane_request request = {.size = sizeof request,
                                        .operation = writes ? GB_LANE_WRITE : GB_LANE_READ,
                                        .region = REGION,
                                        .priority = (uint32_t)(random_next(&worker->random) % 3),
                                        .segment_count = 1,
                                        .segments = &segment};
      if (gb_lane_submit(worker->lane, &request, &ids[count++]) != GB_LANE_OK) worker->wrong++;
      at += bytes;
    }
    for (uint32_t k = 0; k < count; k++) {
      if (gb_lane_wait(worker->lane, ids[k], 30000) != GB_LANE_OK) worker->wrong++;
    }
    if (!writes && memcmp(local, model, SHARE) != 0) worker->wrong++;
  }
  free(local);
  free(model);
  return NULL;
}

static void many_threads_share_a_lane(void) {
  struct gb_lane_tuning tuning = {.record_bytes = 131072, .rekey_bytes = 5000000};
  struct host host = host_start("127.0.0.1", WORKERS * SHARE, &tuning);
  struct gb_lane_ticket ticket = host_grant(&host, 3, 0, 0, both);
  gb_lane *lane = lane_to(&host, &ticket, 3, &tuning);
  pthread_t thread[WORKERS];
  struct worker workers[WORKERS];
  for (uint32_t i = 0; i < WORKERS; i++) {
    workers[i] = (struct worker){.lane = lane, .random = seed * 77 + i, .index = i};
    pthread_create(&thread[i], NULL, work, &workers[i]);
  }
  for (uint32_t i = 0; i < WORKERS; i++) {
    pthread_join(thread[i], NULL);
    CHECK_EQUAL(workers[i].wrong, 0);
  }
  struct gb_lane_counters counters, theirs = host_counters(&host, &ticket);
  CHECK_EQUAL(gb_lane_counters(lane, &counters), GB_LANE_OK);
  CHECK(counters.rekeys > 0 && theirs.rekeys > 0);
  CHECK_EQUAL(counters.bytes_read, theirs.bytes_written);
  CHECK_EQUAL(counters.bytes_written, theirs.bytes_read);
  CHECK_EQUAL(counters.requests, theirs.requests);
  CHECK_EQUAL(counters.requests_failed, 0);
  CHECK_EQUAL(counters.outstanding, 0);
  CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
  host_stop(&host);
}

/* ---- order ---- */

/* A demand fetch that starts after a bulk transfer is done before it, with the express connection and without. */
static void a_demand_fetch_passes_a_bulk_transfer(void) {
  size_t bytes = 256 * MIB / (SLOWER == 1 ? 1 : 4);
  uint8_t *local = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  struct host host = host_start("127.0.0.1", bytes, NULL);
  for (uint32_t no_express = 0; no_express < 2; no_express++) {
    struct gb_lane_ticket ticket = host_grant(&host, 1, 0, 0, both);
    struct gb_lane_options options = {.size = sizeof options, .no_express = no_express};
    gb_lane *lane;
    REQUIRE(gb_lane_open("127.0.0.1", host.port, &ticket, &options, &lane) == GB_LANE_OK);
    for (uint32_t operation = GB_LANE_READ; operation <= GB_LANE_WRITE; operation++) {
      struct gb_lane_segment segment = {.bytes = bytes, .memory = local};
      struct gb_lane_request bulk = {.size = sizeof bulk,
                                     .operation = operation,
                                     .region = REGION,
                                     .priority = GB_LANE_BACKGROUND,
                                     .segment_count = 1,
                                     .segments = &segment};
      uint64_t id;
      static uint8_t page[65536];
      REQUIRE(gb_lane_submit(lane, &bulk, &id) == GB_LANE_OK);
      int passed = 0;
      for (int i = 0; i < 4; i++) {
        CHECK_EQUAL(gb_lane_read(lane, REGION, 0, page, sizeof page, GB_LANE_DEMAND, 0), GB_LANE_OK);
        passed += gb_lane_wait(lane, id, 0) == GB_LANE_TIMEOUT;
      }
      CHECK_EQUAL(passed, 4);
      CHECK_EQUAL(gb_lane_wait(lane, id, 60000), GB_LANE_OK);
    }
    CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
  }
  host_stop(&host);
  munmap(local, bytes);
}

/* On one connection with one slow backing, answers come by priority, not by arrival. */
static void answers_come_by_priority(void) {
  struct host host = host_start("127.0.0.1", MIB, NULL);
  struct gb_lane_ticket ticket = host_grant(&host, 1, 0, 16, 0);
  REQUIRE(host_export_backed(&host, &ticket, REGION, 200000, 0) == GB_LANE_OK);
  struct peer peer;
  REQUIRE(peer_open(&peer, host.port, &ticket, 0));
  static const uint8_t priorities[] = {2, 2, 1, 0, 2, 0, 1};
  for (uint64_t i = 0; i < sizeof priorities; i++) {
    struct lane_head read = {
        .type = LANE_READ, .request = i + 1, .priority = priorities[i], .region = REGION, .length = 64};
    REQUIRE(peer_say(&peer, &read, NULL));
    if (i == 0) sleep_ms(80); /* it is begun, the others find it so */
  }
  static const uint64_t order[] = {4, 6, 3, 7, 2, 5}; /* after the first, which was begun at once */
  uint8_t body[64];
  struct lane_head head;
  REQUIRE(peer_hear(&peer, &head, body));
  CHECK_EQUAL(head.request, 1);
  for (int i = 0; i < 6; i++) {
    REQUIRE(peer_hear(&peer, &head, body));
    CHECK_EQUAL(head.request, order[i]);
  }
  peer_close(&peer);
  host_stop(&host);
}

/* ---- ends ---- */

static void a_cancelled_request_lets_its_memory_go(void) {
  size_t bytes = 64 * MIB;
  struct host host = host_start("127.0.0.1", bytes, NULL);
  struct gb_lane_ticket ticket = host_grant(&host, 2, 0, 0, both);
  gb_lane *lane = lane_to(&host, &ticket, 2, NULL);
  uint64_t random = seed;
  for (int i = 0; i < 20; i++) {
    uint8_t *local = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct gb_lane_segment segment = {.bytes = bytes, .memory = local};
    struct gb_lane_request request = {.size = sizeof request,
                                      .operation = 1 + (uint32_t)(i % 2),
                                      .region = REGION,
                                      .priority = GB_LANE_NORMAL,
                                      .segment_count = 1,
                                      .segments = &segment};
    uint64_t id;
    REQUIRE(gb_lane_submit(lane, &request, &id) == GB_LANE_OK);
    usleep((unsigned)(random_next(&random) % 3000));
    CHECK_EQUAL(gb_lane_cancel(lane, id), GB_LANE_OK);
    int status = gb_lane_wait(lane, id, 2000);
    CHECK(status == GB_LANE_CANCELED || status == GB_LANE_OK);
    munmap(local, bytes); /* whoever still touches it dies */
    uint8_t byte;
    CHECK_EQUAL(gb_lane_read(lane, REGION, 1, &byte, 1, GB_LANE_DEMAND, 0), GB_LANE_OK);
    CHECK_EQUAL(gb_lane_wait(lane, id, 0), GB_LANE_NOT_FOUND);
    CHECK_EQUAL(gb_lane_cancel(lane, id), GB_LANE_NOT_FOUND);
  }
  struct gb_lane_counters counters;
  gb_lane_counters(lane, &counters);
  CHECK(counters.requests_canceled > 0);
  CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
  host_stop(&host);
}

static void deadlines_end_requests_on_both_sides(void) {
  struct host host = host_start("127.0.0.1", MIB, NULL);
  struct gb_lane_ticket ticket = host_grant(&host, 1, 0, 0, 0);
  REQUIRE(host_export_backed(&host, &ticket, REGION, 100000, 0) == GB_LANE_OK);
  gb_lane *lane = lane_to(&host, &ticket, 1, NULL);
  uint8_t bytes[3][64];
  uint64_t ids[3];
  for (int i = 0; i < 3; i++) {
    struct gb_lane_segment segment = {.bytes = 64, .memory = bytes[i]};
    struct gb_lane_request request = {.size = sizeof request,
                                      .operation = GB_LANE_READ,
                                      .region = REGION,
                                      .priority = GB_LANE_NORMAL,
                                      .deadline_ms = i == 1 ? 20 : i == 2 ? 30 : 0,
                                      .notify = i == 2,
                                      .user = 5,
                                      .segment_count = 1,
                                      .segments = &segment};
    REQUIRE(gb_lane_submit(lane, &request, &ids[i]) == GB_LANE_OK);
  }
  CHECK_EQUAL(gb_lane_wait(lane, ids[1], 5), GB_LANE_TIMEOUT);
  CHECK_EQUAL(gb_lane_wait(lane, ids[1], 1000), GB_LANE_DEADLINE);
  struct pollfd polled = {.fd = gb_lane_poll_fd(lane), .events = POLLIN};
  CHECK_EQUAL(poll(&polled, 1, 1000), 1);
  struct gb_lane_completion completion;
  CHECK_EQUAL(gb_lane_reap(lane, &completion, 1), 1);
  CHECK_EQUAL(completion.status, GB_LANE_DEADLINE);
  CHECK_EQUAL(completion.user, 5);
  CHECK_EQUAL(completion.id, ids[2]);
  CHECK_EQUAL(poll(&polled, 1, 0), 0);
  CHECK_EQUAL(gb_lane_wait(lane, ids[0], 5000), GB_LANE_OK);
  sleep_ms(150);
  struct backing_calls calls = host_backing(&host);
  CHECK_EQUAL(calls.acquired, 1); /* the others were never begun */
  CHECK_EQUAL(calls.prepared, 3);
  CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
  host_stop(&host);
}

static void backings_see_whole_writes_only(void) {
  struct host host = host_start("127.0.0.1", 4 * MIB, NULL);
  struct gb_lane_ticket ticket = host_grant(&host, 2, 0, 0, 0);
  static uint8_t local[3 * MIB], back[3 * MIB];
  REQUIRE(host_export_backed(&host, &ticket, REGION, 0, 9) == GB_LANE_OK);
  gb_lane *lane = lane_to(&host, &ticket, 2, NULL);
  fill_pattern(local, 4, 0, sizeof local);
  CHECK_EQUAL(gb_lane_write(lane, REGION, 100, local, 4 * 262144, GB_LANE_NORMAL, 0), GB_LANE_OK);
  CHECK_EQUAL(gb_lane_read(lane, REGION, 100, back, 4 * 262144, GB_LANE_NORMAL, 0), GB_LANE_OK);
  CHECK(memcmp(local, back, 4 * 262144) == 0);
  struct backing_calls calls = host_backing(&host);
  CHECK_EQUAL(calls.acquired, 8);
  CHECK_EQUAL(calls.released, 8);
  CHECK_EQUAL(calls.committed, 4);
  CHECK_EQUAL(gb_lane_write(lane, REGION, 0, local, 100, GB_LANE_NORMAL, 0), GB_LANE_OK); /* its count began anew */
  REQUIRE(host_export_backed(&host, &ticket, REGION, 0, 1) == GB_LANE_OK);
  CHECK_EQUAL(gb_lane_write(lane, REGION, 0, local, 100, GB_LANE_NORMAL, 0), GB_LANE_IO);
  CHECK_EQUAL(gb_lane_read(lane, REGION, 0, back, 100, GB_LANE_NORMAL, 0), GB_LANE_IO);
  CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
  calls = host_backing(&host);
  CHECK_EQUAL(calls.acquired, calls.released);
  host_stop(&host);
}

/* ---- the rest ---- */

static void windows_can_be_changed_meanwhile(void) {
  struct host host = host_start("127.0.0.1", 32 * MIB, NULL);
  struct gb_lane_ticket ticket = host_grant(&host, 1, 0, 32, both);
  gb_lane *lane = lane_to(&host, &ticket, 1, NULL);
  uint8_t *local = malloc(32 * MIB);
  fill_pattern(host.memory, 6, 0, 32 * MIB);
  for (uint32_t window = 1; window <= 40; window += 13) {
    CHECK_EQUAL(host_window(&host, &ticket, window), GB_LANE_OK);
    memset(local, 0, 32 * MIB);
    CHECK_EQUAL(gb_lane_read(lane, REGION, 0, local, 32 * MIB, GB_LANE_NORMAL, 0), GB_LANE_OK);
    CHECK(memcmp(local, host.memory, 32 * MIB) == 0);
  }
  free(local);
  CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
  host_stop(&host);
}

static void every_cipher_and_address_family(void) {
  static const struct {
    const char *address;
    struct gb_lane_tuning tuning;
    const char *cipher;
  } ways[] = {
      {"::1", {.cipher = GB_LANE_CIPHER_CHACHA20_POLY1305}, "ChaCha20-Poly1305"},
      {"127.0.0.1", {.cipher = GB_LANE_CIPHER_AES_256_GCM}, "AES-256-GCM"},
      {"::1", {.provider = GB_LANE_PROVIDER_OPENSSL, .cipher = GB_LANE_CIPHER_AES_256_GCM}, "AES-256-GCM"},
      {NULL, {.keep_congestion = 1}, NULL},
  };
  static uint8_t local[3 * MIB + 17];
  for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
    /* The server computes with whatever is fastest there: one wire format. */
    struct host host = host_start(ways[i].address, 4 * MIB, NULL);
    struct gb_lane_ticket ticket = host_grant(&host, 1, 0, 0, both);
    struct gb_lane_options options = {.size = sizeof options, .tuning = ways[i].tuning};
    gb_lane *lane;
    const char *address = ways[i].address != NULL ? ways[i].address : "127.0.0.1";
    REQUIRE(gb_lane_open(address, host.port, &ticket, &options, &lane) == GB_LANE_OK);
    fill_pattern(host.memory, i, 0, host.bytes);
    CHECK_EQUAL(gb_lane_read(lane, REGION, 3, local, sizeof local, GB_LANE_NORMAL, 0), GB_LANE_OK);
    CHECK(is_pattern(local, i, 3, sizeof local));
    struct gb_lane_counters counters;
    CHECK_EQUAL(gb_lane_counters(lane, &counters), GB_LANE_OK);
    if (ways[i].cipher != NULL) CHECK(strcmp(counters.cipher, ways[i].cipher) == 0);
    CHECK(counters.provider[0] != 0 && counters.congestion[0] != 0);
    uint64_t trip = 0;
    CHECK_EQUAL(gb_lane_ping(lane, 1000, &trip), GB_LANE_OK);
    CHECK(trip > 0);
    gb_lane_counters(lane, &counters);
    CHECK(counters.round_trips >= 1 && counters.round_trip_ns_min > 0);
    CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
    host_stop(&host);
  }
}

static void keys_change_by_time(void) {
  struct host host = host_start("127.0.0.1", MIB, NULL);
  struct gb_lane_ticket ticket = host_grant(&host, 1, 0, 0, both);
  struct gb_lane_tuning tuning = {.rekey_ms = 50, .heartbeat_ms = 20};
  gb_lane *lane = lane_to(&host, &ticket, 1, &tuning);
  struct gb_lane_counters counters;
  for (uint64_t until = now_ms() + 5000; now_ms() < until; sleep_ms(10)) {
    gb_lane_counters(lane, &counters);
    if (counters.rekeys >= 6) break;
  }
  CHECK(counters.rekeys >= 6);
  uint8_t byte;
  CHECK_EQUAL(gb_lane_read(lane, REGION, 0, &byte, 1, GB_LANE_DEMAND, 0), GB_LANE_OK);
  CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
  host_stop(&host);
}

static void arguments_that_make_no_sense_are_refused(void) {
  struct host host = host_start("127.0.0.1", MIB, NULL);
  struct gb_lane_ticket ticket = host_grant(&host, 1, 0, 0, both);
  gb_lane *lane;
  uint8_t bytes[8];
  uint64_t id;
  CHECK_EQUAL(gb_lane_open("not an address", 1, &ticket, NULL, &lane), GB_LANE_INVALID);
  CHECK_EQUAL(gb_lane_open(NULL, 1, &ticket, NULL, &lane), GB_LANE_INVALID);
  CHECK_EQUAL(gb_lane_open("127.0.0.1", 1, &ticket, NULL, &lane), GB_LANE_UNREACHABLE);
  lane = lane_to(&host, &ticket, 1, NULL);
  struct gb_lane_segment segment = {.bytes = 8, .memory = bytes};
  const struct gb_lane_request right = {
      .size = sizeof right, .operation = GB_LANE_READ, .region = REGION, .segment_count = 1, .segments = &segment};
  struct gb_lane_request wrong = right;
  wrong.operation = 3;
  CHECK_EQUAL(gb_lane_submit(lane, &wrong, &id), GB_LANE_INVALID);
  wrong = right;
  wrong.priority = 3;
  CHECK_EQUAL(gb_lane_submit(lane, &wrong, &id), GB_LANE_INVALID);
  wrong = right;
  wrong.segment_count = 0;
  CHECK_EQUAL(gb_lane_submit(lane, &wrong, &id), GB_LANE_INVALID);
  segment.memory = NULL;
  CHECK_EQUAL(gb_lane_submit(lane, &right, &id), GB_LANE_INVALID);
  segment.memory = bytes;
  segment.offset = UINT64_MAX - 3;
  CHECK_EQUAL(gb_lane_submit(lane, &right, &id), GB_LANE_INVALID);
  segment.offset = MIB - 7;
  CHECK_EQUAL(gb_lane_submit(lane, &right, &id), GB_LANE_OK);
  CHECK_EQUAL(gb_lane_wait(lane, id, 2000), GB_LANE_RANGE);
  segment.bytes = 0; /* nothing to do is done at once */
  CHECK_EQUAL(gb_lane_submit(lane, &right, &id), GB_LANE_OK);
  CHECK_EQUAL(gb_lane_wait(lane, id, 0), GB_LANE_OK);
  CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
  host_stop(&host);
}

static void more_transfers_than_the_limit_are_busy(void) {
  struct host host = host_start("127.0.0.1", MIB, NULL);
  struct gb_lane_ticket ticket = host_grant(&host, 1, 0, 0, both);
  gb_lane *lane = lane_to(&host, &ticket, 1, NULL);
  static uint8_t bytes[GB_LANE_TRANSFERS_MAX][16];
  uint64_t id;
  fill_pattern(host.memory, 2, 0, MIB);
  for (int round = 0; round < 2; round++) {
    for (uint32_t i = 0; i < GB_LANE_TRANSFERS_MAX; i++) {
      struct gb_lane_segment segment = {.offset = i, .bytes = 16, .memory = bytes[i]};
      struct gb_lane_request request = {.size = sizeof request,
                                        .operation = GB_LANE_READ,
                                        .region = REGION,
                                        .notify = 1,
                                        .user = i,
                                        .segment_count = 1,
                                        .segments = &segment};
      REQUIRE(gb_lane_submit(lane, &request, &id) == GB_LANE_OK);
      if (i + 1 == GB_LANE_TRANSFERS_MAX) CHECK_EQUAL(gb_lane_submit(lane, &request, &id), GB_LANE_BUSY);
    }
    uint32_t seen = 0;
    for (uint64_t until = now_ms() + 10000; seen < GB_LANE_TRANSFERS_MAX && now_ms() < until;) {
      struct gb_lane_completion done[100];
      struct pollfd polled = {.fd = gb_lane_poll_fd(lane), .events = POLLIN};
      poll(&polled, 1, 100);
      uint32_t count = gb_lane_reap(lane, done, 100);
      for (uint32_t i = 0; i < count; i++, seen++) {
        CHECK_EQUAL(done[i].status, GB_LANE_OK);
        CHECK_EQUAL(done[i].bytes, 16);
        CHECK(is_pattern(bytes[done[i].user], 2, done[i].user, 16));
      }
    }
    CHECK_EQUAL(seen, GB_LANE_TRANSFERS_MAX);
  }
  CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
  host_stop(&host);
}

static int descriptors;

static void nothing_is_left_open(void) {
  CHECK_EQUAL(open_descriptors(), descriptors);
  CHECK_EQUAL(threads(), 1);
}

int main(int count, char **arguments) {
  if (count > 1) seed = strtoull(arguments[1], NULL, 10);
  lane_crypt_ready();
  descriptors = open_descriptors();
  RUN(random_requests_against_a_model);
  RUN(many_threads_share_a_lane);
  RUN(a_demand_fetch_passes_a_bulk_transfer);
  RUN(answers_come_by_priority);
  RUN(a_cancelled_request_lets_its_memory_go);
  RUN(deadlines_end_requests_on_both_sides);
  RUN(backings_see_whole_writes_only);
  RUN(windows_can_be_changed_meanwhile);
  RUN(every_cipher_and_address_family);
  RUN(keys_change_by_time);
  RUN(arguments_that_make_no_sense_are_refused);
  RUN(more_transfers_than_the_limit_are_busy);
  RUN(nothing_is_left_open);
  return check_done();
}
