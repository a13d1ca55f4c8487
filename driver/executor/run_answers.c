/* SPDX-License-Identifier: Apache-2.0 */
/* run_answers.c: what calls are answered, and what is kept of it for batches that come again; see run.h. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "run_inside.h"

/* An answer that may be asked for again. */
struct gbx_kept {
  struct gbx_kept *next;
  uint64_t sequence;
  struct gb_run_result own; /* of a batch that has failed alone; status GB_RUN_OK: it has not */
  uint64_t bytes;
  uint8_t answer[]; /* without the result */
};

/* How things stand. */
static struct gb_run_result result_now(const struct gbx_run *run) {
  const struct gbx_marks *marks = run->runner ? &run->runner->marks : NULL;
  bool failed = run->failure.status != GB_RUN_OK;
  return (struct gb_run_result){.status = run->failure.status,
                                .cuda_error = run->failure.cuda_error,
                                .sequence = failed ? run->failure_sequence : run->executed,
                                .function = run->failure_function,
                                .launches = marks ? atomic_load(&marks->launches) : 0,
                                .busy_ns = marks ? atomic_load(&marks->busy_ns) : 0};
}

/* Sends a result with what follows it. `answer`: as in gbx_run_answer_batch. */
static void send(struct gbx_run *run, struct gb_lane_called *called, struct gb_run_result result, uint8_t *answer,
                 uint64_t bytes) {
  result.bytes = (uint32_t)bytes;
  if (!answer)
    answer = malloc(sizeof(result) + bytes);
  if (!answer) {
    gb_lane_answer(called, GB_LANE_NO_MEMORY, NULL, 0);
    return;
  }
  memcpy(answer, &result, sizeof(result));
  gb_lane_answer(called, GB_LANE_OK, answer, sizeof(result) + bytes);
  if (run->ending_ns != 0 && run->told_ns == 0) {
    run->told_ns = gbx_now_ns();
    pthread_cond_broadcast(&run->changed);
  }
}

void gbx_run_answer_batch(struct gbx_run *run, struct gbx_batch *batch, uint8_t *answer, uint64_t bytes) {
  if (batch->called)
    send(run, batch->called, result_now(run), answer, bytes);
  else
    free(answer);
  batch->called = NULL;
}

void gbx_run_refuse(struct gbx_run *run, struct gb_lane_called *called, enum gb_run_status status) {
  struct gb_run_result result = result_now(run);
  if (result.status == GB_RUN_OK)
    result.status = status;
  send(run, called, result, NULL, 0);
}

static void forget_oldest(struct gbx_run *run) {
  struct gbx_kept *oldest = run->kept;
  run->kept = oldest->next;
  if (!run->kept)
    run->kept_last = NULL;
  run->kept_count--;
  run->kept_bytes -= oldest->bytes;
  free(oldest);
}

static void keep(struct gbx_run *run, uint64_t sequence, const struct gb_run_result *own, const uint8_t *answer,
                 uint64_t bytes) {
  while (run->kept && (run->kept_count >= GB_RUN_ANSWERS_KEPT || run->kept_bytes + bytes > GB_RUN_ANSWERS_KEPT_BYTES))
    forget_oldest(run);
  struct gbx_kept *kept = malloc(sizeof(*kept) + bytes);
  if (!kept)
    return; /* as one that was forgotten */
  *kept = (struct gbx_kept){.sequence = sequence, .own = *own, .bytes = bytes};
  if (bytes > 0)
    memcpy(kept->answer, answer + sizeof(struct gb_run_result), bytes);
  *(run->kept_last ? &run->kept_last->next : &run->kept) = kept;
  run->kept_last = kept;
  run->kept_count++;
  run->kept_bytes += bytes;
}

void gbx_run_conclude(struct gbx_run *run, struct gbx_batch *batch, const struct gbx_execution *own, uint8_t *answer,
                      uint64_t bytes) {
  struct gb_run_result result = result_now(run);
  if (own && result.status == GB_RUN_OK) {
    result.status = own->outcome.status;
    result.cuda_error = own->outcome.cuda_error;
    result.sequence = batch->sequence;
    result.function = own->function;
  }
  if (batch->answers)
    keep(run, batch->sequence, &result, answer, bytes);
  if (batch->called)
    send(run, batch->called, result, answer, bytes);
  else
    free(answer);
  batch->called = NULL;
}

void gbx_run_answer_again(struct gbx_run *run, struct gbx_batch *batch) {
  struct gb_run_result result = result_now(run);
  const struct gbx_kept *kept = run->kept;
  while (kept && kept->sequence != batch->sequence)
    kept = kept->next;
  uint8_t *answer = kept ? malloc(sizeof(result) + kept->bytes) : NULL;
  if (answer) {
    memcpy(answer + sizeof(result), kept->answer, kept->bytes);
    if (kept->own.status != GB_RUN_OK)
      result = kept->own;
  } else if (batch->answers && result.status == GB_RUN_OK) {
    result.status = GB_RUN_LIMIT; /* it was done, and nobody knows any more what it answered */
  }
  send(run, batch->called, result, answer, answer ? kept->bytes : 0);
  batch->called = NULL;
}

void gbx_run_answer_all(struct gbx_run *run, int lane_status) {
  struct gbx_batch *lists[] = {run->early, run->queue, run->executing};
  for (unsigned list = 0; list < sizeof(lists) / sizeof(*lists); list++) {
    for (struct gbx_batch *batch = lists[list]; batch; batch = batch->next) {
      if (lane_status == GB_LANE_OK)
        gbx_run_answer_batch(run, batch, NULL, 0);
      else if (batch->called)
        gb_lane_answer(batch->called, lane_status, NULL, 0);
      batch->called = NULL;
    }
  }
}
