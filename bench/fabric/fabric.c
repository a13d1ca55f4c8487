/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fabric.c: lanes beside plain C over TCP, in interleaved rounds of one run, on loopback or over a delay link between
 * two network namespaces. Both ends of both are processes of their own, read a source of the full size, land in a
 * destination of the full size, and use the same congestion control. Each round is a ratio of neighbours in time; what
 * counts is the median of the rounds, so that a machine that is busy with other things for a while does not decide.
 * Prints one JSON object.
 *
 * usage: fabric [--link RATE DELAY_ONE_WAY] [MiB [rounds]]
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../test/net/pair.h"
#include "ends.h"

#define ROUNDS_MAX 101
/* Of each kind in a round. */
#define FETCHES 500
#define BUSY_BYTES (64 * MIB)
#define LINK_PROGRAM "build/test/net/delaylink"

static struct {
  struct server tcp, lanes;
  int fds[2]; /* plain */
  gb_lane *lane[2]; /* with one connection for bulk, with two */
  uint8_t *to, *plain_to;
} ends;

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

static double quantile(const double *values, int count, double part) {
  static double sorted[FETCHES > ROUNDS_MAX ? FETCHES : ROUNDS_MAX];
  memcpy(sorted, values, (size_t)count * sizeof *values);
  qsort(sorted, (size_t)count, sizeof *sorted, ascending);
  return sorted[(int)(part * (count - 1) + 0.5)];
}

static double median(const double *values, int count) {
  return quantile(values, count, 0.5);
}

static void print_list(const char *name, const double *values, int count, const char *format) {
  printf("\"%s\":[", name);
  for (int i = 0; i < count; i++) {
    if (i > 0) printf(",");
    printf(format, values[i]);
  }
  printf("],");
}

/* Cores that others than this program's processes were busy on, from one call to the next. */
static double others_busy(void) {
  static double before, own_before, at_before;
  double user, nice, system, idle, wait, irq, soft, steal;
  FILE *file = fopen("/proc/stat", "r");
  if (file == NULL || fscanf(file, "cpu %lf %lf %lf %lf %lf %lf %lf %lf", &user, &nice, &system, &idle, &wait, &irq,
                             &soft, &steal) != 8)
    fatal("/proc/stat");
  fclose(file);
  double busy = (user + nice + system + irq + soft + steal) / (double)sysconf(_SC_CLK_TCK), at = now();
  double own = cpu() + server_cpu(&ends.tcp) + server_cpu(&ends.lanes);
  double others = ((busy - before) - (own - own_before)) / (at - at_before);
  before = busy;
  own_before = own;
  at_before = at;
  return others > 0 ? others : 0;
}

/* ---- bulk ---- */

struct bulk_row {
  double plain_rate, lane_rate, ratio;
  double client, server, plain_client, plain_server; /* CPU seconds per GB */
};

static struct bulk_row measure(int connections) {
  struct bulk_row row;
  double gb = (double)setting.bytes / 1e9;
  gb_lane *lane = ends.lane[connections - 1];
  double mine = cpu(), theirs = server_cpu(&ends.tcp);
  row.plain_rate = gb / plain_read_all(ends.fds, connections, ends.plain_to);
  row.plain_client = (cpu() - mine) / gb;
  row.plain_server = (server_cpu(&ends.tcp) - theirs) / gb;
  mine = cpu(), theirs = server_cpu(&ends.lanes);
  double begun = now();
  int status = gb_lane_read(lane, 1, 0, ends.to, setting.bytes, GB_LANE_NORMAL, 600000);
  if (status != GB_LANE_OK) fatal(gb_lane_status_name(status));
  row.lane_rate = gb / (now() - begun);
  row.client = (cpu() - mine) / gb;
  row.server = (server_cpu(&ends.lanes) - theirs) / gb;
  row.ratio = row.lane_rate / row.plain_rate;
  return row;
}

static void print_bulk(const char *name, const struct bulk_row *rows, int rounds, double wanted) {
  double column[7][ROUNDS_MAX];
  for (int i = 0; i < rounds; i++) {
    const double values[7] = {rows[i].plain_rate, rows[i].lane_rate,    rows[i].ratio,       rows[i].client,
                              rows[i].server,     rows[i].plain_client, rows[i].plain_server};
    for (int k = 0; k < 7; k++) column[k][i] = values[k];
  }
  printf("\"%s\":{", name);
  print_list("plainGBps", column[0], rounds, "%.3f");
  print_list("laneGBps", column[1], rounds, "%.3f");
  print_list("ratios", column[2], rounds, "%.3f");
  printf("\"cpuSecondsPerGB\":{\"client\":%.3f,\"server\":%.3f,\"plainClient\":%.3f,\"plainServer\":%.3f,"
         "\"wanted\":0.22},",
         median(column[3], rounds), median(column[4], rounds), median(column[5], rounds), median(column[6], rounds));
  printf("\"ratioMedian\":%.3f,\"wanted\":%.2f},", median(column[2], rounds), wanted);
}

