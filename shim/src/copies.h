/* SPDX-License-Identifier: Apache-2.0 */
/*
 * copies.h: one piece of a span between pinned memory and its copies on feeders: which lanes, in which parts, and what
 * happens when one of them fails. A span has one copy or, with replicas, two (the extents' lane and mirror).
 *
 * A copy that missed a store is stale for that piece and is not read again until it has taken another. pre of
 * everything: gb_lock.
 */
#ifndef GB_COPIES_H
#define GB_COPIES_H

#include "arena.h"
#include "lanes.h"

#define GB_COPIES 2u
/* Extents that one piece can touch: they begin and end at multiples of GB_GRANULE, as pieces do. */
#define GB_PARTS_MAX GB_PIECE_GRANULES
/* Blocks that are offered by their content (docs/adr/0012). */
#define GB_OFFER_BLOCK_BYTES (1ull << 20)
#define GB_OFFER_BLOCKS (GB_PIECE_BYTES / GB_OFFER_BLOCK_BYTES)

/* How long a lane that is away is asked for again before a call gives up. */
#define GB_COPIES_PATIENCE_MS 15000u

/* One copy of a part. */
struct gb_part_copy {
  uint32_t lane; /* its number; 0: there is no such copy */
  bool busy;     /* a request is under way */
  bool done;     /* this transfer has succeeded */
  bool gone;     /* the agent says that it is lost */
  bool bad;      /* not to be read: stale, or other bytes came back */
  struct gb_open_lane *open;
  uint64_t id;
};

/* What one extent holds of a piece. */
struct gb_part {
  uint64_t offset; /* in the arena */
  uint64_t bytes;
  unsigned char *memory;
  uint8_t granules; /* of the piece, bits */
  struct gb_part_copy copies[GB_COPIES];
};

/* A piece on its way. The memory belongs to it until gb_transit_end. */
struct gb_transit {
  struct gb_span *span;
  unsigned char *memory;
  uint32_t piece;
  uint32_t part_count; /* 0: the span has no room for it on feeders */
  bool store;
  bool busy;
  bool hashed; /* digests are set */
  struct gb_part parts[GB_PARTS_MAX];
  uint8_t digests[GB_OFFER_BLOCKS][GB_LANE_DIGEST_BYTES]; /* of a store whose content is offered */
};

/* Begin to move a piece between memory and its copies; failures show at the end. A store concerns every copy, a load
 * the first that is not stale. */
void gb_transit_store(struct gb_transit *transit, struct gb_span *span, uint32_t piece,
                      unsigned char *memory);
void gb_transit_load(struct gb_transit *transit, struct gb_span *span, uint32_t piece,
                     unsigned char *memory);
/* Waits; asks again where a lane failed, for GB_COPIES_PATIENCE_MS. returns: GB_STATUS_OK: a load's bytes are there, or
 * a store has reached a copy; GB_STATUS_UNREACHABLE; GB_STATUS_DATA_LOSS: no copy exists any more. */
enum gb_status gb_transit_end(struct gb_transit *transit);
/* What was loaded is not what was stored, in these granules (bits): tries the other copies of those parts, the ones
 * that were used are stale. returns: as gb_transit_end; GB_STATUS_DATA_LOSS when there is no other. */
enum gb_status gb_transit_reject(struct gb_transit *transit, uint8_t granules);
/* The feeder from which these granules came. */
const char *gb_transit_source(const struct gb_transit *transit, uint8_t granules);
/* The feeder that a message about this piece should name. */
const char *gb_transit_feeder(const struct gb_transit *transit);

#endif
