// SPDX-License-Identifier: Apache-2.0
// What the link does with pinned memory: bytes per second to the GPU, from it, and both at once (the sum), the median
// of ten copies of 512 MiB each. `link start` only starts CUDA, runs one kernel on one allocation and ends.
#include <algorithm>
#include <cstring>
#include <vector>

#include "../../../test/gpu/programs/program.cuh"

static const size_t BYTES = 512 << 20;
static char *host[2], *device[2];
static cudaStream_t streams[2];
static cudaEvent_t begin_event, end_event, other_event;

static double rate(bool in, bool out) {
  std::vector<double> rates;
  for (int i = 0; i < 10; i++) {
    CHECK(cudaEventRecord(begin_event, streams[0]));
    CHECK(cudaStreamWaitEvent(streams[1], begin_event, 0));
    if (in) CHECK(cudaMemcpyAsync(device[0], host[0], BYTES, cudaMemcpyHostToDevice, streams[0]));
    if (out) CHECK(cudaMemcpyAsync(host[1], device[1], BYTES, cudaMemcpyDeviceToHost, streams[1]));
    CHECK(cudaEventRecord(other_event, streams[1]));
    CHECK(cudaStreamWaitEvent(streams[0], other_event, 0));
    CHECK(cudaEventRecord(end_event, streams[0]));
    CHECK(cudaEventSynchronize(end_event));
    float milliseconds = 0;
    CHECK(cudaEventElapsedTime(&milliseconds, begin_event, end_event));
    rates.push_back((in + out) * (double)BYTES / milliseconds * 1e3);
  }
  std::sort(rates.begin(), rates.end());
  return (rates[4] + rates[5]) / 2;
}

__global__ void touch(char *pointer) { *pointer = 1; }

int main(int argc, char **argv) {
  if (argc > 1 && strcmp(argv[1], "start") == 0) {
    CHECK(cudaMalloc(&device[0], 1 << 20));
    touch<<<1, 1>>>(device[0]);
    CHECK(cudaDeviceSynchronize());
    printf("1\n");
    return 0;
  }
  for (int i = 0; i < 2; i++) {
    CHECK(cudaMallocHost(&host[i], BYTES));
    CHECK(cudaMalloc(&device[i], BYTES));
    CHECK(cudaStreamCreate(&streams[i]));
    memset(host[i], 1, BYTES);
  }
  for (cudaEvent_t *event : {&begin_event, &end_event, &other_event}) CHECK(cudaEventCreate(event));
  rate(true, true);
  printf("{\"h2dBytesPerSecond\":%.0f,", rate(true, false));
  printf("\"d2hBytesPerSecond\":%.0f,", rate(false, true));
  printf("\"bothBytesPerSecond\":%.0f}\n", rate(true, true));
  return 0;
}
