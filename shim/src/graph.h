/* SPDX-License-Identifier: Apache-2.0 */
/*
 * graph.h: executable graphs of the program, followed from their instantiation on, so that a launch
 * can say what it touches; one that touches more than the frames hold is run in pieces.
 *
 *   graph.c         the table of followed graphs; what they become when they change hands
 *   graph_node.c    what a node names
 *   graph_update.c  changes of executable graphs, made to the pieces too
 *   graph_plan.c    the order of the nodes, and where it is cut
 *   graph_piece.c   pieces made and launched
 *   hooks_graph.c   the wrappers
 *
 * A piece is a contiguous run of a topological order, so that every path between two of its nodes
 * lies in it; pieces launched one after another on one stream then keep every dependency. Each is a
 * clone of the graph from which the other nodes were destroyed: attributes of nodes survive.
 *
 * What a graph names steers staging and proves nothing: a graph that was misread runs right and is
 * read in place.
 *
 * The driver demands that calls on one executable graph follow each other; the lock of each is
 * there for programs that do not care. It is taken before every lock of the core; the table's own
 * only for look-ups.
 */
#ifndef GB_GRAPH_H
#define GB_GRAPH_H

#include <pthread.h>
#include <stdatomic.h>

#include "hooks.h"
#include "scan.h"

#define GB_GRAPHS_MAX (1u << 16)      /* more executable graphs are not followed */
#define GB_GRAPH_NODES_MAX (1u << 18) /* of one graph; larger ones are not followed */
#define GB_GRAPH_PIECES_MAX 4096u     /* of one graph; one that needs more runs whole */
#define GB_GRAPH_OPERANDS_MAX 8192u   /* addresses that one node may name */
#define GB_GRAPH_DEPTH_MAX 16         /* graphs within graphs */

struct gb_graph_node {
  CUgraphNode node;     /* in the private clone; NULL when there is none */
  CUgraphNode in_piece; /* while there are pieces */
  CUgraphNodeType type;
  bool known; /* everything it is given was seen */
  bool disabled;
  uint32_t piece;
  uint32_t operand_count;
  struct gb_operand *operands; /* addresses of the arena; bytes 0: how much is not known */
};

/* One run of the order: order[first] to order[first + count - 1]. */
struct gb_graph_piece {
  uint32_t first;
  uint32_t count;
  uint64_t bytes; /* of its chunks */
  uint32_t chunk_count;
  struct gb_operand *chunks; /* distinct, by first use, at most GB_OPERANDS_MAX */
  CUgraph graph;
  CUgraphExec exec; /* NULL until it is built */
};

/* What the program calls a node: a name only, its graph may be gone. */
struct gb_graph_key {
  CUgraphNode node;
  uint32_t index;
};

struct gb_graph {
  CUgraphExec exec;
  struct gb_graph *next; /* in the table */
  uint32_t refs;         /* under the table's lock */
  pthread_mutex_t lock;  /* everything below */
  bool gone;
  unsigned long long flags;
  CUcontext context;
  bool known;        /* all nodes are, and none was changed unseen */
  const char *whole; /* why it cannot run in pieces, or NULL */
  bool told;         /* that has been logged */
  CUgraph clone;
  uint32_t node_count;
  struct gb_graph_node *nodes; /* as cuGraphGetNodes gave them */
  struct gb_graph_key *keys;   /* by node */
  uint32_t *order;             /* topological; NULL when there is no clone */
  bool stale;                  /* what nodes name has changed since the plan */
  bool planned;
  uint64_t plan_bytes; /* the limit the plan was made for */
  uint32_t piece_count;
  struct gb_graph_piece *pieces;
  bool built;    /* every piece has its exec */
  bool launched; /* while no event told of it */
  /* The driver has refused a change only because the memory lies elsewhere than the program thinks
   * (host memory instead of VRAM): the program's exec lacks it, one made from the clone has it. */
  bool diverged;
  CUgraphExec substitute; /* NULL until the next launch */
  CUevent ended; /* after the last launch; pieces need it: another stream must not overtake them */
  CUcontext ended_context;
};

/* A change of one node's parameters; those of its type are set. */
struct gb_graph_change {
  CUgraphNodeType type;
  CUcontext context; /* of copies and fills */
  const CUDA_KERNEL_NODE_PARAMS *kernel;
  const CUDA_MEMCPY3D *copy;
  const CUDA_MEMSET_NODE_PARAMS *fill;
  const CUDA_HOST_NODE_PARAMS *host;
  CUgraph child;
};

/* ---- for the wrappers, each after the driver has agreed ---- */

