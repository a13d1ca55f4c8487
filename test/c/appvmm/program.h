/* SPDX-License-Identifier: Apache-2.0 */
/*
 * program.h: what the programs share that map memory themselves: handles that are mapped and granted,
 * tensors whose ends the host knows, cases by name.
 *
 * usage: PROGRAM MODULE CASE; without arguments: the names of the cases.
 */
#ifndef GB_TEST_APPVMM_PROGRAM_H
#define GB_TEST_APPVMM_PROGRAM_H

#include "../soak/soak.h"

#define GRANULE (2 * MIB)
#define PART 2048u /* words of a tensor that a kernel works on, at each of its ends */

static CUdevice device;
static const char *module_path;

#define IS(call, expected) is((call), expected, #call, __LINE__)
static inline void is(CUresult result, CUresult expected, const char *call, int line) {
  CHECK(result == expected, "line %d: %s: %d, not %d", line, call, result, expected);
}

static inline CUmemAllocationProp memory(CUmemAllocationHandleType types) {
  return (CUmemAllocationProp){.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                               .requestedHandleTypes = types,
                               .location = {CU_MEM_LOCATION_TYPE_DEVICE, device}};
}

static inline void grant(CUdeviceptr at, uint64_t bytes, CUmemAccess_flags flags) {
  const CUmemAccessDesc access = {{CU_MEM_LOCATION_TYPE_DEVICE, device}, flags};
  OK(cuMemSetAccess(at, bytes, &access, 1));
}

static inline CUmemGenericAllocationHandle map_new(CUdeviceptr at, uint64_t bytes,
                                            CUmemAllocationHandleType types) {
  const CUmemAllocationProp properties = memory(types);
  CUmemGenericAllocationHandle handle = 0;
  OK(cuMemCreate(&handle, bytes, &properties, 0));
  OK(cuMemMap(at, bytes, 0, handle, 0));
  grant(at, bytes, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
  return handle;
}

/* A tensor, with what its first and last words are. */
struct tensor {
  CUdeviceptr at;
  uint64_t words;
  uint64_t host[2][PART];
};

static inline void fill(struct tensor *tensor, CUdeviceptr at, uint64_t bytes, unsigned char value) {
  tensor->at = at;
  tensor->words = bytes / 8;
  OK(cuMemsetD8Async(at, value, bytes, CU_STREAM_PER_THREAD));
  memset(tensor->host, value, sizeof tensor->host);
}

static inline CUdeviceptr part(const struct tensor *tensor, int end) {
  return end == 0 ? tensor->at : tensor->at + (tensor->words - PART) * 8;
}

/* One changes by the other, at both ends: named by where it begins and by a place inside. */
static inline void mix(struct tensor *to, const struct tensor *from, uint64_t seed) {
  for (int end = 0; end < 2; end++) {
    OK(soak_launch_mix(part(to, end), part(from, end), PART, seed, CU_STREAM_PER_THREAD));
    soak_mix_host(to->host[end], from->host[end], PART, seed);
  }
}

static inline void verify(const struct tensor *tensor) {
  uint64_t got[PART];
  for (int end = 0; end < 2; end++) {
    OK(cuMemcpyDtoHAsync(got, part(tensor, end), sizeof got, CU_STREAM_PER_THREAD));
    OK(cuStreamSynchronize(CU_STREAM_PER_THREAD));
    CHECK(memcmp(got, tensor->host[end], sizeof got) == 0, "end %d of 0x%llx differs", end,
          tensor->at);
  }
}

static inline size_t free_bytes(void) {
  size_t bytes = 0;
  OK(cuMemGetInfo(&bytes, NULL));
  return bytes;
}

/* ---- cases ---- */

struct named_case {
  const char *name;
  void (*run)(void);
};

static inline int run_case(const struct named_case *cases, size_t case_count, int count,
                           char **arguments) {
  for (size_t i = 0; count == 1 && i < case_count; i++) printf("%s\n", cases[i].name);
  for (size_t i = 0; count == 3 && i < case_count; i++) {
    if (strcmp(arguments[2], cases[i].name) != 0) continue;
    module_path = arguments[1];
    soak_open(module_path, 200);
    OK(cuCtxGetDevice(&device));
    cases[i].run();
    return CHECK_RESULT();
  }
  return count == 1 ? 0 : 2;
}

#endif
