/* SPDX-License-Identifier: Apache-2.0 */
/* arena.c: the reservation, its windows, and the index from address to span. */
#include "arena.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "config.h"
#include "lock.h"

/* All windows of a process together: above that the window collides with PIE programs and heaps. */
#define ARENA_BYTES_MAX (4ull << 40)
#define CANDIDATE_STEP (1ull << 40)
/* Of a feeder's device. */
#define REMOTE_WINDOW_BYTES (256ull << 30)

uint64_t gb_arena_base_address;
uint64_t gb_arena_size_bytes;

static struct {
  bool tried;
  int device_count;
  CUdevice devices[GB_DEVICES_MAX];
  uint64_t window_bytes;
  uint64_t remote_window_bytes;
  struct gb_va va[GB_DEVICES_MAX];
  uint32_t *granules; /* slot + 1 of the span at each granule; untouched pages cost nothing */
  struct gb_span **spans;
  uint32_t span_count; /* slots used so far */
  uint32_t span_capacity;
  uint32_t *free_slots;
  uint32_t free_slot_count;
} arena;

static _Atomic uint64_t buffer_ids = 0;

uint64_t gb_buffer_id(void) {
  return 1 + atomic_fetch_add_explicit(&buffer_ids, 1, memory_order_relaxed);
}

/* The driver treats the address as a hint: only the answer counts. */
static bool reserve_at(uint64_t base, uint64_t bytes) {
  CUdeviceptr answer = 0;
  if (base < GB_ARENA_WINDOW_BASE || base + bytes > GB_ARENA_WINDOW_END) return false;
  CUresult result = gb_real.cuMemAddressReserve(&answer, bytes, 0, base, 0);
  if (result != CUDA_SUCCESS) return false;
  if (answer == base) return true;
  gb_real.cuMemAddressFree(answer, bytes);
  return false;
}

static bool reserve_somewhere(uint64_t bytes, uint64_t *base) {
  *base = gb_config()->arena_base;
  if (reserve_at(*base, bytes)) return true;
  for (*base = GB_ARENA_WINDOW_BASE; *base + bytes <= GB_ARENA_WINDOW_END;
       *base += CANDIDATE_STEP) {
    if (*base != gb_config()->arena_base && reserve_at(*base, bytes)) return true;
  }
  return false;
}

static void find_devices(void) {
  int count = 0;
  if (gb_real.cuDeviceGetCount(&count) != CUDA_SUCCESS) count = 0;
  if (count > GB_DEVICES_MAX) {
    gb_log(GB_LOG_WARN, "%d devices: the ones after the first %d are left to the driver", count,
           GB_DEVICES_MAX);
    count = GB_DEVICES_MAX;
  }
  for (int i = 0; i < count; i++) {
    if (gb_real.cuDeviceGet(&arena.devices[i], i) != CUDA_SUCCESS) break;
    arena.device_count = i + 1;
  }
}

/* ---- words that look like addresses ---- */

#define CLEAR_STEP (4ull << 30)
/* Smaller windows stay whole: half of one must hold the largest allocation there may be. */
#define CLEAR_WINDOW_MIN (512ull << 30)

static _Atomic uint64_t clear_bytes;

uint64_t gb_arena_clear_bytes(void) {
  return clear_bytes;
}

/* The other half is for what is larger than a piece. */
static bool withhold(struct gb_va *va, uint64_t base, uint64_t bytes) {
  uint64_t at = (base + CLEAR_STEP - 1) / CLEAR_STEP * CLEAR_STEP;
  bool withheld = true;
  for (; at < base + bytes / 2 && withheld; at += CLEAR_STEP) withheld = gb_va_withhold(va, at, GB_CLEAR_BYTES);
  return withheld;
}

void gb_arena_note(uint64_t base, uint64_t bytes) {
  uint64_t within = base % CLEAR_STEP;
  if (clear_bytes == 0 || (within >= GB_CLEAR_BYTES && bytes <= CLEAR_STEP - within)) return;
  clear_bytes = 0;
  gb_log(GB_LOG_DEBUG, "%llu bytes at 0x%llx lie across 4 GiB: small integers may look like addresses from here on",
         (unsigned long long)bytes, (unsigned long long)base);
}

bool gb_may_be_address(uint64_t word) {
  return word - gb_arena_base_address < gb_arena_reached_bytes() && (word & (CLEAR_STEP - 1)) >= clear_bytes;
}

