/* SPDX-License-Identifier: Apache-2.0 */
/*
 * notice.h: what a server or a door has to tell its owner: a bounded queue of events with a descriptor to poll. And
 * the bells (eventfd) that wake threads. Its owner's lock is held in all of it.
 */
#ifndef GB_LANE_NOTICE_H
#define GB_LANE_NOTICE_H

#include <stdbool.h>

#include "lane.h"

struct lane_notices {
  int bell; /* readable while there are events */
  uint32_t first, count;
  uint64_t dropped;
  struct gb_lane_event events[GB_LANE_EVENTS_MAX];
};

/* returns: false: no descriptor. */
bool lane_notices_begin(struct lane_notices *notices);
void lane_notices_end(struct lane_notices *notices);
/* A full queue drops and counts it. */
void lane_notices_put(struct lane_notices *notices, const struct gb_lane_event *event);
/* returns: how many were taken. */
uint32_t lane_notices_take(struct lane_notices *notices, struct gb_lane_event *events, uint32_t count);

/* A bell that never blocks, or -1; rung until it is hushed. */
int lane_bell(void);
void lane_ring(int bell);
void lane_hush(int bell);

#endif