static void bench_bulk(int rounds, double wanted_one, double wanted_two) {
  static struct bulk_row rows[2][ROUNDS_MAX];
  ends.to = memory(setting.bytes);
  ends.plain_to = memory(setting.bytes);
  for (int k = 0; k < 2; k++) measure(k + 1); /* warms up */
  for (int round = 0; round < rounds; round++) {
    for (int k = 0; k < 2; k++) rows[k][round] = measure(k + 1);
  }
  if (memcmp(ends.to, ends.plain_to, setting.bytes) != 0) fatal("the bytes are wrong");
  print_bulk("oneConnection", rows[0], rounds, wanted_one);
  print_bulk("twoConnections", rows[1], rounds, wanted_two);
  munmap(ends.to, setting.bytes);
  munmap(ends.plain_to, setting.bytes);
}

/* ---- fetches ---- */

static uint64_t place_of(int number) {
  return (uint64_t)number * 7919 * SMALL % (setting.bytes - SMALL);
}

static double fetch(uint8_t *page, int number) {
  double begun = now();
  if (gb_lane_read(ends.lane[0], 1, place_of(number), page, SMALL, GB_LANE_DEMAND, 0) != GB_LANE_OK) fatal("fetch");
  return (now() - begun) * 1e6;
}

/* With `echo` the page goes there and back, without it only comes. */
static double plain_fetch(uint8_t *page, int number, bool echo) {
  struct order order = {place_of(number), SMALL, echo};
  double begun = now();
  if (!send_all(ends.fds[0], &order, sizeof order) || (echo && !send_all(ends.fds[0], page, SMALL)) ||
      !receive_all(ends.fds[0], page, SMALL))
    fatal("plain fetch");
  return (now() - begun) * 1e6;
}

static struct {
  uint8_t *to;
  _Atomic bool stop;
  _Atomic uint64_t rounds;
} bulk;

static void *bulk_life(void *argument) {
  (void)argument;
  while (!bulk.stop) {
    if (gb_lane_read(ends.lane[0], 1, 0, bulk.to, BUSY_BYTES, GB_LANE_BACKGROUND, 600000) != GB_LANE_OK) fatal("bulk");
    bulk.rounds++;
  }
  return NULL;
}

static uint64_t bytes_read(void) {
  struct gb_lane_counters counters;
  gb_lane_counters(ends.lane[0], &counters);
  return counters.bytes_read;
}

struct fetch_row {
  double echo, plain, idle, idle_p99, busy, busy_p99, rate, over_echo, over_idle;
};

/* Echoes, plain fetches and fetches over an idle lane in turn; then fetches while the same lane moves bulk. */
static struct fetch_row measure_fetches(uint8_t *page, int round) {
  static double echo[FETCHES], plain[FETCHES], idle[FETCHES], busy[FETCHES];
  for (int i = 0; i < FETCHES; i++) {
    echo[i] = plain_fetch(page, round * FETCHES + i, true);
    plain[i] = plain_fetch(page, round * FETCHES + i, false);
    idle[i] = fetch(page, round * FETCHES + i);
  }
  pthread_t thread;
  bulk.stop = false;
  bulk.rounds = 0;
  pthread_create(&thread, NULL, bulk_life, NULL);
  while (bulk.rounds == 0) usleep(1000);
  uint64_t before = bytes_read();
  double begun = now();
  for (int i = 0; i < FETCHES; i++) busy[i] = fetch(page, round * FETCHES + i);
  double rate = ((double)(bytes_read() - before) - FETCHES * (double)SMALL) / 1e9 / (now() - begun);
  bulk.stop = true;
  pthread_join(thread, NULL);
  struct fetch_row row = {.echo = median(echo, FETCHES),
                          .plain = median(plain, FETCHES),
                          .idle = median(idle, FETCHES),
                          .idle_p99 = quantile(idle, FETCHES, 0.99),
                          .busy = median(busy, FETCHES),
                          .busy_p99 = quantile(busy, FETCHES, 0.99),
                          .rate = rate};
  row.over_echo = row.idle / row.echo;
  row.over_idle = row.busy_p99 / row.idle_p99;
  return row;
}

