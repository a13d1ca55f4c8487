/* SPDX-License-Identifier: Apache-2.0 */
/*
 * link_send.c: the sending side of a connection. One record at a time is sealed, in slices that are sent while they
 * are in the cache; when the socket is full the rest is sealed as well, so the source is never held by a slow peer.
 */
#include <errno.h>
#include <sys/socket.h>

#include "link.h"

int lane_link_broken(struct lane_link *link, int error) {
  if (link->goodbye_said) return link->goodbye;
  return error == ETIMEDOUT ? GB_LANE_LOST : GB_LANE_DISCONNECTED;
}

static bool stage_head(struct lane_link *link, const struct lane_head *head) {
  if (!lane_head_seal(&link->seal, head, link->tx + link->tx_have)) return false;
  link->tx_have += LANE_SEALED_HEAD_BYTES;
  link->counters.records_out++;
  return true;
}

static void let_go(struct lane_link *link) {
  link->tx_body = NULL;
  link->ops->sealed(link->owner, &link->tx_head);
}

/* Seals the next slice of the body; with the last one, its tag. */
static bool stage_slice(struct lane_link *link) {
  uint32_t left = link->tx_head.body_bytes - link->tx_body_at;
  uint32_t bytes = left < LANE_SLICE_BYTES ? left : LANE_SLICE_BYTES;
  if (!link->seal.aead->update(link->seal.context, link->tx_body + link->tx_body_at, link->tx + link->tx_have,
                               bytes))
    return false;
  link->tx_have += bytes;
  link->tx_body_at += bytes;
  if (bytes < left) return true;
  bool right = link->seal.aead->tag(link->seal.context, link->tx + link->tx_have);
  link->tx_have += LANE_TAG_BYTES;
  link->counters.body_out += link->tx_head.body_bytes;
  let_go(link);
  return right;
}

static bool stage_rekey(struct lane_link *link, uint64_t now) {
  if (link->seal.bytes < link->rekey_bytes && now - link->counters.seal_key_ns < link->rekey_ns) return true;
  const struct lane_head head = {.type = LANE_REKEY};
  if (!stage_head(link, &head) || !lane_key_next(&link->seal)) return false;
  link->counters.seal_key_ns = now;
  link->counters.rekeys++;
  return true;
}

/* What the link itself has to say. */
static bool stage_own(struct lane_link *link) {
  struct lane_head head = {.type = LANE_PONG, .value = link->pong_wanted};
  uint64_t now = lane_now_ns();
  if (!stage_rekey(link, now)) return false;
  if (head.value != link->ponged) {
    link->ponged = head.value;
    if (!stage_head(link, &head)) return false;
  }
  head = (struct lane_head){.type = LANE_PING, .value = link->ping};
  if (head.value != link->pinged) {
    link->pinged = head.value;
    link->ping_ns = now;
    if (!stage_head(link, &head)) return false;
  }
  head = (struct lane_head){.type = LANE_GOODBYE, .status = (uint16_t)link->goodbye};
  if (head.status == GB_LANE_OK) return true;
  link->goodbye_ns = now;
  link->goodbye_said = true;
  return stage_head(link, &head);
}

/* Fills the empty buffer: a batch of heads, at most one of them, the last, with a body. */
static bool stage(struct lane_link *link, bool small) {
  const void *body = NULL;
  if (link->goodbye_said) return true;
  if (!stage_own(link)) return false;
  while (!link->goodbye_said && link->tx_have + LANE_SEALED_HEAD_BYTES <= LANE_BATCH_BYTES &&
         link->ops->next(link->owner, &link->tx_head, &body, small)) {
    bool sealed = stage_head(link, &link->tx_head);
    if (link->tx_head.body_bytes == 0) {
      if (!sealed) return false;
      continue;
    }
    link->tx_body = body;
    link->tx_body_at = 0;
    return sealed && lane_key_begin(&link->seal, link->tx_head.body_bytes) && stage_slice(link);
  }
  return true;
}

