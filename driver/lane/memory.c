/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory.c: memory for a region whose owner has none of his own: what links are measured with.
 */
#include <sys/mman.h>

#include "lane.h"

void *gb_lane_memory(uint64_t bytes) {
  if (bytes == 0 || bytes > SIZE_MAX) return NULL;
  uint64_t *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return NULL;
  madvise(memory, bytes, MADV_HUGEPAGE);
  /* Touched, or reads of it would all be of the one zero page. */
  for (uint64_t i = 0; i < bytes / sizeof *memory; i++) memory[i] = (i + 1) * 0x9E3779B97F4A7C15ull;
  return memory;
}

void gb_lane_memory_free(void *memory, uint64_t bytes) {
  if (memory != NULL) munmap(memory, bytes);
}
