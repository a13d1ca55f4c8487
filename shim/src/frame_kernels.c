/* SPDX-License-Identifier: Apache-2.0 */
/*
 * frame_kernels.c: the kernels of frame_kernels.h in PTX; the driver compiles them for its GPU.
 * Straight-line text comes from the macros below: the keys of the hash stay in registers, and
 * eight loads of 16 bytes are under way in each thread at a time.
 */
#include "frame_kernels.h"

/* x = mix(x), a 64-bit mixer: shift and multiply, three and two times. %m is scratch. */
#define MIX(x)                            \
  "  shr.u64 %m, " x ", 33;\n"            \
  "  xor.b64 " x ", " x ", %m;\n"         \
  "  mul.lo.u64 " x ", " x ", %mixa;\n"   \
  "  shr.u64 %m, " x ", 29;\n"            \
  "  xor.b64 " x ", " x ", %m;\n"         \
  "  mul.lo.u64 " x ", " x ", %mixb;\n"   \
  "  shr.u64 %m, " x ", 32;\n"            \
  "  xor.b64 " x ", " x ", %m;\n"

/* Two 32-bit keys from the next state. */
#define KEYS(a, b)                        \
  "  add.u64 %state, %state, %gamma;\n"   \
  "  mov.b64 %t, %state;\n"               \
  MIX("%t")                               \
  "  mov.b64 {%k" #a ", %k" #b "}, %t;\n"

#define LOAD(n)                                                                 \
  "  ld.global.nc.v4.u32 {%w" #n "0, %w" #n "1, %w" #n "2, %w" #n "3}, [%at + " \
  #n " * 4096];\n"

/* One product of one sum: two words and the two keys of its pair. */
#define TERM(sum, a, b, k0, k1)           \
  "  add.u32 %a, %w" a ", %k" #k0 ";\n"   \
  "  add.u32 %b, %w" b ", %k" #k1 ";\n"   \
  "  mad.wide.u32 %s" #sum ", %a, %b, %s" #sum ";\n"

/* The same pair in all four sums, each with the keys one pair further on. */
#define PAIR(a, b, k0, k1, k2, k3, k4, k5, k6, k7) \
  TERM(0, a, b, k0, k1) TERM(1, a, b, k2, k3) TERM(2, a, b, k4, k5) TERM(3, a, b, k6, k7)

