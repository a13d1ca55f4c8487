/* SPDX-License-Identifier: Apache-2.0 */
/* tier.c: the accounts of T1, T2, the feeders and NVMe, and who may add to them. */
#include "tier.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "chunk.h"
#include "client.h"
#include "config.h"
#include "frame.h"
#include "lock.h"

/* Without an agent: what is left for the machine when T2 is full. */
#define MACHINE_RESERVE_BYTES (1ull << 30)
#define MACHINE_RESERVE_PART 10 /* or a tenth of all memory, whichever is more */

static struct {
  _Atomic uint64_t t1[GB_DEVICES_MAX][GB_ACCOUNT_COUNT];
  _Atomic uint64_t t2[GB_ACCOUNT_COUNT];
  _Atomic uint64_t away[GB_TIER_COUNT];
  _Atomic uint64_t peak[GB_TIER_COUNT];
  _Atomic uint64_t t2_held;
  uint64_t device_total[GB_DEVICES_MAX];
  uint64_t machine_limit; /* T2 without an agent: MemAvailable at the start less the reserve */
} tiers;

static uint64_t load(const _Atomic uint64_t *value) {
  return atomic_load_explicit(value, memory_order_relaxed);
}

static uint64_t less(uint64_t a, uint64_t b) {
  return a > b ? a - b : 0;
}

static uint64_t meminfo_bytes(const char *name) {
  FILE *file = fopen("/proc/meminfo", "re");
  char line[128];
  unsigned long long kib = 0;
  size_t length = strlen(name);
  if (file == NULL) return 0;
  while (fgets(line, sizeof line, file) != NULL) {
    if (strncmp(line, name, length) == 0 && sscanf(line + length, ": %llu kB", &kib) == 1) break;
  }
  fclose(file);
  return kib << 10;
}

static uint64_t machine_reserve(void) {
  uint64_t part = meminfo_bytes("MemTotal") / MACHINE_RESERVE_PART;
  return part > MACHINE_RESERVE_BYTES ? part : MACHINE_RESERVE_BYTES;
}

void gb_tier_start(void) {
  tiers.machine_limit = less(meminfo_bytes("MemAvailable"), machine_reserve()) & ~(GB_GRANULE - 1);
  for (int i = 0; i < gb_arena_device_count(); i++) {
    size_t total = 0;
    if (gb_real.cuDeviceTotalMem_v2(&total, gb_arena_device(i)) == CUDA_SUCCESS)
      tiers.device_total[i] = total;
  }
}

/* ---- reading ---- */

uint64_t gb_tier_account(enum gb_tier tier, enum gb_account account) {
  if (tier == GB_TIER_T2) return load(&tiers.t2[account]);
  uint64_t sum = 0;
  for (int i = 0; i < gb_arena_device_count(); i++) sum += load(&tiers.t1[i][account]);
  return sum;
}

uint64_t gb_t1_account(CUdevice device, enum gb_account account) {
  int index = gb_arena_device_index(device);
  return index < 0 ? 0 : load(&tiers.t1[index][account]);
}

uint64_t gb_tier_used(enum gb_tier tier) {
  if (tier != GB_TIER_T1 && tier != GB_TIER_T2) return load(&tiers.away[tier]);
  return gb_tier_account(tier, GB_ACCOUNT_USED) + gb_tier_account(tier, GB_ACCOUNT_SIDE) +
         gb_tier_account(tier, GB_ACCOUNT_PLAIN) + gb_tier_account(tier, GB_ACCOUNT_STAGE);
}

uint64_t gb_tier_peak(enum gb_tier tier) {
  return load(&tiers.peak[tier]);
}

static void note_peak(enum gb_tier tier) {
  uint64_t used = gb_tier_used(tier);
  if (used > load(&tiers.peak[tier]))
    atomic_store_explicit(&tiers.peak[tier], used, memory_order_relaxed);
}

void gb_tier_add(enum gb_tier tier, CUdevice device, enum gb_account account, int64_t bytes) {
  int index = gb_arena_device_index(device);
  if (tier == GB_TIER_T2) {
    atomic_fetch_add_explicit(&tiers.t2[account], (uint64_t)bytes, memory_order_relaxed);
  } else if (index >= 0) {
    atomic_fetch_add_explicit(&tiers.t1[index][account], (uint64_t)bytes, memory_order_relaxed);
  }
  note_peak(tier);
}

void gb_tier_move(enum gb_tier tier, CUdevice device, enum gb_account from, enum gb_account to,
                  int64_t bytes) {
  if (bytes < 0) {
    gb_tier_move(tier, device, to, from, -bytes);
    return;
  }
  gb_tier_add(tier, device, from, -bytes);
  gb_tier_add(tier, device, to, bytes);
}

void gb_tier_add_away(enum gb_tier tier, int64_t bytes) {
  atomic_fetch_add_explicit(&tiers.away[tier], (uint64_t)bytes, memory_order_relaxed);
  note_peak(tier);
}

/* ---- T1 ---- */

