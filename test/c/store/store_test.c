/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store_test.c: the encrypted store on a real folder of a real file system: contents against a model,
 * what an attacker or a broken disk may do to the file, budgets, space, threads, kill -9, fork.
 *
 * usage: store_test DIRECTORY [threads]: "threads" forbids io_uring first, as a sandbox does.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../check.h"
#include "core.h"
#include "lock.h"
#include "store_part.h"

#define MIB ((size_t)1 << 20)
#define SLOT GB_STORE_SLOT_BYTES
#define CAPACITY (160 * MIB)
#define MANY (1ull << 50)

static const char *directory;
static char last_log[512];

uint64_t gb_now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

void gb_sleep_ns(uint64_t nanoseconds) {
  struct timespec pause = {.tv_nsec = (long)nanoseconds};
  nanosleep(&pause, NULL);
}

void gb_log(enum gb_log_level level, const char *format, ...) {
  char line[sizeof last_log];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  if (level <= GB_LOG_INFO) memcpy(last_log, line, sizeof line);
}

void gb_event(enum gb_log_level level, CUresult error, const char *name, const char *format, ...) {
  va_list arguments;
  (void)level, (void)error, (void)name;
  va_start(arguments, format);
  vsnprintf(last_log, sizeof last_log, format, arguments);
  va_end(arguments);
}

static unsigned char *memory(size_t bytes) {
  void *mapped =
      mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) exit(3);
  madvise(mapped, bytes, MADV_DONTFORK);
  return mapped;
}

static uint64_t mix(uint64_t x) {
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ x >> 27) * 0x94D049BB133111EBull;
  return x ^ x >> 31;
}

static void fill(unsigned char *bytes, size_t length, uint64_t seed) {
  for (size_t i = 0; i < length; i += 8) {
    uint64_t word = mix(seed * 0x9E3779B97F4A7C15ull + i);
    memcpy(bytes + i, &word, 8);
  }
}

static bool is_filled(const unsigned char *bytes, size_t length, uint64_t seed) {
  for (size_t i = 0; i < length; i += 8) {
    uint64_t word = mix(seed * 0x9E3779B97F4A7C15ull + i);
    if (memcmp(bytes + i, &word, 8) != 0) return false;
  }
  return true;
}

static bool is_zero(const unsigned char *bytes, size_t length) {
  return bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0;
}

/* What an intruder with the same user id can do: the nameless file by way of /proc. */
static int open_file(void) {
  char path[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", gb_store.fd);
  return open(path, O_RDWR | O_CLOEXEC);
}

static uint64_t offset_of(uint32_t slot, uint32_t block) {
  uint64_t offset;
  gb_store_block(slot, block, &offset);
  return offset;
}

/* ---- contents ---- */

static void round_trips_of_every_length(void) {
  static const size_t lengths[] = {4096,           MIB - 4096,     MIB,      MIB + 4096, 2 * MIB,
                                   2 * MIB + 4096, 3 * MIB + 4096, 11 * MIB, SLOT};
  unsigned char *bytes = memory(SLOT);
  REQUIRE(gb_store_open(directory, CAPACITY, MANY) == 0);
  for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
    size_t length = lengths[i];
    uint32_t slot = gb_store_take(length);
    REQUIRE(slot != GB_STORE_SLOT_NONE);
    fill(bytes, length, i);
    CHECK_EQUAL(gb_store_write(slot, bytes, length), 0);
    CHECK(is_filled(bytes, length, i)); /* the caller's bytes stay plain */
    memset(bytes, 0xee, SLOT);
    CHECK_EQUAL(gb_store_read(slot, bytes, length), 0);
    CHECK(is_filled(bytes, length, i));
    CHECK(length == SLOT || bytes[length] == 0xee);
    gb_store_prefetch(slot, length);
    memset(bytes, 0xee, SLOT);
    CHECK_EQUAL(gb_store_read(slot, bytes, length), 0);
    CHECK(is_filled(bytes, length, i));
    CHECK(length == SLOT || bytes[length] == 0xee);
    gb_store_give(slot);
  }
  CHECK_EQUAL(gb_store_used(), 0);
  gb_store_close();
  munmap(bytes, SLOT);
}

