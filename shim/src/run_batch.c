/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run_batch.c: batches: filled under the queue's lock, sent in order, kept until they are answered, so that they can be
 * sent again over another lane.
 */
#include "run_part.h"

#include <string.h>

#include "lock.h"

static struct gb_batch *batch_of(struct gb_run_queue *queue, uint64_t sequence) {
  return &queue->batches[sequence % GB_RUN_BATCHES_MAX];
}

static struct timespec in_ms(uint32_t milliseconds) {
  uint64_t at = gb_now_ns() + milliseconds * GB_MS;
  return (struct timespec){.tv_sec = (time_t)(at / 1000000000ull), .tv_nsec = (long)(at % 1000000000ull)};
}

/* ---- filling ---- */

static void begin(struct gb_run_queue *queue, struct gb_batch *batch) {
  uint8_t *bytes = batch->bytes;
  *batch = (struct gb_batch){.bytes = bytes, .used = sizeof(struct gb_run_batch), .began_ns = gb_now_ns()};
  gb_run_queue_wake(queue);
}

static void close_filled(struct gb_run_queue *queue) {
  struct gb_batch *batch = batch_of(queue, queue->filling);
  struct gb_run_batch head = {
      .version = GB_RUN_VERSION, .command_count = batch->commands, .sequence = queue->filling};
  memcpy(batch->bytes, &head, sizeof head);
  queue->filling++;
  queue->counters.batches++;
}

static bool is_full(const struct gb_run_queue *queue) {
  return queue->filling - queue->first == GB_RUN_BATCHES_MAX;
}

/* A turn of waiting for something that the queue's thread notices. */
static void wait_turn(struct gb_run_queue *queue) {
  struct timespec until = in_ms(100);
  queue->users++;
  pthread_cond_timedwait(&queue->changed, &queue->lock, &until);
  gb_run_queue_leave(queue);
}

/* The filling batch has a place of its own in the ring: it waits for the oldest one's answer. */
static void wait_for_place(struct gb_run_queue *queue) {
  uint64_t told = gb_now_ns();
  gb_run_batch_send_closed(queue);
  while (is_full(queue) && queue->error == CUDA_SUCCESS) {
    gb_run_batch_reap(queue);
    if (!is_full(queue) || queue->error != CUDA_SUCCESS) return;
    wait_turn(queue);
    if (gb_now_ns() - told < GB_RUN_TELL_MS * GB_MS) continue;
    told = gb_now_ns();
    gb_log(GB_LOG_WARN, "waiting for feeder %s: it has taken none of %u batches for %u s", queue->feeder,
           GB_RUN_BATCHES_MAX, GB_RUN_TELL_MS / 1000);
  }
}

static uint64_t padded(uint64_t bytes) {
  return (bytes + 7) & ~7ull;
}

/* So many bytes a command may have behind its header. */
static uint64_t room(const struct gb_run_queue *queue) {
  return (queue->body_max - sizeof(struct gb_run_batch) - sizeof(struct gb_run_command)) & ~7ull;
}

/* What the GPU has nothing to do for, or answers when everything before is done. */
static bool is_work(enum gb_run_type type) {
  switch (type) {
  case GB_RUN_IMAGE:
  case GB_RUN_IMAGE_PART:
  case GB_RUN_FUNCTION:
  case GB_RUN_COLLECT:
  case GB_RUN_READ:
  case GB_RUN_SYNC: return false;
  default: return true;
  }
}

bool gb_run_batch_reserve(struct gb_run_queue *queue, uint64_t bytes) {
  while (queue->error == CUDA_SUCCESS) {
    if (is_full(queue)) {
      wait_for_place(queue);
      continue;
    }
    struct gb_batch *batch = batch_of(queue, queue->filling);
    if (batch->used == 0) begin(queue, batch);
    if (batch->used + bytes <= queue->body_max) return true;
    gb_run_batch_send(queue);
  }
  return false;
}

