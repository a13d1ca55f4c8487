/* SPDX-License-Identifier: Apache-2.0 */
/*
 * program.c: an ordinary driver-API program that does random things and knows what must come of
 * them. Every allocation has a copy in host memory; kernels, copies and fills are done to both;
 * contents are compared all the time, and at the end everything is freed and the device's free
 * memory must be what it was.
 *
 * usage: program MODULE SEED STEPS THREADS LIVE_MIB LARGEST_MIB [loss]
 * With `loss` a feeder dies on the way: from some call on every one must answer
 * CUDA_ERROR_EXTERNAL_DEVICE, none may hang, and what was read before must have been right.
 */
#include <cuda.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "check.h"

#define SLOTS 48

struct buffer {
  CUdeviceptr device;
  unsigned char *host;
  size_t bytes;
};

struct worker {
  uint64_t random;
  int steps;
  size_t live_max, largest;
  size_t live;
  struct buffer buffers[SLOTS];
  CUstream stream;
  unsigned refused_allocations, refused_launches, launches, compared, unknown;
};

static CUcontext context;
static CUfunction mix, mix_table, fresh;
static int expect_loss;
static _Atomic int lost;
static _Thread_local int own_lost;

static uint64_t below(struct worker *w, uint64_t limit) {
  return limit == 0 ? 0 : check_random(&w->random) % limit;
}

static struct buffer *pick(struct worker *w) {
  for (int i = 0; i < 8; i++) {
    struct buffer *b = &w->buffers[below(w, SLOTS)];
    if (b->bytes != 0) return b;
  }
  return NULL;
}

/* CUDA_ERROR_OUT_OF_MEMORY is an answer, everything else a failure. */
static int accepted(CUresult result, unsigned *refused, const char *what) {
  if (expect_loss && result == CUDA_ERROR_EXTERNAL_DEVICE) lost = own_lost = 1;
  CHECK(!own_lost || result == CUDA_ERROR_EXTERNAL_DEVICE, "%s: %d after the loss", what, result);
  if (lost) return 0; /* another thread's call may still have been on its way */
  CHECK(result == CUDA_SUCCESS || result == CUDA_ERROR_OUT_OF_MEMORY, "%s: %d", what, result);
  if (result != CUDA_SUCCESS) (*refused)++;
  return result == CUDA_SUCCESS;
}

static void synchronise(struct worker *w) {
  CUresult result = cuStreamSynchronize(w->stream);
  if (expect_loss && result == CUDA_ERROR_EXTERNAL_DEVICE) lost = own_lost = 1;
  CHECK(result == CUDA_SUCCESS || lost, "synchronise: %d", result);
}

static size_t random_size(struct worker *w) {
  switch (below(w, 4)) {
    case 0: return 1 + below(w, 4096);
    case 1: return 1 + below(w, 1 << 20);
    case 2: return 1 + below(w, w->largest);
    default: return (1 + below(w, w->largest >> 21)) << 21;
  }
}

static void check_identity(const struct buffer *b, size_t offset) {
  CUdeviceptr base = 0;
  size_t bytes = 0;
  unsigned type = 0;
  CUcontext owner = NULL;
  CHECK(cuMemGetAddressRange(&base, &bytes, b->device + offset) == CUDA_SUCCESS &&
            base == b->device && bytes == b->bytes,
        "address range of %zu bytes", b->bytes);
  CHECK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, b->device + offset) ==
                CUDA_SUCCESS &&
            type == CU_MEMORYTYPE_DEVICE,
        "memory type %u", type);
  CHECK(cuPointerGetAttribute(&owner, CU_POINTER_ATTRIBUTE_CONTEXT, b->device + offset) ==
                CUDA_SUCCESS &&
            owner == context,
        "context");
}

static void compare(struct worker *w, const struct buffer *b, size_t offset, size_t bytes) {
  unsigned char *read = malloc(bytes);
  if (accepted(cuMemcpyDtoHAsync(read, b->device + offset, bytes, w->stream), &w->refused_launches,
               "DtoH")) {
    synchronise(w);
    CHECK(lost || memcmp(read, b->host + offset, bytes) == 0,
          "contents differ at +%zu, %zu bytes of %zu", offset, bytes, b->bytes);
    w->compared++;
  }
  free(read);
}

