/* SPDX-License-Identifier: Apache-2.0 */
/*
 * executor_test.c: a real gb-executor over its socket: what it holds, and every kind of bad frame, each of which must
 * leave state and contents as they were. Arguments: path of gb-executor; `ram`, `ram-sanitized` or `sim`.
 */

#include "lane_peer.h"

/* ---- what works ---- */

static void allocate_and_free(struct executor *executor, uint32_t kind) {
  CHECK_EQUAL(change(executor, GBX_MSG_ALLOCATE, kind, 4 * MIB, 2 * MIB), GBX_OK);
  CHECK_EQUAL(change(executor, GBX_MSG_ALLOCATE, kind, 6 * MIB, 4 * MIB), GBX_OK);
  struct gbx_stat stat = stat_of(executor);
  CHECK_EQUAL(kind == GBX_DEVICE_RAM ? stat.ram_bytes : stat.vram_bytes[0], 6 * MIB);
  CHECK_EQUAL(stat.range_count, 2);
  CHECK_EQUAL(change(executor, GBX_MSG_FREE, kind, 6 * MIB, 4 * MIB), GBX_OK);
  CHECK_EQUAL(change(executor, GBX_MSG_ALLOCATE, kind, 6 * MIB, 2 * MIB), GBX_OK); /* as something else */
  CHECK_EQUAL(change(executor, GBX_MSG_FREE, kind, 6 * MIB, 2 * MIB), GBX_OK);
  CHECK_EQUAL(change(executor, GBX_MSG_FREE, kind, 4 * MIB, 2 * MIB), GBX_OK);
  stat = stat_of(executor);
  CHECK(stat.ram_bytes == 0 && stat.vram_bytes[0] == 0 && stat.range_count == 0 && stat.ram_locked_bytes == 0);
}

static void the_account_is_kept(void) {
  struct executor executor;
  spawn_executor(&executor);
  close_executor(&executor);
  REQUIRE(open_executor(&executor));
  allocate_and_free(&executor, GBX_DEVICE_RAM);
  if (with_gpu)
    allocate_and_free(&executor, GBX_DEVICE_GPU);
  CHECK_EQUAL(close_executor(&executor), 0);
}

/* The kernel's own account; HOST_NUMA memory is in none. */
static uint64_t locked_by_kernel(const struct executor *executor) {
  char path[64], line[256];
  snprintf(path, sizeof(path), "/proc/%d/status", executor->pid);
  FILE *file = fopen(path, "r");
  unsigned long long locked_kib = 0;
  while (file && fgets(line, sizeof(line), file))
    sscanf(line, "VmLck: %llu", &locked_kib);
  if (file)
    fclose(file);
  return locked_kib * 1024;
}

/* Then RAM comes from there, which needs no lock. */
static bool pool_has_huge_pages(void) {
  char line[256];
  unsigned long long pages = 0;
  FILE *file = fopen("/proc/meminfo", "r");
  while (file && fgets(line, sizeof(line), file))
    sscanf(line, "HugePages_Free: %llu", &pages);
  if (file)
    fclose(file);
  return pages > 0;
}

static uint64_t allocate_ram(struct executor *executor, uint64_t offset, uint64_t length) {
  struct gbx_range range = {GBX_DEVICE_RAM, 0, offset, length};
  struct gbx_status status = ask_status(executor, GBX_MSG_ALLOCATE, &range, sizeof(range));
  CHECK_EQUAL(status.status, GBX_OK);
  return status.bytes;
}

static void locked_bytes_are_told_truly(void) {
  struct executor executor;
  REQUIRE(open_executor(&executor));
  uint64_t locked = allocate_ram(&executor, 0, 16 * MIB);
  CHECK_EQUAL(stat_of(&executor).ram_locked_bytes, locked);
  if (with_gpu)
    CHECK_EQUAL(locked, 16 * MIB);
  else if (!with_sanitizer && !pool_has_huge_pages())
    CHECK_EQUAL(locked_by_kernel(&executor), locked);
  CHECK_EQUAL(close_executor(&executor), 0);
}

