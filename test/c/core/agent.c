/* SPDX-License-Identifier: Apache-2.0 */
/*
 * agent.c: the host agent as the shim sees it, reduced to memory: grants within fixed limits, keeps
 * stored bytes, and fails on demand. A test peer over the real socket, in a process of its own. On
 * SIGTERM it prints what happened.
 *
 * usage: agent SOCKET RAM_MIB FEEDER_MIB [FAULT=N ...]
 *   cut=N      every Nth request: close the connection instead of answering
 *   late=N     every Nth request: answer after 30 ms
 *   refuse=N   every Nth PLACE or STORE: GB_STATUS_CAPACITY
 *   away=N     every Nth FETCH or STORE: GB_STATUS_UNREACHABLE
 *   lose=N     after N stores: every stored byte is gone; LOST notices, then GB_STATUS_DATA_LOSS
 *   flip=N     every Nth FETCH: one bit of the bytes is wrong
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "gb_abi.h"

#define BLOCK GB_ABI_RANGE_ALIGN
#define RANGES_MAX 4096

struct range {
  uint64_t offset, length;
  unsigned char *bytes;
};

static struct range ranges[RANGES_MAX];
static uint32_t range_count;
static uint64_t limits[GB_TIER_COUNT], held[GB_TIER_COUNT], placed;
static uint8_t attachment[16];
static struct {
  unsigned cut, late, refuse, away, lose, flip;
} faults;
static struct {
  unsigned requests, places, stores, fetches, drops, connections, lost, errors;
  unsigned cut, refused, away, flipped;
} counts;
static int staging = -1;
static bool gone; /* the feeder is lost with all bytes */
static volatile sig_atomic_t stopping;

static void stop(int number) {
  (void)number;
  stopping = 1;
}

static bool write_all(int fd, const void *bytes, size_t length) {
  return send(fd, bytes, length, MSG_NOSIGNAL) == (ssize_t)length;
}

static bool reply(int fd, const struct gb_frame *request, const void *payload, uint32_t bytes) {
  unsigned char message[512];
  struct gb_frame frame = {bytes, request->type, GB_FRAME_REPLY, request->request_id};
  memcpy(message, &frame, sizeof frame);
  memcpy(message + sizeof frame, payload, bytes);
  return write_all(fd, message, sizeof frame + bytes);
}

static struct range *range_at(uint64_t offset, uint64_t length) {
  for (uint32_t i = 0; i < range_count; i++) {
    if (offset >= ranges[i].offset && offset + length <= ranges[i].offset + ranges[i].length)
      return &ranges[i];
  }
  return NULL;
}

static uint32_t place(const struct gb_range *request) {
  if (request->offset % BLOCK != 0 || request->length % BLOCK != 0 || request->length == 0)
    return GB_STATUS_INVALID;
  for (uint32_t i = 0; i < range_count; i++) {
    if (ranges[i].offset == request->offset && ranges[i].length == request->length)
      return GB_STATUS_OK;
    bool apart = request->offset + request->length <= ranges[i].offset ||
                 ranges[i].offset + ranges[i].length <= request->offset;
    if (!apart) return GB_STATUS_INVALID;
  }
  if (placed + request->length > held[GB_TIER_T2R] || range_count == RANGES_MAX)
    return GB_STATUS_CAPACITY;
  ranges[range_count++] = (struct range){request->offset, request->length, malloc(request->length)};
  placed += request->length;
  return GB_STATUS_OK;
}

static uint32_t drop(const struct gb_range *request) {
  for (uint32_t i = 0; i < range_count; i++) {
    if (ranges[i].offset != request->offset || ranges[i].length != request->length) continue;
    free(ranges[i].bytes);
    placed -= ranges[i].length;
    ranges[i] = ranges[--range_count];
    return GB_STATUS_OK;
  }
  return GB_STATUS_NOT_FOUND;
}

