/* SPDX-License-Identifier: Apache-2.0 */
/* module.c: modules, libraries, functions and what they tell about themselves. */
#include <dlfcn.h>
#include <stdio.h>

#include "sim.h"

/* ---- building ---- */

struct sim_function *sim_module_add(struct sim_module *module, const char *name,
                                    const struct gbsim_kernel *kernel) {
  struct sim_function *function = calloc(1, sizeof *function);
  struct sim_function **functions =
      realloc(module->functions, (module->function_count + 1) * sizeof *functions);
  if (function == NULL || functions == NULL) abort();
  snprintf(function->name, sizeof function->name, "%s", name);
  function->module = module;
  function->kernel = kernel;
  if (kernel->param_count != 0)
    function->param_bytes = gbsim_param_offset(kernel, kernel->param_count - 1) +
                            kernel->param_bytes[kernel->param_count - 1];
  function->attributes[CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK] = 1024;
  function->attributes[CU_FUNC_ATTRIBUTE_NUM_REGS] = 16;
  function->attributes[CU_FUNC_ATTRIBUTE_PTX_VERSION] = 90;
  function->attributes[CU_FUNC_ATTRIBUTE_BINARY_VERSION] = 90;
  function->attributes[CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES] = 49152;
  module->functions = functions;
  functions[module->function_count++] = function;
  sim_handle_add(SIM_FUNCTION, function);
  return function;
}

/* address 0: the variable is of PTX and gets device memory of its own. locks: held. */
CUresult sim_module_add_global(struct sim_module *module, const char *name, uint64_t address,
                               size_t bytes) {
  struct sim_context *context = sim_current();
  struct sim_global *globals =
      realloc(module->globals, (module->global_count + 1) * sizeof *globals);
  if (globals == NULL) abort();
  module->globals = globals;
  if (address == 0) {
    const CUresult result = sim_device_alloc(context, SIM_REGION_GLOBAL, bytes, &address);
    if (result != CUDA_SUCCESS) return result;
  } else if (bytes != 0 && !sim_region_overlaps(address, bytes)) {
    sim_region_add((struct sim_region){.base = address,
                                       .bytes = bytes,
                                       .kind = SIM_REGION_GLOBAL,
                                       .device = context->device,
                                       .context = context,
                                       .device_access = CU_MEM_ACCESS_FLAGS_PROT_READWRITE});
  }
  struct sim_global *global = &globals[module->global_count++];
  *global = (struct sim_global){.address = address, .bytes = bytes};
  snprintf(global->name, sizeof global->name, "%s", name);
  return CUDA_SUCCESS;
}

/* locks: held. */
static void module_free(struct sim_module *module) {
  for (size_t i = 0; i < module->function_count; i++) {
    sim_handle_remove(module->functions[i]);
    free(module->functions[i]);
  }
  for (size_t i = 0; i < module->global_count; i++) {
    struct sim_region *region = sim_region_find(module->globals[i].address);
    if (region != NULL && region->kind == SIM_REGION_GLOBAL) sim_region_free(region);
  }
  if (module->object != NULL) dlclose(module->object);
  sim_handle_remove(module);
  free(module->functions);
  free(module->globals);
  free(module);
}

enum source { FROM_IMAGE, FROM_FILE };

