/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scan_kernel.h: the content scan as PTX, for any GPU from sm_50 on (the driver compiles it). One
 * 4-byte result is set to 1 when an 8-byte word at any fourth byte of [address, address + 4 *
 * words) lies in [base, base + size) and its lower half is not below `clear`. Its C twin for the simulated driver is
 * driver/sim/twins/scan_kernel.c; both take the same parameters in the same order.
 */
#ifndef GB_SCAN_KERNEL_H
#define GB_SCAN_KERNEL_H

#define GB_SCAN_KERNEL_NAME "gb_scan_kernel"
#define GB_SCAN_BLOCK 256

static const char gb_scan_ptx[] =
    ".version 6.0\n"
    ".target sm_50\n"
    ".address_size 64\n"
    ".visible .entry gb_scan_kernel(\n"
    "  .param .u64 p_address, .param .u64 p_words, .param .u64 p_base, .param .u64 p_size, .param "
    ".u32 p_clear, .param .u64 p_result)\n"
    "{\n"
    "  .reg .pred %done, %hit;\n"
    "  .reg .u32 %thread, %threads, %block, %blocks, %lo, %hi, %one, %clear;\n"
    "  .reg .u64 %addr, %words, %base, %size, %result, %i, %step, %t, %w;\n"
    "  ld.param.u64 %addr, [p_address];\n"
    "  ld.param.u64 %words, [p_words];\n"
    "  ld.param.u64 %base, [p_base];\n"
    "  ld.param.u64 %size, [p_size];\n"
    "  ld.param.u32 %clear, [p_clear];\n"
    "  ld.param.u64 %result, [p_result];\n"
    "  mov.u32 %thread, %tid.x;\n"
    "  mov.u32 %threads, %ntid.x;\n"
    "  mov.u32 %block, %ctaid.x;\n"
    "  mov.u32 %blocks, %nctaid.x;\n"
    "  mul.wide.u32 %i, %block, %threads;\n"
    "  cvt.u64.u32 %t, %thread;\n"
    "  add.u64 %i, %i, %t;\n"
    "  mul.wide.u32 %step, %blocks, %threads;\n"
    "  mov.u32 %one, 1;\n"
    "  setp.lt.u64 %hit, %words, 2;\n"
    "  @%hit bra FINISH;\n"
    "  sub.u64 %words, %words, 1;\n"
    "NEXT:\n"
    "  setp.ge.u64 %done, %i, %words;\n"
    "  @%done bra FINISH;\n"
    "  shl.b64 %t, %i, 2;\n"
    "  add.u64 %t, %addr, %t;\n"
    "  ld.global.u32 %lo, [%t];\n"
    "  ld.global.u32 %hi, [%t+4];\n"
    "  mov.b64 %w, {%lo, %hi};\n"
    "  sub.u64 %w, %w, %base;\n"
    "  setp.lt.u64 %hit, %w, %size;\n"
    "  setp.ge.and.u32 %hit, %lo, %clear, %hit;\n"
    "  @%hit st.global.u32 [%result], %one;\n"
    "  add.u64 %i, %i, %step;\n"
    "  bra NEXT;\n"
    "FINISH:\n"
    "  ret;\n"
    "}\n";

#endif
