/* SPDX-License-Identifier: Apache-2.0 */
/* sharing.c: memory shared between two processes that both behave. */
#include <pthread.h>

#include "pair.h"

#define LARGE (6 * MIB)
#define LARGE_WORDS (LARGE / 8)

/* ---- one large allocation, and what is answered about it ---- */

static void whole_exporter(int link) {
  const CUdeviceptr pointer = alloc(LARGE);
  int capable = 0;
  CUipcMemHandle handle, again;
  fill(pointer, LARGE_WORDS, 1);
  OK(cuPointerGetAttribute(&capable, CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE, pointer));
  CHECK(capable, "the memory says it cannot be shared");
  CHECK(cuIpcGetMemHandle(NULL, pointer) == CUDA_ERROR_INVALID_VALUE, "no handle");
  OK(cuIpcGetMemHandle(&handle, pointer));
  OK(cuIpcGetMemHandle(&again, pointer + 4096)); /* interior pointers name their allocation */
  CHECK(memcmp(&handle, &again, sizeof handle) == 0, "one allocation, two handles");
  CHECK(try_open(&handle) == CUDA_ERROR_INVALID_CONTEXT, "opened by the process itself");
  expect(pointer, LARGE_WORDS, 1);
  say(link, &handle, sizeof handle);
  meet(link); /* the peer has written */
  expect(pointer, LARGE_WORDS, 2);
  OK(cuMemFree(pointer));
  CHECK(cuIpcGetMemHandle(&handle, pointer) == CUDA_ERROR_INVALID_VALUE, "a handle of nothing");
  const CUdeviceptr other = alloc(LARGE); /* not in pages that the peer has */
  fill(other, LARGE_WORDS, 9);
  meet(link);
  meet(link);
  OK(cuMemFree(other));
}

static void whole_peer(int link) {
  CUipcMemHandle handle;
  CUdeviceptr pointer = 0, again = 0, base = 0;
  CUcontext context = NULL, own = NULL;
  size_t bytes = 0, range = 0;
  unsigned type = 0;
  int capable = 0;
  hear(link, &handle, sizeof handle);
  CHECK(cuIpcOpenMemHandle(&pointer, handle, 2) == CUDA_ERROR_INVALID_VALUE, "flags");
  OK(cuIpcOpenMemHandle(&pointer, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));
  OK(cuIpcOpenMemHandle(&again, handle, 0));
  CHECK(pointer == again, "opened twice, two addresses");
  OK(cuMemGetAddressRange(&base, &bytes, pointer + 100));
  CHECK(base == pointer && bytes == LARGE, "range of %zu bytes", bytes);
  CUpointer_attribute attributes[] = {
      CU_POINTER_ATTRIBUTE_CONTEXT, CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
      CU_POINTER_ATTRIBUTE_RANGE_SIZE, CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE};
  void *data[] = {&context, &type, &range, &capable};
  OK(cuPointerGetAttributes(4, attributes, data, pointer + 8));
  OK(cuCtxGetCurrent(&own));
  CHECK(context == own && type == CU_MEMORYTYPE_DEVICE && range == LARGE && !capable,
        "attributes: %p, %u, %zu, %d", (void *)context, type, range, capable);
  expect(pointer, LARGE_WORDS, 1);
  fill(pointer, LARGE_WORDS, 2);
  meet(link);
  CHECK(cuMemFree(pointer) != CUDA_SUCCESS, "a peer frees what is not its own");
  meet(link); /* freed by its owner: still mapped here */
  expect(pointer, LARGE_WORDS, 2);
  CHECK(cuIpcCloseMemHandle(pointer + 512) != CUDA_SUCCESS, "an interior pointer was closed");
  OK(cuIpcCloseMemHandle(pointer));
  expect(pointer, LARGE_WORDS, 2);
  OK(cuIpcCloseMemHandle(pointer));
  CHECK(cuIpcCloseMemHandle(pointer) != CUDA_SUCCESS, "closed three times, opened twice");
  CHECK(cuMemcpyDtoH(&type, pointer, 4) != CUDA_SUCCESS, "still there after it was closed");
  CHECK(try_open(&handle) == CUDA_ERROR_INVALID_HANDLE, "freed memory was opened");
  meet(link);
}

/* ---- kernels of both at the same time, while everything else is moved ---- */

