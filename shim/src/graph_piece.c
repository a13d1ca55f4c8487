/* SPDX-License-Identifier: Apache-2.0 */
/*
 * graph_piece.c: pieces made and launched.
 *
 * An executable graph runs once at a time: the driver makes a launch wait for the one before, on
 * whatever stream that was. Pieces are executable graphs of their own, so the first of a launch has
 * to wait for the last of the launch before: by an event, recorded after every launch once there
 * are pieces.
 */
#include "graph.h"

#include <stdlib.h>
#include <string.h>

#include "config.h"
#include "context.h"
#include "gated.h"
#include "report.h"

_Atomic bool gb_graph_follow;

/* ---- building ---- */

void gb_graph_drop_pieces(struct gb_graph *graph) {
  for (uint32_t i = 0; i < graph->piece_count; i++) {
    struct gb_graph_piece *piece = &graph->pieces[i];
    if (piece->exec != NULL) gb_real.cuGraphExecDestroy(piece->exec);
    if (piece->graph != NULL) gb_real.cuGraphDestroy(piece->graph);
    piece->exec = NULL;
    piece->graph = NULL;
  }
  graph->built = false;
}

static uint32_t piece_end(const struct gb_graph *graph, uint32_t piece) {
  return graph->pieces[piece].first + graph->pieces[piece].count;
}

static struct gb_graph_node *node_at(struct gb_graph *graph, uint32_t position) {
  return &graph->nodes[graph->order[position]];
}

/* `whole` holds the nodes of pieces first to last, as in_piece: halves it until each has its own.
 * owns: whole; what is left after a failure is destroyed. */
static CUresult halve(struct gb_graph *graph, CUgraph whole, uint32_t first, uint32_t last) {
  if (first == last) {
    graph->pieces[first].graph = whole;
    return CUDA_SUCCESS;
  }
  uint32_t middle = first + (last - first) / 2;
  uint32_t cut = graph->pieces[middle + 1].first;
  CUgraph other = NULL;
  CUresult result = gb_real.cuGraphClone(&other, whole);
  for (uint32_t i = graph->pieces[first].first;
       i < piece_end(graph, last) && result == CUDA_SUCCESS; i++) {
    struct gb_graph_node *node = node_at(graph, i);
    CUgraphNode found = NULL;
    result = gb_real.cuGraphNodeFindInClone(&found, node->in_piece, other);
    if (result != CUDA_SUCCESS) break;
    CUgraphNode leaves = i < cut ? found : node->in_piece;
    if (i >= cut) node->in_piece = found;
    result = gb_real.cuGraphDestroyNode(leaves);
  }
  if (result == CUDA_SUCCESS) {
    result = halve(graph, whole, first, middle);
    if (result == CUDA_SUCCESS) return halve(graph, other, middle + 1, last);
    gb_real.cuGraphDestroy(other);
    return result;
  }
  gb_real.cuGraphDestroy(whole);
  if (other != NULL) gb_real.cuGraphDestroy(other);
  return result;
}

static CUresult instantiate(const struct gb_graph *graph, CUgraph from, CUgraphExec *exec) {
  unsigned long long flags = graph->flags & CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY;
  if (gb_real.cuGraphInstantiateWithFlags != NULL)
    return gb_real.cuGraphInstantiateWithFlags(exec, from, flags);
  return gb_real.cuGraphInstantiate_v2(exec, from, NULL, NULL, 0);
}

static CUresult switch_off_whole(const struct gb_graph *graph) {
  CUresult result = CUDA_SUCCESS;
  for (uint32_t i = 0; i < graph->node_count && result == CUDA_SUCCESS; i++) {
    const struct gb_graph_node *node = &graph->nodes[i];
    if (node->disabled) result = gb_real.cuGraphNodeSetEnabled(graph->substitute, node->node, 0);
  }
  return result;
}

