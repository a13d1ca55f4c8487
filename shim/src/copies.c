/* SPDX-License-Identifier: Apache-2.0 */
/* copies.c: parts of pieces over lanes, and what to do when a lane fails. */
#include "copies.h"

#include <string.h>

#include "core.h"
#include "lock.h"
#include "moving.h"

/* Pauses between attempts at a lane that is away. */
#define PAUSE_MS_MIN 20u
#define PAUSE_MS_MAX 500u
/* After this long the log says whom we wait for. */
#define SAY_WAITING_NS (1000 * GB_MS)
/* A request ends by its deadline or the peer's silence; this is the second wall. */
#define PART_TIMEOUT_MS (2 * GB_LANE_DEADLINE_MS)

_Static_assert(GB_PARTS_MAX == 8, "a piece's granules fit into a byte");

/* ---- parts ---- */

static struct gb_piece *piece_of(const struct gb_transit *transit) {
  return &transit->span->pieces[transit->piece];
}

static uint8_t granule_bits(uint64_t from, uint64_t to) {
  uint32_t first = (uint32_t)(from / GB_GRANULE);
  uint32_t end = (uint32_t)((to + GB_GRANULE - 1) / GB_GRANULE);
  return (uint8_t)(((1u << end) - 1) & ~((1u << first) - 1));
}

static struct gb_part make_part(const struct gb_transit *transit, const struct gb_extent *extent,
                                uint64_t begin, uint64_t from, uint64_t to) {
  struct gb_part part = {.offset = from,
                         .bytes = to - from,
                         .memory = transit->memory + (from - begin),
                         .granules = granule_bits(from - begin, to - begin)};
  part.copies[0].lane = extent->lane;
  part.copies[1].lane = extent->mirror;
  for (uint32_t i = 0; i < GB_COPIES && !transit->store; i++)
    part.copies[i].bad = (piece_of(transit)->stale[i] & part.granules) != 0;
  return part;
}

/* The parts of the piece; none unless the extents cover it. */
static void cut(struct gb_transit *transit) {
  const struct gb_span *span = transit->span;
  uint64_t begin = span->base - gb_arena_base_address + transit->piece * GB_PIECE_BYTES;
  uint64_t end = begin + gb_piece_bytes(span, transit->piece);
  uint64_t at = begin;
  uint32_t count = 0;
  for (uint32_t i = 0; i < span->extent_count && at < end && count < GB_PARTS_MAX; i++) {
    const struct gb_extent *extent = &span->extents[i];
    uint64_t extent_end = extent->offset + extent->length;
    if (extent_end <= at) continue;
    if (extent->offset > at) break;
    uint64_t to = extent_end < end ? extent_end : end;
    transit->parts[count++] = make_part(transit, extent, begin, at, to);
    at = to;
  }
  transit->part_count = at == end ? count : 0;
}

static bool is_open(const struct gb_part_copy *copy) {
  return copy->lane != 0 && !copy->gone && !copy->bad && !copy->done;
}

/* ---- offers ---- */

/* What other programs have had is written once: weights, when they leave for the first time. */
static bool is_worth_offering(struct gb_transit *transit, const struct gb_open_lane *open) {
  if (!transit->store || !open->offers || piece_of(transit)->stored) return false;
  if (transit->hashed) return true;
  uint32_t blocks = (uint32_t)(gb_piece_bytes(transit->span, transit->piece) / GB_OFFER_BLOCK_BYTES);
  transit->hashed = gb_lane_digests(transit->memory, GB_OFFER_BLOCK_BYTES, blocks,
                                    transit->digests[0], 0) == GB_LANE_OK;
  return transit->hashed;
}

/* The segments of a part that the feeder does not have. returns: how many. */
static uint32_t missing(struct gb_transit *transit, const struct gb_part *part,
                        const struct gb_open_lane *open, struct gb_lane_segment *segments) {
  uint8_t have[(GB_OFFER_BLOCKS + 7) / 8] = {0};
  uint32_t first = (uint32_t)((uint64_t)(part->memory - transit->memory) / GB_OFFER_BLOCK_BYTES);
  uint32_t blocks = (uint32_t)(part->bytes / GB_OFFER_BLOCK_BYTES);
  uint32_t count = 0;
  uint64_t cached = 0;
  gb_lane_offer(open->lane, 0, part->offset, GB_OFFER_BLOCK_BYTES, transit->digests[first], blocks,
                have, 0);
  for (uint32_t i = 0; i < blocks; i++) {
    uint64_t at = i * GB_OFFER_BLOCK_BYTES;
    bool there = (have[i / 8] & (1u << i % 8)) != 0;
    if (there) cached += GB_OFFER_BLOCK_BYTES;
    if (there) continue;
    struct gb_lane_segment *last = count > 0 ? &segments[count - 1] : NULL;
    if (last != NULL && last->offset + last->bytes == part->offset + at)
      last->bytes += GB_OFFER_BLOCK_BYTES;
    else
      segments[count++] = (struct gb_lane_segment){.offset = part->offset + at,
                                                   .bytes = GB_OFFER_BLOCK_BYTES,
                                                   .memory = part->memory + at};
  }
  gb_lanes_count_cached(open, cached);
  return count;
}

