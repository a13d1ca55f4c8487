/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lane.h: encrypted lanes, the way of bulk bytes between a program or agent and a feeder, or between two feeders.
 * The one contract of driver/lane (docs/adr/0011-lanes.md has the wire format): plain C, callable through koffi,
 * linked into the shim. A lane is opened with a one-time ticket that the control plane brought to both ends.
 *
 * Threads: every function may be called from every thread, except that a handle must not be used during or after
 * its close. The library runs its own threads with all signals blocked; it never calls back into JavaScript, never
 * prints, and never ends the process. After fork the child's handles answer GB_LANE_FORKED.
 * Structures begin with their size, so that a newer library serves an older caller; zero in a field means the default.
 */
#ifndef GB_LANE_H
#define GB_LANE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GB_LANE_API __attribute__((visibility("default")))

#define GB_LANE_VERSION_MAJOR 1u
#define GB_LANE_VERSION_MINOR 0u

/* Every limit. */
enum {
  GB_LANE_TICKET_ID_BYTES = 16,
  GB_LANE_SECRET_BYTES = 32,
  GB_LANE_CONNECTIONS_MAX = 8,       /* of one lane for bulk; one more is its express connection */
  GB_LANE_TRANSFERS_MAX = 1024,      /* submitted and not yet waited for or reaped, per lane */
  GB_LANE_SEGMENTS_MAX = 4096,       /* of one request */
  GB_LANE_WINDOW_MAX = 64,           /* requests on the wire per connection */
  GB_LANE_REGIONS_MAX = 65536,       /* of one ticket */
  GB_LANE_GRANTS_MAX = 4096,         /* tickets of one server, used or not */
  GB_LANE_STRANGERS_MAX = 64,        /* accepted connections that have not shown a ticket; the oldest makes room */
  GB_LANE_SERVED_MAX = 1024,         /* connections of one server */
  GB_LANE_EVENTS_MAX = 256,          /* kept for gb_lane_server_events; more are counted as dropped */
  GB_LANE_RECORD_BYTES_MIN = 65536,
  GB_LANE_RECORD_BYTES_MAX = 4194304,
  GB_LANE_EXPRESS_BYTES_MAX = 262144, /* larger demand requests go over the bulk connections, first in line */
  GB_LANE_RATE_MIN = 65536,           /* bytes per second; a lower limit is taken as this */
  GB_LANE_DIGEST_BYTES = 32,
  GB_LANE_OFFER_BLOCKS_MAX = 2048,    /* of one gb_lane_offer */
  GB_LANE_OFFER_BLOCKS_AT_ONCE = 16,  /* of one call of a backing's offer */
  GB_LANE_CALLS_MAX = 128,            /* of a connection that the callee has, with those nobody waits for any more */
  GB_LANE_BLOCK_BYTES_MIN = 4096,
  GB_LANE_BLOCK_BYTES_MAX = 67108864,
};

/* Every default. Times are milliseconds. */
enum {
  GB_LANE_RECORD_BYTES = 1048576,
  GB_LANE_WINDOW = 8,
  GB_LANE_OPEN_TIMEOUT_MS = 5000,
  GB_LANE_SILENCE_MS = 2000,   /* nothing heard for this long: the peer is lost */
  GB_LANE_HEARTBEAT_MS = 500,  /* a ping after this much quiet */
  GB_LANE_TICKET_MS = 30000,
  GB_LANE_STRANGER_MS = 2000,  /* a connection shows its ticket within this time */
  GB_LANE_REKEY_MS = 600000,
  GB_LANE_DEADLINE_MS = 30000, /* of a request that names none, and one second more for every 4 MiB */
};
#define GB_LANE_REKEY_BYTES (64ull << 30)

