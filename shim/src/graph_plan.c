/* SPDX-License-Identifier: Apache-2.0 */
/* graph_plan.c: a topological order of a graph's nodes, and where it is cut into pieces. */
#include <stdlib.h>
#include <string.h>

#include "graph.h"
#include "lock.h"
#include "stage.h"

/* ---- order ---- */

struct edges {
  CUgraphNode *from; /* owned */
  CUgraphNode *to;   /* owned */
  size_t count;
};

/* The older question refuses when an edge carries data (programmatic launches). */
static CUresult ask_edges(CUgraph graph, struct edges *edges) {
  CUgraphEdgeData *data = NULL;
  CUresult result;
  if (gb_real.cuGraphGetEdges_v2 == NULL)
    return gb_real.cuGraphGetEdges(graph, edges->from, edges->to, &edges->count);
  if (edges->from != NULL) {
    data = malloc((edges->count + 1) * sizeof *data);
    if (data == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
  }
  result = gb_real.cuGraphGetEdges_v2(graph, edges->from, edges->to, data, &edges->count);
  free(data);
  return result;
}

static bool edges_of(CUgraph graph, struct edges *edges) {
  *edges = (struct edges){NULL, NULL, 0};
  if (ask_edges(graph, edges) != CUDA_SUCCESS) return false;
  edges->from = malloc((edges->count + 1) * sizeof *edges->from);
  edges->to = malloc((edges->count + 1) * sizeof *edges->to);
  if (edges->from == NULL || edges->to == NULL) return false;
  return edges->count == 0 || ask_edges(graph, edges) == CUDA_SUCCESS;
}

static int by_node(const void *a, const void *b) {
  uintptr_t x = (uintptr_t)((const struct gb_graph_key *)a)->node;
  uintptr_t y = (uintptr_t)((const struct gb_graph_key *)b)->node;
  return (x > y) - (x < y);
}

static uint32_t index_of(const struct gb_graph_key *keys, uint32_t count, CUgraphNode node) {
  struct gb_graph_key key = {node, 0};
  const struct gb_graph_key *found = bsearch(&key, keys, count, sizeof key, by_node);
  return found == NULL ? UINT32_MAX : found->index;
}

/* Work space of one sort: successors of node i are next[start[i]] to next[start[i + 1] - 1]. */
struct sort {
  struct gb_graph_key *keys;
  uint32_t *start, *next, *waiting, *heap;
  uint32_t heap_count;
};

static void push(struct sort *sort, uint32_t index) {
  uint32_t at = sort->heap_count++;
  for (; at > 0 && sort->heap[(at - 1) / 2] > index; at = (at - 1) / 2)
    sort->heap[at] = sort->heap[(at - 1) / 2];
  sort->heap[at] = index;
}

static uint32_t pop(struct sort *sort) {
  uint32_t least = sort->heap[0];
  uint32_t last = sort->heap[--sort->heap_count];
  uint32_t at = 0;
  for (uint32_t child = 1; child < sort->heap_count; child = 2 * at + 1) {
    if (child + 1 < sort->heap_count && sort->heap[child + 1] < sort->heap[child]) child++;
    if (sort->heap[child] >= last) break;
    sort->heap[at] = sort->heap[child];
    at = child;
  }
  sort->heap[at] = last;
  return least;
}

/* returns: false when an edge names no node of the graph. */
static bool take_edges(struct sort *sort, uint32_t count, const struct edges *edges) {
  for (size_t e = 0; e < edges->count; e++) {
    uint32_t from = index_of(sort->keys, count, edges->from[e]);
    uint32_t to = index_of(sort->keys, count, edges->to[e]);
    if (from == UINT32_MAX || to == UINT32_MAX) return false;
    sort->start[from + 1]++;
    sort->waiting[to]++;
  }
  for (uint32_t i = 0; i < count; i++) sort->start[i + 1] += sort->start[i];
  uint32_t *fill = sort->heap; /* not in use yet */
  memcpy(fill, sort->start, count * sizeof *fill);
  for (size_t e = 0; e < edges->count; e++) {
    uint32_t from = index_of(sort->keys, count, edges->from[e]);
    sort->next[fill[from]++] = index_of(sort->keys, count, edges->to[e]);
  }
  return true;
}

/* Of the nodes that may come next, the one the program added first: the order it recorded. */
static const char *walk(struct sort *sort, uint32_t count, uint32_t *order) {
  uint32_t done = 0;
  for (uint32_t i = 0; i < count; i++) {
    if (sort->waiting[i] == 0) push(sort, i);
  }
  while (sort->heap_count > 0) {
    uint32_t index = pop(sort);
    order[done++] = index;
    for (uint32_t e = sort->start[index]; e < sort->start[index + 1]; e++) {
      if (--sort->waiting[sort->next[e]] == 0) push(sort, sort->next[e]);
    }
  }
  return done == count ? NULL : "its order cannot be told";
}

const char *gb_graph_sort(struct gb_graph *graph) {
  struct edges edges;
  struct sort sort = {NULL, NULL, NULL, NULL, NULL, 0};
  uint32_t count = graph->node_count;
  const char *why = "its edges cannot be read";
  if (edges_of(graph->clone, &edges) && edges.count < UINT32_MAX) {
    sort.keys = malloc((count + 1) * sizeof *sort.keys);
    sort.start = calloc(count + 2, sizeof *sort.start);
    sort.waiting = calloc(count + 1, sizeof *sort.waiting);
    sort.heap = malloc((count + 1) * sizeof *sort.heap);
    sort.next = malloc((edges.count + 1) * sizeof *sort.next);
    graph->order = malloc((count + 1) * sizeof *graph->order);
    bool room = sort.keys != NULL && sort.start != NULL && sort.waiting != NULL &&
                sort.heap != NULL && sort.next != NULL && graph->order != NULL;
    for (uint32_t i = 0; i < count && room; i++)
      sort.keys[i] = (struct gb_graph_key){graph->nodes[i].node, i};
    if (room) qsort(sort.keys, count, sizeof *sort.keys, by_node);
    if (room && take_edges(&sort, count, &edges)) why = walk(&sort, count, graph->order);
  }
  free(edges.from);
  free(edges.to);
  free(sort.keys);
  free(sort.start);
  free(sort.next);
  free(sort.waiting);
  free(sort.heap);
  return why;
}

static int by_value(const void *a, const void *b) {
  uint64_t x = *(const uint64_t *)a;
  uint64_t y = *(const uint64_t *)b;
  return (x > y) - (x < y);
}

/* Edges as pairs of places in the list of nodes, sorted. owns: free. returns: NULL when they cannot
 * be told. */
static uint64_t *edge_places(CUgraph graph, const CUgraphNode *nodes, uint32_t count,
                             size_t *edge_count) {
  struct edges edges;
  struct gb_graph_key *keys = malloc((count + 1) * sizeof *keys);
  uint64_t *places = NULL;
  bool told = edges_of(graph, &edges) && keys != NULL;
  if (told) places = malloc((edges.count + 1) * sizeof *places);
  if (places != NULL) {
    for (uint32_t i = 0; i < count; i++) keys[i] = (struct gb_graph_key){nodes[i], i};
    qsort(keys, count, sizeof *keys, by_node);
    for (size_t e = 0; e < edges.count; e++)
      places[e] = (uint64_t)index_of(keys, count, edges.from[e]) << 32 |
                  index_of(keys, count, edges.to[e]);
    qsort(places, edges.count, sizeof *places, by_value);
    *edge_count = edges.count;
  }
  free(edges.from);
  free(edges.to);
  free(keys);
  return places;
}

bool gb_graph_same_edges(CUgraph a, const CUgraphNode *a_nodes, CUgraph b,
                         const CUgraphNode *b_nodes, uint32_t count) {
  size_t a_count = 0;
  size_t b_count = 0;
  uint64_t *a_places = edge_places(a, a_nodes, count, &a_count);
  uint64_t *b_places = edge_places(b, b_nodes, count, &b_count);
  bool same = a_places != NULL && b_places != NULL && a_count == b_count &&
              memcmp(a_places, b_places, a_count * sizeof *a_places) == 0;
  free(a_places);
  free(b_places);
  return same;
}

/* ---- chunks of a node ---- */

struct chunks {
  struct gb_operand *list; /* distinct; owned */
  uint32_t count;
  uint32_t room;
};

static void add_chunk(struct gb_span *span, uint32_t index, void *context) {
  struct chunks *chunks = context;
  const struct gb_chunk *chunk = &span->chunks[index];
  uint64_t address = span->base + chunk->offset;
  for (uint32_t i = 0; i < chunks->count; i++) {
    if (chunks->list[i].address == address) return;
  }
  if (chunks->count < chunks->room)
    chunks->list[chunks->count++] = (struct gb_operand){address, chunk->bytes};
}

/* learn: only lets the spans know which places are named, so that each reaches to the next. */
static void chunks_of(const struct gb_graph_node *node, struct chunks *chunks, bool learn) {
  chunks->count = 0;
  if (node->disabled) return;
  pthread_mutex_lock(&gb_stage_lock);
  pthread_rwlock_rdlock(&gb_index_lock);
  for (uint32_t i = 0; i < node->operand_count; i++) {
    struct gb_span *span = gb_span_at(node->operands[i].address);
    if (span != NULL && gb_residency(span) == GB_RESIDENT)
      gb_stage_cover(span, node->operands[i].address, node->operands[i].bytes, learn, add_chunk,
                     chunks);
  }
  pthread_rwlock_unlock(&gb_index_lock);
  pthread_mutex_unlock(&gb_stage_lock);
}

/* ---- cutting ---- */

static void free_pieces(struct gb_graph_piece *pieces, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) free(pieces[i].chunks);
  free(pieces);
}

