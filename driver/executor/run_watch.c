/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run_watch.c: failures, and the end of the process; see run.h. A thread of its own looks at the marks: it sees a
 * kernel that does not end, and a fault that nobody asks about.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <unistd.h>

#include "run_inside.h"

#define LOOK_MS 50u
#define LOOK_IDLE_MS 500u
/* No mark for so long: the stream is asked whether it has failed. */
#define ASK_MS 100u
#define EXIT_CODE 3

/* Says why, and ends the process. */
static _Noreturn void end(struct gbx_run *run, const struct gbx_outcome *why, uint32_t function) {
  const char *name = gbx_runner_kernel_name(run->runner, function);
  if (why->status == GB_RUN_TIME)
    fprintf(stderr, "gb-executor: kernel \"%s\" has run for longer than %u ms; ending\n", name,
            atomic_load(&run->limit_ms));
  else if (function != 0)
    fprintf(stderr, "gb-executor: kernel \"%s\" has failed with %s; ending\n", name,
            gbx_driver_error(run->runner->driver, (CUresult)why->cuda_error));
  else
    fprintf(stderr, "gb-executor: the GPU context has failed with %s; ending\n",
            gbx_driver_error(run->runner->driver, (CUresult)why->cuda_error));
  _exit(EXIT_CODE);
}

_Noreturn void gbx_run_end_for_range(struct gbx_run *run) {
  const struct gbx_mark *running = gbx_marks_running(&run->runner->marks);
  fprintf(stderr, "gb-executor: memory that is given back is still used after %u ms, kernel \"%s\"; ending\n",
          GBX_LET_GO_MS, gbx_runner_kernel_name(run->runner, atomic_load(&running->function)));
  _exit(EXIT_CODE);
}

void gbx_run_fail(struct gbx_run *run, struct gbx_outcome outcome, uint64_t sequence, uint32_t function) {
  if (run->failure.status == GB_RUN_OK) {
    run->failure = outcome;
    run->failure_sequence = sequence;
    run->failure_function = function;
  }
  bool fatal = outcome.status == GB_RUN_TIME || gbx_is_fatal(outcome.cuda_error);
  if (!fatal || run->ending_ns != 0)
    return;
  run->ending_ns = gbx_now_ns();
  gbx_run_answer_all(run, GB_LANE_OK);
  pthread_cond_broadcast(&run->changed);
}

/* Notes what the running kernel is guilty of. locks: held. */
static void fail_running(struct gbx_run *run, struct gbx_outcome outcome) {
  const struct gbx_mark *running = gbx_marks_running(&run->runner->marks);
  gbx_run_fail(run, outcome, atomic_load(&running->sequence), atomic_load(&running->function));
}

void gbx_run_lost(void *context, int cuda_error) {
  struct gbx_run *run = context;
  pthread_mutex_lock(&run->lock);
  fail_running(run, (struct gbx_outcome){GB_RUN_FAILED, cuda_error});
  pthread_mutex_unlock(&run->lock);
}

/* What the watch has seen. */
struct view {
  uint32_t reached;
  bool busy;
  uint64_t since_ns; /* it is so, at least */
};

/* Looks at the marks. locks: held at the call and the return. */
static void look(struct gbx_run *run, struct view *view) {
  struct gbx_marks *marks = &run->runner->marks;
  uint32_t reached = atomic_load(marks->reached);
  bool busy = reached != atomic_load(&marks->made);
  uint64_t now = gbx_now_ns();
  if (reached != view->reached || !busy || !view->busy) {
    *view = (struct view){reached, busy, now};
    return;
  }
  uint64_t waited_ms = (now - view->since_ns) / 1000000u;
  if (waited_ms < ASK_MS)
    return;
  pthread_mutex_unlock(&run->lock);
  CUresult result = run->runner->driver->cuStreamQuery(run->runner->stream);
  pthread_mutex_lock(&run->lock);
  /* Several launches between two marks have more time together: some of them may have ended. */
  uint64_t limit_ms = atomic_load(&run->limit_ms);
  if (atomic_load(&gbx_marks_running(marks)->launches) > 1)
    limit_ms *= 2;
  if (result != CUDA_SUCCESS && result != CUDA_ERROR_NOT_READY)
    fail_running(run, (struct gbx_outcome){GB_RUN_FAILED, result});
  else if (waited_ms >= limit_ms && atomic_load(marks->reached) == reached)
    fail_running(run, (struct gbx_outcome){GB_RUN_TIME, 0});
}

/* Whether it is time to go: somebody knows why and has had time to be told, or nobody asks. */
static bool is_time_to_end(const struct gbx_run *run) {
  uint64_t now = gbx_now_ns();
  return (run->told_ns != 0 && now - run->told_ns >= GBX_RUN_ANSWER_MS * 1000000ull) ||
         now - run->ending_ns >= GBX_RUN_LAST_MS * 1000000ull;
}

void *gbx_run_watch_main(void *argument) {
  struct gbx_run *run = argument;
  struct view view = {0};
  run->runner->driver->cuCtxSetCurrent(run->store->memory.contexts[0]);
  pthread_mutex_lock(&run->lock);
  while (!run->closing || run->ending_ns != 0) {
    if (run->ending_ns == 0)
      look(run, &view);
    else if (is_time_to_end(run))
      end(run, &run->failure, run->failure_function);
    bool idle = run->ending_ns == 0 && gbx_marks_passed(&run->runner->marks, atomic_load(&run->runner->marks.made));
    struct timespec until = gbx_run_in((idle ? LOOK_IDLE_MS : LOOK_MS) * 1000000ull);
    pthread_cond_timedwait(&run->changed, &run->lock, &until);
  }
  pthread_mutex_unlock(&run->lock);
  return NULL;
}
