/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lanes.h: the process's lanes to feeders (docs/adr/0011, 0012), by the numbers the agent gives them in PLACE.
 * A lane is opened on first need with a ticket of the agent's, and again with another one after it has ended.
 *
 *   closed --get--> open --it has ended--> closed --the agent says DATA_LOSS--> gone
 *
 * Any thread; gb_lock may be held, and is not needed. Nothing of it exists in a forked child.
 */
#ifndef GB_LANES_H
#define GB_LANES_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "gb_abi.h"
#include "lane.h"

/* An open lane in use: closed only when nobody uses it any more. */
struct gb_open_lane {
  gb_lane *lane;
  uint32_t number;
  uint32_t users;
  bool dropped; /* another one may have taken its number */
  bool offers;  /* the feeder keeps blocks by their content: offering them is worth a round trip */
  bool runs;    /* it takes calls: the feeder has a GPU and lends compute */
  uint32_t compute_capability; /* of that GPU: 90 is 9.0 */
  char feeder[64];
};

/* The open lane of a number; opens it if need be, which takes a request to the agent and at most some
 * seconds. owns: on GB_STATUS_OK the caller gives it back with gb_lanes_done. returns: GB_STATUS_OK;
 * GB_STATUS_UNREACHABLE: ask again later; GB_STATUS_DATA_LOSS: what lay behind it is gone. */
enum gb_status gb_lanes_get(uint32_t number, struct gb_open_lane **open);
/* Gives it back. `status` of lane.h is how the request ended; a lane that has ended with it is closed. */
void gb_lanes_done(struct gb_open_lane *open, int status);
/* So many bytes need not be written over it: the feeder had them. */
void gb_lanes_count_cached(const struct gb_open_lane *open, uint64_t bytes);
/* The feeder's name, for messages; "" before the first ticket. Good until the thread's next call. */
const char *gb_lanes_feeder(uint32_t number);
/* Tells the agent how every lane is. */
void gb_lanes_report(void);
/* Writes what was dispatched over each lane, as the elements of a JSON list; the names are those of
 * `greenboost status --json`. Any thread, no lock needed. */
void gb_lanes_write(FILE *file);
/* Says goodbye everywhere, within a fraction of a second. pre: nobody uses any. */
void gb_lanes_stop(void);
/* In a forked child: the parent's lanes are not ours. No lock. */
void gb_lanes_forked(void);

#endif