enum gb_lane_status {
  GB_LANE_OK = 0,
  GB_LANE_BUSY = 1,          /* GB_LANE_TRANSFERS_MAX are outstanding: wait for one */
  GB_LANE_INVALID = 2,       /* an argument */
  GB_LANE_NO_MEMORY = 3,     /* memory, threads or descriptors */
  GB_LANE_NO_CRYPTO = 4,     /* OpenSSL's libcrypto is missing or wrong: sudo apt-get install libssl3 */
  GB_LANE_UNREACHABLE = 5,   /* no TCP connection */
  GB_LANE_REFUSED = 6,       /* the server closed without a word: ticket wrong, used, expired or revoked */
  GB_LANE_TIMEOUT = 7,       /* this wait is over; the request goes on */
  GB_LANE_DEADLINE = 8,      /* the request's deadline passed */
  GB_LANE_CANCELED = 9,      /* by gb_lane_cancel */
  GB_LANE_LOST = 10,         /* the peer is silent */
  GB_LANE_DISCONNECTED = 11, /* the connection ended without a goodbye */
  GB_LANE_CLOSED = 12,       /* closed in order by either side */
  GB_LANE_FORGED = 13,       /* a record that is not the next one of this key */
  GB_LANE_PROTOCOL = 14,     /* an authentic record that makes no sense, or another major version */
  GB_LANE_NOT_FOUND = 15,    /* no such region, ticket or request */
  GB_LANE_DENIED = 16,       /* the region lacks this right */
  GB_LANE_RANGE = 17,        /* beyond the region's end */
  GB_LANE_REVOKED = 18,      /* the region or the ticket was taken back meanwhile */
  GB_LANE_FORKED = 19,       /* a handle of the parent process */
  GB_LANE_IO = 20,           /* the region's backing failed */
  GB_LANE_LIMIT = 21,        /* a limit of the server */
  GB_LANE_PENDING = 22,      /* not finished */
};

enum gb_lane_cipher {
  GB_LANE_CIPHER_ANY = 0,
  GB_LANE_CIPHER_AES_256_GCM = 1,
  GB_LANE_CIPHER_CHACHA20_POLY1305 = 2,
};

/* Who computes it; measured once per process. */
enum gb_lane_provider {
  GB_LANE_PROVIDER_ANY = 0,
  GB_LANE_PROVIDER_IPSEC_MB = 1, /* libIPSec_MB.so.1 with VAES and AVX-512 */
  GB_LANE_PROVIDER_OPENSSL = 2,  /* libcrypto.so.3 or .1.1 */
};

/* GB_LANE_CALL is gb_lane_call's own. */
enum gb_lane_operation { GB_LANE_READ = 1, GB_LANE_WRITE = 2, GB_LANE_CALL = 3 };

/* Smaller passes larger, between the records of what is under way. */
enum gb_lane_priority { GB_LANE_DEMAND = 0, GB_LANE_NORMAL = 1, GB_LANE_BACKGROUND = 2 };

enum gb_lane_rights { GB_LANE_MAY_READ = 1, GB_LANE_MAY_WRITE = 2, GB_LANE_MAY_CALL = 4 };

typedef struct gb_lane gb_lane;
typedef struct gb_lane_server gb_lane_server;

/* A ticket: `id` names it in clear, `secret` never travels on a lane. */
struct gb_lane_ticket {
  uint8_t id[GB_LANE_TICKET_ID_BYTES];
  uint8_t secret[GB_LANE_SECRET_BYTES];
};

/* What both ends may tune. */
struct gb_lane_tuning {
  uint32_t record_bytes; /* the smaller of both ends' holds */
  uint32_t cipher;       /* enum gb_lane_cipher: only this one */
  uint32_t provider;     /* enum gb_lane_provider: only this one */
  uint32_t silence_ms;
  uint32_t heartbeat_ms;
  uint32_t rekey_ms;
  uint64_t rekey_bytes; /* sent under one key */
  uint32_t keep_congestion; /* 1: leave the kernel's TCP congestion control instead of reno */
  uint32_t reserved;
};

/* ---- client ---- */

struct gb_lane_options {
  uint32_t size;
  uint32_t connections; /* for bulk: 1 to GB_LANE_CONNECTIONS_MAX; default 1 */
  uint32_t no_express;  /* 1: without a connection of its own for demand requests of GB_LANE_EXPRESS_BYTES_MAX */
  uint32_t window;      /* requests on the wire per connection, at most what the server grants */
  uint32_t open_timeout_ms;
  uint32_t reserved;
  struct gb_lane_tuning tuning;
};

