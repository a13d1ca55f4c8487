/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ipc_export.c: an allocation becomes one exportable handle.
 *
 *   room in VRAM -> handle, descriptor, alias -> gate closed, drained -> copied, mapped in the old
 *   chunks' place -> gate open -> entered in the server's table
 *
 * One at a time. What stands in the way (a GPU that is busy, chunks that have to leave) is waited
 * for with the gate open and gb_lock given up.
 */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "chunk.h"
#include "context.h"
#include "dispatch.h"
#include "frame.h"
#include "gate.h"
#include "gated.h"
#include "ipc_part.h"
#include "lock.h"
#include "plain.h"
#include "refuse.h"
#include "report.h"
#include "room.h"
#include "slab.h"
#include "stage.h"
#include "tier.h"
#include "victim.h"

#define COPY_LIMIT_NS (20ull * 1000000000)
/* Chunks that leave VRAM go by switches; one whose GPU was busy gains nothing. */
#define VACATE_TRIES 8

static pthread_mutex_t export_lock = PTHREAD_MUTEX_INITIALIZER; /* before gb_lock */
static _Atomic bool exporting;
static _Atomic bool moving;

bool gb_ipc_exporting(void) {
  return exporting;
}

void gb_ipc_settle_for_capture(void) {
  uint64_t until = gb_now_ns() + GB_STAGE_WAIT_NS;
  while (moving && gb_now_ns() < until) gb_sleep_ns(GB_MS / 10);
}

/* ---- what is asked for ---- */

bool gb_ipc_subject(uint64_t pointer, struct gb_ipc_subject *subject) {
  bool found = false;
  pthread_rwlock_rdlock(&gb_index_lock);
  const struct gb_span *span = gb_span_at(pointer);
  if (span != NULL) {
    *subject = (struct gb_ipc_subject){span->base,      0,             span->request_bytes,
                                       span->buffer_id, span->context, span->device};
    found = !span->app && pointer - span->base < span->request_bytes;
    if (span->slab != NULL) {
      uint64_t base = 0;
      const struct gb_small *small = gb_slab_find(span, pointer, &base);
      found = small != NULL && pointer - base < small->bytes;
      if (found) {
        subject->offset = base - span->base;
        subject->bytes = small->bytes;
        subject->allocation = small->buffer_id;
      }
    }
  }
  pthread_rwlock_unlock(&gb_index_lock);
  return found;
}

static bool is_supported(CUdevice device) {
  const CUdevice_attribute asked = CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED;
  int answer = 0;
  return gb_real.cuMemExportToShareableHandle != NULL && gb_real.cuDeviceGetAttribute != NULL &&
         gb_real.cuDeviceGetAttribute(&answer, asked, device) == CUDA_SUCCESS && answer != 0;
}

bool gb_ipc_is_drivers(CUdeviceptr pointer) {
  struct gb_plain plain;
  return !gb_owns(pointer) && (!gb_plain_read(pointer, &plain) || plain.host == NULL);
}

bool gb_ipc_capable(CUdeviceptr pointer) {
  struct gb_ipc_subject subject;
  if (!gb_ipc_subject(pointer, &subject) || !is_supported(subject.device)) return false;
  return gb_live_captures == 0 || gb_ipc_export_id(subject.span_base) != 0;
}

/* What came of one try. */
enum outcome {
  MADE,
  BUSY,    /* the GPU, or a feeder: tried again for long */
  CROWDED, /* what should leave VRAM did not: tried again for a while */
  NO_ROOM, /* it never can */
  CAPTURE,
  FAILED,
};

/* ---- room in VRAM ---- */

/* VRAM that chunks could give up: all that may move, as far as there is a place for it.
 * pre: gb_lock. */
static uint64_t movable_bytes(CUdevice device) {
  uint64_t homeless = 0;
  uint64_t homed = 0;
  bool staging =
      gb_stage_state() != GB_STAGING_OFF && gb_stage_state() != GB_STAGING_UNSUPPORTED;
  if (!staging && !gb_gated_on()) return 0;
  for (struct gb_span *span = gb_span_next(NULL); span != NULL; span = gb_span_next(span)) {
    if (span->device != device || span->slab != NULL || span->going || span->still) continue;
    for (uint32_t i = 0; i < span->chunk_count; i++) {
      const struct gb_chunk *chunk = &span->chunks[i];
      if (chunk->tier != GB_TIER_T1 || chunk->pinned) continue;
      *(chunk->home_alias != 0 ? &homed : &homeless) += chunk->bytes;
    }
  }
  uint64_t headroom = gb_host_numa_node() >= 0 ? gb_t2_headroom() : 0;
  if (gb_gated_on()) headroom = UINT64_MAX; /* whole spans go to feeders or NVMe */
  return homed + (homeless < headroom ? homeless : headroom);
}

