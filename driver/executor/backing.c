/* SPDX-License-Identifier: Apache-2.0 */
/*
 * backing.c: the bytes behind a lane. Called by the lane library's threads, one for each connection. RAM is handed out
 * where it lies and stays pinned meanwhile; everything else goes through a pinned buffer, and is pinned only while the
 * GPU copies. Blocks that the cache knows are put in place without having travelled.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "lanes.h"

static void prepare(void *context, uint64_t offset, uint64_t bytes) {
  struct gbx_granted *granted = context;
  gbx_ahead_announce(&granted->lanes->aheads, granted->is.offset + offset, bytes);
}

/* ---- blocks that are known, and writes to their places ---- */

/* An offer that is being answered. A client may have given it up meanwhile and write: what he writes stays. */
struct gbx_filling {
  struct gbx_filling *next;
  struct gbx_granted *granted;
  uint64_t offset; /* of the first block, in the arena */
  uint32_t count;
  uint32_t written; /* bit i: somebody has begun to write to block i */
  uint32_t placing; /* bit i: block i is being put in place */
  uint8_t *have;
};
_Static_assert(GB_LANE_OFFER_BLOCKS_AT_ONCE <= 32, "a bit for each block");

/* The blocks of `filling` that a span touches, as bits. */
static uint32_t blocks_of(const struct gbx_filling *filling, const struct gbx_span *span) {
  uint32_t blocks = 0;
  for (uint32_t index = 0; index < filling->count; index++) {
    uint64_t at = filling->offset + (uint64_t)index * GBX_BLOCK_BYTES;
    if (span->offset < at + GBX_BLOCK_BYTES && at < span->offset + span->length)
      blocks |= 1u << index;
  }
  return blocks;
}

/* From now on no known block is put where this write goes. */
static void keep_fillings_off(struct gbx_lanes *lanes, const struct gbx_span *span) {
  pthread_mutex_lock(&lanes->lock);
  for (struct gbx_filling *filling = lanes->fillings; filling;) {
    uint32_t blocks = blocks_of(filling, span);
    filling->written |= blocks;
    if ((filling->placing & blocks) == 0) {
      filling = filling->next;
      continue;
    }
    pthread_cond_wait(&lanes->changed, &lanes->lock); /* for one copy of a block */
    filling = lanes->fillings;
  }
  pthread_mutex_unlock(&lanes->lock);
}

/* ---- pieces ---- */

static void link_piece(struct gbx_lanes *lanes, struct gbx_piece *piece) {
  pthread_mutex_lock(&lanes->lock);
  piece->next = lanes->pieces;
  if (piece->next)
    piece->next->previous = piece;
  lanes->pieces = piece;
  pthread_mutex_unlock(&lanes->lock);
}

static void unlink_piece(struct gbx_lanes *lanes, struct gbx_piece *piece) {
  pthread_mutex_lock(&lanes->lock);
  if (piece->previous)
    piece->previous->next = piece->next;
  else
    lanes->pieces = piece->next;
  if (piece->next)
    piece->next->previous = piece->previous;
  pthread_mutex_unlock(&lanes->lock);
}

/* The memory of a piece. pre: piece->span says where. */
static void *find_memory(struct gbx_lanes *lanes, struct gbx_piece *piece) {
  uint64_t at = piece->span.offset, bytes = piece->span.length;
  if (gbx_store_pin(lanes->store, at, bytes, &piece->span) != GBX_OK)
    return NULL;
  void *direct = gbx_span_direct(&piece->span);
  if (direct) {
    link_piece(lanes, piece);
    return direct;
  }
  gbx_store_unpin(lanes->store, &piece->span, 0, 0);
  piece->buffer = piece->for_write ? gbx_buffers_take(&lanes->buffers, 0, GBX_BUFFER_WAIT_MS)
                                   : gbx_ahead_fetch(&lanes->aheads, at, bytes);
  return piece->buffer ? piece->buffer->memory : NULL;
}

_Static_assert(GBX_BLOCK_BYTES <= GB_LANE_RECORD_BYTES, "a buffer holds a block");

static void *acquire(void *context, uint64_t offset, uint64_t bytes, int for_write, uint64_t *token) {
  struct gbx_granted *granted = context;
  struct gbx_piece *piece = bytes <= granted->lanes->buffers.bytes ? calloc(1, sizeof(*piece)) : NULL;
  if (!piece)
    return NULL;
  piece->granted = granted;
  piece->for_write = for_write;
  piece->span = (struct gbx_span){.offset = granted->is.offset + offset, .length = bytes};
  if (for_write)
    keep_fillings_off(granted->lanes, &piece->span);
  void *memory = find_memory(granted->lanes, piece);
  if (memory)
    *token = (uint64_t)piece;
  else
    free(piece);
  return memory;
}

/* Brings what is in a buffer to its place. `count`: bytes to account for. returns: 0, or -1 when it is not allocated
 * (any more) or failed. */
