/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transfer.c: transfers and their parts on the wire; request.c is what callers see of them. A transfer ends when its
 * last part is answered, or early (cancelled, deadline, error, lane over) as soon as no thread is at its memory: parts
 * on the wire then belong to nobody, their answers are opened into nowhere, and the server is told to cancel them.
 */
#include <unistd.h>

#include "client.h"

_Static_assert(GB_LANE_WINDOW_MAX == 64, "a request holds an index, a bitmap all parts");

/* ---- queues; the lane's lock is held in everything up to the entry points ---- */

void lane_queue_append(struct lane_queue *queue, struct lane_transfer *transfer) {
  transfer->next = NULL;
  if (queue->last != NULL) queue->last->next = transfer;
  else queue->first = transfer;
  queue->last = transfer;
}

void lane_queue_remove(struct lane_queue *queue, struct lane_transfer *transfer) {
  struct lane_transfer *before = NULL;
  for (struct lane_transfer *at = queue->first; at != NULL && at != transfer; at = at->next) before = at;
  if (before != NULL) before->next = transfer->next;
  else queue->first = transfer->next;
  if (queue->last == transfer) queue->last = before;
}

bool lane_goes_express(const struct gb_lane *lane, const struct lane_transfer *transfer) {
  bool small_demand = transfer->priority == GB_LANE_DEMAND && transfer->bytes <= GB_LANE_EXPRESS_BYTES_MAX;
  return lane->conn_count > lane->bulk_count && small_demand && transfer->operation != LANE_OFFERS;
}

struct lane_queue *lane_queue_of(struct gb_lane *lane, const struct lane_transfer *transfer) {
  if (transfer->operation == LANE_OFFERS) return &lane->offers;
  if (lane_goes_express(lane, transfer)) return &lane->express;
  return transfer->operation == GB_LANE_CALL ? &lane->calls[transfer->priority] : &lane->queues[transfer->priority];
}

static void dequeue(struct gb_lane *lane, struct lane_transfer *transfer) {
  if (transfer->queued) lane_queue_remove(lane_queue_of(lane, transfer), transfer);
  transfer->queued = false;
}

void lane_notify(struct gb_lane *lane) {
  uint64_t one = 1;
  ssize_t ignored = write(lane->notice, &one, sizeof one);
  (void)ignored;
}

/* ---- ends ---- */

void lane_transfer_end_if_done(struct gb_lane *lane, struct lane_transfer *transfer) {
  if (transfer->status != GB_LANE_PENDING || transfer->parts > 0) return;
  if (transfer->failed == GB_LANE_OK && transfer->uncut > 0) return;
  transfer->status = transfer->failed;
  if (transfer->failed == GB_LANE_CANCELED) lane->requests_canceled++;
  else if (transfer->failed != GB_LANE_OK) lane->requests_failed++;
  if (transfer->notify) {
    lane_queue_append(&lane->reapable, transfer);
    lane_notify(lane);
  } else {
    pthread_cond_broadcast(&transfer->ended);
  }
}

/* The part's answer will concern nobody. */
static void detach(struct lane_conn *conn, struct lane_part *part) {
  part->transfer->parts--;
  part->transfer = NULL;
  part->cancel_due = true;
  if (conn->cancels_due++ == 0) lane_link_wake(&conn->link);
}

void lane_transfer_fail(struct gb_lane *lane, struct lane_transfer *transfer, int status) {
  if (transfer->status != GB_LANE_PENDING || transfer->failed != GB_LANE_OK) return;
  transfer->failed = status;
  dequeue(lane, transfer);
  for (uint32_t i = 0; i < lane->conn_count && transfer->parts > 0; i++) {
    struct lane_conn *conn = &lane->conns[i];
    for (uint64_t left = conn->used; left != 0; left &= left - 1) {
      struct lane_part *part = &conn->parts[__builtin_ctzll(left)];
      if (part->transfer == transfer && !part->busy) detach(conn, part);
    }
  }
  lane_transfer_end_if_done(lane, transfer);
}

/* The thread has left the part's memory. */
static void leave(struct gb_lane *lane, struct lane_conn *conn, struct lane_part *part) {
  struct lane_transfer *transfer = part->transfer;
  part->busy = false;
  if (transfer == NULL || transfer->failed == GB_LANE_OK) return;
  detach(conn, part);
  lane_transfer_end_if_done(lane, transfer);
}

static void answered(struct gb_lane *lane, struct lane_conn *conn, struct lane_part *part, int status) {
  struct lane_transfer *transfer = part->transfer;
  uint32_t bytes = part->bytes;
  if (part->cancel_due) conn->cancels_due--;
  if (part->operation == LANE_OFFERS) conn->offering = false;
  conn->used &= ~(1ull << (part - conn->parts));
  conn->outstanding--;
  *part = (struct lane_part){0};
  if (transfer == NULL) return;
  transfer->parts--;
  if (status != GB_LANE_OK) {
    lane_transfer_fail(lane, transfer, status);
    return;
  }
  transfer->bytes_done += bytes;
  if (transfer->answer_bytes != NULL) *transfer->answer_bytes = bytes;
  lane_transfer_end_if_done(lane, transfer);
}

