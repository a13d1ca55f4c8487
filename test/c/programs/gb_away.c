/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gb_away: holds buffers and does with them what it is told, one command for each line on its standard input, one JSON
 * line in answer, with the milliseconds until the GPU was idle again. For tests and benches that look at where bytes go
 * and what it takes; the end of the input ends it.
 *
 *   fill SEED     writes every buffer from the host; the same seed is the same content in every run
 *   check SEED    reads every buffer back and compares it; "wrong": buffers that differ
 *   change KEY    a kernel changes every word
 *   sum           "sum": checksum over all words, by a kernel
 *   touch         a kernel reads one word of each buffer
 *   crowd BYTES   allocates one more of that size and writes one byte of it: others have to make room
 *   leave         frees it
 *
 * gb_away --bytes 256MiB --buffer-bytes 16MiB
 */
#include "kernels.h"
#include "program.h"

#define BUFFERS_MAX 65536u

static CUdeviceptr *buffers, crowd;
static uint64_t buffer_count, buffer_bytes = 16ull << 20;
static CUfunction update, checksum;
static CUdeviceptr result;
static uint64_t *host; /* one buffer's worth */

static void allocate(uint64_t bytes) {
  buffer_count = bytes / buffer_bytes;
  buffers = buffer_count > BUFFERS_MAX ? NULL : calloc(buffer_count, sizeof *buffers);
  if (buffers == NULL) {
    fprintf(stderr, "too many buffers\n");
    exit(EXIT_USAGE);
  }
  for (uint64_t b = 0; b < buffer_count; b++) CU(cuMemAlloc(&buffers[b], buffer_bytes));
}

static void content(uint64_t b, uint64_t seed) {
  for (uint64_t i = 0; i < buffer_bytes / 8; i++)
    host[i] = mix64((b * buffer_bytes / 8 + i) * 0x9E3779B97F4A7C15ull + seed);
}

static void do_fill(uint64_t seed) {
  for (uint64_t b = 0; b < buffer_count; b++) {
    content(b, seed);
    CU(cuMemcpyHtoD(buffers[b], host, buffer_bytes));
  }
}

static uint64_t do_check(uint64_t seed) {
  uint64_t wrong = 0;
  unsigned char *got = malloc(buffer_bytes);
  for (uint64_t b = 0; b < buffer_count && got != NULL; b++) {
    CU(cuMemcpyDtoH(got, buffers[b], buffer_bytes));
    content(b, seed);
    wrong += memcmp(got, host, buffer_bytes) != 0;
  }
  if (got == NULL) exit(EXIT_DRIVER);
  free(got);
  return wrong;
}

static void do_change(uint64_t key) {
  uint64_t words = buffer_bytes / 8;
  for (uint64_t b = 0; b < buffer_count; b++) {
    void *params[] = {&buffers[b], &words, &key};
    CU(cuLaunchKernel(update, 256, 1, 1, 256, 1, 1, 0, NULL, params, NULL));
  }
}

/* The checksum of the first `words` of every buffer. */
static uint64_t do_sum(uint64_t words) {
  uint64_t sum = 0;
  CU(cuMemcpyHtoD(result, &sum, sizeof sum));
  for (uint64_t b = 0; b < buffer_count; b++) {
    void *params[] = {&buffers[b], &words, &result};
    CU(cuLaunchKernel(checksum, 256, 1, 1, 256, 1, 1, 0, NULL, params, NULL));
  }
  CU(cuMemcpyDtoH(&sum, result, sizeof sum));
  return sum;
}

static void do_leave(void) {
  if (crowd != 0) CU(cuMemFree(crowd));
  crowd = 0;
}

static void do_crowd(uint64_t bytes) {
  do_leave();
  CU(cuMemAlloc(&crowd, bytes));
  CU(cuMemsetD8(crowd, 1, 1));
}

/* Does one command. returns: what it found, for the commands that find something. */
static uint64_t do_command(const char *name, const char *argument) {
  uint64_t number = strtoull(argument, NULL, 10);
  if (strcmp(name, "fill") == 0) do_fill(number);
  else if (strcmp(name, "check") == 0) return do_check(number);
  else if (strcmp(name, "change") == 0) do_change(number);
  else if (strcmp(name, "sum") == 0) return do_sum(buffer_bytes / 8);
  else if (strcmp(name, "touch") == 0) do_sum(1);
  else if (strcmp(name, "crowd") == 0) do_crowd(parse_bytes(argument));
  else if (strcmp(name, "leave") == 0) do_leave();
  else {
    fprintf(stderr, "no such command: %s\n", name);
    exit(EXIT_USAGE);
  }
  return 0;
}

static void answer(const char *name, uint64_t found, double milliseconds) {
  printf("{\"did\":\"%s\"", name);
  if (strcmp(name, "check") == 0) printf(",\"wrong\":%llu", (unsigned long long)found);
  if (strcmp(name, "sum") == 0) printf(",\"sum\":\"%016llx\"", (unsigned long long)found);
  printf(",\"milliseconds\":%.3f}\n", milliseconds);
  fflush(stdout);
}

static void open_all(uint64_t bytes) {
  CUmodule module;
  open_context(0);
  CU(cuModuleLoadData(&module, test_kernels));
  update = load_kernel(module, "gb_update");
  checksum = load_kernel(module, "gb_checksum");
  CU(cuMemAlloc(&result, 8));
  allocate(bytes);
  host = malloc(buffer_bytes);
  if (host == NULL) exit(EXIT_DRIVER);
}

int main(int argc, char **argv) {
  uint64_t bytes = 256ull << 20;
  char line[128], name[32], argument[64];
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "--bytes") == 0) bytes = parse_bytes(option_value(argc, argv, &i));
    else if (strcmp(argv[i], "--buffer-bytes") == 0) buffer_bytes = parse_bytes(option_value(argc, argv, &i));
    else {
      fprintf(stderr, "usage: gb_away [--bytes 256MiB] [--buffer-bytes 16MiB]\n");
      return EXIT_USAGE;
    }
  }
  if (buffer_bytes < 8 || buffer_bytes % 8 != 0 || bytes < buffer_bytes) return EXIT_USAGE;
  open_all(bytes);
  answer("start", 0, 0);
  while (fgets(line, sizeof line, stdin) != NULL) {
    argument[0] = '\0';
    if (sscanf(line, "%31s %63s", name, argument) < 1) continue;
    const double start = now_ms();
    uint64_t found = do_command(name, argument);
    CU(cuCtxSynchronize());
    answer(name, found, now_ms() - start);
  }
  do_leave();
  for (uint64_t b = 0; b < buffer_count; b++) CU(cuMemFree(buffers[b]));
  return 0;
}
