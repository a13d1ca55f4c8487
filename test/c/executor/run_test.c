/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run_test.c: batches of commands, sent over a real lane to a real gb-executor on the simulated driver. Arguments: path
 * of gb-executor; `sim` or `sim-sanitized`.
 */
#include "run_peer.h"

#define WORDS 1024u

/* ---- what works ---- */

static void commands_run_in_their_order(void) {
  struct program program;
  REQUIRE(begin_ready(&program));
  uint64_t words[WORDS], params[] = {arena_base + SPAN_AT, WORDS, 7};
  fill((uint8_t *)words, sizeof(words), 1);
  next_batch(&program);
  add_range(GB_RUN_WRITE, SPAN_AT, sizeof(words), words, sizeof(words));
  add_launch(UPDATE_KERNEL, params, sizeof(params));
  const struct gb_run_copy copy = {SPAN_AT + MIB, SPAN_AT, sizeof(words)};
  add(GB_RUN_COPY, &copy, sizeof(copy), "", 0);
  params[2] = 9;
  add_launch(UPDATE_KERNEL, params, sizeof(params));
  CHECK_EQUAL(send_next(&program), GB_RUN_OK);
  CHECK_EQUAL(reply.data_bytes, 0);
  for (unsigned index = 0; index < WORDS; index++)
    words[index] = words[index] * 3 + 7 + index;
  const void *copied = read_back(&program, SPAN_AT + MIB, sizeof(words));
  CHECK(copied && memcmp(copied, words, sizeof(words)) == 0);
  for (unsigned index = 0; index < WORDS; index++)
    words[index] = words[index] * 3 + 9 + index;
  const void *updated = read_back(&program, SPAN_AT, sizeof(words));
  CHECK(updated && memcmp(updated, words, sizeof(words)) == 0);
  CHECK_EQUAL(reply.result.launches, 2);
  CHECK_EQUAL(reply.result.sequence, program.sequence);
  CHECK(reply.result.busy_ns > 0);
  CHECK_EQUAL(end_program(&program), 0);
}

/* Rows of elements of every size, and nothing beyond them. */
static void fills_are_as_the_program_asked(void) {
  struct program program;
  REQUIRE(begin_ready(&program));
  uint8_t expected[8192] = {0};
  for (uint32_t element = 1; element <= 4; element *= 2) {
    const struct gb_run_fill fills[] = {
        {SPAN_AT + 64, 256, 5, 7, element, 0x01020304},
        {SPAN_AT + 4096, 0, 33, 1, element, 0xa1a2a3a4},
        {SPAN_AT + 6000, 0, 0, 9, element, 1},
    };
    next_batch(&program);
    for (unsigned index = 0; index < 3; index++) {
      add(GB_RUN_FILL, &fills[index], sizeof(*fills), "", 0);
      for (uint64_t row = 0; row < fills[index].height; row++) {
        for (uint64_t column = 0; column < fills[index].width; column++)
          memcpy(expected + fills[index].offset - SPAN_AT + row * fills[index].pitch + column * element,
                 &fills[index].value, element);
      }
    }
    CHECK_EQUAL(send_next(&program), GB_RUN_OK);
    const void *filled = read_back(&program, SPAN_AT, sizeof(expected));
    CHECK(filled && memcmp(filled, expected, sizeof(expected)) == 0);
  }
  const struct gb_run_fill bad[] = {{SPAN_AT, 1, 2, 2, 1, 0},
                                    {SPAN_AT + 1, 8, 2, 2, 2, 0},
                                    {SPAN_AT, 8, 1, 1, 3, 0},
                                    {SPAN_AT, 8, 1u << 31, 1u << 31, 4, 0},
                                    {SPAN_AT, UINT64_MAX - 3, 1, 2, 4, 0}};
  for (unsigned index = 0; index < sizeof(bad) / sizeof(*bad); index++) {
    struct program other;
    REQUIRE(begin_program(&other));
    next_batch(&other);
    add(GB_RUN_FILL, &bad[index], sizeof(*bad), "", 0);
    send_next(&other);
    CHECK_EQUAL(sync_with(&other), GB_RUN_INVALID);
    CHECK_EQUAL(end_program(&other), 0);
  }
  CHECK_EQUAL(end_program(&program), 0);
}

