/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache.h: content that hosts sent before, found again by its SHA-256 (docs/adr/0012). Nobody waits for the disk longer
 * than GBX_CACHE_WAIT_MS: a disk that is slower is not asked for a while.
 *
 *   a block:  offered, not here (want) --arrived whole--> ready --hashed, equal--> on the disk
 *             forgotten when something else is wanted at its place, as the oldest of too many, and on any trouble
 *
 * locks: the cache's lock, which is held over neither disk nor copies.
 */
#ifndef GBX_CACHE_H
#define GBX_CACHE_H

#include <pthread.h>

#include "cache_disk.h"

#define GBX_CACHE_READERS 4u
/* Blocks that are looked for at once. */
#define GBX_CACHE_READS_MAX 64u
#define GBX_CACHE_WAIT_MS 1000u
/* How long it is not asked after it was too slow, and not written to after it was full or broken. */
#define GBX_CACHE_PAUSE_MS 10000u
/* Wanted and not arrived; the oldest makes room. 16 GiB of blocks. */
#define GBX_CACHE_WANTED_MAX 16384u
/* Blocks that were handed over, with their content, and are not on the disk; more are not added. */
#define GBX_CACHE_KEPT_MAX 128u
/* Arrived and not on the disk; more are not added. */
#define GBX_CACHE_READY_MAX 16384u

struct gbx_cache_counters {
  uint64_t looked_for;
  uint64_t found;
  uint64_t stored;
  uint64_t different; /* arrived otherwise than offered, or changed meanwhile */
  uint64_t dropped;   /* too many, or the disk had trouble */
};

struct gbx_wanted;
struct gbx_read;

struct gbx_block_cache {
  /* Copies bytes of the arena; false: they are not there any more. Called by the cache's own thread. */
  bool (*copy)(void *context, uint64_t offset, uint8_t *to, uint64_t bytes);
  void *context;
  pthread_mutex_t lock; /* protects everything below but `disk`, which is read only once `state` says ready */
  pthread_cond_t wake;  /* the writer, the readers */
  pthread_cond_t told;  /* a read has ended, `state` has changed, a thread has ended */
  enum { GBX_CACHE_OFF, GBX_CACHE_OPENING, GBX_CACHE_READY, GBX_CACHE_FAILED } state;
  int error; /* errno of GBX_CACHE_FAILED */
  char path[256];
  uint64_t budget_bytes;
  uint8_t key[32];
  struct gbx_disk disk;
  bool closing, copying;
  unsigned threads; /* alive */
  unsigned readers;
  uint64_t read_from_ms, write_from_ms; /* monotonic: not before */
  struct gbx_cache_counters counters;
  struct gbx_wanted **places; /* by GBX_BLOCK_BYTES of the arena, hashed */
  struct gbx_wanted *oldest, *newest;
  unsigned wanted_count;
  struct gbx_wanted *ready, *ready_last;
  unsigned ready_count;
  unsigned kept_count; /* of them, with their content */
  struct gbx_read *reads; /* that no reader has taken */
  struct gbx_read *reads_last;
  unsigned read_count; /* not freed */
};

/* Makes a cache that finds nothing. */
void gbx_cache_init(struct gbx_block_cache *cache,
                    bool (*copy)(void *context, uint64_t offset, uint8_t *to, uint64_t bytes), void *context);

/* Opens its folder, in the background when that takes long. At most once. returns: 0, or errno if it is known at once:
 * EEXIST a second time, EPERM a folder that others may enter. */
int gbx_cache_open(struct gbx_block_cache *cache, const char *path, const uint8_t *key, uint64_t budget_bytes);

/* Looks for `count` blocks of GBX_BLOCK_BYTES by their digests and hands those that are there to `take`, in any order,
 * in the calling thread. `content` is the cache's and gone after the call. */
void gbx_cache_fill(struct gbx_block_cache *cache, const uint8_t *digests, unsigned count,
                    void (*take)(void *context, unsigned index, const uint8_t *content), void *context);

/* A block with this digest will be written at `offset` of the arena. */
void gbx_cache_want(struct gbx_block_cache *cache, uint64_t offset, const uint8_t *digest);

/* Bytes have been written: blocks that are whole now are hashed and kept, in the background. */
void gbx_cache_arrived(struct gbx_block_cache *cache, uint64_t offset, uint64_t bytes);

/* Keeps a block that is not of the arena; `content` has this digest, and is copied. In the background. */
void gbx_cache_keep(struct gbx_block_cache *cache, const uint8_t *digest, const uint8_t *content);

struct gbx_cache_counters gbx_cache_count(struct gbx_block_cache *cache);

/* After the return `copy` is not called. Threads that a disk does not answer are left behind: the process ends soon. */
void gbx_cache_close(struct gbx_block_cache *cache);

#endif
