/* SPDX-License-Identifier: Apache-2.0 */
/* move.c: evict and fetch. */
#include "move.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "away.h"
#include "bounce.h"
#include "chunk.h"
#include "client.h"
#include "context.h"
#include "lock.h"
#include "nvme.h"
#include "report.h"
#include "scan.h"

#define SLOTS_MAX 8u
#define COPY_LIMIT_NS (20ull * 1000000000)
#define TRANSFER_TIMEOUT_MS 15000u

/* One piece of the agent's staging memory and the request that uses it. */
struct slot {
  struct gb_call call;
  bool busy;
  uint32_t piece;
};

static struct slot slots[SLOTS_MAX];
static struct gb_bounce *staging; /* of the move under way */
static uint32_t slot_count;

static struct gb_hash_key key;
static CUresult driver_error;

bool gb_move_start(void) {
  return getrandom(&key, sizeof key, 0) == sizeof key;
}

CUresult gb_move_error(void) {
  return driver_error;
}

bool gb_move_ok(CUresult result) {
  if (result != CUDA_SUCCESS) driver_error = result;
  return result == CUDA_SUCCESS;
}

/* ---- pieces ---- */

uint64_t gb_piece_bytes(const struct gb_span *span, uint32_t piece) {
  uint64_t offset = piece * GB_PIECE_BYTES;
  return span->bytes - offset < GB_PIECE_BYTES ? span->bytes - offset : GB_PIECE_BYTES;
}

bool gb_piece_copy_out(const struct gb_span *span, uint32_t piece, void *to, CUstream stream) {
  uint64_t address = span->base + piece * GB_PIECE_BYTES;
  return gb_move_ok(
      gb_real.cuMemcpyDtoHAsync_v2(to, address, gb_piece_bytes(span, piece), stream));
}

bool gb_piece_copy_in(const struct gb_span *span, uint32_t piece, const void *from,
                      CUstream stream) {
  uint64_t address = span->base + piece * GB_PIECE_BYTES;
  return gb_move_ok(
      gb_real.cuMemcpyHtoDAsync_v2(address, from, gb_piece_bytes(span, piece), stream));
}

bool gb_piece_copied(CUstream stream) {
  return gb_move_ok(gb_stream_wait(stream, COPY_LIMIT_NS));
}

bool gb_piece_is_kept(struct gb_span *span, uint32_t piece, const void *bytes,
                      struct gb_seen *seen) {
  struct gb_piece *copy = &span->pieces[piece];
  uint64_t length = gb_piece_bytes(span, piece);
  struct gb_digest digest = gb_hash(&key, bytes, length);
  if (!seen->hidden) seen->hidden = gb_holds_addresses(bytes, length);
  if (copy->valid && gb_digest_equal(copy->digest, digest)) {
    seen->clean_bytes += length;
    return true;
  }
  copy->digest = digest;
  copy->valid = false;
  return false;
}

/* ---- requests to feeders ---- */

/* The staging memory of the present connection. pre: a context is current. */
static bool open_staging(void) {
  staging = gb_bounce_agent();
  if (staging == NULL) return false;
  slot_count = staging->pieces < SLOTS_MAX ? staging->pieces : SLOTS_MAX;
  return true;
}

static unsigned char *slot_memory(const struct slot *slot) {
  return gb_bounce_piece(staging, (uint32_t)(slot - slots));
}

static void send_transfer(struct slot *slot, uint16_t type, const struct gb_span *span,
                          uint32_t piece) {
  struct gb_transfer transfer = {
      .offset = span->base - gb_arena_base_address + piece * GB_PIECE_BYTES,
      .length = gb_piece_bytes(span, piece),
      .staging_offset = (uint64_t)(slot - slots) * GB_PIECE_BYTES};
  slot->busy = true;
  slot->piece = piece;
  gb_client_send(&slot->call, type, &transfer, sizeof transfer, sizeof(struct gb_status_reply));
}

static enum gb_moved from_status(enum gb_status status) {
  switch (status) {
    case GB_STATUS_OK: return GB_MOVED;
    case GB_STATUS_CAPACITY: return GB_MOVE_NO_ROOM;
    case GB_STATUS_DATA_LOSS: return GB_MOVE_LOST;
    default: return GB_MOVE_UNREACHABLE;
  }
}

