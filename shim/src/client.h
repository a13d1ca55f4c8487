/* SPDX-License-Identifier: Apache-2.0 */
/*
 * client.h: the link to the host agent. One thread reads; callers write. Everything works without
 * an agent: requests then answer GB_STATUS_UNREACHABLE at once.
 *
 * disconnected -> connected (HELLO sent) -> ready (HELLO_ACK) -> disconnected.
 */
#ifndef GB_CLIENT_H
#define GB_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gb_abi.h"

/* Starts the thread and waits a moment for the first connection. pre: arena reserved or refused;
 * once. */
void gb_client_start(void);
/* In a forked child: the socket and the thread are the parent's. Also ends the link at exit, after
 * a last report. */
void gb_client_forked(void);
void gb_client_stop(void);

/* One request. Storage belongs to the caller and must stay until gb_client_wait returned. */
struct gb_call {
  uint64_t request_id;
  uint32_t reply_bytes; /* expected */
  void *reply;          /* the caller's, of that size; NULL: only the status is wanted */
  uint32_t status;      /* GB_STATUS_UNREACHABLE when the link broke */
  bool done;
  bool sent;
  uint16_t type;
};

/* Sends a request; call->reply and call->reply_bytes are set. Blocks while GB_ABI_REQUESTS_MAX are
 * outstanding. Any failure shows in gb_client_wait. */
void gb_client_send(struct gb_call *call, uint16_t type, const void *payload, uint32_t bytes);
/* Waits for the reply. On a timeout the connection is dropped (a late reply must find nobody).
 * returns: reply status. */
enum gb_status gb_client_wait(struct gb_call *call, uint32_t timeout_ms);
/* Waits a while for the reply, and drops nothing. returns: whether it is there: gb_client_wait says what it is. */
bool gb_client_wait_a_while(struct gb_call *call, uint32_t milliseconds);

/* Request and reply in one. */
enum gb_status gb_client_budget(uint16_t type, const struct gb_budget *request,
                                struct gb_budget_reply *reply, uint32_t timeout_ms);
enum gb_status gb_client_drop(const struct gb_range *request, uint32_t timeout_ms);
enum gb_status gb_client_place(const struct gb_place_request *request, struct gb_place_reply *reply,
                               uint32_t timeout_ms);
/* A part of a learned step (docs/adr/0013). */
enum gb_status gb_client_step(const struct gb_step *part, struct gb_step_reply *reply, uint32_t timeout_ms);
enum gb_status gb_client_lane(const struct gb_ticket_request *request, struct gb_ticket_reply *reply,
                              uint32_t timeout_ms);
/* Room for a replica of a range on one lease, or back (docs/adr/0013). GB_STATUS_CAPACITY: it has none. */
enum gb_status gb_client_room(const struct gb_room_request *request, uint32_t timeout_ms);
/* A feeder's GPU as a device of this program (docs/adr/0014): a question, or its first range. */
enum gb_status gb_client_device(const struct gb_device_request *request, struct gb_device_reply *reply,
                                uint32_t timeout_ms);
/* A request whose reply nobody waits for. Any thread, the link's too. Dropped without a link, or when
 * GB_TELLS_MAX are unanswered. */
void gb_client_tell(uint16_t type, const void *payload, uint32_t bytes, uint32_t reply_bytes);
/* Fire and forget; dropped without a link. */
void gb_client_notice(uint16_t type, const void *payload, uint32_t bytes);

/* Ready: HELLO_ACK was OK. Any thread. */
bool gb_client_ready(void);
/* The features the agent granted; 0 when not ready. */
uint64_t gb_client_features(void);
/* What the agent would grant in all, from its last word; false when it never spoke. */
bool gb_client_limit(enum gb_tier tier, uint64_t *bytes);

#endif
