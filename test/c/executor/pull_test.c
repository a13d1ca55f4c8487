/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pull_test.c: one executor fetches from another over a lane. Arguments: path of gb-executor; `ram`, `ram-sanitized`,
 * `ram-tsan`, `sim` or `sim-sanitized`.
 */
#include "lane_peer.h"

static uint8_t next_ticket = 1;

/* Two executors; the source holds `length` bytes of a pattern. */
struct pair {
  struct executor from, to;
  uint64_t length;
  uint8_t *pattern;
};

static bool open_pair(struct pair *pair, uint32_t from_kind, uint32_t to_kind, uint64_t length) {
  *pair = (struct pair){.length = length, .pattern = malloc(length)};
  if (!open_executor(&pair->from) || !open_executor(&pair->to))
    return false;
  fill(pair->pattern, length, 77);
  struct gbx_grant grant = grant_of(next_ticket++, 0, length);
  gb_lane *lane;
  bool ready = change(&pair->from, GBX_MSG_ALLOCATE, from_kind, 0, length) == GBX_OK &&
               change(&pair->to, GBX_MSG_ALLOCATE, to_kind, 0, length) == GBX_OK &&
               give(&pair->from, &grant) == GBX_OK && open_lane(&grant, 2, &lane) == GB_LANE_OK;
  if (!ready)
    return false;
  CHECK_EQUAL(put(lane, 0, pair->pattern, length), GB_LANE_OK);
  gb_lane_close(lane, 1000);
  return true;
}

static void close_pair(struct pair *pair) {
  CHECK_EQUAL(close_executor(&pair->from), 0);
  CHECK_EQUAL(close_executor(&pair->to), 0);
  free(pair->pattern);
}

/* A ticket at the source, as a pull for the other. */
static struct gbx_pull pull_of(struct pair *pair, uint64_t bytes_per_second) {
  struct gbx_grant grant = grant_of(next_ticket++, 0, pair->length);
  grant.rights = GB_LANE_MAY_READ;
  grant.bytes_per_second = bytes_per_second;
  CHECK_EQUAL(give(&pair->from, &grant), GBX_OK);
  struct gbx_pull pull = {.length = pair->length,
                          .port = (uint32_t)gb_lane_door_port(lane_door),
                          .connections = 2,
                          .address = "127.0.0.1"};
  memcpy(pull.ticket_id, grant.ticket_id, sizeof(pull.ticket_id));
  memcpy(pull.secret, grant.secret, sizeof(pull.secret));
  return pull;
}

/* Starts a pull. returns: its request. */
static uint64_t begin(struct executor *executor, const struct gbx_pull *pull) {
  uint64_t id = executor->next_id;
  send_frame(executor, GBX_MSG_PULL, pull, sizeof(*pull));
  return id;
}

static struct gbx_status take_reply(struct executor *executor, uint64_t id) {
  struct gbx_frame frame;
  struct gbx_status status = {.status = 999};
  CHECK(read_reply(executor, &frame) && frame.request_id == id && frame.payload_bytes == sizeof(status) &&
        read_fully(executor->socket, &status, sizeof(status)));
  return status;
}

/* What the executor holds, read over a lane. */
static bool holds(struct executor *executor, const uint8_t *bytes, uint64_t length) {
  struct gbx_grant grant = grant_of(next_ticket++, 0, length);
  gb_lane *lane;
  if (give(executor, &grant) != GBX_OK || open_lane(&grant, 1, &lane) != GB_LANE_OK)
    return false;
  uint8_t *copy = malloc(length);
  bool same = get(lane, 0, copy, length) == GB_LANE_OK && memcmp(copy, bytes, length) == 0;
  gb_lane_close(lane, 1000);
  free(copy);
  return same;
}

