/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache_test.c: the block cache on a real folder, with several caches on it as several executors have.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../check.h"
#include "cache.h"
#include "lane.h"

#define MIB (1ull << 20)
#define ARENA_BLOCKS 64u

static char folder[64];
static uint8_t *arena; /* what the caches copy from */
static const uint8_t key[32] = {1, 2, 3}, other_key[32] = {3, 2, 1};

static bool copy(void *context, uint64_t offset, uint8_t *to, uint64_t bytes) {
  (void)context;
  if (offset + bytes > ARENA_BLOCKS * MIB)
    return false;
  memcpy(to, arena + offset, bytes);
  return true;
}

static uint64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void block_of(uint32_t seed, uint8_t *content) {
  for (size_t at = 0; at < MIB; at++)
    content[at] = (uint8_t)((at * 2654435761u + seed * 40503u) >> 9);
}

static void digest_of(uint32_t seed, uint8_t *digest) {
  uint8_t *content = malloc(MIB);
  block_of(seed, content);
  gb_lane_digest(content, MIB, digest);
  free(content);
}

static void count_block(void *context, unsigned index, const uint8_t *content) {
  uint32_t *seeds = context;
  uint8_t *want = malloc(MIB);
  block_of(seeds[index], want);
  CHECK(memcmp(want, content, MIB) == 0);
  free(want);
  seeds[index] = UINT32_MAX; /* seen */
}

static bool has(struct gbx_block_cache *cache, uint32_t seed) {
  uint8_t digest[GBX_DIGEST_BYTES];
  uint32_t seeds[1] = {seed};
  digest_of(seed, digest);
  gbx_cache_fill(cache, digest, 1, count_block, seeds);
  return seeds[0] == UINT32_MAX;
}

/* Waits until the cache has dealt with so many blocks. */
static void wait_done(struct gbx_block_cache *cache, uint64_t blocks) {
  struct gbx_cache_counters counters;
  for (uint64_t until = now_ms() + 30000; now_ms() < until; usleep(2000)) {
    counters = gbx_cache_count(cache);
    if (counters.stored + counters.different + counters.dropped >= blocks)
      return;
  }
  CHECK(!"the cache is done in time");
}

/* Offers and writes a block at a place of the arena, as a host would. */
static void bring(struct gbx_block_cache *cache, uint64_t offset, uint32_t seed) {
  uint8_t digest[GBX_DIGEST_BYTES];
  digest_of(seed, digest);
  gbx_cache_want(cache, offset, digest);
  block_of(seed, arena + offset);
  gbx_cache_arrived(cache, offset, MIB);
}

static struct gbx_block_cache *open_cache(const uint8_t *secret, uint64_t budget) {
  struct gbx_block_cache *cache = malloc(sizeof(*cache));
  gbx_cache_init(cache, copy, NULL);
  CHECK_EQUAL(gbx_cache_open(cache, folder, secret, budget), 0);
  return cache;
}

static void close_cache(struct gbx_block_cache *cache) {
  gbx_cache_close(cache);
  CHECK_EQUAL(cache->threads, 0);
  free(cache);
}

/* Calls `each` for every block file. returns: how many. */
static unsigned each_file(void (*each)(const char *path)) {
  char path[400];
  unsigned count = 0;
  DIR *opened = opendir(folder);
  for (const struct dirent *entry; (entry = readdir(opened)) != NULL;) {
    if (strlen(entry->d_name) != 64)
      continue;
    count++;
    snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
    if (each)
      each(path);
  }
  closedir(opened);
  return count;
}

static void remove_file(const char *path) {
  CHECK_EQUAL(unlink(path), 0);
}

static void empty_folder(void) {
  char path[400];
  each_file(remove_file);
  snprintf(path, sizeof(path), "%s/.total", folder);
  unlink(path);
}

static uint64_t bytes_on_disk(void) {
  return each_file(NULL) * (MIB + 16);
}

/* ---- what works ---- */

