/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hooks_program.c CASE: what the wrappers promise a program, one property per case, each in a process
 * of its own under the shim with GREENBOOST_VRAM_BUDGET=64MiB and GREENBOOST_RAM_BUDGET=64MiB on a
 * device with more. An ordinary driver-API program otherwise.
 */
#include <cuda.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../programs/kernels.h"

#define MIB ((size_t)1 << 20)
#define BUDGET (64 * MIB)

static int failures;

#define CHECK(condition)                                               \
  do {                                                                 \
    if (!(condition)) {                                                \
      printf("%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
      failures++;                                                      \
    }                                                                  \
  } while (0)
#define CHECK_IS(call, expected)                                                           \
  do {                                                                                     \
    CUresult got = (call);                                                                 \
    if (got != (expected)) {                                                               \
      printf("%s:%d: %s is %d, not %s\n", __FILE__, __LINE__, #call, (int)got, #expected); \
      failures++;                                                                          \
    }                                                                                      \
  } while (0)
#define OK(call) CHECK_IS(call, CUDA_SUCCESS)

static CUdevice device;
static CUcontext context;

static void start(void) {
  OK(cuInit(0));
  OK(cuDeviceGet(&device, 0));
  OK(cuDevicePrimaryCtxRetain(&context, device));
  OK(cuCtxSetCurrent(context));
}

static size_t free_bytes(void) {
  size_t bytes = 0;
  OK(cuMemGetInfo(&bytes, NULL));
  return bytes;
}

static void pattern(unsigned char *bytes, size_t count, unsigned seed) {
  for (size_t i = 0; i < count; i++) bytes[i] = (unsigned char)(i * 31 + seed + (i >> 9));
}

/* ---- memory the program maps itself ---- */

static CUmemAllocationProp device_memory(void) {
  CUmemAllocationProp properties;
  memset(&properties, 0, sizeof properties);
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  properties.location.id = device;
  return properties;
}

#define SEGMENT (20 * MIB)
#define SEGMENTS 16

/* As PyTorch's expandable segments do: one reservation, one handle after the other. */
static void case_app_vmm(void) {
  CUmemAllocationProp properties = device_memory(), told;
  CUmemGenericAllocationHandle handles[SEGMENTS];
  CUdeviceptr base;
  size_t before = free_bytes(), granularity = 0;
  int made = 0;
  unsigned char *sent = malloc(SEGMENT), *received = malloc(SEGMENT);
  OK(cuMemGetAllocationGranularity(&granularity, &properties, CU_MEM_ALLOC_GRANULARITY_MINIMUM));
  CHECK(granularity == 2 * MIB);
  OK(cuMemAddressReserve(&base, SEGMENTS * SEGMENT, 0, 0, 0));
  CUresult result = CUDA_SUCCESS;
  for (; made < SEGMENTS; made++) {
    result = cuMemCreate(&handles[made], SEGMENT, &properties, 0);
    if (result != CUDA_SUCCESS) break;
    CUdeviceptr at = base + (size_t)made * SEGMENT;
    CUmemAccessDesc access = {properties.location, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    OK(cuMemMap(at, SEGMENT, 0, handles[made], 0));
    OK(cuMemSetAccess(at, SEGMENT, &access, 1));
    memset(&told, 0xff, sizeof told);
    OK(cuMemGetAllocationPropertiesFromHandle(&told, handles[made]));
    CHECK(told.location.type == CU_MEM_LOCATION_TYPE_DEVICE && told.location.id == device);
    unsigned type = 0, listed = 0;
    int ordinal = -1;
    CUpointer_attribute attributes[] = {CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
                                        CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL};
    void *data[] = {&listed, &ordinal};
    OK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, at + 4096));
    OK(cuPointerGetAttributes(2, attributes, data, at + 4096));
    CHECK(type == CU_MEMORYTYPE_DEVICE && listed == CU_MEMORYTYPE_DEVICE && ordinal == device);
    pattern(sent, SEGMENT, (unsigned)made);
    OK(cuMemcpyHtoD(at, sent, SEGMENT));
  }
  /* Three segments fit into 64 MiB of VRAM and three into 64 MiB of RAM. */
  CHECK_IS(result, CUDA_ERROR_OUT_OF_MEMORY);
  CHECK(made == 6);
  for (int i = 0; i < made; i++) {
    pattern(sent, SEGMENT, (unsigned)i);
    OK(cuMemcpyDtoH(received, base + (size_t)i * SEGMENT, SEGMENT));
    CHECK(memcmp(sent, received, SEGMENT) == 0);
  }
  CHECK(free_bytes() < before);
  /* Released handles stay counted while mapped. */
  for (int i = 0; i < made; i++) OK(cuMemRelease(handles[i]));
  CHECK_IS(cuMemCreate(&handles[0], SEGMENT, &properties, 0), CUDA_ERROR_OUT_OF_MEMORY);
  OK(cuMemUnmap(base, (size_t)made * SEGMENT));
  CHECK(free_bytes() == before);
  OK(cuMemCreate(&handles[0], SEGMENT, &properties, 0));
  OK(cuMemRelease(handles[0]));
  CHECK(free_bytes() == before);
  OK(cuMemAddressFree(base, SEGMENTS * SEGMENT));
  free(sent);
  free(received);
}

/* Compression, and handles of fabrics, need real device memory. */
static void case_app_vmm_special(void) {
  CUmemAllocationProp properties = device_memory();
  CUmemGenericAllocationHandle full, more;
  OK(cuMemCreate(&full, BUDGET, &properties, 0));
  properties.requestedHandleTypes = CU_MEM_HANDLE_TYPE_FABRIC;
  CHECK_IS(cuMemCreate(&more, 2 * MIB, &properties, 0), CUDA_ERROR_OUT_OF_MEMORY);
  properties = device_memory();
  properties.allocFlags.compressionType = 1;
  CHECK_IS(cuMemCreate(&more, 2 * MIB, &properties, 0), CUDA_ERROR_OUT_OF_MEMORY);
  OK(cuMemRelease(full));
}

/* ---- the driver's own allocators ---- */

static void case_pools(void) {
  CUstream stream;
  CUdeviceptr first, second, third;
  size_t before = free_bytes();
  OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  OK(cuMemAllocAsync(&first, 40 * MIB, stream));
  CHECK_IS(cuMemAllocAsync(&second, 40 * MIB, stream), CUDA_ERROR_OUT_OF_MEMORY);
  OK(cuMemAllocAsync(&second, 20 * MIB, stream));
  OK(cuStreamSynchronize(stream));
  OK(cuMemFree(second)); /* legal for memory of a pool */
  OK(cuMemFreeAsync(first, stream));
  OK(cuStreamSynchronize(stream));
  OK(cuMemAllocAsync(&third, 60 * MIB, stream));
  OK(cuMemFreeAsync(third, stream));
  OK(cuStreamSynchronize(stream));
  OK(cuStreamDestroy(stream));
  CUmemoryPool pool;
  OK(cuDeviceGetDefaultMemPool(&pool, device));
  OK(cuMemPoolTrimTo(pool, 0));
  CHECK(free_bytes() == before);
}

static void case_managed(void) {
  CUdeviceptr first, second;
  size_t before = free_bytes();
  OK(cuMemAllocManaged(&first, 40 * MIB, CU_MEM_ATTACH_GLOBAL));
  CHECK_IS(cuMemAllocManaged(&second, 40 * MIB, CU_MEM_ATTACH_GLOBAL), CUDA_ERROR_OUT_OF_MEMORY);
  OK(cuMemFree(first));
  OK(cuMemAllocManaged(&second, 60 * MIB, CU_MEM_ATTACH_GLOBAL));
  OK(cuMemFree(second));
  CHECK(free_bytes() == before);
}

static void case_arrays(void) {
  CUarray first, second;
  CUDA_ARRAY_DESCRIPTOR large = {4096, 2048, CU_AD_FORMAT_FLOAT, 1}; /* 32 MiB */
  OK(cuArrayCreate(&first, &large));
  large.NumChannels = 2;
  CHECK_IS(cuArrayCreate(&second, &large), CUDA_ERROR_OUT_OF_MEMORY);
  OK(cuArrayDestroy(first));
  OK(cuArrayCreate(&second, &large));
  OK(cuArrayDestroy(second));
}

/* Pinned memory is not the card's: more than both budgets together. */
static void case_pinned(void) {
  void *pointer;
  unsigned flags;
  OK(cuMemHostAlloc(&pointer, 3 * BUDGET, CU_MEMHOSTALLOC_PORTABLE));
  OK(cuMemHostGetFlags(&flags, pointer));
  OK(cuMemFreeHost(pointer));
}

/* ---- questions ---- */

static void case_sizes(void) {
  size_t total = 0, free_now = 0, device_total = 0;
  OK(cuMemGetInfo(&free_now, &total));
  OK(cuMemGetInfo(NULL, NULL));
  OK(cuDeviceTotalMem(&device_total, device));
  CHECK(total == device_total && free_now <= total);
  CHECK(total == 2 * BUDGET);
  struct {
    unsigned long long total, free, used;
  } seen;
  int (*nvml_init)(void);
  int (*by_index)(unsigned, void **);
  int (*memory_info)(void *, void *);
  void *nvml = dlopen("libnvidia-ml.so.1", RTLD_NOW), *card = NULL;
  CHECK(nvml != NULL);
  if (nvml == NULL) return;
  *(void **)&nvml_init = dlsym(nvml, "nvmlInit_v2");
  *(void **)&by_index = dlsym(nvml, "nvmlDeviceGetHandleByIndex_v2");
  *(void **)&memory_info = dlsym(nvml, "nvmlDeviceGetMemoryInfo");
  CHECK(nvml_init != NULL && by_index != NULL && memory_info != NULL);
  CHECK(nvml_init() == 0 && by_index(0, &card) == 0 && memory_info(card, &seen) == 0);
  CHECK(seen.total == total && seen.free == free_now && seen.used == total - free_now);
}

/* An arena pointer looks like any pointer of cuMemAlloc. */
static void case_identity(void) {
  CUdeviceptr pointer, base, answered;
  CUdevice ordinal;
  size_t bytes;
  unsigned flags, type;
  CUipcMemHandle handle;
  CUmemGenericAllocationHandle retained;
  void *host = NULL;
  OK(cuMemAlloc(&pointer, 5 * MIB));
  OK(cuMemGetAddressRange(&base, &bytes, pointer + 12345));
  CHECK(base == pointer && bytes == 5 * MIB);
  OK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, pointer));
  CHECK(type == CU_MEMORYTYPE_DEVICE);
  OK(cuPointerGetAttribute(&answered, CU_POINTER_ATTRIBUTE_DEVICE_POINTER, pointer + 8));
  CHECK(answered == pointer + 8);
  CUpointer_attribute attributes[] = {CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,
                                      CU_POINTER_ATTRIBUTE_HOST_POINTER,
                                      CU_POINTER_ATTRIBUTE_RANGE_SIZE};
  void *data[] = {&ordinal, &host, &bytes};
  host = data;
  OK(cuPointerGetAttributes(3, attributes, data, pointer));
  CHECK(ordinal == device && host == NULL && bytes == 5 * MIB);
  OK(cuIpcGetMemHandle(&handle, pointer));
  CHECK_IS(cuIpcOpenMemHandle(&answered, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS),
           CUDA_ERROR_INVALID_CONTEXT); /* as the driver says of a handle of the process itself */
  CHECK_IS(cuMemRetainAllocationHandle(&retained, (void *)(uintptr_t)pointer),
           CUDA_ERROR_INVALID_VALUE);
  CHECK_IS(cuMemHostGetFlags(&flags, (void *)(uintptr_t)pointer), CUDA_ERROR_INVALID_VALUE);
  CHECK_IS(cuMemHostGetDevicePointer(&answered, (void *)(uintptr_t)pointer, 0),
           CUDA_ERROR_INVALID_VALUE);
  CHECK_IS(cuMemUnmap(pointer, 2 * MIB), CUDA_ERROR_INVALID_VALUE);
  CHECK_IS(cuMemFreeAsync(pointer, NULL), CUDA_ERROR_INVALID_VALUE);
  CHECK_IS(cuMemFree(pointer + 512), CUDA_ERROR_INVALID_VALUE);
  OK(cuMemFree(pointer));
  OK(cuMemFree(0));
}

