/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hooks_copy.c: copies of every form, each bracketed with the device ranges it reads and writes.
 * Host pointers are passed as operands too: the core looks only at what lies in its arena.
 */
#include "devices.h"
#include "dispatch.h"
#include "hooks.h"
#include "refuse.h"

/* ---- bracket ---- */

#define GB_COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define GB_BRACKET(begin, call)                \
  do {                                         \
    bool slow;                                 \
    CUresult result = begin;                   \
    if (result != CUDA_SUCCESS) return result; \
    result = (call);                           \
    gb_end(slow);                              \
    return result;                             \
  } while (0)
#define GB_BRACKET_COPY(stream, call, ...)                                        \
  do {                                                                            \
    const struct gb_operand operands[] = {__VA_ARGS__};                           \
    GB_BRACKET(gb_begin_copy(operands, GB_COUNT(operands), stream, &slow), call); \
  } while (0)
/* The same for calls on a stream: while it captures, the copy is only recorded. */
#define GB_BRACKET_STREAM(legacy, call, ...)                                       \
  do {                                                                             \
    if (gb_recording(stream, real != gb_real.legacy)) return (call);               \
    GB_BRACKET_COPY(gb_stream(stream, real != gb_real.legacy), call, __VA_ARGS__); \
  } while (0)
#define GB_BRACKET_UNKNOWN(legacy, call)                                                    \
  do {                                                                                      \
    if (gb_recording(stream, real != gb_real.legacy)) return (call);                        \
    GB_BRACKET(gb_begin_unknown(GB_UNKNOWN_COPY, gb_stream(stream, real != gb_real.legacy), \
                                &slow),                                                     \
               call);                                                                       \
  } while (0)

/* Host bytes on their way to memory outside the arena may hold arena addresses. Only looked at when
 * somebody cares, and only when the source is memory the CPU can read: an address of the device's
 * is none, whatever the call's name says. */
