/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gb_graphs [seed [graphs [buffers MiB]]]: random graphs of kernels, copies, fills, host functions
 * and graphs within them over many buffers; built by hand or captured, changed between launches in
 * every way executable graphs can be, launched on several streams. Every launch is repeated on the
 * CPU and compared. Exit 0 when right.
 */
#include "graph_operations.h"

#define OPERATIONS_MAX 96u
#define PARENTS_MAX 64u

static uint64_t wrong, launches, changes;

/* ---- graphs ---- */

struct built {
  struct operation ops[OPERATIONS_MAX];
  unsigned count;
  bool chain; /* every node after the one before: changes may name other buffers */
  unsigned parents[OPERATIONS_MAX][PARENTS_MAX];
  unsigned parent_count[OPERATIONS_MAX];
  CUgraphNode nodes[OPERATIONS_MAX];
  CUgraph graph;
  CUgraphExec exec;
};

static void depend(struct built *b, unsigned node, unsigned on) {
  for (unsigned i = 0; i < b->parent_count[node]; i++)
    if (b->parents[node][i] == on) return;
  if (b->parent_count[node] == PARENTS_MAX) exit(EXIT_USAGE); /* more operations than this allows */
  b->parents[node][b->parent_count[node]++] = on;
}

static bool writes(const struct operation *op, unsigned place) {
  return op->kind == HOST ? place == BUFFERS_MAX : op->to == place;
}
static bool reads(const struct operation *op, unsigned place) {
  return (op->kind == MIX || op->kind == COPY || op->kind == CHILD) && op->from == place;
}

/* Whatever two operations share and one of them writes orders them; back to the last writer. */
static void find_parents(struct built *b) {
  for (unsigned i = 0; i < b->count; i++) {
    b->parent_count[i] = 0;
    if (b->chain && i > 0) depend(b, i, i - 1);
    for (unsigned place = 0; place <= BUFFERS_MAX && !b->chain; place++) {
      if (!writes(&b->ops[i], place) && !reads(&b->ops[i], place)) continue;
      for (unsigned j = i; j-- > 0;) {
        if (writes(&b->ops[j], place)) {
          depend(b, i, j);
          break;
        }
        if (reads(&b->ops[j], place) && writes(&b->ops[i], place)) depend(b, i, j);
      }
    }
    if (i > 0 && below(4) == 0) depend(b, i, below(i));
  }
}

/* In their order with their parents, or in any order with the edges added afterwards. */
static void build_graph(struct built *b, bool shuffled) {
  unsigned order[OPERATIONS_MAX];
  CU(cuGraphCreate(&b->graph, 0));
  for (unsigned i = 0; i < b->count; i++) order[i] = i;
  for (unsigned i = b->count; shuffled && i > 1; i--) {
    unsigned j = below(i), kept = order[i - 1];
    order[i - 1] = order[j];
    order[j] = kept;
  }
  for (unsigned i = 0; i < b->count; i++) {
    CUgraphNode after[PARENTS_MAX];
    unsigned op = order[i];
    for (unsigned p = 0; p < b->parent_count[op]; p++) after[p] = b->nodes[b->parents[op][p]];
    b->nodes[op] = add_node(b->graph, &b->ops[op], after, shuffled ? 0 : b->parent_count[op]);
  }
  for (unsigned i = 0; shuffled && i < b->count; i++)
    for (unsigned p = 0; p < b->parent_count[i]; p++) {
      CUgraphNode from = b->nodes[b->parents[i][p]], to = b->nodes[i];
      CU(cuGraphAddDependencies(b->graph, &from, &to, NULL, 1));
    }
}

static void build(struct built *b, unsigned count, bool chain, bool shuffled) {
  memset(b, 0, sizeof *b);
  b->count = count;
  b->chain = chain;
  for (unsigned i = 0; i < count; i++) {
    unsigned dice = below(16);
    randomise(&b->ops[i], dice < 5 ? UPDATE : dice < 10 ? MIX : (enum kind)(FILL + dice % 5));
  }
  find_parents(b);
  build_graph(b, shuffled);
}

static void destroy(struct built *b) {
  if (b->exec != NULL) CU(cuGraphExecDestroy(b->exec));
  if (b->graph != NULL) CU(cuGraphDestroy(b->graph));
  for (unsigned i = 0; i < b->count; i++) free(b->ops[i].child);
  memset(b, 0, sizeof *b);
}