static bool could_fit(const struct gb_span *span) {
  uint64_t reach = gb_t1_room(span->device) + gb_t1_account(span->device, GB_ACCOUNT_POOLED) +
                   gb_frames_free(span->device) + movable_bytes(span->device);
  return span->bytes <= reach;
}

/* pre: gb_lock, the span's context current. */
static bool make_room(CUdevice device, uint64_t bytes) {
  for (int i = 0; i < VACATE_TRIES; i++) {
    if (gb_t1_room(device) >= bytes) return true;
    gb_pool_drop(GB_TIER_T1);
    uint64_t room = gb_t1_room(device);
    if (room < bytes) gb_frames_drop(device, bytes - room);
    room = gb_t1_room(device);
    if (room >= bytes) return true;
    if (!gb_stage_vacate(device, bytes - room)) return false;
  }
  return false;
}

/* The gate closed and everything idle. pre: gb_lock, no switch under way. post: on MADE
 * gb_gate_open has to follow. */
static enum outcome shut(uint64_t patience_ns, CUresult *error) {
  uint64_t deadline = gb_now_ns() + patience_ns;
  bool idle = false;
  if (!gb_gate_close(deadline)) return BUSY;
  *error = gb_drain(deadline, &idle);
  if (*error == CUDA_SUCCESS && idle) return MADE;
  gb_gate_open();
  return *error != CUDA_SUCCESS ? FAILED : BUSY;
}

static enum outcome from_moved(enum gb_moved moved, CUresult *error) {
  switch (moved) {
    case GB_MOVED: return MADE;
    case GB_MOVE_NO_ROOM: return NO_ROOM;
    case GB_MOVE_UNREACHABLE: return BUSY;
    case GB_MOVE_LOST: *error = CUDA_ERROR_EXTERNAL_DEVICE; return FAILED;
    default: *error = gb_move_error(); return FAILED;
  }
}

/* Gated mode: others leave the local tiers, never this span. pre: as make_room. */
static enum outcome evict_for(struct gb_span *span, uint64_t patience_ns, CUresult *error) {
  enum outcome outcome = shut(patience_ns, error);
  if (outcome != MADE) return outcome;
  gb_pool_drop(GB_TIER_T1);
  while (outcome == MADE && gb_t1_room(span->device) < span->bytes) {
    struct gb_span *victim = gb_victim(span->device, &span->base, 1);
    outcome = victim == NULL ? NO_ROOM : from_moved(gb_evict(victim), error);
    if (outcome != MADE) break;
    gb_unmapped_count++;
    gb_pool_drop(GB_TIER_T1);
  }
  gb_gate_open();
  return outcome;
}

/* ---- the move ---- */

