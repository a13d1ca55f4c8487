/* SPDX-License-Identifier: Apache-2.0 */
/*
 * graph.c: graphs. A graph is a list of operations in an order that respects their dependencies
 * (the order they were added in); a launch is one stream operation that runs them in that order.
 */
#include "graph.h"

#define GRAPH_NODES_MAX (1u << 20)

/* ---- graphs ---- */

struct sim_graph *sim_graph_new(void) {
  struct sim_graph *graph = calloc(1, sizeof *graph);
  if (graph == NULL) abort();
  sim_handle_add(SIM_GRAPH, graph);
  return graph;
}

void sim_graph_free(struct sim_graph *graph) {
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

struct node *sim_node_add(struct sim_graph *graph, struct sim_op *op, const uint32_t *dependencies,
                          size_t count) {
  if (graph->count == GRAPH_NODES_MAX) return NULL;
  struct node *node = calloc(1, sizeof *node);
  struct node **nodes = realloc(graph->nodes, (graph->count + 1) * sizeof *nodes);
  if (node == NULL || nodes == NULL) abort();
  graph->nodes = nodes;
  *node = (struct node){.graph = graph,
                        .index = (uint32_t)graph->count,
                        .op = op,
                        .type = op == NULL ? CU_GRAPH_NODE_TYPE_EMPTY : type_of(op),
                        .dependency_count = count};
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
  for (size_t i = 0; i < op->span_count; i++)
    sim_op_span(clone, op->spans[i].base, op->spans[i].bytes);
  if (op->bytes != NULL && op->kind == SIM_OP_KERNEL) {
    clone->bytes = malloc(op->kernel.param_bytes + 8);
    if (clone->bytes == NULL) abort();
    memcpy(clone->bytes, op->bytes, op->kernel.param_bytes + 8);
  }
  return clone;
}

static struct sim_graph *graph_of(CUgraph handle) {
  return sim_handle_is(SIM_GRAPH, handle) ? (struct sim_graph *)handle : NULL;
}
static struct node *node_of(CUgraphNode handle) {
  return sim_handle_is(SIM_NODE, handle) ? (struct node *)handle : NULL;
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
  if (flags & CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH)
    return sim_not_simulated("device-side graph launch");
  pthread_mutex_lock(&sim_lock);
  const struct sim_graph *graph = graph_of(handle);
  CUresult result = graph == NULL      ? CUDA_ERROR_INVALID_HANDLE
                    : graph->capturing ? CUDA_ERROR_ILLEGAL_STATE
                                       : CUDA_SUCCESS;
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

#define LAUNCH_CALLS(suffix, fallback)                                                          \
  CUresult cuGraphLaunch##suffix(CUgraphExec exec, CUstream stream) {                           \
    SIM_ENTER(SIM_NEED_CONTEXT);                                                                \
    return graph_launch(exec, stream, fallback);                                                \
  }                                                                                             \
  CUresult cuGraphUpload##suffix(CUgraphExec exec, CUstream stream) {                           \
    SIM_ENTER(SIM_NEED_CONTEXT);                                                                \
    (void)stream;                                                                               \
    return sim_handle_is(SIM_EXEC, exec) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;            \
  }                                                                                             \
  CUresult cuGraphInstantiateWithParams##suffix(CUgraphExec *exec, CUgraph graph,               \
                                                CUDA_GRAPH_INSTANTIATE_PARAMS *params) {        \
    if (params == NULL) return CUDA_ERROR_INVALID_VALUE;                                        \
    params->hErrNode_out = NULL;                                                                \
    const CUresult result = cuGraphInstantiateWithFlags(exec, graph, params->flags);            \
    params->result_out =                                                                        \
        result == CUDA_SUCCESS ? CUDA_GRAPH_INSTANTIATE_SUCCESS : CUDA_GRAPH_INSTANTIATE_ERROR; \
    return result;                                                                              \
  }

LAUNCH_CALLS(, CU_STREAM_LEGACY)
LAUNCH_CALLS(_ptsz, CU_STREAM_PER_THREAD)

CUresult cuGraphInstantiate_v2(CUgraphExec *exec, CUgraph graph, CUgraphNode *node, char *log,
                               size_t bytes) {
  if (node != NULL) *node = NULL;
  if (log != NULL && bytes != 0) *log = '\0';
  return cuGraphInstantiateWithFlags(exec, graph, 0);
}
CUresult cuGraphInstantiate(CUgraphExec *exec, CUgraph graph, CUgraphNode *node, char *log,
                            size_t bytes) {
  return cuGraphInstantiate_v2(exec, graph, node, log, bytes);
}

CUresult cuGraphExecDestroy(CUgraphExec handle) {
  SIM_ENTER(SIM_NEED_INIT);
  pthread_mutex_lock(&sim_lock);
  CUresult result = CUDA_SUCCESS;
  if (!sim_handle_is(SIM_EXEC, handle))
    result =
        sim_strict(CUDA_ERROR_INVALID_HANDLE, "destroy of executable graph %p", (void *)handle);
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
  *graph = (CUgraph)sim_graph_new();
  pthread_mutex_unlock(&sim_lock);
  return CUDA_SUCCESS;
}

