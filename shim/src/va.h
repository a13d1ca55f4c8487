/* SPDX-License-Identifier: Apache-2.0 */
/*
 * va.h: which addresses of one window are free. Pure bookkeeping: first fit over 2 MiB granules
 * with coalescing, and a quarantine, so that an address just freed is not given out again at once
 * (a stale pointer then faults instead of reading a stranger's bytes).
 */
#ifndef GB_VA_H
#define GB_VA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GB_GRANULE (2ull << 20)
/* Freed ranges kept back; the oldest returns when one more is freed, all of them when nothing else
 * fits. */
#define GB_VA_QUARANTINE_RANGES 256

struct gb_va_extent {
  uint64_t address;
  uint64_t bytes;
};

struct gb_va {
  struct gb_va_extent *free_list; /* sorted by address, no two adjacent */
  size_t free_count;
  size_t free_capacity;
  struct gb_va_extent quarantine[GB_VA_QUARANTINE_RANGES]; /* ring */
  size_t quarantine_first;
  size_t quarantine_count;
};

/* pre: base and bytes are multiples of GB_GRANULE. owns: gb_va_destroy frees. returns: false
 * without memory. */
bool gb_va_create(struct gb_va *va, uint64_t base, uint64_t bytes);
void gb_va_destroy(struct gb_va *va);
/* pre: bytes is a multiple of GB_GRANULE, not 0. returns: an address, or 0 when no gap is large
 * enough. */
uint64_t gb_va_take(struct gb_va *va, uint64_t bytes);
/* pre: the range was taken. returns: false when the bookkeeping got no memory (the addresses are
 * then never reused). */
bool gb_va_give(struct gb_va *va, uint64_t address, uint64_t bytes);
/* These addresses are never given out. pre: they are free, multiples of GB_GRANULE. returns: false without memory. */
bool gb_va_withhold(struct gb_va *va, uint64_t address, uint64_t bytes);
/* Sorted, disjoint, not adjacent, aligned; for tests. */
bool gb_va_is_valid(const struct gb_va *va);

#endif