/* ---- copies and fills ---- */

/* The same bytes travel by every way there is, through memory of both tiers. */
static void case_copies(void) {
  enum { WIDTH = 1024, HEIGHT = 2048, BYTES = WIDTH * HEIGHT };
  unsigned char *sent = malloc(BYTES), *received = malloc(BYTES);
  CUdeviceptr filler, first, second;
  CUstream stream;
  OK(cuMemAlloc(&filler, BUDGET - 4 * MIB)); /* what follows lives in RAM */
  OK(cuMemAlloc(&first, BYTES));
  OK(cuMemAlloc(&second, 6 * MIB));
  OK(cuStreamCreate(&stream, 0));
  pattern(sent, BYTES, 1);
#define ROUND(there, across, back)      \
  do {                                  \
    memset(received, 0, BYTES);         \
    OK(cuMemsetD8(first, 0, BYTES));    \
    OK(cuMemsetD8(second, 0, BYTES));   \
    OK(there);                          \
    OK(across);                         \
    OK(back);                           \
    OK(cuStreamSynchronize(stream));    \
    CHECK(memcmp(sent, received, BYTES) == 0); \
  } while (0)
  ROUND(cuMemcpyHtoD(first, sent, BYTES), cuMemcpyDtoD(second, first, BYTES),
        cuMemcpyDtoH(received, second, BYTES));
  ROUND(cuMemcpyHtoDAsync(first, sent, BYTES, stream),
        cuMemcpyDtoDAsync(second, first, BYTES, stream),
        cuMemcpyDtoHAsync(received, second, BYTES, stream));
  ROUND(cuMemcpy(first, (CUdeviceptr)(uintptr_t)sent, BYTES), cuMemcpy(second, first, BYTES),
        cuMemcpy((CUdeviceptr)(uintptr_t)received, second, BYTES));
  ROUND(cuMemcpyHtoD(first, sent, BYTES), cuMemcpyPeer(second, context, first, context, BYTES),
        cuMemcpyDtoH(received, second, BYTES));
  CUDA_MEMCPY2D flat;
  memset(&flat, 0, sizeof flat);
  flat.srcMemoryType = flat.dstMemoryType = CU_MEMORYTYPE_DEVICE;
  flat.srcDevice = first;
  flat.dstDevice = second;
  flat.srcPitch = flat.dstPitch = flat.WidthInBytes = WIDTH;
  flat.Height = HEIGHT;
  ROUND(cuMemcpyHtoD(first, sent, BYTES), cuMemcpy2D(&flat), cuMemcpyDtoH(received, second, BYTES));
  ROUND(cuMemcpyHtoDAsync(first, sent, BYTES, stream), cuMemcpy2DAsync(&flat, stream),
        cuMemcpyDtoHAsync(received, second, BYTES, stream));
  CUDA_MEMCPY3D box;
  memset(&box, 0, sizeof box);
  box.srcMemoryType = CU_MEMORYTYPE_HOST;
  box.srcHost = sent;
  box.dstMemoryType = CU_MEMORYTYPE_DEVICE;
  box.dstDevice = first;
  box.srcPitch = box.dstPitch = box.WidthInBytes = WIDTH;
  box.srcHeight = box.dstHeight = box.Height = HEIGHT / 4;
  box.Depth = 4;
  ROUND(cuMemcpy3D(&box), cuMemcpyDtoD(second, first, BYTES),
        cuMemcpyDtoH(received, second, BYTES));
  CUdeviceptr to[2] = {second, second + BYTES / 2}, from[2] = {first, first + BYTES / 2};
  size_t sizes[2] = {BYTES / 2, BYTES / 2}, index = 0;
  CUmemcpyAttributes attributes;
  memset(&attributes, 0, sizeof attributes);
  attributes.srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM;
  ROUND(cuMemcpyHtoDAsync(first, sent, BYTES, stream),
        cuMemcpyBatchAsync(to, from, sizes, 2, &attributes, &index, 1, stream),
        cuMemcpyDtoHAsync(received, second, BYTES, stream));
  /* Fills: whole, words, rectangles. */
  OK(cuMemsetD32(first, 0x01020304, BYTES / 4));
  OK(cuMemsetD2D8(first + 16, WIDTH, 9, 8, HEIGHT));
  OK(cuMemsetD16Async(first, 0x0506, 4, stream));
  OK(cuMemcpyDtoHAsync(received, first, BYTES, stream));
  OK(cuStreamSynchronize(stream));
  CHECK(received[0] == 6 && received[8] == 4 && received[16] == 9 && received[23] == 9 &&
        received[24] == 4 && received[BYTES - WIDTH + 16] == 9 && received[BYTES - 1] == 1);
  OK(cuStreamDestroy(stream));
  OK(cuMemFree(second));
  OK(cuMemFree(first));
  OK(cuMemFree(filler));
  free(sent);
  free(received);
}

