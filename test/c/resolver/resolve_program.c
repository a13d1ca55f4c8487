/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resolve_program.c CASE: one property of the resolvers per case, in a process of its own. Linked
 * with libcuda as ordinary driver-API programs are; run under the shim on the simulated driver,
 * unless the case says otherwise.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#ifndef GB_CUDA_NO_ALIASES
#define GB_CUDA_NO_ALIASES
#endif
#include <cuda.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int failures;

#define CHECK(condition)                                               \
  do {                                                                 \
    if (!(condition)) {                                                \
      printf("%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
      failures++;                                                      \
    }                                                                  \
  } while (0)

typedef void *(*look_up)(void *, const char *);

static void *driver_handle(void) { return dlopen("libcuda.so.1", RTLD_LAZY); }

/* The C library's own dlsym, whoever stands in front of it. */
static look_up libc_dlsym(void) {
  return (look_up)dlsym(dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD), "dlsym");
}
static void *in_driver(const char *symbol) { return libc_dlsym()(driver_handle(), symbol); }

static int from(void *address, const char *library) {
  Dl_info info;
  return address != NULL && dladdr(address, &info) != 0 && strstr(info.dli_fname, library) != NULL;
}
static int is_shim(void *address, const char *symbol) {
  Dl_info info;
  return from(address, "libgreenboost_cuda.so") && dladdr(address, &info) != 0 &&
         info.dli_sname != NULL && strcmp(info.dli_sname, symbol) == 0;
}

static void *asked(const char *name, int version, cuuint64_t flags) {
  void *function = NULL;
  CUresult result = cuGetProcAddress_v2(name, &function, version, flags, NULL);
  return result == CUDA_SUCCESS ? function : NULL;
}

/* Both versions of dlsym, on an explicit handle. */
static void case_dlsym(void) {
  static const char *const versions[] = {"GLIBC_2.2.5", "GLIBC_2.34"};
  void *handle = driver_handle();
  for (int i = 0; i < 2; i++) {
    look_up find = (look_up)dlvsym(RTLD_DEFAULT, "dlsym", versions[i]);
    CHECK(from((void *)find, "libgreenboost_cuda.so"));
    CHECK(is_shim(find(handle, "cuMemAlloc_v2"), "cuMemAlloc_v2"));
    CHECK(is_shim(find(handle, "cuLaunchKernel_ptsz"), "cuLaunchKernel_ptsz"));
    CHECK(is_shim(find(handle, "cuGetProcAddress_v2"), "cuGetProcAddress_v2"));
    CHECK(find(handle, "cuCtxGetApiVersion") == in_driver("cuCtxGetApiVersion"));
    CHECK(find(handle, "cuMemAlloc") == in_driver("cuMemAlloc"));
    CHECK(find(handle, "cuNothingOfTheKind") == NULL);
    CHECK(dlerror() != NULL);
    CHECK(find(dlopen("libc.so.6", RTLD_LAZY), "getpid") == (void *)getpid);
  }
}

/* Before and after the table of real functions is filled. */
static void case_dlsym_loaded(void) {
  CHECK(cuInit(0) == CUDA_SUCCESS);
  case_dlsym();
}

/* The pseudo handles see the program as the caller, not us. */
static void case_pseudo_handles(void) {
  CHECK(is_shim(dlsym(RTLD_DEFAULT, "cuMemAlloc_v2"), "cuMemAlloc_v2"));
  CHECK(dlsym(RTLD_DEFAULT, "main") == NULL || !from(dlsym(RTLD_DEFAULT, "main"), "libgreenboost"));
  CHECK(from(dlsym(RTLD_NEXT, "getpid"), "libc.so.6"));
  void *first = dlopen("libfirst.so", RTLD_NOW | RTLD_NOLOAD);
  void *second = dlopen("libsecond.so", RTLD_NOW | RTLD_NOLOAD);
  CHECK(first != NULL && second != NULL);
  if (first == NULL || second == NULL) return;
  void *(*next)(void) = (void *(*)(void))libc_dlsym()(first, "gb_test_next");
  CHECK(next() == libc_dlsym()(second, "gb_test_here"));
}

