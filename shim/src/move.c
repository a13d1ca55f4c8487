/* SPDX-License-Identifier: Apache-2.0 */
/* move.c: evict and fetch. */
#include "move.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "chunk.h"
#include "client.h"
#include "context.h"
#include "lock.h"
#include "remote.h"
#include "report.h"
#include "scan.h"

#define SLOTS_MAX 8u
#define COPY_LIMIT_NS (20ull * 1000000000)
#define TRANSFER_TIMEOUT_MS 15000u

/* One piece of staging memory and the request that uses it. */
struct slot {
  struct gb_call call;
  bool busy;
  uint32_t piece;
};

static struct {
  unsigned char *map;
  uint64_t bytes;
  uint64_t generation;
  bool pinned;
  uint32_t slot_count;
  struct slot slots[SLOTS_MAX];
} staging;

static struct gb_hash_key key;
static CUresult driver_error;

bool gb_move_start(void) {
  return getrandom(&key, sizeof key, 0) == sizeof key;
}

CUresult gb_move_error(void) {
  return driver_error;
}

/* ---- staging ---- */

/* The staging memory of the present connection. pre: a context is current. */
static bool open_staging(void) {
  if (staging.map != NULL && staging.generation == gb_client_generation()) return true;
  if (staging.map != NULL) {
    if (staging.pinned) gb_real.cuMemHostUnregister(staging.map);
    munmap(staging.map, staging.bytes);
    staging.map = NULL;
  }
  void *map = NULL;
  if (!gb_client_map_staging(&map, &staging.bytes, &staging.generation)) return false;
  staging.map = map;
  /* Pinned it moves at the link's speed; unpinned it still moves. */
  staging.pinned =
      gb_real.cuMemHostRegister_v2(map, staging.bytes, CU_MEMHOSTREGISTER_PORTABLE) == CUDA_SUCCESS;
  staging.slot_count = (uint32_t)(staging.bytes / GB_PIECE_BYTES);
  if (staging.slot_count > SLOTS_MAX) staging.slot_count = SLOTS_MAX;
  return staging.slot_count > 0;
}

static unsigned char *slot_memory(uint32_t slot) {
  return staging.map + slot * GB_PIECE_BYTES;
}

static uint64_t piece_bytes(const struct gb_span *span, uint32_t piece) {
  uint64_t offset = piece * GB_PIECE_BYTES;
  return span->bytes - offset < GB_PIECE_BYTES ? span->bytes - offset : GB_PIECE_BYTES;
}

static void send_transfer(struct slot *slot, uint16_t type, const struct gb_span *span,
                          uint32_t piece) {
  struct gb_transfer transfer = {
      .offset = span->base - gb_arena_base_address + piece * GB_PIECE_BYTES,
      .length = piece_bytes(span, piece),
      .staging_offset = (uint64_t)(slot - staging.slots) * GB_PIECE_BYTES};
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
    if (!staging.slots[i].busy) continue;
    enum gb_moved result = settle(&staging.slots[i]);
    if (result > worst) worst = result;
  }
  return worst;
}

static bool driver_ok(CUresult result) {
  if (result != CUDA_SUCCESS) driver_error = result;
  return result == CUDA_SUCCESS;
}

static bool copy_out(const struct gb_span *span, uint32_t piece, uint32_t slot, CUstream stream) {
  uint64_t address = span->base + piece * GB_PIECE_BYTES;
  return driver_ok(gb_real.cuMemcpyDtoHAsync_v2(slot_memory(slot), address,
                                                piece_bytes(span, piece), stream)) &&
         driver_ok(gb_stream_wait(stream, COPY_LIMIT_NS));
}

static bool copy_in(const struct gb_span *span, uint32_t piece, uint32_t slot, CUstream stream) {
  uint64_t address = span->base + piece * GB_PIECE_BYTES;
  return driver_ok(gb_real.cuMemcpyHtoDAsync_v2(address, slot_memory(slot),
                                                piece_bytes(span, piece), stream)) &&
         driver_ok(gb_stream_wait(stream, COPY_LIMIT_NS));
}

/* ---- evict ---- */

static enum gb_moved settle_store(struct gb_span *span, struct slot *slot) {
  enum gb_moved result = settle(slot);
  if (result != GB_MOVED) return result;
  span->pieces[slot->piece].valid = true;
  gb_report_add(GB_COUNT_EVICT_BYTES, piece_bytes(span, slot->piece));
  return result;
}

/* What an eviction learned of the content. */
struct seen {
  bool hidden;          /* it holds addresses of the arena */
  uint64_t clean_bytes; /* equal to the feeder's copy */
};

/* One piece out of its chunk; stored unless the feeder's copy is the same. */
static enum gb_moved store_piece(struct gb_span *span, uint32_t piece, struct slot *slot,
                                 CUstream stream, struct seen *seen) {
  uint32_t index = (uint32_t)(slot - staging.slots);
  struct gb_piece *copy = &span->pieces[piece];
  uint64_t bytes = piece_bytes(span, piece);
  if (slot->busy) {
    enum gb_moved before = settle_store(span, slot);
    if (before != GB_MOVED) return before;
  }
  if (!copy_out(span, piece, index, stream)) return GB_MOVE_FAILED;
  struct gb_digest digest = gb_hash(&key, slot_memory(index), bytes);
  if (!seen->hidden) seen->hidden = gb_holds_addresses(slot_memory(index), bytes);
  if (copy->valid && gb_digest_equal(copy->digest, digest)) {
    seen->clean_bytes += bytes;
    return GB_MOVED;
  }
  *copy = (struct gb_piece){.digest = digest, .valid = false};
  send_transfer(slot, GB_MSG_STORE, span, piece);
  return GB_MOVED;
}

