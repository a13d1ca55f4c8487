/* SPDX-License-Identifier: Apache-2.0 */
/* scan.c: does the content of an operand hold addresses of the arena? On the CPU for staging
 * memory, on the GPU for all that is resident. */
#include "scan.h"

#include <string.h>

#include "context.h"
#include "lock.h"
#include "pinned.h"
#include "scan_kernel.h"

#define SCAN_LIMIT_NS (20ull * 1000000000)
#define BLOCKS_MAX 1024u
#define RESULTS (2 * GB_OPERANDS_MAX)

bool gb_holds_addresses(const void *bytes, uint64_t length) {
  const unsigned char *p = bytes;
  for (uint64_t at = 0; at + 8 <= length; at += 4) {
    uint64_t word;
    memcpy(&word, p + at, sizeof word);
    if (gb_may_be_address(word)) return true;
  }
  return false;
}

/* ---- on the GPU ---- */

static struct gb_pinned memory;
static uint32_t *results; /* in it */

static bool have_results(void) {
  bool ready = gb_pinned_ready(&memory, RESULTS * sizeof *results);
  results = memory.host;
  return ready;
}

/* pre: the context is current. */
static bool have_kernel(struct gb_context *context) {
  if (context->scan_function != NULL) return true;
  if (context->scan_refused) return false;
  CUresult result = gb_real.cuModuleLoadData(&context->scan_module, gb_scan_ptx);
  if (result == CUDA_SUCCESS) {
    result = gb_real.cuModuleGetFunction(&context->scan_function, context->scan_module,
                                         GB_SCAN_KERNEL_NAME);
  }
  if (result == CUDA_SUCCESS) return true;
  context->scan_refused = true;
  context->scan_function = NULL;
  gb_event(GB_LOG_WARN, result, "content_scan_missing",
           "the scan kernel does not load: every launch is unaccounted");
  return false;
}

static bool launch(struct gb_context *context, CUstream stream, uint64_t address, uint64_t bytes,
                   uint32_t slot) {
  uint64_t words = bytes / 4;
  uint64_t base = gb_arena_base_address;
  uint64_t size = gb_arena_reached_bytes();
  uint64_t result = memory.device + slot * sizeof *results;
  uint32_t clear = (uint32_t)gb_arena_clear_bytes();
  void *params[] = {&address, &words, &base, &size, &clear, &result};
  uint64_t blocks = (words + GB_SCAN_BLOCK - 1) / GB_SCAN_BLOCK;
  if (blocks > BLOCKS_MAX) blocks = BLOCKS_MAX;
  if (words < 2) return true;
  return gb_real.cuLaunchKernel(context->scan_function, (unsigned)blocks, 1, 1, GB_SCAN_BLOCK, 1, 1,
                                0, stream, params, NULL) == CUDA_SUCCESS;
}

/* The context to scan with: any that is known reaches all of the operands' device. */
static struct gb_context *scan_context(const struct gb_touch *touch, CUcontext *handle) {
  CUdevice device = 0;
  const struct gb_span *span = touch->count > 0 ? gb_span_at(touch->bases[0]) : NULL;
  if (span == NULL && touch->content_count > 0) span = gb_span_at(touch->content[0].address);
  if (span != NULL) {
    *handle = span->context;
    device = span->device;
  } else if (gb_real.cuCtxGetCurrent(handle) != CUDA_SUCCESS ||
             gb_real.cuCtxGetDevice(&device) != CUDA_SUCCESS) {
    return NULL;
  }
  return gb_context_get(*handle, device);
}

/* A row of the side table may be a handle that only looks like an address: reading it would fault.
 */
static bool readable(uint64_t address) {
  unsigned type = 0;
  return gb_owns(address) || gb_real.cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
                                                           address) == CUDA_SUCCESS;
}

/* Launches all scans that have no verdict yet. returns: false when one could not be launched. */
static bool launch_all(const struct gb_touch *touch, struct gb_context *context, CUstream stream) {
  bool launched = true;
  for (uint32_t i = 0; i < touch->count && launched; i++) {
    const struct gb_span *span = gb_span_at(touch->bases[i]);
    if (span == NULL || gb_residency(span) != GB_RESIDENT || span->scan != GB_SCAN_UNKNOWN)
      continue;
    launched = launch(context, stream, span->base, span->bytes, i);
  }
  for (uint32_t i = 0; i < touch->content_count && launched; i++) {
    const struct gb_operand *operand = &touch->content[i];
    if (!readable(operand->address)) return false;
    launched =
        launch(context, stream, operand->address & ~3ull, operand->bytes, GB_OPERANDS_MAX + i);
  }
  return launched;
}

static bool verdict(const struct gb_touch *touch) {
  bool clean = true;
  for (uint32_t i = 0; i < touch->count; i++) {
    struct gb_span *span = gb_span_at(touch->bases[i]);
    if (span == NULL) continue;
    if (gb_residency(span) == GB_RESIDENT && span->scan == GB_SCAN_UNKNOWN) {
      span->scan = results[i] != 0 ? GB_SCAN_HIDDEN : GB_SCAN_CLEAN;
    }
    clean &= span->scan == GB_SCAN_CLEAN;
  }
  for (uint32_t i = 0; i < touch->content_count; i++) clean &= results[GB_OPERANDS_MAX + i] == 0;
  return clean;
}

bool gb_scan_contents(const struct gb_touch *touch) {
  CUcontext handle = NULL;
  if (touch->count == 0 && touch->content_count == 0) return true;
  struct gb_context *context = scan_context(touch, &handle);
  if (context == NULL || gb_context_push(handle) != CUDA_SUCCESS) return false;
  bool done = false;
  CUstream stream = gb_context_stream(context);
  if (stream != NULL && have_results() && have_kernel(context)) {
    memset(results, 0, RESULTS * sizeof *results);
    done = launch_all(touch, context, stream);
    done &= gb_stream_wait(stream, SCAN_LIMIT_NS) == CUDA_SUCCESS;
  }
  gb_context_pop();
  return done && verdict(touch);
}
