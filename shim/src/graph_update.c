/* SPDX-License-Identifier: Apache-2.0 */
/*
 * graph_update.c: changes of executable graphs. Each is made to the clone, so that pieces built
 * later have it, and to the piece that is there.
 */
#include <stdlib.h>
#include <string.h>

#include "config.h"
#include "graph.h"
#include "tier.h"

/* ---- one node ---- */

static CUresult copy_graph(CUgraph to, CUgraph from, int depth);

/* The parameters of one node to another of the same type. */
static CUresult copy_node(CUgraphNode to, CUgraphNode from, CUgraphNodeType type, int depth) {
  union {
    CUDA_KERNEL_NODE_PARAMS kernel;
    CUDA_MEMCPY3D copy;
    CUDA_MEMSET_NODE_PARAMS fill;
    CUDA_HOST_NODE_PARAMS host;
    CUgraph children[2];
  } params;
  CUresult result = CUDA_ERROR_NOT_SUPPORTED;
  switch (type) {
    case CU_GRAPH_NODE_TYPE_EMPTY: return CUDA_SUCCESS;
    case CU_GRAPH_NODE_TYPE_KERNEL:
      result = gb_real.cuGraphKernelNodeGetParams_v2(from, &params.kernel);
      if (result != CUDA_SUCCESS) return result;
      return gb_real.cuGraphKernelNodeSetParams_v2(to, &params.kernel);
    case CU_GRAPH_NODE_TYPE_MEMCPY:
      result = gb_real.cuGraphMemcpyNodeGetParams(from, &params.copy);
      return result != CUDA_SUCCESS ? result
                                    : gb_real.cuGraphMemcpyNodeSetParams(to, &params.copy);
    case CU_GRAPH_NODE_TYPE_MEMSET:
      result = gb_real.cuGraphMemsetNodeGetParams(from, &params.fill);
      return result != CUDA_SUCCESS ? result
                                    : gb_real.cuGraphMemsetNodeSetParams(to, &params.fill);
    case CU_GRAPH_NODE_TYPE_HOST:
      result = gb_real.cuGraphHostNodeGetParams(from, &params.host);
      return result != CUDA_SUCCESS ? result : gb_real.cuGraphHostNodeSetParams(to, &params.host);
    case CU_GRAPH_NODE_TYPE_GRAPH:
      result = gb_real.cuGraphChildGraphNodeGetGraph(to, &params.children[0]);
      if (result == CUDA_SUCCESS)
        result = gb_real.cuGraphChildGraphNodeGetGraph(from, &params.children[1]);
      return result != CUDA_SUCCESS
                 ? result
                 : copy_graph(params.children[0], params.children[1], depth + 1);
    default: return result;
  }
}

/* Nodes are paired in the order they were added in, as the driver does. */
static CUresult copy_graph(CUgraph to, CUgraph from, int depth) {
  CUgraphNode *nodes[2] = {NULL, NULL};
  size_t counts[2] = {0, 0};
  CUresult result = CUDA_ERROR_NOT_SUPPORTED;
  if (depth <= GB_GRAPH_DEPTH_MAX && gb_graph_nodes_of(to, &nodes[0], &counts[0]) &&
      gb_graph_nodes_of(from, &nodes[1], &counts[1]) && counts[0] == counts[1])
    result = CUDA_SUCCESS;
  for (size_t i = 0; i < counts[0] && result == CUDA_SUCCESS; i++) {
    CUgraphNodeType types[2];
    for (int side = 0; side < 2 && result == CUDA_SUCCESS; side++)
      result = gb_real.cuGraphNodeGetType(nodes[side][i], &types[side]);
    if (result == CUDA_SUCCESS)
      result = types[0] == types[1] ? copy_node(nodes[0][i], nodes[1][i], types[0], depth)
                                    : CUDA_ERROR_NOT_SUPPORTED;
  }
  free(nodes[0]);
  free(nodes[1]);
  return result;
}

/* In a graph of ours: the driver takes every change there. */
static CUresult set_node(CUgraphNode node, const struct gb_graph_change *change) {
  CUgraph child = NULL;
  if (change->kernel != NULL) return gb_real.cuGraphKernelNodeSetParams_v2(node, change->kernel);
  if (change->copy != NULL) return gb_real.cuGraphMemcpyNodeSetParams(node, change->copy);
  if (change->fill != NULL) return gb_real.cuGraphMemsetNodeSetParams(node, change->fill);
  if (change->host != NULL) return gb_real.cuGraphHostNodeSetParams(node, change->host);
  if (change->child == NULL) return CUDA_ERROR_NOT_SUPPORTED;
  CUresult result = gb_real.cuGraphChildGraphNodeGetGraph(node, &child);
  return result != CUDA_SUCCESS ? result : copy_graph(child, change->child, 1);
}