static void pull_between(uint32_t from_kind, uint32_t to_kind) {
  struct pair pair;
  REQUIRE(open_pair(&pair, from_kind, to_kind, 50 * MIB));
  struct gbx_pull pull = pull_of(&pair, 0);
  struct gbx_status status = take_reply(&pair.to, begin(&pair.to, &pull));
  CHECK_EQUAL(status.status, GBX_OK);
  CHECK_EQUAL(status.bytes, pair.length);
  CHECK(holds(&pair.to, pair.pattern, pair.length));
  CHECK_EQUAL(stat_of(&pair.to).write_bytes, pair.length);

  /* A part of it, to another place: odd offsets. */
  pull = pull_of(&pair, 0);
  pull.source_offset = 3 * MIB + 17;
  pull.offset = 1;
  pull.length = 9 * MIB + 5;
  status = take_reply(&pair.to, begin(&pair.to, &pull));
  CHECK_EQUAL(status.status, GBX_OK);
  memmove(pair.pattern + 1, pair.pattern + 3 * MIB + 17, 9 * MIB + 5);
  CHECK(holds(&pair.to, pair.pattern, pair.length));
  close_pair(&pair);
}

static void bytes_come_from_another_feeder(void) {
  pull_between(GBX_DEVICE_RAM, GBX_DEVICE_RAM);
  if (with_gpu) {
    pull_between(GBX_DEVICE_GPU, GBX_DEVICE_GPU);
    pull_between(GBX_DEVICE_RAM, GBX_DEVICE_GPU);
    pull_between(GBX_DEVICE_GPU, GBX_DEVICE_RAM);
  }
}

/* Cancelled on its way, waiting its turn, and after its end; progress is told meanwhile. */
static void a_pull_can_be_cancelled(void) {
  struct pair pair;
  REQUIRE(open_pair(&pair, GBX_DEVICE_RAM, GBX_DEVICE_RAM, 64 * MIB));
  uint64_t ids[3];
  for (unsigned index = 0; index < 3; index++) { /* one more than run at once */
    struct gbx_pull pull = pull_of(&pair, 16 * MIB);
    ids[index] = begin(&pair.to, &pull);
  }
  struct gbx_pull_ref ref = {ids[0]};
  struct gbx_status told = {0};
  for (int turns = 0; turns < 300 && told.bytes == 0; turns++, usleep(10000))
    told = ask_status(&pair.to, GBX_MSG_PULL_STAT, &ref, sizeof(ref));
  CHECK_EQUAL(told.status, GBX_OK);
  CHECK(told.bytes > 0 && told.bytes < pair.length);
  ref.request_id = ids[2];
  CHECK_EQUAL(ask_status(&pair.to, GBX_MSG_PULL_STAT, &ref, sizeof(ref)).bytes, 0); /* it waits */

  send_frame(&pair.to, GBX_MSG_PULL_CANCEL, &ref, sizeof(ref)); /* its answer and the pull's, in any order */
  for (unsigned count = 0; count < 2; count++) {
    struct gbx_frame frame;
    struct gbx_status status;
    REQUIRE(read_reply(&pair.to, &frame) && read_fully(pair.to.socket, &status, sizeof(status)));
    CHECK_EQUAL(status.status, frame.type == GBX_MSG_PULL ? GBX_CANCELED : GBX_OK);
  }
  uint64_t start = now_ms();
  for (unsigned index = 0; index < 2; index++) {
    ref.request_id = ids[index];
    send_frame(&pair.to, GBX_MSG_PULL_CANCEL, &ref, sizeof(ref));
  }
  for (unsigned count = 0; count < 4; count++) {
    struct gbx_frame frame;
    struct gbx_status status;
    REQUIRE(read_reply(&pair.to, &frame) && read_fully(pair.to.socket, &status, sizeof(status)));
    CHECK_EQUAL(status.status, frame.type == GBX_MSG_PULL ? GBX_CANCELED : GBX_OK);
  }
  CHECK(now_ms() - start < 1500);
  CHECK_EQUAL(ask_status(&pair.to, GBX_MSG_PULL_CANCEL, &ref, sizeof(ref)).status, GBX_NOT_FOUND);
  CHECK_EQUAL(ask_status(&pair.to, GBX_MSG_PULL_STAT, &ref, sizeof(ref)).status, GBX_NOT_FOUND);

  struct gbx_pull again = pull_of(&pair, 0); /* what was cancelled has broken nothing */
  CHECK_EQUAL(take_reply(&pair.to, begin(&pair.to, &again)).status, GBX_OK);
  CHECK(holds(&pair.to, pair.pattern, pair.length));
  close_pair(&pair);
}

