/* SPDX-License-Identifier: Apache-2.0 */
/*
 * copy.c: the memcpy and memset families. Every copy is one sim_copy (rows of slices) on a stream.
 * Memory the driver does not know is pageable: small sources are copied at the call, large ones and
 * targets make the call wait, as on the device.
 */
#include "sim.h"

/* ---- one operation ---- */

static uint64_t copy_extent(size_t pitch, size_t slice, const struct sim_copy *copy) {
  return copy->width + (copy->height - 1) * pitch + (copy->depth - 1) * slice;
}

static void set_direction(struct sim_copy *copy) {
  const bool from = sim_in_vram(copy->src), to = sim_in_vram(copy->dst);
  copy->direction = from == to ? SIM_DIRECT : to ? SIM_TO_DEVICE : SIM_TO_HOST;
}

enum side { SIDE_DEVICE, SIDE_HOST, SIDE_ANY };

/* returns: an operation of the copy, or NULL and strictness when a device side is unknown memory.
 * locks: held. */
static struct sim_op *copy_op(struct sim_copy copy, enum side dst, enum side src, bool *pageable) {
  const uint64_t dst_bytes = copy_extent(copy.dst_pitch, copy.dst_slice, &copy);
  const uint64_t src_bytes = copy_extent(copy.src_pitch, copy.src_slice, &copy);
  const bool dst_known = sim_range_known(copy.dst, dst_bytes),
             src_known = sim_range_known(copy.src, src_bytes);
  if ((dst == SIDE_DEVICE && !dst_known) || (src == SIDE_DEVICE && !src_known)) {
    const bool is_dst = dst == SIDE_DEVICE && !dst_known;
    sim_strict(CUDA_ERROR_INVALID_VALUE, "copy %s 0x%llx+%llu, which is not all device memory",
               is_dst ? "to" : "from", (unsigned long long)(is_dst ? copy.dst : copy.src),
               (unsigned long long)(is_dst ? dst_bytes : src_bytes));
    return NULL;
  }
  *pageable = !dst_known || !src_known;
  set_direction(&copy);
  struct sim_op *op = sim_op_new(SIM_OP_COPY);
  op->copy = copy;
  if (dst_known) sim_op_span(op, copy.dst, dst_bytes);
  if (src_known) sim_op_span(op, copy.src, src_bytes);
  return op;
}

/* Copies a small pageable source, so that the caller may change it at once. */
static bool snapshot(struct sim_op *op) {
  if (op->kind != SIM_OP_COPY || op->copy.height != 1 || op->copy.depth != 1 ||
      op->copy.width > SIM_SNAPSHOT_BYTES_MAX)
    return false;
  if (sim_range_known(op->copy.src, op->copy.width) ||
      !sim_range_known(op->copy.dst, op->copy.width))
    return false;
  op->bytes = malloc(op->copy.width);
  if (op->bytes == NULL) abort();
  memcpy(op->bytes, (const void *)op->copy.src, op->copy.width);
  op->copy.src = (uint64_t)op->bytes;
  return true;
}

/* wait: pageable memory asks for it; sync: the call itself does. locks: held. */
static CUresult copy_submit(CUstream handle, CUstream fallback, struct sim_op *op, bool wait,
                            bool sync) {
  struct sim_stream *stream = SIM_S(handle);
  uint64_t seq = 0;
  if (stream == NULL) {
    sim_op_free(op);
    return CUDA_ERROR_INVALID_HANDLE;
  }
  const bool captured = stream->capture != NULL; /* a replay reads the source again */
  if (wait && !captured && snapshot(op)) wait = sync;
  CUresult result = sim_submit(stream, op, &seq);
  if (result == CUDA_SUCCESS && wait && !captured) result = sim_stream_wait(stream, seq);
  return result;
}

/* A linear copy. sync: the call's own name promises completion (unless both sides are device
 * memory). */
