/* SPDX-License-Identifier: Apache-2.0 */
/*
 * offer.c: OFFER and HAVE, the server's side: one at a time on a connection, answered by a thread of its own, since who
 * fills blocks from a disk may block for longer than a peer may be silent.
 *
 * Locks: the offer's lock protects its state; it is not held while the backing is asked.
 */
#include <stdlib.h>
#include <string.h>

#include "serve.h"

#define HAVE_BYTES_MAX (GB_LANE_OFFER_BLOCKS_MAX / 8)

/* NONE -> ARRIVING (its body) -> ASKED (the thread's) -> ANSWERED -> TELLING (HAVE is being sealed) -> NONE. */
enum state { NONE, ARRIVING, ASKED, ANSWERED, TELLING };

struct lane_offer {
  struct lane_served *served;
  pthread_t thread;
  pthread_mutex_t lock;
  pthread_cond_t asked;
  enum state state;
  bool stopping, canceled;
  struct lane_head head;
  uint64_t deadline_ns;
  struct lane_region *region; /* pinned while ASKED */
  int status;
  uint8_t digests[GB_LANE_OFFER_BLOCKS_MAX * GB_LANE_DIGEST_BYTES];
  uint8_t have[HAVE_BYTES_MAX];
};

static uint32_t count_of(const struct lane_offer *offer) {
  return offer->head.length / GB_LANE_DIGEST_BYTES;
}

/* ---- the offer's thread ---- */

/* Why it is not gone on with. */
static int halted(struct lane_offer *offer) {
  struct lane_grant *grant = offer->served->grant;
  pthread_mutex_lock(&grant->lock);
  bool removed = offer->region->removed;
  pthread_mutex_unlock(&grant->lock);
  pthread_mutex_lock(&offer->lock);
  bool ended = offer->stopping || offer->canceled;
  pthread_mutex_unlock(&offer->lock);
  if (removed) return GB_LANE_REVOKED;
  if (ended) return GB_LANE_CANCELED;
  return lane_now_ns() >= offer->deadline_ns ? GB_LANE_DEADLINE : GB_LANE_OK;
}

/* A few blocks at a time, so that nobody waits long for a region to be let go. */
static int ask_backing(struct lane_offer *offer) {
  const struct gb_lane_region *region = &offer->region->is;
  int status = GB_LANE_OK;
  if (region->backing == NULL || region->backing->offer == NULL) return GB_LANE_OK;
  for (uint32_t i = 0; i < count_of(offer) && status == GB_LANE_OK; i += GB_LANE_OFFER_BLOCKS_AT_ONCE) {
    uint32_t left = count_of(offer) - i;
    uint32_t some = left < GB_LANE_OFFER_BLOCKS_AT_ONCE ? left : GB_LANE_OFFER_BLOCKS_AT_ONCE;
    status = halted(offer);
    if (status == GB_LANE_OK)
      region->backing->offer(region->context, offer->head.offset + i * offer->head.value, offer->head.value,
                             offer->digests + (size_t)i * GB_LANE_DIGEST_BYTES, some, offer->have + i / 8);
  }
  return status;
}

static void *offer_life(void *argument) {
  struct lane_offer *offer = argument;
  pthread_mutex_lock(&offer->lock);
  for (;;) {
    while (offer->state != ASKED && !offer->stopping) pthread_cond_wait(&offer->asked, &offer->lock);
    if (offer->state != ASKED) break;
    pthread_mutex_unlock(&offer->lock);
    int status = ask_backing(offer);
    lane_region_unpin(offer->served->grant, offer->region);
    pthread_mutex_lock(&offer->lock);
    offer->status = status;
    offer->state = ANSWERED;
    lane_link_wake(&offer->served->link);
  }
  pthread_mutex_unlock(&offer->lock);
  return NULL;
}

