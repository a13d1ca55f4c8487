/* SPDX-License-Identifier: Apache-2.0 */
/* peer_executor.c: an executor by gb_run.h behind a lane server: a book of commands, no GPU. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "lane.h"
#include "peer.h"
#include "peer_part.h"

#define HELD_MAX 256u
#define RUNS_MAX 64u

struct batch {
  struct gb_lane_called *called;
  uint8_t *body;
  uint64_t bytes;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* everything below */
static pthread_cond_t more = PTHREAD_COND_INITIALIZER;
static gb_lane_server *server;
static uint8_t *memory;
static struct batch early[HELD_MAX]; /* by sequence */
static struct kept {
  uint64_t sequence;
  uint32_t bytes;
  uint8_t *answer; /* for who asks again */
} kept[HELD_MAX];
static uint64_t next = 1;
static struct peer_entry *book;
static uint32_t entries;
static struct peer_counts counts;
static struct gb_run_result failure; /* the first, status not 0 */
static struct gb_run_run changed[RUNS_MAX];
static uint32_t changed_count;
static struct {
  bool hold, lost, away, refuse_functions, knows_images;
  uint64_t cut_after;
  uint32_t fail_nth;
  int32_t fail_error;
} faults;
static uint64_t launches;
static pthread_t thread;
static bool stopping;
/* Not with `lock`: taking a ticket back waits for calls that are being handed over. */
static pthread_mutex_t ticket_lock = PTHREAD_MUTEX_INITIALIZER;
static uint8_t ticket[GB_LANE_TICKET_ID_BYTES];
static bool ticketed;

/* ---- answers ---- */

static void answer(struct gb_lane_called *called, const struct gb_run_result *result, const void *bytes) {
  uint8_t *whole = malloc(sizeof *result + result->bytes);
  memcpy(whole, result, sizeof *result);
  if (result->bytes > 0) memcpy(whole + sizeof *result, bytes, result->bytes);
  gb_lane_answer(called, GB_LANE_OK, whole, sizeof *result + result->bytes);
}

static void answer_image(const uint8_t *body, struct gb_run_result *result, uint8_t *bytes) {
  struct gb_run_image image;
  memcpy(&image, body, sizeof image);
  struct gb_run_bitmap head = {.bit_count = image.block_count};
  memcpy(bytes, &head, sizeof head);
  memset(bytes + sizeof head, faults.knows_images ? 0 : 0xff, (image.block_count + 7) / 8);
  result->bytes = (uint32_t)sizeof head + (image.block_count + 7) / 8;
}

static void answer_collect(const uint8_t *body, struct gb_run_result *result, uint8_t *bytes) {
  struct gb_run_collect ask;
  struct gb_run_blocks head = {.run_count = changed_count};
  memcpy(&ask, body, sizeof ask);
  for (uint32_t i = 0; i < changed_count; i++) head.bytes += (uint64_t)changed[i].blocks * GB_RUN_BLOCK_BYTES;
  head.is_inline = head.bytes <= ask.inline_bytes_max;
  uint32_t at = sizeof head;
  memcpy(bytes, &head, sizeof head);
  memcpy(bytes + at, changed, changed_count * sizeof *changed);
  at += changed_count * (uint32_t)sizeof *changed;
  for (uint32_t i = 0; i < changed_count && head.is_inline; i++) {
    memcpy(bytes + at, memory + changed[i].offset, (uint64_t)changed[i].blocks * GB_RUN_BLOCK_BYTES);
    at += changed[i].blocks * GB_RUN_BLOCK_BYTES;
  }
  result->bytes = at;
}

/* ---- execution ---- */

static void note(uint16_t type, const uint8_t *body, uint32_t bytes, uint64_t sequence) {
  if (entries == PEER_ENTRIES_MAX) return;
  struct peer_entry *entry = &book[entries++];
  *entry = (struct peer_entry){.type = type, .bytes = bytes, .sequence = sequence};
  memcpy(entry->body, body, bytes < sizeof entry->body ? bytes : sizeof entry->body);
}

/* returns: false when the rest of the batch is not executed. */
static bool execute(uint16_t type, const uint8_t *body, uint32_t bytes, uint64_t sequence,
                    struct gb_run_result *result, uint8_t *answered) {
  struct gb_run_range range;
  struct gb_run_launch launch;
  memcpy(&range, body, bytes < sizeof range ? bytes : sizeof range);
  note(type, body, bytes, sequence);
  if (type == GB_RUN_WRITE) memcpy(memory + range.offset, body + sizeof range, range.length);
  if (type == GB_RUN_IMAGE_PART) counts.image_parts++;
  if (type == GB_RUN_IMAGE) answer_image(body, result, answered);
  if (type == GB_RUN_COLLECT) answer_collect(body, result, answered);
  if (type == GB_RUN_READ) {
    memcpy(answered, memory + range.offset, range.length);
    result->bytes = (uint32_t)range.length;
  }
  if (type == GB_RUN_FUNCTION && faults.refuse_functions) {
    result->status = GB_RUN_UNSUPPORTED;
    result->cuda_error = 209;
    return false;
  }
  if (type != GB_RUN_LAUNCH) return true;
  launches++;
  memcpy(&launch, body, sizeof launch);
  if (faults.fail_nth == 0 || --faults.fail_nth > 0) return true;
  failure = (struct gb_run_result){.status = GB_RUN_FAILED,
                                   .cuda_error = faults.fail_error,
                                   .sequence = sequence,
                                   .function = launch.function};
  return false;
}