static int commit_buffer(struct gbx_lanes *lanes, struct gbx_piece *piece, uint64_t count) {
  struct gbx_span *span = &piece->span;
  if (gbx_store_pin(lanes->store, span->offset, span->length, span) != GBX_OK)
    return -1;
  struct gbx_streams *streams = &piece->buffer->streams;
  struct gbx_result started = gbx_span_copy(lanes->store, span, streams, piece->buffer->memory, false);
  struct gbx_result ended = gbx_memory_wait(&lanes->store->memory, streams);
  bool ok = started.status == GBX_OK && ended.status == GBX_OK;
  gbx_store_unpin(lanes->store, span, 0, ok ? count : 0);
  gbx_end_if_fatal(started);
  gbx_end_if_fatal(ended);
  return ok ? 0 : -1;
}

static int release(void *context, uint64_t token, void *memory, uint64_t offset, uint64_t bytes, int commit) {
  struct gbx_lanes *lanes = ((struct gbx_granted *)context)->lanes;
  struct gbx_piece *piece = (struct gbx_piece *)token;
  int result = 0;
  (void)memory;
  (void)offset;
  if (piece->buffer && piece->for_write && commit)
    result = commit_buffer(lanes, piece, bytes);
  if (piece->buffer)
    gbx_buffers_return(&lanes->buffers, piece->buffer);
  else
    unlink_piece(lanes, piece);
  bool wrote_in_place = piece->for_write && commit && !piece->buffer;
  uint64_t at = piece->span.offset;
  gbx_store_unpin(lanes->store, &piece->span, piece->for_write ? 0 : bytes, wrote_in_place ? bytes : 0);
  if (piece->for_write && commit && result == 0)
    gbx_cache_arrived(lanes->cache, at, bytes);
  free(piece);
  return result;
}

/* ---- offers ---- */

/* Whether nobody writes there; then it has to be said when the block is in place. */
static bool begin_placing(struct gbx_filling *filling, unsigned index) {
  struct gbx_lanes *lanes = filling->granted->lanes;
  pthread_mutex_lock(&lanes->lock);
  bool may = (filling->written & 1u << index) == 0;
  filling->placing |= (uint32_t)may << index;
  pthread_mutex_unlock(&lanes->lock);
  return may;
}

static void end_placing(struct gbx_filling *filling, unsigned index, bool done) {
  struct gbx_lanes *lanes = filling->granted->lanes;
  pthread_mutex_lock(&lanes->lock);
  filling->placing &= ~(1u << index);
  if (done) {
    filling->have[index / 8] |= (uint8_t)(1u << index % 8);
    filling->granted->cached_bytes += GBX_BLOCK_BYTES;
  }
  pthread_cond_broadcast(&lanes->changed);
  pthread_mutex_unlock(&lanes->lock);
}

static bool place_block(struct gbx_filling *filling, unsigned index, const uint8_t *content) {
  struct gbx_lanes *lanes = filling->granted->lanes;
  struct gbx_piece piece = {.granted = filling->granted, .for_write = true};
  piece.span = (struct gbx_span){.offset = filling->offset + (uint64_t)index * GBX_BLOCK_BYTES,
                                 .length = GBX_BLOCK_BYTES};
  void *memory = find_memory(lanes, &piece);
  if (!memory)
    return false;
  memcpy(memory, content, GBX_BLOCK_BYTES);
  bool done = true;
  if (piece.buffer) {
    done = commit_buffer(lanes, &piece, 0) == 0;
    gbx_buffers_return(&lanes->buffers, piece.buffer);
  } else {
    unlink_piece(lanes, &piece);
    gbx_store_unpin(lanes->store, &piece.span, 0, 0);
  }
  return done;
}

static void take_block(void *context, unsigned index, const uint8_t *content) {
  struct gbx_filling *filling = context;
  if (begin_placing(filling, index))
    end_placing(filling, index, place_block(filling, index, content));
}

static void offer(void *context, uint64_t offset, uint64_t block_bytes, const uint8_t *digests, uint32_t count,
                  uint8_t *have) {
  struct gbx_granted *granted = context;
  struct gbx_lanes *lanes = granted->lanes;
  struct gbx_filling filling = {
      .granted = granted, .offset = granted->is.offset + offset, .count = count, .have = have};
  if (block_bytes != GBX_BLOCK_BYTES || count > GB_LANE_OFFER_BLOCKS_AT_ONCE)
    return;
  pthread_mutex_lock(&lanes->lock);
  filling.next = lanes->fillings;
  lanes->fillings = &filling;
  pthread_mutex_unlock(&lanes->lock);
  gbx_cache_fill(lanes->cache, digests, count, take_block, &filling);
  pthread_mutex_lock(&lanes->lock);
  struct gbx_filling **at = &lanes->fillings;
  while (*at != &filling)
    at = &(*at)->next;
  *at = filling.next;
  pthread_mutex_unlock(&lanes->lock);
  for (uint32_t index = 0; index < count; index++) {
    if ((have[index / 8] & 1u << index % 8) == 0)
      gbx_cache_want(lanes->cache, filling.offset + (uint64_t)index * GBX_BLOCK_BYTES,
                     digests + (size_t)index * GBX_DIGEST_BYTES);
  }
}

/* ---- calls ---- */

static void call(void *context, struct gb_lane_called *called, uint8_t *body, uint64_t bytes) {
  struct gbx_granted *granted = context;
  gbx_run_accept(granted->lanes->run, called, body, bytes);
}

const struct gb_lane_backing gbx_backing = {
    .prepare = prepare, .acquire = acquire, .release = release, .offer = offer, .call = call};
