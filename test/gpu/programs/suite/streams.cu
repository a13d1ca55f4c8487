// SPDX-License-Identifier: Apache-2.0
// Several streams of every kind, ordered by events, priorities and the legacy stream's barrier.
#include "suite.cuh"

int main() {
  constexpr int STREAMS = 4, EACH = 4, COUNT = STREAMS * EACH, ROUNDS = 40;
  Chunks chunks;
  chunks.make(COUNT, 32 * MIB, 1);
  cudaStream_t streams[STREAMS];
  cudaEvent_t done[STREAMS], started;
  int least, greatest;
  RT(cudaDeviceGetStreamPriorityRange(&least, &greatest));
  RT(cudaStreamCreate(&streams[0]));
  RT(cudaStreamCreateWithFlags(&streams[1], cudaStreamNonBlocking));
  RT(cudaStreamCreateWithPriority(&streams[2], cudaStreamNonBlocking, greatest));
  RT(cudaStreamCreateWithPriority(&streams[3], cudaStreamDefault, least));
  for (auto &event : done) RT(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  RT(cudaEventCreate(&started));
  for (int round = 0; round < ROUNDS; round++) {
    RT(cudaEventRecord(started, streams[0]));
    for (int s = 0; s < STREAMS; s++) {
      if (s > 0) RT(cudaStreamWaitEvent(streams[s], started, 0));
      // Each stream has chunks of its own; the first stream then reads what all have left.
      for (int i = 0; i < EACH; i++)
        mix<<<BLOCKS, THREADS, 0, streams[s]>>>(chunks.at[s * EACH + i],
                                                chunks.at[s * EACH + (i + 2) % EACH], chunks.words,
                                                round);
      RT(cudaEventRecord(done[s], streams[s]));
    }
    for (int s = 1; s < STREAMS; s++) RT(cudaStreamWaitEvent(streams[0], done[s], 0));
    for (int s = 0; s < STREAMS; s++)
      mix<<<BLOCKS, THREADS, 0, streams[0]>>>(chunks.at[s * EACH],
                                              chunks.at[(s * EACH + EACH) % COUNT], chunks.words,
                                              round + s);
    if (round % 8 == 3)
      mix<<<BLOCKS, THREADS>>>(chunks.at[0], chunks.at[COUNT - 1], chunks.words, round);
    if (round % 8 == 5) {
      while (cudaStreamQuery(streams[0]) == cudaErrorNotReady) {
      }
      RT(cudaEventSynchronize(done[3]));
    }
  }
  float milliseconds = -1;
  RT(cudaStreamSynchronize(streams[0]));
  RT(cudaEventRecord(started, streams[0]));
  RT(cudaEventSynchronize(started));
  RT(cudaEventElapsedTime(&milliseconds, started, started));
  MUST(milliseconds == 0);
  results_of("chunks", chunks);
  for (auto stream : streams) RT(cudaStreamDestroy(stream));
  chunks.free();
  return finish();
}
