/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reach_test.c: what shim/src/reach.h proves of kernels: first those of gb_layers, then small ones that differ in one
 * thing from a kernel that overwrites its result, each of which must not be taken for it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../check.h"
#include "../programs/layers_kernels.h"
#include "reach.h"

#define ARENA 0x550000000000ull
#define ARENA_BYTES (1ull << 40)
#define OUT (ARENA + (1ull << 30))
#define IN (ARENA + (2ull << 30))
#define MORE (ARENA + (3ull << 30))
#define PARAMS_MAX 8

static struct gb_reach_list list;

/* Of words of 8 bytes. */
static bool prove(const char *text, const char *name, unsigned grid, unsigned block, const uint64_t *params,
                  uint32_t count) {
  uint32_t offsets[PARAMS_MAX];
  for (uint32_t i = 0; i < count; i++) offsets[i] = i * 8;
  struct gb_ptx *kernel = gb_ptx_read(text, name, offsets, count);
  list.count = 0;
  if (kernel == NULL) return false;
  const struct gb_reach_launch launch = {kernel,           (const uint8_t *)params, count * 8, {grid, 1, 1},
                                         {block, 1, 1}, ARENA,                   ARENA_BYTES};
  const bool proved = gb_reach_prove(&launch, &list);
  gb_ptx_free(kernel);
  return proved;
}
#define PROVE(text, name, grid, block, ...) \
  prove(text, name, grid, block, (const uint64_t[]){__VA_ARGS__}, sizeof((const uint64_t[]){__VA_ARGS__}) / 8)

static bool says(enum gb_reach_kind kind, uint64_t from, uint64_t bytes) {
  for (uint32_t i = 0; i < list.count; i++)
    if (list.reached[i].kind == kind && list.reached[i].from == from && list.reached[i].to == from + bytes) return true;
  return false;
}

static bool says_any(enum gb_reach_kind kind) {
  for (uint32_t i = 0; i < list.count; i++)
    if (list.reached[i].kind == kind) return true;
  return false;
}

/* ---- gb_layers: two rows of 512 words, 8 blocks of 128 threads ---- */

static void layers(void) {
  const uint64_t n = 1024, width = 512, bytes = n * 8;
  CHECK(PROVE(layers_kernels, "gb_layer_add", 8, 128, OUT, n, IN, MORE));
  CHECK(says(GB_REACH_COVER, OUT, bytes) && says(GB_REACH_READ, IN, bytes) && says(GB_REACH_READ, MORE, bytes));
  CHECK(list.count == 4 && says(GB_REACH_WRITE, OUT, bytes));
  CHECK(PROVE(layers_kernels, "gb_layer_norm", 8, 128, OUT, n, width, IN, MORE));
  CHECK(says(GB_REACH_COVER, OUT, bytes) && says(GB_REACH_READ, IN, bytes));
  CHECK(says(GB_REACH_READ, MORE, width * 8));
  CHECK(PROVE(layers_kernels, "gb_layer_matmul", 8, 128, OUT, n, width, MORE, 4096, IN));
  CHECK(says(GB_REACH_COVER, OUT, bytes) && says(GB_REACH_READ, IN, bytes));
  CHECK(says(GB_REACH_READ, MORE, 4096 * width * 8));
  CHECK(PROVE(layers_kernels, "gb_layer_attend", 8, 128, OUT, n, MORE, 16, MORE + (1 << 28), IN));
  CHECK(says(GB_REACH_COVER, OUT, bytes) && says(GB_REACH_READ, IN, bytes));
  CHECK(says(GB_REACH_READ, MORE, 16 * bytes) && says(GB_REACH_WRITE, MORE, 16 * bytes));
  CHECK(PROVE(layers_kernels, "gb_layer_embed", 8, 128, OUT, n, width, MORE, IN));
  CHECK(says(GB_REACH_COVER, OUT, bytes) && says(GB_REACH_READ, IN + 8, 16));
  CHECK(says(GB_REACH_READ_WHOLE, MORE, 1));
  CHECK(PROVE(layers_kernels, "gb_layer_reduce", 8, 128, IN, n, width, OUT));
  CHECK(says(GB_REACH_READ, OUT, 32) && says(GB_REACH_WRITE, OUT, 32) && !says_any(GB_REACH_COVER));
  CHECK(!PROVE(layers_kernels, "gb_layer_matmul_table", 8, 128, OUT, n, width, MORE, 0, 4096, IN));
}

/* Fewer threads than words: only the first round of the loop counts. */
static void rounds(void) {
  CHECK(PROVE(layers_kernels, "gb_layer_add", 2, 128, OUT, 1024, IN, MORE));
  CHECK(says(GB_REACH_COVER, OUT, 256 * 8) && says(GB_REACH_WRITE, OUT, 1024 * 8));
  CHECK(PROVE(layers_kernels, "gb_layer_add", 8, 128, OUT, 1000, IN, MORE));
  CHECK(says(GB_REACH_COVER, OUT, 1000 * 8) && says(GB_REACH_READ, IN, 1000 * 8));
  CHECK(PROVE(layers_kernels, "gb_layer_add", 8, 128, OUT, 0, IN, MORE) && list.count == 0);
}

