/* SPDX-License-Identifier: Apache-2.0 */
/*
 * text_test.c: writes the kernels' PTX, and launches of their twins with the memory before and after, to a folder, for
 * ptx_check.py, which follows the text instruction by instruction: without a GPU the text itself would never run.
 * text_test FOLDER
 */
#include "harness.h"

#define BLOCKS 24u
#define PIECES 7u
/* So small that both halves of a word count: in a large arena one half nearly decides. */
#define SMALL_ARENA_BYTES (1u << 20)
/* The memory of a case: blocks, an area for as many, the table, digests, flags. */
#define AREA_AT ((uint64_t)BLOCKS * GB_BLOCK_BYTES)
#define TABLE_AT (2 * AREA_AT)
#define DIGESTS_AT (TABLE_AT + 4096)
#define FLAGS_AT (DIGESTS_AT + 4096)
#define CASE_BYTES (FLAGS_AT + 4096)

static const char *folder;
static CUstream stream;
static CUmodule module;
static CUdeviceptr memory;
static unsigned char bytes[CASE_BYTES];
static uint64_t state = 12345;
static uint32_t blocks; /* of all pieces */

static FILE *file_open(const char *name) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE *file = fopen(path, "w");
  if (file == NULL) exit(1);
  return file;
}

static void memory_save(const char *when, const char *name) {
  char file_name[64];
  snprintf(file_name, sizeof file_name, "%s.%s", name, when);
  FILE *file = file_open(file_name);
  CHECK_EQUAL(fwrite(bytes, 1, sizeof bytes, file), sizeof bytes);
  fclose(file);
}

/* Launches the twin; the case's name, its parameters, and the memory on both sides of it are written. */
static void launch_saved(const char *name, const char *entry, uint32_t grid, const uint64_t *values,
                         const uint32_t *sizes, uint32_t count) {
  void *params[8];
  CUfunction function = NULL;
  memory_save("before", name);
  FILE *file = file_open(name);
  fprintf(file, "%s %u %llu", entry, grid, (unsigned long long)memory);
  for (uint32_t i = 0; i < count; i++) {
    params[i] = (void *)&values[i];
    fprintf(file, " %u:%llu", sizes[i], (unsigned long long)values[i]);
  }
  fclose(file);
  CHECK_EQUAL(cuMemcpyHtoD_v2(memory, bytes, sizeof bytes), CUDA_SUCCESS);
  CHECK_EQUAL(cuModuleGetFunction(&function, module, entry), CUDA_SUCCESS);
  CHECK_EQUAL(cuLaunchKernel(function, grid, 1, 1, GB_BLOCKS_THREADS, 1, 1, 0, stream, params, NULL), CUDA_SUCCESS);
  CHECK_EQUAL(cuStreamSynchronize(stream), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemcpyDtoH_v2(bytes, memory, sizeof bytes), CUDA_SUCCESS);
  memory_save("after", name);
}

static void hash_saved(const char *name, uint32_t grid) {
  const uint64_t values[] = {memory + TABLE_AT, PIECES, blocks, 0x0123456789abcdefull, 0xfedcba9876543210ull,
                             ARENA_BASE, SMALL_ARENA_BYTES, memory + FLAGS_AT};
  const uint32_t sizes[] = {8, 4, 4, 8, 8, 8, 8, 8};
  memset(bytes + FLAGS_AT, 0xee, 4096); /* every flag is written, none behind */
  launch_saved(name, GB_BLOCKS_HASH_NAME, grid, values, sizes, 8);
}

static void copy_saved(const char *name, uint32_t grid, uint32_t out) {
  const uint64_t values[] = {memory + TABLE_AT, PIECES, blocks, memory + AREA_AT, out};
  const uint32_t sizes[] = {8, 4, 4, 8, 4};
  launch_saved(name, GB_BLOCKS_COPY_NAME, grid, values, sizes, 5);
}

