/* SPDX-License-Identifier: Apache-2.0 */
/* nvme.c: spans to the store and back, through pinned memory of our own. */
#include "nvme.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "bounce.h"
#include "report.h"
#include "store.h"
#include "tier.h"
#include "victim.h"

/* Of what the store reads ahead, for the spans predicted next; there is room left for the rest of the
 * span that is being read. */
#define PREDICTED_MAX (GB_STORE_AHEAD / 2)

/* ---- room ---- */

static void give_pieces(struct gb_span *span, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) {
    gb_store_give(span->pieces[i].slot);
    span->pieces[i].valid = false;
  }
}

static bool take_pieces(struct gb_span *span) {
  for (uint32_t i = 0; i < gb_piece_count(span); i++) {
    span->pieces[i] = (struct gb_piece){.slot = gb_store_take(gb_piece_bytes(span, i))};
    if (span->pieces[i].slot != GB_STORE_SLOT_NONE) continue;
    give_pieces(span, i);
    return false;
  }
  return true;
}

static bool has_room(uint64_t bytes) {
  return gb_store_capacity() - gb_store_used() >= bytes;
}

bool gb_nvme_place(struct gb_span *span) {
  if (!gb_store_ready()) return false;
  for (struct gb_span *other = gb_span_next(NULL); other != NULL && !has_room(span->bytes);
       other = gb_span_next(other)) {
    if (gb_on_nvme(other) && gb_residency(other) == GB_RESIDENT) gb_nvme_drop(other);
  }
  if (!take_pieces(span)) return false;
  span->placed = true;
  span->keeper = GB_TIER_T3;
  gb_tier_add_away(GB_TIER_T3, (int64_t)span->bytes);
  return true;
}

void gb_nvme_drop(struct gb_span *span) {
  give_pieces(span, gb_piece_count(span));
  span->placed = false;
  gb_tier_add_away(GB_TIER_T3, -(int64_t)span->bytes);
}

/* ---- out ---- */

static enum gb_moved from_write(int error) {
  switch (error) {
    case 0: return GB_MOVED;
    case -EBUSY:
    case -ENOMEM: return GB_MOVE_UNREACHABLE;
    case -EDQUOT: return GB_MOVE_NO_ROOM; /* the store has said what to do */
    default: break;
  }
  gb_event(GB_LOG_WARN, CUDA_SUCCESS, "nvme_write_failed",
           "the NVMe file in %s takes no bytes (%s): ranges stay where they are",
           gb_store_directory(), strerror(-error));
  return GB_MOVE_NO_ROOM;
}

/* Waits for the writes of the first count pieces: what is on the disk is a copy from here on. */
static int settle(struct gb_span *span, const bool *written, uint32_t count) {
  int worst = 0;
  for (uint32_t i = 0; i < count; i++) {
    if (!written[i]) continue;
    int error = gb_store_write_end(span->pieces[i].slot);
    span->pieces[i].valid = error == 0;
    if (error == 0) gb_report_add(GB_COUNT_NVME_WRITE_BYTES, gb_piece_bytes(span, i));
    if (error != 0) worst = error;
  }
  return worst;
}

/* Pieces are copied out one ahead of the one that is hashed and written. */
static enum gb_moved store_pieces(struct gb_span *span, const struct gb_bounce *bounce,
                                  CUstream stream, struct gb_seen *seen, bool *written) {
  uint32_t count = gb_piece_count(span);
  uint32_t piece = 0;
  int error = 0;
  bool copied = gb_piece_copy_out(span, 0, gb_bounce_piece(bounce, 0), stream);
  for (; piece < count && copied && error == 0; piece++) {
    const unsigned char *bytes = gb_bounce_piece(bounce, piece);
    copied = gb_piece_copied(stream);
    if (copied && piece + 1 < count)
      copied = gb_piece_copy_out(span, piece + 1, gb_bounce_piece(bounce, piece + 1), stream);
    if (!copied || gb_piece_is_kept(span, piece, bytes, seen)) continue;
    error = gb_store_write_begin(span->pieces[piece].slot, bytes, gb_piece_bytes(span, piece));
    written[piece] = error == 0;
  }
  int ended = settle(span, written, piece);
  /* A copy on its way lands in memory that the next move uses. */
  if (!gb_piece_copied(stream) || !copied) return GB_MOVE_FAILED;
  return from_write(error != 0 ? error : ended);
}