/* ---- small ones: out, in, n; %rd4 is the thread's number, %rd5 = out + 8 * it, %rd6 = in + 8 * it ---- */

static bool small(const char *body, uint64_t n) {
  static char text[4096];
  snprintf(text, sizeof text,
           ".version 6.0\n.target sm_50\n.address_size 64\n// a comment { ; }\n"
           ".visible .entry k(.param .u64 out, .param .u64 in, .param .u64 n)\n{\n"
           " .reg .pred %%p<4>;\n .reg .b32 %%r<8>;\n .reg .b64 %%rd<20>;\n"
           " ld.param.u64 %%rd1, [out];\n ld.param.u64 %%rd2, [in];\n ld.param.u64 %%rd3, [n];\n"
           " mov.u32 %%r1, %%ctaid.x; mov.u32 %%r2, %%ntid.x; mov.u32 %%r3, %%tid.x;\n"
           " mad.lo.s32 %%r4, %%r1, %%r2, %%r3;\n cvt.s64.s32 %%rd4, %%r4; /* number */\n"
           " mul.wide.s32 %%rd7, %%r4, 8;\n add.s64 %%rd5, %%rd1, %%rd7;\n add.s64 %%rd6, %%rd2, %%rd7;\n%s\n}\n",
           body);
  return PROVE(text, "k", 4, 64, OUT, IN, n);
}

#define STORE " st.global.u64 [%rd5], %rd4;\n"
#define ALL (256 * 8)

static void taken(void) {
  CHECK(small(STORE " ret;", 0) && says(GB_REACH_COVER, OUT, ALL));
  CHECK(small(" setp.ge.s64 %p1, %rd4, %rd3;\n @%p1 bra $L_1;\n" STORE "$L_1:\n ret;", 100));
  CHECK(says(GB_REACH_COVER, OUT, 800) && says(GB_REACH_WRITE, OUT, ALL)); /* the address was there before the test */
  CHECK(small(" setp.lt.s64 %p1, %rd4, %rd3;\n @%p1 st.global.u64 [%rd5], %rd4;\n ret;", 100));
  CHECK(says(GB_REACH_COVER, OUT, 800));
  CHECK(small(" setp.ge.s64 %p1, %rd4, %rd3;\n @%p1 ret;\n" STORE " ret;", 100));
  CHECK(says(GB_REACH_COVER, OUT, 800));
  CHECK(small(" ld.global.u64 %rd8, [%rd6];\n setp.eq.s64 %p1, %rd8, 0;\n @%p1 bra A;\n mov.u64 %rd9, 1;\n bra B;\n"
              "A: mov.u64 %rd9, 2;\nB:\n st.global.u64 [%rd5], %rd9;\n ret;", 0));
  CHECK(says(GB_REACH_COVER, OUT, ALL) && says(GB_REACH_READ, IN, ALL));
  CHECK(small(" shl.b64 %rd8, %rd4, 4;\n add.s64 %rd9, %rd1, %rd8;\n st.global.v2.u64 [%rd9], {%rd4, %rd4};\n"
              " ret;", 0));
  CHECK(says(GB_REACH_COVER, OUT, 2 * ALL));
}

