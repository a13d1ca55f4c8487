/* SPDX-License-Identifier: Apache-2.0 */
/* driver.c: see driver.h. */
#include "driver.h"

#include <dlfcn.h>

int gbx_driver_load(struct gbx_driver *driver, const char **why) {
  void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    *why = dlerror();
    return -1;
  }
#define GBX_DRIVER_RESOLVE(name) \
  driver->name = (__typeof__(driver->name))dlsym(library, #name); \
  if (!driver->name) { \
    *why = "the CUDA driver has no " #name "; it is too old"; \
    return -1; \
  }
  GBX_DRIVER_FUNCTIONS(GBX_DRIVER_RESOLVE)
#undef GBX_DRIVER_RESOLVE
  driver->can_run = true;
#define GBX_DRIVER_RESOLVE(name) \
  driver->name = (__typeof__(driver->name))dlsym(library, #name); \
  driver->can_run = driver->can_run && driver->name;
  GBX_DRIVER_RUN_FUNCTIONS(GBX_DRIVER_RESOLVE)
#undef GBX_DRIVER_RESOLVE
#define GBX_DRIVER_RESOLVE(name) driver->name = (__typeof__(driver->name))dlsym(library, #name);
  GBX_DRIVER_OPTIONAL_FUNCTIONS(GBX_DRIVER_RESOLVE)
#undef GBX_DRIVER_RESOLVE
  CUresult result = driver->cuInit(0);
  if (result != CUDA_SUCCESS)
    *why = gbx_driver_error(driver, result);
  return (int)result;
}

const char *gbx_driver_error(const struct gbx_driver *driver, CUresult result) {
  const char *name = NULL;
  if (driver->cuGetErrorName(result, &name) != CUDA_SUCCESS || !name)
    return "an unknown CUDA error";
  return name;
}

int gbx_driver_attribute(const struct gbx_driver *driver, CUdevice_attribute attribute, CUdevice device) {
  int value = 0;
  return driver->cuDeviceGetAttribute(&value, attribute, device) == CUDA_SUCCESS ? value : 0;
}

bool gbx_driver_host_numa(const struct gbx_driver *driver, CUdevice device) {
  return gbx_driver_attribute(driver, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, device) &&
         gbx_driver_attribute(driver, CU_DEVICE_ATTRIBUTE_HOST_NUMA_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, device);
}
