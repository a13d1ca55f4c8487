/* SPDX-License-Identifier: Apache-2.0 */
/*
 * graph.c: capture and graphs. A graph is a list of operations in an order that respects their dependencies (the order
 * they were added in); a launch is one stream operation that runs them in that order.
 */
#include "sim.h"

#include <stdio.h>

#define GRAPH_NODES_MAX (1u << 20)

struct node {
  struct sim_graph *graph;
  uint32_t index;
  CUgraphNodeType type;
  struct sim_op *op; /* NULL for empty nodes */
  uint32_t *dependencies;
  size_t dependency_count;
  bool disabled;
};

struct sim_graph {
  struct node **nodes;
  size_t count;
  bool capturing;
};

struct sim_exec {
  struct sim_op **ops;
  bool *disabled;
  size_t count;
  unsigned refs;
};

static uint64_t next_capture_id = 1;
static struct sim_capture *captures[64]; /* live; locks: sim_lock */
static size_t capture_count;
static _Thread_local CUstreamCaptureMode thread_mode __attribute__((tls_model("initial-exec"))); /* CU_STREAM_CAPTURE_MODE_GLOBAL */

/* ---- graphs ---- */

static struct sim_graph *graph_new(void) {
  struct sim_graph *graph = calloc(1, sizeof *graph);
  if (graph == NULL) abort();
  sim_handle_add(SIM_GRAPH, graph);
  return graph;
}

static void graph_free(struct sim_graph *graph) {
  for (size_t i = 0; i < graph->count; i++) {
    struct node *node = graph->nodes[i];
    if (node->op != NULL) sim_op_free(node->op);
    sim_handle_remove(node);
    free(node->dependencies);
    free(node);
  }
  sim_handle_remove(graph);
  free(graph->nodes);
  free(graph);
}

static CUgraphNodeType type_of(const struct sim_op *op) {
  switch (op->kind) {
    case SIM_OP_KERNEL: return CU_GRAPH_NODE_TYPE_KERNEL;
    case SIM_OP_COPY: return CU_GRAPH_NODE_TYPE_MEMCPY;
    case SIM_OP_FILL: return CU_GRAPH_NODE_TYPE_MEMSET;
    case SIM_OP_HOST: return CU_GRAPH_NODE_TYPE_HOST;
    default: return CU_GRAPH_NODE_TYPE_EMPTY;
  }
}

/* owns: the graph takes `op` and copies the dependencies. */
static struct node *node_add(struct sim_graph *graph, struct sim_op *op, const uint32_t *dependencies, size_t count) {
  if (graph->count == GRAPH_NODES_MAX) return NULL;
  struct node *node = calloc(1, sizeof *node);
  struct node **nodes = realloc(graph->nodes, (graph->count + 1) * sizeof *nodes);
  if (node == NULL || nodes == NULL) abort();
  graph->nodes = nodes;
  *node = (struct node){.graph = graph, .index = (uint32_t)graph->count, .op = op,
                        .type = op == NULL ? CU_GRAPH_NODE_TYPE_EMPTY : type_of(op), .dependency_count = count};
  if (count != 0) {
    node->dependencies = malloc(count * sizeof *dependencies);
    if (node->dependencies == NULL) abort();
    memcpy(node->dependencies, dependencies, count * sizeof *dependencies);
  }
  nodes[graph->count++] = node;
  sim_handle_add(SIM_NODE, node);
  return node;
}

/* A copy that can run on its own: spans and bytes belong to it. */
static struct sim_op *op_clone(const struct sim_op *op) {
  struct sim_op *clone = sim_op_new(op->kind);
  *clone = *op;
  clone->next = NULL;
  clone->waits = NULL;
  clone->wait_count = clone->span_count = 0;
  clone->spans = NULL;
  for (size_t i = 0; i < op->span_count; i++) sim_op_span(clone, op->spans[i].base, op->spans[i].bytes);
  if (op->bytes != NULL && op->kind == SIM_OP_KERNEL) {
    clone->bytes = malloc(op->kernel.param_bytes + 8);
    if (clone->bytes == NULL) abort();
    memcpy(clone->bytes, op->bytes, op->kernel.param_bytes + 8);
  }
  return clone;
}

