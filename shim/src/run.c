/* SPDX-License-Identifier: Apache-2.0 */
/* run.c: queues to lanes. */
#include "run.h"

bool gb_run_can(uint32_t lane) {
  (void)lane;
  return false;
}
CUresult gb_run_prepare(uint32_t lane, const struct gb_run_request *launch) {
  (void)lane, (void)launch;
  return CUDA_ERROR_NOT_SUPPORTED;
}
CUresult gb_run_launch(uint32_t lane, const struct gb_run_request *launch) {
  (void)lane, (void)launch;
  return CUDA_ERROR_NOT_SUPPORTED;
}
CUresult gb_run_copy(uint32_t lane, uint64_t to_offset, uint64_t from_offset, uint64_t bytes) {
  (void)lane, (void)to_offset, (void)from_offset, (void)bytes;
  return CUDA_ERROR_NOT_SUPPORTED;
}
CUresult gb_run_fill(uint32_t lane, const struct gb_run_fill *fill) {
  (void)lane, (void)fill;
  return CUDA_ERROR_NOT_SUPPORTED;
}
CUresult gb_run_symbol(uint32_t lane, const struct gb_code_symbol *symbol, const void *bytes, uint64_t length) {
  (void)lane, (void)symbol, (void)bytes, (void)length;
  return CUDA_ERROR_NOT_SUPPORTED;
}
CUresult gb_run_track(uint32_t lane, uint64_t offset, uint64_t bytes, bool track) {
  (void)lane, (void)offset, (void)bytes, (void)track;
  return CUDA_ERROR_NOT_SUPPORTED;
}
CUresult gb_run_write(uint32_t lane, uint64_t offset, const void *memory, uint64_t bytes, bool arrived) {
  (void)lane, (void)offset, (void)memory, (void)bytes, (void)arrived;
  return CUDA_ERROR_NOT_SUPPORTED;
}
CUresult gb_run_read(uint32_t lane, uint64_t offset, void *memory, uint64_t bytes) {
  (void)lane, (void)offset, (void)memory, (void)bytes;
  return CUDA_ERROR_NOT_SUPPORTED;
}
CUresult gb_run_collect(uint32_t lane, const struct gb_run_range *ranges, uint32_t range_count, struct gb_run_run **runs, uint32_t *run_count, void *memory, uint64_t room, uint64_t *bytes) {
  (void)lane, (void)ranges, (void)range_count, (void)runs, (void)run_count, (void)memory, (void)room, (void)bytes;
  return CUDA_ERROR_NOT_SUPPORTED;
}
void gb_run_flush(uint32_t lane) {
  (void)lane;
}
CUresult gb_run_sync(uint32_t lane) {
  (void)lane;
  return CUDA_SUCCESS;
}
CUresult gb_run_sync_all(void) {
  return CUDA_SUCCESS;
}
bool gb_run_busy(void) {
  return false;
}
CUresult gb_run_error(char feeder[64], char function[128]) {
  (void)feeder, (void)function;
  return CUDA_SUCCESS;
}
struct gb_run_counters gb_run_counted(uint32_t lane) {
  (void)lane;
  return (struct gb_run_counters){0};
}
void gb_run_forget(uint32_t lane) {
  (void)lane;
}
void gb_run_stop(void) {
}
void gb_run_forked(void) {
}
