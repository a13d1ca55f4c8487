/* SPDX-License-Identifier: Apache-2.0 */
/* edges_test.c: every bit and every place of a word, the borders of ranges, what calls cost, and every limit. */
#include "harness.h"

#define VMM_BYTES (2ull << 20)
#define SMALL 3u /* blocks of the range that is looked at closely */

static CUstream stream;
static struct gb_blocks *engine;
static struct gb_blocks_run *runs;
static uint32_t run_count;

/* Device memory of zeroes. */
static CUdeviceptr zeroed(uint64_t bytes) {
  CUdeviceptr address = 0;
  CHECK_EQUAL(cuMemAlloc_v2(&address, bytes), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemsetD8_v2(address, 0, bytes), CUDA_SUCCESS);
  CHECK_EQUAL(cuCtxSynchronize(), CUDA_SUCCESS);
  return address;
}

static struct gb_blocks_range *tracked(CUdeviceptr address, uint64_t bytes) {
  struct gb_blocks_range *range = NULL;
  CHECK_EQUAL(gb_blocks_track(engine, address, bytes, &range), CUDA_SUCCESS);
  return range;
}

/* returns: how many blocks; the runs stay until the next collect. */
static uint64_t collect(struct gb_blocks_range *const *ranges, uint32_t count) {
  free(runs);
  CHECK_EQUAL(collect_whole(engine, ranges, count, &runs, &run_count), CUDA_SUCCESS);
  return runs_bytes(runs, run_count) / GB_BLOCK_BYTES;
}

static void put(CUdeviceptr address, const void *bytes, size_t count) {
  CHECK_EQUAL(cuMemcpyHtoD_v2(address, bytes, count), CUDA_SUCCESS);
}

static void put_word(CUdeviceptr address, uint64_t word) { put(address, &word, sizeof word); }

static int digest_order(const void *one, const void *other) { return memcmp(one, other, 16); }

/* Blocks with one bit each, every bit of a block once: all differ from zeroes, and no two have one digest. */
static void every_bit_is_noticed(void) {
  const uint32_t bits = GB_BLOCK_BYTES * 8, at_once = 4096;
  const uint64_t bytes = (uint64_t)at_once * GB_BLOCK_BYTES;
  unsigned char *host = malloc(bytes), *digests = malloc(bits * 16ull);
  const CUdeviceptr memory = zeroed(bytes);
  struct gb_blocks_range *range = tracked(memory, bytes);
  for (uint32_t bit = 0; bit < bits; bit += at_once) {
    memset(host, 0, bytes);
    for (uint32_t i = 0; i < at_once; i++)
      host[(uint64_t)i * GB_BLOCK_BYTES + (bit + i) / 8] = (unsigned char)(1u << i % 8);
    put(memory, host, bytes);
    CHECK_EQUAL(collect(&range, 1), at_once);
    CHECK_EQUAL(cuMemcpyDtoH_v2(digests + bit * 16ull, range->digests, at_once * 16ull), CUDA_SUCCESS);
    CHECK_EQUAL(cuMemsetD8_v2(memory, 0, bytes), CUDA_SUCCESS);
    CHECK_EQUAL(cuCtxSynchronize(), CUDA_SUCCESS);
    CHECK_EQUAL(collect(&range, 1), at_once); /* back to zeroes is a change, too */
  }
  qsort(digests, bits, 16, digest_order);
  for (uint32_t i = 1; i < bits; i++) CHECK(memcmp(digests + (i - 1) * 16ull, digests + i * 16ull, 16) != 0);
  gb_blocks_untrack(engine, range);
  cuMemFree_v2(memory);
  free(host);
  free(digests);
}

/* One word of the arena at every fourth byte: also where it lies in two blocks, one of which has not changed. */
static void a_word_is_found_at_every_place(void) {
  const CUdeviceptr memory = zeroed(SMALL * GB_BLOCK_BYTES);
  struct gb_blocks_range *range = tracked(memory, SMALL * GB_BLOCK_BYTES);
  const uint64_t inside[] = {ARENA_BASE, ARENA_BASE + ARENA_BYTES - 1, ARENA_BASE + 0x123456789ull};
  for (uint32_t at = 0; at + 8 <= SMALL * GB_BLOCK_BYTES && check_errors == 0; at += 4) {
    put_word(memory + at, inside[at / 4 % 3]);
    const uint64_t said = collect(&range, 1);
    CHECK(run_count == 1 && runs->hidden == 1 && said >= 1 && said <= 2);
    CHECK(runs->address <= memory + at + 7 && runs->address + said * GB_BLOCK_BYTES > memory + at);
    put_word(memory + at, 0);
    collect(&range, 1);
    CHECK(run_count == 1 && runs->hidden == 0);
  }
  gb_blocks_untrack(engine, range);
  cuMemFree_v2(memory);
}

