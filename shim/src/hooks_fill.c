/* SPDX-License-Identifier: Apache-2.0 */
/* hooks_fill.c: memory fills and stream memory operations, bracketed with the range they touch. */
#include "devices.h"
#include "dispatch.h"
#include "hooks.h"
#include "refuse.h"

#define GB_BRACKET(base, length, stream, call)                   \
  do {                                                           \
    const struct gb_operand operand = {(base), (length)};        \
    bool slow;                                                   \
    CUresult result = gb_begin_copy(&operand, 1, stream, &slow); \
    if (result != CUDA_SUCCESS) return result;                   \
    result = (call);                                             \
    gb_end(slow);                                                \
    return result;                                               \
  } while (0)
#define GB_BRACKET_STREAM(legacy, base, length, call)                          \
  do {                                                                         \
    if (gb_recording(stream, real != gb_real.legacy)) return (call);           \
    GB_BRACKET(base, length, gb_stream(stream, real != gb_real.legacy), call); \
  } while (0)

static inline uint64_t rectangle(size_t pitch, size_t width_bytes, size_t height) {
  return height == 0 || width_bytes == 0 ? 0 : (uint64_t)pitch * (height - 1) + width_bytes;
}

/* A feeder makes the fill when the bytes are there. */
#define GB_THERE(stream, to_pitch, columns, rows)                                                       \
  do {                                                                                                  \
    CUresult there;                                                                                     \
    const struct gb_run_fill fill = {                                                                   \
        .pitch = (to_pitch), .width = (columns), .height = (rows), .element_bytes = sizeof value, .value = value}; \
    if (gb_devices_owns(to) && gb_devices_fill(&fill, to, stream, &there)) return there;                \
    if (gb_dispatching() && gb_dispatch_fill(&fill, to, stream, &there)) return there;                  \
  } while (0)
#define GB_THERE_STREAM(legacy, to_pitch, columns, rows)                              \
  do {                                                                                \
    if (gb_devices_owns(to) || (gb_dispatching() && !gb_recording(stream, real != gb_real.legacy))) \
      GB_THERE(gb_stream(stream, real != gb_real.legacy), to_pitch, columns, rows);   \
  } while (0)

#define GB_FILL(symbol, type)                                                     \
  GB_WRAP(symbol, CUdeviceptr to, type value, size_t count) {                     \
    GB_THERE(GB_STREAM_SYNC, count * sizeof value, count, 1);                     \
    GB_BRACKET(to, count * sizeof value, GB_STREAM_SYNC, real(to, value, count)); \
  }
#define GB_FILL_ASYNC(symbol, type)                                                      \
  GB_WRAP(symbol, CUdeviceptr to, type value, size_t count, CUstream stream) {           \
    GB_THERE_STREAM(symbol, count * sizeof value, count, 1);                             \
    GB_BRACKET_STREAM(symbol, to, count * sizeof value, real(to, value, count, stream)); \
  }
#define GB_FILL_2D(symbol, type)                                                           \
  GB_WRAP(symbol, CUdeviceptr to, size_t pitch, type value, size_t width, size_t height) { \
    GB_THERE(GB_STREAM_SYNC, pitch, width, height);                                        \
    GB_BRACKET(to, rectangle(pitch, width * sizeof value, height), GB_STREAM_SYNC,         \
               real(to, pitch, value, width, height));                                     \
  }
#define GB_FILL_2D_ASYNC(symbol, type)                                                   \
  GB_WRAP(symbol, CUdeviceptr to, size_t pitch, type value, size_t width, size_t height, \
          CUstream stream) {                                                             \
    GB_THERE_STREAM(symbol, pitch, width, height);                                       \
    GB_BRACKET_STREAM(symbol, to, rectangle(pitch, width * sizeof value, height),        \
                      real(to, pitch, value, width, height, stream));                    \
  }

GB_FILL(cuMemsetD8_v2, unsigned char)
GB_FILL(cuMemsetD16_v2, unsigned short)
GB_FILL(cuMemsetD32_v2, unsigned)
GB_FILL_2D(cuMemsetD2D8_v2, unsigned char)
GB_FILL_2D(cuMemsetD2D16_v2, unsigned short)
GB_FILL_2D(cuMemsetD2D32_v2, unsigned)
GB_FILL_ASYNC(cuMemsetD8Async, unsigned char)
GB_FILL_ASYNC(cuMemsetD16Async, unsigned short)
GB_FILL_ASYNC(cuMemsetD32Async, unsigned)
GB_FILL_2D_ASYNC(cuMemsetD2D8Async, unsigned char)
GB_FILL_2D_ASYNC(cuMemsetD2D16Async, unsigned short)
GB_FILL_2D_ASYNC(cuMemsetD2D32Async, unsigned)

