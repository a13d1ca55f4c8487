/* SPDX-License-Identifier: Apache-2.0 */
/*
 * blocks_kernels.c: the kernels of blocks_kernels.h in PTX; the driver compiles them for its GPU. Straight-line text
 * comes from the macros below: the keys of the hash stay in registers, and eight loads of 16 bytes are under way in
 * each thread at a time. %w<n><i>: word i of load n, 512 * n + 16 * lane + 4 * i bytes into the block.
 */
#include "blocks_kernels.h"

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

#define WORDS(n) "{%w" #n "0, %w" #n "1, %w" #n "2, %w" #n "3}"
#define LOAD(n) "  ld.global.nc.v4.u32 " WORDS(n) ", [%at + " #n " * 512];\n"
#define STORE(n) "  st.global.v4.u32 [%to + " #n " * 512], " WORDS(n) ";\n"
#define CLEAR(n)                                          \
  "  mov.u32 %w" #n "0, 0;\n  mov.u32 %w" #n "1, 0;\n"    \
  "  mov.u32 %w" #n "2, 0;\n  mov.u32 %w" #n "3, 0;\n"
#define EIGHT(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)

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

/* Two sums with the place of the lane to 64 bits. */
#define JOIN(into, sum, other, seed)            \
  "  add.u64 " other ", " other ", " seed ";\n" \
  MIX(other)                                    \
  "  add.u64 " into ", " sum ", %place;\n"      \
  "  xor.b64 " into ", " into ", " other ";\n"  \
  MIX(into)

/* Adds the other lanes' x, half the warp at a time: every lane has the whole sum. */
#define FOLD(x, lanes)                                             \
  "  mov.b64 {%a, %b}, " x ";\n"                                   \
  "  shfl.sync.bfly.b32 %a, %a, " #lanes ", 31, 0xffffffff;\n"     \
  "  shfl.sync.bfly.b32 %b, %b, " #lanes ", 31, 0xffffffff;\n"     \
  "  mov.b64 %t, {%a, %b};\n"                                      \
  "  add.u64 " x ", " x ", %t;\n"
#define FOLD_ALL(x) FOLD(x, 16) FOLD(x, 8) FOLD(x, 4) FOLD(x, 2) FOLD(x, 1)

/* %hidden: or the word of these two halves lies in the arena. */
#define LOOK(low, high)                                      \
  "  mov.b64 %t, {" low ", " high "};\n"                     \
  "  sub.u64 %t, %t, %arena;\n"                              \
  "  setp.lt.or.u64 %hidden, %t, %arenabytes, %hidden;\n"
