/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run_queue.c: the queues, one for each lane that runs kernels. Each has a thread that sends what is old, takes answers
 * that nobody waits for, and opens its lane again; it looks around while there is something to do, and else sleeps.
 */
#include "run_part.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "lock.h"

/* How often the thread looks: for a batch that gets old, for answers; and when it sleeps until it is woken. */
#define LOOK_FILLING_NS GB_RUN_LINGER_NS
#define LOOK_ANSWERS_NS (50ull * 1000)
#define SLEEP_AFTER_NS (2ull * 1000 * 1000)
#define REOPEN_NS (250ull * 1000 * 1000)

#define FUNCTIONS (GB_RUN_FUNCTIONS_MAX + 1u)
#define BATCHES_BYTES ((uint64_t)GB_RUN_BATCHES_MAX * GB_RUN_BATCH_BYTES)
#define MEMORY_BYTES (BATCHES_BYTES + FUNCTIONS * (sizeof(uint64_t) + sizeof(struct gb_code *)))

static struct gb_run_queue queues[GB_ABI_LANES_MAX];
static bool made[GB_ABI_LANES_MAX]; /* locks and conditions, once */
static pthread_mutex_t make_lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic uint32_t busy_count;
static _Atomic uint32_t failed; /* some queue has an error */
static _Atomic uint32_t queues_end; /* places in use are below */

/* ---- finding ---- */

static struct gb_run_queue *find(uint32_t lane) {
  uint32_t end = atomic_load_explicit(&queues_end, memory_order_acquire);
  for (uint32_t i = 0; i < end; i++) {
    if (atomic_load_explicit(&queues[i].lane, memory_order_acquire) == lane) return &queues[i];
  }
  return NULL;
}

struct gb_run_queue *gb_run_queue_lock(uint32_t lane) {
  struct gb_run_queue *queue = lane != 0 ? find(lane) : NULL;
  if (queue == NULL) return NULL;
  pthread_mutex_lock(&queue->lock);
  if (atomic_load_explicit(&queue->lane, memory_order_relaxed) == lane) return queue;
  pthread_mutex_unlock(&queue->lock);
  return NULL;
}

void gb_run_queue_unlock(struct gb_run_queue *queue) {
  pthread_mutex_unlock(&queue->lock);
}

/* ---- states ---- */

void gb_run_queue_busy(struct gb_run_queue *queue, bool busy) {
  if (queue->busy == busy) return;
  queue->busy = busy;
  if (busy)
    atomic_fetch_add(&busy_count, 1);
  else
    atomic_fetch_sub(&busy_count, 1);
}

bool gb_run_busy(void) {
  return atomic_load_explicit(&busy_count, memory_order_acquire) != 0;
}

void gb_run_queue_wake(struct gb_run_queue *queue) {
  if (queue->sleeping) pthread_cond_signal(&queue->wake);
  queue->sleeping = false;
}

void gb_run_queue_lost(struct gb_run_queue *queue) {
  if (queue->lost) return;
  queue->lost = true;
  queue->lost_ns = 0;
  gb_run_queue_wake(queue);
}

void gb_run_queue_latch(struct gb_run_queue *queue, CUresult error, uint32_t function) {
  if (queue->error != CUDA_SUCCESS) return;
  const struct gb_code *code = function != 0 && function <= queue->function_count ? queue->names[function] : NULL;
  snprintf(queue->function, sizeof queue->function, "%s", code != NULL ? code->name : "");
  queue->error = error;
  atomic_store_explicit(&failed, 1, memory_order_release);
  gb_log(GB_LOG_ERROR, "feeder %s: error %d%s%s: nothing more is executed there", queue->feeder, (int)error,
         code != NULL ? " in " : "", queue->function);
  pthread_cond_broadcast(&queue->changed);
}

/* Afterwards nobody waits, and the lane uses none of our memory. pre: lock, an error. */
static void make_dead(struct gb_run_queue *queue) {
  if (queue->dead) return;
  queue->dead = true;
  gb_run_queue_busy(queue, false);
  if (queue->open != NULL) gb_run_batch_take_back(queue);
  pthread_cond_broadcast(&queue->changed);
  pthread_cond_broadcast(&queue->wake);
}

