/* SPDX-License-Identifier: Apache-2.0 */
/*
 * agent.c: the host agent as the shim sees it, reduced to memory: grants within fixed limits, keeps
 * stored bytes, and fails on demand. A test peer over the real socket, in a process of its own. On
 * SIGTERM it prints what happened.
 *
 * usage: agent SOCKET RAM_MIB FEEDER_MIB [FAULT=N ...]
 *   cut=N      every Nth request: close the connection instead of answering
 *   late=N     every Nth request: answer after 30 ms
 *   refuse=N   every Nth PLACE: GB_STATUS_CAPACITY
 *   away=N     every Nth LANE: GB_STATUS_UNREACHABLE
 *   lose=N     after N writes: every stored byte is gone; LOST notices, then GB_STATUS_DATA_LOSS
 *   flip=N     every Nth read, if it is of the first feeder: one bit is wrong
 *   revoke=N   every Nth read or write: the ticket of that lane is taken back
 *   stop=N     every Nth read or write of the first feeder: silence for longer than a lane waits
 *   offers=1   feeders know what was written by its content
 *   move=N     after every Nth request: half of a range begins to move to a new lane
 *   mirror=1   every range has a second copy; with lose=N only one of the two is lost
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

#include "feeder.h"
#include "gb_abi.h"

#define BLOCK GB_ABI_RANGE_ALIGN
#define RANGES_MAX 4096

struct range {
  uint64_t offset, length;
  uint32_t lanes[2]; /* of its halves */
  uint32_t mirrors[2];
};

static struct range ranges[RANGES_MAX];
static uint32_t range_count;
static uint64_t limits[GB_TIER_COUNT], held[GB_TIER_COUNT], placed;
static uint8_t attachment[16];
static struct {
  unsigned cut, late, refuse, away, lose, move, mirror;
} faults;
static struct {
  unsigned requests, places, drops, tickets, connections, lost, errors;
  unsigned cut, refused, away, moved, dirty, unknown;
} counts;
static uint32_t lane_last = 2; /* numbers given so far */
/* More than a program has lanes: those of leases that have ended make room. */
enum { LANES_EVER = 4 * GB_ABI_LANES_MAX };
static struct gb_move moving;  /* sequence 0: none */
static struct gb_lane_report lane_reports[GB_ABI_LANES_MAX]; /* the last of each */
static bool gone; /* feeders are lost with all bytes: both, or with mirrors the first */
static volatile sig_atomic_t stopping;

static void stop(int number) {
  (void)number;
  stopping = 1;
}

static bool write_all(int fd, const void *bytes, size_t length) {
  return send(fd, bytes, length, MSG_NOSIGNAL) == (ssize_t)length;
}

static bool reply(int fd, const struct gb_frame *request, const void *payload, uint32_t bytes) {
  unsigned char message[2048];
  struct gb_frame frame = {bytes, request->type, GB_FRAME_REPLY, request->request_id};
  memcpy(message, &frame, sizeof frame);
  memcpy(message + sizeof frame, payload, bytes);
  return write_all(fd, message, sizeof frame + bytes);
}

/* The first half of a range lies on one feeder, the rest on the other. */
static uint32_t extents_of(const struct range *range, struct gb_extent extents[2]) {
  uint64_t half = range->length / 2 / BLOCK * BLOCK;
  uint32_t count = 0;
  if (half > 0) extents[count++] = (struct gb_extent){range->offset, half, range->lanes[0], 0};
  extents[count++] =
      (struct gb_extent){range->offset + half, range->length - half, range->lanes[1], 0};
  for (uint32_t i = 0; i < count && faults.mirror != 0; i++) extents[i].mirror = range->mirrors[i];
  if (count == 1) extents[0].mirror = faults.mirror != 0 ? range->mirrors[1] : 0;
  return count;
}

