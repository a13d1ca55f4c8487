/* SPDX-License-Identifier: Apache-2.0 */
/*
 * request.c: what callers see of transfers: submit, wait, cancel, reap.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client.h"

/* Transfers below this are cut finer, so that their parts overlap in flight and spread over the connections. */
#define FINE_BELOW_BYTES (4u << 20)
#define FINE_PIECE_BYTES (256u << 10)
#define INDEX_BITS 10
_Static_assert(1u << INDEX_BITS == GB_LANE_TRANSFERS_MAX, "an id holds an index");

/* ---- the table ---- */

void lane_transfers_init(struct gb_lane *lane) {
  for (uint32_t i = GB_LANE_TRANSFERS_MAX; i-- > 0;) {
    lane_cond_init(&lane->transfers[i].ended);
    lane->transfers[i].next = lane->free;
    lane->free = &lane->transfers[i];
  }
}

static void drop_segments(struct lane_transfer *transfer) {
  if (transfer->segments != &transfer->only) free(transfer->segments);
  transfer->segments = NULL;
}

void lane_transfers_free(struct gb_lane *lane) {
  for (uint32_t i = 0; i < GB_LANE_TRANSFERS_MAX; i++) {
    drop_segments(&lane->transfers[i]);
    pthread_cond_destroy(&lane->transfers[i].ended);
  }
}

void lane_transfers_fail(struct gb_lane *lane, int status) {
  pthread_mutex_lock(&lane->lock);
  if (lane->state == GB_LANE_OK) lane->state = status;
  for (uint32_t i = 0; i < GB_LANE_TRANSFERS_MAX; i++) {
    if (lane->transfers[i].id != 0) lane_transfer_fail(lane, &lane->transfers[i], lane->state);
  }
  lane_notify(lane);
  pthread_cond_broadcast(&lane->ponged);
  pthread_mutex_unlock(&lane->lock);
}

uint64_t lane_transfers_expire(struct gb_lane *lane, uint64_t now_ns) {
  pthread_mutex_lock(&lane->lock);
  if (now_ns >= lane->deadline_next_ns) {
    lane->deadline_next_ns = UINT64_MAX;
    for (uint32_t i = 0; i < GB_LANE_TRANSFERS_MAX; i++) {
      struct lane_transfer *transfer = &lane->transfers[i];
      if (transfer->id == 0 || transfer->status != GB_LANE_PENDING || transfer->failed != GB_LANE_OK) continue;
      if (now_ns >= transfer->deadline_ns) lane_transfer_fail(lane, transfer, GB_LANE_DEADLINE);
      else if (transfer->deadline_ns < lane->deadline_next_ns) lane->deadline_next_ns = transfer->deadline_ns;
    }
  }
  uint64_t next = lane->deadline_next_ns;
  pthread_mutex_unlock(&lane->lock);
  return next;
}

static void release(struct gb_lane *lane, struct lane_transfer *transfer) {
  drop_segments(transfer);
  transfer->id = 0;
  transfer->next = lane->free;
  lane->free = transfer;
  lane->outstanding--;
}

static struct lane_transfer *find(struct gb_lane *lane, uint64_t id) {
  struct lane_transfer *transfer = &lane->transfers[id & (GB_LANE_TRANSFERS_MAX - 1)];
  return id != 0 && transfer->id == id ? transfer : NULL;
}

/* ---- entry points ---- */

/* How many bytes a request is about. returns: false: it makes no sense. */
static bool measure(const struct gb_lane_request *request, uint64_t *bytes) {
  *bytes = 0;
  if (request->size > sizeof *request || request->segment_count == 0 || request->segments == NULL ||
      request->segment_count > GB_LANE_SEGMENTS_MAX || request->priority > GB_LANE_BACKGROUND ||
      (request->operation != GB_LANE_READ && request->operation != GB_LANE_WRITE))
    return false;
  for (uint32_t i = 0; i < request->segment_count; i++) {
    const struct gb_lane_segment *segment = &request->segments[i];
    if (segment->bytes > 0 && segment->memory == NULL) return false;
    if (segment->bytes > UINT64_MAX - segment->offset || segment->bytes > UINT64_MAX - *bytes) return false;
    *bytes += segment->bytes;
  }
  return true;
}

