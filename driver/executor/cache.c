/* SPDX-License-Identifier: Apache-2.0 */
/* cache.c: see cache.h. */
#define _GNU_SOURCE
#include "cache.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "lane.h"

#define PLACES 4096u
/* A little behind programs; not more, since others wait for what it holds for moments. */
#define NICE 5
#define IOPRIO_WHO_PROCESS 1
#define IOPRIO_IDLE (3 << 13)
#define CLOSE_MS 500

struct gbx_wanted {
  struct gbx_wanted *next;           /* at its place, or ready */
  struct gbx_wanted *older, *newer; /* while it is wanted */
  uint64_t offset;
  uint64_t arrived; /* bytes; whoever writes twice is found out by the digest */
  uint8_t digest[GBX_DIGEST_BYTES];
  uint8_t *content; /* of a block that is not of the arena; else NULL */
};

/* A look at the disk. Owned by who waits for it until he gives up, then by its reader. */
struct gbx_read {
  struct gbx_read *next;
  uint8_t digest[GBX_DIGEST_BYTES];
  bool ended, found, abandoned;
  uint8_t *memory; /* content, scratch */
};

static uint64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static struct timespec at_ms(uint64_t ms) {
  return (struct timespec){(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};
}

/* locks: held in every helper below. */

static bool is_usable(const struct gbx_block_cache *cache, uint64_t from_ms) {
  return cache->state == GBX_CACHE_READY && !cache->closing && now_ms() >= from_ms;
}

static void thread_ends(struct gbx_block_cache *cache) {
  cache->threads--;
  pthread_cond_broadcast(&cache->told);
  pthread_mutex_unlock(&cache->lock);
}

static bool start_thread(struct gbx_block_cache *cache, void *(*life)(void *)) {
  pthread_t thread;
  pthread_attr_t detached;
  pthread_attr_init(&detached);
  pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
  bool started = pthread_create(&thread, &detached, life, cache) == 0;
  pthread_attr_destroy(&detached);
  cache->threads += started;
  return started;
}

/* ---- what is wanted ---- */

static struct gbx_wanted **place_of(const struct gbx_block_cache *cache, uint64_t cell) {
  return &cache->places[(cell * 0x9e3779b97f4a7c15ull) >> 52];
}
_Static_assert(PLACES == 1u << (64 - 52), "places");

static void take_out(struct gbx_block_cache *cache, struct gbx_wanted *wanted) {
  struct gbx_wanted **at = place_of(cache, wanted->offset / GBX_BLOCK_BYTES);
  while (*at != wanted)
    at = &(*at)->next;
  *at = wanted->next;
  *(wanted->older ? &wanted->older->newer : &cache->oldest) = wanted->newer;
  *(wanted->newer ? &wanted->newer->older : &cache->newest) = wanted->older;
  wanted->next = wanted->older = wanted->newer = NULL;
  cache->wanted_count--;
}

static void drop(struct gbx_block_cache *cache, struct gbx_wanted *wanted) {
  take_out(cache, wanted);
  free(wanted);
}

/* The one that begins in this block of the arena, or NULL. */
static struct gbx_wanted *wanted_in(const struct gbx_block_cache *cache, uint64_t cell) {
  struct gbx_wanted *wanted = *place_of(cache, cell);
  while (wanted && wanted->offset / GBX_BLOCK_BYTES != cell)
    wanted = wanted->next;
  return wanted;
}

void gbx_cache_want(struct gbx_block_cache *cache, uint64_t offset, const uint8_t *digest) {
  pthread_mutex_lock(&cache->lock);
  if (is_usable(cache, cache->write_from_ms)) {
    struct gbx_wanted *before = wanted_in(cache, offset / GBX_BLOCK_BYTES);
    if (before)
      drop(cache, before);
    if (cache->wanted_count == GBX_CACHE_WANTED_MAX) {
      drop(cache, cache->oldest);
      cache->counters.dropped++;
    }
    struct gbx_wanted *wanted = calloc(1, sizeof(*wanted));
    if (wanted) {
      wanted->offset = offset;
      memcpy(wanted->digest, digest, sizeof(wanted->digest));
      struct gbx_wanted **at = place_of(cache, offset / GBX_BLOCK_BYTES);
      wanted->next = *at;
      *at = wanted;
      wanted->older = cache->newest;
      *(cache->newest ? &cache->newest->newer : &cache->oldest) = wanted;
      cache->newest = wanted;
      cache->wanted_count++;
    }
  }
  pthread_mutex_unlock(&cache->lock);
}

/* Hands a block to the writer. */
static void make_ready(struct gbx_block_cache *cache, struct gbx_wanted *wanted) {
  *(cache->ready_last ? &cache->ready_last->next : &cache->ready) = wanted;
  cache->ready_last = wanted;
  cache->ready_count++;
  cache->kept_count += wanted->content != NULL;
  pthread_cond_broadcast(&cache->wake);
}

/* What the writer is to take next, or NULL. */
static struct gbx_wanted *take_ready(struct gbx_block_cache *cache) {
  struct gbx_wanted *wanted = cache->ready;
  if (!wanted)
    return NULL;
  cache->ready = wanted->next;
  if (!cache->ready)
    cache->ready_last = NULL;
  cache->ready_count--;
  cache->kept_count -= wanted->content != NULL;
  return wanted;
}

static void free_ready(struct gbx_wanted *wanted) {
  free(wanted->content);
  free(wanted);
}

void gbx_cache_arrived(struct gbx_block_cache *cache, uint64_t offset, uint64_t bytes) {
  uint64_t end = offset + bytes, first = offset / GBX_BLOCK_BYTES;
  pthread_mutex_lock(&cache->lock);
  /* A block begins in one cell and may end in the next. */
  for (uint64_t cell = first > 0 ? first - 1 : 0; cache->wanted_count > 0 && cell * GBX_BLOCK_BYTES < end; cell++) {
    struct gbx_wanted *wanted = wanted_in(cache, cell);
    if (!wanted || wanted->offset >= end || wanted->offset + GBX_BLOCK_BYTES <= offset)
      continue;
    uint64_t from = wanted->offset > offset ? wanted->offset : offset;
    uint64_t to = wanted->offset + GBX_BLOCK_BYTES < end ? wanted->offset + GBX_BLOCK_BYTES : end;
    wanted->arrived += to - from;
    if (wanted->arrived < GBX_BLOCK_BYTES)
      continue;
    if (cache->ready_count == GBX_CACHE_READY_MAX) {
      cache->counters.dropped++;
      drop(cache, wanted);
    } else {
      take_out(cache, wanted);
      make_ready(cache, wanted);
    }
  }
  pthread_mutex_unlock(&cache->lock);
}

void gbx_cache_keep(struct gbx_block_cache *cache, const uint8_t *digest, const uint8_t *content) {
  pthread_mutex_lock(&cache->lock);
  bool room = cache->ready_count < GBX_CACHE_READY_MAX && cache->kept_count < GBX_CACHE_KEPT_MAX;
  if (is_usable(cache, cache->write_from_ms)) {
    struct gbx_wanted *wanted = room ? calloc(1, sizeof(*wanted)) : NULL;
    if (wanted && (wanted->content = malloc(GBX_BLOCK_BYTES)) != NULL) {
      memcpy(wanted->digest, digest, sizeof(wanted->digest));
      memcpy(wanted->content, content, GBX_BLOCK_BYTES);
      make_ready(cache, wanted);
    } else {
      cache->counters.dropped++;
      free(wanted);
    }
  }
  pthread_mutex_unlock(&cache->lock);
}

/* ---- the writer ---- */

/* Copies a block, looks whether it is what was offered, and keeps it. locks: neither. */
static void keep(struct gbx_block_cache *cache, const struct gbx_wanted *wanted, uint8_t *memory) {
  uint8_t digest[GBX_DIGEST_BYTES];
  bool copied = true;
  if (wanted->content)
    memcpy(memory, wanted->content, GBX_BLOCK_BYTES);
  else
    copied = cache->copy(cache->context, wanted->offset, memory, GBX_BLOCK_BYTES);
  pthread_mutex_lock(&cache->lock);
  cache->copying = false;
  pthread_cond_broadcast(&cache->told);
  pthread_mutex_unlock(&cache->lock);
  bool equal = copied && gb_lane_digest(memory, GBX_BLOCK_BYTES, digest) == GB_LANE_OK &&
               memcmp(digest, wanted->digest, sizeof(digest)) == 0;
  int error = equal ? gbx_disk_put(&cache->disk, digest, memory, memory + GBX_BLOCK_BYTES) : 0;
  pthread_mutex_lock(&cache->lock);
  cache->counters.stored += equal && error == 0;
  cache->counters.different += !equal;
  cache->counters.dropped += error != 0;
  if (error != 0)
    cache->write_from_ms = now_ms() + GBX_CACHE_PAUSE_MS;
  pthread_mutex_unlock(&cache->lock);
}

/* Opens the disk. returns: whether there is a cache. locks: held at the call and at the return. */
static bool open_disk(struct gbx_block_cache *cache) {
  pthread_mutex_unlock(&cache->lock);
  int error = gbx_disk_open(&cache->disk, cache->path, cache->key, cache->budget_bytes);
  pthread_mutex_lock(&cache->lock);
  explicit_bzero(cache->key, sizeof(cache->key));
  cache->error = error;
  cache->state = error == 0 ? GBX_CACHE_READY : GBX_CACHE_FAILED;
  pthread_cond_broadcast(&cache->told);
  return error == 0;
}

static void *writer_life(void *argument) {
  struct gbx_block_cache *cache = argument;
  setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), NICE);
  syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_IDLE);
  uint8_t *memory = malloc(GBX_BLOCK_BYTES + GBX_DISK_SCRATCH_BYTES);
  pthread_mutex_lock(&cache->lock);
  bool opened = memory != NULL && open_disk(cache);
  if (!memory) {
    cache->state = GBX_CACHE_FAILED;
    cache->error = ENOMEM;
  }
  while (opened && !cache->closing) {
    struct gbx_wanted *wanted = take_ready(cache);
    if (!wanted) {
      pthread_cond_wait(&cache->wake, &cache->lock);
      continue;
    }
    bool usable = is_usable(cache, cache->write_from_ms);
    cache->copying = usable;
    cache->counters.dropped += !usable;
    pthread_mutex_unlock(&cache->lock);
    if (usable)
      keep(cache, wanted, memory);
    free_ready(wanted);
    pthread_mutex_lock(&cache->lock);
  }
  free(memory);
  thread_ends(cache);
  return NULL;
}

