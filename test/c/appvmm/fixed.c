/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fixed.c: memory of the program's own handles that others reach, or that is mapped where it cannot be
 * moved: it stays in one place from there on, and everybody sees the same bytes. Under the shim with
 * GREENBOOST_VRAM_BUDGET=96MiB and GREENBOOST_RAM_BUDGET=288MiB.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>

#include "program.h"

/* ---- another process ---- */

static uint64_t word_at(CUdeviceptr at) {
  uint64_t word = 0;
  OK(cuMemcpyDtoH(&word, at, sizeof word));
  return word;
}

/* Checks the last word of shared memory, writes the first. */
static void use_shared(CUdeviceptr at, uint64_t bytes) {
  const uint64_t word = 4321;
  CHECK(word_at(at + bytes - 8) == 1234, "the exporter's word");
  OK(cuMemcpyHtoD(at, &word, sizeof word));
}

/* An allocation of the exporter's, by legacy CUDA IPC. */
static void use_allocation(const char *digits, uint64_t bytes) {
  CUmemGenericAllocationHandle none;
  CUipcMemHandle handle;
  CUdeviceptr at;
  for (size_t i = 0; i < sizeof handle; i++) {
    unsigned byte = 0;
    CHECK(sscanf(digits + 2 * i, "%2x", &byte) == 1, "digit %zu", i);
    handle.reserved[i] = (char)byte;
  }
  OK(cuIpcOpenMemHandle(&at, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));
  IS(cuMemRetainAllocationHandle(&none, (void *)(uintptr_t)at), CUDA_ERROR_INVALID_VALUE);
  use_shared(at, bytes);
  OK(cuIpcCloseMemHandle(at));
}

