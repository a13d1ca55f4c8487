/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hooks_code.c: modules and libraries. Loading code takes VRAM that nobody asked us for: when there
 * is none, what we hold without need goes back to the driver. Function handles die with their code
 * and may be used again for other functions.
 */
#include "collective.h"
#include "hooks_counted.h"

static CUresult loaded(CUresult result) {
  if (result != CUDA_ERROR_OUT_OF_MEMORY) return result;
  return GB_REFUSE(result, "code_refused",
                   "the driver has no VRAM left for the program's code: lower --vram, so that the "
                   "card keeps some free, or end other programs on it");
}

GB_WRAP(cuModuleLoad, CUmodule *module, const char *file) {
  return loaded(GB_RETRIED(real(module, file)));
}
GB_WRAP(cuModuleLoadData, CUmodule *module, const void *image) {
  return loaded(GB_RETRIED(real(module, image)));
}
GB_WRAP(cuModuleLoadDataEx, CUmodule *module, const void *image, unsigned count,
        CUjit_option *options, void **values) {
  return loaded(GB_RETRIED(real(module, image, count, options, values)));
}
GB_WRAP(cuModuleLoadFatBinary, CUmodule *module, const void *image) {
  return loaded(GB_RETRIED(real(module, image)));
}
GB_WRAP(cuLibraryLoadData, CUlibrary *library, const void *image, CUjit_option *options,
        void **values, unsigned count, CUlibraryOption *library_options,
        void **library_values, unsigned library_count) {
  return loaded(GB_RETRIED(real(library, image, options, values, count, library_options,
                                library_values, library_count)));
}
GB_WRAP(cuLibraryLoadFromFile, CUlibrary *library, const char *file, CUjit_option *options,
        void **values, unsigned count, CUlibraryOption *library_options,
        void **library_values, unsigned library_count) {
  return loaded(GB_RETRIED(real(library, file, options, values, count, library_options,
                                library_values, library_count)));
}

static void unloading(void) {
  gb_core_functions_unloaded();
  gb_collective_forget();
}
GB_WRAP(cuModuleUnload, CUmodule module) {
  unloading();
  return real(module);
}
GB_WRAP(cuLibraryUnload, CUlibrary library) {
  unloading();
  return real(library);
}

#define GB_SECTIONS GB_SECTION_CODE
#include "hooks_define.h"
