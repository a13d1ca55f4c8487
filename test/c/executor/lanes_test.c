/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lanes_test.c: lanes that end in a real gb-executor: a real door passes their connections, a real client reads and
 * writes. Arguments: path of gb-executor; `ram`, `ram-sanitized`, `sim` or `sim-sanitized`.
 */
#include "lane_peer.h"

/* ---- what works ---- */

static void bytes_go_through(struct executor *executor, uint32_t kind, uint8_t number) {
  const uint64_t length = 24 * MIB, at = 10 * MIB;
  CHECK_EQUAL(change(executor, GBX_MSG_ALLOCATE, kind, at, 4 * MIB), GBX_OK);
  CHECK_EQUAL(change(executor, GBX_MSG_ALLOCATE, kind, at + 4 * MIB, length - 4 * MIB), GBX_OK);
  struct gbx_grant grant = grant_of(number, at, length);
  REQUIRE(give(executor, &grant) == GBX_OK);
  CHECK_EQUAL(lane_of(executor, &grant).state, GB_LANE_PENDING);
  struct gbx_stat before = stat_of(executor);
  gb_lane *lane;
  REQUIRE(open_lane(&grant, 2, &lane) == GB_LANE_OK);
  uint8_t *source = malloc(length), *copy = malloc(length);
  memset(copy, 0xff, length);
  CHECK_EQUAL(get(lane, 0, copy, length), GB_LANE_OK);
  CHECK(is_zero(copy, length));
  fill(source, length, number);
  CHECK_EQUAL(put(lane, 0, source, length), GB_LANE_OK);
  CHECK_EQUAL(get(lane, 0, copy, length), GB_LANE_OK);
  CHECK(memcmp(source, copy, length) == 0);

  /* Odd sizes at odd places, across the seam of the two ranges. */
  const struct { uint64_t offset, bytes; } pieces[] = {{4 * MIB - 7, 15}, {1, 1}, {length - 1, 1},
                                                       {3 * MIB + 123, 2 * MIB + 5}, {777, 64 * KIB}};
  for (size_t index = 0; index < sizeof(pieces) / sizeof(*pieces); index++) {
    fill(source + pieces[index].offset, pieces[index].bytes, (uint32_t)(number + index));
    CHECK_EQUAL(put(lane, pieces[index].offset, source + pieces[index].offset, pieces[index].bytes), GB_LANE_OK);
    CHECK_EQUAL(gb_lane_read(lane, 0, pieces[index].offset, copy + pieces[index].offset, pieces[index].bytes,
                             GB_LANE_DEMAND, 0), GB_LANE_OK);
  }
  CHECK(memcmp(source, copy, length) == 0);
  CHECK_EQUAL(get(lane, 0, copy, length), GB_LANE_OK);
  CHECK(memcmp(source, copy, length) == 0);

  struct gbx_lane_stat stat = lane_of(executor, &grant);
  CHECK_EQUAL(stat.state, GB_LANE_OK);
  CHECK_EQUAL(stat.connections, 3);
  CHECK(stat.bytes_written > 3 * length && stat.bytes_read > length && stat.cipher[0] != '\0');
  struct gbx_stat after = stat_of(executor);
  CHECK_EQUAL(after.read_bytes - before.read_bytes, stat.bytes_written);
  CHECK_EQUAL(after.write_bytes - before.write_bytes, stat.bytes_read);
  CHECK(event_of(executor, GB_LANE_EVENT_OPENED, number) != NULL);
  CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
  const struct gbx_lane_event *closed = event_of(executor, GB_LANE_EVENT_CLOSED, number);
  REQUIRE(closed != NULL);
  CHECK_EQUAL(closed->status, GB_LANE_CLOSED);
  CHECK(strncmp(closed->address, "127.0.0.1:", 10) == 0);
  CHECK_EQUAL(lane_of(executor, &grant).state, GB_LANE_CLOSED);
  CHECK_EQUAL(take_back(executor, &grant), GBX_OK);
  CHECK_EQUAL(lane_of(executor, &grant).status, GBX_NOT_FOUND);
  CHECK_EQUAL(change(executor, GBX_MSG_FREE, kind, at, 4 * MIB), GBX_OK);
  CHECK_EQUAL(change(executor, GBX_MSG_FREE, kind, at + 4 * MIB, length - 4 * MIB), GBX_OK);
  free(source);
  free(copy);
}

