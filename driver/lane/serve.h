/* SPDX-License-Identifier: Apache-2.0 */
/*
 * serve.h: a server as it is inside: grants (tickets with their regions), the connections that showed a ticket, and
 * strangers that have not.
 *
 * Locks: the server's lock before a grant's lock. Neither is held while bytes move: a region is pinned instead, and
 * whoever takes it away waits until nobody has it pinned.
 */
#ifndef GB_LANE_SERVE_H
#define GB_LANE_SERVE_H

#include <sys/socket.h>
#include <sys/types.h>

#include "link.h"
#include "notice.h"

#define LANE_GRANT_CONNS_MAX (GB_LANE_CONNECTIONS_MAX + 1u)

struct lane_region {
  struct gb_lane_region is;
  uint64_t serial; /* its own within the grant, also among those of the same id */
  uint32_t pins;
  bool removed;
};

enum lane_way { LANE_OUT = 0, LANE_IN = 1 };

struct lane_grant {
  struct lane_grant *next;
  struct gb_lane_grant is;
  uint64_t expires_ms;
  uint32_t users; /* connections and calls that hold it; freed with the last when revoked */
  bool revoked, opened;
  uint32_t used; /* bit i: connection i was opened */
  struct lane_served *conns[LANE_GRANT_CONNS_MAX];
  uint32_t conn_count; /* alive */
  int state;           /* enum gb_lane_status */
  struct gb_lane_counters past; /* of connections that have ended */
  _Atomic uint64_t requests, requests_failed, requests_canceled;
  const struct lane_aead *aead;
  char congestion[16];
  uint32_t record_bytes;
  /* Protects what is below, and the region objects. */
  pthread_mutex_t lock;
  pthread_cond_t unpinned;
  struct lane_region **regions; /* sorted by id */
  uint32_t region_count, region_room;
  uint64_t region_serial;
  uint64_t due_ns[2]; /* by enum lane_way: when all that went is paid for */
  _Atomic uint64_t rate; /* bytes per second, 0: no limit */
  _Atomic uint32_t rate_changes;
  _Atomic uint32_t region_changes; /* regions that have left the table */
  _Atomic uint32_t window;
};

/* A request of the client from its head to its answer. */
struct lane_asked {
  struct lane_head head;
  uint64_t order;       /* of arrival */
  uint64_t deadline_ns; /* UINT64_MAX: none */
};

/* An ACK or ERROR that is to be sent. */
struct lane_owed {
  struct lane_head head;
  uint64_t order;
  uint64_t ready_ns; /* from when on the rate allows it */
};

/* A CALL that the backing has and has not been answered for. */
struct lane_open_call {
  struct lane_head head;
  uint64_t deadline_ns, ready_ns; /* as in lane_asked and lane_owed */
  uint64_t region_serial;
  struct gb_lane_called *called;
};

/* A connection that showed a ticket. All but what is atomic belongs to its thread. */
struct lane_served {
  struct lane_link link;
  struct gb_lane_server *server;
  struct lane_grant *grant;
  uint32_t index, features;
  bool express;
  pthread_t thread;
  struct lane_served *next_ended;
  char address[64];
  struct lane_asked reads[GB_LANE_WINDOW_MAX];
  uint64_t reads_used;
  struct lane_owed answers[GB_LANE_WINDOW_MAX];
  uint64_t answers_used;
  uint64_t order;
  uint64_t limited_until_ns; /* something waits for the rate until then; UINT64_MAX: nothing */
  uint32_t rate_seen;        /* changes */
  struct lane_offer *offer;  /* NULL before its first OFFER */
  struct lane_desk *desk;    /* NULL before its first CALL */
  struct lane_open_call calls[GB_LANE_WINDOW_MAX];
  uint64_t calls_used;
  uint32_t regions_seen; /* changes */
  uint32_t window_told;
  /* What is being sent, and what is arriving. */
  struct lane_region *sending; /* pinned */
  void *sending_memory;
  uint64_t sending_token;
  struct lane_head sending_head; /* the READ it answers */
  struct lane_head writing;      /* the WRITE whose body arrives */
  int writing_status;            /* GB_LANE_OK: it goes to its region */
  struct lane_region *arriving;  /* pinned: by place() for one slice, with a backing until the body is whole */
  void *arriving_memory;         /* the backing's; NULL without one */
  const void *arriving_base;     /* to notice that a region was replaced between two slices */
  uint64_t arriving_token;
};

struct lane_stranger {
  int fd; /* -1: free */
  uint64_t until_ms, order;
  uint32_t have;
  uint8_t frame[LANE_OPENING_BYTES];
  char address[64];
};

struct gb_lane_server {
  pid_t owner;
  int listener, adopted, wake; /* adopted: where a door's connections come from; -1: none */
  bool stopping;
  uint32_t connections_max, strangers_max, stranger_ms;
  struct gb_lane_tuning tuning;
  pthread_t thread;
  pthread_mutex_t lock;
  pthread_cond_t quiet; /* a connection has ended */
  struct lane_grant *grants;
  uint32_t grant_count, connections;
  struct lane_served *ended; /* to be joined */
  struct lane_stranger strangers[GB_LANE_STRANGERS_MAX];
  uint64_t stranger_order, deaf_until_ms;
  struct gb_lane_server_counters counters;
  struct lane_notices notices;
};

