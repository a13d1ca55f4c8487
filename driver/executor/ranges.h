/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ranges.h: which parts of the arena are allocated, and by what. Pure bookkeeping: knows no memory and no threads; the
 * caller holds a lock.
 *
 * Invariant: entries are sorted by offset, none overlap, all lie inside the arena, offsets and
 * lengths are multiples of GBX_RANGE_ALIGN.
 *
 *   claimed --ready--> ready --leave--> leaving --remove--> gone      claimed --remove--> gone (it could not be mapped)
 */
#ifndef GBX_RANGES_H
#define GBX_RANGES_H

#include <stdbool.h>

#include "gb_exec.h"

/* As RANGES_PER_LEASE_MAX in proto/base/limits.ts. */
#define GBX_RANGES_MAX 65536u
#define GBX_GPUS_MAX 8u

enum gbx_range_state { GBX_RANGE_CLAIMED, GBX_RANGE_READY, GBX_RANGE_LEAVING };

struct gbx_entry {
  struct gbx_range range;
  enum gbx_range_state state;
  unsigned pins;         /* transfers under way */
  void *cpu;             /* RAM: where the CPU sees it; NULL for VRAM */
  uint64_t handle;       /* CUmemGenericAllocationHandle; 0: anonymous memory */
  uint64_t locked_bytes; /* RAM: of its bytes, locked or pinned */
  uint64_t mlocked_bytes; /* of them, counted against RLIMIT_MEMLOCK */
};

struct gbx_ranges {
  uint64_t arena_bytes;
  uint32_t gpu_count;
  struct gbx_entry **entries;
  size_t count;
  size_t capacity;
};

/* Adds a claimed entry. owns: the table, until gbx_ranges_remove. returns: GBX_OK with *entry set; GBX_INVALID for a
 * range that is unaligned, empty, outside the arena, of an unknown device, or overlaps another; GBX_CAPACITY. */
enum gbx_status_code gbx_ranges_claim(struct gbx_ranges *ranges, const struct gbx_range *range,
                                      struct gbx_entry **entry);

/* The ready entry that is exactly `range`, or NULL. */
struct gbx_entry *gbx_ranges_find(const struct gbx_ranges *ranges, const struct gbx_range *range);

/* Removes and frees an entry. pre: entry->pins == 0. */
void gbx_ranges_remove(struct gbx_ranges *ranges, struct gbx_entry *entry);

/* Checks that [offset, offset + length) lies in ready entries without a gap, on whatever devices. returns: GBX_OK with
 * *first the index of the first entry and *count how many there are; GBX_INVALID for an empty or overflowing span;
 * GBX_NOT_FOUND. */
enum gbx_status_code gbx_ranges_cover(const struct gbx_ranges *ranges, uint64_t offset, uint64_t length, size_t *first,
                                      size_t *count);

/* The same, of entries that are ready or leaving. */
enum gbx_status_code gbx_ranges_mapped(const struct gbx_ranges *ranges, uint64_t offset, uint64_t length,
                                       size_t *first, size_t *count);

/* The invariant above; for tests. */
bool gbx_ranges_is_valid(const struct gbx_ranges *ranges);

#endif