static void what_arrived_is_found_by_everybody(void) {
  struct gbx_block_cache *writer = open_cache(key, 64 * MIB);
  CHECK(!has(writer, 1));
  bring(writer, 0, 1);
  bring(writer, 5 * MIB + 77, 2); /* across two places */
  uint8_t digest[GBX_DIGEST_BYTES];
  digest_of(3, digest);
  gbx_cache_want(writer, 8 * MIB, digest);
  block_of(3, arena + 8 * MIB);
  gbx_cache_arrived(writer, 7 * MIB, MIB + 4096); /* in pieces, with something before and behind */
  gbx_cache_arrived(writer, 8 * MIB + 500000, 2 * MIB);
  CHECK(!has(writer, 3));
  gbx_cache_arrived(writer, 8 * MIB + 4096, 500000 - 4096);
  wait_done(writer, 3);
  CHECK_EQUAL(gbx_cache_count(writer).stored, 3);
  struct gbx_block_cache *reader = open_cache(key, 64 * MIB);
  CHECK(has(reader, 1) && has(reader, 2) && has(reader, 3) && has(writer, 2));
  CHECK_EQUAL(gbx_cache_count(reader).found, 3);
  bring(reader, 0, 1); /* is there: nothing is added */
  wait_done(reader, 1);
  CHECK_EQUAL(each_file(NULL), 3);
  close_cache(writer);
  close_cache(reader);
  empty_folder();
}

static void many_are_looked_for_at_once(void) {
  struct gbx_block_cache *cache = open_cache(key, 64 * MIB);
  uint8_t digests[16 * GBX_DIGEST_BYTES];
  uint32_t seeds[16];
  for (uint32_t index = 0; index < 16; index++) {
    seeds[index] = 100 + index;
    digest_of(seeds[index], digests + index * GBX_DIGEST_BYTES);
    if (index % 3 != 0)
      bring(cache, index * MIB, seeds[index]);
  }
  wait_done(cache, 10);
  gbx_cache_fill(cache, digests, 16, count_block, seeds);
  for (uint32_t index = 0; index < 16; index++)
    CHECK_EQUAL(seeds[index] == UINT32_MAX, index % 3 != 0);
  close_cache(cache);
  empty_folder();
}

static void what_differs_is_not_kept(void) {
  struct gbx_block_cache *cache = open_cache(key, 64 * MIB);
  uint8_t digest[GBX_DIGEST_BYTES];
  digest_of(1, digest);
  gbx_cache_want(cache, 0, digest);
  block_of(2, arena); /* a host that lies */
  gbx_cache_arrived(cache, 0, MIB);
  gbx_cache_want(cache, ARENA_BLOCKS * MIB - 10, digest); /* is gone when it is copied */
  gbx_cache_arrived(cache, ARENA_BLOCKS * MIB - 10, MIB);
  wait_done(cache, 2);
  CHECK_EQUAL(gbx_cache_count(cache).different, 2);
  CHECK_EQUAL(each_file(NULL), 0);
  digest_of(4, digest); /* offered twice: the last one counts */
  gbx_cache_want(cache, 2 * MIB, digest);
  bring(cache, 2 * MIB, 5);
  wait_done(cache, 3);
  CHECK(has(cache, 5) && !has(cache, 4));
  close_cache(cache);
  empty_folder();
}

/* ---- what the disk says, and what it is believed ---- */

static void nothing_can_be_read_from_it(const char *path) {
  uint8_t digest[GBX_DIGEST_BYTES], *bytes = malloc(2 * MIB), *content = malloc(MIB);
  char hex[2 * GBX_DIGEST_BYTES + 1];
  digest_of(1, digest);
  block_of(1, content);
  for (unsigned at = 0; at < GBX_DIGEST_BYTES; at++)
    snprintf(hex + 2 * at, 3, "%02x", digest[at]);
  CHECK(strstr(path, hex) == NULL);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t count = read(fd, bytes, 2 * MIB);
  CHECK_EQUAL(count, MIB + 16);
  CHECK(memmem(bytes, MIB, content, 64) == NULL && memmem(bytes, MIB, digest, sizeof(digest)) == NULL);
  struct stat stat;
  CHECK(fstat(fd, &stat) == 0 && (stat.st_mode & 0777) == 0600);
  close(fd);
  free(bytes);
  free(content);
}

static void the_disk_tells_nothing(void) {
  struct gbx_block_cache *cache = open_cache(key, 64 * MIB);
  bring(cache, 0, 1);
  wait_done(cache, 1);
  CHECK_EQUAL(each_file(nothing_can_be_read_from_it), 1);
  struct gbx_block_cache *stranger = open_cache(other_key, 64 * MIB);
  CHECK(!has(stranger, 1));
  close_cache(stranger);
  CHECK(has(cache, 1));
  close_cache(cache);
  empty_folder();
}

