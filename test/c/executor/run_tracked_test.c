/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run_tracked_test.c: replicated ranges of a real gb-executor: what has changed there comes back, what came from here
 * is agreed on. Arguments: path of gb-executor; `sim` or `sim-sanitized`.
 */
#include "run_peer.h"

#define BLOCK ((uint64_t)GB_RUN_BLOCK_BYTES)
#define A_AT (SPAN_AT + 2 * MIB)
#define A_BYTES (8 * MIB)
#define B_AT (SPAN_AT + 16 * MIB)
#define B_BYTES (64 * KIB)

/* Asks what has changed in the first `count` of A and B. returns: how many runs; UINT32_MAX: none were answered. */
static uint32_t collect(struct program *program, uint32_t count, uint32_t inline_max) {
  const struct gb_run_range ranges[] = {{A_AT, A_BYTES}, {B_AT, B_BYTES}};
  const struct gb_run_collect head = {count, inline_max};
  next_batch(program);
  add(GB_RUN_COLLECT, &head, sizeof(head), ranges, count * sizeof(*ranges));
  if (send_next(program) != GB_RUN_OK || reply.data_bytes < sizeof(struct gb_run_blocks))
    return UINT32_MAX;
  return ((const struct gb_run_blocks *)(const void *)reply.data)->run_count;
}

static const struct gb_run_blocks *blocks(void) {
  return (const struct gb_run_blocks *)(const void *)reply.data;
}

static const struct gb_run_run *run_at(uint32_t index) {
  return (const struct gb_run_run *)(const void *)(reply.data + sizeof(struct gb_run_blocks)) + index;
}

static bool is_run(uint32_t index, uint64_t offset, uint32_t count, uint32_t hidden) {
  const struct gb_run_run *run = run_at(index);
  return run->offset == offset && run->blocks == count && run->hidden == hidden;
}

/* The bytes of all runs. */
static const uint8_t *content(void) {
  return (const uint8_t *)run_at(blocks()->run_count);
}

static bool begin_tracked(struct program *program) {
  if (!begin_ready(program))
    return false;
  next_batch(program);
  add_range(GB_RUN_TRACK, A_AT, A_BYTES, "", 0);
  add_range(GB_RUN_TRACK, B_AT, B_BYTES, "", 0);
  return send_next(program) == GB_RUN_OK;
}

static void what_a_kernel_changed_comes_back_once(void) {
  struct program program;
  REQUIRE(begin_tracked(&program));
  CHECK_EQUAL(collect(&program, 2, 1 << 20), 0);
  next_batch(&program);
  add_update(A_AT + 3 * BLOCK + 8, 1, 0x77);
  add_update(A_AT + 100 * BLOCK, 600, 1000); /* 4800 bytes: two blocks */
  add_update(B_AT + B_BYTES - 8, 1, 0x88);
  CHECK_EQUAL(send_next(&program), GB_RUN_OK);
  CHECK_EQUAL(collect(&program, 2, 1 << 20), 3);
  CHECK(is_run(0, A_AT + 3 * BLOCK, 1, 0) && is_run(1, A_AT + 100 * BLOCK, 2, 0));
  CHECK(is_run(2, B_AT + B_BYTES - BLOCK, 1, 0));
  CHECK(blocks()->is_inline && blocks()->bytes == 4 * BLOCK);
  CHECK_EQUAL(reply.data_bytes, sizeof(struct gb_run_blocks) + 3 * sizeof(struct gb_run_run) + 4 * BLOCK);
  uint64_t words[3];
  memcpy(&words[0], content() + 8, 8);
  memcpy(&words[1], content() + BLOCK + 599 * 8, 8);
  memcpy(&words[2], content() + 4 * BLOCK - 8, 8);
  CHECK(words[0] == 0x77 && words[1] == 1599 && words[2] == 0x88);
  CHECK_EQUAL(collect(&program, 2, 1 << 20), 0);
  /* One range alone, and only named. */
  next_batch(&program);
  add_update(A_AT, 1, 5);
  add_update(B_AT, 1, 6);
  CHECK_EQUAL(send_next(&program), GB_RUN_OK);
  CHECK_EQUAL(collect(&program, 1, (uint32_t)BLOCK - 1), 1);
  CHECK(is_run(0, A_AT, 1, 0) && !blocks()->is_inline && blocks()->bytes == BLOCK);
  CHECK_EQUAL(reply.data_bytes, sizeof(struct gb_run_blocks) + sizeof(struct gb_run_run));
  uint64_t word = 0;
  CHECK_EQUAL(get(program.lane, A_AT, &word, sizeof(word)), GB_LANE_OK); /* what is named is read over the lane */
  CHECK_EQUAL(word, 5);
  CHECK_EQUAL(collect(&program, 2, 1 << 20), 1);
  CHECK(is_run(0, B_AT, 1, 0));
  CHECK_EQUAL(end_program(&program), 0);
}

