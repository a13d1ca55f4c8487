/* SPDX-License-Identifier: Apache-2.0 */
/*
 * door_test.c: many servers, each in a process of its own, behind one port; strangers before it; servers that are full
 * or dead behind it.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "door.h"
#include "harness.h"
#include "link.h"

static const uint32_t both = GB_LANE_MAY_READ | GB_LANE_MAY_WRITE;

static gb_lane_door *open_door(uint32_t strangers_max, uint32_t stranger_ms) {
  struct gb_lane_door_options options = {
      .size = sizeof options, .strangers_max = strangers_max, .stranger_ms = stranger_ms, .lan_only = 1};
  gb_lane_door *door = NULL;
  if (gb_lane_door_open(&options, &door) != GB_LANE_OK) abort();
  if (gb_lane_door_listen(door, "127.0.0.1", 0) != GB_LANE_OK) abort();
  return door;
}

static uint16_t port_of(gb_lane_door *door) {
  return (uint16_t)gb_lane_door_port(door);
}

static struct gb_lane_door_counters count(gb_lane_door *door) {
  struct gb_lane_door_counters counters;
  CHECK_EQUAL(gb_lane_door_counters(door, &counters), GB_LANE_OK);
  return counters;
}

/* A server that will be behind a door, and the door's end of the pair. Before the door: a fork knows no threads. */
static struct host start_behind(int *way) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) abort();
  struct host host = host_start_behind(pair[1], 4 * MIB, NULL);
  *way = pair[0];
  return host;
}

/* An opening of this ticket id with nothing right but its shape. */
static void make_frame(uint8_t *frame, const uint8_t *id) {
  memset(frame, 7, LANE_OPENING_BYTES);
  memcpy(frame, "GBLANE-C", 8);
  memcpy(frame + 16, id, GB_LANE_TICKET_ID_BYTES);
}

/* returns: how many bytes came back before the end; -1: it did not end. */
static int heard(int fd) {
  uint8_t bytes[16];
  struct timeval patience = {.tv_sec = 4};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  ssize_t got = recv(fd, bytes, sizeof bytes, 0);
  return got > 0 ? (int)got : got == 0 || (errno != EAGAIN && errno != EWOULDBLOCK) ? 0 : -1;
}

static void wait_refused(gb_lane_door *door, int reason, uint64_t count_wanted) {
  for (uint64_t until = now_ms() + 4000; now_ms() < until && count(door).refused[reason] < count_wanted;) sleep_ms(2);
  CHECK_EQUAL(count(door).refused[reason], count_wanted);
}

/* ---- what goes through ---- */

static void lanes_of_many_processes_come_through_one_port(void) {
  enum { HOSTS = 3 };
  struct host hosts[HOSTS];
  struct gb_lane_ticket tickets[HOSTS];
  gb_lane *lanes[HOSTS];
  int ways[HOSTS];
  static uint8_t local[3 * MIB];
  for (int i = 0; i < HOSTS; i++) hosts[i] = start_behind(&ways[i]);
  gb_lane_door *door = open_door(0, 0);
  for (int i = 0; i < HOSTS; i++) {
    hosts[i].port = port_of(door);
    fill_pattern(hosts[i].memory, (uint64_t)i + 1, 0, hosts[i].bytes);
    tickets[i] = host_grant(&hosts[i], 2, 0, 0, both);
    CHECK_EQUAL(gb_lane_door_route(door, tickets[i].id, ways[i]), GB_LANE_OK);
    close(ways[i]); /* the door has its own */
  }
  for (int i = 0; i < HOSTS; i++) lanes[i] = lane_to(&hosts[i], &tickets[i], 2, NULL);
  CHECK_EQUAL(count(door).passed, 3 * HOSTS); /* two for bulk, one express */
  for (int i = 0; i < HOSTS; i++) {
    CHECK_EQUAL(gb_lane_read(lanes[i], REGION, 5, local, sizeof local, GB_LANE_NORMAL, 0), GB_LANE_OK);
    CHECK(is_pattern(local, (uint64_t)i + 1, 5, sizeof local));
  }
  /* The door and its sockets end; what went through lives on. */
  CHECK_EQUAL(gb_lane_door_close(door), GB_LANE_OK);
  for (int i = 0; i < HOSTS; i++) {
    CHECK_EQUAL(gb_lane_write(lanes[i], REGION, 0, local, MIB, GB_LANE_NORMAL, 0), GB_LANE_OK);
    CHECK(memcmp(hosts[i].memory, local, MIB) == 0);
    struct gb_lane_server_counters counters = host_server_counters(&hosts[i]);
    CHECK_EQUAL(counters.accepted, 3);
    CHECK_EQUAL(counters.connections, 3);
    CHECK_EQUAL(gb_lane_close(lanes[i], 2000), GB_LANE_OK);
    CHECK_EQUAL(host_ended(&hosts[i], &tickets[i]), GB_LANE_CLOSED);
    host_stop(&hosts[i]);
  }
}