static char first_path[400], second_path[400];

static void note_path(const char *path) {
  strcpy(first_path[0] ? second_path : first_path, path);
}

static void flip_a_bit(const char *path) {
  uint8_t byte;
  int fd = open(path, O_RDWR | O_CLOEXEC);
  CHECK_EQUAL(pread(fd, &byte, 1, 777777), 1);
  byte ^= 4;
  CHECK_EQUAL(pwrite(fd, &byte, 1, 777777), 1);
  close(fd);
}

static void cut(const char *path) {
  CHECK_EQUAL(truncate(path, 4096), 0);
}

static void what_was_changed_is_not_believed(void) {
  struct gbx_block_cache *cache = open_cache(key, 64 * MIB);
  void (*const harms[])(const char *path) = {flip_a_bit, cut};
  for (unsigned index = 0; index < 2; index++) {
    bring(cache, 0, 1);
    wait_done(cache, index + 1);
    CHECK(has(cache, 1));
    each_file(harms[index]);
    CHECK(!has(cache, 1));
    CHECK_EQUAL(each_file(NULL), 0); /* removed */
  }
  bring(cache, 0, 1);
  bring(cache, MIB, 2);
  wait_done(cache, 4);
  each_file(note_path);
  REQUIRE(second_path[0] != '\0');
  char aside[420];
  snprintf(aside, sizeof(aside), "%s-aside", first_path);
  CHECK(rename(first_path, aside) == 0 && rename(second_path, first_path) == 0 && rename(aside, second_path) == 0);
  CHECK(!has(cache, 1) && !has(cache, 2)); /* each under the other's name */
  bring(cache, 0, 1);
  wait_done(cache, 5);
  CHECK(has(cache, 1));
  close_cache(cache);
  empty_folder();
}

static void folders_that_are_not_ours_are_refused(void) {
  struct gbx_block_cache cache;
  gbx_cache_init(&cache, copy, NULL);
  CHECK(chmod(folder, 0750) == 0);
  CHECK_EQUAL(gbx_cache_open(&cache, folder, key, 64 * MIB), EPERM);
  CHECK(chmod(folder, 0700) == 0);
  CHECK_EQUAL(gbx_cache_open(&cache, folder, key, 64 * MIB), EEXIST); /* once only */
  CHECK(!has(&cache, 1));
  gbx_cache_close(&cache);
  gbx_cache_init(&cache, copy, NULL);
  CHECK_EQUAL(gbx_cache_open(&cache, "/nonexistent/folder", key, 64 * MIB), ENOENT);
  gbx_cache_close(&cache);
  gbx_cache_init(&cache, copy, NULL);
  CHECK_EQUAL(gbx_cache_open(&cache, folder, key, MIB), EINVAL); /* too small to be of use */
  bring(&cache, 0, 1);                                           /* nobody is interested */
  CHECK(!has(&cache, 1));
  gbx_cache_close(&cache);
}

/* ---- the budget ---- */

static void the_budget_holds_for_all_together(void) {
  const uint64_t budget = 32 * MIB;
  struct gbx_block_cache *caches[2] = {open_cache(key, budget), open_cache(key, budget)};
  for (uint32_t seed = 0; seed < 60; seed++) {
    bring(caches[seed % 2], (seed % ARENA_BLOCKS) * MIB, 1000 + seed);
    wait_done(caches[seed % 2], seed / 2 + 1);
    CHECK(bytes_on_disk() <= budget);
    if (seed >= 5)
      CHECK(has(caches[0], 1005)); /* in use all the time */
  }
  CHECK(bytes_on_disk() > budget / 2);
  CHECK(!has(caches[0], 1000) && !has(caches[1], 1006) && has(caches[1], 1059) && has(caches[0], 1058));
  close_cache(caches[0]);
  close_cache(caches[1]);
  struct gbx_block_cache *smaller = open_cache(key, 16 * MIB); /* a budget that was made smaller */
  CHECK(bytes_on_disk() <= 16 * MIB);
  CHECK(has(smaller, 1059));
  close_cache(smaller);
  empty_folder();
}