/* ---- lives of contexts, captures ---- */

static void case_contexts(void) {
  size_t before = free_bytes();
  CUcontext second;
  CUdeviceptr pointer;
  OK(cuCtxCreate_v2(&second, 0, device));
  OK(cuMemAlloc(&pointer, 30 * MIB));
  CHECK(free_bytes() < before);
  OK(cuCtxDestroy(second));
  OK(cuCtxSetCurrent(context));
  CHECK(free_bytes() == before);
  /* The last release, not the first, drops what the primary context holds. */
  CUcontext again;
  OK(cuDevicePrimaryCtxRetain(&again, device));
  CHECK(again == context);
  OK(cuMemAlloc(&pointer, 30 * MIB));
  OK(cuDevicePrimaryCtxRelease(device));
  OK(cuMemsetD8(pointer, 1, MIB));
  OK(cuDevicePrimaryCtxReset(device));
  OK(cuDevicePrimaryCtxRelease(device));
  OK(cuDevicePrimaryCtxRetain(&context, device));
  OK(cuCtxSetCurrent(context));
  CHECK(free_bytes() == before);
  OK(cuMemAlloc(&pointer, 30 * MIB));
  OK(cuMemFree(pointer));
}

static void case_capture(void) {
  CUstream stream;
  CUgraph graph = NULL;
  CUgraphExec executable;
  CUdeviceptr pointer;
  unsigned char received[16];
  OK(cuMemAlloc(&pointer, 4 * MIB));
  OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  CHECK_IS(cuStreamEndCapture(stream, &graph), CUDA_ERROR_ILLEGAL_STATE);
  OK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
  OK(cuMemsetD8Async(pointer, 7, 4 * MIB, stream));
  OK(cuStreamEndCapture(stream, &graph));
  OK(cuGraphInstantiate(&executable, graph, 0));
  OK(cuMemsetD8(pointer, 1, 4 * MIB));
  OK(cuCtxSynchronize()); /* the stream does not wait for the fill */
  OK(cuGraphLaunch(executable, stream));
  OK(cuStreamSynchronize(stream));
  OK(cuMemcpyDtoH(received, pointer + 3 * MIB, sizeof received));
  CHECK(received[0] == 7 && received[15] == 7);
  OK(cuGraphExecDestroy(executable));
  OK(cuGraphDestroy(graph));
  OK(cuStreamDestroy(stream));
  OK(cuMemFree(pointer));
}

