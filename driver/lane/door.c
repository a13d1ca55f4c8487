/* SPDX-License-Identifier: Apache-2.0 */
/*
 * door.c: see door.h. A stranger costs one socket and a few seconds; the bytes of his opening stay in the kernel.
 *
 * Locks: the door's lock protects all of it; it is not held while the thread waits.
 */
#include "door.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "link.h"
#include "notice.h"

#define BACKLOG 64
#define ACCEPTS_PER_TURN 64
/* How long nobody is accepted after that failed. */
#define DEAF_MS 100
/* A stranger who is heard with less than an opening is looked at again after this time; SO_RCVLOWAT makes it rare. */
#define PATIENCE_MS 5
#define TICKET_AT 16u
#define POLLED_MAX (1 + GB_LANE_DOOR_LISTENERS_MAX + GB_LANE_STRANGERS_MAX)

/* A process's socket, shared by its routes. */
struct way {
  int fd; /* -1: free */
  uint32_t routes;
  dev_t device;
  ino_t inode;
};

struct route {
  uint8_t ticket[GB_LANE_TICKET_ID_BYTES];
  uint32_t way;
};

struct guest {
  int fd; /* -1: free */
  uint64_t until_ms, look_ms, order;
  char address[64];
};

struct gb_lane_door {
  pid_t owner;
  int wake;
  bool stopping, lan_only;
  uint32_t strangers_max, stranger_ms;
  pthread_t thread;
  pthread_mutex_t lock;
  int listeners[GB_LANE_DOOR_LISTENERS_MAX];
  uint32_t listener_count;
  struct way ways[GB_LANE_DOOR_WAYS_MAX];
  struct route routes[GB_LANE_DOOR_ROUTES_MAX]; /* the first route_count, in no order */
  uint32_t route_count;
  struct guest guests[GB_LANE_STRANGERS_MAX];
  uint64_t order, deaf_until_ms;
  struct gb_lane_door_counters counters;
  struct lane_notices notices;
};

/* ---- routes; the lock is held ---- */

static struct route *find_route(gb_lane_door *door, const uint8_t *ticket) {
  for (uint32_t i = 0; i < door->route_count; i++) {
    if (memcmp(door->routes[i].ticket, ticket, GB_LANE_TICKET_ID_BYTES) == 0) return &door->routes[i];
  }
  return NULL;
}

static void leave_way(gb_lane_door *door, uint32_t index) {
  struct way *way = &door->ways[index];
  if (--way->routes > 0) return;
  close(way->fd);
  way->fd = -1;
}

/* The way over this socket, made if it is new. returns: GB_LANE_OK and *index. */
static int take_way(gb_lane_door *door, int fd, uint32_t *index) {
  struct stat is;
  struct way *free_way = NULL;
  int kind = 0;
  socklen_t length = sizeof kind;
  if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &length) != 0 || kind != SOCK_SEQPACKET || fstat(fd, &is) != 0)
    return GB_LANE_INVALID;
  for (uint32_t i = 0; i < GB_LANE_DOOR_WAYS_MAX; i++) {
    struct way *way = &door->ways[i];
    if (way->fd < 0) {
      if (free_way == NULL) free_way = way;
    } else if (way->inode == is.st_ino && way->device == is.st_dev) {
      way->routes++;
      *index = i;
      return GB_LANE_OK;
    }
  }
  if (free_way == NULL) return GB_LANE_LIMIT;
  free_way->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  if (free_way->fd < 0) return GB_LANE_NO_MEMORY;
  free_way->routes = 1;
  free_way->device = is.st_dev;
  free_way->inode = is.st_ino;
  *index = (uint32_t)(free_way - door->ways);
  return GB_LANE_OK;
}

/* ---- strangers; the lock is held ---- */

static void dismiss(gb_lane_door *door, struct guest *guest) {
  close(guest->fd);
  guest->fd = -1;
  door->counters.strangers--;
}

static void tell(gb_lane_door *door, int reason, const uint8_t *ticket, const char *address) {
  struct gb_lane_event event = {.kind = GB_LANE_EVENT_REFUSED, .reason = (uint32_t)reason};
  if (ticket != NULL) memcpy(event.ticket, ticket, sizeof event.ticket);
  memcpy(event.address, address, sizeof event.address);
  door->counters.refused[reason]++;
  lane_notices_put(&door->notices, &event);
}

