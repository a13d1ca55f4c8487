/* SPDX-License-Identifier: Apache-2.0 */
/* run_test.c: the shim's queue to an executor, over a real lane to a feeder that plays one. */
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../check.h"
#include "../programs/kernels.h"
#include "peer.h"
#include "run.h"

#define WAIT_MS 15000

static CUfunction fill;   /* three parameters of 8 bytes */
static CUfunction empty;  /* none */
static CUfunction mix;    /* one of 32 bytes */

static uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

static void sleep_ms(unsigned milliseconds) { usleep(milliseconds * 1000); }

static bool within(bool (*is)(uint64_t), uint64_t argument) {
  for (uint64_t until = now_ns() + WAIT_MS * 1000000ull; now_ns() < until; sleep_ms(1)) {
    if (is(argument)) return true;
  }
  return false;
}
static bool has_entries(uint64_t count) { return peer_entries() >= count; }
static bool has_error(uint64_t error) {
  char feeder[64], function[128];
  return gb_run_error(feeder, function) == (CUresult)error;
}

/* ---- a queue of its own for each test ---- */

static uint32_t lane = 1; /* a lane that is gone never comes back: each test has one of its own */

static void begin(void) {
  lane++;
  peer_renew();
  peer_clear();
  REQUIRE(gb_run_can(lane));
}
static void end(void) {
  peer_hold(false);
  peer_lose(false);
  peer_away(false);
  gb_run_stop();
}

static struct gb_run_request request_of(CUfunction function, void **params) {
  return (struct gb_run_request){
      .function = function, .grid = {3, 2, 1}, .block = {64, 1, 1}, .shared_bytes = 128, .params = params};
}

static CUresult prepare(CUfunction function, void **params) {
  struct gb_run_request request = request_of(function, params);
  return gb_run_prepare(lane, &request);
}
static CUresult launch(CUfunction function, void **params) {
  struct gb_run_request request = request_of(function, params);
  return gb_run_launch(lane, &request);
}

static uint64_t words[3];
static void *word_params[3] = {&words[0], &words[1], &words[2]};

static CUresult launch_fill(uint64_t first) {
  words[0] = first;
  return launch(fill, word_params);
}

/* The nth entry of a type, from 0 on. */
static bool entry_of(uint16_t type, uint32_t nth, struct peer_entry *entry) {
  uint32_t count = peer_entries();
  for (uint32_t i = 0; i < count; i++) {
    *entry = peer_entry(i);
    if (entry->type == type && nth-- == 0) return true;
  }
  return false;
}
static uint32_t count_of(uint16_t type) {
  uint32_t count = 0;
  uint32_t end = peer_entries();
  for (uint32_t i = 0; i < end; i++) count += peer_entry(i).type == type;
  return count;
}
static uint64_t first_word(const struct peer_entry *entry) {
  uint64_t word = 0;
  memcpy(&word, entry->body + sizeof(struct gb_run_launch), sizeof word);
  return word;
}

/* ---- launches ---- */

static void launches_arrive_in_order(void) {
  begin();
  words[1] = 11;
  words[2] = 12;
  REQUIRE(prepare(fill, word_params) == CUDA_SUCCESS);
  uint32_t before = peer_entries();
  for (uint64_t i = 0; i < 5000; i++) REQUIRE(launch_fill(i) == CUDA_SUCCESS);
  CHECK(gb_run_busy());
  CHECK_EQUAL(gb_run_sync(lane), CUDA_SUCCESS);
  CHECK(!gb_run_busy());
  CHECK_EQUAL(peer_entries(), before + 5001);
  uint64_t wrong = 0;
  for (uint32_t i = 0; i < 5000; i++) {
    struct peer_entry entry = peer_entry(before + i);
    wrong += entry.type != GB_RUN_LAUNCH || first_word(&entry) != i;
  }
  CHECK_EQUAL(wrong, 0);
  struct peer_entry entry = peer_entry(before);
  struct gb_run_launch head;
  memcpy(&head, entry.body, sizeof head);
  CHECK(head.grid[0] == 3 && head.grid[1] == 2 && head.grid[2] == 1 && head.block[0] == 64);
  CHECK(head.shared_bytes == 128 && head.param_bytes == 24 && head.attribute_count == 0);
  CHECK_EQUAL(head.function, 1);
  CHECK_EQUAL(peer_counts().invalid, 0);
  CHECK(gb_run_counted(lane).launches == 5000);
  end();
}

