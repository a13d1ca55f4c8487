/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run_peer.h: the other side of batches (gb_run.h): builds them byte by byte, sends them over a real lane, and takes
 * their answers apart.
 */
#ifndef EXECUTOR_RUN_PEER_H
#define EXECUTOR_RUN_PEER_H

#include "gb_run.h"
#include "lane_peer.h"
#include "run_kernels.h"

#define CALL_MS 20000u
#define SPAN_BYTES (32 * MIB)
#define IMAGE_BLOCKS_MAX 8u

enum { FILL_KERNEL = 1, UPDATE_KERNEL = 2, BIASED_KERNEL = 3, HELD_KERNEL = 4 };

/* An executor with VRAM at SPAN_AT, and a lane that may call. */
struct program {
  struct executor executor;
  gb_lane *lane;
  uint8_t tickets; /* used */
  uint64_t sequence;
};
#define SPAN_AT (4 * MIB)

struct batch {
  uint64_t length;
  uint64_t begun; /* of the command that is being written; 0: none */
  uint8_t bytes[GB_RUN_BATCH_BYTES_MAX];
};

static struct batch batch; /* the one that is being built */

/* What came back. */
struct reply {
  int lane; /* enum gb_lane_status */
  struct gb_run_result result;
  uint8_t *data; /* points into memory */
  uint64_t data_bytes;
  uint8_t memory[GB_RUN_BATCH_BYTES_MAX];
};
static struct reply reply;

/* ---- building ---- */

static inline void begin_batch(uint64_t sequence) {
  const struct gb_run_batch head = {.version = GB_RUN_VERSION, .sequence = sequence};
  batch.length = sizeof(head);
  memcpy(batch.bytes, &head, sizeof(head));
}

static inline void part(const void *bytes, uint64_t length) {
  memcpy(batch.bytes + batch.length, bytes, length);
  batch.length += length;
}

static inline void pad(void) {
  while (batch.length % 8 != 0)
    batch.bytes[batch.length++] = 0;
}

static inline void begin_command(uint16_t type) {
  const struct gb_run_command header = {.type = type};
  batch.begun = batch.length;
  part(&header, sizeof(header));
}

static inline void end_command(void) {
  pad();
  uint32_t bytes = (uint32_t)(batch.length - batch.begun);
  memcpy(batch.bytes + batch.begun, &bytes, sizeof(bytes));
  ((struct gb_run_batch *)batch.bytes)->command_count++;
}

static inline void add(uint16_t type, const void *fixed, uint64_t fixed_bytes, const void *rest, uint64_t rest_bytes) {
  begin_command(type);
  part(fixed, fixed_bytes);
  part(rest, rest_bytes);
  end_command();
}

static inline void add_range(uint16_t type, uint64_t offset, uint64_t length, const void *data, uint64_t data_bytes) {
  const struct gb_run_range range = {offset, length};
  add(type, &range, sizeof(range), data, data_bytes);
}

static inline void add_sync(void) {
  add(GB_RUN_SYNC, "", 0, "", 0);
}

static inline void add_function(const uint8_t *digest, uint32_t number, const char *name) {
  struct gb_run_function function = {.function = number, .name_bytes = (uint32_t)strlen(name)};
  memcpy(function.digest, digest, sizeof(function.digest));
  add(GB_RUN_FUNCTION, &function, sizeof(function), name, strlen(name));
}

static inline void add_launch(uint32_t function, const void *params, uint32_t param_bytes) {
  const struct gb_run_launch launch = {
      .function = function, .grid = {1, 1, 1}, .block = {32, 1, 1}, .param_bytes = param_bytes};
  add(GB_RUN_LAUNCH, &launch, sizeof(launch), params, param_bytes);
}

/* word = word * 3 + key + i */
static inline void add_update(uint64_t offset, uint64_t words, uint64_t key) {
  const uint64_t params[] = {arena_base + offset, words, key};
  add_launch(UPDATE_KERNEL, params, sizeof(params));
}

static inline void add_held(uint64_t offset, uint64_t ms) {
  const uint64_t params[] = {arena_base + offset, ms * 1000000};
  add_launch(HELD_KERNEL, params, sizeof(params));
}

/* ---- sending ---- */