#define BUFFERS 28
#define WORDS (2 * MIB / 8)
#define HALF (WORDS / 2)
#define ROUNDS 24
#define PEER_ROUNDS 400
static const int shared[] = {3, 11, 20};
enum { SHARED = sizeof shared / sizeof shared[0] };

static uint64_t *model[BUFFERS];
static CUdeviceptr buffers[BUFFERS];

static void round_over_all(uint64_t seed) {
  for (int i = 0; i < BUFFERS; i++) {
    const int from = (i + 1) % BUFFERS;
    OK(soak_launch_mix(buffers[i], buffers[from], HALF, seed, NULL));
    soak_mix_host(model[i], model[from], HALF, seed);
  }
}

static uint64_t sum_of(const uint64_t *words, uint64_t count) {
  uint64_t sum = 0;
  for (uint64_t i = 0; i < count; i++) sum = sum * 31 + words[i];
  return sum;
}

static void compare(CUdeviceptr pointer, const uint64_t *wanted, uint64_t words, int which) {
  uint64_t *got = malloc(words * 8);
  OK(cuMemcpyDtoH(got, pointer, words * 8));
  CHECK(memcmp(got, wanted, words * 8) == 0, "buffer %d differs", which);
  free(got);
}

static void concurrent_exporter(int link) {
  for (int i = 0; i < BUFFERS; i++) {
    model[i] = malloc(WORDS * 8);
    buffers[i] = alloc(WORDS * 8);
    for (uint64_t word = 0; word < WORDS; word++) model[i][word] = word_of((uint64_t)i, word);
    OK(cuMemcpyHtoD(buffers[i], model[i], WORDS * 8));
  }
  for (uint64_t round = 0; round < ROUNDS; round++) round_over_all(round);
  for (int i = 0; i < SHARED; i++) { /* in the middle of it */
    say_handle(link, buffers[shared[i]]);
    round_over_all(100 + (uint64_t)i);
  }
  for (uint64_t round = 0; round < ROUNDS; round++) round_over_all(200 + round);
  OK(cuCtxSynchronize());
  meet(link);
  for (int i = 0; i < BUFFERS; i++) compare(buffers[i], model[i], HALF, i);
  for (int i = 0; i < SHARED; i++) { /* the peer's halves, by the peer's figures */
    uint64_t wanted = 0;
    uint64_t *got = malloc(HALF * 8);
    OK(cuMemcpyDtoH(got, buffers[shared[i]] + HALF * 8, HALF * 8));
    hear(link, &wanted, sizeof wanted);
    CHECK(sum_of(got, HALF) == wanted, "the peer's half of buffer %d differs", shared[i]);
    wanted = sum_of(model[shared[i]], HALF);
    say(link, &wanted, sizeof wanted);
    free(got);
  }
  for (uint64_t round = 0; round < 4; round++) round_over_all(300 + round); /* and all goes on */
  OK(cuCtxSynchronize());
  for (int i = 0; i < BUFFERS; i++) compare(buffers[i], model[i], HALF, i);
  meet(link);
  for (int i = 0; i < BUFFERS; i++) OK(cuMemFree(buffers[i]));
}

static void concurrent_peer(int link) {
  uint64_t *own = malloc(HALF * 8), *halves[SHARED];
  CUdeviceptr memory[SHARED];
  const CUdeviceptr source = alloc(HALF * 8);
  fill(source, HALF, 77);
  for (uint64_t i = 0; i < HALF; i++) own[i] = word_of(77, i);
  for (int i = 0; i < SHARED; i++) {
    memory[i] = open_next(link);
    halves[i] = malloc(HALF * 8);
    for (uint64_t k = 0; k < HALF; k++) halves[i][k] = word_of((uint64_t)shared[i], HALF + k);
  }
  for (uint64_t round = 0; round < PEER_ROUNDS; round++) {
    const int i = (int)(round % SHARED);
    const uint64_t words = round < PEER_ROUNDS / 2 ? HALF : 1000;
    OK(soak_launch_mix(memory[i] + HALF * 8, source, words, round, NULL));
    soak_mix_host(halves[i], own, words, round);
  }
  OK(cuCtxSynchronize());
  meet(link);
  for (int i = 0; i < SHARED; i++) {
    uint64_t theirs = sum_of(halves[i], HALF);
    uint64_t *got = malloc(HALF * 8);
    compare(memory[i] + HALF * 8, halves[i], HALF, shared[i]);
    say(link, &theirs, sizeof theirs);
    OK(cuMemcpyDtoH(got, memory[i], HALF * 8));
    hear(link, &theirs, sizeof theirs);
    CHECK(sum_of(got, HALF) == theirs, "the exporter's half of buffer %d differs", shared[i]);
    free(got);
    free(halves[i]);
    OK(cuIpcCloseMemHandle(memory[i]));
  }
  meet(link);
  OK(cuMemFree(source));
  free(own);
}

