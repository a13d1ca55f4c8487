/* SPDX-License-Identifier: Apache-2.0 */
/* client.c: the agent link: its thread, its connection and what comes over it. Requests are in
 * request.c. */
#include <stdatomic.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "arena.h"
#include "config.h"
#include "lanes.h"
#include "link.h"
#include "lock.h"
#include "moving.h"
#include "report.h"
#include "share.h"
#include "wire.h"

#define HELLO_TIMEOUT_MS 3000
/* How long cuInit waits for an agent that accepts; one that is absent fails at once. */
#define FIRST_ANSWER_MS 3000
#define BACKOFF_MS_MIN 100
#define BACKOFF_MS_MAX 2000
#define REFUSED_BACKOFF_MS 30000
#define STOP_TIMEOUT_S 2
/* While moves wait for a lock that somebody holds. */
#define MOVING_TRY_MS 20

struct gb_link gb_link = {
    .lock = PTHREAD_MUTEX_INITIALIZER, .fd = -1, .wake_fd = -1};

static pthread_t thread;
static bool thread_started;
static bool said_absent;
static uint32_t refused_status;

/* ---- incoming frames; the link's thread, no lock held ---- */

static void store_limits(const uint64_t limits[GB_TIER_COUNT]) {
  for (int tier = 0; tier < GB_TIER_COUNT; tier++) {
    atomic_store_explicit(&gb_link.limits[tier], limits[tier], memory_order_relaxed);
  }
  atomic_store_explicit(&gb_link.limits_known, true, memory_order_release);
}

static bool on_hello_ack(const struct gb_frame *frame, const void *payload) {
  struct gb_hello_ack ack;
  if (!gb_wire_read(frame, payload, &ack, sizeof ack) || frame->request_id != gb_link.hello_id)
    return false;
  refused_status = ack.status;
  if (ack.status == GB_STATUS_VERSION && !said_absent)
    gb_log(GB_LOG_ERROR, "this library speaks ABI %u.%u, the agent %u.%u: update the older one",
           GB_ABI_MAJOR, GB_ABI_MINOR, ack.abi_major, ack.abi_minor);
  if (ack.status != GB_STATUS_OK) return false;
  store_limits(ack.limit_bytes);
  pthread_mutex_lock(&gb_link.lock);
  gb_link.features = ack.features;
  gb_link.ready = true;
  pthread_cond_broadcast(&gb_link.changed);
  gb_link_flush_events();
  pthread_mutex_unlock(&gb_link.lock);
  gb_log(GB_LOG_INFO, "attached to the agent (pid %u)", ack.agent_pid);
  return true;
}

static bool on_notice(const struct gb_frame *frame, const void *payload) {
  struct gb_limits limits;
  struct gb_lost lost;
  struct gb_move move;
  switch (frame->type) {
    case GB_MSG_LIMITS:
      if (!gb_wire_read(frame, payload, &limits, sizeof limits)) return false;
      store_limits(limits.limit_bytes);
      gb_share_changed();
      return true;
    case GB_MSG_LOST:
      if (!gb_wire_read(frame, payload, &lost, sizeof lost)) return false;
      lost.feeder[sizeof lost.feeder - 1] = '\0';
      gb_span_note_lost(&lost);
      return true;
    case GB_MSG_MOVE:
      if (!gb_wire_read(frame, payload, &move, sizeof move)) return false;
      gb_moving_note(&move);
      return true;
    default: return (frame->flags & GB_FRAME_OPTIONAL) != 0;
  }
}

bool gb_client_on_frame(void *owner, const struct gb_frame *frame, const void *payload) {
  (void)owner;
  if ((frame->flags & GB_FRAME_REPLY) == 0) return on_notice(frame, payload);
  if (!gb_link.ready) return frame->type == GB_MSG_HELLO && on_hello_ack(frame, payload);
  return gb_link_reply(frame, payload);
}

/* ---- the connection ---- */

static int connect_socket(void) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  const char *path = gb_config()->socket;
  if (path[0] == '\0' || strlen(path) >= sizeof address.sun_path) return -1;
  strcpy(address.sun_path, path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  struct timeval send_limit = {.tv_sec = 1};
  struct ucred peer;
  socklen_t length = sizeof peer;
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &send_limit, sizeof send_limit);
  if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
    close(fd);
    return -1;
  }
  /* Our memory's bytes go to this peer: it has to be the same user. */
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0 || peer.uid != geteuid()) {
    gb_log(GB_LOG_ERROR, "%s belongs to another user: not used", path);
    close(fd);
    return -1;
  }
  return fd;
}

static bool receive(struct gb_wire *wire, int fd) {
  unsigned char buffer[4096];
  ssize_t got = recv(fd, buffer, sizeof buffer, MSG_DONTWAIT);
  if (got < 0) return errno == EAGAIN || errno == EINTR;
  if (got == 0) return false;
  if (gb_wire_feed(wire, buffer, (size_t)got, gb_client_on_frame, NULL)) return true;
  if (refused_status == GB_STATUS_OK)
    gb_log(GB_LOG_ERROR, "the agent broke the protocol: link closed");
  return false;
}