static bool allocate(const struct range *range) {
  struct gb_extent extents[2];
  uint32_t count = extents_of(range, extents);
  bool done = true;
  for (uint32_t i = 0; i < count; i++) {
    done &= feeder_place(extents[i].lane, extents[i].offset, extents[i].length);
    if (extents[i].mirror != 0)
      done &= feeder_place(extents[i].mirror, extents[i].offset, extents[i].length);
  }
  return done;
}

static struct range *range_of(uint64_t offset, uint64_t length) {
  for (uint32_t i = 0; i < range_count; i++) {
    if (ranges[i].offset == offset && ranges[i].length == length) return &ranges[i];
  }
  return NULL;
}

static uint32_t place(const struct gb_place_request *request, struct gb_place_reply *answer) {
  if (request->offset % BLOCK != 0 || request->length % BLOCK != 0 || request->length == 0)
    return GB_STATUS_INVALID;
  if (gone && faults.mirror == 0) return GB_STATUS_CAPACITY;
  struct range *range = range_of(request->offset, request->length);
  for (uint32_t i = 0; i < range_count && range == NULL; i++) {
    bool apart = request->offset + request->length <= ranges[i].offset ||
                 ranges[i].offset + ranges[i].length <= request->offset;
    if (!apart) return GB_STATUS_INVALID;
  }
  if (range == NULL) {
    if (placed + request->length > held[GB_TIER_T2R] || range_count == RANGES_MAX)
      return GB_STATUS_CAPACITY;
    /* After a loss only the second feeder is left. */
    uint32_t first = gone ? 2 : 1;
    range = &ranges[range_count++];
    *range = (struct range){request->offset, request->length, {first, 2}, {gone ? 0 : 2, gone ? 0 : 1}};
    placed += request->length;
    if (!allocate(range)) return GB_STATUS_INTERNAL;
  }
  answer->extent_count = extents_of(range, answer->extents);
  return GB_STATUS_OK;
}

/* A lease that holds nothing any more ends, and its lane with it. */
static void end_lease(uint32_t lane) {
  if (lane > 2) feeder_lose(lane);
}

static uint32_t drop(const struct gb_range *request) {
  struct range *range = range_of(request->offset, request->length);
  if (range == NULL) return GB_STATUS_NOT_FOUND;
  for (uint32_t lane = 1; lane <= lane_last; lane++) feeder_free(lane, range->offset, range->length);
  end_lease(range->lanes[1]);
  placed -= range->length;
  *range = ranges[--range_count];
  if (moving.sequence != 0 && moving.offset >= request->offset &&
      moving.offset < request->offset + request->length)
    moving.sequence = 0;
  return GB_STATUS_OK;
}

