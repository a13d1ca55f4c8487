/* SPDX-License-Identifier: Apache-2.0 */
/*
 * model_test.c: two sides with engines of their own, and keys, keep ranges alike for thousands of rounds of random
 * changes: what an engine says is compared with a byte-wise reference, exactly, and what crosses makes the other side's
 * memory the same. model_test SEED ROUNDS
 */
#include "harness.h"

#define RANGES 6u
#define BLOCKS_MAX 48u
#define SIDE_BLOCKS (RANGES * BLOCKS_MAX)
#define SIDE_BYTES (SIDE_BLOCKS * GB_BLOCK_BYTES)

struct side {
  CUdeviceptr base;
  struct gb_blocks *engine;
  struct gb_blocks_range *ranges[RANGES];
  unsigned char bytes[SIDE_BYTES];    /* what the memory holds */
  unsigned char agreed[SIDE_BYTES];   /* what this side knows of the other */
  unsigned char differs[SIDE_BLOCKS]; /* whatever the bytes are */
};

static struct side sides[2];
static struct {
  uint32_t first, blocks;
  uint32_t newest; /* side */
} ranges[RANGES];
static uint64_t random_state;
static unsigned char crossing[SIDE_BYTES];
static struct gb_blocks_run expected[SIDE_BLOCKS];
static uint64_t said_blocks, hidden_runs, kept_back;

static uint32_t below(uint32_t limit) { return random_below(&random_state, limit); }

static CUdeviceptr address_of(uint32_t side, uint32_t range) {
  return sides[side].base + (uint64_t)ranges[range].first * GB_BLOCK_BYTES;
}

static void range_track(uint32_t range) {
  const uint64_t at = (uint64_t)ranges[range].first * GB_BLOCK_BYTES;
  const uint64_t bytes = (uint64_t)ranges[range].blocks * GB_BLOCK_BYTES;
  for (uint32_t i = 0; i < 2; i++) {
    struct side *side = &sides[i];
    CHECK_EQUAL(gb_blocks_track(side->engine, side->base + at, bytes, &side->ranges[range]), CUDA_SUCCESS);
    memset(side->agreed + at, 0, bytes);
    memset(side->differs + ranges[range].first, 0, ranges[range].blocks);
  }
  /* The newest side may hold anything; the other begins with what is agreed. */
  struct side *other = &sides[!ranges[range].newest];
  memset(other->bytes + at, 0, bytes);
  CHECK_EQUAL(cuMemsetD8_v2(other->base + at, 0, bytes), CUDA_SUCCESS);
  CHECK_EQUAL(cuCtxSynchronize(), CUDA_SUCCESS); /* the engine's stream does not wait for it */
}

static void ranges_make(void) {
  uint32_t at = 0;
  for (uint32_t i = 0; i < RANGES; i++) {
    ranges[i].first = at;
    ranges[i].blocks = 1 + below(BLOCKS_MAX);
    ranges[i].newest = below(2);
    at += ranges[i].blocks + below(2) * below(BLOCKS_MAX - ranges[i].blocks + 1); /* some lie behind each other */
    range_track(i);
  }
}

/* One change of the newest bytes of a range: what kernels do, and some things that only break engines. */
static void change(uint32_t range) {
  struct side *side = &sides[ranges[range].newest];
  unsigned char *bytes = side->bytes + (uint64_t)ranges[range].first * GB_BLOCK_BYTES;
  const uint32_t limit = ranges[range].blocks * GB_BLOCK_BYTES;
  uint32_t at = below(limit), length = 1;
  const uint64_t word = ARENA_BASE - 4 + random_next(&random_state) % (ARENA_BYTES + 8);
  switch (below(8)) {
    case 0: bytes[at] ^= (unsigned char)(1u << below(8)); break;
    case 1:
      length = below(limit - at) + 1;
      for (uint32_t i = 0; i < length; i++) bytes[at + i] = (unsigned char)random_next(&random_state);
      break;
    case 2: /* an address of the arena, or nearly one, at a fourth byte or not */
    case 3:
      at = at > limit - 8 ? limit - 8 : below(4) == 0 ? at : at / 4 * 4;
      if (below(3) == 0 && ranges[range].blocks > 1)
        at = (1 + below(ranges[range].blocks - 1)) * GB_BLOCK_BYTES - 4;
      length = 8;
      memcpy(bytes + at, &word, length);
      break;
    case 4: /* a block of zeroes */
      at = at / GB_BLOCK_BYTES * GB_BLOCK_BYTES;
      memset(bytes + at, 0, length = GB_BLOCK_BYTES);
      break;
    case 5: /* back to what was agreed */
      at = at / GB_BLOCK_BYTES * GB_BLOCK_BYTES;
      memcpy(bytes + at, side->agreed + (bytes - side->bytes) + at, length = GB_BLOCK_BYTES);
      break;
    case 6: /* two loads of a lane change places */
      at = at / GB_BLOCK_BYTES * GB_BLOCK_BYTES;
      for (uint32_t i = 0; i < 16; i++) {
        const unsigned char byte = bytes[at + i];
        bytes[at + i] = bytes[at + 512 + i];
        bytes[at + 512 + i] = byte;
      }
      length = GB_BLOCK_BYTES;
      break;
    default: /* every word by one */
      at = 0;
      length = limit;
      for (uint32_t i = 0; i < limit; i += 4) bytes[i]++;
      break;
  }
  CHECK_EQUAL(cuMemcpyHtoD_v2(address_of(ranges[range].newest, range) + at, bytes + at, length), CUDA_SUCCESS);
}

