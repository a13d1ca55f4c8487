/* SPDX-License-Identifier: Apache-2.0 */
/* ranges.c: see ranges.h. */
#include "ranges.h"

#include <stdlib.h>
#include <string.h>

static uint64_t end_of(const struct gbx_entry *entry) {
  return entry->range.offset + entry->range.length;
}

/* Index of the first entry that ends after `offset`; count when there is none. */
static size_t lower_bound(const struct gbx_ranges *ranges, uint64_t offset) {
  size_t low = 0, high = ranges->count;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (end_of(ranges->entries[middle]) > offset)
      high = middle;
    else
      low = middle + 1;
  }
  return low;
}

static bool is_well_formed(const struct gbx_ranges *ranges, const struct gbx_range *range) {
  if (range->length == 0 || range->offset % GBX_RANGE_ALIGN || range->length % GBX_RANGE_ALIGN)
    return false;
  if (range->length > ranges->arena_bytes || range->offset > ranges->arena_bytes - range->length)
    return false;
  if (range->device_kind == GBX_DEVICE_RAM)
    return range->device_index == 0;
  return range->device_kind == GBX_DEVICE_GPU && range->device_index >= 0 &&
         (uint32_t)range->device_index < ranges->gpu_count;
}

static bool make_room(struct gbx_ranges *ranges) {
  if (ranges->count < ranges->capacity)
    return true;
  size_t capacity = ranges->capacity ? ranges->capacity * 2 : 64;
  struct gbx_entry **entries = reallocarray(ranges->entries, capacity, sizeof(*entries));
  if (!entries)
    return false;
  ranges->entries = entries;
  ranges->capacity = capacity;
  return true;
}

enum gbx_status_code gbx_ranges_claim(struct gbx_ranges *ranges, const struct gbx_range *range,
                                      struct gbx_entry **entry) {
  if (!is_well_formed(ranges, range))
    return GBX_INVALID;
  size_t index = lower_bound(ranges, range->offset);
  if (index < ranges->count && ranges->entries[index]->range.offset < range->offset + range->length)
    return GBX_INVALID;
  if (ranges->count >= GBX_RANGES_MAX || !make_room(ranges))
    return GBX_CAPACITY;
  struct gbx_entry *added = calloc(1, sizeof(*added));
  if (!added)
    return GBX_CAPACITY;
  added->range = *range;
  added->state = GBX_RANGE_CLAIMED;
  memmove(&ranges->entries[index + 1], &ranges->entries[index], (ranges->count - index) * sizeof(*ranges->entries));
  ranges->entries[index] = added;
  ranges->count++;
  *entry = added;
  return GBX_OK;
}

struct gbx_entry *gbx_ranges_find(const struct gbx_ranges *ranges, const struct gbx_range *range) {
  size_t index = lower_bound(ranges, range->offset);
  if (index == ranges->count)
    return NULL;
  struct gbx_entry *entry = ranges->entries[index];
  bool same = entry->range.offset == range->offset && entry->range.length == range->length &&
              entry->range.device_kind == range->device_kind && entry->range.device_index == range->device_index;
  return same && entry->state == GBX_RANGE_READY ? entry : NULL;
}

void gbx_ranges_remove(struct gbx_ranges *ranges, struct gbx_entry *entry) {
  size_t index = lower_bound(ranges, entry->range.offset);
  memmove(&ranges->entries[index], &ranges->entries[index + 1],
          (ranges->count - index - 1) * sizeof(*ranges->entries));
  ranges->count--;
  free(entry);
}

static enum gbx_status_code cover(const struct gbx_ranges *ranges, uint64_t offset, uint64_t length, bool leaving,
                                  size_t *first, size_t *count) {
  if (length == 0 || length > ranges->arena_bytes || offset > ranges->arena_bytes - length)
    return GBX_INVALID;
  size_t start = lower_bound(ranges, offset);
  uint64_t reached = offset;
  size_t index = start;
  while (reached < offset + length) {
    if (index == ranges->count)
      return GBX_NOT_FOUND;
    const struct gbx_entry *entry = ranges->entries[index];
    bool there = entry->state == GBX_RANGE_READY || (leaving && entry->state == GBX_RANGE_LEAVING);
    if (entry->range.offset > reached || !there)
      return GBX_NOT_FOUND;
    reached = end_of(entry);
    index++;
  }
  *first = start;
  *count = index - start;
  return GBX_OK;
}

enum gbx_status_code gbx_ranges_cover(const struct gbx_ranges *ranges, uint64_t offset, uint64_t length, size_t *first,
                                      size_t *count) {
  return cover(ranges, offset, length, false, first, count);
}

enum gbx_status_code gbx_ranges_mapped(const struct gbx_ranges *ranges, uint64_t offset, uint64_t length,
                                       size_t *first, size_t *count) {
  return cover(ranges, offset, length, true, first, count);
}

bool gbx_ranges_is_valid(const struct gbx_ranges *ranges) {
  uint64_t reached = 0;
  for (size_t index = 0; index < ranges->count; index++) {
    const struct gbx_entry *entry = ranges->entries[index];
    if (!is_well_formed(ranges, &entry->range) || entry->range.offset < reached)
      return false;
    reached = end_of(entry);
  }
  return ranges->count <= GBX_RANGES_MAX;
}