static void bytes_land_where_they_belong(void) {
  struct executor executor;
  REQUIRE(open_executor(&executor));
  bytes_go_through(&executor, GBX_DEVICE_RAM, 1);
  if (with_gpu)
    bytes_go_through(&executor, GBX_DEVICE_GPU, 2);
  CHECK_EQUAL(close_executor(&executor), 0);
}

/* RAM beside VRAM in one grant: a record lies in both. */
static void a_record_may_lie_on_two_devices(void) {
  struct executor executor;
  REQUIRE(open_executor(&executor));
  CHECK_EQUAL(change(&executor, GBX_MSG_ALLOCATE, GBX_DEVICE_RAM, 0, 2 * MIB), GBX_OK);
  CHECK_EQUAL(change(&executor, GBX_MSG_ALLOCATE, GBX_DEVICE_GPU, 2 * MIB, 2 * MIB), GBX_OK);
  struct gbx_grant grant = grant_of(3, 0, 4 * MIB);
  gb_lane *lane;
  REQUIRE(give(&executor, &grant) == GBX_OK && open_lane(&grant, 1, &lane) == GB_LANE_OK);
  uint8_t *source = malloc(4 * MIB), *copy = calloc(1, 4 * MIB);
  fill(source, 4 * MIB, 3);
  const uint64_t at = 2 * MIB - 300 * KIB - 1, bytes = 700 * KIB;
  CHECK_EQUAL(put(lane, at, source + at, bytes), GB_LANE_OK);
  CHECK_EQUAL(get(lane, at, copy + at, bytes), GB_LANE_OK);
  CHECK(memcmp(source + at, copy + at, bytes) == 0);
  gb_lane_close(lane, 1000);
  free(source);
  free(copy);
  CHECK_EQUAL(close_executor(&executor), 0);
}

/* ---- what must not ---- */

static void rights_and_ranges_hold(void) {
  struct executor executor;
  REQUIRE(open_executor(&executor));
  CHECK_EQUAL(change(&executor, GBX_MSG_ALLOCATE, GBX_DEVICE_RAM, 0, 6 * MIB), GBX_OK);
  uint8_t bytes[4096] = {7};
  gb_lane *lane;
  struct gbx_grant reader = grant_of(4, 2 * MIB, 2 * MIB);
  reader.rights = GB_LANE_MAY_READ;
  REQUIRE(give(&executor, &reader) == GBX_OK && open_lane(&reader, 1, &lane) == GB_LANE_OK);
  CHECK_EQUAL(put(lane, 0, bytes, sizeof(bytes)), GB_LANE_DENIED);
  CHECK_EQUAL(get(lane, 2 * MIB - 4095, bytes, 4096), GB_LANE_RANGE);
  CHECK_EQUAL(get(lane, UINT64_MAX - 10, bytes, 4096), GB_LANE_INVALID);
  CHECK_EQUAL(get(lane, 2 * MIB - 4096, bytes, 4096), GB_LANE_OK);
  CHECK_EQUAL(gb_lane_read(lane, 1, 0, bytes, 1, 0, 0), GB_LANE_NOT_FOUND);
  gb_lane_close(lane, 1000);

  struct gbx_grant writer = grant_of(5, 0, 6 * MIB);
  writer.rights = GB_LANE_MAY_WRITE;
  REQUIRE(give(&executor, &writer) == GBX_OK && open_lane(&writer, 1, &lane) == GB_LANE_OK);
  CHECK_EQUAL(get(lane, 0, bytes, sizeof(bytes)), GB_LANE_DENIED);
  CHECK_EQUAL(put(lane, 6 * MIB - 4096, bytes, sizeof(bytes)), GB_LANE_OK);
  gb_lane_close(lane, 1000);
  CHECK(open_lane(&writer, 1, &lane) != GB_LANE_OK); /* a ticket makes one lane */
  CHECK(event_of(&executor, GB_LANE_EVENT_REFUSED, 0) != NULL);
  CHECK_EQUAL(close_executor(&executor), 0);
}

