/* SPDX-License-Identifier: Apache-2.0 */
/*
 * server.c: the listening side: strangers until they have shown a ticket, events, counters, the end. A stranger costs
 * one socket, 112 bytes and a few seconds; whoever fails is closed without a byte.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "serve.h"

#define BACKLOG 64
#define ACCEPTS_PER_TURN 64
/* A server that closes waits this long for goodbyes to be answered. */
#define GOODBYE_MS 1000u
/* How long nobody is accepted after that failed. */
#define DEAF_MS 100
/* Descriptors that are polled beside the strangers': listener, wake, the door's socket. */
#define OWN_POLLED 3

void lane_server_wake(struct gb_lane_server *server) {
  lane_ring(server->wake);
}

/* ---- strangers; the server's lock is held ---- */

static void dismiss(struct gb_lane_server *server, struct lane_stranger *stranger) {
  if (stranger->fd >= 0) close(stranger->fd);
  stranger->fd = -1;
  stranger->have = 0;
  server->counters.strangers--;
}

static void refuse(struct gb_lane_server *server, struct lane_stranger *stranger, int reason) {
  struct gb_lane_event event = {.kind = GB_LANE_EVENT_REFUSED, .reason = (uint32_t)reason};
  if (stranger->have >= 16 + GB_LANE_TICKET_ID_BYTES)
    memcpy(event.ticket, stranger->frame + 16, sizeof event.ticket);
  if (stranger->have >= 12 && lane_opening_is_one(stranger->frame))
    event.version = lane_opening_version(stranger->frame);
  memcpy(event.address, stranger->address, sizeof event.address);
  server->counters.refused[reason]++;
  lane_notices_put(&server->notices, &event);
  dismiss(server, stranger);
}

/* The whole frame is there. Nothing of the ticket changes before everything is right. */
static int judge(struct gb_lane_server *server, struct lane_stranger *stranger) {
  struct lane_opening opening;
  int refusal = lane_opening_read(stranger->frame, &opening);
  if (refusal != 0) return refusal;
  struct lane_grant *grant = lane_grant_find(server, opening.ticket);
  if (grant == NULL) return GB_LANE_REFUSED_UNKNOWN;
  if (!lane_opening_proven(stranger->frame, grant->is.ticket.secret)) return GB_LANE_REFUSED_MAC;
  if ((grant->used & 1u << opening.index) != 0) return GB_LANE_REFUSED_USED;
  if (opening.index == 0 ? grant->opened : grant->state != GB_LANE_OK) return GB_LANE_REFUSED_USED;
  if (lane_boot_ms() >= grant->expires_ms) return GB_LANE_REFUSED_EXPIRED;
  if (opening.index >= grant->is.connections + ((opening.flags & LANE_FLAG_EXPRESS) != 0 ? 1u : 0u))
    return GB_LANE_REFUSED_LIMIT;
  refusal = lane_serve(server, grant, stranger, &opening);
  if (refusal != 0 || opening.index != 0) return refusal;
  struct gb_lane_event event = {.kind = GB_LANE_EVENT_OPENED, .tag = grant->is.tag};
  memcpy(event.ticket, opening.ticket, sizeof event.ticket);
  memcpy(event.address, stranger->address, sizeof event.address);
  grant->opened = true;
  grant->state = GB_LANE_OK;
  server->counters.opened++;
  lane_notices_put(&server->notices, &event);
  return 0;
}

static void listen_to(struct gb_lane_server *server, struct lane_stranger *stranger) {
  ssize_t got = recv(stranger->fd, stranger->frame + stranger->have, LANE_OPENING_BYTES - stranger->have,
                     MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got <= 0) {
    refuse(server, stranger, GB_LANE_REFUSED_SHORT);
    return;
  }
  stranger->have += (uint32_t)got;
  if (stranger->have < LANE_OPENING_BYTES) return;
  int refusal = judge(server, stranger);
  if (refusal != 0) {
    refuse(server, stranger, refusal);
    return;
  }
  stranger->fd = -1; /* the connection's now */
  dismiss(server, stranger);
}

