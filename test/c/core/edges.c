/* SPDX-License-Identifier: Apache-2.0 */
/*
 * edges.c: what random steps do not meet: contexts that go with their memory, forked children,
 * running out and coming back, attributes one by one, pitches. An ordinary driver-API program; run
 * under the shim with a budget.
 */
#include <cuda.h>
#include <sys/wait.h>
#include <string.h>
#include <unistd.h>

#include "check.h"

#define MIB (1ull << 20)
#define MANY 4096

static CUdevice device;
static CUcontext primary;

static size_t free_bytes(void) {
  size_t available = 0, total = 0;
  CHECK(cuMemGetInfo(&available, &total) == CUDA_SUCCESS, "info");
  CHECK(available <= total, "free %zu of %zu", available, total);
  return available;
}

static void context_goes(void) {
  CUcontext second;
  CUdeviceptr large, small;
  size_t before = free_bytes();
  CHECK(cuCtxCreate(&second, NULL, 0, device) == CUDA_SUCCESS, "create");
  CHECK(cuMemAlloc(&large, 10 * MIB) == CUDA_SUCCESS && cuMemAlloc(&small, 100) == CUDA_SUCCESS,
        "alloc");
  CHECK(cuMemsetD8(large, 7, 10 * MIB) == CUDA_SUCCESS, "fill");
  CHECK(free_bytes() <= before - 10 * MIB, "counted");
  CHECK(cuCtxDestroy(second) == CUDA_SUCCESS, "destroy");
  CHECK(cuCtxSetCurrent(primary) == CUDA_SUCCESS, "back");
  CHECK(free_bytes() == before, "its memory went with it: %zu, was %zu", free_bytes(), before);
  CHECK(cuMemFree(large) == CUDA_ERROR_INVALID_VALUE, "a pointer of a context that is gone");
}

static void primary_reset(void) {
  CUdeviceptr pointer;
  size_t before = free_bytes();
  CHECK(cuMemAlloc(&pointer, 6 * MIB) == CUDA_SUCCESS, "alloc");
  CHECK(cuDevicePrimaryCtxReset(device) == CUDA_SUCCESS, "reset");
  CHECK(cuDevicePrimaryCtxRetain(&primary, device) == CUDA_SUCCESS, "retain");
  CHECK(cuCtxSetCurrent(primary) == CUDA_SUCCESS, "current");
  CHECK(free_bytes() >= before, "reset gives back: %zu, was %zu", free_bytes(), before);
}

/* The child may not use CUDA; it must get an error, not a hang, and must leave the parent alone. */
static void forked_child(void) {
  CUdeviceptr pointer;
  unsigned char back[16] = {0};
  CHECK(cuMemAlloc(&pointer, 4 * MIB) == CUDA_SUCCESS &&
            cuMemsetD8(pointer, 9, 4 * MIB) == CUDA_SUCCESS,
        "alloc");
  pid_t child = fork();
  if (child == 0) {
    CUdeviceptr none;
    _exit(cuMemAlloc(&none, MIB) == CUDA_SUCCESS ? 1 : 0);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child && status == 0, "child: %d", status);
  CHECK(cuMemcpyDtoH(back, pointer, sizeof back) == CUDA_SUCCESS && back[15] == 9,
        "the parent goes on");
  CHECK(cuMemFree(pointer) == CUDA_SUCCESS, "free");
}

/* Fills everything with `bytes` at a time, checks each, frees all; returns how many fitted. */
static unsigned exhaust(size_t bytes) {
  static CUdeviceptr pointers[MANY];
  unsigned count = 0;
  while (count < MANY && cuMemAlloc(&pointers[count], bytes) == CUDA_SUCCESS) {
    CHECK(cuMemsetD32(pointers[count], count, bytes / 4) == CUDA_SUCCESS, "fill");
    count++;
  }
  for (unsigned i = 0; i < count; i++) {
    uint32_t last = 0;
    CHECK(cuMemcpyDtoH(&last, pointers[i] + bytes / 4 * 4 - 4, 4) == CUDA_SUCCESS && last == i,
          "%u holds %u", i, last);
  }
  for (unsigned i = 0; i < count; i++) CHECK(cuMemFree(pointers[i]) == CUDA_SUCCESS, "free");
  return count;
}

