/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gb_graph: captures a memset, two kernels and a copy back on a forked pair of streams, replays the
 * graph, and compares after every replay. Exit 0 when right.
 */
#include "kernels.h"
#include "program.h"

#define WORDS (1u << 16)

int main(int argc, char **argv) {
  const unsigned replays = argc > 1 ? (unsigned)atoi(argv[1]) : 100;
  CUmodule module;
  CUstream main_stream, side_stream;
  CUevent fork, join;
  CUdeviceptr a, b;
  CUgraph graph;
  CUgraphExec exec;
  void *host;
  open_context(0);
  CU(cuModuleLoadData(&module, test_kernels));
  CUfunction update = load_kernel(module, "gb_update"), mix = load_kernel(module, "gb_mix");
  CU(cuMemAlloc(&a, WORDS * 8));
  CU(cuMemAlloc(&b, WORDS * 8));
  CU(cuMemHostAlloc(&host, WORDS * 8, 0));
  CU(cuMemsetD8(b, 0, WORDS * 8));
  CU(cuStreamCreate(&main_stream, CU_STREAM_NON_BLOCKING));
  CU(cuStreamCreate(&side_stream, CU_STREAM_NON_BLOCKING));
  CU(cuEventCreate(&fork, CU_EVENT_DISABLE_TIMING));
  CU(cuEventCreate(&join, CU_EVENT_DISABLE_TIMING));
  CU(cuCtxSynchronize());

  /* a is cleared and changed on one stream while b is changed on the other; then b takes a in. */
  uint64_t words = WORDS, key = 11;
  struct {
    CUdeviceptr dst, src;
    uint64_t words, key;
  } mixed = {b, a, WORDS, 5};
  void *update_a[] = {&a, &words, &key}, *update_b[] = {&b, &words, &key}, *mix_both[] = {&mixed};
  CU(cuStreamBeginCapture(main_stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
  CU(cuEventRecord(fork, main_stream));
  CU(cuStreamWaitEvent(side_stream, fork, 0));
  CU(cuMemsetD32Async(a, 3, WORDS * 2, main_stream));
  CU(cuLaunchKernel(update, 32, 1, 1, 256, 1, 1, 0, main_stream, update_a, NULL));
  CU(cuLaunchKernel(update, 32, 1, 1, 256, 1, 1, 0, side_stream, update_b, NULL));
  CU(cuEventRecord(join, side_stream));
  CU(cuStreamWaitEvent(main_stream, join, 0));
  CU(cuLaunchKernel(mix, 32, 1, 1, 256, 1, 1, 0, main_stream, mix_both, NULL));
  CU(cuMemcpyDtoHAsync(host, b, WORDS * 8, main_stream));
  CU(cuStreamEndCapture(main_stream, &graph));
  size_t nodes = 0;
  CU(cuGraphGetNodes(graph, NULL, &nodes));
  CU(cuGraphInstantiate(&exec, graph, 0));

  uint64_t wrong = nodes != 5, *model = calloc(WORDS, 8);
  if (model == NULL) return EXIT_DRIVER;
  for (unsigned r = 0; r < replays; r++) {
    CU(cuGraphLaunch(exec, main_stream));
    CU(cuStreamSynchronize(main_stream));
    for (uint64_t i = 0; i < WORDS; i++) {
      const uint64_t changed_a = 0x0000000300000003ull * 3 + key + i,
                     changed_b = model[i] * 3 + key + i;
      model[i] = changed_b * 5 + (changed_a ^ 5);
      wrong += ((const uint64_t *)host)[i] != model[i];
    }
  }
  CU(cuGraphExecDestroy(exec));
  CU(cuGraphDestroy(graph));
  CU(cuEventDestroy(fork));
  CU(cuEventDestroy(join));
  CU(cuStreamDestroy(main_stream));
  CU(cuStreamDestroy(side_stream));
  CU(cuMemFree(a));
  CU(cuMemFree(b));
  CU(cuMemFreeHost(host));
  CU(cuModuleUnload(module));
  printf("{\"program\":\"gb_graph\",\"ok\":%s,\"nodes\":%zu,\"replays\":%u,\"mismatches\":%llu}\n",
         wrong == 0 ? "true" : "false", nodes, replays, (unsigned long long)wrong);
  return wrong == 0 ? 0 : EXIT_WRONG;
}
