/* SPDX-License-Identifier: Apache-2.0 */
/* crossing.c: changed blocks to a lane and back. */
#include <stdlib.h>
#include <string.h>

#include "bounce.h"
#include "context.h"
#include "lane.h"
#include "replica_part.h"
#include "run.h"
#include "scan.h"

#define BOUNCE_BLOCKS ((uint32_t)(GB_BOUNCE_PIECES * GB_PIECE_BYTES / GB_BLOCK_BYTES))

static uint64_t offset_of(uint64_t address) {
  return address - gb_arena_base_address;
}

static void set_newest(struct gb_span *span, uint32_t lane) {
  uint32_t before = atomic_exchange_explicit(&span->newest, lane, memory_order_acq_rel);
  if (before == 0 && lane != 0) gb_elsewhere_count++;
  if (before != 0 && lane == 0) gb_elsewhere_count--;
}

/* ---- there ---- */

/* As many of the runs from *at on as fit into the memory, the last one perhaps cut. *at and *begun (blocks of that run
 * that have been taken) move on. */
static uint32_t take_runs(const struct gb_blocks_run *runs, uint32_t count, uint32_t *at, uint32_t *begun,
                          struct gb_blocks_run *taken, uint32_t taken_max) {
  uint32_t room = BOUNCE_BLOCKS;
  uint32_t number = 0;
  while (*at < count && room > 0 && number < taken_max) {
    const struct gb_blocks_run *run = &runs[*at];
    uint32_t blocks = run->blocks - *begun < room ? run->blocks - *begun : room;
    taken[number++] = (struct gb_blocks_run){run->address + (uint64_t)*begun * GB_BLOCK_BYTES, blocks, run->hidden};
    room -= blocks;
    *begun += blocks;
    if (*begun < run->blocks) continue;
    ++*at;
    *begun = 0;
  }
  return number;
}

enum { TAKEN_MAX = 512 };

static CUresult send_taken(uint32_t lane, const struct gb_blocks_run *taken, uint32_t count,
                           const unsigned char *memory) {
  CUresult result = CUDA_SUCCESS;
  for (uint32_t i = 0; i < count && result == CUDA_SUCCESS; i++) {
    uint64_t bytes = (uint64_t)taken[i].blocks * GB_BLOCK_BYTES;
    result = gb_run_write(lane, offset_of(taken[i].address), memory, bytes, true);
    memory += bytes;
  }
  return result;
}

static CUresult send_runs(uint32_t lane, struct gb_blocks *engine, const struct gb_blocks_run *runs, uint32_t count,
                          uint64_t *bytes) {
  struct gb_blocks_run taken[TAKEN_MAX];
  const struct gb_bounce *bounce = gb_bounce_get();
  CUresult result = bounce == NULL ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
  uint32_t at = 0;
  uint32_t begun = 0;
  while (at < count && result == CUDA_SUCCESS) {
    uint32_t number = take_runs(runs, count, &at, &begun, taken, TAKEN_MAX);
    result = gb_blocks_copy_out(engine, taken, number, bounce->map);
    if (result == CUDA_SUCCESS) result = send_taken(lane, taken, number, bounce->map);
  }
  for (uint32_t i = 0; i < count; i++) *bytes += (uint64_t)runs[i].blocks * GB_BLOCK_BYTES;
  return result;
}

/* Kernels that look for changed blocks suspect every word that the whole arena could hold. Looked at here again, with
 * what lies beside the blocks, are words that the program can have been given. pre: the context is current, the range
 * inside the span. returns: true when in doubt. */
static bool holds_addresses(const struct gb_span *span, uint64_t address, uint64_t bytes) {
  const struct gb_bounce *bounce = gb_bounce_get();
  uint64_t end = address + bytes + 4 < span->base + span->bytes ? address + bytes + 4 : span->base + span->bytes;
  bool found = bounce == NULL;
  if (address > span->base) address -= 4;
  while (!found && end - address >= 8) {
    uint64_t part = end - address < bounce->memory->bytes ? end - address : bounce->memory->bytes;
    found = gb_real.cuMemcpyDtoH_v2(bounce->map, address, part) != CUDA_SUCCESS ||
            gb_holds_addresses(bounce->map, part);
    address += part - 4;
  }
  return found;
}

/* Bytes that hold addresses do not reach a feeder's kernels (ADR 0013, hidden pointers). pre: the runs' context is
 * current. */
static bool mark_hidden(const struct gb_blocks_run *runs, uint32_t count) {
  bool hidden = false;
  for (uint32_t i = 0; i < count; i++) {
    struct gb_span *span = runs[i].hidden != 0 ? gb_span_at(runs[i].address) : NULL;
    if (span == NULL || !holds_addresses(span, runs[i].address, (uint64_t)runs[i].blocks * GB_BLOCK_BYTES)) continue;
    atomic_store_explicit(&span->scan, (uint32_t)GB_SCAN_HIDDEN, memory_order_relaxed);
    hidden = true;
  }
  return hidden;
}