static void fill(struct gb_lane *lane, struct lane_transfer *transfer, const struct gb_lane_request *request,
                 struct gb_lane_segment *segments, uint64_t bytes) {
  uint64_t deadline_ms =
      request->deadline_ms != 0 ? request->deadline_ms : GB_LANE_DEADLINE_MS + bytes / (4u << 20) * 1000;
  transfer->only = request->segments[0];
  transfer->segments = segments != NULL ? segments : &transfer->only;
  transfer->segment_count = request->segment_count;
  transfer->segment = 0;
  transfer->segment_at = 0;
  transfer->bytes = transfer->uncut = bytes;
  transfer->bytes_done = 0;
  transfer->deadline_ns = lane_now_ns() + deadline_ms * 1000000ull;
  transfer->user = request->user;
  transfer->region = request->region;
  transfer->operation = request->operation;
  transfer->priority = request->priority;
  bool fine = request->operation != GB_LANE_CALL && bytes > GB_LANE_EXPRESS_BYTES_MAX && bytes < FINE_BELOW_BYTES;
  transfer->piece_bytes = fine && FINE_PIECE_BYTES < lane->record_bytes ? FINE_PIECE_BYTES : lane->record_bytes;
  transfer->parts = 0;
  transfer->failed = GB_LANE_OK;
  transfer->status = GB_LANE_PENDING;
  transfer->notify = request->notify != 0;
  transfer->waited = false;
}

/* Lets the connections know of a queued transfer: one sends from here, the others are woken for large ones. */
static void push(struct gb_lane *lane, const struct lane_transfer *transfer, bool express, bool early) {
  bool call = transfer->operation == GB_LANE_CALL;
  bool writes_large = (call || transfer->operation == GB_LANE_WRITE) && transfer->bytes > LANE_INLINE_BYTES;
  bool large = transfer->bytes > FINE_PIECE_BYTES;
  uint32_t first = express ? lane->bulk_count : 0;
  uint32_t end = express ? lane->conn_count : call ? 1 : lane->bulk_count;
  for (uint32_t i = first; i < end; i++) {
    if (writes_large || (i > first && large)) lane_link_wake(&lane->conns[i].link);
    else lane_link_push(&lane->conns[i].link);
  }
  if (early) lane_link_wake(&lane->conns[0].link);
}

/* What an offer or a call is beside an ordinary request. */
struct asked {
  uint64_t block_bytes;
  uint8_t *answer;
  uint64_t answer_room;
  uint64_t *answer_bytes;
};

/* `segments`: a copy if there are several, NULL if there is one. owns: `segments`, also on failure. */
static int begin(gb_lane *lane, const struct gb_lane_request *request, struct gb_lane_segment *segments,
                 uint64_t bytes, const struct asked *asked, uint64_t *id) {
  pthread_mutex_lock(&lane->lock);
  struct lane_transfer *transfer = lane->free;
  int status = lane->state != GB_LANE_OK ? lane->state : transfer == NULL ? GB_LANE_BUSY : GB_LANE_OK;
  if (status != GB_LANE_OK) {
    pthread_mutex_unlock(&lane->lock);
    free(segments);
    return status;
  }
  lane->free = transfer->next;
  lane->outstanding++;
  fill(lane, transfer, request, segments, bytes);
  transfer->block_bytes = asked->block_bytes;
  transfer->answer = asked->answer;
  transfer->answer_room = asked->answer_room;
  transfer->answer_bytes = asked->answer_bytes;
  transfer->id = ++lane->generation << INDEX_BITS | (uint64_t)(transfer - lane->transfers);
  *id = transfer->id;
  const struct lane_transfer copy = {.operation = transfer->operation, .bytes = bytes};
  bool express = lane_goes_express(lane, transfer);
  bool early = transfer->notify && transfer->deadline_ns < lane->deadline_next_ns;
  if (transfer->deadline_ns < lane->deadline_next_ns) lane->deadline_next_ns = transfer->deadline_ns;
  if (bytes > 0) {
    lane_queue_append(lane_queue_of(lane, transfer), transfer);
    transfer->queued = true;
  }
  lane_transfer_end_if_done(lane, transfer);
  pthread_mutex_unlock(&lane->lock);
  if (bytes > 0) push(lane, &copy, express, early);
  return GB_LANE_OK;
}

