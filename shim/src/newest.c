/* SPDX-License-Identifier: Apache-2.0 */
/* newest.c: a sorted list of parts for each span that has any. */
#include "newest.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "lock.h"

_Atomic uint32_t gb_elsewhere_count;

uint32_t gb_newest_at(const struct gb_span *span, uint64_t offset, uint64_t *end) {
  *end = span->bytes;
  uint32_t newest = atomic_load_explicit(&span->newest, memory_order_acquire);
  if (newest != GB_NEWEST_PARTS) return newest;
  const struct gb_newest *map = span->parts;
  uint32_t i = 0;
  while (i + 1 < map->count && map->parts[i].end <= offset) i++;
  *end = map->parts[i].end;
  return map->parts[i].lane;
}

uint32_t gb_newest_of(const struct gb_span *span, uint64_t from, uint64_t to) {
  uint64_t end;
  uint32_t lane = gb_newest_at(span, from, &end);
  while (end < to) {
    if (gb_newest_at(span, end, &end) != lane) return GB_NEWEST_PARTS;
  }
  return lane;
}

bool gb_newest_crowded(const struct gb_span *span) {
  return span->parts != NULL && span->parts->count > GB_NEWEST_PARTS_MAX / 2;
}

bool gb_newest_begin(struct gb_span *span) {
  if (span->parts == NULL) span->parts = calloc(1, sizeof *span->parts);
  return span->parts != NULL;
}

static void set_newest(struct gb_span *span, uint32_t newest) {
  uint32_t before = atomic_exchange_explicit(&span->newest, newest, memory_order_acq_rel);
  if (before == 0 && newest != 0) gb_elsewhere_count++;
  if (before != 0 && newest == 0) gb_elsewhere_count--;
}

/* Parts of the same lane that lie behind each other become one. */
static void append(struct gb_newest *map, uint64_t end, uint32_t lane) {
  struct gb_newest_part *last = map->count > 0 ? &map->parts[map->count - 1] : NULL;
  uint64_t begin = last != NULL ? last->end : 0;
  if (end <= begin) return;
  if (last != NULL && last->lane == lane) last->end = end;
  else map->parts[map->count++] = (struct gb_newest_part){end, lane};
}

void gb_newest_set(struct gb_span *span, uint64_t from, uint64_t to, uint32_t lane) {
  struct gb_newest_part before[GB_NEWEST_PARTS_MAX];
  struct gb_newest *map = span->parts;
  uint32_t newest = atomic_load_explicit(&span->newest, memory_order_relaxed);
  uint32_t count = newest == GB_NEWEST_PARTS ? map->count : 1;
  uint32_t i = 0;
  if (newest == GB_NEWEST_PARTS) memcpy(before, map->parts, count * sizeof *before);
  else before[0] = (struct gb_newest_part){span->bytes, newest};
  pthread_rwlock_wrlock(&gb_index_lock);
  map->count = 0;
  for (; i < count && before[i].end <= from; i++) append(map, before[i].end, before[i].lane);
  if (i < count) append(map, from, before[i].lane);
  append(map, to, lane);
  for (; i < count; i++) append(map, before[i].end, before[i].lane);
  set_newest(span, map->count == 1 ? map->parts[0].lane : GB_NEWEST_PARTS);
  pthread_rwlock_unlock(&gb_index_lock);
}

void gb_newest_set_all(struct gb_span *span, uint32_t lane) {
  pthread_rwlock_wrlock(&gb_index_lock);
  set_newest(span, lane);
  pthread_rwlock_unlock(&gb_index_lock);
}

/* ---- what was missed ---- */

void gb_wants_add(struct gb_wants *wants, uint64_t from, uint64_t to) {
  for (uint32_t i = 0; i < wants->count;) {
    struct gb_extent_wanted *piece = &wants->pieces[i];
    if (from > piece->to || to < piece->from) {
      i++;
      continue;
    }
    if (piece->from < from) from = piece->from;
    if (piece->to > to) to = piece->to;
    *piece = wants->pieces[--wants->count];
    i = 0;
  }
  for (; wants->count == GB_WANTS_MAX; wants->count--) {
    const struct gb_extent_wanted *last = &wants->pieces[wants->count - 1];
    if (last->from < from) from = last->from;
    if (last->to > to) to = last->to;
  }
  wants->pieces[wants->count++] = (struct gb_extent_wanted){from, to};
}
