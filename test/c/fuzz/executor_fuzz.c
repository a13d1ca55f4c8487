/* SPDX-License-Identifier: Apache-2.0 */
/*
 * executor_fuzz.c: the executor's frame parser on any bytes, in pieces of any size, and its range table on whatever
 * requests come out. Checks: nothing is read beyond the input, pieces do not matter, the table keeps its invariant.
 */
#include <stdlib.h>
#include <string.h>

#include "frame.h"
#include "ranges.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition) {
  if (!condition)
    abort();
}

static void apply(struct gbx_ranges *ranges, const struct gbx_request *request) {
  struct gbx_entry *entry = NULL;
  size_t first = 0, count = 0;
  size_t before = ranges->count;
  if (!request->valid)
    return;
  if (request->type == GBX_MSG_ALLOCATE) {
    if (gbx_ranges_claim(ranges, &request->payload.range, &entry) == GBX_OK)
      entry->state = GBX_RANGE_READY;
    else
      require(ranges->count == before);
  } else if (request->type == GBX_MSG_FREE) {
    entry = gbx_ranges_find(ranges, &request->payload.range);
    if (entry)
      gbx_ranges_remove(ranges, entry);
  } else if (request->type == GBX_MSG_PULL) {
    const struct gbx_pull *pull = &request->payload.pull;
    if (gbx_ranges_cover(ranges, pull->offset, pull->length, &first, &count) == GBX_OK) {
      const struct gbx_range *last = &ranges->entries[first + count - 1]->range;
      require(ranges->entries[first]->range.offset <= pull->offset);
      require(last->offset + last->length >= pull->offset + pull->length);
    }
  }
  require(gbx_ranges_is_valid(ranges));
}

/* Parses a copy of exactly `length` bytes, so that the sanitizer sees every byte too many. */
static enum gbx_parse_result parse_copy(const uint8_t *data, size_t length, struct gbx_request *request, size_t *used) {
  uint8_t *copy = malloc(length ? length : 1);
  require(copy != NULL);
  memcpy(copy, data, length);
  enum gbx_parse_result result = gbx_parse(copy, length, request, used);
  free(copy);
  return result;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct gbx_ranges ranges = {.arena_bytes = 256 * GBX_RANGE_ALIGN, .gpu_count = 2};
  size_t at = 0;
  while (at <= size) {
    struct gbx_request request, piece;
    size_t used = 0, ignored = 0;
    enum gbx_parse_result result = parse_copy(data + at, size - at, &request, &used);
    if (result != GBX_PARSE_REQUEST)
      break;
    require(used >= sizeof(struct gbx_frame) && used <= size - at);
    require(used <= sizeof(struct gbx_frame) + GBX_PAYLOAD_BYTES_MAX);
    require(parse_copy(data + at, used - 1, &piece, &ignored) == GBX_PARSE_INCOMPLETE);
    require(request.id != 0);
    apply(&ranges, &request);
    at += used;
  }
  while (ranges.count > 0)
    gbx_ranges_remove(&ranges, ranges.entries[0]);
  free(ranges.entries);
  return 0;
}