/* A piece of a request: `bytes` at `offset` of the region, from or to `memory`; any size, any alignment. */
struct gb_lane_segment {
  uint64_t offset;
  uint64_t bytes;
  void *memory;
};

struct gb_lane_request {
  uint32_t size;
  uint32_t operation;   /* enum gb_lane_operation */
  uint32_t region;
  uint32_t priority;    /* enum gb_lane_priority */
  uint32_t deadline_ms; /* from now */
  uint32_t notify;      /* 1: ends in gb_lane_reap; 0: in gb_lane_wait */
  uint32_t segment_count;
  uint32_t reserved;
  const struct gb_lane_segment *segments; /* copied */
  uint64_t user;                          /* returned with the completion */
};

struct gb_lane_completion {
  uint64_t id;
  uint64_t user;
  uint64_t bytes; /* moved; all of them if status is GB_LANE_OK */
  uint32_t status;
  uint32_t reserved;
};

struct gb_lane_counters {
  uint64_t bytes_read;    /* payload that arrived from the peer, client: READ; server: WRITE; bodies of calls too */
  uint64_t bytes_written; /* payload sent */
  uint64_t wire_bytes_in;
  uint64_t wire_bytes_out;
  uint64_t records_in;
  uint64_t records_out;
  uint64_t requests; /* on the wire */
  uint64_t requests_failed;
  uint64_t requests_canceled;
  uint64_t rekeys;
  uint64_t retries; /* sends that met a full socket */
  uint64_t round_trip_ns_last;
  uint64_t round_trip_ns_min;
  uint64_t round_trips; /* pings answered */
  uint64_t key_age_ms;  /* the oldest key in use */
  uint64_t heard_ms;    /* since the quietest connection said something */
  uint32_t connections;
  uint32_t outstanding; /* transfers */
  uint32_t state;       /* enum gb_lane_status: GB_LANE_OK while open, else why not */
  uint32_t record_bytes;
  char cipher[24];     /* "AES-256-GCM" */
  char provider[24];   /* "intel-ipsec-mb 1.3.0" */
  char congestion[16]; /* "reno" */
};

/* Opens a lane to `address` (a numeric IPv4 or IPv6 address, with %scope where needed). Blocks up to the options'
 * open_timeout_ms. `options` may be NULL. owns: on success *lane is released by gb_lane_close; the ticket is used up
 * also when opening fails half way. returns: enum gb_lane_status. */
GB_LANE_API int gb_lane_open(const char *address, uint16_t port, const struct gb_lane_ticket *ticket,
                             const struct gb_lane_options *options, gb_lane **lane);

/* Says goodbye, waits up to `timeout_ms` for the peer to do the same, ends the threads and frees everything. What is
 * outstanding ends with GB_LANE_CLOSED, and waits in other threads return first. returns: GB_LANE_OK, or
 * GB_LANE_TIMEOUT if the peer did not answer; the handle is gone in both cases. */
GB_LANE_API int gb_lane_close(gb_lane *lane, uint32_t timeout_ms);

/* Ends a lane, the handle stays: all that is outstanding, and all that is asked from now on, ends with GB_LANE_CLOSED.
 * For a caller whose other threads use the lane, before he waits for them and closes it. */
GB_LANE_API int gb_lane_end(gb_lane *lane);

/* Starts a request. The segments' memory belongs to the lane until the request has ended: a read lands there directly,
 * and until then, or if it fails, its contents are undefined. returns: GB_LANE_OK and *id, or why nothing started. */
GB_LANE_API int gb_lane_submit(gb_lane *lane, const struct gb_lane_request *request, uint64_t *id);

/* Waits for a request without `notify` and forgets it. returns: how it ended; GB_LANE_TIMEOUT if it has not, and it
 * can be waited for again; GB_LANE_NOT_FOUND. One waiter per request. */
