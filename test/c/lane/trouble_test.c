/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trouble_test.c: ends that nobody wished for: killed, stopped and cut-off peers, memory that is taken away while it
 * is used, forks; and that nothing is left behind.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

#define BULK (64 * MIB)
/* What a loaded machine may add to two seconds. */
#define SLACK_MS 2500

static const uint32_t both = GB_LANE_MAY_READ | GB_LANE_MAY_WRITE;

/* A bulk transfer that goes on until the lane ends; counts what it did. */
struct bulk {
  gb_lane *lane;
  uint32_t operation;
  uint8_t *memory;
  _Atomic uint32_t rounds;
  int status;
  uint64_t ended_ms;
  pthread_t thread;
};

static void *bulk_life(void *argument) {
  struct bulk *bulk = argument;
  do {
    bulk->status = bulk->operation == GB_LANE_READ
                       ? gb_lane_read(bulk->lane, REGION, 0, bulk->memory, BULK, GB_LANE_NORMAL, 0)
                       : gb_lane_write(bulk->lane, REGION, 0, bulk->memory, BULK, GB_LANE_NORMAL, 0);
    bulk->rounds++;
  } while (bulk->status == GB_LANE_OK);
  bulk->ended_ms = now_ms();
  return NULL;
}

static void bulk_start(struct bulk *bulk, gb_lane *lane, uint32_t operation) {
  *bulk = (struct bulk){.lane = lane, .operation = operation};
  bulk->memory = mmap(NULL, BULK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  pthread_create(&bulk->thread, NULL, bulk_life, bulk);
}

static void bulk_join(struct bulk *bulk) {
  pthread_join(bulk->thread, NULL);
  munmap(bulk->memory, BULK);
}

static void kill_9_is_seen_at_once(void) {
  for (int i = 0; i < 10; i++) {
    struct host host = host_start("127.0.0.1", BULK, NULL);
    struct gb_lane_ticket ticket = host_grant(&host, 2, 0, 0, both);
    gb_lane *lane = lane_to(&host, &ticket, 2, NULL);
    struct bulk bulk;
    bulk_start(&bulk, lane, 1 + (uint32_t)(i % 2));
    while (bulk.rounds == 0) sleep_ms(1);
    sleep_ms((uint32_t)i);
    uint64_t killed = now_ms();
    host_signal(&host, SIGKILL);
    bulk_join(&bulk);
    CHECK_EQUAL(bulk.status, GB_LANE_DISCONNECTED);
    CHECK(bulk.ended_ms - killed < 1000);
    CHECK_EQUAL(gb_lane_state(lane), GB_LANE_DISCONNECTED);
    uint8_t byte;
    CHECK_EQUAL(gb_lane_read(lane, REGION, 0, &byte, 1, GB_LANE_DEMAND, 0), GB_LANE_DISCONNECTED);
    gb_lane_close(lane, 100);
    host_stop(&host);
  }
}

static void a_killed_client_leaves_a_server_in_order(void) {
  struct host host = host_start("127.0.0.1", BULK, NULL);
  for (uint32_t i = 0; i < 6; i++) {
    struct gb_lane_ticket ticket = host_grant(&host, 2, 0, 0, both);
    int ready[2];
    REQUIRE(pipe(ready) == 0);
    pid_t pid = fork();
    if (pid == 0) {
      struct bulk bulk;
      bulk_start(&bulk, lane_to(&host, &ticket, 2, NULL), 1 + i % 2);
      while (bulk.rounds == 0) sleep_ms(1);
      if (write(ready[1], "r", 1) != 1) _exit(1);
      for (;;) sleep_ms(1000);
    }
    char byte;
    REQUIRE(read(ready[0], &byte, 1) == 1);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    CHECK_EQUAL(host_ended(&host, &ticket), GB_LANE_DISCONNECTED);
    CHECK_EQUAL(host_revoke(&host, &ticket), GB_LANE_OK);
    close(ready[0]);
    close(ready[1]);
  }
  struct gb_lane_server_counters counters = host_server_counters(&host);
  CHECK_EQUAL(counters.connections, 0);
  CHECK_EQUAL(counters.grants, 0);
  CHECK_EQUAL(counters.opened, 6);
  CHECK_EQUAL(counters.closed, 6);
  host_stop(&host);
}

/* A stopped server is lost in two seconds, idle or busy; when it goes on, it finds its lane over. */
static void a_stopped_peer_is_lost_in_two_seconds(void) {
  for (int busy = 0; busy < 3; busy++) {
    struct host host = host_start("127.0.0.1", BULK, NULL);
    struct gb_lane_ticket ticket = host_grant(&host, 2, 0, 0, both);
    gb_lane *lane = lane_to(&host, &ticket, 2, NULL);
    struct bulk bulk;
    if (busy > 0) {
      bulk_start(&bulk, lane, (uint32_t)busy);
      while (bulk.rounds == 0) sleep_ms(1);
    }
    uint64_t stopped = now_ms();
    host_signal(&host, SIGSTOP);
    while (gb_lane_state(lane) == GB_LANE_OK && now_ms() < stopped + 10000) sleep_ms(5);
    uint64_t took = now_ms() - stopped;
    if (busy > 0) bulk_join(&bulk);
    CHECK_EQUAL(gb_lane_state(lane), GB_LANE_LOST);
    if (busy > 0) CHECK_EQUAL(bulk.status, GB_LANE_LOST);
    CHECK(took >= 1400 && took < GB_LANE_SILENCE_MS + SLACK_MS);
    host_signal(&host, SIGCONT);
    CHECK(host_ended(&host, &ticket) != GB_LANE_OK);
    gb_lane_close(lane, 100);
    host_stop(&host);
  }
}

static size_t pass_on(void *context, int connection, int to_server, uint64_t offset, uint8_t *bytes, size_t count) {
  (void)context, (void)connection, (void)to_server, (void)offset, (void)bytes;
  return count;
}

/* A pulled cable: no FIN, no RST. Both ends notice by themselves. */
static void a_cut_is_noticed_on_both_sides(void) {
  struct host host = host_start("127.0.0.1", BULK, NULL);
  struct gb_lane_ticket ticket = host_grant(&host, 1, 0, 0, both);
  uint16_t port;
  struct relay *relay = relay_start(host.port, pass_on, NULL, &port);
  gb_lane *lane;
  REQUIRE(gb_lane_open("127.0.0.1", port, &ticket, NULL, &lane) == GB_LANE_OK);
  struct bulk bulk;
  bulk_start(&bulk, lane, GB_LANE_READ);
  while (bulk.rounds == 0) sleep_ms(1);
  uint64_t cut = now_ms();
  relay_freeze(relay);
  bulk_join(&bulk);
  CHECK_EQUAL(bulk.status, GB_LANE_LOST);
  CHECK(bulk.ended_ms - cut < GB_LANE_SILENCE_MS + SLACK_MS);
  int ended = host_ended(&host, &ticket);
  CHECK(ended == GB_LANE_LOST || ended == GB_LANE_DISCONNECTED);
  CHECK(now_ms() - cut < 2 * GB_LANE_SILENCE_MS + SLACK_MS);
  gb_lane_close(lane, 100);
  relay_stop(relay);
  host_stop(&host);
}

/* A server that is quiet but alive is never lost. */
static void an_idle_lane_lives_on(void) {
  struct host host = host_start("127.0.0.1", MIB, NULL);
  struct gb_lane_ticket ticket = host_grant(&host, 2, 0, 0, both);
  struct gb_lane_tuning tuning = {.silence_ms = 400, .heartbeat_ms = 100};
  gb_lane *lane = lane_to(&host, &ticket, 2, &tuning);
  sleep_ms(2000);
  CHECK_EQUAL(gb_lane_state(lane), GB_LANE_OK);
  CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
  CHECK_EQUAL(host_ended(&host, &ticket), GB_LANE_CLOSED);
  host_stop(&host);
}

/* ---- memory that is taken away ---- */

static void taken_regions_are_not_touched_again(void) {
  struct host host = host_start("127.0.0.1", BULK, NULL);
  struct gb_lane_ticket ticket = host_grant(&host, 2, 0, 0, both);
  gb_lane *lane = lane_to(&host, &ticket, 2, NULL);
  for (uint32_t operation = GB_LANE_READ; operation <= GB_LANE_WRITE; operation++) {
    struct bulk bulk;
    REQUIRE(host_export(&host, &ticket, REGION, 0, BULK, both) == GB_LANE_OK);
    bulk_start(&bulk, lane, operation);
    while (bulk.rounds == 0) sleep_ms(1);
    CHECK_EQUAL(host_unexport(&host, &ticket, REGION), GB_LANE_OK);
    memset(host.memory, 0x77, BULK); /* now somebody else's */
    bulk_join(&bulk);
    CHECK(bulk.status == GB_LANE_NOT_FOUND || bulk.status == GB_LANE_REVOKED);
    bool untouched = true;
    for (size_t i = 0; i < BULK; i++) untouched = untouched && host.memory[i] == 0x77;
    CHECK(untouched);
    CHECK_EQUAL(host_unexport(&host, &ticket, REGION), GB_LANE_NOT_FOUND);
  }
  CHECK_EQUAL(gb_lane_state(lane), GB_LANE_OK); /* the lane itself goes on */
  CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
  host_stop(&host);
}

static void a_revoked_ticket_ends_its_lane(void) {
  struct host host = host_start("127.0.0.1", BULK, NULL);
  for (uint32_t operation = GB_LANE_READ; operation <= GB_LANE_WRITE; operation++) {
    struct gb_lane_ticket ticket = host_grant(&host, 2, 0, 0, both);
    gb_lane *lane = lane_to(&host, &ticket, 2, NULL);
    struct bulk bulk;
    bulk_start(&bulk, lane, operation);
    while (bulk.rounds == 0) sleep_ms(1);
    CHECK_EQUAL(host_revoke(&host, &ticket), GB_LANE_OK);
    memset(host.memory, 0x33, BULK);
    bulk_join(&bulk);
    CHECK(bulk.status == GB_LANE_REVOKED || bulk.status == GB_LANE_NOT_FOUND);
    uint64_t until = now_ms() + 3000;
    while (gb_lane_state(lane) == GB_LANE_OK && now_ms() < until) sleep_ms(5);
    CHECK_EQUAL(gb_lane_state(lane), GB_LANE_REVOKED);
    bool untouched = true;
    for (size_t i = 0; i < BULK; i++) untouched = untouched && host.memory[i] == 0x33;
    CHECK(untouched);
    gb_lane_close(lane, 1000);
  }
  host_stop(&host);
}

/* A client that begins a write and stops half way does not keep the memory from being taken away. */
static void a_stalled_writer_holds_nothing(void) {
  struct host host = host_start("127.0.0.1", MIB, NULL);
  for (int backed = 0; backed < 2; backed++) {
    struct gb_lane_ticket ticket = host_grant(&host, 1, 0, 0, both);
    if (backed) REQUIRE(host_export_backed(&host, &ticket, REGION, 0, 0) == GB_LANE_OK);
    struct peer peer;
    uint8_t sealed[LANE_SEALED_HEAD_BYTES], half[8192] = {0};
    struct lane_head head = {
        .type = LANE_WRITE, .request = 1, .region = REGION, .length = 65536, .body_bytes = 65536};
    REQUIRE(peer_open(&peer, host.port, &ticket, 0));
    REQUIRE(lane_head_seal(&peer.seal, &head, sealed));
    send_whole(peer.fd, sealed, sizeof sealed);
    send_whole(peer.fd, half, sizeof half);
    sleep_ms(100);
    uint64_t start = now_ms();
    CHECK_EQUAL(host_unexport(&host, &ticket, REGION), GB_LANE_OK);
    CHECK(now_ms() - start < 1000);
    peer_close(&peer);
    CHECK_EQUAL(host_ended(&host, &ticket), GB_LANE_DISCONNECTED);
    struct backing_calls calls = host_backing(&host);
    CHECK_EQUAL(calls.acquired, calls.released);
    CHECK_EQUAL(calls.committed, 0);
  }
  host_stop(&host);
}

/* ---- the caller's own affairs ---- */

static void closing_ends_what_is_outstanding(void) {
  struct host host = host_start("127.0.0.1", BULK, NULL);
  for (int i = 0; i < 6; i++) {
    struct gb_lane_ticket ticket = host_grant(&host, 2, 0, 0, both);
    gb_lane *lane = lane_to(&host, &ticket, 2, NULL);
    uint8_t *memory = mmap(NULL, BULK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct gb_lane_segment segment = {.bytes = BULK, .memory = memory};
    struct gb_lane_request request = {.size = sizeof request,
                                      .operation = 1 + (uint32_t)(i % 2),
                                      .region = REGION,
                                      .notify = 1,
                                      .segment_count = 1,
                                      .segments = &segment};
    uint64_t id;
    for (int k = 0; k < 4; k++) REQUIRE(gb_lane_submit(lane, &request, &id) == GB_LANE_OK);
    sleep_ms((uint32_t)(3 * i));
    CHECK_EQUAL(gb_lane_close(lane, 3000), GB_LANE_OK);
    munmap(memory, BULK);
    CHECK_EQUAL(host_ended(&host, &ticket), GB_LANE_CLOSED);
  }
  CHECK_EQUAL(threads(), 1);
  host_stop(&host);
}

static void a_server_that_closes_says_so(void) {
  struct host host = host_start("127.0.0.1", BULK, NULL);
  struct gb_lane_ticket ticket = host_grant(&host, 2, 0, 0, both);
  gb_lane *lane = lane_to(&host, &ticket, 2, NULL);
  struct bulk bulk;
  bulk_start(&bulk, lane, GB_LANE_READ);
  while (bulk.rounds == 0) sleep_ms(1);
  host_stop(&host);
  bulk_join(&bulk);
  CHECK_EQUAL(bulk.status, GB_LANE_CLOSED);
  CHECK_EQUAL(gb_lane_close(lane, 1000), GB_LANE_OK);
}

#if !defined(__SANITIZE_THREAD__) /* which forbids to fork with threads */
static void a_forked_child_has_no_lane(void) {
  struct host host = host_start("127.0.0.1", MIB, NULL);
  struct gb_lane_ticket ticket = host_grant(&host, 1, 0, 0, both);
  gb_lane *lane = lane_to(&host, &ticket, 1, NULL);
  uint8_t byte;
  pid_t pid = fork();
  if (pid == 0) {
    int status = gb_lane_read(lane, REGION, 0, &byte, 1, GB_LANE_DEMAND, 0);
    _exit(status == GB_LANE_FORKED && gb_lane_close(lane, 0) == GB_LANE_FORKED ? 0 : 1);
  }
  int status = -1;
  waitpid(pid, &status, 0);
  CHECK_EQUAL(status, 0);
  CHECK_EQUAL(gb_lane_read(lane, REGION, 0, &byte, 1, GB_LANE_DEMAND, 0), GB_LANE_OK);
  CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
  host_stop(&host);
}
#endif

static void many_lanes_leave_nothing_behind(void) {
  struct host host = host_start("127.0.0.1", MIB, NULL);
  int descriptors = open_descriptors();
  uint8_t bytes[100];
  fill_pattern(host.memory, 1, 0, MIB);
  for (int i = 0; i < 60; i++) {
    struct gb_lane_ticket ticket = host_grant(&host, 2, 0, 0, both);
    gb_lane *lane = lane_to(&host, &ticket, 1 + (uint32_t)(i % 2), NULL);
    CHECK_EQUAL(gb_lane_read(lane, REGION, (uint64_t)i, bytes, sizeof bytes, GB_LANE_DEMAND, 0), GB_LANE_OK);
    CHECK(is_pattern(bytes, 1, (uint64_t)i, sizeof bytes));
    CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
    CHECK_EQUAL(host_revoke(&host, &ticket), GB_LANE_OK);
  }
  CHECK_EQUAL(open_descriptors(), descriptors);
  CHECK_EQUAL(threads(), 1);
  host_stop(&host); /* which checks the same of the server */
}

int main(void) {
  signal(SIGPIPE, SIG_DFL); /* the library must not raise it */
  RUN(kill_9_is_seen_at_once);
  RUN(a_killed_client_leaves_a_server_in_order);
  RUN(a_stopped_peer_is_lost_in_two_seconds);
  RUN(a_cut_is_noticed_on_both_sides);
  RUN(an_idle_lane_lives_on);
  RUN(taken_regions_are_not_touched_again);
  RUN(a_revoked_ticket_ends_its_lane);
  RUN(a_stalled_writer_holds_nothing);
  RUN(closing_ends_what_is_outstanding);
  RUN(a_server_that_closes_says_so);
#if !defined(__SANITIZE_THREAD__)
  RUN(a_forked_child_has_no_lane);
#endif
  RUN(many_lanes_leave_nothing_behind);
  return check_done();
}