static void step_alloc(struct worker *w) {
  struct buffer *b = &w->buffers[below(w, SLOTS)];
  size_t bytes = random_size(w);
  if (b->bytes != 0 || w->live + bytes > w->live_max) return;
  if (!accepted(cuMemAlloc(&b->device, bytes), &w->refused_allocations, "alloc")) return;
  CHECK(b->device % 512 == 0, "alignment");
  b->bytes = bytes;
  b->host = calloc(1, bytes);
  w->live += bytes;
  if (!accepted(cuMemsetD8Async(b->device, 0, bytes, w->stream), &w->refused_launches,
                "first fill")) {
    CHECK(lost || cuMemFree(b->device) == CUDA_SUCCESS, "free of what could not be filled");
    free(b->host);
    w->live -= bytes;
    *b = (struct buffer){0};
    return;
  }
  check_identity(b, below(w, bytes));
}

/* Another thread may meet the loss at any moment. */
static void check_free(CUdeviceptr pointer, CUresult expected, const char *what) {
  CUresult result = cuMemFree(pointer);
  if (expect_loss && result == CUDA_ERROR_EXTERNAL_DEVICE) lost = own_lost = 1;
  CHECK(result == expected || lost, "%s: %d", what, result);
}

static void step_free(struct worker *w, struct buffer *b) {
  if (b->bytes > 1)
    check_free(b->device + 1, CUDA_ERROR_INVALID_VALUE, "free of an interior pointer");
  check_free(b->device, CUDA_SUCCESS, "free");
  free(b->host);
  w->live -= b->bytes;
  *b = (struct buffer){0};
}

static void step_write(struct worker *w, struct buffer *b) {
  size_t offset = below(w, b->bytes);
  size_t bytes = 1 + below(w, b->bytes - offset);
  unsigned char *from = malloc(bytes);
  for (size_t i = 0; i < bytes; i++) from[i] = (unsigned char)(i * 7 + w->random);
  if (accepted(cuMemcpyHtoDAsync(b->device + offset, from, bytes, w->stream), &w->refused_launches,
               "HtoD")) {
    memcpy(b->host + offset, from, bytes);
  }
  synchronise(w);
  free(from);
}

static void step_fill(struct worker *w, struct buffer *b) {
  size_t offset = below(w, b->bytes);
  size_t bytes = 1 + below(w, b->bytes - offset);
  unsigned char value = (unsigned char)below(w, 256);
  if (accepted(cuMemsetD8Async(b->device + offset, value, bytes, w->stream), &w->refused_launches,
               "memset")) {
    memset(b->host + offset, value, bytes);
  }
}

static void step_copy(struct worker *w, struct buffer *to, struct buffer *from) {
  size_t bytes = 1 + below(w, to->bytes < from->bytes ? to->bytes : from->bytes);
  if (to == from) return;
  if (accepted(cuMemcpyDtoDAsync(to->device, from->device, bytes, w->stream), &w->refused_launches,
               "DtoD")) {
    memcpy(to->host, from->host, bytes);
  }
}

static void mix_host(struct buffer *to, const struct buffer *from, uint64_t words, uint32_t seed) {
  uint32_t *a = (uint32_t *)(void *)to->host;
  const uint32_t *b = (const uint32_t *)(const void *)from->host;
  for (uint64_t i = 0; i < words; i++) a[i] = a[i] * 3 + b[i] + seed;
}

static uint64_t common_words(const struct buffer *a, const struct buffer *b) {
  return (a->bytes < b->bytes ? a->bytes : b->bytes) / 4;
}

static void step_launch(struct worker *w, struct buffer *to, struct buffer *from) {
  uint64_t words = common_words(to, from);
  uint32_t seed = (uint32_t)below(w, 1 << 30);
  if (to == from || words == 0) return;
  struct {
    CUdeviceptr to, from;
    uint64_t words;
    uint32_t seed;
  } arguments = {to->device, from->device, words, seed};
  size_t bytes = sizeof arguments - 4;
  void *params[] = {&arguments.to, &arguments.from, &arguments.words, &arguments.seed};
  void *extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, &arguments, CU_LAUNCH_PARAM_BUFFER_SIZE, &bytes,
                   CU_LAUNCH_PARAM_END};
  int buffered = below(w, 2) == 0;
  CUresult result = cuLaunchKernel(mix, 1, 1, 1, 32, 1, 1, 0, w->stream, buffered ? NULL : params,
                                   buffered ? extra : NULL);
  w->launches++;
  if (accepted(result, &w->refused_launches, "launch")) mix_host(to, from, words, seed);
}

