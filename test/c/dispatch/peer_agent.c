/* SPDX-License-Identifier: Apache-2.0 */
/* peer_agent.c: the host agent, as far as lanes need one. */
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "peer.h"
#include "peer_part.h"

static int listener = -1;
static pthread_t thread;
static _Atomic bool stopping;
static _Atomic uint64_t agreed;

static bool read_exact(int fd, void *bytes, size_t length) {
  uint8_t *at = bytes;
  while (length > 0) {
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    if (stopping) return false;
    if (poll(&wait, 1, 100) <= 0) continue;
    ssize_t got = recv(fd, at, length, 0);
    if (got <= 0) return false;
    at += got;
    length -= (size_t)got;
  }
  return true;
}

static bool reply(int fd, const struct gb_frame *request, const void *payload, uint32_t bytes) {
  struct gb_frame frame = {bytes, request->type, GB_FRAME_REPLY, request->request_id};
  return send(fd, &frame, sizeof frame, MSG_NOSIGNAL) == (ssize_t)sizeof frame &&
         send(fd, payload, bytes, MSG_NOSIGNAL) == (ssize_t)bytes;
}

static bool serve(int fd, const struct gb_frame *frame, const void *payload) {
  struct gb_hello_ack ack = {.status = GB_STATUS_OK, .abi_major = GB_ABI_MAJOR, .abi_minor = GB_ABI_MINOR};
  struct gb_hello hello;
  struct gb_budget_reply budget = {.status = GB_STATUS_OK};
  struct gb_ticket_reply ticket = {0};
  struct gb_status_reply status = {.status = GB_STATUS_OK};
  if (frame->request_id == 0) return true;
  switch (frame->type) {
  case GB_MSG_HELLO:
    memcpy(&hello, payload, sizeof hello);
    ack.features = hello.features & agreed;
    for (int i = 0; i < GB_TIER_COUNT; i++) ack.limit_bytes[i] = 1ull << 40;
    return reply(fd, frame, &ack, sizeof ack);
  case GB_MSG_GRANT:
  case GB_MSG_RETURN:
    memcpy(&budget.tier, payload, sizeof budget.tier);
    budget.held_bytes = budget.limit_bytes = 1ull << 40;
    return reply(fd, frame, &budget, sizeof budget);
  case GB_MSG_LANE:
    memcpy(&ticket.lane, payload, sizeof ticket.lane);
    return peer_ticket(&ticket) && reply(fd, frame, &ticket, sizeof ticket);
  default: return reply(fd, frame, &status, sizeof status);
  }
}

static void session(int fd) {
  _Alignas(8) uint8_t payload[GB_ABI_PAYLOAD_BYTES_MAX];
  struct gb_frame frame;
  while (read_exact(fd, &frame, sizeof frame)) {
    if (frame.payload_bytes > sizeof payload || !read_exact(fd, payload, frame.payload_bytes)) break;
    if (!serve(fd, &frame, payload)) break;
  }
  close(fd);
}

static void *listen_on(void *unused) {
  (void)unused;
  while (!stopping) {
    struct pollfd wait = {.fd = listener, .events = POLLIN};
    if (poll(&wait, 1, 100) <= 0) continue;
    int fd = accept(listener, NULL, NULL);
    if (fd >= 0) session(fd);
  }
  return NULL;
}

bool peer_start(uint64_t features) {
  agreed = features;
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  const char *path = getenv("GREENBOOST_SOCKET");
  if (path == NULL || strlen(path) >= sizeof address.sun_path || !peer_executor_start()) return false;
  strcpy(address.sun_path, path);
  listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 4) != 0)
    return false;
  return pthread_create(&thread, NULL, listen_on, NULL) == 0;
}

void peer_stop(void) {
  stopping = true;
  pthread_join(thread, NULL);
  close(listener);
  peer_executor_stop();
}
