/* SPDX-License-Identifier: Apache-2.0 */
/* gpu.c: see gpu.h. Knows files and locks, nothing of CUDA; part of both libcuda and libnvidia-ml.
 */
#include "gpu.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define GPU_MAGIC 0x6762736d30303031ull
#define GPU_VRAM_DEFAULT (1ull << 30)
#define LOCK_ALL                                                                                \
  0 /* byte 0 of the file: held while the table is changed; byte 1 + n: slot n's owner lives */

struct gpu_file {
  uint64_t magic;
  uint64_t total_bytes;
  struct gbsim_process slots[GBSIM_PROCESS_MAX];
};

struct gpu {
  int fd;
  int slot; /* -1: not joined */
  struct gpu_file *file;
};

static struct gpu gpus[GBSIM_DEVICE_MAX];
static pthread_mutex_t gpu_lock = PTHREAD_MUTEX_INITIALIZER;

uint64_t gbsim_parse_bytes(const char *text) {
  char *end = NULL;
  errno = 0;
  const double number = strtod(text, &end);
  if (errno != 0 || end == text || number < 0) return 0;
  static const struct {
    const char *unit;
    double factor;
  } units[] = {{"", 1},
               {"B", 1},
               {"KiB", 1024.0},
               {"MiB", 1048576.0},
               {"GiB", 1073741824.0},
               {"TiB", 1099511627776.0},
               {"K", 1024.0},
               {"M", 1048576.0},
               {"G", 1073741824.0}};
  for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
    if (strcmp(end, units[i].unit) == 0) return (uint64_t)(number * units[i].factor);
  return 0;
}

int gbsim_device_count(void) {
  const char *text = getenv("GBSIM_DEVICES");
  const int count = text == NULL ? 1 : atoi(text);
  return count < 0 ? 0 : count > GBSIM_DEVICE_MAX ? GBSIM_DEVICE_MAX : count;
}

uint64_t gbsim_vram_bytes(void) {
  const char *text = getenv("GBSIM_VRAM");
  const uint64_t bytes = text == NULL ? 0 : gbsim_parse_bytes(text);
  return bytes == 0 ? GPU_VRAM_DEFAULT : bytes;
}

static const char *gpu_name(void) {
  const char *name = getenv("GBSIM_GPU");
  return name == NULL || *name == '\0' ? "default" : name;
}

void gbsim_device_uuid(int device, uint8_t uuid[16]) {
  uint64_t hash = 1469598103934665603ull; /* FNV-1a: stable, and different for every name */
  for (const char *c = gpu_name(); *c != '\0'; c++) hash = (hash ^ (uint8_t)*c) * 1099511628211ull;
  for (int i = 0; i < 16; i++) {
    hash = (hash ^ (uint64_t)(device + i)) * 1099511628211ull;
    uuid[i] = (uint8_t)(hash >> 32);
  }
}

static int record_lock(int fd, int command, short type, off_t byte) {
  struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
  int result;
  do result = fcntl(fd, command, &lock);
  while (result != 0 && errno == EINTR);
  if (result != 0) return -errno;
  return command == F_GETLK ? lock.l_type != F_UNLCK : 0;
}

static void table_lock(struct gpu *gpu) { record_lock(gpu->fd, F_SETLKW, F_WRLCK, LOCK_ALL); }
static void table_unlock(struct gpu *gpu) { record_lock(gpu->fd, F_SETLK, F_UNLCK, LOCK_ALL); }

static bool slot_alive(struct gpu *gpu, int slot) {
  if (slot == gpu->slot || gpu->file->slots[slot].pid == getpid()) return true;
  return record_lock(gpu->fd, F_GETLK, F_WRLCK, 1 + slot) == 1;
}

/* Frees the slots of the dead. locks: table. returns: bytes the living hold. */
static uint64_t table_reap(struct gpu *gpu) {
  uint64_t used = 0;
  for (int i = 0; i < GBSIM_PROCESS_MAX; i++) {
    struct gbsim_process *slot = &gpu->file->slots[i];
    if (!slot->used) continue;
    if (slot_alive(gpu, i)) used += slot->bytes;
    else memset(slot, 0, sizeof *slot);
  }
  return used;
}