static enum gb_moved store_all(struct gb_span *span, CUstream stream, struct seen *seen) {
  enum gb_moved result = GB_MOVED;
  for (uint32_t piece = 0; piece < gb_piece_count(span) && result == GB_MOVED; piece++) {
    result = store_piece(span, piece, &staging.slots[piece % staging.slot_count], stream, seen);
  }
  for (uint32_t i = 0; i < staging.slot_count; i++) {
    if (!staging.slots[i].busy) continue;
    enum gb_moved last = settle_store(span, &staging.slots[i]);
    if (result == GB_MOVED) result = last;
  }
  return result;
}

static void set_residency(struct gb_span *span, enum gb_residency residency, enum gb_scan scan) {
  atomic_store_explicit(&span->scan, (uint32_t)scan, memory_order_relaxed);
  atomic_store_explicit(&span->residency, (uint32_t)residency, memory_order_release);
}

static enum gb_moved evict_in_context(struct gb_span *span) {
  struct seen seen = {false, 0};
  CUstream stream = gb_context_stream(gb_context_get(span->context, span->device));
  if (stream == NULL || !open_staging()) return GB_MOVE_UNREACHABLE;
  enum gb_moved result = from_status(gb_remote_place(span));
  if (result != GB_MOVED) return result == GB_MOVE_LOST ? GB_MOVE_UNREACHABLE : result;
  result = store_all(span, stream, &seen);
  if (result != GB_MOVED)
    return result == GB_MOVE_LOST ? GB_MOVE_UNREACHABLE : result; /* ours is still whole */
  if (!driver_ok(gb_chunks_unmap(span))) return GB_MOVE_FAILED;
  gb_chunks_give(span);
  gb_report_add(GB_COUNT_CLEAN_DROP_BYTES, seen.clean_bytes);
  set_residency(span, GB_STORED, seen.hidden ? GB_SCAN_HIDDEN : GB_SCAN_CLEAN);
  return GB_MOVED;
}

enum gb_moved gb_evict(struct gb_span *span) {
  if (!driver_ok(gb_context_push(span->context))) return GB_MOVE_FAILED;
  enum gb_moved result = evict_in_context(span);
  gb_context_pop();
  gb_log(GB_LOG_DEBUG, "evict 0x%llx, %llu bytes: %d", (unsigned long long)span->base,
         (unsigned long long)span->bytes, result);
  return result;
}

/* ---- fetch ---- */

static enum gb_moved load_piece(struct gb_span *span, uint32_t piece, struct slot *slot,
                                CUstream stream) {
  uint32_t index = (uint32_t)(slot - staging.slots);
  uint64_t bytes = piece_bytes(span, piece);
  enum gb_moved result = settle(slot);
  if (result != GB_MOVED) return result;
  if (!gb_digest_equal(gb_hash(&key, slot_memory(index), bytes), span->pieces[piece].digest)) {
    gb_event(GB_LOG_ERROR, CUDA_ERROR_EXTERNAL_DEVICE, "content_mismatch",
             "feeder %s returned other bytes for 0x%llx", span->feeder,
             (unsigned long long)(span->base + piece * GB_PIECE_BYTES));
    return GB_MOVE_LOST;
  }
  gb_report_add(GB_COUNT_FETCH_BYTES, bytes);
  return copy_in(span, piece, index, stream) ? GB_MOVED : GB_MOVE_FAILED;
}

static enum gb_moved load_all(struct gb_span *span, CUstream stream) {
  enum gb_moved result = GB_MOVED;
  uint32_t sent = 0;
  for (uint32_t piece = 0; piece < gb_piece_count(span) && result == GB_MOVED; piece++) {
    for (; sent < gb_piece_count(span) && sent < piece + staging.slot_count; sent++) {
      send_transfer(&staging.slots[sent % staging.slot_count], GB_MSG_FETCH, span, sent);
    }
    result = load_piece(span, piece, &staging.slots[piece % staging.slot_count], stream);
  }
  settle_all();
  return result;
}

static enum gb_moved fetch_in_context(struct gb_span *span) {
  bool stored = gb_residency(span) == GB_STORED;
  CUstream stream = gb_context_stream(gb_context_get(span->context, span->device));
  if (stored && atomic_load_explicit(&span->lost, memory_order_acquire)) return GB_MOVE_LOST;
  if (stored && (stream == NULL || !open_staging())) return GB_MOVE_UNREACHABLE;
  if (span->chunk_count ==
      0) { /* else they are still mapped from an attempt that could not undo it */
    if (gb_chunks_cover(span) != CUDA_SUCCESS) return GB_MOVE_NO_ROOM;
    if (!driver_ok(gb_chunks_map(span))) {
      gb_chunks_give(span);
      return GB_MOVE_FAILED;
    }
  }
  enum gb_moved result = stored ? load_all(span, stream) : GB_MOVED;
  if (result != GB_MOVED) {
    if (driver_ok(gb_chunks_unmap(span))) gb_chunks_give(span);
    return result;
  }
  set_residency(span, GB_RESIDENT, stored ? (enum gb_scan)span->scan : GB_SCAN_CLEAN);
  return GB_MOVED;
}

enum gb_moved gb_fetch(struct gb_span *span) {
  if (!driver_ok(gb_context_push(span->context))) return GB_MOVE_FAILED;
  enum gb_moved result = fetch_in_context(span);
  gb_context_pop();
  gb_log(GB_LOG_DEBUG, "fetch 0x%llx, %llu bytes: %d", (unsigned long long)span->base,
         (unsigned long long)span->bytes, result);
  return result;
}