/* Launches that find nothing on the wire leave by sixteen; the others wait for that, or for a full batch. */
static void launches_are_coalesced(void) {
  begin();
  REQUIRE(prepare(fill, word_params) == CUDA_SUCCESS);
  struct gb_run_counters before = gb_run_counted(lane);
  uint64_t started = now_ns();
  for (uint64_t i = 0; i < 20000; i++) REQUIRE(launch_fill(i) == CUDA_SUCCESS);
  uint64_t took = now_ns() - started;
  CHECK_EQUAL(gb_run_sync(lane), CUDA_SUCCESS);
  struct gb_run_counters after = gb_run_counted(lane);
  uint64_t batches = after.batches - before.batches;
  fprintf(stderr, "     20000 launches in %llu batches, %.2f us each\n", (unsigned long long)batches,
          (double)took / 20000e3);
  CHECK(batches <= 20000 / GB_RUN_LAUNCHES_MIN + 2);
  CHECK(peer_counts().largest <= 256 << 10);
  end();
}

static void old_batches_leave(void) {
  begin();
  REQUIRE(prepare(fill, word_params) == CUDA_SUCCESS);
  uint32_t before = peer_entries();
  REQUIRE(launch_fill(1) == CUDA_SUCCESS);
  CHECK(within(has_entries, before + 1));
  sleep_ms(20); /* the thread sleeps by now, and is woken */
  REQUIRE(launch_fill(2) == CUDA_SUCCESS);
  CHECK(within(has_entries, before + 2));
  CHECK(gb_run_busy()); /* accepted is not done */
  CHECK_EQUAL(gb_run_sync_all(), CUDA_SUCCESS);
  CHECK(!gb_run_busy());
  end();
}

static void parameters_travel(void) {
  begin();
  uint64_t packed[4] = {1, 2, 3, 4};
  void *params[1] = {packed};
  size_t bytes = sizeof packed;
  void *extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, packed, CU_LAUNCH_PARAM_BUFFER_SIZE, &bytes, CU_LAUNCH_PARAM_END};
  REQUIRE(prepare(mix, params) == CUDA_SUCCESS);
  REQUIRE(prepare(empty, NULL) == CUDA_SUCCESS);
  CHECK_EQUAL(launch(mix, params), CUDA_SUCCESS);
  struct gb_run_request request = request_of(mix, NULL);
  request.extra = extra;
  packed[3] = 40;
  CHECK_EQUAL(gb_run_prepare(lane, &request), CUDA_SUCCESS);
  CHECK_EQUAL(gb_run_launch(lane, &request), CUDA_SUCCESS);
  CHECK_EQUAL(launch(empty, NULL), CUDA_SUCCESS);
  CHECK_EQUAL(gb_run_sync(lane), CUDA_SUCCESS);
  struct peer_entry entry;
  REQUIRE(entry_of(GB_RUN_LAUNCH, 0, &entry));
  CHECK(memcmp(entry.body + sizeof(struct gb_run_launch), (uint64_t[]){1, 2, 3, 4}, 32) == 0);
  REQUIRE(entry_of(GB_RUN_LAUNCH, 1, &entry));
  CHECK(memcmp(entry.body + sizeof(struct gb_run_launch), (uint64_t[]){1, 2, 3, 40}, 32) == 0);
  REQUIRE(entry_of(GB_RUN_LAUNCH, 2, &entry));
  CHECK_EQUAL(entry.bytes, sizeof(struct gb_run_launch));
  /* Too short a buffer, a parameter that is missing: the driver here says what it thinks of that. */
  bytes = 24;
  CHECK_EQUAL(gb_run_prepare(lane, &request), CUDA_ERROR_NOT_SUPPORTED);
  params[0] = NULL;
  CHECK_EQUAL(prepare(mix, params), CUDA_ERROR_NOT_SUPPORTED);
  CHECK_EQUAL(prepare(mix, NULL), CUDA_ERROR_NOT_SUPPORTED);
  end();
}

