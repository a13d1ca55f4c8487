/* SPDX-License-Identifier: Apache-2.0 */
/* run_commands.c: see run_commands.h. */
#define _GNU_SOURCE
#include "run_commands.h"

#include <stdlib.h>
#include <string.h>

static const struct gbx_outcome ok = {GB_RUN_OK, 0};

static struct gbx_outcome failed(enum gb_run_status status) {
  return (struct gbx_outcome){status, 0};
}

struct gbx_outcome gbx_outcome_of(CUresult result) {
  return (struct gbx_outcome){result == CUDA_SUCCESS ? GB_RUN_OK : GB_RUN_FAILED, result};
}

/* ---- waiting, and pinned memory ---- */

CUresult gbx_runner_wait(struct gbx_runner *runner) {
  CUresult result = gbx_marks_end(&runner->marks); /* for who watches */
  if (result == CUDA_SUCCESS)
    result = runner->driver->cuStreamSynchronize(runner->stream);
  if (result == CUDA_SUCCESS)
    gbx_marks_idle(&runner->marks);
  return result;
}

/* Takes back buffers that the GPU has read. */
static void reclaim(struct gbx_runner *runner) {
  unsigned ended = 0;
  while (ended < runner->lent_count && gbx_marks_passed(&runner->marks, runner->lent[ended].mark))
    gbx_buffers_return(&runner->buffers, runner->lent[ended++].buffer);
  runner->lent_count -= ended;
  memmove(runner->lent, runner->lent + ended, runner->lent_count * sizeof(*runner->lent));
}

struct gbx_buffer *gbx_runner_take_buffer(struct gbx_runner *runner) {
  reclaim(runner);
  if (runner->lent_count >= GBX_RUN_BUFFERS_MAX - 2) { /* a batch takes one for its bytes, and one for its answer */
    if (gbx_runner_wait(runner) != CUDA_SUCCESS)
      return NULL;
    reclaim(runner);
  }
  return gbx_buffers_take(&runner->buffers, 0, 0);
}

void gbx_runner_lend_buffer(struct gbx_runner *runner, struct gbx_buffer *buffer) {
  runner->lent[runner->lent_count].buffer = buffer;
  runner->lent[runner->lent_count++].mark = atomic_load(&runner->marks.made) + runner->marks.open;
}

/* Copies bytes of the batch to where the GPU may read them later. NULL: no memory. */
static const uint8_t *stage(struct gbx_runner *runner, struct gbx_execution *execution, const uint8_t *bytes,
                            uint64_t count) {
  if (!execution->staging)
    execution->staging = gbx_runner_take_buffer(runner);
  if (!execution->staging)
    return NULL;
  uint8_t *staged = execution->staging->memory + execution->staged; /* a batch has no more bytes than it */
  memcpy(staged, bytes, count);
  execution->staged += count;
  return staged;
}

bool gbx_execution_answer(struct gbx_execution *execution, uint64_t bytes) {
  execution->answer = malloc(sizeof(struct gb_run_result) + bytes);
  execution->answer_bytes = execution->answer ? bytes : 0;
  return execution->answer != NULL;
}

static struct gbx_outcome upload(struct gbx_runner *runner, struct gbx_execution *execution, CUdeviceptr to,
                                 const uint8_t *bytes, uint64_t count) {
  const uint8_t *staged = stage(runner, execution, bytes, count);
  if (!staged)
    return gbx_outcome_of(CUDA_ERROR_OUT_OF_MEMORY);
  return gbx_outcome_of(runner->driver->cuMemcpyHtoDAsync_v2(to, staged, count, runner->stream));
}

/* ---- code ---- */

static void copy_name(char *to, const struct gbx_command *command) {
  memcpy(to, command->name, command->name_bytes);
  to[command->name_bytes] = '\0';
}

static struct gbx_outcome do_image(struct gbx_runner *runner, struct gbx_execution *execution,
                                   const struct gbx_command *command) {
  const struct gb_run_bitmap head = {.bit_count = command->is.image->block_count};
  uint64_t bytes = sizeof(head) + (head.bit_count + 7) / 8;
  if (!gbx_execution_answer(execution, bytes))
    return gbx_outcome_of(CUDA_ERROR_OUT_OF_MEMORY);
  uint8_t *at = execution->answer + sizeof(struct gb_run_result);
  memset(at, 0, bytes);
  memcpy(at, &head, sizeof(head));
  return gbx_images_offer(&runner->images, command->is.image, command->has.digests, at + sizeof(head));
}

