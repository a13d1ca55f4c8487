/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run.h: batches of gb_run.h, as the calls of lanes bring them: put in order, carried out by one thread
 * (run_commands.h), answered, and watched.
 *
 *   a batch:  early --those before are there--> queued --its turn--> executing --submitted--> flying --the GPU has
 *             passed its mark--> done. Answered when it is queued, or when it is executed, if it asks.
 *
 * What belongs to a program's run belongs to the executor, not to a lane: a lane that is opened again goes on where the
 * last one ended. After a fault of the GPU, and after a kernel that runs for too long, everybody who waits is told, and
 * then the process ends.
 * locks: the run's lock; answers are given with it, the store's is not taken with it.
 */
#ifndef GBX_RUN_H
#define GBX_RUN_H

#include "lane.h"
#include "run_commands.h"

/* Bytes of batches that were submitted and are not known to be done; the next one waits. */
#define GBX_RUN_FLYING_BYTES_MAX (16u << 20)
/* Bytes of batches that are held in all: these, what waits for its turn, and what came early. Beyond, a batch is not
 * taken (GB_RUN_LIMIT) and can be sent again. */
#define GBX_RUN_HELD_BYTES_MAX \
  (GBX_RUN_FLYING_BYTES_MAX + GB_RUN_QUEUE_BYTES_MAX + (uint64_t)GB_RUN_BATCHES_AHEAD_MAX * GB_RUN_BATCH_BYTES_MAX)
/* After a fault, or a kernel that runs for too long: how long the process stays for somebody to ask why, and for the
 * answer to leave. */
#define GBX_RUN_LAST_MS 3000u
#define GBX_RUN_ANSWER_MS 200u
/* How long closing waits for a command that is being carried out. */
#define GBX_RUN_CLOSE_MS 500u

struct gbx_batch;
struct gbx_kept;
struct gbx_drain;

struct gbx_run {
  struct gbx_store *store;
  struct gbx_block_cache *cache;
  struct gbx_runner *runner;     /* NULL: not started */
  _Atomic uint32_t limit_ms;
  pthread_t thread, watch;
  pthread_mutex_t lock;          /* protects what is below */
  pthread_cond_t wake;           /* the thread */
  pthread_cond_t changed;        /* a batch is done; the watch has to look */
  bool started, closing, ended;  /* ended: the thread has */
  uint64_t next;                 /* sequence of the batch that is queued next */
  uint64_t done;                 /* everything up to this one is */
  uint64_t executed;             /* the last one that was */
  uint64_t held_bytes, queued_bytes;
  struct gbx_batch *early;       /* sorted */
  struct gbx_batch *queue, *queue_last;
  struct gbx_batch *executing;
  struct gbx_batch *flying, *flying_last;
  uint64_t flying_bytes;
  struct gbx_kept *kept, *kept_last; /* oldest first */
  unsigned kept_count;
  uint64_t kept_bytes;
  struct gbx_drain *drains;
  /* The failure that stays. */
  struct gbx_outcome failure;
  uint64_t failure_sequence;
  uint32_t failure_function;
  uint64_t ending_ns, told_ns; /* the process ends; since when, and since when somebody knows why. 0: no */
};

/* Makes one that has not been started. `run` lives until the process ends. */
void gbx_run_open(struct gbx_run *run, struct gbx_store *store, struct gbx_block_cache *cache);

/* Starts it, if it has not been. returns: GBX_OK; GBX_INVALID: there is no GPU, or its driver is too old; otherwise why
 * not. */
struct gbx_result gbx_run_start(struct gbx_run *run);

/* A call of a lane. owns: `body`, memory of malloc; `called`, which is answered once. Never blocks for long. */
void gbx_run_accept(struct gbx_run *run, struct gb_lane_called *called, uint8_t *body, uint64_t bytes);

/* How long a kernel may run, from now on. */
void gbx_run_limit(struct gbx_run *run, uint32_t kernel_ms);

/* For gbx_store.let_go: waits until no batch that has been taken names bytes of the range, GBX_LET_GO_MS at most.
 * by_force: ends the process if one still does. returns: whether one still does. */
bool gbx_run_let_go(struct gbx_run *run, const struct gbx_range *range, bool by_force);

/* Answers everybody, and ends its threads unless the GPU keeps them. */
void gbx_run_close(struct gbx_run *run);

#endif
