/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ipc_server.c: the table of exports and the thread that hands their descriptors out. It calls no
 * CUDA function and takes no lock that is held for long: peers get their answer also while the
 * program's own threads wait for the GPU.
 */
#include "ipc_part.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "lock.h"
#include "real.h"

#define BACKLOG 64
#define STOP_TIMEOUT_S 2

struct export {
  uint64_t id; /* 0: free */
  uint64_t span_base;
  uint64_t span_bytes;
  int descriptor;
  CUuuid device;
};

static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER; /* for moments; after gb_lock */
static struct export exports[GB_IPC_EXPORTS_MAX];

static pthread_mutex_t life_lock = PTHREAD_MUTEX_INITIALIZER; /* start and stop */
static pthread_t thread;
static bool started;
static _Atomic bool stopped;
static _Atomic uint64_t process;
static int listener = -1;
static int wake = -1;

struct connection {
  int fd; /* -1: free */
  uint64_t until_ns;
};
static struct connection connections[GB_IPC_CONNECTIONS_MAX]; /* the thread's, and a child's */

/* ---- shared with the other two files ---- */

static uint64_t mixed(uint64_t state, uint64_t word) {
  state = (state ^ word) * 0x9e3779b97f4a7c15ull;
  return state ^ (state >> 29);
}

uint64_t gb_ipc_check(const struct gb_ipc_handle *handle) {
  uint64_t words[sizeof *handle / 8];
  uint64_t state = 0;
  memcpy(words, handle, sizeof words);
  for (size_t i = 0; i < sizeof words / sizeof *words - 1; i++) state = mixed(state, words[i]);
  return mixed(state, sizeof words);
}

uint32_t gb_ipc_started(uint32_t pid) {
  char path[32], line[512];
  snprintf(path, sizeof path, "/proc/%u/stat", pid);
  FILE *file = fopen(path, "re");
  if (file == NULL) return 0;
  bool read = fgets(line, sizeof line, file) != NULL;
  fclose(file);
  /* Field 22; the second one is a name in brackets that may hold anything. */
  const char *at = read ? strrchr(line, ')') : NULL;
  for (int field = 2; at != NULL && field < 22; field++) at = strchr(at + 1, ' ');
  return at == NULL ? 0 : (uint32_t)strtoull(at + 1, NULL, 10);
}

bool gb_ipc_same_user(int fd) {
  struct ucred peer;
  socklen_t length = sizeof peer;
  return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 && peer.uid == geteuid();
}

socklen_t gb_ipc_address(uint64_t name, struct sockaddr_un *address) {
  *address = (struct sockaddr_un){.sun_family = AF_UNIX};
  int length = snprintf(address->sun_path + 1, sizeof address->sun_path - 1,
                        "greenboost-ipc-%016llx", (unsigned long long)name);
  return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
}

bool gb_ipc_uuid(CUdevice device, CUuuid *uuid) {
  if (gb_real.cuDeviceGetUuid_v2 != NULL)
    return gb_real.cuDeviceGetUuid_v2(uuid, device) == CUDA_SUCCESS;
  return gb_real.cuDeviceGetUuid != NULL && gb_real.cuDeviceGetUuid(uuid, device) == CUDA_SUCCESS;
}

/* ---- the table ---- */

static struct export *find(uint64_t span_base) {
  for (size_t i = 0; i < GB_IPC_EXPORTS_MAX; i++) {
    if (exports[i].id != 0 && exports[i].span_base == span_base) return &exports[i];
  }
  return NULL;
}

static struct export *find_free(void) {
  for (size_t i = 0; i < GB_IPC_EXPORTS_MAX; i++) {
    if (exports[i].id == 0) return &exports[i];
  }
  return NULL;
}

bool gb_ipc_has_place(void) {
  pthread_mutex_lock(&table_lock);
  bool place = find_free() != NULL;
  pthread_mutex_unlock(&table_lock);
  return place;
}

/* Not 0. */
static uint64_t random_word(void) {
  uint64_t word = 0;
  while (word == 0) {
    if (getrandom(&word, sizeof word, 0) != sizeof word) word = 0;
  }
  return word;
}

uint64_t gb_ipc_enter(uint64_t span_base, uint64_t span_bytes, int descriptor,
                      const CUuuid *device) {
  uint64_t id = random_word();
  pthread_mutex_lock(&table_lock);
  *find_free() = (struct export){id, span_base, span_bytes, descriptor, *device};
  pthread_mutex_unlock(&table_lock);
  return id;
}