static CUresult build_piece(struct gb_graph *graph, uint32_t index) {
  struct gb_graph_piece *piece = &graph->pieces[index];
  CUresult result = instantiate(graph, piece->graph, &piece->exec);
  for (uint32_t i = piece->first; i < piece_end(graph, index) && result == CUDA_SUCCESS; i++) {
    const struct gb_graph_node *node = node_at(graph, i);
    if (node->disabled) result = gb_real.cuGraphNodeSetEnabled(piece->exec, node->in_piece, 0);
  }
  return result;
}

bool gb_graph_rebuild_piece(struct gb_graph *graph, uint32_t piece) {
  gb_real.cuGraphExecDestroy(graph->pieces[piece].exec);
  graph->pieces[piece].exec = NULL;
  return build_piece(graph, piece) == CUDA_SUCCESS;
}

static CUresult build_pieces(struct gb_graph *graph) {
  CUgraph whole = NULL;
  CUresult result = gb_real.cuGraphClone(&whole, graph->clone);
  if (result != CUDA_SUCCESS) return result;
  for (uint32_t i = 0; i < graph->node_count && result == CUDA_SUCCESS; i++) {
    struct gb_graph_node *node = &graph->nodes[i];
    result = gb_real.cuGraphNodeFindInClone(&node->in_piece, node->node, whole);
  }
  if (result != CUDA_SUCCESS) {
    gb_real.cuGraphDestroy(whole);
    return result;
  }
  result = halve(graph, whole, 0, graph->piece_count - 1);
  for (uint32_t i = 0; i < graph->piece_count && result == CUDA_SUCCESS; i++)
    result = build_piece(graph, i);
  return result;
}

static CUresult build_substitute(struct gb_graph *graph) {
  CUresult result = instantiate(graph, graph->clone, &graph->substitute);
  if (result == CUDA_SUCCESS) result = switch_off_whole(graph);
  if (result != CUDA_SUCCESS) gb_graph_drop_substitute(graph);
  return result;
}

/* A capture of another thread must not end because we make graphs; the driver must find what their
 * nodes name. */
static CUresult build_aside(struct gb_graph *graph, CUresult (*build)(struct gb_graph *)) {
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
  bool slow = gb_slow_begin();
  CUresult result = slow ? gb_begin_copy_slow(NULL, 0, GB_STREAM_SYNC) : CUDA_SUCCESS;
  if (result != CUDA_SUCCESS) return result;
  if (gb_real.cuThreadExchangeStreamCaptureMode != NULL)
    gb_real.cuThreadExchangeStreamCaptureMode(&mode);
  result = build(graph);
  gb_end(slow);
  if (mode != CU_STREAM_CAPTURE_MODE_RELAXED) gb_real.cuThreadExchangeStreamCaptureMode(&mode);
  return result;
}

void gb_graph_drop_substitute(struct gb_graph *graph) {
  if (graph->substitute != NULL) gb_real.cuGraphExecDestroy(graph->substitute);
  graph->substitute = NULL;
}

CUresult gb_graph_whole(struct gb_graph *graph, CUgraphExec *exec) {
  CUresult result = CUDA_SUCCESS;
  if (!graph->diverged) {
    *exec = graph->exec;
    return CUDA_SUCCESS;
  }
  if (graph->substitute == NULL) result = build_aside(graph, build_substitute);
  *exec = graph->substitute;
  return result;
}

/* Logged once for each executable graph. */
static void tell(struct gb_graph *graph) {
  if (graph->told) return;
  graph->told = true;
  gb_report_add(GB_COUNT_GRAPHS_WHOLE, 1);
  gb_log(GB_LOG_INFO, "a graph of %u nodes runs whole and reads what overflows in place: %s",
         graph->node_count, graph->whole);
}

static bool have_pieces(struct gb_graph *graph) {
  if (graph->built) return true;
  if (graph->piece_count > GB_GRAPH_PIECES_MAX) {
    gb_graph_give_up(graph, "it would need too many pieces", true);
    return false;
  }
  CUresult result = build_aside(graph, build_pieces);
  if (result != CUDA_SUCCESS) {
    gb_log(GB_LOG_WARN, "a piece of a graph cannot be made: CUDA error %d", (int)result);
    gb_graph_give_up(graph, "the driver refused a piece of it", true);
    return false;
  }
  graph->built = true;
  gb_report_add(GB_COUNT_GRAPH_SPLITS, 1);
  gb_log(GB_LOG_INFO, "a graph of %u nodes runs in %u pieces of at most %llu MiB",
         graph->node_count, graph->piece_count, (unsigned long long)(graph->plan_bytes >> 20));
  return true;
}

