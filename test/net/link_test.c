/* SPDX-License-Identifier: Apache-2.0 */
/* link_test.c: what the delay link does, measured with plain sockets between two network namespaces. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../c/check.h"
#include "pair.h"

#define MIB ((size_t)1 << 20)

static struct pair pair;
static uint16_t next_port = 4000;

static double now_ms(void) {
  struct timespec at;
  clock_gettime(CLOCK_MONOTONIC, &at);
  return (double)at.tv_sec * 1e3 + (double)at.tv_nsec * 1e-6;
}

static void sleep_for_ms(int ms) { poll(NULL, 0, ms); }

static struct counts {
  unsigned long long packets, lost, queue_dropped, cut_dropped, overflowed, write_failed, queue_peak;
} counts(int side) {
  const char *text = pair_ask(&pair, "stats"), *at = strstr(text, side == 0 ? "\"a\":" : "\"b\":");
  struct counts got = {0};
  unsigned long long bytes;
  if (at == NULL || sscanf(at + 4,
                           "{\"packets\":%llu,\"bytes\":%llu,\"lost\":%llu,\"queueDropped\":%llu,\"cutDropped\":%llu,"
                           "\"overflowed\":%llu,\"writeFailed\":%llu,\"queuePeakBytes\":%llu}",
                           &got.packets, &bytes, &got.lost, &got.queue_dropped, &got.cut_dropped, &got.overflowed,
                           &got.write_failed, &got.queue_peak) != 8) {
    fprintf(stderr, "no counters in: %s\n", text);
    exit(1);
  }
  return got;
}

static void plain(void) {
  CHECK(strcmp(pair_ask(&pair, "set rate 0 delay 0 jitter 0 loss 0 queue 0 reorder 0"), "ok") == 0);
  CHECK(strcmp(pair_ask(&pair, "join"), "ok") == 0);
}

static int ascending(const void *a, const void *b) {
  const double left = *(const double *)a, right = *(const double *)b;
  return (left > right) - (left < right);
}

/* ---- datagrams ---- */

struct datagrams {
  int a, b;
  struct sockaddr_storage to_a, to_b;
};