static void attributes_travel(void) {
  begin();
  CUlaunchAttribute attributes[3] = {{.id = CU_LAUNCH_ATTRIBUTE_PRIORITY},
                                     {.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION},
                                     {.id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE}};
  attributes[0].value.priority = -2;
  attributes[1].value.clusterDim.x = 3;
  attributes[1].value.clusterDim.y = attributes[1].value.clusterDim.z = 1;
  attributes[2].value.cooperative = 0;
  struct gb_run_request request = request_of(fill, word_params);
  request.attributes = attributes;
  request.attribute_count = 3;
  words[0] = 99;
  CHECK_EQUAL(gb_run_prepare(lane, &request), CUDA_SUCCESS);
  CHECK_EQUAL(gb_run_launch(lane, &request), CUDA_SUCCESS);
  CHECK_EQUAL(gb_run_sync(lane), CUDA_SUCCESS);
  struct peer_entry entry;
  struct gb_run_launch head;
  struct gb_run_launch_attribute sent;
  REQUIRE(entry_of(GB_RUN_LAUNCH, 0, &entry));
  memcpy(&head, entry.body, sizeof head);
  memcpy(&sent, entry.body + sizeof head, sizeof sent);
  uint64_t word = 0;
  memcpy(&word, entry.body + sizeof head + sizeof sent, sizeof word);
  CHECK(head.attribute_count == 1 && sent.id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION && word == 99);
  CHECK(memcmp(sent.value, (uint32_t[]){3, 1, 1}, 12) == 0);
  attributes[2].value.cooperative = 1;
  CHECK_EQUAL(gb_run_prepare(lane, &request), CUDA_ERROR_NOT_SUPPORTED);
  attributes[2].id = CU_LAUNCH_ATTRIBUTE_LAUNCH_COMPLETION_EVENT;
  CHECK_EQUAL(gb_run_prepare(lane, &request), CUDA_ERROR_NOT_SUPPORTED);
  end();
}

/* ---- code ---- */

static void code_is_sent_once(void) {
  begin();
  REQUIRE(prepare(fill, word_params) == CUDA_SUCCESS);
  REQUIRE(prepare(empty, NULL) == CUDA_SUCCESS);
  REQUIRE(prepare(fill, word_params) == CUDA_SUCCESS);
  CHECK_EQUAL(count_of(GB_RUN_IMAGE), 1);
  CHECK(peer_counts().image_parts >= 1);
  CHECK_EQUAL(count_of(GB_RUN_FUNCTION), 2);
  const struct gb_code *code = gb_code_of(fill);
  struct peer_entry entry;
  struct gb_run_image image;
  struct gb_run_function function;
  REQUIRE(code != NULL && entry_of(GB_RUN_IMAGE, 0, &entry));
  memcpy(&image, entry.body, sizeof image);
  CHECK(memcmp(image.digest, code->image->digest, sizeof image.digest) == 0);
  CHECK(image.bytes == code->image->bytes && image.block_count == 1);
  REQUIRE(entry_of(GB_RUN_FUNCTION, 0, &entry));
  memcpy(&function, entry.body, sizeof function);
  CHECK(function.function == 1 && function.name_bytes == 7 && function.attribute_count == 0);
  CHECK(memcmp(entry.body + sizeof function, "gb_fill", 7) == 0);
  struct peer_entry part;
  struct gb_run_image_part head;
  REQUIRE(entry_of(GB_RUN_IMAGE_PART, 0, &part));
  memcpy(&head, part.body, sizeof head);
  CHECK(head.offset == 0 && head.length > 0);
  CHECK(memcmp(part.body + sizeof head, code->image->content, 64) == 0);
  end();
}

static void known_images_are_not_sent(void) {
  begin();
  peer_knows_images(true);
  CHECK_EQUAL(prepare(fill, word_params), CUDA_SUCCESS);
  CHECK_EQUAL(peer_counts().image_parts, 0);
  end();
}

