/* SPDX-License-Identifier: Apache-2.0 */
/*
 * serve.c: one connection of a server: answers READ from a region, puts WRITE into one. Nothing a client sends is
 * believed beyond its proof: window, region, rights, range are checked for each request.
 */
#include "serve.h"

#include <stdlib.h>
#include <string.h>

/* ---- answers ---- */

void lane_served_answer(struct lane_served *served, uint64_t request, int status, uint64_t ready_ns) {
  uint32_t slot = (uint32_t)__builtin_ctzll(~served->answers_used);
  served->answers_used |= 1ull << slot;
  served->answers[slot] = (struct lane_owed){
      .head = {.type = status == GB_LANE_OK ? LANE_ACK : LANE_ERROR, .request = request, .status = (uint16_t)status},
      .order = served->order++,
      .ready_ns = ready_ns};
  if (status == GB_LANE_CANCELED) served->grant->requests_canceled++;
  else if (status != GB_LANE_OK) served->grant->requests_failed++;
}

/* What the client has asked and not been answered; at most GB_LANE_WINDOW_MAX, so that there is always a slot. */
static uint32_t outstanding(const struct lane_served *served) {
  uint64_t offered;
  return (uint32_t)(__builtin_popcountll(served->reads_used) + __builtin_popcountll(served->answers_used)) +
         (uint32_t)__builtin_popcountll(served->calls_used) + lane_offer_is_open(served, &offered);
}

static bool is_asked(const struct lane_served *served, uint64_t request) {
  uint64_t offered;
  if (lane_offer_is_open(served, &offered) && offered == request) return true;
  if (lane_call_is_open(served, request)) return true;
  for (uint64_t left = served->reads_used; left != 0; left &= left - 1) {
    if (served->reads[__builtin_ctzll(left)].head.request == request) return true;
  }
  for (uint64_t left = served->answers_used; left != 0; left &= left - 1) {
    if (served->answers[__builtin_ctzll(left)].head.request == request) return true;
  }
  return false;
}

bool lane_served_due(struct lane_served *served, uint64_t when, uint64_t now) {
  if (when <= now) return true;
  if (when < served->limited_until_ns) served->limited_until_ns = when;
  return false;
}

/* The oldest answer that may go. */
static bool next_answer(struct lane_served *served, uint64_t now, struct lane_head *head) {
  struct lane_owed *first = NULL;
  for (uint64_t left = served->answers_used; left != 0; left &= left - 1) {
    struct lane_owed *owed = &served->answers[__builtin_ctzll(left)];
    if (lane_served_due(served, owed->ready_ns, now) && (first == NULL || owed->order < first->order)) first = owed;
  }
  if (first == NULL) return false;
  served->answers_used &= ~(1ull << (first - served->answers));
  *head = first->head;
  return true;
}

/* Times reckoned by a limit that has changed mean nothing. */
static void heed_rate(struct lane_served *served) {
  uint32_t changes = served->grant->rate_changes;
  served->limited_until_ns = UINT64_MAX;
  if (served->rate_seen == changes) return;
  served->rate_seen = changes;
  for (uint32_t i = 0; i < GB_LANE_WINDOW_MAX; i++) served->answers[i].ready_ns = served->calls[i].ready_ns = 0;
}

/* ---- reading ---- */

/* The read to serve next: by priority, then by arrival, of those the rate allows. */
static struct lane_asked *choose(struct lane_served *served, uint64_t now) {
  struct lane_asked *best = NULL;
  for (uint64_t left = served->reads_used; left != 0; left &= left - 1) {
    struct lane_asked *asked = &served->reads[__builtin_ctzll(left)];
    if (!lane_served_due(served, lane_rate_when(served->grant, LANE_OUT, &asked->head), now)) continue;
    if (best == NULL || asked->head.priority < best->head.priority ||
        (asked->head.priority == best->head.priority && asked->order < best->order))
      best = asked;
  }
  return best;
}