static enum gb_moved settle(struct slot *slot) {
  slot->busy = false;
  return from_status(gb_client_wait(&slot->call, TRANSFER_TIMEOUT_MS));
}

/* Waits for every request still out: its slot must not be used before. */
static enum gb_moved settle_all(void) {
  enum gb_moved worst = GB_MOVED;
  for (uint32_t i = 0; i < SLOTS_MAX; i++) {
    if (!slots[i].busy) continue;
    enum gb_moved result = settle(&slots[i]);
    if (result > worst) worst = result;
  }
  return worst;
}

/* ---- evict ---- */

static enum gb_moved settle_store(struct gb_span *span, struct slot *slot) {
  enum gb_moved result = settle(slot);
  if (result != GB_MOVED) return result;
  span->pieces[slot->piece].valid = true;
  gb_report_add(GB_COUNT_EVICT_BYTES, gb_piece_bytes(span, slot->piece));
  return result;
}

/* One piece out of its chunk; stored unless the feeder's copy is the same. */
static enum gb_moved store_piece(struct gb_span *span, uint32_t piece, struct slot *slot,
                                 CUstream stream, struct gb_seen *seen) {
  if (slot->busy) {
    enum gb_moved before = settle_store(span, slot);
    if (before != GB_MOVED) return before;
  }
  if (!gb_piece_copy_out(span, piece, slot_memory(slot), stream) || !gb_piece_copied(stream))
    return GB_MOVE_FAILED;
  if (!gb_piece_is_kept(span, piece, slot_memory(slot), seen))
    send_transfer(slot, GB_MSG_STORE, span, piece);
  return GB_MOVED;
}

static enum gb_moved store_all(struct gb_span *span, CUstream stream, struct gb_seen *seen) {
  enum gb_moved result = GB_MOVED;
  for (uint32_t piece = 0; piece < gb_piece_count(span) && result == GB_MOVED; piece++) {
    result = store_piece(span, piece, &slots[piece % slot_count], stream, seen);
  }
  for (uint32_t i = 0; i < slot_count; i++) {
    if (!slots[i].busy) continue;
    enum gb_moved last = settle_store(span, &slots[i]);
    if (result == GB_MOVED) result = last;
  }
  return result;
}

static void set_residency(struct gb_span *span, enum gb_residency residency, enum gb_scan scan) {
  atomic_store_explicit(&span->scan, (uint32_t)scan, memory_order_relaxed);
  atomic_store_explicit(&span->residency, (uint32_t)residency, memory_order_release);
}

/* Where the span is kept, its bytes are afterwards. */
static enum gb_moved store_span(struct gb_span *span, CUstream stream, struct gb_seen *seen) {
  if (!gb_on_nvme(span)) return open_staging() ? store_all(span, stream, seen) : GB_MOVE_UNREACHABLE;
  enum gb_moved result = gb_nvme_store(span, stream, seen);
  if (result != GB_MOVE_NO_ROOM) return result;
  result = from_status(gb_away_replace(span));
  if (result != GB_MOVED) return result;
  return open_staging() ? store_all(span, stream, seen) : GB_MOVE_UNREACHABLE;
}

static enum gb_moved evict_in_context(struct gb_span *span) {
  struct gb_seen seen = {false, 0};
  CUstream stream = gb_context_stream(gb_context_get(span->context, span->device));
  if (stream == NULL) return GB_MOVE_UNREACHABLE;
  enum gb_moved result = from_status(gb_away_place(span));
  if (result == GB_MOVED) result = store_span(span, stream, &seen);
  if (result != GB_MOVED)
    return result == GB_MOVE_LOST ? GB_MOVE_UNREACHABLE : result; /* ours is still whole */
  if (!gb_move_ok(gb_chunks_unmap(span))) return GB_MOVE_FAILED;
  gb_chunks_give(span);
  gb_report_add(GB_COUNT_CLEAN_DROP_BYTES, seen.clean_bytes);
  set_residency(span, GB_STORED, seen.hidden ? GB_SCAN_HIDDEN : GB_SCAN_CLEAN);
  return GB_MOVED;
}

