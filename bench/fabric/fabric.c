/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fabric.c: lanes beside plain C over TCP, in interleaved rounds of one run on loopback. Both ends of both are
 * processes of their own, read a source of the full size, land in a destination of the full size, and use the same
 * congestion control. Prints one JSON object with medians, and the ratios of each round.
 *
 * usage: fabric [MiB [rounds]]
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "lane.h"

#define MIB ((size_t)1 << 20)
#define FRAME MIB
#define SMALL 65536u
#define FETCHES 3000
#define BUSY_FETCHES 1500
#define ROUNDS_MAX 31

static size_t bytes_total = 1024 * MIB;
static char congestion[16] = "reno";

static void fatal(const char *what) {
  fprintf(stderr, "fabric: %s (%s)\n", what, strerror(errno));
  exit(1);
}

static double now(void) {
  struct timespec at;
  clock_gettime(CLOCK_MONOTONIC, &at);
  return (double)at.tv_sec + (double)at.tv_nsec * 1e-9;
}

static double cpu(void) {
  struct rusage use;
  getrusage(RUSAGE_SELF, &use);
  return (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) +
         (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) * 1e-6;
}

static uint8_t *memory(size_t bytes) {
  void *mapped = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) fatal("memory");
  for (size_t i = 0; i < bytes; i += 8) *(uint64_t *)((uint8_t *)mapped + i) = i * 0x9E3779B97F4A7C15ull;
  return mapped;
}

/* ---- plain TCP ---- */

static void tune(int fd) {
  int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, congestion, (socklen_t)strlen(congestion));
}

static bool send_all(int fd, const void *from, size_t count) {
  for (size_t at = 0; at < count;) {
    ssize_t sent = send(fd, (const uint8_t *)from + at, count - at, MSG_NOSIGNAL);
    if (sent <= 0) return false;
    at += (size_t)sent;
  }
  return true;
}

static bool receive_all(int fd, void *to, size_t count) {
  for (size_t at = 0; at < count;) {
    ssize_t got = recv(fd, (uint8_t *)to + at, count - at, 0);
    if (got <= 0) return false;
    at += (size_t)got;
  }
  return true;
}

/* One order: send `count` bytes from `at`; with `echo`, receive as many first. */
struct order {
  uint64_t at, count, echo;
};

static const uint8_t *plain_source;

static void *plain_serve(void *argument) {
  int fd = (int)(intptr_t)argument;
  struct order order;
  uint8_t *echoed = memory(SMALL);
  while (receive_all(fd, &order, sizeof order)) {
    if (order.echo && !receive_all(fd, echoed, SMALL)) break;
    for (uint64_t done = 0; done < order.count;) {
      size_t piece = order.count - done < FRAME ? order.count - done : FRAME;
      if (!send_all(fd, plain_source + order.at + done, piece)) break;
      done += piece;
    }
  }
  close(fd);
  return NULL;
}

struct plain {
  int fds[2];
  uint8_t *to;
};

