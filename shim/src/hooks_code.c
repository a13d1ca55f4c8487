/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hooks_code.c: modules and libraries. Loading code takes VRAM that nobody asked us for: when there
 * is none, what we hold without need goes back to the driver. Function handles die with their code
 * and may be used again for other functions. Where kernels may run elsewhere, code.h is told what
 * the driver has answered; otherwise that costs a load.
 */
#include "code.h"
#include "collective.h"
#include "devices.h"
#include "hooks_counted.h"

static CUresult loaded(CUresult result) {
  if (result != CUDA_ERROR_OUT_OF_MEMORY) return result;
  return GB_REFUSE(result, "code_refused",
                   "the driver has no VRAM left for the program's code: lower --vram, so that the "
                   "card keeps some free, or end other programs on it");
}

/* pre: *handle is written when the result is CUDA_SUCCESS. */
static CUresult kept(CUresult result, void *handle, const void *image, bool file) {
  uint32_t group;
  if (result == CUDA_SUCCESS && gb_code_wanted() && gb_devices_code_group(&group))
    gb_code_loaded(*(void **)handle, image, file, group);
  return loaded(result);
}
/* A library is every context's. */
static CUresult kept_library(CUresult result, CUlibrary *library, const void *image, bool file) {
  if (result == CUDA_SUCCESS && gb_code_wanted()) gb_code_loaded(*library, image, file, GB_CODE_ANY);
  return loaded(result);
}

GB_WRAP(cuModuleLoad, CUmodule *module, const char *file) {
  return kept(GB_RETRIED(real(module, file)), module, file, true);
}
GB_WRAP(cuModuleLoadData, CUmodule *module, const void *image) {
  return kept(GB_RETRIED(real(module, image)), module, image, false);
}
GB_WRAP(cuModuleLoadDataEx, CUmodule *module, const void *image, unsigned count,
        CUjit_option *options, void **values) {
  return kept(GB_RETRIED(real(module, image, count, options, values)), module, image, false);
}
GB_WRAP(cuModuleLoadFatBinary, CUmodule *module, const void *image) {
  return kept(GB_RETRIED(real(module, image)), module, image, false);
}
GB_WRAP(cuLibraryLoadData, CUlibrary *library, const void *image, CUjit_option *options,
        void **values, unsigned count, CUlibraryOption *library_options,
        void **library_values, unsigned library_count) {
  return kept_library(GB_RETRIED(real(library, image, options, values, count, library_options,
                                      library_values, library_count)),
                      library, image, false);
}
GB_WRAP(cuLibraryLoadFromFile, CUlibrary *library, const char *file, CUjit_option *options,
        void **values, unsigned count, CUlibraryOption *library_options,
        void **library_values, unsigned library_count) {
  return kept_library(GB_RETRIED(real(library, file, options, values, count, library_options,
                                      library_values, library_count)),
                      library, file, true);
}

static void unloading(void *handle) {
  gb_core_functions_unloaded();
  gb_collective_forget();
  gb_code_unloading(handle);
}
GB_WRAP(cuModuleUnload, CUmodule module) {
  unloading(module);
  return real(module);
}
GB_WRAP(cuLibraryUnload, CUlibrary library) {
  unloading(library);
  return real(library);
}

/* ---- handles out of others ---- */

/* pre: *handle is written when the result is CUDA_SUCCESS. */
static CUresult got(CUresult result, void *handle, void *from) {
  if (result == CUDA_SUCCESS && gb_code_wanted()) gb_code_function(*(void **)handle, from);
  return result;
}
static CUresult listed(CUresult result, void *handles, unsigned count, void *from) {
  bool wanted = result == CUDA_SUCCESS && gb_code_wanted();
  for (unsigned i = 0; wanted && i < count; i++) gb_code_function(((void **)handles)[i], from);
  return result;
}

