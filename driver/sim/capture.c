/* SPDX-License-Identifier: Apache-2.0 */
/*
 * capture.c: streams that record instead of running. A capturing stream remembers which nodes its
 * next one depends on; events carry that memory to other streams, which so become part of the
 * capture.
 */
#include "graph.h"

static uint64_t next_capture_id = 1;
static struct sim_capture *captures[64]; /* live; locks: sim_lock */
static size_t capture_count;
/* What the calling thread may do during captures; zero is CU_STREAM_CAPTURE_MODE_GLOBAL. */
static _Thread_local CUstreamCaptureMode thread_mode __attribute__((tls_model("initial-exec")));

static void capture_end(struct sim_capture *capture) {
  struct sim_context *context;
  for (size_t i = 0; (context = sim_context_at(i)) != NULL; i++)
    for (struct sim_stream *stream = context->streams; stream != NULL; stream = stream->next)
      if (stream->capture == capture) {
        stream->capture = NULL;
        stream->tail_count = 0;
      }
  for (size_t i = 0; i < capture_count; i++)
    if (captures[i] == capture) captures[i] = captures[--capture_count];
  capture->graph->capturing = false;
  free(capture);
}

CUresult sim_capture_guard(void) {
  if (capture_count == 0 || thread_mode == CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_SUCCESS;
  for (size_t i = 0; i < capture_count; i++) {
    const bool mine = pthread_equal(captures[i]->thread, pthread_self());
    const bool forbids = captures[i]->mode == CU_STREAM_CAPTURE_MODE_GLOBAL
                             ? mine || thread_mode == CU_STREAM_CAPTURE_MODE_GLOBAL
                             : captures[i]->mode == CU_STREAM_CAPTURE_MODE_THREAD_LOCAL && mine;
    if (!forbids) continue;
    captures[i]->invalid = true;
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  }
  return CUDA_SUCCESS;
}

CUresult sim_capture_forbidden(void) {
  for (size_t i = 0; i < capture_count; i++) captures[i]->invalid = true;
  return capture_count == 0 ? CUDA_SUCCESS : CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

CUresult sim_capture_add(struct sim_stream *stream, struct sim_op *op) {
  struct sim_capture *capture = stream->capture;
  CUresult result = capture->invalid ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_SUCCESS;
  if (result == CUDA_SUCCESS && (op->kind == SIM_OP_CALLBACK || op->kind == SIM_OP_GRAPH)) {
    capture->invalid = true;
    result = op->kind == SIM_OP_CALLBACK ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
                                         : sim_not_simulated("graph launch inside a capture");
  }
  struct node *node = result == CUDA_SUCCESS
                          ? sim_node_add(capture->graph, op, stream->tail_nodes, stream->tail_count)
                          : NULL;
  if (node == NULL) {
    sim_op_free(op);
    return result == CUDA_SUCCESS ? CUDA_ERROR_OUT_OF_MEMORY : result;
  }
  stream->tail_nodes[0] = node->index;
  stream->tail_count = 1;
  return CUDA_SUCCESS;
}

static CUresult capture_begin(CUstream handle, CUstream fallback, CUstreamCaptureMode mode,
                              struct sim_graph *graph) {
  if ((unsigned)mode > CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_ERROR_INVALID_VALUE;
  pthread_mutex_lock(&sim_lock);
  struct sim_stream *stream = SIM_S(handle);
  CUresult result = stream == NULL ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS;
  if (result == CUDA_SUCCESS && stream->legacy) result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  if (result == CUDA_SUCCESS && stream->capture != NULL) result = CUDA_ERROR_ILLEGAL_STATE;
  if (result == CUDA_SUCCESS && capture_count == 64) result = CUDA_ERROR_OUT_OF_MEMORY;
  if (result == CUDA_SUCCESS) {
    struct sim_capture *capture = calloc(1, sizeof *capture);
    if (capture == NULL) abort();
    *capture = (struct sim_capture){.graph = graph == NULL ? sim_graph_new() : graph,
                                    .origin = stream,
                                    .mode = mode,
                                    .thread = pthread_self(),
                                    .id = next_capture_id++,
                                    .streams = 1,
                                    .own_graph = graph == NULL};
    capture->graph->capturing = true;
    captures[capture_count++] = capture;
    stream->capture = capture;
    stream->tail_count = 0;
  }
  pthread_mutex_unlock(&sim_lock);
  return result;
}

static CUresult capture_finish(CUstream handle, CUstream fallback, CUgraph *out) {
  if (out == NULL) return CUDA_ERROR_INVALID_VALUE;
  *out = NULL;
  pthread_mutex_lock(&sim_lock);
  struct sim_stream *stream = SIM_S(handle);
  struct sim_capture *capture = stream == NULL ? NULL : stream->capture;
  CUresult result = stream == NULL ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS;
  if (result == CUDA_SUCCESS && capture == NULL) result = CUDA_ERROR_ILLEGAL_STATE;
  else if (result == CUDA_SUCCESS && capture->origin != stream)
    result = CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
  else if (result == CUDA_SUCCESS && capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED &&
           !pthread_equal(capture->thread, pthread_self()))
    result = CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
  else if (result == CUDA_SUCCESS) {
    struct sim_graph *graph = capture->graph;
    const bool invalid = capture->invalid, own = capture->own_graph;
    capture_end(capture);
    if (invalid && own) sim_graph_free(graph);
    if (invalid) result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    else *out = (CUgraph)graph;
  }
  pthread_mutex_unlock(&sim_lock);
  return result;
}

struct info {
  CUstreamCaptureStatus status;
  cuuint64_t id;
  CUgraph graph;
};

static CUresult capture_info(CUstream handle, CUstream fallback, struct info *info,
                             CUgraphNode *nodes, const CUgraphNode **list, size_t *count) {
  static _Thread_local CUgraphNode kept[SIM_TAIL_MAX];
  pthread_mutex_lock(&sim_lock);
  struct sim_stream *stream = SIM_S(handle);
  *info = (struct info){CU_STREAM_CAPTURE_STATUS_NONE, 0, NULL};
  if (count != NULL) *count = 0;
  if (stream != NULL && stream->capture != NULL) {
    const struct sim_capture *capture = stream->capture;
    *info = (struct info){
        capture->invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED : CU_STREAM_CAPTURE_STATUS_ACTIVE,
        capture->id, (CUgraph)capture->graph};
    if (nodes == NULL) nodes = kept;
    for (size_t i = 0; i < stream->tail_count; i++)
      nodes[i] = (CUgraphNode)capture->graph->nodes[stream->tail_nodes[i]];
    if (list != NULL) *list = nodes;
    if (count != NULL) *count = stream->tail_count;
  }
  pthread_mutex_unlock(&sim_lock);
  return stream == NULL ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS;
}

#define CAPTURE_CALLS(suffix, fallback)                                                      \
  CUresult cuStreamBeginCapture##suffix(CUstream stream) {                                   \
    SIM_ENTER(SIM_NEED_CONTEXT);                                                             \
    return capture_begin(stream, fallback, CU_STREAM_CAPTURE_MODE_GLOBAL, NULL);             \
  }                                                                                          \
  CUresult cuStreamBeginCapture_v2##suffix(CUstream stream, CUstreamCaptureMode mode) {      \
    SIM_ENTER(SIM_NEED_CONTEXT);                                                             \
    return capture_begin(stream, fallback, mode, NULL);                                      \
  }                                                                                          \
  CUresult cuStreamEndCapture##suffix(CUstream stream, CUgraph *graph) {                     \
    SIM_ENTER(SIM_NEED_CONTEXT);                                                             \
    return capture_finish(stream, fallback, graph);                                          \
  }                                                                                          \
  CUresult cuStreamIsCapturing##suffix(CUstream stream, CUstreamCaptureStatus *status) {     \
    SIM_ENTER(SIM_NEED_CONTEXT);                                                             \
    struct info info;                                                                        \
    if (status == NULL) return CUDA_ERROR_INVALID_VALUE;                                     \
    const CUresult result = capture_info(stream, fallback, &info, NULL, NULL, NULL);         \
    *status = info.status;                                                                   \
    return result;                                                                           \
  }                                                                                          \
  CUresult cuStreamGetCaptureInfo##suffix(CUstream stream, CUstreamCaptureStatus *status,    \
                                          cuuint64_t *id) {                                  \
    SIM_ENTER(SIM_NEED_CONTEXT);                                                             \
    struct info info;                                                                        \
    if (status == NULL) return CUDA_ERROR_INVALID_VALUE;                                     \
    const CUresult result = capture_info(stream, fallback, &info, NULL, NULL, NULL);         \
    *status = info.status;                                                                   \
    if (id != NULL) *id = info.id;                                                           \
    return result;                                                                           \
  }                                                                                          \
  CUresult cuStreamGetCaptureInfo_v2##suffix(CUstream stream, CUstreamCaptureStatus *status, \
                                             cuuint64_t *id, CUgraph *graph,                 \
                                             const CUgraphNode **nodes, size_t *count) {     \
    SIM_ENTER(SIM_NEED_CONTEXT);                                                             \
    struct info info;                                                                        \
    if (status == NULL) return CUDA_ERROR_INVALID_VALUE;                                     \
    const CUresult result = capture_info(stream, fallback, &info, NULL, nodes, count);       \
    *status = info.status;                                                                   \
    if (id != NULL) *id = info.id;                                                           \
    if (graph != NULL) *graph = info.graph;                                                  \
    return result;                                                                           \
  }                                                                                          \
  CUresult cuStreamGetCaptureInfo_v3##suffix(                                                \
      CUstream stream, CUstreamCaptureStatus *status, cuuint64_t *id, CUgraph *graph,        \
      const CUgraphNode **nodes, const CUgraphEdgeData **edges, size_t *count) {             \
    if (edges != NULL) *edges = NULL;                                                        \
    return cuStreamGetCaptureInfo_v2##suffix(stream, status, id, graph, nodes, count);       \
  }

CAPTURE_CALLS(, CU_STREAM_LEGACY)
CAPTURE_CALLS(_ptsz, CU_STREAM_PER_THREAD)

CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *mode) {
  SIM_ENTER(SIM_NEED_INIT);
  if (mode == NULL || (unsigned)*mode > CU_STREAM_CAPTURE_MODE_RELAXED)
    return CUDA_ERROR_INVALID_VALUE;
  const CUstreamCaptureMode old = thread_mode;
  thread_mode = *mode;
  *mode = old;
  return CUDA_SUCCESS;
}