static void bad_grants_are_refused(void) {
  struct executor executor;
  REQUIRE(open_executor(&executor));
  struct gbx_grant bad[] = {
      grant_of(6, 0, 0),           grant_of(6, ARENA_BYTES, 1), grant_of(6, 1, ARENA_BYTES),
      grant_of(6, UINT64_MAX, 2),  grant_of(6, 0, 4096),        grant_of(6, 0, 4096),
      grant_of(6, 0, 4096),        grant_of(6, 0, 4096),
  };
  bad[4].rights = 0;
  bad[5].rights = with_gpu ? 8 : GB_LANE_MAY_CALL; /* nothing can run in RAM */
  bad[6].connections = GB_LANE_CONNECTIONS_MAX + 1;
  bad[7].window = GB_LANE_WINDOW_MAX + 1;
  for (size_t index = 0; index < sizeof(bad) / sizeof(*bad); index++)
    CHECK_EQUAL(give(&executor, &bad[index]), GBX_INVALID);
  struct gbx_grant good = grant_of(6, 0, 4096);
  CHECK_EQUAL(take_back(&executor, &good), GBX_NOT_FOUND);
  CHECK_EQUAL(give(&executor, &good), GBX_OK);
  CHECK_EQUAL(give(&executor, &good), GBX_INVALID); /* the id is taken */
  CHECK_EQUAL(take_back(&executor, &good), GBX_OK);
  CHECK_EQUAL(take_back(&executor, &good), GBX_NOT_FOUND);
  CHECK_EQUAL(give(&executor, &good), GBX_OK);
  CHECK_EQUAL(close_executor(&executor), 0);
}

static void what_is_not_allocated_fails(struct executor *executor, uint32_t kind, uint8_t number) {
  uint8_t *bytes = calloc(1, 4 * MIB);
  struct gbx_grant grant = grant_of(number, 0, 8 * MIB);
  gb_lane *lane;
  REQUIRE(give(executor, &grant) == GBX_OK && open_lane(&grant, 1, &lane) == GB_LANE_OK);
  CHECK_EQUAL(get(lane, 0, bytes, 4096), GB_LANE_IO);
  CHECK_EQUAL(put(lane, 0, bytes, 4096), GB_LANE_IO);
  CHECK_EQUAL(change(executor, GBX_MSG_ALLOCATE, kind, 2 * MIB, 2 * MIB), GBX_OK); /* while the lane is open */
  CHECK_EQUAL(put(lane, 2 * MIB, bytes, 2 * MIB), GB_LANE_OK);
  CHECK_EQUAL(get(lane, 2 * MIB - 1, bytes, 2), GB_LANE_IO);
  CHECK_EQUAL(get(lane, 4 * MIB - 1, bytes, 2), GB_LANE_IO);
  CHECK_EQUAL(put(lane, 4 * MIB - 1, bytes, 2), GB_LANE_IO);
  CHECK_EQUAL(get(lane, 2 * MIB, bytes, 2 * MIB), GB_LANE_OK);
  CHECK_EQUAL(change(executor, GBX_MSG_FREE, kind, 2 * MIB, 2 * MIB), GBX_OK);
  CHECK_EQUAL(get(lane, 2 * MIB, bytes, 2 * MIB), GB_LANE_IO);
  CHECK_EQUAL(gb_lane_state(lane), GB_LANE_OK);
  gb_lane_close(lane, 1000);
  CHECK_EQUAL(take_back(executor, &grant), GBX_OK);
  free(bytes);
}