static void refused_functions_run_here(void) {
  begin();
  peer_refuse_functions(true);
  CHECK_EQUAL(prepare(fill, word_params), CUDA_ERROR_NOT_SUPPORTED);
  peer_refuse_functions(false);
  CHECK_EQUAL(prepare(fill, word_params), CUDA_ERROR_NOT_SUPPORTED); /* for good */
  CHECK_EQUAL(prepare(empty, NULL), CUDA_SUCCESS);                   /* others are not concerned */
  CHECK_EQUAL(launch(empty, NULL), CUDA_SUCCESS);
  CHECK_EQUAL(launch(fill, word_params), CUDA_ERROR_NOT_SUPPORTED);
  CHECK_EQUAL(gb_run_sync(lane), CUDA_SUCCESS);
  CHECK_EQUAL(count_of(GB_RUN_LAUNCH), 1);
  end();
}

/* Attributes are set once there: with others the function gets another number. */
static void changed_attributes_are_sent(void) {
  begin();
  REQUIRE(prepare(mix, (void *[]){words}) == CUDA_SUCCESS);
  REQUIRE(cuFuncSetAttribute(mix, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 65536) == CUDA_SUCCESS);
  REQUIRE(prepare(mix, (void *[]){words}) == CUDA_SUCCESS);
  REQUIRE(cuFuncSetAttribute(mix, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 65536) == CUDA_SUCCESS);
  REQUIRE(prepare(mix, (void *[]){words}) == CUDA_SUCCESS);
  CHECK_EQUAL(count_of(GB_RUN_FUNCTION), 2);
  struct peer_entry entry;
  struct gb_run_function function;
  struct gb_run_attribute attribute;
  REQUIRE(entry_of(GB_RUN_FUNCTION, 1, &entry));
  memcpy(&function, entry.body, sizeof function);
  memcpy(&attribute, entry.body + sizeof function, sizeof attribute);
  CHECK(function.function == 2 && function.attribute_count == 1);
  CHECK(attribute.attribute == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES && attribute.value == 65536);
  end();
}

/* ---- bytes ---- */

static uint8_t pattern[8 << 20];
static uint8_t back[8 << 20];

static void bytes_go_and_come(void) {
  static const uint64_t sizes[] = {1, 4096, 70000, 512 << 10, (512 << 10) + 1, 5 << 20};
  begin();
  for (size_t i = 0; i < sizeof pattern; i++) pattern[i] = (uint8_t)(i * 2654435761u >> 13);
  for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
    memset(back, 0, sizeof back);
    CHECK_EQUAL(gb_run_write(lane, 12345, pattern + i, sizes[i], false), CUDA_SUCCESS);
    CHECK_EQUAL(gb_run_read(lane, 12345, back, sizes[i]), CUDA_SUCCESS);
    CHECK(memcmp(back, pattern + i, sizes[i]) == 0);
    CHECK(memcmp(peer_memory() + 12345, pattern + i, sizes[i]) == 0);
  }
  CHECK_EQUAL(count_of(GB_RUN_ARRIVED), 0);
  CHECK_EQUAL(peer_counts().invalid, 0);
  CHECK(peer_counts().largest <= 256 << 10);
  end();
}

/* A large write goes past the queue: not before what is in it is done. */
static void large_writes_keep_the_order(void) {
  begin();
  REQUIRE(prepare(fill, word_params) == CUDA_SUCCESS);
  REQUIRE(launch_fill(1) == CUDA_SUCCESS);
  CHECK_EQUAL(gb_run_write(lane, 0, pattern, 2 << 20, true), CUDA_SUCCESS);
  CHECK_EQUAL(gb_run_sync(lane), CUDA_SUCCESS);
  uint32_t count = peer_entries();
  REQUIRE(count >= 4);
  CHECK_EQUAL(peer_entry(count - 4).type, GB_RUN_LAUNCH);
  CHECK_EQUAL(peer_entry(count - 3).type, GB_RUN_SYNC);
  struct peer_entry arrived = peer_entry(count - 2);
  CHECK_EQUAL(arrived.type, GB_RUN_ARRIVED);
  CHECK(memcmp(arrived.body, (uint64_t[]){0, 2 << 20}, 16) == 0);
  end();
}

