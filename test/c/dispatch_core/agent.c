/* SPDX-License-Identifier: Apache-2.0 */
/*
 * agent.c: the host agent and its feeders as a dispatching shim sees them: grants within fixed limits, one lane to each
 * feeder, and behind each lane a real gb-executor on a simulated GPU of its own. On SIGTERM it prints what happened.
 *
 * usage: agent SOCKET EXECUTOR RAM_MIB FEEDERS FEEDER_MIB [FAULT=N ...]
 *   room=N     every Nth ROOM: GB_STATUS_CAPACITY
 *   kill=N     at the Nth PLACE: the first executor dies
 *   late=N     every Nth request: answer after 20 ms
 *   still=1    no feeder lends compute
 */
#include <signal.h>
#include <sys/random.h>
#include <sys/un.h>

#include "../executor/lane_peer.h"
#include "gb_abi.h"

#define FEEDERS_MAX 4
#define PLACED_MAX 4096

struct feeder {
  struct executor executor;
  uint64_t used;
  bool gone;
};

struct placed {
  struct gb_range range;
  uint32_t lane;
  bool room; /* of a replica; else the only copy */
};

static struct feeder feeders[FEEDERS_MAX];
static uint32_t feeder_count;
static uint64_t feeder_bytes;
static bool started;
static uint64_t arena_bytes;
static struct placed placed[PLACED_MAX];
static uint32_t placed_count;
static uint64_t limits[GB_TIER_COUNT], held[GB_TIER_COUNT];
static struct gb_lane_report reports[FEEDERS_MAX + 1];
static struct {
  unsigned room, kill, late, still;
} faults;
static struct {
  unsigned requests, places, rooms, refused, tickets, steps, errors;
} counts;
static volatile sig_atomic_t stopping;

static void stop(int number) {
  (void)number;
  stopping = 1;
}

static bool every(unsigned fault, unsigned count) {
  return fault != 0 && count % fault == 0;
}

static bool reply(int fd, const struct gb_frame *request, const void *payload, uint32_t bytes) {
  unsigned char message[4096];
  struct gb_frame frame = {bytes, request->type, GB_FRAME_REPLY, request->request_id};
  memcpy(message, &frame, sizeof frame);
  memcpy(message + sizeof frame, payload, bytes);
  return send(fd, message, sizeof frame + bytes, MSG_NOSIGNAL) == (ssize_t)(sizeof frame + bytes);
}

/* ---- feeders ---- */

/* Each has a GPU of its own. */
static bool start_feeders(const struct gb_hello *hello) {
  for (uint32_t i = 0; i < feeder_count && !started; i++) {
    char name[64];
    snprintf(name, sizeof name, "feeder-%d-%u", (int)getpid(), i);
    setenv("GBSIM_GPU", name, 1);
    spawn_executor(&feeders[i].executor);
    struct gbx_init init = {.version = GBX_VERSION,
                            .gpu_count = 1,
                            .arena_base = hello->arena_base,
                            .arena_bytes = hello->arena_bytes};
    struct gbx_init_reply answer = initialise(&feeders[i].executor, &init);
    if (answer.status != GBX_OK || answer.arena_base != hello->arena_base) return false;
  }
  arena_bytes = hello->arena_bytes;
  started = true;
  return true;
}

static struct placed *find(const struct gb_range *range, uint32_t lane, bool room) {
  for (uint32_t i = 0; i < placed_count; i++) {
    struct placed *one = &placed[i];
    if (one->range.offset == range->offset && one->range.length == range->length && one->room == room &&
        (lane == 0 || one->lane == lane))
      return one;
  }
  return NULL;
}

static uint32_t take(const struct gb_range *range, uint32_t lane, bool room) {
  struct feeder *feeder = &feeders[lane - 1];
  if (feeder->gone) return GB_STATUS_DATA_LOSS;
  uint64_t most = room ? feeder_bytes : feeder_bytes - feeder_bytes / 8; /* the rest is for replicas */
  if (feeder->used + range->length > most || placed_count == PLACED_MAX) return GB_STATUS_CAPACITY;
  if (change(&feeder->executor, GBX_MSG_ALLOCATE, GBX_DEVICE_GPU, range->offset, range->length) != GBX_OK) {
    counts.errors++;
    return GB_STATUS_INTERNAL;
  }
  feeder->used += range->length;
  placed[placed_count++] = (struct placed){*range, lane, room};
  return GB_STATUS_OK;
}