static CUresult load(void **out, const void *from, enum source source, bool library) {
  if (out == NULL || from == NULL) return CUDA_ERROR_INVALID_VALUE;
  struct sim_module *module = calloc(1, sizeof *module);
  if (module == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
  module->context = sim_current();
  module->library = library;
  pthread_mutex_lock(&sim_lock);
  sim_handle_add(SIM_MODULE, module);
  const CUresult result =
      source == FROM_IMAGE ? sim_image_load(module, from) : sim_image_load_file(module, from);
  if (result != CUDA_SUCCESS) module_free(module);
  else *out = module;
  pthread_mutex_unlock(&sim_lock);
  return result;
}

static CUresult unload(void *handle) {
  pthread_mutex_lock(&sim_lock);
  struct sim_module *module = handle;
  CUresult result = CUDA_SUCCESS;
  if (!sim_handle_is(SIM_MODULE, module))
    result = sim_strict(CUDA_ERROR_INVALID_HANDLE, "unload of module %p", handle);
  struct sim_context *context;
  for (size_t i = 0; result == CUDA_SUCCESS && (context = sim_context_at(i)) != NULL; i++)
    result = sim_context_wait(context);
  if (result == CUDA_SUCCESS) module_free(module);
  pthread_mutex_unlock(&sim_lock);
  return result;
}

static struct sim_function *function_named(void *handle, const char *name) {
  if (name == NULL || !sim_handle_is(SIM_MODULE, handle)) return NULL;
  const struct sim_module *module = handle;
  for (size_t i = 0; i < module->function_count; i++)
    if (strcmp(module->functions[i]->name, name) == 0) return module->functions[i];
  return NULL;
}

static CUresult function_get(void **out, void *handle, const char *name) {
  if (out == NULL || name == NULL) return CUDA_ERROR_INVALID_VALUE;
  pthread_mutex_lock(&sim_lock);
  const bool known = sim_handle_is(SIM_MODULE, handle);
  struct sim_function *function = function_named(handle, name);
  pthread_mutex_unlock(&sim_lock);
  if (!known) return CUDA_ERROR_INVALID_HANDLE;
  if (function == NULL) return CUDA_ERROR_NOT_FOUND;
  *out = function;
  return CUDA_SUCCESS;
}

static CUresult global_get(CUdeviceptr *address, size_t *bytes, void *handle, const char *name) {
  if (name == NULL) return CUDA_ERROR_INVALID_VALUE;
  CUresult result = CUDA_ERROR_NOT_FOUND;
  pthread_mutex_lock(&sim_lock);
  const struct sim_module *module = handle;
  if (!sim_handle_is(SIM_MODULE, module)) result = CUDA_ERROR_INVALID_HANDLE;
  for (size_t i = 0; result == CUDA_ERROR_NOT_FOUND && i < module->global_count; i++) {
    if (strcmp(module->globals[i].name, name) != 0) continue;
    if (address != NULL) *address = module->globals[i].address;
    if (bytes != NULL) *bytes = module->globals[i].bytes;
    result = CUDA_SUCCESS;
  }
  pthread_mutex_unlock(&sim_lock);
  return result;
}

static CUresult functions_list(void **out, unsigned count, void *handle) {
  if (out == NULL || !sim_handle_is(SIM_MODULE, handle)) return CUDA_ERROR_INVALID_VALUE;
  const struct sim_module *module = handle;
  for (unsigned i = 0; i < count; i++)
    out[i] = i < module->function_count ? module->functions[i] : NULL;
  return CUDA_SUCCESS;
}

/* ---- modules ---- */

CUresult cuModuleLoad(CUmodule *module, const char *path) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  return load((void **)module, path, FROM_FILE, false);
}
CUresult cuModuleLoadData(CUmodule *module, const void *image) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  return load((void **)module, image, FROM_IMAGE, false);
}
CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned count,
                            CUjit_option *options, void **values) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  if (count != 0 && (options == NULL || values == NULL)) return CUDA_ERROR_INVALID_VALUE;
  return load((void **)module, image, FROM_IMAGE, false);
}
CUresult cuModuleLoadFatBinary(CUmodule *module, const void *image) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  return load((void **)module, image, FROM_IMAGE, false);
}
CUresult cuModuleUnload(CUmodule module) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  return unload(module);
}
CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  return function_get((void **)function, module, name);
}
CUresult cuModuleGetGlobal_v2(CUdeviceptr *address, size_t *bytes, CUmodule module,
                              const char *name) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  return global_get(address, bytes, module, name);
}
CUresult cuModuleGetFunctionCount(unsigned *count, CUmodule module) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  if (count == NULL || !sim_handle_is(SIM_MODULE, module)) return CUDA_ERROR_INVALID_VALUE;
  *count = (unsigned)((const struct sim_module *)module)->function_count;
  return CUDA_SUCCESS;
}
CUresult cuModuleEnumerateFunctions(CUfunction *functions, unsigned count, CUmodule module) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  return functions_list((void **)functions, count, module);
}
CUresult cuModuleGetLoadingMode(CUmoduleLoadingMode *mode) {
  SIM_ENTER(SIM_NEED_INIT);
  if (mode == NULL) return CUDA_ERROR_INVALID_VALUE;
  *mode = CU_MODULE_EAGER_LOADING;
  return CUDA_SUCCESS;
}

/* ---- libraries: a kernel handle is the function's ---- */

