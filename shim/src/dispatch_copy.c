/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dispatch_copy.c: copies and fills of what lies on a lane, or has its newest content there. A copy between a lane and
 * anything else goes through memory of ours.
 *
 * A lane's queue and the program's streams know nothing of each other: before host memory is read or written here, what
 * the stream has been given before is waited for.
 */
#include "dispatch.h"

#include <stdlib.h>

#include "client.h"
#include "lock.h"
#include "replica.h"

/* A copy that does not stay on one machine is cut into these. */
#define PART_BYTES (8ull << 20)

enum where {
  OUTSIDE, /* host memory, or the driver's */
  HERE,    /* ours, to be used here */
  EMPTY,   /* ours, without content: a lane may take it */
  THERE,
};

struct place {
  enum where where;
  uint32_t lane;
  uint64_t base; /* of the span */
};

/* What is not all in one place is brought here. pre: gb_index_lock. */
static uint32_t newest_of(const struct gb_span *span, uint64_t address, uint64_t bytes) {
  uint64_t from = address - span->base, to = from + bytes;
  uint32_t lane = gb_newest_of(span, from / GB_BLOCK_BYTES * GB_BLOCK_BYTES,
                               (to + GB_BLOCK_BYTES - 1) / GB_BLOCK_BYTES * GB_BLOCK_BYTES);
  return lane == GB_NEWEST_PARTS ? 0 : lane;
}

static struct place place_of(CUdeviceptr address, uint64_t bytes) {
  struct place place = {OUTSIDE, 0, 0};
  if (!gb_owns(address)) return place;
  place.where = HERE;
  pthread_rwlock_rdlock(&gb_index_lock);
  const struct gb_span *span = gb_span_at(address);
  if (span != NULL && !span->app && bytes <= span->bytes && address - span->base <= span->bytes - bytes) {
    uint32_t residency = gb_residency(span);
    place.base = span->base;
    place.lane = residency == GB_STORED ? span->owner : residency == GB_RESIDENT ? newest_of(span, address, bytes) : 0;
    if (place.lane != 0) place.where = THERE;
    if (residency == GB_UNWRITTEN) place.where = EMPTY;
  }
  pthread_rwlock_unlock(&gb_index_lock);
  return place;
}

static struct gb_touch touch_of(uint32_t lane, CUdeviceptr a, CUdeviceptr b, uint64_t bytes) {
  struct gb_touch touch = {.accounted = true, .exact = true, .lane = lane};
  gb_touch_address(&touch, a, 0);
  gb_touch_exactly(&touch, a, bytes);
  if (b != 0) gb_touch_address(&touch, b, 0);
  if (b != 0) gb_touch_exactly(&touch, b, bytes);
  return touch;
}

/* Where a span without content would have to be brought here first, a lane gets it, if one will. */
static struct place settled_place(CUdeviceptr to, uint64_t bytes) {
  struct place place = place_of(to, bytes);
  CUresult result;
  if (place.where != EMPTY || gb_live_captures != 0) return place;
  struct gb_touch touch = touch_of(GB_LANE_ANY, to, 0, bytes);
  if (gb_dispatch_begin(&touch, true, &result) && result == CUDA_SUCCESS) gb_end_slow();
  return place_of(to, bytes);
}

static CUresult wait_for_stream(CUstream stream) {
  if (gb_live_captures != 0 && (stream == GB_STREAM_SYNC || stream == CU_STREAM_LEGACY)) return CUDA_SUCCESS;
  return gb_real.cuStreamSynchronize(stream == GB_STREAM_SYNC ? CU_STREAM_LEGACY : stream);
}

static uint64_t offset_of(CUdeviceptr address) {
  return address - gb_arena_base_address;
}

/* Kernels there must not find addresses in what the program uploads. */
static void note_hidden(CUdeviceptr to, const void *from, uint64_t bytes) {
  if (!gb_holds_addresses(from, bytes)) return;
  pthread_rwlock_rdlock(&gb_index_lock);
  struct gb_span *span = gb_span_at(to);
  if (span != NULL) atomic_store_explicit(&span->scan, (uint32_t)GB_SCAN_HIDDEN, memory_order_relaxed);
  pthread_rwlock_unlock(&gb_index_lock);
}

/* ---- one part ---- */

/* Host memory to the lane or back. returns: false when it is not there any more. */
static bool move_there(uint32_t lane, CUdeviceptr device, void *host, uint64_t bytes, bool out, CUresult *result) {
  struct gb_touch touch = touch_of(lane, device, 0, bytes);
  if (!gb_dispatch_begin(&touch, out, result)) return false;
  if (*result != CUDA_SUCCESS) return true;
  if (out) note_hidden(device, host, bytes);
  *result = gb_dispatch_end(out ? gb_run_write(lane, offset_of(device), host, bytes, false)
                                : gb_run_read(lane, offset_of(device), host, bytes));
  return true;
}

/* The same here, through the bracket; done when it returns. */
static CUresult move_here(CUdeviceptr device, void *host, uint64_t bytes, bool out, CUstream stream) {
  const struct gb_operand operand = {device, bytes};
  CUresult result = gb_begin_copy_slow(&operand, 1, stream);
  if (result != CUDA_SUCCESS) return result;
  bool blocks = stream == GB_STREAM_SYNC;
  if (out && blocks) result = gb_real.cuMemcpyHtoD_v2(device, host, bytes);
  if (out && !blocks) result = gb_real.cuMemcpyHtoDAsync_v2(device, host, bytes, stream);
  if (!out && blocks) result = gb_real.cuMemcpyDtoH_v2(host, device, bytes);
  if (!out && !blocks) result = gb_real.cuMemcpyDtoHAsync_v2(host, device, bytes, stream);
  if (result == CUDA_SUCCESS && !blocks) result = gb_real.cuStreamSynchronize(stream);
  gb_end_slow();
  return result;
}

