/* SPDX-License-Identifier: Apache-2.0 */
/*
 * link.c: the life of one connection: its thread, its receiving side, heartbeat and end. Sending is in link_send.c.
 *
 * A record is received in slices into one buffer that stays in the cache, and opened from there into its destination.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "link.h"

/* Receives before the thread looks at what it has to send. */
#define RECEIVES_PER_TURN 8
/* The receiver of a body wakes for this much: measured, 0.19 CPU seconds per GB instead of 0.215. */
#define LOW_BYTES LANE_SLICE_BYTES
/* Ciphers are asked for whole runs of blocks, except at a body's end. */
#define RUN_BYTES 64u

int lane_link_init(struct lane_link *link, const struct lane_link_start *start) {
  const struct gb_lane_tuning *tuning = start->tuning;
  link->fd = -1;
  link->is_client = start->is_client;
  link->record_bytes = start->record_bytes;
  link->silence_ns = tuning->silence_ms * 1000000ull;
  link->heartbeat_ns = tuning->heartbeat_ms * 1000000ull;
  link->rekey_ns = tuning->rekey_ms * 1000000ull;
  link->rekey_bytes = tuning->rekey_bytes;
  link->ops = start->ops;
  link->owner = start->owner;
  pthread_mutex_init(&link->tx_lock, NULL);
  uint64_t now = lane_now_ns();
  link->counters.heard_ns = link->counters.said_ns = now;
  link->counters.seal_key_ns = link->counters.open_key_ns = now;
  link->tx_room = start->record_bytes + LANE_BATCH_BYTES + LANE_SLICE_BYTES;
  link->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  link->tx = malloc(link->tx_room);
  link->rx = malloc(LANE_SLICE_BYTES);
  bool keys = lane_key_first(&link->seal, start->aead, true, start->is_client, start->secret, start->opening,
                             start->answer) &&
              lane_key_first(&link->open, start->aead, false, !start->is_client, start->secret, start->opening,
                             start->answer);
  int flags = fcntl(start->fd, F_GETFL);
  if (link->wake < 0 || link->tx == NULL || link->rx == NULL || !keys || flags < 0 ||
      fcntl(start->fd, F_SETFL, flags | O_NONBLOCK) != 0) {
    lane_link_free(link);
    return GB_LANE_NO_MEMORY;
  }
  link->fd = start->fd;
  return GB_LANE_OK;
}

void lane_link_free(struct lane_link *link) {
  lane_key_end(&link->seal);
  lane_key_end(&link->open);
  free(link->tx);
  free(link->rx);
  link->tx = link->rx = NULL;
  if (link->fd >= 0) close(link->fd);
  if (link->wake >= 0) close(link->wake);
  link->fd = link->wake = -1;
  pthread_mutex_destroy(&link->tx_lock);
}

void lane_link_wake(struct lane_link *link) {
  uint64_t one = 1;
  ssize_t ignored = write(link->wake, &one, sizeof one); /* full: it is awake */
  (void)ignored;
}

void lane_link_end(struct lane_link *link, int status) {
  int alive = GB_LANE_OK;
  if (atomic_compare_exchange_strong(&link->end, &alive, status)) lane_link_wake(link);
}

void lane_link_goodbye(struct lane_link *link, int status) {
  int none = GB_LANE_OK;
  if (atomic_compare_exchange_strong(&link->goodbye, &none, status)) lane_link_wake(link);
}

/* ---- receiving ---- */

static int on_pong(struct lane_link *link, uint64_t number) {
  pthread_mutex_lock(&link->tx_lock);
  bool known = number != 0 && number <= link->pinged;
  uint64_t took = number == link->pinged ? lane_now_ns() - link->ping_ns : 0;
  pthread_mutex_unlock(&link->tx_lock);
  if (!known) return GB_LANE_PROTOCOL;
  if (took != 0) {
    link->counters.round_trip_ns = took;
    link->counters.round_trips++;
    uint64_t least = link->counters.round_trip_min_ns;
    if (least == 0 || took < least) link->counters.round_trip_min_ns = took;
  }
  link->pong = number;
  return GB_LANE_OK;
}