static void case_proc_address(void) {
  CHECK(is_shim(asked("cuMemAlloc", 3020, 0), "cuMemAlloc_v2"));
  CHECK(is_shim(asked("cuMemAlloc", 13000, 0), "cuMemAlloc_v2"));
  CHECK(asked("cuMemAlloc", 2000, 0) == in_driver("cuMemAlloc"));
  CHECK(is_shim(asked("cuMemcpyHtoD", 12000, 0), "cuMemcpyHtoD_v2"));
  CHECK(is_shim(asked("cuMemcpyHtoD", 12000, 1), "cuMemcpyHtoD_v2"));
  CHECK(is_shim(asked("cuMemcpyHtoD", 12000, 2), "cuMemcpyHtoD_v2_ptds"));
  CHECK(is_shim(asked("cuLaunchKernel", 12000, 2), "cuLaunchKernel_ptsz"));
  CHECK(is_shim(asked("cuMemAdvise", 8000, 0), "cuMemAdvise"));
  CHECK(is_shim(asked("cuMemAdvise", 12020, 0), "cuMemAdvise_v2"));
  CHECK(is_shim(asked("cuMemcpyBatchAsync", 12080, 0), "cuMemcpyBatchAsync"));
  CHECK(is_shim(asked("cuMemcpyBatchAsync", 13000, 0), "cuMemcpyBatchAsync_v2"));
  CHECK(is_shim(asked("cuCtxSynchronize", 2000, 0), "cuCtxSynchronize"));
  CHECK(is_shim(asked("cuCtxSynchronize", 13000, 0), "cuCtxSynchronize_v2"));
  CHECK(is_shim(asked("cuDevicePrimaryCtxRelease", 7000, 0), "cuDevicePrimaryCtxRelease"));
  CHECK(is_shim(asked("cuGetProcAddress", 11030, 0), "cuGetProcAddress"));
  CHECK(is_shim(asked("cuGetProcAddress", 12000, 0), "cuGetProcAddress_v2"));
  CHECK(asked("cuCtxGetApiVersion", 13000, 0) == in_driver("cuCtxGetApiVersion"));
  CHECK(asked("cuGetExportTable", 13000, 0) == in_driver("cuGetExportTable"));
}

/* The answers around a look-up are the driver's own. */
static void case_status(void) {
  CUresult (*real)(const char *, void **, int, cuuint64_t, CUdriverProcAddressQueryResult *) =
      (CUresult (*)(const char *, void **, int, cuuint64_t,
                    CUdriverProcAddressQueryResult *))in_driver("cuGetProcAddress_v2");
  static const char *const names[] = {"", "cuMemAlloc", "cuNothingOfTheKind", "cuMemCreate"};
  for (int i = 0; i < 4; i++) {
    for (int version = 0; version <= 13000; version += 6500) {
      CUdriverProcAddressQueryResult ours = 77, theirs = 77;
      void *our_function = &ours, *their_function = &ours;
      CHECK(cuGetProcAddress_v2(names[i], &our_function, version, 0, &ours) ==
            real(names[i], &their_function, version, 0, &theirs));
      CHECK(ours == theirs);
      CHECK((our_function == NULL) == (their_function == NULL));
      CHECK(cuGetProcAddress_v2(names[i], &our_function, version, 0, NULL) ==
            real(names[i], &their_function, version, 0, NULL));
    }
  }
}

/* GREENBOOST_DISABLE=1: nothing of ours is ever answered or run. */
static void case_disabled(void) {
  CHECK(cuInit(0) == CUDA_SUCCESS);
  CHECK(dlsym(driver_handle(), "cuMemAlloc_v2") == in_driver("cuMemAlloc_v2"));
  CHECK(asked("cuMemAlloc", 12000, 0) == in_driver("cuMemAlloc_v2"));
  CUdevice device;
  CUcontext context;
  CUdeviceptr pointer = 0;
  CHECK(cuDeviceGet(&device, 0) == CUDA_SUCCESS);
  CHECK(cuDevicePrimaryCtxRetain(&context, device) == CUDA_SUCCESS);
  CHECK(cuCtxSetCurrent(context) == CUDA_SUCCESS);
  CHECK(cuMemAlloc_v2(&pointer, 4 << 20) == CUDA_SUCCESS);
  CHECK(pointer < 0x500000000000ull || pointer >= 0x555500000000ull);
  CHECK(cuMemFree_v2(pointer) == CUDA_SUCCESS);
  CHECK(cuDevicePrimaryCtxRelease_v2(device) == CUDA_SUCCESS);
}

