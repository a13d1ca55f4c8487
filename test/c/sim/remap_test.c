/* SPDX-License-Identifier: Apache-2.0 */
/* remap_test.c: what moves memory under a running program: events of a whole context, waits for
 * memory values, one chunk at two addresses, remaps behind a closed gate; and what GBSIM_STRICT
 * makes of remaps that are not. */
#include <stdlib.h>

#include "common.h"

#define CHUNK (4 * MIB)
#define WORDS (CHUNK / 8)

static CUdeviceptr reserve(uint64_t bytes) {
  CUdeviceptr base = 0;
  CHECK_EQUAL(cuMemAddressReserve(&base, bytes, 0, 0, 0), CUDA_SUCCESS);
  return base;
}

static uint32_t *host_words(uint32_t count) {
  void *words = NULL;
  CHECK_EQUAL(cuMemHostAlloc(&words, count * 4, CU_MEMHOSTALLOC_DEVICEMAP), CUDA_SUCCESS);
  memset(words, 0, count * 4);
  return words;
}

static CUmemGenericAllocationHandle create(CUmemLocationType type) {
  const CUmemAllocationProp prop = place(type);
  CUmemGenericAllocationHandle handle = 0;
  CHECK_EQUAL(cuMemCreate(&handle, CHUNK, &prop, 0), CUDA_SUCCESS);
  return handle;
}

static void map_at(CUdeviceptr base, CUmemGenericAllocationHandle handle) {
  CHECK_EQUAL(cuMemMap(base, CHUNK, 0, handle, 0), CUDA_SUCCESS);
  CHECK_EQUAL(allow(base, CHUNK, CU_MEM_ACCESS_FLAGS_PROT_READWRITE), CUDA_SUCCESS);
}

static uint64_t word_at(CUdeviceptr address) {
  uint64_t word = 0;
  CHECK_EQUAL(cuMemcpyDtoH(&word, address, 8), CUDA_SUCCESS);
  return word;
}

/* ---- events of a context ---- */