#define SLOTS 24u

static void random_work_matches_a_model(void) {
  unsigned char *bytes = memory(SLOT);
  struct {
    uint32_t slot;
    size_t length;
    uint64_t seed; /* 0: nothing written */
  } model[SLOTS];
  uint64_t state = 7;
  uint64_t used = 0;
  REQUIRE(gb_store_open(directory, CAPACITY, MANY) == 0);
  for (uint32_t i = 0; i < SLOTS; i++) model[i].slot = GB_STORE_SLOT_NONE;
  for (uint64_t step = 1; step < 400; step++) {
    uint32_t i = (uint32_t)((state = mix(state + step)) % SLOTS);
    uint64_t what = state >> 32 & 7;
    if (model[i].slot == GB_STORE_SLOT_NONE) {
      model[i].length = (1 + (state >> 40) % 8) * 2 * MIB;
      model[i].seed = 0;
      model[i].slot = gb_store_take(model[i].length);
      bool fits = used + model[i].length <= CAPACITY;
      CHECK_EQUAL(model[i].slot != GB_STORE_SLOT_NONE, fits);
      if (fits) used += model[i].length;
    } else if (what == 0) {
      gb_store_give(model[i].slot);
      used -= model[i].length;
      model[i].slot = GB_STORE_SLOT_NONE;
    } else if (what <= 2 || model[i].seed == 0) {
      fill(bytes, model[i].length, step);
      model[i].seed = step;
      CHECK_EQUAL(gb_store_write_begin(model[i].slot, bytes, model[i].length), 0);
      memset(bytes, 0, model[i].length); /* the buffer is ours again before the write is done */
      CHECK_EQUAL(gb_store_write_end(model[i].slot), 0);
    } else if (what <= 4) {
      gb_store_prefetch(model[i].slot, model[i].length);
    } else {
      CHECK_EQUAL(gb_store_read(model[i].slot, bytes, model[i].length), 0);
      CHECK(is_filled(bytes, model[i].length, model[i].seed));
    }
    CHECK_EQUAL(gb_store_used(), used);
  }
  gb_store_close();
  munmap(bytes, SLOT);
}

static void reading_ahead_never_shows_old_bytes(void) {
  unsigned char *bytes = memory(SLOT);
  uint32_t slots[GB_STORE_AHEAD + 8];
  const uint32_t count = GB_STORE_AHEAD + 8;
  REQUIRE(gb_store_open(directory, count * 2 * MIB + SLOT, MANY) == 0);
  for (uint32_t i = 0; i < count; i++) {
    slots[i] = gb_store_take(2 * MIB);
    fill(bytes, 2 * MIB, i);
    CHECK_EQUAL(gb_store_write(slots[i], bytes, 2 * MIB), 0);
  }
  for (int round = 1; round <= 3; round++) {
    for (uint32_t i = 0; i < count; i++) gb_store_prefetch(slots[i], 2 * MIB); /* too many */
    for (uint32_t i = 0; i < count; i += 2) {
      fill(bytes, 2 * MIB, i + 1000u * (unsigned)round);
      CHECK_EQUAL(gb_store_write(slots[i], bytes, 2 * MIB), 0);
    }
    for (uint32_t i = 0; i < count; i++) {
      uint64_t seed = i % 2 == 0 ? i + 1000u * (unsigned)round : i;
      CHECK_EQUAL(gb_store_read(slots[i], bytes, 2 * MIB), 0);
      CHECK(is_filled(bytes, 2 * MIB, seed));
    }
  }
  /* A slot given back and taken again is another slot. */
  gb_store_prefetch(slots[0], 2 * MIB);
  gb_store_give(slots[0]);
  uint32_t again = gb_store_take(2 * MIB);
  CHECK_EQUAL(gb_store_read(again, bytes, 2 * MIB), -EINVAL);
  gb_store_close();
  munmap(bytes, SLOT);
}