/* ---- the readers ---- */

static void free_read(struct gbx_block_cache *cache, struct gbx_read *read) {
  cache->read_count--;
  free(read->memory);
  free(read);
}

static void *reader_life(void *argument) {
  struct gbx_block_cache *cache = argument;
  pthread_mutex_lock(&cache->lock);
  for (;;) {
    struct gbx_read *read = cache->reads;
    if (!read && cache->closing)
      break;
    if (!read) {
      pthread_cond_wait(&cache->wake, &cache->lock);
      continue;
    }
    cache->reads = read->next;
    if (!cache->reads)
      cache->reads_last = NULL;
    bool look = !read->abandoned;
    pthread_mutex_unlock(&cache->lock);
    bool found = look && gbx_disk_get(&cache->disk, read->digest, read->memory, read->memory + GBX_BLOCK_BYTES);
    pthread_mutex_lock(&cache->lock);
    read->ended = true;
    read->found = found;
    if (read->abandoned)
      free_read(cache, read);
    else
      pthread_cond_broadcast(&cache->told);
  }
  thread_ends(cache);
  return NULL;
}

/* Queues a look for a block. NULL: too many, or no memory. */
static struct gbx_read *begin_read(struct gbx_block_cache *cache, const uint8_t *digest) {
  if (cache->read_count == GBX_CACHE_READS_MAX)
    return NULL;
  if (cache->readers < GBX_CACHE_READERS && cache->readers <= cache->read_count)
    cache->readers += start_thread(cache, reader_life);
  struct gbx_read *read = cache->readers > 0 ? calloc(1, sizeof(*read)) : NULL;
  if (!read)
    return NULL;
  read->memory = malloc(GBX_BLOCK_BYTES + GBX_DISK_SCRATCH_BYTES);
  if (!read->memory) {
    free(read);
    return NULL;
  }
  memcpy(read->digest, digest, sizeof(read->digest));
  *(cache->reads_last ? &cache->reads_last->next : &cache->reads) = read;
  cache->reads_last = read;
  cache->read_count++;
  cache->counters.looked_for++;
  pthread_cond_broadcast(&cache->wake);
  return read;
}

