/* SPDX-License-Identifier: Apache-2.0 */
/*
 * newest.h: where the newest content of each block of a span is (docs/adr/0016): span->newest for all of it, or, when
 * that is GB_NEWEST_PARTS, by parts. Offsets are from the span's base, and multiples of GB_BLOCK_BYTES.
 *
 * pre: gb_lock with the gate closed to change it, gb_lock or gb_index_lock to read it.
 */
#ifndef GB_NEWEST_H
#define GB_NEWEST_H

#include "arena.h"

/* Not all in one place. No lane has this number. */
#define GB_NEWEST_PARTS (UINT32_MAX - 1)
/* Of one span. From half of it on it is moved as a whole (gb_newest_crowded). */
#define GB_NEWEST_PARTS_MAX 256u
/* Pieces that were asked for one by one, before they are taken for one. */
#define GB_WANTS_MAX 16u

struct gb_newest_part {
  uint64_t end;
  uint32_t lane; /* 0: here */
};

struct gb_extent_wanted {
  uint64_t from, to;
};

struct gb_wants {
  uint32_t count;
  struct gb_extent_wanted pieces[GB_WANTS_MAX];
};

/* Of spans that may be in parts; freed with the span. */
struct gb_newest {
  uint32_t count; /* 0: span->newest says all */
  struct gb_newest_part parts[GB_NEWEST_PARTS_MAX];
  struct gb_wants missed; /* here; it comes along with the next crossing */
};

/* Where the block at the offset is, and up to where that is so. */
uint32_t gb_newest_at(const struct gb_span *span, uint64_t offset, uint64_t *end);
/* The one place where all of it is, or GB_NEWEST_PARTS. */
uint32_t gb_newest_of(const struct gb_span *span, uint64_t from, uint64_t to);
bool gb_newest_crowded(const struct gb_span *span);
/* returns: false without memory: nothing has changed. */
bool gb_newest_begin(struct gb_span *span);
/* pre: gb_newest_begin, not crowded; at most a quarter of GB_NEWEST_PARTS_MAX calls since that was asked. */
void gb_newest_set(struct gb_span *span, uint64_t from, uint64_t to, uint32_t lane);
void gb_newest_set_all(struct gb_span *span, uint32_t lane);

/* One more piece that was missed. */
void gb_wants_add(struct gb_wants *wants, uint64_t from, uint64_t to);

/* Spans whose newest content is not all here. Any thread. */
extern _Atomic uint32_t gb_elsewhere_count;

#endif