static void misuse_is_refused(void) {
  unsigned char *bytes = memory(SLOT);
  REQUIRE(gb_store_open(directory, 32 * MIB, MANY) == 0);
  CHECK_EQUAL(gb_store_open(directory, 32 * MIB, MANY), -EALREADY);
  CHECK(gb_store_take(0) == GB_STORE_SLOT_NONE);
  CHECK(gb_store_take(SLOT + 1) == GB_STORE_SLOT_NONE);
  uint32_t slot = gb_store_take(4 * MIB);
  CHECK_EQUAL(gb_store_read(slot, bytes, 4 * MIB), -EINVAL); /* never written */
  CHECK_EQUAL(gb_store_write(slot, bytes, 6 * MIB), -EINVAL);
  CHECK_EQUAL(gb_store_write(slot, bytes, 100), -EINVAL);
  CHECK_EQUAL(gb_store_write(slot, bytes + 8, 4096), -EINVAL);
  CHECK_EQUAL(gb_store_write(slot, bytes, 4 * MIB), 0);
  CHECK_EQUAL(gb_store_read(slot, bytes, 2 * MIB), -EINVAL); /* not what was written */
  CHECK_EQUAL(gb_store_read(slot, bytes + 8, 4 * MIB), -EINVAL);
  CHECK_EQUAL(gb_store_read(GB_STORE_SLOT_NONE, bytes, 4 * MIB), -EINVAL);
  CHECK_EQUAL(gb_store_write(15, bytes, 4096), -EINVAL); /* never taken */
  gb_store_prefetch(15, 4096);
  gb_store_give(slot);
  gb_store_give(slot);
  CHECK_EQUAL(gb_store_used(), 0);
  CHECK_EQUAL(gb_store_write(slot, bytes, 4 * MIB), -EINVAL);
  gb_store_close();
  CHECK(gb_store_take(4096) == GB_STORE_SLOT_NONE);
  CHECK_EQUAL(gb_store_read(slot, bytes, 4096), -EINVAL);
  munmap(bytes, SLOT);
}

/* ---- the file in wrong hands ---- */

static void a_changed_bit_is_found(void) {
  unsigned char *bytes = memory(SLOT);
  REQUIRE(gb_store_open(directory, 64 * MIB, MANY) == 0);
  uint32_t slot = gb_store_take(SLOT);
  uint32_t other = gb_store_take(SLOT);
  fill(bytes, SLOT, 1);
  CHECK_EQUAL(gb_store_write(slot, bytes, SLOT), 0);
  CHECK_EQUAL(gb_store_write(other, bytes, SLOT), 0);
  int file = open_file();
  REQUIRE(file >= 0);
  for (uint32_t block = 0; block < GB_STORE_BLOCKS; block += 5) {
    uint64_t at = offset_of(slot, block) + 4097 * block;
    unsigned char byte;
    REQUIRE(pread(file, &byte, 1, (off_t)at) == 1);
    byte ^= 0x10;
    REQUIRE(pwrite(file, &byte, 1, (off_t)at) == 1);
    if (block == 10) gb_store_prefetch(slot, SLOT);
    CHECK_EQUAL(gb_store_read(slot, bytes, SLOT), -EBADMSG);
    CHECK(is_zero(bytes, SLOT)); /* nothing unproven gets out */
    byte ^= 0x10;
    REQUIRE(pwrite(file, &byte, 1, (off_t)at) == 1);
    CHECK_EQUAL(gb_store_read(slot, bytes, SLOT), 0);
    CHECK(is_filled(bytes, SLOT, 1));
  }
  CHECK_EQUAL(gb_store_read(other, bytes, SLOT), 0);
  close(file);
  gb_store_close();
  munmap(bytes, SLOT);
}

static void copy_block(int file, uint64_t from, uint64_t to) {
  unsigned char *block = memory(MIB);
  CHECK(pread(file, block, MIB, (off_t)from) == (ssize_t)MIB);
  CHECK(pwrite(file, block, MIB, (off_t)to) == (ssize_t)MIB);
  munmap(block, MIB);
}

