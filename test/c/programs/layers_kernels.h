/* SPDX-License-Identifier: Apache-2.0 */
/*
 * layers_kernels.h: the kernels of gb_layers as PTX, written by hand; their C twins for the simulated driver are in
 * driver/sim/twins/layers.c, and what they compute once more on the CPU in layers_reference.h. Words are 64 bits,
 * arithmetic is exact, so results are the same bits wherever a kernel runs. Each runs a grid-stride loop over the
 * n = rows * width words it writes; row and column of word i are i / width and i % width.
 *
 * Every word a kernel makes has bits 31 and 63 set (WORD), so none looks like an address by chance.
 */
#ifndef GB_TEST_LAYERS_KERNELS_H
#define GB_TEST_LAYERS_KERNELS_H

/* clang-format off */
#define L_HEAD ".version 6.0\n.target sm_50\n.address_size 64\n"
#define L_REGISTERS " .reg .pred %p<3>;\n .reg .b32 %r<5>;\n .reg .b64 %rd<32>;\n"
#define L_LOAD(register, name) " ld.param.u64 " register ", [" name "];\n"
#define L_GLOBAL(register) " cvta.to.global.u64 " register ", " register ";\n"
#define L_PARAM(name) ".param .u64 " name

/* Before: %rd1 the words written, %rd2 n, %rd3 width. Inside: %rd4 i, %rd7 its row, %rd8 its column, %rd9 where it is
 * written, %rd10 i * 8. %rd6 is the stride, %rd5 is used up. */
#define L_LOOP \
  L_GLOBAL("%rd1") \
  " mov.u32 %r1, %ctaid.x;\n" " mov.u32 %r2, %ntid.x;\n" " mov.u32 %r3, %tid.x;\n" \
  " mov.u32 %r4, %nctaid.x;\n" " mul.wide.u32 %rd4, %r1, %r2;\n" " cvt.u64.u32 %rd5, %r3;\n" \
  " add.u64 %rd4, %rd4, %rd5;\n" " mul.wide.u32 %rd6, %r4, %r2;\n" \
  "LOOP:\n" " setp.ge.u64 %p1, %rd4, %rd2;\n" " @%p1 bra DONE;\n" \
  " div.u64 %rd7, %rd4, %rd3;\n" " rem.u64 %rd8, %rd4, %rd3;\n" \
  " shl.b64 %rd10, %rd4, 3;\n" " add.u64 %rd9, %rd1, %rd10;\n"
#define L_NEXT " add.u64 %rd4, %rd4, %rd6;\n" " bra LOOP;\n" "DONE:\n" " ret;\n}\n"
/* register = mix64(register); %rd31 is used up. */
#define L_MIX(r) \
  " mul.lo.u64 " r ", " r ", 0x9E3779B97F4A7C15;\n" " shr.u64 %rd31, " r ", 32;\n" " xor.b64 " r ", " r ", %rd31;\n"
#define L_WORD(r) L_MIX(r) " or.b64 " r ", " r ", 0x8000000080000000;\n"
/* register = word `index` of `base`; %rd30 is used up. */
#define L_AT(register, base, index) \
  " shl.b64 %rd30, " index ", 3;\n" " add.u64 %rd30, " base ", %rd30;\n" " ld.global.u64 " register ", [%rd30];\n"

/* out = row of the table that feed names; feed: position, then the token of each row */
#define L_EMBED \
  ".visible .entry gb_layer_embed(" L_PARAM("out") ", " L_PARAM("n") ", " L_PARAM("width") ", " L_PARAM("table") \
  ", " L_PARAM("feed") ")\n{\n" L_REGISTERS \
  L_LOAD("%rd1", "out") L_LOAD("%rd2", "n") L_LOAD("%rd3", "width") L_LOAD("%rd11", "table") L_LOAD("%rd12", "feed") \
  L_GLOBAL("%rd11") L_GLOBAL("%rd12") \
  L_LOOP \
  " add.u64 %rd13, %rd7, 1;\n" \
  L_AT("%rd14", "%rd12", "%rd13") \
  " mad.lo.u64 %rd14, %rd14, %rd3, %rd8;\n" \
  L_AT("%rd15", "%rd11", "%rd14") \
  " st.global.u64 [%rd9], %rd15;\n" \
  L_NEXT

