/* SPDX-License-Identifier: Apache-2.0 */
/* plain.c: a sorted table of whole allocations outside the arena. */
#include "plain.h"

#include <stdlib.h>
#include <string.h>

#include "lock.h"
#include "tier.h"

#define COUNT_UNIT (64ull << 10) /* pinned and device memory come in pages of this size at most */

_Atomic uint32_t gb_plain_count;

static struct gb_plain *table; /* sorted by address; written under gb_lock and gb_index_lock */
static uint32_t capacity;

/* Index of the first record above the address. pre: gb_lock or gb_index_lock. */
static uint32_t above(uint64_t address) {
  uint32_t low = 0;
  uint32_t high = gb_plain_count;
  while (low < high) {
    uint32_t middle = (low + high) / 2;
    if (table[middle].address <= address)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

static bool enter(const struct gb_plain *record) {
  uint32_t count = gb_plain_count;
  if (count == GB_PLAIN_MAX) return false;
  pthread_rwlock_wrlock(&gb_index_lock);
  if (count == capacity) {
    uint32_t wanted = capacity == 0 ? 64 : 2 * capacity;
    struct gb_plain *grown = realloc(table, wanted * sizeof *grown);
    if (grown != NULL) {
      table = grown;
      capacity = wanted;
    }
  }
  bool fits = count < capacity;
  if (fits) {
    uint32_t at = above(record->address);
    memmove(&table[at + 1], &table[at], (count - at) * sizeof *table);
    table[at] = *record;
    gb_plain_count = count + 1;
  }
  pthread_rwlock_unlock(&gb_index_lock);
  return fits;
}

static void leave(uint32_t at) {
  pthread_rwlock_wrlock(&gb_index_lock);
  memmove(&table[at], &table[at + 1], (gb_plain_count - at - 1) * sizeof *table);
  gb_plain_count--;
  pthread_rwlock_unlock(&gb_index_lock);
}

static CUresult take_host(struct gb_plain *record) {
  CUdeviceptr address = 0;
  if (!gb_t2_acquire(record->counted_bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
  unsigned flags = CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP;
  CUresult result = gb_real.cuMemHostAlloc(&record->host, record->bytes, flags);
  if (result == CUDA_SUCCESS) {
    result = gb_real.cuMemHostGetDevicePointer_v2(&address, record->host, 0);
    if (result != CUDA_SUCCESS) gb_real.cuMemFreeHost(record->host);
  }
  if (result != CUDA_SUCCESS) gb_t2_return();
  record->address = address;
  return result;
}

static CUresult take_device(struct gb_plain *record) {
  CUdeviceptr address = 0;
  if (gb_t1_room(record->device) < record->counted_bytes) return CUDA_ERROR_OUT_OF_MEMORY;
  CUresult result = gb_real.cuMemAlloc_v2(&address, record->bytes);
  record->address = address;
  return result;
}

static CUresult give(const struct gb_plain *record) {
  enum gb_tier tier = record->host != NULL ? GB_TIER_T2 : GB_TIER_T1;
  CUresult result = record->host != NULL ? gb_real.cuMemFreeHost(record->host)
                                         : gb_real.cuMemFree_v2(record->address);
  if (result != CUDA_SUCCESS) return result;
  gb_tier_add(tier, record->device, GB_ACCOUNT_PLAIN, -(int64_t)record->counted_bytes);
  if (tier == GB_TIER_T2) gb_t2_return();
  return CUDA_SUCCESS;
}

CUresult gb_plain_take(enum gb_tier tier, CUcontext context, CUdevice device, uint64_t bytes,
                       uint64_t *address) {
  struct gb_plain record = {
      .bytes = bytes, .context = context, .device = device, .buffer_id = gb_buffer_id()};
  record.counted_bytes = (bytes + COUNT_UNIT - 1) & ~(COUNT_UNIT - 1);
  CUresult result = tier == GB_TIER_T2 ? take_host(&record) : take_device(&record);
  if (result != CUDA_SUCCESS) return result;
  gb_tier_add(tier, device, GB_ACCOUNT_PLAIN, (int64_t)record.counted_bytes);
  if (!enter(&record)) {
    give(&record);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  *address = record.address;
  return CUDA_SUCCESS;
}

CUresult gb_plain_give(uint64_t address) {
  uint32_t at = above(address);
  if (at == 0 || table[at - 1].address != address) return CUDA_ERROR_INVALID_VALUE;
  CUresult result = give(&table[at - 1]);
  if (result == CUDA_SUCCESS) leave(at - 1);
  return result;
}

bool gb_plain_read(uint64_t address, struct gb_plain *out) {
  pthread_rwlock_rdlock(&gb_index_lock);
  uint32_t at = above(address);
  bool found = at > 0 && address - table[at - 1].address < table[at - 1].bytes;
  if (found) *out = table[at - 1];
  pthread_rwlock_unlock(&gb_index_lock);
  return found;
}

bool gb_plain_find(CUdeviceptr pointer) {
  struct gb_plain record;
  return gb_plain_read(pointer, &record);
}

void gb_plain_context_going(CUcontext context, uint64_t *count, uint64_t *bytes) {
  for (uint32_t i = gb_plain_count; i-- > 0;) {
    uint64_t requested = table[i].bytes;
    if (table[i].context != context || give(&table[i]) != CUDA_SUCCESS) continue;
    leave(i);
    *count += 1;
    *bytes += requested;
  }
}