/* ---- order among launches ---- */

static bool is_ended_context(const struct gb_graph *graph, CUstream stream) {
  CUcontext context = NULL;
  return gb_real.cuStreamGetCtx != NULL &&
         gb_real.cuStreamGetCtx(stream, &context) == CUDA_SUCCESS &&
         context == graph->ended_context;
}

/* Made once: from then on every launch records it. */
static void have_event(struct gb_graph *graph, CUstream stream) {
  if (graph->ended != NULL) return;
  CUevent event = NULL;
  if (gb_real.cuCtxGetCurrent(&graph->ended_context) != CUDA_SUCCESS ||
      !is_ended_context(graph, stream) ||
      gb_real.cuEventCreate(&event, CU_EVENT_DISABLE_TIMING) != CUDA_SUCCESS) {
    gb_graph_give_up(graph, "it is launched in a context that is not current", true);
    return;
  }
  graph->ended = event;
  gb_graph_follow = true;
}

/* Everything submitted so far counts as the last launch: where it ran is not known any more. */
bool gb_graph_mark(struct gb_graph *graph) {
  CUcontext context = NULL;
  CUevent event = graph->ended;
  if (gb_real.cuCtxRecordEvent == NULL || gb_real.cuCtxGetCurrent(&context) != CUDA_SUCCESS ||
      (event != NULL && graph->ended_context != context))
    return false;
  if (event == NULL && gb_real.cuEventCreate(&event, CU_EVENT_DISABLE_TIMING) != CUDA_SUCCESS)
    return false;
  bool marked = gb_context_record(context, event) == CUDA_SUCCESS;
  if (!marked && graph->ended == NULL) {
    gb_real.cuEventDestroy_v2(event);
    return false;
  }
  graph->ended = event;
  graph->ended_context = context;
  gb_graph_follow = true;
  return marked;
}

static CUresult wait_for_last(const struct gb_graph *graph, CUstream stream) {
  if (graph->ended == NULL) return CUDA_SUCCESS;
  return gb_real.cuStreamWaitEvent(stream, graph->ended, 0);
}

/* After a launch whose end cannot be recorded no piece may follow; a substitute can only wait. */
static void note_launch(struct gb_graph *graph, CUstream stream) {
  graph->launched = true;
  if (graph->ended == NULL || (graph->whole != NULL && !graph->diverged)) return;
  if (is_ended_context(graph, stream) &&
      gb_real.cuEventRecord(graph->ended, stream) == CUDA_SUCCESS)
    return;
  gb_graph_give_up(graph, "it is launched in more than one context", true);
  if (graph->diverged) gb_real.cuStreamSynchronize(stream);
}

/* ---- launching ---- */

static void name_chunks(const struct gb_graph_piece *piece, struct gb_touch *touch) {
  touch->accounted = true;
  touch->exact = false;
  touch->lane = 0;
  touch->count = touch->named_count = touch->content_count = touch->reach_count = 0;
  for (uint32_t i = 0; i < piece->chunk_count; i++)
    gb_touch_address(touch, piece->chunks[i].address, piece->chunks[i].bytes);
}

static CUresult bracket(const struct gb_graph_piece *piece, CUstream named, bool *slow) {
  struct gb_touch touch;
  *slow = gb_slow_begin();
  if (!*slow) return CUDA_SUCCESS;
  name_chunks(piece, &touch);
  return gb_begin_touch_slow(&touch, named);
}

static CUresult run_unknown(const struct gb_graph_call *call) {
  bool slow = gb_slow_begin();
  CUresult result = slow ? gb_begin_unknown_slow(GB_UNKNOWN_GRAPH, call->named) : CUDA_SUCCESS;
  if (result != CUDA_SUCCESS) return result;
  result = call->real(call->exec, call->stream);
  gb_end(slow);
  return result;
}

