/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ends.h: the ends of the bench's connections: plain C over TCP, and servers of both kinds in processes of their own.
 */
#ifndef GB_BENCH_FABRIC_ENDS_H
#define GB_BENCH_FABRIC_ENDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "lane.h"

#define MIB ((size_t)1 << 20)
#define SMALL 65536u

/* What both ends know before they begin. */
struct setting {
  size_t bytes;        /* of the source */
  char congestion[16]; /* for all sockets, plain or lane */
  char address[16];    /* IPv4, of the servers */
  int space;           /* network namespace of the servers, -1: this one */
};
extern struct setting setting;

void fatal(const char *what);
double now(void);
/* Seconds of this process so far. */
double cpu(void);
/* Memory that is there, with the same bytes in each process. */
uint8_t *memory(size_t bytes);
bool send_all(int fd, const void *from, size_t count);
bool receive_all(int fd, void *to, size_t count);
struct gb_lane_tuning tuning(void);

/* ---- plain TCP ---- */

/* One order: send `count` bytes from `at`; with `echo`, receive SMALL first. */
struct order {
  uint64_t at, count, echo;
};
int dial(uint16_t port);
/* Reads the whole source over so many connections, each its share, straight into `to`. returns: seconds. */
double plain_read_all(const int *fds, int connections, uint8_t *to);

/* ---- servers ---- */

struct server {
  pid_t pid;
  int control;
  uint16_t port;
};
/* Each listens at the setting's address and has a source of its own. */
struct server server_plain(void);
struct server server_lanes(void);
double server_cpu(const struct server *server);
/* The ticket for lanes of one or two connections. */
struct gb_lane_ticket ticket_of(uint8_t connections);

#endif