CUresult cuLibraryLoadData(CUlibrary *library, const void *code, CUjit_option *options,
                           void **values, unsigned count, CUlibraryOption *library_options,
                           void **library_values, unsigned library_count) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  if (count != 0 && (options == NULL || values == NULL)) return CUDA_ERROR_INVALID_VALUE;
  if (library_count != 0 && (library_options == NULL || library_values == NULL))
    return CUDA_ERROR_INVALID_VALUE;
  return load((void **)library, code, FROM_IMAGE, true);
}
CUresult cuLibraryLoadFromFile(CUlibrary *library, const char *path, CUjit_option *options,
                               void **values, unsigned count, CUlibraryOption *library_options,
                               void **library_values, unsigned library_count) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  if (count != 0 && (options == NULL || values == NULL)) return CUDA_ERROR_INVALID_VALUE;
  if (library_count != 0 && (library_options == NULL || library_values == NULL))
    return CUDA_ERROR_INVALID_VALUE;
  return load((void **)library, path, FROM_FILE, true);
}
CUresult cuLibraryUnload(CUlibrary library) {
  SIM_ENTER(SIM_NEED_INIT);
  return unload(library);
}
CUresult cuLibraryGetKernel(CUkernel *kernel, CUlibrary library, const char *name) {
  SIM_ENTER(SIM_NEED_INIT);
  return function_get((void **)kernel, library, name);
}
CUresult cuLibraryGetKernelCount(unsigned *count, CUlibrary library) {
  SIM_ENTER(SIM_NEED_INIT);
  if (count == NULL || !sim_handle_is(SIM_MODULE, library)) return CUDA_ERROR_INVALID_VALUE;
  *count = (unsigned)((const struct sim_module *)library)->function_count;
  return CUDA_SUCCESS;
}
CUresult cuLibraryEnumerateKernels(CUkernel *kernels, unsigned count, CUlibrary library) {
  SIM_ENTER(SIM_NEED_INIT);
  return functions_list((void **)kernels, count, library);
}
CUresult cuLibraryGetGlobal(CUdeviceptr *address, size_t *bytes, CUlibrary library,
                            const char *name) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  return global_get(address, bytes, library, name);
}
CUresult cuLibraryGetModule(CUmodule *module, CUlibrary library) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  if (module == NULL || !sim_handle_is(SIM_MODULE, library)) return CUDA_ERROR_INVALID_HANDLE;
  *module = (CUmodule)library;
  return CUDA_SUCCESS;
}
CUresult cuKernelGetFunction(CUfunction *function, CUkernel kernel) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  if (function == NULL || !sim_handle_is(SIM_FUNCTION, kernel)) return CUDA_ERROR_INVALID_HANDLE;
  *function = (CUfunction)kernel;
  return CUDA_SUCCESS;
}
CUresult cuKernelGetLibrary(CUlibrary *library, CUkernel kernel) {
  SIM_ENTER(SIM_NEED_INIT);
  if (library == NULL || !sim_handle_is(SIM_FUNCTION, kernel)) return CUDA_ERROR_INVALID_HANDLE;
  *library = (CUlibrary)((const struct sim_function *)kernel)->module;
  return CUDA_SUCCESS;
}

/* ---- functions ---- */

static CUresult attribute_get(int *value, CUfunction_attribute attribute, const void *handle) {
  if (value == NULL || (unsigned)attribute >= CU_FUNC_ATTRIBUTE_MAX)
    return CUDA_ERROR_INVALID_VALUE;
  if (!sim_handle_is(SIM_FUNCTION, handle)) return CUDA_ERROR_INVALID_HANDLE;
  *value = ((const struct sim_function *)handle)->attributes[attribute];
  return CUDA_SUCCESS;
}
static CUresult attribute_set(void *handle, CUfunction_attribute attribute, int value) {
  if ((unsigned)attribute >= CU_FUNC_ATTRIBUTE_MAX) return CUDA_ERROR_INVALID_VALUE;
  if (!sim_handle_is(SIM_FUNCTION, handle)) return CUDA_ERROR_INVALID_HANDLE;
  ((struct sim_function *)handle)->attributes[attribute] = value;
  return CUDA_SUCCESS;
}
static CUresult param_info(const void *handle, size_t index, size_t *offset, size_t *bytes) {
  if (!sim_handle_is(SIM_FUNCTION, handle)) return CUDA_ERROR_INVALID_HANDLE;
  const struct gbsim_kernel *kernel = ((const struct sim_function *)handle)->kernel;
  if (index >= kernel->param_count) return CUDA_ERROR_INVALID_VALUE;
  if (offset != NULL) *offset = gbsim_param_offset(kernel, (uint32_t)index);
  if (bytes != NULL) *bytes = kernel->param_bytes[index];
  return CUDA_SUCCESS;
}
static CUresult name_get(const char **name, const void *handle) {
  if (name == NULL) return CUDA_ERROR_INVALID_VALUE;
  if (!sim_handle_is(SIM_FUNCTION, handle)) return CUDA_ERROR_INVALID_HANDLE;
  *name = ((const struct sim_function *)handle)->name;
  return CUDA_SUCCESS;
}

