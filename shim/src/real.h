/* SPDX-License-Identifier: Apache-2.0 */
/*
 * real.h: the real driver's entry points, typed, one member for each symbol of hooks.def. Filled
 * from libcuda.so.1 at the first CUDA call of the process and never changed afterwards; a symbol
 * that this driver does not have stays NULL, and every use checks. Only the shim's own code calls
 * through it: a call of an exported name would come back to us.
 *
 * Member names are concrete symbols (cuMemAlloc_v2), never the names programs are written with.
 */
#ifndef GB_REAL_H
#define GB_REAL_H

/* cuda.h maps cuMemAlloc to cuMemAlloc_v2 and so on; here every name means exactly itself. */
#ifndef GB_CUDA_NO_ALIASES
#define GB_CUDA_NO_ALIASES
#endif
#include <cuda.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Sections of hooks.def, for GB_SECTIONS. */
#define GB_SECTION_RESOLVE 0x001
#define GB_SECTION_CONTEXT 0x002
#define GB_SECTION_MEMORY 0x004
#define GB_SECTION_OUTSIDE 0x008
#define GB_SECTION_APPVMM 0x010
#define GB_SECTION_COPY 0x020
#define GB_SECTION_FILL 0x040
#define GB_SECTION_LAUNCH 0x080
#define GB_SECTION_NVML 0x100
#define GB_SECTION_REAL 0x200
#define GB_SECTION_GRAPH 0x400
#define GB_SECTION_POOL 0x800
#define GB_SECTION_IPC 0x1000
#define GB_SECTION_CODE 0x2000
#define GB_SECTION_DEVICE 0x4000
#define GB_SECTION_ALL 0xffff

struct gb_real_table {
#define GB_HOOK(base, symbol, since, stream, weight, parameters, arguments) \
  CUresult(*symbol) parameters;
#define GB_PAIR(base, legacy, thread, since, since_thread, weight, parameters, arguments) \
  CUresult(*legacy) parameters;                                                           \
  CUresult(*thread) parameters;
#define GB_KNOWN(base, symbol, since, stream) void *symbol;
#define GB_REAL(symbol, parameters) CUresult(*symbol) parameters;
#include "hooks.def"
};

extern struct gb_real_table gb_real;

/* Fills gb_real when it is empty. Takes no lock of ours over a loader call, so it may be called
 * under the loader's. returns: false when there is no libcuda.so.1 in this process's reach. */
bool gb_real_load(void);

#endif
