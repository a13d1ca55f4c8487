/* SPDX-License-Identifier: Apache-2.0 */
/* area.c: the list of areas. */
#include "area.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "lock.h"

/* What is left of a window is for cuMemAlloc. */
#define RESERVED_PARTS 3
#define PARTS 4

/* Sorted by base; written under gb_lock and gb_index_lock. */
static struct gb_area **areas;
static uint32_t area_capacity;
_Atomic uint32_t gb_area_count;
static uint64_t reserved_bytes[GB_DEVICES_MAX];

/* Index of the first area that begins above the address. */
static uint32_t above(uint64_t address) {
  uint32_t low = 0;
  uint32_t high = gb_area_count;
  while (low < high) {
    uint32_t middle = low + (high - low) / 2;
    if (areas[middle]->base <= address)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

struct gb_area *gb_area_at(uint64_t address) {
  uint32_t i = above(address);
  if (i == 0 || address - areas[i - 1]->base >= areas[i - 1]->bytes) return NULL;
  return areas[i - 1];
}

bool gb_area_range(uint64_t address, uint64_t *base, uint64_t *bytes) {
  if (gb_area_count == 0 || !gb_owns(address)) return false;
  pthread_rwlock_rdlock(&gb_index_lock);
  const struct gb_area *area = gb_area_at(address);
  if (area != NULL) {
    *base = area->base;
    *bytes = area->bytes;
  }
  pthread_rwlock_unlock(&gb_index_lock);
  return area != NULL;
}

bool gb_area_holds(uint64_t address, uint64_t bytes) {
  uint64_t base = 0;
  uint64_t size = 0;
  return gb_area_range(address, &base, &size) && bytes <= base + size - address;
}

bool gb_area_hole_slow(CUdeviceptr pointer) {
  pthread_rwlock_rdlock(&gb_index_lock);
  bool hole = gb_span_at(pointer) == NULL && gb_area_at(pointer) != NULL;
  pthread_rwlock_unlock(&gb_index_lock);
  return hole;
}

/* The window of the current device: what the program maps there is most likely of it. */
static int current_window(void) {
  CUdevice device = 0;
  if (gb_real.cuCtxGetDevice(&device) != CUDA_SUCCESS) return 0;
  int index = gb_arena_device_index(device);
  return index < 0 ? 0 : index;
}

/* pre: gb_lock. */
static bool take(struct gb_area *area, uint64_t alignment) {
  uint64_t window_bytes = 0;
  struct gb_va *va = gb_arena_window(area->window, &window_bytes);
  uint64_t slack = alignment > GB_GRANULE ? alignment - GB_GRANULE : 0;
  uint64_t limit = window_bytes / PARTS * RESERVED_PARTS;
  uint64_t bytes = 0;
  if (__builtin_add_overflow(area->bytes, slack + GB_GUARD_BYTES, &bytes)) return false;
  if (bytes > limit || reserved_bytes[area->window] > limit - bytes) return false;
  uint64_t address = gb_va_take(va, bytes);
  if (address == 0) return false;
  reserved_bytes[area->window] += bytes;
  area->taken = (struct gb_va_extent){address, bytes};
  area->base = slack == 0 ? address : (address + alignment - 1) & ~(alignment - 1);
  gb_arena_note(area->base, area->bytes);
  return true;
}

/* pre: gb_lock. */
static void give(const struct gb_area *area) {
  uint64_t window_bytes = 0;
  reserved_bytes[area->window] -= area->taken.bytes;
  gb_va_give(gb_arena_window(area->window, &window_bytes), area->taken.address, area->taken.bytes);
}

/* pre: gb_lock. */
static bool enter(struct gb_area *area) {
  if (gb_area_count == GB_AREAS_MAX) return false;
  pthread_rwlock_wrlock(&gb_index_lock);
  bool room = gb_area_count < area_capacity;
  if (!room) {
    uint32_t capacity = area_capacity == 0 ? 16 : 2 * area_capacity;
    struct gb_area **grown = realloc(areas, capacity * sizeof *grown);
    room = grown != NULL;
    if (room) {
      areas = grown;
      area_capacity = capacity;
    }
  }
  if (room) {
    uint32_t at = above(area->base);
    memmove(&areas[at + 1], &areas[at], (gb_area_count - at) * sizeof *areas);
    areas[at] = area;
    gb_area_count++;
  }
  pthread_rwlock_unlock(&gb_index_lock);
  return room;
}

uint64_t gb_area_reserve(uint64_t bytes, uint64_t alignment) {
  if (!gb_core_active() || gb_arena_size_bytes == 0) return 0;
  struct gb_area *area = calloc(1, sizeof *area);
  if (area == NULL) return 0;
  area->bytes = bytes;
  area->window = current_window();
  pthread_mutex_lock(&gb_lock);
  uint64_t base = 0;
  if (take(area, alignment)) {
    if (enter(area))
      base = area->base;
    else
      give(area);
  }
  pthread_mutex_unlock(&gb_lock);
  if (base == 0) free(area);
  return base;
}

bool gb_area_free(uint64_t base, uint64_t bytes) {
  pthread_mutex_lock(&gb_lock);
  struct gb_area *area = gb_area_at(base);
  bool exact = area != NULL && area->base == base && area->bytes == bytes;
  if (exact) {
    pthread_rwlock_wrlock(&gb_index_lock);
    uint32_t at = above(base) - 1;
    memmove(&areas[at], &areas[at + 1], (gb_area_count - at - 1) * sizeof *areas);
    gb_area_count--;
    pthread_rwlock_unlock(&gb_index_lock);
    give(area);
    free(area->marks.offsets);
    free(area);
  }
  pthread_mutex_unlock(&gb_lock);
  return exact;
}