/* out = WORD((x * 3) ^ norm[column] + key); the key is 0, or a variable of the module */
#define L_NORM_OF(name, key) \
  ".visible .entry " name "(" L_PARAM("out") ", " L_PARAM("n") ", " L_PARAM("width") ", " L_PARAM("x") ", " \
  L_PARAM("norm") ")\n{\n" L_REGISTERS \
  L_LOAD("%rd1", "out") L_LOAD("%rd2", "n") L_LOAD("%rd3", "width") L_LOAD("%rd11", "x") L_LOAD("%rd12", "norm") \
  L_GLOBAL("%rd11") L_GLOBAL("%rd12") key \
  L_LOOP \
  L_AT("%rd13", "%rd11", "%rd4") \
  L_AT("%rd14", "%rd12", "%rd8") \
  " mul.lo.u64 %rd13, %rd13, 3;\n" " xor.b64 %rd13, %rd13, %rd14;\n" " add.u64 %rd13, %rd13, %rd16;\n" \
  L_WORD("%rd13") \
  " st.global.u64 [%rd9], %rd13;\n" \
  L_NEXT
#define L_NORM L_NORM_OF("gb_layer_norm", " mov.u64 %rd16, 0;\n")
#define L_NORM_SYMBOL \
  ".visible .const .align 8 .u64 gb_layer_key;\n" \
  L_NORM_OF("gb_layer_norm_symbol", " ld.const.u64 %rd16, [gb_layer_key];\n")

/* out = WORD(sum over k < depth of w[k * width + column] * x[row * width + k % width]) */
#define L_MATMUL_BODY \
  L_GLOBAL("%rd11") L_GLOBAL("%rd13") \
  L_LOOP \
  " mov.u64 %rd14, 0;\n" " mov.u64 %rd15, 0;\n" " mov.u64 %rd16, 0;\n" " mul.lo.u64 %rd17, %rd7, %rd3;\n" \
  "DEEPER:\n" " setp.ge.u64 %p2, %rd14, %rd12;\n" " @%p2 bra SUMMED;\n" \
  " mad.lo.u64 %rd18, %rd14, %rd3, %rd8;\n" \
  L_AT("%rd19", "%rd11", "%rd18") \
  " add.u64 %rd20, %rd17, %rd16;\n" \
  L_AT("%rd21", "%rd13", "%rd20") \
  " mad.lo.u64 %rd15, %rd19, %rd21, %rd15;\n" \
  " add.u64 %rd14, %rd14, 1;\n" " add.u64 %rd16, %rd16, 1;\n" \
  " setp.ge.u64 %p2, %rd16, %rd3;\n" " @%p2 mov.u64 %rd16, 0;\n" " bra DEEPER;\n" \
  "SUMMED:\n" \
  L_WORD("%rd15") \
  " st.global.u64 [%rd9], %rd15;\n" \
  L_NEXT
#define L_MATMUL \
  ".visible .entry gb_layer_matmul(" L_PARAM("out") ", " L_PARAM("n") ", " L_PARAM("width") ", " L_PARAM("w") ", " \
  L_PARAM("depth") ", " L_PARAM("x") ")\n{\n" L_REGISTERS \
  L_LOAD("%rd1", "out") L_LOAD("%rd2", "n") L_LOAD("%rd3", "width") L_LOAD("%rd11", "w") L_LOAD("%rd12", "depth") \
  L_LOAD("%rd13", "x") \
  L_MATMUL_BODY
/* The same six in a structure by value. */
#define L_MATMUL_STRUCT \
  ".visible .entry gb_layer_matmul_struct(.param .align 8 .b8 args[48])\n{\n" L_REGISTERS \
  L_LOAD("%rd1", "args") L_LOAD("%rd2", "args+8") L_LOAD("%rd3", "args+16") L_LOAD("%rd11", "args+24") \
  L_LOAD("%rd12", "args+32") L_LOAD("%rd13", "args+40") \
  L_MATMUL_BODY
/* The weights are at table[index]. */
#define L_MATMUL_TABLE \
  ".visible .entry gb_layer_matmul_table(" L_PARAM("out") ", " L_PARAM("n") ", " L_PARAM("width") ", " \
  L_PARAM("table") ", " L_PARAM("index") ", " L_PARAM("depth") ", " L_PARAM("x") ")\n{\n" L_REGISTERS \
  L_LOAD("%rd1", "out") L_LOAD("%rd2", "n") L_LOAD("%rd3", "width") L_LOAD("%rd22", "table") \
  L_LOAD("%rd23", "index") L_LOAD("%rd12", "depth") L_LOAD("%rd13", "x") \
  L_GLOBAL("%rd22") \
  L_AT("%rd11", "%rd22", "%rd23") \
  L_MATMUL_BODY