int gb_lane_submit(gb_lane *lane, const struct gb_lane_request *request, uint64_t *id) {
  uint64_t bytes;
  if (lane == NULL || request == NULL || id == NULL || !measure(request, &bytes)) return GB_LANE_INVALID;
  if (lane->owner != getpid()) return GB_LANE_FORKED;
  struct gb_lane_segment *segments = NULL;
  if (request->segment_count > 1) {
    segments = malloc(request->segment_count * sizeof *segments);
    if (segments == NULL) return GB_LANE_NO_MEMORY;
    memcpy(segments, request->segments, request->segment_count * sizeof *segments);
  }
  return begin(lane, request, segments, bytes, &(const struct asked){0}, id);
}

int gb_lane_wait(gb_lane *lane, uint64_t id, uint32_t timeout_ms) {
  if (lane == NULL) return GB_LANE_INVALID;
  if (lane->owner != getpid()) return GB_LANE_FORKED;
  uint64_t until = lane_now_ns() + timeout_ms * 1000000ull;
  pthread_mutex_lock(&lane->lock);
  struct lane_transfer *transfer = find(lane, id);
  if (transfer == NULL || transfer->notify || transfer->waited) {
    pthread_mutex_unlock(&lane->lock);
    return GB_LANE_NOT_FOUND;
  }
  transfer->waited = true;
  lane->waiters++;
  bool in_time = true;
  while (transfer->status == GB_LANE_PENDING && in_time) {
    uint64_t deadline = transfer->failed == GB_LANE_OK ? transfer->deadline_ns : UINT64_MAX;
    if (lane_wait_until(&transfer->ended, &lane->lock, deadline < until ? deadline : until)) continue;
    uint64_t now = lane_now_ns();
    if (now >= deadline) lane_transfer_fail(lane, transfer, GB_LANE_DEADLINE);
    in_time = now < until;
  }
  int status = transfer->status;
  transfer->waited = false;
  if (status != GB_LANE_PENDING) release(lane, transfer);
  if (--lane->waiters == 0) pthread_cond_broadcast(&lane->idle);
  pthread_mutex_unlock(&lane->lock);
  return status != GB_LANE_PENDING ? status : GB_LANE_TIMEOUT;
}

int gb_lane_cancel(gb_lane *lane, uint64_t id) {
  if (lane == NULL) return GB_LANE_INVALID;
  if (lane->owner != getpid()) return GB_LANE_FORKED;
  pthread_mutex_lock(&lane->lock);
  struct lane_transfer *transfer = find(lane, id);
  if (transfer != NULL) lane_transfer_fail(lane, transfer, GB_LANE_CANCELED);
  pthread_mutex_unlock(&lane->lock);
  return transfer != NULL ? GB_LANE_OK : GB_LANE_NOT_FOUND;
}

uint32_t gb_lane_reap(gb_lane *lane, struct gb_lane_completion *completions, uint32_t count) {
  uint32_t taken = 0;
  if (lane == NULL || completions == NULL || lane->owner != getpid()) return 0;
  pthread_mutex_lock(&lane->lock);
  for (; taken < count && lane->reapable.first != NULL; taken++) {
    struct lane_transfer *transfer = lane->reapable.first;
    lane_queue_remove(&lane->reapable, transfer);
    completions[taken] = (struct gb_lane_completion){.id = transfer->id,
                                                     .user = transfer->user,
                                                     .bytes = transfer->bytes_done,
                                                     .status = (uint32_t)transfer->status};
    release(lane, transfer);
  }
  if (lane->reapable.first == NULL && lane->state == GB_LANE_OK) {
    uint64_t noticed;
    ssize_t ignored = read(lane->notice, &noticed, sizeof noticed);
    (void)ignored;
  }
  pthread_mutex_unlock(&lane->lock);
  return taken;
}

/* Until it has ended: the deadline ends it. */
static int wait_for_end(gb_lane *lane, uint64_t id) {
  int status;
  do status = gb_lane_wait(lane, id, GB_LANE_DEADLINE_MS);
  while (status == GB_LANE_TIMEOUT);
  return status;
}

