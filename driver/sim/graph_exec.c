/* SPDX-License-Identifier: Apache-2.0 */
/*
 * graph_exec.c: executable graphs. A launch is one stream operation that runs the nodes in an order
 * their dependencies allow; launches of one executable graph follow each other on whatever streams.
 */
#include "graph.h"

struct exec {
  struct sim_exec *run;
  struct sim_stream *stream; /* of the last launch; held */
  uint64_t seq;
};

static struct exec *exec_of(CUgraphExec handle) {
  return sim_handle_is(SIM_EXEC, handle) ? (struct exec *)handle : NULL;
}

/* ---- what runs ---- */

void sim_exec_release(struct sim_exec *run) {
  if (--run->refs != 0) return;
  for (size_t i = 0; i < run->count; i++) {
    if (run->items[i].op != NULL) sim_op_free(run->items[i].op);
    if (run->items[i].child != NULL) sim_exec_release(run->items[i].child);
  }
  free(run->items);
  free(run);
}

void sim_exec_run(struct sim_exec *run) {
  for (size_t i = 0; i < run->count && atomic_load(&sim_sticky) == 0; i++) {
    const struct sim_item *item = &run->items[i];
    if (item->disabled) continue;
    if (item->op != NULL) sim_op_run(item->op);
    if (item->child != NULL) sim_exec_run(item->child);
  }
}

static struct sim_exec *run_new(size_t count) {
  struct sim_exec *run = calloc(1, sizeof *run);
  if (run == NULL) abort();
  run->refs = 1;
  run->items = calloc(count + 1, sizeof *run->items);
  if (run->items == NULL) abort();
  return run;
}

static struct sim_exec *run_clone(const struct sim_exec *from) {
  struct sim_exec *run = run_new(from->count);
  run->count = from->count;
  for (size_t i = 0; i < from->count; i++) {
    run->items[i] = from->items[i];
    if (from->items[i].op != NULL) run->items[i].op = sim_op_clone(from->items[i].op);
    if (from->items[i].child != NULL) run->items[i].child = run_clone(from->items[i].child);
  }
  return run;
}

static struct sim_exec *run_of(const struct sim_graph *graph);

static void take(struct sim_exec *run, const struct node *node) {
  run->items[run->count++] =
      (struct sim_item){.id = node->id,
                        .index = node->index,
                        .type = node->type,
                        .op = node->op == NULL ? NULL : sim_op_clone(node->op),
                        .child = node->child == NULL ? NULL : run_of(node->child)};
}

/* Depth first: a node after everything it depends on. returns: false for a cycle. */
static bool visit(struct sim_exec *run, const struct sim_graph *graph, uint32_t index,
                  unsigned char *seen) {
  if (seen[index] != 0) return seen[index] == 2;
  seen[index] = 1;
  const struct node *node = graph->nodes[index];
  for (size_t d = 0; d < node->dependency_count; d++)
    if (!visit(run, graph, node->dependencies[d], seen)) return false;
  seen[index] = 2;
  take(run, node);
  return true;
}

/* returns: NULL when there is a cycle. */
static struct sim_exec *run_of(const struct sim_graph *graph) {
  struct sim_exec *run = run_new(graph->count);
  unsigned char *seen = calloc(graph->count + 1, 1);
  bool good = true;
  if (seen == NULL) abort();
  for (size_t i = 0; i < graph->count && good; i++) good = visit(run, graph, (uint32_t)i, seen);
  free(seen);
  if (good) return run;
  sim_exec_release(run);
  return NULL;
}

static void add_spans(struct sim_op *op, const struct sim_exec *run) {
  for (size_t i = 0; i < run->count; i++) {
    const struct sim_op *of = run->items[i].op;
    for (size_t s = 0; of != NULL && s < of->span_count; s++)
      sim_op_span(op, of->spans[s].base, of->spans[s].bytes);
    if (run->items[i].child != NULL) add_spans(op, run->items[i].child);
  }
}

/* ---- instantiation and launch ---- */