/* A place for one more; the one that has waited longest makes room. */
static struct lane_stranger *place(struct gb_lane_server *server) {
  struct lane_stranger *oldest = NULL;
  for (uint32_t i = 0; i < server->strangers_max; i++) {
    struct lane_stranger *stranger = &server->strangers[i];
    if (stranger->fd < 0) return stranger;
    if (oldest == NULL || stranger->order < oldest->order) oldest = stranger;
  }
  refuse(server, oldest, GB_LANE_REFUSED_LIMIT);
  return oldest;
}

/* No descriptors or memory left: the next one is looked at when some may have been freed. */
static void grow_deaf(struct gb_lane_server *server) {
  server->deaf_until_ms = lane_boot_ms() + DEAF_MS;
}

static void seat(struct gb_lane_server *server, int fd, const struct sockaddr_storage *address) {
  struct lane_stranger *stranger = place(server);
  stranger->fd = fd;
  stranger->have = 0;
  stranger->order = server->stranger_order++;
  stranger->until_ms = lane_boot_ms() + server->stranger_ms;
  lane_sock_name(address, stranger->address);
  server->counters.accepted++;
  server->counters.strangers++;
}

static void welcome(struct gb_lane_server *server) {
  for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
    struct sockaddr_storage address = {0};
    socklen_t length = sizeof address;
    int fd = accept4(server->listener, (struct sockaddr *)&address, &length, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
      if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) grow_deaf(server);
      return;
    }
    seat(server, fd, &address);
  }
}

/* Takes what the door has passed on. The end of its socket is the end of adoption, not of the lanes. */
static void adopt(struct gb_lane_server *server) {
  for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
    struct sockaddr_storage address = {0};
    socklen_t length = sizeof address;
    int fd = -1, status = lane_sock_take(server->adopted, &fd);
    if (status < 0) {
      close(server->adopted);
      server->adopted = -1;
    }
    if (status <= 0) return;
    if (fd < 0) server->counters.refused[GB_LANE_REFUSED_LIMIT]++; /* no room for it in this process */
    else if (getpeername(fd, (struct sockaddr *)&address, &length) != 0) close(fd); /* gone already, or no connection */
    else seat(server, fd, &address);
  }
}

/* ---- the thread ---- */

/* Those to be polled, and when the first of them has waited enough. */
static nfds_t gather(struct gb_lane_server *server, struct pollfd *polled, uint32_t *who, int *timeout_ms) {
  nfds_t count = OWN_POLLED;
  uint64_t now = lane_boot_ms();
  *timeout_ms = -1;
  bool deaf = now < server->deaf_until_ms;
  if (deaf) *timeout_ms = DEAF_MS;
  polled[0] = (struct pollfd){.fd = deaf ? -1 : server->listener, .events = POLLIN};
  polled[1] = (struct pollfd){.fd = server->wake, .events = POLLIN};
  polled[2] = (struct pollfd){.fd = server->adopted, .events = POLLIN};
  for (uint32_t i = 0; i < server->strangers_max; i++) {
    struct lane_stranger *stranger = &server->strangers[i];
    if (stranger->fd >= 0 && now >= stranger->until_ms) refuse(server, stranger, GB_LANE_REFUSED_SHORT);
    if (stranger->fd < 0) continue;
    int left = (int)(stranger->until_ms - now) + 1;
    if (*timeout_ms < 0 || left < *timeout_ms) *timeout_ms = left;
    who[count] = i;
    polled[count++] = (struct pollfd){.fd = stranger->fd, .events = POLLIN};
  }
  return count;
}

