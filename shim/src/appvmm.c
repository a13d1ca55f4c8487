/* SPDX-License-Identifier: Apache-2.0 */
/*
 * appvmm.c: the physical memory a program creates with cuMemCreate and where it maps it. Memory
 * lives until it has been released as often as it was created and retained, and unmapped
 * everywhere: then it leaves the account. Host memory that stands in for VRAM is remembered with
 * what was asked for, so that every question is answered as for VRAM.
 */
#include "appvmm.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "hooks.h"

/* More records than this are not kept; the handle then could not be created. */
#define GB_APPVMM_RECORDS_MAX (1u << 20)

struct memory {
  uint64_t key; /* in the account; handles may be used again while old memory is still mapped, keys
                   are not */
  CUmemGenericAllocationHandle handle;
  uint64_t bytes;
  uint32_t handles; /* created and retained, not yet released */
  uint32_t mappings;
  enum gb_side_kind kind;
  CUmemAllocationProp properties; /* as the program asked */
};

struct mapping {
  CUdeviceptr pointer;
  uint64_t bytes;
  struct memory *memory;
};

/* Both sorted: memories by handle (only those with handles left), mappings by address. */
static struct memory **memories;
static size_t memory_count, memory_room;
static struct mapping *mappings;
static size_t mapping_count, mapping_room;
static uint64_t next_key = 1;
/* Mappings of host memory that stands in: while 0 no question takes the lock. */
static uint32_t substituted_mappings;
static pthread_mutex_t calls_lock = PTHREAD_MUTEX_INITIALIZER; /* taken before state_lock */
static pthread_mutex_t state_lock = PTHREAD_MUTEX_INITIALIZER; /* held for moments */

void gb_appvmm_lock(void) { pthread_mutex_lock(&calls_lock); }
void gb_appvmm_unlock(void) { pthread_mutex_unlock(&calls_lock); }

/* Makes room for one more element. returns: false when there is none. */
static bool grow(void **elements, size_t element_bytes, size_t count, size_t *room) {
  if (count < *room) return true;
  if (count >= GB_APPVMM_RECORDS_MAX) return false;
  size_t wanted = *room == 0 ? 64 : *room * 2;
  void *larger = realloc(*elements, wanted * element_bytes);
  if (larger == NULL) return false;
  *elements = larger;
  *room = wanted;
  return true;
}

