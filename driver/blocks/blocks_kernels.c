/* SPDX-License-Identifier: Apache-2.0 */
/*
 * blocks_kernels.c: the kernels of blocks_kernels.h in PTX; the driver compiles them for its GPU. The text of
 * the hash is gb_hash_ptx.h's.
 */
#include <gb_hash_ptx.h>

#include "blocks_kernels.h"

/* %w<n><i>: word i of load n, 512 * n + 16 * lane + 4 * i bytes into the block. */
#define LOAD(n) GB_HASH_LOAD(n, "512")
#define STORE(n) "  st.global.v4.u32 [%to + " #n " * 512], " GB_HASH_WORDS(n) ";\n"
#define CLEAR(n)                                          \
  "  mov.u32 %w" #n "0, 0;\n  mov.u32 %w" #n "1, 0;\n"    \
  "  mov.u32 %w" #n "2, 0;\n  mov.u32 %w" #n "3, 0;\n"
#define EIGHT(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)

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
    GB_HASH_FACTORS
    GB_HASH_ALL_KEYS
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
    GB_HASH_SUMS
    GB_HASH_JOIN("%low", "%s0", "%s1", "%seed0")
    GB_HASH_JOIN("%high", "%s2", "%s3", "%seed1")
    "  @!%zeroes bra COMPARE;\n"
    "  mov.u64 %zerolow, %low;\n"
    "  mov.u64 %zerohigh, %high;\n"
    "  mov.pred %zeroes, 0;\n"
    "  bra BLOCK;\n"

    "COMPARE:\n"
    "  sub.u64 %low, %low, %zerolow;\n"
    "  sub.u64 %high, %high, %zerohigh;\n"
    GB_HASH_FOLD_ALL("%low")
    GB_HASH_FOLD_ALL("%high")
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
