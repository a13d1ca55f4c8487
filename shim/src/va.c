/* SPDX-License-Identifier: Apache-2.0 */
/* va.c: the address allocator of one window. */
#include "va.h"

#include <stdlib.h>
#include <string.h>

bool gb_va_create(struct gb_va *va, uint64_t base, uint64_t bytes) {
  memset(va, 0, sizeof *va);
  va->free_capacity = 64;
  va->free_list = malloc(va->free_capacity * sizeof *va->free_list);
  if (va->free_list == NULL) return false;
  va->free_list[0] = (struct gb_va_extent){base, bytes};
  va->free_count = 1;
  return true;
}

void gb_va_destroy(struct gb_va *va) {
  free(va->free_list);
  memset(va, 0, sizeof *va);
}

static void remove_at(struct gb_va *va, size_t index) {
  va->free_count--;
  memmove(&va->free_list[index], &va->free_list[index + 1],
          (va->free_count - index) * sizeof *va->free_list);
}

static bool insert_at(struct gb_va *va, size_t index, struct gb_va_extent extent) {
  if (va->free_count == va->free_capacity) {
    struct gb_va_extent *grown = realloc(va->free_list, 2 * va->free_capacity * sizeof *grown);
    if (grown == NULL) return false;
    va->free_list = grown;
    va->free_capacity *= 2;
  }
  memmove(&va->free_list[index + 1], &va->free_list[index],
          (va->free_count - index) * sizeof *va->free_list);
  va->free_list[index] = extent;
  va->free_count++;
  return true;
}

/* Returns the range to the free list, joined with its neighbours. */
static bool release(struct gb_va *va, struct gb_va_extent extent) {
  size_t low = 0;
  size_t high = va->free_count;
  while (low < high) {
    size_t middle = (low + high) / 2;
    if (va->free_list[middle].address < extent.address)
      low = middle + 1;
    else
      high = middle;
  }
  struct gb_va_extent *before = low > 0 ? &va->free_list[low - 1] : NULL;
  struct gb_va_extent *after = low < va->free_count ? &va->free_list[low] : NULL;
  bool joins_before = before != NULL && before->address + before->bytes == extent.address;
  bool joins_after = after != NULL && extent.address + extent.bytes == after->address;
  if (joins_before) {
    before->bytes += extent.bytes;
    if (joins_after) {
      before->bytes += after->bytes;
      remove_at(va, low);
    }
    return true;
  }
  if (joins_after) {
    after->address = extent.address;
    after->bytes += extent.bytes;
    return true;
  }
  return insert_at(va, low, extent);
}

static bool release_oldest(struct gb_va *va) {
  struct gb_va_extent oldest = va->quarantine[va->quarantine_first];
  va->quarantine_first = (va->quarantine_first + 1) % GB_VA_QUARANTINE_RANGES;
  va->quarantine_count--;
  return release(va, oldest);
}

static uint64_t take_first_fit(struct gb_va *va, uint64_t bytes) {
  for (size_t i = 0; i < va->free_count; i++) {
    struct gb_va_extent *extent = &va->free_list[i];
    if (extent->bytes < bytes) continue;
    uint64_t address = extent->address;
    extent->address += bytes;
    extent->bytes -= bytes;
    if (extent->bytes == 0) remove_at(va, i);
    return address;
  }
  return 0;
}

uint64_t gb_va_take(struct gb_va *va, uint64_t bytes) {
  uint64_t address = take_first_fit(va, bytes);
  if (address != 0 || va->quarantine_count == 0) return address;
  while (va->quarantine_count > 0) release_oldest(va);
  return take_first_fit(va, bytes);
}

bool gb_va_give(struct gb_va *va, uint64_t address, uint64_t bytes) {
  bool kept = true;
  if (va->quarantine_count == GB_VA_QUARANTINE_RANGES) kept = release_oldest(va);
  size_t last = (va->quarantine_first + va->quarantine_count) % GB_VA_QUARANTINE_RANGES;
  va->quarantine[last] = (struct gb_va_extent){address, bytes};
  va->quarantine_count++;
  return kept;
}

bool gb_va_withhold(struct gb_va *va, uint64_t address, uint64_t bytes) {
  size_t i = 0;
  while (i < va->free_count && va->free_list[i].address + va->free_list[i].bytes <= address) i++;
  struct gb_va_extent *extent = &va->free_list[i];
  const struct gb_va_extent after = {address + bytes, extent->address + extent->bytes - address - bytes};
  extent->bytes = address - extent->address;
  if (extent->bytes == 0) remove_at(va, i--);
  return after.bytes == 0 || insert_at(va, i + 1, after);
}

bool gb_va_is_valid(const struct gb_va *va) {
  for (size_t i = 0; i < va->free_count; i++) {
    const struct gb_va_extent *extent = &va->free_list[i];
    if (extent->bytes == 0 || extent->bytes % GB_GRANULE != 0 || extent->address % GB_GRANULE != 0)
      return false;
    if (i > 0 && va->free_list[i - 1].address + va->free_list[i - 1].bytes >= extent->address)
      return false;
  }
  return true;
}
