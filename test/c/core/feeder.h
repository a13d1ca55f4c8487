/* SPDX-License-Identifier: Apache-2.0 */
/*
 * feeder.h: feeders as the shim sees them: lane numbers, each with memory of its own behind a real lane server. Faults
 * happen on demand. Called by the test agent's one thread; the servers' threads only read and write the memory.
 */
#ifndef TEST_FEEDER_H
#define TEST_FEEDER_H

#include <stdbool.h>
#include <stdint.h>

#include "gb_abi.h"

struct feeder_faults {
  unsigned flip;   /* every Nth read, if it is of lane 1: one bit of the bytes is wrong */
  unsigned revoke; /* every Nth read or write: the lane's ticket is taken back */
  unsigned offers; /* not 0: whole MiBs that were written are known by their content */
  unsigned stop;   /* every Nth read or write of lane 1: no answer for longer than a lane waits */
};

struct feeder_counts {
  unsigned reads, writes, flipped, revoked, stopped, offered, known;
};

/* Starts the server. returns: false when it cannot. */
bool feeder_start(const struct feeder_faults *faults);
/* Ends every lane and frees everything. */
void feeder_stop(void);
struct feeder_counts feeder_count(void);
/* Zeroed memory of a lane at an arena offset. returns: false when it overlaps another range of the lane. */
bool feeder_place(uint32_t lane, uint64_t offset, uint64_t length);
/* Frees what lies inside; waits for requests that use it. returns: bytes freed. */
uint64_t feeder_free(uint32_t lane, uint64_t offset, uint64_t length);
/* Copies bytes between lanes, as a pull does. returns: false when a side does not hold all of them. */
bool feeder_pull(uint32_t from, uint32_t to, uint64_t offset, uint64_t length);
/* A ticket for the lane. returns: false when the lane is gone. */
bool feeder_ticket(uint32_t lane, struct gb_ticket_reply *reply);
/* The lane and all it held are gone; its tickets too. */
void feeder_lose(uint32_t lane);
bool feeder_is_lost(uint32_t lane);

#endif