/* ---- what to send ---- */

static bool next_cancel(struct lane_conn *conn, struct lane_head *head) {
  for (uint64_t left = conn->used; conn->cancels_due > 0 && left != 0; left &= left - 1) {
    struct lane_part *part = &conn->parts[__builtin_ctzll(left)];
    if (!part->cancel_due) continue;
    part->cancel_due = false;
    conn->cancels_due--;
    *head = (struct lane_head){.type = LANE_CANCEL, .request = part->request};
    return true;
  }
  return false;
}

static uint32_t deadline_left_ms(const struct lane_transfer *transfer) {
  uint64_t now = lane_now_ns();
  uint64_t left = transfer->deadline_ns > now ? (transfer->deadline_ns - now) / 1000000 : 0;
  return left < 1 ? 1 : left > UINT32_MAX ? UINT32_MAX : (uint32_t)left;
}

/* What goes to the server with its head. */
static bool has_body(uint32_t operation) {
  return operation != GB_LANE_READ;
}

static uint8_t type_of(uint32_t operation) {
  static const uint8_t types[] = {
      [GB_LANE_READ] = LANE_READ, [GB_LANE_WRITE] = LANE_WRITE, [GB_LANE_CALL] = LANE_CALL, [LANE_OFFERS] = LANE_OFFER};
  return types[operation];
}

/* A free part of the connection, taken. */
static struct lane_part *take_part(struct lane_conn *conn, struct lane_transfer *transfer) {
  uint32_t slot = (uint32_t)__builtin_ctzll(~conn->used);
  struct lane_part *part = &conn->parts[slot];
  *part = (struct lane_part){.request = ++conn->generation << 6 | slot,
                             .transfer = transfer,
                             .operation = transfer->operation,
                             .busy = has_body(transfer->operation)};
  conn->used |= 1ull << slot;
  conn->outstanding++;
  transfer->parts++;
  return part;
}

/* Cuts the next piece off a transfer and makes it a part of this connection. */
static void cut(struct gb_lane *lane, struct lane_conn *conn, struct lane_transfer *transfer,
                struct lane_head *head, const void **body) {
  while (transfer->segment_at == transfer->segments[transfer->segment].bytes) {
    transfer->segment++;
    transfer->segment_at = 0;
  }
  const struct gb_lane_segment *segment = &transfer->segments[transfer->segment];
  uint64_t left = segment->bytes - transfer->segment_at;
  uint32_t bytes = left < transfer->piece_bytes ? (uint32_t)left : transfer->piece_bytes;
  struct lane_part *part = take_part(conn, transfer);
  uint8_t *memory = (uint8_t *)segment->memory + transfer->segment_at;
  bool offers = transfer->operation == LANE_OFFERS;
  part->memory = offers || transfer->operation == GB_LANE_CALL ? transfer->answer : memory;
  part->bytes = offers ? (bytes / GB_LANE_DIGEST_BYTES + 7) / 8 : bytes;
  conn->offering |= offers;
  *head = (struct lane_head){.type = type_of(transfer->operation),
                             .priority = (uint8_t)transfer->priority,
                             .body_bytes = part->busy ? bytes : 0,
                             .request = part->request,
                             .offset = segment->offset + transfer->segment_at,
                             .region = transfer->region,
                             .length = bytes,
                             .deadline_ms = deadline_left_ms(transfer),
                             .value = transfer->block_bytes};
  if (part->busy) {
    *body = memory;
    conn->sending = part;
  }
  transfer->segment_at += bytes;
  transfer->uncut -= bytes;
  lane->requests++;
  if (transfer->uncut == 0) dequeue(lane, transfer);
}

/* The one that was started first, of two that may be NULL. */
static struct lane_transfer *earlier(struct lane_transfer *a, struct lane_transfer *b) {
  if (a == NULL || b == NULL) return a != NULL ? a : b;
  return a->id < b->id ? a : b; /* ids grow */
}

/* The transfer this connection serves next, if it has room for it. */
static struct lane_transfer *choose(struct gb_lane *lane, const struct lane_conn *conn) {
  if (conn->express) return conn->outstanding < conn->window ? lane->express.first : NULL;
  if (lane->offers.first != NULL && !conn->offering && conn->outstanding < conn->window) return lane->offers.first;
  for (uint32_t i = 0; i < LANE_PRIORITIES; i++) {
    uint32_t room = i != GB_LANE_DEMAND && lane->own_window < conn->window ? lane->own_window : conn->window;
    struct lane_transfer *call = conn->index == 0 ? lane->calls[i].first : NULL;
    struct lane_transfer *first = earlier(lane->queues[i].first, call);
    if (first != NULL && conn->outstanding < room) return first;
  }
  return NULL;
}