static CUresult copy_linear(CUstream stream, CUstream fallback, CUdeviceptr dst, enum side dst_side,
                            CUdeviceptr src, enum side src_side, size_t bytes, bool sync) {
  if (bytes == 0) return CUDA_SUCCESS;
  if (dst == 0 || src == 0 || dst + bytes < dst || src + bytes < src)
    return CUDA_ERROR_INVALID_VALUE;
  const struct sim_copy copy = {.dst = dst, .src = src, .width = bytes, .height = 1, .depth = 1};
  bool pageable = false;
  pthread_mutex_lock(&sim_lock);
  CUresult result = CUDA_ERROR_INVALID_VALUE;
  struct sim_op *op = copy_op(copy, dst_side, src_side, &pageable);
  const bool between_devices = op != NULL && sim_in_vram(dst) && sim_in_vram(src);
  if (op != NULL)
    result = copy_submit(stream, fallback, op, pageable || (sync && !between_devices),
                         sync && !between_devices);
  pthread_mutex_unlock(&sim_lock);
  return result;
}

#define H(pointer) ((CUdeviceptr)(uintptr_t)(pointer))

/* Each pair: the legacy-stream and the per-thread form. */
#define SYNC_COPY(name, parameters, dst, dst_side, src, src_side)                              \
  CUresult name parameters {                                                                   \
    SIM_ENTER(SIM_NEED_CONTEXT);                                                               \
    return copy_linear(NULL, CU_STREAM_LEGACY, dst, dst_side, src, src_side, bytes, true);     \
  }                                                                                            \
  CUresult name##_ptds parameters {                                                            \
    SIM_ENTER(SIM_NEED_CONTEXT);                                                               \
    return copy_linear(NULL, CU_STREAM_PER_THREAD, dst, dst_side, src, src_side, bytes, true); \
  }
#define ASYNC_COPY(name, parameters, dst, dst_side, src, src_side)                                \
  CUresult name parameters {                                                                      \
    SIM_ENTER(SIM_NEED_CONTEXT);                                                                  \
    return copy_linear(stream, CU_STREAM_LEGACY, dst, dst_side, src, src_side, bytes, false);     \
  }                                                                                               \
  CUresult name##_ptsz parameters {                                                               \
    SIM_ENTER(SIM_NEED_CONTEXT);                                                                  \
    return copy_linear(stream, CU_STREAM_PER_THREAD, dst, dst_side, src, src_side, bytes, false); \
  }

SYNC_COPY(cuMemcpy, (CUdeviceptr dst, CUdeviceptr src, size_t bytes), dst, SIDE_ANY, src, SIDE_ANY)
SYNC_COPY(cuMemcpyHtoD_v2, (CUdeviceptr dst, const void *src, size_t bytes), dst, SIDE_DEVICE,
          H(src), SIDE_HOST)
SYNC_COPY(cuMemcpyDtoH_v2, (void *dst, CUdeviceptr src, size_t bytes), H(dst), SIDE_HOST, src,
          SIDE_DEVICE)
SYNC_COPY(cuMemcpyDtoD_v2, (CUdeviceptr dst, CUdeviceptr src, size_t bytes), dst, SIDE_DEVICE, src,
          SIDE_DEVICE)
ASYNC_COPY(cuMemcpyAsync, (CUdeviceptr dst, CUdeviceptr src, size_t bytes, CUstream stream), dst,
           SIDE_ANY, src, SIDE_ANY)
ASYNC_COPY(cuMemcpyHtoDAsync_v2, (CUdeviceptr dst, const void *src, size_t bytes, CUstream stream),
           dst, SIDE_DEVICE, H(src), SIDE_HOST)
ASYNC_COPY(cuMemcpyDtoHAsync_v2, (void *dst, CUdeviceptr src, size_t bytes, CUstream stream),
           H(dst), SIDE_HOST, src, SIDE_DEVICE)
ASYNC_COPY(cuMemcpyDtoDAsync_v2, (CUdeviceptr dst, CUdeviceptr src, size_t bytes, CUstream stream),
           dst, SIDE_DEVICE, src, SIDE_DEVICE)

static bool contexts_alive(CUcontext a, CUcontext b) {
  return sim_handle_is(SIM_CONTEXT, a) && sim_handle_is(SIM_CONTEXT, b);
}

