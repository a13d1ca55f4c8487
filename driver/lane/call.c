/* SPDX-License-Identifier: Apache-2.0 */
/*
 * call.c: CALL and RESULT, the server's side. A call is handed over on the connection's thread once its body is whole,
 * and answered from any thread, which sends a small answer itself. Nobody waits for the callee: cancelled, late, its
 * region or its lane gone, a call is forgotten at once, and what is answered then goes nowhere.
 *
 * Locks: a desk's lock protects its calls' answers; a link's tx_lock is before it, and within it only tried. The
 * connection and each call that is not answered hold the desk, which therefore may live longer than its connection,
 * grant and server.
 */
#include <stdlib.h>
#include <unistd.h>

#include "serve.h"

/* Of one connection: where answers are handed in. */
struct lane_desk {
  pid_t owner;
  pthread_t thread; /* the connection's */
  uint32_t record_bytes;
  /* The connection's thread alone. */
  struct gb_lane_called *arriving; /* NULL: the CALL whose body arrives is refused */
  struct lane_head arriving_head;
  uint64_t arriving_deadline_ns, arriving_serial;
  uint8_t *arriving_body;
  int arriving_status;
  void *telling; /* the result that is being sealed */
  /* What is below the lock. */
  pthread_mutex_t lock;
  struct lane_served *served; /* NULL: its connection is over */
  uint32_t users, unanswered;
  uint64_t order;
  /* Kept and answered, worth looking for: to be sent; sent by who answered. */
  _Atomic uint32_t ready, told;
};

struct gb_lane_called {
  struct lane_desk *desk;
  bool kept;     /* the connection waits for it */
  bool answered; /* freed when it is, and not kept */
  bool told;     /* nothing is left to be sent */
  int status;
  void *result;
  uint64_t request, bytes, order;
};

static struct lane_desk *make(struct lane_served *served) {
  struct lane_desk *desk = calloc(1, sizeof *desk);
  if (desk == NULL) return NULL;
  desk->owner = getpid();
  desk->thread = pthread_self();
  desk->record_bytes = served->link.record_bytes;
  desk->served = served;
  desk->users = 1;
  pthread_mutex_init(&desk->lock, NULL);
  return desk;
}

/* Gives back one hold. locks: the desk's lock is held, and released. */
static void leave_desk(struct lane_desk *desk) {
  bool last = --desk->users == 0;
  pthread_mutex_unlock(&desk->lock);
  if (!last) return;
  pthread_mutex_destroy(&desk->lock);
  free(desk);
}

/* The answer of a call that is waited for goes out from here, if that is possible at once and unlimited, or from the
 * connection's thread, which looks by itself if this is it. locks: the desk's lock is held. */
static void send_answer(struct lane_desk *desk, struct gb_lane_called *called) {
  struct lane_link *link = &desk->served->link;
  const struct lane_head head = {
      .type = LANE_RESULT, .request = called->request, .body_bytes = (uint32_t)called->bytes};
  bool elsewhere = !pthread_equal(desk->thread, pthread_self());
  desk->told++; /* before the client can answer to it */
  called->told = elsewhere && called->status == GB_LANE_OK && desk->served->grant->rate == 0 &&
                 lane_link_slip(link, &head, called->result);
  if (called->told) return;
  desk->told--;
  desk->ready++;
  if (elsewhere) lane_link_wake(link);
}

void gb_lane_answer(struct gb_lane_called *called, int status, void *result, uint64_t bytes) {
  struct lane_desk *desk = called != NULL ? called->desk : NULL;
  if (desk == NULL || desk->owner != getpid()) {
    free(result);
    return;
  }
  if (status < GB_LANE_OK || status >= GB_LANE_PENDING || (result == NULL && bytes > 0)) status = GB_LANE_IO;
  if (status == GB_LANE_OK && bytes > desk->record_bytes) status = GB_LANE_LIMIT;
  if (status != GB_LANE_OK || bytes == 0) {
    free(result);
    result = NULL;
    bytes = 0;
  }
  pthread_mutex_lock(&desk->lock);
  desk->unanswered--;
  called->answered = true;
  called->status = status;
  called->result = result;
  called->bytes = bytes;
  called->order = desk->order++;
  if (!called->kept) {
    free(result);
    free(called);
  } else {
    send_answer(desk, called);
  }
  leave_desk(desk);
}

