/* SPDX-License-Identifier: Apache-2.0 */
/*
 * harness.h: a daemon as these tests need it: starts a real gb-executor, asks it over its socket, and ends it.
 */
#ifndef EXECUTOR_HARNESS_H
#define EXECUTOR_HARNESS_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../check.h"
#include "gb_exec.h"

#define MIB (1ull << 20)
#define ARENA_BYTES (1ull << 36)
#define CAP_IPC_LOCK_NUMBER 14
#define REPLY_TIMEOUT_MS 20000
#define NOTICES_MAX 64

static const char *executor_path;
static uint64_t arena_base = 0x510000000000ull;
static bool with_gpu;
static bool with_sanitizer; /* it makes mlock a no-op */
static uint64_t memlock_limit; /* for the next executor; 0: as it is */

struct executor {
  pid_t pid;
  int socket;
  int door; /* the door's end */
  uint64_t next_id;
  /* Notices that came between replies. */
  struct gbx_lane_event events[NOTICES_MAX];
  unsigned event_count;
};

/* Takes the arguments of a test: path of gb-executor; `ram`, `ram-sanitized`, `ram-tsan`, `sim`, `sim-sanitized` or
 * `sim-tsan`. */
static inline bool harness_begin(int argc, char **argv) {
  if (argc != 3)
    return false;
  executor_path = argv[1];
  with_gpu = strncmp(argv[2], "sim", 3) == 0;
  with_sanitizer = strstr(argv[2], "san") != NULL;
  if (strstr(argv[2], "tsan") != NULL)
    arena_base = 0x1000000000ull; /* where TSan lets a program map */
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  return true;
}

static inline struct gbx_init good_init(void) {
  return (struct gbx_init){
      .version = GBX_VERSION,
      .gpu_count = with_gpu ? 1 : 0,
      .arena_base = arena_base,
      .arena_bytes = ARENA_BYTES,
  };
}

static inline void spawn_executor(struct executor *executor) {
  int pair[2], door[2];
  memset(executor, 0, sizeof(*executor));
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0 ||
      socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, door) != 0)
    abort();
  executor->pid = fork();
  if (executor->pid == 0) {
    /* Out of the way first: they may be 3 or 4 themselves. */
    int socket = fcntl(pair[1], F_DUPFD_CLOEXEC, 10), door_end = fcntl(door[1], F_DUPFD_CLOEXEC, 10);
    dup2(socket, 3);
    dup2(door_end, 4);
    if (memlock_limit > 0) {
      struct rlimit limit = {memlock_limit, memlock_limit};
      setrlimit(RLIMIT_MEMLOCK, &limit);
      prctl(PR_CAPBSET_DROP, CAP_IPC_LOCK_NUMBER); /* fails for a user who has no such capability anyway */
    }
    execl(executor_path, executor_path, (char *)NULL);
    _exit(127);
  }
  close(pair[1]);
  close(door[1]);
  executor->socket = pair[0];
  executor->door = door[0];
  executor->next_id = 1;
}

static inline bool read_fully(int fd, void *bytes, size_t length) {
  for (size_t done = 0; done < length;) {
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    if (poll(&ready, 1, REPLY_TIMEOUT_MS) != 1)
      return false;
    ssize_t count = read(fd, (char *)bytes + done, length - done);
    if (count <= 0)
      return false;
    done += (size_t)count;
  }
  return true;
}

static inline void send_frame(struct executor *executor, uint16_t type, const void *payload, uint32_t bytes) {
  uint8_t message[sizeof(struct gbx_frame) + GBX_PAYLOAD_BYTES_MAX];
  struct gbx_frame frame = {bytes, type, 0, executor->next_id++};
  memcpy(message, &frame, sizeof(frame));
  memcpy(message + sizeof(frame), payload, bytes);
  if (send(executor->socket, message, sizeof(frame) + bytes, MSG_NOSIGNAL) < 0)
    fprintf(stderr, "send: %s\n", strerror(errno));
}