/* Spans of one context, which is current. */
static CUresult send_changed(uint32_t lane, struct gb_blocks *engine, struct gb_blocks_range *const *ranges,
                             uint32_t count, uint64_t *bytes, uint32_t *why) {
  struct gb_blocks_run *runs = NULL;
  uint32_t run_count = 0;
  CUresult result = gb_blocks_collect(engine, ranges, count, &runs, &run_count);
  if (result != CUDA_SUCCESS) return result;
  if (mark_hidden(runs, run_count)) {
    *why = GB_UNDISPATCHED_HIDDEN;
    result = CUDA_ERROR_NOT_SUPPORTED;
  } else {
    result = send_runs(lane, engine, runs, run_count, bytes);
  }
  if (result != CUDA_SUCCESS) gb_blocks_disagree(engine, runs, run_count);
  free(runs);
  return result;
}

/* Those of the spans that belong to this context and are not there yet. */
static CUresult cross_context(uint32_t lane, CUcontext context, struct gb_span *const *spans, uint32_t count,
                              uint64_t *bytes, uint32_t *why) {
  struct gb_blocks_range **ranges = calloc(count, sizeof(*ranges));
  uint32_t range_count = 0;
  if (ranges == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
  for (uint32_t i = 0; i < count; i++) {
    if (spans[i]->context == context && spans[i]->newest == 0)
      ranges[range_count++] = gb_replica_find(spans[i], lane)->range;
  }
  CUresult result = range_count > 0 ? gb_context_push(context) : CUDA_SUCCESS;
  if (result == CUDA_SUCCESS && range_count > 0) {
    result = send_changed(lane, gb_agreement_find(lane, context), ranges, range_count, bytes, why);
    gb_context_pop();
  }
  free(ranges);
  for (uint32_t i = 0; i < count && result == CUDA_SUCCESS; i++) {
    if (spans[i]->context == context) set_newest(spans[i], lane);
  }
  return result;
}

static CUresult collect(struct gb_span *const *spans, uint32_t count, bool passing);

/* What is newest on other lanes passes through here. */
static CUresult collect_others(uint32_t lane, struct gb_span *const *spans, uint32_t count) {
  CUresult result = CUDA_SUCCESS;
  for (uint32_t i = 0; i < count && result == CUDA_SUCCESS; i++) {
    uint32_t newest = spans[i]->newest;
    if (newest != 0 && newest != lane) result = collect(&spans[i], count - i, true);
  }
  return result;
}

static CUresult cross_all(uint32_t lane, struct gb_span *const *spans, uint32_t count, uint32_t *why) {
  CUresult result = collect_others(lane, spans, count);
  for (uint32_t i = 0; i < count && result == CUDA_SUCCESS; i++) {
    if (spans[i]->newest == lane || gb_replica_make(spans[i], lane, why, &result) != NULL) continue;
    if (result == CUDA_SUCCESS) result = CUDA_ERROR_NOT_SUPPORTED;
  }
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < count && result == CUDA_SUCCESS; i++) {
    if (spans[i]->newest != lane) result = cross_context(lane, spans[i]->context, spans, count, &bytes, why);
  }
  if (result == CUDA_SUCCESS) gb_replica_count(lane, bytes, 0);
  return result;
}

/* Asked for, or likely to be used there soon. */
static bool should_cross(struct gb_span *span, uint32_t lane, struct gb_span *const *asked, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) {
    if (asked[i] == span) return false; /* it is in the list */
  }
  struct gb_replica *replica = span->newest != lane ? gb_replica_find(span, lane) : NULL;
  return replica != NULL && replica->range != NULL && replica->used && span->scan != GB_SCAN_HIDDEN;
}

