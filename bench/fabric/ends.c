/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ends.c: see ends.h.
 */
#include "ends.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define FRAME MIB

struct setting setting = {
    .bytes = 1024 * MIB, .congestion = "reno", .address = "127.0.0.1", .space = -1};

void fatal(const char *what) {
  fprintf(stderr, "fabric: %s (%s)\n", what, strerror(errno));
  exit(1);
}

double now(void) {
  struct timespec at;
  clock_gettime(CLOCK_MONOTONIC, &at);
  return (double)at.tv_sec + (double)at.tv_nsec * 1e-9;
}

double cpu(void) {
  struct rusage use;
  getrusage(RUSAGE_SELF, &use);
  return (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) +
         (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) * 1e-6;
}

uint8_t *memory(size_t bytes) {
  void *mapped = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) fatal("memory");
  for (size_t i = 0; i < bytes; i += 8) *(uint64_t *)((uint8_t *)mapped + i) = i * 0x9E3779B97F4A7C15ull;
  return mapped;
}

struct gb_lane_tuning tuning(void) {
  return (struct gb_lane_tuning){.keep_congestion = strcmp(setting.congestion, "reno") != 0};
}

/* ---- plain TCP ---- */

static void tune(int fd) {
  int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, setting.congestion, (socklen_t)strlen(setting.congestion));
}

bool send_all(int fd, const void *from, size_t count) {
  for (size_t at = 0; at < count;) {
    ssize_t sent = send(fd, (const uint8_t *)from + at, count - at, MSG_NOSIGNAL);
    if (sent <= 0) return false;
    at += (size_t)sent;
  }
  return true;
}

bool receive_all(int fd, void *to, size_t count) {
  for (size_t at = 0; at < count;) {
    ssize_t got = recv(fd, (uint8_t *)to + at, count - at, 0);
    if (got <= 0) return false;
    at += (size_t)got;
  }
  return true;
}

static struct sockaddr_in address_of(uint16_t port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
  inet_pton(AF_INET, setting.address, &address.sin_addr);
  return address;
}

int dial(uint16_t port) {
  struct sockaddr_in address = address_of(port);
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  tune(fd);
  if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) fatal("connect");
  return fd;
}

struct share {
  int fd;
  uint8_t *to;
  size_t at, count;
};

/* Frames of 1 MiB straight into the destination. */
static void *read_share(void *argument) {
  struct share *share = argument;
  struct order order = {share->at, share->count, 0};
  if (!send_all(share->fd, &order, sizeof order)) fatal("plain order");
  for (size_t done = 0; done < share->count;) {
    size_t piece = share->count - done < FRAME ? share->count - done : FRAME;
    if (!receive_all(share->fd, share->to + share->at + done, piece)) fatal("plain read");
    done += piece;
  }
  return NULL;
}

double plain_read_all(const int *fds, int connections, uint8_t *to) {
  pthread_t threads[2];
  struct share shares[2];
  double start = now();
  for (int i = 0; i < connections; i++) {
    size_t count = setting.bytes / (size_t)connections;
    shares[i] = (struct share){fds[i], to, (size_t)i * count, count};
    pthread_create(&threads[i], NULL, read_share, &shares[i]);
  }
  for (int i = 0; i < connections; i++) pthread_join(threads[i], NULL);
  return now() - start;
}

/* ---- servers ---- */

static const uint8_t *source;

static void *serve_one(void *argument) {
  int fd = (int)(intptr_t)argument;
  struct order order;
  uint8_t *echoed = memory(SMALL);
  while (receive_all(fd, &order, sizeof order)) {
    if (order.echo && !receive_all(fd, echoed, SMALL)) break;
    for (uint64_t done = 0; done < order.count;) {
      size_t piece = order.count - done < FRAME ? order.count - done : FRAME;
      if (!send_all(fd, source + order.at + done, piece)) break;
      done += piece;
    }
  }
  close(fd);
  return NULL;
}

static void *welcome(void *argument) {
  int listener = (int)(intptr_t)argument;
  for (;;) {
    int fd = accept(listener, NULL, NULL);
    pthread_t thread;
    if (fd < 0) continue;
    tune(fd);
    pthread_create(&thread, NULL, serve_one, (void *)(intptr_t)fd);
  }
  return NULL;
}

/* Answers with the CPU seconds used so far, until nobody asks any more. */
static void answer_cpu(int control) {
  char asked;
  while (receive_all(control, &asked, 1)) {
    double used = cpu();
    send_all(control, &used, sizeof used);
  }
  _exit(0);
}

static void serve_plain(int control) {
  struct sockaddr_in address = address_of(0);
  socklen_t length = sizeof address;
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  if (bind(listener, (struct sockaddr *)&address, length) != 0 || listen(listener, 8) != 0 ||
      getsockname(listener, (struct sockaddr *)&address, &length) != 0)
    fatal("listen");
  uint16_t port = ntohs(address.sin_port);
  pthread_t thread;
  pthread_create(&thread, NULL, welcome, (void *)(intptr_t)listener);
  send_all(control, &port, sizeof port);
  answer_cpu(control);
}

struct gb_lane_ticket ticket_of(uint8_t connections) {
  struct gb_lane_ticket ticket;
  memset(&ticket, connections, sizeof ticket);
  return ticket;
}

static void serve_lanes(int control) {
  struct gb_lane_server_options options = {
      .size = sizeof options, .fd = -1, .address = setting.address, .tuning = tuning()};
  gb_lane_server *server;
  if (gb_lane_server_open(&options, &server) != GB_LANE_OK) fatal("lane server");
  for (uint8_t i = 1; i <= 2; i++) {
    struct gb_lane_grant grant = {
        .size = sizeof grant, .connections = i, .ttl_ms = 600000, .ticket = ticket_of(i)};
    struct gb_lane_region region = {.size = sizeof region,
                                    .id = 1,
                                    .rights = GB_LANE_MAY_READ,
                                    .bytes = setting.bytes,
                                    .base = (void *)(uintptr_t)source};
    if (gb_lane_grant_add(server, &grant) != GB_LANE_OK ||
        gb_lane_export(server, grant.ticket.id, &region) != GB_LANE_OK)
      fatal("grant");
  }
  uint16_t port = (uint16_t)gb_lane_server_port(server);
  send_all(control, &port, sizeof port);
  answer_cpu(control);
}

static struct server start(void (*serve)(int)) {
  int pair[2];
  struct server server;
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) fatal("socketpair");
  fflush(NULL);
  server.pid = fork();
  if (server.pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    close(pair[0]);
    if (setting.space >= 0 && setns(setting.space, CLONE_NEWNET) != 0) fatal("enter a namespace");
    source = memory(setting.bytes);
    serve(pair[1]);
  }
  close(pair[1]);
  server.control = pair[0];
  if (!receive_all(server.control, &server.port, sizeof server.port)) fatal("server");
  return server;
}

struct server server_plain(void) {
  return start(serve_plain);
}

struct server server_lanes(void) {
  return start(serve_lanes);
}

double server_cpu(const struct server *server) {
  double used = 0;
  if (!send_all(server->control, "c", 1) || !receive_all(server->control, &used, sizeof used)) fatal("server");
  return used;
}
