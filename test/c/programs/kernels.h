/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kernels.h: the kernels of the test programs as PTX, written by hand. Words are 64 bits; every
 * kernel runs a grid-stride loop over i < words. Their C twins for the simulated driver are in
 * driver/sim/twins/workset.c.
 */
#ifndef GB_TEST_KERNELS_H
#define GB_TEST_KERNELS_H

/* clang-format off */
#define PTX_HEAD ".version 6.0\n.target sm_50\n.address_size 64\n"
#define PTX_REGISTERS " .reg .pred %p<2>;\n .reg .b32 %r<5>;\n .reg .b64 %rd<20>;\n"

/* Before: %rd1 pointer, %rd2 words. Inside: %rd4 i, %rd9 address of word i. %rd6 is the stride. */
#define PTX_LOOP \
  " cvta.to.global.u64 %rd1, %rd1;\n" " mov.u32 %r1, %ctaid.x;\n" " mov.u32 %r2, %ntid.x;\n" \
  " mov.u32 %r3, %tid.x;\n" " mov.u32 %r4, %nctaid.x;\n" " mul.wide.u32 %rd4, %r1, %r2;\n" \
  " cvt.u64.u32 %rd5, %r3;\n" " add.u64 %rd4, %rd4, %rd5;\n" " mul.wide.u32 %rd6, %r4, %r2;\n" \
  "LOOP:\n" " setp.ge.u64 %p1, %rd4, %rd2;\n" " @%p1 bra DONE;\n" " shl.b64 %rd9, %rd4, 3;\n" \
  " add.u64 %rd9, %rd1, %rd9;\n"
#define PTX_NEXT " add.u64 %rd4, %rd4, %rd6;\n" " bra LOOP;\n" "DONE:\n"
#define PTX_END " ret;\n}\n"
/* register = mix64(register) */
#define PTX_MIX(r) \
  " mul.lo.u64 " r ", " r ", 0x9E3779B97F4A7C15;\n" \
  " shr.u64 %rd19, " r ", 32;\n" " xor.b64 " r ", " r ", %rd19;\n"

/* word = mix64(i + seed) */
#define PTX_FILL \
  ".visible .entry gb_fill(.param .u64 p, .param .u64 n, .param .u64 seed)\n{\n" \
  PTX_REGISTERS \
  " ld.param.u64 %rd1, [p];\n" " ld.param.u64 %rd2, [n];\n" " ld.param.u64 %rd3, [seed];\n" \
  PTX_LOOP \
  " add.u64 %rd7, %rd4, %rd3;\n" \
  PTX_MIX("%rd7") \
  " st.global.u64 [%rd9], %rd7;\n" \
  PTX_NEXT \
  PTX_END

/* word = word * 3 + key + i; the pointer may lie anywhere inside a buffer */
#define PTX_UPDATE \
  ".visible .entry gb_update(.param .u64 p, .param .u64 n, .param .u64 key)\n{\n" \
  PTX_REGISTERS \
  " ld.param.u64 %rd1, [p];\n" " ld.param.u64 %rd2, [n];\n" " ld.param.u64 %rd3, [key];\n" \
  PTX_LOOP \
  " ld.global.u64 %rd7, [%rd9];\n" " mul.lo.u64 %rd7, %rd7, 3;\n" " add.u64 %rd7, %rd7, %rd3;\n" \
  " add.u64 %rd7, %rd7, %rd4;\n" " st.global.u64 [%rd9], %rd7;\n" \
  PTX_NEXT \
  PTX_END

/* struct { u64 *dst; const u64 *src; u64 words; u64 key; } by value: dst = dst * 5 + (src ^ key) */
#define PTX_MIX_PAIR \
  ".visible .entry gb_mix(.param .align 8 .b8 args[32])\n{\n" \
  PTX_REGISTERS \
  " ld.param.u64 %rd1, [args];\n" " ld.param.u64 %rd10, [args+8];\n" \
  " ld.param.u64 %rd2, [args+16];\n" " ld.param.u64 %rd3, [args+24];\n" \
  " cvta.to.global.u64 %rd10, %rd10;\n" \
  PTX_LOOP \
  " shl.b64 %rd11, %rd4, 3;\n" " add.u64 %rd11, %rd10, %rd11;\n" \
  " ld.global.u64 %rd12, [%rd11];\n" " xor.b64 %rd12, %rd12, %rd3;\n" \
  " ld.global.u64 %rd7, [%rd9];\n" " mul.lo.u64 %rd7, %rd7, 5;\n" \
  " add.u64 %rd7, %rd7, %rd12;\n" " st.global.u64 [%rd9], %rd7;\n" \
  PTX_NEXT \
  PTX_END

/* *out += sum of mix64(word + i) */
#define PTX_CHECKSUM \
  ".visible .entry gb_checksum(.param .u64 p, .param .u64 n, .param .u64 out)\n{\n" \
  PTX_REGISTERS \
  " ld.param.u64 %rd1, [p];\n" " ld.param.u64 %rd2, [n];\n" " ld.param.u64 %rd3, [out];\n" \
  " cvta.to.global.u64 %rd3, %rd3;\n" " mov.u64 %rd13, 0;\n" \
  PTX_LOOP \
  " ld.global.u64 %rd7, [%rd9];\n" " add.u64 %rd7, %rd7, %rd4;\n" \
  PTX_MIX("%rd7") \
  " add.u64 %rd13, %rd13, %rd7;\n" \
  PTX_NEXT \
  " atom.global.add.u64 %rd14, [%rd3], %rd13;\n" \
  PTX_END

#define PTX_EMPTY ".visible .entry gb_empty()\n{\n" PTX_END

/* Waits on the device's clock. */
#define PTX_SPIN \
  ".visible .entry gb_spin(.param .u64 nanoseconds)\n{\n" \
  PTX_REGISTERS \
  " ld.param.u64 %rd1, [nanoseconds];\n" " mov.u64 %rd2, %globaltimer;\n" \
  "AGAIN:\n" " mov.u64 %rd3, %globaltimer;\n" " sub.u64 %rd4, %rd3, %rd2;\n" \
  " setp.lt.u64 %p1, %rd4, %rd1;\n" " @%p1 bra AGAIN;\n" \
  PTX_END
/* clang-format on */

static const char test_kernels[] =
    PTX_HEAD PTX_FILL PTX_UPDATE PTX_MIX_PAIR PTX_CHECKSUM PTX_EMPTY PTX_SPIN;

#endif