/* A plan in the making. */
struct plan {
  struct gb_graph_piece *pieces;
  uint32_t count;
  struct chunks now; /* of the piece being filled */
};

static bool close_piece(struct plan *plan) {
  struct gb_graph_piece *piece = &plan->pieces[plan->count - 1];
  piece->chunk_count = plan->now.count;
  piece->chunks = malloc((plan->now.count + 1) * sizeof *piece->chunks);
  if (piece->chunks == NULL) return false;
  memcpy(piece->chunks, plan->now.list, plan->now.count * sizeof *piece->chunks);
  return true;
}

static bool open_piece(struct plan *plan, uint32_t first) {
  if (plan->count > 0 && !close_piece(plan)) return false;
  if ((plan->count & (plan->count - 1)) == 0) {
    size_t room = plan->count == 0 ? 1 : 2 * (size_t)plan->count;
    struct gb_graph_piece *grown = realloc(plan->pieces, room * sizeof *grown);
    if (grown == NULL) return false;
    plan->pieces = grown;
  }
  plan->pieces[plan->count++] = (struct gb_graph_piece){.first = first};
  plan->now.count = 0;
  return true;
}

static bool is_listed(const struct chunks *chunks, const struct gb_operand *chunk) {
  for (uint32_t i = 0; i < chunks->count; i++) {
    if (chunks->list[i].address == chunk->address) return true;
  }
  return false;
}

