/* SPDX-License-Identifier: Apache-2.0 */
/*
 * appvmm.h: what the program maps by itself (appvmm.c keeps it, hooks_appvmm.c asks): which memory is
 * behind which handle, where it is mapped, and when it ends. Memory is the driver's, with its handle,
 * or ours (appspan.h), with a virtual one.
 *
 * Whoever changes something holds gb_appvmm_lock over the driver call and the note of it, so that the
 * two orders agree. Questions need no lock.
 */
#ifndef GB_APPVMM_H
#define GB_APPVMM_H

#include "appspan.h"
#include "core.h"
#include "real.h"

void gb_appvmm_lock(void);
void gb_appvmm_unlock(void);

/* ---- memory; pre: gb_appvmm_lock, unless it says otherwise ---- */

/* Enters a new handle of the driver's, for which room was reserved, and commits it to the account.
 * No lock needed. returns: false when there is no memory for the record; then nothing was entered. */
bool gb_appvmm_add(CUmemGenericAllocationHandle handle, enum gb_side_kind kind, uint64_t bytes,
                   const CUmemAllocationProp *properties);
/* Makes a virtual handle for the span. owns: the span is the record's from here on. No lock needed.
 * returns: 0 when there is no memory for the record. */
CUmemGenericAllocationHandle gb_appvmm_add_span(struct gb_span *span,
                                                const CUmemAllocationProp *properties);
/* A value that only a virtual handle has; it may have ended. */
bool gb_appvmm_is_virtual(CUmemGenericAllocationHandle handle);
/* The span of a virtual handle that is alive, or NULL. */
struct gb_span *gb_appvmm_span(CUmemGenericAllocationHandle handle);
/* It is mapped somewhere. */
bool gb_appvmm_is_mapped(CUmemGenericAllocationHandle handle);
/* The handle was released once. returns: false when it is not known. */
bool gb_appvmm_release(CUmemGenericAllocationHandle handle);
/* One more reference to the virtual handle of the memory mapped at the address. returns: false when
 * that is the driver's, or there is none. */
bool gb_appvmm_retain_virtual(CUdeviceptr address, CUmemGenericAllocationHandle *handle);
/* The driver gave this handle for the address. */
void gb_appvmm_retain(CUdeviceptr address, CUmemGenericAllocationHandle handle);
/* The one handle of the driver's behind a virtual handle, which never moves from here on: gb_app_fix.
 * returns: also CUDA_ERROR_INVALID_VALUE when the virtual handle is not alive. */
CUresult gb_appvmm_fix(CUmemGenericAllocationHandle handle, CUmemGenericAllocationHandle *real);

/* ---- mappings; pre: gb_appvmm_lock ---- */

struct gb_mapped {
  CUdeviceptr pointer;
  uint64_t bytes;
  struct gb_span *span; /* mapped as ours; NULL: a mapping of the driver's */
};

/* One more mapping can be noted: to be asked before. */
bool gb_appvmm_has_room(void);
/* The range was mapped to the handle (pre: gb_appvmm_has_room); as_span: its span was given the address. */
void gb_appvmm_map(CUdeviceptr pointer, uint64_t bytes, CUmemGenericAllocationHandle handle,
                   bool as_span);
/* Every mapping that begins inside the range was removed. */
void gb_appvmm_unmap(CUdeviceptr pointer, uint64_t bytes);
/* The first mapping that reaches into the range. returns: false when there is none. */
bool gb_appvmm_next(CUdeviceptr pointer, uint64_t bytes, struct gb_mapped *mapped);
/* The range is mapped from end to end, by whole mappings. */
bool gb_appvmm_is_whole(CUdeviceptr pointer, uint64_t bytes);

/* ---- questions: no lock needed ---- */

/* The properties the program asked for, of virtual handles and where host memory stands in. returns:
 * false for every other handle. */
bool gb_appvmm_properties(CUmemGenericAllocationHandle handle, CUmemAllocationProp *properties);
/* True when host memory stands in behind the handle. */
bool gb_appvmm_stands_in(CUmemGenericAllocationHandle handle);

#endif
