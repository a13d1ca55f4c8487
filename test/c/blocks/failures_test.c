/* SPDX-License-Identifier: Apache-2.0 */
/*
 * failures_test.c: a driver that fails in the middle. Each call of each function the engine uses fails once, in a
 * process of its own (GBSIM_FAIL is read when the driver is loaded); what was not agreed is said again, nothing
 * leaks, and the bytes that cross are right. failures_test; with a name it is such a process.
 */
#include <fcntl.h>
#include <sys/wait.h>

#include "harness.h"

#define BLOCKS 600u
#define BYTES ((uint64_t)BLOCKS * GB_BLOCK_BYTES)
#define FAILED 46 /* CUDA_ERROR_DEVICE_UNAVAILABLE: nothing here returns it by itself */
#define FAILS_MAX 64u
enum { EXIT_FAILED_ONCE = 3, EXIT_NEVER_FAILED = 4, EXIT_NO_ENGINE = 5 };

static CUstream stream;
static struct gb_blocks *engine;
static struct gb_blocks_range *ranges[2];
static CUdeviceptr memory;
static unsigned char bytes[BYTES], agreed[BYTES], differs[BLOCKS], host[BYTES], back[BYTES];
static bool failed; /* the one call has */

/* Notes the failure that was asked for; another is a mistake. */
static bool good(CUresult result) {
  if (result == CUDA_SUCCESS) return true;
  CHECK_EQUAL(result, FAILED);
  CHECK(!failed);
  failed = true;
  return false;
}

static void range_doubt(uint32_t i) { memset(differs + i * (BLOCKS / 2), 1, BLOCKS / 2); }

/* Changes every so many blocks. The test's own copies count among those that fail: they are made again. */
static void change(uint32_t step, unsigned char value) {
  for (uint32_t i = 0; i < BLOCKS; i += step) bytes[(uint64_t)i * GB_BLOCK_BYTES + i] ^= value;
  if (!good(cuMemcpyHtoD_v2(memory, bytes, BYTES))) CHECK(good(cuMemcpyHtoD_v2(memory, bytes, BYTES)));
}

/* A collect; one that fails is followed by one that says the same, or more. returns: runs, to be freed. */
static struct gb_blocks_run *collect(uint32_t *count) {
  struct gb_blocks_run *runs = NULL, expected[BLOCKS];
  bool again = false;
  while (!good(collect_whole(engine, ranges, 2, &runs, count))) {
    CHECK(runs == NULL && *count == 0);
    again = true;
  }
  for (uint32_t i = 0; again && i < 2; i++) range_doubt(i);
  uint32_t want = 0;
  for (uint32_t i = 0; i < 2; i++) {
    const uint64_t at = i * BYTES / 2;
    want += reference_runs(bytes + at, agreed + at, differs + i * (BLOCKS / 2), BLOCKS / 2, memory + at,
                           expected + want);
  }
  /* What was said before it failed may or may not have become the agreement: at least what has changed is said. */
  uint32_t said = 0;
  for (uint32_t i = 0; again && i < *count; i++) said += runs[i].blocks;
  if (again) CHECK_EQUAL(said, BLOCKS);
  CHECK(runs_equal(runs, *count, expected, want));
  memcpy(agreed, bytes, BYTES);
  memset(differs, 0, BLOCKS);
  return runs;
}

static void copy_both_ways(const struct gb_blocks_run *runs, uint32_t count) {
  if (!good(gb_blocks_copy_out(engine, runs, count, host)))
    CHECK(good(gb_blocks_copy_out(engine, runs, count, host)));
  uint64_t at = 0;
  for (uint32_t i = 0; i < count; at += (uint64_t)runs[i++].blocks * GB_BLOCK_BYTES)
    CHECK(memcmp(host + at, bytes + (runs[i].address - memory), (uint64_t)runs[i].blocks * GB_BLOCK_BYTES) == 0);
  for (uint64_t i = 0; i < at; i += 8) host[i]++;
  if (!good(gb_blocks_copy_in(engine, runs, count, host))) CHECK(good(gb_blocks_copy_in(engine, runs, count, host)));
  at = 0;
  for (uint32_t i = 0; i < count; at += (uint64_t)runs[i++].blocks * GB_BLOCK_BYTES)
    memcpy(bytes + (runs[i].address - memory), host + at, (uint64_t)runs[i].blocks * GB_BLOCK_BYTES);
  if (!good(cuMemcpyDtoH_v2(back, memory, BYTES))) CHECK(good(cuMemcpyDtoH_v2(back, memory, BYTES)));
  CHECK(memcmp(back, bytes, BYTES) == 0);
}

