/* SPDX-License-Identifier: Apache-2.0 */
/* run.c: the commands of run.h, one function for each; batches and queues are run_batch.c's and run_queue.c's. */
#include "run_part.h"

#include <stdlib.h>
#include <string.h>

#define PIECE_BYTES (32u << 10) /* of what is written inside a batch */

/* One command whose whole body is a structure. */
static CUresult add_plain(uint32_t lane, enum gb_run_type type, const void *body, size_t bytes) {
  struct gb_run_queue *queue = gb_run_queue_lock(lane);
  if (queue == NULL) return CUDA_ERROR_EXTERNAL_DEVICE;
  uint8_t *to = gb_run_batch_add(queue, type, bytes);
  if (to != NULL) memcpy(to, body, bytes);
  CUresult result = queue->error;
  gb_run_queue_unlock(queue);
  return result;
}

CUresult gb_run_copy(uint32_t lane, uint64_t to_offset, uint64_t from_offset, uint64_t bytes) {
  struct gb_run_copy copy = {.to_offset = to_offset, .from_offset = from_offset, .length = bytes};
  return add_plain(lane, GB_RUN_COPY, &copy, sizeof copy);
}

CUresult gb_run_fill(uint32_t lane, const struct gb_run_fill *fill) {
  return add_plain(lane, GB_RUN_FILL, fill, sizeof *fill);
}

CUresult gb_run_track(uint32_t lane, uint64_t offset, uint64_t bytes, bool track) {
  struct gb_run_range range = {.offset = offset, .length = bytes};
  return add_plain(lane, track ? GB_RUN_TRACK : GB_RUN_UNTRACK, &range, sizeof range);
}

CUresult gb_run_disagree(uint32_t lane, uint64_t offset, uint64_t bytes) {
  struct gb_run_range range = {.offset = offset, .length = bytes};
  return add_plain(lane, GB_RUN_DISAGREE, &range, sizeof range);
}

/* ---- variables ---- */

/* pre: lock. */
static bool add_symbol(struct gb_run_queue *queue, const struct gb_code_symbol *symbol, const uint8_t *bytes,
                       uint64_t at, uint64_t length) {
  size_t name_bytes = strlen(symbol->name);
  size_t padded = (name_bytes + 7) & ~(size_t)7;
  struct gb_run_symbol head = {
      .offset = symbol->offset + at, .length = length, .name_bytes = (uint32_t)name_bytes};
  memcpy(head.digest, symbol->image->digest, sizeof head.digest);
  uint8_t *to = gb_run_batch_add(queue, GB_RUN_SYMBOL, sizeof head + padded + length);
  if (to == NULL) return false;
  memcpy(to, &head, sizeof head);
  memset(to + sizeof head, 0, padded);
  memcpy(to + sizeof head, symbol->name, name_bytes);
  memcpy(to + sizeof head + padded, bytes + at, length);
  return true;
}

CUresult gb_run_symbol(uint32_t lane, const struct gb_code_symbol *symbol, const void *bytes, uint64_t length) {
  CUresult result = gb_run_image(lane, symbol->image);
  struct gb_run_queue *queue = result == CUDA_SUCCESS ? gb_run_queue_lock(lane) : NULL;
  if (queue == NULL) return result != CUDA_SUCCESS ? result : CUDA_ERROR_EXTERNAL_DEVICE;
  bool added = true;
  for (uint64_t at = 0; at < length && added; at += PIECE_BYTES)
    added = add_symbol(queue, symbol, bytes, at, length - at < PIECE_BYTES ? length - at : PIECE_BYTES);
  result = queue->error;
  gb_run_queue_unlock(queue);
  return result;
}

/* ---- waiting ---- */

/* pre: lock. */
static CUresult sync(struct gb_run_queue *queue) {
  struct gb_run_result result;
  struct gb_run_answer answer = {.memory = (uint8_t *)&result, .room = sizeof result};
  if (!queue->busy || gb_run_batch_add(queue, GB_RUN_SYNC, 0) == NULL) return queue->error;
  return gb_run_batch_ask(queue, &answer);
}

CUresult gb_run_sync(uint32_t lane) {
  struct gb_run_queue *queue = gb_run_queue_lock(lane);
  if (queue == NULL) return CUDA_SUCCESS;
  CUresult result = sync(queue);
  gb_run_queue_unlock(queue);
  return result;
}

void gb_run_flush(uint32_t lane) {
  struct gb_run_queue *queue = gb_run_queue_lock(lane);
  if (queue == NULL) return;
  gb_run_batch_send(queue);
  gb_run_queue_unlock(queue);
}