/* ---- arriving ---- */

/* Whether the callee could be asked. returns: GB_LANE_OK and the region, pinned. */
static int pin_callee(struct lane_served *served, uint32_t id, struct lane_region **region) {
  int status = lane_region_pin(served->grant, id, 0, 0, GB_LANE_MAY_CALL, region);
  if (status != GB_LANE_OK) return status;
  const struct gb_lane_backing *backing = (*region)->is.backing;
  if (backing != NULL && backing->call != NULL) return GB_LANE_OK;
  lane_region_unpin(served->grant, *region);
  return GB_LANE_INVALID;
}

/* Memory for a call, within the limits. */
static int make_room(struct lane_desk *desk, uint32_t bytes) {
  pthread_mutex_lock(&desk->lock);
  bool full = desk->unanswered >= GB_LANE_CALLS_MAX;
  pthread_mutex_unlock(&desk->lock);
  if (full) return GB_LANE_LIMIT;
  desk->arriving = calloc(1, sizeof *desk->arriving);
  desk->arriving_body = desk->arriving != NULL ? malloc(bytes) : NULL;
  if (desk->arriving_body != NULL) return GB_LANE_OK;
  free(desk->arriving);
  desk->arriving = NULL;
  return GB_LANE_LIMIT;
}

int lane_call_begin(struct lane_served *served, const struct lane_head *head, uint64_t deadline_ns) {
  struct lane_region *region;
  if ((served->features & LANE_FEATURE_CALLS) == 0) return GB_LANE_PROTOCOL;
  if (served->desk == NULL) served->desk = make(served);
  struct lane_desk *desk = served->desk;
  if (desk == NULL) return GB_LANE_NO_MEMORY;
  desk->arriving_head = *head;
  desk->arriving_deadline_ns = deadline_ns;
  desk->arriving_status = pin_callee(served, head->region, &region);
  if (desk->arriving_status != GB_LANE_OK) return GB_LANE_OK;
  desk->arriving_serial = region->serial;
  lane_region_unpin(served->grant, region); /* its body may take two seconds to come */
  desk->arriving_status = make_room(desk, head->body_bytes);
  return GB_LANE_OK;
}

void *lane_call_place(struct lane_served *served, uint32_t at) {
  return served->desk->arriving_body != NULL ? served->desk->arriving_body + at : NULL;
}

/* Gives the call to what is behind its region, which may answer before this returns. */
static void hand_over(struct lane_served *served, struct lane_region *region, uint64_t ready_ns) {
  struct lane_desk *desk = served->desk;
  struct gb_lane_called *called = desk->arriving;
  uint8_t *body = desk->arriving_body;
  uint32_t slot = (uint32_t)__builtin_ctzll(~served->calls_used);
  desk->arriving = NULL;
  desk->arriving_body = NULL;
  served->calls_used |= 1ull << slot;
  served->calls[slot] = (struct lane_open_call){.head = desk->arriving_head,
                                                .deadline_ns = desk->arriving_deadline_ns,
                                                .ready_ns = ready_ns,
                                                .region_serial = region->serial,
                                                .called = called};
  *called = (struct gb_lane_called){.desk = desk, .kept = true, .request = desk->arriving_head.request};
  pthread_mutex_lock(&desk->lock);
  desk->users++;
  desk->unanswered++;
  pthread_mutex_unlock(&desk->lock);
  region->is.backing->call(region->is.context, called, body, desk->arriving_head.body_bytes);
}