static CUresult set_exec(CUgraphExec exec, CUgraphNode node,
                         const struct gb_graph_change *change) {
  if (change->kernel != NULL)
    return gb_real.cuGraphExecKernelNodeSetParams_v2(exec, node, change->kernel);
  if (change->copy != NULL)
    return gb_real.cuGraphExecMemcpyNodeSetParams(exec, node, change->copy, change->context);
  if (change->fill != NULL)
    return gb_real.cuGraphExecMemsetNodeSetParams(exec, node, change->fill, change->context);
  if (change->host != NULL)
    return gb_real.cuGraphExecHostNodeSetParams(exec, node, change->host);
  if (change->child != NULL)
    return gb_real.cuGraphExecChildGraphNodeSetParams(exec, node, change->child);
  return CUDA_ERROR_NOT_SUPPORTED;
}

/* What does not take the change is made anew. pre: the clone has the change. */
static void pass_on(struct gb_graph *graph, const struct gb_graph_node *node,
                    const struct gb_graph_change *change) {
  if (graph->built) {
    bool made = set_node(node->in_piece, change) == CUDA_SUCCESS &&
                (set_exec(graph->pieces[node->piece].exec, node->in_piece, change) ==
                     CUDA_SUCCESS ||
                 gb_graph_rebuild_piece(graph, node->piece));
    if (!made) gb_graph_drop_pieces(graph);
  }
  if (graph->substitute != NULL && set_exec(graph->substitute, node->node, change) != CUDA_SUCCESS)
    gb_graph_drop_substitute(graph);
}

/* pre: nothing but the clone runs. */
static CUresult apply_diverged(struct gb_graph *graph, struct gb_graph_node *node,
                               const struct gb_graph_change *change) {
  if (change->type != node->type || set_node(node->node, change) != CUDA_SUCCESS)
    return CUDA_ERROR_NOT_SUPPORTED;
  gb_graph_scan_change(node, change);
  graph->stale = true;
  pass_on(graph, node, change);
  if (!node->known) gb_graph_give_up(graph, "not everything it touches can be seen", false);
  return CUDA_SUCCESS;
}

CUresult gb_graph_apply(struct gb_graph *graph, struct gb_graph_node *node,
                        const struct gb_graph_change *change) {
  if (graph->diverged) return apply_diverged(graph, node, change);
  if (change->type != node->type) {
    gb_graph_give_up(graph, "a node was changed into another kind", false);
    return CUDA_SUCCESS;
  }
  gb_graph_scan_change(node, change);
  graph->stale = true;
  if (!node->known) gb_graph_give_up(graph, "not everything it touches can be seen", false);
  if (graph->clone == NULL) return CUDA_SUCCESS;
  if (set_node(node->node, change) != CUDA_SUCCESS)
    gb_graph_give_up(graph, "a change could not be followed", true);
  else
    pass_on(graph, node, change);
  return CUDA_SUCCESS;
}

/* ---- changes the driver refuses ---- */

static bool is_line(const CUDA_MEMCPY3D *copy) { return copy->Height <= 1 && copy->Depth <= 1; }

/* The driver lets neither side of a copy change its kind; by what the program knows of its memory,
 * ours is one kind. */
static bool same_kinds(const CUDA_MEMCPY3D *now, const CUDA_MEMCPY3D *then) {
  struct gb_operand a[2];
  struct gb_operand b[2];
  gb_copy_operands(now, a);
  gb_copy_operands(then, b);
  return gb_owns(a[0].address) == gb_owns(b[0].address) &&
         gb_owns(a[1].address) == gb_owns(b[1].address);
}

static bool names_ours(const CUDA_MEMCPY3D *copy) {
  struct gb_operand operands[2];
  gb_copy_operands(copy, operands);
  return gb_owns(operands[0].address) || gb_owns(operands[1].address);
}

