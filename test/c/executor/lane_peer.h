/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lane_peer.h: the other side of an executor's lanes: a real door in front of it, and a real client.
 */
#ifndef EXECUTOR_LANE_PEER_H
#define EXECUTOR_LANE_PEER_H

#include <pthread.h>
#include <time.h>

#include "harness.h"

#include "door.h"
#include "lane.h"

#define KIB 1024ull

static gb_lane_door *lane_door;

static inline uint64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* A grant of its own number, with everything allowed. */
static inline struct gbx_grant grant_of(uint8_t number, uint64_t offset, uint64_t length) {
  struct gbx_grant grant = {.offset = offset,
                            .length = length,
                            .tag = number,
                            .rights = GB_LANE_MAY_READ | GB_LANE_MAY_WRITE,
                            .connections = 4,
                            .ttl_ms = 10000};
  memset(grant.ticket_id, number, sizeof(grant.ticket_id));
  memset(grant.secret, number ^ 0x5a, sizeof(grant.secret));
  return grant;
}

static inline uint32_t give(struct executor *executor, const struct gbx_grant *grant) {
  uint32_t status = ask_status(executor, GBX_MSG_GRANT, grant, sizeof(*grant)).status;
  if (status == GBX_OK)
    CHECK_EQUAL(gb_lane_door_route(lane_door, grant->ticket_id, executor->door), GB_LANE_OK);
  return status;
}

static inline uint32_t take_back(struct executor *executor, const struct gbx_grant *grant) {
  gb_lane_door_forget(lane_door, grant->ticket_id);
  return ask_status(executor, GBX_MSG_REVOKE, grant->ticket_id, sizeof(grant->ticket_id)).status;
}

static inline struct gbx_lane_stat lane_of(struct executor *executor, const struct gbx_grant *grant) {
  struct gbx_lane_stat stat = {.status = 999};
  CHECK(ask(executor, GBX_MSG_LANE, grant->ticket_id, sizeof(grant->ticket_id), &stat, sizeof(stat)));
  return stat;
}

static inline int open_lane(const struct gbx_grant *grant, uint32_t connections, gb_lane **lane) {
  struct gb_lane_ticket ticket;
  struct gb_lane_options options = {.size = sizeof(options), .connections = connections};
  memcpy(ticket.id, grant->ticket_id, sizeof(ticket.id));
  memcpy(ticket.secret, grant->secret, sizeof(ticket.secret));
  return gb_lane_open("127.0.0.1", (uint16_t)gb_lane_door_port(lane_door), &ticket, &options, lane);
}

static inline int put(gb_lane *lane, uint64_t offset, const void *memory, uint64_t bytes) {
  return gb_lane_write(lane, 0, offset, memory, bytes, GB_LANE_NORMAL, 0);
}

static inline int get(gb_lane *lane, uint64_t offset, void *memory, uint64_t bytes) {
  return gb_lane_read(lane, 0, offset, memory, bytes, GB_LANE_NORMAL, 0);
}

/* Waits for a notice of a kind. */
static inline const struct gbx_lane_event *event_of(struct executor *executor, uint32_t kind, uint64_t tag) {
  for (uint64_t until = now_ms() + 5000; now_ms() < until; usleep(5000)) {
    stat_of(executor); /* takes the notices before its answer */
    for (unsigned index = 0; index < executor->event_count; index++) {
      if (executor->events[index].kind == kind && executor->events[index].tag == tag)
        return &executor->events[index];
    }
  }
  return NULL;
}

/* Begins a test program with lanes. */
static inline bool lane_peer_begin(int argc, char **argv) {
  return harness_begin(argc, argv) && gb_lane_door_open(NULL, &lane_door) == GB_LANE_OK &&
         gb_lane_door_listen(lane_door, "127.0.0.1", 0) == GB_LANE_OK;
}

#endif
