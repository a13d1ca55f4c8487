/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run_kernels.h: kernels that executors are sent, as PTX. Their C twins are in driver/sim/twins: workset.c and run.c.
 */
#ifndef EXECUTOR_RUN_KERNELS_H
#define EXECUTOR_RUN_KERNELS_H

#include "../programs/kernels.h"

/* word = word + gb_bias */
#define PTX_BIASED \
  ".visible .global .align 8 .u64 gb_bias;\n" \
  ".visible .entry gb_biased(.param .u64 p, .param .u64 n)\n{\n" \
  PTX_REGISTERS \
  " ld.param.u64 %rd1, [p];\n" " ld.param.u64 %rd2, [n];\n" " ld.global.u64 %rd3, [gb_bias];\n" \
  PTX_LOOP \
  " ld.global.u64 %rd7, [%rd9];\n" " add.u64 %rd7, %rd7, %rd3;\n" " st.global.u64 [%rd9], %rd7;\n" \
  PTX_NEXT \
  PTX_END

/* Waits for so many nanoseconds, then writes 1. */
#define PTX_HELD \
  ".visible .entry gb_held(.param .u64 p, .param .u64 ns)\n{\n" \
  PTX_REGISTERS \
  " ld.param.u64 %rd1, [p];\n" " ld.param.u64 %rd2, [ns];\n" " cvta.to.global.u64 %rd1, %rd1;\n" \
  " mov.u64 %rd3, %globaltimer;\n" "WAIT:\n" " mov.u64 %rd4, %globaltimer;\n" " sub.u64 %rd5, %rd4, %rd3;\n" \
  " setp.lt.u64 %p1, %rd5, %rd2;\n" " @%p1 bra WAIT;\n" " mov.u64 %rd6, 1;\n" " st.global.u64 [%rd1], %rd6;\n" \
  PTX_END

#define RUN_IMAGE_TEXT PTX_HEAD PTX_FILL PTX_UPDATE PTX_BIASED PTX_HELD

#endif