static CUresult copy_all(const struct gb_span *span, uint64_t to) {
  CUstream stream = gb_context_stream(gb_context_get(span->context, span->device));
  if (stream == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
  CUresult result = CUDA_SUCCESS;
  for (uint32_t i = 0; i < span->chunk_count && result == CUDA_SUCCESS; i++) {
    const struct gb_chunk *chunk = &span->chunks[i];
    result = gb_real.cuMemcpyDtoDAsync_v2(to + chunk->offset, span->base + chunk->offset,
                                          chunk->bytes, stream);
  }
  CUresult waited = gb_stream_wait(stream, COPY_LIMIT_NS);
  return result != CUDA_SUCCESS ? result : waited;
}

/* pre: gb_lock, the span's context current, no switch under way. */
static enum outcome exclusive(struct gb_span *span, const struct gb_chunk *whole,
                              uint64_t patience_ns, CUresult *error) {
  enum outcome outcome = shut(patience_ns, error);
  if (outcome != MADE) return outcome;
  if (!gb_dispatch_withdraw(span)) outcome = BUSY;
  if (outcome == MADE && gb_residency(span) != GB_RESIDENT)
    outcome = from_moved(gb_bring(&span, 1, &span->base, 1), error);
  if (outcome == MADE) {
    *error = copy_all(span, whole->alias);
    struct gb_chunk bare = *whole;
    bare.alias = 0;
    if (*error == CUDA_SUCCESS) *error = gb_chunks_replace(span, &bare);
    if (*error != CUDA_SUCCESS) outcome = FAILED;
  }
  gb_gate_open();
  return outcome;
}

/* ---- one try ---- */

/* A handle that can be exported, its descriptor, and an address for the copy. */
static enum outcome create(const struct gb_span *span, struct gb_chunk *whole, int *descriptor,
                           CUresult *error) {
  *whole = (struct gb_chunk){
      .bytes = span->bytes, .tier = GB_TIER_T1, .pinned = true, .exported = true};
  *error = gb_handle_create_shared(span->device, span->bytes, &whole->handle);
  if (*error != CUDA_SUCCESS) return *error == CUDA_ERROR_OUT_OF_MEMORY ? CROWDED : FAILED;
  *error = gb_real.cuMemExportToShareableHandle(descriptor, whole->handle,
                                                CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0);
  if (*error == CUDA_SUCCESS) {
    fcntl(*descriptor, F_SETFD, FD_CLOEXEC);
    if (gb_alias_map(span->device, whole->handle, span->bytes, &whole->alias)) return MADE;
    close(*descriptor);
    *error = CUDA_ERROR_MAP_FAILED;
  }
  gb_real.cuMemRelease(whole->handle);
  return FAILED;
}

static enum outcome try_span(struct gb_span *span, uint64_t patience_ns, uint64_t *id,
                             CUresult *error) {
  struct gb_chunk whole;
  CUuuid device;
  int descriptor = -1;
  enum outcome outcome = MADE;
  if (!could_fit(span)) return NO_ROOM;
  if (!make_room(span->device, span->bytes)) {
    if (!gb_gated_on()) return CROWDED;
    outcome = evict_for(span, patience_ns, error);
    if (outcome != MADE) return outcome;
  }
  if (!gb_ipc_uuid(span->device, &device)) {
    *error = CUDA_ERROR_INVALID_DEVICE;
    return FAILED;
  }
  outcome = create(span, &whole, &descriptor, error);
  if (outcome != MADE) return outcome;
  gb_tier_add(GB_TIER_T1, span->device, GB_ACCOUNT_USED, (int64_t)whole.bytes);
  outcome = exclusive(span, &whole, patience_ns, error);
  gb_alias_unmap(whole.alias, whole.bytes);
  if (outcome == MADE) {
    *id = gb_ipc_enter(span->base, span->bytes, descriptor, &device);
    return MADE;
  }
  close(descriptor);
  gb_real.cuMemRelease(whole.handle);
  gb_tier_add(GB_TIER_T1, span->device, GB_ACCOUNT_USED, -(int64_t)whole.bytes);
  return outcome;
}

static enum outcome try_once(const struct gb_ipc_subject *subject, uint64_t patience_ns,
                             uint64_t *id, CUresult *error) {
  struct gb_ipc_subject again;
  enum outcome outcome = FAILED;
  *error = gb_context_push(subject->context);
  if (*error != CUDA_SUCCESS) return FAILED;
  pthread_mutex_lock(&gb_lock);
  gb_stage_finish();
  moving = true; /* a capture that begins is either seen here or sees this */
  if (gb_live_captures != 0)
    outcome = CAPTURE;
  else if (gb_ipc_subject(subject->span_base + subject->offset, &again) &&
           again.allocation == subject->allocation)
    outcome = try_span(gb_span_at(subject->span_base), patience_ns, id, error);
  else
    *error = CUDA_ERROR_INVALID_VALUE; /* freed meanwhile */
  moving = false;
  gb_stage_update();
  pthread_mutex_unlock(&gb_lock);
  gb_context_pop();
  return outcome;
}

/* ---- until it is made ---- */

/* Every call passes the gate, and staging may be asked to make room, until it is off again. */
static void set_exporting(bool now) {
  pthread_mutex_lock(&gb_lock);
  exporting = now;
  if (now)
    gb_slow_raise(GB_SLOW_EXPORT);
  else
    gb_slow_lower(GB_SLOW_EXPORT);
  gb_stage_update();
  pthread_mutex_unlock(&gb_lock);
}

static CUresult answer(enum outcome outcome, CUresult error, uint64_t bytes) {
  switch (outcome) {
    case MADE: return CUDA_SUCCESS;
    case BUSY:
      return GB_REFUSE(CUDA_ERROR_MAP_FAILED, "ipc_busy",
                       "%llu bytes were not shared: the GPU never became idle for it",
                       (unsigned long long)bytes);
    case CROWDED:
    case NO_ROOM:
      return GB_REFUSE(CUDA_ERROR_OUT_OF_MEMORY, "ipc_no_vram",
                       "shared memory has to lie in VRAM, and %llu bytes are not to be had there: "
                       "raise --vram, or share less",
                       (unsigned long long)bytes);
    case CAPTURE:
      return GB_REFUSE(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "ipc_capture",
                       "memory cannot be shared for the first time while a stream is captured");
    default:
      return GB_REFUSE(error, "ipc_refused", "the driver did not share %llu bytes: %d",
                       (unsigned long long)bytes, error);
  }
}

/* pre: export_lock. */
static CUresult make(const struct gb_ipc_subject *subject, uint64_t *id) {
  if (gb_live_captures != 0) return answer(CAPTURE, CUDA_SUCCESS, 0);
  if (!gb_ipc_serve())
    return GB_REFUSE(CUDA_ERROR_MAP_FAILED, "ipc_no_socket", "there is no socket for CUDA IPC");
  if (!gb_ipc_has_place())
    return GB_REFUSE(CUDA_ERROR_OUT_OF_MEMORY, "ipc_full",
                     "this process shares %u allocations already, which is the limit",
                     GB_IPC_EXPORTS_MAX);
  uint64_t began = gb_now_ns();
  uint64_t pause = 100000;
  uint64_t patience = GB_DRAIN_DEADLINE_NS;
  CUresult error = CUDA_SUCCESS;
  enum outcome outcome = BUSY;
  set_exporting(true);
  for (;;) {
    outcome = try_once(subject, patience, id, &error);
    uint64_t limit =
        outcome == BUSY ? GB_DRAIN_TOTAL_NS : outcome == CROWDED ? GB_IPC_ROOM_NS : 0;
    if (gb_now_ns() - began >= limit) break;
    gb_sleep_ns(pause);
    if (pause < GB_DRAIN_BACKOFF_NS_MAX) pause *= 2;
    if (patience < GB_DRAIN_DEADLINE_NS_MAX) patience *= 2;
  }
  set_exporting(false);
  gb_report_add(GB_COUNT_STALL_NS, gb_now_ns() - began);
  gb_log(GB_LOG_INFO, "ipc: 0x%llx, %llu bytes: %s after %llu us",
         (unsigned long long)(subject->span_base + subject->offset),
         (unsigned long long)subject->bytes, outcome == MADE ? "shared" : "not shared",
         (unsigned long long)((gb_now_ns() - began) / 1000));
  return answer(outcome, error, subject->bytes);
}

CUresult gb_ipc_export(CUipcMemHandle *handle, CUdeviceptr pointer) {
  struct gb_ipc_subject subject;
  if (handle == NULL || !gb_ipc_subject(pointer, &subject)) return CUDA_ERROR_INVALID_VALUE;
  if (gb_sticky_error() != CUDA_SUCCESS) return gb_sticky_error();
  if (!is_supported(subject.device))
    return GB_REFUSE(CUDA_ERROR_NOT_SUPPORTED, "ipc_refused",
                     "this driver or GPU has no memory handles with POSIX descriptors");
  pthread_mutex_lock(&export_lock);
  uint64_t id = gb_ipc_export_id(subject.span_base);
  CUresult result = id != 0 ? CUDA_SUCCESS : make(&subject, &id);
  pthread_mutex_unlock(&export_lock);
  if (result != CUDA_SUCCESS) return result;
  uint32_t pid = (uint32_t)getpid();
  struct gb_ipc_handle ours = {GB_IPC_MAGIC,        gb_ipc_process(), id,  subject.allocation,
                               subject.offset,      subject.bytes,    pid, gb_ipc_started(pid),
                               0};
  ours.check = gb_ipc_check(&ours);
  memcpy(handle, &ours, sizeof ours);
  return CUDA_SUCCESS;
}
