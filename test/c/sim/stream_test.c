/* SPDX-License-Identifier: Apache-2.0 */
/* stream_test.c: order and asynchrony of streams, both argument forms, copies, capture, per-thread
 * streams, modules. */
#include <pthread.h>

#include "common.h"

#define SPIN_NS 100000000ull /* 0.1 s */

static CUdeviceptr buffer;

static uint64_t first_word(void) {
  uint64_t word = 0;
  CHECK_EQUAL(cuMemcpyDtoH(&word, buffer, 8), CUDA_SUCCESS);
  return word;
}

static void launches_return_before_the_kernel_ends(void) {
  CUstream stream;
  CUevent event;
  CHECK_EQUAL(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
  CHECK_EQUAL(cuEventCreate(&event, 0), CUDA_SUCCESS);
  const uint64_t before = now_ns();
  CHECK_EQUAL(spin(stream, SPIN_NS), CUDA_SUCCESS);
  CHECK_EQUAL(cuEventRecord(event, stream), CUDA_SUCCESS);
  CHECK(now_ns() - before < SPIN_NS / 2);
  CHECK_EQUAL(cuStreamQuery(stream), CUDA_ERROR_NOT_READY);
  CHECK_EQUAL(cuEventQuery(event), CUDA_ERROR_NOT_READY);
  CHECK_EQUAL(cuEventSynchronize(event), CUDA_SUCCESS);
  CHECK(now_ns() - before >= SPIN_NS);
  CHECK_EQUAL(cuStreamQuery(stream), CUDA_SUCCESS);
  CHECK_EQUAL(cuEventDestroy(event), CUDA_SUCCESS);
  CHECK_EQUAL(cuStreamDestroy(stream), CUDA_SUCCESS);
}

static void two_streams_run_at_once(void) {
  CUstream a, b;
  CHECK_EQUAL(cuStreamCreate(&a, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
  CHECK_EQUAL(cuStreamCreate(&b, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
  const uint64_t before = now_ns();
  CHECK_EQUAL(spin(a, SPIN_NS), CUDA_SUCCESS);
  CHECK_EQUAL(spin(b, SPIN_NS), CUDA_SUCCESS);
  CHECK_EQUAL(cuCtxSynchronize(), CUDA_SUCCESS);
  CHECK(now_ns() - before < SPIN_NS * 19 / 10);
  CHECK_EQUAL(cuStreamDestroy(a), CUDA_SUCCESS);
  CHECK_EQUAL(cuStreamDestroy(b), CUDA_SUCCESS);
}

static void one_stream_keeps_its_order(void) {
  CUstream stream;
  CHECK_EQUAL(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemsetD8Async(buffer, 0, 64, stream), CUDA_SUCCESS);
  uint64_t want = 0;
  for (uint64_t key = 1; key <= 3000; key++) { /* more than a queue holds */
    CHECK_EQUAL(update(buffer, 1, key, stream), CUDA_SUCCESS);
    want = want * 3 + key;
  }
  CHECK_EQUAL(cuStreamSynchronize(stream), CUDA_SUCCESS);
  CHECK(first_word() == want);
  CHECK_EQUAL(cuStreamDestroy(stream), CUDA_SUCCESS);
}

/* A blocking stream waits for earlier legacy work and the other way round; a non-blocking one does
 * neither. */
static void the_legacy_stream_is_a_barrier(void) {
  CUstream blocking, free_stream;
  CHECK_EQUAL(cuStreamCreate(&blocking, CU_STREAM_DEFAULT), CUDA_SUCCESS);
  CHECK_EQUAL(cuStreamCreate(&free_stream, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemsetD8(buffer, 0, 64), CUDA_SUCCESS);
  CHECK_EQUAL(spin(blocking, SPIN_NS), CUDA_SUCCESS);
  CHECK_EQUAL(update(buffer, 1, 5, blocking), CUDA_SUCCESS);
  CHECK_EQUAL(update(buffer, 1, 7, NULL), CUDA_SUCCESS);     /* after the 5 */
  CHECK_EQUAL(update(buffer, 1, 9, blocking), CUDA_SUCCESS); /* after the 7 */
  CHECK_EQUAL(fill(buffer + 4096, 1, 0, free_stream), CUDA_SUCCESS);
  CHECK_EQUAL(cuStreamSynchronize(free_stream), CUDA_SUCCESS);
  CHECK_EQUAL(cuStreamQuery(blocking), CUDA_ERROR_NOT_READY);
  CHECK_EQUAL(cuStreamQuery(NULL), CUDA_ERROR_NOT_READY);
  CHECK_EQUAL(cuCtxSynchronize(), CUDA_SUCCESS);
  CHECK_EQUAL(first_word(), (5 * 3 + 7) * 3 + 9);
  CHECK_EQUAL(cuStreamDestroy(blocking), CUDA_SUCCESS);
  CHECK_EQUAL(cuStreamDestroy(free_stream), CUDA_SUCCESS);
}

static void events_order_streams(void) {
  CUstream a, b;
  CUevent event;
  CHECK_EQUAL(cuStreamCreate(&a, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
  CHECK_EQUAL(cuStreamCreate(&b, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
  CHECK_EQUAL(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemsetD8(buffer, 0, 64), CUDA_SUCCESS);
  CHECK_EQUAL(cuCtxSynchronize(), CUDA_SUCCESS);
  CHECK_EQUAL(spin(a, SPIN_NS), CUDA_SUCCESS);
  CHECK_EQUAL(update(buffer, 1, 4, a), CUDA_SUCCESS);
  CHECK_EQUAL(cuEventRecord(event, a), CUDA_SUCCESS);
  CHECK_EQUAL(cuStreamWaitEvent(b, event, 0), CUDA_SUCCESS);
  CHECK_EQUAL(update(buffer, 1, 6, b), CUDA_SUCCESS);
  CHECK_EQUAL(cuStreamSynchronize(b), CUDA_SUCCESS);
  CHECK_EQUAL(first_word(), 4 * 3 + 6);
  CHECK_EQUAL(cuEventDestroy(event), CUDA_SUCCESS);
  CHECK_EQUAL(cuStreamDestroy(a), CUDA_SUCCESS);
  CHECK_EQUAL(cuStreamDestroy(b), CUDA_SUCCESS);
}

static void both_argument_forms_reach_the_kernel(void) {
  struct {
    CUdeviceptr pointer;
    uint64_t words, key;
  } args = {buffer, 1, 21};
  size_t size = sizeof args;
  void *extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, &args, CU_LAUNCH_PARAM_BUFFER_SIZE, &size,
                   CU_LAUNCH_PARAM_END};
  void *params[] = {&args.pointer, &args.words, &args.key};
  CUlaunchConfig config = {
      .gridDimX = 1, .gridDimY = 1, .gridDimZ = 1, .blockDimX = 1, .blockDimY = 1, .blockDimZ = 1};
  CHECK_EQUAL(cuMemsetD8(buffer, 0, 64), CUDA_SUCCESS);
  CHECK_EQUAL(cuLaunchKernel(kernel("gb_update"), 1, 1, 1, 1, 1, 1, 0, NULL, NULL, extra),
              CUDA_SUCCESS);
  CHECK_EQUAL(first_word(), 21);
  CHECK_EQUAL(cuLaunchKernelEx(&config, kernel("gb_update"), params, NULL), CUDA_SUCCESS);
  CHECK_EQUAL(first_word(), 21 * 3 + 21);
  CHECK_EQUAL(cuLaunchCooperativeKernel(kernel("gb_update"), 1, 1, 1, 1, 1, 1, 0, NULL, params),
              CUDA_SUCCESS);
  CHECK_EQUAL(first_word(), (21 * 3 + 21) * 3 + 21);
  CHECK_EQUAL(cuLaunchKernel(kernel("gb_update"), 1, 1, 1, 1, 1, 1, 0, NULL, params, extra),
              CUDA_ERROR_INVALID_VALUE);
  size = 8; /* too short for the parameters */
  CHECK_EQUAL(cuLaunchKernel(kernel("gb_update"), 1, 1, 1, 1, 1, 1, 0, NULL, NULL, extra),
              CUDA_ERROR_INVALID_VALUE);
  size_t offset = 1, bytes = 0;
  CHECK_EQUAL(cuFuncGetParamInfo(kernel("gb_update"), 2, &offset, &bytes), CUDA_SUCCESS);
  CHECK_EQUAL(offset, 16);
  CHECK_EQUAL(bytes, 8);
  CHECK_EQUAL(cuFuncGetParamInfo(kernel("gb_update"), 3, &offset, &bytes),
              CUDA_ERROR_INVALID_VALUE);
  CHECK_EQUAL(cuFuncGetParamInfo(kernel("gb_mix"), 0, NULL, &bytes), CUDA_SUCCESS);
  CHECK_EQUAL(bytes, 32);
}

static void a_small_pageable_source_may_change_after_the_call(void) {
  CUstream stream;
  uint64_t word = 1234;
  CHECK_EQUAL(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
  CHECK_EQUAL(spin(stream, SPIN_NS / 4), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemcpyHtoDAsync(buffer, &word, 8, stream), CUDA_SUCCESS);
  word = 0;
  CHECK_EQUAL(cuStreamSynchronize(stream), CUDA_SUCCESS);
  CHECK_EQUAL(first_word(), 1234);
  CHECK_EQUAL(cuStreamDestroy(stream), CUDA_SUCCESS);
}

static void copies_of_rectangles_and_arrays(void) {
  unsigned char host[16 * 8], back[16 * 8] = {0};
  for (unsigned i = 0; i < sizeof host; i++) host[i] = (unsigned char)(i * 3);
  CUDA_MEMCPY2D in = {.srcMemoryType = CU_MEMORYTYPE_HOST,
                      .srcHost = host,
                      .srcPitch = 16,
                      .srcXInBytes = 3,
                      .srcY = 1,
                      .dstMemoryType = CU_MEMORYTYPE_DEVICE,
                      .dstDevice = buffer,
                      .dstPitch = 64,
                      .WidthInBytes = 11,
                      .Height = 5};
  CHECK_EQUAL(cuMemcpy2D(&in), CUDA_SUCCESS);
  CUDA_MEMCPY2D out = {.srcMemoryType = CU_MEMORYTYPE_DEVICE,
                       .srcDevice = buffer,
                       .srcPitch = 64,
                       .dstMemoryType = CU_MEMORYTYPE_HOST,
                       .dstHost = back,
                       .dstPitch = 16,
                       .WidthInBytes = 11,
                       .Height = 5};
  CHECK_EQUAL(cuMemcpy2DUnaligned(&out), CUDA_SUCCESS);
  for (unsigned y = 0; y < 5; y++) CHECK(memcmp(back + y * 16, host + (y + 1) * 16 + 3, 11) == 0);
  CUarray array;
  const CUDA_ARRAY_DESCRIPTOR shape = {
      .Width = 32, .Height = 4, .Format = CU_AD_FORMAT_UNSIGNED_INT8, .NumChannels = 1};
  const size_t before = free_bytes();
  CHECK_EQUAL(cuArrayCreate(&array, &shape), CUDA_SUCCESS);
  CHECK(free_bytes() < before);
  CHECK_EQUAL(cuMemcpyHtoA(array, 5, host, 20), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemcpyAtoH(back, array, 6, 19), CUDA_SUCCESS);
  CHECK(memcmp(back, host + 1, 19) == 0);
  CHECK_EQUAL(cuArrayDestroy(array), CUDA_SUCCESS);
  CHECK_EQUAL(free_bytes(), before);
  CHECK_EQUAL(cuMemsetD2D16(buffer, 64, 0xabcd, 4, 2), CUDA_SUCCESS);
  CHECK_EQUAL(first_word(), 0xabcdabcdabcdabcdull);
}

static void capture_records_and_replays(void) {
  CUstream stream;
  CUgraph graph;
  CUgraphExec exec;
  CUdeviceptr pointer;
  CHECK_EQUAL(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemsetD8(buffer, 0, 64), CUDA_SUCCESS);
  CHECK_EQUAL(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL), CUDA_SUCCESS);
  CHECK_EQUAL(update(buffer, 1, 2, stream), CUDA_SUCCESS);
  CHECK_EQUAL(update(buffer, 1, 3, stream), CUDA_SUCCESS);
  CHECK_EQUAL(cuStreamEndCapture(stream, &graph), CUDA_SUCCESS);
  CHECK_EQUAL(first_word(), 0); /* nothing ran */
  CHECK_EQUAL(cuGraphInstantiate(&exec, graph, 0), CUDA_SUCCESS);
  CHECK_EQUAL(cuGraphLaunch(exec, stream), CUDA_SUCCESS);
  CHECK_EQUAL(cuGraphLaunch(exec, stream), CUDA_SUCCESS);
  CHECK_EQUAL(cuStreamSynchronize(stream), CUDA_SUCCESS);
  CHECK_EQUAL(first_word(), ((2 * 3 + 3) * 3 + 2) * 3 + 3);
  CHECK_EQUAL(cuGraphExecDestroy(exec), CUDA_SUCCESS);
  CHECK_EQUAL(cuGraphDestroy(graph), CUDA_SUCCESS);
  /* what capture forbids invalidates it */
  CHECK_EQUAL(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemAlloc(&pointer, 4096), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  CHECK_EQUAL(update(buffer, 1, 2, stream), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
  CHECK_EQUAL(cuStreamEndCapture(stream, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
  CHECK(graph == NULL);
  CHECK_EQUAL(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemsetD8(buffer, 0, 64), CUDA_SUCCESS); /* another stream's work is no matter */
  CHECK_EQUAL(cuStreamQuery(NULL), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED); /* a question is */
  CHECK_EQUAL(cuStreamEndCapture(stream, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
  CHECK_EQUAL(cuStreamDestroy(stream), CUDA_SUCCESS);
}

CUresult cuLaunchKernel_ptsz(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                             unsigned, CUstream, void **, void **);

static void *per_thread_work(void *argument) {
  uint64_t nanoseconds = SPIN_NS;
  void *params[] = {&nanoseconds};
  CHECK_EQUAL(cuCtxSetCurrent(argument), CUDA_SUCCESS);
  CHECK_EQUAL(cuLaunchKernel_ptsz(kernel("gb_spin"), 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL),
              CUDA_SUCCESS);
  CHECK_EQUAL(cuStreamSynchronize(CU_STREAM_PER_THREAD), CUDA_SUCCESS);
  return NULL;
}

static void threads_have_default_streams_of_their_own(void) {
  CUcontext context;
  pthread_t threads[2];
  CHECK_EQUAL(cuCtxGetCurrent(&context), CUDA_SUCCESS);
  CHECK_EQUAL(cuCtxSynchronize(), CUDA_SUCCESS);
  kernel("gb_spin");
  const uint64_t before = now_ns();
  for (int i = 0; i < 2; i++) pthread_create(&threads[i], NULL, per_thread_work, context);
  for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
  const uint64_t took = now_ns() - before;
  CHECK(took >= SPIN_NS && took < SPIN_NS * 19 / 10);
}

static void host_called(void *data) { *(int *)data += 1; }

static void host_functions_run_in_order(void) {
  CUstream stream;
  int calls = 0;
  CHECK_EQUAL(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
  CHECK_EQUAL(spin(stream, SPIN_NS / 4), CUDA_SUCCESS);
  for (int i = 0; i < 10; i++)
    CHECK_EQUAL(cuLaunchHostFunc(stream, host_called, &calls), CUDA_SUCCESS);
  CHECK_EQUAL(cuStreamSynchronize(stream), CUDA_SUCCESS);
  CHECK_EQUAL(calls, 10);
  CHECK_EQUAL(cuStreamDestroy(stream), CUDA_SUCCESS);
}

static void ptx_is_read_as_the_driver_reads_it(void) {
  static const char text[] =
      "// a comment with .entry inside\n.version 6.0\n.target sm_50\n.address_size 64\n"
      ".visible .global .align 8 .b8 table[64];\n.const .u32 scale = 3;\n"
      "/* .visible .entry hidden() {} */\n"
      ".visible .entry gb_mix(\n  .param .align 8 .b8 gb_mix_param_0[32]\n)\n.maxntid 256, 1, "
      "1\n{\n  { .reg .b32 %r<2>; }\n  ret;\n}\n";
  CUmodule other;
  CUfunction function;
  CUdeviceptr address;
  size_t bytes;
  CHECK_EQUAL(cuModuleLoadData(&other, text), CUDA_SUCCESS);
  CHECK_EQUAL(cuModuleGetFunction(&function, other, "gb_mix"), CUDA_SUCCESS);
  CHECK_EQUAL(cuModuleGetFunction(&function, other, "hidden"), CUDA_ERROR_NOT_FOUND);
  CHECK_EQUAL(cuModuleGetGlobal(&address, &bytes, other, "table"), CUDA_SUCCESS);
  CHECK_EQUAL(bytes, 64);
  CHECK_EQUAL(cuModuleGetGlobal(NULL, &bytes, other, "scale"), CUDA_SUCCESS);
  CHECK_EQUAL(bytes, 4);
  CHECK_EQUAL(cuMemsetD8(address, 1, 64), CUDA_SUCCESS);
  CHECK_EQUAL(cuModuleUnload(other), CUDA_SUCCESS);
  CHECK_EQUAL(cuModuleUnload(other), CUDA_ERROR_INVALID_HANDLE);
  CHECK_EQUAL(cuModuleLoadData(&other, "no program"), CUDA_ERROR_INVALID_IMAGE);
  static const char wrong[] =
      ".version 6.0\n.target sm_50\n.visible .entry gb_mix(.param .u64 a, .param .u64 b)\n{ ret; "
      "}\n";
  CHECK_EQUAL(cuModuleLoadData(&other, wrong), CUDA_ERROR_INVALID_PTX);
}

static void a_shared_object_is_a_module(void) {
  const char *path = getenv("GB_TEST_MODULE");
  CUlibrary library;
  CUkernel add;
  CUfunction function;
  CUdeviceptr counter;
  size_t bytes;
  uint32_t value = 0, amount = 4;
  unsigned count = 0;
  if (path == NULL) {
    CHECK(path != NULL);
    return;
  }
  CHECK_EQUAL(cuLibraryLoadFromFile(&library, path, NULL, NULL, 0, NULL, NULL, 0), CUDA_SUCCESS);
  CHECK_EQUAL(cuLibraryGetKernelCount(&count, library), CUDA_SUCCESS);
  CHECK_EQUAL(count, 2);
  CHECK_EQUAL(cuLibraryGetKernel(&add, library, "count_up"), CUDA_SUCCESS);
  CHECK_EQUAL(cuKernelGetFunction(&function, add), CUDA_SUCCESS);
  CHECK_EQUAL(cuLibraryGetGlobal(&counter, &bytes, library, "counter"), CUDA_SUCCESS);
  CHECK_EQUAL(bytes, 4);
  void *params[] = {&amount};
  CHECK_EQUAL(cuLaunchKernel(function, 3, 1, 1, 2, 1, 1, 0, NULL, params, NULL), CUDA_SUCCESS);
  CHECK_EQUAL(cuLaunchKernel((CUfunction)add, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL),
              CUDA_SUCCESS);
  CHECK_EQUAL(cuMemcpyDtoH(&value, counter, 4), CUDA_SUCCESS);
  CHECK_EQUAL(value, 7 * 4);
  CHECK_EQUAL(cuLibraryUnload(library), CUDA_SUCCESS);
}

int main(void) {
  start();
  CHECK_EQUAL(cuMemAlloc(&buffer, MIB), CUDA_SUCCESS);
  RUN(launches_return_before_the_kernel_ends);
  RUN(two_streams_run_at_once);
  RUN(one_stream_keeps_its_order);
  RUN(the_legacy_stream_is_a_barrier);
  RUN(events_order_streams);
  RUN(both_argument_forms_reach_the_kernel);
  RUN(a_small_pageable_source_may_change_after_the_call);
  RUN(copies_of_rectangles_and_arrays);
  RUN(capture_records_and_replays);
  RUN(threads_have_default_streams_of_their_own);
  RUN(host_functions_run_in_order);
  RUN(ptx_is_read_as_the_driver_reads_it);
  RUN(a_shared_object_is_a_module);
  CHECK_EQUAL(cuMemFree(buffer), CUDA_SUCCESS);
  return check_done();
}
