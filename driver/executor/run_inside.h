/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run_inside.h: what run.c, run_answers.c and run_watch.c share. locks: the run's is held, unless a line says
 * otherwise.
 */
#ifndef GBX_RUN_INSIDE_H
#define GBX_RUN_INSIDE_H

#include "run.h"

struct gbx_batch {
  struct gbx_batch *next;
  uint64_t sequence;
  uint8_t *body;
  uint64_t bytes;
  uint32_t status; /* enum gb_run_status of its commands: otherwise nothing of it is executed */
  bool answers;
  struct gb_lane_called *called; /* that waits for its answer; NULL */
  uint32_t mark;                 /* flying: passed when it is done */
};

/* A point in time from now on. No lock. */
struct timespec gbx_run_in(uint64_t nanoseconds);

/* ---- run_answers.c ---- */

/* Answers who waits for a batch, if somebody does, with how things stand. `answer`: memory of malloc with room for the
 * result at its beginning, which is taken over; NULL: nothing but the result. */
void gbx_run_answer_batch(struct gbx_run *run, struct gbx_batch *batch, uint8_t *answer, uint64_t bytes);
/* A batch has been executed: keeps its answer, if it asked for one, and gives it. own: it has failed, alone. */
void gbx_run_conclude(struct gbx_run *run, struct gbx_batch *batch, const struct gbx_execution *own, uint8_t *answer,
                      uint64_t bytes);
/* A batch that is done has come again. */
void gbx_run_answer_again(struct gbx_run *run, struct gbx_batch *batch);
/* A batch that is not taken. */
void gbx_run_refuse(struct gbx_run *run, struct gb_lane_called *called, enum gb_run_status status);
/* Answers everybody; lane_status GB_LANE_OK: with how things stand. */
void gbx_run_answer_all(struct gbx_run *run, int lane_status);

/* ---- run_watch.c ---- */

/* The thread that ends the process when the GPU has failed or hangs. */
void *gbx_run_watch_main(void *argument);
/* Notes a failure, the first of which stays. One after which the GPU does nothing any more ends the process soon. */
void gbx_run_fail(struct gbx_run *run, struct gbx_outcome outcome, uint64_t sequence, uint32_t function);
/* For gbx_end_by: another thread has met a fault. Takes the lock. */
void gbx_run_lost(void *context, int cuda_error);
/* Ends the process: a range has to be given back that is used. No lock. */
_Noreturn void gbx_run_end_for_range(struct gbx_run *run);

#endif