static void bytes_of_another_slot_or_time_are_found(void) {
  unsigned char *bytes = memory(SLOT);
  unsigned char *old = memory(MIB);
  REQUIRE(gb_store_open(directory, 64 * MIB, MANY) == 0);
  uint32_t one = gb_store_take(4 * MIB);
  uint32_t two = gb_store_take(4 * MIB);
  fill(bytes, 4 * MIB, 1);
  CHECK_EQUAL(gb_store_write(one, bytes, 4 * MIB), 0);
  CHECK_EQUAL(gb_store_write(two, bytes, 4 * MIB), 0); /* the same content */
  int file = open_file();
  REQUIRE(file >= 0);
  copy_block(file, offset_of(one, 2), offset_of(two, 2));
  CHECK_EQUAL(gb_store_read(two, bytes, 4 * MIB), -EBADMSG);
  copy_block(file, offset_of(one, 1), offset_of(one, 0));
  CHECK_EQUAL(gb_store_read(one, bytes, 4 * MIB), -EBADMSG);
  fill(bytes, 4 * MIB, 2);
  CHECK_EQUAL(gb_store_write(one, bytes, 4 * MIB), 0);
  REQUIRE(pread(file, old, MIB, (off_t)offset_of(one, 3)) == (ssize_t)MIB);
  CHECK_EQUAL(gb_store_write(one, bytes, 4 * MIB), 0); /* the same again, sealed anew */
  CHECK_EQUAL(gb_store_read(one, bytes, 4 * MIB), 0);
  REQUIRE(pwrite(file, old, MIB, (off_t)offset_of(one, 3)) == (ssize_t)MIB);
  CHECK_EQUAL(gb_store_read(one, bytes, 4 * MIB), -EBADMSG);
  close(file);
  gb_store_close();
  munmap(bytes, SLOT);
  munmap(old, MIB);
}

static void the_file_holds_no_plain_bytes(void) {
  static const char secret[] = "a key of sixty-four bytes, which nobody may find on the disk";
  unsigned char *bytes = memory(SLOT);
  unsigned char *raw = memory(SLOT);
  REQUIRE(gb_store_open(directory, 32 * MIB, MANY) == 0);
  uint32_t slot = gb_store_take(SLOT);
  for (size_t i = 0; i < SLOT; i += 64) memcpy(bytes + i, secret, sizeof secret);
  CHECK_EQUAL(gb_store_write(slot, bytes, SLOT), 0);
  int file = open_file();
  REQUIRE(file >= 0);
  uint64_t zeros = 0;
  for (uint32_t block = 0; block < GB_STORE_BLOCKS; block++) {
    CHECK(pread(file, raw + block * MIB, MIB, (off_t)offset_of(slot, block)) == (ssize_t)MIB);
    CHECK(memcmp(raw + block * MIB, raw, 64) != 0 || block == 0); /* nor the same twice */
  }
  for (size_t i = 0; i < SLOT; i++) zeros += raw[i] == 0;
  CHECK(memmem(raw, SLOT, secret, 16) == NULL);
  CHECK(zeros > SLOT / 512 && zeros < SLOT / 128); /* as of noise: 1 in 256 */
  close(file);
  gb_store_close();
  munmap(bytes, SLOT);
  munmap(raw, SLOT);
}

static void a_shortened_file_is_an_error(void) {
  unsigned char *bytes = memory(SLOT);
  REQUIRE(gb_store_open(directory, 64 * MIB, MANY) == 0);
  uint32_t slot = gb_store_take(SLOT);
  fill(bytes, SLOT, 1);
  CHECK_EQUAL(gb_store_write(slot, bytes, SLOT), 0);
  int file = open_file();
  REQUIRE(file >= 0 && ftruncate(file, 0) == 0);
  CHECK_EQUAL(gb_store_read(slot, bytes, SLOT), -EIO);
  CHECK(is_zero(bytes, SLOT));
  /* A write that fails is said, and what the slot held is not offered again. */
  struct rlimit limit = {.rlim_cur = MIB, .rlim_max = RLIM_INFINITY};
  struct rlimit before;
  getrlimit(RLIMIT_FSIZE, &before);
  limit.rlim_max = before.rlim_max;
  signal(SIGXFSZ, SIG_IGN);
  setrlimit(RLIMIT_FSIZE, &limit);
  CHECK(gb_store_write(slot, bytes, SLOT) < 0);
  setrlimit(RLIMIT_FSIZE, &before);
  CHECK(gb_store_read(slot, bytes, SLOT) < 0);
  CHECK_EQUAL(gb_store_write(slot, bytes, SLOT), 0);
  CHECK_EQUAL(gb_store_read(slot, bytes, SLOT), 0);
  close(file);
  gb_store_close();
  munmap(bytes, SLOT);
}

