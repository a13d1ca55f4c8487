// SPDX-License-Identifier: Apache-2.0
// Textures on linear and pitched memory, surfaces and textures on arrays.
#include "suite.cuh"

static __global__ void from_linear(u32 *to, cudaTextureObject_t texture, size_t words, u32 seed) {
  for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < words; i += size_t(gridDim.x) * blockDim.x)
    to[i] = to[i] * 3 + scramble(tex1Dfetch<u32>(texture, int(i)) + seed);
}
static __global__ void from_plane(u32 *to, cudaTextureObject_t texture, int width, int height, u32 seed) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < width * height; i += gridDim.x * blockDim.x)
    to[i] ^= scramble(tex2D<u32>(texture, i % width + 0.5f, i / width + 0.5f) + seed);
}
static __global__ void through_surface(cudaSurfaceObject_t surface, const u32 *from, int size, u32 seed) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < size * size; i += gridDim.x * blockDim.x) {
    u32 before = surf2Dread<u32>(surface, i % size * 4, i / size);
    surf2Dwrite<u32>(before * 5 + from[i] + seed, surface, i % size * 4, i / size);
  }
}

int main() {
  constexpr int COUNT = 12, ROUNDS = 32, SIDE = 2048, SMALL = 1024;
  Chunks chunks;
  chunks.make(COUNT, 32 * MIB, 19);
  cudaChannelFormatDesc format = cudaCreateChannelDesc<u32>();
  cudaTextureDesc reading{};
  reading.readMode = cudaReadModeElementType;
  reading.filterMode = cudaFilterModePoint;
  std::vector<cudaTextureObject_t> linear(COUNT), planes(COUNT);
  for (int i = 0; i < COUNT; i++) {
    cudaResourceDesc resource{};
    resource.resType = cudaResourceTypeLinear;
    resource.res.linear = {chunks.at[i], format, chunks.bytes()};
    RT(cudaCreateTextureObject(&linear[i], &resource, &reading, nullptr));
    resource = {};
    resource.resType = cudaResourceTypePitch2D;
    resource.res.pitch2D = {chunks.at[i], format, SIDE, SIDE, SIDE * 4};
    RT(cudaCreateTextureObject(&planes[i], &resource, &reading, nullptr));
  }
  cudaArray_t array;
  RT(cudaMallocArray(&array, &format, SMALL, SMALL, cudaArraySurfaceLoadStore));
  std::vector<u32> zero(SMALL * SMALL);
  RT(cudaMemcpy2DToArray(array, 0, 0, zero.data(), SMALL * 4, SMALL * 4, SMALL, cudaMemcpyHostToDevice));
  cudaResourceDesc backing{};
  backing.resType = cudaResourceTypeArray;
  backing.res.array.array = array;
  cudaSurfaceObject_t surface;
  RT(cudaCreateSurfaceObject(&surface, &backing));
  for (int round = 0; round < ROUNDS; round++)
    for (int i = 0; i < COUNT; i++) {
      u32 *to = chunks.across(i);
      from_linear<<<BLOCKS, THREADS>>>(to, linear[i], chunks.words, round);
      from_plane<<<BLOCKS, THREADS>>>(to, planes[(i + 3) % COUNT], SIDE, SIDE, round);
      if (i % 4 == 0) through_surface<<<BLOCKS, THREADS>>>(surface, to, SMALL, round);
    }
  results_of("chunks", chunks);
  RT(cudaMemcpy2DFromArray(zero.data(), SMALL * 4, array, 0, 0, SMALL * 4, SMALL, cudaMemcpyDeviceToHost));
  u64 sum = 0;
  for (u32 value : zero) sum = sum * 1099511628211ull + value;
  result("array", sum);
  for (auto texture : linear) RT(cudaDestroyTextureObject(texture));
  for (auto texture : planes) RT(cudaDestroyTextureObject(texture));
  RT(cudaDestroySurfaceObject(surface));
  return finish();
}