/* A forked child sees the driver and none of us. */
static void case_fork(void) {
  CHECK(cuInit(0) == CUDA_SUCCESS);
  CHECK(is_shim(asked("cuMemAlloc", 12000, 0), "cuMemAlloc_v2"));
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    failures = 0;
    CHECK(asked("cuMemAlloc", 12000, 0) == in_driver("cuMemAlloc_v2"));
    CUdeviceptr pointer;
    CUresult (*real)(CUdeviceptr *, size_t) =
        (CUresult (*)(CUdeviceptr *, size_t))in_driver("cuMemAlloc_v2");
    CHECK(cuMemAlloc_v2(&pointer, 1 << 20) == real(&pointer, 1 << 20));
    fflush(stdout);
    _exit(failures);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  CHECK(is_shim(asked("cuMemAlloc", 12000, 0), "cuMemAlloc_v2"));
}

/* A child that is forked before CUDA is used may use it. */
static void case_fork_before(void) {
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    failures = 0;
    CHECK(cuInit(0) == CUDA_SUCCESS);
    CHECK(is_shim(asked("cuMemAlloc", 12000, 0), "cuMemAlloc_v2"));
    fflush(stdout);
    _exit(failures);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* On the foreign driver: answers that no exported name has, and versions newer than ours. */
static void case_foreign(void) {
  void *(*internal)(const char *) = (void *(*)(const char *))in_driver("gb_foreign_internal");
  CHECK(internal("cuMemAlloc_v2") != NULL &&
        internal("cuMemAlloc_v2") != in_driver("cuMemAlloc_v2"));
  CHECK(is_shim(asked("cuMemAlloc", 13000, 0), "cuMemAlloc_v2"));
  CHECK(is_shim(asked("cuMemcpyHtoDAsync", 13000, 2), "cuMemcpyHtoDAsync_v2_ptsz"));
  CHECK(is_shim(asked("cuMemAdvise", 12010, 0), "cuMemAdvise"));
  CHECK(asked("cuMemAlloc", 2000, 0) == internal("cuMemAlloc"));
  CHECK(asked("cuCtxGetApiVersion", 13000, 0) == internal("cuCtxGetApiVersion"));
  /* Unknown versions: of a name that allocates refused, of another passed through. */
  CUdriverProcAddressQueryResult status = CU_GET_PROC_ADDRESS_SUCCESS;
  void *function = &status;
  CHECK(cuGetProcAddress_v2("cuMemAlloc", &function, 14000, 0, &status) == CUDA_SUCCESS);
  CHECK(function == NULL && status == CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT);
  CHECK(cuGetProcAddress_v2("cuMemAlloc", &function, 14000, 0, NULL) != CUDA_SUCCESS &&
        function == NULL);
  CHECK(from(asked("cuEventQuery", 14000, 0), "libcuda.so.1"));
  CHECK(is_shim(asked("cuEventQuery", 13000, 0), "cuEventQuery"));
}

static const struct {
  const char *name;
  void (*run)(void);
} cases[] = {
    {"dlsym", case_dlsym},
    {"dlsym-loaded", case_dlsym_loaded},
    {"pseudo-handles", case_pseudo_handles},
    {"proc-address", case_proc_address},
    {"status", case_status},
    {"disabled", case_disabled},
    {"fork", case_fork},
    {"fork-before", case_fork_before},
    {"foreign", case_foreign},
};

int main(int argc, char **argv) {
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    if (argc != 2 || strcmp(argv[1], cases[i].name) != 0) continue;
    cases[i].run();
    return failures == 0 ? 0 : 1;
  }
  printf("usage: resolve_program CASE\n");
  return 2;
}