static void an_opening_in_pieces_goes_through(void) {
  int way;
  struct host host = start_behind(&way);
  gb_lane_door *door = open_door(0, 4000);
  host.port = port_of(door);
  struct gb_lane_ticket ticket = host_grant(&host, 1, 0, 0, both);
  CHECK_EQUAL(gb_lane_door_route(door, ticket.id, way), GB_LANE_OK);
  close(way);
  struct lane_opening opening = {
      .major = 1, .ciphers = 1u << GB_LANE_CIPHER_AES_256_GCM, .record_bytes = GB_LANE_RECORD_BYTES};
  uint8_t frame[LANE_OPENING_BYTES + 1], reply[LANE_OPENING_BYTES];
  memcpy(opening.ticket, ticket.id, sizeof opening.ticket);
  lane_random(opening.random, sizeof opening.random);
  REQUIRE(lane_opening_write(frame, &opening, ticket.secret));
  int fd = dial(host.port);
  for (size_t i = 0; i < LANE_OPENING_BYTES; i++) {
    send_whole(fd, frame + i, 1);
    if (i % 8 == 0) sleep_ms(4);
  }
  CHECK_EQUAL(receive_whole(fd, reply, sizeof reply), sizeof reply);
  close(fd);
  CHECK_EQUAL(gb_lane_door_close(door), GB_LANE_OK);
  host_stop(&host);
}

/* ---- who does not ---- */

static void strangers_hear_nothing(void) {
  int way, fd;
  struct host host = start_behind(&way);
  gb_lane_door *door = open_door(0, 150);
  host.port = port_of(door);
  struct gb_lane_ticket ticket = host_grant(&host, 1, 0, 0, both), wrong = ticket;
  uint8_t frame[LANE_OPENING_BYTES];
  CHECK_EQUAL(gb_lane_door_route(door, ticket.id, way), GB_LANE_OK);
  wrong.id[15] ^= 1;
  make_frame(frame, wrong.id);
  CHECK(send_whole(fd = dial(host.port), frame, sizeof frame)); /* an id nobody knows */
  CHECK_EQUAL(heard(fd), 0);
  close(fd);
  wait_refused(door, GB_LANE_REFUSED_UNKNOWN, 1);
  make_frame(frame, ticket.id);
  frame[3] ^= 1;
  CHECK(send_whole(fd = dial(host.port), frame, sizeof frame)); /* no lane */
  CHECK_EQUAL(heard(fd), 0);
  close(fd);
  wait_refused(door, GB_LANE_REFUSED_FORMAT, 1);
  frame[3] ^= 1;
  uint64_t start = now_ms();
  CHECK(send_whole(fd = dial(host.port), frame, sizeof frame - 1)); /* too slow */
  CHECK_EQUAL(heard(fd), 0);
  CHECK(now_ms() - start >= 140 && now_ms() - start < 1500);
  close(fd);
  CHECK(send_whole(fd = dial(host.port), frame, 40)); /* leaves early */
  close(fd);
  wait_refused(door, GB_LANE_REFUSED_SHORT, 2);
  /* The right id without its secret passes the door, and is refused by the process that knows. */
  CHECK(send_whole(fd = dial(host.port), frame, sizeof frame));
  CHECK_EQUAL(heard(fd), 0);
  close(fd);
  CHECK_EQUAL(count(door).passed, 1);
  CHECK_EQUAL(host_server_counters(&host).opened, 0);
  /* A ticket that was forgotten is as unknown as any. */
  CHECK_EQUAL(gb_lane_door_forget(door, ticket.id), GB_LANE_OK);
  CHECK_EQUAL(gb_lane_door_forget(door, ticket.id), GB_LANE_NOT_FOUND);
  gb_lane *lane = NULL;
  CHECK_EQUAL(gb_lane_open("127.0.0.1", host.port, &ticket, NULL, &lane), GB_LANE_REFUSED);
  struct gb_lane_event events[8];
  uint32_t told = gb_lane_door_events(door, events, 8);
  CHECK_EQUAL(told, 5);
  CHECK_EQUAL(events[0].reason, GB_LANE_REFUSED_UNKNOWN);
  CHECK(memcmp(events[0].ticket, wrong.id, sizeof wrong.id) == 0);
  CHECK(strncmp(events[0].address, "127.0.0.1:", 10) == 0);
  close(way);
  CHECK_EQUAL(gb_lane_door_close(door), GB_LANE_OK);
  host_stop(&host);
}