/* ---- refusals ---- */

static char *log_text(void) {
  static char text[65536];
  const char *path = getenv("GREENBOOST_LOG_FILE");
  FILE *file = path == NULL ? NULL : fopen(path, "r");
  size_t length = file == NULL ? 0 : fread(text, 1, sizeof text - 1, file);
  text[length] = '\0';
  if (file != NULL) fclose(file);
  return text;
}

static int count_of(const char *text, const char *word) {
  int count = 0;
  for (const char *at = strstr(text, word); at != NULL; at = strstr(at + 1, word)) count++;
  return count;
}

/* Every refusal is the exact error, each time; and one line that says what to do, once. */
static void case_refusals(void) {
  CUdeviceptr pointer, other;
  CUipcMemHandle handle;
  CUstream stream;
  CUarray array;
  CUmemGenericAllocationHandle made;
  CUmemAllocationProp properties = device_memory();
  CUDA_ARRAY_DESCRIPTOR large = {8192, 4096, CU_AD_FORMAT_FLOAT, 1}; /* 128 MiB */
  int descriptor;
  CUresult (*range_handle)(void *, CUdeviceptr, size_t, int, unsigned long long);
  *(void **)&range_handle = dlsym(RTLD_DEFAULT, "cuMemGetHandleForAddressRange");
  OK(cuMemAlloc(&pointer, 4 * MIB));
  OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  OK(cuIpcGetMemHandle(&handle, pointer));
  handle.reserved[40] ^= 1;
  for (int i = 0; i < 3; i++) {
    CHECK_IS(cuIpcOpenMemHandle(&other, handle, 0), CUDA_ERROR_INVALID_HANDLE);
    CHECK_IS(range_handle(&descriptor, pointer, 2 * MIB, 1, 0), CUDA_ERROR_NOT_SUPPORTED);
    CHECK_IS(cuMemFreeAsync(pointer, stream), CUDA_ERROR_INVALID_VALUE);
    CHECK_IS(cuMemAlloc(&other, 1024 * MIB), CUDA_ERROR_OUT_OF_MEMORY);
    CHECK_IS(cuMemAllocAsync(&other, 128 * MIB, stream), CUDA_ERROR_OUT_OF_MEMORY);
    CHECK_IS(cuMemAllocManaged(&other, 128 * MIB, CU_MEM_ATTACH_GLOBAL),
             CUDA_ERROR_OUT_OF_MEMORY);
    CHECK_IS(cuArrayCreate(&array, &large), CUDA_ERROR_OUT_OF_MEMORY);
    CHECK_IS(cuMemCreate(&made, 256 * MIB, &properties, 0), CUDA_ERROR_OUT_OF_MEMORY);
  }
  const char *text = log_text();
  static const char *const names[] = {"ipc_damaged",    "dma_buf_refused",
                                      "free_async_refused", "memory_refused: 1073741824 bytes",
                                      "pool_memory_refused", "managed memory of 134217728",
                                      "an array of 134217728", "app_memory_refused"};
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    if (count_of(text, names[i]) == 1) continue;
    printf("%d lines with %s in:\n%s", count_of(text, names[i]), names[i], text);
    failures++;
  }
  OK(cuStreamDestroy(stream));
  OK(cuMemFree(pointer));
}