static CUresult graph_launch(CUgraphExec handle, CUstream on, CUstream fallback) {
  pthread_mutex_lock(&sim_lock);
  struct sim_stream *stream = SIM_S(on);
  struct exec *exec = exec_of(handle);
  CUresult result = CUDA_ERROR_INVALID_HANDLE;
  if (exec == NULL) {
    sim_strict(result, "launch of graph %p", (void *)handle);
  } else if (stream != NULL) {
    struct sim_op *op = sim_op_new(SIM_OP_GRAPH);
    exec->run->refs++;
    op->graph.exec = exec->run;
    add_spans(op, exec->run);
    if (exec->stream != NULL && stream->capture == NULL)
      sim_op_wait_for(op, exec->stream, exec->seq);
    const bool captured = stream->capture != NULL;
    result = sim_submit(stream, op, &exec->seq);
    if (result == CUDA_SUCCESS && !captured && exec->stream != stream) {
      if (exec->stream != NULL) sim_stream_release(exec->stream);
      exec->stream = stream;
      stream->refs++;
    }
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
  const struct sim_graph *graph = sim_graph_of(handle);
  CUresult result = graph == NULL      ? CUDA_ERROR_INVALID_HANDLE
                    : graph->capturing ? CUDA_ERROR_ILLEGAL_STATE
                                       : CUDA_SUCCESS;
  struct sim_exec *run = result == CUDA_SUCCESS ? run_of(graph) : NULL;
  if (result == CUDA_SUCCESS && run == NULL) result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS) {
    struct exec *exec = calloc(1, sizeof *exec);
    if (exec == NULL) abort();
    exec->run = run;
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
  struct exec *exec = exec_of(handle);
  CUresult result = CUDA_SUCCESS;
  if (exec == NULL) {
    result =
        sim_strict(CUDA_ERROR_INVALID_HANDLE, "destroy of executable graph %p", (void *)handle);
  } else {
    sim_handle_remove(exec);
    sim_exec_release(exec->run);
    if (exec->stream != NULL) sim_stream_release(exec->stream);
    free(exec);
  }
  pthread_mutex_unlock(&sim_lock);
  return result;
}

/* ---- updates ---- */

/* What may be changed: launches under way keep what they were given. */
static struct sim_exec *own(struct exec *exec) {
  if (exec->run->refs > 1) {
    struct sim_exec *run = run_clone(exec->run);
    sim_exec_release(exec->run);
    exec->run = run;
  }
  return exec->run;
}

/* The node is named by the graph the exec was made from. locks: held. */
static struct sim_item *item_of(CUgraphExec exec_handle, CUgraphNode node_handle) {
  struct exec *exec = exec_of(exec_handle);
  const struct node *node = sim_node_of(node_handle);
  if (exec == NULL || node == NULL) return NULL;
  struct sim_exec *run = own(exec);
  for (size_t i = 0; i < run->count; i++)
    if (run->items[i].id == node->id) return &run->items[i];
  return NULL;
}

/* owns: op. */
static CUresult set_op(struct sim_item *item, CUgraphNodeType type, CUresult made,
                       struct sim_op *op) {
  if (made == CUDA_SUCCESS && (item == NULL || item->type != type)) made = CUDA_ERROR_INVALID_VALUE;
  if (made == CUDA_SUCCESS) {
    sim_op_free(item->op);
    item->op = op;
  } else if (op != NULL) {
    sim_op_free(op);
  }
  return made;
}

#define SET(name, parameters, kind, make)                                    \
  CUresult name parameters {                                                 \
    SIM_ENTER(SIM_NEED_CONTEXT);                                             \
    struct sim_op *op = NULL;                                                \
    if (params == NULL) return CUDA_ERROR_INVALID_VALUE;                     \
    pthread_mutex_lock(&sim_lock);                                           \
    const CUresult made = make;                                              \
    const CUresult result = set_op(item_of(exec, node), kind, made, op);     \
    pthread_mutex_unlock(&sim_lock);                                         \
    return result;                                                           \
  }

static CUresult copy_op(const CUDA_MEMCPY3D *params, struct sim_op **op) {
  bool pageable;
  return sim_copy3d_op(params, op, &pageable);
}

SET(cuGraphExecKernelNodeSetParams_v2,
    (CUgraphExec exec, CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS *params),
    CU_GRAPH_NODE_TYPE_KERNEL, sim_kernel_op(params, &op))
SET(cuGraphExecMemcpyNodeSetParams,
    (CUgraphExec exec, CUgraphNode node, const CUDA_MEMCPY3D *params, CUcontext context),
    CU_GRAPH_NODE_TYPE_MEMCPY, ((void)context, copy_op(params, &op)))
SET(cuGraphExecMemsetNodeSetParams,
    (CUgraphExec exec, CUgraphNode node, const CUDA_MEMSET_NODE_PARAMS *params, CUcontext context),
    CU_GRAPH_NODE_TYPE_MEMSET, ((void)context, sim_memset_op(params, &op)))
SET(cuGraphExecHostNodeSetParams,
    (CUgraphExec exec, CUgraphNode node, const CUDA_HOST_NODE_PARAMS *params),
    CU_GRAPH_NODE_TYPE_HOST, sim_host_op(params, &op))
SET(cuGraphExecNodeSetParams, (CUgraphExec exec, CUgraphNode node, CUgraphNodeParams *params),
    params->type, sim_params_op(params, params->type, &op))

CUresult cuGraphExecKernelNodeSetParams(CUgraphExec exec, CUgraphNode node,
                                        const CUDA_KERNEL_NODE_PARAMS_v1 *params) {
  CUDA_KERNEL_NODE_PARAMS wide = {0};
  if (params == NULL) return CUDA_ERROR_INVALID_VALUE;
  memcpy(&wide, params, sizeof *params);
  return cuGraphExecKernelNodeSetParams_v2(exec, node, &wide);
}

CUresult cuGraphExecChildGraphNodeSetParams(CUgraphExec exec, CUgraphNode node, CUgraph child) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  pthread_mutex_lock(&sim_lock);
  struct sim_item *item = item_of(exec, node);
  const struct sim_graph *graph = sim_graph_of(child);
  CUresult result = CUDA_ERROR_INVALID_VALUE;
  if (item != NULL && item->child != NULL && graph != NULL && graph->count == item->child->count) {
    struct sim_exec *run = run_of(graph);
    if (run != NULL) {
      sim_exec_release(item->child);
      item->child = run;
      result = CUDA_SUCCESS;
    }
  }
  pthread_mutex_unlock(&sim_lock);
  return result;
}