static void the_oldest_stranger_makes_room(void) {
  int idle[12], way;
  struct host host = start_behind(&way);
  gb_lane_door *door = open_door(4, 3000);
  host.port = port_of(door);
  struct gb_lane_ticket ticket = host_grant(&host, 1, 0, 0, both);
  CHECK_EQUAL(gb_lane_door_route(door, ticket.id, way), GB_LANE_OK);
  close(way);
  for (int i = 0; i < 12; i++) send_whole(idle[i] = dial(host.port), "GBLANE", 6);
  gb_lane *lane = lane_to(&host, &ticket, 1, NULL);
  struct gb_lane_door_counters counters = count(door);
  CHECK(counters.strangers <= 4);
  CHECK(counters.refused[GB_LANE_REFUSED_LIMIT] >= 8);
  CHECK_EQUAL(heard(idle[0]), 0);
  CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
  for (int i = 0; i < 12; i++) close(idle[i]);
  CHECK_EQUAL(gb_lane_door_close(door), GB_LANE_OK);
  host_stop(&host);
}

static void which_addresses_are_of_the_lan(void) {
  static const struct {
    const char *address;
    bool lan;
  } rows[] = {
      {"127.0.0.1", true},     {"127.255.255.255", true}, {"128.0.0.1", false},         {"10.0.0.1", true},
      {"11.0.0.1", false},     {"172.16.0.0", true},      {"172.31.255.255", true},     {"172.32.0.0", false},
      {"172.15.9.9", false},   {"192.168.1.1", true},     {"192.169.0.1", false},       {"169.254.7.7", true},
      {"8.8.8.8", false},      {"0.0.0.0", false},        {"::1", true},                {"::2", false},
      {"fe80::1", true},       {"febf::1", true},         {"fec0::1", false},           {"fc00::1", true},
      {"fdff::1", true},       {"fe00::1", false},        {"2001:db8::1", false},       {"::", false},
      {"::ffff:10.1.2.3", true}, {"::ffff:8.8.8.8", false}, {"::ffff:192.168.0.9", true}, {"::10.0.0.1", false},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    struct sockaddr_storage storage = {0};
    CHECK(lane_sock_address(rows[i].address, 1, &storage) > 0);
    if (lane_sock_is_lan(&storage) != rows[i].lan) fprintf(stderr, "address %s\n", rows[i].address);
    CHECK_EQUAL(lane_sock_is_lan(&storage), rows[i].lan);
  }
}

/* In a network of its own, where 203.0.113.5 is this machine. returns: its exit status. */
static int beyond_the_lan(void) {
  struct ifreq up = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING}, more = {.ifr_name = "lo:1"};
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = inet_addr("203.0.113.5")};
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  memcpy(&more.ifr_addr, &address, sizeof address);
  if (ioctl(fd, SIOCSIFFLAGS, &up) != 0 || ioctl(fd, SIOCSIFADDR, &more) != 0) return 3;
  gb_lane_door *door = open_door(0, 0);
  if (gb_lane_door_listen(door, "203.0.113.5", port_of(door)) != GB_LANE_OK) return 4;
  if (count(door).listeners != 2) return 5;
  address.sin_port = htons(port_of(door));
  fd = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) return 6;
  if (heard(fd) != 0) return 7;
  struct gb_lane_event event;
  if (gb_lane_door_events(door, &event, 1) != 1 || event.reason != GB_LANE_REFUSED_ADDRESS) return 8;
  return count(door).refused[GB_LANE_REFUSED_ADDRESS] == 1 ? 0 : 9;
}