/* The next reply's frame; notices before it are kept. */
static inline bool read_reply(struct executor *executor, struct gbx_frame *frame) {
  while (read_fully(executor->socket, frame, sizeof(*frame)) && frame->flags == GBX_FRAME_REPLY) {
    if (frame->request_id != 0)
      return true;
    struct gbx_lane_event event;
    if (frame->type != GBX_MSG_LANE_EVENT || frame->payload_bytes != sizeof(event) ||
        !read_fully(executor->socket, &event, sizeof(event)))
      return false;
    if (executor->event_count < NOTICES_MAX)
      executor->events[executor->event_count++] = event;
  }
  return false;
}

/* Sends a request and takes its reply. False when the executor did not answer with a frame of that size. */
static inline bool ask(struct executor *executor, uint16_t type, const void *payload, uint32_t bytes, void *reply,
                       uint32_t reply_bytes) {
  uint64_t id = executor->next_id;
  struct gbx_frame frame;
  send_frame(executor, type, payload, bytes);
  return read_reply(executor, &frame) && frame.request_id == id && frame.type == type &&
         frame.payload_bytes == reply_bytes && read_fully(executor->socket, reply, reply_bytes);
}

static inline struct gbx_status ask_status(struct executor *executor, uint16_t type, const void *payload,
                                           uint32_t bytes) {
  struct gbx_status status = {.status = 999};
  CHECK(ask(executor, type, payload, bytes, &status, sizeof(status)));
  return status;
}

static inline struct gbx_init_reply initialise(struct executor *executor, const struct gbx_init *init) {
  struct gbx_init_reply reply = {.status = 999};
  CHECK(ask(executor, GBX_MSG_INIT, init, sizeof(*init), &reply, sizeof(reply)));
  return reply;
}

static inline struct gbx_stat stat_of(struct executor *executor) {
  struct gbx_stat stat = {.status = 999};
  CHECK(ask(executor, GBX_MSG_STAT, "", 0, &stat, sizeof(stat)));
  CHECK_EQUAL(stat.status, GBX_OK);
  return stat;
}

static inline uint32_t change(struct executor *executor, uint16_t type, uint32_t kind, uint64_t offset,
                              uint64_t length) {
  struct gbx_range range = {kind, 0, offset, length};
  return ask_status(executor, type, &range, sizeof(range)).status;
}

static inline bool open_executor(struct executor *executor) {
  spawn_executor(executor);
  struct gbx_init init = good_init();
  struct gbx_init_reply reply = initialise(executor, &init);
  CHECK_EQUAL(reply.status, GBX_OK);
  CHECK_EQUAL(reply.arena_base, arena_base);
  CHECK_EQUAL(reply.ram_is_host_numa, with_gpu);
  return reply.status == GBX_OK;
}

/* Closes the socket; returns the exit code, or -signal. Fails the test when it takes longer than 5 s. */
static inline int close_executor(struct executor *executor) {
  close(executor->socket);
  close(executor->door);
  int status = 0;
  for (int waited = 0; waited < 5000; waited += 5) {
    if (waitpid(executor->pid, &status, WNOHANG) == executor->pid)
      return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    usleep(5000);
  }
  kill(executor->pid, SIGKILL);
  waitpid(executor->pid, &status, 0);
  return -SIGALRM;
}

static inline void fill(uint8_t *bytes, size_t length, uint32_t seed) {
  for (size_t at = 0; at < length; at++)
    bytes[at] = (uint8_t)((at * 2654435761u + seed) >> 7);
}

static inline bool is_filled(const uint8_t *bytes, size_t length, uint32_t seed) {
  for (size_t at = 0; at < length; at++) {
    if (bytes[at] != (uint8_t)((at * 2654435761u + seed) >> 7))
      return false;
  }
  return true;
}

static inline bool is_zero(const uint8_t *bytes, size_t length) {
  return bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0;
}

#endif
