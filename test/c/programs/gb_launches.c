/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gb_launches: what one launch costs the caller. gb_launches [count, 1000000] [parameters:
 * none|three]. With three, the arguments are a buffer, a count of no words and a key: the shape of
 * an ordinary kernel. On the simulated driver set GBSIM_NOOP_LAUNCH=1, so that the launch itself
 * costs nothing and only what is in between is measured.
 */
#include "kernels.h"
#include "program.h"

int main(int argc, char **argv) {
  const unsigned count = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 1000000u;
  const int three = argc > 2 && strcmp(argv[2], "three") == 0;
  CUmodule module;
  CUdeviceptr buffer;
  open_context(0);
  CU(cuModuleLoadData(&module, test_kernels));
  CUfunction function = load_kernel(module, three ? "gb_update" : "gb_empty");
  CU(cuMemAlloc(&buffer, 1 << 20));
  uint64_t words = 0, key = 1;
  void *params[] = {&buffer, &words, &key};
  for (unsigned i = 0; i < 1000; i++)
    CU(cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, NULL, three ? params : NULL, NULL));
  CU(cuCtxSynchronize());
  const double start = now_ms();
  for (unsigned i = 0; i < count; i++)
    CU(cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, NULL, three ? params : NULL, NULL));
  const double issued = now_ms() - start;
  CU(cuCtxSynchronize());
  const double done = now_ms() - start;
  CU(cuMemFree(buffer));
  CU(cuModuleUnload(module));
  printf(
      "{\"program\":\"gb_launches\",\"ok\":true,\"launches\":%u,\"parameters\":%d,\"nanoseconds_"
      "each\":%.1f,\"nanoseconds_each_done\":%.1f}\n",
      count, three ? 3 : 0, issued * 1e6 / count, done * 1e6 / count);
  return 0;
}