bool gb_graph_force(struct gb_graph *graph, struct gb_graph_node *node,
                    const struct gb_graph_change *change) {
  CUDA_MEMCPY3D copy;
  CUDA_MEMSET_NODE_PARAMS fill;
  if (graph->clone == NULL || change->type != node->type) return false;
  if (change->copy != NULL) {
    if (gb_real.cuGraphMemcpyNodeGetParams(node->node, &copy) != CUDA_SUCCESS ||
        !is_line(change->copy) || !is_line(&copy) || !same_kinds(change->copy, &copy))
      return false;
    if (!names_ours(change->copy)) return false;
  } else if (change->fill != NULL) {
    if (gb_real.cuGraphMemsetNodeGetParams(node->node, &fill) != CUDA_SUCCESS ||
        change->fill->height > 1 || fill.height > 1 || !gb_owns(change->fill->dst) ||
        !gb_owns(fill.dst))
      return false;
  } else {
    return false;
  }
  bool before = graph->diverged;
  if (!before && !gb_graph_mark(graph)) return false;
  graph->diverged = true;
  if (apply_diverged(graph, node, change) == CUDA_SUCCESS) {
    gb_graph_follow = true;
    return true;
  }
  graph->diverged = before;
  return false;
}

void gb_graph_enable(struct gb_graph *graph, struct gb_graph_node *node, bool enabled) {
  node->disabled = !enabled;
  graph->stale = true;
  if (graph->built && gb_real.cuGraphNodeSetEnabled(graph->pieces[node->piece].exec,
                                                    node->in_piece, enabled) != CUDA_SUCCESS)
    gb_graph_drop_pieces(graph);
  if (graph->substitute != NULL &&
      gb_real.cuGraphNodeSetEnabled(graph->substitute, node->node, enabled) != CUDA_SUCCESS)
    gb_graph_drop_substitute(graph);
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
    case CU_GRAPH_NODE_TYPE_GRAPH:
      if (gb_real.cuGraphChildGraphNodeGetGraph(from, &change.child) != CUDA_SUCCESS) return false;
      break;
    default: return false;
  }
  if (change.child == NULL && memcmp(&now, &then, sizeof now) == 0) return true;
  return gb_graph_apply(graph, node, &change) == CUDA_SUCCESS && graph->clone != NULL;
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
  /* The program's exec has everything again. */
  gb_graph_drop_substitute(graph);
  graph->diverged = false;
  /* A program that updates before every launch pays for this only while something lies in host
   * memory; its next update after that is read. */
  if (gb_tier_used(GB_TIER_T2) == 0 && gb_config()->graph_segment == 0) {
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

/* ---- an update the driver refuses ---- */

/* True when only memory of ours can be why: the same nodes and edges, and no copy that would be
 * refused anyway. */
static bool same_shape(const struct gb_graph *graph, CUgraph from, CUgraphNode *nodes) {
  bool same = true;
  CUgraphNode *ours = malloc((graph->node_count + 1) * sizeof *ours);
  for (uint32_t i = 0; i < graph->node_count && ours != NULL && same; i++) {
    const struct gb_graph_node *node = &graph->nodes[i];
    CUDA_MEMCPY3D now;
    CUDA_MEMCPY3D then;
    CUgraphNodeType type;
    ours[i] = node->node;
    same = gb_real.cuGraphNodeGetType(nodes[i], &type) == CUDA_SUCCESS && type == node->type;
    if (same && type == CU_GRAPH_NODE_TYPE_MEMCPY) {
      same = gb_real.cuGraphMemcpyNodeGetParams(nodes[i], &now) == CUDA_SUCCESS &&
             gb_real.cuGraphMemcpyNodeGetParams(node->node, &then) == CUDA_SUCCESS &&
             (memcmp(&now, &then, sizeof now) == 0 ||
              (is_line(&now) && is_line(&then) && same_kinds(&now, &then)));
    }
  }
  same = same && ours != NULL &&
         gb_graph_same_edges(graph->clone, ours, from, nodes, graph->node_count);
  free(ours);
  return same;
}

bool gb_graph_force_update(struct gb_graph *graph, CUgraph from) {
  CUgraphNode *nodes = NULL;
  size_t count = 0;
  bool forced = graph->clone != NULL && gb_graph_nodes_of(from, &nodes, &count) &&
                count == graph->node_count && same_shape(graph, from, nodes) &&
                (graph->diverged || gb_graph_mark(graph));
  if (forced) {
    graph->diverged = true;
    if (!follow_all(graph, nodes)) {
      read_again(graph, from);
      forced = graph->diverged = graph->clone != NULL;
    }
    gb_graph_follow = true;
  }
  free(nodes);
  return forced;
}
