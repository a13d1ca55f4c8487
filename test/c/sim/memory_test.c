/* SPDX-License-Identifier: Apache-2.0 */
/* memory_test.c: capacity across processes, virtual memory, faults, pointer attributes, strictness,
 * injection. */
#include <signal.h>

#include "common.h"

/* ---- each runs in a fresh process ---- */

static void hold_until_killed(int ready) {
  CUdeviceptr pointer = 0;
  const CUmemAllocationProp prop = place(CU_MEM_LOCATION_TYPE_DEVICE);
  CUmemGenericAllocationHandle handle;
  start();
  char ok = cuMemAlloc(&pointer, 512 * MIB) == CUDA_SUCCESS &&
            cuMemCreate(&handle, 256 * MIB, &prop, 0) == CUDA_SUCCESS;
  if (write(ready, &ok, 1) != 1) _exit(1);
  pause();
}

static void capacity_is_shared_and_comes_back_after_kill_9(void) {
  int ready[2];
  char ok = 0;
  REQUIRE(pipe(ready) == 0);
  const pid_t holder = fork();
  if (holder == 0) {
    hold_until_killed(ready[1]);
    _exit(0);
  }
  REQUIRE(read(ready[0], &ok, 1) == 1);
  CHECK(ok);
  start();
  CUdeviceptr pointer = 0;
  CHECK_EQUAL(free_bytes(), 256 * MIB);
  CHECK_EQUAL(cuMemAlloc(&pointer, 257 * MIB), CUDA_ERROR_OUT_OF_MEMORY);
  CHECK_EQUAL(cuMemAlloc(&pointer, 256 * MIB), CUDA_SUCCESS);
  CHECK_EQUAL(free_bytes(), 0);
  kill(holder, SIGKILL);
  waitpid(holder, NULL, 0);
  CHECK_EQUAL(free_bytes(), 768 * MIB);
  CHECK_EQUAL(cuMemFree(pointer), CUDA_SUCCESS);
  CHECK_EQUAL(free_bytes(), GIB);
}

static void a_fault_is_sticky(void) {
  CUdeviceptr base = 0;
  size_t bytes = 0;
  CUcontext context = start();
  CUstream stream;
  CHECK_EQUAL(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemAddressReserve(&base, 64 * MIB, 0, 0, 0), CUDA_SUCCESS);
  map_chunk(base, 2 * MIB, CU_MEM_LOCATION_TYPE_DEVICE);
  CUfunction empty = kernel("gb_empty");
  CHECK_EQUAL(fill(base, 2 * MIB / 8, 1, stream), CUDA_SUCCESS);
  CHECK_EQUAL(cuStreamSynchronize(stream), CUDA_SUCCESS);
  CHECK_EQUAL(fill(base, 2 * MIB / 8 + 1, 1, stream), CUDA_SUCCESS); /* one word too far */
  CHECK_EQUAL(cuStreamSynchronize(stream), CUDA_ERROR_ILLEGAL_ADDRESS);
  CHECK_EQUAL(cuCtxSynchronize(), CUDA_ERROR_ILLEGAL_ADDRESS);
  CHECK_EQUAL(cuMemGetInfo(&bytes, &bytes), CUDA_ERROR_ILLEGAL_ADDRESS);
  CHECK_EQUAL(cuLaunchKernel(empty, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL),
              CUDA_ERROR_ILLEGAL_ADDRESS);
  CHECK_EQUAL(cuCtxSetCurrent(context), CUDA_ERROR_ILLEGAL_ADDRESS);
}

static void no_access_faults_too(void) {
  CUdeviceptr base = 0;
  start();
  CHECK_EQUAL(cuMemAddressReserve(&base, 4 * MIB, 0, 0, 0), CUDA_SUCCESS);
  map_chunk(base, 2 * MIB, CU_MEM_LOCATION_TYPE_HOST_NUMA);
  CHECK_EQUAL(allow(base, 2 * MIB, CU_MEM_ACCESS_FLAGS_PROT_READ), CUDA_SUCCESS);
  CHECK_EQUAL(fill(base, 8, 1, NULL), CUDA_SUCCESS);
  CHECK_EQUAL(cuCtxSynchronize(), CUDA_ERROR_ILLEGAL_ADDRESS);
}

