/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trouble.c: preloaded into a daemon of a test, makes its clocks jump and its disk slow while it runs. The file named
 * by GBTROUBLE_FILE holds int64 (little-endian, nanoseconds), read anew at each call:
 *
 *   0   added to the wall clock (CLOCK_REALTIME, time, gettimeofday)
 *   8   added to CLOCK_BOOTTIME alone: the time a machine was suspended
 *   16  every sync and rename of a file below GBTROUBLE_FOLDER takes so much longer, and every open for writing and
 *       write, which mostly meet the page cache, an eighth of it
 *   24  how many calls took longer (written)
 *
 * A wall clock cannot be set in a namespace, and a time namespace only shifts what starts in it; a jump of a running
 * process needs its own libc calls.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000ll
#define NEXT(name) ((__typeof__(&name))next(#name))

enum { WALL, SUSPENDED, DISK, SLOWED, WORDS };

static int64_t none[WORDS];
static volatile int64_t *words = none;
static char folder[4096];
static size_t folder_length;

static void *next(const char *name) {
  void *found = dlsym(RTLD_NEXT, name);
  if (found == NULL) abort();
  return found;
}

__attribute__((constructor)) static void trouble_open(void) {
  const char *path = getenv("GBTROUBLE_FILE"), *below = getenv("GBTROUBLE_FOLDER");
  if (below != NULL) folder_length = (size_t)snprintf(folder, sizeof folder, "%s/", below);
  if (path == NULL || folder_length >= sizeof folder) return;
  const int fd = NEXT(open)(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) return;
  void *mapped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (mapped != MAP_FAILED) words = mapped;
  close(fd);
}

/* ---- clocks ---- */

static int64_t offset_of(clockid_t clock) {
  switch (clock) {
    case CLOCK_REALTIME:
    case CLOCK_REALTIME_COARSE:
    case CLOCK_TAI: return words[WALL];
    case CLOCK_BOOTTIME: return words[SUSPENDED];
    default: return 0;
  }
}

__attribute__((visibility("default"))) int clock_gettime(clockid_t clock, struct timespec *at) {
  static __typeof__(&clock_gettime) real;
  if (real == NULL) real = NEXT(clock_gettime);
  const int result = real(clock, at);
  const int64_t offset = offset_of(clock);
  if (result != 0 || offset == 0) return result;
  const int64_t total = (int64_t)at->tv_sec * SECOND + at->tv_nsec + offset;
  *at = (struct timespec){.tv_sec = total / SECOND, .tv_nsec = total % SECOND};
  return 0;
}

__attribute__((visibility("default"))) int gettimeofday(struct timeval *restrict at, void *restrict zone) {
  struct timespec precise;
  (void)zone;
  if (clock_gettime(CLOCK_REALTIME, &precise) != 0) return -1;
  *at = (struct timeval){.tv_sec = precise.tv_sec, .tv_usec = precise.tv_nsec / 1000};
  return 0;
}

__attribute__((visibility("default"))) time_t time(time_t *at) {
  struct timespec precise;
  clock_gettime(CLOCK_REALTIME, &precise);
  if (at != NULL) *at = precise.tv_sec;
  return precise.tv_sec;
}

/* ---- disk ---- */

/* The part of the wait that writing takes. */
#define WRITE_PART 8

static void wait_if_below(const char *path, int part) {
  const int64_t wait = words[DISK] / part;
  if (wait <= 0 || folder_length == 0 || path == NULL || strncmp(path, folder, folder_length) != 0) return;
  const int kept = errno;
  const struct timespec pause = {.tv_sec = wait / SECOND, .tv_nsec = wait % SECOND};
  __atomic_fetch_add(&words[SLOWED], 1, __ATOMIC_RELAXED);
  nanosleep(&pause, NULL);
  errno = kept;
}

static void wait_for_file(int fd, int part) {
  char link[64], path[4096];
  struct stat facts;
  if (words[DISK] <= 0 || folder_length == 0) return;
  const int kept = errno;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const bool file = fstat(fd, &facts) == 0 && S_ISREG(facts.st_mode);
  const ssize_t length = file ? readlink(link, path, sizeof path - 1) : 0;
  if (length > 0) {
    path[length] = '\0';
    wait_if_below(path, part);
  }
  errno = kept;
}

#define OPEN_FUNCTION(name)                                                                       \
  __attribute__((visibility("default"))) int name(const char *path, int flags, ...) {             \
    va_list rest;                                                                                 \
    va_start(rest, flags);                                                                        \
    const mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(rest, mode_t) : 0;          \
    va_end(rest);                                                                                 \
    if ((flags & O_ACCMODE) != O_RDONLY) wait_if_below(path, WRITE_PART);                        \
    return NEXT(name)(path, flags, mode);                                                         \
  }
OPEN_FUNCTION(open)
OPEN_FUNCTION(open64)

#define WRITE_AT_FUNCTION(name, offset_type)                                                                      \
  __attribute__((visibility("default"))) ssize_t name(int fd, const void *from, size_t count, offset_type offset) { \
    wait_for_file(fd, WRITE_PART);                                                                                \
    return NEXT(name)(fd, from, count, offset);                                                                   \
  }
WRITE_AT_FUNCTION(pwrite, off_t)
WRITE_AT_FUNCTION(pwrite64, off64_t)

__attribute__((visibility("default"))) ssize_t write(int fd, const void *from, size_t count) {
  wait_for_file(fd, WRITE_PART);
  return NEXT(write)(fd, from, count);
}

__attribute__((visibility("default"))) int fsync(int fd) {
  wait_for_file(fd, 1);
  return NEXT(fsync)(fd);
}

__attribute__((visibility("default"))) int fdatasync(int fd) {
  wait_for_file(fd, 1);
  return NEXT(fdatasync)(fd);
}

__attribute__((visibility("default"))) int rename(const char *from, const char *to) {
  wait_if_below(to, 1);
  return NEXT(rename)(from, to);
}