static void addresses_beyond_the_lan_are_refused(void) {
  int status = 0;
  fflush(NULL);
  pid_t pid = fork();
  if (pid == 0) {
    bool alone = unshare(CLONE_NEWNET) == 0 || unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0; /* as root, or as anybody */
    _exit(alone ? beyond_the_lan() : 77);
  }
  CHECK_EQUAL(waitpid(pid, &status, 0), pid);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 77) fprintf(stderr, "skipped: no network namespaces here\n");
  else CHECK_EQUAL(status, 0);
}

/* ---- what is behind ---- */

static void a_dead_or_full_process_does_not_hold_up_the_others(void) {
  int dead_way, way, full[2], fds[64], few = 1;
  struct host dead = start_behind(&dead_way), host = start_behind(&way);
  gb_lane_door *door = open_door(0, 0);
  dead.port = host.port = port_of(door);
  struct gb_lane_ticket lost = host_grant(&dead, 1, 0, 0, both), ticket = host_grant(&host, 1, 0, 0, both);
  REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, full) == 0);
  setsockopt(full[0], SOL_SOCKET, SO_SNDBUF, &few, sizeof few);
  uint8_t nobody[GB_LANE_TICKET_ID_BYTES] = {9}, frame[LANE_OPENING_BYTES];
  CHECK_EQUAL(gb_lane_door_route(door, lost.id, dead_way), GB_LANE_OK);
  CHECK_EQUAL(gb_lane_door_route(door, ticket.id, way), GB_LANE_OK);
  CHECK_EQUAL(gb_lane_door_route(door, nobody, full[0]), GB_LANE_OK);
  close(dead_way);
  close(way);
  close(full[0]);
  make_frame(frame, nobody);
  for (int i = 0; i < 64; i++) send_whole(fds[i] = dial(host.port), frame, sizeof frame);
  for (uint64_t until = now_ms() + 4000; now_ms() < until;) {
    struct gb_lane_door_counters counters = count(door);
    if (counters.passed + counters.refused[GB_LANE_REFUSED_GONE] == 64) break;
    sleep_ms(2);
  }
  uint64_t gone = count(door).refused[GB_LANE_REFUSED_GONE];
  CHECK(gone > 0 && gone < 64); /* some fit into the socket nobody reads */
  host_signal(&dead, SIGKILL);
  gb_lane *lane = NULL;
  uint64_t start = now_ms();
  CHECK_EQUAL(gb_lane_open("127.0.0.1", host.port, &lost, NULL, &lane), GB_LANE_REFUSED);
  CHECK(now_ms() - start < 1000);
  CHECK_EQUAL(count(door).refused[GB_LANE_REFUSED_GONE], gone + 1);
  lane = lane_to(&host, &ticket, 1, NULL);
  CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
  for (int i = 0; i < 64; i++) close(fds[i]);
  close(full[1]);
  CHECK_EQUAL(gb_lane_door_close(door), GB_LANE_OK);
  host_end(&dead);
  host_stop(&host);
}

/* Sends a byte with `number` descriptors, as a door that is wrong might. */
static void send_odd(int way, const int *fds, size_t number) {
  union {
    char bytes[CMSG_SPACE(8 * sizeof(int))];
    struct cmsghdr align;
  } passage = {0};
  struct iovec bytes = {.iov_base = &passage, .iov_len = 1};
  struct msghdr message = {.msg_iov = &bytes, .msg_iovlen = 1};
  if (number > 0) {
    message.msg_control = &passage;
    message.msg_controllen = CMSG_SPACE(number * sizeof(int));
    struct cmsghdr *part = CMSG_FIRSTHDR(&message);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(number * sizeof(int));
    memcpy(CMSG_DATA(part), fds, number * sizeof(int));
  }
  CHECK_EQUAL(sendmsg(way, &message, MSG_NOSIGNAL), 1);
}

