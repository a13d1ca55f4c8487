/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store.h: what this executor holds: the ranges with the memory behind them, shared by everything that moves bytes.
 *
 * Whoever touches bytes pins the entries they lie in; whoever frees a range marks it as leaving, asks the others to let
 * go, and waits until nobody has it pinned.
 * locks: the store's lock, inside every function; no other lock is taken while it is held.
 */
#ifndef GBX_STORE_H
#define GBX_STORE_H

#include "memory.h"

/* A piece of at most this many bytes touches at most so many entries, which are aligned to GBX_RANGE_ALIGN. */
#define GBX_SPAN_BYTES_MAX (4ull << 20)
#define GBX_SPAN_ENTRIES_MAX 3u
/* How long memory that is freed waits for those who hold it before they are made to let go. */
#define GBX_LET_GO_MS 2000u

/* Part of the arena while somebody works on it. */
struct gbx_span {
  uint64_t offset;
  uint64_t length;
  unsigned count; /* 0: nothing is pinned */
  struct gbx_entry *entries[GBX_SPAN_ENTRIES_MAX];
};

struct gbx_store {
  struct gbx_memory memory;
  pthread_mutex_t lock; /* protects everything below, and the entries of `ranges` except their bytes */
  pthread_cond_t changed; /* an entry is pinned no longer, or gone */
  struct gbx_ranges ranges;
  struct gbx_stat stat;
  /* Asks those who hold bytes of `range` for a while to let go soon; by_force: whatever it costs them. Called without
   * the lock. returns: whether what is not pinned may still touch them. */
  bool (*let_go)(void *context, const struct gbx_range *range, bool by_force);
  void *let_go_context;
};

/* Reserves the arena; as gbx_memory_open. */
struct gbx_result gbx_store_open(struct gbx_store *store, const struct gbx_init *init);

/* Scrubs device memory: unlike RAM, nobody promises that its next owner finds zeroes. It stays mapped until the process
 * ends, for a kernel that may still run. pre: nothing is pinned. */
void gbx_store_close(struct gbx_store *store);

/* Maps zeroed memory; *locked: how many of its bytes are locked. */
struct gbx_result gbx_store_allocate(struct gbx_store *store, struct gbx_streams *streams,
                                     const struct gbx_range *range, uint64_t *locked);

/* Takes back exactly what one allocate mapped, scrubbed. Blocks while it is pinned, GBX_LET_GO_MS and a little. */
struct gbx_result gbx_store_free(struct gbx_store *store, struct gbx_streams *streams, const struct gbx_range *range);

/* Pins what [offset, offset + length) lies in, on any devices. returns: GBX_OK, and span->count > 0;
 * GBX_INVALID; GBX_NOT_FOUND when a byte of it is not allocated. */
enum gbx_status_code gbx_store_pin(struct gbx_store *store, uint64_t offset, uint64_t length, struct gbx_span *span);

/* Lets go of what is pinned, if anything is, and counts bytes that were moved. */
void gbx_store_unpin(struct gbx_store *store, struct gbx_span *span, uint64_t read_bytes, uint64_t write_bytes);

/* True when the span lies in `entry`'s range, in part at least. */
bool gbx_span_touches(const struct gbx_span *span, const struct gbx_range *range);

/* The address of the span's bytes when they are RAM in one piece; NULL: they need a buffer. pre: pinned. */
void *gbx_span_direct(const struct gbx_span *span);

/* Starts copies between the span and `host`; ended by gbx_memory_wait. pre: pinned. */
struct gbx_result gbx_span_copy(struct gbx_store *store, const struct gbx_span *span, struct gbx_streams *streams,
                                void *host, bool to_host);

/* Whether kernels of GPU 0 reach [offset, offset + length) now. Nothing is pinned: who frees a range asks all who may
 * touch it by let_go. *leaving: a part of it is being freed. returns: as gbx_store_pin. */
enum gbx_status_code gbx_store_reach(struct gbx_store *store, uint64_t offset, uint64_t length, bool *leaving);

/* Account of this moment. */
struct gbx_stat gbx_store_stat(struct gbx_store *store);

#endif