static void small_commands_travel(void) {
  begin();
  struct gb_run_fill set = {.offset = 4096, .pitch = 0, .width = 7, .height = 1, .element_bytes = 4, .value = 5};
  CHECK_EQUAL(gb_run_track(lane, 0, 2 << 20, true), CUDA_SUCCESS);
  CHECK_EQUAL(gb_run_copy(lane, 8192, 4096, 100), CUDA_SUCCESS);
  CHECK_EQUAL(gb_run_fill(lane, &set), CUDA_SUCCESS);
  CHECK_EQUAL(gb_run_write(lane, 0, pattern, 4096, true), CUDA_SUCCESS);
  CHECK_EQUAL(gb_run_disagree(lane, 8192, 4096), CUDA_SUCCESS);
  CHECK_EQUAL(gb_run_track(lane, 0, 2 << 20, false), CUDA_SUCCESS);
  CHECK_EQUAL(gb_run_sync(lane), CUDA_SUCCESS);
  static const uint16_t types[] = {GB_RUN_TRACK, GB_RUN_COPY, GB_RUN_FILL, GB_RUN_WRITE, GB_RUN_ARRIVED,
                                   GB_RUN_DISAGREE, GB_RUN_UNTRACK, GB_RUN_SYNC};
  REQUIRE(peer_entries() == 8);
  for (uint32_t i = 0; i < 8; i++) CHECK_EQUAL(peer_entry(i).type, types[i]);
  CHECK(memcmp(peer_entry(1).body, (uint64_t[]){8192, 4096, 100}, 24) == 0);
  CHECK(memcmp(peer_entry(2).body, &set, sizeof set) == 0);
  end();
}

static void symbols_are_written(void) {
  begin();
  const struct gb_code *code = gb_code_of(fill);
  REQUIRE(code != NULL);
  struct gb_code_symbol symbol = {code->image, "table", 16};
  CHECK_EQUAL(gb_run_symbol(lane, &symbol, pattern, 40000), CUDA_SUCCESS);
  CHECK_EQUAL(gb_run_sync(lane), CUDA_SUCCESS);
  CHECK_EQUAL(count_of(GB_RUN_IMAGE), 1);
  REQUIRE(count_of(GB_RUN_SYMBOL) == 2);
  struct peer_entry entry;
  struct gb_run_symbol head;
  entry_of(GB_RUN_SYMBOL, 1, &entry);
  memcpy(&head, entry.body, sizeof head);
  CHECK(head.offset == 16 + 32768 && head.length == 40000 - 32768 && head.name_bytes == 5);
  CHECK(memcmp(entry.body + sizeof head, "table\0\0\0", 8) == 0);
  CHECK(memcmp(entry.body + sizeof head + 8, pattern + 32768, 64) == 0);
  end();
}

static void changed_blocks_are_collected(void) {
  begin();
  struct gb_run_run changed[2] = {{4096, 1, 0}, {1 << 20, 3, 1}};
  struct gb_run_range range = {0, 16 << 20};
  struct gb_run_run *runs = NULL;
  uint32_t count = 0;
  uint64_t bytes = 0;
  memcpy(peer_memory(), pattern, sizeof pattern);
  peer_changed(changed, 2);
  CHECK_EQUAL(gb_run_collect(lane, &range, 1, &runs, &count, back, sizeof back, &bytes), CUDA_SUCCESS);
  REQUIRE(count == 2 && bytes == 4 * 4096);
  CHECK(memcmp(runs, changed, sizeof changed) == 0);
  CHECK(memcmp(back, pattern + 4096, 4096) == 0 && memcmp(back + 4096, pattern + (1 << 20), 3 * 4096) == 0);
  free(runs);
  /* More than an answer holds: read over the lane. */
  changed[1].blocks = 1000;
  peer_changed(changed, 2);
  CHECK_EQUAL(gb_run_collect(lane, &range, 1, &runs, &count, back, sizeof back, &bytes), CUDA_SUCCESS);
  CHECK(bytes == 1001 * 4096 && memcmp(back + 4096, pattern + (1 << 20), 1000 * 4096) == 0);
  free(runs);
  /* More than there is room for: only named. */
  memset(back, 7, 4096);
  CHECK_EQUAL(gb_run_collect(lane, &range, 1, &runs, &count, back, 4096, &bytes), CUDA_SUCCESS);
  CHECK(bytes == 1001 * 4096 && back[0] == 7 && count == 2);
  free(runs);
  end();
}

