/* SPDX-License-Identifier: Apache-2.0 */
/* cudart_program.c: makes the real CUDA runtime resolve the driver, and asks it for entry points.
 * Linked once with the shared and once with the static runtime; the runtime's few functions are
 * declared here by their ABI. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

int cudaDriverGetVersion(int *version);
int cudaGetDeviceCount(int *count);
int cudaGetDriverEntryPointByVersion(const char *symbol, void **function, unsigned version,
                                     unsigned long long flags, int *status);

int main(void) {
  int version = 0, count = 0, status = -1, failures = 0;
  void *function = NULL;
  Dl_info info;
  /* The runtime asks for all its names first; whether it then starts is the driver's affair. */
  int started = cudaGetDeviceCount(&count);
  (void)cudaDriverGetVersion(&version);
  if (started != 0) printf("entry points left out: the runtime does not start here (%d)\n", started);
  /* Default, legacy and per-thread flavours. */
  for (unsigned long long flags = 0; started == 0 && flags < 3; flags++) {
    int result =
        cudaGetDriverEntryPointByVersion("cuMemcpyHtoDAsync", &function, 12000, flags, &status);
    const char *expected = flags == 2 ? "cuMemcpyHtoDAsync_v2_ptsz" : "cuMemcpyHtoDAsync_v2";
    int right = result == 0 && function != NULL && dladdr(function, &info) != 0 &&
                info.dli_sname != NULL && strstr(info.dli_fname, "libgreenboost_cuda.so") != NULL &&
                strcmp(info.dli_sname, expected) == 0;
    if (!right) {
      printf("entry point with flags %llu: result %d, %s instead of %s\n", flags, result,
             function != NULL && info.dli_sname != NULL ? info.dli_sname : "nothing", expected);
      failures++;
    }
  }
  printf("runtime version %d, %d devices, %d wrong entry points\n", version, count, failures);
  return failures == 0 ? 0 : 1;
}
