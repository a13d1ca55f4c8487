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

/* Blocks of one context, which is current. */
static CUresult send_changed(uint32_t lane, struct gb_blocks *engine, const struct gb_blocks_run *parts,
                             uint32_t count, uint64_t *bytes, uint32_t *why) {
  struct gb_blocks_run *runs = NULL;
  uint32_t run_count = 0;
  CUresult result = gb_blocks_collect(engine, parts, count, &runs, &run_count);
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

/* Those moves whose spans belong to this context. */
static CUresult send_context(uint32_t lane, CUcontext context, const struct gb_crossing *moves, uint32_t count,
                             uint64_t *bytes, uint32_t *why) {
  struct gb_blocks_run *parts = calloc(count, sizeof(*parts));
  uint32_t part_count = 0;
  if (parts == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
  for (uint32_t i = 0; i < count; i++) {
    if (moves[i].span->context != context) continue;
    parts[part_count++] = (struct gb_blocks_run){
        moves[i].span->base + moves[i].from, (uint32_t)((moves[i].to - moves[i].from) / GB_BLOCK_BYTES), 0};
  }
  CUresult result = gb_context_push(context);
  if (result == CUDA_SUCCESS) {
    result = send_changed(lane, gb_agreement_find(lane, context), parts, part_count, bytes, why);
    gb_context_pop();
  }
  free(parts);
  return result;
}

CUresult gb_crossing_send(uint32_t lane, const struct gb_crossing *moves, uint32_t count, uint32_t *why) {
  uint64_t bytes = 0;
  CUresult result = CUDA_SUCCESS;
  for (uint32_t i = 0; i < count && result == CUDA_SUCCESS; i++) {
    bool done = false;
    for (uint32_t k = 0; k < i && !done; k++) done = moves[k].span->context == moves[i].span->context;
    if (!done) result = send_context(lane, moves[i].span->context, moves, count, &bytes, why);
  }
  if (result == CUDA_SUCCESS) gb_replica_count(lane, bytes, 0);
  return result;
}

/* ---- here ---- */

/* What one round trip asks about fits a batch, however small the lane's records. */
#define VISIT_MAX ((uint32_t)((GB_LANE_RECORD_BYTES_MIN - 1024) / sizeof(struct gb_run_range)))
_Static_assert(VISIT_MAX <= (uint32_t)GB_RUN_RANGES_MAX, "and the executor's limit");

/* What is collected from one lane in one round trip. */
struct visit {
  uint32_t lane;
  const struct gb_crossing *moves; /* by address */
  uint32_t count;
  struct gb_run_run *runs;
  uint32_t run_count;
  uint64_t bytes;
};

static CUresult ask_changed(struct visit *visit, const struct gb_bounce *bounce) {
  struct gb_run_range *ranges = calloc(visit->count, sizeof *ranges);
  if (ranges == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
  for (uint32_t i = 0; i < visit->count; i++) {
    const struct gb_crossing *move = &visit->moves[i];
    ranges[i] = (struct gb_run_range){offset_of(move->span->base + move->from), move->to - move->from};
  }
  CUresult result = gb_run_collect(visit->lane, ranges, visit->count, &visit->runs, &visit->run_count, bounce->map,
                                   bounce->memory->bytes, &visit->bytes);
  free(ranges);
  return result;
}

/* The span of a run, all of which has been asked for. */
static struct gb_span *span_of(const struct visit *visit, const struct gb_run_run *run) {
  uint64_t address = gb_arena_base_address + run->offset;
  uint64_t bytes = (uint64_t)run->blocks * GB_BLOCK_BYTES;
  if (bytes == 0 || address % GB_BLOCK_BYTES != 0) return NULL;
  for (uint32_t i = 0; i < visit->count; i++) {
    const struct gb_crossing *move = &visit->moves[i];
    uint64_t from = move->span->base + move->from, to = move->span->base + move->to;
    if (address >= from && address < to && bytes <= to - address) return move->span;
  }
  return NULL;
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
  for (uint32_t i = 0; i < visit->count; i++)
    atomic_store_explicit(&visit->moves[i].span->scan, (uint32_t)GB_SCAN_UNKNOWN, memory_order_relaxed);
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

CUresult gb_crossing_collect(uint32_t lane, const struct gb_crossing *moves, uint32_t count) {
  CUresult result = CUDA_SUCCESS;
  for (uint32_t at = 0; at < count && result == CUDA_SUCCESS; at += VISIT_MAX) {
    struct visit visit = {.lane = lane, .moves = moves + at, .count = count - at < VISIT_MAX ? count - at : VISIT_MAX};
    result = collect_visit(&visit);
    free(visit.runs);
  }
  return result;
}
