/* SPDX-License-Identifier: Apache-2.0 */
/* appvmm.h: what the program maps by itself (appvmm.c keeps it, hooks_appvmm.c asks). Thread-safe.
 */
#ifndef GB_APPVMM_H
#define GB_APPVMM_H

#include "core.h"
#include "real.h"

/* Enters a new handle, for which room was reserved, and commits it to the account. returns: false
 * when there is no memory for the record; then nothing was entered. */
bool gb_appvmm_add(CUmemGenericAllocationHandle handle, enum gb_side_kind kind, uint64_t bytes,
                   const CUmemAllocationProp *properties);
/* The handle was released once, or retained once more. */
void gb_appvmm_release(CUmemGenericAllocationHandle handle);
void gb_appvmm_retain(CUmemGenericAllocationHandle handle);
/* The range was mapped to the handle, or every mapping inside the range removed. */
void gb_appvmm_map(CUdeviceptr pointer, uint64_t bytes, CUmemGenericAllocationHandle handle);
void gb_appvmm_unmap(CUdeviceptr pointer, uint64_t bytes);
/* The properties the program asked for, where host memory stands in. returns: false for every other
 * handle. */
bool gb_appvmm_properties(CUmemGenericAllocationHandle handle, CUmemAllocationProp *properties);
/* True when host memory stands in behind the handle. */
bool gb_appvmm_stands_in(CUmemGenericAllocationHandle handle);
/* Held over a driver call and the note of it, so that the two orders agree. */
void gb_appvmm_lock(void);
void gb_appvmm_unlock(void);

#endif
