// SPDX-License-Identifier: Apache-2.0
// Memory of other kinds beside memory of the arena: managed, pinned, mapped (zero-copy) and registered
// host memory, pageable copies, printf and malloc on the device.
#include <cstring>

#include "suite.cuh"

static __device__ u32 *kept[64];
static __global__ void allocate(u32 seed) {
  u32 *block = (u32 *)malloc(4096);
  if (block == nullptr) return;
  for (int i = 0; i < 1024; i++) block[i] = scramble(seed + i + threadIdx.x);
  kept[threadIdx.x] = block;
}
static __global__ void use(u32 *to, size_t words) {
  for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < words; i += size_t(gridDim.x) * blockDim.x)
    to[i] += kept[i % 64][i / 64 % 1024];
}
static __global__ void release() { free(kept[threadIdx.x]); }
static __global__ void speak(const u32 *chunk) { printf("chunk begins with %08x\n", chunk[0]); }

int main() {
  constexpr int COUNT = 12, ROUNDS = 32;
  constexpr size_t PART = 4 * MIB;
  Chunks chunks;
  chunks.make(COUNT, 32 * MIB, 23);
  u32 *managed, *pinned, *mapped, *mapped_view;
  RT(cudaMallocManaged(&managed, PART));
  note_allocated(PART);
  RT(cudaHostAlloc(&pinned, PART, cudaHostAllocDefault));
  RT(cudaHostAlloc(&mapped, PART, cudaHostAllocMapped));
  RT(cudaHostGetDevicePointer(&mapped_view, mapped, 0));
  std::vector<u32> pageable(PART / 4), registered(PART / 4);
  RT(cudaHostRegister(registered.data(), PART, cudaHostRegisterDefault));
  for (size_t i = 0; i < PART / 4; i++) {
    managed[i] = scramble(u32(i));
    pinned[i] = scramble(u32(i) + 1);
    mapped[i] = scramble(u32(i) + 2);
    pageable[i] = scramble(u32(i) + 3);
    registered[i] = scramble(u32(i) + 4);
  }
  cudaStream_t stream;
  RT(cudaStreamCreate(&stream));
  for (int round = 0; round < ROUNDS; round++) {
    chunks.round(round, stream);
    mix<<<BLOCKS, THREADS, 0, stream>>>(managed, chunks.at[round % COUNT], PART / 4, round);
    mix<<<BLOCKS, THREADS, 0, stream>>>(chunks.at[(round + 1) % COUNT], managed, PART / 4, round);
    mix<<<BLOCKS, THREADS, 0, stream>>>(mapped_view, chunks.at[(round + 2) % COUNT], PART / 4, round);
    mix<<<BLOCKS, THREADS, 0, stream>>>(chunks.at[(round + 3) % COUNT], mapped_view, PART / 4, round);
    RT(cudaMemcpyAsync(pinned, chunks.at[(round + 4) % COUNT], PART, cudaMemcpyDeviceToHost, stream));
    RT(cudaMemcpyAsync(chunks.at[(round + 5) % COUNT] + PART / 4, pinned, PART, cudaMemcpyHostToDevice, stream));
    RT(cudaMemcpyAsync(registered.data(), chunks.at[(round + 6) % COUNT], PART, cudaMemcpyDefault, stream));
    RT(cudaMemcpyAsync(chunks.at[(round + 7) % COUNT], registered.data(), PART, cudaMemcpyDefault, stream));
    RT(cudaStreamSynchronize(stream));
    for (size_t i = 0; i < PART / 4; i += 512) pageable[i] += managed[i] ^ mapped[i];
    RT(cudaMemcpy(chunks.at[(round + 8) % COUNT], pageable.data(), PART, cudaMemcpyHostToDevice));
    if (round % 8 == 0) {
      allocate<<<1, 64, 0, stream>>>(round);
      use<<<BLOCKS, THREADS, 0, stream>>>(chunks.at[(round + 9) % COUNT], chunks.words);
      release<<<1, 64, 0, stream>>>();
    }
  }
  speak<<<1, 1, 0, stream>>>(chunks.at[2]);
  results_of("chunks", chunks);
  u64 sum = 0;
  for (size_t i = 0; i < PART / 4; i++)
    sum = sum * 31 + managed[i] + mapped[i] + pinned[i] + pageable[i] + registered[i];
  result("host", sum);
  cudaPointerAttributes attributes;
  RT(cudaPointerGetAttributes(&attributes, chunks.at[COUNT - 1]));
  MUST(attributes.type == cudaMemoryTypeDevice && attributes.devicePointer == chunks.at[COUNT - 1]);
  RT(cudaHostUnregister(registered.data()));
  RT(cudaFreeHost(pinned));
  RT(cudaFreeHost(mapped));
  RT(cudaFree(managed));
  chunks.free();
  return finish();
}
