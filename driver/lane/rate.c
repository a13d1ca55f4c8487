/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rate.c: how fast a lane may be. Each way has a time at which all that has gone is paid for; what goes next waits for
 * it. READs wait to be answered, WRITEs for their ACK, and the window bounds what can be on its way until then: nothing
 * is kept in memory for later, and neither heartbeats nor other requests wait with it.
 */
#include "serve.h"

/* What a thread wakes too late is made up for, up to this much. */
#define LATE_NS 5000000ull
/* Small demand requests go on while less than this is owed beyond one record: bulk pays for them. */
#define RESERVE_NS 250000000ull

static uint64_t cost_ns(uint64_t bytes, uint64_t rate) {
  return bytes * 1000000000ull / rate; /* bytes of one record: no overflow */
}

uint64_t lane_rate_when(struct lane_grant *grant, enum lane_way way, const struct lane_head *head) {
  uint64_t rate = grant->rate;
  if (rate == 0) return 0;
  pthread_mutex_lock(&grant->lock);
  uint64_t due = grant->due_ns[way];
  pthread_mutex_unlock(&grant->lock);
  bool small = head->priority == GB_LANE_DEMAND && head->length <= GB_LANE_EXPRESS_BYTES_MAX;
  uint64_t reserve = small ? RESERVE_NS + cost_ns(grant->record_bytes, rate) : 0;
  return due > reserve ? due - reserve : 0;
}

uint64_t lane_rate_charge(struct lane_grant *grant, enum lane_way way, const struct lane_head *head) {
  uint64_t rate = grant->rate, now = lane_now_ns();
  if (rate == 0) return 0;
  pthread_mutex_lock(&grant->lock);
  uint64_t from = grant->due_ns[way] + LATE_NS > now ? grant->due_ns[way] : now - LATE_NS;
  grant->due_ns[way] = from + cost_ns(head->length, rate);
  pthread_mutex_unlock(&grant->lock);
  return lane_rate_when(grant, way, head);
}

void lane_rate_set(struct lane_grant *grant, uint64_t bytes_per_second) {
  bool low = bytes_per_second > 0 && bytes_per_second < GB_LANE_RATE_MIN;
  pthread_mutex_lock(&grant->lock);
  grant->rate = low ? GB_LANE_RATE_MIN : bytes_per_second;
  grant->due_ns[LANE_OUT] = grant->due_ns[LANE_IN] = 0; /* what is owed was reckoned by the old one */
  grant->rate_changes++;
  pthread_mutex_unlock(&grant->lock);
}