static void note_outside(CUdeviceptr to, const void *from, size_t bytes) {
  if (!GB_SLOW() || (gb_owns(to) && !gb_area_hole(to))) return;
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

/* ---- copies between devices ----
 *
 * A copy that does not say its devices needs both to reach both sides; memory that is mapped, as
 * ours is, offers that only where the devices are peers. The peer form works everywhere.
 */

static bool several_devices(void) {
  static int count;
  int known = __atomic_load_n(&count, __ATOMIC_RELAXED);
  if (known == 0 && gb_real.cuDeviceGetCount != NULL &&
      gb_real.cuDeviceGetCount(&known) == CUDA_SUCCESS)
    __atomic_store_n(&count, known, __ATOMIC_RELAXED);
  return known > 1;
}

struct place {
  CUdevice device;
  CUcontext context;
};

static bool place_of(CUdeviceptr pointer, struct place *place) {
  unsigned type = 0;
  CUresult (*ask)(void *, CUpointer_attribute, CUdeviceptr) =
      gb_answers(pointer) ? gb_pointer_attribute : gb_real.cuPointerGetAttribute;
  return ask != NULL &&
         ask(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, pointer) == CUDA_SUCCESS &&
         type == CU_MEMORYTYPE_DEVICE &&
         ask(&place->device, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, pointer) == CUDA_SUCCESS &&
         ask(&place->context, CU_POINTER_ATTRIBUTE_CONTEXT, pointer) == CUDA_SUCCESS &&
         place->context != NULL;
}

/* True when one side is ours and the two lie on different devices. */
static bool crosses(CUdeviceptr to, CUdeviceptr from, struct place *to_place,
                    struct place *from_place) {
  return (gb_owns(to) || gb_owns(from)) && several_devices() && place_of(to, to_place) &&
         place_of(from, from_place) && to_place->device != from_place->device;
}

/* The peer form of a copy that blocks the caller, or of one on a stream. */
#define GB_ACROSS(peer, peer_thread, legacy, call)                                             \
  do {                                                                                         \
    struct place there, here;                                                                  \
    if (__builtin_expect(!crosses(to, from, &there, &here), 1)) break;                         \
    typeof(gb_real.peer) across = real != gb_real.legacy ? gb_real.peer_thread : gb_real.peer; \
    if (across == NULL) break;                                                                 \
    call;                                                                                      \
  } while (0)
#define GB_ACROSS_NOW(legacy)                                                     \
  GB_ACROSS(cuMemcpyPeer, cuMemcpyPeer_ptds, legacy,                              \
            GB_BRACKET_COPY(GB_STREAM_SYNC,                                       \
                            across(to, there.context, from, here.context, bytes), \
                            {to, bytes}, {from, bytes}))
#define GB_ACROSS_STREAM(legacy)                                                            \
  GB_ACROSS(cuMemcpyPeerAsync, cuMemcpyPeerAsync_ptsz, legacy,                              \
            GB_BRACKET_STREAM(legacy,                                                       \
                              across(to, there.context, from, here.context, bytes, stream), \
                              {to, bytes}, {from, bytes}))

/* ---- linear copies ---- */

/* A device of a feeder's is one of the two. */
#define GB_FAR(to, from, stream)                                                                     \
  do {                                                                                               \
    CUresult far;                                                                                    \
    if (gb_devices_on() && gb_devices_copy(to, from, bytes, stream, &far)) return far;               \
  } while (0)
#define GB_FAR_STREAM(legacy, to, from) GB_FAR(to, from, gb_stream(stream, real != gb_real.legacy))

/* A feeder makes the copy when the bytes are there. */
#define GB_THERE(to, from, stream)                                          \
  do {                                                                      \
    CUresult there;                                                         \
    GB_FAR(to, from, stream);                                               \
    if (gb_dispatching() && gb_dispatch_copy(to, from, bytes, stream, &there)) return there; \
  } while (0)
#define GB_THERE_STREAM(legacy, to, from)                                   \
  do {                                                                      \
    GB_FAR_STREAM(legacy, to, from);                                        \
    if (gb_dispatching() && !gb_recording(stream, real != gb_real.legacy))  \
      GB_THERE(to, from, gb_stream(stream, real != gb_real.legacy));        \
  } while (0)

GB_WRAP(cuMemcpy, CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  note_outside(to, (const void *)(uintptr_t)from, bytes);
  GB_THERE(to, from, GB_STREAM_SYNC);
  gb_dispatch_wait();
  GB_ACROSS_NOW(cuMemcpy);
  GB_BRACKET_COPY(GB_STREAM_SYNC, real(to, from, bytes), {to, bytes}, {from, bytes});
}
GB_WRAP(cuMemcpyAsync, CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  note_outside(to, (const void *)(uintptr_t)from, bytes);
  GB_THERE_STREAM(cuMemcpyAsync, to, from);
  GB_ACROSS_STREAM(cuMemcpyAsync);
  GB_BRACKET_STREAM(cuMemcpyAsync, real(to, from, bytes, stream), {to, bytes}, {from, bytes});
}
GB_WRAP(cuMemcpyPeer, CUdeviceptr to, CUcontext to_context, CUdeviceptr from,
        CUcontext from_context, size_t bytes) {
  GB_FAR(to, from, GB_STREAM_SYNC);
  GB_BRACKET_COPY(GB_STREAM_SYNC, real(to, to_context, from, from_context, bytes), {to, bytes},
                  {from, bytes});
}
GB_WRAP(cuMemcpyPeerAsync, CUdeviceptr to, CUcontext to_context, CUdeviceptr from,
        CUcontext from_context, size_t bytes, CUstream stream) {
  GB_FAR_STREAM(cuMemcpyPeerAsync, to, from);
  GB_BRACKET_STREAM(cuMemcpyPeerAsync, real(to, to_context, from, from_context, bytes, stream),
                    {to, bytes}, {from, bytes});
}
GB_WRAP(cuMemcpyHtoD_v2, CUdeviceptr to, const void *from, size_t bytes) {
  note_outside(to, from, bytes);
  GB_THERE(to, GB_HOST(from), GB_STREAM_SYNC);
  GB_BRACKET_COPY(GB_STREAM_SYNC, real(to, from, bytes), {to, bytes}, {GB_HOST(from), bytes});
}
GB_WRAP(cuMemcpyHtoDAsync_v2, CUdeviceptr to, const void *from, size_t bytes, CUstream stream) {
  note_outside(to, from, bytes);
  GB_THERE_STREAM(cuMemcpyHtoDAsync_v2, to, GB_HOST(from));
  GB_BRACKET_STREAM(cuMemcpyHtoDAsync_v2, real(to, from, bytes, stream), {to, bytes},
                    {GB_HOST(from), bytes});
}
GB_WRAP(cuMemcpyDtoH_v2, void *to, CUdeviceptr from, size_t bytes) {
  GB_THERE(GB_HOST(to), from, GB_STREAM_SYNC);
  gb_dispatch_wait();
  GB_BRACKET_COPY(GB_STREAM_SYNC, real(to, from, bytes), {GB_HOST(to), bytes}, {from, bytes});
}
GB_WRAP(cuMemcpyDtoHAsync_v2, void *to, CUdeviceptr from, size_t bytes, CUstream stream) {
  GB_THERE_STREAM(cuMemcpyDtoHAsync_v2, GB_HOST(to), from);
  GB_BRACKET_STREAM(cuMemcpyDtoHAsync_v2, real(to, from, bytes, stream), {GB_HOST(to), bytes},
                    {from, bytes});
}
GB_WRAP(cuMemcpyDtoD_v2, CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  GB_THERE(to, from, GB_STREAM_SYNC);
  GB_ACROSS_NOW(cuMemcpyDtoD_v2);
  GB_BRACKET_COPY(GB_STREAM_SYNC, real(to, from, bytes), {to, bytes}, {from, bytes});
}
GB_WRAP(cuMemcpyDtoDAsync_v2, CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  GB_THERE_STREAM(cuMemcpyDtoDAsync_v2, to, from);
  GB_ACROSS_STREAM(cuMemcpyDtoDAsync_v2);
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

void gb_copy_operands(const CUDA_MEMCPY3D *copy, struct gb_operand operands[2]) {
  GB_OPERANDS_3D(copy, operands);
}

/* Where a side's rows begin, for devices of feeders. */
static struct gb_box_side far_side(CUdeviceptr base, size_t x, size_t y, size_t z, size_t pitch, size_t slice,
                                   size_t width, size_t height) {
  if (pitch == 0) pitch = x + width;
  if (slice == 0) slice = y + height;
  if (base == 0) return (struct gb_box_side){0, 0, 0};
  return (struct gb_box_side){base + (z * slice + y) * pitch + x, pitch, pitch * slice};
}
#define GB_FAR_SIDES(copy, z_to, z_from, slice_to, slice_from)                                            \
  const struct gb_box_side far_to =                                                                       \
      far_side(side_base((copy)->dstMemoryType, (copy)->dstHost, (copy)->dstDevice), (copy)->dstXInBytes, \
               (copy)->dstY, z_to, (copy)->dstPitch, slice_to, (copy)->WidthInBytes, (copy)->Height);     \
  const struct gb_box_side far_from =                                                                     \
      far_side(side_base((copy)->srcMemoryType, (copy)->srcHost, (copy)->srcDevice), (copy)->srcXInBytes, \
               (copy)->srcY, z_from, (copy)->srcPitch, slice_from, (copy)->WidthInBytes, (copy)->Height)
#define GB_FAR_BOX(sides, depth, stream)                                                                         \
  do {                                                                                                           \
    CUresult far;                                                                                                \
    if (!gb_devices_on() || copy == NULL) break;                                                                 \
    sides;                                                                                                       \
    if (gb_devices_copy_box(&far_to, &far_from, copy->WidthInBytes, copy->Height, depth, stream, &far)) return far; \
  } while (0)
#define GB_FAR_2D(stream) GB_FAR_BOX(GB_FAR_SIDES(copy, 0, 0, 0, 0), 1, stream)
#define GB_FAR_3D(stream) \
  GB_FAR_BOX(GB_FAR_SIDES(copy, copy->dstZ, copy->srcZ, copy->dstHeight, copy->srcHeight), copy->Depth, stream)

#define GB_BRACKET_BOX(fill, stream, call)                                          \
  do {                                                                              \
    if (copy == NULL) return (call);                                                \
    struct gb_operand operands[2];                                                  \
    fill;                                                                           \
    note_outside(operands[0].address, (const void *)(uintptr_t)operands[1].address, \
                 operands[1].bytes);                                                \
    GB_BRACKET(gb_begin_copy(operands, 2, stream, &slow), call);                    \
  } while (0)
#define GB_BRACKET_BOX_STREAM(legacy, fill)                                              \
  do {                                                                                   \
    if (gb_recording(stream, real != gb_real.legacy)) return real(copy, stream);         \
    GB_BRACKET_BOX(fill, gb_stream(stream, real != gb_real.legacy), real(copy, stream)); \
  } while (0)

GB_WRAP(cuMemcpy2D_v2, const CUDA_MEMCPY2D *copy) {
  GB_FAR_2D(GB_STREAM_SYNC);
  GB_BRACKET_BOX(operands_2d(copy, operands), GB_STREAM_SYNC, real(copy));
}
GB_WRAP(cuMemcpy2DUnaligned_v2, const CUDA_MEMCPY2D *copy) {
  GB_FAR_2D(GB_STREAM_SYNC);
  GB_BRACKET_BOX(operands_2d(copy, operands), GB_STREAM_SYNC, real(copy));
}
GB_WRAP(cuMemcpy2DAsync_v2, const CUDA_MEMCPY2D *copy, CUstream stream) {
  GB_FAR_2D(gb_stream(stream, real != gb_real.cuMemcpy2DAsync_v2));
  GB_BRACKET_BOX_STREAM(cuMemcpy2DAsync_v2, operands_2d(copy, operands));
}
GB_WRAP(cuMemcpy3D_v2, const CUDA_MEMCPY3D *copy) {
  GB_FAR_3D(GB_STREAM_SYNC);
  GB_BRACKET_BOX(GB_OPERANDS_3D(copy, operands), GB_STREAM_SYNC, real(copy));
}
GB_WRAP(cuMemcpy3DAsync_v2, const CUDA_MEMCPY3D *copy, CUstream stream) {
  GB_FAR_3D(gb_stream(stream, real != gb_real.cuMemcpy3DAsync_v2));
  GB_BRACKET_BOX_STREAM(cuMemcpy3DAsync_v2, GB_OPERANDS_3D(copy, operands));
}
GB_WRAP(cuMemcpy3DPeer, const CUDA_MEMCPY3D_PEER *copy) {
  GB_FAR_3D(GB_STREAM_SYNC);
  GB_BRACKET_BOX(GB_OPERANDS_3D(copy, operands), GB_STREAM_SYNC, real(copy));
}
GB_WRAP(cuMemcpy3DPeerAsync, const CUDA_MEMCPY3D_PEER *copy, CUstream stream) {
  GB_FAR_3D(gb_stream(stream, real != gb_real.cuMemcpy3DPeerAsync));
  GB_BRACKET_BOX_STREAM(cuMemcpy3DPeerAsync, GB_OPERANDS_3D(copy, operands));
}

/* ---- batches ---- */

/* Batches up to this many copies are bracketed with their ranges; larger ones as unknown. */
#define GB_BATCH_OPERANDS 64

#define GB_BRACKET_BATCH(legacy, call)                                          \
  do {                                                                          \
    if (to == NULL || from == NULL || bytes == NULL) return (call);             \
    for (size_t i = 0; i < count; i++)                                          \
      note_outside(to[i], (const void *)(uintptr_t)from[i], bytes[i]);          \
    if (count > GB_BATCH_OPERANDS) GB_BRACKET_UNKNOWN(legacy, call);            \
    if (gb_recording(stream, real != gb_real.legacy)) return (call);            \
    struct gb_operand operands[2 * GB_BATCH_OPERANDS];                          \
    for (size_t i = 0; i < count; i++) {                                        \
      operands[2 * i] = (struct gb_operand){to[i], bytes[i]};                   \
      operands[2 * i + 1] = (struct gb_operand){from[i], bytes[i]};             \
    }                                                                           \
    GB_BRACKET(gb_begin_copy(operands, 2 * count,                               \
                             gb_stream(stream, real != gb_real.legacy), &slow), \
               call);                                                           \
  } while (0)

/* One of the copies has to do with a device of a feeder's: then all of them are made one by one, in order. */
static bool is_far_batch(const CUdeviceptr *to, const CUdeviceptr *from, size_t count) {
  bool far = false;
  for (size_t i = 0; to != NULL && from != NULL && i < count && !far; i++)
    far = gb_devices_owns(to[i]) || gb_devices_owns(from[i]);
  return far;
}
static CUresult copy_one_by_one(CUdeviceptr *to, CUdeviceptr *from, size_t *bytes, size_t count, CUstream stream,
                                bool thread) {
  CUresult result = CUDA_SUCCESS;
  for (size_t i = 0; i < count && result == CUDA_SUCCESS; i++)
    result = thread ? gb_hook_cuMemcpyAsync_ptsz(to[i], from[i], bytes[i], stream)
                    : gb_hook_cuMemcpyAsync(to[i], from[i], bytes[i], stream);
  return result;
}

GB_WRAP(cuMemcpyBatchAsync, CUdeviceptr *to, CUdeviceptr *from, size_t *bytes, size_t count,
        CUmemcpyAttributes *attributes, size_t *indices, size_t attribute_count, size_t *failed,
        CUstream stream) {
  if (is_far_batch(to, from, count))
    return copy_one_by_one(to, from, bytes, count, stream, real != gb_real.cuMemcpyBatchAsync);
  GB_BRACKET_BATCH(cuMemcpyBatchAsync, real(to, from, bytes, count, attributes, indices,
                                            attribute_count, failed, stream));
}
GB_WRAP(cuMemcpyBatchAsync_v2, CUdeviceptr *to, CUdeviceptr *from, size_t *bytes, size_t count,
        CUmemcpyAttributes *attributes, size_t *indices, size_t attribute_count, CUstream stream) {
  if (is_far_batch(to, from, count))
    return copy_one_by_one(to, from, bytes, count, stream, real != gb_real.cuMemcpyBatchAsync_v2);
  GB_BRACKET_BATCH(
      cuMemcpyBatchAsync_v2,
      real(to, from, bytes, count, attributes, indices, attribute_count, stream));
}
GB_WRAP(cuMemcpy3DBatchAsync, size_t count, CUDA_MEMCPY3D_BATCH_OP *copies, size_t *failed,
        unsigned long long flags, CUstream stream) {
  GB_BRACKET_UNKNOWN(cuMemcpy3DBatchAsync, real(count, copies, failed, flags, stream));
}
GB_WRAP(cuMemcpy3DBatchAsync_v2, size_t count, CUDA_MEMCPY3D_BATCH_OP *copies,
        unsigned long long flags, CUstream stream) {
  GB_BRACKET_UNKNOWN(cuMemcpy3DBatchAsync_v2, real(count, copies, flags, stream));
}

/* A job (64 bytes): sizes, then where the result's size, the source and the result lie. */
struct gb_decompress_job {
  size_t source_bytes, result_bytes;
  CUdeviceptr written, source, result;
  unsigned char rest[24];
};
_Static_assert(sizeof(struct gb_decompress_job) == 64, "CUmemDecompressParams");

/* The engine reads physical memory that was made for it; ours says that it is not such memory. */
GB_WRAP(cuMemBatchDecompressAsync, void *jobs, size_t count, unsigned flags, size_t *failed,
        CUstream stream) {
  const struct gb_decompress_job *job = jobs;
  for (size_t i = 0; job != NULL && i < count; i++) {
    if (!gb_owns(job[i].written) && !gb_owns(job[i].source) && !gb_owns(job[i].result)) continue;
    return GB_REFUSE(CUDA_ERROR_INVALID_VALUE, "decompress_refused",
                     "decompression in hardware on memory that may move: use cuMemCreate with "
                     "CU_MEM_CREATE_USAGE_HW_DECOMPRESS, or decompress on the SMs");
  }
  GB_BRACKET_UNKNOWN(cuMemBatchDecompressAsync, real(jobs, count, flags, failed, stream));
}

#define GB_SECTIONS GB_SECTION_COPY
#include "hooks_define.h"
