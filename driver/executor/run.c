/* SPDX-License-Identifier: Apache-2.0 */
/* run.c: see run.h; answers and what is kept of them are in run_answers.c, its end in run_watch.c. */
#define _GNU_SOURCE
#include "run.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "run_inside.h"

/* How often the thread looks whether the GPU is done when nothing else is to do. */
#define LOOK_NS 100000

struct timespec gbx_run_in(uint64_t nanoseconds) {
  uint64_t at = gbx_now_ns() + nanoseconds;
  return (struct timespec){(time_t)(at / 1000000000u), (long)(at % 1000000000u)};
}

static void free_batch(struct gbx_run *run, struct gbx_batch *batch) {
  run->held_bytes -= batch->bytes;
  free(batch->body);
  free(batch);
}

/* ---- taking batches; the lock is held in the helpers ---- */

/* A batch that was taken before: its answer goes to who asks last. returns: false when it is done. */
static bool give_to(struct gbx_run *run, uint64_t sequence, struct gb_lane_called *called) {
  struct gbx_batch *lists[] = {run->early, run->queue, run->executing};
  for (unsigned list = 0; list < sizeof(lists) / sizeof(*lists); list++) {
    for (struct gbx_batch *batch = lists[list]; batch; batch = batch->next) {
      if (batch->sequence != sequence)
        continue;
      if (!batch->called && !batch->answers)
        return false; /* nobody waits for it: it has been taken */
      if (batch->called)
        gb_lane_answer(batch->called, GB_LANE_CANCELED, NULL, 0);
      batch->called = called;
      return true;
    }
  }
  return false;
}

/* Puts those in the queue whose turn it is. What is beyond the queue's limit is answered when it is executed. */
static void queue_early(struct gbx_run *run) {
  while (run->early && run->early->sequence == run->next) {
    struct gbx_batch *batch = run->early;
    run->early = batch->next;
    batch->next = NULL;
    *(run->queue_last ? &run->queue_last->next : &run->queue) = batch;
    run->queue_last = batch;
    run->queued_bytes += batch->bytes;
    run->next++;
    if (!batch->answers && run->queued_bytes <= GB_RUN_QUEUE_BYTES_MAX)
      gbx_run_answer_batch(run, batch, NULL, 0);
  }
  pthread_cond_signal(&run->wake);
}

static void insert(struct gbx_run *run, struct gbx_batch *batch) {
  struct gbx_batch **at = &run->early;
  while (*at && (*at)->sequence < batch->sequence)
    at = &(*at)->next;
  batch->next = *at;
  *at = batch;
  run->held_bytes += batch->bytes;
}

/* returns: whether the run has the batch now; otherwise the call has been answered, or somebody else has it. */
static bool take(struct gbx_run *run, struct gbx_batch *batch, const struct gbx_batch_head *head) {
  if (run->closing || !run->started) {
    gb_lane_answer(batch->called, GB_LANE_CLOSED, NULL, 0);
  } else if (run->ending_ns != 0) {
    gbx_run_answer_batch(run, batch, NULL, 0);
  } else if (give_to(run, head->sequence, batch->called)) {
    batch->called = NULL;
  } else if (head->sequence < run->next) {
    gbx_run_answer_again(run, batch);
  } else if (head->sequence - run->next > GB_RUN_BATCHES_AHEAD_MAX ||
             run->held_bytes + batch->bytes > GBX_RUN_HELD_BYTES_MAX) {
    gbx_run_refuse(run, batch->called, GB_RUN_LIMIT);
  } else {
    insert(run, batch);
    return true;
  }
  return false;
}

void gbx_run_accept(struct gbx_run *run, struct gb_lane_called *called, uint8_t *body, uint64_t bytes) {
  struct gbx_batch_head head = {0};
  bool good = gbx_batch_read(body, bytes, &head);
  struct gbx_batch *batch = good ? calloc(1, sizeof(*batch)) : NULL;
  bool taken = false;
  pthread_mutex_lock(&run->lock);
  if (!batch) {
    gbx_run_refuse(run, called, good ? GB_RUN_LIMIT : GB_RUN_INVALID);
  } else {
    *batch = (struct gbx_batch){.sequence = head.sequence,
                                .body = body,
                                .bytes = bytes,
                                .status = head.status,
                                .answers = head.answers,
                                .called = called};
    taken = take(run, batch, &head);
    if (taken)
      queue_early(run);
  }
  pthread_mutex_unlock(&run->lock);
  if (!taken) {
    free(body);
    free(batch);
  }
}