uint64_t gb_ipc_export_id(uint64_t span_base) {
  pthread_mutex_lock(&table_lock);
  const struct export *it = find(span_base);
  uint64_t id = it != NULL ? it->id : 0;
  pthread_mutex_unlock(&table_lock);
  return id;
}

void gb_ipc_forget(uint64_t span_base) {
  pthread_mutex_lock(&table_lock);
  struct export *it = find(span_base);
  if (it != NULL) {
    close(it->descriptor);
    *it = (struct export){.id = 0};
  }
  pthread_mutex_unlock(&table_lock);
}

uint64_t gb_ipc_process(void) {
  return process;
}

/* ---- an answer ---- */

/* The allocation asked for still begins where the handle says. */
static bool is_alive(const struct export *it, const struct gb_ipc_ask *ask) {
  struct gb_ipc_subject subject;
  return ask->offset < it->span_bytes && gb_ipc_subject(it->span_base + ask->offset, &subject) &&
         subject.span_base == it->span_base && subject.allocation == ask->allocation &&
         subject.offset == ask->offset && subject.bytes == ask->bytes;
}

static struct export export_of(uint64_t id) {
  struct export found = {.id = 0, .descriptor = -1};
  pthread_mutex_lock(&table_lock);
  for (size_t i = 0; i < GB_IPC_EXPORTS_MAX && id != 0; i++) {
    if (exports[i].id == id) found = exports[i];
  }
  /* Ours, so that the export may end while it is sent. */
  if (found.id != 0) found.descriptor = fcntl(found.descriptor, F_DUPFD_CLOEXEC, 0);
  pthread_mutex_unlock(&table_lock);
  return found;
}

static void send_answer(int fd, const struct gb_ipc_answer *answer, int descriptor) {
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int))];
  } control = {.bytes = {0}};
  struct iovec part = {.iov_base = (void *)answer, .iov_len = sizeof *answer};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  if (descriptor >= 0) {
    message.msg_control = control.bytes;
    message.msg_controllen = sizeof control.bytes;
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &descriptor, sizeof descriptor);
  }
  if (sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) != sizeof *answer)
    gb_log(GB_LOG_DEBUG, "ipc: an answer was not taken: %s", strerror(errno));
}

static void answer(int fd, const struct gb_ipc_ask *ask) {
  struct gb_ipc_answer reply = {.magic = GB_IPC_MAGIC};
  struct export it = export_of(ask->export);
  bool alive = it.id != 0 && it.descriptor >= 0 && is_alive(&it, ask);
  if (alive) {
    reply.memory_bytes = it.span_bytes;
    reply.device = it.device;
  }
  send_answer(fd, &reply, alive ? it.descriptor : -1);
  if (it.descriptor >= 0) close(it.descriptor);
  gb_log(GB_LOG_DEBUG, "ipc: %llu bytes %s", (unsigned long long)ask->bytes,
         alive ? "handed to a peer" : "asked for are not exported (any more)");
}

/* One question for each connection. Descriptors sent along are dropped by the kernel. */
static void hear(struct connection *connection) {
  struct gb_ipc_ask ask;
  ssize_t got = recv(connection->fd, &ask, sizeof ask, MSG_DONTWAIT | MSG_TRUNC);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got == sizeof ask && ask.magic == GB_IPC_MAGIC) answer(connection->fd, &ask);
  close(connection->fd);
  connection->fd = -1;
}

/* ---- the thread ---- */

static void welcome(void) {
  struct connection *place = NULL;
  for (size_t i = 0; i < GB_IPC_CONNECTIONS_MAX && place == NULL; i++) {
    if (connections[i].fd < 0) place = &connections[i];
  }
  int fd = place == NULL ? -1 : accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0) {
    if (errno != EAGAIN) gb_sleep_ns(10 * GB_MS); /* no descriptors left: not in a circle */
    return;
  }
  if (!gb_ipc_same_user(fd)) {
    gb_log(GB_LOG_WARN, "ipc: another user asked for memory of this process: refused");
    close(fd);
    return;
  }
  *place = (struct connection){fd, gb_now_ns() + GB_IPC_SERVE_NS};
}

