/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hooks_launch.c: kernel launches, graph launches, stream captures and textures. A launch is
 * bracketed by the core only when something may have to be brought back; otherwise it costs a
 * counter and two loads.
 *
 * A call on a capturing stream only records a node: nothing runs, nothing is bracketed; the graph's
 * launch is.
 */
#include "hooks.h"

bool gb_recording_slow(CUstream stream, bool thread) {
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  CUresult (*ask)(CUstream, CUstreamCaptureStatus *) = gb_real.cuStreamIsCapturing;
  if (thread && stream == NULL) ask = gb_real.cuStreamIsCapturing_ptsz;
  /* The legacy stream cannot be captured; asking about it would invalidate captures that are under
   * way. */
  if (ask == NULL || (!thread && (stream == NULL || stream == CU_STREAM_LEGACY))) return false;
  return ask(stream, &status) == CUDA_SUCCESS && status != CU_STREAM_CAPTURE_STATUS_NONE;
}

GB_WRAP(cuLaunchKernel, CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
        unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
        CUstream stream, void **params, void **extra) {
  if (gb_recording(stream, real != gb_real.cuLaunchKernel))
    return real(function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes, stream,
                params, extra);
  bool slow;
  CUresult result = gb_begin_launch(function, params, extra, gb_stream(stream, real != gb_real.cuLaunchKernel), &slow);
  if (result != CUDA_SUCCESS) return result;
  result = real(function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes, stream,
                params, extra);
  gb_end(slow);
  return result;
}

GB_WRAP(cuLaunchKernelEx, const CUlaunchConfig *config, CUfunction function, void **params,
        void **extra) {
  if (config != NULL && gb_recording(config->hStream, real != gb_real.cuLaunchKernelEx))
    return real(config, function, params, extra);
  bool slow;
  CUresult result = gb_begin_launch(function, params, extra, gb_stream(config == NULL ? NULL : config->hStream, real != gb_real.cuLaunchKernelEx), &slow);
  if (result != CUDA_SUCCESS) return result;
  result = real(config, function, params, extra);
  gb_end(slow);
  return result;
}

GB_WRAP(cuLaunchCooperativeKernel, CUfunction function, unsigned grid_x, unsigned grid_y,
        unsigned grid_z, unsigned block_x, unsigned block_y, unsigned block_z,
        unsigned shared_bytes, CUstream stream, void **params) {
  if (gb_recording(stream, real != gb_real.cuLaunchCooperativeKernel))
    return real(function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes, stream,
                params);
  bool slow;
  CUresult result = gb_begin_launch(function, params, NULL, gb_stream(stream, real != gb_real.cuLaunchCooperativeKernel), &slow);
  if (result != CUDA_SUCCESS) return result;
  result = real(function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes, stream,
                params);
  gb_end(slow);
  return result;
}

/* Launches whose arguments cannot be seen: parameters set beforehand, several functions at once,
 * whole graphs. */
#define GB_BRACKET_UNKNOWN(what, stream, call)               \
  do {                                               \
    bool slow;                                       \
    CUresult result = gb_begin_unknown(what, stream, &slow); \
    if (result != CUDA_SUCCESS) return result;       \
    result = (call);                                 \
    gb_end(slow);                                    \
    return result;                                   \
  } while (0)

GB_WRAP(cuLaunchCooperativeKernelMultiDevice, CUDA_LAUNCH_PARAMS *launches, unsigned count,
        unsigned flags) {
  GB_BRACKET_UNKNOWN(GB_UNKNOWN_LEGACY_LAUNCH, GB_STREAM_SYNC, real(launches, count, flags));
}
GB_WRAP(cuLaunch, CUfunction function) {
  GB_BRACKET_UNKNOWN(GB_UNKNOWN_LEGACY_LAUNCH, GB_STREAM_SYNC, real(function));
}
GB_WRAP(cuLaunchGrid, CUfunction function, int width, int height) {
  GB_BRACKET_UNKNOWN(GB_UNKNOWN_LEGACY_LAUNCH, GB_STREAM_SYNC, real(function, width, height));
}
GB_WRAP(cuLaunchGridAsync, CUfunction function, int width, int height, CUstream stream) {
  GB_BRACKET_UNKNOWN(GB_UNKNOWN_LEGACY_LAUNCH, gb_stream(stream, false), real(function, width, height, stream));
}
GB_WRAP(cuGraphLaunch, CUgraphExec graph, CUstream stream) {
  if (gb_recording(stream, real != gb_real.cuGraphLaunch)) return real(graph, stream);
  GB_BRACKET_UNKNOWN(GB_UNKNOWN_GRAPH, gb_stream(stream, real != gb_real.cuGraphLaunch), real(graph, stream));
}