struct gb_run_counters gb_run_counted(uint32_t lane) {
  struct gb_run_counters counters = {0};
  struct gb_run_queue *queue = gb_run_queue_lock(lane);
  if (queue == NULL) return counters;
  counters = queue->counters;
  gb_run_queue_unlock(queue);
  return counters;
}

/* ---- bytes there ---- */

/* pre: lock. */
static void write_inside(struct gb_run_queue *queue, uint64_t offset, const uint8_t *memory, uint64_t bytes) {
  for (uint64_t at = 0; at < bytes; at += PIECE_BYTES) {
    struct gb_run_range range = {.offset = offset + at,
                                 .length = bytes - at < PIECE_BYTES ? bytes - at : PIECE_BYTES};
    uint8_t *to = gb_run_batch_add(queue, GB_RUN_WRITE, sizeof range + range.length);
    if (to == NULL) return;
    memcpy(to, &range, sizeof range);
    memcpy(to + sizeof range, memory + at, range.length);
  }
}

/* Past the queue: what is in it may still read what lies there. pre: lock. */
static void write_beside(struct gb_run_queue *queue, uint64_t offset, const void *memory, uint64_t bytes) {
  struct gb_lane_segment segment = {.offset = offset, .bytes = bytes, .memory = (void *)(uintptr_t)memory};
  if (sync(queue) == CUDA_SUCCESS) gb_run_queue_move(queue, GB_LANE_WRITE, &segment, 1);
}

CUresult gb_run_write(uint32_t lane, uint64_t offset, const void *memory, uint64_t bytes, bool arrived) {
  struct gb_run_queue *queue = gb_run_queue_lock(lane);
  if (queue == NULL) return CUDA_ERROR_EXTERNAL_DEVICE;
  if (bytes <= GB_RUN_INLINE_BYTES_MAX)
    write_inside(queue, offset, memory, bytes);
  else
    write_beside(queue, offset, memory, bytes);
  if (arrived && queue->error == CUDA_SUCCESS) {
    struct gb_run_range range = {.offset = offset, .length = bytes};
    uint8_t *to = gb_run_batch_add(queue, GB_RUN_ARRIVED, sizeof range);
    if (to != NULL) memcpy(to, &range, sizeof range);
  }
  CUresult result = queue->error;
  gb_run_queue_unlock(queue);
  return result;
}

/* ---- bytes back ---- */

