/* SPDX-License-Identifier: Apache-2.0 */
/* run_ranges.c: commands that name ranges of the arena; see run_commands.h. */
#define _GNU_SOURCE
#include <string.h>

#include "run_commands.h"

static const struct gbx_outcome ok = {GB_RUN_OK, 0};
static const struct gbx_outcome invalid = {GB_RUN_INVALID, 0};

struct gbx_outcome gbx_runner_reach(struct gbx_runner *runner, const struct gbx_execution *execution, uint64_t offset,
                                    uint64_t length) {
  bool leaving = false;
  enum gbx_status_code code = gbx_store_reach(runner->store, offset, length, &leaving);
  if (code == GBX_OK && leaving && !runner->may_touch(runner->context, execution->sequence, offset, length))
    code = GBX_NOT_FOUND;
  if (code == GBX_OK)
    return ok;
  return (struct gbx_outcome){code == GBX_INVALID ? GB_RUN_INVALID : GB_RUN_NOT_FOUND, 0};
}

struct gbx_outcome gbx_runner_copy(struct gbx_runner *runner, struct gbx_execution *execution,
                                   const struct gb_run_copy *copy) {
  if (copy->length == 0)
    return ok;
  struct gbx_outcome reached = gbx_runner_reach(runner, execution, copy->to_offset, copy->length);
  if (reached.status == GB_RUN_OK)
    reached = gbx_runner_reach(runner, execution, copy->from_offset, copy->length);
  if (reached.status != GB_RUN_OK)
    return reached;
  return gbx_outcome_of(runner->driver->cuMemcpyDtoDAsync_v2(runner->base + copy->to_offset,
                                                             runner->base + copy->from_offset, copy->length,
                                                             runner->stream));
}

struct gbx_outcome gbx_runner_fill(struct gbx_runner *runner, struct gbx_execution *execution,
                                   const struct gb_run_fill *fill) {
  const struct gbx_driver *driver = runner->driver;
  uint64_t bytes = gbx_fill_bytes(fill, runner->arena_bytes);
  if (bytes == UINT64_MAX)
    return invalid;
  if (bytes == 0)
    return ok;
  struct gbx_outcome reached = gbx_runner_reach(runner, execution, fill->offset, bytes);
  if (reached.status != GB_RUN_OK)
    return reached;
  CUdeviceptr at = runner->base + fill->offset;
  uint64_t pitch = fill->height == 1 ? fill->width * fill->element_bytes : fill->pitch;
  switch (fill->element_bytes) {
  case 1:
    return gbx_outcome_of(driver->cuMemsetD2D8Async(at, pitch, (unsigned char)fill->value, fill->width, fill->height,
                                                    runner->stream));
  case 2:
    return gbx_outcome_of(driver->cuMemsetD2D16Async(at, pitch, (unsigned short)fill->value, fill->width,
                                                     fill->height, runner->stream));
  default:
    return gbx_outcome_of(
        driver->cuMemsetD2D32Async(at, pitch, fill->value, fill->width, fill->height, runner->stream));
  }
}

struct gbx_outcome gbx_runner_read(struct gbx_runner *runner, struct gbx_execution *execution,
                                   const struct gb_run_range *range) {
  if (range->length > GB_RUN_BATCH_BYTES_MAX - sizeof(struct gb_run_result))
    return (struct gbx_outcome){GB_RUN_LIMIT, 0};
  struct gbx_outcome outcome = gbx_runner_reach(runner, execution, range->offset, range->length);
  if (outcome.status != GB_RUN_OK)
    return outcome;
  struct gbx_buffer *buffer = gbx_runner_take_buffer(runner);
  if (!buffer || !gbx_execution_answer(execution, range->length))
    outcome = gbx_outcome_of(CUDA_ERROR_OUT_OF_MEMORY);
  if (outcome.status == GB_RUN_OK)
    outcome = gbx_outcome_of(runner->driver->cuMemcpyDtoHAsync_v2(buffer->memory, runner->base + range->offset,
                                                                  range->length, runner->stream));
  if (outcome.status == GB_RUN_OK)
    outcome = gbx_outcome_of(gbx_runner_wait(runner));
  if (outcome.status == GB_RUN_OK)
    memcpy(execution->answer + sizeof(struct gb_run_result), buffer->memory, range->length);
  if (buffer)
    gbx_runner_lend_buffer(runner, buffer);
  return outcome;
}