void gb_run_queue_die(struct gb_run_queue *queue, const char *why) {
  if (queue->dead) return;
  gb_log(GB_LOG_ERROR, "feeder %s runs nothing for this process any more: %s", queue->feeder, why);
  gb_run_queue_latch(queue, CUDA_ERROR_EXTERNAL_DEVICE, 0);
  make_dead(queue);
}

void gb_run_queue_leave(struct gb_run_queue *queue) {
  if (--queue->users == 0) pthread_cond_broadcast(&queue->changed);
}

/* ---- the lane ---- */

static void limit_to_record(struct gb_run_queue *queue) {
  struct gb_lane_counters counters = {0};
  uint32_t record = GB_LANE_RECORD_BYTES_MIN;
  if (gb_lane_counters(queue->open->lane, &counters) == GB_LANE_OK && counters.record_bytes > record)
    record = counters.record_bytes;
  queue->body_max = record < GB_RUN_BATCH_BYTES ? record : GB_RUN_BATCH_BYTES;
  queue->answer_max = record < GB_RUN_BATCH_BYTES_MAX ? record : GB_RUN_BATCH_BYTES_MAX;
}

/* Until somebody has something to do, or a second has passed. pre: lock, released meanwhile. */
static void sleep_until_woken(struct gb_run_queue *queue) {
  uint64_t at = gb_now_ns() + 1000 * GB_MS;
  struct timespec until = {.tv_sec = (time_t)(at / 1000000000ull), .tv_nsec = (long)(at % 1000000000ull)};
  queue->sleeping = true;
  pthread_cond_timedwait(&queue->wake, &queue->lock, &until);
  queue->sleeping = false;
}

/* Gives the ended lane back, once nobody is in a call of it. pre: lock, released meanwhile. returns: false when the
 * queue is over. */
static bool give_back(struct gb_run_queue *queue) {
  if (queue->open == NULL) return true;
  gb_run_batch_take_back(queue);
  while (queue->waiters > 0) pthread_cond_wait(&queue->changed, &queue->lock);
  struct gb_open_lane *open = queue->open;
  queue->open = NULL;
  pthread_mutex_unlock(&queue->lock);
  /* A ticket that was taken back leaves the lane open, and of no use. */
  gb_lanes_done(open, GB_LANE_REVOKED);
  pthread_mutex_lock(&queue->lock);
  return !queue->stopping && !queue->dead;
}

/* Somebody wants something of the lane. pre: lock. */
static bool is_wanted(const struct gb_run_queue *queue) {
  return queue->users > 0 || queue->first < queue->filling ||
         queue->batches[queue->filling % GB_RUN_BATCHES_MAX].used != 0;
}

/* A connection that ends without a goodbye is that of a process that has ended: the executor, and with it what it held
 * of this program; so is one that its server has closed, which it does at its end (a ticket that is taken back says
 * REVOKED). Silence may be a line that is cut, and comes back. pre: lock, the lane has ended. */
static bool executor_has_ended(const struct gb_run_queue *queue) {
  if (queue->worked == 0 || queue->open == NULL) return false;
  int state = gb_lane_state(queue->open->lane);
  return state == GB_LANE_DISCONNECTED || state == GB_LANE_CLOSED;
}

/* The lane again, with all that was not answered; not before somebody wants it, since leases end, too. pre: lock,
 * released meanwhile. */