/* ---- stream memory operations ----
 *
 * Somebody outside the stream (the CPU, another device, a network card) writes the word a stream
 * waits for, or reads the word it writes, wherever it was when the operation was queued: it has to
 * stay there. That holds for recorded operations too.
 */

#define GB_NOT_HERE                                                                               \
  GB_NOT_ON_DEVICE(CUDA_ERROR_NOT_SUPPORTED, "stream memory operations: use events between streams")

static void pin_word(CUdeviceptr to, size_t bytes) {
  gb_note_waits();
  if (gb_owns(to)) gb_pin(to, bytes);
}

#define GB_STREAM_VALUE(symbol, type)                                            \
  GB_WRAP(symbol, CUstream stream, CUdeviceptr to, type value, unsigned flags) { \
    GB_NOT_HERE;                                                                 \
    pin_word(to, sizeof value);                                                  \
    GB_BRACKET_STREAM(symbol, to, sizeof value, real(stream, to, value, flags)); \
  }

GB_STREAM_VALUE(cuStreamWriteValue32, cuuint32_t)
GB_STREAM_VALUE(cuStreamWriteValue32_v2, cuuint32_t)
GB_STREAM_VALUE(cuStreamWriteValue64, cuuint64_t)
GB_STREAM_VALUE(cuStreamWriteValue64_v2, cuuint64_t)
GB_STREAM_VALUE(cuStreamWaitValue32, cuuint32_t)
GB_STREAM_VALUE(cuStreamWaitValue32_v2, cuuint32_t)
GB_STREAM_VALUE(cuStreamWaitValue64, cuuint64_t)
GB_STREAM_VALUE(cuStreamWaitValue64_v2, cuuint64_t)

/* The driver takes no more than 256 operations at once. */
#define GB_MEM_OPERATIONS_MAX 256

/* The words of a batch, pinned; an operation of a newer kind may have one where we do not look: its
 * batch is then bracketed as unknown. returns: how many words, or -1. */
static int batch_words(const CUstreamBatchMemOpParams *operations, unsigned count,
                       struct gb_operand words[GB_MEM_OPERATIONS_MAX]) {
  int found = 0;
  if (operations == NULL || count > GB_MEM_OPERATIONS_MAX) return -1;
  for (unsigned i = 0; i < count; i++) {
    size_t bytes = 0;
    switch (operations[i].operation) {
      case CU_STREAM_MEM_OP_WAIT_VALUE_32:
      case CU_STREAM_MEM_OP_WRITE_VALUE_32: bytes = 4; break;
      case CU_STREAM_MEM_OP_WAIT_VALUE_64:
      case CU_STREAM_MEM_OP_WRITE_VALUE_64: bytes = 8; break;
      case CU_STREAM_MEM_OP_FLUSH_REMOTE_WRITES:
      case CU_STREAM_MEM_OP_BARRIER: continue;
      default: return -1;
    }
    words[found++] = (struct gb_operand){operations[i].writeValue.address, bytes};
    pin_word(operations[i].writeValue.address, bytes);
  }
  return found;
}

#define GB_BRACKET_BATCH(legacy)                                                \
  do {                                                                          \
    struct gb_operand words[GB_MEM_OPERATIONS_MAX];                             \
    int found = batch_words(operations, count, words);                          \
    if (gb_recording(stream, real != gb_real.legacy))                           \
      return real(stream, count, operations, flags);                            \
    bool slow;                                                                  \
    CUstream joined = gb_stream(stream, real != gb_real.legacy);                \
    CUresult result = found < 0                                                 \
                          ? gb_begin_unknown(GB_UNKNOWN_COPY, joined, &slow)    \
                          : gb_begin_copy(words, (size_t)found, joined, &slow); \
    if (result != CUDA_SUCCESS) return result;                                  \
    result = real(stream, count, operations, flags);                            \
    gb_end(slow);                                                               \
    return result;                                                              \
  } while (0)

GB_WRAP(cuStreamBatchMemOp, CUstream stream, unsigned count, CUstreamBatchMemOpParams *operations,
        unsigned flags) {
  GB_NOT_HERE;
  GB_BRACKET_BATCH(cuStreamBatchMemOp);
}
GB_WRAP(cuStreamBatchMemOp_v2, CUstream stream, unsigned count,
        CUstreamBatchMemOpParams *operations, unsigned flags) {
  GB_NOT_HERE;
  GB_BRACKET_BATCH(cuStreamBatchMemOp_v2);
}

#define GB_SECTIONS GB_SECTION_FILL
#include "hooks_define.h"
