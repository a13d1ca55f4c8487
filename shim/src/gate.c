/* SPDX-License-Identifier: Apache-2.0 */
/* gate.c: a sharded reader count and one closer. */
#include "gate.h"

#include <linux/membarrier.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core.h"
#include "lock.h"
#include "report.h"

#define SHARDS 32 /* power of two */
/* What a processor has stored is seen by all others long before. */
#define NO_BARRIER_NS (50 * GB_MS)

static struct {
  _Alignas(64) _Atomic uint32_t readers;
} shards[SHARDS];
static _Atomic bool closed;
static pthread_mutex_t open_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t opened = PTHREAD_COND_INITIALIZER;

static _Atomic uint32_t next_shard;
static _Thread_local uint32_t own_shard; /* + 1; 0: not chosen */

static _Atomic uint32_t *shard(void) {
  if (own_shard == 0) own_shard = 1 + next_shard++ % SHARDS;
  return &shards[own_shard - 1].readers;
}

/* Sequential consistency on both sides: either the closer sees the count or the reader sees the
 * gate closed. */
void gb_gate_enter(void) {
  for (;;) {
    atomic_fetch_add(shard(), 1);
    if (!atomic_load(&closed)) return;
    atomic_fetch_sub(shard(), 1);
    pthread_mutex_lock(&open_lock);
    while (atomic_load(&closed)) pthread_cond_wait(&opened, &open_lock);
    pthread_mutex_unlock(&open_lock);
  }
}

void gb_gate_leave(void) {
  atomic_fetch_sub(shard(), 1);
}

/* ---- calls that found the slow path off ---- */

static _Atomic bool fast_calls; /* some may still be inside, since the path was turned on */

static bool barrier(int command) {
  return syscall(SYS_membarrier, command, 0, 0) == 0;
}

bool gb_slow_start(void) {
  return barrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED);
}

/* Every thread has either stored `inside` before the barrier, where we find it, or loads the flag
 * after it, and finds that. */
void gb_slow_raise(enum gb_slow bit) {
  if (atomic_fetch_or(&gb_slow_path, (uint32_t)bit) != 0) return;
  fast_calls = true;
  if (!barrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED)) gb_sleep_ns(NO_BARRIER_NS);
}

void gb_slow_lower(enum gb_slow bit) {
  atomic_fetch_and(&gb_slow_path, ~(uint32_t)bit);
}

static bool fast_calls_ended(void) {
  if (fast_calls && gb_counters_nobody_inside()) fast_calls = false;
  return !fast_calls;
}

/* ---- closing ---- */

static bool is_empty(void) {
  if (!fast_calls_ended()) return false;
  for (int i = 0; i < SHARDS; i++) {
    if (atomic_load(&shards[i].readers) != 0) return false;
  }
  return true;
}

bool gb_gate_close(uint64_t deadline_ns) {
  atomic_store(&closed, true);
  while (!is_empty()) {
    if (gb_now_ns() >= deadline_ns) {
      gb_gate_open();
      return false;
    }
    gb_sleep_ns(2000);
  }
  return true;
}

void gb_gate_open(void) {
  pthread_mutex_lock(&open_lock);
  atomic_store(&closed, false);
  pthread_cond_broadcast(&opened);
  pthread_mutex_unlock(&open_lock);
}

void gb_gate_open_inside(void) {
  atomic_fetch_add(shard(), 1);
  gb_gate_open();
}