/* ---- captures ---- */

/* Counted before the driver knows of it, so that no remap can slip in between. */
#define GB_BEGIN_CAPTURE(call)                      \
  do {                                              \
    gb_capture_began();                             \
    CUresult result = (call);                       \
    if (result != CUDA_SUCCESS) gb_capture_ended(); \
    return result;                                  \
  } while (0)

GB_WRAP(cuStreamBeginCapture, CUstream stream) { GB_BEGIN_CAPTURE(real(stream)); }
GB_WRAP(cuStreamBeginCapture_v2, CUstream stream, CUstreamCaptureMode mode) {
  GB_BEGIN_CAPTURE(real(stream, mode));
}
GB_WRAP(cuStreamBeginCaptureToGraph, CUstream stream, CUgraph graph,
        const CUgraphNode *dependencies, const CUgraphEdgeData *edges, size_t count,
        CUstreamCaptureMode mode) {
  GB_BEGIN_CAPTURE(real(stream, graph, dependencies, edges, count, mode));
}

/* An invalidated capture ends with an error, and a call on the wrong stream or thread ends none:
 * the stream's own state before and after says whether one ended. */
GB_WRAP(cuStreamEndCapture, CUstream stream, CUgraph *graph) {
  bool thread = real != gb_real.cuStreamEndCapture;
  bool before = gb_recording(stream, thread);
  CUresult result = real(stream, graph);
  if (before && !gb_recording_slow(stream, thread)) gb_capture_ended();
  return result;
}

/* ---- textures on linear memory: kernels reach it without naming it ---- */

enum { GB_RESOURCE_LINEAR = 2, GB_RESOURCE_PITCH2D = 3 };
/* The head that both linear kinds of a resource description share. */
struct gb_resource_head {
  int type;
  CUdeviceptr address;
};

GB_WRAP(cuTexObjectCreate, void *texture, const void *resource, const void *description,
        const void *view) {
  const struct gb_resource_head *head = resource;
  bool linear =
      head != NULL && (head->type == GB_RESOURCE_LINEAR || head->type == GB_RESOURCE_PITCH2D);
  if (!linear || !gb_owns(head->address)) return real(texture, resource, description, view);
  GB_BRACKET_UNKNOWN(GB_UNKNOWN_TEXTURE, GB_STREAM_SYNC, real(texture, resource, description, view));
}
GB_WRAP(cuTexRefSetAddress_v2, size_t *offset, void *texture, CUdeviceptr pointer, size_t bytes) {
  if (!gb_owns(pointer)) return real(offset, texture, pointer, bytes);
  GB_BRACKET_UNKNOWN(GB_UNKNOWN_TEXTURE, GB_STREAM_SYNC, real(offset, texture, pointer, bytes));
}
GB_WRAP(cuTexRefSetAddress2D_v3, void *texture, const CUDA_ARRAY_DESCRIPTOR *descriptor,
        CUdeviceptr pointer, size_t pitch) {
  if (!gb_owns(pointer)) return real(texture, descriptor, pointer, pitch);
  GB_BRACKET_UNKNOWN(GB_UNKNOWN_TEXTURE, GB_STREAM_SYNC, real(texture, descriptor, pointer, pitch));
}

#define GB_SECTIONS GB_SECTION_LAUNCH
#include "hooks_define.h"