static void other_words_are_not_found(void) {
  const CUdeviceptr memory = zeroed(SMALL * GB_BLOCK_BYTES);
  struct gb_blocks_range *range = tracked(memory, SMALL * GB_BLOCK_BYTES);
  const uint64_t outside[] = {ARENA_BASE - 1, ARENA_BASE + ARENA_BYTES, ARENA_BASE << 1, 1, UINT64_MAX};
  for (uint32_t at = 0; at + 8 <= SMALL * GB_BLOCK_BYTES && check_errors == 0; at += 52) {
    put_word(memory + at, outside[at / 4 % 5]);
    collect(&range, 1);
    CHECK(run_count == 1 && runs->hidden == 0);
    put_word(memory + at, 0);
    collect(&range, 1);
  }
  put_word(memory + 1026, ARENA_BASE + 0x1234567); /* not at a fourth byte */
  collect(&range, 1);
  CHECK(run_count == 1 && runs->hidden == 0);
  gb_blocks_untrack(engine, range);
  cuMemFree_v2(memory);
}

/* Half of the word is there, and told; the other half comes, in the one block or in the other. */
static void a_word_in_two_blocks_marks_the_changed_one(void) {
  const uint64_t word = ARENA_BASE + 0x76543210;
  const uint32_t low = (uint32_t)word, high = (uint32_t)(word >> 32);
  for (uint32_t first = 0; first < 2; first++) {
    const CUdeviceptr memory = zeroed(SMALL * GB_BLOCK_BYTES), border = memory + GB_BLOCK_BYTES;
    struct gb_blocks_range *range = tracked(memory, SMALL * GB_BLOCK_BYTES);
    put(first ? border - 4 : border, first ? &low : &high, 4);
    CHECK_EQUAL(collect(&range, 1), 1);
    CHECK_EQUAL(runs->hidden, 0);
    put(first ? border : border - 4, first ? &high : &low, 4);
    CHECK_EQUAL(collect(&range, 1), 1);
    CHECK_EQUAL(runs->hidden, 1);
    CHECK_EQUAL(runs->address, first ? border : memory);
    gb_blocks_untrack(engine, range);
    cuMemFree_v2(memory);
  }
}

/* A mapping between two holes: nothing outside is touched, and its last and first words do not make one. */
static void nothing_outside_is_touched(void) {
  const CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                    .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0}};
  const CUmemAccessDesc access = {.location = prop.location, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  CUmemGenericAllocationHandle handle = 0;
  CUdeviceptr reserved = 0;
  REQUIRE(cuMemCreate(&handle, VMM_BYTES, &prop, 0) == CUDA_SUCCESS);
  REQUIRE(cuMemAddressReserve(&reserved, 3 * VMM_BYTES, 0, 0, 0) == CUDA_SUCCESS);
  const CUdeviceptr memory = reserved + VMM_BYTES;
  REQUIRE(cuMemMap(memory, VMM_BYTES, 0, handle, 0) == CUDA_SUCCESS);
  REQUIRE(cuMemSetAccess(memory, VMM_BYTES, &access, 1) == CUDA_SUCCESS);
  REQUIRE(cuMemsetD8_v2(memory, 0xff, VMM_BYTES) == CUDA_SUCCESS && cuCtxSynchronize() == CUDA_SUCCESS);
  struct gb_blocks_range *range = tracked(memory, VMM_BYTES);
  CHECK_EQUAL(collect(&range, 1), VMM_BYTES / GB_BLOCK_BYTES);
  const uint32_t high = (uint32_t)(ARENA_BASE >> 32);
  put(memory, &high, sizeof high);
  CHECK_EQUAL(collect(&range, 1), 1);
  CHECK(runs->hidden == 0 && runs->address == memory);
  gb_blocks_untrack(engine, range);
  CHECK_EQUAL(cuMemUnmap(memory, VMM_BYTES), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemRelease(handle), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemAddressFree(reserved, 3 * VMM_BYTES), CUDA_SUCCESS);
}

