/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hooks_copy.c: copies of every form, each bracketed with the device ranges it reads and writes.
 * Host pointers are passed as operands too: the core looks only at what lies in its arena.
 */
#include "hooks.h"

/* ---- bracket ---- */

#define GB_COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define GB_BRACKET_COPY(stream, call, ...)                                        \
  do {                                                                    \
    const struct gb_operand operands[] = {__VA_ARGS__};                   \
    bool slow;                                                            \
    CUresult result = gb_begin_copy(operands, GB_COUNT(operands), stream, &slow); \
    if (result != CUDA_SUCCESS) return result;                            \
    result = (call);                                                      \
    gb_end(slow);                                                         \
    return result;                                                        \
  } while (0)
/* The same for calls on a stream: while it captures, the copy is only recorded. */
#define GB_BRACKET_STREAM(legacy, call, ...)                         \
  do {                                                               \
    if (gb_recording(stream, real != gb_real.legacy)) return (call); \
    GB_BRACKET_COPY(gb_stream(stream, real != gb_real.legacy), call, __VA_ARGS__);                              \
  } while (0)
#define GB_BRACKET_UNKNOWN(stream, call)                                \
  do {                                                          \
    bool slow;                                                  \
    CUresult result = gb_begin_unknown(GB_UNKNOWN_COPY, stream, &slow); \
    if (result != CUDA_SUCCESS) return result;                  \
    result = (call);                                            \
    gb_end(slow);                                               \
    return result;                                              \
  } while (0)

/* Host bytes on their way to memory outside the arena may hold arena addresses. Only looked at when
 * somebody cares, and only when the source is memory the CPU can read: an address of the device's
 * is none, whatever the call's name says. */
static void note_outside(CUdeviceptr to, const void *from, size_t bytes) {
  if (!GB_SLOW() || gb_owns(to)) return;
  CUdeviceptr source = (CUdeviceptr)(uintptr_t)from;
  if (gb_owns(source) || gb_appvmm_substituted(source)) return;
  unsigned type = 0;
  if (gb_real.cuPointerGetAttribute != NULL &&
      gb_real.cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, source) ==
          CUDA_SUCCESS &&
      type != CU_MEMORYTYPE_HOST)
    return;
  gb_note_copy_outside(from, bytes);
}

#define GB_HOST(pointer) ((CUdeviceptr)(uintptr_t)(pointer))

/* ---- linear copies ---- */

GB_WRAP(cuMemcpy, CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  note_outside(to, (const void *)(uintptr_t)from, bytes);
  GB_BRACKET_COPY(GB_STREAM_SYNC, real(to, from, bytes), {to, bytes}, {from, bytes});
}
GB_WRAP(cuMemcpyAsync, CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  note_outside(to, (const void *)(uintptr_t)from, bytes);
  GB_BRACKET_STREAM(cuMemcpyAsync, real(to, from, bytes, stream), {to, bytes}, {from, bytes});
}
GB_WRAP(cuMemcpyPeer, CUdeviceptr to, CUcontext to_context, CUdeviceptr from,
        CUcontext from_context, size_t bytes) {
  GB_BRACKET_COPY(GB_STREAM_SYNC, real(to, to_context, from, from_context, bytes), {to, bytes}, {from, bytes});
}
GB_WRAP(cuMemcpyPeerAsync, CUdeviceptr to, CUcontext to_context, CUdeviceptr from,
        CUcontext from_context, size_t bytes, CUstream stream) {
  GB_BRACKET_STREAM(cuMemcpyPeerAsync, real(to, to_context, from, from_context, bytes, stream),
                    {to, bytes}, {from, bytes});
}
GB_WRAP(cuMemcpyHtoD_v2, CUdeviceptr to, const void *from, size_t bytes) {
  note_outside(to, from, bytes);
  GB_BRACKET_COPY(GB_STREAM_SYNC, real(to, from, bytes), {to, bytes}, {GB_HOST(from), bytes});
}
GB_WRAP(cuMemcpyHtoDAsync_v2, CUdeviceptr to, const void *from, size_t bytes, CUstream stream) {
  note_outside(to, from, bytes);
  GB_BRACKET_STREAM(cuMemcpyHtoDAsync_v2, real(to, from, bytes, stream), {to, bytes},
                    {GB_HOST(from), bytes});
}
GB_WRAP(cuMemcpyDtoH_v2, void *to, CUdeviceptr from, size_t bytes) {
  GB_BRACKET_COPY(GB_STREAM_SYNC, real(to, from, bytes), {GB_HOST(to), bytes}, {from, bytes});
}
GB_WRAP(cuMemcpyDtoHAsync_v2, void *to, CUdeviceptr from, size_t bytes, CUstream stream) {
  GB_BRACKET_STREAM(cuMemcpyDtoHAsync_v2, real(to, from, bytes, stream), {GB_HOST(to), bytes},
                    {from, bytes});
}
GB_WRAP(cuMemcpyDtoD_v2, CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  GB_BRACKET_COPY(GB_STREAM_SYNC, real(to, from, bytes), {to, bytes}, {from, bytes});
}
GB_WRAP(cuMemcpyDtoDAsync_v2, CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  GB_BRACKET_STREAM(cuMemcpyDtoDAsync_v2, real(to, from, bytes, stream), {to, bytes},
                    {from, bytes});
}
GB_WRAP(cuMemcpyDtoA_v2, CUarray to, size_t to_offset, CUdeviceptr from, size_t bytes) {
  GB_BRACKET_COPY(GB_STREAM_SYNC, real(to, to_offset, from, bytes), {from, bytes});
}
GB_WRAP(cuMemcpyAtoD_v2, CUdeviceptr to, CUarray from, size_t from_offset, size_t bytes) {
  GB_BRACKET_COPY(GB_STREAM_SYNC, real(to, from, from_offset, bytes), {to, bytes});
}