static struct datagrams datagrams_open(int family) {
  const int room = 8 << 20;
  const uint16_t port = next_port++;
  struct datagrams sockets = {.a = pair_socket(&pair, 0, family, SOCK_DGRAM, port),
                              .b = pair_socket(&pair, 1, family, SOCK_DGRAM, port)};
  pair_address(0, family, port, &sockets.to_a);
  pair_address(1, family, port, &sockets.to_b);
  setsockopt(sockets.a, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
  setsockopt(sockets.b, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
  return sockets;
}

static void datagrams_close(const struct datagrams *sockets) {
  close(sockets->a);
  close(sockets->b);
}

static socklen_t length_of(const struct sockaddr_storage *address) {
  return address->ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
}

static void send_number(int fd, const struct sockaddr_storage *to, uint32_t number, size_t bytes) {
  uint8_t packet[2048] = {0};
  memcpy(packet, &number, sizeof number);
  CHECK(sendto(fd, packet, bytes, 0, (const struct sockaddr *)to, length_of(to)) == (ssize_t)bytes);
}

/* returns: whether a datagram came in time; its number. */
static bool receive_number(int fd, int timeout_ms, uint32_t *number) {
  struct pollfd wait = {.fd = fd, .events = POLLIN};
  uint8_t packet[2048];
  if (poll(&wait, 1, timeout_ms) != 1) return false;
  if (recv(fd, packet, sizeof packet, 0) < (ssize_t)sizeof *number) return false;
  memcpy(number, packet, sizeof *number);
  return true;
}

static double there_and_back_ms(const struct datagrams *sockets) {
  double best = 1e9;
  for (uint32_t i = 0; i < 10; i++) {
    uint32_t number = i;
    const double start = now_ms();
    send_number(sockets->a, &sockets->to_b, i, 64);
    if (!receive_number(sockets->b, 2000, &number)) return 1e9;
    send_number(sockets->b, &sockets->to_a, number, 64);
    if (!receive_number(sockets->a, 2000, &number) || number != i) return 1e9;
    if (now_ms() - start < best) best = now_ms() - start;
  }
  return best;
}

static void test_delay_is_what_was_asked(void) {
  static const struct {
    const char *command;
    double least, most;
  } cases[] = {{"set delay 0", 0, 2}, {"set delay 500us", 1, 3}, {"set delay 20ms", 40, 44}};
  plain();
  const struct datagrams sockets = datagrams_open(AF_INET), sixth = datagrams_open(AF_INET6);
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    pair_ask(&pair, cases[i].command);
    const double ms = there_and_back_ms(&sockets), ms6 = there_and_back_ms(&sixth);
    fprintf(stderr, "     %s: %.3f ms there and back, IPv6 %.3f ms\n", cases[i].command, ms, ms6);
    CHECK(ms >= cases[i].least && ms <= cases[i].most);
    CHECK(ms6 >= cases[i].least && ms6 <= cases[i].most);
  }
  datagrams_close(&sockets);
  datagrams_close(&sixth);
}

static void test_loss_is_what_was_asked_and_counted(void) {
  enum { COUNT = 20000 };
  plain();
  pair_ask(&pair, "set a loss 5%");
  const struct datagrams sockets = datagrams_open(AF_INET);
  const struct counts before = counts(0);
  uint32_t got = 0, number;
  for (uint32_t i = 0; i < COUNT; i++) {
    send_number(sockets.a, &sockets.to_b, i, 100);
    while (receive_number(sockets.b, 0, &number)) got++;
  }
  while (receive_number(sockets.b, 300, &number)) got++;
  const struct counts after = counts(0);
  fprintf(stderr, "     %u of %u arrived, %llu lost\n", got, COUNT, after.lost - before.lost);
  CHECK_EQUAL(got + (after.lost - before.lost), COUNT);
  CHECK(after.lost - before.lost > COUNT * 0.05 * 0.8 && after.lost - before.lost < COUNT * 0.05 * 1.2);
  datagrams_close(&sockets);
}

static void test_queue_holds_what_was_asked(void) {
  plain();
  pair_ask(&pair, "set a rate 1Mbit queue 21320");
  /* 100 packets of 1000 and 66 bytes at once: 20 wait for the line. */
  const struct datagrams sockets = datagrams_open(AF_INET);
  const struct counts before = counts(0);
  uint32_t got = 0, number;
  const double start = now_ms();
  for (uint32_t i = 0; i < 100; i++) send_number(sockets.a, &sockets.to_b, i, 1000);
  const double left_meanwhile = (now_ms() - start) * 1e6 / 8e3 / 1066;
  while (receive_number(sockets.b, 300, &number)) got++;
  const struct counts after = counts(0);
  CHECK_EQUAL(got + (after.queue_dropped - before.queue_dropped), 100);
  CHECK(got >= 18 && got <= 24 + left_meanwhile);
  CHECK(after.queue_peak > 0);
  datagrams_close(&sockets);
}

static void test_jitter_keeps_the_order_unless_asked(void) {
  plain();
  const struct datagrams sockets = datagrams_open(AF_INET);
  for (int reorder = 0; reorder < 2; reorder++) {
    char line[64];
    snprintf(line, sizeof line, "set a delay 5ms jitter 60ms reorder %d", reorder);
    pair_ask(&pair, line);
    double start[60], took[61];
    uint32_t passed = 0, last = 0, got = 0, sent = 0, number;
    for (double idle = now_ms(); now_ms() - idle < 200;) {
      if (sent < 60 && (sent == 0 || now_ms() - start[sent - 1] >= 5)) {
        idle = start[sent] = now_ms();
        send_number(sockets.a, &sockets.to_b, sent++, 100);
      }
      if (!receive_number(sockets.b, 1, &number)) continue;
      took[got++] = now_ms() - start[number];
      passed += got > 1 && number < last;
      last = number;
    }
    CHECK_EQUAL(got, 60);
    qsort(took, got, sizeof *took, ascending);
    fprintf(stderr, "     reorder %d: %.1f, %.1f, %.1f ms (least, median, most), %u came after later ones\n", reorder,
            took[0], took[30], took[59], passed);
    CHECK(took[0] >= 5 && took[30] > 20 && took[30] < 65 && took[59] > 40);
    CHECK(reorder ? passed > 0 : passed == 0);
  }
  datagrams_close(&sockets);
}

/* ---- cuts ---- */

static bool passes(int from, const struct sockaddr_storage *address, int to) {
  uint32_t number = 0;
  send_number(from, address, 7, 64);
  return receive_number(to, 300, &number) && number == 7;
}

static void test_cut_lets_nothing_pass_and_half_open_one_direction(void) {
  plain();
  const struct datagrams sockets = datagrams_open(AF_INET);
  static const struct {
    const char *command;
    bool a, b; /* what a, b sends arrives */
  } cases[] = {{"cut", false, false}, {"join", true, true}, {"cut a", false, true}, {"join a", true, true},
               {"cut b", true, false}, {"join b", true, true}};
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    CHECK(strcmp(pair_ask(&pair, cases[i].command), "ok") == 0);
    const struct counts before[2] = {counts(0), counts(1)};
    CHECK_EQUAL(passes(sockets.a, &sockets.to_b, sockets.b), cases[i].a);
    CHECK_EQUAL(passes(sockets.b, &sockets.to_a, sockets.a), cases[i].b);
    /* IPv6 says a word of its own now and then. */
    CHECK_EQUAL(counts(0).cut_dropped > before[0].cut_dropped, !cases[i].a);
    CHECK_EQUAL(counts(1).cut_dropped > before[1].cut_dropped, !cases[i].b);
  }
  /* What is under way when the line is cut does not arrive either. */
  pair_ask(&pair, "set a delay 200ms");
  send_number(sockets.a, &sockets.to_b, 1, 64);
  sleep_for_ms(50);
  pair_ask(&pair, "cut");
  uint32_t number;
  CHECK(!receive_number(sockets.b, 400, &number));
  datagrams_close(&sockets);
}

