/* SPDX-License-Identifier: Apache-2.0 */
/*
 * appspan.h: memory of the program's own handles as spans of chunks (docs/adr/0009): made without an
 * address, given one while it is mapped in an area (area.h), moved by staging meanwhile.
 *
 * pre of everything that takes a span: nobody else works with this span; gb_lock is not held. A span
 * is fixed or of ordinary chunks, mapped (span->area) or not.
 */
#ifndef GB_APPSPAN_H
#define GB_APPSPAN_H

#include "arena.h"

/* Device memory that may move: nothing special is asked of it. */
bool gb_app_ordinary(const CUmemAllocationProp *properties, size_t bytes, unsigned long long flags);
/* cuMemCreate. pre: ordinary. owns: *span, gb_app_destroy. returns: CUDA_ERROR_OUT_OF_MEMORY;
 * CUDA_ERROR_NOT_SUPPORTED when the driver has to make it (no arena, or no context of the device that
 * we know). */
CUresult gb_app_create(const CUmemAllocationProp *properties, uint64_t bytes, struct gb_span **span);
/* pre: not mapped. */
void gb_app_destroy(struct gb_span *span);
/* cuMemMap. pre: not mapped; the addresses lie in one area, and nothing is mapped there. */
CUresult gb_app_map(struct gb_span *span, uint64_t address);
/* cuMemUnmap. pre: mapped. */
CUresult gb_app_unmap(struct gb_span *span);
/* cuMemSetAccess of whole mappings in an area, those of real handles among them. */
CUresult gb_app_access(uint64_t address, uint64_t bytes, const CUmemAccessDesc *list, size_t count);
/* cuMemGetAccess. returns: false when the address is not in a mapped span. */
bool gb_app_access_of(uint64_t address, const CUmemLocation *location, unsigned long long *flags);
/* Makes one handle of it that is as the program asked and never moves. post: on CUDA_SUCCESS
 * span->chunks[0].handle is that handle, in VRAM or, when that is full, in host memory. returns:
 * CUDA_ERROR_OUT_OF_MEMORY; CUDA_ERROR_NOT_READY when the GPU did not become idle;
 * CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED. Blocks for up to GB_DRAIN_TOTAL_NS. */
CUresult gb_app_fix(struct gb_span *span);

/* ---- for the core ---- */

/* Contexts came or went: spans belong to none, but are worked with in one. pre: gb_lock. */
void gb_app_contexts_changed(void);
/* Waits until nothing is being fixed. pre: gb_live_captures is raised, so that nothing begins. */
void gb_app_settle_for_capture(void);

/* ---- between appspan.c and appspan_fix.c; pre: gb_lock ---- */

/* A context of the device to work in, the current one if it is: NULL when none is known. */
CUcontext gb_app_context(CUdevice device);
void gb_app_set_still(struct gb_span *span, bool still);
/* All that the program granted is what moved chunks are mapped with. */
bool gb_app_is_granted(const struct gb_span *span);
/* Grants what the program granted, and no more, to the devices that moved chunks are mapped for. */
CUresult gb_app_grant(const struct gb_span *span);

#endif