static void holes_are_errors_and_the_lane_lives(void) {
  struct executor executor;
  REQUIRE(open_executor(&executor));
  what_is_not_allocated_fails(&executor, GBX_DEVICE_RAM, 7);
  if (with_gpu)
    what_is_not_allocated_fails(&executor, GBX_DEVICE_GPU, 8);
  CHECK_EQUAL(close_executor(&executor), 0);
}

/* ---- freeing under load ---- */

struct load {
  gb_lane *lane;
  uint64_t length;
  uint64_t moved;
  int status;
};

static void *load_main(void *argument) {
  struct load *load = argument;
  uint8_t *memory = calloc(1, load->length);
  while (load->status == GB_LANE_OK) {
    load->status = put(load->lane, 0, memory, load->length);
    if (load->status == GB_LANE_OK)
      load->status = get(load->lane, 0, memory, load->length);
    load->moved += load->length;
  }
  free(memory);
  return NULL;
}

static void free_under_load(struct executor *executor, uint32_t kind, uint8_t number) {
  struct gbx_grant grant = grant_of(number, 0, 16 * MIB);
  struct load load = {.length = 16 * MIB};
  CHECK_EQUAL(change(executor, GBX_MSG_ALLOCATE, kind, 0, 16 * MIB), GBX_OK);
  REQUIRE(give(executor, &grant) == GBX_OK && open_lane(&grant, 2, &load.lane) == GB_LANE_OK);
  pthread_t thread;
  REQUIRE(pthread_create(&thread, NULL, load_main, &load) == 0);
  usleep(200000);
  uint64_t start = now_ms();
  CHECK_EQUAL(change(executor, GBX_MSG_FREE, kind, 0, 16 * MIB), GBX_OK);
  CHECK(now_ms() - start < 1500);
  pthread_join(thread, NULL);
  CHECK_EQUAL(load.status, GB_LANE_IO);
  CHECK(load.moved > 0);
  CHECK_EQUAL(gb_lane_state(load.lane), GB_LANE_OK);
  CHECK_EQUAL(change(executor, GBX_MSG_ALLOCATE, kind, 0, 16 * MIB), GBX_OK);
  uint8_t *bytes = malloc(16 * MIB);
  CHECK_EQUAL(get(load.lane, 0, bytes, 16 * MIB), GB_LANE_OK);
  CHECK(is_zero(bytes, 16 * MIB));
  free(bytes);
  CHECK_EQUAL(take_back(executor, &grant), GBX_OK);
  CHECK(get(load.lane, 0, &number, 1) != GB_LANE_OK);
  gb_lane_close(load.lane, 100);
  CHECK_EQUAL(change(executor, GBX_MSG_FREE, kind, 0, 16 * MIB), GBX_OK);
}

static void memory_is_freed_under_load(void) {
  struct executor executor;
  REQUIRE(open_executor(&executor));
  free_under_load(&executor, GBX_DEVICE_RAM, 9);
  if (with_gpu)
    free_under_load(&executor, GBX_DEVICE_GPU, 10);
  CHECK_EQUAL(close_executor(&executor), 0);
}

/* Writes for ever from a process of its own. */
static pid_t start_writer(const struct gbx_grant *grant) {
  pid_t writer = fork();
  if (writer != 0)
    return writer;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  gb_lane *lane;
  uint8_t *bytes = malloc(grant->length);
  int status = open_lane(grant, 2, &lane);
  memset(bytes, 0x5a, grant->length);
  while (status == GB_LANE_OK)
    status = put(lane, 0, bytes, grant->length);
  _exit(status);
}

