/* SPDX-License-Identifier: Apache-2.0 */
/* extents.c: the list of a span's extents. */
#include "extents.h"

#include <stdlib.h>
#include <string.h>

static bool is_sound(const struct gb_extent *extent, uint64_t at, uint64_t end) {
  return extent->offset == at && extent->lane != 0 && extent->mirror != extent->lane &&
         extent->length > 0 && extent->length % GB_ABI_RANGE_ALIGN == 0 &&
         extent->length <= end - at;
}

bool gb_extents_take(struct gb_span *span, const struct gb_range *range,
                     const struct gb_place_reply *reply) {
  uint64_t at = range->offset;
  uint64_t end = range->offset + range->length;
  if (reply->extent_count == 0 || reply->extent_count > GB_ABI_EXTENTS_MAX) return false;
  for (uint32_t i = 0; i < reply->extent_count; i++) {
    if (!is_sound(&reply->extents[i], at, end)) return false;
    at += reply->extents[i].length;
  }
  if (at != end) return false;
  struct gb_extent *extents = calloc(reply->extent_count, sizeof *extents);
  if (extents == NULL) return false;
  memcpy(extents, reply->extents, reply->extent_count * sizeof *extents);
  free(span->extents);
  span->extents = extents;
  span->extent_count = reply->extent_count;
  return true;
}

void gb_extents_drop(struct gb_span *span) {
  free(span->extents);
  span->extents = NULL;
  span->extent_count = 0;
}

uint32_t *gb_extent_slot(struct gb_extent *extent, uint32_t lane) {
  if (extent->lane == lane) return &extent->lane;
  return extent->mirror == lane && lane != 0 ? &extent->mirror : NULL;
}

struct gb_extent *gb_extents_cut(struct gb_span *span, uint32_t index, uint64_t offset,
                                 uint64_t length) {
  struct gb_extent whole = span->extents[index];
  uint64_t before = offset - whole.offset;
  uint64_t after = whole.offset + whole.length - (offset + length);
  uint32_t more = (before > 0) + (after > 0);
  if (more == 0) return &span->extents[index];
  struct gb_extent *list = realloc(span->extents, (span->extent_count + more) * sizeof *list);
  if (list == NULL) return NULL;
  memmove(&list[index + 1 + more], &list[index + 1], (span->extent_count - index - 1) * sizeof *list);
  span->extents = list;
  span->extent_count += more;
  uint32_t middle = index + (before > 0);
  struct gb_extent part = whole;
  if (before > 0) {
    part.length = before;
    list[index] = part;
  }
  if (after > 0) {
    part.offset = offset + length;
    part.length = after;
    list[middle + 1] = part;
  }
  list[middle] = whole;
  list[middle].offset = offset;
  list[middle].length = length;
  return &list[middle];
}