/* The driver is out of memory once (GBSIM_FAIL): what we hold unused goes back to it, and the call
 * succeeds. Without anything to give, the error is the program's. */
static void case_second_try(void) {
  CUdeviceptr pointer, pooled;
  CUstream stream, second;
  CUarray array;
  CUevent event;
  CUDA_ARRAY_DESCRIPTOR small = {256, 256, CU_AD_FORMAT_FLOAT, 1};
#define POOL_A_HANDLE()             \
  OK(cuMemAlloc(&pointer, 8 * MIB)); \
  OK(cuMemFree(pointer))
  CHECK_IS(cuStreamCreate(&stream, 0), CUDA_ERROR_OUT_OF_MEMORY);
  POOL_A_HANDLE();
  OK(cuStreamCreate(&stream, 0));
  POOL_A_HANDLE();
  OK(cuStreamCreateWithPriority(&second, 0, 0));
  POOL_A_HANDLE();
  OK(cuArrayCreate(&array, &small));
  POOL_A_HANDLE();
  OK(cuMemAllocAsync(&pooled, 4 * MIB, stream));
  POOL_A_HANDLE();
  OK(cuEventCreate(&event, 0));
  OK(cuMemFreeAsync(pooled, stream));
  OK(cuArrayDestroy(array));
  OK(cuEventDestroy(event));
  OK(cuStreamDestroy(stream));
  OK(cuStreamDestroy(second));
}