/* ---- directories, budgets ---- */

static void account_path(char path[512]) {
  snprintf(path, 512, "%s/.greenboost-writes-%u", directory, (unsigned)geteuid());
}

/* Names in the directory beside the account of writes. */
static unsigned names_left(void) {
  unsigned count = 0;
  DIR *folder = opendir(directory);
  for (struct dirent *entry; folder != NULL && (entry = readdir(folder)) != NULL;) {
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    count += strncmp(entry->d_name, ".greenboost-writes-", 19) != 0;
  }
  if (folder != NULL) closedir(folder);
  return count;
}

static void unfit_directories_are_refused(void) {
  CHECK_EQUAL(gb_store_open("/nowhere/at/all", 32 * MIB, MANY), -ENOENT);
  CHECK(strstr(last_log, "/nowhere/at/all") != NULL);
  CHECK_EQUAL(gb_store_open("/dev/shm", 32 * MIB, MANY), -EOPNOTSUPP);
  CHECK(strstr(last_log, "tmpfs") != NULL);
  CHECK_EQUAL(gb_store_open(directory, 1ull << 52, MANY), -ENOSPC);
  CHECK(strstr(last_log, "GREENBOOST_NVME_BUDGET") != NULL);
  CHECK_EQUAL(gb_store_open(directory, MIB, MANY), -EINVAL);
  CHECK(!gb_store_ready() && gb_store_capacity() == 0);
  CHECK_EQUAL(names_left(), 0);
}

static void space_is_reserved_and_given_back(void) {
  struct stat before;
  REQUIRE(gb_store_open(directory, 128 * MIB + 5, MANY) == 0);
  CHECK_EQUAL(gb_store_capacity(), 128 * MIB);
  CHECK(gb_store_read_rate() > 0);
  REQUIRE(fstat(gb_store.fd, &before) == 0);
  CHECK((uint64_t)before.st_blocks * 512 >= 128 * MIB && before.st_nlink == 0);
  CHECK_EQUAL(before.st_mode & 0777, 0600);
  CHECK_EQUAL(names_left(), 0);
  gb_store_close();
}

static void writes_stop_at_the_budget_of_the_day(void) {
  char path[512];
  unsigned char *bytes = memory(SLOT);
  account_path(path);
  unlink(path);
  REQUIRE(gb_store_open(directory, 64 * MIB, 40 * MIB) == 0); /* its own trial is 16 of them */
  uint32_t slot = gb_store_take(SLOT);
  fill(bytes, SLOT, 3);
  CHECK_EQUAL(gb_store_write(slot, bytes, SLOT), 0);
  fill(bytes, SLOT, 4);
  CHECK_EQUAL(gb_store_write(slot, bytes, SLOT), -EDQUOT);
  CHECK(strstr(last_log, "GREENBOOST_NVME_WRITES_PER_DAY") != NULL);
  CHECK_EQUAL(gb_store_read(slot, bytes, SLOT), 0);
  CHECK(is_filled(bytes, SLOT, 3)); /* refused before anything was touched */
  uint32_t small = gb_store_take(4 * MIB);
  CHECK_EQUAL(gb_store_write(small, bytes, 4 * MIB), 0); /* what is left may be used */
  gb_store_close();
  CHECK_EQUAL(gb_store_open(directory, 64 * MIB, 40 * MIB), -EDQUOT); /* another process, today */
  REQUIRE(gb_store_open(directory, 64 * MIB, 100 * MIB) == 0);
  gb_store_close();
  int file = open(path, O_WRONLY | O_TRUNC);
  CHECK(write(file, "12 99999999999\n", 15) == 15); /* an account of long ago */
  close(file);
  CHECK_EQUAL(gb_store_open(directory, 64 * MIB, 40 * MIB), 0);
  gb_store_close();
  unlink(path);
  munmap(bytes, SLOT);
}