static uint32_t give_back(struct placed *one) {
  struct feeder *feeder = &feeders[one->lane - 1];
  if (!feeder->gone &&
      change(&feeder->executor, GBX_MSG_FREE, GBX_DEVICE_GPU, one->range.offset, one->range.length) != GBX_OK)
    counts.errors++;
  feeder->used -= one->range.length;
  *one = placed[--placed_count];
  return GB_STATUS_OK;
}

/* ---- requests ---- */

static bool hello(int fd, const struct gb_frame *frame, const struct gb_hello *message) {
  struct gb_hello_ack ack = {.status = GB_STATUS_OK,
                             .abi_major = GB_ABI_MAJOR,
                             .agent_pid = (uint32_t)getpid(),
                             .features = message->features};
  if (message->magic != GB_ABI_MAGIC || !start_feeders(message)) {
    counts.errors++;
    return false;
  }
  memcpy(held, message->held_bytes, sizeof held);
  memcpy(ack.limit_bytes, limits, sizeof limits);
  return reply(fd, frame, &ack, sizeof ack);
}

static bool budget(int fd, const struct gb_frame *frame, const struct gb_budget *request) {
  struct gb_budget_reply answer = {.status = GB_STATUS_OK, .tier = request->tier};
  uint64_t *account = &held[request->tier];
  if (frame->type == GB_MSG_GRANT && *account + request->bytes > limits[request->tier])
    answer.status = GB_STATUS_CAPACITY;
  else if (frame->type == GB_MSG_GRANT)
    *account += request->bytes;
  else if (request->bytes <= *account)
    *account -= request->bytes;
  else
    counts.errors++;
  answer.held_bytes = *account;
  answer.limit_bytes = limits[request->tier];
  return reply(fd, frame, &answer, sizeof answer);
}

static uint64_t placed_bytes(void) {
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < placed_count; i++) bytes += placed[i].room ? 0 : placed[i].range.length;
  return bytes;
}

/* One feeder after the other is filled. */
static bool place(int fd, const struct gb_frame *frame, const struct gb_place_request *request) {
  const struct gb_range whole = {request->offset, request->length};
  const struct gb_range *range = &whole;
  struct gb_place_reply answer = {.status = GB_STATUS_CAPACITY, .tier = GB_TIER_T1R};
  struct placed *one = find(range, 0, false);
  counts.places++;
  if (counts.places == faults.kill) {
    kill(feeders[0].executor.pid, SIGKILL);
    feeders[0].gone = true;
  }
  uint32_t lane = one != NULL ? one->lane : 0;
  if (frame->payload_bytes != sizeof *request || request->lane > feeder_count) counts.errors++;
  bool granted = placed_bytes() + range->length <= held[GB_TIER_T2R];
  bool wanted = request->lane != 0 && request->lane <= feeder_count && lane == 0 && granted;
  if (wanted && take(range, request->lane, false) == GB_STATUS_OK) lane = request->lane;
  for (uint32_t next = 1; next <= feeder_count && lane == 0 && granted; next++) {
    if (take(range, next, false) == GB_STATUS_OK) lane = next;
  }
  if (lane != 0) {
    answer.status = GB_STATUS_OK;
    answer.extent_count = 1;
    answer.extents[0] = (struct gb_extent){range->offset, range->length, lane, 0};
    snprintf(answer.feeder, sizeof answer.feeder, "feeder-%u", lane);
  }
  return reply(fd, frame, &answer, sizeof answer);
}

static bool drop(int fd, const struct gb_frame *frame, const struct gb_range *range) {
  struct placed *one = find(range, 0, false);
  struct gb_status_reply answer = {.status = one != NULL ? give_back(one) : GB_STATUS_NOT_FOUND};
  return reply(fd, frame, &answer, sizeof answer);
}

