/* SPDX-License-Identifier: Apache-2.0 */
/* launch.c: kernel launches in all their forms. */
#include "sim.h"

#define SPANS_PER_LAUNCH_MAX 128

/* Records which memory the arguments name, for the strict checks of unmap and map. */
static void spans_of_arguments(struct sim_op *op, const unsigned char *bytes, size_t count) {
  for (size_t at = 0; at + 8 <= count && op->span_count < SPANS_PER_LAUNCH_MAX; at += 8) {
    uint64_t word;
    memcpy(&word, bytes + at, sizeof word);
    const struct sim_region *region = sim_region_find(word);
    if (region != NULL) sim_op_span(op, region->base, region->bytes);
  }
}

static CUresult arguments_from_params(const struct gbsim_kernel *kernel, void **params,
                                      unsigned char *bytes) {
  if (kernel->param_count != 0 && params == NULL) return CUDA_ERROR_INVALID_VALUE;
  for (uint32_t i = 0; i < kernel->param_count; i++) {
    if (params[i] == NULL) return CUDA_ERROR_INVALID_VALUE;
    memcpy(bytes + gbsim_param_offset(kernel, i), params[i], kernel->param_bytes[i]);
  }
  return CUDA_SUCCESS;
}

static CUresult arguments_from_extra(void **extra, unsigned char *bytes, uint32_t expected) {
  const void *buffer = NULL;
  size_t size = 0;
  for (size_t i = 0; extra[i] != CU_LAUNCH_PARAM_END; i += 2) {
    if (i > 8) return CUDA_ERROR_INVALID_VALUE;
    if (extra[i] == CU_LAUNCH_PARAM_BUFFER_POINTER) buffer = extra[i + 1];
    else if (extra[i] == CU_LAUNCH_PARAM_BUFFER_SIZE) size = *(const size_t *)extra[i + 1];
    else return CUDA_ERROR_INVALID_VALUE;
  }
  if (expected == 0) return CUDA_SUCCESS;
  if (buffer == NULL || size < expected) return CUDA_ERROR_INVALID_VALUE;
  memcpy(bytes, buffer, expected);
  return CUDA_SUCCESS;
}

static bool dimensions_good(const uint32_t grid[3], const uint32_t block[3]) {
  for (int i = 0; i < 3; i++)
    if (grid[i] == 0 || block[i] == 0) return false;
  return block[0] <= 1024 && block[1] <= 1024 && block[2] <= 64 &&
         (uint64_t)block[0] * block[1] * block[2] <= 1024 && grid[0] <= 2147483647u &&
         grid[1] <= 65535 && grid[2] <= 65535;
}

CUresult sim_launch_op(CUfunction handle, const uint32_t grid[3], const uint32_t block[3],
                       uint32_t shared_bytes, void **params, void **extra, struct sim_op **out) {
  if (!sim_handle_is(SIM_FUNCTION, handle))
    return sim_strict(CUDA_ERROR_INVALID_HANDLE, "launch of function %p", (void *)handle);
  if (!dimensions_good(grid, block) || (params != NULL && extra != NULL))
    return CUDA_ERROR_INVALID_VALUE;
  if (shared_bytes > 232448) return CUDA_ERROR_INVALID_VALUE;
  struct sim_function *function = (struct sim_function *)handle;
  struct sim_op *op = sim_op_new(SIM_OP_KERNEL);
  op->kernel = (struct sim_kernel_call){.function = function,
                                        .grid = {grid[0], grid[1], grid[2]},
                                        .block = {block[0], block[1], block[2]},
                                        .shared_bytes = shared_bytes,
                                        .param_bytes = function->param_bytes};
  op->bytes = calloc(1, function->param_bytes + 8);
  if (op->bytes == NULL) abort();
  const CUresult result = extra != NULL
                              ? arguments_from_extra(extra, op->bytes, function->param_bytes)
                              : arguments_from_params(function->kernel, params, op->bytes);
  if (result != CUDA_SUCCESS) {
    sim_op_free(op);
    return result;
  }
  spans_of_arguments(op, op->bytes, function->param_bytes);
  *out = op;
  return CUDA_SUCCESS;
}

static CUresult launch(CUfunction function, const uint32_t grid[3], const uint32_t block[3],
                       uint32_t shared_bytes, CUstream handle, CUstream fallback, void **params,
                       void **extra) {
  if (sim_config.noop_launch) return CUDA_SUCCESS;
  struct sim_op *op = NULL;
  pthread_mutex_lock(&sim_lock);
  struct sim_stream *stream = SIM_S(handle);
  CUresult result = stream == NULL ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS;
  if (result == CUDA_SUCCESS && stream->context != sim_current())
    result = sim_strict(CUDA_ERROR_INVALID_HANDLE, "launch on a stream of another context");
  if (result == CUDA_SUCCESS)
    result = sim_launch_op(function, grid, block, shared_bytes, params, extra, &op);
  if (result == CUDA_SUCCESS) result = sim_submit(stream, op, NULL);
  pthread_mutex_unlock(&sim_lock);
  return result;
}

#define GRID const uint32_t grid[3] = {gx, gy, gz}, block[3] = {bx, by, bz}
#define DIMENSIONS                                                              \
  unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, \
      unsigned shared_bytes

CUresult cuLaunchKernel(CUfunction function, DIMENSIONS, CUstream stream, void **params,
                        void **extra) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  GRID;
  return launch(function, grid, block, shared_bytes, stream, CU_STREAM_LEGACY, params, extra);
}
CUresult cuLaunchKernel_ptsz(CUfunction function, DIMENSIONS, CUstream stream, void **params,
                             void **extra) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  GRID;
  return launch(function, grid, block, shared_bytes, stream, CU_STREAM_PER_THREAD, params, extra);
}
CUresult cuLaunchCooperativeKernel(CUfunction function, DIMENSIONS, CUstream stream,
                                   void **params) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  GRID;
  return launch(function, grid, block, shared_bytes, stream, CU_STREAM_LEGACY, params, NULL);
}
CUresult cuLaunchCooperativeKernel_ptsz(CUfunction function, DIMENSIONS, CUstream stream,
                                        void **params) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  GRID;
  return launch(function, grid, block, shared_bytes, stream, CU_STREAM_PER_THREAD, params, NULL);
}

static CUresult launch_ex(const CUlaunchConfig *config, CUfunction function, void **params,
                          void **extra, CUstream fallback) {
  if (config == NULL || (config->numAttrs != 0 && config->attrs == NULL))
    return CUDA_ERROR_INVALID_VALUE;
  const uint32_t grid[3] = {config->gridDimX, config->gridDimY, config->gridDimZ};
  const uint32_t block[3] = {config->blockDimX, config->blockDimY, config->blockDimZ};
  return launch(function, grid, block, config->sharedMemBytes, config->hStream, fallback, params,
                extra);
}

CUresult cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction function, void **params,
                          void **extra) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  return launch_ex(config, function, params, extra, CU_STREAM_LEGACY);
}
CUresult cuLaunchKernelEx_ptsz(const CUlaunchConfig *config, CUfunction function, void **params,
                               void **extra) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  return launch_ex(config, function, params, extra, CU_STREAM_PER_THREAD);
}