static uint32_t transfer(const struct gb_transfer *t, bool store) {
  struct range *range = range_at(t->offset, t->length);
  if (range == NULL) return GB_STATUS_NOT_FOUND;
  if (gone && !store) return GB_STATUS_DATA_LOSS;
  unsigned char *bytes = range->bytes + (t->offset - range->offset);
  ssize_t moved = store ? pread(staging, bytes, t->length, (off_t)t->staging_offset)
                        : pwrite(staging, bytes, t->length, (off_t)t->staging_offset);
  if (moved != (ssize_t)t->length) return GB_STATUS_INTERNAL;
  if (!store && faults.flip != 0 && counts.fetches % faults.flip == 0) {
    unsigned char wrong = bytes[t->length / 2] ^ 1;
    counts.flipped++;
    if (pwrite(staging, &wrong, 1, (off_t)(t->staging_offset + t->length / 2)) != 1)
      return GB_STATUS_INTERNAL;
  }
  return GB_STATUS_OK;
}

static void lose_everything(int fd) {
  gone = true;
  for (uint32_t i = 0; i < range_count; i++) {
    struct {
      struct gb_frame frame;
      struct gb_lost lost;
    } notice = {{sizeof(struct gb_lost), GB_MSG_LOST, 0, 0},
                {ranges[i].offset, ranges[i].length, "feeder-one"}};
    write_all(fd, &notice, sizeof notice);
    counts.lost++;
  }
}

static bool hello(int fd, const struct gb_frame *frame, const struct gb_hello *hello_message) {
  char path[64];
  struct gb_hello_ack ack = {
      .status = GB_STATUS_OK, .abi_major = GB_ABI_MAJOR, .agent_pid = (uint32_t)getpid()};
  if (hello_message->magic != GB_ABI_MAGIC || hello_message->abi_major != GB_ABI_MAJOR)
    return false;
  snprintf(path, sizeof path, "/proc/%u/fd/%d", hello_message->pid, hello_message->staging_fd);
  if (staging >= 0) close(staging);
  staging = open(path, O_RDWR | O_CLOEXEC);
  if (staging < 0) return false;
  if (memcmp(attachment, hello_message->attachment_id, sizeof attachment) != 0) {
    memcpy(attachment, hello_message->attachment_id, sizeof attachment);
    memset(held, 0, sizeof held);
  }
  memcpy(held, hello_message->held_bytes, sizeof held);
  memcpy(ack.limit_bytes, limits, sizeof limits);
  ack.features = hello_message->features;
  counts.connections++;
  return reply(fd, frame, &ack, sizeof ack);
}

static bool budget(int fd, const struct gb_frame *frame, const struct gb_budget *request) {
  struct gb_budget_reply answer = {.status = GB_STATUS_OK, .tier = request->tier};
  uint64_t *account = &held[request->tier];
  if (frame->type == GB_MSG_GRANT) {
    if (*account + request->bytes > limits[request->tier])
      answer.status = GB_STATUS_CAPACITY;
    else
      *account += request->bytes;
  } else if (request->bytes > *account) {
    answer.status = GB_STATUS_INVALID;
    counts.errors++;
  } else {
    *account -= request->bytes;
  }
  answer.held_bytes = *account;
  answer.limit_bytes = limits[request->tier];
  return reply(fd, frame, &answer, sizeof answer);
}

static bool every(unsigned fault, unsigned count) {
  return fault != 0 && count % fault == 0;
}

static bool serve_range(int fd, const struct gb_frame *frame, const void *payload) {
  struct gb_status_reply answer = {
      .status = GB_STATUS_INVALID, .tier = GB_TIER_T2R, .feeder = "feeder-one"};
  bool moves = frame->type == GB_MSG_STORE || frame->type == GB_MSG_FETCH;
  if (frame->type == GB_MSG_PLACE) counts.places++;
  if (frame->type == GB_MSG_STORE) counts.stores++;
  if (frame->type == GB_MSG_FETCH) counts.fetches++;
  if (frame->type == GB_MSG_DROP) counts.drops++;
  if (frame->type != GB_MSG_DROP && frame->type != GB_MSG_FETCH &&
      every(faults.refuse, counts.places + counts.stores)) {
    counts.refused++;
    answer.status = GB_STATUS_CAPACITY;
  } else if (moves && every(faults.away, counts.stores + counts.fetches)) {
    counts.away++;
    answer.status = GB_STATUS_UNREACHABLE;
  } else if (frame->type == GB_MSG_PLACE) {
    answer.status = place(payload);
  } else if (frame->type == GB_MSG_DROP) {
    answer.status = drop(payload);
  } else {
    answer.status = transfer(payload, frame->type == GB_MSG_STORE);
  }
  if (answer.status == GB_STATUS_INVALID || answer.status == GB_STATUS_INTERNAL) counts.errors++;
  if (!reply(fd, frame, &answer, sizeof answer)) return false;
  if (faults.lose != 0 && !gone && counts.stores >= faults.lose) lose_everything(fd);
  return true;
}