static struct gb_blocks_run moved(struct gb_blocks_run run, uint32_t from) {
  run.address = run.address - sides[from].base + sides[!from].base;
  return run;
}

/* These runs go to the other side, as a dispatch does it. */
static void cross(uint32_t from, struct gb_blocks_run *runs, uint32_t count) {
  const uint64_t bytes = runs_bytes(runs, count);
  memset(crossing, 0xee, sizeof crossing);
  CHECK_EQUAL(gb_blocks_copy_out(sides[from].engine, runs, count, crossing), CUDA_SUCCESS);
  CHECK(bytes == sizeof crossing || crossing[bytes] == 0xee);
  uint64_t at = 0;
  for (uint32_t i = 0; i < count; i++) {
    const uint64_t offset = runs[i].address - sides[from].base, length = (uint64_t)runs[i].blocks * GB_BLOCK_BYTES;
    CHECK(memcmp(crossing + at, sides[from].bytes + offset, length) == 0);
    memcpy(sides[!from].bytes + offset, crossing + at, length);
    memcpy(sides[!from].agreed + offset, crossing + at, length);
    memset(sides[!from].differs + offset / GB_BLOCK_BYTES, 0, runs[i].blocks);
    at += length;
    runs[i] = moved(runs[i], from);
  }
  CHECK_EQUAL(gb_blocks_copy_in(sides[!from].engine, runs, count, crossing), CUDA_SUCCESS);
  CHECK_EQUAL(gb_blocks_arrived(sides[!from].engine, runs, count), CUDA_SUCCESS);
}

/* Some of the runs are not sent after all, and that is said. returns: how many of them are left. */
static uint32_t keep_back(uint32_t side, struct gb_blocks_run *runs, uint32_t count) {
  struct gb_blocks_run kept[SIDE_BLOCKS] = {0};
  uint32_t kept_count = 0, left = 0;
  for (uint32_t i = 0; i < count; i++)
    if (below(2)) kept[kept_count++] = runs[i];
    else runs[left++] = runs[i];
  gb_blocks_disagree(sides[side].engine, kept, kept_count);
  for (uint32_t i = 0; i < kept_count; i++)
    memset(sides[side].differs + (kept[i].address - sides[side].base) / GB_BLOCK_BYTES, 1, kept[i].blocks);
  kept_back += kept_count;
  return left;
}