static void refuse_arriving(struct lane_desk *desk) {
  free(desk->arriving);
  free(desk->arriving_body);
  desk->arriving = NULL;
  desk->arriving_body = NULL;
}

void lane_call_arrived(struct lane_served *served) {
  struct lane_desk *desk = served->desk;
  struct lane_region *region = NULL;
  int status = desk->arriving_status;
  uint64_t ready_ns = lane_rate_charge(served->grant, LANE_IN, &desk->arriving_head);
  if (status == GB_LANE_OK && lane_now_ns() >= desk->arriving_deadline_ns) status = GB_LANE_DEADLINE;
  if (status == GB_LANE_OK && pin_callee(served, desk->arriving_head.region, &region) != GB_LANE_OK)
    status = GB_LANE_REVOKED;
  if (status == GB_LANE_OK && region->serial != desk->arriving_serial) status = GB_LANE_REVOKED;
  if (status == GB_LANE_OK) {
    hand_over(served, region, ready_ns);
  } else {
    refuse_arriving(desk);
    lane_served_answer(served, desk->arriving_head.request, status, ready_ns);
  }
  if (region != NULL) lane_region_unpin(served->grant, region);
}

/* ---- open calls ---- */

static struct lane_open_call *find(struct lane_served *served, uint64_t request) {
  for (uint64_t left = served->calls_used; left != 0; left &= left - 1) {
    struct lane_open_call *call = &served->calls[__builtin_ctzll(left)];
    if (call->head.request == request) return call;
  }
  return NULL;
}

bool lane_call_is_open(const struct lane_served *served, uint64_t request) {
  return find((struct lane_served *)(uintptr_t)served, request) != NULL;
}

/* Takes a call out; its answer goes nowhere, whether it is there or yet to come. returns: false: it has been sent. */
static bool forget(struct lane_served *served, struct lane_open_call *call) {
  struct gb_lane_called *called = call->called;
  served->calls_used &= ~(1ull << (call - served->calls));
  pthread_mutex_lock(&served->desk->lock);
  bool answered = called->answered, told = called->told;
  called->kept = false;
  if (told) served->desk->told--;
  else if (answered) served->desk->ready--;
  pthread_mutex_unlock(&served->desk->lock);
  if (!answered) return true; /* gb_lane_answer's now */
  free(called->result);
  free(called);
  return !told;
}

/* Whether there is an answer, and whether it has been sent; it changes no more. */
static bool is_answered(const struct lane_served *served, const struct lane_open_call *call, bool *told) {
  pthread_mutex_lock(&served->desk->lock);
  bool answered = call->called->answered;
  *told = call->called->told;
  pthread_mutex_unlock(&served->desk->lock);
  return answered;
}

void lane_call_reap(struct lane_served *served) {
  bool told;
  if (served->calls_used == 0 || served->desk->told == 0) return;
  for (uint64_t left = served->calls_used; left != 0; left &= left - 1) {
    struct lane_open_call *call = &served->calls[__builtin_ctzll(left)];
    if (is_answered(served, call, &told) && told) forget(served, call);
  }
}

bool lane_call_cancel(struct lane_served *served, uint64_t request) {
  struct lane_open_call *call = find(served, request);
  return call != NULL && forget(served, call);
}

static void fail(struct lane_served *served, struct lane_open_call *call, int status, uint64_t ready_ns) {
  uint64_t request = call->head.request;
  if (forget(served, call)) lane_served_answer(served, request, status, ready_ns);
}