CUresult gb_replica_cross(uint32_t lane, struct gb_span *const *spans, uint32_t count, uint32_t *why) {
  enum { MORE_MAX = 64 };
  struct gb_span **list = calloc(count + MORE_MAX, sizeof(*list));
  if (list == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
  memcpy(list, spans, count * sizeof(*list));
  uint32_t all = count;
  for (struct gb_span *span = gb_span_next(NULL); span != NULL && all < count + MORE_MAX; span = gb_span_next(span)) {
    if (should_cross(span, lane, spans, count)) list[all++] = span;
  }
  for (uint32_t i = count; i < all; i++) gb_replica_find(list[i], lane)->used = false;
  CUresult result = cross_all(lane, list, all, why);
  /* Addresses in one of the others are no reason against this launch. */
  if (result == CUDA_ERROR_NOT_SUPPORTED && all > count) result = cross_all(lane, list, count, why);
  free(list);
  return result;
}

/* ---- here ---- */

/* Spans of one round trip: their ranges fit a batch, however small the lane's records. */
#define VISIT_MAX ((uint32_t)((GB_LANE_RECORD_BYTES_MIN - 1024) / sizeof(struct gb_run_range)))
_Static_assert(VISIT_MAX <= (uint32_t)GB_RUN_RANGES_MAX, "and the executor's limit");

/* What is collected from one lane in one round trip. */
struct visit {
  uint32_t lane;
  bool passing; /* on the way to another lane: nothing here uses it */
  struct gb_span **spans; /* by address */
  uint32_t count;
  struct gb_run_run *runs;
  uint32_t run_count;
  uint64_t bytes;
};

static int by_address(const void *a, const void *b) {
  const struct gb_span *left = *(struct gb_span *const *)a;
  const struct gb_span *right = *(struct gb_span *const *)b;
  return left->base < right->base ? -1 : left->base > right->base;
}

/* Those asked for whose newest is there, and those that the program is likely to use soon. */
static bool choose(struct visit *visit, struct gb_span *const *spans, uint32_t count) {
  uint32_t capacity = 0;
  for (const struct gb_span *span = gb_span_next(NULL); span != NULL; span = gb_span_next(span))
    capacity += span->newest == visit->lane;
  visit->spans = calloc(capacity + 1, sizeof(*visit->spans));
  if (visit->spans == NULL) return false;
  if (capacity > VISIT_MAX) capacity = VISIT_MAX;
  for (uint32_t i = 0; i < count && visit->count < capacity; i++) {
    if (spans[i]->newest == visit->lane) visit->spans[visit->count++] = spans[i];
  }
  uint32_t asked = visit->count;
  for (struct gb_span *span = gb_span_next(NULL); span != NULL && visit->count < capacity; span = gb_span_next(span)) {
    bool chosen = !visit->passing && span->newest == visit->lane && span->used_here;
    for (uint32_t i = 0; i < asked && chosen; i++) chosen = visit->spans[i] != span;
    if (chosen) visit->spans[visit->count++] = span;
  }
  qsort(visit->spans, visit->count, sizeof(*visit->spans), by_address);
  return true;
}

static CUresult ask_changed(struct visit *visit, const struct gb_bounce *bounce) {
  struct gb_run_range *ranges = calloc(visit->count, sizeof *ranges);
  if (ranges == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
  for (uint32_t i = 0; i < visit->count; i++)
    ranges[i] = (struct gb_run_range){offset_of(visit->spans[i]->base), visit->spans[i]->bytes};
  CUresult result = gb_run_collect(visit->lane, ranges, visit->count, &visit->runs, &visit->run_count, bounce->map,
                                   bounce->memory->bytes, &visit->bytes);
  free(ranges);
  return result;
}

/* The span of a run, which lies inside it. */
static struct gb_span *span_of(const struct visit *visit, const struct gb_run_run *run) {
  uint64_t address = gb_arena_base_address + run->offset;
  uint64_t bytes = (uint64_t)run->blocks * GB_BLOCK_BYTES;
  struct gb_span *span = gb_span_at(address);
  bool inside = span != NULL && span->newest == visit->lane && run->blocks > 0 && address % GB_BLOCK_BYTES == 0 &&
                address - span->base < span->bytes && bytes <= span->bytes - (address - span->base);
  return inside ? span : NULL;
}

/* These blocks, in `memory`, are what both sides hold from now on. pre: of spans of one context. */
static CUresult put_runs(uint32_t lane, const struct gb_span *span, const struct gb_blocks_run *runs, uint32_t count,
                         const unsigned char *memory) {
  struct gb_blocks *engine = gb_agreement_find(lane, span->context);
  CUresult result = engine == NULL ? CUDA_ERROR_UNKNOWN : gb_context_push(span->context);
  if (result != CUDA_SUCCESS) return result;
  result = gb_blocks_copy_in(engine, runs, count, memory);
  if (result == CUDA_SUCCESS) result = gb_blocks_arrived(engine, runs, count);
  gb_context_pop();
  return result;
}

/* The bytes of a part of a run that did not come with the answer. */
static CUresult read_part(uint32_t lane, const struct gb_blocks_run *part, const struct gb_bounce *bounce) {
  return gb_run_read(lane, offset_of(part->address), bounce->map, (uint64_t)part->blocks * GB_BLOCK_BYTES);
}

/* pre: all bytes have come, in the order of the runs. */
static CUresult put_all(const struct visit *visit, const struct gb_bounce *bounce) {
  struct gb_blocks_run batch[TAKEN_MAX];
  const unsigned char *memory = bounce->map;
  CUresult result = CUDA_SUCCESS;
  for (uint32_t i = 0; i < visit->run_count && result == CUDA_SUCCESS;) {
    const struct gb_span *first = span_of(visit, &visit->runs[i]);
    uint64_t bytes = 0;
    uint32_t count = 0;
    for (; i < visit->run_count && count < TAKEN_MAX; i++) {
      const struct gb_run_run *run = &visit->runs[i];
      if (span_of(visit, run)->context != first->context) break;
      batch[count++] = (struct gb_blocks_run){gb_arena_base_address + run->offset, run->blocks, 0};
      bytes += (uint64_t)run->blocks * GB_BLOCK_BYTES;
    }
    result = put_runs(visit->lane, first, batch, count, memory);
    memory += bytes;
  }
  return result;
}

static CUresult put_one_by_one(const struct visit *visit, const struct gb_bounce *bounce) {
  CUresult result = CUDA_SUCCESS;
  for (uint32_t i = 0; i < visit->run_count && result == CUDA_SUCCESS; i++) {
    const struct gb_run_run *run = &visit->runs[i];
    const struct gb_blocks_run whole = {gb_arena_base_address + run->offset, run->blocks, 0};
    uint32_t at = 0;
    uint32_t begun = 0;
    while (at < 1 && result == CUDA_SUCCESS) {
      struct gb_blocks_run part;
      take_runs(&whole, 1, &at, &begun, &part, 1);
      result = read_part(visit->lane, &part, bounce);
      if (result == CUDA_SUCCESS) result = put_runs(visit->lane, span_of(visit, run), &part, 1, bounce->map);
    }
  }
  return result;
}

/* What kernels there have written decides anew what the content may hold. */
static void settle_visit(const struct visit *visit) {
  for (uint32_t i = 0; i < visit->count; i++) {
    struct gb_span *span = visit->spans[i];
    set_newest(span, 0);
    if (!visit->passing) atomic_store_explicit(&span->used_here, false, memory_order_relaxed);
    atomic_store_explicit(&span->scan, (uint32_t)GB_SCAN_UNKNOWN, memory_order_relaxed);
  }
  for (uint32_t i = 0; i < visit->run_count; i++) {
    uint64_t address = gb_arena_base_address + visit->runs[i].offset;
    struct gb_span *span = visit->runs[i].hidden != 0 ? gb_span_at(address) : NULL;
    if (span == NULL) continue;
    bool pushed = gb_context_push(span->context) == CUDA_SUCCESS;
    if (!pushed || holds_addresses(span, address, (uint64_t)visit->runs[i].blocks * GB_BLOCK_BYTES))
      atomic_store_explicit(&span->scan, (uint32_t)GB_SCAN_HIDDEN, memory_order_relaxed);
    if (pushed) gb_context_pop();
  }
}

static CUresult collect_visit(struct visit *visit) {
  const struct gb_bounce *bounce = gb_bounce_get();
  CUresult result = bounce == NULL ? CUDA_ERROR_OUT_OF_MEMORY : ask_changed(visit, bounce);
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < visit->run_count && result == CUDA_SUCCESS; i++) {
    /* Else it answers another question. */
    if (span_of(visit, &visit->runs[i]) == NULL) result = CUDA_ERROR_EXTERNAL_DEVICE;
    bytes += (uint64_t)visit->runs[i].blocks * GB_BLOCK_BYTES;
  }
  if (result != CUDA_SUCCESS) return result;
  result = bytes <= bounce->memory->bytes ? put_all(visit, bounce) : put_one_by_one(visit, bounce);
  if (result != CUDA_SUCCESS) return result;
  settle_visit(visit);
  gb_replica_count(visit->lane, 0, bytes);
  return CUDA_SUCCESS;
}

static CUresult collect(struct gb_span *const *spans, uint32_t count, bool passing) {
  CUresult result = CUDA_SUCCESS;
  for (uint32_t i = 0; i < count && result == CUDA_SUCCESS; i++) {
    struct visit visit = {.lane = spans[i]->newest, .passing = passing};
    if (visit.lane == 0) continue;
    result = choose(&visit, spans, count) ? collect_visit(&visit) : CUDA_ERROR_OUT_OF_MEMORY;
    free(visit.spans);
    free(visit.runs);
  }
  return result;
}

CUresult gb_replica_collect(struct gb_span *const *spans, uint32_t count) {
  return collect(spans, count, false);
}

CUresult gb_replica_collect_all(void) {
  CUresult result = CUDA_SUCCESS;
  for (struct gb_span *span = gb_span_next(NULL); span != NULL && result == CUDA_SUCCESS; span = gb_span_next(span)) {
    if (!gb_is_here(span)) result = gb_replica_collect(&span, 1);
  }
  return result;
}
