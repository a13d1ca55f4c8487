/* SPDX-License-Identifier: Apache-2.0 */
/* lanes.c: opening, closing and counting lanes. */
#include "lanes.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "client.h"
#include "core.h"
#include "lock.h"
#include "replica.h"
#include "run.h"

/* A ticket lives for half a minute; the agent asks the feeder for it. */
#define TICKET_TIMEOUT_MS 12000u
#define OPEN_TIMEOUT_MS 3000u
#define GOODBYE_MS 100u

struct entry {
  uint32_t number; /* 0: free */
  uint32_t opened_count;
  struct gb_open_lane *open; /* NULL: closed */
  int ended;     /* why it was closed last, enum gb_lane_status */
  bool gone;     /* for good */
  uint64_t cached_bytes;
  struct gb_lane_counters past; /* sums of lanes of this number that have ended */
  char feeder[64];
};

/* Handles are opened and closed under lanes_lock, which may be held for seconds; the table is also read under
 * table_lock, for the reports. Of our locks only the client's, the log's and, by the reports, those of queues and of
 * the counters of replicas are taken under them; those are never held where one of these is taken. */
static pthread_mutex_t lanes_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
static struct entry table[GB_ABI_LANES_MAX];

static struct entry *find(uint32_t number) {
  for (uint32_t i = 0; i < GB_ABI_LANES_MAX; i++) {
    if (table[i].number == number) return &table[i];
  }
  return NULL;
}

static enum gb_status ask_ticket(const struct entry *entry, struct gb_ticket_reply *reply) {
  struct gb_ticket_request request = {.lane = entry->number, .attempt = entry->opened_count};
  enum gb_status status = gb_client_lane(&request, reply, TICKET_TIMEOUT_MS);
  if (status == GB_STATUS_OK && (reply->port == 0 || reply->port > UINT16_MAX))
    return GB_STATUS_UNREACHABLE;
  return status;
}

static int open_lane(const struct gb_ticket_reply *reply, gb_lane **lane) {
  struct gb_lane_ticket ticket;
  memcpy(ticket.id, reply->ticket_id, sizeof ticket.id);
  memcpy(ticket.secret, reply->secret, sizeof ticket.secret);
  struct gb_lane_options options = {.size = sizeof options,
                                    .connections = reply->connections,
                                    .open_timeout_ms = OPEN_TIMEOUT_MS};
  int status = gb_lane_open(reply->address, (uint16_t)reply->port, &ticket, &options, lane);
  explicit_bzero(&ticket, sizeof ticket);
  return status;
}

/* pre: the lane is open. */
static bool enter_open(struct entry *entry, gb_lane *lane, const struct gb_ticket_reply *reply) {
  struct gb_open_lane *open = calloc(1, sizeof *open);
  if (open == NULL) return false;
  *open = (struct gb_open_lane){.lane = lane,
                                .number = entry->number,
                                .offers = (reply->features & GB_LANE_FEATURE_OFFER) != 0,
                                .runs = (reply->features & GB_LANE_FEATURE_RUN) != 0,
                                .compute_capability = reply->compute_capability};
  memcpy(open->feeder, reply->feeder, sizeof open->feeder);
  open->feeder[sizeof open->feeder - 1] = '\0';
  pthread_mutex_lock(&table_lock);
  entry->open = open;
  entry->opened_count++;
  entry->ended = GB_LANE_OK;
  memcpy(entry->feeder, reply->feeder, sizeof entry->feeder);
  pthread_mutex_unlock(&table_lock);
  gb_log(GB_LOG_INFO, "lane %u to feeder %s at %s port %u is open", entry->number, entry->feeder,
         reply->address, reply->port);
  return true;
}

static enum gb_status reopen(struct entry *entry) {
  struct gb_ticket_reply reply;
  gb_lane *lane = NULL;
  enum gb_status status = ask_ticket(entry, &reply);
  entry->gone = status == GB_STATUS_DATA_LOSS || status == GB_STATUS_NOT_FOUND;
  if (entry->gone) return GB_STATUS_DATA_LOSS;
  if (status != GB_STATUS_OK) return GB_STATUS_UNREACHABLE;
  int opened = open_lane(&reply, &lane);
  explicit_bzero(reply.secret, sizeof reply.secret);
  if (opened != GB_LANE_OK) {
    gb_log(GB_LOG_WARN, "no lane to feeder %s at %s port %u: %s", reply.feeder, reply.address,
           reply.port, gb_lane_status_name(opened));
    entry->ended = opened;
    return GB_STATUS_UNREACHABLE;
  }
  if (enter_open(entry, lane, &reply)) return GB_STATUS_OK;
  gb_lane_close(lane, 0);
  return GB_STATUS_UNREACHABLE;
}