static void refuse(gb_lane_door *door, struct guest *guest, int reason, const uint8_t *ticket) {
  tell(door, reason, ticket, guest->address);
  dismiss(door, guest);
}

/* The whole opening has come, and stays in the socket for whom it is passed to. */
static int pass(gb_lane_door *door, const struct guest *guest, const uint8_t *frame) {
  int one = 1;
  if (!lane_opening_is_one(frame)) return GB_LANE_REFUSED_FORMAT;
  const struct route *route = find_route(door, frame + TICKET_AT);
  if (route == NULL) return GB_LANE_REFUSED_UNKNOWN;
  setsockopt(guest->fd, SOL_SOCKET, SO_RCVLOWAT, &one, sizeof one);
  return lane_sock_give(door->ways[route->way].fd, guest->fd) ? 0 : GB_LANE_REFUSED_GONE;
}

static void listen_to(gb_lane_door *door, struct guest *guest, bool ended) {
  uint8_t frame[LANE_OPENING_BYTES];
  ssize_t got = recv(guest->fd, frame, sizeof frame, MSG_PEEK | MSG_DONTWAIT);
  bool later = got < 0 ? errno == EAGAIN || errno == EINTR : got > 0 && got < (ssize_t)sizeof frame;
  if (later && !ended) {
    guest->look_ms = lane_boot_ms() + PATIENCE_MS;
    return;
  }
  if (got < (ssize_t)sizeof frame) {
    refuse(door, guest, GB_LANE_REFUSED_SHORT, NULL);
    return;
  }
  int reason = pass(door, guest, frame);
  if (reason != 0) {
    refuse(door, guest, reason, frame + TICKET_AT);
    return;
  }
  door->counters.passed++;
  dismiss(door, guest);
}

/* A place for one more; who has waited longest makes room. */
static struct guest *place(gb_lane_door *door) {
  struct guest *oldest = NULL;
  for (uint32_t i = 0; i < door->strangers_max; i++) {
    struct guest *guest = &door->guests[i];
    if (guest->fd < 0) return guest;
    if (oldest == NULL || guest->order < oldest->order) oldest = guest;
  }
  refuse(door, oldest, GB_LANE_REFUSED_LIMIT, NULL);
  return oldest;
}

static void seat(gb_lane_door *door, int fd, const char *address) {
  struct guest *guest = place(door);
  int whole = LANE_OPENING_BYTES;
  setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &whole, sizeof whole);
  guest->fd = fd;
  guest->order = door->order++;
  guest->look_ms = 0;
  guest->until_ms = lane_boot_ms() + door->stranger_ms;
  memcpy(guest->address, address, sizeof guest->address);
  door->counters.strangers++;
}

static void welcome(gb_lane_door *door, int listener) {
  for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
    struct sockaddr_storage address = {0};
    socklen_t length = sizeof address;
    char name[64];
    int fd = accept4(listener, (struct sockaddr *)&address, &length, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
      /* No descriptors or memory left: the next one is looked at when some may have been freed. */
      if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) door->deaf_until_ms = lane_boot_ms() + DEAF_MS;
      return;
    }
    door->counters.accepted++;
    lane_sock_name(&address, name);
    if (!door->lan_only || lane_sock_is_lan(&address)) {
      seat(door, fd, name);
      continue;
    }
    tell(door, GB_LANE_REFUSED_ADDRESS, NULL, name);
    close(fd);
  }
}

/* ---- the thread ---- */

static void sooner(int *timeout_ms, uint64_t now, uint64_t at) {
  int left = (int)(at - now) + 1;
  if (*timeout_ms < 0 || left < *timeout_ms) *timeout_ms = left;
}