uint64_t lane_call_turn(struct lane_served *served, uint64_t now) {
  uint64_t until = UINT64_MAX;
  lane_call_reap(served);
  if (served->calls_used == 0) return until;
  uint32_t changes = served->grant->region_changes;
  bool changed = changes != served->regions_seen;
  served->regions_seen = changes;
  for (uint64_t left = served->calls_used; left != 0; left &= left - 1) {
    struct lane_open_call *call = &served->calls[__builtin_ctzll(left)];
    int status = GB_LANE_OK;
    if (now >= call->deadline_ns) status = GB_LANE_DEADLINE;
    else if (changed && !lane_region_is_there(served->grant, call->head.region, call->region_serial))
      status = GB_LANE_REVOKED;
    if (status == GB_LANE_OK && call->deadline_ns < until) until = call->deadline_ns;
    if (status == GB_LANE_OK) continue;
    fail(served, call, status, 0);
    until = 0;
  }
  return until;
}

/* ---- answers ---- */

/* The answer of a call, once there is one to send. */
static const struct gb_lane_called *answer_of(const struct lane_served *served, const struct lane_open_call *call) {
  bool told;
  return is_answered(served, call, &told) && !told ? call->called : NULL;
}

static bool is_any_answered(const struct lane_served *served) {
  return served->calls_used != 0 && served->desk->ready > 0;
}

void lane_call_settle(struct lane_served *served) {
  if (!is_any_answered(served)) return;
  for (uint64_t left = served->calls_used; left != 0; left &= left - 1) {
    struct lane_open_call *call = &served->calls[__builtin_ctzll(left)];
    const struct gb_lane_called *answer = answer_of(served, call);
    if (answer != NULL && answer->status != GB_LANE_OK) fail(served, call, answer->status, call->ready_ns);
  }
}

/* The head of a call as the rate counts its answer. */
static struct lane_head charged(const struct lane_open_call *call, const struct gb_lane_called *answer) {
  struct lane_head head = call->head;
  head.length = (uint32_t)answer->bytes;
  return head;
}

/* The one to tell next: by priority, then in the order of their answers, of those the rate allows. */
static struct lane_open_call *choose(struct lane_served *served, uint64_t now, uint8_t priority) {
  struct lane_open_call *best = NULL;
  if (!is_any_answered(served)) return NULL;
  for (uint64_t left = served->calls_used; left != 0; left &= left - 1) {
    struct lane_open_call *call = &served->calls[__builtin_ctzll(left)];
    const struct gb_lane_called *answer = answer_of(served, call);
    if (answer == NULL || answer->status != GB_LANE_OK || call->head.priority > priority) continue;
    const struct lane_head head = charged(call, answer);
    uint64_t when = lane_rate_when(served->grant, LANE_OUT, &head);
    if (!lane_served_due(served, call->ready_ns > when ? call->ready_ns : when, now)) continue;
    if (best == NULL || call->head.priority < best->head.priority ||
        (call->head.priority == best->head.priority && answer->order < best->called->order))
      best = call;
  }
  return best;
}

bool lane_call_next(struct lane_served *served, uint64_t now, uint8_t priority, struct lane_head *head,
                    const void **body) {
  struct lane_open_call *call = choose(served, now, priority);
  if (call == NULL) return false;
  struct gb_lane_called *called = call->called;
  const struct lane_head paid = charged(call, called);
  lane_rate_charge(served->grant, LANE_OUT, &paid);
  *head = (struct lane_head){
      .type = LANE_RESULT, .request = call->head.request, .body_bytes = (uint32_t)called->bytes};
  if (called->bytes > 0) *body = served->desk->telling = called->result;
  called->result = NULL;
  forget(served, call);
  return true;
}

void lane_call_told(struct lane_served *served) {
  free(served->desk->telling);
  served->desk->telling = NULL;
}

void lane_call_end(struct lane_served *served) {
  struct lane_desk *desk = served->desk;
  if (desk == NULL) return;
  for (uint64_t left = served->calls_used; left != 0; left &= left - 1)
    forget(served, &served->calls[__builtin_ctzll(left)]);
  refuse_arriving(desk);
  lane_call_told(served);
  served->desk = NULL;
  pthread_mutex_lock(&desk->lock);
  desk->served = NULL;
  leave_desk(desk);
}
