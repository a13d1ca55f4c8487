/* SPDX-License-Identifier: Apache-2.0 */
/*
 * main.c: gb-executor, the process that holds lent memory.
 *
 *   gb-executor                      serves the daemon on descriptor 3 (gb_exec.h) until that is closed; connections
 *                                    of lanes arrive over descriptor 4
 *   gb-executor --priority NICE CLASS LEVEL
 *                                    the same, with this niceness (0: as it is) and I/O priority (class 0: as it is,
 *                                    2: best effort, 3: idle; ioprio_set(2))
 *   gb-executor --probe [--gpu N]    measures this machine's memory and prints one JSON object (probe.h)
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "probe.h"
#include "service.h"

#define DAEMON_SOCKET 3
#define DOOR_SOCKET 4
/* Time to scrub device memory once the daemon has died. */
#define LAST_SECONDS 3
/* Lent memory goes before anything of the workstation's own when the machine runs out. */
#define OOM_SCORE_ADJUSTMENT "500"
#define GPU_MAX 1023
#define NICE_MAX 19
/* Of ioprio_set(2), which the C library does not declare. */
#define IO_WHO_PROCESS 1
#define IO_CLASS_SHIFT 13
#define IO_CLASS_IDLE 3
#define IO_LEVEL_MAX 7

static void on_daemon_death(int signal_number) {
  (void)signal_number;
  signal(SIGALRM, SIG_DFL);
  alarm(LAST_SECONDS); /* The reader sees the end of the stream; this is the second wall. */
}

static void prepare_process(void) {
  signal(SIGPIPE, SIG_IGN);
  /* A terminal's Ctrl-C or a supervisor's SIGTERM is for the daemon, which ends us in order: by closing the socket. */
  signal(SIGINT, SIG_IGN);
  signal(SIGHUP, SIG_IGN);
  signal(SIGTERM, SIG_IGN);
  signal(SIGUSR2, on_daemon_death);
  prctl(PR_SET_PDEATHSIG, SIGUSR2);

  struct rlimit none = {0, 0};
  setrlimit(RLIMIT_CORE, &none); /* Lent bytes never lie in a core file. */
  struct rlimit locked;
  if (getrlimit(RLIMIT_MEMLOCK, &locked) == 0 && locked.rlim_cur < locked.rlim_max) {
    locked.rlim_cur = locked.rlim_max;
    setrlimit(RLIMIT_MEMLOCK, &locked);
  }
  int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (fd >= 0) {
    ssize_t written = write(fd, OOM_SCORE_ADJUSTMENT, strlen(OOM_SCORE_ADJUSTMENT));
    (void)written; /* Only a preference. */
    close(fd);
  }
}

static int usage(void) {
  fprintf(stderr, "usage: gb-executor [--priority NICE CLASS LEVEL | --probe [--gpu N]]\n"
                  "Without --probe it is started by a greenboost feeder.\n");
  return 2;
}

/* A number from 0 to `most`, else -1. */
static int parse_number(const char *text, long most) {
  char *end = NULL;
  errno = 0;
  long value = strtol(text, &end, 10);
  return errno == 0 && end != text && *end == '\0' && value >= 0 && value <= most ? (int)value : -1;
}

/* Takes a lower priority, before any thread is there: each has the one of its maker. returns: false for no
 * priority. */
static bool take_priority(char **words) {
  int nice_value = parse_number(words[0], NICE_MAX);
  int io_class = parse_number(words[1], IO_CLASS_IDLE);
  int io_level = parse_number(words[2], IO_LEVEL_MAX);
  if (nice_value < 0 || io_class < 0 || io_level < 0)
    return false;
  if (nice_value > 0 && setpriority(PRIO_PROCESS, 0, nice_value) != 0)
    perror("gb-executor: setpriority");
  if (io_class > 0 && syscall(SYS_ioprio_set, IO_WHO_PROCESS, 0, io_class << IO_CLASS_SHIFT | io_level) != 0)
    perror("gb-executor: ioprio_set");
  return true;
}

/* The descriptor if it is what doors pass connections over, else -1. */
static int door_of(int fd) {
  int type = 0;
  socklen_t length = sizeof(type);
  return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) == 0 && type == SOCK_SEQPACKET ? fd : -1;
}

int main(int argc, char **argv) {
  if (argc == 2 && strcmp(argv[1], "--probe") == 0)
    return gbx_probe(-1);
  int gpu = argc == 4 && strcmp(argv[2], "--gpu") == 0 ? parse_number(argv[3], GPU_MAX) : -1;
  if (gpu >= 0 && strcmp(argv[1], "--probe") == 0)
    return gbx_probe(gpu);
  bool with_priority = argc == 5 && strcmp(argv[1], "--priority") == 0;
  struct stat stat;
  if ((argc != 1 && !with_priority) || fstat(DAEMON_SOCKET, &stat) != 0 || !S_ISSOCK(stat.st_mode))
    return usage();
  if (with_priority && !take_priority(argv + 2))
    return usage();
  prepare_process();
  int result = gbx_serve(DAEMON_SOCKET, door_of(DOOR_SOCKET));
  /* No destructors: the driver's can block on a context that has failed. */
  _exit(result);
}