GB_LANE_API int gb_lane_wait(gb_lane *lane, uint64_t id, uint32_t timeout_ms);

/* Ends a request early. Its memory is free for other use once it has ended, which is within a few milliseconds,
 * whatever the peer does. A cancelled write may have happened in part. returns: GB_LANE_OK also if it has ended
 * already; GB_LANE_NOT_FOUND. */
GB_LANE_API int gb_lane_cancel(gb_lane *lane, uint64_t id);

/* One request from start to end. */
GB_LANE_API int gb_lane_read(gb_lane *lane, uint32_t region, uint64_t offset, void *memory, uint64_t bytes,
                             uint32_t priority, uint32_t deadline_ms);
GB_LANE_API int gb_lane_write(gb_lane *lane, uint32_t region, uint64_t offset, const void *memory, uint64_t bytes,
                              uint32_t priority, uint32_t deadline_ms);

/* Asks which of `count` blocks of `block_bytes` each, the first at `offset`, need not be written: the server fills
 * those whose content it knows by its SHA-256 (`digests`, 32 bytes each), and sets bit i % 8 of have[i / 8]. A server
 * that cannot do that, or knows none, leaves all bits 0. Blocks: GB_LANE_BLOCK_BYTES_MIN to _MAX, up to
 * GB_LANE_OFFER_BLOCKS_MAX, whole ones of the region, which must be writable. `have` holds (count + 7) / 8 bytes. */
GB_LANE_API int gb_lane_offer(gb_lane *lane, uint32_t region, uint64_t offset, uint64_t block_bytes,
                              const uint8_t *digests, uint32_t count, uint8_t *have, uint32_t deadline_ms);

/* A message to what is behind a region, and its answer. Calls of one lane with the same priority, all of them at most
 * GB_LANE_EXPRESS_BYTES_MAX (or all larger), arrive in the order they were started; otherwise they may overtake.
 * Answers come in any order. Each call that is not answered takes one request of its connection's window: demand calls
 * may fill what the server grants, others what gb_lane_options asks for. */
struct gb_lane_call {
  uint32_t size;
  uint32_t region;
  uint32_t priority;    /* enum gb_lane_priority */
  uint32_t deadline_ms; /* from now; of the answer */
  const void *body;     /* belongs to the lane until the call has ended */
  uint64_t body_bytes;  /* 1 to the agreed record, see gb_lane_counters */
  void *result;         /* likewise; NULL with result_room 0 */
  uint64_t result_room;
  uint64_t *result_bytes; /* set when the call ends with GB_LANE_OK; valid until then. May be NULL */
};

/* Starts a call; ended by gb_lane_wait, or early by gb_lane_cancel (the other side may have seen it, and its answer is
 * dropped). returns: GB_LANE_OK and *id, or why nothing started; GB_LANE_INVALID also for a server that knows no calls.
 * How it ends: GB_LANE_OK; GB_LANE_LIMIT: the answer is larger than result_room or the agreed record, or the callee has
 * GB_LANE_CALLS_MAX; GB_LANE_INVALID: nothing behind this region takes calls; GB_LANE_DENIED; GB_LANE_REVOKED: the
 * region was taken back or replaced before the answer; what the callee has answered instead, GB_LANE_IO if it makes no
 * sense. */
GB_LANE_API int gb_lane_call(gb_lane *lane, const struct gb_lane_call *call, uint64_t *id);

/* A descriptor that is readable while there is something to reap, or the lane has ended. owns: the lane; poll only. */
GB_LANE_API int gb_lane_poll_fd(gb_lane *lane);

/* Takes up to `count` ended requests with `notify`. returns: how many. Never blocks. */
GB_LANE_API uint32_t gb_lane_reap(gb_lane *lane, struct gb_lane_completion *completions, uint32_t count);

/* One round trip over the express connection, or the first. Units: nanoseconds. */
GB_LANE_API int gb_lane_ping(gb_lane *lane, uint32_t timeout_ms, uint64_t *nanoseconds);

