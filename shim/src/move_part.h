/* SPDX-License-Identifier: Apache-2.0 */
/* move_part.h: what the two ways out of the local tiers share: remote.c (feeders) and nvme.c. Nobody
 * else includes it. */
#ifndef GB_MOVE_PART_H
#define GB_MOVE_PART_H

#include "move.h"

/* What an eviction learned of the content. */
struct gb_seen {
  bool hidden;          /* it holds addresses of the arena */
  uint64_t clean_bytes; /* equal to the copy kept */
};

/* Remembers the driver's error. returns: whether there is none. */
bool gb_move_ok(CUresult result);
/* What an answer of the agent, or of a lane, means for a move. */
enum gb_moved gb_moved_from(enum gb_status status);
/* Begin copies of one piece between its chunks and pinned memory. */
bool gb_piece_copy_out(const struct gb_span *span, uint32_t piece, void *to, CUstream stream);
bool gb_piece_copy_in(const struct gb_span *span, uint32_t piece, const void *from,
                      CUstream stream);
/* Waits for copies begun. returns: false when the driver failed or took too long. */
bool gb_piece_copied(CUstream stream);
/* Looks at the bytes of a piece that is leaving. returns: true when the copy kept holds the same;
 * else its digests are set and it is not valid. */
bool gb_piece_is_kept(struct gb_span *span, uint32_t piece, const void *bytes,
                      struct gb_seen *seen);
/* The granules (bits) in which these bytes are not the ones that were stored last. */
uint8_t gb_piece_differs(const struct gb_span *span, uint32_t piece, const void *bytes);

#endif
