/* SPDX-License-Identifier: Apache-2.0 */
/* cache_disk.c: see cache_disk.h. */
#define _GNU_SOURCE
#include "cache_disk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "crypt.h"
#include "lane.h"

#define SALT "greenboost block cache, version 1"
#define LABEL "content"
#define NAME_BYTES (2 * GBX_DIGEST_BYTES + 1)
#define TOTAL_FILE ".total"
#define TEMPORARY ".new-"
/* A file that an executor left half written. */
#define TEMPORARY_SECONDS_MAX 600
#define FILE_BYTES (GBX_BLOCK_BYTES + LANE_TAG_BYTES)

static const uint8_t zero_nonce[LANE_NONCE_BYTES];

/* ---- names and seals ---- */

static bool name_of(const struct gbx_disk *disk, const uint8_t *digest, char *name) {
  uint8_t mac[GBX_DIGEST_BYTES];
  if (!lane_hmac(disk->key, sizeof(disk->key), digest, GBX_DIGEST_BYTES, mac))
    return false;
  for (unsigned at = 0; at < sizeof(mac); at++)
    snprintf(name + 2 * at, 3, "%02x", mac[at]);
  return true;
}

static bool is_name(const char *name) {
  return strlen(name) == NAME_BYTES - 1 && strspn(name, "0123456789abcdef") == NAME_BYTES - 1;
}

/* A context with the block's own key. owns: released by aead->destroy. */
static void *context_of(const struct gbx_disk *disk, const struct lane_aead *aead, const uint8_t *digest,
                        bool sealing) {
  uint8_t info[sizeof(LABEL) - 1 + GBX_DIGEST_BYTES], key[LANE_KEY_BYTES];
  memcpy(info, LABEL, sizeof(LABEL) - 1);
  memcpy(info + sizeof(LABEL) - 1, digest, GBX_DIGEST_BYTES);
  void *context = NULL;
  if (lane_hkdf(disk->key, sizeof(disk->key), SALT, sizeof(SALT) - 1, info, sizeof(info), key, sizeof(key)))
    context = aead->create(key, sealing);
  explicit_bzero(key, sizeof(key));
  return context;
}

/* Seals `content` into `sealed`, its tag behind it. */
static bool seal(const struct gbx_disk *disk, const uint8_t *digest, const uint8_t *content, uint8_t *sealed) {
  const struct lane_aead *aead = lane_crypt_find(GB_LANE_CIPHER_AES_256_GCM, GB_LANE_PROVIDER_ANY);
  void *context = aead ? context_of(disk, aead, digest, true) : NULL;
  if (!context)
    return false;
  bool done = aead->begin(context, zero_nonce) && aead->update(context, content, sealed, GBX_BLOCK_BYTES) &&
              aead->tag(context, sealed + GBX_BLOCK_BYTES);
  aead->destroy(context);
  return done;
}

static bool unseal(const struct gbx_disk *disk, const uint8_t *digest, const uint8_t *sealed, uint8_t *content) {
  const struct lane_aead *aead = lane_crypt_find(GB_LANE_CIPHER_AES_256_GCM, GB_LANE_PROVIDER_ANY);
  void *context = aead ? context_of(disk, aead, digest, false) : NULL;
  if (!context)
    return false;
  bool done = aead->begin(context, zero_nonce) && aead->update(context, sealed, content, GBX_BLOCK_BYTES) &&
              aead->verify(context, sealed + GBX_BLOCK_BYTES);
  aead->destroy(context);
  uint8_t found[GBX_DIGEST_BYTES];
  return done && gb_lane_digest(content, GBX_BLOCK_BYTES, found) == GB_LANE_OK &&
         memcmp(found, digest, sizeof(found)) == 0;
}

/* ---- the total ---- */