/* ---- exports while another thread's kernels run: no update may be lost ---- */

#define MOVED 12 /* of the buffers, one after the other */
#define POKED (HALF + 5)
#define LINGER_NS 300000ull

static uint64_t sums[BUFFERS];
static _Atomic bool stop;

/* Kernels that hold a word while they linger, their buffer named in a table only; now and then a
 * round that staging follows. */
static void *keep_busy(void *unused) {
  uint64_t rows[BUFFERS], word = POKED, linger = LINGER_NS;
  CUstream stream;
  OK(cuCtxSetCurrent(soak_context));
  OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  CUdeviceptr table = alloc(sizeof rows);
  for (int i = 0; i < BUFFERS; i++) rows[i] = buffers[i];
  OK(cuMemcpyHtoD(table, rows, sizeof rows));
  for (uint64_t n = 0; !stop; n++) {
    uint64_t row = n % MOVED, amount = n + 1;
    void *params[] = {&table, &row, &word, &amount, &linger};
    OK(soak_launch(soak_poke, stream, params));
    sums[row] += amount;
    if (n % 32 != 31) continue;
    for (int i = 0; i < BUFFERS; i++)
      OK(soak_launch_mix(buffers[i], buffers[(i + 1) % BUFFERS], 64, n, stream));
    OK(cuStreamSynchronize(stream));
  }
  OK(cuStreamSynchronize(stream));
  OK(cuStreamDestroy(stream));
  OK(cuMemFree(table));
  return unused;
}

static void moved_exporter(int link) {
  pthread_t thread;
  for (int i = 0; i < BUFFERS; i++) {
    buffers[i] = alloc(WORDS * 8);
    OK(cuMemsetD8(buffers[i], 0, WORDS * 8));
  }
  pthread_create(&thread, NULL, keep_busy, NULL);
  for (int i = 0; i < MOVED; i++) {
    soak_sleep_us(20000);
    say_handle(link, buffers[i]);
  }
  stop = true;
  pthread_join(thread, NULL);
  for (int i = 0; i < MOVED; i++) {
    uint64_t got = 0;
    OK(cuMemcpyDtoH(&got, buffers[i] + POKED * 8, 8));
    CHECK(got == sums[i], "an update of buffer %d is lost: %llu of %llu", i,
          (unsigned long long)got, (unsigned long long)sums[i]);
    say(link, &sums[i], 8);
  }
  meet(link);
  for (int i = 0; i < BUFFERS; i++) OK(cuMemFree(buffers[i]));
}

static void moved_peer(int link) {
  CUdeviceptr pointers[MOVED];
  for (int i = 0; i < MOVED; i++) pointers[i] = open_next(link);
  for (int i = 0; i < MOVED; i++) {
    uint64_t wanted = 0, got = 0;
    hear(link, &wanted, 8);
    OK(cuMemcpyDtoH(&got, pointers[i] + POKED * 8, 8));
    CHECK(got == wanted, "buffer %d is another one", i);
  }
  meet(link);
}

/* ---- small allocations ---- */

#define SMALLS 60
static uint64_t small_words(int i) { return 10 + (uint64_t)i * 37; }

static void small_exporter(int link) {
  CUdeviceptr pointers[SMALLS], other;
  CUipcMemHandle handle;
  for (int i = 0; i < SMALLS; i++) {
    pointers[i] = alloc(small_words(i) * 8);
    fill(pointers[i], small_words(i), (uint64_t)i);
  }
  for (int i = 0; i < SMALLS; i++) say_handle(link, pointers[i]);
  meet(link);
  for (int i = 0; i < SMALLS; i++) expect(pointers[i], small_words(i), 1000 + (uint64_t)i);
  /* The place of a freed one goes to another: its handle must not reach that. */
  OK(cuIpcGetMemHandle(&handle, pointers[5]));
  OK(cuMemFree(pointers[5]));
  other = alloc(small_words(5) * 8);
  CHECK(other == pointers[5], "the test wants the same place again");
  say(link, &handle, sizeof handle);
  meet(link);
  OK(cuMemFree(other));
  for (int i = 0; i < SMALLS; i++)
    if (i != 5) OK(cuMemFree(pointers[i]));
}