enum gb_moved gb_nvme_store(struct gb_span *span, CUstream stream, struct gb_seen *seen) {
  struct gb_bounce *bounce = gb_bounce_get();
  if (bounce == NULL) return GB_MOVE_UNREACHABLE;
  bool *written = calloc(gb_piece_count(span), sizeof *written);
  if (written == NULL) return GB_MOVE_UNREACHABLE;
  enum gb_moved result = store_pieces(span, bounce, stream, seen, written);
  free(written);
  return result;
}

/* ---- in ---- */

static enum gb_moved from_read(const struct gb_span *span, int error) {
  if (error == 0) return GB_MOVED;
  if (error == -ENOMEM || error == -EBUSY) return GB_MOVE_UNREACHABLE;
  gb_event(GB_LOG_ERROR, CUDA_ERROR_EXTERNAL_DEVICE,
           error == -EBADMSG ? "content_mismatch" : "nvme_read_failed",
           "the NVMe file in %s: %s (of 0x%llx)", gb_store_directory(),
           error == -EBADMSG ? "other bytes came back than were written" : strerror(-error),
           (unsigned long long)span->base);
  return GB_MOVE_LOST;
}

static void ahead_of(const struct gb_span *span, uint32_t from, uint32_t count) {
  for (uint32_t i = from; i < gb_piece_count(span) && i < from + count; i++) {
    gb_store_prefetch(span->pieces[i].slot, gb_piece_bytes(span, i));
  }
}

enum gb_moved gb_nvme_load(struct gb_span *span, CUstream stream) {
  struct gb_bounce *bounce = gb_bounce_get();
  if (bounce == NULL) return GB_MOVE_UNREACHABLE;
  enum gb_moved result = GB_MOVED;
  for (uint32_t piece = 0; piece < gb_piece_count(span) && result == GB_MOVED; piece++) {
    unsigned char *bytes = gb_bounce_piece(bounce, piece);
    ahead_of(span, piece + 1, GB_STORE_WINDOW);
    int error = gb_store_read(span->pieces[piece].slot, bytes, gb_piece_bytes(span, piece));
    if (error == -ETIMEDOUT) gb_bounce_abandon(bounce);
    result = from_read(span, error);
    /* The copy before has had the time of this read; its memory is the next one's. */
    if (result == GB_MOVED && !(gb_piece_copied(stream) &&
                                gb_piece_copy_in(span, piece, bytes, stream)))
      result = GB_MOVE_FAILED;
    if (result == GB_MOVED)
      gb_report_add(GB_COUNT_NVME_READ_BYTES, gb_piece_bytes(span, piece));
  }
  return gb_piece_copied(stream) || result != GB_MOVED ? result : GB_MOVE_FAILED;
}

/* ---- ahead ---- */

struct next {
  struct gb_span *span;
  uint64_t tick;
};

/* Enters a span among the soonest, sorted. */
static uint32_t enter(struct next *list, uint32_t count, struct next entry) {
  uint32_t at = count < PREDICTED_MAX ? count : PREDICTED_MAX - 1;
  if (count == PREDICTED_MAX && list[at].tick <= entry.tick) return count;
  for (; at > 0 && list[at - 1].tick > entry.tick; at--) list[at] = list[at - 1];
  list[at] = entry;
  return count < PREDICTED_MAX ? count + 1 : count;
}

void gb_nvme_ahead(void) {
  struct next list[PREDICTED_MAX];
  uint32_t count = 0;
  uint32_t room = PREDICTED_MAX;
  uint64_t now = gb_now_tick();
  for (struct gb_span *span = gb_span_next(NULL); span != NULL; span = gb_span_next(span)) {
    if (gb_residency(span) != GB_STORED || !gb_on_nvme(span) || span->going) continue;
    count = enter(list, count, (struct next){span, gb_predict(span, now)});
  }
  for (uint32_t i = 0; i < count && room > 0; i++) {
    uint32_t pieces = gb_piece_count(list[i].span);
    ahead_of(list[i].span, 0, room);
    room -= pieces < room ? pieces : room;
  }
}