static void what_arrived_is_agreed_on(void) {
  struct program program;
  REQUIRE(begin_tracked(&program));
  static uint8_t bytes[40 * GB_RUN_BLOCK_BYTES];
  fill(bytes, sizeof(bytes), 5);
  /* Inside batches, piece by piece, and by lane writes. */
  next_batch(&program);
  for (unsigned block = 0; block < 20; block++) {
    uint64_t at = A_AT + (block + block / 5) * BLOCK;
    add_range(GB_RUN_WRITE, at, BLOCK, bytes + block * BLOCK, BLOCK);
    add_range(GB_RUN_ARRIVED, at, BLOCK, "", 0);
  }
  CHECK_EQUAL(send_next(&program), GB_RUN_OK);
  CHECK_EQUAL(put(program.lane, A_AT + 4 * MIB, bytes, sizeof(bytes)), GB_LANE_OK);
  next_batch(&program);
  add_range(GB_RUN_ARRIVED, A_AT + 4 * MIB, sizeof(bytes), "", 0);
  CHECK_EQUAL(send_next(&program), GB_RUN_OK);
  CHECK_EQUAL(collect(&program, 2, 1 << 20), 0);
  const uint8_t *back = read_back(&program, A_AT + 23 * BLOCK - BLOCK, BLOCK);
  CHECK(back && memcmp(back, bytes + 19 * BLOCK - 0 * BLOCK, BLOCK) == 0);
  /* A write without it is a change of this side; so is one after it, in the same batch. */
  next_batch(&program);
  add_range(GB_RUN_WRITE, A_AT, 16, "0123456789abcdef", 16);
  add_range(GB_RUN_WRITE, A_AT + 50 * BLOCK, BLOCK, bytes, BLOCK);
  add_range(GB_RUN_ARRIVED, A_AT + 50 * BLOCK, BLOCK, "", 0);
  add_range(GB_RUN_WRITE, A_AT + 50 * BLOCK + 8, 1, "!", 1);
  add_range(GB_RUN_WRITE, A_AT + 60 * BLOCK, BLOCK, bytes, BLOCK);
  add_range(GB_RUN_ARRIVED, A_AT + 60 * BLOCK, BLOCK, "", 0);
  add_update(A_AT + 60 * BLOCK, 1, 1);
  CHECK_EQUAL(send_next(&program), GB_RUN_OK);
  CHECK_EQUAL(collect(&program, 2, 1 << 20), 3);
  CHECK(is_run(0, A_AT, 1, 0) && is_run(1, A_AT + 50 * BLOCK, 1, 0) && is_run(2, A_AT + 60 * BLOCK, 1, 0));
  CHECK_EQUAL(end_program(&program), 0);
}

static void addresses_of_the_arena_are_seen(void) {
  struct program program;
  REQUIRE(begin_tracked(&program));
  const uint64_t words[] = {1, arena_base + SPAN_AT + 5};
  next_batch(&program);
  add_range(GB_RUN_WRITE, A_AT + 8 * BLOCK + 100, sizeof(words), words, sizeof(words));
  add_range(GB_RUN_WRITE, A_AT + 20 * BLOCK, 8, words, 8);
  CHECK_EQUAL(send_next(&program), GB_RUN_OK);
  CHECK_EQUAL(collect(&program, 2, 1 << 20), 2);
  CHECK(is_run(0, A_AT + 8 * BLOCK, 1, 1) && is_run(1, A_AT + 20 * BLOCK, 1, 0));
  CHECK_EQUAL(end_program(&program), 0);
}