void gb_graph_instantiated(CUgraphExec exec, CUgraph graph, unsigned long long flags);
/* Before the driver destroys it. */
void gb_graph_exec_going(CUgraphExec exec);
/* returns: CUDA_ERROR_NOT_SUPPORTED when the change cannot be made where it now has to be. */
CUresult gb_graph_node_changed(CUgraphExec exec, CUgraphNode node,
                               const struct gb_graph_change *change);
CUresult gb_graph_node_enabled(CUgraphExec exec, CUgraphNode node, bool enabled);
/* After the driver has refused the change of a copy or a fill with CUDA_ERROR_INVALID_VALUE: true
 * when it did so only for where memory of ours lies; the change is made then. */
bool gb_graph_node_forced(CUgraphExec exec, CUgraphNode node,
                          const struct gb_graph_change *change);
/* The same after cuGraphExecUpdate has failed. */
bool gb_graph_update_forced(CUgraphExec exec, CUgraph graph);
/* What stands for the exec when it is recorded into a capture. */
CUgraphExec gb_graph_exec_of(CUgraphExec exec);
void gb_graph_exec_updated(CUgraphExec exec, CUgraph graph);
/* A launch that something has to be done for. named: the stream with its NULL named. */
CUresult gb_graph_launch(CUgraphExec exec, CUstream stream, CUstream named,
                         CUresult (*real)(CUgraphExec, CUstream));
/* True when launches must go through gb_graph_launch although GB_SLOW() says no. */
extern _Atomic bool gb_graph_follow;
/* The context goes: so do its graphs. pre: it is current. */
void gb_graph_context_going(CUcontext context);

/* ---- among the graph files; pre: the graph's lock ---- */

/* Takes a graph from scratch, keeping the program's names of nodes when rename is false. */
void gb_graph_read(struct gb_graph *graph, CUgraph from, bool rename);
/* It runs whole from here on. why: a literal. known: what it touches still is. */
void gb_graph_give_up(struct gb_graph *graph, const char *why, bool known);

/* Fills what a node of any type names, from its parameters. */
void gb_graph_scan(struct gb_graph_node *node, CUgraphNode from);
void gb_graph_scan_change(struct gb_graph_node *node, const struct gb_graph_change *change);
/* Why a graph with such a node must run whole, or NULL. */
const char *gb_graph_node_forbids(CUgraphNode node, CUgraphNodeType type, int depth);
/* The nodes of a graph. owns: free. returns: false when it cannot be told; count is set. */
bool gb_graph_nodes_of(CUgraph graph, CUgraphNode **nodes, size_t *count);

/* pre: clone. returns: NULL, or why there is no order. */
const char *gb_graph_sort(struct gb_graph *graph);
/* True when both have edges between the same places of their lists of nodes. */
bool gb_graph_same_edges(CUgraph a, const CUgraphNode *a_nodes, CUgraph b,
                         const CUgraphNode *b_nodes, uint32_t count);
/* Cuts the order. limit: bytes of one piece; UINT64_MAX: only GB_OPERANDS_MAX counts. Pieces that
 * stay the same keep their execs. returns: false when memory is out. */
bool gb_graph_plan(struct gb_graph *graph, uint64_t limit);
void gb_graph_drop_plan(struct gb_graph *graph);

/* Destroys what was built of the pieces. */
void gb_graph_drop_pieces(struct gb_graph *graph);
/* Makes the exec of one piece anew from its graph. returns: false when the driver refuses. */
bool gb_graph_rebuild_piece(struct gb_graph *graph, uint32_t piece);
/* A launch, whole or in pieces. graph: NULL when it is not followed. */
struct gb_graph_call {
  CUgraphExec exec;
  CUstream stream; /* as the program passed it */
  CUstream named;
  CUresult (*real)(CUgraphExec, CUstream);
};
CUresult gb_graph_run(struct gb_graph *graph, const struct gb_graph_call *call);
/* The exec that runs the whole graph. */
CUresult gb_graph_whole(struct gb_graph *graph, CUgraphExec *exec);
void gb_graph_drop_substitute(struct gb_graph *graph);
/* The next launch waits for everything submitted so far. returns: false when it cannot. */
bool gb_graph_mark(struct gb_graph *graph);

/* The program has changed a node, switched one on or off, or updated all from another graph. */
CUresult gb_graph_apply(struct gb_graph *graph, struct gb_graph_node *node,
                        const struct gb_graph_change *change);
bool gb_graph_force(struct gb_graph *graph, struct gb_graph_node *node,
                    const struct gb_graph_change *change);
void gb_graph_enable(struct gb_graph *graph, struct gb_graph_node *node, bool enabled);
void gb_graph_update(struct gb_graph *graph, CUgraph from);
bool gb_graph_force_update(struct gb_graph *graph, CUgraph from);

#endif
