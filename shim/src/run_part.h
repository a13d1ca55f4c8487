/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run_part.h: what run.c (what is asked), run_queue.c (queues, their lanes and threads), run_batch.c (batches and their
 * answers) and run_code.c (images, functions, launches) share. Nobody else includes it.
 */
#ifndef GB_RUN_PART_H
#define GB_RUN_PART_H

#include <pthread.h>

#include "lanes.h"
#include "run.h"

/* Every limit of a queue. Batches that are small enough go express, which keeps their order. */
#define GB_RUN_BATCHES_MAX 16u /* not answered, the one that is filled with them */
#define GB_RUN_BATCH_BYTES GB_LANE_EXPRESS_BYTES_MAX
/* Larger writes go as lane writes, larger reads and collected bytes as lane reads. */
#define GB_RUN_INLINE_BYTES_MAX (512u << 10)
/* A lane that has ended may come back within this time, with the executor as it was. */
#define GB_RUN_PATIENCE_MS 30000u
/* An answer takes as long as what is executed before it: kernels, within the feeder's own limit. */
#define GB_RUN_ANSWER_MS 600000u
/* Whoever waits says so after this time, and again. */
#define GB_RUN_TELL_MS 5000u
#define GB_RUN_REFUSED_MAX 1000u /* times in a row that a full executor refuses a batch */

/* Where a waiter gets his answer: his own memory, until `done` or the queue is dead. */
struct gb_run_answer {
  uint8_t *memory; /* gb_run_result and what follows it */
  uint64_t room;
  uint64_t bytes;
  bool own; /* a failure of it is of its own batch alone (IMAGE, FUNCTION) */
  bool done;
};

/* Filled, closed, sent (again after its lane has ended), answered. */
struct gb_batch {
  uint8_t *bytes;
  uint32_t used; /* 0: nothing in it */
  uint32_t commands;
  uint32_t launches;
  uint32_t refused;
  uint64_t began_ns;
  uint64_t call;
  bool sent;
  bool waited; /* somebody is in gb_lane_wait for it */
  bool answered;
  struct gb_run_answer *answer; /* NULL: nobody waits for it */
  struct gb_run_result accepted;
  uint64_t accepted_bytes;
};

/* locks: `lock` protects everything but the images. */
struct gb_run_queue {
  pthread_mutex_t lock;
  pthread_cond_t changed; /* something was answered, or is over */
  pthread_cond_t wake;    /* of the thread */
  _Atomic uint32_t lane;  /* 0: free */
  struct gb_open_lane *open; /* NULL: being reopened */
  char feeder[64];
  uint32_t waiters; /* calls that use `open` outside the lock */
  uint32_t users;   /* threads that wait for something of this queue */
  bool lost;        /* the lane has ended; opened again when it is wanted */
  bool dead;
  bool stopping;
  bool sleeping; /* the thread, until woken */
  bool busy;
  pthread_t thread;
  uint64_t lost_ns;  /* since when it is wanted back; 0: it is not */
  uint64_t quiet_ns; /* when there was something to do last */
  uint8_t *memory;
  struct gb_batch batches[GB_RUN_BATCHES_MAX]; /* sequence % GB_RUN_BATCHES_MAX */
  uint64_t first;   /* the oldest that is not answered */
  uint64_t filling; /* the one that is filled */
  uint64_t worked;  /* the last one with commands that do something */
  uint32_t body_max;
  uint32_t answer_max;
  CUresult error;
  char function[128]; /* that failed */
  struct gb_run_counters counters;
  /* By gb_code's number: version of its attributes << 32 | number there << 2 | what is known. */
  uint64_t *functions;
  const struct gb_code **names; /* by number there */
  uint32_t function_count;
  pthread_mutex_t code_lock; /* taken before `lock`, and held while code is sent */
  struct gb_run_known *images; /* under code_lock */
};

/* An image that is there, or never will be. */
struct gb_run_known {
  const struct gb_image *image;
  bool refused;
  struct gb_run_known *next;
};

/* ---- run_queue.c ---- */

/* The queue of a lane, locked. returns: NULL: there is none. */
struct gb_run_queue *gb_run_queue_lock(uint32_t lane);
void gb_run_queue_unlock(struct gb_run_queue *queue);
/* Starts the thread's turn. pre: lock. */
void gb_run_queue_wake(struct gb_run_queue *queue);
/* The lane has ended: the thread reopens it. pre: lock. */
void gb_run_queue_lost(struct gb_run_queue *queue);
/* The first failure. function: the number there, 0: none. pre: lock. */
void gb_run_queue_latch(struct gb_run_queue *queue, CUresult error, uint32_t function);
/* The executor's state is gone, or no use. pre: lock. */
void gb_run_queue_die(struct gb_run_queue *queue, const char *why);
/* One of `users` is done. pre: lock. */
void gb_run_queue_leave(struct gb_run_queue *queue);
/* Something is to be done there; everything has been. pre: lock. */
void gb_run_queue_busy(struct gb_run_queue *queue, bool busy);
/* Reads or writes arena bytes there over the lane itself; asks again where it ends. pre: lock, which is released
 * meanwhile. */
CUresult gb_run_queue_move(struct gb_run_queue *queue, uint32_t operation, const struct gb_lane_segment *segments,
                           uint32_t count);

/* ---- run_batch.c; pre of everything: lock ---- */

/* Room for one command with `bytes` behind its header, zeroes up to 8 included; may wait for an answer. returns: where
 * those bytes go, NULL: the queue has an error. */
uint8_t *gb_run_batch_add(struct gb_run_queue *queue, enum gb_run_type type, uint64_t bytes);
/* Room for so many bytes of commands in one batch. returns: false: the queue has an error. */
bool gb_run_batch_reserve(struct gb_run_queue *queue, uint64_t bytes);
/* What a launch does behind the last of its bytes: sends the batch when it is time. */
void gb_run_batch_launched(struct gb_run_queue *queue);
/* Closes what is filled, and sends what can be sent. */
void gb_run_batch_send(struct gb_run_queue *queue);
/* Sends what is closed. */
void gb_run_batch_send_closed(struct gb_run_queue *queue);
/* Closes the batch behind its last command, one that answers, and waits for that. returns: CUDA_SUCCESS; the queue's
 * error. A failure of an own answer is in its result. */
CUresult gb_run_batch_ask(struct gb_run_queue *queue, struct gb_run_answer *answer);
/* Looks for answers that nobody waits for. */
void gb_run_batch_reap(struct gb_run_queue *queue);
/* Ends every call: afterwards the lane uses no memory of the batches. They can be sent again. */
void gb_run_batch_take_back(struct gb_run_queue *queue);

/* ---- run_code.c ---- */

/* The number there of a prepared function, 0: it is not. pre: lock. */
uint32_t gb_run_function_there(const struct gb_run_queue *queue, const struct gb_code *code);
/* The parameters as the function's buffer. returns: false when not all of them are there. */
bool gb_run_params(const struct gb_run_request *launch, const struct gb_code *code, uint8_t *to);
/* The image is there afterwards. returns: as gb_run_prepare. locks: none held. */
CUresult gb_run_image(uint32_t lane, const struct gb_image *image);
/* pre: nobody uses the queue. */
void gb_run_code_free(struct gb_run_queue *queue);

#endif