/* Locks the folder's total, shared by everybody; released by closing. returns: the descriptor, or -1. */
static int lock_total(const struct gbx_disk *disk) {
  int fd = openat(disk->folder, TOTAL_FILE, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  while (fd >= 0 && flock(fd, LOCK_EX) != 0) {
    if (errno == EINTR)
      continue;
    close(fd);
    fd = -1;
  }
  return fd;
}

static uint64_t read_total(int fd) {
  uint64_t total = 0;
  return pread(fd, &total, sizeof(total), 0) == (ssize_t)sizeof(total) ? total : UINT64_MAX;
}

static bool write_total(int fd, uint64_t total) {
  return pwrite(fd, &total, sizeof(total), 0) == (ssize_t)sizeof(total);
}

struct file {
  char name[NAME_BYTES];
  uint64_t bytes;
  int64_t used_ns;
};

static int by_use(const void *left, const void *right) {
  int64_t a = ((const struct file *)left)->used_ns, b = ((const struct file *)right)->used_ns;
  return (a > b) - (a < b);
}

/* Adds a file to the list if it is a block; removes what was left half written. returns: whether the list has room. */
static bool consider(const struct gbx_disk *disk, const char *name, struct file **files, size_t *count, size_t *room) {
  struct stat stat;
  if ((!is_name(name) && strncmp(name, TEMPORARY, sizeof(TEMPORARY) - 1) != 0) ||
      fstatat(disk->folder, name, &stat, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(stat.st_mode))
    return true; /* not ours, or gone meanwhile */
  if (!is_name(name)) {
    if (time(NULL) - stat.st_mtime > TEMPORARY_SECONDS_MAX)
      unlinkat(disk->folder, name, 0);
    return true;
  }
  if (*count == *room) {
    size_t grown = *room ? *room * 2 : 1024;
    struct file *moved = grown <= GBX_DISK_FILES_MAX ? reallocarray(*files, grown, sizeof(**files)) : NULL;
    if (!moved)
      return false;
    *files = moved;
    *room = grown;
  }
  struct file *file = &(*files)[(*count)++];
  memcpy(file->name, name, NAME_BYTES);
  file->bytes = (uint64_t)stat.st_size;
  file->used_ns = (int64_t)stat.st_mtim.tv_sec * 1000000000 + stat.st_mtim.tv_nsec;
  return true;
}

/* Every block of the folder. owns: the caller frees *files. returns: 0 or errno. */
static int list(const struct gbx_disk *disk, struct file **files, size_t *count) {
  size_t room = 0;
  *files = NULL;
  *count = 0;
  int fd = openat(disk->folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR *folder = fd >= 0 ? fdopendir(fd) : NULL;
  if (!folder) {
    int error = errno;
    if (fd >= 0)
      close(fd);
    return error;
  }
  const struct dirent *entry;
  while ((entry = readdir(folder)) != NULL && consider(disk, entry->d_name, files, count, &room))
    ;
  closedir(folder);
  return 0;
}

/* Counts what is there, and forgets what was used last until no more than `most` is left. locks: the total is held.
 * returns: what is left; UINT64_MAX: the folder cannot be read. */
static uint64_t shrink(const struct gbx_disk *disk, uint64_t most) {
  struct file *files;
  size_t count;
  uint64_t total = 0;
  if (list(disk, &files, &count) != 0)
    return UINT64_MAX;
  for (size_t index = 0; index < count; index++)
    total += files[index].bytes;
  if (total > most)
    qsort(files, count, sizeof(*files), by_use);
  for (size_t index = 0; index < count && total > most; index++) {
    if (unlinkat(disk->folder, files[index].name, 0) == 0 || errno == ENOENT)
      total -= files[index].bytes;
  }
  free(files);
  return total;
}

/* Takes room for one more file out of the budget. returns: 0 or errno. */
static int make_room(const struct gbx_disk *disk) {
  int fd = lock_total(disk);
  if (fd < 0)
    return errno;
  uint64_t total = read_total(fd);
  if (total > disk->budget_bytes || disk->budget_bytes - total < FILE_BYTES)
    total = shrink(disk, disk->budget_bytes - disk->budget_bytes / GBX_DISK_ROOM_PART - FILE_BYTES);
  bool fits = total <= disk->budget_bytes - FILE_BYTES;
  int error = !fits ? ENOSPC : write_total(fd, total + FILE_BYTES) ? 0 : EIO;
  close(fd);
  return error;
}

/* Gives back the room of a file that was not written, or is removed. */
static void give_room_back(const struct gbx_disk *disk) {
  int fd = lock_total(disk);
  if (fd < 0)
    return;
  uint64_t total = read_total(fd);
  if (total != UINT64_MAX && total >= FILE_BYTES)
    write_total(fd, total - FILE_BYTES);
  close(fd);
}

/* ---- entry points ---- */

int gbx_disk_open(struct gbx_disk *disk, const char *path, const uint8_t *key, uint64_t budget_bytes) {
  struct stat stat;
  *disk = (struct gbx_disk){.budget_bytes = budget_bytes, .folder = -1};
  if (budget_bytes < GBX_DISK_BYTES_MIN)
    return EINVAL;
  if (!lane_crypt_ready())
    return ENOSYS;
  disk->folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
  if (disk->folder < 0)
    return errno;
  int error = fstat(disk->folder, &stat) != 0 ? errno : 0;
  if (error == 0 && (stat.st_uid != geteuid() || (stat.st_mode & 077) != 0))
    error = EPERM;
  int fd = error == 0 ? lock_total(disk) : -1;
  if (error == 0 && fd < 0)
    error = errno;
  if (fd >= 0) {
    uint64_t total = shrink(disk, budget_bytes);
    error = total == UINT64_MAX || !write_total(fd, total) ? EIO : 0;
    close(fd);
  }
  if (error != 0) {
    close(disk->folder);
    disk->folder = -1;
    return error;
  }
  memcpy(disk->key, key, sizeof(disk->key));
  return 0;
}

static bool read_fully(int fd, uint8_t *bytes, size_t length) {
  for (size_t done = 0; done < length;) {
    ssize_t count = pread(fd, bytes + done, length - done, (off_t)done);
    if (count < 0 && errno == EINTR)
      continue;
    if (count <= 0)
      return false;
    done += (size_t)count;
  }
  return true;
}

static bool write_fully(int fd, const uint8_t *bytes, size_t length) {
  for (size_t done = 0; done < length;) {
    ssize_t count = pwrite(fd, bytes + done, length - done, (off_t)done);
    if (count < 0 && errno == EINTR)
      continue;
    if (count <= 0)
      return false;
    done += (size_t)count;
  }
  return true;
}

bool gbx_disk_get(struct gbx_disk *disk, const uint8_t *digest, uint8_t *content, uint8_t *scratch) {
  char name[NAME_BYTES];
  struct stat stat;
  if (!name_of(disk, digest, name))
    return false;
  int fd = openat(disk->folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0)
    return false;
  bool whole = fstat(fd, &stat) == 0 && S_ISREG(stat.st_mode) && stat.st_size == FILE_BYTES;
  bool read = whole && read_fully(fd, scratch, FILE_BYTES);
  bool proven = read && unseal(disk, digest, scratch, content);
  if (proven) {
    futimens(fd, NULL); /* used just now */
  } else if (!whole || read) { /* what a disk cannot read today it may read tomorrow */
    if (unlinkat(disk->folder, name, 0) == 0)
      give_room_back(disk);
  }
  close(fd);
  return proven;
}

int gbx_disk_put(struct gbx_disk *disk, const uint8_t *digest, const uint8_t *content, uint8_t *scratch) {
  static _Atomic unsigned counter;
  char name[NAME_BYTES], temporary[64];
  if (!name_of(disk, digest, name) || !seal(disk, digest, content, scratch))
    return EIO;
  if (utimensat(disk->folder, name, NULL, AT_SYMLINK_NOFOLLOW) == 0)
    return 0;
  int error = make_room(disk);
  if (error != 0)
    return error;
  snprintf(temporary, sizeof(temporary), TEMPORARY "%d-%u", (int)getpid(), atomic_fetch_add(&counter, 1));
  int fd = openat(disk->folder, temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0)
    error = errno;
  else if (!write_fully(fd, scratch, FILE_BYTES))
    error = errno != 0 ? errno : EIO;
  if (fd >= 0 && close(fd) != 0 && error == 0)
    error = errno;
  if (error == 0 && renameat2(disk->folder, temporary, disk->folder, name, RENAME_NOREPLACE) != 0)
    error = errno;
  if (error == EINVAL && renameat(disk->folder, temporary, disk->folder, name) == 0)
    error = 0; /* a file system without that flag: the total may count a block twice until it is counted again */
  if (error == 0)
    return 0;
  if (fd >= 0)
    unlinkat(disk->folder, temporary, 0);
  give_room_back(disk);
  return error == EEXIST ? 0 : error; /* another executor was faster */
}

void gbx_disk_close(struct gbx_disk *disk) {
  if (disk->folder >= 0)
    close(disk->folder);
  disk->folder = -1;
  explicit_bzero(disk->key, sizeof(disk->key));
}