static void reopen(struct gb_run_queue *queue) {
  struct gb_open_lane *open = NULL;
  if (executor_has_ended(queue)) gb_run_queue_die(queue, "its executor has ended");
  if (!give_back(queue)) return;
  if (!is_wanted(queue)) {
    sleep_until_woken(queue);
    return;
  }
  if (queue->lost_ns == 0) queue->lost_ns = gb_now_ns();
  pthread_mutex_unlock(&queue->lock);
  enum gb_status status = gb_lanes_get(queue->lane, &open);
  bool runs = status == GB_STATUS_OK && open->runs;
  if (status == GB_STATUS_OK && !runs) gb_lanes_done(open, GB_LANE_OK);
  if (status == GB_STATUS_UNREACHABLE) gb_sleep_ns(REOPEN_NS);
  pthread_mutex_lock(&queue->lock);
  if (runs) {
    queue->open = open;
    queue->lost = false;
    gb_run_batch_send_closed(queue);
    pthread_cond_broadcast(&queue->changed);
  } else if (status == GB_STATUS_DATA_LOSS) {
    gb_run_queue_die(queue, "what it held is gone");
  } else if (status == GB_STATUS_OK) {
    gb_run_queue_die(queue, "it does not run kernels any more");
  } else if (gb_now_ns() - queue->lost_ns > GB_RUN_PATIENCE_MS * GB_MS) {
    gb_run_queue_die(queue, "its lane has not come back");
  }
}

/* ---- the thread ---- */

/* A batch that nobody waits for, or that could not be sent. */
static bool has_to_look(struct gb_run_queue *queue) {
  for (uint64_t i = queue->first; i < queue->filling; i++) {
    const struct gb_batch *batch = &queue->batches[i % GB_RUN_BATCHES_MAX];
    if (!batch->answered && (batch->answer == NULL || !batch->sent)) return true;
  }
  return false;
}

/* returns: how long nothing can happen that it has to see; 0: until it is woken. */
static uint64_t turn(struct gb_run_queue *queue) {
  gb_run_batch_reap(queue);
  struct gb_batch *batch = &queue->batches[queue->filling % GB_RUN_BATCHES_MAX];
  uint64_t now = gb_now_ns();
  bool open = queue->filling - queue->first < GB_RUN_BATCHES_MAX && batch->used != 0;
  if (open && now - batch->began_ns >= GB_RUN_LINGER_NS) gb_run_batch_send(queue);
  gb_run_batch_send_closed(queue);
  bool filling = open && queue->batches[queue->filling % GB_RUN_BATCHES_MAX].used != 0;
  bool looks = has_to_look(queue);
  if (filling || looks) queue->quiet_ns = now;
  if (filling) return LOOK_FILLING_NS;
  return looks || now - queue->quiet_ns < SLEEP_AFTER_NS ? LOOK_ANSWERS_NS : 0;
}

/* Ends when the queue does. */
static void *look_around(void *argument) {
  struct gb_run_queue *queue = argument;
  prctl(PR_SET_TIMERSLACK, 1000ul); /* or 20 us take 70 */
  pthread_mutex_lock(&queue->lock);
  while (!queue->stopping && !queue->dead) {
    if (queue->lost) {
      reopen(queue);
      continue;
    }
    uint64_t pause = turn(queue);
    if (queue->lost) continue;
    if (pause == 0) {
      sleep_until_woken(queue);
      if (gb_lane_state(queue->open->lane) != GB_LANE_OK) gb_run_queue_lost(queue);
      continue;
    }
    pthread_mutex_unlock(&queue->lock);
    gb_sleep_ns(pause);
    pthread_mutex_lock(&queue->lock);
  }
  pthread_mutex_unlock(&queue->lock);
  return NULL;
}

static bool start_thread(struct gb_run_queue *queue) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  bool started = pthread_create(&queue->thread, NULL, look_around, queue) == 0;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return started;
}

/* ---- making ---- */

static void make_locks(uint32_t index) {
  struct gb_run_queue *queue = &queues[index];
  pthread_condattr_t attributes;
  if (made[index]) return;
  made[index] = true;
  pthread_condattr_init(&attributes);
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  pthread_mutex_init(&queue->lock, NULL);
  pthread_mutex_init(&queue->code_lock, NULL);
  pthread_cond_init(&queue->changed, &attributes);
  pthread_cond_init(&queue->wake, &attributes);
  pthread_condattr_destroy(&attributes);
}