uint8_t *gb_run_batch_add(struct gb_run_queue *queue, enum gb_run_type type, uint64_t bytes) {
  uint64_t whole = sizeof(struct gb_run_command) + padded(bytes);
  if (bytes > room(queue) || !gb_run_batch_reserve(queue, whole)) return NULL;
  struct gb_batch *batch = batch_of(queue, queue->filling);
  uint8_t *place = batch->bytes + batch->used;
  struct gb_run_command command = {.bytes = (uint32_t)whole, .type = (uint16_t)type};
  memset(place + whole - 8, 0, 8);
  memcpy(place, &command, sizeof command);
  batch->used += (uint32_t)whole;
  batch->commands++;
  if (is_work(type)) {
    queue->worked = queue->filling;
    gb_run_queue_busy(queue, true);
  }
  return place + sizeof command;
}

void gb_run_batch_launched(struct gb_run_queue *queue) {
  struct gb_batch *batch = batch_of(queue, queue->filling);
  queue->counters.launches++;
  if (++batch->launches >= GB_RUN_LAUNCHES_MIN && queue->first == queue->filling) gb_run_batch_send(queue);
}

/* ---- sending ---- */

static int call(struct gb_run_queue *queue, struct gb_batch *batch) {
  struct gb_run_answer *answer = batch->answer;
  struct gb_lane_call ask = {.size = sizeof ask,
                             .priority = GB_LANE_DEMAND,
                             .deadline_ms = GB_RUN_ANSWER_MS,
                             .body = batch->bytes,
                             .body_bytes = batch->used,
                             .result = answer != NULL ? (void *)answer->memory : &batch->accepted,
                             .result_room = answer != NULL ? answer->room : sizeof batch->accepted,
                             .result_bytes = answer != NULL ? &answer->bytes : &batch->accepted_bytes};
  return gb_lane_call(queue->open->lane, &ask, &batch->call);
}

void gb_run_batch_send_closed(struct gb_run_queue *queue) {
  for (uint64_t i = queue->first; i < queue->filling && queue->open != NULL && !queue->lost; i++) {
    struct gb_batch *batch = batch_of(queue, i);
    if (batch->sent || batch->answered) continue;
    int status = call(queue, batch);
    if (status == GB_LANE_BUSY || status == GB_LANE_NO_MEMORY) return; /* the thread tries again */
    if (status == GB_LANE_INVALID) {
      gb_run_queue_die(queue, "its lane takes no such calls any more");
    } else if (status != GB_LANE_OK) {
      gb_run_queue_lost(queue);
    } else {
      batch->sent = true;
      queue->counters.bytes_out += batch->used;
    }
  }
}

void gb_run_batch_send(struct gb_run_queue *queue) {
  if (!is_full(queue) && batch_of(queue, queue->filling)->used != 0) close_filled(queue);
  gb_run_batch_send_closed(queue);
}

/* ---- answers ---- */

static CUresult error_of(const struct gb_run_result *result) {
  if (result->status == GB_RUN_FAILED && result->cuda_error > 0) return (CUresult)result->cuda_error;
  return result->status == GB_RUN_TIME ? CUDA_ERROR_LAUNCH_TIMEOUT : CUDA_ERROR_EXTERNAL_DEVICE;
}

static void advance(struct gb_run_queue *queue) {
  while (queue->first < queue->filling && batch_of(queue, queue->first)->answered) {
    batch_of(queue, queue->first)->used = 0;
    queue->first++;
  }
  pthread_cond_broadcast(&queue->changed);
}

/* An answer has come. */
static void answered(struct gb_run_queue *queue, uint64_t sequence, struct gb_batch *batch) {
  struct gb_run_answer *answer = batch->answer;
  struct gb_run_result result = batch->accepted;
  uint64_t bytes = answer != NULL ? answer->bytes : batch->accepted_bytes;
  if (bytes < sizeof result) {
    gb_run_queue_die(queue, "its answer makes no sense");
    return;
  }
  if (answer != NULL) memcpy(&result, answer->memory, sizeof result);
  if (result.bytes != bytes - sizeof result) {
    gb_run_queue_die(queue, "its answer makes no sense");
    return;
  }
  queue->counters.bytes_in += bytes;
  bool own = answer != NULL && answer->own && result.sequence == sequence;
  if (result.status != GB_RUN_OK && !own) gb_run_queue_latch(queue, error_of(&result), result.function);
  if (answer != NULL) {
    answer->done = true;
    /* Code is answered for without waiting for the GPU. */
    if (sequence >= queue->worked && !answer->own) gb_run_queue_busy(queue, false);
  }
  batch->answered = true;
  advance(queue);
}

