/* SPDX-License-Identifier: Apache-2.0 */
/*
 * waits.c: programs whose GPU work waits for things that happen later, while a loop over more memory
 * than fits keeps the staging engine moving. Nothing may hang, no byte may be wrong.
 *
 *   values     one stream waits for a memory value that another one, or the host, writes afterwards
 *   callbacks  host functions that wait for the host, and write what kernels read next
 *
 * usage: waits MODULE SEED SECONDS values|callbacks
 */
#include <pthread.h>
#include <stdatomic.h>

#include "soak.h"

#define BUFFERS 84u
#define BYTES (2 * MIB)
#define WORDS 512u /* of each buffer, that the loop works on */

static CUdeviceptr buffer[BUFFERS], sum[2];
static uint64_t *expected[BUFFERS], *sum_expected[2];
static CUstream stream[2];
static uint32_t at[2];

static void make(void) {
  uint64_t *content = malloc(BYTES);
  for (uint32_t s = 0; s < 2; s++) {
    OK(cuStreamCreate(&stream[s], CU_STREAM_NON_BLOCKING));
    OK(cuMemAlloc(&sum[s], WORDS * 8));
    OK(cuMemsetD8(sum[s], 0, WORDS * 8));
    sum_expected[s] = calloc(WORDS, 8);
  }
  for (uint32_t i = 0; i < BUFFERS; i++) {
    for (uint64_t w = 0; w < BYTES / 8; w++) content[w] = (w + i) * 0x9e3779b97f4a7c15ull;
    if (!OK(cuMemAlloc(&buffer[i], BYTES))) exit(1);
    OK(cuMemcpyHtoD(buffer[i], content, BYTES));
    expected[i] = malloc(WORDS * 8);
    memcpy(expected[i], content, WORDS * 8);
  }
  free(content);
  OK(cuCtxSynchronize());
}

/* The next buffer of the loop is read, and now and then changed. Even ones belong to stream 0, odd
 * ones to stream 1: the streams share nothing. */
static void step(uint32_t on, uint64_t *random) {
  const uint32_t i = (at[on]++ * 2 + on) % BUFFERS;
  const uint64_t seed = soak_below(random, 1000);
  OK(soak_launch_mix(sum[on], buffer[i], WORDS, seed, stream[on]));
  soak_mix_host(sum_expected[on], expected[i], WORDS, seed);
  if (soak_below(random, 4) != 0) return;
  OK(soak_launch_mix(buffer[i], sum[on], WORDS, seed, stream[on]));
  soak_mix_host(expected[i], sum_expected[on], WORDS, seed);
}

/* Mostly the same number: the order of touches repeats, or the staging engine would stop. */
static uint64_t burst(uint64_t *random, uint64_t usual) {
  return soak_below(random, 64) == 0 ? 1 + soak_below(random, 2 * usual) : usual;
}

static void check_all(void) {
  uint64_t got[WORDS];
  OK(cuCtxSynchronize());
  for (uint32_t i = 0; i < BUFFERS; i++) {
    OK(cuMemcpyDtoH(got, buffer[i], sizeof got));
    CHECK(memcmp(got, expected[i], sizeof got) == 0, "buffer %u differs", i);
  }
  for (uint32_t s = 0; s < 2; s++) {
    OK(cuMemcpyDtoH(got, sum[s], sizeof got));
    CHECK(memcmp(got, sum_expected[s], sizeof got) == 0, "sum %u differs", s);
  }
}

/* Work that waits for nothing: here the staging engine can move what it wants to. */
static void between(uint64_t *random) {
  for (uint32_t turn = 0; turn < 12; turn++)
    for (uint32_t on = 0; on < 2; on++)
      for (uint32_t n = 0; n < 4; n++) step(on, random);
  if (soak_below(random, 2) == 0) OK(cuStreamSynchronize(stream[soak_below(random, 2)]));
}

/* ---- values ---- */

