// SPDX-License-Identifier: Apache-2.0
// Several threads, each with its own default stream (built with --default-stream per-thread), one of
// them allocating and freeing all the time.
#include <atomic>
#include <thread>

#include "suite.cuh"

int main() {
  constexpr int WORKERS = 4, PER_WORKER = 6, ROUNDS = 90;
  std::vector<Chunks> parts(WORKERS);
  for (int w = 0; w < WORKERS; w++) parts[w].make(PER_WORKER, 16 * MIB, 29 + w);
  RT(cudaDeviceSynchronize());
  std::atomic<u64> churned{0};
  note_allocated(16 * MIB);
  std::thread churn([&] {
    RT(cudaSetDevice(0));
    u64 sum = 0;
    for (int i = 0; i < 60; i++) {
      u32 *memory;
      size_t words = (size_t(i % 4) + 1) * MIB;
      RT(cudaMalloc(&memory, words * 4));
      fill<<<BLOCKS, THREADS>>>(memory, words, i);
      u32 first[4];
      RT(cudaMemcpy(first, memory + words - 4, sizeof first, cudaMemcpyDeviceToHost));
      for (u32 value : first) sum = sum * 31 + value;
      RT(cudaFree(memory));
    }
    churned = sum;
  });
  std::vector<std::thread> workers;
  for (int w = 0; w < WORKERS; w++)
    workers.emplace_back([&, w] {
      RT(cudaSetDevice(0));
      for (int round = 0; round < ROUNDS; round++) {
        parts[w].round(u32(round * 7 + w), cudaStreamPerThread);
        if (round % 5 == w) RT(cudaStreamSynchronize(cudaStreamPerThread));
        if (round % 7 == 0) RT(cudaMemsetAsync(parts[w].at[1], round, MIB));
      }
      RT(cudaStreamSynchronize(cudaStreamPerThread));
    });
  for (auto &worker : workers) worker.join();
  churn.join();
  result("churn", churned);
  for (int w = 0; w < WORKERS; w++) results_of(("part" + std::to_string(w)).c_str(), parts[w]);
  return finish();
}
