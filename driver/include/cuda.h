/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cuda.h: GreenBoost's own declarations of the CUDA driver API, so that nothing of NVIDIA's is
 * needed to build.
 *
 * Programs write cuMemAlloc and get cuMemAlloc_v2, as with the toolkit's header. Define
 * GB_CUDA_NO_ALIASES before including to name concrete symbols instead (shim, simulated driver,
 * executor). A tool that needs a list of entry points includes gb_cuda/functions.def with its own
 * macros.
 */
#ifndef GB_CUDA_H
#define GB_CUDA_H

#include "gb_cuda/types.h"

#ifdef __cplusplus
extern "C" {
#endif

#define GB_CU(name, since, parameters) CUresult CUDAAPI name parameters;
#define GB_CU_PT(name, suffix, since, since_per_thread, parameters) \
  CUresult CUDAAPI name parameters;                                 \
  CUresult CUDAAPI name##suffix parameters;
#include "gb_cuda/functions.def"

#ifdef __cplusplus
}
#endif

#ifndef GB_CUDA_NO_ALIASES
#include "gb_cuda/aliases.h"
#endif

#endif