static void values(uint64_t *random, double until) {
  volatile uint32_t *word = NULL;
  CUdeviceptr word_device;
  OK(cuMemHostAlloc((void **)&word, 64, CU_MEMHOSTALLOC_DEVICEMAP | CU_MEMHOSTALLOC_PORTABLE));
  OK(cuMemHostGetDevicePointer(&word_device, (void *)word, 0));
  word[0] = 0;
  uint32_t round = 0;
  for (; soak_seconds() < until && check_failures == 0; round++) {
    const uint32_t waits = round % 2;
    OK(cuStreamWaitValue32(stream[waits], word_device, round + 1, CU_STREAM_WAIT_VALUE_GEQ));
    for (uint64_t n = burst(random, 4); n > 0; n--) step(waits, random);
    /* What the wait is for is submitted, or done by the host, only after more work. */
    for (uint64_t n = burst(random, 8); n > 0; n--) step(1 - waits, random);
    if (soak_below(random, 2) == 0) {
      OK(cuStreamWriteValue32(stream[1 - waits], word_device, round + 1, 0));
    } else {
      OK(cuStreamSynchronize(stream[1 - waits]));
      soak_sleep_us(soak_below(random, 2000));
      word[0] = round + 1;
    }
    between(random);
    if (round % 512 == 511) check_all();
  }
  OK(cuCtxSynchronize());
  OK(cuMemFreeHost((void *)word));
  printf("%u rounds; ", round);
}

/* ---- callbacks ---- */

#define NOTES 64u

struct note {
  _Atomic uint32_t go; /* the host lets it pass */
  uint64_t value;
  uint64_t *page; /* pinned; the next copy reads it */
};

/* Runs on the driver's thread: no CUDA call in here. */
static void note_called(void *data) {
  struct note *note = data;
  while (atomic_load(&note->go) == 0) soak_sleep_us(20);
  for (uint32_t i = 0; i < WORDS; i++) note->page[i] = note->value + i;
}

static void callbacks(uint64_t *random, double until) {
  static struct note notes[NOTES];
  uint64_t *pages = NULL;
  uint32_t round = 0;
  OK(cuMemHostAlloc((void **)&pages, (uint64_t)NOTES * WORDS * 8, 0));
  for (; soak_seconds() < until && check_failures == 0; round++) {
    struct note *note = &notes[round % NOTES];
    const uint32_t on = round % 2, i = (round * 2 + on) % BUFFERS;
    if (round % NOTES == 0) OK(cuCtxSynchronize()); /* the notes are free again */
    atomic_store(&note->go, 0);
    note->value = check_random(random);
    note->page = pages + (uint64_t)(round % NOTES) * WORDS;
    OK(cuLaunchHostFunc(stream[on], note_called, note));
    OK(cuMemcpyHtoDAsync(buffer[i], note->page, WORDS * 8, stream[on]));
    for (uint32_t w = 0; w < WORDS; w++) expected[i][w] = note->value + w;
    for (uint64_t n = burst(random, 4); n > 0; n--) step(on, random);
    /* The function waits for the host, which first gives the other stream more to do. */
    for (uint64_t n = burst(random, 8); n > 0; n--) step(1 - on, random);
    if (soak_below(random, 2) == 0) soak_sleep_us(soak_below(random, 1500));
    atomic_store(&note->go, 1);
    between(random);
    if (round % 512 == 511) check_all();
  }
  OK(cuCtxSynchronize());
  OK(cuMemFreeHost(pages));
  printf("%u rounds; ", round);
}

int main(int count, char **arguments) {
  if (count != 5) return 2;
  uint64_t random = strtoull(arguments[2], NULL, 0) * 0x9e3779b97f4a7c15ull + 1;
  const double seconds = atof(arguments[3]);
  soak_open(arguments[1], (unsigned)seconds + 120);
  make();
  if (strcmp(arguments[4], "values") == 0) values(&random, soak_seconds() + seconds);
  else callbacks(&random, soak_seconds() + seconds);
  check_all();
  for (uint32_t i = 0; i < BUFFERS; i++) OK(cuMemFree(buffer[i]));
  for (uint32_t s = 0; s < 2; s++) OK(cuMemFree(sum[s]));
  return CHECK_RESULT();
}