static void an_account_of_somebody_else_is_refused(void) {
  char path[512];
  account_path(path);
  unlink(path);
  CHECK(symlink("/etc/hostname", path) == 0);
  CHECK(gb_store_open(directory, 32 * MIB, MANY) < 0);
  unlink(path);
  CHECK(mkdir(path, 0700) == 0);
  CHECK(gb_store_open(directory, 32 * MIB, MANY) < 0);
  rmdir(path);
  CHECK(!gb_store_ready());
}

/* ---- processes and threads ---- */

#define WORKERS 6u

struct worker {
  pthread_t thread;
  uint64_t seed;
  unsigned wrong;
};

static void *work(void *argument) {
  struct worker *worker = argument;
  unsigned char *bytes = memory(4 * MIB);
  uint32_t slots[3];
  uint64_t seeds[3] = {0};
  uint64_t state = worker->seed;
  for (int i = 0; i < 3; i++) slots[i] = gb_store_take(4 * MIB);
  for (uint64_t step = 1; step <= 60; step++) {
    uint32_t i = (uint32_t)((state = mix(state + step)) % 3);
    if (slots[i] == GB_STORE_SLOT_NONE) {
      worker->wrong++;
    } else if (seeds[i] == 0 || (state >> 32) % 3 == 0) {
      seeds[i] = worker->seed * 1000 + step;
      fill(bytes, 4 * MIB, seeds[i]);
      worker->wrong += gb_store_write(slots[i], bytes, 4 * MIB) != 0;
    } else {
      if ((state >> 33) % 2 == 0) gb_store_prefetch(slots[i], 4 * MIB);
      worker->wrong += gb_store_read(slots[i], bytes, 4 * MIB) != 0;
      worker->wrong += !is_filled(bytes, 4 * MIB, seeds[i]);
    }
    if ((state >> 40) % 16 == 0) {
      gb_store_give(slots[i]);
      slots[i] = gb_store_take(4 * MIB);
      seeds[i] = 0;
    }
  }
  for (int i = 0; i < 3; i++) gb_store_give(slots[i]);
  munmap(bytes, 4 * MIB);
  return NULL;
}

static void threads_do_not_meet(void) {
  struct worker workers[WORKERS];
  REQUIRE(gb_store_open(directory, 96 * MIB, MANY) == 0);
  for (unsigned i = 0; i < WORKERS; i++) {
    workers[i] = (struct worker){.seed = i + 1};
    REQUIRE(pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0);
  }
  for (unsigned i = 0; i < WORKERS; i++) {
    pthread_join(workers[i].thread, NULL);
    CHECK_EQUAL(workers[i].wrong, 0);
  }
  CHECK_EQUAL(gb_store_used(), 0);
  gb_store_close();
}

static void a_killed_process_leaves_nothing(void) {
  int pipes[2];
  char byte = 0;
  REQUIRE(pipe(pipes) == 0);
  pid_t child = fork();
  if (child == 0) {
    unsigned char *bytes = memory(SLOT);
    bool fine = gb_store_open(directory, 64 * MIB, MANY) == 0;
    uint32_t slot = gb_store_take(SLOT);
    fine = fine && gb_store_write(slot, bytes, SLOT) == 0 &&
           gb_store_write_begin(slot, bytes, SLOT) == 0; /* killed in the middle of this one */
    byte = fine ? 'y' : 'n';
    if (write(pipes[1], &byte, 1) != 1) _exit(1);
    for (;;) pause();
  }
  REQUIRE(child > 0 && read(pipes[0], &byte, 1) == 1);
  CHECK_EQUAL(byte, 'y');
  CHECK_EQUAL(names_left(), 0); /* not even while it runs */
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
  CHECK_EQUAL(names_left(), 0);
  close(pipes[0]);
  close(pipes[1]);
}