CUresult cuGraphDestroy(CUgraph handle) {
  SIM_ENTER(SIM_NEED_INIT);
  pthread_mutex_lock(&sim_lock);
  struct sim_graph *graph = graph_of(handle);
  CUresult result = CUDA_SUCCESS;
  if (graph == NULL || graph->capturing)
    result = sim_strict(CUDA_ERROR_INVALID_HANDLE, "destroy of graph %p", (void *)handle);
  else sim_graph_free(graph);
  pthread_mutex_unlock(&sim_lock);
  return result;
}

/* locks: held. owns: op. */
static CUresult add(CUgraphNode *out, CUgraph handle, const CUgraphNode *after, size_t count,
                    struct sim_op *op) {
  struct sim_graph *graph = graph_of(handle);
  uint32_t dependencies[SIM_TAIL_MAX];
  CUresult result =
      out == NULL || graph == NULL || count > SIM_TAIL_MAX || (count != 0 && after == NULL)
          ? CUDA_ERROR_INVALID_VALUE
          : CUDA_SUCCESS;
  for (size_t i = 0; result == CUDA_SUCCESS && i < count; i++) {
    const struct node *node = node_of(after[i]);
    if (node == NULL || node->graph != graph) result = CUDA_ERROR_INVALID_VALUE;
    else dependencies[i] = node->index;
  }
  struct node *node = result == CUDA_SUCCESS ? sim_node_add(graph, op, dependencies, count) : NULL;
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
  return sim_launch_op(function, grid, block, params->sharedMemBytes, params->kernelParams,
                       params->extra, op);
}

CUresult cuGraphAddKernelNode_v2(CUgraphNode *node, CUgraph graph, const CUgraphNode *after,
                                 size_t count, const CUDA_KERNEL_NODE_PARAMS *params) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  if (params == NULL) return CUDA_ERROR_INVALID_VALUE;
  struct sim_op *op = NULL;
  pthread_mutex_lock(&sim_lock);
  CUresult result = kernel_op(params, &op);
  if (result == CUDA_SUCCESS) result = add(node, graph, after, count, op);
  pthread_mutex_unlock(&sim_lock);
  return result;
}

CUresult cuGraphAddMemcpyNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *after,
                              size_t count, const CUDA_MEMCPY3D *what, CUcontext context) {
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

CUresult cuGraphAddMemsetNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *after,
                              size_t count, const CUDA_MEMSET_NODE_PARAMS *what,
                              CUcontext context) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  (void)context;
  if (what == NULL || (what->elementSize != 1 && what->elementSize != 2 && what->elementSize != 4))
    return CUDA_ERROR_INVALID_VALUE;
  if (what->width == 0 || what->height == 0) return CUDA_ERROR_INVALID_VALUE;
  struct sim_op *op = NULL;
  pthread_mutex_lock(&sim_lock);
  CUresult result = sim_fill_op(what->dst, what->pitch, what->value, what->elementSize, what->width,
                                what->height, &op);
  if (result == CUDA_SUCCESS) result = add(node, graph, after, count, op);
  pthread_mutex_unlock(&sim_lock);
  return result;
}

CUresult cuGraphAddHostNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *after,
                            size_t count, const CUDA_HOST_NODE_PARAMS *what) {
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

CUresult cuGraphAddEmptyNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *after,
                             size_t count) {
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
  for (size_t i = 0; graph != NULL && nodes != NULL && i < *count; i++)
    nodes[i] = i < graph->count ? (CUgraphNode)graph->nodes[i] : NULL;
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

CUresult cuGraphExecKernelNodeSetParams_v2(CUgraphExec exec_handle, CUgraphNode node_handle,
                                           const CUDA_KERNEL_NODE_PARAMS *params) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  if (params == NULL || !sim_handle_is(SIM_EXEC, exec_handle)) return CUDA_ERROR_INVALID_VALUE;
  struct sim_exec *exec = (struct sim_exec *)exec_handle;
  struct sim_op *op = NULL;
  pthread_mutex_lock(&sim_lock);
  const struct node *node = node_of(node_handle);
  CUresult result =
      node == NULL || node->type != CU_GRAPH_NODE_TYPE_KERNEL || node->index >= exec->count
          ? CUDA_ERROR_INVALID_VALUE
          : CUDA_SUCCESS;
  if (result == CUDA_SUCCESS) result = kernel_op(params, &op);
  struct sim_context *context = sim_current();
  if (result == CUDA_SUCCESS)
    result = sim_context_wait(context); /* a running launch still reads the old arguments */
  if (result == CUDA_SUCCESS) {
    sim_op_free(exec->ops[node->index]);
    exec->ops[node->index] = op;
  } else if (op != NULL) {
    sim_op_free(op);
  }
  pthread_mutex_unlock(&sim_lock);
  return result;
}
