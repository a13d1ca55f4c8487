/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shim_fuzz.c: everything the shim reads from its agent: frames cut anywhere, replies to requests
 * that are or are not outstanding, notices of lost ranges over a small arena, placements and moves of
 * their copies. Links the shim's own parser, link, index and extents.
 */
#include <stdlib.h>
#include <string.h>

#include "arena.h"
#include "config.h"
#include "extents.h"
#include "gated.h"
#include "link.h"
#include "lock.h"
#include "moving.h"
#include "report.h"
#include "share.h"
#include "tier.h"
#include "wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ---- what the linked parts need of the rest ---- */

struct gb_real_table gb_real;
pthread_mutex_t gb_lock = PTHREAD_MUTEX_INITIALIZER;
pthread_rwlock_t gb_index_lock = PTHREAD_RWLOCK_INITIALIZER;

uint64_t gb_now_ns(void) {
  return 1;
}
uint64_t gb_t2_held(void) {
  return 0;
}
uint64_t gb_remote_held(void) {
  return 0;
}
bool gb_report_take(struct gb_report *report) {
  return memset(report, 0, sizeof *report) == NULL;
}
void gb_report_tick(void) {
}
void gb_share_changed(void) {
}
bool gb_dispatch_on(void) {
  return false;
}
void gb_lanes_report(void) {
}
void gb_log(enum gb_log_level level, const char *format, ...) {
  (void)level, (void)format;
}
void gb_event(enum gb_log_level level, CUresult error, const char *name, const char *format, ...) {
  (void)level, (void)error, (void)name, (void)format;
}

static CUresult reserve(CUdeviceptr *pointer, size_t bytes, size_t alignment, CUdeviceptr hint,
                        unsigned long long flags) {
  (void)bytes, (void)alignment, (void)flags;
  *pointer = hint;
  return CUDA_SUCCESS;
}
static CUresult give_back(CUdeviceptr pointer, size_t bytes) {
  (void)pointer, (void)bytes;
  return CUDA_SUCCESS;
}
static CUresult device_count(int *count) {
  *count = 1;
  return CUDA_SUCCESS;
}
static CUresult device_get(CUdevice *device, int ordinal) {
  *device = ordinal;
  return CUDA_SUCCESS;
}
static CUresult never(void) {
  return CUDA_ERROR_NOT_SUPPORTED;
}

static void start(void) {
  gb_real.cuMemAddressReserve = reserve;
  gb_real.cuMemAddressFree = give_back;
  gb_real.cuDeviceGetCount = device_count;
  gb_real.cuDeviceGet = device_get;
  gb_real.cuMemCreate = (void *)never;
  gb_real.cuMemMap = (void *)never;
  gb_real.cuMemUnmap = (void *)never;
  gb_real.cuMemSetAccess = (void *)never;
  gb_real.cuMemRelease = (void *)never;
  pthread_cond_init(&gb_link.changed, NULL);
  if (!gb_arena_reserve()) __builtin_trap();
  for (uint64_t i = 1; i <= 20; i++) {
    struct gb_span *span = gb_span_create(0, NULL, i * GB_GRANULE, i * GB_GRANULE);
    if (span == NULL) __builtin_trap();
    span->pieces = calloc(gb_piece_count(span), sizeof *span->pieces);
    span->placed = true;
    span->keeper = GB_TIER_T2R;
  }
}

/* Every span on lanes 1 and 2, as if nothing had ever moved. */
static void place_all(void) {
  for (struct gb_span *span = gb_span_next(NULL); span != NULL; span = gb_span_next(span)) {
    struct gb_range range = {span->base - gb_arena_base_address, span->bytes};
    struct gb_place_reply reply = {.extent_count = 1};
    reply.extents[0] = (struct gb_extent){range.offset, range.length, 1, 2};
    if (!gb_extents_take(span, &range, &reply)) __builtin_trap();
  }
}

static void check_extents(const struct gb_span *span) {
  uint64_t at = span->base - gb_arena_base_address;
  for (uint32_t i = 0; i < span->extent_count; i++) {
    const struct gb_extent *extent = &span->extents[i];
    if (extent->offset != at || extent->length == 0 || extent->length % GB_ABI_RANGE_ALIGN != 0 ||
        extent->lane == 0 || extent->lane == extent->mirror)
      __builtin_trap();
    at += extent->length;
  }
  if (at != span->base - gb_arena_base_address + span->bytes) __builtin_trap();
}

/* A placement from outside is taken whole or not at all. */
static void place_first(const struct gb_place_reply *reply) {
  struct gb_span *span = gb_span_next(NULL);
  struct gb_range range = {span->base - gb_arena_base_address, span->bytes};
  gb_extents_take(span, &range, reply);
}

/* The first byte says whether HELLO was answered and how the stream is cut; calls with ids 1 to 4
 * are outstanding. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static bool started;
  static const struct {
    uint16_t type;
    uint32_t bytes;
  } kinds[4] = {{GB_MSG_GRANT, sizeof(struct gb_budget_reply)},
                {GB_MSG_PLACE, sizeof(struct gb_place_reply)},
                {GB_MSG_LANE, sizeof(struct gb_ticket_reply)},
                {GB_MSG_DROP, sizeof(struct gb_status_reply)}};
  static union {
    struct gb_budget_reply budget;
    struct gb_place_reply place;
    struct gb_ticket_reply ticket;
    struct gb_status_reply status;
  } replies[4];
  struct gb_call calls[4] = {{0}};
  struct gb_wire wire = {.have = 0};
  if (!started) start();
  if (!started) place_all();
  started = true;
  if (size < 1) return 0;
  gb_link.ready = (data[0] & 1) != 0;
  gb_link.hello_id = 1;
  size_t part = 1 + (data[0] >> 1);
  for (int i = 0; i < 4; i++) {
    calls[i].request_id = (uint64_t)i + 1;
    calls[i].type = kinds[i].type;
    calls[i].reply_bytes = kinds[i].bytes;
    calls[i].reply = &replies[i];
    gb_link.calls[i] = &calls[i];
  }
  for (size_t at = 1; at < size; at += part) {
    size_t bytes = size - at < part ? size - at : part;
    if (!gb_wire_feed(&wire, data + at, bytes, gb_client_on_frame, NULL)) break;
  }
  memset(gb_link.calls, 0, sizeof gb_link.calls);
  gb_link.ready = false; /* answers to moves go nowhere */
  if (calls[1].done) place_first(&replies[1].place);
  gb_moving_written(0, GB_GRANULE);
  gb_moving_run();
  for (struct gb_span *span = gb_span_next(NULL); span != NULL; span = gb_span_next(span)) {
    if (memchr(span->lost_feeder, 0, sizeof span->lost_feeder) == NULL) __builtin_trap();
    span->lost = 0;
    check_extents(span);
  }
  place_all();
  return 0;
}
