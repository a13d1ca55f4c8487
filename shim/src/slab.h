/* SPDX-License-Identifier: Apache-2.0 */
/*
 * slab.h: small allocations, 512-byte aligned, carved from 2 MiB spans. A slab belongs to one
 * context, is never moved and, once empty, is given back unless it is its context's last empty one.
 */
#ifndef GB_SLAB_H
#define GB_SLAB_H

#include "arena.h"

#define GB_SLAB_UNIT 512u
#define GB_SLAB_UNITS (GB_GRANULE / GB_SLAB_UNIT)
/* Requests of this size or more get a span of their own. */
#define GB_SMALL_BYTES_MAX (1ull << 20)

struct gb_small {
  uint64_t buffer_id;
  uint32_t bytes; /* as the program asked */
  uint32_t units; /* 0: no allocation starts here */
};

/* pre: gb_lock, context current, 0 < bytes < GB_SMALL_BYTES_MAX. returns: CUDA_ERROR_OUT_OF_MEMORY
 * when a new slab would be needed and no tier has 2 MiB. */
CUresult gb_slab_take(CUcontext context, CUdevice device, uint64_t bytes, uint64_t *address);
/* pre: gb_lock, context current, gb_slab_find said the address is a base. Drops the slab when it is
 * not needed. */
void gb_slab_give(struct gb_span *span, uint64_t address);
/* pre: gb_lock or gb_index_lock, span->slab. returns: the allocation holding the address (its base
 * at *base) or NULL. */
const struct gb_small *gb_slab_find(const struct gb_span *span, uint64_t address, uint64_t *base);
/* Gives back the empty slabs that were kept, because memory is short. pre: gb_lock, a context current.
 * returns: whether there was one. */
bool gb_slab_drop_empty(void);
/* Forgets the slab of a span that goes with its context. pre: gb_lock. */
void gb_slab_forget(struct gb_span *span);
/* Adds the number of live small allocations and the bytes asked for. pre: gb_lock. */
void gb_slab_sum(const struct gb_span *span, uint64_t *count, uint64_t *bytes);

#endif