static void small_peer(int link) {
  CUdeviceptr pointers[SMALLS];
  CUipcMemHandle handle;
  size_t bytes = 0;
  for (int i = 0; i < SMALLS; i++) pointers[i] = open_next(link);
  for (int i = 0; i < SMALLS; i++) {
    OK(cuMemGetAddressRange(NULL, &bytes, pointers[i]));
    CHECK(bytes == small_words(i) * 8, "%zu bytes", bytes);
    expect(pointers[i], small_words(i), (uint64_t)i);
    fill(pointers[i], small_words(i), 1000 + (uint64_t)i);
  }
  meet(link);
  for (int i = 0; i < SMALLS; i++) OK(cuIpcCloseMemHandle(pointers[i]));
  hear(link, &handle, sizeof handle);
  CHECK(try_open(&handle) == CUDA_ERROR_INVALID_HANDLE, "a freed small allocation was opened");
  meet(link);
}

/* ---- many ---- */

#define MANY 512
#define MANY_BYTES (2 * MIB)

static void many_exporter(int link) {
  static CUdeviceptr pointers[MANY + 1];
  CUipcMemHandle handle;
  for (int i = 0; i <= MANY; i++) {
    pointers[i] = alloc(MANY_BYTES);
    fill(pointers[i], 4, (uint64_t)i);
  }
  for (int i = 0; i < MANY; i++) say_handle(link, pointers[i]);
  CHECK(cuIpcGetMemHandle(&handle, pointers[MANY]) == CUDA_ERROR_OUT_OF_MEMORY, "no limit");
  meet(link);
  OK(cuMemFree(pointers[0]));
  OK(cuIpcGetMemHandle(&handle, pointers[MANY])); /* its place is free again */
  for (int i = 1; i <= MANY; i++) OK(cuMemFree(pointers[i]));
}

static void many_peer(int link) {
  static CUdeviceptr pointers[MANY];
  for (int i = 0; i < MANY; i++) pointers[i] = open_next(link);
  for (int i = 0; i < MANY; i++) expect(pointers[i], 4, (uint64_t)i);
  meet(link);
  for (int i = 0; i < MANY; i += 2) OK(cuIpcCloseMemHandle(pointers[i]));
} /* the others go with the context */

/* ---- two devices ---- */

static void devices_exporter(int link) {
  const CUdeviceptr pointer = alloc(LARGE);
  fill(pointer, LARGE_WORDS, 3);
  say_handle(link, pointer);
  meet(link);
  expect(pointer, LARGE_WORDS, 4);
  OK(cuMemFree(pointer));
}

static void devices_peer(int link) {
  CUcontext context;
  CUipcMemHandle handle;
  CUdeviceptr pointer = 0, other = 0, again = 0;
  int ordinal = -1;
  hear(link, &handle, sizeof handle);
  OK(cuCtxCreate_v2(&context, 0, 1));
  OK(cuIpcOpenMemHandle(&pointer, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));
  OK(cuPointerGetAttribute(&ordinal, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, pointer));
  CHECK(ordinal == 0, "the memory is said to lie on device %d", ordinal);
  expect(pointer, LARGE_WORDS, 3);
  OK(cuCtxSetCurrent(soak_context)); /* another context opens for itself */
  OK(cuIpcOpenMemHandle(&other, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));
  CHECK(other != pointer, "two contexts, one address");
  fill(other, LARGE_WORDS, 4);
  OK(cuCtxDestroy(context)); /* takes its mapping along */
  CHECK(cuMemGetAddressRange(&again, NULL, pointer) != CUDA_SUCCESS, "open without its context");
  expect(other, LARGE_WORDS, 4);
  OK(cuIpcCloseMemHandle(other));
  meet(link);
}

int main(int argc, char **argv) {
  static const struct pair_case cases[] = {
      {"whole", whole_exporter, whole_peer, 0, 0},
      {"concurrent", concurrent_exporter, concurrent_peer, 0, 0},
      {"moved", moved_exporter, moved_peer, 0, 0},
      {"small", small_exporter, small_peer, 0, 0},
      {"many", many_exporter, many_peer, 0, 0},
      {"devices", devices_exporter, devices_peer, 0, 0},
  };
  return pair_main(argc, argv, cases, sizeof cases / sizeof cases[0]);
}
