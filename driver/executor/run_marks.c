/* SPDX-License-Identifier: Apache-2.0 */
/* run_marks.c: see run_marks.h. */
#define _GNU_SOURCE
#include "run_marks.h"

#include <time.h>

#define PAGE_BYTES 4096u

uint64_t gbx_now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

CUresult gbx_marks_open(struct gbx_marks *marks, struct gbx_memory *memory, CUstream stream) {
  marks->driver = &memory->driver;
  marks->stream = stream;
  marks->reached = gbx_memory_pinned(memory, PAGE_BYTES);
  if (!marks->reached)
    return CUDA_ERROR_OUT_OF_MEMORY;
  atomic_store(marks->reached, 0);
  return CUDA_SUCCESS;
}

static struct gbx_mark *mark_at(const struct gbx_marks *marks, uint32_t mark) {
  return (struct gbx_mark *)&marks->marks[mark % GBX_MARKS_MAX];
}

bool gbx_marks_passed(const struct gbx_marks *marks, uint32_t mark) {
  return (int32_t)(atomic_load_explicit(marks->reached, memory_order_acquire) - mark) >= 0;
}

const struct gbx_mark *gbx_marks_running(const struct gbx_marks *marks) {
  return mark_at(marks, atomic_load(marks->reached) + 1);
}

CUresult gbx_marks_begin(struct gbx_marks *marks, uint64_t sequence, uint32_t function) {
  uint32_t next = atomic_load(&marks->made) + 1;
  struct gbx_mark *mark = mark_at(marks, next);
  if (!marks->open) {
    /* Its place, and the one behind it, must be nobody's. */
    if (!gbx_marks_passed(marks, next - (GBX_MARKS_MAX - 2))) {
      CUresult result = marks->driver->cuStreamSynchronize(marks->stream);
      if (result != CUDA_SUCCESS)
        return result;
    }
    atomic_store(&mark->sequence, sequence);
    atomic_store(&mark->function, 0);
    atomic_store(&mark->launches, 0);
    marks->open = true;
  }
  if (marks->busy_since == 0) {
    marks->busy_since = gbx_now_ns();
    marks->busy_launches = atomic_load(&marks->launches);
  }
  if (function != 0) {
    if (atomic_load(&mark->launches) == 0)
      atomic_store(&mark->function, function);
    atomic_fetch_add(&mark->launches, 1);
  }
  return CUDA_SUCCESS;
}

CUresult gbx_marks_end(struct gbx_marks *marks) {
  uint32_t next = atomic_load(&marks->made) + 1;
  if (!marks->open)
    return CUDA_SUCCESS;
  CUresult result =
      marks->driver->cuStreamWriteValue32_v2(marks->stream, (CUdeviceptr)(uintptr_t)marks->reached, next, 0);
  if (result == CUDA_SUCCESS) {
    atomic_store(&marks->made, next);
    marks->open = false;
  }
  return result;
}

CUresult gbx_marks_launched(struct gbx_marks *marks) {
  atomic_fetch_add(&marks->launches, 1);
  uint32_t most = marks->quick ? GBX_MARK_LAUNCHES : 1;
  uint32_t launches = atomic_load(&mark_at(marks, atomic_load(&marks->made) + 1)->launches);
  return launches >= most ? gbx_marks_end(marks) : CUDA_SUCCESS;
}

void gbx_marks_idle(struct gbx_marks *marks) {
  if (marks->busy_since == 0)
    return;
  uint64_t nanoseconds = gbx_now_ns() - marks->busy_since;
  uint64_t all = atomic_load(&marks->launches), launches = all - marks->busy_launches;
  atomic_fetch_add(&marks->busy_ns, nanoseconds);
  if (launches > 0)
    marks->quick = all >= GBX_MARK_PROVEN && nanoseconds / launches < GBX_MARK_QUICK_NS;
  marks->busy_since = 0;
}