/* Joins the threads of ended connections. locks: takes the server's lock, joins without it. */
static void bury(struct gb_lane_server *server) {
  pthread_mutex_lock(&server->lock);
  struct lane_served *served = server->ended;
  server->ended = NULL;
  pthread_mutex_unlock(&server->lock);
  while (served != NULL) {
    struct lane_served *next = served->next_ended;
    pthread_join(served->thread, NULL);
    lane_link_free(&served->link);
    free(served);
    served = next;
  }
}

static void *server_life(void *argument) {
  struct gb_lane_server *server = argument;
  struct pollfd polled[OWN_POLLED + GB_LANE_STRANGERS_MAX];
  uint32_t who[OWN_POLLED + GB_LANE_STRANGERS_MAX];
  int timeout_ms;
  pthread_mutex_lock(&server->lock);
  while (!server->stopping) {
    nfds_t count = gather(server, polled, who, &timeout_ms);
    pthread_mutex_unlock(&server->lock);
    int ready = poll(polled, count, timeout_ms);
    if (ready > 0 && (polled[1].revents & POLLIN) != 0) lane_hush(server->wake);
    bury(server);
    pthread_mutex_lock(&server->lock);
    for (nfds_t i = OWN_POLLED; ready > 0 && i < count; i++) {
      if (polled[i].revents != 0) listen_to(server, &server->strangers[who[i]]);
    }
    if (ready > 0 && polled[0].revents != 0) welcome(server);
    if (ready > 0 && polled[2].revents != 0) adopt(server);
  }
  pthread_mutex_unlock(&server->lock);
  return NULL;
}

/* ---- entry points ---- */

static void dissolve(gb_lane_server *server) {
  if (server->wake >= 0) close(server->wake);
  if (server->listener >= 0) close(server->listener);
  if (server->adopted >= 0) close(server->adopted);
  lane_notices_end(&server->notices);
  pthread_mutex_destroy(&server->lock);
  pthread_cond_destroy(&server->quiet);
  free(server);
}

static uint32_t at_most(uint32_t value, uint32_t most) {
  return value == 0 || value > most ? most : value;
}

static bool unblock(int fd) {
  int flags = fd >= 0 ? fcntl(fd, F_GETFL) : -1;
  return flags >= 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0;
}

/* Where its connections come from: a door, or a port of its own. */
static bool find_source(struct gb_lane_server *server, const struct gb_lane_server_options *wanted) {
  if (wanted->adopt_fd > 0) {
    server->adopted = wanted->adopt_fd;
    return unblock(server->adopted);
  }
  server->listener =
      wanted->fd >= 0 ? wanted->fd : lane_sock_bind(wanted->address, (uint16_t)wanted->port);
  return unblock(server->listener) && listen(server->listener, BACKLOG) == 0;
}

static struct gb_lane_server *make(const struct gb_lane_server_options *wanted) {
  struct gb_lane_server *server = calloc(1, sizeof *server);
  if (server == NULL) return NULL;
  server->owner = getpid();
  server->listener = server->adopted = -1;
  server->tuning = lane_tuning_of(&wanted->tuning);
  server->connections_max = at_most(wanted->connections_max, GB_LANE_SERVED_MAX);
  server->strangers_max = at_most(wanted->strangers_max, GB_LANE_STRANGERS_MAX);
  server->stranger_ms = wanted->stranger_ms != 0 ? wanted->stranger_ms : GB_LANE_STRANGER_MS;
  for (uint32_t i = 0; i < GB_LANE_STRANGERS_MAX; i++) server->strangers[i].fd = -1;
  pthread_mutex_init(&server->lock, NULL);
  lane_cond_init(&server->quiet);
  server->wake = lane_bell();
  if (lane_notices_begin(&server->notices) && server->wake >= 0) return server;
  dissolve(server);
  return NULL;
}