/* ---- requests ---- */

static void begin_copy(struct gb_transit *transit, const struct gb_part *part,
                       struct gb_part_copy *copy) {
  struct gb_lane_segment segments[GB_OFFER_BLOCKS] = {
      {.offset = part->offset, .bytes = part->bytes, .memory = part->memory}};
  struct gb_lane_request request = {.size = sizeof request,
                                    .operation = transit->store ? GB_LANE_WRITE : GB_LANE_READ,
                                    .priority = transit->store ? GB_LANE_NORMAL : GB_LANE_DEMAND,
                                    .segment_count = 1,
                                    .segments = segments};
  enum gb_status status = gb_lanes_get(copy->lane, &copy->open);
  copy->gone = status == GB_STATUS_DATA_LOSS;
  if (status != GB_STATUS_OK) return;
  if (is_worth_offering(transit, copy->open))
    request.segment_count = missing(transit, part, copy->open, segments);
  int submitted = request.segment_count == 0 ? gb_lane_state(copy->open->lane)
                                             : gb_lane_submit(copy->open->lane, &request, &copy->id);
  copy->busy = submitted == GB_LANE_OK && request.segment_count > 0;
  copy->done = submitted == GB_LANE_OK && request.segment_count == 0;
  if (!copy->busy) gb_lanes_done(copy->open, submitted);
}

/* Begins what can be: every copy of a store, one copy of a load. */
static void begin_part(struct gb_transit *transit, struct gb_part *part) {
  for (uint32_t i = 0; i < GB_COPIES; i++) {
    if (is_open(&part->copies[i])) begin_copy(transit, part, &part->copies[i]);
    if (part->copies[i].busy && !transit->store) return;
  }
}

static void end_copy(struct gb_part_copy *copy) {
  gb_lane *lane = copy->open->lane;
  int status = gb_lane_wait(lane, copy->id, PART_TIMEOUT_MS);
  if (status == GB_LANE_TIMEOUT) {
    gb_lane_cancel(lane, copy->id);
    status = gb_lane_wait(lane, copy->id, PART_TIMEOUT_MS);
  }
  gb_lanes_done(copy->open, status);
  copy->busy = false;
  copy->done = status == GB_LANE_OK;
}

/* Waits for what is under way: its memory is not to be used before. returns: whether some copy has it. */
static bool end_part(struct gb_part *part) {
  bool done = false;
  for (uint32_t i = 0; i < GB_COPIES; i++) {
    if (part->copies[i].busy) end_copy(&part->copies[i]);
    if (part->copies[i].done) done = true;
  }
  return done;
}

static bool has_open_copy(const struct gb_part *part) {
  return is_open(&part->copies[0]) || is_open(&part->copies[1]);
}

/* ---- pieces ---- */

static void start(struct gb_transit *transit, struct gb_span *span, uint32_t piece,
                  unsigned char *memory, bool store) {
  *transit = (struct gb_transit){
      .span = span, .memory = memory, .piece = piece, .store = store, .busy = true};
  cut(transit);
  for (uint32_t i = 0; i < transit->part_count; i++) begin_part(transit, &transit->parts[i]);
}

void gb_transit_store(struct gb_transit *transit, struct gb_span *span, uint32_t piece,
                      unsigned char *memory) {
  uint64_t offset = span->base - gb_arena_base_address + piece * GB_PIECE_BYTES;
  gb_moving_written(offset, gb_piece_bytes(span, piece));
  start(transit, span, piece, memory, true);
}

void gb_transit_load(struct gb_transit *transit, struct gb_span *span, uint32_t piece,
                     unsigned char *memory) {
  start(transit, span, piece, memory, false);
}

const char *gb_transit_feeder(const struct gb_transit *transit) {
  for (uint32_t i = 0; i < transit->part_count; i++) {
    const struct gb_part_copy *copies = transit->parts[i].copies;
    if (!copies[0].done && !copies[1].done) return gb_lanes_feeder(copies[0].lane);
  }
  return transit->span->feeder;
}

