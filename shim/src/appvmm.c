/* SPDX-License-Identifier: Apache-2.0 */
/*
 * appvmm.c: the physical memory a program creates with cuMemCreate and where it maps it. Memory
 * lives until it has been released as often as it was created and retained, and unmapped
 * everywhere: then it leaves the account. Where host memory stands in for VRAM it is remembered what
 * was asked for, so that every question is answered as for VRAM.
 */
#include "appvmm.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "area.h"
#include "hooks.h"

/* More records than this are not kept; the handle then could not be created. */
#define GB_APPVMM_RECORDS_MAX (1u << 20)
/* The upper bits of virtual handles. A handle of the driver's is an address of the process. */
#define VIRTUAL (0x4742ull << 48)
#define VIRTUAL_MASK (0xffffull << 48)

struct memory {
  uint64_t key; /* in the account; handles may be used again while old memory is still mapped, keys
                   are not */
  CUmemGenericAllocationHandle handle;
  uint64_t bytes;
  uint32_t handles; /* created and retained, not yet released */
  uint32_t mappings;
  enum gb_side_kind kind;
  struct gb_span *span; /* ours; NULL: the driver's */
  bool in_host;         /* ours, fixed in host memory */
  CUmemAllocationProp properties; /* as the program asked */
};

struct mapping {
  CUdeviceptr pointer;
  uint64_t bytes;
  struct memory *memory; /* NULL: not counted here (imported, multicast) */
  bool as_span;
};

/* Both sorted: memories by handle (only those with handles left), mappings by address. */
static struct memory **memories;
static size_t memory_count, memory_room;
static struct mapping *mappings;
static size_t mapping_count, mapping_room;
static uint64_t next_key = 1;
/* Mappings of the driver's where something else is to be said: while 0 no question takes the lock. */
static uint32_t rewritten_mappings;
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

/* Nobody can reach the memory any more: then the caller ends it, without the lock. */
static struct memory *ended(struct memory *memory) {
  return memory->handles == 0 && memory->mappings == 0 ? memory : NULL;
}

static void end(struct memory *memory) {
  if (memory == NULL) return;
  if (memory->span != NULL)
    gb_app_destroy(memory->span);
  else
    gb_side_remove(memory->kind, memory->key);
  free(memory);
}

/* ---- memory ---- */

/* pre: state_lock. returns: false when there is no room. */
static bool insert(struct memory *memory) {
  if (!grow((void **)&memories, sizeof *memories, memory_count, &memory_room)) return false;
  size_t i = memory_index(memory->handle);
  memmove(&memories[i + 1], &memories[i], (memory_count - i) * sizeof *memories);
  memories[i] = memory;
  memory_count++;
  return true;
}

bool gb_appvmm_add(CUmemGenericAllocationHandle handle, enum gb_side_kind kind, uint64_t bytes,
                   const CUmemAllocationProp *properties) {
  struct memory *memory = calloc(1, sizeof *memory);
  if (memory == NULL) return false;
  *memory = (struct memory){
      .handle = handle, .bytes = bytes, .handles = 1, .kind = kind, .properties = *properties};
  pthread_mutex_lock(&state_lock);
  bool room = insert(memory);
  if (room) {
    memory->key = next_key++;
    gb_side_commit(kind, memory->key, bytes);
  }
  pthread_mutex_unlock(&state_lock);
  if (!room) free(memory);
  return room;
}

CUmemGenericAllocationHandle gb_appvmm_add_span(struct gb_span *span,
                                                const CUmemAllocationProp *properties) {
  struct memory *memory = calloc(1, sizeof *memory);
  if (memory == NULL) return 0;
  *memory = (struct memory){.bytes = span->bytes,
                            .handles = 1,
                            .kind = GB_SIDE_APP_VMM,
                            .span = span,
                            .properties = *properties};
  pthread_mutex_lock(&state_lock);
  memory->handle = VIRTUAL | next_key++;
  bool room = insert(memory);
  pthread_mutex_unlock(&state_lock);
  CUmemGenericAllocationHandle handle = room ? memory->handle : 0;
  if (!room) free(memory);
  return handle;
}

bool gb_appvmm_is_virtual(CUmemGenericAllocationHandle handle) {
  return (handle & VIRTUAL_MASK) == VIRTUAL;
}

struct gb_span *gb_appvmm_span(CUmemGenericAllocationHandle handle) {
  if (!gb_appvmm_is_virtual(handle)) return NULL;
  pthread_mutex_lock(&state_lock);
  const struct memory *memory = memory_find(handle);
  struct gb_span *span = memory == NULL ? NULL : memory->span;
  pthread_mutex_unlock(&state_lock);
  return span;
}