/* ---- rectangles and boxes ---- */

/* From the first byte touched to the last, counted from the origin: rows of `pitch` bytes, `slice`
 * rows to a layer. */
static struct gb_operand box(CUdeviceptr base, size_t x, size_t y, size_t z, size_t pitch,
                             size_t slice, size_t width, size_t height, size_t depth) {
  struct gb_operand none = {0, 0};
  if (width == 0 || height == 0 || depth == 0) return none;
  size_t first = (z * slice + y) * pitch + x;
  size_t last = ((z + depth - 1) * slice + y + height - 1) * pitch + x + width;
  struct gb_operand operand = {base + first, last - first};
  return operand;
}

/* The address a side of a 2D or 3D copy starts from; 0 for arrays. */
static CUdeviceptr side_base(CUmemorytype type, const void *host, CUdeviceptr device) {
  if (type == CU_MEMORYTYPE_HOST) return GB_HOST(host);
  return type == CU_MEMORYTYPE_ARRAY ? 0 : device;
}

static struct gb_operand side(CUdeviceptr base, size_t x, size_t y, size_t z, size_t pitch,
                              size_t slice, size_t width, size_t height, size_t depth) {
  /* A pitch of 0 means packed rows, a slice of 0 packed layers. */
  if (pitch == 0) pitch = x + width;
  if (slice == 0) slice = y + height;
  struct gb_operand none = {0, 0};
  return base == 0 ? none : box(base, x, y, z, pitch, slice, width, height, depth);
}

static void operands_2d(const CUDA_MEMCPY2D *copy, struct gb_operand operands[2]) {
  operands[0] =
      side(side_base(copy->dstMemoryType, copy->dstHost, copy->dstDevice), copy->dstXInBytes,
           copy->dstY, 0, copy->dstPitch, 0, copy->WidthInBytes, copy->Height, 1);
  operands[1] =
      side(side_base(copy->srcMemoryType, copy->srcHost, copy->srcDevice), copy->srcXInBytes,
           copy->srcY, 0, copy->srcPitch, 0, copy->WidthInBytes, copy->Height, 1);
}

/* The plain and the peer form have the same fields. */
#define GB_OPERANDS_3D(copy, operands)                                                            \
  do {                                                                                            \
    (operands)[0] = side(side_base((copy)->dstMemoryType, (copy)->dstHost, (copy)->dstDevice),    \
                         (copy)->dstXInBytes, (copy)->dstY, (copy)->dstZ, (copy)->dstPitch,       \
                         (copy)->dstHeight, (copy)->WidthInBytes, (copy)->Height, (copy)->Depth); \
    (operands)[1] = side(side_base((copy)->srcMemoryType, (copy)->srcHost, (copy)->srcDevice),    \
                         (copy)->srcXInBytes, (copy)->srcY, (copy)->srcZ, (copy)->srcPitch,       \
                         (copy)->srcHeight, (copy)->WidthInBytes, (copy)->Height, (copy)->Depth); \
  } while (0)

#define GB_BRACKET_BOX(fill, stream, call)                                                  \
  do {                                                                              \
    if (copy == NULL) return (call);                                                \
    struct gb_operand operands[2];                                                  \
    fill;                                                                           \
    note_outside(operands[0].address, (const void *)(uintptr_t)operands[1].address, \
                 operands[1].bytes);                                                \
    bool slow;                                                                      \
    CUresult result = gb_begin_copy(operands, 2, stream, &slow);                            \
    if (result != CUDA_SUCCESS) return result;                                      \
    result = (call);                                                                \
    gb_end(slow);                                                                   \
    return result;                                                                  \
  } while (0)