static void bench_fetch(int rounds) {
  static double column[9][ROUNDS_MAX];
  static const char *const names[] = {"echoUs",    "plainFetchUs", "idleUs",   "idleP99Us",     "duringBulkUs",
                                      "duringBulkP99Us", "bulkGBps",  "overEcho", "p99OverIdleP99"};
  uint8_t *page = memory(SMALL);
  bulk.to = memory(BUSY_BYTES);
  for (int i = -1; i < rounds; i++) {
    struct fetch_row row = measure_fetches(page, i + 1);
    const double values[9] = {row.echo,     row.plain, row.idle,      row.idle_p99, row.busy,
                              row.busy_p99, row.rate,  row.over_echo, row.over_idle};
    for (int k = 0; k < 9 && i >= 0; k++) column[k][i] = values[k];
  }
  printf("\"fetch64KiB\":{");
  for (int k = 0; k < 9; k++) printf("\"%s\":%.2f,", names[k], median(column[k], rounds));
  print_list("overEchoRounds", column[7], rounds, "%.2f");
  print_list("p99Rounds", column[8], rounds, "%.2f");
  printf("\"wanted\":{\"overEcho\":1.5,\"p99OverIdleP99\":4}},");
  munmap(bulk.to, BUSY_BYTES);
}

/* ---- the run ---- */

static void print_setting(void) {
  struct gb_lane_counters counters;
  struct gb_lane_cipher_info infos[4];
  uint32_t count = gb_lane_ciphers(infos, 4);
  gb_lane_counters(ends.lane[0], &counters);
  printf("\"congestion\":\"%s\",\"recordBytes\":%u,\"cipher\":\"%s by %s\",\"ciphers\":{", counters.congestion,
         counters.record_bytes, counters.cipher, counters.provider);
  for (uint32_t i = 0; i < count; i++)
    printf("%s\"%s\":%u", i > 0 ? "," : "", infos[i].name, infos[i].megabytes_per_second);
  printf("}");
}

static gb_lane *open_lane(uint8_t connections) {
  struct gb_lane_options options = {.size = sizeof options, .connections = connections, .tuning = tuning()};
  struct gb_lane_ticket ticket = ticket_of(connections);
  gb_lane *lane;
  int status = gb_lane_open(setting.address, ends.lanes.port, &ticket, &options, &lane);
  if (status != GB_LANE_OK) fatal(gb_lane_status_name(status));
  return lane;
}

/* Two namespaces with the link between them: servers go into the one, this program into the other. */
static void enter_link(struct pair *pair, const char *rate, const char *delay) {
  char line[128];
  pair_start(pair, LINK_PROGRAM);
  snprintf(line, sizeof line, "set rate %s delay %s", rate, delay);
  const char *answer = pair_ask(pair, line);
  if (strcmp(answer, "ok") != 0) fatal(answer);
  snprintf(setting.address, sizeof setting.address, "10.78.0.2");
  setting.space = pair->space[1];
  if (setns(pair->space[0], CLONE_NEWNET) != 0) fatal("enter a namespace");
}

int main(int count, char **arguments) {
  const char *congestion = getenv("FABRIC_CONGESTION");
  const bool link = count > 3 && strcmp(arguments[1], "--link") == 0;
  const char *rate = link ? arguments[2] : "0", *delay = link ? arguments[3] : "0";
  struct pair pair;
  if (link) count -= 3, arguments += 3;
  int rounds = count > 2 ? atoi(arguments[2]) : 15;
  if (count > 1) setting.bytes = (size_t)atoi(arguments[1]) * MIB;
  if (congestion != NULL) snprintf(setting.congestion, sizeof setting.congestion, "%s", congestion);
  if (rounds < 1 || rounds > ROUNDS_MAX || setting.bytes < 128 * MIB)
    fatal("usage: fabric [--link RATE DELAY] [MiB [rounds]]");
  if (link) enter_link(&pair, rate, delay);
  ends.tcp = server_plain();
  ends.lanes = server_lanes();
  for (int i = 0; i < 2; i++) ends.fds[i] = dial(ends.tcp.port);
  for (uint8_t i = 0; i < 2; i++) ends.lane[i] = open_lane((uint8_t)(i + 1));
  others_busy();
  printf("{\"mebibytes\":%zu,\"rounds\":%d,\"link\":{\"rate\":\"%s\",\"delayOneWay\":\"%s\"},", setting.bytes / MIB,
         rounds, rate, delay);
  double wanted = !link ? 0.95 : strcmp(rate, "1Gbit") == 0 ? 0.97 : 0.95;
  bench_bulk(rounds, wanted, link ? wanted : 0.60);
  if (!link) bench_fetch(rounds);
  print_setting();
  printf(",\"coresBusyWithOthers\":%.2f}\n", others_busy());
  for (int i = 0; i < 2; i++) gb_lane_close(ends.lane[i], 1000);
  close(ends.tcp.control);
  close(ends.lanes.control);
  waitpid(ends.tcp.pid, NULL, 0);
  waitpid(ends.lanes.pid, NULL, 0);
  if (link) pair_stop(&pair);
  return 0;
}
