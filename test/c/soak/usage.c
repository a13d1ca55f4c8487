/* SPDX-License-Identifier: Apache-2.0 */
/* usage.c: prints how many bytes of the (simulated) GPU's memory are in use, by everybody. */
#include <cuda.h>
#include <stdio.h>

int main(void) {
  CUdevice device;
  CUcontext context;
  size_t free_bytes = 0, total = 0;
  if (cuInit(0) != CUDA_SUCCESS || cuDeviceGet(&device, 0) != CUDA_SUCCESS ||
      cuDevicePrimaryCtxRetain(&context, device) != CUDA_SUCCESS ||
      cuCtxSetCurrent(context) != CUDA_SUCCESS || cuMemGetInfo(&free_bytes, &total) != CUDA_SUCCESS)
    return 1;
  printf("%zu\n", total - free_bytes);
  return 0;
}