static void add_past(struct entry *entry, const struct gb_lane_counters *last) {
  entry->past.bytes_read += last->bytes_read;
  entry->past.bytes_written += last->bytes_written;
  entry->past.wire_bytes_in += last->wire_bytes_in;
  entry->past.wire_bytes_out += last->wire_bytes_out;
}

static void close_if_unused(struct gb_open_lane *open) {
  if (!open->dropped || open->users > 0) return;
  gb_lane_close(open->lane, 0);
  free(open);
}

/* Nobody gets it any more; whoever uses it still gives it back. */
static void drop(struct entry *entry, int why) {
  struct gb_open_lane *open = entry->open;
  struct gb_lane_counters last = {0};
  gb_lane_counters(open->lane, &last);
  pthread_mutex_lock(&table_lock);
  entry->open = NULL;
  entry->ended = why;
  add_past(entry, &last);
  pthread_mutex_unlock(&table_lock);
  open->dropped = true;
  gb_event(GB_LOG_WARN, CUDA_SUCCESS, "lane_ended", "the lane to feeder %s has ended: %s",
           entry->feeder, gb_lane_status_name(why));
}

/* Its lease has ended, or it has broken: nobody needs it before it is opened again. */
static bool idle(const struct entry *entry) {
  const struct gb_open_lane *open = entry->open;
  return open == NULL || (open->users == 0 && gb_lane_state(open->lane) != GB_LANE_OK);
}

/* A place for a new number: a free one, that of a lane that is gone for good, or of one that is closed.
 * Numbers of leases that have ended are never asked for again, and there may be any number of them. */
static struct entry *enter(uint32_t number) {
  struct entry *place = find(0);
  for (uint32_t i = 0; place == NULL && i < GB_ABI_LANES_MAX; i++) {
    if (table[i].gone) place = &table[i];
  }
  for (uint32_t i = 0; place == NULL && i < GB_ABI_LANES_MAX; i++) {
    if (idle(&table[i])) place = &table[i];
  }
  if (place == NULL) return NULL;
  struct gb_open_lane *ended = place->open;
  if (ended != NULL) {
    drop(place, gb_lane_state(ended->lane));
    close_if_unused(ended);
  }
  pthread_mutex_lock(&table_lock);
  *place = (struct entry){.number = number};
  pthread_mutex_unlock(&table_lock);
  return place;
}

static enum gb_status get(uint32_t number, struct gb_open_lane **open) {
  struct entry *entry = number == 0 ? NULL : find(number);
  if (entry == NULL && number != 0) entry = enter(number);
  if (entry == NULL) return GB_STATUS_UNREACHABLE;
  if (entry->gone) return GB_STATUS_DATA_LOSS;
  struct gb_open_lane *before = entry->open;
  if (before != NULL && gb_lane_state(before->lane) != GB_LANE_OK) {
    drop(entry, gb_lane_state(before->lane));
    close_if_unused(before);
  }
  enum gb_status status = entry->open != NULL ? GB_STATUS_OK : reopen(entry);
  if (status != GB_STATUS_OK) return status;
  *open = entry->open;
  (*open)->users++;
  return status;
}

enum gb_status gb_lanes_get(uint32_t number, struct gb_open_lane **open) {
  pthread_mutex_lock(&lanes_lock);
  enum gb_status status = get(number, open);
  pthread_mutex_unlock(&lanes_lock);
  return status;
}

static void done(struct gb_open_lane *open, int status) {
  struct entry *entry = find(open->number);
  int state = gb_lane_state(open->lane);
  /* A ticket taken back leaves the lane open, and of no use. */
  if (state == GB_LANE_OK && status == GB_LANE_REVOKED) state = status;
  if (state != GB_LANE_OK && entry != NULL && entry->open == open) drop(entry, state);
  open->users--;
  close_if_unused(open);
}

void gb_lanes_done(struct gb_open_lane *open, int status) {
  pthread_mutex_lock(&lanes_lock);
  done(open, status);
  pthread_mutex_unlock(&lanes_lock);
}

void gb_lanes_count_cached(const struct gb_open_lane *open, uint64_t bytes) {
  pthread_mutex_lock(&table_lock);
  struct entry *entry = find(open->number);
  if (entry != NULL) entry->cached_bytes += bytes;
  pthread_mutex_unlock(&table_lock);
}

const char *gb_lanes_feeder(uint32_t number) {
  static _Thread_local char name[sizeof ((struct entry *)NULL)->feeder];
  pthread_mutex_lock(&table_lock);
  const struct entry *entry = find(number);
  memcpy(name, entry != NULL ? entry->feeder : "", entry != NULL ? sizeof name : 1);
  pthread_mutex_unlock(&table_lock);
  return name;
}