#define PEER(name, extra, pass, kind)                                                           \
  CUresult name(CUdeviceptr dst, CUcontext dst_context, CUdeviceptr src, CUcontext src_context, \
                size_t bytes extra) {                                                           \
    SIM_ENTER(SIM_NEED_CONTEXT);                                                                \
    if (!contexts_alive(dst_context, src_context)) return CUDA_ERROR_INVALID_CONTEXT;           \
    return copy_linear(pass, dst, SIDE_DEVICE, src, SIDE_DEVICE, bytes, kind);                  \
  }
#define COMMA ,
#define PASS(...) __VA_ARGS__
PEER(cuMemcpyPeer, , PASS(NULL, CU_STREAM_LEGACY), true)
PEER(cuMemcpyPeer_ptds, , PASS(NULL, CU_STREAM_PER_THREAD), true)
PEER(cuMemcpyPeerAsync, COMMA CUstream stream, PASS(stream, CU_STREAM_LEGACY), false)
PEER(cuMemcpyPeerAsync_ptsz, COMMA CUstream stream, PASS(stream, CU_STREAM_PER_THREAD), false)

/* ---- two and three dimensions ---- */

struct place {
  uint64_t address;
  size_t pitch, slice;
  enum side side;
};

static CUresult place_of(CUmemorytype type, const void *host, CUdeviceptr device, CUarray array,
                         size_t pitch, size_t height, size_t x, size_t y, size_t z,
                         const CUDA_MEMCPY3D *what, struct place *place) {
  if (type == CU_MEMORYTYPE_ARRAY) {
    if (!sim_handle_is(SIM_ARRAY, array)) return CUDA_ERROR_INVALID_HANDLE;
    const struct sim_array *of = (const struct sim_array *)array;
    if (x + what->WidthInBytes > of->row_bytes || y + what->Height > of->height ||
        z + what->Depth > of->depth)
      return CUDA_ERROR_INVALID_VALUE;
    *place = (struct place){of->address, of->row_bytes, of->row_bytes * of->height, SIDE_DEVICE};
  } else {
    const uint64_t base = type == CU_MEMORYTYPE_HOST ? (uint64_t)host : device;
    if (type < CU_MEMORYTYPE_HOST || type > CU_MEMORYTYPE_UNIFIED || base == 0)
      return CUDA_ERROR_INVALID_VALUE;
    if (pitch == 0) pitch = what->WidthInBytes + x;
    if (height == 0) height = what->Height + y;
    if (pitch < what->WidthInBytes + x) return CUDA_ERROR_INVALID_VALUE;
    *place = (struct place){base, pitch, pitch * height,
                            type == CU_MEMORYTYPE_HOST     ? SIDE_HOST
                            : type == CU_MEMORYTYPE_DEVICE ? SIDE_DEVICE
                                                           : SIDE_ANY};
  }
  place->address += x + y * place->pitch + z * place->slice;
  return CUDA_SUCCESS;
}

