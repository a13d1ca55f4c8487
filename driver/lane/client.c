/* SPDX-License-Identifier: Apache-2.0 */
/*
 * client.c: opening and closing a lane, its connections' threads, its counters.
 */
#include "client.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

struct opener {
  struct sockaddr_storage address;
  uint32_t address_bytes;
  uint64_t until_ns;
  const struct gb_lane_ticket *ticket;
  struct gb_lane_tuning tuning;
  uint8_t ciphers, flags;
  uint32_t window;
};

/* Waits for `events`. returns: false at the deadline. */
static bool wait_for(int fd, short events, uint64_t until_ns) {
  for (;;) {
    uint64_t now = lane_now_ns();
    struct pollfd polled = {.fd = fd, .events = events};
    if (now >= until_ns) return false;
    int got = poll(&polled, 1, (int)((until_ns - now) / 1000000 + 1));
    if (got > 0) return true;
    if (got < 0 && errno != EINTR) return false;
  }
}

static int reach(const struct opener *opener) {
  int fd = socket(opener->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -1;
  lane_sock_tune(fd, &opener->tuning);
  int error = 0;
  socklen_t length = sizeof error;
  if (connect(fd, (const struct sockaddr *)&opener->address, opener->address_bytes) != 0 &&
      (errno != EINPROGRESS || !wait_for(fd, POLLOUT, opener->until_ns) ||
       getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) != 0 || error != 0)) {
    close(fd);
    return -1;
  }
  return fd;
}

static bool send_all(int fd, const uint8_t *bytes, size_t count, uint64_t until_ns) {
  for (size_t at = 0; at < count;) {
    ssize_t sent = send(fd, bytes + at, count - at, MSG_NOSIGNAL);
    if (sent >= 0) at += (size_t)sent;
    else if (errno != EINTR && (errno != EAGAIN || !wait_for(fd, POLLOUT, until_ns))) return false;
  }
  return true;
}

/* Exactly `count` bytes; what follows stays in the socket. */
static bool receive_all(int fd, uint8_t *bytes, size_t count, uint64_t until_ns) {
  for (size_t at = 0; at < count;) {
    ssize_t got = recv(fd, bytes + at, count - at, 0);
    if (got > 0) at += (size_t)got;
    else if (got == 0 || (errno != EINTR && (errno != EAGAIN || !wait_for(fd, POLLIN, until_ns)))) return false;
  }
  return true;
}

/* Sends the opening frame, reads the answer and makes the keys. owns: *conn holds the socket on success. */
static int introduce(struct lane_conn *conn, const struct opener *opener, int fd) {
  uint8_t frame[LANE_OPENING_BYTES], reply[LANE_OPENING_BYTES];
  struct lane_answer answer;
  struct lane_opening opening = {.major = GB_LANE_VERSION_MAJOR,
                                 .minor = GB_LANE_VERSION_MINOR,
                                 .index = (uint8_t)conn->index,
                                 .flags = (uint8_t)(opener->flags | (conn->express ? LANE_FLAG_EXPRESS : 0)),
                                 .ciphers = opener->ciphers,
                                 .record_bytes = opener->tuning.record_bytes,
                                 .heartbeat_ms = opener->tuning.heartbeat_ms,
                                 .features = LANE_FEATURES};
  memcpy(opening.ticket, opener->ticket->id, sizeof opening.ticket);
  if (!lane_random(opening.random, sizeof opening.random) ||
      !lane_opening_write(frame, &opening, opener->ticket->secret))
    return GB_LANE_NO_CRYPTO;
  if (!send_all(fd, frame, sizeof frame, opener->until_ns) ||
      !receive_all(fd, reply, sizeof reply, opener->until_ns))
    return lane_now_ns() >= opener->until_ns ? GB_LANE_TIMEOUT : GB_LANE_REFUSED;
  int status = lane_answer_read(reply, &answer, frame, opener->ticket->secret);
  if (status != GB_LANE_OK) return status;
  struct gb_lane *lane = conn->lane;
  const struct lane_aead *aead = lane_crypt_find(answer.cipher, opener->tuning.provider);
  if (conn->index == 0) {
    lane->aead = aead;
    lane->record_bytes = answer.record_bytes;
    lane->features = answer.features;
  } else if (aead != lane->aead || answer.record_bytes != lane->record_bytes ||
             answer.features != lane->features) {
    return GB_LANE_PROTOCOL;
  }
  conn->window = answer.window;
  const struct lane_link_start start = {.fd = fd,
                                        .is_client = true,
                                        .aead = aead,
                                        .secret = opener->ticket->secret,
                                        .opening = frame,
                                        .answer = reply,
                                        .record_bytes = answer.record_bytes,
                                        .tuning = &opener->tuning,
                                        .ops = &lane_client_ops,
                                        .owner = conn};
  return lane_link_init(&conn->link, &start);
}