/* A peer that is stopped in the middle of its writes holds memory for two seconds, and then no more. */
static void a_stopped_writer_keeps_nothing(void) {
  struct executor executor;
  REQUIRE(open_executor(&executor));
  for (uint8_t round = 0; round < 4; round++) {
    CHECK_EQUAL(change(&executor, GBX_MSG_ALLOCATE, GBX_DEVICE_RAM, 0, 8 * MIB), GBX_OK);
    struct gbx_grant grant = grant_of((uint8_t)(40 + round), 0, 8 * MIB);
    REQUIRE(give(&executor, &grant) == GBX_OK);
    pid_t writer = start_writer(&grant);
    for (uint64_t until = now_ms() + 5000; lane_of(&executor, &grant).bytes_read < MIB && now_ms() < until;)
      usleep(1000);
    CHECK_EQUAL(kill(writer, SIGSTOP), 0);
    uint64_t start = now_ms();
    CHECK_EQUAL(change(&executor, GBX_MSG_FREE, GBX_DEVICE_RAM, 0, 8 * MIB), GBX_OK);
    CHECK(now_ms() - start < 3500);
    kill(writer, SIGKILL);
    waitpid(writer, NULL, 0);
    take_back(&executor, &grant);
  }
  CHECK_EQUAL(stat_of(&executor).ram_bytes, 0);
  CHECK_EQUAL(close_executor(&executor), 0);
}

/* ---- rates ---- */

static void rates_are_held_and_can_change(void) {
  struct executor executor;
  const uint64_t length = 8 * MIB;
  REQUIRE(open_executor(&executor));
  CHECK_EQUAL(change(&executor, GBX_MSG_ALLOCATE, GBX_DEVICE_RAM, 0, length), GBX_OK);
  struct gbx_grant grant = grant_of(11, 0, length);
  grant.bytes_per_second = 8 * MIB;
  gb_lane *lane;
  REQUIRE(give(&executor, &grant) == GBX_OK && open_lane(&grant, 2, &lane) == GB_LANE_OK);
  uint8_t *bytes = calloc(1, length);
  uint64_t start = now_ms();
  CHECK_EQUAL(put(lane, 0, bytes, length), GB_LANE_OK); /* the last record goes when the others are paid for */
  CHECK(now_ms() - start > 700 && now_ms() - start < 2500);
  start = now_ms();
  CHECK_EQUAL(get(lane, 0, bytes, length), GB_LANE_OK);
  CHECK(now_ms() - start > 700 && now_ms() - start < 2500);
  struct gbx_limit limit = {.bytes_per_second = 0};
  memcpy(limit.ticket_id, grant.ticket_id, sizeof(limit.ticket_id));
  CHECK_EQUAL(ask_status(&executor, GBX_MSG_LIMIT, &limit, sizeof(limit)).status, GBX_OK);
  start = now_ms();
  CHECK_EQUAL(put(lane, 0, bytes, length), GB_LANE_OK);
  CHECK(now_ms() - start < 600);
  limit.ticket_id[0] ^= 1;
  CHECK_EQUAL(ask_status(&executor, GBX_MSG_LIMIT, &limit, sizeof(limit)).status, GBX_NOT_FOUND);
  gb_lane_close(lane, 1000);
  free(bytes);
  CHECK_EQUAL(close_executor(&executor), 0);
}

/* ---- blocks that are known ---- */

static struct gbx_cache cache_of(const char *folder) {
  struct gbx_cache cache = {.key = {9, 9, 9}, .budget_bytes = 64 * MIB};
  snprintf(cache.path, sizeof(cache.path), "%s", folder);
  return cache;
}

/* Offers 16 blocks at `offset` as a host does before it writes. returns: how many were there, as bits. */
static unsigned offer(gb_lane *lane, uint64_t offset, const uint8_t *content) {
  uint8_t digests[16 * GB_LANE_DIGEST_BYTES], have[2] = {0};
  CHECK_EQUAL(gb_lane_digests(content, MIB, 16, digests, 1), GB_LANE_OK);
  CHECK_EQUAL(gb_lane_offer(lane, 0, offset, MIB, digests, 16, have, 0), GB_LANE_OK);
  return have[0] | (unsigned)have[1] << 8;
}