/* ---- memory that only VRAM can hold comes when VRAM is full ---- */

static void case_vacate(void) {
  enum { COUNT = 12, BYTES = 8 << 20 };
  CUdeviceptr chunks[COUNT], managed;
  CUarray array;
  CUDA_ARRAY_DESCRIPTOR descriptor = {1024, 1024, CU_AD_FORMAT_FLOAT, 1};
  unsigned char *sent = malloc(BYTES), *received = malloc(BYTES);
  for (int i = 0; i < COUNT; i++) { /* 96 MiB: 64 in VRAM, the rest in RAM */
    OK(cuMemAlloc(&chunks[i], BYTES));
    pattern(sent, BYTES, (unsigned)i);
    OK(cuMemcpyHtoD(chunks[i], sent, BYTES));
  }
  OK(cuMemAllocManaged(&managed, 12 * MIB, CU_MEM_ATTACH_GLOBAL));
  OK(cuArrayCreate(&array, &descriptor));
  for (int i = 0; i < COUNT; i++) {
    pattern(sent, BYTES, (unsigned)i);
    OK(cuMemcpyDtoH(received, chunks[i], BYTES));
    CHECK(memcmp(sent, received, BYTES) == 0);
  }
  OK(cuArrayDestroy(array));
  OK(cuMemFree(managed));
  for (int i = 0; i < COUNT; i++) OK(cuMemFree(chunks[i]));
  free(sent);
  free(received);
}

/* ---- copies and fills while chunks are moved (GREENBOOST_STAGING=always) ---- */

#define WORDS 1024 /* of 8 bytes: what a kernel changes of a chunk */
#define PART (WORDS * 8)
#define MIRROR (8 * PART)

static void mirror_update(unsigned char *chunk, unsigned long long key) {
  for (unsigned long long i = 0; i < WORDS; i++) {
    unsigned long long word;
    memcpy(&word, chunk + 8 * i, 8);
    word = word * 3 + key + i;
    memcpy(chunk + 8 * i, &word, 8);
  }
}