static int open_conn(struct gb_lane *lane, const struct opener *opener, bool express) {
  struct lane_conn *conn = &lane->conns[lane->conn_count];
  conn->lane = lane;
  conn->index = lane->conn_count;
  conn->express = express;
  int fd = reach(opener);
  if (fd < 0) return lane_now_ns() >= opener->until_ns ? GB_LANE_TIMEOUT : GB_LANE_UNREACHABLE;
  int status = introduce(conn, opener, fd);
  if (status != GB_LANE_OK) {
    close(fd);
    return status;
  }
  lane->conn_count++;
  if (!express) lane->bulk_count++;
  return GB_LANE_OK;
}

/* The life of one connection; its end is the lane's. */
static void *conn_life(void *argument) {
  struct lane_conn *conn = argument;
  struct gb_lane *lane = conn->lane;
  if (conn->express) lane_thread_hurry();
  int status = lane_link_run(&conn->link);
  lane_transfers_fail(lane, status);
  lane_link_last_words(&conn->link);
  for (uint32_t i = 0; i < lane->conn_count; i++) {
    if (status == GB_LANE_CLOSED) lane_link_goodbye(&lane->conns[i].link, status);
    else lane_link_end(&lane->conns[i].link, status);
  }
  return NULL;
}

static void forget(struct gb_lane *lane) {
  for (uint32_t i = 0; i < lane->conn_count; i++) {
    if (lane->conns[i].running) {
      lane_link_end(&lane->conns[i].link, GB_LANE_CLOSED);
      pthread_join(lane->conns[i].thread, NULL);
    }
  }
  for (uint32_t i = 0; i < lane->conn_count; i++) lane_link_free(&lane->conns[i].link);
  lane_transfers_free(lane);
  if (lane->notice >= 0) close(lane->notice);
  pthread_mutex_destroy(&lane->lock);
  pthread_cond_destroy(&lane->idle);
  pthread_cond_destroy(&lane->ponged);
  free(lane);
}

static struct gb_lane *make(void) {
  struct gb_lane *lane = calloc(1, sizeof *lane);
  if (lane == NULL) return NULL;
  lane->owner = getpid();
  lane->deadline_next_ns = UINT64_MAX;
  pthread_mutex_init(&lane->lock, NULL);
  lane_cond_init(&lane->idle);
  lane_cond_init(&lane->ponged);
  lane_transfers_init(lane);
  lane->notice = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (lane->notice >= 0) return lane;
  forget(lane);
  return NULL;
}

/* What we can encrypt with, as tuned. */
static int choose(struct opener *opener) {
  const struct gb_lane_tuning *tuning = &opener->tuning;
  const struct lane_aead *aes = lane_crypt_find(GB_LANE_CIPHER_AES_256_GCM, tuning->provider);
  const struct lane_aead *chacha = lane_crypt_find(GB_LANE_CIPHER_CHACHA20_POLY1305, tuning->provider);
  if (aes != NULL && tuning->cipher != GB_LANE_CIPHER_CHACHA20_POLY1305)
    opener->ciphers |= 1u << GB_LANE_CIPHER_AES_256_GCM;
  if (chacha != NULL && tuning->cipher != GB_LANE_CIPHER_AES_256_GCM)
    opener->ciphers |= 1u << GB_LANE_CIPHER_CHACHA20_POLY1305;
  if (aes != NULL && chacha != NULL && aes->megabytes_per_second < chacha->megabytes_per_second)
    opener->flags |= LANE_FLAG_AES_IS_SLOW;
  return opener->ciphers != 0 ? GB_LANE_OK : GB_LANE_NO_CRYPTO;
}

static int open_all(struct gb_lane *lane, const struct opener *opener, uint32_t connections, bool express) {
  for (uint32_t i = 0; i < connections; i++) {
    int status = open_conn(lane, opener, false);
    if (status != GB_LANE_OK) return status;
  }
  int status = express ? open_conn(lane, opener, true) : GB_LANE_OK;
  for (uint32_t i = 0; status == GB_LANE_OK && i < lane->conn_count; i++) {
    lane->conns[i].running = lane_thread_start(&lane->conns[i].thread, conn_life, &lane->conns[i]);
    if (!lane->conns[i].running) status = GB_LANE_NO_MEMORY;
  }
  return status;
}

