/* SPDX-License-Identifier: Apache-2.0 */
/*
 * harness.h: what the lane tests share: a server in a process of its own that does what it is told, its memory visible
 * here as well; a relay that edits the bytes between two ends; a peer that speaks the wire format by hand.
 */
#ifndef GB_LANE_HARNESS_H
#define GB_LANE_HARNESS_H

#include <signal.h>
#include <sys/types.h>

#include "../check.h"
#include "lane.h"
#include "wire.h"

#define MIB ((size_t)1 << 20)
#define REGION 7u

/* ---- a server ---- */

struct host {
  pid_t pid;
  int control;
  uint16_t port;
  uint8_t *memory; /* of region REGION of every ticket, shared with the process */
  size_t bytes;
};

/* A server on `address` that exports `bytes` of memory; `tuning` may be NULL. Ends the program if that fails. */
struct host host_start(const char *address, size_t bytes, const struct gb_lane_tuning *tuning);
/* One behind a door: its connections come from `adopt_fd`, which it takes over; `port` is for the caller to fill in. */
struct host host_start_behind(int adopt_fd, size_t bytes, const struct gb_lane_tuning *tuning);
/* Closes it in order. returns: its exit status, 0: no memory, thread or descriptor was left. */
int host_end(struct host *host);
#define host_stop(host) CHECK_EQUAL(host_end(host), 0)
/* kill -9 or another signal; reaps it when it is deadly. */
void host_signal(struct host *host, int signal);

/* A new ticket with the region exported (rights 0: no region). */
struct gb_lane_ticket host_grant(struct host *host, uint32_t connections, uint32_t ttl_ms, uint32_t window,
                                 uint32_t rights);
int host_export(struct host *host, const struct gb_lane_ticket *ticket, uint32_t region, uint64_t offset,
                uint64_t bytes, uint32_t rights);
/* A region whose backing takes `delay_us` per call and fails from the `fail_from`-th acquire on (0: never). */
int host_export_backed(struct host *host, const struct gb_lane_ticket *ticket, uint32_t region,
                       uint32_t delay_us, uint32_t fail_from);
/* A region of the first `bytes` whose content cache knows the blocks of `block_bytes` that lie behind them in the
 * memory now; each call of it takes `delay_us`. */
int host_export_offering(struct host *host, const struct gb_lane_ticket *ticket, uint32_t region, uint64_t bytes,
                         uint64_t block_bytes, uint32_t delay_us);
int host_unexport(struct host *host, const struct gb_lane_ticket *ticket, uint32_t region);
int host_revoke(struct host *host, const struct gb_lane_ticket *ticket);
int host_window(struct host *host, const struct gb_lane_ticket *ticket, uint32_t window);
int host_rate(struct host *host, const struct gb_lane_ticket *ticket, uint64_t bytes_per_second);
struct gb_lane_counters host_counters(struct host *host, const struct gb_lane_ticket *ticket);
struct gb_lane_server_counters host_server_counters(struct host *host);
/* How the lane of a ticket ended, from the server's events; waits up to two seconds. -1: no such event. */
int host_ended(struct host *host, const struct gb_lane_ticket *ticket);
/* Calls of the backing since the last question. */
struct backing_calls {
  uint32_t prepared, acquired, released, committed;
};
struct backing_calls host_backing(struct host *host);

/* A lane over loopback, or the end of the test. */
gb_lane *lane_to(const struct host *host, const struct gb_lane_ticket *ticket, uint32_t connections,
                 const struct gb_lane_tuning *tuning);

/* ---- a relay ---- */

/* Bytes of one direction of one connection as they pass: may change them, or say how many of them go on. Fewer than
 * came: the relay then closes both ends. */
typedef size_t (*relay_edit)(void *context, int connection, int to_server, uint64_t offset, uint8_t *bytes,
                             size_t count);
struct relay;
struct relay *relay_start(uint16_t to_port, relay_edit edit, void *context, uint16_t *port);
/* Stops passing anything on, without closing: a cable that was pulled. */
void relay_freeze(struct relay *relay);
void relay_stop(struct relay *relay);

/* ---- a peer by hand ---- */

struct peer {
  int fd;
  struct lane_key seal, open;
  uint32_t record_bytes, window;
};

/* TCP to a port of loopback, or -1. */
int dial(uint16_t port);
/* Opens connection `index` as a client does. returns: false: refused. */
bool peer_open(struct peer *peer, uint16_t port, const struct gb_lane_ticket *ticket, uint8_t index);
/* The same, offering features. */
bool peer_open_with(struct peer *peer, uint16_t port, const struct gb_lane_ticket *ticket, uint8_t index,
                    uint32_t features);
void peer_close(struct peer *peer);
bool peer_say(struct peer *peer, const struct lane_head *head, const void *body);
/* Waits for the next record that is neither PING nor CREDIT, for two seconds. returns: false: the connection ended. */
bool peer_hear(struct peer *peer, struct lane_head *head, void *body);
bool send_whole(int fd, const void *bytes, size_t count);
/* returns: how many came before the end or two seconds passed. */
size_t receive_whole(int fd, void *bytes, size_t count);

/* ---- small things ---- */

uint64_t now_ms(void);
void sleep_ms(uint32_t milliseconds);
uint64_t random_next(uint64_t *state);
/* A byte that is its own for each offset and seed. */
uint8_t pattern(uint64_t seed, uint64_t offset);
void fill_pattern(uint8_t *memory, uint64_t seed, uint64_t offset, size_t bytes);
bool is_pattern(const uint8_t *memory, uint64_t seed, uint64_t offset, size_t bytes);
int open_descriptors(void);
/* Threads of this process, once those that were joined are gone. */
int threads(void);

#endif
