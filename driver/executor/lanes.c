/* SPDX-License-Identifier: Apache-2.0 */
/* lanes.c: see lanes.h. */
#define _GNU_SOURCE
#include "lanes.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define EVENTS_AT_ONCE 16u
#define SWEEP_MS 5000
/* Tickets that one call of let_go ends; what is left is found by the next. */
#define ENDED_AT_ONCE 64u

static uint64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static struct gbx_result from_lane(int status) {
  switch (status) {
  case GB_LANE_OK:
    return (struct gbx_result){GBX_OK, 0};
  case GB_LANE_INVALID:
    return (struct gbx_result){GBX_INVALID, status};
  case GB_LANE_NOT_FOUND:
    return (struct gbx_result){GBX_NOT_FOUND, status};
  case GB_LANE_LIMIT:
  case GB_LANE_NO_MEMORY:
    return (struct gbx_result){GBX_CAPACITY, status};
  default:
    return (struct gbx_result){GBX_LANE, status};
  }
}

/* ---- tickets ---- */

/* locks: the lanes' lock is held. */
static struct gbx_granted *find(struct gbx_lanes *lanes, const uint8_t *ticket_id) {
  struct gbx_granted *granted = lanes->granted;
  while (granted && memcmp(granted->is.ticket_id, ticket_id, sizeof(granted->is.ticket_id)) != 0)
    granted = granted->next;
  return granted;
}

static bool is_sane(const struct gbx_lanes *lanes, const struct gbx_grant *grant) {
  uint64_t arena = lanes->store->memory.arena_bytes;
  uint32_t known = GB_LANE_MAY_READ | GB_LANE_MAY_WRITE | GB_LANE_MAY_CALL;
  return grant->length > 0 && grant->length <= arena && grant->offset <= arena - grant->length &&
         grant->rights != 0 && (grant->rights & ~known) == 0;
}

/* Gives the ticket to the lane library. */
static int offer(struct gbx_lanes *lanes, const struct gbx_grant *grant, struct gbx_granted *granted) {
  struct gb_lane_grant offered = {.size = sizeof(offered),
                                  .connections = grant->connections,
                                  .ttl_ms = grant->ttl_ms,
                                  .window = grant->window,
                                  .tag = grant->tag,
                                  .bytes_per_second = grant->bytes_per_second};
  memcpy(offered.ticket.id, grant->ticket_id, sizeof(offered.ticket.id));
  memcpy(offered.ticket.secret, grant->secret, sizeof(offered.ticket.secret));
  int status = gb_lane_grant_add(lanes->server, &offered);
  explicit_bzero(&offered, sizeof(offered));
  if (status != GB_LANE_OK)
    return status;
  const struct gb_lane_region region = {.size = sizeof(region),
                                        .rights = grant->rights,
                                        .bytes = grant->length,
                                        .backing = &gbx_backing,
                                        .context = granted};
  status = gb_lane_export(lanes->server, grant->ticket_id, &region);
  if (status != GB_LANE_OK)
    gb_lane_grant_revoke(lanes->server, grant->ticket_id);
  return status;
}

struct gbx_result gbx_lanes_grant(struct gbx_lanes *lanes, const struct gbx_grant *grant) {
  if (!lanes->server)
    return from_lane(lanes->status);
  if (!is_sane(lanes, grant))
    return (struct gbx_result){GBX_INVALID, 0};
  struct gbx_result runs = {GBX_OK, 0};
  if ((grant->rights & GB_LANE_MAY_CALL) != 0)
    runs = gbx_run_start(lanes->run);
  if (runs.status != GBX_OK)
    return runs;
  struct gbx_granted *granted = calloc(1, sizeof(*granted));
  if (!granted)
    return (struct gbx_result){GBX_CAPACITY, ENOMEM};
  granted->lanes = lanes;
  granted->is = *grant;
  explicit_bzero(granted->is.secret, sizeof(granted->is.secret));
  uint32_t ttl_ms = grant->ttl_ms ? grant->ttl_ms : GB_LANE_TICKET_MS;
  granted->unopened_until_ms = now_ms() + ttl_ms;
  pthread_mutex_lock(&lanes->lock);
  bool known = find(lanes, grant->ticket_id) != NULL;
  if (!known) {
    granted->next = lanes->granted;
    lanes->granted = granted;
  }
  granted->ending = true; /* not yet anybody's to revoke */
  pthread_mutex_unlock(&lanes->lock);
  int status = known ? GB_LANE_INVALID : offer(lanes, grant, granted);
  pthread_mutex_lock(&lanes->lock);
  granted->ending = false;
  struct gbx_granted **at = &lanes->granted;
  while (!known && status != GB_LANE_OK && *at != granted)
    at = &(*at)->next;
  if (!known && status != GB_LANE_OK)
    *at = granted->next;
  pthread_cond_broadcast(&lanes->changed);
  pthread_mutex_unlock(&lanes->lock);
  if (status != GB_LANE_OK)
    free(granted);
  return from_lane(status);
}