static void a_small_memlock_limit_locks_what_it_can(void) {
  struct executor executor;
  memlock_limit = 5 * MIB;
  bool opened = open_executor(&executor);
  memlock_limit = 0;
  REQUIRE(opened);
  CHECK_EQUAL(allocate_ram(&executor, 0, 4 * MIB), 4 * MIB);
  CHECK_EQUAL(allocate_ram(&executor, 4 * MIB, 4 * MIB), 1 * MIB);
  CHECK_EQUAL(allocate_ram(&executor, 8 * MIB, 4 * MIB), 0);
  CHECK_EQUAL(stat_of(&executor).ram_locked_bytes, 5 * MIB);
  CHECK_EQUAL(locked_by_kernel(&executor), 5 * MIB);
  CHECK_EQUAL(change(&executor, GBX_MSG_FREE, GBX_DEVICE_RAM, 0, 4 * MIB), GBX_OK);
  CHECK_EQUAL(stat_of(&executor).ram_locked_bytes, 1 * MIB);
  CHECK_EQUAL(allocate_ram(&executor, 0, 2 * MIB), 2 * MIB);
  CHECK_EQUAL(locked_by_kernel(&executor), 3 * MIB);
  CHECK_EQUAL(close_executor(&executor), 0);
}

static void many_requests_are_in_flight(void) {
  struct executor executor;
  REQUIRE(open_executor(&executor));
  const int count = 200; /* more than the queue holds */
  for (int index = 0; index < count; index++) {
    struct gbx_range range = {GBX_DEVICE_RAM, 0, (uint64_t)(index / 2) * 2 * MIB, 2 * MIB};
    send_frame(&executor, GBX_MSG_ALLOCATE, &range, sizeof(range));
  }
  int allocated = 0;
  for (int index = 0; index < count; index++) {
    struct gbx_frame frame;
    struct gbx_status status;
    REQUIRE(read_reply(&executor, &frame) && read_fully(executor.socket, &status, sizeof(status)));
    CHECK(status.status == GBX_OK || status.status == GBX_INVALID);
    allocated += status.status == GBX_OK;
  }
  CHECK_EQUAL(allocated, count / 2); /* each of them once */
  CHECK_EQUAL(stat_of(&executor).ram_bytes, (uint64_t)count / 2 * 2 * MIB);
  CHECK_EQUAL(close_executor(&executor), 0);
}

/* Large ranges are scrubbed while other requests are answered. */
static void nobody_waits_for_scrubbing(void) {
  enum { RANGES = 12, WORKERS = 4 }; /* more than are scrubbed at once */
  const uint64_t length = 64 * MIB;
  struct executor executor;
  REQUIRE(open_executor(&executor));
  for (uint64_t at = 0; at < RANGES; at++)
    CHECK_EQUAL(change(&executor, GBX_MSG_ALLOCATE, GBX_DEVICE_RAM, at * length, length), GBX_OK);
  for (uint64_t at = 0; at < RANGES; at++) {
    struct gbx_range range = {GBX_DEVICE_RAM, 0, at * length, length};
    send_frame(&executor, GBX_MSG_FREE, &range, sizeof(range));
  }
  struct gbx_range range = {GBX_DEVICE_RAM, 0, RANGES * length, 2 * MIB};
  uint64_t last = executor.next_id;
  send_frame(&executor, GBX_MSG_ALLOCATE, &range, sizeof(range));
  unsigned freed = 0, freed_before = RANGES;
  for (unsigned count = 0; count < RANGES + 1; count++) {
    struct gbx_frame frame;
    struct gbx_status status;
    REQUIRE(read_reply(&executor, &frame) && read_fully(executor.socket, &status, sizeof(status)));
    CHECK_EQUAL(status.status, GBX_OK);
    if (frame.request_id == last)
      freed_before = freed;
    else
      freed++;
  }
  /* Behind them in one queue it would have begun only after so many. */
  CHECK(freed_before < RANGES + 1 - WORKERS);
  CHECK_EQUAL(stat_of(&executor).ram_bytes, 2 * MIB);
  CHECK_EQUAL(close_executor(&executor), 0);
}

