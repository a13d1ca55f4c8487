/* SPDX-License-Identifier: Apache-2.0 */
/*
 * door.h: one TCP port for the lanes of many processes (docs/adr/0012). A door waits for the 112 bytes of an opening
 * without taking them, finds the process behind the ticket's id and passes the connection on. It has no secrets, proves
 * nothing and answers nothing: whoever it does not know is closed without a byte.
 *
 * Threads and structures: as in lane.h. One thread of its own; no call waits for anybody.
 */
#ifndef GB_LANE_DOOR_H
#define GB_LANE_DOOR_H

#include "lane.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
  GB_LANE_DOOR_LISTENERS_MAX = 16,
  GB_LANE_DOOR_ROUTES_MAX = GB_LANE_GRANTS_MAX, /* ticket ids it knows */
  GB_LANE_DOOR_WAYS_MAX = 256,                  /* different descriptors among their routes */
};

typedef struct gb_lane_door gb_lane_door;

struct gb_lane_door_options {
  uint32_t size;
  uint32_t strangers_max; /* default and most: GB_LANE_STRANGERS_MAX; the oldest makes room */
  uint32_t stranger_ms;   /* in which the whole opening must have come; default GB_LANE_STRANGER_MS */
  /* 1: only loopback, RFC 1918, link-local and unique local addresses, IPv4 inside IPv6 counted as IPv4. */
  uint32_t lan_only;
};

struct gb_lane_door_counters {
  uint64_t accepted;
  uint64_t passed; /* to a process */
  uint64_t refused[GB_LANE_REFUSALS];
  uint64_t events_dropped;
  uint32_t routes;
  uint32_t strangers;
  uint32_t listeners;
  uint32_t reserved;
};

/* Opens a door that listens nowhere yet. `options` may be NULL. owns: released by gb_lane_door_close. */
GB_LANE_API int gb_lane_door_open(const struct gb_lane_door_options *options, gb_lane_door **door);

/* Listens at one more numeric address (NULL: every one); port 0: any. returns: GB_LANE_OK; GB_LANE_INVALID: not an
 * address; GB_LANE_UNREACHABLE: not an address of this machine, or taken; GB_LANE_LIMIT. */
GB_LANE_API int gb_lane_door_listen(gb_lane_door *door, const char *address, uint16_t port);

/* The TCP port of its first address, -1 without one. */
GB_LANE_API int gb_lane_door_port(gb_lane_door *door);

/* From now on connections with this ticket go over `fd`, the other end of a server's adopt_fd, which is duplicated.
 * Replaces the route of the same id. returns: GB_LANE_OK; GB_LANE_INVALID: not a SOCK_SEQPACKET socket;
 * GB_LANE_LIMIT; GB_LANE_NO_MEMORY: no descriptor. */
GB_LANE_API int gb_lane_door_route(gb_lane_door *door, const uint8_t *ticket_id, int fd);

/* Forgets a ticket; its lane, if it is open, lives on. returns: GB_LANE_OK or GB_LANE_NOT_FOUND. */
GB_LANE_API int gb_lane_door_forget(gb_lane_door *door, const uint8_t *ticket_id);

GB_LANE_API int gb_lane_door_counters(gb_lane_door *door, struct gb_lane_door_counters *counters);

/* A descriptor that is readable while there are events. owns: the door. */
GB_LANE_API int gb_lane_door_poll_fd(gb_lane_door *door);

/* Takes up to `count` events, all of them GB_LANE_EVENT_REFUSED. returns: how many. Never blocks. */
GB_LANE_API uint32_t gb_lane_door_events(gb_lane_door *door, struct gb_lane_event *events, uint32_t count);

/* Closes it; what it has passed on lives on. */
GB_LANE_API int gb_lane_door_close(gb_lane_door *door);

#ifndef __cplusplus
GB_LANE_ASSERT(struct gb_lane_door_options, 16);
GB_LANE_ASSERT(struct gb_lane_door_counters, 136);
#endif

#ifdef __cplusplus
}
#endif

#endif