static bool build_index(uint64_t base, uint64_t bytes) {
  size_t table = bytes / GB_GRANULE * sizeof *arena.granules;
  void *map =
      mmap(NULL, table, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED) return false;
  arena.granules = map;
  bool clear = arena.window_bytes >= CLEAR_WINDOW_MIN;
  for (int i = 0; i < arena.device_count; i++) {
    uint64_t window = base + (uint64_t)i * arena.window_bytes;
    if (!gb_va_create(&arena.va[i], window, arena.window_bytes)) return false;
    if (clear && !withhold(&arena.va[i], window, arena.window_bytes)) return false;
  }
  clear_bytes = clear ? GB_CLEAR_BYTES : 0;
  return true;
}

static uint64_t remote_bytes(void) {
  return arena.remote_window_bytes * GB_ABI_DEVICES_MAX;
}

static void choose_windows(void) {
  arena.window_bytes = gb_config()->arena_bytes;
  if (gb_config()->devices)
    arena.remote_window_bytes = arena.window_bytes < REMOTE_WINDOW_BYTES ? arena.window_bytes : REMOTE_WINDOW_BYTES;
  while (arena.window_bytes * (uint64_t)arena.device_count > ARENA_BYTES_MAX - remote_bytes())
    arena.window_bytes /= 2;
  arena.window_bytes &= ~(GB_GRANULE - 1);
}

bool gb_arena_reserve(void) {
  if (gb_arena_size_bytes != 0) return true;
  if (arena.tried) return false;
  arena.tried = true;
  bool vmm = gb_real.cuMemAddressReserve != NULL && gb_real.cuMemAddressFree != NULL &&
             gb_real.cuMemCreate != NULL && gb_real.cuMemMap != NULL &&
             gb_real.cuMemUnmap != NULL && gb_real.cuMemSetAccess != NULL &&
             gb_real.cuMemRelease != NULL;
  find_devices();
  if (!vmm || arena.device_count == 0) return false;
  choose_windows();
  uint64_t bytes = arena.window_bytes * (uint64_t)arena.device_count;
  uint64_t base = 0;
  if (bytes == 0 || !reserve_somewhere(bytes + remote_bytes(), &base)) {
    gb_event(GB_LOG_WARN, CUDA_SUCCESS, "arena_refused",
             "the driver reserves no %llu bytes at an agreed address: whole allocations only, "
             "nothing moves",
             (unsigned long long)(bytes + remote_bytes()));
    return false;
  }
  if (!build_index(base, bytes)) {
    gb_real.cuMemAddressFree(base, bytes + remote_bytes());
    return false;
  }
  __atomic_store_n(&gb_arena_base_address, base, __ATOMIC_RELEASE);
  __atomic_store_n(&gb_arena_size_bytes, bytes, __ATOMIC_RELEASE);
  gb_log(GB_LOG_INFO, "arena of %llu GiB for %d device(s) at 0x%llx",
         (unsigned long long)(bytes >> 30), arena.device_count, (unsigned long long)base);
  return true;
}

int gb_arena_device_count(void) {
  return arena.device_count;
}

int gb_arena_device_index(CUdevice device) {
  for (int i = 0; i < arena.device_count; i++) {
    if (arena.devices[i] == device) return i;
  }
  return -1;
}

uint64_t gb_arena_reserved_bytes(void) {
  return gb_arena_size_bytes == 0 ? 0 : gb_arena_size_bytes + remote_bytes();
}

uint64_t gb_arena_remote_window_bytes(void) {
  return arena.remote_window_bytes;
}

CUdevice gb_arena_device(int index) {
  return arena.devices[index];
}

struct gb_va *gb_arena_window(int index, uint64_t *bytes) {
  *bytes = arena.window_bytes;
  return &arena.va[index];
}

/* ---- the index ---- */

static uint64_t guarded_bytes(const struct gb_span *span) {
  return span->app ? span->bytes : span->bytes + GB_GUARD_BYTES;
}

static void set_granules(const struct gb_span *span, uint32_t value) {
  uint64_t first = (span->base - gb_arena_base_address) / GB_GRANULE;
  for (uint64_t i = 0; i < guarded_bytes(span) / GB_GRANULE; i++) arena.granules[first + i] = value;
}

/* pre: gb_index_lock for writing. */
static bool take_slot(struct gb_span *span) {
  if (arena.free_slot_count > 0) {
    span->slot = arena.free_slots[--arena.free_slot_count];
  } else {
    if (arena.span_count == GB_SPANS_MAX) return false;
    if (arena.span_count == arena.span_capacity) {
      uint32_t capacity = arena.span_capacity == 0 ? 256 : 2 * arena.span_capacity;
      struct gb_span **spans = realloc(arena.spans, capacity * sizeof(*spans));
      if (spans == NULL) return false;
      arena.spans = spans;
      uint32_t *slots = realloc(arena.free_slots, capacity * sizeof *slots);
      if (slots == NULL) return false;
      arena.free_slots = slots;
      arena.span_capacity = capacity;
    }
    span->slot = arena.span_count++;
  }
  arena.spans[span->slot] = span;
  return true;
}