/* pre: lock. */
static CUresult read_inside(struct gb_run_queue *queue, uint64_t offset, uint8_t *memory, uint64_t bytes) {
  struct gb_run_range range = {.offset = offset, .length = bytes};
  struct gb_run_answer answer = {.room = sizeof(struct gb_run_result) + bytes};
  answer.memory = malloc(answer.room);
  if (answer.memory == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
  uint8_t *to = gb_run_batch_add(queue, GB_RUN_READ, sizeof range);
  CUresult result = queue->error;
  if (to != NULL) {
    memcpy(to, &range, sizeof range);
    result = gb_run_batch_ask(queue, &answer);
  }
  if (result == CUDA_SUCCESS && answer.bytes != answer.room) {
    gb_run_queue_die(queue, "its answer makes no sense");
    result = queue->error;
  }
  if (result == CUDA_SUCCESS) memcpy(memory, answer.memory + sizeof(struct gb_run_result), bytes);
  free(answer.memory);
  return result;
}

CUresult gb_run_read(uint32_t lane, uint64_t offset, void *memory, uint64_t bytes) {
  struct gb_run_queue *queue = gb_run_queue_lock(lane);
  CUresult result = CUDA_ERROR_EXTERNAL_DEVICE;
  if (queue == NULL) return result;
  if (bytes <= GB_RUN_INLINE_BYTES_MAX && bytes + sizeof(struct gb_run_result) <= queue->answer_max) {
    result = read_inside(queue, offset, memory, bytes);
  } else {
    struct gb_lane_segment segment = {.offset = offset, .bytes = bytes, .memory = memory};
    result = sync(queue);
    if (result == CUDA_SUCCESS) result = gb_run_queue_move(queue, GB_LANE_READ, &segment, 1);
  }
  gb_run_queue_unlock(queue);
  return result;
}

/* ---- changed blocks ---- */

struct collected {
  struct gb_run_run *runs;
  uint32_t count;
  bool is_inline;
  uint64_t bytes;
  const uint8_t *content; /* inline */
};

/* Checks the answer of COLLECT. returns: false when it makes no sense. */
static bool understand(const struct gb_run_answer *answer, struct collected *collected) {
  struct gb_run_blocks head;
  uint64_t at = sizeof(struct gb_run_result);
  uint64_t sum = 0;
  if (answer->bytes < at + sizeof head) return false;
  memcpy(&head, answer->memory + at, sizeof head);
  at += sizeof head;
  if (head.run_count > (answer->bytes - at) / sizeof *collected->runs) return false;
  collected->runs = (struct gb_run_run *)(answer->memory + at);
  collected->count = head.run_count;
  collected->is_inline = head.is_inline != 0;
  collected->bytes = head.bytes;
  collected->content = answer->memory + at + head.run_count * sizeof *collected->runs;
  for (uint32_t i = 0; i < head.run_count; i++) sum += (uint64_t)collected->runs[i].blocks * GB_RUN_BLOCK_BYTES;
  uint64_t left = answer->bytes - at - head.run_count * sizeof *collected->runs;
  return sum == head.bytes && left == (collected->is_inline ? sum : 0);
}

/* Reads the runs one behind the other. pre: lock. */
static CUresult fetch_runs(struct gb_run_queue *queue, const struct collected *collected, uint8_t *memory) {
  struct gb_lane_segment *segments = malloc(GB_LANE_SEGMENTS_MAX * sizeof *segments);
  CUresult result = segments != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
  for (uint32_t done = 0; done < collected->count && result == CUDA_SUCCESS;) {
    uint32_t count = 0;
    for (; count < GB_LANE_SEGMENTS_MAX && done < collected->count; count++, done++) {
      uint64_t bytes = (uint64_t)collected->runs[done].blocks * GB_RUN_BLOCK_BYTES;
      segments[count] =
          (struct gb_lane_segment){.offset = collected->runs[done].offset, .bytes = bytes, .memory = memory};
      memory += bytes;
    }
    result = gb_run_queue_move(queue, GB_LANE_READ, segments, count);
  }
  free(segments);
  return result;
}

/* What the caller gets of it. pre: lock. */
static CUresult hand_out(struct gb_run_queue *queue, const struct collected *collected, struct gb_run_run **runs,
                         uint8_t *memory, uint64_t room) {
  *runs = malloc((collected->count + 1) * sizeof **runs);
  if (*runs == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
  memcpy(*runs, collected->runs, collected->count * sizeof **runs);
  if (collected->bytes > room) return CUDA_SUCCESS;
  if (!collected->is_inline) return fetch_runs(queue, collected, memory);
  memcpy(memory, collected->content, collected->bytes);
  return CUDA_SUCCESS;
}

/* pre: lock. */
static CUresult ask_collect(struct gb_run_queue *queue, const struct gb_run_range *ranges, uint32_t count,
                            uint64_t room, struct gb_run_answer *answer) {
  uint64_t head_bytes = sizeof(struct gb_run_result) + sizeof(struct gb_run_blocks);
  uint64_t most = queue->answer_max - head_bytes;
  /* A run has at least a block: this much is left for them. */
  most -= most / (GB_RUN_BLOCK_BYTES / sizeof(struct gb_run_run)) + 8;
  if (most > GB_RUN_INLINE_BYTES_MAX) most = GB_RUN_INLINE_BYTES_MAX;
  struct gb_run_collect head = {.range_count = count, .inline_bytes_max = (uint32_t)(room < most ? room : most)};
  uint8_t *to = gb_run_batch_add(queue, GB_RUN_COLLECT, sizeof head + count * sizeof *ranges);
  if (to == NULL) return queue->error != CUDA_SUCCESS ? queue->error : CUDA_ERROR_INVALID_VALUE;
  memcpy(to, &head, sizeof head);
  memcpy(to + sizeof head, ranges, count * sizeof *ranges);
  return gb_run_batch_ask(queue, answer);
}

CUresult gb_run_collect(uint32_t lane, const struct gb_run_range *ranges, uint32_t range_count,
                        struct gb_run_run **runs, uint32_t *run_count, void *memory, uint64_t room, uint64_t *bytes) {
  struct gb_run_queue *queue = gb_run_queue_lock(lane);
  struct collected collected = {0};
  *runs = NULL;
  if (queue == NULL) return CUDA_ERROR_EXTERNAL_DEVICE;
  struct gb_run_answer answer = {.memory = malloc(queue->answer_max), .room = queue->answer_max};
  CUresult result = answer.memory != NULL ? ask_collect(queue, ranges, range_count, room, &answer)
                                          : CUDA_ERROR_OUT_OF_MEMORY;
  if (result == CUDA_SUCCESS && !understand(&answer, &collected)) {
    gb_run_queue_die(queue, "its answer makes no sense");
    result = queue->error;
  }
  if (result == CUDA_SUCCESS) result = hand_out(queue, &collected, runs, memory, room);
  *run_count = collected.count;
  *bytes = collected.bytes;
  if (result != CUDA_SUCCESS) {
    free(*runs);
    *runs = NULL;
  }
  free(answer.memory);
  gb_run_queue_unlock(queue);
  return result;
}
