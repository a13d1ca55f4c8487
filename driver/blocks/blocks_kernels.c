/* SPDX-License-Identifier: Apache-2.0 */
/* blocks_kernels.c: see blocks_kernels.h. */
#include "blocks_kernels.h"

const char gb_blocks_ptx[] =
    ".version 6.0\n"
    ".target sm_70\n"
    ".address_size 64\n";
