/* SPDX-License-Identifier: Apache-2.0 */
/*
 * header_test.c: our prototypes and layouts against the toolkit's header, by compiling only: each
 * prototype of functions.def is declared again after it, and each line of layout.def is asserted on
 * its types. The values of all enumerators are compared by the program that values.sh writes.
 */
#define __CUDA_API_VERSION_INTERNAL
#include <cuda.h>
#include <stddef.h>

/* An inline function of the toolkit's header, an exported symbol of the driver. */
#define cuGetProcAddress_v2_ptsz gb_checked_apart
#define GB_CU(name, since, parameters) CUresult CUDAAPI name parameters;
#define GB_CU_PT(name, suffix, since, since_per_thread, parameters) \
  CUresult CUDAAPI name parameters;                                 \
  CUresult CUDAAPI name##suffix parameters;
#include "gb_cuda/functions.def"
#include "gb_cuda/layout.def"

#ifndef CUDA_VERSION
#error "the toolkit's cuda.h was not found"
#endif
_Static_assert(CUDA_VERSION >= 13000, "functions.def follows CUDA 13.0");