GB_WRAP(cuModuleGetFunction, CUfunction *function, CUmodule module, const char *name) {
  return got(real(function, module, name), function, module);
}
GB_WRAP(cuModuleEnumerateFunctions, CUfunction *functions, unsigned count, CUmodule module) {
  return listed(real(functions, count, module), functions, count, module);
}
GB_WRAP(cuLibraryGetKernel, CUkernel *kernel, CUlibrary library, const char *name) {
  return got(real(kernel, library, name), kernel, library);
}
GB_WRAP(cuLibraryGetModule, CUmodule *module, CUlibrary library) {
  return got(real(module, library), module, library);
}
GB_WRAP(cuLibraryEnumerateKernels, CUkernel *kernels, unsigned count, CUlibrary library) {
  return listed(real(kernels, count, library), kernels, count, library);
}
GB_WRAP(cuKernelGetFunction, CUfunction *function, CUkernel kernel) {
  return got(real(function, kernel), function, kernel);
}

/* ---- variables, and what binds a module to this machine ---- */

/* The program may not want to know both: then it is asked for here. */
#define GB_VARIABLE(pointer, bytes, from, name)                                                 \
  do {                                                                                          \
    size_t length = 0;                                                                          \
    uint32_t group;                                                                             \
    if (!gb_code_wanted() || (pointer) == NULL || !gb_devices_code_group(&group))               \
      return real(pointer, bytes, from, name);                                                  \
    CUresult result = real(pointer, (bytes) != NULL ? (bytes) : &length, from, name);           \
    if ((bytes) != NULL && result == CUDA_SUCCESS) length = *(bytes);                           \
    if (result == CUDA_SUCCESS) gb_code_variable(*(pointer), length, from, name, group);        \
    return result;                                                                              \
  } while (0)

GB_WRAP(cuModuleGetGlobal_v2, CUdeviceptr *pointer, size_t *bytes, CUmodule module,
        const char *name) {
  GB_VARIABLE(pointer, bytes, module, name);
}
GB_WRAP(cuLibraryGetGlobal, CUdeviceptr *pointer, size_t *bytes, CUlibrary library,
        const char *name) {
  GB_VARIABLE(pointer, bytes, library, name);
}

static CUresult bound(CUresult result, void *from) {
  if (result == CUDA_SUCCESS && gb_code_wanted()) gb_code_bound_here(from);
  return result;
}
GB_WRAP(cuModuleGetTexRef, void **reference, CUmodule module, const char *name) {
  return bound(real(reference, module, name), module);
}
GB_WRAP(cuModuleGetSurfRef, void **reference, CUmodule module, const char *name) {
  return bound(real(reference, module, name), module);
}
GB_WRAP(cuLibraryGetManaged, CUdeviceptr *pointer, size_t *bytes, CUlibrary library,
        const char *name) {
  return bound(real(pointer, bytes, library, name), library);
}

/* ---- attributes ---- */

static CUresult changed(CUresult result, void *function, int attribute, int value) {
  if (result == CUDA_SUCCESS && gb_code_wanted()) gb_code_set_attribute(function, attribute, value);
  return result;
}

/* How much of a multiprocessor's memory is to be shared memory, in percent: the attribute that took
 * the place of the three preferences. */
static int carveout_of(CUfunc_cache config) {
  if (config == CU_FUNC_CACHE_PREFER_SHARED) return 100;
  if (config == CU_FUNC_CACHE_PREFER_L1) return 0;
  return config == CU_FUNC_CACHE_PREFER_EQUAL ? 50 : -1;
}

/* The driver's device for one of a feeder's. */
static CUdevice backing_of(CUdevice device) {
  const struct gb_device *far = gb_devices_on() ? gb_devices_by_ordinal(device) : NULL;
  return far != NULL ? gb_device_backing(far) : device;
}

GB_WRAP(cuFuncSetAttribute, CUfunction function, CUfunction_attribute attribute, int value) {
  return changed(real(function, attribute, value), function, (int)attribute, value);
}
GB_WRAP(cuKernelSetAttribute, CUfunction_attribute attribute, int value, CUkernel kernel,
        CUdevice device) {
  return changed(real(attribute, value, kernel, backing_of(device)), kernel, (int)attribute, value);
}
GB_WRAP(cuFuncSetCacheConfig, CUfunction function, CUfunc_cache config) {
  return changed(real(function, config), function,
                 CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT, carveout_of(config));
}
GB_WRAP(cuKernelSetCacheConfig, CUkernel kernel, CUfunc_cache config, CUdevice device) {
  return changed(real(kernel, config, backing_of(device)), kernel,
                 CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT, carveout_of(config));
}

#define GB_SECTIONS GB_SECTION_CODE
#include "hooks_define.h"