enum gb_moved gb_evict(struct gb_span *span) {
  if (!gb_move_ok(gb_context_push(span->context))) return GB_MOVE_FAILED;
  enum gb_moved result = evict_in_context(span);
  gb_context_pop();
  gb_log(GB_LOG_DEBUG, "evict 0x%llx, %llu bytes: %d", (unsigned long long)span->base,
         (unsigned long long)span->bytes, result);
  return result;
}

/* ---- fetch ---- */

static enum gb_moved load_piece(struct gb_span *span, uint32_t piece, struct slot *slot,
                                CUstream stream) {
  uint64_t bytes = gb_piece_bytes(span, piece);
  enum gb_moved result = settle(slot);
  if (result != GB_MOVED) return result;
  if (!gb_digest_equal(gb_hash(&key, slot_memory(slot), bytes), span->pieces[piece].digest)) {
    gb_event(GB_LOG_ERROR, CUDA_ERROR_EXTERNAL_DEVICE, "content_mismatch",
             "feeder %s returned other bytes for 0x%llx", span->feeder,
             (unsigned long long)(span->base + piece * GB_PIECE_BYTES));
    return GB_MOVE_LOST;
  }
  gb_report_add(GB_COUNT_FETCH_BYTES, bytes);
  bool copied = gb_piece_copy_in(span, piece, slot_memory(slot), stream) && gb_piece_copied(stream);
  return copied ? GB_MOVED : GB_MOVE_FAILED;
}

static enum gb_moved load_all(struct gb_span *span, CUstream stream) {
  enum gb_moved result = GB_MOVED;
  uint32_t sent = 0;
  uint64_t started = gb_now_ns();
  for (uint32_t piece = 0; piece < gb_piece_count(span) && result == GB_MOVED; piece++) {
    for (; sent < gb_piece_count(span) && sent < piece + slot_count; sent++) {
      send_transfer(&slots[sent % slot_count], GB_MSG_FETCH, span, sent);
    }
    result = load_piece(span, piece, &slots[piece % slot_count], stream);
  }
  settle_all();
  if (result == GB_MOVED) gb_away_note_fetch(span->bytes, gb_now_ns() - started);
  return result;
}

static enum gb_moved load_span(struct gb_span *span, CUstream stream) {
  if (gb_on_nvme(span)) return gb_nvme_load(span, stream);
  return open_staging() ? load_all(span, stream) : GB_MOVE_UNREACHABLE;
}

static bool is_lost(const struct gb_span *span) {
  return gb_on_feeder(span) && atomic_load_explicit(&span->lost, memory_order_acquire);
}

static enum gb_moved fetch_in_context(struct gb_span *span) {
  bool stored = gb_residency(span) == GB_STORED;
  CUstream stream = gb_context_stream(gb_context_get(span->context, span->device));
  if (stored && is_lost(span)) return GB_MOVE_LOST;
  if (stored && stream == NULL) return GB_MOVE_UNREACHABLE;
  if (span->chunk_count ==
      0) { /* else they are still mapped from an attempt that could not undo it */
    if (gb_chunks_cover(span) != CUDA_SUCCESS) return GB_MOVE_NO_ROOM;
    if (!gb_move_ok(gb_chunks_map(span))) {
      gb_chunks_give(span);
      return GB_MOVE_FAILED;
    }
  }
  enum gb_moved result = stored ? load_span(span, stream) : GB_MOVED;
  if (result != GB_MOVED) {
    if (gb_move_ok(gb_chunks_unmap(span))) gb_chunks_give(span);
    return result;
  }
  set_residency(span, GB_RESIDENT, stored ? (enum gb_scan)span->scan : GB_SCAN_CLEAN);
  return GB_MOVED;
}

enum gb_moved gb_fetch(struct gb_span *span) {
  if (!gb_move_ok(gb_context_push(span->context))) return GB_MOVE_FAILED;
  enum gb_moved result = fetch_in_context(span);
  gb_context_pop();
  gb_log(GB_LOG_DEBUG, "fetch 0x%llx, %llu bytes: %d", (unsigned long long)span->base,
         (unsigned long long)span->bytes, result);
  return result;
}