static int pin(struct lane_served *served, const struct lane_head *head, uint32_t right,
               struct lane_region **region) {
  return lane_region_pin(served->grant, head->region, head->offset, head->length, right, region);
}

/* Pins what a READ asks for. returns: GB_LANE_OK, and the memory in served->sending_memory. */
static int fetch(struct lane_served *served, const struct lane_asked *asked) {
  const struct lane_head *head = &asked->head;
  if (asked->deadline_ns != UINT64_MAX && lane_now_ns() >= asked->deadline_ns) return GB_LANE_DEADLINE;
  int status = pin(served, head, GB_LANE_MAY_READ, &served->sending);
  if (status != GB_LANE_OK) return status;
  const struct gb_lane_region *region = &served->sending->is;
  served->sending_memory =
      region->base != NULL
          ? (uint8_t *)region->base + head->offset
          : region->backing->acquire(region->context, head->offset, head->length, 0, &served->sending_token);
  if (served->sending_memory != NULL) return GB_LANE_OK;
  lane_region_unpin(served->grant, served->sending);
  return GB_LANE_IO;
}

static bool served_next(void *owner, struct lane_head *head, const void **body, bool small) {
  struct lane_served *served = owner;
  uint32_t window = served->grant->window;
  uint64_t now = lane_now_ns();
  (void)small;
  heed_rate(served);
  if (served->window_told != window) {
    served->window_told = window;
    *head = (struct lane_head){.type = LANE_CREDIT, .value = window};
    return true;
  }
  lane_call_settle(served);
  if (next_answer(served, now, head) || lane_offer_next(served, head, body)) return true;
  struct lane_asked *asked = choose(served, now);
  uint8_t priority = asked != NULL ? asked->head.priority : GB_LANE_BACKGROUND;
  if (lane_call_next(served, now, priority, head, body)) return true;
  if (asked == NULL) return false;
  served->reads_used &= ~(1ull << (asked - served->reads));
  int status = fetch(served, asked);
  if (status != GB_LANE_OK) {
    lane_served_answer(served, asked->head.request, status, 0);
    return next_answer(served, now, head);
  }
  lane_rate_charge(served->grant, LANE_OUT, &asked->head);
  *head =
      (struct lane_head){.type = LANE_DATA, .request = asked->head.request, .body_bytes = asked->head.length};
  served->sending_head = asked->head;
  *body = served->sending_memory;
  return true;
}

static void served_sealed(void *owner, const struct lane_head *head) {
  struct lane_served *served = owner;
  if (head->type == LANE_HAVE || head->type == LANE_RESULT) {
    if (head->type == LANE_HAVE) lane_offer_told(served);
    else lane_call_told(served);
    return;
  }
  const struct gb_lane_region *region = &served->sending->is;
  if (region->base == NULL)
    region->backing->release(region->context, served->sending_token, served->sending_memory,
                             served->sending_head.offset, served->sending_head.length, 0);
  lane_region_unpin(served->grant, served->sending);
  served->sending = NULL;
}

static uint64_t deadline_of(const struct lane_head *head) {
  return head->deadline_ms != 0 ? lane_now_ns() + head->deadline_ms * 1000000ull : UINT64_MAX;
}

static void on_read(struct lane_served *served, const struct lane_head *head) {
  struct lane_region *region;
  uint32_t slot = (uint32_t)__builtin_ctzll(~served->reads_used);
  served->reads_used |= 1ull << slot;
  served->reads[slot] =
      (struct lane_asked){.head = *head, .order = served->order++, .deadline_ns = deadline_of(head)};
  if (pin(served, head, GB_LANE_MAY_READ, &region) != GB_LANE_OK) return; /* fetch() says why */
  if (region->is.backing != NULL && region->is.backing->prepare != NULL)
    region->is.backing->prepare(region->is.context, head->offset, head->length);
  lane_region_unpin(served->grant, region);
}