int gb_lane_server_open(const struct gb_lane_server_options *options, gb_lane_server **result) {
  struct gb_lane_server_options wanted = {0};
  if (options == NULL || result == NULL || options->size > sizeof wanted) return GB_LANE_INVALID;
  memcpy(&wanted, options, options->size);
  if (wanted.port > UINT16_MAX) return GB_LANE_INVALID;
  if (!lane_crypt_ready()) return GB_LANE_NO_CRYPTO;
  struct gb_lane_server *server = make(&wanted);
  if (server == NULL) return GB_LANE_NO_MEMORY;
  bool found = find_source(server, &wanted);
  if (found && lane_thread_start(&server->thread, server_life, server)) {
    *result = server;
    return GB_LANE_OK;
  }
  if (wanted.fd >= 0 && wanted.adopt_fd <= 0) server->listener = -1; /* stays the caller's */
  server->adopted = -1;
  dissolve(server);
  return found ? GB_LANE_NO_MEMORY : GB_LANE_UNREACHABLE;
}

/* Ends all lanes, politely first. */
static void end_lanes(gb_lane_server *server) {
  uint64_t until = lane_now_ns() + GOODBYE_MS * 1000000ull;
  pthread_mutex_lock(&server->lock);
  bool polite = true;
  for (;;) {
    for (struct lane_grant *grant = server->grants; grant != NULL; grant = grant->next) {
      for (uint32_t i = 0; i < LANE_GRANT_CONNS_MAX; i++) {
        if (grant->conns[i] == NULL) continue;
        if (polite) lane_link_goodbye(&grant->conns[i]->link, GB_LANE_CLOSED);
        else lane_link_end(&grant->conns[i]->link, GB_LANE_CLOSED);
      }
    }
    if (server->connections == 0) break;
    if (!polite) pthread_cond_wait(&server->quiet, &server->lock); /* they end by themselves now */
    else polite = lane_wait_until(&server->quiet, &server->lock, until);
  }
  pthread_mutex_unlock(&server->lock);
}

int gb_lane_server_close(gb_lane_server *server) {
  if (server == NULL) return GB_LANE_INVALID;
  if (server->owner != getpid()) return GB_LANE_FORKED;
  pthread_mutex_lock(&server->lock);
  server->stopping = true;
  lane_server_wake(server);
  pthread_mutex_unlock(&server->lock);
  pthread_join(server->thread, NULL);
  end_lanes(server);
  bury(server);
  for (uint32_t i = 0; i < server->strangers_max; i++) {
    if (server->strangers[i].fd >= 0) close(server->strangers[i].fd);
  }
  while (server->grants != NULL) {
    struct lane_grant *grant = server->grants;
    lane_grant_strip(grant);
    pthread_mutex_lock(&server->lock);
    grant->revoked = true;
    grant->users++;
    lane_grant_unuse(server, grant);
    pthread_mutex_unlock(&server->lock);
  }
  dissolve(server);
  return GB_LANE_OK;
}

int gb_lane_server_port(gb_lane_server *server) {
  return server != NULL ? lane_sock_port(server->listener) : -1;
}

int gb_lane_server_counters(gb_lane_server *server, struct gb_lane_server_counters *counters) {
  if (server == NULL || counters == NULL) return GB_LANE_INVALID;
  if (server->owner != getpid()) return GB_LANE_FORKED;
  pthread_mutex_lock(&server->lock);
  *counters = server->counters;
  counters->events_dropped = server->notices.dropped;
  counters->grants = server->grant_count;
  counters->connections = server->connections;
  pthread_mutex_unlock(&server->lock);
  return GB_LANE_OK;
}

int gb_lane_server_poll_fd(gb_lane_server *server) {
  return server != NULL && server->owner == getpid() ? server->notices.bell : -1;
}

uint32_t gb_lane_server_events(gb_lane_server *server, struct gb_lane_event *events, uint32_t count) {
  if (server == NULL || events == NULL || server->owner != getpid()) return 0;
  pthread_mutex_lock(&server->lock);
  uint32_t taken = lane_notices_take(&server->notices, events, count);
  pthread_mutex_unlock(&server->lock);
  return taken;
}
