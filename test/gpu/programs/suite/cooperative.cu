// SPDX-License-Identifier: Apache-2.0
// Cooperative launches (grid synchronisation), clusters by cudaLaunchKernelEx, launch attributes.
#include <cooperative_groups.h>

#include "suite.cuh"

namespace cg = cooperative_groups;

// Two passes with a barrier of the whole grid between them: the second reads what others wrote.
static __global__ void two_passes(u32 *to, const u32 *from, size_t words, u32 seed) {
  cg::grid_group grid = cg::this_grid();
  for (size_t i = grid.thread_rank(); i < words; i += grid.size()) to[i] = scramble(from[i] + seed) + to[i];
  grid.sync();
  for (size_t i = grid.thread_rank(); i < words / 2; i += grid.size()) to[i] += to[words - 1 - i] * 3;
}
static __global__ void clustered(u32 *to, const u32 *from, size_t words, u32 seed) {
#if __CUDA_ARCH__ >= 900
  cg::cluster_group cluster = cg::this_cluster();
  __shared__ u32 part;
  if (threadIdx.x == 0) part = blockIdx.x + seed;
  cluster.sync();
  u32 sum = 0;
  for (unsigned rank = 0; rank < cluster.num_blocks(); rank++) sum += *cluster.map_shared_rank(&part, rank);
  cluster.sync();
#else
  u32 sum = seed;
#endif
  for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < words; i += size_t(gridDim.x) * blockDim.x)
    to[i] ^= scramble(from[i] + sum);
}

int main() {
  constexpr int COUNT = 12, ROUNDS = 32;
  Chunks chunks;
  chunks.make(COUNT, 32 * MIB, 13);
  int blocks = 0;
  cudaDeviceProp properties;
  RT(cudaGetDeviceProperties(&properties, 0));
  RT(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, two_passes, THREADS, 0));
  dim3 grid(blocks * properties.multiProcessorCount);
  cudaStream_t stream;
  RT(cudaStreamCreate(&stream));
  for (int round = 0; round < ROUNDS; round++)
    for (int i = 0; i < COUNT; i++) {
      u32 *to = chunks.across(i), seed = round * 100 + i;
      const u32 *from = chunks.at[i];
      size_t words = chunks.words;
      void *arguments[] = {&to, &from, &words, &seed};
      if (i % 2 == 0) {
        RT(cudaLaunchCooperativeKernel((void *)two_passes, grid, dim3(THREADS), arguments, 0, stream));
        continue;
      }
      cudaLaunchConfig_t config{};
      cudaLaunchAttribute attributes[2]{};
      attributes[0].id = cudaLaunchAttributeClusterDimension;
      attributes[0].val.clusterDim = {4, 1, 1};
      attributes[1].id = cudaLaunchAttributePriority;
      attributes[1].val.priority = 0;
      config.gridDim = dim3(512);
      config.blockDim = dim3(THREADS);
      config.stream = stream;
      config.attrs = attributes;
      config.numAttrs = 2;
      RT(cudaLaunchKernelEx(&config, clustered, to, from, words, seed));
    }
  RT(cudaStreamSynchronize(stream));
  results_of("chunks", chunks);
  return finish();
}