/* ---- what calls cost ---- */

static unsigned calls_since(unsigned before) { return driver_calls - before; }

/* Every second block of `count` ranges of two blocks each. */
static void calls_of(uint32_t count, unsigned char *host) {
  const uint64_t bytes = 2ull * GB_BLOCK_BYTES * count;
  const CUdeviceptr memory = zeroed(bytes);
  struct gb_blocks_range **ranges = calloc(count, sizeof *ranges);
  for (uint32_t i = 0; i < count; i++) {
    ranges[i] = tracked(memory + 2ull * GB_BLOCK_BYTES * i, 2 * GB_BLOCK_BYTES);
    put_word(memory + 2ull * GB_BLOCK_BYTES * i + 8 * (i % 512), i + 1);
  }
  unsigned before = driver_calls;
  CHECK_EQUAL(collect(ranges, count), count);
  CHECK_EQUAL(calls_since(before), 4);
  CHECK_EQUAL(run_count, count);
  before = driver_calls;
  CHECK_EQUAL(gb_blocks_copy_out(engine, runs, run_count, host), CUDA_SUCCESS);
  CHECK_EQUAL(calls_since(before), count == 1 ? 2 : 4);
  before = driver_calls;
  CHECK_EQUAL(gb_blocks_copy_in(engine, runs, run_count, host), CUDA_SUCCESS);
  CHECK_EQUAL(calls_since(before), count == 1 ? 2 : 4);
  before = driver_calls;
  CHECK_EQUAL(gb_blocks_arrived(engine, runs, run_count), CUDA_SUCCESS);
  CHECK_EQUAL(calls_since(before), 3);
  before = driver_calls;
  gb_blocks_disagree(engine, runs, run_count);
  CHECK_EQUAL(calls_since(before), 3);
  CHECK_EQUAL(collect(ranges, count), count);
  CHECK_EQUAL(collect(ranges, count), 0);
  for (uint32_t i = 0; i < count; i++) {
    uint64_t word = 0;
    CHECK_EQUAL(cuMemcpyDtoH_v2(&word, memory + 2ull * GB_BLOCK_BYTES * i + 8 * (i % 512), 8), CUDA_SUCCESS);
    CHECK_EQUAL(word, i + 1);
    gb_blocks_untrack(engine, ranges[i]);
  }
  free(ranges);
  cuMemFree_v2(memory);
}

static void calls_do_not_grow_with_ranges(void) {
  unsigned char *host = malloc(500ull * GB_BLOCK_BYTES);
  const uint32_t counts[] = {1, 2, 5, 20, 500};
  for (uint32_t i = 0; i < sizeof counts / sizeof *counts; i++) calls_of(counts[i], host);
  free(host);
  const unsigned before = driver_calls;
  CHECK_EQUAL(collect(NULL, 0), 0);
  CHECK(runs == NULL && run_count == 0);
  CHECK_EQUAL(gb_blocks_arrived(engine, NULL, 0), CUDA_SUCCESS);
  CHECK_EQUAL(gb_blocks_copy_out(engine, NULL, 0, NULL), CUDA_SUCCESS);
  CHECK_EQUAL(calls_since(before), 0);
}