static bool client_next(void *owner, struct lane_head *head, const void **body, bool small) {
  struct lane_conn *conn = owner;
  struct gb_lane *lane = conn->lane;
  pthread_mutex_lock(&lane->lock);
  bool found = next_cancel(conn, head);
  if (!found && lane->state == GB_LANE_OK) {
    struct lane_transfer *transfer = choose(lane, conn);
    found = transfer != NULL && (!small || transfer->operation == GB_LANE_READ ||
                                 transfer->bytes <= LANE_INLINE_BYTES);
    if (found) cut(lane, conn, transfer, head, body);
  }
  pthread_mutex_unlock(&lane->lock);
  return found;
}

static void client_sealed(void *owner, const struct lane_head *head) {
  struct lane_conn *conn = owner;
  (void)head;
  pthread_mutex_lock(&conn->lane->lock);
  leave(conn->lane, conn, conn->sending);
  pthread_mutex_unlock(&conn->lane->lock);
}

/* ---- what arrives ---- */

/* An answer that is larger than its room goes nowhere; the call ends once it has passed. */
static int on_result(struct lane_conn *conn, struct lane_part *part, const struct lane_head *head) {
  struct lane_transfer *transfer = part->transfer;
  if (part->operation != GB_LANE_CALL) return GB_LANE_PROTOCOL;
  part->bytes = head->body_bytes;
  if (transfer != NULL && part->bytes > transfer->answer_room) {
    part->transfer = NULL;
    transfer->parts--;
    lane_transfer_fail(conn->lane, transfer, GB_LANE_LIMIT);
  }
  if (part->bytes == 0) answered(conn->lane, conn, part, GB_LANE_OK);
  else conn->receiving = part;
  return GB_LANE_OK;
}

static int on_answer(struct lane_conn *conn, const struct lane_head *head) {
  struct lane_part *part = &conn->parts[head->request & (GB_LANE_WINDOW_MAX - 1)];
  if (part->request != head->request) return GB_LANE_PROTOCOL;
  if (part->busy) return GB_LANE_PROTOCOL; /* before it can have heard all of the question, which is still read here */
  switch (head->type) {
    case LANE_DATA:
    case LANE_HAVE:
      if (part->operation != (head->type == LANE_DATA ? (uint32_t)GB_LANE_READ : LANE_OFFERS)) return GB_LANE_PROTOCOL;
      if (head->body_bytes != part->bytes) return GB_LANE_PROTOCOL;
      conn->receiving = part;
      return GB_LANE_OK;
    case LANE_RESULT:
      return on_result(conn, part, head);
    case LANE_ACK:
      if (part->operation != GB_LANE_WRITE) return GB_LANE_PROTOCOL;
      answered(conn->lane, conn, part, GB_LANE_OK);
      return GB_LANE_OK;
    default:
      answered(conn->lane, conn, part, head->status);
      return GB_LANE_OK;
  }
}

static int client_head(void *owner, const struct lane_head *head) {
  struct lane_conn *conn = owner;
  int status = GB_LANE_OK;
  pthread_mutex_lock(&conn->lane->lock);
  if (head->type == LANE_CREDIT) conn->window = (uint32_t)head->value;
  else status = on_answer(conn, head);
  pthread_mutex_unlock(&conn->lane->lock);
  return status;
}

static void *client_place(void *owner, uint32_t at, uint32_t bytes) {
  struct lane_conn *conn = owner;
  (void)bytes;
  pthread_mutex_lock(&conn->lane->lock);
  struct lane_part *part = conn->receiving;
  part->busy = part->transfer != NULL;
  void *memory = part->busy ? part->memory + at : NULL;
  pthread_mutex_unlock(&conn->lane->lock);
  return memory;
}

static void client_placed(void *owner) {
  struct lane_conn *conn = owner;
  pthread_mutex_lock(&conn->lane->lock);
  leave(conn->lane, conn, conn->receiving);
  pthread_mutex_unlock(&conn->lane->lock);
}

static int client_body(void *owner) {
  struct lane_conn *conn = owner;
  pthread_mutex_lock(&conn->lane->lock);
  answered(conn->lane, conn, conn->receiving, GB_LANE_OK);
  conn->receiving = NULL;
  pthread_mutex_unlock(&conn->lane->lock);
  return GB_LANE_OK;
}

static uint64_t client_turn(void *owner, uint64_t now_ns) {
  struct lane_conn *conn = owner;
  struct gb_lane *lane = conn->lane;
  uint64_t pong = conn->link.pong;
  if (pong != conn->pong_seen) {
    conn->pong_seen = pong;
    pthread_mutex_lock(&lane->lock);
    pthread_cond_broadcast(&lane->ponged);
    pthread_mutex_unlock(&lane->lock);
  }
  return conn->index == 0 ? lane_transfers_expire(lane, now_ns) : UINT64_MAX;
}

const struct lane_link_ops lane_client_ops = {.next = client_next,
                                              .sealed = client_sealed,
                                              .head = client_head,
                                              .place = client_place,
                                              .placed = client_placed,
                                              .body = client_body,
                                              .turn = client_turn};
