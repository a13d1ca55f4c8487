/* SPDX-License-Identifier: Apache-2.0 */
/* run_tracked.c: replicated ranges, whose changed blocks go back and forth; see run_commands.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "run_commands.h"

_Static_assert(GB_RUN_BLOCK_BYTES == GB_BLOCK_BYTES, "blocks");
_Static_assert(sizeof(struct gb_run_run) == sizeof(struct gb_blocks_run), "runs");

/* Runs that one answer can name. */
#define RUNS_MAX \
  ((GB_RUN_BATCH_BYTES_MAX - sizeof(struct gb_run_result) - sizeof(struct gb_run_blocks)) / sizeof(struct gb_run_run))
_Static_assert(RUNS_MAX >= GB_RUN_RANGES_MAX, "one for each range at least");

static const struct gbx_outcome ok = {GB_RUN_OK, 0};

static struct gbx_outcome failed(enum gb_run_status status) {
  return (struct gbx_outcome){status, 0};
}

/* ---- the engine ---- */

static CUresult allocate(void *context, CUdeviceptr *address, size_t bytes) {
  const struct gbx_runner *runner = context;
  return runner->driver->cuMemAlloc_v2(address, bytes);
}

static void release(void *context, CUdeviceptr address, size_t bytes) {
  const struct gbx_runner *runner = context;
  (void)bytes;
  runner->driver->cuMemFree_v2(address);
}

static CUresult open_engine(struct gbx_runner *runner) {
  struct gb_blocks_options options = {
      .driver =
          {
#define GBX_BLOCKS_FUNCTION(name) .name = runner->driver->name,
              GB_BLOCKS_FUNCTIONS(GBX_BLOCKS_FUNCTION)
#undef GBX_BLOCKS_FUNCTION
          },
      .stream = runner->stream,
      .allocate = allocate,
      .release = release,
      .context = runner,
      .arena_base = runner->base,
      .arena_bytes = runner->arena_bytes,
  };
  while (getrandom(options.key, sizeof(options.key), 0) != (ssize_t)sizeof(options.key)) {
    if (errno != EINTR)
      return CUDA_ERROR_OPERATING_SYSTEM;
  }
  CUresult result = gb_blocks_open(&options, &runner->blocks);
  explicit_bzero(options.key, sizeof(options.key));
  return result;
}

/* ---- the list ---- */

/* Index of the first that ends behind `offset`; their count when there is none. */
static uint32_t first_behind(const struct gbx_runner *runner, uint64_t offset) {
  uint32_t low = 0, high = runner->tracked_count;
  while (low < high) {
    uint32_t middle = low + (high - low) / 2;
    if (runner->tracked[middle].offset + runner->tracked[middle].length > offset)
      high = middle;
    else
      low = middle + 1;
  }
  return low;
}

/* The one that is exactly this range, or NULL. */
static struct gbx_tracked *find(struct gbx_runner *runner, const struct gb_run_range *range) {
  uint32_t index = first_behind(runner, range->offset);
  struct gbx_tracked *tracked = index < runner->tracked_count ? &runner->tracked[index] : NULL;
  return tracked && tracked->offset == range->offset && tracked->length == range->length ? tracked : NULL;
}

static bool make_room(struct gbx_runner *runner) {
  if (runner->tracked_count < runner->tracked_room)
    return true;
  uint32_t room = runner->tracked_room ? runner->tracked_room * 2 : 64;
  struct gbx_tracked *grown = reallocarray(runner->tracked, room, sizeof(*grown));
  if (!grown)
    return false;
  runner->tracked = grown;
  runner->tracked_room = room;
  return true;
}

struct gbx_outcome gbx_runner_track(struct gbx_runner *runner, struct gbx_execution *execution,
                                    const struct gb_run_range *range) {
  struct gbx_outcome outcome = gbx_runner_reach(runner, execution, range->offset, range->length);
  if (outcome.status != GB_RUN_OK)
    return outcome;
  if (range->offset % GB_BLOCK_BYTES != 0 || range->length % GB_BLOCK_BYTES != 0)
    return failed(GB_RUN_INVALID);
  if (runner->tracked_count == GB_RUN_RANGES_MAX || range->length > GB_BLOCKS_RANGE_BYTES_MAX)
    return failed(GB_RUN_LIMIT);
  uint32_t index = first_behind(runner, range->offset);
  if (index < runner->tracked_count && runner->tracked[index].offset < range->offset + range->length)
    return failed(GB_RUN_INVALID);
  if (!make_room(runner))
    return gbx_outcome_of(CUDA_ERROR_OUT_OF_MEMORY);
  CUresult result = runner->blocks ? CUDA_SUCCESS : open_engine(runner);
  struct gbx_tracked added = {.offset = range->offset, .length = range->length};
  if (result == CUDA_SUCCESS)
    result = gb_blocks_track(runner->blocks, runner->base + range->offset, range->length, &added.range);
  if (result != CUDA_SUCCESS)
    return gbx_outcome_of(result);
  memmove(&runner->tracked[index + 1], &runner->tracked[index],
          (runner->tracked_count - index) * sizeof(*runner->tracked));
  runner->tracked[index] = added;
  runner->tracked_count++;
  return ok;
}