bool gb_appvmm_is_mapped(CUmemGenericAllocationHandle handle) {
  pthread_mutex_lock(&state_lock);
  const struct memory *memory = memory_find(handle);
  bool mapped = memory != NULL && memory->mappings > 0;
  pthread_mutex_unlock(&state_lock);
  return mapped;
}

bool gb_appvmm_release(CUmemGenericAllocationHandle handle) {
  struct memory *dead = NULL;
  pthread_mutex_lock(&state_lock);
  size_t i = memory_index(handle);
  bool known = i < memory_count && memories[i]->handle == handle;
  if (known && --memories[i]->handles == 0) {
    dead = ended(memories[i]);
    memory_count--;
    memmove(&memories[i], &memories[i + 1], (memory_count - i) * sizeof *memories);
  }
  pthread_mutex_unlock(&state_lock);
  end(dead);
  return known;
}

/* Memory that was released and is still mapped gets its handle back. pre: state_lock. */
static bool retain(struct memory *memory) {
  if (memory->handles == 0 && !insert(memory)) return false;
  memory->handles++;
  return true;
}

bool gb_appvmm_retain_virtual(CUdeviceptr address, CUmemGenericAllocationHandle *handle) {
  pthread_mutex_lock(&state_lock);
  const struct mapping *mapping = mapping_find(address);
  bool ours = mapping != NULL && mapping->memory != NULL && mapping->memory->span != NULL &&
              retain(mapping->memory);
  if (ours) *handle = mapping->memory->handle;
  pthread_mutex_unlock(&state_lock);
  return ours;
}

void gb_appvmm_retain(CUdeviceptr address, CUmemGenericAllocationHandle handle) {
  pthread_mutex_lock(&state_lock);
  const struct mapping *mapping = mapping_find(address);
  if (mapping != NULL && mapping->memory != NULL && mapping->memory->handle == handle)
    (void)retain(mapping->memory);
  pthread_mutex_unlock(&state_lock);
}

CUresult gb_appvmm_fix(CUmemGenericAllocationHandle handle, CUmemGenericAllocationHandle *real) {
  struct gb_span *span = gb_appvmm_span(handle);
  if (span == NULL) return CUDA_ERROR_INVALID_VALUE;
  CUresult result = gb_app_fix(span);
  if (result != CUDA_SUCCESS) return result;
  *real = span->chunks[0].handle;
  pthread_mutex_lock(&state_lock);
  memory_find(handle)->in_host = span->chunks[0].tier == GB_TIER_T2;
  pthread_mutex_unlock(&state_lock);
  return CUDA_SUCCESS;
}

/* ---- mappings ---- */

static bool substitutes(const struct memory *memory) {
  return memory != NULL && (memory->kind == GB_SIDE_APP_VMM_HOST || memory->in_host);
}

/* The driver would say that it is host memory, or that all of the arena is one reservation. */
static bool is_rewritten(const struct mapping *mapping) {
  return !mapping->as_span && (gb_owns(mapping->pointer) || substitutes(mapping->memory));
}

bool gb_appvmm_has_room(void) {
  pthread_mutex_lock(&state_lock);
  bool room = grow((void **)&mappings, sizeof *mappings, mapping_count, &mapping_room);
  pthread_mutex_unlock(&state_lock);
  return room;
}

void gb_appvmm_map(CUdeviceptr pointer, uint64_t bytes, CUmemGenericAllocationHandle handle,
                   bool as_span) {
  pthread_mutex_lock(&state_lock);
  struct memory *memory = memory_find(handle);
  size_t i = mapping_index(pointer);
  memmove(&mappings[i + 1], &mappings[i], (mapping_count - i) * sizeof *mappings);
  mappings[i] = (struct mapping){pointer, bytes, memory, as_span};
  mapping_count++;
  if (memory != NULL) memory->mappings++;
  if (is_rewritten(&mappings[i])) __atomic_fetch_add(&rewritten_mappings, 1, __ATOMIC_RELEASE);
  pthread_mutex_unlock(&state_lock);
}

/* The first mapping inside the range ends. returns: false when there is none. */
static bool unmap_one(CUdeviceptr pointer, uint64_t bytes) {
  struct memory *dead = NULL;
  pthread_mutex_lock(&state_lock);
  size_t i = mapping_index(pointer);
  bool found = i < mapping_count && mappings[i].pointer - pointer < bytes;
  if (found) {
    if (is_rewritten(&mappings[i])) __atomic_fetch_sub(&rewritten_mappings, 1, __ATOMIC_RELEASE);
    if (mappings[i].memory != NULL) {
      mappings[i].memory->mappings--;
      dead = ended(mappings[i].memory);
    }
    mapping_count--;
    memmove(&mappings[i], &mappings[i + 1], (mapping_count - i) * sizeof *mappings);
  }
  pthread_mutex_unlock(&state_lock);
  end(dead);
  return found;
}