static bool answers(uint16_t type) {
  return type == GB_RUN_IMAGE || type == GB_RUN_COLLECT || type == GB_RUN_READ || type == GB_RUN_SYNC;
}

/* returns: whether the last command is one that answers. */
static bool run(struct batch *batch, struct gb_run_result *result, uint8_t *answered) {
  struct gb_run_batch head;
  struct gb_run_command command = {0};
  memcpy(&head, batch->body, sizeof head);
  uint64_t at = sizeof head;
  bool goes_on = failure.status == GB_RUN_OK;
  *result = (struct gb_run_result){.sequence = head.sequence};
  for (uint32_t i = 0; i < head.command_count; i++) {
    memcpy(&command, batch->body + at, sizeof command);
    if (command.bytes < sizeof command || command.bytes % 8 != 0 || at + command.bytes > batch->bytes ||
        (answers(command.type) && i + 1 < head.command_count)) {
      counts.invalid++;
      return true;
    }
    if (goes_on)
      goes_on = execute(command.type, batch->body + at + sizeof command,
                        command.bytes - (uint32_t)sizeof command, head.sequence, result, answered);
    at += command.bytes;
  }
  if (at != batch->bytes || head.version != GB_RUN_VERSION) counts.invalid++;
  if (failure.status != GB_RUN_OK) *result = failure;
  result->launches = launches;
  return answers(command.type);
}

/* Takes the ticket back, and notes another one. */
static void change_ticket(const uint8_t *with) {
  pthread_mutex_lock(&ticket_lock);
  if (ticketed) gb_lane_grant_revoke(server, ticket);
  ticketed = with != NULL;
  if (ticketed) memcpy(ticket, with, sizeof ticket);
  pthread_mutex_unlock(&ticket_lock);
}

static void keep(uint64_t sequence, const struct gb_run_result *result, const uint8_t *answered) {
  struct kept *place = &kept[sequence % HELD_MAX];
  free(place->answer);
  *place = (struct kept){.sequence = sequence, .bytes = result->bytes, .answer = malloc(result->bytes + 1)};
  memcpy(place->answer, answered, result->bytes);
}

/* Executes what is next, in order. pre: lock, released while the lane is cut. */
static void run_next(void) {
  static uint8_t answered[GB_RUN_BATCH_BYTES_MAX];
  struct batch batch = early[next % HELD_MAX];
  struct gb_run_result result;
  early[next % HELD_MAX].called = NULL;
  next++;
  run(&batch, &result, answered);
  keep(next - 1, &result, answered);
  free(batch.body);
  bool now = faults.cut_after != 0 && counts.calls >= faults.cut_after;
  if (now) {
    faults.cut_after = 0;
    pthread_mutex_unlock(&lock);
    change_ticket(NULL);
    pthread_mutex_lock(&lock);
  }
  answer(batch.called, &result, answered);
}

static void *work(void *unused) {
  (void)unused;
  pthread_mutex_lock(&lock);
  while (!stopping) {
    if (!faults.hold && early[next % HELD_MAX].called != NULL)
      run_next();
    else
      pthread_cond_wait(&more, &lock);
  }
  pthread_mutex_unlock(&lock);
  return NULL;
}

/* ---- calls ---- */

static void take(void *context, struct gb_lane_called *called, uint8_t *body, uint64_t bytes) {
  (void)context;
  struct gb_run_batch head;
  memcpy(&head, body, sizeof head);
  pthread_mutex_lock(&lock);
  counts.calls++;
  if (bytes > counts.largest) counts.largest = (uint32_t)bytes;
  struct batch *place = &early[head.sequence % HELD_MAX];
  if (head.sequence < next) {
    counts.again++;
    const struct kept *before = &kept[head.sequence % HELD_MAX];
    struct gb_run_result result = failure;
    if (failure.status == GB_RUN_OK) result.sequence = next - 1;
    if (before->sequence == head.sequence) result.bytes = before->bytes;
    answer(called, &result, before->answer);
    free(body);
  } else if (place->called != NULL) {
    counts.again++; /* its first bringer is gone with his lane */
    gb_lane_answer(place->called, GB_LANE_IO, NULL, 0);
    free(place->body);
    *place = (struct batch){called, body, bytes};
  } else {
    *place = (struct batch){called, body, bytes};
  }
  pthread_cond_signal(&more);
  pthread_mutex_unlock(&lock);
}