static void launch(struct built *b, CUstream stream) {
  CU(cuGraphLaunch(b->exec, stream));
  for (unsigned i = 0; i < b->count; i++) run_model(&b->ops[i]);
  launches++;
}

/* ---- changes of executable graphs ---- */

static void set_kernel(struct built *b, unsigned i) {
  struct arguments args;
  CUDA_KERNEL_NODE_PARAMS params = kernel_params(&b->ops[i], &args);
  CUgraphNodeParams any = {.type = CU_GRAPH_NODE_TYPE_KERNEL, .kernel = params};
  if (below(2) == 0) CU(cuGraphExecKernelNodeSetParams(b->exec, b->nodes[i], &params));
  else CU(cuGraphExecNodeSetParams(b->exec, b->nodes[i], &any));
}

static void set_fill(struct built *b, unsigned i) {
  CUDA_MEMSET_NODE_PARAMS params = fill_params(&b->ops[i]);
  CU(cuGraphExecMemsetNodeSetParams(b->exec, b->nodes[i], &params, context));
}

static void set_copy(struct built *b, unsigned i) {
  CUDA_MEMCPY3D params = copy_params(&b->ops[i]);
  CU(cuGraphExecMemcpyNodeSetParams(b->exec, b->nodes[i], &params, context));
}

static void set_host(struct built *b, unsigned i) {
  CUDA_HOST_NODE_PARAMS params = host_params(&b->ops[i]);
  CU(cuGraphExecHostNodeSetParams(b->exec, b->nodes[i], &params));
}

static void set_child(struct built *b, unsigned i) {
  CUgraph inner;
  struct operation *child = b->ops[i].child;
  for (int c = 0; c < 2; c++) randomise_values(&child[c]);
  CU(cuGraphCreate(&inner, 0));
  CUgraphNode first = add_node(inner, &child[0], NULL, 0);
  add_node(inner, &child[1], &first, 1);
  CU(cuGraphExecChildGraphNodeSetParams(b->exec, b->nodes[i], inner));
  CU(cuGraphDestroy(inner));
}

/* Copies keep their sides: the driver does not change where a copy comes from in kind. */
static void change_one(struct built *b, bool children) {
  unsigned i = below(b->count);
  struct operation *op = &b->ops[i];
  if (op->kind == CHILD && !children) return;
  changes++;
  if (below(5) == 0 && op->kind != HOST && op->kind != CHILD) {
    op->off = !op->off;
    CU(cuGraphNodeSetEnabled(b->exec, b->nodes[i], !op->off));
    return;
  }
  if (b->chain && op->kind != CHILD) {
    op->to = below(buffer_count);
    op->from = (op->to + 1 + below(buffer_count - 1)) % buffer_count;
  }
  randomise_values(op);
  switch (op->kind) {
    case UPDATE:
    case MIX: set_kernel(b, i); break;
    case FILL: set_fill(b, i); break;
    case COPY:
    case UPLOAD: set_copy(b, i); break;
    case HOST: set_host(b, i); break;
    default: set_child(b, i);
  }
}

/* A graph of the same shape with other values. */
static void update_all(struct built *b) {
  struct built other;
  memcpy(&other, b, sizeof other);
  for (unsigned i = 0; i < b->count; i++) {
    if (below(3) != 0) continue;
    if (b->ops[i].kind == CHILD)
      for (int c = 0; c < 2; c++) randomise_values(&b->ops[i].child[c]);
    else randomise_values(&b->ops[i]);
    other.ops[i] = b->ops[i];
  }
  build_graph(&other, false);
  CUgraphExecUpdateResultInfo info;
  CU(cuGraphExecUpdate(b->exec, other.graph, &info));
  CU(cuGraphDestroy(other.graph));
  changes++;
}

/* ---- comparing ---- */

static void compare(size_t bytes) {
  static uint64_t *got;
  if (got == NULL) CU(cuMemHostAlloc((void **)&got, buffer_bytes, 0));
  CU(cuCtxSynchronize());
  for (unsigned i = 0; i < buffer_count; i++) {
    CU(cuMemcpyDtoH(got, buffers[i], bytes));
    for (size_t w = 0; w < bytes / 8; w++) wrong += got[w] != models[i][w];
  }
  wrong += host_state != host_model;
}

