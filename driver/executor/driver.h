/* SPDX-License-Identifier: Apache-2.0 */
/* driver.h: the CUDA driver, loaded at run time, so that a machine without a GPU needs none. */
#ifndef GBX_DRIVER_H
#define GBX_DRIVER_H

#include <stdbool.h>

#define GB_CUDA_NO_ALIASES
#include "cuda.h"

#define GBX_DRIVER_FUNCTIONS(X) \
  X(cuInit) \
  X(cuDriverGetVersion) \
  X(cuGetErrorName) \
  X(cuDeviceGet) \
  X(cuDeviceGetCount) \
  X(cuDeviceGetName) \
  X(cuDeviceGetUuid) \
  X(cuDeviceGetAttribute) \
  X(cuDeviceTotalMem_v2) \
  X(cuDevicePrimaryCtxRetain) \
  X(cuCtxSetCurrent) \
  X(cuCtxSynchronize) \
  X(cuMemGetInfo_v2) \
  X(cuMemAddressReserve) \
  X(cuMemAddressFree) \
  X(cuMemCreate) \
  X(cuMemRelease) \
  X(cuMemMap) \
  X(cuMemUnmap) \
  X(cuMemSetAccess) \
  X(cuMemHostRegister_v2) \
  X(cuMemHostAlloc) \
  X(cuMemFreeHost) \
  X(cuMemAlloc_v2) \
  X(cuMemFree_v2) \
  X(cuMemcpyHtoDAsync_v2) \
  X(cuMemcpyDtoHAsync_v2) \
  X(cuMemcpyDtoDAsync_v2) \
  X(cuMemsetD8Async) \
  X(cuStreamCreate) \
  X(cuStreamSynchronize) \
  X(cuDeviceCanAccessPeer)

/* What running kernels for somebody needs besides; a driver without them lends memory only. */
#define GBX_DRIVER_RUN_FUNCTIONS(X) \
  X(cuModuleLoadData) \
  X(cuModuleUnload) \
  X(cuModuleGetFunction) \
  X(cuModuleGetGlobal_v2) \
  X(cuFuncSetAttribute) \
  X(cuLaunchKernel) \
  X(cuLaunchKernelEx) \
  X(cuMemsetD2D8Async) \
  X(cuMemsetD2D16Async) \
  X(cuMemsetD2D32Async) \
  X(cuStreamQuery) \
  X(cuStreamWriteValue32_v2)

/* NULL with an older driver. */
#define GBX_DRIVER_OPTIONAL_FUNCTIONS(X) \
  X(cuLibraryLoadData) \
  X(cuLibraryGetKernel) \
  X(cuLibraryGetGlobal) \
  X(cuKernelGetFunction) \
  X(cuFuncGetParamInfo)

struct gbx_driver {
#define GBX_DRIVER_FIELD(name) __typeof__(name) *name;
  GBX_DRIVER_FUNCTIONS(GBX_DRIVER_FIELD)
  GBX_DRIVER_RUN_FUNCTIONS(GBX_DRIVER_FIELD)
  GBX_DRIVER_OPTIONAL_FUNCTIONS(GBX_DRIVER_FIELD)
#undef GBX_DRIVER_FIELD
  bool can_run; /* all of GBX_DRIVER_RUN_FUNCTIONS are there */
};

/* Loads libcuda.so.1 and initialises it. returns: 0; a CUresult; or -1 when the library or one of its functions is
 * missing, with the reason in *why (static text or dlerror's). */
int gbx_driver_load(struct gbx_driver *driver, const char **why);

/* The name of a CUresult; never NULL. */
const char *gbx_driver_error(const struct gbx_driver *driver, CUresult result);

int gbx_driver_attribute(const struct gbx_driver *driver, CUdevice_attribute attribute, CUdevice device);

/* True when memory chunks of the host can be mapped for the GPU at an address of choice. */
bool gbx_driver_host_numa(const struct gbx_driver *driver, CUdevice device);

#endif
