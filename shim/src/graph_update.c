/* SPDX-License-Identifier: Apache-2.0 */
/*
 * graph_update.c: changes of executable graphs. Each is made to the clone, so that pieces built
 * later have it, and to the piece that is there.
 */
#include <stdlib.h>
#include <string.h>

#include "config.h"
#include "graph.h"

/* ---- one node ---- */

static CUresult set_clone(const struct gb_graph_node *node, const struct gb_graph_change *change) {
  if (change->kernel != NULL)
    return gb_real.cuGraphKernelNodeSetParams_v2(node->node, change->kernel);
  if (change->copy != NULL) return gb_real.cuGraphMemcpyNodeSetParams(node->node, change->copy);
  if (change->fill != NULL) return gb_real.cuGraphMemsetNodeSetParams(node->node, change->fill);
  if (change->host != NULL) return gb_real.cuGraphHostNodeSetParams(node->node, change->host);
  return CUDA_ERROR_NOT_SUPPORTED;
}

static CUresult set_piece(const struct gb_graph *graph, const struct gb_graph_node *node,
                          const struct gb_graph_change *change) {
  CUgraphExec exec = graph->pieces[node->piece].exec;
  if (change->kernel != NULL)
    return gb_real.cuGraphExecKernelNodeSetParams_v2(exec, node->in_piece, change->kernel);
  if (change->copy != NULL)
    return gb_real.cuGraphExecMemcpyNodeSetParams(exec, node->in_piece, change->copy,
                                                  change->context);
  if (change->fill != NULL)
    return gb_real.cuGraphExecMemsetNodeSetParams(exec, node->in_piece, change->fill,
                                                  change->context);
  if (change->host != NULL)
    return gb_real.cuGraphExecHostNodeSetParams(exec, node->in_piece, change->host);
  return CUDA_ERROR_NOT_SUPPORTED;
}

void gb_graph_apply(struct gb_graph *graph, struct gb_graph_node *node,
                    const struct gb_graph_change *change) {
  if (change->type != node->type) {
    gb_graph_give_up(graph, "a node was changed into another kind", false);
    return;
  }
  gb_graph_scan_change(node, change);
  graph->stale = true;
  if (!node->known) gb_graph_give_up(graph, "not everything it touches can be seen", false);
  if (graph->clone == NULL) return;
  if (change->child != NULL)
    gb_graph_give_up(graph, "a graph within it was replaced", true);
  else if (set_clone(node, change) != CUDA_SUCCESS)
    gb_graph_give_up(graph, "a change could not be followed", true);
  else if (graph->built && set_piece(graph, node, change) != CUDA_SUCCESS)
    gb_graph_drop_pieces(graph);
}

void gb_graph_enable(struct gb_graph *graph, struct gb_graph_node *node, bool enabled) {
  node->disabled = !enabled;
  graph->stale = true;
  if (graph->built && gb_real.cuGraphNodeSetEnabled(graph->pieces[node->piece].exec,
                                                    node->in_piece, enabled) != CUDA_SUCCESS)
    gb_graph_drop_pieces(graph);
}

/* ---- all nodes, from another graph ---- */

static bool same_kernel(const CUDA_KERNEL_NODE_PARAMS *a, const CUDA_KERNEL_NODE_PARAMS *b) {
  CUfunction function = a->func != NULL ? a->func : (CUfunction)a->kern;
  return a->func == b->func && a->kern == b->kern && a->gridDimX == b->gridDimX &&
         a->gridDimY == b->gridDimY && a->gridDimZ == b->gridDimZ && a->blockDimX == b->blockDimX &&
         a->blockDimY == b->blockDimY && a->blockDimZ == b->blockDimZ &&
         a->sharedMemBytes == b->sharedMemBytes && a->extra == NULL && b->extra == NULL &&
         gb_arguments_equal(function, a->kernelParams, b->kernelParams);
}

/* What changes how a kernel runs, not only how fast. */
static bool same_attributes(CUgraphNode a, CUgraphNode b) {
  static const CUkernelNodeAttrID ids[] = {
      CU_LAUNCH_ATTRIBUTE_COOPERATIVE, CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
      CU_LAUNCH_ATTRIBUTE_PRIORITY, CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN};
  if (gb_real.cuGraphKernelNodeGetAttribute == NULL) return true;
  for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
    CUkernelNodeAttrValue x;
    CUkernelNodeAttrValue y;
    memset(&x, 0, sizeof x);
    memset(&y, 0, sizeof y);
    bool has = gb_real.cuGraphKernelNodeGetAttribute(a, ids[i], &x) == CUDA_SUCCESS;
    if (has != (gb_real.cuGraphKernelNodeGetAttribute(b, ids[i], &y) == CUDA_SUCCESS)) return false;
    if (has && memcmp(&x, &y, sizeof x) != 0) return false;
  }
  return true;
}