static struct sim_graph *graph_of(CUgraph handle) { return sim_handle_is(SIM_GRAPH, handle) ? (struct sim_graph *)handle : NULL; }
static struct node *node_of(CUgraphNode handle) { return sim_handle_is(SIM_NODE, handle) ? (struct node *)handle : NULL; }

/* ---- capture ---- */

static void capture_end(struct sim_capture *capture) {
  struct sim_context *context;
  for (size_t i = 0; (context = sim_context_at(i)) != NULL; i++)
    for (struct sim_stream *stream = context->streams; stream != NULL; stream = stream->next)
      if (stream->capture == capture) {
        stream->capture = NULL;
        stream->tail_count = 0;
      }
  for (size_t i = 0; i < capture_count; i++)
    if (captures[i] == capture) captures[i] = captures[--capture_count];
  capture->graph->capturing = false;
  free(capture);
}

CUresult sim_capture_guard(void) {
  if (capture_count == 0 || thread_mode == CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_SUCCESS;
  for (size_t i = 0; i < capture_count; i++) {
    const bool mine = pthread_equal(captures[i]->thread, pthread_self());
    const bool forbids = captures[i]->mode == CU_STREAM_CAPTURE_MODE_GLOBAL
                             ? mine || thread_mode == CU_STREAM_CAPTURE_MODE_GLOBAL
                             : captures[i]->mode == CU_STREAM_CAPTURE_MODE_THREAD_LOCAL && mine;
    if (!forbids) continue;
    captures[i]->invalid = true;
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  }
  return CUDA_SUCCESS;
}

CUresult sim_capture_add(struct sim_stream *stream, struct sim_op *op) {
  struct sim_capture *capture = stream->capture;
  CUresult result = capture->invalid ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_SUCCESS;
  if (result == CUDA_SUCCESS && (op->kind == SIM_OP_CALLBACK || op->kind == SIM_OP_GRAPH)) {
    capture->invalid = true;
    result = op->kind == SIM_OP_CALLBACK ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : sim_not_simulated("graph launch inside a capture");
  }
  struct node *node = result == CUDA_SUCCESS ? node_add(capture->graph, op, stream->tail_nodes, stream->tail_count) : NULL;
  if (node == NULL) {
    sim_op_free(op);
    return result == CUDA_SUCCESS ? CUDA_ERROR_OUT_OF_MEMORY : result;
  }
  stream->tail_nodes[0] = node->index;
  stream->tail_count = 1;
  return CUDA_SUCCESS;
}

static CUresult capture_begin(CUstream handle, CUstream fallback, CUstreamCaptureMode mode, struct sim_graph *graph) {
  if ((unsigned)mode > CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_ERROR_INVALID_VALUE;
  pthread_mutex_lock(&sim_lock);
  struct sim_stream *stream = SIM_S(handle);
  CUresult result = stream == NULL ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS;
  if (result == CUDA_SUCCESS && stream->legacy) result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  if (result == CUDA_SUCCESS && stream->capture != NULL) result = CUDA_ERROR_ILLEGAL_STATE;
  if (result == CUDA_SUCCESS && capture_count == 64) result = CUDA_ERROR_OUT_OF_MEMORY;
  if (result == CUDA_SUCCESS) {
    struct sim_capture *capture = calloc(1, sizeof *capture);
    if (capture == NULL) abort();
    *capture = (struct sim_capture){.graph = graph == NULL ? graph_new() : graph, .origin = stream, .mode = mode,
                                    .thread = pthread_self(), .id = next_capture_id++, .streams = 1, .own_graph = graph == NULL};
    capture->graph->capturing = true;
    captures[capture_count++] = capture;
    stream->capture = capture;
    stream->tail_count = 0;
  }
  pthread_mutex_unlock(&sim_lock);
  return result;
}

static CUresult capture_finish(CUstream handle, CUstream fallback, CUgraph *out) {
  if (out == NULL) return CUDA_ERROR_INVALID_VALUE;
  *out = NULL;
  pthread_mutex_lock(&sim_lock);
  struct sim_stream *stream = SIM_S(handle);
  struct sim_capture *capture = stream == NULL ? NULL : stream->capture;
  CUresult result = stream == NULL ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS;
  if (result == CUDA_SUCCESS && capture == NULL) result = CUDA_ERROR_ILLEGAL_STATE;
  else if (result == CUDA_SUCCESS && capture->origin != stream) result = CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
  else if (result == CUDA_SUCCESS && capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED && !pthread_equal(capture->thread, pthread_self()))
    result = CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
  else if (result == CUDA_SUCCESS) {
    struct sim_graph *graph = capture->graph;
    const bool invalid = capture->invalid, own = capture->own_graph;
    capture_end(capture);
    if (invalid && own) graph_free(graph);
    if (invalid) result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    else *out = (CUgraph)graph;
  }
  pthread_mutex_unlock(&sim_lock);
  return result;
}

struct info {
  CUstreamCaptureStatus status;
  cuuint64_t id;
  CUgraph graph;
};

static CUresult capture_info(CUstream handle, CUstream fallback, struct info *info, CUgraphNode *nodes, const CUgraphNode **list, size_t *count) {
  static _Thread_local CUgraphNode kept[SIM_TAIL_MAX];
  pthread_mutex_lock(&sim_lock);
  struct sim_stream *stream = SIM_S(handle);
  *info = (struct info){CU_STREAM_CAPTURE_STATUS_NONE, 0, NULL};
  if (count != NULL) *count = 0;
  if (stream != NULL && stream->capture != NULL) {
    const struct sim_capture *capture = stream->capture;
    *info = (struct info){capture->invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED : CU_STREAM_CAPTURE_STATUS_ACTIVE, capture->id,
                          (CUgraph)capture->graph};
    if (nodes == NULL) nodes = kept;
    for (size_t i = 0; i < stream->tail_count; i++) nodes[i] = (CUgraphNode)capture->graph->nodes[stream->tail_nodes[i]];
    if (list != NULL) *list = nodes;
    if (count != NULL) *count = stream->tail_count;
  }
  pthread_mutex_unlock(&sim_lock);
  return stream == NULL ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS;
}

#define CAPTURE_CALLS(suffix, fallback)                                                                               \
  CUresult cuStreamBeginCapture##suffix(CUstream stream) {                                                            \
    SIM_ENTER(SIM_NEED_CONTEXT);                                                                                      \
    return capture_begin(stream, fallback, CU_STREAM_CAPTURE_MODE_GLOBAL, NULL);                                      \
  }                                                                                                                   \
  CUresult cuStreamBeginCapture_v2##suffix(CUstream stream, CUstreamCaptureMode mode) {                               \
    SIM_ENTER(SIM_NEED_CONTEXT);                                                                                      \
    return capture_begin(stream, fallback, mode, NULL);                                                               \
  }                                                                                                                   \
  CUresult cuStreamEndCapture##suffix(CUstream stream, CUgraph *graph) {                                              \
    SIM_ENTER(SIM_NEED_CONTEXT);                                                                                      \
    return capture_finish(stream, fallback, graph);                                                                   \
  }                                                                                                                   \
  CUresult cuStreamIsCapturing##suffix(CUstream stream, CUstreamCaptureStatus *status) {                              \
    SIM_ENTER(SIM_NEED_CONTEXT);                                                                                      \
    struct info info;                                                                                                 \
    if (status == NULL) return CUDA_ERROR_INVALID_VALUE;                                                              \
    const CUresult result = capture_info(stream, fallback, &info, NULL, NULL, NULL);                                  \
    *status = info.status;                                                                                            \
    return result;                                                                                                    \
  }                                                                                                                   \
  CUresult cuStreamGetCaptureInfo##suffix(CUstream stream, CUstreamCaptureStatus *status, cuuint64_t *id) {           \
    SIM_ENTER(SIM_NEED_CONTEXT);                                                                                      \
    struct info info;                                                                                                 \
    if (status == NULL) return CUDA_ERROR_INVALID_VALUE;                                                              \
    const CUresult result = capture_info(stream, fallback, &info, NULL, NULL, NULL);                                  \
    *status = info.status;                                                                                            \
    if (id != NULL) *id = info.id;                                                                                    \
    return result;                                                                                                    \
  }                                                                                                                   \
  CUresult cuStreamGetCaptureInfo_v2##suffix(CUstream stream, CUstreamCaptureStatus *status, cuuint64_t *id,          \
                                             CUgraph *graph, const CUgraphNode **nodes, size_t *count) {              \
    SIM_ENTER(SIM_NEED_CONTEXT);                                                                                      \
    struct info info;                                                                                                 \
    if (status == NULL) return CUDA_ERROR_INVALID_VALUE;                                                              \
    const CUresult result = capture_info(stream, fallback, &info, NULL, nodes, count);                                \
    *status = info.status;                                                                                            \
    if (id != NULL) *id = info.id;                                                                                    \
    if (graph != NULL) *graph = info.graph;                                                                           \
    return result;                                                                                                    \
  }                                                                                                                   \
  CUresult cuStreamGetCaptureInfo_v3##suffix(CUstream stream, CUstreamCaptureStatus *status, cuuint64_t *id,          \
                                             CUgraph *graph, const CUgraphNode **nodes, const CUgraphEdgeData **edges, \
                                             size_t *count) {                                                         \
    if (edges != NULL) *edges = NULL;                                                                                 \
    return cuStreamGetCaptureInfo_v2##suffix(stream, status, id, graph, nodes, count);                                \
  }                                                                                                                   \
  CUresult cuGraphLaunch##suffix(CUgraphExec exec, CUstream stream) {                                                 \
    SIM_ENTER(SIM_NEED_CONTEXT);                                                                                      \
    return graph_launch(exec, stream, fallback);                                                                      \
  }                                                                                                                   \
  CUresult cuGraphUpload##suffix(CUgraphExec exec, CUstream stream) {                                                 \
    SIM_ENTER(SIM_NEED_CONTEXT);                                                                                      \
    (void)stream;                                                                                                     \
    return sim_handle_is(SIM_EXEC, exec) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;                                  \
  }                                                                                                                   \
  CUresult cuGraphInstantiateWithParams##suffix(CUgraphExec *exec, CUgraph graph, CUDA_GRAPH_INSTANTIATE_PARAMS *params) { \
    if (params == NULL) return CUDA_ERROR_INVALID_VALUE;                                                              \
    params->hErrNode_out = NULL;                                                                                      \
    const CUresult result = cuGraphInstantiateWithFlags(exec, graph, params->flags);                                  \
    params->result_out = result == CUDA_SUCCESS ? CUDA_GRAPH_INSTANTIATE_SUCCESS : CUDA_GRAPH_INSTANTIATE_ERROR;      \
    return result;                                                                                                    \
  }

CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *mode) {
  SIM_ENTER(SIM_NEED_INIT);
  if (mode == NULL || (unsigned)*mode > CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_ERROR_INVALID_VALUE;
  const CUstreamCaptureMode old = thread_mode;
  thread_mode = *mode;
  *mode = old;
  return CUDA_SUCCESS;
}

/* ---- executable graphs ---- */

void sim_exec_release(struct sim_exec *exec) {
  if (--exec->refs != 0) return;
  for (size_t i = 0; i < exec->count; i++)
    if (exec->ops[i] != NULL) sim_op_free(exec->ops[i]);
  free(exec->ops);
  free(exec->disabled);
  free(exec);
}

void sim_exec_run(struct sim_exec *exec) {
  for (size_t i = 0; i < exec->count && atomic_load(&sim_sticky) == 0; i++)
    if (exec->ops[i] != NULL && !exec->disabled[i]) sim_op_run(exec->ops[i]);
}

static CUresult graph_launch(CUgraphExec handle, CUstream on, CUstream fallback) {
  pthread_mutex_lock(&sim_lock);
  struct sim_stream *stream = SIM_S(on);
  CUresult result = CUDA_ERROR_INVALID_HANDLE;
  if (!sim_handle_is(SIM_EXEC, handle)) sim_strict(result, "launch of graph %p", (void *)handle);
  else if (stream != NULL) {
    struct sim_exec *exec = (struct sim_exec *)handle;
    struct sim_op *op = sim_op_new(SIM_OP_GRAPH);
    exec->refs++;
    op->graph.exec = exec;
    for (size_t i = 0; i < exec->count; i++)
      for (size_t s = 0; exec->ops[i] != NULL && s < exec->ops[i]->span_count; s++)
        sim_op_span(op, exec->ops[i]->spans[s].base, exec->ops[i]->spans[s].bytes);
    result = sim_submit(stream, op, NULL);
  }
  pthread_mutex_unlock(&sim_lock);
  return result;
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec *out, CUgraph handle, unsigned long long flags) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  if (out == NULL || flags > 15) return CUDA_ERROR_INVALID_VALUE;
  if (flags & CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH) return sim_not_simulated("device-side graph launch");
  pthread_mutex_lock(&sim_lock);
  const struct sim_graph *graph = graph_of(handle);
  CUresult result = graph == NULL ? CUDA_ERROR_INVALID_HANDLE : graph->capturing ? CUDA_ERROR_ILLEGAL_STATE : CUDA_SUCCESS;
  if (result == CUDA_SUCCESS) {
    struct sim_exec *exec = calloc(1, sizeof *exec);
    if (exec == NULL) abort();
    exec->refs = 1;
    exec->count = graph->count;
    exec->ops = calloc(graph->count + 1, sizeof *exec->ops);
    exec->disabled = calloc(graph->count + 1, sizeof *exec->disabled);
    if (exec->ops == NULL || exec->disabled == NULL) abort();
    for (size_t i = 0; i < graph->count; i++)
      if (graph->nodes[i]->op != NULL) exec->ops[i] = op_clone(graph->nodes[i]->op);
    sim_handle_add(SIM_EXEC, exec);
    *out = (CUgraphExec)exec;
  }
  pthread_mutex_unlock(&sim_lock);
  return result;
}

