// SPDX-License-Identifier: Apache-2.0
// kernels.cu: the kernels of kernels.c for a real GPU.
#include <stdint.h>

static __device__ void mix_words(uint32_t *to, const uint32_t *from, uint64_t words,
                                 uint32_t seed) {
  uint64_t step = (uint64_t)gridDim.x * blockDim.x;
  for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < words; i += step) {
    to[i] = to[i] * 3 + from[i] + seed;
  }
}

extern "C" __global__ void mix(uint32_t *to, const uint32_t *from, uint64_t words, uint32_t seed) {
  mix_words(to, from, words, seed);
}

extern "C" __global__ void fresh(uint32_t *to, const uint32_t *from, uint64_t words, uint32_t seed) {
  uint64_t step = (uint64_t)gridDim.x * blockDim.x;
  for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < words; i += step) to[i] = from[i] * 5 + seed;
}

extern "C" __global__ void mix_table(uint32_t **table, uint64_t words, uint32_t seed) {
  mix_words(table[0], table[1], words, seed);
}
