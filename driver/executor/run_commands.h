/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run_commands.h: carries out the commands of gb_run.h on GPU 0, on one stream, in the order they come. A range on
 * another GPU can be named only if GPU 0 is its peer; so can a launch's arguments, which nobody checks: a kernel that
 * touches what is not there ends its executor.
 *
 * locks: none. Everything is called by one thread, with the context current, but what says otherwise.
 */
#ifndef GBX_RUN_COMMANDS_H
#define GBX_RUN_COMMANDS_H

#include "blocks.h"
#include "buffers.h"
#include "images.h"
#include "run_marks.h"

/* Pinned buffers of GB_RUN_BATCH_BYTES_MAX, for bytes of batches that the GPU has not taken yet. */
#define GBX_RUN_BUFFERS_MAX 8u
/* Agreed runs that are told to the block engine at once. */
#define GBX_RUN_ARRIVED_MAX 1024u

struct gbx_run_kernel {
  CUfunction function;
  uint64_t param_bytes; /* UINT64_MAX: the driver cannot tell */
  char name[];
};

struct gbx_tracked {
  uint64_t offset, length;
  struct gb_blocks_range *range;
};

struct gbx_runner {
  struct gbx_store *store;
  const struct gbx_driver *driver;
  uint64_t base, arena_bytes;
  /* Whether a batch may still touch a range that is being freed. Any thread's. */
  bool (*may_touch)(void *context, uint64_t sequence, uint64_t offset, uint64_t length);
  void *context;
  CUstream stream;
  struct gbx_marks marks;
  struct gbx_images images;
  struct gbx_run_kernel *_Atomic *kernels; /* by number; never freed */
  struct gb_blocks *blocks;                /* NULL until something is tracked */
  struct gbx_tracked *tracked;             /* sorted by offset */
  uint32_t tracked_count, tracked_room;
  struct gb_blocks_run arrived[GBX_RUN_ARRIVED_MAX]; /* not told yet */
  uint32_t arrived_count;
  struct gbx_buffers buffers;
  struct {
    struct gbx_buffer *buffer;
    uint32_t mark; /* when it is free again */
  } lent[GBX_RUN_BUFFERS_MAX]; /* oldest first */
  unsigned lent_count;
};

/* A batch while it is carried out, and how it ended. */
struct gbx_execution {
  const uint8_t *body;
  uint64_t bytes;
  uint64_t sequence;
  struct gbx_buffer *staging; /* of its bytes; NULL until it needs one */
  uint64_t staged;
  struct gbx_outcome outcome; /* of the first command that failed */
  uint64_t failed_sequence;   /* of the batch it is in: a fault may be of an earlier one */
  uint32_t function;          /* that failed, or 0 */
  bool own;                   /* the failure is of this batch alone */
  uint8_t *answer;            /* memory of malloc: room for a gb_run_result, then what the last command answers */
  uint64_t answer_bytes;      /* without that room */
  uint32_t mark;              /* reached: nothing of it is running */
};

/* Makes the stream and what else is needed from the start. owns: everything, until the process ends. */
CUresult gbx_runner_open(struct gbx_runner *runner, struct gbx_store *store, struct gbx_block_cache *cache);

/* Carries out a batch whose commands gbx_batch_read has found good. */
void gbx_runner_execute(struct gbx_runner *runner, struct gbx_execution *execution);

/* The name of a kernel for messages; never NULL. Any thread. */
const char *gbx_runner_kernel_name(const struct gbx_runner *runner, uint32_t function);

/* ---- run_ranges.c: commands that name ranges ---- */

/* Whether the GPU reaches these bytes now. */
struct gbx_outcome gbx_runner_reach(struct gbx_runner *runner, const struct gbx_execution *execution, uint64_t offset,
                                    uint64_t length);
struct gbx_outcome gbx_runner_copy(struct gbx_runner *runner, struct gbx_execution *execution,
                                   const struct gb_run_copy *copy);
struct gbx_outcome gbx_runner_fill(struct gbx_runner *runner, struct gbx_execution *execution,
                                   const struct gb_run_fill *fill);
struct gbx_outcome gbx_runner_read(struct gbx_runner *runner, struct gbx_execution *execution,
                                   const struct gb_run_range *range);

/* ---- run_tracked.c: replicated ranges ---- */

struct gbx_outcome gbx_runner_track(struct gbx_runner *runner, struct gbx_execution *execution,
                                    const struct gb_run_range *range);
struct gbx_outcome gbx_runner_untrack(struct gbx_runner *runner, const struct gb_run_range *range);
struct gbx_outcome gbx_runner_arrived(struct gbx_runner *runner, struct gbx_execution *execution,
                                      const struct gb_run_range *range);
struct gbx_outcome gbx_runner_disagree(struct gbx_runner *runner, const struct gb_run_range *range);
struct gbx_outcome gbx_runner_collect(struct gbx_runner *runner, struct gbx_execution *execution,
                                      const struct gbx_command *command);
/* Tells the engine what has arrived: before anything can change it. */
struct gbx_outcome gbx_runner_agree(struct gbx_runner *runner);
/* Whether something has arrived there that the engine has not been told. */
bool gbx_runner_is_agreeing(const struct gbx_runner *runner, uint64_t offset, uint64_t length);

/* ---- helpers of all three ---- */

struct gbx_outcome gbx_outcome_of(CUresult result);
/* Marks what was submitted, then waits for all of it. */
CUresult gbx_runner_wait(struct gbx_runner *runner);
/* A pinned buffer that nothing reads; NULL: no memory. */
struct gbx_buffer *gbx_runner_take_buffer(struct gbx_runner *runner);
void gbx_runner_lend_buffer(struct gbx_runner *runner, struct gbx_buffer *buffer);
/* Room for an answer of so many bytes; false: no memory. */
bool gbx_execution_answer(struct gbx_execution *execution, uint64_t bytes);

#endif