/* ---- streams ---- */

struct stream {
  int fd;
  const uint8_t *want;
  size_t bytes, wrong;
  double seconds;
};

static void *stream_read(void *argument) {
  struct stream *stream = argument;
  static uint8_t buffer[1 << 18];
  const double start = now_ms();
  for (size_t at = 0; at < stream->bytes;) {
    const ssize_t got = recv(stream->fd, buffer, sizeof buffer, 0);
    if (got <= 0 || at + (size_t)got > stream->bytes) break;
    stream->wrong += memcmp(buffer, stream->want + at, (size_t)got) != 0;
    at += (size_t)got;
    stream->seconds = (now_ms() - start) * 1e-3;
    if (at == stream->bytes) return NULL;
  }
  stream->wrong++;
  return NULL;
}

/* Sends `bytes` from a to b. returns: the rate in bit/s; 0 when they came wrong or not at all. */
static double stream_rate(int family, size_t bytes) {
  const uint16_t port = next_port++;
  struct sockaddr_storage to;
  const struct timeval limit = {.tv_sec = 30};
  const int listener = pair_socket(&pair, 1, family, SOCK_STREAM, port);
  const int client = pair_socket(&pair, 0, family, SOCK_STREAM, 0);
  pair_address(1, family, port, &to);
  uint8_t *from = malloc(bytes);
  for (size_t i = 0; i < bytes; i++) from[i] = (uint8_t)(i * 0x9E3779B97F4A7C15ull >> 56);
  struct stream stream = {.want = from, .bytes = bytes};
  if (listen(listener, 1) != 0 || connect(client, (struct sockaddr *)&to, length_of(&to)) != 0) return 0;
  stream.fd = accept(listener, NULL, NULL);
  setsockopt(stream.fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  setsockopt(client, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  pthread_t reader;
  pthread_create(&reader, NULL, stream_read, &stream);
  for (size_t at = 0; at < bytes;) {
    const ssize_t sent = send(client, from + at, bytes - at, MSG_NOSIGNAL);
    if (sent <= 0) break;
    at += (size_t)sent;
  }
  shutdown(client, SHUT_WR);
  pthread_join(reader, NULL);
  close(stream.fd);
  close(client);
  close(listener);
  free(from);
  CHECK_EQUAL(stream.wrong, 0);
  return stream.wrong == 0 ? (double)bytes * 8 / stream.seconds : 0;
}

static void test_rate_is_what_was_asked(void) {
  /* Of each 1538 bytes on the wire 1448 are the stream's; IPv6 has 20 less. */
  static const struct {
    const char *command;
    double rate;
    size_t bytes;
  } cases[] = {{"set rate 50Mbit delay 1ms", 50e6, 6 * MIB}, {"set rate 1Gbit delay 500us", 1e9, 64 * MIB}};
  plain();
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    pair_ask(&pair, cases[i].command);
    const double rate = stream_rate(AF_INET, cases[i].bytes), most = cases[i].rate * 1448 / 1538;
    fprintf(stderr, "     %s: %.0f Mbit/s of the stream, %.0f are possible\n", cases[i].command,
            rate / 1e6, most / 1e6);
    /* The burst that the queue holds comes at once; a busy machine is late. */
    CHECK(rate > 0.6 * most && rate < 1.05 * most);
  }
}

static void test_no_bound_is_fast(void) {
  plain();
  const double rate = stream_rate(AF_INET, 256 * MIB), sixth = stream_rate(AF_INET6, 256 * MIB);
  fprintf(stderr, "     no bound: %.2f Gbit/s, IPv6 %.2f Gbit/s\n", rate / 1e9, sixth / 1e9);
  CHECK(rate > 0.4e9 && sixth > 0.4e9); /* also where others are busy on the same two cores */
  CHECK_EQUAL(counts(0).write_failed, 0);
}

static void test_streams_are_right_on_a_bad_line(void) {
  static const char *const lines[] = {"set rate 200Mbit delay 1ms loss 5% queue 60KiB",
                                      "set rate 200Mbit delay 1ms jitter 3ms reorder 1 loss 1% queue 0",
                                      "set rate 100Mbit delay 200us loss 0 jitter 0 reorder 0 queue 20KiB"};
  for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
    plain();
    pair_ask(&pair, lines[i]);
    const struct counts before = counts(0);
    CHECK(stream_rate(i == 1 ? AF_INET6 : AF_INET, 4 * MIB) > 0);
    const struct counts after = counts(0);
    fprintf(stderr, "     %s: %llu lost, %llu dropped by the queue\n", lines[i], after.lost - before.lost,
            after.queue_dropped - before.queue_dropped);
    CHECK(after.lost + after.queue_dropped > before.lost + before.queue_dropped);
    CHECK_EQUAL(after.write_failed, 0);
  }
}

