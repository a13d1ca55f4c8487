/* SPDX-License-Identifier: Apache-2.0 */
/* graph_node.c: what a node of a graph names, and what keeps a graph with it in one piece. */
#include <stdlib.h>
#include <string.h>

#include "graph.h"

/* ---- operands ---- */

static void add(struct gb_graph_node *node, uint64_t address, uint64_t bytes) {
  if (!gb_owns(address)) return;
  for (uint32_t i = 0; i < node->operand_count; i++) {
    struct gb_operand *operand = &node->operands[i];
    if (operand->address == address && operand->bytes == bytes) return;
  }
  if (node->operand_count == GB_GRAPH_OPERANDS_MAX) return;
  if ((node->operand_count & (node->operand_count - 1)) == 0) {
    uint32_t room = node->operand_count == 0 ? 1 : 2 * node->operand_count;
    struct gb_operand *grown = realloc(node->operands, room * sizeof *grown);
    if (grown == NULL) return;
    node->operands = grown;
  }
  node->operands[node->operand_count++] = (struct gb_operand){address, bytes};
}

static void add_words(void *context, const void *bytes, size_t length) {
  for (size_t at = 0; at + 8 <= length; at += 4) {
    uint64_t word;
    memcpy(&word, (const unsigned char *)bytes + at, sizeof word);
    add(context, word, 0);
  }
}

static bool scan_kernel(struct gb_graph_node *node, const CUDA_KERNEL_NODE_PARAMS *params) {
  CUfunction function = params->func != NULL ? params->func : (CUfunction)params->kern;
  return gb_arguments_visit(function, params->kernelParams, params->extra, add_words, node);
}

static void scan_copy(struct gb_graph_node *node, const CUDA_MEMCPY3D *copy) {
  struct gb_operand operands[2];
  gb_copy_operands(copy, operands);
  for (int i = 0; i < 2; i++) {
    if (operands[i].bytes != 0) add(node, operands[i].address, operands[i].bytes);
  }
}

static void scan_fill(struct gb_graph_node *node, const CUDA_MEMSET_NODE_PARAMS *fill) {
  if (fill->width == 0 || fill->height == 0) return;
  uint64_t bytes = (fill->height - 1) * fill->pitch + fill->width * fill->elementSize;
  add(node, fill->dst, bytes);
}

/* ---- nodes ---- */

bool gb_graph_nodes_of(CUgraph graph, CUgraphNode **nodes, size_t *count) {
  *nodes = NULL;
  if (gb_real.cuGraphGetNodes(graph, NULL, count) != CUDA_SUCCESS) return false;
  *nodes = malloc((*count + 1) * sizeof **nodes);
  return *nodes != NULL && (*count == 0 || gb_real.cuGraphGetNodes(graph, *nodes, count) ==
                                               CUDA_SUCCESS);
}

static bool scan_node(struct gb_graph_node *node, CUgraphNode from, CUgraphNodeType type,
                      int depth);

static bool scan_graph(struct gb_graph_node *node, CUgraph graph, int depth) {
  CUgraphNode *nodes = NULL;
  size_t count = 0;
  bool known = depth < GB_GRAPH_DEPTH_MAX && gb_graph_nodes_of(graph, &nodes, &count);
  for (size_t i = 0; i < count && known; i++) {
    CUgraphNodeType type;
    known = gb_real.cuGraphNodeGetType(nodes[i], &type) == CUDA_SUCCESS &&
            scan_node(node, nodes[i], type, depth + 1);
  }
  free(nodes);
  return known;
}

static bool scan_child(struct gb_graph_node *node, CUgraphNode from, int depth) {
  CUgraph child = NULL;
  return gb_real.cuGraphChildGraphNodeGetGraph != NULL &&
         gb_real.cuGraphChildGraphNodeGetGraph(from, &child) == CUDA_SUCCESS &&
         scan_graph(node, child, depth);
}

