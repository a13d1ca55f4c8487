/* SPDX-License-Identifier: Apache-2.0 */
/* tun.c: a TUN device in somebody's network namespace. */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "link.h"

/* Packets that may wait for the link to read them; without a long queue a busy machine drops some of its own. */
#define TUN_QUEUE 10000

static void enter(const char *path) {
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || setns(fd, CLONE_NEWNET) != 0) fatal(path);
  close(fd);
}

static void bring_up(const char *name, unsigned mtu) {
  struct ifreq request = {0};
  const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) fatal("a socket for settings of the device");
  strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  request.ifr_mtu = (int)mtu;
  if (ioctl(fd, SIOCSIFMTU, &request) != 0) fatal("MTU");
  request.ifr_qlen = TUN_QUEUE;
  if (ioctl(fd, SIOCSIFTXQLEN, &request) != 0) fatal("length of the device's queue");
  if (ioctl(fd, SIOCGIFFLAGS, &request) != 0) fatal("flags");
  request.ifr_flags |= IFF_UP;
  if (ioctl(fd, SIOCSIFFLAGS, &request) != 0) fatal("bring the device up");
  close(fd);
}

int tun_open(pid_t pid, const char *name, unsigned mtu) {
  char path[64];
  const int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
  if (home < 0) fatal("/proc/self/ns/net");
  snprintf(path, sizeof path, "/proc/%d/ns/net", (int)pid);
  enter(path);
  const int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) fatal("/dev/net/tun");
  struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR};
  strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  if (ioctl(fd, TUNSETIFF, &request) != 0) fatal("make a TUN device");
  if (ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6) != 0) fatal("leave segmentation to the link");
  bring_up(name, mtu);
  if (setns(home, CLONE_NEWNET) != 0) fatal("back to the own namespace");
  close(home);
  return fd;
}
