/* SPDX-License-Identifier: Apache-2.0 */
/*
 * whole_program.c: graphs that may not be cut, streams of every kind, several threads, and graphs
 * that outlive what they were made from. Run under the shim with GREENBOOST_GRAPH_SEGMENT=4MiB.
 */
#include "../check.h"

#include <pthread.h>
#include <stdbool.h>

#include "../programs/kernels.h"
#include "../programs/program.h"

#define BUFFERS 8u
#define BYTES ((size_t)2 << 20)
#define WORDS 256u

static CUcontext context;
static CUmodule module;
static CUfunction update;

struct chain {
  CUdeviceptr buffers[BUFFERS];
  uint64_t words, keys[BUFFERS];
  CUgraph graph;
  CUgraphNode nodes[BUFFERS];
  CUgraphExec exec;
  uint64_t model[BUFFERS][WORDS];
};

static CUDA_KERNEL_NODE_PARAMS params_of(struct chain *chain, unsigned i, void *list[3]) {
  list[0] = &chain->buffers[i];
  list[1] = &chain->words;
  list[2] = &chain->keys[i];
  return (CUDA_KERNEL_NODE_PARAMS){.func = update,
                                   .gridDimX = 1,
                                   .gridDimY = 1,
                                   .gridDimZ = 1,
                                   .blockDimX = 256,
                                   .blockDimY = 1,
                                   .blockDimZ = 1,
                                   .kernelParams = list};
}

/* One kernel to each buffer, one after the other. */
static void make(struct chain *chain) {
  memset(chain, 0, sizeof *chain);
  chain->words = WORDS;
  CU(cuGraphCreate(&chain->graph, 0));
  for (unsigned i = 0; i < BUFFERS; i++) {
    void *list[3];
    chain->keys[i] = i * 7 + 1;
    CU(cuMemAlloc(&chain->buffers[i], BYTES));
    CU(cuMemsetD8(chain->buffers[i], 0, BYTES));
    CUDA_KERNEL_NODE_PARAMS params = params_of(chain, i, list);
    CU(cuGraphAddKernelNode(&chain->nodes[i], chain->graph, i == 0 ? NULL : &chain->nodes[i - 1],
                            i == 0 ? 0 : 1, &params));
  }
  CU(cuCtxSynchronize());
}

static void ran(struct chain *chain) {
  for (unsigned i = 0; i < BUFFERS; i++)
    for (uint64_t w = 0; w < WORDS; w++)
      chain->model[i][w] = chain->model[i][w] * 3 + chain->keys[i] + w;
}

static bool is_right(struct chain *chain) {
  uint64_t got[WORDS];
  unsigned wrong = 0;
  CU(cuCtxSynchronize());
  for (unsigned i = 0; i < BUFFERS; i++) {
    CU(cuMemcpyDtoH(got, chain->buffers[i], sizeof got));
    wrong += memcmp(got, chain->model[i], sizeof got) != 0;
  }
  return wrong == 0;
}

static void end(struct chain *chain) {
  if (chain->exec != NULL) CU(cuGraphExecDestroy(chain->exec));
  if (chain->graph != NULL) CU(cuGraphDestroy(chain->graph));
  for (unsigned i = 0; i < BUFFERS; i++) CU(cuMemFree(chain->buffers[i]));
}

static void launch(struct chain *chain, CUstream stream) {
  CU(cuGraphLaunch(chain->exec, stream));
  ran(chain);
}

static void device_updatable(void) {
  static struct chain chain;
  make(&chain);
  CUkernelNodeAttrValue value;
  memset(&value, 0, sizeof value);
  value.deviceUpdatableKernelNode.deviceUpdatable = 1;
  CU(cuGraphKernelNodeSetAttribute(chain.nodes[3],
                                   CU_LAUNCH_ATTRIBUTE_DEVICE_UPDATABLE_KERNEL_NODE, &value));
  CU(cuGraphInstantiate(&chain.exec, chain.graph, 0));
  for (int r = 0; r < 3; r++) launch(&chain, NULL);
  CHECK(is_right(&chain));
  end(&chain);
}

/* The legacy stream and both names of the thread's, one after the other. */
static void default_streams(void) {
  static struct chain chain;
  CUstream streams[3] = {NULL, CU_STREAM_LEGACY, CU_STREAM_PER_THREAD};
  make(&chain);
  CU(cuGraphInstantiateWithParams(
      &chain.exec, chain.graph,
      &(CUDA_GRAPH_INSTANTIATE_PARAMS){.flags = CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY}));
  for (int r = 0; r < 9; r++) launch(&chain, streams[r % 3]);
  CHECK(is_right(&chain));
  end(&chain);
}