static void send_report(bool always) {
  struct gb_report report;
  if (!gb_report_take(&report) && !always) return;
  gb_client_notice(GB_MSG_REPORT, &report, sizeof report);
  gb_lanes_report();
}

/* Reads until the link breaks or the process ends. */
static void serve(int fd) {
  struct gb_wire wire = {.have = 0};
  uint64_t hello_until = gb_now_ns() + HELLO_TIMEOUT_MS * GB_MS;
  while (!atomic_load_explicit(&gb_link.stopping, memory_order_acquire)) {
    struct pollfd fds[2] = {{.fd = fd, .events = POLLIN},
                            {.fd = gb_link.wake_fd, .events = POLLIN}};
    int ready = poll(fds, 2, gb_moving_waiting() ? MOVING_TRY_MS : GB_REPORT_INTERVAL_MS);
    if (ready < 0 && errno != EINTR) return;
    if (fds[0].revents != 0 && !receive(&wire, fd)) return;
    if (!gb_link.ready && gb_now_ns() > hello_until) return;
    gb_moving_try();
    gb_report_tick();
    send_report(false);
  }
}

static void attach_once(void) {
  refused_status = GB_STATUS_OK;
  int fd = connect_socket();
  if (fd >= 0) {
    gb_link_open(fd);
    serve(fd);
  }
  gb_link_close();
  if (!said_absent && !atomic_load_explicit(&gb_link.stopping, memory_order_acquire)) {
    said_absent = true;
    const char *why = refused_status != GB_STATUS_OK ? "refuses this process" : "does not answer";
    gb_log(GB_LOG_WARN, "the agent at %s %s (status %u): local tiers only until it does",
           gb_config()->socket[0] != '\0' ? gb_config()->socket : "(no XDG_RUNTIME_DIR)", why,
           refused_status);
  }
}

static void wait_for_wake(uint32_t milliseconds) {
  struct pollfd fd = {.fd = gb_link.wake_fd, .events = POLLIN};
  while (milliseconds > 0 && !atomic_load_explicit(&gb_link.stopping, memory_order_acquire)) {
    uint32_t part = milliseconds < GB_REPORT_INTERVAL_MS ? milliseconds : GB_REPORT_INTERVAL_MS;
    poll(&fd, 1, (int)part);
    gb_report_tick();
    milliseconds -= part;
  }
}

static void *run(void *unused) {
  (void)unused;
  uint32_t backoff = BACKOFF_MS_MIN;
  while (!atomic_load_explicit(&gb_link.stopping, memory_order_acquire)) {
    uint64_t generation = gb_link.generation;
    attach_once();
    if (gb_link.generation != generation && refused_status == GB_STATUS_OK)
      backoff = BACKOFF_MS_MIN;
    pthread_mutex_lock(&gb_link.lock);
    gb_link.attempted = true;
    pthread_cond_broadcast(&gb_link.changed);
    pthread_mutex_unlock(&gb_link.lock);
    wait_for_wake(refused_status != GB_STATUS_OK ? REFUSED_BACKOFF_MS : backoff);
    backoff = backoff * 2 < BACKOFF_MS_MAX ? backoff * 2 : BACKOFF_MS_MAX;
  }
  return NULL;
}

/* ---- life ---- */

static bool start_thread(void) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before); /* the program's signals are for its own threads */
  bool started = pthread_create(&thread, NULL, run, NULL) == 0;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return started;
}

void gb_client_start(void) {
  pthread_condattr_t attributes;
  pthread_condattr_init(&attributes);
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  pthread_cond_init(&gb_link.changed, &attributes);
  gb_link_prepare_hello();
  gb_link.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  thread_started = gb_link.wake_fd >= 0 && start_thread();
  if (!thread_started) {
    gb_log(GB_LOG_ERROR, "no thread for the agent link: local tiers only");
    return;
  }
  struct timespec until = gb_link_deadline(FIRST_ANSWER_MS);
  pthread_mutex_lock(&gb_link.lock);
  while (!gb_link.ready && !gb_link.attempted) {
    if (pthread_cond_timedwait(&gb_link.changed, &gb_link.lock, &until) != 0) break;
  }
  pthread_mutex_unlock(&gb_link.lock);
}

void gb_client_stop(void) {
  if (!thread_started) return;
  thread_started = false;
  send_report(true);
  atomic_store_explicit(&gb_link.stopping, true, memory_order_release);
  uint64_t one = 1;
  ssize_t written = write(gb_link.wake_fd, &one, sizeof one);
  (void)written;
  struct timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec += STOP_TIMEOUT_S;
  pthread_timedjoin_np(thread, NULL, &until);
}

void gb_client_forked(void) {
  /* Other threads of the parent may have held the lock: nothing here takes it. */
  thread_started = false;
  gb_link.ready = false;
  if (gb_link.fd >= 0) close(gb_link.fd);
  if (gb_link.wake_fd >= 0) close(gb_link.wake_fd);
  gb_link.fd = gb_link.wake_fd = -1;
}
