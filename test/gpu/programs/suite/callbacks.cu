// SPDX-License-Identifier: Apache-2.0
// Host functions and callbacks between kernels, and words that streams write and wait for: the order of
// everything is part of the result.
#include <atomic>
#include <thread>

#include "suite.cuh"

static std::atomic<u64> log_of_calls{0};
static volatile u32 *host_word;

static void CUDART_CB note(void *argument) {
  log_of_calls = log_of_calls * 1099511628211ull + u64(uintptr_t(argument));
}
static void CUDART_CB note_status(cudaStream_t, cudaError_t status, void *argument) {
  MUST(status == cudaSuccess);
  note(argument);
}
// Lets a stream go on that waits for a word of mapped host memory.
static void CUDART_CB let_go(void *argument) { *host_word = u32(uintptr_t(argument)); }

int main() {
  constexpr int COUNT = 12, ROUNDS = 36;
  Chunks chunks;
  chunks.make(COUNT, 32 * MIB, 17);
  cudaStream_t first, second;
  RT(cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking));
  RT(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking));
  RT(cudaHostAlloc((void **)&host_word, 64, cudaHostAllocMapped));
  *host_word = 0;
  void *device_view;
  RT(cudaHostGetDevicePointer(&device_view, (void *)host_word, 0));
  CUdeviceptr mapped = CUdeviceptr(device_view);
  u32 *signals;
  RT(cudaMalloc(&signals, 4 * MIB));
  note_allocated(4 * MIB);
  RT(cudaMemset(signals, 0, 4 * MIB));
  CUdeviceptr words = CUdeviceptr(signals);  // Words of arena memory are waited for too.
  for (int round = 1; round <= ROUNDS; round++) {
    for (int i = 0; i < COUNT / 2; i++) {
      mix<<<BLOCKS, THREADS, 0, first>>>(chunks.across(i), chunks.at[i], chunks.words, round);
      if (i == 2) RT(cudaLaunchHostFunc(first, note, (void *)uintptr_t(round * 10 + i)));
      if (i == 4) RT(cudaStreamAddCallback(first, note_status, (void *)uintptr_t(round * 10 + i), 0));
    }
    // The second stream goes on when the first has written its word, in memory of the arena.
    CU(cuStreamWriteValue32(first, words, round, 0));
    CU(cuStreamWaitValue32(second, words, round, CU_STREAM_WAIT_VALUE_GEQ));
    for (int i = COUNT / 2; i < COUNT; i++)
      mix<<<BLOCKS, THREADS, 0, second>>>(chunks.across(i), chunks.at[i], chunks.words, round);
    // And the first again when the second has, both words in one batch.
    CUstreamBatchMemOpParams operations[2]{};
    operations[0].writeValue.operation = CU_STREAM_MEM_OP_WRITE_VALUE_32;
    operations[0].writeValue.address = words + 64;
    operations[0].writeValue.value = round;
    operations[1].writeValue.operation = CU_STREAM_MEM_OP_WRITE_VALUE_32;
    operations[1].writeValue.address = words + 2 * MIB;
    operations[1].writeValue.value = round;
    CU(cuStreamBatchMemOp(second, 2, operations, 0));
    CU(cuStreamWaitValue32(first, words + 2 * MIB, round, CU_STREAM_WAIT_VALUE_EQ));
    // Every sixth round the first stream waits for a host function of the second.
    if (round % 6 == 0) {
      RT(cudaLaunchHostFunc(second, let_go, (void *)uintptr_t(round)));
      CU(cuStreamWaitValue32(first, mapped, round, CU_STREAM_WAIT_VALUE_GEQ));
    }
  }
  RT(cudaStreamSynchronize(second));
  RT(cudaStreamSynchronize(first));
  result("calls", log_of_calls);
  result("signals", digest_of(signals, MIB));
  results_of("chunks", chunks);
  return finish();
}
