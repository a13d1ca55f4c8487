/* SPDX-License-Identifier: Apache-2.0 */
/* slab.c: bitmaps of 512-byte units. */
#include "slab.h"

#include <stdlib.h>
#include <string.h>

#include "chunk.h"
#include "lock.h"
#include "remote.h"
#include "stage.h"
#include "tier.h"

#define WORDS (GB_SLAB_UNITS / 64)

struct gb_slab {
  struct gb_span *span;
  struct gb_slab *next;
  uint32_t free_units;
  uint64_t used[WORDS]; /* one bit for each unit */
  struct gb_small smalls[GB_SLAB_UNITS];
};

static struct gb_slab *slabs;

static bool is_used(const struct gb_slab *slab, uint32_t unit) {
  return slab->used[unit / 64] >> (unit % 64) & 1;
}

/* First run of free units, or GB_SLAB_UNITS. */
static uint32_t find_run(const struct gb_slab *slab, uint32_t units) {
  uint32_t run = 0;
  for (uint32_t unit = 0; unit < GB_SLAB_UNITS; unit++) {
    if (run == 0 && unit % 64 == 0 && slab->used[unit / 64] == UINT64_MAX) {
      unit += 63;
      continue;
    }
    run = is_used(slab, unit) ? 0 : run + 1;
    if (run == units) return unit + 1 - units;
  }
  return GB_SLAB_UNITS;
}

static void mark(struct gb_slab *slab, uint32_t first, uint32_t units, bool used) {
  for (uint32_t unit = first; unit < first + units; unit++) {
    uint64_t bit = 1ull << (unit % 64);
    if (used)
      slab->used[unit / 64] |= bit;
    else
      slab->used[unit / 64] &= ~bit;
  }
  slab->free_units = used ? slab->free_units - units : slab->free_units + units;
}

/* Slabs do not move: what is made while VRAM is full (a counter, a table) must not end in host memory
 * for good, so VRAM is made for it first. */
static void make_vram(CUdevice device) {
  if (gb_t1_room(device) >= GB_GRANULE || gb_t1_account(device, GB_ACCOUNT_POOLED) > 0) return;
  if (gb_frames_free(device) == 0) gb_stage_vacate(device, GB_GRANULE);
  gb_frames_drop(device, GB_GRANULE);
}

