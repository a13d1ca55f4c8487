/* SPDX-License-Identifier: Apache-2.0 */
/*
 * notice.c: see notice.h.
 */
#include "notice.h"

#include <sys/eventfd.h>
#include <unistd.h>

int lane_bell(void) {
  return eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
}

void lane_ring(int bell) {
  uint64_t one = 1;
  ssize_t ignored = write(bell, &one, sizeof one); /* full: it rings already */
  (void)ignored;
}

void lane_hush(int bell) {
  uint64_t count;
  ssize_t ignored = read(bell, &count, sizeof count);
  (void)ignored;
}

bool lane_notices_begin(struct lane_notices *notices) {
  notices->bell = lane_bell();
  return notices->bell >= 0;
}

void lane_notices_end(struct lane_notices *notices) {
  if (notices->bell >= 0) close(notices->bell);
  notices->bell = -1;
}

void lane_notices_put(struct lane_notices *notices, const struct gb_lane_event *event) {
  if (notices->count == GB_LANE_EVENTS_MAX) {
    notices->dropped++;
    return;
  }
  notices->events[(notices->first + notices->count++) % GB_LANE_EVENTS_MAX] = *event;
  lane_ring(notices->bell);
}

uint32_t lane_notices_take(struct lane_notices *notices, struct gb_lane_event *events, uint32_t count) {
  uint32_t taken = 0;
  for (; taken < count && notices->count > 0; taken++) {
    events[taken] = notices->events[notices->first];
    notices->first = (notices->first + 1) % GB_LANE_EVENTS_MAX;
    notices->count--;
  }
  if (notices->count == 0) lane_hush(notices->bell);
  return taken;
}