static bool room(int fd, const struct gb_frame *frame, const struct gb_room_request *request) {
  struct gb_status_reply answer = {.status = GB_STATUS_NOT_FOUND};
  struct gb_range range = {request->offset, request->length};
  struct placed *one = find(&range, request->lane, true);
  counts.rooms++;
  if (request->lane == 0 || request->lane > feeder_count) {
    counts.errors++;
  } else if (request->drop) {
    counts.errors += one == NULL;
    if (one != NULL) answer.status = give_back(one);
  } else if (one != NULL) {
    answer.status = GB_STATUS_OK;
  } else if (every(faults.room, counts.rooms)) {
    counts.refused++;
    answer.status = GB_STATUS_CAPACITY;
  } else {
    answer.status = take(&range, request->lane, true);
  }
  return reply(fd, frame, &answer, sizeof answer);
}

static bool lane(int fd, const struct gb_frame *frame, const struct gb_ticket_request *request) {
  struct gb_ticket_reply answer = {.status = GB_STATUS_NOT_FOUND, .lane = request->lane};
  counts.tickets++;
  if (request->lane == 0 || request->lane > feeder_count) {
    counts.errors++;
  } else if (feeders[request->lane - 1].gone) {
    answer.status = GB_STATUS_DATA_LOSS;
  } else {
    struct gbx_grant grant = {.length = arena_bytes,
                              .tag = request->lane,
                              .rights = GB_LANE_MAY_READ | GB_LANE_MAY_WRITE | (faults.still ? 0 : GB_LANE_MAY_CALL),
                              .connections = 4,
                              .ttl_ms = 10000};
    bool random = getrandom(grant.ticket_id, sizeof grant.ticket_id, 0) == sizeof grant.ticket_id &&
                  getrandom(grant.secret, sizeof grant.secret, 0) == sizeof grant.secret;
    if (random && give(&feeders[request->lane - 1].executor, &grant) == GBX_OK) {
      answer.status = GB_STATUS_OK;
      answer.port = (uint32_t)gb_lane_door_port(lane_door);
      answer.connections = 2;
      answer.features = faults.still ? 0 : GB_LANE_FEATURE_RUN;
      answer.compute_capability = 80;
      memcpy(answer.ticket_id, grant.ticket_id, sizeof answer.ticket_id);
      memcpy(answer.secret, grant.secret, sizeof answer.secret);
      strcpy(answer.address, "127.0.0.1");
      snprintf(answer.feeder, sizeof answer.feeder, "feeder-%u", request->lane);
    } else {
      counts.errors++;
      answer.status = GB_STATUS_UNREACHABLE;
    }
  }
  return reply(fd, frame, &answer, sizeof answer);
}

/* What lies with the program is wanted on the first feeder, and what lies there at home; the rest stays. */
static bool step(int fd, const struct gb_frame *frame, const struct gb_step *part) {
  struct gb_step_reply answer = {.status = GB_STATUS_OK};
  bool last = part->count <= GB_ABI_TOUCHES_MAX && part->first + part->count == part->total;
  counts.steps += part->first == 0;
  counts.errors += part->count == 0 || part->count > GB_ABI_TOUCHES_MAX || part->total > GB_ABI_STEP_TOUCHES_MAX;
  for (uint32_t i = 0; last && i < part->count && answer.count < GB_ABI_OWNERS_MAX; i++) {
    const struct gb_step_touch *touch = &part->touches[i];
    if (touch->lane > 1) continue;
    answer.owners[answer.count++] =
        (struct gb_owner){.offset = touch->offset, .length = touch->length, .lane = 1 - touch->lane};
  }
  return reply(fd, frame, &answer, sizeof answer);
}