static int table_join(struct gpu *gpu) {
  bool alone = true;
  table_reap(gpu);
  int vacant = -1;
  for (int i = GBSIM_PROCESS_MAX - 1; i >= 0; i--) {
    if (gpu->file->slots[i].used) alone = false;
    else vacant = i;
  }
  if (vacant < 0) return -ENFILE;
  const int locked = record_lock(gpu->fd, F_SETLK, F_WRLCK, 1 + vacant);
  if (locked != 0) return locked;
  if (alone) gpu->file->total_bytes = gbsim_vram_bytes();
  gpu->file->slots[vacant] = (struct gbsim_process){.pid = getpid(), .used = 1};
  gpu->slot = vacant;
  return 0;
}

int gbsim_gpu_path(int device, const char *suffix, char *path, size_t bytes) {
  char name[128];
  snprintf(name, sizeof name, "%s", gpu_name());
  for (char *c = name; *c != '\0'; c++)
    if (*c == '/') *c = '_';
  const char *folder = getenv("GBSIM_DIR");
  const int length = snprintf(path, bytes, "%s/gbsim-%u-%s-%d%s", folder == NULL ? "/dev/shm" : folder,
                              (unsigned)getuid(), name, device, suffix);
  return length >= 0 && (size_t)length < bytes ? 0 : -ENAMETOOLONG;
}

static int gpu_map(struct gpu *gpu, int device) {
  char path[512];
  const int named = gbsim_gpu_path(device, "", path, sizeof path);
  if (named != 0) return named;
  const int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return -errno;
  gpu->fd = fd;
  table_lock(gpu);
  if (ftruncate(fd, sizeof(struct gpu_file)) != 0) goto failed;
  void *file = mmap(NULL, sizeof(struct gpu_file), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (file == MAP_FAILED) goto failed;
  gpu->file = file;
  if (gpu->file->magic != GPU_MAGIC) {
    memset(gpu->file, 0, sizeof *gpu->file);
    gpu->file->magic = GPU_MAGIC;
    gpu->file->total_bytes = gbsim_vram_bytes();
  }
  table_unlock(gpu);
  return 0;
failed:;
  const int error = -errno;
  close(fd);
  return error;
}

int gbsim_gpu_open(int device, bool join) {
  if (device < 0 || device >= GBSIM_DEVICE_MAX) return -ENODEV;
  struct gpu *gpu = &gpus[device];
  int result = 0;
  pthread_mutex_lock(&gpu_lock);
  if (gpu->file == NULL) {
    gpu->slot = -1;
    result = gpu_map(gpu, device);
  }
  if (result == 0 && join && gpu->slot < 0) {
    table_lock(gpu);
    result = table_join(gpu);
    table_unlock(gpu);
  }
  pthread_mutex_unlock(&gpu_lock);
  return result;
}

int gbsim_gpu_charge(int device, uint64_t bytes) {
  struct gpu *gpu = &gpus[device];
  int result = 0;
  pthread_mutex_lock(&gpu_lock);
  table_lock(gpu);
  const uint64_t used = table_reap(gpu);
  if (bytes > gpu->file->total_bytes || used > gpu->file->total_bytes - bytes) result = -ENOMEM;
  else gpu->file->slots[gpu->slot].bytes += bytes;
  table_unlock(gpu);
  pthread_mutex_unlock(&gpu_lock);
  return result;
}

void gbsim_gpu_uncharge(int device, uint64_t bytes) {
  struct gpu *gpu = &gpus[device];
  pthread_mutex_lock(&gpu_lock);
  table_lock(gpu);
  uint64_t *held = &gpu->file->slots[gpu->slot].bytes;
  *held -= bytes < *held ? bytes : *held;
  table_unlock(gpu);
  pthread_mutex_unlock(&gpu_lock);
}

int gbsim_gpu_usage(int device, struct gbsim_usage *usage) {
  const int opened = gbsim_gpu_open(device, false);
  if (opened != 0) return opened;
  struct gpu *gpu = &gpus[device];
  memset(usage, 0, sizeof *usage);
  pthread_mutex_lock(&gpu_lock);
  table_lock(gpu);
  usage->used_bytes = table_reap(gpu);
  usage->total_bytes = gpu->file->total_bytes;
  for (int i = 0; i < GBSIM_PROCESS_MAX; i++)
    if (gpu->file->slots[i].used) usage->processes[usage->process_count++] = gpu->file->slots[i];
  table_unlock(gpu);
  pthread_mutex_unlock(&gpu_lock);
  return 0;
}
