/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pools.h: the driver's stream-ordered pools. What is allocated from them is counted by pointer
 * (side.h); what they keep reserved without using it is counted here, by their own attributes, so
 * that the account is what the card has given away.
 */
#ifndef GB_POOLS_H
#define GB_POOLS_H

#include "core.h"

/* Pools that are looked after. Memory of more pools is counted by pointer alone. */
#define GB_POOLS_MAX 64
/* Room that is made for a pool that has to grow: the driver reserves more than it is asked for. How much it took is
 * asked afterwards. */
#define GB_POOL_STEP_BYTES (32ull << 20)

/* A pool of VRAM of this device, or of host memory, which no VRAM budget concerns. */
void gb_pools_enter(CUmemoryPool pool, CUdevice device, bool host);
void gb_pools_leave(CUmemoryPool pool);
bool gb_pools_is_host(CUmemoryPool pool);
/* The current pool of the current device, entered when it is new. */
CUmemoryPool gb_pools_current(void);
/* Room for bytes from this pool: what it keeps unused counts. reserved: what was reserved: bytes, or more
 * where the pool has to grow. returns: CUDA_SUCCESS (then commit bytes and abort the rest, or abort
 * all, as with gb_side_reserve) or CUDA_ERROR_OUT_OF_MEMORY. */
CUresult gb_pools_reserve(CUmemoryPool pool, uint64_t bytes, uint64_t *reserved);
/* Asks the driver anew what each pool keeps unused. After allocations, frees, trims. */
void gb_pools_refresh(void);
/* Makes every pool, and the memory of graphs, give back what it keeps unused. Not while captures
 * are live. returns: bytes. */
uint64_t gb_pools_trim(void);

#endif