#define LOOK_WITHIN(n)              \
  LOOK("%w" #n "0", "%w" #n "1")    \
  LOOK("%w" #n "1", "%w" #n "2")    \
  LOOK("%w" #n "2", "%w" #n "3")
/* The word that begins with the last four bytes of a lane's load ends with the first four of the next lane's, and
 * lane 31's with the first four of lane 0's next load. */
#define LOOK_ACROSS(n, next)                                        \
  "  selp.u32 %a, %w" #next "0, %w" #n "0, %first;\n"               \
  "  shfl.sync.idx.b32 %b, %a, %nextlane, 31, 0xffffffff;\n"        \
  LOOK("%w" #n "3", "%b")

/* What both kernels begin with: %warp, %warps, %lane, %table, %pieces, %blocks. */
#define PLACES                             \
  "  ld.param.u64 %table, [p_table];\n"    \
  "  ld.param.u32 %pieces, [p_pieces];\n"  \
  "  ld.param.u32 %blocks, [p_blocks];\n"  \
  "  mov.u32 %a, %tid.x;\n"                \
  "  and.b32 %lane, %a, 31;\n"             \
  "  shr.u32 %a, %a, 5;\n"                 \
  "  mov.u32 %b, %ctaid.x;\n"              \
  "  mad.lo.u32 %warp, %b, 8, %a;\n"       \
  "  mov.u32 %warps, %nctaid.x;\n"         \
  "  shl.b32 %warps, %warps, 3;\n"         \
  "  mul.wide.u32 %lanebytes, %lane, 16;\n"

/* The piece of block %warp, the last one that does not begin behind it: %piece, its address in the table, %base, its
 * memory, %digests, %i, the block's number in it, %count and %flags. */
#define FIND                                                     \
  "  mov.u64 %piece, %table;\n"                                  \
  "  mov.u32 %left, %pieces;\n"                                  \
  "HALVE:\n"                                                     \
  "  setp.le.u32 %p, %left, 1;\n"                                \
  "  @%p bra FOUND;\n"                                           \
  "  shr.u32 %half, %left, 1;\n"                                 \
  "  mul.wide.u32 %t, %half, 32;\n"                              \
  "  add.u64 %t, %piece, %t;\n"                                  \
  "  ld.global.nc.u32 %a, [%t + 16];\n"                          \
  "  setp.gt.u32 %p, %a, %warp;\n"                               \
  "  sub.u32 %left, %left, %half;\n"                             \
  "  @%p mov.u32 %left, %half;\n"                                \
  "  @!%p mov.u64 %piece, %t;\n"                                 \
  "  bra HALVE;\n"                                               \
  "FOUND:\n"                                                     \
  "  ld.global.nc.v2.u64 {%base, %digests}, [%piece];\n"         \
  "  ld.global.nc.v4.u32 {%a, %count, %flags, %b}, [%piece + 16];\n" \
  "  sub.u32 %i, %warp, %a;\n"                                   \
  "  mul.wide.u32 %t, %i, 4096;\n"                               \
  "  add.u64 %base, %base, %t;\n"

const char gb_blocks_ptx[] =
    ".version 6.0\n"
    ".target sm_70\n"
    ".address_size 64\n"

    ".visible .entry gb_blocks_hash(\n"
    "  .param .u64 p_table, .param .u32 p_pieces, .param .u32 p_blocks, .param .u64 p_seed0,\n"
    "  .param .u64 p_seed1, .param .u64 p_arena, .param .u64 p_arena_bytes, .param .u64 p_flags)\n"
    ".maxntid 256, 1, 1\n"
    ".minnctapersm 2\n"
    "{\n"
    "  .reg .pred %p, %q, %zeroes, %first, %changed, %hidden, %end;\n"
    "  .reg .u32 %k<38>, %w<80>, %a, %b, %lane, %nextlane, %warp, %warps, %pieces, %blocks;\n"
    "  .reg .u32 %left, %half, %count, %flags, %i;\n"
    "  .reg .u64 %s<4>, %table, %piece, %lanebytes, %seed0, %seed1, %gamma, %state, %mixa, %mixb;\n"
    "  .reg .u64 %m, %t, %arena, %arenabytes, %result, %place, %base, %digests, %at, %low, %high;\n"
    "  .reg .u64 %zerolow, %zerohigh, %oldlow, %oldhigh;\n"
    PLACES
    "  ld.param.u64 %seed0, [p_seed0];\n"
    "  ld.param.u64 %seed1, [p_seed1];\n"
    "  ld.param.u64 %arena, [p_arena];\n"
    "  ld.param.u64 %arenabytes, [p_arena_bytes];\n"
    "  ld.param.u64 %result, [p_flags];\n"
    "  setp.eq.u32 %first, %lane, 0;\n"
    "  add.u32 %nextlane, %lane, 1;\n"
    "  and.b32 %nextlane, %nextlane, 31;\n"
    "  cvt.u64.u32 %place, %lane;\n"
    "  mul.lo.u64 %place, %place, 0x9e3779b97f4a7c15;\n"
    "  mov.u64 %mixa, 0xff51afd7ed558ccd;\n"
    "  mov.u64 %mixb, 0xc4ceb9fe1a85ec53;\n"
    "  or.b64 %gamma, %seed1, 1;\n"
    "  mov.b64 %state, %seed0;\n"
    KEYS(0, 1) KEYS(2, 3) KEYS(4, 5) KEYS(6, 7) KEYS(8, 9) KEYS(10, 11) KEYS(12, 13)
    KEYS(14, 15) KEYS(16, 17) KEYS(18, 19) KEYS(20, 21) KEYS(22, 23) KEYS(24, 25) KEYS(26, 27)
    KEYS(28, 29) KEYS(30, 31) KEYS(32, 33) KEYS(34, 35) KEYS(36, 37)
    /* A block of zeroes goes through the sums first, for what is taken away from all others. */
    EIGHT(CLEAR)
    "  setp.eq.u32 %zeroes, %lane, %lane;\n"
    "  bra SUMS;\n"
    "BLOCK:\n"
    "  setp.ge.u32 %end, %warp, %blocks;\n"
    "  @%end bra FINISH;\n"
    FIND
    "  mul.wide.u32 %t, %i, 16;\n"
    "  add.u64 %digests, %digests, %t;\n"
    "  mov.pred %hidden, 0;\n"
    "  mov.u64 %low, -1;\n"
    "  mov.u64 %high, -1;\n"
    "  and.b32 %a, %flags, 8;\n" /* GB_BLOCKS_PIECE_DISAGREE */
    "  setp.ne.u32 %changed, %a, 0;\n"
    "  @%changed bra WRITE;\n"
    "  add.u64 %at, %base, %lanebytes;\n"
    EIGHT(LOAD)
    "SUMS:\n"
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
    JOIN("%low", "%s0", "%s1", "%seed0")
    JOIN("%high", "%s2", "%s3", "%seed1")
    "  @!%zeroes bra COMPARE;\n"
    "  mov.u64 %zerolow, %low;\n"
    "  mov.u64 %zerohigh, %high;\n"
    "  mov.pred %zeroes, 0;\n"
    "  bra BLOCK;\n"

    "COMPARE:\n"
    "  sub.u64 %low, %low, %zerolow;\n"
    "  sub.u64 %high, %high, %zerohigh;\n"
    FOLD_ALL("%low")
    FOLD_ALL("%high")
    /* Lane 0 alone reads the digest that it may write, and tells the others. */
    "  mov.u64 %oldlow, %low;\n"
    "  mov.u64 %oldhigh, %high;\n"
    "  @%first ld.global.v2.u64 {%oldlow, %oldhigh}, [%digests];\n"
    "  setp.ne.u64 %changed, %oldlow, %low;\n"
    "  setp.ne.or.u64 %changed, %oldhigh, %high, %changed;\n"
    "  and.b32 %a, %flags, 4;\n" /* GB_BLOCKS_PIECE_CHANGED */
    "  setp.ne.or.u32 %changed, %a, 0, %changed;\n"
    "  vote.sync.any.pred %changed, %changed, 0xffffffff;\n"
    "  @!%changed bra WRITE;\n"

    EIGHT(LOOK_WITHIN)
    LOOK_ACROSS(0, 1) LOOK_ACROSS(1, 2) LOOK_ACROSS(2, 3) LOOK_ACROSS(3, 4)
    LOOK_ACROSS(4, 5) LOOK_ACROSS(5, 6) LOOK_ACROSS(6, 7)
    /* Lane 31's last word ends in the next block, if there is one: all ones otherwise, which are above any arena. */
    "  shfl.sync.idx.b32 %b, %w70, %nextlane, 31, 0xffffffff;\n"
    "  setp.eq.u32 %p, %lane, 31;\n"
    "  @%p mov.u32 %b, -1;\n"
    "  and.b32 %a, %flags, 2;\n" /* GB_BLOCKS_PIECE_AFTER */
    "  setp.ne.u32 %q, %a, 0;\n"
    "  add.u32 %a, %i, 1;\n"
    "  setp.lt.or.u32 %q, %a, %count, %q;\n"
    "  and.pred %p, %p, %q;\n"
    "  @%p ld.global.nc.u32 %b, [%base + 4096];\n"
    LOOK("%w73", "%b")
    /* The word that ends with lane 0's first four bytes begins in the block before. */
    "  and.b32 %a, %flags, 1;\n" /* GB_BLOCKS_PIECE_BEFORE */
    "  setp.ne.u32 %q, %a, 0;\n"
    "  setp.ne.or.u32 %q, %i, 0, %q;\n"
    "  and.pred %p, %first, %q;\n"
    "  mov.u32 %a, -1;\n"
    "  selp.u32 %b, %w00, -1, %p;\n"
    "  @%p ld.global.nc.u32 %a, [%base + -4];\n"
    LOOK("%a", "%b")
    "  vote.sync.any.pred %hidden, %hidden, 0xffffffff;\n"

    "WRITE:\n"
    "  and.pred %p, %first, %changed;\n"
    "  @%p st.global.v2.u64 [%digests], {%low, %high};\n"
    "  selp.u32 %a, 1, 0, %changed;\n"
    "  selp.u32 %b, 2, 0, %hidden;\n"
    "  or.b32 %a, %a, %b;\n"
    "  cvt.u64.u32 %t, %warp;\n"
    "  add.u64 %t, %result, %t;\n"
    "  @%first st.global.u8 [%t], %a;\n"
    "  add.u32 %warp, %warp, %warps;\n"
    "  bra BLOCK;\n"
    "FINISH:\n"
    "  ret;\n"
    "}\n"

    ".visible .entry gb_blocks_copy(\n"
    "  .param .u64 p_table, .param .u32 p_pieces, .param .u32 p_blocks, .param .u64 p_area,\n"
    "  .param .u32 p_out)\n"
    ".maxntid 256, 1, 1\n"
    "{\n"
    "  .reg .pred %p, %end, %out;\n"
    "  .reg .u32 %w<80>, %a, %b, %lane, %warp, %warps, %pieces, %blocks;\n"
    "  .reg .u32 %left, %half, %count, %flags, %i;\n"
    "  .reg .u64 %table, %piece, %lanebytes, %t, %base, %digests, %at, %to, %area;\n"
    PLACES
    "  ld.param.u64 %area, [p_area];\n"
    "  ld.param.u32 %a, [p_out];\n"
    "  setp.ne.u32 %out, %a, 0;\n"
    "BLOCK:\n"
    "  setp.ge.u32 %end, %warp, %blocks;\n"
    "  @%end bra FINISH;\n"
    FIND
    "  mul.wide.u32 %t, %warp, 4096;\n"
    "  add.u64 %t, %area, %t;\n"
    "  selp.u64 %at, %base, %t, %out;\n"
    "  selp.u64 %to, %t, %base, %out;\n"
    "  add.u64 %at, %at, %lanebytes;\n"
    "  add.u64 %to, %to, %lanebytes;\n"
    EIGHT(LOAD)
    EIGHT(STORE)
    "  add.u32 %warp, %warp, %warps;\n"
    "  bra BLOCK;\n"
    "FINISH:\n"
    "  ret;\n"
    "}\n";
