/* SPDX-License-Identifier: Apache-2.0 */
/* room.c: admission beyond the local tiers, and eviction until there is room. */
#include <stdatomic.h>

#include "room.h"

#include "away.h"
#include "chunk.h"
#include "config.h"
#include "context.h"
#include "gate.h"
#include "lock.h"
#include "nvme.h"
#include "stage.h"
#include "tier.h"
#include "victim.h"

_Atomic uint32_t gb_unmapped_count;

static uint64_t free_local(CUdevice device) {
  uint64_t t2 = gb_host_numa_node() >= 0 ? gb_t2_headroom() : 0;
  return gb_t1_room(device) + gb_t1_account(device, GB_ACCOUNT_POOLED) + t2;
}

uint64_t gb_local_bytes(CUdevice device) {
  uint64_t resident = 0;
  for (struct gb_span *span = gb_span_next(NULL); span != NULL; span = gb_span_next(span)) {
    if (span->slab != NULL || span->app || span->going || span->device != device) continue;
    if (gb_residency(span) == GB_RESIDENT) resident += span->bytes;
  }
  return resident + free_local(device);
}

enum gb_moved gb_make_room(CUdevice device, uint64_t bytes, const uint64_t *keep,
                           uint32_t keep_count) {
  while (free_local(device) < bytes) {
    struct gb_span *victim = gb_victim(device, keep, keep_count);
    if (victim == NULL) return GB_MOVE_NO_ROOM;
    enum gb_moved result = gb_evict(victim);
    if (result != GB_MOVED) return result;
    gb_unmapped_count++;
  }
  return GB_MOVED;
}

/* Room may be there by the count and yet not be had (another process took it): then one more has to
 * leave. */
static enum gb_moved bring_one(struct gb_span *span, const uint64_t *keep, uint32_t keep_count) {
  enum gb_moved result = gb_make_room(span->device, span->bytes, keep, keep_count);
  while (result == GB_MOVED) {
    result = gb_fetch(span);
    if (result == GB_MOVED) gb_unmapped_count--;
    if (result != GB_MOVE_NO_ROOM) return result;
    struct gb_span *victim = gb_victim(span->device, keep, keep_count);
    if (victim == NULL) return GB_MOVE_NO_ROOM;
    result = gb_evict(victim);
    if (result == GB_MOVED) gb_unmapped_count++;
  }
  return result;
}

enum gb_moved gb_bring(struct gb_span *const *wanted, uint32_t wanted_count, const uint64_t *keep,
                       uint32_t keep_count) {
  for (uint32_t i = 0; i < wanted_count; i++) {
    if (gb_residency(wanted[i]) == GB_RESIDENT) continue;
    CUresult pushed = gb_context_push(wanted[i]->context);
    if (pushed != CUDA_SUCCESS) return GB_MOVE_FAILED;
    enum gb_moved result = bring_one(wanted[i], keep, keep_count);
    gb_context_pop();
    if (result != GB_MOVED) return result;
  }
  if (gb_unmapped_count != 0) gb_nvme_ahead();
  return GB_MOVED;
}

/* ---- admission ---- */

bool gb_gated_admit(struct gb_span *span) {
  if (!gb_gated_on()) return false;
  atomic_store_explicit(&span->residency, (uint32_t)GB_UNWRITTEN, memory_order_release);
  atomic_store_explicit(&span->scan, (uint32_t)GB_SCAN_CLEAN, memory_order_relaxed);
  uint64_t local = gb_local_bytes(span->device);
  if (span->bytes > local || !gb_away_grant(local)) {
    gb_log(GB_LOG_INFO, "%llu bytes refused: %s", (unsigned long long)span->bytes,
           span->bytes > local ? "more than all local tiers hold" : "neither feeders nor an NVMe file have room");
    return false;
  }
  gb_unmapped_count++;
  gb_log(GB_LOG_DEBUG, "0x%llx admitted beyond the local tiers, %llu bytes secured there",
         (unsigned long long)span->base, (unsigned long long)gb_away_held());
  return true;
}

enum gb_room gb_gated_make_room(CUdevice device, uint64_t bytes, uint64_t patience_ns) {
  bool idle = false;
  if (!gb_gated_on() || gb_live_captures != 0) return GB_ROOM_NONE;
  gb_stage_finish();
  uint64_t deadline = gb_now_ns() + patience_ns;
  if (!gb_gate_close(deadline)) return GB_ROOM_AGAIN;
  enum gb_moved result = GB_MOVE_UNREACHABLE;
  CUresult drained = gb_drain(deadline, &idle);
  if (drained != CUDA_SUCCESS)
    result = GB_MOVE_FAILED;
  else if (idle)
    result = gb_make_room(device, bytes, NULL, 0);
  gb_gate_open();
  if (result == GB_MOVED) return GB_ROOM_MADE;
  return result == GB_MOVE_UNREACHABLE ? GB_ROOM_AGAIN : GB_ROOM_NONE;
}

void gb_gated_settle(CUdevice device) {
  if (gb_remote_drop_waiting()) gb_away_shrink(gb_local_bytes(device));
}

void gb_gated_forget(struct gb_span *span) {
  if (gb_residency(span) != GB_RESIDENT) gb_unmapped_count--;
  bool gated = gb_config()->gated;
  CUdevice device = span->device;
  gb_remote_drop_waiting();
  gb_away_end(span);
  if (gated) gb_away_shrink(gb_local_bytes(device));
  if (gb_unmapped_count == 0) gb_pool_trim();
}
