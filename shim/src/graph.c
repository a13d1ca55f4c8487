/* SPDX-License-Identifier: Apache-2.0 */
/* graph.c: the table of executable graphs that are followed, and how a graph is read. */
#include "graph.h"

#include <stdlib.h>
#include <string.h>

#include "config.h"

#define BUCKETS 4096u /* power of two */

static struct gb_graph *buckets[BUCKETS];
static uint32_t graph_count;
static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- table ---- */

static struct gb_graph **bucket_of(CUgraphExec exec) {
  uint64_t hash = (uint64_t)(uintptr_t)exec * 0x9e3779b97f4a7c15ull;
  return &buckets[(hash >> 40) & (BUCKETS - 1)];
}

static void unref(struct gb_graph *graph) {
  pthread_mutex_lock(&table_lock);
  bool last = --graph->refs == 0;
  pthread_mutex_unlock(&table_lock);
  if (!last) return;
  pthread_mutex_destroy(&graph->lock);
  free(graph);
}

/* returns: the graph, locked, or NULL. owns: release. */
static struct gb_graph *acquire(CUgraphExec exec) {
  pthread_mutex_lock(&table_lock);
  struct gb_graph *graph = *bucket_of(exec);
  while (graph != NULL && graph->exec != exec) graph = graph->next;
  if (graph != NULL) graph->refs++;
  pthread_mutex_unlock(&table_lock);
  if (graph == NULL) return NULL;
  pthread_mutex_lock(&graph->lock);
  if (!graph->gone) return graph;
  pthread_mutex_unlock(&graph->lock);
  unref(graph);
  return NULL;
}

static void release(struct gb_graph *graph) {
  pthread_mutex_unlock(&graph->lock);
  unref(graph);
}

/* Out of the table; the table's reference is the caller's now. */
static struct gb_graph *take(CUgraphExec exec) {
  pthread_mutex_lock(&table_lock);
  struct gb_graph **at = bucket_of(exec);
  while (*at != NULL && (*at)->exec != exec) at = &(*at)->next;
  struct gb_graph *graph = *at;
  if (graph != NULL) {
    *at = graph->next;
    graph_count--;
  }
  pthread_mutex_unlock(&table_lock);
  return graph;
}

static bool enter(struct gb_graph *graph) {
  pthread_mutex_lock(&table_lock);
  bool room = graph_count < GB_GRAPHS_MAX;
  if (room) {
    struct gb_graph **bucket = bucket_of(graph->exec);
    graph->next = *bucket;
    *bucket = graph;
    graph_count++;
  }
  pthread_mutex_unlock(&table_lock);
  return room;
}

/* ---- a graph's content ---- */

static void drop_nodes(struct gb_graph *graph) {
  for (uint32_t i = 0; i < graph->node_count; i++) free(graph->nodes[i].operands);
  free(graph->nodes);
  free(graph->order);
  graph->nodes = NULL;
  graph->order = NULL;
  graph->node_count = 0;
}

/* All but the names of nodes and the event. */
static void drop_content(struct gb_graph *graph) {
  gb_graph_drop_plan(graph);
  gb_graph_drop_substitute(graph);
  graph->diverged = false;
  if (graph->clone != NULL) gb_real.cuGraphDestroy(graph->clone);
  graph->clone = NULL;
  drop_nodes(graph);
}

static void end(struct gb_graph *graph) {
  pthread_mutex_lock(&graph->lock);
  drop_content(graph);
  free(graph->keys);
  graph->keys = NULL;
  if (graph->ended != NULL) gb_real.cuEventDestroy_v2(graph->ended);
  graph->ended = NULL;
  graph->gone = true;
  pthread_mutex_unlock(&graph->lock);
  unref(graph);
}

void gb_graph_give_up(struct gb_graph *graph, const char *why, bool known) {
  if (graph->whole == NULL) graph->whole = why;
  graph->known &= known;
  gb_graph_drop_pieces(graph);
  if (graph->diverged) return; /* the clone is what runs */
  if (graph->clone != NULL) gb_real.cuGraphDestroy(graph->clone);
  graph->clone = NULL;
  for (uint32_t i = 0; i < graph->node_count; i++) graph->nodes[i].node = NULL;
}

/* ---- reading ---- */