/* Begins and ends one attempt at every part that no copy has. returns: how many are left; *lost: some of them
 * have no copy to ask. */
static uint32_t attempt(struct gb_transit *transit, bool *lost) {
  uint32_t left = 0;
  for (uint32_t i = 0; i < transit->part_count; i++) {
    struct gb_part *part = &transit->parts[i];
    if (!end_part(part)) begin_part(transit, part);
  }
  for (uint32_t i = 0; i < transit->part_count; i++) {
    struct gb_part *part = &transit->parts[i];
    if (end_part(part)) continue;
    left++;
    if (!has_open_copy(part)) *lost = true;
  }
  return left;
}

/* Until every part is done, or nobody can be asked, or patience ends. */
static enum gb_status persist(struct gb_transit *transit) {
  uint64_t since = gb_now_ns();
  uint64_t pause_ms = PAUSE_MS_MIN;
  bool said = false;
  bool lost = transit->part_count == 0;
  while (!lost && attempt(transit, &lost) > 0 && !lost) {
    if (atomic_load_explicit(&transit->span->lost, memory_order_acquire)) return GB_STATUS_DATA_LOSS;
    uint64_t waited = gb_now_ns() - since;
    if (waited > GB_COPIES_PATIENCE_MS * GB_MS) return GB_STATUS_UNREACHABLE;
    if (waited > SAY_WAITING_NS && !said) {
      said = true;
      gb_log(GB_LOG_WARN, "waiting for feeder %s, for %u more seconds at most",
             gb_transit_feeder(transit), GB_COPIES_PATIENCE_MS / 1000);
    }
    gb_sleep_ns(pause_ms * GB_MS);
    pause_ms = pause_ms * 2 < PAUSE_MS_MAX ? pause_ms * 2 : PAUSE_MS_MAX;
  }
  return lost ? GB_STATUS_DATA_LOSS : GB_STATUS_OK;
}

static void say_stale(const struct gb_transit *transit, const struct gb_part_copy *copy) {
  static uint32_t said; /* once for each lane that falls behind */
  if (said == copy->lane) return;
  said = copy->lane;
  gb_event(GB_LOG_WARN, CUDA_SUCCESS, "replica_stale",
           "feeder %s did not take a store: of 0x%llx only one copy is left",
           gb_lanes_feeder(copy->lane), (unsigned long long)transit->span->base);
}

/* A copy that did not take this store is left behind: it gets one more chance, and no waiting. */
static void settle_store(struct gb_transit *transit) {
  for (uint32_t i = 0; i < transit->part_count; i++) {
    struct gb_part *part = &transit->parts[i];
    if (has_open_copy(part)) begin_part(transit, part);
    end_part(part);
    for (uint32_t k = 0; k < GB_COPIES; k++) {
      const struct gb_part_copy *copy = &part->copies[k];
      uint8_t *stale = &piece_of(transit)->stale[k];
      bool missed = copy->lane != 0 && !copy->done;
      *stale = (uint8_t)(missed ? *stale | part->granules : *stale & ~part->granules);
      if (missed) say_stale(transit, copy);
    }
  }
}

enum gb_status gb_transit_end(struct gb_transit *transit) {
  transit->busy = false;
  enum gb_status status = persist(transit);
  if (transit->store && status == GB_STATUS_OK) settle_store(transit);
  if (transit->store) piece_of(transit)->stored = true;
  return status;
}

const char *gb_transit_source(const struct gb_transit *transit, uint8_t granules) {
  for (uint32_t i = 0; i < transit->part_count; i++) {
    const struct gb_part *part = &transit->parts[i];
    for (uint32_t k = 0; k < GB_COPIES; k++) {
      if ((part->granules & granules) != 0 && part->copies[k].done)
        return gb_lanes_feeder(part->copies[k].lane);
    }
  }
  return transit->span->feeder;
}

enum gb_status gb_transit_reject(struct gb_transit *transit, uint8_t granules) {
  for (uint32_t i = 0; i < transit->part_count; i++) {
    struct gb_part *part = &transit->parts[i];
    for (uint32_t k = 0; k < GB_COPIES; k++) {
      struct gb_part_copy *copy = &part->copies[k];
      if (!copy->done || (part->granules & granules) == 0) continue;
      copy->done = false;
      copy->bad = true;
      piece_of(transit)->stale[k] |= part->granules;
    }
  }
  return persist(transit);
}
