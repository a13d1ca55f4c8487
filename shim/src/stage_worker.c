/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stage_worker.c: the thread that carries a switch out. It makes no call that waits for the GPU:
 * it polls, maps and unmaps (docs/adr/0007 says which calls may stand beside it).
 *
 *   wait for the mark -> go -> remap, run by run -> copied -> open
 *        not idle by the deadline -> cancel, open, let the copies run out
 */
#include "stage.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

#include "chunk.h"
#include "context.h"
#include "lock.h"
#include "report.h"

#define POLL_NS_MIN 2000ull
#define POLL_NS_MAX 50000ull

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct gb_switch *posted; /* under lock */
static _Atomic enum gb_stage_end end = GB_STAGE_DONE; /* written under lock */
static _Atomic bool waits_for_later;
static _Atomic bool callbacks;
static _Atomic uint64_t idle_limit = GB_STAGE_IDLE_NS_MAX;
static bool started;

/* ---- remapping ---- */

static CUresult map_run(const struct gb_remap *remaps, uint32_t count, bool back,
                        const CUmemAccessDesc *access, size_t access_count) {
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < count; i++) {
    CUmemGenericAllocationHandle handle = back ? remaps[i].from : remaps[i].to;
    CUresult result = gb_real.cuMemMap(remaps[i].address, remaps[i].bytes, 0, handle, 0);
    if (result != CUDA_SUCCESS) {
      for (uint32_t k = 0; k < i; k++) gb_real.cuMemUnmap(remaps[k].address, remaps[k].bytes);
      return result;
    }
    bytes += remaps[i].bytes;
  }
  CUresult result = gb_real.cuMemSetAccess(remaps[0].address, bytes, access, access_count);
  if (result != CUDA_SUCCESS) {
    for (uint32_t k = 0; k < count; k++) gb_real.cuMemUnmap(remaps[k].address, remaps[k].bytes);
  }
  return result;
}

/* One run of neighbours. On a refusal the old handles return; if even that is refused the range is
 * lost to the process, which is told so by the driver at its next use. */
static bool remap_run(struct gb_remap *remaps, uint32_t count, CUdevice device) {
  CUmemAccessDesc access[GB_DEVICES_MAX];
  size_t access_count = gb_access_list(device, access);
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < count; i++) bytes += remaps[i].bytes;
  CUresult result = gb_real.cuMemUnmap(remaps[0].address, bytes);
  if (result != CUDA_SUCCESS) return false;
  result = map_run(remaps, count, false, access, access_count);
  for (uint32_t i = 0; i < count; i++) remaps[i].done = result == CUDA_SUCCESS;
  if (result == CUDA_SUCCESS) return true;
  CUresult back = map_run(remaps, count, true, access, access_count);
  gb_event(back == CUDA_SUCCESS ? GB_LOG_WARN : GB_LOG_ERROR, result, "remap_refused",
           "the driver refuses to map %llu bytes at 0x%llx%s", (unsigned long long)bytes,
           (unsigned long long)remaps[0].address,
           back == CUDA_SUCCESS ? ": they stay where they were" : " and the old ones again");
  return false;
}

static bool remap_all(struct gb_switch *work) {
  bool all = true;
  for (uint32_t first = 0; first < work->count;) {
    uint32_t count = 1;
    while (first + count < work->count &&
           work->remaps[first + count].address ==
               work->remaps[first + count - 1].address + work->remaps[first + count - 1].bytes)
      count++;
    all &= remap_run(&work->remaps[first], count, work->device);
    first += count;
  }
  return all;
}

/* ---- one switch ---- */

static void set_end(enum gb_stage_end next) {
  pthread_mutex_lock(&lock);
  end = next;
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&lock);
}

static int wait_marked(uint64_t deadline_ns) {
  uint64_t pause = POLL_NS_MIN;
  for (;;) {
    int marked = gb_stage_marked();
    if (marked != 0 || gb_now_ns() >= deadline_ns) return marked;
    gb_sleep_ns(pause);
    if (pause < POLL_NS_MAX) pause += pause / 4;
  }
}

static int wait_copied(const struct gb_switch *work) {
  uint64_t deadline = gb_now_ns() + GB_STAGE_COPY_NS;
  for (;;) {
    int copied = gb_stage_copied(work);
    if (copied != 0) return copied;
    if (gb_now_ns() >= deadline) return -1;
    gb_sleep_ns(20000);
  }
}

/* The gate opens at once; the copies, which go to free frames, run out when what the program waits
 * for in the same channel is there. Nobody waits for that but who must (stage.h). */
static enum gb_stage_end give_up(const struct gb_switch *work, bool broken) {
  gb_stage_go(work->epoch, true);
  gb_stage_open(work->epoch);
  set_end(GB_STAGE_RUNS_OUT);
  int copied = 0;
  while (!broken && (copied = gb_stage_copied(work)) == 0) gb_sleep_ns(POLL_NS_MAX);
  if (broken || copied < 0) return GB_STAGE_BROKEN;
  if (work->patient && !callbacks) gb_note_waits();
  uint64_t most = waits_for_later ? GB_STAGE_IDLE_NS_MAX : GB_STAGE_QUEUE_NS;
  if (idle_limit < most) idle_limit *= 2;
  return GB_STAGE_ABANDONED;
}