static inline int begin_call(gb_lane *lane, const struct batch *sent, struct reply *into, uint64_t *id) {
  into->data_bytes = 0;
  const struct gb_lane_call call = {.size = sizeof(call),
                                    .priority = GB_LANE_DEMAND,
                                    .deadline_ms = CALL_MS,
                                    .body = sent->bytes,
                                    .body_bytes = sent->length,
                                    .result = into->memory,
                                    .result_room = sizeof(into->memory),
                                    .result_bytes = &into->data_bytes};
  return gb_lane_call(lane, &call, id);
}

static inline void end_call(gb_lane *lane, uint64_t id, struct reply *into) {
  into->lane = gb_lane_wait(lane, id, CALL_MS + 1000);
  memset(&into->result, 0xff, sizeof(into->result));
  if (into->lane != GB_LANE_OK)
    return;
  CHECK(into->data_bytes >= sizeof(into->result));
  memcpy(&into->result, into->memory, sizeof(into->result));
  into->data_bytes -= sizeof(into->result);
  CHECK_EQUAL(into->result.bytes, into->data_bytes);
  into->data = into->memory + sizeof(into->result);
}

/* Sends the batch that was built and waits for its answer. returns: its status; 1000 and more: the lane's. */
static inline uint32_t send_batch(gb_lane *lane) {
  uint64_t id = 0;
  int began = begin_call(lane, &batch, &reply, &id);
  if (began != GB_LANE_OK)
    return 1000 + (uint32_t)began;
  end_call(lane, id, &reply);
  return reply.lane == GB_LANE_OK ? reply.result.status : 1000 + (uint32_t)reply.lane;
}

static inline void next_batch(struct program *program) {
  begin_batch(++program->sequence);
}

static inline uint32_t send_next(struct program *program) {
  return send_batch(program->lane);
}

static inline uint32_t sync_with(struct program *program) {
  next_batch(program);
  add_sync();
  return send_next(program);
}

/* The bytes at an offset now; NULL: not so many came. */
static inline const void *read_back(struct program *program, uint64_t offset, uint64_t bytes) {
  next_batch(program);
  add_range(GB_RUN_READ, offset, bytes, "", 0);
  return send_next(program) == GB_RUN_OK && reply.data_bytes == bytes ? reply.data : NULL;
}

static inline uint64_t word_at(struct program *program, uint64_t offset) {
  const uint64_t *word = read_back(program, offset, sizeof(*word));
  CHECK(word != NULL);
  return word ? *word : UINT64_MAX;
}

/* ---- images ---- */

struct image {
  uint64_t bytes;
  uint32_t block_count;
  uint8_t *content; /* whole blocks */
  uint8_t digest[GB_RUN_DIGEST_BYTES];
  uint8_t digests[IMAGE_BLOCKS_MAX * GB_RUN_DIGEST_BYTES];
};

/* A text of so many bytes; `seed` makes it another one. */
static inline struct image make_image(const char *text, uint64_t bytes, uint32_t seed) {
  struct image image = {.bytes = bytes};
  image.block_count = (uint32_t)((bytes + GB_RUN_IMAGE_BLOCK_BYTES - 1) / GB_RUN_IMAGE_BLOCK_BYTES);
  image.content = calloc(image.block_count, GB_RUN_IMAGE_BLOCK_BYTES);
  int written = snprintf((char *)image.content, bytes, "%s\n// %u ", text, seed);
  for (uint64_t at = (uint64_t)written; at + 1 < bytes; at++)
    image.content[at] = (uint8_t)('a' + (at * 2654435761u + seed) / 997 % 26);
  gb_lane_digest(image.content, image.bytes, image.digest);
  gb_lane_digests(image.content, GB_RUN_IMAGE_BLOCK_BYTES, image.block_count, image.digests, 1);
  return image;
}

static inline void add_image(const struct image *image) {
  struct gb_run_image head = {.bytes = image->bytes, .block_count = image->block_count};
  memcpy(head.digest, image->digest, sizeof(head.digest));
  add(GB_RUN_IMAGE, &head, sizeof(head), image->digests, (uint64_t)image->block_count * GB_RUN_DIGEST_BYTES);
}

static inline void add_part(const struct image *image, uint64_t offset, uint64_t bytes) {
  struct gb_run_image_part head = {.offset = offset, .length = bytes};
  memcpy(head.digest, image->digest, sizeof(head.digest));
  add(GB_RUN_IMAGE_PART, &head, sizeof(head), image->content + offset, bytes);
}

