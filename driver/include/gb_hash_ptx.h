/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gb_hash_ptx.h: the hash of device memory as PTX text, for the kernels that take it (driver/blocks/blocks_kernels.c,
 * shim/src/frame_kernels.c); driver/sim/twins/hash.h is the same in C.
 *
 * A lane takes eight times 16 bytes, %w<n><i>: word i of load n, as four sums of 32-bit NH (UMAC, RFC 4418, section
 * 5.2: products of keyed pairs of 32-bit words, each sum with the keys one pair further on), which are mixed with the
 * lane's place to 128 bits. The text is straight-line: the keys stay in registers, and the eight loads are under way
 * at a time. A kernel declares .u32 %k<38>, %w<80>, %a, %b and .u64 %s<4>, %seed0, %seed1, %gamma, %state, %mixa,
 * %mixb, %m, %t, %place; %a, %b, %m and %t are scratch.
 */
#ifndef GB_HASH_PTX_H
#define GB_HASH_PTX_H

/* x = mix(x), a 64-bit mixer: shift and multiply, three and two times. */
#define GB_HASH_MIX(x)                    \
  "  shr.u64 %m, " x ", 33;\n"            \
  "  xor.b64 " x ", " x ", %m;\n"         \
  "  mul.lo.u64 " x ", " x ", %mixa;\n"   \
  "  shr.u64 %m, " x ", 29;\n"            \
  "  xor.b64 " x ", " x ", %m;\n"         \
  "  mul.lo.u64 " x ", " x ", %mixb;\n"   \
  "  shr.u64 %m, " x ", 32;\n"            \
  "  xor.b64 " x ", " x ", %m;\n"

/* Two 32-bit keys from the next state. */
#define GB_HASH_KEYS(a, b)                \
  "  add.u64 %state, %state, %gamma;\n"   \
  "  mov.b64 %t, %state;\n"               \
  GB_HASH_MIX("%t")                       \
  "  mov.b64 {%k" #a ", %k" #b "}, %t;\n"

/* The factors of the mixer. */
#define GB_HASH_FACTORS                   \
  "  mov.u64 %mixa, 0xff51afd7ed558ccd;\n" \
  "  mov.u64 %mixb, 0xc4ceb9fe1a85ec53;\n"

/* Every key, drawn from the two seeds by SplitMix64. */
#define GB_HASH_ALL_KEYS                                                                                \
  "  or.b64 %gamma, %seed1, 1;\n"                                                                       \
  "  mov.b64 %state, %seed0;\n"                                                                         \
  GB_HASH_KEYS(0, 1) GB_HASH_KEYS(2, 3) GB_HASH_KEYS(4, 5) GB_HASH_KEYS(6, 7) GB_HASH_KEYS(8, 9)        \
  GB_HASH_KEYS(10, 11) GB_HASH_KEYS(12, 13) GB_HASH_KEYS(14, 15) GB_HASH_KEYS(16, 17)                   \
  GB_HASH_KEYS(18, 19) GB_HASH_KEYS(20, 21) GB_HASH_KEYS(22, 23) GB_HASH_KEYS(24, 25)                   \
  GB_HASH_KEYS(26, 27) GB_HASH_KEYS(28, 29) GB_HASH_KEYS(30, 31) GB_HASH_KEYS(32, 33)                   \
  GB_HASH_KEYS(34, 35) GB_HASH_KEYS(36, 37)

/* The four words of load n. */
#define GB_HASH_WORDS(n) "{%w" #n "0, %w" #n "1, %w" #n "2, %w" #n "3}"

/* Load n of eight, `stride` bytes apart, a number as text. */
#define GB_HASH_LOAD(n, stride) "  ld.global.nc.v4.u32 " GB_HASH_WORDS(n) ", [%at + " #n " * " stride "];\n"

/* One product of one sum: two words and the two keys of its pair. */
#define GB_HASH_TERM(sum, a, b, k0, k1)   \
  "  add.u32 %a, %w" a ", %k" #k0 ";\n"   \
  "  add.u32 %b, %w" b ", %k" #k1 ";\n"   \
  "  mad.wide.u32 %s" #sum ", %a, %b, %s" #sum ";\n"

/* The same pair in all four sums, each with the keys one pair further on. */
#define GB_HASH_PAIR(a, b, k0, k1, k2, k3, k4, k5, k6, k7)              \
  GB_HASH_TERM(0, a, b, k0, k1) GB_HASH_TERM(1, a, b, k2, k3)           \
  GB_HASH_TERM(2, a, b, k4, k5) GB_HASH_TERM(3, a, b, k6, k7)

#define GB_HASH_QUAD(n, k0, k1, k2, k3, k4, k5, k6, k7, k8, k9) \
  GB_HASH_PAIR(#n "0", #n "1", k0, k1, k2, k3, k4, k5, k6, k7)  \
  GB_HASH_PAIR(#n "2", #n "3", k2, k3, k4, k5, k6, k7, k8, k9)

/* The four sums of the words that are there. */
#define GB_HASH_SUMS                                              \
  "  mov.u64 %s0, 0;\n"                                           \
  "  mov.u64 %s1, 0;\n"                                           \
  "  mov.u64 %s2, 0;\n"                                           \
  "  mov.u64 %s3, 0;\n"                                           \
  GB_HASH_QUAD(0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9)                   \
  GB_HASH_QUAD(1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13)               \
  GB_HASH_QUAD(2, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17)           \
  GB_HASH_QUAD(3, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21)         \
  GB_HASH_QUAD(4, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25)         \
  GB_HASH_QUAD(5, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29)         \
  GB_HASH_QUAD(6, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33)         \
  GB_HASH_QUAD(7, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37)

/* Two sums with the place of the lane to 64 bits; `into` may be `sum`. */
#define GB_HASH_JOIN(into, sum, other, seed)    \
  "  add.u64 " other ", " other ", " seed ";\n" \
  GB_HASH_MIX(other)                            \
  "  add.u64 " into ", " sum ", %place;\n"      \
  "  xor.b64 " into ", " into ", " other ";\n"  \
  GB_HASH_MIX(into)

/* Adds the other lanes' x, half the warp at a time: every lane has the whole sum. */
#define GB_HASH_FOLD(x, lanes)                                     \
  "  mov.b64 {%a, %b}, " x ";\n"                                   \
  "  shfl.sync.bfly.b32 %a, %a, " #lanes ", 31, 0xffffffff;\n"     \
  "  shfl.sync.bfly.b32 %b, %b, " #lanes ", 31, 0xffffffff;\n"     \
  "  mov.b64 %t, {%a, %b};\n"                                      \
  "  add.u64 " x ", " x ", %t;\n"
#define GB_HASH_FOLD_ALL(x) \
  GB_HASH_FOLD(x, 16) GB_HASH_FOLD(x, 8) GB_HASH_FOLD(x, 4) GB_HASH_FOLD(x, 2) GB_HASH_FOLD(x, 1)

#endif