/* One launch that says what it touches, in as many calls as a touch has room for. */
static CUresult run_whole(const struct gb_graph *graph, const struct gb_graph_call *call) {
  static const struct gb_graph_piece nothing;
  bool slow = false;
  CUresult result = bracket(graph->piece_count > 0 ? &graph->pieces[0] : &nothing, call->named, &slow);
  for (uint32_t i = 1; i < graph->piece_count && result == CUDA_SUCCESS; i++) {
    gb_end(slow);
    result = bracket(&graph->pieces[i], call->named, &slow);
  }
  if (result != CUDA_SUCCESS) return result;
  result = call->real(call->exec, call->stream);
  gb_end(slow);
  return result;
}

static CUresult run_pieces(const struct gb_graph *graph, const struct gb_graph_call *call) {
  CUresult result = CUDA_SUCCESS;
  for (uint32_t i = 0; i < graph->piece_count && result == CUDA_SUCCESS; i++) {
    bool slow;
    result = bracket(&graph->pieces[i], call->named, &slow);
    if (result != CUDA_SUCCESS) break;
    result = call->real(graph->pieces[i].exec, call->stream);
    gb_end(slow);
  }
  return result;
}

static uint64_t limit_now(void) {
  if (atomic_load_explicit(&gb_live_captures, memory_order_acquire) != 0) return 0;
  uint64_t forced = gb_config()->graph_segment;
  return forced != 0 ? forced : gb_stage_segment_bytes();
}

/* A plan serves while the limit stays near the one it was made for: frames come and go. */
static bool have_plan(struct gb_graph *graph, uint64_t limit) {
  bool fits = limit == 0 || graph->plan_bytes == limit ||
              (graph->plan_bytes < limit && graph->plan_bytes > limit / 4);
  if (graph->planned && !graph->stale && fits) return true;
  uint64_t bytes = limit != 0 ? limit : graph->planned ? graph->plan_bytes : UINT64_MAX;
  return gb_graph_plan(graph, bytes);
}

static bool overflows(const struct gb_graph *graph, uint64_t limit) {
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < graph->piece_count; i++) bytes += graph->pieces[i].bytes;
  return limit != 0 && graph->piece_count > 1 && bytes > limit;
}

/* pre: call->exec runs the whole graph. */
static CUresult run(struct gb_graph *graph, const struct gb_graph_call *call) {
  uint64_t limit = limit_now();
  if (gb_gated_on()) return run_unknown(call); /* graphs are not accounted for */
  if (limit == 0 && !gb_slow_begin()) {
    CUresult result = call->real(call->exec, call->stream);
    gb_end(false);
    return result;
  }
  if (!graph->known || !have_plan(graph, limit)) {
    if (limit != 0 && graph->whole != NULL) tell(graph);
    return run_unknown(call);
  }
  if (!overflows(graph, limit)) return run_whole(graph, call);
  bool behind = graph->launched && graph->ended == NULL; /* of a launch no event tells of */
  if (graph->whole == NULL) have_event(graph, call->named);
  if (graph->whole == NULL && !behind && is_ended_context(graph, call->named) &&
      have_pieces(graph))
    return run_pieces(graph, call);
  if (graph->whole == NULL) return run_whole(graph, call);
  tell(graph);
  return run_unknown(call);
}

CUresult gb_graph_run(struct gb_graph *graph, const struct gb_graph_call *call) {
  gb_count(&gb_counters.launches);
  if (graph == NULL) return run_unknown(call);
  struct gb_graph_call whole = *call;
  CUresult result = gb_graph_whole(graph, &whole.exec);
  if (result == CUDA_SUCCESS) result = wait_for_last(graph, call->named);
  if (result == CUDA_SUCCESS) {
    result = run(graph, &whole);
    note_launch(graph, call->named); /* also when only some of its pieces went */
  }
  return result;
}
