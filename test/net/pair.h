/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pair.h: two network namespaces joined by the delay link, for C programs. Side 0 is 10.78.0.1 and fd78::1, side 1
 * 10.78.0.2 and fd78::2. Without root they lie in a user namespace. Everything ends with the process.
 */
#ifndef GB_TEST_NET_PAIR_H
#define GB_TEST_NET_PAIR_H

#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/types.h>

struct pair {
  pid_t holder[2], link;
  int space[2]; /* descriptors of the namespaces */
  FILE *commands, *answers;
  char answer[1024];
};

/* Starts the program `link` between two new namespaces. pre: one thread. Ends the program when that cannot be. */
void pair_start(struct pair *pair, const char *link);
void pair_stop(struct pair *pair);
/* Asks the link one line. returns: its answer, good until the next. */
const char *pair_ask(struct pair *pair, const char *line);
/* returns: a socket of one side, bound to `port` unless that is 0. owns: the caller closes it. */
int pair_socket(struct pair *pair, int side, int family, int type, uint16_t port);
/* The address of a side. */
void pair_address(int side, int family, uint16_t port, struct sockaddr_storage *address);

#endif
