// SPDX-License-Identifier: Apache-2.0
// What the driver says of a pointer, byte by byte: callers leave their answers uninitialised, so that as many
// bytes must be written as the driver writes. By the single form and by the list form.
#include <cstring>

#include "suite.cuh"

constexpr int FIRST = CU_POINTER_ATTRIBUTE_CONTEXT, LAST = CU_POINTER_ATTRIBUTE_IS_HW_DECOMPRESS_CAPABLE;

struct Answer {
  CUresult status;
  unsigned char bytes[16];
};

static Answer ask(CUpointer_attribute attribute, CUdeviceptr pointer, int before, bool list) {
  Answer answer{CUDA_SUCCESS, {}};
  memset(answer.bytes, before, sizeof answer.bytes);
  void *data = answer.bytes;
  answer.status = list ? cuPointerGetAttributes(1, &attribute, &data, pointer)
                       : cuPointerGetAttribute(data, attribute, pointer);
  return answer;
}

// The status, and a bit for each byte that was written.
static u64 shape(int attribute, CUdeviceptr pointer, bool list) {
  Answer zeros = ask(CUpointer_attribute(attribute), pointer, 0x00, list);
  Answer ones = ask(CUpointer_attribute(attribute), pointer, 0xff, list);
  u64 written = 0;
  for (int i = 0; i < 16; i++) written |= u64(zeros.bytes[i] == ones.bytes[i]) << i;
  return u64(zeros.status) << 32 | written;
}

static u64 value(int attribute, CUdeviceptr pointer) {
  u64 bits = 0;
  Answer answer = ask(CUpointer_attribute(attribute), pointer, 0, false);
  memcpy(&bits, answer.bytes, sizeof bits);
  return bits;
}

int main() {
  constexpr int COUNT = 12, ROUNDS = 32;
  Chunks chunks;
  chunks.make(COUNT, 32 * MIB, 29);
  for (int round = 0; round < ROUNDS; round++) chunks.round(round);
  results_of("chunks", chunks);
  CUdeviceptr pointer = CUdeviceptr(chunks.at[COUNT - 1]) + 4096;
  for (int attribute = FIRST; attribute <= LAST; attribute++) {
    if (attribute == CU_POINTER_ATTRIBUTE_P2P_TOKENS) continue;  // for a kernel module
    result("single" + std::to_string(attribute), shape(attribute, pointer, false));
    result("list" + std::to_string(attribute), shape(attribute, pointer, true));
  }
  for (int attribute : {CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CU_POINTER_ATTRIBUTE_SYNC_MEMOPS,
                        CU_POINTER_ATTRIBUTE_IS_MANAGED, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,
                        CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE, CU_POINTER_ATTRIBUTE_RANGE_SIZE,
                        CU_POINTER_ATTRIBUTE_MAPPED, CU_POINTER_ATTRIBUTE_ACCESS_FLAGS,
                        CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE})
    result("value" + std::to_string(attribute), value(attribute, pointer));
  u64 start = value(CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, pointer);
  result("offset", u64(pointer) - start);
  cudaPointerAttributes attributes;
  memset(&attributes, 0xff, sizeof attributes);
  RT(cudaPointerGetAttributes(&attributes, (void *)pointer));
  MUST(attributes.type == cudaMemoryTypeDevice && attributes.devicePointer == (void *)pointer);
  MUST(attributes.hostPointer == nullptr && attributes.device == 0);
  chunks.free();
  return finish();
}