static bool serve(int fd, const struct gb_frame *frame, const void *payload) {
  const struct gb_lane_report *report = payload;
  if (frame->request_id == 0) {
    if (frame->type == GB_MSG_LANES && report->lane <= feeder_count) reports[report->lane] = *report;
    return true;
  }
  counts.requests++;
  if (every(faults.late, counts.requests)) usleep(20000);
  switch (frame->type) {
    case GB_MSG_HELLO: return hello(fd, frame, payload);
    case GB_MSG_GRANT:
    case GB_MSG_RETURN: return budget(fd, frame, payload);
    case GB_MSG_PLACE: return place(fd, frame, payload);
    case GB_MSG_DROP: return drop(fd, frame, payload);
    case GB_MSG_LANE: return lane(fd, frame, payload);
    case GB_MSG_ROOM: return room(fd, frame, payload);
    case GB_MSG_STEP: return step(fd, frame, payload);
    default: counts.errors++; return false;
  }
}

static bool read_all(int fd, void *bytes, size_t length) {
  for (size_t done = 0; done < length;) {
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    if (stopping) return false;
    if (poll(&wait, 1, 200) <= 0) continue;
    ssize_t got = recv(fd, (char *)bytes + done, length - done, 0);
    if (got <= 0) return false;
    done += (size_t)got;
  }
  return true;
}

static void session(int fd) {
  _Alignas(8) unsigned char payload[GB_ABI_PAYLOAD_BYTES_MAX];
  struct gb_frame frame;
  while (read_all(fd, &frame, sizeof frame)) {
    if (frame.payload_bytes > sizeof payload || !read_all(fd, payload, frame.payload_bytes)) break;
    if (!serve(fd, &frame, payload)) break;
  }
  close(fd);
}

static void print_account(void) {
  uint64_t launches = 0, crossings = 0, out = 0, in = 0, replicas = 0;
  for (uint32_t i = 1; i <= feeder_count; i++) {
    launches += reports[i].launch_count;
    crossings += reports[i].crossing_count;
    out += reports[i].crossing_bytes_out;
    in += reports[i].crossing_bytes_in;
    replicas += reports[i].replica_bytes;
  }
  printf("agent: requests=%u places=%u rooms=%u refused=%u tickets=%u steps=%u "
         "launches=%llu crossings=%llu crossed_out=%llu crossed_in=%llu replica_bytes=%llu left=%u held=%llu "
         "errors=%u\n",
         counts.requests, counts.places, counts.rooms, counts.refused, counts.tickets, counts.steps,
         (unsigned long long)launches,
         (unsigned long long)crossings, (unsigned long long)out, (unsigned long long)in, (unsigned long long)replicas,
         placed_count, (unsigned long long)held[GB_TIER_T2R], counts.errors);
}

int main(int count, char **arguments) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  char *begin[] = {arguments[0], count > 2 ? arguments[2] : NULL, "sim"};
  if (count < 6 || strlen(arguments[1]) >= sizeof address.sun_path || !lane_peer_begin(3, begin)) return 2;
  strcpy(address.sun_path, arguments[1]);
  feeder_count = (uint32_t)atoi(arguments[4]);
  feeder_bytes = strtoull(arguments[5], NULL, 10) << 20;
  if (feeder_count > FEEDERS_MAX) return 2;
  limits[GB_TIER_T1] = UINT64_MAX;
  limits[GB_TIER_T2] = strtoull(arguments[3], NULL, 10) << 20;
  limits[GB_TIER_T2R] = feeder_count * feeder_bytes;
  for (int i = 6; i < count; i++) {
    sscanf(arguments[i], "room=%u", &faults.room);
    sscanf(arguments[i], "kill=%u", &faults.kill);
    sscanf(arguments[i], "late=%u", &faults.late);
    sscanf(arguments[i], "still=%u", &faults.still);
  }
  struct sigaction action = {.sa_handler = stop};
  sigaction(SIGTERM, &action, NULL);
  int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  unlink(arguments[1]);
  if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 8) != 0) {
    perror(arguments[1]);
    return 1;
  }
  while (!stopping) {
    struct pollfd wait = {.fd = listener, .events = POLLIN};
    int fd = poll(&wait, 1, 200) > 0 ? accept4(listener, NULL, NULL, SOCK_CLOEXEC) : -1;
    if (fd >= 0) session(fd);
  }
  unlink(arguments[1]);
  print_account();
  for (uint32_t i = 0; i < feeder_count && started; i++) close_executor(&feeders[i].executor);
  gb_lane_door_close(lane_door);
  return 0;
}