/* Names of nodes stay good when the graph is gone, and one name the graph never had is refused. */
static void graph_gone(void) {
  static struct chain chain, other;
  void *list[3];
  make(&chain);
  make(&other);
  CU(cuGraphInstantiate(&chain.exec, chain.graph, 0));
  launch(&chain, NULL);
  CUDA_KERNEL_NODE_PARAMS params = params_of(&chain, 2, list);
  CHECK_EQUAL(cuGraphExecKernelNodeSetParams(chain.exec, other.nodes[2], &params),
              CUDA_ERROR_INVALID_VALUE);
  chain.keys[2] = 99;
  CU(cuGraphExecKernelNodeSetParams(chain.exec, chain.nodes[2], &params));
  launch(&chain, NULL);
  CU(cuGraphDestroy(chain.graph));
  chain.graph = NULL;
  launch(&chain, NULL);
  CHECK(is_right(&chain));
  end(&chain);
  end(&other);
}

/* Memory of a graph is freed and allocated again, at other places and sizes. */
static void memory_comes_and_goes(void) {
  static struct chain chain;
  make(&chain);
  CU(cuGraphInstantiate(&chain.exec, chain.graph, 0));
  launch(&chain, NULL);
  CHECK(is_right(&chain));
  for (unsigned i = 0; i < BUFFERS; i += 2) {
    void *list[3];
    CU(cuMemFree(chain.buffers[i]));
    CU(cuMemAlloc(&chain.buffers[i], BYTES * (1 + i)));
    CU(cuMemsetD8(chain.buffers[i], 0, BYTES));
    memset(chain.model[i], 0, sizeof chain.model[i]);
    CUDA_KERNEL_NODE_PARAMS params = params_of(&chain, i, list);
    CU(cuGraphExecKernelNodeSetParams(chain.exec, chain.nodes[i], &params));
    CU(cuCtxSynchronize());
    launch(&chain, NULL);
  }
  CHECK(is_right(&chain));
  end(&chain);
}

static void *thread(void *argument) {
  static pthread_mutex_t made = PTHREAD_MUTEX_INITIALIZER;
  struct chain *chain = calloc(1, sizeof *chain);
  CUstream stream;
  bool *right = argument;
  CU(cuCtxSetCurrent(context));
  pthread_mutex_lock(&made);
  make(chain);
  pthread_mutex_unlock(&made);
  CU(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  for (int g = 0; g < 20; g++) {
    CU(cuGraphInstantiate(&chain->exec, chain->graph, 0));
    for (int r = 0; r < 5; r++) {
      void *list[3];
      unsigned i = (unsigned)(g + r) % BUFFERS;
      launch(chain, stream);
      chain->keys[i]++;
      CUDA_KERNEL_NODE_PARAMS params = params_of(chain, i, list);
      CU(cuGraphExecKernelNodeSetParams(chain->exec, chain->nodes[i], &params));
      if (g == 19) continue;
      CU(cuGraphKernelNodeSetParams(chain->nodes[i], &params));
    }
    CU(cuStreamSynchronize(stream));
    if (g < 19) CU(cuGraphExecDestroy(chain->exec));
  }
  *right = is_right(chain);
  CU(cuStreamDestroy(stream));
  end(chain);
  free(chain);
  return NULL;
}

static void threads(void) {
  pthread_t started[4];
  bool right[4] = {false, false, false, false};
  for (int i = 0; i < 4; i++) pthread_create(&started[i], NULL, thread, &right[i]);
  for (int i = 0; i < 4; i++) pthread_join(started[i], NULL);
  for (int i = 0; i < 4; i++) CHECK(right[i]);
}

/* Graphs of a context that goes, while they are still there. */
static void context_goes(void) {
  static struct chain chain;
  CUcontext second;
  CUdevice device;
  CUmodule loaded;
  CUfunction kept = update;
  CU(cuDeviceGet(&device, 0));
  CU(cuCtxCreate(&second, NULL, 0, device));
  CU(cuModuleLoadData(&loaded, test_kernels));
  CU(cuModuleGetFunction(&update, loaded, "gb_update"));
  make(&chain);
  CU(cuGraphInstantiate(&chain.exec, chain.graph, 0));
  launch(&chain, NULL);
  CHECK(is_right(&chain));
  CU(cuCtxDestroy(second));
  CU(cuCtxSetCurrent(context));
  CU(cuGraphExecDestroy(chain.exec));
  CU(cuGraphDestroy(chain.graph));
  update = kept;
}

int main(void) {
  open_context(0);
  CU(cuCtxGetCurrent(&context));
  CU(cuModuleLoadData(&module, test_kernels));
  update = load_kernel(module, "gb_update");
  RUN(device_updatable);
  RUN(default_streams);
  RUN(graph_gone);
  RUN(memory_comes_and_goes);
  RUN(threads);
  RUN(context_goes);
  return check_done();
}