/* More runs than the table has room for, and more blocks than the area: several passes, and still few calls. */
static void many_runs_take_several_passes(void) {
  const uint32_t blocks = 2 * GB_BLOCKS_PIECES_MAX + 100, want = blocks / 2;
  const uint64_t bytes = (uint64_t)blocks * GB_BLOCK_BYTES;
  unsigned char *host = malloc(bytes), *back = malloc(bytes / 2);
  const CUdeviceptr memory = zeroed(bytes);
  struct gb_blocks_range *range = tracked(memory, bytes);
  memset(host, 0, bytes);
  for (uint32_t i = 1; i < blocks; i += 2) memset(host + (uint64_t)i * GB_BLOCK_BYTES, i % 255 + 1, GB_BLOCK_BYTES);
  put(memory, host, bytes);
  CHECK_EQUAL(collect(&range, 1), want);
  CHECK_EQUAL(run_count, want);
  const uint32_t area = GB_BLOCKS_AREA_BYTES / GB_BLOCK_BYTES;
  unsigned before = driver_calls;
  CHECK_EQUAL(gb_blocks_copy_out(engine, runs, run_count, back), CUDA_SUCCESS);
  CHECK_EQUAL(calls_since(before), (want + area - 1) / area * 4);
  for (uint32_t i = 0; i < want; i++)
    CHECK(memcmp(back + (uint64_t)i * GB_BLOCK_BYTES, host + (2ull * i + 1) * GB_BLOCK_BYTES, GB_BLOCK_BYTES) == 0);
  before = driver_calls;
  CHECK_EQUAL(gb_blocks_arrived(engine, runs, run_count), CUDA_SUCCESS);
  CHECK_EQUAL(calls_since(before), 6);
  before = driver_calls;
  gb_blocks_disagree(engine, runs, run_count);
  CHECK_EQUAL(calls_since(before), 6);
  struct gb_blocks_run *first = runs;
  const uint32_t first_count = run_count;
  runs = NULL;
  CHECK_EQUAL(collect(&range, 1), want);
  CHECK(runs_equal(runs, run_count, first, first_count));
  free(first);
  gb_blocks_untrack(engine, range);
  cuMemFree_v2(memory);
  free(host);
  free(back);
}

/* Large runs by themselves, small ones together, empty ones not at all, in any order. */
static void copies_of_all_sizes(void) {
  const uint32_t sizes[] = {0, 1, GB_BLOCKS_COPY_BLOCKS, 3, 0, 5, GB_BLOCKS_COPY_BLOCKS - 1, 2 * GB_BLOCKS_COPY_BLOCKS,
                            2, 0, GB_BLOCKS_COPY_BLOCKS - 1, GB_BLOCKS_COPY_BLOCKS - 1, GB_BLOCKS_COPY_BLOCKS - 1,
                            GB_BLOCKS_COPY_BLOCKS - 1, 1, 0};
  const uint32_t count = sizeof sizes / sizeof *sizes;
  struct gb_blocks_run list[16];
  uint64_t blocks = 0, at = 0;
  for (uint32_t i = 0; i < count; i++) blocks += sizes[i] + 1;
  const uint64_t bytes = blocks * GB_BLOCK_BYTES;
  uint64_t state = 77, *host = malloc(bytes), *back = malloc(bytes);
  for (uint64_t i = 0; i < bytes / 8; i++) host[i] = random_next(&state);
  const CUdeviceptr memory = zeroed(bytes), other = zeroed(bytes);
  for (uint32_t i = 0; i < count; at += sizes[i++] + 1)
    list[i] = (struct gb_blocks_run){.address = memory + at * GB_BLOCK_BYTES, .blocks = sizes[i]};
  put(memory, host, bytes);
  CHECK_EQUAL(gb_blocks_copy_out(engine, list, count, back), CUDA_SUCCESS);
  for (uint32_t i = 0; i < count; i++) list[i].address = list[i].address - memory + other;
  CHECK_EQUAL(gb_blocks_copy_in(engine, list, count, back), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemcpyDtoH_v2(back, other, bytes), CUDA_SUCCESS);
  at = 0;
  const uint64_t words = GB_BLOCK_BYTES / 8;
  for (uint32_t i = 0; i < count; at += sizes[i++] + 1) {
    CHECK(memcmp(back + at * words, host + at * words, (uint64_t)sizes[i] * GB_BLOCK_BYTES) == 0);
    for (uint64_t word = 0; word < words; word++) CHECK(back[(at + sizes[i]) * words + word] == 0);
  }
  cuMemFree_v2(memory);
  cuMemFree_v2(other);
  free(host);
  free(back);
}

/* ---- limits ---- */