/* Pieces of every kind: with a neighbour on neither side, on one, on both; all changed; taken back. */
static void table_make(void) {
  const uint32_t counts[PIECES] = {1, 4, 2, 1, 3, 2, 5};
  const uint32_t flags[PIECES] = {0,
                                  GB_BLOCKS_PIECE_AFTER,
                                  GB_BLOCKS_PIECE_BEFORE | GB_BLOCKS_PIECE_AFTER,
                                  GB_BLOCKS_PIECE_BEFORE,
                                  GB_BLOCKS_PIECE_CHANGED,
                                  GB_BLOCKS_PIECE_DISAGREE,
                                  0};
  struct gb_blocks_piece *table = (struct gb_blocks_piece *)(bytes + TABLE_AT);
  uint32_t at = 0;
  for (uint32_t i = 0; i < PIECES; i++) {
    table[i] = (struct gb_blocks_piece){.address = memory + (uint64_t)at * GB_BLOCK_BYTES,
                                        .digests = memory + DIGESTS_AT + 16ull * at,
                                        .first = blocks,
                                        .blocks = counts[i],
                                        .flags = flags[i]};
    blocks += counts[i];
    at += counts[i] + (i == 0 || i > 4); /* a block that is nobody's */
  }
  CHECK(at <= BLOCKS);
}

static void word_put(uint64_t at, uint64_t word) { memcpy(bytes + at, &word, sizeof word); }

/* Random blocks, some of zeroes and of ones; no addresses. */
static void content_make(void) {
  for (uint64_t i = 0; i < AREA_AT; i += 8) word_put(i, random_next(&state));
  memset(bytes + 2 * GB_BLOCK_BYTES, 0, GB_BLOCK_BYTES);
  memset(bytes + 9 * GB_BLOCK_BYTES, 0xff, GB_BLOCK_BYTES);
  memset(bytes + 16 * GB_BLOCK_BYTES, 0, 2 * GB_BLOCK_BYTES);
}

/* Words of the arena in about every second block, at a place of its own: where one lane's bytes end or one load's, so
 * that the word lies in two of them or in two blocks, or anywhere. */
static void words_put(uint32_t turn) {
  for (uint32_t i = 0; i < BLOCKS; i++) {
    const uint32_t load = (i + 5 * turn) % 8, kind = (i / 2 + turn) % 4;
    const uint32_t any = random_below(&state, GB_BLOCK_BYTES / 4) * 4, lane = random_below(&state, 32);
    const uint32_t places[] = {512 * load + 508, 4092, 512 * load + 16 * lane + 12, any}, place = places[kind];
    const uint64_t at = i * (uint64_t)GB_BLOCK_BYTES + place;
    if ((kind == 0 || random_below(&state, 2)) && at + 8 <= AREA_AT)
      word_put(at, ARENA_BASE + random_next(&state) % SMALL_ARENA_BYTES);
  }
}

int main(int argc, char **argv) {
  if (argc != 2) return 2;
  folder = argv[1];
  FILE *text = file_open("kernels.ptx");
  fputs(gb_blocks_ptx, text);
  fclose(text);
  context_open(&stream);
  CHECK_EQUAL(cuModuleLoadData(&module, gb_blocks_ptx), CUDA_SUCCESS);
  CHECK_EQUAL(cuMemAlloc_v2(&memory, sizeof bytes), CUDA_SUCCESS);
  content_make();
  table_make();
  hash_saved("case-first", 1);
  hash_saved("case-same", 3);
  for (uint32_t turn = 0; turn < 6; turn++) {
    char name[32];
    words_put(turn);
    snprintf(name, sizeof name, "case-words-%u", turn);
    hash_saved(name, 1 + turn % 3);
    content_make();
  }
  copy_saved("case-copy-out", 2, 1);
  memset(bytes, 0x33, AREA_AT);
  copy_saved("case-copy-in", 1, 0);
  if (check_errors != 0) return 1;
  fprintf(stderr, "ok   the text and its cases are written\n");
  return 0;
}
