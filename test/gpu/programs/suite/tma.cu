// SPDX-License-Identifier: Apache-2.0
// Tensor maps: cuTensorMapEncodeTiled on arena memory, loads and stores by cp.async.bulk.tensor, maps
// passed by value and in device memory, and plain bulk copies. Needs compute capability 9.0.
#include "suite.cuh"

constexpr int BOX = 64, ROW = 2048, HEIGHT = 4096;  // u32 matrix of 32 MiB

// A tile comes, is changed and goes back, by the tensor engine both ways.
static __device__ void tile(const CUtensorMap *from, const CUtensorMap *to, u32 seed) {
  __shared__ alignas(128) u32 box[BOX * BOX];
  __shared__ alignas(8) u64 barrier;
  u32 box_at = u32(__cvta_generic_to_shared(box)), barrier_at = u32(__cvta_generic_to_shared(&barrier));
  int x = blockIdx.x * BOX, y = blockIdx.y * BOX;
  if (threadIdx.x == 0) {
    asm volatile("mbarrier.init.shared.b64 [%0], 1;" ::"r"(barrier_at));
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(barrier_at), "r"(BOX * BOX * 4));
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%2, %3}], [%4];" ::"r"(box_at),
        "l"(from), "r"(x), "r"(y), "r"(barrier_at)
        : "memory");
  }
  __syncthreads();
  u32 ready = 0;
  while (!ready)
    asm volatile(
        "{ .reg .pred p; mbarrier.try_wait.parity.shared.b64 p, [%1], 0; selp.u32 %0, 1, 0, p; }"
        : "=r"(ready)
        : "r"(barrier_at)
        : "memory");
  for (int i = threadIdx.x; i < BOX * BOX; i += blockDim.x) box[i] = scramble(box[i] + seed);
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  if (threadIdx.x == 0) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(to),
                 "r"(x), "r"(y), "r"(box_at)
                 : "memory");
    asm volatile("cp.async.bulk.commit_group;");
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
  }
}
static __global__ void by_value(const __grid_constant__ CUtensorMap from, const __grid_constant__ CUtensorMap to,
                                u32 seed) {
  tile(&from, &to, seed);
}
static __global__ void in_memory(const CUtensorMap *maps, int from, int to, u32 seed) {
  // The maps were written by a copy: the tensor engine has to be told.
  if (threadIdx.x == 0) {
    asm volatile("fence.proxy.tensormap::generic.acquire.gpu [%0], 128;" ::"l"(maps + from) : "memory");
    asm volatile("fence.proxy.tensormap::generic.acquire.gpu [%0], 128;" ::"l"(maps + to) : "memory");
  }
  __syncthreads();
  tile(maps + from, maps + to, seed);
}

int main() {
  constexpr int COUNT = 12, ROUNDS = 32;
  static_assert(size_t(ROW) * HEIGHT * 4 == 32 * MIB);
  Chunks chunks;
  chunks.make(COUNT, 32 * MIB, 11);
  void *entry = nullptr;
  cudaDriverEntryPointQueryResult found;
  RT(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found));
  MUST(entry != nullptr && found == cudaDriverEntryPointSuccess);
  auto encode = (decltype(&cuTensorMapEncodeTiled))entry;
  std::vector<CUtensorMap> maps(COUNT);
  for (int i = 0; i < COUNT; i++) {
    cuuint64_t size[2] = {ROW, HEIGHT}, stride[1] = {ROW * 4};
    cuuint32_t box[2] = {BOX, BOX}, step[2] = {1, 1};
    CU(encode(&maps[i], CU_TENSOR_MAP_DATA_TYPE_UINT32, 2, chunks.at[i], size, stride, box, step,
              CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_L2_PROMOTION_NONE,
              CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE));
  }
  CUtensorMap *table;
  RT(cudaMalloc(&table, COUNT * sizeof *table));
  RT(cudaMemcpy(table, maps.data(), COUNT * sizeof *table, cudaMemcpyHostToDevice));
  dim3 grid(ROW / BOX, HEIGHT / BOX);
  for (int round = 0; round < ROUNDS; round++)
    for (int i = 0; i < COUNT; i++) {
      int next = (i + COUNT / 2) % COUNT;
      if (round % 2 == 0)
        by_value<<<grid, 128>>>(maps[i], maps[next], round + i);
      else
        in_memory<<<grid, 128>>>(table, i, next, round + i);
    }
  results_of("chunks", chunks);
  return finish();
}
