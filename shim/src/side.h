/* SPDX-License-Identifier: Apache-2.0 */
/* side.h: look-ups in the table of what lies outside the arena (core.h has the rest). */
#ifndef GB_SIDE_H
#define GB_SIDE_H

#include <stdbool.h>
#include <stdint.h>

#include "core.h"

#define GB_SIDE_ROWS_MAX (1u << 20)

/* The pool, managed or pinned memory that holds the address: a kernel can read pointers from it.
 * pre: gb_lock or gb_index_lock. */
bool gb_side_at(uint64_t address, uint64_t *base, uint64_t *bytes);
/* VRAM that the driver holds and that belongs to no allocation: added to the account of the device,
 * or taken away again. No limit: it is there already. */
void gb_side_adjust(CUdevice device, int64_t bytes);
/* Gives back to the driver what we and its own pools hold of VRAM without need, because one of its
 * allocations failed. Not while captures are live. returns: true when the failed call is worth
 * repeating once. */
bool gb_relieve(void);

#endif