static void what_a_wrong_door_passes_is_closed(void) {
  int way, pair[2];
  struct host host = start_behind(&way);
  gb_lane_door *door = open_door(0, 0);
  host.port = port_of(door);
  struct gb_lane_ticket ticket = host_grant(&host, 1, 0, 0, both);
  CHECK_EQUAL(gb_lane_door_route(door, ticket.id, way), GB_LANE_OK);
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
  int null = open("/dev/null", O_RDONLY), many[8];
  for (int i = 0; i < 8; i++) many[i] = null;
  send_odd(way, NULL, 0);
  send_odd(way, &null, 1);
  send_odd(way, many, 2);
  send_odd(way, many, 4);
  send_odd(way, many, 8);
  send_odd(way, &pair[0], 1);
  CHECK(send_whole(pair[1], "GBLANE-C", 8)); /* a stranger like any other, who says no more */
  close(pair[0]);
  close(pair[1]);
  close(null);
  gb_lane *lane = lane_to(&host, &ticket, 1, NULL);
  CHECK_EQUAL(gb_lane_close(lane, 2000), GB_LANE_OK);
  CHECK_EQUAL(host_server_counters(&host).refused[GB_LANE_REFUSED_LIMIT], 4);
  CHECK_EQUAL(host_server_counters(&host).refused[GB_LANE_REFUSED_SHORT], 1);
  close(way);
  CHECK_EQUAL(gb_lane_door_close(door), GB_LANE_OK);
  host_stop(&host); /* its exit status says that nothing of it is still open */
}

static void routes_are_bounded_and_share_a_descriptor(void) {
  gb_lane_door *door = open_door(0, 0);
  int pair[2], before;
  uint8_t id[GB_LANE_TICKET_ID_BYTES] = {0};
  REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
  before = open_descriptors();
  for (uint32_t i = 0; i < GB_LANE_DOOR_ROUTES_MAX; i++) {
    memcpy(id, &i, sizeof i);
    if (gb_lane_door_route(door, id, pair[0]) != GB_LANE_OK) CHECK(!"route");
  }
  CHECK_EQUAL(open_descriptors(), before + 1);
  CHECK_EQUAL(count(door).routes, GB_LANE_DOOR_ROUTES_MAX);
  CHECK_EQUAL(gb_lane_door_route(door, id, pair[1]), GB_LANE_OK); /* replaced */
  CHECK_EQUAL(open_descriptors(), before + 2);
  memset(id, 255, sizeof id);
  CHECK_EQUAL(gb_lane_door_route(door, id, pair[0]), GB_LANE_LIMIT);
  for (uint32_t i = 0; i < GB_LANE_DOOR_ROUTES_MAX; i++) {
    memset(id, 0, sizeof id);
    memcpy(id, &i, sizeof i);
    if (gb_lane_door_forget(door, id) != GB_LANE_OK) CHECK(!"forget");
  }
  CHECK_EQUAL(open_descriptors(), before);
  CHECK_EQUAL(count(door).routes, 0);
  CHECK_EQUAL(gb_lane_door_route(door, id, STDERR_FILENO), GB_LANE_INVALID);
  CHECK_EQUAL(gb_lane_door_route(door, id, -1), GB_LANE_INVALID);
  CHECK_EQUAL(gb_lane_door_listen(door, "no address", 0), GB_LANE_INVALID);
  CHECK_EQUAL(gb_lane_door_listen(door, "127.0.0.1", port_of(door)), GB_LANE_UNREACHABLE); /* taken */
  CHECK_EQUAL(gb_lane_door_listen(door, "::1", port_of(door)), GB_LANE_OK);
  int status = GB_LANE_OK;
  for (int i = 0; i < GB_LANE_DOOR_LISTENERS_MAX && status == GB_LANE_OK; i++)
    status = gb_lane_door_listen(door, "127.0.0.1", 0);
  CHECK_EQUAL(status, GB_LANE_LIMIT);
  CHECK_EQUAL(count(door).listeners, GB_LANE_DOOR_LISTENERS_MAX);
  close(pair[0]);
  close(pair[1]);
  CHECK_EQUAL(gb_lane_door_close(door), GB_LANE_OK);
}

static int descriptors;

static void nothing_is_left_open(void) {
  CHECK_EQUAL(open_descriptors(), descriptors);
  CHECK_EQUAL(threads(), 1);
}

int main(void) {
  lane_crypt_ready();
  descriptors = open_descriptors();
  RUN(lanes_of_many_processes_come_through_one_port);
  RUN(an_opening_in_pieces_goes_through);
  RUN(strangers_hear_nothing);
  RUN(the_oldest_stranger_makes_room);
  RUN(which_addresses_are_of_the_lan);
  RUN(addresses_beyond_the_lan_are_refused);
  RUN(a_dead_or_full_process_does_not_hold_up_the_others);
  RUN(what_a_wrong_door_passes_is_closed);
  RUN(routes_are_bounded_and_share_a_descriptor);
  RUN(nothing_is_left_open);
  return check_done();
}