/* Who is polled: the bell, the listeners, strangers; and until when. */
static void gather(gb_lane_door *door, struct pollfd *polled, int *timeout_ms) {
  uint64_t now = lane_boot_ms();
  bool deaf = now < door->deaf_until_ms;
  *timeout_ms = -1;
  if (deaf) sooner(timeout_ms, now, door->deaf_until_ms);
  for (uint32_t i = 0; i < POLLED_MAX; i++) polled[i] = (struct pollfd){.fd = -1, .events = POLLIN};
  polled[0].fd = door->wake;
  for (uint32_t i = 0; i < door->listener_count && !deaf; i++) polled[1 + i].fd = door->listeners[i];
  for (uint32_t i = 0; i < door->strangers_max; i++) {
    struct guest *guest = &door->guests[i];
    struct pollfd *seen = &polled[1 + GB_LANE_DOOR_LISTENERS_MAX + i];
    if (guest->fd >= 0 && now >= guest->until_ms) refuse(door, guest, GB_LANE_REFUSED_SHORT, NULL);
    if (guest->fd < 0) continue;
    sooner(timeout_ms, now, guest->until_ms);
    seen->fd = guest->fd;
    seen->events = POLLRDHUP;
    if (now < guest->look_ms) sooner(timeout_ms, now, guest->look_ms);
    else seen->events |= POLLIN;
  }
}

static void *door_life(void *argument) {
  gb_lane_door *door = argument;
  struct pollfd polled[POLLED_MAX];
  int timeout_ms;
  pthread_mutex_lock(&door->lock);
  while (!door->stopping) {
    gather(door, polled, &timeout_ms);
    pthread_mutex_unlock(&door->lock);
    int ready = poll(polled, POLLED_MAX, timeout_ms);
    pthread_mutex_lock(&door->lock);
    if (ready <= 0) continue;
    if (polled[0].revents != 0) lane_hush(door->wake);
    for (uint32_t i = 0; i < door->strangers_max; i++) {
      short seen = polled[1 + GB_LANE_DOOR_LISTENERS_MAX + i].revents;
      if (seen != 0) listen_to(door, &door->guests[i], (seen & (POLLRDHUP | POLLHUP | POLLERR)) != 0);
    }
    for (uint32_t i = 0; i < GB_LANE_DOOR_LISTENERS_MAX; i++) {
      if (polled[1 + i].revents != 0) welcome(door, polled[1 + i].fd);
    }
  }
  pthread_mutex_unlock(&door->lock);
  return NULL;
}

/* ---- entry points ---- */

static void dissolve(gb_lane_door *door) {
  for (uint32_t i = 0; i < door->listener_count; i++) close(door->listeners[i]);
  for (uint32_t i = 0; i < GB_LANE_STRANGERS_MAX; i++) {
    if (door->guests[i].fd >= 0) close(door->guests[i].fd);
  }
  for (uint32_t i = 0; i < GB_LANE_DOOR_WAYS_MAX; i++) {
    if (door->ways[i].fd >= 0) close(door->ways[i].fd);
  }
  if (door->wake >= 0) close(door->wake);
  lane_notices_end(&door->notices);
  pthread_mutex_destroy(&door->lock);
  free(door);
}

int gb_lane_door_open(const struct gb_lane_door_options *options, gb_lane_door **result) {
  struct gb_lane_door_options wanted = {0};
  if (result == NULL || (options != NULL && options->size > sizeof wanted)) return GB_LANE_INVALID;
  if (options != NULL) memcpy(&wanted, options, options->size);
  gb_lane_door *door = calloc(1, sizeof *door);
  if (door == NULL) return GB_LANE_NO_MEMORY;
  bool few = wanted.strangers_max > 0 && wanted.strangers_max < GB_LANE_STRANGERS_MAX;
  door->owner = getpid();
  door->strangers_max = few ? wanted.strangers_max : GB_LANE_STRANGERS_MAX;
  door->stranger_ms = wanted.stranger_ms != 0 ? wanted.stranger_ms : GB_LANE_STRANGER_MS;
  door->lan_only = wanted.lan_only != 0;
  for (uint32_t i = 0; i < GB_LANE_STRANGERS_MAX; i++) door->guests[i].fd = -1;
  for (uint32_t i = 0; i < GB_LANE_DOOR_WAYS_MAX; i++) door->ways[i].fd = -1;
  pthread_mutex_init(&door->lock, NULL);
  door->wake = lane_bell();
  if (lane_notices_begin(&door->notices) && door->wake >= 0 &&
      lane_thread_start(&door->thread, door_life, door)) {
    *result = door;
    return GB_LANE_OK;
  }
  dissolve(door);
  return GB_LANE_NO_MEMORY;
}