uint64_t gb_t1_capacity(CUdevice device) {
  int index = gb_arena_device_index(device);
  if (index < 0) return 0;
  uint64_t total = tiers.device_total[index];
  uint64_t headroom = GB_T1_HEADROOM_BYTES < total / 16 ? GB_T1_HEADROOM_BYTES : total / 16;
  uint64_t capacity = gb_config()->vram_budget == UINT64_MAX ? total - headroom : total;
  if (gb_config()->vram_budget < capacity) capacity = gb_config()->vram_budget;
  uint64_t share = 0; /* the agent's, among several programs on one GPU */
  if (gb_client_limit(GB_TIER_T1, &share) && share < capacity) capacity = share & ~(GB_GRANULE - 1);
  return capacity;
}

uint64_t gb_t1_room(CUdevice device) {
  int index = gb_arena_device_index(device);
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  if (index < 0) return 0;
  uint64_t counted = 0;
  for (int account = 0; account < GB_ACCOUNT_COUNT; account++)
    counted += load(&tiers.t1[index][account]);
  uint64_t room = less(gb_t1_capacity(device), counted);
  if (gb_real.cuMemGetInfo_v2(&free_bytes, &total_bytes) == CUDA_SUCCESS) {
    uint64_t total = tiers.device_total[index];
    uint64_t headroom = GB_T1_HEADROOM_BYTES < total / 16 ? GB_T1_HEADROOM_BYTES : total / 16;
    uint64_t real =
        gb_config()->vram_budget == UINT64_MAX ? less(free_bytes, headroom) : free_bytes;
    if (real < room) room = real;
  }
  return room & ~(GB_GRANULE - 1);
}

uint64_t gb_t1_side_room(CUdevice device, uint64_t wanted) {
  int index = gb_arena_device_index(device);
  if (index < 0 || gb_config()->vram_budget == UINT64_MAX) return UINT64_MAX;
  uint64_t counted = load(&tiers.t1[index][GB_ACCOUNT_USED]) +
                     load(&tiers.t1[index][GB_ACCOUNT_SIDE]) +
                     load(&tiers.t1[index][GB_ACCOUNT_PLAIN]);
  uint64_t room = less(gb_t1_capacity(device), counted);
  uint64_t pooled = load(&tiers.t1[index][GB_ACCOUNT_POOLED]);
  uint64_t frames = load(&tiers.t1[index][GB_ACCOUNT_STAGE]);
  if (room >= wanted && room - wanted < pooled + frames) {
    gb_pool_drop(GB_TIER_T1);
    if (room - wanted < frames) gb_frames_drop(device, frames - (room - wanted));
    /* Frames which chunks are leaving under way cannot be dropped yet. */
    uint64_t kept = load(&tiers.t1[index][GB_ACCOUNT_POOLED]) + load(&tiers.t1[index][GB_ACCOUNT_STAGE]);
    if (room - wanted < kept) room = less(room, kept);
  }
  return room;
}

/* ---- T2 ---- */

static uint64_t t2_counted(void) {
  uint64_t counted = 0;
  for (int account = 0; account < GB_ACCOUNT_COUNT; account++) counted += load(&tiers.t2[account]);
  return counted;
}

uint64_t gb_t2_held(void) {
  return load(&tiers.t2_held);
}

uint64_t gb_t2_capacity(void) {
  uint64_t limit = tiers.machine_limit;
  uint64_t granted = 0;
  if (gb_client_limit(GB_TIER_T2, &granted)) limit = granted;
  return limit < gb_config()->ram_budget ? limit : gb_config()->ram_budget;
}

uint64_t gb_t2_headroom(void) {
  return less(gb_t2_capacity(), t2_counted()) + load(&tiers.t2[GB_ACCOUNT_POOLED]);
}

static bool ledger_allows(uint64_t bytes) {
  if (load(&tiers.t2_held) + bytes > tiers.machine_limit) return false;
  return meminfo_bytes("MemAvailable") >= bytes + machine_reserve();
}

bool gb_t2_acquire(uint64_t bytes) {
  uint64_t counted = t2_counted();
  uint64_t held = load(&tiers.t2_held);
  if (counted + bytes > gb_config()->ram_budget) return false;
  if (counted + bytes <= held) return true;
  struct gb_budget request = {.tier = GB_TIER_T2, .bytes = counted + bytes - held};
  struct gb_budget_reply reply;
  enum gb_status status = gb_client_budget(GB_MSG_GRANT, &request, &reply, GB_GRANT_TIMEOUT_MS);
  if (status == GB_STATUS_UNREACHABLE && !ledger_allows(request.bytes)) return false;
  if (status != GB_STATUS_OK && status != GB_STATUS_UNREACHABLE) {
    gb_log(GB_LOG_INFO, "the agent grants no %llu bytes of local RAM (status %u)",
           (unsigned long long)request.bytes, status);
    return false;
  }
  atomic_fetch_add_explicit(&tiers.t2_held, request.bytes, memory_order_relaxed);
  return true;
}

void gb_t2_return(void) {
  uint64_t held = load(&tiers.t2_held);
  struct gb_budget request = {.tier = GB_TIER_T2, .bytes = less(held, t2_counted())};
  struct gb_budget_reply reply;
  if (request.bytes == 0) return;
  /* Unreachable is no matter: the next HELLO states what is held. */
  atomic_fetch_sub_explicit(&tiers.t2_held, request.bytes, memory_order_relaxed);
  gb_client_budget(GB_MSG_RETURN, &request, &reply, GB_GRANT_TIMEOUT_MS);
}