/* Never blocks for long. */
GB_LANE_API int gb_lane_counters(gb_lane *lane, struct gb_lane_counters *counters);

/* GB_LANE_OK while it is open, else why it ended. */
GB_LANE_API int gb_lane_state(gb_lane *lane);

/* ---- server ---- */

struct gb_lane_server_options {
  uint32_t size;
  int32_t fd;          /* a bound or listening TCP socket, which the server then owns; -1: `address` and `port` */
  const char *address; /* numeric; NULL: every address */
  uint32_t port;       /* 0: any, see gb_lane_server_port */
  uint32_t connections_max;
  uint32_t strangers_max;
  uint32_t stranger_ms;
  /* A connected AF_UNIX SOCK_SEQPACKET descriptor from which a door's connections arrive (SCM_RIGHTS, one with each
   * message of one byte); the server owns it and then listens on nothing. Its end ends adoption, not the lanes.
   * 0: none. */
  int32_t adopt_fd;
  uint32_t reserved;
  struct gb_lane_tuning tuning;
};

/* A call that waits for its answer. */
struct gb_lane_called;

/* What lies behind a region that is not memory: VRAM, a file. Called by lane threads, several at once, in C only.
 * A call may block for as long as its device needs; a connection waits for it, other connections do not. */
struct gb_lane_backing {
  /* A read of these bytes is queued: begin to fetch them. May be NULL. */
  void (*prepare)(void *context, uint64_t offset, uint64_t bytes);
  /* Memory that holds these bytes (for_write 0) or will receive them (1), `bytes` of it, and *token for release.
   * NULL: failed, the request ends with GB_LANE_IO. */
  void *(*acquire)(void *context, uint64_t offset, uint64_t bytes, int for_write, uint64_t *token);
  /* Gives it back. `commit` is 1 when a write arrived whole and authentic, and must then reach the device before the
   * return, which is 0 or an error that ends the request with GB_LANE_IO. */
  int (*release)(void *context, uint64_t token, void *memory, uint64_t offset, uint64_t bytes, int commit);
  /* Fills those of up to GB_LANE_OFFER_BLOCKS_AT_ONCE blocks whose content is known here by its SHA-256 and sets bit
   * i % 8 of have[i / 8], which is 0. On a thread of the connection's own: it may block, its lane goes on meanwhile.
   * May be NULL; may be all there is with `base`. */
  void (*offer)(void *context, uint64_t offset, uint64_t block_bytes, const uint8_t *digests, uint32_t count,
                uint8_t *have);
  /* A call has arrived whole. `body` is memory of malloc that the callee frees; `called` is answered once with
   * gb_lane_answer, now or later. Must not block, nor take back regions or tickets of this server: who does waits for
   * its return, and for nothing else. After that return a call that is not answered has nothing to do with its region:
   * it is answered GB_LANE_REVOKED when the region goes, and the callee's own answer later only ends `called`.
   * Calls of one connection come in its order. NULL: none are taken. */
  void (*call)(void *context, struct gb_lane_called *called, uint8_t *body, uint64_t bytes);
};

/* Answers a call, from any thread, once, also when nobody waits for it any more: cancelled, late, its region, lane or
 * server gone. `result` is memory of malloc that the library frees, or NULL with 0 bytes; at most the agreed record.
 * status: GB_LANE_OK, or what the client is told instead. Never blocks. A call that is never answered counts for
 * GB_LANE_CALLS_MAX, and its memory stays. */
GB_LANE_API void gb_lane_answer(struct gb_lane_called *called, int status, void *result, uint64_t bytes);

struct gb_lane_region {
  uint32_t size;
  uint32_t id;
  uint32_t rights; /* enum gb_lane_rights */
  uint32_t reserved;
  uint64_t bytes;
  void *base; /* stays valid until unexported or revoked; NULL with acquire, or with GB_LANE_MAY_CALL alone */
  const struct gb_lane_backing *backing; /* likewise */
  void *context;
};