CUresult sim_copy3d_op(const CUDA_MEMCPY3D *what, struct sim_op **op, bool *pageable) {
  struct place dst, src;
  if (what->srcLOD != 0 || what->dstLOD != 0) return CUDA_ERROR_INVALID_VALUE;
  CUresult result =
      place_of(what->srcMemoryType, what->srcHost, what->srcDevice, what->srcArray, what->srcPitch,
               what->srcHeight, what->srcXInBytes, what->srcY, what->srcZ, what, &src);
  if (result == CUDA_SUCCESS)
    result = place_of(what->dstMemoryType, what->dstHost, what->dstDevice, what->dstArray,
                      what->dstPitch, what->dstHeight, what->dstXInBytes, what->dstY, what->dstZ,
                      what, &dst);
  if (result != CUDA_SUCCESS) return result;
  const struct sim_copy copy = {.dst = dst.address,
                                .src = src.address,
                                .dst_pitch = dst.pitch,
                                .dst_slice = dst.slice,
                                .src_pitch = src.pitch,
                                .src_slice = src.slice,
                                .width = what->WidthInBytes,
                                .height = what->Height,
                                .depth = what->Depth};
  *op = copy_op(copy, dst.side, src.side, pageable);
  return *op == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult sim_copy3d(CUstream stream, CUstream fallback, const CUDA_MEMCPY3D *what, bool async) {
  if (what->WidthInBytes == 0 || what->Height == 0 || what->Depth == 0) return CUDA_SUCCESS;
  struct sim_op *op = NULL;
  bool pageable = false;
  pthread_mutex_lock(&sim_lock);
  CUresult result = sim_copy3d_op(what, &op, &pageable);
  if (result == CUDA_SUCCESS)
    result = copy_submit(stream, fallback, op, !async || pageable, !async);
  pthread_mutex_unlock(&sim_lock);
  return result;
}

static CUDA_MEMCPY3D from_2d(const CUDA_MEMCPY2D *flat) {
  return (CUDA_MEMCPY3D){.srcXInBytes = flat->srcXInBytes,
                         .srcY = flat->srcY,
                         .srcMemoryType = flat->srcMemoryType,
                         .srcHost = flat->srcHost,
                         .srcDevice = flat->srcDevice,
                         .srcArray = flat->srcArray,
                         .srcPitch = flat->srcPitch,
                         .dstXInBytes = flat->dstXInBytes,
                         .dstY = flat->dstY,
                         .dstMemoryType = flat->dstMemoryType,
                         .dstHost = flat->dstHost,
                         .dstDevice = flat->dstDevice,
                         .dstArray = flat->dstArray,
                         .dstPitch = flat->dstPitch,
                         .WidthInBytes = flat->WidthInBytes,
                         .Height = flat->Height,
                         .Depth = 1};
}

static CUDA_MEMCPY3D from_peer(const CUDA_MEMCPY3D_PEER *peer) {
  CUDA_MEMCPY3D what;
  memcpy(&what, peer, sizeof what); /* the same layout but for the two contexts, which stand where
                                       reserved0 and 1 are */
  what.reserved0 = what.reserved1 = NULL;
  return what;
}

#define RECT(name, type, extra, stream, fallback, convert, async) \
  CUresult name(const type *what extra) {                         \
    SIM_ENTER(SIM_NEED_CONTEXT);                                  \
    if (what == NULL) return CUDA_ERROR_INVALID_VALUE;            \
    const CUDA_MEMCPY3D whole = convert;                          \
    return sim_copy3d(stream, fallback, &whole, async);           \
  }
#define ON COMMA CUstream stream
RECT(cuMemcpy2D_v2, CUDA_MEMCPY2D, , NULL, CU_STREAM_LEGACY, from_2d(what), false)
RECT(cuMemcpy2D_v2_ptds, CUDA_MEMCPY2D, , NULL, CU_STREAM_PER_THREAD, from_2d(what), false)
RECT(cuMemcpy2DUnaligned_v2, CUDA_MEMCPY2D, , NULL, CU_STREAM_LEGACY, from_2d(what), false)
RECT(cuMemcpy2DUnaligned_v2_ptds, CUDA_MEMCPY2D, , NULL, CU_STREAM_PER_THREAD, from_2d(what), false)
RECT(cuMemcpy2DAsync_v2, CUDA_MEMCPY2D, ON, stream, CU_STREAM_LEGACY, from_2d(what), true)
RECT(cuMemcpy2DAsync_v2_ptsz, CUDA_MEMCPY2D, ON, stream, CU_STREAM_PER_THREAD, from_2d(what), true)
RECT(cuMemcpy3D_v2, CUDA_MEMCPY3D, , NULL, CU_STREAM_LEGACY, *what, false)
RECT(cuMemcpy3D_v2_ptds, CUDA_MEMCPY3D, , NULL, CU_STREAM_PER_THREAD, *what, false)
RECT(cuMemcpy3DAsync_v2, CUDA_MEMCPY3D, ON, stream, CU_STREAM_LEGACY, *what, true)
RECT(cuMemcpy3DAsync_v2_ptsz, CUDA_MEMCPY3D, ON, stream, CU_STREAM_PER_THREAD, *what, true)
RECT(cuMemcpy3DPeer, CUDA_MEMCPY3D_PEER, , NULL, CU_STREAM_LEGACY, from_peer(what), false)
RECT(cuMemcpy3DPeer_ptds, CUDA_MEMCPY3D_PEER, , NULL, CU_STREAM_PER_THREAD, from_peer(what), false)
RECT(cuMemcpy3DPeerAsync, CUDA_MEMCPY3D_PEER, ON, stream, CU_STREAM_LEGACY, from_peer(what), true)
RECT(cuMemcpy3DPeerAsync_ptsz, CUDA_MEMCPY3D_PEER, ON, stream, CU_STREAM_PER_THREAD,
     from_peer(what), true)

/* ---- batches ---- */

static CUresult batch(CUdeviceptr *dst, CUdeviceptr *src, size_t *bytes, size_t count,
                      CUmemcpyAttributes *attributes, size_t *first, size_t attribute_count,
                      size_t *failed, CUstream stream, CUstream fallback) {
  if (failed != NULL) *failed = SIZE_MAX;
  if (dst == NULL || src == NULL || bytes == NULL || count == 0 || attributes == NULL ||
      first == NULL || attribute_count == 0 || attribute_count > count || first[0] != 0 ||
      stream == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  for (size_t i = 0; i < count; i++) {
    const CUresult result =
        copy_linear(stream, fallback, dst[i], SIDE_ANY, src[i], SIDE_ANY, bytes[i], false);
    if (result == CUDA_SUCCESS) continue;
    if (failed != NULL) *failed = i;
    return result;
  }
  return CUDA_SUCCESS;
}

#define BATCH(name, fallback)                                                                \
  CUresult name(CUdeviceptr *dst, CUdeviceptr *src, size_t *bytes, size_t count,             \
                CUmemcpyAttributes *attributes, size_t *first, size_t attribute_count,       \
                size_t *failed, CUstream stream) {                                           \
    SIM_ENTER(SIM_NEED_CONTEXT);                                                             \
    return batch(dst, src, bytes, count, attributes, first, attribute_count, failed, stream, \
                 fallback);                                                                  \
  }
#define BATCH_V2(name, fallback)                                                           \
  CUresult name(CUdeviceptr *dst, CUdeviceptr *src, size_t *bytes, size_t count,           \
                CUmemcpyAttributes *attributes, size_t *first, size_t attribute_count,     \
                CUstream stream) {                                                         \
    SIM_ENTER(SIM_NEED_CONTEXT);                                                           \
    return batch(dst, src, bytes, count, attributes, first, attribute_count, NULL, stream, \
                 fallback);                                                                \
  }
BATCH(cuMemcpyBatchAsync, CU_STREAM_LEGACY)
BATCH(cuMemcpyBatchAsync_ptsz, CU_STREAM_PER_THREAD)
BATCH_V2(cuMemcpyBatchAsync_v2, CU_STREAM_LEGACY)
BATCH_V2(cuMemcpyBatchAsync_v2_ptsz, CU_STREAM_PER_THREAD)

/* ---- fills ---- */

CUresult sim_fill_op(CUdeviceptr dst, size_t pitch, uint32_t value, uint32_t element, size_t width,
                     size_t height, struct sim_op **op) {
  if (dst % element != 0 || (height > 1 && pitch < width * element))
    return CUDA_ERROR_INVALID_VALUE;
  const uint64_t bytes = width * element + (height - 1) * pitch;
  if (!sim_range_known(dst, bytes))
    return sim_strict(CUDA_ERROR_INVALID_VALUE,
                      "memset of 0x%llx+%llu, which is not all device memory", dst,
                      (unsigned long long)bytes);
  *op = sim_op_new(SIM_OP_FILL);
  (*op)->fill = (struct sim_fill){.dst = dst,
                                  .pitch = pitch,
                                  .width = width,
                                  .height = height,
                                  .value = value,
                                  .element = element};
  sim_op_span(*op, dst, bytes);
  return CUDA_SUCCESS;
}

static CUresult fill(CUstream handle, CUstream fallback, CUdeviceptr dst, size_t pitch,
                     uint32_t value, uint32_t element, size_t width, size_t height, bool sync) {
  if (width == 0 || height == 0) return CUDA_SUCCESS;
  struct sim_op *op = NULL;
  pthread_mutex_lock(&sim_lock);
  CUresult result = sim_fill_op(dst, pitch, value, element, width, height, &op);
  if (result == CUDA_SUCCESS)
    result = copy_submit(handle, fallback, op, sync && !sim_in_vram(dst), sync);
  pthread_mutex_unlock(&sim_lock);
  return result;
}

#define FILL(suffix, type, element)                                                              \
  CUresult cuMemset##suffix##_v2(CUdeviceptr dst, type value, size_t count) {                    \
    SIM_ENTER(SIM_NEED_CONTEXT);                                                                 \
    return fill(NULL, CU_STREAM_LEGACY, dst, 0, value, element, count, 1, true);                 \
  }                                                                                              \
  CUresult cuMemset##suffix##_v2_ptds(CUdeviceptr dst, type value, size_t count) {               \
    SIM_ENTER(SIM_NEED_CONTEXT);                                                                 \
    return fill(NULL, CU_STREAM_PER_THREAD, dst, 0, value, element, count, 1, true);             \
  }                                                                                              \
  CUresult cuMemset##suffix##Async(CUdeviceptr dst, type value, size_t count, CUstream stream) { \
    SIM_ENTER(SIM_NEED_CONTEXT);                                                                 \
    return fill(stream, CU_STREAM_LEGACY, dst, 0, value, element, count, 1, false);              \
  }                                                                                              \
  CUresult cuMemset##suffix##Async_ptsz(CUdeviceptr dst, type value, size_t count,               \
                                        CUstream stream) {                                       \
    SIM_ENTER(SIM_NEED_CONTEXT);                                                                 \
    return fill(stream, CU_STREAM_PER_THREAD, dst, 0, value, element, count, 1, false);          \
  }