static void on_cancel(struct lane_served *served, uint64_t request) {
  if (lane_offer_cancel(served, request)) return;
  if (lane_call_cancel(served, request)) {
    lane_served_answer(served, request, GB_LANE_CANCELED, 0);
    return;
  }
  for (uint64_t left = served->reads_used; left != 0; left &= left - 1) {
    uint32_t slot = (uint32_t)__builtin_ctzll(left);
    if (served->reads[slot].head.request != request) continue;
    served->reads_used &= ~(1ull << slot);
    lane_served_answer(served, request, GB_LANE_CANCELED, 0);
    return;
  }
}

/* ---- writing ---- */

/* Lets go of a backing's memory. returns: GB_LANE_OK, or that it could not take the bytes. */
static int let_arriving_go(struct lane_served *served, bool commit) {
  struct lane_region *region = served->arriving;
  int error = 0;
  if (region == NULL) return GB_LANE_OK;
  if (served->arriving_memory != NULL)
    error = region->is.backing->release(region->is.context, served->arriving_token, served->arriving_memory,
                                        served->writing.offset, served->writing.length, commit);
  served->arriving = NULL;
  served->arriving_memory = NULL;
  lane_region_unpin(served->grant, region);
  return error == 0 ? GB_LANE_OK : GB_LANE_IO;
}

static void on_write(struct lane_served *served, const struct lane_head *head) {
  served->writing = *head;
  served->writing_status = pin(served, head, GB_LANE_MAY_WRITE, &served->arriving);
  if (served->writing_status != GB_LANE_OK) return;
  const struct gb_lane_region *region = &served->arriving->is;
  served->arriving_base = region->base;
  if (region->base != NULL) {
    let_arriving_go(served, false); /* pinned again for each slice: the next may take two seconds to come */
    return;
  }
  served->arriving_memory =
      region->backing->acquire(region->context, head->offset, head->length, 1, &served->arriving_token);
  if (served->arriving_memory != NULL) return;
  let_arriving_go(served, false);
  served->writing_status = GB_LANE_IO;
}

static void *served_place(void *owner, uint32_t at, uint32_t bytes) {
  struct lane_served *served = owner;
  (void)bytes;
  if (served->link.rx_head.type == LANE_OFFER) return lane_offer_place(served, at);
  if (served->link.rx_head.type == LANE_CALL) return lane_call_place(served, at);
  if (served->writing_status != GB_LANE_OK) return NULL;
  if (served->arriving_memory != NULL) return (uint8_t *)served->arriving_memory + at;
  int status = pin(served, &served->writing, GB_LANE_MAY_WRITE, &served->arriving);
  if (status == GB_LANE_OK && served->arriving->is.base == served->arriving_base)
    return (uint8_t *)served->arriving->is.base + served->writing.offset + at;
  let_arriving_go(served, false);
  served->writing_status = GB_LANE_REVOKED;
  return NULL;
}

static void served_placed(void *owner) {
  struct lane_served *served = owner;
  if (served->arriving_memory == NULL) let_arriving_go(served, false);
}

static int served_body(void *owner) {
  struct lane_served *served = owner;
  uint8_t type = served->link.rx_head.type;
  if (type == LANE_OFFER) lane_offer_arrived(served);
  if (type == LANE_CALL) lane_call_arrived(served);
  if (type != LANE_WRITE) return GB_LANE_OK;
  int status = served->writing_status;
  if (status == GB_LANE_OK) status = let_arriving_go(served, true);
  uint64_t ready_ns = lane_rate_charge(served->grant, LANE_IN, &served->writing);
  lane_served_answer(served, served->writing.request, status, ready_ns);
  return GB_LANE_OK;
}

/* ---- the connection ---- */

static int served_head(void *owner, const struct lane_head *head) {
  struct lane_served *served = owner;
  lane_call_reap(served);
  if (head->type == LANE_CANCEL) {
    on_cancel(served, head->request);
    return GB_LANE_OK;
  }
  if (outstanding(served) >= served->grant->is.window || is_asked(served, head->request))
    return GB_LANE_PROTOCOL;
  served->grant->requests++;
  if (head->type == LANE_OFFER) return lane_offer_begin(served, head, deadline_of(head));
  if (head->type == LANE_CALL) return lane_call_begin(served, head, deadline_of(head));
  if (head->type == LANE_READ) on_read(served, head);
  else on_write(served, head);
  return GB_LANE_OK;
}