#define QUAD(n, k0, k1, k2, k3, k4, k5, k6, k7, k8, k9) \
  PAIR(#n "0", #n "1", k0, k1, k2, k3, k4, k5, k6, k7)  \
  PAIR(#n "2", #n "3", k2, k3, k4, k5, k6, k7, k8, k9)

/* Adds the other lanes' x, half the warp at a time. */
#define FOLD(x, lanes)                                             \
  "  mov.b64 {%a, %b}, " x ";\n"                                   \
  "  shfl.sync.bfly.b32 %a, %a, " #lanes ", 31, 0xffffffff;\n"     \
  "  shfl.sync.bfly.b32 %b, %b, " #lanes ", 31, 0xffffffff;\n"     \
  "  mov.b64 %t, {%a, %b};\n"                                      \
  "  add.u64 " x ", " x ", %t;\n"
#define FOLD_ALL(x) FOLD(x, 16) FOLD(x, 8) FOLD(x, 4) FOLD(x, 2) FOLD(x, 1)

const char gb_frame_ptx[] =
    ".version 6.0\n"
    ".target sm_70\n"
    ".address_size 64\n"

    ".visible .entry gb_frame_hash(\n"
    "  .param .u64 p_bytes, .param .u64 p_words, .param .u64 p_seed0, .param .u64 p_seed1,\n"
    "  .param .u64 p_result)\n"
    "{\n"
    "  .reg .pred %done, %other;\n"
    "  .reg .u32 %k<38>, %thread, %block, %blocks, %a, %b, %slot;\n"
    "  .reg .u32 %w<80>;\n"
    "  .reg .u64 %s<4>, %at, %step, %i, %segments, %seed0, %seed1, %gamma, %state;\n"
    "  .reg .u64 %mixa, %mixb, %m, %t, %place, %placestep, %low, %high, %result;\n"
    "  .shared .align 8 .b64 sums[16];\n"
    "  ld.param.u64 %at, [p_bytes];\n"
    "  ld.param.u64 %segments, [p_words];\n"
    "  ld.param.u64 %seed0, [p_seed0];\n"
    "  ld.param.u64 %seed1, [p_seed1];\n"
    "  ld.param.u64 %result, [p_result];\n"
    "  mov.u64 %mixa, 0xff51afd7ed558ccd;\n"
    "  mov.u64 %mixb, 0xc4ceb9fe1a85ec53;\n"
    "  mov.u32 %thread, %tid.x;\n"
    "  mov.u32 %block, %ctaid.x;\n"
    "  mov.u32 %blocks, %nctaid.x;\n"
    "  or.b64 %gamma, %seed1, 1;\n"
    "  mov.b64 %state, %seed0;\n"
    KEYS(0, 1) KEYS(2, 3) KEYS(4, 5) KEYS(6, 7) KEYS(8, 9) KEYS(10, 11) KEYS(12, 13)
    KEYS(14, 15) KEYS(16, 17) KEYS(18, 19) KEYS(20, 21) KEYS(22, 23) KEYS(24, 25) KEYS(26, 27)
    KEYS(28, 29) KEYS(30, 31) KEYS(32, 33) KEYS(34, 35) KEYS(36, 37)
    /* A segment is 32 KiB: eight loads of 256 threads. */
    "  shr.u64 %segments, %segments, 12;\n"
    "  cvt.u64.u32 %i, %block;\n"
    "  shl.b64 %t, %i, 15;\n"
    "  add.u64 %at, %at, %t;\n"
    "  mul.wide.u32 %t, %thread, 16;\n"
    "  add.u64 %at, %at, %t;\n"
    "  mul.wide.u32 %step, %blocks, 32768;\n"
    "  shl.b64 %place, %i, 8;\n"
    "  cvt.u64.u32 %t, %thread;\n"
    "  add.u64 %place, %place, %t;\n"
    "  mul.lo.u64 %place, %place, 0x9e3779b97f4a7c15;\n"
    "  mul.wide.u32 %placestep, %blocks, 256;\n"
    "  mul.lo.u64 %placestep, %placestep, 0x9e3779b97f4a7c15;\n"
    "  mov.u64 %low, 0;\n"
    "  mov.u64 %high, 0;\n"
    "SEGMENT:\n"
    "  setp.ge.u64 %done, %i, %segments;\n"
    "  @%done bra TOTAL;\n"
    LOAD(0) LOAD(1) LOAD(2) LOAD(3) LOAD(4) LOAD(5) LOAD(6) LOAD(7)
    "  mov.u64 %s0, 0;\n"
    "  mov.u64 %s1, 0;\n"
    "  mov.u64 %s2, 0;\n"
    "  mov.u64 %s3, 0;\n"
    QUAD(0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
    QUAD(1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13)
    QUAD(2, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17)
    QUAD(3, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21)
    QUAD(4, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25)
    QUAD(5, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29)
    QUAD(6, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33)
    QUAD(7, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37)
    "  add.u64 %s1, %s1, %seed0;\n"
    MIX("%s1")
    "  add.u64 %s0, %s0, %place;\n"
    "  xor.b64 %s0, %s0, %s1;\n"
    MIX("%s0")
    "  add.u64 %low, %low, %s0;\n"
    "  add.u64 %s3, %s3, %seed1;\n"
    MIX("%s3")
    "  add.u64 %s2, %s2, %place;\n"
    "  xor.b64 %s2, %s2, %s3;\n"
    MIX("%s2")
    "  add.u64 %high, %high, %s2;\n"
    "  cvt.u64.u32 %t, %blocks;\n"
    "  add.u64 %i, %i, %t;\n"
    "  add.u64 %at, %at, %step;\n"
    "  add.u64 %place, %place, %placestep;\n"
    "  bra SEGMENT;\n"
    "TOTAL:\n"
    FOLD_ALL("%low")
    FOLD_ALL("%high")
    "  and.b32 %a, %thread, 31;\n"
    "  setp.ne.u32 %other, %a, 0;\n"
    "  shr.u32 %slot, %thread, 5;\n"
    "  shl.b32 %slot, %slot, 4;\n"
    "  mov.u32 %a, sums;\n"
    "  add.u32 %slot, %slot, %a;\n"
    "  @!%other st.shared.u64 [%slot], %low;\n"
    "  @!%other st.shared.u64 [%slot + 8], %high;\n"
    "  bar.sync 0;\n"
    /* Two threads add up the eight warps' sums, one each. */
    "  setp.ge.u32 %done, %thread, 2;\n"
    "  @%done bra FINISH;\n"
    "  shl.b32 %slot, %thread, 3;\n"
    "  add.u32 %slot, %slot, %a;\n"
    "  mov.u64 %low, 0;\n"
    "  mov.u32 %b, 0;\n"
    "WARP:\n"
    "  ld.shared.u64 %t, [%slot];\n"
    "  add.u64 %low, %low, %t;\n"
    "  add.u32 %slot, %slot, 16;\n"
    "  add.u32 %b, %b, 1;\n"
    "  setp.lt.u32 %done, %b, 8;\n"
    "  @%done bra WARP;\n"
    "  mul.wide.u32 %t, %thread, 8;\n"
    "  add.u64 %result, %result, %t;\n"
    "  red.global.add.u64 [%result], %low;\n"
    "FINISH:\n"
    "  ret;\n"
    "}\n"

    ".visible .entry gb_frame_write_back(\n"
    "  .param .u64 p_frame, .param .u64 p_host, .param .u64 p_words, .param .u64 p_now,\n"
    "  .param .u64 p_then, .param .u64 p_cancelled, .param .u32 p_epoch, .param .u64 p_written)\n"
    "{\n"
    "  .reg .pred %no, %low, %high, %done;\n"
    "  .reg .u32 %thread, %block, %blocks, %epoch, %word, %skip;\n"
    "  .reg .u32 %w<16>;\n"
    "  .reg .u64 %frame, %host, %bytes, %now, %then, %cancelled, %written;\n"
    "  .reg .u64 %i, %step, %t, %from, %to, %n0, %n1, %t0, %t1;\n"
    "  .shared .align 4 .b32 skipped;\n"
    "  ld.param.u64 %frame, [p_frame];\n"
    "  ld.param.u64 %host, [p_host];\n"
    "  ld.param.u64 %bytes, [p_words];\n"
    "  ld.param.u64 %now, [p_now];\n"
    "  ld.param.u64 %then, [p_then];\n"
    "  ld.param.u64 %cancelled, [p_cancelled];\n"
    "  ld.param.u32 %epoch, [p_epoch];\n"
    "  ld.param.u64 %written, [p_written];\n"
    "  shl.b64 %bytes, %bytes, 3;\n"
    "  mov.u32 %thread, %tid.x;\n"
    "  mov.u32 %block, %ctaid.x;\n"
    "  mov.u32 %blocks, %nctaid.x;\n"
    /* One thread of a block looks: the cancelled word lies behind the link. */
    "  setp.ne.u32 %no, %thread, 0;\n"
    "  @%no bra LOOKED;\n"
    "  ld.volatile.global.u32 %word, [%cancelled];\n"
    "  ld.volatile.global.u64 %n0, [%now];\n"
    "  ld.volatile.global.u64 %n1, [%now + 8];\n"
    "  ld.volatile.global.u64 %t0, [%then];\n"
    "  ld.volatile.global.u64 %t1, [%then + 8];\n"
    "  setp.eq.u64 %low, %n0, %t0;\n"
    "  setp.eq.u64 %high, %n1, %t1;\n"
    "  and.pred %low, %low, %high;\n"
    "  setp.eq.u32 %high, %word, %epoch;\n"
    "  or.pred %low, %low, %high;\n"
    "  selp.u32 %skip, 1, 0, %low;\n"
    "  st.shared.u32 [skipped], %skip;\n"
    "  setp.ne.u32 %no, %block, 0;\n"
    "  or.pred %no, %no, %low;\n"
    "  @%no bra LOOKED;\n"
    "  ld.volatile.global.u64 %n0, [%written];\n"
    "  add.u64 %n0, %n0, %bytes;\n"
    "  st.volatile.global.u64 [%written], %n0;\n"
    "LOOKED:\n"
    "  bar.sync 0;\n"
    "  ld.shared.u32 %skip, [skipped];\n"
    "  setp.ne.u32 %no, %skip, 0;\n"
    "  @%no bra FINISH;\n"
    /* 16 KiB of a block at a time: four loads of 16 bytes in each thread. */
    "  mul.wide.u32 %i, %block, 16384;\n"
    "  mul.wide.u32 %t, %thread, 16;\n"
    "  add.u64 %i, %i, %t;\n"
    "  mul.wide.u32 %step, %blocks, 16384;\n"
    "NEXT:\n"
    "  setp.ge.u64 %done, %i, %bytes;\n"
    "  @%done bra FINISH;\n"
    "  add.u64 %from, %frame, %i;\n"
    "  add.u64 %to, %host, %i;\n"
    "  ld.global.nc.v4.u32 {%w0, %w1, %w2, %w3}, [%from];\n"
    "  ld.global.nc.v4.u32 {%w4, %w5, %w6, %w7}, [%from + 4096];\n"
    "  ld.global.nc.v4.u32 {%w8, %w9, %w10, %w11}, [%from + 8192];\n"
    "  ld.global.nc.v4.u32 {%w12, %w13, %w14, %w15}, [%from + 12288];\n"
    "  st.global.v4.u32 [%to], {%w0, %w1, %w2, %w3};\n"
    "  st.global.v4.u32 [%to + 4096], {%w4, %w5, %w6, %w7};\n"
    "  st.global.v4.u32 [%to + 8192], {%w8, %w9, %w10, %w11};\n"
    "  st.global.v4.u32 [%to + 12288], {%w12, %w13, %w14, %w15};\n"
    "  add.u64 %i, %i, %step;\n"
    "  bra NEXT;\n"
    "FINISH:\n"
    "  ret;\n"
    "}\n";