/* pre: lock. owns: `open`, on success. */
static bool make(struct gb_run_queue *queue, uint32_t lane, struct gb_open_lane *open) {
  void *memory = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return false;
  queue->memory = memory;
  queue->open = open;
  snprintf(queue->feeder, sizeof queue->feeder, "%s", open->feeder);
  queue->waiters = queue->users = queue->function_count = 0;
  queue->lost = queue->dead = queue->stopping = queue->sleeping = queue->busy = false;
  queue->first = queue->filling = 1;
  queue->worked = 0;
  queue->error = CUDA_SUCCESS;
  queue->function[0] = '\0';
  queue->counters = (struct gb_run_counters){0};
  queue->quiet_ns = gb_now_ns();
  uint8_t *at = queue->memory + BATCHES_BYTES;
  queue->functions = (void *)at;
  queue->names = (void *)(at + FUNCTIONS * sizeof(uint64_t));
  for (uint32_t i = 0; i < GB_RUN_BATCHES_MAX; i++)
    queue->batches[i] = (struct gb_batch){.bytes = queue->memory + (uint64_t)i * GB_RUN_BATCH_BYTES};
  limit_to_record(queue);
  if (!start_thread(queue)) {
    munmap(queue->memory, MEMORY_BYTES);
    return false;
  }
  atomic_store_explicit(&queue->lane, lane, memory_order_release);
  return true;
}

/* Ends the thread and lets everybody go. pre: make_lock. */
static void end(struct gb_run_queue *queue) {
  pthread_mutex_lock(&queue->lock);
  queue->stopping = true;
  if (queue->error == CUDA_SUCCESS) queue->error = CUDA_ERROR_EXTERNAL_DEVICE;
  make_dead(queue);
  atomic_store_explicit(&queue->lane, 0, memory_order_release); /* nobody else comes */
  pthread_mutex_unlock(&queue->lock);
  pthread_join(queue->thread, NULL);
  pthread_mutex_lock(&queue->lock);
  while (queue->waiters + queue->users > 0) pthread_cond_wait(&queue->changed, &queue->lock);
  struct gb_open_lane *open = queue->open;
  queue->open = NULL;
  gb_run_code_free(queue);
  munmap(queue->memory, MEMORY_BYTES);
  pthread_mutex_unlock(&queue->lock);
  if (open != NULL) gb_lanes_done(open, GB_LANE_OK);
}

/* A place for a queue: a free one, or that of a lane that is gone for good. pre: make_lock. */
static uint32_t find_place(void) {
  for (uint32_t i = 0; i < GB_ABI_LANES_MAX; i++) {
    if (queues[i].lane == 0) return i;
  }
  for (uint32_t i = 0; i < GB_ABI_LANES_MAX; i++) {
    struct gb_open_lane *open = NULL;
    pthread_mutex_lock(&queues[i].lock);
    bool idle = queues[i].open == NULL && !is_wanted(&queues[i]);
    pthread_mutex_unlock(&queues[i].lock);
    enum gb_status status = idle ? gb_lanes_get(queues[i].lane, &open) : GB_STATUS_UNREACHABLE;
    if (status == GB_STATUS_OK) gb_lanes_done(open, GB_LANE_OK);
    if (status != GB_STATUS_DATA_LOSS) continue;
    end(&queues[i]);
    return i;
  }
  return GB_ABI_LANES_MAX;
}

/* pre: make_lock. */
static bool make_for(uint32_t lane, struct gb_open_lane *open) {
  uint32_t i = find_place();
  if (i == GB_ABI_LANES_MAX) return false;
  make_locks(i);
  pthread_mutex_lock(&queues[i].lock);
  bool done = make(&queues[i], lane, open);
  pthread_mutex_unlock(&queues[i].lock);
  if (done && i >= queues_end) atomic_store_explicit(&queues_end, i + 1, memory_order_release);
  return done;
}

bool gb_run_can(uint32_t lane) {
  struct gb_open_lane *open = NULL;
  struct gb_run_queue *queue = gb_run_queue_lock(lane);
  if (queue != NULL) {
    bool can = queue->error == CUDA_SUCCESS;
    gb_run_queue_unlock(queue);
    return can;
  }
  if (lane == 0 || gb_lanes_get(lane, &open) != GB_STATUS_OK) return false;
  pthread_mutex_lock(&make_lock);
  bool known = find(lane) != NULL;
  bool can = known || (open->runs && make_for(lane, open));
  pthread_mutex_unlock(&make_lock);
  if (known || !can) gb_lanes_done(open, GB_LANE_OK);
  return can;
}

