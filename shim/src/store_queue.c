/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store_queue.c: at most GB_STORE_DEPTH blocks in flight, the rest in two queues, urgent first.
 * io_uring with one thread that waits for completions; where a sandbox forbids it, a few threads with
 * pread and pwrite on the same O_DIRECT descriptor.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core.h"
#include "lock.h"
#include "store_part.h"
#include "store_ring.h"

#define SUBMIT_RETRIES 1000

struct queue {
  struct gb_store_op *first;
  struct gb_store_op **last;
};

static struct {
  struct queue urgent;
  struct queue later;
  uint32_t in_flight;
  bool stopping;
  bool ring_used;
  struct gb_ring ring;
  pthread_cond_t work; /* for the threads without io_uring */
  pthread_t threads[GB_STORE_THREADS];
  uint32_t thread_count;
} io;

uint64_t gb_store_deadline(void) {
  return gb_now_ns() + GB_STORE_DEADLINE_MS * GB_MS;
}

int gb_store_wait(uint64_t deadline_ns) {
  struct timespec until = {.tv_sec = (time_t)(deadline_ns / 1000000000ull),
                           .tv_nsec = (long)(deadline_ns % 1000000000ull)};
  if (pthread_cond_timedwait(&gb_store.changed, &gb_store.lock, &until) != ETIMEDOUT) return 0;
  if (gb_now_ns() < deadline_ns) return 0;
  if (!gb_store.failed) {
    gb_store.failed = true;
    gb_event(GB_LOG_ERROR, CUDA_SUCCESS, "nvme_failed",
             "the disk under %s has not answered for %u s: T3 is given up",
             gb_store.directory, GB_STORE_DEADLINE_MS / 1000);
  }
  return -ETIMEDOUT;
}

/* ---- queues; pre of everything: lock ---- */

static void append(struct queue *queue, struct gb_store_op *op) {
  op->next = NULL;
  *queue->last = op;
  queue->last = &op->next;
}

static struct gb_store_op *take_first(struct queue *queue) {
  struct gb_store_op *op = queue->first;
  if (op == NULL) return NULL;
  queue->first = op->next;
  if (queue->first == NULL) queue->last = &queue->first;
  return op;
}

static struct gb_store_op *take_next(void) {
  struct gb_store_op *op = take_first(&io.urgent);
  return op != NULL ? op : take_first(&io.later);
}

void gb_store_queue(struct gb_store_op *op, bool urgent) {
  op->out = true;
  op->result = 0;
  op->done_bytes = 0;
  append(urgent ? &io.urgent : &io.later, op);
}

static void finish(struct gb_store_op *op, int result) {
  op->result = result;
  op->out = false;
  if (op->done != NULL) op->done(op);
  pthread_cond_broadcast(&gb_store.changed);
}

/* result: bytes or -errno of one system call for the rest of the block. */
static void advance(struct gb_store_op *op, int result) {
  io.in_flight--;
  if (result == -EAGAIN || result == -EINTR) {
    append(&io.urgent, op);
    return;
  }
  if (result <= 0) {
    finish(op, result < 0 ? result : -EIO);
    return;
  }
  op->done_bytes += (uint32_t)result;
  if (op->done_bytes >= op->length)
    finish(op, 0);
  else if (op->done_bytes % GB_STORE_ALIGN != 0)
    finish(op, -EIO); /* direct I/O cannot go on from here */
  else
    append(&io.urgent, op);
}

/* ---- io_uring ---- */

static void push(struct gb_store_op *op) {
  uint8_t opcode = op->write ? IORING_OP_WRITE : IORING_OP_READ;
  gb_ring_push(&io.ring, opcode, gb_store.fd, op->buffer + op->done_bytes,
               op->length - op->done_bytes, op->offset + op->done_bytes, (uint64_t)(uintptr_t)op);
}

/* The kernel may be short of memory for a moment. */
static void submit(void) {
  int result = gb_ring_submit(&io.ring);
  for (int tries = 0; result != 0 && tries < SUBMIT_RETRIES; tries++) {
    gb_sleep_ns(GB_MS);
    result = gb_ring_submit(&io.ring);
  }
  if (result == 0 || gb_store.failed) return;
  gb_store.failed = true;
  gb_event(GB_LOG_ERROR, CUDA_SUCCESS, "nvme_failed",
           "io_uring takes nothing any more (%s): T3 is given up", strerror(-result));
}