/* The link's own types; the rest is the owner's. */
static int on_head(struct lane_link *link, const struct lane_head *head) {
  switch (head->type) {
    case LANE_PING:
      link->pong_wanted = head->value;
      return GB_LANE_OK;
    case LANE_PONG:
      return on_pong(link, head->value);
    case LANE_REKEY:
      link->counters.open_key_ns = lane_now_ns();
      return lane_key_next(&link->open) ? GB_LANE_OK : GB_LANE_NO_MEMORY;
    case LANE_GOODBYE:
      lane_link_goodbye(link, GB_LANE_CLOSED);
      return head->status;
    default:
      return link->ops->head(link->owner, head);
  }
}

static int open_head(struct lane_link *link) {
  int status = lane_head_open(&link->open, link->rx + link->rx_at, &link->rx_head, link->record_bytes,
                              !link->is_client);
  if (status != GB_LANE_OK) return status;
  link->rx_at += LANE_SEALED_HEAD_BYTES;
  link->counters.records_in++;
  status = on_head(link, &link->rx_head);
  if (status != GB_LANE_OK || link->rx_head.body_bytes == 0) return status;
  link->in_body = true;
  link->rx_body_at = 0;
  return lane_key_begin(&link->open, link->rx_head.body_bytes) ? GB_LANE_OK : GB_LANE_PROTOCOL;
}

/* Opens what has come of a body, into its place or over itself. */
static bool open_slice(struct lane_link *link, uint32_t bytes) {
  uint8_t *from = link->rx + link->rx_at;
  void *to = link->ops->place(link->owner, link->rx_body_at, bytes);
  bool right = link->open.aead->update(link->open.context, from, to != NULL ? to : from, bytes);
  if (to != NULL) link->ops->placed(link->owner);
  link->rx_at += bytes;
  link->rx_body_at += bytes;
  return right;
}

static int open_tag(struct lane_link *link) {
  if (!link->open.aead->verify(link->open.context, link->rx + link->rx_at)) return GB_LANE_FORGED;
  link->rx_at += LANE_TAG_BYTES;
  link->in_body = false;
  link->counters.body_in += link->rx_head.body_bytes;
  return link->ops->body(link->owner);
}

/* Opens all that has come; what is left is less than it takes to go on, and moves to the buffer's start. */
static int open_received(struct lane_link *link) {
  int status = GB_LANE_OK;
  while (status == GB_LANE_OK) {
    size_t have = link->rx_have - link->rx_at;
    if (!link->in_body) {
      if (have < LANE_SEALED_HEAD_BYTES) break;
      status = open_head(link);
      continue;
    }
    uint32_t left = link->rx_head.body_bytes - link->rx_body_at;
    if (left == 0) {
      if (have < LANE_TAG_BYTES) break;
      status = open_tag(link);
      continue;
    }
    uint32_t bytes = have >= left ? left : (uint32_t)have & ~(RUN_BYTES - 1);
    if (bytes == 0) break;
    if (!open_slice(link, bytes)) status = GB_LANE_FORGED;
  }
  memmove(link->rx, link->rx + link->rx_at, link->rx_have - link->rx_at);
  link->rx_have -= link->rx_at;
  link->rx_at = 0;
  return status;
}

/* Takes what has arrived, without waiting. *more: there may be more. */
static int receive(struct lane_link *link, bool *more) {
  for (int i = 0; i < RECEIVES_PER_TURN; i++) {
    size_t room = LANE_SLICE_BYTES - link->rx_have;
    ssize_t got = recv(link->fd, link->rx + link->rx_have, room, MSG_DONTWAIT);
    *more = got > 0;
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) return GB_LANE_OK;
    if (got <= 0) return lane_link_broken(link, got < 0 ? errno : 0);
    link->rx_have += (size_t)got;
    link->counters.wire_in += (uint64_t)got;
    link->counters.heard_ns = lane_now_ns();
    int status = open_received(link);
    if (status != GB_LANE_OK) return status;
    if ((size_t)got < room) *more = false; /* poll will say */
    if (!*more) return GB_LANE_OK;
  }
  return GB_LANE_OK;
}

/* ---- the thread ---- */

static uint64_t least(uint64_t a, uint64_t b) {
  return a < b ? a : b;
}

