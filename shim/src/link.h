/* SPDX-License-Identifier: Apache-2.0 */
/* link.h: what client.c (thread, connection) and request.c (requests, HELLO) share. Nobody
 * else includes it. */
#ifndef GB_LINK_H
#define GB_LINK_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>

#include "client.h"

#define GB_EVENTS_WAITING_MAX 8

struct gb_link {
  pthread_mutex_t lock; /* protects everything below that is not atomic */
  pthread_cond_t changed;
  int fd;
  int wake_fd;
  _Atomic bool ready; /* written under the lock */
  bool attempted;     /* the first attempt is over */
  _Atomic bool stopping;
  uint64_t features;
  _Atomic uint64_t generation; /* connections opened; written under the lock */
  uint64_t hello_id;
  uint64_t next_request_id;
  struct gb_call *calls[GB_ABI_REQUESTS_MAX];
  _Atomic uint64_t limits[GB_TIER_COUNT];
  _Atomic bool limits_known;
  struct gb_event waiting[GB_EVENTS_WAITING_MAX]; /* events from before the first connection */
  uint32_t waiting_count;
  struct gb_hello hello; /* without the parts that change */
};

extern struct gb_link gb_link;

/* Fills what never changes of HELLO. pre: cuInit succeeded. */
void gb_link_prepare_hello(void);
/* Enters the socket and sends HELLO. owns: fd, until gb_link_close. */
void gb_link_open(int fd);
/* Closes the socket, answers every outstanding call with GB_STATUS_UNREACHABLE. */
void gb_link_close(void);
/* pre: lock. */
void gb_link_flush_events(void);
/* A reply frame. returns: false when nobody asked for it in that form. */
bool gb_link_reply(const struct gb_frame *frame, const void *payload);
/* The sink of the parser; also the fuzz target's. */
bool gb_client_on_frame(void *owner, const struct gb_frame *frame, const void *payload);
/* Now plus milliseconds on the clock of `changed`. */
struct timespec gb_link_deadline(uint32_t milliseconds);

#endif