GB_WRAP(cuMemcpy2D_v2, const CUDA_MEMCPY2D *copy) {
  GB_BRACKET_BOX(operands_2d(copy, operands), GB_STREAM_SYNC, real(copy));
}
GB_WRAP(cuMemcpy2DUnaligned_v2, const CUDA_MEMCPY2D *copy) {
  GB_BRACKET_BOX(operands_2d(copy, operands), GB_STREAM_SYNC, real(copy));
}
GB_WRAP(cuMemcpy2DAsync_v2, const CUDA_MEMCPY2D *copy, CUstream stream) {
  if (gb_recording(stream, real != gb_real.cuMemcpy2DAsync_v2)) return real(copy, stream);
  GB_BRACKET_BOX(operands_2d(copy, operands), gb_stream(stream, real != gb_real.cuMemcpy2DAsync_v2), real(copy, stream));
}
GB_WRAP(cuMemcpy3D_v2, const CUDA_MEMCPY3D *copy) {
  GB_BRACKET_BOX(GB_OPERANDS_3D(copy, operands), GB_STREAM_SYNC, real(copy));
}
GB_WRAP(cuMemcpy3DAsync_v2, const CUDA_MEMCPY3D *copy, CUstream stream) {
  if (gb_recording(stream, real != gb_real.cuMemcpy3DAsync_v2)) return real(copy, stream);
  GB_BRACKET_BOX(GB_OPERANDS_3D(copy, operands), gb_stream(stream, real != gb_real.cuMemcpy3DAsync_v2), real(copy, stream));
}
GB_WRAP(cuMemcpy3DPeer, const CUDA_MEMCPY3D_PEER *copy) {
  GB_BRACKET_BOX(GB_OPERANDS_3D(copy, operands), GB_STREAM_SYNC, real(copy));
}
GB_WRAP(cuMemcpy3DPeerAsync, const CUDA_MEMCPY3D_PEER *copy, CUstream stream) {
  if (gb_recording(stream, real != gb_real.cuMemcpy3DPeerAsync)) return real(copy, stream);
  GB_BRACKET_BOX(GB_OPERANDS_3D(copy, operands), gb_stream(stream, real != gb_real.cuMemcpy3DPeerAsync), real(copy, stream));
}

/* ---- batches ---- */

/* Batches up to this many copies are bracketed with their ranges; larger ones as unknown. */
#define GB_BATCH_OPERANDS 64

#define GB_BRACKET_BATCH(stream, call)                                         \
  do {                                                                 \
    if (to == NULL || from == NULL || bytes == NULL) return (call);    \
    if (count > GB_BATCH_OPERANDS) GB_BRACKET_UNKNOWN(stream, call);           \
    struct gb_operand operands[2 * GB_BATCH_OPERANDS];                 \
    for (size_t i = 0; i < count; i++) {                               \
      operands[2 * i] = (struct gb_operand){to[i], bytes[i]};          \
      operands[2 * i + 1] = (struct gb_operand){from[i], bytes[i]};    \
      note_outside(to[i], (const void *)(uintptr_t)from[i], bytes[i]); \
    }                                                                  \
    bool slow;                                                         \
    CUresult result = gb_begin_copy(operands, 2 * count, stream, &slow);       \
    if (result != CUDA_SUCCESS) return result;                         \
    result = (call);                                                   \
    gb_end(slow);                                                      \
    return result;                                                     \
  } while (0)

GB_WRAP(cuMemcpyBatchAsync, CUdeviceptr *to, CUdeviceptr *from, size_t *bytes, size_t count,
        CUmemcpyAttributes *attributes, size_t *indices, size_t attribute_count, size_t *failed,
        CUstream stream) {
  GB_BRACKET_BATCH(gb_stream(stream, real != gb_real.cuMemcpyBatchAsync), 
      real(to, from, bytes, count, attributes, indices, attribute_count, failed, stream));
}
GB_WRAP(cuMemcpyBatchAsync_v2, CUdeviceptr *to, CUdeviceptr *from, size_t *bytes, size_t count,
        CUmemcpyAttributes *attributes, size_t *indices, size_t attribute_count, CUstream stream) {
  GB_BRACKET_BATCH(gb_stream(stream, real != gb_real.cuMemcpyBatchAsync_v2), real(to, from, bytes, count, attributes, indices, attribute_count, stream));
}
GB_WRAP(cuMemcpy3DBatchAsync, size_t count, CUDA_MEMCPY3D_BATCH_OP *copies, size_t *failed,
        unsigned long long flags, CUstream stream) {
  GB_BRACKET_UNKNOWN(gb_stream(stream, real != gb_real.cuMemcpy3DBatchAsync), real(count, copies, failed, flags, stream));
}
GB_WRAP(cuMemcpy3DBatchAsync_v2, size_t count, CUDA_MEMCPY3D_BATCH_OP *copies,
        unsigned long long flags, CUstream stream) {
  GB_BRACKET_UNKNOWN(gb_stream(stream, real != gb_real.cuMemcpy3DBatchAsync_v2), real(count, copies, flags, stream));
}
GB_WRAP(cuMemBatchDecompressAsync, void *jobs, size_t count, unsigned flags, size_t *failed,
        CUstream stream) {
  GB_BRACKET_UNKNOWN(gb_stream(stream, real != gb_real.cuMemBatchDecompressAsync), real(jobs, count, flags, failed, stream));
}

#define GB_SECTIONS GB_SECTION_COPY
#include "hooks_define.h"
