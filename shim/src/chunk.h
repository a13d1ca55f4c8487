/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chunk.h: physical handles: made, kept for reuse, put under a span and taken away. pre of every
 * function: gb_lock, and a context of the span's device is current.
 */
#ifndef GB_CHUNK_H
#define GB_CHUNK_H

#include "arena.h"

/* The largest handle; ranges of 32 to 64 MiB move at the link's full speed. */
#define GB_CHUNK_BYTES_MAX (96ull << 20)
/* Handles kept for reuse: making host memory costs 189 ms for each GiB. Beyond these they are
 * released. */
#define GB_POOL_HANDLES_MAX 4096
#define GB_POOL_T1_BYTES_MAX (128ull << 20)
#define GB_POOL_T2_BYTES_MAX (1ull << 30)

/* Fills span->chunks so that they cover span->bytes: T1 as far as its room goes, then T2. Nothing
 * is mapped yet. returns: CUDA_ERROR_OUT_OF_MEMORY when the tiers may not hold it; nothing was
 * taken then. */
CUresult gb_chunks_cover(struct gb_span *span);
/* Maps the chunks at the span's address and grants the devices access, once. returns: the driver's
 * error; nothing is mapped then. */
CUresult gb_chunks_map(struct gb_span *span);
/* The same without access. */
CUresult gb_chunks_place(struct gb_span *span);
/* pre: mapped; nothing that runs may touch the span. */
CUresult gb_chunks_unmap(struct gb_span *span);
/* A handle of the tier, not counted and not mapped. T2 room must have been acquired. */
CUresult gb_handle_create(enum gb_tier tier, CUdevice device, uint64_t bytes,
                          CUmemGenericAllocationHandle *handle);
/* The same, exportable as the types (CUmemAllocationHandleType) say. */
CUresult gb_handle_create_as(enum gb_tier tier, CUdevice device, uint32_t types, uint64_t bytes,
                             CUmemGenericAllocationHandle *handle);
/* The same in VRAM, for other processes too (cuMemExportToShareableHandle). */
CUresult gb_handle_create_shared(CUdevice device, uint64_t bytes,
                                 CUmemGenericAllocationHandle *handle);
/* Puts one handle, which holds the same bytes and is counted as used, in the place of all the
 * span's, which are given back. pre: mapped, the gate closed and everything idle. returns: the
 * driver's error; the span is as before then. */
CUresult gb_chunks_replace(struct gb_span *span, const struct gb_chunk *whole);
/* The devices that may reach memory of this one, itself first. returns: how many. */
size_t gb_access_list(CUdevice owner, CUmemAccessDesc list[GB_DEVICES_MAX]);
/* The chunk that holds the offset. pre: offset < span->bytes, the span has chunks. */
uint32_t gb_chunk_at(const struct gb_span *span, uint64_t offset);
/* Gives the (unmapped) handles to the pool, or to the driver when it is full; to the driver always
 * when they were exported. */
void gb_chunks_give(struct gb_span *span);
/* Gives pooled host memory back when the agent has lowered the limit below what is held. */
void gb_pool_relieve(void);
/* Drops what is pooled beyond the limits; for when nothing is unmapped any more. */
void gb_pool_trim(void);
/* Releases every pooled handle of the tier. returns: bytes. */
uint64_t gb_pool_drop(enum gb_tier tier);

#endif