/* More than an answer can hold is named; more runs than it can name become one for each range. */
static void large_answers_stay_within_their_limit(void) {
  struct program program;
  REQUIRE(begin_tracked(&program));
  const struct gb_run_fill every = {A_AT, 0, A_BYTES, 1, 1, 7};
  next_batch(&program);
  add(GB_RUN_FILL, &every, sizeof(every), "", 0);
  CHECK_EQUAL(send_next(&program), GB_RUN_OK);
  CHECK_EQUAL(collect(&program, 2, UINT32_MAX), 1);
  CHECK(is_run(0, A_AT, (uint32_t)(A_BYTES / BLOCK), 0) && !blocks()->is_inline);
  const struct gb_run_fill second = {A_AT, 2 * BLOCK, 1, A_BYTES / BLOCK / 2, 1, 9};
  next_batch(&program);
  add(GB_RUN_FILL, &second, sizeof(second), "", 0);
  CHECK_EQUAL(send_next(&program), GB_RUN_OK);
  CHECK_EQUAL(collect(&program, 2, 0), A_BYTES / BLOCK / 2);
  CHECK_EQUAL(end_program(&program), 0);
}

static void only_what_is_tracked_is_collected(void) {
  const struct gb_run_range twice[] = {{A_AT, A_BYTES}, {A_AT, A_BYTES}};
  const struct gb_run_collect head = {2, 0};
  const uint32_t expected[] = {GB_RUN_NOT_FOUND, GB_RUN_INVALID,   GB_RUN_INVALID, GB_RUN_INVALID,
                               GB_RUN_NOT_FOUND, GB_RUN_NOT_FOUND, GB_RUN_INVALID};
  for (unsigned which = 0; which < sizeof(expected) / sizeof(*expected); which++) {
    struct program program;
    REQUIRE(begin_tracked(&program));
    next_batch(&program);
    switch (which) {
    case 0: add_range(GB_RUN_UNTRACK, A_AT, A_BYTES - BLOCK, "", 0); break;
    case 1: add_range(GB_RUN_TRACK, A_AT + A_BYTES - BLOCK, 2 * BLOCK, "", 0); break;
    case 2: add_range(GB_RUN_TRACK, SPAN_AT + 8, BLOCK, "", 0); break;
    case 3: add(GB_RUN_COLLECT, &head, sizeof(head), twice, sizeof(twice)); break;
    case 4: add_range(GB_RUN_ARRIVED, A_AT + A_BYTES - 8, 16, "", 0); break;
    case 5: add_range(GB_RUN_TRACK, SPAN_AT + SPAN_BYTES, BLOCK, "", 0); break;
    default: add_range(GB_RUN_TRACK, SPAN_AT, 0, "", 0); break;
    }
    send_next(&program);
    CHECK_EQUAL(sync_with(&program), expected[which]);
    CHECK_EQUAL(end_program(&program), 0);
  }
  struct program program;
  REQUIRE(begin_tracked(&program));
  next_batch(&program);
  add_range(GB_RUN_UNTRACK, A_AT, A_BYTES, "", 0);
  add_range(GB_RUN_TRACK, A_AT, 4 * BLOCK, "", 0); /* another one in its place */
  CHECK_EQUAL(send_next(&program), GB_RUN_OK);
  CHECK_EQUAL(collect(&program, 2, 0), UINT32_MAX);
  CHECK_EQUAL(reply.result.status, GB_RUN_NOT_FOUND);
  CHECK_EQUAL(end_program(&program), 0);
}

