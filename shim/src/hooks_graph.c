/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hooks_graph.c: executable graphs. What the driver has agreed to is told to graph.c, which knows
 * from it what a launch touches and may run one as several.
 */
#include "graph.h"

/*
 * The driver looks up the addresses of copies and fills when they become nodes, when graphs are
 * copied, instantiated and updated: meanwhile nothing may be unmapped to be mapped elsewhere. A
 * remap under way is waited for.
 */
static inline CUresult hold(bool *slow) {
  *slow = gb_slow_begin();
  return *slow ? gb_begin_copy_slow(NULL, 0, GB_STREAM_SYNC) : CUDA_SUCCESS;
}

#define GB_HELD(call)                                                                   \
  do {                                                                                  \
    bool slow;                                                                          \
    CUresult result = hold(&slow);                                                      \
    if (result != CUDA_SUCCESS) return result;                                          \
    result = (call);                                                                    \
    gb_end(slow);                                                                       \
    return result;                                                                      \
  } while (0)

/* ---- nodes and graphs ---- */

GB_WRAP(cuGraphAddMemcpyNode, CUgraphNode *node, CUgraph graph, const CUgraphNode *after,
        size_t count, const CUDA_MEMCPY3D *params, CUcontext context) {
  GB_HELD(real(node, graph, after, count, params, context));
}
GB_WRAP(cuGraphAddMemsetNode, CUgraphNode *node, CUgraph graph, const CUgraphNode *after,
        size_t count, const CUDA_MEMSET_NODE_PARAMS *params, CUcontext context) {
  GB_HELD(real(node, graph, after, count, params, context));
}
GB_WRAP(cuGraphAddChildGraphNode, CUgraphNode *node, CUgraph graph, const CUgraphNode *after,
        size_t count, CUgraph child) {
  GB_HELD(real(node, graph, after, count, child));
}
GB_WRAP(cuGraphAddNode, CUgraphNode *node, CUgraph graph, const CUgraphNode *after, size_t count,
        CUgraphNodeParams *params) {
  GB_HELD(real(node, graph, after, count, params));
}
GB_WRAP(cuGraphAddNode_v2, CUgraphNode *node, CUgraph graph, const CUgraphNode *after,
        const CUgraphEdgeData *edges, size_t count, CUgraphNodeParams *params) {
  GB_HELD(real(node, graph, after, edges, count, params));
}
GB_WRAP(cuGraphMemcpyNodeSetParams, CUgraphNode node, const CUDA_MEMCPY3D *params) {
  GB_HELD(real(node, params));
}
GB_WRAP(cuGraphMemsetNodeSetParams, CUgraphNode node, const CUDA_MEMSET_NODE_PARAMS *params) {
  GB_HELD(real(node, params));
}
GB_WRAP(cuGraphNodeSetParams, CUgraphNode node, CUgraphNodeParams *params) {
  GB_HELD(real(node, params));
}
GB_WRAP(cuGraphClone, CUgraph *clone, CUgraph graph) { GB_HELD(real(clone, graph)); }

/* ---- from graph to executable graph ---- */

/* The driver's answer; `then` only when it is success. */
#define GB_FOLLOWED(call, then)                                                         \
  do {                                                                                  \
    bool slow;                                                                          \
    CUresult result = hold(&slow);                                                      \
    if (result != CUDA_SUCCESS) return result;                                          \
    result = (call);                                                                    \
    if (result == CUDA_SUCCESS) then;                                                   \
    gb_end(slow);                                                                       \
    return result;                                                                      \
  } while (0)