static int by_node(const void *a, const void *b) {
  uintptr_t x = (uintptr_t)((const struct gb_graph_key *)a)->node;
  uintptr_t y = (uintptr_t)((const struct gb_graph_key *)b)->node;
  return (x > y) - (x < y);
}

static bool name_nodes(struct gb_graph *graph, CUgraphNode *nodes, size_t count) {
  free(graph->keys);
  graph->keys = malloc((count + 1) * sizeof *graph->keys);
  if (graph->keys == NULL) return false;
  for (size_t i = 0; i < count; i++)
    graph->keys[i] = (struct gb_graph_key){nodes[i], (uint32_t)i};
  qsort(graph->keys, count, sizeof *graph->keys, by_node);
  return true;
}

/* The clone is what pieces are made of, and what changes of parameters are kept in. */
static const char *make_clone(struct gb_graph *graph, CUgraph from, CUgraphNode *nodes) {
  if (gb_real.cuGraphClone == NULL || gb_real.cuGraphNodeFindInClone == NULL ||
      gb_real.cuGraphKernelNodeSetParams_v2 == NULL)
    return "this driver cannot take graphs apart";
  if (gb_real.cuGraphClone(&graph->clone, from) != CUDA_SUCCESS) {
    graph->clone = NULL;
    return "the driver does not clone it";
  }
  for (uint32_t i = 0; i < graph->node_count; i++) {
    if (gb_real.cuGraphNodeFindInClone(&graph->nodes[i].node, nodes[i], graph->clone) !=
        CUDA_SUCCESS)
      return "its clone lacks a node";
  }
  return gb_graph_sort(graph);
}

static void read_nodes(struct gb_graph *graph, CUgraphNode *nodes) {
  for (uint32_t i = 0; i < graph->node_count; i++) {
    struct gb_graph_node *node = &graph->nodes[i];
    if (gb_real.cuGraphNodeGetType(nodes[i], &node->type) != CUDA_SUCCESS) {
      gb_graph_give_up(graph, "a node has no type", false);
      return;
    }
    const char *why = gb_graph_node_forbids(nodes[i], node->type, 0);
    if (why != NULL && graph->whole == NULL) graph->whole = why;
    gb_graph_scan(node, nodes[i]);
    graph->known &= node->known;
  }
  if (!graph->known && graph->whole == NULL)
    graph->whole = "not everything it touches can be seen";
}

void gb_graph_read(struct gb_graph *graph, CUgraph from, bool rename) {
  CUgraphNode *nodes = NULL;
  size_t count = 0;
  drop_content(graph);
  graph->known = true;
  graph->whole = NULL;
  if (!gb_graph_nodes_of(from, &nodes, &count) || count > GB_GRAPH_NODES_MAX) {
    free(nodes);
    gb_graph_give_up(graph, "it has too many nodes", false);
    return;
  }
  graph->nodes = calloc(count + 1, sizeof *graph->nodes);
  if (graph->nodes == NULL || (rename && !name_nodes(graph, nodes, count))) {
    free(nodes);
    gb_graph_give_up(graph, "no memory for bookkeeping", false);
    return;
  }
  graph->node_count = (uint32_t)count;
  if ((graph->flags & CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH) != 0) {
    graph->whole = "kernels launch it";
    graph->known = false;
  }
  read_nodes(graph, nodes);
  if (graph->whole == NULL) {
    const char *why = make_clone(graph, from, nodes);
    if (why != NULL) gb_graph_give_up(graph, why, true);
  }
  free(nodes);
}

/* ---- for the wrappers ---- */

void gb_graph_instantiated(CUgraphExec exec, CUgraph from, unsigned long long flags) {
  struct gb_graph *old = take(exec); /* of a context that is gone */
  if (old != NULL) end(old);
  if (gb_arena_size_bytes == 0 || gb_real.cuGraphGetNodes == NULL ||
      gb_real.cuGraphNodeGetType == NULL)
    return;
  struct gb_graph *graph = calloc(1, sizeof *graph);
  if (graph == NULL) return;
  graph->exec = exec;
  graph->refs = 1;
  graph->flags = flags;
  graph->launched = !gb_graph_follow && gb_config()->graph_segment == 0; /* or may be, unseen */
  pthread_mutex_init(&graph->lock, NULL);
  gb_real.cuCtxGetCurrent(&graph->context);
  gb_graph_read(graph, from, true);
  if (gb_config()->graph_segment != 0) gb_graph_follow = true;
  if (!enter(graph)) end(graph);
}

