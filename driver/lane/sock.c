/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sock.c: what lanes ask of the operating system: socket options, addresses, clocks, threads.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "link.h"

#define STACK_BYTES (256u << 10)
/* The slice of a thread that works little and is waited for: it runs before those with long ones. */
#define HURRY_NS 100000u

uint64_t lane_now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

uint64_t lane_boot_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_BOOTTIME, &now);
  return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void lane_sock_tune(int fd, const struct gb_lane_tuning *tuning) {
  int one = 1, user_timeout = (int)tuning->silence_ms;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_timeout, sizeof user_timeout);
  if (tuning->keep_congestion == 0) setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
}

void lane_sock_congestion(int fd, char *name) {
  socklen_t length = 16;
  memset(name, 0, 16);
  if (getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &length) != 0) name[0] = 0;
  name[15] = 0;
}

uint32_t lane_sock_address(const char *address, uint16_t port, void *storage) {
  struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
  struct addrinfo *found = NULL;
  char text[8];
  snprintf(text, sizeof text, "%u", port);
  if (getaddrinfo(address, text, &hints, &found) != 0 || found == NULL) return 0;
  uint32_t length = found->ai_addrlen;
  memcpy(storage, found->ai_addr, length);
  freeaddrinfo(found);
  return length;
}

void lane_sock_name(const void *storage, char *text) {
  const struct sockaddr *any = storage;
  char host[NI_MAXHOST];
  uint16_t port = 0;
  text[0] = 0;
  if (any->sa_family == AF_INET) port = ntohs(((const struct sockaddr_in *)storage)->sin_port);
  else if (any->sa_family == AF_INET6) port = ntohs(((const struct sockaddr_in6 *)storage)->sin6_port);
  else return;
  socklen_t length = any->sa_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
  if (getnameinfo(any, length, host, sizeof host, NULL, 0, NI_NUMERICHOST) != 0) return;
  snprintf(text, 64, any->sa_family == AF_INET ? "%.50s:%u" : "[%.50s]:%u", host, port);
}

static bool is_lan4(uint32_t address) {
  return address >> 24 == 127 || address >> 24 == 10 || address >> 20 == 0xac1 || address >> 16 == 0xc0a8 ||
         address >> 16 == 0xa9fe;
}

bool lane_sock_is_lan(const struct sockaddr_storage *address) {
  if (address->ss_family == AF_INET)
    return is_lan4(ntohl(((const struct sockaddr_in *)address)->sin_addr.s_addr));
  if (address->ss_family != AF_INET6) return false;
  const struct in6_addr *six = &((const struct sockaddr_in6 *)address)->sin6_addr;
  const uint8_t *at = six->s6_addr;
  if (IN6_IS_ADDR_V4MAPPED(six))
    return is_lan4((uint32_t)at[12] << 24 | (uint32_t)at[13] << 16 | (uint32_t)at[14] << 8 | at[15]);
  return IN6_IS_ADDR_LOOPBACK(six) || IN6_IS_ADDR_LINKLOCAL(six) || (at[0] & 0xfe) == 0xfc;
}

int lane_sock_bind(const char *address, uint16_t port) {
  struct sockaddr_storage storage = {0};
  int one = 1, zero = 0;
  uint32_t length = lane_sock_address(address != NULL ? address : "::", port, &storage);
  if (length == 0) return -1;
  int fd = socket(storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (address == NULL) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero);
  if (bind(fd, (const struct sockaddr *)&storage, length) == 0) return fd;
  close(fd);
  return -1;
}

int lane_sock_port(int fd) {
  struct sockaddr_storage address = {0};
  socklen_t length = sizeof address;
  if (fd < 0 || getsockname(fd, (struct sockaddr *)&address, &length) != 0) return -1;
  return ntohs(address.ss_family == AF_INET ? ((struct sockaddr_in *)&address)->sin_port
                                            : ((struct sockaddr_in6 *)&address)->sin6_port);
}

/* ---- descriptors on their way from a door ---- */

/* More than one that arrive are closed; a message with more than these does not fit and loses them in the kernel. */
#define TAKEN_MAX 4

union passage {
  char bytes[CMSG_SPACE(TAKEN_MAX * sizeof(int))];
  struct cmsghdr align;
};

