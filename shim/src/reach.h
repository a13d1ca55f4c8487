/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reach.h: which addresses a launch can read and write, and which it writes for certain, proved from its kernel's PTX
 * (ptx.h), its grid and its argument bytes (docs/adr/0016). Nothing is guessed and nothing is observed: what is said
 * holds for every content of memory.
 *
 *   reach.c        values of registers as ranges, a data flow problem: what loads and stores can touch
 *   reach_cover.c  one walk with values as k + t * thread + c * block: what every way through the kernel stores to
 *
 * Assumed, as for every launch that is dispatched: a pointer computed from an argument stays inside the allocation that
 * the argument points into. pure: no driver call, no lock.
 */
#ifndef GB_REACH_H
#define GB_REACH_H

#include "ptx.h"

#define GB_REACH_MAX 32u

enum gb_reach_kind {
  GB_REACH_READ,        /* may be read */
  GB_REACH_WRITE,       /* may be written */
  GB_REACH_COVER,       /* is written, every byte of it, when the kernel has ended */
  GB_REACH_READ_WHOLE,  /* may be read: the allocation that `from` points into, how much of it is not known */
  GB_REACH_WRITE_WHOLE, /* may be written */
};

struct gb_reach {
  enum gb_reach_kind kind;
  uint64_t from, to;
};

struct gb_reach_launch {
  const struct gb_ptx *kernel;
  const uint8_t *params;
  uint32_t param_bytes;
  uint32_t grid[3], block[3];
  uint64_t arena_base, arena_bytes; /* what lies outside is not said */
};

struct gb_reach_list {
  uint32_t count;
  struct gb_reach reached[GB_REACH_MAX];
};

/* returns: false when not all of it can be said. */
bool gb_reach_prove(const struct gb_reach_launch *launch, struct gb_reach_list *list);

/* ---- between reach.c and reach_cover.c ---- */

/* Neighbours and overlaps of the same kind become one. returns: false when there is no room. */
bool gb_reach_add(const struct gb_reach_launch *launch, struct gb_reach_list *list, enum gb_reach_kind kind,
                  uint64_t from, uint64_t to);
/* Adds what is covered; as far as it finds it. */
void gb_reach_cover(const struct gb_reach_launch *launch, struct gb_reach_list *list);
/* A parameter of so many bits. returns: false when it does not lie in the buffer. */
bool gb_reach_param(const struct gb_reach_launch *launch, const struct gb_ptx_code *code, uint64_t *value);

#endif