void gbx_cache_fill(struct gbx_block_cache *cache, const uint8_t *digests, unsigned count,
                    void (*take)(void *context, unsigned index, const uint8_t *content), void *context) {
  struct gbx_read *reads[GBX_CACHE_READS_MAX] = {0};
  struct timespec until = at_ms(now_ms() + GBX_CACHE_WAIT_MS);
  int waited = 0;
  pthread_mutex_lock(&cache->lock);
  if (count > GBX_CACHE_READS_MAX)
    count = GBX_CACHE_READS_MAX;
  for (unsigned index = 0; index < count && is_usable(cache, cache->read_from_ms); index++)
    reads[index] = begin_read(cache, digests + (size_t)index * GBX_DIGEST_BYTES);
  for (unsigned index = 0; index < count; index++) {
    struct gbx_read *read = reads[index];
    while (read && !read->ended && waited != ETIMEDOUT && !cache->closing)
      waited = pthread_cond_timedwait(&cache->told, &cache->lock, &until);
    if (read && read->ended) {
      if (read->found) {
        cache->counters.found++;
        pthread_mutex_unlock(&cache->lock);
        take(context, index, read->memory);
        pthread_mutex_lock(&cache->lock);
      }
      free_read(cache, read);
    } else if (read) {
      read->abandoned = true; /* its reader frees it */
      cache->read_from_ms = now_ms() + GBX_CACHE_PAUSE_MS;
    }
  }
  pthread_mutex_unlock(&cache->lock);
}

