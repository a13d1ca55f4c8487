/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run.h: what this process has the executor behind a lane do (driver/executor/gb_run.h): commands are appended to a
 * batch, batches leave by themselves. Nothing here waits for an answer but what says so.
 *
 *   idle --append--> filling --full, flushed or GB_RUN_LINGER_NS old--> on the wire --executed--> idle
 *
 * A lane that ends is opened again when it is needed, and what was not answered is sent again. When the agent says that
 * it is gone, or it does not come back in time, so is the executor's state: every later call fails with
 * CUDA_ERROR_EXTERNAL_DEVICE. The first failure of a launch stays, too (gb_run_error).
 * locks: one for each queue, inside every function; gb_lock may be held.
 */
#ifndef GB_RUN_QUEUE_H
#define GB_RUN_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

#include "code.h"
#include "gb_run.h"

/* A batch that nobody flushes leaves when it is this old, so that the feeder's GPU does not wait for the program. */
#define GB_RUN_LINGER_NS (20ull * 1000)
/* Batches that leave before they are full hold at least so many launches, unless they are flushed or old. */
#define GB_RUN_LAUNCHES_MIN 16u

/* A launch as the program made it. */
struct gb_run_request {
  CUfunction function;
  unsigned grid[3];
  unsigned block[3];
  unsigned shared_bytes;
  void **params;
  void **extra;
  const CUlaunchAttribute *attributes; /* of cuLaunchKernelEx */
  uint32_t attribute_count;
};

/* Whether the lane takes calls, and nothing has failed there; opens it on first need, which takes a request to the
 * agent and at most some seconds. */
bool gb_run_can(uint32_t lane);
/* Whether this launch can be made over this lane as far as its code goes; sends the code on first need, which waits.
 * returns: CUDA_SUCCESS; CUDA_ERROR_NOT_SUPPORTED: never; CUDA_ERROR_EXTERNAL_DEVICE: the lane is gone; the error that
 * the queue has latched. */
CUresult gb_run_prepare(uint32_t lane, const struct gb_run_request *launch);
/* pre: prepared. returns: CUDA_SUCCESS, or the error that the queue has latched. */
CUresult gb_run_launch(uint32_t lane, const struct gb_run_request *launch);
CUresult gb_run_copy(uint32_t lane, uint64_t to_offset, uint64_t from_offset, uint64_t bytes);
CUresult gb_run_fill(uint32_t lane, const struct gb_run_fill *fill);
CUresult gb_run_symbol(uint32_t lane, const struct gb_code_symbol *symbol, const void *bytes, uint64_t length);
CUresult gb_run_track(uint32_t lane, uint64_t offset, uint64_t bytes, bool track);
/* What is there next is not known here: these blocks of a tracked range have changed, whatever they hold. */
CUresult gb_run_disagree(uint32_t lane, uint64_t offset, uint64_t bytes);

/* Bytes to arena addresses there, in the queue's order: small ones inside the batch, large ones as lane writes that are
 * waited for first. arrived: the range is tracked, and agreed on. `memory` is read before the return. */
CUresult gb_run_write(uint32_t lane, uint64_t offset, const void *memory, uint64_t bytes, bool arrived);
/* Bytes from there, after everything before. Waits. */
CUresult gb_run_read(uint32_t lane, uint64_t offset, void *memory, uint64_t bytes);

/* Changed blocks of parts of tracked ranges, named by address, after everything before. Waits. `memory` receives the
 * bytes of all runs one behind the other, when there is room for them (*bytes <= room); otherwise the caller reads
 * them. owns: *runs, free. */
CUresult gb_run_collect(uint32_t lane, const struct gb_run_range *ranges, uint32_t range_count,
                        struct gb_run_run **runs, uint32_t *run_count, void *memory, uint64_t room, uint64_t *bytes);

/* Sends what has been appended. */
void gb_run_flush(uint32_t lane);
/* Waits until everything is done, on one lane or on all; what is appended meanwhile is not waited for. returns: the
 * latched error. Costs a load when nothing was dispatched. */
CUresult gb_run_sync(uint32_t lane);
CUresult gb_run_sync_all(void);
/* Whether anything is not known to be done, on any lane. One load. */
bool gb_run_busy(void);
/* The latched error of any lane, and whose it is: feeder and function by name. */
CUresult gb_run_error(char feeder[64], char function[128]);

struct gb_run_counters {
  uint64_t launches;
  uint64_t batches;
  uint64_t bytes_out, bytes_in; /* of commands and answers */
  uint64_t waits;               /* for the feeder: answers that somebody stood still for, of code not counted */
};
struct gb_run_counters gb_run_counted(uint32_t lane);

/* Ends every queue: nothing is sent or waited for any more. At the end of the process before gb_lanes_stop. */
void gb_run_stop(void);
/* In a forked child. No lock. */
void gb_run_forked(void);

#endif