struct gb_lane_grant {
  uint32_t size;
  uint32_t connections; /* at most, without the express connection; default 1 */
  uint32_t ttl_ms;      /* in which the lane must be opened, on a clock that runs during suspend */
  uint32_t window;      /* requests each connection may have outstanding; default GB_LANE_WINDOW_MAX */
  struct gb_lane_ticket ticket;
  uint64_t tag;              /* the caller's, comes back in events */
  uint64_t bytes_per_second; /* of payload, each way, all connections together; 0: no limit */
};

enum gb_lane_event_kind {
  GB_LANE_EVENT_OPENED = 1,  /* the first connection of a ticket */
  GB_LANE_EVENT_CLOSED = 2,  /* its last one; `status` says why */
  GB_LANE_EVENT_REFUSED = 3, /* a stranger; `reason` says why, the stranger is told nothing */
};

enum gb_lane_refusal {
  GB_LANE_REFUSED_SHORT = 1, /* ended or waited before a whole opening frame */
  GB_LANE_REFUSED_FORMAT = 2,
  GB_LANE_REFUSED_VERSION = 3,
  GB_LANE_REFUSED_UNKNOWN = 4, /* no such ticket, or revoked */
  GB_LANE_REFUSED_MAC = 5,
  GB_LANE_REFUSED_USED = 6,
  GB_LANE_REFUSED_EXPIRED = 7,
  GB_LANE_REFUSED_CIPHER = 8, /* nothing in common */
  GB_LANE_REFUSED_LIMIT = 9,
  GB_LANE_REFUSED_ADDRESS = 10, /* of a door: not on the LAN */
  GB_LANE_REFUSED_GONE = 11,    /* of a door: the process behind it is full or has ended */
  GB_LANE_REFUSALS = 12,
};

struct gb_lane_event {
  uint32_t kind;
  uint32_t reason;
  uint32_t status;
  uint32_t version; /* of a refused stranger's opening: major << 16 | minor; 0: it named none */
  uint64_t tag;
  uint8_t ticket[GB_LANE_TICKET_ID_BYTES]; /* as shown; of a refused stranger it may be anything */
  char address[64];                        /* "192.168.1.7:51234", "[fe80::1%eth0]:51234" */
};

struct gb_lane_server_counters {
  uint64_t accepted;
  uint64_t opened; /* lanes */
  uint64_t closed;
  uint64_t refused[GB_LANE_REFUSALS];
  uint64_t events_dropped;
  uint32_t grants;
  uint32_t connections;
  uint32_t strangers;
  uint32_t reserved;
};

/* Listens. owns: on success *server is released by gb_lane_server_close. returns: enum gb_lane_status. */
GB_LANE_API int gb_lane_server_open(const struct gb_lane_server_options *options, gb_lane_server **server);

/* Ends every lane with a goodbye, then everything else. After the return no exported memory is touched. */
GB_LANE_API int gb_lane_server_close(gb_lane_server *server);

/* The TCP port it listens on; -1: a door brings its connections. */
GB_LANE_API int gb_lane_server_port(gb_lane_server *server);

/* Makes a ticket valid: for one lane, opened once, within its time. Export its regions before the peer may use it. */
GB_LANE_API int gb_lane_grant_add(gb_lane_server *server, const struct gb_lane_grant *grant);

/* Takes a ticket back and ends its lane. After the return none of its regions is touched. */
GB_LANE_API int gb_lane_grant_revoke(gb_lane_server *server, const uint8_t *ticket_id);

/* Adds a region, also to an open lane, or replaces the one of the same id. */
GB_LANE_API int gb_lane_export(gb_lane_server *server, const uint8_t *ticket_id,
                               const struct gb_lane_region *region);

/* Removes a region. After the return it is not touched; requests under way end with GB_LANE_REVOKED. */
GB_LANE_API int gb_lane_unexport(gb_lane_server *server, const uint8_t *ticket_id, uint32_t region_id);

/* Changes how many requests each connection of a lane may have outstanding: 1 to slow it down, at most the grant's. */
GB_LANE_API int gb_lane_grant_window(gb_lane_server *server, const uint8_t *ticket_id, uint32_t window);