static int from_start_to_end(gb_lane *lane, uint32_t operation, uint32_t region, uint64_t offset, void *memory,
                             uint64_t bytes, uint32_t priority, uint32_t deadline_ms) {
  const struct gb_lane_segment segment = {.offset = offset, .bytes = bytes, .memory = memory};
  const struct gb_lane_request request = {.size = sizeof request,
                                          .operation = operation,
                                          .region = region,
                                          .priority = priority,
                                          .deadline_ms = deadline_ms,
                                          .segment_count = 1,
                                          .segments = &segment};
  uint64_t id;
  int status = gb_lane_submit(lane, &request, &id);
  return status == GB_LANE_OK ? wait_for_end(lane, id) : status;
}

int gb_lane_read(gb_lane *lane, uint32_t region, uint64_t offset, void *memory, uint64_t bytes, uint32_t priority,
                 uint32_t deadline_ms) {
  return from_start_to_end(lane, GB_LANE_READ, region, offset, memory, bytes, priority, deadline_ms);
}

int gb_lane_write(gb_lane *lane, uint32_t region, uint64_t offset, const void *memory, uint64_t bytes,
                  uint32_t priority, uint32_t deadline_ms) {
  return from_start_to_end(lane, GB_LANE_WRITE, region, offset, (void *)(uintptr_t)memory, bytes, priority,
                           deadline_ms);
}

int gb_lane_offer(gb_lane *lane, uint32_t region, uint64_t offset, uint64_t block_bytes, const uint8_t *digests,
                  uint32_t count, uint8_t *have, uint32_t deadline_ms) {
  if (lane == NULL || digests == NULL || have == NULL || count == 0 || count > GB_LANE_OFFER_BLOCKS_MAX ||
      block_bytes < GB_LANE_BLOCK_BYTES_MIN || block_bytes > GB_LANE_BLOCK_BYTES_MAX ||
      count * block_bytes > UINT64_MAX - offset)
    return GB_LANE_INVALID;
  if (lane->owner != getpid()) return GB_LANE_FORKED;
  memset(have, 0, (count + 7) / 8);
  if ((lane->features & LANE_FEATURE_OFFERS) == 0) return gb_lane_state(lane);
  const struct gb_lane_segment segment = {
      .offset = offset, .bytes = (uint64_t)count * GB_LANE_DIGEST_BYTES, .memory = (void *)(uintptr_t)digests};
  const struct gb_lane_request request = {.size = sizeof request,
                                          .operation = LANE_OFFERS,
                                          .region = region,
                                          .priority = GB_LANE_NORMAL,
                                          .deadline_ms = deadline_ms,
                                          .segment_count = 1,
                                          .segments = &segment};
  const struct asked asked = {.block_bytes = block_bytes, .answer = have};
  uint64_t id;
  int status = begin(lane, &request, NULL, segment.bytes, &asked, &id);
  if (status == GB_LANE_OK) status = wait_for_end(lane, id);
  if (status != GB_LANE_OK) memset(have, 0, (count + 7) / 8);
  return status;
}

int gb_lane_call(gb_lane *lane, const struct gb_lane_call *call, uint64_t *id) {
  struct gb_lane_call wanted = {0};
  if (lane == NULL || call == NULL || id == NULL || call->size > sizeof wanted) return GB_LANE_INVALID;
  memcpy(&wanted, call, call->size);
  if (lane->owner != getpid()) return GB_LANE_FORKED;
  if (wanted.body == NULL || wanted.body_bytes == 0 || wanted.body_bytes > lane->record_bytes ||
      wanted.priority > GB_LANE_BACKGROUND || (wanted.result == NULL && wanted.result_room > 0) ||
      (lane->features & LANE_FEATURE_CALLS) == 0)
    return GB_LANE_INVALID;
  const struct gb_lane_segment segment = {.bytes = wanted.body_bytes, .memory = (void *)(uintptr_t)wanted.body};
  const struct gb_lane_request request = {.size = sizeof request,
                                          .operation = GB_LANE_CALL,
                                          .region = wanted.region,
                                          .priority = wanted.priority,
                                          .deadline_ms = wanted.deadline_ms,
                                          .segment_count = 1,
                                          .segments = &segment};
  const struct asked asked = {
      .answer = wanted.result, .answer_room = wanted.result_room, .answer_bytes = wanted.result_bytes};
  return begin(lane, &request, NULL, wanted.body_bytes, &asked, id);
}