static void hints_are_honoured_for_large_reservations_only(void) {
  CUdeviceptr large = 0, middle = 0, small = 0, odd = 0;
  start();
  const CUdeviceptr hint = 0x550000000000ull;
  CHECK_EQUAL(cuMemAddressReserve(&large, 64 * GIB, 0, hint, 0), CUDA_SUCCESS);
  CHECK_EQUAL(large, hint);
  CHECK_EQUAL(cuMemAddressReserve(&small, 2 * MIB, 0, hint + GIB * 128, 0), CUDA_SUCCESS);
  CHECK(small != hint + GIB * 128);
  CHECK_EQUAL(cuMemAddressReserve(&middle, 26 * MIB, 0, hint + GIB * 192, 0), CUDA_SUCCESS);
  CHECK_EQUAL(middle, hint + GIB * 192);
  CHECK_EQUAL(cuMemAddressFree(middle, 26 * MIB), CUDA_SUCCESS);
  CHECK_EQUAL(small % (2 * MIB), 0);
  CHECK_EQUAL(cuMemAddressReserve(&odd, 2 * MIB + 4096, 0, 0, 0), CUDA_ERROR_INVALID_VALUE);
  CHECK_EQUAL(cuMemAddressReserve(&odd, 64 * GIB, 0, hint, 0),
              CUDA_SUCCESS); /* taken: lands elsewhere */
  CHECK(odd != hint);
  CHECK_EQUAL(cuMemAddressFree(odd, 64 * GIB), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemAddressFree(small, 2 * MIB), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemAddressFree(large, 64 * GIB), CUDA_SUCCESS);
}

/* The movement of the shim: copy, drain, swap the chunk behind an address that never changes. */
static void contents_follow_the_chunk_behind_an_address(void) {
  CUdeviceptr base = 0, stage = 0;
  uint64_t words[4], want[4];
  const size_t before = (start(), free_bytes());
  CHECK_EQUAL(cuMemAddressReserve(&base, 4 * MIB, 0, 0, 0), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemAddressReserve(&stage, 4 * MIB, 0, 0, 0), CUDA_SUCCESS);
  const CUmemGenericAllocationHandle device = map_chunk(base, 2 * MIB, CU_MEM_LOCATION_TYPE_DEVICE);
  const CUmemGenericAllocationHandle host =
      map_chunk(stage, 2 * MIB, CU_MEM_LOCATION_TYPE_HOST_NUMA);
  CHECK_EQUAL(free_bytes(), before - 2 * MIB);
  CHECK_EQUAL(fill(base, 2 * MIB / 8, 77, NULL), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemcpyDtoH(want, base + 2 * MIB - 32, 32), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemcpyDtoD(stage, base, 2 * MIB), CUDA_SUCCESS);
  CHECK_EQUAL(cuCtxSynchronize(), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemUnmap(base, 2 * MIB), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemMap(base, 2 * MIB, 0, host, 0),
              CUDA_SUCCESS); /* the same chunk at two addresses */
  CHECK_EQUAL(allow(base, 2 * MIB, CU_MEM_ACCESS_FLAGS_PROT_READWRITE), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemRelease(device), CUDA_SUCCESS);
  CHECK_EQUAL(free_bytes(), before);
  CHECK_EQUAL(cuMemcpyDtoH(words, base + 2 * MIB - 32, 32), CUDA_SUCCESS);
  CHECK(memcmp(words, want, 32) == 0);
  CHECK_EQUAL(cuMemRelease(host), CUDA_SUCCESS); /* lives on in its mappings */
  CHECK_EQUAL(cuMemcpyDtoH(words, base, 32), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemUnmap(base, 2 * MIB), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemUnmap(stage, 2 * MIB), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemAddressFree(base, 4 * MIB), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemAddressFree(stage, 4 * MIB), CUDA_SUCCESS);
}

static void pointer_attributes_are_the_driver_s(void) {
  CUdeviceptr base = 0, plain = 0, start_address = 0;
  unsigned type = 0;
  size_t bytes = 0;
  CUcontext owner = NULL, context = start();
  CHECK_EQUAL(cuMemAddressReserve(&base, 4 * MIB, 0, 0, 0), CUDA_SUCCESS);
  map_chunk(base, 2 * MIB, CU_MEM_LOCATION_TYPE_HOST_NUMA);
  map_chunk(base + 2 * MIB, 2 * MIB, CU_MEM_LOCATION_TYPE_DEVICE);
  CHECK_EQUAL(cuMemAlloc(&plain, 1000), CUDA_SUCCESS);
  CHECK_EQUAL(cuPointerGetAttribute(&bytes, CU_POINTER_ATTRIBUTE_RANGE_SIZE, base + 3 * MIB),
              CUDA_SUCCESS);
  CHECK_EQUAL(bytes, 4 * MIB); /* the reservation */
  CHECK_EQUAL(cuPointerGetAttribute(&bytes, CU_POINTER_ATTRIBUTE_MAPPING_SIZE, base + 3 * MIB),
              CUDA_SUCCESS);
  CHECK_EQUAL(bytes, 2 * MIB);
  CHECK_EQUAL(cuPointerGetAttribute(&bytes, CU_POINTER_ATTRIBUTE_MAPPING_SIZE, plain),
              CUDA_SUCCESS);
  CHECK_EQUAL(bytes, 2 * MIB);
  CHECK_EQUAL(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, base + 5),
              CUDA_SUCCESS);
  CHECK_EQUAL(type, CU_MEMORYTYPE_HOST);
  CHECK_EQUAL(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, base + 2 * MIB),
              CUDA_SUCCESS);
  CHECK_EQUAL(type, CU_MEMORYTYPE_DEVICE);
  CHECK_EQUAL(cuPointerGetAttribute(&owner, CU_POINTER_ATTRIBUTE_CONTEXT, plain + 10),
              CUDA_SUCCESS);
  CHECK(owner == context);
  CHECK_EQUAL(cuMemGetAddressRange(&start_address, &bytes, plain + 999), CUDA_SUCCESS);
  CHECK_EQUAL(start_address, plain);
  CHECK_EQUAL(bytes, 1000);
  CHECK_EQUAL(
      cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, (CUdeviceptr)(uintptr_t)&type),
      CUDA_ERROR_INVALID_VALUE);
  CUpointer_attribute list[] = {CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CU_POINTER_ATTRIBUTE_RANGE_SIZE};
  void *answers[] = {&type, &bytes};
  CHECK_EQUAL(cuPointerGetAttributes(2, list, answers, (CUdeviceptr)(uintptr_t)&type),
              CUDA_SUCCESS);
  CHECK_EQUAL(type, 0);
  CHECK_EQUAL(bytes, 0);
}