static void test_commands_that_are_wrong_change_nothing(void) {
  static const char *const wrong[] = {"set", "set rate", "set rate fast", "set speed 1", "set loss 2", "cut c", "open"};
  plain();
  for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
    CHECK(strncmp(pair_ask(&pair, wrong[i]), "error: ", 7) == 0);
  const struct datagrams sockets = datagrams_open(AF_INET);
  CHECK(passes(sockets.a, &sockets.to_b, sockets.b) && passes(sockets.b, &sockets.to_a, sockets.a));
  datagrams_close(&sockets);
}

int main(int argc, char **argv) {
  if (argc != 2) {
    fprintf(stderr, "link_test DELAYLINK\n");
    return 2;
  }
  alarm(120);
  pair_start(&pair, argv[1]);
  RUN(test_delay_is_what_was_asked);
  RUN(test_rate_is_what_was_asked);
  RUN(test_no_bound_is_fast);
  RUN(test_loss_is_what_was_asked_and_counted);
  RUN(test_queue_holds_what_was_asked);
  RUN(test_jitter_keeps_the_order_unless_asked);
  RUN(test_cut_lets_nothing_pass_and_half_open_one_direction);
  RUN(test_streams_are_right_on_a_bad_line);
  RUN(test_commands_that_are_wrong_change_nothing);
  pair_stop(&pair);
  return check_done();
}