/* x becomes row `position % capacity` of kv; out = WORD(sum over the rows p there of kv[p] * (2 p + 1)) */
#define L_ATTEND \
  ".visible .entry gb_layer_attend(" L_PARAM("out") ", " L_PARAM("n") ", " L_PARAM("kv") ", " L_PARAM("capacity") \
  ", " L_PARAM("feed") ", " L_PARAM("x") ")\n{\n" L_REGISTERS \
  L_LOAD("%rd1", "out") L_LOAD("%rd2", "n") L_LOAD("%rd11", "kv") L_LOAD("%rd12", "capacity") \
  L_LOAD("%rd13", "feed") L_LOAD("%rd14", "x") \
  L_GLOBAL("%rd11") L_GLOBAL("%rd13") L_GLOBAL("%rd14") " mov.u64 %rd3, 1;\n" \
  " ld.global.u64 %rd15, [%rd13];\n" " rem.u64 %rd16, %rd15, %rd12;\n" " add.u64 %rd15, %rd15, 1;\n" \
  " min.u64 %rd15, %rd15, %rd12;\n" \
  L_LOOP \
  L_AT("%rd17", "%rd14", "%rd4") \
  " mad.lo.u64 %rd18, %rd16, %rd2, %rd4;\n" " shl.b64 %rd18, %rd18, 3;\n" " add.u64 %rd18, %rd11, %rd18;\n" \
  " st.global.u64 [%rd18], %rd17;\n" \
  " mov.u64 %rd19, 0;\n" " mov.u64 %rd20, 0;\n" \
  "EARLIER:\n" " setp.ge.u64 %p2, %rd19, %rd15;\n" " @%p2 bra SUMMED;\n" \
  " mad.lo.u64 %rd21, %rd19, %rd2, %rd4;\n" \
  L_AT("%rd22", "%rd11", "%rd21") \
  " shl.b64 %rd23, %rd19, 1;\n" " add.u64 %rd23, %rd23, 1;\n" " mad.lo.u64 %rd20, %rd22, %rd23, %rd20;\n" \
  " add.u64 %rd19, %rd19, 1;\n" " bra EARLIER;\n" \
  "SUMMED:\n" \
  L_WORD("%rd20") \
  " st.global.u64 [%rd9], %rd20;\n" \
  L_NEXT

/* out = WORD(a * 5 + b) */
#define L_ADD \
  ".visible .entry gb_layer_add(" L_PARAM("out") ", " L_PARAM("n") ", " L_PARAM("a") ", " L_PARAM("b") ")\n{\n" \
  L_REGISTERS \
  L_LOAD("%rd1", "out") L_LOAD("%rd2", "n") L_LOAD("%rd11", "a") L_LOAD("%rd12", "b") \
  L_GLOBAL("%rd11") L_GLOBAL("%rd12") " mov.u64 %rd3, 1;\n" \
  L_LOOP \
  L_AT("%rd13", "%rd11", "%rd4") \
  L_AT("%rd14", "%rd12", "%rd4") \
  " mad.lo.u64 %rd13, %rd13, 5, %rd14;\n" \
  L_WORD("%rd13") \
  " st.global.u64 [%rd9], %rd13;\n" \
  L_NEXT

/* For each row: result[2 row] = max of logit with its column in the low 16 bits, result[2 row + 1] += mix64(logit + i).
 * Reads n words; writes two for each row. */
#define L_REDUCE \
  ".visible .entry gb_layer_reduce(" L_PARAM("logits") ", " L_PARAM("n") ", " L_PARAM("width") ", " \
  L_PARAM("result") ")\n{\n" L_REGISTERS \
  L_LOAD("%rd1", "logits") L_LOAD("%rd2", "n") L_LOAD("%rd3", "width") L_LOAD("%rd11", "result") \
  L_GLOBAL("%rd11") \
  L_LOOP \
  " ld.global.u64 %rd12, [%rd9];\n" \
  " add.u64 %rd13, %rd12, %rd4;\n" \
  L_MIX("%rd13") \
  " and.b64 %rd12, %rd12, 0xFFFFFFFFFFFF0000;\n" " or.b64 %rd12, %rd12, %rd8;\n" \
  " shl.b64 %rd14, %rd7, 4;\n" " add.u64 %rd14, %rd11, %rd14;\n" \
  " atom.global.max.u64 %rd15, [%rd14], %rd12;\n" " atom.global.add.u64 %rd15, [%rd14+8], %rd13;\n" \
  L_NEXT
/* clang-format on */

static const char layers_kernels[] = L_HEAD L_EMBED L_NORM L_NORM_SYMBOL L_MATMUL L_MATMUL_STRUCT L_MATMUL_TABLE
    L_ATTEND L_ADD L_REDUCE;

#endif
