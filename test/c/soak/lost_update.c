/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lost_update.c: kernels that write, through a pointer table alone, memory that is on its way
 * between host and VRAM. A loop over buffers keeps the staging engine moving; between its launches,
 * on other streams and at seeded moments, kernels add to words of any buffer. Every sum must be
 * there after each schedule, and every byte at the end.
 *
 * usage: lost_update MODULE SEED SCHEDULES [SECONDS_MAX]
 */
#include "soak.h"

#define BUFFERS 84u
#define BYTES (2 * MIB)
#define WORDS (BYTES / 8)
#define STREAMS 3u
#define STEPS 24u
#define READ_WORDS 64u

static CUdeviceptr buffer[BUFFERS], table, sink;
static uint64_t *expected[BUFFERS];
static uint64_t *sink_expected;
static uint64_t *gathered; /* pinned: pairs of row and word, then what was read */
static CUstream loop, stream[STREAMS];

static void make(void) {
  OK(cuStreamCreate(&loop, CU_STREAM_NON_BLOCKING));
  for (uint32_t i = 0; i < STREAMS; i++) OK(cuStreamCreate(&stream[i], CU_STREAM_NON_BLOCKING));
  OK(cuMemAlloc(&table, sizeof buffer));
  OK(cuMemHostAlloc((void **)&gathered, 6 * STEPS * 8, CU_MEMHOSTALLOC_DEVICEMAP));
  OK(cuMemAlloc(&sink, READ_WORDS * 8));
  OK(cuMemsetD8(sink, 0, READ_WORDS * 8));
  sink_expected = calloc(READ_WORDS, 8);
  for (uint32_t i = 0; i < BUFFERS; i++) {
    if (!OK(cuMemAlloc(&buffer[i], BYTES))) exit(1);
    expected[i] = malloc(BYTES);
    for (uint64_t w = 0; w < WORDS; w++) expected[i][w] = (w ^ i) * 0x9e3779b97f4a7c15ull;
    OK(cuMemcpyHtoD(buffer[i], expected[i], BYTES));
  }
  OK(cuMemcpyHtoD(table, buffer, sizeof buffer));
  OK(cuCtxSynchronize());
}

/* The pokes of one schedule go to words of their own, away from those that the loop reads. */
struct poke {
  uint32_t row;
  uint64_t word;
};

static void launch_poke(uint64_t *random, struct poke *poke) {
  uint64_t amount = 1 + soak_below(random, 1000), row = soak_below(random, BUFFERS);
  uint64_t word = READ_WORDS + soak_below(random, WORDS - READ_WORDS);
  uint64_t nanoseconds = soak_below(random, 4) == 0 ? soak_below(random, 400000) : 0;
  /* One stream for each residue: two of them never touch one word at once. */
  CUstream on = stream[word % STREAMS];
  void *params[] = {&table, &row, &word, &amount, &nanoseconds};
  if (!OK(soak_launch(soak_poke, on, params))) return;
  expected[row][word] += amount;
  *poke = (struct poke){(uint32_t)row, word};
}

/* Read through the table too: copies that name the buffers would make the order of touches random,
 * and the staging engine would stop. */
static void check_pokes(uint64_t seed, const struct poke *poke, uint64_t count) {
  uint64_t *list = gathered, *out = gathered + 4 * STEPS;
  for (uint64_t i = 0; i < count; i++) {
    list[2 * i] = poke[i].row;
    list[2 * i + 1] = poke[i].word;
  }
  CUdeviceptr list_device = (CUdeviceptr)list, out_device = (CUdeviceptr)out;
  void *params[] = {&table, &list_device, &count, &out_device};
  OK(soak_launch(soak_gather, stream[0], params));
  OK(cuStreamSynchronize(stream[0]));
  for (uint64_t i = 0; i < count; i++)
    CHECK(out[i] == expected[poke[i].row][poke[i].word], "schedule %#llx: an update is lost",
          (unsigned long long)seed);
}

/* STEPS launches of the loop with pokes among them. */
static void schedule(uint64_t seed, uint32_t *at) {
  uint64_t random = seed;
  struct poke pokes[2 * STEPS];
  uint32_t count = 0;
  for (uint32_t step = 0; step < STEPS; step++) {
    const uint32_t i = (*at)++ % BUFFERS;
    OK(soak_launch_mix(sink, buffer[i], READ_WORDS, seed, loop));
    soak_mix_host(sink_expected, expected[i], READ_WORDS, seed);
    for (uint64_t n = soak_below(&random, 3); n > 0 && count < 2 * STEPS; n--)
      launch_poke(&random, &pokes[count++]);
    if (soak_below(&random, 6) == 0) soak_sleep_us(soak_below(&random, 800));
    if (soak_below(&random, 12) == 0) OK(cuStreamSynchronize(loop));
  }
  for (uint32_t i = 0; i < STREAMS; i++) OK(cuStreamSynchronize(stream[i]));
  check_pokes(seed, pokes, count);
}

static void check_all(void) {
  uint64_t *got = malloc(BYTES);
  OK(cuCtxSynchronize());
  for (uint32_t i = 0; i < BUFFERS; i++) {
    OK(cuMemcpyDtoH(got, buffer[i], BYTES));
    CHECK(memcmp(got, expected[i], BYTES) == 0, "buffer %u differs at the end", i);
    OK(cuMemFree(buffer[i]));
  }
  OK(cuMemcpyDtoH(got, sink, READ_WORDS * 8));
  CHECK(memcmp(got, sink_expected, READ_WORDS * 8) == 0, "what the loop read");
  free(got);
  OK(cuMemFreeHost(gathered));
  OK(cuMemFree(table));
  OK(cuMemFree(sink));
}

int main(int count, char **arguments) {
  if (count != 4 && count != 5) return 2;
  const uint64_t seed = strtoull(arguments[2], NULL, 0);
  const uint32_t schedules = (uint32_t)strtoul(arguments[3], NULL, 10);
  const double limit = count == 5 ? atof(arguments[4]) : 1e9, start = soak_seconds();
  uint32_t at = 0, done = 0;
  soak_open(arguments[1], count == 5 ? (unsigned)limit + 120 : 3600);
  make();
  for (; done < schedules && check_failures == 0 && soak_seconds() - start < limit; done++)
    schedule((seed + done) * 0x9e3779b97f4a7c15ull + 1, &at);
  check_all();
  printf("%u schedules; ", done);
  return CHECK_RESULT();
}