/* ---- the thread ---- */

/* Takes what the GPU has passed off the list. locks: held. */
static void land(struct gbx_run *run) {
  uint64_t before = run->done;
  while (run->flying && gbx_marks_passed(&run->runner->marks, run->flying->mark)) {
    struct gbx_batch *batch = run->flying;
    run->flying = batch->next;
    if (!run->flying)
      run->flying_last = NULL;
    run->flying_bytes -= batch->bytes;
    run->done = batch->sequence;
    free_batch(run, batch);
  }
  if (!run->flying && !run->runner->marks.open)
    gbx_marks_idle(&run->runner->marks);
  if (run->done != before && run->drains)
    pthread_cond_broadcast(&run->changed);
}

/* What a batch ended with: a failure that stays is noted, an answer is kept and given. locks: held. */
static void conclude(struct gbx_run *run, struct gbx_batch *batch, struct gbx_execution *execution) {
  run->executed = batch->sequence;
  if (execution->outcome.status != GB_RUN_OK && !execution->own)
    gbx_run_fail(run, execution->outcome, execution->failed_sequence, execution->function);
  bool own = execution->outcome.status != GB_RUN_OK && execution->own;
  gbx_run_conclude(run, batch, own ? execution : NULL, execution->answer, execution->answer_bytes);
}

/* Carries out one batch. locks: held at the call and at the return. */
static void execute(struct gbx_run *run, struct gbx_batch *batch) {
  struct gbx_execution execution = {
      .body = batch->body, .bytes = batch->bytes, .sequence = batch->sequence, .failed_sequence = batch->sequence,
      .outcome = {batch->status, 0}};
  run->executing = batch;
  bool failed = run->failure.status != GB_RUN_OK;
  pthread_mutex_unlock(&run->lock);
  execution.mark = atomic_load(&run->runner->marks.made);
  if (!failed && execution.outcome.status == GB_RUN_OK)
    gbx_runner_execute(run->runner, &execution);
  pthread_mutex_lock(&run->lock);
  batch->mark = execution.mark;
  conclude(run, batch, &execution);
  run->executing = NULL;
  *(run->flying_last ? &run->flying_last->next : &run->flying) = batch;
  run->flying_last = batch;
  run->flying_bytes += batch->bytes;
}

static void *run_main(void *argument) {
  struct gbx_run *run = argument;
  run->store->memory.driver.cuCtxSetCurrent(run->store->memory.contexts[0]);
  pthread_mutex_lock(&run->lock);
  while (!run->closing) {
    land(run);
    struct gbx_batch *batch = run->flying_bytes < GBX_RUN_FLYING_BYTES_MAX ? run->queue : NULL;
    if (batch) {
      run->queue = batch->next;
      if (!run->queue)
        run->queue_last = NULL;
      batch->next = NULL;
      run->queued_bytes -= batch->bytes;
      execute(run, batch);
    } else if (run->flying && run->ending_ns == 0) {
      struct timespec until = gbx_run_in(LOOK_NS);
      pthread_cond_timedwait(&run->wake, &run->lock, &until);
    } else {
      pthread_cond_wait(&run->wake, &run->lock);
    }
  }
  run->ended = true;
  pthread_cond_broadcast(&run->changed);
  pthread_mutex_unlock(&run->lock);
  return NULL;
}

/* ---- ranges that are being freed ---- */

/* Somebody waits until no batch up to `sequence` is left. */
struct gbx_drain {
  struct gbx_drain *next;
  const struct gbx_range *range;
  uint64_t sequence;
};

/* The last batch that names bytes of the range, of all that have been taken; 0: none. locks: held. */
static uint64_t last_user(const struct gbx_run *run, const struct gbx_range *range) {
  const struct gbx_batch *lists[] = {run->queue, run->executing, run->flying};
  uint64_t last = 0;
  for (unsigned list = 0; list < sizeof(lists) / sizeof(*lists); list++) {
    for (const struct gbx_batch *batch = lists[list]; batch; batch = batch->next) {
      if (batch->sequence > last && batch->status == GB_RUN_OK &&
          gbx_batch_touches(batch->body, batch->bytes, run->runner->base, range))
        last = batch->sequence;
    }
  }
  return last;
}

