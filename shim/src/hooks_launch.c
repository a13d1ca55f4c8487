/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hooks_launch.c: kernel launches, stream captures and textures. A launch is
 * bracketed by the core only when something may have to be brought back; otherwise it costs a
 * counter and two loads.
 *
 * A call on a capturing stream only records a node: nothing runs, nothing is bracketed; the graph's
 * launch is.
 */
#include "code.h"
#include "collective.h"
#include "devices.h"
#include "dispatch.h"
#include "hooks_counted.h"
#include "scan.h"

bool gb_recording_slow(CUstream stream, bool thread) {
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  CUresult (*ask)(CUstream, CUstreamCaptureStatus *) = gb_real.cuStreamIsCapturing;
  if (thread && stream == NULL) ask = gb_real.cuStreamIsCapturing_ptsz;
  /* The legacy stream cannot be captured; asking about it would invalidate captures that are under
   * way. */
  if (ask == NULL || (!thread && stream == NULL) || stream == CU_STREAM_LEGACY) return false;
  return ask(stream, &status) == CUDA_SUCCESS && status != CU_STREAM_CAPTURE_STATUS_NONE;
}

/* ---- launches ---- */

static CUresult launched(CUresult result) {
  if (__builtin_expect(result != CUDA_ERROR_OUT_OF_MEMORY, 1)) return result;
  return GB_REFUSE(result, "launch_refused",
                   "the driver has no VRAM left for a kernel's code or stack: lower --vram, so "
                   "that the card keeps some free, or end other programs on it");
}

/* A kernel's first launch may load its code or enlarge the stacks: when there is no VRAM for that,
 * what we hold without need goes back, outside the bracket, and the launch is made once more. */
#define GB_BRACKET_LAUNCH(begin, call)                                            \
  do {                                                                            \
    for (bool again = false;; again = true) {                                     \
      bool slow;                                                                  \
      CUresult result = begin;                                                    \
      if (result != CUDA_SUCCESS) return result;                                  \
      result = (call);                                                            \
      if (slow && result != CUDA_SUCCESS) gb_failed_slow();                       \
      gb_end(slow);                                                               \
      if (__builtin_expect(result != CUDA_ERROR_OUT_OF_MEMORY, 1)) return result; \
      if (again || !gb_relieve()) return launched(result);                        \
    }                                                                             \
  } while (0)

/* Before the bracket: pinning waits for what is under way. */
static inline void pin_collective(CUfunction function, void **params, void **extra) {
  if (GB_SLOW() && gb_collective(function)) gb_collective_pin(function, params, extra);
}

/* On a feeder's device nothing is recorded. */
#define GB_NOT_RECORDED_FAR(on)                                                                              \
  GB_ON_DEVICE(gb_recording(on, false) ? gb_devices_current_slow() : NULL,                                    \
               GB_REFUSE(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "device_refused",                            \
                         "%s: a stream capture: run that device without CUDA graphs", gb_device_feeder(device)))

/* A feeder makes it: when its device is current, or when what it names is there. */
#define GB_THERE(request)                                                  \
  do {                                                                     \
    CUresult there;                                                        \
    if (!gb_dispatching() && !gb_devices_on()) break;                      \
    GB_ON_CURRENT_DEVICE(gb_device_launch(device, request));               \
    if (!gb_dispatching()) break;                                          \
    if (gb_dispatch_launch(request, &there)) return there;                 \
  } while (0)

GB_WRAP(cuLaunchKernel, CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
        unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
        CUstream stream, void **params, void **extra) {
  GB_NOT_RECORDED_FAR(gb_stream(stream, real != gb_real.cuLaunchKernel));
  bool thread = real != gb_real.cuLaunchKernel;
  pin_collective(function, params, extra);
  if (gb_recording(stream, thread))
    return real(function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes, stream,
                params, extra);
  const struct gb_run_request request = {.function = function,
                                         .grid = {grid_x, grid_y, grid_z},
                                         .block = {block_x, block_y, block_z},
                                         .shared_bytes = shared_bytes,
                                         .params = params,
                                         .extra = extra};
  GB_THERE(&request);
  GB_BRACKET_LAUNCH(gb_begin_launch(&request, gb_stream(stream, thread), &slow),
                    real(function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes,
                         stream, params, extra));
}