struct gbx_result gbx_lanes_limit(struct gbx_lanes *lanes, const struct gbx_limit *limit) {
  return from_lane(lanes->server ? gb_lane_grant_rate(lanes->server, limit->ticket_id, limit->bytes_per_second)
                                 : lanes->status);
}

/* Takes back a ticket that the caller has marked as ending. */
static void end(struct gbx_lanes *lanes, struct gbx_granted *granted) {
  gb_lane_grant_revoke(lanes->server, granted->is.ticket_id); /* after this its backing is not called */
  pthread_mutex_lock(&lanes->lock);
  struct gbx_granted **at = &lanes->granted;
  while (*at != granted)
    at = &(*at)->next;
  *at = granted->next;
  pthread_cond_broadcast(&lanes->changed);
  pthread_mutex_unlock(&lanes->lock);
  free(granted);
}

struct gbx_result gbx_lanes_revoke(struct gbx_lanes *lanes, const uint8_t *ticket_id) {
  pthread_mutex_lock(&lanes->lock);
  struct gbx_granted *granted = find(lanes, ticket_id);
  bool known = granted != NULL;
  while (granted && granted->ending) { /* somebody else is at it, for moments */
    pthread_cond_wait(&lanes->changed, &lanes->lock);
    granted = find(lanes, ticket_id);
  }
  if (granted) {
    granted->ending = true;
    pthread_cond_broadcast(&lanes->changed);
  }
  pthread_mutex_unlock(&lanes->lock);
  if (granted)
    end(lanes, granted);
  return (struct gbx_result){known ? GBX_OK : GBX_NOT_FOUND, 0};
}

struct gbx_lane_stat gbx_lanes_stat(struct gbx_lanes *lanes, const uint8_t *ticket_id) {
  struct gb_lane_counters counters;
  int status = lanes->server ? gb_lane_grant_counters(lanes->server, ticket_id, &counters) : GB_LANE_NOT_FOUND;
  struct gbx_result result = from_lane(status);
  struct gbx_lane_stat stat = {.status = result.status, .detail = result.detail};
  if (status != GB_LANE_OK)
    return stat;
  pthread_mutex_lock(&lanes->lock);
  const struct gbx_granted *granted = find(lanes, ticket_id);
  stat.cached_bytes = granted ? granted->cached_bytes : 0;
  pthread_mutex_unlock(&lanes->lock);
  stat.state = counters.state;
  stat.connections = counters.connections;
  stat.bytes_read = counters.bytes_read;
  stat.bytes_written = counters.bytes_written;
  stat.wire_bytes_in = counters.wire_bytes_in;
  stat.wire_bytes_out = counters.wire_bytes_out;
  stat.round_trip_ns = counters.round_trip_ns_last;
  stat.key_age_ms = counters.key_age_ms;
  memcpy(stat.cipher, counters.cipher, sizeof(stat.cipher));
  memcpy(stat.provider, counters.provider, sizeof(stat.provider));
  return stat;
}

/* ---- letting go ---- */

/* Marks a ticket that works on the range as ending. NULL: none does. */
static struct gbx_granted *claim_user(struct gbx_lanes *lanes, const struct gbx_range *range) {
  struct gbx_granted *granted = NULL;
  pthread_mutex_lock(&lanes->lock);
  for (struct gbx_piece *piece = lanes->pieces; piece && !granted; piece = piece->next) {
    if (!piece->granted->ending && gbx_span_touches(&piece->span, range))
      granted = piece->granted;
  }
  if (granted) {
    granted->ending = true;
    pthread_cond_broadcast(&lanes->changed);
  }
  pthread_mutex_unlock(&lanes->lock);
  return granted;
}

void gbx_lanes_let_go(struct gbx_lanes *lanes, const struct gbx_range *range, bool by_force) {
  if (!lanes->server)
    return;
  gbx_ahead_forget(&lanes->aheads, range);
  for (unsigned count = 0; by_force && count < ENDED_AT_ONCE; count++) {
    struct gbx_granted *granted = claim_user(lanes, range);
    if (!granted)
      return;
    end(lanes, granted);
  }
}

/* ---- events ---- */

