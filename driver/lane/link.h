/* SPDX-License-Identifier: Apache-2.0 */
/*
 * link.h: one connection of a lane after its opening, the same for both ends: records out and in, keys, heartbeat,
 * goodbye. What the records mean is its owner's (client.c, serve.c), asked through lane_link_ops.
 */
#ifndef GB_LANE_LINK_H
#define GB_LANE_LINK_H

#include <pthread.h>
#include <stdatomic.h>

#include "wire.h"

/* What one send or receive takes at most; fits the second-level cache beside its copy. */
#define LANE_SLICE_BYTES 262144u
/* Heads that are sent together. */
#define LANE_BATCH_BYTES 8192u
/* A caller that submits, or answers, sends bodies up to this size himself; larger ones are the link's thread's. */
#define LANE_INLINE_BYTES 65536u

struct lane_link_counters {
  _Atomic uint64_t body_in, body_out, wire_in, wire_out, records_in, records_out;
  _Atomic uint64_t rekeys, retries, round_trips, round_trip_ns, round_trip_min_ns;
  _Atomic uint64_t heard_ns, said_ns, seal_key_ns, open_key_ns;
};

struct lane_link_ops {
  /* The next record to send. locks: the link's tx lock is held. `small`: called by a submitting thread, bodies beyond
   * LANE_INLINE_BYTES stay where they are. returns: false: none. With a body, *body stays valid until sealed(). */
  bool (*next)(void *owner, struct lane_head *head, const void **body, bool small);
  /* The body that next() returned is no longer read. */
  void (*sealed)(void *owner, const struct lane_head *head);
  /* A proven head, not of the link's own types. returns: GB_LANE_OK or why the lane ends. */
  int (*head)(void *owner, const struct lane_head *head);
  /* Where the next `bytes` of the head's body go, from `at` on; NULL: nowhere. Ended by placed(), if not NULL. */
  void *(*place)(void *owner, uint32_t at, uint32_t bytes);
  void (*placed)(void *owner);
  /* The body is whole and proven. returns: GB_LANE_OK or why the lane ends. */
  int (*body)(void *owner);
  /* Once per turn of the thread, after it has sent what it could. returns: when it wants the next one at the latest,
   * UINT64_MAX: never. */
  uint64_t (*turn)(void *owner, uint64_t now_ns);
};

struct lane_link {
  int fd;
  int wake; /* eventfd */
  bool is_client;
  uint32_t record_bytes;
  uint64_t silence_ns, heartbeat_ns, rekey_ns, rekey_bytes;
  const struct lane_link_ops *ops;
  void *owner;
  struct lane_link_counters counters;
  _Atomic int end;       /* enum gb_lane_status: GB_LANE_OK while it lives; the first reason wins */
  _Atomic int goodbye;   /* status to say goodbye with; GB_LANE_OK: none */
  _Atomic uint64_t ping; /* number of the last ping wanted */
  _Atomic uint64_t pong; /* number of the last one answered */

  /* Sending. locks: tx_lock. */
  pthread_mutex_t tx_lock;
  struct lane_key seal;
  uint8_t *tx; /* sealed bytes: a record and a batch of heads fit */
  size_t tx_room, tx_have, tx_sent;
  struct lane_head tx_head;
  const uint8_t *tx_body; /* of tx_head, while not sealed whole */
  uint32_t tx_body_at;
  _Atomic bool goodbye_said;
  _Atomic uint64_t goodbye_ns; /* when */
  uint64_t pinged, ponged, ping_ns; /* numbers that went out; when the last ping did */
  _Atomic uint64_t pong_wanted;     /* the last number the peer asked with */

  /* Receiving. The link's thread alone. */
  struct lane_key open;
  uint8_t *rx;
  size_t rx_have, rx_at;
  int rx_low; /* SO_RCVLOWAT */
  struct lane_head rx_head;
  bool in_body;
  uint32_t rx_body_at;
};

