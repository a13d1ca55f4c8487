// SPDX-License-Identifier: Apache-2.0
// Captured and built graphs: replays, updates of nodes and of whole graphs, memory nodes, a conditional
// node, child graphs, a capture on another thread while this one launches.
#include <thread>

#include "suite.cuh"

static __global__ void count_down(cudaGraphConditionalHandle handle, u32 *left) {
  u32 now = --*left;
  cudaGraphSetConditional(handle, now != 0);
}

static cudaGraphExec_t captured(Chunks &chunks, cudaStream_t stream, u32 seed, cudaGraph_t *kept) {
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  RT(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  chunks.round(seed, stream);
  RT(cudaMemsetAsync(chunks.at[3], 0x5a, 4 * MIB, stream));
  RT(cudaMemcpyAsync(chunks.at[5], chunks.at[3], 8 * MIB, cudaMemcpyDeviceToDevice, stream));
  RT(cudaStreamEndCapture(stream, &graph));
  RT(cudaGraphInstantiate(&exec, graph, 0));
  *kept = graph;
  return exec;
}

int main() {
  Chunks chunks;
  chunks.make(12, 32 * MIB, 2);
  cudaStream_t stream;
  RT(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  cudaGraph_t graph, other;
  cudaGraphExec_t exec = captured(chunks, stream, 3, &graph);
  for (int i = 0; i < 30; i++) RT(cudaGraphLaunch(exec, stream));
  RT(cudaStreamSynchronize(stream));
  results_of("replayed", chunks);

  // The whole graph exchanged.
  cudaGraphExec_t second = captured(chunks, stream, 4, &other);
  cudaGraphExecUpdateResultInfo info;
  RT(cudaGraphExecUpdate(exec, other, &info));
  for (int i = 0; i < 10; i++) RT(cudaGraphLaunch(exec, stream));
  RT(cudaStreamSynchronize(stream));
  results_of("updated", chunks);

  // One node exchanged.
  size_t count = 0;
  RT(cudaGraphGetNodes(other, nullptr, &count));
  std::vector<cudaGraphNode_t> nodes(count);
  RT(cudaGraphGetNodes(other, nodes.data(), &count));
  for (auto node : nodes) {
    cudaGraphNodeType type;
    RT(cudaGraphNodeGetType(node, &type));
    if (type != cudaGraphNodeTypeKernel) continue;
    cudaKernelNodeParams params{};
    RT(cudaGraphKernelNodeGetParams(node, &params));
    u32 *to = chunks.at[7], seed = 99;
    const u32 *from = chunks.at[2];
    size_t words = chunks.words;
    void *arguments[] = {&to, &from, &words, &seed};
    params.kernelParams = arguments;
    params.extra = nullptr;
    RT(cudaGraphExecKernelNodeSetParams(second, node, &params));
    break;
  }
  for (int i = 0; i < 10; i++) RT(cudaGraphLaunch(second, stream));
  RT(cudaStreamSynchronize(stream));
  results_of("node", chunks);

  // A child graph and memory of the graph's own.
  cudaGraph_t parent;
  cudaGraphNode_t child, allocation, copy, release;
  RT(cudaGraphCreate(&parent, 0));
  RT(cudaGraphAddChildGraphNode(&child, parent, nullptr, 0, graph));
  cudaMemAllocNodeParams wanted{};
  wanted.poolProps.allocType = cudaMemAllocationTypePinned;
  wanted.poolProps.location.type = cudaMemLocationTypeDevice;
  wanted.bytesize = 16 * MIB;
  RT(cudaGraphAddMemAllocNode(&allocation, parent, &child, 1, &wanted));
  RT(cudaGraphAddMemcpyNode1D(&copy, parent, &allocation, 1, wanted.dptr, chunks.at[1], 16 * MIB,
                              cudaMemcpyDeviceToDevice));
  cudaGraphNode_t back;
  RT(cudaGraphAddMemcpyNode1D(&back, parent, &copy, 1, chunks.at[9], wanted.dptr, 16 * MIB,
                              cudaMemcpyDeviceToDevice));
  RT(cudaGraphAddMemFreeNode(&release, parent, &back, 1, wanted.dptr));
  cudaGraphExec_t whole;
  RT(cudaGraphInstantiate(&whole, parent, 0));
  for (int i = 0; i < 10; i++) RT(cudaGraphLaunch(whole, stream));
  RT(cudaStreamSynchronize(stream));
  results_of("memory", chunks);

  // A loop on the device.
  cudaGraph_t looping;
  u32 *left;
  RT(cudaMalloc(&left, 4));
  RT(cudaGraphCreate(&looping, 0));
  cudaGraphConditionalHandle handle;
  RT(cudaGraphConditionalHandleCreate(&handle, looping, 1, cudaGraphCondAssignDefault));
  cudaGraphNodeParams conditional{};
  conditional.type = cudaGraphNodeTypeConditional;
  conditional.conditional.handle = handle;
  conditional.conditional.type = cudaGraphCondTypeWhile;
  conditional.conditional.size = 1;
  cudaGraphNode_t loop;
#if CUDART_VERSION >= 13000
  RT(cudaGraphAddNode(&loop, looping, nullptr, nullptr, 0, &conditional));
#else
  RT(cudaGraphAddNode(&loop, looping, nullptr, 0, &conditional));
#endif
  RT(cudaStreamBeginCaptureToGraph(stream, conditional.conditional.phGraph_out[0], nullptr, nullptr,
                                   0, cudaStreamCaptureModeThreadLocal));
  mix<<<BLOCKS, THREADS, 0, stream>>>(chunks.at[10], chunks.at[0], chunks.words, 5);
  count_down<<<1, 1, 0, stream>>>(handle, left);
  RT(cudaStreamEndCapture(stream, nullptr));
  cudaGraphExec_t repeated;
  RT(cudaGraphInstantiate(&repeated, looping, 0));
  for (int i = 0; i < 5; i++) {
    u32 times = 4;
    RT(cudaMemcpyAsync(left, &times, 4, cudaMemcpyHostToDevice, stream));
    RT(cudaGraphLaunch(repeated, stream));
    RT(cudaStreamSynchronize(stream));
  }
  results_of("loop", chunks);

  // A capture on another thread.
  for (int i = 0; i < 5; i++) {
    std::thread capturing([&] {
      cudaStream_t own;
      cudaGraph_t unused;
      RT(cudaStreamCreateWithFlags(&own, cudaStreamNonBlocking));
      RT(cudaStreamBeginCapture(own, cudaStreamCaptureModeThreadLocal));
      chunks.round(8, own);
      RT(cudaStreamEndCapture(own, &unused));
      RT(cudaGraphDestroy(unused));
      RT(cudaStreamDestroy(own));
    });
    chunks.round(u32(i), stream);
    capturing.join();
    chunks.round(u32(i) + 100, stream);
    RT(cudaStreamSynchronize(stream));
  }
  results_of("threads", chunks);
  RT(cudaGraphExecDestroy(exec));
  RT(cudaGraphExecDestroy(second));
  RT(cudaGraphExecDestroy(whole));
  RT(cudaGraphExecDestroy(repeated));
  return finish();
}