static void ranges_are_checked(void) {
  const CUdeviceptr memory = zeroed(16 * GB_BLOCK_BYTES);
  struct gb_blocks_range *range = tracked(memory + 4 * GB_BLOCK_BYTES, 4 * GB_BLOCK_BYTES), *other = range;
  const struct {
    uint64_t address, bytes;
    CUresult result;
  } wrong[] = {{memory + 4 * GB_BLOCK_BYTES, GB_BLOCK_BYTES, CUDA_ERROR_ALREADY_MAPPED},
               {memory + 7 * GB_BLOCK_BYTES, 2 * GB_BLOCK_BYTES, CUDA_ERROR_ALREADY_MAPPED},
               {memory + 3 * GB_BLOCK_BYTES, 2 * GB_BLOCK_BYTES, CUDA_ERROR_ALREADY_MAPPED},
               {memory, 16 * GB_BLOCK_BYTES, CUDA_ERROR_ALREADY_MAPPED},
               {memory, 0, CUDA_ERROR_INVALID_VALUE},
               {memory, GB_BLOCK_BYTES - 1, CUDA_ERROR_INVALID_VALUE},
               {memory + 512, GB_BLOCK_BYTES, CUDA_ERROR_INVALID_VALUE},
               {memory, GB_BLOCKS_RANGE_BYTES_MAX + GB_BLOCK_BYTES, CUDA_ERROR_INVALID_VALUE},
               {0ull - GB_BLOCK_BYTES, 2 * GB_BLOCK_BYTES, CUDA_ERROR_INVALID_VALUE}};
  for (uint32_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    CHECK_EQUAL(gb_blocks_track(engine, wrong[i].address, wrong[i].bytes, &other), wrong[i].result);
    CHECK(other == NULL);
  }
  struct gb_blocks_range *twice[] = {range, range};
  struct gb_blocks_run *none = (void *)1;
  uint32_t count = 1;
  CHECK_EQUAL(collect_whole(engine, twice, 2, &none, &count), CUDA_ERROR_INVALID_VALUE);
  CHECK(none == NULL && count == 0);
  /* Directly before and behind is right. */
  struct gb_blocks_range *before = tracked(memory, 4 * GB_BLOCK_BYTES);
  struct gb_blocks_range *behind = tracked(memory + 8 * GB_BLOCK_BYTES, 8 * GB_BLOCK_BYTES);
  gb_blocks_untrack(engine, range);
  range = tracked(memory + 4 * GB_BLOCK_BYTES, 4 * GB_BLOCK_BYTES);
  CHECK_EQUAL(cuMemsetD8_v2(memory, 1, 16 * GB_BLOCK_BYTES), CUDA_SUCCESS);
  CHECK_EQUAL(cuCtxSynchronize(), CUDA_SUCCESS);
  struct gb_blocks_range *all[] = {before, range, behind};
  CHECK_EQUAL(collect(all, 3), 16);
  CHECK_EQUAL(run_count, 3); /* each within one range */
  for (uint32_t i = 0; i < 3; i++) gb_blocks_untrack(engine, all[i]);
  gb_blocks_untrack(engine, NULL);
  cuMemFree_v2(memory);
}

static void runs_are_checked(void) {
  const CUdeviceptr memory = zeroed(8 * GB_BLOCK_BYTES);
  struct gb_blocks_range *range = tracked(memory + GB_BLOCK_BYTES, 4 * GB_BLOCK_BYTES);
  const struct gb_blocks_run wrong[] = {{.address = memory, .blocks = 1},
                                        {.address = memory, .blocks = 2},
                                        {.address = memory + 4 * GB_BLOCK_BYTES, .blocks = 2},
                                        {.address = memory + 5 * GB_BLOCK_BYTES, .blocks = 1},
                                        {.address = memory + GB_BLOCK_BYTES + 16, .blocks = 1},
                                        {.address = memory + GB_BLOCK_BYTES, .blocks = UINT32_MAX}};
  CHECK_EQUAL(cuMemsetD8_v2(memory, 1, 8 * GB_BLOCK_BYTES), CUDA_SUCCESS);
  CHECK_EQUAL(cuCtxSynchronize(), CUDA_SUCCESS);
  for (uint32_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    const struct gb_blocks_run two[] = {{.address = memory + 2 * GB_BLOCK_BYTES, .blocks = 1}, wrong[i]};
    CHECK_EQUAL(gb_blocks_arrived(engine, two, 2), CUDA_ERROR_INVALID_VALUE);
  }
  CHECK_EQUAL(collect(&range, 1), 4); /* nothing happened */
  gb_blocks_disagree(engine, wrong, sizeof wrong / sizeof *wrong);
  CHECK_EQUAL(collect(&range, 1), 0);
  unsigned char byte = 0;
  CHECK_EQUAL(gb_blocks_copy_out(engine, &wrong[4], 1, &byte), CUDA_ERROR_INVALID_VALUE);
  CHECK_EQUAL(gb_blocks_copy_in(engine, &wrong[4], 1, &byte), CUDA_ERROR_INVALID_VALUE);
  gb_blocks_untrack(engine, range);
  cuMemFree_v2(memory);
}