/* What a link begins with. owns: `fd` from a successful return on. */
struct lane_link_start {
  int fd;
  bool is_client;
  const struct lane_aead *aead;
  const uint8_t *secret, *opening, *answer;
  uint32_t record_bytes;
  const struct gb_lane_tuning *tuning; /* resolved */
  const struct lane_link_ops *ops;
  void *owner;
};

/* pre: *link is zero. returns: enum gb_lane_status. */
int lane_link_init(struct lane_link *link, const struct lane_link_start *start);
/* pre: nobody uses it. Closes the socket, wipes keys. */
void lane_link_free(struct lane_link *link);

/* The life of the link's thread. returns: why it ended. */
int lane_link_run(struct lane_link *link);

/* Of link_send.c, for the link's thread. *blocked: the socket is full. returns: GB_LANE_OK or why the lane ends. */
int lane_link_send(struct lane_link *link, bool *blocked);
/* What an end of the connection means: `error` is an errno, 0 the end of the stream. */
int lane_link_broken(struct lane_link *link, int error);
/* After lane_link_run, and after the end is known to all: answers a goodbye, if that is possible without waiting, and
 * lets the peer see the end. */
void lane_link_last_words(struct lane_link *link);

/* From any thread: sends what there is without waiting, or wakes the thread that will. */
void lane_link_push(struct lane_link *link);
void lane_link_wake(struct lane_link *link);
/* From any thread: sends this one record, of at most LANE_INLINE_BYTES, past next(), if nobody is sending and nothing
 * is left over. The body is not read after the return. returns: false: it was not sent. */
bool lane_link_slip(struct lane_link *link, const struct lane_head *head, const void *body);
/* Ends it with a reason, at once. */
void lane_link_end(struct lane_link *link, int status);
/* Says goodbye with this reason after what is under way. */
void lane_link_goodbye(struct lane_link *link, int status);

/* Adds the link's counters to `sum`. */
void lane_link_count(struct lane_link *link, struct gb_lane_counters *sum, uint64_t now_ns);

/* Of sock.c: the same socket options for both ends; never fails on what a kernel refuses. */
void lane_sock_tune(int fd, const struct gb_lane_tuning *tuning);
/* Writes 16 bytes; and 64. */
void lane_sock_congestion(int fd, char *name);
/* Numeric address to socket address. returns: its length, 0: not an address. */
uint32_t lane_sock_address(const char *address, uint16_t port, void *storage);
void lane_sock_name(const void *storage, char *text);
/* Loopback, RFC 1918, link-local, unique local; IPv4 inside IPv6 counts as IPv4. */
struct sockaddr_storage;
bool lane_sock_is_lan(const struct sockaddr_storage *address);
/* A TCP socket that is bound and does not block. `address` is numeric, NULL: every address of both families. returns:
 * -1: not an address, or not ours. */
int lane_sock_bind(const char *address, uint16_t port);
/* The port a socket is bound to, or -1. */
int lane_sock_port(int fd);
/* Takes one message of one byte from a SOCK_SEQPACKET socket, with its descriptor, which then does not block; *fd is
 * -1 if it came without one or with several. returns: 1; 0: nothing there; -1: it is over. */
int lane_sock_take(int socket, int *fd);
/* Passes a descriptor on in that way, never waiting. returns: false: full, or over. */
bool lane_sock_give(int socket, int fd);
uint64_t lane_now_ns(void);
uint64_t lane_boot_ms(void);
/* Conditions on the monotonic clock. returns: false: the time has passed. */
void lane_cond_init(pthread_cond_t *condition);
bool lane_wait_until(pthread_cond_t *condition, pthread_mutex_t *lock, uint64_t until_ns);
/* Names for people. */
void lane_describe(const struct lane_aead *aead, int fd, struct gb_lane_counters *counters);
/* Defaults filled in, bounds kept. */
struct gb_lane_tuning lane_tuning_of(const struct gb_lane_tuning *wanted);
/* A thread with all signals blocked and a small stack. */
bool lane_thread_start(pthread_t *thread, void *(*life)(void *), void *argument);
/* For the calling thread: short slices, soon (an express connection's). */
void lane_thread_hurry(void);

#endif
