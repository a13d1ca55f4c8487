/* SPDX-License-Identifier: Apache-2.0 */
/* area.h: areas, the program's own reservations (cuMemAddressReserve) inside the arena. */
#ifndef GB_AREA_H
#define GB_AREA_H

#include "arena.h"

#define GB_AREAS_MAX 65536u

struct gb_area {
  uint64_t base;
  uint64_t bytes;
  struct gb_marks marks; /* under gb_stage_lock */
  int window;
  struct gb_va_extent taken; /* of the window: with a guard, and what alignment costs */
};

/* Reserves. pre: bytes is a multiple of GB_GRANULE; alignment is 0 or a power of two. Thread-safe.
 * returns: 0 when the arena has no addresses to spare for it. */
uint64_t gb_area_reserve(uint64_t bytes, uint64_t alignment);
/* Frees exactly this reservation. pre: nothing is mapped in it. Thread-safe. returns: false when it
 * is none. */
bool gb_area_free(uint64_t base, uint64_t bytes);
/* pre: gb_lock or gb_index_lock. returns: the area that holds the address, or NULL. */
struct gb_area *gb_area_at(uint64_t address);
/* The whole range lies in one area. Thread-safe. */
bool gb_area_holds(uint64_t address, uint64_t bytes);
/* Thread-safe. returns: false when the address is in no area. */
bool gb_area_range(uint64_t address, uint64_t *base, uint64_t *bytes);

#endif
