/* SPDX-License-Identifier: Apache-2.0 */
/* devices_part.h: what devices.c (what there is, contexts), devices_memory.c and devices_work.c share. Nobody else
 * includes it. */
#ifndef GB_DEVICES_PART_H
#define GB_DEVICES_PART_H

#include <pthread.h>

#include "devices.h"
#include "gb_abi.h"
#include "va.h"

#define GB_DEVICE_TIMEOUT_MS 15000u
/* An agent or a feeder that is away may come back within this time. */
#define GB_DEVICE_PATIENCE_NS (30ull * 1000000000)

struct gb_device_range;

/* What the program allocated, by address. */
struct gb_device_block {
  uint64_t base;
  uint64_t bytes; /* as it asked */
  uint64_t buffer_id;
  CUcontext context;
  struct gb_device_range *range;
};

struct gb_device {
  CUdevice ordinal;
  CUdevice backing;
  uint32_t index; /* the agent's */
  uint64_t window;
  char feeder[64];
  char name[96];
  CUuuid uuid;
  uint64_t total_bytes;
  uint32_t compute_capability;
  int32_t attributes[GB_ABI_ATTRIBUTES_MAX];
  _Atomic uint32_t lane; /* 0: not opened */
  pthread_mutex_t lock;  /* protects what is below; `blocks` is also read under blocks_lock, and written under both */
  pthread_rwlock_t blocks_lock;
  struct gb_va va;
  struct gb_device_range *ranges;
  struct gb_device_block *blocks;
  uint32_t block_count, block_capacity;
  CUcontext primary;
  unsigned primary_retained, primary_flags;
};

static inline struct gb_device *gb_devices_at(uint32_t index);
extern struct gb_device gb_devices_all[GB_ABI_DEVICES_MAX];
static inline struct gb_device *gb_devices_at(uint32_t index) {
  return &gb_devices_all[index];
}

/* The device of an address. pre: gb_devices_owns. returns: NULL: of a window without a device. */
struct gb_device *gb_devices_of_address(CUdeviceptr pointer);
static inline uint32_t gb_device_lane(const struct gb_device *device) {
  return atomic_load_explicit(&((struct gb_device *)device)->lane, memory_order_acquire);
}

/* A lease and a lane, on first need. pre: lock. returns: CUDA_SUCCESS; CUDA_ERROR_DEVICE_UNAVAILABLE. */
CUresult gb_device_open(struct gb_device *device);
/* Room of the window for the first range, before any other. */
bool gb_device_memory_start(struct gb_device *device);
/* Frees what was allocated in the context, or in all. pre: lock. */
void gb_device_memory_drop(struct gb_device *device, CUcontext context);
/* Whether all of it lies in one block. */
bool gb_device_holds(struct gb_device *device, CUdeviceptr pointer, uint64_t bytes);

#endif
