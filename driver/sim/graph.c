/* SPDX-License-Identifier: Apache-2.0 */
/* graph.c: graphs and the nodes they are built from. */
#include "graph.h"

#define GRAPH_NODES_MAX (1u << 20)

static uint64_t next_node_id = 1; /* locks: sim_lock */

/* ---- graphs ---- */

struct sim_graph *sim_graph_new(void) {
  struct sim_graph *graph = calloc(1, sizeof *graph);
  if (graph == NULL) abort();
  sim_handle_add(SIM_GRAPH, graph);
  return graph;
}

void sim_node_free(struct node *node) {
  if (node->op != NULL) sim_op_free(node->op);
  if (node->child != NULL) sim_graph_free(node->child);
  free(node->dependencies);
  free(node->params);
  free(node->attributes);
  free(node);
}

void sim_graph_free(struct sim_graph *graph) {
  for (size_t i = 0; i < graph->count; i++) {
    sim_handle_remove(graph->nodes[i]);
    sim_node_free(graph->nodes[i]);
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
                        .id = next_node_id++,
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

/* Spans and bytes belong to the copy. */
struct sim_op *sim_op_clone(const struct sim_op *op) {
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

struct sim_graph *sim_graph_of(CUgraph handle) {
  return sim_handle_is(SIM_GRAPH, handle) ? (struct sim_graph *)handle : NULL;
}
struct node *sim_node_of(CUgraphNode handle) {
  return sim_handle_is(SIM_NODE, handle) ? (struct node *)handle : NULL;
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
  struct sim_graph *graph = sim_graph_of(handle);
  CUresult result = CUDA_SUCCESS;
  if (graph == NULL || graph->capturing || graph->child)
    result = sim_strict(CUDA_ERROR_INVALID_HANDLE, "destroy of graph %p", (void *)handle);
  else sim_graph_free(graph);
  pthread_mutex_unlock(&sim_lock);
  return result;
}

/* locks: held. owns: op. */
static CUresult add(CUgraphNode *out, CUgraph handle, const CUgraphNode *after, size_t count,
                    struct sim_op *op) {
  struct sim_graph *graph = sim_graph_of(handle);
  uint32_t dependencies[SIM_TAIL_MAX];
  CUresult result =
      out == NULL || graph == NULL || count > SIM_TAIL_MAX || (count != 0 && after == NULL)
          ? CUDA_ERROR_INVALID_VALUE
          : CUDA_SUCCESS;
  for (size_t i = 0; result == CUDA_SUCCESS && i < count; i++) {
    const struct node *node = sim_node_of(after[i]);
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

CUresult cuGraphAddKernelNode_v2(CUgraphNode *node, CUgraph graph, const CUgraphNode *after,
                                 size_t count, const CUDA_KERNEL_NODE_PARAMS *params) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  if (params == NULL) return CUDA_ERROR_INVALID_VALUE;
  struct sim_op *op = NULL;
  pthread_mutex_lock(&sim_lock);
  CUresult result = sim_kernel_op(params, &op);
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
  if (what == NULL) return CUDA_ERROR_INVALID_VALUE;
  struct sim_op *op = NULL;
  pthread_mutex_lock(&sim_lock);
  CUresult result = sim_memset_op(what, &op);
  if (result == CUDA_SUCCESS) result = add(node, graph, after, count, op);
  pthread_mutex_unlock(&sim_lock);
  return result;
}

CUresult cuGraphAddHostNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *after,
                            size_t count, const CUDA_HOST_NODE_PARAMS *what) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  if (what == NULL) return CUDA_ERROR_INVALID_VALUE;
  struct sim_op *op = NULL;
  pthread_mutex_lock(&sim_lock);
  CUresult result = sim_host_op(what, &op);
  if (result == CUDA_SUCCESS) result = add(node, graph, after, count, op);
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

CUresult cuGraphAddKernelNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *after,
                              size_t count, const CUDA_KERNEL_NODE_PARAMS_v1 *params) {
  CUDA_KERNEL_NODE_PARAMS wide = {0};
  if (params == NULL) return CUDA_ERROR_INVALID_VALUE;
  memcpy(&wide, params, sizeof *params);
  return cuGraphAddKernelNode_v2(node, graph, after, count, &wide);
}

CUresult cuGraphAddChildGraphNode(CUgraphNode *out, CUgraph graph, const CUgraphNode *after,
                                  size_t count, CUgraph child) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  pthread_mutex_lock(&sim_lock);
  const struct sim_graph *of = sim_graph_of(child);
  CUresult result = of == NULL || of->capturing || of == sim_graph_of(graph)
                        ? CUDA_ERROR_INVALID_VALUE
                        : add(out, graph, after, count, NULL);
  if (result == CUDA_SUCCESS) {
    struct node *node = sim_node_of(*out);
    node->type = CU_GRAPH_NODE_TYPE_GRAPH;
    node->child = sim_graph_clone(of);
    node->child->child = true;
  }
  pthread_mutex_unlock(&sim_lock);
  return result;
}

CUresult cuGraphChildGraphNodeGetGraph(CUgraphNode handle, CUgraph *graph) {
  SIM_ENTER(SIM_NEED_INIT);
  const struct node *node = sim_node_of(handle);
  if (graph == NULL || node == NULL || node->child == NULL) return CUDA_ERROR_INVALID_VALUE;
  *graph = (CUgraph)node->child;
  return CUDA_SUCCESS;
}

/* ---- questions ---- */

CUresult cuGraphGetNodes(CUgraph handle, CUgraphNode *nodes, size_t *count) {
  SIM_ENTER(SIM_NEED_INIT);
  if (count == NULL) return CUDA_ERROR_INVALID_VALUE;
  pthread_mutex_lock(&sim_lock);
  const struct sim_graph *graph = sim_graph_of(handle);
  for (size_t i = 0; graph != NULL && nodes != NULL && i < *count; i++)
    nodes[i] = i < graph->count ? (CUgraphNode)graph->nodes[i] : NULL;
  if (graph != NULL && (nodes == NULL || *count > graph->count)) *count = graph->count;
  pthread_mutex_unlock(&sim_lock);
  return graph == NULL ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS;
}

CUresult cuGraphNodeGetType(CUgraphNode handle, CUgraphNodeType *type) {
  SIM_ENTER(SIM_NEED_INIT);
  if (type == NULL) return CUDA_ERROR_INVALID_VALUE;
  const struct node *node = sim_node_of(handle);
  if (node == NULL) return CUDA_ERROR_INVALID_HANDLE;
  *type = node->type;
  return CUDA_SUCCESS;
}