static int dial(uint16_t port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
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
static void *plain_read(void *argument) {
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

static double plain_seconds(struct plain *plain, int connections) {
  pthread_t thread[2];
  struct share shares[2];
  double start = now();
  for (int i = 0; i < connections; i++) {
    size_t count = bytes_total / (size_t)connections;
    shares[i] = (struct share){plain->fds[i], plain->to, (size_t)i * count, count};
    pthread_create(&thread[i], NULL, plain_read, &shares[i]);
  }
  for (int i = 0; i < connections; i++) pthread_join(thread[i], NULL);
  return now() - start;
}

/* ---- the two servers, in one process each; they answer with their CPU seconds when asked ---- */

struct server {
  pid_t pid;
  int control;
  uint16_t port;
};

static double server_cpu(const struct server *server) {
  double used = 0;
  if (!send_all(server->control, "c", 1) || !receive_all(server->control, &used, sizeof used)) fatal("server");
  return used;
}

static void answer_cpu(int control) {
  char asked;
  while (receive_all(control, &asked, 1)) {
    double used = cpu();
    send_all(control, &used, sizeof used);
  }
  _exit(0);
}

static void *plain_welcome(void *argument) {
  int listener = (int)(intptr_t)argument;
  for (;;) {
    int fd = accept(listener, NULL, NULL);
    pthread_t thread;
    if (fd < 0) continue;
    tune(fd);
    pthread_create(&thread, NULL, plain_serve, (void *)(intptr_t)fd);
  }
  return NULL;
}

static void serve_plain(int control) {
  struct sockaddr_in address = {.sin_family = AF_INET};
  socklen_t length = sizeof address;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  plain_source = memory(bytes_total);
  if (bind(listener, (struct sockaddr *)&address, length) != 0 || listen(listener, 8) != 0 ||
      getsockname(listener, (struct sockaddr *)&address, &length) != 0)
    fatal("listen");
  uint16_t port = ntohs(address.sin_port);
  pthread_t thread;
  pthread_create(&thread, NULL, plain_welcome, (void *)(intptr_t)listener);
  send_all(control, &port, sizeof port);
  answer_cpu(control);
}

static struct gb_lane_ticket ticket_of(uint8_t number) {
  struct gb_lane_ticket ticket;
  memset(&ticket, number, sizeof ticket);
  return ticket;
}

static void serve_lanes(int control) {
  struct gb_lane_server_options options = {.size = sizeof options, .fd = -1, .address = "127.0.0.1"};
  gb_lane_server *server;
  uint8_t *source = memory(bytes_total);
  options.tuning.keep_congestion = strcmp(congestion, "reno") != 0;
  if (gb_lane_server_open(&options, &server) != GB_LANE_OK) fatal("lane server");
  for (uint8_t i = 1; i <= 2; i++) {
    struct gb_lane_grant grant = {
        .size = sizeof grant, .connections = i, .ttl_ms = 600000, .ticket = ticket_of(i)};
    struct gb_lane_region region = {
        .size = sizeof region, .id = 1, .rights = GB_LANE_MAY_READ, .bytes = bytes_total, .base = source};
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
    serve(pair[1]);
  }
  close(pair[1]);
  server.control = pair[0];
  if (!receive_all(server.control, &server.port, sizeof server.port)) fatal("server");
  return server;
}

/* ---- figures ---- */

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

static double quantile(const double *values, int count, double part) {
  static double sorted[FETCHES];
  memcpy(sorted, values, (size_t)count * sizeof *values);
  qsort(sorted, (size_t)count, sizeof *sorted, ascending);
  return sorted[(int)(part * (count - 1) + 0.5)];
}

static void print_list(const char *name, const double *values, int count, const char *format) {
  printf("\"%s\":[", name);
  for (int i = 0; i < count; i++) {
    if (i > 0) printf(",");
    printf(format, values[i]);
  }
  printf("],");
}

static gb_lane *open_lane(const struct server *server, uint8_t connections) {
  struct gb_lane_options options = {.size = sizeof options, .connections = connections};
  struct gb_lane_ticket ticket = ticket_of(connections);
  gb_lane *lane;
  options.tuning.keep_congestion = strcmp(congestion, "reno") != 0;
  int status = gb_lane_open("127.0.0.1", server->port, &ticket, &options, &lane);
  if (status != GB_LANE_OK) fatal(gb_lane_status_name(status));
  return lane;
}

static double lane_seconds(gb_lane *lane, uint8_t *to) {
  double begun = now();
  int status = gb_lane_read(lane, 1, 0, to, bytes_total, GB_LANE_NORMAL, 0);
  if (status != GB_LANE_OK) fatal(gb_lane_status_name(status));
  return now() - begun;
}

/* Reads in rounds: plain with one and two connections, lanes with one and two. */
static void bench_bulk(const struct server *tcp, const struct server *lanes, struct plain *plain, gb_lane *one,
                       gb_lane *two, int rounds) {
  double plain_rate[2][ROUNDS_MAX], lane_rate[2][ROUNDS_MAX], ratio[2][ROUNDS_MAX];
  double client_cpu[ROUNDS_MAX], feeder_cpu[ROUNDS_MAX], plain_client_cpu[ROUNDS_MAX], plain_cpu[ROUNDS_MAX];
  double gb = (double)bytes_total / 1e9;
  uint8_t *to = memory(bytes_total);
  plain->to = memory(bytes_total);
  for (int round = -1; round < rounds; round++) { /* the first one warms up */
    int at = round < 0 ? 0 : round;
    for (int k = 0; k < 2; k++) {
      double mine = cpu(), theirs = server_cpu(tcp);
      plain_rate[k][at] = gb / plain_seconds(plain, k + 1);
      if (k == 0) plain_client_cpu[at] = (cpu() - mine) / gb;
      if (k == 0) plain_cpu[at] = (server_cpu(tcp) - theirs) / gb;
      mine = cpu(), theirs = server_cpu(lanes);
      lane_rate[k][at] = gb / lane_seconds(k == 0 ? one : two, to);
      if (k == 0) client_cpu[at] = (cpu() - mine) / gb;
      if (k == 0) feeder_cpu[at] = (server_cpu(lanes) - theirs) / gb;
      ratio[k][at] = lane_rate[k][at] / plain_rate[k][at];
    }
  }
  if (memcmp(to, plain->to, bytes_total) != 0) fatal("the bytes are wrong");
  for (int k = 0; k < 2; k++) {
    printf("\"%s\":{", k == 0 ? "oneConnection" : "twoConnections");
    print_list("plainGBps", plain_rate[k], rounds, "%.2f");
    print_list("laneGBps", lane_rate[k], rounds, "%.2f");
    print_list("ratios", ratio[k], rounds, "%.3f");
    printf("\"ratioMedian\":%.3f,\"wanted\":%.2f},", quantile(ratio[k], rounds, 0.5), k == 0 ? 0.95 : 0.60);
  }
  printf("\"cpuSecondsPerGB\":{\"client\":%.3f,\"server\":%.3f,\"plainClient\":%.3f,\"plainServer\":%.3f,"
         "\"wanted\":0.22},",
         quantile(client_cpu, rounds, 0.5), quantile(feeder_cpu, rounds, 0.5),
         quantile(plain_client_cpu, rounds, 0.5), quantile(plain_cpu, rounds, 0.5));
  munmap(to, bytes_total);
  munmap(plain->to, bytes_total);
}

static double fetch(gb_lane *lane, uint8_t *page, int number) {
  uint64_t at = (uint64_t)number * 7919 * SMALL % (bytes_total - SMALL);
  double begun = now();
  if (gb_lane_read(lane, 1, at, page, SMALL, GB_LANE_DEMAND, 0) != GB_LANE_OK) fatal("fetch");
  return (now() - begun) * 1e6;
}

struct bulk {
  gb_lane *lane;
  uint8_t *to;
  _Atomic bool stop;
  _Atomic uint64_t rounds;
};

static void *bulk_life(void *argument) {
  struct bulk *bulk = argument;
  while (!bulk->stop) {
    if (gb_lane_read(bulk->lane, 1, 0, bulk->to, 64 * MIB, GB_LANE_BACKGROUND, 0) != GB_LANE_OK) fatal("bulk");
    bulk->rounds++;
  }
  return NULL;
}

/* Fetches of 64 KiB: beside echoes and plain fetches of the same size, then during a bulk transfer of the same lane. */
static void bench_fetch(struct plain *plain, gb_lane *lane) {
  static double echo[FETCHES], plain_fetch[FETCHES], idle[FETCHES], busy[BUSY_FETCHES];
  uint8_t *page = memory(SMALL);
  for (int i = 0; i < FETCHES; i++) {
    struct order order = {(uint64_t)i * 7919 * SMALL % (bytes_total - SMALL), SMALL, 1};
    double begun = now();
    send_all(plain->fds[0], &order, sizeof order);
    send_all(plain->fds[0], page, SMALL);
    receive_all(plain->fds[0], page, SMALL);
    echo[i] = (now() - begun) * 1e6;
    order.echo = 0;
    begun = now();
    send_all(plain->fds[0], &order, sizeof order);
    receive_all(plain->fds[0], page, SMALL);
    plain_fetch[i] = (now() - begun) * 1e6;
    idle[i] = fetch(lane, page, i);
  }
  struct bulk bulk = {.lane = lane, .to = memory(64 * MIB)};
  pthread_t thread;
  pthread_create(&thread, NULL, bulk_life, &bulk);
  while (bulk.rounds == 0) usleep(1000);
  uint64_t before = bulk.rounds;
  double begun = now();
  for (int i = 0; i < BUSY_FETCHES; i++) busy[i] = fetch(lane, page, i);
  double rate = (double)(bulk.rounds - before) * 64 * (double)MIB / 1e9 / (now() - begun);
  bulk.stop = true;
  pthread_join(thread, NULL);
  double idle_p50 = quantile(idle, FETCHES, 0.5), idle_p99 = quantile(idle, FETCHES, 0.99);
  double busy_p99 = quantile(busy, BUSY_FETCHES, 0.99), echo_p50 = quantile(echo, FETCHES, 0.5);
  printf("\"fetch64KiB\":{\"echoMedianUs\":%.1f,\"plainFetchMedianUs\":%.1f,\"laneMedianUs\":%.1f,\"laneP99Us\":%.1f,"
         "\"overEcho\":%.2f,\"wanted\":1.5},",
         echo_p50, quantile(plain_fetch, FETCHES, 0.5), idle_p50, idle_p99, idle_p50 / echo_p50);
  printf("\"fetchDuringBulk\":{\"medianUs\":%.1f,\"p99Us\":%.1f,\"bulkGBps\":%.2f,\"p99OverIdleP99\":%.2f,"
         "\"wanted\":4},",
         quantile(busy, BUSY_FETCHES, 0.5), busy_p99, rate, busy_p99 / idle_p99);
  munmap(bulk.to, 64 * MIB);
}

static void print_setting(gb_lane *lane) {
  struct gb_lane_counters counters;
  struct gb_lane_cipher_info infos[4];
  uint32_t count = gb_lane_ciphers(infos, 4);
  gb_lane_counters(lane, &counters);
  printf("\"congestion\":\"%s\",\"recordBytes\":%u,\"cipher\":\"%s by %s\",\"ciphers\":{", counters.congestion,
         counters.record_bytes, counters.cipher, counters.provider);
  for (uint32_t i = 0; i < count; i++)
    printf("%s\"%s\":%u", i > 0 ? "," : "", infos[i].name, infos[i].megabytes_per_second);
  printf("}");
}

int main(int count, char **arguments) {
  int rounds = count > 2 ? atoi(arguments[2]) : 9;
  const char *wanted = getenv("FABRIC_CONGESTION");
  if (count > 1) bytes_total = (size_t)atoi(arguments[1]) * MIB;
  if (wanted != NULL) snprintf(congestion, sizeof congestion, "%s", wanted);
  if (rounds < 1 || rounds > ROUNDS_MAX || bytes_total < 128 * MIB) fatal("usage: fabric [MiB [rounds]]");
  struct server tcp = start(serve_plain), lanes = start(serve_lanes);
  struct plain plain = {.fds = {dial(tcp.port), dial(tcp.port)}};
  gb_lane *one = open_lane(&lanes, 1), *two = open_lane(&lanes, 2);
  printf("{\"mebibytes\":%zu,\"rounds\":%d,", bytes_total / MIB, rounds);
  bench_bulk(&tcp, &lanes, &plain, one, two, rounds);
  bench_fetch(&plain, one);
  print_setting(one);
  printf("}\n");
  gb_lane_close(one, 1000);
  gb_lane_close(two, 1000);
  close(tcp.control);
  close(lanes.control);
  while (wait(NULL) > 0) continue;
  return 0;
}