static struct lane_offer *make(struct lane_served *served) {
  struct lane_offer *offer = calloc(1, sizeof *offer);
  if (offer == NULL) return NULL;
  offer->served = served;
  pthread_mutex_init(&offer->lock, NULL);
  pthread_cond_init(&offer->asked, NULL);
  if (lane_thread_start(&offer->thread, offer_life, offer)) return offer;
  pthread_mutex_destroy(&offer->lock);
  pthread_cond_destroy(&offer->asked);
  free(offer);
  return NULL;
}

/* ---- for the connection's thread ---- */

static enum state state_of(struct lane_offer *offer) {
  if (offer == NULL) return NONE;
  pthread_mutex_lock(&offer->lock);
  enum state state = offer->state;
  pthread_mutex_unlock(&offer->lock);
  return state;
}

static void set_state(struct lane_offer *offer, enum state state) {
  pthread_mutex_lock(&offer->lock);
  offer->state = state;
  pthread_mutex_unlock(&offer->lock);
}

bool lane_offer_is_open(const struct lane_served *served, uint64_t *request) {
  if (state_of(served->offer) == NONE) return false;
  *request = served->offer->head.request;
  return true;
}

int lane_offer_begin(struct lane_served *served, const struct lane_head *head, uint64_t deadline_ns) {
  if ((served->features & LANE_FEATURE_OFFERS) == 0 || state_of(served->offer) != NONE) return GB_LANE_PROTOCOL;
  if (served->offer == NULL) served->offer = make(served);
  if (served->offer == NULL) return GB_LANE_NO_MEMORY;
  served->offer->head = *head;
  served->offer->deadline_ns = deadline_ns;
  set_state(served->offer, ARRIVING);
  return GB_LANE_OK;
}

void *lane_offer_place(struct lane_served *served, uint32_t at) {
  return served->offer->digests + at;
}

void lane_offer_arrived(struct lane_served *served) {
  struct lane_offer *offer = served->offer;
  const struct lane_head *head = &offer->head;
  memset(offer->have, 0, sizeof offer->have);
  int status = lane_region_pin(served->grant, head->region, head->offset, count_of(offer) * head->value,
                               GB_LANE_MAY_WRITE, &offer->region);
  pthread_mutex_lock(&offer->lock);
  offer->status = status;
  offer->canceled = false;
  offer->state = status == GB_LANE_OK ? ASKED : ANSWERED;
  pthread_cond_signal(&offer->asked);
  pthread_mutex_unlock(&offer->lock);
}

bool lane_offer_cancel(struct lane_served *served, uint64_t request) {
  uint64_t open;
  if (!lane_offer_is_open(served, &open) || open != request) return false;
  pthread_mutex_lock(&served->offer->lock);
  served->offer->canceled = true;
  pthread_mutex_unlock(&served->offer->lock);
  return true;
}

bool lane_offer_next(struct lane_served *served, struct lane_head *head, const void **body) {
  struct lane_offer *offer = served->offer;
  if (state_of(offer) != ANSWERED) return false;
  *head = (struct lane_head){.type = LANE_ERROR, .request = offer->head.request, .status = (uint16_t)offer->status};
  if (offer->status == GB_LANE_OK) {
    *head = (struct lane_head){
        .type = LANE_HAVE, .request = offer->head.request, .body_bytes = (count_of(offer) + 7) / 8};
    *body = offer->have;
  } else if (offer->status == GB_LANE_CANCELED) {
    served->grant->requests_canceled++;
  } else {
    served->grant->requests_failed++;
  }
  set_state(offer, offer->status == GB_LANE_OK ? TELLING : NONE);
  return true;
}

void lane_offer_told(struct lane_served *served) {
  set_state(served->offer, NONE);
}

void lane_offer_end(struct lane_served *served) {
  struct lane_offer *offer = served->offer;
  if (offer == NULL) return;
  pthread_mutex_lock(&offer->lock);
  offer->stopping = true;
  pthread_cond_signal(&offer->asked);
  pthread_mutex_unlock(&offer->lock);
  pthread_join(offer->thread, NULL);
  pthread_mutex_destroy(&offer->lock);
  pthread_cond_destroy(&offer->asked);
  free(offer);
  served->offer = NULL;
}