/* What is not asked about stays as it was agreed on. */
static void parts_of_a_range(void) {
  const CUdeviceptr memory = zeroed(8 * GB_BLOCK_BYTES);
  struct gb_blocks_range *range = tracked(memory, 8 * GB_BLOCK_BYTES);
  const struct gb_blocks_run parts[] = {{memory, 2, 0}, {memory + 4 * GB_BLOCK_BYTES, 2, 0}};
  const struct gb_blocks_run wrong[] = {{memory + 4 * GB_BLOCK_BYTES, 2, 0}, {memory, 2, 0}};
  for (uint32_t i = 0; i < 8; i++) put_word(memory + (uint64_t)i * GB_BLOCK_BYTES, 1);
  struct gb_blocks_run *some = NULL;
  uint32_t count = 0;
  CHECK_EQUAL(gb_blocks_collect(engine, wrong, 2, &some, &count), CUDA_ERROR_INVALID_VALUE);
  CHECK_EQUAL(gb_blocks_collect(engine, parts, 2, &some, &count), CUDA_SUCCESS);
  CHECK(count == 2 && some[0].address == memory && some[0].blocks == 2);
  CHECK(count == 2 && some[1].address == parts[1].address && some[1].blocks == 2);
  free(some);
  CHECK_EQUAL(gb_blocks_collect(engine, parts, 2, &some, &count), CUDA_SUCCESS);
  CHECK_EQUAL(count, 0);
  CHECK_EQUAL(collect(&range, 1), 4);
  gb_blocks_untrack(engine, range);
  cuMemFree_v2(memory);
}

/* The same memory for all digests of one block: so many allocations take long. */
static CUresult allocate_shared(void *context, CUdeviceptr *address, size_t bytes) {
  static CUdeviceptr shared;
  if (bytes != 16) return allocate(context, address, bytes);
  if (shared == 0) shared = zeroed(bytes);
  *address = shared;
  return CUDA_SUCCESS;
}

static void release_shared(void *context, CUdeviceptr address, size_t bytes) {
  if (bytes != 16) release(context, address, bytes);
}

/* All ranges an engine may have, then one more; and an arena that cannot be. */
static void limits_of_an_engine(void) {
  struct gb_blocks_options options = options_of(stream, 9);
  struct gb_blocks *one = NULL;
  options.arena_base = UINT64_MAX - 4096;
  CHECK_EQUAL(gb_blocks_open(&options, &one), CUDA_ERROR_INVALID_VALUE);
  CHECK(one == NULL);
  options.arena_base = ARENA_BASE;
  options.allocate = allocate_shared;
  options.release = release_shared;
  REQUIRE(gb_blocks_open(&options, &one) == CUDA_SUCCESS);
  struct gb_blocks_range *range = NULL;
  const CUdeviceptr memory = 1ull << 40; /* tracking does not touch it */
  for (uint32_t i = 0; i < GB_BLOCKS_RANGES_MAX && check_errors == 0; i++)
    CHECK_EQUAL(gb_blocks_track(one, memory + (uint64_t)i * GB_BLOCK_BYTES, GB_BLOCK_BYTES, &range), CUDA_SUCCESS);
  CHECK_EQUAL(gb_blocks_track(one, memory - GB_BLOCK_BYTES, GB_BLOCK_BYTES, &range), CUDA_ERROR_INVALID_VALUE);
  gb_blocks_close(one);
  gb_blocks_close(NULL);
}

int main(void) {
  context_open(&stream);
  const struct gb_blocks_options options = options_of(stream, 5);
  if (gb_blocks_open(&options, &engine) != CUDA_SUCCESS) return 1;
  RUN(every_bit_is_noticed);
  RUN(a_word_is_found_at_every_place);
  RUN(other_words_are_not_found);
  RUN(a_word_in_two_blocks_marks_the_changed_one);
  RUN(nothing_outside_is_touched);
  RUN(calls_do_not_grow_with_ranges);
  RUN(many_runs_take_several_passes);
  RUN(copies_of_all_sizes);
  RUN(parts_of_a_range);
  RUN(ranges_are_checked);
  RUN(runs_are_checked);
  RUN(limits_of_an_engine);
  free(runs);
  gb_blocks_close(engine);
  CHECK_EQUAL(driver_bytes, 0);
  return check_done();
}
