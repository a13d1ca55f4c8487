/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rate_test.c: lanes with a limit: as fast as that each way and no faster, whatever the peer asks for; demand requests
 * before bulk; heartbeats go on.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "harness.h"

static const uint32_t both = GB_LANE_MAY_READ | GB_LANE_MAY_WRITE;
static uint8_t local[16 * MIB];

#define RATE (40 * MIB)
#define SMALL 65536u

static struct host host;

static gb_lane *limited(uint32_t connections, uint64_t rate, struct gb_lane_ticket *ticket) {
  *ticket = host_grant(&host, connections, 0, 0, both);
  if (host_rate(&host, ticket, rate) != GB_LANE_OK) abort();
  return lane_to(&host, ticket, connections, NULL);
}

/* Milliseconds that moving it all took. */
static uint64_t move(gb_lane *lane, uint32_t operation, size_t bytes) {
  uint64_t start = now_ms();
  int status = operation == GB_LANE_READ ? gb_lane_read(lane, REGION, 0, local, bytes, GB_LANE_NORMAL, 60000)
                                         : gb_lane_write(lane, REGION, 0, local, bytes, GB_LANE_NORMAL, 60000);
  CHECK_EQUAL(status, GB_LANE_OK);
  return now_ms() - start;
}

/* 16 MiB at 40 MiB/s are 400 ms. A machine may be slow, so only too fast is wrong beyond doubt. */
static void both_ways_keep_to_the_limit(void) {
  for (uint32_t connections = 1; connections <= 2; connections++) {
    struct gb_lane_ticket ticket;
    gb_lane *lane = limited(connections, RATE, &ticket);
    uint64_t read = move(lane, GB_LANE_READ, sizeof local);
    CHECK(read >= 340 && read < 3000);
    uint64_t written = move(lane, GB_LANE_WRITE, sizeof local);
    CHECK(written >= 340 && written < 3000);
    CHECK(memcmp(local, host.memory, sizeof local) == 0);
    CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
  }
}

static void a_changed_limit_holds_at_once(void) {
  struct gb_lane_ticket ticket;
  gb_lane *lane = limited(1, GB_LANE_RATE_MIN, &ticket);
  struct gb_lane_segment segment = {.bytes = sizeof local, .memory = local};
  for (uint32_t operation = GB_LANE_READ; operation <= GB_LANE_WRITE; operation++) {
    CHECK_EQUAL(host_rate(&host, &ticket, 1), GB_LANE_OK); /* taken as the least there is */
    struct gb_lane_request request = {.size = sizeof request,
                                      .operation = operation,
                                      .region = REGION,
                                      .priority = GB_LANE_NORMAL,
                                      .deadline_ms = 60000,
                                      .segment_count = 1,
                                      .segments = &segment};
    uint64_t id;
    REQUIRE(gb_lane_submit(lane, &request, &id) == GB_LANE_OK);
    CHECK_EQUAL(gb_lane_wait(lane, id, 300), GB_LANE_TIMEOUT); /* 16 MiB would take four minutes */
    CHECK_EQUAL(host_rate(&host, &ticket, 0), GB_LANE_OK);
    CHECK_EQUAL(gb_lane_wait(lane, id, 10000), GB_LANE_OK);
  }
  struct gb_lane_ticket nobody = ticket;
  nobody.id[0] ^= 1;
  CHECK_EQUAL(host_rate(&host, &nobody, 1), GB_LANE_NOT_FOUND);
  CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
}

/* Slower than a piece (256 KiB) in the time after which a silent peer is lost: the lane lives on, and goes on. */
static void a_slow_lane_is_not_a_dead_one(void) {
  struct gb_lane_ticket ticket = host_grant(&host, 1, 0, 0, both);
  struct gb_lane_tuning tuning = {.silence_ms = 400};
  CHECK_EQUAL(host_rate(&host, &ticket, MIB / 2), GB_LANE_OK);
  gb_lane *lane = lane_to(&host, &ticket, 1, &tuning);
  uint64_t took = move(lane, GB_LANE_READ, MIB);
  CHECK(took >= 1400 && took < 8000);
  took = move(lane, GB_LANE_WRITE, MIB);
  CHECK(took >= 1900 && took < 8000);
  CHECK_EQUAL(gb_lane_state(lane), GB_LANE_OK);
  CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
}

static void demand_goes_before_bulk_that_waits(void) {
  struct gb_lane_ticket ticket;
  gb_lane *lane = limited(1, 4 * MIB, &ticket);
  static uint8_t page[SMALL];
  struct gb_lane_segment segment = {.bytes = sizeof local, .memory = local};
  for (uint32_t operation = GB_LANE_READ; operation <= GB_LANE_WRITE; operation++) {
    struct gb_lane_request bulk = {.size = sizeof bulk,
                                   .operation = operation,
                                   .region = REGION,
                                   .priority = GB_LANE_BACKGROUND,
                                   .segment_count = 1,
                                   .segments = &segment};
    uint64_t id, longest = 0;
    REQUIRE(gb_lane_submit(lane, &bulk, &id) == GB_LANE_OK);
    sleep_ms(50);
    for (int i = 0; i < 6; i++) {
      uint64_t start = now_ms();
      int status = operation == GB_LANE_READ ? gb_lane_read(lane, REGION, 0, page, SMALL, GB_LANE_DEMAND, 0)
                                             : gb_lane_write(lane, REGION, 0, page, SMALL, GB_LANE_DEMAND, 0);
      CHECK_EQUAL(status, GB_LANE_OK);
      if (now_ms() - start > longest) longest = now_ms() - start;
    }
    if (operation == GB_LANE_READ) CHECK(longest < 200); /* one record of bulk takes 250 */
    CHECK_EQUAL(gb_lane_wait(lane, id, 0), GB_LANE_TIMEOUT);
    CHECK_EQUAL(gb_lane_cancel(lane, id), GB_LANE_OK);
    CHECK_EQUAL(gb_lane_wait(lane, id, 5000), GB_LANE_CANCELED);
  }
  CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
}

/* Calling everything demand is no way around it: 13 MB at 10 MB/s, less what may be owed for a quarter of a second. */
static void demand_alone_keeps_to_the_limit(void) {
  struct gb_lane_ticket ticket;
  gb_lane *lane = limited(1, 10000000, &ticket);
  static uint8_t page[SMALL];
  uint64_t start = now_ms();
  for (int i = 0; i < 200; i++)
    CHECK_EQUAL(gb_lane_read(lane, REGION, 0, page, SMALL, GB_LANE_DEMAND, 0), GB_LANE_OK);
  CHECK(now_ms() - start >= 850);
  CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
}

static void the_server_ends_in_order(void) {
  host_stop(&host);
}

int main(void) {
  host = host_start("127.0.0.1", sizeof local, NULL);
  for (size_t i = 0; i < sizeof local; i++) local[i] = (uint8_t)(i * 7);
  RUN(both_ways_keep_to_the_limit);
  RUN(a_changed_limit_holds_at_once);
  RUN(a_slow_lane_is_not_a_dead_one);
  RUN(demand_goes_before_bulk_that_waits);
  RUN(demand_alone_keeps_to_the_limit);
  RUN(the_server_ends_in_order);
  return check_done();
}
