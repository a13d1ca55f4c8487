/* SPDX-License-Identifier: Apache-2.0 */
/* share.c: waiting chunks and free frames go first, then chunks are moved to host memory. */
#include "share.h"

#include <stdatomic.h>
#include <errno.h>
#include <time.h>

#include "arena.h"
#include "chunk.h"
#include "context.h"
#include "frame.h"
#include "lock.h"
#include "stage.h"
#include "tier.h"

/* Between tries that gain nothing: the GPU does not become idle, or T2 is full. */
#define RETRY_MS_MIN 250u
#define RETRY_MS_MAX 4000u
#define STOP_TIMEOUT_S 2

static struct {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  pthread_t thread;
  bool started;
  bool news;
  bool stopping;
} share = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static _Atomic bool shrinking;

bool gb_share_shrinking(void) {
  return atomic_load_explicit(&shrinking, memory_order_acquire);
}

static uint64_t excess(CUdevice device) {
  uint64_t capacity = gb_t1_capacity(device);
  uint64_t counted = 0;
  for (int account = 0; account < GB_ACCOUNT_COUNT; account++)
    counted += gb_t1_account(device, (enum gb_account)account);
  return counted > capacity ? counted - capacity : 0;
}

static uint64_t excess_of_all(void) {
  uint64_t sum = 0;
  for (int i = 0; i < gb_arena_device_count(); i++) sum += excess(gb_arena_device(i));
  return sum;
}

/* A context in which the device's chunks can be handled, or NULL. pre: gb_lock. */
static CUcontext context_on(CUdevice device) {
  CUcontext context = gb_stage_gpu_context(device);
  for (struct gb_span *span = gb_span_next(NULL); span != NULL && context == NULL;
       span = gb_span_next(span)) {
    if (span->device == device) context = span->context;
  }
  return context;
}

/* pre: gb_lock. */
static void shrink(CUdevice device) {
  CUcontext context = context_on(device);
  if (context == NULL || gb_context_push(context) != CUDA_SUCCESS) return;
  gb_stage_finish();
  gb_pool_drop(GB_TIER_T1);
  gb_frames_drop(device, excess(device));
  uint64_t left = excess(device);
  if (left > 0 && gb_stage_vacate(device, left)) gb_frames_drop(device, excess(device));
  gb_context_pop();
}

static void set_shrinking(bool now) {
  if (atomic_exchange_explicit(&shrinking, now, memory_order_acq_rel) == now) return;
  pthread_mutex_lock(&gb_lock);
  gb_stage_update();
  pthread_mutex_unlock(&gb_lock);
}

/* Waits for news, or until the next try is due. returns: false at the end of the process. */
static bool wait(uint32_t milliseconds) {
  struct timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec += milliseconds / 1000;
  until.tv_nsec += (long)(milliseconds % 1000) * 1000000;
  if (until.tv_nsec >= 1000000000) {
    until.tv_sec++;
    until.tv_nsec -= 1000000000;
  }
  int result = 0;
  pthread_mutex_lock(&share.lock);
  while (!share.news && !share.stopping && result != ETIMEDOUT) {
    result = milliseconds == 0 ? pthread_cond_wait(&share.changed, &share.lock)
                               : pthread_cond_timedwait(&share.changed, &share.lock, &until);
  }
  share.news = false;
  bool stopping = share.stopping;
  pthread_mutex_unlock(&share.lock);
  return !stopping;
}

static void *run(void *unused) {
  (void)unused;
  uint32_t retry = 0;
  while (wait(retry)) {
    uint64_t before = excess_of_all();
    set_shrinking(before > 0);
    if (before == 0) {
      retry = 0;
      continue;
    }
    for (int i = 0; i < gb_arena_device_count(); i++) {
      pthread_mutex_lock(&gb_lock);
      if (excess(gb_arena_device(i)) > 0) shrink(gb_arena_device(i));
      pthread_mutex_unlock(&gb_lock);
    }
    uint64_t left = excess_of_all();
    set_shrinking(left > 0);
    if (left > 0 && left < before)
      retry = 1;
    else if (left > 0)
      retry = retry < RETRY_MS_MIN ? RETRY_MS_MIN : retry < RETRY_MS_MAX ? 2 * retry : RETRY_MS_MAX;
    else
      retry = 0;
  }
  return NULL;
}

void gb_share_changed(void) {
  pthread_mutex_lock(&share.lock);
  /* The signals of the program are blocked here already: this is the client's thread. */
  if (!share.started && !share.stopping && excess_of_all() > 0)
    share.started = pthread_create(&share.thread, NULL, run, NULL) == 0;
  share.news = true;
  pthread_cond_signal(&share.changed);
  pthread_mutex_unlock(&share.lock);
}

void gb_share_stop(void) {
  pthread_mutex_lock(&share.lock);
  bool started = share.started;
  share.started = false;
  share.stopping = true;
  pthread_cond_signal(&share.changed);
  pthread_mutex_unlock(&share.lock);
  if (!started) return;
  struct timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec += STOP_TIMEOUT_S;
  pthread_timedjoin_np(share.thread, NULL, &until);
}