/* Follows one node. returns: false when the graph has to be read anew. */
static bool follow(struct gb_graph *graph, struct gb_graph_node *node, CUgraphNode from) {
  struct gb_graph_change change = {.type = node->type};
  union {
    CUDA_KERNEL_NODE_PARAMS kernel;
    CUDA_MEMCPY3D copy;
    CUDA_MEMSET_NODE_PARAMS fill;
    CUDA_HOST_NODE_PARAMS host;
  } now, then;
  memset(&now, 0, sizeof now);
  memset(&then, 0, sizeof then);
  gb_real.cuCtxGetCurrent(&change.context);
  switch (node->type) {
    case CU_GRAPH_NODE_TYPE_EMPTY: return true;
    case CU_GRAPH_NODE_TYPE_KERNEL:
      if (gb_real.cuGraphKernelNodeGetParams_v2(from, &now.kernel) != CUDA_SUCCESS ||
          gb_real.cuGraphKernelNodeGetParams_v2(node->node, &then.kernel) != CUDA_SUCCESS ||
          !same_attributes(from, node->node))
        return false;
      if (same_kernel(&now.kernel, &then.kernel)) return true;
      change.kernel = &now.kernel;
      break;
    case CU_GRAPH_NODE_TYPE_MEMCPY:
      if (gb_real.cuGraphMemcpyNodeGetParams(from, &now.copy) != CUDA_SUCCESS ||
          gb_real.cuGraphMemcpyNodeGetParams(node->node, &then.copy) != CUDA_SUCCESS)
        return false;
      change.copy = &now.copy;
      break;
    case CU_GRAPH_NODE_TYPE_MEMSET:
      if (gb_real.cuGraphMemsetNodeGetParams(from, &now.fill) != CUDA_SUCCESS ||
          gb_real.cuGraphMemsetNodeGetParams(node->node, &then.fill) != CUDA_SUCCESS)
        return false;
      change.fill = &now.fill;
      break;
    case CU_GRAPH_NODE_TYPE_HOST:
      if (gb_real.cuGraphHostNodeGetParams(from, &now.host) != CUDA_SUCCESS ||
          gb_real.cuGraphHostNodeGetParams(node->node, &then.host) != CUDA_SUCCESS)
        return false;
      change.host = &now.host;
      break;
    default: return false;
  }
  if (memcmp(&now, &then, sizeof now) == 0) return true;
  gb_graph_apply(graph, node, &change);
  return graph->clone != NULL;
}

/* The driver pairs the nodes of both graphs in the order they were added in. */
static bool follow_all(struct gb_graph *graph, CUgraphNode *nodes) {
  for (uint32_t i = 0; i < graph->node_count; i++) {
    CUgraphNodeType type;
    if (gb_real.cuGraphNodeGetType(nodes[i], &type) != CUDA_SUCCESS ||
        type != graph->nodes[i].type)
      return false;
  }
  for (uint32_t i = 0; i < graph->node_count; i++) {
    if (!follow(graph, &graph->nodes[i], nodes[i])) return false;
  }
  return true;
}

/* Reading anew loses which nodes are switched off: the program's graph does not have it. */
static void read_again(struct gb_graph *graph, CUgraph from) {
  uint32_t count = graph->node_count;
  bool *disabled = calloc(count + 1, sizeof *disabled);
  for (uint32_t i = 0; i < count && disabled != NULL; i++) disabled[i] = graph->nodes[i].disabled;
  gb_graph_read(graph, from, false);
  if (disabled == NULL || graph->node_count != count)
    gb_graph_give_up(graph, "an update could not be followed", false);
  else
    for (uint32_t i = 0; i < count; i++) graph->nodes[i].disabled = disabled[i];
  free(disabled);
}

void gb_graph_update(struct gb_graph *graph, CUgraph from) {
  /* A program that updates before every launch pays for this only while there is something to
   * stage; its next update after that is read. */
  if (!GB_SLOW() && gb_config()->graph_segment == 0) {
    gb_graph_give_up(graph, "it was updated while nothing overflowed", false);
    return;
  }
  CUgraphNode *nodes = NULL;
  size_t count = 0;
  bool followed = graph->clone != NULL && gb_graph_nodes_of(from, &nodes, &count) &&
                  count == graph->node_count && follow_all(graph, nodes);
  if (!followed) read_again(graph, from);
  free(nodes);
}
