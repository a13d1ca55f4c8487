/* SPDX-License-Identifier: Apache-2.0 */
/* ranges_test.c: the range table against a model that marks every 2 MiB slot of a small arena. */
#include <stdbool.h>
#include <string.h>

#include "../check.h"
#include "ranges.h"

#define SLOTS 24
#define STEPS 40000

struct slot {
  int owner; /* 0: free */
  bool first;
  uint32_t length; /* of the range that begins here, in slots */
  uint32_t kind;
};

static uint64_t seed = 20261121;

static uint32_t below(uint32_t limit) {
  seed = seed * 6364136223846793005ull + 1442695040888963407ull;
  return (uint32_t)(seed >> 33) % limit;
}

static struct gbx_range range_of(uint32_t start, uint32_t length, uint32_t kind) {
  return (struct gbx_range){kind, 0, (uint64_t)start * GBX_RANGE_ALIGN, (uint64_t)length * GBX_RANGE_ALIGN};
}

/* True when [start, start + length) is wholly owned. */
static bool model_covers(const struct slot *slots, uint32_t start, uint32_t length) {
  if (length == 0 || start + length > SLOTS)
    return false;
  for (uint32_t at = start; at < start + length; at++) {
    if (slots[at].owner == 0)
      return false;
  }
  return true;
}

static void step(struct gbx_ranges *ranges, struct slot *slots, int *next_owner) {
  uint32_t start = below(SLOTS), length = 1 + below(6), kind = below(2);
  struct gbx_range range = range_of(start, length, kind);
  struct gbx_entry *entry = NULL;
  bool free = start + length <= SLOTS;
  for (uint32_t at = start; free && at < start + length; at++)
    free = slots[at].owner == 0;
  if (below(2)) {
    enum gbx_status_code code = gbx_ranges_claim(ranges, &range, &entry);
    CHECK_EQUAL(code, free ? GBX_OK : GBX_INVALID);
    if (code != GBX_OK)
      return;
    entry->state = GBX_RANGE_READY;
    for (uint32_t at = start; at < start + length; at++)
      slots[at] = (struct slot){*next_owner, at == start, length, kind};
    ++*next_owner;
    return;
  }
  entry = gbx_ranges_find(ranges, &range);
  bool exact = slots[start].owner && slots[start].first && slots[start].length == length && slots[start].kind == kind;
  CHECK_EQUAL(entry != NULL, exact);
  if (!entry)
    return;
  gbx_ranges_remove(ranges, entry);
  memset(&slots[start], 0, length * sizeof(*slots));
}

static void the_table_is_the_model(void) {
  struct gbx_ranges ranges = {.arena_bytes = SLOTS * GBX_RANGE_ALIGN, .gpu_count = 1};
  struct slot slots[SLOTS];
  memset(slots, 0, sizeof(slots));
  int next_owner = 1;
  for (int count = 0; count < STEPS && check_errors == 0; count++) {
    step(&ranges, slots, &next_owner);
    CHECK(gbx_ranges_is_valid(&ranges));
    uint32_t start = below(SLOTS), length = below(8);
    size_t first = 0, entries = 0;
    uint64_t offset = (uint64_t)start * GBX_RANGE_ALIGN, bytes = (uint64_t)length * GBX_RANGE_ALIGN;
    bool covered = gbx_ranges_cover(&ranges, offset, bytes, &first, &entries) == GBX_OK;
    CHECK_EQUAL(covered, model_covers(slots, start, length));
  }
  while (ranges.count > 0)
    gbx_ranges_remove(&ranges, ranges.entries[0]);
  free(ranges.entries);
}

static void what_is_malformed_is_refused(void) {
  struct gbx_ranges ranges = {.arena_bytes = 64 * GBX_RANGE_ALIGN, .gpu_count = 1};
  const struct gbx_range bad[] = {
      {GBX_DEVICE_RAM, 0, 0, 0},
      {GBX_DEVICE_RAM, 0, 1, GBX_RANGE_ALIGN},
      {GBX_DEVICE_RAM, 0, 0, GBX_RANGE_ALIGN + 512},
      {GBX_DEVICE_RAM, 0, 64 * GBX_RANGE_ALIGN, GBX_RANGE_ALIGN},
      {GBX_DEVICE_RAM, 0, 63 * GBX_RANGE_ALIGN, 2 * GBX_RANGE_ALIGN},
      {GBX_DEVICE_RAM, 0, 0, 65 * GBX_RANGE_ALIGN},
      {GBX_DEVICE_RAM, 0, UINT64_MAX - GBX_RANGE_ALIGN + 1, GBX_RANGE_ALIGN},
      {GBX_DEVICE_RAM, 0, GBX_RANGE_ALIGN, UINT64_MAX - GBX_RANGE_ALIGN + 1},
      {GBX_DEVICE_RAM, 1, 0, GBX_RANGE_ALIGN},
      {GBX_DEVICE_GPU, 1, 0, GBX_RANGE_ALIGN},
      {GBX_DEVICE_GPU, -1, 0, GBX_RANGE_ALIGN},
      {2, 0, 0, GBX_RANGE_ALIGN},
  };
  for (size_t index = 0; index < sizeof(bad) / sizeof(*bad); index++) {
    struct gbx_entry *entry = NULL;
    CHECK_EQUAL(gbx_ranges_claim(&ranges, &bad[index], &entry), GBX_INVALID);
    CHECK(ranges.count == 0 && entry == NULL);
  }
  size_t first = 0, count = 0;
  CHECK_EQUAL(gbx_ranges_cover(&ranges, UINT64_MAX - 1, 4, &first, &count), GBX_INVALID);
  CHECK_EQUAL(gbx_ranges_cover(&ranges, 4, UINT64_MAX - 1, &first, &count), GBX_INVALID);
  free(ranges.entries);
}

static void what_is_not_ready_is_not_found(void) {
  struct gbx_ranges ranges = {.arena_bytes = 8 * GBX_RANGE_ALIGN};
  struct gbx_range range = range_of(2, 2, GBX_DEVICE_RAM);
  struct gbx_entry *entry = NULL, *other = NULL;
  size_t first = 0, count = 0;
  REQUIRE(gbx_ranges_claim(&ranges, &range, &entry) == GBX_OK);
  CHECK(gbx_ranges_find(&ranges, &range) == NULL);
  CHECK_EQUAL(gbx_ranges_claim(&ranges, &range, &other), GBX_INVALID);
  CHECK_EQUAL(gbx_ranges_cover(&ranges, range.offset, 8, &first, &count), GBX_NOT_FOUND);
  CHECK_EQUAL(gbx_ranges_mapped(&ranges, range.offset, 8, &first, &count), GBX_NOT_FOUND);
  entry->state = GBX_RANGE_READY;
  CHECK(gbx_ranges_find(&ranges, &range) == entry);
  CHECK_EQUAL(gbx_ranges_cover(&ranges, range.offset + 5, 8, &first, &count), GBX_OK);
  entry->state = GBX_RANGE_LEAVING;
  CHECK(gbx_ranges_find(&ranges, &range) == NULL);
  CHECK_EQUAL(gbx_ranges_cover(&ranges, range.offset, 8, &first, &count), GBX_NOT_FOUND);
  CHECK_EQUAL(gbx_ranges_mapped(&ranges, range.offset, 8, &first, &count), GBX_OK);
  gbx_ranges_remove(&ranges, entry);
  free(ranges.entries);
}

int main(void) {
  RUN(the_table_is_the_model);
  RUN(what_is_malformed_is_refused);
  RUN(what_is_not_ready_is_not_found);
  return check_done();
}