static void lose(int fd) {
  gone = true;
  feeder_lose(1);
  if (faults.mirror != 0) return; /* the other copy is whole */
  for (uint32_t lane = 2; lane <= lane_last; lane++) feeder_lose(lane);
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
  struct gb_hello_ack ack = {
      .status = GB_STATUS_OK, .abi_major = GB_ABI_MAJOR, .agent_pid = (uint32_t)getpid()};
  if (hello_message->magic != GB_ABI_MAGIC || hello_message->abi_major != GB_ABI_MAJOR)
    return false;
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

static bool serve_place(int fd, const struct gb_frame *frame, const void *payload) {
  struct gb_place_reply answer = {.tier = GB_TIER_T2R, .feeder = "feeder-one"};
  counts.places++;
  if (every(faults.refuse, counts.places)) {
    counts.refused++;
    answer.status = GB_STATUS_CAPACITY;
  } else {
    answer.status = place(payload, &answer);
  }
  if (answer.status == GB_STATUS_INVALID || answer.status == GB_STATUS_INTERNAL) counts.errors++;
  return reply(fd, frame, &answer, sizeof answer);
}

static bool serve_drop(int fd, const struct gb_frame *frame, const void *payload) {
  struct gb_status_reply answer = {.status = drop(payload)};
  counts.drops++;
  return reply(fd, frame, &answer, sizeof answer);
}

static bool serve_lane(int fd, const struct gb_frame *frame, const void *payload) {
  const struct gb_ticket_request *request = payload;
  struct gb_ticket_reply answer = {.status = GB_STATUS_OK};
  counts.tickets++;
  if (request->lane == 0 || request->lane > lane_last) {
    counts.errors++;
    answer.status = GB_STATUS_NOT_FOUND;
  } else if (every(faults.away, counts.tickets)) {
    counts.away++;
    answer.status = GB_STATUS_UNREACHABLE;
  } else if (!feeder_ticket(request->lane, &answer)) {
    answer.status = GB_STATUS_DATA_LOSS;
  }
  return reply(fd, frame, &answer, sizeof answer);
}

/* ---- moves ---- */

static void send_move(int fd, uint32_t phase) {
  struct {
    struct gb_frame frame;
    struct gb_move move;
  } notice = {{sizeof(struct gb_move), GB_MSG_MOVE, 0, 0}, moving};
  notice.move.phase = phase;
  write_all(fd, &notice, sizeof notice);
}

/* The second half of some range goes to a lane that nobody had. */
static void start_move(int fd) {
  struct gb_extent extents[2];
  struct range *range = range_count > 0 ? &ranges[counts.requests % range_count] : NULL;
  if (range == NULL || moving.sequence != 0 || gone || lane_last >= LANES_EVER) return;
  struct gb_extent *last = &extents[extents_of(range, extents) - 1];
  moving = (struct gb_move){.sequence = counts.requests,
                            .offset = last->offset,
                            .length = last->length,
                            .from_lane = last->lane,
                            .to_lane = ++lane_last,
                            .source_lane = last->lane};
  if (!feeder_place(moving.to_lane, moving.offset, moving.length)) counts.errors++;
  send_move(fd, GB_MOVE_BEGIN);
}

static void end_move(bool moved) {
  struct range *range = NULL;
  for (uint32_t i = 0; i < range_count && range == NULL; i++) {
    if (ranges[i].offset + ranges[i].length == moving.offset + moving.length) range = &ranges[i];
  }
  uint32_t loser = moved ? moving.from_lane : moving.to_lane;
  feeder_free(loser, moving.offset, moving.length);
  end_lease(loser);
  if (moved && range != NULL) range->lanes[1] = moving.to_lane;
  moving.sequence = 0;
}

static bool serve_moved(int fd, const struct gb_frame *frame, const void *payload) {
  const struct gb_move_reply *moved = payload;
  struct gb_status_reply answer = {.status = GB_STATUS_OK};
  if (moved->sequence == moving.sequence && moving.sequence != 0) {
    bool ok = moved->outcome == GB_MOVE_OK;
    if (moved->phase == GB_MOVE_BEGIN && ok) {
      if (!feeder_pull(moving.from_lane, moving.to_lane, moving.offset, moving.length))
        counts.errors++;
      send_move(fd, GB_MOVE_COMMIT);
    } else {
      counts.moved += moved->phase == GB_MOVE_COMMIT && ok;
      counts.dirty += moved->outcome == GB_MOVE_DIRTY;
      counts.unknown += moved->outcome == GB_MOVE_UNKNOWN;
      end_move(moved->phase == GB_MOVE_COMMIT && ok);
    }
  }
  return reply(fd, frame, &answer, sizeof answer);
}

static bool serve_known(int fd, const struct gb_frame *frame, const void *payload) {
  switch (frame->type) {
    case GB_MSG_GRANT:
    case GB_MSG_RETURN:
      return frame->payload_bytes == sizeof(struct gb_budget) && budget(fd, frame, payload);
    case GB_MSG_PLACE:
      return frame->payload_bytes == sizeof(struct gb_place_request) && serve_place(fd, frame, payload);
    case GB_MSG_DROP:
      return frame->payload_bytes == sizeof(struct gb_range) && serve_drop(fd, frame, payload);
    case GB_MSG_LANE:
      return frame->payload_bytes == sizeof(struct gb_ticket_request) &&
             serve_lane(fd, frame, payload);
    case GB_MSG_MOVED:
      return frame->payload_bytes == sizeof(struct gb_move_reply) && serve_moved(fd, frame, payload);
    default: counts.errors++; return false;
  }
}

/* Reports and events are for others; what lanes say of themselves is kept. */
static bool notice(const struct gb_frame *frame, const void *payload) {
  const struct gb_lane_report *report = payload;
  if (frame->type != GB_MSG_LANES) return true;
  if (frame->payload_bytes != sizeof *report || report->lane == 0 || report->lane > lane_last)
    counts.errors++;
  else
    lane_reports[report->lane % GB_ABI_LANES_MAX] = *report;
  return true;
}

static unsigned cached_mib(void) {
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < GB_ABI_LANES_MAX; i++) bytes += lane_reports[i].cached_bytes;
  return (unsigned)(bytes >> 20);
}

