/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gb_capacity: allocates until the driver says no, and prints how much that was beside what it had
 * promised. gb_capacity [chunk size, 16MiB] [seconds to hold, 0]. Exit 0 when the end was
 * CUDA_ERROR_OUT_OF_MEMORY and nothing else.
 */
#include "program.h"

#define CHUNKS_MAX 1000000u

int main(int argc, char **argv) {
  const uint64_t chunk = argc > 1 ? parse_bytes(argv[1]) : 16ull << 20;
  const double hold_seconds = argc > 2 ? atof(argv[2]) : 0;
  size_t free_bytes, total_bytes, count = 0;
  CUdeviceptr *chunks = calloc(CHUNKS_MAX, sizeof *chunks);
  CUresult result = CUDA_SUCCESS;
  open_context(0);
  if (chunks == NULL || chunk == 0) return EXIT_USAGE;
  CU(cuMemGetInfo(&free_bytes, &total_bytes));
  while (count < CHUNKS_MAX && (result = cuMemAlloc(&chunks[count], chunk)) == CUDA_SUCCESS)
    count++;
  printf(
      "{\"program\":\"gb_capacity\",\"ok\":%s,\"chunk_bytes\":%llu,\"chunks\":%zu,\"bytes\":%llu,"
      "\"free_bytes\":%zu,"
      "\"total_bytes\":%zu,\"error\":%d}\n",
      result == CUDA_ERROR_OUT_OF_MEMORY ? "true" : "false", (unsigned long long)chunk, count,
      (unsigned long long)(count * chunk), free_bytes, total_bytes, (int)result);
  fflush(stdout);
  if (hold_seconds > 0) sleep_ms(hold_seconds * 1e3);
  for (size_t i = 0; i < count; i++) CU(cuMemFree(chunks[i]));
  free(chunks);
  return result == CUDA_ERROR_OUT_OF_MEMORY ? 0 : EXIT_WRONG;
}
