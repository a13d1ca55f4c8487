// SPDX-License-Identifier: Apache-2.0
// A random-access program: each launch gathers random rows of 4 KiB from one of several tables, chosen at random, and
// adds them up. Nothing of its order repeats.
//
//   gather TABLES BYTES_PER_TABLE LAUNCHES      prints one JSON line: seconds per launch and the checksum
#include <chrono>
#include <vector>

#include "../../../test/gpu/programs/program.cuh"

static const int ROWS_PER_LAUNCH = 16384, ROW_WORDS = 512;

// One block of 256 threads per row; each block has a sum of its own.
__global__ void gather(const uint64_t *table, uint64_t rows, uint64_t seed, uint64_t *sums) {
  __shared__ uint64_t shared[256];
  const uint64_t *row = table + mix(seed + blockIdx.x) % rows * ROW_WORDS;
  shared[threadIdx.x] = row[threadIdx.x] + row[threadIdx.x + 256];
  for (int half = 128; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
  }
  if (threadIdx.x == 0) sums[blockIdx.x] += shared[0];
}

int main(int argc, char **argv) {
  if (argc < 4) return fprintf(stderr, "usage: gather TABLES BYTES_PER_TABLE LAUNCHES\n"), 2;
  const int count = atoi(argv[1]), launches = atoi(argv[3]);
  const uint64_t bytes = strtoull(argv[2], nullptr, 10), words = bytes / 8, rows = words / ROW_WORDS;
  std::vector<uint64_t *> tables(count);
  for (int t = 0; t < count; t++) {
    CHECK(cudaMalloc(&tables[t], bytes));
    fill<<<528, 256>>>(tables[t], words, t * words);
  }
  uint64_t *sums, total = 0;
  CHECK(cudaMalloc(&sums, ROWS_PER_LAUNCH * sizeof *sums));
  CHECK(cudaMemset(sums, 0, ROWS_PER_LAUNCH * sizeof *sums));
  CHECK(cudaDeviceSynchronize());
  const int warm = launches / 4;
  auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < launches + warm; i++) {
    if (i == warm) start = std::chrono::steady_clock::now();
    gather<<<ROWS_PER_LAUNCH, 256>>>(tables[mix(i) % count], rows, (uint64_t)i << 20, sums);
    if (i % 16 == 15) CHECK(cudaDeviceSynchronize());
  }
  CHECK(cudaDeviceSynchronize());
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::vector<uint64_t> each(ROWS_PER_LAUNCH);
  CHECK(cudaMemcpy(each.data(), sums, each.size() * sizeof *sums, cudaMemcpyDeviceToHost));
  for (uint64_t sum : each) total = mix(total + sum);
  printf("{\"results\":{\"sum\":\"%016llx\"},\"secondsPerLaunch\":%.9f}\n", (unsigned long long)total,
         seconds / launches);
  return 0;
}