static bool serve(int fd, const struct gb_frame *frame, const void *payload) {
  if (frame->request_id == 0) return notice(frame, payload);
  if (frame->type == GB_MSG_HELLO)
    return frame->payload_bytes >= sizeof(struct gb_hello) && hello(fd, frame, payload);
  counts.requests++;
  if (every(faults.cut, counts.requests)) {
    counts.cut++;
    return false;
  }
  if (every(faults.late, counts.requests)) usleep(30000);
  if (!serve_known(fd, frame, payload)) return false;
  if (every(faults.move, counts.requests)) start_move(fd);
  if (faults.lose != 0 && !gone && feeder_count().writes >= faults.lose) lose(fd);
  return true;
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

static void read_faults(int count, char **arguments, struct feeder_faults *feeder) {
  for (int i = 4; i < count; i++) {
    sscanf(arguments[i], "cut=%u", &faults.cut);
    sscanf(arguments[i], "late=%u", &faults.late);
    sscanf(arguments[i], "refuse=%u", &faults.refuse);
    sscanf(arguments[i], "away=%u", &faults.away);
    sscanf(arguments[i], "lose=%u", &faults.lose);
    sscanf(arguments[i], "move=%u", &faults.move);
    sscanf(arguments[i], "mirror=%u", &faults.mirror);
    sscanf(arguments[i], "flip=%u", &feeder->flip);
    sscanf(arguments[i], "revoke=%u", &feeder->revoke);
    sscanf(arguments[i], "stop=%u", &feeder->stop);
    sscanf(arguments[i], "offers=%u", &feeder->offers);
  }
}

int main(int count, char **arguments) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (count < 4 || strlen(arguments[1]) >= sizeof address.sun_path) return 2;
  strcpy(address.sun_path, arguments[1]);
  limits[GB_TIER_T1] = UINT64_MAX;
  limits[GB_TIER_T2] = strtoull(arguments[2], NULL, 10) << 20;
  limits[GB_TIER_T2R] = strtoull(arguments[3], NULL, 10) << 20;
  struct feeder_faults feeder = {0};
  read_faults(count, arguments, &feeder);
  if (!feeder_start(&feeder)) return 1;
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
  struct feeder_counts bytes = feeder_count();
  feeder_stop();
  printf(
      "agent: connections=%u requests=%u places=%u writes=%u reads=%u drops=%u tickets=%u cut=%u "
      "refused=%u away=%u flipped=%u revoked=%u stopped=%u moved=%u dirty=%u unknown=%u offered=%u known=%u "
      "cached_mib=%u lost=%u errors=%u "
      "placed_bytes=%llu held_t2_bytes=%llu held_t2r_bytes=%llu\n",
      counts.connections, counts.requests, counts.places, bytes.writes, bytes.reads, counts.drops,
      counts.tickets, counts.cut, counts.refused, counts.away, bytes.flipped, bytes.revoked,
      bytes.stopped, counts.moved, counts.dirty, counts.unknown, bytes.offered, bytes.known,
      cached_mib(), counts.lost, counts.errors,
      (unsigned long long)placed, (unsigned long long)held[GB_TIER_T2],
      (unsigned long long)held[GB_TIER_T2R]);
  return 0;
}
