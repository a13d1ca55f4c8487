/* SPDX-License-Identifier: Apache-2.0 */
/*
 * callee.h: what the tests of calls share: a server in this process, so that the callee's side can be seen, and what is
 * behind its regions, which answers at once, or keeps calls for the test to answer.
 */
#ifndef GB_LANE_CALLEE_H
#define GB_LANE_CALLEE_H

#include "harness.h"

#define RECORD ((uint32_t)GB_LANE_RECORD_BYTES)

/* A call that the callee was given. */
struct held {
  struct gb_lane_called *called;
  uint8_t *body;
  uint64_t bytes;
};

/* Opens the server, or ends the test; closes it. */
void callee_open(void);
int callee_close(void);
/* The last test: closes the server; no call is kept by then and no thread stays. */
void nothing_is_left(void);
gb_lane_server *callee_server(void);
uint16_t callee_port(void);

/* A region for nothing but calls, unless `rights` says more. returns: of gb_lane_export. */
int callee_export(const struct gb_lane_ticket *ticket, uint32_t region, uint32_t rights);
/* A ticket with REGION to be called; 0: the defaults. */
struct gb_lane_ticket callee_grant(uint32_t connections, uint32_t window);
gb_lane *callee_lane(const struct gb_lane_ticket *ticket, struct gb_lane_options options);
/* How the lane of a ticket ended; waits up to four seconds. -1: it did not. */
int callee_ended(const struct gb_lane_ticket *ticket);

/* From now on calls are kept, or answered on their connection's thread. */
void callee_hold(bool holds);
/* How many have come, ever; and how many are kept. */
uint32_t callee_calls(void);
uint32_t callee_held(void);
/* Waits up to four seconds until so many are kept. */
void callee_wait(uint32_t count);
/* The call that has been kept longest; waits up to `timeout_ms`. called is NULL: none came. */
struct held callee_take_within(uint32_t timeout_ms);
struct held callee_take(void); /* 4000 */
/* Answers with the same bytes, changed, and as many; and all that is kept. returns: how many. */
void callee_answer(const struct held *held);
uint32_t callee_answer_all(void);
bool is_answer(const uint8_t *answer, const uint8_t *body, uint64_t bytes);

/* Starts a call of REGION without room for an answer; one from start to end. */
int start_call(gb_lane *lane, const void *body, uint64_t bytes, uint32_t priority, uint64_t *id);
int call_whole(gb_lane *lane, const struct gb_lane_call *call);

#endif
