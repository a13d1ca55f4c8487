/* SPDX-License-Identifier: Apache-2.0 */
/* move.c: evict and fetch. */
#include "move.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "away.h"
#include "chunk.h"
#include "context.h"
#include "dispatch.h"
#include "lock.h"
#include "nvme.h"
#include "report.h"
#include "scan.h"

#define COPY_LIMIT_NS (20ull * 1000000000)

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

enum gb_moved gb_moved_from(enum gb_status status) {
  switch (status) {
    case GB_STATUS_OK: return GB_MOVED;
    case GB_STATUS_CAPACITY: return GB_MOVE_NO_ROOM;
    case GB_STATUS_DATA_LOSS: return GB_MOVE_LOST;
    default: return GB_MOVE_UNREACHABLE;
  }
}

static struct gb_digest granule_digest(const void *bytes, uint32_t granule) {
  return gb_hash(&key, (const unsigned char *)bytes + granule * GB_GRANULE, GB_GRANULE);
}

bool gb_piece_is_kept(struct gb_span *span, uint32_t piece, const void *bytes,
                      struct gb_seen *seen) {
  struct gb_piece *copy = &span->pieces[piece];
  uint64_t length = gb_piece_bytes(span, piece);
  if (!seen->hidden) seen->hidden = gb_holds_addresses(bytes, length);
  bool same = copy->valid;
  for (uint32_t i = 0; i * GB_GRANULE < length; i++) {
    struct gb_digest digest = granule_digest(bytes, i);
    if (!gb_digest_equal(copy->digests[i], digest)) same = false;
    copy->digests[i] = digest;
  }
  copy->valid = same;
  if (same) seen->clean_bytes += length;
  return same;
}

uint8_t gb_piece_differs(const struct gb_span *span, uint32_t piece, const void *bytes) {
  uint8_t differs = 0;
  for (uint32_t i = 0; i * GB_GRANULE < gb_piece_bytes(span, piece); i++) {
    if (!gb_digest_equal(granule_digest(bytes, i), span->pieces[piece].digests[i]))
      differs |= (uint8_t)(1u << i);
  }
  return differs;
}

/* ---- evict ---- */

static void set_residency(struct gb_span *span, enum gb_residency residency, enum gb_scan scan) {
  atomic_store_explicit(&span->scan, (uint32_t)scan, memory_order_relaxed);
  atomic_store_explicit(&span->residency, (uint32_t)residency, memory_order_release);
}

/* Where the span is kept, its bytes are afterwards. */
static enum gb_moved store_span(struct gb_span *span, CUstream stream, struct gb_seen *seen) {
  if (!gb_on_nvme(span)) return gb_remote_store(span, stream, seen);
  enum gb_moved result = gb_nvme_store(span, stream, seen);
  if (result != GB_MOVE_NO_ROOM) return result;
  result = gb_moved_from(gb_away_replace(span));
  return result == GB_MOVED ? gb_remote_store(span, stream, seen) : result;
}

static enum gb_moved evict_in_context(struct gb_span *span) {
  struct gb_seen seen = {false, 0};
  CUstream stream = gb_context_stream(gb_context_get(span->context, span->device));
  if (stream == NULL || !gb_dispatch_withdraw(span)) return GB_MOVE_UNREACHABLE;
  enum gb_moved result = gb_moved_from(gb_away_place(span));
  if (result == GB_MOVED) result = store_span(span, stream, &seen);
  if (result != GB_MOVED)
    return result == GB_MOVE_LOST ? GB_MOVE_UNREACHABLE : result; /* ours is still whole */
  if (!gb_move_ok(gb_chunks_unmap(span))) return GB_MOVE_FAILED;
  gb_chunks_give(span);
  gb_report_add(GB_COUNT_CLEAN_DROP_BYTES, seen.clean_bytes);
  gb_dispatch_stored(span);
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

static enum gb_moved load_span(struct gb_span *span, CUstream stream) {
  return gb_on_nvme(span) ? gb_nvme_load(span, stream) : gb_remote_load(span, stream);
}

static bool is_lost(const struct gb_span *span) {
  return gb_on_feeder(span) && atomic_load_explicit(&span->lost, memory_order_acquire);
}

static enum gb_moved fetch_in_context(struct gb_span *span) {
  bool stored = gb_residency(span) == GB_STORED;
  CUstream stream = gb_context_stream(gb_context_get(span->context, span->device));
  if (stored && (is_lost(span) || !gb_dispatch_finish(span))) return GB_MOVE_LOST;
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
  atomic_store_explicit(&span->owner, 0, memory_order_relaxed);
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
