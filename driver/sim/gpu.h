/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu.h: the capacity of one simulated GPU, shared by every process that names it (GBSIM_GPU,
 * GBSIM_DIR).
 *
 * A file per GPU holds one slot per process. A process proves that it lives by a POSIX record lock
 * on its slot's byte, which the kernel drops when it dies, however it dies; its bytes are then free
 * again.
 */
#ifndef GBSIM_GPU_H
#define GBSIM_GPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GBSIM_PROCESS_MAX 256
#define GBSIM_DEVICE_MAX 8

struct gbsim_process {
  int32_t pid;
  uint32_t used; /* the slot is taken */
  uint64_t bytes;
};

struct gbsim_usage {
  uint64_t total_bytes;
  uint64_t used_bytes;
  size_t process_count;
  struct gbsim_process processes[GBSIM_PROCESS_MAX];
};

/* How many devices GBSIM_DEVICES asks for, and their size from GBSIM_VRAM ("1GiB", default 1 GiB).
 */
int gbsim_device_count(void);
uint64_t gbsim_vram_bytes(void);
/* Name, UUID and PCI address of a device, the same in every process. */
void gbsim_device_uuid(int device, uint8_t uuid[16]);
/* "512MiB", "2GiB", "1073741824". returns: 0 for what it cannot read. */
uint64_t gbsim_parse_bytes(const char *text);

/* The path of a GPU's file, with `suffix` behind it. returns: 0, or -ENAMETOOLONG. */
int gbsim_gpu_path(int device, const char *suffix, char *path, size_t bytes);
/* Opens the GPU's file; join: takes a slot too. The file stays open until the process ends (closing
 * it would drop the lock). returns: 0 or -errno. Thread-safe, as all of these. */
int gbsim_gpu_open(int device, bool join);
/* returns: 0, -ENOMEM when the capacity does not hold it. */
int gbsim_gpu_charge(int device, uint64_t bytes);
void gbsim_gpu_uncharge(int device, uint64_t bytes);
/* Counts living processes only. returns: 0 or -errno. */
int gbsim_gpu_usage(int device, struct gbsim_usage *usage);

#endif