CUresult cuGraphNodeSetEnabled(CUgraphExec exec, CUgraphNode node, unsigned enabled) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  pthread_mutex_lock(&sim_lock);
  struct sim_item *item = item_of(exec, node);
  const bool may = item != NULL && (item->type == CU_GRAPH_NODE_TYPE_KERNEL ||
                                    item->type == CU_GRAPH_NODE_TYPE_MEMCPY ||
                                    item->type == CU_GRAPH_NODE_TYPE_MEMSET);
  if (may) item->disabled = enabled == 0;
  pthread_mutex_unlock(&sim_lock);
  return may ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuGraphNodeGetEnabled(CUgraphExec exec, CUgraphNode node, unsigned *enabled) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  pthread_mutex_lock(&sim_lock);
  const struct sim_item *item = enabled == NULL ? NULL : item_of(exec, node);
  if (item != NULL) *enabled = item->disabled ? 0 : 1;
  pthread_mutex_unlock(&sim_lock);
  return item == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

/* Nodes are paired in the order they were added in. locks: held. */
static CUresult update(struct exec *exec, const struct sim_graph *graph) {
  struct sim_exec *run = exec->run;
  if (graph->count != run->count) return CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
  for (size_t i = 0; i < run->count; i++)
    if (graph->nodes[run->items[i].index]->type != run->items[i].type)
      return CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
  run = own(exec);
  for (size_t i = 0; i < run->count; i++) {
    struct sim_item *item = &run->items[i];
    const struct node *node = graph->nodes[item->index];
    if (item->op != NULL) {
      sim_op_free(item->op);
      item->op = sim_op_clone(node->op);
    }
    if (item->child != NULL) {
      sim_exec_release(item->child);
      item->child = run_of(node->child);
      if (item->child == NULL) abort(); /* a child has been taken apart already when it was added */
    }
  }
  return CUDA_SUCCESS;
}

CUresult cuGraphExecUpdate_v2(CUgraphExec handle, CUgraph graph_handle,
                              CUgraphExecUpdateResultInfo *info) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  if (info == NULL) return CUDA_ERROR_INVALID_VALUE;
  pthread_mutex_lock(&sim_lock);
  struct exec *exec = exec_of(handle);
  const struct sim_graph *graph = sim_graph_of(graph_handle);
  const CUresult result =
      exec == NULL || graph == NULL ? CUDA_ERROR_INVALID_VALUE : update(exec, graph);
  pthread_mutex_unlock(&sim_lock);
  *info = (CUgraphExecUpdateResultInfo){
      .result = result == CUDA_SUCCESS ? CU_GRAPH_EXEC_UPDATE_SUCCESS
                                       : CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED};
  return result;
}

CUresult cuGraphExecUpdate(CUgraphExec exec, CUgraph graph, CUgraphNode *node,
                           CUgraphExecUpdateResult *result) {
  CUgraphExecUpdateResultInfo info;
  const CUresult code = cuGraphExecUpdate_v2(exec, graph, &info);
  if (node != NULL) *node = NULL;
  if (result != NULL) *result = info.result;
  return code;
}