GB_WRAP(cuLaunchKernelEx, const CUlaunchConfig *config, CUfunction function, void **params,
        void **extra) {
  bool thread = real != gb_real.cuLaunchKernelEx;
  if (config == NULL) return real(config, function, params, extra);
  GB_NOT_RECORDED_FAR(gb_stream(config->hStream, thread));
  pin_collective(function, params, extra);
  if (gb_recording(config->hStream, thread)) return real(config, function, params, extra);
  const struct gb_run_request request = {.function = function,
                                         .grid = {config->gridDimX, config->gridDimY, config->gridDimZ},
                                         .block = {config->blockDimX, config->blockDimY, config->blockDimZ},
                                         .shared_bytes = config->sharedMemBytes,
                                         .params = params,
                                         .extra = extra,
                                         .attributes = config->attrs,
                                         .attribute_count = config->numAttrs};
  GB_THERE(&request);
  GB_BRACKET_LAUNCH(
      gb_begin_launch(&request, gb_stream(config->hStream, thread), &slow),
      real(config, function, params, extra));
}

GB_WRAP(cuLaunchCooperativeKernel, CUfunction function, unsigned grid_x, unsigned grid_y,
        unsigned grid_z, unsigned block_x, unsigned block_y, unsigned block_z,
        unsigned shared_bytes, CUstream stream, void **params) {
  GB_NOT_ON_DEVICE(CUDA_ERROR_NOT_SUPPORTED, "cooperative launches: ask for COOPERATIVE_LAUNCH first");
  bool thread = real != gb_real.cuLaunchCooperativeKernel;
  pin_collective(function, params, NULL);
  if (gb_recording(stream, thread))
    return real(function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes, stream,
                params);
  if (gb_dispatching()) {
    struct gb_touch touch = {.accounted = true};
    gb_touch_launch(&touch, function, params, NULL);
    gb_dispatch_cannot(&touch);
  }
  const struct gb_run_request request = {.function = function,
                                         .grid = {grid_x, grid_y, grid_z},
                                         .block = {block_x, block_y, block_z},
                                         .shared_bytes = shared_bytes,
                                         .params = params};
  GB_BRACKET_LAUNCH(gb_begin_launch(&request, gb_stream(stream, thread), &slow),
                    real(function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes,
                         stream, params));
}

/* Launches whose arguments cannot be seen: parameters set beforehand, several functions at once,
 * whole graphs. */
#define GB_BRACKET_UNKNOWN(what, stream, call) \
  GB_BRACKET_LAUNCH(gb_begin_unknown(what, stream, &slow), call)

GB_WRAP(cuLaunchCooperativeKernelMultiDevice, CUDA_LAUNCH_PARAMS *launches, unsigned count,
        unsigned flags) {
  GB_BRACKET_UNKNOWN(GB_UNKNOWN_LEGACY_LAUNCH, GB_STREAM_SYNC, real(launches, count, flags));
}
GB_WRAP(cuLaunch, CUfunction function) {
  GB_NOT_ON_DEVICE(CUDA_ERROR_NOT_SUPPORTED, "launches from before CUDA 4: use cuLaunchKernel");
  GB_BRACKET_UNKNOWN(GB_UNKNOWN_LEGACY_LAUNCH, GB_STREAM_SYNC, real(function));
}
GB_WRAP(cuLaunchGrid, CUfunction function, int width, int height) {
  GB_NOT_ON_DEVICE(CUDA_ERROR_NOT_SUPPORTED, "launches from before CUDA 4: use cuLaunchKernel");
  GB_BRACKET_UNKNOWN(GB_UNKNOWN_LEGACY_LAUNCH, GB_STREAM_SYNC, real(function, width, height));
}
GB_WRAP(cuLaunchGridAsync, CUfunction function, int width, int height, CUstream stream) {
  GB_NOT_ON_DEVICE(CUDA_ERROR_NOT_SUPPORTED, "launches from before CUDA 4: use cuLaunchKernel");
  GB_BRACKET_UNKNOWN(GB_UNKNOWN_LEGACY_LAUNCH, gb_stream(stream, false),
                     real(function, width, height, stream));
}