/* A region that is being taken away is not kept for a body that has yet to come. */
static uint64_t served_turn(void *owner, uint64_t now_ns) {
  struct lane_served *served = owner;
  uint64_t until = lane_call_turn(served, now_ns);
  if (served->limited_until_ns < until) until = served->limited_until_ns;
  if (served->arriving == NULL) return until;
  pthread_mutex_lock(&served->grant->lock);
  bool removed = served->arriving->removed;
  pthread_mutex_unlock(&served->grant->lock);
  if (removed) {
    let_arriving_go(served, false);
    served->writing_status = GB_LANE_REVOKED;
  }
  return until;
}

static const struct lane_link_ops ops = {.next = served_next,
                                         .sealed = served_sealed,
                                         .head = served_head,
                                         .place = served_place,
                                         .placed = served_placed,
                                         .body = served_body,
                                         .turn = served_turn};

/* Takes the ended connection out of its grant; the lane ends with its first connection. */
static void leave(struct lane_served *served, int status) {
  struct gb_lane_server *server = served->server;
  struct lane_grant *grant = served->grant;
  pthread_mutex_lock(&server->lock);
  lane_link_count(&served->link, &grant->past, lane_now_ns());
  grant->past.connections = 0;
  grant->past.key_age_ms = grant->past.heard_ms = 0;
  grant->conns[served->index] = NULL;
  for (uint32_t i = 0; i < LANE_GRANT_CONNS_MAX; i++) {
    struct lane_served *other = grant->conns[i];
    if (other == NULL) continue;
    if (status == GB_LANE_CLOSED || status == GB_LANE_REVOKED) lane_link_goodbye(&other->link, status);
    else lane_link_end(&other->link, status);
  }
  if (--grant->conn_count == 0) {
    struct gb_lane_event event = {
        .kind = GB_LANE_EVENT_CLOSED, .status = (uint32_t)grant->state, .tag = grant->is.tag};
    memcpy(event.ticket, grant->is.ticket.id, sizeof event.ticket);
    memcpy(event.address, served->address, sizeof event.address);
    server->counters.closed++;
    lane_notices_put(&server->notices, &event);
  }
  lane_grant_unuse(server, grant);
  server->connections--;
  served->next_ended = server->ended;
  server->ended = served;
  pthread_cond_broadcast(&server->quiet);
  lane_server_wake(server);
  pthread_mutex_unlock(&server->lock);
}

static void *served_life(void *argument) {
  struct lane_served *served = argument;
  if (served->express) lane_thread_hurry();
  int status = lane_link_run(&served->link);
  lane_offer_end(served);
  lane_call_end(served);
  let_arriving_go(served, false);
  pthread_mutex_lock(&served->server->lock);
  if (served->grant->state == GB_LANE_OK) served->grant->state = status;
  pthread_mutex_unlock(&served->server->lock);
  lane_link_last_words(&served->link);
  leave(served, status);
  return NULL;
}

/* The cipher both know; ChaCha20-Poly1305 where one end's AES is slow. */
static const struct lane_aead *agree(const struct gb_lane_tuning *tuning, const struct lane_opening *opening) {
  const struct lane_aead *aes = lane_crypt_find(GB_LANE_CIPHER_AES_256_GCM, tuning->provider);
  const struct lane_aead *chacha = lane_crypt_find(GB_LANE_CIPHER_CHACHA20_POLY1305, tuning->provider);
  if ((opening->ciphers & 1u << GB_LANE_CIPHER_AES_256_GCM) == 0 ||
      tuning->cipher == GB_LANE_CIPHER_CHACHA20_POLY1305)
    aes = NULL;
  if ((opening->ciphers & 1u << GB_LANE_CIPHER_CHACHA20_POLY1305) == 0 ||
      tuning->cipher == GB_LANE_CIPHER_AES_256_GCM)
    chacha = NULL;
  if (aes == NULL || chacha == NULL) return aes != NULL ? aes : chacha;
  bool slow = (opening->flags & LANE_FLAG_AES_IS_SLOW) != 0 ||
              aes->megabytes_per_second < chacha->megabytes_per_second;
  return slow ? chacha : aes;
}