/* Milliseconds until the next thing is due; connections over their time close. */
static int until_next(void) {
  uint64_t first = UINT64_MAX;
  uint64_t now = gb_now_ns();
  for (size_t i = 0; i < GB_IPC_CONNECTIONS_MAX; i++) {
    struct connection *it = &connections[i];
    if (it->fd >= 0 && it->until_ns <= now) {
      close(it->fd);
      it->fd = -1;
    }
    if (it->fd >= 0 && it->until_ns < first) first = it->until_ns;
  }
  if (first == UINT64_MAX) return -1;
  return first <= now ? 0 : (int)((first - now) / GB_MS) + 1;
}

static void *run(void *unused) {
  (void)unused;
  for (;;) {
    struct pollfd fds[2 + GB_IPC_CONNECTIONS_MAX];
    struct connection *owners[GB_IPC_CONNECTIONS_MAX];
    int wait_ms = until_next();
    nfds_t count = 2;
    for (size_t i = 0; i < GB_IPC_CONNECTIONS_MAX; i++) {
      if (connections[i].fd < 0) continue;
      owners[count - 2] = &connections[i];
      fds[count++] = (struct pollfd){.fd = connections[i].fd, .events = POLLIN};
    }
    bool full = count == 2 + GB_IPC_CONNECTIONS_MAX; /* the others wait in the backlog */
    fds[0] = (struct pollfd){.fd = wake, .events = POLLIN};
    fds[1] = (struct pollfd){.fd = full ? -1 : listener, .events = POLLIN};
    if (poll(fds, count, wait_ms) < 0) {
      gb_sleep_ns(GB_MS);
      continue;
    }
    uint64_t woken;
    if (fds[0].revents != 0 && read(wake, &woken, sizeof woken) < 0 && errno != EAGAIN) return NULL;
    if (stopped) return NULL;
    for (nfds_t i = 2; i < count; i++) {
      if (fds[i].revents != 0) hear(owners[i - 2]);
    }
    if (fds[1].revents != 0) welcome();
  }
}

static bool listen_as(uint64_t name) {
  struct sockaddr_un address;
  socklen_t length = gb_ipc_address(name, &address);
  listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  return listener >= 0 && wake >= 0 &&
         bind(listener, (struct sockaddr *)&address, length) == 0 && listen(listener, BACKLOG) == 0;
}

static void close_sockets(void) {
  if (listener >= 0) close(listener);
  if (wake >= 0) close(wake);
  listener = wake = -1;
  for (size_t i = 0; i < GB_IPC_CONNECTIONS_MAX; i++) {
    if (connections[i].fd >= 0) close(connections[i].fd);
    connections[i].fd = -1;
  }
}

/* pre: life_lock. */
static bool start(void) {
  sigset_t all, before;
  for (size_t i = 0; i < GB_IPC_CONNECTIONS_MAX; i++) connections[i].fd = -1;
  uint64_t name = random_word();
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before); /* the program's signals are for its own threads */
  bool made = listen_as(name) && pthread_create(&thread, NULL, run, NULL) == 0;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (!made) {
    gb_log(GB_LOG_WARN, "ipc: no socket or thread: %s", strerror(errno));
    close_sockets();
    return false;
  }
  process = name;
  return true;
}

static void wake_thread(void) {
  uint64_t one = 1;
  ssize_t written = write(wake, &one, sizeof one);
  (void)written;
}

bool gb_ipc_serve(void) {
  pthread_mutex_lock(&life_lock);
  if (!started && !stopped) started = start();
  bool serving = started;
  pthread_mutex_unlock(&life_lock);
  return serving;
}

void gb_ipc_stop(void) {
  pthread_mutex_lock(&life_lock);
  bool running = started;
  started = false;
  stopped = true;
  if (running) wake_thread();
  pthread_mutex_unlock(&life_lock);
  if (!running) return;
  struct timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec += STOP_TIMEOUT_S;
  if (pthread_timedjoin_np(thread, NULL, &until) == 0) close_sockets();
}

void gb_ipc_forked(void) {
  if (listener < 0 && wake < 0) return;
  started = false;
  stopped = true;
  process = 0;
  close_sockets();
  for (size_t i = 0; i < GB_IPC_EXPORTS_MAX; i++) {
    if (exports[i].id != 0) close(exports[i].descriptor);
    exports[i].id = 0;
  }
}