/* A part of the buffer is overwritten, by as many threads as words, or fewer. */
static void step_fresh(struct worker *w, struct buffer *to, struct buffer *from) {
  uint64_t all = common_words(to, from);
  if (to == from || all == 0) return;
  uint64_t first = below(w, 3) == 0 ? below(w, all) : 0;
  uint64_t words = below(w, 2) == 0 ? all - first : 1 + below(w, all - first);
  uint32_t seed = (uint32_t)below(w, 1 << 30);
  CUdeviceptr target = to->device + first * 4;
  void *params[] = {&target, &from->device, &words, &seed};
  unsigned grid = below(w, 4) == 0 ? 1 : (unsigned)((words + 255) / 256);
  CUresult result = cuLaunchKernel(fresh, grid, 1, 1, 256, 1, 1, 0, w->stream, params, NULL);
  w->launches++;
  uint32_t *a = (uint32_t *)(void *)to->host + first;
  const uint32_t *b = (const uint32_t *)(const void *)from->host;
  if (!accepted(result, &w->refused_launches, "launch")) return;
  for (uint64_t i = 0; i < words; i++) a[i] = b[i] * 5 + seed;
}

/* The kernel's operands are named only by a table in device memory. */
static void step_hidden(struct worker *w, struct buffer *to, struct buffer *from) {
  uint64_t words = common_words(to, from);
  uint32_t seed = (uint32_t)below(w, 1 << 30);
  CUdeviceptr table = 0;
  CUdeviceptr rows[2] = {to->device, from->device};
  void *params[] = {&table, &words, &seed};
  if (to == from || words == 0) return;
  if (!accepted(cuMemAlloc(&table, sizeof rows), &w->refused_allocations, "table")) return;
  /* Not cuMemcpyHtoD: it may return before the bytes have arrived, and the stream does not wait for
   * the legacy one. */
  accepted(cuMemcpyHtoDAsync(table, rows, sizeof rows, w->stream), &w->refused_launches, "table");
  CUresult result = cuLaunchKernel(mix_table, 1, 1, 1, 32, 1, 1, 0, w->stream, params, NULL);
  w->unknown++;
  if (accepted(result, &w->refused_launches, "hidden launch")) mix_host(to, from, words, seed);
  CHECK(lost || cuMemFree(table) == CUDA_SUCCESS, "free table");
}

static void one_step(struct worker *w) {
  struct buffer *a = pick(w);
  struct buffer *b = pick(w);
  uint64_t what = below(w, 100);
  if (what < 25 || a == NULL || b == NULL) {
    step_alloc(w);
  } else if (what < 35) {
    step_free(w, a);
  } else if (what < 50) {
    step_write(w, a);
  } else if (what < 57) {
    step_fill(w, a);
  } else if (what < 64) {
    step_copy(w, a, b);
  } else if (what < 82) {
    if (below(w, 2) == 0) step_fresh(w, a, b);
    else step_launch(w, a, b);
  } else if (what < 84) {
    step_hidden(w, a, b);
  } else {
    size_t offset = below(w, a->bytes);
    compare(w, a, offset, 1 + below(w, a->bytes - offset));
  }
}

static void *work(void *argument) {
  struct worker *w = argument;
  CHECK(cuCtxSetCurrent(context) == CUDA_SUCCESS, "context");
  CHECK(cuStreamCreate(&w->stream, CU_STREAM_NON_BLOCKING) == CUDA_SUCCESS, "stream");
  for (int i = 0; i < w->steps && !lost; i++) one_step(w);
  if (lost) return NULL;
  for (int i = 0; i < SLOTS; i++) {
    if (w->buffers[i].bytes == 0) continue;
    compare(w, &w->buffers[i], 0, w->buffers[i].bytes);
    step_free(w, &w->buffers[i]);
  }
  CHECK(cuStreamDestroy(w->stream) == CUDA_SUCCESS, "stream");
  return NULL;
}

