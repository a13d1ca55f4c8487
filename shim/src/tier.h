/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tier.h: how much of each tier is used, and how much more may be.
 *
 * T1 is counted for each device: chunks in spans (used), chunks waiting for reuse (pooled) and what
 * the program made outside the arena (side); used + pooled + side <= budget. T2 is one account for
 * the process: the agent grants it (held), or, without an agent, our own ledger does; used + pooled
 * + side + plain <= held <= budget. All functions: pre: gb_lock, unless they say otherwise.
 */
#ifndef GB_TIER_H
#define GB_TIER_H

#include "arena.h"

/* Kept free of T1 when no budget is given: modules loaded lazily, local memory and libraries need
 * VRAM we never see. */
#define GB_T1_HEADROOM_BYTES (384ull << 20)

enum gb_account {
  GB_ACCOUNT_USED,
  GB_ACCOUNT_POOLED,
  GB_ACCOUNT_SIDE,
  GB_ACCOUNT_PLAIN,
  GB_ACCOUNT_STAGE, /* T1: free frames; T2: homes of chunks that are in VRAM */
  GB_ACCOUNT_COUNT
};

/* Reads device sizes and the machine's free memory. pre: cuInit succeeded. */
void gb_tier_start(void);
/* Adds or subtracts bytes of one account. T2 bytes must have been acquired. */
void gb_tier_add(enum gb_tier tier, CUdevice device, enum gb_account account, int64_t bytes);
/* Moves bytes (negative: back) between two accounts of a tier, whose sum nobody sees change. */
void gb_tier_move(enum gb_tier tier, CUdevice device, enum gb_account from, enum gb_account to,
                  int64_t bytes);

/* Bytes of T1 that may still be created on the device, a multiple of GB_GRANULE. pre: a context of
 * it is current. */
uint64_t gb_t1_room(CUdevice device);
/* Bytes of T1 left for memory outside the arena; without a budget the driver decides. Drops pooled
 * handles for it. */
uint64_t gb_t1_side_room(CUdevice device, uint64_t wanted);
/* All T1 the virtual device has: budget, or what the device has less the headroom. */
uint64_t gb_t1_capacity(CUdevice device);

/* Room in T2 for bytes more: asks the agent (or the ledger). Count them with gb_tier_add
 * afterwards. returns: false when they may not be created. Blocks up to GB_GRANT_TIMEOUT_MS. */
bool gb_t2_acquire(uint64_t bytes);
/* Gives back whatever is held and no longer counted. */
void gb_t2_return(void);
/* What could be acquired now if everything pooled were dropped first; an estimate. */
uint64_t gb_t2_headroom(void);
/* All T2 that the virtual device counts with. Any thread. */
uint64_t gb_t2_capacity(void);
/* What the agent has granted, for HELLO after a reconnect. Any thread. */
uint64_t gb_t2_held(void);

/* One account of one device's T1. Any thread. */
uint64_t gb_t1_account(CUdevice device, enum gb_account account);
/* Sum of one account over the devices. Any thread. */
uint64_t gb_tier_account(enum gb_tier tier, enum gb_account account);
/* All but what is pooled of a tier, now and at its peak. Any thread. */
uint64_t gb_tier_used(enum gb_tier tier);
uint64_t gb_tier_peak(enum gb_tier tier);

/* Placed ranges: bytes of T1R, T2R and T3; any thread may read with gb_tier_used. */
void gb_tier_add_away(enum gb_tier tier, int64_t bytes);

#define GB_GRANT_TIMEOUT_MS 5000u

#endif