/* Marks a ticket as ending whose time is over. NULL: there is none. */
static struct gbx_granted *claim_old(struct gbx_lanes *lanes) {
  uint64_t now = now_ms();
  pthread_mutex_lock(&lanes->lock);
  struct gbx_granted *granted = lanes->granted;
  for (; granted; granted = granted->next) {
    struct gb_lane_counters counters;
    if (granted->ending || gb_lane_grant_counters(lanes->server, granted->is.ticket_id, &counters) != GB_LANE_OK)
      continue;
    bool over = counters.state == GB_LANE_PENDING ? now >= granted->unopened_until_ms : counters.state != GB_LANE_OK;
    if (over && granted->forget_ms == 0)
      granted->forget_ms = now + GBX_TICKET_KEPT_MS;
    if (over && now >= granted->forget_ms)
      break;
  }
  if (granted)
    granted->ending = true;
  pthread_mutex_unlock(&lanes->lock);
  return granted;
}

static void tell(struct gbx_lanes *lanes) {
  struct gb_lane_event events[EVENTS_AT_ONCE];
  uint32_t count = gb_lane_server_events(lanes->server, events, EVENTS_AT_ONCE);
  for (uint32_t index = 0; index < count; index++) {
    const struct gb_lane_event *event = &events[index];
    struct gbx_lane_event notice = {.kind = event->kind,
                                    .reason = event->reason,
                                    .status = event->status,
                                    .version = event->version,
                                    .tag = event->tag};
    memcpy(notice.ticket_id, event->ticket, sizeof(notice.ticket_id));
    memcpy(notice.address, event->address, sizeof(notice.address));
    lanes->notice(lanes->notice_context, &notice);
  }
}

static void *events_main(void *argument) {
  struct gbx_lanes *lanes = argument;
  struct pollfd polled[2] = {{.fd = gb_lane_server_poll_fd(lanes->server), .events = POLLIN},
                             {.fd = lanes->stop, .events = POLLIN}};
  uint64_t sweep_ms = now_ms() + SWEEP_MS;
  while (poll(polled, 2, SWEEP_MS) >= 0 || errno == EINTR) {
    if (polled[1].revents != 0)
      break;
    if (polled[0].revents != 0)
      tell(lanes);
    struct gbx_granted *old;
    while (now_ms() >= sweep_ms && (old = claim_old(lanes)) != NULL)
      end(lanes, old);
    if (now_ms() >= sweep_ms)
      sweep_ms = now_ms() + SWEEP_MS;
  }
  return NULL;
}

/* ---- beginning and end ---- */

void gbx_lanes_open(struct gbx_lanes *lanes, struct gbx_store *store, struct gbx_block_cache *cache,
                    struct gbx_run *run, int door_fd,
                    void (*notice)(void *context, const struct gbx_lane_event *event), void *notice_context) {
  *lanes = (struct gbx_lanes){
      .store = store, .cache = cache, .run = run, .notice = notice, .notice_context = notice_context, .stop = -1};
  pthread_mutex_init(&lanes->lock, NULL);
  pthread_cond_init(&lanes->changed, NULL);
  gbx_buffers_open(&lanes->buffers, &store->memory, GB_LANE_RECORD_BYTES, GBX_LANE_BUFFERS_MAX);
  lanes->status = GB_LANE_UNREACHABLE;
  if (door_fd < 0)
    return;
  lanes->status = GB_LANE_NO_MEMORY;
  lanes->stop = eventfd(0, EFD_CLOEXEC);
  if (lanes->stop < 0 || !gbx_aheads_open(&lanes->aheads, store, &lanes->buffers))
    return;
  const struct gb_lane_server_options options = {
      .size = sizeof(options), .fd = -1, .adopt_fd = door_fd, .tuning = {.record_bytes = GB_LANE_RECORD_BYTES}};
  lanes->status = gb_lane_server_open(&options, &lanes->server);
  if (lanes->status != GB_LANE_OK) {
    lanes->server = NULL;
    fprintf(stderr, "gb-executor: no lanes: %s\n", gb_lane_status_name(lanes->status));
  } else if (pthread_create(&lanes->events, NULL, events_main, lanes) != 0) {
    gb_lane_server_close(lanes->server);
    lanes->server = NULL;
    lanes->status = GB_LANE_NO_MEMORY;
  }
}

void gbx_lanes_close(struct gbx_lanes *lanes) {
  if (!lanes->server)
    return;
  uint64_t one = 1;
  ssize_t written = write(lanes->stop, &one, sizeof(one));
  (void)written; /* An eventfd takes it. */
  pthread_join(lanes->events, NULL);
  gb_lane_server_close(lanes->server);
  lanes->server = NULL;
}