static void log_switch(const struct gb_switch *work, uint64_t idle_ns, uint64_t remap_ns,
                       uint64_t copy_ns) {
  uint64_t bytes[2] = {0, 0};
  for (uint32_t i = 0; i < work->count; i++) {
    const struct gb_remap *remap = &work->remaps[i];
    bytes[remap->arrives] += remap->bytes;
    gb_log(GB_LOG_DEBUG, "%s 0x%llx, %llu MiB", remap->arrives ? "in" : "out",
           (unsigned long long)remap->address, (unsigned long long)(remap->bytes >> 20));
  }
  gb_log(GB_LOG_DEBUG,
         "switch %u: %llu MiB in, %llu MiB out, %u chunks; idle after %llu us, remapped after %llu, "
         "copied after %llu more",
         work->epoch, (unsigned long long)(bytes[1] >> 20), (unsigned long long)(bytes[0] >> 20),
         work->count, (unsigned long long)(idle_ns / 1000), (unsigned long long)(remap_ns / 1000),
         (unsigned long long)(copy_ns / 1000));
}

static enum gb_stage_end carry_out(struct gb_switch *work) {
  uint64_t posted_ns = gb_now_ns();
  bool patient = work->patient && !waits_for_later && !callbacks;
  int marked = wait_marked(posted_ns + (patient ? GB_STAGE_QUEUE_NS : idle_limit));
  uint64_t closed = gb_now_ns();
  work->lost_ns = marked <= 0 ? closed - posted_ns : 0;
  if (marked <= 0) return give_up(work, marked < 0);
  uint64_t least = waits_for_later ? GB_STAGE_IDLE_NS : GB_STAGE_IDLE_NS_MAX;
  if (idle_limit > least) idle_limit -= (idle_limit - least) / 8;
  gb_stage_go(work->epoch, false);
  remap_all(work);
  uint64_t remapped = gb_now_ns();
  int copied = wait_copied(work);
  gb_stage_open(work->epoch);
  log_switch(work, closed - posted_ns, remapped - closed, gb_now_ns() - remapped);
  gb_report_add(GB_COUNT_SWITCH_NS, gb_now_ns() - closed);
  return copied < 0 ? GB_STAGE_BROKEN : GB_STAGE_DONE;
}

static void *run(void *unused) {
  (void)unused;
  pthread_mutex_lock(&lock);
  for (;;) {
    while (posted == NULL) pthread_cond_wait(&changed, &lock);
    struct gb_switch *work = posted;
    pthread_mutex_unlock(&lock);
    gb_real.cuCtxSetCurrent(gb_stage_gpu_context(work->device));
    enum gb_stage_end result = carry_out(work);
    pthread_mutex_lock(&lock);
    posted = NULL;
    end = result;
    pthread_cond_broadcast(&changed);
  }
  return NULL;
}

/* ---- for stage.c ---- */

bool gb_stage_worker_start(void) {
  if (started) return true;
  pthread_t thread;
  pthread_attr_t attributes;
  sigset_t all;
  sigset_t before;
  if (pthread_attr_init(&attributes) != 0) return false;
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  /* The program's signals are the program's. */
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  started = pthread_create(&thread, &attributes, run, NULL) == 0;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
  return started;
}

void gb_stage_worker_post(struct gb_switch *work) {
  pthread_mutex_lock(&lock);
  posted = work;
  end = GB_STAGE_UNDER_WAY;
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&lock);
}

/* Work that waits for the program makes every wait for the GPU a gamble: short ones from here on. */
void gb_note_waits(void) {
  if (!atomic_exchange(&waits_for_later, true)) idle_limit = GB_STAGE_IDLE_NS;
}

void gb_note_callback(void) {
  callbacks = true;
}

bool gb_stage_worker_busy(void) {
  return end == GB_STAGE_UNDER_WAY || end == GB_STAGE_RUNS_OUT;
}

enum gb_stage_end gb_stage_worker_wait(uint64_t deadline_ns, bool out) {
  pthread_mutex_lock(&lock);
  while ((end == GB_STAGE_UNDER_WAY || (out && end == GB_STAGE_RUNS_OUT)) &&
         gb_now_ns() < deadline_ns) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    uint64_t left = deadline_ns - gb_now_ns();
    until.tv_sec += (time_t)(left / 1000000000ull);
    until.tv_nsec += (long)(left % 1000000000ull);
    if (until.tv_nsec >= 1000000000L) {
      until.tv_sec++;
      until.tv_nsec -= 1000000000L;
    }
    pthread_cond_timedwait(&changed, &lock, &until);
  }
  enum gb_stage_end result = end;
  pthread_mutex_unlock(&lock);
  return result;
}
