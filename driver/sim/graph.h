/* SPDX-License-Identifier: Apache-2.0 */
/*
 * graph.h: what capture.c and the graph files share. locks: sim_lock, held for all.
 *
 *   graph.c         graphs and their nodes
 *   graph_edit.c    clones, edges, nodes that go
 *   graph_params.c  parameters and attributes of nodes
 *   graph_exec.c    executable graphs: launches and updates
 */
#ifndef GBSIM_GRAPH_H
#define GBSIM_GRAPH_H

#include "sim.h"

#define SIM_ATTRIBUTES_MAX 17 /* launch attributes a node keeps */

struct node {
  struct sim_graph *graph;
  uint64_t id;     /* of this node alone, for the life of the process */
  uint64_t origin; /* the node this one is a clone of; 0: none */
  uint32_t index;
  CUgraphNodeType type;
  struct sim_op *op;       /* NULL for empty nodes and child graphs */
  struct sim_graph *child; /* owned */
  uint32_t *dependencies;
  size_t dependency_count;
  void **params;                     /* what cuGraphKernelNodeGetParams gives out; owned */
  CUkernelNodeAttrValue *attributes; /* SIM_ATTRIBUTES_MAX, or NULL while none is set; owned */
};

struct sim_graph {
  struct node **nodes;
  size_t count;
  bool capturing;
  bool child; /* belongs to a node */
};

/* What a launch runs: nodes in an order their dependencies allow. Shared by launches under way, so
 * an update makes a copy first. */
struct sim_item {
  uint64_t id; /* of the node */
  uint32_t index;
  CUgraphNodeType type;
  bool disabled;
  struct sim_op *op;
  struct sim_exec *child;
};

struct sim_exec {
  struct sim_item *items;
  size_t count;
  unsigned refs;
};

struct sim_graph *sim_graph_new(void);
void sim_graph_free(struct sim_graph *graph);
struct sim_graph *sim_graph_of(CUgraph handle);
struct node *sim_node_of(CUgraphNode handle);
/* owns: the graph takes `op` (NULL: an empty node) and copies the dependencies. returns: NULL when
 * the graph is full. */
struct node *sim_node_add(struct sim_graph *graph, struct sim_op *op, const uint32_t *dependencies,
                          size_t count);
void sim_node_free(struct node *node);
/* A copy of an operation that can run on its own. */
struct sim_op *sim_op_clone(const struct sim_op *op);
struct sim_graph *sim_graph_clone(const struct sim_graph *graph);
/* The operation that parameters describe. */
CUresult sim_kernel_op(const CUDA_KERNEL_NODE_PARAMS *params, struct sim_op **op);
CUresult sim_memset_op(const CUDA_MEMSET_NODE_PARAMS *params, struct sim_op **op);
CUresult sim_host_op(const CUDA_HOST_NODE_PARAMS *params, struct sim_op **op);
/* The same for a node of any kind. */
CUresult sim_params_op(const CUgraphNodeParams *params, CUgraphNodeType type, struct sim_op **op);

#endif