/* Asks for an image. returns: how many blocks are missing; UINT32_MAX: the answer is another (reply). */
static inline uint32_t ask_for(struct program *program, const struct image *image) {
  next_batch(program);
  add_image(image);
  uint32_t expected = (uint32_t)sizeof(struct gb_run_bitmap) + (image->block_count + 7) / 8;
  if (send_next(program) != GB_RUN_OK || reply.data_bytes != expected)
    return UINT32_MAX;
  uint32_t missing = 0;
  for (uint32_t block = 0; block < image->block_count; block++)
    missing += reply.data[sizeof(struct gb_run_bitmap) + block / 8] >> block % 8 & 1;
  return missing;
}

/* Questions about images are answered in their turn, and wait for no kernel. */
static inline bool has_been_taken(struct program *program) {
  struct image unknown = make_image("", 64, 99);
  bool taken = ask_for(program, &unknown) == 1;
  free(unknown.content);
  return taken;
}

/* Sends a part of an image in pieces that fit into batches. */
static inline void send_parts(struct program *program, const struct image *image, uint64_t from, uint64_t to) {
  while (from < to) {
    uint64_t piece = GB_RUN_IMAGE_BLOCK_BYTES - from % GB_RUN_IMAGE_BLOCK_BYTES;
    if (piece > 600 * KIB)
      piece = 600 * KIB;
    if (piece > to - from)
      piece = to - from;
    next_batch(program);
    add_part(image, from, piece);
    CHECK_EQUAL(send_next(program), GB_RUN_OK);
    from += piece;
  }
}

/* ---- beginning and end ---- */

static inline bool open_program_lane(struct program *program) {
  struct gbx_grant grant = grant_of(++program->tickets, 0, 64 * MIB);
  grant.rights |= GB_LANE_MAY_CALL;
  return give(&program->executor, &grant) == GBX_OK && open_lane(&grant, 1, &program->lane) == GB_LANE_OK;
}

/* An executor with SPAN_BYTES of VRAM, and a lane to it. */
static inline bool begin_program(struct program *program) {
  memset(program, 0, sizeof(*program));
  return open_executor(&program->executor) &&
         change(&program->executor, GBX_MSG_ALLOCATE, GBX_DEVICE_GPU, SPAN_AT, SPAN_BYTES) == GBX_OK &&
         open_program_lane(program);
}

/* Its kernels, from a small image. */
static inline bool send_kernels(struct program *program) {
  struct image image = make_image(RUN_IMAGE_TEXT, 8 * KIB, 0);
  CHECK_EQUAL(ask_for(program, &image), 1);
  send_parts(program, &image, 0, image.bytes);
  next_batch(program);
  add_function(image.digest, FILL_KERNEL, "gb_fill");
  add_function(image.digest, UPDATE_KERNEL, "gb_update");
  add_function(image.digest, BIASED_KERNEL, "gb_biased");
  add_function(image.digest, HELD_KERNEL, "gb_held");
  add_sync();
  free(image.content);
  return send_next(program) == GB_RUN_OK;
}

static inline bool begin_ready(struct program *program) {
  return begin_program(program) && send_kernels(program);
}

static inline int end_program(struct program *program) {
  gb_lane_close(program->lane, 1000);
  return close_executor(&program->executor);
}

/* ---- the executor's own words ---- */

static int words_fd = -1, old_stderr = -1;

/* From here on executors that are started write what they say into a file. */
static inline void begin_listening(void) {
  words_fd = memfd_create("executor-stderr", 0);
  old_stderr = dup(2);
  dup2(words_fd, 2);
}

static inline void end_listening(void) {
  dup2(old_stderr, 2);
  close(old_stderr);
}

/* begin_ready(), and what the executor says is heard. */
static inline bool begin_heard(struct program *program) {
  begin_listening();
  bool ready = begin_ready(program);
  end_listening();
  return ready;
}

/* An executor that ends itself for its program's sake: its status, and that nothing of it is kept here. */
static inline void end_refused(struct program *program) {
  int status = 0;
  CHECK_EQUAL(waitpid(program->executor.pid, &status, 0), program->executor.pid);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 3);
  gb_lane_close(program->lane, 1000);
  close(program->executor.socket);
  close(program->executor.door);
}

static inline bool has_said(const char *what) {
  char text[4096] = {0};
  ssize_t count = pread(words_fd, text, sizeof(text) - 1, 0);
  close(words_fd);
  bool said = count > 0 && strstr(text, what) != NULL;
  if (!said)
    fprintf(stderr, "it has said: %s\n", text);
  return said;
}

#endif
