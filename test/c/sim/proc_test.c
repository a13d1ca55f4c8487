/* SPDX-License-Identifier: Apache-2.0 */
/* proc_test.c: cuGetProcAddress answers with the ABI that name, version and flags ask for. */
#define GB_CUDA_NO_ALIASES
#include <cuda.h>
#include <dlfcn.h>
#include <stdint.h>
#include <string.h>

#include "../check.h"

static void *driver;

static void *ask(const char *name, int version, cuuint64_t flags,
                 CUdriverProcAddressQueryResult *status) {
  void *address = (void *)1;
  CUdriverProcAddressQueryResult kept = (CUdriverProcAddressQueryResult)99;
  const CUresult result = cuGetProcAddress_v2(name, &address, version, flags, &kept);
  CHECK_EQUAL(result, CUDA_SUCCESS); /* with a status, even without an answer */
  if (status != NULL) *status = kept;
  return address;
}

struct want {
  const char *name;
  int version;
  cuuint64_t flags;
  const char *symbol; /* NULL: none */
};

static const struct want wants[] = {
    {"cuMemAlloc", 3020, 0, "cuMemAlloc_v2"},
    {"cuMemAlloc", 2000, 0, "cuMemAlloc"},
    {"cuMemAlloc", 13000, 2, "cuMemAlloc_v2"},
    {"cuDevicePrimaryCtxRelease", 7000, 0, "cuDevicePrimaryCtxRelease"},
    {"cuDevicePrimaryCtxRelease", 11000, 0, "cuDevicePrimaryCtxRelease_v2"},
    {"cuCtxCreate", 3020, 0, "cuCtxCreate_v2"},
    {"cuCtxCreate", 11040, 0, "cuCtxCreate_v3"},
    {"cuCtxCreate", 13000, 0, "cuCtxCreate_v4"},
    {"cuCtxGetDevice", 2000, 0, "cuCtxGetDevice"},
    {"cuCtxGetDevice", 12090, 0, "cuCtxGetDevice"},
    {"cuCtxGetDevice", 13000, 0, "cuCtxGetDevice_v2"},
    {"cuCtxSynchronize", 13000, 0, "cuCtxSynchronize_v2"},
    {"cuMemcpyBatchAsync", 12080, 0, "cuMemcpyBatchAsync"},
    {"cuMemcpyBatchAsync", 12080, 2, "cuMemcpyBatchAsync_ptsz"},
    {"cuMemcpyBatchAsync", 13000, 0, "cuMemcpyBatchAsync_v2"},
    {"cuMemcpyBatchAsync", 13000, 2, "cuMemcpyBatchAsync_v2_ptsz"},
    {"cuMemcpyHtoD", 7000, 2, "cuMemcpyHtoD_v2_ptds"},
    {"cuMemcpyHtoD", 7000, 1, "cuMemcpyHtoD_v2"},
    {"cuMemcpy", 4000, 0, "cuMemcpy"},
    {"cuMemcpy", 7000, 2, "cuMemcpy_ptds"},
    {"cuLaunchKernel", 4000, 0, "cuLaunchKernel"},
    {"cuLaunchKernel", 7000, 2, "cuLaunchKernel_ptsz"},
    {"cuGraphInstantiate", 10000, 0, "cuGraphInstantiate"},
    {"cuGraphInstantiate", 11000, 0, "cuGraphInstantiate_v2"},
    {"cuStreamGetCaptureInfo", 10010, 2, "cuStreamGetCaptureInfo_ptsz"},
    {"cuStreamGetCaptureInfo", 12030, 0, "cuStreamGetCaptureInfo_v3"},
    {"cuIpcOpenMemHandle", 4010, 0, "cuIpcOpenMemHandle"},
    {"cuIpcOpenMemHandle", 11000, 0, "cuIpcOpenMemHandle_v2"},
    {"cuGetProcAddress", 11030, 0, "cuGetProcAddress"},
    {"cuGetProcAddress", 12000, 0, "cuGetProcAddress_v2"},
    {"cuGetProcAddress", 12000, 2, "cuGetProcAddress_v2"},
    {"cuMemcpy2D", 3020, 0, "cuMemcpy2D_v2"},
    {"cuMemcpy2D", 3020, 2, NULL},
    {"cuMemcpy2D", 2000, 2, NULL},
    {"cuMemcpy2D", 7000, 2, "cuMemcpy2D_v2_ptds"},
    {"cuMemCreate", 10010, 0, NULL},
    {"cuNoSuchCall", 13000, 0, NULL},
    {"cuMem", 13000, 0, NULL},
    {"cuMemAlloc_v2", 13000, 0, NULL},
};