static void variables_of_modules_are_written_in_order(void) {
  struct program program;
  REQUIRE(begin_ready(&program));
  struct image image = make_image(RUN_IMAGE_TEXT, 8 * KIB, 0);
  const char *name = "gb_bias";
  const uint64_t params[] = {arena_base + SPAN_AT, 1};
  struct gb_run_symbol symbol = {.length = 8, .name_bytes = (uint32_t)strlen(name)};
  memcpy(symbol.digest, image.digest, sizeof(symbol.digest));
  next_batch(&program);
  for (uint64_t value = 5; value <= 500; value *= 10) {
    begin_command(GB_RUN_SYMBOL);
    part(&symbol, sizeof(symbol));
    part(name, strlen(name));
    pad();
    part(&value, sizeof(value));
    end_command();
    add_launch(BIASED_KERNEL, params, sizeof(params));
  }
  CHECK_EQUAL(send_next(&program), GB_RUN_OK);
  CHECK_EQUAL(word_at(&program, SPAN_AT), 555);
  symbol.offset = 4; /* 8 bytes do not fit behind it */
  next_batch(&program);
  begin_command(GB_RUN_SYMBOL);
  part(&symbol, sizeof(symbol));
  part(name, strlen(name));
  pad();
  part("12345678", 8);
  end_command();
  send_next(&program);
  CHECK_EQUAL(sync_with(&program), GB_RUN_INVALID);
  free(image.content);
  CHECK_EQUAL(end_program(&program), 0);
}

/* ---- order ---- */

static void batches_that_come_early_wait(void) {
  struct program program;
  static struct batch early[3];
  static struct reply replies[3];
  uint64_t ids[3];
  REQUIRE(begin_ready(&program));
  next_batch(&program);
  add_update(SPAN_AT, 1, 1);
  early[0] = batch;
  next_batch(&program);
  add_update(SPAN_AT, 1, 2);
  early[1] = batch;
  next_batch(&program);
  add_range(GB_RUN_READ, SPAN_AT, 8, "", 0);
  early[2] = batch;
  CHECK_EQUAL(begin_call(program.lane, &early[2], &replies[2], &ids[2]), GB_LANE_OK);
  CHECK_EQUAL(begin_call(program.lane, &early[1], &replies[1], &ids[1]), GB_LANE_OK);
  CHECK_EQUAL(gb_lane_wait(program.lane, ids[1], 200), GB_LANE_TIMEOUT);
  CHECK_EQUAL(begin_call(program.lane, &early[0], &replies[0], &ids[0]), GB_LANE_OK);
  for (unsigned index = 0; index < 3; index++) {
    end_call(program.lane, ids[index], &replies[index]);
    CHECK_EQUAL(replies[index].lane, GB_LANE_OK);
    CHECK_EQUAL(replies[index].result.status, GB_RUN_OK);
  }
  CHECK(replies[2].data_bytes == 8 && *(const uint64_t *)(const void *)replies[2].data == 1 * 3 + 2);
  /* Too far ahead, and without a place in the order: no trace of either. */
  begin_batch(program.sequence + GB_RUN_BATCHES_AHEAD_MAX + 2);
  add_sync();
  CHECK_EQUAL(send_batch(program.lane), GB_RUN_LIMIT);
  begin_batch(0);
  CHECK_EQUAL(send_batch(program.lane), GB_RUN_INVALID);
  begin_batch(program.sequence + 1);
  ((struct gb_run_batch *)batch.bytes)->version++;
  CHECK_EQUAL(send_batch(program.lane), GB_RUN_INVALID);
  batch.length = 15;
  CHECK_EQUAL(send_batch(program.lane), GB_RUN_INVALID);
  CHECK_EQUAL(sync_with(&program), GB_RUN_OK);
  CHECK_EQUAL(end_program(&program), 0);
}