static void case_remapped(void) {
  enum { COUNT = 12, ROUNDS = 40, BYTES = 8 << 20 };
  static const char image[] = PTX_HEAD PTX_UPDATE;
  CUdeviceptr chunks[COUNT];
  CUmodule module;
  CUfunction update;
  CUstream stream;
  unsigned char *mirror = calloc(COUNT, MIRROR), *received = malloc(MIRROR);
  OK(cuModuleLoadData(&module, image));
  OK(cuModuleGetFunction(&update, module, "gb_update"));
  OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  for (int i = 0; i < COUNT; i++) {
    OK(cuMemAlloc(&chunks[i], BYTES));
    OK(cuMemsetD8(chunks[i], 0, BYTES));
  }
  OK(cuCtxSynchronize());
  for (unsigned long long round = 0; round < ROUNDS; round++)
    for (int i = 0; i < COUNT; i++) {
      unsigned long long words = WORDS, key = round * 100 + (unsigned)i;
      void *arguments[] = {&chunks[i], &words, &key};
      OK(cuLaunchKernel(update, 4, 1, 1, 64, 1, 1, 0, stream, arguments, NULL));
      mirror_update(mirror + i * MIRROR, key);
      int to = (i + 6) % COUNT, from = (i + 3) % COUNT, filled = (i + 9) % COUNT;
      OK(cuMemcpyDtoDAsync(chunks[to] + 2 * PART, chunks[from], PART, stream));
      memcpy(mirror + to * MIRROR + 2 * PART, mirror + from * MIRROR, PART);
      OK(cuMemcpyAsync(chunks[to] + 4 * PART, chunks[to] + 2 * PART, PART, stream));
      memcpy(mirror + to * MIRROR + 4 * PART, mirror + to * MIRROR + 2 * PART, PART);
      OK(cuMemsetD8Async(chunks[filled] + 6 * PART, (unsigned char)key, PART, stream));
      memset(mirror + filled * MIRROR + 6 * PART, (unsigned char)key, PART);
    }
  OK(cuStreamSynchronize(stream));
  for (int i = 0; i < COUNT; i++) {
    OK(cuMemcpyDtoH(received, chunks[i], MIRROR));
    CHECK(memcmp(received, mirror + i * MIRROR, MIRROR) == 0);
  }
  for (int i = 0; i < COUNT; i++) OK(cuMemFree(chunks[i]));
  OK(cuStreamDestroy(stream));
  OK(cuModuleUnload(module));
  free(mirror);
  free(received);
}

/* What staging needs of the driver ends with the context it was made in: every one begins with nothing. */
static void case_remapped_contexts(void) {
  CUcontext own;
  for (int i = 0; i < 3; i++) {
    OK(cuCtxCreate_v2(&own, 0, 0));
    case_remapped();
    OK(cuCtxDestroy(own));
  }
  for (int i = 0; i < 2; i++) {
    OK(cuDevicePrimaryCtxRetain(&own, 0));
    OK(cuCtxSetCurrent(own));
    case_remapped();
    OK(cuDevicePrimaryCtxReset(0));
    OK(cuDevicePrimaryCtxRelease(0));
  }
  OK(cuDevicePrimaryCtxRetain(&own, 0));
  OK(cuCtxSetCurrent(own));
  case_remapped();
}

/* ---- words that streams write and wait for ---- */

static void case_words(void) {
  CUstream first, second;
  CUdeviceptr words;
  unsigned char received[64];
  OK(cuMemAlloc(&words, 8 * MIB));
  OK(cuMemsetD8(words, 0, 8 * MIB));
  OK(cuCtxSynchronize());
  OK(cuStreamCreate(&first, CU_STREAM_NON_BLOCKING));
  OK(cuStreamCreate(&second, CU_STREAM_NON_BLOCKING));
  for (unsigned i = 1; i <= 20; i++) {
    OK(cuStreamWaitValue32(second, words + 4 * MIB, i, CU_STREAM_WAIT_VALUE_GEQ));
    OK(cuMemsetD8Async(words, (unsigned char)i, 64, second));
    OK(cuStreamWriteValue32(first, words + 4 * MIB, i, 0));
    OK(cuStreamSynchronize(second));
    OK(cuMemcpyDtoH(received, words, sizeof received));
    CHECK(received[0] == i && received[63] == i);
  }
  OK(cuStreamDestroy(first));
  OK(cuStreamDestroy(second));
  OK(cuMemFree(words));
}

