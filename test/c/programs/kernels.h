/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kernels.h: the kernels of the test programs as PTX, written by hand. Words are 64 bits; every kernel runs a grid-stride
 * loop over i < words. Their C twins for the simulated driver are in driver/sim/twins/workset.c.
 */
#ifndef GB_TEST_KERNELS_H
#define GB_TEST_KERNELS_H

#define PTX_HEAD ".version 6.0\n.target sm_50\n.address_size 64\n"

/* %rd1: pointer, %rd2: words, %rd4: i, %rd6: stride, %rd9: address of word i. */
#define PTX_REGISTERS " .reg .pred %p<2>;\n .reg .b32 %r<5>;\n .reg .b64 %rd<20>;\n"
#define PTX_LOOP                                                                                                   \
  " cvta.to.global.u64 %rd1, %rd1;\n"                                                                              \
  " mov.u32 %r1, %ctaid.x;\n mov.u32 %r2, %ntid.x;\n mov.u32 %r3, %tid.x;\n mov.u32 %r4, %nctaid.x;\n"             \
  " mul.wide.u32 %rd4, %r1, %r2;\n cvt.u64.u32 %rd5, %r3;\n add.u64 %rd4, %rd4, %rd5;\n mul.wide.u32 %rd6, %r4, %r2;\n" \
  "LOOP:\n setp.ge.u64 %p1, %rd4, %rd2;\n @%p1 bra DONE;\n"                                                        \
  " shl.b64 %rd9, %rd4, 3;\n add.u64 %rd9, %rd1, %rd9;\n"
#define PTX_NEXT " add.u64 %rd4, %rd4, %rd6;\n bra LOOP;\nDONE:\n ret;\n}\n"
/* register = mix64(register) */
#define PTX_MIX(register) \
  " mul.lo.u64 " register ", " register ", 0x9E3779B97F4A7C15;\n shr.u64 %rd19, " register ", 32;\n xor.b64 " register ", " register ", %rd19;\n"

/* word = mix64(i + seed) */
#define PTX_FILL                                                                                            \
  ".visible .entry gb_fill(.param .u64 fill_p, .param .u64 fill_words, .param .u64 fill_seed)\n{\n"         \
  PTX_REGISTERS " ld.param.u64 %rd1, [fill_p];\n ld.param.u64 %rd2, [fill_words];\n ld.param.u64 %rd3, [fill_seed];\n" \
  PTX_LOOP " add.u64 %rd7, %rd4, %rd3;\n" PTX_MIX("%rd7") " st.global.u64 [%rd9], %rd7;\n" PTX_NEXT

/* word = word * 3 + key + i; the pointer may lie anywhere inside a buffer */
#define PTX_UPDATE                                                                                          \
  ".visible .entry gb_update(.param .u64 up_p, .param .u64 up_words, .param .u64 up_key)\n{\n"              \
  PTX_REGISTERS " ld.param.u64 %rd1, [up_p];\n ld.param.u64 %rd2, [up_words];\n ld.param.u64 %rd3, [up_key];\n" \
  PTX_LOOP " ld.global.u64 %rd7, [%rd9];\n mul.lo.u64 %rd7, %rd7, 3;\n add.u64 %rd7, %rd7, %rd3;\n"         \
  " add.u64 %rd7, %rd7, %rd4;\n st.global.u64 [%rd9], %rd7;\n" PTX_NEXT

/* struct { u64 *dst; const u64 *src; u64 words; u64 key; } by value: dst = dst * 5 + (src ^ key) */
#define PTX_MIX_KERNEL                                                                                      \
  ".visible .entry gb_mix(.param .align 8 .b8 mix_args[32])\n{\n"                                           \
  PTX_REGISTERS " ld.param.u64 %rd1, [mix_args];\n ld.param.u64 %rd10, [mix_args+8];\n"                     \
  " ld.param.u64 %rd2, [mix_args+16];\n ld.param.u64 %rd3, [mix_args+24];\n cvta.to.global.u64 %rd10, %rd10;\n" \
  PTX_LOOP " shl.b64 %rd11, %rd4, 3;\n add.u64 %rd11, %rd10, %rd11;\n ld.global.u64 %rd12, [%rd11];\n"      \
  " xor.b64 %rd12, %rd12, %rd3;\n ld.global.u64 %rd7, [%rd9];\n mul.lo.u64 %rd7, %rd7, 5;\n"                \
  " add.u64 %rd7, %rd7, %rd12;\n st.global.u64 [%rd9], %rd7;\n" PTX_NEXT

/* *out += sum of mix64(word + i) */
#define PTX_CHECKSUM                                                                                        \
  ".visible .entry gb_checksum(.param .u64 sum_p, .param .u64 sum_words, .param .u64 sum_out)\n{\n"         \
  PTX_REGISTERS " ld.param.u64 %rd1, [sum_p];\n ld.param.u64 %rd2, [sum_words];\n ld.param.u64 %rd3, [sum_out];\n" \
  " cvta.to.global.u64 %rd3, %rd3;\n mov.u64 %rd13, 0;\n"                                                   \
  PTX_LOOP " ld.global.u64 %rd7, [%rd9];\n add.u64 %rd7, %rd7, %rd4;\n" PTX_MIX("%rd7")                     \
  " add.u64 %rd13, %rd13, %rd7;\n add.u64 %rd4, %rd4, %rd6;\n bra LOOP;\nDONE:\n"                           \
  " atom.global.add.u64 %rd14, [%rd3], %rd13;\n ret;\n}\n"

#define PTX_EMPTY ".visible .entry gb_empty()\n{\n ret;\n}\n"

/* Waits on the device's clock. */
#define PTX_SPIN                                                                                            \
  ".visible .entry gb_spin(.param .u64 spin_ns)\n{\n"                                                       \
  PTX_REGISTERS " ld.param.u64 %rd1, [spin_ns];\n mov.u64 %rd2, %globaltimer;\n"                            \
  "AGAIN:\n mov.u64 %rd3, %globaltimer;\n sub.u64 %rd4, %rd3, %rd2;\n setp.lt.u64 %p1, %rd4, %rd1;\n @%p1 bra AGAIN;\n ret;\n}\n"

static const char test_kernels[] = PTX_HEAD PTX_FILL PTX_UPDATE PTX_MIX_KERNEL PTX_CHECKSUM PTX_EMPTY PTX_SPIN;

#endif