static CUresult move_part(CUdeviceptr device, void *host, uint64_t bytes, bool out, CUstream stream) {
  struct place place = place_of(device, bytes);
  CUresult result = CUDA_SUCCESS;
  if (place.where == THERE && move_there(place.lane, device, host, bytes, out, &result)) return result;
  return move_here(device, host, bytes, out, stream);
}

/* ---- copies ---- */

/* Between host memory and the lane. */
static CUresult copy_host(CUdeviceptr device, unsigned char *host, uint64_t bytes, bool out, CUstream stream) {
  CUresult result = wait_for_stream(stream);
  for (uint64_t at = 0; at < bytes && result == CUDA_SUCCESS; at += PART_BYTES) {
    uint64_t part = bytes - at < PART_BYTES ? bytes - at : PART_BYTES;
    result = move_part(device + at, host + at, part, out, stream);
  }
  return result;
}

/* From device memory to other device memory, one of them on a lane. */
static CUresult copy_between(CUdeviceptr to, CUdeviceptr from, uint64_t bytes, CUstream stream) {
  void *memory = malloc(bytes < PART_BYTES ? bytes : PART_BYTES);
  if (memory == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
  CUresult result = wait_for_stream(stream);
  for (uint64_t at = 0; at < bytes && result == CUDA_SUCCESS; at += PART_BYTES) {
    uint64_t part = bytes - at < PART_BYTES ? bytes - at : PART_BYTES;
    result = move_part(from + at, memory, part, false, stream);
    if (result == CUDA_SUCCESS) result = move_part(to + at, memory, part, true, stream);
  }
  free(memory);
  return result;
}

/* Both on the lane. returns: false when they are not. */
static bool copy_there(uint32_t lane, CUdeviceptr to, CUdeviceptr from, uint64_t bytes, CUresult *result) {
  struct gb_touch touch = touch_of(lane, to, from, bytes);
  if (!gb_dispatch_begin(&touch, true, result)) return false;
  if (*result == CUDA_SUCCESS)
    *result = gb_dispatch_end(gb_run_copy(lane, offset_of(to), offset_of(from), bytes));
  return true;
}

/* Memory that is not ours: the CPU's, unless the driver says otherwise. */
static bool is_host(CUdeviceptr address) {
  unsigned type = 0;
  return gb_real.cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address) != CUDA_SUCCESS ||
         type == CU_MEMORYTYPE_HOST;
}

/* Variables of modules lie outside the arena. */
static void note_variables(CUdeviceptr to, CUdeviceptr from, uint64_t bytes, CUstream stream) {
  struct gb_code_symbol symbol;
  if (!gb_owns(from)) gb_dispatch_variable_used(from);
  if (gb_owns(to) || !gb_code_symbol_at(to, &symbol)) return;
  if (!gb_owns(from) && is_host(from) && wait_for_stream(stream) == CUDA_SUCCESS)
    gb_dispatch_variable_written(to, (const void *)(uintptr_t)from, bytes);
  else
    gb_dispatch_variable_used(to);
}

bool gb_dispatch_copy(CUdeviceptr to, CUdeviceptr from, uint64_t bytes, CUstream stream, CUresult *result) {
  if (bytes == 0 || gb_sticky_error() != CUDA_SUCCESS) return false;
  note_variables(to, from, bytes, stream);
  struct place source = place_of(from, bytes);
  struct place target = settled_place(to, bytes);
  if (source.where != THERE && target.where != THERE) return false;
  gb_count(&gb_counters.copies);
  if (source.where == THERE && target.where == THERE && source.lane == target.lane &&
      copy_there(source.lane, to, from, bytes, result))
    return true;
  if (source.where == OUTSIDE && is_host(from))
    *result = copy_host(to, (unsigned char *)(uintptr_t)from, bytes, true, stream);
  else if (target.where == OUTSIDE && is_host(to))
    *result = copy_host(from, (unsigned char *)(uintptr_t)to, bytes, false, stream);
  else
    *result = copy_between(to, from, bytes, stream);
  return true;
}

/* ---- fills ---- */

bool gb_dispatch_fill(const struct gb_run_fill *fill, CUdeviceptr to, CUstream stream, CUresult *result) {
  uint64_t width = fill->width * fill->element_bytes;
  (void)stream; /* the lane's order is the order of calls */
  if (fill->height == 0 || width == 0 || gb_sticky_error() != CUDA_SUCCESS) return false;
  if (fill->height > 1 && (fill->pitch < width || fill->pitch > UINT64_MAX / fill->height)) return false;
  if (!gb_owns(to)) gb_dispatch_variable_used(to);
  uint64_t bytes = fill->pitch * (fill->height - 1) + width;
  struct place place = settled_place(to, bytes);
  if (place.where != THERE) return false;
  struct gb_touch touch = touch_of(place.lane, to, 0, bytes);
  if (!gb_dispatch_begin(&touch, true, result)) return false;
  gb_count(&gb_counters.copies);
  if (*result != CUDA_SUCCESS) return true;
  struct gb_run_fill there = *fill;
  there.offset = offset_of(to);
  *result = gb_dispatch_end(gb_run_fill(place.lane, &there));
  return true;
}