/* ---- reports ---- */

/* pre: table_lock. */
static struct gb_lane_report report_of(const struct entry *entry) {
  struct gb_lane_counters now = {0};
  struct gb_lane_report report = {.lane = entry->number,
                                  .state = (uint32_t)entry->ended,
                                  .cached_bytes = entry->cached_bytes,
                                  .opened_count = entry->opened_count};
  if (entry->open != NULL && gb_lane_counters(entry->open->lane, &now) == GB_LANE_OK) {
    report.state = now.state;
    report.connections = now.connections;
    report.round_trip_ns = now.round_trip_ns_last;
    report.key_age_ms = now.key_age_ms;
    memcpy(report.cipher, now.cipher, sizeof report.cipher);
    memcpy(report.provider, now.provider, sizeof report.provider);
  }
  report.bytes_read = entry->past.bytes_read + now.bytes_read;
  report.bytes_written = entry->past.bytes_written + now.bytes_written;
  report.wire_bytes_in = entry->past.wire_bytes_in + now.wire_bytes_in;
  struct gb_crossings crossings = gb_replica_counted(entry->number);
  report.launch_count = gb_run_counted(entry->number).launches;
  report.crossing_count = crossings.count;
  report.crossing_bytes_out = crossings.bytes_out;
  report.crossing_bytes_in = crossings.bytes_in;
  report.replica_bytes = crossings.replica_bytes;
  report.wire_bytes_out = entry->past.wire_bytes_out + now.wire_bytes_out;
  return report;
}

void gb_lanes_report(void) {
  for (uint32_t i = 0; i < GB_ABI_LANES_MAX; i++) {
    pthread_mutex_lock(&table_lock);
    bool used = table[i].number != 0 && table[i].opened_count > 0;
    struct gb_lane_report report = report_of(&table[i]);
    pthread_mutex_unlock(&table_lock);
    if (used) gb_client_notice(GB_MSG_LANES, &report, sizeof report);
  }
}

void gb_lanes_write(FILE *file) {
  const char *before = "";
  for (uint32_t i = 0; i < GB_ABI_LANES_MAX; i++) {
    pthread_mutex_lock(&table_lock);
    struct gb_lane_report report = report_of(&table[i]);
    char feeder[sizeof table[i].feeder];
    memcpy(feeder, table[i].feeder, sizeof feeder);
    pthread_mutex_unlock(&table_lock);
    if (report.lane == 0 || report.launch_count + report.crossing_count == 0) continue;
    const struct gb_run_counters run = gb_run_counted(report.lane);
    fprintf(file,
            "%s\n    {\"feederName\": \"%s\", \"lane\": %u, \"launchCount\": %llu, \"crossingCount\": %llu, "
            "\"crossingSentBytes\": %llu, \"crossingReceivedBytes\": %llu, \"replicaBytes\": %llu, "
            "\"waitCount\": %llu, \"batchCount\": %llu, \"batchSentBytes\": %llu, \"batchReceivedBytes\": %llu, "
            "\"laneSentBytes\": %llu, \"laneReceivedBytes\": %llu, \"wireSentBytes\": %llu, "
            "\"wireReceivedBytes\": %llu}",
            before, feeder, report.lane, (unsigned long long)report.launch_count,
            (unsigned long long)report.crossing_count, (unsigned long long)report.crossing_bytes_out,
            (unsigned long long)report.crossing_bytes_in, (unsigned long long)report.replica_bytes,
            (unsigned long long)run.waits, (unsigned long long)run.batches, (unsigned long long)run.bytes_out,
            (unsigned long long)run.bytes_in, (unsigned long long)report.bytes_written,
            (unsigned long long)report.bytes_read, (unsigned long long)report.wire_bytes_out,
            (unsigned long long)report.wire_bytes_in);
    before = ",";
  }
}

void gb_lanes_stop(void) {
  for (uint32_t i = 0; i < GB_ABI_LANES_MAX; i++) {
    pthread_mutex_lock(&table_lock);
    struct gb_open_lane *open = table[i].open;
    table[i].open = NULL;
    pthread_mutex_unlock(&table_lock);
    if (open == NULL) continue;
    gb_lane_close(open->lane, GOODBYE_MS);
    free(open);
  }
}

void gb_lanes_forked(void) {
  /* Their threads are the parent's, and another thread may have held the lock at the fork. */
  memset(table, 0, sizeof table);
  pthread_mutex_init(&lanes_lock, NULL);
  pthread_mutex_init(&table_lock, NULL);
}