static void a_context_event_is_behind_every_stream(void) {
  CUcontext context = start();
  CUstream one, two;
  CUevent event;
  CHECK_EQUAL(cuStreamCreate(&one, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
  CHECK_EQUAL(cuStreamCreate(&two, CU_STREAM_DEFAULT), CUDA_SUCCESS);
  CHECK_EQUAL(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING), CUDA_SUCCESS);
  for (int round = 0; round < 3; round++) {
    CHECK_EQUAL(spin(round == 0 ? one : round == 1 ? two : NULL, 60000000), CUDA_SUCCESS);
    CHECK_EQUAL(cuCtxRecordEvent(context, event), CUDA_SUCCESS);
    CHECK_EQUAL(spin(one, 200000000), CUDA_SUCCESS); /* behind it: not waited for */
    const uint64_t before = now_ns();
    CHECK_EQUAL(cuEventQuery(event), CUDA_ERROR_NOT_READY);
    CHECK_EQUAL(cuEventSynchronize(event), CUDA_SUCCESS);
    CHECK(now_ns() - before > 30000000 && now_ns() - before < 150000000);
    CHECK_EQUAL(cuCtxSynchronize(), CUDA_SUCCESS);
  }
  CHECK_EQUAL(cuCtxRecordEvent(context, event), CUDA_SUCCESS);
  CHECK_EQUAL(cuEventSynchronize(event), CUDA_SUCCESS);
  /* A capture in the context forbids it, and does not survive the try. */
  CUgraph graph = NULL;
  CHECK_EQUAL(cuStreamBeginCapture(one, CU_STREAM_CAPTURE_MODE_RELAXED), CUDA_SUCCESS);
  CHECK_EQUAL(cuCtxRecordEvent(context, event), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  CHECK_EQUAL(cuStreamEndCapture(one, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
}

/* ---- values ---- */

static void waits_for_values_compare_as_the_driver_does(void) {
  start();
  CUstream stream;
  uint32_t *word = host_words(4);
  const CUdeviceptr at = (CUdeviceptr)word;
  CHECK_EQUAL(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
  static const struct {
    uint32_t wanted, closed, open;
    unsigned flags;
  } rows[] = {{5, 4, 5, CU_STREAM_WAIT_VALUE_GEQ},
              {5, 4, 6, CU_STREAM_WAIT_VALUE_GEQ},
              {2, 0xfffffff0u, 2, CU_STREAM_WAIT_VALUE_GEQ}, /* cyclic */
              {0xfffffff0u, 0xffffff00u, 3, CU_STREAM_WAIT_VALUE_GEQ},
              {7, 8, 7, CU_STREAM_WAIT_VALUE_EQ},
              {4, 3, 12, CU_STREAM_WAIT_VALUE_AND},
              {0xffff0000u, 0x0000ffffu, 0x00007fffu, CU_STREAM_WAIT_VALUE_NOR}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    word[0] = rows[i].closed;
    word[1] = 0;
    CHECK_EQUAL(cuStreamWaitValue32(stream, at, rows[i].wanted, rows[i].flags), CUDA_SUCCESS);
    CHECK_EQUAL(cuStreamWriteValue32(stream, at + 4, 1, 0), CUDA_SUCCESS);
    usleep(3000);
    CHECK_EQUAL(cuStreamQuery(stream), CUDA_ERROR_NOT_READY);
    CHECK_EQUAL(*(volatile uint32_t *)&word[1], 0);
    *(volatile uint32_t *)word = rows[i].open;
    CHECK_EQUAL(cuStreamSynchronize(stream), CUDA_SUCCESS);
    CHECK_EQUAL(word[1], 1);
  }
  /* The default streams wait too, and the legacy one holds back what synchronises with it. */
  CUstream blocking;
  CHECK_EQUAL(cuStreamCreate(&blocking, CU_STREAM_DEFAULT), CUDA_SUCCESS);
  word[0] = word[1] = word[2] = 0;
  CHECK_EQUAL(cuStreamWaitValue32(NULL, at, 1, 0), CUDA_SUCCESS);
  CHECK_EQUAL(cuStreamWriteValue32(blocking, at + 4, 1, 0), CUDA_SUCCESS);
  CHECK_EQUAL(cuStreamWaitValue32_ptsz(NULL, at, 1, 0), CUDA_SUCCESS);
  CHECK_EQUAL(cuStreamWriteValue32_ptsz(NULL, at + 8, 1, 0), CUDA_SUCCESS);
  usleep(3000);
  CHECK(((volatile uint32_t *)word)[1] == 0 && ((volatile uint32_t *)word)[2] == 0);
  *(volatile uint32_t *)word = 1;
  CHECK_EQUAL(cuCtxSynchronize(), CUDA_SUCCESS);
  CHECK(word[1] == 1 && word[2] == 1);
}

/* ---- two addresses ---- */

static void one_chunk_at_two_addresses(void) {
  start();
  const CUdeviceptr base = reserve(8 * CHUNK), alias = reserve(2 * CHUNK);
  const CUmemGenericAllocationHandle host = create(CU_MEM_LOCATION_TYPE_HOST_NUMA);
  const CUmemGenericAllocationHandle frame = create(CU_MEM_LOCATION_TYPE_DEVICE);
  map_at(base, host);
  map_at(alias, host);
  map_at(alias + CHUNK, frame);
  CHECK_EQUAL(fill(base, WORDS, 3, NULL), CUDA_SUCCESS);
  CHECK(word_at(alias + 80) == word_at(base + 80) && word_at(alias + 80) != 0);
  CHECK_EQUAL(cuMemcpyDtoDAsync(alias + CHUNK, alias, CHUNK, NULL), CUDA_SUCCESS);
  CHECK_EQUAL(cuCtxSynchronize(), CUDA_SUCCESS);
  CHECK_EQUAL(word_at(alias + CHUNK + CHUNK - 8), word_at(base + CHUNK - 8));
  /* The frame takes the address; the chunk stays what it was. */
  CHECK_EQUAL(cuMemUnmap(base, CHUNK), CUDA_SUCCESS);
  map_at(base, frame);
  CHECK_EQUAL(update(base, WORDS, 9, NULL), CUDA_SUCCESS);
  CHECK_EQUAL(cuCtxSynchronize(), CUDA_SUCCESS);
  CHECK_EQUAL(word_at(base), word_at(alias + CHUNK));
  CHECK(word_at(base) != word_at(alias));
  CHECK_EQUAL(cuMemcpyDtoDAsync(alias, alias + CHUNK, CHUNK, NULL), CUDA_SUCCESS);
  CHECK_EQUAL(cuCtxSynchronize(), CUDA_SUCCESS);
  CHECK_EQUAL(word_at(base + 800), word_at(alias + 800));
  /* Released while mapped: charged until the last mapping goes. */
  const size_t before = free_bytes();
  CHECK_EQUAL(cuMemRelease(frame), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemUnmap(base, CHUNK), CUDA_SUCCESS);
  CHECK_EQUAL(free_bytes(), before);
  CHECK_EQUAL(cuMemUnmap(alias + CHUNK, CHUNK), CUDA_SUCCESS);
  CHECK_EQUAL(free_bytes(), before + CHUNK);
}

static void runs_are_unmapped_and_allowed_at_once(void) {
  start();
  const CUdeviceptr base = reserve(8 * CHUNK);
  for (uint64_t i = 0; i < 6; i++)
    CHECK_EQUAL(cuMemMap(base + i * CHUNK, CHUNK, 0,
                         create(i % 2 ? CU_MEM_LOCATION_TYPE_DEVICE
                                      : CU_MEM_LOCATION_TYPE_HOST_NUMA),
                         0),
                CUDA_SUCCESS);
  CHECK_EQUAL(allow(base + CHUNK, 5 * CHUNK, CU_MEM_ACCESS_FLAGS_PROT_READWRITE), CUDA_SUCCESS);
  CHECK_EQUAL(fill(base + CHUNK, 5 * WORDS, 1, NULL), CUDA_SUCCESS);
  CHECK_EQUAL(cuCtxSynchronize(), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemUnmap(base + CHUNK, 3 * CHUNK), CUDA_SUCCESS);
  CHECK_EQUAL(allow(base, 5 * CHUNK, CU_MEM_ACCESS_FLAGS_PROT_READWRITE),
              CUDA_ERROR_INVALID_VALUE);
  CHECK_EQUAL(fill(base + 4 * CHUNK, 2 * WORDS, 2, NULL), CUDA_SUCCESS);
  CHECK_EQUAL(cuCtxSynchronize(), CUDA_SUCCESS);
}

/* ---- the gate ---- */

/* A launch that waits for a value, and everything that waits for it, does not run: what it was
 * given may be remapped. Before that it may not. */
static void behind_a_closed_gate_memory_may_move(void) {
  start();
  const CUdeviceptr base = reserve(8 * CHUNK), alias = reserve(CHUNK);
  const CUmemGenericAllocationHandle host = create(CU_MEM_LOCATION_TYPE_HOST_NUMA);
  const CUmemGenericAllocationHandle frame = create(CU_MEM_LOCATION_TYPE_DEVICE);
  uint32_t *word = host_words(1);
  CUstream one, two;
  CUevent event;
  CHECK_EQUAL(cuStreamCreate(&one, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
  CHECK_EQUAL(cuStreamCreate(&two, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
  CHECK_EQUAL(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING), CUDA_SUCCESS);
  map_at(base, host);
  map_at(alias, frame);
  CHECK_EQUAL(fill(alias, WORDS, 5, NULL), CUDA_SUCCESS);
  CHECK_EQUAL(cuCtxSynchronize(), CUDA_SUCCESS);
  CHECK_EQUAL(cuStreamWaitValue32(one, (CUdeviceptr)word, 1, 0), CUDA_SUCCESS);
  CHECK_EQUAL(update(base, WORDS, 7, one), CUDA_SUCCESS);
  CHECK_EQUAL(cuEventRecord(event, one), CUDA_SUCCESS);
  CHECK_EQUAL(cuStreamWaitEvent(two, event, 0), CUDA_SUCCESS);
  CHECK_EQUAL(update(base, WORDS, 8, two), CUDA_SUCCESS);
  usleep(3000);
  CHECK_EQUAL(cuMemUnmap(base, CHUNK), CUDA_SUCCESS);
  map_at(base, frame);
  const uint64_t was = word_at(alias + 8);
  *(volatile uint32_t *)word = 1;
  CHECK_EQUAL(cuCtxSynchronize(), CUDA_SUCCESS);
  CHECK_EQUAL(word_at(alias + 8), (was * 3 + 7 + 1) * 3 + 8 + 1);
  /* With the gate open the same is refused. */
  CHECK_EQUAL(spin(one, 50000000), CUDA_SUCCESS);
  CHECK_EQUAL(update(base, WORDS, 7, one), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemUnmap(base, CHUNK), CUDA_ERROR_ILLEGAL_STATE);
  CHECK_EQUAL(cuCtxSynchronize(), CUDA_SUCCESS);
}

/* ---- GBSIM_STRICT: each case in a process of its own ---- */

static CUresult remap(CUdeviceptr base, CUmemGenericAllocationHandle to) {
  CHECK_EQUAL(cuMemUnmap(base, CHUNK), CUDA_SUCCESS);
  CUresult result = cuMemMap(base, CHUNK, 0, to, 0);
  if (result == CUDA_SUCCESS) result = allow(base, CHUNK, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
  return result == CUDA_SUCCESS ? cuCtxSynchronize() : result;
}

/* returns: what the driver answers in the end. */
static CUresult strict_case(const char *name) {
  start();
  const CUdeviceptr base = reserve(8 * CHUNK), alias = reserve(2 * CHUNK);
  const CUmemGenericAllocationHandle host = create(CU_MEM_LOCATION_TYPE_HOST_NUMA);
  const CUmemGenericAllocationHandle frame = create(CU_MEM_LOCATION_TYPE_DEVICE);
  uint32_t *word = host_words(8);
  map_at(base, host);
  map_at(alias, frame);
  CHECK_EQUAL(fill(base, WORDS, 5, NULL), CUDA_SUCCESS);
  CHECK_EQUAL(cuCtxSynchronize(), CUDA_SUCCESS);
  if (strcmp(name, "drained") == 0) return remap(base, frame);
  if (strcmp(name, "gated") == 0) {
    CHECK_EQUAL(cuStreamWaitValue32(NULL, (CUdeviceptr)word, 1, 0), CUDA_SUCCESS);
    CHECK_EQUAL(spin(NULL, 10000000), CUDA_SUCCESS);
    CHECK_EQUAL(cuMemUnmap(base, CHUNK), CUDA_SUCCESS);
    map_at(base, frame);
    *(volatile uint32_t *)word = 1;
    return cuCtxSynchronize();
  }
  if (strcmp(name, "copy elsewhere") == 0) { /* slow: GBSIM_PCIE_GBPS */
    map_at(alias + CHUNK, host);
    CHECK_EQUAL(cuMemcpyDtoDAsync(alias, alias + CHUNK, CHUNK, NULL), CUDA_SUCCESS);
    return remap(base, create(CU_MEM_LOCATION_TYPE_DEVICE));
  }
  if (strcmp(name, "kernel") == 0) {
    CHECK_EQUAL(spin(NULL, 100000000), CUDA_SUCCESS);
    usleep(20000);
    return remap(base, frame);
  }
  /* "touch": a running kernel reaches what was mapped after it began. */
  CUmodule kernels;
  CUfunction touch;
  CUdeviceptr flag = (CUdeviceptr)word, table = (CUdeviceptr)(word + 2);
  CUdeviceptr out = (CUdeviceptr)(word + 4), target = base + 2 * CHUNK;
  CHECK_EQUAL(cuModuleLoad(&kernels, getenv("GB_TEST_MODULE")), CUDA_SUCCESS);
  CHECK_EQUAL(cuModuleGetFunction(&touch, kernels, "touch_when"), CUDA_SUCCESS);
  void *params[] = {&flag, &table, &out};
  memcpy(word + 2, &target, 8);
  CHECK_EQUAL(cuLaunchKernel(touch, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL), CUDA_SUCCESS);
  usleep(20000);
  map_at(target, frame);
  *(volatile uint32_t *)word = 1;
  const CUresult result = cuCtxSynchronize();
  /* Without strictness it read the new memory. */
  if (result == CUDA_SUCCESS) CHECK(word[4] != 0 || word[5] != 0 || word_at(target) == 0);
  return result;
}

static int run_case(const char *name, const char *strict) {
  fflush(NULL);
  const pid_t child = fork();
  if (child == 0) {
    if (strict != NULL) setenv("GBSIM_STRICT", strict, 1);
    setenv("GBSIM_PCIE_GBPS", "0.1", 1);
    execl("/proc/self/exe", "remap_test", name, (char *)NULL);
    _exit(127);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

#define VIOLATION 3

static void strictness_sees_what_is_not_drained(void) {
  static const char *const fine[] = {"drained", "gated", "copy elsewhere"};
  static const char *const wrong[] = {"kernel", "touch"};
  for (size_t i = 0; i < sizeof fine / sizeof *fine; i++) CHECK_EQUAL(run_case(fine[i], "1"), 0);
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    CHECK_EQUAL(run_case(wrong[i], NULL), 0);
    CHECK_EQUAL(run_case(wrong[i], "1"), VIOLATION);
    CHECK_EQUAL(run_case(wrong[i], "abort"), 128 + 6);
  }
}

#define IN_CHILD(name) \
  static void in_child_##name(void) { CHECK_EQUAL(in_child(name), 0); }
IN_CHILD(a_context_event_is_behind_every_stream)
IN_CHILD(waits_for_values_compare_as_the_driver_does)
IN_CHILD(one_chunk_at_two_addresses)
IN_CHILD(runs_are_unmapped_and_allowed_at_once)
IN_CHILD(behind_a_closed_gate_memory_may_move)

int main(int count, char **arguments) {
  if (count > 1) {
    const CUresult result = strict_case(arguments[1]);
    if (check_errors != 0) return 1;
    return result == CUDA_SUCCESS ? 0 : result == CUDA_ERROR_ILLEGAL_STATE ? VIOLATION : 2;
  }
  RUN(in_child_a_context_event_is_behind_every_stream);
  RUN(in_child_waits_for_values_compare_as_the_driver_does);
  RUN(in_child_one_chunk_at_two_addresses);
  RUN(in_child_runs_are_unmapped_and_allowed_at_once);
  RUN(in_child_behind_a_closed_gate_memory_may_move);
  RUN(strictness_sees_what_is_not_drained);
  return check_done();
}