/* Another process: imports the descriptor, and opens the allocation if there is one. */
static int peer(int descriptor, uint64_t bytes, const char *digits) {
  CUmemGenericAllocationHandle handle;
  CUdeviceptr at;
  soak_open(module_path, 60);
  OK(cuCtxGetDevice(&device));
  OK(cuMemImportFromShareableHandle(&handle, (void *)(uintptr_t)descriptor,
                                    CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
  OK(cuMemAddressReserve(&at, bytes, 0, 0, 0));
  OK(cuMemMap(at, bytes, 0, handle, 0));
  grant(at, bytes, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
  use_shared(at, bytes);
  if (digits[0] != '\0') use_allocation(digits, bytes);
  OK(cuMemUnmap(at, bytes));
  OK(cuMemRelease(handle));
  return check_failures != 0;
}

/* allocation: of as many bytes, or NULL. */
static int run_peer(int descriptor, uint64_t bytes, const CUipcMemHandle *allocation) {
  char number[16], size[24], digits[2 * sizeof *allocation + 1] = "";
  snprintf(number, sizeof number, "%d", descriptor);
  snprintf(size, sizeof size, "%llu", (unsigned long long)bytes);
  for (size_t i = 0; allocation != NULL && i < sizeof *allocation; i++)
    snprintf(digits + 2 * i, 3, "%02x", (unsigned char)allocation->reserved[i]);
  fcntl(descriptor, F_SETFD, 0);
  const pid_t child = fork();
  if (child == 0) {
    execl("/proc/self/exe", "program", module_path, "peer", number, size, digits, NULL);
    _exit(127);
  }
  int status = -1;
  waitpid(child, &status, 0);
  return status;
}

/* Exported after it was moved, while the program works on: one place from there on, for everybody. */
static void case_export(void) {
  static struct tensor tensors[8];
  CUmemGenericAllocationHandle handles[8];
  CUdeviceptr base;
  const uint64_t bytes = 18 * MIB, word = 1234;
  int descriptor = -1;
  OK(cuMemAddressReserve(&base, 9 * bytes, 0, 0, 0));
  for (unsigned i = 0; i < 8; i++) {
    handles[i] = map_new(base + i * bytes, bytes, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
    fill(&tensors[i], base + i * bytes, bytes, (unsigned char)i);
  }
  for (unsigned round = 0; round < 40; round++) {
    for (unsigned i = 0; i < 8; i++) mix(&tensors[(i + 1) % 8], &tensors[i], round);
    if (round % 10 != 5) continue;
    const unsigned shared = round / 10;
    OK(cuMemExportToShareableHandle(&descriptor, handles[shared],
                                    CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
    OK(cuMemMap(base + 8 * bytes, bytes, 0, handles[shared], 0)); /* a second place here, too */
    grant(base + 8 * bytes, bytes, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
    OK(cuStreamSynchronize(CU_STREAM_PER_THREAD));
    OK(cuMemcpyHtoD(base + shared * bytes + bytes - 8, &word, sizeof word));
    tensors[shared].host[1][PART - 1] = word;
    OK(cuCtxSynchronize());
    CHECK(run_peer(descriptor, bytes, NULL) == 0, "the peer failed");
    close(descriptor);
    CHECK(word_at(base + shared * bytes) == 4321, "the peer's word");
    CHECK(word_at(base + 8 * bytes) == 4321, "the peer's word at the second place");
    tensors[shared].host[0][0] = 4321;
    OK(cuMemUnmap(base + 8 * bytes, bytes));
  }
  for (unsigned i = 0; i < 8; i++) verify(&tensors[i]);
}

/* ---- both ways of sharing at once ---- */

#define BOTH 8u
#define BOTH_BYTES (4 * MIB)
static struct tensor both[2 * BOTH]; /* of own handles, of cuMemAlloc */
static CUmemGenericAllocationHandle both_handles[BOTH];
static CUipcMemHandle both_shared[BOTH];
static int both_descriptors[BOTH];
static _Atomic unsigned at_work;

static void *share_handles(void *unused) {
  OK(cuCtxSetCurrent(soak_context));
  for (unsigned i = 0; i < BOTH; i++) {
    OK(cuMemExportToShareableHandle(&both_descriptors[i], both_handles[i],
                                    CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
    soak_sleep_us(10000);
  }
  at_work--;
  return unused;
}

static void *share_allocations(void *unused) {
  OK(cuCtxSetCurrent(soak_context));
  for (unsigned i = 0; i < BOTH; i++) {
    OK(cuIpcGetMemHandle(&both_shared[i], both[BOTH + i].at));
    soak_sleep_us(10000);
  }
  at_work--;
  return unused;
}

/* Two threads share, handles and allocations, while a third works on all of them. Handles made when
 * VRAM was full have to move to be shared, like every allocation: under the calls of the third. */
static void case_both(void) {
  CUdeviceptr base, filler, at;
  CUmemGenericAllocationHandle none;
  CUipcMemHandle refused;
  pthread_t threads[2];
  const uint64_t word = 1234;
  unsigned round = 0;
  OK(cuMemAlloc(&filler, 88 * MIB));
  OK(cuMemAddressReserve(&base, BOTH * BOTH_BYTES, 0, 0, 0));
  for (unsigned i = 0; i < BOTH; i++) {
    both_handles[i] = map_new(base + i * BOTH_BYTES, BOTH_BYTES,
                              CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
    fill(&both[i], base + i * BOTH_BYTES, BOTH_BYTES, (unsigned char)i);
  }
  OK(cuMemFree(filler));
  for (unsigned i = BOTH; i < 2 * BOTH; i++) {
    OK(cuMemAlloc(&at, BOTH_BYTES));
    fill(&both[i], at, BOTH_BYTES, (unsigned char)i);
  }
  IS(cuIpcGetMemHandle(&refused, base), CUDA_ERROR_INVALID_VALUE);
  at_work = 2;
  pthread_create(&threads[0], NULL, share_handles, NULL);
  pthread_create(&threads[1], NULL, share_allocations, NULL);
  for (; at_work > 0 || round < 4; round++)
    for (unsigned i = 0; i < 2 * BOTH; i++) {
      mix(&both[(i + round) % (2 * BOTH)], &both[i], round);
      if (i % 8 == 7) OK(cuStreamSynchronize(CU_STREAM_PER_THREAD));
    }
  for (unsigned i = 0; i < 2; i++) pthread_join(threads[i], NULL);
  for (unsigned i = 0; i < 2 * BOTH; i++) verify(&both[i]);
  IS(cuMemRetainAllocationHandle(&none, (void *)(uintptr_t)at), CUDA_ERROR_INVALID_VALUE);
  for (unsigned i = 0; i < BOTH; i += BOTH / 2) {
    struct tensor *shared[] = {&both[i], &both[BOTH + i]};
    for (unsigned k = 0; k < 2; k++)
      OK(cuMemcpyHtoD(shared[k]->at + BOTH_BYTES - 8, &word, sizeof word));
    CHECK(run_peer(both_descriptors[i], BOTH_BYTES, &both_shared[i]) == 0, "the peer failed");
    for (unsigned k = 0; k < 2; k++) CHECK(word_at(shared[k]->at) == 4321, "the peer's word");
  }
  for (unsigned i = 0; i < BOTH; i++) {
    close(both_descriptors[i]);
    OK(cuMemRelease(both_handles[i]));
    OK(cuMemFree(both[BOTH + i].at));
  }
  OK(cuMemUnmap(base, BOTH * BOTH_BYTES));
  OK(cuMemAddressFree(base, BOTH * BOTH_BYTES));
}

/* ---- outside the arena ---- */

/* A reservation at an address of the program's choice is the driver's: what is mapped there stays. */
static void case_outside(void) {
  static struct tensor tensors[12];
  const CUdeviceptr wanted = 0x530000000000ull;
  const uint64_t bytes = 10 * MIB;
  CUdeviceptr base, outside;
  OK(cuMemAddressReserve(&outside, 12 * bytes, 0, wanted, 0));
  CHECK(outside == wanted, "reserved at 0x%llx", outside);
  OK(cuMemAddressReserve(&base, 12 * bytes, 0, wanted, 0)); /* taken: any other will do */
  for (unsigned i = 0; i < 12; i++) {
    const CUdeviceptr at = (i % 2 == 0 ? base : outside) + i * bytes;
    OK(cuMemRelease(map_new(at, bytes, CU_MEM_HANDLE_TYPE_NONE)));
    fill(&tensors[i], at, bytes, (unsigned char)i);
  }
  for (unsigned round = 0; round < 30; round++)
    for (unsigned i = 0; i < 12; i++) mix(&tensors[(i + 5) % 12], &tensors[i], round);
  for (unsigned i = 0; i < 12; i++) verify(&tensors[i]);
  OK(cuStreamSynchronize(CU_STREAM_PER_THREAD));
  for (unsigned i = 0; i < 12; i++) OK(cuMemUnmap(tensors[i].at, bytes));
  OK(cuMemAddressFree(outside, 12 * bytes));
  OK(cuMemAddressFree(base, 12 * bytes));
}

/* ---- captures ---- */

/* Mapped, unmapped and replayed around a capture; what has to be moved to be exported is not then. */
static void case_captures(void) {
  static struct tensor tensors[10];
  CUmemGenericAllocationHandle handles[10];
  CUdeviceptr base;
  CUstream stream;
  CUgraph graph = NULL;
  CUgraphExec exec = NULL;
  const uint64_t bytes = 16 * MIB;
  int descriptor = -1;
  OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  OK(cuMemAddressReserve(&base, 12 * bytes, 0, 0, 0));
  for (unsigned i = 0; i < 10; i++) {
    handles[i] = map_new(base + i * bytes, bytes, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
    fill(&tensors[i], base + i * bytes, bytes, (unsigned char)i);
  }
  for (unsigned round = 0; round < 20; round++)
    for (unsigned i = 0; i < 10; i++) mix(&tensors[(i + 1) % 10], &tensors[i], round);
  OK(cuStreamSynchronize(CU_STREAM_PER_THREAD));
  OK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
  for (unsigned i = 0; i < 10; i++) {
    OK(soak_launch_mix(tensors[9 - i].at, tensors[i].at, PART, i, stream));
    soak_mix_host(tensors[9 - i].host[0], tensors[i].host[0], PART, i);
  }
  const CUmemGenericAllocationHandle extra =
      map_new(base + 10 * bytes, 2 * bytes, CU_MEM_HANDLE_TYPE_NONE);
  IS(cuMemExportToShareableHandle(&descriptor, handles[9], CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
                                  0),
     CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  OK(cuStreamEndCapture(stream, &graph));
  OK(cuGraphInstantiate(&exec, graph, 0));
  OK(cuGraphLaunch(exec, stream));
  OK(cuStreamSynchronize(stream));
  OK(cuMemExportToShareableHandle(&descriptor, handles[9], CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
                                  0));
  for (unsigned i = 0; i < 10; i++) verify(&tensors[i]);
  OK(cuMemUnmap(base + 10 * bytes, 2 * bytes));
  OK(cuMemRelease(extra));
}

static const struct named_case cases[] = {
    {"export", case_export},
    {"both", case_both},
    {"outside", case_outside},
    {"captures", case_captures},
};

int main(int count, char **arguments) {
  module_path = arguments[1];
  if (count == 6) return peer(atoi(arguments[3]), strtoull(arguments[4], NULL, 0), arguments[5]);
  return run_case(cases, sizeof cases / sizeof cases[0], count, arguments);
}