GB_WRAP(cuGraphInstantiate, CUgraphExec *exec, CUgraph graph, CUgraphNode *node, char *log,
        size_t bytes) {
  GB_FOLLOWED(real(exec, graph, node, log, bytes), gb_graph_instantiated(*exec, graph, 0));
}
GB_WRAP(cuGraphInstantiate_v2, CUgraphExec *exec, CUgraph graph, CUgraphNode *node, char *log,
        size_t bytes) {
  GB_FOLLOWED(real(exec, graph, node, log, bytes), gb_graph_instantiated(*exec, graph, 0));
}
GB_WRAP(cuGraphInstantiateWithFlags, CUgraphExec *exec, CUgraph graph, unsigned long long flags) {
  GB_FOLLOWED(real(exec, graph, flags), gb_graph_instantiated(*exec, graph, flags));
}
GB_WRAP(cuGraphInstantiateWithParams, CUgraphExec *exec, CUgraph graph,
        CUDA_GRAPH_INSTANTIATE_PARAMS *params) {
  GB_FOLLOWED(real(exec, graph, params), gb_graph_instantiated(*exec, graph, params->flags));
}
GB_WRAP(cuGraphExecDestroy, CUgraphExec exec) {
  gb_graph_exec_going(exec);
  return real(exec);
}

/* ---- updates ---- */

/* returns: the driver's answer, or success when what it refused was done another way. */
static CUresult updated(CUresult result, CUgraphExec exec, CUgraph graph) {
  if (result == CUDA_SUCCESS) gb_graph_exec_updated(exec, graph);
  bool refused = result == CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
  return refused && gb_graph_update_forced(exec, graph) ? CUDA_SUCCESS : result;
}

GB_WRAP(cuGraphExecUpdate, CUgraphExec exec, CUgraph graph, CUgraphNode *node,
        CUgraphExecUpdateResult *status) {
  bool slow;
  CUresult result = hold(&slow);
  if (result != CUDA_SUCCESS) return result;
  result = updated(real(exec, graph, node, status), exec, graph);
  gb_end(slow);
  if (result == CUDA_SUCCESS && node != NULL) *node = NULL;
  if (result == CUDA_SUCCESS && status != NULL) *status = CU_GRAPH_EXEC_UPDATE_SUCCESS;
  return result;
}
GB_WRAP(cuGraphExecUpdate_v2, CUgraphExec exec, CUgraph graph, CUgraphExecUpdateResultInfo *info) {
  bool slow;
  CUresult result = hold(&slow);
  if (result != CUDA_SUCCESS) return result;
  result = updated(real(exec, graph, info), exec, graph);
  gb_end(slow);
  if (result == CUDA_SUCCESS && info != NULL)
    *info = (CUgraphExecUpdateResultInfo){.result = CU_GRAPH_EXEC_UPDATE_SUCCESS};
  return result;
}

#define GB_CHANGED(call, ...)                                                                   \
  do {                                                                                          \
    bool slow;                                                                                  \
    CUresult result = hold(&slow);                                                              \
    if (result != CUDA_SUCCESS) return result;                                                  \
    result = (call);                                                                            \
    const struct gb_graph_change change = {__VA_ARGS__};                                        \
    if (result == CUDA_SUCCESS)                                                                 \
      result = gb_graph_node_changed(exec, node, &change);                                      \
    else if (result == CUDA_ERROR_INVALID_VALUE && gb_graph_node_forced(exec, node, &change))   \
      result = CUDA_SUCCESS;                                                                    \
    gb_end(slow);                                                                               \
    return result;                                                                              \
  } while (0)

