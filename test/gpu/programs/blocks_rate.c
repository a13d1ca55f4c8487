/* SPDX-License-Identifier: Apache-2.0 */
/*
 * blocks_rate.c: what it takes to find changed blocks (driver/blocks), as its callers see it: from a call to its
 * return, the best of some. blocks_rate BYTES REPEATS: a range of so many bytes, and what a crossing of a model has:
 * ten ranges of 2 MiB with 64 KiB changed in each. Runs on a GPU and on the simulated driver, whose figures mean
 * nothing.
 */
#include <time.h>

#include "harness.h"

#define RANGES 10u
#define RANGE_BYTES (2ull << 20)
#define CHANGED_BYTES (64ull << 10)

static CUstream stream;
static struct gb_blocks *engine;

static double now_micros(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static void must(CUresult result, const char *what) {
  if (result == CUDA_SUCCESS) return;
  fprintf(stderr, "%s: CUDA error %d\n", what, result);
  exit(1);
}

static void fill(CUdeviceptr address, unsigned char value, uint64_t bytes) {
  must(cuMemsetD8_v2(address, value, bytes), "cuMemsetD8");
  must(cuCtxSynchronize(), "cuCtxSynchronize");
}

static void better(double *best, double micros) {
  if (*best == 0 || micros < *best) *best = micros;
}

/* A range in which nothing has changed: reading it is all there is to do. returns: bytes a second. */
static double hash_rate(uint64_t bytes, uint32_t repeats) {
  CUdeviceptr memory = 0;
  struct gb_blocks_range *range = NULL;
  struct gb_blocks_run *runs = NULL;
  uint32_t count = 0;
  double best = 0;
  must(cuMemAlloc_v2(&memory, bytes), "cuMemAlloc");
  fill(memory, 1, bytes);
  must(gb_blocks_track(engine, memory, bytes, &range), "track");
  for (uint32_t i = 0; i < repeats + 1; i++) {
    const double start = now_micros();
    must(collect_whole(engine, &range, 1, &runs, &count), "collect");
    if (i > 0) better(&best, now_micros() - start);
    if ((count != 0) != (i == 0)) must(CUDA_ERROR_UNKNOWN, "what has changed");
    free(runs);
  }
  gb_blocks_untrack(engine, range);
  cuMemFree_v2(memory);
  return (double)bytes / best * 1e6;
}

struct crossing {
  double collect, copy_out, copy_in, arrived; /* microseconds */
};

static struct crossing crossing_time(uint32_t repeats) {
  struct gb_blocks_range *ranges[RANGES];
  struct crossing best = {0};
  CUdeviceptr memory = 0;
  void *host = NULL;
  must(cuMemHostAlloc(&host, RANGES * CHANGED_BYTES, 0), "cuMemHostAlloc");
  must(cuMemAlloc_v2(&memory, RANGES * RANGE_BYTES), "cuMemAlloc");
  fill(memory, 0, RANGES * RANGE_BYTES);
  for (uint32_t i = 0; i < RANGES; i++)
    must(gb_blocks_track(engine, memory + i * RANGE_BYTES, RANGE_BYTES, &ranges[i]), "track");
  for (uint32_t turn = 0; turn < repeats; turn++) {
    struct gb_blocks_run *runs = NULL;
    uint32_t count = 0;
    for (uint32_t i = 0; i < RANGES; i++)
      fill(memory + i * (RANGE_BYTES + 3 * GB_BLOCK_BYTES), (unsigned char)(turn + 1), CHANGED_BYTES);
    double times[5] = {now_micros()};
    must(collect_whole(engine, ranges, RANGES, &runs, &count), "collect");
    times[1] = now_micros();
    must(gb_blocks_copy_out(engine, runs, count, host), "copy_out");
    times[2] = now_micros();
    must(gb_blocks_copy_in(engine, runs, count, host), "copy_in");
    times[3] = now_micros();
    must(gb_blocks_arrived(engine, runs, count), "arrived");
    times[4] = now_micros();
    if (runs_bytes(runs, count) != RANGES * CHANGED_BYTES) must(CUDA_ERROR_UNKNOWN, "what has changed");
    better(&best.collect, times[1] - times[0]);
    better(&best.copy_out, times[2] - times[1]);
    better(&best.copy_in, times[3] - times[2]);
    better(&best.arrived, times[4] - times[3]);
    free(runs);
  }
  cuMemFreeHost(host);
  return best;
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  const uint64_t bytes = strtoull(argv[1], NULL, 10) / GB_BLOCK_BYTES * GB_BLOCK_BYTES;
  const uint32_t repeats = (uint32_t)atoi(argv[2]);
  context_open(&stream);
  const struct gb_blocks_options options = options_of(stream, 1);
  must(gb_blocks_open(&options, &engine), "open");
  const double rate = hash_rate(bytes, repeats);
  const struct crossing crossing = crossing_time(repeats);
  gb_blocks_close(engine);
  printf("{\"hashBytesPerSecond\": %.0f, \"collectMicros\": %.1f, \"copyOutMicros\": %.1f, \"copyInMicros\": %.1f, "
         "\"arrivedMicros\": %.1f}\n",
         rate, crossing.collect, crossing.copy_out, crossing.copy_in, crossing.arrived);
  return 0;
}
