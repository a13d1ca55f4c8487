/* SPDX-License-Identifier: Apache-2.0 */
/* blocks.c: see blocks.h. Nothing is tracked yet: an engine cannot be opened. */
#include "blocks.h"

CUresult gb_blocks_open(const struct gb_blocks_options *options, struct gb_blocks **engine) {
  *engine = NULL;
  return options->stream == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_NOT_SUPPORTED;
}

void gb_blocks_close(struct gb_blocks *engine) { (void)engine; }

CUresult gb_blocks_track(struct gb_blocks *engine, CUdeviceptr address, uint64_t bytes,
                         struct gb_blocks_range **range) {
  (void)engine, (void)address, (void)bytes;
  *range = NULL;
  return CUDA_ERROR_NOT_SUPPORTED;
}

void gb_blocks_untrack(struct gb_blocks *engine, struct gb_blocks_range *range) { (void)engine, (void)range; }

CUresult gb_blocks_collect(struct gb_blocks *engine, struct gb_blocks_range *const *ranges, uint32_t count,
                           struct gb_blocks_run **runs, uint32_t *run_count) {
  (void)engine, (void)ranges, (void)count;
  *runs = NULL;
  *run_count = 0;
  return CUDA_ERROR_NOT_SUPPORTED;
}

CUresult gb_blocks_arrived(struct gb_blocks *engine, const struct gb_blocks_run *runs, uint32_t run_count) {
  (void)engine, (void)runs, (void)run_count;
  return CUDA_ERROR_NOT_SUPPORTED;
}

void gb_blocks_disagree(struct gb_blocks *engine, const struct gb_blocks_run *runs, uint32_t run_count) {
  (void)engine, (void)runs, (void)run_count;
}

CUresult gb_blocks_copy_out(struct gb_blocks *engine, const struct gb_blocks_run *runs, uint32_t run_count,
                            void *memory) {
  (void)engine, (void)runs, (void)run_count, (void)memory;
  return CUDA_ERROR_NOT_SUPPORTED;
}

CUresult gb_blocks_copy_in(struct gb_blocks *engine, const struct gb_blocks_run *runs, uint32_t run_count,
                           const void *memory) {
  (void)engine, (void)runs, (void)run_count, (void)memory;
  return CUDA_ERROR_NOT_SUPPORTED;
}