/* Changes the limit of a lane, from now on; 0: none. Answers are delayed, nothing is kept for later; a demand request
 * of GB_LANE_EXPRESS_BYTES_MAX may go before bulk that has to wait, at the bulk's cost. */
GB_LANE_API int gb_lane_grant_rate(gb_lane_server *server, const uint8_t *ticket_id, uint64_t bytes_per_second);

/* Counters of one ticket's lane; `state` is GB_LANE_PENDING until it is opened. */
GB_LANE_API int gb_lane_grant_counters(gb_lane_server *server, const uint8_t *ticket_id,
                                       struct gb_lane_counters *counters);

GB_LANE_API int gb_lane_server_counters(gb_lane_server *server, struct gb_lane_server_counters *counters);

/* A descriptor that is readable while there are events. owns: the server. */
GB_LANE_API int gb_lane_server_poll_fd(gb_lane_server *server);

/* Takes up to `count` events. returns: how many. Never blocks. */
GB_LANE_API uint32_t gb_lane_server_events(gb_lane_server *server, struct gb_lane_event *events, uint32_t count);

/* ---- both ---- */

/* Anonymous memory for a region of its own, in huge pages where there are some, filled with bytes that no link can make
 * fewer. owns: released by gb_lane_memory_free with the same size. returns: NULL: there is not enough. */
GB_LANE_API void *gb_lane_memory(uint64_t bytes);
GB_LANE_API void gb_lane_memory_free(void *memory, uint64_t bytes);

/* SHA-256, computed in one way for both ends. returns: GB_LANE_OK or GB_LANE_NO_CRYPTO. */
GB_LANE_API int gb_lane_digest(const void *memory, uint64_t bytes, uint8_t *digest);
/* Of `count` blocks that lie behind each other, with up to `threads` threads (0: as many as there are cores, at most 4;
 * the caller's is one of them). */
GB_LANE_API int gb_lane_digests(const void *memory, uint64_t block_bytes, uint32_t count, uint8_t *digests,
                                uint32_t threads);

/* "DISCONNECTED"; never NULL. */
GB_LANE_API const char *gb_lane_status_name(int status);

/* "UNKNOWN" and so on, of enum gb_lane_refusal; never NULL. */
GB_LANE_API const char *gb_lane_refusal_name(int reason);

/* What this process can encrypt with, the choice first. Units: MB per second on one core, blocks of 64 KiB. */
struct gb_lane_cipher_info {
  uint32_t cipher;
  uint32_t provider;
  uint32_t megabytes_per_second;
  uint32_t chosen;
  char name[48];
};
GB_LANE_API uint32_t gb_lane_ciphers(struct gb_lane_cipher_info *infos, uint32_t count);

#define GB_LANE_ASSERT(type, bytes) _Static_assert(sizeof(type) == (bytes), #type)
#ifndef __cplusplus
GB_LANE_ASSERT(struct gb_lane_ticket, 48);
GB_LANE_ASSERT(struct gb_lane_tuning, 40);
GB_LANE_ASSERT(struct gb_lane_options, 64);
GB_LANE_ASSERT(struct gb_lane_segment, 24);
GB_LANE_ASSERT(struct gb_lane_request, 48);
GB_LANE_ASSERT(struct gb_lane_completion, 32);
GB_LANE_ASSERT(struct gb_lane_counters, 208);
GB_LANE_ASSERT(struct gb_lane_server_options, 80);
GB_LANE_ASSERT(struct gb_lane_backing, 40);
GB_LANE_ASSERT(struct gb_lane_call, 56);
GB_LANE_ASSERT(struct gb_lane_region, 48);
GB_LANE_ASSERT(struct gb_lane_grant, 80);
GB_LANE_ASSERT(struct gb_lane_event, 104);
GB_LANE_ASSERT(struct gb_lane_server_counters, 144);
GB_LANE_ASSERT(struct gb_lane_cipher_info, 64);
#endif

#ifdef __cplusplus
}
#endif

#endif