static struct gbx_outcome do_function(struct gbx_runner *runner, const struct gbx_command *command) {
  const struct gb_run_function *wanted = command->is.function;
  if (atomic_load(&runner->kernels[wanted->function]))
    return failed(GB_RUN_INVALID);
  struct gbx_run_kernel *kernel = malloc(sizeof(*kernel) + command->name_bytes + 1);
  if (!kernel)
    return gbx_outcome_of(CUDA_ERROR_OUT_OF_MEMORY);
  copy_name(kernel->name, command);
  struct gbx_outcome outcome = gbx_images_function(&runner->images, wanted->digest, kernel->name, &kernel->function,
                                                   &kernel->param_bytes);
  for (uint32_t index = 0; index < command->item_count && outcome.status == GB_RUN_OK; index++) {
    const struct gb_run_attribute *attribute = &command->has.attributes[index];
    outcome = gbx_outcome_of(runner->driver->cuFuncSetAttribute(
        kernel->function, (CUfunction_attribute)attribute->attribute, attribute->value));
  }
  if (outcome.status == GB_RUN_OK)
    atomic_store(&runner->kernels[wanted->function], kernel);
  else
    free(kernel);
  return outcome;
}

static struct gbx_outcome do_symbol(struct gbx_runner *runner, struct gbx_execution *execution,
                                    const struct gbx_command *command) {
  const struct gb_run_symbol *symbol = command->is.symbol;
  char name[GB_RUN_NAME_BYTES_MAX + 1];
  CUdeviceptr address = 0;
  size_t bytes = 0;
  copy_name(name, command);
  struct gbx_outcome outcome = gbx_images_symbol(&runner->images, symbol->digest, name, &address, &bytes);
  if (outcome.status != GB_RUN_OK || symbol->length == 0)
    return outcome;
  if (symbol->offset > bytes || symbol->length > bytes - symbol->offset)
    return failed(GB_RUN_INVALID);
  return upload(runner, execution, address + symbol->offset, command->data, command->data_bytes);
}

/* ---- launches ---- */

/* Attributes that are values; others hold handles and addresses of the program's process. */
static bool may_have(uint32_t attribute) {
  switch (attribute) {
  case CU_LAUNCH_ATTRIBUTE_IGNORE:
  case CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW:
  case CU_LAUNCH_ATTRIBUTE_COOPERATIVE:
  case CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION:
  case CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
  case CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION:
  case CU_LAUNCH_ATTRIBUTE_PRIORITY:
  case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP:
  case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN:
  case CU_LAUNCH_ATTRIBUTE_PREFERRED_CLUSTER_DIMENSION:
  case CU_LAUNCH_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
    return true;
  default:
    return false;
  }
}

static bool take_attributes(const struct gbx_command *command, CUlaunchAttribute *attributes) {
  memset(attributes, 0, command->item_count * sizeof(*attributes));
  for (uint32_t index = 0; index < command->item_count; index++) {
    const struct gb_run_launch_attribute *from = &command->has.launch_attributes[index];
    _Static_assert(sizeof(from->value) == sizeof(attributes->value), "launch attributes");
    if (!may_have(from->id))
      return false;
    attributes[index].id = (CUlaunchAttributeID)from->id;
    memcpy(&attributes[index].value, from->value, sizeof(from->value));
  }
  return true;
}

/* Whether a buffer of parameters is the kernel's, which may end in what aligns it. *bytes: what the driver is told. */
static bool fits(const struct gbx_run_kernel *kernel, const struct gb_run_launch *launch, size_t *bytes) {
  *bytes = launch->param_bytes;
  if (kernel->param_bytes == UINT64_MAX)
    return true;
  *bytes = kernel->param_bytes;
  return launch->param_bytes >= kernel->param_bytes && launch->param_bytes <= (kernel->param_bytes + 15) / 16 * 16;
}