/* Keeps one descriptor of a message, closes what is beyond it. */
static int keep_one(struct msghdr *message) {
  int fds[TAKEN_MAX], count = 0;
  for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part != NULL; part = CMSG_NXTHDR(message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    int more = (int)((part->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    if (more > TAKEN_MAX - count) more = TAKEN_MAX - count;
    memcpy(fds + count, CMSG_DATA(part), (size_t)more * sizeof(int));
    count += more;
  }
  int flags = count == 1 ? fcntl(fds[0], F_GETFL) : -1;
  if (flags >= 0 && fcntl(fds[0], F_SETFL, flags | O_NONBLOCK) == 0) return fds[0];
  for (int i = 0; i < count; i++) close(fds[i]);
  return -1;
}

int lane_sock_take(int socket, int *fd) {
  uint8_t byte;
  union passage passage;
  struct iovec bytes = {.iov_base = &byte, .iov_len = sizeof byte};
  struct msghdr message = {.msg_iov = &bytes,
                           .msg_iovlen = 1,
                           .msg_control = &passage,
                           .msg_controllen = sizeof passage};
  ssize_t got = recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (got < 0) return errno == EAGAIN || errno == EINTR ? 0 : -1;
  *fd = keep_one(&message);
  return got == 0 && *fd < 0 ? -1 : 1;
}

bool lane_sock_give(int socket, int fd) {
  uint8_t byte = 0;
  union passage passage = {0};
  struct iovec bytes = {.iov_base = &byte, .iov_len = sizeof byte};
  struct msghdr message = {.msg_iov = &bytes,
                           .msg_iovlen = 1,
                           .msg_control = &passage,
                           .msg_controllen = CMSG_SPACE(sizeof fd)};
  struct cmsghdr *part = CMSG_FIRSTHDR(&message);
  part->cmsg_level = SOL_SOCKET;
  part->cmsg_type = SCM_RIGHTS;
  part->cmsg_len = CMSG_LEN(sizeof fd);
  memcpy(CMSG_DATA(part), &fd, sizeof fd);
  return sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)sizeof byte;
}

static uint32_t within(uint32_t value, uint32_t fallback, uint32_t low, uint32_t high) {
  if (value == 0) value = fallback;
  return value < low ? low : value > high ? high : value;
}

struct gb_lane_tuning lane_tuning_of(const struct gb_lane_tuning *wanted) {
  struct gb_lane_tuning tuning = *wanted;
  tuning.record_bytes =
      within(wanted->record_bytes, GB_LANE_RECORD_BYTES, GB_LANE_RECORD_BYTES_MIN, GB_LANE_RECORD_BYTES_MAX) &
      ~63u;
  tuning.silence_ms = within(wanted->silence_ms, GB_LANE_SILENCE_MS, 50, 600000);
  tuning.heartbeat_ms = within(wanted->heartbeat_ms, GB_LANE_HEARTBEAT_MS, 10, tuning.silence_ms / 2);
  tuning.rekey_ms = within(wanted->rekey_ms, GB_LANE_REKEY_MS, 1, 86400000);
  if (tuning.rekey_bytes == 0) tuning.rekey_bytes = GB_LANE_REKEY_BYTES;
  if (tuning.rekey_bytes > LANE_KEY_BYTES_MAX / 2) tuning.rekey_bytes = LANE_KEY_BYTES_MAX / 2;
  return tuning;
}

void lane_cond_init(pthread_cond_t *condition) {
  pthread_condattr_t attributes;
  pthread_condattr_init(&attributes);
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  pthread_cond_init(condition, &attributes);
  pthread_condattr_destroy(&attributes);
}

bool lane_wait_until(pthread_cond_t *condition, pthread_mutex_t *lock, uint64_t until_ns) {
  const struct timespec at = {.tv_sec = (time_t)(until_ns / 1000000000ull),
                              .tv_nsec = (long)(until_ns % 1000000000ull)};
  return pthread_cond_timedwait(condition, lock, &at) != ETIMEDOUT;
}

void lane_describe(const struct lane_aead *aead, int fd, struct gb_lane_counters *counters) {
  snprintf(counters->cipher, sizeof counters->cipher, "%s",
           aead->cipher == GB_LANE_CIPHER_AES_256_GCM ? "AES-256-GCM" : "ChaCha20-Poly1305");
  snprintf(counters->provider, sizeof counters->provider, "%s", aead->name);
  lane_sock_congestion(fd, counters->congestion);
}

/* Linux 6.12 and later take it as the slice of an ordinary thread; before, it changes nothing. */
void lane_thread_hurry(void) {
  struct {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
  } attributes = {.size = sizeof attributes, .policy = SCHED_OTHER, .runtime = HURRY_NS};
  if (sched_getscheduler(0) != SCHED_OTHER) return; /* the caller's choice */
  attributes.nice = getpriority(PRIO_PROCESS, 0);
  syscall(SYS_sched_setattr, 0, &attributes, 0);
}

bool lane_thread_start(pthread_t *thread, void *(*life)(void *), void *argument) {
  pthread_attr_t attributes;
  sigset_t all, before;
  if (pthread_attr_init(&attributes) != 0) return false;
  pthread_attr_setstacksize(&attributes, STACK_BYTES);
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int error = pthread_create(thread, &attributes, life, argument);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
  if (error == 0) pthread_setname_np(*thread, "gb-lane");
  return error == 0;
}