static const struct gb_lane_backing backing = {.call = take};

bool peer_ticket(struct gb_ticket_reply *reply) {
  struct gb_lane_grant grant = {.size = sizeof grant, .connections = 2, .ttl_ms = 5000};
  pthread_mutex_lock(&lock);
  counts.tickets++;
  bool lost = faults.lost;
  bool away = faults.away;
  pthread_mutex_unlock(&lock);
  reply->status = lost ? GB_STATUS_DATA_LOSS : away ? GB_STATUS_UNREACHABLE : GB_STATUS_OK;
  if (reply->status != GB_STATUS_OK) return true;
  if (getrandom(&grant.ticket, sizeof grant.ticket, 0) != (ssize_t)sizeof grant.ticket) return false;
  struct gb_lane_region region = {.size = sizeof region,
                                  .rights = GB_LANE_MAY_READ | GB_LANE_MAY_WRITE | GB_LANE_MAY_CALL,
                                  .bytes = PEER_BYTES,
                                  .base = memory,
                                  .backing = &backing};
  if (gb_lane_grant_add(server, &grant) != GB_LANE_OK ||
      gb_lane_export(server, grant.ticket.id, &region) != GB_LANE_OK)
    return false;
  change_ticket(grant.ticket.id);
  memcpy(reply->ticket_id, grant.ticket.id, sizeof reply->ticket_id);
  memcpy(reply->secret, grant.ticket.secret, sizeof reply->secret);
  reply->port = (uint32_t)gb_lane_server_port(server);
  reply->connections = 2;
  reply->features = GB_LANE_FEATURE_RUN;
  reply->compute_capability = 90;
  strcpy(reply->address, "127.0.0.1");
  strcpy(reply->feeder, "feeder-one");
  return true;
}

/* ---- the test's side ---- */

bool peer_executor_start(void) {
  struct gb_lane_server_options options = {.size = sizeof options, .fd = -1, .address = "127.0.0.1"};
  memory = calloc(1, PEER_BYTES);
  book = calloc(PEER_ENTRIES_MAX, sizeof *book);
  if (memory == NULL || book == NULL || gb_lane_server_open(&options, &server) != GB_LANE_OK) return false;
  return pthread_create(&thread, NULL, work, NULL) == 0;
}

void peer_executor_stop(void) {
  pthread_mutex_lock(&lock);
  stopping = true;
  pthread_cond_signal(&more);
  pthread_mutex_unlock(&lock);
  pthread_join(thread, NULL);
  gb_lane_server_close(server);
}

#define UNDER_LOCK(statement)         \
  do {                                \
    pthread_mutex_lock(&lock);        \
    statement;                        \
    pthread_cond_signal(&more);       \
    pthread_mutex_unlock(&lock);      \
  } while (0)

void peer_clear(void) {
  UNDER_LOCK({
    entries = 0;
    memset(&counts, 0, sizeof counts);
    memset(&faults, 0, sizeof faults);
    changed_count = 0;
  });
}
uint32_t peer_entries(void) {
  uint32_t count;
  UNDER_LOCK(count = entries);
  return count;
}
struct peer_entry peer_entry(uint32_t index) {
  struct peer_entry entry;
  UNDER_LOCK(entry = book[index]);
  return entry;
}
struct peer_counts peer_counts(void) {
  struct peer_counts now;
  UNDER_LOCK(now = counts);
  return now;
}
uint8_t *peer_memory(void) { return memory; }
void peer_hold(bool hold) { UNDER_LOCK(faults.hold = hold); }
void peer_cut_at(uint64_t after_calls) { UNDER_LOCK(faults.cut_after = counts.calls + after_calls); }
void peer_cut(void) { change_ticket(NULL); }
void peer_lose(bool lost) { UNDER_LOCK(faults.lost = lost); }
void peer_away(bool away) { UNDER_LOCK(faults.away = away); }
void peer_fail_launch(uint32_t nth, int32_t cuda_error) {
  UNDER_LOCK({
    faults.fail_nth = nth;
    faults.fail_error = cuda_error;
  });
}
void peer_refuse_functions(bool refuse) { UNDER_LOCK(faults.refuse_functions = refuse); }
void peer_knows_images(bool knows) { UNDER_LOCK(faults.knows_images = knows); }
void peer_changed(const struct gb_run_run *runs, uint32_t count) {
  UNDER_LOCK({
    memcpy(changed, runs, count * sizeof *runs);
    changed_count = count;
  });
}
/* A new executor: batches begin at 1 again. */
void peer_renew(void) {
  UNDER_LOCK({
    next = 1;
    memset(&failure, 0, sizeof failure);
    memset(early, 0, sizeof early);
    for (uint32_t i = 0; i < HELD_MAX; i++) kept[i].sequence = 0;
    launches = 0;
  });
}