/* The node's chunks that the piece does not name yet, after those it does. */
static uint64_t fresh(const struct plan *plan, const struct chunks *chunks, uint32_t *count) {
  uint64_t bytes = 0;
  *count = 0;
  for (uint32_t i = 0; i < chunks->count; i++) {
    if (is_listed(&plan->now, &chunks->list[i])) continue;
    bytes += chunks->list[i].bytes;
    (*count)++;
  }
  return bytes;
}

static void take_chunks(struct plan *plan, const struct chunks *chunks) {
  struct gb_graph_piece *piece = &plan->pieces[plan->count - 1];
  for (uint32_t i = 0; i < chunks->count; i++) {
    if (is_listed(&plan->now, &chunks->list[i]) || plan->now.count == plan->now.room) continue;
    plan->now.list[plan->now.count++] = chunks->list[i];
    piece->bytes += chunks->list[i].bytes;
  }
}

static bool place(struct plan *plan, uint32_t position, const struct chunks *chunks,
                  uint64_t limit) {
  uint32_t count = 0;
  bool full = plan->count == 0;
  if (!full && plan->now.count > 0) {
    uint64_t bytes = fresh(plan, chunks, &count);
    full = count > 0 && (plan->pieces[plan->count - 1].bytes + bytes > limit ||
                         plan->now.count + count > plan->now.room);
  }
  if (full && !open_piece(plan, position)) return false;
  take_chunks(plan, chunks);
  plan->pieces[plan->count - 1].count++;
  return true;
}