int gb_lane_door_listen(gb_lane_door *door, const char *address, uint16_t port) {
  struct sockaddr_storage storage;
  if (door == NULL) return GB_LANE_INVALID;
  if (door->owner != getpid()) return GB_LANE_FORKED;
  if (address != NULL && lane_sock_address(address, port, &storage) == 0) return GB_LANE_INVALID;
  int fd = lane_sock_bind(address, port), status = GB_LANE_OK;
  if (fd < 0 || listen(fd, BACKLOG) != 0) {
    if (fd >= 0) close(fd);
    return GB_LANE_UNREACHABLE;
  }
  pthread_mutex_lock(&door->lock);
  if (door->listener_count < GB_LANE_DOOR_LISTENERS_MAX) door->listeners[door->listener_count++] = fd;
  else status = GB_LANE_LIMIT;
  pthread_mutex_unlock(&door->lock);
  if (status == GB_LANE_OK) lane_ring(door->wake);
  else close(fd);
  return status;
}

int gb_lane_door_port(gb_lane_door *door) {
  if (door == NULL) return -1;
  pthread_mutex_lock(&door->lock);
  int port = door->listener_count > 0 ? lane_sock_port(door->listeners[0]) : -1;
  pthread_mutex_unlock(&door->lock);
  return port;
}

int gb_lane_door_route(gb_lane_door *door, const uint8_t *ticket_id, int fd) {
  uint32_t way = 0;
  if (door == NULL || ticket_id == NULL) return GB_LANE_INVALID;
  if (door->owner != getpid()) return GB_LANE_FORKED;
  pthread_mutex_lock(&door->lock);
  struct route *route = find_route(door, ticket_id);
  int status =
      route == NULL && door->route_count == GB_LANE_DOOR_ROUTES_MAX ? GB_LANE_LIMIT : take_way(door, fd, &way);
  if (status == GB_LANE_OK && route != NULL) leave_way(door, route->way);
  if (status == GB_LANE_OK && route == NULL) route = &door->routes[door->route_count++];
  if (status == GB_LANE_OK) {
    memcpy(route->ticket, ticket_id, sizeof route->ticket);
    route->way = way;
  }
  pthread_mutex_unlock(&door->lock);
  return status;
}

int gb_lane_door_forget(gb_lane_door *door, const uint8_t *ticket_id) {
  if (door == NULL || ticket_id == NULL) return GB_LANE_INVALID;
  if (door->owner != getpid()) return GB_LANE_FORKED;
  pthread_mutex_lock(&door->lock);
  struct route *route = find_route(door, ticket_id);
  if (route != NULL) {
    leave_way(door, route->way);
    *route = door->routes[--door->route_count];
  }
  pthread_mutex_unlock(&door->lock);
  return route != NULL ? GB_LANE_OK : GB_LANE_NOT_FOUND;
}

int gb_lane_door_counters(gb_lane_door *door, struct gb_lane_door_counters *counters) {
  if (door == NULL || counters == NULL) return GB_LANE_INVALID;
  if (door->owner != getpid()) return GB_LANE_FORKED;
  pthread_mutex_lock(&door->lock);
  *counters = door->counters;
  counters->events_dropped = door->notices.dropped;
  counters->routes = door->route_count;
  counters->listeners = door->listener_count;
  pthread_mutex_unlock(&door->lock);
  return GB_LANE_OK;
}

int gb_lane_door_poll_fd(gb_lane_door *door) {
  return door != NULL && door->owner == getpid() ? door->notices.bell : -1;
}

uint32_t gb_lane_door_events(gb_lane_door *door, struct gb_lane_event *events, uint32_t count) {
  if (door == NULL || events == NULL || door->owner != getpid()) return 0;
  pthread_mutex_lock(&door->lock);
  uint32_t taken = lane_notices_take(&door->notices, events, count);
  pthread_mutex_unlock(&door->lock);
  return taken;
}

int gb_lane_door_close(gb_lane_door *door) {
  if (door == NULL) return GB_LANE_INVALID;
  if (door->owner != getpid()) return GB_LANE_FORKED;
  pthread_mutex_lock(&door->lock);
  door->stopping = true;
  lane_ring(door->wake);
  pthread_mutex_unlock(&door->lock);
  pthread_join(door->thread, NULL);
  dissolve(door);
  return GB_LANE_OK;
}
