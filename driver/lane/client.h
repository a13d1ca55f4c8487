/* SPDX-License-Identifier: Apache-2.0 */
/*
 * client.h: a lane as its client has it: transfers (what the caller asked for) are cut into parts (one READ or WRITE on
 * the wire each, at most one record), which the connections take as they have room.
 *
 * Locks: a link's tx_lock before the lane's lock. A transfer's memory is touched only by a part that is `busy`.
 */
#ifndef GB_LANE_CLIENT_H
#define GB_LANE_CLIENT_H

#include <sys/types.h>

#include "link.h"

#define LANE_LINKS_MAX (GB_LANE_CONNECTIONS_MAX + 1u)
#define LANE_PRIORITIES 3u
/* An operation beside those that callers submit. */
#define LANE_OFFERS 4u

struct lane_transfer {
  struct lane_transfer *next; /* in its queue, or among the free, or among the ended */
  uint64_t id;                /* index and generation; 0: free */
  struct gb_lane_segment *segments;
  struct gb_lane_segment only; /* the usual one */
  uint32_t segment_count, segment; /* the next to be cut, and from where */
  uint64_t segment_at;
  uint64_t bytes, bytes_done, uncut;
  uint64_t deadline_ns;
  uint64_t user;
  uint32_t region, operation, priority, piece_bytes;
  uint32_t parts; /* on the wire */
  int failed;     /* why it ends early */
  int status;     /* how it ended; GB_LANE_PENDING until then */
  uint64_t block_bytes;    /* of an offer */
  uint8_t *answer;         /* where that of an offer or a call goes */
  uint64_t answer_room;    /* of a call */
  uint64_t *answer_bytes;  /* of a call; may be NULL */
  bool notify, queued, waited;
  pthread_cond_t ended;
};

struct lane_queue {
  struct lane_transfer *first, *last;
};

/* A request on the wire, one of GB_LANE_WINDOW_MAX of a connection. */
struct lane_part {
  uint64_t request;               /* 0: free */
  struct lane_transfer *transfer; /* NULL: nobody wants the answer any more */
  uint8_t *memory;
  uint32_t bytes; /* of a call's answer, once it comes */
  uint32_t operation;
  bool busy;       /* a thread is at its memory */
  bool cancel_due; /* CANCEL is to be sent */
};

struct lane_conn {
  struct lane_link link;
  struct gb_lane *lane;
  uint32_t index;
  bool express, running;
  bool offering; /* an OFFER is on the wire, one at a time */
  pthread_t thread;
  /* locks: the lane's lock */
  struct lane_part parts[GB_LANE_WINDOW_MAX];
  uint64_t used; /* bit i: parts[i] is on the wire */
  uint32_t outstanding, window, cancels_due;
  uint64_t generation;
  /* the link's thread alone */
  struct lane_part *receiving;
  uint64_t pong_seen;
  /* locks: the link's tx lock */
  struct lane_part *sending;
};

struct gb_lane {
  pid_t owner;
  pthread_mutex_t lock;
  pthread_cond_t idle;   /* nobody waits any more */
  pthread_cond_t ponged; /* by the last connection */
  struct lane_conn conns[LANE_LINKS_MAX];
  uint32_t conn_count, bulk_count, own_window;
  struct lane_transfer transfers[GB_LANE_TRANSFERS_MAX];
  struct lane_transfer *free;
  struct lane_queue queues[LANE_PRIORITIES], express, offers, reapable;
  struct lane_queue calls[LANE_PRIORITIES]; /* of the first connection alone: they keep their order */
  uint32_t outstanding, waiters;
  uint64_t generation; /* of transfers' ids */
  uint64_t deadline_next_ns; /* none passes before this; UINT64_MAX: none */
  int state;                 /* enum gb_lane_status */
  int notice;                /* eventfd of gb_lane_poll_fd */
  uint64_t requests, requests_failed, requests_canceled;
  const struct lane_aead *aead;
  uint32_t record_bytes, features;
};

/* Of transfer.c. locks: the lane's lock is held. */
extern const struct lane_link_ops lane_client_ops;
void lane_queue_append(struct lane_queue *queue, struct lane_transfer *transfer);
void lane_queue_remove(struct lane_queue *queue, struct lane_transfer *transfer);
/* Whether it goes over the express connection, and the queue it waits in. */
bool lane_goes_express(const struct gb_lane *lane, const struct lane_transfer *transfer);
struct lane_queue *lane_queue_of(struct gb_lane *lane, const struct lane_transfer *transfer);
/* Makes the lane's descriptor readable. */
void lane_notify(struct gb_lane *lane);
void lane_transfer_end_if_done(struct gb_lane *lane, struct lane_transfer *transfer);
/* Ends a transfer early: at once, or when the thread that is at its memory has left. */
void lane_transfer_fail(struct gb_lane *lane, struct lane_transfer *transfer, int status);

/* Of request.c, for client.c and transfer.c. */
void lane_transfers_init(struct gb_lane *lane);
void lane_transfers_free(struct gb_lane *lane);
/* The lane is over: ends what is outstanding. Takes the lane's lock. */
void lane_transfers_fail(struct gb_lane *lane, int status);
/* Ends what is beyond its deadline. returns: the next one. Takes the lane's lock. */
uint64_t lane_transfers_expire(struct gb_lane *lane, uint64_t now_ns);

#endif