bool gbx_run_let_go(struct gbx_run *run, const struct gbx_range *range, bool by_force) {
  int waited = 0;
  pthread_mutex_lock(&run->lock);
  struct gbx_drain drain = {.next = run->drains, .range = range};
  drain.sequence = run->started ? last_user(run, range) : 0;
  run->drains = &drain;
  struct timespec until = gbx_run_in(by_force ? 0 : GBX_LET_GO_MS * 1000000ull);
  while (run->done < drain.sequence && !run->closing && run->ending_ns == 0 && waited != ETIMEDOUT)
    waited = pthread_cond_timedwait(&run->changed, &run->lock, &until);
  struct gbx_drain **at = &run->drains;
  while (*at != &drain)
    at = &(*at)->next;
  *at = drain.next;
  bool used = run->done < drain.sequence && !run->closing && run->ending_ns == 0;
  pthread_mutex_unlock(&run->lock);
  if (used && by_force)
    gbx_run_end_for_range(run);
  return used;
}

/* For gbx_runner.may_touch: what was taken before the range began to leave may still use it. */
static bool may_touch(void *context, uint64_t sequence, uint64_t offset, uint64_t length) {
  struct gbx_run *run = context;
  bool may = false;
  pthread_mutex_lock(&run->lock);
  for (const struct gbx_drain *drain = run->drains; drain && !may; drain = drain->next)
    may = sequence <= drain->sequence && offset < drain->range->offset + drain->range->length &&
          drain->range->offset < offset + length;
  pthread_mutex_unlock(&run->lock);
  return may;
}

/* ---- beginning and end ---- */

void gbx_run_open(struct gbx_run *run, struct gbx_store *store, struct gbx_block_cache *cache) {
  *run = (struct gbx_run){.store = store, .cache = cache, .next = 1, .limit_ms = GBX_RUN_LIMIT_MS};
  pthread_condattr_t monotonic;
  pthread_condattr_init(&monotonic);
  pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
  pthread_cond_init(&run->wake, &monotonic);
  pthread_cond_init(&run->changed, &monotonic);
  pthread_condattr_destroy(&monotonic);
  pthread_mutex_init(&run->lock, NULL);
}

/* locks: held. */
static struct gbx_result start(struct gbx_run *run) {
  struct gbx_memory *memory = &run->store->memory;
  struct gbx_runner *runner = calloc(1, sizeof(*runner));
  if (!runner)
    return (struct gbx_result){GBX_CAPACITY, ENOMEM};
  runner->may_touch = may_touch;
  runner->context = run;
  CUresult result = memory->driver.cuCtxSetCurrent(memory->contexts[0]);
  if (result == CUDA_SUCCESS)
    result = gbx_runner_open(runner, run->store, run->cache);
  if (result != CUDA_SUCCESS)
    return (struct gbx_result){GBX_DRIVER, result}; /* what it has made stays: it may be in use */
  run->runner = runner;
  if (pthread_create(&run->watch, NULL, gbx_run_watch_main, run) != 0)
    return (struct gbx_result){GBX_CAPACITY, EAGAIN};
  pthread_detach(run->watch);
  if (pthread_create(&run->thread, NULL, run_main, run) != 0)
    return (struct gbx_result){GBX_CAPACITY, EAGAIN};
  pthread_detach(run->thread);
  run->started = true;
  gbx_end_by(gbx_run_lost, run);
  return (struct gbx_result){GBX_OK, 0};
}

struct gbx_result gbx_run_start(struct gbx_run *run) {
  const struct gbx_memory *memory = &run->store->memory;
  if (memory->gpu_count == 0 || !memory->driver.can_run)
    return (struct gbx_result){GBX_INVALID, 0};
  pthread_mutex_lock(&run->lock);
  struct gbx_result result = {GBX_OK, 0};
  if (!run->started)
    result = run->runner ? (struct gbx_result){GBX_CAPACITY, EAGAIN} : start(run);
  pthread_mutex_unlock(&run->lock);
  return result;
}

void gbx_run_limit(struct gbx_run *run, uint32_t kernel_ms) {
  atomic_store(&run->limit_ms, kernel_ms);
}

void gbx_run_close(struct gbx_run *run) {
  int waited = 0;
  pthread_mutex_lock(&run->lock);
  run->closing = true;
  gbx_run_answer_all(run, GB_LANE_CLOSED);
  pthread_cond_signal(&run->wake);
  pthread_cond_broadcast(&run->changed);
  struct timespec until = gbx_run_in(GBX_RUN_CLOSE_MS * 1000000ull);
  while (run->started && !run->ended && waited != ETIMEDOUT)
    waited = pthread_cond_timedwait(&run->changed, &run->lock, &until);
  pthread_mutex_unlock(&run->lock);
}