static void wrong_use_is_refused(void) {
  CUdeviceptr base = 0, plain = 0;
  CUstream stream;
  start();
  CHECK_EQUAL(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemAlloc(&plain, 4096), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemFree(plain + 8), CUDA_ERROR_INVALID_VALUE);
  CHECK_EQUAL(cuMemFree(plain), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemFree(plain), CUDA_ERROR_INVALID_VALUE);
  CHECK_EQUAL(cuMemFree(0), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemFree((CUdeviceptr)(uintptr_t)&base), CUDA_ERROR_INVALID_VALUE);
  CHECK_EQUAL(cuMemAddressReserve(&base, 8 * MIB, 0, 0, 0), CUDA_SUCCESS);
  const CUmemGenericAllocationHandle handle = map_chunk(base, 4 * MIB, CU_MEM_LOCATION_TYPE_DEVICE);
  CHECK_EQUAL(cuMemMap(base, 4 * MIB, 0, handle, 0), CUDA_ERROR_INVALID_VALUE); /* mapped already */
  CHECK_EQUAL(cuMemMap(base + 6 * MIB, 4 * MIB, 0, handle, 0),
              CUDA_ERROR_INVALID_VALUE); /* beyond the reservation */
  CHECK_EQUAL(cuMemMap(base + 4 * MIB, 2 * MIB, 0, handle, 0), CUDA_ERROR_NOT_SUPPORTED); /* part */
  CHECK_EQUAL(cuMemUnmap(base, 2 * MIB), CUDA_ERROR_INVALID_VALUE);       /* half a mapping */
  CHECK_EQUAL(cuMemAddressFree(base, 8 * MIB), CUDA_ERROR_INVALID_VALUE); /* still mapped */
  CHECK_EQUAL(fill(base, 8, 1, stream), CUDA_SUCCESS);
  CHECK_EQUAL(cuStreamSynchronize(stream), CUDA_SUCCESS);
  CHECK_EQUAL(spin(stream, 100000000), CUDA_SUCCESS);
  CHECK_EQUAL(update(base + 64, 8, 1, stream), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemUnmap(base, 4 * MIB),
              CUDA_ERROR_ILLEGAL_STATE); /* a kernel that was given it waits */
  CHECK_EQUAL(cuStreamSynchronize(stream), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemUnmap(base, 4 * MIB), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemRelease(handle), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemRelease(handle), CUDA_ERROR_INVALID_VALUE);
  CHECK_EQUAL(cuStreamDestroy(stream), CUDA_SUCCESS);
  CHECK_EQUAL(cuStreamDestroy(stream), CUDA_ERROR_INVALID_HANDLE);
  CHECK_EQUAL(cuStreamSynchronize(stream), CUDA_ERROR_INVALID_HANDLE);
}

static void injection_hits_the_call_it_names(void) {
  const CUmemAllocationProp prop = place(CU_MEM_LOCATION_TYPE_DEVICE);
  CUmemGenericAllocationHandle handle;
  CUdeviceptr pointer;
  start();
  CHECK_EQUAL(cuMemCreate(&handle, 2 * MIB, &prop, 0), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemCreate(&handle, 2 * MIB, &prop, 0), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemCreate(&handle, 2 * MIB, &prop, 0), CUDA_ERROR_OUT_OF_MEMORY);
  CHECK_EQUAL(cuMemCreate(&handle, 2 * MIB, &prop, 0), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemAlloc(&pointer, 4096), CUDA_ERROR_NOT_SUPPORTED);
  CHECK_EQUAL(cuMemAlloc(&pointer, 4096), CUDA_ERROR_NOT_SUPPORTED);
}