/* Runs that a COLLECT of these parts answers. */
static uint32_t collect_parts(struct program *program, const struct gb_run_range *parts, uint32_t count) {
  const struct gb_run_collect head = {count, 0};
  next_batch(program);
  add(GB_RUN_COLLECT, &head, sizeof(head), parts, count * sizeof(*parts));
  if (send_next(program) != GB_RUN_OK || reply.data_bytes < sizeof(struct gb_run_blocks))
    return UINT32_MAX;
  return blocks()->run_count;
}

static void parts_are_collected(void) {
  const struct gb_run_range parts[] = {{A_AT, 4 * BLOCK}, {A_AT + 5 * BLOCK, BLOCK}, {B_AT, BLOCK}};
  const struct gb_run_range wrong[] = {{A_AT + 5 * BLOCK, BLOCK}, {A_AT, 4 * BLOCK}};
  struct program program;
  REQUIRE(begin_tracked(&program));
  next_batch(&program);
  add_update(A_AT + 3 * BLOCK, 1, 1);
  add_update(A_AT + 4 * BLOCK, 1, 2);
  CHECK_EQUAL(send_next(&program), GB_RUN_OK);
  CHECK_EQUAL(collect_parts(&program, parts, 3), 1);
  CHECK(is_run(0, A_AT + 3 * BLOCK, 1, 0));
  CHECK_EQUAL(collect(&program, 2, 0), 1);
  CHECK(is_run(0, A_AT + 4 * BLOCK, 1, 0));
  CHECK_EQUAL(collect_parts(&program, wrong, 2), UINT32_MAX);
  CHECK_EQUAL(reply.result.status, GB_RUN_INVALID);
  CHECK_EQUAL(end_program(&program), 0);
}

static void what_is_disagreed_on_is_said(void) {
  struct program program;
  REQUIRE(begin_tracked(&program));
  next_batch(&program);
  add_range(GB_RUN_DISAGREE, A_AT + 20 * BLOCK, 2 * BLOCK, "", 0);
  CHECK_EQUAL(send_next(&program), GB_RUN_OK);
  CHECK_EQUAL(collect(&program, 2, 0), 1);
  CHECK(is_run(0, A_AT + 20 * BLOCK, 2, 0));
  CHECK_EQUAL(collect(&program, 2, 0), 0);
  next_batch(&program);
  add_range(GB_RUN_DISAGREE, A_AT + A_BYTES - BLOCK, 2 * BLOCK, "", 0);
  send_next(&program);
  CHECK_EQUAL(sync_with(&program), GB_RUN_NOT_FOUND);
  CHECK_EQUAL(end_program(&program), 0);
}

/* Ranges that are freed while they are tracked are let go of without a fault. */
static void memory_that_is_gone_is_not_hashed(void) {
  struct program program;
  REQUIRE(begin_tracked(&program));
  CHECK_EQUAL(change(&program.executor, GBX_MSG_FREE, GBX_DEVICE_GPU, SPAN_AT, SPAN_BYTES), GBX_OK);
  next_batch(&program);
  add_range(GB_RUN_UNTRACK, B_AT, B_BYTES, "", 0);
  CHECK_EQUAL(send_next(&program), GB_RUN_OK);
  CHECK_EQUAL(collect(&program, 1, 0), UINT32_MAX);
  CHECK_EQUAL(reply.result.status, GB_RUN_NOT_FOUND);
  CHECK_EQUAL(end_program(&program), 0);
}

int main(int argc, char **argv) {
  if (!lane_peer_begin(argc, argv) || !with_gpu) {
    fprintf(stderr, "usage: run_tracked_test EXECUTOR sim|sim-sanitized\n");
    return 2;
  }
  RUN(what_a_kernel_changed_comes_back_once);
  RUN(what_arrived_is_agreed_on);
  RUN(addresses_of_the_arena_are_seen);
  RUN(large_answers_stay_within_their_limit);
  RUN(only_what_is_tracked_is_collected);
  RUN(parts_are_collected);
  RUN(what_is_disagreed_on_is_said);
  RUN(memory_that_is_gone_is_not_hashed);
  gb_lane_door_close(lane_door);
  return check_done();
}