static bool serve(int fd, const struct gb_frame *frame, const void *payload) {
  if (frame->request_id == 0) return true; /* reports and events */
  if (frame->type == GB_MSG_HELLO)
    return frame->payload_bytes >= sizeof(struct gb_hello) && hello(fd, frame, payload);
  counts.requests++;
  if (every(faults.cut, counts.requests)) {
    counts.cut++;
    return false;
  }
  if (every(faults.late, counts.requests)) usleep(30000);
  switch (frame->type) {
    case GB_MSG_GRANT:
    case GB_MSG_RETURN:
      return frame->payload_bytes == sizeof(struct gb_budget) && budget(fd, frame, payload);
    case GB_MSG_PLACE:
    case GB_MSG_DROP:
      return frame->payload_bytes == sizeof(struct gb_range) && serve_range(fd, frame, payload);
    case GB_MSG_STORE:
    case GB_MSG_FETCH:
      return frame->payload_bytes == sizeof(struct gb_transfer) && serve_range(fd, frame, payload);
    default: counts.errors++; return false;
  }
}

static bool read_exact(int fd, void *bytes, size_t length) {
  unsigned char *p = bytes;
  while (length > 0) {
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    if (stopping) return false;
    if (poll(&wait, 1, 200) <= 0) continue;
    ssize_t got = recv(fd, p, length, 0);
    if (got <= 0) return false;
    p += got;
    length -= (size_t)got;
  }
  return true;
}

static void session(int fd) {
  _Alignas(8) unsigned char payload[GB_ABI_PAYLOAD_BYTES_MAX];
  struct gb_frame frame;
  while (read_exact(fd, &frame, sizeof frame)) {
    if (frame.payload_bytes > sizeof payload || !read_exact(fd, payload, frame.payload_bytes))
      break;
    if (!serve(fd, &frame, payload)) break;
  }
  close(fd);
}

static void read_faults(int count, char **arguments) {
  for (int i = 4; i < count; i++) {
    sscanf(arguments[i], "cut=%u", &faults.cut);
    sscanf(arguments[i], "late=%u", &faults.late);
    sscanf(arguments[i], "refuse=%u", &faults.refuse);
    sscanf(arguments[i], "away=%u", &faults.away);
    sscanf(arguments[i], "lose=%u", &faults.lose);
    sscanf(arguments[i], "flip=%u", &faults.flip);
  }
}

int main(int count, char **arguments) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (count < 4 || strlen(arguments[1]) >= sizeof address.sun_path) return 2;
  strcpy(address.sun_path, arguments[1]);
  limits[GB_TIER_T1] = UINT64_MAX;
  limits[GB_TIER_T2] = strtoull(arguments[2], NULL, 10) << 20;
  limits[GB_TIER_T2R] = strtoull(arguments[3], NULL, 10) << 20;
  read_faults(count, arguments);
  struct sigaction action = {.sa_handler = stop};
  sigaction(SIGTERM, &action, NULL);
  int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  unlink(arguments[1]);
  if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) != 0 ||
      listen(listener, 8) != 0) {
    perror(arguments[1]);
    return 1;
  }
  while (!stopping) {
    struct pollfd wait = {.fd = listener, .events = POLLIN};
    if (poll(&wait, 1, 200) <= 0) continue;
    int fd = accept(listener, NULL, NULL);
    if (fd >= 0) session(fd);
  }
  unlink(arguments[1]);
  printf(
      "agent: connections=%u requests=%u places=%u stores=%u fetches=%u drops=%u cut=%u refused=%u "
      "away=%u flipped=%u "
      "lost=%u errors=%u placed_bytes=%llu held_t2_bytes=%llu held_t2r_bytes=%llu\n",
      counts.connections, counts.requests, counts.places, counts.stores, counts.fetches,
      counts.drops, counts.cut, counts.refused, counts.away, counts.flipped, counts.lost,
      counts.errors, (unsigned long long)placed, (unsigned long long)held[GB_TIER_T2],
      (unsigned long long)held[GB_TIER_T2R]);
  return 0;
}