static int flush(struct lane_link *link, bool *blocked) {
  /* Within a body the next slice follows at once: a segment is filled rather than sent with what is left over. */
  int flags = MSG_DONTWAIT | MSG_NOSIGNAL | (link->tx_body != NULL ? MSG_MORE : 0);
  while (link->tx_sent < link->tx_have) {
    ssize_t sent = send(link->fd, link->tx + link->tx_sent, link->tx_have - link->tx_sent, flags);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno == EAGAIN) {
      link->counters.retries++;
      *blocked = true;
      return GB_LANE_OK;
    }
    if (sent < 0) return lane_link_broken(link, errno);
    link->tx_sent += (size_t)sent;
    link->counters.wire_out += (uint64_t)sent;
    link->counters.said_ns = lane_now_ns();
  }
  link->tx_have = link->tx_sent = 0;
  return GB_LANE_OK;
}

/* Sends until there is nothing to send or the socket is full. locks: tx_lock is held. */
static int pump(struct lane_link *link, bool small, bool *blocked) {
  for (;;) {
    int status = flush(link, blocked);
    bool sealed = true;
    if (status == GB_LANE_OK && *blocked) {
      while (sealed && link->tx_body != NULL) sealed = stage_slice(link);
    } else if (status == GB_LANE_OK) {
      sealed = link->tx_body != NULL ? stage_slice(link) : stage(link, small);
    }
    if (!sealed) status = GB_LANE_NO_MEMORY;
    if (status != GB_LANE_OK && link->tx_body != NULL) let_go(link);
    if (status != GB_LANE_OK || *blocked || link->tx_have == 0) return status;
  }
}

int lane_link_send(struct lane_link *link, bool *blocked) {
  pthread_mutex_lock(&link->tx_lock);
  int status = pump(link, false, blocked);
  pthread_mutex_unlock(&link->tx_lock);
  return status;
}

void lane_link_push(struct lane_link *link) {
  bool blocked = false;
  if (link->end != GB_LANE_OK) return;
  if (pthread_mutex_trylock(&link->tx_lock) != 0) {
    lane_link_wake(link); /* the holder may have looked already */
    return;
  }
  int status = pump(link, true, &blocked);
  pthread_mutex_unlock(&link->tx_lock);
  if (status != GB_LANE_OK) lane_link_end(link, status);
  else if (blocked) lane_link_wake(link);
}

/* A small record into the empty buffer, after a change of key that is due. */
static bool stage_small(struct lane_link *link, const struct lane_head *head, const void *body) {
  if (!stage_rekey(link, lane_now_ns()) || !stage_head(link, head)) return false;
  if (head->body_bytes == 0) return true;
  if (!lane_key_begin(&link->seal, head->body_bytes) ||
      !link->seal.aead->update(link->seal.context, body, link->tx + link->tx_have, head->body_bytes) ||
      !link->seal.aead->tag(link->seal.context, link->tx + link->tx_have + head->body_bytes))
    return false;
  link->tx_have += head->body_bytes + LANE_TAG_BYTES;
  link->counters.body_out += head->body_bytes;
  return true;
}

bool lane_link_slip(struct lane_link *link, const struct lane_head *head, const void *body) {
  bool blocked = false;
  int status = GB_LANE_OK;
  if (link->end != GB_LANE_OK || head->body_bytes > LANE_INLINE_BYTES) return false;
  if (pthread_mutex_trylock(&link->tx_lock) != 0) return false;
  bool idle = link->tx_have == 0 && link->tx_body == NULL && link->goodbye == GB_LANE_OK;
  if (idle) status = stage_small(link, head, body) ? flush(link, &blocked) : GB_LANE_NO_MEMORY;
  pthread_mutex_unlock(&link->tx_lock);
  if (status != GB_LANE_OK) lane_link_end(link, status);
  else if (blocked) lane_link_wake(link);
  return idle;
}

void lane_link_last_words(struct lane_link *link) {
  bool blocked = false;
  pthread_mutex_lock(&link->tx_lock);
  if (link->goodbye != GB_LANE_OK && !link->goodbye_said) pump(link, false, &blocked);
  shutdown(link->fd, SHUT_WR);
  pthread_mutex_unlock(&link->tx_lock);
}