#define FILL2D(suffix, type, element)                                                            \
  CUresult cuMemset##suffix##_v2(CUdeviceptr dst, size_t pitch, type value, size_t width,        \
                                 size_t height) {                                                \
    SIM_ENTER(SIM_NEED_CONTEXT);                                                                 \
    return fill(NULL, CU_STREAM_LEGACY, dst, pitch, value, element, width, height, true);        \
  }                                                                                              \
  CUresult cuMemset##suffix##_v2_ptds(CUdeviceptr dst, size_t pitch, type value, size_t width,   \
                                      size_t height) {                                           \
    SIM_ENTER(SIM_NEED_CONTEXT);                                                                 \
    return fill(NULL, CU_STREAM_PER_THREAD, dst, pitch, value, element, width, height, true);    \
  }                                                                                              \
  CUresult cuMemset##suffix##Async(CUdeviceptr dst, size_t pitch, type value, size_t width,      \
                                   size_t height, CUstream stream) {                             \
    SIM_ENTER(SIM_NEED_CONTEXT);                                                                 \
    return fill(stream, CU_STREAM_LEGACY, dst, pitch, value, element, width, height, false);     \
  }                                                                                              \
  CUresult cuMemset##suffix##Async_ptsz(CUdeviceptr dst, size_t pitch, type value, size_t width, \
                                        size_t height, CUstream stream) {                        \
    SIM_ENTER(SIM_NEED_CONTEXT);                                                                 \
    return fill(stream, CU_STREAM_PER_THREAD, dst, pitch, value, element, width, height, false); \
  }
FILL(D8, unsigned char, 1)
FILL(D16, unsigned short, 2)
FILL(D32, unsigned int, 4)
FILL2D(D2D8, unsigned char, 1)
FILL2D(D2D16, unsigned short, 2)
FILL2D(D2D32, unsigned int, 4)