void gb_graph_exec_going(CUgraphExec exec) {
  struct gb_graph *graph = take(exec);
  if (graph != NULL) end(graph);
}

void gb_graph_context_going(CUcontext context) {
  for (;;) {
    CUgraphExec exec = NULL;
    pthread_mutex_lock(&table_lock);
    for (uint32_t i = 0; i < BUCKETS && exec == NULL && graph_count > 0; i++) {
      for (struct gb_graph *graph = buckets[i]; graph != NULL && exec == NULL; graph = graph->next)
        if (graph->context == context) exec = graph->exec;
    }
    pthread_mutex_unlock(&table_lock);
    if (exec == NULL) return;
    gb_graph_exec_going(exec);
  }
}

static struct gb_graph_node *node_named(struct gb_graph *graph, CUgraphNode name) {
  struct gb_graph_key key = {name, 0};
  struct gb_graph_key *found =
      graph->keys == NULL ? NULL
                          : bsearch(&key, graph->keys, graph->node_count, sizeof key, by_node);
  return found == NULL ? NULL : &graph->nodes[found->index];
}

/* A node of the graph by the program's name for it. The graph is locked: release it if it is not
 * NULL. */
static struct gb_graph_node *acquire_node(CUgraphExec exec, CUgraphNode name,
                                          struct gb_graph **graph) {
  *graph = acquire(exec);
  return *graph == NULL ? NULL : node_named(*graph, name);
}

static CUresult unknown_node(struct gb_graph *graph) {
  if (graph->diverged) return CUDA_ERROR_NOT_SUPPORTED;
  gb_graph_give_up(graph, "a node was changed that it was not seen to have", false);
  return CUDA_SUCCESS;
}

CUresult gb_graph_node_changed(CUgraphExec exec, CUgraphNode name,
                               const struct gb_graph_change *change) {
  struct gb_graph *graph;
  struct gb_graph_node *node = acquire_node(exec, name, &graph);
  if (graph == NULL) return CUDA_SUCCESS;
  CUresult result =
      node == NULL ? unknown_node(graph) : gb_graph_apply(graph, node, change);
  if (result != CUDA_SUCCESS)
    gb_log(GB_LOG_WARN, "an executable graph cannot take this change: instantiate the graph anew");
  release(graph);
  return result;
}

CUresult gb_graph_node_enabled(CUgraphExec exec, CUgraphNode name, bool enabled) {
  struct gb_graph *graph;
  struct gb_graph_node *node = acquire_node(exec, name, &graph);
  if (graph == NULL) return CUDA_SUCCESS;
  CUresult result = CUDA_SUCCESS;
  if (node == NULL)
    result = unknown_node(graph);
  else
    gb_graph_enable(graph, node, enabled);
  release(graph);
  return result;
}

bool gb_graph_node_forced(CUgraphExec exec, CUgraphNode name,
                          const struct gb_graph_change *change) {
  struct gb_graph *graph;
  struct gb_graph_node *node = acquire_node(exec, name, &graph);
  bool forced = node != NULL && gb_graph_force(graph, node, change);
  if (graph != NULL) release(graph);
  return forced;
}

bool gb_graph_update_forced(CUgraphExec exec, CUgraph from) {
  struct gb_graph *graph = acquire(exec);
  if (graph == NULL) return false;
  bool forced = gb_graph_force_update(graph, from);
  release(graph);
  return forced;
}

CUgraphExec gb_graph_exec_of(CUgraphExec exec) {
  CUgraphExec whole = exec;
  struct gb_graph *graph = acquire(exec);
  if (graph == NULL) return exec;
  if (gb_graph_whole(graph, &whole) != CUDA_SUCCESS) whole = exec;
  release(graph);
  return whole;
}

void gb_graph_exec_updated(CUgraphExec exec, CUgraph from) {
  struct gb_graph *graph = acquire(exec);
  if (graph == NULL) return;
  gb_graph_update(graph, from);
  release(graph);
}

CUresult gb_graph_launch(CUgraphExec exec, CUstream stream, CUstream named,
                         CUresult (*real)(CUgraphExec, CUstream)) {
  const struct gb_graph_call call = {exec, stream, named, real};
  struct gb_graph *graph = acquire(exec);
  CUresult result = gb_graph_run(graph, &call);
  if (graph != NULL) release(graph);
  return result;
}