static void open_module(const char *path) {
  CUmodule module;
  CHECK(cuModuleLoad(&module, path) == CUDA_SUCCESS, "module %s", path);
  CHECK(cuModuleGetFunction(&mix, module, "mix") == CUDA_SUCCESS, "mix");
  CHECK(cuModuleGetFunction(&fresh, module, "fresh") == CUDA_SUCCESS, "fresh");
  CHECK(cuModuleGetFunction(&mix_table, module, "mix_table") == CUDA_SUCCESS, "mix_table");
}

/* What was freed while nobody answered on the link is given back at an allocation after that. */
static size_t free_in_the_end(size_t wanted) {
  const struct timespec pause = {0, 50 * 1000 * 1000};
  size_t free_bytes = 0;
  size_t total = 0;
  for (int i = 0; i < 100; i++) {
    CUdeviceptr pointer;
    CHECK(cuMemGetInfo(&free_bytes, &total) == CUDA_SUCCESS, "info");
    if (free_bytes >= wanted) break;
    CHECK(cuMemAlloc(&pointer, 4096) == CUDA_SUCCESS && cuMemFree(pointer) == CUDA_SUCCESS, "one more");
    nanosleep(&pause, NULL);
  }
  return free_bytes;
}

int main(int count, char **arguments) {
  CUdevice device;
  size_t free_before = 0, free_after = 0, total = 0;
  pthread_t threads[64];
  static struct worker workers[64];
  if (count != 7 && count != 8) return 2;
  expect_loss = count == 8;
  int thread_count = atoi(arguments[4]);
  CHECK(cuInit(0) == CUDA_SUCCESS && cuDeviceGet(&device, 0) == CUDA_SUCCESS, "init");
  CHECK(cuDevicePrimaryCtxRetain(&context, device) == CUDA_SUCCESS &&
            cuCtxSetCurrent(context) == CUDA_SUCCESS,
        "context");
  open_module(arguments[1]);
  CUdeviceptr none;
  CHECK(cuMemAlloc(&none, 0) == CUDA_ERROR_INVALID_VALUE, "no bytes");
  CHECK(cuMemAlloc(&none, 1ull << 45) == CUDA_ERROR_OUT_OF_MEMORY, "32 TiB");
  CHECK(cuMemGetInfo(&free_before, &total) == CUDA_SUCCESS, "info");
  for (int i = 0; i < thread_count; i++) {
    workers[i].random = strtoull(arguments[2], NULL, 10) * 1000003 + (uint64_t)i + 1;
    workers[i].steps = atoi(arguments[3]);
    workers[i].live_max = ((size_t)atoi(arguments[5]) << 20) / (size_t)thread_count;
    workers[i].largest = (size_t)atoi(arguments[6]) << 20;
    pthread_create(&threads[i], NULL, work, &workers[i]);
  }
  struct worker sum = {0};
  for (int i = 0; i < thread_count; i++) {
    pthread_join(threads[i], NULL);
    sum.refused_allocations += workers[i].refused_allocations;
    sum.refused_launches += workers[i].refused_launches;
    sum.launches += workers[i].launches;
    sum.compared += workers[i].compared;
    sum.unknown += workers[i].unknown;
  }
  CHECK(cuCtxSetCurrent(context) == CUDA_SUCCESS, "context");
  if (expect_loss) {
    CHECK(lost, "the loss showed");
    CHECK(cuMemAlloc(&none, 4096) == CUDA_ERROR_EXTERNAL_DEVICE, "the error is sticky");
    printf("lost; ");
    return CHECK_RESULT();
  }
  /* One empty slab stays with its context; dispatch keeps what it works with. */
  const char *kept = getenv("GB_TEST_KEPT_MIB");
  size_t kept_bytes = (kept != NULL ? strtoull(kept, NULL, 10) : 2) << 20;
  free_after = free_in_the_end(free_before - kept_bytes);
  CHECK(free_before - free_after <= kept_bytes, "free before %zu, after %zu", free_before,
        free_after);
  printf("launches %u, hidden %u, compared %u, refused allocations %u, refused accesses %u; ",
         sum.launches, sum.unknown, sum.compared, sum.refused_allocations, sum.refused_launches);
  return CHECK_RESULT();
}