/* ---- two devices (GBSIM_DEVICES=2) ---- */

static void case_devices(void) {
  CUcontext contexts[2];
  CUdeviceptr memory[2];
  CUstream stream;
  enum { BYTES = 6 << 20 };
  unsigned char *sent = malloc(BYTES), *received = malloc(BYTES);
  for (int i = 0; i < 2; i++) {
    OK(cuCtxCreate_v2(&contexts[i], 0, i));
    OK(cuMemAlloc(&memory[i], BYTES));
    int ordinal = -1;
    OK(cuPointerGetAttribute(&ordinal, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, memory[i]));
    CHECK(ordinal == i);
  }
  OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
#define ACROSS(seed, copy)                                   \
  do {                                                       \
    pattern(sent, BYTES, seed);                              \
    OK(cuMemcpyHtoD(memory[0], sent, BYTES));                \
    OK(cuMemsetD8(memory[1], 0, BYTES));                     \
    OK(cuCtxSynchronize());                                  \
    OK(copy);                                                \
    OK(cuStreamSynchronize(stream));                         \
    OK(cuMemcpyDtoH(received, memory[1], BYTES));            \
    CHECK(memcmp(sent, received, BYTES) == 0);               \
  } while (0)
  ACROSS(1, cuMemcpyDtoD(memory[1], memory[0], BYTES));
  ACROSS(2, cuMemcpyDtoDAsync(memory[1], memory[0], BYTES, stream));
  ACROSS(3, cuMemcpy(memory[1], memory[0], BYTES));
  ACROSS(4, cuMemcpyAsync(memory[1], memory[0], BYTES, stream));
  OK(cuStreamDestroy(stream));
  for (int i = 0; i < 2; i++) OK(cuCtxDestroy(contexts[i]));
  free(sent);
  free(received);
}

/* ---- threads ---- */

static void *work(void *argument) {
  unsigned seed = (unsigned)(uintptr_t)argument;
  unsigned char sent[4096], received[4096];
  if (cuCtxSetCurrent(context) != CUDA_SUCCESS) return (void *)1;
  for (unsigned i = 0; i < 200; i++) {
    CUdeviceptr pointer;
    pattern(sent, sizeof sent, seed + i);
    if (cuMemAlloc(&pointer, (i % 3 + 1) * MIB) != CUDA_SUCCESS) return (void *)2;
    if (cuMemcpyHtoD(pointer + 512, sent, sizeof sent) != CUDA_SUCCESS) return (void *)3;
    if (cuMemcpyDtoH(received, pointer + 512, sizeof received) != CUDA_SUCCESS) return (void *)4;
    if (memcmp(sent, received, sizeof sent) != 0) return (void *)5;
    if (cuMemFree(pointer) != CUDA_SUCCESS) return (void *)6;
  }
  return NULL;
}

static void case_threads(void) {
  enum { THREADS = 8 };
  pthread_t threads[THREADS];
  size_t before = free_bytes();
  for (int i = 0; i < THREADS; i++)
    CHECK(pthread_create(&threads[i], NULL, work, (void *)(uintptr_t)(i * 1000)) == 0);
  for (int i = 0; i < THREADS; i++) {
    void *result = NULL;
    CHECK(pthread_join(threads[i], &result) == 0 && result == NULL);
  }
  CHECK(free_bytes() == before);
}

static const struct {
  const char *name;
  void (*run)(void);
} cases[] = {
    {"app-vmm", case_app_vmm},   {"app-vmm-special", case_app_vmm_special},
    {"pools", case_pools},       {"managed", case_managed},
    {"arrays", case_arrays},     {"pinned", case_pinned},
    {"sizes", case_sizes},       {"identity", case_identity},
    {"copies", case_copies},     {"contexts", case_contexts},
    {"capture", case_capture},   {"threads", case_threads},
    {"refusals", case_refusals}, {"second-try", case_second_try},
    {"vacate", case_vacate},     {"words", case_words},
    {"devices", case_devices},   {"remapped", case_remapped},
    {"remapped-contexts", case_remapped_contexts},
};

int main(int argc, char **argv) {
  for (size_t i = 0; argc == 2 && i < sizeof cases / sizeof cases[0]; i++) {
    if (strcmp(argv[1], cases[i].name) != 0) continue;
    start();
    cases[i].run();
    return failures == 0 ? 0 : 1;
  }
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) printf("%s\n", cases[i].name);
  return argc == 1 ? 0 : 2;
}
