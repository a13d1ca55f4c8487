/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme.c: how much of the disk the NVMe tier keeps. The same file is read whole, in turns, by the
 * store (sequential, read ahead, unsealed and proven) and by plain direct reads in the same way (io_uring,
 * or as many threads where that is forbidden), with the same depth and block size into the same kind of
 * memory, as fio does it. Prints one JSON object.
 *
 * usage: nvme DIRECTORY MIB PAIRS
 */
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "core.h"
#include "lock.h"
#include "store_part.h"
#include "store_ring.h"

#define PAIRS_MAX 99u
#define STAGING 4u

uint64_t gb_now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

void gb_sleep_ns(uint64_t nanoseconds) {
  struct timespec pause = {.tv_nsec = (long)nanoseconds};
  nanosleep(&pause, NULL);
}

void gb_log(enum gb_log_level level, const char *format, ...) {
  va_list arguments;
  if (level == GB_LOG_DEBUG) return;
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fputc('\n', stderr);
}

void gb_event(enum gb_log_level level, CUresult error, const char *name, const char *format, ...) {
  va_list arguments;
  (void)level, (void)error;
  fprintf(stderr, "%s: ", name);
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fputc('\n', stderr);
}

static void fail(const char *what, int error) {
  fprintf(stderr, "%s: %s\n", what, strerror(-error));
  exit(1);
}

/* In huge pages, as the store's own: with small ones the same reads take half as long again. */
static unsigned char *memory(size_t bytes) {
  void *mapped =
      mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) fail("memory", -ENOMEM);
  madvise(mapped, bytes, MADV_HUGEPAGE);
  memset(mapped, 1, bytes);
  return mapped;
}

static void fill(unsigned char *bytes, uint32_t slot) {
  uint64_t state = slot + 1;
  for (size_t i = 0; i < GB_STORE_SLOT_BYTES; i += 8) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    memcpy(bytes + i, &state, 8);
  }
}

static double write_all(const uint32_t *slots, uint32_t count, unsigned char *staging) {
  uint64_t took = 0;
  for (uint32_t i = 0; i < count; i++) {
    fill(staging, i);
    uint64_t before = gb_now_ns();
    int error = gb_store_write_begin(slots[i], staging, GB_STORE_SLOT_BYTES);
    if (error != 0) fail("write", error);
    took += gb_now_ns() - before;
  }
  uint64_t before = gb_now_ns();
  for (uint32_t i = 0; i < count; i++) {
    int error = gb_store_write_end(slots[i]);
    if (error != 0) fail("write", error);
  }
  took += gb_now_ns() - before;
  return (double)count * GB_STORE_SLOT_BYTES / (double)took;
}

/* GB/s of the store. */
static double read_store(const uint32_t *slots, uint32_t count, unsigned char *staging) {
  uint64_t before = gb_now_ns();
  uint32_t ahead = 0;
  for (uint32_t i = 0; i < count; i++) {
    for (; ahead < count && ahead < i + GB_STORE_WINDOW; ahead++)
      gb_store_prefetch(slots[ahead], GB_STORE_SLOT_BYTES);
    unsigned char *to = staging + (size_t)(i % STAGING) * GB_STORE_SLOT_BYTES;
    int error = gb_store_read(slots[i], to, GB_STORE_SLOT_BYTES);
    if (error != 0) fail("read", error);
  }
  return (double)count * GB_STORE_SLOT_BYTES / (double)(gb_now_ns() - before);
}

/* The blocks of the slots in their order, as plain reads take them. */
static struct {
  const uint32_t *slots;
  uint32_t total; /* blocks */
  _Atomic uint32_t sent;
  unsigned char *buffers; /* one for each read in flight */
} plain_reads;

static uint64_t block_offset(uint32_t block) {
  uint64_t offset;
  gb_store_block(plain_reads.slots[block / GB_STORE_BLOCKS], block % GB_STORE_BLOCKS, &offset);
  return offset;
}

static void read_with_ring(struct gb_ring *ring) {
  uint32_t done = 0;
  while (done < plain_reads.total) {
    uint64_t user_data;
    int result;
    for (; plain_reads.sent < plain_reads.total && plain_reads.sent - done < GB_STORE_DEPTH;
         plain_reads.sent++) {
      /* A buffer may be read into twice at once: nobody looks at it. */
      size_t at = (size_t)(plain_reads.sent % GB_STORE_DEPTH) * GB_STORE_BLOCK_BYTES;
      gb_ring_push(ring, IORING_OP_READ, gb_store.fd, plain_reads.buffers + at,
                   GB_STORE_BLOCK_BYTES, block_offset(plain_reads.sent), 1);
    }
    int error = gb_ring_submit(ring);
    if (error == 0) error = gb_ring_wait(ring);
    if (error != 0) fail("direct reads", error);
    while (gb_ring_pop(ring, &user_data, &result)) {
      if (result != (int)GB_STORE_BLOCK_BYTES) fail("direct read", result < 0 ? result : -EIO);
      done++;
    }
  }
}