/* A call has ended. */
static void ended(struct gb_run_queue *queue, uint64_t sequence, struct gb_batch *batch, int status) {
  switch (status) {
  case GB_LANE_OK: answered(queue, sequence, batch); return;
  case GB_LANE_LIMIT: /* it has no room for one more call now */
    batch->sent = false;
    gb_run_queue_wake(queue);
    if (++batch->refused > GB_RUN_REFUSED_MAX) gb_run_queue_die(queue, "it takes no more batches");
    return;
  case GB_LANE_DEADLINE: gb_run_queue_die(queue, "it has not answered in time"); return;
  case GB_LANE_IO: gb_run_queue_die(queue, "its executor has failed"); return;
  case GB_LANE_INVALID:
  case GB_LANE_DENIED: gb_run_queue_die(queue, "it does not run kernels any more"); return;
  default: /* the lane, or its ticket; CANCELED by who has noticed that before */
    batch->sent = false;
    gb_run_queue_lost(queue);
  }
}

void gb_run_batch_reap(struct gb_run_queue *queue) {
  if (queue->open == NULL) return;
  for (uint64_t i = queue->first; i < queue->filling && !queue->dead && !queue->lost; i++) {
    struct gb_batch *batch = batch_of(queue, i);
    if (!batch->sent || batch->answered || batch->answer != NULL) continue;
    int status = gb_lane_wait(queue->open->lane, batch->call, 0);
    if (status != GB_LANE_TIMEOUT) ended(queue, i, batch, status);
  }
}

void gb_run_batch_take_back(struct gb_run_queue *queue) {
  for (uint64_t i = queue->first; i < queue->filling; i++) {
    struct gb_batch *batch = batch_of(queue, i);
    if (!batch->sent || batch->answered) continue;
    gb_lane_cancel(queue->open->lane, batch->call);
    if (!batch->waited) {
      while (gb_lane_wait(queue->open->lane, batch->call, 1000) == GB_LANE_TIMEOUT) continue;
    }
    batch->sent = false;
  }
}

/* Waits for the batch's call outside the lock, for up to a second. */
static void wait_for_call(struct gb_run_queue *queue, uint64_t sequence, struct gb_batch *batch) {
  gb_lane *lane = queue->open->lane;
  uint64_t id = batch->call;
  batch->waited = true;
  queue->waiters++;
  pthread_mutex_unlock(&queue->lock);
  int status = gb_lane_wait(lane, id, 1000);
  pthread_mutex_lock(&queue->lock);
  /* Taken back just when this wait ran out: the call uses our memory until it has ended, which is soon. */
  while (status == GB_LANE_TIMEOUT && !batch->sent) status = gb_lane_wait(lane, id, 1000);
  batch->waited = false;
  queue->waiters--;
  if (status != GB_LANE_TIMEOUT && !queue->dead) ended(queue, sequence, batch, status);
  pthread_cond_broadcast(&queue->changed);
}

CUresult gb_run_batch_ask(struct gb_run_queue *queue, struct gb_run_answer *answer) {
  uint64_t sequence = queue->filling;
  struct gb_batch *batch = batch_of(queue, sequence);
  uint64_t told = gb_now_ns();
  batch->answer = answer;
  queue->counters.waits += !answer->own;
  queue->users++;
  gb_run_batch_send(queue);
  while (!answer->done && !queue->dead) {
    if (batch->sent && !queue->lost)
      wait_for_call(queue, sequence, batch);
    else
      wait_turn(queue);
    if (gb_now_ns() - told < GB_RUN_TELL_MS * GB_MS) continue;
    told = gb_now_ns();
    gb_log(GB_LOG_WARN, "waiting for feeder %s: it is at batch %llu of %llu%s", queue->feeder,
           (unsigned long long)queue->first, (unsigned long long)sequence,
           queue->lost ? ", and its lane has ended" : "");
  }
  gb_run_queue_leave(queue);
  return queue->error;
}
