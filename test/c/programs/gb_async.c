/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gb_async: stream-ordered allocations from the default pool and from one of its own, used and
 * freed in stream order, and the pool's account of them. Exit 0 when right.
 */
#include "kernels.h"
#include "program.h"

#define WORDS (1u << 16)

static uint64_t used(CUmemoryPool pool) {
  cuuint64_t bytes = 0;
  CU(cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &bytes));
  return bytes;
}

int main(int argc, char **argv) {
  const unsigned steps = argc > 1 ? (unsigned)atoi(argv[1]) : 100;
  CUmodule module;
  CUstream stream;
  CUdevice device;
  CUmemoryPool pools[2];
  void *host;
  open_context(0);
  CU(cuCtxGetDevice(&device));
  CU(cuModuleLoadData(&module, test_kernels));
  CUfunction fill = load_kernel(module, "gb_fill"), update = load_kernel(module, "gb_update");
  CU(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  CU(cuMemHostAlloc(&host, WORDS * 8, 0));
  CU(cuDeviceGetDefaultMemPool(&pools[0], device));
  CUmemPoolProps props = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED};
  props.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  props.location.id = device;
  CU(cuMemPoolCreate(&pools[1], &props));
  uint64_t wrong = 0;
  for (unsigned s = 0; s < steps; s++) {
    CUdeviceptr buffer;
    uint64_t words = WORDS, seed = s, key = s * 3;
    void *fill_params[] = {&buffer, &words, &seed}, *update_params[] = {&buffer, &words, &key};
    if (s % 2 == 0) CU(cuMemAllocAsync(&buffer, WORDS * 8, stream));
    else CU(cuMemAllocFromPoolAsync(&buffer, WORDS * 8, pools[1], stream));
    CU(cuLaunchKernel(fill, 32, 1, 1, 256, 1, 1, 0, stream, fill_params, NULL));
    CU(cuLaunchKernel(update, 32, 1, 1, 256, 1, 1, 0, stream, update_params, NULL));
    CU(cuMemcpyDtoHAsync(host, buffer, WORDS * 8, stream));
    CU(cuMemFreeAsync(buffer, stream));
    CU(cuStreamSynchronize(stream));
    for (uint64_t i = 0; i < WORDS; i++)
      wrong += ((const uint64_t *)host)[i] != mix64(i + seed) * 3 + key + i;
  }
  wrong += used(pools[0]) != 0;
  wrong += used(pools[1]) != 0;
  CU(cuMemPoolDestroy(pools[1]));
  CU(cuMemFreeHost(host));
  CU(cuStreamDestroy(stream));
  CU(cuModuleUnload(module));
  printf("{\"program\":\"gb_async\",\"ok\":%s,\"steps\":%u,\"mismatches\":%llu}\n",
         wrong == 0 ? "true" : "false", steps, (unsigned long long)wrong);
  return wrong == 0 ? 0 : EXIT_WRONG;
}
