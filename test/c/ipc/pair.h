/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pair.h: two processes that share memory: an exporter and its peer, each under the shim, with a
 * link between them. The parent starts both and calls no CUDA function itself.
 */
#ifndef GB_TEST_IPC_PAIR_H
#define GB_TEST_IPC_PAIR_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "../soak/soak.h"

#define PAIR_SECONDS 100u

struct pair_case {
  const char *name;
  void (*exporter)(int link);
  void (*peer)(int link);
  int exporter_signal, peer_signal; /* how each has to end; 0: by itself, without a failure */
};

static const char *pair_module;

/* ---- the link ---- */

static inline void say(int link, const void *bytes, size_t length) {
  CHECK(send(link, bytes, length, MSG_NOSIGNAL) == (ssize_t)length, "the link: %d", errno);
}

/* returns: false at the end of the other process. */
static inline int heard(int link, void *bytes, size_t length) {
  return recv(link, bytes, length, 0) == (ssize_t)length;
}
static inline void hear(int link, void *bytes, size_t length) {
  CHECK(heard(link, bytes, length), "the other process is gone");
}

static inline void meet(int link) {
  char mark = 'm';
  say(link, &mark, 1);
  hear(link, &mark, 1);
}

static inline void say_handle(int link, CUdeviceptr pointer) {
  CUipcMemHandle handle = {{0}};
  OK(cuIpcGetMemHandle(&handle, pointer));
  say(link, &handle, sizeof handle);
}

/* ---- memory ---- */

static inline uint64_t word_of(uint64_t seed, uint64_t i) {
  return (seed + 1) * 0x9e3779b97f4a7c15ull + i * i;
}

static inline void fill(CUdeviceptr pointer, uint64_t words, uint64_t seed) {
  uint64_t *host = malloc(words * 8);
  for (uint64_t i = 0; i < words; i++) host[i] = word_of(seed, i);
  OK(cuMemcpyHtoD(pointer, host, words * 8));
  free(host);
}

static inline void expect(CUdeviceptr pointer, uint64_t words, uint64_t seed) {
  uint64_t *host = malloc(words * 8), wrong = 0;
  OK(cuMemcpyDtoH(host, pointer, words * 8));
  for (uint64_t i = 0; i < words; i++) wrong += host[i] != word_of(seed, i);
  CHECK(wrong == 0, "%llu of %llu words are not those of %llu", (unsigned long long)wrong,
        (unsigned long long)words, (unsigned long long)seed);
  free(host);
}

static inline CUdeviceptr alloc(uint64_t bytes) {
  CUdeviceptr pointer = 0;
  OK(cuMemAlloc(&pointer, bytes));
  return pointer;
}

static inline CUdeviceptr open_next(int link) {
  CUipcMemHandle handle = {{0}};
  CUdeviceptr pointer = 0;
  hear(link, &handle, sizeof handle);
  OK(cuIpcOpenMemHandle(&pointer, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));
  return pointer;
}

static inline CUresult try_open(const CUipcMemHandle *handle) {
  CUdeviceptr pointer = 0;
  return cuIpcOpenMemHandle(&pointer, *handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS);
}

/* ---- processes ---- */

/* In a process of its own: figures of the two go to two files, injected faults are each one's. */
static inline int pair_child(const char *role, void (*run)(int), int link) {
  soak_open(pair_module, PAIR_SECONDS);
  run(link);
  if (check_failures != 0) fprintf(stderr, "%s: %u failures\n", role, check_failures);
  return check_failures != 0;
}

static inline pid_t pair_start(char **argv, const char *role, int link, const char *faults) {
  char path[512], number[16];
  const pid_t pid = fork();
  if (pid != 0) return pid;
  const char *stats = getenv("GREENBOOST_STATS_FILE"), *fail = getenv(faults);
  if (stats != NULL) {
    snprintf(path, sizeof path, "%s.%s", stats, role);
    setenv("GREENBOOST_STATS_FILE", path, 1);
  }
  if (fail != NULL) setenv("GBSIM_FAIL", fail, 1);
  fcntl(link, F_SETFD, 0);
  snprintf(number, sizeof number, "%d", link);
  execl("/proc/self/exe", argv[0], argv[1], argv[2], role, number, NULL);
  _exit(127);
}

static inline int pair_end(const char *role, pid_t pid, int wanted_signal) {
  int status = 0;
  waitpid(pid, &status, 0);
  const int got = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  if (got == wanted_signal && (got != 0 || WEXITSTATUS(status) == 0)) return 0;
  fprintf(stderr, "%s: ended with status %d, signal %d\n", role, WEXITSTATUS(status), got);
  return 1;
}

/* usage: PROGRAM MODULE CASE; without a case: their names. */
static inline int pair_main(int argc, char **argv, const struct pair_case *cases, size_t count) {
  for (size_t i = 0; i < count && argc < 3; i++) printf("%s\n", cases[i].name);
  if (argc < 3) return 0;
  pair_module = argv[1];
  for (size_t i = 0; i < count; i++) {
    int link[2];
    if (strcmp(cases[i].name, argv[2]) != 0) continue;
    if (argc == 5)
      return pair_child(argv[3], *argv[3] == 'p' ? cases[i].peer : cases[i].exporter,
                        atoi(argv[4]));
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, link) != 0) return 2;
    const pid_t exporter = pair_start(argv, "exporter", link[0], "GB_TEST_EXPORTER_FAIL");
    const pid_t peer = pair_start(argv, "peer", link[1], "GB_TEST_PEER_FAIL");
    close(link[0]);
    close(link[1]);
    return pair_end("exporter", exporter, cases[i].exporter_signal) |
           pair_end("peer", peer, cases[i].peer_signal);
  }
  return 2;
}

#endif
