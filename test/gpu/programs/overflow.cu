// SPDX-License-Identifier: Apache-2.0
// A CUDA C program with kernels of its own, built by nvcc against the runtime library: many buffers whose total is far
// beyond the VRAM budget, pointer offsets into the middle of buffers, and a struct argument that holds pointers.
// Every word is checked on the host against the same arithmetic. Exit status 0: bit-exact.
#include <vector>

#include "program.cuh"

struct Pair {
  uint64_t *left;
  const uint64_t *right;
  uint64_t words;
  uint64_t salt;
};

// left[i] = mix(left[i] + right[i] + salt)
__global__ void combine(Pair pair) {
  for (uint64_t i = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x; i < pair.words;
       i += (uint64_t)gridDim.x * blockDim.x)
    pair.left[i] = mix(pair.left[i] + pair.right[i] + pair.salt);
}

static void check(const std::vector<std::vector<uint64_t>> &want, const std::vector<uint64_t *> &device, uint64_t words) {
  std::vector<uint64_t> got(words);
  uint64_t wrong = 0;
  for (size_t b = 0; b < device.size(); b++) {
    CHECK(cudaMemcpy(got.data(), device[b], words * 8, cudaMemcpyDeviceToHost));
    for (uint64_t i = 0; i < words; i++) wrong += got[i] != want[b][i];
  }
  printf("{\"buffers\":%zu,\"bytes\":%llu,\"wrongWords\":%llu}\n", device.size(),
         (unsigned long long)(device.size() * words * 8), (unsigned long long)wrong);
  if (wrong) exit(1);
}

int main(int argc, char **argv) {
  const uint64_t total = argc > 1 ? strtoull(argv[1], nullptr, 10) : 1ull << 30;
  const uint64_t bytes = argc > 2 ? strtoull(argv[2], nullptr, 10) : 64ull << 20;
  const int rounds = argc > 3 ? atoi(argv[3]) : 2;
  const uint64_t count = total / bytes, words = bytes / 8, offset = words / 3;
  std::vector<uint64_t *> device(count);
  std::vector<std::vector<uint64_t>> want(count, std::vector<uint64_t>(words));
  for (uint64_t b = 0; b < count; b++) {
    CHECK(cudaMalloc(&device[b], bytes));
    fill<<<264, 256>>>(device[b], words, b * words);
    for (uint64_t i = 0; i < words; i++) want[b][i] = mix(b * words + i);
  }
  for (int round = 0; round < rounds; round++) {
    for (uint64_t b = 0; b < count; b++) {
      // The left operand starts inside its buffer, the right one at a base: both only reachable through the struct.
      const uint64_t other = (b * 7 + round + 1) % count;
      Pair pair = {device[b] + offset, device[other], words - offset, (uint64_t)round};
      if (other == b) continue;
      combine<<<264, 256>>>(pair);
      for (uint64_t i = 0; i < words - offset; i++)
        want[b][offset + i] = mix(want[b][offset + i] + want[other][i] + (uint64_t)round);
    }
  }
  CHECK(cudaDeviceSynchronize());
  check(want, device, words);
  for (auto pointer : device) CHECK(cudaFree(pointer));
  return 0;
}
