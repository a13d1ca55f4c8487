/* SPDX-License-Identifier: Apache-2.0 */
/*
 * edges.c: what a dispatching program may rely on beside the bytes of its buffers: the order of copies on a stream,
 * questions that end, frees and contexts that go while work is on its way, forked children; and, with `fault`, that a
 * kernel's failure on a feeder is the program's own, and stays.
 *
 * usage: edges MODULE [fault]. The local budgets hold half of what this allocates.
 */
#include <cuda.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../core/check.h"

#define MIB (1ull << 20)
#define BUFFERS 12
#define BYTES (8 * MIB)
#define WORDS (BYTES / 4)

static CUfunction mix, fresh;
static CUstream stream;
static CUdeviceptr buffers[BUFFERS];

static void ok(CUresult result, const char *what) {
  CHECK(result == CUDA_SUCCESS, "%s: %d", what, result);
}

static CUresult launch(CUdeviceptr to, CUdeviceptr from, uint64_t words, uint32_t seed) {
  void *params[] = {&to, &from, &words, &seed};
  return cuLaunchKernel(mix, 1, 1, 1, 32, 1, 1, 0, stream, params, NULL);
}

/* to = from * 5 + seed, all of it: proved to be overwritten. */
static void overwrite(CUdeviceptr to, CUdeviceptr from, uint64_t words, uint32_t seed) {
  void *params[] = {&to, &from, &words, &seed};
  ok(cuLaunchKernel(fresh, (unsigned)((words + 255) / 256), 1, 1, 256, 1, 1, 0, stream, params, NULL), "overwrite");
}

/* Every buffer holds its number; those that do not fit here lie on a feeder. */
static void fill_all(void) {
  uint32_t *words = malloc(BYTES);
  for (uint32_t i = 0; i < BUFFERS; i++) {
    ok(cuMemAlloc(&buffers[i], BYTES), "alloc");
    for (uint64_t k = 0; k < WORDS; k++) words[k] = i;
    ok(cuMemcpyHtoD(buffers[i], words, BYTES), "upload");
  }
  free(words);
}

static uint32_t word_of(CUdeviceptr buffer, uint64_t index) {
  uint32_t word = 0;
  ok(cuMemcpyDtoH(&word, buffer + index * 4, 4), "read");
  return word;
}

/* Through one pinned buffer, in the stream's order, without a wait between. */
static void pinned_order(void) {
  uint32_t *pinned = NULL;
  ok(cuMemAllocHost((void **)&pinned, BYTES), "pinned");
  CUdeviceptr last = buffers[BUFFERS - 1];
  for (uint32_t i = 0; i + 1 < BUFFERS; i++) {
    ok(cuMemcpyDtoHAsync(pinned, buffers[i], BYTES, stream), "down");
    ok(cuMemcpyHtoDAsync(last, pinned, BYTES, stream), "up");
    ok(launch(buffers[i], last, WORDS, 1), "launch");
  }
  ok(cuStreamSynchronize(stream), "synchronise");
  for (uint32_t i = 0; i + 1 < BUFFERS; i++) {
    CHECK(word_of(buffers[i], i) == i * 4 + 1, "buffer %u", i);
    CHECK(word_of(buffers[i], WORDS - 1) == i * 4 + 1, "the end of buffer %u", i);
  }
  CHECK(word_of(last, 7) == BUFFERS - 2, "the last copy");
  ok(cuMemFreeHost(pinned), "free pinned");
}

static void questions_end(void) {
  CUevent event;
  ok(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING), "event");
  ok(launch(buffers[BUFFERS - 1], buffers[BUFFERS - 2], WORDS, 0), "launch");
  ok(cuEventRecord(event, stream), "record");
  unsigned asked = 0;
  while (cuEventQuery(event) == CUDA_ERROR_NOT_READY && ++asked < 100000) usleep(100);
  CHECK(asked < 100000, "the event never came");
  CHECK(cuStreamQuery(stream) == CUDA_SUCCESS, "the stream is idle");
  ok(cuEventDestroy(event), "event");
}

/* What is overwritten does not cross, and may become again what both sides agreed on while the other one has changed:
 * first there, then here. The last buffer lies on a feeder, the first ones here, and one of them is named there. */
static void overwritten_as_before(void) {
  const CUdeviceptr moved = buffers[0], here = buffers[1], result = buffers[2], there = buffers[BUFFERS - 1];
  const uint64_t part = 16384; /* the rest stays where it is */
  for (uint32_t turn = 0; turn < 3; turn++) {
    overwrite(moved, there, part, 7);
    overwrite(result, moved, part, 1); /* here: it comes back, and is agreed on */
    ok(launch(moved, here, part, turn), "changed here");
    overwrite(moved, there, part, 7);
    overwrite(result, moved, part, 1);
    CHECK(word_of(result, 5) == ((BUFFERS - 1) * 5 + 7) * 5 + 1, "overwritten there: %u", word_of(result, 5));
    overwrite(moved, here, part, 3);
    ok(launch(there, moved, part, 0), "there: agreed on");
    ok(launch(moved, there, part, turn), "changed there");
    overwrite(moved, here, part, 3);
    ok(cuMemsetD32Async(there, BUFFERS - 1, WORDS, stream), "fill");
    ok(launch(there, moved, part, 0), "there");
    CHECK(word_of(there, 5) == (BUFFERS - 1) * 3 + 1 * 5 + 3, "overwritten here: %u", word_of(there, 5));
    ok(cuMemsetD32Async(there, BUFFERS - 1, WORDS, stream), "fill");
    CHECK(word_of(moved, WORDS - 1) == 0, "beside it: %u", word_of(moved, WORDS - 1));
  }
  /* A launch that is refused here has overwritten nothing. */
  uint32_t seed = 9;
  void *params[] = {(void *)(uintptr_t)&moved, (void *)(uintptr_t)&here, (void *)(uintptr_t)&part, &seed};
  overwrite(moved, there, part, 7);
  CHECK(cuLaunchKernel(fresh, 64, 1, 1, 256, 1, 1, 1u << 30, stream, params, NULL) != CUDA_SUCCESS, "shared memory");
  overwrite(result, moved, part, 1);
  CHECK(word_of(result, 5) == ((BUFFERS - 1) * 5 + 7) * 5 + 1, "not overwritten: %u", word_of(result, 5));
  ok(cuMemsetD32Async(moved, 0, WORDS, stream), "fill");
  ok(cuMemsetD32Async(result, 2, WORDS, stream), "fill");
}