static CUresult create_slab(CUcontext context, CUdevice device, struct gb_slab **out) {
  struct gb_slab *slab = calloc(1, sizeof *slab);
  if (slab == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
  slab->free_units = GB_SLAB_UNITS;
  slab->span = gb_span_create(device, context, GB_GRANULE, GB_GRANULE);
  if (slab->span == NULL) {
    free(slab);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  make_vram(device);
  CUresult result = gb_chunks_cover(slab->span);
  if (result == CUDA_SUCCESS) {
    result = gb_chunks_map(slab->span);
    if (result != CUDA_SUCCESS) gb_chunks_give(slab->span);
  }
  if (result != CUDA_SUCCESS) {
    gb_span_release(slab->span);
    free(slab);
    return result;
  }
  pthread_rwlock_wrlock(&gb_index_lock);
  slab->span->slab = slab;
  pthread_rwlock_unlock(&gb_index_lock);
  slab->next = slabs;
  slabs = slab;
  *out = slab;
  return CUDA_SUCCESS;
}

static void enter(struct gb_slab *slab, uint32_t first, uint32_t units, uint64_t bytes) {
  pthread_rwlock_wrlock(&gb_index_lock);
  mark(slab, first, units, true);
  slab->smalls[first] = (struct gb_small){gb_buffer_id(), (uint32_t)bytes, units};
  pthread_rwlock_unlock(&gb_index_lock);
}

CUresult gb_slab_take(CUcontext context, CUdevice device, uint64_t bytes, uint64_t *address) {
  uint32_t units = (uint32_t)((bytes + GB_SLAB_UNIT - 1) / GB_SLAB_UNIT);
  struct gb_slab *slab = NULL;
  uint32_t first = GB_SLAB_UNITS;
  for (slab = slabs; slab != NULL; slab = slab->next) {
    if (slab->span->context != context || slab->free_units < units) continue;
    first = find_run(slab, units);
    if (first < GB_SLAB_UNITS) break;
  }
  if (slab == NULL) {
    CUresult result = create_slab(context, device, &slab);
    if (result != CUDA_SUCCESS) return result;
    first = 0;
  }
  enter(slab, first, units, bytes);
  *address = slab->span->base + (uint64_t)first * GB_SLAB_UNIT;
  return CUDA_SUCCESS;
}

const struct gb_small *gb_slab_find(const struct gb_span *span, uint64_t address, uint64_t *base) {
  const struct gb_slab *slab = span->slab;
  if (address - span->base >= GB_GRANULE) return NULL;
  uint32_t unit = (uint32_t)((address - span->base) / GB_SLAB_UNIT);
  if (!is_used(slab, unit)) return NULL;
  uint32_t first = unit;
  while (slab->smalls[first].units == 0) first--; /* a used unit has a start at or before it */
  *base = span->base + (uint64_t)first * GB_SLAB_UNIT;
  return &slab->smalls[first];
}

static void unlink_slab(struct gb_slab *slab) {
  for (struct gb_slab **at = &slabs; *at != NULL; at = &(*at)->next) {
    if (*at == slab) {
      *at = slab->next;
      return;
    }
  }
}

/* Host memory is not kept, nor what a peer may still hold, and of VRAM one empty slab for each
 * context. */
static bool is_spare(const struct gb_slab *slab) {
  const struct gb_chunk *chunk = &slab->span->chunks[0];
  if (chunk->tier != GB_TIER_T1 || chunk->exported) return true;
  for (const struct gb_slab *other = slabs; other != NULL; other = other->next) {
    if (other != slab && other->free_units == GB_SLAB_UNITS &&
        other->span->context == slab->span->context)
      return true;
  }
  return false;
}

void gb_slab_forget(struct gb_span *span) {
  struct gb_slab *slab = span->slab;
  pthread_rwlock_wrlock(&gb_index_lock);
  span->slab = NULL;
  pthread_rwlock_unlock(&gb_index_lock);
  unlink_slab(slab);
  free(slab);
}

/* The slab is empty. returns: false when the driver does not unmap it; it stays as one more empty slab. */
static bool drop(struct gb_slab *slab) {
  struct gb_span *span = slab->span;
  if (gb_chunks_unmap(span) != CUDA_SUCCESS) return false;
  gb_chunks_give(span);
  gb_slab_forget(span);
  gb_remote_end(span);
  return true;
}

void gb_slab_give(struct gb_span *span, uint64_t address) {
  struct gb_slab *slab = span->slab;
  uint32_t first = (uint32_t)((address - span->base) / GB_SLAB_UNIT);
  pthread_rwlock_wrlock(&gb_index_lock);
  mark(slab, first, slab->smalls[first].units, false);
  slab->smalls[first] = (struct gb_small){0};
  pthread_rwlock_unlock(&gb_index_lock);
  if (slab->free_units == GB_SLAB_UNITS && is_spare(slab)) drop(slab);
}

bool gb_slab_drop_empty(void) {
  bool dropped = false;
  struct gb_slab *next = NULL;
  for (struct gb_slab *slab = slabs; slab != NULL; slab = next) {
    next = slab->next;
    if (slab->free_units == GB_SLAB_UNITS) dropped |= drop(slab);
  }
  return dropped;
}

void gb_slab_sum(const struct gb_span *span, uint64_t *count, uint64_t *bytes) {
  for (uint32_t unit = 0; unit < GB_SLAB_UNITS; unit++) {
    if (span->slab->smalls[unit].units == 0) continue;
    *count += 1;
    *bytes += span->slab->smalls[unit].bytes;
  }
}