/* returns: whether everything the node touches by name was seen. */
static bool scan_node(struct gb_graph_node *node, CUgraphNode from, CUgraphNodeType type,
                      int depth) {
  union {
    CUDA_KERNEL_NODE_PARAMS kernel;
    CUDA_MEMCPY3D copy;
    CUDA_MEMSET_NODE_PARAMS fill;
  } params;
  switch (type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
      return gb_real.cuGraphKernelNodeGetParams_v2 != NULL &&
             gb_real.cuGraphKernelNodeGetParams_v2(from, &params.kernel) == CUDA_SUCCESS &&
             scan_kernel(node, &params.kernel);
    case CU_GRAPH_NODE_TYPE_MEMCPY:
      if (gb_real.cuGraphMemcpyNodeGetParams(from, &params.copy) != CUDA_SUCCESS) return false;
      scan_copy(node, &params.copy);
      return true;
    case CU_GRAPH_NODE_TYPE_MEMSET:
      if (gb_real.cuGraphMemsetNodeGetParams(from, &params.fill) != CUDA_SUCCESS) return false;
      scan_fill(node, &params.fill);
      return true;
    case CU_GRAPH_NODE_TYPE_GRAPH: return scan_child(node, from, depth);
    case CU_GRAPH_NODE_TYPE_HOST:
    case CU_GRAPH_NODE_TYPE_EMPTY:
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
    case CU_GRAPH_NODE_TYPE_EXT_SEMAS_SIGNAL:
    case CU_GRAPH_NODE_TYPE_EXT_SEMAS_WAIT:
    case CU_GRAPH_NODE_TYPE_MEM_ALLOC:
    case CU_GRAPH_NODE_TYPE_MEM_FREE: return true;
    default: return false; /* conditional bodies, stream memory operations, what is newer */
  }
}

void gb_graph_scan(struct gb_graph_node *node, CUgraphNode from) {
  node->operand_count = 0;
  node->known = scan_node(node, from, node->type, 0);
}

void gb_graph_scan_change(struct gb_graph_node *node, const struct gb_graph_change *change) {
  node->operand_count = 0;
  node->known = true;
  if (change->kernel != NULL) node->known = scan_kernel(node, change->kernel);
  if (change->copy != NULL) scan_copy(node, change->copy);
  if (change->fill != NULL) scan_fill(node, change->fill);
  if (change->child != NULL) node->known = scan_graph(node, change->child, 0);
}

/* ---- what cannot be cut ---- */

static bool is_device_updatable(CUgraphNode node) {
  CUkernelNodeAttrValue value;
  memset(&value, 0, sizeof value);
  return gb_real.cuGraphKernelNodeGetAttribute != NULL &&
         gb_real.cuGraphKernelNodeGetAttribute(
             node, CU_LAUNCH_ATTRIBUTE_DEVICE_UPDATABLE_KERNEL_NODE, &value) == CUDA_SUCCESS &&
         value.deviceUpdatableKernelNode.deviceUpdatable != 0;
}

static const char *child_forbids(CUgraphNode node, int depth) {
  CUgraph child = NULL;
  CUgraphNode *nodes = NULL;
  size_t count = 0;
  const char *why = NULL;
  if (depth == GB_GRAPH_DEPTH_MAX || gb_real.cuGraphChildGraphNodeGetGraph == NULL ||
      gb_real.cuGraphChildGraphNodeGetGraph(node, &child) != CUDA_SUCCESS ||
      !gb_graph_nodes_of(child, &nodes, &count))
    why = "a graph within it cannot be read";
  for (size_t i = 0; i < count && why == NULL; i++) {
    CUgraphNodeType type;
    why = gb_real.cuGraphNodeGetType(nodes[i], &type) != CUDA_SUCCESS
              ? "a node has no type"
              : gb_graph_node_forbids(nodes[i], type, depth + 1);
  }
  free(nodes);
  return why;
}

const char *gb_graph_node_forbids(CUgraphNode node, CUgraphNodeType type, int depth) {
  switch (type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
      return is_device_updatable(node) ? "a kernel may change one of its nodes" : NULL;
    case CU_GRAPH_NODE_TYPE_MEMCPY:
    case CU_GRAPH_NODE_TYPE_MEMSET:
    case CU_GRAPH_NODE_TYPE_HOST:
    case CU_GRAPH_NODE_TYPE_EMPTY: return NULL;
    case CU_GRAPH_NODE_TYPE_GRAPH: return child_forbids(node, depth);
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD: return "it waits for events or records them";
    case CU_GRAPH_NODE_TYPE_EXT_SEMAS_SIGNAL:
    case CU_GRAPH_NODE_TYPE_EXT_SEMAS_WAIT: return "it uses external semaphores";
    case CU_GRAPH_NODE_TYPE_MEM_ALLOC:
    case CU_GRAPH_NODE_TYPE_MEM_FREE: return "it allocates or frees memory";
    case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP: return "it waits for words in memory or writes them";
    case CU_GRAPH_NODE_TYPE_CONDITIONAL: return "it branches";
    default: return "it has a node of an unknown kind";
  }
}