struct gbx_outcome gbx_runner_untrack(struct gbx_runner *runner, const struct gb_run_range *range) {
  struct gbx_tracked *tracked = find(runner, range);
  if (!tracked)
    return failed(GB_RUN_NOT_FOUND);
  gb_blocks_untrack(runner->blocks, tracked->range);
  uint32_t behind = runner->tracked_count - (uint32_t)(tracked - runner->tracked) - 1;
  memmove(tracked, tracked + 1, behind * sizeof(*tracked));
  runner->tracked_count--;
  return ok;
}

/* ---- what has arrived ---- */

struct gbx_outcome gbx_runner_agree(struct gbx_runner *runner) {
  if (runner->arrived_count == 0)
    return ok;
  uint32_t count = runner->arrived_count;
  runner->arrived_count = 0;
  CUresult result = gbx_marks_end(&runner->marks);
  if (result == CUDA_SUCCESS)
    result = gb_blocks_arrived(runner->blocks, runner->arrived, count);
  if (result == CUDA_SUCCESS)
    gbx_marks_idle(&runner->marks); /* it has waited for everything */
  return gbx_outcome_of(result);
}

bool gbx_runner_is_agreeing(const struct gbx_runner *runner, uint64_t offset, uint64_t length) {
  uint64_t from = runner->base + offset, to = from + length;
  for (uint32_t index = 0; index < runner->arrived_count; index++) {
    const struct gb_blocks_run *run = &runner->arrived[index];
    if (run->address < to && from < run->address + (uint64_t)run->blocks * GB_BLOCK_BYTES)
      return true;
  }
  return false;
}

/* Notes blocks of one tracked range; neighbours become one run. */
static struct gbx_outcome note(struct gbx_runner *runner, uint64_t from, uint64_t to, bool may_join) {
  struct gb_blocks_run *last = &runner->arrived[runner->arrived_count - (runner->arrived_count > 0)];
  uint32_t blocks = (uint32_t)((to - from) / GB_BLOCK_BYTES);
  if (may_join && runner->arrived_count > 0 &&
      last->address + (uint64_t)last->blocks * GB_BLOCK_BYTES == runner->base + from) {
    last->blocks += blocks;
    return ok;
  }
  struct gbx_outcome outcome = runner->arrived_count == GBX_RUN_ARRIVED_MAX ? gbx_runner_agree(runner) : ok;
  runner->arrived[runner->arrived_count++] = (struct gb_blocks_run){runner->base + from, blocks, 0};
  return outcome;
}

struct gbx_outcome gbx_runner_arrived(struct gbx_runner *runner, struct gbx_execution *execution,
                                      const struct gb_run_range *range) {
  struct gbx_outcome outcome = gbx_runner_reach(runner, execution, range->offset, range->length);
  uint64_t end = range->offset + range->length, at = range->offset;
  for (uint32_t index = first_behind(runner, at); outcome.status == GB_RUN_OK && at < end; index++) {
    if (index == runner->tracked_count || runner->tracked[index].offset > at)
      return failed(GB_RUN_NOT_FOUND);
    const struct gbx_tracked *tracked = &runner->tracked[index];
    uint64_t tracked_end = tracked->offset + tracked->length, to = end < tracked_end ? end : tracked_end;
    /* Whole blocks; a tracked range consists of them. */
    uint64_t first = at - at % GB_BLOCK_BYTES, last = to + -to % GB_BLOCK_BYTES;
    outcome = note(runner, first, last, first > tracked->offset);
    at = to;
  }
  return outcome;
}

/* ---- what has changed ---- */

/* The tracked range that these whole blocks lie in, or NULL. */
static struct gbx_tracked *find_around(struct gbx_runner *runner, const struct gb_run_range *range) {
  uint32_t index = first_behind(runner, range->offset);
  struct gbx_tracked *tracked = index < runner->tracked_count ? &runner->tracked[index] : NULL;
  bool inside = tracked && range->offset >= tracked->offset && range->length > 0 &&
                range->length <= tracked->length - (range->offset - tracked->offset);
  return inside && range->offset % GB_BLOCK_BYTES == 0 && range->length % GB_BLOCK_BYTES == 0 ? tracked : NULL;
}

static struct gb_blocks_run part_of(const struct gbx_runner *runner, const struct gb_run_range *range) {
  return (struct gb_blocks_run){runner->base + range->offset, (uint32_t)(range->length / GB_BLOCK_BYTES), 0};
}