void gb_appvmm_unmap(CUdeviceptr pointer, uint64_t bytes) {
  while (unmap_one(pointer, bytes)) continue;
}

bool gb_appvmm_next(CUdeviceptr pointer, uint64_t bytes, struct gb_mapped *mapped) {
  pthread_mutex_lock(&state_lock);
  const struct mapping *mapping = mapping_find(pointer);
  size_t i = mapping_index(pointer);
  if (mapping == NULL && i < mapping_count && mappings[i].pointer - pointer < bytes)
    mapping = &mappings[i];
  bool found = mapping != NULL;
  if (found)
    *mapped = (struct gb_mapped){mapping->pointer, mapping->bytes,
                                 mapping->as_span ? mapping->memory->span : NULL};
  pthread_mutex_unlock(&state_lock);
  return found;
}

bool gb_appvmm_is_whole(CUdeviceptr pointer, uint64_t bytes) {
  struct gb_mapped mapped;
  CUdeviceptr at = pointer;
  while (at - pointer < bytes && gb_appvmm_next(at, bytes - (at - pointer), &mapped) &&
         mapped.pointer == at && mapped.bytes <= bytes - (at - pointer))
    at += mapped.bytes;
  return bytes != 0 && at - pointer == bytes;
}

/* ---- questions ---- */

bool gb_appvmm_properties(CUmemGenericAllocationHandle handle, CUmemAllocationProp *properties) {
  pthread_mutex_lock(&state_lock);
  const struct memory *memory = memory_find(handle);
  bool found = memory != NULL && (memory->span != NULL || substitutes(memory));
  if (found) *properties = memory->properties;
  pthread_mutex_unlock(&state_lock);
  return found;
}

bool gb_appvmm_stands_in(CUmemGenericAllocationHandle handle) {
  pthread_mutex_lock(&state_lock);
  bool stands_in = substitutes(memory_find(handle));
  pthread_mutex_unlock(&state_lock);
  return stands_in;
}

/* What is said of a mapping of the driver's. */
struct said {
  CUdevice device;  /* whose memory it claims to be; -1: the driver may say */
  CUdeviceptr base; /* of the mapping */
  uint64_t bytes;
};

static bool look_up(CUdeviceptr pointer, struct said *said) {
  if (__atomic_load_n(&rewritten_mappings, __ATOMIC_ACQUIRE) == 0) return false;
  pthread_mutex_lock(&state_lock);
  const struct mapping *mapping = mapping_find(pointer);
  bool found = mapping != NULL && is_rewritten(mapping);
  if (found)
    *said = (struct said){
        substitutes(mapping->memory) ? mapping->memory->properties.location.id : -1,
        mapping->pointer, mapping->bytes};
  pthread_mutex_unlock(&state_lock);
  return found;
}

bool gb_appvmm_substituted(CUdeviceptr pointer) {
  struct said said;
  return look_up(pointer, &said) && said.device >= 0;
}

bool gb_appvmm_address_range(CUdeviceptr *base, size_t *bytes, CUdeviceptr pointer) {
  struct said said;
  if (!look_up(pointer, &said)) return false;
  if (base != NULL) *base = said.base;
  if (bytes != NULL) *bytes = said.bytes;
  return true;
}

bool gb_appvmm_attribute(void *data, CUpointer_attribute attribute, CUdeviceptr pointer) {
  struct said said;
  uint64_t base = 0, bytes = 0;
  if (!look_up(pointer, &said)) return false;
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
      if (!gb_area_range(pointer, &base, &bytes)) return false;
      *(CUdeviceptr *)data = base;
      return true;
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
      if (!gb_area_range(pointer, &base, &bytes)) return false;
      *(size_t *)data = bytes;
      return true;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
      if (said.device >= 0) *(unsigned *)data = CU_MEMORYTYPE_DEVICE;
      return said.device >= 0;
    case CU_POINTER_ATTRIBUTE_HOST_POINTER: /* device memory has none */
      if (said.device >= 0) *(void **)data = NULL;
      return said.device >= 0;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
      if (said.device >= 0) *(int *)data = said.device;
      return said.device >= 0;
    case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
      if (said.device >= 0) *(unsigned char *)data = 0;
      return said.device >= 0;
    default: return false;
  }
}