static struct gbx_outcome do_launch(struct gbx_runner *runner, struct gbx_execution *execution,
                                    const struct gbx_command *command) {
  const struct gb_run_launch *launch = command->is.launch;
  const struct gbx_run_kernel *kernel = launch->function > 0 && launch->function <= GB_RUN_FUNCTIONS_MAX
                                            ? atomic_load(&runner->kernels[launch->function])
                                            : NULL;
  CUlaunchAttribute attributes[GB_RUN_ATTRIBUTES_MAX];
  size_t param_bytes = 0;
  execution->function = launch->function;
  if (!kernel)
    return failed(GB_RUN_NOT_FOUND);
  if (!fits(kernel, launch, &param_bytes) || !take_attributes(command, attributes))
    return failed(GB_RUN_INVALID);
  const CUlaunchConfig config = {.gridDimX = launch->grid[0],
                                 .gridDimY = launch->grid[1],
                                 .gridDimZ = launch->grid[2],
                                 .blockDimX = launch->block[0],
                                 .blockDimY = launch->block[1],
                                 .blockDimZ = launch->block[2],
                                 .sharedMemBytes = launch->shared_bytes,
                                 .hStream = runner->stream,
                                 .attrs = attributes,
                                 .numAttrs = launch->attribute_count};
  void *extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, (void *)command->data, CU_LAUNCH_PARAM_BUFFER_SIZE, &param_bytes,
                   CU_LAUNCH_PARAM_END};
  CUresult result = gbx_marks_begin(&runner->marks, execution->sequence, launch->function);
  if (result == CUDA_SUCCESS)
    result = runner->driver->cuLaunchKernelEx(&config, kernel->function, NULL, param_bytes > 0 ? extra : NULL);
  if (result == CUDA_SUCCESS)
    result = gbx_marks_launched(&runner->marks);
  return gbx_outcome_of(result);
}

/* ---- one command after the other ---- */

static struct gbx_outcome do_write(struct gbx_runner *runner, struct gbx_execution *execution,
                                   const struct gbx_command *command) {
  const struct gb_run_range *range = command->is.range;
  struct gbx_outcome outcome = gbx_runner_reach(runner, execution, range->offset, range->length);
  if (outcome.status == GB_RUN_OK && gbx_runner_is_agreeing(runner, range->offset, range->length))
    outcome = gbx_runner_agree(runner);
  if (outcome.status != GB_RUN_OK)
    return outcome;
  return upload(runner, execution, runner->base + range->offset, command->data, command->data_bytes);
}

static struct gbx_outcome do_command(struct gbx_runner *runner, struct gbx_execution *execution,
                                     const struct gbx_command *command) {
  switch (command->type) {
  case GB_RUN_IMAGE:
    return do_image(runner, execution, command);
  case GB_RUN_IMAGE_PART:
    return gbx_images_part(&runner->images, command->is.part, command->data);
  case GB_RUN_FUNCTION:
    execution->function = command->is.function->function;
    return do_function(runner, command);
  case GB_RUN_SYMBOL:
    return do_symbol(runner, execution, command);
  case GB_RUN_LAUNCH:
    return do_launch(runner, execution, command);
  case GB_RUN_WRITE:
    return do_write(runner, execution, command);
  case GB_RUN_COPY:
    return gbx_runner_copy(runner, execution, command->is.copy);
  case GB_RUN_FILL:
    return gbx_runner_fill(runner, execution, command->is.fill);
  case GB_RUN_TRACK:
    return gbx_runner_track(runner, execution, command->is.range);
  case GB_RUN_UNTRACK:
    return gbx_runner_untrack(runner, command->is.range);
  case GB_RUN_ARRIVED:
    return gbx_runner_arrived(runner, execution, command->is.range);
  case GB_RUN_DISAGREE:
    return gbx_runner_disagree(runner, command->is.range);
  case GB_RUN_COLLECT:
    return gbx_runner_collect(runner, execution, command);
  case GB_RUN_READ:
    return gbx_runner_read(runner, execution, command->is.range);
  case GB_RUN_SYNC:
    return gbx_outcome_of(gbx_runner_wait(runner));
  }
  return failed(GB_RUN_INVALID);
}