static CUstream new_stream(void) {
  CUstream stream;
  CU(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  return stream;
}

/* ---- tests ---- */

static struct built one, two;

/* Built by hand, changed between launches, on streams that do not wait for each other. */
static void by_hand(unsigned graphs) {
  CUstream streams[3] = {new_stream(), new_stream(), NULL};
  for (unsigned g = 0; g < graphs; g++) {
    bool chain = below(3) == 0, children = below(4) == 0;
    build(&one, 2 + below(OPERATIONS_MAX - 2), chain, !chain && below(2) == 0);
    CU(cuGraphInstantiate(&one.exec, one.graph, 0));
    unsigned rounds = 2 + below(6);
    for (unsigned r = 0; r < rounds; r++) {
      launch(&one, streams[below(3)]);
      if (below(2) == 0) compare(WINDOW * 8);
      for (unsigned c = below(4); c > 0; c--) change_one(&one, children);
    }
    compare(g % 8 == 0 ? buffer_bytes : WINDOW * 8);
    destroy(&one);
  }
  for (int i = 0; i < 2; i++) CU(cuStreamDestroy(streams[i]));
}

/* cuGraphExecUpdate between launches. Off nodes are left out: what an update does to them is the
 * driver's affair. */
static void updated(unsigned graphs) {
  CUstream stream = new_stream();
  for (unsigned g = 0; g < graphs; g++) {
    build(&one, 2 + below(OPERATIONS_MAX - 2), false, false);
    CU(cuGraphInstantiate(&one.exec, one.graph, 0));
    for (unsigned r = 0; r < 4; r++) {
      launch(&one, stream);
      update_all(&one);
    }
    launch(&one, stream);
    compare(WINDOW * 8);
    destroy(&one);
  }
  CU(cuStreamDestroy(stream));
}

static void issue(const struct operation *op, CUstream stream) {
  struct arguments args;
  switch (op->kind) {
    case UPDATE:
    case MIX: {
      CUDA_KERNEL_NODE_PARAMS params = kernel_params(op, &args);
      CU(cuLaunchKernel(params.func, 2, 1, 1, 128, 1, 1, 0, stream, args.list, NULL));
      break;
    }
    case FILL:
      CU(cuMemsetD32Async(buffers[op->to] + op->to_at * 8, (unsigned)op->key, op->words * 2,
                          stream));
      break;
    default:
      CU(cuMemcpyAsync(buffers[op->to] + op->to_at * 8, buffers[op->from] + op->from_at * 8,
                       op->words * 8, stream));
  }
}

/* Two streams that fork and join, captured; the graph is gone before the first launch. */
static void captured(unsigned graphs) {
  CUstream streams[2] = {new_stream(), new_stream()};
  CUevent events[2];
  for (int i = 0; i < 2; i++) CU(cuEventCreate(&events[i], CU_EVENT_DISABLE_TIMING));
  for (unsigned g = 0; g < graphs; g++) {
    memset(&one, 0, sizeof one);
    one.count = 4 + below(OPERATIONS_MAX - 4);
    CU(cuStreamBeginCapture(streams[0], CU_STREAM_CAPTURE_MODE_GLOBAL));
    CU(cuEventRecord(events[0], streams[0]));
    CU(cuStreamWaitEvent(streams[1], events[0], 0));
    for (unsigned i = 0; i < one.count; i++) {
      struct operation *op = &one.ops[i];
      randomise(op, (enum kind)below(COPY + 1));
      unsigned side = i % 2; /* each stream has its half of the buffers */
      op->to = op->to / 2 * 2 % buffer_count + side;
      op->from = op->from / 2 * 2 % buffer_count + side;
      if (op->from == op->to) op->from = (op->from + 2) % buffer_count;
      issue(op, streams[side]);
    }
    CU(cuEventRecord(events[1], streams[1]));
    CU(cuStreamWaitEvent(streams[0], events[1], 0));
    CU(cuStreamEndCapture(streams[0], &one.graph));
    CU(cuGraphInstantiate(&one.exec, one.graph, 0));
    CU(cuGraphDestroy(one.graph));
    one.graph = NULL;
    for (unsigned r = 0; r < 3; r++) launch(&one, streams[r % 2]);
    compare(WINDOW * 8);
    destroy(&one);
  }
  for (int i = 0; i < 2; i++) {
    CU(cuEventDestroy(events[i]));
    CU(cuStreamDestroy(streams[i]));
  }
}

/* Launched while another stream captures, and between captures; two graphs take turns. */
static void beside_a_capture(unsigned graphs) {
  CUstream streams[2] = {new_stream(), new_stream()}, other = new_stream();
  for (unsigned g = 0; g < graphs; g++) {
    CUgraph recorded;
    struct operation op;
    build(&one, 40, false, true);
    build(&two, 40, true, false);
    CU(cuGraphInstantiate(&one.exec, one.graph, 0));
    CU(cuGraphInstantiate(&two.exec, two.graph, 0));
    for (unsigned r = 0; r < 4; r++) {
      if (r % 2 == 1) CU(cuStreamBeginCapture(other, CU_STREAM_CAPTURE_MODE_RELAXED));
      launch(&one, streams[r / 2]);
      CU(cuStreamSynchronize(streams[r / 2]));
      launch(&two, streams[r % 2]);
      if (r % 2 == 1) {
        randomise(&op, UPDATE);
        issue(&op, other);
        CU(cuStreamEndCapture(other, &recorded));
        CU(cuGraphDestroy(recorded));
      }
      CU(cuStreamSynchronize(streams[r % 2]));
    }
    compare(WINDOW * 8);
    destroy(&one);
    destroy(&two);
  }
  for (int i = 0; i < 2; i++) CU(cuStreamDestroy(streams[i]));
  CU(cuStreamDestroy(other));
}

/* Once on one stream, once on the other, nothing between: no launch may overtake the one before. */
static void in_turn(unsigned rounds) {
  CUstream streams[2] = {new_stream(), new_stream()};
  build(&one, OPERATIONS_MAX, true, false);
  CU(cuGraphInstantiate(&one.exec, one.graph, 0));
  for (unsigned r = 0; r < rounds; r++) launch(&one, streams[r % 2]);
  compare(WINDOW * 8);
  for (int i = 0; i < 2; i++) CU(cuStreamDestroy(streams[i])); /* its work goes on without it */
  streams[0] = new_stream();
  launch(&one, streams[0]);
  compare(buffer_bytes);
  CU(cuStreamDestroy(streams[0]));
  destroy(&one);
}

static uint64_t digest(void) {
  uint64_t sum = host_model;
  for (unsigned i = 0; i < buffer_count; i++)
    for (size_t w = 0; w < WINDOW; w++) sum = sum * 0x9e3779b97f4a7c15ull + models[i][w];
  return sum;
}

int main(int argc, char **argv) {
  CUmodule module;
  uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
  unsigned graphs = argc > 2 ? (unsigned)atoi(argv[2]) : 20;
  if (argc > 4) {
    buffer_count = (unsigned)atoi(argv[3]);
    buffer_bytes = (size_t)atoi(argv[4]) << 20;
  }
  if (buffer_count < 4 || buffer_count > BUFFERS_MAX || buffer_count % 2 != 0) return EXIT_USAGE;
  random_state = seed * 0x9e3779b97f4a7c15ull + 1;
  open_context(0);
  CU(cuCtxGetCurrent(&context));
  CU(cuModuleLoadData(&module, test_kernels));
  update_kernel = load_kernel(module, "gb_update");
  mix_kernel = load_kernel(module, "gb_mix");
  CU(cuMemHostAlloc((void **)&source, WINDOW * 8, 0));
  for (size_t w = 0; w < WINDOW; w++) source[w] = random_word();
  for (unsigned i = 0; i < buffer_count; i++) {
    models[i] = calloc(1, buffer_bytes);
    CU(cuMemAlloc(&buffers[i], buffer_bytes));
    CU(cuMemsetD8(buffers[i], 0, buffer_bytes));
  }
  CU(cuCtxSynchronize());
  const double started = now_ms();
  by_hand(graphs);
  updated(graphs / 4 + 1);
  captured(graphs / 4 + 1);
  beside_a_capture(graphs / 8 + 1);
  in_turn(graphs);
  const double took = now_ms() - started;
  const uint64_t sum = digest();
  for (unsigned i = 0; i < buffer_count; i++) {
    CU(cuMemFree(buffers[i]));
    free(models[i]);
  }
  CU(cuMemFreeHost(source));
  CU(cuModuleUnload(module));
  printf("{\"program\":\"gb_graphs\",\"ok\":%s,\"graphs\":%u,\"launches\":%llu,\"changes\":%llu,"
         "\"mismatches\":%llu,\"digest\":\"%016llx\",\"ms\":%.0f}\n",
         wrong == 0 ? "true" : "false", graphs, (unsigned long long)launches,
         (unsigned long long)changes, (unsigned long long)wrong, (unsigned long long)sum, took);
  return wrong == 0 ? 0 : EXIT_WRONG;
}