static void names_versions_and_flags(void) {
  for (size_t i = 0; i < sizeof wants / sizeof wants[0]; i++) {
    void *got = ask(wants[i].name, wants[i].version, wants[i].flags, NULL);
    void *expected = wants[i].symbol == NULL ? NULL : dlsym(driver, wants[i].symbol);
    if (got != expected)
      fprintf(stderr, "%s at %d, flags %llu\n", wants[i].name, wants[i].version,
              (unsigned long long)wants[i].flags);
    CHECK(got == expected);
    CHECK(wants[i].symbol == NULL || expected != NULL);
  }
}

static void status_says_why(void) {
  CUdriverProcAddressQueryResult status;
  ask("cuMemCreate", 10010, 0, &status);
  CHECK_EQUAL(status, CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT);
  ask("cuNoSuchCall", 13000, 0, &status);
  CHECK_EQUAL(status, CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
  ask("cuMemCreate", 10020, 0, &status);
  CHECK_EQUAL(status, CU_GET_PROC_ADDRESS_SUCCESS);
}

static void no_status_and_no_name_are_tolerated(void) {
  void *address = NULL;
  CHECK_EQUAL(cuGetProcAddress_v2("", &address, 0, 0, NULL), CUDA_SUCCESS);
  CHECK_EQUAL(cuGetProcAddress_v2("cuInit", &address, 2000, 0, NULL), CUDA_SUCCESS);
  CHECK(address == dlsym(driver, "cuInit"));
  CHECK_EQUAL(cuGetProcAddress_v2("cuNoSuchCall", &address, 2000, 0, NULL), CUDA_SUCCESS);
  CHECK(address == NULL);
  CHECK_EQUAL(cuGetProcAddress_v2("cuMemAlloc", &address, 13001, 0, NULL),
              CUDA_ERROR_INVALID_VALUE);
  CHECK_EQUAL(cuGetProcAddress("cuNoSuchCall", &address, 12000, 0), CUDA_ERROR_NOT_FOUND);
  CHECK_EQUAL(cuGetProcAddress_v2(NULL, &address, 2000, 0, NULL), CUDA_ERROR_INVALID_VALUE);
  CHECK_EQUAL(cuGetProcAddress("cuMemAlloc", &address, 12000, 0), CUDA_SUCCESS);
  CHECK(address == dlsym(driver, "cuMemAlloc_v2"));
}

/* No two entry points share an address, so that dladdr tells which one an answer is. */
static void every_symbol_is_its_own(void) {
  static const char *const names[] = {
#define GB_CU(name, since, parameters) #name,
#define GB_CU_PT(name, suffix, since, since_per_thread, parameters) #name, #name #suffix,
#define GB_CU_OPAQUE(name, since) #name,
#define GB_CU_OPAQUE_PT(name, suffix, since, since_per_thread) #name, #name #suffix,
#include "gb_cuda/functions.def"
  };
  const size_t count = sizeof names / sizeof names[0];
  for (size_t i = 0; i < count; i++) {
    void *address = dlsym(driver, names[i]);
    Dl_info info;
    const int found = address != NULL && dladdr(address, &info) != 0 && info.dli_sname != NULL &&
                      strcmp(info.dli_sname, names[i]) == 0;
    if (!found) fprintf(stderr, "%s\n", names[i]);
    CHECK(found);
  }
  CHECK(count > 600);
}

static void what_is_not_simulated_says_so(void) {
  CUresult (*unknown)(void) = (CUresult (*)(void))dlsym(driver, "cuTexObjectCreate");
  REQUIRE(unknown != NULL);
  CHECK_EQUAL(unknown(), CUDA_ERROR_NOT_SUPPORTED);
}

int main(void) {
  driver = dlopen("libcuda.so.1", RTLD_NOW);
  CHECK(driver != NULL);
  RUN(names_versions_and_flags);
  RUN(status_says_why);
  RUN(no_status_and_no_name_are_tolerated);
  RUN(every_symbol_is_its_own);
  RUN(what_is_not_simulated_says_so);
  return check_done();
}