/* ---- ending ---- */

void gb_run_stop(void) {
  pthread_mutex_lock(&make_lock);
  for (uint32_t i = 0; i < queues_end; i++) {
    if (queues[i].lane != 0) end(&queues[i]);
  }
  pthread_mutex_unlock(&make_lock);
}

void gb_run_forked(void) {
  /* Threads and lanes are the parent's, and another thread may have held any lock at the fork. */
  memset(queues, 0, sizeof queues);
  memset(made, 0, sizeof made);
  queues_end = busy_count = failed = 0;
  pthread_mutex_init(&make_lock, NULL);
}

/* ---- all queues ---- */

CUresult gb_run_error(char feeder[64], char function[128]) {
  CUresult error = CUDA_SUCCESS;
  if (atomic_load_explicit(&failed, memory_order_acquire) == 0) return error;
  for (uint32_t i = 0; i < queues_end && error == CUDA_SUCCESS; i++) {
    struct gb_run_queue *queue = gb_run_queue_lock(queues[i].lane);
    if (queue == NULL) continue;
    error = queue->error;
    memcpy(feeder, queue->feeder, sizeof queue->feeder);
    memcpy(function, queue->function, sizeof queue->function);
    gb_run_queue_unlock(queue);
  }
  return error;
}

CUresult gb_run_sync_all(void) {
  CUresult error = CUDA_SUCCESS;
  if (!gb_run_busy() && atomic_load_explicit(&failed, memory_order_acquire) == 0) return error;
  for (uint32_t i = 0; i < queues_end; i++) gb_run_flush(queues[i].lane);
  for (uint32_t i = 0; i < queues_end; i++) {
    CUresult result = gb_run_sync(queues[i].lane);
    if (error == CUDA_SUCCESS) error = result;
  }
  return error;
}

/* ---- the lane itself ---- */

static int move_once(gb_lane *lane, uint32_t operation, const struct gb_lane_segment *segments, uint32_t count) {
  struct gb_lane_request request = {.size = sizeof request,
                                    .operation = operation,
                                    .priority = GB_LANE_DEMAND,
                                    .segment_count = count,
                                    .segments = segments};
  uint64_t id = 0;
  int status = gb_lane_submit(lane, &request, &id);
  while (status == GB_LANE_OK && (status = gb_lane_wait(lane, id, 1000)) == GB_LANE_TIMEOUT) status = GB_LANE_OK;
  return status;
}

CUresult gb_run_queue_move(struct gb_run_queue *queue, uint32_t operation, const struct gb_lane_segment *segments,
                           uint32_t count) {
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < count; i++) bytes += segments[i].bytes;
  queue->users++;
  while (!queue->dead) {
    if (queue->lost || queue->open == NULL) {
      gb_run_queue_wake(queue);
      pthread_cond_wait(&queue->changed, &queue->lock);
      continue;
    }
    gb_lane *lane = queue->open->lane;
    queue->waiters++;
    pthread_mutex_unlock(&queue->lock);
    int status = move_once(lane, operation, segments, count);
    if (status == GB_LANE_BUSY) gb_sleep_ns(GB_MS);
    pthread_mutex_lock(&queue->lock);
    queue->waiters--;
    pthread_cond_broadcast(&queue->changed);
    if (status == GB_LANE_OK) break;
    if (status == GB_LANE_BUSY) continue;
    bool asked_wrongly = status == GB_LANE_INVALID || status == GB_LANE_RANGE || status == GB_LANE_DENIED ||
                         status == GB_LANE_NOT_FOUND || status == GB_LANE_IO || status == GB_LANE_DEADLINE;
    if (asked_wrongly)
      gb_run_queue_die(queue, gb_lane_status_name(status));
    else
      gb_run_queue_lost(queue);
  }
  gb_run_queue_leave(queue);
  if (operation == GB_LANE_WRITE)
    queue->counters.bytes_out += bytes;
  else
    queue->counters.bytes_in += bytes;
  return queue->error;
}