static void others_may_remove_what_they_like(void) {
  struct gbx_block_cache *cache = open_cache(key, 32 * MIB);
  for (uint32_t round = 0; round < ARENA_BLOCKS / 4; round++) {
    for (uint32_t index = 0; index < 4; index++)
      bring(cache, (4 * round + index) * MIB, 2000 + 4 * round + index);
    empty_folder(); /* while they are written */
    has(cache, 2000 + 4 * round);
  }
  wait_done(cache, ARENA_BLOCKS);
  bring(cache, 0, 9);
  wait_done(cache, ARENA_BLOCKS + 1);
  CHECK(has(cache, 9));
  CHECK_EQUAL(gbx_cache_count(cache).dropped, 0);
  close_cache(cache);
  empty_folder();
}

/* ---- disks with troubles ---- */

static void a_full_disk_is_left_alone(void) {
  struct gbx_block_cache *cache = open_cache(key, 32 * MIB);
  struct rlimit before, small = {.rlim_cur = 512 * 1024};
  CHECK_EQUAL(getrlimit(RLIMIT_FSIZE, &before), 0);
  small.rlim_max = before.rlim_max;
  signal(SIGXFSZ, SIG_IGN);
  CHECK_EQUAL(setrlimit(RLIMIT_FSIZE, &small), 0);
  bring(cache, 0, 1);
  wait_done(cache, 1);
  CHECK_EQUAL(setrlimit(RLIMIT_FSIZE, &before), 0);
  CHECK_EQUAL(gbx_cache_count(cache).dropped, 1);
  bring(cache, MIB, 2); /* not wanted for a while */
  CHECK_EQUAL(cache->wanted_count, 0);
  unsigned entries = 0;
  DIR *opened = opendir(folder);
  while (readdir(opened))
    entries++;
  closedir(opened);
  CHECK_EQUAL(entries, 3); /* ".", "..", the total: nothing half written */
  close_cache(cache);
  empty_folder();
}

static void make_it_hang(const char *path) {
  CHECK(unlink(path) == 0 && mkfifo(path, 0600) == 0); /* whose opening waits for a writer that never comes */
}

static void a_disk_that_hangs_holds_nobody(void) {
  struct gbx_block_cache *cache = open_cache(key, 32 * MIB);
  bring(cache, 0, 1);
  bring(cache, MIB, 2);
  wait_done(cache, 2);
  each_file(make_it_hang);
  uint64_t start = now_ms();
  CHECK(!has(cache, 1));
  CHECK(now_ms() - start >= GBX_CACHE_WAIT_MS - 10 && now_ms() - start < GBX_CACHE_WAIT_MS + 500);
  start = now_ms();
  CHECK(!has(cache, 2)); /* is not asked for a while */
  CHECK(now_ms() - start < 100);
  gbx_cache_close(cache);
  CHECK(now_ms() - start < 1500);
  CHECK_EQUAL(cache->threads, 1);
  /* Lets the reader go: its memory is his until then. */
  char path[400] = "";
  DIR *opened = opendir(folder);
  for (const struct dirent *entry; (entry = readdir(opened)) != NULL;) {
    if (strlen(entry->d_name) == 64) {
      snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
      close(open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC));
    }
  }
  closedir(opened);
  for (int turns = 0; turns < 500; turns++) {
    pthread_mutex_lock(&cache->lock);
    bool gone = cache->threads == 0;
    pthread_mutex_unlock(&cache->lock);
    if (gone)
      break;
    usleep(10000);
  }
  close_cache(cache);
  empty_folder();
}

int main(void) {
  strcpy(folder, "/tmp/gb-cache-test-XXXXXX");
  arena = malloc(ARENA_BLOCKS * MIB);
  if (!mkdtemp(folder) || !arena)
    return 2;
  RUN(what_arrived_is_found_by_everybody);
  RUN(many_are_looked_for_at_once);
  RUN(what_differs_is_not_kept);
  RUN(the_disk_tells_nothing);
  RUN(what_was_changed_is_not_believed);
  RUN(folders_that_are_not_ours_are_refused);
  RUN(the_budget_holds_for_all_together);
  RUN(others_may_remove_what_they_like);
  RUN(a_full_disk_is_left_alone);
  RUN(a_disk_that_hangs_holds_nobody);
  empty_folder();
  rmdir(folder);
  free(arena);
  return check_done();
}