static _Atomic uint64_t reached_bytes;

uint64_t gb_arena_reached_bytes(void) {
  return reached_bytes;
}

struct gb_span *gb_span_new(CUdevice device, CUcontext context, uint64_t bytes) {
  struct gb_span *span = calloc(1, sizeof *span);
  if (span == NULL) return NULL;
  span->bytes = bytes;
  span->request_bytes = bytes;
  span->context = context;
  span->device = device;
  return span;
}

void gb_span_discard(struct gb_span *span) {
  free(span->chunks);
  free(span->marks.offsets);
  free(span->pieces);
  free(span->extents);
  free(span->replicas);
  free(span->parts);
  free(span);
}

bool gb_span_enter(struct gb_span *span, struct gb_area *area, uint64_t base) {
  pthread_rwlock_wrlock(&gb_index_lock);
  bool entered = take_slot(span);
  gb_arena_note(base, span->bytes);
  if (entered) {
    span->base = base;
    span->area = area;
    span->buffer_id = gb_buffer_id();
    set_granules(span, span->slot + 1);
  }
  pthread_rwlock_unlock(&gb_index_lock);
  uint64_t end = base + span->bytes - gb_arena_base_address;
  if (entered && end > reached_bytes) reached_bytes = end;
  return entered;
}

/* Out of the index, its slot free again. */
void gb_span_leave(struct gb_span *span) {
  pthread_rwlock_wrlock(&gb_index_lock);
  set_granules(span, 0);
  arena.spans[span->slot] = NULL;
  arena.free_slots[arena.free_slot_count++] = span->slot;
  span->area = NULL;
  pthread_rwlock_unlock(&gb_index_lock);
}

struct gb_span *gb_span_create(CUdevice device, CUcontext context, uint64_t bytes,
                               uint64_t request_bytes) {
  int index = gb_arena_device_index(device);
  if (index < 0) return NULL;
  uint64_t base = gb_va_take(&arena.va[index], bytes + GB_GUARD_BYTES);
  if (base == 0) return NULL;
  struct gb_span *span = gb_span_new(device, context, bytes);
  if (span != NULL) span->request_bytes = request_bytes;
  if (span != NULL && gb_span_enter(span, NULL, base)) return span;
  gb_va_give(&arena.va[index], base, bytes + GB_GUARD_BYTES);
  if (span != NULL) gb_span_discard(span);
  return NULL;
}

void gb_span_hide(struct gb_span *span) {
  pthread_rwlock_wrlock(&gb_index_lock);
  set_granules(span, 0);
  pthread_rwlock_unlock(&gb_index_lock);
}

void gb_span_release(struct gb_span *span) {
  gb_span_leave(span);
  gb_va_give(&arena.va[gb_arena_device_index(span->device)], span->base,
             span->bytes + GB_GUARD_BYTES);
  gb_span_discard(span);
}

struct gb_span *gb_span_at(uint64_t address) {
  if (!gb_owns(address) || arena.granules == NULL) return NULL;
  uint32_t slot = arena.granules[(address - gb_arena_base_address) / GB_GRANULE];
  return slot == 0 ? NULL : arena.spans[slot - 1];
}

struct gb_span *gb_span_next(const struct gb_span *span) {
  for (uint32_t i = span == NULL ? 0 : span->slot + 1; i < arena.span_count; i++) {
    if (arena.spans[i] != NULL) return arena.spans[i];
  }
  return NULL;
}

void gb_span_note_lost(const struct gb_lost *lost) {
  pthread_rwlock_rdlock(&gb_index_lock);
  bool inside =
      lost->offset < gb_arena_size_bytes && lost->length <= gb_arena_size_bytes - lost->offset;
  uint64_t at = gb_arena_base_address + lost->offset;
  uint64_t end = inside ? at + lost->length : at;
  uint64_t reached = gb_arena_base_address + reached_bytes;
  if (end > reached) end = reached;
  while (at < end) {
    struct gb_span *span = gb_span_at(at);
    if (span != NULL && at < span->base + span->bytes &&
        !atomic_load_explicit(&span->lost, memory_order_relaxed)) {
      memcpy(span->lost_feeder, lost->feeder, sizeof span->lost_feeder);
      atomic_store_explicit(&span->lost, 1, memory_order_release);
    }
    at = span != NULL ? span->base + guarded_bytes(span) : at + GB_GRANULE;
  }
  pthread_rwlock_unlock(&gb_index_lock);
}