/* ---- trouble ---- */

static void a_cut_lane_is_reopened(void) {
  begin();
  REQUIRE(prepare(fill, word_params) == CUDA_SUCCESS);
  uint32_t before = peer_entries();
  uint64_t sent = 0;
  for (uint32_t round = 0; round < 5; round++) {
    peer_cut_at(1 + round); /* executed, and not answered */
    for (uint32_t i = 0; i < 3000; i++) REQUIRE(launch_fill(sent++) == CUDA_SUCCESS);
    CHECK_EQUAL(gb_run_sync(lane), CUDA_SUCCESS);
    peer_cut(); /* and while nothing is on the way */
  }
  uint64_t next = 0;
  uint32_t count = peer_entries();
  for (uint32_t i = before; i < count; i++) {
    struct peer_entry entry = peer_entry(i);
    if (entry.type == GB_RUN_LAUNCH && first_word(&entry) == next) next++;
  }
  CHECK_EQUAL(next, sent);
  CHECK_EQUAL(count_of(GB_RUN_LAUNCH), (uint32_t)sent); /* each once */
  CHECK(peer_counts().again >= 1);
  CHECK(peer_counts().tickets >= 5);
  end();
}

/* A lane that ends while nobody needs it may be of a lease that has ended: it is opened when it is needed. */
static void an_idle_lane_is_left_alone(void) {
  begin();
  REQUIRE(prepare(fill, word_params) == CUDA_SUCCESS);
  REQUIRE(launch_fill(1) == CUDA_SUCCESS && gb_run_sync(lane) == CUDA_SUCCESS);
  uint32_t tickets = peer_counts().tickets;
  peer_lose(true);
  peer_cut();
  sleep_ms(1500);
  CHECK_EQUAL(peer_counts().tickets, tickets);
  CHECK_EQUAL(gb_run_sync_all(), CUDA_SUCCESS);
  CHECK(gb_run_can(lane));
  peer_lose(false);
  memcpy(peer_memory(), pattern, 64);
  CHECK_EQUAL(gb_run_read(lane, 0, back, 1 << 20), CUDA_SUCCESS); /* over the lane itself */
  CHECK(memcmp(back, pattern, 64) == 0);
  CHECK(launch_fill(2) == CUDA_SUCCESS && gb_run_sync(lane) == CUDA_SUCCESS);
  CHECK_EQUAL(peer_counts().tickets, tickets + 1);
  CHECK_EQUAL(count_of(GB_RUN_LAUNCH), 2);
  end();
}

static void a_lost_lane_ends_its_queue(void) {
  begin();
  char feeder[64] = "", function[128] = "";
  REQUIRE(prepare(fill, word_params) == CUDA_SUCCESS);
  peer_hold(true);
  REQUIRE(launch_fill(1) == CUDA_SUCCESS);
  peer_lose(true);
  gb_run_flush(lane);
  peer_cut();
  uint64_t started = now_ns();
  CHECK_EQUAL(gb_run_sync(lane), CUDA_ERROR_EXTERNAL_DEVICE);
  CHECK(now_ns() - started < 10000000000ull);
  CHECK_EQUAL(gb_run_error(feeder, function), CUDA_ERROR_EXTERNAL_DEVICE);
  CHECK(strcmp(feeder, "feeder-one") == 0);
  CHECK_EQUAL(launch_fill(2), CUDA_ERROR_EXTERNAL_DEVICE);
  CHECK_EQUAL(prepare(fill, word_params), CUDA_ERROR_EXTERNAL_DEVICE);
  CHECK_EQUAL(gb_run_read(lane, 0, back, 8), CUDA_ERROR_EXTERNAL_DEVICE);
  CHECK_EQUAL(gb_run_sync_all(), CUDA_ERROR_EXTERNAL_DEVICE);
  CHECK(!gb_run_busy() && !gb_run_can(lane));
  end();
}