static void *read_blocks(void *buffer) {
  for (;;) {
    uint32_t block = plain_reads.sent++;
    if (block >= plain_reads.total) return NULL;
    ssize_t got = pread(gb_store.fd, buffer, GB_STORE_BLOCK_BYTES, (off_t)block_offset(block));
    if (got != (ssize_t)GB_STORE_BLOCK_BYTES) fail("direct read", got < 0 ? -errno : -EIO);
  }
}

static void read_with_threads(void) {
  pthread_t threads[GB_STORE_THREADS];
  for (uint32_t i = 0; i < GB_STORE_THREADS; i++) {
    unsigned char *buffer = plain_reads.buffers + (size_t)i * GB_STORE_BLOCK_BYTES;
    int error = pthread_create(&threads[i], NULL, read_blocks, buffer);
    if (error != 0) fail("a thread", -error);
  }
  for (uint32_t i = 0; i < GB_STORE_THREADS; i++) pthread_join(threads[i], NULL);
}

/* GB/s of direct reads of the same bytes in the same order, nothing done with them. ring: NULL where
 * there is none. */
static double read_plain(const uint32_t *slots, uint32_t count, unsigned char *buffers,
                         struct gb_ring *ring) {
  plain_reads.slots = slots;
  plain_reads.total = count * GB_STORE_BLOCKS;
  plain_reads.sent = 0;
  plain_reads.buffers = buffers;
  uint64_t before = gb_now_ns();
  if (ring != NULL)
    read_with_ring(ring);
  else
    read_with_threads();
  return (double)count * GB_STORE_SLOT_BYTES / (double)(gb_now_ns() - before);
}

static int by_size(const void *a, const void *b) {
  double x = *(const double *)a;
  double y = *(const double *)b;
  return (x > y) - (x < y);
}

static double median(const double *values, uint32_t count) {
  double sorted[PAIRS_MAX];
  memcpy(sorted, values, count * sizeof *values);
  qsort(sorted, count, sizeof *sorted, by_size);
  return count % 2 == 1 ? sorted[count / 2] : (sorted[count / 2 - 1] + sorted[count / 2]) / 2;
}

static void print_list(const char *name, const double *values, uint32_t count) {
  printf("\"%s\":[", name);
  for (uint32_t i = 0; i < count; i++) printf("%s%.3f", i > 0 ? "," : "", values[i]);
  printf("]");
}

int main(int argc, char **argv) {
  if (argc != 4) {
    fprintf(stderr, "usage: nvme DIRECTORY MIB PAIRS\n");
    return 2;
  }
  uint32_t count = (uint32_t)atoi(argv[2]) / (GB_STORE_SLOT_BYTES >> 20);
  uint32_t pairs = (uint32_t)atoi(argv[3]);
  if (count == 0 || pairs == 0 || pairs > PAIRS_MAX) return 2;
  uint64_t bytes = (uint64_t)(count + 1) * GB_STORE_SLOT_BYTES;
  if (gb_store_open(argv[1], bytes, 1ull << 50) != 0) return 1;
  uint32_t *slots = calloc(count, sizeof *slots);
  unsigned char *staging = memory((size_t)STAGING * GB_STORE_SLOT_BYTES);
  unsigned char *buffers = memory((size_t)GB_STORE_DEPTH * GB_STORE_BLOCK_BYTES);
  double store[PAIRS_MAX];
  double plain[PAIRS_MAX];
  double ratio[PAIRS_MAX];
  struct gb_ring opened;
  struct gb_ring *ring = gb_ring_open(&opened, 2 * GB_STORE_DEPTH) == 0 ? &opened : NULL;
  if (slots == NULL) fail("memory", -ENOMEM);
  for (uint32_t i = 0; i < count; i++) slots[i] = gb_store_take(GB_STORE_SLOT_BYTES);
  double written = write_all(slots, count, staging);
  read_plain(slots, count, buffers, ring);
  read_store(slots, count, staging);
  for (uint32_t i = 0; i < pairs; i++) {
    bool store_first = i % 2 == 0;
    if (store_first) store[i] = read_store(slots, count, staging);
    plain[i] = read_plain(slots, count, buffers, ring);
    if (!store_first) store[i] = read_store(slots, count, staging);
    ratio[i] = store[i] / plain[i];
  }
  printf("{\"how\":\"%s\",", ring != NULL ? "io_uring" : "threads");
  printf("\"mebibytes\":%u,\"pairs\":%u,\"depth\":%u,\"blockBytes\":%u,\"writeGBps\":%.3f,",
         count * (GB_STORE_SLOT_BYTES >> 20), pairs, GB_STORE_DEPTH, GB_STORE_BLOCK_BYTES, written);
  print_list("directGBps", plain, pairs);
  printf(",");
  print_list("storeGBps", store, pairs);
  printf(",\"directMedianGBps\":%.3f,\"storeMedianGBps\":%.3f,\"ratioMedian\":%.3f}\n",
         median(plain, pairs), median(store, pairs), median(ratio, pairs));
  gb_store_close();
  if (ring != NULL) gb_ring_close(ring);
  return 0;
}