CAPTURE_CALLS(, CU_STREAM_LEGACY)
CAPTURE_CALLS(_ptsz, CU_STREAM_PER_THREAD)

CUresult cuGraphInstantiate_v2(CUgraphExec *exec, CUgraph graph, CUgraphNode *node, char *log, size_t bytes) {
  if (node != NULL) *node = NULL;
  if (log != NULL && bytes != 0) *log = '\0';
  return cuGraphInstantiateWithFlags(exec, graph, 0);
}
CUresult cuGraphInstantiate(CUgraphExec *exec, CUgraph graph, CUgraphNode *node, char *log, size_t bytes) {
  return cuGraphInstantiate_v2(exec, graph, node, log, bytes);
}

CUresult cuGraphExecDestroy(CUgraphExec handle) {
  SIM_ENTER(SIM_NEED_INIT);
  pthread_mutex_lock(&sim_lock);
  CUresult result = CUDA_SUCCESS;
  if (!sim_handle_is(SIM_EXEC, handle)) result = sim_strict(CUDA_ERROR_INVALID_HANDLE, "destroy of executable graph %p", (void *)handle);
  else {
    sim_handle_remove(handle);
    sim_exec_release((struct sim_exec *)handle);
  }
  pthread_mutex_unlock(&sim_lock);
  return result;
}