/* Answers the opening and makes the link. */
static int introduce(struct lane_served *served, const struct lane_stranger *stranger,
                     const struct lane_opening *opening) {
  struct gb_lane_server *server = served->server;
  struct lane_grant *grant = served->grant;
  uint8_t frame[LANE_OPENING_BYTES];
  uint32_t most = server->tuning.record_bytes;
  struct lane_answer reply = {.major = GB_LANE_VERSION_MAJOR,
                              .minor = GB_LANE_VERSION_MINOR,
                              .index = opening->index,
                              .record_bytes = opening->record_bytes < most ? opening->record_bytes & ~63u : most,
                              .window = grant->window,
                              .features = opening->features & LANE_FEATURES};
  const struct lane_aead *aead = agree(&server->tuning, opening);
  if (aead == NULL) return GB_LANE_REFUSED_CIPHER;
  reply.cipher = (uint8_t)aead->cipher;
  memcpy(reply.ticket, opening->ticket, sizeof reply.ticket);
  if (!lane_random(reply.random, sizeof reply.random) ||
      !lane_answer_write(frame, &reply, stranger->frame, grant->is.ticket.secret))
    return GB_LANE_REFUSED_LIMIT;
  served->window_told = reply.window;
  served->features = reply.features;
  lane_sock_tune(stranger->fd, &server->tuning);
  const struct lane_link_start start = {.fd = stranger->fd,
                                        .is_client = false,
                                        .aead = aead,
                                        .secret = grant->is.ticket.secret,
                                        .opening = stranger->frame,
                                        .answer = frame,
                                        .record_bytes = reply.record_bytes,
                                        .tuning = &server->tuning,
                                        .ops = &ops,
                                        .owner = served};
  if (lane_link_init(&served->link, &start) != GB_LANE_OK) return GB_LANE_REFUSED_LIMIT;
  /* A new socket has room for it; if not, the client will see an end. */
  if (send(stranger->fd, frame, sizeof frame, MSG_NOSIGNAL) != (ssize_t)sizeof frame)
    lane_link_end(&served->link, GB_LANE_DISCONNECTED);
  grant->aead = aead;
  grant->record_bytes = reply.record_bytes;
  lane_sock_congestion(stranger->fd, grant->congestion);
  return 0;
}

int lane_serve(struct gb_lane_server *server, struct lane_grant *grant, const struct lane_stranger *stranger,
               const struct lane_opening *opening) {
  if (server->connections >= server->connections_max) return GB_LANE_REFUSED_LIMIT;
  struct lane_served *served = calloc(1, sizeof *served);
  if (served == NULL) return GB_LANE_REFUSED_LIMIT;
  served->server = server;
  served->grant = grant;
  served->index = opening->index;
  served->limited_until_ns = UINT64_MAX;
  served->express = (opening->flags & LANE_FLAG_EXPRESS) != 0;
  memcpy(served->address, stranger->address, sizeof served->address);
  int refusal = introduce(served, stranger, opening);
  if (refusal == 0 && !lane_thread_start(&served->thread, served_life, served)) {
    served->link.fd = -1; /* stays the caller's */
    lane_link_free(&served->link);
    refusal = GB_LANE_REFUSED_LIMIT;
  }
  if (refusal != 0) {
    free(served);
    return refusal;
  }
  grant->conns[opening->index] = served;
  grant->conn_count++;
  grant->users++;
  grant->used |= 1u << opening->index;
  server->connections++;
  return 0;
}