GB_WRAP(cuGraphExecKernelNodeSetParams, CUgraphExec exec, CUgraphNode node,
        const CUDA_KERNEL_NODE_PARAMS_v1 *params) {
  CUDA_KERNEL_NODE_PARAMS wide = {0};
  if (params != NULL)
    wide = (CUDA_KERNEL_NODE_PARAMS){.func = params->func,
                                     .gridDimX = params->gridDimX,
                                     .gridDimY = params->gridDimY,
                                     .gridDimZ = params->gridDimZ,
                                     .blockDimX = params->blockDimX,
                                     .blockDimY = params->blockDimY,
                                     .blockDimZ = params->blockDimZ,
                                     .sharedMemBytes = params->sharedMemBytes,
                                     .kernelParams = params->kernelParams,
                                     .extra = params->extra};
  GB_CHANGED(real(exec, node, params), .type = CU_GRAPH_NODE_TYPE_KERNEL, .kernel = &wide);
}
GB_WRAP(cuGraphExecKernelNodeSetParams_v2, CUgraphExec exec, CUgraphNode node,
        const CUDA_KERNEL_NODE_PARAMS *params) {
  GB_CHANGED(real(exec, node, params), .type = CU_GRAPH_NODE_TYPE_KERNEL, .kernel = params);
}
GB_WRAP(cuGraphExecMemcpyNodeSetParams, CUgraphExec exec, CUgraphNode node,
        const CUDA_MEMCPY3D *params, CUcontext context) {
  GB_CHANGED(real(exec, node, params, context), .type = CU_GRAPH_NODE_TYPE_MEMCPY, .copy = params,
             .context = context);
}
GB_WRAP(cuGraphExecMemsetNodeSetParams, CUgraphExec exec, CUgraphNode node,
        const CUDA_MEMSET_NODE_PARAMS *params, CUcontext context) {
  GB_CHANGED(real(exec, node, params, context), .type = CU_GRAPH_NODE_TYPE_MEMSET, .fill = params,
             .context = context);
}
GB_WRAP(cuGraphExecHostNodeSetParams, CUgraphExec exec, CUgraphNode node,
        const CUDA_HOST_NODE_PARAMS *params) {
  GB_CHANGED(real(exec, node, params), .type = CU_GRAPH_NODE_TYPE_HOST, .host = params);
}
GB_WRAP(cuGraphExecChildGraphNodeSetParams, CUgraphExec exec, CUgraphNode node, CUgraph child) {
  GB_CHANGED(real(exec, node, child), .type = CU_GRAPH_NODE_TYPE_GRAPH, .child = child);
}
GB_WRAP(cuGraphExecNodeSetParams, CUgraphExec exec, CUgraphNode node, CUgraphNodeParams *params) {
  CUDA_MEMSET_NODE_PARAMS fill = {0};
  if (params == NULL) return real(exec, node, params);
  switch (params->type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
      GB_CHANGED(real(exec, node, params), .type = params->type, .kernel = &params->kernel);
    case CU_GRAPH_NODE_TYPE_MEMCPY:
      GB_CHANGED(real(exec, node, params), .type = params->type,
                 .copy = &params->memcpy.copyParams, .context = params->memcpy.copyCtx);
    case CU_GRAPH_NODE_TYPE_MEMSET:
      fill = (CUDA_MEMSET_NODE_PARAMS){params->memset.dst,         params->memset.pitch,
                                       params->memset.value,       params->memset.elementSize,
                                       params->memset.width,       params->memset.height};
      GB_CHANGED(real(exec, node, params), .type = params->type, .fill = &fill,
                 .context = params->memset.ctx);
    case CU_GRAPH_NODE_TYPE_HOST:
      GB_CHANGED(real(exec, node, params), .type = params->type, .host = &params->host);
    case CU_GRAPH_NODE_TYPE_GRAPH:
      GB_CHANGED(real(exec, node, params), .type = params->type, .child = params->graph.graph);
    default: return real(exec, node, params); /* graphs with other kinds run whole */
  }
}
GB_WRAP(cuGraphNodeSetEnabled, CUgraphExec exec, CUgraphNode node, unsigned enabled) {
  GB_FOLLOWED(real(exec, node, enabled), result = gb_graph_node_enabled(exec, node, enabled != 0));
}

/* ---- launches ---- */

GB_WRAP(cuGraphLaunch, CUgraphExec exec, CUstream stream) {
  bool thread = real != gb_real.cuGraphLaunch;
  bool follow = atomic_load_explicit(&gb_graph_follow, memory_order_relaxed);
  if (gb_recording(stream, thread)) return real(follow ? gb_graph_exec_of(exec) : exec, stream);
  if (GB_SLOW() || follow)
    return gb_graph_launch(exec, stream, gb_stream(stream, thread), real);
  bool slow;
  CUresult result =
      gb_begin_unknown(GB_UNKNOWN_GRAPH, gb_stream(stream, thread), &slow);
  if (result != CUDA_SUCCESS) return result;
  result = real(exec, stream);
  gb_end(slow);
  return result;
}

#define GB_SECTIONS GB_SECTION_GRAPH
#include "hooks_define.h"
