/* SPDX-License-Identifier: Apache-2.0 */
/* graph.h: what capture.c and graph.c share. locks: sim_lock, held for all. */
#ifndef GBSIM_GRAPH_H
#define GBSIM_GRAPH_H

#include "sim.h"

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

struct sim_graph *sim_graph_new(void);
void sim_graph_free(struct sim_graph *graph);
/* owns: the graph takes `op` (NULL: an empty node) and copies the dependencies. returns: NULL when
 * the graph is full. */
struct node *sim_node_add(struct sim_graph *graph, struct sim_op *op, const uint32_t *dependencies,
                          size_t count);

#endif