static void the_first_error_stays(void) {
  begin();
  char feeder[64] = "", function[128] = "";
  REQUIRE(prepare(fill, word_params) == CUDA_SUCCESS);
  REQUIRE(prepare(mix, (void *[]){words}) == CUDA_SUCCESS);
  peer_fail_launch(3, CUDA_ERROR_ILLEGAL_ADDRESS);
  for (uint64_t i = 0; i < 2; i++) CHECK_EQUAL(launch_fill(i), CUDA_SUCCESS);
  CHECK_EQUAL(launch(mix, (void *[]){words}), CUDA_SUCCESS);
  CHECK_EQUAL(launch_fill(4), CUDA_SUCCESS);
  CHECK_EQUAL(gb_run_sync(lane), CUDA_ERROR_ILLEGAL_ADDRESS);
  CHECK_EQUAL(count_of(GB_RUN_LAUNCH), 3);
  CHECK_EQUAL(gb_run_error(feeder, function), CUDA_ERROR_ILLEGAL_ADDRESS);
  CHECK(strcmp(feeder, "feeder-one") == 0 && strcmp(function, "gb_mix") == 0);
  CHECK_EQUAL(launch_fill(5), CUDA_ERROR_ILLEGAL_ADDRESS);
  CHECK_EQUAL(gb_run_sync_all(), CUDA_ERROR_ILLEGAL_ADDRESS);
  end();
}

/* An error is noticed with the next answer, not only by who waits. */
static void errors_come_by_themselves(void) {
  begin();
  REQUIRE(prepare(fill, word_params) == CUDA_SUCCESS);
  peer_fail_launch(1, CUDA_ERROR_LAUNCH_FAILED);
  CHECK_EQUAL(launch_fill(0), CUDA_SUCCESS);
  CHECK(within(has_error, CUDA_ERROR_LAUNCH_FAILED));
  end();
}

static _Atomic uint32_t made;

static void *launch_many(void *unused) {
  (void)unused;
  for (uint64_t i = 0; i < 100000; i++) made += launch_fill(i) == CUDA_SUCCESS;
  return NULL;
}

static void full_queues_wait(void) {
  begin();
  REQUIRE(prepare(fill, word_params) == CUDA_SUCCESS);
  uint32_t before = peer_entries();
  peer_hold(true);
  pthread_t thread;
  made = 0;
  REQUIRE(pthread_create(&thread, NULL, launch_many, NULL) == 0);
  sleep_ms(500);
  uint32_t held = made;
  CHECK(held < 100000); /* 16 batches of 256 KiB are full */
  sleep_ms(200);
  CHECK_EQUAL(made, held);
  peer_hold(false);
  pthread_join(thread, NULL);
  CHECK_EQUAL(made, 100000);
  CHECK_EQUAL(gb_run_sync(lane), CUDA_SUCCESS);
  CHECK_EQUAL(peer_entry(before).type, GB_RUN_LAUNCH);
  end();
}

static void *launch_some(void *argument) {
  uint64_t own[3] = {(uint64_t)(uintptr_t)argument << 32, 0, 0};
  void *params[3] = {&own[0], &own[1], &own[2]};
  for (uint32_t i = 0; i < 2000; i++) {
    own[0]++;
    if (launch(fill, params) != CUDA_SUCCESS) return argument;
    if (i % 100 == 0 && gb_run_sync(lane) != CUDA_SUCCESS) return argument;
    if (i % 150 == 0 && gb_run_read(lane, 64, &own[1], 8) != CUDA_SUCCESS) return argument;
  }
  return NULL;
}

static void threads_share_a_queue(void) {
  begin();
  pthread_t threads[4];
  REQUIRE(prepare(fill, word_params) == CUDA_SUCCESS);
  for (uintptr_t i = 0; i < 4; i++) REQUIRE(pthread_create(&threads[i], NULL, launch_some, (void *)(i + 1)) == 0);
  for (uint32_t i = 0; i < 4; i++) {
    void *failed = NULL;
    pthread_join(threads[i], &failed);
    CHECK(failed == NULL);
    if (i == 0) peer_cut();
  }
  CHECK_EQUAL(gb_run_sync(lane), CUDA_SUCCESS);
  uint64_t next[5] = {0};
  uint64_t wrong = 0;
  uint32_t count = peer_entries();
  for (uint32_t i = 0; i < count; i++) {
    struct peer_entry entry = peer_entry(i);
    uint64_t word = first_word(&entry);
    if (entry.type != GB_RUN_LAUNCH) continue;
    wrong += (word & UINT32_MAX) != ++next[word >> 32 < 5 ? word >> 32 : 0];
  }
  CHECK_EQUAL(wrong, 0);
  CHECK(next[1] == 2000 && next[2] == 2000 && next[3] == 2000 && next[4] == 2000);
  end();
}

