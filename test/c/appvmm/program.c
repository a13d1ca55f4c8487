/* SPDX-License-Identifier: Apache-2.0 */
/*
 * program.c: what programs do with memory they map themselves, one case for each way, under the shim
 * with GREENBOOST_VRAM_BUDGET=96MiB and GREENBOOST_RAM_BUDGET=288MiB.
 */
#include <pthread.h>

#include "program.h"

/* ---- expandable segments ---- */

#define SEGMENTS_MAX 12u
#define SEGMENT (20 * MIB)

/* As PyTorch grows: a large reservation, handles at its end, tensors across them; in cycles, and now
 * and then the handles in the middle are given back and made anew. */
static void case_segments(void) {
  static struct tensor tensors[64];
  CUmemGenericAllocationHandle handles[SEGMENTS_MAX], small[8];
  CUdeviceptr base, small_base;
  const uint64_t reserved = 2048 * MIB, tensor_bytes = 14 * MIB;
  const uint32_t count = SEGMENTS_MAX * SEGMENT / tensor_bytes, smalls = 8;
  const size_t before = free_bytes();
  OK(cuMemAddressReserve(&base, reserved, 0, 0, 0));
  OK(cuMemAddressReserve(&small_base, reserved, 0, 0, 0));
  uint32_t made = 0;
  for (uint32_t round = 0; round < 40; round++) {
    for (; made < SEGMENTS_MAX && made < round / 2 + 4; made++)
      handles[made] = map_new(base + made * SEGMENT, SEGMENT,
                              CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
    if (round == 0)
      for (uint32_t i = 0; i < smalls; i++) {
        small[i] = map_new(small_base + i * GRANULE, GRANULE,
                           CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
        fill(&tensors[count + i], small_base + i * GRANULE, GRANULE, (unsigned char)i);
      }
    const uint32_t reach = (uint32_t)(made * SEGMENT / tensor_bytes);
    for (uint32_t i = 0; i < reach && i < count; i++) {
      struct tensor *tensor = &tensors[i];
      if (tensor->words == 0) fill(tensor, base + i * tensor_bytes, tensor_bytes, (unsigned char)i);
      mix(&tensors[count + i % smalls], tensor, round);
      if (i % 3 == round % 3) mix(tensor, &tensors[count + i % smalls], i);
    }
    if (round % 10 != 9) continue;
    /* Handles 1 and 2 go, and what lies in them. */
    OK(cuStreamSynchronize(CU_STREAM_PER_THREAD));
    for (uint32_t i = 0; i < count; i++) {
      if (tensors[i].words == 0 || tensors[i].at >= base + 3 * SEGMENT ||
          tensors[i].at + tensor_bytes <= base + SEGMENT)
        continue;
      verify(&tensors[i]);
      tensors[i].words = 0;
    }
    for (uint32_t i = 1; i <= 2; i++) {
      OK(cuMemUnmap(base + i * SEGMENT, SEGMENT));
      OK(cuMemRelease(handles[i]));
    }
    for (uint32_t i = 1; i <= 2; i++)
      handles[i] =
          map_new(base + i * SEGMENT, SEGMENT, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
  }
  for (uint32_t i = 0; i < count + smalls; i++)
    if (tensors[i].words != 0) verify(&tensors[i]);
  OK(cuMemUnmap(base, made * SEGMENT)); /* in one call */
  OK(cuMemUnmap(small_base, smalls * GRANULE));
  for (uint32_t i = 0; i < made; i++) OK(cuMemRelease(handles[i]));
  for (uint32_t i = 0; i < smalls; i++) OK(cuMemRelease(small[i]));
  OK(cuMemAddressFree(base, reserved));
  OK(cuMemAddressFree(small_base, reserved));
  CHECK(free_bytes() == before, "%zu of %zu bytes free", free_bytes(), before);
}

/* ---- one handle for everything, and exactly so much ---- */

static void case_preallocation(void) {
  static struct tensor tensors[20];
  const CUmemAllocationProp properties = memory(CU_MEM_HANDLE_TYPE_NONE);
  const uint64_t all = 384 * MIB, bytes = 300 * MIB, each = 14 * MIB + 4096;
  CUmemGenericAllocationHandle handle, more;
  CUdeviceptr base;
  const size_t before = free_bytes();
  IS(cuMemCreate(&handle, all + GRANULE, &properties, 0), CUDA_ERROR_OUT_OF_MEMORY);
  OK(cuMemCreate(&handle, all, &properties, 0)); /* every byte of both budgets */
  IS(cuMemCreate(&more, GRANULE, &properties, 0), CUDA_ERROR_OUT_OF_MEMORY);
  OK(cuMemRelease(handle));
  OK(cuMemCreate(&handle, bytes, &properties, 0));
  CHECK(before - free_bytes() == bytes, "%zu bytes fewer", before - free_bytes());
  OK(cuMemAddressReserve(&base, bytes, 0, 0, 0));
  OK(cuMemMap(base, bytes, 0, handle, 0));
  OK(cuMemRelease(handle)); /* it lives on while it is mapped */
  grant(base, bytes, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
  OK(cuMemsetD32(base, 0, bytes / 4));
  for (unsigned i = 0; i < 20; i++) fill(&tensors[i], base + i * each, each, (unsigned char)i);
  for (unsigned round = 0; round < 30; round++)
    for (unsigned i = 1; i < 20; i++) mix(&tensors[round % 2 == 0 ? 0 : i], &tensors[i - 1], round);
  for (unsigned i = 0; i < 20; i++) verify(&tensors[i]);
  OK(cuMemUnmap(base, bytes));
  OK(cuMemAddressFree(base, bytes));
  CHECK(free_bytes() == before, "%zu of %zu bytes free", free_bytes(), before);
}

/* ---- content and context ---- */

static void map_again(const struct tensor *tensor, CUmemGenericAllocationHandle handle) {
  const uint64_t bytes = tensor->words * 8;
  OK(cuMemUnmap(tensor->at, bytes));
  OK(cuMemMap(tensor->at, bytes, 0, handle, 0));
  grant(tensor->at, bytes, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
}

/* As vLLM sleeps: all are unmapped and mapped again elsewhere, and single ones at their address. What
 * was in a handle is in it still, also when it was moved and another took its place. The first ten are
 * weights: nobody writes to them after they were filled. */
static void case_sleep(void) {
  static struct tensor tensors[16];
  CUmemGenericAllocationHandle handles[16];
  CUdeviceptr base;
  const uint64_t bytes = 12 * MIB;
  OK(cuMemAddressReserve(&base, 32 * bytes, 0, 0, 0));
  for (unsigned i = 0; i < 16; i++) {
    handles[i] = map_new(base + i * bytes, bytes, CU_MEM_HANDLE_TYPE_NONE);
    fill(&tensors[i], base + i * bytes, bytes, (unsigned char)(i * 3));
  }
  for (unsigned round = 0; round < 24; round++) {
    for (unsigned i = 0; i < 16; i++) mix(&tensors[10 + (i + round) % 6], &tensors[i], round);
    OK(cuStreamSynchronize(CU_STREAM_PER_THREAD));
    map_again(&tensors[round % 10], handles[round % 10]);
    if (round % 6 != 5) continue;
    OK(cuMemUnmap(base + (round % 12 == 5 ? 0 : 16) * bytes, 16 * bytes));
    for (unsigned i = 0; i < 16; i++) { /* backwards, in the other half */
      tensors[i].at = base + (round % 12 == 5 ? 31 - i : i) * bytes;
      OK(cuMemMap(tensors[i].at, bytes, 0, handles[i], 0));
    }
    grant(base + (round % 12 == 5 ? 16 : 0) * bytes, 16 * bytes,
          CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
  }
  for (unsigned i = 0; i < 16; i++) verify(&tensors[i]);
}

/* The memory belongs to no context: it outlives the one it was made in, and moves on. */
static void case_contexts(void) {
  static struct tensor tensors[10];
  CUcontext second = NULL;
  CUdeviceptr base;
  const uint64_t bytes = 16 * MIB;
  OK(cuMemAddressReserve(&base, 10 * bytes, 0, 0, 0));
  OK(cuCtxCreate_v2(&second, 0, device));
  for (unsigned i = 0; i < 10; i++) {
    map_new(base + i * bytes, bytes, CU_MEM_HANDLE_TYPE_NONE);
    fill(&tensors[i], base + i * bytes, bytes, (unsigned char)i);
  }
  OK(cuCtxSynchronize());
  OK(cuCtxDestroy(second));
  OK(cuCtxSetCurrent(soak_context));
  for (unsigned round = 0; round < 40; round++)
    for (unsigned i = 0; i < 10; i++) mix(&tensors[(i + 1) % 10], &tensors[i], round);
  for (unsigned i = 0; i < 10; i++) verify(&tensors[i]);
  OK(cuDevicePrimaryCtxReset(device));
  OK(cuMemUnmap(base, 10 * bytes));
}

/* ---- access ---- */

/* What may only be read is not moved, and not written. */
static void case_readonly(void) {
  static struct tensor tensors[12];
  const uint64_t bytes = 12 * MIB;
  CUdeviceptr base;
  OK(cuMemAddressReserve(&base, 12 * bytes, 0, 0, 0));
  for (unsigned i = 0; i < 12; i++) {
    map_new(base + i * bytes, bytes, CU_MEM_HANDLE_TYPE_NONE);
    fill(&tensors[i], base + i * bytes, bytes, (unsigned char)i);
  }
  OK(cuStreamSynchronize(CU_STREAM_PER_THREAD));
  grant(base + 10 * bytes, 2 * bytes, CU_MEM_ACCESS_FLAGS_PROT_READ);
  for (unsigned round = 0; round < 30; round++)
    for (unsigned i = 0; i < 12; i++) mix(&tensors[(i * 7 + round) % 10], &tensors[i], round);
  for (unsigned i = 0; i < 12; i++) verify(&tensors[i]);
  OK(soak_launch_mix(base + 11 * bytes, base, PART, 1, CU_STREAM_PER_THREAD));
  IS(cuStreamSynchronize(CU_STREAM_PER_THREAD), CUDA_ERROR_ILLEGAL_ADDRESS);
}

/* ---- threads ---- */

static void *thread_work(void *argument) {
  static _Thread_local struct tensor tensors[6];
  const unsigned number = (unsigned)(uintptr_t)argument;
  const uint64_t bytes = (4 + 2 * number) * MIB;
  CUmemGenericAllocationHandle handles[6];
  CUdeviceptr base;
  OK(cuCtxSetCurrent(soak_context));
  for (unsigned life = 0; life < 4; life++) {
    OK(cuMemAddressReserve(&base, 6 * bytes, 0, 0, 0));
    for (unsigned i = 0; i < 6; i++) {
      handles[i] = map_new(base + i * bytes, bytes, CU_MEM_HANDLE_TYPE_NONE);
      fill(&tensors[i], base + i * bytes, bytes, (unsigned char)(i + number));
    }
    for (unsigned round = 0; round < 12; round++)
      for (unsigned i = 0; i < 6; i++) mix(&tensors[(i + 1) % 6], &tensors[i], round);
    for (unsigned i = 0; i < 6; i++) verify(&tensors[i]);
    for (unsigned i = 0; i < 6; i++) {
      OK(cuMemUnmap(base + i * bytes, bytes));
      OK(cuMemRelease(handles[i]));
    }
    OK(cuMemAddressFree(base, 6 * bytes));
  }
  return NULL;
}

static void case_threads(void) {
  pthread_t threads[4];
  const size_t before = free_bytes();
  for (unsigned i = 0; i < 4; i++)
    pthread_create(&threads[i], NULL, thread_work, (void *)(uintptr_t)i);
  for (unsigned i = 0; i < 4; i++) pthread_join(threads[i], NULL);
  CHECK(free_bytes() == before, "%zu of %zu bytes free", free_bytes(), before);
}

/* ---- two devices (GBSIM_DEVICES=2) ---- */

/* Handles of both, in turn, in one reservation; each device works on its own. */
static void case_devices(void) {
  enum { COUNT = 16 };
  static struct tensor tensors[COUNT];
  const uint64_t bytes = 14 * MIB;
  CUcontext contexts[2];
  CUdeviceptr base;
  OK(cuMemAddressReserve(&base, COUNT * bytes, 0, 0, 0));
  for (int i = 0; i < 2; i++) OK(cuCtxCreate_v2(&contexts[i], 0, i));
  for (unsigned i = 0; i < COUNT; i++) { /* the second's context is current for all */
    device = (CUdevice)(i % 2);
    OK(cuMemRelease(map_new(base + i * bytes, bytes, CU_MEM_HANDLE_TYPE_NONE)));
  }
  for (unsigned i = 0; i < COUNT; i++) {
    OK(cuCtxSetCurrent(contexts[i % 2]));
    int ordinal = -1;
    OK(cuPointerGetAttribute(&ordinal, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, base + i * bytes));
    CHECK(ordinal == (int)i % 2, "memory of device %d", ordinal);
    fill(&tensors[i], base + i * bytes, bytes, (unsigned char)i);
  }
  for (unsigned round = 0; round < 30; round++)
    for (unsigned i = 0; i < COUNT; i++) {
      OK(cuCtxSetCurrent(contexts[i % 2]));
      mix(&tensors[(i + 2) % COUNT], &tensors[i], round);
    }
  for (unsigned i = 0; i < COUNT; i++) {
    OK(cuCtxSetCurrent(contexts[i % 2]));
    verify(&tensors[i]);
  }
  OK(cuMemUnmap(base, COUNT * bytes));
  OK(cuMemAddressFree(base, COUNT * bytes));
}

/* ---- beside ranges that lie beyond VRAM and RAM (GREENBOOST_OVERCOMMIT=gated) ---- */

static void case_gated(void) {
  enum { OWN = 8, RANGES = 20 };
  static struct tensor own[OWN], ranges[RANGES];
  const uint64_t bytes = 16 * MIB;
  CUdeviceptr base, at;
  OK(cuMemAddressReserve(&base, OWN * bytes, 0, 0, 0));
  for (unsigned i = 0; i < OWN; i++) {
    map_new(base + i * bytes, bytes, CU_MEM_HANDLE_TYPE_NONE);
    fill(&own[i], base + i * bytes, bytes, (unsigned char)i);
  }
  for (unsigned i = 0; i < RANGES; i++) { /* 128 MiB and 320: more than both budgets hold */
    OK(cuMemAlloc(&at, bytes));
    fill(&ranges[i], at, bytes, (unsigned char)(i * 5));
  }
  for (unsigned round = 0; round < 4; round++)
    for (unsigned i = 0; i < RANGES; i++) {
      mix(&own[i % OWN], &ranges[i], round);
      mix(&ranges[(i * 3) % RANGES], &own[(i + 1) % OWN], round);
    }
  for (unsigned i = 0; i < OWN; i++) verify(&own[i]);
  for (unsigned i = 0; i < RANGES; i++) verify(&ranges[i]);
  OK(cuStreamSynchronize(CU_STREAM_PER_THREAD));
  OK(cuMemUnmap(base, OWN * bytes));
  for (unsigned i = 0; i < RANGES; i++) OK(cuMemFree(ranges[i].at));
}

static const struct named_case cases[] = {
    {"segments", case_segments}, {"preallocation", case_preallocation},
    {"sleep", case_sleep},       {"contexts", case_contexts},
    {"readonly", case_readonly}, {"threads", case_threads},
    {"devices", case_devices},   {"gated", case_gated},
};

int main(int count, char **arguments) {
  return run_case(cases, sizeof cases / sizeof cases[0], count, arguments);
}