/* What is proved of these must not say that all of the result is overwritten. */
static void not_taken(void) {
  CHECK(small(" ld.global.u64 %rd8, [%rd6];\n setp.eq.s64 %p1, %rd8, 0;\n @%p1 st.global.u64 [%rd5], %rd4;\n"
              " ret;", 0));
  CHECK(!says_any(GB_REACH_COVER) && says(GB_REACH_WRITE, OUT, ALL));
  CHECK(small(" ld.global.u64 %rd8, [%rd6];\n setp.eq.s64 %p1, %rd8, 0;\n @%p1 bra E;\n" STORE "E: ret;", 0));
  CHECK(!says_any(GB_REACH_COVER));
  CHECK(small(" ld.global.u64 %rd8, [%rd6];\n setp.eq.s64 %p1, %rd8, 0;\n @%p1 add.s64 %rd5, %rd5, 8;\n" STORE
              " ret;", 0));
  CHECK(!says_any(GB_REACH_COVER) && says(GB_REACH_WRITE, OUT, ALL + 8));
  CHECK(small(" shl.b64 %rd8, %rd4, 4;\n add.s64 %rd9, %rd1, %rd8;\n st.global.u64 [%rd9], %rd4;\n ret;", 0));
  CHECK(!says_any(GB_REACH_COVER));
  CHECK(small(" ld.global.u64 %rd8, [%rd5];\n" STORE " ret;", 0) && says(GB_REACH_READ, OUT, ALL));
  CHECK(small(STORE " ld.global.u64 %rd8, [%rd5+8];\n ret;", 0) && says(GB_REACH_READ, OUT + 8, ALL));
  CHECK(small(" ld.global.u64 %rd8, [%rd6];\n add.s64 %rd9, %rd1, %rd8;\n ld.global.u64 %rd10, [%rd9];\n" STORE
              " ret;", 0));
  CHECK(says(GB_REACH_READ_WHOLE, OUT, 1));
  CHECK(!small(" ld.global.u64 %rd8, [%rd6];\n ld.global.u64 %rd9, [%rd8];\n" STORE " ret;", 0));
  CHECK(!small(" call foo;\n" STORE " ret;", 0));
  CHECK(!small(" cp.async.ca.shared.global [%r1], [%rd6], 16;\n" STORE " ret;", 0));
  CHECK(!small(" { .reg .b64 %rd5; }\n" STORE " ret;", 0));
  CHECK(!small(" bra NOWHERE;\n" STORE " ret;", 0));
  CHECK(!small(" sub.s64 %rd8, %rd5, %rd6;\n ld.global.u64 %rd9, [%rd6];\n add.s64 %rd10, %rd9, %rd8;\n"
               " ld.global.u64 %rd11, [%rd10];\n ret;", 0));
  CHECK(small(" ld.global.u64 %rd8, [%rd6];\n setp.ge.u64 %p1, %rd8, 4;\n @%p1 bra E;\n shl.b64 %rd8, %rd8, 3;\n"
              " add.s64 %rd8, %rd1, %rd8;\n ld.global.u64 %rd9, [%rd8];\nE:\n" STORE " ret;", 0));
  CHECK(says(GB_REACH_READ, OUT, 32));
  CHECK(small(" ld.global.s64 %rd8, [%rd6];\n setp.ge.s64 %p1, %rd8, 4;\n @%p1 bra E;\n shl.b64 %rd8, %rd8, 3;\n"
              " add.s64 %rd8, %rd1, %rd8;\n ld.global.u64 %rd9, [%rd8];\nE:\n" STORE " ret;", 0));
  CHECK(says(GB_REACH_READ_WHOLE, OUT, 1));
}

/* A loop of the data's length leaves what it changes unknown, and its stores uncertain. */
static void loops(void) {
  CHECK(small(" ld.global.u64 %rd8, [%rd6];\n mov.u64 %rd9, 0;\nL: setp.ge.u64 %p1, %rd9, %rd8;\n @%p1 bra D;\n"
              " add.s64 %rd9, %rd9, 1;\n st.global.u64 [%rd5], %rd9;\n bra L;\nD: ret;", 0));
  CHECK(!says_any(GB_REACH_COVER) && says(GB_REACH_WRITE, OUT, ALL));
  CHECK(small(" ld.global.u64 %rd8, [%rd6];\nL: sub.s64 %rd8, %rd8, 1;\n add.s64 %rd5, %rd5, 8;\n"
              " setp.ne.s64 %p1, %rd8, 0;\n @%p1 bra L;\n" STORE " ret;", 0));
  CHECK(!says_any(GB_REACH_COVER));
  CHECK(says(GB_REACH_WRITE_WHOLE, OUT, 1));
}

/* Bytes that are no PTX, or not all of it: unknown, and nothing worse. */
static void broken(void) {
  const size_t length = strlen(layers_kernels);
  char *copy = malloc(length + 1);
  srand(1);
  for (int i = 0; i < 2000; i++) {
    memcpy(copy, layers_kernels, length + 1);
    for (int k = 0; k < 3; k++) copy[(size_t)rand() % length] = (char)(32 + rand() % 95);
    if (i % 2 == 0) copy[(size_t)rand() % length] = '\0';
    (void)PROVE(copy, "gb_layer_attend", 8, 128, OUT, 1024, MORE, 16, IN, IN + 4096);
    (void)PROVE(copy, "gb_layer_matmul", 8, 128, OUT, 1024, 512, MORE, 16, IN);
  }
  free(copy);
  CHECK(!PROVE("", "k", 1, 1, OUT) && !PROVE(".entry k", "k", 1, 1, OUT) && !PROVE(".entry k(", "k", 1, 1, OUT));
  CHECK(!PROVE(".entry k(.param .u64 a) { st.global.u64 [%a", "k", 1, 1, OUT));
  CHECK(!PROVE(".entry kk() { ret; }", "k", 1, 1, OUT));
}

int main(void) {
  RUN(layers);
  RUN(rounds);
  RUN(taken);
  RUN(not_taken);
  RUN(loops);
  RUN(broken);
  return check_done();
}