static void *arrive_later(void *unused) {
  (void)unused;
  sleep_ms(700);
  peer_away(false);
  return NULL;
}

/* A lane that ends while somebody waits, and comes back when the feeder can be reached again. */
static void an_absent_feeder_is_waited_for(void) {
  begin();
  REQUIRE(prepare(fill, word_params) == CUDA_SUCCESS);
  peer_away(true);
  peer_cut();
  REQUIRE(launch_fill(7) == CUDA_SUCCESS);
  pthread_t thread;
  REQUIRE(pthread_create(&thread, NULL, arrive_later, NULL) == 0);
  uint64_t started = now_ns();
  CHECK_EQUAL(gb_run_sync(lane), CUDA_SUCCESS);
  CHECK(now_ns() - started > 300000000ull);
  pthread_join(thread, NULL);
  CHECK_EQUAL(count_of(GB_RUN_LAUNCH), 1);
  end();
}

static void a_forked_child_has_no_queues(void) {
  begin();
  REQUIRE(prepare(fill, word_params) == CUDA_SUCCESS);
  REQUIRE(launch_fill(1) == CUDA_SUCCESS);
  pid_t child = fork();
  if (child == 0) _exit(gb_run_busy() || gb_run_sync_all() != CUDA_SUCCESS || gb_run_sync(lane) != CUDA_SUCCESS);
  int status = -1;
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  CHECK_EQUAL(gb_run_sync(lane), CUDA_SUCCESS);
  end();
}

/* ---- */

static bool set_up(void) {
  static const char ptx[] = PTX_HEAD PTX_FILL PTX_MIX_PAIR PTX_EMPTY;
  CUcontext context;
  CUmodule module;
  return peer_start(0) && cuInit(0) == CUDA_SUCCESS && cuCtxCreate_v2(&context, 0, 0) == CUDA_SUCCESS &&
         cuModuleLoadData(&module, ptx) == CUDA_SUCCESS &&
         cuModuleGetFunction(&fill, module, "gb_fill") == CUDA_SUCCESS &&
         cuModuleGetFunction(&mix, module, "gb_mix") == CUDA_SUCCESS &&
         cuModuleGetFunction(&empty, module, "gb_empty") == CUDA_SUCCESS;
}

int main(void) {
  if (!set_up()) {
    fprintf(stderr, "the peer, the simulated driver or the shim does not start\n");
    return 2;
  }
  for (int i = 0; i < 500 && !gb_run_can(lane); i++) sleep_ms(10);
  gb_run_stop();
  RUN(launches_arrive_in_order);
  RUN(launches_are_coalesced);
  RUN(old_batches_leave);
  RUN(parameters_travel);
  RUN(attributes_travel);
  RUN(code_is_sent_once);
  RUN(known_images_are_not_sent);
  RUN(refused_functions_run_here);
  RUN(changed_attributes_are_sent);
  RUN(bytes_go_and_come);
  RUN(large_writes_keep_the_order);
  RUN(small_commands_travel);
  RUN(symbols_are_written);
  RUN(changed_blocks_are_collected);
  RUN(a_cut_lane_is_reopened);
  RUN(an_absent_feeder_is_waited_for);
  RUN(an_idle_lane_is_left_alone);
  RUN(a_lost_lane_ends_its_queue);
  RUN(the_first_error_stays);
  RUN(errors_come_by_themselves);
  RUN(full_queues_wait);
  RUN(threads_share_a_queue);
  RUN(a_forked_child_has_no_queues);
  int failed = check_done();
  peer_stop();
  return failed;
}
