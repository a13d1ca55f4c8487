/* SPDX-License-Identifier: Apache-2.0 */
/* side.c: memory the program made outside the arena: counted against T1 or T2, refused beyond them.
 */
#include <stdlib.h>
#include <string.h>

#include "chunk.h"
#include "context.h"
#include "lock.h"
#include "pools.h"
#include "side.h"
#include "stage.h"
#include "tier.h"

struct side {
  uint64_t key;
  uint64_t bytes;
  CUdevice device;
};

struct side_table {
  struct side *rows; /* sorted by key */
  uint32_t count;
  uint32_t capacity;
};

static struct side_table tables[GB_SIDE_KIND_COUNT]; /* written under gb_lock and gb_index_lock */

static enum gb_tier tier_of(enum gb_side_kind kind) {
  return kind == GB_SIDE_APP_VMM_HOST ? GB_TIER_T2 : GB_TIER_T1;
}

/* Index of the first row above the key. */
static uint32_t above(const struct side_table *table, uint64_t key) {
  uint32_t low = 0;
  uint32_t high = table->count;
  while (low < high) {
    uint32_t middle = (low + high) / 2;
    if (table->rows[middle].key <= key)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

static CUdevice current_device(void) {
  CUdevice device = 0;
  if (gb_real.cuCtxGetDevice(&device) != CUDA_SUCCESS) gb_real.cuDeviceGet(&device, 0);
  return device;
}

/* The GPU has to become idle for a moment before chunks can leave VRAM: tries, then gives up. */
#define VACATE_TRIES 40
#define VACATE_PAUSE_NS (20 * GB_MS)

/* pre: gb_lock; given up between tries. */
static bool t1_room(CUdevice device, uint64_t bytes) {
  for (int i = 0; i < VACATE_TRIES; i++) {
    uint64_t room = gb_t1_side_room(device, bytes);
    if (room >= bytes) return true;
    uint64_t used = gb_t1_account(device, GB_ACCOUNT_USED);
    if (used == 0 || bytes - room > used || gb_live_captures != 0) return false;
    if (gb_stage_vacate(device, bytes - room)) continue;
    if (gb_tier_account(GB_TIER_T2, GB_ACCOUNT_USED) == 0) return false;
    pthread_mutex_unlock(&gb_lock);
    gb_sleep_ns(VACATE_PAUSE_NS);
    pthread_mutex_lock(&gb_lock);
  }
  return false;
}

CUresult gb_side_reserve(enum gb_side_kind kind, uint64_t bytes) {
  if (kind == GB_SIDE_PINNED || !gb_core_active()) return CUDA_SUCCESS;
  enum gb_tier tier = tier_of(kind);
  CUdevice device = current_device();
  pthread_mutex_lock(&gb_lock);
  bool room = tier == GB_TIER_T2 ? gb_t2_acquire(bytes) : t1_room(device, bytes);
  if (room) gb_tier_add(tier, device, GB_ACCOUNT_SIDE, (int64_t)bytes);
  pthread_mutex_unlock(&gb_lock);
  return room ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

static void uncount(enum gb_side_kind kind, CUdevice device, uint64_t bytes) {
  if (kind == GB_SIDE_PINNED) return;
  gb_tier_add(tier_of(kind), device, GB_ACCOUNT_SIDE, -(int64_t)bytes);
  if (tier_of(kind) == GB_TIER_T2) gb_t2_return();
}

void gb_side_abort(enum gb_side_kind kind, uint64_t bytes) {
  if (!gb_core_active()) return;
  CUdevice device = current_device();
  pthread_mutex_lock(&gb_lock);
  uncount(kind, device, bytes);
  pthread_mutex_unlock(&gb_lock);
}

void gb_side_commit(enum gb_side_kind kind, uint64_t key, uint64_t bytes) {
  if (!gb_core_active()) return;
  struct side_table *table = &tables[kind];
  struct side row = {.key = key, .bytes = bytes, .device = current_device()};
  pthread_mutex_lock(&gb_lock);
  pthread_rwlock_wrlock(&gb_index_lock);
  if (table->count == table->capacity && table->capacity < GB_SIDE_ROWS_MAX) {
    uint32_t capacity = table->capacity == 0 ? 64 : 2 * table->capacity;
    struct side *grown = realloc(table->rows, capacity * sizeof *grown);
    if (grown != NULL) {
      table->rows = grown;
      table->capacity = capacity;
    }
  }
  if (table->count < table->capacity) {
    uint32_t at = above(table, key);
    memmove(&table->rows[at + 1], &table->rows[at], (table->count - at) * sizeof *table->rows);
    table->rows[at] = row;
    table->count++;
  } /* else it stays counted for good: too careful, never too little */
  pthread_rwlock_unlock(&gb_index_lock);
  pthread_mutex_unlock(&gb_lock);
}

void gb_side_adjust(CUdevice device, int64_t bytes) {
  if (!gb_core_active()) return;
  pthread_mutex_lock(&gb_lock);
  gb_tier_add(GB_TIER_T1, device, GB_ACCOUNT_SIDE, bytes);
  pthread_mutex_unlock(&gb_lock);
}

bool gb_relieve(void) {
  if (!gb_core_active() || gb_live_captures != 0) return false;
  CUdevice device = 0;
  bool current = gb_real.cuCtxGetDevice(&device) == CUDA_SUCCESS;
  pthread_mutex_lock(&gb_lock);
  uint64_t bytes = gb_pool_drop(GB_TIER_T1);
  if (current && gb_t1_account(device, GB_ACCOUNT_STAGE) != 0) {
    gb_stage_finish();
    bytes += gb_frames_drop(device, UINT64_MAX);
  }
  pthread_mutex_unlock(&gb_lock);
  bytes += gb_pools_trim();
  if (bytes != 0)
    gb_log(GB_LOG_INFO, "the driver was out of memory: %llu unused bytes went back to it",
           (unsigned long long)bytes);
  return bytes != 0;
}

uint64_t gb_side_remove(enum gb_side_kind kind, uint64_t key) {
  if (!gb_core_active()) return 0;
  struct side_table *table = &tables[kind];
  uint64_t bytes = 0;
  pthread_mutex_lock(&gb_lock);
  uint32_t at = above(table, key);
  if (at > 0 && table->rows[at - 1].key == key) {
    struct side row = table->rows[at - 1];
    pthread_rwlock_wrlock(&gb_index_lock);
    memmove(&table->rows[at - 1], &table->rows[at], (table->count - at) * sizeof *table->rows);
    table->count--;
    pthread_rwlock_unlock(&gb_index_lock);
    uncount(kind, row.device, row.bytes);
    bytes = row.bytes;
  }
  pthread_mutex_unlock(&gb_lock);
  return bytes;
}

bool gb_side_at(uint64_t address, uint64_t *base, uint64_t *bytes) {
  static const enum gb_side_kind addressed[] = {GB_SIDE_POOL, GB_SIDE_MANAGED, GB_SIDE_PINNED};
  for (size_t i = 0; i < sizeof addressed / sizeof addressed[0]; i++) {
    const struct side_table *table = &tables[addressed[i]];
    uint32_t at = above(table, address);
    if (at == 0 || address - table->rows[at - 1].key >= table->rows[at - 1].bytes) continue;
    *base = table->rows[at - 1].key;
    *bytes = table->rows[at - 1].bytes;
    return true;
  }
  return false;
}