static bool is_code(enum gb_run_type type) {
  return type == GB_RUN_IMAGE || type == GB_RUN_IMAGE_PART || type == GB_RUN_FUNCTION;
}

/* What has to happen before a command: the engine is told of arrivals before anything can change them, and what will be
 * waited for is marked, for who watches. */
static struct gbx_outcome before(struct gbx_runner *runner, struct gbx_execution *execution, enum gb_run_type type) {
  struct gbx_outcome outcome = ok;
  if (is_code(type))
    return ok;
  if (type != GB_RUN_WRITE && type != GB_RUN_ARRIVED)
    outcome = gbx_runner_agree(runner);
  if (outcome.status == GB_RUN_OK && type != GB_RUN_LAUNCH)
    outcome = gbx_outcome_of(gbx_marks_begin(&runner->marks, execution->sequence, 0));
  if (outcome.status == GB_RUN_OK && (type == GB_RUN_COLLECT || type == GB_RUN_DISAGREE))
    outcome = gbx_outcome_of(gbx_marks_end(&runner->marks));
  return outcome;
}

void gbx_runner_execute(struct gbx_runner *runner, struct gbx_execution *execution) {
  struct gbx_command command;
  uint64_t at = 0;
  while (execution->outcome.status == GB_RUN_OK &&
         gbx_batch_next(execution->body, execution->bytes, &at, &command)) {
    execution->function = 0;
    execution->outcome = before(runner, execution, command.type);
    if (execution->outcome.status == GB_RUN_OK)
      execution->outcome = do_command(runner, execution, &command);
    if (execution->outcome.status != GB_RUN_OK)
      execution->own = is_code(command.type) && !gbx_is_fatal(execution->outcome.cuda_error);
  }
  if (execution->outcome.status == GB_RUN_OK) {
    execution->function = 0;
    execution->outcome = gbx_runner_agree(runner);
  }
  if (execution->staging)
    gbx_runner_lend_buffer(runner, execution->staging);
  execution->staging = NULL;
  struct gbx_outcome marked = gbx_outcome_of(gbx_marks_end(&runner->marks));
  if (execution->outcome.status == GB_RUN_OK)
    execution->outcome = marked;
  execution->mark = atomic_load(&runner->marks.made);
  execution->failed_sequence = execution->sequence;
  if (gbx_is_fatal(execution->outcome.cuda_error)) { /* the driver says only that there was a fault */
    const struct gbx_mark *running = gbx_marks_running(&runner->marks);
    execution->function = atomic_load(&running->function);
    execution->failed_sequence = atomic_load(&running->sequence);
  }
  if (execution->outcome.status != GB_RUN_OK) {
    free(execution->answer);
    execution->answer = NULL;
    execution->answer_bytes = 0;
  }
}

/* ---- for others ---- */

const char *gbx_runner_kernel_name(const struct gbx_runner *runner, uint32_t function) {
  const struct gbx_run_kernel *kernel =
      function > 0 && function <= GB_RUN_FUNCTIONS_MAX ? atomic_load(&runner->kernels[function]) : NULL;
  return kernel ? kernel->name : "?";
}

CUresult gbx_runner_open(struct gbx_runner *runner, struct gbx_store *store, struct gbx_block_cache *cache) {
  struct gbx_memory *memory = &store->memory;
  runner->store = store;
  runner->driver = &memory->driver;
  runner->base = memory->arena_base;
  runner->arena_bytes = memory->arena_bytes;
  runner->kernels = calloc(GB_RUN_FUNCTIONS_MAX + 1, sizeof(*runner->kernels));
  if (!runner->kernels)
    return CUDA_ERROR_OUT_OF_MEMORY;
  gbx_images_open(&runner->images, runner->driver, cache);
  gbx_buffers_open(&runner->buffers, memory, GB_RUN_BATCH_BYTES_MAX, GBX_RUN_BUFFERS_MAX);
  CUresult result = runner->driver->cuStreamCreate(&runner->stream, CU_STREAM_NON_BLOCKING);
  return result == CUDA_SUCCESS ? gbx_marks_open(&runner->marks, memory, runner->stream) : result;
}