/* ---- graphs built by hand ---- */

CUresult cuGraphCreate(CUgraph *graph, unsigned flags) {
  SIM_ENTER(SIM_NEED_INIT);
  if (graph == NULL || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  pthread_mutex_lock(&sim_lock);
  *graph = (CUgraph)graph_new();
  pthread_mutex_unlock(&sim_lock);
  return CUDA_SUCCESS;
}

CUresult cuGraphDestroy(CUgraph handle) {
  SIM_ENTER(SIM_NEED_INIT);
  pthread_mutex_lock(&sim_lock);
  struct sim_graph *graph = graph_of(handle);
  CUresult result = CUDA_SUCCESS;
  if (graph == NULL || graph->capturing) result = sim_strict(CUDA_ERROR_INVALID_HANDLE, "destroy of graph %p", (void *)handle);
  else graph_free(graph);
  pthread_mutex_unlock(&sim_lock);
  return result;
}

/* locks: held. owns: op. */
static CUresult add(CUgraphNode *out, CUgraph handle, const CUgraphNode *after, size_t count, struct sim_op *op) {
  struct sim_graph *graph = graph_of(handle);
  uint32_t dependencies[SIM_TAIL_MAX];
  CUresult result = out == NULL || graph == NULL || count > SIM_TAIL_MAX || (count != 0 && after == NULL) ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
  for (size_t i = 0; result == CUDA_SUCCESS && i < count; i++) {
    const struct node *node = node_of(after[i]);
    if (node == NULL || node->graph != graph) result = CUDA_ERROR_INVALID_VALUE;
    else dependencies[i] = node->index;
  }
  struct node *node = result == CUDA_SUCCESS ? node_add(graph, op, dependencies, count) : NULL;
  if (node == NULL) {
    if (op != NULL) sim_op_free(op);
    return result == CUDA_SUCCESS ? CUDA_ERROR_OUT_OF_MEMORY : result;
  }
  *out = (CUgraphNode)node;
  return CUDA_SUCCESS;
}

static CUresult kernel_op(const CUDA_KERNEL_NODE_PARAMS *params, struct sim_op **op) {
  const uint32_t grid[3] = {params->gridDimX, params->gridDimY, params->gridDimZ};
  const uint32_t block[3] = {params->blockDimX, params->blockDimY, params->blockDimZ};
  const CUfunction function = params->func != NULL ? params->func : (CUfunction)params->kern;
  return sim_launch_op(function, grid, block, params->sharedMemBytes, params->kernelParams, params->extra, op);
}

CUresult cuGraphAddKernelNode_v2(CUgraphNode *node, CUgraph graph, const CUgraphNode *after, size_t count, const CUDA_KERNEL_NODE_PARAMS *params) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  if (params == NULL) return CUDA_ERROR_INVALID_VALUE;
  struct sim_op *op = NULL;
  pthread_mutex_lock(&sim_lock);
  CUresult result = kernel_op(params, &op);
  if (result == CUDA_SUCCESS) result = add(node, graph, after, count, op);
  pthread_mutex_unlock(&sim_lock);
  return result;
}

CUresult cuGraphAddMemcpyNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *after, size_t count, const CUDA_MEMCPY3D *what, CUcontext context) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  (void)context;
  if (what == NULL) return CUDA_ERROR_INVALID_VALUE;
  struct sim_op *op = NULL;
  bool pageable;
  pthread_mutex_lock(&sim_lock);
  CUresult result = sim_copy3d_op(what, &op, &pageable);
  if (result == CUDA_SUCCESS) result = add(node, graph, after, count, op);
  pthread_mutex_unlock(&sim_lock);
  return result;
}

CUresult cuGraphAddMemsetNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *after, size_t count, const CUDA_MEMSET_NODE_PARAMS *what, CUcontext context) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  (void)context;
  if (what == NULL || (what->elementSize != 1 && what->elementSize != 2 && what->elementSize != 4)) return CUDA_ERROR_INVALID_VALUE;
  if (what->width == 0 || what->height == 0) return CUDA_ERROR_INVALID_VALUE;
  struct sim_op *op = NULL;
  pthread_mutex_lock(&sim_lock);
  CUresult result = sim_fill_op(what->dst, what->pitch, what->value, what->elementSize, what->width, what->height, &op);
  if (result == CUDA_SUCCESS) result = add(node, graph, after, count, op);
  pthread_mutex_unlock(&sim_lock);
  return result;
}

