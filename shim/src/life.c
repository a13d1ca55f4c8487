/* SPDX-License-Identifier: Apache-2.0 */
/* life.c: start after cuInit, forked children, the end of the process; the locks. */
#include <stdatomic.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "appspan.h"
#include "away.h"
#include "client.h"
#include "code.h"
#include "config.h"
#include "devices.h"
#include "dispatch.h"
#include "core.h"
#include "gate.h"
#include "gated.h"
#include "ipc.h"
#include "lanes.h"
#include "lock.h"
#include "owners.h"
#include "replica.h"
#include "report.h"
#include "run.h"
#include "share.h"
#include "stage.h"
#include "store.h"
#include "tier.h"

pthread_mutex_t gb_lock = PTHREAD_MUTEX_INITIALIZER;
pthread_mutex_t gb_stage_lock = PTHREAD_MUTEX_INITIALIZER;
pthread_mutex_t gb_capture_lock = PTHREAD_MUTEX_INITIALIZER;
pthread_rwlock_t gb_index_lock = PTHREAD_RWLOCK_INITIALIZER;

_Atomic uint32_t gb_slow_path;
_Atomic uint32_t gb_live_captures;

static pthread_once_t start_once = PTHREAD_ONCE_INIT;
static _Atomic bool active;

uint64_t gb_now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

void gb_sleep_ns(uint64_t nanoseconds) {
  struct timespec pause = {.tv_sec = (time_t)(nanoseconds / 1000000000ull),
                           .tv_nsec = (long)(nanoseconds % 1000000000ull)};
  nanosleep(&pause, NULL);
}

bool gb_core_active(void) {
  return atomic_load_explicit(&active, memory_order_acquire);
}

/* CUDA does not survive fork: the child gets the driver's own errors, and nothing of the parent's
 * link. */
static void in_child(void) {
  atomic_store_explicit(&active, false, memory_order_release);
  gb_slow_path = 0;
  gb_client_forked();
  gb_run_forked();
  gb_devices_forked();
  gb_dispatch_forked();
  gb_owners_forked();
  gb_reach_forked();
  gb_replica_forked();
  gb_lanes_forked();
  gb_store_forked();
  gb_ipc_forked();
}

/* No CUDA here: the driver may be gone already. */
static void at_exit(void) {
  if (!gb_core_active()) return;
  gb_share_stop();
  gb_ipc_stop();
  gb_report_write();
  gb_client_stop();
  gb_away_stop();
  gb_run_stop();
  gb_lanes_stop();
}

static void start_code(void) {
  gb_code_start(gb_config()->merged || gb_devices_on());
  if (gb_config()->merged_refused)
    gb_event(GB_LOG_WARN, CUDA_SUCCESS, "dispatch_refused",
             "GREENBOOST_REMOTE=merged needs GREENBOOST_OVERCOMMIT=gated and one copy: kernels run here (greenboost "
             "run --remote merged --overcommit gated, without --replicas)");
  if (gb_config()->devices_refused)
    gb_event(GB_LOG_WARN, CUDA_SUCCESS, "devices_refused",
             "GREENBOOST_REMOTE=devices works without GREENBOOST_OVERCOMMIT=gated and GREENBOOST_REPLICAS=2: feeders "
             "are no devices");
}

static void start(void) {
  if (gb_config()->disabled) return;
  gb_report_start();
  gb_slow_start();
  pthread_mutex_lock(&gb_lock);
  gb_arena_reserve();
  gb_tier_start();
  gb_stage_start();
  pthread_mutex_unlock(&gb_lock);
  gb_client_start();
  gb_gated_start();
  gb_devices_start();
  start_code();
  pthread_atfork(NULL, NULL, in_child);
  atexit(at_exit);
  atomic_store_explicit(&active, true, memory_order_release);
}

void gb_core_start(void) {
  pthread_once(&start_once, start);
}

void gb_capture_began(void) {
  pthread_mutex_lock(&gb_capture_lock);
  gb_live_captures++;
  pthread_mutex_unlock(&gb_capture_lock);
  gb_stage_settle_for_capture();
  gb_ipc_settle_for_capture();
  gb_app_settle_for_capture();
}

void gb_capture_ended(void) {
  if (gb_live_captures > 0) gb_live_captures--;
}