/* ---- what must not ---- */

static void bad_requests_change_nothing(void) {
  struct executor executor;
  REQUIRE(open_executor(&executor));
  CHECK_EQUAL(change(&executor, GBX_MSG_ALLOCATE, GBX_DEVICE_RAM, 8 * MIB, 4 * MIB), GBX_OK);
  struct gbx_grant grant = grant_of(1, 8 * MIB, 4 * MIB);
  gb_lane *lane;
  REQUIRE(give(&executor, &grant) == GBX_OK && open_lane(&grant, 1, &lane) == GB_LANE_OK);
  uint8_t *bytes = malloc(4 * MIB);
  fill(bytes, 4 * MIB, 3);
  CHECK_EQUAL(put(lane, 0, bytes, 4 * MIB), GB_LANE_OK);
  struct gbx_stat before = stat_of(&executor);

  const struct { uint16_t type; uint32_t kind; int32_t index; uint64_t offset, length; uint32_t want; } ranges[] = {
      {GBX_MSG_ALLOCATE, GBX_DEVICE_RAM, 0, 8 * MIB, 4 * MIB, GBX_INVALID},       /* again */
      {GBX_MSG_ALLOCATE, GBX_DEVICE_RAM, 0, 10 * MIB, 4 * MIB, GBX_INVALID},      /* overlapping the end */
      {GBX_MSG_ALLOCATE, GBX_DEVICE_RAM, 0, 6 * MIB, 4 * MIB, GBX_INVALID},       /* overlapping the start */
      {GBX_MSG_ALLOCATE, GBX_DEVICE_RAM, 0, 6 * MIB, 10 * MIB, GBX_INVALID},      /* around it */
      {GBX_MSG_ALLOCATE, GBX_DEVICE_RAM, 0, 512, 2 * MIB, GBX_INVALID},           /* unaligned offset */
      {GBX_MSG_ALLOCATE, GBX_DEVICE_RAM, 0, 0, 4096, GBX_INVALID},                /* unaligned length */
      {GBX_MSG_ALLOCATE, GBX_DEVICE_RAM, 0, 0, 0, GBX_INVALID},
      {GBX_MSG_ALLOCATE, GBX_DEVICE_RAM, 0, ARENA_BYTES, 2 * MIB, GBX_INVALID},   /* behind the arena */
      {GBX_MSG_ALLOCATE, GBX_DEVICE_RAM, 0, 0, ARENA_BYTES + 2 * MIB, GBX_INVALID},
      {GBX_MSG_ALLOCATE, GBX_DEVICE_RAM, 0, UINT64_MAX - 2 * MIB + 1, 2 * MIB, GBX_INVALID}, /* wraps around */
      {GBX_MSG_ALLOCATE, GBX_DEVICE_RAM, 1, 0, 2 * MIB, GBX_INVALID},             /* no such device */
      {GBX_MSG_ALLOCATE, GBX_DEVICE_GPU, 7, 0, 2 * MIB, GBX_INVALID},
      {GBX_MSG_ALLOCATE, 9, 0, 0, 2 * MIB, GBX_INVALID},
      {GBX_MSG_FREE, GBX_DEVICE_RAM, 0, 0, 2 * MIB, GBX_NOT_FOUND},               /* never allocated */
      {GBX_MSG_FREE, GBX_DEVICE_RAM, 0, 8 * MIB, 2 * MIB, GBX_NOT_FOUND},         /* a part of it */
      {GBX_MSG_FREE, GBX_DEVICE_GPU, 0, 8 * MIB, 4 * MIB, GBX_NOT_FOUND},         /* of another device */
  };
  for (size_t index = 0; index < sizeof(ranges) / sizeof(*ranges); index++) {
    struct gbx_range range = {ranges[index].kind, ranges[index].index, ranges[index].offset, ranges[index].length};
    CHECK_EQUAL(ask_status(&executor, ranges[index].type, &range, sizeof(range)).status, ranges[index].want);
  }
  struct gbx_stat after = stat_of(&executor);
  CHECK(memcmp(&before, &after, sizeof(before)) == 0);
  memset(bytes, 0, 4 * MIB);
  CHECK_EQUAL(get(lane, 0, bytes, 4 * MIB), GB_LANE_OK);
  CHECK(is_filled(bytes, 4 * MIB, 3));
  free(bytes);
  gb_lane_close(lane, 1000);
  CHECK_EQUAL(change(&executor, GBX_MSG_FREE, GBX_DEVICE_RAM, 8 * MIB, 4 * MIB), GBX_OK);
  CHECK_EQUAL(change(&executor, GBX_MSG_FREE, GBX_DEVICE_RAM, 8 * MIB, 4 * MIB), GBX_NOT_FOUND); /* twice */
  CHECK_EQUAL(close_executor(&executor), 0);
}