/* Index of the first memory whose handle is not below. */
static size_t memory_index(CUmemGenericAllocationHandle handle) {
  size_t low = 0, high = memory_count;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (memories[middle]->handle < handle)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

static struct memory *memory_find(CUmemGenericAllocationHandle handle) {
  size_t i = memory_index(handle);
  return i < memory_count && memories[i]->handle == handle ? memories[i] : NULL;
}

/* Index of the first mapping that starts at or after the address. */
static size_t mapping_index(CUdeviceptr pointer) {
  size_t low = 0, high = mapping_count;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (mappings[middle].pointer < pointer)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

static const struct mapping *mapping_find(CUdeviceptr pointer) {
  size_t i = mapping_index(pointer);
  if (i < mapping_count && mappings[i].pointer == pointer) return &mappings[i];
  if (i == 0) return NULL;
  const struct mapping *before = &mappings[i - 1];
  return pointer - before->pointer < before->bytes ? before : NULL;
}

/* Nobody can reach the memory any more: the driver has freed it. */
static void settle(struct memory *memory) {
  if (memory->handles != 0 || memory->mappings != 0) return;
  gb_side_remove(memory->kind, memory->key);
  free(memory);
}

bool gb_appvmm_add(CUmemGenericAllocationHandle handle, enum gb_side_kind kind, uint64_t bytes,
                   const CUmemAllocationProp *properties) {
  struct memory *memory = calloc(1, sizeof *memory);
  if (memory == NULL) return false;
  *memory = (struct memory){
      .handle = handle, .bytes = bytes, .handles = 1, .kind = kind, .properties = *properties};
  pthread_mutex_lock(&state_lock);
  bool room = grow((void **)&memories, sizeof *memories, memory_count, &memory_room);
  if (room) {
    memory->key = next_key++;
    size_t i = memory_index(handle);
    memmove(&memories[i + 1], &memories[i], (memory_count - i) * sizeof *memories);
    memories[i] = memory;
    memory_count++;
    gb_side_commit(kind, memory->key, bytes);
  }
  pthread_mutex_unlock(&state_lock);
  if (!room) free(memory);
  return room;
}

void gb_appvmm_release(CUmemGenericAllocationHandle handle) {
  pthread_mutex_lock(&state_lock);
  size_t i = memory_index(handle);
  if (i < memory_count && memories[i]->handle == handle && --memories[i]->handles == 0) {
    struct memory *memory = memories[i];
    memory_count--;
    memmove(&memories[i], &memories[i + 1], (memory_count - i) * sizeof *memories);
    settle(memory);
  }
  pthread_mutex_unlock(&state_lock);
}

void gb_appvmm_retain(CUmemGenericAllocationHandle handle) {
  pthread_mutex_lock(&state_lock);
  struct memory *memory = memory_find(handle);
  if (memory != NULL) memory->handles++;
  pthread_mutex_unlock(&state_lock);
}

static bool substitutes(const struct memory *memory) {
  return memory->kind == GB_SIDE_APP_VMM_HOST;
}

void gb_appvmm_map(CUdeviceptr pointer, uint64_t bytes, CUmemGenericAllocationHandle handle) {
  pthread_mutex_lock(&state_lock);
  struct memory *memory = memory_find(handle);
  /* Without a record the memory stays counted for ever: too much is counted then, never too little.
   */
  if (memory != NULL) memory->mappings++;
  if (memory != NULL && grow((void **)&mappings, sizeof *mappings, mapping_count, &mapping_room)) {
    size_t i = mapping_index(pointer);
    memmove(&mappings[i + 1], &mappings[i], (mapping_count - i) * sizeof *mappings);
    mappings[i] = (struct mapping){pointer, bytes, memory};
    mapping_count++;
    if (substitutes(memory)) __atomic_fetch_add(&substituted_mappings, 1, __ATOMIC_RELEASE);
  }
  pthread_mutex_unlock(&state_lock);
}

void gb_appvmm_unmap(CUdeviceptr pointer, uint64_t bytes) {
  pthread_mutex_lock(&state_lock);
  size_t first = mapping_index(pointer), last = first;
  for (; last < mapping_count && mappings[last].pointer - pointer < bytes; last++) {
    struct memory *memory = mappings[last].memory;
    if (substitutes(memory)) __atomic_fetch_sub(&substituted_mappings, 1, __ATOMIC_RELEASE);
    memory->mappings--;
    settle(memory);
  }
  memmove(&mappings[first], &mappings[last], (mapping_count - last) * sizeof *mappings);
  mapping_count -= last - first;
  pthread_mutex_unlock(&state_lock);
}

bool gb_appvmm_properties(CUmemGenericAllocationHandle handle, CUmemAllocationProp *properties) {
  pthread_mutex_lock(&state_lock);
  struct memory *memory = memory_find(handle);
  bool found = memory != NULL && substitutes(memory);
  if (found) *properties = memory->properties;
  pthread_mutex_unlock(&state_lock);
  return found;
}

bool gb_appvmm_stands_in(CUmemGenericAllocationHandle handle) {
  pthread_mutex_lock(&state_lock);
  struct memory *memory = memory_find(handle);
  bool stands_in = memory != NULL && substitutes(memory);
  pthread_mutex_unlock(&state_lock);
  return stands_in;
}

/* returns: the device whose memory the pointer claims to be, or -1 where nothing stands in. */
static CUdevice substituted_device(CUdeviceptr pointer) {
  if (__atomic_load_n(&substituted_mappings, __ATOMIC_ACQUIRE) == 0) return -1;
  CUdevice device = -1;
  pthread_mutex_lock(&state_lock);
  const struct mapping *mapping = mapping_find(pointer);
  if (mapping != NULL && substitutes(mapping->memory))
    device = mapping->memory->properties.location.id;
  pthread_mutex_unlock(&state_lock);
  return device;
}

bool gb_appvmm_substituted(CUdeviceptr pointer) { return substituted_device(pointer) >= 0; }

bool gb_appvmm_attribute(void *data, CUpointer_attribute attribute, CUdeviceptr pointer) {
  if (attribute != CU_POINTER_ATTRIBUTE_MEMORY_TYPE &&
      attribute != CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL &&
      attribute != CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE)
    return false;
  CUdevice device = substituted_device(pointer);
  if (device < 0) return false;
  if (attribute == CU_POINTER_ATTRIBUTE_MEMORY_TYPE)
    *(unsigned *)data = CU_MEMORYTYPE_DEVICE;
  else if (attribute == CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL)
    *(int *)data = device;
  else
    *(unsigned char *)data = 0;
  return true;
}