static void run_out(size_t capacity) {
  unsigned first = exhaust(5 * MIB);
  CHECK(first == capacity / (6 * MIB), "%u of 5 MiB, 6 MiB each, in %zu", first, capacity);
  CHECK(exhaust(5 * MIB) == first, "the same again");
  CHECK(exhaust(700 * 1024) >= capacity / (1 * MIB) / 2, "small ones");
  CHECK(exhaust(5 * MIB) >= first - 1, "and again");
}

static void attributes(void) {
  CUdeviceptr pointer;
  CHECK(cuMemAlloc(&pointer, 5 * MIB + 3) == CUDA_SUCCESS, "alloc");
  for (int attribute = 1; attribute <= 21; attribute++) {
    uint64_t value[8] = {0};
    CUresult result = cuPointerGetAttribute(value, (CUpointer_attribute)attribute, pointer + 77);
    int none = attribute == CU_POINTER_ATTRIBUTE_HOST_POINTER ||
               attribute == CU_POINTER_ATTRIBUTE_P2P_TOKENS;
    int setter = attribute == CU_POINTER_ATTRIBUTE_SYNC_MEMOPS;
    CHECK(none || setter || result == CUDA_SUCCESS, "attribute %d: %d", attribute, result);
    CHECK(value[7] == 0, "attribute %d wrote too much", attribute);
  }
  /* Callers leave their answers uninitialised, and read a word of each flag. */
  const CUpointer_attribute flags[] = {CU_POINTER_ATTRIBUTE_IS_MANAGED, CU_POINTER_ATTRIBUTE_MAPPED,
                                       CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE};
  for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
    uint32_t word = UINT32_MAX, listed = UINT32_MAX;
    void *answer = &listed;
    CUpointer_attribute flag = flags[i];
    CHECK(cuPointerGetAttribute(&word, flag, pointer) == CUDA_SUCCESS && word <= 1, "flag %zu: %x", i, word);
    CHECK(cuPointerGetAttributes(1, &flag, &answer, pointer) == CUDA_SUCCESS && listed == word, "listed %zu", i);
  }
  uint64_t start = 0, size = 0, id = 0, other_id = 0;
  CHECK(cuPointerGetAttribute(&start, CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, pointer + 77) ==
                CUDA_SUCCESS &&
            start == pointer,
        "start");
  CHECK(cuPointerGetAttribute(&size, CU_POINTER_ATTRIBUTE_RANGE_SIZE, pointer) == CUDA_SUCCESS &&
            size == 5 * MIB + 3,
        "size %llu", (unsigned long long)size);
  CHECK(cuPointerGetAttribute(&id, CU_POINTER_ATTRIBUTE_BUFFER_ID, pointer) == CUDA_SUCCESS &&
            id != 0,
        "id");
  CHECK(cuMemFree(pointer) == CUDA_SUCCESS && cuMemAlloc(&pointer, 5 * MIB) == CUDA_SUCCESS,
        "again");
  CHECK(cuPointerGetAttribute(&other_id, CU_POINTER_ATTRIBUTE_BUFFER_ID, pointer) == CUDA_SUCCESS &&
            other_id != id,
        "ids are not reused");
  CHECK(cuMemFree(pointer) == CUDA_SUCCESS && cuMemFree(pointer) == CUDA_ERROR_INVALID_VALUE,
        "free twice");
}

static void pitches(void) {
  CUdeviceptr pointer;
  size_t pitch = 0;
  CHECK(cuMemAllocPitch(&pointer, &pitch, 1000, 300, 4) == CUDA_SUCCESS && pitch >= 1000 &&
            pitch % 256 == 0,
        "pitch");
  CHECK(cuMemsetD2D8(pointer, pitch, 3, 1000, 300) == CUDA_SUCCESS, "fill");
  CHECK(cuMemFree(pointer) == CUDA_SUCCESS, "free");
  CHECK(cuMemAllocPitch(&pointer, &pitch, 1000, 300, 3) == CUDA_ERROR_INVALID_VALUE,
        "element size");
}

int main(int count, char **arguments) {
  if (count != 2) return 2; /* edges CAPACITY_MIB */
  CHECK(cuInit(0) == CUDA_SUCCESS && cuDeviceGet(&device, 0) == CUDA_SUCCESS, "init");
  CHECK(cuDevicePrimaryCtxRetain(&primary, device) == CUDA_SUCCESS, "retain");
  CHECK(cuCtxSetCurrent(primary) == CUDA_SUCCESS, "current");
  attributes();
  pitches();
  run_out(strtoull(arguments[1], NULL, 10) * MIB);
  context_goes();
  forked_child();
  primary_reset();
  return CHECK_RESULT();
}