static void malformed_payloads_are_answered(void) {
  struct executor executor;
  REQUIRE(open_executor(&executor));
  uint8_t bytes[GBX_PAYLOAD_BYTES_MAX] = {0};
  struct gbx_stat before = stat_of(&executor);
  struct gbx_stat refused;
  CHECK_EQUAL(ask_status(&executor, 77, bytes, 24).status, GBX_INVALID); /* unknown type */
  CHECK_EQUAL(ask_status(&executor, 0, bytes, 0).status, GBX_INVALID);
  CHECK_EQUAL(ask_status(&executor, GBX_MSG_ALLOCATE, bytes, 23).status, GBX_INVALID); /* too short */
  CHECK_EQUAL(ask_status(&executor, GBX_MSG_ALLOCATE, bytes, 25).status, GBX_INVALID); /* too long */
  CHECK_EQUAL(ask_status(&executor, GBX_MSG_GRANT, bytes, GBX_PAYLOAD_BYTES_MAX).status, GBX_INVALID);
  CHECK(ask(&executor, GBX_MSG_STAT, bytes, 8, &refused, sizeof(refused)));
  CHECK_EQUAL(refused.status, GBX_INVALID);
  struct gbx_init again = good_init();
  CHECK_EQUAL(initialise(&executor, &again).status, GBX_INVALID); /* a second INIT */
  struct gbx_stat after = stat_of(&executor);
  CHECK(memcmp(&before, &after, sizeof(before)) == 0);
  CHECK_EQUAL(close_executor(&executor), 0);
}

static void a_bad_init_can_be_repeated(void) {
  struct executor executor;
  spawn_executor(&executor);
  CHECK_EQUAL(change(&executor, GBX_MSG_ALLOCATE, GBX_DEVICE_RAM, 0, 2 * MIB), GBX_INVALID); /* before INIT */
  struct gbx_init init = good_init();
  init.version = GBX_VERSION + 1;
  CHECK_EQUAL(initialise(&executor, &init).status, GBX_VERSION_MISMATCH);
  init = good_init();
  init.arena_base += 4096;
  CHECK_EQUAL(initialise(&executor, &init).status, GBX_INVALID);
  init = good_init();
  init.arena_bytes = 1ull << 60;
  CHECK_EQUAL(initialise(&executor, &init).status, GBX_INVALID);
  init = good_init();
  init.gpu_count = 9;
  CHECK_EQUAL(initialise(&executor, &init).status, GBX_INVALID);
  init = good_init();
  struct gbx_init_reply reply = initialise(&executor, &init);
  CHECK_EQUAL(reply.status, GBX_OK);
  CHECK_EQUAL(close_executor(&executor), 0);
}

