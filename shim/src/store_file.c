/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store_file.c: the file without a name, its space, and how much may be written in a day. Everything
 * that can be wrong with a directory is said here, before a program counts on it.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "core.h"
#include "lock.h"
#include "store_part.h"

#define CHOSEN_BYTES_MAX (64ull << 30)
/* Left free for everybody else. */
#define SPARE_BYTES (1ull << 30)
#define BUDGET_LOCK_MS 2000u

/* ---- the file ---- */

/* Memory and network are no T3: they do not read at a drive's rate, or are what runs out. */
static const char *unsuitable(long type) {
  switch ((unsigned long)type) {
    case TMPFS_MAGIC: return "tmpfs (memory)";
    case RAMFS_MAGIC: return "ramfs (memory)";
    case NFS_SUPER_MAGIC: return "NFS";
    case SMB_SUPER_MAGIC:
    case 0xff534d42ul: /* cifs */
    case 0xfe534d42ul: /* smb2 */ return "a network share";
    case 0x65735546ul: return "FUSE";
    case 0x00c36400ul: return "Ceph";
    case V9FS_MAGIC: return "9P";
    default: return NULL;
  }
}

static int choose_bytes(const char *directory, const struct statfs *fs, uint64_t *bytes) {
  uint64_t available = (uint64_t)fs->f_bavail * (uint64_t)fs->f_bsize;
  uint64_t most = available > SPARE_BYTES ? available - SPARE_BYTES : 0;
  if (*bytes == GB_STORE_CHOOSE) *bytes = most / 2 < CHOSEN_BYTES_MAX ? most / 2 : CHOSEN_BYTES_MAX;
  *bytes -= *bytes % GB_STORE_UNIT_BYTES;
  if (*bytes >= GB_STORE_SLOT_BYTES && *bytes <= most) return 0;
  if (*bytes < GB_STORE_SLOT_BYTES && most >= GB_STORE_SLOT_BYTES) {
    gb_event(GB_LOG_ERROR, CUDA_SUCCESS, "nvme_refused",
             "T3: GREENBOOST_NVME_BUDGET must be at least %u MiB", GB_STORE_SLOT_BYTES >> 20);
    return -EINVAL;
  }
  gb_event(GB_LOG_ERROR, CUDA_SUCCESS, "nvme_refused",
           "T3: %s has room for %llu MiB (1 GiB stays free), not for %llu: free some, or lower "
           "GREENBOOST_NVME_BUDGET",
           directory, (unsigned long long)(most >> 20), (unsigned long long)(*bytes >> 20));
  return -ENOSPC;
}

/* Not every file system knows O_TMPFILE: there the name lives for a moment. */
static int open_named(const char *directory) {
  char path[320];
  uint64_t now = gb_now_ns();
  int length = snprintf(path, sizeof path, "%s/.greenboost-%ld-%llx", directory, (long)getpid(),
                        (unsigned long long)now);
  if (length < 0 || length >= (int)sizeof path) return -ENAMETOOLONG;
  int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_DIRECT | O_CLOEXEC | O_NOFOLLOW, 0600);
  int error = fd < 0 ? -errno : 0;
  unlink(path); /* with O_DIRECT refused the name may be there all the same */
  return fd < 0 ? error : fd;
}

static int open_nameless(const char *directory) {
  int fd = open(directory, O_TMPFILE | O_RDWR | O_DIRECT | O_CLOEXEC | O_EXCL, 0600);
  if (fd >= 0) return fd;
  return errno == EOPNOTSUPP || errno == EISDIR ? open_named(directory) : -errno;
}

int gb_store_file_open(const char *directory, uint64_t *bytes) {
  struct statfs fs;
  if (statfs(directory, &fs) != 0) {
    int error = -errno;
    gb_event(GB_LOG_ERROR, CUDA_SUCCESS, "nvme_refused",
             "T3: GREENBOOST_NVME_DIR=%s: %s", directory, strerror(-error));
    return error;
  }
  const char *why = unsuitable((long)fs.f_type);
  if (why != NULL) {
    gb_event(GB_LOG_ERROR, CUDA_SUCCESS, "nvme_refused",
             "T3: GREENBOOST_NVME_DIR=%s is %s: give a folder on a local drive", directory, why);
    return -EOPNOTSUPP;
  }
  int error = choose_bytes(directory, &fs, bytes);
  if (error != 0) return error;
  int fd = open_nameless(directory);
  if (fd < 0) {
    gb_event(GB_LOG_ERROR, CUDA_SUCCESS, "nvme_refused",
             "T3: no file for direct I/O in GREENBOOST_NVME_DIR=%s: %s", directory, strerror(-fd));
    return fd;
  }
  if (fallocate(fd, 0, 0, (off_t)*bytes) == 0) return fd;
  error = -errno;
  gb_event(GB_LOG_ERROR, CUDA_SUCCESS, "nvme_refused",
           "T3: %llu MiB cannot be reserved in %s: %s",
           (unsigned long long)(*bytes >> 20), directory, strerror(-error));
  close(fd);
  return error;
}