static void a_batch_that_comes_again_is_done_once(void) {
  struct program program;
  REQUIRE(begin_ready(&program));
  next_batch(&program);
  add_update(SPAN_AT, 1, 1);
  for (unsigned round = 0; round < 3; round++)
    CHECK_EQUAL(send_next(&program), GB_RUN_OK);
  const uint64_t *word = read_back(&program, SPAN_AT, 8);
  CHECK(word && *word == 1);
  static struct batch reading;
  reading = batch;
  uint64_t sequence = program.sequence;
  next_batch(&program);
  add_update(SPAN_AT, 1, 5);
  CHECK_EQUAL(send_next(&program), GB_RUN_OK);
  /* It answers what it answered, on another lane, too. */
  for (unsigned round = 0; round < 2; round++) {
    gb_lane_close(program.lane, 1000);
    REQUIRE(open_program_lane(&program));
    batch = reading;
    CHECK_EQUAL(send_batch(program.lane), GB_RUN_OK);
    CHECK(reply.data_bytes == 8 && *(const uint64_t *)(const void *)reply.data == 1);
    CHECK(reply.result.sequence > sequence);
  }
  CHECK_EQUAL(word_at(&program, SPAN_AT), 1 * 3 + 5); /* the order goes on where it was */
  for (unsigned count = 0; count <= GB_RUN_ANSWERS_KEPT; count++)
    CHECK_EQUAL(sync_with(&program), GB_RUN_OK);
  batch = reading;
  CHECK_EQUAL(send_batch(program.lane), GB_RUN_LIMIT); /* forgotten, and not made up */
  CHECK_EQUAL(word_at(&program, SPAN_AT), 8);
  CHECK_EQUAL(end_program(&program), 0);
}

/* A lane that ends while its batch runs: the next one gets the answer. */
static void an_answer_goes_to_who_asks_last(void) {
  struct program program;
  REQUIRE(begin_ready(&program));
  next_batch(&program);
  add_held(SPAN_AT, 400);
  add_range(GB_RUN_READ, SPAN_AT, 8, "", 0);
  static struct batch held;
  held = batch;
  uint64_t id = 0;
  CHECK_EQUAL(begin_call(program.lane, &batch, &reply, &id), GB_LANE_OK);
  CHECK_EQUAL(gb_lane_wait(program.lane, id, 100), GB_LANE_TIMEOUT);
  gb_lane_close(program.lane, 1000);
  REQUIRE(open_program_lane(&program));
  batch = held;
  CHECK_EQUAL(send_batch(program.lane), GB_RUN_OK);
  CHECK(reply.data_bytes == 8 && *(const uint64_t *)(const void *)reply.data == 1);
  CHECK_EQUAL(reply.result.launches, 1);
  CHECK_EQUAL(end_program(&program), 0);
}

/* More than the queue holds, while a kernel keeps it: answers wait, and nothing is lost. */
static void a_full_queue_delays_answers(void) {
  enum { COUNT = 90 };
  struct program program;
  static uint64_t ids[COUNT];
  REQUIRE(begin_ready(&program));
  next_batch(&program);
  add_held(SPAN_AT, 1500);
  CHECK_EQUAL(send_next(&program), GB_RUN_OK);
  struct batch *batches = malloc(COUNT * sizeof(*batches));
  struct reply *replies = calloc(COUNT, sizeof(*replies));
  static uint8_t bytes[1000 * KIB];
  for (unsigned index = 0; index < COUNT; index++) {
    next_batch(&program);
    add_range(GB_RUN_WRITE, SPAN_AT + 8, sizeof(bytes), bytes, sizeof(bytes));
    add_update(SPAN_AT, 1, index);
    batches[index] = batch;
    CHECK_EQUAL(begin_call(program.lane, &batches[index], &replies[index], &ids[index]), GB_LANE_OK);
  }
  CHECK_EQUAL(gb_lane_wait(program.lane, ids[COUNT - 1], 800), GB_LANE_TIMEOUT);
  for (unsigned index = 0; index < COUNT; index++) {
    end_call(program.lane, ids[index], &replies[index]);
    CHECK_EQUAL(replies[index].lane, GB_LANE_OK);
    CHECK_EQUAL(replies[index].result.status, GB_RUN_OK);
  }
  uint64_t expected = 1;
  for (unsigned index = 0; index < COUNT; index++)
    expected = expected * 3 + index;
  CHECK(word_at(&program, SPAN_AT) == expected);
  free(batches);
  free(replies);
  CHECK_EQUAL(end_program(&program), 0);
}

/* ---- failures ---- */