void gb_store_pump(void) {
  if (!io.ring_used) {
    if (io.urgent.first != NULL || io.later.first != NULL) pthread_cond_broadcast(&io.work);
    return;
  }
  struct gb_store_op *op;
  while (io.in_flight < GB_STORE_DEPTH && (op = take_next()) != NULL) {
    push(op);
    io.in_flight++;
  }
  submit();
}

static void *reap(void *unused) {
  (void)unused;
  bool stopping = false;
  while (!stopping && gb_ring_wait(&io.ring) == 0) {
    uint64_t user_data;
    int result;
    pthread_mutex_lock(&gb_store.lock);
    while (gb_ring_pop(&io.ring, &user_data, &result)) {
      if (user_data != 0) advance((struct gb_store_op *)(uintptr_t)user_data, result);
    }
    gb_store_pump();
    stopping = io.stopping;
    pthread_mutex_unlock(&gb_store.lock);
  }
  return NULL;
}

/* ---- threads ---- */

static int transfer(const struct gb_store_op *op) {
  unsigned char *buffer = op->buffer + op->done_bytes;
  size_t length = op->length - op->done_bytes;
  off_t offset = (off_t)(op->offset + op->done_bytes);
  ssize_t done = op->write ? pwrite(gb_store.fd, buffer, length, offset)
                           : pread(gb_store.fd, buffer, length, offset);
  return done < 0 ? -errno : (int)done;
}

static void *work(void *unused) {
  (void)unused;
  pthread_mutex_lock(&gb_store.lock);
  for (;;) {
    struct gb_store_op *op = take_next();
    if (op == NULL && io.stopping) break;
    if (op == NULL) {
      pthread_cond_wait(&io.work, &gb_store.lock);
      continue;
    }
    io.in_flight++;
    pthread_mutex_unlock(&gb_store.lock);
    int result = transfer(op);
    pthread_mutex_lock(&gb_store.lock);
    advance(op, result);
  }
  pthread_mutex_unlock(&gb_store.lock);
  return NULL;
}

/* ---- life ---- */

static int start_threads(uint32_t count, void *(*run)(void *)) {
  sigset_t all;
  sigset_t before;
  int error = 0;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before); /* the program's signals are for its own threads */
  for (io.thread_count = 0; io.thread_count < count && error == 0;) {
    error = pthread_create(&io.threads[io.thread_count], NULL, run, NULL);
    if (error == 0) io.thread_count++;
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return io.thread_count > 0 ? 0 : -error;
}

int gb_store_queue_start(void) {
  io.urgent = (struct queue){NULL, &io.urgent.first};
  io.later = (struct queue){NULL, &io.later.first};
  io.in_flight = 0;
  io.stopping = false;
  int error = gb_ring_open(&io.ring, 2 * GB_STORE_DEPTH);
  io.ring_used = error == 0;
  if (io.ring_used) {
    error = start_threads(1, reap);
    if (error != 0) gb_ring_close(&io.ring);
    return error;
  }
  gb_log(GB_LOG_INFO, "io_uring is not to be had here (%s): NVMe I/O with %u threads",
         strerror(-error), GB_STORE_THREADS);
  pthread_cond_init(&io.work, NULL);
  return start_threads(GB_STORE_THREADS, work);
}

void gb_store_queue_stop(void) {
  pthread_mutex_lock(&gb_store.lock);
  io.stopping = true;
  if (io.ring_used) {
    gb_ring_push(&io.ring, IORING_OP_NOP, -1, NULL, 0, 0, 0);
    submit();
  } else {
    pthread_cond_broadcast(&io.work);
  }
  pthread_mutex_unlock(&gb_store.lock);
  for (uint32_t i = 0; i < io.thread_count; i++) pthread_join(io.threads[i], NULL);
  if (io.ring_used) gb_ring_close(&io.ring);
}