/* ---- the write budget ---- */

static struct {
  pthread_mutex_t lock;
  int fd;
  uint64_t per_day;
  uint64_t said_on; /* day of the last complaint */
} budget = {.lock = PTHREAD_MUTEX_INITIALIZER, .fd = -1};

int gb_write_budget_open(const char *directory, uint64_t bytes_per_day) {
  char path[320];
  struct stat state;
  struct statfs fs;
  int length = snprintf(path, sizeof path, "%s/.greenboost-writes-%u", directory,
                        (unsigned)geteuid());
  if (length < 0 || length >= (int)sizeof path) return -ENAMETOOLONG;
  int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  bool ours = fd >= 0 && fstat(fd, &state) == 0 && S_ISREG(state.st_mode) &&
              state.st_uid == geteuid();
  if (!ours || fstatfs(fd, &fs) != 0) {
    int error = fd < 0 ? -errno : -EPERM;
    gb_event(GB_LOG_ERROR, CUDA_SUCCESS, "nvme_refused",
             "T3: the account of writes %s cannot be used: %s", path, strerror(-error));
    if (fd >= 0) close(fd);
    return error;
  }
  if (bytes_per_day == GB_STORE_CHOOSE)
    bytes_per_day = (uint64_t)fs.f_blocks * (uint64_t)fs.f_bsize / 10 * 3;
  budget.fd = fd;
  budget.per_day = bytes_per_day;
  budget.said_on = 0;
  return 0;
}

void gb_write_budget_close(void) {
  pthread_mutex_lock(&budget.lock);
  if (budget.fd >= 0) close(budget.fd);
  budget.fd = -1;
  pthread_mutex_unlock(&budget.lock);
}

static int lock_file(void) {
  for (uint32_t waited = 0; flock(budget.fd, LOCK_EX | LOCK_NB) != 0; waited++) {
    if ((errno != EWOULDBLOCK && errno != EINTR) || waited >= BUDGET_LOCK_MS) {
      gb_log(GB_LOG_WARN, "T3: the account of writes stays locked: %s", strerror(errno));
      return -EBUSY;
    }
    gb_sleep_ns(GB_MS);
  }
  return 0;
}

/* Bytes written on this day so far: the file holds one line "DAY BYTES", days from 1970 in UTC. */
static uint64_t read_account(uint64_t day) {
  char line[64] = {0};
  unsigned long long on = 0;
  unsigned long long bytes = 0;
  if (pread(budget.fd, line, sizeof line - 1, 0) <= 0) return 0;
  return sscanf(line, "%llu %llu", &on, &bytes) == 2 && on == day ? bytes : 0;
}

static int count(uint64_t day, uint64_t bytes) {
  char line[64];
  uint64_t before = read_account(day);
  if (before > budget.per_day || bytes > budget.per_day - before) return -EDQUOT;
  int length = snprintf(line, sizeof line, "%llu %llu\n", (unsigned long long)day,
                        (unsigned long long)(before + bytes));
  if (pwrite(budget.fd, line, (size_t)length, 0) != length) return -EIO;
  return ftruncate(budget.fd, length) == 0 ? 0 : -errno;
}

int gb_write_budget_take(uint64_t bytes) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  uint64_t day = (uint64_t)now.tv_sec / 86400;
  pthread_mutex_lock(&budget.lock);
  int error = budget.fd >= 0 ? lock_file() : -EBADF;
  if (error == 0) {
    error = count(day, bytes);
    flock(budget.fd, LOCK_UN);
  }
  bool say = error == -EDQUOT && budget.said_on != day;
  if (say) budget.said_on = day;
  uint64_t per_day = budget.per_day;
  pthread_mutex_unlock(&budget.lock);
  if (say) {
    gb_event(GB_LOG_ERROR, CUDA_SUCCESS, "nvme_writes_spent",
             "T3: today's %llu MiB of writes are used up: they begin anew at 0:00 UTC, or raise "
             "GREENBOOST_NVME_WRITES_PER_DAY", (unsigned long long)(per_day >> 20));
  }
  return error;
}