static void a_broken_stream_ends_it(void) {
  const struct gbx_frame broken[] = {
      {GBX_PAYLOAD_BYTES_MAX + 1, GBX_MSG_STAT, 0, 5}, /* oversized */
      {UINT32_MAX, GBX_MSG_GRANT, 0, 5},
      {0, GBX_MSG_STAT, GBX_FRAME_REPLY, 5},           /* a reply to us */
      {0, GBX_MSG_STAT, 0, 0},                         /* without an id */
  };
  for (size_t index = 0; index < sizeof(broken) / sizeof(*broken); index++) {
    struct executor executor;
    REQUIRE(open_executor(&executor));
    CHECK(send(executor.socket, &broken[index], sizeof(broken[index]), MSG_NOSIGNAL) > 0);
    char byte;
    CHECK(!read_fully(executor.socket, &byte, 1)); /* closed without an answer */
    CHECK_EQUAL(close_executor(&executor), 1);
  }
  struct executor executor;
  REQUIRE(open_executor(&executor));
  struct gbx_frame half = {24, GBX_MSG_FREE, 0, 9};
  CHECK(send(executor.socket, &half, sizeof(half), MSG_NOSIGNAL) > 0); /* truncated: its payload never comes */
  CHECK_EQUAL(close_executor(&executor), 0);
}

/* A frame that arrives one byte at a time is a frame. */
static void small_pieces_are_put_together(void) {
  struct executor executor;
  REQUIRE(open_executor(&executor));
  struct { struct gbx_frame frame; struct gbx_range range; } message = {
      {sizeof(struct gbx_range), GBX_MSG_ALLOCATE, 0, 4242}, {GBX_DEVICE_RAM, 0, 0, 2 * MIB}};
  for (size_t at = 0; at < sizeof(message); at++)
    CHECK_EQUAL(send(executor.socket, (uint8_t *)&message + at, 1, MSG_NOSIGNAL), 1);
  struct gbx_frame frame;
  struct gbx_status status;
  REQUIRE(read_fully(executor.socket, &frame, sizeof(frame)) && read_fully(executor.socket, &status, sizeof(status)));
  CHECK_EQUAL(frame.request_id, 4242);
  CHECK_EQUAL(status.status, GBX_OK);
  CHECK_EQUAL(close_executor(&executor), 0);
}

/* The parent of an executor dies by SIGKILL while a copy of its socket lives on: the executor must go all the same. */
static void it_does_not_outlive_the_daemon(void) {
  int pids[2], keeper[2];
  REQUIRE(pipe(pids) == 0 && pipe(keeper) == 0);
  pid_t daemon = fork();
  if (daemon == 0) {
    struct executor executor;
    spawn_executor(&executor);
    struct gbx_init init = good_init();
    initialise(&executor, &init);
    if (fork() == 0) { /* holds the socket open */
      char byte;
      close(keeper[1]);
      close(pids[1]);
      _exit(read(keeper[0], &byte, 1) < 0);
    }
    ssize_t written = write(pids[1], &executor.pid, sizeof(executor.pid));
    _exit(written == sizeof(executor.pid) && pause() == 0);
  }
  pid_t executor = 0;
  REQUIRE(read_fully(pids[0], &executor, sizeof(executor)) && executor > 0);
  CHECK_EQUAL(kill(executor, 0), 0);
  kill(daemon, SIGKILL);
  waitpid(daemon, NULL, 0);
  bool gone = false;
  for (int waited = 0; waited < 6000 && !gone; waited += 10) {
    gone = waitpid(executor, NULL, WNOHANG) == executor; /* We are its subreaper. */
    usleep(10000);
  }
  CHECK(gone);
  close(keeper[1]);
  close(keeper[0]);
  close(pids[0]);
  close(pids[1]);
}

int main(int argc, char **argv) {
  if (!lane_peer_begin(argc, argv))
    return 2;
  RUN(the_account_is_kept);
  RUN(locked_bytes_are_told_truly);
  if (!with_gpu && !with_sanitizer && !pool_has_huge_pages())
    RUN(a_small_memlock_limit_locks_what_it_can);
  RUN(nobody_waits_for_scrubbing);
  RUN(many_requests_are_in_flight);
  RUN(bad_requests_change_nothing);
  RUN(malformed_payloads_are_answered);
  RUN(a_bad_init_can_be_repeated);
  RUN(a_broken_stream_ends_it);
  RUN(small_pieces_are_put_together);
  RUN(it_does_not_outlive_the_daemon);
  gb_lane_door_close(lane_door);
  return check_done();
}