static void on_host(void *value) {
  ++*(int *)value;
}

static void callbacks_see(void) {
  int calls = 0;
  ok(launch(buffers[BUFFERS - 1], buffers[BUFFERS - 2], WORDS, 0), "launch");
  ok(cuLaunchHostFunc(stream, on_host, &calls), "callback");
  ok(cuStreamSynchronize(stream), "synchronise");
  CHECK(calls == 1, "%d calls", calls);
}

/* Between halves that lie on feeders and halves that lie here. */
static void copies_between(void) {
  for (uint32_t i = 0; i < BUFFERS; i++) ok(cuMemsetD32Async(buffers[i], 100 + i, WORDS, stream), "fill");
  for (uint32_t i = 0; i < BUFFERS; i++) {
    CUdeviceptr to = buffers[(i + BUFFERS / 2) % BUFFERS];
    ok(cuMemcpyDtoDAsync(to + 4096, buffers[i] + 8192, 4096, stream), "between");
    ok(cuMemsetD2D8Async(buffers[i], 64, (unsigned char)i, 16, 32, stream), "rectangle");
  }
  ok(cuStreamSynchronize(stream), "synchronise");
  for (uint32_t i = 0; i < BUFFERS; i++) {
    uint32_t to = (i + BUFFERS / 2) % BUFFERS;
    CHECK(word_of(buffers[to], 1024) == 100 + i, "copied to %u: %u", to, word_of(buffers[to], 1024));
    CHECK(word_of(buffers[i], 16) == i * 0x01010101u, "the rectangle in %u", i);
    CHECK(word_of(buffers[i], 16 + 4) == 100 + i, "beside the rectangle in %u", i);
  }
}

static void child_ends(void) {
  ok(launch(buffers[BUFFERS - 1], buffers[BUFFERS - 2], WORDS, 0), "launch");
  pid_t child = fork();
  if (child == 0) _exit(7);
  int status = 0;
  CHECK(child > 0 && waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 7, "the child");
  ok(cuStreamSynchronize(stream), "synchronise after the fork");
}

static void free_all(void) {
  for (uint32_t i = 0; i < BUFFERS; i++) {
    if (i + 1 < BUFFERS) ok(launch(buffers[i], buffers[i + 1], WORDS, 1), "launch before the free");
    ok(cuMemFree(buffers[i]), "free");
  }
}

/* The kernel writes behind everything that was ever allocated. */
static void fault(void) {
  CUdeviceptr nowhere = buffers[BUFFERS - 1] + (8ull << 30);
  ok(launch(buffers[BUFFERS - 1], buffers[0], 64, 0), "a launch that works");
  ok(cuStreamSynchronize(stream), "synchronise");
  CUresult result = launch(buffers[BUFFERS - 1], nowhere, 64, 0);
  if (result == CUDA_SUCCESS) result = cuStreamSynchronize(stream);
  CHECK(result == CUDA_ERROR_ILLEGAL_ADDRESS, "the fault: %d", result);
  CHECK(cuStreamSynchronize(stream) == CUDA_ERROR_ILLEGAL_ADDRESS, "it stays");
  CHECK(cuMemFree(buffers[0]) == CUDA_ERROR_ILLEGAL_ADDRESS, "for frees, too");
  CHECK(launch(buffers[0], buffers[1], 64, 0) == CUDA_ERROR_ILLEGAL_ADDRESS, "and for launches here");
}

int main(int count, char **arguments) {
  CUdevice device;
  CUcontext context;
  CUmodule module;
  if (count < 2) return 2;
  ok(cuInit(0), "init");
  ok(cuDeviceGet(&device, 0), "device");
  ok(cuCtxCreate(&context, NULL, 0, device), "context");
  ok(cuModuleLoad(&module, arguments[1]), "module");
  ok(cuModuleGetFunction(&mix, module, "mix"), "mix");
  ok(cuModuleGetFunction(&fresh, module, "fresh"), "fresh");
  ok(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), "stream");
  fill_all();
  if (count > 2 && strcmp(arguments[2], "fault") == 0) {
    fault();
    return CHECK_RESULT();
  }
  overwritten_as_before();
  pinned_order();
  questions_end();
  callbacks_see();
  copies_between();
  child_ends();
  free_all();
  fill_all();
  ok(launch(buffers[BUFFERS - 1], buffers[0], WORDS, 0), "launch before the end");
  ok(cuCtxDestroy(context), "destroy");
  return CHECK_RESULT();
}