/* The feeder's work before it is done first. */
#define GB_WAIT_FAR(which)                                              \
  do {                                                                  \
    struct gb_device *far = gb_devices_on() ? (which) : NULL;           \
    CUresult done = far != NULL ? gb_device_wait(far) : CUDA_SUCCESS;   \
    if (done != CUDA_SUCCESS) return done;                              \
  } while (0)
/* The program's own code in the middle of a stream: it may wait for a thread that waits for us. */
GB_WRAP(cuLaunchHostFunc, CUstream stream, CUhostFn function, void *data) {
  GB_WAIT_FAR(gb_devices_of_stream(gb_stream(stream, real != gb_real.cuLaunchHostFunc)));
  gb_note_callback();
  gb_dispatch_wait();
  return real(stream, function, data);
}
GB_WRAP(cuStreamAddCallback, CUstream stream, CUstreamCallback function, void *data,
        unsigned flags) {
  GB_WAIT_FAR(gb_devices_of_stream(gb_stream(stream, real != gb_real.cuStreamAddCallback)));
  gb_note_callback();
  gb_dispatch_wait();
  return real(stream, function, data, flags);
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

GB_WRAP(cuStreamBeginCapture, CUstream stream) {
  GB_NOT_ON_DEVICE(CUDA_ERROR_NOT_SUPPORTED, "stream captures: run that device without CUDA graphs");
  GB_BEGIN_CAPTURE(real(stream));
}
GB_WRAP(cuStreamBeginCapture_v2, CUstream stream, CUstreamCaptureMode mode) {
  GB_NOT_ON_DEVICE(CUDA_ERROR_NOT_SUPPORTED, "stream captures: run that device without CUDA graphs");
  GB_BEGIN_CAPTURE(real(stream, mode));
}
GB_WRAP(cuStreamBeginCaptureToGraph, CUstream stream, CUgraph graph,
        const CUgraphNode *dependencies, const CUgraphEdgeData *edges, size_t count,
        CUstreamCaptureMode mode) {
  GB_NOT_ON_DEVICE(CUDA_ERROR_NOT_SUPPORTED, "stream captures: run that device without CUDA graphs");
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

static CUresult object_made(CUresult result) {
  if (result == CUDA_SUCCESS && gb_code_wanted() && !gb_devices_on()) gb_code_objects_made();
  return result;
}

GB_WRAP(cuTexObjectCreate, void *texture, const void *resource, const void *description,
        const void *view) {
  GB_NOT_ON_DEVICE(CUDA_ERROR_NOT_SUPPORTED, "textures and surfaces: use plain loads");
  const struct gb_resource_head *head = resource;
  bool linear =
      head != NULL && (head->type == GB_RESOURCE_LINEAR || head->type == GB_RESOURCE_PITCH2D);
  if (!linear || !gb_owns(head->address)) return object_made(real(texture, resource, description, view));
  GB_BRACKET_UNKNOWN(GB_UNKNOWN_TEXTURE, GB_STREAM_SYNC,
                     object_made(real(texture, resource, description, view)));
}
GB_WRAP(cuSurfObjectCreate, void *surface, const void *resource) {
  GB_NOT_ON_DEVICE(CUDA_ERROR_NOT_SUPPORTED, "textures and surfaces: use plain loads");
  return object_made(real(surface, resource));
}
GB_WRAP(cuTexRefSetAddress_v2, size_t *offset, void *texture, CUdeviceptr pointer, size_t bytes) {
  GB_NOT_ON_DEVICE(CUDA_ERROR_NOT_SUPPORTED, "textures and surfaces: use plain loads");
  if (!gb_owns(pointer)) return real(offset, texture, pointer, bytes);
  GB_BRACKET_UNKNOWN(GB_UNKNOWN_TEXTURE, GB_STREAM_SYNC, real(offset, texture, pointer, bytes));
}
GB_WRAP(cuTexRefSetAddress2D_v3, void *texture, const CUDA_ARRAY_DESCRIPTOR *descriptor,
        CUdeviceptr pointer, size_t pitch) {
  GB_NOT_ON_DEVICE(CUDA_ERROR_NOT_SUPPORTED, "textures and surfaces: use plain loads");
  if (!gb_owns(pointer)) return real(texture, descriptor, pointer, pitch);
  GB_BRACKET_UNKNOWN(GB_UNKNOWN_TEXTURE, GB_STREAM_SYNC, real(texture, descriptor, pointer, pitch));
}

/* ---- tensor maps ----
 *
 * A map passed by value carries its address among the arguments, and one in memory is found by the
 * content scan, as long as the driver encodes the address as it is (sm_90 does). Where it does not,
 * kernels reach the memory without naming it.
 */

#define GB_TENSOR_MAP_BYTES 128

static CUresult encoded(CUresult made, const void *map, const void *address) {
  if (made != CUDA_SUCCESS || !gb_owns((CUdeviceptr)(uintptr_t)address) ||
      gb_holds_addresses(map, GB_TENSOR_MAP_BYTES))
    return made;
  GB_BRACKET_UNKNOWN(GB_UNKNOWN_TEXTURE, GB_STREAM_SYNC, CUDA_SUCCESS);
}

GB_WRAP(cuTensorMapEncodeTiled, void *map, unsigned type, cuuint32_t rank, void *address,
        const cuuint64_t *dimensions, const cuuint64_t *strides, const cuuint32_t *box,
        const cuuint32_t *steps, unsigned interleave, unsigned swizzle, unsigned promotion,
        unsigned fill) {
  return encoded(real(map, type, rank, address, dimensions, strides, box, steps, interleave,
                      swizzle, promotion, fill),
                 map, address);
}
GB_WRAP(cuTensorMapEncodeIm2col, void *map, unsigned type, cuuint32_t rank, void *address,
        const cuuint64_t *dimensions, const cuuint64_t *strides, const int *lower, const int *upper,
        cuuint32_t channels, cuuint32_t pixels, const cuuint32_t *steps, unsigned interleave,
        unsigned swizzle, unsigned promotion, unsigned fill) {
  return encoded(real(map, type, rank, address, dimensions, strides, lower, upper, channels, pixels,
                      steps, interleave, swizzle, promotion, fill),
                 map, address);
}
GB_WRAP(cuTensorMapEncodeIm2colWide, void *map, unsigned type, cuuint32_t rank, void *address,
        const cuuint64_t *dimensions, const cuuint64_t *strides, int lower, int upper,
        cuuint32_t channels, cuuint32_t pixels, const cuuint32_t *steps, unsigned interleave,
        unsigned mode, unsigned swizzle, unsigned promotion, unsigned fill) {
  return encoded(real(map, type, rank, address, dimensions, strides, lower, upper, channels, pixels,
                      steps, interleave, mode, swizzle, promotion, fill),
                 map, address);
}
GB_WRAP(cuTensorMapReplaceAddress, void *map, void *address) {
  return encoded(real(map, address), map, address);
}

#define GB_SECTIONS GB_SECTION_LAUNCH
#include "hooks_define.h"