/* What has changed in some of the ranges that are newest on one side is collected, compared and sent. */
static void visit(uint32_t from, bool whole) {
  struct side *side = &sides[from];
  struct gb_blocks_range *some[RANGES] = {0};
  uint32_t numbers[RANGES], count = 0, want = 0;
  for (uint32_t i = 0; i < RANGES; i++)
    if (ranges[i].newest == from && (whole || below(3) != 0)) numbers[count++] = i;
  for (uint32_t i = count; i > 1; i--) { /* in any order */
    const uint32_t other = below(i), number = numbers[i - 1];
    numbers[i - 1] = numbers[other];
    numbers[other] = number;
  }
  for (uint32_t i = 0; i < count; i++) {
    const uint32_t first = ranges[numbers[i]].first, blocks = ranges[numbers[i]].blocks;
    const uint64_t at = (uint64_t)first * GB_BLOCK_BYTES;
    some[i] = side->ranges[numbers[i]];
    want += reference_runs(side->bytes + at, side->agreed + at, side->differs + first, blocks, side->base + at,
                           expected + want);
    memcpy(side->agreed + at, side->bytes + at, (uint64_t)blocks * GB_BLOCK_BYTES);
    memset(side->differs + first, 0, blocks);
  }
  struct gb_blocks_run *runs = NULL;
  uint32_t run_count = 0;
  CHECK_EQUAL(collect_whole(side->engine, some, count, &runs, &run_count), CUDA_SUCCESS);
  CHECK(runs_equal(runs, run_count, expected, want));
  CHECK((runs == NULL) == (run_count == 0));
  said_blocks += runs_bytes(runs, run_count) / GB_BLOCK_BYTES;
  for (uint32_t i = 0; i < run_count; i++) hidden_runs += runs[i].hidden;
  if (!whole && below(4) == 0) run_count = keep_back(from, runs, run_count);
  cross(from, runs, run_count);
  free(runs);
}

/* Everything is sent: both sides hold the same, and then the other one may be the newest. */
static void make_alike(void) {
  visit(0, true);
  visit(1, true);
  for (uint32_t i = 0; i < RANGES; i++) {
    const uint64_t at = (uint64_t)ranges[i].first * GB_BLOCK_BYTES;
    const uint64_t bytes = (uint64_t)ranges[i].blocks * GB_BLOCK_BYTES;
    for (uint32_t side = 0; side < 2; side++) {
      CHECK_EQUAL(cuMemcpyDtoH_v2(crossing, address_of(side, i), bytes), CUDA_SUCCESS);
      CHECK(memcmp(crossing, sides[0].bytes + at, bytes) == 0);
    }
    ranges[i].newest = below(2);
  }
}

static void model(uint32_t rounds) {
  for (uint32_t round = 0; round < rounds && check_errors == 0; round++) {
    /* Launches of few blocks, too: ranges that fall apart. */
    for (uint32_t i = 0; i < 2; i++)
      sides[i].engine->pass_blocks = below(2) == 0 ? GB_BLOCKS_AREA_BYTES : 1 + below(BLOCKS_MAX);
    for (uint32_t changes = below(8); changes-- > 0;) change(below(RANGES));
    if (below(3) == 0) make_alike();
    else visit(below(2), false);
    if (below(16) != 0) continue;
    const uint32_t range = below(RANGES);
    for (uint32_t i = 0; i < 2; i++) gb_blocks_untrack(sides[i].engine, sides[i].ranges[range]);
    range_track(range);
  }
  make_alike();
}

int main(int argc, char **argv) {
  if (argc != 3) {
    fprintf(stderr, "use: model_test SEED ROUNDS\n");
    return 2;
  }
  const uint32_t rounds = (uint32_t)atoi(argv[2]);
  random_state = strtoull(argv[1], NULL, 10) * 0x9e3779b97f4a7c15ull | 1;
  CUstream stream;
  context_open(&stream);
  for (uint32_t i = 0; i < 2; i++) {
    const struct gb_blocks_options options = options_of(stream, (uint8_t)(i + 1));
    CHECK_EQUAL(cuMemAlloc_v2(&sides[i].base, SIDE_BYTES), CUDA_SUCCESS);
    CHECK_EQUAL(cuMemsetD8_v2(sides[i].base, 0, SIDE_BYTES), CUDA_SUCCESS);
    CHECK_EQUAL(cuCtxSynchronize(), CUDA_SUCCESS);
    CHECK_EQUAL(gb_blocks_open(&options, &sides[i].engine), CUDA_SUCCESS);
  }
  ranges_make();
  model(rounds);
  for (uint32_t i = 0; i < 2; i++) gb_blocks_close(sides[i].engine);
  CHECK_EQUAL(driver_bytes, 0);
  fprintf(stderr, "%s model, seed %s: %u rounds, %llu blocks said, %llu runs hidden, %llu kept back\n",
          check_errors == 0 ? "ok  " : "FAIL", argv[1], rounds, (unsigned long long)said_blocks,
          (unsigned long long)hidden_runs, (unsigned long long)kept_back);
  check_passed = check_errors == 0;
  check_failed = !check_passed;
  return check_done();
}