/* ---- grant.c ---- */

/* locks: the server's lock is held. */
struct lane_grant *lane_grant_find(struct gb_lane_server *server, const uint8_t *ticket_id);
void lane_grant_unuse(struct gb_lane_server *server, struct lane_grant *grant);
/* Removes all regions and waits until none is pinned. locks: neither. */
void lane_grant_strip(struct lane_grant *grant);
/* Finds a region and pins it. returns: GB_LANE_OK, NOT_FOUND, DENIED, RANGE. */
int lane_region_pin(struct lane_grant *grant, uint32_t id, uint64_t offset, uint64_t bytes, uint32_t right,
                    struct lane_region **region);
/* Whether the region of this serial is still the one of its id. */
bool lane_region_is_there(struct lane_grant *grant, uint32_t id, uint64_t serial);
void lane_region_unpin(struct lane_grant *grant, struct lane_region *region);
/* Wakes every connection of a grant. locks: the server's lock is held. */
void lane_grant_wake(struct lane_grant *grant);
/* Takes out of use what its time has passed by. locks: the server's lock is held. */
void lane_grant_sweep(struct gb_lane_server *server);

/* ---- rate.c; locks: takes the grant's lock ---- */

/* When a request that is not charged yet may be answered; 0: at once. */
uint64_t lane_rate_when(struct lane_grant *grant, enum lane_way way, const struct lane_head *head);
/* Charges its bytes. returns: lane_rate_when for what has been moved by then. */
uint64_t lane_rate_charge(struct lane_grant *grant, enum lane_way way, const struct lane_head *head);
void lane_rate_set(struct lane_grant *grant, uint64_t bytes_per_second);

/* ---- offer.c; the connection's thread calls all of it ---- */

/* An OFFER's head has come. returns: GB_LANE_OK or why the lane ends: not a feature in use, one is open already. */
int lane_offer_begin(struct lane_served *served, const struct lane_head *head, uint64_t deadline_ns);
void *lane_offer_place(struct lane_served *served, uint32_t at);
/* Its body is whole: it will be answered. */
void lane_offer_arrived(struct lane_served *served);
/* Whether one is not answered yet, and which. */
bool lane_offer_is_open(const struct lane_served *served, uint64_t *request);
/* returns: whether it is this one. It is answered all the same. */
bool lane_offer_cancel(struct lane_served *served, uint64_t request);
/* HAVE or ERROR, if there is one to be sent; after HAVE is sealed, lane_offer_told. */
bool lane_offer_next(struct lane_served *served, struct lane_head *head, const void **body);
void lane_offer_told(struct lane_served *served);
/* Waits for the backing, which is asked for a few blocks at a time. */
void lane_offer_end(struct lane_served *served);

/* ---- call.c; the connection's thread calls all of it ---- */

/* A CALL's head has come. returns: GB_LANE_OK or why the lane ends: not a feature in use. */
int lane_call_begin(struct lane_served *served, const struct lane_head *head, uint64_t deadline_ns);
/* NULL: it is refused, and its body goes nowhere. */
void *lane_call_place(struct lane_served *served, uint32_t at);
/* Its body is whole: the backing gets it, or it is refused. */
void lane_call_arrived(struct lane_served *served);
/* Forgets those whose answers have been sent by others: first of all when a record comes. */
void lane_call_reap(struct lane_served *served);
/* Whether this request is a call that is not answered yet. */
bool lane_call_is_open(const struct lane_served *served, uint64_t request);
/* Forgets who waits for an answer. returns: whether it is this one, which is then the caller's to answer. */
bool lane_call_cancel(struct lane_served *served, uint64_t request);
/* Makes answers of those that the callee has failed. */
void lane_call_settle(struct lane_served *served);
/* RESULT of a call whose priority is `priority` or before it, if one may be sent; after a body is sealed,
 * lane_call_told. */
bool lane_call_next(struct lane_served *served, uint64_t now, uint8_t priority, struct lane_head *head,
                    const void **body);
void lane_call_told(struct lane_served *served);
/* Ends calls beyond their deadline, and of regions that are gone. returns: when to look again; 0: there are answers. */
uint64_t lane_call_turn(struct lane_served *served, uint64_t now);
/* The connection is over: answers that are yet to come go nowhere. */
void lane_call_end(struct lane_served *served);

/* ---- serve.c ---- */

/* ACK or ERROR for a request that is no longer kept elsewhere. */
void lane_served_answer(struct lane_served *served, uint64_t request, int status, uint64_t ready_ns);
/* Whether what is due at `when` may go now; if not, the thread wakes for it. */
bool lane_served_due(struct lane_served *served, uint64_t when, uint64_t now);
/* A stranger has proven a ticket: makes him a connection with a thread. owns: the socket on success. locks: the
 * server's lock is held. returns: 0 or enum gb_lane_refusal. */
int lane_serve(struct gb_lane_server *server, struct lane_grant *grant, const struct lane_stranger *stranger,
               const struct lane_opening *opening);

/* ---- server.c ---- */

void lane_server_wake(struct gb_lane_server *server);

#endif
