/* SPDX-License-Identifier: Apache-2.0 */
/*
 * digest.c: the names of blocks by their content: SHA-256, by several threads where one is too slow.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "link.h"

#define THREADS_MAX 16u
#define THREADS_BY_ITSELF 4u

struct work {
  const uint8_t *memory;
  uint64_t block_bytes;
  uint32_t count;
  uint8_t *digests;
  _Atomic uint32_t next;
  _Atomic bool failed;
};

static void *hash_blocks(void *argument) {
  struct work *work = argument;
  for (uint32_t i; (i = work->next++) < work->count;) {
    if (!lane_sha256(work->memory + i * work->block_bytes, work->block_bytes,
                     work->digests + (size_t)i * GB_LANE_DIGEST_BYTES))
      work->failed = true;
  }
  return NULL;
}

static uint32_t threads_of(uint32_t wanted, uint32_t count) {
  long cores = sysconf(_SC_NPROCESSORS_ONLN);
  if (wanted == 0) wanted = cores < 1 ? 1 : cores < (long)THREADS_BY_ITSELF ? (uint32_t)cores : THREADS_BY_ITSELF;
  if (wanted > THREADS_MAX) wanted = THREADS_MAX;
  return wanted < count ? wanted : count;
}

int gb_lane_digest(const void *memory, uint64_t bytes, uint8_t *digest) {
  if ((memory == NULL && bytes > 0) || digest == NULL) return GB_LANE_INVALID;
  return lane_crypt_ready() && lane_sha256(memory, bytes, digest) ? GB_LANE_OK : GB_LANE_NO_CRYPTO;
}

int gb_lane_digests(const void *memory, uint64_t block_bytes, uint32_t count, uint8_t *digests, uint32_t threads) {
  struct work work = {.memory = memory, .block_bytes = block_bytes, .count = count, .digests = digests};
  pthread_t helpers[THREADS_MAX];
  uint32_t started = 0;
  if (count == 0) return GB_LANE_OK;
  if (memory == NULL || digests == NULL || block_bytes == 0) return GB_LANE_INVALID;
  if (!lane_crypt_ready()) return GB_LANE_NO_CRYPTO;
  uint32_t wanted = threads_of(threads, count);
  while (started + 1 < wanted && lane_thread_start(&helpers[started], hash_blocks, &work)) started++;
  hash_blocks(&work);
  for (uint32_t i = 0; i < started; i++) pthread_join(helpers[i], NULL);
  return work.failed ? GB_LANE_NO_CRYPTO : GB_LANE_OK;
}