static void bad_pulls_are_refused(void) {
  struct pair pair;
  REQUIRE(open_pair(&pair, GBX_DEVICE_RAM, GBX_DEVICE_RAM, 4 * MIB));
  const struct gbx_pull good = pull_of(&pair, 0);
  struct gbx_pull bad[7] = {good, good, good, good, good, good, good};
  bad[0].length = 0;
  bad[1].offset = UINT64_MAX - 5;
  bad[2].source_offset = UINT64_MAX - 5;
  bad[3].port = 65536;
  bad[4].connections = GB_LANE_CONNECTIONS_MAX + 1;
  memset(bad[5].address, '1', sizeof(bad[5].address)); /* without an end */
  bad[6].address[0] = '\0';
  for (unsigned index = 0; index < 7; index++)
    CHECK_EQUAL(take_reply(&pair.to, begin(&pair.to, &bad[index])).status, GBX_INVALID);
  struct gbx_pull wrong = good;
  wrong.secret[0] ^= 1;
  struct gbx_status status = take_reply(&pair.to, begin(&pair.to, &wrong));
  CHECK(status.status == GBX_LANE && status.detail == GB_LANE_REFUSED);
  struct gbx_pull hole = good; /* the last pieces have no memory here */
  hole.offset = 2 * MIB;
  CHECK_EQUAL(take_reply(&pair.to, begin(&pair.to, &hole)).status, GBX_NOT_FOUND);
  struct gbx_pull beyond = pull_of(&pair, 0);
  beyond.source_offset = 2 * MIB;
  status = take_reply(&pair.to, begin(&pair.to, &beyond));
  CHECK(status.status == GBX_LANE && status.detail == GB_LANE_RANGE);
  CHECK_EQUAL(change(&pair.from, GBX_MSG_FREE, GBX_DEVICE_RAM, 0, 4 * MIB), GBX_OK);
  struct gbx_pull gone = pull_of(&pair, 0);
  status = take_reply(&pair.to, begin(&pair.to, &gone));
  CHECK(status.status == GBX_LANE && status.detail == GB_LANE_IO);
  close_pair(&pair);
}

/* The source dies, or the destination is freed, in the middle of it. */
static void a_pull_ends_with_either_side(void) {
  struct pair pair;
  REQUIRE(open_pair(&pair, GBX_DEVICE_RAM, GBX_DEVICE_RAM, 64 * MIB));
  struct gbx_pull pull = pull_of(&pair, 16 * MIB);
  uint64_t id = begin(&pair.to, &pull);
  usleep(300000);
  uint64_t free_id = pair.to.next_id;
  struct gbx_range range = {GBX_DEVICE_RAM, 0, 0, pair.length};
  send_frame(&pair.to, GBX_MSG_FREE, &range, sizeof(range));
  uint64_t start = now_ms();
  for (unsigned count = 0; count < 2; count++) {
    struct gbx_frame frame;
    struct gbx_status status;
    REQUIRE(read_reply(&pair.to, &frame) && read_fully(pair.to.socket, &status, sizeof(status)));
    CHECK(frame.request_id == id || frame.request_id == free_id);
    CHECK_EQUAL(status.status, frame.request_id == id ? GBX_NOT_FOUND : GBX_OK);
  }
  CHECK(now_ms() - start < 1500);
  CHECK_EQUAL(change(&pair.to, GBX_MSG_ALLOCATE, GBX_DEVICE_RAM, 0, pair.length), GBX_OK);
  pull = pull_of(&pair, 16 * MIB);
  id = begin(&pair.to, &pull);
  usleep(300000);
  kill(pair.from.pid, SIGKILL);
  start = now_ms();
  CHECK_EQUAL(take_reply(&pair.to, id).status, GBX_LANE);
  CHECK(now_ms() - start < 3000);
  CHECK_EQUAL(close_executor(&pair.from), -SIGKILL);
  CHECK_EQUAL(close_executor(&pair.to), 0);
  free(pair.pattern);
}

int main(int argc, char **argv) {
  if (!lane_peer_begin(argc, argv))
    return 2;
  RUN(bytes_come_from_another_feeder);
  RUN(a_pull_can_be_cancelled);
  RUN(bad_pulls_are_refused);
  RUN(a_pull_ends_with_either_side);
  gb_lane_door_close(lane_door);
  return check_done();
}