/* Every node in the order it has; without a clone (nothing will be cut) in the program's. */
static struct gb_graph_node *node_at(const struct gb_graph *graph, uint32_t position) {
  return &graph->nodes[graph->order == NULL ? position : graph->order[position]];
}

static bool cut(const struct gb_graph *graph, uint64_t limit, struct plan *plan) {
  struct chunks chunks = {malloc(GB_OPERANDS_MAX * sizeof *chunks.list), 0, GB_OPERANDS_MAX};
  plan->now = (struct chunks){malloc(GB_OPERANDS_MAX * sizeof *chunks.list), 0, GB_OPERANDS_MAX};
  bool made = chunks.list != NULL && plan->now.list != NULL;
  for (uint32_t i = 0; i < graph->node_count && made; i++)
    chunks_of(&graph->nodes[i], &chunks, true);
  for (uint32_t i = 0; i < graph->node_count && made; i++) {
    chunks_of(node_at(graph, i), &chunks, false);
    made = place(plan, i, &chunks, limit);
  }
  if (made && plan->count > 0) made = close_piece(plan);
  free(chunks.list);
  free(plan->now.list);
  return made;
}

static bool same_cuts(const struct gb_graph *graph, const struct plan *plan) {
  bool same = graph->piece_count == plan->count;
  for (uint32_t i = 0; i < plan->count && same; i++)
    same = graph->pieces[i].count == plan->pieces[i].count;
  return same;
}

bool gb_graph_plan(struct gb_graph *graph, uint64_t limit) {
  struct plan plan = {NULL, 0, {NULL, 0, 0}};
  if (!cut(graph, limit, &plan)) {
    free_pieces(plan.pieces, plan.count);
    return false;
  }
  if (graph->built && same_cuts(graph, &plan)) {
    for (uint32_t i = 0; i < plan.count; i++) {
      plan.pieces[i].graph = graph->pieces[i].graph;
      plan.pieces[i].exec = graph->pieces[i].exec;
    }
  } else {
    gb_graph_drop_pieces(graph);
  }
  free_pieces(graph->pieces, graph->piece_count);
  graph->pieces = plan.pieces;
  graph->piece_count = plan.count;
  graph->plan_bytes = limit;
  graph->planned = true;
  graph->stale = false;
  for (uint32_t p = 0; p < plan.count; p++) {
    for (uint32_t i = 0; i < plan.pieces[p].count; i++)
      node_at(graph, plan.pieces[p].first + i)->piece = p;
  }
  return true;
}

void gb_graph_drop_plan(struct gb_graph *graph) {
  gb_graph_drop_pieces(graph);
  free_pieces(graph->pieces, graph->piece_count);
  graph->pieces = NULL;
  graph->piece_count = 0;
  graph->planned = false;
}