/* The parts of tracked ranges that a COLLECT names. owns: *parts, free. */
static struct gbx_outcome look_up(struct gbx_runner *runner, const struct gbx_execution *execution,
                                  const struct gbx_command *command, struct gb_blocks_run **parts) {
  struct gbx_outcome outcome = ok;
  *parts = calloc(command->item_count + 1, sizeof(**parts));
  if (!*parts)
    return gbx_outcome_of(CUDA_ERROR_OUT_OF_MEMORY);
  for (uint32_t named = 0; named < command->item_count && outcome.status == GB_RUN_OK; named++) {
    const struct gb_run_range *range = &command->has.ranges[named];
    if (!find_around(runner, range))
      return failed(GB_RUN_NOT_FOUND);
    if (named > 0 && range->offset < range[-1].offset + range[-1].length)
      return failed(GB_RUN_INVALID);
    outcome = gbx_runner_reach(runner, execution, range->offset, range->length);
    (*parts)[named] = part_of(runner, range);
  }
  return outcome;
}

struct gbx_outcome gbx_runner_disagree(struct gbx_runner *runner, const struct gb_run_range *range) {
  if (!find_around(runner, range))
    return failed(GB_RUN_NOT_FOUND);
  const struct gb_blocks_run part = part_of(runner, range);
  gb_blocks_disagree(runner->blocks, &part, 1);
  gbx_marks_idle(&runner->marks); /* the engine has waited for everything */
  return ok;
}

/* Makes at most one run of each part: what lies between changed blocks is the same on both sides. returns: how many are
 * left. */
static uint32_t join(const struct gb_blocks_run *parts, struct gb_blocks_run *runs, uint32_t count) {
  uint32_t kept = 0, part = 0, last_part = UINT32_MAX;
  for (uint32_t index = 0; index < count; index++) {
    while (parts[part].address + (uint64_t)parts[part].blocks * GB_BLOCK_BYTES <= runs[index].address)
      part++;
    if (kept > 0 && part == last_part) {
      struct gb_blocks_run *run = &runs[kept - 1];
      run->blocks = (uint32_t)((runs[index].address - run->address) / GB_BLOCK_BYTES) + runs[index].blocks;
      run->hidden |= runs[index].hidden;
    } else {
      runs[kept++] = runs[index];
    }
    last_part = part;
  }
  return kept;
}

/* Writes the answer; the bytes of the runs, too, when they are few. */
static struct gbx_outcome answer(struct gbx_runner *runner, struct gbx_execution *execution,
                                 const struct gb_blocks_run *runs, uint32_t count, uint64_t inline_max) {
  struct gb_run_blocks head = {.run_count = count};
  for (uint32_t index = 0; index < count; index++)
    head.bytes += (uint64_t)runs[index].blocks * GB_BLOCK_BYTES;
  uint64_t named = sizeof(head) + count * sizeof(struct gb_run_run);
  uint64_t room = GB_RUN_BATCH_BYTES_MAX - sizeof(struct gb_run_result) - named;
  head.is_inline = head.bytes <= inline_max && head.bytes <= room;
  if (!gbx_execution_answer(execution, named + (head.is_inline ? head.bytes : 0)))
    return gbx_outcome_of(CUDA_ERROR_OUT_OF_MEMORY);
  uint8_t *at = execution->answer + sizeof(struct gb_run_result);
  memcpy(at, &head, sizeof(head));
  at += sizeof(head);
  for (uint32_t index = 0; index < count; index++, at += sizeof(struct gb_run_run)) {
    struct gb_run_run run = {runs[index].address - runner->base, runs[index].blocks, runs[index].hidden};
    memcpy(at, &run, sizeof(run));
  }
  if (!head.is_inline || head.bytes == 0)
    return ok;
  struct gbx_buffer *buffer = gbx_runner_take_buffer(runner);
  if (!buffer)
    return gbx_outcome_of(CUDA_ERROR_OUT_OF_MEMORY);
  CUresult copied = gb_blocks_copy_out(runner->blocks, runs, count, buffer->memory);
  if (copied == CUDA_SUCCESS)
    memcpy(at, buffer->memory, head.bytes);
  gbx_runner_lend_buffer(runner, buffer);
  return gbx_outcome_of(copied);
}

struct gbx_outcome gbx_runner_collect(struct gbx_runner *runner, struct gbx_execution *execution,
                                      const struct gbx_command *command) {
  struct gb_blocks_run *parts = NULL;
  struct gb_blocks_run *runs = NULL;
  uint32_t count = 0;
  struct gbx_outcome outcome = look_up(runner, execution, command, &parts);
  if (outcome.status == GB_RUN_OK && command->item_count > 0)
    outcome = gbx_outcome_of(gb_blocks_collect(runner->blocks, parts, command->item_count, &runs, &count));
  if (outcome.status == GB_RUN_OK && count > RUNS_MAX)
    count = join(parts, runs, count);
  if (outcome.status == GB_RUN_OK)
    outcome = answer(runner, execution, runs, count, command->is.collect->inline_bytes_max);
  if (outcome.status == GB_RUN_OK && command->item_count > 0)
    gbx_marks_idle(&runner->marks); /* the engine has waited for everything */
  free(runs);
  free(parts);
  return outcome;
}