int gb_lane_open(const char *address, uint16_t port, const struct gb_lane_ticket *ticket,
                 const struct gb_lane_options *options, gb_lane **lane) {
  struct gb_lane_options wanted = {.size = sizeof wanted};
  if (address == NULL || ticket == NULL || lane == NULL) return GB_LANE_INVALID;
  if (options != NULL && options->size > sizeof wanted) return GB_LANE_INVALID;
  if (options != NULL) memcpy(&wanted, options, options->size);
  if (wanted.connections > GB_LANE_CONNECTIONS_MAX || wanted.window > GB_LANE_WINDOW_MAX) return GB_LANE_INVALID;
  uint32_t timeout_ms = wanted.open_timeout_ms != 0 ? wanted.open_timeout_ms : GB_LANE_OPEN_TIMEOUT_MS;
  struct opener opener = {.ticket = ticket,
                          .until_ns = lane_now_ns() + timeout_ms * 1000000ull,
                          .tuning = lane_tuning_of(&wanted.tuning)};
  opener.address_bytes = lane_sock_address(address, port, &opener.address);
  if (opener.address_bytes == 0) return GB_LANE_INVALID;
  int status = choose(&opener);
  if (status != GB_LANE_OK) return status;
  struct gb_lane *made = make();
  if (made == NULL) return GB_LANE_NO_MEMORY;
  made->own_window = wanted.window != 0 ? wanted.window : GB_LANE_WINDOW;
  status = open_all(made, &opener, wanted.connections != 0 ? wanted.connections : 1, wanted.no_express == 0);
  if (status == GB_LANE_OK) *lane = made;
  else forget(made);
  return status;
}

int gb_lane_end(gb_lane *lane) {
  if (lane == NULL) return GB_LANE_INVALID;
  if (lane->owner != getpid()) return GB_LANE_FORKED;
  lane_transfers_fail(lane, GB_LANE_CLOSED);
  for (uint32_t i = 0; i < lane->conn_count; i++) lane_link_goodbye(&lane->conns[i].link, GB_LANE_CLOSED);
  return GB_LANE_OK;
}

int gb_lane_close(gb_lane *lane, uint32_t timeout_ms) {
  uint64_t until = lane_now_ns() + timeout_ms * 1000000ull;
  int status = gb_lane_end(lane);
  if (status != GB_LANE_OK) return status;
  pthread_mutex_lock(&lane->lock);
  while (lane->waiters > 0) pthread_cond_wait(&lane->idle, &lane->lock); /* all have been told */
  pthread_mutex_unlock(&lane->lock);
  bool in_order = true;
  for (uint32_t i = 0; i < lane->conn_count; i++) {
    struct timespec at;
    clock_gettime(CLOCK_REALTIME, &at);
    uint64_t now = lane_now_ns(), left = until > now ? until - now : 0;
    uint64_t when = (uint64_t)at.tv_nsec + left;
    at.tv_sec += (time_t)(when / 1000000000ull);
    at.tv_nsec = (long)(when % 1000000000ull);
    if (pthread_timedjoin_np(lane->conns[i].thread, NULL, &at) == 0) lane->conns[i].running = false;
    else in_order = false;
  }
  forget(lane);
  return in_order ? GB_LANE_OK : GB_LANE_TIMEOUT;
}

int gb_lane_poll_fd(gb_lane *lane) {
  return lane != NULL && lane->owner == getpid() ? lane->notice : -1;
}

int gb_lane_state(gb_lane *lane) {
  if (lane == NULL) return GB_LANE_INVALID;
  if (lane->owner != getpid()) return GB_LANE_FORKED;
  pthread_mutex_lock(&lane->lock);
  int state = lane->state;
  pthread_mutex_unlock(&lane->lock);
  return state;
}

int gb_lane_counters(gb_lane *lane, struct gb_lane_counters *counters) {
  if (lane == NULL || counters == NULL) return GB_LANE_INVALID;
  if (lane->owner != getpid()) return GB_LANE_FORKED;
  uint64_t now = lane_now_ns();
  *counters = (struct gb_lane_counters){.record_bytes = lane->record_bytes};
  for (uint32_t i = 0; i < lane->conn_count; i++) lane_link_count(&lane->conns[i].link, counters, now);
  pthread_mutex_lock(&lane->lock);
  counters->requests = lane->requests;
  counters->requests_failed = lane->requests_failed;
  counters->requests_canceled = lane->requests_canceled;
  counters->outstanding = lane->outstanding;
  counters->state = (uint32_t)lane->state;
  pthread_mutex_unlock(&lane->lock);
  lane_describe(lane->aead, lane->conns[0].link.fd, counters);
  return GB_LANE_OK;
}

int gb_lane_ping(gb_lane *lane, uint32_t timeout_ms, uint64_t *nanoseconds) {
  if (lane == NULL || nanoseconds == NULL) return GB_LANE_INVALID;
  if (lane->owner != getpid()) return GB_LANE_FORKED;
  struct lane_link *link = &lane->conns[lane->conn_count - 1].link;
  uint64_t start = lane_now_ns(), until = start + timeout_ms * 1000000ull;
  uint64_t number = ++link->ping;
  lane_link_push(link);
  pthread_mutex_lock(&lane->lock);
  lane->waiters++;
  int status = GB_LANE_OK;
  while (link->pong < number && status == GB_LANE_OK) {
    if (lane->state != GB_LANE_OK) status = lane->state;
    else if (!lane_wait_until(&lane->ponged, &lane->lock, until)) status = GB_LANE_TIMEOUT;
  }
  *nanoseconds = lane_now_ns() - start;
  if (--lane->waiters == 0) pthread_cond_broadcast(&lane->idle);
  pthread_mutex_unlock(&lane->lock);
  return status;
}