/* The batch that was built last fails so; nothing behind it is done. */
static void fails_with(struct program *program, uint32_t status, int32_t cuda_error, uint32_t function) {
  uint64_t sequence = program->sequence;
  send_next(program);
  next_batch(program);
  add_update(SPAN_AT, 1, 1);
  send_next(program);
  CHECK_EQUAL(sync_with(program), status);
  CHECK_EQUAL(reply.result.cuda_error, cuda_error);
  CHECK_EQUAL(reply.result.function, function);
  CHECK_EQUAL(reply.result.sequence, sequence);
  CHECK_EQUAL(reply.result.launches, 0);
  CHECK_EQUAL(reply.data_bytes, 0);
  CHECK_EQUAL(end_program(program), 0);
}

static void what_makes_no_sense_stays_failed(void) {
  const uint64_t params[] = {arena_base + SPAN_AT, 1, 1};
  const struct gb_run_copy copy = {SPAN_AT, SPAN_AT + SPAN_BYTES, 8};
  struct gb_run_launch launch = {
      .function = UPDATE_KERNEL, .grid = {1, 1, 1}, .block = {2000, 1, 1}, .param_bytes = 24};
  const struct { uint32_t status; int32_t cuda_error; uint32_t function; } expected[] = {
      {GB_RUN_NOT_FOUND, 0, 77},
      {GB_RUN_INVALID, 0, UPDATE_KERNEL},
      {GB_RUN_INVALID, 0, UPDATE_KERNEL},
      {GB_RUN_FAILED, 1, UPDATE_KERNEL},
      {GB_RUN_INVALID, 0, UPDATE_KERNEL},
      {GB_RUN_NOT_FOUND, 0, 0},
      {GB_RUN_NOT_FOUND, 0, 0},
      {GB_RUN_INVALID, 0, 0},
      {GB_RUN_INVALID, 0, 0},
      {GB_RUN_INVALID, 0, 0},
      {GB_RUN_NOT_FOUND, 0, 0},
      {GB_RUN_LIMIT, 0, 0},
      {GB_RUN_INVALID, 0, 0},
  };
  for (unsigned which = 0; which < sizeof(expected) / sizeof(*expected); which++) {
    struct program program;
    REQUIRE(begin_ready(&program));
    next_batch(&program);
    switch (which) {
    case 0: add_launch(77, params, sizeof(params)); break;
    case 1: add_launch(UPDATE_KERNEL, params, 16); break;
    case 2: add_launch(UPDATE_KERNEL, RUN_IMAGE_TEXT, 40); break;
    case 3: add(GB_RUN_LAUNCH, &launch, sizeof(launch), params, sizeof(params)); break;
    case 4: { /* an event of the program's process */
      struct gb_run_launch_attribute attribute = {.id = 7};
      launch.attribute_count = 1;
      begin_command(GB_RUN_LAUNCH);
      part(&launch, sizeof(launch));
      part(&attribute, sizeof(attribute));
      part(params, sizeof(params));
      end_command();
      break;
    }
    case 5: add_range(GB_RUN_WRITE, SPAN_AT + SPAN_BYTES - 8, 16, params, 16); break;
    case 6: add(GB_RUN_COPY, &copy, sizeof(copy), "", 0); break;
    case 7: add_range(GB_RUN_WRITE, UINT64_MAX - 7, 16, params, 16); break;
    case 8: add_sync(); add_sync(); break;
    case 9: add(99, "", 0, "", 0); break;
    case 10: add_range(GB_RUN_UNTRACK, SPAN_AT, 4096, "", 0); break;
    case 11: add_range(GB_RUN_READ, SPAN_AT, GB_RUN_BATCH_BYTES_MAX, "", 0); break;
    default: add_sync(); batch.bytes[sizeof(struct gb_run_batch)] = 0xf8; break;
    }
    fails_with(&program, expected[which].status, expected[which].cuda_error, expected[which].function);
  }
}