CUresult cuGraphAddHostNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *after, size_t count, const CUDA_HOST_NODE_PARAMS *what) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  if (what == NULL || what->fn == NULL) return CUDA_ERROR_INVALID_VALUE;
  struct sim_op *op = sim_op_new(SIM_OP_HOST);
  op->host.run = what->fn;
  op->host.data = what->userData;
  pthread_mutex_lock(&sim_lock);
  const CUresult result = add(node, graph, after, count, op);
  pthread_mutex_unlock(&sim_lock);
  return result;
}

CUresult cuGraphAddEmptyNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *after, size_t count) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  pthread_mutex_lock(&sim_lock);
  const CUresult result = add(node, graph, after, count, NULL);
  pthread_mutex_unlock(&sim_lock);
  return result;
}

/* ---- questions and changes ---- */

CUresult cuGraphGetNodes(CUgraph handle, CUgraphNode *nodes, size_t *count) {
  SIM_ENTER(SIM_NEED_INIT);
  if (count == NULL) return CUDA_ERROR_INVALID_VALUE;
  pthread_mutex_lock(&sim_lock);
  const struct sim_graph *graph = graph_of(handle);
  for (size_t i = 0; graph != NULL && nodes != NULL && i < *count; i++) nodes[i] = i < graph->count ? (CUgraphNode)graph->nodes[i] : NULL;
  if (graph != NULL && (nodes == NULL || *count > graph->count)) *count = graph->count;
  pthread_mutex_unlock(&sim_lock);
  return graph == NULL ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS;
}

CUresult cuGraphNodeGetType(CUgraphNode handle, CUgraphNodeType *type) {
  SIM_ENTER(SIM_NEED_INIT);
  if (type == NULL) return CUDA_ERROR_INVALID_VALUE;
  const struct node *node = node_of(handle);
  if (node == NULL) return CUDA_ERROR_INVALID_HANDLE;
  *type = node->type;
  return CUDA_SUCCESS;
}

CUresult cuGraphExecKernelNodeSetParams_v2(CUgraphExec exec_handle, CUgraphNode node_handle, const CUDA_KERNEL_NODE_PARAMS *params) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  if (params == NULL || !sim_handle_is(SIM_EXEC, exec_handle)) return CUDA_ERROR_INVALID_VALUE;
  struct sim_exec *exec = (struct sim_exec *)exec_handle;
  struct sim_op *op = NULL;
  pthread_mutex_lock(&sim_lock);
  const struct node *node = node_of(node_handle);
  CUresult result = node == NULL || node->type != CU_GRAPH_NODE_TYPE_KERNEL || node->index >= exec->count ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
  if (result == CUDA_SUCCESS) result = kernel_op(params, &op);
  struct sim_context *context = sim_current();
  if (result == CUDA_SUCCESS) result = sim_context_wait(context); /* a running launch still reads the old arguments */
  if (result == CUDA_SUCCESS) {
    sim_op_free(exec->ops[node->index]);
    exec->ops[node->index] = op;
  } else if (op != NULL) {
    sim_op_free(op);
  }
  pthread_mutex_unlock(&sim_lock);
  return result;
}
