/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fixed.c: memory of the program's own handles that others reach, or that is mapped where it cannot be
 * moved: it stays in one place from there on, and everybody sees the same bytes. Under the shim with
 * GREENBOOST_VRAM_BUDGET=96MiB and GREENBOOST_RAM_BUDGET=288MiB.
 */
#include <fcntl.h>
#include <sys/wait.h>

#include "program.h"

/* ---- another process ---- */

static uint64_t word_at(CUdeviceptr at) {
  uint64_t word = 0;
  OK(cuMemcpyDtoH(&word, at, sizeof word));
  return word;
}

/* Another process: imports the descriptor, checks a word, writes one. */
static int peer(int descriptor, uint64_t bytes) {
  CUmemGenericAllocationHandle handle;
  CUdeviceptr at;
  const uint64_t word = 4321;
  soak_open(module_path, 60);
  OK(cuCtxGetDevice(&device));
  OK(cuMemImportFromShareableHandle(&handle, (void *)(uintptr_t)descriptor,
                                    CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
  OK(cuMemAddressReserve(&at, bytes, 0, 0, 0));
  OK(cuMemMap(at, bytes, 0, handle, 0));
  grant(at, bytes, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
  CHECK(word_at(at + bytes - 8) == 1234, "the exporter's word");
  OK(cuMemcpyHtoD(at, &word, sizeof word));
  OK(cuMemUnmap(at, bytes));
  OK(cuMemRelease(handle));
  return check_failures != 0;
}

static int run_peer(int descriptor, uint64_t bytes) {
  char number[16], size[24];
  snprintf(number, sizeof number, "%d", descriptor);
  snprintf(size, sizeof size, "%llu", (unsigned long long)bytes);
  fcntl(descriptor, F_SETFD, 0);
  const pid_t child = fork();
  if (child == 0) {
    execl("/proc/self/exe", "program", module_path, "peer", number, size, NULL);
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
    CHECK(run_peer(descriptor, bytes) == 0, "the peer failed");
    close(descriptor);
    CHECK(word_at(base + shared * bytes) == 4321, "the peer's word");
    CHECK(word_at(base + 8 * bytes) == 4321, "the peer's word at the second place");
    tensors[shared].host[0][0] = 4321;
    OK(cuMemUnmap(base + 8 * bytes, bytes));
  }
  for (unsigned i = 0; i < 8; i++) verify(&tensors[i]);
}

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
    {"outside", case_outside},
    {"captures", case_captures},
};

int main(int count, char **arguments) {
  module_path = arguments[1];
  if (count == 5) return peer(atoi(arguments[3]), strtoull(arguments[4], NULL, 0));
  return run_case(cases, sizeof cases / sizeof cases[0], count, arguments);
}
