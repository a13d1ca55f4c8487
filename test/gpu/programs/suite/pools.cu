// SPDX-License-Identifier: Apache-2.0
// Stream-ordered memory beside memory of the arena: default and own pools, thresholds, trims.
#include "suite.cuh"

int main() {
  Chunks chunks;
  chunks.make(12, 32 * MIB, 5);
  cudaStream_t stream;
  cudaMemPool_t standard, own;
  RT(cudaStreamCreate(&stream));
  RT(cudaDeviceGetDefaultMemPool(&standard, 0));
  u64 threshold = 16 * MIB;
  RT(cudaMemPoolSetAttribute(standard, cudaMemPoolAttrReleaseThreshold, &threshold));
  cudaMemPoolProps properties{};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location = {cudaMemLocationTypeDevice, 0};
  RT(cudaMemPoolCreate(&own, &properties));
  u32 *last = nullptr;
  note_allocated(32 * MIB);  // At most so much of the pools is in use at once.
  for (int round = 0; round < 36; round++) {
    for (int i = 0; i < chunks.count(); i++) {
      u32 *scratch = nullptr;
      size_t words = 2 * MIB;
      if (round % 2 == 0)
        RT(cudaMallocAsync(&scratch, words * 4, stream));
      else
        RT(cudaMallocFromPoolAsync(&scratch, words * 4, own, stream));
      fill<<<BLOCKS, THREADS, 0, stream>>>(scratch, words, round);
      mix<<<BLOCKS, THREADS, 0, stream>>>(scratch, chunks.at[i], words, round);
      mix<<<BLOCKS, THREADS, 0, stream>>>(chunks.across(i), scratch, words, round);
      RT(cudaMemcpyAsync(chunks.across(i) + words, scratch, words * 4,
                         cudaMemcpyDeviceToDevice, stream));
      if (i == 5 && round % 6 == 0) {
        RT(cudaStreamSynchronize(stream));
        last = scratch;
        RT(cudaFree(last));  // Legal for memory of a pool.
      } else {
        RT(cudaFreeAsync(scratch, stream));
      }
    }
    chunks.round(round, stream);
    if (round % 9 == 0) {
      RT(cudaStreamSynchronize(stream));
      RT(cudaMemPoolTrimTo(standard, 0));
    }
  }
  RT(cudaStreamSynchronize(stream));
  results_of("chunks", chunks);
  u64 used = 1;
  RT(cudaMemPoolGetAttribute(own, cudaMemPoolAttrUsedMemCurrent, &used));
  MUST(used == 0);
  RT(cudaMemPoolDestroy(own));
  return finish();
}
