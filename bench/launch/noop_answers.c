/* SPDX-License-Identifier: Apache-2.0 */
/* noop_answers.c: the calls of the no-op driver that must return something for a program and the shim to go on. */
#define GB_CUDA_NO_ALIASES
#include <cuda.h>
#include <stdint.h>

static char context, module, function, stream;

CUresult cuDeviceGetCount(int *count) { return *count = 1, CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice *device, int ordinal) { return *device = ordinal, CUDA_SUCCESS; }
CUresult cuDriverGetVersion(int *version) { return *version = 13000, CUDA_SUCCESS; }
CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
  (void)attribute;
  return *value = (int)device, CUDA_SUCCESS;
}
CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device) {
  (void)device;
  return *bytes = (size_t)16 << 30, CUDA_SUCCESS;
}
CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
  *free_bytes = *total = (size_t)16 << 30;
  return CUDA_SUCCESS;
}
CUresult cuCtxCreate_v2(CUcontext *created, unsigned flags, CUdevice device) {
  (void)flags, (void)device;
  return *created = (CUcontext)(void *)&context, CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRetain(CUcontext *retained, CUdevice device) { return cuCtxCreate_v2(retained, 0, device); }
CUresult cuCtxGetCurrent(CUcontext *current) { return *current = (CUcontext)(void *)&context, CUDA_SUCCESS; }
CUresult cuCtxGetDevice(CUdevice *device) { return *device = 0, CUDA_SUCCESS; }
CUresult cuStreamCreate(CUstream *created, unsigned flags) {
  (void)flags;
  return *created = (CUstream)(void *)&stream, CUDA_SUCCESS;
}
CUresult cuModuleLoadData(CUmodule *loaded, const void *image) {
  (void)image;
  return *loaded = (CUmodule)(void *)&module, CUDA_SUCCESS;
}
CUresult cuModuleGetFunction(CUfunction *found, CUmodule from, const char *name) {
  (void)from, (void)name;
  return *found = (CUfunction)(void *)&function, CUDA_SUCCESS;
}