static void a_fault_is_told_with_its_kernel_and_ends_it(void) {
  for (unsigned asked = 0; asked < 2; asked++) {
    struct program program;
    REQUIRE(begin_heard(&program));
    next_batch(&program);
    add_update(SPAN_AT, 1, 1);
    const uint64_t params[] = {arena_base + SPAN_AT + 2 * SPAN_BYTES, 1, 1}; /* nothing is there */
    add_launch(FILL_KERNEL, params, sizeof(params));
    send_next(&program);
    uint64_t failed = program.sequence;
    if (asked) {
      CHECK_EQUAL(sync_with(&program), GB_RUN_FAILED);
    } else { /* a fault that nobody waits for is found all the same */
      usleep(1500000);
      next_batch(&program);
      CHECK_EQUAL(send_next(&program), GB_RUN_FAILED);
    }
    CHECK_EQUAL(reply.result.cuda_error, 700);
    CHECK_EQUAL(reply.result.function, FILL_KERNEL);
    CHECK_EQUAL(reply.result.sequence, failed);
    end_refused(&program);
    CHECK(has_said("kernel \"gb_fill\" has failed with CUDA_ERROR_ILLEGAL_ADDRESS; ending"));
  }
}

static void a_kernel_that_does_not_end_ends_it(void) {
  struct program program;
  REQUIRE(begin_heard(&program));
  struct gbx_run_limit limit = {.kernel_ms = 50};
  CHECK_EQUAL(ask_status(&program.executor, GBX_MSG_RUN_LIMIT, &limit, sizeof(limit)).status, GBX_INVALID);
  limit.kernel_ms = 600;
  CHECK_EQUAL(ask_status(&program.executor, GBX_MSG_RUN_LIMIT, &limit, sizeof(limit)).status, GBX_OK);
  next_batch(&program);
  for (unsigned count = 0; count < 5; count++) /* together longer, each shorter */
    add_held(SPAN_AT, 200);
  CHECK_EQUAL(send_next(&program), GB_RUN_OK);
  CHECK_EQUAL(sync_with(&program), GB_RUN_OK);
  next_batch(&program);
  add_held(SPAN_AT, 30000);
  send_next(&program);
  uint64_t began = now_ms();
  CHECK_EQUAL(sync_with(&program), GB_RUN_TIME);
  CHECK(now_ms() - began < 3000);
  CHECK_EQUAL(reply.result.function, HELD_KERNEL);
  end_refused(&program);
  CHECK(has_said("kernel \"gb_held\" has run for longer than 600 ms; ending"));
}

/* ---- memory that goes ---- */

static void memory_in_use_is_freed_when_it_is_not(void) {
  struct program program;
  REQUIRE(begin_ready(&program));
  next_batch(&program);
  add_held(SPAN_AT, 700);
  const struct gb_run_fill late = {SPAN_AT + 64, 0, 8, 1, 1, 3}; /* taken before the range goes */
  add(GB_RUN_FILL, &late, sizeof(late), "", 0);
  uint64_t began = now_ms();
  CHECK_EQUAL(send_next(&program), GB_RUN_OK);
  CHECK(has_been_taken(&program));
  CHECK_EQUAL(change(&program.executor, GBX_MSG_FREE, GBX_DEVICE_GPU, SPAN_AT, SPAN_BYTES), GBX_OK);
  CHECK(now_ms() - began >= 500);
  CHECK_EQUAL(sync_with(&program), GB_RUN_OK);
  /* Work that names other memory does not hold it up. */
  const uint64_t half = SPAN_BYTES / 2;
  CHECK_EQUAL(change(&program.executor, GBX_MSG_ALLOCATE, GBX_DEVICE_GPU, SPAN_AT, half), GBX_OK);
  CHECK_EQUAL(change(&program.executor, GBX_MSG_ALLOCATE, GBX_DEVICE_GPU, SPAN_AT + half, half), GBX_OK);
  next_batch(&program);
  add_held(SPAN_AT, 900);
  CHECK_EQUAL(send_next(&program), GB_RUN_OK);
  CHECK(has_been_taken(&program));
  began = now_ms();
  CHECK_EQUAL(change(&program.executor, GBX_MSG_FREE, GBX_DEVICE_GPU, SPAN_AT + half, half), GBX_OK);
  CHECK(now_ms() - began < 700);
  CHECK_EQUAL(sync_with(&program), GB_RUN_OK);
  /* What comes afterwards does not find it. */
  next_batch(&program);
  add_range(GB_RUN_READ, SPAN_AT + half, 8, "", 0);
  CHECK_EQUAL(send_next(&program), GB_RUN_NOT_FOUND);
  CHECK_EQUAL(end_program(&program), 0);
}