CUresult cuFuncGetAttribute(int *value, CUfunction_attribute attribute, CUfunction function) {
  SIM_ENTER(SIM_NEED_INIT);
  return attribute_get(value, attribute, function);
}
CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
  SIM_ENTER(SIM_NEED_INIT);
  return attribute_set(function, attribute, value);
}
CUresult cuKernelGetAttribute(int *value, CUfunction_attribute attribute, CUkernel kernel,
                              CUdevice device) {
  SIM_ENTER(SIM_NEED_INIT);
  return device < 0 || device >= sim_config.devices ? CUDA_ERROR_INVALID_DEVICE
                                                    : attribute_get(value, attribute, kernel);
}
CUresult cuKernelSetAttribute(CUfunction_attribute attribute, int value, CUkernel kernel,
                              CUdevice device) {
  SIM_ENTER(SIM_NEED_INIT);
  return device < 0 || device >= sim_config.devices ? CUDA_ERROR_INVALID_DEVICE
                                                    : attribute_set(kernel, attribute, value);
}
CUresult cuFuncGetParamInfo(CUfunction function, size_t index, size_t *offset, size_t *bytes) {
  SIM_ENTER(SIM_NEED_INIT);
  return param_info(function, index, offset, bytes);
}
CUresult cuKernelGetParamInfo(CUkernel kernel, size_t index, size_t *offset, size_t *bytes) {
  SIM_ENTER(SIM_NEED_INIT);
  return param_info(kernel, index, offset, bytes);
}
CUresult cuFuncGetName(const char **name, CUfunction function) {
  SIM_ENTER(SIM_NEED_INIT);
  return name_get(name, function);
}
CUresult cuKernelGetName(const char **name, CUkernel kernel) {
  SIM_ENTER(SIM_NEED_INIT);
  return name_get(name, kernel);
}
CUresult cuFuncGetModule(CUmodule *module, CUfunction function) {
  SIM_ENTER(SIM_NEED_INIT);
  if (module == NULL || !sim_handle_is(SIM_FUNCTION, function)) return CUDA_ERROR_INVALID_HANDLE;
  *module = (CUmodule)((const struct sim_function *)function)->module;
  return CUDA_SUCCESS;
}
CUresult cuFuncIsLoaded(CUfunctionLoadingState *state, CUfunction function) {
  SIM_ENTER(SIM_NEED_INIT);
  if (state == NULL || !sim_handle_is(SIM_FUNCTION, function)) return CUDA_ERROR_INVALID_HANDLE;
  *state = CU_FUNCTION_LOADING_STATE_LOADED;
  return CUDA_SUCCESS;
}
CUresult cuFuncLoad(CUfunction function) {
  SIM_ENTER(SIM_NEED_INIT);
  return sim_handle_is(SIM_FUNCTION, function) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}
CUresult cuFuncSetCacheConfig(CUfunction function, CUfunc_cache config) {
  SIM_ENTER(SIM_NEED_INIT);
  (void)config;
  return sim_handle_is(SIM_FUNCTION, function) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}
CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, CUfunction function, int threads,
                                                     size_t shared_bytes) {
  SIM_ENTER(SIM_NEED_INIT);
  (void)shared_bytes;
  if (blocks == NULL || threads <= 0) return CUDA_ERROR_INVALID_VALUE;
  if (!sim_handle_is(SIM_FUNCTION, function)) return CUDA_ERROR_INVALID_HANDLE;
  *blocks = threads > 1024 ? 0 : 2048 / threads > 32 ? 32 : 2048 / threads;
  return CUDA_SUCCESS;
}
CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, CUfunction function,
                                                              int threads, size_t shared_bytes,
                                                              unsigned flags) {
  return flags > 1
             ? CUDA_ERROR_INVALID_VALUE
             : cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, threads, shared_bytes);
}