static void a_forked_child_cannot_use_the_driver(void) {
  CUdeviceptr pointer;
  start();
  CHECK_EQUAL(cuMemAlloc(&pointer, MIB), CUDA_SUCCESS);
  const pid_t child = fork();
  if (child == 0) _exit(cuMemAlloc(&pointer, 4096) == CUDA_ERROR_NOT_INITIALIZED ? 0 : 1);
  int status = 1;
  waitpid(child, &status, 0);
  CHECK_EQUAL(status, 0);
  CHECK_EQUAL(free_bytes(), GIB - MIB); /* the child's death gave nothing back */
}

static void leaks_are_reported_at_exit(void) {
  CUdeviceptr pointer;
  CUevent event;
  start();
  CHECK_EQUAL(cuMemAlloc(&pointer, MIB), CUDA_SUCCESS);
  CHECK_EQUAL(cuEventCreate(&event, 0), CUDA_SUCCESS);
  exit(0); /* under GBSIM_STRICT=abort the report ends the process */
}

static void exported_chunks_are_the_same_memory(void) {
  CUmemAllocationProp prop = place(CU_MEM_LOCATION_TYPE_HOST_NUMA);
  CUmemGenericAllocationHandle first, second;
  CUdeviceptr base;
  int fd = -1;
  uint64_t word = 0;
  start();
  prop.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  CHECK_EQUAL(cuMemCreate(&first, 2 * MIB, &prop, 0), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemExportToShareableHandle(&fd, first, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
              CUDA_SUCCESS);
  CHECK_EQUAL(cuMemImportFromShareableHandle(&second, (void *)(intptr_t)fd,
                                             CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
              CUDA_SUCCESS);
  CHECK_EQUAL(cuMemAddressReserve(&base, 4 * MIB, 0, 0, 0), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemMap(base, 2 * MIB, 0, first, 0), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemMap(base + 2 * MIB, 2 * MIB, 0, second, 0), CUDA_SUCCESS);
  CHECK_EQUAL(allow(base, 4 * MIB, CU_MEM_ACCESS_FLAGS_PROT_READWRITE), CUDA_SUCCESS);
  CHECK_EQUAL(fill(base, 1, 5, NULL), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemcpyDtoH(&word, base + 2 * MIB, 8), CUDA_SUCCESS);
  const uint64_t product = 5 * 0x9E3779B97F4A7C15ull;
  CHECK(word == (product ^ product >> 32));
}

#define CHILD(name, test)                                    \
  static void name(void) { CHECK_EQUAL(in_child(test), 0); }
CHILD(capacity_across_processes, capacity_is_shared_and_comes_back_after_kill_9)
CHILD(fault_sticky, a_fault_is_sticky)
CHILD(fault_no_access, no_access_faults_too)
CHILD(hints, hints_are_honoured_for_large_reservations_only)
CHILD(remap, contents_follow_the_chunk_behind_an_address)
CHILD(attributes, pointer_attributes_are_the_driver_s)
CHILD(strict, wrong_use_is_refused)
CHILD(forked, a_forked_child_cannot_use_the_driver)
CHILD(exported, exported_chunks_are_the_same_memory)

/* Settings are read when the library is loaded: these need a program of their own. */
static int again(const char *setting, const char *value, const char *which) {
  const pid_t child = fork();
  if (child == 0) {
    setenv(setting, value, 1);
    setenv("GBSIM_STRICT_EXIT", "1", 1);
    execl("/proc/self/exe", "memory_test", which, (char *)NULL);
    _exit(99);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void injection(void) {
  CHECK_EQUAL(again("GBSIM_FAIL", "cuMemCreate@3=2,cuMemAlloc=801", "injection"), 0);
}
static void leaks_abort(void) {
  CHECK_EQUAL(again("GBSIM_STRICT", "abort", "leaks"), 128 + SIGABRT);
}

int main(int argc, char **argv) {
  if (argc > 1 && strcmp(argv[1], "injection") == 0) {
    injection_hits_the_call_it_names();
    _exit(check_errors);
  }
  if (argc > 1 && strcmp(argv[1], "leaks") == 0) leaks_are_reported_at_exit();
  RUN(capacity_across_processes);
  RUN(fault_sticky);
  RUN(fault_no_access);
  RUN(hints);
  RUN(remap);
  RUN(attributes);
  RUN(strict);
  RUN(forked);
  RUN(exported);
  RUN(injection);
  RUN(leaks_abort);
  return check_done();
}