/* ---- beginning and end ---- */

void gbx_cache_init(struct gbx_block_cache *cache,
                    bool (*copy)(void *context, uint64_t offset, uint8_t *to, uint64_t bytes), void *context) {
  *cache = (struct gbx_block_cache){.copy = copy, .context = context, .disk = {.folder = -1}};
  pthread_condattr_t monotonic;
  pthread_condattr_init(&monotonic);
  pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
  pthread_cond_init(&cache->wake, &monotonic);
  pthread_cond_init(&cache->told, &monotonic);
  pthread_condattr_destroy(&monotonic);
  pthread_mutex_init(&cache->lock, NULL);
}

int gbx_cache_open(struct gbx_block_cache *cache, const char *path, const uint8_t *key, uint64_t budget_bytes) {
  struct timespec until = at_ms(now_ms() + GBX_CACHE_WAIT_MS);
  int waited = 0, error = 0;
  if (strnlen(path, sizeof(cache->path)) == sizeof(cache->path))
    return ENAMETOOLONG;
  pthread_mutex_lock(&cache->lock);
  if (cache->state != GBX_CACHE_OFF || cache->closing)
    error = EEXIST;
  else if (!(cache->places = calloc(PLACES, sizeof(*cache->places))))
    error = ENOMEM;
  if (error == 0) {
    strcpy(cache->path, path);
    memcpy(cache->key, key, sizeof(cache->key));
    cache->budget_bytes = budget_bytes;
    cache->state = GBX_CACHE_OPENING;
    if (!start_thread(cache, writer_life)) {
      cache->state = GBX_CACHE_FAILED;
      cache->error = EAGAIN;
    }
    while (cache->state == GBX_CACHE_OPENING && waited != ETIMEDOUT)
      waited = pthread_cond_timedwait(&cache->told, &cache->lock, &until);
    error = cache->state == GBX_CACHE_FAILED ? cache->error : 0;
  }
  pthread_mutex_unlock(&cache->lock);
  return error;
}

struct gbx_cache_counters gbx_cache_count(struct gbx_block_cache *cache) {
  pthread_mutex_lock(&cache->lock);
  struct gbx_cache_counters counters = cache->counters;
  pthread_mutex_unlock(&cache->lock);
  return counters;
}

void gbx_cache_close(struct gbx_block_cache *cache) {
  struct timespec until = at_ms(now_ms() + CLOSE_MS);
  int waited = 0;
  pthread_mutex_lock(&cache->lock);
  cache->closing = true;
  pthread_cond_broadcast(&cache->wake);
  pthread_cond_broadcast(&cache->told);
  while (cache->copying)
    pthread_cond_wait(&cache->told, &cache->lock);
  while (cache->threads > 0 && waited != ETIMEDOUT)
    waited = pthread_cond_timedwait(&cache->told, &cache->lock, &until);
  if (cache->threads == 0) {
    while (cache->oldest)
      drop(cache, cache->oldest);
    struct gbx_wanted *ready;
    while ((ready = take_ready(cache)) != NULL)
      free_ready(ready);
    free(cache->places);
    cache->places = NULL;
    cache->state = GBX_CACHE_OFF;
    gbx_disk_close(&cache->disk);
  }
  pthread_mutex_unlock(&cache->lock);
}