static void arrive(const struct gb_blocks_run *runs, uint32_t count) {
  if (good(gb_blocks_arrived(engine, runs, count))) {
    for (uint32_t i = 0; i < count; i++) {
      const uint64_t at = runs[i].address - memory;
      memcpy(agreed + at, bytes + at, (uint64_t)runs[i].blocks * GB_BLOCK_BYTES);
    }
    return;
  }
  for (uint32_t i = 0; i < 2; i++) range_doubt(i);
}

/* The engine does not say whether it failed: a disagreement about whole ranges is the same either way. */
static void disagree(void) {
  struct gb_blocks_run all[] = {{.address = memory, .blocks = BLOCKS / 2},
                                {.address = memory + BYTES / 2, .blocks = BLOCKS / 2}};
  gb_blocks_disagree(engine, all, 2);
  for (uint32_t i = 0; i < 2; i++) range_doubt(i);
}

static void rounds(void) {
  for (uint32_t i = 0; i < 3; i++) {
    uint32_t count = 0;
    change(i == 0 ? 3 : i == 1 ? 7 : 1, (unsigned char)(i + 1));
    struct gb_blocks_run *runs = collect(&count);
    copy_both_ways(runs, count);
    arrive(runs, count);
    free(runs);
    runs = collect(&count);
    if (i == 1) disagree();
    free(runs);
  }
}

static bool ranges_open(void) {
  for (uint32_t i = 0; i < 2; i++) {
    const int64_t before = driver_bytes;
    while (!good(gb_blocks_track(engine, memory + i * BYTES / 2, BYTES / 2, &ranges[i]))) {
      CHECK(ranges[i] == NULL);
      CHECK_EQUAL(driver_bytes, before);
    }
  }
  return true;
}

static int process(void) {
  context_open(&stream);
  const struct gb_blocks_options options = options_of(stream, 3);
  while (!good(cuMemAlloc_v2(&memory, BYTES))) continue;
  while (!good(cuMemsetD8_v2(memory, 0, BYTES))) continue;
  cuCtxSynchronize();
  while (!good(gb_blocks_open(&options, &engine))) {
    CHECK(engine == NULL);
    CHECK_EQUAL(driver_bytes, 0);
  }
  if (check_errors == 0 && ranges_open()) rounds();
  gb_blocks_close(engine);
  CHECK_EQUAL(driver_bytes, 0);
  if (check_errors != 0) return 1;
  return failed ? EXIT_FAILED_ONCE : EXIT_NEVER_FAILED;
}

/* Runs this program with call `at` of the function failing. returns: its exit status. */
static int run_failing(const char *program, const char *name, uint32_t at) {
  const pid_t child = fork();
  if (child == 0) {
    char fail[64];
    snprintf(fail, sizeof fail, "%s@%u=%d", name, at, FAILED);
    setenv("GBSIM_FAIL", fail, 1);
    execl(program, program, name, (char *)NULL);
    _exit(127);
  }
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status)) return 1;
  return WEXITSTATUS(status);
}

/* Every call of the function fails once, until there is none left that could. */
static void every_call_fails(const char *program, const char *name) {
  const int before = check_errors;
  uint32_t at = 1, hidden = 0;
  for (int status = 0; at <= FAILS_MAX; at++) {
    status = run_failing(program, name, at);
    if (status != EXIT_FAILED_ONCE && status != EXIT_NEVER_FAILED) {
      fprintf(stderr, "%s, call %u: status %d\n", name, at, status);
      check_errors++;
    }
    /* Failures of cuMemFree and the like, and in disagree, are not told: a few in a row end it. */
    hidden = status == EXIT_NEVER_FAILED ? hidden + 1 : 0;
    if (hidden == 3) break;
  }
  CHECK(at > 3 && at <= FAILS_MAX);
  fprintf(stderr, "%s %s: %u of its calls failed\n", check_errors == before ? "ok  " : "FAIL", name, at - 3);
  if (check_errors == before) check_passed++;
  else check_failed++;
}

int main(int argc, char **argv) {
  if (argc == 2) return process();
#define FAIL(name) every_call_fails(argv[0], #name);
  FAIL(cuModuleLoadData)
  FAIL(cuModuleGetFunction)
  FAIL(cuLaunchKernel)
  FAIL(cuMemHostAlloc)
  FAIL(cuMemAlloc)
  FAIL(cuMemcpyDtoHAsync)
  FAIL(cuMemcpyHtoDAsync)
  FAIL(cuMemsetD8Async)
  FAIL(cuStreamSynchronize)
#undef FAIL
  return check_done();
}
