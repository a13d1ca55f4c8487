/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lock.h: every lock of the core, in the order in which they may be taken.
 *
 *   a graph's own lock (graph.h), held over its launch.
 *   gb_lock            allocations, tiers, chunks, contexts, moves: everything that changes what is
 * where. Held over driver calls and over a move; never over a wait for the application. the gate
 * closed and opened by the holder of gb_lock only; launches and copies hold it shared.
 *   gb_stage_lock      the chunks of spans (which tier, which handle) and the learned order: written
 * under gb_lock and this one, read under either; held for moments only.
 *   gb_capture_lock    held for moments: around calls that end live captures, after a look that none
 * is; and while a capture is counted, before the driver knows of it.
 *   gb_index_lock      the lookup from address to span: written under gb_lock, for moments; read by
 * anybody. client lock        the table of outstanding requests and the socket. counter lock the
 * list of the threads' counters. log lock           one line at a time.
 *
 * The client's thread never takes gb_lock: whoever holds it may be waiting for that thread's reply.
 */
#ifndef GB_LOCK_H
#define GB_LOCK_H

#include <pthread.h>
#include <stdint.h>

extern pthread_mutex_t gb_lock;
extern pthread_mutex_t gb_stage_lock;
extern pthread_mutex_t gb_capture_lock;
extern pthread_rwlock_t gb_index_lock;

/* Monotonic time. */
uint64_t gb_now_ns(void);
void gb_sleep_ns(uint64_t nanoseconds);

#define GB_MS 1000000ull
#define GB_MIB (1ull << 20)

#endif
