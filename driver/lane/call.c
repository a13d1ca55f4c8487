/* SPDX-License-Identifier: Apache-2.0 */
/*
 * call.c: CALL and RESULT: messages to what is behind a region, and their answers.
 */
#include <stdlib.h>

#include "lane.h"

int gb_lane_call(gb_lane *lane, const struct gb_lane_call *call, uint64_t *id) {
  if (lane == NULL || call == NULL || id == NULL) return GB_LANE_INVALID;
  return GB_LANE_INVALID; /* no server takes calls */
}

void gb_lane_answer(struct gb_lane_called *called, int status, void *result, uint64_t bytes) {
  (void)called, (void)status, (void)bytes;
  free(result);
}