static void a_forked_child_has_no_part(void) {
  unsigned char *bytes = memory(SLOT);
  REQUIRE(gb_store_open(directory, 64 * MIB, MANY) == 0);
  uint32_t slot = gb_store_take(SLOT);
  fill(bytes, SLOT, 9);
  CHECK_EQUAL(gb_store_write(slot, bytes, SLOT), 0);
  gb_store_prefetch(slot, SLOT); /* in flight over the fork */
  pid_t child = fork();
  if (child == 0) {
    gb_store_forked();
    _exit(gb_store_ready() || gb_store_take(4096) != GB_STORE_SLOT_NONE);
  }
  int status = 1;
  CHECK_EQUAL(gb_store_read(slot, bytes, SLOT), 0);
  CHECK(is_filled(bytes, SLOT, 9));
  waitpid(child, &status, 0);
  CHECK_EQUAL(status, 0);
  gb_store_close();
  munmap(bytes, SLOT);
}

static void closing_waits_for_what_is_under_way(void) {
  unsigned char *bytes = memory(SLOT);
  for (int round = 0; round < 5; round++) {
    REQUIRE(gb_store_open(directory, 64 * MIB, MANY) == 0);
    uint32_t slot = gb_store_take(SLOT);
    uint32_t ahead = gb_store_take(SLOT);
    CHECK_EQUAL(gb_store_write(ahead, bytes, SLOT), 0);
    gb_store_prefetch(ahead, SLOT);
    CHECK_EQUAL(gb_store_write_begin(slot, bytes, SLOT), 0);
    gb_store_give(slot); /* its units are free when the write has ended */
    gb_store_close();
    CHECK_EQUAL(gb_store.fd, -1);
  }
  munmap(bytes, SLOT);
}

/* ---- the cipher ---- */

static void only_its_own_name_opens_a_block(void) {
  unsigned char *plain = memory(MIB);
  unsigned char *sealed = memory(MIB);
  unsigned char tag[GB_TAG_BYTES];
  REQUIRE(gb_crypt_open() == 0);
  fill(plain, MIB, 1);
  CHECK_EQUAL(gb_crypt_seal(5, 3, plain, sealed, MIB, tag), 0);
  CHECK(memcmp(plain, sealed, 64) != 0);
  CHECK_EQUAL(gb_crypt_unseal(5, 2, sealed, plain, MIB, tag), -EBADMSG);
  CHECK_EQUAL(gb_crypt_unseal(6, 3, sealed, plain, MIB, tag), -EBADMSG);
  CHECK_EQUAL(gb_crypt_unseal(5, 3, sealed, plain, MIB - 4096, tag), -EBADMSG);
  CHECK_EQUAL(gb_crypt_unseal(5, 3, sealed, plain, MIB, tag), 0);
  CHECK(is_filled(plain, MIB, 1));
  gb_crypt_close();
  REQUIRE(gb_crypt_open() == 0); /* another key */
  CHECK_EQUAL(gb_crypt_unseal(5, 3, sealed, plain, MIB, tag), -EBADMSG);
  gb_crypt_close();
  CHECK_EQUAL(gb_crypt_seal(5, 3, plain, sealed, MIB, tag), -ENOMEM);
  munmap(plain, MIB);
  munmap(sealed, MIB);
}

/* ---- */

static bool forbid_io_uring(void) {
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = {.len = 4, .filter = code};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

int main(int argc, char **argv) {
  if (argc < 2) return 2;
  directory = argv[1];
  bool threads = argc > 2 && strcmp(argv[2], "threads") == 0;
  if (threads && !forbid_io_uring()) return 2;
  RUN(only_its_own_name_opens_a_block);
  RUN(round_trips_of_every_length);
  RUN(random_work_matches_a_model);
  RUN(reading_ahead_never_shows_old_bytes);
  RUN(misuse_is_refused);
  RUN(a_changed_bit_is_found);
  RUN(bytes_of_another_slot_or_time_are_found);
  RUN(the_file_holds_no_plain_bytes);
  RUN(a_shortened_file_is_an_error);
  RUN(unfit_directories_are_refused);
  RUN(space_is_reserved_and_given_back);
  RUN(writes_stop_at_the_budget_of_the_day);
  RUN(an_account_of_somebody_else_is_refused);
  RUN(threads_do_not_meet);
  RUN(closing_waits_for_what_is_under_way);
  RUN(a_killed_process_leaves_nothing);
  RUN(a_forked_child_has_no_part);
  return check_done();
}
