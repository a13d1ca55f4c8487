/* SPDX-License-Identifier: Apache-2.0 */
/*
 * plain.h: the plain form, for drivers without an arena or without HOST_NUMA memory: whole
 * allocations, either the real driver's (T1, only without an arena) or pinned host memory read in
 * place (T2). Nothing of it ever moves.
 */
#ifndef GB_PLAIN_H
#define GB_PLAIN_H

#include "arena.h"

#define GB_PLAIN_MAX (1u << 16)

struct gb_plain {
  uint64_t address;
  uint64_t bytes;
  uint64_t counted_bytes;
  uint64_t buffer_id;
  CUcontext context;
  CUdevice device;
  void *host; /* NULL: the real driver's device memory */
};

/* pre: gb_lock, the context is current. tier says where. returns: CUDA_ERROR_OUT_OF_MEMORY when it
 * may not. */
CUresult gb_plain_take(enum gb_tier tier, CUcontext context, CUdevice device, uint64_t bytes,
                       uint64_t *address);
/* pre: gb_lock, address is a base, its context is current. */
CUresult gb_plain_give(uint64_t address);
/* Copies the record of the allocation that holds the address. Any thread. */
bool gb_plain_read(uint64_t address, struct gb_plain *out);
/* Drops all of a context's, adding their number and bytes. pre: gb_lock. */
void gb_plain_context_going(CUcontext context, uint64_t *count, uint64_t *bytes);

#endif
