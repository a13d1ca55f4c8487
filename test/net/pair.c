/* SPDX-License-Identifier: Apache-2.0 */
/* pair.c: two network namespaces joined by the delay link. */
#include "pair.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define DEVICE "gbd0"

/* <linux/ipv6.h> does not go with <netinet/in.h>. */
struct in6_device_address {
  struct in6_addr address;
  uint32_t prefix;
  int device;
};

static void fatal(const char *what) {
  fprintf(stderr, "pair: %s (%s)\n", what, strerror(errno));
  exit(1);
}

static void write_file(const char *path, const char *text) {
  const int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0 || write(fd, text, strlen(text)) < 0) fatal(path);
  close(fd);
}

/* Root inside a user namespace, for people who are not root. */
static void become_root(void) {
  char map[64];
  const uid_t user = getuid();
  const gid_t group = getgid();
  if (user == 0) return;
  if (unshare(CLONE_NEWUSER) != 0) fatal("network namespaces need root or unprivileged user namespaces");
  write_file("/proc/self/setgroups", "deny");
  snprintf(map, sizeof map, "0 %u 1", user);
  write_file("/proc/self/uid_map", map);
  snprintf(map, sizeof map, "0 %u 1", group);
  write_file("/proc/self/gid_map", map);
}

static pid_t hold(int *space) {
  int told[2];
  char path[64], byte = 0;
  if (pipe2(told, O_CLOEXEC) != 0) fatal("pipe");
  const pid_t pid = fork();
  if (pid < 0) fatal("fork");
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (unshare(CLONE_NEWNET) != 0) fatal("a network namespace");
    if (write(told[1], &byte, 1) != 1) fatal("tell");
    for (;;) pause();
  }
  close(told[1]);
  if (read(told[0], &byte, 1) != 1) fatal("network namespaces are not available here");
  close(told[0]);
  snprintf(path, sizeof path, "/proc/%d/ns/net", (int)pid);
  *space = open(path, O_RDONLY | O_CLOEXEC);
  if (*space < 0) fatal(path);
  return pid;
}

static void link_start(struct pair *pair, const char *program) {
  int in[2], out[2];
  char a[16], b[16];
  snprintf(a, sizeof a, "%d", (int)pair->holder[0]);
  snprintf(b, sizeof b, "%d", (int)pair->holder[1]);
  if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0) fatal("pipe");
  pair->link = fork();
  if (pair->link < 0) fatal("fork");
  if (pair->link == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(in[0], 0);
    dup2(out[1], 1);
    execl(program, program, "--a", a, "--b", b, "--name", DEVICE, (char *)NULL);
    fatal(program);
  }
  close(in[0]);
  close(out[1]);
  pair->commands = fdopen(in[1], "w");
  pair->answers = fdopen(out[0], "r");
  if (fgets(pair->answer, sizeof pair->answer, pair->answers) == NULL || strcmp(pair->answer, "ready\n") != 0)
    fatal("the link did not start");
}

static int socket_raw(struct pair *pair, int side, int family, int type) {
  const int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
  if (home < 0 || setns(pair->space[side], CLONE_NEWNET) != 0) fatal("enter a namespace");
  const int fd = socket(family, type | SOCK_CLOEXEC, 0);
  if (fd < 0 || setns(home, CLONE_NEWNET) != 0) fatal("a socket in a namespace");
  close(home);
  return fd;
}

static void addresses_set(struct pair *pair, int side) {
  struct ifreq request = {0};
  struct sockaddr_storage address;
  const int fd = socket_raw(pair, side, AF_INET, SOCK_DGRAM), sixth = socket_raw(pair, side, AF_INET6, SOCK_DGRAM);
  strcpy(request.ifr_name, DEVICE);
  pair_address(side, AF_INET, 0, &address);
  memcpy(&request.ifr_addr, &address, sizeof request.ifr_addr);
  if (ioctl(fd, SIOCSIFADDR, &request) != 0) fatal("set the address");
  inet_pton(AF_INET, "255.255.255.0", &((struct sockaddr_in *)(void *)&request.ifr_netmask)->sin_addr);
  if (ioctl(fd, SIOCSIFNETMASK, &request) != 0) fatal("set the netmask");
  if (ioctl(fd, SIOCGIFINDEX, &request) != 0) fatal("index of the device");
  pair_address(side, AF_INET6, 0, &address);
  const struct in6_device_address set = {
      .address = ((struct sockaddr_in6 *)&address)->sin6_addr, .prefix = 64, .device = request.ifr_ifindex};
  if (ioctl(sixth, SIOCSIFADDR, &set) != 0) fatal("set the IPv6 address");
  close(fd);
  close(sixth);
}

void pair_start(struct pair *pair, const char *link) {
  become_root();
  for (int side = 0; side < 2; side++) pair->holder[side] = hold(&pair->space[side]);
  link_start(pair, link);
  for (int side = 0; side < 2; side++) addresses_set(pair, side);
}

void pair_stop(struct pair *pair) {
  fclose(pair->commands);
  waitpid(pair->link, NULL, 0);
  fclose(pair->answers);
  for (int side = 0; side < 2; side++) {
    kill(pair->holder[side], SIGKILL);
    waitpid(pair->holder[side], NULL, 0);
    close(pair->space[side]);
  }
}

const char *pair_ask(struct pair *pair, const char *line) {
  fprintf(pair->commands, "%s\n", line);
  fflush(pair->commands);
  if (fgets(pair->answer, sizeof pair->answer, pair->answers) == NULL) fatal("the link has ended");
  pair->answer[strcspn(pair->answer, "\n")] = '\0';
  return pair->answer;
}

int pair_socket(struct pair *pair, int side, int family, int type, uint16_t port) {
  const int fd = socket_raw(pair, side, family, type), one = 1;
  struct sockaddr_storage address;
  if (port == 0) return fd;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  pair_address(side, family, port, &address);
  const socklen_t length = family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
  /* An IPv6 address counts a moment after it was set. */
  for (int i = 0; i < 200 && bind(fd, (struct sockaddr *)&address, length) != 0; i++) {
    if (errno != EADDRNOTAVAIL || i == 199) fatal("bind");
    usleep(20000);
  }
  return fd;
}

void pair_address(int side, int family, uint16_t port, struct sockaddr_storage *address) {
  *address = (struct sockaddr_storage){.ss_family = (sa_family_t)family};
  struct sockaddr_in *fourth = (struct sockaddr_in *)address;
  struct sockaddr_in6 *sixth = (struct sockaddr_in6 *)address;
  if (family == AF_INET) {
    fourth->sin_port = htons(port);
    inet_pton(AF_INET, side == 0 ? "10.78.0.1" : "10.78.0.2", &fourth->sin_addr);
  } else {
    sixth->sin6_port = htons(port);
    inet_pton(AF_INET6, side == 0 ? "fd78::1" : "fd78::2", &sixth->sin6_addr);
  }
}