/* Within a body it is not worth waking for every segment: so much of it, or its rest. A link that is slow wakes by its
 * heartbeat before, and takes what is there. */
static void expect(struct lane_link *link) {
  int low = 1;
  if (link->in_body) {
    size_t left = link->rx_head.body_bytes - link->rx_body_at + LANE_TAG_BYTES - (link->rx_have - link->rx_at);
    low = left < LOW_BYTES ? (int)left : (int)LOW_BYTES;
  }
  if (low == link->rx_low) return;
  link->rx_low = low;
  setsockopt(link->fd, SOL_SOCKET, SO_RCVLOWAT, &low, sizeof low);
}

/* Waits for the socket, a wake or the next time that matters. */
static void rest(struct lane_link *link, bool blocked, uint64_t until) {
  struct pollfd polled[2] = {{.fd = link->fd, .events = (short)(POLLIN | (blocked ? POLLOUT : 0))},
                             {.fd = link->wake, .events = POLLIN}};
  uint64_t now = lane_now_ns();
  struct timespec timeout = {0};
  expect(link);
  if (until > now) {
    timeout.tv_sec = (time_t)((until - now) / 1000000000ull);
    timeout.tv_nsec = (long)((until - now) % 1000000000ull);
  }
  if (ppoll(polled, 2, &timeout, NULL) > 0 && (polled[1].revents & POLLIN) != 0) {
    uint64_t count;
    ssize_t ignored = read(link->wake, &count, sizeof count);
    (void)ignored;
  }
}

/* Silence, and the heartbeat against the peer's. returns: the next time to look. */
static uint64_t keep_alive(struct lane_link *link, uint64_t now) {
  uint64_t lost = link->counters.heard_ns + link->silence_ns;
  uint64_t beat = link->counters.said_ns + link->heartbeat_ns;
  if (now >= lost) lane_link_end(link, GB_LANE_LOST);
  /* A peer that hears a goodbye and does not answer it is not waited for longer than a silent one. */
  if (link->goodbye_said && now >= link->goodbye_ns + link->silence_ns) lane_link_end(link, link->goodbye);
  if (now >= beat) {
    link->ping++;
    beat = now + link->heartbeat_ns;
  }
  return least(lost, beat);
}

int lane_link_run(struct lane_link *link) {
  while (link->end == GB_LANE_OK) {
    bool more = false, blocked = false;
    int status = receive(link, &more);
    uint64_t now = lane_now_ns();
    uint64_t until = keep_alive(link, now);
    if (status == GB_LANE_OK && link->end == GB_LANE_OK) status = lane_link_send(link, &blocked);
    until = least(until, link->ops->turn(link->owner, now));
    if (status != GB_LANE_OK) lane_link_end(link, status);
    if (link->end == GB_LANE_OK && !more) rest(link, blocked, until);
  }
  return link->end;
}

void lane_link_count(struct lane_link *link, struct gb_lane_counters *sum, uint64_t now_ns) {
  struct lane_link_counters *own = &link->counters;
  sum->bytes_read += own->body_in;
  sum->bytes_written += own->body_out;
  sum->wire_bytes_in += own->wire_in;
  sum->wire_bytes_out += own->wire_out;
  sum->records_in += own->records_in;
  sum->records_out += own->records_out;
  sum->rekeys += own->rekeys;
  sum->retries += own->retries;
  sum->round_trips += own->round_trips;
  uint64_t oldest = least(own->seal_key_ns, own->open_key_ns), heard = own->heard_ns;
  uint64_t age = now_ns > oldest ? (now_ns - oldest) / 1000000 : 0;
  uint64_t quiet = now_ns > heard ? (now_ns - heard) / 1000000 : 0;
  if (age > sum->key_age_ms) sum->key_age_ms = age;
  if (quiet > sum->heard_ms) sum->heard_ms = quiet;
  uint64_t trip = own->round_trip_min_ns;
  if (trip != 0 && (sum->round_trip_ns_min == 0 || trip < sum->round_trip_ns_min)) sum->round_trip_ns_min = trip;
  if (own->round_trip_ns != 0) sum->round_trip_ns_last = own->round_trip_ns;
  sum->connections++;
}