/* Sends what is not there. returns: how many blocks were. */
static unsigned upload(gb_lane *lane, const uint8_t *content) {
  unsigned have = offer(lane, 0, content);
  for (unsigned index = 0; index < 16; index++) {
    if ((have & 1u << index) == 0)
      CHECK_EQUAL(put(lane, index * MIB, content + index * MIB, MIB), GB_LANE_OK);
  }
  return (unsigned)__builtin_popcount(have);
}

/* A second executor finds what was sent to the first. */
static void a_second_upload(uint32_t kind, const char *folder, unsigned round, uint32_t seed) {
  struct executor executor;
  REQUIRE(open_executor(&executor));
  struct gbx_cache cache = cache_of(folder);
  CHECK_EQUAL(ask_status(&executor, GBX_MSG_CACHE, &cache, sizeof(cache)).status, GBX_OK);
  CHECK_EQUAL(ask_status(&executor, GBX_MSG_CACHE, &cache, sizeof(cache)).status, GBX_INVALID); /* once */
  CHECK_EQUAL(change(&executor, GBX_MSG_ALLOCATE, kind, 0, 32 * MIB), GBX_OK);
  struct gbx_grant grant = grant_of((uint8_t)(20 + round), 0, 32 * MIB);
  gb_lane *lane;
  REQUIRE(give(&executor, &grant) == GBX_OK && open_lane(&grant, 2, &lane) == GB_LANE_OK);
  uint8_t *content = malloc(16 * MIB), *copy = malloc(16 * MIB);
  fill(content, 16 * MIB, seed);
  unsigned found = upload(lane, content);
  CHECK_EQUAL(found, round == 0 ? 0 : 16);
  CHECK_EQUAL(get(lane, 0, copy, 16 * MIB), GB_LANE_OK);
  CHECK(memcmp(content, copy, 16 * MIB) == 0);
  struct gbx_lane_stat stat = lane_of(&executor, &grant);
  CHECK_EQUAL(stat.cached_bytes, found * MIB);
  CHECK_EQUAL(stat.bytes_read, (16 - found) * MIB + 16 * GB_LANE_DIGEST_BYTES); /* the offer */
  CHECK_EQUAL(stat_of(&executor).write_bytes, (16 - found) * MIB);
  /* Kept in the background: offered at another place, everything is there in the end. */
  unsigned have = 0;
  for (uint64_t until = now_ms() + 60000; have != 0xffff && now_ms() < until; usleep(100000))
    have = offer(lane, 16 * MIB, content);
  CHECK_EQUAL(have, 0xffff);
  CHECK_EQUAL(get(lane, 16 * MIB, copy, 16 * MIB), GB_LANE_OK);
  CHECK(memcmp(content, copy, 16 * MIB) == 0);
  gb_lane_close(lane, 1000);
  free(content);
  free(copy);
  CHECK_EQUAL(close_executor(&executor), 0);
}

static void what_was_sent_before_is_not_sent_again(void) {
  char folder[] = "/tmp/gb-blocks-test-XXXXXX", command[64];
  REQUIRE(mkdtemp(folder) != NULL);
  a_second_upload(GBX_DEVICE_RAM, folder, 0, 50);
  a_second_upload(GBX_DEVICE_RAM, folder, 1, 50);
  if (with_gpu)
    a_second_upload(GBX_DEVICE_GPU, folder, 2, 50);
  snprintf(command, sizeof(command), "rm -r %s", folder);
  CHECK_EQUAL(system(command), 0);
}

int main(int argc, char **argv) {
  if (!lane_peer_begin(argc, argv))
    return 2;
  RUN(bytes_land_where_they_belong);
  if (with_gpu)
    RUN(a_record_may_lie_on_two_devices);
  RUN(rights_and_ranges_hold);
  RUN(bad_grants_are_refused);
  RUN(holes_are_errors_and_the_lane_lives);
  RUN(memory_is_freed_under_load);
  RUN(a_stopped_writer_keeps_nothing);
  RUN(rates_are_held_and_can_change);
  RUN(what_was_sent_before_is_not_sent_again);
  gb_lane_door_close(lane_door);
  return check_done();
}
