/* SPDX-License-Identifier: Apache-2.0 */
/* graph_edit.c: clones, edges, and nodes that go. */
#include "graph.h"

/* ---- clones ---- */

static void clone_node(struct sim_graph *graph, const struct node *from) {
  struct node *node = sim_node_add(graph, from->op == NULL ? NULL : sim_op_clone(from->op),
                                   from->dependencies, from->dependency_count);
  if (node == NULL) abort(); /* the graph it comes from was not too large */
  node->origin = from->id;
  node->type = from->type;
  if (from->child != NULL) {
    node->child = sim_graph_clone(from->child);
    node->child->child = true;
  }
  if (from->attributes != NULL) {
    node->attributes = malloc(SIM_ATTRIBUTES_MAX * sizeof *node->attributes);
    if (node->attributes == NULL) abort();
    memcpy(node->attributes, from->attributes, SIM_ATTRIBUTES_MAX * sizeof *node->attributes);
  }
}

struct sim_graph *sim_graph_clone(const struct sim_graph *graph) {
  struct sim_graph *clone = sim_graph_new();
  for (size_t i = 0; i < graph->count; i++) clone_node(clone, graph->nodes[i]);
  return clone;
}

CUresult cuGraphClone(CUgraph *out, CUgraph handle) {
  SIM_ENTER(SIM_NEED_INIT);
  if (out == NULL) return CUDA_ERROR_INVALID_VALUE;
  pthread_mutex_lock(&sim_lock);
  const struct sim_graph *graph = sim_graph_of(handle);
  CUresult result = graph == NULL || graph->capturing ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
  if (result == CUDA_SUCCESS) *out = (CUgraph)sim_graph_clone(graph);
  pthread_mutex_unlock(&sim_lock);
  return result;
}

CUresult cuGraphNodeFindInClone(CUgraphNode *out, CUgraphNode original, CUgraph handle) {
  SIM_ENTER(SIM_NEED_INIT);
  CUresult result = CUDA_ERROR_INVALID_VALUE;
  pthread_mutex_lock(&sim_lock);
  const struct sim_graph *clone = sim_graph_of(handle);
  const struct node *node = sim_node_of(original);
  for (size_t i = 0; out != NULL && clone != NULL && node != NULL && i < clone->count; i++) {
    if (clone->nodes[i]->origin != node->id) continue;
    *out = (CUgraphNode)clone->nodes[i];
    result = CUDA_SUCCESS;
    break;
  }
  pthread_mutex_unlock(&sim_lock);
  return result;
}

/* ---- nodes that go ---- */

static void drop_dependency(struct node *node, uint32_t index) {
  size_t kept = 0;
  for (size_t i = 0; i < node->dependency_count; i++)
    if (node->dependencies[i] != index) node->dependencies[kept++] = node->dependencies[i];
  node->dependency_count = kept;
}

CUresult cuGraphDestroyNode(CUgraphNode handle) {
  SIM_ENTER(SIM_NEED_INIT);
  pthread_mutex_lock(&sim_lock);
  struct node *node = sim_node_of(handle);
  if (node == NULL || node->graph->capturing) {
    pthread_mutex_unlock(&sim_lock);
    return sim_strict(CUDA_ERROR_INVALID_VALUE, "destroy of graph node %p", (void *)handle);
  }
  struct sim_graph *graph = node->graph;
  const uint32_t index = node->index;
  for (size_t i = 0; i < graph->count; i++) {
    struct node *other = graph->nodes[i];
    drop_dependency(other, index);
    for (size_t d = 0; d < other->dependency_count; d++)
      if (other->dependencies[d] > index) other->dependencies[d]--;
  }
  memmove(&graph->nodes[index], &graph->nodes[index + 1],
          (graph->count - index - 1) * sizeof(struct node *));
  graph->count--;
  for (size_t i = index; i < graph->count; i++) graph->nodes[i]->index = (uint32_t)i;
  sim_handle_remove(node);
  sim_node_free(node);
  pthread_mutex_unlock(&sim_lock);
  return CUDA_SUCCESS;
}

/* ---- edges ---- */

static CUresult edges(CUgraph handle, CUgraphNode *from, CUgraphNode *to, size_t *count) {
  if (count == NULL) return CUDA_ERROR_INVALID_VALUE;
  pthread_mutex_lock(&sim_lock);
  const struct sim_graph *graph = sim_graph_of(handle);
  size_t found = 0;
  for (size_t i = 0; graph != NULL && i < graph->count; i++) {
    const struct node *node = graph->nodes[i];
    for (size_t d = 0; d < node->dependency_count; d++, found++) {
      if (from == NULL || to == NULL || found >= *count) continue;
      from[found] = (CUgraphNode)graph->nodes[node->dependencies[d]];
      to[found] = (CUgraphNode)node;
    }
  }
  *count = found;
  pthread_mutex_unlock(&sim_lock);
  return graph == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult cuGraphGetEdges(CUgraph graph, CUgraphNode *from, CUgraphNode *to, size_t *count) {
  SIM_ENTER(SIM_NEED_INIT);
  return edges(graph, from, to, count);
}

CUresult cuGraphGetEdges_v2(CUgraph graph, CUgraphNode *from, CUgraphNode *to,
                            CUgraphEdgeData *data, size_t *count) {
  SIM_ENTER(SIM_NEED_INIT);
  if (data != NULL && count != NULL) memset(data, 0, *count * sizeof *data);
  return edges(graph, from, to, count);
}

static CUresult add_edge(CUgraph graph, CUgraphNode from, CUgraphNode to) {
  const struct node *before = sim_node_of(from);
  struct node *after = sim_node_of(to);
  if (before == NULL || after == NULL || before == after || before->graph != after->graph ||
      (CUgraph)before->graph != graph)
    return CUDA_ERROR_INVALID_VALUE;
  uint32_t *dependencies = realloc(after->dependencies,
                                   (after->dependency_count + 1) * sizeof *dependencies);
  if (dependencies == NULL) abort();
  dependencies[after->dependency_count++] = before->index;
  after->dependencies = dependencies;
  return CUDA_SUCCESS;
}

CUresult cuGraphAddDependencies(CUgraph graph, const CUgraphNode *from, const CUgraphNode *to,
                                size_t count) {
  SIM_ENTER(SIM_NEED_INIT);
  if (count != 0 && (from == NULL || to == NULL)) return CUDA_ERROR_INVALID_VALUE;
  CUresult result = CUDA_SUCCESS;
  pthread_mutex_lock(&sim_lock);
  for (size_t i = 0; i < count && result == CUDA_SUCCESS; i++)
    result = add_edge(graph, from[i], to[i]);
  pthread_mutex_unlock(&sim_lock);
  return result;
}

CUresult cuGraphAddDependencies_v2(CUgraph graph, const CUgraphNode *from, const CUgraphNode *to,
                                   const CUgraphEdgeData *data, size_t count) {
  for (size_t i = 0; data != NULL && i < count; i++)
    if (data[i].type != 0) return sim_not_simulated("programmatic edges");
  return cuGraphAddDependencies(graph, from, to, count);
}