static void memory_that_is_not_let_go_ends_it(void) {
  struct program program;
  REQUIRE(begin_heard(&program));
  next_batch(&program);
  add_held(SPAN_AT, 30000);
  CHECK_EQUAL(send_next(&program), GB_RUN_OK);
  const struct gbx_range range = {GBX_DEVICE_GPU, 0, SPAN_AT, SPAN_BYTES};
  uint64_t began = now_ms();
  send_frame(&program.executor, GBX_MSG_FREE, &range, sizeof(range));
  end_refused(&program);
  CHECK(now_ms() - began >= 1900 && now_ms() - began < 6000);
  CHECK(has_said("memory that is given back is still used after 2000 ms, kernel \"gb_held\"; ending"));
}

/* The end of the daemon does not wait for kernels. */
static void closing_waits_for_no_kernel(void) {
  struct program program;
  REQUIRE(begin_ready(&program));
  next_batch(&program);
  add_held(SPAN_AT, 1500);
  add_sync();
  uint64_t id = 0;
  CHECK_EQUAL(begin_call(program.lane, &batch, &reply, &id), GB_LANE_OK);
  usleep(200000);
  CHECK_EQUAL(close_executor(&program.executor), 0);
  end_call(program.lane, id, &reply);
  CHECK(reply.lane != GB_LANE_OK);
  gb_lane_close(program.lane, 1000);
}

/* Kernels run on the first GPU; memory of another is reached if that GPU is a peer. */
static void memory_of_a_peer_is_reached(void) {
  struct program program = {0};
  char *before = strdup(getenv("GBSIM_GPU") ? getenv("GBSIM_GPU") : "default"), name[64];
  snprintf(name, sizeof(name), "%.40s-two", before);
  setenv("GBSIM_GPU", name, 1);
  setenv("GBSIM_DEVICES", "2", 1);
  spawn_executor(&program.executor);
  setenv("GBSIM_GPU", before, 1);
  unsetenv("GBSIM_DEVICES");
  free(before);
  struct gbx_init init = good_init();
  init.gpu_count = 2;
  init.gpu_ordinals[1] = 1;
  REQUIRE(initialise(&program.executor, &init).status == GBX_OK);
  for (int32_t gpu = 0; gpu < 2; gpu++) {
    const struct gbx_range range = {GBX_DEVICE_GPU, gpu, SPAN_AT + (uint64_t)gpu * 2 * MIB, 2 * MIB};
    CHECK_EQUAL(ask_status(&program.executor, GBX_MSG_ALLOCATE, &range, sizeof(range)).status, GBX_OK);
  }
  REQUIRE(open_program_lane(&program) && send_kernels(&program));
  next_batch(&program);
  add_update(SPAN_AT + 2 * MIB - 8, 2, 30); /* one word on each */
  CHECK_EQUAL(send_next(&program), GB_RUN_OK);
  CHECK_EQUAL(word_at(&program, SPAN_AT + 2 * MIB), 31);
  CHECK_EQUAL(end_program(&program), 0);
}

int main(int argc, char **argv) {
  if (!lane_peer_begin(argc, argv) || !with_gpu) {
    fprintf(stderr, "usage: run_test EXECUTOR sim|sim-sanitized\n");
    return 2;
  }
  RUN(commands_run_in_their_order);
  RUN(fills_are_as_the_program_asked);
  RUN(variables_of_modules_are_written_in_order);
  RUN(batches_that_come_early_wait);
  RUN(a_batch_that_comes_again_is_done_once);
  RUN(an_answer_goes_to_who_asks_last);
  RUN(a_full_queue_delays_answers);
  RUN(what_makes_no_sense_stays_failed);
  RUN(a_fault_is_told_with_its_kernel_and_ends_it);
  RUN(a_kernel_that_does_not_end_ends_it);
  RUN(memory_in_use_is_freed_when_it_is_not);
  RUN(memory_that_is_not_let_go_ends_it);
  RUN(closing_waits_for_no_kernel);
  RUN(memory_of_a_peer_is_reached);
  gb_lane_door_close(lane_door);
  return check_done();
}
