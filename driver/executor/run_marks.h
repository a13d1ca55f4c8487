/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run_marks.h: how far the stream has come: behind launches the GPU writes a number into host memory, which stays
 * readable after a fault and costs nobody a call. Marks tell what is done, which launch is running, and which one
 * cannot have ended before a fault.
 *
 * A mark follows every launch while launches are slow or new, else every GBX_MARK_LAUNCHES of them, and every batch.
 * locks: none; one thread submits, any thread may read what is atomic.
 */
#ifndef GBX_RUN_MARKS_H
#define GBX_RUN_MARKS_H

#include <stdatomic.h>
#include <stdint.h>

#include "memory.h"

#define GBX_MARK_LAUNCHES 16u
/* Made and not reached. */
#define GBX_MARKS_MAX 4096u
/* Launches are quick when there have been so many, and the last ones took less than that on average. */
#define GBX_MARK_PROVEN 256u
#define GBX_MARK_QUICK_NS 100000u

/* What lies between a mark and the one before. */
struct gbx_mark {
  _Atomic uint64_t sequence; /* of the batch */
  _Atomic uint32_t function; /* of the first launch, or 0 */
  _Atomic uint32_t launches;
};

struct gbx_marks {
  const struct gbx_driver *driver;
  CUstream stream;
  _Atomic uint32_t *reached; /* pinned; written by the GPU */
  _Atomic uint32_t made;
  _Atomic uint64_t launches; /* in all */
  _Atomic uint64_t busy_ns;  /* of times that have ended */
  struct gbx_mark marks[GBX_MARKS_MAX];
  /* The submitting thread's. */
  bool open;            /* something was submitted since the last mark */
  bool quick;
  uint64_t busy_since;  /* 0: idle */
  uint64_t busy_launches; /* when that began */
};

/* Nanoseconds of a monotonic clock. */
uint64_t gbx_now_ns(void);

/* pre: the context is current. */
CUresult gbx_marks_open(struct gbx_marks *marks, struct gbx_memory *memory, CUstream stream);

/* Something of this batch is about to be submitted; function 0: not a launch. */
CUresult gbx_marks_begin(struct gbx_marks *marks, uint64_t sequence, uint32_t function);
/* A launch has been submitted: marks it if it is due. */
CUresult gbx_marks_launched(struct gbx_marks *marks);
/* Marks what has been submitted since the last mark, if anything was. */
CUresult gbx_marks_end(struct gbx_marks *marks);
/* Nothing is running: the stream was waited for, or the last mark is reached. */
void gbx_marks_idle(struct gbx_marks *marks);

bool gbx_marks_passed(const struct gbx_marks *marks, uint32_t mark);
/* What is running, or has failed: behind the last mark that was reached. */
const struct gbx_mark *gbx_marks_running(const struct gbx_marks *marks);

#endif
